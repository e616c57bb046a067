"""Data with a known truth: what is promised of it holds."""

import numpy as np
import pytest

from proxfactor import datasets


def test_the_digits_have_a_name_for_each_row_and_pixel():
    table = datasets.digits()
    assert table.matrix.shape == (1797, 64) == (len(table.rows), len(table.cols))
    assert np.prod(datasets.DIGITS_IMAGE) == 64
    assert table.rows[0] == "0: a 0"


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_a_planted_problem_is_its_factors_with_the_share_of_holes_asked_for(missing):
    X, W, H = datasets.planted(200, 100, 4, missing=missing, zeros=0.25, seed=1)
    known = ~np.isnan(X)
    np.testing.assert_allclose(X[known], (W @ H)[known])
    assert known.mean() == pytest.approx(1 - missing, abs=0.02)
    assert (W == 0).mean() == pytest.approx(0.25, abs=0.06)


def test_noise_has_the_size_asked_for_and_the_seed_decides_everything():
    X, W, H = datasets.planted(200, 100, 4, noise=0.1, seed=1)
    assert (X - W @ H).std() == pytest.approx(0.1 * (W @ H).mean(), rel=0.05)
    np.testing.assert_array_equal(X, datasets.planted(200, 100, 4, noise=0.1, seed=1)[0])


def test_ratings_have_the_rank_the_range_and_the_share_that_is_promised():
    table, truth = datasets.ratings(80, 60, 3, observed=0.3, noise=0.1, seed=2)
    assert np.linalg.matrix_rank(truth) == 3
    assert truth.min() >= 1
    assert truth.max() <= 5
    X = table.matrix
    assert X.entries().numel() == pytest.approx(0.3 * truth.size, rel=0.1)
    assert table.rows[-1] == "user 80"


def test_films_are_rated_by_those_who_like_the_genre_and_the_popular_ones_most():
    ratings, titles = datasets.films(300, 200, mean=30, seed=1)
    again, _ = datasets.films(300, 200, mean=30, seed=1)
    assert ratings.equals(again)
    user, film, rating, time = (ratings[name].to_numpy() for name in ratings.column_names)
    assert len(set(zip(user, film, strict=True))) == len(user)
    assert set(rating) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert (np.diff(time) >= 0).all()
    assert len(user) == pytest.approx(300 * 30, rel=0.15)
    seen = np.sort(np.bincount(film, minlength=201)[1:])
    assert seen[-20:].sum() > 4 * seen[:100].sum() / 5
    assert len(titles) == 200
