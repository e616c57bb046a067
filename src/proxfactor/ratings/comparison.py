"""A recommender beside the baselines, all of them fitted on the same ratings and judged by others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .base import Recommender
from .evaluation import Evaluation, evaluate
from .linear import EASE, Bias, Popularity, PureSVD
from .splits import split
from .tables import Ratings, read_ratings

USUAL = ("ndcg", "recall", "mrr", "coverage")
"""What recommenders of clicks are compared by, if nothing is asked for."""

MOST_ITEMS = 5000
"""Up to so many items EASE is among the baselines: its time grows with their third power."""

_NOTHING = 1e12


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What came out: ``model``, fitted on what was not held out; ``found``, an Evaluation by name, its own first; and a
    sentence that says what was held out."""

    model: Any
    found: dict[str, Evaluation]
    held_out: str

    def rows(self) -> list[dict[str, Any]]:
        """A row for each model: its name and its measures, NaN where it has none; what is measured by fifths is in ``found``."""
        names = list(dict.fromkeys(name for measured in self.found.values() for name in measured if "/" not in name))
        return [{"model": name} | {key: measured.get(key, math.nan) for key in names} for name, measured in self.found.items()]

    def errors(self) -> list[dict[str, float]]:
        """The standard errors of the measures, row by row."""
        return [measured.errors for measured in self.found.values()]

    def __repr__(self) -> str:
        rows = self.rows()
        cells = [list(rows[0]), *([v if isinstance(v, str) else f"{v:.4f}" for v in row.values()] for row in rows)]
        wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            f"{first:{wide[0]}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(rest, wide[1:], strict=True)) for first, *rest in cells
        ]
        notes = dict.fromkeys(note for measured in self.found.values() for note in measured.notes)
        return "\n".join([*lines, self.held_out, *notes])


def compare(
    model: Recommender,
    data: Any,
    baselines: Mapping[str, Recommender] | None = None,
    *,
    how: str | None = None,
    size: float | int | None = None,
    seed: int = 0,
    measures: str | Iterable[str] | None = None,
    k: int = 10,
    relevant: float | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    **columns: Any,
) -> Comparison:
    """How good a recommender is on ratings that were held out, beside models that ask for nothing.

    Args:
        model: a recommender; what it leaves "auto" is chosen on what is not held out.
        data: anything that ``fit`` takes, with its ``columns``: user, item, rating, time, weight.
        baselines: recommenders by name. None: of ratings, their mean and ``Bias``; of clicks, ``Popularity`` and ``EASE``
            (``PureSVD`` where there are more than 5,000 items).
        how, size, seed: of the hold-out, as in ``split``. None: the latest 10 % where there is a time, else 10 % of ratings
            by chance and 20 % of the clicks of each user (one each, where that would be none). For "users" a fifth of the
            ratings of a tenth of the users is held out, and the rest of theirs is folded in.
        measures, k, relevant: as in ``evaluate``.
        callback: called as in ``fit``, by the fit of ``model``.

    Raises ValueError as ``read_ratings``, ``split`` and ``evaluate`` do.

    >>> table = ([u for u in range(20) for _ in range(10)], [i for _ in range(20) for i in range(10)], [3.0, 4.0] * 100)
    >>> compare(Bias(), table).held_out
    'Held out: 20 of 200 ratings, by chance.'
    """
    ratings = read_ratings(data, **columns, duplicates=model.duplicates)
    (train, *known, test), held_out = parted(model, ratings, how, size, seed)
    named = _baselines(model, ratings) if baselines is None else dict(baselines)
    asked = measures if measures is not None else USUAL if model.implicit else None

    def judged(one: Recommender, call: Any) -> tuple[Recommender, Evaluation]:
        one = dataclasses.replace(one).fit(train, callback=call)
        folded = one.fold_in(known[0], unknown="drop") if known else one
        return one, evaluate(folded, test, measures=asked, k=k, relevant=relevant)

    fitted, measured = judged(model, callback)
    name = type(model).__name__
    found = {name: measured} | {other: judged(one, None)[1] for other, one in named.items() if other != name}
    return Comparison(fitted, found, held_out)


def parted(model: Recommender, ratings: Ratings, how: str | None, size: float | int | None, seed: int = 0) -> tuple[Any, str]:
    """What ``compare`` learns from and is judged by, and the sentence that says so. Raises ValueError as ``split`` does."""
    how = how or ("time" if ratings.time is not None else "per-user" if model.implicit else "random")
    if size is None and how == "per-user":
        size = 0.2 if np.diff(ratings.indptr).mean() >= 10 else 1
    parts = split(ratings, how, size, seed=seed)
    return parts, _sentence(how, size, len(parts[-1]), len(ratings))


def _baselines(model: Recommender, ratings: Ratings) -> dict[str, Recommender]:
    if not model.implicit:
        return {"the mean": Bias(reg=_NOTHING), "Bias": Bias()}
    linear = EASE() if ratings.shape[1] <= MOST_ITEMS else PureSVD()
    return {"Popularity": Popularity(), type(linear).__name__: linear}


def _sentence(how: str, size: float | int | None, held: int, of: int) -> str:
    each = {
        "random": "by chance",
        "per-user": f"{_share(size)} of each user, by chance",
        "last": f"the latest {_share(size or 1)} of each user",
        "time": "the latest ones",
        "users": "of users who were left out of the fit, and folded in with the rest of theirs",
    }
    return f"Held out: {held:,} of {of:,} ratings, {each[how]}."


def _share(size: float | int | None) -> str:
    size = 0.1 if size is None else size
    return f"{100 * size:g} %" if size < 1 else f"{size:g}"
