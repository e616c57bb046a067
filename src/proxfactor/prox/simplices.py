"""Shares and linear constraints along a dim: simplices, hyperplanes, half-spaces, with their weighted forms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Along, Step, array, relative


@dataclass(frozen=True, eq=False, repr=False)
class Simplex(Along):
    """Shares along a dim: g = 0 where x ≥ 0 and Σ x = total, prox(x) = max(x - θ step, 0) with θ such that the sum is right.

    Each part of the entries gives a lower bound of θ, (Σ x - total) / Σ step over the part, and the leading parts in the
    order of x / step hold the best: O(n log n), batched over the other dims. (Held, Wolfe and Crowder 1974; the metric form
    follows from the same optimality conditions.) Raises ValueError where total is not positive and finite.

    >>> Simplex(dim=0)(torch.tensor([2.0, 1.5, -1.0]))
    tensor([0.7500, 0.2500, 0.0000])
    """

    dim: int
    total: float = 1.0
    formula = "x ≥ 0, Σx = total along dim"
    metric = "weighted"

    def __post_init__(self) -> None:
        super().__post_init__()
        total = array(self.total, "total of Simplex")
        if total.ndim or not 0 < total.item() < math.inf:
            raise ValueError(f"total of Simplex is {self.total}; it must be one number, positive and finite")
        object.__setattr__(self, "total", total.item())

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._length(x)
        x, s = x.movedim(self.dim, -1), relative(x, step, self.dim)
        order = (x / s).argsort(-1, descending=True)
        led, steps = x.gather(-1, order), s.expand_as(x).gather(-1, order)
        length = steps.cumsum(-1)
        for _ in range(3):  # again on what is left: no cancellation at a large offset, and the sum is right to rounding
            theta = ((led.cumsum(-1) - self.total) / length).amax(-1, keepdim=True)
            led, x = led - theta * steps, x - theta * s
        return x.clamp(min=0).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class SumToOne(Along):
    """Entries of any sign that sum to one along a dim, by the true projection: prox(x) = x - step (Σ x - 1) / Σ step.

    >>> SumToOne(dim=0)(torch.tensor([2.0, 1.0]))
    tensor([1., 0.])
    """

    dim: int
    alias = "sum1"
    formula = "Σx = 1 along dim"
    metric = "weighted"

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        n = self._length(x)
        s = relative(x, step, self.dim).movedim(-1, self.dim)
        total = s.sum(self.dim, keepdim=True) if s.shape[self.dim] == n else n * s
        for _ in range(2):  # the second time for what rounding left at a large offset
            x = x - s * ((x.sum(self.dim, keepdim=True) - 1) / total)
        return x


@dataclass(frozen=True, eq=False, repr=False)
class Normalize(Along):
    """Rescaling, x / Σ x along a dim: what is often written for "sums to one". It is no projection and minimises nothing.

    A slice that sums to 0 becomes equal shares; a negative sum turns the signs. The true projections are Simplex (with
    x ≥ 0) and SumToOne; only they come with a certificate.

    >>> Normalize(dim=0)(torch.tensor([3.0, 1.0]))
    tensor([0.7500, 0.2500])
    """

    dim: int
    alias = "unity"
    formula = "x / Σx along dim"
    convex = False
    exact = False
    metric = "group"

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        n = self._length(x)
        total = x.sum(self.dim, keepdim=True)
        return torch.where(total == 0, 1 / n, x / total)
