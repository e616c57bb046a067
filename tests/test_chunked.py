"""Data in chunks: the same sweeps as in memory, one read for each, and whatever goes wrong is told with its chunk."""

import gc
import io
import itertools
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from dataclasses import dataclass

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch

import proxfactor as pf
from proxfactor import HALS, KL, PALM, Chunked, Dense, Observed, Problem, Sparse, Streamed, factorize
from proxfactor.chunked import _ahead
from proxfactor.losses import Loss
from proxfactor.metrics import residual_summary

RANK = 3
CUTS = (0, 7, 30, 41, 60)


def data(seed=0, dtype=float):
    r = np.random.default_rng(seed)
    return r.poisson(r.gamma(1, 1, (60, RANK)) @ r.gamma(1, 1, (RANK, 20))).astype(dtype)


def with_holes(X, share=0.3, seed=1):
    return np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X)


def parts(X, cuts=CUTS):
    return [X[a:b] for a, b in itertools.pairwise(cuts)]


def factors(seed=2):
    r = np.random.default_rng(seed)
    return torch.tensor(r.uniform(0.1, 1, (60, RANK))), torch.tensor(r.uniform(0.1, 1, (RANK, 20)))


KINDS = {
    "dense": (lambda X: X, lambda X: Dense(X)),
    "holes": (with_holes, lambda X: Dense(X)),
    "mostly holes": (lambda X: with_holes(X, 0.6), lambda X: Observed(X)),
    "sparse": (lambda X: sp.csr_array(X), lambda X: Sparse(X)),
    "clicks": (lambda X: sp.csr_array(X), lambda X: Sparse(X, background=0.3)),
    "weighted": (lambda X: X, lambda X: Dense(X, 0.5 + X % 3)),
}


def twins(kind, *how):
    made, matrix = KINDS[kind]
    X = made(data())
    return Problem(matrix(X), *how), Streamed(Chunked([matrix(part) for part in parts(X)]), *how)


# ── the same as in memory, at one read a sweep ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False, repr=False)
class Counts(Loss):
    """KL by another name: a loss of which nothing is known but its value, slope and curvature."""

    __call__ = KL.__call__
    grad, curvature, yardstick, at_zero = KL.grad, KL.curvature, KL.yardstick, KL.at_zero


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["frobenius", Counts(), "kl"], ids=str)
@pytest.mark.parametrize(
    ("W", "H"), [("nonneg", "nonneg"), ("simplex(dim=1)", "box(0, 9)"), ("nonneg + l1(0.1)", "simplex(dim=1)")]
)
def test_sweeps_in_chunks_are_those_in_memory(kind, loss, W, H):
    whole, streamed = twins(kind, loss, W, H)
    if loss == "kl":  # its H has a half-step of its own, which is the same for one chunk
        whole = Streamed(Chunked([whole.X]), loss, W, H)
    solver = PALM() if W.startswith("simplex") else HALS()
    w, h = factors()
    w, h = (F / F.sum(1, keepdim=True) if "simplex" in g else F for F, g in ((w, W), (h, H)))
    a, b = solver.init(whole, w, h), solver.init(streamed, w, h)
    for _ in range(4):
        a, b = solver.step(whole, a), solver.step(streamed, b)
        torch.testing.assert_close(torch.stack(solver.look(streamed, b)), torch.stack(solver.look(whole, a)), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(b.W, a.W, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(b.H, a.H, rtol=1e-9, atol=1e-11)
    for name, memory in a.w.items():
        torch.testing.assert_close(b.w[name], memory)


@pytest.mark.parametrize("kind", ["dense", "holes", "sparse"])
@pytest.mark.parametrize("H", ["nonneg", "box(0, 0.5)", "nonneg + l1(0.1)", "simplex(dim=1)"])
def test_no_sweep_in_chunks_raises_the_value_of_kl(kind, H):
    whole, streamed = twins(kind, "kl", "box(0, 20)", H)
    state = HALS().init(streamed, *factors())
    state.H = (state.H / state.H.sum(1, keepdim=True)).mT.contiguous().mT
    values = [whole.value(state.W, state.H).item()]
    for _ in range(20):
        state = HALS().step(streamed, state)
        values.append(whole.value(state.W, state.H).item())
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(values))
    assert values[-1] < 0.5 * values[0]


class Counting:
    """A source that counts how often each chunk is read."""

    def __init__(self, chunks):
        self.chunks, self.read = chunks, [0] * len(chunks)

    def __call__(self):
        for number, chunk in enumerate(self.chunks):
            self.read[number] += 1
            yield chunk


@pytest.mark.parametrize(("loss", "each"), [("frobenius", 1), ("kl", 1), (Counts(), 2)], ids=str)
@pytest.mark.parametrize("look", [True, False])
def test_a_sweep_reads_each_chunk_once_whether_looked_at_or_not_and_twice_where_it_must_see_the_loss(loss, each, look):
    source = Counting(parts(data()))
    problem, solver = Streamed(Chunked(source), loss, "nonneg", "nonneg"), HALS()
    state = solver.init(problem, *factors())
    assert source.read == [1] * 4
    for _ in range(5):
        state = solver.step(problem, state)
        if look:
            solver.look(problem, state)
    assert source.read == [1 + 5 * each + look] * 4  # a look is the read of the next sweep
    solver.step(problem, state)
    assert source.read == [1 + 6 * each] * 4
    assert problem.X.reads == 1 + 6 * each


def test_a_fit_reads_once_before_it_starts_once_a_sweep_and_twice_to_end():
    source = Counting(parts(data()))
    result = factorize(Chunked(source), RANK, W="nonneg", H="nonneg", max_iter=20, tol=1e-9)
    assert result.iterations == 20
    assert max(source.read) == min(source.read) == 1 + 20 + 2
    assert result.problem.X.reads == source.read[0] == result.history[-1]["passes"]


@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_a_fit_converges_to_what_it_converges_to_in_memory(loss):
    X, start = data() + 0.1, factors()
    how = {"W": "nonneg", "H": "nonneg", "loss": loss, "init": start, "solver": "hals", "tol": 1e-4}
    how |= {"tol": 1e-3} if loss == "kl" else {}
    whole, streamed = factorize(X, RANK, **how), factorize(Chunked(parts(X)), RANK, **how)
    assert streamed.converged
    assert whole.converged
    assert abs(streamed.iterations - whole.iterations) <= (20 if loss == "kl" else 3)
    assert streamed.error == pytest.approx(whole.error, rel=1e-4)
    np.testing.assert_allclose(streamed.W @ streamed.H, whole.W @ whole.H, atol=2e-3 * X.max())
    certificate = max(c.item() for c in Problem(X, loss, "nonneg", "nonneg").certificate(*streamed.factors))
    assert streamed.certificate == pytest.approx(certificate, rel=1e-4)


@pytest.mark.parametrize("init", ["random", "svd"])
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_a_named_start_is_made_of_some_rows_and_the_same_seed_gives_the_same_result(init, loss):
    X = data(dtype=np.float32)
    how = {"W": "nonneg", "H": "nonneg", "loss": loss, "init": init, "max_iter": 15}
    a, b = (factorize(Chunked(parts(X)), RANK, **how) for _ in range(2))
    assert torch.equal(a.factors[0], b.factors[0])
    assert a.W.dtype == np.float32
    assert a.error < 1.1 * factorize(X, RANK, W="nonneg", H="nonneg", loss=loss, max_iter=15).error


def test_transform_takes_chunks_and_gives_w_of_the_fit():
    X = data()
    result = factorize(Chunked(parts(X)), RANK, W="nonneg", H="nonneg")
    np.testing.assert_allclose(result.transform(Chunked(parts(X))), result.W, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.transform(X), result.W, rtol=1e-3, atol=1e-4)


def test_data_times_a_power_of_two_gives_the_same_bits():
    X = data()
    a, b = (factorize(Chunked(parts(X * scale)), RANK, W="nonneg", H="nonneg", max_iter=10) for scale in (1.0, 2.0**40))
    np.testing.assert_array_equal(a.W * 2.0**40, b.W)
    np.testing.assert_array_equal(a.H, b.H)


def test_the_memory_of_reads_notices_that_a_factor_was_overwritten():
    problem = Streamed(Chunked(parts(data())), "frobenius", "nonneg", "nonneg")
    W, H = factors()
    before = problem.value(W, H)
    W[3] += 1
    after = problem.value(W, H)
    assert after != before
    assert after == problem.value(W.clone(), H)


def test_products_and_the_two_sides_of_a_streamed_problem_are_those_of_the_whole():
    X = data()
    C = Chunked(parts(X))
    B, A = torch.rand(20, 2, dtype=torch.float64), torch.rand(60, 2, dtype=torch.float64)
    torch.testing.assert_close(C @ B, torch.tensor(X) @ B)
    torch.testing.assert_close(C.T @ A, torch.tensor(X).mT @ A)
    whole, streamed = twins("holes", "kl", "nonneg", "nonneg")
    W, H = factors()
    for p, q, a, b in ((whole, streamed, W, H.mT), (whole.T, streamed.T, H.mT, W)):
        torch.testing.assert_close(q.row_losses(a, b), p.row_losses(a, b))
        torch.testing.assert_close(q.stationarity(a, b), p.stationarity(a, b))
    mine, theirs = streamed.T.model(H.mT, W), whole.T.model(H.mT, W)
    torch.testing.assert_close((mine.G, mine.C), (theirs.G, theirs.C))


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_a_chunk_is_gone_before_the_next_but_one_is_read(loss):
    alive: list[weakref.ref] = []
    most = []

    def source():
        for number in range(12):
            chunk = np.full((5, 4), number + 1, np.float32)  # the tensor that is made of it holds it
            alive.append(weakref.ref(chunk))
            most.append(sum(chunk() is not None for chunk in alive))
            yield chunk
            del chunk

    gc.disable()  # what is in a ring would stay
    try:
        problem, solver = Streamed(Chunked(source), loss, "nonneg", "nonneg"), HALS()
        state = solver.init(problem, torch.rand(60, 2), torch.rand(2, 4))
        most.clear()
        for _ in range(3):
            state = solver.step(problem, state)
            solver.look(problem, state)
    finally:
        gc.enable()
    assert max(most) == 2


def test_a_file_several_times_as_large_as_what_may_be_used_is_fitted(tmp_path):
    r = np.random.default_rng(0)
    m, n, file = 40_000, 500, tmp_path / "big.npy"  # 80 MB
    X = np.lib.format.open_memmap(file, "w+", np.float32, (m, n))
    H = r.gamma(1, 1, (4, n))
    for start in range(0, m, 10_000):
        X[start : start + 10_000] = r.gamma(1, 1, (10_000, 4)) @ H
    del X
    code = f"""
        import resource, torch
        import proxfactor as pf, proxfactor.chunked
        torch.set_num_threads(1)
        proxfactor.chunked.CHUNK = proxfactor.chunked.SAMPLE = 2**20
        warm = pf.factorize(pf.Chunked([torch.rand(100, {n})]), 4, W="nonneg", H="nonneg", max_iter=2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = pf.factorize(pf.read({str(file)!r}, chunked=True), 4, W="nonneg", H="nonneg", max_iter=2)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, result.error)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    megabytes, error = map(float, ran.stdout.split())
    assert megabytes < 30
    assert error < 0.5


# ── what goes wrong is told ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ([], ValueError, "no chunk"),
        ([np.ones((2, 3)), np.ones((2, 4))], ValueError, r"chunk 1 \(from 0\): it has 4 columns, the first chunk 3"),
        ([np.ones((2, 3)), np.ones((0, 3))], ValueError, r"chunk 1 \(from 0\): X is 0 x 3"),
        ([np.ones((2, 3)), np.full((2, 3), np.inf)], ValueError, r"chunk 1 \(from 0\): X holds inf"),
        ([np.ones((2, 3)), [["a", "b", "c"]]], TypeError, r"chunk 1 \(from 0\): X holds text"),
        ([pd.DataFrame({"a": [1.0]}), pd.DataFrame({"b": [1.0]})], ValueError, r"chunk 1 \(from 0\): the columns do not match"),
        (iter([np.ones((2, 3))]), TypeError, "only once"),
        ("big.npy", TypeError, "chunked=True"),
        (3, TypeError, "a list of chunks"),
        (np.ones((2, 3, 4)), ValueError, "two dims"),
    ],
)
def test_bad_chunks_get_a_clear_answer(source, error, words):
    with pytest.raises(error, match=words):
        Chunked(source)


def test_columns_in_another_order_are_aligned_by_name():
    X = data()
    names = [f"c{j}" for j in range(20)]
    frame = pd.DataFrame(X, columns=names)
    how = {"W": "nonneg", "H": "nonneg", "init": factors(), "solver": "hals", "max_iter": 5}
    result, plain = factorize(Chunked([frame[:20], frame[20:][names[::-1]]]), RANK, **how), factorize(X, RANK, **how)
    np.testing.assert_allclose(result.H, plain.H, rtol=1e-6, atol=1e-9)
    assert list(result.H.columns) == names
    turned = Chunked([frame[names[::-1]]])
    np.testing.assert_allclose(result.transform(turned), result.transform(frame), rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="1 missing"):
        result.transform(Chunked([frame[names[1:]]]))


def test_a_source_that_gives_other_data_the_second_time_is_found_out():
    times = iter(range(9))
    X = Chunked(lambda: [np.ones((2, 3))] * (2 + next(times)))
    with pytest.raises(ValueError, match=r"chunk 2 .* was not there at the first read"):
        X @ torch.ones(3, 1, dtype=torch.float64)
    times = iter(range(9))
    X = Chunked(lambda: [np.ones((2 + next(times), 3))])
    with pytest.raises(ValueError, match="has 3 rows and had 2"):
        X @ torch.ones(3, 1, dtype=torch.float64)
    times = iter([2, 1])
    X = Chunked(lambda: [np.ones((2, 3))] * next(times))
    with pytest.raises(ValueError, match="2 chunks at the first read and now 1"):
        X @ torch.ones(3, 1, dtype=torch.float64)


def test_what_the_reading_thread_raises_is_raised_here_and_the_thread_ends():
    def source():
        yield np.ones((2, 3))
        if broken:
            raise ValueError("the disk is gone")
        yield np.ones((2, 3))

    broken = False
    X, before = Chunked(source), threading.active_count()
    broken = True
    with pytest.raises(ValueError, match=r"chunk 1 \(from 0\): the disk is gone"):
        factorize(X, 2, max_iter=3)
    assert threading.active_count() == before
    items = _ahead(iter(range(9)))
    assert next(items) == 0
    items.close()
    assert threading.active_count() == before


def test_an_interrupted_read_leaves_the_state_as_it_was_and_the_fit_ends_with_it():
    interrupt: list[int] = []

    def source():
        for number, chunk in enumerate(parts(data())):
            if number == 2 and interrupt and interrupt.pop():
                raise KeyboardInterrupt
            yield chunk

    def callback(progress):
        if progress.row["iteration"] == 4 and not seen:
            seen.append(progress.W.clone())
            interrupt.append(1)

    seen: list[torch.Tensor] = []
    result = factorize(Chunked(source), RANK, W="nonneg", H="nonneg", callback=callback)
    assert result.stopped == "interrupted"
    assert result.iterations == 5  # its half-step for W was there already; the read that is broken off is that of the sixth
    certificate = max(c.item() for c in Problem(data(), "frobenius", "nonneg", "nonneg").certificate(*result.factors))
    assert result.certificate == pytest.approx(certificate, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda X: factorize(X, 2, W="smooth(dim=0)"), "couples dim 0, along which the chunks divide it"),
        (lambda X: factorize(X, 2, weight=np.ones((60, 20))), "give each chunk with its own"),
        (lambda X: Problem(X), "never in memory as a whole"),
        (lambda X: factorize(X, 2, solver="extrapolated"), "comes in chunks; use HALS"),
        (lambda X: X.entries(), "never in memory as a whole"),
        (lambda X: factorize(Chunked([-np.ones((2, 3))]), 1, loss="kl"), "not negative"),
        (lambda X: Streamed(X).take(slice(0, 3)), "no rows can be taken"),
    ],
)
def test_what_chunks_cannot_do_is_refused_with_the_way_out(make, words):
    with pytest.raises(ValueError, match=words):
        make(Chunked(parts(data())))


def test_an_operator_with_a_number_for_each_row_is_divided_like_the_rows():
    lam = torch.rand(60, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole, streamed = twins("dense", "frobenius", pf.L1(lam) + pf.NonNegative(), "box(0, 1)")
    a, b = (HALS().init(p, *factors()) for p in (whole, streamed))
    for _ in range(3):
        a, b = HALS().step(whole, a), HALS().step(streamed, b)
    torch.testing.assert_close(a.W, b.W)


def test_rows_and_columns_without_data_are_no_trouble():
    X = data()
    X[7:30] = np.nan  # a whole chunk
    X[:, 4] = np.nan
    result = factorize(Chunked(parts(X)), RANK, W="nonneg", H="nonneg", max_iter=20)
    assert np.all(result.W[7:30] == 0)
    assert np.all(result.H[:, 4] == 0)
    assert result.error < 0.5


# ── from files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def written(kind, X, folder):
    file = folder / f"x.{kind.split()[-1]}"
    if kind == "npy":
        np.save(file, X)
    elif kind == "columns first npy":
        np.save(file, np.asfortranarray(X))
    elif kind == "array in npz":
        np.savez_compressed(file, X=X)
    elif kind in ("csr in npz", "plain csr in npz"):
        sp.save_npz(file, sp.csr_matrix(X), compressed=not kind.startswith("plain"))
    elif kind in ("parquet", "csv"):
        columns = {"id": [f"r{i}" for i in range(len(X))]} | {f"c{j}": X[:, j] for j in range(X.shape[1])}
        frame = pl.DataFrame(columns).fill_nan(None)
        frame.write_parquet(file, row_group_size=17) if kind == "parquet" else frame.write_csv(file)
    return file


@pytest.mark.parametrize("kind", ["npy", "columns first npy", "array in npz", "csr in npz", "plain csr in npz", "parquet", "csv"])
@pytest.mark.parametrize("missing", ["nan", "zeros"])
def test_a_file_in_chunks_is_the_file_as_a_whole(kind, missing, tmp_path, monkeypatch):
    X = data() if "csr" in kind else with_holes(data(), 0.2)
    file = written(kind, X, tmp_path)
    monkeypatch.setattr("proxfactor.chunked.CHUNK", 11 * 20 * 8)
    whole, streamed = (pf.read(file, missing=missing, chunked=chunked) for chunked in (False, True))
    assert isinstance(streamed.matrix, Chunked)
    if kind != "csv":
        assert len(streamed.matrix.counts) > 3
    for mine, theirs in ((streamed.rows, whole.rows), (streamed.cols, whole.cols)):
        assert (mine is None) == (theirs is None) == (kind not in ("parquet", "csv"))
        assert mine is None or list(mine) == list(theirs)
    a, b = (factorize(T, RANK, W="nonneg", H="nonneg", init=factors(), solver="hals", max_iter=6) for T in (whole, streamed))
    np.testing.assert_allclose(b.H, a.H, rtol=1e-8, atol=1e-10)
    assert b.error == pytest.approx(a.error, rel=1e-3)


@pytest.mark.parametrize("kind", ["npy", "csr in npz", "parquet"])
def test_a_file_that_is_cut_short_between_two_reads_is_told(kind, tmp_path, monkeypatch):
    file = written(kind, data(), tmp_path)
    monkeypatch.setattr("proxfactor.chunked.CHUNK", 11 * 20 * 8)
    table = pf.read(file, chunked=True)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged or cut short"):
        factorize(table, RANK, W="nonneg", H="nonneg")


def test_what_is_larger_than_memory_is_read_in_chunks_without_being_asked(tmp_path, monkeypatch):
    file = written("npy", data(), tmp_path)
    monkeypatch.setattr("proxfactor.io.formats.SMALL", 0)
    assert isinstance(pf.read(file).matrix, Dense)
    monkeypatch.setattr("proxfactor.io.chunks.free_memory", lambda: 2 * 60 * 20 * 8)
    assert isinstance(pf.read(file).matrix, Chunked)
    assert isinstance(pf.read(file, chunked=False).matrix, Dense)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("x.mtx", lambda f: f.write_text("%%MatrixMarket matrix array real general\n1 1\n2\n"), "read as a whole"),
        ("x.csv", lambda f: f.write_text("user,item,rating\na,b,1\nc,d,2\n"), "long table"),
        ("x.npz", lambda f: sp.save_npz(f, sp.csc_matrix(data())), r"X.tocsr\(\)"),
        ("x.npz", lambda f: np.savez(f, a=data(), b=data()), "2 arrays"),
        ("x.npz", lambda f: f.write_bytes(b"PK\x03\x04" + bytes(100)), "damaged"),
        ("x.npy", lambda f: np.save(f, np.ones(3)), "two dims"),
        ("x.npy", lambda f: np.save(f, np.array([[1.0, np.inf]])), "infinite value in row 0, column 1"),
    ],
)
def test_files_that_cannot_be_read_in_chunks_say_why(name, write, words, tmp_path):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=words):
        pf.read(tmp_path / name, chunked=True)


def test_a_zarr_folder_is_read_in_whole_pieces_and_without_zarr_the_error_says_what_to_install(tmp_path, monkeypatch):
    X, asked = data(), []

    class Array:
        shape, dtype, chunks = X.shape, X.dtype, (8, 20)

        def __getitem__(self, rows):
            asked.append(rows)
            return X[rows]

    folder = tmp_path / "x.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ValueError, match="pip install zarr"):
        pf.read(folder)
    monkeypatch.setitem(sys.modules, "zarr", types.SimpleNamespace(open_array=lambda path, mode: Array()))
    monkeypatch.setattr("proxfactor.chunked.CHUNK", 20 * 20 * 8)
    matrix = pf.read(folder).matrix
    assert matrix.counts == [16, 16, 16, 12]
    torch.testing.assert_close(torch.cat([part.entries() for _, part in matrix.chunks()]), torch.tensor(X))
    assert {s.start % 8 for s in asked} == {0}


def test_arrays_with_slices_are_cut_into_chunks(tmp_path):
    np.save(tmp_path / "x.npy", data())
    for array in (np.load(tmp_path / "x.npy", mmap_mode="r"), sp.csr_array(data())):
        X = Chunked(array, rows=25)
        assert X.counts == [25, 25, 10]
        torch.testing.assert_close(X @ torch.eye(20, dtype=torch.float64), torch.tensor(data()))


def test_a_run_on_chunks_is_saved_with_a_summary_of_some_of_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("proxfactor.chunked.SAMPLE", 0)
    monkeypatch.setattr("proxfactor.chunked.min", lambda *a: 20 if a[0] == 4096 else min(*a), raising=False)
    X = Chunked(parts(data()))
    assert X.sampled.tolist() == list(range(0, 60, 4))
    result = factorize(X, RANK, W="nonneg", H="nonneg", max_iter=5)
    summary = residual_summary(result.problem.X, *result.factors)
    assert summary["shape"] == [60, 20]
    assert summary["histogram"]["sampled"]
    assert all(worst["index"] % 4 == 0 for worst in summary["rows"]["worst"])
    pf.save(result, tmp_path / "run")
    np.testing.assert_array_equal(pf.load(tmp_path / "run").W, result.W)


def test_the_command_line_fits_a_file_in_chunks_and_goes_on_with_it(tmp_path, monkeypatch, capsys):
    from proxfactor.cli import base as cli

    monkeypatch.chdir(tmp_path)
    written("parquet", data(), tmp_path)
    assert cli._code(["fit", "x.parquet", "--rank", "3", "--W", "nonneg", "--H", "nonneg", "--chunked", "--max-iter", "5"]) == 1
    assert cli._code(["fit", "x.parquet", "--init", "run", "--max-iter", "5", "--out", "again"]) == 1
    assert pf.load("again").settings["read"]["chunked"] is True
    assert cli._code(["transform", "again", "x.parquet"]) == 0
    assert io.StringIO(capsys.readouterr().out).read().count("r59") == 1
