"""Ordered and shaped slices: optimality conditions, brute force, and the compiled and the torch form against each other."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from proxfactor.prox import NonNegative, order
from proxfactor.prox.order import Concave, Convex, Isotonic, Unimodal, isotonic

F64 = torch.float64
FORMS = {"torch": 10**9, "compiled": 1}


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def form(request, monkeypatch):
    monkeypatch.setattr(order, "_MANY", request.param)


def drawn(seed, *shape, dtype=F64):
    return torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def conditioned(seed, *shape, ratio=8):
    return 10 ** (ratio * torch.rand(shape, dtype=F64, generator=torch.Generator().manual_seed(seed)) - ratio / 2)


def kinds(n):
    """Slices of several characters, a row each."""
    t = torch.linspace(-1, 1, n, dtype=F64)
    noise = drawn(n, 6, n)
    dropped = torch.arange(n, dtype=F64)
    dropped[-1] = -1e3 * n  # pools with one after the other
    rows = [noise[0], noise[1].cumsum(0), dropped, -dropped, t**2, -(t**2), t**2 + 0.1 * noise[2], noise[3].round(), 1e4 + noise[4]]
    return torch.stack([*rows, torch.sin(9 * t), torch.zeros(n, dtype=F64), torch.ones(n, dtype=F64), t, 1e-6 * noise[5] - t**2])


def by_scipy(y, w):
    return np.stack([isotonic_regression(r, weights=v).x for r, v in zip(y.numpy(), w.numpy(), strict=True)])


# ── rising and falling ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 500])
@pytest.mark.parametrize("ratio", [0, 8])
def test_the_rising_fit_is_that_of_scipy(form, n, ratio):
    y = kinds(n)
    w = conditioned(n, *y.shape, ratio=ratio)
    fit = isotonic(y, w)
    assert (fit.diff() >= 0).all()
    assert np.abs(fit.numpy() - by_scipy(y, w)).max() <= 1e-13 * y.abs().max()
    assert torch.equal(isotonic(y), isotonic(y, torch.ones(1, dtype=F64)))
    assert torch.allclose(Isotonic(1, decreasing=True)(y, 1 / w), isotonic(y.flip(1), w.flip(1)).flip(1), rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", ["number", "cells"])
def test_a_rising_fit_of_a_thousand_satisfies_its_optimality_conditions(form, dtype, step):
    x = kinds(1000).to(dtype)
    s = conditioned(1, *x.shape, ratio=4) if step == "cells" else torch.ones(1, dtype=F64)
    y = Isotonic(1)(x, s.to(dtype) if step == "cells" else 0.3)
    assert (y.diff() >= 0).all()
    w = 1 / s.to(dtype).double().expand(x.shape)
    price = (w * (x - y).double()).cumsum(1)  # the multiplier of x[i] ≤ x[i + 1]
    size = 10 * torch.finfo(dtype).eps * (w * (x.double().abs() + 1)).sum(1, keepdim=True)
    assert (price >= -4 * size).all()
    assert (price[:, -1:].abs() <= 4 * size).all()
    assert ((price[:, :-1] * y.diff().double()).abs() <= 8 * size * x.abs().amax(1, keepdim=True)).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 4)), min_size=1, max_size=9))
def test_the_rising_fit_is_the_maximum_over_starts_of_the_minimum_over_ends_of_means(pairs):
    y, w = torch.tensor(pairs, dtype=F64).unbind(1)

    def mean(a, b):
        return (w[a:b] * y[a:b]).sum() / w[a:b].sum()

    n = len(y)
    best = [max(min(mean(a, b) for b in range(i + 1, n + 1)) for a in range(i + 1)) for i in range(n)]
    assert torch.allclose(isotonic(y, w), torch.stack(best), atol=1e-14)


def test_the_two_forms_agree(monkeypatch):
    for n in (2, 7, 64, 300):
        y, s = kinds(n), conditioned(n, len(kinds(n)), n, ratio=6)
        for op in (Isotonic(1), Isotonic(1, decreasing=True), Unimodal(1), Unimodal(1, nonneg=True), Unimodal(1, peak=n // 2)):
            for step in (1.0, s):
                fits = []
                for many in FORMS.values():
                    monkeypatch.setattr(order, "_MANY", many)
                    fits.append(op(y, step))
                errors = [((f - y) ** 2 / (s if isinstance(step, torch.Tensor) else 1)).sum(1) for f in fits]
                assert torch.allclose(*errors, rtol=1e-12, atol=1e-18 * y.abs().max().item() ** 2)
                if op.convex:
                    assert (fits[0] - fits[1]).abs().max() <= 1e-12 * y.abs().max()


def test_threads_strides_and_dims_do_not_change_the_result(form):
    threads = torch.get_num_threads()
    x = drawn(0, 40, 30, 20, dtype=torch.float32)
    try:
        for op in (Isotonic, Unimodal):
            want = op(2)(x.movedim(1, 2).contiguous()).movedim(2, 1)
            for count in (1, 3):
                torch.set_num_threads(count)
                assert torch.equal(op(1)(x), want)
                assert torch.equal(op(-2)(x), want)
                assert torch.equal(op(0)(x.mT.contiguous()[:, 0].T), op(0)(x.mT.contiguous()[:, 0].T.contiguous()))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "op", [Isotonic(0), Isotonic(0, True), Unimodal(0), Unimodal(0, nonneg=True), Unimodal(0, peak=1)], ids=repr
)
def test_gradients_are_right_in_both_forms_also_with_respect_to_the_step(form, op):
    x, s = drawn(3, 6, 3).requires_grad_(), (0.5 + drawn(4, 6, 3).abs()).requires_grad_()
    assert torch.autograd.gradcheck(op, (x, s))
    assert torch.autograd.gradcheck(op, (x,))
    assert torch.autograd.gradgradcheck(op, (x,))
    plain = drawn(3, 6, 3).requires_grad_()
    assert torch.allclose(op(plain), op(plain.detach()), atol=1e-15)


def test_the_weights_of_the_rising_fit_may_have_gradients_alone(form):
    w = (0.5 + drawn(4, 3, 6).abs()).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: isotonic(drawn(3, 3, 6), w), (w,))


# ── one peak ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def best_by_all_splits(x, w, nonneg):
    n, errors = len(x), []
    for p in range(n + 1):
        up = isotonic_regression(x[:p], weights=w[:p]).x if p else x[:0]
        down = isotonic_regression(x[p:], weights=w[p:], increasing=False).x if p < n else x[:0]
        fit = np.concatenate([up, down])
        errors.append((w * ((fit.clip(0) if nonneg else fit) - x) ** 2).sum())
    return min(errors)


def is_unimodal(y):
    return any((y.diff()[:k] >= 0).all() and (y.diff()[k:] <= 0).all() for k in range(len(y)))


@pytest.mark.parametrize("nonneg", [False, True])
@pytest.mark.parametrize("ratio", [0, 6])
def test_the_best_peak_is_that_of_all_splits(form, nonneg, ratio):
    for n in (1, 2, 3, 5, 12, 40):
        x = torch.cat([kinds(n), drawn(n, 10, n), drawn(n, 10, n).abs()])
        s = conditioned(n, *x.shape, ratio=ratio)
        y = Unimodal(1, nonneg)(x, s)
        assert all(is_unimodal(r) for r in y)
        assert not nonneg or (y >= 0).all()
        errors = ((y - x) ** 2 / s).sum(1)
        for i in range(len(x)):
            best = best_by_all_splits(x[i].numpy(), (1 / s[i]).numpy(), nonneg)
            assert errors[i] <= best * (1 + 1e-9) + 1e-18 * (x[i].abs().max() ** 2 / s[i].min())


def test_the_peak_is_chosen_after_clipping(form):
    x = torch.tensor([0.09, -0.63, -1.23, 0.22, -1.07, 0.08, -0.19, 0.11], dtype=F64)
    first, after = Unimodal(0, nonneg=True)(x), Unimodal(0)(x).clamp(min=0)
    assert (first - x).square().sum() < (after - x).square().sum() - 0.03


@pytest.mark.parametrize("nonneg", [False, True])
def test_the_best_peak_is_the_best_of_all_given_peaks(form, nonneg):
    x, s = kinds(25), conditioned(5, len(kinds(25)), 25, ratio=3)
    at = torch.stack([((Unimodal(1, nonneg, peak=k)(x, s) - x) ** 2 / s).sum(1) for k in range(-25, 25)])
    best = ((Unimodal(1, nonneg)(x, s) - x) ** 2 / s).sum(1)
    assert torch.allclose(at[:25], at[25:])
    assert torch.allclose(at.amin(0), best, rtol=1e-10, atol=1e-12)


def test_a_given_peak_of_a_thousand_satisfies_its_optimality_conditions(form):
    x, s = kinds(1000), conditioned(6, len(kinds(1000)), 1000, ratio=4)
    for k in (0, 321, 999):
        y = Unimodal(1, peak=k)(x, s)
        assert (y[:, : k + 1].diff() >= 0).all()
        assert (y[:, k:].diff() <= 0).all()
        r = (x - y) / s
        up, down = r[:, :k].cumsum(1), r[:, k + 1 :].flip(1).cumsum(1)  # the multipliers, from the ends to the peak
        size = 1e-15 * ((x.abs() + 1) / s).sum(1, keepdim=True)
        for price, gaps in ((up, y[:, : k + 1].diff()), (down, -y[:, k:].diff().flip(1))):
            assert (price >= -8 * size).all()
            assert ((price * gaps).abs() <= 16 * size * x.abs().amax(1, keepdim=True)).all()
        assert (r.sum(1, keepdim=True).abs() <= 8 * size).all()


def test_a_peak_lies_in_the_slice():
    for peak in (3, -4):
        with pytest.raises(ValueError, match=f"no entry {peak} along dim 0 of length 3"):
            Unimodal(0, peak=peak)(torch.ones(3, 2))
        with pytest.raises(ValueError, match=f"no entry {peak}"):
            Unimodal(0, peak=peak).check((3, 2))
    Unimodal(0, peak=-3).check((3, 2))
    assert Unimodal(0, peak=2).convex
    assert not Unimodal(0).convex


@pytest.mark.parametrize("peak", [1.0, "a", True], ids=str)
def test_a_peak_is_an_index(peak):
    with pytest.raises(TypeError, match="index of an entry"):
        Unimodal(0, peak=peak)


@pytest.mark.parametrize("make", [lambda v: Isotonic(0, v), lambda v: Unimodal(0, v)])
@pytest.mark.parametrize("flag", [1, None, "yes"], ids=str)
def test_a_flag_is_true_or_false(make, flag):
    with pytest.raises(TypeError, match="True or False"):
        make(flag)


# ── convex and concave ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [3, 4, 10, 57, 200, 1000])
@pytest.mark.parametrize("ratio", [0, 3, 8])
def test_a_convex_fit_satisfies_its_optimality_conditions(n, ratio):
    x = kinds(n)
    s = conditioned(n, *x.shape, ratio=ratio)
    y = Convex(1)(x, s if ratio else 0.7)
    w = s.amin(1, keepdim=True) / s if ratio else torch.ones_like(x)
    line = x - x.mean(1, keepdim=True)
    size = line.abs().amax(1, keepdim=True).clamp(min=1e-15 * x.abs().max())
    rounding = 1e-15 * x.abs().amax(1, keepdim=True) / size
    bend = y.diff(n=2) / size
    price = (w * (y - x) / size).cumsum(1).cumsum(1)
    tolerance = 1e-13 * n * n / 30 + n * n * rounding
    assert (bend >= -1e-14 - 4 * rounding).all()
    assert (price[:, :-2] >= -tolerance).all()
    assert (price[:, -2:].abs() <= tolerance).all()
    product = (price[:, :-2] * bend).abs().amax(1, keepdim=True)
    most, sharp = price.abs().amax(1, keepdim=True), bend.abs().amax(1, keepdim=True)
    assert (product <= (1e-15 + 4 * rounding) * (most + tolerance) + tolerance * sharp).all()
    assert torch.equal(Concave(1)(-x, 0.7), 0 - Convex(1)(x, 0.7))


def test_what_is_convex_stays_and_what_is_concave_becomes_a_line():
    t = torch.linspace(-1, 1, 300, dtype=F64)
    for y in (t**2, t.exp(), t.abs(), 3 * t - 1, -t.sqrt().nan_to_num(0) + 50 * t**2):
        assert (y.diff(n=2) < -1e-15).any() or torch.allclose(Convex(0)(y), y, atol=1e-13)
    line = Convex(0)(-(t**2) + 5 * t)
    assert line.diff(n=2).abs().max() < 1e-14
    assert torch.allclose(line, 5 * t - (t**2).mean(), atol=1e-13)


def test_gradients_through_a_convex_fit_are_right():
    x, s = drawn(8, 7, 2).requires_grad_(), (0.5 + drawn(4, 7, 2).abs()).requires_grad_()
    assert torch.autograd.gradcheck(Convex(0), (x, s))
    assert torch.autograd.gradcheck(Concave(0), (x,))
    y = torch.zeros(5, 2, dtype=F64, requires_grad=True)
    Convex(0)(y).sum().backward()
    assert y.grad.isfinite().all()


# ── what they share ───────────────────────────────────────────────────────────────────────────────────────────────────

ALL = [Isotonic(1), Isotonic(1, True), Unimodal(1), Unimodal(1, True), Unimodal(1, peak=2), Convex(1), Concave(1)]


@pytest.mark.parametrize("op", ALL, ids=repr)
def test_a_slice_that_is_not_finite_gives_nan_and_leaves_the_others_alone(form, op):
    x = drawn(11, 5, 9)
    whole = op(x)
    x[1, 4], x[3, 0], x[4, 8] = math.nan, math.inf, -math.inf
    y = op(x)
    assert y[[1, 3, 4]].isnan().all()
    assert torch.equal(y[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("op", [p for p in ALL if p.convex], ids=repr)
def test_what_a_projection_on_a_cone_takes_away_is_orthogonal_to_what_it_leaves(form, op):
    for size in (1e-200, 1.0, 1e300):
        x = kinds(64)[:8] * size
        y = op(x)
        assert y.isfinite().all()
        inner = (y / size * (x / size - y / size)).sum(1)
        assert (inner.abs() <= 1e-12 * (x / size).square().sum(1)).all()


@pytest.mark.parametrize("op", [Isotonic(1), Unimodal(1, peak=5), Unimodal(1)], ids=repr)
def test_clipping_after_the_order_is_exact_for_one_bound(form, op):
    x, s = drawn(12, 20, 9), conditioned(13, 20, 9, ratio=3)
    y = NonNegative()(op(x, s))
    assert torch.equal(y, op(y))
    if op.convex:  # the point nearest x: no feasible direction improves
        w = (x - y) / s
        for seed in range(50):
            z = NonNegative()(op(y + drawn(seed, 20, 9)))
            assert ((w * (z - y)).sum(1) <= 1e-9 * (1 + w.abs().sum(1))).all()


@pytest.mark.parametrize("op", ALL, ids=repr)
def test_a_large_offset_in_float32_costs_its_rounding_only(form, op):
    x = 1e4 + 2 + drawn(14, 6, 300, dtype=torch.float32)
    assert (op(x).double() - op(x.double())).abs().max() <= 1e4 * torch.finfo(torch.float32).eps


@pytest.mark.exhaustive
@pytest.mark.parametrize("n", [2, 3, 10, 100, 2000])
@pytest.mark.parametrize("ratio", [0, 4, 8])
def test_convex_fits_on_a_long_grid(n, ratio):
    for seed in range(30):
        x = torch.cat([drawn(seed, 8, n), drawn(seed, 8, n).cumsum(1), drawn(seed, 8, n).cumsum(1).cumsum(1)])
        s = conditioned(seed, *x.shape, ratio=ratio)
        y = Convex(1)(x, s)
        size = x.abs().amax(1, keepdim=True)
        w = s.amin(1, keepdim=True) / s
        assert (y.diff(n=2) >= -1e-14 * size).all()
        assert (((w * (y - x)).cumsum(1).cumsum(1))[:, :-2] >= -1e-12 * n * n * size).all()
        assert ((w * y / size * (x - y) / size).sum(1).abs() <= 1e-11).all()
