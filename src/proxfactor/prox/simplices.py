"""Shares and linear constraints along a dim: simplices, hyperplanes, half-spaces, with their weighted forms."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .base import Along, Step, array, relative, store

_LARGE = 2**17  # entries: below, the torch form is as quick as a kernel and has nothing to compile


def project_simplex(x: Tensor, s: Tensor, total: Step) -> Tensor:
    """max(x - θ s, 0) along the last dim, θ such that the sum is total: the simplex in the metric of the steps s.

    s is positive and broadcasts to x (see ``relative``); total ≥ 0 is a number, or a tensor (..., 1) with one per slice.
    """
    if _by_kernel(x, s, total):
        return _large_simplex(x, s, total)
    total, unit = total.to(x) if isinstance(total, Tensor) else x.new_full((), total), s.expand_as(x)
    j = ((x - total) / s).argmax(-1, keepdim=True)  # θ is no less than this: a shift that costs no digits, at any offset
    x = (x - (x - total).gather(-1, j) * (s / unit.gather(-1, j))).clamp(max=total)
    size = total.detach().clamp(min=1)  # a sum of many times a huge total would overflow
    x, total = x / size, total / size
    order = (x / s).argsort(-1, descending=True)
    led, steps = x.gather(-1, order), unit.gather(-1, order)
    length = steps.cumsum(-1)
    for _ in range(3):  # again on what is left: the sum is right to rounding
        theta = ((led.cumsum(-1) - total) / length).amax(-1, keepdim=True)
        led, x = led - theta * steps, x - theta * s
    return x.clamp(min=0) * size


def large(*tensors: Step) -> bool:
    """Whether kernels take these, the first a large CPU tensor: no transform of torch.func, no forward derivative looks on."""
    x, *_ = held = [t for t in tensors if isinstance(t, Tensor)]
    if x.device.type != "cpu" or x.numel() < _LARGE:
        return False
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return all(type(t) in (Tensor, torch.nn.Parameter) and torch.autograd.forward_ad.unpack_dual(t).tangent is None for t in held)


def _by_kernel(x: Tensor, s: Tensor, total: Step) -> bool:
    return large(x, s, total) and not (s.requires_grad and torch.is_grad_enabled())  # the kernels know no gradient of s


def _shares(x: Tensor, step: Step, dim: int, total: float) -> Tensor:
    """``relative``, but steps that are positive and finite go to a kernel as they are: it takes the ratios in its own pass."""
    if isinstance(step, Tensor) and step.shape == x.shape and _by_kernel(x, step, total):
        least, most = step.aminmax()
        if least > 0 and most < math.inf:
            return step.movedim(dim, -1)
    return relative(x, step, dim)


def _large_simplex(x: Tensor, s: Tensor, total: Step) -> Tensor:
    from ._simplices_numba import project, project_weighted

    y = project(x, total) if s.shape[-1] == 1 else project_weighted(x, s, total)
    if not torch.is_grad_enabled() or not any(isinstance(t, Tensor) and t.requires_grad for t in (x, total)):
        return y
    held = y > 0  # what is held moves as x does, less its share of the moves; x - x.detach() is 0 and carries the gradient
    move = torch.where(held, x - x.detach(), 0.0)
    spare = move.sum(-1, keepdim=True) - (total - total.detach() if isinstance(total, Tensor) else 0.0)
    part = torch.where(held, s, 0.0)
    whole = part.sum(-1, keepdim=True)
    return y + torch.where(held, move - part * (spare / torch.where(whole > 0, whole, 1.0)), 0.0)


def _check_total(op: Along) -> None:
    name = type(op).__name__
    total = array(op.total, f"total of {name}")  # type: ignore[attr-defined]
    if total.ndim or not 0 < total.item() < math.inf:
        raise ValueError(f"total of {name} is {op.total}; it must be one number, positive and finite")  # type: ignore[attr-defined]
    object.__setattr__(op, "total", total.item())


@dataclass(frozen=True, eq=False, repr=False)
class Simplex(Along):
    """Shares along a dim: g = 0 where x ≥ 0 and Σ x = total, prox(x) = max(x - θ step, 0) with θ such that the sum is right.

    Each part of the entries gives a lower bound of θ, (Σ x - total) / Σ step over the part, and the leading parts in the
    order of x / step hold the best: O(n log n), batched over the other dims. Large CPU tensors take a compiled way without
    sorting (Michelot 1986). (Held, Wolfe and Crowder 1974; the metric form follows from the same
    optimality conditions.) Raises ValueError where total is not positive and finite.

    >>> Simplex(dim=0)(torch.tensor([2.0, 1.5, -1.0]))
    tensor([0.7500, 0.2500, 0.0000])
    """

    dim: int
    total: float = 1.0
    formula = "x ≥ 0, Σx = total along dim"
    cost = "n log n"
    metric = "weighted"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_total(self)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._length(x)
        s = _shares(x, step, self.dim, self.total)
        return project_simplex(x.movedim(self.dim, -1), s, self.total).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class SolidSimplex(Along):
    """Shares that may leave some over: g = 0 where x ≥ 0 and Σ x ≤ total, prox(x) = max(x, 0), or Simplex if too much.

    Of two constraints of which the second does not hold at the projection on the first, the second is met with equality; so
    in any diagonal metric. Raises ValueError where total is not positive and finite.

    >>> SolidSimplex(dim=0)(torch.tensor([0.5, -1.0])), SolidSimplex(dim=0)(torch.tensor([2.0, 1.5]))
    (tensor([0.5000, 0.0000]), tensor([0.7500, 0.2500]))
    """

    dim: int
    total: float = 1.0
    formula = "x ≥ 0, Σx ≤ total along dim"
    cost = "n log n"
    metric = "weighted"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_total(self)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.shape[self.dim] == 0:
            return x.clone()
        s, x = _shares(x, step, self.dim, self.total), x.movedim(self.dim, -1)
        y = x.clamp(min=0)
        return torch.where(y.sum(-1, keepdim=True) <= self.total, y, project_simplex(x, s, self.total)).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class CappedSimplex(Along):
    """Shares of which none is large: g = 0 where 0 ≤ x ≤ cap and Σ x = total, prox(x) = min(max(x - θ step, 0), cap).

    The sum falls as θ rises, in straight pieces between the points x / step and (x - cap) / step: halving over the sorted
    points finds the piece that holds the right θ, and on it θ is a quotient. With a whole number k as total and cap 1 this
    is the convex hull of the choices of k out of n. (The same conditions as for the Simplex.)

    Raises ValueError where total or cap is not positive, or n entries of at most cap cannot reach total.

    >>> CappedSimplex(dim=0, cap=0.6)(torch.tensor([2.0, 0.5, 0.3]))
    tensor([0.6000, 0.3000, 0.1000])
    """

    dim: int
    total: float = 1.0
    cap: float = 1.0
    formula = "0 ≤ x ≤ cap, Σx = total along dim"
    cost = "n log n"
    metric = "weighted"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_total(self)
        cap = array(self.cap, "cap of CappedSimplex")
        if cap.ndim or not cap.item() > 0:
            raise ValueError(f"cap of CappedSimplex is {self.cap}; it must be one number, positive")
        object.__setattr__(self, "cap", cap.item())

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._reaches(shape[self.dim], f"{name}, a matrix of shape {tuple(shape)}")

    def _reaches(self, n: int, what: str) -> None:
        if not n * self.cap >= self.total * (1 - 1e-9):
            most = f"{n} entries of at most {self.cap:g} cannot sum to {self.total:g}"
            raise ValueError(f"{self!r} on {what}: the set is empty, as {most}; raise cap to {self.total / max(n, 1):.6g} or more")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._reaches(self._length(x), f"x of shape {tuple(x.shape)}")
        s = relative(x, step, self.dim)
        return _project_capped(x.movedim(self.dim, -1), s, self.cap, self.total).movedim(-1, self.dim)


def _project_capped(x: Tensor, s: Tensor, cap: float, total: float) -> Tensor:
    """min(max(x - θ s, 0), cap) along the last dim, θ such that the sum is total."""
    n, most = x.shape[-1], torch.finfo(x.dtype).max
    with torch.no_grad():
        at, theta, unit = x.detach(), x.new_zeros(()), s.detach().expand_as(x)
        for _ in range(2):  # the second time near 0, where cap is not lost beside a large x
            ends, units = torch.cat([at, at - cap], -1), torch.cat([unit, unit], -1)
            order = (ends / units).clamp(-most, most).argsort(-1, descending=True)
            low = order.new_zeros((*x.shape[:-1], 1))  # the sum at this point, counted from above, is not yet beyond total
            high = low + 2 * n
            for _ in range((2 * n).bit_length()):
                middle = (low + high) // 2
                j = order.gather(-1, middle)
                held = (at - ends.gather(-1, j) * (unit / units.gather(-1, j))).clamp(0, cap).sum(-1, keepdim=True)
                fits_in = held <= total
                low, high = torch.where(fits_in, middle, low), torch.where(fits_in, high, middle)
            j = order.gather(-1, low)
            end, one = ends.gather(-1, j), units.gather(-1, j)
            at, theta = at - end * (unit / one), theta + end / one
    at = at + (x - x.detach())  # 0, and the way of the gradient
    if s.requires_grad:
        at = at - theta * (s - s.detach())
    y = at
    for _ in range(2):
        free, at_cap = (at >= 0) & (at < cap), torch.where(at >= cap, torch.full_like(at, cap), 0.0)
        room = torch.where(free, s, 0.0).sum(-1, keepdim=True)
        over = (torch.where(free, at, 0.0) + at_cap).sum(-1, keepdim=True) - total
        at = at - s * torch.where(room > 0, over / torch.where(room > 0, room, 1.0), 0.0)
        y = torch.where(free, at.clamp(0, cap), at_cap)
    return torch.where(x.isnan().any(-1, keepdim=True), math.nan, y)


@dataclass(frozen=True, eq=False, repr=False)
class SparseSimplex(Along):
    """Shares of at most k: the simplex where no more than k entries are not zero, the k largest entries projected on it.

    Exact for equal steps (Kyrillidis, Becker, Cevher and Koch 2013); where entries tie, one of the nearest points. Raises
    ValueError where k is not a whole number of at least 1, or total is not positive and finite.

    >>> SparseSimplex(dim=0, k=2)(torch.tensor([0.5, 0.7, 0.4]))
    tensor([0.4000, 0.6000, 0.0000])
    """

    dim: int
    k: int
    total: float = 1.0
    formula = "x ≥ 0, Σx = total, at most k entries ≠ 0 along dim"
    cost = "n log k"
    convex = False
    metric = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_total(self)
        if isinstance(self.k, bool) or not hasattr(self.k, "__index__") or int(self.k) < 1:
            raise ValueError(f"k of SparseSimplex is {self.k!r}; it must be a whole number of at least 1, the entries that stay")
        object.__setattr__(self, "k", int(self.k))

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        n, x = self._length(x), x.movedim(self.dim, -1)
        led, where = x.topk(min(self.k, n), -1)
        return torch.zeros_like(x).scatter(-1, where, project_simplex(led, x.new_ones(1), self.total)).movedim(-1, self.dim)


class _Linear(Along):
    """One linear form along dim, ⟨a, x⟩ = Σ a x, and where it may be: a point moves by step·a, as far as it must."""

    metric = "weighted"
    a: Step = 1.0

    @abstractmethod
    def _between(self) -> tuple[Step, Step]:
        """The least and the most of the form: numbers, or tensors of one number per slice."""

    cone = property(lambda self: all(bool(((b == 0) | b.isinf()).all()) for b in map(torch.as_tensor, self._between())))

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, fields = type(self).__name__, self.__dataclass_fields__  # type: ignore[attr-defined]
        for name in fields.keys() & {"b", "lo", "hi"}:
            store(self, name)
        a = array(self.a, f"a of {kind}")
        if a.ndim > 1:
            raise ValueError(f"a of {kind} has shape {tuple(a.shape)}; it must be a number, or one number per entry along dim")
        if not bool(a.isfinite().all()) or not bool((a != 0).any()):
            raise ValueError(f"a of {kind} is {self.a}; it must be finite and not 0 everywhere")
        if "a" in fields:
            object.__setattr__(self, "a", a if a.ndim else a.item())
        lo, hi = map(torch.as_tensor, self._between())
        try:
            empty = bool(((lo > hi) | (lo == math.inf) | (hi == -math.inf)).any())
        except RuntimeError:
            raise ValueError(f"{kind}: the shapes of lo and hi do not fit together; each must hold one number per slice") from None
        if empty:
            raise ValueError(f"{self!r} is empty: no number is between its bounds")

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, t) for name, t in super()._tensors() if name != "a")  # it lies along dim

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._fit(shape, name)

    def _fit(self, shape: tuple[int, ...], name: str) -> None:
        n, given = shape[self.dim], f"{name} of shape {tuple(shape)}"
        if isinstance(self.a, Tensor) and len(self.a) != n:
            raise ValueError(f"a of {self!r} has {len(self.a)} entries; {given} has {n} along dim {self.dim}")
        for field, t in self._tensors():
            if ((1,) * (len(shape) - t.ndim) + tuple(t.shape))[self.dim] != 1:
                need = f"it must have size 1 along dim {self.dim}, one number per slice"
                raise ValueError(f"{field} of {self!r} has shape {tuple(t.shape)} for {given}; {need}")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._fit(tuple(x.shape), "x")
        s, y, n = relative(x, step, self.dim), x.movedim(self.dim, -1), x.shape[self.dim]
        given = array(self.a, "a")
        size = given.abs().amax()
        a = (given / size).to(y).expand(n)
        low, high = self._between()
        lo, hi = self._slices(low, y, size), self._slices(high, y, size)
        if n == 0 and not bool(((lo <= 0) & (hi >= 0)).all()):
            self._length(x)
        if n == 0:
            return x.clone()
        way = s * a
        way = way / way.abs().amax(-1, keepdim=True)
        length = (way * a).sum(-1, keepdim=True)
        for _ in range(2):  # the second time for what rounding left at a large offset
            form = (a * y).sum(-1, keepdim=True)
            over = form - hi if low is high else (form - hi).relu() - (lo - form).relu()
            y = y - way * (over / length)
        return y.movedim(-1, self.dim)

    def _slices(self, bound: Step, y: Tensor, size: Tensor) -> Tensor:
        """A bound in units of the largest |a|, laid as the slices of y: dim last."""
        b = array(bound, "b")
        b = (b / size.to(b)).to(y)
        return b if b.ndim == 0 else b.reshape((1,) * (y.ndim - b.ndim) + tuple(b.shape)).movedim(self.dim, -1)


@dataclass(frozen=True, eq=False, repr=False)
class Hyperplane(_Linear):
    """One linear equation along a dim: g = 0 where ⟨a, x⟩ = b, prox(x) = x - step a (⟨a, x⟩ - b) / Σ step a².

    a is a number, or a tensor of one number per entry along dim; b is a number, or a tensor that broadcasts to x with size 1
    along dim. Raises ValueError where a is 0 everywhere.

    >>> Hyperplane(0, [1.0, 2.0], 3.0)(torch.tensor([1.0, 3.5]))
    tensor([0.0000, 1.5000])
    """

    dim: int
    a: Step
    b: Step = 0.0
    formula = "⟨a, x⟩ = b along dim"

    def _between(self) -> tuple[Step, Step]:
        return self.b, self.b


@dataclass(frozen=True, eq=False, repr=False)
class HalfSpace(_Linear):
    """One linear inequality along a dim: g = 0 where ⟨a, x⟩ ≤ b, prox(x) = x - step a max(⟨a, x⟩ - b, 0) / Σ step a².

    a is a number, or a tensor of one number per entry along dim; b is a number, or a tensor that broadcasts to x with size 1
    along dim. For ≥, give -a and -b. Raises ValueError where a is 0 everywhere.

    >>> HalfSpace(0, 1.0, 1.0)(torch.tensor([2.0, 1.0])), HalfSpace(0, 1.0, 1.0)(torch.tensor([0.0, -1.0]))
    (tensor([1., 0.]), tensor([ 0., -1.]))
    """

    dim: int
    a: Step
    b: Step = 0.0
    formula = "⟨a, x⟩ ≤ b along dim"

    def _between(self) -> tuple[Step, Step]:
        return -math.inf, self.b


@dataclass(frozen=True, eq=False, repr=False)
class Slab(_Linear):
    """A linear form between two bounds along a dim: g = 0 where lo ≤ ⟨a, x⟩ ≤ hi, prox(x) = the nearer Hyperplane from outside.

    lo and hi are numbers (also ±inf), or tensors that broadcast to x with size 1 along dim; a is a number, or a tensor of one
    number per entry along dim. Raises ValueError where lo > hi, or a is 0 everywhere.

    >>> Slab(0, 0.0, 1.0)(torch.tensor([2.0, 1.0]))
    tensor([1., 0.])
    """

    dim: int
    lo: Step
    hi: Step
    a: Step = 1.0
    formula = "lo ≤ ⟨a, x⟩ ≤ hi along dim"

    def _between(self) -> tuple[Step, Step]:
        return self.lo, self.hi


@dataclass(frozen=True, eq=False, repr=False)
class SumToOne(_Linear):
    """Entries of any sign that sum to one along a dim, by the true projection: prox(x) = x - step (Σ x - 1) / Σ step.

    >>> SumToOne(dim=0)(torch.tensor([2.0, 1.0]))
    tensor([1., 0.])
    """

    dim: int
    alias = "sum1"
    formula = "Σx = 1 along dim"

    def _between(self) -> tuple[Step, Step]:
        return self.a, self.a


@dataclass(frozen=True, eq=False, repr=False)
class Affine(Along):
    """Several linear equations along a dim: g = 0 where A x = b, prox(x) = x - S Aᵀ (A S Aᵀ)⁻¹ (A x - b) with S = diag(step).

    A has one row per equation and one column per entry along dim; b is a number, or one number per equation. Equations that
    follow from the others are dropped, by the singular values of A. For steps that differ along dim the equations are first
    solved for the entries of large step (Gauss-Jordan, the pivot being the largest |A| √step), so that A S Aᵀ is well
    conditioned whatever the steps. Works in float64. Raises ValueError where the equations contradict each other.

    >>> Affine(0, [[1.0, 1.0, 1.0], [1.0, 0.0, -1.0]], [1.0, 0.0])(torch.tensor([3.0, 0.0, 0.0]))
    tensor([ 0.8333, -0.6667,  0.8333])
    """

    dim: int
    A: Tensor
    b: Step = 0.0
    formula = "A x = b along dim"
    cost = "p n for p equations, p² n if steps differ along dim"
    metric = "weighted"

    def __post_init__(self) -> None:
        super().__post_init__()
        A = array(self.A, "A of Affine")
        if A.ndim != 2 or not A.numel():
            raise ValueError(f"A of Affine has shape {tuple(A.shape)}; it must be a matrix with one row per equation")
        object.__setattr__(self, "A", A)
        store(self, "b")
        if isinstance(self.b, Tensor) and self.b.shape != A.shape[:1]:
            need = f"it must be a number, or one for each of the {len(A)} equations"
            raise ValueError(f"b of Affine has shape {tuple(self.b.shape)}; {need}")
        if not bool(A.isfinite().all()) or not bool(torch.as_tensor(self.b).isfinite().all()):
            raise ValueError("Affine: A or b holds a number that is not finite")
        self._rows  # noqa: B018  refuses equations that contradict each other

    @property
    def cone(self) -> bool:  # type: ignore[override]
        return bool((torch.as_tensor(self.b) == 0).all())

    @cached_property
    def _rows(self) -> tuple[Tensor, Tensor]:
        """(Q, c) with orthonormal rows Q and Q x = c where A x = b: as many as the rank."""
        A, b = self.A.double().cpu(), array(self.b, "b").double().cpu().expand(len(self.A))
        size = A.abs().amax(1)
        size = torch.where(size > 0, size, 1.0)
        A, b = A / size[:, None], b / size
        U, d, Q = torch.linalg.svd(A, full_matrices=False)
        rank = int((d > max(A.shape) * torch.finfo(self.A.dtype).eps * d[0]).sum())
        U, d, Q = U[:, :rank], d[:rank], Q[:rank]
        c = U.mT @ b
        if (b - U @ c).norm() > torch.finfo(self.A.dtype).eps ** 0.5 * b.norm():
            raise ValueError(
                f"Affine: the {len(A)} equations contradict each other (A has rank {rank}), so that no x has A x = b; "
                "drop some, or change b"
            )
        return Q, c / d

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())  # A and b lie along dim

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._fit(shape, name)

    def _fit(self, shape: tuple[int, ...], name: str) -> None:
        n = shape[self.dim]
        if self.A.shape[1] != n:
            given = f"{name} of shape {tuple(shape)} has {n} along dim {self.dim}"
            raise ValueError(f"A of {self!r} has {self.A.shape[1]} columns; {given}")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._fit(tuple(x.shape), "x")
        y = x.double()
        s = relative(y, step.to(y) if isinstance(step, Tensor) else step, self.dim)
        y = y.movedim(self.dim, -1)
        Q, c = (t.to(y) for t in self._rows)
        if s.shape[-1] == 1:
            for _ in range(2):  # the second time for what rounding left at a large offset
                y = y - (y @ Q.mT - c) @ Q
            return y.movedim(-1, self.dim).to(x.dtype)
        R, e = _solved_for_large(Q, c, s)
        SR = s[..., None, :] * R
        factor = torch.linalg.cholesky_ex(SR @ R.mT).L
        for _ in range(2):
            over = (R @ y[..., None]) - e[..., None]
            y = y - (SR.mT @ torch.cholesky_solve(over, factor))[..., 0]
        return y.movedim(-1, self.dim).to(x.dtype)


def _solved_for_large(Q: Tensor, c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The equations Q x = c, each solved for an entry of large step s that no other holds, in units of that step's root."""
    r, n = Q.shape
    root = s.sqrt()
    W = torch.cat([Q, c[:, None]], -1).expand(*s.shape[:-1], r, n + 1)
    unit, row = torch.zeros_like(W[..., :1]), torch.arange(r, device=Q.device)[:, None]
    for _ in range(r):
        size = torch.where(unit == 0, W[..., :n].abs() * root[..., None, :], -1.0)
        at = size.flatten(-2).argmax(-1)[..., None, None]
        j = at % n
        chosen = row == at // n
        column = W.gather(-1, j.expand(*W.shape[:-1], 1))
        pivot = torch.where(chosen, W, 0.0).sum(-2, keepdim=True) / torch.where(chosen, column, 0.0).sum(-2, keepdim=True)
        W = torch.where(chosen, pivot, W - column * pivot)
        W = torch.cat([torch.where(W[..., :n].abs() < 1e-12, 0.0, W[..., :n]), W[..., n:]], -1)  # what only rounding left
        unit = torch.where(chosen, root[..., None, :].gather(-1, j), unit)
    return W[..., :n] / unit, W[..., n] / unit[..., 0]


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
