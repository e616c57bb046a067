"""Entry by entry: sets and penalties that look at each number by itself; any tensor step is honoured exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Prox, Step, array, like, store, times


@dataclass(frozen=True, eq=False, repr=False)
class Unconstrained(Prox):
    """No constraint: g = 0, prox(x) = x.

    >>> Unconstrained()(torch.tensor([-1.0, 2.0]))
    tensor([-1.,  2.])
    """

    alias = "free"
    formula = "0"
    cone = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return x.clone()


@dataclass(frozen=True, eq=False, repr=False)
class NonNegative(Prox):
    """No entry below zero: g = 0 where x ≥ 0, prox(x) = max(x, 0).

    >>> NonNegative()(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    alias = "nonneg"
    formula = "x ≥ 0"
    cone = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return x.clamp(min=0)


@dataclass(frozen=True, eq=False, repr=False)
class Box(Prox):
    """Every entry between two bounds, numbers (also ±inf) or tensors: g = 0 where lo ≤ x ≤ hi, prox(x) = min(max(x, lo), hi).

    Raises ValueError where lo > hi.

    >>> Box(0, 1)(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """

    lo: Step
    hi: Step
    formula = "lo ≤ x ≤ hi"

    def __post_init__(self) -> None:
        store(self, "lo")
        store(self, "hi")
        try:
            crossed = bool(torch.as_tensor(self.lo > self.hi).any())
        except RuntimeError:
            raise ValueError("Box: the shapes of lo and hi do not fit together; each must broadcast to the factor") from None
        if crossed:
            raise ValueError(f"{self!r} is empty: the lower bound is above the upper one")
        if bool(torch.as_tensor(self.lo == math.inf).any()) or bool(torch.as_tensor(self.hi == -math.inf).any()):
            raise ValueError(f"{self!r} is empty: no number is above inf or below -inf")

    @property
    def cone(self) -> bool:  # type: ignore[override]
        return all(bool(((b == 0) | b.isinf()).all()) for b in (array(b, "") for b in (self.lo, self.hi)))

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        lo, hi = (torch.as_tensor(b, dtype=x.dtype, device=x.device) for b in (self.lo, self.hi))
        return torch.minimum(torch.maximum(x, lo), hi)


@dataclass(frozen=True, eq=False, repr=False)
class Fixed(Prox):
    """Known entries: x = values under the mask, free elsewhere (values are not looked at there).

    values and mask are arrays of one shape that broadcasts to the factor; a mask of numbers counts as true where it is not 0.
    Raises ValueError for a known value that is not finite.

    >>> Fixed(torch.tensor([1.0, 0.0]), torch.tensor([True, False]))(torch.tensor([5.0, 5.0]))
    tensor([1., 5.])
    """

    values: Tensor
    mask: Tensor
    formula = "x = values under mask"

    def __post_init__(self) -> None:
        values, mask = array(self.values, "values of Fixed"), array(self.mask, "mask of Fixed") != 0
        try:
            values, mask = torch.broadcast_tensors(values, mask)
        except RuntimeError:
            given = f"values of shape {tuple(values.shape)} and mask of shape {tuple(mask.shape)}"
            raise ValueError(f"Fixed: {given} do not fit together") from None
        if not bool(values[mask].isfinite().all()):
            raise ValueError("Fixed: a value under the mask is not finite; take it out of the mask or give a number")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "mask", mask)

    @property
    def cone(self) -> bool:  # type: ignore[override]
        return bool((self.values[self.mask] == 0).all())

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return torch.where(self.mask.to(x.device), self.values.to(x), x)


@dataclass(frozen=True, eq=False, repr=False)
class L1(Prox):
    """Few entries that are not zero: g = λ Σ |x|, prox(x) = sign(x) max(|x| - step λ, 0) (soft thresholding; Donoho 1995).

    λ ≥ 0 is a number or a tensor of weights that broadcasts to x.

    >>> L1(1.0)(torch.tensor([-3.0, 0.5, 2.0]), 0.5)
    tensor([-2.5000,  0.0000,  1.5000])
    """

    lam: Step = 1.0
    formula = "λ Σ|x|"
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        store(self, "lam", 0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        t = times(step, like(x, self.lam))
        if isinstance(t, Tensor):
            return x - torch.minimum(torch.maximum(x, -t), t)
        t = min(t, torch.finfo(x.dtype).max)  # clamp refuses what x's dtype cannot hold
        return x - x.clamp(-t, t)

    def value(self, x: Tensor) -> Tensor:
        return (x.double().abs() * like(x.double(), self.lam)).sum()


@dataclass(frozen=True, eq=False, repr=False)
class L2Squared(Prox):
    """Small entries (ridge): g = λ/2 Σ x², prox(x) = x / (1 + step λ).

    λ ≥ 0 is a number or a tensor of weights that broadcasts to x. (A squared loss has its ½ too.)

    >>> L2Squared(1.0)(torch.tensor([3.0]), 0.5)
    tensor([2.])
    """

    lam: Step = 1.0
    alias = "ridge"
    formula = "λ/2 Σx²"
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        store(self, "lam", 0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return x / (1 + times(step, like(x, self.lam)))

    def value(self, x: Tensor) -> Tensor:
        return 0.5 * (x.double().square() * like(x.double(), self.lam)).sum()


@dataclass(frozen=True, eq=False, repr=False)
class Entropy(Prox):
    """The maximum-entropy prior: g = λ Σ x ln x on x ≥ 0, prox(x) = a ω(x/a - 1 - ln a) with a = step λ and ω Wright's omega.

    ω solves ω + ln ω = z, so that the prox solves a (1 + ln y) + y = x; it is defined for every x and positive down to
    underflow, and its minimiser is 1/e. (Corless and Jeffrey 2002, for ω.)

    >>> Entropy(1.0)(torch.tensor([0.0, 1.0], dtype=torch.float64))
    tensor([0.2785, 0.5671], dtype=torch.float64)
    """

    lam: Step = 1.0
    formula = "λ Σ x ln x"
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        store(self, "lam", 0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        a = torch.as_tensor(times(step, like(x, self.lam)), dtype=x.dtype, device=x.device)
        scaled = torch.where(a == math.inf, 0.0, x / a)
        z = scaled - 1 - a.log()
        w = _wright_omega(z)
        y = torch.where(z < 1, torch.exp(scaled - 1 - w), a * w)  # ω = exp(z - ω): exact where ω is tiny
        return torch.where((a == 0) | z.isinf() & (z > 0), x.clamp(min=0), y)  # no penalty, or one too small to be felt

    def value(self, x: Tensor) -> Tensor:
        y = x.double()
        g = (like(y, self.lam) * torch.special.xlogy(y.clamp(min=0), y.clamp(min=0))).sum()
        return g + Prox.value(self, x)


def _wright_omega(z: Tensor) -> Tensor:
    """ω + ln ω = z for real z, by the fourth-order iteration of Fritsch, Shafer and Crowley (1973)."""
    near = 1 + (z - 1) / 2 + (z - 1) ** 2 / 16
    far = z.clamp(min=2) - z.clamp(min=2).log()
    w = torch.where(z > 3, far, torch.where(z > -2, near, z.clamp(max=0).exp()))
    for _ in range(3):
        r = z - w - w.log()
        s = 2 * (1 + w) * (1 + w + 2 * r / 3)
        better = w * (1 + r / (1 + w) * (s - r) / (s - 2 * r))
        w = torch.where(better.isfinite() & (better > 0), better, w)
    return w
