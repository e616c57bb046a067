"""Recommenders: ratings in, a run folder and a report out, and what it recommends. What only answers imports no torch."""

from __future__ import annotations

import difflib
import json
import math
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from .base import (
    DONE,
    INTERRUPTED,
    NO_RATINGS,
    NOT_CONVERGED,
    About,
    Duplicates,
    Flat,
    Missing,
    Names,
    Whole,
    app,
    is_run,
    put_arrow,
    say,
)
from .progress import learning_shown

if TYPE_CHECKING:
    from ..ratings import Comparison, Ratings, Recommender
    from ..serve import Model

TITLES = "titles.parquet"
"""Where a run folder keeps what the items are called."""


Rank = Annotated[int | None, Whole, Parameter(name=["--rank", "-k"])]
Size = Annotated[float | None, Parameter(name="--test-size")]
How = Literal["random", "per-user", "last", "time", "users"]


# ── learning ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def fit_ratings(
    data: str,
    about: About,
    given: dict[str, Any],
    options: str | None,
    missing: str | None,
    titles: str | None,
    size: float | None,
    out: str,
    quiet: bool,
) -> int:
    """What `fit` does with ratings: judge on what is held out, fit again on everything, save with the report."""
    from ..ratings import compare
    from ..serve import check_target

    check_target(out)
    model = _model(about, given, {} if options is None else _tuned(options))
    ratings = _read(data, about, missing, model)
    names = None if titles is None else _titles(titles, ratings)
    if size is not None and not 0 <= size < 1:
        raise ValueError(f"--test-size {size:g} must be a share from 0 (nothing is held out) to 1, such as 0.1")
    compared: Comparison | None = None
    with learning_shown(quiet, "NDCG@10" if model.implicit else "RMSE") as callback:
        if size != 0 and (why := _cannot_hold_out(model, ratings, size)):
            say(f"warning: {why}; nothing is held out, so nobody knows how good it is")
        elif size != 0:
            compared = compare(model, ratings, size=size, callback=callback)
            model = replace(model, **getattr(compared.model, "found_", {}))
        with _stoppable(callback) as (stoppable, stopped):
            model.fit(ratings, callback=stoppable)
    _saved(model, out, names, data, compared)
    if not quiet:
        print(_summary(model, out, compared, stopped))
    elif stopped:
        say(f"Interrupted: the sweeps so far are saved in {out}.")
    return NOT_CONVERGED if stopped else DONE


@app.command
def tune(
    data: str,
    /,
    *,
    about: Flat = NO_RATINGS,
    search: list[str] | None = None,
    trials: Annotated[int, Whole] = 20,
    rank: Rank = None,
    W: Annotated[str | None, Parameter(name="--W")] = None,
    H: Annotated[str | None, Parameter(name="--H")] = None,
    how: How | None = None,
    size: Size = 0.1,
    missing: Missing = None,  # type: ignore[assignment]
    duplicates: Duplicates = None,  # type: ignore[assignment]
    seed: Annotated[int, Whole] = 0,
    out: str = "options.json",
    quiet: bool = False,
) -> int:
    """Search for a recommender's options on ratings that are held out, and write them for `fit --options`.

    Parameters
    ----------
    data
        A parquet or csv file with a rating in each row.
    search
        NAME=LOW:HIGH or NAME=A,B,C, where to look for an option; may be repeated. rank, reg, alpha and unobserved, as far as
        the model has them, if left out.
    trials
        At most so many fits.
    rank
        The number of tastes to begin with.
    W
        The constraint on the users' tastes, e.g. "nonneg".
    H
        The constraint on the items' tastes.
    how
        What is held out: "random", "per-user", the "last" of each user, or the latest of all ("time").
    size
        The share that is held out.
    missing
        For a wide table, a row for each user: "nan", or "zeros" if zeros are no ratings either.
    duplicates
        What a user and item that occur twice mean; an error, if left out.
    seed
        Of the hold-out and the starts.
    out
        The json file for the options.
    quiet
        Print nothing but errors.
    """
    from ..io.files import write_atomically
    from ..ratings import Tuned
    from ..ratings import tune as ask

    model = _model(about, {"rank": rank, "W": W, "H": H, "duplicates": duplicates, "seed": seed})
    ratings = _read(data, about, missing, model)
    where = dict(map(_range, search)) if search else None
    rows: list[dict[str, Any]] = []
    interrupted = False
    with learning_shown(quiet, "NDCG@10" if model.implicit else "RMSE") as show:

        def callback(row: dict[str, Any]) -> None:
            rows.append({key: value for key, value in row.items() if key != "trials"})
            if show is not None:
                show(row)

        try:
            found = ask(
                model, ratings, search=where, trials=trials, size=size or 0.1, how=how, seed=seed, refit=False, callback=callback
            )
        except KeyboardInterrupt:
            if not rows:
                raise
            best, interrupted = max(rows, key=lambda row: row["score"]), True
            options = {key: value for key, value in best.items() if key not in ("trial", "score", "sweeps", "seconds")}
            found = Tuned(model, options, best["score"], rows)
    options = {"reg": model.reg} | found.options if hasattr(model, "reg") else found.options
    told = {"model": type(model).__name__, "options": options, "score": found.score, "trials": found.trials}
    write_atomically(out, json.dumps(told, indent=1, default=float) + "\n")
    if not quiet:
        print(found)
        reached = f"{_measure(model.implicit, found.score)} on what was held out."
        print("Interrupted: these trials were finished." if interrupted else reached)
        print(f"Saved in {out}. Go on with: proxfactor fit {_asked(data, about)} --options {shlex.quote(out)}")
    return INTERRUPTED if interrupted else DONE


@app.command
def evaluate(
    data: str,
    test: str | None = None,
    /,
    *,
    about: Flat = NO_RATINGS,
    measures: Names = None,  # type: ignore[assignment]
    k: Annotated[int, Whole, Parameter(name=["--k", "-k"])] = 10,
    relevant: float | None = None,
    how: How | None = None,
    size: Size = None,
    rank: Annotated[int | None, Whole] = None,
    W: Annotated[str | None, Parameter(name="--W")] = None,
    H: Annotated[str | None, Parameter(name="--H")] = None,
    missing: Missing = None,  # type: ignore[assignment]
    duplicates: Duplicates = None,  # type: ignore[assignment]
    seed: Annotated[int, Whole] = 0,
    out: str | None = None,
    quiet: bool = False,
) -> int:
    """How good a recommender is: a saved one on a test file, or one fitted on a part of a file and judged by the rest.

    The second is also done for the baselines: of ratings their mean and user and item biases, of clicks popularity and EASE.

    Parameters
    ----------
    data
        The folder of a run, or a file with a rating in each row.
    test
        With a run: a file with ratings that it has not seen.
    measures
        rmse, mae, ndcg, recall, capped_recall, precision, map, mrr, hit_rate, auc, coverage, novelty, gini; with another
        length as ndcg@20. The usual ones, if left out.
    k
        The length of the lists.
    relevant
        The least rating that makes an item relevant.
    how
        What is held out: "random", "per-user", the "last" of each user, the latest of all ("time", if a time is named), or
        "users" who are new.
    size
        The share that is held out.
    rank
        The number of tastes.
    W
        The constraint on the users' tastes, e.g. "nonneg".
    H
        The constraint on the items' tastes.
    missing
        For a wide table, a row for each user: "nan", or "zeros" if zeros are no ratings either.
    duplicates
        What a user and item that occur twice mean; an error, if left out.
    seed
        Of the hold-out and the starts.
    out
        Where to write the table (parquet or csv, by its ending).
    quiet
        Print nothing but errors.
    """
    from .. import ratings, serve

    if is_run(data) or test is not None or Path(data).is_dir():
        if test is None:
            raise ValueError(f"{data} is a run; name the file with the ratings to judge it by, as in: evaluate {data} test.parquet")
        if about != NO_RATINGS:
            raise ValueError(
                "the columns of the test file are called as in the fit, and the model is fitted; leave these options out"
            )
        kept = serve.load(data)
        found = ratings.evaluate(kept, test, measures=measures, k=k, relevant=relevant)
        rows, told = [{"model": kept.info.get("class", data)} | dict(found)], repr(found)
    else:
        model = _model(about, {"rank": rank, "W": W, "H": H, "duplicates": duplicates, "seed": seed})
        cells = _read(data, about, missing, model)
        with learning_shown(quiet, "NDCG@10" if model.implicit else "RMSE") as callback:
            compared = ratings.compare(
                model, cells, how=how, size=size, seed=seed, measures=measures, k=k, relevant=relevant, callback=callback
            )
        rows, told = compared.rows(), repr(compared)
    if out is not None:
        from ..io import write_table

        write_table(out, list(rows[0]), [[row[key] for row in rows] for key in rows[0]])
    if not quiet:
        print(told)
        if out is not None:
            print(f"Saved in {out}")
    return DONE


# ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command
def recommend(
    run: str,
    /,
    *,
    user: Names = None,  # type: ignore[assignment]
    n: Annotated[int, Whole, Parameter(name=["--n", "-n"])] = 10,
    with_seen: bool = False,
    candidates: Names = None,  # type: ignore[assignment]
    without: Names = None,  # type: ignore[assignment]
    unknown: Literal["error", "fallback"] = "error",
    new: str | None = None,
    out: str | None = None,
) -> int:
    """The best items for users: those of a fit, or others whose ratings are in a file.

    Parameters
    ----------
    run
        The folder of a run.
    user
        Ids of users; may be repeated. All, if left out.
    n
        How many items for each.
    with_seen
        Also items that the user has.
    candidates
        Ids of the items to choose from.
    without
        Ids of items never to recommend.
    unknown
        What a user who was never seen gets: "error", or the "fallback", which is the same for all of them.
    new
        A file with ratings of other users; the items stay as they were fitted, and those that were not are left out.
    out
        Where to write the table (parquet or csv, by its ending); the terminal, if left out.
    """
    _check_some(user=user, candidates=candidates, without=without)
    model = _model_of(run, new)
    found = model.recommend(user, n, exclude_seen=not with_seen, candidates=candidates, filter=without, unknown=unknown)
    put_arrow(_with_titles(run, found, model, "item"), out)
    return DONE


@app.command
def similar(
    run: str,
    /,
    *,
    item: Names = None,  # type: ignore[assignment]
    user: Names = None,  # type: ignore[assignment]
    n: Annotated[int, Whole, Parameter(name=["--n", "-n"])] = 10,
    out: str | None = None,
) -> int:
    """The items most like an item, or the users most like a user, by the angle between their tastes.

    Parameters
    ----------
    run
        The folder of a run.
    item
        Ids of items; may be repeated.
    user
        Ids of users; may be repeated.
    n
        How many for each.
    out
        Where to write the table (parquet or csv, by its ending); the terminal, if left out.
    """
    _check_some(item=item, user=user)
    if (item is None) == (user is None):
        raise ValueError("give --item ID, or --user ID, one of the two")
    model = _model_of(run)
    found = model.similar_users(user, n) if item is None else model.similar_items(item, n)
    put_arrow(found if item is None else _with_titles(run, _with_titles(run, found, model, "item"), model, "similar"), out)
    return DONE


def predict_ratings(run: str, users: list[str] | None, items: list[str] | None, out: str | None) -> int:
    """What `predict` does with a recommender: a table of scores, a row for each user."""
    import numpy as np
    import pyarrow as pa

    model = _model_of(run)
    users, items = (list(known) if asked is None else asked for asked, known in ((users, model.users), (items, model.items)))
    if len(users) * len(items) > 5e7:
        raise ValueError(
            f"the completed matrix of {len(users):,} users and {len(items):,} items is rarely what is wanted: name some with "
            f"--rows and --cols, or take the best ones of each user: proxfactor recommend {shlex.quote(run)}"
        )
    scores = np.stack([model.predict(user, items) for user in users], 1)
    columns = {str(item): pa.array(row) for item, row in zip(items, scores, strict=True)}
    put_arrow(pa.table({"row": pa.array(users), **columns}), out)
    return DONE


def report_ratings(run: str, out: str | None) -> int:
    """What `report` does with a recommender."""
    from ..ratings import Recommender
    from ..report import write_recommender

    print(
        f"The report is {write_recommender(Recommender.load(run), out or Path(run) / 'report.html', _kept_titles(run), folder=run)}"
    )
    return DONE


def _model_of(run: str, new: str | None = None) -> Model:
    from ..serve import load

    if new is None:
        return load(run)
    from ..ratings import Recommender

    return Recommender.load(run).fold_in(new, unknown="drop").model_


def _check_some(**given: list[str] | None) -> None:
    for name, ids in given.items():
        if ids == []:
            raise ValueError(f"--{name} needs at least one id; leave it out for all")


# ── what goes in ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _model(about: About, given: dict[str, Any], tuned: dict[str, Any] | None = None) -> Recommender:
    """The recommender that was asked for, with the options that were given, or else found by `tune`."""
    from .. import ratings

    kinds: dict[str, Any] = {
        name.lower(): kind
        for name, kind in vars(ratings).items()
        if isinstance(kind, type) and issubclass(kind, ratings.Recommender) and kind is not ratings.Recommender
    }
    tuned = tuned or {}
    name = about.model or ("ImplicitMF" if about.implicit else tuned.get("model", "ExplicitMF"))
    if name.lower() not in kinds:
        known = [kind.__name__ for kind in kinds.values()]
        near = difflib.get_close_matches(name.lower(), kinds, n=1)
        way = f"did you mean {kinds[near[0]].__name__}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"--model {name!r} is no recommender; {way}")
    kind = kinds[name.lower()]
    if about.implicit and not kind.implicit:
        raise ValueError(f"--implicit and --model {kind.__name__}: that one is for ratings; leave one of the two out")
    options = dict(tuned["options"]) if tuned.get("model") == kind.__name__ else {}
    options |= {name: value for name, value in given.items() if value is not None}
    options |= {name: _number(name, text) for name in ("reg", "unobserved") if (text := getattr(about, name)) is not None}
    options |= {} if about.alpha is None else {"alpha": about.alpha}
    has = [f.name for f in fields(kind) if f.init]
    if lacking := [name for name in options if name not in has and name != "seed"]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in has)
        raise ValueError(f"{kind.__name__} has no option --{lacking[0].replace('_', '-')}; it has {flags}")
    return kind(**{name: value for name, value in options.items() if name in has})


def _tuned(file: str) -> dict[str, Any]:
    """What `tune` wrote."""
    try:
        found: dict[str, Any] = json.loads(Path(file).read_text("utf-8"))
        dict(found["options"]), str(found["model"])
    except FileNotFoundError:
        raise ValueError(f"--options {file} does not exist; give the file that `proxfactor tune` wrote") from None
    except (KeyError, TypeError, ValueError, OSError):
        raise ValueError(f"--options {file} is not what `proxfactor tune` writes; let it write the file again") from None
    return found


def _number(name: str, text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--{name} {text!r} is no number; give one, or auto to have it chosen on ratings held out") from None


def _range(text: str) -> tuple[str, Any]:
    """NAME=LOW:HIGH or NAME=A,B,C: where a search looks."""
    name, equals, where = text.partition("=")
    try:
        values = [int(v) if v.lstrip("-").isdecimal() else float(v) for v in where.replace(":", ",").split(",")]
    except ValueError:
        values = []
    if not equals or not values or (":" in where and len(values) != 2):
        raise ValueError(f"--search {text!r} must be NAME=LOW:HIGH or NAME=A,B,C, e.g. rank=16,32,64 or reg=0.1:10")
    return name, tuple(values) if ":" in where else values


def _read(data: str, about: About, missing: str | None, model: Recommender) -> Ratings:
    import numpy as np

    from ..ratings import read_ratings

    if missing == "none":
        raise ValueError("--missing none: a user has not rated everything; for a wide table say nan or zeros, else leave it out")
    named = {"user": about.users, "item": about.items, "rating": about.values, "time": about.time, "weight": about.weights}
    ratings = read_ratings(data, **named, duplicates=model.duplicates, missing=missing)
    if not model.implicit and missing is None and "rating" not in ratings.columns:
        raise ValueError(
            f"{data}: which column holds the ratings? Name it with --values; or, where a row is a click, a view, a purchase, "
            "say --implicit"
        )
    if not model.implicit and np.ptp(ratings.value) == 0:
        say(
            f"warning: all ratings are {ratings.value[0]:g}, so there is nothing to tell apart; if a row is a click, say --implicit"
        )
    return ratings


def _titles(path: str, ratings: Ratings) -> list[str]:
    """What each item is called: the column "title" or "name", or the second, by the items' column, or the first."""
    from ..ratings import codes_of
    from ..ratings.tables import source_of

    source = source_of(path)
    called, names = ratings.columns["item"], list(source.names)
    if len(names) < 2:
        raise ValueError(f"--titles {path} has one column; it needs two, the ids of items and what they are called")
    key = called if called in names else names[0]
    free = [name for name in names if name != key]
    title = next((name for name in free if name.lower() in ("title", "name")), free[0])
    columns = source.columns([key, title], [key])
    ids, words = columns[key].to_pylist(), columns[title].to_pylist()
    some = [(i, w) for i, w in zip(ids, words, strict=True) if i is not None and w is not None]
    codes = codes_of([i for i, _ in some], ratings.items, "item", "fallback")
    if not (codes >= 0).any():
        raise ValueError(f"--titles {path}: its column {key!r} names none of the items, such as {ratings.items[0]}; check the ids")
    found = [str(item) for item in ratings.items]
    for code, (_, word) in zip(codes, some, strict=True):
        if code >= 0:
            found[code] = str(word)
    return found


@contextmanager
def _stoppable(show: Callable[[dict[str, Any]], Any] | None) -> Iterator[tuple[Callable[[dict[str, Any]], bool], list[bool]]]:
    """A callback under which Control-C ends the sweeps with the next one, and whether it did; while nothing is there to be
    saved it interrupts, and so does a second one."""
    asked: list[bool] = []
    sweeping: list[bool] = []

    def ask(*_: Any) -> None:
        if asked or not sweeping:
            raise KeyboardInterrupt
        asked.append(True)

    def callback(row: dict[str, Any]) -> bool:
        if "sweep" in row:
            sweeping.append(True)
        if show is not None:
            show(row)
        return bool(asked)

    if threading.current_thread() is not threading.main_thread():
        yield callback, asked
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield callback, asked
    finally:
        signal.signal(signal.SIGINT, before)


def _cannot_hold_out(model: Recommender, ratings: Ratings, size: float | None) -> str:
    """Why no ratings can be held out; empty if they can."""
    from ..ratings.comparison import parted

    try:
        parted(model, ratings, None, size)
    except ValueError as error:
        return str(error)
    return ""


# ── what comes out ────────────────────────────────────────────────────────────────────────────────────────────────────


def _saved(model: Recommender, out: str, titles: list[str] | None, data: str, compared: Comparison | None) -> None:
    from ..io import write_table
    from ..report import write_recommender

    command = shlex.join(["proxfactor", *sys.argv[1:]])
    about: dict[str, Any] = {"data": data, "command": command, "created": time.strftime("%Y-%m-%d %H:%M")}
    if compared is not None:
        notes = dict.fromkeys(note for measured in compared.found.values() for note in measured.notes)
        about |= {
            "evaluation": {
                "rows": _finite(compared.rows()),
                "errors": _finite(compared.errors()),
                "held_out": compared.held_out,
                "notes": list(notes),
            },
            "trials": _finite(getattr(compared.model, "trials_", [])),
        }
    model.model_ = replace(model.model_, info=model.model_.info | about)
    model.save(out)
    if titles is not None:
        write_table(Path(out) / TITLES, ["item", "title"], [model.model_.items, titles])
    write_recommender(model, Path(out) / "report.html", titles, folder=out)


def _finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]


def _kept_titles(run: str) -> list[str] | None:
    import pyarrow.parquet as pq

    file = Path(run) / TITLES
    return pq.read_table(file).column("title").to_pylist() if file.is_file() else None


def _with_titles(run: str, table: Any, model: Model, of: str) -> Any:
    """The table with a column that says what the items in a column are called, if the run knows."""
    import pyarrow as pa

    from ..serve import codes_of

    titles = _kept_titles(run)
    if titles is None:
        return table
    name = model.info.get("columns", {}).get(of, of)
    codes = codes_of(table.column(name).to_numpy(), model.items, "item")
    words = pa.array([titles[code] for code in codes], pa.string())
    return table.add_column(table.column_names.index(name) + 1, "title" if of == "item" else f"title of {of}", words)


def _summary(model: Recommender, out: str, compared: Comparison | None, stopped: list[bool]) -> str:
    m, n = model.ratings_.shape
    options = {f.name: getattr(model, f.name) for f in fields(model) if f.init and f.name in ("rank", "reg", "unobserved", "alpha")}
    shown = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in options.items())
    lines = [f"{type(model).__name__}: {len(model.ratings_):,} ratings by {m:,} users of {n:,} items{shown and ', '}{shown}"]
    if stopped:
        lines.append("Interrupted: the sweeps so far are saved.")
    if compared is not None:
        lines.append(repr(compared))
    first = shlex.quote(str(model.model_.users[0]))
    lines.append(f"Saved in {out}; the report is {Path(out) / 'report.html'}")
    return "\n".join([*lines, f"Go on with: proxfactor recommend {shlex.quote(out)} --user {first}"])


def _measure(implicit: bool, score: float) -> str:
    return f"NDCG@10 {score:.4f}" if implicit else f"RMSE {-score:.4f}"


def _asked(data: str, about: About) -> str:
    """The options that say what the columns are, as they were typed."""
    words = [shlex.quote(data)]
    for name, value in asdict(about).items():
        if name in ("users", "items", "values", "time", "weights") and value is not None:
            words.append(f"--{name} {shlex.quote(value)}")
    return " ".join(words)
