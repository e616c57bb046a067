"""Fits with every loss: to the certificate, and with one factor given against the regressions of others."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from scipy.special import expit, softmax
from sklearn.linear_model import HuberRegressor, LogisticRegression, PoissonRegressor, QuantileRegressor

import proxfactor as pf
from proxfactor import HALS, PALM, Fixed, Observed, Problem, factorize
from proxfactor.losses import ByColumn, HuberLoss, LogisticLoss, Multinomial, NegativeBinomial, Ordinal, PoissonLog
from proxfactor.solvers import LossADMM, auto

BOX = pytest.param("box(0.01, 2)", marks=pytest.mark.exhaustive)
CONSTRAINTS = ["nonneg", "free", "ridge(0.3)", BOX]
POSITIVE = ["itakura", "beta(0.5)", "beta(1.5)", "beta(-1)", "beta(3)", "kl", "nb(0.5, 'identity')"]
ANY = ["poissonlog", "nb(0.5)", "huber(0.5)", "logistic", "ordinal(5)", "softmax", "squared", "beta(2)"]


def planted(loss, m=24, n=18, seed=0):
    """m x n data of rank 2 for a loss, with the noise that it is for."""
    r = np.random.default_rng(seed)
    mean, effect = r.gamma(2, 1, (m, 2)) @ r.gamma(1, 1, (2, n)), 0.7 * r.standard_normal((m, 2)) @ r.standard_normal((2, n))
    if loss in ("itakura", "beta(-1)"):
        return mean * r.gamma(20, 1 / 20, mean.shape)
    if loss.startswith("nb"):
        return r.poisson((mean if "identity" in loss else np.exp(effect)) * r.gamma(2, 0.5, mean.shape)).astype(float)
    return {
        "poissonlog": lambda: r.poisson(np.exp(effect)),
        "huber(0.5)": lambda: effect + 0.2 * r.standard_t(2, mean.shape),
        "logistic": lambda: r.random(mean.shape) < expit(effect),
        "ordinal(5)": lambda: np.clip(np.round(3 + effect + 0.5 * r.logistic(size=mean.shape)), 1, 5),
        "softmax": lambda: np.stack([r.multinomial(1, p) for p in softmax(effect, 1)]),
        "squared": lambda: effect + 0.1 * r.standard_normal(mean.shape),
        "beta(2)": lambda: effect + 0.1 * r.standard_normal(mean.shape),
        "l1": lambda: effect + 0.2 * r.laplace(size=mean.shape),
        "quantile(0.7)": lambda: effect + 0.2 * r.laplace(size=mean.shape),
        "hinge": lambda: effect + 0.3 * r.logistic(size=mean.shape) > 0,
    }.get(loss, lambda: r.poisson(3 * mean))().astype(float)


# ── every differentiable loss reaches the certificate ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("loss", ANY)
def test_every_differentiable_loss_reaches_the_certificate_under_every_constraint(loss, constraint):
    if loss in ("logistic", "softmax", "poissonlog", "nb(0.5)") and constraint in ("nonneg", "free"):
        constraint = {"nonneg": "nonneg + ridge(0.2)", "free": "ridge(0.2)"}[constraint]  # else the best prediction may be infinite
    result = factorize(planted(loss), 2, W=constraint, H=constraint, loss=loss, tol=1e-4, max_iter=1500)
    assert result.converged, result.status
    assert max(c.item() for c in result.problem.certificate(*result.factors)) <= 1e-4
    values = [row["loss"] for row in result.history]
    assert all(b <= a + 1e-4 * abs(a) for a, b in itertools.pairwise(values))
    assert np.isfinite(result.predict()).all()


@pytest.mark.parametrize("constraint", ["nonneg", "nonneg + ridge(0.3)", BOX])
@pytest.mark.parametrize("loss", POSITIVE)
def test_every_differentiable_loss_of_positive_predictions_reaches_the_certificate(loss, constraint):
    test_every_differentiable_loss_reaches_the_certificate_under_every_constraint(loss, constraint)


@pytest.mark.parametrize("solver", [HALS(), PALM()], ids=repr)
@pytest.mark.parametrize("loss", [*POSITIVE, *ANY])
def test_no_sweep_raises_the_value_of_any_smooth_loss(loss, solver):
    X = planted(loss)
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    X = planted(loss) if loss == "softmax" else X
    problem = Problem(X, loss, "nonneg", "box(0.01, 2)")
    r = np.random.default_rng(2)
    state = solver.init(problem, torch.tensor(r.uniform(0.1, 1, (24, 2))), torch.tensor(r.uniform(0.1, 1, (2, 18))))
    values = [problem.value(state.W, state.H).item()]
    for _ in range(12):
        state = solver.step(problem, state)
        values.append(problem.value(state.W, state.H).item())
    assert np.isfinite(values).all()
    assert all(b <= a + 1e-11 * abs(a) for a, b in itertools.pairwise(values))
    assert values[-1] < values[0]


@pytest.mark.parametrize("loss", ["logistic", "huber(0.5)", "ordinal(5)", "softmax"])
def test_one_bound_for_all_cells_leads_to_the_same_fit_and_never_raises_the_value(loss, monkeypatch):
    X, ridge, tol = planted(loss), "ridge(0.5)", 1e-4 if loss == "softmax" else 1e-5
    own = factorize(X, 2, W=ridge, H=ridge, loss=loss, tol=tol)
    monkeypatch.setattr(pf.problem, "MANY", 0)
    problem = Problem(X, loss, ridge, ridge)
    assert problem.majorised(2)
    assert problem.model(*(F.mT if i else F for i, F in enumerate(own.factors))).G.ndim == 2
    state = HALS().init(problem, *(torch.ones(s, dtype=torch.float64) * 0.1 for s in ((24, 2), (2, 18))))
    values = [problem.value(state.W, state.H).item()]
    for _ in range(15):
        state = HALS().step(problem, state)
        values.append(problem.value(state.W, state.H).item())
    assert all(b <= a + 1e-12 * abs(a) for a, b in itertools.pairwise(values))
    same = factorize(X, 2, W=ridge, H=ridge, loss=loss, tol=tol)
    assert same.converged
    assert same.history[-1]["loss"] == pytest.approx(own.history[-1]["loss"], rel=10 * tol)
    X[0, 0] = np.nan
    assert loss == "softmax" or not Problem(X, loss).majorised(2)


@pytest.mark.parametrize("loss", ["itakura", "beta(0.5)", "beta(1.5)"])
def test_the_scale_of_the_data_does_not_matter_to_a_homogeneous_loss(loss):
    X = planted(loss)
    fits = [factorize(X * c, 2, W="nonneg", H="nonneg", loss=loss, tol=1e-4) for c in (1.0, 2.0**-40, 2.0**40, 1e12)]
    first, *others, decimal = (fit.predict() / c for c, fit in zip((1.0, 2.0**-40, 2.0**40, 1e12), fits, strict=True))
    for other in others:
        np.testing.assert_array_equal(other, first)
    np.testing.assert_allclose(decimal, first, rtol=1e-3, atol=1e-3)


def test_predict_gives_the_mean_of_the_data_and_transform_gives_w():
    X = planted("poissonlog")
    fit = factorize(X, 2, W="ridge(1)", H="ridge(1)", loss="poissonlog", tol=1e-4)
    np.testing.assert_allclose(fit.predict(), np.exp(fit.W @ fit.H))
    np.testing.assert_allclose(fit.predict([3, 1], [5, 0]), np.exp(fit.W @ fit.H)[[3, 1]][:, [5, 0]])
    np.testing.assert_allclose(fit.transform(X[4:9]), fit.W[4:9], atol=1e-4)
    large = factorize(1000 * X, 2, W="ridge(1)", H=Fixed(torch.tensor(fit.H)), loss="poissonlog")
    assert large.converged


# ── with one factor given: the regressions of others ──────────────────────────────────────────────────────────────────


def regression(loss, m=6, n=60, k=3, seed=0, hidden=0.0):
    """Data for m regressions on one table of k predictors H (k, n), and the fit with H given."""
    r = np.random.default_rng(seed)
    H = r.standard_normal((k, n))
    eta = 0.8 * r.standard_normal((m, k)) @ H
    X = {
        "logistic": lambda: r.random(eta.shape) < expit(eta),
        "poissonlog": lambda: r.poisson(np.exp(eta)),
        "nb(0.5)": lambda: r.poisson(np.exp(eta) * r.gamma(2, 0.5, eta.shape)),
    }.get(loss, lambda: eta + 0.5 * r.standard_t(2, eta.shape))().astype(float)
    X[r.random(X.shape) < hidden] = np.nan
    return X, H, factorize(X, k, W="free", H=Fixed(torch.tensor(H)), loss=loss, tol=1e-7)


@pytest.mark.parametrize("hidden", [0.0, 0.3])
@pytest.mark.parametrize(
    ("loss", "model"),
    [
        ("logistic", LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)),
        ("poissonlog", PoissonRegressor(alpha=0, fit_intercept=False, tol=1e-10, max_iter=1000)),
    ],
)
def test_with_one_factor_given_the_other_is_the_regression_of_scikit_learn(loss, model, hidden):
    X, H, fit = regression(loss, hidden=hidden)
    assert fit.converged
    for x, w in zip(X, fit.W, strict=True):
        seen = ~np.isnan(x)
        np.testing.assert_allclose(w, model.fit(H[:, seen].T, x[seen]).coef_.ravel(), rtol=2e-4, atol=2e-4)


def test_huber_is_the_regression_of_scikit_learn():
    X, H, _ = regression("huber")
    for x in X[:4]:
        model = HuberRegressor(epsilon=1.5, alpha=0, fit_intercept=False, tol=1e-9, max_iter=1000).fit(H.T, x)
        fit = factorize(x[None], 3, W="free", H=Fixed(torch.tensor(H)), loss=HuberLoss(1.5 * model.scale_), tol=1e-7)
        np.testing.assert_allclose(fit.W[0], model.coef_, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["nb(0.5)", "ordinal", "nb identity", "itakura", "beta(1.5)"])
def test_with_one_factor_given_the_other_is_what_scipy_finds(loss):
    r = np.random.default_rng(0)
    positive = loss in ("nb identity", "itakura", "beta(1.5)")
    H = r.gamma(1, 1, (2, 50)) + 0.1 if positive else r.standard_normal((2, 50))
    eta = r.gamma(2, 1, (5, 2)) @ H if positive else r.standard_normal((5, 2)) @ H
    spec = {"ordinal": Ordinal((0, 1, 2), (-1.0, 0.5)), "nb identity": NegativeBinomial(0.5, "identity")}.get(loss, loss)
    X = {
        "nb(0.5)": lambda: r.poisson(np.exp(0.7 * eta) * r.gamma(2, 0.5, eta.shape)),
        "ordinal": lambda: (eta + r.logistic(size=eta.shape) > -1).astype(float) + (eta > 0.5),
        "nb identity": lambda: r.poisson(eta),
    }.get(loss, lambda: eta * r.gamma(8, 1 / 8, eta.shape))().astype(float)
    bound = "nonneg" if positive else "free"
    fit = factorize(X, 2, W=bound, H=Fixed(torch.tensor(H)), loss=spec, tol=1e-7)
    l = pf.as_loss(spec)

    def value(w, x):
        pred, x = torch.tensor(w @ H, dtype=torch.float64), torch.tensor(x)
        return l(pred, x).sum().item(), torch.tensor(H).mv(l.grad(pred, x)).numpy()

    for x, w in zip(X, fit.W, strict=True):
        best = minimize(value, np.ones(2), (x,), jac=True, bounds=[(1e-9, None)] * 2 if positive else None, tol=1e-13)
        assert value(w, x)[0] <= best.fun + 1e-8 * (1 + abs(best.fun))


def test_multinomial_is_the_regression_of_scikit_learn():
    r = np.random.default_rng(0)
    W, B = r.standard_normal((200, 2)), r.standard_normal((2, 3))
    y = np.array([r.choice(3, p=p) for p in softmax(W @ B, 1)])
    X = np.eye(3)[y]
    model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(W, y)
    for missing in (50,):
        X[:missing] = np.nan
        model.fit(W[missing:], y[missing:])
        fit = factorize(X, 2, W=Fixed(torch.tensor(W)), H="ridge(1)", loss=Multinomial(), tol=1e-6)
        assert fit.converged
        np.testing.assert_allclose(fit.H.T, model.coef_, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(fit.predict()[missing:], model.predict_proba(W[missing:]), rtol=1e-3, atol=1e-3)


def test_an_offset_is_a_fixed_component_and_an_exposure_is_a_weight():
    r = np.random.default_rng(0)
    H, exposure = r.standard_normal((2, 80)), r.uniform(0.5, 4, 80)
    X = r.poisson(exposure * np.exp(0.5 * r.standard_normal((4, 2)) @ H)).astype(float)
    offset = Fixed(torch.tensor(np.vstack([H, np.log(exposure)])))
    last = pf.Columns({2: Fixed(torch.ones(4, 1, dtype=torch.float64))})
    fit = factorize(X, 3, W=last, H=offset, loss=PoissonLog(), tol=1e-7)
    for x, w in zip(X, fit.W, strict=True):
        model = PoissonRegressor(alpha=0, fit_intercept=False, tol=1e-10).fit(H.T, x / exposure, sample_weight=exposure)
        np.testing.assert_allclose(w[:2], model.coef_, rtol=1e-3, atol=1e-4)
        assert w[2] == 1
    B = r.gamma(1, 1, (2, 80))
    rate = factorize(X / exposure, 2, W="nonneg", H=Fixed(torch.tensor(B)), loss="kl", weight=exposure, tol=1e-7)
    for x, w in zip(X, rate.W, strict=True):

        def minus_log(v, x=x):
            mean = exposure * (v @ B)
            return (mean - x * np.log(mean)).sum(), ((1 - x / mean) * exposure) @ B.T

        assert minus_log(w)[0] <= minimize(minus_log, np.ones(2), jac=True, bounds=[(1e-9, None)] * 2, tol=1e-12).fun + 1e-6


# ── mixed tables ──────────────────────────────────────────────────────────────────────────────────────────────────────


def mixed(hidden, seed=0):
    r = np.random.default_rng(seed)
    W = r.standard_normal((60, 2))
    eta = W @ r.standard_normal((2, 9))
    X = eta + 0.3 * r.standard_normal(eta.shape)
    X[:, 2] = r.poisson(np.exp(0.5 * eta[:, 2]))
    X[:, 3] = r.random(60) < expit(eta[:, 3])
    X[:, 4] = np.clip(np.round(2 + eta[:, 4]), 1, 3)
    X[:, 5:8] = np.stack([r.multinomial(1, p) for p in softmax(eta[:, 5:8], 1)])
    holes = r.random(X.shape) < hidden
    holes[:, 6] = holes[:, 7] = holes[:, 5]
    X[holes] = np.nan
    parts = {"0:2": HuberLoss(0.5), 2: PoissonLog(), 3: LogisticLoss(), 4: Ordinal(3), "5:8": Multinomial()}
    return X, W, parts


@pytest.mark.parametrize(("hidden", "kind"), [(0.0, np.asarray), (0.2, np.asarray), (0.2, Observed)])
def test_a_mixed_table_with_one_factor_given_is_fitted_column_by_column(hidden, kind):
    X, W, parts = mixed(hidden)
    given = Fixed(torch.tensor(W))
    fit = factorize(kind(X), 2, W=given, H="ridge(2)", loss=ByColumn(parts), tol=1e-6)
    assert fit.converged
    H = np.asarray(fit.H)
    for columns, loss in [*parts.items(), (8, "frobenius")]:
        at = [columns] if isinstance(columns, int) else list(range(*map(int, columns.split(":"))))
        alone = factorize(X[:, at], 2, W=given, H="ridge(2)", loss=loss, tol=1e-6)
        np.testing.assert_allclose(H[:, at], alone.H, rtol=1e-4, atol=1e-4)


def test_a_mixed_table_with_holes_is_fitted_predicted_and_transformed():
    import pandas as pd

    X, _, _ = mixed(0.15)
    frame = pd.DataFrame(X, columns=["length", "width", "eggs", "alive", "grade", "red", "green", "blue", "mass"])
    text = "bycolumn({'length, width': huber(0.5), 'eggs': poissonlog, 'alive': logistic, 'grade': ordinal(3), '5:8': softmax})"
    fit = factorize(frame, 2, W="ridge(0.3)", H="ridge(0.3)", loss=text, tol=1e-4)
    assert fit.converged, fit.status
    done = fit.predict()
    assert list(done.columns) == list(frame.columns)
    assert done["eggs"].gt(0).all()
    assert done["alive"].between(0, 1).all()
    assert done["grade"].between(1, 3).all()
    np.testing.assert_allclose(done[["red", "green", "blue"]].sum(axis=1), 1)
    part = fit.predict(cols=["mass", "alive"])
    np.testing.assert_allclose(part, done[["mass", "alive"]])
    again = fit.transform(frame.iloc[5:15, ::-1])
    np.testing.assert_allclose(again, fit.W.iloc[5:15], atol=2e-3)
    with pytest.raises(ValueError, match="together"):
        fit.predict(cols=["red"])
    seen, guess = frame["alive"].notna(), (done["alive"] > 0.5)
    assert (guess[seen] == (frame["alive"][seen] > 0)).mean() > 0.75


def test_a_mixed_table_is_the_same_in_blocks_of_rows(monkeypatch):
    X, _, parts = mixed(0.1)
    problem = Problem(X, ByColumn(parts), "ridge(1)", "ridge(1)")
    r = np.random.default_rng(0)
    start = torch.tensor(r.standard_normal((60, 2))), torch.tensor(r.standard_normal((2, 9)))
    state = HALS().init(problem, *start)
    for _ in range(3):
        state = HALS().step(problem, state)
    monkeypatch.setattr(pf.matrix, "BLOCK", 1)
    cut = Problem(X, ByColumn(parts), "ridge(1)", "ridge(1)")
    monkeypatch.setattr(type(cut.X), "blocks", lambda self, row_bytes, size=7: pf.Matrix.blocks(self, 1, size))
    assert len(cut.blocks(2)) == 9
    again = HALS().init(cut, *start)
    for _ in range(3):
        again = HALS().step(cut, again)
    torch.testing.assert_close(again.W, state.W)
    torch.testing.assert_close(again.H, state.H)


def test_a_function_as_a_loss_is_fitted_as_the_same_loss_would_be():
    X = planted("huber(0.5)")
    kwargs = {"W": "ridge(0.3)", "H": "ridge(0.3)", "tol": 1e-6}
    ours = factorize(X, 2, loss="huber(0.5)", **kwargs)
    theirs = factorize(X, 2, loss=lambda p, x: torch.nn.functional.huber_loss(p, x, reduction="none", delta=0.5), **kwargs)
    assert theirs.converged
    assert theirs.history[-1]["loss"] == pytest.approx(ours.history[-1]["loss"], rel=1e-8)
    with pytest.raises(ValueError, match="reduction='none'"):
        factorize(X, 2, loss=torch.nn.functional.mse_loss)


# ── losses with kinks ─────────────────────────────────────────────────────────────────────────────────────────────────


def by_linear_programming(H, x, q=None, positive=False):
    """The least loss of w H against x: the q-quantile's, or (q is None) the hinge's with x in {0, 1}; NaN is no data."""
    seen = ~np.isnan(x)
    B, y, k = H[:, seen].T, x[seen], len(H)
    lower = 0 if positive else None
    if q is None:
        s = 2 * y - 1
        A = np.hstack([-s[:, None] * B, -np.eye(len(y))])
        best = linprog(np.r_[np.zeros(k), np.ones(len(y))], A, -np.ones(len(y)), bounds=[(lower, None)] * k + [(0, None)] * len(y))
    else:
        eye = np.eye(len(y))
        cost = np.r_[np.zeros(k), np.full(len(y), q), np.full(len(y), 1 - q)]
        bounds = [(lower, None)] * k + [(0, None)] * 2 * len(y)
        best = linprog(cost, A_eq=np.hstack([B, eye, -eye]), b_eq=y, bounds=bounds)
    return best.fun


@pytest.mark.parametrize(("constraint", "hidden"), [("free", 0.0), ("nonneg", 0.3)])
@pytest.mark.parametrize(("loss", "q", "factor"), [("l1", 0.5, 2), ("quantile(0.8)", 0.8, 1), ("hinge", None, 1)])
def test_with_one_factor_given_a_loss_with_kinks_is_as_low_as_linear_programming_gets(loss, q, factor, constraint, hidden):
    r = np.random.default_rng(0)
    H = r.standard_normal((2, 25))
    X = r.standard_normal((3, 2)) @ H + 0.5 * r.standard_t(2, (3, 25))
    X = (X > 0).astype(float) if loss == "hinge" else X
    X[r.random(X.shape) < hidden] = np.nan
    fit = factorize(X, 2, W=constraint, H=Fixed(torch.tensor(H)), loss=loss, tol=3e-2, max_iter=100)
    assert isinstance(fit.solver, LossADMM)
    best = sum(factor * by_linear_programming(H, x, q, constraint == "nonneg") for x in X)
    assert best - 1e-7 <= fit.history[-1]["loss"] <= best * (1 + 1e-3)
    assert fit.converged, fit.status


def test_a_component_of_ones_is_the_median_or_the_quantile_of_each_row_as_scikit_learn_has_it():
    X = np.random.default_rng(0).standard_normal((6, 31))
    ones = Fixed(torch.ones(1, 31, dtype=torch.float64))
    np.testing.assert_allclose(factorize(X, 1, H=ones, loss="l1", tol=1e-2, max_iter=100).W[:, 0], np.median(X, 1), atol=1e-3)
    fit = factorize(X, 1, H=ones, loss="quantile(0.8)", tol=1e-2, max_iter=100)
    for x, w in zip(X, fit.W[:, 0], strict=True):
        model = QuantileRegressor(quantile=0.8, alpha=0, fit_intercept=False).fit(np.ones((31, 1)), x)
        assert w == pytest.approx(model.coef_[0], abs=1e-3)


@pytest.mark.parametrize("hidden", [0.0, 0.25])
def test_absolute_error_finds_the_factors_under_gross_outliers(hidden):
    r = np.random.default_rng(0)
    clean = r.standard_normal((30, 2)) @ r.standard_normal((2, 25))
    X = np.where(r.random(clean.shape) < 0.1, clean + r.normal(0, 5, clean.shape), clean)
    X[r.random(X.shape) < hidden] = np.nan
    for data in (Observed(X),) if hidden else (X,):
        fit = factorize(data, 2, loss="l1", tol=1e-4)
        assert fit.converged, fit.status
        assert fit.certificate <= 1e-4
        assert "primal-dual residual" in fit.status
        np.testing.assert_allclose(fit.predict(), clean, atol=1e-2)
    squared = factorize(X, 2)
    assert np.abs(squared.predict() - clean).mean() > 0.1


@pytest.mark.parametrize("loss", ["l1", "quantile(0.7)", "hinge"])
def test_the_residual_of_a_loss_with_kinks_falls_and_its_value_is_no_worse_than_that_of_smooth_neighbours(loss):
    ridge = "ridge(0.3)" if loss == "hinge" else "box(-2, 2)"
    X = planted(loss)
    fit = factorize(X, 2, W=ridge, H=ridge, loss=loss, tol=5e-2 if loss == "hinge" else 2e-2, max_iter=300)
    assert fit.converged, fit.status
    if loss == "l1":
        smooth = factorize(X, 2, W=ridge, H=ridge, loss="huber(0.01)", init=fit, max_iter=100, tol=1e-3)
        value = fit.problem.value(*fit.factors).item()
        assert value <= fit.problem.value(*smooth.factors).item() * 1.02


def test_the_residual_is_large_away_from_a_solution_and_no_rescaling_changes_it():
    X = planted("l1")
    solver, problem = LossADMM(), Problem(X, "l1", "nonneg", "nonneg")
    r = np.random.default_rng(0)
    W, H = (torch.tensor(r.uniform(0.1, 1, s)) for s in ((24, 2), (2, 18)))
    state = solver.init(problem, W, H)
    here = torch.stack(solver.residual(problem, state))
    assert here.max() > 0.05
    c = torch.tensor([4.0, 0.01], dtype=torch.float64)
    state.W, state.H = W * c, H / c[:, None]
    torch.testing.assert_close(torch.stack(solver.residual(problem, state)), here)


def test_losses_with_kinks_choose_their_solver_and_say_what_else_they_take():
    X = planted("l1")
    problem = Problem(X, "l1")
    assert isinstance(auto(problem), LossADMM)
    for solver in ("hals", "palm"):
        with pytest.raises(ValueError, match=r"kinks.*auto.*huber"):
            factorize(X, 2, loss="l1", solver=solver)
    with pytest.raises(ValueError, match="has none"):
        factorize(np.abs(X).clip(0, 1), 2, loss=ByColumn({0: "l1"}, rest="logistic"))
    with pytest.raises(ValueError, match="has none"):
        factorize(planted("kl"), 2, loss="beta(0.5)", solver="lossadmm")
    mixed = factorize(X, 2, W="box(-2, 2)", H="box(-2, 2)", loss=ByColumn({"0:5": "l1"}, rest="huber(0.5)"), tol=2e-2, max_iter=300)
    assert mixed.converged, mixed.status
    with pytest.raises(ValueError, match="growth"):
        LossADMM(growth=-1)


def test_components_whose_size_is_given_are_solved_free_under_a_loss_with_kinks_too():
    X = planted("kl")
    fit = factorize(X, 2, W="nonneg", H="simplex(dim=1)", loss="l1", tol=1e-2, max_iter=300)
    assert fit.converged, fit.status
    np.testing.assert_allclose(fit.H.sum(1), 1)
