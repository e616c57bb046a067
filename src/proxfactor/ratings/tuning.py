"""Options chosen by what they predict of ratings that were held out: a short search, coarse to fine, one option at a time."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .splits import split
from .tables import Ratings, read_ratings

Row = dict[str, Any]
Options = dict[str, Any]
Callback = Callable[[Row], Any] | None

SEARCH: dict[str, Sequence[Any]] = {
    "unobserved": (0.003, 1.0),
    "alpha": [0.0, 1.0, 3.0, 10.0, 30.0],
    "reg": (0.3, 100.0),
    "pattern": [0, 32],
    "rank": [16, 32, 64, 128],
}
"""Where options are looked for, by name: a range (low, high) or a list of values. That of reg is the mean λ of all users and
items, λ = reg d^ν with d their data: its best value hardly depends on ν, on the weight of what is not observed, on the size."""

STRIDES = (3, 1)
"""Rungs that a step takes, coarse and fine; a rung is a factor √2 of a range, or one place in a list."""

LOOKS = {False: (1, 3), True: (4, 1)}
"""Of ratings and of clicks: after how many sweeps a fit is looked at, and after how many looks in vain it ends."""

HELD_USERS = 5000
"""Of those who click, so many keep something back; more would say little more, and cost."""

FEWEST = 10
"""Ratings that must be held out at least."""

MOST = 4_000_000
"""Ratings that a search looks at; of more it takes those of some users."""

BETTER = 1e-5
"""How much better, relatively, a score must be to count as better."""


@dataclass(frozen=True, eq=False, repr=False)
class Tuned:
    """What a search found: ``model`` with the best options, ``options`` and their ``score``, and ``trials``, a row for each.

    A trial has its options, its score (of ``model.score``: -RMSE or NDCG@10 on what was held out), the sweeps after which it
    was reached (None where a fit does not count them) and the seconds that it took.
    """

    model: Any
    options: Options
    score: float
    trials: list[Row]

    def frame(self, backend: Any = "pandas") -> Any:
        """The trials as a data frame of that library."""
        import narwhals as nw

        return nw.from_dict({key: [row[key] for row in self.trials] for key in self.trials[0]}, backend=backend).to_native()

    def __repr__(self) -> str:
        cells = [list(self.trials[0]), *([_shown(value) for value in row.values()] for row in self.trials)]
        wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(f"{word:>{w}}" for word, w in zip(row, wide, strict=True)) for row in cells]
        best = 1 + next(i for i, row in enumerate(self.trials) if row["score"] == self.score)
        return "\n".join(line + "  best" * (i == best) for i, line in enumerate(lines))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tune(
    model: Any,
    data: Any,
    *,
    search: Mapping[str, Sequence[Any]] | None = None,
    trials: int = 20,
    size: float = 0.1,
    how: str | None = None,
    seed: int = 0,
    refit: bool = True,
    sampler: Any = None,
    callback: Callback = None,
    **columns: Any,
) -> Tuned:
    """The options with which a recommender predicts best what was held out of the data.

    A pattern search (Hooke and Jeeves 1961) on rungs: from the model's own options, or the middle of the range, one option
    after another goes up or down for as long as that is better, first by factors of 2.8, then of √2. Where nobody says where to
    look for reg, it changes with the weight of what is not observed so that the mean λ stays. Nothing is tried twice and nothing
    is drawn but the hold-out: the same seed chooses the same. Of more than 4,000,000 ratings those of some users are taken.

    A fit whose callback rows carry a ``model``, a function that gives the ``serve.Model`` of the moment, is looked at on the
    way and ends where the held-out ratings are not predicted better any more: of ratings after three sweeps in vain, of
    clicks, looked at every four, after the first. The best number of sweeps then comes along as ``max_iter``.

    Args:
        model: a recommender with the options that are not searched for.
        data: anything that ``fit`` takes, with its ``columns``: user, item, rating, time, weight.
        search: options and where to look for them: a range (low, high), searched by factors, in whole numbers if both are,
            or a list of values in order. None: those of ``rank``, ``reg``, ``alpha`` and ``unobserved`` that the model has.
            What the model leaves "auto" is searched for in any case.
        trials: at most so many fits.
        size, how, seed: of the hold-out, as in ``split``; by default "random" for ratings and "per-user" for clicks, there
            of at most 5,000 users, and one click each where a share would be less.
        refit: whether the best options are fitted on all the data in the end.
        sampler: None, "optuna", or an Optuna study, which then proposes the trials.
        callback: called with a row after each trial; returning True ends the search.

    Raises ValueError for options that the model does not have and for too few ratings, ImportError where Optuna is asked for
    and missing.

    >>> from proxfactor.ratings import EASE
    >>> clicks = np.nonzero(np.random.default_rng(0).random((40, 20)) < 0.3)
    >>> sorted(tune(EASE(), clicks, trials=3).options)
    ['reg']
    """
    if isinstance(trials, bool) or not isinstance(trials, int | np.integer) or trials < 1:
        raise ValueError(f"trials is {trials!r}; it is how many fits may be made, at least 1")
    ratings = read_ratings(data, **columns, duplicates=getattr(model, "duplicates", "error"))
    space = _Space(model, ratings, search)
    if not space.where:
        raise ValueError(f"there is nothing to search for in {type(model).__name__}; give search={{option: values}}")
    study = _study(sampler, seed)
    trial = _Trials(model, *held_out(model, ratings, size, how, seed), trials, callback)
    if study is None:
        _climb(trial, space, space.start())
    else:
        _follow(study, trial, space)
    found = dataclasses.replace(model, **trial.settled())
    return Tuned(found.fit(ratings) if refit else found, trial.best, trial.score, trial.rows)


def chosen(model: Any, ratings: Ratings, callback: Callback = None, trials: int = 12) -> tuple[Any, list[Row]]:
    """The model with numbers in place of "auto", found by a search as in ``tune``, and the rows of its trials.

    Where too few ratings can be held out, a warning says so and the middle of the ranges is taken.
    """
    auto = _auto(model)
    if not auto:
        return model, []
    space = _Space(model, ratings, {})
    middle = space.options(space.start())
    model = dataclasses.replace(model, **middle)
    try:
        held = held_out(model, ratings, 0.1, None, 0)
    except ValueError as error:
        taken = ", ".join(f"{name}={_shown(value)}" for name, value in middle.items())
        warnings.warn(f"{', '.join(middle)} cannot be chosen by a hold-out ({error}); {taken} is taken", stacklevel=3)
        return model, []
    trial = _Trials(model, *held, trials, callback)
    _climb(trial, space, space.start())
    return dataclasses.replace(model, **trial.settled()), trial.rows


def held_out(model: Any, ratings: Ratings, size: float, how: str | None, seed: int) -> tuple[Ratings, Ratings]:
    """What the trials learn from, and what they are judged by. Raises ValueError where either would be next to nothing."""
    how = ("per-user" if model.implicit else "random") if how is None else how
    if how == "users":
        raise ValueError('how="users" leaves users out whom a fit then does not know; take "random", "per-user", "last" or "time"')
    if len(ratings) > MOST:
        some = np.random.default_rng([seed, 3]).permutation(len(ratings.users))[: MOST * len(ratings.users) // len(ratings)]
        ratings = ratings.coded(ratings.users[np.sort(some)], ratings.items, unknown="drop")
    few = how == "per-user" and size < 1 and size * len(ratings) < 2 * len(np.unique(ratings.user))
    _, held = split(ratings, how, 1 if few else size, seed=seed)
    users = np.unique(held.user)
    if how == "per-user" and len(users) > HELD_USERS:
        held = held.take(np.isin(held.user, np.random.default_rng([seed, 2]).permutation(users)[:HELD_USERS]))
    if len(held) < FEWEST:
        raise ValueError(f"{len(held)} of {len(ratings):,} ratings would be held out, and {FEWEST} are needed to judge by")
    out = np.zeros(int(ratings.order.max()) + 1, bool)
    out[held.order] = True
    return ratings.take(~out[ratings.order]), held


# ── where to look ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _names(model: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(model) if f.init]


def _auto(model: Any) -> list[str]:
    return [name for name in _names(model) if isinstance(getattr(model, name), str) and getattr(model, name) == "auto"]


class _Space:
    """Where to look: ``where`` by name, as ranges and lists; what is "auto" is among them. Points of it are rungs by name."""

    def __init__(self, model: Any, ratings: Ratings, search: Mapping[str, Sequence[Any]] | None):
        own = getattr(type(model), "search", SEARCH)
        names = [*own, *_auto(model)] if search is None else _auto(model)
        alike = own is SEARCH and np.ptp(np.abs(ratings.value)) == 0  # then alpha does nothing that the others do not
        names = [name for name in names if name in _auto(model) or (name in _names(model) and not (name == "alpha" and alike))]
        if lacking := [name for name in names if name not in own]:
            raise ValueError(f'{lacking[0]}="auto" is not known; a search finds {", ".join(own)}. Give a value')
        given = {} if search is None else dict(search)
        self.where = given | {name: own[name] for name in own if name in names and name not in given}
        self.ladders = {name: _rungs(model, name, where) for name, where in self.where.items()}
        self.model, self.by_mean = model, own is SEARCH and "reg" in self.where and "reg" not in given
        self.counts = [
            np.bincount(codes, minlength=size) for codes, size in zip((ratings.user, ratings.item), ratings.shape, strict=True)
        ]

    def options(self, at: Mapping[str, int]) -> Options:
        """What the model is given there."""
        found = {name: self.ladders[name][rung] for name, rung in at.items()}
        if self.by_mean:
            found["reg"] = float(f"{found['reg'] / self.data(found):.3g}")
        return found

    def start(self) -> dict[str, int]:
        """The rungs of the model's own values, or the middle ones."""
        own = {name: getattr(self.model, name) for name in self.ladders}
        if self.by_mean and own["reg"] != "auto":
            own["reg"] = own["reg"] * self.data({})
        return {name: _nearest(rungs, own[name]) for name, rungs in self.ladders.items()}

    def data(self, options: Options) -> float:
        """The mean of d^ν over users and items, d = n + a0 · the number of the others. (Rendle et al. 2021.)"""
        a0 = options.get("unobserved", getattr(self.model, "unobserved", 0.0))
        a0 = a0 if isinstance(a0, int | float) else self.ladders["unobserved"][len(self.ladders["unobserved"]) // 2]
        data = np.concatenate([own + a0 * len(others) for own, others in zip(self.counts, self.counts[::-1], strict=True)])
        return float(np.mean(np.maximum(data, 1.0) ** getattr(self.model, "nu", 1.0)))


def _rungs(model: Any, name: str, where: Sequence[Any]) -> list[Any]:
    """The values to try: those of a list, or of a range by factors of √2."""
    if name not in _names(model):
        raise ValueError(f"{type(model).__name__} has no option {name!r}; it has {', '.join(_names(model))}")
    if isinstance(where, list) and where:
        return list(where)
    low, high, whole = _ends(name, where)
    steps = max(1, round(2 * math.log2(high / low)))
    values = [low * (high / low) ** (step / steps) for step in range(steps + 1)]
    return sorted({round(value) if whole else float(f"{value:.3g}") for value in values})


def _ends(name: str, where: Any) -> tuple[Any, Any, bool]:
    """Low, high, and whether only whole numbers are meant."""
    numbers = isinstance(where, tuple) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in where)
    if not numbers or len(where) != 2 or not 0 < where[0] < where[1] < math.inf:
        raise ValueError(f"search[{name!r}] is {where!r}; give a range (low, high) with 0 < low < high, or a list of values")
    return where[0], where[1], all(isinstance(v, int) for v in where)


def _nearest(rungs: list[Any], value: Any) -> int:
    """The rung to begin at: the one of the model's own value, or the middle."""
    if value in rungs:
        return rungs.index(value)
    if not all(isinstance(v, int | float) and v > 0 for v in [*rungs, value]):
        return len(rungs) // 2
    return min(range(len(rungs)), key=lambda rung: abs(math.log(rungs[rung] / value)))


# ── trials ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class _SpentError(Exception):
    """There are no more trials."""


class _Trials:
    """Options in, their score out; the same ones are fitted once, and no more of them than may be."""

    def __init__(self, model: Any, train: Ratings, held: Ratings, limit: int, callback: Callback):
        self.model, self.train, self.held, self.limit, self.callback = model, train, held, limit, callback
        self.rows: list[Row] = []
        self.known: dict[str, float] = {}
        self.best: Options = {}
        self.score, self.stopped = -math.inf, False

    def __call__(self, options: Options) -> float:
        if repr(options) not in self.known:
            if self.stopped or len(self.rows) >= self.limit:
                raise _SpentError
            self.known[repr(options)] = self._fit(options)
        return self.known[repr(options)]

    def settled(self) -> Options:
        """The best options of all."""
        if self.score == -math.inf:
            raise ValueError(f"no options gave a finite score, of {len(self.rows)} that were tried; look elsewhere with search=")
        return self.best

    def _fit(self, options: Options) -> float:
        begun = time.perf_counter()
        model = dataclasses.replace(self.model, **options)
        look = _Look(model, self.held)
        score, sweeps = _number(model.fit(self.train, callback=look).score(self.held)), look.last
        best = options
        if look.score > score:
            score, sweeps = look.score, look.sweep
            best = options | ({"max_iter": sweeps} if hasattr(model, "max_iter") else {})
        if not self.rows or better(score, self.score):
            self.best, self.score = best, score
        row = {"trial": len(self.rows) + 1, **options, "score": score, "sweeps": sweeps, "seconds": time.perf_counter() - begun}
        self.rows.append(row)
        self.stopped = bool(self.callback is not None and self.callback({"trials": self.limit, **row}))
        return score


class _Look:
    """The callback of a trial: looks at the held-out ratings on the way, and ends a fit that has learned enough."""

    def __init__(self, model: Any, held: Ratings):
        self.model, self.held = copy.copy(model), held
        self.every, self.patience = LOOKS[bool(model.implicit)]
        self.score, self.vain = -math.inf, 0
        self.sweep: int | None = None
        self.last: int | None = None

    def __call__(self, row: Row) -> bool:
        self.last = row.get("sweep")
        if "model" not in row or self.last is None or self.last % self.every:
            return False
        self.model.model_ = row["model"]()
        score = _number(self.model.score(self.held))
        if self.sweep is None or better(score, self.score):
            self.score, self.sweep, self.vain = score, self.last, 0
        else:
            self.vain += 1
        return self.vain >= self.patience


def better(score: float, than: float) -> bool:
    return score > than + BETTER * abs(than) if math.isfinite(than) else score > than


def _number(score: Any) -> float:
    return float(score) if math.isfinite(score) else -math.inf


# ── searches ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _climb(trial: _Trials, space: _Space, at: dict[str, int]) -> None:
    """One option after another goes up or down for as long as that is better, in great steps, then in small ones, until none is."""
    try:
        trial(space.options(at))
        for stride in STRIDES:
            while sum(_move(trial, space, at, name, stride) for name in at) and stride == STRIDES[-1]:
                pass
    except _SpentError:
        pass


def _move(trial: _Trials, space: _Space, at: dict[str, int], name: str, stride: int) -> bool:
    """Up one ladder, or else down, as far as it gets better; whether it did. ``at`` is where it stands then."""
    begun, top = at[name], len(space.ladders[name]) - 1
    for step in (stride, -stride):
        while True:
            there = at | {name: min(max(at[name] + step, 0), top)}
            if not better(trial(space.options(there)), trial(space.options(at))):
                break
            at.update(there)
        if at[name] != begun:
            return True
    return False


def _study(sampler: Any, seed: int) -> Any:
    if sampler is None or hasattr(sampler, "optimize"):
        return sampler
    if sampler != "optuna":
        raise ValueError(f'sampler is {sampler!r}; give None, "optuna", or an Optuna study')
    try:
        import optuna
    except ImportError:
        raise ImportError(
            'sampler="optuna" needs Optuna, which is not installed: pip install optuna, or leave sampler out'
        ) from None
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))


def _follow(study: Any, trial: _Trials, space: _Space) -> None:
    """The trials that an Optuna study proposes."""
    sign = -1 if study.direction.name == "MINIMIZE" else 1
    data = space.data({}) if space.by_mean else 1.0

    def propose(t: Any, name: str, where: Sequence[Any]) -> Any:
        if isinstance(where, list):
            return t.suggest_categorical(name, where)
        low, high, whole = _ends(name, where)
        if name == "reg":
            low, high = low / data, high / data
        return (t.suggest_int if whole else t.suggest_float)(name, low, high, log=True)

    def objective(t: Any) -> float:
        value = sign * trial({name: propose(t, name, where) for name, where in space.where.items()})
        if trial.stopped:
            study.stop()
        return value

    study.optimize(objective, n_trials=trial.limit)
