"""Learning from batches: the sums are what they should be, one pass comes near the batch fit, and a saved state goes on."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import proxfactor as pf
from proxfactor import HALS, PALM, Chunked, Dense, Observed, Online, Problem, Sparse, datasets, factorize
from proxfactor.losses import Frobenius, Loss

RANK = 3


def planted(m=240, n=30, seed=0, noise=0.05):
    return datasets.planted(m, n, RANK, noise=noise, seed=seed)[0].clip(0)


def learned(X, size, **options):
    online = Online(RANK, **({"W": "nonneg", "H": "nonneg"} | options))
    for start in range(0, X.shape[0], size):
        online.partial_fit(X[start : start + size])
    return online


def error(online, X):
    return factorize_error(X, online.transform(X), online.H)


def factorize_error(X, W, H):
    return np.linalg.norm(X - W @ H) / np.linalg.norm(X)


# ── the sums ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("solver", [HALS(), PALM()], ids=repr)
def test_one_batch_is_an_ordinary_fit_of_as_many_sweeps(solver):
    X, r = planted(), np.random.default_rng(3)
    init = torch.tensor(r.random((240, RANK))), torch.tensor(r.random((RANK, 30)))
    online = Online(RANK, W="nonneg", H="nonneg", sweeps=2, init=init, solver=solver).partial_fit(X)
    problem = Problem(X, "frobenius", "nonneg", "nonneg")
    state = solver.init(problem, *init)
    for _ in range(20):
        state = solver.step(problem, state)
    torch.testing.assert_close(online.factor, state.H)
    torch.testing.assert_close(online.sums, (state.W.mT @ state.W, torch.tensor(X).mT @ state.W))


def kinds():
    r = np.random.default_rng(1)
    X = r.poisson(2.0, (12, 7)).astype(float)
    holes = np.where(r.random(X.shape) < 0.4, np.nan, X)
    w = r.uniform(0.5, 2, X.shape)
    return {
        "dense": (Dense(X), X, np.ones_like(X)),
        "holes": (Dense(holes), np.nan_to_num(holes), (~np.isnan(holes)).astype(float)),
        "weighted": (Dense(X, w), X, w),
        "observed": (Observed(holes), np.nan_to_num(holes), (~np.isnan(holes)).astype(float)),
        "sparse": (Sparse(sp.csr_array(X)), X, np.ones_like(X)),
        "clicks": (Sparse(sp.csr_array(X), background=0.3), X, np.where(X > 0, 1.0, 0.3)),
    }


@pytest.mark.parametrize("kind", list(kinds()))
def test_the_sums_of_a_batch_are_their_definition(kind):
    matrix, X, w = kinds()[kind]
    r = np.random.default_rng(2)
    W, H = r.uniform(0.1, 1, (12, RANK)), r.uniform(0.1, 1, (RANK, 7))
    pred = W @ H
    s = np.einsum("ij,iq->jq", w, W)
    N = np.einsum("ij,iq,qj->jq", w * X / pred, W, H)
    S, B = np.einsum("ij,ip,iq->jpq", w, W, W), np.einsum("ij,iq->jq", w * X, W)
    a, b = torch.tensor(W), torch.tensor(H.T.copy())
    kl = Online(RANK, loss="kl")._sums(Problem(matrix, "kl"), a, b)
    squares = Online(RANK)._sums(Problem(matrix), a, b)
    np.testing.assert_allclose(kl[0].expand(7, RANK), s, rtol=1e-10)
    np.testing.assert_allclose(kl[1], N, rtol=1e-10)
    np.testing.assert_allclose(squares[0].expand(7, RANK, RANK), S, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(squares[1], B, rtol=1e-10)


@pytest.mark.parametrize("H", ["nonneg", "simplex(dim=1)", "box(0, 0.5)"])
def test_the_sums_of_kl_bound_the_loss_so_that_no_alternation_raises_it(H):
    X = np.random.default_rng(0).poisson(planted(60, 20)).astype(float)
    problem, values = Problem(X, "kl", "nonneg", H), []
    for sweeps in (1, 2, 3, 10):
        online = Online(RANK, W="nonneg", H=H, loss="kl", sweeps=sweeps).partial_fit(X)
        W = pf.fit.best_rows(problem, HALS(), online.factor.mT, 1e-6)
        values.append(problem.value(W, online.factor).item())
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(values))
    assert values[-1] < 1.05 * factorize(X, RANK, W="nonneg", H=H, loss="kl", max_iter=100, tol=1e-3).history[-1]["loss"]


def test_forgetting_weighs_the_sums_so_far():
    X = planted()
    online = Online(RANK, W="nonneg", H="nonneg", forget=0.25, sweeps=1).partial_fit(X[:100])
    before = online.sums[0].clone()
    H = online.factor
    online.partial_fit(X[100:])
    W = pf.fit.best_rows(Problem(X[100:], "frobenius", "nonneg", "nonneg"), HALS(), H.mT, 1e-2)
    W = HALS().half(Problem(X[100:], "frobenius", "nonneg", "nonneg"), W, H.mT, {})
    torch.testing.assert_close(online.sums[0], 0.25 * before + W.mT @ W)


# ── what it learns ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_pass_over_the_digits_ends_within_five_percent_of_the_batch_fit():
    X = datasets.digits().matrix.entries().numpy()
    online = Online(16, W="nonneg", H="nonneg")
    for start in range(0, len(X), 180):
        online.partial_fit(X[start : start + 180])
    whole = factorize(X, 16, W="nonneg", H="nonneg", max_iter=100, tol=1e-3)
    assert error(online, X) < 1.05 * whole.error


@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize("hidden", [0.0, 0.4])
def test_one_pass_finds_planted_components_also_where_cells_are_missing(loss, hidden):
    X, _, H = datasets.planted(240, 30, RANK, seed=1)
    X = X + 1e-9
    seen = np.where(np.random.default_rng(2).random(X.shape) < hidden, np.nan, X)
    online = learned(seen, 60, loss=loss)
    _, cosines = pf.metrics.match(online.H, H)
    assert cosines.min() > 0.99
    assert factorize_error(X, online.transform(seen), online.H) < 0.03


@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_the_size_and_the_order_of_batches_matter_little(loss):
    X = planted(120, 20)
    whole = factorize(X, RANK, W="nonneg", H="nonneg", loss=loss, tol=1e-3, max_iter=100).error
    errors = [error(learned(X, size, loss=loss), X) for size in (20, 120)] + [error(learned(X[::-1], 40, loss=loss), X)]
    assert max(errors) < 1.4 * whole


@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_with_forgetting_it_follows_data_that_drift_and_without_it_stays_behind(loss):
    r = np.random.default_rng(0)
    old, new = (r.gamma(0.5, 1, (RANK, 30)) + 0.01 for _ in range(2))
    batches = [r.gamma(1, 1, (40, RANK)) @ (old if t < 4 else new) for t in range(9)]
    follows, stays = (Online(RANK, W="nonneg", H="nonneg", loss=loss, sweeps=8, forget=f) for f in (0.2, 1.0))
    for batch in batches:
        follows.partial_fit(batch)
        stays.partial_fit(batch)
    assert error(follows, batches[-1]) < 0.2
    assert error(stays, batches[-1]) > 2 * error(follows, batches[-1])
    errors = [row["error"] for row in follows.history]
    assert math.isnan(errors[0])
    assert errors[4] > 10 * errors[3]  # the batch in which the data change
    assert errors[8] < errors[4] / 4


def test_the_same_batches_and_seed_give_the_same_bits():
    a, b, c = (learned(planted(), 60, seed=s) for s in (1, 1, 2))
    assert torch.equal(a.factor, b.factor)
    assert not torch.equal(a.factor, c.factor)


def test_constraints_hold_after_every_batch():
    X = planted()
    online = learned(X, 60, W="simplex(dim=1)", H="box(0, 2)")
    assert online.H.min() >= 0
    assert online.H.max() <= 2
    np.testing.assert_allclose(np.asarray(online.transform(X)).sum(1), 1)


def test_a_column_that_has_its_first_counts_in_a_later_batch_is_learned():
    X = np.random.default_rng(0).poisson(planted(120, 12) + 0.2).astype(float)
    first = X[:60].copy()
    first[:, 4] = 0
    online = Online(RANK, W="nonneg", H="nonneg", loss="kl").partial_fit(first).partial_fit(X[60:])
    assert np.isfinite(online.H).all()
    assert online.H[:, 4].max() > 0.01


# ── kept, named, given ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_going_on_from_a_saved_state_gives_the_same_numbers(loss, hidden, tmp_path):
    X = planted()
    X[np.random.default_rng(0).random(X.shape) < hidden] = np.nan
    lam = torch.full((1, 30), 0.01, dtype=torch.float64)
    how = {"W": "nonneg", "H": pf.L1(lam) + pf.NonNegative(), "loss": loss, "forget": 0.8}
    through = learned(X[:120], 60, **how)
    by_file = Online.load(through.save(tmp_path / "state.safetensors"))
    by_dict = Online(RANK, **how)
    by_dict.load_state_dict(through.state_dict())
    for online in (through, by_file, by_dict):
        online.partial_fit(X[120:])
        assert torch.equal(online.factor, through.factor)
        assert (online.batches, online.rows) == (3, 240)
    assert repr(by_file) == repr(through)
    assert [row["error"] for row in by_file.history[1:]] == [row["error"] for row in through.history[1:]]


def test_columns_are_aligned_by_name_and_factors_come_in_the_form_of_the_first_batch(tmp_path):
    X = planted()
    frame = pd.DataFrame(X, columns=[f"c{j}" for j in range(30)])
    online = Online(RANK, W="nonneg", H="nonneg").partial_fit(frame[:120])
    online = Online.load(online.save(tmp_path / "o.safetensors"))
    online.form = pd  # a file does not hold a library
    online.partial_fit(frame[120:][frame.columns[::-1]])
    plain = learned(X, 120)
    np.testing.assert_allclose(online.H.to_numpy(), plain.H, rtol=1e-6, atol=1e-9)
    assert list(online.H.columns) == list(frame.columns)
    np.testing.assert_allclose(online.transform(frame[frame.columns[::-1]]), plain.transform(X), rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="1 missing"):
        online.partial_fit(frame.drop(columns="c3"))


def test_chunks_are_batches_and_the_result_is_that_of_a_fit():
    X = planted()
    online = Online(RANK, W="nonneg", H="nonneg").partial_fit(Chunked([X[:80], X[80:160], X[160:]]))
    assert torch.equal(online.factor, learned(X, 80).factor)
    for data in (X, Chunked([X[:100], X[100:]])):
        result = online.result(data)
        np.testing.assert_allclose(result.W, online.transform(X), rtol=1e-4, atol=1e-6)
        assert result.error == pytest.approx(factorize_error(X, result.W, result.H), rel=1e-6)
        certificate = max(c.item() for c in Problem(X, "frobenius", "nonneg", "nonneg").certificate(*result.factors))
        assert result.certificate == pytest.approx(certificate, rel=1e-3)
    assert factorize(X, W="nonneg", H="nonneg", init=result).converged


def test_torch_and_sparse_batches_are_taken():
    X = planted()
    online = Online(RANK, W="nonneg", H="nonneg").partial_fit(torch.tensor(X[:120], dtype=torch.float32))
    assert online.partial_fit(X[120:]).H.dtype == torch.float32
    counts = sp.random_array((200, 50), density=0.2, rng=np.random.default_rng(0), format="csr")
    online = learned(counts, 100, loss="kl", sweeps=3)
    dense = learned(counts.toarray(), 100, loss="kl", sweeps=3)
    np.testing.assert_allclose(online.H, dense.H, rtol=1e-3, atol=1e-5)


@dataclass(frozen=True, eq=False, repr=False)
class Absolute(Loss):
    def __call__(self, pred, x):
        return (pred - x).abs()

    def curvature(self, pred, x):
        return 1 / (pred - x).abs().clamp(min=1e-3)


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda: Online(0), ValueError, "rank is 0"),
        (lambda: Online(2, forget=0), ValueError, "forget is 0"),
        (lambda: Online(2, forget=1.5), ValueError, "forget is 1.5"),
        (lambda: Online(2, sweeps=0), ValueError, "sweeps is 0"),
        (lambda: Online(2, loss=Absolute()), ValueError, r"leaves no sums .* factorize\(Chunked"),
        (lambda: Online(2, W="simplex(dim=0)"), ValueError, "couples rows"),
        (lambda: Online(2).H, ValueError, "partial_fit"),
        (lambda: Online(2).transform(planted()), ValueError, "partial_fit"),
        (lambda: Online(2).state_dict(), ValueError, "partial_fit"),
        (lambda: Online(2).partial_fit(planted()).partial_fit(planted(n=4)), ValueError, "X has 4 columns, the first batch had 30"),
        (lambda: Online(2, loss="kl").partial_fit(-planted()), ValueError, "not negative"),
        (lambda: Online(2, loss="kl").load_state_dict(Online(2).partial_fit(planted()).state_dict()), ValueError, "does not fit"),
        (lambda: Online(3).load_state_dict(Online(2).partial_fit(planted()).state_dict()), ValueError, "does not fit rank 3"),
        (lambda: Online.load(__file__), ValueError, "no state that Online.save wrote"),
        (lambda: Online.load("nowhere.safetensors"), FileNotFoundError, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_out(act, error, words):
    with pytest.raises(error, match=words):
        act()


def test_a_batch_that_is_refused_leaves_what_was_learned():
    online = Online(RANK, W="nonneg", H="nonneg").partial_fit(planted())
    before = online.factor.clone(), online.sums[1].clone()
    with pytest.raises(ValueError, match="inf"):
        online.partial_fit(np.full((3, 30), np.inf))
    assert torch.equal(online.factor, before[0])
    assert torch.equal(online.sums[1], before[1])
    assert online.batches == 1
    assert isinstance(online.loss, Frobenius)
