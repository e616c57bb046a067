"""``+``: the sums for which an exact rule is proved, the splitting for convex ones without a rule, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from . import balls, entries, groups, norms, order, penalties, simplices, variation
from .base import Index, Prox, Step, largest, times
from .built import Several, Transposed, check_rounds, in_turn, rounds_written, widest


@dataclass(frozen=True, eq=False, repr=False)
class Sum(Several):
    """A sum of operators that exact rules cover: the summands are applied one after the other, each with the same step.

    It is made by ``+``, not by hand, in whatever order is the right one. Where a rule holds only for steps that are constant
    over the coupled dims, ``metric`` says "group".

    >>> from proxfactor import L1, NonNegative
    >>> (NonNegative() + L1(1.0))(torch.tensor([-3.0, 3.0]))
    tensor([0., 2.])
    """

    parts: tuple[Prox, ...]
    listed = False

    @property
    def members(self) -> tuple[Prox, ...]:
        return self.parts

    @property
    def metric(self) -> Any:  # type: ignore[override]
        return self._order[1]

    @cached_property
    def _order(self) -> tuple[tuple[Prox, ...], str]:
        return _chain(self.parts) or (self.parts, "group")

    @cached_property
    def attained(self) -> bool:  # type: ignore[override]
        return self._endless or any(_is(p, Compact) for p in self.parts) or _kept(self.parts)

    @cached_property
    def _endless(self) -> bool:
        """Whether the parts take an infinite step: all have a minimiser, or a ridge comes first and makes it finite."""
        ridge = any(_is(p, Ridge) and bool((torch.as_tensor(_weight(p)) > 0).all()) for p in self.parts)
        return ridge or all(p.attained for p in self.parts)

    @property
    def streams(self) -> bool:  # type: ignore[override]
        return all(p.streams for p in self.parts)

    @cached_property
    def elastic(self) -> tuple[float, float, float, float] | None:  # type: ignore[override]
        return None if self.net is None or isinstance(self.net[3], Tensor) else self.net  # type: ignore[return-value]

    @cached_property
    def net(self) -> tuple[float, float, float, Step] | None:
        lo, hi, l1, l2 = zip(*(p.net or (math.inf,) * 4 for p in self.parts), strict=True)
        return None if math.inf in l1 else (max(lo), min(hi), sum(l1), sum(l2))

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if self._endless or (not isinstance(step, Tensor) and step < math.inf):
            return self._one_by_one(x, step)
        s = entries.scalar(x, step)
        free = s == math.inf
        if self._stopped:  # as far as the bounds allow
            side = self._stopped[0].to(x)
            end = torch.where(side == 0, x, side * torch.finfo(x.dtype).max)
            for p in self._stopped[1]:
                end = p._prox(end, 1.0)
            return torch.where(free, end, self._one_by_one(x, torch.where(free, 1.0, s)))
        far = 1e8 * largest(x).double().clamp(min=1.0)  # a very long step: it goes as far as is needed, and x is still felt
        return self._one_by_one(widest(x), torch.where(free, far, s.double())).to(x.dtype)

    @cached_property
    def _stopped(self) -> tuple[Tensor, list[Prox]] | tuple[()]:
        """Where the parts without a minimiser fall, and the bounds, if there is nothing else."""
        falling, others = _split(self._order[0], lambda p: not p.attained)
        side = _side(falling) if all(_is(p, Bounds) for p in others) else None
        return () if side is None else (side, others)

    def _one_by_one(self, x: Tensor, step: Step) -> Tensor:
        ours = False  # whether x is a tensor that nobody else holds, nor the tape of gradients
        for p in self._order[0]:
            x = p._prox_(x, step) if ours else p._prox(x, step)
            ours = not x.requires_grad
            step = _beside(step, entries.weight(x, _weight(p))) if _is(p, Ridge) else step
        return x

    def value(self, x: Tensor) -> Tensor:
        return total(p.value(x) for p in self.parts)

    @property
    def T(self) -> Prox:
        return Sum(tuple(p.T for p in self.parts))

    def take(self, index: Index, dim: int) -> Prox:
        return Sum(tuple(p.take(index, dim) for p in self.parts))

    def _write(self, tensors: dict[str, Tensor]) -> str:
        return " + ".join(p._write(tensors) for p in self.parts)


@dataclass(frozen=True, eq=False, repr=False)
class Split(Several):
    """A sum of convex operators without an exact rule, by splitting: each prox in turn, without what it did last time.

    It is made by ``+``; by hand it takes such a sum: Split(Simplex(dim=0) + Smooth(dim=1), tol=1e-12). The rounds end
    when that changes by less than tol times the largest entry. No certificate is given (``exact`` is False), and ``terms`` are
    the summands, put together where a rule is exact, for solvers that give each its own dual. Raises ValueError where sets
    do not meet; warns where ``most`` rounds do not settle it. (Bauschke and Combettes 2008; Tseng 1993.)

    >>> from proxfactor import Simplex, SumToOne
    >>> (Simplex(dim=0) + SumToOne(dim=1))(torch.tensor([[3.0, 1.0], [1.0, 0.0]]))
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]])
    """

    parts: tuple[Prox, ...]
    tol: float = 1e-10
    most: int = 3000
    formula = "Σ g_i(x)"
    cost = "rounds"
    exact = False

    def __post_init__(self) -> None:
        parts = _leaves(self.parts) if isinstance(self.parts, Prox) else self.parts
        odd = next((p for p in parts if not (isinstance(p, Prox) and p.convex and p.exact)), None)
        if not parts or odd is not None:
            raise ValueError(f"Split was given {odd or 'nothing'}; convex operators are needed, e.g. Split(Simplex(dim=0) + L1())")
        object.__setattr__(self, "parts", tuple(parts))
        check_rounds(self)

    @property
    def members(self) -> tuple[Prox, ...]:
        return self.parts

    @property
    def terms(self) -> tuple[Prox, ...]:
        together: list[tuple[Prox, ...]] = []
        for p in self.parts:
            home = next((i for i, ps in enumerate(together) if _chain((*ps, p))), None)
            if home is None:
                together.append((p,))
            else:
                together[home] += (p,)
        return tuple(ps[0] if len(ps) == 1 else Sum(ps) for ps in together)

    @property
    def metric(self) -> Any:  # type: ignore[override]  # in a badly conditioned one the rounds would not settle
        return "element" if self.dims == () else "group"

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if not self.is_set:  # an infinite step is a very long one: beside it no rounding of x is felt
            far = 1e6 * largest(x).double().clamp(min=1.0)
            step = torch.minimum(step, far) if isinstance(step, Tensor) else far if step == math.inf else step
        return in_turn(self, sorted(self.terms, key=lambda p: p.is_set), x, step, self.tol, self.most)

    def value(self, x: Tensor) -> Tensor:
        return total(p.value(x) for p in self.parts)

    @property
    def T(self) -> Prox:
        return dataclasses.replace(self, parts=tuple(p.T for p in self.parts))

    def take(self, index: Index, dim: int) -> Prox:
        return dataclasses.replace(self, parts=tuple(p.take(index, dim) for p in self.parts))

    def _write(self, tensors: dict[str, Tensor]) -> str:
        return f"Split({' + '.join(p._write(tensors) for p in self.parts)}{rounds_written(self)})"


def total(values: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


# ── the kinds of terms that the rules speak of ────────────────────────────────────────────────────────────────────────

Kinds = tuple[type[Prox], ...]

Ridge: Kinds = (entries.L2Squared,)
Slope: Kinds = (entries.Linear,)
Bounds: Kinds = (entries.NonNegative, entries.NonPositive, entries.Box, entries.Fixed, balls.LInfBall)

# every entry lies between two finite bounds
Compact: Kinds = (
    *(simplices.Simplex, simplices.SolidSimplex, simplices.CappedSimplex, simplices.SparseSimplex),
    *(balls.L1Ball, balls.L1Sphere, balls.L2Ball, balls.LInfBall, balls.L1L2Ball, balls.ElasticNetBall),
    *(balls.Sphere, balls.NonNegativeSphere),
)

# without a minimiser: they fall where every entry grows, or falls, and grow beyond all bounds on the way back
Rising: Kinds = (penalties.Exponential, norms.Max, norms.SumLargest)
Sinking: Kinds = (penalties.Logistic, penalties.LogBarrier, penalties.Inverse)

# g looks only at the sizes |x|, and does not fall where one of them grows
Sizes: Kinds = (
    *(entries.L1, penalties._Even, penalties._Folded, balls.LInfBall),
    *(norms.L2, norms.L2Cubed, norms.LInf, norms.SumLargestAbs, norms.KSupport, norms.Slope, norms.L1MinusL2),
    *(groups._Groups, groups._Sets, balls._Groups),
    *(balls.L1Ball, balls.L2Ball, balls.L1L2Ball, balls.ElasticNetBall, balls.TopK, balls.NofM),
)

# the subgradients of g tell only which neighbours, or which extremes, are above which: no increasing map takes one away
Order: Kinds = (order.Isotonic, variation.TotalVariation, norms.Max, norms.Range, norms.SumLargest)

# g is convex and the same for every order of a slice: its prox keeps the order and what is equal
Symmetric: Kinds = (
    *(simplices.Simplex, simplices.SolidSimplex, simplices.CappedSimplex, simplices.SumToOne),
    *(norms.LInf, norms.Max, norms.Range, norms.SumLargest, norms.SumLargestAbs, norms.KSupport, norms.Slope),
    *(groups.GroupLasso, groups.ExclusiveLasso),
    *(balls.L1Ball, balls.L2Ball, balls.L1L2Ball, balls.ElasticNetBall),
)

# g(t x) = t g(x) for t > 0, beside the sets that are cones
Homogeneous: Kinds = (
    *(entries.L1, variation.TotalVariation, variation.TrendFilter, groups.GroupLasso, groups._Sets),
    *(norms.L2, norms.LInf, norms.Max, norms.Range, norms.SumLargest, norms.SumLargestAbs, norms.Slope),
)

# g looks only at the length ‖x‖ of a slice, and does not fall where it grows
Length: Kinds = (groups.GroupLasso, groups.GroupL0, groups._Radial, balls.L2Ball, norms.L2, norms.L2Cubed)


def _core(p: Prox) -> Prox:
    return _core(p.inner) if isinstance(p, Transposed) else p


def _is(p: Prox, kinds: Kinds) -> bool:
    """Whether an operator is of these kinds, as a whole slice: not if it has groups of its own."""
    core = _core(p)
    return isinstance(core, kinds) and (kinds in (Sizes, Homogeneous) or getattr(core, "groups", None) is None)


def _even(p: Prox) -> bool:
    """The same function for every entry."""
    return p.dims == () and p.convex and not any(True for _ in p._tensors())


def _within(a: Prox, b: Prox) -> bool:
    """Whether each slice that a couples lies in one slice of b."""
    return b.dims is None or (a.dims is not None and {d % 2 for d in a.dims} <= {d % 2 for d in b.dims})


# ── the rules: a first, then b, is the prox of a + b ──────────────────────────────────────────────────────────────────
# Each holds for the sum of several such b too, and so the terms are taken off one by one. Each says in which metrics.


def _ridge(a: Prox, b: Prox) -> bool:
    """A ridge, then any term: completing the square; b then has the step s / (1 + s λ), a tensor if λ is one."""
    return _is(a, Ridge) and (isinstance(_weight(a), float) or b.metric != "group")


def _slope(a: Prox, b: Prox) -> bool:
    """A linear term, then any term: it moves x."""
    return _is(a, Slope)


def _signs(a: Prox, b: Prox) -> bool:
    """L1 or an entrywise cone, then a term of the sizes |x| that never falls in them: it sends entries of the wrong sign to 0."""
    return (_is(a, (entries.L1,)) or (_is(a, Bounds) and a.cone)) and _is(b, Sizes)


def _order(a: Prox, b: Prox) -> bool:
    """Order, jumps or extremes, then a term that is the same for every entry or order: its prox keeps the order (Yu 2013)."""
    alike = _is(b, Symmetric) and b.dims is not None and _within(a, b) and _within(b, a)
    return _is(a, Order) and (alike or _even(b) or _is(b, (norms.L2, norms.L2Cubed)))


def _order_clipped(a: Prox, b: Prox) -> bool:
    """Order, jumps or extremes, then bounds that are the same for every entry: as below, and clipping does not look at the step."""
    return _is(a, Order) and _is(b, Bounds) and _even(b)


def _length(a: Prox, b: Prox) -> bool:
    """A homogeneous term or a cone, then a term of the length of its slices: the best direction does not depend on the length."""
    return (_is(a, Homogeneous) or (a.is_set and a.cone)) and _is(b, Length) and _within(a, b)


def _clip(a: Prox, b: Prox) -> bool:
    """Convex entrywise terms, then bounds: a convex function of one number is least in an interval at the clipped minimiser."""
    return _is(b, Bounds) and a.dims == () and a.convex


def _sparse_sphere(a: Prox, b: Prox) -> bool:
    """A sphere, its part above zero too, then TopK along the same dim: the largest entries of its point, lengthened to it again."""
    return _is(a, (balls.Sphere, balls.NonNegativeSphere)) and _is(b, (balls.TopK,)) and _within(a, b) and _within(b, a)


FIRST: tuple[tuple[Callable[[Prox, Prox], bool], bool], ...] = (  # a before all others; whether in any metric
    (_ridge, True),
    (_slope, True),
    (_signs, True),
    (_order_clipped, True),
    (_order, False),
    (_length, False),
)
LAST = _clip  # b after all others, in any metric


def _chain(parts: Sequence[Prox]) -> tuple[tuple[Prox, ...], str] | tuple[()]:
    """The order of application and the metric in which it is exact; () where no rule is known.

    What can be taken off first or last is: the rules of the others do not need it.
    """
    if len(parts) == 1:
        return tuple(parts), parts[0].metric
    if len(parts) == 2 and (twice := next((p for p in parts for q in parts if _sparse_sphere(p, q)), None)):
        return (twice, *(q for q in parts if q is not twice), twice), "group"
    for i, p in enumerate(parts):
        rest = [*parts[:i], *parts[i + 1 :]]
        any_metric = next((safe for rule, safe in FIRST if all(rule(p, q) for q in rest)), None)
        last = any_metric is None and all(LAST(q, p) for q in rest)
        if any_metric is None and not last:
            continue
        if not (found := _chain(rest)):
            return ()
        kinds = {found[1], p.metric, *([] if any_metric or last else ["group"])}
        metric = next(m for m in ("group", "weighted", "element") if m in kinds)
        if metric == "group" and _is(p, Ridge) and not isinstance(_weight(p), float):
            return ()
        return ((*found[0], p) if last else (p, *found[0])), metric
    return ()


def _weight(p: Prox) -> Step:
    return dict(p._tensors()).get("lam", getattr(_core(p), "lam", 0.0))


def _beside(step: Step, lam: Step) -> Step:
    """s / (1 + s λ), which is 1 / λ for an infinite step."""
    if not isinstance(step, Tensor) and not isinstance(lam, Tensor):
        return (1 / lam if lam else step) if step == math.inf else step / (1 + step * lam)
    dtype = step.dtype if isinstance(step, Tensor) else lam.dtype if isinstance(lam, Tensor) else None
    s, weight = torch.as_tensor(step, dtype=dtype), torch.as_tensor(lam, dtype=dtype)  # a number alone would be a float32
    all_of_it = 1 + torch.as_tensor(times(s, weight))
    return torch.where(all_of_it == math.inf, 1 / weight, s / all_of_it)


# ── infinite steps ────────────────────────────────────────────────────────────────────────────────────────────────────


def _split(parts: Sequence[Prox], which: Callable[[Prox], bool]) -> tuple[list[Prox], list[Prox]]:
    return [p for p in parts if which(p)], [p for p in parts if not which(p)]


def _side(falling: Sequence[Prox]) -> Tensor | None:
    """Where all these fall, entry by entry: 1 upwards, -1 downwards, 0 if none of them looks at it; None if they differ."""
    sides: list[Tensor] = []
    for p in falling:
        if not _is(p, (*Slope, *Rising, *Sinking)):
            return None
        name = "c" if _is(p, Slope) else "lam"
        lam = dict(p._tensors()).get(name, getattr(_core(p), name))
        sides.append(torch.as_tensor(lam, dtype=torch.float64).sign() * (1 if _is(p, Sinking) else -1))
    try:
        every = torch.stack(torch.broadcast_tensors(*sides))
    except RuntimeError:  # tensors that do not fit together
        return None
    low, high = every.amin(0), every.amax(0)
    return None if bool((low * high < 0).any()) else (low + high).sign()


def _kept(parts: Sequence[Prox]) -> bool:
    """Whether bounds stop every entry on the side where those parts fall that have no minimiser."""
    falling, others = _split(parts, lambda p: not p.attained)
    side, bounds = _side(falling), [p for p in others if _is(p, Bounds)]
    tensors = [t for p in bounds for _, t in p._tensors()]
    low, high = _ends(bounds, torch.broadcast_shapes(*(t.shape for t in tensors), (1, 1)))
    if side is None:  # they may hold each other: bounds on both sides always do
        return bool(((low > -1e299) & (high < 1e299)).all())
    return bool(torch.where(side < 0, low > -1e299, (side == 0) | (high < 1e299)).all())


def _ends(bounds: Sequence[Prox], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The interval of each entry, ±1e300 where there is no bound."""
    low, high = (torch.full(tuple(shape), v, dtype=torch.float64) for v in (-1e300, 1e300))
    for p in bounds:
        low, high = (
            torch.maximum(low, p._prox(torch.full_like(low, -1e300), 0.0)),
            torch.minimum(high, p._prox(torch.full_like(high, 1e300), 0.0)),
        )
    return low, high


# ── + ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _leaves(p: Prox) -> tuple[Prox, ...]:
    if isinstance(p, Transposed) and isinstance(_core(p), Sum | Split):
        return tuple(q.T for q in _leaves(p.inner))
    return p.parts if isinstance(p, Sum | Split) else (p,)


def add(a: Prox, b: Prox) -> Prox:
    parts = [p for s in (a, b) for p in _leaves(s) if not isinstance(p, entries.Unconstrained)]
    if len(parts) < 2:
        return parts[0] if parts else a
    rounds: dict[str, Any] = next(({"tol": s.tol, "most": s.most} for s in (a, b) if isinstance(s, Split)), {})
    refused = f"no exact rule is known for {a!r} + {b!r}"
    if odd := next((p for p in parts if not p.exact), None):
        way = "put one on one factor and the other on the other factor"
        raise ValueError(f"{refused}: {odd!r} cannot be summed, as it is no proximal operator; {way}")
    parts = _merged(parts)
    if len(parts) == 1:
        return parts[0]
    _meet(parts)
    if _chain(parts):
        return Sum(tuple(parts))
    if odd := next((p for p in parts if not p.convex), None):
        way = "put one on one factor and the other on the other factor, or take a convex operator instead"
        raise ValueError(f"{refused}, and no splitting finds the minimum, as {odd!r} is not convex; {way}")
    return Split(tuple(parts), **rounds)


def _merged(parts: list[Prox]) -> list[Prox]:
    """Two terms that are one operator of the catalogue."""
    for i, p in enumerate(parts):
        for j, q in enumerate(parts):
            if i != j and (one := _one(p, q)):
                return _merged([one if k == i else r for k, r in enumerate(parts) if k != j])
    return parts


def _one(p: Prox, q: Prox) -> Prox | None:
    if isinstance(q, Transposed) and _even(p):
        return one.T if (one := _one(p, q.inner)) else None
    match p, q:
        case entries.NonNegative(), entries.NonNegative() | simplices.Simplex() | simplices.SolidSimplex():
            return q
        case (
            entries.NonNegative(),
            simplices.CappedSimplex() | simplices.SparseSimplex() | balls.NonNegativeSphere() | balls.Hoyer(),
        ):
            return q
        case entries.NonNegative(), simplices.SumToOne():
            return simplices.Simplex(q.dim)
        case entries.NonNegative(), order.Unimodal():
            return dataclasses.replace(q, nonneg=True)
        case entries.NonNegative(), balls.Sphere():
            return balls.NonNegativeSphere(q.dim, q.radius)
        case entries.Box(lo=float(low), hi=float(cap)), simplices.Simplex() if low == 0 and cap < math.inf:
            return simplices.CappedSimplex(q.dim, q.total, cap)
        case entries.L1(), entries.L1():
            return _heavier(p, q)
    return None


def _heavier(p: entries.L1, q: entries.L1) -> Prox | None:
    try:
        return entries.L1(p.lam + q.lam)
    except RuntimeError:  # tensors of shapes that do not fit together, and are refused with the others
        return None


def _meet(parts: list[Prox]) -> None:
    """Raises ValueError where two parts exclude each other: intervals that do not overlap, a known value outside."""
    single = [p for p in parts if p.dims == () and p.convex and p.exact]
    for i, p in enumerate(single):
        for q in single[i + 1 :]:
            if not (_is(p, Bounds) or _is(q, Bounds)):
                continue
            try:
                shape = torch.broadcast_shapes(*(t.shape for _, t in [*p._tensors(), *q._tensors()]), (1, 1))
            except RuntimeError:
                raise ValueError(f"the tensors of {p!r} and {q!r} do not fit together; each must broadcast to the factor") from None
            low, high = _ends((p, q), shape)
            if bool((low > high + 1e-6 * high.abs()).any()):  # float32 values against float64 bounds
                raise ValueError(f"{p!r} and {q!r} do not meet: no entry satisfies both; widen the bounds or change the values")
