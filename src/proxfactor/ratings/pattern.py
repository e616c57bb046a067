"""Who rated what, whatever the rating: what of it is known of users and of items before a rating is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from scipy import sparse

from .linear import right_vectors
from .tables import Ratings


@dataclass(frozen=True, eq=False)
class Pattern:
    """What is known of users and of items by who rated what: φ (rows, d), a one first; zeros where there is no rating.

    With N the matrix of ones scaled by the roots of its margins, and V (n, r) its right singular vectors but the first, which
    is the margins again: users have log(1 + n_u) and N V, items log(1 + n_i) and V, each column in units of its deviation.
    """

    basis: np.ndarray
    """(n, r): V over the roots of the items' margins, so that users who come later have their N V."""
    center: np.ndarray
    width: np.ndarray
    users: np.ndarray = None  # type: ignore[assignment]
    items: np.ndarray = None  # type: ignore[assignment]

    @classmethod
    def of(cls, r: Ratings, rank: int) -> Pattern:
        """The pattern with ``rank`` vectors, or as many as there are; kept as long as the ratings are."""
        known = _KNOWN.setdefault(r, {})
        if rank not in known:
            known[rank] = cls._of(r.weighed(), rank)
        return known[rank]

    @classmethod
    def _of(cls, r: Ratings, rank: int) -> Pattern:
        by_user, by_item = (np.bincount(code, minlength=n).astype(float) for code, n in zip((r.user, r.item), r.shape, strict=True))
        left, right = (1 / np.sqrt(np.maximum(n, 1)) for n in (by_user, by_item))
        V = right_vectors(sparse.csr_array((left[r.user] * right[r.item], (r.user, r.item)), shape=r.shape), rank + 1)[:, 1:]
        basis = right[:, None] * V
        items, _, _ = _in_deviations(np.column_stack([np.log1p(by_item), V]), by_item > 0)
        users, center, width = _in_deviations(_raw(r, basis), by_user > 0)
        return cls(basis, center, width, users, items)

    def known(self, r: Ratings) -> np.ndarray:
        """φ of the users of other ratings."""
        r = r.weighed()
        return _in_deviations(_raw(r, self.basis), np.bincount(r.user, minlength=len(r.users)) > 0, self.center, self.width)[0]


def _raw(r: Ratings, basis: np.ndarray) -> np.ndarray:
    count = np.bincount(r.user, minlength=len(r.users))
    ones = sparse.csr_array((np.ones(len(r)), r.item, r.indptr), shape=r.shape)
    return np.column_stack([np.log1p(count), (ones @ basis) / np.sqrt(np.maximum(count, 1))[:, None]])


def _in_deviations(raw: np.ndarray, there: np.ndarray, center: Any = None, width: Any = None) -> tuple[np.ndarray, ...]:
    if center is None:
        center, width = (f(raw[there], 0) if there.any() else np.zeros(raw.shape[1]) for f in (np.mean, np.std))
        width = np.where(width > 1e-9 * (1 + np.abs(center)), width, np.inf)  # what is the same for all says nothing
    return np.column_stack([np.ones(len(raw)), np.where(there[:, None], (raw - center) / width, 0)]), center, width


_KNOWN: WeakKeyDictionary[Ratings, dict[int, Pattern]] = WeakKeyDictionary()
"""A search fits the same ratings many times."""
