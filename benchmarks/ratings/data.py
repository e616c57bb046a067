"""The data: tables with a long tail that a seed makes, and MovieLens 100K from a file of yours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

TABLES = {  # users, items, cells
    "tiny": (300, 200, 6_000),
    "G": (6_040, 3_700, 1_000_000),
    "wide": (10_000, 5_000, 1_000_000),
    "20M": (138_493, 26_744, 20_000_000),
    "shop": (100_000, 20_000, 5_000_000),
}


def table(name: str, seed: int = 0) -> csr_matrix:
    """A table of ratings 1 to 5, float32: users and items drawn with probabilities ∝ rank^-0.8, pairs without repeats.

    >>> table("tiny").nnz
    6000
    """
    m, n, size = TABLES[name]
    draw = np.random.default_rng(seed)
    p, q = (np.arange(1, count + 1) ** -0.8 for count in (m, n))
    keys = np.zeros(0, np.int64)
    while len(keys) < size:
        users, items = (draw.choice(len(w), size, p=w / w.sum()) for w in (p, q))
        keys = np.concatenate([keys, users * n + items])
        keys = keys[np.sort(np.unique(keys, return_index=True)[1])]
    values = draw.integers(1, 6, size).astype(np.float32)
    return csr_matrix((values, np.divmod(keys[:size], n)), (m, n))


@dataclass(frozen=True)
class Cells:
    """Ratings, or a part of them: positions of users and items, out of m and n, and values."""

    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.value)

    def take(self, mask: Any) -> Cells:
        return Cells(self.user[mask], self.item[mask], self.value[mask], self.shape)

    def csr(self) -> csr_matrix:
        return csr_matrix((self.value.astype(np.float32), (self.user, self.item)), self.shape)

    def split(self, seed: Any) -> tuple[Cells, Cells]:
        """(train, test): the first tenth of ``default_rng(seed).permutation`` is the test set, all in the order of the file."""
        test = np.zeros(len(self), bool)
        test[np.random.default_rng(seed).permutation(len(self))[: len(self) // 10]] = True
        return self.take(~test), self.take(test)

    def split_users(self, seed: Any, share: float = 0.2) -> tuple[Cells, Cells]:
        """(train, test): of each user that share of the cells, rounded down, by chance."""
        queue = np.random.default_rng(seed).permutation(len(self))
        queue = queue[np.argsort(self.user[queue], kind="stable")]
        owned = np.bincount(self.user, minlength=self.shape[0])
        place = np.arange(len(self)) - np.repeat(np.cumsum(owned) - owned, owned)
        test = np.zeros(len(self), bool)
        test[queue[place < np.floor(owned * share)[self.user[queue]]]] = True
        return self.take(~test), self.take(test)

    def liked(self) -> Cells:
        """The ratings of 4 and more of the users who have five of them, and the items that are left, counted anew."""
        some = self.take(self.value >= 4)
        some = some.take(np.bincount(some.user, minlength=self.shape[0])[some.user] >= 5)
        users, user = np.unique(some.user, return_inverse=True)
        items, item = np.unique(some.item, return_inverse=True)
        return Cells(user, item, np.ones(len(user)), (len(users), len(items)))


@cache
def ratings(name: str) -> Cells:
    """``ml-100k``: the file that BENCH_RATINGS names; ``tiny``: three tastes and noise, rounded, in a table with a long tail."""
    if name == "ml-100k":
        user, item, value = np.loadtxt(Path(os.environ["BENCH_RATINGS"]), dtype=np.int64, usecols=(0, 1, 2)).T
        (users, user), (items, item) = (np.unique(ids, return_inverse=True) for ids in (user, item))
        return Cells(user, item, value.astype(np.float64), (len(users), len(items)))
    X, draw = table(name).tocoo(), np.random.default_rng(1)
    order = draw.permutation(X.nnz)
    user, item = X.row[order], X.col[order]
    W, H = draw.standard_normal((X.shape[0], 3)), draw.standard_normal((X.shape[1], 3))
    value = 3.5 + 0.6 * (W[user] * H[item]).sum(1) + 0.5 * H[item, 0] + 0.5 * draw.standard_normal(X.nnz)
    return Cells(user, item, np.clip(np.rint(value), 1, 5), X.shape)
