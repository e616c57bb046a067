"""Proximal: torch's optimizers with the prox in the steps that they take, and those it cannot be right for."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam, RMSprop

from proxfactor import L1, PGM, Prox, as_prox
from proxfactor.optim.adam import ProxAdam
from proxfactor.optim.wrap import Proximal

torch_load = torch.load  # with its default, weights_only
FORMS = {
    "adam": (Adam, {}),
    "amsgrad": (Adam, {"amsgrad": True}),
    "adamw": (AdamW, {"weight_decay": 0.1}),
    "nadam": (NAdam, {}),
    "radam": (RAdam, {"betas": (0.9, 0.9)}),
}
BASES = {
    "sgd": lambda p: SGD(p, lr=0.05),
    "momentum": lambda p: SGD(p, lr=0.02, momentum=0.8, dampening=0.3),
    "nesterov": lambda p: SGD(p, lr=0.02, momentum=0.8, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.05, betas=(0.8, 0.9)),
    "amsgrad": lambda p: Adam(p, lr=0.05, amsgrad=True, betas=(0.8, 0.9)),
    "adamax": lambda p: Adamax(p, lr=0.05, betas=(0.8, 0.9)),
    "nadam": lambda p: NAdam(p, lr=0.05, betas=(0.8, 0.9)),
    "radam": lambda p: RAdam(p, lr=0.05, betas=(0.8, 0.9)),
    "adagrad": lambda p: Adagrad(p, lr=0.5, lr_decay=1e-3),
    "rmsprop": lambda p: RMSprop(p, lr=0.05, alpha=0.9),
    "rmsprop-momentum": lambda p: RMSprop(p, lr=0.02, alpha=0.9, momentum=0.8),
}
every = pytest.mark.parametrize("make", BASES.values(), ids=BASES)


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameter(*shape, seed=0):
    return nn.Parameter(double(*shape, seed=seed))


def push(optimizer, w, grads):
    for grad in grads:
        w.grad = grad.clone()
        optimizer.step()


class Recorder(Prox):
    """A prox that changes nothing and keeps the steps it is given."""

    listed = False
    metric = "element"

    def __init__(self):
        self.steps = []

    def _prox(self, x, step):
        self.steps.append(step.clone() if isinstance(step, torch.Tensor) else step)
        return x.clone()


# ── what it is ────────────────────────────────────────────────────────────────────────────────────────────────────────


@every
def test_without_constraint_it_is_its_base(make):
    ours, theirs = parameter(4), parameter(4)
    grads = [double(4, seed=t) for t in range(12)]
    push(Proximal(make([ours])), ours, grads)
    push(make([theirs]), theirs, grads)
    assert torch.equal(ours, theirs)


@every
def test_the_prox_step_is_the_weight_that_a_constant_gradient_has_gained(make):
    w, grad, recorder = parameter(3), torch.tensor([1.0, -2.0, 0.1], dtype=torch.float64), Recorder()
    optimizer = Proximal(make([w]), recorder)
    for _ in range(12):
        before = w.detach().clone()
        push(optimizer, w, [grad])
        rtol = 1e-5 if isinstance(optimizer.base, NAdam) else 1e-9  # torch keeps its product in float32
        torch.testing.assert_close(recorder.steps[-1] * grad, before - w.detach(), rtol=rtol, atol=0)


@pytest.mark.parametrize("name", ["momentum", "adam", "nadam", "radam", "adamax", "rmsprop-momentum"])
def test_a_schedule_that_turns_the_momentum_keeps_the_step_exact(name):
    w, grad, recorder = parameter(3), torch.tensor([1.0, -2.0, 0.1], dtype=torch.float64), Recorder()
    optimizer = Proximal(BASES[name]([w]), recorder)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12)
    for _ in range(11):
        before = w.detach().clone()
        push(optimizer, w, [grad])
        torch.testing.assert_close(recorder.steps[-1] * grad, before - w.detach(), rtol=1e-5 if name == "nadam" else 1e-9, atol=0)
        schedule.step()


TEXTS = ["l1(0.5)", "nonneg + l1(0.2)", "simplex(dim=0)", "l2ball(dim=1)", "nuclear(0.1)"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (n, t) for n in FORMS for t in TEXTS if (n, t) != ("amsgrad", "nuclear(0.1)")
    ],  # the mean of maxima is not the maximum of means
)
def test_on_an_adam_it_is_proxadam(name, text):
    kind, options = FORMS[name]
    ours, theirs = parameter(5, 4), parameter(5, 4)
    grads = [double(5, 4, seed=t) for t in range(20)]
    push(Proximal(kind([ours], lr=0.05, **options), text), ours, grads)
    push(ProxAdam([theirs], text, lr=0.05, form=name, **{k: v for k, v in options.items() if k != "amsgrad"}), theirs, grads)
    rtol = 1e-6 if name == "nadam" else 1e-11
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-2 * rtol)


@pytest.mark.parametrize("text", ["l1(0.5)", "simplex(dim=0)", "nuclear(0.1)"])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.5, "nesterov": True}]
)
def test_on_an_sgd_it_is_pgm(options, text):
    ours, theirs = parameter(5, 4), parameter(5, 4)
    grads = [double(5, 4, seed=t) for t in range(10)]
    push(Proximal(SGD([ours], lr=0.05, **options), text), ours, grads)
    push(PGM([theirs], text, lr=0.05, **options), theirs, grads)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@every
@pytest.mark.parametrize("text", ["l1(0.8)", "nuclear(0.8)"])
def test_the_fixed_point_is_that_of_the_problem(make, text):
    # the minimiser of ½|w - b|² + g is prox(b, 1); no gradient vanishes there, so that the metrics stay bounded
    b, w = double(4, 3, seed=5), parameter(4, 3)
    optimizer = Proximal(make([w]), text)
    for _ in range(800):
        push(optimizer, w, [w.detach() - b])
    torch.testing.assert_close(w.detach(), as_prox(text)(b, 1.0), rtol=0, atol=1e-6)


def test_an_operator_for_groups_gets_base_and_prox_in_one_metric():
    w = parameter(4, 3)
    start, grad, op = w.detach().clone(), double(4, 3, seed=1), as_prox("nuclear(0.5)")
    push(Proximal(RMSprop([w], lr=0.1, alpha=0.75), op), w, [grad])
    step = 0.1 / ((0.25 * grad.square()).mean().sqrt().item() + 1e-8)
    torch.testing.assert_close(w.detach(), op(start - step * grad, step), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["momentum", "rmsprop-momentum"])
def test_a_base_with_a_past_counts_as_one_that_has_run_for_long(name):
    w, grad, recorder = parameter(2), torch.ones(2, dtype=torch.float64), Recorder()
    base = BASES[name]([w])
    push(base, w, [grad] * 300)
    before = w.detach().clone()
    push(Proximal(base, recorder), w, [grad])
    torch.testing.assert_close(recorder.steps[0] * grad, before - w.detach(), rtol=1e-9, atol=0)


def test_an_adam_with_a_past_goes_on_as_proxadam_would():
    a, b, grads = parameter(4), parameter(4), [double(4, seed=t) for t in range(8)]
    adam, twin = Adam([a], lr=0.1), ProxAdam([b], None, lr=0.1)
    push(adam, a, grads[:3])
    push(twin, b, grads[:3])
    twin.param_groups[0]["prox"] = as_prox("l1(0.3)")
    push(Proximal(adam, "l1(0.3)"), a, grads[3:])
    push(twin, b, grads[3:])
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_a_step_of_zero_at_the_end_of_a_schedule_still_leaves_the_point_in_the_set():
    for text in ("nonneg", "nuclearball(1.0)"):
        w = parameter(3, 3)
        optimizer = Proximal(Adam([w], lr=0.1), text)
        optimizer.param_groups[0]["lr"] = 0.0
        push(optimizer, w, [torch.ones_like(w)])
        torch.testing.assert_close(w.detach(), as_prox(text)(double(3, 3), 0.0))


def test_a_fused_base_is_read():
    ours, fused = parameter(4), parameter(4)
    grads = [double(4, seed=t) for t in range(5)]
    push(Proximal(Adam([ours], lr=0.1), "l1(0.3)"), ours, grads)
    push(Proximal(Adam([fused], lr=0.1, fused=True), "l1(0.3)"), fused, grads)
    torch.testing.assert_close(ours, fused, rtol=1e-6, atol=1e-9)


# ── the residual ──────────────────────────────────────────────────────────────────────────────────────────────────────


@every
def test_the_residual_vanishes_at_the_solution_and_nowhere_else(make):
    b, w = double(4, 3, seed=5), parameter(4, 3)
    optimizer = Proximal(make([w]), "l1(0.8)")
    push(optimizer, w, [w.detach() - b])

    def closure():
        w.grad = w.detach() - b

    assert not optimizer.converged(1e-3, closure)
    with torch.no_grad():
        w.copy_(L1(0.8)(b))
    assert optimizer.converged(1e-12, closure)


def test_decoupled_decay_gets_through_and_has_no_residual():
    for base in (AdamW([parameter(2)]), NAdam([parameter(2)], weight_decay=0.1, decoupled_weight_decay=True)):
        assert "decoupled" in Proximal(base, "nonneg").residual()[0].metric
    assert Proximal(AdamW([parameter(2)], weight_decay=0), "nonneg").no_residual == ""


# ── one optimizer, not two ────────────────────────────────────────────────────────────────────────────────────────────


def test_groups_and_state_are_shared_with_the_base():
    a, b = parameter(2), parameter(2)
    base = Adam([{"params": [a], "lr": 0.1}, {"params": [b]}])
    optimizer = Proximal(base, ["nonneg", "l1(0.1)"])
    assert base.param_groups is optimizer.param_groups
    assert base.state is optimizer.state
    assert [repr(g["prox"]) for g in optimizer.param_groups] == ["NonNegative()", "L1(0.1)"]
    optimizer.add_param_group({"params": [parameter(2)], "prox": None})
    assert len(base.param_groups) == 3
    optimizer.load_state_dict(optimizer.state_dict())
    assert base.param_groups is optimizer.param_groups
    assert base.state is optimizer.state


def test_a_schedule_of_the_base_goes_on():
    w, recorder = parameter(1), Recorder()
    base = SGD([w], lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(base, 1, gamma=0.5)
    optimizer = Proximal(base, recorder)
    for _ in range(3):
        push(optimizer, w, [torch.ones_like(w)])
        schedule.step()
    assert recorder.steps == [1.0, 0.5, 0.25]


def test_a_checkpoint_of_the_base_alone_is_taken_over():
    w, v, grads = parameter(4), parameter(4), [double(4, seed=t) for t in range(8)]
    base = Adam([w], lr=0.1)
    push(base, w, grads[:4])
    file = io.BytesIO()
    torch.save(base.state_dict(), file)
    file.seek(0)
    optimizer = Proximal(Adam([v]), "nonneg")
    optimizer.load_state_dict(torch_load(file))
    assert optimizer.param_groups[0]["lr"] == 0.1
    with torch.no_grad():
        v.copy_(w)
    push(Proximal(base, "nonneg"), w, grads[4:])
    push(optimizer, v, grads[4:])
    assert torch.equal(w, v)


@every
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copied", "pickled"])
def test_a_copy_has_a_base_of_its_own_and_goes_on_like_the_original(make, twin):
    w, grads = parameter(4), [double(4, seed=t) for t in range(9)]
    optimizer = Proximal(make([w]), "l1(0.1)")
    push(optimizer, w, grads[:4])
    v, other = twin((w, optimizer))
    push(optimizer, w, grads[4:])
    push(other, v, grads[4:])
    assert torch.equal(w, v)
    assert other.base is not optimizer.base
    assert other.base.state is other.state
    assert other.base.param_groups is other.param_groups


@every
def test_a_checkpoint_continues_to_the_bit(make):
    # torch's own NAdam casts its product to float64 in a checkpoint, and goes on with other bits
    dtype = torch.float32 if make is BASES["nadam"] else torch.float64
    w, grads = nn.Parameter(double(4).to(dtype)), [double(4, seed=t).to(dtype) for t in range(9)]
    optimizer = Proximal(make([w]), "l1(0.1)")
    push(optimizer, w, grads[:4])
    file = io.BytesIO()
    torch.save({"w": w.detach(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch_load(file)
    v = nn.Parameter(saved["w"])
    resumed = Proximal(make([v]), "l1(0.1)")
    resumed.load_state_dict(saved["optimizer"])
    push(optimizer, w, grads[4:])
    push(resumed, v, grads[4:])
    assert torch.equal(w, v)


def test_hooks_of_both_run_once():
    w, seen = parameter(1), []
    base = Adam([w])
    base.register_step_post_hook(lambda *_: seen.append("base"))
    optimizer = Proximal(base, "nonneg")
    optimizer.register_step_post_hook(lambda *_: seen.append("proximal"))
    push(optimizer, w, [torch.ones_like(w)])
    assert seen == ["base", "proximal"]


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["LBFGS", "Rprop", "ASGD", "Adadelta", "Adafactor", "Muon", "SparseAdam"])
def test_a_base_that_it_cannot_be_right_for_is_refused_with_the_reason_and_the_way_out(name):
    base = getattr(torch.optim, name)([parameter(2, 2)])
    with pytest.raises(
        TypeError, match=f"Proximal cannot take {name}: (?!its effective step is not known).*; take one of SGD, .*PGM"
    ):
        Proximal(base, "nonneg")


def test_an_unknown_base_is_refused():
    class Mine(Adam):
        pass

    with pytest.raises(TypeError, match="cannot take Mine: its effective step is not known here"):
        Proximal(Mine([parameter(2)]), "nonneg")
    with pytest.raises(TypeError, match="PGM is proximal by itself"):
        Proximal(PGM([parameter(2)], "nonneg", lr=0.1), "nonneg")
    with pytest.raises(TypeError, match="base is generator; a torch optimizer is needed"):
        Proximal(nn.Linear(2, 2).parameters(), "nonneg")


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="Invalid eps: 0"):
        Proximal(Adam([parameter(2)], eps=0), "nonneg")
    with pytest.raises(ValueError, match="it must be below 1"):
        Proximal(SGD([parameter(2)], lr=0.1, momentum=1.0), "nonneg")
    with pytest.raises(ValueError, match="centered=True in param group 0: gradients that hardly change give NaN"):
        Proximal(RMSprop([parameter(2)], centered=True), "nonneg")
    with pytest.raises(ValueError, match="differentiable=True"):
        Proximal(Adam([parameter(2)], differentiable=True), "nonneg")
    with pytest.raises(ValueError, match="proxs has 2 entries for 1 param group"):
        Proximal(Adam([parameter(2)]), ["nonneg", "nonneg"])


def test_complex_parameters_only_under_sgd():
    w = nn.Parameter(torch.complex(double(3), double(3, seed=1)))
    with pytest.raises(TypeError, match="of which Adam scales re and im apart; ProxAdam keeps them together"):
        Proximal(Adam([w]), "l1(0.5)")
    start, grad = w.detach().clone(), torch.complex(double(3, seed=2), double(3, seed=3))
    push(Proximal(SGD([w], lr=0.1), "l1(0.5)"), w, [grad])
    torch.testing.assert_close(w.detach(), L1(0.5)(start - 0.1 * grad, 0.1))
