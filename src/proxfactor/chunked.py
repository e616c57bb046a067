"""Chunked: data larger than memory, as chunks of rows that are read anew for each sweep, the next while this one is in use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor

from .matrix import Dense, Matrix, Observed, Sparse, Stored, Table, as_table, free_memory

CHUNK = 2**26
"""Bytes that a chunk of rows takes where its size can be chosen."""

SAMPLE = 2**24
"""Bytes of the rows that stay in memory, for starts."""

_END: Any = object()


def _refuse(X: Matrix, *_: Any, **__: Any) -> NoReturn:
    raise ValueError(f"{X!r} is never in memory as a whole; give it to factorize or Streamed, ask its chunks(), or load it")


class Chunked(Matrix):
    """X (m, n) as chunks of rows that need not be in memory together: everything about it is a sum over the chunks.

    source: a list of chunks, a function that returns a new iterator of them, or one array with ``shape`` and slices of rows
    (numpy.memmap, zarr, h5py), which is cut every ``rows`` rows. A chunk is whatever ``factorize`` takes as X: an array, a
    sparse matrix, a data frame, a Matrix (with weights of its own), a Table. Columns that have names are aligned by them.

    To make it reads the data once: each chunk is checked, and kept are the rows of each, the smallest and the largest value,
    the sum of squares, the names, and some evenly spaced rows (``sample``, their numbers in ``sampled``). ``reads`` counts
    the reads. A chunk and the next one, which a thread fetches meanwhile, are all that is in memory. Raises ValueError naming
    the chunk in which something is wrong.

    >>> X = Chunked([[[1.0, 2.0]], [[2.0, 4.0], [3.0, float("nan")]]])
    >>> X, X.counts, (X @ torch.ones(2, 1, dtype=X.dtype)).mT
    (Chunked(3 x 2 in 2 chunks, float64), [1, 2], tensor([[3., 6., 3.]], dtype=torch.float64))
    """

    weight = None
    background = 0.0
    counts: list[int]
    """The rows of each chunk."""
    low: float
    high: float
    even: bool
    """Whether all cells are data of weight one, so that all rows share their Gram matrix."""
    rows: np.ndarray | None
    cols: np.ndarray | None
    sample: Matrix
    sampled: Tensor

    def __init__(self, source: Any, rows: int | None = None):
        self._source = _again(source, rows)
        self._factor, self._reads = 1.0, [0]  # a list, which copies share
        self.device = torch.device("cpu")
        self._survey()

    def _survey(self) -> None:
        """The one look at all chunks by which the whole is known."""
        counts: list[int] = []
        names: list[Any] = []
        sample = _Sample()
        low, high, self._squares = float("inf"), float("-inf"), 0.0
        self.even, dtype = True, torch.float32
        self.cols, self._width = None, 0
        with closing(_ahead(self._tables())) as tables:
            for table in tables:
                X = table.matrix
                if not counts:
                    self.form, self.device = table.form, X.device
                counts.append(X.shape[0])
                names.append(table.rows)
                values = X.entries()
                if values.numel():
                    low, high = min(low, values.min().item()), max(high, values.max().item())
                self._squares += X.squares().item()
                self.even = self.even and _even(X)
                dtype = torch.promote_types(dtype, X.dtype)
                sample.add(X)
        if not counts:
            raise ValueError("there is no chunk; a source gives at least one, and anew each time it is asked")
        self._reads[0] += 1
        self.counts, self.dtype, self.shape = counts, dtype, (sum(counts), self._width)
        self.low, self.high = (low, high) if low <= high else (0.0, 0.0)
        self.rows = None if any(n is None for n in names) else np.concatenate(names)
        self.sample, self.sampled = sample.matrix().to(dtype=dtype), sample.numbers()

    @property
    def names(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        return self.rows, self.cols

    @property
    def reads(self) -> int:
        """How often the data has been read, by this and by what was made of it with ``to`` and ``scaled``."""
        return self._reads[0]

    def chunks(self) -> Generator[tuple[slice, Matrix]]:
        """(rows, those rows as a Matrix), one read of the data. Close it, or go to its end."""
        start = 0
        with closing(_ahead(self._matrices())) as matrices:
            for X in matrices:
                rows = slice(start, start + X.shape[0])
                yield rows, X
                start = rows.stop
                X.__dict__.pop("T", None)  # a matrix and its transpose are a ring, which would keep it
        self._reads[0] += 1

    def _tables(self) -> Iterator[Table]:
        number = 0
        try:
            for chunk in self._source():
                table = as_table(chunk)
                if isinstance(table.matrix, Chunked | _Turned):
                    raise TypeError("it is Chunked itself; give its chunks")
                if not self._width:
                    self.cols, self._width = table.cols, table.matrix.shape[1]
                table = table.with_columns(self.cols)
                if table.matrix.shape[1] != self._width:
                    raise ValueError(f"it has {table.matrix.shape[1]} columns, the first chunk {self._width}; give the same")
                yield table
                number += 1
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"chunk {number} (from 0): {error}") from error

    def _matrices(self) -> Iterator[Matrix]:
        number = -1
        for number, table in enumerate(self._tables()):
            X = table.matrix
            if number >= len(self.counts) or X.shape[0] != self.counts[number]:
                had = f"had {self.counts[number]}" if number < len(self.counts) else "was not there"
                raise ValueError(f"chunk {number} (from 0) has {X.shape[0]} rows and {had} at the first read; {_SAME}")
            if self._factor != 1.0:
                scaled = X.like(X.entries() * self._factor)
                scaled.weight = X.weight
                X = scaled
            X = X.to(self.device, self.dtype)
            if isinstance(X, Stored):
                _ = X.T  # sorted by columns here, in the thread that reads ahead
            yield X
        if number + 1 != len(self.counts):
            raise ValueError(f"there were {len(self.counts)} chunks at the first read and now {number + 1}; {_SAME}")

    @property
    def T(self) -> Matrix:
        return _Turned(self)

    def __matmul__(self, B: Tensor) -> Tensor:
        with closing(self.chunks()) as chunks:
            return torch.cat([X @ B for _, X in chunks])

    def squares(self) -> Tensor:
        return torch.tensor(self._squares, dtype=torch.float64, device=self.device)

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        """The same data, each chunk taken to another device or dtype when it has been read."""
        return self._with(device=torch.device(device or self.device), dtype=dtype or self.dtype)

    def scaled(self, factor: float) -> Self:
        """The same data, each chunk multiplied when it has been read."""
        total = self._factor * factor
        low, high, squares = self.low * factor, self.high * factor, self._squares * factor**2
        sample = self.sample.like(self.sample.entries() * factor)
        sample.weight = self.sample.weight
        return self._with(_factor=total, low=low, high=high, _squares=squares, sample=sample)

    def with_columns(self, cols: np.ndarray) -> Self:
        """The same data with these columns in this order, by name, as ``Table.with_columns``."""
        sample = Table(self.sample, None, self.cols).with_columns(cols).matrix
        return self._with(cols=cols, _width=len(cols), shape=(self.shape[0], len(cols)), sample=sample)

    def _with(self, **changes: Any) -> Self:
        other = copy.copy(self)
        other.__dict__.update(changes)
        other.sample = other.sample.to(other.device, other.dtype)
        return other

    entries = predict = like = take = along = gram = sums = blocks = plain = _refuse

    def __repr__(self) -> str:
        m, n = self.shape
        return f"Chunked({m} x {n} in {len(self.counts)} chunks, {str(self.dtype).removeprefix('torch.')})"


_SAME = "the source must give the same data each time"


class _Turned(Matrix):
    """Xᵀ of chunks, which offers its shape and a product."""

    weight = None
    background = 0.0

    def __init__(self, X: Chunked):
        self._of, self.low = X, X.low
        self.shape, self.dtype, self.device, self.form = (X.shape[1], X.shape[0]), X.dtype, X.device, X.form

    @property
    def T(self) -> Matrix:
        return self._of

    def __matmul__(self, B: Tensor) -> Tensor:
        total = torch.zeros(self.shape[0], B.shape[1], dtype=B.dtype, device=B.device)
        with closing(self._of.chunks()) as chunks:
            for r, X in chunks:
                total += X.T @ B[r]
        return total

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Self:
        return type(self)(self._of.to(device, dtype))

    entries = predict = like = take = along = gram = sums = blocks = plain = _refuse

    def __repr__(self) -> str:
        return f"{self._of!r}.T"


class _Sample:
    """Every s-th row of what comes by, s doubled whenever they become too many."""

    def __init__(self) -> None:
        self.pieces: list[tuple[Tensor, Matrix]] = []  # the numbers of the rows, the rows
        self.stride, self.seen = 1, 0

    def add(self, X: Matrix) -> None:
        numbers = torch.arange(self.seen, self.seen + X.shape[0])
        self.seen += X.shape[0]
        self.pieces.append((numbers, X.to("cpu")))
        most = min(4096, max(64, SAMPLE // (X.shape[1] * X.dtype.itemsize)))
        self._thin()
        while sum(len(at) for at, _ in self.pieces) > most:
            self.stride *= 2
            self._thin()

    def _thin(self) -> None:
        kept = []
        for at, X in self.pieces:
            mine = (at % self.stride == 0).nonzero()[:, 0]
            if len(mine):
                kept.append((at[mine], X.take(mine)))  # a copy, so that the chunk can go
        self.pieces = kept

    def numbers(self) -> Tensor:
        return torch.cat([at for at, _ in self.pieces])

    def matrix(self) -> Matrix:
        return _stacked([X for _, X in self.pieces])


def _stacked(parts: list[Matrix]) -> Matrix:
    """Matrices of as many columns below each other: Dense if all are, Sparse if all are, else those that are alike, Observed."""
    if all(isinstance(X, Dense) for X in parts):
        weights = None
        if any(X.weight is not None for X in parts):
            weights = torch.cat([torch.ones_like(X.entries()) if X.weight is None else X.weight for X in parts])
        return Dense._of(torch.cat([X.entries() for X in parts]), weights)
    sparse = [X for X in parts if isinstance(X, Sparse)]
    stored = [X for X in sparse if X.background == sparse[0].background] if sparse else [_observed(X) for X in parts]
    sizes = [int(X.crow[-1]) for X in stored]
    ends = np.cumsum([0, *sizes])
    crow = torch.cat([stored[0].crow[:1].long(), *(X.crow[1:].long() + int(end) for X, end in zip(stored, ends, strict=False))])
    weights = None
    if any(X.weight is not None for X in stored):
        weights = torch.cat([torch.ones_like(X.values) if X.weight is None else X.weight for X in stored])
    col, values = torch.cat([X.col for X in stored]), torch.cat([X.values for X in stored])
    shape = (sum(X.shape[0] for X in stored), stored[0].shape[1])
    index = stored[0].crow.dtype
    return type(stored[0])._of(crow.to(index), col.to(index), values, shape, weights, stored[0].background)


def _observed(X: Matrix) -> Stored:
    if isinstance(X, Stored):
        return X
    data = torch.ones_like(X.entries(), dtype=torch.bool) if X.weight is None else X.weight != 0
    made = Observed._dense(X.entries(), data)
    made.weight = None if X.weight is None else X.weight[data]
    return made


def _even(X: Matrix) -> bool:
    """Whether all cells are data of weight one, so that all rows share their Gram matrix."""
    return X.weight is None and (isinstance(X, Dense) or X.background == 1)


def _ahead(items: Iterator[Any]) -> Generator[Any]:
    """The items, each fetched by a thread while the one before is in use. What goes wrong there is raised here."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, _END)
        while (item := coming.result()) is not _END:
            coming = thread.submit(next, items, _END)
            yield item
            del item


def _again(source: Any, rows: int | None) -> Callable[[], Iterable]:
    """A function that gives the chunks of ``source`` from the beginning."""
    if isinstance(source, Chunked):
        raise TypeError("X is Chunked already; give it to factorize as it is")
    if isinstance(source, str | bytes) or hasattr(source, "__fspath__"):
        raise TypeError(f"given {source!r}, the name of a file; read({source!r}, chunked=True) gives what factorize takes")
    if callable(source):
        return source
    if hasattr(source, "shape") and hasattr(source, "__getitem__"):
        return _cut(source, rows)
    if isinstance(source, Iterable) and iter(source) is not source:
        return lambda: source
    given = "an iterator, which can be read only once" if isinstance(source, Iterator) else f"a {type(source).__name__}"
    raise TypeError(f"given {given}; give a list of chunks, or a function that returns a new iterator of them each time")


def _cut(array: Any, rows: int | None) -> Callable[[], Iterable]:
    if len(array.shape) != 2:
        raise ValueError(f"X has shape {tuple(array.shape)}; a matrix has two dims")
    count = rows or rows_of_chunk(array.shape[1], max(4, getattr(getattr(array, "dtype", None), "itemsize", 8)))
    return lambda: (array[start : start + count] for start in range(0, array.shape[0], count))


def rows_of_chunk(n: int, itemsize: int) -> int:
    """How many rows of n numbers make a chunk: 64 MiB of them, fewer where little memory is free."""
    free = free_memory()
    return max(1, min(CHUNK, CHUNK if free is None else free // 16) // max(1, n * itemsize))
