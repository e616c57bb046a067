"""Order and shape along a dim: rising and falling slices, slices with one peak, convex and concave ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Along, Step, relative

_MANY = 32  # entries from which a compiled kernel is worth its start: two seconds once, 30 times sooner at each call


def isotonic(y: Tensor, w: Tensor | None = None) -> Tensor:
    """The non-decreasing fit of y along its last dim: argmin Σ w (fit - y)² with fit[i] ≤ fit[i + 1], batched.

    w > 0 broadcasts to y (None: all equal). Gradients flow to both. A slice that is not finite gives NaN. On the CPU, large
    inputs run a compiled kernel, O(n) (pool adjacent violators; Ayer et al. 1955); elsewhere fitted halves are merged in
    log n rounds, without a look at the data.

    >>> isotonic(torch.tensor([1.0, 3.0, 2.0, 4.0]))
    tensor([1.0000, 2.5000, 2.5000, 4.0000])
    """
    with torch.no_grad():
        fit = _fit(y.detach(), None if w is None else w.detach())
    return _means(fit, y, w)


def _fit(y: Tensor, w: Tensor | None) -> Tensor:
    if not _compiled(y):
        return _merged(y, w)
    from ._order_numba import isotonic_rows

    return _by_kernel(isotonic_rows, y, w)


def _compiled(y: Tensor) -> bool:
    return y.device.type == "cpu" and y.numel() >= _MANY and y.dtype in (torch.float32, torch.float64)


def _by_kernel(kernel: Callable[[str], Callable[..., None]], y: Tensor, w: Tensor | None, **options: bool) -> Tensor:
    from ._numba import in_threads

    weights = y.new_ones(1, dtype=torch.float64) if w is None else w.double()
    rows, weights = (t.reshape(-1, y.shape[-1]) for t in (y, weights.expand(y.shape)))
    fit = torch.empty_like(rows)
    run, arrays = kernel(str(y.dtype).removeprefix("torch.")), [t.numpy() for t in (rows, weights, fit)]
    in_threads(lambda first, last: run(*(a[first:last] for a in arrays), *options.values()), len(rows), rows.numel())
    return fit.reshape(y.shape)


def _merged(y: Tensor, w: Tensor | None) -> Tensor:
    """Two neighbouring non-decreasing fits L and R become one: what lies above a level v in L and below it in R is pooled.

    v is where the masses a(v) = Σ w (L - v)₊ and b(v) = Σ w (v - R)₊ are equal, so that a < b tells the entries of L that
    are above it, and a > b those of R that are below. Both are running sums of gaps times weights: nothing cancels.
    """
    n = y.shape[-1]
    if y.numel() == 0 or n == 1:
        return torch.where(y.isfinite(), y, torch.nan)
    padded = 1 << (n - 1).bit_length()
    most = y.abs().amax(-1, keepdim=True)
    scale = torch.exp2(torch.floor(torch.log2(most.double())).clamp(-900, 1023))  # a power of two: no rounding
    v = y.double() / scale
    w = torch.ones_like(v) if w is None else (w.double() / w.double().amax(-1, keepdim=True)).expand(v.shape)
    if padded > n:
        tail = (*v.shape[:-1], padded - n)
        v, w = torch.cat([v, v.amax(-1, keepdim=True).expand(tail)], -1), torch.cat([w, w[..., :1].expand(tail)], -1)
    m = 1
    while m < padded:
        pair = (*y.shape[:-1], padded // (2 * m), 2, m)
        (left, right), (wl, wr) = (t.reshape(pair).unbind(-2) for t in (v, w))
        left, right = left.contiguous(), right.contiguous()
        wl, wr = wl.flip(-1).cumsum(-1).flip(-1), wr.cumsum(-1)
        none = left[..., :1] * 0
        a = torch.cat([none, (left.diff() * wl[..., 1:]).flip(-1).cumsum(-1)], -1).flip(-1)
        b = torch.cat([none, (right.diff() * wr[..., :-1]).cumsum(-1)], -1)
        below = torch.searchsorted(right, left)
        above = torch.searchsorted(left, right, right=True)
        j, i = (below - 1).clamp(min=0), above.clamp(max=m - 1)
        b_left = b.gather(-1, j) + (left - right.gather(-1, j)) * wr.gather(-1, j)
        a_right = a.gather(-1, i) + (left.gather(-1, i) - right) * wl.gather(-1, i)
        pool = torch.cat([(a < b_left) & (below > 0), (a_right > b) & (above < m)], -1)
        u = torch.where(pool, w.reshape(*pair[:-2], 2 * m), 0.0)
        v = v.reshape(u.shape)
        v = torch.where(pool, (u / u.sum(-1, keepdim=True) * v).sum(-1, keepdim=True), v)
        m *= 2
    v = v.reshape(*y.shape[:-1], padded)[..., :n].cummax(-1).values * scale
    return torch.where(most.isfinite(), v, torch.nan).to(y.dtype)


def _means(fit: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    """The levels of a fit again as the weighted means that they are, so that gradients flow to y and w."""
    if not torch.is_grad_enabled() or not (y.requires_grad or (w is not None and w.requires_grad)) or y.numel() == 0:
        return fit
    starts = torch.cat([torch.zeros_like(fit[..., :1]).bool(), fit.diff() != 0], -1)
    level = starts.cumsum(-1)
    weights = (y.new_ones(1) if w is None else w).double().expand(y.shape)
    total = torch.zeros_like(weights).scatter_add(-1, level, weights).gather(-1, level)
    mean = torch.zeros_like(weights).scatter_add(-1, level, weights / total * y.double()).gather(-1, level)
    return torch.where(fit.isnan(), fit, mean.to(y.dtype))


@dataclass(frozen=True, eq=False, repr=False)
class Isotonic(Along):
    """Slices that never fall: g = 0 where x[i] ≤ x[i + 1] along dim (≥ with ``decreasing``), prox(x) = the means of pooled parts.

    A tensor step gives each entry the weight 1 / step in these means. (Ayer, Brunk, Ewing, Reid and Silverman 1955.)

    >>> Isotonic(dim=0)(torch.tensor([1.0, 3.0, 2.0]))
    tensor([1.0000, 2.5000, 2.5000])
    """

    dim: int
    decreasing: bool = False
    alias = "monotone"
    formula = "x[i] ≤ x[i+1] along dim"
    metric = "weighted"
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _flag(self, "decreasing")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.numel() == 0:
            return x.clone()
        x, w = _weighted(x, step, self.dim)
        if self.decreasing:
            return -isotonic(-x, w).movedim(-1, self.dim)
        return isotonic(x, w).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class Unimodal(Along):
    """Slices with one peak: g = 0 where x rises along dim and then falls, and with ``nonneg`` is ≥ 0 too.

    Each place for the peak splits a slice into a rising and a falling fit; the errors of all prefixes, from both ends, tell
    the best place exactly, in O(n) (Stout 2008). With ``nonneg`` the errors are those of the clipped fits. The set is not
    convex, unless ``peak`` gives the index of the peak (negative: from the end); it is then exact as well. A tensor step
    gives each entry the weight 1 / step, where 0 and ∞ count as a factor of 1e8 beside the finite steps. Raises ValueError
    for a peak outside the slice.

    >>> Unimodal(dim=0)(torch.tensor([1.0, 3.0, 4.0, 1.0, 2.0]))
    tensor([1.0000, 3.0000, 4.0000, 1.5000, 1.5000])
    """

    dim: int
    nonneg: bool = False
    peak: int | None = None
    alias = "onepeak"
    formula = "x rises, then falls along dim"
    metric = "weighted"
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _flag(self, "nonneg")
        if self.peak is not None:
            if isinstance(self.peak, bool) or not hasattr(self.peak, "__index__"):
                raise TypeError(f"peak of Unimodal is {self.peak!r}; the index of an entry is needed, or None for the best")
            object.__setattr__(self, "peak", int(self.peak))

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return self.peak is not None

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._place(tuple(shape))

    def _place(self, shape: tuple[int, ...]) -> int | None:
        n = shape[self.dim]
        if self.peak is not None and not -n <= self.peak < n:
            raise ValueError(f"{self!r} on x of shape {shape}: there is no entry {self.peak} along dim {self.dim} of length {n}")
        return None if self.peak is None else self.peak % n

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        place = self._place(tuple(x.shape))
        if x.numel() == 0:
            return x.clone()
        x, w = _tamed(x, step, self.dim)
        with torch.no_grad():
            y, v = x.detach(), None if w is None else w.detach()
            fit = _one_peak(y, v, self.nonneg) if place is None else _peak_at(place, y, v)
        y = _means(fit, x, w).movedim(-1, self.dim)
        return y.clamp(min=0) if self.nonneg else y


def _one_peak(y: Tensor, w: Tensor | None, nonneg: bool) -> Tensor:
    """The best rise followed by a fall, before it is clipped."""
    if _compiled(y):  # the torch form is O(n²)
        from ._order_numba import unimodal_rows

        return _by_kernel(unimodal_rows, y, w, nonneg=nonneg)
    v = y.double() / y.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(y.dtype).tiny)
    u = (torch.ones_like(v) if w is None else w.double()).expand(v.shape)
    rise, fall = _prefix_errors(torch.stack([v, v.flip(-1)]), torch.stack([u, u.flip(-1)]), nonneg)
    first = torch.arange(y.shape[-1], device=y.device) < (rise + fall.flip(-1)).argmin(-1, keepdim=True)
    most = y.amax(-1, keepdim=True)  # the other part's place is taken by the maximum, which no level exceeds
    left = _merged(torch.where(first, y, most), w)
    right = _merged(torch.where(first, most, y).flip(-1), None if w is None else w.flip(-1)).flip(-1)
    return torch.where(first, left, right)


def _prefix_errors(y: Tensor, w: Tensor, nonneg: bool) -> Tensor:
    """The squared errors of the non-decreasing fits of the first 0, 1, ..., n entries; fits are kept last entry first."""
    fit, errors = y[..., :0], [torch.zeros_like(y[..., :1])]
    for i in range(y.shape[-1]):
        fit = torch.cat([y[..., i : i + 1], fit], -1)
        u = w[..., : i + 1].flip(-1)
        level = ((u * fit).cumsum(-1) / u.cumsum(-1)).amax(-1, keepdim=True)
        fit = torch.minimum(torch.cat([level, fit[..., 1:]], -1), level)
        e = (fit.clamp(min=0) if nonneg else fit) - y[..., : i + 1].flip(-1)
        errors.append((u * e * e).sum(-1, keepdim=True))
    return torch.cat(errors, -1)


def _peak_at(k: int, y: Tensor, w: Tensor | None) -> Tensor:
    """Both sides are fitted alone; what is then above the peak is pooled with it, the highest first."""
    w = torch.ones_like(y) if w is None else w.expand(y.shape)
    left = _fit(y[..., :k], w[..., :k])
    right = _fit(y[..., k + 1 :].flip(-1), w[..., k + 1 :].flip(-1)).flip(-1)
    sides, order = torch.cat([left, right], -1).double().sort(-1, descending=True)
    u = torch.cat([w[..., :k], w[..., k + 1 :]], -1).double().gather(-1, order)
    u, levels = torch.cat([w[..., k : k + 1].double(), u], -1), torch.cat([y[..., k : k + 1].double(), sides], -1)
    scale = levels.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    top = ((u * (levels / scale)).cumsum(-1) / u.cumsum(-1)).amax(-1, keepdim=True) * scale
    top = top.to(y.dtype)
    return torch.cat([torch.minimum(left, top), top, torch.minimum(right, top)], -1)


@dataclass(frozen=True, eq=False, repr=False)
class Convex(Along):
    """Slices that bend upwards: g = 0 where x[i-1] - 2 x[i] + x[i+1] ≥ 0 along dim, prox(x) = least squares between kinks.

    An active set of kinks: all that bend the wrong way go, those whose multiplier is negative come in, one for each stretch
    between two kinks; where that does not lower the error, one alone comes in and the step stops at the first kink that
    vanishes. It ends at the optimum to rounding, after some tens of rounds with n = 1000. (Dykstra 1983, Fraser and Massam
    1989 for the cone.) A tensor step gives each entry the weight 1 / step; 0 and ∞ count as a factor of 1e8 beside the others.

    >>> Convex(dim=0)(torch.tensor([2.0, 1.0, 3.0, 2.0]))
    tensor([2.0000, 1.5000, 2.0000, 2.5000])
    """

    dim: int
    formula = "x[i-1] - 2x[i] + x[i+1] ≥ 0 along dim"
    cost = "n log n per round"
    metric = "weighted"
    cone = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        x, w = _tamed(x, step, self.dim)
        return _convex(x, w).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class Concave(Along):
    """Slices that bend downwards: g = 0 where x[i-1] - 2 x[i] + x[i+1] ≤ 0 along dim, prox(x) = -prox of Convex(-x).

    >>> Concave(dim=0)(torch.tensor([0.0, 1.0, 0.0]))
    tensor([0., 1., 0.])
    """

    dim: int
    formula = "x[i-1] - 2x[i] + x[i+1] ≤ 0 along dim"
    cost = "n log n per round"
    metric = "weighted"
    cone = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        x, w = _tamed(x, step, self.dim)
        return (0 - _convex(-x, w)).movedim(-1, self.dim)


def _convex(x: Tensor, w: Tensor | None) -> Tensor:
    n = x.shape[-1]
    if n < 3 or x.numel() == 0:
        return x.clone()
    y = x.double().reshape(-1, n)
    w = torch.ones_like(y) if w is None else w.expand(x.shape).reshape(-1, n)
    scale = y.detach().abs().amax(-1, keepdim=True)
    y = y / torch.where(scale > 0, scale, 1.0)
    finite = scale.isfinite()
    y, w = torch.where(finite, y, 0.0), w / w.amax(-1, keepdim=True)
    with torch.no_grad():
        kinks = _kinks(y.detach(), w.detach())
    fit = torch.where(finite, _bent(y, w, kinks) * scale, torch.nan)
    return fit.reshape(x.shape).to(x.dtype)


def _kinks(y: Tensor, w: Tensor) -> Tensor:
    """Where the convex fit of each row has its kinks, both ends counted; a row that is done leaves the batch."""
    ends = torch.zeros_like(y, dtype=torch.bool)
    ends[:, 0] = ends[:, -1] = True
    y = y - _bent(y, w, ends)  # convexity does not see a line, rounding does
    y = y / y.abs().amax(-1, keepdim=True).clamp(min=1e-300)
    found, rows = ends.clone(), torch.arange(len(y), device=y.device)
    kept, at, best = ends, torch.zeros_like(y), (w * y * y).sum(-1, keepdim=True)  # kinks, a feasible point, its error
    trial, bold = torch.ones_like(ends), torch.ones_like(best, dtype=torch.bool)
    while len(rows):
        fit = _bent(y, w, trial, passes=1)
        bend, before = _bends(fit), _bends(at).clamp(min=0)
        wrong = trial & (bend < 0)
        outside = wrong.any(-1, keepdim=True)
        reach = torch.where(wrong, before / (before - bend), 2.0)
        part = reach.amin(-1, keepdim=True)
        at = torch.where(outside & ~bold, at + part * (fit - at), at)
        fewer = trial & ~(wrong & (bold | (reach <= part)))
        error = (w * (y - fit).square()).sum(-1, keepdim=True)
        better = ~outside & (error < best * (1 - 1e-14))
        at, best, kept = torch.where(better, fit, at), torch.where(better, error, best), torch.where(better, trial, kept)
        price = torch.nn.functional.pad((w * (at - y)).cumsum(-1).cumsum(-1)[:, :-2], (1, 1))  # the multipliers
        price = torch.where(kept | (price > -1e-14), 0.0, price)
        stretch = kept.cumsum(-1)
        least = torch.zeros_like(price).scatter_reduce(-1, stretch - 1, price, "amin").gather(-1, stretch - 1)
        least = torch.where(better, least, price.amin(-1, keepdim=True))
        more = kept | ((price < 0) & (price == least))
        done = ~outside & (~(better | bold) | ~(price < 0).any(-1, keepdim=True))
        trial, bold = torch.where(outside, fewer, more), torch.where(outside, bold, better)
        left = ~done[:, 0]
        found[rows[~left]] = kept[~left]
        rows, y, w, trial, bold, kept, at, best = (t[left] for t in (rows, y, w, trial, bold, kept, at, best))
    return found


def _bends(y: Tensor) -> Tensor:
    return torch.nn.functional.pad(y.diff(n=2), (1, 1))


def _bent(y: Tensor, w: Tensor, kinks: Tensor, passes: int = 2) -> Tensor:
    """The weighted least-squares fit of each row by straight stretches that meet at the kinks (the ends are kinks)."""
    n = y.shape[-1]
    place = torch.arange(n, device=y.device)
    before = torch.where(kinks, place, 0).cummax(-1).values
    after = torch.where(kinks, place, n - 1).flip(-1).cummin(-1).values.flip(-1)
    share = (place - before).to(y.dtype) / (after - before).clamp(min=1)
    i = kinks.cumsum(-1) - 1
    j = i + (after > before)
    none = torch.zeros_like(y)
    own = none.scatter_add(-1, i, w * (1 - share) ** 2).scatter_add(-1, j, w * share**2) + (place > i[:, -1:])
    shared = none.scatter_add(-1, i, w * share * (1 - share))
    fit = none
    for _ in range(passes):  # again on what is left, for the last digits
        rest = w * (y - fit)
        at = _tridiagonal(own, shared, none.scatter_add(-1, i, rest * (1 - share)).scatter_add(-1, j, rest * share))
        fit = fit + (1 - share) * at.gather(-1, i) + share * at.gather(-1, j)
    return fit


def _tridiagonal(d: Tensor, e: Tensor, b: Tensor) -> Tensor:
    """x in d[i] x[i] + e[i-1] x[i-1] + e[i] x[i+1] = b[i], positive definite, by cyclic reduction: log n rounds."""
    n, h, up = d.shape[-1], 1, e
    down = _moved(e, 1)
    while h < n:
        p, q = -down / _moved(d, h, 1.0), -up / _moved(d, -h, 1.0)
        d, b = d + p * _moved(up, h) + q * _moved(down, -h), b + p * _moved(b, h) + q * _moved(b, -h)
        down, up = p * _moved(down, h), q * _moved(up, -h)
        h *= 2
    return b / d


def _moved(t: Tensor, h: int, fill: float = 0.0) -> Tensor:
    """t[i - h] at i."""
    return torch.nn.functional.pad(t[..., :-h] if h > 0 else t[..., -h:], (max(h, 0), max(-h, 0)), value=fill)


def _flag(op: Along, name: str) -> None:
    if not isinstance(getattr(op, name), bool):
        raise TypeError(f"{name} of {type(op).__name__} is {getattr(op, name)!r}; True or False is needed")


def _weighted(x: Tensor, step: Step, dim: int) -> tuple[Tensor, Tensor | None]:
    """x and the weights 1 / step, dim last; None where all weights of a slice are equal."""
    s = relative(x, step, dim)
    return x.movedim(dim, -1), 1 / s.double() if s.shape[-1] > 1 else None


def _tamed(x: Tensor, step: Step, dim: int) -> tuple[Tensor, Tensor | None]:
    """The same where weights of very different size would drown each other: 0 and ∞ lie a factor of 1e8 beside the others."""
    y = x.movedim(dim, -1)
    if not isinstance(step, Tensor) or relative(x, step, dim).shape[-1] == 1:
        return y, None
    s = step.double().expand((1,) * (x.ndim - step.ndim) + tuple(step.shape)).movedim(dim, -1)
    some = (s > 0) & (s < math.inf)
    low = torch.where(some, s, math.inf).amin(-1, keepdim=True)
    low = torch.where(low < math.inf, low, 1.0)
    high = torch.maximum(torch.where(some, s, 0.0).amax(-1, keepdim=True), low)
    return y, low / torch.where(some, s, torch.where(s == 0, low / 1e8, high * 1e8))
