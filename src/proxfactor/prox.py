"""Proximal operators: constraints and penalties as objects, prox(x, step) = argmin_y g(y) + |y - x|² / (2 step).

A step is a number or a tensor that broadcasts to x: a tensor is the diagonal metric of an adaptive optimizer, or the
curvature of rows with different holes, and the distance is then Σ (y - x)² / (2 step) entry by entry.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import reprlib
from abc import ABC
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .text import Spelled

Step = float | Tensor
Index = slice | Tensor


class Prox(Spelled, ABC):
    """A term g of the objective, known by its proximal operator: a set (g is 0 on it, infinite outside) or a penalty.

    A new operator is a frozen dataclass with ``_prox`` (and ``value``, if it is a penalty). The class says of itself:

    convex   g is convex
    exact    False for a heuristic that minimises nothing; no certificate can then be given
    metric   the tensor steps it honours: "element" any; "weighted" any, by its weighted form; "group" those that are
             constant over ``dims``
    dims     the dims it couples: () entry by entry, None all of them
    is_set   g is 0 wherever it is finite
    cone     where g is finite is a cone: what is in it stays in it when scaled
    """

    formula: ClassVar[str] = ""
    convex: bool = True
    exact: bool = True
    metric: Literal["element", "weighted", "group"] = "element"
    is_set: bool = True
    cone: bool = False

    @property
    def dims(self) -> tuple[int, ...] | None:
        return ()

    @property
    def terms(self) -> tuple[Prox, ...]:
        """(self,), or the summands of a ``+`` that has no exact rule, so that a solver can give each its own dual."""
        return (self,)

    def __call__(self, x: Tensor, step: Step = 1.0) -> Tensor:
        """argmin_y g(y) + Σ (y - x)² / (2 step), for x of any shape: a new tensor of the same shape, dtype and device.

        step in [0, inf]: inf gives the minimiser of g nearest x, 0 the nearest point of the closure of g's domain.
        Raises TypeError for a tensor that is not real floating point, ValueError for a step that it cannot honour.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{self!r} takes a real floating-point tensor, given {given}; convert it, e.g. x.float()")
        for name, t in self._held:
            if not _fits(t.shape, x.shape):
                shapes = f"has shape {tuple(t.shape)}, which does not broadcast to x of shape {tuple(x.shape)}"
                raise ValueError(f"{name} of {self!r} {shapes}")
        wide = _wide(x)
        if isinstance(step, Tensor) and step.numel() == 1 and step.device.type == "cpu":
            step = step.item()
        if isinstance(step, Tensor):
            self._check_step(x, step)
            step = (step.reshape(()) if step.numel() == 1 else step).to(wide)
        elif not step >= 0:
            raise ValueError(f"{self!r} was given step={step}; a step lies in [0, inf]")
        return self._prox(wide, step).to(x.dtype)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no _prox(x, step)")

    def _check_step(self, x: Tensor, step: Tensor) -> None:
        if step.numel() == 1:
            shape: tuple[int, ...] = (1,) * x.ndim
        elif _fits(step.shape, x.shape):
            shape = (1,) * (x.ndim - step.ndim) + tuple(step.shape)
        else:
            raise ValueError(f"a step of shape {tuple(step.shape)} does not broadcast to x of shape {tuple(x.shape)}")
        if self.metric == "group" and any(shape[d] > 1 for d in _dims(self.dims, x.ndim)):
            over = "all dims" if self.dims is None else f"dim {', '.join(map(str, self.dims))}"
            raise ValueError(
                f"{self!r} is exact only for steps constant over {over}, given a step of shape {tuple(step.shape)}; "
                "reduce the step over these dims first, as group_metric does"
            )
        if step.device.type == "cpu" and not bool((step >= 0).all()):  # on an accelerator the look would cost a sync
            raise ValueError(f"{self!r} was given a step tensor with entries below 0 or NaN; a step lies in [0, inf]")

    def value(self, x: Tensor) -> Tensor:
        """g(x), one float64 number. A set counts 0 where no slice is further outside than √eps times the largest entry."""
        largest = torch.maximum(_largest(x), _largest(self._prox(_wide(x), 0.0)))
        away = _largest(self.violation(x))
        ok = (away <= torch.finfo(x.dtype).eps ** 0.5 * largest) & away.isfinite()
        return torch.where(ok, 0.0, math.inf).double()

    def violation(self, x: Tensor) -> Tensor:
        """How far outside g's domain each slice is: the distance over ``dims``, which stay with size 1."""
        x = _wide(x)
        away = x - self._prox(x, 0.0)
        return away.abs() if self.dims == () else torch.linalg.vector_norm(away, dim=_dims(self.dims, x.ndim), keepdim=True)

    @property
    def T(self) -> Prox:
        """The same operator on x.mT."""
        return self if self.dims == () and not any(True for _ in self._tensors()) else Transposed(self)

    def take(self, index: Index, dim: int) -> Prox:
        """The operator on part of a matrix: ``self.take(index, dim)(x[index])`` is the part of the whole.

        index is a slice or a 1-D tensor, so that the dim stays. Raises ValueError if the operator couples ``dim``.
        """
        if not isinstance(index, slice) and not (isinstance(index, Tensor) and index.ndim == 1):
            raise TypeError(f"take needs a slice or a 1-D tensor, given {index!r}; one component is slice(q, q + 1)")
        if self.couples(dim):
            raise ValueError(f"{self!r} couples dim {dim}, so it cannot be taken apart along it")
        cut = {name: _cut(t, index, dim) for name, t in self._tensors()}
        return dataclasses.replace(self, **cut) if cut else self  # type: ignore[type-var]

    def couples(self, dim: int) -> bool:
        """Whether the entries of a matrix along ``dim`` depend on each other."""
        return self.dims is None or dim % 2 in {d % 2 for d in self.dims}

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        """Raises ValueError if this cannot act on a matrix of that shape: a tensor or a dim that does not fit."""
        for field, t in self._tensors():
            if not _fits(t.shape, shape):
                raise ValueError(
                    f"{field} of {self!r} has shape {tuple(t.shape)}, which does not fit {name} of shape {tuple(shape)}; "
                    "give a number, or a tensor that broadcasts to it"
                )
        for d in self.dims or ():
            if not -2 <= d < 2:
                raise ValueError(f"{self!r} on {name}, a matrix: dim is {d}, it must be 0 (down the rows) or 1 (along them)")

    @cached_property
    def _held(self) -> tuple[tuple[str, Tensor], ...]:
        return tuple(self._tensors())

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name in getattr(self, "__dataclass_fields__", ()):
            if isinstance(value := getattr(self, name), Tensor):
                yield name, value

    def __add__(self, other: Prox) -> Prox:
        return _add(self, other) if isinstance(other, Prox) else NotImplemented


def as_prox(spec: Prox | str | Callable | None, tensors: dict[str, Any] | None = None) -> Prox:
    """The operator that ``spec`` means: an operator, its text form, a plain function or nn.Module, or None for no constraint.

    >>> as_prox("simplex(dim=1)"), as_prox(None)
    (Simplex(dim=1), Unconstrained())
    """
    if spec is None:
        return Unconstrained()
    if isinstance(spec, Prox):
        return spec
    if isinstance(spec, str):
        return Prox.parse(spec, tensors)
    if isinstance(spec, type) and issubclass(spec, Prox):
        raise TypeError(f"given the class {spec.__name__}, an operator is needed: write {spec.__name__}()")
    if callable(spec):
        return Function(spec)
    raise TypeError(f"given {spec!r}, an operator is needed: a Prox, a text such as 'nonneg + l1(0.1)', or a function of x")


def group_metric(prox: Prox, curvature: Tensor, shape: tuple[int, ...], how: Literal["mean", "amax"]) -> Tensor:
    """The diagonal metric that ``prox`` can honour nearest to ``curvature``, which broadcasts to ``shape``.

    Itself, unless prox.metric is "group": then its mean (in a certificate or an optimizer) or its maximum (in a solver
    whose value must not rise) over the dims that the operator couples, which stay with size 1.
    """
    if prox.metric != "group":
        return curvature
    dims = _dims(prox.dims, len(shape))
    whole = curvature.expand(shape)
    return whole.mean(dims, keepdim=True) if how == "mean" else whole.amax(dims, keepdim=True)


def _dims(dims: tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim)) if dims is None else tuple(d % ndim for d in dims)


def _fits(shape: tuple[int, ...], into: tuple[int, ...]) -> bool:
    """Whether a tensor of one shape broadcasts to the other."""
    return len(shape) <= len(into) and all(s in (1, n) for s, n in zip(reversed(shape), reversed(into), strict=False))


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _largest(x: Tensor) -> Tensor:
    return x.abs().amax() if x.numel() else x.new_zeros(())


def _cut(t: Tensor, index: Index, dim: int) -> Tensor:
    d = dim if dim < 0 else dim - max(2, t.ndim)
    if -d > t.ndim or t.shape[d] == 1:
        return t
    return t[(..., index, *(slice(None),) * (-d - 1))]


def _times(step: Step, lam: Step) -> Step:
    """step·lam where 0·inf is 0: no penalty stays no penalty, no step stays no step."""
    if not isinstance(step, Tensor) and not isinstance(lam, Tensor):
        return 0.0 if step == 0 or lam == 0 else step * lam
    product = torch.as_tensor(step * lam)
    return torch.where(product.isnan(), 0.0, product)


def _like(x: Tensor, value: Step) -> Step:
    return value.to(x) if isinstance(value, Tensor) else value


def _array(value: Any, what: str) -> Tensor:
    """A real tensor; Python's numbers keep their float64, as ``torch.as_tensor`` would not."""
    try:
        t = torch.as_tensor(value, dtype=None if hasattr(value, "dtype") else torch.float64)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise TypeError(f"{what} is {reprlib.repr(value)}; a number or an array of numbers is needed") from None
    if t.is_complex():
        raise TypeError(f"{what} holds complex numbers; real ones are needed")
    return t if t.is_floating_point() else t.double()


def _store(op: Prox, name: str, low: float = -math.inf) -> None:
    """Keep a field as a float or a tensor, checked once: no NaN; a weight (``low`` is 0) is finite and not negative."""
    what = f"{name} of {type(op).__name__}"
    array = _array(getattr(op, name), what)
    value: Step = array.item() if array.ndim == 0 else array
    least, most = (array.min().item(), array.max().item()) if array.numel() else (0.0, 0.0)
    if not least >= low or (low == 0 and most == math.inf):
        given = most if least >= low else least
        raise ValueError(f"{what} is {given:g}; it must be " + ("a number" if low == -math.inf else f"finite and at least {low:g}"))
    object.__setattr__(op, name, value)


# ── entry by entry ────────────────────────────────────────────────────────────────────────────────────────────────────


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
        _store(self, "lo")
        _store(self, "hi")
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
        return all(bool(((b == 0) | b.isinf()).all()) for b in (_array(b, "") for b in (self.lo, self.hi)))

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
        values, mask = _array(self.values, "values of Fixed"), _array(self.mask, "mask of Fixed") != 0
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
        _store(self, "lam", 0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        t = _times(step, _like(x, self.lam))
        if isinstance(t, Tensor):
            return x - torch.minimum(torch.maximum(x, -t), t)
        t = min(t, torch.finfo(x.dtype).max)  # clamp refuses what x's dtype cannot hold
        return x - x.clamp(-t, t)

    def value(self, x: Tensor) -> Tensor:
        return (x.double().abs() * _like(x.double(), self.lam)).sum()


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
        _store(self, "lam", 0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return x / (1 + _times(step, _like(x, self.lam)))

    def value(self, x: Tensor) -> Tensor:
        return 0.5 * (x.double().square() * _like(x.double(), self.lam)).sum()


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
        _store(self, "lam", 0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        a = torch.as_tensor(_times(step, _like(x, self.lam)), dtype=x.dtype, device=x.device)
        scaled = torch.where(a == math.inf, 0.0, x / a)
        z = scaled - 1 - a.log()
        w = _wright_omega(z)
        y = torch.where(z < 1, torch.exp(scaled - 1 - w), a * w)  # ω = exp(z - ω): exact where ω is tiny
        return torch.where((a == 0) | z.isinf() & (z > 0), x.clamp(min=0), y)  # no penalty, or one too small to be felt

    def value(self, x: Tensor) -> Tensor:
        y = x.double()
        g = (_like(y, self.lam) * torch.special.xlogy(y.clamp(min=0), y.clamp(min=0))).sum()
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


# ── along a dim ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _Along(Prox):
    dim: int

    def __post_init__(self) -> None:
        if isinstance(self.dim, bool) or not hasattr(self.dim, "__index__"):
            raise TypeError(f"dim of {type(self).__name__} is {self.dim!r}; a whole number is needed, e.g. 0 or 1")
        object.__setattr__(self, "dim", int(self.dim))

    @property
    def dims(self) -> tuple[int, ...]:
        return (self.dim,)

    def _length(self, x: Tensor) -> int:
        if not -x.ndim <= self.dim < x.ndim:
            raise ValueError(f"{self!r} on x of shape {tuple(x.shape)}: there is no dim {self.dim}")
        if x.shape[self.dim] == 0:
            raise ValueError(f"{self!r} on x of shape {tuple(x.shape)}: the set is empty along a dim of length 0")
        return x.shape[self.dim]


@dataclass(frozen=True, eq=False, repr=False)
class Simplex(_Along):
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
        total = _array(self.total, "total of Simplex")
        if total.ndim or not 0 < total.item() < math.inf:
            raise ValueError(f"total of Simplex is {self.total}; it must be one number, positive and finite")
        object.__setattr__(self, "total", total.item())

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._length(x)
        x, s = x.movedim(self.dim, -1), _relative(x, step, self.dim)
        order = (x / s).argsort(-1, descending=True)
        led, steps = x.gather(-1, order), s.expand_as(x).gather(-1, order)
        length = steps.cumsum(-1)
        for _ in range(3):  # again on what is left: no cancellation at a large offset, and the sum is right to rounding
            theta = ((led.cumsum(-1) - self.total) / length).amax(-1, keepdim=True)
            led, x = led - theta * steps, x - theta * s
        return x.clamp(min=0).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class SumToOne(_Along):
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
        s = _relative(x, step, self.dim).movedim(-1, self.dim)
        total = s.sum(self.dim, keepdim=True) if s.shape[self.dim] == n else n * s
        for _ in range(2):  # the second time for what rounding left at a large offset
            x = x - s * ((x.sum(self.dim, keepdim=True) - 1) / total)
        return x


@dataclass(frozen=True, eq=False, repr=False)
class Normalize(_Along):
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


def _relative(x: Tensor, step: Step, dim: int) -> Tensor:
    """A step's share of the largest one along dim, dim last: on a set only the ratios count, and they stay finite.

    Beside an infinite step a finite one is as good as none, but among themselves the finite ones keep their ratios; so do
    these beside a step of zero: three levels, each far below the one above.
    """
    if not isinstance(step, Tensor) or step.numel() == 1 or step.ndim < -(dim % x.ndim - x.ndim):
        return x.new_ones((1,) * x.ndim)
    s = step.expand((1,) * (x.ndim - step.ndim) + tuple(step.shape)).movedim(dim, -1)
    eps, free = torch.finfo(x.dtype).eps, s == math.inf
    s = s.where(~free, 0.0)
    largest = s.amax(-1, keepdim=True)
    share = torch.where(s > 0, (s / largest).clamp(min=eps**2), eps**3)
    share = torch.where(free.any(-1, keepdim=True), torch.where(free, 1.0, eps * share), share)
    return torch.where((largest == 0) & ~free.any(-1, keepdim=True), 1.0, share)


# ── built from others ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False, repr=False)
class Transposed(Prox):
    """An operator on the transpose: prox(x) = inner(x.mT).mT.

    >>> Transposed(Simplex(dim=0))(torch.tensor([[2.0, 1.0]]))
    tensor([[1., 0.]])
    """

    inner: Prox
    formula = "g(xᵀ)"

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Prox):
            raise TypeError(f"Transposed was given {self.inner!r}; an operator is needed, e.g. Transposed(Simplex(dim=0))")

    convex = property(lambda self: self.inner.convex)
    exact = property(lambda self: self.inner.exact)
    metric = property(lambda self: self.inner.metric)
    is_set = property(lambda self: self.inner.is_set)
    cone = property(lambda self: self.inner.cone)

    @property
    def dims(self) -> tuple[int, ...] | None:
        return None if self.inner.dims is None else tuple(-3 - (d if d < 0 else d - 2) for d in self.inner.dims)

    @property
    def terms(self) -> tuple[Prox, ...]:
        return tuple(t.T for t in self.inner.terms)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.ndim != 2:
            raise ValueError(f"{self!r} takes a matrix, given x of shape {tuple(x.shape)}")
        if isinstance(step, Tensor) and step.numel() > 1:
            step = step.expand((1,) * (2 - step.ndim) + tuple(step.shape)).mT
        return self.inner._prox(x.mT, step).mT

    def value(self, x: Tensor) -> Tensor:
        return self.inner.value(x.mT)

    def violation(self, x: Tensor) -> Tensor:
        return self.inner.violation(x.mT).mT

    @property
    def T(self) -> Prox:
        return self.inner

    def take(self, index: Index, dim: int) -> Prox:
        return super().take(index, dim) if self.couples(dim) else self.inner.take(index, 1 - dim % 2).T

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, (t if t.ndim > 1 else t[None]).mT) for name, t in self.inner._tensors())

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        self.inner.check((shape[1], shape[0]), f"the transpose of {name}")


@dataclass(frozen=True, eq=False, repr=False)
class Sum(Prox):
    """A sum of operators that one exact rule covers: the summands are applied one after the other, each with the same step.

    It is made by ``+``, not by hand. Exact, in any diagonal metric: the bounds (NonNegative, Box, Fixed) after any convex
    operator that works entry by entry, since a convex function of one variable is minimised over an interval by clipping
    its minimiser; and L1 before L2Squared, the elastic net (Zou and Hastie 2005). Every other sum is refused by name.

    >>> (NonNegative() + L1(1.0))(torch.tensor([-3.0, 3.0]))
    tensor([0., 2.])
    """

    parts: tuple[Prox, ...]
    listed = False

    is_set = property(lambda self: all(p.is_set for p in self.parts))
    cone = property(lambda self: all(p.cone for p in self.parts))

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return reduce(lambda y, p: p._prox(y, step), sorted(self.parts, key=_turn), x)

    def value(self, x: Tensor) -> Tensor:
        return sum((p.value(x) for p in self.parts), torch.zeros((), dtype=torch.float64, device=x.device))

    @property
    def T(self) -> Prox:
        return Sum(tuple(p.T for p in self.parts)) if any(True for _ in self._tensors()) else self

    def take(self, index: Index, dim: int) -> Prox:
        return Sum(tuple(p.take(index, dim) for p in self.parts))

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        for p in self.parts:
            p.check(shape, name)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return (item for p in self.parts for item in p._tensors())

    def _write(self, tensors: dict[str, Tensor]) -> str:
        return " + ".join(p._write(tensors) for p in self.parts)


_TURNS: tuple[type[Prox], ...] = (L2Squared, Box, NonNegative, Fixed)


def _core(p: Prox) -> Prox:
    return _core(p.inner) if isinstance(p, Transposed) else p


def _parts(p: Prox) -> tuple[Prox, ...]:
    if isinstance(p, Transposed) and isinstance(_core(p), Sum):
        return tuple(q.T for q in _parts(p.inner))
    return p.parts if isinstance(p, Sum) else (p,)


def _turn(p: Prox) -> int:
    """The place in the order of application: L1 and other penalties, the ridge, the bounds, the known entries."""
    return next((i for i, kind in enumerate(_TURNS, 1) if isinstance(_core(p), kind)), 0)


def _bounds(p: Prox) -> bool:
    return isinstance(_core(p), NonNegative | Box | Fixed)


def _add(a: Prox, b: Prox) -> Prox:
    parts = [p for s in (a, b) for p in _parts(s) if not isinstance(p, Unconstrained)]
    if len(parts) < 2:
        return parts[0] if parts else a
    refused = f"no exact rule is known for {a!r} + {b!r}"
    if any(p.dims != () or not p.convex or not p.exact for p in parts):
        odd = next(p for p in parts if p.dims != () or not p.convex or not p.exact)
        why = "it is no proximal operator" if not odd.exact else "it couples entries" if odd.convex else "it is not convex"
        raise ValueError(f"{refused}: {odd!r} cannot be summed, as {why}; put one on one factor and the other on the other factor")
    rest = [p for p in parts if not _bounds(p)]
    kinds = [type(_core(p)) for p in rest]
    if len(rest) > 1 and sorted(k.__name__ for k in kinds) != ["L1", "L2Squared"]:
        known = "bounds or Fixed + one penalty, and L1 + L2Squared, are exact"
        way = f"write one {kinds[0].__name__} with the summed weight" if len(set(kinds)) < len(kinds) else known
        raise ValueError(f"{refused}; {way}")
    _meet([p for p in parts if _bounds(p)], [p for p in rest if isinstance(_core(p), Entropy)])
    return Sum(tuple(parts))


def _meet(bounds: list[Prox], domains: list[Prox]) -> None:
    """Raises ValueError where two parts exclude each other: intervals that do not overlap, a known value outside."""
    for i, p in enumerate(bounds):
        for q in bounds[i + 1 :] + domains:
            try:
                shape = torch.broadcast_shapes(*(t.shape for _, t in [*p._tensors(), *q._tensors()]), (1, 1))
            except RuntimeError:
                raise ValueError(f"the tensors of {p!r} and {q!r} do not fit together; each must broadcast to the factor") from None
            ends = [op._prox(torch.full(shape, v, dtype=torch.float64), 0.0) for v in (-1e300, 1e300) for op in (p, q)]
            low, high = torch.maximum(ends[0], ends[1]), torch.minimum(ends[2], ends[3])
            if bool((low > high + 1e-6 * high.abs()).any()):  # float32 values against float64 bounds
                raise ValueError(f"{p!r} and {q!r} do not meet: no entry satisfies both; widen the bounds or change the values")


@dataclass(frozen=True, eq=False, repr=False)
class Function(Prox):
    """A plain function or nn.Module as an operator: whatever it computes is taken as prox(x).

    It gets the step through a parameter called ``step``, or through a required second one; else it is called with x
    alone, as is a functools.partial that has set the step. Since nothing is known of what it minimises, it counts as
    inexact: no certificate, value 0 unless the function has an attribute ``value``, and any entry may depend on any
    other. Raises ValueError if the shape changes.

    >>> as_prox(torch.nn.Threshold(0, 0))(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    fn: Callable
    listed = False
    convex = False
    exact = False
    metric = "group"
    dims = None

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        how = _takes_step(self.fn)
        given: dict[str, Any] = {"keyword": {"step": step}}.get(how, {})
        y = self.fn(x.clone(), step) if how == "second" else self.fn(x.clone(), **given)
        if not isinstance(y, Tensor) or y.shape != x.shape:
            became = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"{self!r} turned a tensor of shape {tuple(x.shape)} into {became}; an operator keeps the shape")
        return y.detach().to(x)

    def value(self, x: Tensor) -> Tensor:
        value = getattr(self.fn, "value", None)
        return torch.as_tensor(value(x) if callable(value) else 0.0, dtype=torch.float64, device=x.device).sum()

    def violation(self, x: Tensor) -> Tensor:
        return x.new_zeros((1,) * x.ndim)

    def _write(self, tensors: dict[str, Tensor]) -> str:
        return f"Function({getattr(self.fn, '__qualname__', None) or type(self.fn).__name__})"


def _takes_step(fn: Callable) -> Literal["keyword", "second", "no"]:
    if isinstance(fn, partial) and "step" in fn.keywords:
        return "no"  # its maker has set the step
    try:
        target = fn.forward if isinstance(fn, torch.nn.Module) else fn
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return "no"
    if any(p.name == "step" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters):
        return "keyword"
    ordered = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    second = len(ordered) > 1 and (ordered[1].default is inspect.Parameter.empty or ordered[1].name == "step")
    return "second" if second else "no"
