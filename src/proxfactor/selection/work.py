"""The fits behind a choice: each one a rank and a turn, made here or in other processes, and kept in a folder as they end."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import re
import signal
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..fit import _limits as limits
from ..fit import factorize
from ..io.files import shown, write_atomically
from ..losses import Loss
from ..matrix import Matrix, Stored
from ..problem import Problem
from .holdout import HoldOut, hold_out

FORMAT = 1
BIG = 2**14
"""Entries from which a tensor goes to other processes as a file that they share, not as a copy for each."""


@dataclass(frozen=True, order=True)
class Job:
    """One fit: which hidden cells and start (turn), which of the models, which rank."""

    turn: int
    model: str
    rank: int

    @property
    def name(self) -> str:
        """A file name, of moderate length, that no other job has."""
        model = re.sub(r"[^\w.=+-]+", "_", self.model)
        if len(model) > 80:
            model = f"{model[:70]}-{hashlib.sha256(self.model.encode()).hexdigest()[:8]}"
        return f"{model}-rank-{self.rank}-turn-{self.turn}"


@dataclass(frozen=True)
class Fit:
    """What is kept of a fit: its error on the hidden cells and on the seen ones, how it ended, and its factors."""

    job: Job
    error: float
    training: float
    iterations: int
    converged: bool
    W: Tensor = field(repr=False)
    H: Tensor = field(repr=False)

    def bytes(self) -> bytes:
        """The fit as one safetensors file, numbers as JSON in its head: whole or not there."""
        from safetensors.torch import save

        told = {key: getattr(self, key) for key in ("error", "training", "iterations", "converged")}
        return save({"W": self.W.contiguous(), "H": self.H.contiguous()}, {"fit": json.dumps(told)})

    @classmethod
    def read(cls, file: Path, job: Job) -> Fit:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as held:
                return cls(job, **json.loads(held.metadata()["fit"]), W=held.get_tensor("W"), H=held.get_tensor("H"))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{shown(file)} is no fit of a scan ({error}); delete it, and it is made again") from None


@dataclass(frozen=True)
class Progress:
    """What a callback is shown after each fit: how many are done, of how many, and the latest."""

    done: int
    total: int
    fit: Fit


@dataclass(eq=False)
class Plan:
    """Everything that decides the numbers of a fit, but for its job."""

    models: dict[str, Problem]
    fraction: float
    seed: int
    tol: float
    max_iter: int
    yardstick: Loss | None = None

    def __post_init__(self) -> None:
        """The same data for every model, without what others have computed from it. Raises ValueError for bad numbers."""
        limits(self.max_iter, self.tol, self.seed)
        X = _bare(next(iter(self.models.values())).X)
        self.models = {name: replace(problem, X=X) for name, problem in self.models.items()}
        self._held = 0, hold_out(X, self.fraction, 0, self.seed)

    @property
    def X(self) -> Matrix:
        return next(iter(self.models.values())).X

    def hold_out(self, turn: int) -> HoldOut:
        if self._held[0] != turn:
            self._held = turn, hold_out(self.X, self.fraction, turn, self.seed)
        return self._held[1]

    def fit(self, job: Job) -> Fit:
        """The same numbers in every process. Raises KeyboardInterrupt where Ctrl-C ended it."""
        problem, parts = self.models[job.model], self.hold_out(job.turn)
        seen = replace(problem, X=parts.seen)
        result = factorize(seen, job.rank, init="random", seed=self.seed + job.turn, tol=self.tol, max_iter=self.max_iter)
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        W, H = (F.detach().cpu() for F in result.factors)
        error = parts.loss(problem.loss, *result.factors, self.yardstick)
        return Fit(job, error, self._training(seen, *result.factors), result.iterations, result.converged, W, H)

    def _training(self, seen: Problem, W: Tensor, H: Tensor) -> float:
        """The mean loss of a seen cell."""
        X = seen.X
        w = X.entries().numel() if X.weight is None else X.weight.double().sum().item()
        stored = X.entries().numel()
        return seen.row_losses(W, H.mT).sum().item() / (w + X.background * (X.shape[0] * X.shape[1] - stored))

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What the fits in a folder must have in common, in words and hashes."""
        parts = [self.X.entries(), self.X.weight]
        parts += [self.X.crow, self.X.col] if isinstance(self.X, Stored) else []
        data = _hash(parts, [type(self.X).__name__, self.X.shape, self.X.dtype, self.X.background])
        told = {name: _told(p) for name, p in self.models.items()}
        rest = {"fraction": self.fraction, "seed": self.seed, "tol": self.tol, "max_iter": self.max_iter}
        return {"format": FORMAT, "data": data, "models": told, "yardstick": repr(self.yardstick), **rest}


def _told(problem: Problem) -> dict[str, str]:
    parts = {"loss": problem.loss, "W": problem.prox_W, "H": problem.prox_H}
    told = {}
    for name, part in parts.items():
        text, held = part.spell()
        told[name] = f"{text} {_hash(list(held.values()), list(held))[:12]}" if held else text
    return told | ({"ties": repr(problem.ties)} if problem.ties else {})


def _hash(tensors: list[Tensor | None], words: list[Any]) -> str:
    digest = hashlib.sha256(repr([str(w) for w in words]).encode())
    for t in tensors:
        digest.update(b"none" if t is None else np.ascontiguousarray(t.detach().cpu().numpy()).data.cast("B"))
    return digest.hexdigest()


def _bare(X: Matrix) -> Matrix:
    bare = X.like(X.entries())
    bare.weight, bare.form = X.weight, X.form
    return bare


# ── the folder ────────────────────────────────────────────────────────────────────────────────────────────────────────


def opened(folder: str | os.PathLike[str], fingerprint: dict[str, Any]) -> Path:
    """The folder for these fits, new or begun. Raises ValueError where it holds others, naming the arguments that differ."""
    place, file = Path(folder), Path(folder, "scan.json")
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{shown(place)} is a file, and a folder will be written; choose another name")
    if file.exists():
        try:
            before = dict(json.loads(file.read_text("utf-8")))
        except (OSError, TypeError, ValueError):
            raise ValueError(f"{shown(file)} cannot be read; choose another folder, or delete this one") from None
        if differ := _differences(before, fingerprint):
            raise ValueError(
                f"{shown(place)} holds fits that were made with other arguments ({'; '.join(differ)}); give the same ones "
                "to go on, or choose another folder"
            )
    elif place.exists() and any(place.iterdir()):
        raise FileExistsError(f"{shown(place)} holds other things than the fits of a scan; choose another name, or empty it")
    else:
        write_atomically(file, json.dumps(fingerprint, indent=2))
    return place


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    if before.get("data") != now["data"]:
        return ["the data is another"]
    found = []
    for key in now:
        if before.get(key) == now[key]:
            continue
        if key != "models":
            found.append(f"{key} was {before.get(key)!r}, is {now[key]!r}")
            continue
        for name, told in now[key].items():
            was = before.get(key, {}).get(name, {})
            found += [f"{part} was {was.get(part)}, is {text}" for part, text in told.items() if was.get(part) != text]
    return found or (["other models"] if before != now else [])


# ── the work ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Work:
    """Makes the fits that are asked for, each once: from memory, from the folder, or by ``workers`` processes.

    ``interrupted`` says whether Ctrl-C or the callback ended it early; what is finished is then kept.
    """

    def __init__(self, plan: Plan, workers: int, out: Any, callback: Callable[[Progress], Any] | None):
        self.plan, self.workers, self.callback = plan, workers, callback
        self.folder = None if out is None else opened(out, plan.fingerprint)
        self.fits: dict[Job, Fit] = {}
        self.interrupted = False

    def run(self, jobs: Iterable[Job], total: int | None = None) -> None:
        """Makes these fits, those of one turn together."""
        todo = sorted(set(jobs) - self.fits.keys())
        total = len(self.fits) + len(todo) if total is None else total
        for job in list(todo):
            file = self._file(job)
            if file is not None and file.exists():
                self.fits[job] = Fit.read(file, job)
                todo.remove(job)
        made = self._here(todo) if self.workers == 1 or len(todo) < 2 else self._elsewhere(todo)
        try:
            for fit in made:
                self.fits[fit.job] = fit
                if (file := self._file(fit.job)) is not None:
                    write_atomically(file, fit.bytes())
                if self.callback and self.callback(Progress(len(self.fits), max(total, len(self.fits)), fit)):
                    self.interrupted = True
                    break
        except KeyboardInterrupt:
            self.interrupted = True
        finally:
            made.close()
        if self.interrupted and not self.fits:
            raise KeyboardInterrupt

    def _file(self, job: Job) -> Path | None:
        return None if self.folder is None else self.folder / f"{job.name}.safetensors"

    def _here(self, todo: list[Job]) -> Generator[Fit, None, None]:
        yield from map(self.plan.fit, todo)

    def _elsewhere(self, todo: list[Job]) -> Generator[Fit, None, None]:
        """The fits by processes that share the data through files, in the order in which they end."""
        with tempfile.TemporaryDirectory(prefix="proxfactor-") as shared:
            _send(self.plan, Path(shared))
            others = set(multiprocessing.active_children())
            threads = max(1, torch.get_num_threads() // self.workers)
            pool = ProcessPoolExecutor(
                min(self.workers, len(todo)), multiprocessing.get_context("spawn"), initializer=_enter, initargs=(shared, threads)
            )
            try:
                for done in as_completed([pool.submit(_work, job) for job in todo]):
                    yield done.result()
            except BrokenProcessPool:
                kept = "; what is finished is kept" if self.folder else ""
                raise RuntimeError(
                    f"a worker process ended before its fit did{kept}. Out of memory: give fewer workers. In a script: call it "
                    "below `if __name__ == '__main__':`, as every program must that starts processes"
                ) from None
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in set(multiprocessing.active_children()) - others:
                    process.terminate()
                    process.join()


_PLAN: Plan | None = None


def _enter(shared: str, threads: int) -> None:
    global _PLAN
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the first one ends the others
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    with open(Path(shared, "plan"), "rb") as file:
        _PLAN = _Unpickler(file, Path(shared)).load()


def _work(job: Job) -> Fit:
    assert _PLAN is not None
    return _PLAN.fit(job)


def _send(plan: Plan, shared: Path) -> None:
    with open(shared / "plan", "wb") as file:
        try:
            _Pickler(file, shared).dump(plan)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"the problem cannot be sent to other processes ({error}); give workers=1, or define "
                "functions at the top of a module"
            ) from None


class _Pickler(pickle.Pickler):
    """Writes big tensors beside the pickle, each once."""

    def __init__(self, file: Any, shared: Path):
        super().__init__(file)
        self.shared, self.known = shared, dict[int, tuple[str, str]]()

    def persistent_id(self, obj: Any) -> tuple[str, str] | None:
        if not isinstance(obj, Tensor) or obj.numel() < BIG or obj.layout != torch.strided:
            return None
        if id(obj) not in self.known:
            self.known[id(obj)] = f"{len(self.known)}.npy", str(obj.device)
            np.save(self.shared / self.known[id(obj)][0], obj.detach().cpu().numpy())
        return self.known[id(obj)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, shared: Path):
        super().__init__(file)
        self.shared = shared

    def persistent_load(self, pid: Any) -> Tensor:
        name, device = pid
        return torch.from_numpy(np.load(self.shared / name, mmap_mode="c")).to(device)


def check_workers(workers: int) -> int:
    """The number of processes: ``workers``, or as many as there are cores for -1."""
    if isinstance(workers, bool) or not isinstance(workers, int | np.integer) or workers < 1:
        if workers == -1 and not isinstance(workers, bool):
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        raise ValueError(f"workers is {workers!r}; it is the number of processes, at least 1, or -1 for one on each core")
    return int(workers)
