"""Closed forms, against dense algebra and scikit-learn."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Ridge

from proxfactor import matrix
from proxfactor.ratings import EASE, GFCF, Bias, Popularity, PureSVD, linear


def cells(seed=0, m=30, n=12, share=0.4):
    r = np.random.default_rng(seed)
    has = r.random((m, n)) < share
    has[np.arange(m), np.arange(m) % n] = True
    user, item = np.nonzero(has)
    return user, item, r.integers(1, 6, len(user)).astype(float), r.random(len(user)) + 0.1


def weighted(model, user, item, rating, weight=None, **more):
    table = {"user": user, "item": item, "rating": rating} | ({} if weight is None else {"weight": weight}) | more
    return model.fit(table, **({} if weight is None else {"weight": "weight"}), **({"time": "time"} if more else {}))


def dense(user, item, value, m=30, n=12):
    return sparse.coo_array((value, (user, item)), shape=(m, n)).toarray()


# Popularity


def test_popularity_is_the_share_of_users_who_have_an_item():
    user, item, rating, w = cells()
    M = weighted(Popularity(), user, item, rating).model_
    np.testing.assert_allclose(M.c, np.bincount(item) / 30, rtol=1e-6)
    M = weighted(Popularity(), user, item, rating, w).model_
    np.testing.assert_allclose(M.c, np.bincount(item, w) / 30, rtol=1e-6)


def test_an_old_rating_counts_half_after_each_half_life():
    table = {"user": ["a", "b", "c"], "item": [1, 1, 2], "rating": [1, 1, 1], "time": [0.0, 20.0, 10.0]}
    M = Popularity(half_life=10.0).fit(table, time="time").model_
    np.testing.assert_allclose(3 * M.c, [0.25 + 1, 0.5])
    with pytest.raises(ValueError, match="needs to know when: name the column"):
        Popularity(half_life=10.0).fit(([1], [1]))


# Bias


@pytest.mark.parametrize("reg", [(0.5, 2.0), (30.0, 0.1), (0.0, 0.0)])
def test_bias_solves_the_normal_equations(reg):
    user, item, rating, w = cells()
    M = weighted(Bias(reg=reg), user, item, rating, w).model_
    A = np.zeros((len(user), 42))
    A[np.arange(len(user)), user] = A[np.arange(len(user)), 30 + item] = 1
    left = A.T @ (w * (rating - np.average(rating, weights=w)))
    x = np.linalg.pinv(A.T @ (w[:, None] * A) + np.diag(np.repeat(reg, [30, 12]))) @ left
    np.testing.assert_allclose(M.b[:, None] + M.c, x[:30, None] + x[30:], atol=1e-6)


def test_bias_is_a_ridge_regression_on_who_and_what():
    user, item, rating, w = cells(1)
    A = np.zeros((len(user), 42))
    A[np.arange(len(user)), user] = A[np.arange(len(user)), 30 + item] = 1
    mean = np.average(rating, weights=w)
    ridge = Ridge(alpha=3.0, fit_intercept=False).fit(A, rating - mean, sample_weight=w)
    M = weighted(Bias(reg=3.0), user, item, rating, w).model_
    np.testing.assert_allclose(np.concatenate([M.b, M.c]), ridge.coef_, atol=1e-6)
    assert M.mean == pytest.approx(mean)


def test_bias_finds_the_variances_that_ratings_were_drawn_with():
    r = np.random.default_rng(0)
    m, n = 400, 300
    user, item = np.nonzero(r.random((m, n)) < 0.1)
    rating = 3 + 0.5 * r.standard_normal(m)[user] + 0.8 * r.standard_normal(n)[item] + 1.2 * r.standard_normal(len(user))
    reg = Bias().fit((user, item, rating)).model_.info["reg"]
    np.testing.assert_allclose(reg, [1.44 / 0.25, 1.44 / 0.64], rtol=0.2)


def test_bias_of_noise_alone_is_next_to_nothing():
    r = np.random.default_rng(0)
    user, item = np.nonzero(r.random((200, 100)) < 0.2)
    M = Bias().fit((user, item, r.standard_normal(len(user)))).model_
    assert max(np.abs(M.b).max(), np.abs(M.c).max()) < 0.15


@pytest.mark.parametrize("reg", [-1.0, (1.0, np.nan), True, "much"])
def test_bias_refuses_a_reg_that_is_none(reg):
    with pytest.raises(ValueError, match="must be a number of at least 0"):
        Bias(reg=reg).fit(([1, 2], [1, 2], [1, 2]))


# EASE


@pytest.mark.parametrize("values", [False, True])
def test_each_column_of_ease_is_a_ridge_regression_on_the_other_items(values):
    user, item, rating, w = cells(2)
    B = weighted(EASE(reg=4.0, values=values), user, item, rating, w).model_.Y
    R = dense(user, item, w * rating if values else w)
    lam = 4.0 * np.mean(R[R != 0] ** 2)
    for j in range(12):
        others = np.delete(np.arange(12), j)
        ridge = Ridge(alpha=lam, fit_intercept=False).fit(R[:, others], R[:, j])
        np.testing.assert_allclose(B[others, j], ridge.coef_, atol=1e-6)
        assert B[j, j] == 0


def test_ease_scores_a_user_by_the_items_seen():
    user, item, rating, _ = cells(3)
    model = EASE(reg=4.0).fit((user, item, rating))
    R = dense(user, item, np.ones(len(user)))
    p = model.predict(np.repeat(np.arange(30), 12), np.tile(np.arange(12), 30)).reshape(30, 12)
    np.testing.assert_allclose(p, R @ model.model_.Y, atol=1e-6)


def test_ease_in_blocks_is_the_same(monkeypatch):
    user, item, rating, _ = cells(3)
    whole = EASE(reg=4.0).fit((user, item, rating)).model_.Y
    monkeypatch.setattr(linear, "_blocks", lambda n: [slice(0, 5), slice(5, n)])
    np.testing.assert_array_equal(EASE(reg=4.0).fit((user, item, rating)).model_.Y, whole)


@pytest.mark.parametrize("model", [EASE(), GFCF()], ids=repr)
def test_too_many_items_are_refused_before_anything_is_allocated(model, monkeypatch):
    monkeypatch.setattr(matrix, "free_memory", lambda: 2**30)
    R = sparse.coo_array(([1.0], ([0], [10**6])), shape=(2, 10**6 + 1))
    with pytest.raises(MemoryError, match=r"items by items.* take PureSVD or ImplicitMF"):
        model.fit(R)


# spectral


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
@pytest.mark.parametrize("rank", [1, 5, 30, 40, 99])
def test_right_vectors_are_those_of_the_dense_decomposition(shape, rank):
    R = sparse.random_array(shape, density=0.3, rng=np.random.default_rng(0), format="csr")
    V = linear.right_vectors(R, rank)
    _, _, Vt = np.linalg.svd(R.toarray())
    k = min(rank, 40)
    assert V.shape == (shape[1], k)
    np.testing.assert_allclose(np.abs(np.sum(V.T * Vt[:k], axis=1)), 1, atol=1e-8)


def test_right_vectors_of_few_dimensions_are_few():
    R = sparse.csr_array(np.outer(np.arange(1, 6), np.ones(7)))
    assert linear.right_vectors(R, 4).shape == (7, 1)


@pytest.mark.parametrize("values", [False, True])
def test_pure_svd_is_the_projection_on_the_first_right_vectors(values):
    user, item, rating, w = cells(4)
    model = weighted(PureSVD(rank=3, values=values), user, item, rating, w)
    R = dense(user, item, w * rating if values else w)
    V = np.linalg.svd(R)[2][:3].T
    np.testing.assert_allclose(model.model_.X @ model.model_.Y.T, R @ V @ V.T, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 7])
def test_gfcf_is_its_formula(rank):
    user, item, rating, _ = cells(5)
    model = GFCF(rank=rank, alpha=0.7).fit((user, item, rating))
    R = dense(user, item, np.ones(len(user)))
    du, di = R.sum(1), R.sum(0)
    normed = R / np.sqrt(np.outer(du, di))
    V = np.linalg.svd(normed)[2][:rank].T
    B = normed.T @ normed + 0.7 * np.diag(di**-0.5) @ V @ V.T @ np.diag(di**0.5)
    np.testing.assert_allclose(model.model_.Y, B, atol=1e-5)


def test_gfcf_refuses_negative_numbers():
    with pytest.raises(ValueError, match="not negative; leave values=False"):
        GFCF(values=True).fit(([1, 1, 2], [1, 2, 2], [1.0, -1.0, 1.0]))


@pytest.mark.parametrize(
    "model", [EASE(reg=0.0), GFCF(rank=0), GFCF(alpha=-1.0), PureSVD(rank=0), Popularity(half_life=0.0)], ids=repr
)
def test_options_out_of_range_are_refused(model):
    with pytest.raises(ValueError, match="it must be a number"):
        model.fit({"user": [1], "item": [1], "time": [3.0]}, time="time")
