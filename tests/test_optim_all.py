"""What torch.optim has made a habit, and a prox a duty, of every optimizer that carries one."""

import copy
import io
import pickle
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from proxfactor import L1, GroupLasso, NonNegative, Prox
from proxfactor.optim import APGM, BSDMM, NPG, PGM, AdaProx, DavisYin, ProxAdam, Proximal, ProxLBFGS
from proxfactor.optim.stochastic import ProxDoWG

torch_load = torch.load  # with its default, weights_only


def bsdmm(params, proxs=None, **options):
    """BSDMM with operators on the parameters themselves."""
    each = [[p] for p in proxs] if isinstance(proxs, list) else [proxs]
    if isinstance(params, list) and params and isinstance(params[0], dict):
        params = [{"constraints" if k == "prox" else k: [v] if k == "prox" else v for k, v in g.items()} for g in params]
    return BSDMM(params, each, **options)


def proximal(base, **given):
    def make(params, proxs=None, **options):
        params = [{k: v for k, v in g.items() if k != "prox"} for g in params] if is_groups(params) else params
        return Proximal(base(params, **given | options), proxs)

    return make


def is_groups(params):
    return isinstance(params, list) and bool(params) and isinstance(params[0], dict)


class Case(NamedTuple):
    make: Callable[..., Any]
    closure: bool = False  # step needs one
    lr: bool = True  # lr is a number
    residual: bool = True
    options: Mapping[str, Any] = MappingProxyType({})

    def __call__(self, params, proxs=None, **options):
        return self.make(params, proxs, **{**self.options, **options})


CASES = {
    "PGM": Case(PGM, options={"lr": 0.05}),
    "PGM momentum": Case(PGM, options={"lr": 0.02, "momentum": 0.5}),
    "PGM nesterov": Case(PGM, options={"lr": 0.02, "momentum": 0.5, "nesterov": True}),
    "PGM auto": Case(PGM, lr=False),
    "APGM": Case(APGM, closure=True, lr=False),
    "ProxLBFGS": Case(ProxLBFGS, closure=True, lr=False),
    "NPG": Case(NPG, closure=True, lr=False),
    "DavisYin": Case(DavisYin, options={"lr": 0.05}),
    "DavisYin auto": Case(DavisYin, closure=True, lr=False),
    "BSDMM": Case(bsdmm, options={"lr": 0.05}),
    "BSDMM auto": Case(bsdmm, closure=True, lr=False),
    **{
        f"ProxAdam {form}": Case(ProxAdam, options={"lr": 0.05, "form": form})
        for form in ("adam", "amsgrad", "adamw", "nadam", "radam")
    },
    "AdaProx": Case(AdaProx, residual=False, options={"lr": 0.05}),
    "Proximal SGD": Case(proximal(torch.optim.SGD), options={"lr": 0.05}),
    "Proximal Adam": Case(proximal(torch.optim.Adam), options={"lr": 0.05}),
    "Proximal RMSprop": Case(proximal(torch.optim.RMSprop), options={"lr": 0.05}),
    "ProxDoWG": Case(ProxDoWG, residual=False, options={}),
}


def cases(keep: Callable[[Case], bool] = lambda case: True):
    return pytest.mark.parametrize("case", [pytest.param(c, id=name) for name, c in CASES.items() if keep(c)])


every = cases()


def double(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameter(*shape, seed=0):
    return nn.Parameter(double(*shape, seed=seed))


def closure_of(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def descend(optimizer, loss, steps):
    closure = closure_of(optimizer, loss)
    return [optimizer.step(closure).item() for _ in range(steps)]


def quadratic(seed=0):
    """½|M a - b|² + ½|c - t|² of a vector and a matrix."""
    M, b, t = double(12, 4, seed=seed), double(12, seed=seed + 1), double(3, 2, seed=seed + 2)
    a, c = parameter(4, seed=seed + 3), parameter(3, 2, seed=seed + 4)
    return [a, c], lambda: 0.1 * (M @ a - b).square().sum() + 0.5 * (c - t).square().sum()


def values(params):
    return [p.detach().clone() for p in params]


def same(ours, theirs):
    return all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@every
def test_named_parameters_and_generators_are_taken_and_named_in_errors(case):
    module = nn.Linear(3, 2, dtype=torch.float64)
    optimizer = case(module.named_parameters(), "nonneg")
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    descend(optimizer, lambda: (module(torch.ones(3, dtype=torch.float64)) - 1).square().sum(), 3)
    assert all((p >= 0).all() for p in module.parameters())
    module.bias.grad = torch.full_like(module.bias, torch.nan)
    with pytest.raises(RuntimeError, match="gradient of bias is not finite"):
        optimizer.step((lambda: module.bias.sum()) if case.closure else None)
    moved, before = case(p for p in module.parameters()), values(module.parameters())
    descend(moved, lambda: (module(torch.ones(3, dtype=torch.float64)) - 3).square().sum(), 3)
    assert not same(module.parameters(), before)


@cases(lambda case: case.lr)
def test_each_group_has_its_own_rate(case):
    (a, c), loss = quadratic()
    (b, d), twin = quadratic()
    optimizer = case([{"params": [a]}, {"params": [c], "lr": 0.01}])
    descend(optimizer, loss, 1)
    single = case([b, d])
    single.param_groups[0]["lr"] = 0.01
    descend(single, twin, 1)
    assert torch.equal(c, d)
    assert not torch.equal(a, b)


@every
def test_each_group_has_its_own_operator(case):
    (a, c), loss = quadratic()
    optimizer = case([{"params": [a]}, {"params": [c]}], ["nonneg", "nonpos"])
    for _ in range(4):
        descend(optimizer, loss, 1)
        assert (a >= 0).all()
        assert (c <= 0).all()


@every
def test_a_group_that_comes_later_takes_part(case):
    (a, c), loss = quadratic()
    optimizer = case([a], "nonneg")
    descend(optimizer, loss, 3)
    before = c.detach().clone()
    optimizer.add_param_group({"params": [c]})
    descend(optimizer, loss, 3)
    assert not torch.equal(c, before)
    assert (c >= 0).all()
    assert "prox" in optimizer.param_groups[1]


@every
def test_a_parameter_without_a_gradient_is_left_alone(case):
    (a, c), loss = quadratic()
    idle, frozen = parameter(3, seed=8), parameter(2, seed=9).requires_grad_(False)
    before = values([idle, frozen])
    descend(case([idle, a, frozen, c], "nonneg"), loss, 4)
    assert same([idle, frozen], before)
    assert (a >= 0).all()


@every
def test_tied_parameters_move_once(case):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(3, 3, bias=False, dtype=torch.float64), nn.Linear(3, 3, bias=False, dtype=torch.float64)
            self.down.weight = self.up.weight

    torch.manual_seed(0)
    module, x = Tied(), double(5, 3)
    alone = nn.Parameter(module.up.weight.detach().clone())
    ours = descend(case(module.parameters(), "nonneg"), lambda: (module.down(module.up(x)) - x).square().mean(), 4)
    theirs = descend(case([alone], "nonneg"), lambda: (x @ alone.T @ alone.T - x).square().mean(), 4)
    assert ours == pytest.approx(theirs, rel=1e-12)


@every
def test_the_same_parameter_twice_is_refused(case):
    a = parameter(2)
    with pytest.raises(ValueError, match="more than one parameter group"):
        case([{"params": [a]}, {"params": [a]}], "nonneg")


@every
def test_two_optimizers_over_one_module_do_not_disturb_each_other(case):
    (a, c), loss = quadratic()
    (b, _), twin = quadratic()
    first, second, together = case([a], "nonneg"), case([c], "l1(0.1)"), case([b], "nonneg")
    before = c.detach().clone()
    descend(first, loss, 3)
    assert torch.equal(c, before)
    descend(together, twin, 3)
    kept = a.detach().clone()
    assert torch.equal(a, b)
    descend(second, loss, 3)
    assert torch.equal(a, kept)
    assert not torch.equal(c, before)


# ── directions, closures, gradients ───────────────────────────────────────────────────────────────────────────────────


@every
def test_maximize_is_minimising_the_opposite_to_the_bit(case):
    ours, loss = quadratic()
    theirs, twin = quadratic()
    up, down = case(ours, "nonneg + l1(0.1)", maximize=True), case(theirs, "nonneg + l1(0.1)")
    for _ in range(8):
        assert descend(up, lambda: -loss(), 1) == [-v for v in descend(down, twin, 1)]
        assert same(ours, theirs)


@every
def test_the_closures_loss_is_returned_and_it_runs_with_grad(case):
    params, loss = quadratic()
    expected = loss().item()
    optimizer = case(params, "nonneg")
    with torch.no_grad():
        assert descend(optimizer, loss, 1) == [expected]


@cases(lambda case: not case.closure)
def test_without_a_closure_step_returns_none_and_moves_alike(case):
    ours, loss = quadratic()
    theirs, twin = quadratic()
    a, b = case(ours, "nonneg"), case(theirs, "nonneg")
    for _ in range(2):
        a.zero_grad(set_to_none=False)
        loss().backward()
        assert a.step() is None
        descend(b, twin, 1)
    assert same(ours, theirs) or "auto" in str(b.param_groups[0].get("lr"))


@cases(lambda case: case.closure)
def test_where_a_closure_is_needed_its_absence_and_its_silence_are_told(case):
    params, loss = quadratic()
    optimizer = case(params, "nonneg")
    loss().backward()
    before = values(params)
    with pytest.raises(TypeError, match="call step\\(closure\\)"):
        optimizer.step()
    for odd, what in ((lambda: loss().backward(), "NoneType"), (lambda: torch.zeros(2), r"a tensor of shape \(2,\)")):
        with pytest.raises(TypeError, match=f"closure returned {what}.*return loss"):
            optimizer.step(odd)
        assert same(params, before)


@every
def test_a_gradient_of_zeros_works(case):
    params, loss = quadratic()
    optimizer = case(params, "nonneg")
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step((lambda: torch.zeros(())) if case.closure else None)
    assert all((p >= 0).all() for p in params)
    descend(optimizer, loss, 3)
    assert all(p.isfinite().all() for p in params)


@every
def test_zero_grad_that_keeps_the_tensors_changes_nothing(case):
    ours, loss = quadratic()
    theirs, twin = quadratic()
    a, b = case(ours, "nonneg"), case(theirs, "nonneg")

    def closure():
        a.zero_grad(set_to_none=False)
        value = loss()
        value.backward()
        return value

    assert [a.step(closure).item() for _ in range(6)] == descend(b, twin, 6)
    assert same(ours, theirs)


@every
def test_sparse_gradients_are_refused_before_anything_moves(case):
    table, w = nn.Embedding(5, 2, sparse=True), parameter(2)
    before = values([w, table.weight])
    with pytest.raises(RuntimeError, match="sparse=False"):
        descend(case([w, table.weight], "nonneg"), lambda: table(torch.tensor([1])).sum() + w.sum(), 1)
    assert same([w, table.weight], before)


@every
@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(case, odd):
    params, loss = quadratic()
    optimizer = case(params, "nonneg")
    descend(optimizer, loss, 2)
    before = values(params)

    def closure():
        value = closure_of(optimizer, loss)()
        params[1].grad[0, 0] = odd
        return value

    with pytest.raises(RuntimeError, match=r"parameter 1 of group 0.*not finite, so nothing was moved"):
        optimizer.step(closure)
    assert same(params, before)


@every
def test_a_closure_that_is_interrupted_leaves_the_parameters_where_they_were(case):
    params, loss = quadratic()
    optimizer = case(params, "nonneg")
    calls = 0

    for stop in range(1, 9):

        def closure():
            nonlocal calls
            calls += 1
            if calls == stop:  # noqa: B023
                raise KeyboardInterrupt
            return closure_of(optimizer, loss)()

        calls, before = 0, values(params)
        try:
            optimizer.step(closure)
        except KeyboardInterrupt:
            assert same(params, before)
    descend(optimizer, loss, 2)
    assert all(p.isfinite().all() for p in params)


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


@every
def test_a_wrong_number_of_operators_is_refused(case):
    with pytest.raises(ValueError, match=r"has 3 (entries|lists) for 1 param group.*one per group"):
        case([parameter(2)], ["nonneg"] * 3)


@every
def test_an_unknown_operator_is_refused_at_the_door(case):
    with pytest.raises(ValueError, match="did you mean NonNegative"):
        case([parameter(2)], "nonnegg")
    with pytest.raises(TypeError, match="an operator is needed"):
        case([parameter(2)], 3)
    with pytest.raises(TypeError, match=r"write NonNegative\(\)"):
        case([parameter(2)], NonNegative)


@cases(lambda case: case.lr)
@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
def test_a_bad_rate_is_refused(case, lr):
    if lr == 0 and isinstance(case([parameter(2)]), Proximal):  # a base in its warm-up may stand at 0
        return
    with pytest.raises(ValueError, match="Invalid learning rate"):
        case([parameter(2)], "nonneg", lr=lr)


@every
def test_no_parameters_and_a_single_tensor_are_refused(case):
    with pytest.raises(ValueError, match="empty parameter list"):
        case([], "nonneg")
    with pytest.raises(TypeError):
        case(parameter(2), "nonneg")


class Shape(Prox):
    listed = False

    def _prox(self, x, step):
        return x[:1].sum()


class Type(Prox):
    listed = False

    def _prox(self, x, step):
        return x.half()


class Odd(Prox):
    listed = False

    def _prox(self, x, step):
        return x * torch.nan


class Nothing(Prox):
    listed = False
    dims = None

    def _prox(self, x, step):
        return None


def shape(x):
    return x[:1].sum()


def dtype(x):
    return x.float()


def odd(x):
    return x / x.new_zeros(())


def nothing(x, step):
    return None


BAD = [(Shape(), "keeps the shape"), (shape, "keeps the shape"), (Type(), "keeps the dtype"), (dtype, "keeps the dtype")]
BAD += [(Odd(), "NaN"), (lambda x: 0 * odd(x), "NaN"), (Nothing(), "NoneType"), (nothing, "NoneType")]


@every
@pytest.mark.parametrize(("prox", "match"), BAD)
def test_an_operator_that_does_not_keep_what_it_is_given_is_refused_and_nothing_moves(case, prox, match):
    params, loss = quadratic()
    before = values(params)
    with pytest.raises(ValueError, match=match):
        descend(case([{"params": [params[0]]}, {"params": [params[1]]}], ["simplex(dim=0)", prox]), loss, 1)
    assert same(params, before)


class Later(Prox):
    """Breaks once it is told to."""

    listed = False
    broken = False

    def _prox(self, x, step):
        return x * torch.nan if self.broken else x.clamp(min=0)


@every
def test_an_operator_that_breaks_on_the_way_moves_nothing(case):
    params, loss = quadratic()
    prox = Later()
    optimizer = case([{"params": [params[0]]}, {"params": [params[1]]}], [NonNegative(), prox])
    descend(optimizer, loss, 3)
    before = values(params)
    prox.broken = True
    with pytest.raises(ValueError, match="made NaN of numbers"):
        descend(optimizer, loss, 1)
    assert same(params, before)


@every
def test_an_operator_that_does_not_fit_the_second_parameter_moves_nothing(case):
    c, a = parameter(3, 2), parameter(4)
    before = values([c, a])
    with pytest.raises(ValueError, match="there is no dim 1"):
        descend(case([c, a], "simplex(dim=1)"), lambda: c.square().sum() + a.square().sum(), 1)
    assert same([c, a], before)


# ── saved, loaded, copied, scheduled ──────────────────────────────────────────────────────────────────────────────────


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch_load(file)


PRECISIONS = [(c, d) for c in CASES.values() for d in (torch.float64, torch.float32, torch.bfloat16)]
PRECISIONS.remove((CASES["ProxDoWG"], torch.bfloat16))  # it refuses half precision


@pytest.mark.parametrize(("case", "dtype"), PRECISIONS)
def test_a_checkpoint_goes_through_a_default_torch_load_and_continues_to_the_bit(case, dtype):
    def problem():
        t, c = double(3, 2, seed=2).to(dtype), nn.Parameter(double(3, 2, seed=3).to(dtype))
        d = nn.Parameter(double(4, seed=5).to(dtype))
        return [c, d], lambda: (0.5 * (c - t).square().sum() + (d - 1).pow(4).sum() + c.sum() * d.sum() / 9).to(torch.float64)

    params, loss = problem()
    optimizer = case([{"params": [params[0]]}, {"params": [params[1]]}], [L1(0.1), NonNegative()])
    descend(optimizer, loss, 7)
    saved = through_a_file({"params": values(params), "optimizer": optimizer.state_dict()})
    assert not {"prox", "constraints"} & set(saved["optimizer"]["param_groups"][0])
    again, twin = problem()
    for p, value in zip(again, saved["params"], strict=True):
        p.data.copy_(value)
    own = [L1(0.1), NonNegative()]
    resumed = case([{"params": [again[0]]}, {"params": [again[1]]}], own)
    resumed.load_state_dict(saved["optimizer"])
    assert [group["prox"] for group in resumed.param_groups] == own
    descend(optimizer, loss, 1), descend(resumed, twin, 1)
    assert same(params, again)
    assert descend(optimizer, loss, 8) == descend(resumed, twin, 8)
    assert same(params, again)


@every
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_like_the_original(case, twin):
    t, w = double(4, seed=2), parameter(4, seed=3)
    optimizer = case([w], L1(torch.full((4,), 0.2)))
    descend(optimizer, lambda: (w - t).pow(4).sum(), 6)
    v, other = twin((w, optimizer))
    assert descend(other, lambda: (v - t).pow(4).sum(), 8) == descend(optimizer, lambda: (w - t).pow(4).sum(), 8)
    assert v is not w
    assert torch.equal(v, w)
    other.add_param_group({"params": [parameter(4)]})
    assert len(optimizer.param_groups) == 1


@every
def test_hooks_run_once(case):
    params, loss = quadratic()
    optimizer, seen = case(params, "nonneg"), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append(all(bool((p >= 0).all()) for p in params)))
    descend(optimizer, loss, 2)
    assert seen == ["before", True] * 2


@cases(lambda case: case.lr)
def test_a_scheduler_down_to_zero_stops_the_moves_inside_the_set(case):
    params, loss = quadratic()
    optimizer = case(params, "nonneg")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: max(0.0, 1 - epoch / 3))
    before = values(params)
    for _ in range(3):
        descend(optimizer, loss, 1)
        assert not same(params, before)
        before = values(params)
        schedule.step()
    descend(optimizer, loss, 2)
    torch.testing.assert_close(values(params), before, rtol=1e-12, atol=1e-12)
    assert all((p >= 0).all() for p in params)


# ── kinds of parameters ───────────────────────────────────────────────────────────────────────────────────────────────


@every
@pytest.mark.parametrize("text", ["nonneg", "simplex(dim=0)", "simplex(dim=1)", "l2ball(dim=0, radius=0.5)"])
def test_parameters_are_in_the_set_after_every_step(case, text):
    prox, t, w = Prox.parse(text), double(4, 3, seed=2), parameter(4, 3, seed=3)
    optimizer = case([w], prox)
    for _ in range(6):
        descend(optimizer, lambda: (w - t).pow(4).sum(), 1)
        assert prox.value(w.detach()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", [case for name, case in CASES.items() if name != "ProxDoWG"])
def test_precision_stays_and_the_loss_falls(case, dtype):
    w, t = nn.Parameter(torch.full((6,), 2.0, dtype=dtype)), torch.linspace(-1, 1, 6)
    losses = descend(case([w], "l1(0.01)"), lambda: (w.float() - t).square().sum(), 60)
    assert w.dtype == dtype
    assert losses[-1] < losses[0]
    assert w.isfinite().all()


@every
def test_parameters_of_no_dims_and_of_no_entries_work(case):
    w, empty, line = parameter(), nn.Parameter(torch.zeros(0, 3, dtype=torch.float64)), parameter(3, seed=1)
    optimizer = case([empty, w, line], "nonneg + l1(0.1)")
    descend(optimizer, lambda: (w - 2).square() + empty.sum() + (line + 1).square().sum(), 12)
    assert w.isfinite()
    assert (line >= 0).all()
    assert empty.shape == (0, 3)


COMPLEX = cases(lambda case: case is not CASES["Proximal Adam"] and case is not CASES["Proximal RMSprop"])


@COMPLEX
def test_of_a_complex_parameter_the_modulus_shrinks(case):
    t = torch.complex(double(5), double(5, seed=1))
    w = nn.Parameter(torch.complex(double(5, seed=2), double(5, seed=3)))
    descend(case([w], L1(0.6)), lambda: 0.5 * (w - t).abs().square().sum(), 40)
    v = nn.Parameter(torch.view_as_real(w.detach()).clone())
    steady = PGM([v], GroupLasso(-1, 0.6), lr=0.5)
    descend(steady, lambda: 0.5 * (v - torch.view_as_real(t)).square().sum(), 200)
    away, begun = (w - torch.view_as_complex(v)).abs().max(), t.abs().max()
    assert away < 0.5 * begun
    if case.residual and case.closure:
        assert away < 1e-6 * begun


@every
def test_complex_parameters_are_refused_by_operators_of_real_numbers(case):
    with pytest.raises(TypeError, match=r"complex"):
        case([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], "nonneg")


# ── residuals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def separable(factor=1.0):
    """½|w - t|² + .5|w| in units of which one is ``factor``: the solution, its parameter, its loss and its operator."""
    t, w = factor * double(6, seed=4), nn.Parameter(factor * double(6, seed=5))
    return L1(0.5 * factor)(t), w, lambda: 0.5 * (w - t).square().sum(), L1(0.5 * factor)


@cases(lambda case: case.residual)
def test_the_residual_is_small_at_the_solution_and_large_away_from_it(case):
    solution, w, loss, prox = separable()
    optimizer = case([w], prox)
    descend(optimizer, loss, 5)
    with torch.no_grad():
        w.copy_(double(6, seed=9))
    closure = closure_of(optimizer, loss)
    (away,) = optimizer.residual(closure)
    assert away.value > 0.01
    assert not optimizer.converged(0.01, closure)
    if isinstance(optimizer, BSDMM):  # its dual belongs to another point
        return
    with torch.no_grad():
        w.copy_(solution)
    (there,) = optimizer.residual(closure)
    assert there.value < 1e-12
    assert there.metric in ("step", "curvature")
    assert optimizer.converged(1e-12, closure)


@cases(lambda case: case.residual and case.options.get("form") != "radam")  # its first steps are those of momentum
def test_the_residual_is_free_of_scale(case):
    found = []
    for factor in (1.0, 2.0**20):
        _, w, loss, prox = separable(factor)
        optimizer = case([w], prox, **({"lr": 0.05 * factor} if case.lr and is_adam(case) else {}))
        descend(optimizer, loss, 3)
        found.append(optimizer.residual(closure_of(optimizer, loss))[0].value)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def is_adam(case):
    return any(case is c for name, c in CASES.items() if "Adam" in name or "RMSprop" in name)


@cases(lambda case: case.residual)
def test_the_residual_between_backward_and_step_is_that_of_the_closure(case):
    _, w, loss, prox = separable()
    optimizer = case([w], prox)
    descend(optimizer, loss, 3)
    remembered = optimizer.residual()[0].value  # by the closure of the last step
    optimizer.zero_grad()
    loss().backward()
    assert optimizer.residual()[0].value == remembered == optimizer.residual(closure_of(optimizer, loss))[0].value


@cases(lambda case: case.residual)
def test_a_residual_does_not_take_a_gradient_that_is_known(case):
    _, w, loss, prox = separable()
    optimizer, calls = case([w], prox), 0

    def closure():
        nonlocal calls
        calls += 1
        return closure_of(optimizer, loss)()

    optimizer.step(closure)
    optimizer.step(closure)
    before = calls
    known = optimizer._kept[0] is closure and optimizer._kept[2][w][1] == (w._version, w.grad._version)
    optimizer.residual()
    assert calls - before == (0 if known else 1)


@cases(lambda case: case.residual and not case.closure)
def test_without_a_closure_the_residual_is_measured_from_the_second_call_on(case):
    _, w, loss, prox = separable()
    optimizer = case([w], prox)

    def move():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    for _ in range(3):
        move()
    assert optimizer.residual()[0].value is None
    assert "not yet known" in optimizer.residual()[0].metric
    assert not optimizer.converged(1e9)
    optimizer.zero_grad()
    loss().backward()
    expected = optimizer.residual()[0].value
    optimizer.step()
    assert optimizer.residual()[0].value == expected


@cases(lambda case: not case.residual)
def test_where_there_is_no_residual_the_reason_is_said(case):
    params, loss = quadratic()
    optimizer = case(params, "nonneg")
    descend(optimizer, loss, 2)
    (residual,) = optimizer.residual()
    assert residual.value is None
    assert residual.metric.startswith("not available: ")
    with pytest.raises(RuntimeError, match=residual.metric.removeprefix("not available: ")[:30]):
        optimizer.converged()


@cases(lambda case: case.lr and case.residual)
def test_a_rate_that_a_schedule_took_to_zero_has_no_residual(case):
    _, w, loss, prox = separable()
    optimizer = case([w], prox)
    descend(optimizer, loss, 2)
    optimizer.param_groups[0]["lr"] = 0.0
    if isinstance(optimizer, BSDMM | DavisYin):  # theirs is that of the last step taken
        assert optimizer.residual()[0].value > 0
        return
    assert optimizer.residual()[0] == (None, "not available: lr is 0")
    assert not optimizer.converged(1e9)


@cases(lambda case: case.residual)
def test_before_the_first_step_an_unknown_residual_says_so(case):
    _, w, loss, prox = separable()
    optimizer = case([w], prox)
    loss().backward()
    (residual,) = optimizer.residual()
    assert (residual.value is None and residual.metric == "not yet known: no step was taken") or residual.value > 0


@every
def test_an_operator_that_is_exchanged_at_the_solution_moves_it_on(case):
    _, w, loss, _ = separable()
    optimizer = case([w], L1(3.0))
    descend(optimizer, loss, 40)
    before = w.detach().clone()
    optimizer.param_groups[0]["prox"] = L1(0.1)
    descend(optimizer, loss, 40)
    assert not torch.equal(w, before)
