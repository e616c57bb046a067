"""The folder of results: one file per optimizer and problem, written whole or not at all, so that a run can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import first, limits, starts
from problems import Problem
from torch import Tensor

KINDS = (True, False)  # raw and fitted starts


@dataclass(frozen=True)
class Plan:
    """What is run: the first ``starts`` seeds of both kinds at each scale."""

    scales: tuple[float, ...]
    starts: int
    gradients: int

    @property
    def runs(self) -> int:
        return len(self.scales) * len(KINDS) * self.starts

    def batches(self, problem: Problem, most: int = 1000) -> list[tuple[Problem, tuple[Tensor, ...]]]:
        """Per scale the problem and its starts, raw ones first."""
        seeds = range(min(self.starts, most))
        made = []
        for scale in self.scales:
            there = problem.scaled(scale)
            both = zip(*(starts(there, seeds, raw) for raw in KINDS), strict=True)
            made.append((there, tuple(torch.cat(x) for x in both)))
        return made


def write(path: Path, **arrays: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part.npz")
    np.savez_compressed(half, **arrays)
    os.replace(half, path)


def same(path: Path, plan: Plan) -> bool:
    """Whether a file holds this plan."""
    if not path.exists():
        return False
    with np.load(path) as had:
        return had["plan"].item() == json.dumps(vars(plan))


def run(folder: Path, plan: Plan, optimizer: Any, problem: Problem) -> None:
    """Run what is missing: F of (scales, kinds, starts, rates, checkpoints), the last points at scale 1, what was said."""
    path = folder / optimizer.name / f"{problem.name}.npz"
    if same(path, plan):
        return
    F, ends, said = [], [], []
    for there, start in plan.batches(problem, optimizer.most):
        values, end, *words = optimizer.run(there, start, plan.gradients)
        F.append(values)
        ends.append([x / u for x, u in zip(end, there.unit, strict=True)])
        said.append(words[0] if words else [""] * len(values))
    arrays = {f"end{j}": torch.stack(x).numpy() for j, x in enumerate(zip(*ends, strict=True))}
    shape = (len(plan.scales), len(KINDS), -1)
    F = np.stack(F)
    write(
        path, plan=json.dumps(vars(plan)), F=F.reshape(*shape, *F.shape[2:]), said=np.array(said).reshape(shape), **arrays
    )  # fmt: skip


def firsts(folder: Path, plan: Plan, problem: Problem) -> np.ndarray:
    """F₁ of (scales, kinds, starts)."""
    path = folder / "first" / f"{problem.name}.npz"
    if not same(path, plan):
        each = [first(there, start).numpy() for there, start in plan.batches(problem)]
        write(path, plan=json.dumps(vars(plan)), F=np.stack(each).reshape(len(plan.scales), len(KINDS), -1))
    with np.load(path) as had:
        return had["F"]


def reference(folder: Path, problem: Problem) -> float | None:
    """The conic solver's optimum at scale 1, kept in a file."""
    if problem.reference is None:
        return None
    path = folder / "references.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if problem.name not in known:
        known[problem.name] = problem.reference()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".part").write_text(json.dumps(known, indent=1))
        os.replace(path.with_suffix(".part"), path)
    return known[problem.name]


def limits_of(folder: Path, plan: Plan, problem: Problem, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Where the runs of each optimizer lead, (scales, kinds, starts), at the heights of their scales.

    A scaled problem has the scaled solution, so that all of them are continued at scale 1, in one batch.
    """
    found, missing = {}, {}
    for name in names:
        ends = folder / name / f"{problem.name}.npz"
        path = folder / "limits" / name / f"{problem.name}.npz"
        if same(path, plan) and path.stat().st_mtime >= ends.stat().st_mtime:
            with np.load(path) as had:
                found[name] = had["F"]
        else:
            with np.load(ends) as had:
                missing[name] = [torch.as_tensor(had[f"end{j}"]).flatten(0, 1) for j in range(len(problem.proxs))]
    if missing:
        batch = [torch.cat(x) for x in zip(*missing.values(), strict=True)]
        heights = np.array([problem.scaled(s).height for s in plan.scales])[:, None, None]
        shape = (len(plan.scales), len(KINDS), -1)
        at = limits(problem, batch).split([len(x[0]) for x in missing.values()])
        for name, values in zip(missing, at, strict=True):
            found[name] = values.numpy().reshape(shape) * heights
            write(folder / "limits" / name / f"{problem.name}.npz", plan=json.dumps(vars(plan)), F=found[name])
    return found
