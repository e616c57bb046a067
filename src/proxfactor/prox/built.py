"""Operators built from others, and from plain functions."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import re
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .base import Index, Prox, Step, array, as_prox, cut, dims_of, fits, largest, like, sound, store, times, widened


class Around(Prox):
    """An operator around ``inner``: what the class does not say of itself is said by the inner operator."""

    inner: Prox

    convex = property(lambda self: self.inner.convex)
    exact = property(lambda self: self.inner.exact)
    metric = property(lambda self: self.inner.metric)
    is_set = property(lambda self: self.inner.is_set)
    cone = property(lambda self: self.inner.cone)
    attained = property(lambda self: self.inner.attained)
    complex = property(lambda self: self.inner.complex)
    foreign = property(lambda self: self.inner.foreign)

    @property
    def alike(self) -> bool:
        return super().alike and self.inner.alike

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Prox):
            name = type(self).__name__
            raise TypeError(f"{name} was given {self.inner!r}; an operator is needed, e.g. Simplex(dim=0)")

    @property
    def dims(self) -> tuple[int, ...] | None:
        return self.inner.dims

    @abstractmethod
    def _prox(self, x: Tensor, step: Step) -> Tensor: ...

    @property
    def T(self) -> Prox:
        return dataclasses.replace(self, inner=self.inner.T)  # type: ignore[type-var]

    def take(self, index: Index, dim: int) -> Prox:
        return dataclasses.replace(self, inner=self.inner.take(index, dim))  # type: ignore[type-var]

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        self.inner.check(shape, name)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return self.inner._tensors()


class Several(Prox):
    """An operator made of ``members``: it is what all of them are."""

    @property
    @abstractmethod
    def members(self) -> tuple[Prox, ...]: ...

    @abstractmethod
    def _prox(self, x: Tensor, step: Step) -> Tensor: ...

    convex = property(lambda self: all(p.convex for p in self.members))
    exact = property(lambda self: all(p.exact for p in self.members))
    is_set = property(lambda self: all(p.is_set for p in self.members))
    cone = property(lambda self: all(p.cone for p in self.members))
    attained = property(lambda self: all(p.attained for p in self.members))
    complex = property(lambda self: all(p.complex for p in self.members))
    foreign = property(lambda self: any(p.foreign for p in self.members))

    @property
    def alike(self) -> bool:
        return super().alike and all(p.alike for p in self.members)

    @property
    def metric(self) -> Literal["element", "weighted", "group"]:  # type: ignore[override]
        kinds = {p.metric for p in self.members}
        return "group" if "group" in kinds else "weighted" if "weighted" in kinds else "element"

    @property
    def dims(self) -> tuple[int, ...] | None:
        return union(p.dims for p in self.members)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return (item for p in self.members for item in p._tensors())

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        for p in self.members:
            p.check(shape, name)


def widest(x: Tensor) -> Tensor:
    return x.to(torch.complex128) if x.is_complex() else x.double()


def union(dims: Any) -> tuple[int, ...] | None:
    """All dims together; counted from both ends, they are those of a matrix."""
    given = list(dims)
    if None in given:
        return None
    every = {d for one in given for d in one}
    return tuple(sorted(every if len({d < 0 for d in every}) < 2 else {d % 2 for d in every}))


@dataclass(frozen=True, eq=False, repr=False)
class Transposed(Around):
    """An operator on the transpose: prox(x) = inner(x.mT).mT.

    >>> from proxfactor import Simplex
    >>> Transposed(Simplex(dim=0))(torch.tensor([[2.0, 1.0]]))
    tensor([[1., 0.]])
    """

    inner: Prox
    formula = "g(xᵀ)"

    @property
    def dims(self) -> tuple[int, ...] | None:
        return None if self.inner.dims is None else tuple(_turned(d) for d in self.inner.dims)

    @property
    def terms(self) -> tuple[Prox, ...]:
        return tuple(t.T for t in self.inner.terms)

    @property
    def net(self) -> tuple[float, float, float, Step] | None:
        net = self.inner.net
        return (*net[:3], _turned_over(net[3])) if net and isinstance(net[3], Tensor) and net[3].ndim else net

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
        return Prox.take(self, index, dim) if self.couples(dim) else self.inner.take(index, 1 - dim % 2).T

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, _turned_over(t)) for name, t in self.inner._tensors())

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        self.inner.check((shape[1], shape[0]), f"the transpose of {name}")


def _turned(dim: int) -> int:
    return -3 - (dim if dim < 0 else dim - 2)


def _turned_over(t: Tensor) -> Tensor:
    return (t if t.ndim > 1 else t[None]).mT


# ── other numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False, repr=False)
class Scaled(Around):
    """A term that counts more or less: factor · g, prox(x) = inner(x, factor · step).

    factor ≥ 0 is a number. A set stays what it is, and so does the domain of a penalty with factor 0.

    >>> from proxfactor import L1
    >>> Scaled(L1(1.0), 2.0)(torch.tensor([3.0]))
    tensor([1.])
    """

    inner: Prox
    factor: float = 1.0
    formula = "factor · g(x)"

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "factor")
        store(self, "factor", 0)

    is_set = property(lambda self: self.inner.is_set or self.factor == 0)
    attained = property(lambda self: self.inner.attained or self.factor == 0)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return self.inner._prox(x, times(step, self.factor))

    def value(self, x: Tensor) -> Tensor:
        return Prox.value(self, x) if self.is_set else self.factor * self.inner.value(x)


@dataclass(frozen=True, eq=False, repr=False)
class Translated(Around):
    """A term around another point than 0: g(x - by), prox(x) = by + inner(x - by).

    by is a number or a tensor that broadcasts to x: ``Translated(L1(), by=old)`` keeps most entries as they were.

    >>> from proxfactor import L1
    >>> Translated(L1(1.0), by=5.0)(torch.tensor([3.0, 5.5]))
    tensor([4., 5.])
    """

    inner: Prox
    by: Step
    formula = "g(x - by)"

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, "by")
        if not bool(torch.as_tensor(self.by).isfinite().all()):
            raise ValueError("by of Translated is not finite; give numbers")

    @property
    def cone(self) -> bool:  # type: ignore[override]
        everywhere = not self.inner.is_set and self.inner.cone and bool((self._far() == -1e30).all())
        return self.inner.cone and (everywhere or bool(torch.as_tensor(self.by == 0).all()))

    def _far(self) -> Tensor:
        """A probe of the domain of an entrywise term: -1e30 stays where it is finite everywhere, or is cut off."""
        shape = torch.broadcast_shapes((1, 1), *(t.shape for _, t in self.inner._tensors()))
        return self.inner._prox(torch.full(shape, -1e30, dtype=torch.float64), 0.0) if self.inner.dims == () else torch.zeros(1)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        by = like(x, self.by)
        return by + self.inner._prox(x - by, step)

    def value(self, x: Tensor) -> Tensor:
        wide = widened(x)
        return Prox.value(self, x) if self.is_set else self.inner.value((wide - like(wide, self.by)).to(x.dtype))

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        if isinstance(self.by, Tensor) and not fits(self.by.shape, shape):
            given = f"has shape {tuple(self.by.shape)}, which does not fit {name} of shape {tuple(shape)}"
            raise ValueError(f"by of {self!r} {given}; give a number, or a tensor that broadcasts to it")
        self.inner.check(shape, name)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        if isinstance(self.by, Tensor):
            yield "by", self.by
        yield from self.inner._tensors()

    @property
    def T(self) -> Prox:
        return Translated(self.inner.T, _turned_over(self.by) if isinstance(self.by, Tensor) else self.by)

    def take(self, index: Index, dim: int) -> Prox:
        inner = self.inner.take(index, dim)
        return Translated(inner, cut(self.by, index, dim) if isinstance(self.by, Tensor) else self.by)


def _number(op: Prox, name: str) -> None:
    if array(getattr(op, name), f"{name} of {type(op).__name__}").ndim:
        raise TypeError(f"{name} of {type(op).__name__} is an array; one number is needed")


# ── other functions ───────────────────────────────────────────────────────────────────────────────────────────────────

_FAR = 1e15  # a step that stands for an infinite one, and its inverse for 0


@dataclass(frozen=True, eq=False, repr=False)
class Conjugate(Around):
    """The convex conjugate g*(x) = max_y Σ x y - g(y), prox(x) = x - step · inner(x / step, 1 / step) (Moreau 1965).

    In a metric too, entry by entry: the polar cone of a cone, the unit ball of the dual norm of a norm, the support function
    of a set. Computed in float64; ``value`` takes the maximum by a long step of the inner operator, good to about 1e-9.
    Raises ValueError for an inner operator that is not convex, and for an infinite step where g* has no minimiser.

    >>> from proxfactor import L1
    >>> Conjugate(L1(1.0))(torch.tensor([3.0, -0.5]))
    tensor([ 1.0000, -0.5000])
    """

    inner: Prox
    formula = "max_y Σxy - g(y)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.inner.exact:
            raise ValueError(f"{self.inner!r} is not exact, so that its conjugate is unknown; give an exact convex operator")
        if not self.inner.convex:
            raise ValueError(f"{self.inner!r} is not convex, so that its conjugate says nothing of it; give a convex operator")

    convex = True
    attained = True
    is_set = property(lambda self: self.inner.is_set and self.inner.cone)
    cone = is_set

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        wide = widest(x)
        nearest = 1 / _FAR + largest(wide) * 1e-290  # x divided by it is finite
        if not isinstance(step, Tensor):
            y = self._at(wide, min(step, _FAR) if step > 1 / _FAR else nearest)
            if step == math.inf and bool(
                (y - self._at(wide, _FAR / 1e3)).abs().amax() > 1e-6 * (1 + largest(y)) + 1e-9 * largest(wide)
            ):
                raise ValueError(f"{self!r} has no minimiser, so that an infinite step leads nowhere; give a finite one")
            return y.to(x.dtype)
        return self._at(wide, torch.maximum(step.double(), nearest).clamp(max=_FAR)).to(x.dtype)

    def _at(self, x: Tensor, step: Step) -> Tensor:
        return x - step * self.inner._prox(x / step, 1 / step)

    def value(self, x: Tensor) -> Tensor:
        if self.is_set:
            return Prox.value(self, x)
        near = self._prox(widest(x), 0.0)
        long = 1e6 / largest(near).clamp(1e-6, 1.0)
        p = self.inner._prox(long * near, long)
        return (near.conj() * p).sum().real - (0.0 if self.inner.is_set else self.inner.value(p)) + Prox.value(self, x)


@dataclass(frozen=True, eq=False, repr=False)
class Envelope(Around):
    """A smooth stand-in: e(x) = min_y g(y) + Σ (y - x)² / (2 mu), the Moreau envelope; the soft form of a set or a penalty.

    prox(x) = (mu x + step · inner(x, step + mu)) / (step + mu), and ``gradient(x)`` = (x - inner(x, mu)) / mu, which a plain
    gradient method can use: its slope changes by 1 / mu at most. ``Envelope(NonNegative())`` lets an entry below zero pay its
    square, ``Envelope(L1())`` is the Huber penalty. mu > 0 is a number. (Moreau 1965.)

    >>> from proxfactor import NonNegative
    >>> Envelope(NonNegative(), mu=1.0)(torch.tensor([-2.0, 2.0]))
    tensor([-1.,  2.])
    """

    inner: Prox
    mu: float = 1.0
    formula = "min_y g(y) + Σ(y - x)²/2mu"
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _number(self, "mu")
        store(self, "mu", 0)
        if self.mu == 0:
            raise ValueError("mu of Envelope is 0; it must be positive")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        s = torch.as_tensor(step, dtype=x.dtype.to_real(), device=x.device)
        part = torch.where(s == math.inf, 1.0, s / (s + self.mu))
        return part * self.inner._prox(x, step + self.mu) + (1 - part) * x

    def gradient(self, x: Tensor) -> Tensor:
        """The gradient of the envelope."""
        return (x - self.inner(x, self.mu)) / self.mu

    def value(self, x: Tensor) -> Tensor:
        x = widest(x)
        p = self.inner._prox(x, self.mu)
        distance = (p - x).abs().square().sum() / (2 * self.mu)
        return distance if self.inner.is_set else distance + self.inner.value(p)


@dataclass(frozen=True, eq=False, repr=False)
class Distance(Around):
    """Near a set, at a price for each slice that is not in it: g = λ Σ dist(x, C), the sum over the slices that C couples.

    prox(x) = x + min(1, s λ / d) (P - x) with s = step, P the projection of a slice on C and d how far away that is: a slice
    no further than s λ goes to C itself, the others by s λ towards it. A set of single entries has each entry for a slice.
    ``Envelope`` is the smooth form, half the squared distance. λ ≥ 0 is a number. Raises ValueError unless C is a convex set.
    (Combettes and Pesquet 2011.)

    >>> from proxfactor import NonNegative
    >>> Distance(NonNegative(), lam=1.0)(torch.tensor([-3.0, -0.5, 2.0]))
    tensor([-2.,  0.,  2.])
    """

    inner: Prox
    lam: float = 1.0
    formula = "λ Σ dist(x, C)"
    is_set = False
    cone = True
    convex = True
    attained = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.inner.is_set and self.inner.convex and self.inner.exact):
            raise ValueError(f"Distance was given {self.inner!r}; a convex set is needed, e.g. Distance(Simplex(dim=0))")
        _number(self, "lam")
        store(self, "lam", 0)

    @property
    def metric(self) -> Literal["element", "weighted", "group"]:  # type: ignore[override]
        return "element" if self.dims == () else "group"

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        away = self.inner._prox(x, 1.0) - x
        size = away.abs()
        t = torch.as_tensor(times(step, self.lam), dtype=torch.float64, device=x.device).to(size.dtype)
        if self.dims != ():
            over = dims_of(self.dims, x.ndim)
            most = torch.amax(size, over, keepdim=True) if x.numel() else size.new_zeros(())
            most = most.detach().clamp(min=torch.finfo(size.dtype).tiny)
            size = most * torch.linalg.vector_norm(away / most, dim=over, keepdim=True)
        far = size > t
        return x + torch.where(far, t, 1.0) / torch.where(far, size, 1.0) * away

    def value(self, x: Tensor) -> Tensor:
        return self.lam * self.inner.violation(widest(x)).sum()


@dataclass(frozen=True, eq=False, repr=False)
class Minimum(Several):
    """The least of several terms: g = min_i g_i(x), each of the whole of x; a choice between them, made by the data.

    prox(x) is that of the term with the least g_i(y) + ‖y - x‖² / (2 step), of equal ones the first; not convex. Of sets it is
    the union. An operator may be given as a text. Raises ValueError for a term that is not exact.

    >>> from proxfactor import Box
    >>> Minimum((Box(0, 1), Box(3, 4)))(torch.tensor([1.8, 0.5])), Minimum((Box(0, 1), Box(3, 4)))(torch.tensor([2.8, 1.9]))
    (tensor([1.0000, 0.5000]), tensor([3., 3.]))
    """

    parts: tuple[Prox, ...]
    formula = "min_i g_i(x)"
    convex = False
    metric = "group"
    dims = None

    def __post_init__(self) -> None:
        parts = (self.parts,) if isinstance(self.parts, Prox | str) else self.parts
        parts = tuple(as_prox(p) for p in parts)
        odd = next((p for p in parts if not p.exact), None)
        if not parts or odd is not None:
            raise ValueError(
                f"Minimum was given {odd or 'nothing'}; exact operators are needed, e.g. Minimum((Box(0, 1), Box(3, 4)))"
            )
        object.__setattr__(self, "parts", parts)

    @property
    def members(self) -> tuple[Prox, ...]:
        return self.parts

    is_set = property(lambda self: all(p.is_set for p in self.parts))
    attained = property(lambda self: all(p.attained for p in self.parts))

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        found = [p._prox(x, step) for p in self.parts]
        s = torch.as_tensor(step, dtype=torch.float64, device=x.device)
        with torch.no_grad():
            away = torch.stack([torch.linalg.vector_norm(widest(y - x)).square() / 2 for y in found])
            g = torch.stack([s.new_zeros(()) if p.is_set else p.value(y) for p, y in zip(self.parts, found, strict=True)])
            cost = times(g, s.clamp(max=1.0)) + away / s.clamp(min=1.0)  # in units of the step
            cost = torch.where(s == math.inf, away.where(g == g.amin(), math.inf), cost)
        return torch.stack(found).index_select(0, cost.argmin()[None])[0]

    def value(self, x: Tensor) -> Tensor:
        return torch.stack([p.value(x) for p in self.parts]).amin()

    @property
    def T(self) -> Prox:
        return Minimum(tuple(p.T for p in self.parts))

    def _write(self, tensors: dict[str, Tensor]) -> str:
        parts = "".join(f"{p._write(tensors)}, " for p in self.parts)
        return f"Minimum(({parts.removesuffix(' ' if len(self.parts) == 1 else ', ')}))"


@dataclass(frozen=True, eq=False, repr=False)
class Composed(Around):
    """A term of other coordinates: g(Q x) along dim, with Q Qᵀ = ν I; prox(x) = x + Qᵀ (inner(Q x, ν step) - Q x) / ν.

    For sparsity in a basis or a tight frame, bounds on sums of disjoint parts: Q has as many columns as x is long, and its
    rows are orthogonal and equally long. Exact for steps that are constant along dim. Raises ValueError for another Q.
    (Combettes and Pesquet 2007.)

    >>> from proxfactor import NonNegative
    >>> Composed(0, NonNegative(), torch.tensor([[1.0, 1.0]]))(torch.tensor([1.0, -3.0]))
    tensor([ 2., -2.])
    """

    dim: int
    inner: Prox
    Q: Tensor
    formula = "g(Qx) along dim"
    cost = "n²"
    metric = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.dim, bool) or not hasattr(self.dim, "__index__"):
            raise TypeError(f"dim of Composed is {self.dim!r}; a whole number is needed, e.g. 0 or 1")
        Q = array(self.Q, "Q of Composed")
        if Q.ndim != 2:
            raise ValueError(f"Q of Composed has shape {tuple(Q.shape)}; a matrix is needed")
        gram = Q.double() @ Q.double().mT
        nu = gram.diagonal().mean()
        if not (nu > 0 and largest(gram - nu * torch.eye(len(Q)).to(gram)) <= 1e-5 * nu):
            raise ValueError("Q Qᵀ of Composed is no multiple of the identity; Q needs orthogonal rows of one length")
        if any((d < 0) != (self.dim < 0) for d in self.inner.dims or ()):
            raise ValueError(f"dim={self.dim} of Composed and the dims of {self.inner!r} are counted from different ends")
        object.__setattr__(self, "Q", Q)

    @property
    def dims(self) -> tuple[int, ...] | None:
        return union([self.inner.dims, (self.dim,)])

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        Q, z = self._there(x)
        moved = self.inner._prox(z, times(step, self._nu)) - z
        return x + (moved.movedim(self.dim, -1) @ Q / self._nu).movedim(-1, self.dim)

    @cached_property
    def _nu(self) -> float:
        return float(self.Q.double().square().sum() / len(self.Q))

    def _there(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[self.dim] != self.Q.shape[1]:
            raise ValueError(f"Q of {self!r} has {self.Q.shape[1]} columns, which does not fit x of shape {tuple(x.shape)}")
        Q = self.Q.to(x)
        return Q, (x.movedim(self.dim, -1) @ Q.mT).movedim(-1, self.dim)

    def value(self, x: Tensor) -> Tensor:
        return Prox.value(self, x) if self.is_set else self.inner.value(self._there(widened(x))[1].to(x.dtype))

    @property
    def T(self) -> Prox:
        return Transposed(self)

    def take(self, index: Index, dim: int) -> Prox:
        return Prox.take(self, index, dim) if self.couples(dim) else Composed(self.dim, self.inner.take(index, dim), self.Q)

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        if shape[self.dim % 2] != self.Q.shape[1]:
            raise ValueError(
                f"Q of {self!r} has {self.Q.shape[1]} columns; {name} of shape {tuple(shape)} does not fit along its dim"
            )
        there = [*shape]
        there[self.dim % 2] = len(self.Q)
        self.inner.check((there[0], there[1]), f"Q {name}")

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())


# ── other rows ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False, repr=False)
class Rows(Several):
    """Another operator for some rows of a matrix: Rows({"0:2": Smooth(dim=1), 3: NonNegative()}, rest=Unconstrained()).

    A key is a row number, a range ``"0:2"`` or ``"5:"``, or several of them, ``"0:2, 7"``; its operator sees the matrix of these
    rows alone, and ``rest`` sees all others. An operator may be given as a text. Raises ValueError for keys that overlap or
    name no row of x.

    >>> from proxfactor import L1, NonNegative
    >>> Rows({0: NonNegative(), "1:3": "l1(1)"})(torch.tensor([[-2.0], [-2.0], [3.0], [-9.0]])).flatten()
    tensor([ 0., -1.,  2., -9.])
    """

    parts: dict[int | str, Any]
    rest: Any = None
    formula = "Σ g_i(rows i)"
    across: ClassVar[int] = 0

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not isinstance(self.parts, dict):
            raise TypeError(f"{name} was given {self.parts!r}; a dict is needed, e.g. {name}({{'0:2': NonNegative()}})")
        named = [(_ranges(key, name, self._line), as_prox(p)) for key, p in self.parts.items()]
        for (_, end), (start, _) in itertools.pairwise(sorted(r for ranges, _ in named for r in ranges)):
            if start < end:
                raise ValueError(f"{name} was given {self.parts!r}, which names {self._line} {start} twice")
        object.__setattr__(self, "parts", {_key(ranges): p for ranges, p in named})
        object.__setattr__(self, "rest", as_prox(self.rest))

    @cached_property
    def _ranges(self) -> tuple[tuple[_Range, ...], ...]:
        return tuple(_ranges(key, type(self).__name__, self._line) for key in self.parts)

    @cached_property
    def _claimed(self) -> tuple[_Range, ...]:
        return tuple(sorted(r for ranges in self._ranges for r in ranges))

    @property
    def alike(self) -> bool:
        return False

    @property
    def _line(self) -> str:
        return "column" if self.across else "row"

    @property
    def members(self) -> tuple[Prox, ...]:
        return (*self.parts.values(), self.rest)

    def _split(self, n: int) -> list[tuple[Prox, list[tuple[int, int]]]]:
        """Each operator and its ranges of the n rows, that of the rest last."""
        free: list[tuple[int, int]] = []
        at = 0
        for start, stop in self._claimed:
            free.append((at, start))
            at = int(min(stop, n))
        shares = [[(a, int(min(b, n))) for a, b in ranges] for ranges in self._ranges]
        shares.append([(a, b) for a, b in [*free, (at, n)] if a < b])
        return [(p, share) for p, share in zip(self.members, shares, strict=True) if share]

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.ndim != 2:
            raise ValueError(f"{self!r} takes a matrix, given x of shape {tuple(x.shape)}")
        self.check((x.shape[0], x.shape[1]))
        if isinstance(step, Tensor) and step.numel() > 1:
            step = step.expand((1,) * (2 - step.ndim) + tuple(step.shape))
        done: list[tuple[tuple[int, int], Tensor]] = []
        for p, ranges in self._split(x.shape[self.across]):
            y = p._prox(_part(x, ranges, self.across), _part(step, ranges, self.across))
            done += zip(ranges, y.split([b - a for a, b in ranges], self.across), strict=True)
        return torch.cat([y for _, y in sorted(done, key=lambda one: one[0])], self.across) if done else x.clone()

    def value(self, x: Tensor) -> Tensor:
        parts = [p.value(_part(x, ranges, self.across)) for p, ranges in self._split(x.shape[self.across])]
        return sum(parts, torch.zeros((), dtype=torch.float64, device=x.device))

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        n = shape[self.across]
        for key, lines in zip(self.parts, self._ranges, strict=True):
            if any(a >= n or n < b < math.inf for a, b in lines):
                raise ValueError(f"{key!r} of {self!r}: {name} of shape {tuple(shape)} has {n} {self._line}s, numbered from 0")
        for p, ranges in self._split(n):
            sizes = [*shape]
            sizes[self.across] = sum(b - a for a, b in ranges)
            p.check((sizes[0], sizes[1]), f"the {self._line}s {_key(ranges)} of {name}")

    @property
    def T(self) -> Prox:
        other = Rows if self.across else Columns
        return other({key: p.T for key, p in self.parts.items()}, self.rest.T)

    def take(self, index: Index, dim: int) -> Prox:
        if self.couples(dim) or not isinstance(index, slice | Tensor) or (isinstance(index, Tensor) and index.ndim != 1):
            return super().take(index, dim)  # which refuses
        if dim % 2 != self.across:
            return type(self)({key: p.take(index, dim) for key, p in self.parts.items()}, self.rest.take(index, dim))
        return self._taken(index) if isinstance(index, slice) else self._picked(index)

    def _taken(self, index: slice) -> Prox:
        start, stop, step = index.start or 0, math.inf if index.stop is None else index.stop, index.step or 1
        if start < 0 or stop < 0 or step != 1:
            raise ValueError(f"{self!r} was asked for {index}; count from 0 in steps of 1, or give the numbers in a tensor")
        stop = max(start, stop)
        parts: dict[int | str, Prox] = {}
        for ranges, p in zip(self._ranges, self.parts.values(), strict=True):
            inside = [(max(a, start) - start, min(b, stop) - start) for a, b in ranges if max(a, start) < min(b, stop)]
            if inside:
                share = p.take(slice(_before(ranges, start), None if stop == math.inf else _before(ranges, int(stop))), self.across)
                if inside == [(0, stop - start)]:
                    return share
                parts[_key(inside)] = share
        first, last = start - _before(self._claimed, start), None
        if stop < math.inf:
            last = int(stop) - _before(self._claimed, int(stop))
        rest = self.rest.take(slice(first, last), self.across)
        return type(self)(parts, rest) if parts else rest

    def _picked(self, index: Tensor) -> Prox:
        numbers = index.nonzero().flatten().tolist() if index.dtype == torch.bool else index.tolist()
        if any(q < 0 for q in numbers):
            raise ValueError(f"{self!r} was asked for {self._line} {min(numbers)}; count from 0")

        def share(p: Prox, numbered: dict[int, int]) -> Prox:
            return p.take(torch.tensor(list(numbered.values()), dtype=torch.long), self.across)

        parts: dict[int | str, Prox] = {}
        for p, ranges in zip(self.parts.values(), self._ranges, strict=True):
            here = {place: _before(ranges, q) for place, q in enumerate(numbers) if _before(ranges, q) < _before(ranges, q + 1)}
            if here:
                parts[_key([(place, place + 1) for place in here])] = share(p, here)
        every = {place: (_before(self._claimed, q), q) for place, q in enumerate(numbers)}
        free = {place: q - n for place, (n, q) in every.items() if n == _before(self._claimed, q + 1)}
        rest = share(self.rest, free)
        return type(self)(parts, rest) if parts else rest

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())  # they belong to parts of x, and are checked there

    def _write(self, tensors: dict[str, Tensor]) -> str:
        parts = ", ".join(f"{key!r}: {p._write(tensors)}" for key, p in self.parts.items())
        rest = self.rest._write(tensors)
        return f"{type(self).__name__}({{{parts}}}{'' if rest == 'Unconstrained()' else f', rest={rest}'})"


@dataclass(frozen=True, eq=False, repr=False)
class Columns(Rows):
    """Another operator for some columns of a matrix: Columns({"0:2": Smooth(dim=0), 3: NonNegative()}, rest=Unconstrained()).

    A key is a column number, a range ``"0:2"`` or ``"5:"``, or several of them, ``"0:2, 7"``; its operator sees the matrix of
    these columns alone, and ``rest`` sees all others. What does not couple columns leaves HALS its way, component by component.

    >>> from proxfactor import NonNegative, Simplex
    >>> Columns({0: Simplex(dim=0)}, rest=NonNegative())(torch.tensor([[2.0, -1.0], [1.0, 3.0]]))
    tensor([[1., 0.],
            [0., 3.]])
    """

    formula = "Σ g_j(columns j)"
    across = 1


_Range = tuple[int, float]  # from the first on, the second (or inf) left out


def _ranges(key: Any, name: str, line: str) -> tuple[_Range, ...]:
    """The ranges that a key names, in order, neighbours joined."""
    words = str(key).split(",") if isinstance(key, int | str) and not isinstance(key, bool) else []
    found: list[_Range] = []
    for word in words:
        match = re.fullmatch(r"\s*(?:(\d+)|(\d*):(\d*))\s*", word)
        if not match:
            found = []
            break
        one, start, stop = match.groups()
        found.append((int(one), int(one) + 1) if one else (int(start or 0), int(stop) if stop else math.inf))
    if not found or any(a >= b for a, b in found):
        raise ValueError(f"{name} was given the key {key!r}; a {line} number, a range '0:2', or several, '0:2, 7', are known")
    return tuple(sorted(found))


def _key(ranges: Sequence[_Range]) -> int | str:
    words = [str(a) if b == a + 1 else f"{a}:{'' if b == math.inf else int(b)}" for a, b in ranges]
    return int(words[0]) if len(words) == 1 and ":" not in words[0] else ", ".join(words)


def _before(ranges: Sequence[_Range], q: int) -> int:
    """How many of the rows are in front of row q."""
    return int(sum(max(0, min(b, q) - a) for a, b in ranges))


def _part(x: Any, ranges: list[tuple[int, int]], dim: int) -> Any:
    """The rows of a matrix, or of a step, which may be a number or have one row for all."""
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[dim] == 1:
        return x
    return torch.cat([x.narrow(dim, a, b - a) for a, b in ranges], dim)


# ── other sets ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False, repr=False)
class Dykstra(Several):
    """The intersection of convex sets, which must meet, by Dykstra's algorithm: Dykstra((Simplex(dim=0), Isotonic(dim=0))).

    Projections in turn, each without what the same one did last time, until that changes by less than tol times the largest
    entry: to about this tolerance the true projection, unlike projections in turn alone, and the last set holds to rounding.
    Computed in float64. Raises ValueError where ``most`` rounds find no common point; warns where they do not settle.
    (Dykstra 1983; Boyle and Dykstra 1986.)

    >>> from proxfactor import Box, SumToOne
    >>> Dykstra((SumToOne(dim=0), Box(0, 0.6)))(torch.tensor([2.0, 0.5, 0.0]))
    tensor([0.6000, 0.4000, 0.0000])
    """

    parts: tuple[Prox, ...]
    tol: float = 1e-11
    most: int = 3000
    formula = "x in every set"
    cost = "rounds"

    def __post_init__(self) -> None:
        parts = (self.parts,) if isinstance(self.parts, Prox | str) else self.parts
        parts = tuple(as_prox(p) for p in parts)
        odd = next((p for p in parts if not (p.is_set and p.convex and p.exact)), None)
        if not parts or odd is not None:
            raise ValueError(
                f"Dykstra was given {odd or 'nothing'}; convex sets are needed, e.g. Dykstra((Simplex(dim=0), Isotonic(dim=0)))"
            )
        object.__setattr__(self, "parts", parts)
        check_rounds(self)

    @property
    def members(self) -> tuple[Prox, ...]:
        return self.parts

    @property
    def metric(self) -> Any:  # type: ignore[override]  # in a badly conditioned one the rounds would not settle
        return "element" if self.dims == () else "group"

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return in_turn(self, self.parts, x, step, self.tol, self.most)

    @property
    def T(self) -> Prox:
        return dataclasses.replace(self, parts=tuple(p.T for p in self.parts))

    def take(self, index: Index, dim: int) -> Prox:
        return dataclasses.replace(self, parts=tuple(p.take(index, dim) for p in self.parts))

    def _write(self, tensors: dict[str, Tensor]) -> str:
        parts = "".join(f"{p._write(tensors)}, " for p in self.parts)
        return f"Dykstra(({parts.removesuffix(' ' if len(self.parts) == 1 else ', ')}){rounds_written(self)})"


def check_rounds(op: Any) -> None:
    store(op, "tol", 0)
    if isinstance(op.most, bool) or not hasattr(op.most, "__index__") or op.most < 1:
        raise ValueError(f"most of {type(op).__name__} is {op.most!r}; a number of rounds from 1 on is needed")


def rounds_written(op: Any) -> str:
    fields = {f.name: f.default for f in dataclasses.fields(op)}
    return "".join(f", {name}={getattr(op, name)!r}" for name in ("tol", "most") if getattr(op, name) != fields[name])


def in_turn(op: Prox, parts: Sequence[Prox], x: Tensor, step: Step, tol: float, most: int) -> Tensor:
    """argmin Σ g_i(y) + Σ (y - x)² / (2 step): each prox in turn, without what it did last time (Bauschke and Combettes 2008).

    It climbs the dual problem coordinate by coordinate (Tseng 1993), and so converges for any number of convex terms; for two
    it is a gradient method on the second's dual, and is accelerated as one (Chambolle and Pock 2015), from the start again
    where the momentum points back (O'Donoghue and Candès 2015).
    """
    start = widest(x)
    step = step.double() if isinstance(step, Tensor) else step
    held = [torch.zeros_like(start) for _ in parts]
    halfway = (start.new_zeros(()), start.new_zeros(()))
    last, pace, change, y = held[-1], start.new_ones((), dtype=torch.float64), torch.zeros(()), start
    for turn in range(1, most + 1):
        before = [*held[:-1], last]
        for i, p in enumerate(parts):
            z = start - sum(h for j, h in enumerate(held) if j != i)
            y = p._prox(z, step)
            held[i], guess = z - y, held[i]
        if turn % 8 == 0 or turn == most:
            change = torch.stack([largest(a - b) for a, b in zip(held, before, strict=True)]).amax()
            if not bool(change > tol * torch.maximum(largest(y), largest(start))):  # so too where there is a NaN
                return y.to(x.dtype)
        if turn == most // 2:
            halfway = _apart(parts, y, held)
        last, gain = held[-1], held[-1] - last
        if len(parts) == 2:
            pace = torch.where(((guess - last) * gain.conj()).sum().real > 0, 1.0, pace)
            longer = (1 + (1 + 4 * pace**2).sqrt()) / 2
            held[-1], pace = last + (pace - 1) / longer * gain, longer
    apart, moved = _apart(parts, y, [*held[:-1], last])
    # Where sets do not meet, their distance settles and each round moves y as far again; cones have 0 in common.
    settled = (apart > 1e-6 * torch.maximum(largest(y), largest(start))) & (apart > 0.95 * halfway[0])
    if not all(p.cone for p in parts) and bool(settled & (moved > 1.5 * halfway[1])):
        raise ValueError(f"{op!r}: the sets do not meet; after {most} rounds they are still {apart.item():.1e} apart")
    warnings.warn(f"{op!r} has not settled to {tol:g} in {most} rounds: the last changed it by {change.item():.1e}", stacklevel=4)
    return y.to(x.dtype)


def _apart(parts: Sequence[Prox], y: Tensor, held: list[Tensor]) -> tuple[Tensor, Tensor]:
    """How far outside a set y is, and how far the sets have moved it in all."""
    return torch.stack([largest(p.violation(y)) for p in parts]).amax(), torch.stack([largest(h) for h in held]).amax()


# ── plain functions ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False, repr=False)
class Function(Prox):
    """A plain function or nn.Module as an operator: whatever it computes is taken as prox(x).

    It gets the step through a parameter called ``step``, or through a required second one; else it is called with x
    alone, as is a functools.partial that has set the step. Since nothing is known of what it minimises, it counts as
    inexact: no certificate, value 0 unless the function has an attribute ``value``, and any entry may depend on any
    other. Raises ValueError if the shape or the dtype changes, or if it makes NaN of numbers.

    >>> from proxfactor import as_prox
    >>> as_prox(torch.nn.Threshold(0, 0))(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    fn: Callable
    listed = False
    foreign = True
    convex = False
    exact = False
    metric = "group"
    dims = None

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        how = _takes_step(self.fn)
        given: dict[str, Any] = {"keyword": {"step": step}}.get(how, {})
        y = self.fn(x.clone(), step) if how == "second" else self.fn(x.clone(), **given)
        return sound(self, y, x).detach().to(x.device)

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
