"""ProxLBFGS and APGM: accuracy, cost and honesty of the optimizers that measure curvature; and what they measure."""

from itertools import pairwise

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import nn

from proxfactor import L1, GroupLasso, L2Squared, NonNegative, Simplex, TopK, Unconstrained
from proxfactor.optim import APGM, ProxLBFGS, ray
from proxfactor.optim.base import Part
from proxfactor.optim.curvature import Curvature
from proxfactor.optim.flat import Flat

both = pytest.mark.parametrize("make", [APGM, ProxLBFGS])


def double(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Counted:
    """A closure that counts its calls."""

    def __init__(self, optimizer, loss):
        self.optimizer, self.loss, self.calls = optimizer, loss, 0

    def __call__(self):
        self.calls += 1
        self.optimizer.zero_grad()
        value = self.loss()
        value.backward()
        return value


def descend(optimizer, loss, steps):
    closure = Counted(optimizer, loss)
    return [optimizer.step(closure).item() for _ in range(steps)]


# ── where they end ────────────────────────────────────────────────────────────────────────────────────────────────────

M, b = double(30, 12, seed=1) * torch.logspace(-1, 1, 12, dtype=torch.float64), double(30, seed=2)
y = torch.where(b > 0, 1.0, -1.0)


def squares(w):
    return 0.5 * (M @ w.reshape(-1) - b).square().sum()


def logistic(w):
    return nn.functional.softplus(-y * (M @ w.reshape(-1))).sum()


def squares_cp(w):
    return 0.5 * cp.sum_squares(M.numpy() @ w - b.numpy())


def logistic_cp(w):
    return cp.sum(cp.logistic(cp.multiply(-y.numpy(), M.numpy() @ w)))


def norms(w):
    return sum(cp.norm2(w[i : i + 3]) for i in range(0, 12, 3))


CONVEX = {
    "lasso": (squares, squares_cp, L1(3.0), lambda w: 3 * cp.norm1(w), lambda w: []),
    "ridge": (squares, squares_cp, L2Squared(2.0), cp.sum_squares, lambda w: []),
    "simplex": (squares, squares_cp, Simplex(dim=0), lambda w: 0, lambda w: [w >= 0, cp.sum(w) == 1]),
    "nonnegative": (squares, squares_cp, NonNegative(), lambda w: 0, lambda w: [w >= 0]),
    "group lasso": (squares, squares_cp, GroupLasso(-1, 2.0), lambda w: 2 * norms(w), lambda w: []),
    "sparse logistic": (logistic, logistic_cp, L1(1.0), cp.norm1, lambda w: []),
}


@both
@pytest.mark.parametrize("name", CONVEX)
def test_they_end_where_clarabel_ends(make, name):
    loss, cost, prox, penalty, where = CONVEX[name]
    v = cp.Variable(12)
    accuracy = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
    best = cp.Problem(cp.Minimize(cost(v) + penalty(v)), where(v)).solve(solver=cp.CLARABEL, **accuracy)
    w = nn.Parameter(double(4, 3, seed=3) if name == "group lasso" else double(12, seed=3))
    optimizer = make([w], prox)
    descend(optimizer, lambda: loss(w), 800 if make is APGM else 200 if name == "ridge" else 60)
    value = float(loss(w.detach()) + prox.value(w.detach()))
    assert (value - best) / abs(best) < 1e-9
    np.testing.assert_allclose(w.detach().reshape(-1).numpy(), v.value, atol=1e-4)
    assert optimizer.converged(1e-6)


def test_where_it_stands_still_the_closure_is_not_called_again():
    w = nn.Parameter(double(12, seed=3))
    optimizer = ProxLBFGS([w], "nonneg")
    closure = Counted(optimizer, lambda: squares(w))
    for _ in range(60):
        optimizer.step(closure)
    calls, before = closure.calls, w.detach().clone()
    for _ in range(10):
        optimizer.step(closure)
    assert closure.calls == calls
    assert torch.equal(w, before)
    assert optimizer.converged(1e-8)


def phase():
    A = double(40, 6, seed=1)
    z = (A @ double(6, seed=2)).square()
    w = nn.Parameter(double(6, seed=3))
    return [w], L1(0.01), lambda: ((A @ w).square() - z).square().mean()


def sparse():
    w = nn.Parameter(double(12, seed=3))
    return [w], TopK(0, 3), lambda: squares(w)


def factors():
    X, W, H = uniform(12, 9, seed=1), nn.Parameter(uniform(12, 2, seed=2)), nn.Parameter(uniform(2, 9, seed=3))
    return [W, H], NonNegative(), lambda: 0.5 * (W @ H - X).square().sum()


@both
@pytest.mark.parametrize("problem", [phase, sparse, factors])
def test_the_objective_never_rises(make, problem):
    params, prox, loss = problem()
    optimizer, values = make(params, prox), []
    for _ in range(40):
        descend(optimizer, loss, 1)
        values.append(float(loss()) + sum(float(prox.value(p.detach())) for p in params))
    assert all(after <= before + 1e-12 * abs(values[0]) for before, after in pairwise(values))
    assert values[-1] < values[0]


@both
@pytest.mark.parametrize("power", [20, -20])
def test_the_same_bits_at_every_scale_that_is_a_power_of_two(make, power):
    def problem(scale):
        X = (uniform(30, 3, seed=1) @ uniform(3, 20, seed=2) + 0.01 * double(30, 20, seed=3)) * scale
        W, H = nn.Parameter(uniform(30, 3, seed=4) * scale**0.5), nn.Parameter(uniform(3, 20, seed=5) * scale**0.5)
        return [W, H], lambda: 0.5 * (W @ H - X).square().sum()

    (ours, loss), (theirs, twin) = problem(1.0), problem(2.0**power)
    a, c = descend(make(ours, "nonneg"), loss, 60), descend(make(theirs, "nonneg"), twin, 60)
    assert a == [v * 2.0 ** (-2 * power) for v in c]
    assert all(torch.equal(p, q * 2.0 ** (-power // 2)) for p, q in zip(ours, theirs, strict=True))


# ── what they refuse ──────────────────────────────────────────────────────────────────────────────────────────────────


@both
def test_a_closure_that_draws_anew_is_told(make):
    w, generator = nn.Parameter(double(12, seed=3)), torch.Generator().manual_seed(0)
    optimizer = make([w], "nonneg")

    def loss():
        keep = torch.rand(30, generator=generator) > 0.5
        return (0.5 * (M @ w - b)[keep].square()).sum()

    with pytest.raises(RuntimeError, match=r"closure's loss is .* where it was .*no dropout"):
        descend(optimizer, loss, 500)
    assert w.isfinite().all()


@pytest.mark.parametrize("name", ["history", "inner"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "many", None])
def test_numbers_that_are_not_whole_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .* in param group 0; it must be a whole number of at least 1"):
        ProxLBFGS([nn.Parameter(double(2))], "nonneg", **{name: value})


@both
def test_a_loss_that_is_not_finite_at_the_start_is_refused(make):
    w = nn.Parameter(double(3))
    before = w.detach().clone()
    with pytest.raises(RuntimeError, match="start where it is finite"):
        descend(make([w], "nonneg"), lambda: w.sum() + torch.inf, 1)
    assert torch.equal(w, before)


@both
def test_groups_that_go_different_ways_are_refused(make):
    groups = [{"params": [nn.Parameter(double(2))]}, {"params": [nn.Parameter(double(2))], "maximize": True}]
    with pytest.raises(ValueError, match="param group 1 has maximize=True, other groups not"):
        make(groups, "nonneg")


# ── what they measure ─────────────────────────────────────────────────────────────────────────────────────────────────


def measured(params, loss):
    prox = NonNegative()

    def evaluate(x):
        flat.write(x)
        for p in params:
            p.grad = None
        value = loss()
        value.backward()
        return value.item(), flat.gradient()

    loss().backward()
    parts = [Part({"prox": prox}, p, p.detach(), p.grad, prox) for p in params]
    flat = Flat(parts)
    x = flat.values()
    return Curvature.probe(flat, x, *evaluate(x), evaluate, seed=0).blocks


def test_of_a_factorization_it_measures_the_grams():
    A, S, Y = nn.Parameter(uniform(20, 3, seed=1)), nn.Parameter(uniform(3, 30, seed=2)), uniform(20, 30, seed=3)
    first, second = measured([A, S], lambda: 0.5 * (Y - A @ S).square().sum())
    gram_S, gram_A = (uniform(3, 30, seed=2) @ uniform(3, 30, seed=2).mT), (uniform(20, 3, seed=1).mT @ uniform(20, 3, seed=1))
    torch.testing.assert_close(first["right"], gram_S, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second["left"], gram_A, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 1), (1, 5), ()])
def test_of_a_separable_square_it_measures_the_rows_or_columns(shape):
    c, t, w = 1 + uniform(*shape, seed=1), double(6, 5, seed=2), nn.Parameter(1 + uniform(6, 5, seed=3))
    (block,) = measured([w], lambda: 0.5 * (c * (w - t).square()).sum())
    torch.testing.assert_close(block["scale"].expand(6, 5), c.expand(6, 5), rtol=1e-6, atol=1e-6)


def test_the_way_to_the_right_scale_is_read_off_the_gradient():
    X, W, H = uniform(20, 9, seed=1), uniform(20, 3, seed=2), uniform(3, 9, seed=3)

    def parts(factor, prox):
        w, h = W * factor, H * factor
        away = w @ h - X
        return [Part({"prox": prox}, x, x, g, prox) for x, g in ((w, away @ h.mT), (h, w.mT @ away))]

    def right(before, after, prox, way):
        pairs = zip(parts(after, prox), parts(before, prox), strict=True)
        return ray.right(((there, here.grad) for there, here in pairs), way)

    free = NonNegative()
    assert [ray.way(parts(f, free)) for f in (1e-3, 1e3)] == [1, -1]
    assert ray.way(parts(1e3, Simplex(dim=0))) == 0
    assert ray.way(parts(1e-3, L1(1e9))) == 0  # the penalty is stronger
    assert right(1e-3, 1e-2, free, 1)
    assert right(1e3, 1e2, free, -1)
    assert not right(1.0, 0.1, free, -1)
    assert not right(1.0, 10.0, free, 1)


def test_a_small_product_of_the_wrong_sign_is_not_made_smaller():
    a, b, target = double(5, 2, seed=1) * 1e-3, double(2, 4, seed=2) * 1e-3, double(5, 4, seed=3)
    target = target if (a @ b * target).sum() < 0 else -target  # the loss falls towards zero, by nothing

    def parts(factor):
        w, h = a * factor, b * factor
        away = w @ h - target
        return [Part({"prox": None}, x, x, g, Unconstrained()) for x, g in ((w, away @ h.mT), (h, w.mT @ away))]

    for part in (here := parts(1.0)) + (there := parts(0.1)):
        part.group["prox"] = part.prox
    assert ray.way(here) == -1
    assert not ray.right(((t, h.grad) for t, h in zip(there, here, strict=True)), -1)
