"""Recommenders side by side: everybody on the same data, each measurement in a process of its own.

    make bench-ratings                                  an environment with the peers, everything measured, the report
    python benchmarks/ratings run --row time            what one claim needs; then
    python benchmarks/ratings report                    the table of what there is
    python benchmarks/ratings rows                      the claims, and how many measurements each needs
    python benchmarks/ratings short                     every kind of measurement on tiny tables, from a seed
    python benchmarks/ratings install                   the peers, into the environment of this Python

MovieLens 100K does not come along: name its file with --ratings u.data, or in BENCH_RATINGS. Results are kept in a folder;
what is there is not measured again without --fresh. The test set of seed s is the first tenth of numpy's
default_rng(s).permutation over the file's rows; whoever has settings is given the best on a tenth of the training set. Lists
are judged by one evaluator, scores without a mean by one objective in float64. With one thread seconds are CPU time, with
more the wall's; ours and the peer's runs take turns, and ratios are medians over the turns.

Peers: implicit, Surprise, myFM, LIBMF, cmfrec. One that is not installed, or fails, is named with its error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from jobs import install, load, run
from measure import Job, measure
from rich.console import Console
from rows import rows, short, write


def measured(job: Job) -> dict[str, Any]:
    """What the process of a job says last: an error is a result."""
    try:
        return measure(job)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def main() -> None:
    parser = argparse.ArgumentParser(
        "benchmarks/ratings", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["all", "run", "report", "rows", "short", "install", "one"], default="all")
    parser.add_argument("job", nargs="?", help=argparse.SUPPRESS)  # of "one": what a process of its own measures
    several = {"nargs": "+", "default": [], "metavar": "NAME"}
    parser.add_argument("--row", help="claims, see rows", **several)
    parser.add_argument("--system", help="of these only", **several)
    parser.add_argument("--seed", nargs="+", type=int, default=[], help="splits or repetitions, of these only")
    parser.add_argument("--ratings", type=Path, help="u.data of MovieLens 100K")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--out", type=Path, default=Path("benchmarks-ratings"))
    given = parser.parse_args()
    if given.what == "one":
        return print(json.dumps(measured(Job(**json.loads(given.job)))))
    if given.ratings:
        os.environ["BENCH_RATINGS"] = str(given.ratings.resolve(strict=True))
    console = Console(width=None if sys.stdout.isatty() else 170)
    say = lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    every = {row.name: row for row in rows()}
    if unknown := set(given.row) - set(every):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    if given.what == "rows":
        for row in every.values():
            say(f"{row.name:10} {row.claim} ({row.bar}): {len(set(row.jobs))} measurements")
        return None
    if given.what == "install":
        return install(say)
    jobs = short() if given.what == "short" else [job for name in given.row or every for job in every[name].jobs]
    jobs = [job for job in jobs if not given.system or job.system in given.system]
    jobs = [job for job in jobs if not given.seed or job.seed in given.seed]
    if given.what != "report":
        run(given.out, jobs, say, given.fresh)
    if given.what != "run":
        write(given.out, load(given.out), console)
    return None


if __name__ == "__main__":
    main()
