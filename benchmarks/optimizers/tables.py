"""Two tables of their own: the hardest factorization, and convex problems against a conic solver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from grids import ADAM_RATES, Grid, adam, inner_prox, rate_prox
from problems import Problem, hardest_data
from problems import hardest as hardest_problem
from rich.console import Console
from rich.table import Table
from singles import lbfgs, ours
from store import Plan, reference

# a rate per decade and per half decade between, as for a hand-tuned Adam
FINE = tuple(sorted({*ADAM_RATES, *(3 * r for r in ADAM_RATES)}))


def hardest(console: Console, gradients: int = 200, seeds: Sequence[int] = range(5)) -> None:
    """‖Y - AS‖²/‖Y‖² after 200 gradients for each seed, and the median; each rate of a grid is judged by its median."""
    rivals = [*ours(), lbfgs("softplus"), lbfgs("square"),
              Grid("adam+prox", adam, FINE, rate_prox), Grid("adam-softplus", adam, FINE, kind="softplus"),
              Grid("adam-square", adam, FINE, kind="square"), Grid("adaprox", adam, ADAM_RATES, inner_prox)]  # fmt: skip
    table = Table(title=f"Hardest factorization: ‖Y - AS‖²/‖Y‖² after {gradients} gradients")
    for column in ("optimizer", "rate", "median", *(f"seed {s}" for s in seeds)):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for rival in rivals:
        each = []
        for seed in seeds:
            Y, start = hardest_data(seed)
            F, *_ = rival.run(hardest_problem(1.0, seed), [x[None] for x in start], gradients)
            each.append(2 * F[0, :, -1] / Y.square().sum().item())
        values = np.stack(each, 1)  # (rates, seeds)
        best = np.median(values, 1).argmin()
        rate = f"{rival.rates[best]:g}" if rival.rates else ""
        table.add_row(rival.name, rate, f"{np.median(values[best]):.2e}", *(f"{v:.2e}" for v in values[best]))
    console.print(table)


def convex(
    folder: Path, problems: Sequence[Problem], starts: int, every: dict[str, Any], names: Sequence[str], console: Console
) -> None:
    """(F - F_Clarabel)/max(|F_Clarabel|, F₁ - F_Clarabel) after 20,000 gradients, from every start and scale."""
    from measure import first

    plan = Plan((1e-6, 1.0, 1e6), starts, 20_000)
    table = Table(title="Convex problems: largest (F - F_Clarabel)/max(|F_Clarabel|, F₁ - F_Clarabel); runs ≤ 1e-6 of all")
    table.add_column("problem")
    for name in names:
        table.add_column(name, justify="right")
    for problem in problems:
        best = reference(folder, problem)
        cells = []
        for name in names:
            ratio = []
            for there, start in plan.batches(problem):
                F, *_ = every[name].run(there, start, plan.gradients)
                solved = best * there.height  # type: ignore[operator]
                ratio.append((F[:, 0, -1] - solved) / np.maximum(abs(solved), first(there, start).numpy() - solved))
            ratio = np.concatenate(ratio)
            cells.append(f"{ratio.max():.1e} ({(ratio <= 1e-6).sum()}/{len(ratio)})")
        table.add_row(problem.name, *cells)
    console.print(table)
