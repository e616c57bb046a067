"""``+``: the sums for which an exact rule is proved, and what is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from .base import Index, Prox, Step
from .built import Transposed
from .entries import Box, Entropy, Fixed, L2Squared, NonNegative, Unconstrained


@dataclass(frozen=True, eq=False, repr=False)
class Sum(Prox):
    """A sum of operators that one exact rule covers: the summands are applied one after the other, each with the same step.

    It is made by ``+``, not by hand. Exact, in any diagonal metric: the bounds (NonNegative, Box, Fixed) after any convex
    operator that works entry by entry, since a convex function of one variable is minimised over an interval by clipping
    its minimiser; and L1 before L2Squared, the elastic net (Zou and Hastie 2005). Every other sum is refused by name.

    >>> from proxfactor import L1
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


def add(a: Prox, b: Prox) -> Prox:
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
