"""Files larger than memory: parquet, csv, npy, npz and zarr as chunks of rows, opened anew for each read."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..chunked import Chunked, rows_of_chunk
from ..matrix import Table, free_memory
from .cells import Names, chunk_of
from .files import first_line, reading
from .tables import Csv, Parquet, wide_chunks, wide_columns

Raw = tuple[Any, Names, Names]

SHARE = 3
"""A file whose matrix takes more than this part of the free memory is read in chunks: a fit needs room of its own."""

FAR = 100
"""Times the free memory beyond which that is done when asked for only: it would take days."""


@dataclass
class Rows:
    """What a file says of its matrix before it is read, ``read(count)``: an iterator of so many rows at a time, and their names."""

    n: int
    itemsize: int
    size: float  # bytes in memory, inf where the file does not say
    read: Callable[[int], Iterator[Raw]]


def too_large(rows: Rows | None) -> bool:
    free = free_memory()
    return rows is not None and free is not None and free / SHARE < rows.size < FAR * free


def in_chunks(rows: Rows, missing: str) -> Table:
    """The table whose matrix is Chunked. The data is read once, and looked at as ``read`` does."""

    def source() -> Iterator[Table]:
        first = 0
        with _sentence("file"):
            for X, names, cols in rows.read(rows_of_chunk(rows.n, rows.itemsize)):
                yield chunk_of(X, names, cols, missing, first)
                first += X.shape[0]

    X = Chunked(source)
    return Table(X, X.rows, X.cols)


def opened(path: Path, kind: str, gzipped: bool, layout: Any) -> Rows:
    """The rows of a file. Raises ValueError, with the way out, for what can only be read as a whole."""
    if layout not in ("auto", "wide"):
        raise ValueError("is a long table, whose rows are only known at its end; read in chunks is a wide one, or a csr in npz")
    if kind in ("parquet", "csv"):
        return _table(path, kind, gzipped, layout)
    if kind == "mtx":
        raise ValueError("is read as a whole, as mtx has no order; save it for chunks with scipy.sparse.save_npz(…, X.tocsr())")
    with _sentence(f"{kind} file"):
        return {"npy": _npy, "npz": _npz, "zarr": _zarr}[kind](path)


@contextmanager
def _sentence(kind: str) -> Iterator[None]:
    """What others raise over malformed bytes becomes a sentence, as in ``reading``; what is one stays."""
    try:
        yield
    except (ValueError, TypeError, OSError, MemoryError):
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"is no readable {kind} ({why}); it may be damaged or cut short: write it or fetch it again") from None


def _table(path: Path, kind: str, gzipped: bool, layout: str) -> Rows:
    def source() -> Parquet | Csv:
        return Parquet(path) if kind == "parquet" else Csv(path, gzipped, bare=False)

    first = source()
    labels, cols, dtype = wide_columns(first, layout)
    size = first.rows * len(cols) * dtype.itemsize or math.inf
    return Rows(len(cols), 8, size, lambda count: wide_chunks(source(), labels, cols, dtype, count))


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    with reading("npy array"):
        version = np.lib.format.read_magic(stream)
        known = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = known[version](stream)
    if dtype.hasobject:
        raise ValueError("holds Python objects, and a pickle is not read; save an array of numbers")
    return shape, fortran, dtype


def _matrix_header(stream: IO[bytes]) -> tuple[tuple[int, int], bool, np.dtype]:
    shape, fortran, dtype = _header(stream)
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"holds an array of shape {shape}; a matrix has two dims: images become rows by X.reshape(len(X), -1)")
    return (shape[0], shape[1]), fortran, dtype


def _numbers(stream: IO[bytes], count: int, dtype: np.dtype) -> np.ndarray:
    with reading("npy array"):
        data = stream.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise ValueError("ends before its last row; it is damaged or cut short: write it or fetch it again")
    return np.frombuffer(bytearray(data), dtype)


def _npy(path: Path) -> Rows:
    with path.open("rb") as file:
        (m, n), fortran, dtype = _matrix_header(file)
        begin = file.tell()

    def read(count: int) -> Iterator[Raw]:
        with path.open("rb") as file:
            file.seek(begin)
            for start in range(0, m, count):
                rows = min(count, m - start)
                yield (_columns(file, start, rows) if fortran else _numbers(file, rows * n, dtype).reshape(rows, n)), None, None

    def _columns(file: IO[bytes], start: int, rows: int) -> np.ndarray:
        X = np.empty((rows, n), dtype)
        for j in range(n):
            file.seek(begin + (j * m + start) * dtype.itemsize)
            X[:, j] = _numbers(file, rows, dtype)
        return X

    return Rows(n, dtype.itemsize, m * n * _wide(dtype), read)


def _wide(dtype: np.dtype) -> int:
    """Bytes of a number in memory: what is not float becomes float64."""
    return max(dtype.itemsize, 4 if dtype.kind == "f" else 8)


def _npz(path: Path) -> Rows:
    with reading("npz file"):
        archive = zipfile.ZipFile(path)
    with archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if {"format", "shape", "data"} <= set(names):
            return _csr(path, archive)
        name = "X" if "X" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise ValueError(f"holds {len(names)} arrays: {', '.join(names[:20])}; save the matrix alone, or under the name X")
        with archive.open(f"{name}.npy") as stream:
            (m, n), fortran, dtype = _matrix_header(stream)
    if fortran:
        raise ValueError("holds its columns one after another, in an archive; save it as npy, or with its rows one after another")

    def read(count: int) -> Iterator[Raw]:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
            _header(stream)
            for start in range(0, m, count):
                rows = min(count, m - start)
                yield _numbers(stream, rows * n, dtype).reshape(rows, n), None, None

    return Rows(n, dtype.itemsize, m * n * _wide(dtype), read)


def _csr(path: Path, archive: zipfile.ZipFile) -> Rows:
    """A csr_matrix as scipy.sparse.save_npz writes it: its indices and values pass by side by side."""
    from scipy.sparse import csr_array

    def whole(name: str) -> np.ndarray:
        with reading("sparse npz file"), archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    with reading("sparse npz file"):
        form = whole("format").item()
        form = form.decode("ascii") if isinstance(form, bytes) else form
    if form != "csr":
        raise ValueError(f"holds a sparse matrix as {form}, whose rows are not one after another; save X.tocsr()")
    m, n = map(int, whole("shape"))
    ends = whole("indptr").astype(np.int64)
    with archive.open("data.npy") as stream:
        (stored,), _, dtype = _header(stream)
    if min(m, n) < 1 or len(ends) != m + 1 or ends[0] != 0 or (np.diff(ends) < 0).any() or ends[-1] != stored:
        raise ValueError("is no valid csr matrix; build it again from its rows, columns and values")

    def read(count: int) -> Iterator[Raw]:
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(path))
            at, values = (stack.enter_context(archive.open(f"{name}.npy")) for name in ("indices", "data"))
            (_, _, index), _ = _header(at), _header(values)
            per_row = max(1, math.ceil(stored / m))
            count = max(1, count * n * dtype.itemsize // (per_row * (dtype.itemsize + 8)))
            for start in range(0, m, count):
                stop = min(m, start + count)
                cells = int(ends[stop] - ends[start])
                X = csr_array((_numbers(values, cells, dtype), _numbers(at, cells, index), ends[start : stop + 1] - ends[start]),
                              shape=(stop - start, n))  # fmt: skip
                yield X, None, None

    return Rows(n, dtype.itemsize, 2 * stored * (_wide(dtype) + 4), read)


def _zarr(path: Path) -> Rows:
    try:
        import zarr
    except ImportError:
        raise ValueError("is a zarr array, and the package zarr that reads it is missing: pip install zarr") from None
    with reading("zarr array"):
        array = zarr.open_array(str(path), mode="r")
        shape, dtype = tuple(array.shape), np.dtype(array.dtype)
        piece = int(array.chunks[0])
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"holds an array of shape {shape}; a matrix has two dims")
    m, n = shape

    def read(count: int) -> Iterator[Raw]:
        array = zarr.open_array(str(path), mode="r")
        count = max(piece, count // piece * piece)  # whole pieces of the file, so that none is unpacked twice
        for start in range(0, m, count):
            with reading("zarr array"):
                X = np.asarray(array[start : start + count])
            yield X, None, None

    return Rows(n, dtype.itemsize, m * n * _wide(dtype), read)
