"""Another loss for each column, or for each row: tables of mixed types."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ..prox import Index
from ..prox.built import _key, _ranges
from .base import Loss, as_loss

if TYPE_CHECKING:
    from ..matrix import Matrix


@dataclass(frozen=True)
class _Share:
    """Where a loss's cells stand among the stored ones: numbers along ``dim``; ``block`` is how many belong together."""

    loss: Loss
    dim: int
    index: Tensor
    block: int
    turned: bool  # the cells of a block stand below each other

    def of(self, t: Tensor) -> Tensor:
        part = t.index_select(self.dim, self.index)
        if not self.block:
            return part
        return part.reshape(self.block, -1).mT if self.turned else part.reshape(-1, self.block)

    def put(self, out: Tensor, part: Tensor) -> Tensor:
        shape = list(out.shape)
        shape[self.dim] = len(self.index)
        return out.index_copy(self.dim, self.index, (part.mT if self.block and self.turned else part).reshape(shape))


@dataclass(frozen=True, eq=False, repr=False)
class ByColumn(Loss):
    """Another loss for some columns: ByColumn({"age": HuberLoss(), "2:5": LogisticLoss()}, rest=Frobenius()).

    A key is the name of a column, its number, a range ``"2:5"``, or several of these, ``"age, 2:5"``; ``rest`` is for all other
    columns. A loss may be given as a text; ``Multinomial`` takes the columns of one key as one variable. The losses are added
    up as they are: ``weight`` says what a column counts. Names become numbers once the data is known. Raises ValueError for
    keys that overlap or name no column. (Udell, Horn, Zadeh and Boyd 2016.)

    >>> mixed = ByColumn({0: "kl", "1:3": "logistic"})
    >>> mixed.mean(torch.tensor([[4.0, 0.0, 0.0, 9.0]]))
    tensor([[4.0000, 0.5000, 0.5000, 9.0000]])
    """

    parts: dict[int | str, Any]
    rest: Any = "frobenius"
    formula = "l_j for column j"
    data = "columns of several kinds"
    side = 1

    def __post_init__(self) -> None:
        name, line = type(self).__name__, self._line
        if not isinstance(self.parts, dict):
            raise TypeError(f"{name} was given {self.parts!r}; a dict is needed, e.g. {name}({{0: 'kl', '1:5': 'logistic'}})")
        parts = {key: as_loss(loss) for key, loss in self.parts.items()}
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "rest", as_loss(self.rest))
        for loss in self._members:
            if isinstance(loss, ByColumn):
                raise ValueError(f"{name} holds {loss!r}, which differs between {line}s itself; give one loss for each {line}")

    @property
    def _line(self) -> str:
        return "column" if self.side else "row"

    @property
    def _members(self) -> tuple[Loss, ...]:
        """The losses, that of the rest only if it may have columns."""
        every = any(str(key).strip() == ":" for key in self.parts)
        return tuple(self.parts.values()) if every else (*self.parts.values(), self.rest)

    # ── what it is ────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def quadratic(self) -> bool:  # type: ignore[override]
        return all(loss.quadratic for loss in self._members)

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return all(loss.convex for loss in self._members)

    @property
    def real(self) -> bool:  # type: ignore[override]
        return all(loss.real for loss in self._members)

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        return all(loss.smooth for loss in self._members)

    @property
    def bound(self) -> float | None:  # type: ignore[override]
        bounds = [loss.bound for loss in self._members]
        return None if None in bounds else max(bounds)  # type: ignore[type-var]

    @property
    def degree(self) -> float | None:  # type: ignore[override]
        first, *others = (loss.degree for loss in self._members)
        return first if all(d == first for d in others) else None

    @property
    def steepest(self) -> float:
        return max(loss.steepest for loss in self._members)

    @property
    def dims(self) -> tuple[int, ...]:
        return (self.side,)

    def couples(self, dim: int) -> bool:
        return dim % 2 == self.side and any(loss.block for loss in self._members)

    # ── where its parts are ───────────────────────────────────────────────────────────────────────────────────────────

    def _lines(self, n: int) -> list[tuple[Loss, Tensor]]:
        """Each loss and the numbers of its columns among n, that of the rest last; none that has no column."""
        which = torch.full((n,), len(self.parts))
        for at, key in enumerate(self.parts):
            for a, b in _ranges(key, type(self).__name__, self._line):
                b = n if b == float("inf") else int(b)
                if b > n or a >= n:
                    raise ValueError(f"{self!r} names {self._line} {b - 1}, and there are {n}, counted from 0")
                if bool((which[a:b] < len(self.parts)).any()):
                    raise ValueError(f"{self!r} names {self._line} {a} twice")
                which[a:b] = at
        found = [(loss, (which == at).nonzero()[:, 0]) for at, loss in enumerate((*self.parts.values(), self.rest))]
        return [(loss, numbers) for loss, numbers in found if len(numbers)]

    def _numbered(self, cols: Any) -> dict[int | str, Loss]:
        """The parts with numbers in the place of names."""
        place = {} if cols is None or self.side == 0 else {str(c): j for j, c in enumerate(cols)}
        done: dict[int | str, Loss] = {}
        for key, loss in self.parts.items():
            words = [key] if str(key) in place else str(key).split(",")
            known = [str(place.get(str(word).strip(), word)).strip() for word in words]
            try:
                new = _key(_ranges(", ".join(known), type(self).__name__, self._line))
            except ValueError as error:
                names = "" if not place else f"; the {self._line}s are {', '.join(list(place)[:5])}" + ", …" * (len(place) > 5)
                raise ValueError(f"{error}{names or '; the data has no names'}") from None
            if new in done:
                raise ValueError(f"{type(self).__name__} names {self._line} {new} twice")
            done[new] = loss
        return done

    def at(self, X: Matrix, cols: Any = None) -> Self:
        laid = dataclasses.replace(self, parts=self._numbered(cols))
        count, cells, shares = X.shape[self.side], X.entries(), []
        lines = laid._lines(count)
        everywhere = torch.zeros(count, dtype=torch.int64)
        for at, (_, numbers) in enumerate(lines):
            everywhere[numbers] = at
        for at, (loss, numbers) in enumerate(lines):
            if cells.ndim == 2:
                dim, index = self.side, numbers.to(X.device)
            else:
                dim, index = 0, (X.along(everywhere.to(X.device), self.side) == at).nonzero()[:, 0]
            share = _Share(loss, dim, index, len(numbers) if loss.block else 0, self.side == 0)
            if loss.block:
                self._whole(X, share, numbers.to(X.device))
            shares.append(share)
        object.__setattr__(laid, "_laid", tuple(shares))
        return laid

    def _whole(self, X: Matrix, share: _Share, numbers: Tensor) -> None:
        """Raises ValueError unless every line has all cells of the block, with one weight, or none."""
        cells = X.entries()
        weight = torch.ones_like(cells) if X.weight is None else X.weight
        good = share.dim != 0 or cells.ndim == 2 or len(share.index) % share.block == 0
        if good and cells.ndim == 1:
            across = share.of(X.along(numbers.new_tensor(range(X.shape[1 - self.side])), 1 - self.side))
            along = share.of(X.along(numbers.new_tensor(range(X.shape[self.side])), self.side))
            good = bool((across == across[:, :1]).all()) and bool((along == numbers).all())
        if good:
            w = share.of(weight)
            good = bool((w == w[:, :1]).all())
        if not good:
            raise ValueError(
                f"{share.loss!r} on {share.block} {self._line}s needs all of their cells or none in each "
                f"{'row' if self.side else 'column'}, with one weight; fill the cells of the block, or make all of them NaN"
            )

    @property
    def T(self) -> ByColumn:
        return (ByRow if self.side else ByColumn)(self.parts, self.rest)

    def take(self, index: Index, dim: int) -> ByColumn:
        if dim % 2 != self.side:
            return self
        if isinstance(index, slice):
            index = torch.arange(int(index.stop or 0))[index]
        elif index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        index = index.cpu()
        lines = self._lines(self._count(int(index.max()) + 1 if len(index) else 0))
        which = torch.zeros(max(int(numbers[-1]) for _, numbers in lines) + 1, dtype=torch.int64)
        for at, (loss, numbers) in enumerate(lines):
            which[numbers] = at
            held = torch.isin(numbers, index)
            if loss.block and bool(held.any()) and index[which[index] == at].tolist() != numbers.tolist():
                raise ValueError(f"{loss!r} takes its {len(numbers)} {self._line}s together; ask for all of them, in their order")
        new = which[index]
        parts = {at: (new == at).nonzero()[:, 0].tolist() for at in range(len(lines))}
        return type(self)({_spans(numbers): lines[at][0] for at, numbers in parts.items() if numbers}, self.rest)

    def _count(self, least: int) -> int:
        """How many columns there must be for the keys and for ``least``."""
        ends = [b if b < float("inf") else a + 1 for key in self.parts for a, b in _ranges(key, "", "")]
        return int(max([least, *ends]))

    # ── cell by cell ──────────────────────────────────────────────────────────────────────────────────────────────────

    @cached_property
    def _laid(self) -> tuple[_Share, ...] | None:
        return None

    def _shares(self, t: Tensor) -> tuple[_Share, ...]:
        """The shares of the cells that it was laid over, or of the columns of the matrix t."""
        if self._laid is not None:
            return self._laid
        lines = self._lines(t.shape[self.side])
        return tuple(_Share(l, self.side, n.to(t.device), len(n) if l.block else 0, self.side == 0) for l, n in lines)

    def _each(self, f: Callable[..., Tensor], pred: Tensor, *others: Tensor) -> Tensor:
        out = torch.zeros_like(pred)
        for share in self._shares(pred):
            out = share.put(out, f(share.loss, *(share.of(t) for t in (pred, *others))))
        return out

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        return self._each(lambda loss, p, y: loss(p, y), pred, x)

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return self._each(lambda loss, p, y: loss.grad(p, y), pred, x)

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        return self._each(lambda loss, p, y: loss.curvature(p, y), pred, x)

    def yardstick(self, pred: Tensor, x: Tensor) -> Tensor:
        return self._each(lambda loss, p, y: loss.yardstick(p, y), pred, x)

    def prox(self, v: Tensor, step: Tensor | float, x: Tensor) -> Tensor:
        steps = torch.as_tensor(step, dtype=v.dtype, device=v.device).expand_as(v)
        return self._each(lambda loss, p, s, y: loss.prox(p, s, y), v, steps, x)

    def guess(self, x: Tensor) -> Tensor:
        return self._each(lambda loss, y: loss.guess(y), x)

    def mean(self, pred: Tensor) -> Tensor:
        return dataclasses.replace(self)._each(lambda loss, p: loss.mean(p), pred)  # of a matrix, whatever it was laid over

    def check(self, x: Tensor) -> None:
        for share in self._shares(x):
            share.loss.check(share.of(x))

    def at_zero(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        if self.side:
            parts = [loss.at_zero(A, B[n.to(B.device)]) for loss, n in self._lines(len(B))]
            return sum(p[0] for p in parts), sum(p[1] for p in parts)  # type: ignore[return-value]
        value, slope = A.new_zeros(len(A)), torch.zeros_like(A)
        for loss, n in self._lines(len(A)):
            value[n], slope[n] = loss.at_zero(A[n.to(A.device)], B)
        return value, slope

    def joined(self, values: Tensor) -> Tensor:
        if not self.couples(0):
            return values
        values = values.clone()
        for loss, n in self._lines(len(values)):
            if loss.block:
                values[n] = values[n].sum()
        return values


def _spans(numbers: list[int]) -> int | str:
    """The key for these numbers, which rise."""
    ends = [i for i, (a, b) in enumerate(itertools.pairwise(numbers), 1) if b > a + 1]
    return _key([(numbers[a], numbers[b - 1] + 1) for a, b in itertools.pairwise([0, *ends, len(numbers)])])


@dataclass(frozen=True, eq=False, repr=False)
class ByRow(ByColumn):
    """Another loss for some rows: what ``ByColumn`` is for columns, with numbers only.

    >>> ByRow({0: "kl"}).mean(torch.tensor([[4.0], [9.0]]))
    tensor([[4.],
            [9.]])
    """

    formula = "l_i for row i"
    data = "rows of several kinds"
    side = 0
