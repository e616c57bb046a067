"""Groups of entries that come and go together: disjoint ones by labels, overlapping and nested ones by their indices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from .base import Along, Prox, Step, array, times
from .norms import double, filled, fitting, length, nothing, share, shrink
from .penalties import MCP, SCAD, LHalf


class _Groups(Along):
    """A penalty of each group: ``_each`` gets x and step λ as (…, groups, members), padded with zeros."""

    lam: float | tuple[float, ...]
    groups: tuple[int, ...] | None
    is_set = False
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = type(self).__name__
        if self.groups is not None:
            given = self.groups.tolist() if hasattr(self.groups, "tolist") else self.groups
            if isinstance(given, str) or not isinstance(given, Sequence) or not given or not all(_whole(i) for i in given):
                raise ValueError(f"groups of {kind} is {self.groups!r}; one whole number per entry is needed, e.g. (0, 0, 1, 1, 2)")
            object.__setattr__(self, "groups", tuple(int(i) for i in given))
        number = 1 if self.groups is None else len(set(self.groups))
        object.__setattr__(self, "lam", _weights(self.lam, number, kind))

    @cached_property
    def _layout(self) -> _Layout:
        labels = self.groups or ()
        return _layout(tuple(tuple(i for i, label in enumerate(labels) if label == g) for g in sorted(set(labels))), len(labels))

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        if self.groups is not None:
            fitting(self, len(self.groups), shape[self.dim], shape, name)

    def _split(self, x: Tensor) -> Tensor:
        """(…, n) as (…, groups, members)."""
        if self.groups is None:
            return x[..., None, :]
        fitting(self, len(self.groups), x.shape[-1], tuple(x.movedim(-1, self.dim).shape))
        return self._layout.split(x)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if not x.numel():
            return x.clone()
        x, s = x.movedim(self.dim, -1), filled(x, step).movedim(self.dim, -1)
        s = s[..., None] if s.shape[-1] == 1 else self._split(s)
        y = self._each(self._split(x), torch.as_tensor(times(s, _column(self.lam, x))))
        return (y[..., 0, :] if self.groups is None else self._layout.join(y)).movedim(-1, self.dim)

    @abstractmethod
    def _each(self, x: Tensor, t: Tensor) -> Tensor: ...

    def value(self, x: Tensor) -> Tensor:
        if not x.numel():
            return nothing(x)
        x = double(x).movedim(self.dim, -1)
        return (self._size(self._split(x)) * _column(self.lam, x)).sum()

    def _size(self, x: Tensor) -> Tensor:
        return length(x)


@dataclass(frozen=True, eq=False, repr=False)
class GroupLasso(_Groups):
    """Whole slices, or groups of their entries, that are zero: g = λ Σ ‖x_g‖₂, prox(x_g) = max(1 - step λ / ‖x_g‖₂, 0) x_g.

    Without ``groups`` each slice along dim is one group (the L2,1 norm); else groups is a tuple of labels, one whole number
    for each entry along dim, e.g. (0, 0, 1, 1, 2). λ ≥ 0 is a number, or a tuple with one weight per label in rising order.
    A tensor of steps is honoured exactly: x_g r / (r + step λ) with ‖x_g / (r + step λ)‖₂ = 1. (Yuan and Lin 2006.)

    >>> GroupLasso(1)(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    tensor([[2.4000, 3.2000],
            [0.0000, 0.0000]])
    """

    dim: int
    lam: float | tuple[float, ...] = 1.0
    groups: tuple[int, ...] | None = None
    alias = "l21"
    formula = "λ Σ‖x_g‖₂ along dim"
    metric = "weighted"
    complex = True

    def _each(self, x: Tensor, t: Tensor) -> Tensor:
        return shrink(x, t)


@dataclass(frozen=True, eq=False, repr=False)
class GroupL0(_Groups):
    """Few slices (or groups) that are not zero: g = λ times their number, prox(x_g) = x_g where Σ x² / step > 2 λ, else 0.

    groups and λ as in GroupLasso. The prox is exact in any diagonal metric.

    >>> GroupL0(1)(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    tensor([[3., 4.],
            [0., 0.]])
    """

    dim: int
    lam: float | tuple[float, ...] = 1.0
    groups: tuple[int, ...] | None = None
    formula = "λ · number of x_g ≠ 0 along dim"
    convex = False
    metric = "weighted"
    complex = True

    def _each(self, x: Tensor, t: Tensor) -> Tensor:
        a = x.detach().abs()
        kept = share(a, (2 * t).sqrt(), float("inf"))
        return torch.where(length(torch.where(a > 0, kept.clamp(max=2), 0.0)) > 1, x, 0.0)

    def _size(self, x: Tensor) -> Tensor:
        return (x != 0).any(-1, keepdim=True).double()


class _Radial(_Groups):
    """A penalty of one number, on the length of each group: the prox scales the group."""

    convex = False
    metric = "group"
    complex = True

    @abstractmethod
    def _scalar(self, lam: float) -> Prox: ...

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if not x.numel():
            return x.clone()
        x, s = x.movedim(self.dim, -1), filled(x, step).movedim(self.dim, -1)
        parts = self._split(x)
        r = length(parts)
        y = parts * share(self._lengths(r, s[..., None].expand(r.shape)), r)
        return (y[..., 0, :] if self.groups is None else self._layout.join(y)).movedim(-1, self.dim)

    def _each(self, x: Tensor, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _lengths(self, r: Tensor, s: Tensor) -> Tensor:
        if isinstance(self.lam, tuple):
            return torch.cat(
                [self._scalar(w)._prox(r[..., i : i + 1, :], s[..., i : i + 1, :]) for i, w in enumerate(self.lam)], -2
            )
        return self._scalar(self.lam)._prox(r, s)

    def value(self, x: Tensor) -> Tensor:
        if not x.numel():
            return nothing(x)
        r = length(self._split(double(x).movedim(self.dim, -1)))
        if isinstance(self.lam, tuple):
            return torch.stack([self._scalar(w).value(r[..., i, :]) for i, w in enumerate(self.lam)]).sum()
        return self._scalar(self.lam).value(r)


@dataclass(frozen=True, eq=False, repr=False)
class GroupMCP(_Radial):
    """Group selection with less bias: MCP of the length of each slice or group, g = Σ MCP(‖x_g‖₂).

    groups and λ as in GroupLasso, γ as in MCP. (Breheny and Huang 2015.)

    >>> GroupMCP(1, lam=1.0, gamma=3.0)(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    tensor([[3., 4.],
            [0., 0.]])
    """

    dim: int
    lam: float | tuple[float, ...] = 1.0
    gamma: float = 3.0
    groups: tuple[int, ...] | None = None
    formula = "Σ MCP(‖x_g‖₂) along dim"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "gamma", _number(MCP(1.0, self.gamma).gamma, "gamma of GroupMCP"))

    def _scalar(self, lam: float) -> Prox:
        return MCP(lam, self.gamma)


@dataclass(frozen=True, eq=False, repr=False)
class GroupSCAD(_Radial):
    """Group selection with less bias: SCAD of the length of each slice or group, g = Σ SCAD(‖x_g‖₂).

    groups and λ as in GroupLasso, a as in SCAD. (Wang, Chen and Li 2007.)

    >>> GroupSCAD(1, lam=1.0, a=3.7)(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    tensor([[3., 4.],
            [0., 0.]])
    """

    dim: int
    lam: float | tuple[float, ...] = 1.0
    a: float = 3.7
    groups: tuple[int, ...] | None = None
    formula = "Σ SCAD(‖x_g‖₂) along dim"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "a", _number(SCAD(1.0, self.a).a, "a of GroupSCAD"))

    def _scalar(self, lam: float) -> Prox:
        return SCAD(lam, self.a)


@dataclass(frozen=True, eq=False, repr=False)
class GroupLHalf(_Radial):
    """Group selection that is stronger than the lasso's: g = λ Σ √‖x_g‖₂ over slices or groups.

    groups and λ as in GroupLasso; the length of each group goes through LHalf. (Hu et al. 2017.)

    >>> GroupLHalf(1)(torch.tensor([[0.3, 0.4]]))
    tensor([[0., 0.]])
    """

    dim: int
    lam: float | tuple[float, ...] = 1.0
    groups: tuple[int, ...] | None = None
    formula = "λ Σ √‖x_g‖₂ along dim"

    def _scalar(self, lam: float) -> Prox:
        return LHalf(lam)


@dataclass(frozen=True, eq=False, repr=False)
class ExclusiveLasso(_Groups):
    """Few entries within each slice (or group), none of them left out: g = λ/2 Σ ‖x_g‖₁².

    prox(x) = sign(x) max(|x| - step λ T, 0), where T = max Σ |x| / (1 + Σ step λ) over the leading parts in the order of
    |x| / step is the L1 norm of the result. groups and λ as in GroupLasso. (Kowalski 2009; Zhou, Jin and Hoi 2010.)

    >>> ExclusiveLasso(0)(torch.tensor([3.0, -2.0, 0.5]))
    tensor([ 1.3333, -0.3333,  0.0000])
    """

    dim: int
    lam: float | tuple[float, ...] = 1.0
    groups: tuple[int, ...] | None = None
    formula = "λ/2 Σ‖x_g‖₁² along dim"
    cost = "n log n"
    metric = "weighted"
    complex = True

    def _each(self, x: Tensor, t: Tensor) -> Tensor:
        a, t = x.abs(), t.expand(x.shape)
        order = share(a.detach(), t, float("inf")).argsort(-1, descending=True)
        total = (a.gather(-1, order).cumsum(-1) / (1 + t.gather(-1, order).cumsum(-1))).amax(-1, keepdim=True)
        free = t == float("inf")
        return x * share(torch.where(free, 0.0, (a - torch.where(free, 0.0, t) * total).clamp(min=0)), a)

    def _size(self, x: Tensor) -> Tensor:
        return x.abs().sum(-1, keepdim=True).square() / 2


class _Sets(Along):
    """A sum of λ ‖x_g‖₂ over groups that are given by their indices along dim."""

    lam: float | tuple[float, ...]
    groups: tuple[tuple[int, ...], ...]
    is_set = False
    cone = True
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = type(self).__name__
        given = self.groups
        if isinstance(given, str) or not isinstance(given, Sequence) or not given or not all(_indices(g) for g in given):
            raise ValueError(
                f"groups of {kind} is {given!r}; a tuple of tuples of indices along dim is needed, none of them empty and no "
                "index twice in one, e.g. ((0, 1, 2), (2, 3))"
            )
        object.__setattr__(self, "groups", tuple(tuple(int(i) for i in g) for g in given))
        object.__setattr__(self, "lam", _weights(self.lam, len(given), kind))

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._reach(shape[self.dim], shape, name)

    def _reach(self, n: int, shape: tuple[int, ...], name: str = "x") -> None:
        last = max(max(g) for g in self.groups)
        if last >= n:
            raise ValueError(f"{self!r} on {name} of shape {tuple(shape)}: there is no index {last} along dim {self.dim}")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._reach(x.shape[self.dim], tuple(x.shape))
        if not x.numel():
            return x.clone()
        return self._solve(x.movedim(self.dim, -1), filled(x, step).movedim(self.dim, -1)).movedim(-1, self.dim)

    def value(self, x: Tensor) -> Tensor:
        self._reach(x.shape[self.dim], tuple(x.shape))
        if not x.numel():
            return nothing(x)
        x = double(x).movedim(self.dim, -1)
        return (length(_layout(self.groups, x.shape[-1]).split(x)) * _column(self.lam, x)).sum()

    @abstractmethod
    def _solve(self, x: Tensor, t: Tensor) -> Tensor: ...

    def _layers(self, n: int, layers: Sequence[Sequence[int]], x: Tensor) -> list[tuple[_Layout, Step]]:
        """Disjoint groups together: where their entries lie, and their weights."""
        lam = self.lam
        weights = [tuple(lam[g] for g in layer) if isinstance(lam, tuple) else lam for layer in layers]
        tables = [_layout(tuple(self.groups[g] for g in layer), n) for layer in layers]
        return [(table, _column(w, x)) for table, w in zip(tables, weights, strict=True)]


@dataclass(frozen=True, eq=False, repr=False)
class TreeGroups(_Sets):
    """Groups that are nested or disjoint, such as a tree's: g = λ Σ ‖x_g‖₂; a group that goes takes those inside it along.

    One pass of group thresholding, the innermost groups first, is exact (Jenatton et al. 2011). groups is a tuple of tuples of
    indices along dim, λ ≥ 0 a number or a tuple with one weight per group. Raises ValueError for two groups that overlap
    without one holding the other: OverlappingGroups takes these.

    >>> TreeGroups(0, groups=((0, 1, 2), (1, 2)))(torch.tensor([3.0, 4.0, 3.0]))
    tensor([2.4000, 2.5600, 1.9200])
    """

    dim: int
    groups: tuple[tuple[int, ...], ...]
    lam: float | tuple[float, ...] = 1.0
    formula = "λ Σ‖x_g‖₂, nested groups along dim"
    metric = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        sets = sorted((frozenset(g) for g in self.groups), key=len)
        for i, small in enumerate(sets):
            for large in sets[i + 1 :]:
                if small & large and not small <= large:
                    both = f"{tuple(sorted(small))} and {tuple(sorted(large))}"
                    raise ValueError(
                        f"groups of TreeGroups: {both} overlap but are not nested; OverlappingGroups takes such groups"
                    )

    @cached_property
    def _order(self) -> list[list[int]]:
        """The groups by height: those that hold no other, those that hold such ones, …"""
        layers: list[list[int]] = []
        height = [0] * (1 + max(max(g) for g in self.groups))
        for g in sorted(range(len(self.groups)), key=lambda g: len(self.groups[g])):
            h = max(height[i] for i in self.groups[g])
            layers += [[]] if h == len(layers) else []
            layers[h].append(g)
            for i in self.groups[g]:
                height[i] = h + 1
        return layers

    def _solve(self, x: Tensor, t: Tensor) -> Tensor:
        for layout, lam in self._layers(x.shape[-1], self._order, x):
            x = layout.join(shrink(layout.split(x), torch.as_tensor(times(t[..., None], lam))), x)
        return x


@dataclass(frozen=True, eq=False, repr=False)
class OverlappingGroups(_Sets):
    """Groups that may overlap: g = λ Σ ‖x_g‖₂, so that the entries that stay are what no group that went has held.

    groups is a tuple of tuples of indices along dim, λ ≥ 0 a number or a tuple with one weight per group. Iterative: each
    group's share of x - prox(x) is made the best one given the others', groups that do not meet at once, with Nesterov's
    momentum, until no entry moves by more than 16 eps of the largest, or for 1000 sweeps: the objective is then exact to
    about 1e-9 of itself. (Block ascent of the dual: Jenatton et al. 2011. The entries that vanish form a union of groups:
    Jenatton, Audibert and Bach 2011.)

    >>> OverlappingGroups(0, groups=((0, 1), (1, 2)))(torch.tensor([3.0, 0.0, 0.5]))
    tensor([2., 0., 0.])
    """

    dim: int
    groups: tuple[tuple[int, ...], ...]
    lam: float | tuple[float, ...] = 1.0
    formula = "λ Σ‖x_g‖₂, overlapping groups along dim"
    cost = "n per sweep"
    metric = "group"

    @cached_property
    def _order(self) -> list[list[int]]:
        """The groups in layers of disjoint ones, each in the first layer that has room for it."""
        layers: list[list[int]] = []
        held: list[set[int]] = []
        for g, members in enumerate(self.groups):
            k = next((k for k, h in enumerate(held) if h.isdisjoint(members)), len(layers))
            if k == len(layers):
                layers.append([])
                held.append(set())
            layers[k].append(g)
            held[k].update(members)
        return layers

    def _solve(self, x: Tensor, t: Tensor) -> Tensor:
        layers = self._layers(x.shape[-1], self._order, x)
        steps = [torch.as_tensor(times(t[..., None], lam)) for _, lam in layers]
        shares = [torch.zeros_like(layout.split(x)) for layout, _ in layers]
        y, ahead, turn = x, [x, *shares], torch.ones_like(x[..., :1], dtype=x.dtype.to_real())
        tiny = 16 * torch.finfo(x.dtype).eps * x.detach().abs().amax(-1, keepdim=True)
        for sweep in range(1000):
            before, (y, *shares) = [y, *shares], ahead
            for i, ((layout, _), s) in enumerate(zip(layers, steps, strict=True)):
                whole = layout.split(y) + shares[i]
                part = shrink(whole, s)
                shares[i], y = whole - part, layout.join(part, y)
            moved = (y - before[0]).detach()
            if len(layers) == 1 or (sweep % 8 == 7 and bool((moved.abs() <= tiny).all())):
                break
            with torch.no_grad():  # Nesterov's momentum, given up where the dual falls
                turn = torch.where((y * moved.conj()).real.sum(-1, keepdim=True) > 0, 1.0, turn)
                longer = (1 + (1 + 4 * turn.square()).sqrt()) / 2
                rate, turn = (turn - 1) / longer, longer
            now = [y, *shares]
            ahead = [p + (rate if p is y else rate[..., None]) * (p - q) for p, q in zip(now, before, strict=True)]
        return y


class _Layout:
    """Where the entries of a slice of length n lie when its groups are the rows of a padded table, and back."""

    def __init__(self, groups: tuple[tuple[int, ...], ...], n: int):
        wide = max(len(g) for g in groups)
        back = list(range(n))
        for place, g in enumerate(groups):
            for j, i in enumerate(g):
                back[i] = n + place * wide + j
        members = [[*g, *(n,) * (wide - len(g))] for g in groups]
        self.groups, self.n = groups, n
        self.tables = {torch.device("cpu"): (torch.tensor(members), torch.tensor(back))}

    def __reduce__(self) -> tuple:
        return _Layout, (self.groups, self.n)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self.tables:  # a copy is a sync: once for each device
            members, back = self.tables[torch.device("cpu")]
            self.tables[device] = (members.to(device), back.to(device))
        return self.tables[device]

    def split(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros((*x.shape[:-1], 1))], -1)[..., self._on(x.device)[0]]

    def join(self, table: Tensor, rest: Tensor | None = None) -> Tensor:
        """The entries back in their places; those of no group from ``rest``."""
        flat = table.flatten(-2)
        rest = flat.new_zeros((*flat.shape[:-1], self.n)) if rest is None else rest
        return torch.cat([rest, flat], -1)[..., self._on(flat.device)[1]]


_layout = lru_cache(64)(_Layout)


def _column(lam: float | tuple[float, ...], x: Tensor) -> Step:
    """The weights of the groups as (groups, 1)."""
    return torch.tensor(lam, dtype=x.dtype.to_real(), device=x.device)[:, None] if isinstance(lam, tuple) else lam


def _weights(lam: Any, number: int, kind: str) -> float | tuple[float, ...]:
    given = array(lam, f"lam of {kind}")
    if given.ndim > 1 or (given.ndim == 1 and len(given) != number):
        raise ValueError(f"lam of {kind} has shape {tuple(given.shape)}; one number is needed, or {number}: one per group")
    if not bool(((given >= 0) & given.isfinite()).all()):
        raise ValueError(f"lam of {kind} is {lam}; it must be finite and at least 0")
    return tuple(given.tolist()) if given.ndim else given.item()


def _number(value: Step, what: str) -> float:
    if isinstance(value, Tensor):
        raise ValueError(f"{what} has shape {tuple(value.shape)}; it must be one number")
    return value


def _whole(i: Any) -> bool:
    return hasattr(i, "__index__") and not isinstance(i, bool)


def _indices(group: Any) -> bool:
    fine = isinstance(group, Sequence) and not isinstance(group, str) and len(group) > 0
    return fine and all(_whole(i) and i >= 0 for i in group) and len(set(group)) == len(group)
