"""Bounded norms along a dim, the spheres that bound them, cones, and sparsity that is counted.

Where an operator takes complex tensors, it moves the modulus of an entry and keeps its phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from .base import Along, Prox, Step, array, relative, whole
from .simplices import large, project_simplex


class _Sized(Along):
    """Operators along a dim with a radius."""

    radius: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "radius")


@dataclass(frozen=True, eq=False, repr=False)
class L1Ball(_Sized):
    """A bounded sum of sizes along a dim: g = 0 where Σ |x| ≤ radius, prox(x) = sign(x) (the simplex nearest |x|).

    A slice inside stays as it is. (Duchi, Shalev-Shwartz, Singer and Chandra 2008; the metric form is that of Simplex.)
    Raises ValueError where radius is not positive and finite.

    >>> L1Ball(dim=0, radius=2.0)(torch.tensor([3.0, -2.0, 0.5]))
    tensor([ 1.5000, -0.5000,  0.0000])
    """

    dim: int
    radius: float = 1.0
    formula = "Σ|x| ≤ radius along dim"
    cost = "n log n"
    metric = "weighted"
    complex = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.shape[self.dim] == 0:
            return x.clone()
        s = relative(x, step, self.dim)
        x = x.movedim(self.dim, -1)
        size = x.abs()
        y = x.sgn() * project_simplex(size, s, self.radius)
        return torch.where(size.sum(-1, keepdim=True) <= self.radius, x, y).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class L1Sphere(_Sized):
    """A given sum of sizes along a dim: g = 0 where Σ |x| = radius, prox(x) = sign(x) (the simplex nearest |x|).

    Not convex, yet exact in any metric: the nearest point keeps the signs of x, and its sizes are the shares nearest |x|;
    a zero counts as positive. Raises ValueError where radius is not positive and finite.

    >>> L1Sphere(dim=0, radius=2.0)(torch.tensor([0.5, -0.5]))
    tensor([ 1., -1.])
    """

    dim: int
    radius: float = 1.0
    formula = "Σ|x| = radius along dim"
    cost = "n log n"
    convex = False
    metric = "weighted"
    complex = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._length(x)
        s = relative(x, step, self.dim)
        x = x.movedim(self.dim, -1)
        phase = torch.where(x == 0, 1.0, x.sgn())
        return (phase * project_simplex(x.abs(), s, self.radius)).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class L2Ball(_Sized):
    """A bounded Euclidean norm along a dim: g = 0 where ‖x‖ ≤ radius, prox(x) = x min(1, radius / ‖x‖).

    With steps that differ along dim, prox(x) = x / (1 + μ step) for the μ that gives the norm radius: Newton's method on
    1/‖x‖ - 1/radius, concave in μ, rises to it from any lower bound (Hebden 1973; Moré and Sorensen 1983). A slice inside
    stays as it is. Raises ValueError where radius is not positive and finite.

    >>> L2Ball(dim=0, radius=1.0)(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """

    dim: int
    radius: float = 1.0
    formula = "‖x‖₂ ≤ radius along dim"
    metric = "weighted"
    complex = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.shape[self.dim] == 0:
            return x.clone()
        s = relative(x, step, self.dim)
        x = x.movedim(self.dim, -1)
        norm = _norm(x, -1)
        if s.shape[-1] == 1:
            y = x * (self.radius / norm.clamp(min=self.radius))
        else:
            y = x * _shrinkage(torch.where(norm > self.radius, x.abs() / self.radius, 1.0), s)
        return torch.where(norm <= self.radius, x, y).movedim(-1, self.dim)


def _shrinkage(q: Tensor, s: Tensor) -> Tensor:
    """1 / (1 + μ s) such that q times it has norm 1 along the last dim; q ≥ 0 has a norm of 1 or more."""
    s = s / (s.amin(-1, keepdim=True).sqrt() * s.amax(-1, keepdim=True).sqrt())  # so that neither s nor μ leaves float32

    def newton(mu: Tensor) -> Tensor:
        w = 1 / (1 + mu * s)
        norm = _norm(q * w, -1)
        return (norm - 1) / ((q * w / norm).square() * (s * w)).sum(-1, keepdim=True)

    with torch.no_grad():
        mu = torch.maximum(((q - 1) / s).amax(-1, keepdim=True), (_norm(q, -1) - 1) / s.amax(-1, keepdim=True))
        mu = mu.clamp(0, torch.finfo(q.dtype).max)
        for _ in range(20):  # 12 were enough for steps that differ by 1e12
            better = mu + newton(mu)
            mu = torch.where((better > mu) & better.isfinite(), better, mu)
    last = mu + newton(mu)  # at the root it changes nothing but carries the gradient
    w = 1 / (1 + torch.where(last.isfinite(), last, mu) * s)
    return w / _norm(q * w, -1).detach().clamp(min=1)  # rounding, and entries so large that no μ is finite


@dataclass(frozen=True, eq=False, repr=False)
class LInfBall(Prox):
    """No entry larger than radius in size: g = 0 where |x| ≤ radius, prox(x) = min(max(x, -radius), radius).

    Raises ValueError where radius is not positive and finite.

    >>> LInfBall(1.0)(torch.tensor([3.0, -0.5]))
    tensor([ 1.0000, -0.5000])
    """

    radius: float = 1.0
    formula = "max|x| ≤ radius"
    complex = True

    def __post_init__(self) -> None:
        _positive(self, "radius")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if not x.is_complex():
            return x.clamp(-self.radius, self.radius)
        return torch.where(x.abs() <= self.radius, x, x.sgn() * self.radius)


@dataclass(frozen=True, eq=False, repr=False)
class L1L2Ball(Along):
    """A bounded sum of sizes and a bounded norm: g = 0 where Σ |x| ≤ l1 and ‖x‖ ≤ l2, the penalized matrix decomposition.

    prox(x) is the nearest point of one ball if that lies in the other, else sign(x) max(|x| - λ, 0) scaled to the norm l2,
    where λ gives the sum l1. (Witten, Tibshirani and Hastie 2009.) The bounds differ for 1 < l1/l2 < √n.
    Raises ValueError where l1 or l2 is not positive and finite.

    >>> L1L2Ball(dim=0, l1=1.2, l2=1.0)(torch.tensor([3.0, -1.0, 0.5]))
    tensor([ 0.9782, -0.2073,  0.0146])
    """

    dim: int
    l1: float
    l2: float = 1.0
    formula = "Σ|x| ≤ l1, ‖x‖₂ ≤ l2 along dim"
    cost = "n log n"
    metric = "group"
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "l1")
        _positive(self, "l2")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.shape[self.dim] == 0:
            return x.clone()
        x = x.movedim(self.dim, -1)
        short, few = L2Ball(-1, self.l2)._prox(x, 1.0), L1Ball(-1, self.l1)._prox(x, 1.0)
        y = torch.where(_norm(few, -1) <= self.l2, few, self.l2 * x.sgn() * _sparse_direction(x.abs(), self.l1 / self.l2))
        return torch.where(short.abs().sum(-1, keepdim=True) <= self.l1, short, y).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class ElasticNetBall(Along):
    """A bounded elastic net along a dim: g = 0 where Σ |x| + γ/2 Σ x² ≤ radius, prox(x) = sign(x) max(|x| - λ, 0) / (1 + γλ).

    For a support of k entries λ solves a quadratic equation, and the entries are its support if all exceed λ; a slice
    inside stays as it is. (Mairal, Bach, Ponce and Sapiro 2010.) Raises ValueError where gamma is not at least 0 and
    finite, or radius not positive and finite.

    >>> ElasticNetBall(dim=0, gamma=2.0, radius=2.0)(torch.tensor([4.0, -0.5]))
    tensor([1., -0.])
    """

    dim: int
    gamma: float = 1.0
    radius: float = 1.0
    formula = "Σ|x| + γ/2 Σx² ≤ radius along dim"
    cost = "n log n"
    metric = "group"
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "gamma", zero=True)
        _positive(self, "radius")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.shape[self.dim] == 0:
            return x.clone()
        x = x.movedim(self.dim, -1)
        size = x.abs()
        scale = size.detach().amax(-1, keepdim=True)
        scale = torch.where(scale > 0, scale, 1.0)
        parts, gamma, radius = size / scale, self.gamma * scale, self.radius / scale
        g = gamma.clamp(min=1)  # divided by, so that the square of an enormous entry is not needed

        def threshold(of: Tensor, squares: Tensor, count: Tensor) -> Tensor:
            over = of / g + gamma / g / 2 * squares - radius / g
            share = over.clamp(min=0) / (count + 2 * self.gamma * self.radius)
            return 2 * share / (1 / g + (1 / g.square() + 2 * gamma / g * share).sqrt())

        led = parts.detach().sort(-1, descending=True).values
        count = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=size.dtype)
        k = (threshold(led.cumsum(-1), led.square().cumsum(-1), count) < led).sum(-1, keepdim=True).clamp(min=1)
        held = parts >= led.gather(-1, k - 1)
        some = torch.where(held, parts, 0.0)
        lam = threshold(some.sum(-1, keepdim=True), some.square().sum(-1, keepdim=True), held.sum(-1, keepdim=True).to(size.dtype))
        left = torch.zeros_like(lam)
        with torch.no_grad():  # Newton's method on what rounding left: λ may be close to the largest entry
            for _ in range(2):
                grown = 1 + gamma * (lam + left)
                t = torch.where(held, parts - lam - left, 0.0) / grown
                slope = torch.where(held, (1 + gamma * parts) / grown * (1 + gamma * t), 0.0).sum(-1, keepdim=True)
                left += ((t + gamma * t / 2 * t).sum(-1, keepdim=True) - radius) * grown / slope
        y = x.sgn() * (scale * torch.where(held, parts - lam - left, 0.0).clamp(min=0) / (1 + gamma * (lam + left)))
        inside = (size + self.gamma / 2 * size.square()).sum(-1, keepdim=True) <= self.radius
        return torch.where(inside, x, y).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class Sphere(_Sized):
    """A given Euclidean norm along a dim, as of components of unit length: g = 0 where ‖x‖ = radius.

    prox(x) = radius x / ‖x‖. Every point of the sphere is as near to 0 as any other: it goes to equal entries.
    Raises ValueError where radius is not positive and finite.

    >>> Sphere(dim=0)(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
    tensor([[0.6000, 0.7071],
            [0.8000, 0.7071]])
    """

    dim: int
    radius: float = 1.0
    alias = "unitnorm"
    formula = "‖x‖₂ = radius along dim"
    convex = False
    metric = "group"
    complex = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return _to_length(x, self._length(x), self.dim, self.radius)


@dataclass(frozen=True, eq=False, repr=False)
class OutsideBall(_Sized):
    """A Euclidean norm that is not too small along a dim: g = 0 where ‖x‖ ≥ radius, prox(x) = x max(1, radius / ‖x‖).

    0 goes to equal entries, as in Sphere. Raises ValueError where radius is not positive and finite.

    >>> OutsideBall(dim=0, radius=10.0)(torch.tensor([3.0, 4.0]))
    tensor([6., 8.])
    """

    dim: int
    radius: float = 1.0
    formula = "‖x‖₂ ≥ radius along dim"
    convex = False
    metric = "group"
    complex = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        y = _to_length(x, self._length(x), self.dim, self.radius)
        return torch.where(_norm(x, self.dim) >= self.radius, x, y)


@dataclass(frozen=True, eq=False, repr=False)
class NonNegativeSphere(_Sized):
    """Components of a given length with no entry below zero: g = 0 where x ≥ 0 and ‖x‖ = radius along a dim.

    prox(x) = radius x₊ / ‖x₊‖ with x₊ = max(x, 0). If no entry is positive, the first largest one becomes radius and the
    others 0. Raises ValueError where radius is not positive and finite.

    >>> NonNegativeSphere(dim=0)(torch.tensor([[3.0, -3.0], [-4.0, -1.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """

    dim: int
    radius: float = 1.0
    formula = "x ≥ 0, ‖x‖₂ = radius along dim"
    convex = False
    metric = "group"

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        n = self._length(x)
        x = x.movedim(self.dim, -1)
        first = _leading(x, 1).to(x.dtype)
        up = torch.where((x > 0).any(-1, keepdim=True), x.clamp(min=0), first)
        return _to_length(up, n, -1, self.radius).movedim(-1, self.dim)


class _Groups(Along):
    """Operators on the norms of the slices along ``dim``, which they couple over a second dim."""

    over: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over is None:
            return
        if isinstance(self.over, bool) or not hasattr(self.over, "__index__"):
            raise TypeError(f"over of {type(self).__name__} is {self.over!r}; a whole number is needed, or None for the other dim")
        object.__setattr__(self, "over", int(self.over))
        if self.over == self.dim:
            self._refuse()

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._differ(2)

    def _differ(self, ndim: int) -> None:
        dim, over = self.dims
        if dim % ndim == over % ndim:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(f"{self!r} takes norms along one dim and couples them over another; dim and over are the same")

    @property
    def dims(self) -> tuple[int, ...]:
        return (self.dim, self.dim ^ 1 if self.over is None else self.over)


@dataclass(frozen=True, eq=False, repr=False)
class GroupL1Ball(_Groups):
    """Few slices that are not zero, by a bounded sum of their norms: g = 0 where Σ ‖slice‖ ≤ radius, the L1,2 ball.

    The slices lie along ``dim``, and the sum runs over the dim ``over`` (in a matrix the other one). prox(x) scales each
    slice to the norm that L1Ball gives it. Raises ValueError where radius is not positive and finite.

    >>> GroupL1Ball(dim=1, radius=2.0)(torch.tensor([[3.0, 4.0], [0.0, -4.0]]))
    tensor([[ 0.9000,  1.2000],
            [ 0.0000, -0.5000]])
    """

    dim: int
    radius: float = 1.0
    over: int | None = None
    formula = "Σ‖slice‖₂ ≤ radius"
    cost = "n log n"
    metric = "group"
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "radius")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._differ(x.ndim)
        if x.numel() == 0:
            return x.clone()
        dim, over = self.dims
        norm = _norm(x, dim)
        bounded = L1Ball(over, self.radius)._prox(norm, 1.0)
        scaled = x * (bounded / torch.where(norm > 0, norm, 1.0))
        return torch.where(norm.sum(over, keepdim=True) <= self.radius, x, scaled)


@dataclass(frozen=True, eq=False, repr=False)
class GroupTopK(_Groups):
    """At most k slices that are not zero: g = 0 there, prox(x) keeps the k slices with the largest Σ x² / step.

    The slices lie along ``dim`` and are counted over the dim ``over`` (in a matrix the other one); of equal ones the first
    is kept. Raises ValueError for a k below 1.

    >>> GroupTopK(dim=1, k=1)(torch.tensor([[3.0, 4.0], [0.0, -4.0]]))
    tensor([[3., 4.],
            [0., 0.]])
    """

    dim: int
    k: int
    over: int | None = None
    formula = "#{slice ≠ 0} ≤ k"
    cost = "n log n"
    convex = False
    metric = "weighted"
    cone = True
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "k")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._differ(x.ndim)
        if x.numel() == 0:
            return x.clone()
        back, ends = self.dims, (-1, -2)
        whole = x.movedim(back, ends).flatten(-2)
        if isinstance(step, Tensor) and step.numel() > 1:
            step = step.expand(x.shape).movedim(back, ends).flatten(-2)
        score = _norm(_score(whole, relative(whole, step, -1)).reshape(x.movedim(back, ends).shape), -1)
        return torch.where(_leading(score.squeeze(-1), self.k).unsqueeze(-1).movedim(ends, back), x, 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class TopK(Along):
    """At most k entries that are not zero along a dim: g = 0 there, prox(x) keeps the k entries with the largest x² / step.

    Of equal ones the first is kept. (The projection of iterative hard thresholding: Blumensath and Davies 2009.)
    Raises ValueError for a k below 1.

    >>> TopK(dim=0, k=1)(torch.tensor([1.0, -3.0, 2.0]))
    tensor([ 0., -3.,  0.])
    """

    dim: int
    k: int
    alias = "l0ball"
    formula = "#{x ≠ 0} ≤ k along dim"
    cost = "n log n"
    convex = False
    metric = "weighted"
    cone = True
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "k")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.shape[self.dim] == 0:
            return x.clone()
        s, laid = relative(x, step, self.dim), x.movedim(self.dim, -1)
        if s.shape[-1] == 1 and not x.is_complex() and not (x.requires_grad and torch.is_grad_enabled()) and large(x):
            from ._balls_numba import keep_largest

            return keep_largest(laid, self.k).movedim(-1, self.dim)
        return torch.where(_leading(_score(laid, s), self.k).movedim(-1, self.dim), x, 0.0)


@dataclass(frozen=True, eq=False, repr=False)
class NofM(Along):
    """N:M sparsity, as tensor cores read it: of each m entries in a row along a dim at most n are not zero.

    prox(x) keeps the n entries of a block with the largest x² / step, of equal ones the first. (Mishra and others 2021.)
    Raises ValueError unless 1 ≤ n ≤ m, and for a length that m does not divide.

    >>> NofM(dim=0, n=1, m=2)(torch.tensor([1.0, -3.0, 2.0, 1.0]))
    tensor([ 0., -3.,  2.,  0.])
    """

    dim: int
    n: int = 2
    m: int = 4
    formula = "#{x ≠ 0} ≤ n of each m along dim"
    convex = False
    metric = "weighted"
    cone = True
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "n")
        whole(self, "m")
        if self.n > self.m:
            raise ValueError(f"NofM keeps n={self.n} of each m={self.m} entries; n must be at most m")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._divides(x.shape[self.dim], "x", tuple(x.shape))
        if x.shape[self.dim] == 0:
            return x.clone()
        score = _score(x.movedim(self.dim, -1), relative(x, step, self.dim))
        keep = _leading(score.unflatten(-1, (score.shape[-1] // self.m, self.m)), self.n).flatten(-2)
        return torch.where(keep.movedim(-1, self.dim), x, 0.0)

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._divides(shape[self.dim], name, tuple(shape))

    def _divides(self, length: int, name: str, shape: tuple[int, ...]) -> None:
        if length % self.m:
            way = "choose an m that divides it, or pad with zeros"
            raise ValueError(f"{self!r} on {name} of shape {shape}: m={self.m} does not divide the length {length} of dim; {way}")


@dataclass(frozen=True, eq=False, repr=False)
class Hoyer(Along):
    """Slices of a given sparseness without entries below zero: g = 0 where x ≥ 0 and Σ x = c ‖x‖ along a dim.

    sparseness runs from 0, all entries equal, to 1, a single entry: c = √n - sparseness (√n - 1). With a radius the norm is
    given too, ‖x‖ = radius. The set without one is a cone that holds 0. prox(x) = u max(⟨u, x⟩, 0), where u is
    max(x - τ, 0) scaled to the norm 1, and τ gives the sum c; it is exact: u solves the convex problem of the largest ⟨u, x⟩
    where Σ u = c, ‖u‖ ≤ 1. Where the largest entries are equal and too many, the first of them gets a larger share.
    (Sparseness: Hoyer 2004; exact projections: Thom and Palm 2013.)
    Raises ValueError for a sparseness outside [0, 1], or a radius that is not positive and finite.

    >>> Hoyer(dim=0, sparseness=1.0)(torch.tensor([3.0, -4.0, 1.0]))
    tensor([3., 0., 0.])
    """

    dim: int
    sparseness: float
    radius: float | None = None
    formula = "x ≥ 0, Σx = c‖x‖₂ along dim"
    cost = "n log n"
    convex = False
    metric = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        given = array(self.sparseness, "sparseness of Hoyer")
        if given.ndim or not 0 <= given.item() <= 1:
            raise ValueError(f"sparseness of Hoyer is {self.sparseness}; it must be one number from 0 (all equal) to 1 (one entry)")
        object.__setattr__(self, "sparseness", given.item())
        if self.radius is not None:
            _positive(self, "radius")

    @property
    def cone(self) -> bool:  # type: ignore[override]
        return self.radius is None

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        root = math.sqrt(self._length(x))
        x = x.movedim(self.dim, -1)
        u = _sparse_direction(x, root - self.sparseness * (root - 1))
        length = (u * x).sum(-1, keepdim=True).clamp(min=0) if self.radius is None else self.radius
        return (u * length).movedim(-1, self.dim)


def _sparse_direction(x: Tensor, c: float) -> Tensor:
    """The u ≥ 0 with ‖u‖ = 1 and Σ u = c along the last dim that has the largest ⟨u, x⟩, for 1 ≤ c ≤ √n.

    u = (x - τ)₊ / ‖(x - τ)₊‖. On its support of k entries it has the mean c/k, and its deviations from it are those of x
    scaled to the sum of squares 1 - c²/k. The support is the smallest leading part whose sum is at least c times its norm
    once τ is the next entry.
    """
    n = x.shape[-1]
    c2 = min(max(c, 1.0), math.sqrt(n)) ** 2
    w = x - x.detach().amax(-1, keepdim=True)  # u does not change when x is shifted or scaled
    size = w.detach().abs().amax(-1, keepdim=True)
    w = w / torch.where(size > 0, size, 1.0)
    order = w.detach().argsort(dim=-1, descending=True, stable=True)
    led, count = w.gather(-1, order), torch.arange(1, n + 1, device=x.device)
    with torch.no_grad():
        k, sums, squares, then = count[:-1], led.cumsum(-1)[..., :-1], led.square().cumsum(-1)[..., :-1], led[..., 1:]
        total, norm2 = sums - k * then, squares - 2 * then * sums + k * then.square()
        k = 1 + ((total.square() < c2 * norm2) | (norm2 <= 0)).sum(-1, keepdim=True)
    tied = led[..., :1] == led.gather(-1, k - 1)
    held, k = count <= k, k.to(x.dtype)
    spare = (1 - c2 / k).clamp(min=0)
    led = torch.where(held, torch.where(tied & (spare > 0), (count == 1).to(x.dtype), led), 0.0)
    away = torch.where(held, led - led.sum(-1, keepdim=True) / k, 0.0)
    spread = away.square().sum(-1, keepdim=True)
    u = torch.where(held, c2**0.5 / k + away * (spare.sqrt() / torch.where(spread > 0, spread, 1.0).sqrt()), 0.0)
    return torch.zeros_like(x).scatter(-1, order, u.clamp(min=0))


@dataclass(frozen=True, eq=False, repr=False)
class SecondOrderCone(Along):
    """The ice-cream cone: g = 0 where ‖w‖ ≤ slope · t for the first entry t of a slice along a dim and the others, w.

    prox(t, w) = a (1, slope w / ‖w‖) with a = (t + slope ‖w‖) / (1 + slope²) between the cone, which stays, and its polar,
    -t ≥ slope ‖w‖, which goes to 0. slope is the tangent of the angle at the apex, from the axis on.
    Raises ValueError where slope is not positive and finite.

    >>> SecondOrderCone(dim=0)(torch.tensor([0.0, 3.0, 4.0]))
    tensor([2.5000, 1.5000, 2.0000])
    """

    dim: int
    slope: float = 1.0
    alias = "soc"
    formula = "‖(x₂, …)‖₂ ≤ slope · x₁ along dim"
    metric = "group"
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "slope")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._length(x)
        x = x.movedim(self.dim, -1)
        y, inside = _second_order(x, self.slope)
        return torch.where(inside, x, y).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class RotatedCone(Along):
    """The rotated cone: g = 0 where 2 u v ≥ ‖w‖², u ≥ 0, v ≥ 0 for slices (u, v, w) along a dim.

    ((u + v)/√2, (u - v)/√2, w) lies in the SecondOrderCone, and the change of coordinates is a rotation.
    Raises ValueError for slices of fewer than 2 entries.

    >>> RotatedCone(dim=0)(torch.tensor([0.0, 0.0, 2.0]))
    tensor([0.7071, 0.7071, 1.0000])
    """

    dim: int
    formula = "2 x₁x₂ ≥ ‖(x₃, …)‖₂² along dim"
    metric = "group"
    cone = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        _least(self, x.shape[self.dim], 2, "x", tuple(x.shape))
        x = x.movedim(self.dim, -1)
        y, inside = _second_order(_turned(x))
        return torch.where(inside, x, _turned(y)).movedim(-1, self.dim)

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        _least(self, shape[self.dim], 2, name, tuple(shape))


def _turned(x: Tensor) -> Tensor:
    u, v = x[..., :1] * math.sqrt(0.5), x[..., 1:2] * math.sqrt(0.5)
    return torch.cat([u + v, u - v, x[..., 2:]], -1)


def _second_order(x: Tensor, slope: float = 1.0) -> tuple[Tensor, Tensor]:
    """The nearest point of the second-order cone to what lies outside it, and whether x lies inside; the last dim."""
    t, w = x[..., :1], x[..., 1:]
    norm = _norm(w, -1) if w.shape[-1] else torch.zeros_like(t)
    c, s = 1 / math.hypot(1, slope), 1 / math.hypot(1, 1 / slope)  # of the angle at the apex
    far = (c * t + s * norm).clamp(min=0)  # along the side of the cone
    return torch.cat([c * far, w * (s * far / torch.where(norm > 0, norm, 1.0))], -1), norm <= slope * t


@dataclass(frozen=True, eq=False, repr=False)
class ExponentialCone(Along):
    """The exponential cone: g = 0 where s exp(r/s) ≤ t, s > 0 (or s = 0, r ≤ 0, t ≥ 0) for slices (r, s, t) along a dim.

    A point outside the cone and its polar goes to a (ρ, 1, exp(ρ)), where ρ is the root of an increasing function, found by
    bisection (Friberg 2023 on this function). Raises ValueError for slices that have not 3 entries.

    >>> ExponentialCone(dim=0)(torch.tensor([1.0, 0.0, 1.0]))
    tensor([0.3900, 0.2703, 1.1441])
    """

    dim: int
    alias = "expcone"
    formula = "x₂ exp(x₁/x₂) ≤ x₃ along dim"
    metric = "group"
    cone = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._three(x.shape[self.dim], "x", tuple(x.shape))
        x = x.movedim(self.dim, -1)
        size = x.detach().abs().amax(-1, keepdim=True).double()
        size = torch.where(size > 0, size, 1.0)
        r, s, t = (x.double() / size).unbind(-1)
        flat, up = (r <= 0) & (s <= 0), torch.where(s > 0, s, 1.0)
        inside = torch.where(s > 0, s * torch.exp(r / up) <= t, (s == 0) & (r <= 0) & (t >= 0))
        right = torch.where(r > 0, r, 1.0)
        polar = (r > 0) & (right * torch.exp((s / right - 1).clamp(max=700)) <= -t)
        odd = flat | inside | polar  # what needs no root gets one that is easy
        r, s, t = torch.where(odd, 1.0, r), torch.where(odd, 0.0, s), torch.where(odd, 1.0, t)
        rho = _exponential_root(r, s, t)
        a, b, _ = _exponential_parts(rho, r, s)
        third = torch.where(rho < 0, a * torch.exp(rho.clamp(max=0)), t + b * torch.exp(-rho.clamp(min=0)))
        y = torch.stack([a * rho, a, third.clamp(min=0)], -1) * size
        edge = torch.stack([x[..., 0], torch.zeros_like(x[..., 1]), x[..., 2].clamp(min=0)], -1)
        y = torch.where(flat[..., None], edge, torch.where(polar[..., None], 0.0, y))
        return torch.where(inside[..., None], x, y.to(x.dtype)).movedim(-1, self.dim)

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._three(shape[self.dim], name, tuple(shape))

    def _three(self, length: int, name: str, shape: tuple[int, ...]) -> None:
        if length != 3:
            raise ValueError(f"{self!r} on {name} of shape {shape}: dim has length {length}, slices (r, s, t) of 3 are needed")


def _exponential_parts(rho: Tensor, r: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(r, s) = a (1·ρ, 1) + b (1, 1 - ρ): the shares in the cone and its polar, and 1 - ρ + ρ²."""
    q = rho * rho - rho + 1
    return ((s - (1 - rho) * r) / q).clamp(min=0), ((r - rho * s) / q).clamp(min=0), q


def _exponential_root(r: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """ρ with a exp(ρ) - b exp(-ρ) = t, between the places where a and b vanish."""
    far = 1e150

    def height(rho: Tensor) -> Tensor:
        a, b, _ = _exponential_parts(rho, r, s)
        e = torch.exp(rho.clamp(-700, 700))
        return a * e - b / e - t

    def slope(rho: Tensor) -> Tensor:
        a, b, q = _exponential_parts(rho, r, s)
        e, d = torch.exp(rho.clamp(-700, 700)), 2 * rho - 1
        up = ((r - a * d) / q + a) * e + ((s + b * d) / q + b) / e
        return torch.where(up > 0, up, math.inf)

    with torch.no_grad():
        low = torch.where(r > 0, 1 - s / torch.where(r > 0, r, 1.0), -math.inf).clamp(min=-far, max=far)
        high = torch.where(s > 0, r / torch.where(s > 0, s, 1.0), math.inf).clamp(min=-far, max=far)
        low, high = (
            torch.where(r > 0, low, torch.minimum(2 * high - 1, torch.full_like(high, -800.0))),
            torch.where(s > 0, high, torch.maximum(2 * low + 1, torch.full_like(low, 800.0))),
        )
        for _ in range(60):
            middle = low / 2 + high / 2
            above = height(middle) > 0
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        rho = low / 2 + high / 2
        for _ in range(2):
            rho = torch.minimum(torch.maximum(rho - height(rho) / slope(rho), low), high)
        rise = slope(rho)
    gap = height(rho)
    return rho - (gap - gap.detach()) / rise  # which changes nothing but carries the gradient


def _norm(x: Tensor, dim: int) -> Tensor:
    """The Euclidean norm along dim, which stays: without overflow, and with gradient 0 at 0."""
    size = x.detach().abs().amax(dim, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    return size * torch.linalg.vector_norm(x / size, dim=dim, keepdim=True)


def _to_length(x: Tensor, n: int, dim: int, radius: float) -> Tensor:
    """radius x / ‖x‖, and equal entries where x is 0."""
    size = x.detach().abs().amax(dim, keepdim=True)
    x = torch.where(size > 0, x / torch.where(size > 0, size, 1.0), 1.0)
    return x * (radius / torch.linalg.vector_norm(x, dim=dim, keepdim=True))


def _score(x: Tensor, s: Tensor) -> Tensor:
    """|x| / √step up to a factor, along the last dim: what is lost by setting an entry to 0."""
    size = x.detach().abs()
    if s.shape[-1] == 1:
        return size
    most = size.amax(-1, keepdim=True)
    return size / torch.where(most > 0, most, 1.0) / s.sqrt()


def _leading(score: Tensor, k: int) -> Tensor:
    """Where the k largest entries along the last dim are; of equal ones the first."""
    order = score.detach().argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order, True)


def _positive(op: Prox, name: str, zero: bool = False) -> None:
    what = f"{name} of {type(op).__name__}"
    value = array(getattr(op, name), what)
    if value.ndim or not (0 < value.item() < math.inf or (zero and value.item() == 0)):
        wanted = "finite and at least 0" if zero else "positive and finite"
        raise ValueError(f"{what} is {getattr(op, name)}; it must be one number, {wanted}")
    object.__setattr__(op, name, value.item())


def _least(op: Prox, length: int, least: int, name: str, shape: tuple[int, ...]) -> None:
    if length < least:
        raise ValueError(f"{op!r} on {name} of shape {shape}: slices of {least} entries or more are needed, they have {length}")
