"""What is measured: the value F after a number of gradients, the gap, and the limit of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from problems import Problem
from torch import Tensor

GAPS = (1e-2, 1e-3, 1e-6)
LIMIT = 20_000  # gradients beyond a run's end, to find where it was going
LATE = 500  # gradients: a stall is less than 1 % in so many
NEAR = 0.05  # a minimum this close to the best, relative to it, counts as one of its own


def checkpoints(gradients: int) -> np.ndarray:
    """The numbers of gradients at which F is taken: about 100, evenly spaced on a log axis, ``LATE`` before the end too."""
    log = np.geomspace(1, gradients, 120).round().astype(int)
    return np.unique(np.append(log, max(1, gradients - LATE)))


def rows(x: Tensor, ndim: int) -> tuple[int, ...]:
    """The shape that gives a number per batch index to a tensor of ``ndim`` dims behind it."""
    return (-1,) + (1,) * ndim


def projected(problem: Problem, params: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(prox(x, 0.0) for prox, x in zip(problem.proxs, params, strict=True))


def starts(problem: Problem, seeds: Sequence[int], raw: bool) -> tuple[Tensor, ...]:
    """The starts of these seeds, stacked."""
    each = [problem.start(seed, raw) for seed in seeds]
    return tuple(torch.stack(x) for x in zip(*each, strict=True))


def first(problem: Problem, start: Sequence[Tensor]) -> Tensor:
    """F₁ per start: the least of F at the start, after its best single rescaling, and at zero where zero is feasible.

    A start outside a set is projected onto it, after the rescaling; the factor is searched over 32 decades, then refined.
    """

    def at(log: Tensor) -> Tensor:
        moved = [x * shaped(10.0**log, x) for x in start]
        return problem.F(projected(problem, moved)).nan_to_num(nan=float("inf"))

    number = len(start[0])
    grid = torch.linspace(-16, 16, 129, dtype=torch.float64)
    values = torch.stack([at(log.expand(number)) for log in grid])
    value, best = values.min(0)
    low, high = grid[best] - 0.25, grid[best] + 0.25
    for _ in range(40):  # thirds: the function is taken as unimodal between its best neighbours on the grid
        a, b = low + (high - low) / 3, high - (high - low) / 3
        at_a, at_b = at(a), at(b)
        value = torch.stack([value, at_a, at_b]).min(0).values
        low, high = torch.where(at_a < at_b, low, a), torch.where(at_a < at_b, b, high)
    zero = problem.F([torch.zeros_like(x) for x in start]).nan_to_num(nan=float("inf"))
    return torch.stack([value, zero, at(torch.zeros(number, dtype=torch.float64))]).min(0).values


def gap(F: np.ndarray, best: np.ndarray, at_first: np.ndarray) -> np.ndarray:
    """(F - F*)/(F₁ - F*), infinite where F is not a number; 0 where F is F* to rounding, even if F₁ is F* too."""
    F, best, at_first = np.broadcast_arrays(F, best, at_first)
    with np.errstate(all="ignore"):
        above = F - best
        share = above / np.maximum(at_first - best, 0)
    rounding = above <= 1e-13 * np.abs(best)
    return np.where(np.isfinite(F), np.where(rounding, 0.0, np.where(np.isnan(share), np.inf, share)), np.inf)


def own_optimum(best: np.ndarray, limit: np.ndarray, convex: bool) -> np.ndarray:
    """F* of each run: the best of its start, or for a nonconvex problem the run's own limit where that is near the best."""
    if convex:
        return np.broadcast_to(best, limit.shape)
    return np.where(limit <= best + NEAR * np.abs(best), np.maximum(limit, best), best)


def stalled(F: np.ndarray, late: np.ndarray, best: np.ndarray, at_first: np.ndarray) -> np.ndarray:
    """A gap above 1e-2 of which the last ``LATE`` gradients took less than 1 %."""
    end, before = gap(F, best, at_first), gap(late, best, at_first)
    with np.errstate(all="ignore"):
        return np.isfinite(F) & (end > 1e-2) & ~(before - end >= 0.01 * before)


class Trace:
    """F of the parameters as they stand, at the checkpoints: of one run that takes one or more gradients at a time."""

    def __init__(self, problem: Problem, gradients: int, start: Sequence[Tensor]) -> None:
        self.problem, self.at = problem, checkpoints(gradients)
        self.F = np.full(len(self.at), np.inf)
        self.params = [p.detach().clone() for p in start]
        self.done = 0  # checkpoints that have been passed

    def see(self, count: int, params: Sequence[Tensor]) -> None:
        """The parameters after ``count`` gradients. Call it after each step: a checkpoint within one has those before it."""
        passed = int(np.searchsorted(self.at, count, side="left"))
        if passed > self.done:
            self.F[self.done : passed] = self.value()
        self.params = [p.detach().clone() for p in params]
        self.done = max(self.done, passed)
        if passed < len(self.at) and self.at[passed] == count:
            self.F[passed] = self.value()
            self.done = passed + 1

    def value(self) -> float:
        value = self.problem.F(self.params).item()
        return value if np.isfinite(value) else np.inf

    def close(self) -> np.ndarray:
        if self.done < len(self.at):
            self.F[self.done :] = self.value()
        return self.F


def limits(problem: Problem, params: Sequence[Tensor], gradients: int = LIMIT) -> Tensor:
    """Where each of a batch of points leads downhill: the least F over ``gradients`` further ones.

    It is one method for all, whoever's run it was: accelerated proximal gradient in a metric per parameter tensor, with
    backtracking and restart, begun with short steps. A row that 500 gradients lower by less than 1e-10 of F has arrived; one
    whose point is not finite stays infinite.
    """
    finite = torch.stack([p.flatten(1).isfinite().all(1) for p in params]).all(0)
    least = torch.full((len(finite),), float("inf"), dtype=torch.float64)
    if not finite.any():
        return least
    rows_of = finite.nonzero().squeeze(1)
    x = list(projected(problem, [p.detach()[rows_of] for p in params]))
    least[rows_of] = problem.F(x)
    run = Descent(problem, x)
    for count in range(0, gradients, LATE):
        before = least[rows_of]
        for _ in range(LATE):
            run.step()
        now = problem.F(run.x).nan_to_num(nan=float("inf"))
        least[rows_of] = torch.minimum(before, now)
        going = (before - now > 1e-10 * before.abs()) | (count < 2 * LATE)
        rows_of = rows_of[going]
        if not len(rows_of):
            break
        run.keep(going)
    return least


class Descent:
    """Accelerated proximal gradient steps of a batch, each row with its own length, age and acceptance."""

    def __init__(self, problem: Problem, x: list[Tensor]) -> None:
        self.problem, self.x, self.y = problem, x, x
        self.size = [1 / curvature(problem, x, j) for j in range(len(x))]
        self.length = torch.full((len(x[0]),), 0.5, dtype=torch.float64)
        self.age = torch.ones_like(self.length)
        self.f, self.g = gradient(problem, x)

    def keep(self, rows: Tensor) -> None:
        for name in ("x", "y", "size", "g"):
            setattr(self, name, [v[rows] for v in getattr(self, name)])
        self.length, self.age, self.f = self.length[rows], self.age[rows], self.f[rows]

    def step(self) -> None:
        step = [shaped(self.length, v) * s for v, s in zip(self.y, self.size, strict=True)]
        new = [p(v - s * d, s) for p, v, s, d in zip(self.problem.proxs, self.y, step, self.g, strict=True)]
        move = [a - b for a, b in zip(new, self.y, strict=True)]
        pull = [m / s for m, s in zip(move, step, strict=True)]
        with torch.no_grad():
            f_new = self.problem.loss(new)
        model = self.f + dots(self.g, move) + dots(pull, move) / 2
        good = (f_new <= model + 1e-13 * self.f.abs()) & f_new.isfinite()
        turned = dots(pull, [a - b for a, b in zip(new, self.x, strict=True)]) < 0
        older = torch.where(turned | ~good, 1.0, (1 + (1 + 4 * self.age.square()).sqrt()) / 2)
        push = torch.where(turned | ~good, 0.0, (self.age - 1) / older)
        kept = [torch.where(shaped(good, a), a, b) for a, b in zip(new, self.x, strict=True)]
        self.y = [a + shaped(push, a) * (a - b) for a, b in zip(kept, self.x, strict=True)]
        self.x, self.age = kept, older
        self.length = torch.where(good, self.length * 1.02, self.length / 2)
        self.f, self.g = gradient(self.problem, self.y)


def shaped(numbers: Tensor, x: Tensor) -> Tensor:
    return numbers.reshape(rows(x, x.ndim - 1))


def gradient(problem: Problem, params: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    with torch.enable_grad():
        leaves = [p.detach().requires_grad_() for p in params]
        loss = problem.loss(leaves)
        return loss.detach(), list(torch.autograd.grad(loss.sum(), leaves))


def dots(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return sum((u * v).flatten(1).sum(1) for u, v in zip(a, b, strict=True))  # type: ignore[return-value]


def curvature(problem: Problem, params: Sequence[Tensor], j: int) -> Tensor:
    """The largest curvature of the loss in parameter j alone, per row, by eight powers of gradient differences."""
    shape = rows(params[j], params[j].ndim - 1)
    v = torch.randn(params[j].shape, generator=torch.Generator().manual_seed(0), dtype=params[j].dtype)
    _, base = gradient(problem, params)
    unit = torch.as_tensor(problem.unit[j], dtype=v.dtype)
    largest = torch.zeros(len(v), dtype=v.dtype)
    for _ in range(8):
        v = v / torch.linalg.vector_norm(v.flatten(1), dim=1).clamp(min=1e-300).reshape(shape)
        width = 1e-5 * (torch.linalg.vector_norm(params[j].flatten(1), dim=1).reshape(shape) + unit)
        _, moved = gradient(problem, [p + width * v if i == j else p for i, p in enumerate(params)])
        v = ((moved[j] - base[j]) / width).nan_to_num()
        largest = torch.maximum(largest, torch.linalg.vector_norm(v.flatten(1), dim=1))
    return largest.clamp(min=1e-12 * abs(problem.height) / unit**2).reshape(shape)
