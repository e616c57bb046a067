"""Solvers side by side: everybody on the same data from the same starts, each run in a process of its own.

    make bench-solvers                                  an environment with the peers, everything measured, the report: five hours
    make bench-solvers BENCH=claims                     what the claims need, and the report: three quarters of an hour
    python benchmarks/solvers run --row time            what one claim needs; then
    python benchmarks/solvers report                    the tables and pictures of what there is
    python benchmarks/solvers rows                      the claims, and how many measurements each needs
    python benchmarks/solvers short                     a minute: ours and scikit-learn's on the digits and the small dense matrix
    python benchmarks/solvers run --case digits --system proxfactor,scikit-learn --dtype f32 --threads 1 --limit 10
    python benchmarks/solvers install                   the peers, into the environment of this Python

Results are kept in a folder; what is there is not measured again unless a longer limit is asked for, or --fresh. A system is
named by any beginning of its name; "proxfactor:hals(inner=1)" is ours with that solver. Everything is judged by one yardstick,
in float64, whatever a library itself says, and no library's stopping rule is in force: a run ends at the time limit. The
seconds of a run with one thread are CPU time, of one with more the wall's. The floor is X Hᵀ and Wᵀ X alone, as torch does
them in the layout that is quickest. A pass is one product of X or its transpose with a thin matrix.

Peers: scikit-learn, nmf-torch, torchnmf, proxmin, TensorLy. One that is not installed, or fails, is named with its error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from cases import CASES
from jobs import install, load, run
from measure import Job, measure
from report import write
from rich.console import Console
from rows import ALL, DTYPES, SEEDS, matrix, rows
from systems import PEERS, SYSTEMS


def chosen(given: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Job]:
    """The jobs of the rows that were named, or of everything, as far as the other options let them through."""
    every, names = {row.name: row for row in rows()}, [s.name for s in SYSTEMS]
    systems = given.system.split(",") if given.system else [""]
    for what, unknown, known in (
        ("row", set(given.row) - set(every), every),
        ("case", set(given.case) - set(CASES), CASES),
        ("system", {s for s in systems if not s.startswith("proxfactor:") and not any(n.startswith(s) for n in names)}, names),
    ):
        if unknown:
            parser.error(f"no {what} {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    jobs = [job for name in given.row or every for job in every[name].jobs]
    if not given.row and given.what != "claims":
        jobs += matrix(given.case or [name for name, case in CASES.items() if not case.small])
    kept = []
    for job in jobs:
        for name in ("case", "loss", "kind", "dtype", "threads", "start"):
            if getattr(given, name) and str(getattr(job, name)) not in map(str, getattr(given, name)):
                break
        else:
            ours = [s for s in systems if s.startswith("proxfactor:") and job.system == "proxfactor"]
            same = [job.system] if any(job.system.startswith(s) for s in systems) else []
            kept += [replace(job, system=name, limit=given.limit or job.limit) for name in same + ours]
    if not os.environ.get("BENCH_PBMC") and any(job.case == "pbmc" for job in kept):
        print("pbmc is left out: give the counts with --pbmc pbmc3k_counts_genes_x_cells.npz")
        kept = [job for job in kept if job.case != "pbmc"]
    return kept


def short() -> list[Job]:
    """A minute's worth: our sweeps and times beside scikit-learn's."""
    names, systems = ("sweep-dense", "sweep-digits", "time", "passes", "start"), ("proxfactor", "scikit-learn-cd")
    jobs = [job for row in rows() if row.name in names for job in row.jobs if job.system in systems]
    few = [job for job in jobs if job.case in ("dense", "digits") and job.start in (0, "own")]
    return [replace(job, limit=min(job.limit, 2.0)) for job in few]


def measured(job: Job) -> dict[str, Any]:
    """What the process of a job says last: an error is a result."""
    try:
        return measure(job)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def main() -> None:
    parser = argparse.ArgumentParser(
        "benchmarks/solvers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = ["all", "claims", "run", "report", "rows", "short", "install", "one"]
    parser.add_argument("what", nargs="?", choices=verbs, default="all")
    parser.add_argument("job", nargs="?", help=argparse.SUPPRESS)  # of "one": what a process of its own measures
    several = {"nargs": "+", "default": [], "metavar": "NAME"}
    parser.add_argument("--row", help="claims, see rows", **several)
    parser.add_argument("--case", help=", ".join(CASES), **several)
    parser.add_argument("--system", help="with commas: " + ", ".join(s.name for s in SYSTEMS))
    parser.add_argument("--loss", nargs="+", choices=["frobenius", "kl"])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES)
    parser.add_argument("--threads", nargs="+", type=int, help=f"1 and {ALL} are measured")
    parser.add_argument("--start", nargs="+", choices=[*map(str, SEEDS), "own"])
    parser.add_argument("--kind", nargs="+", choices=["trace", "cold", "sweep", "memory", "import", "gpu"])
    parser.add_argument("--limit", type=float, help="seconds of each run, in place of the planned ones")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--pbmc", type=Path, help="pbmc3k_counts_genes_x_cells.npz")
    parser.add_argument("--out", type=Path, default=Path("benchmarks-solvers"))
    given = parser.parse_args()
    if given.what == "one":
        return print(json.dumps(measured(Job(**json.loads(given.job)))))
    if given.pbmc:
        os.environ["BENCH_PBMC"] = str(given.pbmc.resolve(strict=True))
    console = Console(width=None if sys.stdout.isatty() else 170)
    say = lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    if given.what == "rows":
        for row in rows():
            say(f"{row.name:14} {row.claim} ({row.bar}): {len(set(row.jobs))} measurements")
        return None
    if given.what == "install":
        return install(given.out, PEERS, say)
    if given.what != "report":
        run(given.out, short() if given.what == "short" else chosen(given, parser), say, given.fresh)
    if given.what != "run":
        write(given.out, load(given.out), rows(), console)
    return None


if __name__ == "__main__":
    main()
