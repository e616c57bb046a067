"""Starts: inside the constraints, in the scale of the data, and the same however the rows are spread."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits

from proxfactor import Fixed, NonNegative, Observed, Problem, Sparse, datasets, factorize
from proxfactor.inits import CORNERS, NAMES, nnsvd_lrc, range_of, resized, start, uniforms

NONNEG = ("frobenius", "nonneg", "nonneg")


def planted(noise=0.0, seed=0):
    return datasets.planted(40, 30, 3, noise=noise, seed=seed)[0].clip(0)


@pytest.mark.parametrize("init", ["auto", *NAMES])
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


# ── the randomized range ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_range_is_orthonormal_and_holds_what_has_its_rank(dtype, scale):
    X = torch.tensor(planted() * scale).to(dtype)
    Q, B = range_of(Problem(X), 8)
    G = Q.double().mT @ Q.double()
    torch.testing.assert_close(G, torch.diag(G.diagonal().round()), atol=1e-5 if dtype is torch.float32 else 1e-12, rtol=0)
    assert G.diagonal().round().sum() >= 3
    torch.testing.assert_close(Q @ B, X, rtol=1e-4, atol=1e-5 * X.max().item())


def test_a_range_is_nearly_as_close_as_the_singular_vectors_and_the_same_for_sparse_data():
    X = sp.random(80, 60, 0.2, random_state=0, format="csr")
    Q, B = range_of(Problem(Sparse(X)), 20)
    s = np.linalg.svd(X.toarray(), compute_uv=False)
    assert np.linalg.norm(X - (Q @ B).numpy()) < 1.15 * np.sqrt((s[20:] ** 2).sum())
    torch.testing.assert_close(Q @ B, torch.matmul(*range_of(Problem(X.toarray()), 20)))
    one, other = range_of(Problem(X.toarray()), 20, seed=1), range_of(Problem(X.toarray()), 20, seed=1)
    assert torch.equal(one[0], other[0])


@pytest.mark.parametrize("kind", [np.asarray, Observed])
def test_the_range_of_data_with_holes_is_that_of_the_filled_data(kind):
    X = np.random.default_rng(0).random((30, 1)) @ np.random.default_rng(1).random((1, 20))
    seen = np.where(np.random.default_rng(2).random(X.shape) < 0.4, np.nan, X)
    Q, B = range_of(Problem(kind(seen)), 1)
    np.testing.assert_allclose((Q @ B).numpy(), X, rtol=0.02)


# ── NNSVD-LRC ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_default_start_is_no_further_than_a_third_from_the_data():
    r = np.random.default_rng(0)
    W, H = (r.gamma(1, 1, s) * (r.random(s) < 0.5) for s in ((2000, 20), (20, 1000)))
    dense = np.maximum(W @ H + 0.1 * (W @ H).mean() * r.standard_normal((2000, 1000)), 0)
    for X, rank in ((load_digits().data, 16), (dense.astype(np.float32), 20)):
        problem = Problem(X, *NONNEG)
        assert problem.relative_error(*start(problem, rank)) <= 0.33


def test_nnsvd_lrc_takes_a_range_that_is_there_and_touches_the_data_no_more():
    problem = Problem(planted(0.1), *NONNEG)
    pair = range_of(problem, 13)
    nothing = Problem(np.zeros((40, 30)), *NONNEG)
    for made, expected in zip(nnsvd_lrc(nothing, 3, pair), nnsvd_lrc(problem, 3), strict=True):
        torch.testing.assert_close(made, expected)


def test_every_correction_brings_nnsvd_lrc_nearer_to_the_data_of_its_rank():
    X = planted()
    problem = Problem(X, *NONNEG)
    errors = [problem.relative_error(W, H.mT) for W, H in (nnsvd_lrc(problem, 4, corrections=c) for c in (0, 1, 5, 20))]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_hard_data_gives_no_nan_and_the_components_asked_for(name, dtype):
    holed = np.where(np.eye(5) > 0, np.nan, 1.0)
    empty = np.arange(20.0).reshape(5, 4)
    empty[2], empty[:, 1] = 0, 0
    for X in (np.zeros((5, 4)), np.ones((5, 4)), np.eye(4), empty, holed, np.ones((1, 1)), np.ones((1, 6))):
        for rank in (1, 2, 7):
            for loss in ("frobenius", "kl"):
                W, H = start(Problem(X.astype(dtype), loss, "nonneg", "nonneg"), rank, name)
                assert (tuple(W.shape), tuple(H.shape)) == ((len(X), rank), (rank, X.shape[1]))
                assert W.isfinite().all()
                assert H.isfinite().all()
                assert (W > 0).any(0).all() or not np.nan_to_num(X).any()


def test_auto_means_nnsvd_where_both_sides_are_non_negative_and_most_cells_are_known():
    X = planted(0.1)
    few = np.where(np.random.default_rng(0).random(X.shape) < 0.7, np.nan, X)
    some = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
    clicks = sp.csr_array(np.where(X > 5, X, 0))
    cases = [
        (X, ("nonneg", "nonneg"), "nnsvd"),
        (X, ("nonneg + l1(0.1)", lambda x: x.clamp(min=0)), "nnsvd"),
        (some, ("nonneg", "nonneg"), "nnsvd"),
        (Observed(some), ("nonneg", "nonneg"), "nnsvd"),
        (sp.csr_array(X), ("nonneg", "nonneg"), "nnsvd"),
        (few, ("nonneg", "nonneg"), "random"),
        (Sparse(clicks, background=0.1), ("nonneg", "nonneg"), "random"),
        (X, ("free", "nonneg"), "random"),
        (X, ("box(0, 9)", "nonneg"), "random"),
        (X, ("simplex(dim=1)", "nonneg"), "random"),
        (X, (NonNegative() + Fixed(torch.ones(40, 3), torch.eye(40, 3) > 0), "nonneg"), "random"),
    ]
    for data, constraints, name in cases:
        problem = Problem(data, "frobenius", *constraints)
        assert torch.equal(start(problem, 3)[0], start(problem, 3, name)[0]), (constraints, name)


def test_a_start_for_a_loss_in_which_zeros_stay_has_none():
    W, H = start(Problem(planted(0.1), "kl", "nonneg", "nonneg"), 5)
    assert W.min() > 0
    assert H.min() > 0


@pytest.mark.parametrize("init", NAMES)
def test_the_scale_of_the_data_changes_no_bit_of_a_start(init):
    X = planted(0.1)
    plain, big = (factorize(X * f, 3, W="nonneg", H="nonneg", init=init, max_iter=1) for f in (1.0, 2.0**40))
    assert torch.equal(plain.factors[0] * 2.0**40, big.factors[0])


# ── rows of the data ──────────────────────────────────────────────────────────────────────────────────────────────────


def shares(count, k, seed):
    return np.concatenate([np.eye(k), np.random.default_rng(seed).dirichlet(np.full(k, 2.0), count - k)])


@pytest.mark.parametrize("init", ["spa", "vca"])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_corners_of_a_simplex_are_found(init, noise):
    r = np.random.default_rng(1)
    spectra, abundances = r.random((4, 30)), shares(200, 4, 2)
    X = abundances @ spectra + noise * r.standard_normal((200, 30))
    W, H = start(Problem(X, "frobenius", "simplex(dim=1)", "nonneg"), 4, init, seed=3)
    away = torch.cdist(torch.tensor(spectra), H).min(1).values
    assert away.max() <= 10 * noise + 1e-4
    assert (W.sum(1) - 1).abs().max() < 1e-9
    assert np.linalg.norm((W @ H).numpy() - X) <= 0.05 * np.linalg.norm(X)
    W, H = start(Problem(X.T, "frobenius", "nonneg", "simplex(dim=0)"), 4, init, seed=3)  # pixels in columns
    assert torch.cdist(torch.tensor(spectra), W.mT).min(1).values.max() <= 10 * noise + 1e-4


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_takes_a_row_of_each_of_some_far_clusters(seed):
    centres = 100 * np.eye(4, 20) + 50
    X = np.repeat(centres, 25, 0) + np.random.default_rng(0).random((100, 20))
    _, H = start(Problem(X, *NONNEG), 4, "kmeans++", seed)
    nearest = torch.cdist(torch.tensor(centres), H / H.amax(1, keepdim=True) * 150).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("init", CORNERS)
def test_rows_of_the_data_need_all_rows_in_one_process(init):
    class Two(type(Problem(np.ones((2, 2))).rows)):
        size = 2

    with pytest.raises(ValueError, match="in one process; use init='nnsvd'"):
        start(Problem(planted(), *NONNEG, rows=Two()), 3, init)


# ── starts that are known in part, and of another rank ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array, lambda X: np.where(np.eye(40, 30) > 0, np.nan, X)])
def test_a_factor_that_is_not_given_fits_the_one_that_is(kind):
    X, W, H = datasets.planted(40, 30, 3, seed=1)
    problem = Problem(kind(X), *NONNEG)
    for given in ((W, None), (None, H)):
        w, h = start(problem, 3, given)
        assert np.linalg.norm((w @ h).numpy() - X) < 0.02 * np.linalg.norm(X)
        for F, G in zip(given, (w, h), strict=True):
            assert F is None or np.array_equal(F, G)
    assert factorize(X, init=(W, None), W="nonneg", H="nonneg").settings["rank"] == 3
    assert factorize(X, init=(None, H), W="nonneg", H="nonneg").error < 1e-4


def test_what_is_known_of_a_factor_stays_and_the_rest_is_completed_in_its_size():
    X, W, H = datasets.planted(40, 30, 3, seed=1)
    some, known = W.copy(), np.random.default_rng(0).random(W.shape) < 0.7
    some[~known] = np.nan
    w, h = start(Problem(X, *NONNEG), 3, (some, H))
    np.testing.assert_array_equal(w[known], W[known])
    assert np.linalg.norm((w @ h).numpy() - X) < 0.02 * np.linalg.norm(X)
    only = np.full_like(W, np.nan)
    only[:, 0] = W[:, 0]
    w, h = start(Problem(X, *NONNEG), 3, (only, None))
    np.testing.assert_array_equal(w[:, 0], W[:, 0])
    assert h.isfinite().all()
    scaled = factorize(X * 2.0**30, 3, init=(only * 2.0**30, None), W="nonneg", H="nonneg", max_iter=3)
    plain = factorize(X, 3, init=(only, None), W="nonneg", H="nonneg", max_iter=3)
    np.testing.assert_array_equal(scaled.W, plain.W * 2.0**30)


def test_a_result_of_lower_rank_goes_on_with_components_from_what_it_left():
    X = planted(0.1)
    for constraints in (("nonneg", "nonneg"), ("free", "free"), ("nonneg", "simplex(dim=1)")):
        few = factorize(X, 2, W=constraints[0], H=constraints[1])
        W, H = resized(few.problem, *few.factors, 4)
        assert few.problem.value(W, H) <= few.history[-1]["loss"] * (1 + 1e-9) or constraints[1] == "simplex(dim=1)"
        more = factorize(X, 4, W=constraints[0], H=constraints[1], init=few)
        assert more.W.shape == (40, 4)
        assert more.error < few.error


def test_a_result_of_higher_rank_gives_its_largest_components():
    X = planted(0.1)
    many = factorize(X, 5, W="nonneg", H="nonneg", max_iter=20)
    W, H = many.factors
    size = W.norm(dim=0) * H.norm(dim=1)
    w, _h = resized(many.problem, W, H, 2)
    assert {tuple(c) for c in w.mT.tolist()} == {tuple(c) for c in W.mT[size.topk(2).indices].tolist()}
    assert factorize(X, 2, W="nonneg", H="nonneg", init=many).H.shape == (2, 30)
    with pytest.raises(ValueError, match="W has shape"):
        factorize(X[:20], 2, W="nonneg", H="nonneg", init=many)
