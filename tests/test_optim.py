"""PGM: a torch.optim optimizer whose fixed points are those of loss + penalty."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from proxfactor import L1, PGM, Box, Entropy, L2Squared, NonNegative, Prox, Simplex

torch_load = torch.load  # with its default, weights_only


class Recorder:
    """A prox that changes nothing and keeps the steps it is given."""

    def __init__(self):
        self.steps = []

    def __call__(self, x, step):
        self.steps.append(float(step))
        return x


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameter(*shape, seed=0):
    return nn.Parameter(double(*shape, seed=seed))


def lasso(n=8, seed=0):
    """½|Mw - b|² with a random M, and its parameter."""
    M, b = double(20, n, seed=seed), double(20, seed=seed + 1)
    return parameter(n, seed=seed + 2), lambda w: 0.5 * (M @ w - b).square().sum()


def descend(optimizer, loss, steps):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return [optimizer.step(closure).item() for _ in range(steps)]


def constant_gradient(optimizer, w, grad, steps):
    for _ in range(steps):
        w.grad = grad.clone()
        optimizer.step()


# ── what one step is ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prox", [NonNegative(), L1(0.3), L2Squared(0.5), Entropy(0.1), Box(-0.1, 0.2), Simplex(dim=0)], ids=repr)
def test_a_plain_step_is_the_prox_of_the_gradient_step(prox):
    w = parameter(4, 3)
    start, grad = w.detach().clone(), double(4, 3, seed=1)
    w.grad = grad.clone()
    PGM([w], prox, lr=0.1).step()
    assert torch.equal(w.detach(), prox(start.add(grad, alpha=-0.1), 0.1))


def test_the_step_happens_in_place_and_outside_autograd():
    w = parameter(3)
    where = w.data_ptr()
    descend(PGM([w], "l1(0.1)", lr=0.1, momentum=0.5), lambda: w.square().sum(), 3)
    assert w.data_ptr() == where
    assert w.is_leaf
    assert w.requires_grad


def test_the_closure_runs_with_grad_even_under_no_grad_and_its_loss_is_returned():
    w = parameter(3)
    optimizer = PGM([w], "nonneg", lr=0.1)
    with torch.no_grad():
        values = descend(optimizer, lambda: (w + 1).square().sum(), 3)
    assert values[0] == pytest.approx((double(3) + 1).square().sum().item())
    assert values[2] < values[1] < values[0]


def test_without_a_closure_step_returns_none():
    w = parameter(3)
    w.grad = torch.ones_like(w)
    assert PGM([w], "nonneg", lr=0.1).step() is None


def test_a_parameter_without_a_gradient_is_left_alone():
    w, idle = parameter(3), nn.Parameter(torch.tensor([-1.0, -2.0]))
    w.grad = torch.ones_like(w)
    optimizer = PGM([w, idle], "nonneg", lr=0.1, momentum=0.9)
    optimizer.step()
    assert idle.tolist() == [-1.0, -2.0]
    assert idle not in optimizer.state
    assert (w >= 0).all()


def test_a_prox_that_carries_tensors_works():
    w = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    w.grad = torch.zeros(3)
    PGM([w], L1(torch.tensor([0.0, 1.0, 9.0])), lr=0.5).step()
    assert w.tolist() == [1.0, 0.5, 0.0]


def test_single_precision_stays_single_precision():
    w = nn.Parameter(torch.ones(3))
    descend(PGM([w], "l1(0.1)", lr=0.1, momentum=0.5), lambda: w.square().sum(), 2)
    assert w.dtype == torch.float32


# ── momentum ──────────────────────────────────────────────────────────────────────────────────────────────────────────

MOMENTA = [(0.0, 0.0, False), (0.5, 0.0, False), (0.9, 0.0, False), (0.9, 0.3, False), (0.5, 0.5, False), (0.9, 0.0, True)]


@pytest.mark.parametrize(("momentum", "dampening", "nesterov"), MOMENTA)
def test_the_prox_step_is_the_weight_that_a_constant_gradient_has_gained(momentum, dampening, nesterov):
    w, grad, recorder = nn.Parameter(torch.zeros(1, dtype=torch.float64)), torch.ones(1, dtype=torch.float64), Recorder()
    optimizer = PGM([w], recorder, lr=0.25, momentum=momentum, dampening=dampening, nesterov=nesterov)
    for _ in range(6):
        before = w.item()
        constant_gradient(optimizer, w, grad, 1)
        assert recorder.steps[-1] == pytest.approx(before - w.item(), rel=1e-12)


def test_the_weights_follow_the_recursion():
    w, recorder = parameter(2), Recorder()
    constant_gradient(PGM([w], recorder, lr=1.0, momentum=0.5), w, torch.ones_like(w), 4)
    assert recorder.steps == [1.0, 1.5, 1.75, 1.875]


def test_the_weights_follow_the_recursion_with_dampening():
    w, recorder = parameter(2), Recorder()
    constant_gradient(PGM([w], recorder, lr=1.0, momentum=0.5, dampening=0.5), w, torch.ones_like(w), 3)
    assert recorder.steps == [1.0, 1.0, 1.0]


def test_the_weights_follow_the_recursion_with_nesterov():
    w, recorder = parameter(2), Recorder()
    constant_gradient(PGM([w], recorder, lr=1.0, momentum=0.5, nesterov=True), w, torch.ones_like(w), 3)
    assert recorder.steps == [1.5, 1.75, 1.875]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_the_first_step_under_momentum_has_the_plain_step(momentum):
    w, recorder = parameter(2), Recorder()
    constant_gradient(PGM([w], recorder, lr=0.1, momentum=momentum), w, torch.ones_like(w), 1)
    assert recorder.steps == [0.1]


def test_each_parameter_counts_its_own_steps():
    early, late, recorder = parameter(2), parameter(2), Recorder()
    optimizer = PGM([early, late], recorder, lr=1.0, momentum=0.5)
    constant_gradient(optimizer, early, torch.ones_like(early), 2)
    late.grad = torch.ones_like(late)
    optimizer.step()
    assert recorder.steps == [1.0, 1.5, 1.75, 1.0]


@pytest.fixture(scope="module")
def lasso_solution():
    """By its definition: w = soft(w - t∇, 3t) at the end of a plain loop."""
    start, loss = lasso()
    w = start.detach()
    for _ in range(5000):
        grad = torch.autograd.functional.jacobian(loss, w)
        w = (w - 0.01 * grad).sign() * ((w - 0.01 * grad).abs() - 0.03).clamp(min=0)
    assert 0 < (w == 0).sum() < 8
    return w


@pytest.mark.parametrize(("momentum", "dampening", "nesterov"), MOMENTA)
def test_momentum_ends_at_the_solution_of_the_true_penalty(lasso_solution, momentum, dampening, nesterov):
    w, loss = lasso()
    descend(PGM([w], L1(3.0), lr=0.01, momentum=momentum, dampening=dampening, nesterov=nesterov), lambda: loss(w), 2000)
    torch.testing.assert_close(w.detach(), lasso_solution, rtol=0, atol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_ends_at_the_closed_form_of_the_lasso(nesterov):
    b, w = double(9, seed=4), parameter(9)
    optimizer = PGM([w], L1(0.4), lr=0.1, momentum=0.9, nesterov=nesterov)
    descend(optimizer, lambda: 0.5 * (w - b).square().sum(), 600)
    torch.testing.assert_close(w.detach(), b.sign() * (b.abs() - 0.4).clamp(min=0), rtol=0, atol=1e-10)


def test_the_plain_learning_rate_as_the_step_would_end_somewhere_else():
    b, w = torch.tensor([1.0]), nn.Parameter(torch.zeros(1))
    optimizer = PGM([w], lambda x: L1(0.4)(x, 0.1), lr=0.1, momentum=0.9)
    descend(optimizer, lambda: 0.5 * (w - b).square().sum(), 600)
    assert w.item() == pytest.approx(1 - 0.4 * (1 - 0.9), abs=1e-4)  # a tenth of the penalty; the true answer is 0.6


@pytest.mark.parametrize(("momentum", "dampening", "nesterov"), MOMENTA)
@pytest.mark.parametrize("prox", ["nonneg", "box(-0.2, 0.3)", "simplex(dim=0)"])
def test_on_a_set_the_iterates_are_those_of_sgd_and_a_projection(prox, momentum, dampening, nesterov):
    ours, loss = lasso()
    theirs, _ = lasso()
    options = {"lr": 0.01, "momentum": momentum, "dampening": dampening, "nesterov": nesterov}
    optimizer, sgd, project = PGM([ours], prox, **options), torch.optim.SGD([theirs], **options), Prox.parse(prox)
    for _ in range(20):
        descend(optimizer, lambda: loss(ours), 1)
        descend(sgd, lambda: loss(theirs), 1)
        with torch.no_grad():
            theirs.copy_(project(theirs))
        assert torch.equal(ours, theirs)


def test_without_constraint_it_is_sgd():
    ours, loss = lasso()
    theirs, _ = lasso()
    descend(PGM([ours], None, lr=0.01, momentum=0.9), lambda: loss(ours), 20)
    descend(torch.optim.SGD([theirs], lr=0.01, momentum=0.9), lambda: loss(theirs), 20)
    assert torch.equal(ours, theirs)


# ── operators and groups ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prox", ["nonneg", NonNegative(), nn.Threshold(0, 0), nn.ReLU(), torch.relu, lambda x: x.clamp(min=0)])
def test_whatever_as_prox_takes_is_an_operator(prox):
    w = nn.Parameter(torch.tensor([1.0, -1.0]))
    w.grad = torch.zeros(2)
    PGM([w], prox, lr=0.1).step()
    assert w.tolist() == [1.0, 0.0]


def test_a_function_of_x_and_step_is_given_the_step():
    w = nn.Parameter(torch.tensor([1.0]))
    w.grad = torch.zeros(1)
    PGM([w], lambda x, step: x - step, lr=0.25).step()
    assert w.item() == 0.75


def test_each_group_gets_its_own_prox_and_lr():
    module = nn.Linear(3, 2)
    recorders = [Recorder(), Recorder()]
    groups = [{"params": module.weight, "lr": 0.01}, {"params": module.bias, "lr": 0.5}]
    optimizer = PGM(groups, recorders, momentum=0.5)
    descend(optimizer, lambda: module(torch.ones(3)).square().sum(), 2)
    assert recorders[0].steps == [0.01, 0.015]
    assert recorders[1].steps == [0.5, 0.75]


def test_many_groups_keep_their_operators_apart():
    ws = [nn.Parameter(torch.zeros(1)) for _ in range(4)]
    for w in ws:
        w.grad = torch.zeros(1)
    PGM([{"params": w} for w in ws], [lambda x, i=i: x + i for i in range(4)], lr=1.0).step()
    assert [w.item() for w in ws] == [0.0, 1.0, 2.0, 3.0]


def test_one_prox_serves_all_groups():
    ws = [nn.Parameter(-torch.ones(1)) for _ in range(3)]
    for w in ws:
        w.grad = torch.zeros(1)
    PGM([{"params": [w]} for w in ws], "nonneg", lr=1.0).step()
    assert [w.item() for w in ws] == [0.0, 0.0, 0.0]


def test_a_group_may_bring_its_own_prox():
    a, b = parameter(2), parameter(2)
    optimizer = PGM([{"params": a, "prox": "l1(2.0)"}, {"params": b}], "nonneg", lr=0.1)
    assert [repr(g["prox"]) for g in optimizer.param_groups] == ["L1(2)", "NonNegative()"]


def test_the_groups_that_were_given_are_not_changed():
    a = parameter(2)
    group = {"params": a, "lr": 0.1}
    PGM([group], "nonneg")
    second = PGM([group], "l1")
    assert group == {"params": a, "lr": 0.1}
    assert repr(second.param_groups[0]["prox"]) == "L1(1)"


def test_named_parameters_and_plain_leaf_tensors_work():
    module, leaf = nn.Linear(2, 1), torch.zeros(2, requires_grad=True)
    assert PGM(module.named_parameters(), "nonneg", lr=0.1).param_groups[0]["param_names"] == ["weight", "bias"]
    descend(PGM([{"params": leaf, "lr": 0.5}], ["nonneg"]), lambda: (leaf - 1).square().sum(), 1)
    assert leaf.tolist() == [1.0, 1.0]


def test_add_param_group_takes_its_own_or_the_common_prox():
    a, b, c = parameter(2), parameter(2), parameter(2)
    optimizer = PGM([a], "nonneg", lr=0.1)
    optimizer.add_param_group({"params": b})
    optimizer.add_param_group({"params": c, "prox": "l1", "lr": 0.5})
    assert [repr(g["prox"]) for g in optimizer.param_groups] == ["NonNegative()", "NonNegative()", "L1(1)"]
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.1, 0.5]
    descend(optimizer, lambda: sum(((p + 1) ** 2).sum() for p in (a, b, c)), 30)
    assert a.tolist() == b.tolist() == [0.0, 0.0]


def test_add_param_group_without_a_prox_or_lr_says_what_is_missing():
    a, b = parameter(2), parameter(2)
    optimizer = PGM([{"params": a, "lr": 0.1}], ["nonneg"], lr=None)
    with pytest.raises(ValueError, match="Invalid learning rate: None in param group 1"):
        optimizer.add_param_group({"params": b, "prox": None})
    with pytest.raises(ValueError, match=r"param group 1 has no prox.*add 'prox'"):
        optimizer.add_param_group({"params": b, "lr": 0.1})
    with pytest.raises(TypeError, match="must be a dict, but got list"):
        optimizer.add_param_group([b])
    assert len(optimizer.param_groups) == 1


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("proxs", [[], ["nonneg"], ["nonneg"] * 3])
def test_a_list_of_the_wrong_length_is_refused(proxs):
    with pytest.raises(ValueError, match=rf"proxs has {len(proxs)} entries for 2 param group.*one per group"):
        PGM([{"params": parameter(2)}, {"params": parameter(2)}], proxs, lr=0.1)


@pytest.mark.parametrize("lr", [-0.1, 0, float("nan"), None])
def test_an_invalid_lr_is_refused_in_a_group_too(lr):
    with pytest.raises(ValueError, match="Invalid learning rate"):
        PGM([parameter(2)], "nonneg", lr=lr)
    with pytest.raises(ValueError, match="Invalid learning rate"):
        PGM([{"params": parameter(2), "lr": lr}], "nonneg")


def test_torchs_own_checks_stay():
    with pytest.raises(ValueError, match="Invalid momentum"):
        PGM([parameter(2)], "nonneg", lr=0.1, momentum=-1)
    with pytest.raises(ValueError, match="Nesterov momentum requires"):
        PGM([parameter(2)], "nonneg", lr=0.1, nesterov=True)
    with pytest.raises(ValueError, match="empty parameter list"):
        PGM([], "nonneg", lr=0.1)
    with pytest.raises(TypeError, match="single tensor"):
        PGM(parameter(2), "nonneg", lr=0.1)


def test_an_unknown_operator_is_refused_at_the_door():
    with pytest.raises(ValueError, match="did you mean NonNegative"):
        PGM([parameter(2)], "nonnegg", lr=0.1)
    with pytest.raises(TypeError, match="an operator is needed"):
        PGM([parameter(2)], 3, lr=0.1)


def test_complex_parameters_are_refused_by_an_operator_of_real_numbers():
    w = parameter(2)
    optimizer = PGM([w], "nonneg", lr=0.1)
    with pytest.raises(TypeError, match="param group 1 holds a complex parameter"):
        optimizer.add_param_group({"params": nn.Parameter(torch.zeros(2, dtype=torch.complex64))})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused_before_anything_moves():
    w, table = parameter(2), nn.Embedding(5, 2, sparse=True)
    before = w.detach().clone()
    optimizer = PGM([w, *table.parameters()], "nonneg", lr=0.1)
    with pytest.raises(RuntimeError, match="sparse=False"):
        descend(optimizer, lambda: table(torch.tensor([1])).sum() + w.sum(), 1)
    assert torch.equal(w, before)


# ── saved, loaded, copied, scheduled ──────────────────────────────────────────────────────────────────────────────────


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch_load(file)


@pytest.mark.parametrize(("momentum", "dampening", "nesterov"), MOMENTA)
def test_a_checkpoint_goes_through_a_default_torch_load_and_continues_to_the_bit(momentum, dampening, nesterov):
    w, loss = lasso()
    options = {"lr": 0.01, "momentum": momentum, "dampening": dampening, "nesterov": nesterov}
    optimizer = PGM([w], L1(2.0), **options)
    descend(optimizer, lambda: loss(w), 7)
    saved = through_a_file({"w": w.detach(), "optimizer": optimizer.state_dict()})

    again = nn.Parameter(saved["w"].clone())
    resumed = PGM([again], L1(2.0), lr=0.7)  # its options come from the checkpoint
    resumed.load_state_dict(saved["optimizer"])
    assert descend(resumed, lambda: loss(again), 9) == descend(optimizer, lambda: loss(w), 9)
    assert torch.equal(again, w)


def test_the_operators_stay_out_of_the_state_dict_and_in_the_optimizer():
    w = parameter(3)
    optimizer = PGM([w], [L1(torch.ones(3))], lr=0.1)
    own = optimizer.param_groups[0]["prox"]
    assert "prox" not in optimizer.state_dict()["param_groups"][0]
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["prox"] is own
    stranger = optimizer.state_dict()
    stranger["param_groups"][0]["prox"] = None
    optimizer.load_state_dict(stranger)
    assert optimizer.param_groups[0]["prox"] is own


def test_a_scheduler_changes_the_step_that_the_prox_sees():
    w, recorder = parameter(2), Recorder()
    optimizer = PGM([w], recorder, lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for _ in range(3):
        constant_gradient(optimizer, w, torch.ones_like(w), 1)
        schedule.step()
    assert recorder.steps == [1.0, 0.5, 0.25]


def test_a_scheduler_that_cycles_the_momentum_keeps_the_step_exact():
    w, recorder = nn.Parameter(torch.zeros(1, dtype=torch.float64)), Recorder()
    optimizer = PGM([w], recorder, lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=8)
    for _ in range(7):
        before = w.item()
        constant_gradient(optimizer, w, torch.ones_like(w), 1)
        assert recorder.steps[-1] == pytest.approx(before - w.item(), rel=1e-12)
        schedule.step()


def test_a_step_of_zero_at_the_end_of_a_schedule_still_leaves_the_point_in_the_set():
    w = nn.Parameter(torch.tensor([-1.0, 1.0]))
    w.grad = torch.ones(2)
    optimizer = PGM([w], "nonneg + l1(1.0)", lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert w.tolist() == [0.0, 1.0]


def test_a_learning_rate_in_a_tensor_works():
    w, v = parameter(3), parameter(3)
    a, b = PGM([w], L1(0.3), lr=torch.tensor(0.125), momentum=0.5), PGM([v], L1(0.3), lr=0.125, momentum=0.5)
    assert descend(a, lambda: w.square().sum(), 4) == descend(b, lambda: v.square().sum(), 4)


def copied(pair):
    return copy.deepcopy(pair)


def pickled(pair):
    return pickle.loads(pickle.dumps(pair))


@pytest.mark.parametrize("twin", [copied, pickled])
def test_a_copy_goes_on_like_the_original_and_knows_the_common_prox(twin):
    w, loss = lasso()
    optimizer = PGM([w], L1(torch.full((8,), 2.0)), lr=0.01, momentum=0.9)
    descend(optimizer, lambda: loss(w), 5)
    v, other = twin((w, optimizer))
    assert descend(other, lambda: loss(v), 5) == descend(optimizer, lambda: loss(w), 5)
    assert v is not w
    other.add_param_group({"params": parameter(8)})
    assert isinstance(other.param_groups[1]["prox"], L1)


def test_step_hooks_run_once_and_see_the_point_after_the_prox():
    w = nn.Parameter(torch.tensor([-1.0]))
    torch.optim.SGD([parameter(1)], lr=0.1)  # from now on torch's hooks hang around SGD.step as well
    optimizer, seen = PGM([w], "nonneg", lr=0.1), []
    optimizer.register_step_pre_hook(lambda *_: seen.append(("before", w.item())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("after", w.item())))
    w.grad = torch.zeros(1)
    optimizer.step()
    assert seen == [("before", -1.0), ("after", 0.0)]


def test_the_printed_form_names_the_operator():
    assert "prox: NonNegative() + L1(0.1)" in repr(PGM([parameter(2)], "nonneg + l1(0.1)", lr=0.1))


def test_a_grad_scaler_unscales_before_the_step():
    w, v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = PGM([w], "l1(0.5)", lr=0.25)
    scaler.scale(w.square().sum()).backward()
    scaler.step(optimizer)
    descend(PGM([v], "l1(0.5)", lr=0.25), lambda: v.square().sum(), 1)
    assert torch.equal(w, v)
