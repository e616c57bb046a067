"""What is measured, each in a process of its own: ``measure(job)`` gives numbers that JSON can hold.

The clock stops while factors are copied; they are judged afterwards, in float64. Both the process's CPU time and the wall
are kept; with one thread CPU time counts, since a machine is rarely alone.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from data import TABLES, Cells, ratings, table
from scipy.sparse import csr_matrix
from systems import ALPHA, LISTS, RANKING, RATING, REG, SWEEPS, System

CHUNK = 2**18


@dataclass(frozen=True)
class Job:
    """One measurement. ``seed``: of the split of ratings; elsewhere the repetition."""

    kind: str  # rating, ranking, sweep, draw, list
    system: str
    data: str
    seed: int = 0
    rank: int = 0
    threads: int = 1
    sweeps: int = 6

    @property
    def key(self) -> tuple:
        return tuple(asdict(self).values())

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.key)


def measure(job: Job) -> dict[str, Any]:
    kinds = {"rating": (rating, RATING), "ranking": (ranking, RANKING), "sweep": (sweep, SWEEPS), "draw": (sweep, SWEEPS),
             "list": (lists, LISTS)}  # fmt: skip
    how, systems = kinds[job.kind]
    return how(job, next(s for s in systems if s.name == job.system))


# ── quality ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def rating(job: Job, system: System) -> dict[str, Any]:
    """The RMSE of clipped scores and, where there are standard deviations, how good the intervals are."""
    train, test = ratings(job.data).split(job.seed)
    setting = chosen(system, job.seed, *train.split([job.seed, 1]), lambda part, hidden, s: -rmse(
        hidden, mean_of(system.run(part, hidden, s, job.seed))))  # fmt: skip
    begun = time.process_time()
    predicted = system.run(train, test, setting, job.seed)
    found = {"rmse": rmse(test, mean_of(predicted)), "setting": setting, "seconds": time.process_time() - begun}
    return found | ({"intervals": intervals(train, test, *predicted)} if isinstance(predicted, tuple) else {})


def chosen(system: System, seed: int, part: Cells, hidden: Cells, judge: Any) -> dict[str, Any]:
    """The setting that is best on the hidden part of the training set, where there are several."""
    if len(system.settings) == 1:
        return system.settings[0]
    return max(system.settings, key=lambda setting: judge(part, hidden, setting))


def mean_of(predicted: Any) -> np.ndarray:
    return predicted[0] if isinstance(predicted, tuple) else predicted


def rmse(test: Cells, predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.clip(predicted, 1, 5) - test.value) ** 2)))


def intervals(train: Cells, test: Cells, mean: np.ndarray, std: np.ndarray) -> dict[str, Any]:
    """Those of 90 %, not clipped, beside mean ± the half-width that is best of all for these very cells."""
    from scipy.special import ndtri

    from proxfactor.ratings.evaluation import rating_measures

    half = np.quantile(np.abs(test.value - mean), 0.9, method="higher")
    measures = {"measures": ["interval_coverage", "interval_score"], "user": test.user}
    activity = np.bincount(train.user, minlength=train.shape[0])[test.user]
    found = rating_measures(test.value, mean, std, activity=activity, **measures)
    same = rating_measures(test.value, mean, np.full(len(test), half / ndtri(0.95)), **measures)
    by = {name: [v for k, v in found.items() if f"/{name} " in k] for name in ("activity", "spread")}
    name = "interval_coverage@0.9"
    return {"coverage": found[name], **by, "score": found["interval_score@0.9"], "single": same["interval_score@0.9"]}


def ranking(job: Job, system: System) -> dict[str, Any]:
    """NDCG@10 and recall@20 of the liked items that were hidden, what was seen left out."""
    train, test = ratings(job.data).liked().split_users(job.seed)
    setting = chosen(system, job.seed, *train.split_users([job.seed, 1]), lambda part, hidden, s: ranked(
        part, hidden, system.run(part, s, job.seed))["ndcg"])  # fmt: skip
    begun = time.process_time()
    scores = system.run(train, setting, job.seed)
    return ranked(train, test, scores) | {"setting": setting, "seconds": time.process_time() - begun}


def ranked(train: Cells, test: Cells, scores: np.ndarray) -> dict[str, float]:
    from proxfactor.ratings.evaluation import ranking_measures

    measures = {"measures": ["ndcg@10", "recall@20"], "seen": (train.user, train.item)}
    found = ranking_measures(scores, (test.user, test.item), **measures)
    return {"ndcg": found["ndcg@10"], "recall": found["recall@20"]}


# ── speed ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Watch:
    """The clock of one run, and what it saw: CPU seconds, wall seconds and the factors after each sweep."""

    keep: bool
    cpu: float = 0.0
    wall: float = 0.0
    seen: list[tuple] = field(default_factory=list)

    def go(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def halt(self) -> None:
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall

    def __call__(self, factors: Callable[[], Iterable[np.ndarray]] = tuple) -> None:
        self.halt()
        self.seen.append((self.cpu, self.wall, *(np.array(F) for F in (factors() if self.keep else ()))))
        self.go()


def sweep(job: Job, system: System) -> dict[str, Any]:
    """The clock after each sweep, from the call of fit on, the objective of implicit there, and the peak of memory in bytes."""
    warm(system, table("tiny"), job)
    X = table(job.data)
    if job.kind == "sweep":
        X.data[:] = 1.0  # clicks
    watch = Watch(keep=job.kind == "sweep" and TABLES[job.data][2] < 2e6)
    forget_peak()
    watch.go()
    system.run(X, job.rank, job.threads, job.sweeps, watch)
    watch.halt()
    found: dict[str, Any] = {"peak": resident("VmHWM"), "whole": [watch.cpu, watch.wall], "cells": X.nnz}
    found |= {name: [row[at] for row in watch.seen] for at, name in enumerate(("cpu", "wall"))}
    return found | ({"objective": [objective(X, *row[2:]) for row in watch.seen]} if watch.keep else {})


def warm(system: System, X: csr_matrix, job: Job) -> None:
    """Imports, and the kernel of our ALS, which is fetched beside the work otherwise, so that each sweep takes the same road."""
    if system.package == "proxfactor":
        import torch

        from proxfactor.compiled import wait_for_kernels

        wait_for_kernels("solvers._als_numba", torch.float32)
    system.run(X, 4, job.threads, 2, lambda factors=None: None)


def objective(X: csr_matrix, users: np.ndarray, items: np.ndarray) -> float:
    """½ Σ_stored c (1 - x·y)² + ½ Σ_not stored (x·y)² + ½ reg (Σ |x|² + Σ |y|²), c = α r, in float64: implicit's own."""
    cells, (U, V) = X.tocoo(), (F.astype(np.float64) for F in (users, items))
    total = ((U.T @ U) * (V.T @ V)).sum() + REG * ((U**2).sum() + (V**2).sum())
    for at in range(0, X.nnz, CHUNK):
        part = slice(at, at + CHUNK)
        p = np.einsum("ck,ck->c", U[cells.row[part]], V[cells.col[part]])
        total += (ALPHA * cells.data[part] * (1 - p) ** 2 - p**2).sum()
    return float(total / 2)


def lists(job: Job, system: System) -> dict[str, Any]:
    """Ten items for all users at once, then for a thousand users one by one; memory beyond what was there."""
    X, draw = table(job.data), np.random.default_rng(1)
    users, items = (draw.standard_normal((size, job.rank), dtype=np.float32) for size in X.shape)
    answer = system.run(X, users, items, job.threads)
    answer(0)
    before = forget_peak()
    cpu, wall = time.process_time(), time.perf_counter()
    answer(None)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    extra = resident("VmHWM") - before
    each = [seconds(lambda u=u: answer(u)) for u in draw.integers(0, X.shape[0], 1000).tolist()]
    a_pass = float(np.median([seconds(lambda: items @ users[0]) for _ in range(100)]))
    return {"cpu": cpu, "wall": wall, "extra": extra, "one": np.quantile(each, [0.5, 0.99]).tolist(), "pass": a_pass}


def seconds(run: Any) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def forget_peak() -> int:
    """Bytes that are resident now, the peak from here on."""
    gc.collect()
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    return resident("VmRSS")


def resident(what: str) -> int:
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))
