"""Penalties on what changes along a dim: jumps, kinks, roughness, and any quadratic form such as that of a graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .base import Along, Step, array, store, times

_SMALL = 32  # entries: below, the batched form is done before a compiled kernel is loaded (seconds once, 50 times sooner then)


@dataclass(frozen=True, eq=False, repr=False)
class TotalVariation(Along):
    """Few jumps along a dim: g = λ Σ |x[i + 1] - x[i]|, prox(x) is piecewise constant.

    Exact in any diagonal metric, by the taut string (Davies and Kovac 2001), O(n): Σ y / step is the shortest path through
    a tube of radius λ around Σ x / step. Its two hulls are kept as blocks of equal slope. Few or far entries (less than
    2¹⁴, or not on the CPU) go through a batched form instead, which cuts all blocks at their means at once (Hochbaum
    2001). A slice with a NaN or an infinite entry becomes NaN.

    >>> TotalVariation(dim=0)(torch.tensor([0.0, 1.0, 5.0, 6.0]))
    tensor([1., 1., 5., 5.])
    """

    dim: int
    lam: float = 1.0
    alias = "tv"
    formula = "λ Σ|x[i+1] - x[i]| along dim"
    metric = "weighted"
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.shape[self.dim] < 2:
            return x.clone()
        rows, t = _rows(x, times(step, self.lam), self.dim)
        return _back(_tv(rows, t), x, self.dim)

    def value(self, x: Tensor) -> Tensor:
        return self.lam * x.double().diff(dim=self.dim).abs().sum()


def _number(op: Along) -> None:
    store(op, "lam", 0)
    if isinstance(op.lam, Tensor):  # type: ignore[attr-defined]
        raise ValueError(f"lam of {type(op).__name__} is a tensor; it must be one number: weigh entries through the step")


def _rows(x: Tensor, step: Step, dim: int) -> tuple[Tensor, Tensor]:
    """x as rows along dim, and the steps as float64 rows: one or all rows, one or all entries."""
    n = x.shape[dim]
    s = torch.as_tensor(step, dtype=torch.float64, device=x.device)
    if s.ndim == 0:
        return x.movedim(dim, -1).reshape(-1, n), s.reshape(1, 1)
    s = s.expand((1,) * (x.ndim - s.ndim) + tuple(s.shape)).movedim(dim, -1)
    wide = s.expand(*x.movedim(dim, -1).shape[:-1], s.shape[-1]) if s.numel() > s.shape[-1] else s
    return x.movedim(dim, -1).reshape(-1, n), wide.reshape(-1, s.shape[-1])


def _back(rows: Tensor, x: Tensor, dim: int) -> Tensor:
    return rows.to(x.dtype).reshape(x.movedim(dim, -1).shape).movedim(-1, dim)


def _by_kernel(work: Callable, *tensors: Tensor) -> None:
    """A compiled kernel over rows; a tensor of one row goes to all."""
    from ._numba import in_threads

    arrays = [t.detach().contiguous().numpy() for t in tensors]
    in_threads(lambda first, last: work(*(a if len(a) == 1 else a[first:last] for a in arrays)), len(arrays[-1]), arrays[-1].size)


def _tv(x: Tensor, t: Tensor) -> Tensor:
    """Rows of argmin_y Σ (y - x)² / (2 t) + Σ |y[i + 1] - y[i]|; gradients go through the means of the blocks."""
    if x.device.type == "cpu" and x.numel() >= _SMALL:
        from ._variation_numba import taut, taut_weighted

        y = torch.empty_like(x, requires_grad=False, memory_format=torch.contiguous_format)
        if t.shape[1] == 1:
            _by_kernel(taut, x, t[:, 0].clamp(max=1e307).expand(len(x)), y)  # inf - inf is no number
        else:
            _by_kernel(taut_weighted, x, t.expand(x.shape), y)
    else:
        y = _tv_cuts(x.detach().double(), t.detach().expand(x.shape)).to(x.dtype)
    if not x.requires_grad:
        return y
    first = torch.cat([torch.ones_like(y[:, :1], dtype=torch.bool), y.diff(dim=1) != 0], 1)
    mean = _means(x, 1 / t.expand(x.shape), first.cumsum(1) - 1)[0]
    return y + (mean - mean.detach())


def _means(x: Tensor, h: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each block of entries, at each entry, and 1 / Σ h. h = ∞ rules its block; h = 0 counts among its like."""
    zero = torch.zeros_like(h)
    most = zero.scatter_reduce(1, block, h, "amax").gather(1, block)
    share = torch.where(h == most, 1.0, h / most).to(x.dtype)
    mass = torch.zeros_like(x).scatter_add(1, block, share).gather(1, block)
    mean = torch.zeros_like(x).scatter_add(1, block, share * x).gather(1, block) / mass
    return mean, torch.where(most > 0, 1 / most / mass, 0.0)


def _tv_cuts(x: Tensor, t: Tensor) -> Tensor:
    """The same on any device. All rows start as one block; each block is cut where the best two-valued signal on either
    side of its mean jumps, until none is. The best is found by dynamic programming: the slope of its cost is a running
    sum that is clipped to [-1, 1], and clipped sums compose, so that a scan by doubling finds all of them.
    """
    n = x.shape[1]
    span = x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
    whole = span.isfinite()
    unit = torch.where(whole & (span > 0), span, 1.0)
    z = torch.where(whole, (x - x[:, :1]) / unit, 0.0)
    true = 1 / (t / unit)
    least = torch.where(true > 0, true, 1 / n).amin(1, keepdim=True).clamp(1e-15 / n, 1 / n)
    h = torch.where(true > 0, true.clamp(1e-15 / n, 1e8), 1e-4 * least)
    first, jump = torch.zeros_like(x, dtype=torch.bool), x.new_zeros(len(x), n + 1)
    first[:, 0] = True
    place = torch.arange(n, device=x.device)
    while True:
        block = first.cumsum(1) - 1
        rise = jump.diff(dim=1)
        mean, mass = _means(z, h, block)
        part = torch.zeros_like(z).scatter_add(1, block, rise).gather(1, block)
        slope = h * (mean + part * mass - z)
        entry = torch.where(first, (jump[:, :-1] + slope).clamp(-1, 1), 0.0)
        add, low, high = torch.where(first, 0.0, slope), torch.where(first, entry, -1.0), torch.where(first, entry, 1.0)
        d = 1
        while d < n:
            low = torch.cat([low[:, :d], (low[:, :-d] + add[:, d:]).clamp(low[:, d:], high[:, d:])], 1)
            high = torch.cat([high[:, :d], (high[:, :-d] + add[:, d:]).clamp(low[:, d:], high[:, d:])], 1)
            add = torch.cat([add[:, :d], add[:, :-d] + add[:, d:]], 1)
            d *= 2
        before = torch.where(first, jump[:, :-1], torch.cat([low[:, :1], low[:, :-1]], 1)) + slope
        last = torch.cat([first[:, 1:], torch.ones_like(first[:, :1])], 1)
        forced = last | (before.abs() >= 1)
        side = torch.where(last, before - jump[:, 1:], before) > 0  # this entry, and those that follow it, lie below
        rule = torch.where(forced, place, n).flip(1).cummin(1)[0].flip(1)
        side = side.gather(1, rule)
        cut = (side[:, 1:] != side[:, :-1]) & ~first[:, 1:]
        if not bool(cut.any()):
            break
        jump[:, 1:-1] = torch.where(cut, torch.where(side[:, :-1], 1.0, -1.0), jump[:, 1:-1])
        first = torch.cat([first[:, :1], first[:, 1:] | cut], 1)
    mean, mass = _means(z, true, block)
    y = x[:, :1] + unit * (mean + torch.where(mass > 0, part * mass, 0.0))
    return torch.where(whole, torch.where((t == 0) | (span == 0), x, y), math.nan)


@dataclass(frozen=True, eq=False, repr=False)
class TotalVariationImage(Along):
    """Few edges in images: each slice along dim is a flattened picture or volume of that shape, g = λ Σ |∇x|.

    ∇x holds the differences to the next pixel in each direction; |∇x| is its length (isotropic) or the sum of its entries.
    The dual is solved by accelerated projected gradients with restart (Beck and Teboulle 2009; O'Donoghue and Candès
    2015), in float64, until the duality gap is below 1e-9 of the objective or 5000 iterations are done: it is tested every
    25. Gradients are those of the last 200 iterations, so approximate. A slice that is not finite becomes NaN. Raises
    ValueError where a slice is not as long as shape says.

    >>> TotalVariationImage(dim=0, shape=(2, 2), lam=10.0)(torch.tensor([0.0, 1.0, 2.0, 5.0]))
    tensor([2., 2., 2., 2.])
    """

    dim: int
    shape: tuple[int, ...]
    lam: float = 1.0
    isotropic: bool = True
    alias = "tv_image"
    formula = "λ Σ|∇x| of images along dim"
    cost = "n · iterations"
    metric = "group"
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self)
        whole = isinstance(self.shape, tuple | list) and all(hasattr(n, "__index__") and n > 0 for n in self.shape)
        if not whole or len(self.shape) not in (2, 3):
            raise ValueError(f"shape of TotalVariationImage is {self.shape!r}; two or three lengths are needed, e.g. (28, 28)")
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "isotropic", bool(self.isotropic))

    def _fit(self, n: int, what: str) -> None:
        if n != math.prod(self.shape):
            sides = " x ".join(map(str, self.shape))
            raise ValueError(f"{self!r}: {what} have {n} entries, but {sides} pixels are {math.prod(self.shape)}")

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._fit(shape[self.dim], f"the slices of {name} along dim {self.dim}")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._fit(x.shape[self.dim], "the slices of x")
        rows, t = _rows(x, times(step, self.lam), self.dim)
        if rows.numel() == 0:
            return x.clone()
        start = rows[:, :1].double()
        rows = rows.double() - start
        span = rows.detach().amax(1, keepdim=True) - rows.detach().amin(1, keepdim=True)
        ok = span.isfinite()
        unit = torch.where(ok & (span > 0), span, 1.0)
        z = torch.where(ok, rows / unit, 0.0)
        radius = (t / unit).clamp(max=math.prod(self.shape))  # more than that is a constant
        y = self._solve(z, radius.reshape(-1, *(1,) * (len(self.shape) + 1)))
        y = torch.where(t == math.inf, z.mean(1, keepdim=True), torch.where(t == 0, z, y))
        return _back(torch.where(ok, start + unit * y, math.nan), x, self.dim)

    def _ball(self, p: Tensor, radius: Tensor) -> Tensor:
        if self.isotropic:
            size = torch.linalg.vector_norm(p, dim=1, keepdim=True)
            return p * torch.where(size > radius, radius / size.where(size > radius, 1.0), 1.0)
        return torch.minimum(torch.maximum(p, -radius), radius)

    def _size(self, p: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(p, dim=1) if self.isotropic else p.abs().sum(1)
        return size.flatten(1).sum(1)

    def _solve(self, z: Tensor, radius: Tensor) -> Tensor:
        z, bound = z.reshape(-1, *self.shape), 4 * len(self.shape)  # of the eigenvalues of ∇∇ᵀ
        with torch.no_grad():
            radius = radius.expand(len(z), *radius.shape[1:])
            best = _gradient(z).zero_()
            left, x, most = torch.arange(len(z), device=z.device), z, radius  # the images that are not done
            p, q, pace = best, best, torch.ones_like(radius)
            for turn in range(1, 5001):
                new = self._ball(q + _gradient(x - _adjoint(q)) / bound, most)
                move = new - p
                uphill = ((q - new) * move).flatten(1).sum(1).reshape(most.shape) > 0
                faster = torch.where(uphill, 1.0, (1 + (1 + 4 * pace**2).sqrt()) / 2)
                q, p, pace = new + torch.where(uphill, 0.0, (pace - 1) / faster) * move, new, faster
                if turn % 25 == 0:
                    best[left] = p
                    y = x - _adjoint(p)
                    edges = _gradient(y)
                    cost = most.flatten() * self._size(edges)
                    gap = cost - (p * edges).flatten(1).sum(1)
                    on = gap > 1e-9 * (cost + (y - x).square().flatten(1).sum(1) / 2) + 1e-30
                    left, x, most, p, q, pace = (t[on] for t in (left, x, most, p, q, pace))
                    if len(left) == 0:
                        break
            p = best
        if z.requires_grad:
            for _ in range(200):
                p = self._ball(p + _gradient(z - _adjoint(p)) / bound, radius)
        return (z - _adjoint(p)).flatten(1)

    def value(self, x: Tensor) -> Tensor:
        self._fit(x.shape[self.dim], "the slices of x")
        rows = x.double().movedim(self.dim, -1).reshape(-1, *self.shape)
        return self.lam * self._size(_gradient(rows)).sum()


def _gradient(x: Tensor) -> Tensor:
    """Differences to the next pixel along each dim but the first, 0 at the border; stacked in dim 1."""
    parts = [torch.cat([x.diff(dim=d), torch.zeros_like(x.narrow(d, 0, 1))], d) for d in range(1, x.ndim)]
    return torch.stack(parts, 1)


def _adjoint(p: Tensor) -> Tensor:
    out = torch.zeros_like(p[:, 0])
    for d in range(1, p.ndim - 1):
        part = p[:, d - 1].narrow(d, 0, p.shape[d + 1] - 1)
        edge = torch.zeros_like(p[:, 0].narrow(d, 0, 1))
        out = out - torch.cat([edge, part, edge], d).diff(dim=d)
    return out


@dataclass(frozen=True, eq=False, repr=False)
class TrendFilter(Along):
    """Few kinks along a dim: g = λ Σ |Dᵏ⁺¹ x|, D the difference to the next entry and k the order.

    prox(x) is piecewise polynomial of degree k: constant (0, then this is TotalVariation), linear (1), quadratic (2). The
    dual, a box around a banded quadratic form, is solved by a primal-dual interior point (Mehrotra 1992; Kim, Koh, Boyd
    and Gorinevsky 2009) in float64, down to a complementarity of 1e-13 or 60 Newton steps, each O(n). An infinite step
    gives the least-squares polynomial. A slice that is not finite becomes NaN.

    >>> TrendFilter(dim=0, lam=10.0)(torch.tensor([0.0, 1.0, 5.0]))
    tensor([-0.5000,  2.0000,  4.5000])
    """

    dim: int
    order: int = 1
    lam: float = 1.0
    alias = "trend"
    formula = "λ Σ|Dᵏ⁺¹x| along dim"
    metric = "group"
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self)
        _whole(self, 0, 3)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        n, k = x.shape[self.dim], self.order + 1
        if n <= k or x.numel() == 0:
            return x.clone()
        rows, t = _rows(x, times(step, self.lam), self.dim)
        if self.order == 0:
            return _back(_tv(rows, t), x, self.dim)
        start = rows[:, :1].double()
        rows = rows.double() - start
        unit = rows.detach().abs().amax(1, keepdim=True)
        ok = unit.isfinite()
        unit = torch.where(ok & (unit > 0), unit, 1.0)
        z = torch.where(ok, rows / unit, 0.0)
        radius = (t / unit).clamp(1e-300, float(n) ** k)  # more than that is a polynomial
        y = torch.where(t == math.inf, z - _rough(z, k), torch.where(t == 0, z, z - _kinks(z, radius, k)))
        return _back(torch.where(ok, start + unit * y, math.nan), x, self.dim)

    def value(self, x: Tensor) -> Tensor:
        return self.lam * x.double().diff(n=self.order + 1, dim=self.dim).abs().sum()


def _whole(op: Along, low: int, high: int) -> None:
    order = op.order  # type: ignore[attr-defined]
    if isinstance(order, bool) or not hasattr(order, "__index__") or not low <= order <= high:
        raise ValueError(f"order of {type(op).__name__} is {order!r}; a whole number from {low} to {high} is needed")
    object.__setattr__(op, "order", int(order))


def _binomial(k: int) -> list[float]:
    return [(-1.0) ** (k - i) * math.comb(k, i) for i in range(k + 1)]


def _turned(g: Tensor, k: int) -> Tensor:
    """Dᵀ g for the differences D of order k."""
    return (-1) ** k * torch.nn.functional.pad(g, (k, k)).diff(n=k, dim=1)


def _kinks(z: Tensor, radius: Tensor, k: int) -> Tensor:
    """What the prox takes from z: radius Dᵀ v for the v in [-1, 1] that minimises radius |Dᵀ v|² / 2 - vᵀ D z."""
    m = z.shape[1] - k
    c = _binomial(k)
    form = [sum(c[p] * c[p + j] for p in range(k + 1 - j)) for j in range(k + 1)]  # of D Dᵀ, band by band
    toeplitz = radius[:, :, None] * z.new_tensor(form)[None, :, None]

    def bands(weight: Tensor) -> Tensor:
        whole = toeplitz.expand(len(z), k + 1, m).clone()
        whole[:, 0] += weight
        return whole

    with torch.no_grad():
        b = z.diff(n=k, dim=1)
        v, s, r = torch.zeros_like(b), torch.ones_like(b), torch.ones_like(b)
        scale = b.abs().amax(1, keepdim=True).clamp(min=1e-30)
        y = w = scale.expand_as(b)
        for _ in range(60):
            off = radius * _turned(v, k).diff(n=k, dim=1) - b + y - w
            matrix = bands(y / s + w / r)
            gap = (y * s + w * r).mean(1, keepdim=True) / 2

            def newton(ys: Tensor, wr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                """The direction in which y s and w r come down by these amounts."""
                dv = _banded(matrix, ys / s - wr / r - off)  # noqa: B023
                return dv, (y * dv - ys) / s, (-w * dv - wr) / r  # noqa: B023

            def far(dv: Tensor, dy: Tensor, dw: Tensor) -> Tensor:
                least = torch.stack([-dv / s, dv / r, dy / y, dw / w]).amin((0, 2)).clamp(max=-1e-30)  # noqa: B023
                return (-0.995 / least).clamp(max=1)[:, None]

            dv, dy, dw = newton(y * s, w * r)
            a = far(dv, dy, dw)
            ahead = ((y + a * dy) * (s - a * dv) + (w + a * dw) * (r + a * dv)).mean(1, keepdim=True) / 2
            aim = gap * (ahead / gap).clamp(0, 1) ** 3
            dv, dy, dw = newton(y * s - aim - dy * dv, w * r - aim + dw * dv)
            a = far(dv, dy, dw)
            v, s, r, y, w = v + a * dv, s - a * dv, r + a * dv, y + a * dy, w + a * dw
            if bool((gap <= 1e-13 * scale).all()):
                break
    if z.requires_grad:
        v = v + _banded(bands(y / s + w / r), (z - z.detach()).diff(n=k, dim=1))
    return radius * _turned(v, k)


def _rough(z: Tensor, k: int) -> Tensor:
    """z less its least-squares polynomial of degree below k, along dim 1."""
    place = torch.linspace(-1, 1, z.shape[1], dtype=z.dtype, device=z.device)
    basis = torch.linalg.qr(torch.stack([place**i for i in range(min(k, len(place)))], 1))[0]
    for _ in range(2):
        z = z - (z @ basis) @ basis.mT
    return z


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(ctx, bands: Tensor, rhs: Tensor) -> Tensor:
        ctx.save_for_backward(bands)
        size = max(len(bands), 1) * rhs.shape[1] ** 2
        if size <= (2**16 if rhs.device.type == "cpu" else 2**27):
            return _dense(bands, rhs)
        from ._variation_numba import banded

        flat = rhs.cpu().contiguous()
        out = torch.empty_like(flat)
        _by_kernel(banded, bands.cpu(), flat, out)
        return out.to(rhs.device)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[None, Tensor]:
        return None, _banded(ctx.saved_tensors[0], grad)


def _banded(bands: Tensor, rhs: Tensor) -> Tensor:
    """The rows y of M y = rhs in float64, bands[.., j, i] = M[i, i + j], one M or one for each row; bands are constants."""
    return _Banded.apply(bands, rhs)


def _dense(bands: Tensor, rhs: Tensor) -> Tensor:
    n = rhs.shape[1]
    upper = sum(torch.diag_embed(bands[:, j, : n - j], offset=j) for j in range(1, min(bands.shape[1], n)))
    matrix = torch.diag_embed(bands[:, 0]) + (upper + upper.mT if isinstance(upper, Tensor) else 0)
    factor = torch.linalg.cholesky_ex(matrix)[0]
    if len(bands) == 1:
        return torch.cholesky_solve(rhs.mT, factor[0]).mT
    return torch.cholesky_solve(rhs[..., None], factor)[..., 0]


@dataclass(frozen=True, eq=False, repr=False)
class Smooth(Along):
    """Small differences along a dim: g = λ/2 Σ (Dᵏ x)², prox(x) = (I + step λ (Dᵏ)ᵀ Dᵏ)⁻¹ x.

    D is the difference to the next entry, from the last to the first too if periodic, and k the order: 1 pulls towards
    constants, 2 towards straight lines (which a periodic slice has not). Any metric, by a banded system solved in
    float64, O(n): y = x + √s w with (1 + √s Dᵀλ D √s) w = -√s λ DᵀD x, which stays exact where steps are 0.

    >>> Smooth(dim=0)(torch.tensor([0.0, 3.0]))
    tensor([1., 2.])
    """

    dim: int
    lam: float = 1.0
    order: int = 1
    periodic: bool = False
    formula = "λ/2 Σ(Dᵏx)² along dim"
    metric = "weighted"
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self)
        _whole(self, 1, 3)
        object.__setattr__(self, "periodic", bool(self.periodic))

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        n, k = x.shape[self.dim], self.order
        if x.numel() == 0 or (n < 2 if self.periodic else n <= k):
            return x.clone()
        rows, t = _rows(x, times(step, self.lam), self.dim)
        unit = rows.detach().double().abs().amax(1, keepdim=True)
        z = rows.double() / torch.where(unit > 0, unit, 1.0)
        order, form = self._form(n, x.device)
        free = t == math.inf
        keep, give = 1 / (1 + t), torch.where(free, 1.0, t / (1 + t)).sqrt()  # at an infinite step: 0 and 1
        keep, give = (v.expand(-1, n)[:, order] for v in (keep, give))
        floor = max(1e-13, 1e-3 / float(n) ** (2 * k))
        least = keep.clamp(min=floor)
        bands = form * torch.stack([give * give.roll(-j, 1) for j in range(len(form))], 1)
        bands[:, 0] += least
        w = torch.zeros_like(z)
        need = -give * self._rough(z)[:, order]
        far = t.device.type != "cpu" or bool((keep < floor).any())
        for _ in range(4 if far else 1):  # again for the longest steps, which least keeps regular
            back = torch.zeros_like(w).index_copy(1, order, give * w)
            w = w + _banded(bands, need - keep * w - give * self._rough(back)[:, order])
        y = z + torch.zeros_like(w).index_copy(1, order, give * w)
        calm = z.mean(1, keepdim=True) if self.periodic else z - _rough(z, k)
        y = torch.where(free.all(1, keepdim=True), calm, torch.where(t == 0, z, y))
        return _back(torch.where(unit > 0, unit, 1.0) * y, x, self.dim)

    def _rough(self, z: Tensor) -> Tensor:
        """DᵀD z."""
        if not self.periodic:
            return _turned(z.diff(n=self.order, dim=1), self.order)
        for _ in range(self.order):
            z = z + z - z.roll(1, 1) - z.roll(-1, 1)
        return z

    def _form(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """An order of the entries in which DᵀD is banded, and its bands: a circle is folded, 0, n - 1, 1, n - 2, …"""
        k, place = self.order, torch.arange(n, device=device)
        if self.periodic:
            order = torch.where(place % 2 == 0, place // 2, n - 1 - place // 2)
            ring = self._rough(torch.eye(1, n, dtype=torch.float64, device=device))[0]
            width = min(2 * k, n - 1)
            bands = [ring[(order.roll(-j) - order) % n] for j in range(width + 1)]
        else:
            c = _binomial(k)
            order, bands = place, []
            for j in range(min(k, n - 1) + 1):  # entry i is term p of the difference i - p
                terms = [c[p] * c[p + j] * ((place >= p) & (place - p < n - k)).double() for p in range(k + 1 - j)]
                bands.append(torch.stack(terms).sum(0))
        whole = torch.stack(bands)
        for j in range(1, len(whole)):
            whole[j, n - j :] = 0
        return order, whole

    def value(self, x: Tensor) -> Tensor:
        y = x.double()
        if self.periodic:
            for _ in range(self.order):
                y = y.roll(-1, self.dim) - y
        else:
            y = y.diff(n=self.order, dim=self.dim)
        return self.lam / 2 * y.square().sum()


@dataclass(frozen=True, eq=False, repr=False)
class QuadraticForm(Along):
    """A quadratic form along a dim: g = λ/2 xᵀ M x - cᵀ x, prox(x) = (I + step λ M)⁻¹ (x + step c).

    M is symmetric and positive semi-definite, n × n for slices of n entries; c, if given, has n entries. The Laplacian of
    a graph, diag(A 1) - A, pulls neighbours together: graph-regularised factors. Steps constant along dim go through the
    eigenvectors of M, found once; others through one Cholesky factor a slice, in float64. Raises ValueError for an M that
    is not symmetric or has a negative eigenvalue. Where c leaves the range of λ M there is no minimiser.

    >>> QuadraticForm(0, torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))(torch.tensor([0.0, 3.0]))
    tensor([1., 2.])
    """

    dim: int
    matrix: Tensor
    linear: Tensor | None = None
    lam: float = 1.0
    alias = "graph"
    formula = "λ/2 xᵀMx - cᵀx along dim"
    cost = "n²"
    metric = "weighted"
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self)
        m = array(self.matrix, "matrix of QuadraticForm")
        if m.ndim != 2 or m.shape[0] != m.shape[1] or m.shape[0] == 0:
            raise ValueError(f"matrix of QuadraticForm has shape {tuple(m.shape)}; it must be square")
        if not bool(m.isfinite().all()):
            raise ValueError("matrix of QuadraticForm holds NaN or infinite entries")
        eps = torch.finfo(m.dtype).eps ** 0.5 * m.abs().amax().item()
        if (m - m.mT).abs().amax().item() > eps:
            raise ValueError("matrix of QuadraticForm is not symmetric; give (M + M.mT) / 2, which is the same form")
        object.__setattr__(self, "matrix", m)
        low = self._eigen[0][0].item()
        if low < -eps:
            raise ValueError(f"matrix of QuadraticForm has the eigenvalue {low:g}; it must be positive semi-definite")
        if self.linear is not None:
            c = array(self.linear, "linear of QuadraticForm")
            if c.shape != m.shape[:1] or not bool(c.isfinite().all()):
                raise ValueError(f"linear of QuadraticForm has shape {tuple(c.shape)}; {len(m)} finite entries are needed")
            object.__setattr__(self, "linear", c)

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh((self.matrix.double() + self.matrix.double().mT) / 2)
        size = values.abs().amax()
        return torch.where(values.abs() <= 1e-12 * len(values) * size, 0.0, values), vectors

    @cached_property
    def attained(self) -> bool:  # type: ignore[override]
        if self.linear is None:
            return True
        values, vectors = self._eigen
        inside = (self.linear.double() @ vectors)[(values == 0) | torch.tensor(self.lam == 0)]
        return inside.norm().item() <= 1e-9 * self.linear.double().norm().item()

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())  # matrix and linear lie along dim alone: part of a factor has the same

    def _fit(self, n: int, what: str) -> None:
        if n != len(self.matrix):
            raise ValueError(f"{self!r}: {what} have {n} entries, but matrix is {len(self.matrix)} x {len(self.matrix)}")

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._fit(shape[self.dim], f"the slices of {name} along dim {self.dim}")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._fit(x.shape[self.dim], "the slices of x")
        rows, t = _rows(x, step, self.dim)
        rows = rows.double()
        values, vectors = (v.to(rows) for v in self._eigen)
        scale = self.lam * values[-1].clamp(min=0)
        scale = torch.where(scale > 0, scale, 1.0)
        size = self.lam * values.clamp(min=0) / scale
        c = torch.zeros_like(size) if self.linear is None else self.linear.to(rows) / scale
        t = torch.as_tensor(times(t, scale))
        keep, give = 1 / (1 + t), torch.where(t == math.inf, 1.0, t / (1 + t))
        if t.shape[1] == 1:
            fall = give * (size * (rows @ vectors) - c @ vectors)
            flat = (keep == 0) & (size == 0)
            y = rows - torch.where(flat, 0.0, fall / torch.where(flat, 1.0, keep + give * size)) @ vectors.mT
        else:
            give = give.sqrt()
            form = (vectors * size) @ vectors.mT
            least = keep.clamp(min=1e-9)
            factor = torch.linalg.cholesky_ex(give[:, :, None] * form * give[:, None] + torch.diag_embed(least))[0]
            w, need = torch.zeros_like(rows), give * (c - rows @ form)
            for _ in range(4):  # again for the longest steps, which least keeps regular
                short = need - keep * w - give * ((give * w) @ form)
                w = w + torch.cholesky_solve(short[..., None], factor)[..., 0]
            y = rows + give * w
        return _back(torch.where(t == 0, rows, y), x, self.dim)

    def value(self, x: Tensor) -> Tensor:
        self._fit(x.shape[self.dim], "the slices of x")
        rows = x.double().movedim(self.dim, -1)
        g = self.lam / 2 * ((rows @ self.matrix.to(rows)) * rows).sum()
        return g if self.linear is None else g - (rows @ self.linear.to(rows)).sum()
