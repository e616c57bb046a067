"""factorize and Result: what a user gives, what comes back, and when it may be called converged."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from test_solvers import KINDS, data

import proxfactor as pf
from proxfactor import HALS, PALM, Fixed, Observed, Problem, Sparse, datasets, factorize
from proxfactor.fit import Progress

CONSTRAINTS = [
    ("nonneg", "nonneg"),
    ("box(0, 1)", "nonneg + l1(0.1)"),
    ("nonneg", "simplex(dim=1)"),
    ("nonneg + ridge(0.1)", "entropy(0.1)"),
]


def small(seed=0, noise=0.1):
    return datasets.planted(40, 30, 3, noise=noise, seed=seed)[0].clip(0)


# ── converged means converged ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constraints", CONSTRAINTS)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_where_the_status_says_converged_the_certificate_is_at_or_below_tol(kind, constraints, loss):
    result = factorize(data(kind), 3, W=constraints[0], H=constraints[1], loss=loss, tol=1e-3, max_iter=100)
    problem = result.problem
    certificate = max(c.item() for c in problem.certificate(*result.factors))
    assert result.converged == (result.stopped == "converged") == result.status.startswith("Converged")
    assert result.certificate == pytest.approx(certificate, rel=1e-6, abs=1e-12)
    if result.converged:
        assert certificate <= 1e-3 * (1 + 1e-9)
    assert result.violation["W"] <= 1e-12
    assert result.violation["H"] <= 1e-12


@pytest.mark.parametrize("solver", [HALS(), PALM()], ids=repr)
def test_the_default_fit_converges_to_the_default_tolerance_in_float64_and_float32(solver):
    for dtype in (np.float64, np.float32):
        result = factorize(small().astype(dtype), 3, W="nonneg", H="nonneg", solver=solver)
        assert result.converged
        assert result.certificate <= 1e-5
        assert result.W.dtype == dtype


def test_max_iter_ends_a_fit_and_the_status_says_what_to_do():
    result = factorize(small(), 3, W="nonneg", H="nonneg", max_iter=2, tol=1e-9)
    assert (result.stopped, result.converged, result.iterations) == ("max_iter", False, 2)
    assert "init=result" in result.status
    assert result.certificate > 1e-9


def test_a_loss_that_no_longer_moves_ends_a_fit_and_the_status_says_that_rounding_is_the_limit():
    result = factorize(small().astype(np.float32), 3, W="nonneg", H="nonneg", tol=1e-12)
    assert result.stopped == "stalled"
    assert "float32" in result.status
    assert "float64" in result.status


def test_an_inexact_operator_ends_without_a_certificate_and_the_status_says_so():
    result = factorize(small(), 3, W=lambda x: x.clamp(min=0), H="nonneg", max_iter=200)
    assert math.isnan(result.certificate)
    assert not result.converged
    assert "no certificate" in result.status
    assert "minimises nothing known" in result.status


@pytest.mark.parametrize("solver", ["hals", "palm"])
def test_planted_factors_are_found_where_a_third_of_the_cells_is_hidden(solver):
    X, _W, _H = datasets.planted(100, 80, 5, seed=3)
    hidden = np.random.default_rng(4).random(X.shape) < 0.3
    seen = np.where(hidden, np.nan, X)
    for M in (seen, Observed(seen)):
        result = factorize(M, 5, W="nonneg", H="nonneg", solver=solver)
        assert np.linalg.norm((result.W @ result.H - X)[hidden]) < 1e-3 * np.linalg.norm(X[hidden])


def test_going_on_from_a_result_is_going_on():
    X = small()
    first = factorize(X, 3, W="nonneg", H="nonneg", max_iter=5, tol=1e-8)
    second = factorize(X, W="nonneg", H="nonneg", init=first, tol=1e-8)
    assert second.converged
    assert second.history[0]["loss"] <= first.history[-1]["loss"] * (1 + 1e-12)


# ── transform is W ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize("constraints", CONSTRAINTS)
def test_transform_of_the_data_equals_w(kind, loss, constraints):
    X = data(kind)
    result = factorize(X, 3, W=constraints[0], H=constraints[1], loss=loss, max_iter=30)
    np.testing.assert_allclose(result.transform(X), result.W, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_transform_equals_w_where_many_w_fit_equally_well(seed):
    X = datasets.planted(40, 30, 3, seed=seed)[0]
    few = np.where(np.random.default_rng(seed).random(X.shape) < 0.6, np.nan, X)
    cases = [(X, {}), (few, {}), (X.astype(np.float32), {}), (X[:5, :4], {"init": "svd"}), (few, {"H": "simplex(dim=1)"})]
    for given, options in cases:
        result = factorize(given, 5, **{"W": "nonneg", "H": "nonneg", "init": "random", "seed": seed, "max_iter": 200} | options)
        np.testing.assert_allclose(result.transform(given), result.W, rtol=1e-5, atol=1e-9)


def test_weights_with_names_follow_the_names_of_the_data():
    frame = pd.DataFrame(small(), index=[f"r{i}" for i in range(40)], columns=[f"c{j}" for j in range(30)])
    weight = pd.DataFrame(np.random.default_rng(0).random((40, 30)), index=frame.index, columns=frame.columns)
    options = {"W": "nonneg", "H": "nonneg", "max_iter": 20}
    plain = factorize(frame, 3, weight=weight.to_numpy(), **options)
    turned = factorize(frame, 3, weight=weight.iloc[::-1, ::-1], **options)
    pd.testing.assert_frame_equal(turned.W, plain.W)
    np.testing.assert_allclose(plain.transform(frame.iloc[:, ::-1], weight), plain.W, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match=r"other column names: 'c0', 'new'"):
        factorize(frame, 3, weight=weight.rename(columns={"c0": "new"}), **options)


def test_tensors_that_need_gradients_are_taken_as_numbers():
    start = torch.rand(40, 3, requires_grad=True), torch.rand(3, 30)
    weights = torch.rand(3, 1, dtype=torch.float64, requires_grad=True)
    result = factorize(small(), 3, init=start, W="nonneg", H=pf.NonNegative() + pf.L1(weights), max_iter=5)
    assert np.isfinite(result.W).all()


def test_a_problem_keeps_the_names_and_the_form_of_its_data():
    frame = pd.DataFrame(small()[:4, :3], index=list("abcd"), columns=list("xyz"))
    result = factorize(Problem(frame, "frobenius", "nonneg", "nonneg"), 2)
    assert list(result.W.index) == list("abcd")
    assert isinstance(factorize(Problem(frame.to_numpy()), 2, max_iter=3).W, np.ndarray)


@pytest.mark.parametrize("kind", ["dense", "observed", "sparse"])
@pytest.mark.parametrize("constraints", [("nonneg", "simplex(dim=1)"), ("simplex(dim=0)", "nonneg")])
def test_kl_converges_where_an_operator_couples_the_rows_of_a_half_step(kind, constraints):
    result = factorize(data(kind), 3, W=constraints[0], H=constraints[1], loss="kl", tol=1e-4, max_iter=2000)
    assert result.converged


def test_a_constraint_that_puts_zeros_into_the_start_of_transform_is_no_end_under_kl():
    X = data("observed")
    result = factorize(X, 3, W="simplex(dim=0)", H="nonneg + l1(0.2)", loss="kl", tol=1e-3, max_iter=600)
    assert result.converged
    np.testing.assert_allclose(result.transform(X), result.W, rtol=1e-9, atol=1e-12)


def test_kl_with_shares_never_rises():
    r = np.random.default_rng(2)
    X = r.poisson(2 * r.random((30, 3)) @ r.random((3, 20))).astype(float)
    X[r.random(X.shape) < 0.5] = np.nan
    result = factorize(X, 3, W="simplex(dim=1)", H="nonneg", loss="kl", seed=2, max_iter=60)
    losses = [row["loss"] for row in result.history[:-1]]
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(losses))


def test_transform_of_some_rows_equals_these_rows_of_w():
    X = small()
    result = factorize(X, 3, W="nonneg", H="nonneg", tol=1e-8)
    np.testing.assert_allclose(result.transform(X[5:9]), result.W[5:9], rtol=1e-4, atol=1e-5)


def test_transform_aligns_columns_by_name_and_names_what_does_not_match():
    frame = pd.DataFrame(small(), columns=[f"c{j}" for j in range(30)])
    result = factorize(frame, 3, W="nonneg", H="nonneg")
    turned = result.transform(frame[frame.columns[::-1]])
    np.testing.assert_allclose(turned, result.W, rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match=r"1 missing \('c3'\) and 1 unknown \('new'\)"):
        result.transform(frame.rename(columns={"c3": "new"}))
    with pytest.raises(ValueError, match="29 columns, the fit had 30"):
        result.transform(frame.to_numpy()[:, 1:])


def test_columns_that_new_observed_rows_lack_are_no_data_for_them():
    table, _ = datasets.ratings(30, 12, 2, observed=0.6)
    result = factorize(table, 2, W="nonneg", H="box(0, 5)", tol=1e-8)
    few = pf.Table(Observed(np.full((2, 4), 3.0)), None, table.cols[:4])
    holes = torch.full((2, 12), torch.nan, dtype=torch.float64)
    holes[:, :4] = 3.0
    np.testing.assert_allclose(result.transform(few), result.transform(Observed(holes.numpy())), rtol=1e-6)


# ── forms ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_goes_in_comes_out():
    X = small()
    assert isinstance(factorize(X, 2, max_iter=3).W, np.ndarray)
    assert isinstance(factorize(X.tolist(), 2, max_iter=3).H, np.ndarray)
    assert isinstance(factorize(sp.csr_matrix(X), 2, max_iter=3).W, np.ndarray)
    assert isinstance(factorize(Observed(X), 2, max_iter=3).W, np.ndarray)
    result = factorize(torch.tensor(X, dtype=torch.float32), 2, max_iter=3)
    assert isinstance(result.W, torch.Tensor)
    assert result.H.dtype == torch.float32
    assert factorize(X.astype(np.int32), 2, max_iter=3).W.dtype == np.float64


def test_a_data_frame_keeps_its_names():
    frame = pd.DataFrame(small()[:4, :3], index=["a", "b", "c", "d"], columns=["x", "y", "z"])
    result = factorize(frame, 2, W="nonneg", H="nonneg")
    assert list(result.W.index) == ["a", "b", "c", "d"]
    assert list(result.H.columns) == ["x", "y", "z"]
    assert list(result.W.columns) == list(result.H.index) == ["1", "2"]
    completed = result.W @ result.H
    assert completed.loc["b", "y"] == pytest.approx(result.predict("b", "y").loc["b", "y"])
    assert isinstance(result.transform(frame), pd.DataFrame)
    polar = factorize(pl.DataFrame({"x": [1.0, 2.0], "y": [2.0, 4.0]}), 1, W="nonneg", H="nonneg")
    assert polar.H.columns == ["x", "y"]
    assert isinstance(polar.W, pl.DataFrame)


def test_predict_gives_the_part_asked_for_and_names_what_is_not_there():
    frame = pd.DataFrame(small()[:4, :3], index=["a", "b", "c", "d"], columns=["x", "y", "z"])
    result = factorize(frame, 2, W="nonneg", H="nonneg")
    whole = np.asarray(result.W) @ np.asarray(result.H)
    np.testing.assert_allclose(result.predict(), whole)
    np.testing.assert_allclose(result.predict(["c", "a"], ["z"]), whole[[2, 0]][:, [2]])
    with pytest.raises(ValueError, match="no row 'e'"):
        result.predict("e")
    plain = factorize(small(), 2, max_iter=3)
    with pytest.raises(ValueError, match="numbered 0 to 29"):
        plain.predict(None, 30)
    with pytest.raises(ValueError, match="no row -1"):
        plain.predict(-1)


def test_the_data_of_the_user_is_never_changed():
    X, w = small(), np.random.default_rng(0).random((40, 30))
    X[3, 4] = np.nan
    init = np.ones((40, 2)), np.ones((2, 30))
    before = X.copy(), w.copy(), init[0].copy()
    factorize(X, 2, weight=w, W="nonneg", H="nonneg", init=init, max_iter=3)
    for a, b in zip(before, (X, w, init[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_problem_carries_its_own_constraints():
    X = small()
    by_problem = factorize(Problem(X, "kl", "nonneg", "nonneg"), 2, max_iter=5)
    by_words = factorize(X, 2, loss="kl", W="nonneg", H="nonneg", max_iter=5)
    np.testing.assert_array_equal(by_problem.W, by_words.W)
    with pytest.raises(ValueError, match="of its own"):
        factorize(Problem(X), 2, W="nonneg")


# ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


HIDDEN = np.random.default_rng(0).random((40, 30))


def plain(X):
    return X.toarray() if sp.issparse(X) else X.to_dense().numpy() if isinstance(X, torch.Tensor) else np.asarray(X)


@pytest.mark.parametrize(
    "make",
    [
        lambda X: X,
        torch.tensor,
        pd.DataFrame,
        sp.csr_array,
        lambda X: torch.tensor(X).to_sparse_csr(),
        lambda X: np.where(HIDDEN < 0.2, np.nan, X),
        lambda X: Observed(np.where(HIDDEN < 0.7, np.nan, X)),
        lambda X: pd.DataFrame(np.where(HIDDEN < 0.7, np.nan, X), columns=[f"c{j}" for j in range(30)]),
    ],
)
def test_parts_are_the_shares_of_the_components_and_add_up_to_the_data(make):
    X = small()
    X[3] = 0
    X[:, 2] = np.where(X[:, 2] > 5, X[:, 2], 0)
    given = make(X)
    result = factorize(given, 3, W="nonneg", H="nonneg", max_iter=30)
    parts = [plain(p) for p in result.parts()]
    W, H = (F.numpy() for F in result.factors)
    cells = X if not isinstance(given, Observed) else np.where(HIDDEN < 0.7, 0, X)  # as SciPy shows a sparse matrix
    cells = np.asarray(given) if isinstance(given, np.ndarray | pd.DataFrame) else cells
    np.testing.assert_allclose(sum(parts), cells, rtol=1e-12, atol=1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.einsum("iq,qj->qij", W, H) / (W @ H)
    np.testing.assert_allclose(np.stack(parts), np.where(W @ H > 0, share, 1 / 3) * cells, rtol=1e-9, atol=1e-12)
    assert type(next(result.parts())) is (sp.csr_array if isinstance(given, Observed) else type(given))


def test_parts_of_a_loaded_result_need_the_data_and_parts_of_signed_factors_are_refused():
    frame = pd.DataFrame(small(), columns=[f"c{j}" for j in range(30)])
    result = factorize(frame, 3, W="nonneg", H="nonneg", max_iter=5)
    result.problem = None
    with pytest.raises(ValueError, match=r"parts\(X\)"):
        result.parts()
    pd.testing.assert_frame_equal(sum(result.parts(frame[frame.columns[::-1]])), frame)
    with pytest.raises(ValueError, match="give the data of the fit"):
        result.parts(frame[:3])
    with pytest.raises(ValueError, match=r"W has entries down to -.*nonneg"):
        factorize(small(), 3, init="svd", max_iter=3).parts()


def test_parts_where_the_model_is_zero_are_equal_shares():
    result = factorize(small(), 2, W="nonneg", H="nonneg", max_iter=3)
    result.factors = (torch.zeros(40, 2, dtype=torch.float64), result.factors[1])
    for part in result.parts():
        np.testing.assert_allclose(part, small() / 2)


# ── scale and seed ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize("constraints", [("nonneg", "nonneg"), ("nonneg", "simplex(dim=1)"), ("box(0, 1)", "nonneg")])
@pytest.mark.parametrize("kind", ["dense", "observed", "sparse"])
def test_data_times_a_power_of_two_gives_the_same_bits(loss, constraints, kind):
    X = data(kind)
    plain = factorize(X, 3, W=constraints[0], H=constraints[1], loss=loss, max_iter=20)
    for power in (-40, 40):
        scaled = X.like(X.entries() * 2.0**power)
        scaled.weight = X.weight
        result = factorize(scaled, 3, W=constraints[0], H=constraints[1], loss=loss, max_iter=20)
        W, H = result.factors
        scale = (2.0**-power, 1) if result.prox_W.cone else (1, 2.0**-power)
        assert torch.equal(W * scale[0], plain.factors[0])
        assert torch.equal(H * scale[1], plain.factors[1])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_the_scale_of_the_data_does_not_matter(loss, dtype):
    X = small().astype(dtype)
    plain = factorize(X, 3, W="nonneg", H="nonneg", loss=loss, tol=1e-3)
    for factor in (1e-12, 1e-3, 1e12):
        result = factorize((X * dtype(factor)).astype(dtype), 3, W="nonneg", H="nonneg", loss=loss, tol=1e-3)
        assert result.error == pytest.approx(plain.error, rel=1e-4)
        assert abs(result.iterations - plain.iterations) <= max(3, plain.iterations // 5)


def test_values_near_the_ends_of_the_number_range_are_fitted_too():
    X = small()
    for factor in (1e-200, 1e200):
        result = factorize(X * factor, 3, W="nonneg", H="nonneg", max_iter=50)
        assert np.isfinite(result.W).all()
        assert np.isfinite(result.H).all()
        assert result.error < 0.3


def test_the_same_seed_gives_the_same_result_and_another_seed_another():
    X = small()
    a, b, c = (factorize(X, 3, W="nonneg", H="nonneg", seed=s, max_iter=10) for s in (1, 1, 2))
    assert torch.equal(a.factors[0], b.factors[0])
    assert not torch.equal(a.factors[0], c.factors[0])


# ── callbacks and interruption ────────────────────────────────────────────────────────────────────────────────────────


def test_a_callback_sees_the_fit_and_may_stop_it():
    seen: list[Progress] = []
    result = factorize(small(), 3, W="nonneg", H="nonneg", callback=lambda p: seen.append(p) or len(seen) == 4)
    assert result.stopped == "callback"
    assert [int(p.row["iteration"]) for p in seen[:4]] == [1, 2, 3, 4]
    assert seen[0].W.shape == (40, 3)
    assert "callback" in result.status


def test_a_callback_sees_the_factors_and_the_loss_in_the_scale_of_the_data():
    X = small() * 1e6

    def look(progress):
        off = 0.5 * ((X - (progress.W @ progress.H).numpy()) ** 2).sum()
        assert off == pytest.approx(progress.row["loss"], rel=1e-9)

    factorize(X, 3, W="nonneg", H="nonneg", callback=look, max_iter=20)


def test_an_interrupt_keeps_what_there_is():
    def interrupt(progress):
        if progress.row["iteration"] == 5 and progress.row["seconds"] > 0 and not called:
            called.append(1)
            raise KeyboardInterrupt

    called: list[int] = []
    X = small()
    result = factorize(X, 3, W="nonneg", H="nonneg", callback=interrupt)
    assert result.stopped == "interrupted"
    assert "init=result" in result.status
    np.testing.assert_allclose(result.transform(X), result.W, rtol=1e-9, atol=1e-12)


def test_the_history_falls_and_ends_at_the_point_that_is_returned():
    result = factorize(small(), 3, W="nonneg", H="nonneg")
    losses = [row["loss"] for row in result.history]
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(losses))
    assert losses[-1] == pytest.approx(result.problem.value(*result.factors).item())
    assert [row["iteration"] for row in result.history] == sorted({row["iteration"] for row in result.history})


# ── notes and refusals ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rank_above_both_sides_is_fitted_with_a_warning():
    with pytest.warns(UserWarning, match="above both sides"):
        result = factorize(np.ones((3, 4)), 6, W="nonneg", H="nonneg")
    assert result.error < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factorize(np.ones((3, 9)), 6, W="nonneg", H="nonneg", max_iter=3)


def test_a_penalty_on_one_factor_alone_is_answered_by_a_sentence():
    assert "moving scale into W" in factorize(small(), 3, W="nonneg", H="nonneg + l1(0.1)", max_iter=3).status
    assert "moving scale" not in factorize(small(), 3, W="box(0, 1)", H="nonneg + l1(0.1)", max_iter=3).status


def test_fixed_entries_stay_and_the_rest_is_fitted():
    X, _W, H = datasets.planted(30, 20, 2, seed=1)
    mask = np.zeros((2, 20), dtype=bool)
    mask[0] = True
    result = factorize(X, 2, W="nonneg", H=Fixed(torch.tensor(H), torch.tensor(mask)) + pf.NonNegative(), max_iter=3000)
    np.testing.assert_array_equal(result.H[0], H[0])
    assert result.error < 1e-3


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"rank": 0}, ValueError, "rank is 0"),
        ({"rank": 2.5}, ValueError, "whole number"),
        ({"rank": None}, ValueError, "rank is None"),
        ({"rank": True}, ValueError, "rank is True"),
        ({"tol": 0}, ValueError, "tol is 0"),
        ({"tol": math.nan}, ValueError, "tol is nan"),
        ({"max_iter": 0}, ValueError, "max_iter is 0"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": 2**130}, ValueError, "below 2"),
        ({"tol": "x"}, ValueError, "tol is 'x'"),
        ({"solver": HALS}, TypeError, r"HALS\(\)"),
        ({"loss": pf.KL}, TypeError, r"KL\(\)"),
        ({"solver": "hals(inner=1.5)"}, ValueError, "inner of HALS is 1.5"),
        ({"init": (np.ones((40, 3)) * 1j, np.ones((3, 30)))}, TypeError, "init: W holds complex"),
        ({"loss": "kll"}, ValueError, "did you mean KL"),
        ({"W": "nonegative"}, ValueError, "did you mean NonNegative"),
        ({"solver": "half"}, ValueError, "did you mean HALS"),
        ({"solver": "hals", "W": "simplex(dim=1)"}, ValueError, "solver='apg'"),
        ({"init": "randm"}, ValueError, "did you mean 'random'"),
        ({"init": (np.ones((40, 3)), np.ones((2, 30)))}, ValueError, r"H has shape \(2, 30\)"),
        ({"init": (np.ones((40, 3)), np.full((3, 30), np.inf))}, ValueError, "H holds inf"),
        ({"init": (-np.ones((40, 3)), np.ones((3, 30))), "W": "nonneg"}, ValueError, "outside NonNegative"),
        ({"init": 3}, ValueError, "pair"),
        ({"W": "l1($w)"}, ValueError, "tensor"),
        ({"W": pf.L1(torch.ones(5, 1))}, ValueError, r"does not fit W"),
        ({"H": "simplex(dim=2)"}, ValueError, "dim is 2"),
        ({"W": pf.NonNegative}, TypeError, r"NonNegative\(\)"),
        ({"weight": -np.ones((40, 30))}, ValueError, "not negative"),
        ({"weight": np.ones((4, 3))}, ValueError, "weight has shape"),
        ({"X": np.full((3, 3), np.inf)}, ValueError, "inf"),
        ({"X": [["a", "b"]]}, TypeError, "text"),
        ({"X": np.zeros((0, 3))}, ValueError, "nothing to factor"),
        ({"X": np.zeros(3)}, ValueError, "two dims"),
        ({"X": np.array([[1.0, -2.0]]), "loss": "kl", "rank": 1}, ValueError, "not negative"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_clear_answer(arguments, error, words):
    given = {"X": small(), "rank": 3} | arguments
    with pytest.raises(error, match=words):
        factorize(given.pop("X"), given.pop("rank"), **given)


def test_a_start_with_zeros_is_lifted_where_the_loss_needs_it():
    X = small() + 0.1
    result = factorize(X, 3, W="nonneg", H="nonneg", loss="kl", init=(np.zeros((40, 3)), np.zeros((3, 30))), max_iter=20)
    assert np.isfinite(result.W).all()
    assert result.error < 1


def test_sparse_counts_are_fitted_under_kl_without_becoming_dense():
    X = sp.random(100, 400, 0.02, random_state=0, format="csr")
    X.data = np.ceil(X.data * 5)
    result = factorize(Sparse(X), 4, W="nonneg", H="nonneg", loss="kl", max_iter=10)
    dense = factorize(X.toarray(), 4, W="nonneg", H="nonneg", loss="kl", max_iter=10)
    assert result.history[-1]["loss"] == pytest.approx(dense.history[-1]["loss"], rel=1e-3)


def test_a_fit_never_ends_higher_than_its_last_iterate():
    r = np.random.default_rng(5)
    X = r.random((30, 3)) @ r.random((3, 20)) + 0.05 * r.random((30, 20))
    losses = [row["loss"] for row in factorize(X, 3, W="nonneg", H="solidsimplex(dim=1)", loss="kl", max_iter=60).history]
    assert losses[-1] <= losses[-2] * (1 + 1e-5)


def test_transform_says_so_where_no_finite_loss_was_found():
    r = np.random.default_rng(5)
    X = r.random((30, 3)) @ r.random((3, 20)) + 0.05 * r.random((30, 20))
    X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    result = factorize(X, 3, W="nonneg", H="l1ball(dim=1)", loss="kl", max_iter=200)
    with pytest.raises(ValueError, match=r"no W was found .* KL\(\) is finite"):
        result.transform(X)


@pytest.mark.parametrize("W", ["nonneg", "logbarrier(0.1)"])
def test_a_penalty_without_a_minimiser_can_be_fitted_and_the_user_is_told(W):
    X = small()
    X[2] = math.nan  # a row without data
    with pytest.warns(UserWarning, match=r"on H has no minimiser: bound H"):
        result = factorize(X, 3, W=W, H="logbarrier(0.1)", max_iter=20)
    assert np.isfinite(result.H).all()
    assert (result.H > 0).all()
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < losses[0]


def test_a_sum_by_rounds_is_fitted_and_said_to_have_no_certificate():
    result = factorize(small(), 3, W="nonneg", H="nonneg + smooth(dim=1)", max_iter=3)
    assert "is solved by rounds, to a tolerance: no certificate" in result.status
    assert (result.H >= -1e-9).all()
    assert math.isnan(result.certificate_H if hasattr(result, "certificate_H") else result.history[-1]["certificate_H"])


def test_operators_that_couple_both_dims_are_fitted():
    for H in ("nuclear(0.1)", "rank(2)", "rows({0: isotonic(dim=1), 1: tv(dim=1, lam=0.1)}, rest=nonneg)", "topk(dim=1, k=3)"):
        result = factorize(small(), 3, W="box(0, 1)", H=H, max_iter=30)
        losses = [row["loss"] for row in result.history]
        assert np.isfinite(result.H).all()
        assert losses[-1] <= losses[0]


@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize("kind", ["dense", "sparse", "observed"])
def test_components_that_have_vanished_are_given_what_is_left(kind, loss):
    X = data(kind)
    r = np.random.default_rng(0)
    W, H = r.uniform(0.1, 1, (40, 3)), r.uniform(0.1, 1, (3, 30))
    W[:, 1], H[1] = 0, 0
    result = factorize(X, 3, W="nonneg", H="nonneg", loss=loss, init=(W, H), tol=1e-4)
    two = factorize(X, 2, W="nonneg", H="nonneg", loss=loss, init=(W[:, [0, 2]], H[[0, 2]]), tol=1e-4)
    assert (result.factors[0].abs().sum(0) * result.factors[1].abs().sum(1) > 0).all()
    assert result.history[-1]["loss"] < 0.95 * two.history[-1]["loss"]


def test_a_component_that_nothing_needs_stays_zero():
    result = factorize(np.outer([1.0, 2, 3], [1.0, 2, 3, 4]), 2, W="nonneg", H="nonneg", init=(np.eye(3, 2), np.zeros((2, 4))))
    assert result.converged
    assert result.error < 1e-6


def large(dtype=np.float64):
    r = np.random.default_rng(0)
    W, H = r.gamma(1, 1, (600, 5)) * (r.random((600, 5)) < 0.5), r.gamma(1, 1, (5, 400)) * (r.random((5, 400)) < 0.5)
    return np.maximum(W @ H + 0.1 * r.standard_normal((600, 400)), 0).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("given", [False, True])
def test_large_data_is_fitted_to_a_per_mille_in_eight_passes(dtype, given):
    X, errors, r = large(dtype), [], np.random.default_rng(1)
    init = (r.random((600, 5)), r.random((5, 400))) if given else "auto"
    result = factorize(X, 5, W="nonneg", H="nonneg", init=init, callback=lambda p: errors.append((p.row["passes"], p.W @ p.H)))
    best = np.linalg.norm(X - result.predict())
    near = [passes for passes, WH in errors if np.linalg.norm(X - WH.numpy()) <= 1.001 * best]
    assert near[0] <= 8


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_start_in_float32_is_taken_only_where_float32_can_hold_the_data(scale):
    result = factorize(large() * scale, 5, W="box(0, 1)", H=f"nonneg + l1({scale})", tol=1e-4)  # a penalty: X is not divided
    assert result.converged
    assert result.error == pytest.approx(0.04198, rel=1e-3)
    assert result.factors[1].dtype == torch.float64


def test_passes_over_the_data_are_counted():
    result = factorize(large(), 5, W="nonneg", H="nonneg", init="random", max_iter=3, tol=1e-9)
    rows = result.history
    assert [b["passes"] - a["passes"] for a, b in itertools.pairwise(rows[:-1])] == [2] * (len(rows) - 2)


def test_a_start_that_is_good_already_is_not_given_up_for_one_in_the_range_of_the_data():
    X = large()
    good = factorize(X, 5, W="nonneg", H="nonneg")
    again = factorize(X, 5, W="nonneg", H="nonneg", init=(good.W, good.H), max_iter=1, tol=1e-12)
    assert again.history[0]["loss"] <= good.history[-1]["loss"] * (1 + 1e-12)


def test_the_loss_is_summed_cell_by_cell_where_gram_matrices_would_cancel():
    r = np.random.default_rng(0)
    W, H = r.random((30, 3)), r.random((3, 20))
    for dtype, noise in ((np.float64, 1e-6), (np.float32, 1e-3)):
        X = (W @ H + noise * r.random((30, 20))).astype(dtype)
        problem = Problem(X, "frobenius", "nonneg", "nonneg")
        given = torch.tensor(W.astype(dtype)), torch.tensor(H.astype(dtype))
        exact = 0.5 * ((given[0].double() @ given[1].double()).numpy() - X.astype(float)) ** 2
        assert problem.value(*given).item() == pytest.approx(exact.sum(), rel=1e-6)


def test_what_a_callback_writes_into_the_factors_changes_nothing():
    def scribble(progress):
        progress.W.numpy()[:] = -1
        progress.H.numpy()[:] = np.nan

    X = small()
    quiet, loud = (factorize(X, 3, W="nonneg", H="nonneg", callback=callback) for callback in (lambda progress: None, scribble))
    np.testing.assert_array_equal(quiet.W, loud.W)
