"""Norms as penalties, of a whole tensor or of each slice along a dim: short lengths, low peaks, few large entries."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Along, Prox, Step, array, store, times
from .order import isotonic
from .simplices import project_simplex


@dataclass(frozen=True, eq=False, repr=False)
class L2(Prox):
    """A short vector: g = λ ‖x‖₂ of the whole tensor, prox(x) = max(1 - step λ / ‖x‖₂, 0) x.

    With a tensor of steps prox(x) = x r / (r + step λ), where r is the root of ‖x / (r + step λ)‖₂ = 1, or 0 where there is
    none: a Newton iteration that comes from below. λ ≥ 0 is a number. GroupLasso is the same for each slice or group.

    >>> L2(1.0)(torch.tensor([3.0, 4.0]), 2.5)
    tensor([1.5000, 2.0000])
    """

    lam: float = 1.0
    formula = "λ ‖x‖₂"
    is_set = False
    cone = True
    metric = "weighted"
    dims = None
    complex = True

    def __post_init__(self) -> None:
        weight(self, "lam")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return _flat(x, times(step, self.lam), shrink) if x.numel() else x.clone()

    def value(self, x: Tensor) -> Tensor:
        return self.lam * length(double(x).reshape(-1))[0] if x.numel() else nothing(x)


@dataclass(frozen=True, eq=False, repr=False)
class L2Cubed(Prox):
    """Cubic regularisation: g = λ/3 ‖x‖₂³ of the whole tensor, prox(x) = 2 x / (1 + √(1 + 4 step λ ‖x‖₂)).

    With a tensor of steps prox(x) = x / (1 + step λ r), where r is the length of the result, the root of a secular
    equation. λ ≥ 0 is a number. (Nesterov and Polyak 2006, for the penalty.)

    >>> L2Cubed(1.0)(torch.tensor([3.0, 4.0]), 4.0)
    tensor([0.6000, 0.8000])
    """

    lam: float = 1.0
    formula = "λ/3 ‖x‖₂³"
    is_set = False
    cone = True
    metric = "weighted"
    dims = None
    complex = True

    def __post_init__(self) -> None:
        weight(self, "lam")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return _flat(x, times(step, self.lam), _cubed) if x.numel() else x.clone()

    def value(self, x: Tensor) -> Tensor:
        return self.lam / 3 * length(double(x).reshape(-1))[0] ** 3 if x.numel() else nothing(x)


class Slices(Along):
    """A penalty along ``dim``: ``_solve`` gets x with the dim last, and step λ (or the step, if it has no λ) laid out alike."""

    lam: float
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        weight(self, "lam")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if not x.numel():
            return x.clone()
        t = filled(x, times(step, self.lam))
        return self._solve(x.movedim(self.dim, -1), t.movedim(self.dim, -1)).movedim(-1, self.dim)

    @abstractmethod
    def _solve(self, x: Tensor, t: Tensor) -> Tensor: ...

    def value(self, x: Tensor) -> Tensor:
        return self.lam * self._size(double(x).movedim(self.dim, -1)).sum() if x.numel() else nothing(x)

    @abstractmethod
    def _size(self, x: Tensor) -> Tensor:
        """g / λ of each slice along the last dim."""


@dataclass(frozen=True, eq=False, repr=False)
class LInf(Slices):
    """Low peaks: g = λ max |x| along a dim, prox(x) = sign(x) min(|x|, θ) with θ such that Σ max(|x| - θ, 0) / step = λ.

    θ is 0 where Σ |x| / step ≤ λ (the Moreau partner of the L1 ball, in the metric too). λ ≥ 0 is a number; the sum over
    the other dims is the mixed norm L∞,1.

    >>> LInf(0, lam=2.0)(torch.tensor([4.0, -3.0, 1.0]))
    tensor([ 2.5000, -2.5000,  1.0000])
    """

    dim: int
    lam: float = 1.0
    formula = "λ max|x| along dim"
    cost = "n log n"
    metric = "weighted"
    complex = True

    def _solve(self, x: Tensor, t: Tensor) -> Tensor:
        a = x.abs()
        if t.shape[-1] > 1:
            return x * share(clipped(a, t, level(a, t, 1, 0.0)), a)
        theta = peak(a, t).clamp(min=0)
        y = x * share(torch.minimum(a, theta), a) if x.is_complex() else x.clamp(-theta, theta)
        return torch.where(theta > 0, y, 0.0) if y.requires_grad else y  # no gradient where the whole slice is 0

    def _size(self, x: Tensor) -> Tensor:
        return x.abs().amax(-1)


@dataclass(frozen=True, eq=False, repr=False)
class Max(Slices):
    """A low maximum: g = λ max x along a dim, prox(x) = min(x, θ) with θ such that Σ max(x - θ, 0) / step = λ.

    The Moreau partner of the simplex. Not bounded below unless λ is 0: an infinite step is refused. λ ≥ 0 is a number.

    >>> Max(0, lam=2.0)(torch.tensor([4.0, 3.0, 1.0]))
    tensor([2.5000, 2.5000, 1.0000])
    """

    dim: int
    lam: float = 1.0
    formula = "λ max x along dim"
    cost = "n log n"
    metric = "weighted"
    attained = property(lambda self: self.lam == 0)

    def _solve(self, x: Tensor, t: Tensor) -> Tensor:
        return x.clamp(max=peak(x, t)) if t.shape[-1] == 1 else clipped(x, t, level(x, t, 1))

    def _size(self, x: Tensor) -> Tensor:
        return x.amax(-1)


@dataclass(frozen=True, eq=False, repr=False)
class Range(Slices):
    """Entries that lie close together: g = λ (max x - min x) along a dim, prox(x) clips both ends, or gives the mean.

    Each end gives way until Σ |x - y| / step is λ there; where the ends would cross, the slice becomes its mean, weighted by
    1 / step. λ ≥ 0 is a number.

    >>> Range(0)(torch.tensor([4.0, 1.0, 0.0]))
    tensor([3., 1., 1.])
    """

    dim: int
    lam: float = 1.0
    formula = "λ (max x - min x) along dim"
    cost = "n log n"
    metric = "weighted"

    def _solve(self, x: Tensor, t: Tensor) -> Tensor:
        w = torch.where((t == math.inf).all(-1, keepdim=True), 1.0, inverse(t, t > 0)).expand(x.shape)
        middle = x.detach().mean(-1, keepdim=True)
        middle = middle + share(((x - middle) * w).sum(-1, keepdim=True), w.sum(-1, keepdim=True))
        pull = torch.where(x > middle, (x - middle) / t, 0.0).sum(-1, keepdim=True)
        down, up = clipped(x, t, level(x, t, 1)), -clipped(-x, t, level(-x, t, 1))
        flat = (pull <= 1) & ((t > 0) | (x == middle)).all(-1, keepdim=True)
        return torch.where(flat, middle, torch.where(down < x, down, up))

    def _size(self, x: Tensor) -> Tensor:
        return x.amax(-1) - x.amin(-1)


@dataclass(frozen=True, eq=False, repr=False)
class SumLargest(Slices):
    """A small sum of the k largest entries: g = λ Σ of them along a dim, prox(x) = x - min(max(x - θ, 0), step λ).

    θ is such that Σ min(max(x - θ, 0) / (step λ), 1) = k: the Moreau partner of the capped simplex. k = 1 is Max; of a slice
    with fewer than k entries all are summed. Not bounded below unless λ is 0: an infinite step is refused. λ ≥ 0 is a number.

    >>> SumLargest(0, k=2)(torch.tensor([4.0, 2.0, 1.8, 0.0]))
    tensor([3.0000, 1.4000, 1.4000, 0.0000])
    """

    dim: int
    k: int
    lam: float = 1.0
    formula = "λ Σ of the k largest x along dim"
    cost = "n log n"
    metric = "weighted"
    attained = property(lambda self: self.lam == 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        count(self, "k")

    def _solve(self, x: Tensor, t: Tensor) -> Tensor:
        return clipped(x, t, level(x, t, self.k))

    def _size(self, x: Tensor) -> Tensor:
        return x.topk(min(self.k, x.shape[-1]), -1).values.sum(-1)


@dataclass(frozen=True, eq=False, repr=False)
class SumLargestAbs(Slices):
    """A small sum of the k largest magnitudes (Ky Fan's norm of a vector): g = λ Σ of the k largest |x| along a dim.

    prox(x) = sign(x) (|x| - min(max(|x| - θ, 0), step λ)), with θ ≥ 0 as in SumLargest, or 0: soft thresholding. k = 1 is
    LInf, k = n is L1. λ ≥ 0 is a number.

    >>> SumLargestAbs(0, k=2)(torch.tensor([-4.0, 2.0, 1.8, 0.0]))
    tensor([-3.0000,  1.4000,  1.4000,  0.0000])
    """

    dim: int
    k: int
    lam: float = 1.0
    alias = "kyfan_vector"
    formula = "λ Σ of the k largest |x| along dim"
    cost = "n log n"
    metric = "weighted"
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        count(self, "k")

    def _solve(self, x: Tensor, t: Tensor) -> Tensor:
        a = x.abs()
        return x * share(clipped(a, t, level(a, t, self.k, 0.0)), a)

    def _size(self, x: Tensor) -> Tensor:
        return x.abs().topk(min(self.k, x.shape[-1]), -1).values.sum(-1)


@dataclass(frozen=True, eq=False, repr=False)
class KSupport(Slices):
    """About k entries that are not zero, with less bias than L1: g = λ/2 (the k-support norm)² of each slice along a dim.

    Its unit ball is the hull of the vectors with at most k entries and length 1; ‖x‖² = min Σ x² / θ over 0 ≤ θ ≤ 1 with
    Σ θ ≤ k, so that prox(x) = x θ / (θ + step λ) with θ = min(max(α |x| - step λ, 0), 1) and α such that Σ θ = k. k = 1 is
    ExclusiveLasso, k = n is L2Squared. λ ≥ 0 is a number. (Argyriou, Foygel and Srebro 2012; McDonald, Pontil and Stamos
    2014, for the form with θ.)

    >>> KSupport(0, k=1)(torch.tensor([4.0, 2.0, 0.5]))
    tensor([2., 0., 0.])
    """

    dim: int
    k: int
    lam: float = 1.0
    formula = "λ/2 ‖x‖² (k-support) along dim"
    cost = "n log n"
    metric = "weighted"
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        count(self, "k")

    def _solve(self, x: Tensor, t: Tensor) -> Tensor:
        shares, t = self._shares(x.abs(), t), t.expand(x.shape)
        free = t == math.inf
        total = shares + torch.where(free, 0.0, t)
        none = total == 0
        return x * torch.where(free, 0.0, torch.where(none, 1.0, shares / torch.where(none, 1.0, total)))

    def _shares(self, a: Tensor, t: Tensor) -> Tensor:
        """θ, by β = 1/α: Σ min(max(|x| / β - t, 0), 1) falls with β, and changes its form where |x| = t β or (1 + t) β."""
        t = t.expand(a.shape)
        few = ((a > 0) & (t < math.inf)).sum(-1, keepdim=True) <= self.k  # each has its full share

        def enough(beta: Tensor) -> Tensor:
            return (a / beta - t).nan_to_num(0.0).clamp(0, 1).sum(-1, keepdim=True) >= self.k

        top = a.amax(-1, keepdim=True) * a.shape[-1]
        ends = torch.cat([share(a, t), a / (1 + t), top], -1)
        low, high = between(torch.minimum(ends, top), enough)
        with torch.no_grad():
            beta = low / 2 + high / 2
            full = (a / beta - t).nan_to_num(0.0) >= 1
            part = (a > t * beta).logical_and(~full) & (t < math.inf)
        left = self.k - full.sum(-1, keepdim=True) + torch.where(part, t, 0.0).sum(-1, keepdim=True)
        beta = torch.where(part, a, 0.0).sum(-1, keepdim=True) / torch.where(left > 0, left, 1.0)
        beta = torch.minimum(torch.maximum(beta, low), high)
        some = (a / torch.where(beta > 0, beta, 1.0) - torch.where(part, t, 0.0)).clamp(0, 1)
        return torch.where(few | full, 1.0, torch.where(part, some, 0.0))

    def _size(self, x: Tensor) -> Tensor:
        a = x.abs()
        shares = self._shares(a, torch.zeros_like(a[..., :1]))
        return (a * torch.where(a > 0, a / torch.where(shares > 0, shares, 1.0), 0.0)).sum(-1) / 2


@dataclass(frozen=True, eq=False, repr=False)
class Slope(Slices):
    """The sorted L1 norm (SLOPE, OWL): g = Σ λ_i |x|_(i) along a dim, the largest magnitude paying the first weight.

    prox: sort the magnitudes, subtract step λ, take the non-increasing fit and clip at 0. ``lams`` is a tuple or a tensor
    of weights, one for each entry of a slice, not increasing and not negative. (Bogdan et al. 2015; Zeng and Figueiredo 2014.)

    >>> Slope(0, lams=(2.0, 1.0, 0.0))(torch.tensor([-4.0, 3.5, 1.0]))
    tensor([-2.2500,  2.2500,  1.0000])
    """

    dim: int
    lams: tuple[float, ...] | Tensor
    lam = 1.0
    alias = "owl"
    formula = "Σ λ_i |x|_(i) along dim"
    cost = "n log n"
    metric = "group"
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        lams = array(self.lams, "lams of Slope")
        if lams.ndim != 1 or not len(lams) or bool((lams.diff() > 0).any()) or not 0 <= lams[-1] <= lams[0] < math.inf:
            raise ValueError(
                f"lams of Slope is {self.lams}; a non-increasing row of weights is needed, finite and at least 0, "
                "one for each entry of a slice, e.g. (2.0, 1.0, 0.5)"
            )
        object.__setattr__(self, "lams", lams if isinstance(self.lams, Tensor) else tuple(lams.tolist()))

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())  # lams lies along dim: no other dim takes a part of it

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        fitting(self, len(self.lams), shape[self.dim], shape, name)

    def _solve(self, x: Tensor, t: Tensor) -> Tensor:
        fitting(self, len(self.lams), x.shape[-1], tuple(x.movedim(-1, self.dim).shape))
        a, order = x.abs().sort(-1, descending=True)
        lams = self._weights(a)
        enough = 2 * a.detach().sum(-1, keepdim=True) / torch.where(lams[0] > 0, lams[0], 1.0)  # such a step leaves nothing
        y = -isotonic(torch.minimum(t, enough) * lams - a)
        return x * share(y.clamp(min=0).gather(-1, order.argsort(-1)), x.abs())

    def _weights(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.lams, dtype=x.dtype, device=x.device)

    def _size(self, x: Tensor) -> Tensor:
        fitting(self, len(self.lams), x.shape[-1], tuple(x.movedim(-1, self.dim).shape))
        a = x.abs().sort(-1, descending=True).values
        return (a * self._weights(a)).sum(-1)


@dataclass(frozen=True, eq=False, repr=False)
class L1MinusL2(Slices):
    """Few entries that are not zero, without L1's bias: g = λ (‖x‖₁ - ‖x‖₂) along a dim, which is not convex.

    prox(x) = (1 + step λ / ‖z‖₂) z with z = sign(x) max(|x| - step λ, 0); where z is 0, the largest entry alone stays. A
    slice with one entry costs nothing. λ ≥ 0 is a number. (Lou and Yan 2018.)

    >>> L1MinusL2(0)(torch.tensor([3.0, -0.5])), L1MinusL2(0)(torch.tensor([0.8, -0.5]))
    (tensor([3., -0.]), tensor([0.8000, 0.0000]))
    """

    dim: int
    lam: float = 1.0
    alias = "l1l2"
    formula = "λ (‖x‖₁ - ‖x‖₂) along dim"
    convex = False
    metric = "group"
    complex = True

    def _solve(self, x: Tensor, t: Tensor) -> Tensor:
        a = x.abs()
        z = (a - t).clamp(min=0)
        size = length(z)
        none = size == 0
        longer = torch.where(none, 0.0, z * (1 + torch.where(none, 0.0, t) / torch.where(none, 1.0, size)))
        first = torch.zeros_like(a, dtype=torch.bool).scatter(-1, a.argmax(-1, keepdim=True), True)
        return torch.where(none, torch.where(first, x, 0.0), x * share(longer, a))

    def _size(self, x: Tensor) -> Tensor:
        return x.abs().sum(-1) - length(x)[..., 0]


# ── what norms and groups share; slices lie along the last dim, and t is step λ ───────────────────────────────────────


def shrink(x: Tensor, t: Tensor) -> Tensor:
    """The prox of the Euclidean norm of each slice: x r / (r + t), with ‖x / (r + t)‖ = 1."""
    a = x.abs()
    if t.shape[-1] == 1:
        r = (length(a) - t).clamp(min=0)
    else:
        with torch.no_grad():
            r = (a - t).amax(-1, keepdim=True).clamp(min=0)  # no quotient is above 1 from here on
            for _ in range(12):
                r = _longer(a, t, r)
        r = _longer(a, t, r)  # once more, for the gradient
    return x * share(r, r + t, 1.0)


def _longer(a: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """A Newton step for 1 / ‖a / (r + t)‖ = 1: this is concave in r, so that from below no step goes too far."""
    q = share(a, r + t)
    size = length(q)
    with torch.no_grad():
        slope = share(q.square(), r + t).sum(-1, keepdim=True)
        rate = torch.where(slope > 0, size.square() / torch.where(slope > 0, slope, 1.0), 0.0)
    return (r + (size - 1) * rate).clamp(min=0)


def _cubed(x: Tensor, t: Tensor) -> Tensor:
    free = t == math.inf
    a, t = torch.where(free, 0.0, x.abs()), torch.where(free, 0.0, t)
    r = torch.zeros_like(a[..., :1])
    with torch.no_grad():
        for _ in range(0 if t.shape[-1] == 1 else 25):
            r = _cubic(a, t, r)
    return torch.where(free, 0.0, x / (1 + t * _cubic(a, t, r)))


def _cubic(a: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """r / ‖a / (1 + t r)‖ = 1 with the second factor, concave in r, taken for its tangent: exact where t is one number."""
    q = a / (1 + t * r)
    size = length(q)
    with torch.no_grad():
        bend = (share(q, size).square() * t / (1 + t * r)).sum(-1, keepdim=True)
        rest = 1 - bend * r
    return 2 * size / (rest + (rest.square() + 4 * bend * size).sqrt())


def length(x: Tensor) -> Tensor:
    """‖x‖₂ of each slice, scaled against overflow; the gradient at 0 is 0."""
    most = x.detach().abs().amax(-1, keepdim=True)
    most = torch.where((most > 0) & most.isfinite(), most, 1.0)
    return most * torch.linalg.vector_norm(x / most, dim=-1, keepdim=True)


def share(part: Tensor, whole: Tensor, empty: float = 0.0) -> Tensor:
    """part / whole, and ``empty`` where whole is 0, with gradients that are numbers there too."""
    none = whole == 0
    return torch.where(none, empty, part / torch.where(none, 1.0, whole))


def inverse(t: Tensor, where: Tensor) -> Tensor:
    """1 / t up to a factor of each slice that keeps it in [0, 1]: 0 for an infinite t, and where it is not asked for."""
    used = where & (t > 0) & (t < math.inf)
    least = torch.where(used, t, math.inf).amin(-1, keepdim=True)
    return torch.where(used, torch.where(used, least, 1.0) / torch.where(used, t, 1.0), 0.0)


def between(ends: Tensor, enough: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The two neighbours among the ends of each slice where ``enough``, true for small numbers, becomes false."""
    ends = ends.sort(-1).values
    n = ends.shape[-1]
    low = torch.zeros_like(ends[..., :1], dtype=torch.long)
    high = torch.full_like(low, n)
    for _ in range(n.bit_length()):
        middle = (low + high) // 2
        up = enough(ends.gather(-1, middle)) & (middle > low)
        low, high = torch.where(up, middle, low), torch.where(up, high, torch.maximum(middle, low + 1))
    return ends.gather(-1, low), ends.gather(-1, high.clamp(max=n - 1))


def level(x: Tensor, t: Tensor, k: int, floor: float | None = None) -> Tensor:
    """The θ of each slice with Σ min(max(x - θ, 0) / t, 1) = k, not below the floor; an entry counts 0 or 1 where t is 0.

    The sum is piecewise linear in θ between the ends x and x - t, which are sorted; then the piece is solved.
    """
    k, t = min(k, x.shape[-1]), t.expand(x.shape)
    least = x.amin(-1, keepdim=True) if floor is None else floor
    bottom = torch.where(t < math.inf, x - t, least)
    bottom = bottom if floor is None else bottom.clamp(min=floor)

    def enough(theta: Tensor) -> Tensor:
        some = ((x - theta) / torch.where(t > 0, t, 1.0)).clamp(0, 1)
        return torch.where((bottom >= theta) & (t < math.inf), 1.0, some).sum(-1, keepdim=True) >= k

    low, high = between(torch.cat([x, bottom], -1), enough)
    with torch.no_grad():
        middle = low / 2 + high / 2
        above = x > middle
        part = above & (x - t < middle)
        w = inverse(t, part)
        unit = torch.where(part, t, math.inf).amin(-1, keepdim=True)
        left = k - (above & ~part).sum(-1, keepdim=True)
        total = w.sum(-1, keepdim=True)
        none = total == 0
        unit, total = torch.where(none, 0.0, unit), torch.where(none, 1.0, total)
    theta = middle + ((w * (x - middle)).sum(-1, keepdim=True) - unit * left) / total
    return torch.where(none, low, torch.minimum(torch.maximum(theta, low), high))


def peak(x: Tensor, t: Tensor) -> Tensor:
    """``level`` for k = 1 and one t for each slice: what x is above θ is its projection on the simplex of total t."""
    over = project_simplex(x, x.new_ones((1,) * x.ndim), t.clamp(max=torch.finfo(t.dtype).max))
    return x.amax(-1, keepdim=True) - over.amax(-1, keepdim=True)


def clipped(x: Tensor, t: Tensor, theta: Tensor) -> Tensor:
    """x brought down to θ, by no more than t."""
    return torch.minimum(x, torch.maximum(theta, x - t))


def _flat(x: Tensor, t: Step, solve: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``solve`` on the whole tensor as one slice."""
    laid = filled(x, t)
    laid = laid.reshape(1) if laid.numel() == 1 else laid.expand(x.shape).reshape(-1)
    return solve(x.reshape(-1), laid).reshape(x.shape)


def filled(x: Tensor, t: Step) -> Tensor:
    """A step as a real tensor with as many dims as x."""
    if not isinstance(t, Tensor):
        real = x.dtype.to_real()
        number = t if t == math.inf else min(t, torch.finfo(real).max)
        return torch.full((1,) * x.ndim, number, dtype=real, device=x.device)
    return t.reshape((1,) * (x.ndim - t.ndim) + tuple(t.shape))


def double(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def nothing(x: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.float64, device=x.device)


def weight(op: Prox, name: str) -> None:
    """Keep a field as a number that is finite and at least 0."""
    store(op, name, 0)
    if isinstance(value := getattr(op, name), Tensor):
        raise ValueError(f"{name} of {type(op).__name__} has shape {tuple(value.shape)}; it must be one number")


def count(op: Prox, name: str) -> None:
    """Keep a field as a whole number of at least 1."""
    value = getattr(op, name)
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
        raise ValueError(f"{name} of {type(op).__name__} is {value!r}; it must be a whole number, at least 1")
    object.__setattr__(op, name, int(value))


def fitting(op: Prox, needed: int, given: int, shape: tuple[int, ...], name: str = "x") -> None:
    if given != needed:
        raise ValueError(f"{op!r} is made for slices of {needed} entries, given {name} of shape {tuple(shape)} with {given}")
