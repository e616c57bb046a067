"""KL: Newton's steps for single entries, their compiled twin, and the multiplicative updates that are only a baseline."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.decomposition import _nmf
from test_solvers import KINDS, begin, data, sweeps

from proxfactor import HALS, MU, PALM, Dense, KLNewton, Observed, Problem, Sparse, factorize
from proxfactor.prox import L1, Box, Fixed, L2Squared, as_prox
from proxfactor.solvers import as_solver, auto, kl
from proxfactor.solvers._kl_numba import rows as compiled

TERMS = ["nonneg", "box(0.01, 1)", "nonneg + l1(0.1)", "nonneg + ridge(0.5)", "box(0, 0.4) + l1(0.1) + ridge(0.2)"]
SHARES = ["simplex(dim=1)", "solidsimplex(dim=1)", "simplex(dim=1, total=3)"]


def half(problem, A, B, early=0, inner=1, form=kl.rows):
    return form(problem.X, A, B, kl.terms_of(problem.prox_W, A.device), early, inner)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiled_form_equals_the_torch_form(kind, dtype):
    for prox in TERMS + SHARES:
        problem = Problem(data(kind, dtype), "kl", prox, "nonneg")
        W, H = begin(problem)
        W[3, 1] = W[3, 1] if "0.01" in prox else 0.0
        for side, A, B in ((problem, W, H.mT), (problem.T, H.mT, W)):
            passes = (5, 1) if "simplex" in prox and side is problem else (2, 2)
            one, two = (half(side, A, B, *passes, form=form) for form in (kl.rows, compiled))
            torch.testing.assert_close(one, two, rtol=0, atol=40 * torch.finfo(dtype).eps * one.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_rows_take_the_same_steps(dtype):
    r = np.random.default_rng(0)
    X = torch.as_tensor(r.poisson(1.0, (3, 9000)), dtype=dtype)
    A, B = (torch.as_tensor(r.uniform(0.1, 1, s), dtype=dtype) for s in ((3, 5), (9000, 5)))
    w = torch.as_tensor(r.uniform(0.5, 2, X.shape), dtype=dtype)
    for M in (Dense(X), Sparse(X.to_sparse()), Dense(X, w)):
        problem = Problem(M, "kl", "nonneg", "nonneg")
        one, two = (half(problem, A, B, 1, 2, form=form) for form in (kl.rows, compiled))
        torch.testing.assert_close(one, two, rtol=1e4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("kind", ["dense", "weighted", "clicks", "observed"])
@pytest.mark.parametrize(
    "constraints", [("nonneg", "nonneg"), ("box(0.01, 1)", "nonneg + l1(0.1)"), ("nonneg + ridge(0.5)", "nonneg"), SHARES[:2]]
)
@pytest.mark.parametrize("form", [None, compiled], ids=["torch", "compiled"])
def test_no_sweep_raises_the_value(kind, constraints, form, monkeypatch):
    monkeypatch.setattr(kl, "compiled", lambda *_: form)
    problem = Problem(data(kind), "kl", *constraints)
    solver = KLNewton(inner=1)
    state = solver.init(problem, *begin(problem))
    state = solver.step(problem, state)  # under a simplex the start is raised first
    values = [problem.value(state.W, state.H).item()]
    for _ in range(8):
        state = solver.step(problem, state)
        values.append(problem.value(state.W, state.H).item())
    assert np.isfinite(values).all()
    assert all(b <= a + 1e-12 * abs(a) for a, b in itertools.pairwise(values))
    assert values[-1] < values[0]


def test_a_step_stops_before_the_minimum_along_the_entry_however_hard_the_row_is():
    r = np.random.default_rng(0)
    for _ in range(300):
        y, b, rest = 10.0 ** r.uniform(-6, 6, 4), 10.0 ** r.uniform(-4, 4, 4), 10.0 ** r.uniform(-9, 4, 4)
        a, s, mu = 10.0 ** r.uniform(-5, 5), 10.0 ** r.uniform(-5, 5), r.choice([0.0, 10.0 ** r.uniform(-5, 5)])

        def slope(v, y=y, b=b, rest=rest, s=s, mu=mu):
            return s + mu * v - (y * b / (rest + b * v)).sum()

        given = [torch.tensor(t, dtype=torch.float64) for t in (a, s, mu, a * 0 + s + mu * a - slope(a))]
        bend = torch.tensor((y * b**2 / (rest + b * a) ** 2).sum(), dtype=torch.float64)
        new = kl.newton(*given, bend).item()
        size = s + mu * a + given[3].item()
        assert new >= 0
        assert slope(a) * slope(new) >= -1e-10 * size**2, "on the same side of the minimum"
        assert abs(slope(new)) <= abs(slope(a)) + 1e-10 * size


@pytest.mark.parametrize("prox", [*TERMS, *SHARES])
@pytest.mark.parametrize("kind", ["dense", "clicks", "observed weighted"])
def test_with_one_factor_fixed_the_one_minimum_is_found(kind, prox):
    problem = Problem(data(kind), "kl", prox, "nonneg")
    A, H = begin(problem)
    other, generic, shares = A, {}, "simplex" in prox
    for _ in range(200 if shares else 60):
        A = half(problem, A, H.mT, *((5, 1) if shares else (0, 2)), form=compiled)
    reference = PALM() if shares else HALS()
    for _ in range(60):
        other = reference.half(problem, other, H.mT, generic)
    mine, theirs = problem.value(A, H).item(), problem.value(other, H).item()
    assert mine <= theirs + 1e-7 * abs(theirs)
    assert problem.stationarity(A, H.mT) < (1e-4 if shares else 1e-5)  # EM is slow where an entry ends at zero


@pytest.mark.parametrize(("prox", "penalty"), [("nonneg", 0.0), ("nonneg + l1(0.3)", 0.3)])
def test_poisson_regression_with_an_exposure_agrees_with_scipy(prox, penalty):
    r = np.random.default_rng(2)
    B, exposure = r.gamma(1, 1, (12, 3)), r.uniform(0.2, 3, 12)
    counts = r.poisson(exposure * (B @ [0.7, 0.0, 1.5])).astype(float)

    def negative_log_likelihood(a):
        rate = np.maximum(exposure * (B @ a), 1e-300)
        return (rate - counts * np.log(rate)).sum() + penalty * a.sum()

    best = scipy.optimize.minimize(
        negative_log_likelihood, np.ones(3), bounds=[(0, None)] * 3, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}
    )
    problem = Problem(Dense((counts / exposure)[None], exposure[None]), "kl", prox, "nonneg")
    A = torch.ones(1, 3, dtype=torch.float64)
    for _ in range(100):
        A = half(problem, A, torch.as_tensor(B))
    np.testing.assert_allclose(A[0].numpy(), best.x, atol=2e-5)
    assert negative_log_likelihood(A[0].numpy()) <= best.fun + 1e-9


def test_shares_of_a_row_agree_with_every_point_of_a_fine_grid():
    r = np.random.default_rng(3)
    X, B = r.poisson(4, (2, 6)).astype(float), r.gamma(1, 2, (6, 3))
    problem = Problem(X, "kl", "simplex(dim=1)", "nonneg")
    A = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    for _ in range(300):
        A = half(problem, A, torch.as_tensor(B), 5, 1)
    grid = np.array([(i, j, 200 - i - j) for i in range(201) for j in range(201 - i)]) / 200
    pred = grid @ B.T
    for i in range(2):
        value = (pred - X[i] * np.log(pred)).sum(1)
        a = (lambda p, x: (p - x * np.log(p)).sum())(A[i].numpy() @ B.T, X[i])
        assert a <= value.min() + 1e-12
        np.testing.assert_allclose(A[i].numpy(), grid[value.argmin()], atol=1 / 100)


def test_a_row_without_counts_goes_to_its_cheapest_component_on_a_simplex_and_to_zero_else():
    X = data("dense").entries().clone()
    X[4] = 0
    for M in (Dense(X), Sparse(X.to_sparse())):
        for form in (kl.rows, compiled):
            problem = Problem(M, "kl", "simplex(dim=1)", "nonneg")
            W, H = begin(problem)
            A = half(problem, W, H.mT, 5, 1, form)
            assert A[4].argmax() == H.sum(1).argmin()
            assert A[4].max() == 1
            assert (half(Problem(M, "kl", "nonneg", "nonneg"), W, H.mT, form=form)[4] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", [None, compiled], ids=["torch", "compiled"])
def test_sparse_dense_and_fully_observed_are_the_same_problem(dtype, form, monkeypatch):
    monkeypatch.setattr(kl, "compiled", lambda *_: form)
    X = data("dense", dtype).entries()
    kinds = [Dense(X), Sparse(X.to_sparse()), Observed(X), Dense(X, torch.ones_like(X)), Observed(X, torch.ones_like(X))]
    states = [sweeps(KLNewton(), Problem(M, "kl", "nonneg", "nonneg"), 8) for M in kinds]
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    for state in states[1:]:
        torch.testing.assert_close(state.W @ state.H, states[0].W @ states[0].H, rtol=tolerance, atol=tolerance)


def test_weight_zero_nan_and_not_stored_all_mean_missing():
    X = data("dense").entries()
    hidden = torch.as_tensor(np.random.default_rng(5).random(X.shape) < 0.4)
    holes = torch.where(hidden, torch.nan, X)
    kinds = [Dense(holes), Dense(X, (~hidden).double()), Observed(holes), Observed(X, (~hidden).double())]
    for form in (kl.rows, compiled):
        made = []
        for M in kinds:
            problem = Problem(M, "kl", "nonneg", "nonneg")
            W, H = begin(problem)
            made.append(half(problem, W, H.mT, 1, 2, form))
        for other in made[1:]:
            torch.testing.assert_close(other, made[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["dense", "sparse", "observed weighted"])
def test_the_number_of_threads_does_not_change_a_bit(kind, monkeypatch):
    from proxfactor.prox import _numba
    from proxfactor.solvers import _kl_numba

    problem = Problem(data(kind), "kl", "nonneg", "nonneg")
    W, H = begin(problem)
    one = half(problem, W, H.mT, 1, 2, compiled)

    def in_many(run, size, entries):
        for first in range(0, size, 3):
            run(first, min(size, first + 3))

    assert _kl_numba.in_threads is _numba.in_threads
    monkeypatch.setattr(_kl_numba, "in_threads", in_many)
    assert torch.equal(half(problem, W, H.mT, 1, 2, compiled), one)


def test_operators_with_tensors_mean_the_same_as_in_hals():
    g = torch.Generator().manual_seed(0)
    rand = lambda *s: torch.rand(s, generator=g, dtype=torch.float64)  # noqa: E731
    known = Fixed(rand(40, 3), rand(40, 3) < 0.2) + as_prox("nonneg")
    for prox in (
        Box(rand(40, 3) / 9, 1.5), L1(rand(40, 3)) + as_prox("nonneg"), L2Squared(rand(40, 1)) + as_prox("nonneg"),
        L1(rand(3)) + as_prox("nonneg"), known, (L1(rand(3, 40)) + as_prox("nonneg")).T,
    ):  # fmt: skip
        problem = Problem(data("sparse"), "kl", prox, "nonneg")
        assert KLNewton.fits(problem)
        W, H = begin(problem)
        W = prox(W + 0.01, 0.0)
        memory, A, other = {}, W, W
        for _ in range(60):
            A = compiled(problem.X, A, H.mT, kl.terms_of(prox, A.device), 0, 2)
        for _ in range(400):
            other = HALS().half(problem, other, H.mT, memory)
        torch.testing.assert_close(A, other, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(A, prox(A, 0.0))


def test_an_operator_of_another_form_has_the_half_step_of_hals_on_its_side():
    problem = Problem(data("dense"), "kl", "nonneg", "simplex(dim=1)")
    assert not KLNewton.fits(problem)
    KLNewton().check(problem)
    W, H = begin(problem)
    torch.testing.assert_close(KLNewton(inner=2).half(problem.T, H.mT, W, {}), HALS(inner=2).half(problem.T, H.mT, W, {}))


def test_what_it_cannot_take_is_refused_by_name_with_the_way_out():
    with pytest.raises(ValueError, match="hals"):
        as_solver("klnewton", Problem(data("dense"), "frobenius", "nonneg", "nonneg"))
    with pytest.raises(ValueError, match=r"L1Ball\(dim=1\) on W couples them otherwise.*palm"):
        as_solver("klnewton", Problem(data("dense"), "kl", "l1ball(dim=1)", "nonneg"))
    with pytest.raises(ValueError, match=r"Smooth\(dim=0\) on H.*palm"):
        as_solver("klnewton", Problem(data("dense"), "kl", "nonneg", "smooth(dim=0)"))


def test_auto_takes_it_for_kl_where_both_constraints_fit():
    assert isinstance(auto(Problem(data("sparse"), "kl", "nonneg + l1(0.1)", "box(0, 1)")), KLNewton)
    assert isinstance(auto(Problem(data("sparse"), "kl", "simplex(dim=1)", "nonneg")), KLNewton)
    assert isinstance(auto(Problem(data("sparse"), "kl", "nonneg", "simplex(dim=0)")), KLNewton)
    assert not isinstance(auto(Problem(data("sparse"), "kl", "box(-1, 1)", "nonneg")), KLNewton)
    assert not isinstance(auto(Problem(data("sparse"), "frobenius", "nonneg", "nonneg")), KLNewton)


@pytest.mark.parametrize("kind", ["dense", "sparse", "observed"])
@pytest.mark.parametrize("constraints", [("nonneg", "nonneg"), ("box(0.01, 1)", "nonneg + l1(0.1)"), ("simplex(dim=1)", "nonneg")])
def test_a_fit_converges_and_transform_gives_its_w(kind, constraints, monkeypatch):
    monkeypatch.setattr(kl, "compiled", lambda *_: compiled)
    result = factorize(data(kind), 3, W=constraints[0], H=constraints[1], loss="kl", tol=1e-4, max_iter=3000)
    assert isinstance(result.solver, KLNewton)
    assert result.converged, result.status
    torch.testing.assert_close(torch.as_tensor(result.transform(data(kind))), torch.as_tensor(result.W), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_scale_of_the_data_does_not_matter_nor_do_empty_rows_columns_and_specks(kind, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(kl, "compiled", lambda *_: compiled)
    X = data("dense", torch.float64).entries().clone()
    X[4], X[:, 7] = 0, 0
    X[5, 5] = X.max() * 1e-50  # in float32 nothing; in float64 a speck
    relative = []
    for scale in (1.0, 1e-12, 1e12):
        given = (X * scale).to(dtype)
        M = Dense(given) if kind == "dense" else Sparse(given.to_sparse())
        result = factorize(M, 3, W="nonneg", H="nonneg", loss="kl", max_iter=30, tol=1e-9)
        relative.append(result.history[-1]["loss"] / given.double().sum().item())
        assert all(bool(F.isfinite().all()) for F in result.factors)
        assert not result.factors[0][4].any()
        assert not result.factors[1][:, 7].any()
    np.testing.assert_allclose(relative, relative[0], rtol=tolerance)


def test_an_entry_that_starts_at_zero_can_leave_it():
    problem = Problem(data("sparse"), "kl", "nonneg", "nonneg")
    W, H = begin(problem)
    W[:, 1] = 0
    assert (sweeps(KLNewton(), problem, 2, (W, H)).W[:, 1] > 0).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_multiplicative_updates_never_raise_the_value(kind, loss):
    problem = Problem(data(kind), loss, "nonneg", "nonneg")
    state = MU().init(problem, *begin(problem))
    values = [problem.value(state.W, state.H).item()]
    for _ in range(8):
        state = MU().step(problem, state)
        values.append(problem.value(state.W, state.H).item())
    assert all(b <= a + 1e-12 * abs(a) for a, b in itertools.pairwise(values))
    assert values[-1] < values[0]


@pytest.mark.parametrize(("loss", "beta"), [("frobenius", 2), ("kl", 1)])
def test_multiplicative_updates_equal_those_of_scikit_learn(loss, beta):
    X = data("dense").entries().numpy()
    problem = Problem(X, loss, "nonneg", "nonneg")
    W, H = begin(problem)
    w, h, _ = _nmf._fit_multiplicative_update(X, W.numpy().copy(), H.numpy().copy(), beta_loss=beta, max_iter=10, tol=0)
    state = sweeps(MU(), problem, 10, (W, H))
    np.testing.assert_allclose(state.W.numpy(), w, rtol=1e-9)
    np.testing.assert_allclose(state.H.numpy(), h, rtol=1e-9)


def test_multiplicative_updates_refuse_what_they_cannot_take():
    for constraints in (("free", "nonneg"), ("nonneg", "simplex(dim=1)")):
        with pytest.raises(ValueError, match="non-negative and knows no"):
            as_solver("mu", Problem(data("dense"), "kl", *constraints))
    with pytest.raises(ValueError, match="data that is not negative"):
        as_solver("mu", Problem(np.array([[1.0, -1.0]]), "frobenius", "nonneg", "nonneg"))


@pytest.mark.parametrize("loss", ["itakura", "beta(0.5)", "beta(1.5)", "beta(3)"])
def test_multiplicative_updates_never_raise_a_beta_divergence(loss):
    r = np.random.default_rng(0)
    X = r.gamma(1, 1, (30, 3)) @ r.gamma(1, 1, (3, 20)) * r.gamma(20, 1 / 20, (30, 20))
    problem = Problem(X, loss, "nonneg", "nonneg")
    W, H = torch.tensor(r.random((30, 3))), torch.tensor(r.random((3, 20)))
    state = MU().init(problem, W, H)
    values = [problem.value(state.W, state.H).item()]
    for _ in range(30):
        state = MU().step(problem, state)
        values.append(problem.value(state.W, state.H).item())
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(values))
    assert values[-1] < 0.5 * values[0]


def test_the_solver_is_chosen_without_a_transpose_of_the_data():
    problem = Problem(Sparse(torch.eye(4).to_sparse_csr()), "kl", "nonneg", "simplex(dim=0)")
    assert isinstance(auto(problem), KLNewton)
    KLNewton().check(problem)
    assert "T" not in problem.__dict__
    assert "T" not in problem.X.__dict__
