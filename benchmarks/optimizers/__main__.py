"""Many problems, many starts, three data scales: the optimizers without a learning rate beside tuned rivals.

    python benchmarks/optimizers                       run what is missing, then the tables and the profiles
    python benchmarks/optimizers run, or report        one of the two; the report continues runs to find their limits
    python benchmarks/optimizers --problems nmf lasso --starts 2 --optimizers auto "adam+prox"
    python benchmarks/optimizers hardest               the badly unbalanced mixture: the median of five seeds
    python benchmarks/optimizers convex                the named default against Clarabel

Results are kept in the folder, one file per optimizer and problem; what is there is not run again, so that it can be stopped
at any time, and two processes may share a folder if their --problems or --optimizers differ. After a change of the package
delete the folder of the optimizer that changed. The peers: pip install --no-deps --target FOLDER proxmin chop-pytorch, and
--peers FOLDER; one that is missing is skipped, with a line that says so.

The gap of a run is (F - F*)/(F₁ - F*) at the point where the optimizer stands. F₁ is the least of F at the start, at its best
single rescaling, and at zero if feasible. F* is the best that anybody has found from that start; for a nonconvex problem the
limit of the run itself, if that is within 5 % of the best: what 20,000 further gradients of one descent method, the same for
everybody, make of its last point.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from grids import GRIDS
from problems import PROBLEMS
from report import gather, write
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from singles import singles
from store import Plan, run
from tables import convex, hardest


def main() -> None:
    parser = argparse.ArgumentParser(
        "benchmarks/optimizers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["all", "run", "report", "hardest", "convex"], default="all")
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS), metavar="NAME")
    parser.add_argument("--starts", type=int, default=10, help="of each kind, raw and fitted")
    parser.add_argument("--scales", nargs="+", type=float, default=[1e-6, 1.0, 1e6])
    parser.add_argument("--optimizers", nargs="+", metavar="NAME", help="all of them unless given")
    parser.add_argument("--gradients", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks-optimizers"))
    parser.add_argument("--peers", type=Path, help="a folder with proxmin and chop-pytorch")
    given = parser.parse_args()
    torch.set_num_threads(1)  # the problems are small
    if given.peers:
        sys.path.append(str(given.peers))

    every = {o.name: o for o in (*singles(), *GRIDS)}
    names = given.optimizers or list(every)
    if unknown := set(names) - set(every):
        parser.error(f"no optimizer {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    console = Console(width=None if sys.stdout.isatty() else 200)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "hardest":
        return hardest(console)
    problems = [PROBLEMS[name] for name in given.problems]
    if given.what == "convex":
        ours = given.optimizers or [n for n in ("auto", "auto-closure") if n in every]
        return convex(given.out, [p for p in problems if p.reference], given.starts, every, ours, console)

    plan = Plan(tuple(given.scales), given.starts, given.gradients)
    todo = [(every[n], p) for p in problems for n in names if every[n].applies(p)]
    if given.what in ("all", "run"):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=len(todo))
            for optimizer, problem in todo:
                progress.update(task, description=f"{problem.name}: {optimizer.name}")
                run(given.out, plan, optimizer, problem)
                progress.advance(task)
    if given.what in ("all", "report"):
        write(given.out, plan, gather(given.out, plan, problems, names), console)


if __name__ == "__main__":
    main()
