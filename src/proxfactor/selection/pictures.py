"""Pictures of a choice, for paper and screen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .advice import Advice
    from .scan import Scan

BLUE, RUST, GREY = "#2a6db0", "#c0561f", "#8a8f98"
COLORS = (BLUE, RUST, "#3f8f5b", "#7b5ea7", "#b8902c", "#4aa3a8", "#a34a6b", "#5c6670")


def plot_scan(scan: Scan, ax: Axes | None = None, of: str | None = None) -> Axes:
    """One method of a scan on ``ax``, or a new figure with a panel for each; ARD has no curve over the ranks."""
    drawn = tuple(name for name in scan.methods if name != "ard") or ("holdout",)
    if of is not None and of not in drawn:
        raise ValueError(f"of is {of!r}; this scan has {', '.join(map(repr, drawn))}")
    if ax is None:
        import matplotlib.pyplot as plt

        shown = drawn if of is None else (of,)
        figure = plt.figure(figsize=(4.6 * len(shown), 3.4), layout="constrained")
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for name, panel in zip(shown, panels, strict=True):
            plot_scan(scan, panel, name)
        return panels[0]
    of = of or drawn[0]
    ranks = [row["rank"] for row in scan.table]
    (_errors if of == "holdout" else _silhouettes)(scan, ax, np.array(ranks))
    if of == drawn[0]:
        ax.axvline(scan.best, color=GREY, linewidth=6, alpha=0.25, zorder=0, label=f"rank {scan.best}")
    ax.set_xlabel("rank")
    ax.set_xticks(ranks if len(ranks) <= 12 else ranks[:: math.ceil(len(ranks) / 12)])
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small")
    return ax


def _errors(scan: Scan, ax: Axes, ranks: np.ndarray) -> None:
    error = np.array([row["error"] for row in scan.table])
    se = np.nan_to_num([row["se"] for row in scan.table])
    for fit in scan.fits:
        ax.plot(fit.job.rank, fit.error, ".", color=BLUE, markersize=3, alpha=0.35)
    ax.errorbar(ranks, error, se, color=BLUE, marker="o", markersize=4, capsize=2, label="hidden cells ± se of the excess")
    top = max((e for e in error if math.isfinite(e)), default=1.0)
    if top > 0.6:
        ax.axhline(1, color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="one mean for all")
    if error.min() > 0 and top > 8 * error.min():
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
    ax.set_ylabel("unexplained share")


def _silhouettes(scan: Scan, ax: Axes, ranks: np.ndarray) -> None:
    from .scan import STABLE

    for key, color, label in (("weakest", RUST, "weakest component"), ("silhouette", BLUE, "mean of components")):
        ax.plot(ranks, [row[key] for row in scan.table], color=color, marker="o", markersize=4, label=label)
    ax.plot(ranks, [row["cophenetic"] for row in scan.table], color=GREY, marker=".", linewidth=1, label="cophenetic")
    ax.axhline(STABLE, color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="found again in every fit")
    ax.set(ylabel="silhouette", ylim=(min(0.0, np.nanmin([0.0, *(row["weakest"] for row in scan.table)]) - 0.05), 1.05))


def plot_advice(advice: Advice, ax: Axes | None = None) -> Axes:
    """The error of hidden cells over the ranks, a line for each loss and constraint."""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.figure(figsize=(6, 4), layout="constrained").subplots()
    models: dict[str, list[dict[str, Any]]] = {}
    for row in advice.table:
        if row["rank"]:
            models.setdefault(row["model"], []).append(row)
    most = advice.table[0]["fits"]
    for i, (name, rows) in enumerate(models.items()):
        rows, color = sorted(rows, key=lambda row: row["rank"]), COLORS[i % len(COLORS)]
        ax.plot([row["rank"] for row in rows], [row["error"] for row in rows], color=color, linewidth=1.3, label=name)
        for row in rows:  # full: tried on all hidden sets; empty: on one
            full = color if row["fits"] == most else "white"
            ax.plot(row["rank"], row["error"], "o", color=color, markerfacecolor=full, markersize=4)
    for row in advice.table:
        if not row["rank"]:
            dash: Any = (0, (4, 3)) if row["model"] == "means" else (0, (1, 2))
            ax.axhline(row["error"], color=GREY, linestyle=dash, label=row["model"].replace("means", "row and column means"))
    best = advice.best
    if best["rank"]:
        ax.plot(best["rank"], best["error"], "o", color="none", markeredgecolor="black", markersize=12, label="advised")
    ranks = sorted({row["rank"] for row in advice.table if row["rank"]})
    if ranks and ranks[-1] > 8:
        ax.set_xscale("log", base=2)
        ranks = [rank for rank in ranks if rank & (rank - 1) == 0]
    ax.set_xticks(ranks, [str(rank) for rank in ranks])
    ax.minorticks_off()
    shown = [row["error"] for row in advice.table if math.isfinite(row["error"])]
    if shown and min(shown) > 0 and max(shown) > 20 * min(shown):
        ax.set_yscale("log")
    ax.set(xlabel="rank", ylabel="unexplained share of hidden cells")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small")
    return ax
