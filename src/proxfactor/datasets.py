"""Data to try things on: seeded problems whose factors are known, and the handwritten digits that scikit-learn carries."""

from __future__ import annotations

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
