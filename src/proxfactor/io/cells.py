"""From the numbers in a file to a Matrix: which cells are data, what a pair that occurs twice means, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..matrix import Observed, Sparse, Table, as_matrix, memory_for

if TYPE_CHECKING:
    from scipy.sparse import coo_array

Names = np.ndarray | None
_NO_DATA = "holds no data, as every cell is missing; check the file, or missing="


def to_table(X: np.ndarray | coo_array, rows: Names, cols: Names, missing: str, duplicates: str) -> Table:
    """What `read` gives, from an array or stored cells, with the names of rows and columns. Cells with names are a long table."""
    if len(X.shape) != 2:
        raise ValueError(f"holds an array of shape {X.shape}; a matrix has two dims: images become rows by X.reshape(len(X), -1)")
    if min(X.shape) == 0:
        raise ValueError(f"has {X.shape[0]} rows and {X.shape[1]} columns; there is nothing to factor")
    return _dense(X, rows, cols, missing) if isinstance(X, np.ndarray) else _sparse(X, rows, cols, missing, duplicates)


def _dense(X: np.ndarray, rows: Names, cols: Names, missing: str) -> Table:
    table = chunk_of(X, rows, cols, missing)
    weight = table.matrix.weight
    if not table.matrix.entries().numel() or (weight is not None and not weight.any()):
        raise ValueError(_NO_DATA)
    return table


def chunk_of(X: Any, rows: Names, cols: Names, missing: str, first: int = 0) -> Table:
    """Some rows of a wide table, an array or a csr matrix, from row number ``first`` on."""
    stored = not isinstance(X, np.ndarray)
    v = _floats(X.data if stored else X)

    def place(at: int) -> str:
        i, j = (int(X.tocoo().row[at]), int(X.indices[at])) if stored else divmod(at, X.shape[1])
        return _place(rows, cols, i, j, first)

    _check_values(v, missing, place)
    if not stored:
        return Table(as_matrix(np.where(v == 0, np.nan, v) if missing == "zeros" else v), rows, cols)
    X = type(X)((v, X.indices, X.indptr), shape=X.shape)
    if missing == "zeros":
        X.eliminate_zeros()
    return Table(Observed(X) if missing == "zeros" else Sparse(X), rows, cols)


def _sparse(X: coo_array, rows: Names, cols: Names, missing: str, duplicates: str) -> Table:
    """Observed where the other cells are no data, Sparse where they are zeros."""
    import scipy.sparse

    def place(at: int) -> str:
        return _place(rows, cols, int(i[at]), int(j[at]))

    i, j, v = X.row, X.col, _floats(X.data)
    long = rows is not None
    memory_for(sum(X.shape), 1, 16, "the row and column numbers")
    _check_values(v, missing, place)
    holes = missing == "zeros" or (long and missing == "nan")
    if holes:
        data = ~np.isnan(v) & (long | (v != 0))
        i, j, v = i[data], j[data], v[data]
        if not len(v):
            raise ValueError(_NO_DATA)
    i, j, v = _merged(i, j, v, X.shape, duplicates, place)
    matrix = scipy.sparse.csr_array((v, (i, j)), shape=X.shape)
    return Table(Observed(matrix) if holes else Sparse(matrix), rows, cols)


def _floats(X: np.ndarray) -> np.ndarray:
    if X.dtype.kind not in "fiub":
        what = {"c": "complex numbers", "U": "text", "S": "text", "M": "dates", "V": "records"}.get(X.dtype.kind, str(X.dtype))
        raise ValueError(f"holds {what}; a matrix of real numbers is needed")
    return X.astype(np.float32 if X.dtype.kind == "f" and X.dtype.itemsize <= 4 else np.float64, copy=False)


def _check_values(X: np.ndarray, missing: str, place: Callable[[int], str]) -> None:
    def refuse(bad: np.ndarray, what: str, way_out: str) -> None:
        if bad.any():
            raise ValueError(f"holds {what} in {place(int(bad.argmax()))} ({bad.sum()} such cells){way_out}")

    refuse(np.isinf(X), "an infinite value", "; replace it, or make it NaN if it is no data")
    if missing == "none":
        refuse(np.isnan(X), "no number", ", and missing='none' was asked; use missing='nan'")


def _place(rows: Names, cols: Names, i: int, j: int, first: int = 0) -> str:
    """Row and column by name, else by number from 0; i counts from row ``first`` on."""
    return f"row {first + i if rows is None else repr(rows.item(i))}, column {j if cols is None else repr(cols.item(j))}"


def order_of_cells(i: np.ndarray, j: np.ndarray, shape: tuple[int, int]) -> np.ndarray | None:
    """The stable order of cells by row, then column; None where they are in it."""
    step = np.diff(i)
    if ((step > 0) | ((step == 0) & (np.diff(j) >= 0))).all():
        return None
    order = counted(j, shape[1])
    return order[counted(i[order], shape[0])]


def counted(codes: np.ndarray, kinds: int) -> np.ndarray:
    """The stable order of codes from 0 to kinds - 1, by counting: scipy's way to turn a matrix with a cell in each row."""
    from scipy.sparse import csr_array

    kind = np.int32 if max(len(codes), kinds) < 2**31 else np.int64
    rows = np.arange(len(codes) + 1, dtype=kind)
    cells = csr_array((np.ones(len(codes), dtype=np.int8), codes.astype(kind, copy=False), rows), shape=(len(codes), kinds))
    return cells.tocsc().indices.astype(np.int64)


def _merged(
    i: np.ndarray, j: np.ndarray, v: np.ndarray, shape: tuple[int, int], how: str, place: Callable[[int], str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One cell for each pair, in the order of rows and columns."""
    order = order_of_cells(i, j, shape)
    order = np.arange(len(v)) if order is None else order
    i, j, v = i[order], j[order], v[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (i[1:] != i[:-1]) | (j[1:] != j[:-1])
    if first.all():
        return i, j, v
    if how == "error":
        again = order[~first]
        raise ValueError(
            f"gives {place(again.min())} more than once ({len(again)} repeats); use duplicates='sum', 'mean' or 'last'"
        )
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(order))
    merged = v[ends - 1] if how == "last" else np.add.reduceat(v, starts)
    return i[starts], j[starts], (merged / (ends - starts)).astype(v.dtype) if how == "mean" else merged
