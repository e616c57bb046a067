"""Pictures of a result, and one HTML file that shows all of it: opened from disk, no network, no script."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics import residual_summary
from .page import (
    BLUE,
    GREY,
    RUST,
    empty,
    environment,
    label,
    logarithmic,
    new_axes,
    percent,
    plain,
    svg,
    thin,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..fit import Result

SHOWN = 64
"""Components that are drawn; of more, those with the largest share."""

FEW = 30
"""Columns that still fit into one bar chart; of more, the largest 12 are named."""

# ── pictures ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def plot_history(result: Result, ax: Axes | None = None, of: str = "loss") -> Axes:
    """The loss, or the certificate of both factors with the tolerance, over the iterations.

    ``of`` is "loss" or "certificate". Without ``ax`` a new figure is made.

    >>> from proxfactor import factorize
    >>> run = factorize([[1.0, 2.0], [2.0, 4.0]], 1, W="nonneg")
    >>> from matplotlib.figure import Figure
    >>> plot_history(run, Figure().subplots(), of="certificate").get_ylabel()
    'certificate'
    """
    _one_of(of, ("loss", "certificate"))
    ax = new_axes(ax)
    lines = {"loss": ("loss", BLUE)} if of == "loss" else {"W": ("certificate_W", BLUE), "H": ("certificate_H", RUST)}
    drawn = np.concatenate([_line(ax, result.history, key, label, color) for label, (key, color) in lines.items()])
    ax.set(xlabel="iteration", ylabel=of)
    if not drawn.size:
        return empty(ax, "not available")
    tol = result.settings.get("tol")
    if of == "certificate" and tol:
        ax.axhline(tol, color=GREY, linestyle=(0, (4, 3)), linewidth=1, label=f"tol {tol:g}")
    if of == "certificate":
        ax.legend(frameon=False)
    if result.history[0]["iteration"] > 0 and result.history[-1]["iteration"] > 50:
        logarithmic(ax, "x")
    if (of == "certificate" and drawn.max() > 0) or (drawn.min() > 0 and drawn.max() > 20 * drawn.min()):
        logarithmic(ax, "y")
    if of == "certificate" and tol and drawn.max() > tol > 30 * drawn.min():
        ax.set_ylim(bottom=tol / 30)  # W is solved to the end at last: keep the way there in view
    return ax


def _line(ax: Axes, history: list[dict[str, float]], key: str, label: str, color: str) -> np.ndarray:
    x = np.array([h["iteration"] for h in history], dtype=float)
    y = np.array([h.get(key, math.nan) for h in history], dtype=float)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    kept = thin(y)
    ax.plot(x[kept], y[kept], color=color, label=label, marker="o" if len(kept) < 3 else None, markersize=4)
    return y


def plot_components(result: Result, axes: Any = None, image: tuple[int, int] | None = None, of: str = "H") -> Figure:
    """The components, the rows of H (k, n), side by side, each on its own scale and with its share of the total ‖w_k h_k‖.

    ``of="W"`` draws the columns of W (m, k) instead, as images, where the rows of X are the pixels of one.

    Images where the columns have an image shape (``image``, or the result's own), curves where there are many columns or
    their names are numbers that rise or fall, bars with names otherwise. ``axes``: Axes to draw on, one per component;
    without, a new figure for up to 64. Where there are fewer axes than components, the largest components are drawn.

    >>> from proxfactor import factorize
    >>> run = factorize([[1.0, 2.0], [2.0, 4.0]], 1, W="nonneg")
    >>> from matplotlib.figure import Figure
    >>> plot_components(run, Figure().subplots(), image=(1, 2)).axes[0].get_title()
    '1 · 100 %'
    """
    _one_of(of, ("H", "W"))
    kind, image = _kind(result, image, of)
    F, shares = _array(result.factors[1] if of == "H" else result.factors[0].mT), _shares(result)
    if axes is None:
        import matplotlib.pyplot as plt

        axes = _grid(plt.figure(layout="constrained"), min(len(F), SHOWN), kind, image)
    places = np.ravel(axes)
    shown = _largest_components(shares, len(places))
    for ax, q in zip(places, shown, strict=False):
        if image is not None:
            ax.imshow(_tint(F[q].reshape(image)), interpolation="none")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set(visible=True, linewidth=0.5)
        elif kind == "curves":
            _curve(ax, _positions(result), F[q])
        else:
            plot_loadings(result, int(q) + 1, ax, "columns", top=12)
        ax.set_title(f"{q + 1} · {percent(shares[q])}", fontsize="medium")
    for ax in places[len(shown) :]:
        ax.set_axis_off()
    return places[0].figure


def _grid(figure: Figure, count: int, kind: str, image: tuple[int, int] | None) -> np.ndarray:
    """Axes for ``count`` components, and a figure of the size that they need."""
    fullest = min(range(8, 4, -1), key=lambda a: -count % a)
    across = min(count, {"images": fullest, "curves": 2 if count <= 8 else 3}.get(kind, 3))
    down = math.ceil(count / across)
    tall = 7.6 / max(across, 2) * min(image[0] / image[1], 3) + 0.2 if image else {"curves": 1.35}.get(kind, 2.8)
    figure.set_size_inches(8, down * tall + 0.3)
    return figure.subplots(down, across, sharex=kind == "curves", squeeze=False).ravel()


def _curve(ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
    kept = thin(y)
    ax.plot(x[kept], y[kept], color=BLUE, linewidth=1.2)
    ax.fill_between(x[kept], 0, y[kept], color=BLUE, alpha=0.13, linewidth=0)
    ax.margins(x=0)
    ax.set_yticks([0])
    ax.grid(axis="x", visible=False)


def plot_loadings(result: Result, component: int = 1, ax: Axes | None = None, of: str = "rows", top: int = 10) -> Axes:
    """The largest entries of one component as bars with names: of its column of W (``of="rows"``) or its row of H ("columns").

    component counts from 1, as in the names of the components. Where there are at most 30 columns, all of them are drawn
    in their own order.

    >>> from proxfactor import factorize
    >>> run = factorize([[1.0, 2.0], [2.0, 4.0]], 1, W="nonneg")
    >>> from matplotlib.figure import Figure
    >>> [t.get_text() for t in plot_loadings(run, 1, Figure().subplots()).get_yticklabels()]
    ['row 1', 'row 0']
    """
    _one_of(of, ("rows", "columns"))
    if not 1 <= component <= result.factors[1].shape[0]:
        raise ValueError(f"component is {component}; it is a number from 1 to {result.factors[1].shape[0]}")
    bars = _loadings(result, component - 1, of, top)
    ax = new_axes(ax)
    values = [b["value"] for b in bars]
    at = np.arange(len(bars))
    ax.barh(at, values, color=[BLUE if v >= 0 else RUST for v in values], height=0.7)
    ax.set_yticks(at, [label(b["name"]) for b in bars], parse_math=False)
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    return ax


def plot_residual(result: Result, ax: Axes | None = None, of: str = "histogram") -> Axes:
    """What is left over, x - ŷ: its "histogram", the relative error along the "rows" or "cols", or a coarse "picture".

    In the picture blue is data above the fit, rust below, grey no data. Raises ValueError where the result holds no summary.

    >>> from proxfactor import factorize, metrics
    >>> run = factorize([[1.0, 2.0], [2.0, 4.0]], 1, W="nonneg")
    >>> run.residual = metrics.residual_summary([[1.0, 2.0], [2.0, 4.0]], *run.factors)
    >>> from matplotlib.figure import Figure
    >>> plot_residual(run, Figure().subplots(), of="rows").get_ylabel()
    'relative error'
    """
    _one_of(of, ("histogram", "rows", "cols", "picture"))
    if result.residual is None:
        raise ValueError(
            "the result holds no summary of its residual, as the data was not at hand; "
            "set run.residual = proxfactor.metrics.residual_summary(X, run.W, run.H) first"
        )
    ax, part = new_axes(ax), result.residual[of]
    if of == "histogram":
        ax.stairs(part["counts"], part["edges"], fill=True, color=BLUE)
        ax.set(xlabel="data − fit", ylabel="cells")
        ax.set_xlim(part["edges"][0], part["edges"][-1])
        ax.locator_params(axis="x", nbins=5)
        return ax
    if of == "picture":
        picture = np.array(part, dtype=float)
        m, n = result.residual["shape"]
        ax.imshow(_tint(picture), interpolation="none", aspect="auto", extent=(0, n, m, 0))
        ax.set(xlabel="column", ylabel="row")
        ax.grid(visible=False)
        ax.locator_params(nbins=5, integer=True)
        return ax
    error = np.array(part["error"], dtype=float)
    ax.plot(np.arange(len(error)) * part["group"], error, "o" if len(error) < 60 else "-", color=BLUE, linewidth=1, markersize=3)
    ax.set(xlabel={"rows": "row", "cols": "column"}[of], ylabel="relative error")
    ax.set_ylim(bottom=0)
    ax.locator_params(axis="x", nbins=5, integer=True)
    return ax


def _one_of(of: str, known: tuple[str, ...]) -> None:
    if of not in known:
        raise ValueError(f"of is {of!r}; it must be one of {', '.join(map(repr, known))}")


def _tint(values: np.ndarray) -> np.ndarray:
    """RGBA of an array: the sign as colour, the size as opacity, so that it shows on light and on dark; NaN is grey."""
    from matplotlib.colors import to_rgb

    size = np.nanmax(np.abs(values), initial=0.0) or 1.0
    rgba = np.empty((*values.shape, 4))
    rgba[..., :3] = np.where(values[..., None] < 0, to_rgb(RUST), to_rgb(BLUE))
    rgba[..., 3] = np.abs(values) / size
    rgba[np.isnan(values)] = (*to_rgb(GREY), 0.35)
    return rgba


# ── what there is to say ──────────────────────────────────────────────────────────────────────────────────────────────


def _array(F: Any) -> np.ndarray:
    return F.detach().double().cpu().numpy()


def _shares(result: Result) -> np.ndarray:
    """‖w_k h_k‖ of each component as a share of their sum, (k,)."""
    W, H = map(_array, result.factors)
    size = np.linalg.norm(W, axis=0) * np.linalg.norm(H, axis=1)
    return size / (size.sum() or 1.0)


def _largest_components(shares: np.ndarray, count: int = SHOWN) -> np.ndarray:
    return np.sort(np.argsort(-shares, kind="stable")[:count])


def _kind(result: Result, image: tuple[int, int] | None, of: str = "H") -> tuple[str, tuple[int, int] | None]:
    """How the rows of H (or the columns of W) are drawn: "images" with their shape, "curves" or "bars"."""
    m, n = result.factors[0].shape[0], result.factors[1].shape[1]
    image = image or result.image
    pixels = None if image is None else math.prod(image)
    if pixels not in (None, m, n) or (of == "W" and pixels != m):
        given = "no image shape" if image is None else f"an image of {image[0]} x {image[1]} pixels"
        need = "give image=(height, width) with as many pixels as there are columns, or rows"
        raise ValueError(f"given {given} for {m} rows and {n} columns; {need}")
    if image is not None and pixels == (n if of == "H" else m):
        return "images", (int(image[0]), int(image[1]))
    ordered = result.cols is not None and _numbers(result.cols) is not None
    return ("curves" if ordered or (result.cols is None and n > FEW) else "bars"), None


def _has_maps(result: Result, image: tuple[int, int] | None) -> bool:
    """Whether the rows of X, and not its columns, are the pixels of an image."""
    image, m, n = image or result.image, result.factors[0].shape[0], result.factors[1].shape[1]
    return image is not None and m != n and math.prod(image) == m


def _numbers(names: Any) -> np.ndarray | None:
    """The names as numbers, if that is what they are and if they rise or fall all the way."""
    try:
        x = np.asarray(names).astype(float)
    except (TypeError, ValueError):
        return None
    steps = np.diff(x)
    return x if len(x) > 2 and np.isfinite(x).all() and ((steps > 0).all() or (steps < 0).all()) else None


def _positions(result: Result) -> np.ndarray:
    named = None if result.cols is None else _numbers(result.cols)
    return np.arange(result.factors[1].shape[1]) if named is None else named


def _loadings(result: Result, q: int, of: str, top: int) -> list[dict[str, Any]]:
    """The largest entries of component q, largest first; all columns in their own order where they are few."""
    factor, names = (result.factors[0].mT, result.rows) if of == "rows" else (result.factors[1], result.cols)
    values = _array(factor[q])
    everything = of == "columns" and len(values) <= FEW
    order = np.arange(len(values)) if everything else _top(values, top)
    largest = np.abs(values).max() or 1.0
    word = of.removesuffix("s")
    return [
        {
            "name": f"{word} {i}" if names is None else str(names[i]),
            "value": float(values[i]),
            "size": float(abs(values[i]) / largest),
        }
        for i in order
    ]


def _top(values: np.ndarray, count: int) -> np.ndarray:
    count = min(count, len(values))
    some = np.argpartition(-np.abs(values), count - 1)[:count]
    some = some[np.argsort(-np.abs(values[some]), kind="stable")]
    return some[values[some] != 0]


_BADGES = {
    "converged": ("good", "converged"),
    "max_iter": ("warn", "not converged: iteration limit"),
    "stalled": ("warn", "not converged: no more progress"),
    "interrupted": ("bad", "not converged: interrupted"),
    "callback": ("warn", "not converged: stopped by a callback"),
}


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(run: Result | str | Path, path: str | Path | None = None, image: tuple[int, int] | None = None) -> Path:
    """One HTML file that shows a result: what was asked, what came out, how far to trust it, and how to go on.

    run is a Result or a run folder, in which ``report.html`` is the default path; image the (height, width) of the
    columns where they are pixels. The file appears whole or not at all. Returns its path.

    >>> import tempfile
    >>> from proxfactor import factorize
    >>> write(factorize([[1.0, 2.0], [2.0, 4.0]], 1, W="nonneg"), Path(tempfile.mkdtemp(), "report.html")).name
    'report.html'
    """
    from ..io import load, write_atomically

    folder = Path(run) if isinstance(run, str | Path) else None
    if folder is None and path is None:
        raise ValueError('a Result has no folder to write to; give path="report.html", or the run folder that it was saved in')
    result: Any = run if folder is None else load(folder)
    if result.residual is None and result.problem is not None:
        W, H = result.factors
        summary = residual_summary(result.problem.X, W, H, result.rows, result.cols)
        result = dataclasses.replace(result, residual=summary)
    target = Path(path) if path is not None else Path(folder or ".") / "report.html"
    write_atomically(target, render(result, folder=folder, image=image))
    return target


def render(result: Result, folder: Path | None = None, image: tuple[int, int] | None = None) -> str:
    """The report as text; ``write`` puts it into a file."""
    text = environment().get_template("factors.html.j2").render(_facts(result, folder, image))
    return text.encode("utf-8", "replace").decode()


def _facts(result: Result, folder: Path | None, image: tuple[int, int] | None) -> dict[str, Any]:
    kind, _ = _kind(result, image)
    shares = _shares(result)
    shown = _largest_components(shares)
    command = result.settings.get("command")
    badge = _BADGES.get(result.stopped, ("warn", f"not converged: {result.stopped}"))
    asked = {"loss": result.loss, "W": result.prox_W, "H": result.prox_H, "solver": result.solver}
    settings = {
        k: v for k, v in result.settings.items() if v is not None and k not in ("command", "created", "shape", "rows", "cols")
    }
    return {
        "result": result,
        "m": result.factors[0].shape[0],
        "n": result.factors[1].shape[1],
        "rank": len(shares),
        "folder": None if folder is None else str(folder),
        "badge": badge,
        "asked": {k: repr(v) for k, v in asked.items()} | {k.replace("_", " "): plain(v) for k, v in settings.items()},
        "command": command if command is None or isinstance(command, str) else shlex.join(map(str, command)),
        "tol": result.settings.get("tol"),
        "violation": max(result.violation.values(), default=0.0),
        "violated": _violated(result),
        "created": result.settings.get("created"),
        "quoted": repr(str(folder or "run")),
        "few": FEW,
        "largest_share": float(shares.max()),
        "strongest": None if result.residual is None else _strongest(result.residual["picture"]),
        "shell": f"proxfactor transform {shlex.quote(str(folder or 'run'))} new.parquet --out weights.parquet",
        "kind": kind,
        "components": [_component(result, q, kind, shares[q]) for q in shown.tolist()],
        "more": len(shares) - len(shown),
        "figures": _figures(result, kind, image),
    }


def _violated(result: Result) -> bool:
    return any(result.violation.get(name, 0.0) > 1e-6 * F.abs().max().item() for name, F in zip("WH", result.factors, strict=True))


def _component(result: Result, q: int, kind: str, share: float) -> dict[str, Any]:
    W, H = result.factors
    pixels = kind == "images" and result.cols is None
    return {
        "number": q + 1,
        "share": float(share),
        "zeros": [float((F == 0).double().mean()) for F in (W[:, q], H[q])],
        "rows": _loadings(result, q, "rows", 5) if share else [],
        "columns": _loadings(result, q, "columns", 12 if kind == "bars" else 5) if share and not pixels else [],
    }


def _draw_residual(result: Result, of: str, figure: Figure) -> None:
    plot_residual(result, figure.subplots(), of)


def _strongest(picture: list[list[float | None]]) -> float:
    return max((abs(v) for line in picture for v in line if v is not None), default=0.0)


def _figures(result: Result, kind: str, image: tuple[int, int] | None) -> dict[str, Any]:
    drawn: dict[str, tuple[str, Callable[[Figure], Any]]] = {
        "loss": ("The loss over the iterations", lambda f: plot_history(result, f.subplots())),
        "certificate": ("The certificate over the iterations", lambda f: plot_history(result, f.subplots(), "certificate")),
    }
    count, (_, shape) = min(len(result.factors[1]), SHOWN), _kind(result, image)
    if kind != "bars":
        drawn["components"] = f"The components as {kind}", lambda f: plot_components(result, _grid(f, count, kind, shape), image)
    if _has_maps(result, image):
        maps = _kind(result, image, "W")
        drawn["maps"] = "The weights as images", lambda f: plot_components(result, _grid(f, count, *maps), image, "W")
    if result.residual is not None:
        for of, label in {
            "histogram": "Histogram of data minus fit",
            "picture": "Data minus fit over the matrix",
            "rows": "Relative error of the rows",
            "cols": "Relative error of the columns",
        }.items():
            drawn[of] = label, partial(_draw_residual, result, of)
    return {name: svg(name, label, draw) for name, (label, draw) in drawn.items()}
