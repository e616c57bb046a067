"""NPG: spectral steps that may rise for a while, for nonconvex penalties, one evaluation of the closure per step as a rule."""

import copy
import io
import itertools
import pickle

import cvxpy as cp
import pytest
import torch
from torch import nn

from proxfactor import L0, L1, MCP, NonNegative, RankAtMost, TopK
from proxfactor.optim.npg import NPG


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameter(*shape, seed=0):
    return nn.Parameter(double(*shape, seed=seed))


class Counted:
    """A closure that counts its evaluations."""

    def __init__(self, optimizer, loss):
        self.optimizer, self.loss, self.count = optimizer, loss, 0

    def __call__(self):
        self.optimizer.zero_grad()
        value = self.loss()
        value.backward()
        self.count += 1
        return value


def run(optimizer, loss, steps):
    closure = Counted(optimizer, loss)
    return [optimizer.step(closure).item() for _ in range(steps)]


def least_squares(n=20, m=40, seed=0):
    M, b = double(m, n, seed=seed), double(m, seed=seed + 1)
    return M, b, lambda w: 0.5 * (M @ w - b).square().sum()


def factorization(scale=1.0, start=1.0):
    """½‖X - W H‖² with X of rank 3 and some noise, W and H not negative, from random factors."""
    X = (double(12, 3).abs() @ double(3, 15, seed=1).abs() + 0.1 * double(12, 15, seed=2)) * scale
    W, H = nn.Parameter(double(12, 3, seed=3).abs() * start), nn.Parameter(double(3, 15, seed=4).abs() * start)
    return W, H, lambda: 0.5 * (X - W @ H).square().sum()


# ── where it ends ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", [0, 1])
def test_a_lasso_ends_where_clarabel_ends(seed):
    M, b, loss = least_squares(seed=seed)
    w, v = parameter(20, seed=9), cp.Variable(20)
    best = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(M.numpy() @ v - b.numpy()) + 3 * cp.norm1(v))).solve(solver="CLARABEL")
    optimizer = NPG([w], L1(3.0))
    run(optimizer, lambda: loss(w), 60)
    assert loss(w).item() + 3 * w.abs().sum().item() == pytest.approx(best, rel=1e-7)
    assert optimizer.converged(1e-6)


def test_the_best_support_of_a_planted_sparse_vector_is_found():
    M, _, _ = least_squares()
    truth = torch.zeros(20, dtype=torch.float64)
    truth[[3, 11]] = torch.tensor([2.0, -1.5], dtype=torch.float64)
    b = M @ truth + 0.1 * double(40, seed=7)
    errors = {
        s: (M[:, s] @ torch.linalg.lstsq(M[:, s], b[:, None]).solution - b[:, None]).square().sum().item() / 2
        for s in itertools.combinations(range(20), 2)
    }
    w = parameter(20, seed=9)
    run(NPG([w], TopK(dim=0, k=2)), lambda: 0.5 * (M @ w - b).square().sum(), 60)
    assert tuple(w.nonzero().flatten().tolist()) == min(errors, key=errors.get)
    assert 0.5 * (M @ w - b).square().sum().item() == pytest.approx(min(errors.values()), rel=1e-10)


@pytest.mark.parametrize("penalty", [L0(0.5), MCP(0.5, gamma=3.0)], ids=repr)
def test_a_nonconvex_penalty_of_what_is_near_a_target_has_its_closed_form(penalty):
    b, w = double(30, seed=3), parameter(30)
    run(NPG([w], penalty), lambda: 0.5 * (w - b).square().sum(), 40)
    torch.testing.assert_close(w.detach(), penalty(b, 1.0), rtol=0, atol=1e-10)


def test_a_matrix_of_low_rank_is_the_truncated_svd():
    X, w = double(8, 6), parameter(8, 6, seed=5)
    run(NPG([w], RankAtMost(2)), lambda: 0.5 * (w - X).square().sum(), 40)
    U, s, V = torch.linalg.svd(X, full_matrices=False)
    torch.testing.assert_close(w.detach(), U[:, :2] * s[:2] @ V[:2], rtol=0, atol=1e-9)


def test_a_trial_outside_the_domain_of_the_loss_is_refused():
    w = nn.Parameter(torch.tensor([1e-3, 5.0], dtype=torch.float64))
    b = torch.tensor([2.0, 3.0], dtype=torch.float64)
    run(NPG([w]), lambda: (w - b * w.log()).sum(), 60)  # NaN where w < 0; least at b
    torch.testing.assert_close(w.detach(), b, rtol=1e-7, atol=0)


# ── what a step costs, and what it may do ─────────────────────────────────────────────────────────────────────────────


def test_a_step_that_is_taken_at_once_costs_one_evaluation():
    b = double(5)
    w = nn.Parameter(0.9 * b)  # as long a first step as the parameter is far too long: one refusal, and then none
    optimizer = NPG([w])
    closure = Counted(optimizer, lambda: 0.5 * (torch.arange(1.0, 6.0) * (w - b).square()).sum())
    counts = []
    for _ in range(6):
        optimizer.step(closure)
        counts.append(closure.count)
    assert counts[0] == 3
    assert counts[1:] == [4, 5, 6, 7, 8]


def test_the_evaluation_of_a_trial_is_not_used_again_once_a_parameter_was_changed():
    w = parameter(4)
    optimizer = NPG([w])
    closure = Counted(optimizer, lambda: w.square().sum())
    optimizer.step(closure)
    with torch.no_grad():
        w.fill_(3.0)
    assert optimizer.step(closure).item() == 36.0


def test_the_objective_may_rise_but_never_above_where_it_began():
    W, H, loss = factorization(start=3.0)
    values = run(NPG([W, H], "nonneg"), loss, 150)
    assert max(values) == values[0]
    assert any(b > a for a, b in itertools.pairwise(values))
    assert values[-1] < 1e-2 * values[0]


def test_with_a_memory_of_one_the_objective_never_rises_beyond_rounding():
    W, H, loss = factorization(start=3.0)
    values = run(NPG([W, H], "nonneg", memory=1), loss, 150)
    assert all(b <= a * (1 + 1e-13) for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("power", [-10, 10])
def test_the_same_bits_at_every_scale_that_is_a_power_of_two(power):
    (W, H, loss), (A, B, other) = factorization(), factorization(scale=4.0**power, start=2.0**power)
    plain, scaled = run(NPG([W, H], "nonneg"), loss, 100), run(NPG([A, B], "nonneg"), other, 100)
    assert scaled == [v * 16.0**power for v in plain]
    assert torch.equal(A, W * 2.0**power)
    assert torch.equal(B, H * 2.0**power)


def test_a_start_outside_the_set_is_moved_into_it():
    w, b = nn.Parameter(torch.tensor([-5.0, -1.0, 2.0])), torch.tensor([1.0, -1.0, 1.0])
    run(NPG([w], NonNegative()), lambda: (w - b).square().sum(), 10)
    torch.testing.assert_close(w.detach(), torch.tensor([1.0, 0.0, 1.0]))


def test_from_zero_the_first_step_is_scaled_by_the_loss():
    b, w = double(6) * 1e9, nn.Parameter(torch.zeros(6, dtype=torch.float64))
    run(NPG([w]), lambda: 0.5 * (w - b).square().sum(), 5)
    torch.testing.assert_close(w.detach(), b)


def test_at_a_solution_it_stands_still_and_says_so_until_something_changes():
    w, b = nn.Parameter(torch.tensor([1.0, 0.0])), torch.tensor([1.0, -1.0])
    optimizer = NPG([w], "nonneg")
    closure = Counted(optimizer, lambda: (w - b).square().sum())
    assert not optimizer.stalled
    optimizer.step(closure)
    assert optimizer.stalled
    assert w.tolist() == [1.0, 0.0]
    before = closure.count
    optimizer.step(closure)
    assert closure.count == before + 1
    b[0] = 2.0
    for _ in range(3):
        optimizer.step(closure)
    assert w.tolist() == [2.0, 0.0]


# ── the door ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_closure_is_needed():
    w = parameter(2)
    w.grad = torch.ones_like(w)
    with pytest.raises(TypeError, match=r"call step\(closure\)"):
        NPG([w]).step()


def test_a_closure_that_returns_nothing_is_named_and_nothing_moves():
    w = parameter(2)
    before = w.detach().clone()
    with pytest.raises(TypeError, match="return loss"):
        NPG([w]).step(lambda: w.square().sum().backward())
    assert torch.equal(w, before)


def test_a_loss_that_is_not_finite_is_refused_and_nothing_moves():
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = NPG([w])
    with pytest.raises(RuntimeError, match="the loss is inf"):
        optimizer.step(Counted(optimizer, lambda: w.sum() + torch.tensor(float("inf"))))
    assert w.tolist() == [1.0, 2.0]


def test_a_closure_that_fails_in_a_trial_leaves_the_parameters_as_they_were():
    w = parameter(3)
    before, optimizer = w.detach().clone(), NPG([w])
    closure = Counted(optimizer, lambda: w.square().sum())

    def fails():
        if closure.count == 1:
            raise KeyboardInterrupt
        return closure()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fails)
    assert torch.equal(w, before)


@pytest.mark.parametrize("memory", [0, -1, 2.5, True])
def test_a_memory_that_is_no_whole_number_is_refused(memory):
    with pytest.raises(ValueError, match=r"memory is .* whole number"):
        NPG([parameter(2)], memory=memory)


def test_groups_that_disagree_about_maximize_are_refused():
    with pytest.raises(ValueError, match="one loss goes up or down"):
        NPG([{"params": [parameter(2)]}, {"params": [parameter(2)], "maximize": True}])


# ── the habits of torch.optim ─────────────────────────────────────────────────────────────────────────────────────────


def test_maximize_is_minimising_the_opposite():
    (W, H, loss), (A, B, other) = factorization(), factorization()
    down, up = run(NPG([W, H], "nonneg"), loss, 20), run(NPG([A, B], "nonneg", maximize=True), lambda: -other(), 20)
    assert up == [-v for v in down]
    assert torch.equal(W, A)


def test_a_checkpoint_goes_through_a_default_torch_load_and_continues_to_the_bit():
    W, H, loss = factorization()
    optimizer = NPG([W, H], "nonneg")
    run(optimizer, loss, 12)
    file = io.BytesIO()
    torch.save({"W": W.detach(), "H": H.detach(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    A, B, other = factorization()
    with torch.no_grad():
        A.copy_(saved["W"])
        B.copy_(saved["H"])
    resumed = NPG([A, B], "nonneg")
    resumed.load_state_dict(saved["optimizer"])
    assert run(resumed, other, 12) == run(optimizer, loss, 12)
    assert torch.equal(A, W)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copied", "pickled"])
def test_a_copy_goes_on_like_the_original(twin):
    _, _, loss = least_squares()
    w = parameter(20, seed=9)
    optimizer = NPG([w], L1(3.0))
    run(optimizer, lambda: loss(w), 5)
    v, other = twin((w, optimizer))
    assert run(other, lambda: loss(v), 10) == run(optimizer, lambda: loss(w), 10)


def test_a_parameter_without_a_gradient_is_left_alone():
    w, idle = parameter(3), nn.Parameter(torch.tensor([-1.0]))
    optimizer = NPG([w, idle], "nonneg")
    run(optimizer, lambda: (w - 1).square().sum(), 5)
    assert idle.item() == -1.0
    torch.testing.assert_close(w.detach(), torch.ones_like(w))


def test_groups_have_their_own_operator_and_names():
    w, v = parameter(3), parameter(3, seed=1)
    optimizer = NPG([{"params": [("w", w)]}, {"params": [("v", v)]}], ["nonneg", L1(0.5)])
    run(optimizer, lambda: 0.5 * (w + 1).square().sum() + 0.5 * (v - 1).square().sum(), 30)
    torch.testing.assert_close(w.detach(), torch.zeros_like(w))
    torch.testing.assert_close(v.detach(), torch.full_like(v, 0.5))
    assert optimizer.param_groups[1]["param_names"] == ["v"]
    assert [r.metric for r in optimizer.residual()] == ["step", "step"]


def test_complex_parameters_work():
    b = torch.complex(double(4), double(4, seed=1))
    w = nn.Parameter(torch.zeros_like(b) + 0.1)
    run(NPG([w], L1(0.5)), lambda: 0.5 * (w - b).abs().square().sum(), 20)
    torch.testing.assert_close(w.detach(), L1(0.5)(b, 1.0))
