"""The claims, each with the jobs that it needs and a judge that reads their results; and their table."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from jobs import Results
from measure import Job
from rich.console import Console
from rich.table import Table

SEEDS = range(10)
FEW = range(5)  # splits of the rankings
TIMES = range(3)  # repetitions, ours and the peer's by turns
ALL = os.cpu_count() or 1
Judged = list[tuple[str, str, bool | None]]  # what, how much, whether it passes (None: there is no bar, or nothing measured)


class View:
    """Questions to the results."""

    def __init__(self, results: Results):
        self.results = results

    def get(self, job: Job) -> dict[str, Any] | None:
        found = self.results.get(job.key)
        return None if found is None or "error" in found else found

    def numbers(self, jobs: Iterable[Job], *names: str) -> list[Any]:
        """What a name leads to, of those that are measured."""
        every = [found for job in jobs if (found := self.get(job)) is not None]
        for name in names:
            every = [found[name] for found in every]
        return every

    def pairs(self, ours: Iterable[Job], theirs: Iterable[Job], of: Callable[[dict], Any]) -> list[tuple[Any, Any]]:
        both = ((self.get(a), self.get(b)) for a, b in zip(ours, theirs, strict=True))
        return [(of(a), of(b)) for a, b in both if a is not None and b is not None]

    def missing(self, what: str, jobs: Iterable[Job]) -> tuple[str, str, None]:
        """The entry of something without a result, with the first error if there was one."""
        errors = (self.results[job.key].get("error") for job in jobs if job.key in self.results)
        return what, next(filter(None, errors), "not measured"), None


@dataclass(frozen=True)
class Row:
    name: str
    claim: str
    bar: str
    jobs: list[Job]
    judge: Callable[[View], Judged]


def middle(values: Iterable[float]) -> float:
    return statistics.median(values)


def one_sweep(clock: str) -> Callable[[dict], float]:
    """Seconds of a sweep: the median of all but the first, which bears what comes before it."""
    return lambda found: middle(b - a for a, b in zip(found[clock], found[clock][1:], strict=False))


# ── quality ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def split(system: str, seeds: Iterable[int] = SEEDS) -> list[Job]:
    return [Job("rating", system, "ml-100k", seed) for seed in seeds]


def first_seed() -> tuple[list[Job], Callable[[View], Judged]]:
    bars = {
        "ExplicitMF": 0.892,
        "LIBMF": None,
        "Surprise": None,
        "cmfrec": None,
        "BayesianMF": 0.876,
        "myFM": None,
        "myFM SVD++": None,
    }

    def judge(view: View) -> Judged:
        judged: Judged = []
        for name, bar in bars.items():
            found = view.numbers(split(name, [0]), "rmse")
            good = None if bar is None or not found else found[0] <= bar
            judged.append((name, f"{found[0]:.4f}", good) if found else view.missing(name, split(name, [0])))
        return judged

    return [job for name in bars for job in split(name, [0])], judge


def paired() -> tuple[list[Job], Callable[[View], Judged]]:
    rivals = [("ExplicitMF", name) for name in ("LIBMF", "Surprise", "cmfrec")]
    rivals += [("BayesianMF", name) for name in ("myFM", "myFM SVD++")]

    def judge(view: View) -> Judged:
        judged: Judged = []
        for ours, theirs in rivals:
            what, jobs = f"{ours} - {theirs}", (split(ours), split(theirs))
            pairs = view.pairs(*jobs, lambda found: found["rmse"])
            if len(pairs) < 2:
                judged.append(view.missing(what, jobs[0] + jobs[1]))
                continue
            left = [a - b for a, b in pairs]
            mean, error = statistics.fmean(left), statistics.stdev(left) / math.sqrt(len(left))
            a, b = (statistics.fmean(side) for side in zip(*pairs, strict=True))
            judged.append((what, f"{mean:+.4f} ± {error:.4f} ({a:.4f} : {b:.4f}, {len(pairs)} splits)", mean + 2 * error < 0))
        return judged

    names = dict.fromkeys(name for pair in rivals for name in pair)
    return [job for seed in SEEDS for name in names for job in split(name, [seed])], judge


def interval() -> tuple[list[Job], Callable[[View], Judged]]:
    jobs = split("BayesianMF")

    def judge(view: View) -> Judged:
        found = view.numbers(jobs, "intervals")
        if not found:
            return [view.missing("coverage", jobs)]
        mean = statistics.fmean(f["coverage"] for f in found)
        judged: Judged = [(f"coverage, {len(found)} splits", f"{mean:.4f}", 0.88 <= mean <= 0.92)]
        for by in ("activity", "spread"):
            fifths = [statistics.fmean(part) for part in zip(*(f[by] for f in found), strict=True)]
            every = [c for f in found for c in f[by]]
            words = f"{' '.join(f'{c:.3f}' for c in fifths)} (single splits {min(every):.3f} to {max(every):.3f})"
            judged.append((f"in fifths by {by}", words, all(0.85 <= c <= 0.95 for c in fifths)))
        better = [1 - f["score"] / f["single"] for f in found]
        gain, score = statistics.fmean(better), statistics.fmean(f["score"] for f in found)
        words = f"{100 * gain:.2f} % better ({score:.4f}; single splits {100 * min(better):.2f} to {100 * max(better):.2f} %)"
        return [*judged, ("interval score", words, gain >= 0.03)]

    return jobs, judge


def ndcg() -> tuple[list[Job], Callable[[View], Judged]]:
    bars = {"implicit": 1.15, "implicit tuned": 0.99, "EASE": 0.99}
    jobs = {name: [Job("ranking", name, "ml-100k", seed) for seed in FEW] for name in ("ImplicitMF", *bars)}

    def judge(view: View) -> Judged:
        judged: Judged = []
        for name, bar in bars.items():
            pairs = view.pairs(jobs["ImplicitMF"], jobs[name], lambda found: found["ndcg"])
            if not pairs:
                judged.append(view.missing(name, jobs["ImplicitMF"] + jobs[name]))
                continue
            ours, theirs = (statistics.fmean(side) for side in zip(*pairs, strict=True))
            words = f"{100 * (ours / theirs - 1):+.1f} % ({ours:.4f} : {theirs:.4f}, {len(pairs)} splits)"
            judged.append((name, words, ours >= bar * theirs))
        return judged

    return [job for each in zip(*jobs.values(), strict=True) for job in each], judge


# ── speed ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def sweeps(system: str, data: str, k: int, threads: int = 1, kind: str = "sweep") -> list[Job]:
    return [Job(kind, system, data, again, k, threads) for again in TIMES]


def ratio(view: View, what: str, ours: Sequence[Job], theirs: Sequence[Job], of: Callable, bar: float | None) -> Any:
    """Ours over theirs, the median of the repetitions."""
    pairs = view.pairs(ours, theirs, of)
    if not pairs:
        return view.missing(what, [*ours, *theirs])
    share = middle(a / b for a, b in pairs)
    a, b = (middle(side) for side in zip(*pairs, strict=True))
    return what, f"{share:.3f} ({1e3 * a:.4g} ms : {1e3 * b:.4g} ms)", None if bar is None else share <= bar


def by_turns(pairs: Iterable[tuple[Sequence[Job], Sequence[Job]]]) -> list[Job]:
    return [job for ours, theirs in pairs for both in zip(ours, theirs, strict=True) for job in both]


def gibbs() -> tuple[list[Job], Callable[[View], Judged]]:
    ours, theirs = (sweeps(name, "G", 32, 1, "draw") for name in ("BayesianMF", "myFM"))
    judge = lambda view: [ratio(view, "G, rank 32", ours, theirs, one_sweep("cpu"), 1 / 2.9)]  # noqa: E731
    return by_turns([(ours, theirs)]), judge


def als() -> tuple[list[Job], Callable[[View], Judged]]:
    cases = [("G", 64, 1, 0.5), ("G", 128, 1, 0.65), ("G", 64, ALL, 0.6), ("wide", 64, 1, None), ("wide", 128, 1, None),
             ("wide", 64, ALL, None)]  # fmt: skip
    pairs = {case: tuple(sweeps(name, *case[:3]) for name in ("ImplicitMF", "implicit")) for case in cases}

    def judge(view: View) -> Judged:
        judged: Judged = []
        for (data, k, threads, bar), jobs in pairs.items():
            clock = one_sweep("cpu" if threads == 1 else "wall")
            judged.append(ratio(view, f"{data}, k = {k}, {threads} thread{'s' * (threads > 1)}", *jobs, clock, bar))
        return judged

    return by_turns(pairs.values()), judge


def to_objective() -> tuple[list[Job], Callable[[View], Judged]]:
    pairs = {k: tuple(sweeps(name, "G", k) for name in ("ImplicitMF", "implicit")) for k in (64, 128)}

    def judge(view: View) -> Judged:
        judged: Judged = []
        for k, jobs in pairs.items():
            both = view.pairs(*jobs, dict)
            if not both:
                judged.append(view.missing(f"k = {k}", [*jobs[0], *jobs[1]]))
                continue
            aim = both[0][1]["objective"][4]
            count = next((at for at, v in enumerate(both[0][0]["objective"], 1) if v <= aim), None)
            if count is None:
                judged.append((f"k = {k}", f"never in {len(both[0][0]['objective'])} sweeps", False))
                continue
            clock = one_sweep("cpu")
            share = middle(count * clock(a) / (5 * clock(b)) for a, b in both)
            whole = middle(a["cpu"][count - 1] / b["cpu"][4] for a, b in both)
            words = f"{share:.3f} ({count} sweeps : 5, to {aim:.6g}; with what fit does before, {whole:.3f})"
            judged.append((f"k = {k}", words, share <= 0.4 if k == 64 else None))
        return judged

    return by_turns(pairs.values()), judge


def to_exact() -> tuple[list[Job], Callable[[View], Judged]]:
    jobs = [Job("sweep", name, "G", 0, 64) for name in ("ImplicitMF", "ImplicitMF exact")]

    def judge(view: View) -> Judged:
        found = view.numbers(jobs, "objective")
        if len(found) < 2:
            return [view.missing("k = 64", jobs)]
        over = [a / b - 1 for a, b in zip(*found, strict=True)]
        words = ", ".join(f"{100 * o:+.3f}" for o in over) + " % after each sweep"
        return [("k = 64", words, over[2] <= 0.0025 and max(over[3:]) <= 0.002)]

    return jobs, judge


def ten() -> tuple[list[Job], Callable[[View], Judged]]:
    each = lambda name, t: [Job("list", name, "shop", again, 64, t) for again in TIMES]  # noqa: E731
    jobs = {t: (each("Model", t), each("implicit", t)) for t in dict.fromkeys((1, ALL))}

    def judge(view: View) -> Judged:
        judged: Judged = []
        for threads, (ours, theirs) in jobs.items():
            clock = "cpu" if threads == 1 else "wall"
            what = f"{threads} thread{'s' * (threads > 1)}"
            judged.append(ratio(view, f"time, {what}", ours, theirs, lambda found, clock=clock: found[clock], 1.0))
            extra = [[e / 2**20 for e in view.numbers(side, "extra")] for side in (ours, theirs)]
            late = [[1e3 * one[1] for one in view.numbers(side, "one")] for side in (ours, theirs)]
            if extra[0]:
                a, b = (f"{max(side):.0f} MB" if side else "-" for side in extra)
                judged.append((f"extra memory, {what}", f"{a} : {b}", max(extra[0]) <= 512))
                allowed = max(5.0, 1e3 * middle(view.numbers(ours, "pass")))
                a, b = (f"{middle(side):.2f} ms" if side else "-" for side in late)
                judged.append((f"one at a time, 99 %, {what}", f"{a} : {b} (allowed {allowed:.2f})", middle(late[0]) <= allowed))
        return judged

    return [job for pair in jobs.values() for job in by_turns([pair])], judge


def large() -> tuple[list[Job], Callable[[View], Judged]]:
    big = [Job("sweep", name, "20M", 0, 64, ALL, 4) for name in ("ImplicitMF", "implicit")]
    small = [sweeps(name, "G", 64, ALL)[0] for name in ("ImplicitMF", "implicit")]

    def judge(view: View) -> Judged:
        judged: Judged = []
        for name, job, other in zip(("ours", "implicit"), big, small, strict=True):
            found, beside = view.get(job), view.get(other)
            if found is None or beside is None:
                judged.append(view.missing(name, [job, other]))
                continue
            ours, cells = name == "ours", found["cells"] / beside["cells"]
            wall, cpu = (one_sweep(clock)(found) / one_sweep(clock)(beside) / cells for clock in ("wall", "cpu"))
            words = f"{wall:.2f} (CPU {cpu:.2f}; {1e9 * one_sweep('wall')(found) / found['cells']:.0f} ns an interaction and sweep)"
            judged.append((f"{name}, against 1 M", words, wall <= 1.5 if ours else None))
            judged.append((f"{name}, peak memory", f"{found['peak'] / 2**30:.2f} GB", found["peak"] <= 8e9 if ours else None))
            judged.append((f"{name}, whole fit", f"{found['whole'][1]:.0f} s, {len(found['wall'])} sweeps", None))
        return judged

    return big + small, judge


def rows() -> list[Row]:
    return [
        Row("seed-0", "RMSE at seed 0", "≤ .892 / ≤ .876", *first_seed()),
        Row("paired", "RMSE, mean of the paired differences", "2 standard errors below 0", *paired()),
        Row("intervals", "90 % intervals of BayesianMF", ".88–.92; .85–.95 each; ≥ 3 %", *interval()),
        Row("gibbs", "a Gibbs sweep over myFM's, one thread", "≤ 1/2.9", *gibbs()),
        Row("sweep", "a sweep of ImplicitMF over implicit's", "≤ .50 / .65; ≤ .60", *als()),
        Row("time", "time to implicit's objective after 5 sweeps", "≤ .40", *to_objective()),
        Row("exact", "objective above exact ALS's", "≤ .25 % at the third, then .2 %", *to_exact()),
        Row("ndcg", "NDCG@10, defaults, 20 % of each user held out", "≥ +15 %; ≥ -1 %; ≥ -1 %", *ndcg()),
        Row("top", "top 10 for all users over implicit's", "≤ 1; ≤ 512 MB; ≤ 5 ms or a pass", *ten()),
        Row("large", "20 M interactions, k = 64, all threads", "≤ 1.5; ≤ 8 GB", *large()),
    ]


def short() -> list[Job]:
    """Every kind of measurement on tiny tables."""
    few = (job for row in rows() for job in row.jobs if job.seed < 2 and job.rank < 128)
    return list(dict.fromkeys(replace(job, data="tiny", rank=min(job.rank, 8), threads=1) for job in few))


def write(out: Path, results: Results, console: Console) -> None:
    """Print the claims and who was measured where, and write them to report.txt."""
    view, text = View(results), StringIO()
    for each in (console, Console(file=text, width=console.width)):
        each.print(claims(view))
        for line in sorted({f"{found['machine']}: {found['versions']}" for found in results.values()}):
            each.print(line, soft_wrap=True, highlight=False)
        for job, error in ((found["job"], found["error"]) for found in results.values() if "error" in found):
            each.print(f"{Job(**job)}: {error}", soft_wrap=True, highlight=False)
    (out / "report.txt").write_text(text.getvalue())


def claims(view: View) -> Table:
    table = Table(title="Claims", title_justify="left")
    for column in ("claim", "bar", "", "measured", ""):
        table.add_column(column, overflow="fold")
    for row in rows():
        heads = [row.claim, f"  --row {row.name}"]
        for at, (what, words, good) in enumerate(judged := row.judge(view)):
            verdict = {True: "yes", False: "NO", None: ""}[good]
            table.add_row(heads[at] if at < 2 else "", row.bar if at == 0 else "", what, words, verdict)
        for head in heads[len(judged) :]:
            table.add_row(head)
        table.add_section()
    return table
