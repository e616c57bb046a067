"""APG: accelerated proximal gradient steps on the model of a factor, for operators that couple components."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..compiled import kernels
from ..problem import Quadratic
from ..prox import Prox, Simplex, SolidSimplex, Transposed, group_metric
from .base import Memory, Passes, divide, forget_empty, lowest, step_of

SORTED = 256
"""Multiplications that take as long as one entry takes to be put on a simplex in torch, where it is sorted."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class APG(Passes):
    """Accelerated proximal gradient: A ← prox(Y - ∇/D, 1/D), Y = A with momentum, D ⪰ the curvature G a diagonal.

    ``inner`` steps are made for each product with X; a row whose momentum points uphill loses it (all rows do, where the
    operator couples them). The lower of the first step, which is PALM's, and the last one is kept, so that the value never
    rises. (Nesterov 1983; Beck and Teboulle 2009; the restart: O'Donoghue and Candès 2015; on the Gram matrix: Guan, Tao,
    Luo and Yuan 2012.)
    """

    inner: int = 10

    def rows(self, prox: Prox, q: Quadratic, A: Tensor, memory: Memory) -> Tensor:
        D, A = group_metric(prox, q.bound(), tuple(A.shape), "amax"), forget_empty(q, A, prox)
        slices, pull = _slices(prox), momentum(self.inner)
        if slices and A.device.type == "cpu" and bool((D > 0).all()):
            compiled = kernels("solvers._apg_numba", A.dtype, SORTED * A.numel() * self.inner)
            if compiled:
                return compiled(q.G, q.C, D, A, slices, pull)
        return lowest(prox, q, *accelerated(prox, q.grad, D, A, pull))


def accelerated(
    prox: Prox, grad: Callable[[Tensor], Tensor], D: Tensor, A: Tensor, momentum: list[float]
) -> tuple[Tensor, Tensor]:
    """The first and the last of the steps from A (m, k) in the metric D, which bounds the curvature; one for each momentum."""
    step, length, Y, first = step_of(D, prox), divide(torch.ones_like(D), D), A, A
    pulls, age = A.new_tensor(momentum), torch.zeros(len(A), 1, dtype=torch.int64, device=A.device)
    for n in range(len(momentum)):
        new = prox(Y - grad(Y) * length, step)
        move = new - A
        uphill = ((Y - new) * D * move).sum(1, keepdim=True)
        age = torch.where((uphill.sum() if prox.couples(0) else uphill) > 0, 0, age)
        Y, A, age = new + pulls[age] * move, new, age + 1
        first = first if n else A
    return first, A


def momentum(steps: int) -> list[float]:
    """What part of its last move a step without a restart in between adds (Nesterov 1983): 0 at first, 1 in the end."""
    paces = [1.0]
    for _ in range(steps):
        paces.append((1 + (1 + 4 * paces[-1] ** 2) ** 0.5) / 2)
    return [(pace - 1) / longer for pace, longer in pairwise(paces)]


class Slices(NamedTuple):
    """What each row of a factor has to be: a sum ``total``, or no more than it where ``solid`` (0: no sum), and its bounds."""

    total: float
    solid: bool
    lo: float
    hi: float


def _slices(prox: Prox) -> Slices | None:
    if shares := _shares(prox):
        return Slices(float(shares.total), isinstance(shares, SolidSimplex), 0.0, math.inf)
    bounds = prox.elastic
    return Slices(0.0, False, bounds[0], bounds[1]) if bounds and bounds[2] == bounds[3] == 0 else None


def _shares(prox: Prox) -> Simplex | SolidSimplex | None:
    """The simplex across components that the operator is, if it is one."""
    plain, along = (prox.T, 0) if isinstance(prox, Transposed) else (prox, 1)
    return plain if isinstance(plain, Simplex | SolidSimplex) and plain.dim % 2 == along else None
