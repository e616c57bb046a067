"""Entry by entry: losses as terms, barriers, and nonconvex penalties, each at its global minimiser for every step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import hardshrink, softplus

from .base import Prox, Step, array, like, store, times
from .entries import _wright_omega, double, scalar, weight


class _Penalty(Prox):
    """λ Σ φ(x): the weight is checked once, the prox gets the product of step and λ as a tensor."""

    lam: Step
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        store(self, "lam", 0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        t = scalar(x, times(step, weight(x, self.lam)))
        return self._point(x, t if self.attained else t.clamp(max=torch.finfo(x.dtype).max / 4))

    def value(self, x: Tensor) -> Tensor:
        y = double(x)
        term = self._phi(y)
        return torch.as_tensor(times(term, like(term, self.lam))).sum()

    @abstractmethod
    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        """argmin t φ(y) + (y - x)² / 2 entry by entry; t is a tensor."""

    @abstractmethod
    def _phi(self, y: Tensor) -> Tensor: ...


class _Falling(_Penalty):
    """A penalty without a minimiser, unless its weight is 0."""

    @cached_property
    def attained(self) -> bool:  # type: ignore[override]
        return bool((array(self.lam, "") == 0).all())


class _Inside(_Penalty):
    """A penalty with a domain, the closure of which is the prox at a step of zero."""

    def value(self, x: Tensor) -> Tensor:
        return super().value(self._prox(x.double(), 0.0)) + Prox.value(self, x)


class _Even(_Penalty):
    """λ Σ φ(|x|), least at 0: the modulus shrinks, the sign or the phase stays."""

    convex = False
    complex = True

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        a = x.abs().clamp(min=torch.finfo(x.dtype).tiny)  # not 0: the ratio below is then the slope at 0
        free = t == math.inf
        ratio = self._shrunk(a, torch.where(free, 1.0, t)) / a
        return x * torch.where(free, 0.0, torch.where(t == 0, 1.0, ratio))

    def value(self, x: Tensor) -> Tensor:
        return super().value(double(x).abs())

    @abstractmethod
    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        """argmin over y ≥ 0 for a > 0 and a finite t."""


# ── convex ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False, repr=False)
class Huber(_Even):
    """Squares near zero, absolute values far from it: g = λ Σ h, h = x²/2 where |x| ≤ δ, else δ (|x| - δ/2), as in torch.

    prox(x) = x / (1 + s) where |x| ≤ δ (1 + s), else sign(x) (|x| - s δ), with s = step λ. (Huber 1964.)

    >>> Huber(1.0, delta=1.0)(torch.tensor([1.0, 4.0]))
    tensor([0.5000, 3.0000])
    """

    lam: Step = 1.0
    delta: float = 1.0
    formula = "λ Σ huber(x; δ)"
    convex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "delta")

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        return torch.maximum(a / (1 + t), a - t * self.delta)

    def _phi(self, y: Tensor) -> Tensor:
        return torch.where(y <= self.delta, y.square() / 2, self.delta * (y - self.delta / 2))


@dataclass(frozen=True, eq=False, repr=False)
class PseudoHuber(_Even):
    """Huber without a kink in its slope: g = λ δ Σ (√(x² + δ²) - δ), the hyperbola; prox by Newton's method.

    >>> PseudoHuber(1.0)(torch.tensor([0.0, 1.7071068], dtype=torch.float64))
    tensor([0.0000, 1.0000], dtype=torch.float64)
    """

    lam: Step = 1.0
    delta: float = 1.0
    formula = "λδ Σ(√(x² + δ²) - δ)"
    convex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "delta")

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        def slope(y: Tensor) -> tuple[Tensor, Tensor]:
            r = self.delta / y.square().add(self.delta**2).sqrt()
            return y + t * r * y - a, y * (1 + t * r**3)

        return _crossing(slope, torch.maximum(a / (1 + t), a - t * self.delta), a)

    def _phi(self, y: Tensor) -> Tensor:
        return self.delta * y * (y / (torch.hypot(y, torch.full_like(y, self.delta)) + self.delta))


@dataclass(frozen=True, eq=False, repr=False)
class BerHu(_Even):
    """Absolute values near zero, squares far from it (Huber reversed): g = λ Σ |x| where |x| ≤ δ, else (x² + δ²) / (2 δ).

    prox(x) = sign(x) min(max(|x| - s, 0), |x| δ / (δ + s)) with s = step λ. (Owen 2007.)

    >>> BerHu(1.0, delta=1.0)(torch.tensor([0.5, 1.5, 4.0]))
    tensor([0.0000, 0.5000, 2.0000])
    """

    lam: Step = 1.0
    delta: float = 1.0
    formula = "λ Σ berhu(x; δ)"
    convex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "delta")

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        return torch.minimum((a - t).clamp(min=0), a / (1 + t / self.delta))

    def _phi(self, y: Tensor) -> Tensor:
        return torch.where(y <= self.delta, y, (y / self.delta * y + self.delta) / 2)


@dataclass(frozen=True, eq=False, repr=False)
class Fair(_Even):
    """Squares near zero, absolute values far from it, smooth throughout: g = λ Σ (w |x| - ln(1 + w |x|)).

    prox(x) = sign(x) y with y the positive root of y² - (|x| - 1/w - s w) y = |x|/w, s = step λ; w > 0. (Fair 1974.)

    >>> Fair(1.0, w=1.0)(torch.tensor([0.0, 1.5, -4.0]))
    tensor([ 0.0000,  1.0000, -3.2361])
    """

    lam: Step = 1.0
    w: float = 1.0
    formula = "λ Σ(w|x| - ln(1 + w|x|))"
    convex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "w")

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        return _positive_root(a - 1 / self.w - t * self.w, a, 1 / self.w)

    def _phi(self, y: Tensor) -> Tensor:
        u = self.w * y
        near = u < 1e-4  # there the difference would cancel
        return torch.where(near, u.square() * (0.5 - u / 3 + u.square() / 4), u - u.log1p())


@dataclass(frozen=True, eq=False, repr=False)
class Power(_Even):
    """Powers: g = λ Σ |x|^p for any p > 0, e.g. 4/3, 3/2, 3, 4; below 1 not convex, for few entries that are not zero.

    prox by Newton's method to rounding: for p < 1 to the larger root of y + s p y^(p - 1) = |x|, s = step λ, where it is
    better than 0, and then it is at least (2 s (1 - p))^(1/(2 - p)). p = 1 is L1. (Marjanovic and Solo 2012, for p < 1.)

    >>> Power(1.0, p=3.0)(torch.tensor([4.0, -14.0], dtype=torch.float64), 1.0)
    tensor([ 1., -2.], dtype=torch.float64)
    """

    lam: Step = 1.0
    p: float = 1.5
    formula = "λ Σ|x|^p"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "p")

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return self.p >= 1

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        if self.p == 1:
            return (a - t).clamp(min=0)
        c, q = t * self.p, self.p - 1

        def slope(y: Tensor) -> tuple[Tensor, Tensor]:
            pull = c * y**q
            return y + pull - a, y + q * pull

        if self.p > 1:
            return _crossing(slope, torch.zeros_like(a), a)
        least = (2 * (1 - self.p) * t) ** (1 / (2 - self.p))
        return _or_zero(least < a, _crossing(slope, torch.minimum(least, a), a), a, t, self._phi)

    def _phi(self, y: Tensor) -> Tensor:
        return y**self.p


@dataclass(frozen=True, eq=False, repr=False)
class EpsInsensitive(_Penalty):
    """What lies within ε of a centre costs nothing: g = λ Σ max(|x - c| - ε, 0) (support vector regression; Vapnik 1995).

    prox(x) goes towards the tube [c - ε, c + ε] by step λ, and no further than its edge. c is a number or a tensor.

    >>> EpsInsensitive(1.0, eps=0.5)(torch.tensor([-3.0, 0.2, 1.0]))
    tensor([-2.0000,  0.2000,  0.5000])
    """

    lam: Step = 1.0
    eps: float = 0.1
    center: Step = 0.0
    alias = "vapnik"
    formula = "λ Σ max(|x - c| - ε, 0)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "eps")
        store(self, "center")
        if not bool(array(self.center, "").isfinite().all()):
            raise ValueError("center of EpsInsensitive is not finite; it must hold finite numbers")

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        c = scalar(x, self.center)
        y = torch.maximum(torch.minimum(x, c + self.eps), x - t)
        return torch.minimum(torch.maximum(y, c - self.eps), x + t)

    def _phi(self, y: Tensor) -> Tensor:
        return ((y - like(y, self.center)).abs() - self.eps).clamp(min=0)


@dataclass(frozen=True, eq=False, repr=False)
class Pinball(_Penalty):
    """The q-quantile's loss: g = λ Σ max(q x, (q - 1) x), prox(x) = x - min(max(x, -s (1 - q)), s q) with s = step λ.

    0 ≤ q ≤ 1; q = 1 is the sum of what is positive. (Koenker and Bassett 1978.)

    >>> Pinball(1.0, q=0.75)(torch.tensor([-2.0, 0.5, 2.0]))
    tensor([-1.7500,  0.0000,  1.2500])
    """

    lam: Step = 1.0
    q: float = 0.5
    alias = "quantile"
    formula = "λ Σ max(qx, (q - 1)x)"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = array(self.q, "q of Pinball")
        if given.ndim or not 0 <= given.item() <= 1:
            raise ValueError(f"q of Pinball is {self.q}; it must be one number in [0, 1]")
        object.__setattr__(self, "q", given.item())

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        return x - x.clamp(-scalar(x, times(t, 1 - self.q)), scalar(x, times(t, self.q)))

    def _phi(self, y: Tensor) -> Tensor:
        return torch.maximum(self.q * y, (self.q - 1) * y)


@dataclass(frozen=True, eq=False, repr=False)
class Hinge(_Penalty):
    """What is below one costs: g = λ Σ max(0, 1 - x), prox(x) = max(x, min(x + step λ, 1)).

    >>> Hinge(1.0)(torch.tensor([-3.0, 0.5, 2.0]))
    tensor([-2.,  1.,  2.])
    """

    lam: Step = 1.0
    formula = "λ Σ max(0, 1 - x)"

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.maximum(x, (x + t).clamp(max=1))

    def _phi(self, y: Tensor) -> Tensor:
        return (1 - y).clamp(min=0)


@dataclass(frozen=True, eq=False, repr=False)
class SquaredHinge(_Penalty):
    """What is below one costs its square: g = λ/2 Σ max(0, 1 - x)², prox(x) = max(x, 1 - (1 - x) / (1 + step λ)).

    >>> SquaredHinge(1.0)(torch.tensor([-3.0, 2.0]))
    tensor([-1.,  2.])
    """

    lam: Step = 1.0
    formula = "λ/2 Σ max(0, 1 - x)²"

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.where(x < 1, torch.where(t == 0, x, 1 + (x - 1) / (1 + t)), x)

    def _phi(self, y: Tensor) -> Tensor:
        return (1 - y).clamp(min=0).square() / 2


@dataclass(frozen=True, eq=False, repr=False)
class Logistic(_Falling):
    """The logistic loss of a margin: g = λ Σ ln(1 + exp(-x)); it has no minimiser.

    prox(x) = x + w with w = s / (1 + exp(x + w)) and s = step λ. Where it is below 0 it is -prox(-x - s). ln w lies within
    ln 2 below min(ln s, ln ω(ln s - x)), ω Wright's omega; Newton's steps for ln w, then for the sum, end at rounding.

    >>> Logistic(2.0)(torch.tensor([-1.0, 0.0], dtype=torch.float64))
    tensor([0.0000, 0.6748], dtype=torch.float64)
    """

    lam: Step = 1.0
    formula = "λ Σ ln(1 + e⁻ˣ)"

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        felt = t > 0
        t = torch.where(felt, t, 1.0)
        below = x < -t / 2
        b = torch.where(below, -(x + t), x)

        def newton(y: Tensor) -> Tensor:
            p, q = torch.sigmoid(y), torch.sigmoid(-y)
            return y - (y - b - t * q) / (1 + t * p * q)

        with torch.no_grad():
            z = t.log() - b
            w = _wright_omega(z)
            v = torch.minimum(torch.where(z > 1, w.log(), z - w), t.log())
            for _ in range(5):
                w = v.exp()
                v = v - (v + softplus(b + w) - t.log()) / (1 + torch.sigmoid(b + w) * w)
            w = torch.minimum(v.exp(), t)
            y = newton(newton(torch.where(b < -1, (t / w - 1).log(), b + w)))  # the start that cancels less
        y = newton(y)  # here gradients enter
        return torch.where(felt, torch.where(below, -y, y), x)

    def _phi(self, y: Tensor) -> Tensor:
        return softplus(-y)


@dataclass(frozen=True, eq=False, repr=False)
class Exponential(_Falling):
    """Exponentials: g = λ Σ exp(x), prox(x) = x - ω(x + ln s) with s = step λ, ω Wright's omega; it has no minimiser.

    >>> Exponential(1.0)(torch.tensor([1.0, 0.0], dtype=torch.float64))
    tensor([ 0.0000, -0.5671], dtype=torch.float64)
    """

    lam: Step = 1.0
    formula = "λ Σ eˣ"

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        felt = t > 0
        t = torch.where(felt, t, 1.0)
        with torch.no_grad():
            z = x + t.log()
            w = _wright_omega(z)
            y = torch.where(z > 1, w.log() - t.log(), x - w)  # at a large x, without a difference of large numbers
        pull = (y + t.log()).exp().clamp(max=torch.finfo(x.dtype).max)
        return torch.where(felt, y - (y + pull - x) / (1 + pull), x)  # one Newton step, through which gradients flow

    def _phi(self, y: Tensor) -> Tensor:
        return y.exp()


# ── on the half-line ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False, repr=False)
class LogBarrier(_Falling, _Inside):
    """Away from zero: g = -λ Σ ln x on x > 0, prox(x) = (x + √(x² + 4 step λ)) / 2; it has no minimiser.

    >>> LogBarrier(1.0)(torch.tensor([0.0, 1.5]))
    tensor([1., 2.])
    """

    lam: Step = 1.0
    formula = "-λ Σ ln x"

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        return _positive_root(x, t, 1.0)

    def _phi(self, y: Tensor) -> Tensor:
        return -y.log()


@dataclass(frozen=True, eq=False, repr=False)
class Poisson(_Inside):
    """Expected counts x near the counts y: g = λ Σ (x - y ln x) on x ≥ 0, the Kullback-Leibler loss without its constant.

    prox(x) = (b + √(b² + 4 s y)) / 2 with b = x - s and s = step λ; its minimiser is y. y ≥ 0 is a number or a tensor.

    >>> Poisson(4.0)(torch.tensor([1.0, 4.0]))
    tensor([2., 4.])
    """

    y: Step
    lam: Step = 1.0
    formula = "λ Σ(x - y ln x)"

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, "y", 0)

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        free = t == math.inf
        t, y = torch.where(free, 1.0, t), scalar(x, self.y)
        return torch.where(free, y, _positive_root(x - t, t, y))

    def _phi(self, y: Tensor) -> Tensor:
        return y - torch.special.xlogy(like(y, self.y), y)


@dataclass(frozen=True, eq=False, repr=False)
class Inverse(_Falling, _Inside):
    """Inverses: g = λ Σ 1/x^p on x > 0, prox(x) = the positive root of y^(p + 1) (y - x) = step λ p; it has no minimiser.

    >>> Inverse(4.0)(torch.tensor([1.0, 0.0], dtype=torch.float64), 1.0)
    tensor([2.0000, 1.5874], dtype=torch.float64)
    """

    lam: Step = 1.0
    p: float = 1.0
    formula = "λ Σ 1/x^p"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "p")

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        felt = t > 0
        s = torch.where(felt, t, 1.0)

        def slope(y: Tensor) -> tuple[Tensor, Tensor]:
            pull = self.p * (s / y / y if self.p == 1 else s * y ** (-1 - self.p))
            return y - x - pull, y + (1 + self.p) * pull

        start = x.clamp(min=0)
        y = _crossing(slope, start, start + s ** (1 / (self.p + 2)) * self.p ** (1 / (self.p + 2)))
        return torch.where(felt, y, start)

    def _phi(self, y: Tensor) -> Tensor:
        return 1 / y.clamp(min=0) ** self.p


@dataclass(frozen=True, eq=False, repr=False)
class FermiDirac(_Inside):
    """The entropy of chances: g = λ Σ (x ln x + (1 - x) ln(1 - x)) on 0 ≤ x ≤ 1, prox by Newton's method; its minimiser is ½.

    >>> FermiDirac(1.0)(torch.tensor([0.5, 3.0], dtype=torch.float64))
    tensor([0.5000, 0.8917], dtype=torch.float64)
    """

    lam: Step = 1.0
    formula = "λ Σ(x ln x + (1 - x)ln(1 - x))"
    cone = False

    def _point(self, x: Tensor, t: Tensor) -> Tensor:
        free, felt = t == math.inf, t > 0
        s = torch.where(felt & ~free, t, 1.0)
        m = torch.where(x < 0.5, x, 1 - x)  # towards the nearer end: the share there is 1 / (1 + e^r)

        def slope(r: Tensor) -> tuple[Tensor, Tensor]:
            p = torch.sigmoid(-r)
            return s * r - p + m, r * (s + p * torch.sigmoid(r))

        share = torch.sigmoid(-_crossing(slope, torch.zeros_like(m), (0.5 - m) / s))
        share = torch.where(free, 0.5, torch.where(felt, share, m.clamp(min=0)))
        return torch.where(x < 0.5, share, 1 - share)

    def _phi(self, y: Tensor) -> Tensor:
        return torch.special.xlogy(y, y) + torch.special.xlog1py(1 - y, -y)


# ── nonconvex ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False, repr=False)
class L0(_Even):
    """Few entries that are not zero, counted: g = λ #{x ≠ 0}, prox(x) = x where |x| > √(2 step λ), else 0 (hard thresholding).

    >>> L0(1.0)(torch.tensor([-3.0, 1.2, 1.5]), 1.0)
    tensor([-3.0000,  0.0000,  1.5000])
    """

    lam: Step = 1.0
    formula = "λ #{x ≠ 0}"

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        t = times(step, weight(x, self.lam))
        if isinstance(t, Tensor) or x.is_complex():
            return torch.where(x.abs() > (2 * scalar(x, t)).sqrt(), x, 0.0)
        return hardshrink(x, min(math.sqrt(2 * t), torch.finfo(x.dtype).max))

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        return torch.where(a > (2 * t).sqrt(), a, 0.0)

    def _phi(self, y: Tensor) -> Tensor:
        return (y != 0).to(y.dtype)


@dataclass(frozen=True, eq=False, repr=False)
class LHalf(_Even):
    """Few entries that are not zero, by square roots: g = λ Σ √|x|.

    prox(x) = sign(x) (2/3) |x| (1 + cos(2/3 arccos(-s/4 (3/|x|)^(3/2)))) where |x| > 3/2 s^(2/3), else 0, with s = step λ:
    the largest root of a cubic for √y, where it is better than 0. (Xu, Chang, Xu and Zhang 2012.)

    >>> LHalf(1.0)(torch.tensor([1.4, 2.0], dtype=torch.float64), 1.0)
    tensor([0.0000, 1.6054], dtype=torch.float64)
    """

    lam: Step = 1.0
    formula = "λ Σ|x|^½"

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        keep = a > 1.5 * t ** (2 / 3)
        r = (3 * torch.where(keep, t, 0.0) ** (2 / 3) / torch.where(keep, a, 1.0)) ** 1.5 / 4
        return torch.where(keep, a * (2 / 3) * (1 + torch.cos(2 / 3 * torch.arccos(-r))), 0.0)

    def _phi(self, y: Tensor) -> Tensor:
        return y.sqrt()


@dataclass(frozen=True, eq=False, repr=False)
class LTwoThirds(_Even):
    """Few entries that are not zero, by powers of two thirds: g = λ Σ |x|^(2/3).

    prox(x) = sign(x) u³ with u the largest root of u⁴ - |x| u + 2 s/3 where |x| > 2 (2 s/3)^(3/4), else 0, with s = step λ:
    Newton's steps from the right. (Krishnan and Fergus 2009; Cao, Sun and Xu 2013.)

    >>> LTwoThirds(1.5)(torch.tensor([1.9, 2.0625], dtype=torch.float64), 1.0)
    tensor([0.0000, 1.0912], dtype=torch.float64)
    """

    lam: Step = 1.0
    formula = "λ Σ|x|^⅔"

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        c = (2 / 3 * t) ** 0.75
        keep = a > 2 * c
        b = (torch.where(keep, c, 0.0) / torch.where(keep, a, 1.0)) ** (4 / 3)
        v = torch.ones_like(b)
        for _ in range(5):  # v⁴ - v + b, whose root is between .794 and 1
            v = v - (v**4 - v + b) / (4 * v**3 - 1)
        return torch.where(keep, a * v**3, 0.0)

    def _phi(self, y: Tensor) -> Tensor:
        return y ** (2 / 3)


@dataclass(frozen=True, eq=False, repr=False)
class CappedL1(_Even):
    """Few entries that are not zero, large ones at no further cost: g = λ Σ min(|x|, θ).

    prox(x) = x where |x| is above a threshold, else soft thresholding by s = step λ; the threshold is θ + s/2 where s ≤ 2 θ,
    else √(2 s θ): there the two cost the same. (Zhang 2010.)

    >>> CappedL1(1.0, theta=2.0)(torch.tensor([-1.5, 3.0]))
    tensor([-0.5000,  3.0000])
    """

    lam: Step = 1.0
    theta: float = 1.0
    formula = "λ Σ min(|x|, θ)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "theta")

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        far = torch.where(t <= 2 * self.theta, self.theta + t / 2, t.sqrt() * math.sqrt(2 * self.theta))
        return torch.where(a > far, a, (a - t).clamp(min=0))

    def _phi(self, y: Tensor) -> Tensor:
        return y.clamp(max=self.theta)


@dataclass(frozen=True, eq=False, repr=False)
class TruncatedSquare(_Even):
    """Squares, large ones at no further cost: g = λ/2 Σ min(x², κ²), the truncated quadratic (weak membrane) for outliers.

    prox(x) = x where |x| > κ √(1 + s), else x / (1 + s), with s = step λ: there the two cost the same. Written as
    Σ min(α x², c) it is TruncatedSquare(2 α, √(c/α)). κ > 0. (Blake and Zisserman 1987.)

    >>> TruncatedSquare(1.0, kappa=2.0)(torch.tensor([-2.0, 3.0]))
    tensor([-1.,  3.])
    """

    lam: Step = 1.0
    kappa: float = 1.0
    formula = "λ/2 Σ min(x², κ²)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "kappa")

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        return torch.where(a > self.kappa * (1 + t).sqrt(), a, a / (1 + t))

    def _phi(self, y: Tensor) -> Tensor:
        return y.clamp(max=self.kappa).square() / 2


@dataclass(frozen=True, eq=False, repr=False)
class Geman(_Even):
    """Few entries that are not zero, large ones at a bounded cost: g = λ Σ |x| / (|x| + γ).

    prox by Newton's method to the larger root of y + s γ / (y + γ)² = |x|, s = step λ, where it is better than 0; γ > 0.
    (Geman and Yang 1995; Geman and McClure's penalty has the squares of both.)

    >>> Geman(1.0, gamma=1.0)(torch.tensor([0.9, 3.25], dtype=torch.float64))
    tensor([0.0000, 3.1931], dtype=torch.float64)
    """

    lam: Step = 1.0
    gamma: float = 1.0
    formula = "λ Σ|x| / (|x| + γ)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "gamma")

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        def slope(y: Tensor) -> tuple[Tensor, Tensor]:
            pull = t / (y + self.gamma) * (self.gamma / (y + self.gamma))
            return y + pull - a, y * (1 - 2 * pull / (y + self.gamma))

        turn = self.gamma * ((2 * t / self.gamma**2).clamp(min=1) ** (1 / 3) - 1)  # the equation rises from here on
        return _or_zero(turn < a, _crossing(slope, torch.minimum(turn, a), a), a, t, self._phi)

    def _phi(self, y: Tensor) -> Tensor:
        return y / (y + self.gamma)


@dataclass(frozen=True, eq=False, repr=False)
class LogSum(_Even):
    """Few entries that are not zero, by logarithms: g = λ Σ ln(1 + |x|/ε).

    prox(x) = sign(x) y with y the larger root of (y - |x|) (y + ε) + s = 0, s = step λ, where there is one above 0 that is
    better than 0. (Candès, Wakin and Boyd 2008.)

    >>> LogSum(1.0, eps=1.0)(torch.tensor([0.9, 2.5], dtype=torch.float64))
    tensor([0.0000, 2.1861], dtype=torch.float64)
    """

    lam: Step = 1.0
    eps: float = 1.0
    formula = "λ Σ ln(1 + |x|/ε)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "eps")

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        b, gap = a - self.eps, a + self.eps - 2 * t.sqrt()
        real = gap > 0
        r = torch.where(real, gap, 1.0).sqrt() * (a + self.eps + 2 * t.sqrt()).sqrt()
        y = torch.where(b >= 0, (b + r) / 2, 2 * (a * self.eps - t) / torch.where(b >= 0, 1.0, r - b))
        return _or_zero(real, y, a, t, lambda y: (y / self.eps).log1p())

    def _phi(self, y: Tensor) -> Tensor:
        return (y / self.eps).log1p()


@dataclass(frozen=True, eq=False, repr=False)
class ETP(_Even):
    """Few entries that are not zero, by exponentials: g = λ Σ (1 - exp(-γ |x|)) / (1 - exp(-γ)), between L1 and L0.

    prox by Newton's method to the larger root of y + c exp(-γ y) = |x|, where it is better than 0. (Gao, Wang, Li and Yu 2011.)

    >>> ETP(1.0, gamma=2.0)(torch.tensor([0.9, 3.0], dtype=torch.float64))
    tensor([0.0000, 2.9942], dtype=torch.float64)
    """

    lam: Step = 1.0
    gamma: float = 1.0
    formula = "λ Σ(1 - e^(-γ|x|)) / (1 - e^-γ)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "gamma")

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        c = t * (self.gamma / -math.expm1(-self.gamma))

        def slope(y: Tensor) -> tuple[Tensor, Tensor]:
            pull = c * torch.exp(-self.gamma * y)
            return y + pull - a, y * (1 - self.gamma * pull)

        turn = (c * self.gamma).clamp(min=1).log() / self.gamma  # the equation rises from here on
        return _or_zero(turn < a, _crossing(slope, torch.minimum(turn, a), a), a, t, self._phi)

    def _phi(self, y: Tensor) -> Tensor:
        return torch.expm1(-self.gamma * y) / math.expm1(-self.gamma)


@dataclass(frozen=True, eq=False, repr=False)
class Cauchy(_Even):
    """Outliers at a small cost: g = λ Σ ln(1 + x²/δ²), the Cauchy (Student) prior.

    prox(x) = sign(x) y with y + 2 s y / (δ² + y²) = |x|, s = step λ, by Newton's method; of two such minima the lower one.

    >>> Cauchy(1.0)(torch.tensor([2.0, 5.0], dtype=torch.float64))
    tensor([1.0000, 4.5835], dtype=torch.float64)
    """

    lam: Step = 1.0
    delta: float = 1.0
    formula = "λ Σ ln(1 + x²/δ²)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "delta")

    def _shrunk(self, a: Tensor, t: Tensor) -> Tensor:
        a, t = a / self.delta, t / self.delta**2  # in units of δ

        def slope(y: Tensor) -> tuple[Tensor, Tensor]:
            r = 1 / (1 + y.square())
            return y + 2 * t * y * r - a, y + 2 * t * y * r * (2 * r - 1)

        with torch.no_grad():
            # y³ - a y² + (1 + 2 t) y - a falls between these two, if they exist: one root on either side
            half = (a.square() - 3 * (1 + 2 * t)).clamp(min=0).sqrt()
            half = torch.where(a > 1e18, a, half)
            low, high = (1 + 2 * t) / (a + half), (a + half) / 3
            one = half == 0
            small = _search(slope, torch.zeros_like(a), torch.where(one, a, torch.minimum(low, a)))
            large = _search(slope, torch.where(one, 0.0, torch.minimum(high, a)), a)
            better = (large - small) * (a - (large + small) / 2) > t * (self._log(large) - self._log(small))
        return self.delta * _newton(slope, torch.where(better, large, small))

    def _phi(self, y: Tensor) -> Tensor:
        return self._log(y / self.delta)

    @staticmethod
    def _log(u: Tensor) -> Tensor:
        far = u > 1e9
        return torch.where(far, 2 * torch.where(far, u, 1.0).log(), torch.where(far, 0.0, u).square().log1p())


class _Folded(Prox):
    """A penalty in which λ is the slope at 0 and a unit of length as well: its prox needs the step and λ by themselves."""

    lam: Step
    is_set = False
    cone = True
    convex = False
    complex = True

    def __post_init__(self) -> None:
        store(self, "lam", 0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        a = x.abs().clamp(min=torch.finfo(x.dtype).tiny)
        return x * (self._shrunk(a, scalar(x, step), scalar(x, self.lam)) / a)

    def value(self, x: Tensor) -> Tensor:
        a = double(x).abs()
        return self._cost(a, scalar(a, self.lam)).sum()

    @abstractmethod
    def _shrunk(self, a: Tensor, s: Tensor, lam: Tensor) -> Tensor:
        """argmin over y ≥ 0 of the cost + (y - a)² / (2 s), for a > 0."""

    @abstractmethod
    def _cost(self, a: Tensor, lam: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False, repr=False)
class MCP(_Folded):
    """Few entries that are not zero, large ones not shrunk (minimax concave): g = Σ λ |x| - x²/(2 γ), γ λ²/2 beyond |x| = γ λ.

    With s = step: prox(x) = sign(x) min(|x|, max(|x| - s λ, 0) / (1 - s/γ)) for s < γ, and x where |x| > λ √(γ s), else 0, for
    s ≥ γ. γ > 0. (Zhang 2010. CEL0 of weight λ and column norm c is MCP(c √(2 λ), 1/c²); Soubies et al. 2015.)

    >>> MCP(1.0, gamma=3.0)(torch.tensor([0.5, 2.0, 4.0]))
    tensor([0.0000, 1.5000, 4.0000])
    """

    lam: Step = 1.0
    gamma: float = 3.0
    formula = "Σ mcp(x; λ, γ)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "gamma")

    def _shrunk(self, a: Tensor, s: Tensor, lam: Tensor) -> Tensor:
        firm = s < self.gamma
        r = torch.where(firm, s, 0.0)
        near = torch.minimum(a, (a - r * lam).clamp(min=0) / (1 - r / self.gamma))
        edge = scalar(a, times((self.gamma * torch.where(firm, self.gamma, s)).sqrt(), lam))
        return torch.where(firm, near, torch.where(a > edge, a, 0.0))

    def _cost(self, a: Tensor, lam: Tensor) -> Tensor:
        y = torch.minimum(a, self.gamma * lam)
        return lam * y - y.square() / (2 * self.gamma)


@dataclass(frozen=True, eq=False, repr=False)
class SCAD(_Folded):
    """Few entries that are not zero, large ones not shrunk: g = Σ scad(x), of slope λ up to |x| = λ, then falling to 0 at a λ.

    With s = step and S soft thresholding by s λ: prox(x) = S(x) up to |x| = (1 + s) λ, x beyond a λ, a straight line between,
    for s < a - 1; else x beyond T and S(x) up to it, T = λ (s + a + 1)/2 for s ≤ a + 1 and λ √(s (a + 1)) above, where both
    cost the same. a > 1. (Fan and Li 2001 for s = 1.)

    >>> SCAD(1.0)(torch.tensor([0.5, 1.5, 3.0, 4.0]))
    tensor([0.0000, 0.5000, 2.5882, 4.0000])
    """

    lam: Step = 1.0
    a: float = 3.7
    formula = "Σ scad(x; λ, a)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "a", 1)

    def _shrunk(self, a: Tensor, s: Tensor, lam: Tensor) -> Tensor:
        firm, b = s < self.a - 1, self.a + 1
        soft = (a - scalar(a, times(s, lam))).clamp(min=0)
        r = torch.where(firm, s, 0.0)
        line = a + r * (a - self.a * lam) / (self.a - 1 - r)
        near = torch.maximum(soft, torch.minimum(line, a))
        half = torch.where(s <= b, (s + b) / 2, (torch.where(s <= b, b, s) * b).sqrt())
        return torch.where(firm, near, torch.where(a > scalar(a, times(half, lam)), a, soft))

    def _cost(self, a: Tensor, lam: Tensor) -> Tensor:
        y = torch.minimum(a, self.a * lam)
        return lam * y - (y - lam).clamp(min=0).square() / (2 * (self.a - 1))


# ── their parts ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _number(op: Prox, name: str, low: float = 0.0) -> None:
    given = array(getattr(op, name), f"{name} of {type(op).__name__}")
    if given.ndim or not low < given.item() < math.inf:
        shown = f"{given.item():g}" if given.numel() == 1 else f"an array of shape {tuple(given.shape)}"
        raise ValueError(f"{name} of {type(op).__name__} is {shown}; it must be one finite number above {low:g}")
    object.__setattr__(op, name, given.item())


def _or_zero(known: Tensor, y: Tensor, a: Tensor, t: Tensor, phi: Callable[[Tensor], Tensor]) -> Tensor:
    """y where it is known, above 0 and better than 0, by t φ(y) + (y - a)² / 2 over y: nothing overflows; else 0."""
    known = known & (y > 0)
    u = torch.where(known, y, 1.0)
    return torch.where(known & (t * phi(u) / u + u / 2 < a), y, 0.0)


def _positive_root(b: Tensor, t: Tensor, y: Step) -> Tensor:
    """The root u ≥ 0 of u² - b u = t y without cancellation."""
    q = t.sqrt() * torch.as_tensor(y, dtype=b.dtype, device=b.device).sqrt()
    r = torch.hypot(b, torch.where(q > 0, 2 * q, torch.finfo(b.dtype).tiny))  # no NaN in the gradient where all is 0
    up = b > 0
    return torch.where(up, (b + r) / 2, q * (2 * q / torch.where(up, 1.0, r - b)))


def _crossing(f: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> Tensor:
    """Where a rising f(y) crosses 0 between 0 ≤ low and high, entry by entry; f gives its value and y times its slope."""
    return _newton(f, _search(f, low, high))  # gradients flow through this last step


@torch.no_grad()
def _search(f: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> Tensor:
    """By halving the interval of the binary words, then by Newton's method.

    The order of positive numbers is that of their words as whole numbers: a few halvings find the exponent and the first
    digits, whatever the size, and four steps of Newton the rest.
    """
    low, high = torch.broadcast_tensors(low, high)
    low, high = low.abs().contiguous(), torch.maximum(low, high).abs().contiguous()
    word, halvings = (torch.int32, 16) if low.dtype == torch.float32 else (torch.int64, 20)
    lo, hi = low.view(word), high.view(word)
    for _ in range(halvings):
        mid = lo + (hi - lo >> 1)
        below = f(mid.view(low.dtype))[0] < 0
        lo, hi = torch.where(below, mid, lo), torch.where(below, hi, mid)
    y = (lo + (hi - lo >> 1)).view(low.dtype)
    for _ in range(4):
        y = torch.minimum(torch.maximum(_newton(f, y), low), high)
    return y


def _newton(f: Callable[[Tensor], tuple[Tensor, Tensor]], y: Tensor) -> Tensor:
    value, slope = f(y)
    ok = (slope > 0) & (value.abs() < math.inf)
    return torch.where(ok, y * (1 - torch.where(ok, value, 0.0) / torch.where(ok, slope, 1.0)), y)
