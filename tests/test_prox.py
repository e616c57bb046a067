"""Every operator against its own definition: it minimises g(y) + Σ (y - x)² / (2 step)."""

import copy
import functools
import math
import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import wrightomega

from proxfactor.prox import (
    L1,
    Box,
    Entropy,
    Fixed,
    Function,
    L2Squared,
    NonNegative,
    Normalize,
    Prox,
    Simplex,
    Sum,
    SumToOne,
    Transposed,
    Unconstrained,
    as_prox,
    group_metric,
)

INF = math.inf
M, N = 3, 4


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def drawn(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


WEIGHTS = tensor([0.0, 0.1, 2.0, 0.3], [1.0, 0.5, 0.0, 5.0], [0.2, 0.2, 0.7, 0.0])
VALUES = tensor([0.5, 0.0, math.nan, 0.2], [0.0, 0.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.75])
MASK = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()
LOW, HIGH = tensor([-1.0], [0.0], [-INF]), tensor([0.0, 0.5, 2.0, INF])

EXAMPLES = [
    Unconstrained(),
    NonNegative(),
    Box(-1, 0.3),
    Box(0, INF),
    Box(LOW, HIGH),
    Fixed(VALUES, MASK),
    L1(0.4),
    L1(WEIGHTS),
    L1(WEIGHTS[0]),
    L2Squared(0.7),
    L2Squared(WEIGHTS[:, :1]),
    Entropy(0.5),
    Entropy(WEIGHTS),
    Simplex(0),
    Simplex(1),
    Simplex(-1, total=2.5),
    SumToOne(0),
    SumToOne(-1),
    Normalize(dim=1),
    Simplex(0).T,
    L1(WEIGHTS.mT.contiguous()).T,
    NonNegative() + L1(0.4),
    L1(WEIGHTS) + NonNegative(),
    L1(0.4) + L2Squared(0.7),
    L2Squared(WEIGHTS) + L1(WEIGHTS[1]),
    L2Squared(0.7) + Box(0.2, 0.9) + L1(0.4),
    Box(-0.5, 0.6) + Entropy(0.5),
    Fixed(VALUES, MASK) + L2Squared(0.7),
    L1(0.2) + Fixed(VALUES, MASK) + NonNegative(),
    NonNegative() + Box(-1, 0.8) + Entropy(WEIGHTS),
]
EXACT = [p for p in EXAMPLES if p.exact]
ELEMENTWISE = [p for p in EXACT if p.dims == ()]
SETS = [p for p in EXACT if p.is_set]

STEPS = {
    "number": 0.7,
    "cells": 10 ** drawn(1, M, N),
    "rows": tensor([0.1], [1.0], [30.0]),
    "columns": tensor(0.01, 3.0, 1.0, 0.5),
    "badly conditioned": 10 ** (8 * torch.rand(M, N, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) - 4),
}


def g(p, y):
    """The term itself in float64, written a second time; a set counts 0 within 1e-9."""
    if isinstance(p, Transposed):
        return g(p.inner, y.mT)
    if isinstance(p, Sum):
        return sum(g(q, y) for q in p.parts)
    ok, value = True, 0.0
    match p:
        case NonNegative():
            ok = (y >= -1e-9).all()
        case Box():
            ok = ((y >= p.lo - 1e-9) & (y <= p.hi + 1e-9)).all()
        case Fixed():
            ok = ((y - p.values)[p.mask].abs() <= 1e-9).all()
        case L1():
            value = (p.lam * y.abs()).sum().item()
        case L2Squared():
            value = (p.lam * y * y).sum().item() / 2
        case Entropy():
            ok = (y >= -1e-9).all()
            value = (p.lam * torch.special.xlogy(y.clamp(min=0), y.clamp(min=0))).sum().item()
        case Simplex():
            ok = (y >= -1e-9).all() and ((y.sum(p.dim) - p.total).abs() <= 1e-8).all()
        case SumToOne():
            ok = ((y.sum(p.dim) - 1).abs() <= 1e-8).all()
    return value if ok else INF


def objective(p, y, x, step):
    return g(p, y) + ((y - x) ** 2 / (2 * step)).sum().item()


def naive_simplex(x, s, total):
    """The last dim by bisection for θ in max(x - θ s, 0)."""
    low, high = ((x - total) / s).amin(-1, keepdim=True) - total / s.amin(), (x / s).amax(-1, keepdim=True)
    for _ in range(300):
        middle = (low + high) / 2
        above = (x - middle * s).clamp(min=0).sum(-1, keepdim=True) > total
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (x - high * s).clamp(min=0)


# ── the definition ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
@pytest.mark.parametrize("p", EXACT, ids=repr)
def test_no_competitor_beats_the_prox(p, step):
    x = 2 * drawn(3, M, N)
    y = p(x, step)
    best = objective(p, y, x, step)
    assert best < INF
    for seed in range(220):
        size = 10.0 ** -(seed % 6)
        rival = p(y + size * drawn(seed, M, N), 0.0)  # a feasible point, far or near
        if seed >= 200:  # straight at the unconstrained minimiser, and short of it
            rival = p(y + (seed - 199) / 20 * (x - y), 0.0)
        assert best <= objective(p, rival, x, step) + 1e-9 * max(1, abs(best))


@pytest.mark.parametrize("p", ELEMENTWISE, ids=repr)
def test_an_entrywise_prox_is_the_best_point_of_a_grid(p):
    x, step = 2 * drawn(4, M, N), STEPS["columns"].expand(M, N)
    y = p(x, step)
    for i in range(M):
        for j in range(N):

            def at(v, i=i, j=j):
                z = y.clone()
                z[i, j] = v
                return objective(p, z, x, step)

            grid = [v for v in np.linspace(-6, 6, 241) if at(v) < INF]
            assert all(at(y[i, j]) <= at(v) + 1e-9 for v in grid)


def said_by_cvxpy(p, y):
    if isinstance(p, Transposed):
        return said_by_cvxpy(p.inner, y.T)
    if isinstance(p, Sum):
        costs, rules = zip(*(said_by_cvxpy(q, y) for q in p.parts), strict=True)
        return sum(costs), [r for rule in rules for r in rule]

    def full(t):
        return np.broadcast_to(np.asarray(t, dtype=float), y.shape)

    match p:
        case NonNegative():
            return 0, [y >= 0]
        case Box():
            lo, hi = full(p.lo), full(p.hi)
            bounds = [y[i, j] >= lo[i, j] for i, j in np.argwhere(np.isfinite(lo))]
            return 0, bounds + [y[i, j] <= hi[i, j] for i, j in np.argwhere(np.isfinite(hi))]
        case Fixed():
            return 0, [y[i, j] == float(p.values[i, j]) for i, j in p.mask.nonzero().tolist()]
        case L1():
            return cp.sum(cp.multiply(full(p.lam), cp.abs(y))), []
        case L2Squared():
            return cp.sum(cp.multiply(full(p.lam) / 2, cp.square(y))), []
        case Entropy():
            return -cp.sum(cp.multiply(full(p.lam), cp.entr(y))), []
        case Simplex():
            return 0, [y >= 0, cp.sum(y, axis=p.dim % 2) == p.total]
        case SumToOne():
            return 0, [cp.sum(y, axis=p.dim % 2) == 1]
    return 0, []


@pytest.mark.parametrize("p", EXACT, ids=repr)
def test_the_prox_is_what_cvxpy_finds_also_in_a_diagonal_metric(p):
    x, step = drawn(5, M, N), STEPS["cells"].clamp(0.1, 10)
    y = cp.Variable((M, N))
    cost, rules = said_by_cvxpy(p, y)
    distance = cp.sum(cp.multiply((1 / (2 * step)).numpy(), cp.square(y - x.numpy())))
    cp.Problem(cp.Minimize(cost + distance), rules).solve(solver=cp.CLARABEL)
    assert torch.allclose(p(x, step), torch.from_numpy(y.value), atol=2e-4)


@pytest.mark.parametrize("ratio", [1, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weighted_simplex_agrees_with_bisection_however_badly_the_steps_are_conditioned(ratio, dtype):
    for seed in range(20):
        x = 10 ** (seed % 5 - 2) * drawn(seed, 6, 30, dtype=dtype)
        s = 10 ** (ratio * torch.rand(6, 30, dtype=dtype, generator=torch.Generator().manual_seed(seed)) - ratio / 2)
        y = Simplex(1)(x, s)
        tolerance = 100 * torch.finfo(dtype).eps * max(1, x.abs().max().item())
        assert (y - naive_simplex(x.double(), s.double(), 1)).abs().max() < tolerance
        assert (y.sum(1) - 1).abs().max() < 10 * torch.finfo(dtype).eps


# ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("p", EXACT, ids=repr)
def test_an_infinite_step_gives_the_minimiser_nearest_x_and_a_long_one_comes_close_to_it(p):
    x = 2 * drawn(6, M, N)
    assert torch.allclose(p(x, INF), p(x, 1e9), atol=1e-6)
    assert torch.equal(p(x, INF), p(x, torch.full((M, N), INF)))
    assert p(torch.zeros(M, N).double(), INF).isfinite().all()


@pytest.mark.parametrize("p", EXACT, ids=repr)
def test_a_step_of_zero_gives_the_nearest_point_of_the_domain(p):
    x = 2 * drawn(7, M, N)
    assert torch.allclose(p(x, 0.0), p(x, 1e-12), atol=1e-9)
    assert torch.equal(p(x, 0.0), p(x, torch.zeros(M, N)))
    assert p.violation(p(x, 0.0)).abs().max() < 1e-12


@pytest.mark.parametrize("p", EXACT, ids=repr)
def test_zero_finite_and_infinite_steps_mix_in_one_tensor(p):
    x = 2 * drawn(8, M, N)
    step = tensor([0.0, 1.0, INF, 2.0], [INF, INF, 0.5, 3.0], [0.0, 0.0, 1.0, 5.0])
    surrogate = torch.where(step == 0, 1e-7, torch.where(step == INF, 1e7, step))
    assert torch.allclose(p(x, step), p(x, surrogate), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beside_an_infinite_step_the_finite_ones_keep_their_ratios(dtype):
    x, step = torch.tensor([0.0, 5.0, 5.0], dtype=dtype), torch.tensor([INF, 1.0, 2.0], dtype=dtype)
    assert torch.allclose(Simplex(0)(x, step), torch.tensor([0.0, 1.0, 0.0], dtype=dtype), atol=1e-6)
    x, step = torch.tensor([0.3, 0.2, 0.9], dtype=dtype), torch.tensor([0.0, 1.0, 2.0], dtype=dtype)
    assert torch.allclose(Simplex(0)(x, step), torch.tensor([0.3, 0.2 - 0.4 / 3, 0.9 - 0.8 / 3], dtype=dtype), atol=1e-6)


@pytest.mark.parametrize("p", EXAMPLES, ids=repr)
@pytest.mark.parametrize("step", [-1.0, math.nan, torch.tensor([[-1.0]]), torch.full((M, 1), math.nan)], ids=str)
def test_a_step_below_zero_or_nan_is_refused(p, step):
    with pytest.raises(ValueError, match=r"step|steps"):
        p(drawn(0, M, N), step)


@pytest.mark.parametrize("p", EXAMPLES, ids=repr)
def test_a_step_that_does_not_broadcast_is_refused_and_one_number_in_a_tensor_is_a_number(p):
    x = drawn(0, M, N)
    with pytest.raises(ValueError, match="broadcast"):
        p(x, torch.ones(5, 1, 1))
    for one in (torch.tensor(0.5), torch.tensor([[[0.5]]]), torch.tensor([0.5], dtype=torch.float32)):
        assert torch.equal(p(x, one), p(x, 0.5))


def test_a_group_operator_refuses_steps_that_vary_over_its_dims_and_takes_those_that_do_not():
    x = drawn(0, M, N)
    with pytest.raises(ValueError, match=r"constant over dim 1.*group_metric"):
        Normalize(dim=1)(x, torch.ones(M, N))
    assert torch.equal(Normalize(dim=1)(x, torch.rand(M, 1)), Normalize(dim=1)(x))


def test_group_metric_reduces_over_the_coupled_dims_and_leaves_the_rest_alone():
    c = tensor([1.0, 2.0, 3.0, 6.0])
    assert torch.equal(group_metric(Normalize(dim=1), c, (M, N), "mean"), torch.full((M, 1), 3.0).double())
    assert torch.equal(group_metric(Normalize(dim=1), c, (M, N), "amax"), torch.full((M, 1), 6.0).double())
    assert torch.equal(group_metric(Normalize(dim=0), c, (M, N), "mean"), c)
    assert group_metric(Function(torch.relu), c, (M, N), "mean").tolist() == [[3.0]]
    assert group_metric(Simplex(1), c, (M, N), "mean") is c
    assert group_metric(NonNegative(), c, (M, N), "amax") is c


# ── tensors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("p", EXAMPLES, ids=repr)
def test_shape_dtype_and_input_are_kept_and_the_output_is_new(p, dtype):
    x = (drawn(9, M, N) + 2).to(dtype)
    before = x.clone()
    for y in (p(x, 0.5), p(x, torch.tensor([[0.5]])), p(x, INF)):
        assert (y.shape, y.dtype) == (x.shape, dtype)
        assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert torch.equal(x, before)
    tolerance = 4 * torch.finfo(dtype).eps
    assert torch.allclose(p(x, 0.5).double(), p(x.double(), 0.5), rtol=tolerance, atol=tolerance)


def test_half_precision_takes_a_full_precision_step():
    x, step = torch.tensor([100.0, 1.0], dtype=torch.bfloat16), torch.tensor([1 / 3, 1 / 3])
    assert torch.equal(L2Squared(30.0)(x, step), (x.float() / (1 + 30 * step)).bfloat16())


@pytest.mark.parametrize("p", EXAMPLES, ids=repr)
def test_strides_do_not_matter(p):
    x = drawn(10, M, N) + 0.5
    for odd in (x.mT.contiguous().mT, torch.stack([x, x], -1)[..., 0], x.flip(1).flip(1)):
        assert torch.allclose(p(odd, 0.5), p(x, 0.5), atol=1e-15)
    spread = torch.tensor(0.3).double().expand(M, N)
    assert torch.allclose(p(spread), p(spread.clone()), atol=1e-15)


SHAPELESS = [NonNegative(), Box(-1, 0.3), L1(0.4), L2Squared(0.7), Entropy(0.5), L1(0.4) + L2Squared(0.7)]


@pytest.mark.parametrize("p", SHAPELESS, ids=repr)
@pytest.mark.parametrize("shape", [(), (5,), (0,), (0, 4), (2, 3, 4)], ids=str)
def test_an_entrywise_operator_takes_any_shape_and_a_batch_equals_a_loop(p, shape):
    x = drawn(11, *shape)
    y = p(x, 0.5)
    assert y.shape == shape
    assert torch.equal(y.reshape(-1), torch.stack([p(v, 0.5) for v in x.reshape(-1)]) if x.numel() else y.reshape(-1))


@pytest.mark.parametrize("kind", [Simplex, SumToOne, Normalize])
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
def test_an_operator_along_a_dim_works_slice_by_slice_in_three_dims(kind, dim):
    x, steps = drawn(12, 2, 3, 4) + 1, 10 ** drawn(13, 2, 3, 4)
    step = 1.0 if kind is Normalize else steps
    y = kind(dim)(x, step)
    assert torch.allclose(y.sum(dim), torch.ones_like(y.sum(dim)))
    rows, s = x.movedim(dim, -1).reshape(-1, x.shape[dim]), steps.movedim(dim, -1).reshape(-1, x.shape[dim])
    one = torch.stack([kind(0)(r, 1.0 if kind is Normalize else t) for r, t in zip(rows, s, strict=True)])
    assert torch.allclose(y.movedim(dim, -1).reshape(one.shape), one, atol=1e-12)


@pytest.mark.parametrize("kind", [Simplex, SumToOne, Normalize])
def test_a_coupled_dim_of_length_one_is_fixed_and_of_length_zero_or_absent_an_error(kind):
    assert torch.allclose(kind(1)(drawn(0, 3, 1)), torch.ones(3, 1).double())
    assert kind(1)(torch.zeros(0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match="length 0"):
        kind(1)(torch.zeros(3, 0))
    with pytest.raises(ValueError, match="no dim 2"):
        kind(2)(torch.zeros(3, 4))


@pytest.mark.parametrize("dim", ["a", 1.5, None, True])
def test_a_dim_is_a_whole_number(dim):
    with pytest.raises(TypeError, match="whole number"):
        Simplex(dim)


@pytest.mark.parametrize("p", EXAMPLES, ids=repr)
@pytest.mark.parametrize("x", [torch.ones(M, N, dtype=torch.int64), torch.ones(M, N, dtype=torch.complex64), [1.0]], ids=str)
def test_what_is_not_a_real_floating_tensor_is_refused(p, x):
    with pytest.raises(TypeError, match="real floating-point"):
        p(x)


@pytest.mark.parametrize("p", [L1(WEIGHTS), Box(LOW, 5), Fixed(VALUES, MASK), L1(WEIGHTS).T, NonNegative() + L1(WEIGHTS)], ids=repr)
def test_a_parameter_that_does_not_fit_x_is_refused_by_name_and_never_changes_the_shape(p):
    for shape in [(1, 1), (5, 5), (1,)]:
        with pytest.raises(ValueError, match=r"(lam|lo|values) .*does not broadcast"):
            p(torch.ones(shape))
    with pytest.raises(ValueError, match=r"does not fit (the transpose of )?W"):
        p.check((7, 7), "W")
    p.check((4, 3) if isinstance(p, Transposed) else (3, 4), "W")


def test_check_refuses_a_dim_that_a_matrix_has_not():
    with pytest.raises(ValueError, match="dim is 2"):
        Simplex(2).check((3, 4), "W")
    with pytest.raises(ValueError, match="dim is 2"):
        Simplex(2).T.check((3, 4), "W")


# ── precision ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_shares_sum_to_one_in_float32_even_at_a_large_offset():
    for spread in (1.0, 1e-3):
        x = 1e4 + spread * drawn(14, 20, 300, dtype=torch.float32)
        assert (Simplex(1)(x).double().sum(1) - 1).abs().max() < 1e-6
    assert (SumToOne(1)(1e4 + drawn(14, 20, 300, dtype=torch.float32)).double().sum(1) - 1).abs().max() < 1e-3


def test_ties_and_zeros_get_equal_shares():
    for dtype in (torch.float32, torch.float64):
        for x in (torch.zeros(3, 5, dtype=dtype), torch.full((3, 5), 7.0, dtype=dtype), torch.full((3, 5), -1e6, dtype=dtype)):
            for p in (Simplex(1), SumToOne(1)):
                assert torch.allclose(p(x), torch.full((3, 5), 0.2, dtype=dtype))
    assert torch.equal(Normalize(dim=1)(torch.zeros(1, 4)), torch.full((1, 4), 0.25))


@pytest.mark.parametrize("p", [p for p in EXACT if not isinstance(p, SumToOne)], ids=repr)
def test_enormous_entries_stay_finite(p):
    x = torch.tensor([[1e300, -1e300, 0.0, 1.0]] * M, dtype=torch.float64)
    for step in (0.0, 1e-300, 1.0, 1e300, INF):
        assert p(x, step).isfinite().all()
    assert p(torch.full((M, N), 1e30), 1e60).isfinite().all()  # a step that float32 cannot hold


def test_numbers_keep_float64():
    x = torch.full((2,), 5.0, dtype=torch.float64)
    assert Box(0, 0.1)(x)[0].item() == 0.1
    assert Box([0, 0], [0.1, 0.1])(x)[0].item() == 0.1
    assert Fixed([0.1, 0.1], [True, True])(x)[0].item() == 0.1
    assert L1([0.1, 0.1])(x)[0].item() == 4.9
    assert Entropy(0.1)(torch.zeros(1).double(), 1.0).item() == pytest.approx(0.1 * wrightomega(-1 - math.log(0.1)).real, rel=1e-14)
    assert not Box(0, 1e-60).cone


def test_entropy_is_wrights_omega_over_its_whole_range():
    z = torch.cat([torch.linspace(-700, 1e3, 20_001), torch.logspace(0, 6, 2_001), torch.linspace(-3, 4, 7_001)]).double()
    expected = torch.from_numpy(wrightomega(z.numpy()).real.copy())
    y = Entropy(1.0)(z + 1)
    assert (y > 0).all()
    assert ((y - expected).abs() / expected / (1 + z.abs())).max() < 1e-15
    assert ((Entropy(1.0)(z.float() + 1).double() - expected).abs() / expected)[z.abs() < 50].max() < 1e-4


@pytest.mark.parametrize("lam", [1e-300, 1e-12, 1.0, 1e12, 1e300])
def test_entropy_solves_its_equation_for_weights_of_any_size(lam):
    x = tensor(-1e300, -1.0, 0.0, 1e-3, 1.0, 1e3, 1e300)
    y = Entropy(lam)(x)
    assert y.isfinite().all()
    assert (y >= 0).all()
    felt = (y > 1e-300) & (x.abs() < 1e100)
    left = lam * (1 + y.log()) + y - x
    assert (left.abs()[felt] <= 1e-13 * (lam * (1 + y.log().abs()) + y + x.abs())[felt]).all()


# ── properties ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("p", SETS, ids=repr)
def test_a_projection_is_idempotent_and_does_not_look_at_a_single_step(p):
    x = 3 * drawn(15, M, N)
    y = p(x)
    assert torch.allclose(p(y), y, atol=1e-14)
    assert torch.allclose(p(x, 100.0), y, atol=1e-14)
    assert torch.allclose(p(y, STEPS["cells"]), y, atol=1e-13)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), size=st.floats(-3, 3), spread=st.floats(0, 3))
@pytest.mark.parametrize("p", EXACT, ids=repr)
def test_the_prox_is_firmly_nonexpansive_in_its_metric(p, seed, size, spread):
    x, z, step = 10**size * drawn(seed, M, N), 10**size * drawn(seed + 1, M, N), 10 ** (spread * drawn(seed + 2, M, N))
    a, b = p(x, step), p(z, step)
    inner = ((a - b) * (x - z) / step).sum()
    moved = ((a - b) ** 2 / step).sum()
    assert moved <= inner + 1e-9 * (1 + inner.abs())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12),
    total=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
def test_any_list_of_numbers_is_projected_to_the_simplex(values, total, seed):
    x = torch.tensor(values, dtype=torch.float64)
    s = 10 ** (2 * drawn(seed, len(values)))
    y = Simplex(0, total)(x, s)
    assert (y >= 0).all()
    assert y.sum().item() == pytest.approx(total, rel=1e-9)
    assert torch.allclose(y, naive_simplex(x, s, total), atol=1e-8 * (1 + x.abs().max().item()))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(x=st.floats(-1e3, 1e3), step=st.floats(0, 1e3), lam=st.floats(0, 1e3), ridge=st.floats(0, 1e3))
def test_the_elastic_net_satisfies_its_optimality_condition(x, step, lam, ridge):
    y = (L2Squared(ridge) + L1(lam))(tensor(x), step).item()
    slope = step * (ridge * y + lam * np.sign(y)) + y - x
    assert abs(slope) <= 1e-9 * (1 + abs(x) + step * lam) if y else abs(x) <= step * lam * (1 + 1e-12)


@pytest.mark.parametrize("p", EXAMPLES, ids=repr)
def test_the_transpose_acts_on_the_transpose(p):
    x, step = drawn(16, M, N), STEPS["rows" if p.metric == "group" else "cells"]
    assert torch.equal(p.T(x.mT, step.mT), p(x, step).mT)
    assert torch.equal(p.T.T(x, step), p(x, step))
    assert torch.equal(p.T(x.mT), p(x).mT)
    y = p(x)
    assert p.T.value(y.mT) == p.value(y)
    assert torch.equal(p.T.violation(x.mT), p.violation(x).mT)
    assert (p.T.convex, p.T.exact, p.T.metric, p.T.is_set, p.T.cone) == (p.convex, p.exact, p.metric, p.is_set, p.cone)
    assert [p.T.couples(d) for d in (0, 1)] == [p.couples(d) for d in (1, 0)]


def test_the_transpose_takes_matrices_and_operators_only():
    with pytest.raises(ValueError, match="takes a matrix"):
        Transposed(Simplex(0))(torch.ones(3))
    with pytest.raises(TypeError, match="operator is needed"):
        Transposed(3)


@pytest.mark.parametrize("index", [slice(1, 3), slice(2, 3), slice(0, 0), torch.tensor([2, 0]), torch.tensor([1])], ids=str)
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("p", EXAMPLES, ids=repr)
def test_take_is_the_part_of_the_whole_or_refuses_the_coupled_dim_by_name(p, dim, index):
    x = drawn(17, M, N)
    at = (index,) if dim == 0 else (slice(None), index)
    if p.couples(dim):
        with pytest.raises(ValueError, match=f"couples dim {dim}"):
            p.take(index, dim)
    else:
        assert torch.equal(p.take(index, dim)(x[at], 0.5), p(x, 0.5)[at])


@pytest.mark.parametrize("index", [1, torch.tensor(1), [0, 1], torch.ones(1, 1).long()], ids=str)
def test_take_needs_an_index_that_keeps_the_dim(index):
    with pytest.raises(TypeError, match=r"slice\(q, q \+ 1\)"):
        NonNegative().take(index, 0)


@pytest.mark.parametrize("p", EXAMPLES, ids=repr)
def test_an_operator_can_be_pickled_and_copied(p):
    x = drawn(18, M, N)
    for twin in (pickle.loads(pickle.dumps(p)), copy.deepcopy(p)):
        assert torch.equal(twin(x), p(x))
        assert repr(twin) == repr(p)


@pytest.mark.parametrize("p", EXAMPLES, ids=repr)
def test_the_class_says_whether_it_is_a_set_and_a_cone(p):
    y = p(drawn(19, M, N))
    if p.is_set:
        assert p.value(y) == 0
    if p.cone and p.exact:
        inside = p(3 * y, 0.0)
        assert torch.allclose(inside, 3 * y)
        assert torch.allclose(p(1e-3 * y, 0.0), 1e-3 * y)
    assert p.terms[0] is p or isinstance(p, Transposed)
    assert all(isinstance(t, Prox) for t in p.terms)


# ── value and violation ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("p", EXACT, ids=repr)
def test_value_is_the_term_itself_in_float64(p, dtype):
    y = p(drawn(20, M, N).to(dtype), 0.5)
    value = p.value(y)
    assert (value.dtype, value.ndim) == (torch.float64, 0)
    assert value.isfinite()
    if dtype == torch.float64:
        assert value.item() == pytest.approx(g(p, y))


@pytest.mark.parametrize("p", SETS, ids=repr)
def test_a_set_is_zero_inside_to_rounding_and_infinite_outside(p):
    y = p(5 * drawn(21, M, N))
    if type(p) is Unconstrained:
        assert p.value(y - 100) == 0
        return
    assert p.value(y + 1e-10 * drawn(22, M, N)) == 0
    outside = y - 7 if not isinstance(p, Fixed) else y + 7
    assert p.value(outside) == INF
    assert p.value(torch.full((M, N), -INF).double()) == INF
    assert p.value(torch.full((M, N), math.nan).double()) == INF


def test_violation_is_the_distance_of_each_slice():
    assert NonNegative().violation(tensor([-2.0, 3.0])).tolist() == [[2.0, 0.0]]
    assert Simplex(1).violation(tensor([1.0, 0.0], [2.0, 0.0], [0.0, 0.0])).tolist() == [[0.0], [1.0], [pytest.approx(0.5**0.5)]]
    assert SumToOne(0).violation(tensor([1.0, 2.0], [0.0, 1.0])).tolist() == [[0.0, pytest.approx(2**0.5)]]
    assert Box(0, 1).violation(torch.tensor([2.0], dtype=torch.bfloat16)).item() == 1
    assert NonNegative().value(torch.zeros(0, 3)) == 0


def test_penalties_count_what_the_formula_says():
    x = tensor(-1.0, 2.0)
    assert L1(0.5).value(x) == 1.5
    assert L2Squared(0.5).value(x) == 1.25
    assert Entropy(0.5).value(x.abs()).item() == pytest.approx(math.log(2))
    assert Entropy(0.5).value(x) == INF
    assert (L1(0.5) + NonNegative()).value(x) == INF
    assert L1(tensor(0.0, 1.0)).value(x) == 2


# ── parameters ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [L1, L2Squared, Entropy])
@pytest.mark.parametrize("lam", [-1, math.nan, INF, [0.1, -0.1], [math.nan]], ids=str)
def test_a_weight_is_finite_and_not_negative(kind, lam):
    with pytest.raises(ValueError, match="finite and at least 0"):
        kind(lam)


@pytest.mark.parametrize("lam", ["a", None, NonNegative(), 1j, [1, "a"], torch.ones(2, dtype=torch.complex64)], ids=repr)
def test_a_weight_is_a_number_or_an_array_of_real_numbers(lam):
    with pytest.raises(TypeError, match=r"number"):
        L1(lam)


def test_empty_sets_are_refused():
    for lo, hi in [(1, 0), (INF, INF), (-INF, -INF), ([0.0, 2.0], 1)]:
        with pytest.raises(ValueError, match="empty"):
            Box(lo, hi)
    with pytest.raises(ValueError, match="shapes of lo and hi"):
        Box([1, 2], [1, 2, 3])
    for total in (0, -1, INF, math.nan):
        with pytest.raises(ValueError, match="positive and finite"):
            Simplex(0, total)
    with pytest.raises(ValueError, match="not finite"):
        Fixed(VALUES, torch.ones(M, N).bool())
    with pytest.raises(ValueError, match="do not fit"):
        Fixed(torch.ones(2), torch.ones(3).bool())


# ── sums ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


BOUNDS = [NonNegative(), Box(-1, 0.8), Fixed(VALUES, MASK), Box(LOW, HIGH)]
PENALTIES = [L1(0.4), L1(WEIGHTS), L2Squared(0.7), Entropy(WEIGHTS), L1(0.4) + L2Squared(WEIGHTS)]


@pytest.mark.parametrize("a", BOUNDS, ids=repr)
@pytest.mark.parametrize("b", [NonNegative(), *PENALTIES], ids=repr)
def test_a_bound_and_a_penalty_add_in_any_order(a, b):
    x = 2 * drawn(23, M, N)
    assert torch.equal((a + b)(x, STEPS["cells"]), (b + a)(x, STEPS["cells"]))
    assert torch.equal((a.T + b.T)(x.mT, 0.3), (a + b)(x, 0.3).mT)


def test_nothing_added_changes_nothing():
    for p in (Simplex(0), Normalize(dim=1), L1(0.4)):
        assert p + Unconstrained() is p
        assert Unconstrained() + p is p
    assert isinstance(Unconstrained() + Unconstrained(), Unconstrained)


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (NonNegative(), Simplex(0), "couples entries"),
        (Simplex(0), SumToOne(1), "couples entries"),
        (L1(1), Normalize(dim=0), "no proximal operator"),
        (Function(torch.relu), NonNegative(), "no proximal operator"),
        (L1(1), L1(2), "summed weight"),
        (L2Squared(1), L2Squared(2), "summed weight"),
        (Entropy(1), L1(1), r"L1 \+ L2Squared"),
        (L2Squared(1) + L1(1), Entropy(1), r"L1 \+ L2Squared"),
        (L2Squared(1) + NonNegative(), L2Squared(2), "summed weight"),
    ],
    ids=str,
)
def test_a_sum_without_an_exact_rule_is_refused_by_name_with_the_way_out(a, b, why):
    for p, q in ((a, b), (b, a)):
        with pytest.raises(ValueError, match=r"no exact rule is known for .*" + why):
            p + q


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Box(2, 3), Box(0, 1)),
        (Box(-2, -1), NonNegative()),
        (Fixed(tensor([-1.0]), torch.tensor([[True]])), NonNegative()),
        (Fixed(tensor([1.0]), torch.tensor([[True]])), Fixed(tensor([2.0]), torch.tensor([[True]]))),
        (Box(-2, -1), Entropy(1.0)),
        (Fixed(tensor([0.0, -1.0]), torch.tensor([[True, True]])).T, NonNegative()),
    ],
    ids=str,
)
def test_sets_that_do_not_meet_are_named(a, b):
    with pytest.raises(ValueError, match="do not meet"):
        a + b
    with pytest.raises(ValueError, match="do not meet"):
        b + a


def test_summands_whose_tensors_do_not_fit_are_refused_and_rounding_is_not_held_against_them():
    with pytest.raises(ValueError, match="do not fit together"):
        Box(tensor([0.0], [0.0]), 1) + Fixed(VALUES, MASK)
    assert isinstance(Box(0, 0.1) + Fixed(torch.tensor([0.1]), torch.tensor([True])), Sum)


def test_an_operator_adds_to_operators_only():
    with pytest.raises(TypeError):
        NonNegative() + 3


# ── functions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Halver(torch.nn.Module):
    def forward(self, x, step):
        return x / 2 * step


class Caller:
    def __call__(self, x, other, *, step=None):
        return x * other * step


def with_step_named(x, lam=3.0, step=1.0):
    return x * step


def with_required_second(x, t):
    return x * t


def with_optional_second(x, dim=0):
    return x + dim


def in_place(x):
    return x.mul_(3)


@pytest.mark.parametrize(
    ("fn", "factor"),
    [
        (with_step_named, 0.5),
        (with_required_second, 0.5),
        (with_optional_second, 1),
        (in_place, 3),
        (Halver(), 0.25),
        (functools.partial(with_step_named, lam=2.0), 0.5),
        (functools.partial(with_step_named, step=7.0), 7),
        (functools.partial(Caller(), other=2.0), 1),
        (torch.nn.functional.relu, 1),
        (torch.relu, 1),
        (torch.nn.Threshold(0, 0), 1),
        (torch.nn.Threshold(0, 0, inplace=True), 1),
        (torch.nn.Identity(), 1),
        (lambda x, *rest, **options: x * (1 + len(rest) + len(options)), 1),
    ],
    ids=lambda v: getattr(v, "__name__", type(v).__name__),
)
def test_a_plain_function_gets_the_step_by_its_name_or_as_a_required_second(fn, factor):
    x = tensor(1.0, 2.0, 3.0)
    before = x.clone()
    y = as_prox(fn)(x, 0.5)
    assert torch.equal(y, factor * x)
    assert torch.equal(x, before)
    assert y.data_ptr() != x.data_ptr()


def test_a_function_states_that_nothing_is_known_of_it():
    p = as_prox(torch.relu)
    assert (p.exact, p.convex, p.metric, p.dims) == (False, False, "group", None)
    assert p.value(tensor(-1.0)) == 0
    assert p.violation(tensor([-1.0])).tolist() == [[0.0]]
    assert p.couples(0)
    assert p.couples(1)
    assert p(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="couples dim 0"):
        p.take(slice(0, 1), 0)
    with pytest.raises(ValueError, match="constant over all dims"):
        p(torch.ones(2), torch.ones(2))
    with_step_named.value = lambda x: x.sum()
    assert as_prox(with_step_named).value(tensor(1.0, 2.0)) == 3
    del with_step_named.value


def test_a_function_that_changes_the_shape_or_returns_no_tensor_is_refused():
    with pytest.raises(ValueError, match=r"\(3,\) into \(1, 3\)"):
        as_prox(lambda x: x[None])(torch.ones(3))
    with pytest.raises(ValueError, match="into ndarray"):
        as_prox(lambda x: x.numpy())(torch.ones(3))


def test_as_prox_reads_operators_texts_functions_and_none():
    p = Simplex(1)
    assert as_prox(p) is p
    assert repr(as_prox("simplex(dim=1)")) == repr(p)
    assert isinstance(as_prox(None), Unconstrained)
    with pytest.raises(TypeError, match=r"write NonNegative\(\)"):
        as_prox(NonNegative)
    with pytest.raises(TypeError, match="operator is needed"):
        as_prox(3)


def test_every_listed_operator_is_among_the_examples():
    def kinds(p):
        return {type(p)}.union(*(kinds(q) for q in [*getattr(p, "parts", ()), *([p.inner] if isinstance(p, Transposed) else [])]))

    ours = [k for k in Prox.catalogue() if k.__module__.startswith("proxfactor")]
    assert set(ours) <= set().union(*(kinds(p) for p in EXAMPLES))


@pytest.mark.exhaustive
@pytest.mark.parametrize("n", [1, 2, 5, 100, 3000])
@pytest.mark.parametrize("offset", [0.0, 1.0, -1e4, 1e4, 1e7])
@pytest.mark.parametrize("ratio", [0, 2, 8, 12])
@pytest.mark.parametrize("total", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_weighted_simplex_on_a_long_grid(n, offset, ratio, total, dtype):
    eps = torch.finfo(dtype).eps
    for seed in range(5):
        x = offset + drawn(seed, 3, n, dtype=dtype)
        s = 10 ** (ratio * torch.rand(3, n, dtype=dtype, generator=torch.Generator().manual_seed(seed)) - ratio / 2)
        y = Simplex(1, total)(x, s)
        assert (y >= 0).all()
        assert (y.double().sum(1) - total).abs().max() <= (30 + n / 10) * eps * total  # one running sum of n terms
        scale = total + x.abs().max().item()
        assert (y - naive_simplex(x.double(), s.double(), total)).abs().max() <= 100 * eps * scale
