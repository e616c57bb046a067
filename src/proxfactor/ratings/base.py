"""What every recommender can do, once it says how it is fitted: answers come from ``serve.Model``, in the caller's frames."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ..serve import Model, Unknown, codes_of
from ..serve import load as load_model
from ..text import Spelled
from .tables import Ratings, read_ratings, source_of

Callback = Callable[[dict[str, Any]], Any]


@dataclass(kw_only=True)
class Recommender(ABC):
    """A recommender: options are its fields, and what ``fit`` finds ends in an underscore.

    ``model_`` holds the arrays that answer (``serve.Model``), ``ratings_`` the data, ``history_`` a row for each sweep.
    ``dataclasses.replace(model, reg=1)`` is a new one, not fitted, with another option. ``duplicates`` says what a pair
    that comes twice means: "error", "sum", "mean" or "last".

    A subclass writes ``_fit``, ``_rows`` for users that come later, and ``_shares`` if it can tell why.
    """

    duplicates: str = "error"

    model_: Model = field(init=False, repr=False, compare=False)
    ratings_: Ratings = field(init=False, repr=False, compare=False)
    history_: list[dict[str, Any]] = field(init=False, repr=False, compare=False)

    implicit: ClassVar[bool] = False
    """Whether it ranks by clicks (judged by NDCG@10) or predicts ratings (judged by RMSE)."""

    # what a subclass writes

    @abstractmethod
    def _fit(self, ratings: Ratings, start: Model | None, callback: Callback | None) -> Model:
        """The model of the ratings; ``start`` is the one before more ratings came, its rows moved to the ids of now."""

    @abstractmethod
    def _rows(self, ratings: Ratings) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(X, b) of the users of other ratings, the items as fitted."""

    def _shares(self, user: int, item: int) -> np.ndarray:
        """(cells,): what each seen cell of the user adds to x_u · y_i."""
        items, values = self.model_.seen(user)
        if self.model_.X is None:
            return values.astype(np.float64) * self.model_.Y[items, item]
        if self.model_.Y.shape[1]:
            raise NotImplementedError(
                f"{type(self).__name__} cannot tell which ratings a score comes from; ImplicitMF and EASE can"
            )
        return np.zeros(len(items))

    def _seen(self, row: dict[str, Any], callback: Callback | None, model: Callable[[], Model] | None = None) -> bool:
        """Keeps a row of the history; whether the callback, who also gets ``model``, asks to stop."""
        row["seconds"] = time.perf_counter() - self._began
        self.history_.append(row)
        return callback is not None and bool(callback(row | ({} if model is None else {"model": model})))

    # fitting

    def fit(
        self,
        data: Any,
        user: Any = None,
        item: Any = None,
        rating: Any = None,
        time: Any = None,
        weight: Any = None,
        *,
        missing: str | None = None,
        callback: Callback | None = None,
    ) -> Self:
        """Learns from a table of ratings, whose columns are named as in ``read_ratings``.

        ``callback`` gets a dict after each sweep ("sweep", "sweeps", "seconds" and what is measured), and stops the fit by
        returning True. Raises as ``read_ratings`` does, and ValueError for options out of range.
        """
        ratings = read_ratings(data, user, item, rating, time, weight, duplicates=self.duplicates, missing=missing)
        return self._learn(ratings, None, callback)

    def partial_fit(self, data: Any, *, callback: Callback | None = None, **columns: Any) -> Self:
        """Learns from more ratings, users and items, beside those of the fit, going on from where it is.

        What comes out is what a fit of all the ratings gives, to the tolerance of the fit; closed forms are equal. Columns
        are called as in the fit, or named anew. A pair that was rated before follows ``duplicates``: an error, or "last"
        for ratings that people change. Without a fit before it is ``fit``.
        """
        if not self._fitted:
            return self.fit(data, **columns, callback=callback)
        ratings = self.ratings_.joined(self._read(data, columns), self.duplicates)
        return self._learn(ratings, _moved(self.model_, ratings), callback)

    def fold_in(self, data: Any, *, unknown: str = "error", **columns: Any) -> Self:
        """A copy that knows the users of ``data``, and only these, with the items as fitted; nothing else is learned.

        An id that was in the fit stands for the user who comes now. Items that the fit does not know raise ValueError, or
        are left out with ``unknown="drop"``. Columns are called as in the fit, or named anew.
        """
        ratings = self._read(data, columns)
        ratings = ratings.coded(ratings.users, self.model_.items, unknown)
        new = copy.copy(self)
        new._keep(self._folded(ratings), ratings)
        return new

    def _folded(self, ratings: Ratings) -> Model:
        X, b = self._rows(ratings)
        noise = self.model_.noise
        indptr, indices, values = ratings.csr()
        return replace(
            self.model_, users=ratings.users, X=X, b=b, indptr=indptr, indices=indices, values=values,
            noise=None if noise is None else np.full(len(ratings.users), noise.mean()),
        )  # fmt: skip

    def _learn(self, ratings: Ratings, start: Model | None, callback: Callback | None) -> Self:
        self._began, self.history_ = time.perf_counter(), []
        model = self._fit(ratings, start, callback)
        if not self.history_:
            self._seen({"sweep": 1, "sweeps": 1}, callback)
        self._keep(model, ratings)
        return self

    def _keep(self, model: Model, ratings: Ratings) -> None:
        """Beside the model goes what ``load`` and another fit need."""
        options, tensors = self._options()
        about = {
            "class": type(self).__name__,
            "implicit": self.implicit,
            "options": options,
            "columns": ratings.columns,
            "form": ratings.form if isinstance(ratings.form, str) else ratings.form.__name__,
            "history": [
                {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in self.history_
            ],
        }
        value = None if np.array_equal(model.values, ratings.value) else ratings.value
        cells = {"rating": value, "time": ratings.time, "weight": ratings.weight}
        extra = tensors | {name: array for name, array in cells.items() if array is not None}
        self.model_ = replace(model, info=model.info | about, extra=model.extra | extra)
        self.ratings_ = ratings

    def _read(self, data: Any, columns: dict[str, Any]) -> Ratings:
        """Ratings whose columns, where nobody names them, are called as in the fit."""
        if not columns and not isinstance(data, Ratings | tuple):
            there = getattr(source_of(data), "names", [])
            columns = {role: name for role, name in self.ratings_.columns.items() if name in there}
        return read_ratings(data, **columns, duplicates=self.duplicates)

    # answers

    def predict(self, users: Any, items: Any, *, return_std: bool = False, unknown: Unknown = "error") -> Any:
        """The scores of pairs of ids, an array; see `serve.Model.predict`."""
        return self.model_.predict(users, items, return_std=return_std, unknown=unknown)

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
        """The n best items of each user as a data frame: user, item, score, rank, fallback; see `serve.Model.recommend`."""
        found = self.model_.recommend(users, n, exclude_seen=exclude_seen, candidates=candidates, filter=filter, unknown=unknown)
        return self._frame(found)

    def similar_items(self, items: Any, n: int = 10) -> Any:
        """The n items most like each of ``items``, a data frame of item, similar, score, rank; see `serve.Model.similar_items`."""
        return self._frame(self.model_.similar_items(items, n), "item")

    def similar_users(self, users: Any, n: int = 10) -> Any:
        """The n users most like each of ``users``, a data frame of user, similar, score, rank; see `serve.Model.similar_users`."""
        return self._frame(self.model_.similar_users(users, n), "user")

    def explain(self, user: Any, item: Any, n: int | None = 10) -> Any:
        """Why: the n seen items that add most to the score of an item, largest first, a data frame of item and contribution.

        The rows "(other items)", "(mean)", "(user)" and "(item)", where there is anything in them, complete the sum, which
        is the score before it is clipped; for their sake the ids are text. ``n=None`` shows all. Raises ValueError for a
        user without ratings, NotImplementedError where no rating has a share of its own.
        """
        model = self.model_
        u, i = int(codes_of(user, model.users, "user")), int(codes_of(item, model.items, "item"))
        seen, _ = model.seen(u)
        if not len(seen):
            raise ValueError(f"user {user!r} has no ratings: the score is the fallback, the same for everybody without data")
        shares = np.asarray(self._shares(u, i), dtype=np.float64)
        order = np.argsort(-shares, kind="stable")
        shown, others = order[:n], order[n:] if n is not None else order[:0]
        rows = [(str(model.items[seen[j]]), float(shares[j])) for j in shown]
        terms = {"(other items)": shares[others].sum(), "(mean)": model.mean, "(user)": model.b[u], "(item)": model.c[i]}
        rows += [(name, float(value)) for name, value in terms.items() if value or (name == "(other items)" and len(others))]
        names, values = zip(*rows, strict=True)
        columns = {self.ratings_.columns["item"]: np.array(names, dtype=object), "contribution": np.array(values)}
        return replace(self.ratings_, types={}).frame(columns)

    def score(self, data: Any, **columns: Any) -> float:
        """How well ratings that were not learned from are predicted, greater is better: -RMSE, or NDCG@10 where ``implicit``."""
        test, measure = self._read(data, columns), "ndcg@10" if self.implicit else "rmse"
        from .evaluation import evaluate

        return evaluate(self, test, measures=measure)[measure] * (1 if self.implicit else -1)

    def _frame(self, table: Any, similar: str | None = None) -> Any:
        r = self.ratings_
        if similar in r.types:
            r = replace(r, types=r.types | {"similar": r.types[similar]}, columns=r.columns | {"similar": "similar"})
        return r.frame({name: column.combine_chunks() for name, column in zip(table.column_names, table.columns, strict=True)})

    # files

    def save(self, folder: Any) -> Path:
        """Writes the folder that ``load`` reads, and, without torch, `proxfactor.serve.load`; see `serve.Model.save`."""
        return self.model_.save(folder)

    @classmethod
    def load(cls, folder: Any) -> Self:
        """The recommender that ``save`` wrote, ready to answer and to go on; ``Recommender.load`` reads any kind.

        A plain function among the options is not stored, and the next fit says so. Raises as `serve.load` does, and
        ValueError for another kind of recommender.
        """
        model = load_model(folder)
        kind = next((c for c in _below(Recommender) if c.__name__ == model.info.get("class")), None)
        if kind is None or not issubclass(kind, cls):
            raise ValueError(
                f"{folder} holds {model.info.get('class', 'a bare model')}, not {cls.__name__}; Recommender.load reads any"
            )
        info, extra = model.info, dict(model.extra)
        new = kind(**{name: _option(name, value, extra) for name, value in info["options"].items()})
        user = np.repeat(np.arange(len(model.users), dtype=np.int32), np.diff(model.indptr))
        value = extra.get("rating", model.values.astype(np.float64))
        more = {
            "time": extra.get("time"),
            "weight": extra.get("weight"),
            "columns": info["columns"],
            "form": _library(info["form"]),
        }
        new.ratings_ = Ratings(user, model.indices, value, model.users, model.items, **more)
        new.model_, new.history_ = model, info["history"]
        return new

    def _options(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The options as JSON can hold them, and the tensors in them."""
        options: dict[str, Any] = {}
        tensors: dict[str, np.ndarray] = {}
        for f in dataclasses.fields(self):
            if not f.init:
                continue
            value = getattr(self, f.name)
            if isinstance(value, Spelled):
                value, held = value.spell()
                tensors |= {f"{f.name}.{name}": tensor.cpu().numpy() for name, tensor in held.items()}
            plain = value is None or isinstance(value, str | bool | int | float | np.number | list | tuple | dict)
            options[f.name] = value if plain else repr(value)
        return options, tensors

    # before a fit

    @property
    def _fitted(self) -> bool:
        return "model_" in self.__dict__

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in ("model_", "ratings_", "history_"):
                from sklearn.exceptions import NotFittedError

                raise NotFittedError(f"this {type(self).__name__} is not fitted; call fit with a table of ratings first")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _below(kind: type) -> list[type]:
    subclasses: list[type] = kind.__subclasses__()
    return [c for sub in subclasses for c in (sub, *_below(sub))]


def _option(name: str, value: Any, extra: dict[str, np.ndarray]) -> Any:
    held = {key.removeprefix(f"{name}."): array for key, array in extra.items() if key.startswith(f"{name}.")}
    if not held:
        return value
    from ..prox import Prox

    return Prox.parse(value, held)


def _library(name: str) -> Any:
    """The data frame library of that name, arrow where it is not installed here."""
    from importlib import import_module

    try:
        return name if name == "pyarrow" else import_module(name)
    except ImportError:
        return "pyarrow"


def _moved(model: Model, ratings: Ratings) -> Model:
    """A model with its rows at the ids of more ratings, zeros where they are new, and the ratings' cells."""

    def rows(array: Any, old: np.ndarray, new: np.ndarray, what: str) -> Any:
        if array is None:
            return None
        out = np.zeros((len(new), *array.shape[1:]), array.dtype)
        out[codes_of(old, new, what)] = array
        return out

    users = {name: rows(getattr(model, name), model.users, ratings.users, "user") for name in ("X", "b", "b_draws", "noise")}
    of_items = ("Y", "c", "c_draws", "noise_items", "fallback")
    items = {name: rows(getattr(model, name), model.items, ratings.items, "item") for name in of_items}
    if model.X is None:
        items["Y"] = np.ascontiguousarray(rows(items["Y"].T, model.items, ratings.items, "item").T)
    indptr, indices, values = ratings.csr()
    cells = {"users": ratings.users, "items": ratings.items, "indptr": indptr, "indices": indices, "values": values}
    return replace(model, **(users | items | cells))
