"""The page of a recommender: how good it is, what it has learned, and what it recommends to whom and why."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .page import BLUE, GREY, RUST, environment, plain, svg, thin

if TYPE_CHECKING:
    from ..serve import Model

USERS = 150
"""Users whose recommendations the page holds; of more, those drawn by chance."""

WORK = 3e10
"""Multiplications that their reasons may cost; of large models the page holds fewer users, at least 20."""

LISTED = 2000
"""Users whose lists are counted for what is recommended how often."""

AXES, NAMED = 8, 6
"""Directions of taste that are shown, and items at each end."""

WIDE = 1.645
"""Half a 90 % interval of a normal, in standard deviations."""

LOWER = ("rmse", "mae")


def write_recommender(
    model: Any, path: str | Path, titles: Mapping[Any, str] | Sequence[str] | None = None, *, folder: str | Path | None = None
) -> Path:
    """One HTML file about a fitted recommender, which shows recommendations and reasons for the user that the reader picks.

    ``titles`` says what the items are called: a dict by id, or a list in the order of ``model.model_.items``; ``folder`` is
    where the model is saved, for the commands on the page. It holds the answers for 150 users at most, needs no network, and
    appears whole or not at all. Returns its path.

    >>> import tempfile
    >>> from proxfactor import ImplicitMF
    >>> model = ImplicitMF(rank=1, reg=0.01, unobserved=0.1).fit((["a", "a", "b"], [1, 2, 1]))
    >>> write_recommender(model, Path(tempfile.mkdtemp(), "report.html"), {1: "Alien", 2: "Brazil"}).name
    'report.html'
    """
    from ..io import write_atomically

    return write_atomically(path, render_recommender(model, titles, folder=folder))


def render_recommender(
    model: Any, titles: Mapping[Any, str] | Sequence[str] | None = None, *, folder: str | Path | None = None
) -> str:
    """The page as text; ``write_recommender`` puts it into a file."""
    from markupsafe import Markup

    script = files("proxfactor.report").joinpath("recommender.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    names = _names(model.model_, titles)
    answers = _answers(model, names, folder)
    facts = _facts(model, names, folder) | {
        "explains": answers["explains"],
        "held": len(answers["users"]),
        "script": Markup(script),
        "hash": digest,
        "data": Markup(_json(answers)),
    }
    text = environment().get_template("recommender.html.j2").render(facts)
    return text.encode("utf-8", "replace").decode()


def _json(data: Any) -> str:
    """JSON that ends no element and is no markup, whatever the names in it are."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _names(model: Model, titles: Mapping[Any, str] | Sequence[str] | None) -> list[str]:
    if isinstance(titles, Mapping):
        return [str(titles.get(item, item)) for item in model.items.tolist()]
    if titles is not None and len(titles) != len(model.items):
        raise ValueError(f"{len(titles)} titles for {len(model.items)} items; give one for each, or a dict by id")
    return [str(name) for name in (model.items if titles is None else titles)]


# ── what there is to say ──────────────────────────────────────────────────────────────────────────────────────────────


def _facts(model: Any, names: list[str], folder: str | Path | None) -> dict[str, Any]:
    kept, info = model.model_, model.model_.info
    m, n = len(kept.users), len(kept.items)
    judged, trials = info.get("evaluation"), info.get("trials") or []
    lists = kept.recommend(_some(kept, LISTED), 10) if len(kept.indices) else None
    shown = {} if lists is None else _how_often(kept, lists)
    place = str(folder or "run")
    history = [row for row in model.history_ if row.get("loss", row.get("error")) is not None]
    drawn: dict[str, tuple[str, Any]] = {}
    if len(history) > 1:
        drawn["loss"] = "The objective over the sweeps", partial(_draw_history, history)
    if len(trials) > 1:
        drawn["trials"] = "The trials of the search", partial(_draw_trials, trials, model.implicit)
    if shown:
        drawn["popularity"] = (
            "Popular items, rated and recommended",
            partial(_draw_popularity, shown["rated"], shown["recommended"]),
        )
    asked = {name: plain(value) for name, value in info["options"].items() if value is not None}
    asked |= {name: plain(info[name]) for name in ("data",) if name in info}
    asked |= {f"column of the {what}": name for what, name in info["columns"].items()}
    return {
        "kind": info["class"],
        "implicit": model.implicit,
        "m": m,
        "n": n,
        "cells": len(kept.indices),
        "sweeps": len(model.history_),
        "seconds": model.history_[-1].get("seconds") if model.history_ else None,
        "error": next((row["error"] for row in model.history_[::-1] if "error" in row), None),
        "judged": None if judged is None else _judged(judged, model.implicit),
        "axes": _axes(kept, names, model),
        "axes_free": not _constrained(model),
        "figures": {name: svg(name, label, partial(_drawn, draw)) for name, (label, draw) in drawn.items()},
        "trials": trials,
        "coverage": shown.get("coverage"),
        "counted": shown.get("counted"),
        "asked": asked,
        "command": info.get("command"),
        "created": info.get("created"),
        "folder": None if folder is None else str(folder),
        "quoted": repr(place),
        "shell": shlex.quote(place),
        "first": shlex.quote(str(kept.users[0])),
        "intervals": kept.noise is not None,
    }


def _judged(evaluation: dict[str, Any], implicit: bool) -> dict[str, Any]:
    """The table of measures, and in a few words how the model stands."""
    rows, errors = evaluation["rows"], evaluation["errors"]
    measures = [name for name in rows[0] if name != "model"]
    main = next((name for name in measures if name.startswith("ndcg" if implicit else "rmse")), measures[0])
    sign = -1 if main.partition("@")[0] in LOWER else 1
    others = [row for row in rows[1:] if row[main] is not None]
    best = max(others, key=lambda row: sign * row[main], default=None)
    ahead = best is None or sign * rows[0][main] > sign * best[main]
    badge = ("good", "better than the baselines") if ahead else ("warn", f"no better than {best['model']}")  # type: ignore[index]
    return {
        "main": main,
        "measures": measures,
        "value": rows[0][main],
        "best": best,
        "badge": badge,
        "rows": [
            {"model": row["model"], "cells": [(row[name], error.get(name)) for name in measures]}
            for row, error in zip(rows, errors, strict=True)
        ],
        "held_out": evaluation["held_out"],
        "notes": evaluation["notes"],
        "lower": sign < 0,
    }


def _some(model: Model, count: int) -> np.ndarray:
    """Ids of users with data, at most so many, in order."""
    rows = np.flatnonzero(np.diff(model.indptr))
    if len(rows) > count:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:count])
    return model.users[rows]


def _how_often(model: Model, lists: Any) -> dict[str, Any]:
    """Shares of the ratings and of the lists that the items have, the most rated first."""
    item = model.info["columns"].get("item", "item")
    rated = np.bincount(model.indices, minlength=len(model.items))
    place = np.searchsorted(model.items, lists.column(item).to_numpy().astype(model.items.dtype))
    recommended = np.bincount(place, minlength=len(model.items))
    order = np.argsort(-rated, kind="stable")
    if not recommended.sum():
        return {}
    return {
        "rated": np.cumsum(rated[order]) / rated.sum(),
        "recommended": np.cumsum(recommended[order]) / recommended.sum(),
        "coverage": float(np.mean(recommended > 0)),
        "counted": min(LISTED, int(np.count_nonzero(np.diff(model.indptr)))),
    }


def _constrained(model: Any) -> bool:
    return getattr(model, "W", None) is not None or getattr(model, "H", None) is not None


def _axes(kept: Model, names: list[str], model: Any) -> list[dict[str, Any]]:
    """Directions of taste, those that move the scores most first: the size of each, and the items at its two ends."""
    if kept.X is None or not kept.Y.shape[1] or min(len(kept.X), len(kept.Y)) < 2 or not (kept.X.any() and kept.Y.any()):
        return []
    if _constrained(model):
        items = kept.Y.astype(np.float64) * np.sqrt(np.mean(kept.X.astype(np.float64) ** 2, axis=0))
    else:
        items = _principal(kept.X, kept.Y)
    size = np.sqrt(np.mean(items**2, axis=0))
    found = []
    for q in np.argsort(-size, kind="stable")[:AXES]:
        column = items[:, q]
        if not size[q] > 0:
            continue
        if not _constrained(model) and -column.min() > column.max():
            column = -column
        largest = float(np.abs(column).max())
        order = np.argsort(-column, kind="stable")
        ends = [[i for i in part if keep(column[i])] for part, keep in ((order[:NAMED], _above), (order[::-1][:NAMED], _below))]
        entries = [[{"name": names[i], "value": float(column[i]), "size": abs(column[i]) / largest} for i in end] for end in ends]
        found.append({"size": float(size[q]), "ends": entries})
    return found


def _above(value: float) -> bool:
    return value > 0


def _below(value: float) -> bool:
    return value < 0


def _principal(X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """(n, axes): the right singular vectors of X Yᵀ with the largest values, each times its value / √m."""
    from scipy.sparse.linalg import LinearOperator, svds

    m, n = len(X), len(Y)
    few = min(AXES, X.shape[1], min(m, n) - 1)
    if min(m, n) <= 2 * AXES:
        _, s, Vt = np.linalg.svd(X.astype(np.float64) @ Y.T)
        few = min(few + 1, len(s))
        return Vt[:few].T * s[:few] / m**0.5
    product = LinearOperator((m, n), matvec=lambda v: X @ (Y.T @ v), rmatvec=lambda v: Y @ (X.T @ v), dtype=np.float32)
    _, s, Vt = svds(product, few, v0=np.random.default_rng(0).standard_normal(min(m, n)).astype(np.float32), tol=1e-3)
    return Vt.T.astype(np.float64) * s / m**0.5


# ── answers for the reader to pick from ───────────────────────────────────────────────────────────────────────────────


def _answers(model: Any, names: list[str], folder: str | Path | None) -> dict[str, Any]:
    """Recommendations and reasons of some users, items by their number in a list of titles."""
    kept = model.model_
    each = 10 * len(kept.items) * (1 if kept.X is None else (kept.X.shape[1] / kept.draws) ** 2)
    users = _some(kept, min(USERS, max(20, int(WORK / max(1, each)))))
    called = kept.info["columns"]
    table = kept.recommend(users, 10) if len(users) else None
    lists: dict[Any, list[tuple[int, float]]] = {user: [] for user in users.tolist()}
    if table is not None:
        columns = [table.column(called.get("user", "user")), table.column(called.get("item", "item")), table.column("score")]
        for user, code, score in zip(*(column.to_pylist() for column in columns), strict=True):
            lists[user].append((int(np.searchsorted(kept.items, code)), score))
    number: dict[int, int] = {}

    def item(code: int) -> int:
        return number.setdefault(int(code), len(number))

    told, explains = [], True
    for row, user in zip(np.searchsorted(kept.users, users), users.tolist(), strict=True):
        seen, values = kept.seen(row)
        last = np.argsort(-values, kind="stable")[:8]
        best = lists[user]
        ends = _intervals(kept, user, [code for code, _ in best]) if kept.noise is not None and best else [[]] * len(best)
        picked: list[list[Any]] = []
        for place, (code, score) in enumerate(best):
            why: list[list[Any]] = []
            if explains:
                try:
                    why = _why(model, user, code, item)
                except NotImplementedError:
                    explains = False
            picked.append([item(code), _short(score), why, *ends[place]])
        has = [[item(seen[j]), _short(values[j])] for j in last]
        told.append({"id": str(user), "count": len(seen), "has": has, "best": picked})
    titles = [names[code] for code in number]
    return {
        "items": titles,
        "users": told,
        "ratings": bool(np.ptp(kept.values)) if len(kept.values) else False,
        "explains": explains,
        "run": shlex.quote(str(folder or "run")),
        "all": len(users) == len(kept.users),
    }


def _intervals(kept: Model, user: Any, codes: list[int]) -> list[list[float]]:
    """Where nine of ten ratings of each item would lie, within the scale."""
    mean, std = replace(kept, low=None, high=None).predict(user, kept.items[codes], return_std=True)
    low, high = (end if kept.low is None else np.clip(end, kept.low, kept.high) for end in (mean - WIDE * std, mean + WIDE * std))
    return [[_short(a), _short(b)] for a, b in zip(low, high, strict=True)]


def _why(model: Any, user: Any, code: int, item: Any) -> list[list[Any]]:
    """The three seen items that add most to a score."""
    row = int(np.searchsorted(model.model_.users, user))
    seen, _ = model.model_.seen(row)
    shares = np.asarray(model._shares(row, code), np.float64)
    most = [j for j in np.argsort(-shares, kind="stable")[:3] if shares[j] > 0]
    return [[item(seen[j]), _short(shares[j])] for j in most]


def _short(value: Any) -> float:
    return float(f"{float(value):.4g}")


# ── pictures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _drawn(draw: Any, figure: Any) -> None:
    draw(figure.subplots())


def _draw_history(history: list[dict[str, Any]], ax: Any) -> None:
    key = "loss" if "loss" in history[0] else "error"
    ax.plot([row["sweep"] for row in history], [row.get(key) for row in history], color=BLUE, marker="o", markersize=3, linewidth=1)
    ax.set(xlabel="sweep", ylabel={"loss": "objective", "error": "error on the ratings learned from"}[key])
    ax.locator_params(axis="x", nbins=6, integer=True)


def _draw_trials(trials: list[dict[str, Any]], implicit: bool, ax: Any) -> None:
    score = np.array([np.nan if row["score"] is None else row["score"] for row in trials], dtype=float)
    best = np.fmax.accumulate(score)
    sign = 1 if implicit else -1
    at = np.arange(1, len(score) + 1)
    ax.plot(at, sign * score, "o", color=BLUE, markersize=4, label="trial")
    ax.step(at, sign * best, where="post", color=RUST, linewidth=1, label="best so far")
    ax.set(xlabel="trial", ylabel=f"{'NDCG@10' if implicit else 'RMSE'} on ratings held out")
    ax.legend(frameon=False)
    ax.locator_params(axis="x", nbins=6, integer=True)


def _draw_popularity(rated: np.ndarray, recommended: np.ndarray, ax: Any) -> None:
    for share, color, what in ((rated, BLUE, "ratings"), (recommended, RUST, "recommendations")):
        y = np.concatenate([[0.0], share])
        kept = thin(y)
        ax.plot(100 * kept / (len(y) - 1), 100 * y[kept], color=color, linewidth=1.2, label=what)
    ax.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    ax.set(xlabel="% of the items, most rated first", ylabel="% of")
    ax.legend(frameon=False, loc="lower right")
