"""Starts: inside the constraints, in the scale of the data, and the same however the rows are spread."""

import numpy as np
import pytest
import torch

from proxfactor import Problem, factorize
from proxfactor.inits import start, uniforms


@pytest.mark.parametrize("init", ["random", "svd"])
@pytest.mark.parametrize(
    "constraints", [("nonneg", "nonneg"), ("free", "nonneg"), ("free", "free"), ("box(5, 6)", "simplex(dim=1)")]
)
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_starts_lie_inside_the_constraints_and_scale_with_the_data(init, constraints, rank):
    X = np.random.default_rng(0).random((12, 6))
    problem = Problem(X, "frobenius", *constraints)
    W, H = start(problem, rank, init)
    assert (W.shape, H.shape) == ((12, rank), (rank, 6))
    assert problem.prox_W.value(W) == 0
    assert problem.prox_H.value(H) == 0
    if constraints == ("nonneg", "nonneg"):
        assert problem.value(W, H) < 0.5 * (X**2).sum()
        w, h = start(Problem(X * 2.0**20, "frobenius", *constraints), rank, init)
        torch.testing.assert_close(w @ h, (W @ H) * 2.0**20)


def test_the_svd_start_of_unconstrained_factors_is_the_best_low_rank_fit():
    X = np.random.default_rng(0).standard_normal((30, 20))
    result = factorize(X, 4, init="svd", max_iter=1)
    s = np.linalg.svd(X, compute_uv=False)
    assert result.error == pytest.approx(np.sqrt((s[4:] ** 2).sum() / (s**2).sum()), rel=1e-3)


@pytest.mark.parametrize("rank", [1, 4, 5])
def test_a_part_of_the_rows_is_drawn_as_in_the_whole(rank):
    whole = uniforms(20, rank, seed=3)
    assert torch.equal(torch.cat([uniforms(7, rank, 3), uniforms(13, rank, 3, offset=7)]), whole)
    assert not torch.equal(uniforms(20, rank, seed=4), whole)
    assert not torch.equal(uniforms(20, rank, seed=3, stream=1), whole)
    assert whole.min() >= 0
    assert whole.max() < 1


def test_signed_data_gets_a_start_of_both_signs_where_the_constraint_allows_it():
    X = np.random.default_rng(0).standard_normal((20, 10))
    W, H = start(Problem(X, "frobenius", "free", "nonneg"), 3)
    assert (W < 0).any()
    assert (H >= 0).all()


def test_a_svd_start_needs_no_dense_copy_and_fills_a_rank_above_the_data():
    X = torch.eye(4, dtype=torch.float64).to_sparse()
    W, H = start(Problem(X, "frobenius", "nonneg", "nonneg"), 6, "svd")
    assert (W.shape, H.shape) == ((4, 6), (6, 4))
    assert (W > 0).all()
