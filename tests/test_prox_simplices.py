"""Simplices and linear constraints: their optimality conditions at n = 1000, brute force, and the kernel against its twin."""

import itertools
import math
import threading
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxfactor.prox import TopK, simplices
from proxfactor.prox._simplices_numba import project, project_weighted
from proxfactor.prox.base import relative
from proxfactor.prox.simplices import (
    Affine,
    CappedSimplex,
    HalfSpace,
    Hyperplane,
    Simplex,
    Slab,
    SolidSimplex,
    SparseSimplex,
    SumToOne,
    project_simplex,
)

INF, N = math.inf, 1000


def drawn(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def twin(x, total=1.0, s=None):
    """The torch form, however large x is."""
    large, simplices._LARGE = simplices._LARGE, INF
    try:
        return project_simplex(x, x.new_ones((1,) * x.ndim) if s is None else s, total)
    finally:
        simplices._LARGE = large


def steps(seed, decades):
    return 10 ** (decades * (torch.rand(7, N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5))


# ── optimality conditions at n = 1000: (x - y) / step is normal to the set at y ──────────────────────────────────────────

KINDS = [(torch.float64, 0, 1e-10), (torch.float64, 8, 1e-9), (torch.float32, 0, 1e-4), (torch.float32, 2, 1e-3)]


@pytest.mark.parametrize(("dtype", "decades", "tol"), KINDS)
@pytest.mark.parametrize("offset", [0.0, 30.0])
@pytest.mark.parametrize(
    ("op", "cap", "total"),
    [
        (Simplex(1), INF, 1.0),
        (Simplex(1, total=50), INF, 50.0),
        (CappedSimplex(1, total=1, cap=0.2), 0.2, 1.0),
        (CappedSimplex(1, total=400), 1.0, 400.0),
        (CappedSimplex(1, total=999.5), 1.0, 999.5),
        (CappedSimplex(1, total=50, cap=INF), INF, 50.0),
        (SolidSimplex(1, total=50), INF, 50.0),
    ],
    ids=repr,
)
def test_shares_meet_their_optimality_conditions(op, cap, total, offset, dtype, decades, tol):
    x, step = (drawn(1, 7, N) + offset).to(dtype), steps(2, decades).to(dtype)
    y = op(x, step).double()
    level = ((x.double() - y) / step.double()).clamp(-1e300, 1e300)
    size = tol * (1 + level.abs().amax())
    assert (y.sum(1) - total).abs().max() < total * (1e-12 if dtype == torch.float64 else 1e-5)
    assert bool((y >= 0).all())
    assert bool((y <= cap * (1 + 1e-6)).all())
    low = torch.where(y < cap, level, -INF).amax(1)  # θ is at least this where y may still grow
    high = torch.where(y > 0, level, INF).amin(1)  # and at most this where y may shrink
    assert bool((low <= high + size).all())


def linear_cases():
    a = drawn(5, N)
    A = drawn(6, 4, N)
    return [
        (Hyperplane(1, a, 0.7), a[None], (0.7, 0.7)),
        (HalfSpace(1, a, -200.0), a[None], (-INF, -200.0)),
        (Slab(1, 10.0, 20.0, -a), -a[None], (10.0, 20.0)),
        (SumToOne(1), torch.ones(1, N).double(), (1.0, 1.0)),
        (Affine(1, A, [1.0, 2.0, 3.0, 4.0]), A, tuple(torch.arange(1.0, 5.0).double() for _ in range(2))),
    ]


@pytest.mark.parametrize(("dtype", "decades", "tol"), KINDS)
@pytest.mark.parametrize("case", range(5))
def test_linear_constraints_meet_their_optimality_conditions(case, dtype, decades, tol):
    op, A, (lo, hi) = linear_cases()[case]
    x, step = drawn(1, 7, N).to(dtype), steps(2, decades).to(dtype)
    y = op(x, step).double()
    form = y @ A.mT
    near = 1e-9 if dtype == torch.float64 else 1e-3
    assert bool((form >= lo - near).all())
    assert bool((form <= hi + near).all())
    push = (x.double() - y) / step.double().sqrt()
    B = A * step.double().sqrt()[:, None, :]
    held = torch.linalg.lstsq(B.mT, push[..., None]).solution
    assert (B.mT @ held - push[..., None]).norm() <= tol * (1 + push.norm())


# ── closed identities ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("k", "total"), [(1, 1.0), (2, 2.5), (3, 1.0), (5, 1.0), (9, 1.0)])
def test_the_sparse_simplex_is_the_best_of_all_supports(seed, k, total):
    x = drawn(seed, 6)
    best = INF
    for kept in itertools.combinations(range(6), min(k, 6)):
        y = torch.zeros_like(x)
        y[list(kept)] = Simplex(0, total)(x[list(kept)])
        best = min(best, (y - x).square().sum().item())
    y = SparseSimplex(0, k, total)(x)
    assert (y != 0).sum() <= k
    assert (y - x).square().sum().item() == pytest.approx(best, rel=1e-12)


def test_sets_that_are_others_in_disguise():
    x, step = 3 * drawn(1, 5, 6), 10 ** drawn(2, 5, 6)
    one = torch.ones(6).double()
    same = [
        (CappedSimplex(1, 2.0, 5.0), Simplex(1, 2.0)),
        (CappedSimplex(1, 2.0, INF), Simplex(1, 2.0)),
        (Hyperplane(1, 1.0, 1.0), SumToOne(1)),
        (Hyperplane(1, one, 1.0), SumToOne(1)),
        (Slab(1, 1.0, 1.0), SumToOne(1)),
        (Slab(1, -INF, 0.3, one), HalfSpace(1, 1.0, 0.3)),
        (Affine(1, one[None], 1.0), SumToOne(1)),
        (Affine(1, [[1.0] * 6, [2.0] * 6, [0.0] * 6], [1.0, 2.0, 0.0]), SumToOne(1)),
        (Affine(1, torch.eye(6).double(), 0.5), Slab(1, 3.0, 3.0)),
    ]
    for ours, other in same[:-1]:
        torch.testing.assert_close(ours(x, step), other(x, step), rtol=0, atol=1e-12)
    torch.testing.assert_close(same[-1][0](x, step), torch.full_like(x, 0.5))
    torch.testing.assert_close(CappedSimplex(1, 3.0, 0.5)(x, step), torch.full_like(x, 0.5))  # one point
    torch.testing.assert_close(CappedSimplex(0, 1.0, 1 / 5)(x, step), torch.full_like(x, 1 / 5))
    torch.testing.assert_close(Slab(1, -INF, INF)(x, step), x)
    inside = SolidSimplex(1)(x)
    torch.testing.assert_close(SolidSimplex(1, total=100.0)(inside, step), inside)


def test_a_solid_simplex_along_an_empty_dim_holds_the_empty_slice():
    assert SolidSimplex(1)(torch.zeros(3, 0)).shape == (3, 0)
    assert HalfSpace(1, 1.0, 0.0)(torch.zeros(3, 0)).shape == (3, 0)
    with pytest.raises(ValueError, match="empty along a dim of length 0"):
        Slab(1, 0.5, 1.0)(torch.zeros(3, 0))


def test_bounds_may_differ_between_slices():
    x = drawn(3, 4, 5)
    lo = drawn(4, 4, 1)
    for op in (Hyperplane(-1, 2.0, lo), Slab(-1, lo, lo + 1, drawn(5, 5)), HalfSpace(-1, drawn(5, 5), lo)):
        rows = torch.cat([op.take(slice(i, i + 1), 0)(x[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(op(x), rows)
        torch.testing.assert_close(op.T(x.mT), rows.mT)
        torch.testing.assert_close(op(x.expand(2, 4, 5))[1], rows)
    down = Hyperplane(0, drawn(6, 4), drawn(7, 5))  # one number per column
    torch.testing.assert_close(down(x)[:, 2:3], Hyperplane(0, down.a, down.b[2].item())(x[:, 2:3]))
    torch.testing.assert_close(down.take(slice(1, 3), 1)(x[:, 1:3]), down(x)[:, 1:3])


def test_steps_of_zero_and_infinity_come_in_turn_also_where_there_are_several_equations():
    A = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]]).double()
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0]]).double()
    op = Affine(1, A, [1.0, 2.0])
    free = op(x, torch.tensor([[INF, INF, 1.0, 0.0]]).double())  # two free entries suffice: the others stay
    torch.testing.assert_close(free[:, 2:], x[:, 2:])
    torch.testing.assert_close(free @ A.mT, torch.tensor([[1.0, 2.0]]).double())
    for step in ([INF, 1.0, 2.0, 0.0], [INF, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [INF, 0.0, 0.0, 0.0]):
        y = op(x, torch.tensor([step]).double())
        torch.testing.assert_close(y @ A.mT, torch.tensor([[1.0, 2.0]]).double())
    one = op(x, torch.tensor([[INF, 1.0, 0.0, 0.0]]).double())
    torch.testing.assert_close(one[:, 2:], x[:, 2:])
    least = op(x, torch.tensor([[INF, 0.0, 0.0, 0.0]]).double())  # the second equation is met by the least move of the others
    P = A[1:, 1:] - A[:1, 1:]  # without entry 0
    move = torch.linalg.pinv(P) @ (torch.tensor([[1.0]]).double() - P @ x[:, 1:].mT)
    torch.testing.assert_close(least[:, 1:], x[:, 1:] + move.mT)


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("op", [Simplex(1), CappedSimplex(1, 1.0, 0.3), SolidSimplex(1), SparseSimplex(1, 9)], ids=repr)
def test_a_large_offset_costs_no_digits(op):
    x = torch.randn(50, N, generator=torch.Generator().manual_seed(3)).double() / 8
    high = (x.float() + 1e4).double()  # what float32 holds of it
    y = op(high.float())
    assert (y.double().sum(1) - 1).abs().max() < 1e-6
    torch.testing.assert_close(y.double(), op(high), rtol=0, atol=1e-6)


@pytest.mark.parametrize("op", [Simplex(0), CappedSimplex(0, 1.5), SolidSimplex(0), CappedSimplex(0, 1.0, 0.25)], ids=repr)
def test_huge_entries_still_give_a_point_of_the_set(op):
    step = torch.tensor([0.3, 7.0, 1.1, 0.9]).double()
    for x in ([1e300, 1e300, -1e300, 0.0], [1e300, 3e299, 1e300, 1.0], [-1e300, -1e300, -1e299, -1e300], [1e300, 1.0, 0.5, -3.0]):
        x = torch.tensor(x, dtype=torch.float64)
        levels = [] if isinstance(op, CappedSimplex) else [torch.tensor([0.0, INF, 1.0, 2.0]).double()]
        for s in (1.0, step, *levels):
            y = op(x, s)
            assert bool((y >= 0).all())
            assert y.sum().item() == pytest.approx(op.total, rel=1e-9) or isinstance(op, SolidSimplex)
            assert y.sum() <= op.total * (1 + 1e-9)


@pytest.mark.parametrize("op", [Simplex(1), CappedSimplex(1), SolidSimplex(1), SumToOne(1), Slab(1, 0.0, 1.0)], ids=repr)
def test_a_slice_with_a_nan_is_nan_and_the_others_are_not(op):
    x = drawn(2, 3, 5)
    x[1, 2] = math.nan
    y = op(x)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SolidSimplex(0, 0.0), "total of SolidSimplex is 0.0; it must be one number, positive and finite"),
        (lambda: CappedSimplex(0, cap=-1), "cap of CappedSimplex is -1; it must be one number, positive"),
        (lambda: SparseSimplex(0, 0), "k of SparseSimplex is 0; it must be a whole number"),
        (lambda: SparseSimplex(0, 1.5), "k of SparseSimplex is 1.5"),
        (lambda: Hyperplane(0, 0.0), "a of Hyperplane is 0.0; it must be finite and not 0 everywhere"),
        (lambda: Hyperplane(0, [[1.0]]), r"a of Hyperplane has shape \(1, 1\)"),
        (lambda: Hyperplane(0, 1.0, INF), "is empty"),
        (lambda: HalfSpace(0, 1.0, -INF), "is empty"),
        (lambda: HalfSpace(0, [1.0, math.nan]), "must be finite"),
        (lambda: Slab(0, 1.0, 0.0), "is empty: no number is between"),
        (lambda: Slab(0, torch.zeros(2), torch.zeros(3)), "do not fit together"),
        (lambda: Affine(0, [1.0, 2.0]), "must be a matrix with one row per equation"),
        (lambda: Affine(0, [[1.0, 2.0]], [1.0, 2.0]), "one for each of the 1 equations"),
        (lambda: Affine(0, [[1.0, 2.0], [2.0, 4.0]], [1.0, 3.0]), "contradict each other"),
        (lambda: Affine(0, [[0.0, 0.0], [2.0, 4.0]], [1.0, 3.0]), "contradict each other"),
        (lambda: Affine(0, [[INF, 0.0]]), "not finite"),
    ],
)
def test_a_wrong_field_is_refused_with_the_way_out(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (CappedSimplex(1, 1.0, 0.2), "4 entries of at most 0.2 cannot sum to 1; raise cap to 0.25 or more"),
        (Hyperplane(1, [1.0, 2.0]), "has 2 entries; .* has 4 along dim 1"),
        (Hyperplane(1, 1.0, torch.zeros(4)), "must have size 1 along dim 1"),
        (Affine(1, [[1.0, 2.0]]), "has 2 columns; .* has 4 along dim 1"),
    ],
)
def test_what_does_not_fit_the_matrix_is_refused_by_check_and_by_the_call(op, message):
    with pytest.raises(ValueError, match=message):
        op.check((3, 4), "W")
    with pytest.raises(ValueError, match=message):
        op(torch.zeros(3, 4))


# ── the kernel and its twin ───────────────────────────────────────────────────────────────────────────────────────────

CASES = {
    "normal": lambda x: x,
    "near": lambda x: x.softmax(-1) + 1e-3 * x,
    "ties": lambda x: x.round(),
    "equal": lambda x: torch.full_like(x, 0.37),
    "offset": lambda x: x + 1e4,
    "far below": lambda x: x - 1e4,
    "huge": lambda x: x * 1e30,
    "tiny": lambda x: x * 1e-30,
    "minus inf": lambda x: torch.where(x < 0, -INF, x),
    "linear": lambda x: torch.linspace(0, 1, x.shape[-1], dtype=x.dtype).expand_as(x) / x.shape[-1] + x * 0,
    "geometric": lambda x: x * 2.0 ** -torch.arange(x.shape[-1], dtype=x.dtype),
    "one by one": lambda x: torch.full_like(x, -0.5).cumsum(-1) * 1e-4,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 1), (70, 2), (65, 8), (40, 33), (5, 300), (2, 5000)])
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_agrees_with_the_torch_form(case, shape, dtype):
    x = CASES[case](drawn(1, *shape, dtype=dtype))
    for total in (1.0, 3.7, (1 + drawn(2, shape[0], 1).abs()).to(dtype), torch.zeros(shape[0], 1, dtype=dtype)):
        exact = twin(x.double(), total.double() if isinstance(total, torch.Tensor) else total)
        y = project(x, total)
        assert y.dtype == dtype
        atol = (1e-13 if dtype == torch.float64 else 3e-7) * 3.7
        torch.testing.assert_close(y.double(), exact, rtol=1e-12 if dtype == torch.float64 else 1e-6, atol=atol, equal_nan=True)
        sums = y.double().sum(-1, keepdim=True)
        whole = torch.where(sums.isnan(), sums, torch.as_tensor(total, dtype=torch.float64))  # no entry above -inf: NaN
        torch.testing.assert_close(sums, whole, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_takes_any_dim_and_any_strides(dtype):
    x = drawn(4, 6, 37, 50, dtype=dtype)
    views = [x, x.mT, x.movedim(0, 1), x[:, ::2], x[..., ::3].mT, x.expand(2, 6, 37, 50), x[:0], x[0, 0], x[:, :, :3].mT]
    for view in views:
        before = view.clone()
        torch.testing.assert_close(project(view, 1.0), twin(view))
        assert torch.equal(view, before)
    for dim in range(3):
        moved, total = x.movedim(dim, -1), 0.5 + drawn(5, *x.movedim(dim, -1).shape[:-1], 1, dtype=dtype).abs()
        torch.testing.assert_close(project(moved, total), twin(moved, total))


@pytest.mark.parametrize("n", [5, 100])
@pytest.mark.parametrize("columns", [False, True])
def test_the_kernel_keeps_nan_in_its_slice_and_ends(n, columns):
    x = drawn(6, 64, n, dtype=torch.float32)
    x[1, 2], x[3, 0], x[5] = math.nan, math.nan, math.nan
    x[7, 1], x[9] = INF, -INF
    given = x.mT.contiguous().mT if columns else x
    y = project(given, 1.0)
    odd = torch.zeros(64, dtype=torch.bool)
    odd[[1, 3, 5, 7, 9]] = True
    assert y[odd].isnan().all()
    assert y[~odd].isfinite().all()
    assert twin(x)[odd].isnan().all()


@given(st.integers(0, 2**31), st.integers(1, 70), st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=60, deadline=None)
def test_the_kernel_agrees_wherever_it_is_tried(seed, n, scale, total):
    x = scale * drawn(seed, 40, n, dtype=torch.float32)
    torch.testing.assert_close(project(x, total).double(), twin(x.double(), total), rtol=1e-5, atol=3e-7 * total)


@pytest.mark.parametrize("dim", [0, 1])
def test_large_tensors_use_the_kernel_with_the_same_result_and_gradient(dim):
    x = drawn(7, 700, 300, dtype=torch.float32).requires_grad_()
    assert x.numel() >= simplices._LARGE
    weight = drawn(8, 700, 300, dtype=torch.float32)
    y = Simplex(dim)(x)
    ours = torch.autograd.grad((y * weight).sum(), x)[0]
    large, simplices._LARGE = simplices._LARGE, INF
    try:
        other = Simplex(dim)(x)
        theirs = torch.autograd.grad((other * weight).sum(), x)[0]
    finally:
        simplices._LARGE = large
    torch.testing.assert_close(y, other, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(Simplex(dim)(x), y)


def test_the_gradient_of_the_total_passes_the_kernel():
    x, total = drawn(7, 700, 300), (1 + drawn(8, 700, 1).abs()).requires_grad_()
    weight = drawn(9, 700, 300)
    ours = torch.autograd.grad((project_simplex(x, x.new_ones(1), total) * weight).sum(), total)[0]
    theirs = torch.autograd.grad((twin(x, total) * weight).sum(), total)[0]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(20000, 8), (500, 300), (2, 70000)])
def test_the_kernel_of_top_k_keeps_the_same_entries(shape, dtype, monkeypatch):
    x, middle = drawn(11, *shape, dtype=dtype), torch.arange(shape[1], dtype=dtype) - shape[1] / 2
    odd = torch.where(x > 2, -INF, torch.where(x > 1.9, math.nan, x))
    cases = [x, x.round(), 0 * x, x.sort(-1).values, x - 1e4, odd, -middle.abs() + 0 * x, middle.abs() + 0 * x]
    tried = [(y, TopK(dim, k)) for y in cases for k in (1, 4, shape[1] // 2, shape[1], shape[1] + 3) for dim in (0, 1)]
    ours = [op(y) for y, op in tried]
    monkeypatch.setattr(simplices, "_LARGE", INF)
    for (y, op), one in zip(tried, ours, strict=True):
        torch.testing.assert_close(one, op(y), rtol=0, atol=0, equal_nan=True)


STEPS = {
    "equal": lambda u: torch.ones_like(u),
    "1e4": lambda u: 10 ** (4 * u),
    "1e8": lambda u: 10 ** (8 * u),
    "three levels": lambda u: torch.where(u < 0.3, 0.0, torch.where(u < 0.4, INF, 10 ** (8 * u))),
    "some free": lambda u: torch.where(u < 0.1, INF, 1.0),
    "some fixed": lambda u: torch.where(u < 0.5, 0.0, u),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 1), (70, 2), (65, 8), (5, 300), (2, 5000)])
@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_the_weighted_kernel_agrees_with_the_torch_form(case, kind, shape, dtype):
    x = CASES[case](drawn(1, *shape, dtype=dtype))
    s = relative(x, STEPS[kind](torch.rand(shape, generator=torch.Generator().manual_seed(3)).double()).to(dtype), 1)
    for total in (1.0, 30.0, (1 + drawn(2, shape[0], 1).abs()).to(dtype), torch.zeros(shape[0], 1, dtype=dtype)):
        exact = twin(x.double(), total.double() if isinstance(total, torch.Tensor) else total, s.double())
        y = project_weighted(x, s, total)
        assert y.dtype == dtype
        atol = (1e-11 if dtype == torch.float64 else 1e-6) * 30
        lost = x.isinf().all(1, keepdim=True)
        torch.testing.assert_close(
            y.double().where(~lost, math.nan), exact.where(~lost, math.nan), rtol=1e-6, atol=atol, equal_nan=True
        )
        sums = y.double().sum(-1, keepdim=True)
        whole = torch.where(lost, sums, torch.as_tensor(total, dtype=torch.float64))
        torch.testing.assert_close(sums, whole, rtol=1e-12 if dtype == torch.float64 else 1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("dim", [0, 1])
def test_large_tensors_with_tensor_steps_use_the_kernel_with_the_same_result_and_gradient(dim, monkeypatch):
    x, weight = drawn(7, 700, 300).requires_grad_(), drawn(8, 700, 300)
    raw = 10 ** (4 * torch.rand(700, 300, generator=torch.Generator().manual_seed(3)).double())
    levels = torch.where(raw < 2, 0.0, torch.where(raw > 9000, INF, raw))
    total = (1 + drawn(9, 700, 1).abs()).requires_grad_()

    def results():
        for op in (Simplex(dim), SolidSimplex(dim)):
            for step in (raw, 1e30 * raw, levels, raw[:1], raw[:, :1]):
                y = op(x, step)
                yield from (y, torch.autograd.grad((y * weight).sum(), x)[0])
        yield from torch.autograd.grad((project_simplex(x, raw, total) * weight).sum(), (x, total))
        wide = raw.clone().requires_grad_()  # a gradient of the steps: the torch form
        yield torch.autograd.grad((Simplex(dim)(x, wide) * weight).sum(), wide)[0]

    ours = list(results())
    monkeypatch.setattr(simplices, "_LARGE", INF)
    for one, other in zip(ours, results(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_the_weighted_kernel_keeps_nan_in_its_slice_and_ends_whatever_it_is_given():
    x, s = drawn(6, 64, 100), 10 ** (40 * torch.rand(64, 100, generator=torch.Generator().manual_seed(3)).double() - 40)
    x[1, 2], x[3], x[5, 0], x[7], x[9, ::2] = math.nan, math.nan, INF, -INF, -INF
    x[11], x[13], x[15, :50], x[17] = 1e300, -1e300, 1e300, 1e300 * x[17]
    for z, dtype in ((x, torch.float64), (x.clamp(-1e38, 1e38).where(x.isfinite(), x), torch.float32)):
        y = project_weighted(z.to(dtype), s.to(dtype).clamp(min=torch.finfo(dtype).tiny), 1.0)
        odd = torch.zeros(64, dtype=torch.bool)
        odd[[1, 3, 5, 7]] = True
        assert y[odd].isnan().all()
        torch.testing.assert_close(y[~odd].sum(1), torch.ones(60, dtype=dtype))
        assert bool((y[~odd] >= 0).all())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_transforms_that_a_kernel_cannot_see_through_get_the_torch_form():
    x, tangent = drawn(7, 700, 300), drawn(8, 700, 300)
    y, ours = torch.func.jvp(Simplex(1), (x,), (tangent,))
    held = y > 0
    expected = torch.where(held, tangent - torch.where(held, tangent, 0.0).sum(1, keepdim=True) / held.sum(1, keepdim=True), 0.0)
    torch.testing.assert_close(ours, expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(Simplex(1)(dual)).tangent, expected)


def test_several_threads_may_call_the_kernel_at_once_and_it_says_nothing():
    x = drawn(10, 600, 400, dtype=torch.float32)
    results = [None] * 6
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            threads = [threading.Thread(target=lambda i=i: results.__setitem__(i, Simplex(1)(x))) for i in range(6)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(r, results[0]) for r in results)
    np.testing.assert_allclose(results[0].sum(1), 1, rtol=1e-6)
