"""Matrix: stored cells, each with a weight, over a background. Dense, Sparse (zeros are data), Observed (they are not).

A cell that is not stored has the value 0 and the weight ``background``: 1 in Sparse, 0 in Observed. What a missing entry
means is thus answered once, by whoever makes the matrix; everything above works with any of the three.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .prox import Index

BLOCK = 2**28
"""Bytes of temporaries that one block of rows may take."""

PAIRS = 2**26
"""Bytes of temporaries that the pairs of components of one product may take."""


class Matrix(ABC):
    """X (m, n) as its stored cells: ``entries()``, their ``weight`` (None: all one) in the same layout, and a background."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    weight: Tensor | None
    background: float
    form: str = "torch"
    """Whether it was made from torch tensors or NumPy arrays, in which factors then go back."""

    @property
    def names(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Of rows and columns, where the matrix itself knows them."""
        return None, None

    @property
    @abstractmethod
    def T(self) -> Matrix:
        """The transpose; ``X.T.T is X``."""

    @abstractmethod
    def entries(self) -> Tensor:
        """The values of the stored cells, in this matrix's own layout."""

    @property
    def stored(self) -> int:
        """The number of stored cells."""
        return self.entries().numel()

    @abstractmethod
    def predict(self, A: Tensor, B: Tensor) -> Tensor:
        """a_i·b_j at the stored cells, for A (m, k) and B (n, k), in the layout of ``entries``."""

    @abstractmethod
    def like(self, values: Tensor) -> Matrix:
        """The same stored cells with other values and no weights."""

    @abstractmethod
    def __matmul__(self, B: Tensor) -> Tensor:
        """Σ_j x_ij b_j over the stored cells, (m, k)."""

    @abstractmethod
    def take(self, rows: Index) -> Self:
        """Some rows: a slice or a 1-D tensor of row numbers."""

    @abstractmethod
    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """The same matrix on another device or in another floating-point dtype."""

    def scaled(self, factor: float) -> Matrix:
        """The same cells with their values times a number."""
        made = self.like(self.entries() * factor)
        made.weight = self.weight
        return made

    @abstractmethod
    def along(self, v: Tensor, dim: int) -> Tensor:
        """v holds a number per row (dim 0) or per column (dim 1): each one at its stored cells."""

    def gram(self, B: Tensor, c: Tensor | None = None) -> Tensor:
        """Σ_j c_ij b_j b_jᵀ over the stored cells: (k, k) where all rows share it, else (m, k, k). c defaults to the weights."""
        S = self if c is None and self.weight is None else self.like(self.weight if c is None else c)  # type: ignore[arg-type]
        S = S.like(torch.ones_like(S.entries())) if c is None and self.weight is None else S
        return _outer_products(S, B)

    def sums(self, values: Tensor) -> Tensor:
        """The sum of ``values``, one for each stored cell, over each row (m,)."""
        return (self.like(values) @ torch.ones(self.shape[1], 1, dtype=values.dtype, device=values.device)).squeeze(1)

    def squares(self) -> Tensor:
        """Σ w x² over the stored cells, one float64 number."""
        x, w = self.entries(), self.weight
        few = max(1, 2**18 * len(x) // max(1, x.numel()))  # so that float64 copies of them stay in the cache
        cells = x.split(few)
        weights = [None] * len(cells) if w is None else w.split(few)
        parts = [
            torch.linalg.vector_norm(a.double() if c is None else a.double() * c.double().sqrt()).square()
            for a, c in zip(cells, weights, strict=True)
        ]
        return sum(parts, x.new_zeros((), dtype=torch.float64))

    def blocks(self, row_bytes: int, size: int = BLOCK) -> Iterator[tuple[slice, Matrix]]:
        """(rows, those rows as a Matrix), so many at a time that ``row_bytes`` of temporaries for each fit into ``size``."""
        count = max(1, size // max(1, row_bytes))
        if count >= self.shape[0]:
            yield slice(0, self.shape[0]), self
            return
        for start in range(0, self.shape[0], count):
            rows = slice(start, min(start + count, self.shape[0]))
            yield rows, self.take(rows)

    def plain(self, form: Any = "torch") -> Any:
        """The stored cells as a user would hold them: a tensor, or where they are few a CSR, SciPy's for the form "numpy"."""
        raise TypeError(f"{self!r} is not laid out as one array")

    def __repr__(self) -> str:
        m, n = self.shape
        return f"{type(self).__name__}({m} x {n}, {self.stored} stored, {str(self.dtype).removeprefix('torch.')})"


def _outer_products(S: Matrix, B: Tensor) -> Tensor:
    """Σ_j s_ij b_j b_jᵀ for each row, (m, k, k): products of S with the pairs of columns of B, above the diagonal only."""
    k = B.shape[1]
    G = torch.empty(S.shape[0], k, k, dtype=B.dtype, device=B.device)
    pairs = torch.triu_indices(k, k, device=B.device)
    for p, q in pairs.split(max(k, PAIRS // max(1, sum(S.shape) * B.dtype.itemsize)), dim=1):
        G[:, p, q] = G[:, q, p] = S @ (B[:, p] * B[:, q])
    return G


class Dense(Matrix):
    """Every cell is stored. X is an array (m, n), weight one of the same shape, not negative; where it is 0, X holds no data.

    >>> Dense(torch.eye(2)) @ torch.ones(2, 1)
    tensor([[1.],
            [1.]])
    """

    background = 0.0

    def __init__(self, X: Any, weight: Any = None):
        values = floating(X, "X")
        self.form = _form(X)
        _check_2d(values)
        if weight is not None and _is_sparse(weight):
            raise ValueError("weight is sparse and X is not; give weight as a dense array, or X as Sparse or Observed")
        weight = None if weight is None else _spread(weight, values, (values.shape[0], values.shape[1]))
        if weight is not None or not _finite(values):
            holes = values.isnan()
            if bool(holes.any()):
                weight = (~holes).to(values) if weight is None else weight.masked_fill(holes, 0.0)
            _check_finite(values if weight is None else values.masked_fill(weight == 0, 0.0))
        if weight is not None and bool((weight == 1).all()):
            weight = None
        self._set(values if weight is None else values.masked_fill(weight == 0, 0.0), weight)

    def _set(self, values: Tensor, weight: Tensor | None) -> Self:
        self.values, self.weight = values, weight
        self.shape, self.dtype, self.device = (values.shape[0], values.shape[1]), values.dtype, values.device
        return self

    @classmethod
    def _of(cls, values: Tensor, weight: Tensor | None = None) -> Self:
        return cls.__new__(cls)._set(values, weight)

    @cached_property
    def T(self) -> Matrix:
        flipped = self._of(self.values.mT, None if self.weight is None else self.weight.mT)
        flipped.__dict__["T"] = self
        return flipped

    def entries(self) -> Tensor:
        return self.values

    def plain(self, form: Any = "torch") -> Tensor:
        return self.values

    def predict(self, A: Tensor, B: Tensor) -> Tensor:
        return (B @ A.mT).mT if self.values.stride(0) == 1 else A @ B.mT

    def like(self, values: Tensor) -> Dense:
        return Dense._of(values)

    def __matmul__(self, B: Tensor) -> Tensor:
        return (B.mT @ self.values.mT).mT  # BLAS is up to three times as fast with the thin factor first

    def take(self, rows: Index) -> Self:
        return self._of(self.values[rows], None if self.weight is None else self.weight[rows])

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        device, dtype = device or self.device, dtype or self.dtype
        moved = self._of(self.values.to(device, dtype), None if self.weight is None else self.weight.to(device, dtype))
        moved.form = self.form
        return moved

    def along(self, v: Tensor, dim: int) -> Tensor:
        return (v[:, None] if dim == 0 else v[None, :]).expand(self.shape)

    def sums(self, values: Tensor) -> Tensor:
        return values.sum(1)

    def gram(self, B: Tensor, c: Tensor | None = None) -> Tensor:
        if c is None and self.weight is None:
            return B.mT @ B
        if c is not None:
            return super().gram(B, c)
        changes, whole = self._changes
        return _outer_products(changes, B) + whole.to(B)[:, None, None] * (B.mT @ B)

    @cached_property
    def _changes(self) -> tuple[Matrix, Tensor]:
        """What each row's Gram differs by, the cheaper way: from the full one by its few odd cells, or from nothing."""
        assert self.weight is not None
        whole = (self.weight != 1).sum(1) < (self.weight != 0).sum(1)
        change = self.weight - whole.to(self.weight)[:, None]
        few = (change != 0).sum() * 4 < change.numel()
        return (Observed._dense(change, change != 0) if bool(few) else Dense._of(change)), whole


class Multiplied(Dense):
    """factor · X for an X without weights that stays as it is: products are multiplied, which are thin; cells when asked for.

    >>> Multiplied(Dense(torch.eye(2)), 3.0) @ torch.ones(2, 1)
    tensor([[3.],
            [3.]])
    """

    weight = None

    def __init__(self, X: Dense, factor: float):
        self.X, self.factor = X, factor
        self.shape, self.dtype, self.device = X.shape, X.dtype, X.device

    @cached_property
    def values(self) -> Tensor:  # type: ignore[override]
        return self.X.values * self.factor

    @property
    def stored(self) -> int:
        return self.shape[0] * self.shape[1]

    @cached_property
    def T(self) -> Matrix:
        flipped = Multiplied(self.X.T, self.factor)  # type: ignore[arg-type]
        flipped.__dict__["T"] = self
        return flipped

    def __matmul__(self, B: Tensor) -> Tensor:
        return (self.X @ B).mul_(self.factor)

    def squares(self) -> Tensor:
        return self.X.squares() * self.factor**2

    def take(self, rows: Index) -> Self:
        return type(self)(self.X.take(rows), self.factor)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        return type(self)(self.X.to(device, dtype), self.factor)


class LowRank(Matrix):
    """Q B of thin factors Q (m, w) and B (w, n), every cell of it data: what a large X is while a fit starts.

    >>> LowRank(torch.ones(3, 1), torch.ones(1, 2)) @ torch.ones(2, 1)
    tensor([[2.],
            [2.],
            [2.]])
    """

    background = 0.0
    weight = None

    def __init__(self, Q: Tensor, B: Tensor):
        self.Q, self.B = Q, B
        self.shape, self.dtype, self.device = (Q.shape[0], B.shape[1]), Q.dtype, Q.device

    @cached_property
    def T(self) -> Matrix:
        flipped = LowRank(self.B.mT, self.Q.mT)
        flipped.__dict__["T"] = self
        return flipped

    def entries(self) -> Tensor:
        return self.Q @ self.B

    def __repr__(self) -> str:
        return f"LowRank({self.shape[0]} x {self.shape[1]}, width {self.Q.shape[1]})"

    def predict(self, A: Tensor, B: Tensor) -> Tensor:
        return A @ B.mT

    def like(self, values: Tensor) -> Dense:
        return Dense._of(values)

    def __matmul__(self, B: Tensor) -> Tensor:
        return ((self.B @ B).mT @ self.Q.mT).mT

    def gram(self, B: Tensor, c: Tensor | None = None) -> Tensor:
        return B.mT @ B if c is None else super().gram(B, c)

    def squares(self) -> Tensor:
        Q, B = self.Q.double(), self.B.double()
        return ((Q.mT @ Q) * (B @ B.mT)).sum()

    def take(self, rows: Index) -> Self:
        return type(self)(self.Q[rows], self.B)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        device, dtype = device or self.device, dtype or self.dtype
        return type(self)(self.Q.to(device, dtype), self.B.to(device, dtype))

    def along(self, v: Tensor, dim: int) -> Tensor:
        return (v[:, None] if dim == 0 else v[None, :]).expand(self.shape)


class Stored(Matrix):
    """What Sparse and Observed share: compressed rows, and compressed columns as the stored transpose.

    X is a scipy or torch sparse matrix, or a dense array: Sparse stores what is not 0 there, Observed what is not NaN. A
    stored NaN gets weight 0. weight has the same stored cells, or is a dense array: the cells that X does not store must then
    all have one weight, the background, in Sparse; in Observed they have none.
    """

    crow: Tensor
    col: Tensor
    values: Tensor

    def __init__(self, X: Any, weight: Any = None, background: float | None = None):
        if isinstance(X, type(self)) and background is None and X.background != self._default_background:
            background = X.background
        crow, col, values, shape = self._compress(X)
        self.form = _form(X)
        self._set(crow, col, values, shape, None, self._default_background if background is None else _background(background))
        if weight is not None:
            self._weigh(weight, background)
        elif isinstance(X, Stored):
            self.weight = X.weight
        if not _finite(values) and bool((holes := values.isnan()).any()):
            self.weight = (torch.ones_like(values) if self.weight is None else self.weight).masked_fill(holes, 0.0)
        if self.weight is not None:
            self.values = values.masked_fill(self.weight == 0, 0.0)
        _check_finite(self.values, self)
        if self.weight is not None and bool((self.weight == 1).all()):
            self.weight = None

    _default_background: float = 0.0

    def _set(
        self, crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int], weight: Tensor | None, background: float
    ) -> Self:
        self.crow, self.col, self.values, self.weight, self.background = crow, col, values, weight, background
        self.shape, self.dtype, self.device = (int(shape[0]), int(shape[1])), values.dtype, values.device
        return self

    def _weigh(self, weight: Any, background: float | None) -> None:
        if not _is_sparse(weight):
            w = _spread(weight, self.values, self.shape)
            rows, col = self._rows(), self.col.long()
            stored = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
            stored[rows, col] = True
            rest = w[~stored]
            if rest.numel() and isinstance(self, Sparse):
                low, high = rest.min().item(), rest.max().item()
                if low != high:
                    raise ValueError(
                        f"the weights of the cells that are not stored run from {low:g} to {high:g}; they must all be one number, "
                        "the background. Give X as a dense array to weight its zeros one by one"
                    )
                if background is not None and low != background:
                    raise ValueError(
                        f"the background is {background:g}, and weight gives the cells that are not stored {low:g}; "
                        "make them the same, or give weight as a sparse matrix"
                    )
                self.background = low
            self.weight = w[rows, col]
            return
        crow, col, w, shape = self._compress(weight)
        if shape != self.shape or not torch.equal(crow.long(), self.crow.long()) or not torch.equal(col.long(), self.col.long()):
            raise ValueError(
                f"weight ({shape[0]} x {shape[1]}, {w.numel()} stored) and X ({self.shape[0]} x {self.shape[1]}, "
                f"{self.values.numel()} stored) must store the same cells; "
                "store an explicit 0 in X where only the weight has a cell"
            )
        self.weight = _check_weights(w.to(self.values))

    @classmethod
    def _compress(cls, X: Any) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        if isinstance(X, Stored):
            return X.crow, X.col, X.values, X.shape
        if not _is_sparse(X):
            values = floating(X, "X")
            _check_2d(values)
            made = cls._dense(values, cls._holds(values))
            return made.crow, made.col, made.values, made.shape
        if isinstance(X, Tensor):
            X = _compressed(X)
            crow, col, values, shape = X.crow_indices(), X.col_indices(), X.values(), tuple(X.shape)
        else:
            given = _checked(X)
            X = given.tocsr()
            if not X.has_canonical_format:
                X = X.copy() if X is given else X
                X.sum_duplicates()
            values, shape = floating(X.data, "X"), tuple(X.shape)
            crow, col = torch.from_numpy(X.indptr), torch.from_numpy(X.indices)
        if min(shape) == 0:
            raise ValueError(f"X is {shape[0]} x {shape[1]}: there is nothing to factor")
        index = torch.int32 if max(values.numel(), *shape) < 2**31 - 1 else torch.int64
        return crow.to(index), col.to(index), values, (shape[0], shape[1])

    @staticmethod
    def _holds(values: Tensor) -> Tensor:
        """Which cells of a dense array are stored."""
        return ~values.isnan()

    @classmethod
    def _dense(cls, values: Tensor, stored: Tensor) -> Self:
        index = torch.int32 if max(values.numel(), *values.shape) < 2**31 - 1 else torch.int64
        crow = torch.zeros(values.shape[0] + 1, dtype=torch.int64, device=values.device)
        crow[1:] = stored.sum(1).cumsum(0)
        col = stored.nonzero()[:, 1]
        shape = (values.shape[0], values.shape[1])
        return cls._of(crow.to(index), col.to(index), values[stored], shape, None, cls._default_background)

    @classmethod
    def _of(
        cls, crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int], weight: Tensor | None, background: float
    ) -> Self:
        return cls.__new__(cls)._set(crow, col, values, shape, weight, background)

    def _rows(self) -> Tensor:
        lengths = self.crow.diff().long()
        numbers = torch.arange(self.shape[0], device=self.device)
        return torch.repeat_interleave(numbers, lengths, output_size=self.values.numel())

    @cached_property
    def T(self) -> Matrix:
        crow, col, (values, *weight) = self._turned(*(t for t in (self.values, self.weight) if t is not None))
        flipped = self._of(crow, col, values, (self.shape[1], self.shape[0]), weight[0] if weight else None, self.background)
        flipped.__dict__["T"] = self
        return flipped

    def _turned(self, *given: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The pattern of the transpose, and numbers at the stored cells in its order; on a CPU by one counting sort for each."""
        if self.device.type == "cpu" and all(t.dtype in (torch.float32, torch.float64) for t in given):
            from scipy.sparse import csr_matrix

            index = (self.col.numpy(), self.crow.numpy())
            turned = [csr_matrix((t.numpy(), *index), self.shape, copy=False).tocsc() for t in given]
            crow, col = (torch.from_numpy(t).to(self.crow.dtype) for t in (turned[0].indptr, turned[0].indices))
            return crow, col, [torch.from_numpy(t.data) for t in turned]
        order = self.col.argsort(stable=True)
        wide = torch.zeros(self.shape[1] + 1, dtype=torch.int64, device=self.device)
        wide[1:] = torch.bincount(self.col, minlength=self.shape[1]).cumsum(0)
        return wide.to(self.crow.dtype), self._rows()[order].to(self.col.dtype), [t[order] for t in given]

    def _csr(self, values: Tensor) -> Tensor:
        _quiet()
        return torch.sparse_csr_tensor(self.crow, self.col, values, self.shape, check_invariants=False)

    def plain(self, form: Any = "torch") -> Any:
        if form == "torch":
            return self._csr(self.values)
        if form == "numpy":
            from scipy.sparse import csr_array

            return csr_array(tuple(t.cpu().numpy() for t in (self.values, self.col, self.crow)), self.shape)
        full = torch.full(self.shape, 0.0 if self.background else torch.nan, dtype=self.dtype, device=self.device)
        full[self._rows(), self.col.long()] = self.values  # a data frame is dense in any case
        return full

    def entries(self) -> Tensor:
        return self.values

    def predict(self, A: Tensor, B: Tensor) -> Tensor:
        if self.device.type != "cpu" or torch.backends.mkl.is_available():
            pattern = self._csr(torch.zeros_like(self.values, dtype=A.dtype))
            return torch.sparse.sampled_addmm(pattern, A.contiguous(), B.mT, beta=0.0).values()
        rows = self._rows()
        parts = [(A[r] * B[c]).sum(1) for r, c in zip(rows.split(2**20), self.col.long().split(2**20), strict=True)]
        return torch.cat(parts) if parts else A.new_zeros(0)

    def like(self, values: Tensor) -> Self:
        return self._of(self.crow, self.col, values, self.shape, None, self.background)

    def __matmul__(self, B: Tensor) -> Tensor:
        return self._csr(self.values) @ B

    def take(self, rows: Index) -> Self:
        if isinstance(rows, slice):
            start, stop, stride = rows.indices(self.shape[0])
            if stride == 1 and start < stop:  # neighbours: views, nothing is copied but the row ends
                crow = self.crow[start : stop + 1]
                cells, shape = slice(int(crow[0]), int(crow[-1])), (stop - start, self.shape[1])
                weight = None if self.weight is None else self.weight[cells]
                return self._of(crow - crow[0], self.col[cells], self.values[cells], shape, weight, self.background)
            rows = torch.arange(start, stop, stride, device=self.device)
        elif rows.dtype == torch.bool:
            rows = rows.nonzero()[:, 0]
        starts, lengths = self.crow[:-1].long()[rows], self.crow.diff().long()[rows]
        crow = torch.zeros(len(rows) + 1, dtype=torch.int64, device=self.device)
        crow[1:] = lengths.cumsum(0)
        at = torch.repeat_interleave(starts - crow[:-1], lengths) + torch.arange(int(crow[-1]), device=self.device)
        weight = None if self.weight is None else self.weight[at]
        crow, shape = crow.to(self.crow.dtype), (len(rows), self.shape[1])
        return self._of(crow, self.col[at], self.values[at], shape, weight, self.background)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        device, dtype = device or self.device, dtype or self.dtype
        weight = None if self.weight is None else self.weight.to(device, dtype)
        crow, col, values = self.crow.to(device), self.col.to(device), self.values.to(device, dtype)
        moved = self._of(crow, col, values, self.shape, weight, self.background)
        moved.form = self.form
        return moved

    def along(self, v: Tensor, dim: int) -> Tensor:
        return v[self._rows()] if dim == 0 else v[self.col.long()]


@cache
def _quiet() -> None:
    """Spend torch's once-a-process notice that compressed tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.eye(1).to_sparse_csr()


class Sparse(Stored):
    """A matrix that is mostly zeros, and the zeros are data: counts, term frequencies, clicks with a small background.

    >>> import scipy.sparse
    >>> Sparse(scipy.sparse.eye(3, format="csr"))
    Sparse(3 x 3, 3 stored, float64)
    """

    _default_background = 1.0

    @staticmethod
    def _holds(values: Tensor) -> Tensor:
        return values != 0


class Observed(Stored):
    """A table with holes: only the stored cells are data, an explicit 0 among them too. Ratings, for instance.

    >>> Observed(torch.tensor([[1.0, float("nan")], [0.0, 5.0]]))
    Observed(2 x 2, 3 stored, float32)
    """

    _default_background = 0.0

    def _with_empty_row(self) -> Observed:
        crow, shape = torch.cat([self.crow, self.crow[-1:]]), (self.shape[0] + 1, self.shape[1])
        return self._of(crow, self.col, self.values, shape, self.weight, self.background)


@dataclass(frozen=True)
class Table:
    """A Matrix with the names of its rows and columns (None: they have none), and the form in which factors go back.

    ``form`` is "numpy", "torch" or the module of the caller's data frame library.
    """

    matrix: Matrix
    rows: np.ndarray | None = None
    cols: np.ndarray | None = None
    form: Any = "numpy"

    def with_columns(self, cols: np.ndarray | None) -> Table:
        """The table with these columns in this order, by name, where both have names.

        In a table of observed cells a column that is missing has no data. Raises ValueError naming the columns that are
        missing elsewhere, and those that are unknown.
        """
        if self.cols is None or cols is None:
            return self
        want, place = [str(c) for c in cols], {str(c): j for j, c in enumerate(self.cols)}
        if want == list(place):
            return self
        from .chunked import Chunked

        if isinstance(self.matrix, Chunked):
            return Table(self.matrix.with_columns(cols), self.rows, cols, self.form)
        X = self.matrix.T
        absent = {"missing": [c for c in want if c not in place], "unknown": [c for c in place if c not in set(want)]}
        if isinstance(X, Observed) and absent["missing"]:
            place |= dict.fromkeys(absent.pop("missing"), len(place))
            X = X._with_empty_row()
        if said := [f"{len(names)} {what} ({_few(names)})" for what, names in absent.items() if names]:
            raise ValueError(
                f"the columns do not match those of the fit: {' and '.join(said)}; "
                "rename, drop or add columns (NaN where there is no data)"
            )
        at = torch.tensor([place[c] for c in want], device=X.device)
        return Table(X.take(at).T, self.rows, cols, self.form)


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", …" if len(names) > 5 else "")


def as_matrix(X: Any, weight: Any = None) -> Matrix:
    """The Matrix that X is; see ``as_table``.

    >>> as_matrix([[1.0, float("nan")], [2.0, 3.0]]).weight
    tensor([[1., 0.],
            [1., 1.]], dtype=torch.float64)
    """
    return as_table(X, weight).matrix


def as_table(X: Any, weight: Any = None) -> Table:
    """X with its names: the only place that asks what kind X is.

    X is a NumPy array or anything that becomes one, a torch tensor, a scipy or torch sparse matrix (the cells that are
    not stored are zeros), a data frame of any library, a Matrix or a Table. NaN and null are cells without data: few of
    them make a Dense with weight 0 there, many an Observed. Integers become float64. weight, of the same shape, is not
    negative; 0 means no data. Raises ValueError or TypeError for what cannot be factored: text, inf, complex numbers,
    nothing at all, not two dims.
    """
    if isinstance(X, Table):
        return X if weight is None else Table(_weighted(X.matrix, _ordered(weight, X.rows, X.cols)), X.rows, X.cols, X.form)
    if isinstance(X, Matrix):
        return Table(X if weight is None else _weighted(X, weight), *X.names, form=X.form)
    if isinstance(X, Tensor):
        return Table(_kind(X, weight), form="torch")
    if _is_sparse(X):
        return Table(Sparse(X, weight))
    frame = _frame(X)
    if frame is not None:
        values, rows, cols, form = frame
        return Table(_kind(values, _ordered(weight, rows, cols)), rows, cols, form)
    return Table(_kind(X, weight))


def _ordered(weight: Any, rows: np.ndarray | None, cols: np.ndarray | None) -> Any:
    """A data frame of weights with its rows and columns in the order of the data's names; anything else as it is."""
    frame = None if weight is None or isinstance(weight, Tensor) or _is_sparse(weight) else _frame(weight)
    if frame is None:
        return weight
    values, own_rows, own_cols, _ = frame
    for dim, names, own in ((0, rows, own_rows), (1, cols, own_cols)):
        if names is None or own is None:
            continue
        place = {str(name): i for i, name in enumerate(own)}
        if set(place) != set(map(str, names)):
            odd = sorted(set(place) ^ set(map(str, names)))
            raise ValueError(f"weight and X have other {('row', 'column')[dim]} names: {_few(odd)}; give the same names, or arrays")
        values = values.index_select(dim, torch.tensor([place[str(name)] for name in names]))
    return values


def _form(X: Any) -> str:
    return X.form if isinstance(X, Matrix) else "torch" if isinstance(X, Tensor) else "numpy"


def _weighted(X: Matrix, weight: Any) -> Matrix:
    if not isinstance(X, Dense | Stored):
        raise ValueError(f"{X!r} takes no weight from outside; give each chunk with its own, e.g. Dense(chunk, weight)")
    holes = torch.zeros_like(X.entries(), dtype=torch.bool) if X.weight is None else X.weight == 0
    if X.weight is not None and not bool((holes | (X.weight == 1)).all()):
        raise ValueError("X has weights of its own and another weight was given; give one of the two")
    made = Dense(X.entries(), weight) if isinstance(X, Dense) else type(X)(X, weight)
    if bool(holes.any()):  # what is no data stays so
        made.weight = (torch.ones_like(made.entries()) if made.weight is None else made.weight).masked_fill(holes, 0.0)
    return made


def _kind(X: Any, weight: Any) -> Matrix:
    if isinstance(X, Tensor) and X.layout != torch.strided:
        return Sparse(X, weight)
    values = floating(X, "X")
    _check_2d(values)
    holes = 0 if _finite(values) else values.isnan().sum().item()
    if 2 * holes <= values.numel():
        return Dense(values, weight)
    return Observed(values, weight)


def _is_sparse(X: Any) -> bool:
    if isinstance(X, Tensor):
        return X.layout != torch.strided
    return isinstance(X, Stored) or (hasattr(X, "tocsr") and hasattr(X, "nnz"))


def _compressed(X: Tensor) -> Tensor:
    """A torch sparse tensor of any layout as CSR, its indices checked first: torch itself reads memory that is not there."""
    _check_dims(tuple(X.shape))
    X = X.detach()
    try:
        if X.layout == torch.sparse_coo:
            X = torch.sparse_coo_tensor(X._indices(), floating(X._values(), "X"), X.shape, check_invariants=True).coalesce()
        else:
            by_rows = X.layout in (torch.sparse_csr, torch.sparse_bsr)
            parts = (X.crow_indices(), X.col_indices()) if by_rows else (X.ccol_indices(), X.row_indices())
            values = floating(X.values(), "X")
            X = torch.sparse_compressed_tensor(*parts, values, X.shape, layout=X.layout, check_invariants=True)
        if X.dense_dim():
            raise RuntimeError("it has dense dims")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(beta state|invariant).*")
            blocks = X.layout in (torch.sparse_bsr, torch.sparse_bsc)
            return X.to_dense().to_sparse_csr() if blocks else X.to_sparse_csr()
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"X is no valid sparse tensor: {why}; build it again, e.g. with sparse_coo_tensor") from None


def _checked(X: Any) -> Any:
    """A scipy sparse matrix in floats, its indices checked first: scipy's conversions read memory that is not there."""
    _check_dims(X.shape)
    if X.dtype.kind in "iubO" or (X.dtype.itemsize > 8 and X.dtype.kind == "f"):
        try:
            X = X.astype(np.float64)  # before duplicates are added up: int8 would wrap around
        except (TypeError, ValueError):
            raise TypeError("X holds something other than numbers; convert it to floats first") from None
    try:
        if hasattr(X, "check_format"):
            X.check_format(full_check=True)
        for at, n in zip(X.coords, X.shape, strict=True) if X.format == "coo" else ():
            if len(at) and (at.min() < 0 or at.max() >= n):
                raise ValueError(f"an index of {at.min() if at.min() < 0 else at.max()} where there are {n}")
        return X
    except ValueError as error:
        raise ValueError(f"X is no valid sparse matrix: {error}; build it again from its rows, columns and values") from None


def _frame(X: Any) -> tuple[Tensor, np.ndarray | None, np.ndarray, Any] | None:
    """(values, row names, column names, library) of a data frame, else None."""
    import narwhals as nw

    try:
        frame = nw.from_native(X, pass_through=True)
    except nw.exceptions.DuplicateError:
        raise ValueError("the table has two columns of one name; rename or drop one, so that names tell columns apart") from None
    if isinstance(frame, nw.LazyFrame):
        raise TypeError("X is a lazy frame, whose values are not there yet; give X.collect()")
    if not isinstance(frame, nw.DataFrame):
        return None
    if min(frame.shape) == 0:
        raise ValueError(f"the table has {frame.shape[0]} rows and {frame.shape[1]} columns: there is nothing to factor")
    odd = [name for name, kind in frame.schema.items() if not (kind.is_numeric() or kind == nw.Boolean)]
    if odd:
        raise ValueError(
            f"column {odd[0]!r} holds {frame.schema[odd[0]]}, not numbers"
            + (f" (and {len(odd) - 1} more columns)" if len(odd) > 1 else "")
            + "; drop it, or make it the row names (in pandas: set_index)"
        )
    dtypes = set(map(str, frame.schema.values()))
    kind: Any = np.float32 if dtypes == {"Float32"} else np.float64
    values = np.empty(frame.shape, dtype=kind)
    for j, column in enumerate(frame.iter_columns()):  # by position: a name that is a number would mean a row
        values[:, j] = column.cast(nw.Float64).to_numpy()
    native: Any = frame.to_native()
    index, rows, cols = getattr(native, "index", None), None, np.array(frame.columns)
    if index is not None:
        names = np.asarray(index)
        rows = None if names.dtype.kind in "iu" and np.array_equal(names, np.arange(len(names))) else names
        cols = np.array([str(c) for c in native.columns])
    return torch.from_numpy(values), rows, cols, nw.get_native_namespace(frame)


def floating(X: Any, name: str) -> Tensor:
    """X as a floating-point tensor that shares memory where it can; float16 widens to float32, integers to float64."""
    if not isinstance(X, Tensor):
        a = np.asarray(np.ma.filled(X.astype(np.float64), np.nan) if isinstance(X, np.ma.MaskedArray) else X)
        if a.dtype == object:
            try:
                a = a.astype(np.float64)
            except (TypeError, ValueError):
                raise TypeError(f"{name} holds something other than numbers; convert it to an array of floats first") from None
        if a.dtype.kind not in "fiub":
            what = {"c": "complex numbers", "U": "text", "S": "text", "M": "dates"}.get(a.dtype.kind, str(a.dtype))
            raise TypeError(f"{name} holds {what}; real numbers are needed")
        if a.dtype.kind != "f" or a.dtype.itemsize > 8:
            a = a.astype(np.float64)
        a = a.astype(a.dtype.newbyteorder("="), copy=False)
        plain = a.flags.writeable and all(s >= 0 and s % a.itemsize == 0 for s in a.strides)
        X = torch.from_numpy(a if plain else a.copy())
    if X.is_complex():
        raise TypeError(f"{name} holds complex numbers; real numbers are needed, e.g. X.abs()")
    if X.dtype in (torch.float16, torch.bfloat16):
        return X.float()
    return X.detach() if X.is_floating_point() else X.double()


def _check_2d(X: Tensor) -> None:
    _check_dims(tuple(X.shape))
    if X.numel() == 0:
        raise ValueError(f"X is {X.shape[0]} x {X.shape[1]}: there is nothing to factor")


def _check_dims(shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise ValueError(f"X has shape {shape}; a matrix has two dims, e.g. images become rows by X.reshape(len(X), -1)")


def _finite(values: Tensor) -> bool:
    """Whether all are finite, asked in one pass; False as well where their sum is too large to be a number."""
    return bool(values.sum().isfinite())


def _check_finite(values: Tensor, X: Stored | None = None) -> None:
    if not _finite(values) and bool((bad := ~values.isfinite()).any()):
        at = tuple(bad.nonzero()[0].tolist())
        row, col = at if X is None else (X._rows()[at].item(), X.col[at].item())
        raise ValueError(
            f"X holds {values[at].item()} at row {row}, column {col} ({int(bad.sum())} such cells); "
            "replace them, or make them NaN if they are no data"
        )


def _spread(weight: Any, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Dense weights, checked and in X's shape and dtype."""
    frame = None if isinstance(weight, Tensor) else _frame(weight)
    w = frame[0] if frame else floating(weight, "weight")
    try:
        w = w.to(values).expand(shape)
    except RuntimeError:
        raise ValueError(f"weight has shape {tuple(w.shape)}, X has {tuple(shape)}; give the same") from None
    return _check_weights(w)


def _check_weights(w: Tensor) -> Tensor:
    if not bool(((w >= 0) & w.isfinite()).all()):
        bad = w[~((w >= 0) & w.isfinite())][0].item()
        raise ValueError(f"weight holds {bad:g}; weights are finite and not negative, 0 where there is no data")
    return w


def _background(background: float) -> float:
    if not 0 <= background < float("inf"):
        raise ValueError(f"background is {background}; it is the weight of the cells that are not stored, finite and not negative")
    return float(background)


def memory_for(
    rows: int, cols: int, itemsize: int, what: str, way: str = "give it as a sparse matrix, in float32, or fewer rows"
) -> None:
    """Raises MemoryError, before anything is allocated, where ``what`` (rows x cols) needs more than the memory that is free."""
    need, free = rows * cols * itemsize, free_memory()
    if free is not None and need > 0.9 * free:
        raise MemoryError(f"{what} of {rows} x {cols} needs {need / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; {way}")


def free_memory() -> int | None:
    """Bytes of memory that can still be had, None where the system does not say."""
    import os

    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
