"""Measures of a fit, held against the dense definition."""

import json
import math

import numpy as np
import pytest
import scipy.sparse
import torch

from proxfactor.matrix import Dense, Observed, Sparse
from proxfactor.metrics import match, relative_error, residual_summary

rng = np.random.default_rng(0)
M, N, K = 37, 23, 3
W, H = torch.from_numpy(rng.random((M, K))), torch.from_numpy(rng.random((K, N)))
VALUES = rng.random((M, N)) * (rng.random((M, N)) < 0.3)
WEIGHT = rng.integers(0, 3, (M, N)).astype(float)
HOLES = np.where(rng.random((M, N)) < 0.8, np.nan, VALUES)


def stored(values):
    return scipy.sparse.csr_array(VALUES)._with_data(values[VALUES != 0])


KINDS = {
    "dense": (Dense(VALUES), VALUES, np.ones((M, N))),
    "weighted": (Dense(VALUES, WEIGHT), VALUES, WEIGHT),
    "observed": (Observed(HOLES), np.nan_to_num(HOLES), (~np.isnan(HOLES)).astype(float)),
    "sparse": (Sparse(scipy.sparse.csr_array(VALUES)), VALUES, np.ones((M, N))),
    "clicks": (
        Sparse(scipy.sparse.csr_array(VALUES), stored(WEIGHT + 1), background=0.1),
        VALUES,
        np.where(VALUES != 0, WEIGHT + 1, 0.1),
    ),
}


def oracle(values, weight, axis=None):
    left = values - (W @ H).numpy()
    return np.sqrt((weight * left**2).sum(axis) / (weight * values**2).sum(axis))


@pytest.fixture(params=KINDS, ids=str)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(params=[2**28, 2000], ids=["one block", "many blocks"])
def block(request, monkeypatch):
    small = request.param
    blocks = Dense.blocks
    for cls in (Dense, Sparse, Observed):
        monkeypatch.setattr(cls, "blocks", lambda self, row_bytes, *_: blocks(self, row_bytes, small))


def test_the_relative_error_equals_the_dense_definition(kind, block):
    X, values, weight = kind
    assert relative_error(X, W, H) == pytest.approx(oracle(values, weight), rel=1e-12)


def test_the_relative_error_takes_what_as_matrix_takes():
    assert relative_error(VALUES, W.numpy(), H.numpy(), WEIGHT) == pytest.approx(oracle(VALUES, WEIGHT), rel=1e-12)
    assert relative_error(VALUES.astype(np.float32), W.float(), H.float()) == pytest.approx(oracle(VALUES, 1.0), rel=1e-6)


def test_a_perfect_fit_has_no_error_however_it_is_stored():
    X = (W @ H).numpy()
    assert relative_error(X, W, H) < 1e-15
    assert 0 <= relative_error(scipy.sparse.csr_array(X), W, H) < 1e-7  # the closed form of the zeros leaves √eps


def test_without_data_to_compare_to_the_error_is_zero_or_infinite():
    zero = np.zeros((M, N))
    assert relative_error(zero, W, H) == math.inf
    assert relative_error(zero, W * 0, H) == 0
    assert relative_error(scipy.sparse.csr_array((M, N)), W * 0, H) == 0
    assert relative_error(scipy.sparse.csr_array((M, N)), W, H) == math.inf


def test_a_large_sparse_matrix_never_becomes_dense():
    m = 300_000
    X = scipy.sparse.random_array((m, m), density=1e-6, rng=rng, format="csr")
    A, B = torch.rand(m, 2, dtype=torch.float64), torch.rand(2, m, dtype=torch.float64)
    assert relative_error(X, A, B) > 1
    summary = residual_summary(X, A, B)
    assert summary["histogram"]["sampled"]
    assert summary["histogram"]["cells"] == pytest.approx(m * m, rel=1e-9)
    assert len(summary["rows"]["error"]) <= 400


def test_factors_that_do_not_fit_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match="other way round"):
        relative_error(VALUES, H, W)
    with pytest.raises(ValueError, match=r"must be \(37, k\) and \(k, 23\)"):
        relative_error(VALUES, W, H[:, 1:])


def test_the_histogram_counts_every_cell_that_is_data(kind, block):
    X, values, weight = kind
    left = (values - (W @ H).numpy())[weight > 0]
    got = residual_summary(X, W, H)["histogram"]
    end = got["edges"][-1]
    assert end == pytest.approx(np.abs(np.quantile(left, [0.005, 0.995])).max())
    expected = np.histogram(left.clip(-end, end), np.array(got["edges"]))[0]
    assert got["cells"] == left.size == sum(got["counts"])
    assert np.abs(expected - got["counts"]).sum() <= 2  # a value on an edge
    assert not got["sampled"]


@pytest.mark.parametrize("axis", [0, 1])
def test_the_profiles_equal_the_dense_definition(kind, block, axis):
    X, values, weight = kind
    got = residual_summary(X, W, H)["cols" if axis == 0 else "rows"]
    assert got["group"] == 1
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = oracle(values, weight, axis)
    expected[~np.isfinite(expected)] = np.nan
    np.testing.assert_allclose(np.array(got["error"], dtype=float), expected, rtol=1e-9)
    assert [w["index"] for w in got["worst"]] == np.argsort(np.nan_to_num(-expected, nan=1.0))[:5].tolist()


def test_the_picture_holds_the_mean_of_each_rectangle(kind, block, monkeypatch):
    monkeypatch.setattr("proxfactor.metrics.SIDE", 7)
    X, values, weight = kind
    got = np.array(residual_summary(X, W, H)["picture"], dtype=float)
    left, data = values - (W @ H).numpy(), weight > 0
    row, col = np.arange(M) * 7 // M, np.arange(N) * 7 // N
    for i in range(7):
        for j in range(7):
            cells = np.ix_(row == i, col == j)
            expected = left[cells][data[cells]].mean() if data[cells].any() else np.nan
            np.testing.assert_allclose(got[i, j], expected, atol=1e-12)


def test_what_has_no_data_is_none_and_json_can_hold_it():
    X = VALUES.copy()
    X[3], X[:, 5], X[:, 6] = np.nan, np.nan, 0.0
    got = residual_summary(X, W, H, rows=np.arange(M), cols=[f"c{j}" for j in range(N)])
    assert got["rows"]["error"][3] is None
    assert got["cols"]["error"][5] is None
    assert got["cols"]["error"][6] is None, "a column of zeros has no relative error"
    assert got["picture"][3][5] is None
    assert got["cols"]["worst"][0]["name"].startswith("c")
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_long_profiles_become_means_of_groups_of_neighbours():
    X = torch.rand(1001, 2, dtype=torch.float64) + 1
    A, B = torch.rand(1001, 1, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    got = residual_summary(X, A, B)["rows"]
    each = torch.linalg.vector_norm(X - A @ B, dim=1) / torch.linalg.vector_norm(X, dim=1)
    assert (len(got["error"]), got["group"]) == (334, 3)
    assert got["error"][0] == pytest.approx(each[:3].mean().item())
    assert got["error"][-1] == pytest.approx(each[999:].mean().item())


def test_a_perfect_fit_has_a_summary_too():
    got = residual_summary(W @ H, W, H)
    assert max(got["histogram"]["counts"]) > 0
    assert got["histogram"]["cells"] == M * N
    assert residual_summary(torch.zeros(2, 2), torch.zeros(2, 1), torch.zeros(1, 2))["histogram"]["edges"][-1] == 1


def test_components_are_matched_whatever_their_order_sign_and_scale():
    true = torch.from_numpy(rng.random((5, 40)))
    shuffle = torch.tensor([3, 1, 4, 0, 2])
    order, cosines = match(torch.cat([-1e-200 * true[shuffle], torch.ones(1, 40)]), true)
    assert torch.equal(order, shuffle.argsort())
    np.testing.assert_allclose(cosines, 1.0)


def test_a_dead_component_matches_nothing():
    assert match(torch.zeros(1, 3), torch.ones(1, 3))[1].tolist() == [0.0]


def test_more_true_components_than_found_are_refused():
    with pytest.raises(ValueError, match="t ≤ k"):
        match(torch.ones(1, 3), torch.ones(2, 3))
