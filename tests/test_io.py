"""io: every format in, the run folder out and in, and what happens to files that are not what they say."""

import dataclasses
import gzip
import io as stdio
import json
import math
import os
import pickle
import subprocess
import sys
import time
import zipfile

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import scipy.sparse
import torch

from proxfactor import Dense, Observed, Sparse, factorize, matrix
from proxfactor.io import check_target, files, load, read, runs, save, tables, write_atomically, write_table

X = np.array([[1.0, 0.0, 3.0], [np.nan, 5.0, 0.0]])
FULL = np.array([[1.0, 0.0, 3.0], [4.0, 5.0, 0.0]])


def cells(table):
    """The matrix as an array, NaN where there is no data."""
    M = table.matrix
    if isinstance(M, Dense):
        weight = torch.ones_like(M.values) if M.weight is None else M.weight
        return M.values.masked_fill(weight == 0, torch.nan).numpy()
    out = np.full(M.shape, 0.0 if M.background else np.nan)
    weight = torch.ones_like(M.values) if M.weight is None else M.weight
    out[M._rows().numpy(), M.col.numpy()] = M.values.masked_fill(weight == 0, torch.nan).numpy()
    return out


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")


@pytest.fixture
def file(tmp_path):
    """Writes text or bytes into a new file and returns its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def refused(path, *words, error=ValueError, **options):
    """The sentence that read refuses the file with: it names the file, and says each of the words."""
    with pytest.raises(error) as raised:
        read(path, **options)
    said = str(raised.value)
    assert os.path.basename(path).replace("\n", "\\n") in said, said
    assert "\n" not in said
    for word in words:
        assert word in said, said
    return said


# ── wide tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_parquet_from_pandas_keeps_its_index_as_row_names(tmp_path):
    frame = pd.DataFrame(X, index=["é", "second one"], columns=["a", "b", "c"])
    frame.to_parquet(tmp_path / "x.parquet")
    table = read(tmp_path / "x.parquet")
    assert list(table.rows) == ["é", "second one"]
    assert list(table.cols) == ["a", "b", "c"]
    assert table.form == "numpy"
    assert same(cells(table), X)


def test_parquet_from_pandas_without_an_index_has_no_row_names(tmp_path):
    pd.DataFrame(X, columns=["a", "b", "c"]).to_parquet(tmp_path / "x.parquet")
    table = read(tmp_path / "x.parquet")
    assert table.rows is None
    assert same(cells(table), X)


def test_parquet_named_as_pandas_does_with_the_gzip_codec_opens(tmp_path):
    frame = pd.DataFrame(np.arange(12.0).reshape(3, 4), index=pd.Index([3, 5, 2**60 + 1], name="id"))
    frame.columns = frame.columns.astype(str)
    frame.to_parquet(tmp_path / "matrix.parquet.gzip", compression="gzip")
    table = read(tmp_path / "matrix.parquet.gzip")
    assert table.rows.dtype == np.int64
    assert table.rows.tolist() == [3, 5, 2**60 + 1]
    assert same(cells(table), frame.to_numpy())


def test_an_index_of_several_levels_becomes_one_name(tmp_path):
    index = pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", "y"])
    pd.DataFrame({"p": [1.0, 2.0], "q": [3.0, 4.0]}, index=index).to_parquet(tmp_path / "x.parquet")
    assert list(read(tmp_path / "x.parquet").rows) == ["a, 1", "b, 2"]


def test_parquet_from_polars_takes_its_first_text_column_as_row_names(tmp_path):
    pl.DataFrame({"name": ["r", "s"], "a": [1, None], "b": [0.0, 5.0], "c": [True, False]}).write_parquet(tmp_path / "x.parquet")
    table = read(tmp_path / "x.parquet")
    assert list(table.rows) == ["r", "s"]
    assert list(table.cols) == ["a", "b", "c"]
    assert same(cells(table), [[1, 0, 1], [np.nan, 5, 0]])


def test_every_kind_of_number_in_parquet_is_read(tmp_path):
    columns = {
        "i8": pa.array([1, None], pa.int8()),
        "u64": pa.array([2**60 + 1, 3], pa.uint64()),
        "half": pa.array(np.array([0.5, 1.5], np.float16)),
        "decimal": pa.array([1, 2], pa.decimal128(5, 2)),
        "category": pa.array([7, 8]).dictionary_encode(),
        "nothing": pa.nulls(2),
        "a.b": pa.array([1.0, 2.0]),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    want = [[1, 2.0**60, 0.5, 1, 7, np.nan, 1], [np.nan, 3, 1.5, 2, 8, np.nan, 2]]
    assert same(cells(read(tmp_path / "x.parquet")), want)


def test_float32_stays_float32_only_if_all_columns_are(tmp_path):
    single = pl.DataFrame({c: np.ones(2, np.float32) for c in "abcd"})
    single.write_parquet(tmp_path / "single.parquet")
    single.with_columns(pl.col("a").cast(pl.Float64)).write_parquet(tmp_path / "mixed.parquet")
    assert read(tmp_path / "single.parquet").matrix.dtype == torch.float32
    assert read(tmp_path / "mixed.parquet").matrix.dtype == torch.float64


def test_many_row_groups_are_read_in_order(tmp_path):
    values = np.arange(40_000.0).reshape(10_000, 4)
    pq.write_table(pa.table({c: values[:, j] for j, c in enumerate("abcd")}), tmp_path / "x.parquet", row_group_size=900)
    assert same(cells(read(tmp_path / "x.parquet")), values)


def test_csv_with_quotes_unicode_newlines_and_blank_cells_is_read(file):
    text = '"who","ä, b",c,"d\nd"\n"Müller, ""Jo""",1,,3\n"two\nlines",NaN,5,0\n'
    table = read(file("x.csv", text))
    assert list(table.rows) == ['Müller, "Jo"', "two\nlines"]
    assert list(table.cols) == ["ä, b", "c", "d\nd"]
    assert same(cells(table), [[1, np.nan, 3], [np.nan, 5, 0]])


@pytest.mark.parametrize(("name", "sep"), [("x.tsv", "\t"), ("x.csv", ";"), ("x.csv", "\t"), ("x.txt", ","), ("x", ";")])
def test_csv_is_separated_by_comma_semicolon_or_tab(file, name, sep):
    table = read(file(name, "\ufeffa,b,c,d\n1,2,,4\n5,6.5,7,8\n".replace(",", sep)))
    assert list(table.cols) == list("abcd")
    assert same(cells(table), [[1, 2, np.nan, 4], [5, 6.5, 7, 8]])


def test_csv_may_be_gzipped_whatever_its_name(file):
    text = gzip.compress(b"n,a,b,c\nr,1,2,3\n")
    for name in ("x.csv.gz", "x.csv", "x"):
        assert list(read(file(name, text)).rows) == ["r"]


def test_the_first_column_of_a_csv_that_has_no_name_is_the_index_of_pandas(tmp_path):
    pd.DataFrame(FULL, columns=list("abc")).to_csv(tmp_path / "x.csv")
    table = read(tmp_path / "x.csv")
    assert list(table.rows) == ["0", "1"]
    assert same(cells(table), FULL)
    pd.DataFrame({"a": [1, 2], "b": [3, 4]}).to_csv(tmp_path / "two.csv")
    assert same(cells(read(tmp_path / "two.csv")), [[1, 3], [2, 4]])


def test_csv_longer_than_a_block_is_read_whole(file, monkeypatch):
    monkeypatch.setattr(tables, "_CSV_BLOCK", 2000)
    values = np.arange(4000.0).reshape(1000, 4)
    text = "name,a,b,c,d\n" + "".join(f"r{i}," + ",".join(f"{v:g}" for v in row) + "\n" for i, row in enumerate(values))
    table = read(file("x.csv", text))
    assert same(cells(table), values)
    assert table.rows[-1] == "r999"


def test_integers_that_turn_into_fractions_later_in_a_csv_are_read(file, monkeypatch):
    monkeypatch.setattr(tables, "_CSV_BLOCK", 100)
    text = "a,b,c,d\n" + "1,2,3,4\n" * 50 + "1.5,2,,4\n"
    assert cells(read(file("x.csv", text)))[-1, 0] == 1.5


def test_ints_beyond_float64_are_rounded_as_values(file):
    assert cells(read(file("x.csv", "a,b,c,d\n9007199254740993,1,2,3\n")))[0, 0] == 2.0**53


# ── long tables ───────────────────────────────────────────────────────────────────────────────────────────────────────


LONG = "user,item,rating\nb,x,5\na,y,0\nb,z,\n"


def test_text_text_number_is_a_long_table(file):
    table = read(file("x.csv", LONG))
    assert isinstance(table.matrix, Observed)
    assert list(table.rows) == ["a", "b"]
    assert list(table.cols) == ["x", "y", "z"]
    assert same(cells(table), [[np.nan, 0, np.nan], [5, np.nan, np.nan]])


def test_a_long_table_may_have_its_columns_named(file, tmp_path):
    path = file("x.csv", "when,user,rating,item\n9,1,5,10\n9,2,4,20\n")
    for layout in ("user,item,rating", ("user", "item", "rating"), ["user", "item", "rating"]):
        assert same(cells(read(path, layout=layout)), [[5, np.nan], [np.nan, 4]])


def test_ids_in_csv_stay_text_and_keep_every_digit(file):
    text = "user,item,rating\n01,9007199254740993,1\n1,9007199254740992,2\n1,NA,3\n"
    table = read(file("x.csv", text), layout="long")
    assert list(table.rows) == ["01", "1"]
    assert list(table.cols) == ["9007199254740992", "9007199254740993", "NA"]
    assert same(cells(table), [[np.nan, 1, np.nan], [2, np.nan, 3]])


def test_ids_in_parquet_that_are_integers_stay_integers(tmp_path):
    ids = [2**53 + 1, -3, 2**63 - 1]
    pl.DataFrame({"u": ids, "i": [1.0, 2.0, 1.0], "v": [1, 2, 3]}).write_parquet(tmp_path / "x.parquet")
    table = read(tmp_path / "x.parquet", layout="long")
    assert table.rows.tolist() == [-3, 2**53 + 1, 2**63 - 1]
    assert table.rows.dtype == table.cols.dtype == np.int64
    assert table.cols.tolist() == [1, 2]


def test_ids_that_are_categories_or_dates_become_text(tmp_path):
    frame = pl.DataFrame({"u": ["b", "a"], "i": [1, 2], "v": [1.0, 2.0]})
    frame.with_columns(pl.col("u").cast(pl.Categorical), pl.col("i").cast(pl.Date)).write_parquet(tmp_path / "x.parquet")
    table = read(tmp_path / "x.parquet", layout="long")
    assert list(table.rows) == ["a", "b"]
    assert list(table.cols) == ["1970-01-02", "1970-01-03"]


def test_ratings_without_a_header_are_read_as_long(file):
    table = read(file("u.data", "196\t242\t3\t881250949\n186\t302\t0\t891717742\n"), layout="long")
    assert list(table.rows) == ["186", "196"]
    assert same(cells(table), [[np.nan, 0], [3, np.nan]])


@pytest.mark.parametrize("text", ["u,i,r\n1,2,3\n", "u,i,r\na,2,3\n", "u,i,r\n1,b,3\n"])
def test_three_columns_that_may_be_either_are_refused_with_the_way_out(file, text):
    path = file("x.csv", text)
    refused(path, "layout='wide'", "layout='long'")
    assert read(path, layout="long").matrix.shape == (1, 1)


def test_three_columns_of_fractions_or_with_an_index_are_wide(file, tmp_path):
    assert read(file("x.csv", "a,b,c\n1.5,2,3\n")).matrix.shape == (1, 3)
    pd.DataFrame(np.ones((2, 3), int), index=["r", "s"], columns=list("abc")).to_parquet(tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").matrix.shape == (2, 3)
    assert read(file("y.csv", "a,b,c\n1,2,3\n"), layout="wide").matrix.shape == (1, 3)


DOUBLE = "u,i,r\na,x,1\nb,x,2\na,x,5\na,x,3\n"


@pytest.mark.parametrize(("how", "value"), [("sum", 9), ("mean", 3), ("last", 3)])
def test_a_pair_that_occurs_twice_is_merged_as_asked(file, how, value):
    assert same(cells(read(file("x.csv", DOUBLE), duplicates=how)), [[value], [2]])


def test_a_pair_that_occurs_twice_is_an_error_that_names_it(file):
    refused(file("x.csv", DOUBLE), "row 'a', column 'x'", "2 repeats", "duplicates='sum'")


def test_duplicate_cells_of_sparse_files_follow_the_same_rule(tmp_path):
    twice = scipy.sparse.coo_array(([1.0, 2.0, 4.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    scipy.sparse.save_npz(tmp_path / "x.npz", twice)
    refused(tmp_path / "x.npz", "row 0, column 1")
    assert same(cells(read(tmp_path / "x.npz", duplicates="sum")), [[0, 3], [4, 0]])


# ── arrays and sparse files ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "array",
    [X, np.asfortranarray(X), X.astype(">f8"), X.astype("f4"), X.astype("f2"), FULL.astype(">i2"), FULL.astype("u8"), FULL > 2],
    ids=["plain", "fortran", "big-endian", "single", "half", "big-endian short", "unsigned", "bool"],
)
@pytest.mark.parametrize("form", ["npy", "npz", "X among others"])
def test_arrays_of_every_kind_are_read(tmp_path, array, form):
    path = tmp_path / ("x.npy" if form == "npy" else "x.npz")
    if form == "npy":
        np.save(path, array)
    elif form == "npz":
        np.savez_compressed(path, array)
    else:
        np.savez(path, other=np.ones(3), X=array)
    table = read(path)
    assert table.rows is None
    assert table.cols is None
    assert same(cells(table).astype(float), array.astype(float))
    assert table.matrix.dtype == (torch.float32 if array.dtype in (np.float32, np.float16) else torch.float64)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_sparse_npz_of_every_form_is_read(tmp_path, form):
    for make in (scipy.sparse.csr_matrix, scipy.sparse.csr_array):
        scipy.sparse.save_npz(tmp_path / "x.npz", make(FULL).asformat(form))
        table = read(tmp_path / "x.npz")
        assert isinstance(table.matrix, Sparse)
        assert same(cells(table), FULL)


MTX = "%%MatrixMarket matrix coordinate real general\n% a comment\n2 3 4\n1 1 1\n1 3 3\n2 2 5\n2 3 0\n"


def test_mtx_is_read_plain_and_gzipped(file):
    want = [[1, 0, 3], [0, 5, 0]]
    assert same(cells(read(file("x.mtx", MTX))), want)
    assert same(cells(read(file("x.mtx.gz", gzip.compress(MTX.encode())))), want)


def test_mtx_of_every_kind_is_read(tmp_path, file):
    scipy.io.mmwrite(tmp_path / "a.mtx", FULL)
    assert isinstance(read(tmp_path / "a.mtx").matrix, Dense)
    assert same(cells(read(tmp_path / "a.mtx")), FULL)
    symmetric = "%%MatrixMarket matrix coordinate pattern symmetric\n2 2 2\n1 1\n2 1"
    assert same(cells(read(file("s.mtx", symmetric))), [[1, 1], [1, 0]])
    random = np.random.default_rng(0).integers(-9, 9, (4, 4)).astype(float)
    for symmetry, S in (("symmetric", random + random.T), ("skew-symmetric", random - random.T), ("general", random)):
        for array in (S, scipy.sparse.coo_array(S)):
            scipy.io.mmwrite(tmp_path / "t.mtx", array, symmetry=symmetry)
            assert same(cells(read(tmp_path / "t.mtx")), S)


# ── what is missing ───────────────────────────────────────────────────────────────────────────────────────────────────


def dense_file(kind, path, array):
    if kind == "npy":
        np.save(path, array)
    elif kind == "npz":
        np.savez(path, array)
    elif kind == "parquet":
        pd.DataFrame(array, columns=list("abcd")).to_parquet(path)
    elif kind == "csv":
        pd.DataFrame(array, columns=list("abcd")).to_csv(path, index=False)
    else:
        scipy.io.mmwrite(path, array)


@pytest.mark.parametrize("kind", ["npy", "npz", "parquet", "csv", "mtx"])
def test_missing_says_which_cells_of_a_dense_file_are_data(tmp_path, kind):
    array = np.array([[1.0, 0.0, 3.0, np.nan], [0.0, 0.5, 0.0, 0.0]])
    path = tmp_path / f"x.{kind}"
    dense_file(kind, path, array)
    assert same(cells(read(path)), array)
    zeros = read(path, missing="zeros")
    assert isinstance(zeros.matrix, Observed)
    assert same(cells(zeros), np.where(array == 0, np.nan, array))
    refused(path, "missing='nan'", "row 0", missing="none")
    full = np.nan_to_num(array)
    dense_file(kind, path, full)
    assert same(cells(read(path, missing="none")), full)


@pytest.mark.parametrize("kind", ["npz", "mtx"])
def test_missing_says_which_cells_of_a_sparse_file_are_data(tmp_path, kind):
    stored = scipy.sparse.coo_array(([1.0, 0.0, np.nan], ([0, 0, 1], [0, 1, 2])), shape=(2, 3))
    path = tmp_path / f"x.{kind}"
    (scipy.sparse.save_npz if kind == "npz" else scipy.io.mmwrite)(path, stored)
    nan = read(path)
    assert isinstance(nan.matrix, Sparse)
    assert same(cells(nan), [[1, 0, 0], [0, 0, np.nan]])
    zeros = read(path, missing="zeros")
    assert isinstance(zeros.matrix, Observed)
    assert same(cells(zeros), [[1, np.nan, np.nan], [np.nan] * 3])
    refused(path, "row 1, column 2", "missing='nan'", missing="none")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_missing_says_which_pairs_of_a_long_table_are_data(tmp_path, kind):
    frame = pl.DataFrame({"u": ["a", "b", "b"], "i": ["x", "y", "z"], "r": [1.0, 0.0, None]})
    path = tmp_path / f"x.{kind}"
    frame.write_parquet(path) if kind == "parquet" else frame.write_csv(path)
    for missing in ("nan", "zeros"):
        table = read(path, missing=missing)
        assert isinstance(table.matrix, Observed)
        assert same(cells(table), [[1, np.nan, np.nan], [np.nan, 0, np.nan]])
    refused(path, "row 'b', column 'z'", "missing='nan'", missing="none")
    full = frame.drop_nulls()
    full.write_parquet(path) if kind == "parquet" else full.write_csv(path)
    table = read(path, missing="none")
    assert isinstance(table.matrix, Sparse)
    assert same(cells(table), [[1, 0], [0, 0]])


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_does_not_exist_is_refused_with_the_nearest_name(tmp_path, file):
    file("ratings.csv", LONG)
    refused(tmp_path / "rating.csv", "did you mean ratings.csv?", error=FileNotFoundError)
    refused(tmp_path / "none" / "q.csv", "check the spelling", error=FileNotFoundError)


def test_what_is_no_file_is_refused(tmp_path):
    refused(tmp_path, "is a folder", error=IsADirectoryError)
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no regular file", error=OSError)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises((OSError, RuntimeError)):
        read(tmp_path / "loop")


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.npy", "x.npz", "x.mtx", "x.csv.gz"])
def test_an_empty_file_is_refused(file, name):
    refused(file(name, gzip.compress(b"") if name.endswith("gz") else b""), "is empty")


@pytest.mark.parametrize("name", ["x.parquet", "x.npy", "x.npz", "x.mtx"])
def test_a_file_that_is_not_what_its_ending_says_is_refused(file, name):
    refused(file(name, "a,b\n1,2\n"), "does not begin like one")
    refused(file("x.npy", MTX), "begins like mtx")


def test_pickles_are_refused_with_the_reason(file, tmp_path):
    for name in ("x.pkl", "x.csv", "x.joblib", "data"):
        refused(file(name, pickle.dumps(X)), "pickle", "numpy.save")
    torch.save(torch.ones(2, 2), tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "pickle")
    torch.save(torch.ones(2, 2), tmp_path / "x.npz")
    refused(tmp_path / "x.npz", "pickle")
    np.save(tmp_path / "x.npy", np.array([[1, "a"]], dtype=object), allow_pickle=True)
    refused(tmp_path / "x.npy", "Python objects")
    np.savez(tmp_path / "y.npz", np.array([[1, None]], dtype=object))
    refused(tmp_path / "y.npz", "Python objects")


def test_a_column_of_text_is_refused_by_name(file, tmp_path):
    refused(file("x.csv", "n,a,b,c\nr,1,oops,2\n"), "column 'b'", "'oops'", "drop it")
    refused(file("y.csv", "n,a,b,c\nr,1,2,2\ns,1,12a,2\n"), "column 'b'", "'12a'")
    refused(file("z.csv", "a,b,c,d\n1,2020-01-01,3,4\n"), "column 'b'")
    refused(file("w.csv", "only\ntext\n"), "column 'only'")
    pl.DataFrame({"a": [1], "b": [[1, 2]], "c": [1], "d": [1]}).write_parquet(tmp_path / "x.parquet")
    refused(tmp_path / "x.parquet", "column 'b'", "list")
    refused(file("v.csv", "u,i,r\na,b,good\n"), "column 'r'", layout="long")


def test_two_columns_of_one_name_are_refused(file):
    refused(file("x.csv", "a,b,a,c\n1,2,3,4\n"), "two columns named 'a'", "rename")


def test_a_table_without_rows_or_columns_is_refused(file, tmp_path):
    refused(file("x.csv", "a,b,c,d\n"), "nothing to factor")
    refused(file("y.csv", "u,i,r\n"), "no rows", layout="long")
    pl.DataFrame({"a": [], "b": []}, schema={"a": pl.Float64, "b": pl.Float64}).write_parquet(tmp_path / "x.parquet")
    refused(tmp_path / "x.parquet", "0 rows", "nothing to factor")
    pd.DataFrame(index=["a", "b"]).to_parquet(tmp_path / "i.parquet")
    refused(tmp_path / "i.parquet")
    np.save(tmp_path / "x.npy", np.ones((0, 3)))
    refused(tmp_path / "x.npy", "nothing to factor")
    scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.csr_array((0, 3)))
    refused(tmp_path / "x.npz", "nothing to factor")


def test_a_table_without_data_is_refused(file):
    refused(file("x.csv", "a,b,c,d\n,,,\n,,,nan\n"), "every cell is missing")
    refused(file("y.csv", "u,i,r\na,b,\n"), "every cell is missing", layout="long")


def test_infinite_values_are_refused_with_their_place(file, tmp_path):
    refused(file("x.csv", "n,a,b,c\nr,1,2,3\ns,1,-inf,3\n"), "row 's', column 'b'", "NaN if it is no data")
    np.save(tmp_path / "x.npy", np.array([[1.0, np.inf]]))
    refused(tmp_path / "x.npy", "row 0, column 1")
    refused(file("y.csv", "u,i,r\na,b,inf\n"), "row 'a', column 'b'", layout="long")


def test_ids_that_are_missing_or_not_whole_are_refused_with_their_row(file, tmp_path):
    refused(file("x.csv", "u,i,r\na,b,1\n,b,2\n"), "column 'u'", "row 1", layout="long")
    for ids, row in (
        ([1, None], "row 1"),
        ([1.0, 2.5], "row 1"),
        ([1.0, None], "row 1"),
        ([1e300, 1.0], "row 0"),
        ([None, "a"], "row 0"),
    ):
        pl.DataFrame({"u": ids, "i": ["a", "b"], "v": [1.0, 2.0]}, strict=False).write_parquet(tmp_path / "x.parquet")
        refused(tmp_path / "x.parquet", "column 'u'", row, layout="long")


def test_an_npz_of_several_arrays_is_refused_with_their_names(tmp_path):
    np.savez(tmp_path / "x.npz", first=X, second=X)
    refused(tmp_path / "x.npz", "first, second", "under the name X")
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("note.txt", "no array")
    refused(tmp_path / "y.npz", "without arrays")


@pytest.mark.parametrize(
    "array", [np.ones(3), np.ones((2, 2, 2)), np.array(1.0), np.ones((2, 2), complex), np.full((2, 2), "a"), np.zeros(2, "f8,i4")]
)
def test_arrays_that_are_no_matrix_of_numbers_are_refused(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    refused(tmp_path / "x.npy")


def test_complex_mtx_is_refused(file):
    refused(file("x.mtx", "%%MatrixMarket matrix coordinate complex general\n1 1 1\n1 1 1 2\n"), "complex")


@pytest.mark.parametrize("bad", [5, -1, 2**31 - 1])
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr"])
def test_sparse_indices_out_of_range_are_refused_and_never_used(tmp_path, form, bad):
    S = scipy.sparse.csr_array(FULL).asformat(form)
    scipy.sparse.save_npz(tmp_path / "good.npz", S)
    with np.load(tmp_path / "good.npz") as good:
        parts = dict(good)
    for name in ("indices", "indptr", "row", "col"):
        if name in parts:
            odd = parts[name].copy()
            odd[1] = bad
            np.savez(tmp_path / "x.npz", **(parts | {name: odd}))
            refused(tmp_path / "x.npz", "no readable")


def test_a_layout_that_does_not_fit_is_refused_with_the_way_out(file, tmp_path):
    path = file("x.csv", LONG)
    refused(path, "no column 'stars'", "'user', 'item', 'rating'", layout="user,item,stars")
    refused(path, "three different columns", layout="user,user,rating")
    refused(file("y.csv", "a,b\n1,2\n"), "a long table has three", layout="long")
    np.save(tmp_path / "x.npy", X)
    refused(tmp_path / "x.npy", "layout", layout="long")
    for layout in ("tall", "a,b", ("a", "b"), ("a", "b", 3)):
        with pytest.raises(ValueError, match="user,item,rating"):
            read(path, layout=layout)
    with pytest.raises(ValueError, match="missing is 'blank'"):
        read(path, missing="blank")
    with pytest.raises(ValueError, match="duplicates is 'first'"):
        read(path, duplicates="first")


def test_what_is_neither_text_nor_a_known_format_is_refused(file):
    refused(file("x.csv", b"a\0b\n"), "UTF-8")
    refused(file("y.csv", "a,ä\n1,2\n".encode("latin-1")), "UTF-8")
    refused(file("z.csv", "a,b\n1,2\n".encode("utf-16")), "UTF-8")
    refused(file("x.npy.gz", gzip.compress(b"\x93NUMPY\x01\x00")), "gunzip")
    refused(file("x.csv.gz", gzip.compress(b"a,b\n" * 1000)[:-9]), "cut short")


def test_ragged_csv_is_refused(file):
    refused(file("x.csv", "a,b,c,d\n1,2,3,4\n1,2\n"), "csv", "Expected 4 columns")


@pytest.mark.parametrize("name", ["with space.csv", "ünïcode.csv", "new\nline.csv", "per%20cent#?.csv", "-dash.csv"])
def test_file_names_may_be_anything(file, name):
    path = file(name, "a,b,c,d\n1,2,3,4\n")
    assert read(path).matrix.shape == (1, 4)
    assert read(str(path)).matrix.shape == (1, 4)
    refused(file(name, ""), "is empty")


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    array = np.random.default_rng(0).random((20, 6))
    frame = pd.DataFrame(array, columns=list("abcdef"), index=[f"r{i}" for i in range(20)])
    frame.to_parquet(folder / "x.parquet")
    frame.to_csv(folder / "x.csv")
    frame.to_csv(folder / "x.csv.gz")
    frame.stack().rename_axis(["u", "i"]).rename("v").reset_index().to_parquet(folder / "long.parquet")
    np.save(folder / "x.npy", array)
    np.savez_compressed(folder / "x.npz", array)
    scipy.sparse.save_npz(folder / "sparse.npz", scipy.sparse.random(30, 20, 0.2, "csr", rng=0))
    scipy.io.mmwrite(folder / "x.mtx", scipy.sparse.random(30, 20, 0.2, "csr", rng=0))
    (folder / "x.mtx.gz").write_bytes(gzip.compress((folder / "x.mtx").read_bytes()))
    return folder


SAMPLES = ["x.parquet", "x.csv", "x.csv.gz", "long.parquet", "x.npy", "x.npz", "sparse.npz", "x.mtx", "x.mtx.gz"]


def read_or_refuse(path):
    try:
        read(path)
    except (ValueError, OSError, MemoryError) as error:
        refusal = error
    else:
        return True
    assert os.path.basename(path) in str(refusal), repr(refusal)
    assert type(refusal).__module__ == "builtins", repr(refusal)
    return False


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_cut_short_anywhere_is_refused_or_read(samples, tmp_path, name):
    whole = (samples / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole)
    assert read_or_refuse(path)
    for step in range(16):
        path.write_bytes(whole[: len(whole) * step // 16])
        read = read_or_refuse(path)
        assert not read or name == "x.csv"  # half a csv is a csv


@pytest.mark.parametrize("name", SAMPLES)
def test_random_bytes_in_a_file_are_refused_or_read(samples, tmp_path, name):
    whole = (samples / name).read_bytes()
    random, path = np.random.default_rng(1), tmp_path / name
    for trial in range(40):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 1 + trial % 8):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged)
        read_or_refuse(path)
    for trial in range(10):
        head = whole[: 2 * trial]
        path.write_bytes(head + random.bytes(500))
        read_or_refuse(path)


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(matrix, "free_memory", lambda: 2**26)


def quickly_refused(path, **options):
    began = time.perf_counter()
    said = refused(path, "GiB", error=MemoryError, **options)
    assert time.perf_counter() - began < 5
    return said


def npy_header(shape, dtype="<f8"):
    out = stdio.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"shape": shape, "fortran_order": False, "descr": dtype})
    return out.getvalue()


def test_an_npy_that_would_not_fit_is_refused_before_it_is_read(tmp_path, little_memory):
    path = tmp_path / "x.npy"
    with path.open("wb") as out:
        out.write(npy_header((100_000, 1000)))
        out.truncate(len(npy_header((100_000, 1000))) + 800_000_000)
    quickly_refused(path)
    np.save(tmp_path / "bytes.npy", np.zeros((4000, 4000), np.int8))  # 16 MB that become 128 MB as float64
    quickly_refused(tmp_path / "bytes.npy")


def test_an_npz_bomb_is_refused_before_it_is_unpacked(tmp_path, little_memory):
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open("X.npy", "w") as out:
        out.write(npy_header((25_000, 1000)))
        for _ in range(25):
            out.write(bytes(8_000_000))
    assert path.stat().st_size < 2_000_000
    quickly_refused(path)


def test_headers_that_promise_more_than_the_file_holds_are_refused(file, tmp_path):
    refused(file("x.npy", npy_header((10**6, 10**6)) + bytes(80)), "promises")
    refused(file("y.npy", npy_header((-1, 5)) + bytes(80)), "promises")
    refused(file("x.mtx", "%%MatrixMarket matrix coordinate real general\n9 9 999999999\n1 1 1\n"), "promises 999999999 cells")
    refused(file("y.mtx", "%%MatrixMarket matrix array real general\n99999 99999\n1\n"), "promises")


@pytest.mark.parametrize(
    "body",
    [
        "2 2 1\n3 1 1",
        "2 2 1\n0 1 1",
        "2 2 1\n1 1.5 1",
        "2 2 1\n1 1",
        "2 2 2\n1 1 1\n1 2",
        "2 2\n",
        "2 2 1\n1 1 x",
        "2 2 1\n1 1 1\n2 2 2",
    ],
)
def test_mtx_that_is_not_what_its_header_says_is_refused(file, body):
    refused(file("x.mtx", "%%MatrixMarket matrix coordinate real general\n" + body), "again")


def test_sparse_files_with_huge_sides_are_refused(file, tmp_path, little_memory):
    quickly_refused(file("x.mtx", "%%MatrixMarket matrix coordinate real general\n999999999 9 1\n1 1 1\n"))
    S = scipy.sparse.coo_array(([1.0], ([0], [0])), shape=(10**9, 10**9))
    scipy.sparse.save_npz(tmp_path / "x.npz", S)
    quickly_refused(tmp_path / "x.npz")


def test_a_parquet_bomb_is_refused_by_its_shape(tmp_path, little_memory):
    column = pa.chunked_array([pa.array(np.zeros(1_000_000))])
    pq.write_table(pa.table(dict.fromkeys("abcdefghijkl", column)), tmp_path / "x.parquet")
    quickly_refused(tmp_path / "x.parquet")


def test_a_csv_bomb_is_refused_while_it_is_read(file, little_memory):
    path = file("x.csv.gz", gzip.compress(b"a,b,c,d\n" + b"1,1,1,1\n" * 2_000_000, 1))
    quickly_refused(path)


# ── the run folder ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def result():
    frame = pd.DataFrame(np.random.default_rng(0).random((8, 5)), columns=["a", "b", "ü", "component", "=e()"])
    frame.index = pd.Index([f"row {i}" for i in range(8)])
    return factorize(frame, 2, W="nonneg", H="nonneg + l1(0.01)", seed=3, max_iter=30)


def test_a_result_comes_back_as_it_was_saved(result, tmp_path):
    assert save(result, tmp_path / "run", command=["proxfactor", "fit"], image=(1, 5)) == tmp_path / "run"
    back = load(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(back.factors, result.factors, strict=True))
    assert repr((back.loss, back.prox_W, back.prox_H, back.solver)) == repr(
        (result.loss, result.prox_W, result.prox_H, result.solver)
    )
    assert back.rows.tolist() == result.rows.tolist()
    assert back.cols.tolist() == result.cols.tolist()
    assert (back.stopped, back.status, back.error, back.violation) == (
        result.stopped,
        result.status,
        result.error,
        result.violation,
    )
    assert back.settings.items() >= json.loads(json.dumps(result.settings)).items()
    assert back.history == result.history
    assert back.image == (1, 5)
    assert back.residual["shape"] == [8, 5]
    assert back.form == "numpy"
    assert np.allclose(back.W, result.factors[0].numpy())
    assert (back.certificate, back.iterations, back.seconds) == (result.certificate, result.iterations, result.seconds)


def test_a_loaded_result_tells_how_it_was_made_and_still_does_when_it_is_saved_again(result, tmp_path):
    save(result, tmp_path / "first", command=["proxfactor", "fit"])
    told = json.loads((tmp_path / "first" / "run.json").read_text())
    back = load(tmp_path / "first")
    assert back.settings == told["settings"] | {key: told[key] for key in ("command", "versions", "created")}
    save(back, tmp_path / "second")
    assert json.loads((tmp_path / "second" / "run.json").read_text()) == told
    save(back, tmp_path / "third", command="by hand")
    assert load(tmp_path / "third").settings == back.settings | {"command": "by hand"}
    save(result, tmp_path / "fourth")
    assert load(tmp_path / "fourth").settings.keys() == back.settings.keys() - {"command"}


def test_the_tables_of_a_run_open_anywhere(result, tmp_path):
    save(result, tmp_path / "run")
    W, H = (pd.read_parquet(tmp_path / "run" / f"{F}.parquet") for F in "WH")
    assert list(W.columns) == ["row", "1", "2"]
    assert list(W["row"]) == list(result.rows)
    assert list(H.columns) == ["component_", *result.cols]
    assert np.array_equal(W[["1", "2"]], result.factors[0])
    assert np.array_equal(H[list(result.cols)], result.factors[1])
    history = pl.read_csv(tmp_path / "run" / "history.csv")
    assert history.columns[:4] == ["iteration", "seconds", "passes", "loss"]
    assert same(cells(read(tmp_path / "run" / "W.parquet")), result.factors[0])
    modes = {(tmp_path / "run" / f).stat().st_mode for f in ("W.parquet", "model.safetensors", "run.json")}
    assert len(modes) == 1


def test_run_json_is_strict_and_tells_the_story(result, tmp_path):
    odd = dataclasses.replace(result, error=math.inf, settings={**result.settings, "odd": [np.float32(0.5), math.nan, tmp_path]})
    save(odd, tmp_path / "run", command="proxfactor fit x.csv")
    run = json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    assert run["format_version"] == 1
    assert run["command"] == "proxfactor fit x.csv"
    assert run["versions"].keys() == {"proxfactor", "torch", "numpy", "python"}
    assert run["created"].endswith("+00:00")
    assert (run["seed"], run["shape"], run["rank"]) == (3, [8, 5], 2)
    assert (run["prox_W"], run["prox_H"], run["loss"]) == ("NonNegative()", "NonNegative() + L1(0.01)", "Frobenius()")
    assert run["settings"]["odd"] == [0.5, None, str(tmp_path)]
    assert run["error"] is None
    assert run["residual"]["shape"] == [8, 5]
    assert run["certificate"].keys() == {"W", "H"}
    assert math.isnan(load(tmp_path / "run").error)


@pytest.mark.parametrize(
    ("rows", "cols"),
    [
        (None, None),
        (np.arange(8) + 2**60, np.arange(5) * 10),
        (np.array([0.5, 1, 2, 3, 4, 5, 6, 7]), np.array([400.25, 500, 600, 700, 800])),
        (
            np.array(["01", "1", "=1+1", "", "new\nline", "é", "NA", "x"], dtype=object),
            np.array(["row", "component", "1", "a.b", ""]),
        ),
    ],
    ids=["none", "integers", "numbers", "text"],
)
def test_names_come_back_with_their_type(result, tmp_path, rows, cols):
    save(dataclasses.replace(result, rows=rows, cols=cols, problem=None), tmp_path / "run")
    back = load(tmp_path / "run")
    for given, found in ((rows, back.rows), (cols, back.cols)):
        assert (found is None) == (given is None)
        assert given is None or (found.tolist() == given.tolist() and (found.dtype == given.dtype or found.dtype == object))


def test_dates_as_names_come_back_as_text(result, tmp_path):
    days = np.arange("2024-01-01", "2024-01-09", dtype="datetime64[D]")
    save(dataclasses.replace(result, rows=days, problem=None), tmp_path / "run")
    assert load(tmp_path / "run").rows[0] == "2024-01-01"


def test_constraints_that_hold_tensors_come_back(tmp_path):
    lam = torch.rand(1, 5, dtype=torch.float64)
    mask = torch.tensor([[True], [False]])
    from proxfactor import L1, Fixed

    fitted = factorize(np.random.default_rng(0).random((8, 5)), 2, W="nonneg", H=L1(lam), max_iter=5)
    fitted = dataclasses.replace(fitted, prox_W=Fixed(torch.zeros(2, 1), mask).T)
    save(fitted, tmp_path / "run")
    back = load(tmp_path / "run")
    assert torch.equal(back.prox_H.lam, lam)
    assert torch.equal(back.prox_W(torch.ones(3, 2)), fitted.prox_W(torch.ones(3, 2)))


def test_a_plain_function_as_a_constraint_is_named_and_cannot_be_called(tmp_path):
    fitted = factorize(np.random.default_rng(0).random((8, 5)), 2, W=lambda x: x.clamp(min=0), H="nonneg", max_iter=5)
    save(fitted, tmp_path / "run")
    back = load(tmp_path / "run")
    assert repr(back.prox_W) == repr(fitted.prox_W)
    assert math.isnan(back.certificate)
    with pytest.raises(ValueError, match="which no file holds"):
        back.prox_W(torch.ones(2, 2))


def test_a_loaded_result_transforms_as_the_saved_one(result, tmp_path):
    save(result, tmp_path / "run")
    new = np.random.default_rng(1).random((3, 5))
    assert np.array_equal(load(tmp_path / "run").transform(new), result.transform(new))


def test_a_run_replaces_a_run_and_leaves_nothing_beside_it(result, tmp_path):
    for seed in (1, 2):
        save(dataclasses.replace(result, settings={**result.settings, "seed": seed}), tmp_path / "run")
        (tmp_path / "run" / "report.html").write_text("old")
        assert load(tmp_path / "run").settings["seed"] == seed
    save(result, tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]
    assert "report.html" not in os.listdir(tmp_path / "run")


def test_what_is_no_run_is_never_replaced(result, tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"of": "another program"}')
    for name in ("file", "full", "other"):
        for refuse in (check_target, lambda path: save(result, path)):
            with pytest.raises(FileExistsError, match=rf"{name}.*choose another name"):
                refuse(tmp_path / name)
    with pytest.raises(NotADirectoryError, match="choose another folder"):
        check_target(tmp_path / "file" / "run")
    assert sorted(os.listdir(tmp_path)) == ["file", "full", "other"]
    assert os.listdir(tmp_path / "full") == ["thesis.tex"]


def test_a_folder_where_nothing_may_be_written_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="no permission"):
        check_target(tmp_path / "deep" / "run")


def test_parents_are_made_and_an_empty_folder_is_taken(result, tmp_path):
    check_target(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    assert load(save(result, tmp_path / "a" / "b")).converged == result.converged
    (tmp_path / "empty").mkdir()
    save(result, tmp_path / "empty")
    load(tmp_path / "empty")


@pytest.mark.parametrize("name", ["with space", "ünï", "new\nline", "[glob]*", ".hidden", "a.b.tmp"])
def test_run_folders_may_have_any_name(result, tmp_path, name):
    for _ in range(2):
        save(result, tmp_path / name)
    load(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_link_to_a_run_stays_a_link(result, tmp_path):
    save(result, tmp_path / "run")
    (tmp_path / "link").symlink_to("run")
    save(result, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    load(tmp_path / "link")


def disk_full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("when", [(files, "_sync"), (runs, "_write_run")], ids=["_sync", "_write_run"])
def test_a_write_that_fails_leaves_the_old_run_and_nothing_else(result, tmp_path, monkeypatch, when):
    save(result, tmp_path / "run")
    monkeypatch.setattr(*when, disk_full)
    with pytest.raises(OSError, match="No space"):
        save(dataclasses.replace(result, status="new"), tmp_path / "run")
    assert load(tmp_path / "run").status == result.status
    assert os.listdir(tmp_path) == ["run"]


def test_leftovers_of_killed_writes_are_cleaned_up_and_a_run_moved_aside_comes_back(result, tmp_path, monkeypatch):
    save(result, tmp_path / "run")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    pid = int(dead.stdout)
    (tmp_path / f".run.{pid}.tmp").mkdir()
    (tmp_path / f".run.{pid}.tmp" / "W.parquet").write_text("half")
    (tmp_path / ".other.1.tmp").mkdir()
    (tmp_path / f".run.{os.getppid()}.tmp").mkdir()  # of a process that is alive: it may still be writing
    (tmp_path / "run").rename(tmp_path / f".run.{pid}.old")
    assert load(tmp_path / "run").status == result.status
    monkeypatch.setattr(runs, "_write_run", disk_full)
    with pytest.raises(OSError, match="No space"):
        save(result, tmp_path / "run")
    assert load(tmp_path / "run").status == result.status
    assert sorted(os.listdir(tmp_path)) == [".other.1.tmp", f".run.{os.getppid()}.tmp", "run"]


SAVES = """
import dataclasses, os, random, signal, sys, time
from proxfactor.io import load, save

result, random = load(sys.argv[1]), random.Random(0)
for kill in range(10):
    if not (child := os.fork()):
        i = 0
        while True:
            i += 1
            save(dataclasses.replace(result, status=f"{kill} {i}"), sys.argv[1])
    time.sleep(random.uniform(0.01, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(load(sys.argv[1]).status, flush=True)
"""


def test_a_run_killed_at_any_moment_is_whole(result, tmp_path):
    path = tmp_path / "many\nkills"
    save(dataclasses.replace(result, problem=None), path)
    done = subprocess.run([sys.executable, "-c", SAVES, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 10
    save(result, path)
    assert os.listdir(tmp_path) == [path.name]


def test_anything_missing_or_malformed_in_a_run_is_named(result, tmp_path):
    run = tmp_path / "run"
    for file in ("W.parquet", "H.parquet", "model.safetensors", "history.csv", "run.json"):
        save(result, run)
        whole = (run / file).read_bytes()
        for content in (b"", b"\xff\0{", whole[: len(whole) // 2], whole[:-1] if file != "history.csv" else b"loss\n1\n"):
            (run / file).write_bytes(content)
            with pytest.raises(ValueError, match=file.replace(".", r"\.")) as raised:
                load(run)
            assert str(run) in str(raised.value)
            assert "\n" not in str(raised.value)
        (run / file).unlink()
        with pytest.raises(ValueError, match=f"there is no {file}"):
            load(run)
        (run / file).write_bytes(whole)
        load(run)


def test_a_run_json_that_lies_is_refused(result, tmp_path):
    save(result, tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    good = json.loads(file.read_text())
    for change in (
        {"format_version": 99},
        {"format_version": None},
        {"shape": [9, 5]},
        {"shape": [8]},
        {"rank": 3},
        {"prox_W": "__import__('os')"},
        {"prox_W": 5},
        {"prox_W": "l1($lam)"},
        {"loss": "nonneg"},
        {"solver": "nothing"},
        {"violation": 1},
        {"settings": 1},
        {"image": [1]},
        {"error": "big"},
        {"names": None},
    ):
        file.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=r"(run\.json|parquet|safetensors) cannot be used"):
            load(tmp_path / "run")
    for key in good.keys() - {
        "command",
        "versions",
        "created",
        "seed",
        "converged",
        "certificate",
        "loss_value",
        "seconds",
        "iterations",
    }:
        file.write_text(json.dumps({k: v for k, v in good.items() if k != key}))
        with pytest.raises(ValueError, match=f"{key}.*is missing"):
            load(tmp_path / "run")


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        load(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"there is no run\.json"):
        load(tmp_path / "folder")


# ── single files ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_single_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "a\nb.html"
    assert write_atomically(path, "ü") == path
    assert write_atomically(path, b"\x00bytes").read_bytes() == b"\x00bytes"
    monkeypatch.setattr(files, "_sync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_bytes() == b"\x00bytes"
    assert os.listdir(path.parent) == [path.name]
    with pytest.raises(IsADirectoryError, match="name a file"):
        write_atomically(tmp_path, "x")


def test_a_device_is_written_to_and_not_replaced():
    write_atomically("/dev/null", "gone")
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv"])
def test_a_table_that_was_written_is_read_back(tmp_path, ending):
    names, F = np.array(["a", "ü,\n"], dtype=object), torch.rand(2, 3)
    path = write_table(tmp_path / f"t.{ending}", ["name", "1", "2", "3"], [names, *F.unbind(1)])
    table = read(path)
    assert list(table.rows) == list(names)
    assert np.allclose(cells(table), F)
    with pytest.raises(ValueError, match=r"give it one of these endings"):
        write_table(tmp_path / "t.xlsx", ["a"], [[1.0]])
