"""The claims: each with the jobs that it needs and a judge that reads their results."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from cases import CASES
from jobs import Results
from measure import Job
from systems import SYSTEMS

SEEDS = (0, 1, 2)
DTYPES = ("f32", "f64")
ALL = os.cpu_count() or 1
Judged = list[tuple[str, str, bool | None]]  # what, how much, whether it passes (None: not measured)


@dataclass(frozen=True)
class Reached:
    """How a run came to a value. ``seconds`` is the time limit if it never did."""

    never: bool
    iterations: int
    passes: int | None
    seconds: float


class View:
    """Questions to the results."""

    def __init__(self, results: Results):
        self.results = {key: found for key, found in results.items() if "error" not in found}
        self.errors = {key: found["error"] for key, found in results.items() if "error" in found}
        self._best: dict[tuple, float] = {}
        for found in self.results.values():
            job = found["job"]
            if "rows" in found:
                at = (job["case"], job["loss"], str(job["start"]))
                self._best[at] = min([self._best.get(at, float("inf")), *(row[4] for row in found["rows"])])

    def get(self, job: Job) -> dict[str, Any] | None:
        return self.results.get(job.key)

    def best(self, job: Job) -> float:
        """The least value that anybody found from that start, in any dtype."""
        return self._best[job.case, job.loss, str(job.start)]

    def reach(self, job: Job, within: float | None = None, value: float | None = None, clock: str = "") -> Reached | None:
        """The first look of a run at or below the best times 1 + within, or at or below a value."""
        found = self.get(job)
        if found is None:
            return None
        target = self.best(job) * (1 + within) if value is None else value
        at = 1 if (clock or ("cpu" if job.threads == 1 else "wall")) == "cpu" else 2
        for row in found["rows"]:
            if row[4] <= target:
                return Reached(False, row[0], row[3], row[at])
        return Reached(True, found["iterations"], None, found["job"]["limit"])

    def faster(self, ours: Sequence[Job], theirs: Sequence[Job], within: float) -> tuple[str, float] | None:
        """("1.2 s : 0.1 s", the ratio): medians over the starts of their seconds over ours, as far as they are measured."""
        pairs = [(self.reach(a, within), self.reach(b, within)) for a, b in zip(ours, theirs, strict=True)]
        pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
        if not pairs:
            return None
        ratio = statistics.median(b.seconds / max(a.seconds, 1e-9) for a, b in pairs)
        words = [
            f"{statistics.median(r.seconds for r in side):.3g} s{', never' if any(r.never for r in side) else ''}"
            for side in zip(*pairs, strict=True)
        ]
        some = "" if len(pairs) == len(ours) else f", {len(pairs)} of {len(ours)} starts"
        return f"{words[1]} : {words[0]}{some}", ratio

    def missing(self, what: str, *jobs: Job) -> tuple[str, str, None]:
        """The entry of something without a result, with the first error if there was one."""
        return what, next((self.errors[j.key] for j in jobs if j.key in self.errors), "not measured"), None


@dataclass(frozen=True)
class Row:
    name: str
    claim: str
    bar: str
    jobs: list[Job]
    judge: Callable[[View], Judged]


def traces(case: str, loss: str, system: str, dtype: str, seeds: Iterable[int] = SEEDS, limit: float = 10.0) -> list[Job]:
    return [Job("trace", case, loss, system, dtype, 1, seed, limit) for seed in seeds]


def sweeps(case: str, loss: str, systems: Iterable[str], bar: float) -> tuple[list[Job], Callable[[View], Judged]]:
    """Sweep over floor in both dtypes; the first system is ours, the others stand beside it."""
    jobs = [Job("sweep", case, loss, system, dtype, limit=3.0) for dtype, system in product(DTYPES, systems)]

    def judge(view: View) -> Judged:
        judged: Judged = []
        for job in jobs:
            what, found = f"{job.dtype} {job.system}", view.get(job)
            ours = job.system == "proxfactor"
            if found is not None:
                words = f"{found['ratio']:.2f} ({1e3 * found['cpu']:.3g} ms : {1e3 * found['floor_cpu']:.3g} ms)"
                judged.append((what, words, found["ratio"] <= bar if ours else None))
            elif ours or job.key in view.errors:
                judged.append(view.missing(what, job))
        return judged

    return jobs, judge


def races(pairs: list[tuple[str, list[Job], list[Job], float]], within: float) -> tuple[list[Job], Callable[[View], Judged]]:
    """(what, our jobs, their jobs, how many times faster) for each pair."""

    def judge(view: View) -> Judged:
        judged: Judged = []
        for what, ours, theirs, bar in pairs:
            found = view.faster(ours, theirs, within)
            none = view.missing(what, *ours, *theirs)
            judged.append(none if found is None else (what, f"{found[1]:.2f}x ({found[0]})", found[1] >= bar))
        return judged

    return [job for pair in zip_jobs(pairs) for job in pair], judge


def zip_jobs(pairs: list[tuple[str, list[Job], list[Job], float]]) -> Iterable[tuple[Job, Job]]:
    """Side by side: each of ours next to theirs from the same start."""
    return (pair for _, ours, theirs, _ in pairs for pair in zip(ours, theirs, strict=True))


def to_a_tenth_percent() -> tuple[list[Job], Callable[[View], Judged]]:
    bars = (("dense", 6.0, 10.0), ("dense-large", 12.0, 30.0), ("sparse", 3.0, 10.0))
    return races(
        [
            (f"{case} {d}", *(traces(case, "frobenius", s, d, limit=limit) for s in ("proxfactor", "scikit-learn-cd")), bar)
            for case, bar, limit in bars
            for d in DTYPES
        ],
        1e-3,
    )


def few_passes() -> tuple[list[Job], Callable[[View], Judged]]:
    names = ("proxfactor", "scikit-learn-cd")
    jobs = {(d, s): traces("dense", "frobenius", s, d) for d in DTYPES for s in names}

    def judge(view: View) -> Judged:
        judged: Judged = []
        for (dtype, name), each in jobs.items():
            reached = [view.reach(job, 1e-3) for job in each]
            what = f"{dtype} {name}"
            found = [r for r in reached if r is not None]
            if not found:
                judged.append(view.missing(what, *each))
                continue
            words = ", ".join("never" if r.never else "–" if r.passes is None else f"{r.passes:g}" for r in found)
            good = all(not r.never and r.passes is not None and r.passes <= 8 for r in found)
            judged.append((what, words, good if name == "proxfactor" else None))
        return judged

    return [job for each in jobs.values() for job in each], judge


def own_limits() -> tuple[list[Job], Callable[[View], Judged]]:
    names = ("proxfactor", "scikit-learn-cd")
    jobs = {s: traces("digits", "frobenius", s, "f64") for s in names}

    def judge(view: View) -> Judged:
        judged: Judged = []
        reached = {}
        for name, each in jobs.items():
            for job in each:
                found, what = view.get(job), f"start {job.start} {name}"
                if found is None:
                    judged.append(view.missing(what, job))
                    continue
                limit = found["limit_value"]
                r = reached[name, job.start] = view.reach(job, value=limit * (1 + 1e-6))
                over = max(0.0, limit / view.best(job) - 1)
                words = f"{'never, ' if r.never else ''}{r.iterations} iterations, {r.seconds:.3g} s, "
                words += f"best + {100 * over:.2f} %"
                words += "" if found["limit_certificate"] <= 1e-8 else f" (certificate {found['limit_certificate']:.1g} only)"
                good = not r.never and r.iterations <= 120 and over <= 5e-3
                judged.append((what, words, good if name == "proxfactor" else None))
        for seed in SEEDS:
            pair = [reached.get((s, seed)) for s in names]
            if all(pair):
                ratio = pair[1].seconds / max(pair[0].seconds, 1e-9)
                judged.append((f"start {seed}", f"{ratio:.2f}x faster", ratio >= 4 and not pair[0].never))
        return judged

    return [job for pair in zip(*jobs.values(), strict=True) for job in pair], judge


def kl_dense() -> tuple[list[Job], Callable[[View], Judged]]:
    ours, theirs = (traces("dense", "kl", s, "f32", limit=30.0) for s in ("proxfactor", "scikit-learn-mu"))
    jobs, race = races([("to 0.1 %", ours, theirs, 6.0)], 1e-3)

    def judge(view: View) -> Judged:
        reached = [r for r in (view.reach(job, 1e-3) for job in ours) if r is not None]
        if not reached:
            return [view.missing("iterations", *ours), *race(view)]
        words = ", ".join(f"{'over ' if r.never else ''}{r.iterations}" for r in reached)
        return [("iterations", words, all(not r.never and r.iterations <= 40 for r in reached)), *race(view)]

    return jobs, judge


def kl_sparse() -> tuple[list[Job], Callable[[View], Judged]]:
    names = ("proxfactor", "scikit-learn-mu")
    each = [Job("sweep", "sparse", "kl", s, "f32", limit=5.0) for s in names]
    jobs, race = races([("to 1 %", *(traces("sparse", "kl", s, "f32", limit=30.0) for s in names), 10.0)], 1e-2)

    def judge(view: View) -> Judged:
        found = [view.get(job) for job in each]
        if any(f is None for f in found):
            return [view.missing("a sweep", *each), *race(view)]
        ratio = found[1]["cpu"] / found[0]["cpu"]
        words = f"{ratio:.2f}x ({1e3 * found[1]['cpu']:.3g} ms : {1e3 * found[0]['cpu']:.3g} ms)"
        return [("a sweep", words, ratio >= 10), *race(view)]

    return [*each, *jobs], judge


def pytorch_peers() -> tuple[list[Job], Callable[[View], Judged]]:
    rivals = (("nmf-torch", "frobenius"), ("torchnmf", "frobenius"), ("torchnmf", "kl"))  # torchnmf's default loss is KL
    return races(
        [
            (f"{case} {loss} {rival}", *(traces(case, loss, s, "f32") for s in ("proxfactor", rival)), 10.0)
            for case in ("dense", "digits")
            for rival, loss in rivals
        ],
        1e-2,
    )


def simplex() -> tuple[list[Job], Callable[[View], Judged]]:
    ours, theirs = (Job("trace", "simplex", "frobenius", s, "f64", 1, 0, 40.0) for s in ("proxfactor", "proxmin-pgm"))

    def judge(view: View) -> Judged:
        found = view.get(theirs)
        if found is None or view.get(ours) is None:
            return [view.missing("to proxmin's own end", ours, theirs)]
        end = min(row[4] for row in found["rows"]) * (1 + 1e-6)
        a, b = (view.reach(job, value=end) for job in (ours, theirs))
        ratio = b.seconds / max(a.seconds, 1e-9)
        words = f"{ratio:.1f}x ({b.seconds:.3g} s : {a.seconds:.3g} s{', never' if a.never else ''}, error {end:.6g})"
        return [("to proxmin's own end", words, ratio >= 100 and not a.never)]

    return [ours, theirs], judge


def start_errors() -> tuple[list[Job], Callable[[View], Judged]]:
    cases = ("digits", "dense")
    names = [s.name for s in SYSTEMS if s.default]
    jobs = [Job("trace", c, "frobenius", s, "f64", 1, "own") for c in cases for s in ("proxfactor", "scikit-learn-cd")]

    def judge(view: View) -> Judged:
        judged: Judged = []
        for case, name in product(cases, names):
            found = view.get(Job("trace", case, "frobenius", name, "f64", 1, "own"))
            first = found["rows"][0] if found else [None]
            if first[0] == 0:
                judged.append((f"{case} {name}", f"{first[4]:.3f}", first[4] <= 0.33 if name == "proxfactor" else None))
            elif name == "proxfactor":
                judged.append(view.missing(f"{case} {name}", *jobs))
        return judged

    return jobs, judge


def memory() -> tuple[list[Job], Callable[[View], Judged]]:
    jobs = [Job("memory", "sparse", "kl", s, "f32", limit=30.0) for s in ("proxfactor", "scikit-learn-mu", "torchnmf")]

    def judge(view: View) -> Judged:
        judged: Judged = []
        for job in jobs:
            found, ours = view.get(job), job.system == "proxfactor"
            if found:
                words = f"{found['times']:.2f} times X ({found['beyond'] / 2**20:.1f} MiB with the factors)"
                judged.append((job.system, words, found["times"] <= 2.5 if ours else None))
            else:
                judged.append(view.missing(job.system, job))
        return judged

    return jobs, judge


def threads() -> tuple[list[Job], Callable[[View], Judged]]:
    cases = ("dense", "dense-large", "sparse", "digits")
    jobs = {(c, d): [Job("sweep", c, "frobenius", "proxfactor", d, t, limit=3.0) for t in (1, 2)] for c in cases for d in DTYPES}
    jobs |= {("sparse, KL", d): [Job("sweep", "sparse", "kl", "proxfactor", d, t, limit=3.0) for t in (1, 2)] for d in DTYPES}

    def judge(view: View) -> Judged:
        judged: Judged = []
        for (case, dtype), (one, two) in jobs.items():
            what, found = f"{case} {dtype}", [view.get(one), view.get(two)]
            if None in found:
                judged.append(view.missing(what, one, two))
                continue
            ours, floors = (found[0][w] / found[1][w] for w in ("wall", "floor_wall"))
            words = f"{ours:.2f}x, the floor {floors:.2f}x"
            judged.append((what, words, True if ours >= 1.6 else False if floors >= 1.6 else None))
        return judged

    return [job for pair in jobs.values() for job in pair], judge


def first_call() -> tuple[list[Job], Callable[[View], Judged]]:
    rival = {"frobenius": "scikit-learn-cd", "kl": "scikit-learn-mu"}
    cases = (("digits", "frobenius"), ("dense", "frobenius"), ("sparse", "frobenius"), ("sparse", "kl"))
    pairs = {(c, loss): [Job("cold", c, loss, s, "f32", 1, 0, 30.0) for s in ("proxfactor", rival[loss])] for c, loss in cases}

    def judge(view: View) -> Judged:
        judged: Judged = []
        for (case, loss), (a, b) in pairs.items():
            what = f"{case} {loss}, to 1 %"
            if view.get(a) is None or view.get(b) is None:
                judged.append(view.missing(what, a, b))
                continue
            ours, theirs = (view.reach(job, 1e-2, clock="wall") for job in (a, b))
            cpu = [view.reach(job, 1e-2, clock="cpu").seconds for job in (a, b)]
            words = f"{ours.seconds:.2f} s : {theirs.seconds:.2f} s (CPU {cpu[0]:.2f} : {cpu[1]:.2f})"
            judged.append((what, words, ours.seconds <= theirs.seconds + 1 and not ours.never))
        found = view.get(Job("import"))
        if found is None:
            return [*judged, view.missing("import", Job("import"))]
        ms = {name: 1e3 * each["cpu"] for name, each in found.items() if name in ("torch", "proxfactor", "factorize")}
        words = f"{ms['proxfactor']:.0f} ms, with factorize {ms['factorize']:.0f} ms : torch {ms['torch']:.0f} ms"
        return [*judged, ("import (CPU)", words, ms["proxfactor"] <= ms["torch"])]

    return [Job("import"), *(job for pair in pairs.values() for job in pair)], judge


def on_gpu() -> tuple[list[Job], Callable[[View], Judged]]:
    jobs = [Job("gpu", dtype="f32")]

    def judge(view: View) -> Judged:
        found = view.get(jobs[0])
        if found is None:
            return [view.missing("20 sweeps", *jobs)]
        s, p = found["sweeps"], found["products"]
        return [(f"20 sweeps, {found['device']}", f"{s:.3f} s, {s / p:.2f} of the products", s <= 0.15 and s <= 3 * p)]

    return jobs, judge


def rows() -> list[Row]:
    peers = ("proxfactor", "scikit-learn-cd", "nmf-torch-hals")
    return [
        Row("sweep-dense", "dense Frobenius: sweep / floor", "≤ 1.4", *sweeps("dense", "frobenius", peers, 1.4)),
        Row("sweep-sparse", "sparse Frobenius: sweep / floor (torch CSR)", "≤ 1.6", *sweeps("sparse", "frobenius", peers[:2], 1.6)),
        Row("sweep-digits", "digits: sweep / floor, three inner passes", "≤ 4", *sweeps("digits", "frobenius", peers, 4.0)),
        Row("time", "to 0.1 %, against scikit-learn's cd", "≥ 6x, ≥ 12x, ≥ 3x", *to_a_tenth_percent()),
        Row("passes", "passes over X to 0.1 %, dense", "≤ 8", *few_passes()),
        Row("own-limit", "digits to within 1e-6 of the own limit", "≤ 120 iterations, ≥ 4x", *own_limits()),
        Row("kl-dense", "KL dense to 0.1 %, against scikit-learn's mu, f32", "≥ 6x, ≤ 40 iterations", *kl_dense()),
        Row("kl-sparse", "KL sparse, against scikit-learn's mu, f32", "≥ 10x, ≥ 10x", *kl_sparse()),
        Row("pytorch", "to 1 %, against nmf-torch's and torchnmf's defaults", "≥ 10x", *pytorch_peers()),
        Row("simplex", "simplex abundances, against proxmin's PGM", "≥ 100x", *simplex()),
        Row("start", "error of the start", "≤ 0.33", *start_errors()),
        Row("memory", "memory beyond X, sparse KL, f32", "≤ 2.5 times X, + factors", *memory()),
        Row("threads", "two threads over one, a sweep (wall)", "≥ 1.6x where the floor does", *threads()),
        Row("first-call", "first call, fresh process, cold numba cache (wall)", "≤ scikit-learn's + 1 s", *first_call()),
        Row("gpu", "GPU: CSR 5,000 x 40,000, 33 M non-zeros, 20 sweeps", "≤ .15 s, ≤ 3x products", *on_gpu()),
    ]


def matrix(names: Iterable[str]) -> list[Job]:
    """Everybody on these cases, from three starts and their own (with all threads from the first), and what a sweep costs."""
    jobs = []
    for name, dtype, count in product(names, DTYPES, dict.fromkeys((1, ALL))):
        case = CASES[name]
        for loss, start, s in product(case.losses, (*SEEDS, "own"), SYSTEMS):
            if not s.takes(loss, case.simplex) or (start == "own" and not s.default) or (count > 1 and start != 0):
                continue
            jobs.append(Job("trace", name, loss, s.name, dtype, count, start))
            if start == 0:
                jobs.append(Job("sweep", name, loss, s.name, dtype, count, limit=3.0))
    return jobs
