"""Every operator of operators.py against its own definition: it minimises g(y) + Σ (y - x)² / (2 step)."""

import copy
import dataclasses
import math
import pickle

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import EXAMPLES, INF, WEIGHTS, drawn, tensor

from proxfactor.prox import (
    L1,
    Box,
    Function,
    NonNegative,
    NonPositive,
    Normalize,
    Prox,
    Rows,
    Simplex,
    Translated,
    Transposed,
    Unconstrained,
    group_metric,
)
from proxfactor.prox.base import Along

EXACT = [e for e in EXAMPLES if e.op.exact]
ATTAINED = [e for e in EXACT if e.op.attained]
CONVEX = [e for e in EXACT if e.op.convex]
ELEMENTWISE = [e for e in EXACT if e.op.dims == ()]
SETS = [e for e in EXACT if e.op.is_set]
ALONG = [e for e in EXAMPLES if isinstance(e.op, Along)]
PLAIN = [e for e in ALONG if all(isinstance(v, int | float | bool) or v is None for v in vars(e.op).values())]

STEPS = ("number", "cells", "rows", "columns", "badly conditioned")


def every(examples):
    return pytest.mark.parametrize("e", examples, ids=repr)


def step_of(e, kind, shape=None):
    """A step that the operator honours: what varies over the dims of a "group" is averaged."""
    shape = shape or e.shape
    spread = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = {
        "number": 0.7,
        "cells": 10 ** drawn(1, *shape),
        "rows": 10 ** drawn(1, *shape)[..., :1],
        "columns": 10 ** drawn(1, *shape)[:1],
        "badly conditioned": 10 ** (8 * spread - 4),
    }[kind]
    return step if kind == "number" else group_metric(e.op, step, shape, "mean")


def objective(e, y, x, step):
    return e.g(y) + ((y - x).abs() ** 2 / (2 * step)).sum().item()


def within(e, z):
    """z itself, or the nearest point of g's domain."""
    return z if e.g(z) < INF else e.op(z, 0.0)


def rivals(e, x, y, step, n):
    """Points of the domain, near and far, and those on the way to x."""
    noise = 1j * drawn(999, *x.shape) if x.is_complex() else 0
    for seed in range(n):
        yield within(e, y + 10.0 ** -(seed % 6) * (drawn(seed, *x.shape) + noise))
    for part in range(1, 21):
        yield within(e, y + part / 20 * (x - y))


def searched(e, x, start, step, seed, rounds=30):
    """A (1 + 1) evolution strategy on the objective over g's domain (Rechenberg 1973), as an optimiser that needs no gradient."""
    z = within(e, start)
    best, size = objective(e, z, x, step), 0.3
    for turn in range(rounds):
        trial = within(e, z + size * drawn(1000 * seed + turn, *x.shape))
        value = objective(e, trial, x, step)
        better = value < best
        z, best, size = (trial, value, 2 * size) if better else (z, best, 0.7 * size)
    return best


# ── the definition ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", STEPS)
@every(EXACT)
def test_no_competitor_beats_the_prox(e, kind):
    x, step = 2 * drawn(3, *e.shape), step_of(e, kind)
    y = e.op(x, step)
    best = objective(e, y, x, step)
    assert best < INF
    bar = best - e.tol * max(1, abs(best))
    assert all(objective(e, z, x, step) >= bar for z in rivals(e, x, y, step, 200))


@pytest.mark.parametrize("kind", ["number", "badly conditioned"])
@every(EXACT)
def test_no_optimiser_finds_a_better_point(e, kind):
    x, step = 2 * drawn(33, *e.shape), step_of(e, kind)
    y = e.op(x, step)
    best = objective(e, y, x, step)
    starts = [y] * 8 + [x] * 4 + [y + drawn(s, *e.shape) for s in range(4)] + [x + drawn(s, *e.shape) for s in range(4)]
    for seed, start in enumerate(starts):
        assert searched(e, x, start, step, seed) >= best - e.tol * max(1, abs(best))


@every([e for e in EXACT if e.op.complex])
def test_no_complex_competitor_beats_the_prox(e):
    x = torch.complex(2 * drawn(3, *e.shape), drawn(4, *e.shape))
    for kind in ("number", "cells"):
        step = step_of(e, kind)
        y = e.op(x, step)
        best = objective(e, y, x, step)
        assert best < INF
        assert all(objective(e, z, x, step) >= best - e.tol * max(1, abs(best)) for z in rivals(e, x, y, step, 100))
    assert e.op(torch.zeros_like(x), 0.5).isfinite().all()
    assert e.op(x.to(torch.complex64), 0.5).dtype == torch.complex64
    assert e.op.value(y).dtype == torch.float64


@every([e for e in EXAMPLES if not e.op.complex])
def test_a_complex_tensor_is_refused_by_those_that_have_no_meaning_for_it(e):
    with pytest.raises(TypeError, match="real floating-point"):
        e.op(torch.ones(e.shape, dtype=torch.complex64))


@every(ELEMENTWISE)
def test_an_entrywise_prox_is_the_best_point_of_a_grid(e):
    x, step = 2 * drawn(4, *e.shape), step_of(e, "columns").expand(e.shape)
    y = e.op(x, step)
    best = objective(e, y, x, step)
    grid = np.linspace(-6, 6, 241)
    for cell in np.ndindex(*e.shape):
        z = y.clone()
        for v in grid:
            z[cell] = v
            assert objective(e, z, x, step) >= best - 1e-9 * max(1, abs(best))


@every([e for e in EXACT if e.cvx])
def test_the_prox_is_what_cvxpy_finds_also_in_a_diagonal_metric(e):
    x, step = drawn(5, *e.shape), step_of(e, "cells").clamp(0.1, 10)
    y = cp.Variable(e.shape)
    cost, rules = e.cvx(y)
    distance = cp.sum(cp.multiply((1 / (2 * step)).expand(e.shape).numpy(), cp.square(y - x.numpy())))
    problem = cp.Problem(cp.Minimize(cost + distance), rules)
    problem.solve(solver=cp.CLARABEL)
    ours = e.op(x, step)
    assert torch.allclose(ours, torch.from_numpy(y.value), atol=2e-4 + e.tol**0.5)
    assert objective(e, ours, x, step) == pytest.approx(problem.value, rel=1e-5 + e.tol, abs=1e-5 + e.tol)


@every(PLAIN)
def test_a_slice_of_a_thousand_entries_is_no_easier_to_beat(e):
    if not e.op.exact:
        return
    shape = [2, 2]
    shape[e.op.dim] = 1000
    x, step = 2 * drawn(34, *shape), step_of(e, "cells", shape)
    try:
        y = e.op(x, step)
    except ValueError as refused:  # a cone of three entries, say
        assert "1000" in str(refused)  # noqa: PT017
        return
    best = objective(e, y, x, step)
    assert best < INF
    assert all(objective(e, z, x, step) >= best - max(e.tol, 1e-9) * max(1, abs(best)) for z in rivals(e, x, y, step, 30))


# ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@every(ATTAINED)
def test_an_infinite_step_gives_the_minimiser_nearest_x_and_a_long_one_comes_close_to_it(e):
    x = 2 * drawn(6, *e.shape)
    close = 1e-6 + 10 * e.tol**0.5
    assert torch.allclose(e.op(x, INF), e.op(x, 1e9), atol=close, rtol=close)
    if e.op.metric != "group" or e.op.dims == ():
        assert torch.allclose(e.op(x, INF), e.op(x, torch.full(e.shape, INF)), atol=1e-12 + e.tol**0.5)
    assert e.op(torch.zeros(e.shape).double(), INF).isfinite().all()


@every([e for e in EXACT if not e.op.attained])
def test_an_infinite_step_is_refused_by_name_where_there_is_no_minimiser(e):
    for step in (INF, torch.full(e.shape, INF), torch.tensor([INF])):
        with pytest.raises(ValueError, match=r"no minimiser|constant over"):
            e.op(drawn(0, *e.shape), step)


@every(EXACT)
def test_a_step_of_zero_gives_the_nearest_point_of_the_domain(e):
    x = 2 * drawn(7, *e.shape)
    assert torch.allclose(e.op(x, 0.0), e.op(x, 1e-12), atol=1e-9 + e.tol**0.5)
    if e.op.metric != "group" or e.op.dims == ():
        assert torch.allclose(e.op(x, 0.0), e.op(x, torch.zeros(e.shape)), atol=1e-12 + e.tol**0.5)
    assert e.op.violation(e.op(x, 0.0)).abs().max() < 1e-12 + 10 * e.tol**0.5


@every([e for e in ATTAINED if e.op.metric != "group"])
def test_zero_finite_and_infinite_steps_mix_in_one_tensor(e):
    x = 2 * drawn(8, *e.shape)
    some = tensor(0.0, 1.0, INF, 2.0, INF, INF, 0.5, 3.0, 0.0, 0.0, 1.0, 5.0)
    step = some.repeat(math.prod(e.shape) // 12 + 1)[: math.prod(e.shape)].reshape(e.shape)
    surrogate = torch.where(step == 0, 1e-7, torch.where(step == INF, 1e7, step))
    assert torch.allclose(e.op(x, step), e.op(x, surrogate), atol=1e-5 + e.tol**0.5)


@pytest.mark.parametrize("step", [-1.0, math.nan, torch.tensor([[-1.0]]), "nan rows"], ids=str)
@every(EXAMPLES)
def test_a_step_below_zero_or_nan_is_refused(e, step):
    step = torch.full((e.shape[0], 1), math.nan) if isinstance(step, str) else step
    with pytest.raises(ValueError, match=r"step|steps"):
        e.op(drawn(0, *e.shape), step)


@every(EXAMPLES)
def test_a_step_that_does_not_broadcast_is_refused_and_one_number_in_a_tensor_is_a_number(e):
    x = drawn(0, *e.shape)
    with pytest.raises(ValueError, match="broadcast"):
        e.op(x, torch.ones(5, *(1 for _ in e.shape)))
    for one in (torch.tensor(0.5), torch.full((1,) * (x.ndim + 1), 0.5), torch.tensor([0.5], dtype=torch.float32)):
        assert torch.equal(e.op(x, one), e.op(x, 0.5))


@every([e for e in EXAMPLES if e.op.metric == "group"])
def test_a_group_operator_refuses_steps_that_vary_over_its_dims(e):
    with pytest.raises(ValueError, match=r"constant over .*group_metric"):
        e.op(drawn(0, *e.shape), 10 ** drawn(1, *e.shape))


def test_a_group_operator_takes_steps_that_do_not_vary_over_its_dims():
    x = drawn(0, 3, 4)
    assert torch.equal(Normalize(dim=1)(x, torch.rand(3, 1)), Normalize(dim=1)(x))


def test_group_metric_reduces_over_the_coupled_dims_and_leaves_the_rest_alone():
    c, shape = tensor([1.0, 2.0, 3.0, 6.0]), (3, 4)
    assert torch.equal(group_metric(Normalize(dim=1), c, shape, "mean"), torch.full((3, 1), 3.0).double())
    assert torch.equal(group_metric(Normalize(dim=1), c, shape, "amax"), torch.full((3, 1), 6.0).double())
    assert torch.equal(group_metric(Normalize(dim=0), c, shape, "mean"), c)
    assert group_metric(Function(torch.relu), c, shape, "mean").tolist() == [[3.0]]
    assert group_metric(Simplex(1), c, shape, "mean") is c
    assert group_metric(NonNegative(), c, shape, "amax") is c


# ── tensors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@every(EXAMPLES)
def test_shape_dtype_and_input_are_kept_and_the_output_is_new(e, dtype):
    x = (drawn(9, *e.shape) + 2).to(dtype)
    before = x.clone()
    steps = (0.0, 0.5, torch.tensor([[0.5]]), *([INF] if e.op.attained else []))
    for y in (e.op(x, step) for step in steps):
        assert (y.shape, y.dtype) == (x.shape, dtype)
        assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert torch.equal(x, before)
    eps = torch.finfo(dtype).eps
    tolerance = (4 if eps > 1e-5 else 100) * eps + (e.tol**0.5 if e.tol > 1e-9 else 0)
    assert torch.allclose(e.op(x, 0.5).double(), e.op(x.double(), 0.5), rtol=tolerance, atol=tolerance)


@every(EXAMPLES)
def test_strides_do_not_matter(e):
    x, close = drawn(10, *e.shape) + 0.5, 1e-14 + (e.tol**0.5 if e.tol > 1e-9 else 0)
    for odd in (x.mT.contiguous().mT, torch.stack([x, x], -1)[..., 0], x.flip(1).flip(1)):
        assert torch.allclose(e.op(odd, 0.5), e.op(x, 0.5), atol=close)
    spread = torch.tensor(0.3).double().expand(e.shape)
    assert torch.allclose(e.op(spread, 0.5), e.op(spread.clone(), 0.5), atol=close)


@every([e for e in ELEMENTWISE if not e.op._held])
@pytest.mark.parametrize("shape", [(), (5,), (0,), (0, 4), (2, 3, 4)], ids=str)
def test_an_entrywise_operator_takes_any_shape_and_a_batch_equals_a_loop(e, shape):
    if isinstance(e.op, Transposed) or not _shapeless(e.op):
        return
    x = drawn(11, *shape)
    y = e.op(x, 0.5)
    assert y.shape == shape
    one = torch.stack([e.op(v, 0.5) for v in x.reshape(-1)]) if x.numel() else y.reshape(-1)
    assert torch.allclose(y.reshape(-1), one, rtol=1e-14, atol=1e-15)


def _shapeless(p):
    return not any(isinstance(v, torch.Tensor | Transposed | dict) for v in vars(p).values())


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
@every([e for e in ALONG if not e.op._held])
def test_an_operator_along_a_dim_works_slice_by_slice_in_three_dims(e, dim):
    shape = [2, 2, 2]
    shape[dim] = e.shape[e.op.dim]
    p, first = dataclasses.replace(e.op, dim=dim), dataclasses.replace(e.op, dim=0)
    if p.dims != (dim,):
        return  # what couples more than its dim is tested by itself
    x, step = drawn(12, *shape) + 1, 10 ** drawn(13, *shape)
    step = group_metric(p, step, tuple(shape), "mean")
    y = p(x, step)
    slices, steps = (t.expand(shape).movedim(dim, -1).reshape(-1, shape[dim]) for t in (x, step))
    one = torch.stack([first(r, t[0] if p.metric == "group" else t) for r, t in zip(slices, steps, strict=True)])
    assert torch.allclose(y.movedim(dim, -1).reshape(one.shape), one, atol=1e-12 + (e.tol**0.5 if e.tol > 1e-9 else 0))


@every([e for e in EXAMPLES if e.op.dims == (-2, -1)])
def test_a_matrix_operator_takes_a_batch_of_matrices(e):
    x = drawn(14, 2, 3, *e.shape)
    y = e.op(x, 0.5)
    assert torch.allclose(y, torch.stack([torch.stack([e.op(m, 0.5) for m in b]) for b in x]), atol=1e-12 + e.tol**0.5)


@every(PLAIN)
def test_a_slice_of_one_entry_is_right_or_refused_and_an_empty_batch_is_empty(e):
    shape = [3, 3]
    shape[e.op.dim] = 1
    x = drawn(15, *shape)
    try:
        y = e.op(x, 0.7)
    except ValueError as error:
        assert str(error)  # noqa: PT017
    else:
        assert y.isfinite().all()
        if e.op.exact:
            best = objective(e, y, x, 0.7)
            assert all(objective(e, z, x, 0.7) >= best - e.tol * max(1, abs(best)) for z in rivals(e, x, y, 0.7, 60))
    shape[e.op.dim], shape[1 - e.op.dim % 2] = e.shape[e.op.dim], 0
    assert e.op(torch.zeros(shape)).shape == tuple(shape)


@every(ALONG)
def test_an_empty_slice_is_refused_or_empty_and_a_dim_that_is_not_there_refused(e):
    shape = [3, 3]
    shape[e.op.dim] = 0
    try:
        assert e.op(torch.zeros(shape)).shape == tuple(shape)
    except ValueError as error:
        assert "Index" not in str(error)  # noqa: PT017
    with pytest.raises(ValueError, match="no dim 2"):
        dataclasses.replace(e.op, dim=2)(torch.zeros(e.shape))


@pytest.mark.parametrize("dim", ["a", 1.5, None, True])
def test_a_dim_is_a_whole_number(dim):
    with pytest.raises(TypeError, match="whole number"):
        Simplex(dim)


@every(EXAMPLES)
def test_what_is_no_floating_tensor_is_refused(e):
    for x in (torch.ones(e.shape, dtype=torch.int64), [1.0]):
        with pytest.raises(TypeError, match="floating-point"):
            e.op(x)


@every([e for e in EXAMPLES if any(t.numel() > 1 for _, t in e.op._held)])
def test_a_parameter_that_does_not_fit_x_is_refused_by_name(e):
    with pytest.raises(ValueError, match=r"shape|size|length"):
        e.op(torch.ones(*(d + 3 for d in e.shape)))
    with pytest.raises(ValueError, match=r"fit|shape|W"):
        e.op.check(tuple(d + 3 for d in e.shape), "W")


@every(EXAMPLES)
def test_check_takes_a_matrix_that_fits(e):
    e.op.check(e.shape, "W")


def test_check_refuses_a_dim_that_a_matrix_has_not():
    with pytest.raises(ValueError, match="dim is 2"):
        Simplex(2).check((3, 4), "W")
    with pytest.raises(ValueError, match="dim is 2"):
        Simplex(2).T.check((3, 4), "W")


# ── precision ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@every([e for e in ATTAINED if e.extreme])
def test_enormous_entries_stay_finite(e):
    x = tensor(1e300, -1e300, 0.0, 1.0).repeat(math.prod(e.shape) // 4 + 1)[: math.prod(e.shape)].reshape(e.shape)
    for step in (0.0, 1e-300, 1.0, 1e300, INF):
        assert e.op(x, step).isfinite().all()
    assert e.op(torch.full(e.shape, 1e30), 1e60).isfinite().all()  # a step that float32 cannot hold


@every(EXACT)
def test_equal_entries_zeros_and_ties_are_no_trouble(e):
    for x in (torch.zeros(e.shape), torch.ones(e.shape), -torch.ones(e.shape), drawn(3, *e.shape).round()):
        for dtype in (torch.float32, torch.float64):
            x = x.to(dtype)
            y = e.op(x, 0.5)
            assert y.isfinite().all()
        best = objective(e, y, x, 0.5)
        assert best < INF
        assert all(objective(e, z, x, 0.5) >= best - e.tol * max(1, abs(best)) for z in rivals(e, x, y, 0.5, 30))


@every(EXACT)
def test_a_large_offset_in_float32_costs_no_more_than_its_rounding(e):
    x = (1e4 + drawn(35, *e.shape)).float()
    y, exact = e.op(x, 0.5).double(), e.op(x.double(), 0.5)
    assert (y - exact).abs().max() <= 1e4 * (32 * torch.finfo(torch.float32).eps + 10 * (e.tol if e.tol > 1e-9 else 0) ** 0.5)


# ── properties ────────────────────────────────────────────────────────────────────────────────────────────────────────


@every(SETS)
def test_a_projection_is_idempotent_and_does_not_look_at_a_single_step(e):
    x, close = 3 * drawn(15, *e.shape), 1e-12 + (10 * e.tol**0.5 if e.tol > 1e-9 else 0)
    y = e.op(x)
    assert torch.allclose(e.op(y), y, atol=close)
    assert torch.allclose(e.op(x, 100.0), y, atol=close)
    assert torch.allclose(e.op(y, step_of(e, "cells")), y, atol=close)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), size=st.floats(-3, 3), spread=st.floats(0, 3))
@every(CONVEX)
def test_a_convex_prox_is_firmly_nonexpansive_in_its_metric(e, seed, size, spread):
    x, z = 10**size * drawn(seed, *e.shape), 10**size * drawn(seed + 1, *e.shape)
    step = group_metric(e.op, 10 ** (spread * drawn(seed + 2, *e.shape)), e.shape, "mean")
    a, b = e.op(x, step), e.op(z, step)
    inner = ((a - b) * (x - z) / step).sum()
    moved = ((a - b) ** 2 / step).sum()
    close = 1e-9 + (e.tol**0.5 if e.tol > 1e-9 else 0)
    assert moved <= inner + close * (1 + inner.abs())


@every(CONVEX)
def test_a_convex_term_is_below_its_chords(e):
    for seed in range(20):
        a, b = (e.op(3 * drawn(seed + s, *e.shape), 0.0) for s in (100, 200))
        ends, middle = e.g(a) + e.g(b), e.g((a + b) / 2)
        assert 2 * middle <= ends + 1e-7 * (1 + abs(ends))


@every([e for e in EXACT if e.smooth])
def test_gradients_flow_and_are_right(e):
    x = (2 * drawn(36, *e.shape)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: e.op(v, 0.7), x, atol=1e-4, rtol=1e-4)
    zero = torch.zeros(e.shape, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(e.op(zero, 0.7).sum(), zero, allow_unused=True)
    assert slope is None or slope.isfinite().all()


@every(EXAMPLES)
def test_the_transpose_acts_on_the_transpose(e):
    p = e.op
    x, step = drawn(16, *e.shape), group_metric(p, 10 ** drawn(1, *e.shape), e.shape, "mean")
    close = 1e-12 + (e.tol**0.5 if e.tol > 1e-9 else 0)
    assert torch.allclose(p.T(x.mT, step.mT), p(x, step).mT, atol=close)
    assert torch.allclose(p.T.T(x, step), p(x, step), atol=close)
    assert torch.allclose(p.T(x.mT), p(x).mT, atol=close)
    y = p(x)
    assert p.T.value(y.mT) == pytest.approx(p.value(y))
    assert torch.allclose(p.T.violation(x.mT), p.violation(x).mT, atol=close)
    for name in ("convex", "exact", "metric", "is_set", "cone", "attained", "complex"):
        assert getattr(p.T, name) == getattr(p, name)
    assert [p.T.couples(d) for d in (0, 1)] == [p.couples(d) for d in (1, 0)]


def test_the_transpose_takes_matrices_and_operators_only():
    with pytest.raises(ValueError, match=r"takes a matrix|no dim"):
        Transposed(Simplex(0))(torch.ones(3))
    with pytest.raises(TypeError, match="operator is needed"):
        Transposed(3)


@pytest.mark.parametrize("index", [slice(1, 3), slice(2, 3), slice(0, 0), torch.tensor([2, 0]), torch.tensor([1])], ids=str)
@pytest.mark.parametrize("dim", [0, 1, -1])
@every(EXAMPLES)
def test_take_is_the_part_of_the_whole_or_refuses_the_coupled_dim_by_name(e, dim, index):
    x = drawn(17, *e.shape)
    at = (index,) if dim == 0 else (slice(None), index)
    if e.op.couples(dim):
        with pytest.raises(ValueError, match=f"couples dim {dim}"):
            e.op.take(index, dim)
    elif x[at].shape[dim] or e.op.dims == ():
        close = 1e-13 + (e.tol**0.5 if e.tol > 1e-9 else 0)
        assert torch.allclose(e.op.take(index, dim)(x[at], 0.5), e.op(x, 0.5)[at], atol=close)


@pytest.mark.parametrize("index", [1, torch.tensor(1), [0, 1], torch.ones(1, 1).long()], ids=str)
def test_take_needs_an_index_that_keeps_the_dim(index):
    with pytest.raises(TypeError, match=r"slice\(q, q \+ 1\)"):
        NonNegative().take(index, 0)


@every(EXAMPLES)
def test_an_operator_can_be_pickled_and_copied(e):
    x = drawn(18, *e.shape)
    for twin in (pickle.loads(pickle.dumps(e.op)), copy.deepcopy(e.op)):
        assert torch.equal(twin(x), e.op(x))
        assert repr(twin) == repr(e.op)


@every(EXAMPLES)
def test_the_class_says_whether_it_is_a_set_and_a_cone(e):
    p, close = e.op, 1e-9 + 10 * (e.tol if e.tol > 1e-9 else 0) ** 0.5
    y = p(drawn(19, *e.shape))
    if p.is_set and p.exact:
        assert p.value(y) == 0
        assert e.g(y) == 0
    if p.cone and p.exact:
        for size in (3, 1e-3):
            assert torch.allclose(p(size * y, 0.0), size * y, atol=close)
    assert p.terms[0] is p or len(p.terms) > 1 or isinstance(p, Transposed)
    assert all(isinstance(t, Prox) for t in p.terms)


# ── value and violation ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@every(EXACT)
def test_value_is_the_term_itself_in_float64(e, dtype):
    y = e.op(drawn(20, *e.shape).to(dtype), 0.5)
    value = e.op.value(y)
    assert (value.dtype, value.ndim) == (torch.float64, 0)
    if dtype != torch.bfloat16 or e.op.is_set:
        assert value.isfinite()
    if dtype == torch.float64:
        assert value.item() == pytest.approx(e.g(y), rel=1e-6, abs=1e-8)


@every(SETS)
def test_a_set_is_zero_inside_to_rounding_and_infinite_outside(e):
    y = e.op(5 * drawn(21, *e.shape))
    if type(e.op) is Unconstrained:
        assert e.op.value(y - 100) == 0
        return
    assert e.op.value(y + 1e-10 * drawn(22, *e.shape)) == 0
    outside = [w for w in (y - 7, y + 7, y + 3 * drawn(23, *e.shape)) if e.g(w) == INF]
    assert outside
    assert all(e.op.value(w) == INF for w in outside)
    assert e.op.value(torch.full(e.shape, math.nan).double()) == INF


@every(EXACT)
def test_the_violation_has_one_number_for_each_slice(e):
    x = 3 * drawn(24, *e.shape)
    away = e.op.violation(x)
    coupled = range(len(e.shape)) if e.op.dims is None else [d % len(e.shape) for d in e.op.dims]
    assert away.shape == tuple(1 if d in coupled else n for d, n in enumerate(e.shape))
    assert (away >= 0).all()


def test_violation_is_the_distance_of_each_slice():
    assert NonNegative().violation(tensor([-2.0, 3.0])).tolist() == [[2.0, 0.0]]
    assert Simplex(1).violation(tensor([1.0, 0.0], [2.0, 0.0], [0.0, 0.0])).tolist() == [[0.0], [1.0], [pytest.approx(0.5**0.5)]]
    assert Box(0, 1).violation(torch.tensor([2.0], dtype=torch.bfloat16)).item() == 1
    assert NonNegative().value(torch.zeros(0, 3)) == 0


# ── the catalogue ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_listed_operator_is_among_the_examples():
    def kinds(p):
        if isinstance(p, Prox):
            return {type(p)}.union(*(kinds(v) for v in vars(p).values()))
        return set().union(*map(kinds, p.values() if isinstance(p, dict) else p)) if isinstance(p, dict | tuple) else set()

    ours = [k for k in Prox.catalogue() if k.__module__.startswith("proxfactor")]
    assert set(ours) <= set().union(*(kinds(e.op) for e in EXAMPLES))


def test_short_names_are_unique():
    names = [n for k in Prox.catalogue() if k.__module__.startswith("proxfactor") for n in {k.__name__.lower(), k.alias} if n]
    assert len(names) == len(set(names))


@every([e for e in ELEMENTWISE if e.op.alike])
def test_a_large_tensor_is_taken_in_blocks_with_the_same_result(e, monkeypatch):
    x = drawn(37, 24, 5, dtype=torch.float32)
    whole = e.op(x, 0.7)
    monkeypatch.setattr("proxfactor.prox.base._BLOCK", 7)
    assert torch.allclose(e.op(x, 0.7), whole, rtol=1e-5, atol=1e-7)


def test_what_looks_at_the_place_of_a_number_is_not_taken_in_blocks():
    rows = Rows({0: NonNegative()}, rest=L1(0.5))
    assert not any(p.alike for p in (rows, rows.T, rows + NonPositive(), Simplex(0), L1(WEIGHTS)))
    assert all(p.alike for p in (L1(0.5), L1(0.5) + NonNegative(), Translated(L1(0.5), 1.0)))


@every([e for e in PLAIN if e.op.exact and e.op.attained])
def test_long_slices_take_the_limits_of_the_step_too(e):
    shape = [2, 2]
    shape[e.op.dim] = 300
    x = 2 * drawn(38, *shape)
    try:
        ends = [e.op(x, step) for step in (0.0, INF)]
    except ValueError as refused:
        assert "300" in str(refused)  # noqa: PT017
        return
    for y, step in zip(ends, (1e-13, 1e11), strict=True):
        assert torch.allclose(y, e.op(x, step), atol=1e-6 + 10 * e.tol**0.5)
