"""rank_scan(): how many components the data supports, by hidden cells and by what stays the same from fit to fit."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..fit import factorize
from ..losses import KL, Loss
from ..matrix import as_table
from ..metrics import consensus, cophenetic, dispersion, stability
from ..problem import Problem
from ..ties import ARD
from .work import Fit, Job, Plan, Progress, Work, check_workers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = ("holdout", "stability", "ard")
Row = dict[str, Any]

STABLE = 0.75
"""The smallest silhouette from which on a component counts as found again in every fit."""

FELT = 1e-3
"""The share of the whole fall of the error that a further component must take away to be felt."""

CONSENSUS_ROWS = 500
"""Rows, evenly spaced, whose clusters are compared: the consensus is a number for each pair of them."""


@dataclass(eq=False)
class Scan:
    """What a rank scan found: ``best``, one sentence why, a table with a row for each rank, and ``plot()``.

    Columns of the table: rank; error, the mean loss of a hidden cell, 1 for one mean for all; se, the standard error of its
    excess over the best rank's; training, the mean loss of a seen cell; silhouette and weakest, the mean and the smallest
    silhouette of its components over the fits; cophenetic and dispersion, of the consensus of the rows' clusters; converged,
    the share of fits that did; fits, how many. ``fits`` holds each of them, with its factors.
    """

    table: list[Row]
    best: int
    sentence: str
    methods: tuple[str, ...]
    loss: Loss
    complete: bool
    fits: list[Fit] = field(repr=False)

    def __repr__(self) -> str:
        return f"Scan of ranks {', '.join(str(row['rank']) for row in self.table)}: {self.sentence}"

    def frame(self, backend: Any = "pandas") -> Any:
        """The table as a data frame of that library."""
        import narwhals as nw

        columns = {key: [row[key] for row in self.table] for key in self.table[0]}
        return nw.from_dict(columns, backend=backend).to_native()

    def plot(self, ax: Axes | None = None, of: str | None = None) -> Axes:
        """The error of hidden cells over the ranks with its standard error, or the silhouettes (``of="stability"``).

        Without ``ax`` a new figure with a panel for each method of the scan; the first of them is returned.
        """
        from . import pictures

        return pictures.plot_scan(self, ax, of)


def rank_scan(
    X: Any,
    ranks: Iterable[int],
    *,
    W: Any = None,
    H: Any = None,
    loss: Loss | str | None = None,
    weight: Any = None,
    method: str | Iterable[str] = "holdout",
    restarts: int = 5,
    fraction: float = 0.1,
    seed: int = 0,
    tol: float = 1e-4,
    max_iter: int = 300,
    workers: int = 1,
    out: str | os.PathLike[str] | None = None,
    callback: Callable[[Progress], Any] | None = None,
) -> Scan:
    """How many components X supports: fits of every rank, each from another start and with other single cells hidden.

    Hold-out: the smallest rank whose error on the hidden cells is within one standard error of the lowest, the errors
    compared fit by fit, or within a thousandth of the whole fall. (Wold 1978; the rule: Breiman et al. 1984.)

    Stability: the largest rank all of whose components are found again in every fit, that is, whose smallest silhouette is
    at least 0.75. The hidden cells are the perturbation, which shifts no expectation, and the starts differ. The silhouettes
    are those of the rank-one parts w hᵀ under the cosine, clustered by the Hungarian method. (Alexandrov et al. 2013; the
    consensus: Brunet et al. 2004, Kim and Park 2007.)

    ARD: the components that ``ARD`` leaves of the largest rank, in a fit of all cells that begins at the singular pairs; the
    noise is that of the fit at the hold-out's rank, (Σ residual² / degrees of freedom)^½, or 1 under KL. It takes squared
    error and KL. (Tan and Févotte 2013.)

    Args:
        X, W, H, loss, weight: as in ``factorize``.
        ranks: the numbers of components to try, e.g. range(2, 13).
        method: "holdout", "stability", "ard", a list of them, or "all"; the same fits serve all. The first decides ``best``.
        restarts: fits of each rank.
        fraction: the share of the cells that are data to hide.
        seed, tol, max_iter: as in ``factorize``; a choice needs less accuracy than a result.
        workers: processes that share the work, -1 for one on each core; the numbers do not depend on it, but for rounding where
            a product is large enough for several threads. Scripts need ``if __name__ == "__main__":``.
        out: a folder where each fit is kept as it ends. A second call goes on with what is there, also with more ranks or
            restarts; other arguments are refused.
        callback: called with a ``Progress`` after each fit; returning True stops the scan.

    Returns a Scan, after Ctrl-C that of the fits that were finished. Raises ValueError or TypeError for bad input.

    >>> import proxfactor as pf
    >>> X, _, _ = pf.datasets.planted(30, 20, 2, noise=0.1)
    >>> pf.rank_scan(X, range(1, 4), W="nonneg", H="nonneg", restarts=3).best
    2
    """
    problem = _problem(X, W, H, loss, weight)
    ranks, methods = _ranks(ranks, problem.X.shape), _methods(method, problem)
    _whole("restarts", restarts)
    if "stability" in methods and restarts < 2:
        raise ValueError("restarts is 1; stability compares fits of one rank with each other: give at least 2, better 5 or more")
    plan = Plan({"fit": problem}, fraction, seed, tol, max_iter)
    work = Work(plan, check_workers(workers), out, callback)
    work.run(Job(turn, "fit", rank) for rank in ranks for turn in range(restarts))
    scan = _read(list(work.fits.values()), methods, problem, not work.interrupted, len(ranks) * restarts)
    return _pruned(scan, problem, seed, tol, max_iter) if "ard" in methods and scan.complete else scan


def _problem(X: Any, W: Any, H: Any, loss: Any, weight: Any) -> Problem:
    if isinstance(X, Problem):
        if any(given is not None for given in (W, H, weight, loss)):
            raise ValueError("X is a Problem, which has constraints, loss and weights of its own; give them there")
        problem = X
    else:
        problem = Problem(as_table(X, weight), "frobenius" if loss is None else loss, W, H)  # type: ignore[arg-type]
    if problem.rows.size > 1 or problem.cols.size > 1:
        raise ValueError("a choice needs the whole matrix in one process, and this problem is spread over several")
    w = problem.X.weight
    if not problem.X.background and (not problem.X.entries().numel() or (w is not None and not bool((w > 0).any()))):
        raise ValueError("X holds no data: all of its cells are missing or have weight 0")
    return problem


def _ranks(ranks: Iterable[int], shape: tuple[int, int]) -> list[int]:
    given = [ranks] if isinstance(ranks, int | np.integer) else list(ranks)
    if not given:
        raise ValueError("ranks is empty; give the numbers of components to try, e.g. range(2, 13)")
    for rank in given:
        if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or rank < 1:
            raise ValueError(f"ranks holds {rank!r}; each is a whole number of components, at least 1")
        if rank > min(shape):
            raise ValueError(f"ranks holds {rank}, and X is {shape[0]} x {shape[1]}: {min(shape)} components are all there can be")
    return sorted({int(rank) for rank in given})


def _methods(method: str | Iterable[str], problem: Problem) -> tuple[str, ...]:
    gaussian = problem.loss.quadratic or isinstance(problem.loss, KL)
    takes = tuple(name for name in METHODS if name != "ard" or gaussian)
    given = takes if method == "all" else (method,) if isinstance(method, str) else tuple(method)
    for name in given:
        if name not in METHODS:
            raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}, or 'all'")
        if name not in takes:
            raise ValueError(f"method 'ard' takes squared error and KL, and the loss is {problem.loss!r}; use 'holdout'")
    if not given:
        raise ValueError(f"method is empty; give {', '.join(METHODS)}, or 'all'")
    return tuple(dict.fromkeys(given))


def _whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value!r}; it is a whole number of at least 1")


# ── what the fits say ─────────────────────────────────────────────────────────────────────────────────────────────────


def _read(fits: list[Fit], methods: tuple[str, ...], problem: Problem, complete: bool, asked: int) -> Scan:
    fits = sorted(fits, key=lambda fit: (fit.job.rank, fit.job.turn))
    by_rank: dict[int, dict[int, Fit]] = {}
    for fit in fits:
        by_rank.setdefault(fit.job.rank, {})[fit.job.turn] = fit
    errors = {rank: {turn: fit.error for turn, fit in group.items()} for rank, group in by_rank.items()}
    best, excess = one_se(errors)
    table = [_row(rank, list(group.values()), excess[rank], methods) for rank, group in by_rank.items()]
    chosen = {"holdout": best, "stability": _most_stable(table) if "stability" in methods else 0}
    shown = [name for name in methods if name != "ard"] or ["holdout"]
    said = [_by_holdout(table, best, excess) if name == "holdout" else _by_stability(table, chosen[name]) for name in shown]
    if not complete:
        said.append(f"Interrupted: {len(fits)} of {asked} fits were finished.")
    return Scan(table, chosen.get(methods[0], best), " ".join(said), methods, problem.loss, complete, fits)


def _pruned(scan: Scan, problem: Problem, seed: int, tol: float, max_iter: int) -> Scan:
    """The scan with what ARD says of the largest rank."""
    holdout, _ = one_se({rank: {f.job.turn: f.error for f in scan.fits if f.job.rank == rank} for rank in _tried(scan)})
    options: dict[str, Any] = {"init": "svd", "seed": seed, "tol": tol, "max_iter": max(1000, max_iter)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the status says the same, and nobody is shown this fit
        tie = ARD(_noise(problem, holdout, options))
        fit = factorize(problem.changed(ties=(*problem.ties, tie)), _tried(scan)[-1], **options)
    rank = max(1, int(tie.left(*fit.factors).sum()))
    late = "" if fit.converged else " It did not settle: raise max_iter."
    said = f"ARD leaves {rank} of {_tried(scan)[-1]} components.{late}"
    if scan.methods[0] == "ard":
        return dataclasses.replace(scan, best=rank, sentence=f"{said} {scan.sentence}")
    return dataclasses.replace(scan, sentence=f"{scan.sentence} {said}")


def _tried(scan: Scan) -> list[int]:
    return [row["rank"] for row in scan.table]


def _noise(problem: Problem, rank: int, options: dict[str, Any]) -> float:
    """The standard deviation of a cell, from the residual of a fit and its degrees of freedom; 1 under KL, a log-likelihood."""
    if not problem.loss.quadratic:
        return 1.0
    m, n = problem.X.shape
    w = problem.X.weight
    cells = m * n if problem.X.background else problem.X.entries().numel() if w is None else int((w > 0).sum())
    left = 2 * factorize(problem, rank, **options).history[-1]["loss"]
    return max(math.sqrt(left / max(1, cells - rank * (m + n - rank))), 1e-6 * math.sqrt(problem.size.item() / max(1, cells)))


def one_se(errors: dict[Any, dict[int, float]]) -> tuple[Any, dict[Any, tuple[float, float]]]:
    """The first candidate, in the order given, whose error is within one standard error of the lowest mean, or not felt.

    errors: for each candidate the error of each turn. The excess over the best one is taken turn by turn, since the same
    cells are hidden from all of them: its mean and standard error (NaN for one turn) come back for each candidate. The
    standard error of the best one's own mean is the limit, so that no candidate profits from fits that vary wildly.

    >>> one_se({1: {0: 0.9, 1: 0.7}, 2: {0: 0.31, 1: 0.1}, 3: {0: 0.3, 1: 0.12}})[0]
    2
    """
    mean = {key: float(np.mean(list(turns.values()))) for key, turns in errors.items()}
    low = min(mean, key=mean.__getitem__)
    fall = max((m for m in mean.values() if math.isfinite(m)), default=0.0) - mean[low]
    excess = {}
    for key, turns in errors.items():
        gap = np.array([turns[t] - errors[low][t] for t in turns if t in errors[low]])
        if key == low or not gap.size:
            excess[key] = 0.0 if key == low else mean[key] - mean[low], math.nan if len(turns) < 2 else 0.0
        else:
            excess[key] = float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(gap.size)) if gap.size > 1 else math.nan
    own = np.array(list(errors[low].values()))
    limit = float(own.std(ddof=1) / math.sqrt(own.size)) if own.size > 1 else 0.0
    good = (key for key, (gap, se) in excess.items() if gap <= max(min(limit, 0.0 if math.isnan(se) else se), FELT * fall))
    return next(good, low), excess


def _row(rank: int, group: list[Fit], excess: tuple[float, float], methods: tuple[str, ...]) -> Row:
    errors = [fit.error for fit in group]
    spread = float(np.std(errors, ddof=1) / math.sqrt(len(errors))) if len(errors) > 1 else math.nan
    row: Row = {"rank": rank, "error": float(np.mean(errors)), "spread": spread, "excess": excess[0], "se": excess[1]}
    row["training"] = float(np.mean([fit.training for fit in group]))
    if "stability" in methods:
        found = stability([(fit.W, fit.H) for fit in group]) if len(group) > 1 else np.full(rank, math.nan)
        seen = np.arange(0, len(group[0].W), math.ceil(len(group[0].W) / CONSENSUS_ROWS))
        together = consensus([(fit.W[seen], fit.H) for fit in group])
        row |= {"silhouette": float(found.mean()), "weakest": float(found.min())}
        row |= {"cophenetic": cophenetic(together), "dispersion": dispersion(together)}
    return row | {"converged": float(np.mean([fit.converged for fit in group])), "fits": len(group)}


def _most_stable(table: list[Row]) -> int:
    """The largest rank whose weakest component is stable; the most stable one, if none is."""
    good = [row["rank"] for row in table if row["weakest"] >= STABLE]
    return good[-1] if good else max(table, key=lambda row: (np.nan_to_num(row["weakest"], nan=-1.0), -row["rank"]))["rank"]


def _by_holdout(table: list[Row], best: int, excess: dict[int, tuple[float, float]]) -> str:
    rows = {row["rank"]: row for row in table}
    low = min(table, key=lambda row: row["error"])
    told = f"Rank {best}: {rows[best]['error']:.3g} of the variation of hidden cells is left unexplained"
    if low["error"] >= 1:
        return f"{told}, and no rank predicts them better than one mean for all: there is nothing here to factor."
    if len(rows) == 1:
        return told + "."
    if best == low["rank"]:
        why = "the lowest of all"
    else:
        why = f"within one standard error of the lowest, {low['error']:.3g} at rank {low['rank']}"
    edge = ""
    if best == max(rows):
        edge = " It is the largest rank that was tried: try larger ones."
    unsettled = sum(round((1 - row["converged"]) * row["fits"]) for row in table if row["rank"] <= best)
    late = f" {unsettled} of the fits up to it did not converge: raise max_iter." if unsettled else ""
    return f"{told}, {why}.{edge}{late}"


def _by_stability(table: list[Row], best: int) -> str:
    row = next(row for row in table if row["rank"] == best)
    if row["weakest"] < STABLE or math.isnan(row["weakest"]):
        return f"No rank is stable: at rank {best} the smallest silhouette is {row['weakest']:.2f}, and {STABLE} is needed."
    more = " and of no larger one" if best != table[-1]["rank"] else ""
    return f"All components of rank {best}{more} are found again in every fit (smallest silhouette {row['weakest']:.2f})."
