"""Streamed: a Problem whose X comes in chunks of rows, so that whatever it is asked is a sum over one read of them.

One read of the data gives a whole sweep. For each chunk, with H as it is: the rows of W that a solver makes, what the
models of H are at these rows, and, where somebody looks, the objective and both certificates at the W and H from which the
sweep set out. What a read has told is remembered for as long as W and H stand, so that a solver may ask for it in the usual
way: the half-step for H finds its model there and reads nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .chunked import Chunked
from .losses import KL, Frobenius, as_loss
from .matrix import Matrix, Table, as_table
from .problem import Problem, Quadratic
from .prox import Index, as_prox

if TYPE_CHECKING:
    from .solvers import Alternating, State

COUNTED = 10
"""Sweeps that begin a fit under KL with EM for H."""

Rows = Callable[[slice, Problem], Tensor]
Sums = dict[str, tuple[Tensor, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed(Problem):
    """minimise over W, H:  Σ loss over the data of X + g(W) + h(H), where X is Chunked: what ``factorize`` makes of it.

    Raises ValueError for ties and for a constraint on W that couples its rows, which never meet.

    >>> p = Streamed(Chunked([[[1.0, 2.0]], [[2.0, 4.0]]]), "frobenius", "nonneg", "nonneg")
    >>> p.value(torch.ones(2, 1).double(), torch.ones(1, 2).double())
    tensor(5.5000, dtype=torch.float64)
    """

    X: Chunked

    def __post_init__(self) -> None:
        table = as_table(self.X)
        if not isinstance(table.matrix, Chunked):
            raise TypeError(f"X is {table.matrix!r}; Streamed takes Chunked, and Problem data in memory")
        parts = {"table": table, "X": table.matrix, "loss": as_loss(self.loss)}
        for name, part in (parts | {"prox_W": as_prox(self.prox_W), "prox_H": as_prox(self.prox_H)}).items():
            object.__setattr__(self, name, part)
        if not self.loss.smooth:
            raise ValueError(f"{self.loss!r} has kinks, which chunks do not take; use a smooth loss, huber(0.1), or X in memory")
        if self.ties:
            raise ValueError("ties see the whole of W, and X comes in chunks; leave them out, or give X in memory")
        if self.cols.size > 1:
            raise ValueError("X comes in chunks of rows, and its columns are spread over processes; spread its rows")
        if self.prox_W.couples(0):
            raise ValueError(
                f"{self.prox_W!r} on W couples dim 0, along which the chunks divide it; constrain H, or give the transpose of X"
            )
        if self.loss.at(self.sample.X) is self.loss:  # else the loss is not the same for all cells, and each chunk asks
            self.loss.check(torch.tensor([self.X.low, self.X.high], dtype=torch.float64))

    @cached_property
    def sample(self) -> Problem:
        """The problem for some evenly spaced rows, which are in memory."""
        sample = Table(self.X.sample, cols=self.table.cols)
        return Problem(sample, self.loss, self.prox_W.take(self.X.sampled, 0), self.prox_H)  # type: ignore[arg-type]

    @cached_property
    def T(self) -> Problem:
        flipped = _Across(self.X.T, self.loss.T, self.prox_H.T, self.prox_W.T, (), self.cols, self.rows)
        flipped.__dict__["T"] = self
        return flipped

    @cached_property
    def shared(self) -> bool:
        uneven = self.rows.max(torch.tensor(not self.X.even, dtype=torch.int64, device=self.X.device))
        return self.loss.quadratic and not uneven.item()

    def take(self, rows: Index) -> Problem:
        raise ValueError("X comes in chunks, of which no rows can be taken; take them from the source")

    def chunks(self) -> Generator[tuple[slice, Problem]]:
        """(rows, the problem for them), one read of the data; each is empty once the next has come."""
        with closing(self.X.chunks()) as chunks:
            for r, X in chunks:
                part = Problem(Table(X, cols=self.table.cols), self.loss, self.prox_W.take(r, 0), self.prox_H)  # type: ignore[arg-type]
                yield r, part
                _empty(part)

    def blocks(self, rank: int) -> Iterator[tuple[slice, Problem]]:  # type: ignore[override]
        return ((_in(r, s), block) for r, part in self.chunks() for s, block in part.blocks(rank))

    @property
    def _pieces(self) -> Iterator[tuple[slice, Problem]]:  # type: ignore[override]
        return ((_in(r, s), piece) for r, part in self.chunks() for s, piece in part._pieces)

    @property
    def gap(self) -> int:
        return 1

    # one read, and what it tells

    @cached_property
    def _points(self) -> list[_Point]:
        """What is known of the last few pairs of W and H."""
        return []

    @cached_property
    def _ready(self) -> dict[Alternating, tuple[_Point, Tensor, dict[str, Tensor]]]:
        """For a solver: the W and the memory that its next half-step gives, made by a read that was needed anyway."""
        return {}

    def _at(self, W: Tensor, B: Tensor) -> _Point:
        known = next((p for p in self._points if p.is_at(W, B)), None)
        if known is None:
            known = _Point(W, B)
            if self.loss.quadratic:  # the model of H is the same for every H
                same = next((p for p in self._points if _same(p.W, W)), known)
                known.sums |= {k: v for k, v in same.sums.items() if k == "model"}
        self._points[:] = [known, *(p for p in self._points if p is not known)][:3]
        return known

    @property
    def _look(self) -> set[str]:
        """What the objective and both certificates are made of."""
        names = {"loss"} | ({"unsettled"} if self.prox_W.exact else set())
        return names | ({"model" if self.loss.quadratic else "slope"} if self.prox_H.exact else set())

    def counted(self, sweep: int) -> bool:
        """Whether H's half-step is EM's: under KL the first ones, each of which falls about as far and takes one read, not two."""
        return isinstance(self.loss, KL) and sweep < COUNTED

    def _half(self, sweep: int) -> set[str]:
        """What a half-step for H asks."""
        if self.counted(sweep):
            return {"counts"}
        return {"model"} if self.loss.quadratic else {"model", "columns"}

    def told(self, W: Tensor | None, B: Tensor, names: set[str], rows: Rows | None = None, then: set[str] | None = None) -> _Point:
        """Read X once, unless all is known: the sums ``names`` at (W, B), and the W that ``rows`` makes with the sums ``then``.

        Returns the last of these points. Nothing is remembered of a read that is broken off.
        """
        point = None if W is None else self._at(W, B)
        lacking = set() if point is None else names - point.sums.keys()
        if point is not None and not lacking and rows is None:
            return point
        here: Sums = {}
        there: Sums = {}
        new: list[Tensor] = []
        with closing(self.chunks()) as chunks:
            for r, part in chunks:
                if point is not None:
                    _add(here, part, point.W[r], B, lacking)
                if rows is not None:
                    new.append(rows(r, part))
                    _add(there, part, new[-1], B, then or set())
        if point is not None:
            point.sums |= here
        if new:
            point = self._at(torch.cat(new), B)
            point.sums |= there
        assert point is not None
        return point

    def ahead(self, solver: Alternating, state: State, look: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """The W of a solver's half-step and its memory, in one read, which also tells what the half-step for H will ask.

        With ``look`` the same read tells the objective and both certificates at the state, and the half-step waits for its turn.
        """
        W, B = state.W, state.H.mT
        later: dict[str, Tensor] = {}
        ready = self._ready.pop(solver, None)
        if ready is None or not ready[0].is_at(W, B):
            sized = solver.sized(*self.X.shape, W.shape[1])

            def half(r: slice, part: Problem) -> Tensor:
                mine = {name: t[r].clone() for name, t in state.w.items()}
                A = sized.half(part, W[r], B, mine)
                for name, t in mine.items():
                    later.setdefault(name, t.new_zeros(len(W), *t.shape[1:]))[r] = t
                return A

            new = self.told(W, B, self._look if look else set(), half, self._half(state.sweep)).W
            ready = self._at(W, B), new, later
        if look:
            self._ready[solver] = ready
        return ready[1:]

    def seen(self, W: Tensor, B: Tensor) -> bool:
        """Whether the objective and both certificates at (W, B) are known without a read."""
        return self._look <= self._at(W, B).sums.keys()

    def counts(self, W: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """``counts`` of all rows, which the read of ``ahead`` has told, for the H side of a KL problem."""
        s, N = self.rows.sum(*self.told(W, B, {"counts"}).sums["counts"])
        return s, N

    def closed(self, B: Tensor, rows: Rows) -> Tensor:
        """The W that ``rows`` makes chunk by chunk, in one read, which also tells the objective and both certificates there."""
        return self.told(None, B, set(), rows, self._look).W

    # what a Problem is asked

    def row_losses(self, A: Tensor, B: Tensor) -> Tensor:
        return torch.cat([part.row_losses(A[r], B) for r, part in self.chunks()])

    def _unsettled(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        top, size = self.told(A, B, self._look).sums["unsettled"]
        return top, size

    def _loss(self, A: Tensor, B: Tensor) -> Tensor:
        return self.rows.sum(*self.told(A, B, self._look).sums["loss"])[0]

    def quick_value(self, W: Tensor, H: Tensor) -> Tensor:
        return self.value(W, H)

    @property
    def passes(self) -> float:
        """How often the data was read."""
        return float(self.X.reads)

    def relative_error(self, W: Tensor, H: Tensor) -> float:
        squared = self if isinstance(self.loss, Frobenius) else dataclasses.replace(self, loss=Frobenius())
        (left,) = squared.told(W, H.mT, {"loss"}).sums["loss"]
        (left,), size = self.rows.sum(left), self.size / 2
        if size == 0:
            return 0.0 if left == 0 else math.inf
        return (left.clamp(min=0) / size).sqrt().item()


class _Across(Problem):
    """The other side of a Streamed problem: for a column of X every chunk adds to its model, its gradient and its loss."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", Table(self.X))

    @property
    def _chunks(self) -> Streamed:
        return self.T  # type: ignore[return-value]

    @cached_property
    def shared(self) -> bool:
        return self._chunks.shared

    @property
    def gap(self) -> int:
        return 1

    def take(self, rows: Index) -> Problem:
        raise ValueError("X comes in chunks, of which no columns can be taken; take them from the source")

    def blocks(self, rank: int) -> list[tuple[slice, Problem]]:
        return [(slice(0, self.X.shape[0]), self)]

    def model(self, A: Tensor, B: Tensor) -> Quadratic:
        return self._touching(A, B, *self._model(A, B))

    def _model(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        G, C = self._chunks.told(B, A, {"model"}).sums["model"]
        G, C = self.cols.sum(G if self.shared or G.ndim == 3 else G.expand(len(A), *G.shape), C)
        return G, C

    def _gradient_and_curvature(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        point = self._chunks.told(B, A, self._chunks._look)
        if self.loss.quadratic:
            q = Quadratic(*self._model(A, B))
            return q.grad(A), q.diag
        slope, bend = self.cols.sum(*point.sums["slope"])
        return slope, bend

    def row_losses(self, A: Tensor, B: Tensor) -> Tensor:
        return self.cols.sum(*self._chunks.told(B, A, {"columns"}).sums["columns"])[0]

    def value(self, W: Tensor, H: Tensor, inside: bool = False) -> Tensor:
        return self._chunks.value(H.mT, W.mT, inside)


class _Point:
    """Sums over the chunks at one W (m, k) and B = Hᵀ (n, k), which it holds, so that their memory is nobody else's."""

    def __init__(self, W: Tensor, B: Tensor):
        self.W, self.B, self.versions = W, B, (W._version, B._version)
        self.sums: Sums = {}

    def is_at(self, W: Tensor, B: Tensor) -> bool:
        unchanged = self.versions == (self.W._version, self.B._version)
        return unchanged and _same(self.W, W) and _same(self.B, B)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same numbers in memory."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def _add(sums: Sums, part: Problem, A: Tensor, B: Tensor, names: Iterable[str]) -> None:
    """What a chunk's problem, with its rows A of W, adds to the sums of these names."""
    tell: dict[str, Callable[[], tuple[Tensor, ...]]] = {
        "loss": lambda: (part._loss(A, B),),
        "unsettled": lambda: part._unsettled(A, B),
        "slope": lambda: part.T._gradient_and_curvature(B, A),
        "model": lambda: part.T._summands(B, A),
        "columns": lambda: (part.T.row_losses(B, A),),
        "counts": lambda: counts(part.T, B, A),
    }
    for name in names:
        mine = tell[name]()
        sums[name] = tuple(a + b for a, b in zip(sums[name], mine, strict=True)) if name in sums else mine


def counts(side: Problem, B: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """For a KL problem of Xᵀ ≈ B Aᵀ the sums of EM, (n, k) each:

        s_jq = Σ_i w_ij a_iq,    N_jq = Σ_i w_ij x_ij a_iq b_jq / (a_i·b_j).

    N_jq are the counts of column j that component q explains; Σ s b' - N log b' bounds the loss of every B' from above, up to
    a constant, and touches it at B.
    """
    pred = side.X.predict(B, A)
    explained = side.X.like(torch.where(pred > 0, side._data.entries() / pred, 0.0)) @ A
    return side.gradient(B, A) + explained, B * explained


def _empty(thing: Any) -> None:
    """Let go of all that a problem holds: what it remembers makes rings, which would keep a chunk until they are looked for."""
    held: Iterable[Any] = ()
    if isinstance(thing, Problem | Matrix):
        held = list(vars(thing).values())
        vars(thing).clear()
    elif isinstance(thing, dict | list | tuple):
        held = thing.values() if isinstance(thing, dict) else thing
    for part in held:
        _empty(part)


def _in(outer: slice, inner: slice) -> slice:
    return slice(outer.start + inner.start, outer.start + inner.stop)


def problem_of(X: Any, *parts: Any, **named: Any) -> Problem:
    """The Problem for data in memory, the Streamed one for chunks."""
    return (Streamed if isinstance(as_table(X).matrix, Chunked) else Problem)(X, *parts, **named)
