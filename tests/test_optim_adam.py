"""ProxAdam and AdaProx: Adam's steps, the prox in their metric; and the habits of torch.optim, which Proximal shares."""

import copy
import io
import pickle

import cvxpy as cp
import pytest
import torch
from torch import nn

from proxfactor import L1, Prox, Simplex, as_prox
from proxfactor.optim.adam import ProxAdam
from proxfactor.optim.adaprox import AdaProx
from proxfactor.optim.wrap import Proximal

FORMS = ["adam", "amsgrad", "adamw", "nadam", "radam"]
SCHEMES = ["adam", "nadam", "amsgrad", "padam", "adamx", "radam"]
TWINS = {
    "adam": torch.optim.Adam,
    "amsgrad": lambda *args, **options: torch.optim.Adam(*args, amsgrad=True, **options),
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
}
torch_load = torch.load  # with its default, weights_only


def form(name):
    return lambda params, prox=None, **options: ProxAdam(params, prox, form=name, **options)


def scheme(name):
    return lambda params, prox=None, **options: AdaProx(params, prox, scheme=name, **options)


def wrapped(base):
    return lambda params, prox=None, **options: Proximal(base(params, **options), prox)


OURS = (
    {name: form(name) for name in FORMS}
    | {f"adaprox-{name}": scheme(name) for name in ("adam", "amsgrad", "adamx")}
    | {"proximal-adamw": wrapped(torch.optim.AdamW), "proximal-adamax": wrapped(torch.optim.Adamax)}
)
every = pytest.mark.parametrize("make", OURS.values(), ids=OURS)


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameter(*shape, seed=0):
    return nn.Parameter(double(*shape, seed=seed))


def push(optimizer, w, grads):
    for grad in grads:
        w.grad = grad.clone()
        optimizer.step()


def descend(optimizer, loss, steps):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return [optimizer.step(closure).item() for _ in range(steps)]


class Recorder(Prox):
    """A prox that changes nothing and keeps the steps it is given."""

    listed = False
    metric = "element"

    def __init__(self):
        self.steps = []

    @property
    def dims(self):
        return (0,)  # so that it is asked once for the whole

    def _prox(self, x, step):
        self.steps.append(step.clone() if isinstance(step, torch.Tensor) else step)
        return x.clone()


# ── without a prox: torch's own ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"betas": (0.5, 0.9), "eps": 1e-3, "maximize": True}], ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_without_constraint_the_trajectory_is_that_of_torch(name, options, foreach):
    ours, theirs = [parameter(3, 4), parameter(5)], [parameter(3, 4), parameter(5)]
    options = {"lr": 0.01, "weight_decay": 0.0} | options  # torch's AdamW decays by itself
    optimizer, twin = ProxAdam(ours, form=name, foreach=foreach, **options), TWINS[name](theirs, **options)
    for t in range(25):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = double(*p.shape, seed=t)
            q.grad = p.grad.clone()
        optimizer.step()
        twin.step()
    rtol = 1e-12 if name != "nadam" else 1e-6  # torch keeps NAdam's product in float32
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=0)


@pytest.mark.parametrize("name", FORMS)
def test_capturable_keeps_every_number_in_tensors_and_the_trajectory(name):
    a, b = parameter(3, 4), parameter(3, 4)
    grads = [double(3, 4, seed=t) for t in range(12)]
    plain, captured = (
        ProxAdam([a], "l1(0.1)", form=name, lr=0.01),
        ProxAdam([b], "l1(0.1)", form=name, lr=torch.tensor(0.01, dtype=torch.float64), capturable=True),
    )
    push(plain, a, grads)
    push(captured, b, grads[:1])
    where = {name: value.data_ptr() for name, value in captured.state[b].items()}
    push(captured, b, grads[1:])
    assert where == {name: value.data_ptr() for name, value in captured.state[b].items()}  # a graph replays on this memory
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert all(isinstance(value, torch.Tensor) for value in captured.state[b].values())


@pytest.mark.parametrize("name", FORMS)
def test_a_step_with_capturable_asks_the_device_for_no_number(name):
    w = nn.Parameter(torch.empty(4, device="meta"))  # where nothing can be asked
    optimizer = ProxAdam([w], "nonneg", form=name, lr=0.01, capturable=True)
    for _ in range(3):
        w.grad = torch.empty(4, device="meta")
        optimizer.step()
    assert optimizer.state[w]["momentum_weight"].device.type == "meta"


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("text", ["nonneg + l1(0.1)", None])
def test_a_parameter_of_many_blocks_moves_as_its_pieces_do(text):
    n = 3 * 2**16 + 5
    whole, parts = nn.Parameter(double(n).float()), [nn.Parameter(p.clone()) for p in double(n).float().split(1000)]
    one, many = ProxAdam([whole], text, lr=0.01), ProxAdam(parts, text, lr=0.01)
    for t in range(3):
        whole.grad = double(n, seed=t).float()
        for p, g in zip(parts, whole.grad.split(1000), strict=True):
            p.grad = g.clone()
        one.step()
        many.step()
    torch.testing.assert_close(whole.detach(), torch.cat([p.detach() for p in parts]), rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("two_threads")
def test_threads_share_the_blocks_of_one_parameter():
    test_a_parameter_of_many_blocks_moves_as_its_pieces_do("nonneg + l1(0.1)")


def test_a_parameter_whose_memory_is_not_in_order_moves_alike():
    n = 400
    a, b = nn.Parameter(double(n, n)), nn.Parameter(double(n, n).t().contiguous().t())
    for w in (a, b):
        push(ProxAdam([w], "l1(0.1)", lr=0.01), w, [double(n, n, seed=t) for t in (1, 2)])
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


# ── the step that the prox gets ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FORMS)
def test_the_prox_step_is_the_weight_that_a_constant_gradient_has_gained(name):
    w, grad, recorder = parameter(3), torch.tensor([1.0, -2.0, 0.1], dtype=torch.float64), Recorder()
    optimizer = ProxAdam([w], recorder, form=name, lr=0.01)
    for _ in range(12):
        before = w.detach().clone()
        push(optimizer, w, [grad])
        torch.testing.assert_close(recorder.steps[-1] * grad, before - w.detach(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", FORMS)
def test_a_schedule_that_turns_the_betas_keeps_the_step_exact(name):
    w, grad, recorder = parameter(3), torch.tensor([1.0, -2.0, 0.1], dtype=torch.float64), Recorder()
    optimizer = ProxAdam([w], recorder, form=name, lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12)
    for _ in range(11):
        before = w.detach().clone()
        push(optimizer, w, [grad])
        torch.testing.assert_close(recorder.steps[-1] * grad, before - w.detach(), rtol=1e-9, atol=0)
        schedule.step()
    assert optimizer.param_groups[0]["betas"][0] != 0.9


def test_decoupled_decay_comes_before_the_prox():
    w = parameter(4)
    start, grad = w.detach().clone(), double(4, seed=1)
    push(ProxAdam([w], "l1(0.5)", lr=0.1, weight_decay=0.2, form="adamw"), w, [grad])
    step = 0.1 / (grad.abs() + 1e-8)
    torch.testing.assert_close(w.detach(), L1(0.5)(start * (1 - 0.1 * 0.2) - step * grad, step), rtol=1e-12, atol=0)


def test_an_operator_that_needs_one_step_per_group_gets_one_in_the_move_and_in_the_prox():
    w = parameter(4, 3)
    start, grad = w.detach().clone(), double(4, 3, seed=1)
    op = as_prox("nuclear(0.5)")
    assert op.metric == "group"
    push(ProxAdam([w], op, lr=0.1), w, [grad])
    step = 0.1 / (grad.square().mean().sqrt().item() + 1e-8)
    torch.testing.assert_close(w.detach(), op(start - step * grad, step), rtol=1e-10, atol=1e-12)


def test_a_plain_function_is_given_one_number():
    w, steps = parameter(4, 3), []
    grad = double(4, 3, seed=1)
    push(ProxAdam([w], lambda x, step: steps.append(step) or x, lr=0.1), w, [grad])
    assert steps == [pytest.approx(0.1 / (grad.square().mean().sqrt().item() + 1e-8), rel=1e-9)]


def test_an_operator_exchanged_on_the_way_finds_a_metric_that_it_can_honour():
    w = parameter(4, 3)
    optimizer = ProxAdam([w], "l1(0.1)", lr=0.1, form="amsgrad")
    push(optimizer, w, [double(4, 3, seed=1)])
    for text, shape in [("nuclear(0.1)", (1, 1)), ("l1(0.1)", (4, 3))]:
        optimizer.param_groups[0]["prox"] = as_prox(text)
        push(optimizer, w, [double(4, 3, seed=2)])
        assert optimizer.state[w]["exp_avg_sq"].shape == optimizer.state[w]["max_exp_avg_sq"].shape == shape
    assert w.isfinite().all()


def test_a_step_of_zero_at_the_end_of_a_schedule_still_leaves_the_point_in_the_set():
    w = nn.Parameter(torch.tensor([-1.0, 1.0]))
    optimizer = ProxAdam([w], "nonneg + l1(1.0)", lr=0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    push(optimizer, w, [torch.ones(2)])
    assert w.tolist() == [0.0, 1.0]


def test_gradients_whose_squares_overflow_leave_numbers():
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    push(ProxAdam([w], "l1(0.1)", lr=0.1), w, [torch.tensor([1e30, 1.0])] * 3)
    assert w[0] == 1.0
    assert w[1].isfinite()


def test_a_gradient_of_zero_leaves_numbers():
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    push(ProxAdam([w], "nonneg", lr=0.1), w, [torch.zeros(2)] * 3)
    assert w.tolist() == [1.0, 2.0]


# ── where it ends ─────────────────────────────────────────────────────────────────────────────────────────────────────

M, B = double(20, 6, seed=1) / 4 * torch.logspace(-0.2, 0.2, 6, dtype=torch.float64), double(20, 3, seed=2)
PENALTIES = {
    "l1(0.8)": lambda X: (0.8 * cp.sum(cp.abs(X)), []),
    "simplex(dim=0)": lambda X: (0, [X >= 0, cp.sum(X, axis=0) == 1]),
    "grouplasso(dim=1, lam=1.2)": lambda X: (1.2 * cp.sum(cp.norm(X, 2, axis=1)), []),
    "nuclear(0.8)": lambda X: (0.8 * cp.normNuc(X), []),
}


@pytest.fixture(scope="module", params=PENALTIES)
def solved(request):
    """The operator's text, and the minimiser of ½|MX - B|² + g(X) from Clarabel."""
    X = cp.Variable((6, 3))
    penalty, sets = PENALTIES[request.param](X)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(M.numpy() @ X - B.numpy()) + penalty), sets)
    problem.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    assert problem.status == "optimal"
    return request.param, torch.tensor(X.value)


def least_squares(optimizer, w, steps=500):
    """So many steps: as no gradient vanishes at these solutions, neither do the metric's entries, and a constant lr converges."""
    for _ in range(steps):
        push(optimizer, w, [M.T @ (M @ w.detach() - B)])


@pytest.mark.parametrize("name", FORMS)
def test_the_fixed_point_is_the_solution_of_the_problem(solved, name):
    text, solution = solved
    w = nn.Parameter(torch.full((6, 3), 1 / 6, dtype=torch.float64))
    least_squares(ProxAdam([w], text, lr=0.1, betas=(0.8, 0.9), form=name), w)
    torch.testing.assert_close(w.detach(), solution, rtol=0, atol=1e-5)


def test_adam_and_a_prox_with_the_plain_learning_rate_end_elsewhere(solved):
    text, solution = solved
    w, op = nn.Parameter(torch.full((6, 3), 1 / 6, dtype=torch.float64)), as_prox(text)
    naive = torch.optim.Adam([w], lr=0.1, betas=(0.8, 0.9))
    naive.register_step_post_hook(lambda *_: w.data.copy_(op(w.data, naive.param_groups[0]["lr"])))
    least_squares(naive, w)
    assert (w.detach() - solution).abs().max() > 0.05


@pytest.mark.parametrize("name", FORMS)
def test_a_linear_function_on_the_simplex_ends_in_its_corner(name):
    w = nn.Parameter(torch.tensor([0.2, 0.3, 0.5]))
    push(ProxAdam([w], Simplex(dim=0), form=name, lr=0.05, betas=(0.9, 0.99)), w, [torch.tensor([1.0, 2.0, 3.0])] * 200)
    assert w.tolist() == [1.0, 0.0, 0.0]


def test_adam_and_a_projection_never_leave_their_start_there():
    w, op = nn.Parameter(torch.tensor([0.2, 0.3, 0.5])), Simplex(dim=0)
    naive = torch.optim.Adam([w], lr=0.05)
    naive.register_step_post_hook(lambda *_: w.data.copy_(op(w.data)))
    push(naive, w, [torch.tensor([1.0, 2.0, 3.0])] * 200)
    torch.testing.assert_close(w.detach(), torch.tensor([0.2, 0.3, 0.5]))


def test_coupled_decay_is_a_ridge():
    w, v = parameter(6, 3), parameter(6, 3)
    inside, outside = ProxAdam([w], "l1(0.8)", lr=0.1, weight_decay=2.0), ProxAdam([v], "l1(0.8)", lr=0.1)
    for _ in range(50):
        push(inside, w, [M.T @ (M @ w.detach() - B)])
        push(outside, v, [M.T @ (M @ v.detach() - B) + 2.0 * v.detach()])
    torch.testing.assert_close(w, v, rtol=1e-9, atol=1e-11)


# ── complex and half precision ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FORMS)
def test_of_a_complex_parameter_the_modulus_shrinks(name):
    b = torch.complex(double(6), double(6, seed=1))
    w = nn.Parameter(torch.zeros_like(b))
    optimizer = ProxAdam([w], L1(0.4), lr=0.1, betas=(0.8, 0.9), form=name)
    for _ in range(400):
        push(optimizer, w, [w.detach() - b])
    torch.testing.assert_close(w.detach(), b * (1 - 0.4 / b.abs()).clamp(min=0), rtol=0, atol=1e-6)
    assert not optimizer.state[w]["exp_avg_sq"].is_complex()


def test_a_rotation_of_a_complex_problem_rotates_the_trajectory():
    turn = torch.polar(torch.ones(1, dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64))
    grads = [torch.complex(double(4, seed=t), double(4, seed=t + 50)) for t in range(6)]
    a, b = nn.Parameter(grads[0].clone()), nn.Parameter(grads[0] * turn)
    push(ProxAdam([a], "l1(0.5)", lr=0.1), a, grads)
    push(ProxAdam([b], "l1(0.5)", lr=0.1), b, [g * turn for g in grads])
    torch.testing.assert_close(a.detach() * turn, b.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("text", ["l1(0.5)", "simplex(dim=0)", "nuclear(0.1)"])
def test_a_step_in_half_precision_is_the_float32_step_rounded_once(text, dtype):
    start, grad = double(4, 3).to(dtype), double(4, 3, seed=1).to(dtype)
    low, high = nn.Parameter(start.clone()), nn.Parameter(start.float())
    push(ProxAdam([low], text, lr=0.1), low, [grad])
    push(ProxAdam([high], text, lr=0.1), high, [grad.float()])
    assert torch.equal(low.detach(), high.detach().to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_continues_from_a_checkpoint_to_the_bit(dtype):
    w, grads = nn.Parameter(double(5).to(dtype)), [double(5, seed=t).to(dtype) for t in range(8)]
    optimizer = ProxAdam([w], "l1(0.01)", lr=0.1)
    push(optimizer, w, grads[:4])
    again = nn.Parameter(w.detach().clone())
    resumed = ProxAdam([again], "l1(0.01)")
    resumed.load_state_dict(optimizer.state_dict())
    push(optimizer, w, grads[4:])
    push(resumed, again, grads[4:])
    assert torch.equal(w, again)
    assert torch.equal(optimizer.state[w]["exp_avg"], resumed.state[again]["exp_avg"])


# ── the residual ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_residual_falls_to_zero_at_the_solution(solved):
    text, solution = solved
    w = nn.Parameter(torch.full((6, 3), 1 / 6, dtype=torch.float64))
    optimizer = ProxAdam([w], text, lr=0.1)

    def closure():
        optimizer.zero_grad()
        (0.5 * (M @ w - B).square().sum()).backward()

    assert not optimizer.converged(closure=closure)
    assert optimizer.residual(closure)[0].value is None
    optimizer.step(closure)
    assert not optimizer.converged(1e-2)
    with torch.no_grad():
        w.copy_(solution)
    assert optimizer.converged(1e-4, closure)


def test_the_residual_is_the_distance_to_the_prox_in_the_metric_of_the_step():
    w = parameter(4)
    optimizer = ProxAdam([w], "l1(0.3)", lr=0.1)
    push(optimizer, w, [double(4, seed=1)])
    p = w.detach().clone()
    g, v = double(4, seed=2), 0.001 * double(4, seed=1).square()
    s = 0.1 / ((v / 0.001).sqrt() + 1e-8)
    w.grad = g.clone()
    away = (p - L1(0.3)(p - s * g, s)) / s.sqrt()
    (residual,) = optimizer.residual()
    assert residual.value == pytest.approx((away.norm() / (p / s.sqrt()).norm()).item(), rel=1e-9)
    assert residual.metric == "step"


def test_the_residual_counts_coupled_decay_as_part_of_the_loss():
    w = nn.Parameter(torch.tensor([2.0, -4.0]))
    optimizer = ProxAdam([w], None, lr=0.1, weight_decay=0.5)
    push(optimizer, w, [torch.ones(2)])
    w.grad = -0.5 * w.detach()
    assert optimizer.residual()[0].value == 0.0


def test_decoupled_decay_has_no_residual():
    w = parameter(3)
    optimizer = ProxAdam([w], "nonneg", form="adamw", weight_decay=0.1)
    assert "decoupled" in optimizer.residual()[0].metric
    with pytest.raises(RuntimeError, match="cannot say whether it has converged: with decoupled"):
        optimizer.converged()
    assert ProxAdam([w], "nonneg", form="adamw").no_residual == ""


# ── AdaProx ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", ["l1(0.5)", "simplex(dim=0)"])
def test_the_inner_iterations_come_to_the_prox_in_the_metric(text):
    exact, inner = parameter(4, 3), parameter(4, 3)
    grads = [double(4, 3, seed=t) for t in range(5)]
    push(ProxAdam([exact], text, lr=0.1), exact, grads)
    optimizer = AdaProx([inner], text, lr=0.1, tol=1e-14, prox_max_iter=100_000)
    push(optimizer, inner, grads)
    torch.testing.assert_close(exact, inner, rtol=0, atol=1e-10)
    assert optimizer.prox_calls > 5 * 3


def test_one_inner_iteration_is_the_plain_prox_with_the_smallest_step():
    w = parameter(4)
    start, grad = w.detach().clone(), double(4, seed=1)
    optimizer = AdaProx([w], "l1(0.5)", lr=0.1, prox_max_iter=1)
    push(optimizer, w, [grad])
    metric = grad.abs() + 1e-8
    torch.testing.assert_close(w.detach(), L1(0.5)(start - 0.1 * grad / metric, (0.1 / metric.max()).item()), rtol=1e-12, atol=0)
    assert optimizer.prox_calls == 1


def written_out(name, grads, lr=0.1, first=0.9, second=0.99, eps=1e-8):
    """The points that the schemes give from 0 with no prox, entry by entry with numbers."""
    points = []
    for entry in range(grads[0].numel()):
        x = m = v = most = 0.0
        for t, g in enumerate((g[entry].item() for g in grads), 1):
            m, v = first * m + (1 - first) * g, second * v + (1 - second) * g * g
            most = max(most, v)
            direction, metric = m / (1 - first**t), (v / (1 - second**t)) ** 0.5 + eps
            if name == "nadam":
                direction = (first * m + (1 - first) * g) / (1 - first**t)
            if name in ("amsgrad", "padam", "adamx"):
                direction, metric = m, most ** (0.25 if name == "padam" else 0.5) + eps
            if name == "radam":
                infinite = 2 / (1 - second) - 1
                rho = infinite - 2 * t * second**t / (1 - second**t)
                rectifier = (rho - 4) * (rho - 2) * infinite / ((infinite - 4) * (infinite - 2) * rho)
                metric = metric / rectifier**0.5 if rho > 4 else 1.0
            x -= lr * direction / metric
        points.append(x)
    return torch.tensor(points, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_schemes_are_those_of_the_paper(name):
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    grads = [double(3, seed=t) * 0.8**t for t in range(12)]
    push(AdaProx([w], None, scheme=name, lr=0.1, betas=(0.9, 0.99)), w, grads)
    torch.testing.assert_close(w.detach(), written_out(name, grads), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["amsgrad", "padam", "adamx"])
def test_the_maximum_persists(name):
    w = parameter(1)
    optimizer = AdaProx([w], None, scheme=name, betas=(0.9, 0.5))
    push(optimizer, w, [torch.full((1,), g, dtype=torch.float64) for g in (4.0, 0.0, 0.0, 0.0)])
    assert optimizer.state[w]["max_exp_avg_sq"].item() == pytest.approx(8.0)


def test_adamx_keeps_its_maximum_up_while_beta_falls():
    w = parameter(1)
    optimizer = AdaProx([w], None, scheme="adamx", betas=(0.9, 0.5))
    push(optimizer, w, [torch.full((1,), 4.0, dtype=torch.float64)])
    optimizer.param_groups[0]["betas"] = (0.8, 0.5)
    push(optimizer, w, [torch.zeros(1, dtype=torch.float64)])
    assert optimizer.state[w]["max_exp_avg_sq"].item() == pytest.approx(8.0 * (0.2 / 0.1) ** 2)


def test_adaprox_has_no_residual():
    optimizer = AdaProx([parameter(2)], "nonneg")
    assert "not available: AdaProx" in optimizer.residual()[0].metric
    with pytest.raises(RuntimeError, match="ProxAdam has a residual"):
        optimizer.converged()


# ── the habits of torch.optim ─────────────────────────────────────────────────────────────────────────────────────────


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch_load(file)


@every
@pytest.mark.parametrize("text", ["l1(0.1)", "simplex(dim=0)", "nuclear(0.1)"])
def test_a_checkpoint_goes_through_a_default_torch_load_and_continues_to_the_bit(make, text):
    w, grads = parameter(4, 3), [double(4, 3, seed=t) for t in range(9)]
    optimizer = make([w], text, lr=0.05, betas=(0.8, 0.9))
    push(optimizer, w, grads[:4])
    saved = through_a_file({"w": w.detach(), "optimizer": optimizer.state_dict()})
    again = nn.Parameter(saved["w"].clone())
    resumed = make([again], text, lr=0.7)  # its options come from the checkpoint
    own = resumed.param_groups[0]["prox"]
    resumed.load_state_dict(saved["optimizer"])
    push(optimizer, w, grads[4:])
    push(resumed, again, grads[4:])
    assert torch.equal(w, again)
    assert resumed.param_groups[0]["prox"] is own


@every
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copied", "pickled"])
def test_a_copy_goes_on_like_the_original(make, twin):
    w, grads = parameter(4), [double(4, seed=t) for t in range(9)]
    optimizer = make([w], L1(torch.full((4,), 0.1)), lr=0.05)
    push(optimizer, w, grads[:4])
    v, other = twin((w, optimizer))
    push(optimizer, w, grads[4:])
    push(other, v, grads[4:])
    assert torch.equal(w, v)
    assert v is not w
    other.add_param_group({"params": parameter(4)})
    assert isinstance(other.param_groups[1]["prox"], L1)


@every
def test_a_parameter_without_a_gradient_is_left_alone(make):
    w, idle = parameter(3), nn.Parameter(torch.tensor([-1.0, -2.0]))
    w.grad = torch.ones_like(w)
    optimizer = make([w, idle], "nonneg", lr=0.1)
    optimizer.step()
    assert idle.tolist() == [-1.0, -2.0]
    assert not optimizer.state.get(idle)
    assert (w >= 0).all()


@every
def test_each_parameter_counts_its_own_steps_and_may_come_later(make):
    early, late, alone = parameter(3), parameter(3, seed=5), parameter(3, seed=5)
    optimizer, single = make([early], "l1(0.1)", lr=0.1), make([alone], "l1(0.1)", lr=0.1)
    push(optimizer, early, [double(3, seed=t) for t in range(3)])
    optimizer.add_param_group({"params": [late], "prox": "l1(0.1)"})
    early.grad = None
    push(optimizer, late, [double(3, seed=t) for t in range(3)])
    push(single, alone, [double(3, seed=t) for t in range(3)])
    assert torch.equal(late, alone)


@every
def test_each_group_has_its_own_prox_and_lr(make):
    a, b = parameter(3), parameter(3)
    optimizer = make([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2}], ["nonneg", None])
    twins = [parameter(3), parameter(3)]
    push(make([twins[0]], "nonneg", lr=0.1), twins[0], [double(3, seed=1)])
    push(make([twins[1]], None, lr=0.2), twins[1], [double(3, seed=1)])
    a.grad, b.grad = double(3, seed=1), double(3, seed=1)
    optimizer.step()
    assert torch.equal(a, twins[0])
    assert torch.equal(b, twins[1])


@every
def test_maximize_climbs(make):
    down, up = parameter(4), parameter(4)
    push(make([down], "l1(0.1)", lr=0.1), down, [double(4, seed=t) for t in range(4)])
    push(make([up], "l1(0.1)", lr=0.1, maximize=True), up, [-double(4, seed=t) for t in range(4)])
    assert torch.equal(down, up)


@every
def test_a_scheduler_changes_the_step_that_the_prox_sees(make):
    w = nn.Parameter(torch.full((1,), 1e6, dtype=torch.float64))
    optimizer = make([w], "l1(1e4)", lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    moves = []
    for _ in range(12):
        before = w.item()
        push(optimizer, w, [torch.ones(1, dtype=torch.float64)])
        moves.append(before - w.item())
        schedule.step()
    twin = nn.Parameter(torch.full((1,), 1e6, dtype=torch.float64))
    constant = make([twin], "l1(1e4)", lr=1.0)
    for t, move in enumerate(moves):
        before = twin.item()
        constant.param_groups[0]["lr"] = 0.5**t
        push(constant, twin, [torch.ones(1, dtype=torch.float64)])
        assert before - twin.item() == pytest.approx(move)
    assert moves[-1] < moves[-2]


@every
def test_the_closure_runs_with_grad_and_its_loss_is_returned(make):
    w = parameter(3)
    optimizer = make([w], "nonneg", lr=0.1)
    with torch.no_grad():
        values = descend(optimizer, lambda: (w + 1).square().sum(), 3)
    assert values[0] == pytest.approx((double(3) + 1).square().sum().item())
    assert values[2] < values[1] < values[0]


@every
def test_the_step_happens_in_place_and_outside_autograd(make):
    w = parameter(3)
    where = w.data_ptr()
    descend(make([w], "l1(0.1)", lr=0.1), lambda: w.square().sum(), 3)
    assert w.data_ptr() == where
    assert w.is_leaf
    assert w.requires_grad


@every
def test_a_gradient_that_is_not_finite_moves_nothing(make):
    w, v = parameter(3), parameter(3)
    optimizer = make([w, v], "nonneg", lr=0.1)
    w.grad, v.grad = torch.ones_like(w), torch.full_like(v, float("nan"))
    with pytest.raises(RuntimeError, match=r"parameter 1 of group 0.*not finite"):
        optimizer.step()
    assert torch.equal(w, parameter(3))
    assert not optimizer.state.get(w)


@every
def test_sparse_gradients_are_refused_before_anything_moves(make):
    w, table = parameter(2), nn.Embedding(5, 2, sparse=True)
    optimizer = make([w, *table.parameters()], "nonneg", lr=0.1)
    with pytest.raises(RuntimeError, match="sparse=False"):
        descend(optimizer, lambda: table(torch.tensor([1])).sum() + w.sum(), 1)
    assert torch.equal(w, parameter(2))


@every
def test_hooks_run_once_and_see_the_point_after_the_prox(make):
    w, seen = nn.Parameter(torch.tensor([-1.0])), []
    optimizer = make([w], "nonneg", lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: seen.append(("before", w.item())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("after", w.item())))
    push(optimizer, w, [torch.ones(1)])
    assert seen == [("before", -1.0), ("after", 0.0)]


@every
def test_a_grad_scaler_unscales_before_the_step(make):
    w, v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = make([w], "l1(0.5)", lr=0.25)
    scaler.scale(w.square().sum()).backward()
    scaler.step(optimizer)
    descend(make([v], "l1(0.5)", lr=0.25), lambda: v.square().sum(), 1)
    assert torch.equal(w, v)


@every
def test_named_parameters_tied_ones_and_empty_ones(make):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module.register_parameter("nothing", nn.Parameter(torch.empty(0, 3)))
    optimizer = make(module.named_parameters(), "nonneg", lr=0.1)
    assert optimizer.param_groups[0]["param_names"][0] == "nothing"
    descend(optimizer, lambda: module[1](module[0](torch.ones(3))).sum() + module.nothing.sum(), 2)
    assert module[1].weight is module[0].weight
    assert (module[0].weight >= 0).all()


@every
def test_a_wrong_number_of_proxes_is_refused(make):
    with pytest.raises(ValueError, match="proxs has 3 entries for 1 param group"):
        make([parameter(2)], ["nonneg"] * 3)


@every
def test_a_complex_parameter_is_refused_where_it_cannot_be(make):
    with pytest.raises(TypeError, match="complex"):
        make([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], "nonneg", lr=0.1)


def test_the_options_of_the_constructors_are_checked():
    w = [parameter(2)]
    for make in (ProxAdam, AdaProx):
        for lr in (0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="Invalid learning rate"):
                make(w, lr=lr)
            with pytest.raises(ValueError, match="Invalid learning rate"):
                make([{"params": w, "lr": lr}])
        for betas in ((0.9, 1.0), (-0.1, 0.9), (0.9,), 0.9, (float("nan"), 0.9)):
            with pytest.raises(ValueError, match="Invalid betas"):
                make(w, betas=betas)
        for eps in (0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="Invalid eps"):
                make(w, eps=eps)
    with pytest.raises(ValueError, match=r"form is 'adamax'.*one of adam, amsgrad"):
        ProxAdam(w, form="adamax")
    with pytest.raises(ValueError, match="Invalid weight_decay"):
        ProxAdam(w, weight_decay=-1)
    with pytest.raises(ValueError, match="Invalid momentum_decay"):
        ProxAdam(w, momentum_decay=-1)
    with pytest.raises(ValueError, match="differentiable=True"):
        ProxAdam(w, differentiable=True)
    with pytest.raises(ValueError, match="scheme is 'adamw'"):
        AdaProx(w, scheme="adamw")
    with pytest.raises(ValueError, match=r"power is 0\.6"):
        AdaProx(w, power=0.6)
    with pytest.raises(ValueError, match="prox_max_iter is 0"):
        AdaProx(w, prox_max_iter=0)
    with pytest.raises(ValueError, match="tol is -1"):
        AdaProx(w, tol=-1)


def test_a_checkpoint_of_torchs_adam_is_taken_over():
    theirs, ours = parameter(4), parameter(4)
    grads = [double(4, seed=t) for t in range(8)]
    adam = torch.optim.Adam([theirs], lr=0.05)
    push(adam, theirs, grads[:4])
    with torch.no_grad():
        ours.copy_(theirs)
    optimizer = ProxAdam([ours], None)
    optimizer.load_state_dict(through_a_file(adam.state_dict()))
    push(adam, theirs, grads[4:])
    push(optimizer, ours, grads[4:])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_a_compiled_step_is_the_step():
    a, b = nn.Parameter(torch.linspace(-1, 1, 50)), nn.Parameter(torch.linspace(-1, 1, 50))
    plain, compiled = (ProxAdam([p], "nonneg + l1(0.1)", lr=torch.tensor(0.01), capturable=True) for p in (a, b))
    step = torch.compile(compiled.step, backend="eager")
    for t in range(3):
        a.grad = double(50, seed=t).float()
        b.grad = a.grad.clone()
        plain.step()
        step()
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
