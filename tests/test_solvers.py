"""Every solver on every kind of Matrix: the value falls, the data's kind does not matter, and scikit-learn agrees."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.decomposition import _nmf

from proxfactor import ADMM, APG, HALS, PALM, Dense, Extrapolated, Observed, Problem, Sparse, Transposed, as_prox, datasets
from proxfactor.prox import L1, Box, Fixed, L2Squared
from proxfactor.solvers import Solver, as_solver, auto

SOLVERS = [HALS(), HALS(inner=1), PALM(), PALM(inner=1), APG(), ADMM(), Extrapolated(), Extrapolated(APG()), Extrapolated(ADMM())]
RANK = 3


def data(kind: str, dtype=torch.float64, seed=0):
    """40 x 30 counts of rank 3 and some noise, as each kind of matrix."""
    r = np.random.default_rng(seed)
    X = r.poisson(r.gamma(1, 1, (40, RANK)) @ r.gamma(1, 1, (RANK, 30))).astype(float)
    hidden = r.random(X.shape) < 0.3
    w = r.uniform(0.2, 2, X.shape)
    T = torch.as_tensor(X, dtype=dtype)
    return {
        "dense": lambda: Dense(T),
        "weighted": lambda: Dense(T, w),
        "holes": lambda: Dense(torch.where(torch.as_tensor(hidden), torch.nan, T)),
        "sparse": lambda: Sparse(sp.csr_matrix(X.astype(np.float32 if dtype == torch.float32 else float))),
        "clicks": lambda: Sparse(sp.csr_matrix(X.astype(np.float32 if dtype == torch.float32 else float)), background=0.3),
        "observed": lambda: Observed(torch.where(torch.as_tensor(hidden), torch.nan, T)),
        "observed weighted": lambda: Observed(torch.where(torch.as_tensor(hidden), torch.nan, T), w),
    }[kind]()


KINDS = ["dense", "weighted", "holes", "sparse", "clicks", "observed", "observed weighted"]


def begin(problem, seed=1, rank=RANK):
    r = np.random.default_rng(seed)
    m, n = problem.X.shape
    W, H = (torch.as_tensor(r.uniform(0.1, 1, s)).to(problem.X.dtype) for s in ((m, rank), (rank, n)))
    return problem.prox_W(W * 0.1, 0.0), problem.prox_H(H * 0.1, 0.0)


def sweeps(solver, problem, count, start=None):
    state = solver.init(problem, *(start or begin(problem)))
    for _ in range(count):
        state = solver.step(problem, state)
    return state


def refusal(solver, loss, prox_W):
    """What a solver says of a problem that it cannot take; empty where it can."""
    ahead = isinstance(solver, Extrapolated)
    if ahead and loss != "frobenius":
        return "squared error"
    return "apg" if isinstance(solver.solver if ahead else solver, HALS) and "dim=1" in prox_W else ""


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize(
    "constraints",
    [("nonneg", "nonneg"), ("box(0.01, 1)", "nonneg + l1(0.1)"), ("nonneg", "simplex(dim=1)"), ("simplex(dim=1)", "nonneg")],
)
def test_no_sweep_raises_the_value(solver, kind, loss, constraints):
    problem = Problem(data(kind), loss, *constraints)
    refused = refusal(solver, loss, constraints[0])
    if refused:
        with pytest.raises(ValueError, match=refused):
            solver.check(problem)
        return
    state = solver.init(problem, *begin(problem))
    values = [problem.value(state.W, state.H).item()]
    for _ in range(12):
        state = solver.step(problem, state)
        values.append(problem.value(state.W, state.H).item())
    assert np.isfinite(values).all()
    assert all(b <= a + 1e-12 * abs(a) for a, b in itertools.pairwise(values))
    assert values[-1] < 0.99 * values[0]


@pytest.mark.parametrize(
    "constraints", [("free", "free"), ("free", "nonneg"), ("entropy(0.1)", "ridge(0.5)"), ("sum1(dim=0)", "free")]
)
@pytest.mark.parametrize("solver", [HALS(), PALM(), APG(), ADMM()], ids=repr)
def test_other_operators_and_signed_data_lower_the_value_too(solver, constraints):
    r = np.random.default_rng(3)
    problem = Problem(r.standard_normal((20, 3)) @ r.standard_normal((3, 15)), "frobenius", *constraints)
    state = solver.init(problem, *begin(problem))
    before = problem.value(state.W, state.H)
    for _ in range(10):
        state = solver.step(problem, state)
        after = problem.value(state.W, state.H)
        assert after <= before * (1 + 1e-12)
        before = after


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [HALS(), PALM(), APG(), ADMM()], ids=repr)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_sparse_dense_fully_observed_and_weight_one_are_the_same_problem(solver, loss, dtype):
    X = data("dense", dtype).entries()
    kinds = [Dense(X), Sparse(X.to_sparse()), Observed(X), Dense(X, torch.full_like(X, 1.0)), Observed(X, torch.ones_like(X))]
    states = [sweeps(solver, Problem(M, loss, "nonneg", "nonneg"), 8) for M in kinds]
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    for state in states[1:]:
        torch.testing.assert_close(state.W @ state.H, states[0].W @ states[0].H, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("solver", [HALS(), PALM(), APG(), ADMM()], ids=repr)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_weight_zero_nan_and_not_stored_all_mean_missing(solver, loss):
    X = data("dense").entries()
    hidden = torch.as_tensor(np.random.default_rng(5).random(X.shape) < 0.4)
    holes = torch.where(hidden, torch.nan, X)
    kinds = [Dense(holes), Dense(X, (~hidden).double()), Observed(holes), Observed(X, (~hidden).double())]
    states = [sweeps(solver, Problem(M, loss, "nonneg", "nonneg"), 8) for M in kinds]
    for state in states[1:]:
        torch.testing.assert_close(state.W, states[0].W, rtol=1e-9, atol=1e-9)


def test_a_number_as_weight_scales_the_value_and_changes_nothing_else():
    X = data("dense").entries()
    one, two = (
        Problem(Dense(X), "frobenius", "nonneg", "nonneg"),
        Problem(Dense(X, torch.full_like(X, 2.0)), "frobenius", "nonneg", "nonneg"),
    )
    a, b = sweeps(HALS(), one, 5), sweeps(HALS(), two, 5)
    torch.testing.assert_close(a.W, b.W)
    torch.testing.assert_close(2 * one.value(a.W, a.H), two.value(b.W, b.H))


def test_twenty_hals_sweeps_equal_twenty_iterations_of_coordinate_descent_in_scikit_learn():
    X = datasets.digits().matrix.entries().numpy()[:500]
    r = np.random.default_rng(0)
    W, H = np.abs(r.standard_normal((500, 8))), np.abs(r.standard_normal((8, 64)))
    w, h, _ = _nmf._fit_coordinate_descent(X, W.copy(), H.copy(), tol=0, max_iter=20)
    state = sweeps(HALS(inner=1), Problem(X, "frobenius", "nonneg", "nonneg"), 20, (torch.tensor(W), torch.tensor(H)))
    np.testing.assert_allclose(state.W.numpy(), w, rtol=0, atol=1e-10 * w.max())
    np.testing.assert_allclose(state.H.numpy(), h, rtol=0, atol=1e-10 * h.max())


TENSOR_PROX = [
    ("l1", lambda g, s: L1(torch.rand(s, generator=g, dtype=torch.float64))),
    ("box", lambda g, s: Box(torch.rand(s, generator=g, dtype=torch.float64) / 9, 1.5)),
    ("ridge along rows", lambda g, s: L2Squared(torch.rand(s[0], 1, generator=g, dtype=torch.float64))),
    ("nonneg + l1 along columns", lambda g, s: as_prox("nonneg") + L1(torch.rand(s[1], generator=g, dtype=torch.float64))),
    ("fixed", lambda g, s: Fixed(torch.rand(s, generator=g, dtype=torch.float64), torch.rand(s, generator=g) < 0.2)),
    ("transposed", lambda g, s: Transposed(L1(torch.rand(s[::-1], generator=g, dtype=torch.float64)))),
]


@pytest.mark.parametrize(("name", "make"), TENSOR_PROX, ids=[n for n, _ in TENSOR_PROX])
@pytest.mark.parametrize("kind", ["dense", "observed"])
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize("solver", [HALS(), PALM(), APG(), ADMM()], ids=repr)
def test_an_operator_with_a_tensor_gives_the_same_in_row_blocks(solver, loss, kind, name, make, monkeypatch):
    g = torch.Generator().manual_seed(0)
    X = data(kind)
    ops = [
        make(g, (40, RANK)) + as_prox("box(1e-3, inf)")
        if name != "transposed" and name != "fixed" and name != "box"
        else make(g, (40, RANK))
    ]
    ops.append(as_prox("box(0.01, 5)"))
    if loss == "kl" and name in ("transposed",):
        ops[0] = ops[0] + as_prox("box(1e-3, inf)")
    whole = Problem(X, loss, *ops)
    expected = sweeps(solver, whole, 4)
    cut = Problem(X, loss, *ops)
    blocks = type(X).blocks
    monkeypatch.setattr(
        type(X), "blocks", lambda self, row_bytes, size=None: blocks(self, max(1, row_bytes), max(1, row_bytes) * 7)
    )
    state = sweeps(solver, cut, 4)
    if not cut.shared:
        assert len(cut.blocks(RANK)) == 6
    torch.testing.assert_close(state.W, expected.W, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.H, expected.H, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [HALS(), PALM(), APG(), ADMM()], ids=repr)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize(
    ("prox", "nearest_zero"), [("nonneg", 0.0), ("box(2, 3)", 2.0), ("entropy(1)", np.exp(-1)), ("l1(1)", 0.0)]
)
def test_rows_and_columns_without_data_become_the_minimiser_of_the_penalty_nearest_zero(solver, loss, prox, nearest_zero):
    if loss == "kl" and prox == "l1(1)":
        prox = "nonneg + l1(1)"
    X = data("dense").entries().clone()
    X[4] = torch.nan
    X[:, 7] = torch.nan
    for M in (Dense(X), Observed(X)):
        problem = Problem(M, loss, prox, prox)
        state = sweeps(solver, problem, 3)
        torch.testing.assert_close(state.W[4], torch.full((RANK,), nearest_zero, dtype=torch.float64))
        torch.testing.assert_close(state.H[:, 7], torch.full((RANK,), nearest_zero, dtype=torch.float64))
        assert state.W.isfinite().all()
        assert state.H.isfinite().all()


@pytest.mark.parametrize("solver", [HALS(), PALM(), APG(), ADMM()], ids=repr)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_zero_rows_and_columns_and_a_zero_matrix_give_no_nan(solver, loss):
    X = data("dense").entries().clone()
    X[4], X[:, 7] = 0, 0
    for M in (X, torch.zeros(6, 5, dtype=torch.float64)):
        state = sweeps(solver, Problem(M, loss, "nonneg", "nonneg"), 5)
        assert state.W.isfinite().all()
        assert state.H.isfinite().all()


def test_hals_refuses_operators_that_couple_components_and_says_what_to_use():
    for constraints in (("simplex(dim=1)", "nonneg"), ("nonneg", "simplex(dim=0)"), (torch.nn.Threshold(0, 0), "nonneg")):
        problem = Problem(data("dense"), "frobenius", *constraints)
        with pytest.raises(ValueError, match="apg"):
            HALS().check(problem)
        assert repr(auto(problem)) == ("Extrapolated(APG())" if problem.prox_W.exact else "PALM()")
    assert repr(auto(Problem(data("dense"), "frobenius", "simplex(dim=0)", "nonneg"))) == "Extrapolated(HALS())"


def test_a_solver_is_named_by_its_text_form():
    problem = Problem(data("dense"))
    assert repr(as_solver("hals(inner=2)", problem)) == "HALS(inner=2)"
    assert repr(as_solver("auto", problem)) == "Extrapolated(HALS())"
    assert repr(as_solver("extrapolated(hals(inner=2))", problem)) == "Extrapolated(HALS(inner=2))"
    assert Solver.parse(repr(PALM(inner=5))).inner == 5
    with pytest.raises(ValueError, match="did you mean HALS"):
        as_solver("hal", problem)
    with pytest.raises(ValueError, match="at least one"):
        as_solver("palm(inner=0)", problem)
    with pytest.raises(TypeError, match="HALS"):
        as_solver(3, problem)


def test_a_sweep_changes_neither_the_start_nor_the_data():
    problem = Problem(data("dense"), "frobenius", "nonneg", "nonneg")
    W, H = begin(problem)
    before = W.clone(), H.clone(), problem.X.entries().clone()
    sweeps(HALS(), problem, 2, (W, H))
    for a, b in zip(before, (W, H, problem.X.entries()), strict=True):
        assert torch.equal(a, b)
