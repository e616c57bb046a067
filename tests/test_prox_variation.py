"""Jumps, kinks and roughness: optimality conditions on long slices, the two forms of each algorithm, refusals."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import drawn, tensor

from proxfactor.prox import Prox, variation
from proxfactor.prox.variation import QuadraticForm, Smooth, TotalVariation, TotalVariationImage, TrendFilter

INF = math.inf
F32 = torch.float32


def compiled(monkeypatch):
    monkeypatch.setattr(variation, "_SMALL", 1)


def batched(monkeypatch):
    monkeypatch.setattr(variation, "_SMALL", 10**9)


BOTH = pytest.mark.parametrize("form", [compiled, batched])


# ── total variation ───────────────────────────────────────────────────────────────────────────────────────────────────


def optimal(x, y, t, tolerance):
    """The dual, the running sum of (y - x) / t, lies in [-1, 1], ends at 0, and is ±1 in the direction of each jump."""
    dual, jump = ((y - x).double() / t).cumsum(-1), y.double().diff(dim=-1)
    assert dual.abs().max() <= 1 + tolerance
    assert dual[..., -1].abs().max() <= tolerance
    jumps = jump.abs() > tolerance * x.abs().max()
    assert jumps.any()
    assert (dual[..., :-1] * jump.sign() - 1)[jumps].abs().max() <= tolerance


@BOTH
@pytest.mark.parametrize("dtype", [F32, torch.float64])
@pytest.mark.parametrize("lam", [0.1, 2.0, 20.0])
def test_a_thousand_entries_satisfy_the_optimality_conditions_of_tv(monkeypatch, form, dtype, lam):
    form(monkeypatch)
    x = torch.cat([drawn(1, 3, 1000), drawn(2, 3, 1000).cumsum(1), drawn(3, 3, 1000).sort(1)[0]]).to(dtype)
    optimal(x, TotalVariation(1, lam)(x), lam, 1e-9 if dtype == torch.float64 else 2e-2)
    steps = 10 ** (2 * torch.rand(9, 1000, dtype=dtype) - 1)
    if dtype == torch.float64:
        optimal(x, TotalVariation(1, lam)(x, steps), lam * steps, 1e-8)


@pytest.mark.parametrize("lam", [0.5, 100.0])
def test_a_hundred_thousand_entries_satisfy_them_too(lam):
    x = torch.stack([drawn(1, 100_000), drawn(2, 100_000).cumsum(0)])
    optimal(x, TotalVariation(1, lam)(x), lam, 1e-8)
    steps = 10 ** (4 * torch.rand(2, 100_000, dtype=torch.float64) - 2)
    optimal(x, TotalVariation(1, lam)(x, steps), lam * steps, 1e-6)


def objective(y, x, h):
    return ((h * (y - x) ** 2).sum(-1) / 2 + y.diff(dim=-1).abs().sum(-1)).max().item()


@BOTH
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_partition_into_blocks_does_better(form, data):
    """The minimiser is constant on blocks, with known signs of the jumps: all 3ⁿ⁻¹ ways are tried."""
    n = data.draw(st.integers(1, 6))
    x = torch.tensor(data.draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n))).double()[None]
    h = 10 ** torch.tensor(data.draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))).double()[None]
    with pytest.MonkeyPatch.context() as patch:
        form(patch)
        y = TotalVariation(1)(x, 1 / h)
    best = INF
    for signs in itertools.product((-1, 0, 1), repeat=n - 1):
        edge = [0, *signs, 0]
        cuts = [0, *(i + 1 for i in range(n - 1) if signs[i]), n]
        z = torch.empty_like(x)
        for a, b in itertools.pairwise(cuts):
            mass = h[0, a:b]
            z[0, a:b] = ((mass * x[0, a:b]).sum() + edge[b] - edge[a]) / mass.sum()
        best = min(best, objective(z, x, h))
    assert objective(y, x, h) <= best + 1e-9 * max(1, best)


@pytest.mark.parametrize("n", [2, 3, 17, 300])
@pytest.mark.parametrize("spread", [0, 4, 8])
def test_the_compiled_and_the_batched_form_agree(monkeypatch, n, spread):
    x = torch.cat([drawn(1, 20, n), drawn(2, 20, n).cumsum(1), drawn(3, 20, n).round(), 1e4 + drawn(4, 20, n)])
    t = 10 ** (spread * torch.rand(80, n, dtype=torch.float64) - spread / 2)
    step = 1.0 if spread == 0 else t
    for lam in (1e-3, 0.5, 30.0):
        both = []
        for form in (compiled, batched):
            form(monkeypatch)
            both.append(TotalVariation(1, lam)(x, step))
        worth = [objective(y, x, 1 / (lam * t if spread else torch.full_like(t, lam))) for y in both]
        assert worth[0] == pytest.approx(worth[1], rel=1e-7)
        if spread <= 4:
            assert (both[0] - both[1]).abs().max() < 1e-7


@BOTH
def test_equal_steps_in_a_tensor_give_what_one_number_does(monkeypatch, form):
    form(monkeypatch)
    x = drawn(5, 10, 400)
    assert (TotalVariation(1, 3.0)(x, torch.full_like(x, 0.2)) - TotalVariation(1, 3.0)(x, 0.2)).abs().max() < 1e-12


def test_the_two_hulls_take_over_where_the_string_is_read_too_often():
    x = torch.linspace(1, 0, 60_000, dtype=torch.float64).square()[None]
    x = torch.cat([x, -x, 100 * x])
    y = TotalVariation(1, 10.0)(x)
    optimal(x, y, 10.0, 1e-7)
    start = time.perf_counter()
    TotalVariation(1, 10.0)(x)
    assert time.perf_counter() - start < 5


@BOTH
def test_tv_of_slices_that_leave_nothing_to_do(monkeypatch, form):
    form(monkeypatch)
    x = drawn(6, 4, 50)
    for step in (1.0, torch.ones_like(x)):
        assert torch.equal(TotalVariation(1, 0.0)(x, step), x)
        assert torch.allclose(TotalVariation(1, 1e12)(x, step), x.mean(1, keepdim=True).expand_as(x))
        assert torch.equal(TotalVariation(1)(torch.full_like(x, 0.3), step), torch.full_like(x, 0.3))
        assert torch.equal(TotalVariation(0)(x[:1], step if isinstance(step, float) else step[:1]), x[:1])
    assert torch.allclose(TotalVariation(0)(tensor(0.0, 3.0)), tensor(1.0, 2.0))
    assert TotalVariation(0)(tensor(0.0, 1.0)).tolist() == [0.5, 0.5]


@BOTH
def test_a_nan_stays_in_its_slice(monkeypatch, form):
    form(monkeypatch)
    x = drawn(7, 5, 30)
    bad = x.clone()
    bad[1, 3], bad[3, 29], bad[4, 0] = math.nan, INF, -INF
    ops = TotalVariation(1), TrendFilter(1), TotalVariationImage(1, (5, 6)), Smooth(1), Smooth(1, periodic=True)
    for op in ops:
        for step in (0.7, torch.full((5, 1 if op.metric == "group" else 30), 0.7)):
            y, whole = op(bad, step), op(x, step)
            assert y[[1, 3, 4]].isfinite().sum() == 0
            assert torch.allclose(y[[0, 2]], whole[[0, 2]], atol=1e-9)


def test_free_entries_follow_their_neighbours_on_the_shortest_way(monkeypatch):
    x = tensor(0.0, 7.0, 3.0, -1.0, 2.0, 5.0, 9.0)
    step = tensor(0.0, INF, INF, INF, INF, 0.0, INF)
    for form in (compiled, batched):
        form(monkeypatch)
        y = TotalVariation(0)(x, step)  # from 0 up to 5, nearest to 7, 3, -1, 2 in order: their mean
        assert torch.allclose(y, tensor(0.0, 2.75, 2.75, 2.75, 2.75, 5.0, 5.0), atol=1e-6)


def test_threads_share_the_rows(monkeypatch):
    x, t = drawn(8, 500, 300), torch.rand(500, 300, dtype=torch.float64)
    one = TotalVariation(1)(x), TotalVariation(1)(x, t), Smooth(1)(x), Smooth(1)(x, t)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(one, (TotalVariation(1)(x), TotalVariation(1)(x, t), Smooth(1)(x), Smooth(1)(x, t)), strict=True)
    )


@BOTH
def test_gradients_of_tv_are_the_means_of_its_blocks(monkeypatch, form):
    form(monkeypatch)
    x, t = drawn(9, 3, 12).requires_grad_(), torch.rand(3, 12, dtype=torch.float64) + 0.1
    assert torch.autograd.gradcheck(lambda v: TotalVariation(1, 0.5)(v), x)
    assert torch.autograd.gradcheck(lambda v: TotalVariation(1, 0.5)(v, t), x)
    assert torch.autograd.gradcheck(lambda v: Smooth(1, 0.5, periodic=True)(v, t), x)
    assert torch.autograd.gradcheck(lambda v: TrendFilter(1, lam=0.1)(v), x)


def test_soft_thresholding_after_tv_is_the_fused_lasso():
    """Subgradients: the residual less the sign of y is a dual of the jumps."""
    from proxfactor import L1

    x, lam, mu = 2 * drawn(10, 5, 1000), 1.5, 0.4
    z = TotalVariation(1, lam)(x)
    y = L1(mu)(z)
    part = (z - y) / mu  # in the subdifferential of |y|
    assert (part.abs() <= 1 + 1e-12).all()
    assert torch.allclose(part[y != 0], y[y != 0].sign())
    dual = ((y + mu * part - x) / lam).cumsum(1)
    jump = y.diff(dim=1)
    assert dual.abs().max() <= 1 + 1e-9
    assert (dual[:, :-1] * jump.sign() - 1)[jump.abs() > 1e-9].abs().max() < 1e-9


# ── images ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("shape", [(32, 32), (8, 9, 10)], ids=str)
def test_an_image_has_a_dual_that_closes_the_gap(isotropic, shape):
    """Any feasible dual bounds the objective from below; one comes from long plain projected gradients."""
    n = math.prod(shape)
    x = (torch.rand(2, n, dtype=torch.float64) + (torch.arange(n) % 7 < 3)).contiguous()
    op = TotalVariationImage(1, shape, 0.15, isotropic)
    y = op(x)
    best = op.value(y) + (y - x).square().sum() / 2
    p = torch.zeros(2, len(shape), *shape, dtype=torch.float64)
    q, pace, bound = p, 1.0, -INF
    for _ in range(1500):
        z = x.reshape(2, *shape) - variation._adjoint(q)
        v = q + variation._gradient(z) / (4 * len(shape))
        v = v * (0.15 / v.norm(dim=1, keepdim=True)).clamp(max=1) if isotropic else v.clamp(-0.15, 0.15)
        faster = (1 + math.sqrt(1 + 4 * pace**2)) / 2
        p, q, pace = v, v + (pace - 1) / faster * (v - p), faster
    z = variation._adjoint(p).flatten(1)
    bound = (x * z).sum() - z.square().sum() / 2
    assert bound <= best + 1e-12
    assert best - bound <= 1e-6 * best


def test_the_gradient_and_its_adjoint_belong_together():
    x, p = drawn(1, 3, 4, 5, 6), drawn(2, 3, 3, 4, 5, 6)
    p = variation._gradient(variation._adjoint(p)) + 0 * p
    assert torch.allclose((variation._gradient(x) * p).sum(), (x * variation._adjoint(p)).sum())


def test_an_image_of_one_row_is_a_slice():
    x = drawn(3, 4, 20)
    for isotropic in (True, False):
        y = TotalVariationImage(1, (1, 20), 0.5, isotropic)(x)
        assert (y - TotalVariation(1, 0.5)(x)).abs().max() < 1e-3


def test_gradients_go_through_an_image():
    x = drawn(4, 1, 6).requires_grad_()
    assert torch.autograd.gradcheck(TotalVariationImage(1, (2, 3), 0.1), x, atol=1e-3)


# ── trends ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("lam", [0.1, 10.0, 1e4])
def test_a_thousand_entries_satisfy_the_optimality_conditions_of_a_trend(order, lam):
    x = drawn(1, 4, 1000).cumsum(1)
    y = TrendFilter(1, order, lam)(x)
    dual = (x - y) / lam
    for _ in range(order + 1):
        dual = -dual.cumsum(1)
    scale = max(1.0, dual.abs().max().item())
    assert dual[:, -1].abs().max() < 1e-6 * 1000**order
    assert scale <= 1 + 1e-6
    kink = y.diff(n=order + 1, dim=1)
    far = kink.abs() > 1e-5 * x.abs().max()
    assert ((dual[:, : kink.shape[1]] * kink.sign()) - 1)[far].abs().max() < 1e-4 if far.any() else True


def test_a_line_has_no_kinks_and_an_infinite_step_gives_the_nearest_polynomial():
    line = torch.linspace(-1, 3, 50, dtype=torch.float64)
    assert torch.allclose(TrendFilter(0, lam=3.0)(line), line, atol=1e-9)
    x = drawn(2, 50)
    for order in (0, 1, 2, 3):
        nearest = np.polynomial.Polynomial.fit(np.arange(50), x.numpy(), order)(np.arange(50))
        assert np.allclose(TrendFilter(0, order)(x, INF), nearest, atol=1e-9)
        assert np.allclose(TrendFilter(0, order, 1e9)(x), nearest, atol=1e-6)
    assert torch.equal(TrendFilter(0, 3)(x[:4]), x[:4])


# ── roughness ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 1000])
def test_smoothing_solves_its_equations_in_any_metric(order, periodic, n):
    x, t = drawn(1, 70, n), 10 ** drawn(2, 70, n)
    op = Smooth(1, 2.0, order, periodic)
    matrix = torch.eye(n, dtype=torch.float64)
    for _ in range(order):
        matrix = matrix.roll(-1, 0) - matrix if periodic else matrix.diff(dim=0)
    form = 2.0 * matrix.mT @ matrix
    for step in (0.3, t[:, :1], t):
        y = op(x, step)
        assert ((y - x) / step + y @ form).abs().max() < 1e-8 * (1 / torch.as_tensor(step)).max()
        assert torch.allclose(op.value(y), (y @ form * y).sum() / 2)
    if n < 10:
        t[:, 0], t[:, 1] = 0.0, INF
        y, near = op(x, t), op(x, t.clamp(1e-10, 1e10))
        assert torch.allclose(y, near, atol=1e-5)


def test_smoothing_leaves_an_offset_alone_and_takes_a_long_slice_without_a_square_matrix():
    x = 1e4 + drawn(3, 2, 1000).float()
    assert (Smooth(1)(x).double() - Smooth(1)(x.double())).abs().max() < 1e-3
    x = drawn(4, 100_000)
    y = Smooth(0, 10.0, 2)(x, 10 ** drawn(5, 100_000).clamp(-2, 2))
    assert y.isfinite().all()


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))])
def test_another_device_gives_the_same(device):
    x, t = drawn(1, 20, 1000), 10 ** drawn(2, 20, 1000)
    ops = TotalVariation(1), TrendFilter(1), Smooth(1), Smooth(1, periodic=True), TotalVariationImage(1, (25, 40), 0.1)
    for op in ops:
        for step in (0.7, t[:, :1], *([t] if op.metric == "weighted" else [])):
            far = op(x.to(device), step.to(device) if isinstance(step, torch.Tensor) else step)
            assert far.device.type == device
            assert torch.allclose(far.cpu(), op(x, step), atol=1e-5)


# ── quadratic forms ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_laplacian_of_a_path_is_the_smoothness_of_a_slice():
    n = 200
    d = torch.eye(n, dtype=torch.float64).diff(dim=0)
    x, t = drawn(1, 5, n), 10 ** drawn(2, 5, n)
    for step in (0.7, t[:, :1], t, INF):
        graph = QuadraticForm(1, d.mT @ d, lam=3.0)(x, step)
        assert torch.allclose(graph, Smooth(1, 3.0)(x, step), atol=1e-8)


def test_a_linear_term_moves_the_minimiser_and_must_leave_one():
    m, c = tensor([2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]), tensor(2.0, 3.0, 0.0)
    op = QuadraticForm(0, m, c, 0.5)
    assert torch.allclose(op(tensor(0.0, 0.0, 7.0), INF), tensor(2.0, 6.0, 7.0))
    assert op.attained
    assert op.value(tensor(2.0, 6.0, 7.0)).item() == pytest.approx(0.25 * (8 + 36) - 22)
    for bad in (QuadraticForm(0, m, c + 1), QuadraticForm(0, m, c, 0.0)):
        assert not bad.attained
        with pytest.raises(ValueError, match="no minimiser"):
            bad(drawn(0, 3), INF)
    assert torch.allclose(QuadraticForm(0, m, c, 0.0)(c, 2.0), 3 * c)
    back = Prox.parse(*op.spell())
    assert torch.equal(back.matrix, m)
    assert torch.equal(back(c), op(c))
    assert op.take(slice(1, 2), 1) is op


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TotalVariation(0, -1.0), "lam of TotalVariation is -1"),
        (lambda: TotalVariation(0, torch.ones(3)), "must be one number"),
        (lambda: TrendFilter(0, order=-1), "order of TrendFilter is -1"),
        (lambda: Smooth(0, order=0), "order of Smooth is 0"),
        (lambda: Smooth(0, order=1.5), "order of Smooth is 1.5"),
        (lambda: TotalVariationImage(0, (4,)), "two or three lengths"),
        (lambda: TotalVariationImage(0, (4, 0)), "two or three lengths"),
        (lambda: TotalVariationImage(0, 16), "two or three lengths"),
        (lambda: TotalVariationImage(0, (2, 3)).check((7, 2)), "have 7 entries, but 2 x 3 pixels are 6"),
        (lambda: TotalVariationImage(0, (2, 3))(torch.ones(7)), "have 7 entries"),
        (lambda: TotalVariationImage(0, (2, 3)).value(torch.ones(7)), "have 7 entries"),
        (lambda: TotalVariationImage(1, (2, 3))(torch.ones(2, 6), torch.rand(2, 6)), "constant over dim 1"),
        (lambda: QuadraticForm(0, torch.ones(2, 3)), "must be square"),
        (lambda: QuadraticForm(0, tensor([1.0, 2.0], [0.0, 1.0])), "not symmetric"),
        (lambda: QuadraticForm(0, -torch.eye(2)), "positive semi-definite"),
        (lambda: QuadraticForm(0, torch.full((2, 2), math.nan)), "NaN"),
        (lambda: QuadraticForm(0, torch.eye(2), torch.ones(3)), "2 finite entries"),
        (lambda: QuadraticForm(0, torch.eye(2)).check((3, 2)), "have 3 entries, but matrix is 2 x 2"),
        (lambda: QuadraticForm(0, torch.eye(2))(torch.ones(3)), "have 3 entries"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_list_is_a_shape_and_the_text_form_brings_it_back():
    op = TotalVariationImage(1, [2, 3], 0.5)
    assert op.shape == (2, 3)
    assert repr(Prox.parse(repr(op))) == repr(op) == "TotalVariationImage(dim=1, shape=(2, 3), lam=0.5)"
    assert repr(Prox.parse("tv(1, 0.5)")) == "TotalVariation(dim=1, lam=0.5)"
