"""Problem: what is minimised, loss(X, W H) + g(W) + h(H), and everything a solver may ask about it.

Each method is written for one factor, A (m, k), while the other one, B (n, k), stays: X ≈ A Bᵀ. For W it is called with
(W, Hᵀ), for H on the transposed problem with (Hᵀ, W).
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .chunked import Chunked
from .comm import Comm
from .losses import Frobenius, Loss, as_loss
from .matrix import Matrix, Table, as_table
from .prox import Index, Prox, as_prox, group_metric
from .text import Spelled

MANY = 1_000_000
"""Stored cells times components from which on one Gram matrix under a bound of the curvature is cheaper than one for each row.

Measured on 400 x 300 cells: at rank 20 a sweep costs a sixth, and a fit to one certificate a quarter (logistic, Huber).
"""

PIECE = 2**21
"""Bytes of a loss's or a gradient's temporaries at a time, where rows can be looked at a few at a time."""


@dataclass(frozen=True, eq=False)
class Quadratic:
    """½ Σ_i a_i G_i a_iᵀ - ⟨A, C⟩ in a factor A (m, k): G is (k, k), shared by all rows, or (m, k, k); C is (m, k).

    >>> q = Quadratic(torch.eye(2), torch.tensor([[1.0, 2.0]]))
    >>> q.grad(torch.zeros(1, 2))
    tensor([[-1., -2.]])
    """

    G: Tensor
    C: Tensor

    def apply(self, A: Tensor) -> Tensor:
        """a_i G_i for each row, (m, k)."""
        return A @ self.G if self.G.ndim == 2 else torch.bmm(A[:, None], self.G)[:, 0]

    def grad(self, A: Tensor) -> Tensor:
        """The gradient a_i G_i - c_i, (m, k)."""
        return self.apply(A) - self.C

    def value(self, A: Tensor) -> Tensor:
        """The value of each row, (m,), in float64."""
        return ((0.5 * self.apply(A) - self.C).double() * A.double()).sum(1)

    @property
    def diag(self) -> Tensor:
        """The curvature of each entry of A: (1, k) or (m, k)."""
        d = self.G.diagonal(dim1=-2, dim2=-1)
        return d[None] if self.G.ndim == 2 else d

    def bound(self) -> Tensor:
        """A diagonal D ⪰ G, (1, k) or (m, k), without an eigenvalue problem.

        D = (|G| v) / v bounds G for every v > 0 (Collatz 1942). A few power steps on |G| scaled to unit diagonal bring v
        to where D is nearly the largest eigenvalue of the scaled G times G's diagonal.
        """
        d = self.diag
        scale = torch.where(d > 0, d.rsqrt(), 0.0)
        S = self.G.abs() * scale[..., :, None] * scale[..., None, :]
        u = torch.ones_like(scale)[..., None]
        for _ in range(4):
            u = S @ u + u
            u = u / u.amax(-2, keepdim=True)
        return d * (S @ u / u)[..., 0]

    def damped(self, times: Tensor, A: Tensor) -> Quadratic:
        """The model with its curvature ``times`` (m, 1) as large and the same gradient at A."""
        G = self.G * (times[..., None] if self.G.ndim == 3 else times)
        return Quadratic(G, self.C + Quadratic(G, torch.zeros_like(self.C)).apply(A) - self.apply(A))

    def __add__(self, other: Quadratic) -> Quadratic:
        a, b = self.G, other.G
        return Quadratic(a + b if a.ndim == b.ndim else a + b[None] if a.ndim == 3 else a[None] + b, self.C + other.C)


@dataclass
class Reads:
    """How many cells of X were visited, out of how many there are."""

    whole: int
    cells: int = 0


class Tie(Spelled, ABC):
    """A smooth term of the objective that has no prox, or sees both factors: log det, orthogonality, W = Hᵀ.

    ``model(A, B)`` is a Quadratic in A that touches the term at A and nowhere lies below it, but for a number that A does not
    change; ``on`` says which factors it sees, "W", "H" or "both". The ones there are stand in ``ties``.
    """

    on: str = "both"

    @abstractmethod
    def value(self, W: Tensor, H: Tensor) -> Tensor: ...

    @abstractmethod
    def model(self, A: Tensor, B: Tensor) -> Quadratic: ...

    @property
    @abstractmethod
    def T(self) -> Tie:
        """The same term with the roles of W and Hᵀ exchanged."""

    def curvature(self, A: Tensor, B: Tensor) -> Tensor:
        """The diagonal curvature in A that the certificate measures in, (1, k) or (m, k)."""
        return self.model(A, B).diag

    def check(self, problem: Problem, rank: int) -> None:
        """Raises ValueError if the term does not fit the factors."""

    def note(self, W: Tensor, H: Tensor) -> str:
        """What a user should be told of the factors that came out."""
        return ""


@dataclass(frozen=True, eq=False)
class Problem:
    """minimise over W (m, k), H (k, n):  Σ loss over the data of X + prox_W's g(W) + prox_H's h(H) + ties.

    X is anything that becomes a Matrix, loss and prox also their text forms. ``rows`` and ``cols`` are the processes over
    which X's rows (with W's) and columns (with H's) are spread. Raises ValueError where the parts do not fit together.

    >>> p = Problem([[1.0, 2.0], [2.0, 4.0]], "kl", "nonneg", "simplex(dim=1)")
    >>> p.T.prox_W
    Transposed(Simplex(dim=1))
    """

    X: Matrix
    loss: Loss = "frobenius"  # type: ignore[assignment]
    prox_W: Prox = None  # type: ignore[assignment]
    prox_H: Prox = None  # type: ignore[assignment]
    ties: tuple[Tie, ...] = ()
    rows: Comm = field(default_factory=Comm)
    cols: Comm = field(default_factory=Comm)
    table: Table = field(init=False, repr=False)  # X with the names that it came with

    def __post_init__(self) -> None:
        table = as_table(self.X)
        object.__setattr__(self, "table", table)
        X = table.matrix
        if isinstance(X, Chunked):
            raise ValueError(f"{X!r} is never in memory as a whole; give it to factorize, or to Streamed in the place of Problem")
        loss = as_loss(self.loss).at(X, table.cols)
        parts = {"X": X, "loss": loss, "prox_W": as_prox(self.prox_W), "prox_H": as_prox(self.prox_H)}
        for name, part in parts.items():
            object.__setattr__(self, name, part)
        if not loss.quadratic:
            loss.check(X.entries() if X.weight is None else X.entries().masked_fill(X.weight == 0, torch.nan))
        if X.background:
            loss.at_zero(*(torch.ones(size, 1) for size in X.shape))
        spread = self.rows.size > 1 or self.cols.size > 1
        if spread and self.ties:
            raise ValueError("ties need whole factors, and this problem is spread over processes; use one process")
        for comm, prox, dim, name in ((self.rows, self.prox_W, 0, "W"), (self.cols, self.prox_H, 1, "H")):
            if comm.size > 1 and dim in loss.dims:
                line = ("row", "column")[dim]
                raise ValueError(f"{loss!r} differs from {line} to {line}, and the {line}s are spread; spread the other side")
            if comm.size > 1 and prox.couples(dim):
                raise ValueError(
                    f"{prox!r} on {name} couples dim {dim}, along which {name} is spread over {comm.size} processes; "
                    "spread the other side, or constrain the other factor"
                )

    @cached_property
    def T(self) -> Problem:
        """The problem for Xᵀ ≈ Hᵀ Wᵀ: what solves it for W solves this one for H."""
        ties = tuple(t.T for t in self.ties)
        flipped = Problem(self.X.T, self.loss.T, self.prox_H.T, self.prox_W.T, ties, self.cols, self.rows)
        flipped.__dict__.update(T=self, _reads=self._reads)
        return flipped

    @cached_property
    def extent(self) -> tuple[int, int]:
        """The rows and columns of X over all processes."""
        rows, cols = (torch.tensor(size, device=self.X.device) for size in self.X.shape)
        return int(self.rows.sum(rows)[0]), int(self.cols.sum(cols)[0])

    def take(self, rows: Index) -> Problem:
        """The problem for some of the rows of X and W."""
        loss, prox = self.loss.take(rows, 0), self.prox_W.take(rows, 0)
        return self.changed(X=self.X.take(rows), loss=loss, prox_W=prox)

    def changed(self, **parts: Any) -> Problem:
        """The problem with other parts, its passes over X counted with those of this one."""
        made = dataclasses.replace(self, **parts)
        made.__dict__["_reads"] = self._reads
        return made

    @cached_property
    def shared(self) -> bool:
        """Whether all rows of A have one Gram matrix: a quadratic loss, and every cell of the same weight."""
        return self.loss.quadratic and self._even

    @cached_property
    def _even(self) -> bool:
        return self._gram(torch.ones(self.X.shape[1], 1, dtype=self.X.dtype, device=self.X.device)).ndim == 2

    def majorised(self, rank: int) -> bool:
        """Whether the model nowhere lies below the objective: a quadratic loss, or many cells under one bound of its curvature."""
        return self.loss.quadratic or (self.loss.bound is not None and self._cells_at_most * rank >= MANY and self._even)

    @cached_property
    def _cells_at_most(self) -> int:
        """The stored cells, the same number on every process."""
        return int(self.cols.max(self.rows.max(torch.tensor(self.X.stored, device=self.X.device))))

    def blocks(self, rank: int) -> list[tuple[slice, Problem]]:
        """(rows, that part of the problem), as few as there can be while the models of a block fit into memory."""
        if rank not in self._cut:
            grams = 0 if self.majorised(rank) and self._even else 2 * rank * rank * self.X.dtype.itemsize
            cells = 0 if self.shared else self._row_bytes + grams
            whole = self.prox_W.couples(0) or self.loss.couples(0) or self.ties
            blocks = [(slice(0, self.X.shape[0]), self.X)] if whole else self.X.blocks(cells)
            self._cut[rank] = [(r, self if X is self.X else self.take(r)) for r, X in blocks]
        return self._cut[rank]

    @cached_property
    def _cut(self) -> dict[int, list[tuple[slice, Problem]]]:
        return {}

    @cached_property
    def _row_bytes(self) -> int:
        """Bytes of a row's cells and temporaries, the same number on every process."""
        mine = torch.tensor(self.X.stored // max(1, self.X.shape[0]) * 32, device=self.X.device)
        return int(self.cols.max(self.rows.max(mine)))

    @cached_property
    def gap(self) -> int:
        """Sweeps that should lie between two certificates, which for a loss that is not quadratic cost as much as some sweeps.

        Where the zeros of sparse data count, one visits every cell, which costs a thirtieth of a sweep's visits to a stored one.
        """
        if self.loss.quadratic:
            return 1
        if not self.X.background:
            return 5 if self._cells_at_most >= MANY else 1
        cells, stored = self.X.shape[0] * self.X.shape[1], max(1, self.X.stored)
        return int(self.cols.max(self.rows.max(torch.tensor(1 + cells // (8 * stored), device=self.X.device))))

    @cached_property
    def _data(self) -> Matrix:
        """weight · x at the stored cells."""
        return self.X if self.X.weight is None else self.X.like(self.X.weight * self.X.entries())

    @cached_property
    def _excess(self) -> Tensor | None:
        """The weight of each stored cell over the background, None where they are all alike."""
        w, background = self.X.weight, self.X.background
        if w is None:
            return None if background == 1 else torch.full_like(self.X.entries(), 1 - background)
        excess = w - background
        return excess if bool((excess != 0).any()) else None

    def normal(self, B: Tensor) -> Quadratic:
        """The model of a quadratic loss, whatever A is.

        Where all rows share a Gram matrix the last few are kept: a sweep, the certificate and the value ask for the same B.
        """
        if not self.shared:
            self.read()
            return Quadratic(*self.cols.sum(self._gram(B), self._data @ B))
        kept = self._kept.get(_mark(B))
        if kept is not None:
            return kept[1]
        self.read()
        return self._keep(B, Quadratic(*self.cols.sum(self._gram(B), self._data @ B)))

    def know(self, B: Tensor, C: Tensor, G: Tensor | None = None) -> Quadratic:
        """Keep that X B is C (m, k), summed over the processes, and the Gram matrix G, if it is known too.

        A combination of products that were made is no pass over X.
        """
        kept = self._kept.get(_mark(B))
        return kept[1] if kept else self._keep(B, Quadratic(self.cols.sum(self._gram(B))[0] if G is None else G, C))

    def _keep(self, B: Tensor, q: Quadratic) -> Quadratic:
        while len(self._kept) >= 3:
            del self._kept[next(iter(self._kept))]
        self._kept[_mark(B)] = B, q  # with B itself, so that no other tensor can come to stand where it stands
        return q

    @cached_property
    def _kept(self) -> dict[tuple, tuple[Tensor, Quadratic]]:
        return {}

    @cached_property
    def _reads(self) -> Reads:
        return Reads(self.X.shape[0] * self.X.shape[1])

    def read(self, X: Any = None) -> Any:
        """Count a pass over X; given back is what the pass is over, for products that are made elsewhere."""
        self._reads.cells += self.X.shape[0] * self.X.shape[1]
        return X

    @property
    def passes(self) -> float:
        """How often X was read so far, by this problem, its transpose and its parts: a product with a thin matrix is one pass."""
        return self._reads.cells / self._reads.whole

    @cached_property
    def targets(self) -> Tensor:
        """A moderate prediction for each stored cell: the data, unless the loss has a link."""
        return self.loss.guess(self.X.entries())

    def _gram(self, B: Tensor) -> Tensor:
        if not self.X.background:
            return self.X.gram(B)
        G = self.X.background * (B.mT @ B)
        return G if self._excess is None else G + self.X.gram(B, self._excess)

    def _cells(self, what: str, pred: Tensor) -> Tensor:
        """weight · f(pred, x) - background · f(pred, 0) at the stored cells: what they add to the whole matrix of zeros.

        ``what`` is the name of f, "__call__", "grad", "curvature" or "yardstick" of the loss.
        """
        x, w, background = self.X.entries().to(pred), self.X.weight, self.X.background
        if quick := self.loss.compiled(what, pred):
            return quick(pred, x, w, background)
        f = getattr(self.loss, what)
        y = f(pred, x) if w is None else torch.where(w > 0, w.to(pred) * f(pred, x), 0.0)  # without weight x may mean nothing
        return y - background * f(pred, torch.zeros_like(x)) if background else y

    def model(self, A: Tensor, B: Tensor) -> Quadratic:
        """The objective's smooth part as a Quadratic in A: exact for a quadratic loss, else it touches it at A.

        It is the only place where data, loss, weights, background and processes meet.
        """
        if self.loss.quadratic:
            q = self.normal(B)
            return self._touching(A, B, q.G, q.C)
        return self._touching(A, B, *self.cols.sum(*self._summands(A, B)))

    def _summands(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """What these columns add to the model: (G, C) of a quadratic loss, else (G, the slope at A)."""
        self.read()
        if self.loss.quadratic:
            return self._gram(B), self._data @ B
        pred = self.X.predict(A, B)
        if self.loss.bound is not None and self.majorised(B.shape[1]):
            return self.loss.bound * self._gram(B), self._slope(pred, A, B)
        return self.X.gram(B, self._cells("curvature", pred)), self._slope(pred, A, B)

    def _touching(self, A: Tensor, B: Tensor, G: Tensor, C: Tensor) -> Quadratic:
        """The model at A from the sums over all columns, with the ties."""
        if not self.loss.quadratic and G.ndim == 2:
            C = A @ G - C
        elif not self.loss.quadratic:
            slope = C
            # a slope without curvature gets one that lets the entry fall to 0, or move by its row's mean
            size = torch.where(A == 0, A.abs().mean(1, keepdim=True), A.abs())
            flat = G.diagonal(dim1=-2, dim2=-1) <= 0
            G = G + torch.diag_embed(torch.where(flat, slope.abs() / torch.where(size > 0, size, 1.0), 0.0))
            C = Quadratic(G, slope).grad(A)
        return sum((t.model(A, B) for t in self.ties), Quadratic(G, C))

    def _slope(self, pred: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """This process's part of the loss's gradient in A, given its prediction."""
        slope = self.X.like(self._cells("grad", pred)) @ B
        return slope + self.X.background * self.loss.at_zero(A, B)[1] if self.X.background else slope

    def gradient(self, A: Tensor, B: Tensor) -> Tensor:
        """The gradient in A of the smooth part of the objective, (m, k)."""
        return self._gradient_and_curvature(A, B)[0]

    def _gradient_and_curvature(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient (m, k) and the diagonal curvature that the certificate measures in, (1, k) or (m, k)."""
        if self.shared:
            q = self.normal(B)
            slope, bend = q.grad(A), q.diag
        else:
            slopes, bends = zip(*(part._cell_terms(A[r], B) for r, part in self._pieces), strict=True)
            slope, bend = torch.cat(slopes), torch.cat(bends)
            if self.X.background:
                slope = slope + self.X.background * self.loss.at_zero(A, B)[1]
                bend = bend + self.X.background * self._curvature_at_zero(A, B)
            slope, bend = self.cols.sum(slope, bend)
        for tie in self.ties:
            slope, bend = slope + tie.model(A, B).grad(A), bend + tie.curvature(A, B)
        return slope, bend

    def _cell_terms(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """What the stored cells add to the gradient and to the diagonal curvature."""
        self.read()
        pred = self.X.predict(A, B)
        return self.X.like(self._cells("grad", pred)) @ B, self.X.like(self._cells("yardstick", pred)) @ B.square()

    @torch.no_grad()
    def _curvature_at_zero(self, A: Tensor, B: Tensor) -> Tensor:
        """Σ_j yardstick(a_i·b_j, 0) b_jq² over all cells, (m, k) or (k,); they are visited some rows at a time.

        No visit costs more, and a certificate needs Σ_i yardstick a_iq² as well: it is kept for the transposed problem.
        """
        squares = B.square()
        if self.loss.quadratic:
            return squares.sum(0)
        known = self.__dict__.pop("_at_zero", None)
        if known and (_mark(A), _mark(B)) == (_mark(known[0]), _mark(known[1])):
            return known[2]
        across, mine, theirs = B.mT.contiguous(), torch.empty_like(A), torch.zeros_like(B)
        few = max(1, 2**18 // max(1, len(B)))  # rows with so few cells that they stay in the cache, and in one place of it
        room = A.new_empty(min(few, len(A)), len(B))
        for part, own in zip(A.split(few), mine.split(few), strict=True):
            bends = self.loss.yardstick_at_zero(torch.mm(part, across, out=room[: len(part)]))
            own.copy_(bends @ squares)
            theirs.addmm_(bends.mT, part.square())
        if "T" in self.__dict__:
            self.T.__dict__["_at_zero"] = B, A, theirs
        return mine

    @cached_property
    def _pieces(self) -> list[tuple[slice, Problem]]:
        """The rows, so many at a time that a prediction of their cells fits into memory; no prox is looked at."""
        if self.loss.couples(0):
            return [(slice(0, self.X.shape[0]), self)]
        parts = self.X.blocks(self._row_bytes, PIECE)
        pieces = [(r, self if X is self.X else Problem(X, self.loss.take(r, 0), cols=self.cols)) for r, X in parts]
        for _, piece in pieces:
            piece.__dict__["_reads"] = self._reads
        return pieces

    def row_losses(self, A: Tensor, B: Tensor) -> Tensor:
        """The loss of each row, (m,), computed and summed in float64."""
        a, b = A.double(), B.double()
        mine = torch.cat([part._row_losses(a[r], b) for r, part in self._pieces])
        return self.cols.sum(mine)[0]

    def _row_losses(self, A: Tensor, B: Tensor) -> Tensor:
        self.read()
        rows = self.X.sums(self._cells("__call__", self.X.predict(A, B)))
        return rows + self.X.background * self.loss.at_zero(A, B)[0] if self.X.background else rows

    def value(self, W: Tensor, H: Tensor, inside: bool = False) -> Tensor:
        """The objective, one float64 number. ``inside``: W and H are known to lie in their sets, which are then not asked."""
        return self._with_terms(self._loss(W, H.mT), W, H, inside)

    def quick_value(self, W: Tensor, H: Tensor) -> Tensor:
        """The objective inside the sets, from the products with X that a solver has made, without a question to the device.

        It is for comparisons between neighbours: it is rounded as ‖X‖² is.
        """
        loss = self._gram_loss(W, H.mT) if self.shared else self.rows.sum(self.row_losses(W, H.mT).sum())[0]
        return self._with_terms(loss, W, H, inside=True)

    def _with_terms(self, loss: Tensor, W: Tensor, H: Tensor, inside: bool) -> Tensor:
        for comm, prox, F in ((self.rows, self.prox_W, W), (self.cols, self.prox_H, H)):
            if not (inside and prox.is_set):
                loss = loss + comm.sum(prox.value(F))[0]
        return sum((t.value(W, H).double() for t in self.ties), loss)

    def _loss(self, A: Tensor, B: Tensor) -> Tensor:
        """Σ loss over all rows; from the Gram matrices where that does not cancel, else cell by cell."""
        if self.shared and A.dtype == self.X.dtype:
            quick, share = self._gram_loss(A, B), max(1e-7, 1e4 * torch.finfo(A.dtype).eps)
            if bool(quick > share * self.size):
                return quick
        return self.rows.sum(self.row_losses(A, B).sum())[0]

    def _gram_loss(self, A: Tensor, B: Tensor) -> Tensor:
        """½ Σ w x² + ½ ⟨AᵀA, BᵀB⟩ - ⟨A, X B⟩: no cell is looked at where the products are known."""
        q, across = self.normal(B), self.T._kept.get(_mark(A))
        linear = self.rows.sum((q.C * A).sum(0).double().sum())[0]
        GA = across[1].G / self.level if across else self.rows.sum(A.mT @ A)[0]
        return (q.G.double() * GA).sum() / 2 - linear + self.size / 2

    @cached_property
    def level(self) -> float:
        """The weight that all cells have, where all rows share a Gram matrix."""
        X = self.X
        return X.background or (1.0 if X.weight is None else X.weight.reshape(-1)[0].item())

    @cached_property
    def size(self) -> Tensor:
        """Σ w x², one float64 number."""
        mine = self.X.squares()
        return self.rows.sum(self.cols.sum(mine)[0])[0]

    def relative_error(self, W: Tensor, H: Tensor) -> float:
        """√Σ w (x - ŷ)² / √Σ w x² with ŷ = W H, whatever the loss is; where X is zero: 0 if ŷ is too, else inf."""
        squared = self if self.loss.quadratic else Problem(self.X, Frobenius(), rows=self.rows, cols=self.cols)
        left, size = squared._loss(W, H.mT), squared.size / 2
        if size == 0:
            return 0.0 if left == 0 else math.inf
        return (left.clamp(min=0) / size).sqrt().item()

    def certificate(self, W: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
        """How far from stationary W and H are, each a number that no rescaling of data or components changes.

        With ∇ the gradient and D the diagonal curvature at (W, H): R = (F - prox(F - ∇/D, 1/D)) √D, and the largest
        ‖R_q‖ / ‖F_q √D_q‖ over the components q. NaN where an operator is inexact or the loss has kinks: nothing can then be
        certified.
        """
        return self.stationarity(W, H.mT), self.T.stationarity(H.mT, W)

    def stationarity(self, A: Tensor, B: Tensor) -> Tensor:
        """The certificate of the factor A alone, one float64 number."""
        if not self.prox_W.exact or not self.loss.smooth:
            return torch.full((), torch.nan, dtype=torch.float64, device=A.device)
        return _worst_of(*self.rows.sum(*self._unsettled(A, B)))

    def _unsettled(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """‖R_q‖² and ‖F_q √D_q‖² of the certificate over these rows, (k,) each."""
        prox = self.prox_W
        slope, D = self._gradient_and_curvature(A, B)
        if len(D) == 1 and bool((D > 0).all()):  # as good as always, and then half of the work is spared
            D = group_metric(prox, D, tuple(A.shape), "mean")
            R = A - prox(A - slope / D, 1 / D)
        else:
            D = group_metric(prox, _usable(prox, D.expand(A.shape), slope), tuple(A.shape), "mean")
            has = D > 0
            safe = torch.where(has, D, 1.0)
            moved = prox(torch.where(has, A - slope / safe, A), 1 / safe)
            R = torch.where(has, A - moved, 0.0)
        return _squares(R, D), _squares(A, D)


def _squares(F: Tensor, D: Tensor) -> Tensor:
    """Σ_i d_iq f_iq² (k,) in float64, some rows at a time: copies of a whole factor would be the most that a fit holds."""
    few = max(1, 2**16 // F.shape[1])
    parts = zip(F.split(few), D.expand(F.shape).split(few), strict=True)
    return sum((f.double().square() * d.double()).sum(0) for f, d in parts)


def _worst_of(top: Tensor, size: Tensor) -> Tensor:
    size = torch.maximum(size, 1e-10 * size.sum())  # a dying component does not hold the maximum up
    return torch.where(top == 0, 0.0, top / size).amax().sqrt()


def _mark(B: Tensor) -> tuple:
    """What tells a tensor from others, and from itself after it was written to."""
    return B.data_ptr(), B.shape, B.stride(), -1 if B.is_inference() else B._version


def _usable(prox: Prox, D: Tensor, slope: Tensor) -> Tensor:
    """D with the mean of its slice where a cell that matters has none: one that the prox couples, or one with a slope."""
    if prox.dims == ():
        return torch.where((D <= 0) & (slope != 0), D.mean(), D)
    dims = tuple(range(D.ndim)) if prox.dims is None else tuple(d % D.ndim for d in prox.dims)
    return torch.where(D <= 0, D.mean(dims, keepdim=True), D)
