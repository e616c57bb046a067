"""Data to try things on: seeded problems whose factors are known, and the handwritten digits that scikit-learn carries."""

from __future__ import annotations

from typing import Any

import numpy as np

from .matrix import Dense, Observed, Table

DIGITS_IMAGE = (8, 8)
"""The shape of one digit, a row of ``digits()``."""


def digits() -> Table:
    """1,797 handwritten digits of 8 x 8 pixels, grey values 0 to 16, a row each. (Alpaydin and Kaynak 1998, from scikit-learn.)

    >>> digits().matrix
    Dense(1797 x 64, 115008 stored, float64)
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = np.array([f"{i}: a {label}" for i, label in enumerate(data.target)])
    cols = np.array([f"pixel {i},{j}" for i in range(DIGITS_IMAGE[0]) for j in range(DIGITS_IMAGE[1])])
    return Table(Dense(data.data), rows, cols)


def planted(
    m: int, n: int, rank: int, *, noise: float = 0.0, missing: float = 0.0, zeros: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (m, n) = W H + noise with non-negative factors that are known: (X, W, H).

    Entries of W and H are gamma(1, 1) numbers, a share ``zeros`` of them 0; noise is Gaussian, its standard deviation a
    multiple of mean(WH); a share ``missing`` of the cells of X is NaN.

    >>> X, W, H = planted(30, 20, 3)
    >>> bool(np.allclose(X, W @ H))
    True
    """
    r = np.random.default_rng(seed)
    W, H = (r.gamma(1.0, 1.0, shape) * (r.random(shape) >= zeros) for shape in ((m, rank), (rank, n)))
    X = W @ H
    X = X + noise * X.mean() * r.standard_normal(X.shape)
    X[r.random(X.shape) < missing] = np.nan
    return X, W, H


def ratings(
    users: int = 300, items: int = 200, tastes: int = 4, *, observed: float = 0.2, noise: float = 0.25, seed: int = 0
) -> tuple[Table, np.ndarray]:
    """A table of ratings with holes and the truth behind it: (Table of the observed ones, (users, items) without noise).

    Every user is a mixture of a few tastes, every taste rates every item between 1 and 5, so that the truth has rank
    ``tastes`` and lies between 1 and 5; noise is Gaussian with that standard deviation.

    >>> table, truth = ratings()
    >>> table.matrix.shape == truth.shape, bool((truth >= 1).all() and (truth <= 5).all())
    (True, True)
    """
    r = np.random.default_rng(seed)
    truth = r.dirichlet(np.full(tastes, 0.3), users) @ r.uniform(1, 5, (tastes, items))
    seen = r.random(truth.shape) < observed
    table = np.where(seen, truth + noise * r.standard_normal(truth.shape), np.nan)
    names = (np.array([f"{what} {i + 1}" for i in range(count)]) for what, count in (("user", users), ("item", items)))
    return Table(Observed(table), *names), truth


_GENRES = {
    "space": "Orbit Nebula Comet Station Void",
    "love": "Letter Kiss Summer Wedding Garden",
    "crime": "Alibi Heist Witness Detective Verdict",
    "horror": "Crypt Whisper Shadow Cellar Howl",
    "comedy": "Aunt Holiday Mixup Parrot Neighbour",
    "western": "Canyon Sheriff Saddle Prairie Duel",
}
_LOOKS = "Quiet Last Golden Broken Secret Long Crimson Distant Second Empty Silver Hidden Burning Gentle Lonely Final"


def films(users: int = 600, films: int = 400, *, mean: float = 40.0, seed: int = 0) -> tuple[Any, Any]:
    """Ratings as people give them: (user, film, rating, time) and (film, title), two pyarrow tables.

    Users like one or two of six genres, and what they see are popular films (the k-th with a weight of k^-0.8) of the genres
    that they like; how many is lognormal with that mean. A rating is 3.4 + how strict the user is + how good the film is +
    how well the genre suits + noise, a whole number from 1 to 5; ``time`` is in seconds. Titles tell the genre.

    >>> ratings, titles = films()
    >>> ratings.column_names, titles["title"][0].as_py()
    (['user', 'film', 'rating', 'time'], 'The Secret Sheriff (1970)')
    """
    import pyarrow as pa

    r = np.random.default_rng(seed)
    genre = r.integers(len(_GENRES), size=films)
    likes = r.dirichlet(np.full(len(_GENRES), 0.3), users)
    nouns, looks = [words.split() for words in _GENRES.values()], _LOOKS.split()
    titles = [f"The {r.choice(looks)} {r.choice(nouns[g])} ({r.integers(1950, 2020)})" for g in genre]
    popular = np.log((1.0 + r.permutation(films)) ** -0.8)
    suits = likes[:, genre]
    wish = popular + np.log(0.05 + suits) + r.gumbel(size=(users, films))
    count = np.clip(np.rint(mean * r.lognormal(-0.25, 0.7, users)), 5, films // 2).astype(int)
    rank = np.argsort(np.argsort(-wish, axis=1), axis=1)
    user, film = np.nonzero(rank < count[:, None])
    truth = 3.4 + 0.4 * r.standard_normal((users, 1)) + 0.4 * r.standard_normal(films)
    truth = truth + 1.6 * (suits - suits.mean(1, keepdims=True))
    rating = np.clip(np.rint(truth + 0.8 * r.standard_normal(truth.shape))[user, film], 1, 5)
    time = 1.5e9 + 86400.0 * np.floor(r.uniform(0, 900, users))[user] + np.floor(r.uniform(0, 1e7, len(user)))
    order = np.argsort(time, kind="stable")
    columns = (user[order] + 1, film[order] + 1, rating[order], time[order].astype(np.int64))
    table = pa.table(dict(zip(("user", "film", "rating", "time"), map(pa.array, columns), strict=True)))
    return table, pa.table({"film": pa.array(np.arange(1, films + 1)), "title": pa.array(titles)})
