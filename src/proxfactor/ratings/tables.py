"""Who rated what: any table in, cells with the ids they came with, and answers out in the caller's data frames."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ..io.cells import order_of_cells
from ..io.files import shown
from ..io.formats import check_file, format_of, one_of
from ..io.tables import Csv, Parquet, check_names, coded_ids, from_columns, kind_of
from ..serve import codes_of as codes_of

ROLES = ("user", "item", "rating", "time", "weight")
NUMBERS = ("integer", "number")
DUPLICATES = ("error", "sum", "mean", "last")
_WIDE = "If it is wide, a row for each user, say which cells are no ratings: missing='nan', or missing='zeros' for the zeros too"
_LIKE_TIME = ("time", "date", "timestamp", "datetime", "unixtime", "unixreviewtime", "ts")


@dataclass(frozen=True, eq=False)
class Ratings:
    """Who rated what: cells (user, item, value), coded, with the ids they came with. Sorted by user, then item.

    ``users[user[c]]`` rated ``items[item[c]]`` with ``value[c]``. Every pair occurs once; an id may have no cell.

    >>> r = read_ratings((["bo", "al", "bo"], [7, 7, 5], [4.0, 2.0, 3.0]))
    >>> r.users, r.items, r.value
    (array(['al', 'bo'], dtype=object), array([5, 7]), array([2., 3., 4.]))
    """

    user: np.ndarray
    """(cells,) int32: the position in ``users``."""
    item: np.ndarray
    """(cells,) int32: the position in ``items``."""
    value: np.ndarray
    """(cells,) float64, finite; ones where there is no rating column."""
    users: np.ndarray
    """The different ids, sorted: int64, or objects of str."""
    items: np.ndarray
    time: np.ndarray | None = None
    """(cells,) float64: seconds since 1970 of dates, else the numbers of the column."""
    weight: np.ndarray | None = None
    """(cells,) float64 >= 0."""
    columns: dict[str, str] = field(default_factory=lambda: {"user": "user", "item": "item", "rating": "rating"})
    """What the columns that there are were called, by "user", "item", "rating", "time", "weight"; answers use the same names."""
    form: Any = "pyarrow"
    """The caller's data frame library by name, as narwhals takes it for a backend; "pyarrow" for files and arrays."""
    order: np.ndarray = None  # type: ignore[assignment]
    """(cells,) integers: the row of the caller's table that each cell came from, the first one where several were merged."""
    types: dict[str, Any] = field(default_factory=dict)
    """The arrow types that the ids came in, by "user" and "item"."""

    def __post_init__(self) -> None:
        if self.order is None:
            object.__setattr__(self, "order", np.arange(len(self.value)))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.users), len(self.items)

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        return f"Ratings({len(self)} of {len(self.users)} users and {len(self.items)} items)"

    @cached_property
    def indptr(self) -> np.ndarray:
        """(m+1,) int64: the cells of user u are indptr[u] to indptr[u+1]."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.user, minlength=len(self.users)))])

    def csr(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(indptr (m+1,) int64, indices (cells,) int32, values (cells,) float64): the cells by user; nothing is copied."""
        return self.indptr, self.item, self.value

    def weighed(self) -> Ratings:
        """The cells that have weight: the others say nothing."""
        return self if self.weight is None else self.take(self.weight > 0)

    def standard(self) -> tuple[float, float]:
        """Mean and standard deviation of the ratings, by weight; a deviation of 0 where they are all equal.

        Raises ValueError where no rating has a weight above zero.
        """
        w = np.ones(len(self)) if self.weight is None else self.weight
        if not w.sum() > 0:
            raise ValueError("no rating has a weight above zero; there is nothing to learn from")
        mean = float(np.average(self.value, weights=w))
        deviation = float(np.sqrt(np.average((self.value - mean) ** 2, weights=w)))
        return mean, deviation if deviation > 1e-12 * abs(mean) else 0.0

    def take(self, cells: np.ndarray) -> Ratings:
        """Some of the cells, by a mask or by positions, in the order that they have here; the ids stay."""
        cells = np.asarray(cells)
        if cells.dtype != bool:
            chosen = np.zeros(len(self), dtype=bool)
            chosen[cells] = True
            cells = chosen
        some = {k: v[cells] for k in (*_PER_CELL, "order") if (v := getattr(self, k)) is not None}
        return replace(self, **some)

    def coded(self, users: np.ndarray, items: np.ndarray, unknown: str = "error") -> Ratings:
        """The same cells with these ids (sorted, each once) in place of its own.

        Raises ValueError for an id that is not among them; ``unknown="drop"`` leaves its cells out instead.
        """
        one_of("unknown", unknown, "error", "drop")
        kept, part = np.ones(len(self), dtype=bool), {}
        for what, known in (("user", users), ("item", items)):
            own, codes = getattr(self, f"{what}s"), getattr(self, what)
            used = np.bincount(codes, minlength=len(own)) > 0
            place = np.full(len(own), -1, dtype=np.int32)
            place[used] = codes_of(own[used], known, what, "error" if unknown == "error" else "fallback")
            part[what] = place[codes]
            kept &= part[what] >= 0
        return replace(self, **part, users=users, items=items).take(kept)

    def joined(self, other: Ratings, duplicates: str = "error") -> Ratings:
        """These cells and another's, whose ids may be new; ``duplicates`` says what a pair that both have means.

        The rows of ``other`` count as coming after these.
        """
        users, items = _union(self.users, other.users), _union(self.items, other.items)
        a, b = self.coded(users, items), other.coded(users, items)
        parts: dict[str, Any] = {}
        for key in _PER_CELL:
            x, y = getattr(a, key), getattr(b, key)
            if x is None and y is None:
                continue
            if key == "time" and (x is None or y is None):
                raise ValueError(f"{'these' if x is None else 'the other'} ratings have no time and those they join have; name it")
            x, y = (np.ones(len(r)) if v is None else v for r, v in ((a, x), (b, y)))  # no weight is 1
            parts[key] = np.concatenate([x, y])
        order = np.concatenate([a.order, b.order + (a.order.max(initial=-1) + 1)])
        return _settled(replace(self, **parts, users=users, items=items, order=order), duplicates)

    def frame(self, columns: Mapping[str, Any]) -> Any:
        """A data frame of the caller's library; the columns of users and items get the types that the ids came in.

        ``columns`` are arrays (arrow's too) of equal length by name; text is objects of str.
        """
        import pyarrow as pa

        kinds = {self.columns[what]: kind for what, kind in self.types.items()}
        table = pa.table({name: _as_type(arrow_of(v, name), kinds.get(name)) for name, v in columns.items()})
        if self.form == "pyarrow":
            return table
        import narwhals as nw

        return nw.from_arrow(table, backend=self.form).to_native()

    def to_frame(self) -> Any:
        """The cells as a data frame of the caller's library, with the names that the columns had."""
        found = {"user": self.users[self.user], "item": self.items[self.item], "rating": self.value}
        found |= {what: getattr(self, what) for what in ("time", "weight")}
        return self.frame({name: found[what] for what, name in self.columns.items() if found[what] is not None})


_PER_CELL = ("user", "item", "value", "time", "weight")


def read_ratings(
    data: Any,
    user: Any = None,
    item: Any = None,
    rating: Any = None,
    time: Any = None,
    weight: Any = None,
    *,
    duplicates: str = "error",
    missing: str | None = None,
) -> Ratings:
    """Ratings from a data frame (pandas, polars, pyarrow), a parquet or csv file, a scipy matrix, or arrays.

    A table has a rating in each row; columns are given by name, or by number from 0. Users and items that are not given are
    the columns "user" and "item", else the first two. The rating is the column "rating", else the third if it holds numbers
    and users and items come first; without one every row counts 1. ``time`` is numbers or dates, ``weight`` >= 0; both are
    only taken when given. Ids are text or whole numbers, and stay what they are.

    ``data`` may also be a tuple of arrays (users, items) or (users, items, ratings), a dict of columns, a scipy matrix, whose
    stored cells are the ratings, also stored zeros, and whose ids count from 0, or a Ratings, which is given back. A csv file
    whose first line is numbers only has no header; its ids are whole numbers where all of them are written so, else text.

    ``missing`` says that the table is wide: a row for each user, a column for each item. "nan": NaN and null are no
    ratings; "zeros": zeros are none either. A wide frame's users are the pandas index or a first column of text.

    ``duplicates`` says what a pair that occurs more than once means. "error"; "sum": the values are added, the weights
    averaged; "mean": the mean by weight, and the weights are added; "last": the last by time, else by row, weight and all.
    Sum and mean keep the latest time.

    Raises ValueError for bad data, TypeError for what is no table, FileNotFoundError and other OSErrors for files.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"who": ["al", "bo", "al"], "film": [3, 1, 1], "stars": [5, 4, 2.5]})
    >>> read_ratings(table)
    Ratings(3 of 2 users and 2 items)
    """
    one_of("duplicates", duplicates, *DUPLICATES)
    if missing is not None:
        one_of("missing", missing, "nan", "zeros")
    named = {k: v for k, v in zip(ROLES, (user, item, rating, time, weight), strict=True) if v is not None}
    if isinstance(data, Ratings):
        _no_names(named, "Ratings, which are read already")
        return data
    return cells_of(source_of(data, missing), named, duplicates)


# ── sources ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def source_of(data: Any, missing: str | None = None) -> Any:
    """Where ratings come from: an object that has ``ratings(named, duplicates)``, ``part(rows)`` in the caller's form, ``name``."""
    import narwhals as nw
    import scipy.sparse

    if isinstance(data, str | os.PathLike):
        return File(data) if missing is None else _wide_file(data, missing)
    if scipy.sparse.issparse(data):
        if missing is not None:
            raise ValueError("missing= is for wide tables; the ratings of a sparse matrix are the cells that it stores")
        return Stored(data)
    if isinstance(data, tuple):
        return Arrays(data)
    if isinstance(data, np.ndarray) and data.ndim == 2:
        return Wide(data, None, None, missing)
    if isinstance(data, Mapping):
        import pyarrow as pa

        data = pa.table({k: arrow_of(v, k) for k, v in data.items()})
    try:
        frame = nw.from_native(data, pass_through=True)
    except nw.exceptions.DuplicateError:
        raise ValueError("the table has two columns of one name; rename or drop one, so that names tell columns apart") from None
    if isinstance(frame, nw.LazyFrame):
        raise TypeError("the table is a lazy frame, whose values are not there yet; give it with .collect()")
    if not isinstance(frame, nw.DataFrame):
        raise TypeError(
            f"ratings in {type(data).__name__!r}; give a data frame (pandas, polars, pyarrow), a path of a parquet or csv file, "
            "a scipy sparse matrix, or a tuple of arrays (users, items, ratings)"
        )
    return Frame(frame) if missing is None else _wide_frame(frame, missing)


def cells_of(source: Any, named: dict[str, Any], duplicates: str) -> Ratings:
    """The ratings of a source, at least one."""
    try:
        found: Ratings = source.ratings(named, duplicates)
        if not len(found):
            raise ValueError("there is no rating in it; there is nothing to learn from")
        return found
    except ValueError as error:
        raise (ValueError(f"{source.name}: {error}") if source.name else error) from None


class Frame:
    """A data frame with a rating in each row."""

    name = ""

    def __init__(self, frame: Any):
        self.frame, self.names, self.form = frame, list(frame.columns), frame.implementation.value
        self.row_names = isinstance(next(iter(getattr(frame.to_native(), "index", ())), None), str)

    def kind(self, name: Any) -> str:
        kind = self.frame.schema[name]
        return "integer" if kind.is_integer() else "number" if kind.is_numeric() else kind_of(self.column(name).type)

    def column(self, name: Any) -> Any:
        at = self.names.index(name)  # by position: a name that is a number would mean a row
        return arrow_of(next(c for j, c in enumerate(self.frame.iter_columns()) if j == at), name)

    def columns(self, names: Sequence[Any], ids: Sequence[Any]) -> dict[Any, Any]:
        return {name: self.column(name) for name in names}

    def part(self, rows: np.ndarray) -> Any:
        return self.frame[rows].to_native()

    def ratings(self, named: dict[str, Any], duplicates: str) -> Ratings:
        if not named and self.row_names:
            raise ValueError(f"the table's rows have names. {_WIDE}; if a row is a rating, name user= and item=, or reset_index()")
        try:
            return self._long(named, duplicates)
        except ValueError as error:
            if named or len(self.names) < 4 or any(self.kind(n) not in NUMBERS for n in self.names):
                raise
            raise ValueError(f"{error}. {_WIDE}") from None

    def _long(self, named: dict[str, Any], duplicates: str) -> Ratings:
        roles = self.roles = _roles(self, named)
        columns = self.columns(list(roles.values()), [roles["user"], roles["item"]])
        return _from_columns({role: columns[name] for role, name in roles.items()}, roles, duplicates, self.form)


class Arrays(Frame):
    """A tuple of arrays: users, items and, if there is a third, ratings."""

    def __init__(self, arrays: tuple):
        import narwhals as nw
        import pyarrow as pa

        if len(arrays) not in (2, 3):
            raise ValueError(f"a tuple of {len(arrays)}; give (users, items) or (users, items, ratings)")
        self.arrays = tuple(a if isinstance(a, pa.Array | pa.ChunkedArray) else np.asarray(a) for a in arrays)
        sizes = [len(a) if np.ndim(a) == 1 else np.shape(a) for a in self.arrays]
        if len(set(sizes)) > 1 or not isinstance(sizes[0], int):
            raise ValueError(f"users, items and ratings of sizes {', '.join(map(str, sizes))}; they are 1-D and equally long")
        table = pa.table({role: arrow_of(a, role) for role, a in zip(ROLES, self.arrays, strict=False)})
        super().__init__(nw.from_native(table))

    def part(self, rows: np.ndarray) -> Any:
        return tuple(a[rows] if isinstance(a, np.ndarray) else a.take(rows) for a in self.arrays)

    def ratings(self, named: dict[str, Any], duplicates: str) -> Ratings:
        _no_names(named, "arrays")
        return super().ratings(named, duplicates)


class File(Frame):
    """A parquet or csv file with a rating in each row. In csv, ids are whole numbers where all of them are written so."""

    def __init__(self, path: str | os.PathLike[str]):
        self.name, self.form, place = shown(path), "pyarrow", Path(path)
        check_file(place, self.name)
        try:
            kind, gzipped = format_of(place)
            if kind not in ("parquet", "csv"):
                raise ValueError(f"is {kind}; ratings are read from parquet and csv, so load it first and give the matrix")
            self.source = Parquet(place) if kind == "parquet" else Csv(place, gzipped, bare=True)
            check_names(self.source)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self.names = [n for n in self.source.kinds if n not in self.source.index]
        self.row_names = any(self.source.kinds[n] == "text" for n in self.source.index)
        if isinstance(self.source, Csv) and self.source.bare:
            self.names = [*ROLES[:3], *(f"column {j}" for j in range(3, len(self.names)))][: len(self.names)]
        self.real = dict(zip(self.names, (n for n in self.source.kinds if n not in self.source.index), strict=True))

    def kind(self, name: Any) -> str:
        return self.source.kinds[self.real[name]]

    def columns(self, names: Sequence[Any], ids: Sequence[Any]) -> dict[Any, Any]:
        import pyarrow as pa

        text = [n for n in names if n in ids or self.kind(n) not in NUMBERS]
        number = [n for n in names if n not in text]
        batches = self.source.batches([self.real[n] for n in text], [self.real[n] for n in number], 2**20)
        table = pa.Table.from_batches(list(batches))
        found = {n: table.column(self.real[n]) for n in names}
        if isinstance(self.source, Csv):
            whole = [n for n in ids if self.kind(n) == "integer"]
            found |= {n: _whole_numbers(found[n]) for n in whole}
        return found

    @cached_property
    def table(self) -> Any:
        import pyarrow as pa

        return pa.table(self.columns(self.names, [self.roles["user"], self.roles["item"]]))

    def part(self, rows: np.ndarray) -> Any:
        return self.table.take(rows)


class Stored:
    """The stored cells of a scipy matrix; the ids count from 0."""

    name = ""

    def __init__(self, matrix: Any):
        self.cells = matrix.tocoo()
        if len(matrix.shape) != 2:
            raise ValueError(f"a sparse array of shape {matrix.shape}; ratings have a row for each user, a column for each item")

    def ratings(self, named: dict[str, Any], duplicates: str) -> Ratings:
        import pyarrow as pa

        _no_names(named, "a sparse matrix")
        rows, cols = (np.arange(n) for n in self.cells.shape)
        value = _numbers(pa.array(self.cells.data), "rating", "rating")
        user, item = (a.astype(np.int32) for a in (self.cells.row, self.cells.col))
        return _settled(Ratings(user, item, value, rows, cols), duplicates)

    def part(self, rows: np.ndarray) -> Any:
        import scipy.sparse

        make = scipy.sparse.csr_array if isinstance(self.cells, scipy.sparse.sparray) else scipy.sparse.csr_matrix
        return make((self.cells.data[rows], (self.cells.row[rows], self.cells.col[rows])), shape=self.cells.shape)


class Wide:
    """A row for each user, a column for each item; ``missing`` says which cells are no ratings."""

    name = ""
    form = "pyarrow"

    def __init__(self, values: np.ndarray, users: Any, items: Any, missing: str | None):
        if missing is None:
            raise ValueError(
                f"a matrix of {values.shape[0]} x {values.shape[1]}. {_WIDE}; if a row is a rating, give the tuple "
                "(users, items, ratings)"
            )
        self.values, self.users, self.items, self.missing = values, users, items, missing

    def ratings(self, named: dict[str, Any], duplicates: str) -> Ratings:
        import pyarrow as pa

        _no_names(named, "a wide table")
        try:
            values = np.asarray(self.values, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError("the wide table holds something other than numbers; convert it to floats first") from None
        data = ~np.isnan(values)
        if self.missing == "zeros":
            data &= values != 0
        user, item = np.nonzero(data)
        (users, row), (items, col) = (
            coded_ids(arrow_of(np.arange(n) if given is None else given, what), what)
            for given, n, what in ((self.users, values.shape[0], "users"), (self.items, values.shape[1], "items"))
        )
        if (len(users), len(items)) != values.shape:
            raise ValueError("the wide table has two rows or columns of one name; rename one")
        value = _numbers(pa.array(values[data]), "rating", "rating")
        return _settled(Ratings(row[user], col[item], value, users, items, form=self.form), duplicates)


def _wide_frame(frame: Any, missing: str) -> Wide:
    import narwhals as nw

    native = frame.to_native()
    columns, names, users = list(frame.iter_columns()), list(frame.columns), None
    if hasattr(native, "index"):
        index = np.asarray(native.index)
        users = None if index.dtype.kind in "iu" and np.array_equal(index, np.arange(len(index))) else index
    if users is None and columns and kind_of(arrow_of(columns[0], names[0]).type) == "text":
        users, columns, names = columns[0], columns[1:], names[1:]
    if not columns or not len(columns[0]):
        raise ValueError("the wide table has no cells; there is nothing to learn from")
    odd = next((n for n, c in zip(names, columns, strict=True) if kind_of(arrow_of(c, n).type) not in NUMBERS), None)
    if odd is not None:
        raise ValueError(f"column {odd!r} of the wide table holds no numbers; only the first may, which names the users")
    values = np.empty((len(columns[0]), len(columns)))
    for j, column in enumerate(columns):
        values[:, j] = column.cast(nw.Float64).to_numpy()
    wide = Wide(values, users, names, missing)
    wide.form = frame.implementation.value
    return wide


def _wide_file(path: str | os.PathLike[str], missing: str) -> Wide:
    file = File(path)
    try:
        found = Wide(*from_columns(file.source, "wide"), missing)
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from None
    found.name = file.name
    return found


# ── columns ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def arrow_of(column: Any, name: Any) -> Any:
    """A column of any library, an array or a list as an arrow array; NaN is null in ids only."""
    import pyarrow as pa

    try:
        native = column.to_native() if hasattr(column, "to_native") else column  # narwhals would copy arrow's own
        if isinstance(native, pa.Array | pa.ChunkedArray):
            return native
        if hasattr(column, "to_arrow"):
            return column.to_arrow()
        if type(column).__module__.partition(".")[0] == "pandas":
            return pa.array(column, from_pandas=True)
        array = np.asarray(column)
        if array.ndim != 1:
            raise ValueError(f"{name!r} has the shape {array.shape}; a column has one dim")
        return pa.array(array)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"column {name!r} mixes kinds or holds none that is known ({why}); make it text or numbers") from None


def _roles(source: Frame, named: dict[str, Any]) -> dict[str, Any]:
    """Which column is the user, the item, the rating, the time and the weight."""
    names, found = source.names, {role: _column(name, role, source.names) for role, name in named.items()}
    twice = next(((a, b) for a, b in combinations(found, 2) if found[a] == found[b]), None)
    if twice:
        raise ValueError(f"the column {found[twice[0]]!r} is named twice, as {twice[0]} and as {twice[1]}; they are two columns")
    free = [n for n in names if n not in found.values()]
    for role in ("user", "item"):
        if role not in found:
            name = role if role in free else next((n for n in free if n not in ROLES), None)
            if name is None:
                raise ValueError(f"the table has {_listed(names)}; a user and an item column are needed, a rating if there is one")
            found[role] = name
            free.remove(name)
    if "rating" not in found:
        third = names[2] if len(names) > 2 and {found["user"], found["item"]} == set(names[:2]) else None
        if "rating" in free:
            found["rating"] = "rating"
        elif third in free and _is_rating(source, third):
            found["rating"] = third
    return {role: found[role] for role in ROLES if role in found}


def _is_rating(source: Frame, name: Any) -> bool:
    if source.kind(name) not in NUMBERS:
        column = source.columns([name], [])[name]
        if source.kind(name) == "text" and any(v.as_py() and _is_number(v.as_py()) for v in column[:100]):
            raise ValueError(f"column {name!r} holds {_what(column)}, not numbers; convert it if it is the rating, else drop it")
        return False
    if str(name).lower().replace("_", "").replace(" ", "") in _LIKE_TIME:
        raise ValueError(f"is the third column, {name!r}, a rating or a time? Say rating={name!r} or time={name!r}")
    return True


def _column(name: Any, role: str, names: list[Any]) -> Any:
    if name in names:
        return name
    if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(names):
        return names[name]
    near = difflib.get_close_matches(str(name), map(str, names), n=3, cutoff=0.5)
    way = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {_listed(names)}"
    raise ValueError(f"there is no column {name!r} for {role}; {way}")


def _listed(names: list[Any]) -> str:
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "") if names else "no columns"


def _no_names(named: dict[str, Any], what: str) -> None:
    if named:
        raise ValueError(f"{next(iter(named))}= names a column of a table, and {what} came; leave it out")


def _from_columns(columns: dict[str, Any], names: dict[str, Any], duplicates: str, form: Any) -> Ratings:
    import pyarrow as pa

    if not len(columns["user"]):
        raise ValueError("the table has no rows; there is nothing to learn from")
    types = {role: columns[role].type for role in ("user", "item")}
    kept = {role: t for role, t in types.items() if pa.types.is_integer(t) or kind_of(t) == "text"}
    users, user = coded_ids(columns.pop("user"), names["user"])
    items, item = coded_ids(columns.pop("item"), names["item"])
    number = {role: _numbers(column, names[role], role) for role, column in columns.items()}
    value = number.get("rating", np.ones(len(user)))
    called = {role: str(name) for role, name in names.items()}
    r = Ratings(user, item, value, users, items, number.get("time"), number.get("weight"), called, form, types=kept)
    return _settled(r, duplicates)


def _numbers(column: Any, name: Any, role: str) -> np.ndarray:
    """A column as float64, every one of them finite; dates as seconds since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise ValueError(
            f"column {name!r} has no {role} in row {row} (from 0){_more(column.null_count)}; drop such rows: "
            "what does not occur is not rated"
        )
    if role == "time" and not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return _seconds(column, name)
    if kind_of(column.type) not in NUMBERS:
        raise ValueError(f"column {name!r} holds {_what(column)}, not numbers; a {role} is a number")
    values = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    bad = ~np.isfinite(values) if role != "weight" else ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        row = int(bad.argmax())
        need = "weights are finite and not negative" if role == "weight" else "drop such rows, or write the number that is meant"
        raise ValueError(f"column {name!r} holds {values[row]} in row {row} (from 0){_more(bad.sum())}; {need}")
    return values


def _more(count: int) -> str:
    return f" and in {count - 1} more" if count > 1 else ""


def _what(column: Any) -> str:
    if kind_of(column.type) != "text":
        return str(column.type)
    texts = (t for v in column if (t := v.as_py()) is not None)
    first = next(texts)
    return f"text, such as {(first if not _is_number(first) else next((t for t in texts if not _is_number(t)), first))[:40]!r}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _seconds(column: Any, name: Any) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):  # the second one reads text with an offset
        try:
            micro = pc.cast(pc.cast(column, kind, safe=False), pa.int64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        return micro.to_numpy() / 1e6
    raise ValueError(f"column {name!r} holds {_what(column)}, no time; give numbers, dates, or text like '2026-11-26 19:00'")


def _whole_numbers(column: Any) -> Any:
    """A column of text as int64 where all of it is written as whole numbers, without leading zeros; else as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        numbers = pc.cast(column, pa.int64())
    except pa.ArrowInvalid:
        return column
    return numbers if pc.all(pc.equal(pc.cast(numbers, column.type), column)).as_py() else column


def _as_type(column: Any, kind: Any) -> Any:
    import pyarrow as pa

    if kind is None or column.type == kind:
        return column
    try:
        if pa.types.is_dictionary(kind):
            return column.cast(kind.value_type).dictionary_encode().cast(pa.dictionary(kind.index_type, kind.value_type))
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return column


def _union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if len(a) and len(b) and a.dtype != b.dtype:
        text, number = (a, b) if a.dtype == object else (b, a)
        raise ValueError(f"ids are text ({text[0]!r}) in one table and numbers ({number[0]}) in the other; make them the same")
    return np.union1d(a, b) if len(a) and len(b) else (a if len(a) else b)


# ── order and duplicates ──────────────────────────────────────────────────────────────────────────────────────────────


def _settled(r: Ratings, duplicates: str) -> Ratings:
    """Cells sorted by user, then item, rows in their order, each pair once."""
    order = order_of_cells(r.user, r.item, r.shape)
    if order is not None:
        r = replace(r, **{k: v[order] for k in (*_PER_CELL, "order") if (v := getattr(r, k)) is not None})
    again = (r.user[1:] == r.user[:-1]) & (r.item[1:] == r.item[:-1])
    if not again.any():
        return r
    first = np.concatenate([[True], ~again])
    starts = np.flatnonzero(first)
    if duplicates == "error":
        counts = np.diff(np.append(starts, len(r)))
        several = starts[counts > 1]
        at = several[r.order[several].argmin()]
        n = int(counts[np.searchsorted(starts, at)])
        user, item = r.users[r.user[at]], r.items[r.item[at]]
        raise ValueError(
            f"user {_shown(user)} and item {_shown(item)} come together {n} times, first in row {r.order[at]} (from 0)"
            + (f", and {len(several) - 1} more pairs do" if len(several) > 1 else "")
            + "; say what that means where the table is read: duplicates='sum', 'mean' or 'last'"
        )
    return _merged(r, starts, duplicates)


def _shown(id: Any) -> str:
    return repr(id) if isinstance(id, str) else str(id)


def _merged(r: Ratings, starts: np.ndarray, how: str) -> Ratings:
    counts, order = np.diff(np.append(starts, len(r))), r.order[starts]
    if how == "last":
        cells = starts + counts - 1
        if r.time is not None:
            latest = np.lexsort((r.time, np.repeat(np.arange(len(starts)), counts)))  # stable: rows break ties
            cells = latest[cells]
        some = {k: v[cells] for k in _PER_CELL if (v := getattr(r, k)) is not None}
        return replace(r, **some, order=order)
    w = r.weight
    value = np.add.reduceat(r.value, starts)
    weight = None if w is None else np.add.reduceat(w, starts)
    if how == "mean":
        value = value / counts
        if w is not None and weight is not None:
            weighed = np.add.reduceat(w * r.value, starts) / np.where(weight > 0, weight, 1)
            value = np.where(weight > 0, weighed, value)
    elif weight is not None:
        weight = weight / counts
    time = None if r.time is None else np.maximum.reduceat(r.time, starts)
    return replace(r, user=r.user[starts], item=r.item[starts], value=value, time=time, weight=weight, order=order)
