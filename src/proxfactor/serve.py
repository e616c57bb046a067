"""A fitted recommender's answers, with numpy alone: predictions, the best items, neighbours, and the folder that keeps it.

A process that only serves imports this module and neither torch nor anything else of the library.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

FORMAT = 1

BYTES = 2**26
"""What the scores of the users that are ranked at a time may take, all threads together."""

Unknown = Literal["error", "fallback"]


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted recommender as arrays: score(u, i) = mean + b_u + c_i + x_u · y_i, clipped to low and high where they are given.

    A linear item model has no X: x_u is the user's own row of seen values, Y is (n, n), and Y[j, i] is what having seen j
    says of i. With ``draws`` > 1, X and Y hold that many posterior draws side by side (k = draws · rank), X divided by
    their number, so that X Yᵀ is the mean. Users and items are sorted ids, int64 or text. Where the user has no data the
    score is ``fallback``, and answers say so. Raises ValueError where shapes do not fit or a number is not finite.

    >>> model = Model(np.array([1, 2]), np.array(["a", "b", "c"], object), X=[[1.0], [2.0]], Y=[[1.0], [2.0], [3.0]],
    ...     indptr=[0, 1, 1], indices=[2], values=[5.0], fallback=[0.0, 1.0, 0.5])
    >>> model.recommend(1, n=5).to_pylist()[0]
    {'user': 1, 'item': 'b', 'score': 2.0, 'rank': 1, 'fallback': False}
    """

    users: np.ndarray  # (m,)
    items: np.ndarray  # (n,)
    X: Any = None  # (m, k) float32
    Y: Any = None  # (n, k) float32
    mean: float = 0.0
    b: Any = None  # (m,), None for zeros
    c: Any = None  # (n,)
    indptr: Any = None  # seen cells by user: int64 (m + 1,), int32 and float32 (cells,); None for none
    indices: Any = None
    values: Any = None
    fallback: Any = None  # (n,), None for mean + c
    low: float | None = None
    high: float | None = None
    draws: int = 1
    noise: Any = None  # (m,) variance of a rating about its score; with it predict knows a standard deviation
    noise_items: Any = None  # (n,) what an item multiplies that variance by, None for ones
    b_draws: Any = None  # (m, draws) the draws of b less their mean b, None for zeros
    c_draws: Any = None  # (n, draws)
    info: dict[str, Any] = field(default_factory=dict)  # class, options, names of columns: what JSON can hold
    extra: dict[str, np.ndarray] = field(default_factory=dict)  # arrays that only another fit needs

    def __post_init__(self) -> None:
        m, n = len(self.users), len(self.items)
        X, Y = self.X, np.zeros((n, 0)) if self.Y is None else self.Y
        k = n if X is None else np.shape(Y)[-1]
        wanted = {"Y": (n, k), "b": (m,), "c": (n,), "fallback": (n,)}
        maybe = {"X": (m, k), "noise": (m,), "noise_items": (n,), "b_draws": (m, self.draws), "c_draws": (n, self.draws)}
        wanted |= {name: shape for name, shape in maybe.items() if getattr(self, name) is not None}
        have = {name: getattr(self, name) for name in wanted} | {"Y": Y}
        have["c"] = np.zeros(n) if self.c is None else self.c
        have["b"] = np.zeros(m) if self.b is None else self.b
        have["fallback"] = self.mean + np.asarray(have["c"]) if self.fallback is None else self.fallback
        for name, shape in wanted.items():
            array = np.ascontiguousarray(have[name], np.float32)
            if array.shape != shape:
                raise ValueError(f"{name} is {array.shape}; with {m} users, {n} items and {k} factors it must be {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds numbers that are not finite; the fit has failed, or they do not fit into float32")
            object.__setattr__(self, name, array)
        cells = (np.zeros(m + 1), [], []) if self.indptr is None else (self.indptr, self.indices, self.values)
        for name, array, dtype in zip(("indptr", "indices", "values"), cells, (np.int64, np.int32, np.float32), strict=True):
            object.__setattr__(self, name, np.ascontiguousarray(array, dtype))
        if len(self.indptr) != m + 1 or not self.indptr[-1] == len(self.indices) == len(self.values):
            raise ValueError("indptr, indices and values are no rows of the users' seen cells")
        if (np.diff(self.indptr) < 0).any() or (len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < n):
            raise ValueError(f"the seen cells point at items beyond the {n} that there are, or at rows that end before they begin")
        if self.draws < 1 or k % self.draws:
            raise ValueError(f"{k} factors cannot hold {self.draws} draws of equal rank")

    # what is asked

    def predict(self, users: Any, items: Any, *, return_std: bool = False, unknown: Unknown = "error") -> Any:
        """The scores of pairs: arrays of ids of one length, or one id against many; two single ids give a number.

        With ``return_std`` also the standard deviation of a new rating, √(variance over the draws + noise_u); where there
        is no data of the user or item, that of the seen ratings about the fallback. With ``unknown="fallback"`` a user
        never seen gets the fallback, an item never seen mean + b_u; else both raise ValueError. Raises ValueError for
        ``return_std`` of a model without noise.
        """
        if return_std and self.noise is None:
            raise ValueError("this model knows no standard deviations; BayesianMF does")
        u, i = codes_of(users, self.users, "user", unknown), codes_of(items, self.items, "item", unknown)
        if u.ndim and i.ndim and u.shape != i.shape:
            raise ValueError(f"{u.size} users and {i.size} items are no pairs; give as many of both")
        u, i = np.broadcast_arrays(u, i)
        score, std = np.empty(u.size, np.float32), np.empty(u.size, np.float32)
        step = max(1, BYTES // (16 * max(1, self.Y.shape[1])))
        for first in range(0, u.size, step):
            part = slice(first, first + step)
            score[part], std[part] = self._pairs(u.ravel()[part], i.ravel()[part], return_std)
        if self.low is not None or self.high is not None:
            np.clip(score, self.low, self.high, out=score)
        if not u.ndim:
            return (float(score[0]), float(std[0])) if return_std else float(score[0])
        return (score.reshape(u.shape), std.reshape(u.shape)) if return_std else score.reshape(u.shape)

    def recommend(
        self,
        users: Any = None,
        n: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Any = None,
        filter: Any = None,
        unknown: Unknown = "error",
    ) -> Any:
        """The n best items of each user, best first, as a pyarrow table: user, item, score, rank (from 1), fallback.

        ``users``: ids, one or many, or None for all. ``candidates``: the item ids to choose from, or a dict of them by
        user. ``filter``: item ids never to recommend, or a function of an array of item ids that says which may be.
        ``fallback`` marks users without data, and with ``unknown="fallback"`` also those never seen, which otherwise raise
        ValueError. Equal scores come in the order of the ids. Where fewer than n items are left there are fewer rows. At
        most 64 MB of scores are held at a time.
        """
        if n < 1:
            raise ValueError(f"n is {n}; ask for at least one item")
        own = candidates if isinstance(candidates, Mapping) else None
        if users is None and own is not None:
            users = list(own)
        rows = np.arange(len(self.users)) if users is None else codes_of(users, self.users, "user", unknown).ravel()
        allowed = None if own is None else self._candidates(own, np.atleast_1d(np.asarray(users, object)), unknown)
        pool = self._pool(None if own is not None else candidates, filter, unknown)
        width = len(self.items) if pool is None else len(pool)

        def ranked(part: slice) -> tuple[np.ndarray, np.ndarray]:
            scores = self.scores(rows[part], pool)
            if exclude_seen:
                self._hide_seen(scores, rows[part], pool)
            if allowed is not None:
                _hide_others(scores, allowed[part], pool, len(self.items))
            return _best(scores, n)

        place, score = _gathered(_over(ranked, len(rows), width), n)
        row, rank = np.nonzero(place >= 0)
        item = place[row, rank] if pool is None else pool[place[row, rank]]
        known = self._known(rows)
        score = score[row, rank] + np.where(known, self.mean + self._of(self.b, rows), 0).astype(np.float32)[row]
        if self.low is not None or self.high is not None:
            score = np.clip(score, self.low, self.high)
        who = self.users[rows] if (rows >= 0).all() else _ids(users, "user").ravel()
        return self._table(
            user=_column(who[row]),
            item=_column(self.items[item]),
            score=score,
            rank=(rank + 1).astype(np.int32),
            fallback=~known[row],
        )

    def similar_items(self, items: Any, n: int = 10) -> Any:
        """The n items most like each of ``items``, by the cosine of their y: a table of item, similar, score, rank.

        An item is never similar to itself; items whose y is zero are similar to nothing. Raises ValueError for an id
        that was never seen, or where the model has no factors.
        """
        rows = codes_of(items, self.items, "item").ravel()
        return self._neighbours("item", self.items, rows, n, self._item_norms, lambda part: _dots(self.Y[part], self.Y))

    def similar_users(self, users: Any, n: int = 10) -> Any:
        """The n users most like each of ``users``, by the cosine of their x, or of their seen values where there is no X.

        As ``similar_items``: user, similar, score, rank.
        """
        rows = codes_of(users, self.users, "user").ravel()
        return self._neighbours("user", self.users, rows, n, self._user_norms, self._user_products)

    def for_index(self) -> tuple[np.ndarray, np.ndarray]:
        """(items (n, k + 2), users (m, k + 2)) for an approximate-neighbour index, by inner product, cosine or distance.

        y⁺_i = (y_i, c_i, √(φ² - |y_i|² - c_i²)) with φ the longest (y_i, c_i), and x⁺_u = (x_u, 1, 0): all y⁺ have the
        length φ, so the nearest in each of the three senses are those with the largest x_u · y_i + c_i. (Bachrach et al.
        2014.) What the user has seen is among them: ask for more and leave it out. Raises ValueError for a linear item model,
        whose users have no vectors. With faiss (or hnswlib's "ip", alike):

            vectors, queries = model.model_.for_index()
            index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT); index.add(vectors)
            scores, places = index.search(queries[:5], 10)  # items[places]

        >>> items, users = Model(np.array([7]), np.array([1, 2]), X=[[1.0]], Y=[[3.0], [4.0]]).for_index()
        >>> items.round().tolist(), users.tolist()
        ([[3.0, 0.0, 3.0], [4.0, 0.0, 0.0]], [[1.0, 1.0, 0.0]])
        """
        if self.X is None:
            raise ValueError("a linear item model has no vectors of users; ask recommend, which is exact")
        items = np.column_stack([self.Y, self.c]).astype(np.float64)
        length = np.einsum("ij,ij->i", items, items)
        items = np.column_stack([items, np.sqrt(np.maximum(0, length.max(initial=0) - length))])
        ends = np.tile(np.array([1, 0], np.float32), (len(self.X), 1))
        return items.astype(np.float32), np.concatenate([self.X, ends], axis=1)

    def seen(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """The items of the user at a position, as positions, and their values."""
        cells = slice(self.indptr[user], self.indptr[user + 1])
        return self.indices[cells], self.values[cells]

    # scores

    @cached_property
    def _with_c(self) -> np.ndarray:
        return np.column_stack([self.Y, self.c]) if self.c.any() else self.Y

    @cached_property
    def _spread(self) -> float:
        """The standard deviation of the seen values about the fallback, which is what a fallback's prediction errs by."""
        rest = self.values - self.fallback[self.indices].astype(np.float64)
        return float(np.sqrt(np.mean(rest**2))) if rest.size else 0.0

    def _known(self, rows: np.ndarray) -> np.ndarray:
        """Which users have data; a position below zero is a user never seen."""
        there = rows >= 0
        at = np.where(there, rows, 0)
        return there & (self.indptr[at + 1] > self.indptr[at]) if len(self.users) else there

    def _of(self, array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return array[rows] if len(array) else np.zeros(len(rows), array.dtype)

    def _pairs(self, u: np.ndarray, i: np.ndarray, std: bool) -> tuple[Any, Any]:
        known, there = self._known(u), i >= 0
        score = np.where(known, self.mean + self._of(self.b, u), 0).astype(np.float32)
        spread = np.full(len(u), self._spread if std else 0, np.float32)
        if not known.all():
            cold = ~known & there
            score[cold] = self.fallback[i[cold]]
            score[~known & ~there] = self.fallback.mean(dtype=np.float64) if len(self.fallback) else self.mean
        at = np.flatnonzero(known & there)
        u, i = u[at], i[at]
        if self.X is None:
            row, item, value = self._cells(u)
            dots = np.bincount(row, value * self.Y[item, i[row]], len(u))
        elif std:
            draws = self.draws * (self.X[u] * self.Y[i]).reshape(len(u), self.draws, self.X.shape[1] // self.draws).sum(
                2, dtype=np.float64
            )
            dots = draws.mean(1)
            draws += sum(bias[row] for bias, row in ((self.b_draws, u), (self.c_draws, i)) if bias is not None)
            spread[at] = np.sqrt(draws.var(1) + self.noise[u] * (1 if self.noise_items is None else self.noise_items[i]))
        else:
            dots = np.einsum("ij,ij->i", self.X[u], self.Y[i])
        score[at] += (dots + self.c[i]).astype(np.float32)
        return score, spread

    def scores(self, rows: np.ndarray, pool: np.ndarray | None = None) -> np.ndarray:
        """(b, items): c_i + x_u · y_i of rows (b,) and the items of a pool or all, what ranks; the fallback without data."""
        known = self._known(rows)
        if known.all():
            return self._products(rows, pool)
        scores = np.empty((len(rows), len(self.items) if pool is None else len(pool)), np.float32)
        scores[known] = self._products(rows[known], pool)
        scores[~known] = self.fallback if pool is None else self.fallback[pool]
        return scores

    def _products(self, rows: np.ndarray, pool: np.ndarray | None) -> np.ndarray:
        if self.X is None:
            scores = self._linear(rows)
            scores += self.c
            return scores if pool is None else scores[:, pool]
        items = self._with_c if pool is None else self._with_c[pool]
        ones = [] if self._with_c is self.Y else [np.ones((len(rows), 1), np.float32)]
        return _dots(np.concatenate([self.X[rows], *ones], axis=1), items)

    def _linear(self, rows: np.ndarray) -> np.ndarray:
        scores = np.zeros((len(rows), len(self.items)), np.float32)
        for score, user in zip(scores, rows, strict=True):
            items, values = self.seen(user)
            np.einsum("j,ji->i", values, self.Y[items], out=score)
        return scores

    def _cells(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The seen cells of some users: which of ``rows``, item, value."""
        start = self.indptr[rows]
        count = self.indptr[rows + 1] - start
        row = np.repeat(np.arange(len(rows)), count)
        cell = np.arange(len(row)) + np.repeat(start - (np.cumsum(count) - count), count)
        return row, self.indices[cell], self.values[cell]

    # what may be recommended

    def _pool(self, candidates: Any, filter: Any, unknown: Unknown) -> np.ndarray | None:
        """The positions of the items to choose from, None for all."""
        if candidates is None and filter is None:
            return None
        keep = np.ones(len(self.items), bool)
        if candidates is not None:
            codes = codes_of(candidates, self.items, "item", unknown).ravel()
            keep = np.zeros(len(self.items), bool)
            keep[codes[codes >= 0]] = True
        if callable(filter):
            said = np.asarray(filter(self.items))
            if said.shape != keep.shape or said.dtype != bool:
                raise ValueError(
                    f"filter must return a True or False for each of the {len(keep)} items; it gave {said.dtype} {said.shape}"
                )
            keep &= said
        elif filter is not None:
            codes = codes_of(filter, self.items, "item", "fallback").ravel()
            keep[codes[codes >= 0]] = False
        return np.flatnonzero(keep)

    def _candidates(self, own: Mapping, users: np.ndarray, unknown: Unknown) -> list[np.ndarray]:
        lacking = next((user for user in users if user not in own), None)
        if lacking is not None:
            raise ValueError(f"candidates names no items for the user {lacking!r}; give them, or leave the user out")
        return [codes_of(own[user], self.items, "item", unknown).ravel() for user in users]

    def _hide_seen(self, scores: np.ndarray, rows: np.ndarray, pool: np.ndarray | None) -> None:
        known = np.flatnonzero(rows >= 0)
        row, item, _ = self._cells(rows[known])
        place = item if pool is None else _places(pool, len(self.items))[item]
        scores[known[row][place >= 0], place[place >= 0]] = -np.inf

    # neighbours

    @cached_property
    def _item_norms(self) -> np.ndarray:
        return np.sqrt(np.einsum("ij,ij->i", self.Y, self.Y))

    @cached_property
    def _user_norms(self) -> np.ndarray:
        if self.X is not None:
            return np.sqrt(np.einsum("ij,ij->i", self.X, self.X))
        return np.sqrt(np.bincount(self._row_of_cells, self.values.astype(np.float64) ** 2, len(self.users))).astype(np.float32)

    @cached_property
    def _row_of_cells(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.users)), np.diff(self.indptr))

    def _user_products(self, rows: np.ndarray) -> np.ndarray:
        if self.X is not None:
            return _dots(self.X[rows], self.X)
        products = np.empty((len(rows), len(self.users)), np.float32)
        for product, user in zip(products, rows, strict=True):
            mine = np.zeros(len(self.items), np.float32)
            items, values = self.seen(user)
            mine[items] = values
            product[:] = np.bincount(self._row_of_cells, self.values * mine[self.indices], len(self.users))
        return products

    def _neighbours(
        self, what: str, ids: np.ndarray, rows: np.ndarray, n: int, norms: np.ndarray, products: Callable[[np.ndarray], np.ndarray]
    ) -> Any:
        if n < 1:
            raise ValueError(f"n is {n}; ask for at least one {what}")
        if not self.Y.shape[1]:
            raise ValueError(f"this model has no factors by which {what}s could be alike; take one that has, such as ImplicitMF")
        empty = norms == 0
        size = np.where(empty, 1, norms)

        def ranked(part: slice) -> tuple[np.ndarray, np.ndarray]:
            some = rows[part]
            scores = products(some)
            scores /= size
            scores /= size[some, None]
            scores[:, empty] = -np.inf
            scores[empty[some]] = -np.inf
            scores[np.arange(len(some)), some] = -np.inf
            return _best(scores, n)

        place, score = _gathered(_over(ranked, len(rows), len(ids)), n)
        row, rank = np.nonzero(place >= 0)
        return self._table(
            **{what: _column(ids[rows[row]]), "similar": _column(ids[place[row, rank]])},
            score=score[row, rank],
            rank=(rank + 1).astype(np.int32),
        )

    def _table(self, **columns: Any) -> Any:
        """A pyarrow table whose columns of ids are called as in the table that was fitted."""
        import pyarrow as pa

        names = self.info.get("columns", {})
        return pa.table({names.get(name, name): column for name, column in columns.items()})

    # files

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes a folder: model.safetensors, users.parquet, items.parquet, model.json. It appears whole or not at all.

        A saved model that is there is replaced. Raises FileExistsError where something else is there.
        """
        place = check_target(folder)
        fresh, old = (place.with_name(f".{place.name}.{os.getpid()}.{what}") for what in ("tmp", "old"))
        try:
            fresh.mkdir(parents=True)
            self._write(fresh)
            for file in fresh.iterdir():
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
            if place.exists():
                place.rename(old)
            fresh.rename(place)
        finally:
            if old.exists() and not place.exists():
                old.rename(place)
            for rest in (fresh, old):
                shutil.rmtree(rest, ignore_errors=True)
        return Path(folder)

    def _write(self, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from safetensors.numpy import save_file

        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        arrays |= {f"extra.{name}": np.ascontiguousarray(array) for name, array in self.extra.items()}
        save_file(arrays, folder / "model.safetensors")
        for what in ("user", "item"):
            ids = getattr(self, f"{what}s")
            pq.write_table(pa.table({what: _column(ids)}), folder / f"{what}s.parquet")
        about = {"format": "proxfactor recommender", "format_version": FORMAT} | {name: getattr(self, name) for name in _NUMBERS}
        text = json.dumps(about | {"info": self.info}, indent=1, ensure_ascii=False, allow_nan=False, default=_number)
        (folder / "model.json").write_text(text, "utf-8")
        shutil.copymode(folder / "model.json", folder / "model.safetensors")  # safetensors lets only the owner read


_ARRAYS = ("X", "Y", "b", "c", "indptr", "indices", "values", "fallback", "noise", "noise_items", "b_draws", "c_draws")
_NUMBERS = ("mean", "low", "high", "draws")


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"info holds {value!r}; only what JSON can say is saved")


def check_target(folder: str | os.PathLike[str]) -> Path:
    """Where a model would be saved. Raises FileExistsError where something else is there, NotADirectoryError below a file."""
    place = Path(os.path.realpath(folder))
    if place.exists() and not (place / "model.json").is_file() and not (place.is_dir() and not any(place.iterdir())):
        raise FileExistsError(f"{folder} is there and is no saved recommender; choose another name")
    above = next(p for p in place.parents if p.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{folder} cannot be written: {above} is a file; choose another folder")
    return place


def load(folder: str | os.PathLike[str]) -> Model:
    """The model that ``Model.save`` or a recommender's ``save`` wrote.

    Raises FileNotFoundError where there is no such folder, ValueError where it is no saved recommender, is damaged, or was
    written by a newer version.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give the one that a recommender's save or `proxfactor fit` wrote")
    if not (place / "model.json").is_file():
        other = "a factorization: read it with proxfactor.load" if (place / "run.json").is_file() else "no saved recommender"
        raise ValueError(f"{folder} holds {other}; give the folder that a recommender's save wrote")
    try:
        about = json.loads((place / "model.json").read_text("utf-8"))
        version = int(about["format_version"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: model.json cannot be read ({error!r}); save the model again") from None
    if version > FORMAT:
        raise ValueError(f"{folder} has format {version}, and this version reads up to {FORMAT}; update proxfactor")
    try:
        return _read(place, about)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{folder} is damaged or not whole ({error}); save the model again") from None


def _read(place: Path, about: dict[str, Any]) -> Model:
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    arrays = load_file(place / "model.safetensors")
    extra = {name.removeprefix("extra."): arrays.pop(name) for name in list(arrays) if name.startswith("extra.")}
    parts: dict[str, Any] = {
        f"{what}s": pq.read_table(place / f"{what}s.parquet").column(what).to_numpy() for what in ("user", "item")
    }
    parts |= arrays | {name: about[name] for name in _NUMBERS}
    return Model(**parts, info=about["info"], extra=extra)


# ids


def codes_of(ids: Any, known: np.ndarray, what: str, unknown: Unknown = "error") -> np.ndarray:
    """The positions of ``ids``, one or many, among the sorted ids ``known``: int64 of the same shape, -1 for one not there.

    Text that writes a whole number finds that number, and a number its text. ``what`` is "user" or "item", for messages.
    Raises ValueError for ids that are not there, with the nearest ones, unless ``unknown="fallback"``.

    >>> codes_of(["b", "z"], np.array(["a", "b"], object), "item", "fallback").tolist()
    [1, -1]
    """
    if unknown not in ("error", "fallback"):
        raise ValueError(f'unknown is {unknown!r}; say "error" or "fallback"')
    asked = _ids(ids, what)
    codes = _found(asked.ravel(), known)
    if unknown == "error" and (codes < 0).any():
        raise ValueError(_unknown(asked.ravel()[codes < 0], known, what))
    return codes.reshape(asked.shape)


def _ids(ids: Any, what: str) -> np.ndarray:
    """One id or many as int64, or as objects of str."""
    array = np.asarray(ids)
    kind = array.dtype.kind
    if not array.size:
        return array.astype(np.int64)
    if kind in "OT":
        kind = "U" if all(isinstance(v, str) for v in array.flat) else "i" if all(map(_is_whole, array.flat)) else "O"
    if kind == "U":
        return array.astype(object)
    if kind == "i" or (kind == "u" and int(array.max()) < 2**63) or (kind == "f" and (np.abs(array) < 2**53).all()):
        whole = array.astype(np.int64)
        if (whole == array).all():
            return whole
    odd = next((v for v in array.ravel().tolist() if not isinstance(v, str) and not _is_whole(v)), array.ravel()[:1].tolist()[0])
    raise ValueError(f"{odd!r} cannot be the id of {'an item' if what == 'item' else 'a ' + what}; ids are text or whole numbers")


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63


def _found(asked: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not len(known) or not len(asked):
        return np.full(len(asked), -1)
    if known.dtype == object and asked.dtype != object:
        asked = asked.astype(str).astype(object)
    elif known.dtype != object and asked.dtype == object:
        codes, number = np.full(len(asked), -1), np.array([_writes_number(text) for text in asked])
        codes[number] = _found(asked[number].astype(np.int64), known)
        return codes
    if known.dtype == object and 8 * len(asked) > len(known):  # then a table of hashes pays
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.index_in(pa.array(asked, pa.large_string()), pa.array(known, pa.large_string()))
        return found.fill_null(-1).to_numpy().astype(np.int64)
    codes = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return np.where(known[codes] == asked, codes, -1)


def _writes_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 19 and text == str(int(text))


def _unknown(lacking: np.ndarray, known: np.ndarray, what: str) -> str:
    some = [repr(v) for v in dict.fromkeys(lacking.tolist())]
    text = {str(v): repr(v) for v in known[:50_000].tolist()}
    near = [text[name] for name in difflib.get_close_matches(str(lacking[0]), text, 3)]
    way = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"there are {', '.join([*text.values()][:3])}, ..."
        if text
        else "there are none"
    )
    more = f" (and {len(some) - 5} more)" if len(some) > 5 else ""
    return f'unknown {what} {", ".join(some[:5])}{more}; {way} Correct it, or say unknown="fallback"'


def _column(ids: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.array(ids, pa.string() if ids.dtype == object else pa.int64())


# the best of many scores


def _dots(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A Bᵀ; one row alone without BLAS, whose threads take longer to meet than to multiply."""
    return np.vecdot(B, A[0])[None] if len(A) == 1 else A @ B.T


def top(scores: np.ndarray, n: int) -> np.ndarray:
    """(b, n) positions of the n largest of each row of ``scores`` (b, width), best first; equal ones by position.

    Scores of -inf are never returned: where a row has fewer others, -1 fills it up.

    The n-th largest of the maxima of groups of scores is at most the n-th largest score, and few others reach it: one pass
    for the maxima, one to compare, and what is left to sort is little more than n.

    >>> top(np.array([[1.0, 3.0, -np.inf, 3.0]]), 4).tolist()
    [[1, 3, 0, -1]]
    """
    b, width = scores.shape
    best = np.full((b, n), -1)
    few = min(n, width)
    if not b or not few:
        return best
    group = min(64, max(1, width // (4 * few)))
    groups = width // group
    maxima = scores[:, : groups * group].reshape(b, group, groups).max(1)
    least = np.partition(maxima, groups - few, axis=1)[:, groups - few]
    least = np.maximum(least, np.finfo(scores.dtype).min)
    at = np.flatnonzero(scores >= least[:, None])
    if b > 1 and at.size > _MANY + 4 * few * b:  # many are equal: fewer rows at a time
        return np.concatenate([top(half, n) for half in np.array_split(scores, 2)])
    row, place = np.divmod(at, width)
    order = np.lexsort((-scores[row, place], row))
    row, place = row[order], place[order]
    rank = np.arange(len(row)) - np.searchsorted(row, np.arange(b))[row]
    keep = rank < n
    best[row[keep], rank[keep]] = place[keep]
    return best


_MANY = 2**20


def _best(scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the n best of each row and their scores."""
    place = top(scores, n)
    return place, np.take_along_axis(scores, np.maximum(place, 0), 1) if scores.shape[1] else np.zeros(place.shape, np.float32)


def _over(ranked: Callable[[slice], Any], rows: int, width: int) -> Iterator[Any]:
    """``ranked`` of every part of range(rows), in order; as many parts at a time as there are cores, BYTES in all."""
    cores = int(os.environ.get("OMP_NUM_THREADS", "0") or 0) or (os.cpu_count() or 1)
    threads = min(cores, -(-rows // 16))
    step = max(1, BYTES // (_COPIES * 4 * max(1, width) * max(1, threads)))
    parts = [slice(first, first + step) for first in range(0, rows, step)]
    if threads < 2 or len(parts) < 2:
        yield from map(ranked, parts)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="proxfactor-serves") as pool:
        yield from pool.map(ranked, parts)


_COPIES = 2


def _gathered(parts: Iterator[tuple[np.ndarray, np.ndarray]], n: int) -> tuple[np.ndarray, np.ndarray]:
    place, score = zip((np.empty((0, n), np.int64), np.empty((0, n), np.float32)), *parts, strict=True)
    return np.concatenate(place), np.concatenate(score)


def _hide_others(scores: np.ndarray, allowed: list[np.ndarray], pool: np.ndarray | None, items: int) -> None:
    """Only what each user's own candidates name can be recommended."""
    for score, codes in zip(scores, allowed, strict=True):
        keep = np.zeros(items, bool)
        keep[codes[codes >= 0]] = True
        score[~(keep if pool is None else keep[pool])] = -np.inf


def _places(pool: np.ndarray, items: int) -> np.ndarray:
    """Where each item stands in the pool, -1 if it does not."""
    places = np.full(items, -1)
    places[pool] = np.arange(len(pool))
    return places
