"""Files: a matrix in, whatever its format, and the run folder out and back in. No pickle is ever read."""

from __future__ import annotations

import contextlib
import csv
import datetime
import difflib
import gzip
import io
import itertools
import json
import math
import os
import platform
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .losses import Loss
from .matrix import Observed, Sparse, Table, as_matrix, memory_for
from .prox import Function, Prox

if TYPE_CHECKING:
    from .fit import Result

FORMAT = 1
"""The version of the run folder that is written; older ones are read."""

_MAGIC = {"parquet": b"PAR1", "npy": b"\x93NUMPY", "npz": b"PK", "mtx": b"%%MatrixMarket"}
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".ckpt")
_NO_PICKLE = (
    "holds a pickle, which can run any code when it is opened, so it is not read; save the array with numpy.save or as parquet"
)
_NUMERIC = ("integer", "number")
_CSV_BLOCK = 2**25


# ── a matrix in ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Asked:
    """What the caller wants, checked, and how the file is called in messages."""

    name: str
    missing: str
    layout: str | tuple[str, ...]
    duplicates: str


def read(
    path: str | os.PathLike[str], *, missing: str = "nan", layout: str | Sequence[str] = "auto", duplicates: str = "error"
) -> Table:
    r"""The matrix in a parquet, csv, npy, npz or mtx file, with the names of its rows and columns where it has them.

    The first bytes tell the format; csv may be separated by comma, semicolon or tab, csv and mtx may be gzipped.
    A wide table has a matrix row in each row; its names are the pandas index or a first column of text. A long table has
    a cell in each row: row id, column id, value. ``layout`` is "wide", "long" (the first three columns) or the names of
    the three columns, as a tuple or as "user,item,rating"; "auto" takes text, text, number as long.
    ``duplicates`` says what a pair that occurs twice means: "error", "sum", "mean" or "last".

    ``missing`` says which cells are no data. "nan": NaN and null, and in a long table the pairs that do not occur.
    "zeros": also the zeros of a wide table or an array, and the cells that an npz or mtx does not store. "none": no cell;
    NaN is an error, and what a long table or sparse file does not store is 0. A 0 in a long table is always data.

    Raises ValueError for what is no matrix of numbers, FileNotFoundError and other OSErrors for what cannot be opened,
    MemoryError for what would not fit, before it is read.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "x.csv")
    >>> _ = file.write_text("name,a,b,c\nfirst,1,,5\nsecond,2,3,0\n")
    >>> read(file).rows, read(file).matrix.entries()
    (array(['first', 'second'], dtype=object), tensor([[1., 0., 5.],
            [2., 3., 0.]], dtype=torch.float64))
    """
    asked = _Asked(
        _shown(path),
        _one_of("missing", missing, "nan", "zeros", "none"),
        _layout(layout),
        _one_of("duplicates", duplicates, "error", "sum", "mean", "last"),
    )
    path = Path(path)
    _check_file(path, asked.name)
    try:
        kind, gzipped = _format(path)
        if kind == "csv":
            return _table(_Csv(path, gzipped, asked), asked)
        if kind != "parquet" and asked.layout not in ("auto", "wide"):
            raise ValueError(f"layout={layout!r} is for tables, and {kind} holds a matrix; leave layout out")
        with _open(path, gzipped) as file:
            match kind:
                case "parquet":
                    return _table(_Parquet(file), asked)
                case "mtx":
                    return _mtx(file, math.inf if gzipped else path.stat().st_size, asked)
                case "npy":
                    return _npy(file, path.stat().st_size, asked)
                case _:
                    return _npz(file, asked)
    except ValueError as error:
        raise ValueError(f"{asked.name}: {error}") from None


def _one_of(option: str, given: Any, *known: str) -> str:
    if given not in known:
        raise ValueError(f"{option} is {given!r}; it must be one of {', '.join(map(repr, known))}")
    return given


def _layout(given: str | Sequence[str]) -> str | tuple[str, ...]:
    if given in ("auto", "wide", "long"):
        return str(given)
    names = tuple(part.strip() for part in given.split(",")) if isinstance(given, str) else tuple(given)
    if len(names) != 3 or not all(isinstance(n, str) and n for n in names):
        raise ValueError(
            f"layout is {given!r}; it must be 'auto', 'wide', 'long' or the names of three columns, e.g. 'user,item,rating'"
        )
    return names


def _shown(path: str | os.PathLike[str]) -> str:
    text = os.fsdecode(path)
    return text if text.isprintable() else repr(text)


def _check_file(path: Path, name: str) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{name} is a folder; name one file in it")
    if not path.exists():
        near = difflib.get_close_matches(path.name, os.listdir(path.parent) if path.parent.is_dir() else [], n=1)
        raise FileNotFoundError(
            f"{name} does not exist; " + (f"did you mean {near[0]}?" if near else "check the spelling and the folder")
        )
    if not path.is_file():
        raise OSError(f"{name} is no regular file; write the data to a file first")


def _format(path: Path) -> tuple[str, bool]:
    """The format that the first bytes tell, and whether they are gzipped."""
    head, gzipped = _head(path, 64)
    ending = "." + path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if ending in _PICKLES or re.match(rb"\x80[\x02-\x05]", head):
        raise ValueError(_NO_PICKLE)
    if not head:
        raise ValueError("is empty; a matrix in parquet, csv, npy, npz or mtx is needed")
    kind = next((kind for kind, magic in _MAGIC.items() if head.startswith(magic)), "csv")
    if ending[1:] in _MAGIC and ending[1:] != kind:
        what = "does not begin like one" if kind == "csv" else f"begins like {kind}"
        raise ValueError(f"is named {ending} and {what}; it is damaged, or needs the ending of what it is")
    if gzipped and kind not in ("csv", "mtx"):
        raise ValueError(f"is a gzipped {kind}; unpack it with gunzip first")
    return kind, gzipped


def _head(path: Path, size: int) -> tuple[bytes, bool]:
    with path.open("rb") as file:
        head = file.read(size)
    if not head.startswith(b"\x1f\x8b"):
        return head, False
    with _reading("gzip file"), gzip.open(path) as file:
        return file.read(size), True


def _open(path: Path, gzipped: bool) -> IO[bytes]:
    return gzip.open(path) if gzipped else path.open("rb")  # type: ignore[return-value]


@contextlib.contextmanager
def _reading(kind: str) -> Iterator[None]:
    """Whatever a reader of others' raises over malformed bytes becomes one sentence."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"is no readable {kind} ({why}); it may be damaged or cut short: write it or fetch it again") from None


# tables


class _Parquet:
    """A parquet file as batches of columns. ``index`` names the columns that pandas took for its index."""

    def __init__(self, file: IO[bytes]):
        import pyarrow.parquet as pq

        with _reading("parquet file"):
            self.file = pq.ParquetFile(file)
            self.schema, self.rows = self.file.schema_arrow, self.file.metadata.num_rows
        self.index = _pandas_index(self.schema)

    def batches(self, kinds: dict[str, str]) -> Iterator[Any]:
        with _reading("parquet file"):
            yield from self.file.iter_batches(columns=list(kinds))


def _pandas_index(schema: Any) -> list[str]:
    try:
        columns = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
        return [c for c in columns if isinstance(c, str) and c in schema.names]  # a RangeIndex is a dict and names nothing
    except (KeyError, TypeError, ValueError, RecursionError):
        return []


class _Csv:
    """A csv file as batches of columns, read in blocks: ids and names stay text, numbers become float64."""

    rows = 0
    index: tuple[str, ...] = ()

    def __init__(self, path: Path, gzipped: bool, asked: _Asked):
        self.path, self.gzipped = path, gzipped
        line = self._first_line()
        cells = {d: next(csv.reader([line], delimiter=d), []) for d in ",;\t"}
        tabs = path.name.lower().removesuffix(".gz").endswith(".tsv")
        self.delimiter = "\t" if tabs else max(cells, key=lambda d: len(cells[d]))
        self.bare = asked.layout == "long" and all(map(_is_number, cells[self.delimiter]))  # three numbers are no header
        with _reading("csv file"):
            self.schema = self._open({}).schema

    def _first_line(self) -> str:
        head, _ = _head(self.path, 2**16)
        try:
            text = head.decode("utf-8-sig", "strict" if len(head) < 2**16 else "ignore")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise ValueError(
                "is neither parquet, npy, npz or mtx nor text in UTF-8; write it as one of these, in gzip if compressed"
            )
        return next((line for line in text.splitlines() if line.strip()), "")

    def _open(self, types: dict[str, Any]) -> Any:
        from pyarrow import csv as arrow

        return arrow.open_csv(
            _open(self.path, self.gzipped),
            arrow.ReadOptions(block_size=_CSV_BLOCK, autogenerate_column_names=self.bare),
            arrow.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            arrow.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=False),
        )

    def batches(self, kinds: dict[str, str]) -> Iterator[Any]:
        import pyarrow as pa

        boolean = {f.name for f in self.schema if pa.types.is_boolean(f.type)}
        kept = {"text": pa.string()}
        types = {c: pa.bool_() if c in boolean and k != "text" else kept.get(k, pa.float64()) for c, k in kinds.items()}
        with _reading("csv file"):
            yield from self._open(types)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _table(source: _Parquet | _Csv, asked: _Asked) -> Table:
    import pyarrow as pa

    names = source.schema.names
    twice = next((n for n, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"has two columns named {twice!r}; rename one of them")
    kinds = {f.name: _kind(f.type) for f in source.schema}
    if isinstance(source, _Csv):
        kinds = {n: k if k in _NUMERIC else "text" for n, k in kinds.items()}
    cells = _cell_columns({n: k for n, k in kinds.items() if n not in source.index}, bool(source.index), asked.layout)
    if cells:
        return _long(source, cells, kinds, asked)
    labels = list(source.index) or [n for n in names[:1] if kinds[n] == "text" or not n]
    cols = [n for n in names if n not in set(labels)]
    _check_numeric(source, cols or names, kinds)
    single = all(pa.types.is_float32(f.type) for f in source.schema if f.name not in labels)
    return _wide(source, labels, cols, np.float32 if single else np.float64, asked)


def _kind(kind: Any) -> str:
    import pyarrow as pa

    is_ = pa.types
    kind = kind.value_type if is_.is_dictionary(kind) else kind
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind):
        return "text"
    if is_.is_integer(kind):
        return "integer"
    return "number" if is_.is_floating(kind) or is_.is_decimal(kind) or is_.is_boolean(kind) or is_.is_null(kind) else str(kind)


def _cell_columns(kinds: dict[str, str], named: bool, layout: str | tuple[str, ...]) -> tuple[str, ...]:
    """The columns that hold row id, column id and value; none in a wide table."""
    names = tuple(kinds)
    if isinstance(layout, tuple):
        lacking = [n for n in layout if n not in kinds]
        if lacking:
            have = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
            raise ValueError(f"has no column {lacking[0]!r}; layout must name three of {have}")
        return layout
    if layout == "long":
        if len(names) < 3:
            raise ValueError(f"has {len(names)} columns; a long table has three: row id, column id, value. Is it layout='wide'?")
        return names[:3]
    if layout == "wide" or named or len(names) != 3 or not names[0] or kinds[names[2]] not in _NUMERIC:
        return ()
    ids = [kinds[n] for n in names[:2]]
    if ids == ["text", "text"]:
        return names
    if set(ids) <= {"text", "integer"}:
        raise ValueError(
            f"has three columns, {', '.join(map(repr, names))}, which may be a matrix or row id, column id, value; "
            "say which: layout='wide' or layout='long'"
        )
    return ()


def _check_numeric(source: _Parquet | _Csv, cols: list[str], kinds: dict[str, str]) -> None:
    odd = next((c for c in cols if kinds[c] not in _NUMERIC), None)
    if odd is None:
        return
    what = kinds[odd]
    if what == "text":
        batch = next(source.batches({odd: "text"}), None)
        value = next((v for v in batch.column(odd).to_pylist() if v and not _is_number(v)), None) if batch else None
        what = "text" if value is None else f"text, such as {value[:40]!r}"
    raise ValueError(f"column {odd!r} holds {what}, not numbers; drop it, or make it the first column if it names the rows")


def _wide(source: _Parquet | _Csv, labels: list[str], cols: list[str], dtype: type, asked: _Asked) -> Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    what, size = f"the matrix in {asked.name}", np.dtype(dtype).itemsize
    memory_for(source.rows, len(cols), size, what)
    X, done = np.empty((source.rows, len(cols)), dtype), 0
    names: dict[str, list] = {n: [] for n in labels}
    for batch in source.batches(dict.fromkeys(labels, "text") | dict.fromkeys(cols, "number")):
        end, at = done + batch.num_rows, {n: i for i, n in enumerate(batch.schema.names)}
        if end > len(X):  # csv does not say how many rows will come
            memory_for(2 * end, len(cols), size, what)
            X = np.concatenate([X[:done], np.empty((end, len(cols)), dtype)])
        for j, c in enumerate(cols):
            X[done:end, j] = pc.cast(batch.column(at[c]), pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        for n in labels:
            names[n].append(batch.column(at[n]))
        done = end
    rows = _row_names([pa.chunked_array(names[n]) for n in labels]) if labels and done else None
    return _dense(X[:done], rows, np.array(cols, dtype=object), asked)


def _row_names(columns: list[Any]) -> np.ndarray:
    if len(columns) == 1 and _kind(columns[0].type) == "integer" and not columns[0].null_count:
        return np.asarray(columns[0].to_numpy())
    texts = [["" if v is None else str(v) for v in column.to_pylist()] for column in columns]
    return np.array([", ".join(levels) for levels in zip(*texts, strict=True)], dtype=object)


def _long(source: _Parquet | _Csv, names: tuple[str, ...], kinds: dict[str, str], asked: _Asked) -> Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(set(names)) < 3:
        raise ValueError(f"layout names {names!r}; row id, column id and value are three different columns")
    row, col, value = names
    _check_numeric(source, [value], kinds)
    what, size, count = f"the long table in {asked.name}", 0, 0
    memory_for(source.rows, 3, 8, what)
    parts: dict[str, list] = {n: [] for n in names}
    for batch in source.batches({row: "text", col: "text", value: "number"}):
        size, count = size + batch.nbytes, count + batch.num_rows
        if not source.rows:
            memory_for(count, 3, size // (3 * max(1, count)) + 8, what)
        for n in names:
            parts[n].append(batch.column(n))
    if not count:
        raise ValueError("has no rows; there is nothing to factor")
    rows, i = _ids(pa.chunked_array(parts[row]), row)
    cols, j = _ids(pa.chunked_array(parts[col]), col)
    values = pc.cast(pa.chunked_array(parts[value]), pa.float64(), safe=False).to_numpy()
    single = pa.types.is_float32(source.schema.field(value).type)
    return _cells(i, j, values.astype(np.float32) if single else values, (len(rows), len(cols)), rows, cols, asked, long=True)


def _ids(column: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The different ids, sorted, and the number of each row's id among them. Integers stay integers, everything else is text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
        whole = (values == np.rint(values)) & (np.abs(values) <= 2**53)
        if not whole.all():
            bad = int(np.argmin(whole))
            raise ValueError(f"column {name!r} holds the id {values[bad]} in row {bad} (from 0); ids are text or whole numbers")
        column = pa.chunked_array([values.astype(np.int64)])
    elif not pa.types.is_integer(column.type):
        column = column.cast(pa.large_string())
    blank = pc.is_null(column) if pa.types.is_integer(column.type) else pc.fill_null(pc.equal(column, ""), True)
    if pc.any(blank).as_py():
        first = pc.index(blank, True).as_py()
        raise ValueError(f"column {name!r} has no id in row {first} (from 0); give it one or drop the row")
    coded = pa.concat_arrays(column.chunks).dictionary_encode()
    order = pc.array_sort_indices(coded.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return coded.dictionary.take(order).to_numpy(zero_copy_only=False), rank[coded.indices.to_numpy()]


# arrays and sparse files


def _npy(file: IO[bytes], size: int, asked: _Asked) -> Table:
    _check_array(file, size, "the array", asked)
    with _reading("npy file"):
        file.seek(0)
        X = np.lib.format.read_array(file, allow_pickle=False)
    return _dense(X, None, None, asked)


def _check_array(stream: IO[bytes], size: int, label: str, asked: _Asked) -> int:
    """The bytes that an array in .npy form takes, told by its header alone; raises before anything is allocated."""
    with _reading("npy array"):
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{label} holds Python objects: it {_NO_PICKLE}")
    need = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or need > size:
        raise ValueError(f"{label} promises {need} bytes of data and has at most {size}; it is damaged: write it or fetch it again")
    itemsize = max(dtype.itemsize, 4 if dtype.kind == "f" else 8)  # what is not float becomes float64
    memory_for(math.prod(shape[:1]), math.prod(shape[1:]), itemsize, f"{label} in {asked.name}")
    return need


def _npz(file: IO[bytes], asked: _Asked) -> Table:
    with _reading("npz file"):
        archive = zipfile.ZipFile(file)
        members = {info.filename: info for info in archive.infolist()}
    if any(name.endswith("data.pkl") for name in members):
        raise ValueError(_NO_PICKLE)
    arrays = {name.removesuffix(".npy"): info for name, info in members.items() if name.endswith(".npy")}
    if {"format", "shape", "data"} <= arrays.keys():
        needs = [_check_member(archive, info, asked) for info in arrays.values()]
        memory_for(sum(needs), 2, 1, f"the sparse matrix in {asked.name}")
        return _npz_sparse(file, asked)
    if not arrays:
        raise ValueError("is a zip archive without arrays; an npz as numpy.savez writes it is needed")
    if len(arrays) > 1 and "X" not in arrays:
        raise ValueError(f"holds {len(arrays)} arrays: {', '.join(list(arrays)[:20])}; save the matrix alone, or under the name X")
    info = arrays["X"] if "X" in arrays else next(iter(arrays.values()))
    _check_member(archive, info, asked)
    with _reading("npz file"), archive.open(info) as stream:
        X = np.lib.format.read_array(stream, allow_pickle=False)
    return _dense(X, None, None, asked)


def _check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, asked: _Asked) -> int:
    with _reading("npz file"):
        stream = archive.open(info)
    with stream:
        return _check_array(stream, info.file_size, f"the array {info.filename.removesuffix('.npy')!r}", asked)


def _npz_sparse(file: IO[bytes], asked: _Asked) -> Table:
    import scipy.sparse

    with _reading("sparse npz file"):
        file.seek(0)
        X: Any = scipy.sparse.load_npz(file)
        if X.format in ("csr", "csc", "bsr"):
            X.check_format(full_check=True)  # an index out of range would not raise in a product, it would crash
    return _coo(X, asked)


def _mtx(file: IO[bytes], size: float, asked: _Asked) -> Table:
    """Matrix Market, read with NumPy: a file that is cut short can end the process in scipy.io.mmread."""
    lines = _mtx_lines(file)
    banner, sides = next(lines, ""), next((line for line in lines if line.strip() and not line.startswith("%")), "")
    with _reading("mtx file"):
        _, _, layout, field, symmetry = banner.lower().split()
        m, n, *rest = map(int, sides.split())
        count = rest[0] if layout == "coordinate" else m * n
    if field == "complex" or symmetry == "hermitian":
        raise ValueError("holds complex numbers; real numbers are needed")
    signs = {"general": 0, "symmetric": 1, "skew-symmetric": -1}
    if layout not in ("coordinate", "array") or symmetry not in signs or min(m, n, count) < 0 or (signs[symmetry] and m != n):
        raise ValueError(f"is an mtx of {layout} {field} {symmetry}, {m} x {n}, which the format does not know; write it again")
    if layout == "array":
        return _mtx_array(lines, (m, n), signs[symmetry], size, asked)
    cells = _mtx_numbers(lines, count, 2 if field == "pattern" else 3, size, asked)
    i, j, v = cells[:, 0] - 1, cells[:, 1] - 1, np.ones(count) if field == "pattern" else cells[:, 2]
    wrong = (i != np.rint(i)) | (j != np.rint(j)) | ~((i >= 0) & (i < m) & (j >= 0) & (j < n))
    if wrong.any():
        raise ValueError(
            f"stores a cell outside its {m} x {n}, the {wrong.argmax() + 1}th; it is damaged: write it or fetch it again"
        )
    i, j = i.astype(np.int64), j.astype(np.int64)
    if signs[symmetry]:  # one half is stored
        off = i != j
        i, j, v = np.append(i, j[off]), np.append(j, i[off]), np.append(v, signs[symmetry] * v[off])
    return _cells(i, j, v, (m, n), None, None, asked, long=False)


def _mtx_lines(file: IO[bytes]) -> Iterator[str]:
    text = io.TextIOWrapper(file, "latin-1")
    with _reading("mtx file"):
        while line := text.readline(4096):
            yield line


def _mtx_array(lines: Iterator[str], shape: tuple[int, int], sign: int, size: float, asked: _Asked) -> Table:
    m, n = shape
    if not sign:
        return _dense(_mtx_numbers(lines, m * n, 1, size, asked).reshape(n, m).T, None, None, asked)
    values = _mtx_numbers(lines, m * (m + sign) // 2, 1, size, asked)[:, 0]
    memory_for(m, n, 8, f"the matrix in {asked.name}")
    X, (j, i) = np.zeros(shape), np.triu_indices(m, 0 if sign == 1 else 1)  # the lower half, column by column
    X[j, i] = sign * values
    X[i, j] = values
    return _dense(X, None, None, asked)


def _mtx_numbers(lines: Iterator[str], count: int, columns: int, size: float, asked: _Asked) -> np.ndarray:
    """The rest of the file as (count, columns) numbers. What its header promises is not believed: memory follows the lines."""
    if 2 * columns * count > size:
        raise ValueError(f"promises {count} cells, more than its {size} bytes can hold; it is damaged or cut short: fetch it again")
    parts, have = [np.empty((0, columns))], 0
    lines = (line for line in lines if line.strip() and not line.startswith("%"))
    while chunk := list(itertools.islice(lines, 2**20)):
        have += len(chunk)
        if have > count:
            break
        memory_for(2 * have, columns, 8, f"the cells in {asked.name}")
        with _reading("mtx file"):
            parts.append(np.loadtxt(chunk, ndmin=2, comments=None).reshape(len(chunk), columns))
    if have != count:
        more = "more" if have > count else f"only {have}"
        raise ValueError(f"promises {count} cells and holds {more}; it is damaged or cut short: write it or fetch it again")
    return np.concatenate(parts)


def _coo(X: Any, asked: _Asked) -> Table:
    if X.ndim != 2:
        raise ValueError(f"holds a sparse array of shape {X.shape}; a matrix has two dims")
    with _reading("sparse matrix"):
        X = X.tocoo()
    return _cells(X.row, X.col, _floats(X.data), X.shape, None, None, asked, long=False)


# what is data


def _floats(X: np.ndarray) -> np.ndarray:
    if X.dtype.kind not in "fiub":
        what = {"c": "complex numbers", "U": "text", "S": "text", "M": "dates", "V": "records"}.get(X.dtype.kind, str(X.dtype))
        raise ValueError(f"holds {what}; a matrix of real numbers is needed")
    return X.astype(np.float32 if X.dtype.kind == "f" and X.dtype.itemsize <= 4 else np.float64, copy=False)


def _dense(X: np.ndarray, rows: np.ndarray | None, cols: np.ndarray | None, asked: _Asked) -> Table:
    if X.ndim != 2:
        raise ValueError(
            f"holds an array of shape {X.shape}; a matrix has two dims, e.g. images become rows by X.reshape(len(X), -1)"
        )
    if X.size == 0:
        raise ValueError(f"has {X.shape[0]} rows and {X.shape[1]} columns; there is nothing to factor")
    X = _floats(X)
    _check_values(X, lambda bad: _where(rows, cols, *(int(i[0]) for i in np.nonzero(bad))), asked)
    if asked.missing == "zeros":
        X = np.where(X == 0, np.nan, X)
    if np.isnan(X).all():
        raise ValueError("holds no data, as every cell is missing; check the file, or missing=")
    return Table(as_matrix(X), rows, cols)


def _cells(
    i: np.ndarray,
    j: np.ndarray,
    v: np.ndarray,
    shape: tuple,
    rows: np.ndarray | None,
    cols: np.ndarray | None,
    asked: _Asked,
    *,
    long: bool,
) -> Table:
    """A matrix from its cells: Observed where the others are no data, Sparse where they are zeros."""
    import scipy.sparse

    if min(shape) == 0:
        raise ValueError(f"is {shape[0]} x {shape[1]}; there is nothing to factor")
    memory_for(sum(shape), 1, 16, f"the row and column numbers in {asked.name}")
    _check_values(v, lambda bad: _where(rows, cols, int(i[bad.argmax()]), int(j[bad.argmax()])), asked)
    holes = asked.missing == "zeros" or (long and asked.missing == "nan")
    if holes:
        data = ~np.isnan(v) if long else ~np.isnan(v) & (v != 0)
        i, j, v = i[data], j[data], v[data]
        if not len(v):
            raise ValueError("holds no data, as every cell is missing; check the file, or missing=")
    i, j, v = _merge(i, j, v, asked.duplicates, lambda at: _where(rows, cols, int(i[at]), int(j[at])))
    X = scipy.sparse.csr_array((v, (i, j)), shape=shape)
    return Table(Observed(X) if holes else Sparse(X), rows, cols)


def _check_values(X: np.ndarray, where: Any, asked: _Asked) -> None:
    if (bad := np.isinf(X)).any():
        raise ValueError(
            f"holds an infinite value in {where(bad)} ({bad.sum()} such cells); replace it, or make it NaN if it is no data"
        )
    if asked.missing == "none" and (bad := np.isnan(X)).any():
        raise ValueError(
            f"holds no number in {where(bad)} ({bad.sum()} such cells), and missing='none' was asked; use missing='nan'"
        )


def _where(rows: np.ndarray | None, cols: np.ndarray | None, i: int, j: int) -> str:
    """Row and column by name, else by number from 0."""
    return f"row {i if rows is None else repr(rows[i])}, column {j if cols is None else repr(cols[j])}"


def _merge(i: np.ndarray, j: np.ndarray, v: np.ndarray, how: str, where: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One cell for each pair, in the order of rows and columns."""
    order = np.lexsort((j, i))
    si, sj, sv = i[order], j[order], v[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (si[1:] != si[:-1]) | (sj[1:] != sj[:-1])
    if first.all():
        return si, sj, sv
    if how == "error":
        again = order[~first]
        raise ValueError(
            f"gives {where(again.min())} more than once ({len(again)} repeats); use duplicates='sum', 'mean' or 'last'"
        )
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(order))
    merged = sv[ends - 1] if how == "last" else np.add.reduceat(sv, starts)
    return si[starts], sj[starts], (merged / (ends - starts)).astype(v.dtype) if how == "mean" else merged


# ── the run folder ────────────────────────────────────────────────────────────────────────────────────────────────────


def save(
    result: Result,
    path: str | os.PathLike[str],
    *,
    command: Sequence[str] | str | None = None,
    image: tuple[int, int] | None = None,
) -> Path:
    """Writes the run folder: W.parquet, H.parquet, model.safetensors, history.csv and run.json. A run that is there is replaced.

    The folder appears whole or not at all, even if the process is killed. ``command`` and ``image``, the height and width
    of an image whose pixels are the rows or columns, are kept in run.json. Raises as ``check_target`` does, before anything
    is written.

    >>> import tempfile
    >>> from proxfactor import factorize
    >>> folder = save(factorize([[1.0, 2.0], [2.0, 4.0]], 1, W="nonneg"), Path(tempfile.mkdtemp(), "run"))
    >>> sorted(file.name for file in folder.iterdir())
    ['H.parquet', 'W.parquet', 'history.csv', 'model.safetensors', 'run.json']
    >>> load(folder).prox_W
    NonNegative()
    """
    check_target(path)
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    _settle(place)
    fresh, old = _beside(place, "tmp"), _beside(place, "old")
    fresh.mkdir()
    try:
        _write_run(fresh, result, command, image)
        for file in fresh.iterdir():
            _sync(file)
        _sync(fresh)
        if place.exists():
            place.rename(old)
        fresh.rename(place)
        _sync(place.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        _settle(place)
    return Path(path)


def check_target(path: str | os.PathLike[str]) -> None:
    """Raises an OSError, with the way out, where a run folder cannot be written: other things are there, or no permission.

    >>> check_target("a-new-run")
    """
    place, name = Path(os.path.realpath(path)), _shown(path)
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{name} is a file, and a folder will be written; choose another name")
    if place.is_dir() and any(place.iterdir()) and not _is_run(place):
        raise FileExistsError(f"{name} holds other things than a run, and would be replaced; choose another name, or empty it")
    above = next(p for p in place.parents if p.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{name} cannot be written: {_shown(above)} is a file; choose another folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{name} cannot be written: there is no permission to write in {_shown(above)}; choose another folder"
        )


def _is_run(place: Path) -> bool:
    try:
        return "format_version" in dict(json.loads((place / "run.json").read_text("utf-8")))
    except (OSError, TypeError, ValueError, RecursionError):
        return False


def _beside(place: Path, what: str) -> Path:
    return place.with_name(f".{place.name}.{os.getpid()}.{what}")


def _leftovers(place: Path, what: str) -> Iterator[tuple[Path, int]]:
    named = re.compile(rf"\.{re.escape(place.name)}\.(\d+)\.{what}")
    for file in place.parent.iterdir():
        if found := named.fullmatch(file.name):
            yield file, int(found[1])


def _settle(place: Path) -> None:
    """Ends what killed writes of this name began: a run that was only moved aside comes back, the rest is deleted."""
    for what in ("tmp", "old"):
        for file, pid in list(_leftovers(place, what)):
            if pid != os.getpid() and _alive(pid):
                continue
            if what == "old" and not place.exists():
                file.rename(place)
                continue
            if what == "old":  # renamed first: what is half deleted must never be taken for a run
                file = file.rename(file.with_suffix(".tmp"))
            if file.is_dir():
                shutil.rmtree(file, ignore_errors=True)
            else:
                file.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _sync(path: Path) -> None:
    """Waits until a file or a folder's list of files is on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_run(folder: Path, result: Result, command: Sequence[str] | str | None, image: Sequence[int] | None) -> None:
    import pyarrow.parquet as pq
    from safetensors.torch import save_file

    W, H = (F.detach().cpu().contiguous() for F in result.factors)
    (m, k), n = W.shape, H.shape[1]
    cols = [str(c) for c in (range(n) if result.cols is None else result.cols)]
    label = "component"
    while label in cols:
        label += "_"
    rows = np.arange(m) if result.rows is None else result.rows
    pq.write_table(_arrow(["row", *map(str, range(1, k + 1))], [rows, *W.unbind(1)]), folder / "W.parquet")
    pq.write_table(_arrow([label, *cols], [np.arange(1, k + 1), *H.unbind(1)]), folder / "H.parquet")
    texts, tensors = {}, {"W": W, "H": H}
    for part in ("loss", "prox_W", "prox_H", "solver"):
        texts[part], held = getattr(result, part).spell()
        tensors |= {f"{part}.{name}": t.detach().cpu().contiguous().clone() for name, t in held.items()}
    with (folder / "history.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(result.history[0]))
        table.writeheader()
        table.writerows({key: "" if value != value else value for key, value in row.items()} for row in result.history)
    run = _run_json(result, command, image) | texts | {"shape": [m, n], "rank": k}
    (folder / "run.json").write_text(json.dumps(_strict(run), indent=1, allow_nan=False, ensure_ascii=False, default=str), "utf-8")
    save_file(tensors, folder / "model.safetensors", {"format": "pt", "format_version": str(FORMAT)})
    shutil.copymode(folder / "run.json", folder / "model.safetensors")  # safetensors lets only the owner read


def _run_json(result: Result, command: Sequence[str] | str | None, image: Sequence[int] | None) -> dict[str, Any]:
    from . import __version__
    from .metrics import residual_summary

    residual, last = result.residual, result.history[-1]
    if residual is None and result.problem is not None:
        residual = residual_summary(result.problem.X, *result.factors, result.rows, result.cols)
    versions = {"proxfactor": __version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {
        "format_version": FORMAT,
        "command": command,
        "versions": versions,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": result.settings.get("seed"),
        "settings": result.settings,
        "status": result.status,
        "stopped": result.stopped,
        "converged": result.converged,
        "certificate": {"W": last["certificate_W"], "H": last["certificate_H"]},
        "loss_value": last["loss"],
        "error": result.error,
        "violation": result.violation,
        "seconds": last["seconds"],
        "iterations": last["iteration"],
        "names": {"rows": _name_kind(result.rows), "cols": _name_kind(result.cols)},
        "image": image or result.image,
        "residual": residual,
    }


def _strict(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become null, NumPy's and torch's become plain."""
    if isinstance(value, dict):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return _strict(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


_NAME_TYPES = {"integer": int, "number": float, "text": str}


def _name_kind(names: Any) -> str | None:
    return None if names is None else {"i": "integer", "u": "integer", "f": "number"}.get(np.asarray(names).dtype.kind, "text")


def load(path: str | os.PathLike[str]) -> Result:
    """The Result that ``save`` wrote, without its data. A plain function as a constraint is not stored, and says so when called.

    Raises FileNotFoundError where there is no folder, ValueError naming the file where something in it is missing or malformed.
    """
    from .fit import Result
    from .solvers import Solver

    name, folder = _shown(path), _folder(path)
    with _part(name, "run.json"):
        run = json.loads((folder / "run.json").read_text("utf-8"))
        if run["format_version"] > FORMAT:
            raise ValueError(f"it has format {run['format_version']}, this version reads up to {FORMAT}: update proxfactor")
        (m, n), k = run["shape"], run["rank"]
    with _part(name, "model.safetensors"):
        from safetensors.torch import load_file

        tensors = load_file(folder / "model.safetensors")
        factors = tensors["W"], tensors["H"]
        if [tuple(F.shape) for F in factors] != [(m, k), (k, n)]:
            raise ValueError(
                f"W is {tuple(factors[0].shape)} and H is {tuple(factors[1].shape)}, run.json says {(m, k)} and {(k, n)}"
            )
    with _part(name, "history.csv"):
        history = _history(folder / "history.csv", run["iterations"])
    with _part(name, "W.parquet"):
        rows = _stored_names(folder / "W.parquet", (m, k), run["names"]["rows"])
    with _part(name, "H.parquet"):
        cols = _stored_names(folder / "H.parquet", (k, n), run["names"]["cols"])
    with _part(name, "run.json"):
        held = {part: _held(tensors, part) for part in ("loss", "prox_W", "prox_H", "solver")}
        return Result(
            factors=factors,
            loss=Loss.parse(run["loss"], held["loss"]),
            prox_W=_operator(run["prox_W"], held["prox_W"]),
            prox_H=_operator(run["prox_H"], held["prox_H"]),
            solver=Solver.parse(run["solver"], held["solver"]),
            history=history,
            stopped=str(run["stopped"]),
            status=str(run["status"]),
            error=_number(run["error"]),
            violation={F: _number(run["violation"][F]) for F in ("W", "H")},
            settings=dict(run["settings"]),
            rows=rows,
            cols=cols,
            residual=run["residual"],
            image=None if run["image"] is None else (int(run["image"][0]), int(run["image"][1])),
        )


def _folder(path: str | os.PathLike[str]) -> Path:
    folder = Path(os.path.realpath(path))
    if not folder.exists() and folder.parent.is_dir():  # a save was killed between its two renames, or is between them now
        folder = next((file for file, _ in _leftovers(folder, "old")), folder)
    if not folder.exists():
        raise FileNotFoundError(f"{_shown(path)} does not exist; give the folder that save or `proxfactor fit` wrote")
    if not folder.is_dir():
        raise NotADirectoryError(f"{_shown(path)} is a file; give the folder that save or `proxfactor fit` wrote")
    return folder


@contextlib.contextmanager
def _part(name: str, file: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{name}: there is no {file}, so it is no whole run folder; save the run again") from None
    except MemoryError:
        raise
    except Exception as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(f"{name}: {file} cannot be used ({why}); save the run again") from None


def _history(file: Path, iterations: int) -> list[dict[str, float]]:
    text = file.read_text("utf-8")
    table = csv.DictReader(text.splitlines(), strict=True)
    rows = [{key: math.nan if value == "" else float(value) for key, value in row.items()} for row in table]
    if not text.endswith("\n") or not rows or rows[-1]["iteration"] != iterations:
        raise ValueError("it ends too early")
    for row in rows:
        row["iteration"] = int(row["iteration"])
        _ = row["seconds"], row["loss"], row["certificate_W"], row["certificate_H"]
    return rows


def _stored_names(file: Path, shape: tuple[int, int], kind: str | None) -> np.ndarray | None:
    """The row names in W.parquet, the column names in H.parquet, after a look at the shape."""
    import pyarrow.parquet as pq

    with file.open("rb") as stream:
        table = pq.ParquetFile(stream)
        names = table.schema_arrow.names
        if (table.metadata.num_rows, len(names) - 1) != shape:
            raise ValueError(f"it is {table.metadata.num_rows} x {len(names) - 1}, run.json says {shape[0]} x {shape[1]}")
        if kind is None:
            return None
        found = table.read(columns=["row"]).column("row").to_pylist() if file.name == "W.parquet" else names[1:]
    return np.array([_NAME_TYPES[kind](v) for v in found], dtype=object if kind == "text" else None)


def _held(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}


def _operator(text: str, tensors: dict[str, Tensor]) -> Prox:
    own = re.fullmatch(r"Function\((.*)\)", text, re.DOTALL)
    return Function(_lost(own[1])) if own else Prox.parse(text, tensors)


def _lost(name: str) -> Any:
    def lost(x: Tensor) -> Tensor:
        raise ValueError(f"the run was fitted with the function {name}, which no file holds; fit again with that function")

    lost.__qualname__ = name
    return lost


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


# ── single files out ──────────────────────────────────────────────────────────────────────────────────────────────────


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Writes a file that appears whole or not at all, in a folder that is made if need be; what was there is replaced.

    >>> import tempfile
    >>> write_atomically(Path(tempfile.mkdtemp(), "new", "note.txt"), "done").read_text()
    'done'
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    place = Path(os.path.realpath(path))
    if place.is_dir():
        raise IsADirectoryError(f"{_shown(path)} is a folder; name a file in it")
    if Path(path).exists() and not place.is_file():  # a pipe or a device, such as /dev/stdout, is written to, not replaced
        Path(path).write_bytes(data)
        return Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = _beside(place, "tmp")
    try:
        fresh.write_bytes(data)
        _sync(fresh)
        fresh.replace(place)
        _sync(place.parent)
    finally:
        fresh.unlink(missing_ok=True)
    return Path(path)


def write_table(path: str | os.PathLike[str], names: Sequence[str], columns: Iterable[Any]) -> Path:
    """Writes columns of equal length (arrays, tensors or lists) as parquet, csv or tsv, as the ending says; whole or not at all.

    Raises ValueError for another ending.

    >>> import tempfile
    >>> write_table(Path(tempfile.mkdtemp(), "t.csv"), ["user", "score"], [["a", "b"], [1.5, 2.0]]).read_text().split()
    ['"user","score"', '"a",1.5', '"b",2']
    """
    import pyarrow.parquet as pq
    from pyarrow import csv as arrow

    out, table, ending = io.BytesIO(), _arrow(names, columns), Path(path).suffix.lower()
    if ending == ".parquet":
        pq.write_table(table, out)
    elif ending in (".csv", ".tsv"):
        arrow.write_csv(table, out, arrow.WriteOptions(delimiter="\t" if ending == ".tsv" else ","))
    else:
        raise ValueError(f"{_shown(path)}: a table is written as .parquet, .csv or .tsv; give it one of these endings")
    return write_atomically(path, out.getbuffer())  # type: ignore[arg-type]


def _arrow(names: Iterable[str], columns: Iterable[Any]) -> Any:
    import pyarrow as pa

    return pa.Table.from_arrays([_column(c) for c in columns], names=list(names))


def _column(values: Any) -> Any:
    import pyarrow as pa

    values = values.detach().cpu().contiguous().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return pa.array(values) if values.dtype.kind in "iufb" else pa.array([str(v) for v in values], pa.string())
