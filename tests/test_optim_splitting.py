"""DavisYin and BSDMM: several operators on one parameter, each by its own prox, against Clarabel."""

import copy
import io
import pickle

import cvxpy as cp
import pytest
import torch
from torch import nn

from proxfactor import L1, PGM, NonNegative, Simplex, Smooth, TotalVariation
from proxfactor.optim.splitting import BSDMM, DavisYin

N = 40


def double(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameter(*shape, seed=0):
    return nn.Parameter(double(*shape, seed=seed))


def jumps(p):
    return p.diff(dim=0)


D = jumps(torch.eye(N, dtype=torch.float64))


def piecewise(seed=0):
    """A random M and M w and some noise, w piecewise constant with sum 1."""
    M, w = double(60, N, seed=seed), torch.zeros(N, dtype=torch.float64)
    w[N // 4 : N // 2], w[N // 2 :] = 1.0, 0.3
    return M, M @ (w / w.sum()) + 0.02 * double(60, seed=seed + 1)


def closure_of(optimizer, loss, count=None):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        if count is not None:
            count.append(value.item())
        return value

    return closure


def run(optimizer, loss, steps):
    closure = closure_of(optimizer, loss)
    return [optimizer.step(closure).item() for _ in range(steps)]


def jumping(w):
    return cp.norm1(cp.diff(w))


TWO = "smooth(dim=0) + simplex(dim=0)"  # no rule is exact for this sum

TERMS = {  # what is added to ½|Mw - b|², for cvxpy; the sets
    "tv + simplex": (lambda w: 0.2 * jumping(w), lambda w: [w >= 0, cp.sum(w) == 1]),
    "trend + simplex": (lambda w: 0.1 * cp.norm1(cp.diff(w, 2)), lambda w: [w >= 0, cp.sum(w) == 1]),
    "smooth + simplex": (lambda w: 0.5 * cp.sum_squares(cp.diff(w)), lambda w: [w >= 0, cp.sum(w) == 1]),
    "l1 + tv + nonneg + simplex": (lambda w: 0.5 * cp.norm1(w) + 0.2 * jumping(w), lambda w: [w >= 0, cp.sum(w) == 1]),
    "nonneg + l1 + jumps": (lambda w: 0.5 * cp.norm1(w) + 0.2 * jumping(w), lambda w: [w >= 0]),
    "l1 + jumps": (lambda w: 0.5 * cp.norm1(w) + 0.2 * jumping(w), lambda w: []),
}
PROBLEMS = [
    ("smooth + simplex", lambda w: DavisYin([w], TWO), 150),
    ("trend + simplex", lambda w: DavisYin([w], "trendfilter(dim=0, lam=0.1) + simplex(dim=0)"), 150),
    ("trend + simplex", lambda w: BSDMM([w], ["trendfilter(dim=0, lam=0.1) + simplex(dim=0)"]), 150),
    ("tv + simplex", lambda w: DavisYin([w], "tv(dim=0, lam=0.2) + simplex(dim=0)"), 60),  # an exact rule: one term
    ("tv + simplex", lambda w: BSDMM([w], ["tv(dim=0, lam=0.2)", "simplex(dim=0)"]), 150),
    ("tv + simplex", lambda w: BSDMM([w], [TotalVariation(dim=0, lam=0.2) + Simplex(dim=0)]), 150),
    ("tv + simplex", lambda w: BSDMM([w], ["simplex(dim=0)", (D, L1(0.2))]), 400),
    ("l1 + tv + nonneg + simplex", lambda w: BSDMM([w], ["l1(0.5)", "tv(dim=0, lam=0.2)", "nonneg", "simplex(dim=0)"]), 250),
    ("nonneg + l1 + jumps", lambda w: BSDMM([w], ["nonneg + l1(0.5)", (jumps, "l1(0.2)")]), 250),
    ("l1 + jumps", lambda w: BSDMM([w], ["l1(0.5)", (D, "l1(0.2)")]), 250),
    ("l1 + jumps", lambda w: BSDMM([w], [(torch.eye(N), "l1(0.5)"), (D, "l1(0.2)")]), 250),
]


@pytest.mark.parametrize(("name", "make", "steps"), PROBLEMS)
def test_it_ends_where_clarabel_ends(name, make, steps):
    M, b = piecewise()
    extra, sets = TERMS[name]
    v = cp.Variable(N)
    total = 0.5 * cp.sum_squares(M.numpy() @ v - b.numpy()) + extra(v)
    tight = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}
    best = cp.Problem(cp.Minimize(total), sets(v)).solve(solver="CLARABEL", **tight)
    w = nn.Parameter(torch.full((N,), 1.0 / N, dtype=torch.float64))
    optimizer = make(w)
    run(optimizer, lambda: 0.5 * (M @ w - b).square().sum(), steps)
    v.value = w.detach().numpy()
    begun = 0.5 * (M.mean(1) - b).square().sum().item()
    assert abs(total.value - best) <= 1e-6 * max(best, begun - best)
    assert optimizer.converged(1e-4)


# ── Davis and Yin ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_parameter_is_in_the_set_after_every_step():
    M, b = piecewise()
    w = parameter(N)
    optimizer = DavisYin([w], TWO)
    closure = closure_of(optimizer, lambda: 0.5 * (M @ w - b).square().sum())
    for _ in range(5):
        optimizer.step(closure)
        assert float(Simplex(dim=0).violation(w.detach()).max()) <= 1e-15


def test_with_a_number_the_steps_are_those_of_the_formula_and_need_no_closure():
    g, h, start, grad, lr = Simplex(dim=0), Smooth(dim=0), double(N), double(N, seed=1), 0.3
    w = nn.Parameter(start.clone())
    optimizer = DavisYin([w], g + h, lr=lr)
    p, u = start, torch.zeros_like(start)
    for k in range(4):
        w.grad = grad * (k + 1)
        assert optimizer.step() is None
        y = h(p - lr * (grad * (k + 1) + u), lr)
        p = g(y + lr * u, lr)
        u = u + (y - p) / lr
        torch.testing.assert_close(w.detach(), p, rtol=0, atol=1e-14)


def test_one_term_takes_plain_proximal_gradient_steps():
    w, v = parameter(6), parameter(6)
    run(DavisYin([w], "nonneg + l1(0.1)", lr=0.25), lambda: w.square().sum(), 5)
    run(PGM([v], "nonneg + l1(0.1)", lr=0.25), lambda: v.square().sum(), 5)
    assert torch.equal(w, v)


def test_a_step_of_two_terms_looks_once():
    w, seen = nn.Parameter(torch.full((N,), 1 / N, dtype=torch.float64)), []
    optimizer = DavisYin([w], TWO)
    closure = closure_of(optimizer, lambda: (double(N) * w).sum(), seen)  # without curvature: every trial is taken
    for _ in range(5):
        optimizer.step(closure)
    assert len(seen) == 6


def test_more_than_two_terms_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"has 3 terms .* use BSDMM"):
        DavisYin([parameter(4, 4)], "smooth(dim=0) + simplex(dim=0) + sumtoone(dim=1)")


def test_a_learning_rate_of_a_schedule_may_end_at_zero():
    w = parameter(N)
    optimizer = DavisYin([w], TWO, lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1.0 if k == 0 else 0.0)
    for _ in range(3):
        w.grad = torch.ones_like(w)
        optimizer.step()
        schedule.step()
    assert w.isfinite().all()
    assert w.sum().item() == pytest.approx(1)


# ── many, through linear maps ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_matrix_and_a_function_are_the_same_map():
    M, b = piecewise()
    w, v = (nn.Parameter(torch.full((N,), 1.0 / N, dtype=torch.float64)) for _ in range(2))
    run(BSDMM([w], ["nonneg", (D, L1(0.2))]), lambda: 0.5 * (M @ w - b).square().sum(), 20)
    run(BSDMM([v], ["nonneg", (jumps, L1(0.2))]), lambda: 0.5 * (M @ v - b).square().sum(), 20)
    torch.testing.assert_close(w.detach(), v.detach(), rtol=1e-9, atol=1e-12)


def test_with_a_number_the_steps_are_those_of_the_formula():
    g, h, L, lr, start = NonNegative(), L1(0.2), double(3, 5, seed=2), 0.3, double(5, 2)
    w = nn.Parameter(start.clone())
    optimizer = BSDMM([w], [(L, h), g], lr=lr)
    norm = optimizer.state[w]["norms"][0]
    assert torch.linalg.matrix_norm(L, 2).item() == pytest.approx(norm / 1.1, rel=1e-3)
    p, y, ahead, r = start, torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64), 1 / (lr * norm**2)
    for k in range(4):
        grad = double(5, 2, seed=10 + k)
        w.grad = grad.clone()
        assert optimizer.step() is None
        p = g(p - lr / 2 * (grad + L.mT @ ahead), lr / 2)
        v = L @ p + y / r
        new = r * (v - h(v, 1 / r))
        y, ahead = new, 2 * new - y
        torch.testing.assert_close(w.detach(), p, rtol=0, atol=1e-13)


def test_the_first_set_on_the_parameter_itself_holds_after_every_step():
    M, b = piecewise()
    w = parameter(N)
    optimizer = BSDMM([w], ["tv(dim=0, lam=0.1)", "simplex(dim=0)", "box(0, 0.03)"])
    closure = closure_of(optimizer, lambda: 0.5 * (M @ w - b).square().sum())
    for _ in range(300):
        optimizer.step(closure)
        assert float(Simplex(dim=0).violation(w.detach()).max()) <= 1e-14
    assert w.max().item() <= 0.03 * (1 + 1e-4)  # in the limit


def test_a_step_of_many_constraints_looks_once():
    w, seen = parameter(N), []
    optimizer = BSDMM([w], ["nonneg", (D, L1(0.2)), "l1(0.1)"])
    closure = closure_of(optimizer, lambda: (double(N) * w).sum(), seen)
    for _ in range(5):
        optimizer.step(closure)
    assert len(seen) == 6


def test_primal_and_dual_residuals_are_listed_and_their_largest_is_the_residual():
    M, b = piecewise()
    w = nn.Parameter(torch.full((N,), 1.0 / N, dtype=torch.float64))
    optimizer = BSDMM([w], ["nonneg", (D, L1(0.2)), "box(0, 1)"])
    closure = closure_of(optimizer, lambda: 0.5 * (M @ w - b).square().sum())
    assert optimizer.residual(closure)[0].value is None
    run(optimizer, lambda: 0.5 * (M @ w - b).square().sum(), 3)
    (both,) = optimizer.primal_dual(closure)
    assert len(both.primal) == 2
    assert optimizer.residual(closure)[0] == (max([both.dual, *both.primal]), "primal and dual")
    assert both.primal[0] > 1e-3
    run(optimizer, lambda: 0.5 * (M @ w - b).square().sum(), 400)
    (both,) = optimizer.primal_dual(closure)
    assert max([both.dual, *both.primal]) < 1e-5


def test_each_group_has_its_own_constraints():
    w, v, u = parameter(4), parameter(4, seed=1), parameter(4, seed=2)
    optimizer = BSDMM([{"params": [w]}, {"params": [v]}], [["nonneg"], [(lambda p: 2 * p, "box(-1, 1)")]])
    optimizer.add_param_group({"params": [u], "constraints": ["l1(0.5)"]})
    run(optimizer, lambda: 0.5 * ((w + 1).square().sum() + (v - 1).square().sum() + (u - 1).square().sum()), 300)
    torch.testing.assert_close(w.detach(), torch.zeros_like(w))
    torch.testing.assert_close(v.detach(), torch.full_like(v, 0.5), rtol=1e-5, atol=0)
    torch.testing.assert_close(u.detach(), torch.full_like(u, 0.5), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("given", "kind", "match"),
    [
        ([(lambda p: p + 1, "l1(1.0)")], ValueError, "is not linear"),
        ([(lambda p: 0 * p, "l1(1.0)")], ValueError, "is zero"),
        ([(torch.ones(3, 7), "l1(1.0)")], ValueError, r"does not take a parameter of shape \(4,\)"),
        ([(3, "l1(1.0)")], TypeError, "3 is no linear map"),
        ("nonneg", TypeError, "a list is needed"),
        ([["nonneg"], ["nonneg"]], ValueError, "2 lists for 1 param group"),
        (["nonneg", "simplex(dim=3)"], IndexError, "dim 3|out of range"),
    ],
)
def test_constraints_that_cannot_be_are_refused_at_the_door(given, kind, match):
    with pytest.raises((kind, ValueError), match=match):
        BSDMM([parameter(4)], given)


def test_a_group_that_is_refused_is_not_added_and_a_prox_is_not_a_constraint():
    optimizer = BSDMM([parameter(4)], ["nonneg"])
    with pytest.raises(ValueError, match="is not linear"):
        optimizer.add_param_group({"params": [parameter(4)], "constraints": [(torch.square, "nonneg")]})
    with pytest.raises(ValueError, match="takes its operators as constraints"):
        optimizer.add_param_group({"params": [parameter(4)], "prox": "nonneg"})
    assert len(optimizer.param_groups) == 1


# ── the habits of torch.optim ─────────────────────────────────────────────────────────────────────────────────────────

BOTH = {
    "DavisYin": lambda w, **kw: DavisYin([w], TWO, **kw),
    "BSDMM": lambda w, **kw: BSDMM([w], ["simplex(dim=0)", (D, "l1(0.2)")], **kw),
}


@pytest.fixture(params=BOTH)
def make(request):
    return BOTH[request.param]


def start():
    return nn.Parameter(torch.full((N,), 1.0 / N, dtype=torch.float64))


def test_a_checkpoint_goes_through_a_default_torch_load_and_continues_to_the_bit(make):
    M, b = piecewise()
    w, v = start(), start()
    optimizer = make(w)
    run(optimizer, lambda: 0.5 * (M @ w - b).square().sum(), 12)
    file = io.BytesIO()
    torch.save({"w": w.detach(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    with torch.no_grad():
        v.copy_(saved["w"])
    resumed = make(v)
    resumed.load_state_dict(saved["optimizer"])
    more = run(optimizer, lambda: 0.5 * (M @ w - b).square().sum(), 12)
    assert run(resumed, lambda: 0.5 * (M @ v - b).square().sum(), 12) == more
    assert torch.equal(v, w)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["copied", "pickled"])
def test_a_copy_goes_on_like_the_original(make, twin):
    M, b = piecewise()
    w = start()
    optimizer = make(w)
    run(optimizer, lambda: 0.5 * (M @ w - b).square().sum(), 5)
    v, other = twin((w, optimizer))
    assert v is not w
    more = run(optimizer, lambda: 0.5 * (M @ w - b).square().sum(), 5)
    assert run(other, lambda: 0.5 * (M @ v - b).square().sum(), 5) == more


def test_maximize_is_minimising_the_opposite(make):
    M, b = piecewise()
    w, v = start(), start()
    run(make(w), lambda: 0.5 * (M @ w - b).square().sum(), 10)
    run(make(v, maximize=True), lambda: -0.5 * (M @ v - b).square().sum(), 10)
    assert torch.equal(w, v)


def test_without_a_number_a_closure_is_needed(make):
    w = start()
    before = w.detach().clone()
    w.grad = torch.ones_like(w)
    with pytest.raises(TypeError, match=r"call step\(closure\).*or give lr"):
        make(w).step()
    with pytest.raises(TypeError, match="return loss"):
        make(w).step(lambda: w.square().sum().backward())
    assert torch.equal(w, before)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), "fast"])
def test_an_invalid_learning_rate_is_refused(make, lr):
    with pytest.raises(ValueError, match="Invalid learning rate"):
        make(start(), lr=lr)


def test_a_parameter_without_a_gradient_is_left_alone():
    w, idle = start(), nn.Parameter(torch.full((N,), -1.0, dtype=torch.float64))
    for optimizer in (BSDMM([w, idle], ["nonneg", (D, "l1(0.2)")]), DavisYin([w, idle], TWO)):
        run(optimizer, lambda: (w - 1).square().sum(), 3)
        assert (idle == -1).all()


def test_the_same_bits_at_every_scale_that_is_a_power_of_two():
    M, b = piecewise()
    w, v = start(), nn.Parameter(start().detach() * 2.0**20)
    constraints = ["nonneg", (D, "nonneg")]
    run(BSDMM([w], constraints), lambda: 0.5 * (M @ w - b).square().sum(), 40)
    run(BSDMM([v], constraints), lambda: 0.5 * (M @ v - b * 2.0**20).square().sum(), 40)
    assert torch.equal(v, w * 2.0**20)
