"""Every Matrix against brute-force dense arithmetic, and every kind of input against the one it means."""

import datetime
import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch

import proxfactor.matrix as module
from proxfactor.matrix import Dense, LowRank, Matrix, Multiplied, Observed, Sparse, Table, as_matrix, as_table, memory_for

pytestmark = pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC|BSR|invariant):UserWarning")
warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
NAN, INF = math.nan, math.inf
M, N, K = 9, 7, 3


def rand(seed, *shape, dtype=torch.float64):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def case(name, dtype=torch.float64):
    """(a Matrix, its values as a dense array, its weights as one: 0 where nothing is stored)."""
    X, W = rand(0, M, N, dtype=dtype) + 0.1, rand(1, M, N, dtype=dtype) + 0.5
    kind, _, weights = name.partition(" ")
    if kind == "dense":
        W = {
            "": torch.ones_like(W),
            "weighted": W,
            "few-holes": torch.ones_like(W).index_put((torch.tensor([1, 4, 4]), torch.tensor([2, 0, 6])), W.new_tensor(0.0)),
            "many-holes": (rand(2, M, N) < 0.3).to(W),
            "mixed": torch.cat([torch.ones_like(W[:4]), (rand(2, 3, N) < 0.3).to(W), torch.zeros_like(W[:2])]),
        }[weights]
        return Dense(X, W), X.masked_fill(W == 0, 0.0), W
    stored = rand(3, M, N) < 0.4
    stored[2] = False  # an empty row and an empty column
    stored[:, 5] = False
    X, W = X.masked_fill(~stored, 0.0), torch.where(stored, W if weights else torch.ones_like(W), 0.0)
    given = None
    if weights:
        given = sp.csr_array((W[stored].numpy(), stored.numpy().nonzero()), shape=(M, N))
    raw = sp.csr_array((X[stored].numpy(), stored.numpy().nonzero()), shape=(M, N))
    made = (Sparse if kind == "sparse" else Observed)(raw, given)
    return made, X, W


CASES = ["dense", "dense weighted", "dense few-holes", "dense many-holes", "dense mixed"]
CASES += ["sparse", "sparse weighted", "observed", "observed weighted"]


def laid_out(X, stored):
    """A dense array's cells in the layout of X.entries()."""
    return stored if isinstance(X, Dense) else stored[X._rows(), X.col.long()]


@pytest.fixture(params=CASES)
def both(request):
    return case(request.param)


def weights_of(X):
    return torch.ones_like(X.entries()) if X.weight is None else X.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_a_matrix_computes_what_dense_arithmetic_does(name, dtype):
    X, D, W = case(name, dtype)
    A, B = rand(4, M, K, dtype=dtype), rand(5, N, K, dtype=dtype)
    assert (X.shape, X.dtype, X.device.type) == ((M, N), dtype, "cpu")
    assert torch.equal(X.entries(), laid_out(X, D))
    assert torch.equal(weights_of(X), laid_out(X, W))
    assert torch.allclose(X.predict(A, B), laid_out(X, A @ B.mT))
    assert torch.allclose(X @ B, D @ B)
    assert torch.allclose(X.T @ A, D.mT @ A)
    v = 2 * X.entries() + 1
    full = torch.where(W > 0, 2 * D + 1, 0.0) if not isinstance(X, Dense) else 2 * D + 1
    assert torch.allclose(X.like(v) @ B, full @ B)
    assert X.like(v).weight is None
    assert torch.allclose(X.sums(v), full.sum(1))
    assert torch.equal(X.along(A[:, 0], 0), laid_out(X, A[:, :1].expand(M, N)))
    assert torch.equal(X.along(B[:, 0], 1), laid_out(X, B[:, 0].expand(M, N)))
    assert X.background == (1.0 if isinstance(X, Sparse) else 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("flip", [False, True])
def test_the_gram_is_the_weighted_sum_of_outer_products(name, dtype, flip):
    X, D, W = case(name, dtype)
    X, D, W = (X.T, D.mT, W.mT) if flip else (X, D, W)
    B = rand(5, X.shape[1], K, dtype=dtype) - 0.5
    G = torch.einsum("ij,jp,jq->ipq", W, B, B)
    assert torch.allclose(X.gram(B).expand(G.shape), G, atol=1e-5 if dtype == torch.float32 else 1e-12)
    assert (X.gram(B).ndim == 2) == (isinstance(X, Dense) and X.weight is None)
    c = X.entries() + 0.3
    C = D + 0.3 if isinstance(X, Dense) else torch.where(W > 0, D + 0.3, 0.0)
    assert torch.allclose(X.gram(B, c), torch.einsum("ij,jp,jq->ipq", C, B, B), atol=1e-5)
    assert torch.equal(X.gram(B), X.gram(B).mT)


def test_the_transpose_of_the_transpose_is_the_matrix_and_weights_move_along(both):
    X, D, W = both
    assert X.T.T is X
    assert X.T is X.T
    assert X.T.shape == (N, M)
    assert torch.equal(X.T.entries(), laid_out(X.T, D.mT))
    assert torch.equal(weights_of(X.T), laid_out(X.T, W.mT))
    assert X.T.background == X.background


ROWS = [slice(2, 5), slice(0, 0), slice(None), torch.tensor([8, 0, 2, 2]), torch.arange(9) % 2 == 0, torch.tensor([-1])]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_take_gives_some_rows_with_their_weights(both, rows):
    X, D, W = both
    part = X.take(rows)
    assert type(part) is type(X)
    assert part.shape == (len(D[rows]), N)
    assert torch.equal(part.entries(), laid_out(part, D[rows]))
    assert torch.equal(weights_of(part), laid_out(part, W[rows]))
    assert torch.allclose(part @ rand(5, N, K), D[rows] @ rand(5, N, K))
    assert part.background == X.background


def test_blocks_cover_the_rows_in_order_and_one_block_is_the_matrix_itself(both):
    X, D, _ = both
    assert [b is X for _, b in X.blocks(8)] == [True]
    parts = list(X.blocks(row_bytes=100, size=450))
    assert [rows for rows, _ in parts] == [slice(0, 4), slice(4, 8), slice(8, 9)]
    assert torch.equal(torch.cat([b @ torch.eye(N).double() for _, b in parts]), D)
    assert len(list(X.blocks(row_bytes=10**9, size=1))) == M


def test_a_matrix_shows_its_size_kind_and_count():
    assert repr(case("observed")[0]).startswith("Observed(9 x 7, ")
    assert repr(Dense(torch.ones(2, 3))) == "Dense(2 x 3, 6 stored, float32)"


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_index_dtypes_do_not_matter(index):
    X = sp.csr_array(np.eye(4))
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    assert torch.equal(Sparse(X) @ torch.eye(4).double(), torch.eye(4).double())


def test_a_matrix_without_stored_cells_works():
    X = Sparse(sp.csr_array((3, 4)))
    assert (X @ torch.ones(4, 2).double()).abs().max() == 0
    assert X.predict(torch.ones(3, 2).double(), torch.ones(4, 2).double()).shape == (0,)
    assert X.gram(torch.ones(4, 2).double()).shape == (3, 2, 2)
    assert X.T.shape == (4, 3)


# ── what X may be ─────────────────────────────────────────────────────────────────────────────────────────────────────

PLAIN = np.arange(1.0, 13.0).reshape(3, 4)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


ARRAYS = {
    "float64": PLAIN,
    "float32": PLAIN.astype(np.float32),
    "float16": PLAIN.astype(np.float16),
    "longdouble": PLAIN.astype(np.longdouble),
    "int8": PLAIN.astype(np.int8),
    "uint64": PLAIN.astype(np.uint64),
    "big-endian": PLAIN.astype(">f8"),
    "big-endian int": PLAIN.astype(">i4"),
    "Fortran": np.asfortranarray(PLAIN),
    "read-only": read_only(PLAIN),
    "negative strides": PLAIN[::-1, ::-1].copy()[::-1, ::-1],
    "every second": np.repeat(np.repeat(PLAIN, 2, 0), 2, 1)[::2, ::2],
    "packed record": np.array([(1, row) for row in PLAIN], dtype=np.dtype([("a", "i1"), ("x", "f8", 4)]))["x"],
    "object": PLAIN.astype(object),
    "list": PLAIN.tolist(),
    "torch float64": torch.from_numpy(PLAIN.copy()),
    "torch float16": torch.from_numpy(PLAIN.copy()).half(),
    "torch bfloat16": torch.from_numpy(PLAIN.copy()).bfloat16(),
    "torch int": torch.from_numpy(PLAIN.copy()).int(),
    "torch parameter": torch.nn.Parameter(torch.from_numpy(PLAIN.copy())),
    "torch transposed": torch.from_numpy(PLAIN.T.copy()).T,
    "pandas": pd.DataFrame(PLAIN),
    "pandas int": pd.DataFrame(PLAIN.astype(int), columns=[3, 1, 0, 2]),
    "polars": pl.DataFrame(PLAIN),
    "pyarrow": pa.table(dict(zip("abcd", PLAIN.T, strict=True))),
    "csr": sp.csr_array(PLAIN),
    "csc": sp.csc_matrix(PLAIN),
    "coo": sp.coo_array(PLAIN),
    "lil": sp.lil_array(PLAIN),
    "dia": sp.dia_array(PLAIN),
    "bsr": sp.bsr_array(PLAIN),
    "dok": sp.dok_array(PLAIN),
    "torch coo": torch.from_numpy(PLAIN.copy()).to_sparse(),
    "torch csr": torch.from_numpy(PLAIN.copy()).to_sparse_csr(),
    "torch csc": torch.from_numpy(PLAIN.copy()).to_sparse_csc(),
    "torch bsr": torch.from_numpy(PLAIN.copy()).to_sparse_bsr((3, 2)),
    "torch coo half": torch.from_numpy(PLAIN.copy()).half().to_sparse(),
    "torch coo int": torch.from_numpy(PLAIN.copy()).int().to_sparse(),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_anything_that_is_a_matrix_is_read(name):
    X = as_matrix(ARRAYS[name])
    single = {"float32", "float16", "torch float16", "torch bfloat16", "torch coo half"}
    assert X.dtype == (torch.float32 if name in single else torch.float64)
    assert torch.equal(X @ torch.eye(4, dtype=X.dtype), torch.from_numpy(PLAIN).to(X.dtype))
    sparse = {"csr", "csc", "coo", "lil", "dia", "bsr", "dok"} & set(name.split())
    assert isinstance(X, Sparse if sparse else Dense)
    assert not X.entries().requires_grad


def test_booleans_stride_zero_memmaps_and_masked_arrays_are_read(tmp_path):
    assert as_matrix(np.eye(3) > 0).entries().tolist() == np.eye(3).tolist()
    flat = np.lib.stride_tricks.as_strided(np.arange(3.0), (2, 3), (0, 8))
    assert as_matrix(flat).entries().tolist() == [[0, 1, 2]] * 2
    assert as_matrix(np.broadcast_to(np.arange(3.0), (2, 3))).entries().tolist() == [[0, 1, 2]] * 2
    np.save(tmp_path / "x.npy", PLAIN)
    for mode in ("r", "r+", "c"):
        assert np.array_equal(as_matrix(np.load(tmp_path / "x.npy", mmap_mode=mode)).entries(), PLAIN)
    masked = as_matrix(np.ma.masked_array(PLAIN.astype(int), mask=PLAIN == 2))
    assert (masked.weight == 0).nonzero().tolist() == [[0, 1]]


def test_duplicates_are_added_up_without_overflow_and_explicit_zeros_and_disorder_are_kept_right():
    at = ([0, 0, 1, 1], [2, 2, 1, 0])
    for data in (np.array([100, 100, 0, 7], dtype=np.int8), np.array([100.0, 100, 0, 7])):
        for X in (sp.coo_array((data, at), shape=(2, 3)), torch.sparse_coo_tensor(at, torch.from_numpy(data), (2, 3))):
            S = as_matrix(X)
            assert (S @ torch.eye(3).double()).tolist() == [[0, 0, 200], [7, 0, 0]]
            assert S.entries().tolist() == [200, 7, 0]
    unsorted = sp.csr_array((np.array([1.0, 2.0]), np.array([2, 0]), np.array([0, 2])), shape=(1, 3))
    assert as_matrix(unsorted).entries().tolist() == [2, 1]
    assert unsorted.indices.tolist() == [2, 0]
    assert Observed(sp.coo_array((data, at), shape=(2, 3))).entries().numel() == 3


def test_users_arrays_are_never_modified():
    X, W = np.array([[1.0, NAN, INF], [2.0, 3.0, 4.0]]), np.array([[1.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
    S = sp.csr_array(np.array([[NAN, 2.0], [0.0, 3.0]]))
    V = sp.csr_array((np.array([1.0, 0.0, 2.0]), S.indices, S.indptr), shape=(2, 2))
    kept = [a.copy() for a in (X, W, S.data, V.data)]
    for made in (as_matrix(X, W), as_matrix(S, V), Observed(X, W), Sparse(S)):
        made.T.gram(torch.ones(made.shape[0], 1).double())
    for a, b in zip((X, W, S.data, V.data), kept, strict=True):
        assert np.array_equal(a, b, equal_nan=True)


def test_tables_keep_their_names_and_their_library():
    frame = pd.DataFrame({"a": pd.array([1, None, 3], dtype="Int64"), "b": [1.0, 2.0, 3.0]}, index=["x", "y", "z"])
    table = as_table(frame)
    assert (table.rows.tolist(), table.cols.tolist(), table.form) == (["x", "y", "z"], ["a", "b"], pd)
    assert table.matrix.weight.tolist() == [[1, 1], [0, 1], [1, 1]]
    assert as_table(pd.DataFrame(PLAIN, columns=[5, 1, 0, 7])).cols.tolist() == ["5", "1", "0", "7"]
    assert as_table(pd.DataFrame(PLAIN)).rows is None
    assert as_table(pd.DataFrame(PLAIN, index=[1, 0, 2])).rows.tolist() == [1, 0, 2]
    pairs = [(1, "a"), (2, "b"), (2, "c")]
    assert as_table(pd.DataFrame(PLAIN, index=pd.MultiIndex.from_tuples(pairs))).rows.tolist() == pairs
    assert len(as_table(pd.DataFrame(PLAIN, index=pd.period_range("2020", periods=3, freq="D"))).rows) == 3
    columns = {"a": [1, None], "b": [True, False]}
    for make, library in ((pl.DataFrame, pl), (pa.table, pa)):
        table = as_table(make(columns))
        assert (table.rows, table.cols.tolist(), table.form) == (None, ["a", "b"], library)
        assert table.matrix.weight.tolist() == [[1, 1], [0, 1]]
    assert as_matrix(pl.DataFrame({"a": pl.Series([1.0], dtype=pl.Float32)})).dtype == torch.float32
    assert [as_table(X).form for X in (PLAIN, torch.ones(1, 1), Dense(PLAIN), Dense(torch.ones(1, 1)))] == [
        "numpy",
        "torch",
        "numpy",
        "torch",
    ]
    assert as_table(table) is table
    weighted = as_table(table, np.full((2, 2), 3.0))
    assert (weighted.cols.tolist(), weighted.form) == (["a", "b"], pa)
    assert weighted.matrix.weight.tolist() == [[3, 3], [0, 3]]


# ── what is no data ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_few_nan_make_a_dense_with_weight_zero_and_many_an_observed_with_the_same_answers():
    X = torch.tensor([[1.0, NAN], [2.0, 3.0]])
    few, many = as_matrix(X), Observed(X)
    assert isinstance(few, Dense)
    assert isinstance(as_matrix([[1.0, NAN, NAN], [NAN, 3.0, 4.0]]), Dense)
    assert isinstance(as_matrix([[NAN, NAN, NAN], [NAN, 3.0, 4.0]]), Observed)
    B = torch.rand(2, 2)
    assert torch.allclose(few @ B, many @ B)
    assert torch.allclose(few.gram(B), many.gram(B))
    assert torch.allclose(few.T.gram(B), many.T.gram(B))


def test_sparse_stores_what_is_not_zero_and_observed_what_is_not_nan():
    X = torch.tensor([[0.0, 2.0], [NAN, 3.0]])
    assert Sparse(X).entries().tolist() == [2, 0, 3]
    assert Sparse(X).weight.tolist() == [1, 0, 1]
    assert Observed(X).entries().tolist() == [0, 2, 3]
    assert Observed(X).weight is None
    assert Sparse(sp.csr_array(X.numpy())).weight.tolist() == [1, 0, 1]


def test_dense_weights_leave_the_background_of_sparse_and_nothing_outside_observed():
    X = sp.csr_array(np.array([[0.0, 2.0], [4.0, 3.0]]))
    S = as_matrix(X, np.array([[0.3, 2.0], [1.0, 5.0]]))
    assert (S.background, S.weight.tolist()) == (0.3, [2, 1, 5])
    assert Sparse(X, background=0.1).background == 0.1
    with pytest.raises(ValueError, match=r"run from 0\.2 to 0\.3.*background"):
        Sparse(sp.csr_array(np.array([[0.0, 0.0, 1.0]])), np.array([[0.2, 0.3, 1.0]]))
    with pytest.raises(ValueError, match="make them the same"):
        Sparse(X, np.ones((2, 2)), background=0.5)
    for background in (-1, NAN, INF):
        with pytest.raises(ValueError, match="background"):
            Sparse(X, background=background)
    R = np.array([[NAN, 2.0], [4.0, NAN]])
    for W in (np.ones((2, 2)), np.array([[7.0, 1.0], [1.0, 9.0]])):
        assert Observed(R, W).background == 0
        assert Observed(R, W).weight is None
    assert as_matrix([[NAN, NAN, NAN, 2.0]], np.ones((1, 4))).background == 0


def test_a_weighted_copy_keeps_the_background():
    X = sp.csr_array(np.array([[0.0, 2.0], [4.0, 3.0]]))
    V = sp.csr_array((np.array([1.0, 2.0, 3.0]), X.indices, X.indptr), shape=(2, 2))
    S = Sparse(X, background=0.1)
    assert as_matrix(S, V).background == 0.1
    assert as_matrix(S, V).weight.tolist() == [1, 2, 3]
    assert Sparse(S).background == 0.1
    assert Observed(S).background == 0
    assert Observed(as_matrix(S, V)).weight.tolist() == [1, 2, 3]
    assert as_matrix(S, S.like(torch.tensor([1.0, 2.0, 3.0]))).weight.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="one of the two"):
        as_matrix(as_matrix(S, V), V)
    assert as_matrix(Dense(PLAIN), 2 * np.ones((3, 1))).weight.tolist() == [[2] * 4] * 3


def test_sparse_weights_store_the_same_cells():
    X = sp.csr_array(np.array([[0.0, 2.0], [4.0, 3.0]]))
    with pytest.raises(ValueError, match=r"must store the same cells.*explicit 0"):
        as_matrix(X, sp.csr_array(np.eye(2)))
    with pytest.raises(ValueError, match="weight is sparse and X is not"):
        as_matrix(PLAIN, X)
    assert as_matrix(X, sp.csc_array(2 * X)).weight.tolist() == [4, 8, 6]
    assert as_matrix(X, sp.csr_array((np.ones(3), X.indices, X.indptr), shape=(2, 2))).weight is None


@pytest.mark.parametrize("bad", [-1.0, NAN, INF])
def test_a_weight_is_finite_and_not_negative(bad):
    W = np.ones((3, 4))
    W[1, 1] = bad
    with pytest.raises(ValueError, match="finite and not negative"):
        as_matrix(PLAIN, W)
    with pytest.raises(ValueError, match="finite and not negative"):
        as_matrix(sp.csr_array(PLAIN), sp.csr_array(W))


def test_weights_have_the_shape_of_x_or_broadcast_to_it_and_ones_are_none():
    with pytest.raises(ValueError, match=r"weight has shape \(2, 2\), X has \(3, 4\)"):
        as_matrix(PLAIN, np.ones((2, 2)))
    with pytest.raises(TypeError, match="weight holds text"):
        as_matrix(PLAIN, np.full((3, 4), "a"))
    assert as_matrix(PLAIN, np.ones((3, 4))).weight is None
    assert as_matrix(PLAIN, np.arange(4)).weight[2].tolist() == [0, 1, 2, 3]
    assert as_matrix(PLAIN, pd.DataFrame(2 * np.ones((3, 4)))).weight.tolist() == [[2] * 4] * 3


@pytest.mark.parametrize("bad", [INF, -INF])
def test_inf_is_an_error_with_its_place_unless_its_weight_is_zero(bad):
    X = PLAIN.copy()
    X[2, 1] = bad
    for make in (as_matrix, Sparse, Observed, lambda X, w=None: Sparse(sp.csr_array(X), w)):
        with pytest.raises(ValueError, match=r"inf at row 2, column 1 \(1 such"):
            make(X)
        W = np.ones((3, 4))
        with pytest.raises(ValueError, match="row 2, column 1"):
            make(X, 2 * W)
        W[2, 1] = 0
        hidden = make(X, W)
        assert hidden.entries().isfinite().all()
        assert (hidden.weight == 0).sum() == 1


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        (np.array([["a", "b"]]), TypeError, "text"),
        ("abc", TypeError, "text"),
        ({"a": 1}, TypeError, "other than numbers"),
        (np.array([[1, "a"]], dtype=object), TypeError, "other than numbers"),
        (np.ones((2, 2), dtype=complex), TypeError, "complex"),
        (torch.ones(2, 2, dtype=torch.complex64), TypeError, "complex"),
        (sp.csr_array(np.ones((2, 2), dtype=complex)), TypeError, "complex"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), TypeError, "dates"),
        (np.array([[datetime.date(2020, 1, 1)]], dtype=object), TypeError, "other than numbers"),
        (pl.LazyFrame({"a": [1]}), TypeError, "collect"),
        (np.ones((2, 2, 2)), ValueError, r"\(2, 2, 2\).*reshape"),
        (np.ones(3), ValueError, "two dims"),
        (pd.Series([1.0]), ValueError, "two dims"),
        (None, ValueError, "two dims"),
        (5.0, ValueError, "two dims"),
        (sp.coo_array(np.ones(3)), ValueError, "two dims"),
        (torch.ones(2, 2, 2).to_sparse(), ValueError, "two dims"),
        (torch.ones(2, 2).to_sparse(1), ValueError, "dense dims"),
        (np.ones((0, 3)), ValueError, "0 x 3: there is nothing"),
        (torch.ones(3, 0), ValueError, "3 x 0: there is nothing"),
        (sp.csr_array((0, 3)), ValueError, "nothing to factor"),
        ([], ValueError, "two dims"),
        (pd.DataFrame({"a": []}), ValueError, "nothing to factor"),
        (pd.DataFrame({"a": ["x"], "b": [1.0]}), ValueError, r"column 'a'.*set_index"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), ValueError, "and 1 more"),
        (pl.DataFrame({"a": [datetime.date(2020, 1, 1)]}), ValueError, "column 'a' holds Date"),
        (pd.DataFrame(np.eye(2), columns=["a", "a"]), ValueError, "two columns of one name"),
        ([[1.0, 2.0], [3.0]], ValueError, "inhomogeneous"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else v,
)
def test_what_cannot_be_factored_is_refused(X, error, words):
    with pytest.raises(error, match=words):
        as_matrix(X)


BROKEN = """
import numpy as np, scipy.sparse as sp, torch, warnings
from proxfactor.matrix import LowRank, as_matrix
warnings.simplefilter("ignore")
far = 10**8
def scipy_of(kind, where):
    X = kind(np.eye(3))
    if kind is sp.coo_array:
        X.coords[0][0] = where
    else:
        X.indices[0] = where
    return X
one = torch.ones(1)
broken = [lambda k=k, w=w: scipy_of(k, w) for k in (sp.csr_array, sp.csc_array, sp.coo_array, sp.bsr_array) for w in (far, -far)]
broken += [
    lambda: sp.csr_array((np.ones(1), np.array([0]), np.array([0, 1])), shape=(1, 1)).__class__,
    lambda: torch.sparse_coo_tensor([[far], [0]], one, (3, 3), check_invariants=False),
    lambda: torch.sparse_coo_tensor([[-far], [0]], one, (3, 3), check_invariants=False),
    lambda: torch.sparse_csr_tensor([0, 1, 1, 1], [far], one, (3, 3), check_invariants=False),
    lambda: torch.sparse_csc_tensor([0, 1, 1, 1], [far], one, (3, 3), check_invariants=False),
    lambda: torch.sparse_csr_tensor([0, far, 1, 1], [0], one, (3, 3), check_invariants=False),
    lambda: torch.sparse_bsr_tensor([0, 1], [far], torch.ones(1, 2, 2), (2, 2), check_invariants=False),
]
for number, make in enumerate(broken):
    if isinstance(X := make(), type):
        continue
    try:
        as_matrix(X)
    except ValueError as error:
        assert "no valid sparse" in str(error), error
    else:
        raise SystemExit(f"{number} was taken")
"""


def test_indices_out_of_range_are_refused_and_never_a_crash():
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_memory_is_asked_for_before_it_is_taken(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    memory_for(10, 10, 8, "W")
    with pytest.raises(MemoryError, match=r"X of 100 x 100 needs .* GiB.*sparse"):
        memory_for(100, 100, 8, "X")
    monkeypatch.setattr(module, "free_memory", lambda: None)
    memory_for(10**9, 10**9, 8, "X")


def test_free_memory_is_a_number_of_bytes_or_unknown():
    free = module.free_memory()
    assert free is None or free > 2**20


def test_every_kind_is_a_matrix():
    assert all(issubclass(kind, Matrix) for kind in (Dense, Sparse, Observed))
    assert Table(Dense(PLAIN)).form == "numpy"


def test_low_rank_is_the_dense_matrix_of_its_factors():
    g = torch.Generator().manual_seed(0)
    Q, B, F = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((7, 2), (2, 5), (5, 3)))
    low, dense = LowRank(Q, B), Dense(Q @ B)
    torch.testing.assert_close(low @ F, dense @ F)
    torch.testing.assert_close(low.T @ torch.ones(7, 2).double(), dense.T @ torch.ones(7, 2).double())
    torch.testing.assert_close(low.gram(F), dense.gram(F))
    torch.testing.assert_close(low.squares(), dense.squares())
    torch.testing.assert_close(low.take(slice(2, 4)).entries(), dense.take(slice(2, 4)).entries())
    assert low.T.T is low


def test_squares_are_weighted_sums_over_the_stored_cells():
    r = np.random.default_rng(0)
    X, w = r.standard_normal((6, 4)), r.uniform(0, 2, (6, 4))
    assert Dense(X, w).squares().item() == pytest.approx((w * X**2).sum())
    assert Observed(X).squares().item() == pytest.approx((X**2).sum())


@pytest.mark.parametrize("weighted", [False, True])
def test_the_sum_of_squares_is_that_of_float64_whatever_the_dtype_and_the_layout(weighted):
    g = torch.Generator().manual_seed(0)
    X, w = (torch.rand(700, 900, generator=g) for _ in range(2))  # more than one block of rows
    M = Dense(X, w if weighted else None)
    exact = (X.double().square() * (w.double() if weighted else 1.0)).sum().item()
    for made in (M, M.T, Sparse(X.to_sparse(), w if weighted else None)):
        assert made.squares().item() == pytest.approx(exact, rel=1e-12)


def test_a_scaled_matrix_is_the_dense_one_of_its_cells_and_makes_them_only_when_asked():
    g = torch.Generator().manual_seed(0)
    X, F, E = (torch.rand(s, generator=g, dtype=torch.float64) for s in ((7, 5), (5, 3), (7, 3)))
    scaled, dense = Multiplied(Dense(X), 0.25), Dense(X * 0.25)
    assert torch.equal(scaled @ F, dense @ F)
    assert torch.equal(scaled.T @ E, dense.T @ E)
    torch.testing.assert_close(scaled.squares(), dense.squares())
    assert (scaled.stored, scaled.T.stored, scaled.T.T) == (35, 35, scaled)
    assert torch.equal(scaled.to(dtype=torch.float32) @ F.float(), Dense(X.float() * 0.25) @ F.float())
    assert "values" not in scaled.__dict__
    assert torch.equal(scaled.take(slice(2, 4)).T.entries(), dense.take(slice(2, 4)).T.entries())
    assert torch.equal(scaled.like(scaled.entries()).entries(), dense.entries())


def test_nothing_stored_has_no_squares():
    assert Sparse(torch.zeros(3, 4)).squares() == 0
