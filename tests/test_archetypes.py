"""Archetypes: corners that are there are found, both blocks are stationary, sparse data and new rows are treated alike."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.optimize import nnls

from proxfactor import Observed, archetypal_analysis
from proxfactor.archetypes import _Centred, _complete, _furthest, _mean
from proxfactor.matrix import as_matrix


def planted(m=80, n=4, k=4, shift=0.0, seed=0):
    """Mixtures of k corners, the corners among them."""
    r = np.random.default_rng(seed)
    corners, A = r.standard_normal((k, n)) + shift, r.dirichlet(np.full(k, 0.7), m)
    A[r.permutation(m)[:k]] = np.eye(k)
    return A @ corners, corners


def off(found, corners):
    return max(np.linalg.norm(found - c, axis=1).min() for c in corners) / np.linalg.norm(corners - corners.mean(0), axis=1).mean()


@pytest.mark.parametrize(("seed", "shift"), [(0, 0.0), (1, 1e3), (2, 0.0)])
def test_the_corners_of_a_convex_hull_are_found(shift, seed):
    X, corners = planted(shift=shift, seed=seed)
    result = archetypal_analysis(X, 4, seed=seed, tol=2e-4)
    assert result.converged
    assert result.certificate <= 2e-4
    assert off(result.archetypes, corners) < 0.02
    assert result.error < 2e-3


def test_weights_and_mixtures_are_shares_and_the_archetypes_are_their_mixtures():
    X = np.random.default_rng(0).standard_normal((60, 5))
    result = archetypal_analysis(X, 3, max_iter=60)
    for shares in (result.weights, result.mixtures):
        assert shares.min() >= 0
        np.testing.assert_allclose(shares.sum(1), 1, atol=1e-9)
    np.testing.assert_allclose(result.mixtures @ X, result.archetypes, atol=1e-9)
    error = np.linalg.norm(X - result.weights @ result.archetypes) / np.linalg.norm(X - X.mean(0))
    assert result.error == pytest.approx(error, rel=1e-9)


def test_no_sweep_raises_the_error_and_the_end_is_stationary():
    X = np.random.default_rng(3).random((100, 3))
    result = archetypal_analysis(X, 5, tol=1e-5, max_iter=2000)
    errors = [row["error"] for row in result.history]
    assert (np.diff(errors) <= 1e-12).all()
    assert result.converged
    A, B, Z = (t.numpy() for t in result.parts)
    to_B = A.T @ (A @ Z - X) @ X.T
    worth = (B * to_B).sum(1, keepdims=True) - to_B  # what an archetype would gain from a whole row; none is worth much
    assert worth.max() <= 1e-3 * np.linalg.norm(X - X.mean(0)) ** 2 / len(X)


def test_weights_are_the_nearest_point_of_the_hull_for_new_rows_too():
    X, _ = planted()
    result = archetypal_analysis(X, 4)
    np.testing.assert_allclose(result.transform(X), result.weights, atol=1e-6)
    new = np.random.default_rng(9).standard_normal((5, 4)) * 2
    far = 1e4  # a heavy row that asks for a sum of one
    for row, weights in zip(new, result.transform(new), strict=True):
        expected, _ = nnls(np.vstack([result.archetypes.T, far * np.ones((1, 4))]), np.append(row, far))
        np.testing.assert_allclose(weights, expected, atol=1e-4)


def test_sparse_data_give_what_dense_data_give():
    X = sp.random(60, 30, 0.2, random_state=0, format="csr")
    sparse, dense = archetypal_analysis(X, 3, max_iter=20), archetypal_analysis(X.toarray(), 3, max_iter=20)
    np.testing.assert_allclose(sparse.archetypes, dense.archetypes, atol=1e-6)
    assert sparse.error == pytest.approx(dense.error, rel=1e-6)


def test_the_start_takes_the_furthest_rows():
    X = np.vstack([np.random.default_rng(0).random((50, 2)), [[9, 9], [-9, 9], [0, -9]]])
    data = _Centred(_complete(as_matrix(X)), _mean(as_matrix(X)))
    for seed in range(5):
        assert sorted(_furthest(data, 3, seed).tolist()) == [50, 51, 52]
    assert _furthest(data, 1, 0).tolist() in ([50], [51], [52])


def test_scale_does_not_matter_and_the_same_seed_gives_the_same_result():
    X, _ = planted(seed=2)
    one, two, large = (archetypal_analysis(x, 3, max_iter=15, seed=4) for x in (X, X, X * 2.0**40))
    np.testing.assert_array_equal(one.archetypes, two.archetypes)
    np.testing.assert_allclose(large.archetypes, one.archetypes * 2.0**40, rtol=1e-9)
    assert large.certificate == pytest.approx(one.certificate, rel=1e-6)


def test_names_travel_and_forms_come_back():
    X, _ = planted(m=12)
    frame = pd.DataFrame(X, index=[f"r{i}" for i in range(12)], columns=list("abcd"))
    result = archetypal_analysis(frame, 2, max_iter=5)
    assert list(result.archetypes.columns) == list("abcd")
    assert list(result.weights.index) == list(frame.index)
    np.testing.assert_allclose(result.transform(frame[list("dcba")]), result.transform(frame))
    kept = archetypal_analysis(torch.tensor(X, dtype=torch.float32), 2, max_iter=5)
    assert kept.archetypes.dtype == torch.float32


def test_one_archetype_equal_rows_and_as_many_as_rows_are_fitted():
    X, _ = planted(m=10)
    assert archetypal_analysis(X, 1, max_iter=50).weights.sum() == pytest.approx(10)
    assert archetypal_analysis(X, 10, max_iter=50).error < 0.05
    equal = archetypal_analysis(np.ones((6, 3)), 2, max_iter=5)
    np.testing.assert_allclose(equal.archetypes, 1)
    assert equal.error == 0


@pytest.mark.parametrize(
    ("X", "k", "words"),
    [
        ([[1.0, np.nan], [2.0, 3.0]], 1, "holes or weights"),
        (Observed([[1.0, np.nan], [2.0, 3.0]]), 1, "holes or weights"),
        (np.ones((3, 2)), 4, "from 1 to the 3 rows"),
        (np.ones((3, 2)), 0, "k is 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(X, k, words):
    with pytest.raises(ValueError, match=words):
        archetypal_analysis(X, k)


def test_other_columns_are_refused_by_transform():
    X, _ = planted()
    with pytest.raises(ValueError, match="give the same columns"):
        archetypal_analysis(X, 2, max_iter=3).transform(X[:, :3])
