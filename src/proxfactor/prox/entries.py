"""Entry by entry: sets and penalties that look at each number by itself; any tensor step is honoured exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softshrink

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
    streams = True
    elastic = (-math.inf, math.inf, 0.0, 0.0)

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
    streams = True
    elastic = (0.0, math.inf, 0.0, 0.0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return x.clamp(min=0)

    def _prox_(self, x: Tensor, step: Step) -> Tensor:
        return x.clamp_(min=0)


@dataclass(frozen=True, eq=False, repr=False)
class NonPositive(Prox):
    """No entry above zero: g = 0 where x ≤ 0, prox(x) = min(x, 0).

    >>> NonPositive()(torch.tensor([-1.0, 2.0]))
    tensor([-1.,  0.])
    """

    alias = "nonpos"
    formula = "x ≤ 0"
    cone = True
    streams = True
    elastic = (-math.inf, 0.0, 0.0, 0.0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return x.clamp(max=0)

    def _prox_(self, x: Tensor, step: Step) -> Tensor:
        return x.clamp_(max=0)


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
    streams = True

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

    @property
    def elastic(self) -> tuple[float, float, float, float] | None:  # type: ignore[override]
        return None if self._held else (float(self.lo), float(self.hi), 0.0, 0.0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if isinstance(self.lo, Tensor) or isinstance(self.hi, Tensor):
            lo, hi = scalar(x, self.lo), scalar(x, self.hi)
            return x.clamp(lo, hi)
        return x.clamp(*self._limits(x))

    def _prox_(self, x: Tensor, step: Step) -> Tensor:
        return self._prox(x, step) if self._held else x.clamp_(*self._limits(x))

    def _limits(self, x: Tensor) -> list[float]:
        """lo and hi, numbers, in the range of x's dtype: what it cannot hold clamp refuses."""
        most = torch.finfo(x.dtype).max
        return [b if math.isinf(b) else min(max(b, -most), most) for b in map(float, (self.lo, self.hi))]


@dataclass(frozen=True, eq=False, repr=False)
class Binary(Prox):
    """Every entry one of two numbers: g = 0 where x is lo or hi, prox(x) = the nearer one, lo at a tie.

    lo and hi are finite numbers or tensors. Raises ValueError where lo > hi.

    >>> Binary()(torch.tensor([-1.0, 0.4, 0.6]))
    tensor([0., 0., 1.])
    """

    lo: Step = 0.0
    hi: Step = 1.0
    formula = "x ∈ {lo, hi}"
    convex = False

    def __post_init__(self) -> None:
        store(self, "lo")
        store(self, "hi")
        if not all(bool(array(b, "").isfinite().all()) for b in (self.lo, self.hi)):
            raise ValueError(f"{self!r}: both levels must be finite")
        if bool(_above(self)):
            raise ValueError(f"{self!r}: lo is above hi; exchange them")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        lo, hi = scalar(x, self.lo), scalar(x, self.hi)
        return torch.where(x > lo / 2 + hi / 2, hi, lo)


@dataclass(frozen=True, eq=False, repr=False)
class Integers(Prox):
    """Every entry a whole number between two bounds: prox(x) = the nearest one, the even one at a tie.

    lo and hi are numbers (also ±inf) or tensors. Raises ValueError where no whole number lies between them.

    >>> Integers(lo=0)(torch.tensor([-3.2, 1.2, 2.6]))
    tensor([0., 1., 3.])
    """

    lo: Step = -math.inf
    hi: Step = math.inf
    formula = "x ∈ {lo, …, hi} whole"
    convex = False

    def __post_init__(self) -> None:
        store(self, "lo")
        store(self, "hi")
        lo, hi = array(self.lo, "").ceil(), array(self.hi, "").floor()
        if bool(_above(self, lo, hi)) or bool((lo == math.inf).any()) or bool((hi == -math.inf).any()):
            raise ValueError(f"{self!r} is empty: no whole number lies between the bounds")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        lo, hi = scalar(x, self.lo), scalar(x, self.hi)
        return x.round().clamp(lo.ceil(), hi.floor())


@dataclass(frozen=True, eq=False, repr=False)
class Codebook(Prox):
    """Every entry one of a few levels: g = 0 where x is in ``values``, prox(x) = the nearest level, the smaller at a tie.

    values is a list of finite numbers, or a 1-D tensor; they are kept in order, each once. O(n log k) for k levels.

    >>> Codebook((-1, 0, 0.5))(torch.tensor([-3.0, 0.2, 0.3]))
    tensor([-1.0000,  0.0000,  0.5000])
    """

    values: tuple[float, ...] | Tensor
    formula = "x ∈ values"
    convex = False

    def __post_init__(self) -> None:
        given = array(self.values, "values of Codebook")
        if given.ndim != 1 or not given.numel() or not bool(given.isfinite().all()):
            raise ValueError("values of Codebook must be a list of one or more finite numbers, or such a 1-D tensor")
        levels = given.unique(sorted=True)
        object.__setattr__(self, "values", levels if isinstance(self.values, Tensor) else tuple(levels.tolist()))

    @property
    def cone(self) -> bool:  # type: ignore[override]
        return bool((array(self.values, "") == 0).all())

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        levels = torch.as_tensor(self.values, dtype=x.dtype, device=x.device)
        return levels[torch.searchsorted(levels[:-1] / 2 + levels[1:] / 2, x.detach().contiguous())]

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())  # the levels are those of every entry: nothing that must fit x


@dataclass(frozen=True, eq=False, repr=False)
class Fixed(Prox):
    """Known entries: x = values under the mask, free elsewhere (values are not looked at there).

    values and mask are arrays of one shape that broadcasts to the factor; a mask of numbers counts as true where it is not 0.
    Without a mask the values that are not NaN are known. Raises ValueError for a known value that is not finite, or if none
    is known.

    >>> Fixed(torch.tensor([1.0, 0.0]), torch.tensor([True, False]))(torch.tensor([5.0, 5.0]))
    tensor([1., 5.])
    >>> Fixed(torch.tensor([1.0, float("nan")]))(torch.tensor([5.0, 5.0]))
    tensor([1., 5.])
    """

    values: Tensor
    mask: Tensor = None  # type: ignore[assignment]  # a tensor from __post_init__ on
    formula = "x = values under mask"

    def __post_init__(self) -> None:
        values = array(self.values, "values of Fixed")
        mask = ~values.isnan() if self.mask is None else array(self.mask, "mask of Fixed") != 0
        if self.mask is None and not bool(mask.any()):
            raise ValueError("Fixed: every value is NaN, so that nothing is fixed; give numbers for the known entries")
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

    λ ≥ 0 is a number or a tensor of weights that broadcasts to x. Of a complex entry the modulus shrinks, the phase stays.

    >>> L1(1.0)(torch.tensor([-3.0, 0.5, 2.0]), 0.5)
    tensor([-2.5000,  0.0000,  1.5000])
    """

    lam: Step = 1.0
    formula = "λ Σ|x|"
    is_set = False
    cone = True
    streams = True
    complex = True

    def __post_init__(self) -> None:
        store(self, "lam", 0)

    @property
    def elastic(self) -> tuple[float, float, float, float] | None:  # type: ignore[override]
        return None if self._held else (-math.inf, math.inf, float(self.lam), 0.0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        t = times(step, weight(x, self.lam))
        if x.is_complex():
            a = x.abs()
            keep = a > t
            return x * torch.where(keep, 1 - t / torch.where(keep, a, 1.0), 0.0)
        if isinstance(t, Tensor):
            return x - x.clamp(-t, t)
        return softshrink(x, min(t, torch.finfo(x.dtype).max))  # it refuses what x's dtype cannot hold

    def _prox_(self, x: Tensor, step: Step) -> Tensor:
        t = times(step, weight(x, self.lam))
        if x.is_complex() or isinstance(t, Tensor):
            return self._prox(x, step)
        return torch.ops.aten.softshrink.out(x, min(t, torch.finfo(x.dtype).max), out=x)

    def value(self, x: Tensor) -> Tensor:
        a = double(x).abs()
        return (a * like(a, self.lam)).sum()


@dataclass(frozen=True, eq=False, repr=False)
class L2Squared(Prox):
    """Small entries (ridge), or entries near a centre: g = λ/2 Σ (x - c)², prox(x) = c + (x - c) / (1 + step λ).

    λ ≥ 0 and the centre c are numbers or tensors that broadcast to x. (A squared loss has its ½ too.)

    >>> L2Squared(1.0)(torch.tensor([3.0]), 0.5)
    tensor([2.])
    >>> L2Squared(1.0, center=1.0)(torch.tensor([4.0]), 0.5)
    tensor([3.])
    """

    lam: Step = 1.0
    center: Step = 0.0
    alias = "ridge"
    formula = "λ/2 Σ(x - c)²"
    is_set = False
    cone = True
    streams = property(lambda self: not isinstance(self.center, Tensor) and self.center == 0)
    complex = True

    def __post_init__(self) -> None:
        store(self, "lam", 0)
        store(self, "center")
        if not bool(array(self.center, "").isfinite().all()):
            raise ValueError("center of L2Squared is not finite; it must hold finite numbers")

    @property
    def elastic(self) -> tuple[float, float, float, float] | None:  # type: ignore[override]
        return None if self._held or self.center else (-math.inf, math.inf, 0.0, float(self.lam))

    @property
    def net(self) -> tuple[float, float, float, Step] | None:
        return (-math.inf, math.inf, 0.0, self.lam) if self.streams and not self.foreign else None

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        t = times(step, weight(x, self.lam))
        if self.streams:
            return x / (1 + t)
        c = like(x, self.center)
        near = c + (x - c) / (1 + t)
        return torch.where(t == 0, x, near) if isinstance(t, Tensor) else near if t else x.clone()

    def _prox_(self, x: Tensor, step: Step) -> Tensor:
        t = times(step, weight(x, self.lam))
        return x.div_(1 + t) if self.streams and not isinstance(t, Tensor) else self._prox(x, step)

    def value(self, x: Tensor) -> Tensor:
        y = double(x)
        a = (y - like(y, self.center)).abs()
        return 0.5 * (a.square() * like(a, self.lam)).sum()


@dataclass(frozen=True, eq=False, repr=False)
class Linear(Prox):
    """A slope: g = Σ c x, prox(x) = x - step c; with NonNegative it is L1 there. No minimiser, unless c is 0.

    c is a number or a tensor that broadcasts to x, finite.

    >>> Linear(2.0)(torch.tensor([3.0]), 0.5)
    tensor([2.])
    """

    c: Step = 1.0
    formula = "Σ c x"
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        store(self, "c")
        if not bool(array(self.c, "").isfinite().all()):
            raise ValueError("c of Linear is not finite; it must hold finite numbers")

    @property
    def attained(self) -> bool:  # type: ignore[override]
        return bool((array(self.c, "") == 0).all())

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return x - times(step, like(x, self.c))

    def value(self, x: Tensor) -> Tensor:
        return (like(x.double(), self.c) * x.double()).sum()


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
        a = scalar(x, times(step, like(x, self.lam)))
        felt = a > 0
        free, s = a == math.inf, torch.where(felt & a.isfinite(), a, 1.0)
        with torch.no_grad():
            z = x / s - 1 - s.log()
            w = _wright_omega(z)
            y = torch.where(z < 1, torch.exp(x / s - 1 - w), s * w)  # ω = exp(z - ω): exact where ω is tiny
        known = (y > 0) & y.isfinite()
        u = torch.where(known, y, 1.0)
        y = torch.where(known, u * (1 - (u + s * (1 + u.log()) - x) / (u + s)), y)  # a Newton step, which carries gradients
        y = torch.where(felt & ~(z.isinf() & (z > 0)), y, x.clamp(min=0))  # no penalty, or one too small to be felt
        return torch.where(free, math.exp(-1), y)

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


def weight(x: Tensor, value: Step) -> Step:
    """A field on x's device and of its real dtype."""
    return value.to(x.device, x.dtype.to_real()) if isinstance(value, Tensor) else value


def double(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float64))


def scalar(x: Tensor, value: Step) -> Tensor:
    """A number or a field as a tensor beside x, of its real dtype; a number beyond that dtype is ±inf. No copy, no sync."""
    if isinstance(value, Tensor):
        return value.to(x.device, x.dtype.to_real())
    far = abs(value) > torch.finfo(x.dtype).max
    return torch.full((), math.copysign(math.inf, value) if far else value, dtype=x.dtype.to_real(), device=x.device)


def _above(op: Binary | Integers, *bounds: Tensor) -> Tensor:
    try:
        lo, hi = bounds or (op.lo, op.hi)
        return torch.as_tensor(lo > hi).any()
    except RuntimeError:
        raise ValueError(
            f"{type(op).__name__}: the shapes of lo and hi do not fit together; each must broadcast to the factor"
        ) from None
