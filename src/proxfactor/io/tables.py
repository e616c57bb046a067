"""Tables: parquet and csv, in and out, through arrow. A wide table has a matrix row in each row, a long one a cell.

In csv the ids and names stay text, and numbers become float64; a parquet file says its types itself.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..matrix import memory_for
from .cells import Names
from .files import reading, shown, write_atomically

_NUMERIC = ("integer", "number")
_CSV_BLOCK = 2**25
_NO_ID = "has no id in {row}; give it one or drop the row"
_NO_NUMBER = "holds the id {id} in {row}; ids are text or whole numbers"


# in


def arrow_file(path: Path, gzipped: bool = False) -> Any:
    """Arrow's own file, not Python's: its threads read ahead, and one that calls Python while the process ends aborts it."""
    import pyarrow as pa

    file = pa.OSFile(os.fsencode(path))
    return pa.CompressedInputStream(file, "gzip") if gzipped else file


class Parquet:
    """A parquet file as batches of columns of text and of numbers. ``index`` names those that pandas took for its index."""

    def __init__(self, path: Path):
        import pyarrow.parquet as pq

        with reading("parquet file"):
            self.file = pq.ParquetFile(arrow_file(path))
            self.schema, self.rows = self.file.schema_arrow, self.file.metadata.num_rows
        self.kinds = {f.name: kind_of(f.type) for f in self.schema}
        self.index = self._pandas_index()

    def _pandas_index(self) -> list[str]:
        try:
            columns = json.loads((self.schema.metadata or {})[b"pandas"])["index_columns"]
            return [c for c in columns if isinstance(c, str) and c in self.kinds]  # a RangeIndex is a dict and names nothing
        except (KeyError, TypeError, ValueError, RecursionError):
            return []

    def batches(self, texts: list[str], numbers: list[str], rows: int = 2**16) -> Iterator[Any]:
        with reading("parquet file"):
            yield from self.file.iter_batches(rows, columns=[*texts, *numbers])


class Csv:
    """A csv file as batches of columns, read in blocks. ``bare`` says that three numbers in the first line are no header."""

    rows = 0  # csv does not say
    index: tuple[str, ...] = ()

    def __init__(self, path: Path, gzipped: bool, bare: bool):
        self.path, self.gzipped = path, gzipped
        line = self._first_line()
        cells = {d: next(csv.reader([line], delimiter=d), []) for d in ",;\t"}
        tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
        self.delimiter = "\t" if tabs else max(cells, key=lambda d: len(cells[d]))
        self.bare = bare and all(map(_is_number, cells[self.delimiter]))
        with reading("csv file"):
            self.schema = self._open({}).schema
        kinds = {f.name: kind_of(f.type) for f in self.schema}
        self.kinds = {name: kind if kind in _NUMERIC else "text" for name, kind in kinds.items()}

    def _first_line(self) -> str:
        with reading("csv file"), arrow_file(self.path, self.gzipped) as file:
            head = file.read(2**16)
        try:
            text = head.decode("utf-8-sig", "strict" if len(head) < 2**16 else "ignore")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise ValueError("is neither parquet, npy, npz or mtx nor UTF-8 text; write it as one of these, in gzip if compressed")
        return next((line for line in text.splitlines() if line.strip()), "")

    def _open(self, types: dict[str, Any]) -> Any:
        from pyarrow import csv as arrow

        return arrow.open_csv(
            arrow_file(self.path, self.gzipped),
            arrow.ReadOptions(block_size=_CSV_BLOCK, autogenerate_column_names=self.bare),
            arrow.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            arrow.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=False),
        )

    def batches(self, texts: list[str], numbers: list[str], rows: int = 0) -> Iterator[Any]:
        """``rows`` is of no matter here: a block of the file is a batch."""
        import pyarrow as pa

        types = {f.name: f.type if pa.types.is_boolean(f.type) else pa.float64() for f in self.schema}
        with reading("csv file"):
            yield from self._open(dict.fromkeys(texts, pa.string()) | {n: types[n] for n in numbers})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def kind_of(kind: Any) -> str:
    """ "text", "integer", "number", or arrow's name of a type that is none of these."""
    import pyarrow as pa

    is_ = pa.types
    kind = kind.value_type if is_.is_dictionary(kind) else kind
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind):
        return "text"
    if is_.is_integer(kind):
        return "integer"
    return "number" if is_.is_floating(kind) or is_.is_decimal(kind) or is_.is_boolean(kind) or is_.is_null(kind) else str(kind)


def from_columns(source: Parquet | Csv, layout: str | tuple[str, ...]) -> tuple[Any, Names, Names]:
    """The array of a wide table or the coo_array of a long one, and the names of its rows and columns."""
    check_names(source)
    names = _cell_columns({n: k for n, k in source.kinds.items() if n not in source.index}, bool(source.index), layout)
    return _long(source, names) if names else _wide(source)


def check_names(source: Parquet | Csv) -> None:
    twice = next((n for n, count in Counter(source.schema.names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"has two columns named {twice!r}; rename one of them")


def _cell_columns(kinds: dict[str, str], named: bool, layout: str | tuple[str, ...]) -> tuple[str, ...]:
    """The columns that hold row id, column id and value; none in a wide table."""
    names = tuple(kinds)
    if isinstance(layout, tuple):
        lacking = [n for n in layout if n not in kinds]
        if lacking:
            have = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
            raise ValueError(f"has no column {lacking[0]!r}; layout must name three of {have}")
        if len(set(layout)) < 3:
            raise ValueError(f"layout names {layout!r}; row id, column id and value are three different columns")
        return layout
    if layout == "long":
        if len(names) < 3:
            raise ValueError(f"has {len(names)} columns; a long table has three: row id, column id, value. Is it layout='wide'?")
        return names[:3]
    if layout == "wide" or named or len(names) != 3 or not names[0] or kinds[names[2]] not in _NUMERIC:
        return ()
    ids = {kinds[n] for n in names[:2]}
    if "integer" in ids <= {"text", "integer"}:
        given = ", ".join(map(repr, names))
        raise ValueError(f"has the columns {given}: a matrix, or row id, column id, value? Say layout='wide' or layout='long'")
    return names if ids == {"text"} else ()


def _check_numeric(source: Parquet | Csv, cols: list[str]) -> None:
    odd = next((c for c in cols if source.kinds[c] not in _NUMERIC), None)
    if odd is None:
        return
    what = source.kinds[odd]
    if what == "text":
        batch = next(source.batches([odd], []), None)
        value = next((v for v in batch.column(odd).to_pylist() if v and not _is_number(v)), None) if batch else None
        what = "text" if value is None else f"text, such as {value[:40]!r}"
    raise ValueError(f"column {odd!r} holds {what}, not numbers; drop it, or make it the first column if it names the rows")


def _dtype(source: Parquet | Csv, cols: list[str]) -> np.dtype:
    import pyarrow as pa

    return np.dtype(np.float32 if all(pa.types.is_float32(source.schema.field(c).type) for c in cols) else np.float64)


def _wide(source: Parquet | Csv) -> tuple[np.ndarray, Names, Names]:
    import pyarrow as pa

    labels, cols, dtype = wide_columns(source, "wide")
    memory_for(source.rows, len(cols), dtype.itemsize, "the matrix")
    X, done = np.empty((source.rows, len(cols)), dtype), 0
    parts: dict[str, list] = {n: [] for n in labels}
    for batch in source.batches(labels, cols):
        end, columns = done + batch.num_rows, dict(zip(batch.schema.names, batch.columns, strict=True))
        if end > len(X):  # csv does not say how many rows will come
            memory_for(2 * end, len(cols), dtype.itemsize, "the matrix")
            X = np.concatenate([X[:done], np.empty((end, len(cols)), dtype)])
        _fill(X[done:end], [columns[c] for c in cols])
        for n in labels:
            parts[n].append(columns[n])
        done = end
    rows = _row_names([pa.chunked_array(parts[n]) for n in labels]) if labels and done else None
    return X[:done], rows, np.array(cols, dtype=object)


def _fill(X: np.ndarray, columns: list[Any]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    for j, column in enumerate(columns):
        X[:, j] = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def wide_columns(source: Parquet | Csv, layout: str) -> tuple[list[str], list[str], np.dtype]:
    """The columns of a wide table that name its rows, those of its matrix, and what they are read as."""
    check_names(source)
    if _cell_columns({n: k for n, k in source.kinds.items() if n not in source.index}, bool(source.index), layout):
        raise ValueError("is a long table, whose rows are only known at its end; chunks are read of a wide one, or a csr in npz")
    names = list(source.kinds)
    labels = list(source.index) or [n for n in names[:1] if source.kinds[n] == "text" or not n]
    cols = [n for n in names if n not in labels]
    _check_numeric(source, cols or names)
    return labels, cols, _dtype(source, cols)


def wide_chunks(
    source: Parquet | Csv, labels: list[str], cols: list[str], dtype: np.dtype, rows: int
) -> Iterator[tuple[np.ndarray, Names, Names]]:
    """A wide table some rows at a time, with the names of these rows and of the columns."""
    named = np.array(cols, dtype=object)
    for batch in source.batches(labels, cols, rows):
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        X = np.empty((batch.num_rows, len(cols)), dtype)
        _fill(X, [columns[c] for c in cols])
        yield X, (_row_names([columns[n] for n in labels]) if labels else None), named


def _row_names(columns: list[Any]) -> np.ndarray:
    if len(columns) == 1 and kind_of(columns[0].type) == "integer" and not columns[0].null_count:
        return np.asarray(columns[0].to_numpy())
    texts = [["" if v is None else str(v) for v in column.to_pylist()] for column in columns]
    return np.array([", ".join(levels) for levels in zip(*texts, strict=True)], dtype=object)


def _long(source: Parquet | Csv, names: tuple[str, ...]) -> tuple[Any, Names, Names]:
    import pyarrow as pa
    import pyarrow.compute as pc
    from scipy.sparse import coo_array

    row, col, value = names
    _check_numeric(source, [value])
    memory_for(source.rows, 3, 8, "the long table")
    batches, size, count = [], 0, 0
    for batch in source.batches([row, col], [value]):
        batches.append(batch)
        size, count = size + batch.nbytes, count + batch.num_rows
        if not source.rows:
            memory_for(count, 3, size // (3 * max(1, count)) + 8, "the long table")
    if not count:
        raise ValueError("has no rows; there is nothing to factor")
    table = pa.Table.from_batches(batches)
    rows, i = coded_ids(table.column(row), row)
    cols, j = coded_ids(table.column(col), col)
    v = pc.cast(table.column(value), pa.float64(), safe=False).to_numpy().astype(_dtype(source, [value]), copy=False)
    return coo_array((v, (i, j)), shape=(len(rows), len(cols))), rows, cols


def coded_ids(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The different ids, sorted, and the number of each row's id among them. Integers stay integers, everything else is text.

    ``column`` is an arrow array, a dictionary or not; what is dear is done to its different values only.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    def refuse(bad: np.ndarray, what: str) -> None:
        if (bad & used).any():
            row = int((bad & used)[codes].argmax())
            raise ValueError(f"column {name!r} " + what.format(id=different[codes[row]], row=f"row {row} (from 0)"))

    column = pa.chunked_array([column]) if isinstance(column, pa.Array) else column
    given = pa.types.is_dictionary(column.type)
    coded = (column if given else column.dictionary_encode(null_encoding="encode")).unify_dictionaries().combine_chunks()
    coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
    if coded.indices.null_count:
        row = pc.index(pc.is_null(coded.indices), True).as_py()
        raise ValueError(f"column {name!r} {_NO_ID.format(row=f'row {row} (from 0)')}")
    values, codes = coded.dictionary, coded.indices.to_numpy()
    used = np.bincount(codes, minlength=len(values)) > 0 if given else np.ones(len(values), dtype=bool)
    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        different = values.to_numpy(zero_copy_only=False)
        refuse(pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False), _NO_ID)
        if different.dtype.kind == "f":
            refuse((different != np.rint(different)) | (np.abs(different) > 2**53), _NO_NUMBER)
        elif different.dtype.kind == "u":
            refuse(different > np.uint64(2**63 - 1), "holds the id {id} in {row}, which int64 cannot hold; make such ids text")
        ids, rank = np.unique(different[used].astype(np.int64), return_inverse=True)
    else:
        values = values.cast(pa.large_string())
        different = values.to_numpy(zero_copy_only=False)
        refuse((different == None) | (different == ""), _NO_ID)  # noqa: E711
        order = pc.array_sort_indices(values.filter(pa.array(used))).to_numpy()
        ids, rank = different[used][order], np.argsort(order)
    places = np.zeros(len(used), dtype=np.int32)
    places[used] = rank
    return ids, places[codes]


# out


def write_table(path: str | os.PathLike[str], names: Sequence[str], columns: Iterable[Any]) -> Path:
    """Writes columns of equal length (arrays, tensors or lists) as parquet, csv or tsv, as the ending says; whole or not at all.

    Raises ValueError for another ending.

    >>> import tempfile
    >>> write_table(Path(tempfile.mkdtemp(), "t.csv"), ["user", "score"], [["a", "b"], [1.5, 2.0]]).read_text().split()
    ['"user","score"', '"a",1.5', '"b",2']
    """
    import pyarrow.parquet as pq
    from pyarrow import csv as arrow

    out, table, ending = io.BytesIO(), to_arrow(names, columns), Path(path).suffix.lower()
    if ending == ".parquet":
        pq.write_table(table, out)
    elif ending in (".csv", ".tsv"):
        arrow.write_csv(table, out, arrow.WriteOptions(delimiter="\t" if ending == ".tsv" else ","))
    else:
        raise ValueError(f"{shown(path)}: a table is written as .parquet, .csv or .tsv; give it one of these endings")
    return write_atomically(path, out.getbuffer())  # type: ignore[arg-type]


def to_arrow(names: Iterable[str], columns: Iterable[Any]) -> Any:
    import pyarrow as pa

    def column(values: Any) -> Any:
        values = values.detach().cpu().contiguous().numpy() if isinstance(values, Tensor) else np.asarray(values)
        return pa.array(values) if values.dtype.kind in "iufb" else pa.array([str(v) for v in values], pa.string())

    return pa.Table.from_arrays([column(c) for c in columns], names=list(names))
