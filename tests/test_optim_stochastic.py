"""ProxDoWG: mini-batches without a learning rate, the answer an average that is the operator's own output."""

import copy
import io
import pickle

import cvxpy
import pytest
import torch
from torch import nn

from proxfactor import L0, L1, Box, GroupLasso, NonNegative, Prox, Simplex
from proxfactor.optim.stochastic import ProxDoWG


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def regression(n=400, d=8, seed=0):
    """Rows M, targets y: strongly convex, with noise."""
    M = double(n, d, seed=seed)
    return M, M @ double(d, seed=seed + 1) + 0.5 * double(n, seed=seed + 2)


def objective(M, y, w):
    return 0.5 * (M @ w - y).square().sum(0) / len(M)


def train(optimizer, w, M, y, epochs=50, size=20, seed=0):
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(M), generator=shuffle).split(size):
            optimizer.zero_grad()
            objective(M[batch], y[batch], w).backward()
            optimizer.step()


def follow(optimizer, w, grads):
    for grad in grads:
        w.grad = grad.clone()
        optimizer.step()


def state_of(w, optimizer):
    return {k: v.clone() for k, v in optimizer.state[w].items()} | {"w": w.detach().clone()}


# ── where it goes ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("prox", "term"),
    [
        (L1(0.3), lambda w: (0.3 * cvxpy.norm1(w), [])),
        (Simplex(dim=0), lambda w: (0, [w >= 0, cvxpy.sum(w) == 1])),
        (Box(-0.2, 0.4), lambda w: (0, [w >= -0.2, w <= 0.4])),
        (
            GroupLasso(0, 0.5, groups=(0, 0, 1, 1, 2, 2, 3, 3)),
            lambda w: (0.5 * sum(cvxpy.norm(w[i : i + 2]) for i in (0, 2, 4, 6)), []),
        ),
    ],
    ids=["l1", "simplex", "box", "groups"],
)
def test_batches_lead_to_the_solution_of_cvxpy(prox, term):
    M, y = regression()
    v = cvxpy.Variable(8)
    penalty, sets = term(v)
    cvxpy.Problem(cvxpy.Minimize(0.5 * cvxpy.sum_squares(M.numpy() @ v - y.numpy()) / len(M) + penalty), sets).solve(
        solver="CLARABEL"
    )
    solution = torch.as_tensor(v.value)
    w = nn.Parameter(prox(double(8, seed=9), 0.0))
    optimizer = ProxDoWG([w], prox)
    train(optimizer, w, M, y)
    optimizer.eval()
    # one pass of exact averaging over n rows has the variance σ² tr(H⁻¹)/n of its distance: 50 passes have to beat that
    noise = objective(M, y, torch.linalg.lstsq(M, y).solution) * 2
    bound = (noise * torch.linalg.inv(M.T @ M).trace()).sqrt()
    assert torch.dist(w.detach(), solution) < bound
    assert torch.dist(prox(double(8, seed=9), 0.0), solution) > 3 * bound


def test_columns_of_very_different_sizes_are_no_obstacle():
    M, y = regression(d=6)
    M = M * torch.logspace(-1, 1, 6, dtype=torch.float64)
    w = nn.Parameter(torch.ones(6, dtype=torch.float64))
    optimizer = ProxDoWG([w])
    train(optimizer, w, M, y)
    optimizer.eval()
    best = objective(M, y, torch.linalg.lstsq(M, y).solution)
    assert objective(M, y, w.detach()) < best + 1e-2 * (objective(M, y, torch.zeros(6, dtype=torch.float64)) - best)


@pytest.mark.parametrize("power", [-20, 20])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_scaled_problem_takes_the_scaled_trajectory_to_the_bit(power, dtype):
    M, y = (t.to(dtype) for t in regression())
    ends = []
    for scale in (1.0, 2.0**power):
        w = nn.Parameter((double(8, seed=9) * scale).to(dtype))
        optimizer = ProxDoWG([w], L1(0.3 * scale))
        train(optimizer, w, M, y * scale, epochs=4)
        last = w.detach().clone()
        optimizer.eval()
        ends.append(torch.stack([last, w.detach()]) / scale)
    assert torch.equal(*ends)


def test_a_start_far_too_small_reaches_the_size_of_the_solution():
    M, y = regression()
    w = nn.Parameter(1e-6 * double(8, seed=9))
    optimizer = ProxDoWG([w])
    train(optimizer, w, M, 1e6 * y)
    optimizer.eval()
    assert torch.dist(w.detach() / 1e6, torch.linalg.lstsq(M, y).solution) < 0.05


def test_a_start_at_zero_moves():
    M, y = regression()
    w = nn.Parameter(torch.zeros(8, dtype=torch.float64))
    optimizer = ProxDoWG([w])
    train(optimizer, w, M, y)
    optimizer.eval()
    assert torch.dist(w.detach(), torch.linalg.lstsq(M, y).solution) < 0.05


# ── what one step is ──────────────────────────────────────────────────────────────────────────────────────────────────


def by_hand(x, grads, prox, start=1e-6):
    """The first stage with the shape 1: r² / √(Σ r² |g|²), the prox of that step, and the weighted average."""
    anchor, r2, weighted = x.clone(), (start * x.norm()) ** 2, 0.0
    average, steps, weights = torch.zeros_like(x), 0.0, 0.0
    for t, g in enumerate(grads, 1):
        r2 = max(r2, (x - anchor).square().sum())
        weighted += r2 * g.square().sum()
        eta = r2 / weighted**0.5
        # c_t = 9 / (t + 8) gives step t the weight t (t + 1) … (t + 7)
        weight = torch.arange(t, t + 8, dtype=torch.float64).prod()
        average, steps, weights = average + weight * (x - eta * g), steps + weight * eta, weights + weight
        x = prox(x - eta * g, eta)
    return x, prox(average / weights, steps / weights)


@pytest.mark.parametrize("prox", [NonNegative(), L1(0.4), Simplex(dim=1), GroupLasso(1, 0.4)], ids=repr)
def test_the_first_stage_and_its_average_are_those_computed_by_hand(prox):
    w, grads = nn.Parameter(double(4, 3)), [1 + double(4, 3, seed=i) for i in range(30)]
    last, average = by_hand(w.detach().clone(), grads, prox)
    optimizer = ProxDoWG([w], prox)
    follow(optimizer, w, grads)
    torch.testing.assert_close(w.detach(), last, rtol=1e-10, atol=1e-16)
    optimizer.eval()
    torch.testing.assert_close(w.detach(), average, rtol=1e-10, atol=1e-16)


def test_a_stage_lasts_twice_as_long_as_the_one_before():
    w, anchors = nn.Parameter(double(5)), []
    optimizer = ProxDoWG([w])
    for i in range(240):
        follow(optimizer, w, [double(5, seed=i)])
        anchors.append(optimizer.state[w]["anchor"].clone())
    assert [i for i in range(1, 240) if not torch.equal(anchors[i], anchors[i - 1])] == [32, 96, 224]


def test_a_stage_ends_early_when_the_gradients_have_fallen_and_the_average_begins_anew():
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = ProxDoWG([w], lr=1e-3)
    follow(optimizer, w, [torch.ones(3, dtype=torch.float64)] * 12 + [torch.full((3,), 1e-4, dtype=torch.float64)] * 8)
    assert optimizer.state[w]["taken"] < 20
    assert optimizer.state[w]["averaged"] == optimizer.state[w]["taken"]
    assert optimizer.state[w]["length"] == 32


class Narrow(Prox):
    """The unit ball of each row, which takes steps that are alike along a row only."""

    listed = False
    metric = "group"
    dims = (-1,)

    def _prox(self, x, step):
        return x / x.norm(dim=-1, keepdim=True).clamp(min=1.0)


def test_an_operator_of_groups_gets_one_step_per_group():
    w = nn.Parameter(double(6, 4))
    optimizer = ProxDoWG([w], Narrow())
    follow(optimizer, w, [double(6, 4, seed=i) * torch.logspace(-2, 2, 6, dtype=torch.float64)[:, None] for i in range(100)])
    shape = optimizer.state[w]["shape"]
    assert shape.shape == (6, 1)
    assert shape.unique().numel() == 6
    assert (w.norm(dim=1) <= 1 + 1e-12).all()


def test_lr_is_a_factor_that_a_schedule_turns():
    w, v = nn.Parameter(double(5)), nn.Parameter(double(5))
    grad = double(5, seed=1)
    full, half = ProxDoWG([w]), ProxDoWG([v])
    schedule = torch.optim.lr_scheduler.LambdaLR(half, lambda epoch: 0.5)
    follow(full, w, [grad])
    follow(half, v, [grad])
    schedule.step()
    torch.testing.assert_close(v.detach() - double(5), 0.5 * (w.detach() - double(5)), rtol=1e-6, atol=0)


def test_maximize_turns_the_sign():
    w, v = nn.Parameter(double(5)), nn.Parameter(double(5))
    grads = [double(5, seed=i) for i in range(40)]
    follow(ProxDoWG([w], "nonneg"), w, grads)
    follow(ProxDoWG([v], "nonneg", maximize=True), v, [-g for g in grads])
    assert torch.equal(w, v)


# ── the answer ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prox", [Simplex(dim=1), NonNegative(), L0(0.2), L1(0.5)], ids=repr)
def test_the_average_lies_in_the_set_and_has_exact_zeros(prox):
    w = nn.Parameter(prox(double(6, 4)))
    optimizer = ProxDoWG([w], prox)
    for i in range(300):
        follow(optimizer, w, [w.detach() - double(6, 4, seed=99) + 0.3 * double(6, 4, seed=i)])
    optimizer.eval()
    assert prox.value(w.detach()).isfinite()
    assert (w == 0).any()
    if isinstance(prox, Simplex):
        torch.testing.assert_close(w.detach().sum(1), torch.ones(6, dtype=torch.float64), rtol=1e-12, atol=0)


def test_an_average_of_noise_is_nearer_the_solution_than_the_iterate():
    M, y = regression()
    solution = torch.linalg.lstsq(M, y).solution
    nearer = 0
    for seed in range(8):
        w = nn.Parameter(double(8, seed=9))
        optimizer = ProxDoWG([w])
        train(optimizer, w, M, y, epochs=10, seed=seed)
        last = torch.dist(w.detach(), solution)
        optimizer.eval()
        nearer += bool(torch.dist(w.detach(), solution) < last)
    assert nearer >= 7


def test_train_brings_the_iterate_back_to_the_bit_and_a_look_at_the_average_changes_nothing():
    w, v = nn.Parameter(double(5)), nn.Parameter(double(5))
    looked, other = ProxDoWG([w], "l1(0.1)"), ProxDoWG([v], "l1(0.1)")
    for i in range(50):
        follow(looked, w, [double(5, seed=i)])
        follow(other, v, [double(5, seed=i)])
        looked.eval()
        looked.eval()
        assert i == 0 or not torch.equal(w, v)
        looked.train()
        looked.train()
        assert torch.equal(w, v)


def test_a_step_in_eval_mode_is_refused_and_changes_nothing():
    w = nn.Parameter(double(5))
    optimizer = ProxDoWG([w])
    follow(optimizer, w, [double(5, seed=1)] * 2)
    optimizer.eval()
    before = state_of(w, optimizer)
    with pytest.raises(RuntimeError, match=r"call train\(\)"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), state_of(w, optimizer).values(), strict=True))


def test_eval_before_the_first_step_leaves_the_parameters():
    w = nn.Parameter(double(5))
    optimizer = ProxDoWG([w], "nonneg")
    optimizer.eval()
    assert torch.equal(w, double(5))


# ── torch's habits ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_checkpoint_goes_on_to_the_bit_in_either_mode(dtype, mode):
    grads = [double(5, seed=i).to(dtype) for i in range(120)]
    w = nn.Parameter(double(5).to(dtype))
    optimizer = ProxDoWG([w], "l1(0.1)")
    follow(optimizer, w, grads[:60])
    getattr(optimizer, mode)()
    file = io.BytesIO()
    torch.save({"w": w.detach(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    v = nn.Parameter(saved["w"])
    other = ProxDoWG([v], "l1(0.1)")
    other.load_state_dict(saved["optimizer"])
    for each, p in ((optimizer, w), (other, v)):
        each.train()
        follow(each, p, grads[60:])
    assert torch.equal(w, v)
    mine, theirs = state_of(w, optimizer), state_of(v, other)
    assert all(torch.equal(mine[k], theirs[k]) and mine[k].dtype == theirs[k].dtype for k in mine)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_its_own_way_from_the_same_place(clone):
    w = nn.Parameter(double(5))
    optimizer = ProxDoWG([w], "l1(0.1)")
    follow(optimizer, w, [double(5, seed=i) for i in range(40)])
    w.grad = None
    other = clone(optimizer)
    v = other.param_groups[0]["params"][0]
    assert torch.equal(v, w)
    later = [double(5, seed=i) for i in range(40, 80)]
    follow(other, v, later)
    assert not torch.equal(v, w)
    follow(optimizer, w, later)
    assert torch.equal(v, w)


def test_a_parameter_without_a_gradient_is_left_alone_and_one_added_later_has_its_own_stages():
    w, idle, late = nn.Parameter(double(5)), nn.Parameter(-torch.ones(2)), nn.Parameter(double(3, seed=7))
    optimizer = ProxDoWG([w, idle], "nonneg")
    follow(optimizer, w, [double(5, seed=i) for i in range(40)])
    optimizer.add_param_group({"params": [late]})
    for i in range(20):
        late.grad = double(3, seed=i)
        follow(optimizer, w, [double(5, seed=i)])
    assert idle.tolist() == [-1.0, -1.0]
    assert idle not in optimizer.state
    assert optimizer.state[late]["taken"] == 20
    assert (late >= 0).all()
    optimizer.eval()
    optimizer.add_param_group({"params": [nn.Parameter(double(2))]})
    with pytest.raises(RuntimeError, match="train"):
        optimizer.step()


def test_the_closure_runs_once_and_its_loss_is_returned():
    w, calls = nn.Parameter(double(5)), []

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        calls.append(loss.item())
        return loss

    optimizer = ProxDoWG([w])
    assert optimizer.step(closure).item() == calls[0]
    assert len(calls) == 1
    w.grad = torch.ones_like(w)
    assert optimizer.step() is None


def test_complex_parameters_shrink_straight():
    w = nn.Parameter(torch.complex(double(4), double(4, seed=1)))
    target = torch.complex(double(4, seed=2), double(4, seed=3)) * torch.tensor([3.0, 3.0, 0.01, 0.01])
    optimizer = ProxDoWG([w], L1(0.5))
    for _ in range(600):
        w.grad = w.detach() - target
        optimizer.step()
    optimizer.eval()
    torch.testing.assert_close(w.detach(), L1(0.5)(target, 1.0), rtol=1e-3, atol=1e-3)
    assert (w[2:] == 0).all()


def test_half_precision_is_refused_where_its_rounding_would_hold_the_first_moves():
    optimizer = ProxDoWG([nn.Parameter(torch.ones(4))])
    with pytest.raises(TypeError, match=r"param group 1 .* half precision.*float32.*ProxAdam"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(4, dtype=torch.bfloat16))]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("w", [torch.tensor(1.0), torch.ones(0)], ids=["no dims", "no entries"])
def test_parameters_of_one_number_or_none_work(w):
    w = nn.Parameter(w)
    optimizer = ProxDoWG([w], "nonneg")
    follow(optimizer, w, [torch.ones_like(w)] * 40)
    optimizer.eval()
    assert w.isfinite().all()


def test_gradients_of_zero_move_nothing():
    w = nn.Parameter(double(5).abs())
    optimizer = ProxDoWG([w], "nonneg")
    follow(optimizer, w, [torch.zeros(5, dtype=torch.float64)] * 70)
    assert torch.equal(w, double(5).abs())
    optimizer.eval()
    assert w.isfinite().all()


def test_a_gradient_that_is_not_finite_is_refused_and_nothing_moves():
    w = nn.Parameter(double(5))
    optimizer = ProxDoWG([w])
    follow(optimizer, w, [double(5, seed=1)])
    before = state_of(w, optimizer)
    with pytest.raises(RuntimeError, match="not finite"):
        follow(optimizer, w, [torch.full((5,), torch.nan, dtype=torch.float64)])
    assert all(torch.equal(a, b) for a, b in zip(before.values(), state_of(w, optimizer).values(), strict=True))


@pytest.mark.parametrize("lr", [0, -1.0, float("nan")])
def test_an_lr_not_above_zero_is_refused(lr):
    with pytest.raises(ValueError, match="factor on the automatic step"):
        ProxDoWG([nn.Parameter(double(2))], lr=lr)


def test_there_is_no_residual_and_the_reason_is_said():
    optimizer = ProxDoWG([nn.Parameter(double(2))])
    assert "mini-batch" in optimizer.residual()[0].metric
    with pytest.raises(RuntimeError, match="mini-batch"):
        optimizer.converged()
