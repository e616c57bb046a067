"""What is measured, each in a process of its own: ``measure(job)`` gives numbers that JSON can hold.

The clock stops while factors are copied; they are judged afterwards, in float64. Both the process's CPU time and the wall
are kept; with one thread CPU time counts, since a machine is rarely alone.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from cases import CASES, Data
from systems import as_tensor, proxfactor_sweeps, system, wait_for_all_kernels

DENSE_LOOKS, GROWTH = 50, 1.03  # every iteration so far, then each that is 3 % later
SWEEPS = 12  # stretches of iterations between two floors


@dataclass(frozen=True)
class Job:
    """One measurement. ``start``: the seed of a given start, or "own"."""

    kind: str  # trace, cold, sweep, memory, import, gpu
    case: str = ""
    loss: str = ""
    system: str = ""
    dtype: str = "f64"
    threads: int = 1
    start: int | str = 0
    limit: float = 10.0  # seconds on the clock

    @property
    def key(self) -> tuple:
        return tuple(v for k, v in asdict(self).items() if k != "limit")

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.key if part != "") + f" ({self.limit:g} s)"


class Done(BaseException):
    """The clock has run out. No library catches it."""


@dataclass
class Watch:
    """The clock of one run, and what it saw: iteration, CPU seconds, wall seconds, passes, W, H."""

    limit: float
    threads: int = 1
    most: int | None = None  # iterations
    keep: bool = True
    cpu: float = 0.0
    wall: float = 0.0
    count: int = 0
    seen: list[tuple] = field(default_factory=list)

    def go(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def halt(self) -> None:
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall

    @property
    def spent(self) -> float:
        return self.cpu if self.threads == 1 else self.wall

    def first(self, W: Any, H: Any) -> None:
        self.halt()
        self.copy(0, None, W, H)
        self.go()

    def __call__(self, W: Any, H: Any, iteration: int | None = None, passes: int | None = None) -> None:
        self.halt()
        self.count = self.count + 1 if iteration is None else iteration
        over = self.spent >= self.limit or (self.most is not None and self.count >= self.most)
        self.look(W, H, passes, over or iteration is not None)
        if over:
            raise Done
        self.go()

    def look(self, W: Any, H: Any, passes: int | None, must: bool) -> None:
        if self.keep and (must or self.count <= DENSE_LOOKS or self.count >= GROWTH * self.seen[-1][0]):
            self.copy(self.count, passes, W, H)

    def copy(self, count: int, passes: int | None, W: Any, H: Any) -> None:
        pair = (np.array(F.detach().cpu().numpy() if hasattr(F, "detach") else F) for F in (W, H))
        self.seen.append((count, self.cpu, self.wall, passes, *pair))


def timed(run: Callable[[], Any], most: float = 0.03, times: int = 5) -> tuple[float, float]:
    """(CPU, wall) seconds of one call: the median of some stretches of at least ``most`` seconds in all."""
    run()
    begun = time.perf_counter()
    run()
    calls = max(1, int(most / times / max(1e-7, time.perf_counter() - begun)))
    spent = []
    for _ in range(times):
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            run()
        spent.append(((time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls))
    return statistics.median(s[0] for s in spent), statistics.median(s[1] for s in spent)


def floor(X: Any, rank: int) -> Callable[[], Any]:
    """The two big products alone, X Hᵀ and Wᵀ X, by torch, each in the layout that is quickest here."""
    import torch

    m, n = X.shape
    r = np.random.default_rng(0)
    W, H = (torch.from_numpy(np.abs(r.standard_normal(s)).astype(X.dtype)) for s in ((m, rank), (rank, n)))
    Ht, Wt = H.mT.contiguous(), W.mT.contiguous()
    if sp.issparse(X):
        rows, cols = as_tensor(X), as_tensor(X.T.tocsr())
        wide = [torch.sparse_csr_tensor(x.crow_indices().long(), x.col_indices().long(), x.values(), x.shape) for x in (rows, cols)]
        first, second = [lambda: rows @ Ht, lambda: wide[0] @ Ht], [lambda: cols @ W, lambda: wide[1] @ W]
    else:
        D = torch.from_numpy(np.ascontiguousarray(np.nan_to_num(X)))
        F = D.mT.contiguous().mT
        first = [partial(torch.mm, a, b) for x in (D, F) for a, b in ((x, Ht), (x, H.mT), (H, x.mT), (Ht.mT, x.mT))]
        second = [partial(torch.mm, a, b) for x in (D, F) for a, b in ((Wt, x), (W.mT, x), (x.mT, W), (x.mT, Wt.mT))]
    a, b = (min(each, key=lambda f: timed(f)[0]) for each in (first, second))
    return lambda: (a(), b())


class Sweeper(Watch):
    """Stretches of iterations with the floor measured before and after each."""

    def begin(self, floor: Callable[[], Any]) -> None:
        self.floor, self.keep = floor, False
        self.floors, self.stretches, self.since = [timed(floor)], [], (0, 0.0, 0.0)
        self.go()

    def look(self, W: Any, H: Any, passes: int | None, must: bool) -> None:
        count, cpu, wall = self.since
        if self.count == 2:  # the first two are not like the others
            self.since = (2, self.cpu, self.wall)
        if self.count > 2 and (must or self.wall - wall >= self.limit / SWEEPS):
            each = self.count - count
            self.stretches.append(((self.cpu - cpu) / each, (self.wall - wall) / each))
            self.floors.append(timed(self.floor))
            self.since = (self.count, self.cpu, self.wall)


# ── the kinds of measurement ──────────────────────────────────────────────────────────────────────────────────────────


def measure(job: Job) -> dict[str, Any]:
    return {"trace": trace, "cold": trace, "sweep": sweep, "memory": memory, "import": imports, "gpu": gpu}[job.kind](job)


def ready(job: Job) -> tuple[Data, Any, tuple[np.ndarray, np.ndarray] | None]:
    """The data, X as the system is given it, and the start in its dtype."""
    data = CASES[job.case].data(job.loss)
    X = data.cast(job.dtype)
    start = None if job.start == "own" else tuple(F.astype(X.dtype) for F in data.start(int(job.start)))
    return data, X, start


def watched(job: Job, watch: Watch, data: Data, X: Any, start: Any, run: Callable | None = None) -> Watch:
    watch.go()
    try:
        (run or system(job.system).run)(data, X, start, watch)
        watch.halt()  # it ended by itself
    except Done:
        pass
    return watch


def warm(job: Job, data: Data, X: Any, start: Any, run: Callable | None = None) -> None:
    """A first call of two iterations; what compiles beside it has compiled."""
    watched(job, Watch(job.limit, job.threads, most=2, keep=False), data, X, start, run)
    if system(job.system).module == "proxfactor":
        wait_for_all_kernels()


def trace(job: Job) -> dict[str, Any]:
    """rows: (iteration, CPU, wall, passes, value). It is a second call, with all kernels there; in a cold job it is the first."""
    begun = time.process_time(), time.perf_counter()
    getattr(importlib.import_module(system(job.system).module), "factorize", None)  # ours is loaded when first asked for
    loaded = time.process_time() - begun[0], time.perf_counter() - begun[1]
    data, X, start = ready(job)
    if job.kind == "trace":
        warm(job, data, X, start)
    watch = Watch(job.limit, job.threads)
    if start is not None:
        watch.copy(0, 0, *start)
    watched(job, watch, data, X, start)
    value, own = data.yardstick(), system(job.system).passes
    rows = []
    for count, cpu, wall, passes, W, H in watch.seen:
        counted = passes if passes is not None else own * count if own and job.start != "own" else None
        rows.append([count, cpu, wall, counted, value(W, H)])
    found = {"rows": rows, "iterations": watch.count, "cpu": watch.cpu, "wall": watch.wall, "import": loaded}
    if job.case in ("digits", "tiny") and job.loss == "frobenius" and job.dtype == "f64" and job.kind == "trace":
        found |= own_limit(data, *watch.seen[-1][4:])
    return found


def own_limit(data: Data, W: np.ndarray, H: np.ndarray, seconds: float = 60.0) -> dict[str, float]:
    """Where a run was going: its last point continued by one solver, the same for everybody, to certificate 1e-8."""
    from proxfactor import factorize

    if not (np.isfinite(W).all() and np.isfinite(H).all()):
        return {"limit_value": np.inf, "limit_certificate": np.nan}
    begun = time.process_time()
    result = factorize(
        data.X, data.rank, W="nonneg", H="nonneg", init=(W.astype(np.float64), H.astype(np.float64)),
        tol=1e-8, max_iter=10**6, callback=lambda progress: time.process_time() - begun > seconds,
    )  # fmt: skip
    best = min(data.yardstick()(*pair) for pair in ((W, H), (result.W, result.H)))
    return {"limit_value": best, "limit_certificate": result.certificate}


def sweep(job: Job) -> dict[str, Any]:
    """Seconds of an iteration and of the floor: medians, and the least (wall), since other work on a machine only adds."""
    data, X, start = ready(job)
    run = None
    if job.system.split(":")[0] == "proxfactor":
        solver = (job.system + ":auto").split(":")[1]
        run = lambda *args: proxfactor_sweeps(*args, solver=solver)  # noqa: E731
    warm(job, data, X, start, run)
    watch = Sweeper(job.limit, job.threads)
    watch.begin(floor(X, data.rank))
    watched(job, watch, data, X, start, run)
    cpus, walls = zip(*watch.stretches, strict=True)
    around = [(a[0] + b[0]) / 2 for a, b in zip(watch.floors, watch.floors[1:], strict=False)]
    return {
        "iterations": watch.count,
        "cpu": statistics.median(cpus),
        "wall": min(walls),
        "floor_cpu": statistics.median(f[0] for f in watch.floors),
        "floor_wall": min(f[1] for f in watch.floors),
        "ratio": statistics.median(c / f for c, f in zip(cpus, around, strict=True)),
        "ratios": [c / f for c, f in zip(cpus, around, strict=True)],
    }


def resident(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def memory(job: Job) -> dict[str, Any]:
    """Peak bytes beyond what was resident with X in place, while ten iterations run; the library is loaded and warm."""
    small = replace(job, case="tiny-sparse")
    tiny, x, start = ready(small)
    warm(small, tiny, x, start)
    data, X, start = ready(job)
    unit = X.data.nbytes + 4 * (X.nnz + X.shape[0] + 1) if sp.issparse(X) else X.nbytes
    factors = data.factor_numbers * X.dtype.itemsize
    data = Data(X, data.rank, data.loss, data.simplex)  # the float64 copy goes
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # forget the peak so far
    before = resident("VmRSS")
    watched(job, Watch(job.limit, job.threads, most=10, keep=False), data, X, start)
    beyond = max(0, resident("VmHWM") - before)
    return {"beyond": beyond, "X": unit, "factors": factors, "times": (beyond - factors) / unit}


def imports(job: Job) -> dict[str, Any]:
    """Seconds that ``import`` costs in a fresh process, the least of some."""
    lines = {"torch": "import torch", "proxfactor": "import proxfactor", "factorize": "from proxfactor import factorize"}
    code = "from time import *; a, b = process_time(), perf_counter(); {}; print(process_time() - a, perf_counter() - b)"
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in lines}
    for _ in range(5):
        for name, line in lines.items():
            command = [sys.executable, "-c", code.format(line)]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            spent[name].append((float(out[0]), float(out[1])))
    return {name: {"cpu": min(s[0] for s in each), "wall": min(s[1] for s in each)} for name, each in spent.items()}


def gpu(job: Job) -> dict[str, Any]:
    """20 sweeps on a random CSR of 5,000 x 40,000 with 33 M non-zeros, rank 20, and the sparse products alone."""
    import torch

    from proxfactor import Problem
    from proxfactor.solvers import as_solver

    if not torch.cuda.is_available():
        raise RuntimeError("no GPU here")
    m, n, k, stored = 5_000, 40_000, 20, 33_000_000
    g = torch.Generator("cuda").manual_seed(0)
    draws = int(-m * n * math.log1p(-stored / (m * n)))  # some cells are drawn twice
    at = torch.randint(m * n, (draws,), generator=g, device="cuda").unique()
    row, col = at // n, (at % n).int()
    rows = torch.zeros(m + 1, dtype=torch.int32, device="cuda")
    rows[1:] = torch.bincount(row, minlength=m).cumsum(0)
    X = torch.sparse_csr_tensor(rows, col, torch.rand(len(at), generator=g, device="cuda") + 0.5, (m, n))
    W, H = (torch.rand(s, generator=g, device="cuda") for s in ((m, k), (k, n)))
    with torch.no_grad():
        problem = Problem(X, "frobenius", "nonneg", "nonneg")
        solver, sides = as_solver("auto", problem), (problem.X, problem.X.T)

        def seconds(run: Callable[[], Any]) -> float:
            torch.cuda.synchronize()
            begun = time.perf_counter()
            run()
            torch.cuda.synchronize()
            return time.perf_counter() - begun

        def sweeps():
            state = solver.init(problem, W, H)
            for _ in range(20):
                state = solver.step(problem, state)

        def products():
            for _ in range(20):
                sides[0] @ H.mT, sides[1] @ W

        sweeps(), products()
        best = {f.__name__: min(seconds(f) for _ in range(5)) for f in (sweeps, products)}
    return best | {"stored": len(at), "device": torch.cuda.get_device_name()}


def machine() -> str:
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
