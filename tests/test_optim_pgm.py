"""PGM without a learning rate: where it ends, at which scales, and what it notices."""

import math
from itertools import pairwise

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import nn

from proxfactor import L1, PGM, GroupLasso, NonNegative, Prox, Simplex


def double(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def closure_of(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def descend(optimizer, loss, steps, closure=True):
    call, losses = closure_of(optimizer, loss), []
    for _ in range(steps):
        if closure:
            losses.append(float(optimizer.step(call)))
        else:
            losses.append(float(call()))
            optimizer.step()
    return losses


# ── where it ends ─────────────────────────────────────────────────────────────────────────────────────────────────────

M, b = double(30, 12, seed=1) * torch.logspace(-0.5, 0.5, 12, dtype=torch.float64), double(30, seed=2)
GROUPED = GroupLasso(-1, 2.0)
CONVEX = {
    "lasso": (L1(3.0), lambda w: 3 * cp.norm1(w), []),
    "simplex": (Simplex(dim=0), lambda w: 0, lambda w: [w >= 0, cp.sum(w) == 1]),
    "nonnegative": (NonNegative(), lambda w: 0, lambda w: [w >= 0]),
    "group lasso": (GROUPED, lambda w: 2 * sum(cp.norm2(w[i : i + 3]) for i in range(0, 12, 3)), []),
}


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("name", CONVEX)
def test_it_ends_where_clarabel_ends(name, closure):
    prox, penalty, where = CONVEX[name]
    v = cp.Variable(12)
    cost = 0.5 * cp.sum_squares(M.numpy() @ v - b.numpy()) + penalty(v)
    cp.Problem(cp.Minimize(cost), where(v) if callable(where) else where).solve(solver=cp.CLARABEL)
    w = nn.Parameter(double(4, 3, seed=3) if name == "group lasso" else double(12, seed=3))
    optimizer = PGM([w], prox)
    descend(optimizer, lambda: 0.5 * (M @ w.reshape(-1) - b).square().sum(), 1500, closure)
    np.testing.assert_allclose(w.detach().reshape(-1).numpy(), v.value, atol=2e-5)
    optimizer.zero_grad()
    (0.5 * (M @ w.reshape(-1) - b).square().sum()).backward()
    assert optimizer.converged(1e-6)


def problems(dtype):
    A, y = double(40, 6, seed=1).to(dtype), (uniform(40, seed=2) > 0.5).to(dtype)
    X = (uniform(12, 2, seed=4) @ uniform(2, 9, seed=5)).to(dtype)
    w, v = nn.Parameter(double(6, seed=3).to(dtype)), nn.Parameter(double(6, seed=3).to(dtype))
    P, Q = nn.Parameter(uniform(12, 2, seed=6).to(dtype)), nn.Parameter(uniform(2, 9, seed=7).to(dtype))
    return {
        "lasso": ([w], L1(3.0), lambda: 0.5 * (A @ w - y).square().sum()),
        "logistic": ([v], L1(0.5), lambda: nn.functional.binary_cross_entropy_with_logits(A @ v, y, reduction="sum")),
        "nmf": ([P, Q], NonNegative(), lambda: 0.5 * (P @ Q - X).square().sum()),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["lasso", "logistic", "nmf"])
def test_far_beyond_convergence_it_goes_on_without_a_word(name, dtype):
    params, prox, loss = problems(dtype)[name]
    losses = descend(PGM(params, prox), loss, 5000, closure=False)
    assert losses[-1] <= losses[1000] * (1 + 1e-4) + 1e-10
    assert all(p.isfinite().all() for p in params)


# ── scales ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def factorization(scale=1.0, factors=None):
    X = (uniform(30, 3, seed=1) @ uniform(3, 20, seed=2) + 0.01 * double(30, 20, seed=3)) * scale
    factors = scale**0.5 if factors is None else factors
    W, H = nn.Parameter(uniform(30, 3, seed=4) * factors), nn.Parameter(uniform(3, 20, seed=5) * factors)
    return X, [W, H], lambda: 0.5 * (W @ H - X).square().sum()


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("power", [20, -20])
def test_the_same_bits_at_every_scale_that_is_a_power_of_two(power, closure):
    _, ours, loss = factorization()
    _, theirs, twin = factorization(2.0**power)
    a = descend(PGM(ours, "nonneg"), loss, 200, closure)
    assert a == [v * 2.0 ** (-2 * power) for v in descend(PGM(theirs, "nonneg"), twin, 200, closure)]
    assert all(torch.equal(p, q * 2.0 ** (-power // 2)) for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_raw_start_at_any_scale_of_the_data_comes_within_a_hundredth(scale, closure):
    _, params, loss = factorization(scale, factors=1.0)
    X, best, ideal = factorization()
    bottom = descend(PGM(best, "nonneg"), ideal, 2000)[-1] * scale**2
    zero = 0.5 * (X * scale).square().sum().item()
    last = descend(PGM(params, "nonneg"), loss, 500, closure)[-1]
    assert (last - bottom) / (zero - bottom) < 1e-2


# ── what it notices ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mini_batches_of_least_squares_are_told_with_the_way_out(dtype):
    A, y, w = double(200, 8, seed=1).to(dtype), double(200, seed=2).to(dtype), nn.Parameter(double(8, seed=3).to(dtype))
    optimizer, generator = PGM([w], L1(0.01)), torch.Generator().manual_seed(0)

    def loss():
        some = torch.randint(0, 200, (20,), generator=generator)
        return (A[some] @ w - y[some]).square().mean()

    with pytest.raises(RuntimeError, match=r"automatic step has died.*mini-batches.*number for lr"):
        descend(optimizer, loss, 300, closure=False)
    assert w.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_mini_batches_of_a_network_are_told_with_the_way_out(dtype):
    torch.manual_seed(0)
    x = double(300, 5, seed=1).to(dtype)
    labels = (x[:, 0] * x[:, 1] + 0.5 * double(300, seed=2).to(dtype) > 0).long()
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2)).to(dtype)
    optimizer, generator = PGM(net.parameters(), L1(1e-4)), torch.Generator().manual_seed(0)

    def loss():
        some = torch.randint(0, 300, (30,), generator=generator)
        return nn.functional.cross_entropy(net(x[some]), labels[some])

    with pytest.raises(RuntimeError, match="automatic step has died"):
        descend(optimizer, loss, 300, closure=False)
    assert all(p.isfinite().all() for p in net.parameters())


def test_with_a_closure_the_loss_on_a_set_never_rises_once_the_scale_is_known():
    _, params, loss = factorization()
    losses = descend(PGM(params, [Prox.parse("nonneg")]), loss, 400)
    assert losses[2] <= losses[0]  # the second is that of another scale, tried and left
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(losses[2:]))
    assert losses[-1] < 0.1 * losses[0]


def test_a_loss_that_overflows_where_a_step_leads_is_stepped_back_from():
    w = nn.Parameter(torch.tensor([3.0, 0.1], dtype=torch.float64))
    losses = descend(PGM([w], "nonneg"), lambda: (w.exp().exp() - 9 * w).sum(), 300)
    assert all(math.isfinite(value) for value in losses)
    assert losses[-1] == pytest.approx(min(losses), rel=1e-9)


@pytest.mark.parametrize("option", [{"momentum": 0.9}, {"capturable": True}])
def test_momentum_and_capture_need_a_number(option):
    with pytest.raises(ValueError, match="goes with a number for lr"):
        PGM([nn.Parameter(double(2))], "nonneg", **option)


@pytest.mark.parametrize("lr", ["fast", "", 0, -1.0, math.nan, None])
def test_any_other_rate_is_refused(lr):
    with pytest.raises(ValueError, match="auto"):
        PGM([nn.Parameter(double(2))], "nonneg", lr=lr)
