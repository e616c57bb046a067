"""`read`: the one door for a matrix in a file. The first bytes tell the format; whatever goes wrong becomes one sentence."""

from __future__ import annotations

import difflib
import gzip
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..matrix import Table
from .arrays import NO_PICKLE, mtx, npy, npz
from .cells import to_table
from .chunks import Rows, in_chunks, opened, too_large
from .files import reading, shown
from .tables import Csv, Parquet, from_columns

_MAGIC = {"parquet": b"PAR1", "npy": b"\x93NUMPY", "npz": b"PK", "mtx": b"%%MatrixMarket"}
_ARRAYS: dict[str, Callable] = {"npy": npy, "npz": npz, "mtx": mtx}
SMALL = 2**24
"""Bytes of a file that is read as a whole without more ado."""
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".ckpt")


def read(
    path: str | os.PathLike[str],
    *,
    missing: str = "nan",
    layout: str | Sequence[str] = "auto",
    duplicates: str = "error",
    chunked: bool | None = None,
) -> Table:
    r"""The matrix in a parquet, csv, npy, npz, mtx or zarr file, with the names of its rows and columns where it has them.

    The first bytes tell the format; csv may be separated by comma, semicolon or tab, csv and mtx may be gzipped.
    A wide table has a matrix row in each row; its names are the pandas index or a first column of text. A long table has
    a cell in each row: row id, column id, value. ``layout`` is "wide", "long" (the first three columns) or the names of
    the three columns, as a tuple or as "user,item,rating"; "auto" takes text, text, number as long.
    ``duplicates`` says what a pair that occurs twice means: "error", "sum", "mean" or "last".

    ``missing`` says which cells are no data. "nan": NaN and null, and in a long table the pairs that do not occur.
    "zeros": also the zeros of a wide table or an array, and the cells that an npz or mtx does not store. "none": no cell;
    NaN is an error, and what a long table or sparse file does not store is 0. A 0 in a long table is always data.

    ``chunked=True`` leaves the data in the file: the matrix is then `Chunked`, and a fit reads it once a sweep. It is the
    default for what takes more than a third of the free memory, up to a hundred times it. It takes wide tables, npy, npz (an
    array, or a csr matrix) and zarr (a folder).

    Raises ValueError for what is no matrix of numbers, FileNotFoundError and other OSErrors for what cannot be opened,
    MemoryError for what would not fit, before it is read.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "x.csv")
    >>> _ = file.write_text("name,a,b,c\nfirst,1,,5\nsecond,2,3,0\n")
    >>> read(file).rows, read(file).matrix.entries()
    (array(['first', 'second'], dtype=object), tensor([[1., 0., 5.],
            [2., 3., 0.]], dtype=torch.float64))
    """
    one_of("missing", missing, "nan", "zeros", "none")
    one_of("duplicates", duplicates, "error", "sum", "mean", "last")
    wanted, place, name = _layout(layout), Path(path), shown(path)
    check_file(place, name)
    try:
        kind, gzipped = format_of(place)
        if chunked is None and kind in ("npy", "parquet", "npz") and place.stat().st_size > SMALL:
            chunked = too_large(_rows_if_any(place, kind, gzipped, wanted))
        if chunked or kind == "zarr":
            return in_chunks(opened(place, kind, gzipped, wanted), missing)
        if kind == "csv":
            found = from_columns(Csv(place, gzipped, bare=wanted == "long"), wanted)
        elif kind == "parquet":
            found = from_columns(Parquet(place), wanted)
        elif wanted in ("auto", "wide"):
            with gzip.open(place) if gzipped else place.open("rb") as file:
                found = _ARRAYS[kind](file, math.inf if gzipped else place.stat().st_size), None, None
        else:
            raise ValueError(f"layout={layout!r} is for tables, and {kind} holds a matrix; leave layout out")
        return to_table(*found, missing, duplicates)
    except (ValueError, MemoryError) as error:
        raise (MemoryError if isinstance(error, MemoryError) else ValueError)(f"{name}: {error}") from None


def _rows_if_any(path: Path, *how: Any) -> Rows | None:
    """The rows of a file that can be read in chunks, before anything else is said about it."""
    try:
        return opened(path, *how)
    except (ValueError, TypeError, OSError):
        return None


def one_of(option: str, given: Any, *known: str) -> None:
    if given not in known:
        raise ValueError(f"{option} is {given!r}; it must be one of {', '.join(map(repr, known))}")


def _layout(given: str | Sequence[str]) -> str | tuple[str, ...]:
    if given in ("auto", "wide", "long"):
        return str(given)
    names = tuple(part.strip() for part in given.split(",")) if isinstance(given, str) else tuple(given)
    if len(names) != 3 or not all(isinstance(n, str) and n for n in names):
        raise ValueError(f"layout is {given!r}; it must be 'auto', 'wide', 'long' or three columns, such as 'user,item,rating'")
    return names


def check_file(path: Path, name: str) -> None:
    if path.is_dir():
        if _is_zarr(path):
            return
        raise IsADirectoryError(f"{name} is a folder; name one file in it")
    if not path.exists():
        near = difflib.get_close_matches(path.name, os.listdir(path.parent) if path.parent.is_dir() else [], n=1)
        advice = f"did you mean {near[0]}?" if near else "check the spelling and the folder"
        raise FileNotFoundError(f"{name} does not exist; {advice}")
    if not path.is_file():
        raise OSError(f"{name} is no regular file; write the data to a file first")


def _is_zarr(path: Path) -> bool:
    return (path / ".zarray").is_file() or (path / "zarr.json").is_file()


def format_of(path: Path) -> tuple[str, bool]:
    """The format that the first bytes tell, and whether they are gzipped."""
    if path.is_dir():
        return "zarr", False
    with path.open("rb") as file:
        head = file.read(64)
    if gzipped := head.startswith(b"\x1f\x8b"):
        with reading("gzip file"), gzip.open(path) as unpacked:
            head = unpacked.read(64)
    ending = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if f".{ending}" in _PICKLES or re.match(rb"\x80[\x02-\x05]", head):
        raise ValueError(NO_PICKLE)
    if not head:
        raise ValueError("is empty; a matrix in parquet, csv, npy, npz or mtx is needed")
    kind = next((kind for kind, magic in _MAGIC.items() if head.startswith(magic)), "csv")
    if ending in _MAGIC and ending != kind:
        what = "does not begin like one" if kind == "csv" else f"begins like {kind}"
        raise ValueError(f"is named .{ending} and {what}; it is damaged, or needs the ending of what it is")
    if gzipped and kind not in ("csv", "mtx"):
        raise ValueError(f"is a gzipped {kind}; unpack it with gunzip first")
    return kind, gzipped
