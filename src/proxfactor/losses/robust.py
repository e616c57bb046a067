"""Losses for real numbers with outliers: Huber, absolute error, quantiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Loss


@dataclass(frozen=True, eq=False, repr=False)
class HuberLoss(Loss):
    """Squares for small errors, absolute values for large ones: ½ r² where |r| ≤ δ, else δ (|r| - δ/2), with r = pred - x.

    δ has the units of the data: about 1.3 times the size of an ordinary error. Its curvature is δ / max(δ, |r|), a weight for
    each cell, with which no step fails. (Huber 1964.)

    >>> HuberLoss(1.0)(torch.tensor([0.5, 3.0]), torch.zeros(2))
    tensor([0.1250, 2.5000])
    """

    delta: float = 1.0
    alias = "huber"
    formula = "½ r² where |r| ≤ δ, else δ(|r| - δ/2), r = pred - x"
    data = "any numbers, with outliers"
    bound = 1.0

    def __post_init__(self) -> None:
        positive(self, "delta")

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        r = (pred - x).abs()
        return torch.where(r <= self.delta, 0.5 * r.square(), self.delta * (r - self.delta / 2))

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return (pred - x).clamp(-self.delta, self.delta)

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        return self.delta / (pred - x).abs().clamp(min=self.delta)

    def prox(self, v: Tensor, step: Tensor | float, x: Tensor) -> Tensor:
        r = v - x
        return x + torch.where(r.abs() <= self.delta * (1 + step), r / (1 + step), r - step * self.delta * r.sign())


class _Kinked(Loss):
    """A loss with kinks: it has a prox for each cell, and no curvature."""

    smooth = False

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        raise ValueError(f"{self!r} has kinks and no curvature; use solver='auto', or a smooth loss such as huber(0.1)")


@dataclass(frozen=True, eq=False, repr=False)
class AbsoluteError(_Kinked):
    """Absolute error, for gross outliers: |pred - x|. The prediction is a median.

    >>> AbsoluteError()(torch.tensor([3.0]), torch.tensor([1.0]))
    tensor([2.])
    """

    alias = "l1"
    formula = "|pred - x|"
    data = "any numbers, with gross outliers"
    degree = 1.0

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        return (pred - x).abs()

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return (pred - x).sign()

    def prox(self, v: Tensor, step: Tensor | float, x: Tensor) -> Tensor:
        r = v - x
        return x + r.sign() * (r.abs() - step).clamp(min=0)


@dataclass(frozen=True, eq=False, repr=False)
class PinballLoss(_Kinked):
    """The loss of the q-quantile, 0 < q < 1: q (x - pred) where the data lies above, (1 - q) (pred - x) where it lies below.

    (Koenker and Bassett 1978.)

    >>> PinballLoss(0.75)(torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0]))
    tensor([0.7500, 0.2500])
    """

    q: float = 0.5
    alias = "quantile"
    formula = "max(q(x - pred), (1 - q)(pred - x))"
    data = "any numbers, of which a quantile is wanted"
    degree = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.q, bool) or not isinstance(self.q, int | float) or not 0 < self.q < 1:
            raise ValueError(f"q of PinballLoss is {self.q!r}; it is a quantile, a number between 0 and 1, e.g. 0.5")

    @property
    def steepest(self) -> float:
        return max(self.q, 1 - self.q)

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        return torch.maximum(self.q * (x - pred), (1 - self.q) * (pred - x))

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return (1 - self.q) * (pred > x).to(pred) - self.q * (pred < x).to(pred)

    def prox(self, v: Tensor, step: Tensor | float, x: Tensor) -> Tensor:
        r = v - x
        return x + (r - (1 - self.q) * step).clamp(min=0) - (-r - self.q * step).clamp(min=0)


def positive(loss: Loss, name: str) -> None:
    """Raises ValueError unless that field is a positive number."""
    value = getattr(loss, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} of {type(loss).__name__} is {value!r}; it must be a positive number")
