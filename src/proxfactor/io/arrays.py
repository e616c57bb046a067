"""Arrays and sparse matrices: npy and npz as NumPy and SciPy write them, and Matrix Market. None of them names rows or columns.

Each format is a function from an open file and its size to an array, or a coo_array of the cells that are stored.
A header is not believed: what it promises is held against the file and against the memory before anything is allocated.
"""

from __future__ import annotations

import io
import itertools
import math
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from ..matrix import memory_for
from .files import reading

NO_PICKLE = (
    "holds a pickle, which can run any code when it is opened, so it is not read; save the array with numpy.save or as parquet"
)


def npy(file: IO[bytes], size: float) -> np.ndarray:
    _check_array(file, size, "the array")
    with reading("npy file"):
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_array(stream: IO[bytes], size: float, label: str) -> int:
    """The bytes that an array in npy form takes, told by its header alone."""
    with reading("npy array"):
        version = np.lib.format.read_magic(stream)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError(f"{label} holds Python objects: it {NO_PICKLE}")
    need = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or need > size:
        raise ValueError(f"{label} promises {need} bytes of data and has at most {size}; it is damaged: write it or fetch it again")
    itemsize = max(dtype.itemsize, 4 if dtype.kind == "f" else 8)  # what is not float becomes float64
    memory_for(math.prod(shape[:1]), math.prod(shape[1:]), itemsize, label)
    return need


def npz(file: IO[bytes], size: float) -> Any:
    with reading("npz file"):
        archive = zipfile.ZipFile(file)
    members = archive.infolist()
    if any(info.filename.endswith("data.pkl") for info in members):  # as torch.save writes it
        raise ValueError(NO_PICKLE)
    arrays = {info.filename.removesuffix(".npy"): info for info in members if info.filename.endswith(".npy")}
    if {"format", "shape", "data"} <= arrays.keys():
        memory_for(sum(_check_member(archive, info) for info in arrays.values()), 2, 1, "the sparse matrix")
        return _scipy(file)
    if not arrays:
        raise ValueError("is a zip archive without arrays; an npz as numpy.savez writes it is needed")
    if len(arrays) > 1 and "X" not in arrays:
        raise ValueError(f"holds {len(arrays)} arrays: {', '.join(list(arrays)[:20])}; save the matrix alone, or under the name X")
    info = arrays.get("X") or next(iter(arrays.values()))
    _check_member(archive, info)
    with reading("npz file"), archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _check_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    with reading("npz file"):
        stream = archive.open(info)
    with stream:
        return _check_array(stream, info.file_size, f"the array {info.filename.removesuffix('.npy')!r}")


def _scipy(file: IO[bytes]) -> Any:
    import scipy.sparse

    with reading("sparse npz file"):
        file.seek(0)
        X: Any = scipy.sparse.load_npz(file)
        if X.format in ("csr", "csc", "bsr"):
            X.check_format(full_check=True)  # an index out of range would not raise in a product, it would crash
        return X.tocoo()


# Matrix Market, read with NumPy: a file that is cut short can end the process in scipy.io.mmread


def mtx(file: IO[bytes], size: float) -> Any:
    from scipy.sparse import coo_array

    lines = _lines(file)
    banner, sides = next(lines, ""), next((line for line in lines if line.strip() and not line.startswith("%")), "")
    with reading("mtx file"):
        _, _, layout, field, symmetry = banner.lower().split()
        m, n, *rest = map(int, sides.split())
        count = rest[0] if layout == "coordinate" else m * n
    if field == "complex" or symmetry == "hermitian":
        raise ValueError("holds complex numbers; real numbers are needed")
    signs = {"general": 0, "symmetric": 1, "skew-symmetric": -1}
    if layout not in ("coordinate", "array") or symmetry not in signs or min(m, n, count) < 0 or (signs[symmetry] and m != n):
        raise ValueError(f"is an mtx of {layout} {field} {symmetry}, {m} x {n}, which the format does not know; write it again")
    if layout == "array":
        return _mtx_array(lines, (m, n), signs[symmetry], size)
    cells = _numbers(lines, count, 2 if field == "pattern" else 3, size)
    i, j, v = cells[:, 0] - 1, cells[:, 1] - 1, np.ones(count) if field == "pattern" else cells[:, 2]
    wrong = (i != np.rint(i)) | (j != np.rint(j)) | ~((i >= 0) & (i < m) & (j >= 0) & (j < n))
    if wrong.any():
        raise ValueError(f"stores a cell outside its {m} x {n}, the {wrong.argmax() + 1}th; it is damaged: write or fetch it again")
    i, j = i.astype(np.int64), j.astype(np.int64)
    if signs[symmetry]:  # one half is stored
        off = i != j
        i, j, v = np.append(i, j[off]), np.append(j, i[off]), np.append(v, signs[symmetry] * v[off])
    return coo_array((v, (i, j)), shape=(m, n))


def _mtx_array(lines: Iterator[str], shape: tuple[int, int], sign: int, size: float) -> np.ndarray:
    m, n = shape
    if not sign:
        return _numbers(lines, m * n, 1, size).reshape(n, m).T
    values = _numbers(lines, m * (m + sign) // 2, 1, size)[:, 0]
    memory_for(m, n, 8, "the matrix")
    X, (j, i) = np.zeros(shape), np.triu_indices(m, 0 if sign == 1 else 1)  # the lower half, column by column
    X[j, i] = sign * values
    X[i, j] = values
    return X


def _lines(file: IO[bytes]) -> Iterator[str]:
    text = io.TextIOWrapper(file, "latin-1")
    with reading("mtx file"):
        while line := text.readline(4096):
            yield line


def _numbers(lines: Iterator[str], count: int, columns: int, size: float) -> np.ndarray:
    """The rest of the file as (count, columns) numbers. Memory follows the lines."""
    if 2 * columns * count > size:
        raise ValueError(f"promises {count} cells, more than its {size} bytes can hold; it is damaged or cut short: fetch it again")
    parts, have = [np.empty((0, columns))], 0
    lines = (line for line in lines if line.strip() and not line.startswith("%"))
    while chunk := list(itertools.islice(lines, 2**20)):
        have += len(chunk)
        if have > count:
            break
        memory_for(2 * have, columns, 8, "the cells")
        with reading("mtx file"):
            parts.append(np.loadtxt(chunk, ndmin=2, comments=None).reshape(len(chunk), columns))
    if have != count:
        more = "more" if have > count else f"only {have}"
        raise ValueError(f"promises {count} cells and holds {more}; it is damaged or cut short: write it or fetch it again")
    return np.concatenate(parts)
