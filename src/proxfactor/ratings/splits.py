"""Ratings in two parts: what is learned from, and what is kept to judge by. Together they are the input, each row once.

Each split is a queue of the cells and a rule that takes its first ones: of all, or of every user. A queue by chance is
drawn over the rows as they stand in the table, so that what an id looks like decides nothing.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from ..io.cells import counted
from ..io.formats import one_of
from .tables import ROLES, Ratings, Wide, cells_of, read_ratings, source_of

HOW = ("random", "per-user", "last", "time", "users")


def split(
    data: Any,
    how: str | None = None,
    size: float | int | None = None,
    *,
    user: Any = None,
    item: Any = None,
    rating: Any = None,
    time: Any = None,
    missing: str | None = None,
    hidden: float | int = 0.2,
    seed: int = 0,
) -> tuple[Any, ...]:
    """(train, test), in the form that ``data`` has: two frames for a frame, with all its columns and its rows in their order.

    ``how`` is "time" where ``time`` names a column (or a Ratings has times), else "random":

    random    ``size`` of all rows, by chance: the first of ``numpy.random.default_rng(seed).permutation(rows)``
    per-user  ``size`` of every user's rows, by chance
    last      ``size`` of every user's rows, the latest ones
    time      ``size`` of all rows, the latest ones
    users     strong generalisation: ``size`` of the users leave train wholly. (train, known, hidden): their history, and
              ``hidden`` of each one's rows, by chance, to be predicted from it; at least one row in each

    ``size`` is a share (0.1 by default) or a whole number (1 by default for "last"); a share of a number is rounded down. A
    user keeps a row in train at least: one with no more rows than are asked for stays there whole, and for "users" one
    with a single row. Of equal times the later row counts as the later. Files and dicts give arrow tables, arrays arrays, a
    wide table, like a Ratings, two Ratings; the columns are named as in `read_ratings`.

    Raises ValueError for a pair that occurs twice (both parts could get it; merge it with ``read_ratings(…, duplicates=)``,
    and split what comes out), for a part that would be empty, and for "time" and "last" without a time.

    >>> train, test = split((["al", "al", "bo", "bo"], [1, 2, 1, 2], [5, 4, 2, 1]), size=0.25)
    >>> test
    (array(['bo'], dtype='<U2'), array([1]), array([2]))
    """
    named = {k: v for k, v in zip(ROLES, (user, item, rating, time), strict=False) if v is not None}
    if isinstance(data, Ratings):
        source: Any = None
        ratings = read_ratings(data, **named)
    else:
        source = source_of(data, missing)
        ratings = cells_of(source, named, "error")
    if not len(ratings):
        raise ValueError("there are no ratings to split")
    how = ("random" if ratings.time is None else "time") if how is None else how
    one_of("how", how, *HOW)
    size = (1 if how == "last" else 0.1) if size is None else size
    _check_size("size", size)
    _check_size("hidden", hidden)
    if how in ("last", "time") and ratings.time is None:
        raise ValueError(f"how={how!r} needs to know when: name the column, as in time='timestamp'")
    masks = _by_users(ratings, size, hidden, seed) if how == "users" else _by_cells(ratings, how, size, seed)
    if source is None or isinstance(source, Wide):
        return tuple(ratings.take(mask) for mask in masks)
    return tuple(source.part(np.sort(ratings.order[mask])) for mask in masks)


def _check_size(name: str, size: Any) -> None:
    whole = isinstance(size, Integral) and not isinstance(size, bool)
    if not (size >= 1 if whole else isinstance(size, float | np.floating) and 0 < size < 1):
        raise ValueError(f"{name} is {size!r}; it must be a share between 0 and 1, such as 0.1, or a whole number from 1 on")


def _wanted(size: Any, counts: Any) -> Any:
    """How many of each count are asked for; a share is rounded down."""
    return np.full_like(counts, size) if size >= 1 else np.floor(counts * size + 1e-9).astype(np.int64)  # 0.1 * 30 may be 2.99…


def _by_cells(r: Ratings, how: str, size: Any, seed: int) -> list[np.ndarray]:
    """Masks over the cells: train and test."""
    queue = _latest(r) if how in ("last", "time") else _drawn(r, seed)
    if how in ("random", "time"):
        test = np.zeros(len(r), dtype=bool)
        test[queue[: int(_wanted(size, np.int64(len(r))))]] = True
    else:
        owned = np.diff(r.indptr)
        wanted = _wanted(size, owned)
        test = _first_of_each(r, queue, np.where(wanted < owned, wanted, 0))
    if not test.any():
        of = f"{len(r)} ratings" if how in ("random", "time") else f"any user's ratings (at most {owned.max()}), one left in train,"
        raise ValueError(f"the test set would be empty: size={size} of {of} is none; give a larger share or another number")
    if test.all():
        raise ValueError(f"train would be empty: size={size} of {len(r)} ratings is all of them; give a smaller size")
    return [~test, test]


def _by_users(r: Ratings, size: Any, hidden: Any, seed: int) -> list[np.ndarray]:
    """Masks over the cells: train, and what is known and what is hidden of the users that are not in it."""
    owned = np.diff(r.indptr)
    seen, first = np.unique(r.user[_in_rows(r)], return_index=True)
    able = seen[np.argsort(first)]  # in the order in which the table names them
    able = able[owned[able] > 1]
    count = int(_wanted(size, np.int64(len(seen))))
    if not 0 < count <= len(able) or count == len(seen):
        raise ValueError(
            f"size={size} of {len(seen)} users is {count}, and some must stay in train: "
            f"{len(able)} of them have the two ratings that it takes to leave it; give another size"
        )
    out = np.zeros(len(owned), dtype=bool)
    out[np.random.default_rng([seed, 1]).permutation(able)[:count]] = True
    wanted = np.clip(_wanted(hidden, owned), 1, np.maximum(owned - 1, 1))
    kept = _first_of_each(r, _drawn(r, seed), np.where(out, wanted, 0))
    return [~out[r.user], out[r.user] & ~kept, kept]


# queues of cells, and the rule that takes the first ones of every user


def _in_rows(r: Ratings) -> np.ndarray:
    """The cells in the order of the table's rows."""
    return counted(r.order, int(r.order.max()) + 1)


def _drawn(r: Ratings, seed: int) -> np.ndarray:
    return _in_rows(r)[np.random.default_rng(seed).permutation(len(r))]


def _latest(r: Ratings) -> np.ndarray:
    """From the last to the first; of equal times the later row is the later."""
    rows = _in_rows(r)
    return rows[np.argsort(r.time[rows], kind="stable")][::-1]  # type: ignore[index]


def _first_of_each(r: Ratings, queue: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """A mask: the first ``wanted`` cells of each user in the queue."""
    queue = queue[counted(r.user[queue], len(r.users))]  # by user, each one's in the order of the queue
    place = np.arange(len(r)) - r.indptr[r.user]  # the cells are sorted by user too
    mask = np.zeros(len(r), dtype=bool)
    mask[queue[place < wanted[r.user]]] = True
    return mask
