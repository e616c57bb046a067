"""What the runs say: shares of runs that reach a gap, per optimizer and per family, and performance profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import GAPS, NEAR, checkpoints, gap, own_optimum, stalled
from problems import Problem
from rich.console import Console
from rich.table import Table
from store import Plan, firsts, limits_of, reference


@dataclass(frozen=True)
class Runs:
    """All runs of one optimizer on one problem, flattened: gaps at the checkpoints of the best rate, and how they ended.

    The best rate is chosen for each run by itself, as the one that ends lowest.
    """

    problem: Problem
    gaps: np.ndarray  # (runs, checkpoints)
    diverged: np.ndarray
    stalls: np.ndarray
    silent: np.ndarray  # stalls of an optimizer that said nothing
    one_rate: np.ndarray  # final gaps with the best one rate per scale and kind of start
    failed: np.ndarray  # ended in a minimum that is not within NEAR of the best
    apart: bool  # runs from one start end in different minima


def gather(folder: Path, plan: Plan, problems: Sequence[Problem], names: Sequence[str]) -> dict[str, list[Runs]]:
    """Every optimizer's runs on every problem that it has a file for."""
    made: dict[str, list[Runs]] = {name: [] for name in names}
    at = checkpoints(plan.gradients)
    late = int(np.searchsorted(at, plan.gradients - 500)) if plan.gradients > 500 else 0
    for problem in problems:
        have = {n: np.load(f) for n in names if (f := folder / n / f"{problem.name}.npz").exists()}
        if not have:
            continue
        F1 = firsts(folder, plan, problem)
        limit = {} if problem.convex else limits_of(folder, plan, problem, list(have))
        best = np.full(F1.shape, np.inf)
        for name, had in have.items():
            ends = had["F"].min((3, 4))
            best[:, :, : ends.shape[2]] = np.minimum(best[:, :, : ends.shape[2]], ends)
            if name in limit:
                best[:, :, : ends.shape[2]] = np.minimum(best[:, :, : ends.shape[2]], limit[name])
        if (optimum := reference(folder, problem)) is not None:
            heights = np.array([problem.scaled(s).height for s in plan.scales])[:, None, None]
            best = np.minimum(best, optimum * heights)
        for name, had in have.items():
            made[name].append(runs_of(problem, had, F1, best, limit.get(name), late))
    return made


def runs_of(problem: Problem, had: dict, F1: np.ndarray, best: np.ndarray, limit: np.ndarray | None, late: int) -> Runs:
    F = had["F"]
    count = F.shape[2]
    F1, best = F1[:, :, :count], best[:, :, :count]
    limit = best if limit is None else limit
    optimum = own_optimum(best, limit, problem.convex)
    chosen = F[..., -1].argmin(-1)
    picked = np.take_along_axis(F, chosen[..., None, None], 3)[:, :, :, 0]
    gaps = gap(picked, optimum[..., None], F1[..., None])
    rates = gap(F[..., -1], optimum[..., None], F1[..., None])
    with np.errstate(all="ignore"):
        score = np.log10(np.clip(rates, 1e-9, 1e9)).mean(2)  # (scales, kinds, rates)
    one = np.take_along_axis(rates, score.argmin(-1)[:, :, None, None], 3)[..., 0]
    stalls = stalled(picked[..., -1], picked[..., late], optimum, F1)
    apart = ~problem.convex & (limit > best + 1e-6 * (F1 - best))
    return Runs(
        problem, gaps.reshape(-1, gaps.shape[-1]), ~np.isfinite(picked[..., -1]).ravel(), stalls.ravel(),
        (stalls & (had["said"] == "")).ravel(), one.ravel(), (limit > best + NEAR * np.abs(best)).ravel(), bool(apart.any()),
    )  # fmt: skip


def share(values: np.ndarray) -> str:
    return f"{100 * values.mean():.1f}" if len(values) else "–"


def write(folder: Path, plan: Plan, made: dict[str, list[Runs]], console: Console) -> None:
    """The tables, on the console and in ``report.txt``, and the profiles in ``profiles.png``."""
    made = {name: runs for name, runs in made.items() if runs}
    if not made:
        console.print("nothing was run yet")
        return
    paper = Console(file=(folder / "report.txt").open("w"), width=200)
    for table in (overall(made, plan), on_common(made, plan), by_family(made), apart(made)):
        console.print(table)
        paper.print(table)
    paper.file.close()
    profiles(folder / "profiles.png", made, plan)
    console.print(f"written: {folder / 'report.txt'}, {folder / 'profiles.png'}")


def overall(made: dict[str, list[Runs]], plan: Plan) -> Table:
    """Strict: a run whose own minimum is more than 5 % above the best has failed, however small its gap to the best is."""
    table = Table(title=f"Share of runs in % with a gap after {plan.gradients} gradients; the best rate of each run")
    shares = (*(f"≤ {g:g}" for g in GAPS), "≤ 0.001, strict", "≤ 0.001, one rate per scale and kind")
    for column in ("optimizer", "problems", "runs", *shares, "diverged", "stalled", "silently"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for name, runs in made.items():
        end, one, failed, *counts = (np.concatenate(x) for x in zip(*map(endings, runs), strict=True))
        reached = [*(end <= g for g in GAPS), (end <= 1e-3) & ~failed, one <= 1e-3]
        table.add_row(name, *map(str, (len(runs), len(end))), *map(share, reached), *(str(int(c.sum())) for c in counts))
    return table


def endings(r: Runs) -> tuple[np.ndarray, ...]:
    return r.gaps[:, -1], r.one_rate, r.failed, r.diverged, r.stalls, r.silent


def on_common(made: dict[str, list[Runs]], plan: Plan) -> Table:
    """Each against the first optimizer, on the problems that both have."""
    ours, *others = made
    table = Table(title=f"Share of runs with a gap ≤ 0.001, in %, on the problems of each: beside {ours}")
    for column in ("optimizer", "problems", "it", ours):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    mine = {r.problem.name: r for r in made[ours]}
    for name in others:
        both = [(r, mine[r.problem.name]) for r in made[name] if r.problem.name in mine]
        if both:
            ends = [np.concatenate([r.gaps[:, -1] for r in side]) <= 1e-3 for side in zip(*both, strict=True)]
            table.add_row(name, str(len(both)), *(share(e) for e in ends))
    return table


def by_family(made: dict[str, list[Runs]]) -> Table:
    families = sorted({r.problem.family for runs in made.values() for r in runs})
    table = Table(title="Share of runs with a gap ≤ 0.001, in %, by family")
    table.add_column("family")
    for name in made:
        table.add_column(name, justify="right")
    for family in families:
        ends = ([r.gaps[:, -1] for r in runs if r.problem.family == family] for runs in made.values())
        table.add_row(family, *(share(np.concatenate(e) <= 1e-3) if e else "–" for e in ends))
    return table


def apart(made: dict[str, list[Runs]]) -> Table:
    """The problems whose runs end in different minima: gap ≤ 1e-3 to the run's own, and runs that ended beyond 5 %."""
    names = sorted({r.problem.name for runs in made.values() for r in runs if r.apart})
    table = Table(
        title="Problems with several minima: gap ≤ 0.001 to its own, in % (runs whose minimum is over 5 % above the best)"
    )
    table.add_column("problem")
    for name in made:
        table.add_column(name, justify="right")
    for problem in names:
        cells = []
        for runs in made.values():
            it = next((r for r in runs if r.problem.name == problem), None)
            cells.append("–" if it is None else f"{share(it.gaps[:, -1] <= 1e-3)} ({int(it.failed.sum())})")
        table.add_row(problem, *cells)
    return table


def profiles(path: Path, made: dict[str, list[Runs]], plan: Plan) -> None:
    """Share of runs that have reached each gap, over gradients."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    at = checkpoints(plan.gradients)
    figure, axes = pyplot.subplots(1, len(GAPS), figsize=(15, 4.5), sharey=True, layout="constrained")
    for axis, target in zip(axes, GAPS, strict=True):
        for i, (name, runs) in enumerate(made.items()):
            reached = np.minimum.accumulate(np.concatenate([r.gaps for r in runs]), 1) <= target
            axis.plot(at, reached.mean(0), label=name, lw=2.5 if name.startswith("auto") else 1.2, ls="-" if i < 10 else "--")
        axis.set(xscale="log", xlabel="gradients", title=f"gap ≤ {target:g}", ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of runs")
    axes[-1].legend(fontsize=7, loc="upper left")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
