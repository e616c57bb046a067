"""The command line: real files in, a run folder, a report and an exit code out, and one sentence for whatever is wrong."""

import contextlib
import io
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import termios

import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse
import torch
from operators import EXAMPLES

import proxfactor
from proxfactor import Prox, load
from proxfactor.cli import main
from proxfactor.cli.progress import clock, expected_end
from proxfactor.prox.table import HEAD

M, N, RANK = 14, 9, 3
ROWS, COLS = [f"row {i}" for i in range(M)], [f"col {j}" for j in range(N)]
r = np.random.default_rng(0)
X = np.round(r.random((M, RANK)) @ r.random((RANK, N)) + 0.1 * r.random((M, N)), 3)
COUNTS = r.poisson(1.5, (M, N)).astype(float)
COUNTS[0] += 1
HARD = r.random((150, 100))
FRAME = pd.DataFrame(X, ROWS, COLS)


def long(frame):
    cells = frame.rename_axis("user").reset_index().melt("user", var_name="item", value_name="rating")
    return cells.sample(frac=1, random_state=0)


WRITERS = {
    "x.parquet": lambda f, path: f.to_parquet(path),
    "x.parquet.gzip": lambda f, path: f.to_parquet(path, compression="gzip"),
    "wide.csv": lambda f, path: f.to_csv(path, index_label="name"),
    "wide.csv.gz": lambda f, path: f.to_csv(path, index_label="name"),
    "long.csv": lambda f, path: long(f).to_csv(path, index=False),
    "wide.tsv": lambda f, path: f.to_csv(path, index_label="name", sep="\t"),
    "x.npy": lambda f, path: np.save(path, f.to_numpy()),
    "dense.npz": lambda f, path: np.savez(path, X=f.to_numpy()),
    "sparse.npz": lambda f, path: scipy.sparse.save_npz(path, scipy.sparse.csr_array(f.to_numpy())),
    "x.mtx": lambda f, path: scipy.io.mmwrite(path, scipy.sparse.coo_array(f.to_numpy())),
}
NAMELESS = ("x.npy", "dense.npz", "sparse.npz", "x.mtx")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small problems side by side: more threads than cores would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


def call(command):
    """The exit code of a command that runs in this process."""
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(command))
    return stop.value.code


def shell(command, **options):
    """A command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "proxfactor", *shlex.split(command)], capture_output=True, text=True, **options)


def table(text):
    return pd.read_csv(io.StringIO(text), index_col="row", dtype={"row": str})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of every kind, good and bad, and two runs."""
    place = tmp_path_factory.mktemp("files")
    for name, write in WRITERS.items():
        write(FRAME, place / name)
    arrays = {
        "counts": COUNTS, "negative": X - 5, "hard": HARD, "infinite": np.where(X.max() == X, np.inf, X),
        "text": np.array([["a", "b"]]), "none": np.empty((0, 4)), "weight": np.ones_like(X), "minus": -np.ones_like(X),
        "nan": np.where(X.max() == X, np.nan, 1.0), "small": np.ones((3, 3)), "narrow": X[:, :4], "objects": np.array([{}]),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)
    texts = {"empty.csv": "", "head.csv": "a,b,c,d\n", "text.csv": "n,a,b\nx,1,hello\ny,2,3\n", "fake.parquet": "x", "file": "x"}
    for name, text in texts.items():
        (place / name).write_text(text)
    with (place / "huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)})
        file.truncate(10**12 + 200)  # a file with a hole: it takes no room on the disk
    (place / "foreign").mkdir()
    (place / "foreign" / "thesis.txt").write_text("years of work")
    with contextlib.chdir(place):
        assert call(f"fit x.parquet -k {RANK} --W nonneg --H nonneg --out named --quiet") == 0
        assert call(f"fit x.npy -k {RANK} --out bare --quiet") == 0
    return place


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


# ── from file to factors and report ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_becomes_a_run_with_a_report_and_its_transform_is_W(name, here, tmp_path, capsys):
    run = tmp_path / "run"
    command = f"fit {name} --rank {RANK} --W nonneg --H nonneg --out {run}"
    if name in ("x.parquet", "long.csv", "sparse.npz"):
        done = shell(command)
        code, out, err = done.returncode, done.stdout, done.stderr
    else:
        code, (out, err) = call(command), capsys.readouterr()
    assert code == 0, err
    assert "Converged" in out
    assert "report.html" in out
    assert "size and rank       14 x 9, rank 3" in out
    assert err.startswith("iteration      1  loss ")
    result = load(run)
    W, H = (F.numpy() for F in result.factors)
    order = np.argsort(ROWS) if name == "long.csv" else np.arange(M)
    rows, cols = (map(str, range(M)), map(str, range(N))) if name in NAMELESS else (np.array(ROWS)[order], COLS)
    rows, cols = list(rows), list(cols)
    assert result.converged
    assert np.linalg.norm(X[order] - W @ H) < 0.1 * np.linalg.norm(X)
    assert "<svg" in (run / "report.html").read_text("utf-8")

    assert call(f"transform {run} {name}") == 0
    new = table(capsys.readouterr().out)
    assert list(new.index) == rows
    assert list(new.columns) == ["1", "2", "3"]
    assert np.allclose(new, W, rtol=0, atol=1e-10)

    assert call(f"predict {run} --rows '{rows[2]}' '{rows[0]}' --cols '{cols[5]}' '{cols[1]}'") == 0
    part = table(capsys.readouterr().out)
    assert list(part.index) == [rows[2], rows[0]]
    assert list(part.columns) == [cols[5], cols[1]]
    assert np.allclose(part, (W @ H)[[2, 0]][:, [5, 1]], rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in NAMELESS])
def test_columns_are_matched_by_name(name, here, tmp_path, capsys):
    mixed = FRAME.sample(frac=1, axis=1, random_state=1)
    WRITERS[name](mixed, tmp_path / name)
    assert call(f"transform named {tmp_path / name}") == 0
    W = pd.DataFrame(load("named").factors[0].numpy(), ROWS)
    new = table(capsys.readouterr().out)
    assert np.allclose(new, W.loc[new.index], rtol=0, atol=1e-10)


def test_new_users_of_a_long_table_need_not_have_rated_everything(here, tmp_path, capsys):
    assert call(f"fit long.csv -k 2 --W nonneg --H nonneg --out {tmp_path / 'run'} --quiet") == 0
    (tmp_path / "new.csv").write_text("user,item,rating\nann,col 3,0.5\nann,col 1,1\nbob,col 8,1\n")
    assert call(f"transform {tmp_path / 'run'} {tmp_path / 'new.csv'}") == 0
    W, H = table(capsys.readouterr().out), load(tmp_path / "run").factors[1].numpy()
    assert list(W.index) == ["ann", "bob"]
    assert (W.loc["bob"] @ H)[8] == pytest.approx(1)


def test_tables_are_written_as_their_ending_says(here, tmp_path, capsys):
    for name, read in (("w.parquet", pd.read_parquet), ("w.csv", pd.read_csv), ("w.tsv", lambda p: pd.read_csv(p, sep="\t"))):
        assert call(f"transform named x.parquet --out {tmp_path / name}") == 0
        assert np.allclose(read(tmp_path / name).set_index("row"), load("named").factors[0])
    assert call(f"predict named --out {tmp_path / 'all.csv'}") == 0
    assert pd.read_csv(tmp_path / "all.csv", index_col="row").shape == X.shape
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "missing", "perfect"),
    [
        ("dense.npy", "nan", False), ("dense.npy", "zeros", True), ("dense.npy", "none", False),
        ("sparse.npz", "nan", False), ("sparse.npz", "zeros", True), ("sparse.npz", "none", False),
        ("x.mtx", "nan", False), ("x.mtx", "zeros", True), ("x.mtx", "none", False),
        ("long.csv", "nan", True), ("long.csv", "zeros", True), ("long.csv", "none", False),
        ("wide.csv", "nan", True), ("wide.csv", "zeros", True),
    ],
)  # fmt: skip
def test_missing_says_which_cells_are_no_data(name, missing, perfect, tmp_path):
    """Ones with holes have rank one exactly if the holes are no data."""
    ones = pd.DataFrame(1 - np.eye(5), [f"r{i}" for i in range(5)], [f"c{j}" for j in range(5)])
    gaps = ones.where(ones > 0)
    match name:
        case "dense.npy":
            np.save(tmp_path / name, ones)
        case "long.csv":
            long(gaps).dropna().to_csv(tmp_path / name, index=False)
        case "wide.csv":
            gaps.to_csv(tmp_path / name)
        case _:
            WRITERS[name](ones, tmp_path / name)
    call(f"fit {tmp_path / name} -k 1 --missing {missing} --out {tmp_path / 'run'} --quiet")
    run = load(tmp_path / "run")
    assert (run.error < 1e-4) == perfect
    assert run.settings["read"] == {"missing": missing}


def test_weights_tensors_and_a_start_reach_the_fit(here, tmp_path):
    np.save(tmp_path / "most.npy", np.full((1, N), 0.5))
    weight = np.ones_like(X)
    weight[3] = 0
    pd.DataFrame(weight, ROWS, COLS).to_csv(tmp_path / "weight.csv")
    out = tmp_path / "run"
    most = f"--H 'box(0, $most)' --tensor most={tmp_path / 'most.npy'}"
    how = f"--weight {tmp_path / 'weight.csv'} --init svd --solver palm --out {out} --quiet"
    assert call(f"fit x.parquet -k 2 --W nonneg {most} {how}") < 2
    run = load(out)
    W, H = run.factors
    assert H.max() <= 0.5
    assert W[3].abs().max() == 0, "a row without data has no weight"
    assert repr(run.solver) == "PALM()"
    assert run.settings["init"] == "svd"


# ── how it ends ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fit_that_did_not_converge_is_saved_and_goes_on(here, tmp_path, capsys):
    first, second = tmp_path / "one run", tmp_path / "two"
    asked = "--W 'box(0, 1)' --H 'nonneg + l2squared(0.1)' --loss kl --missing none"
    assert call(f"fit counts.npy -k 3 {asked} --max-iter 3 --out '{first}'") == 1
    out = capsys.readouterr().out
    assert "Not converged" in out
    assert f"Go on with: proxfactor fit counts.npy --init '{first}'" in out
    assert call(f"fit counts.npy --init '{first}' --out {second} --tol 0.01 --quiet") == 0
    a, b = load(first), load(second)
    assert repr(b.prox_H) == repr(a.prox_H) == "NonNegative() + L2Squared(0.1)"
    assert repr(b.loss) == "KL()"
    assert b.settings["read"] == {"missing": "none"}
    assert b.settings["rank"] == 3
    assert b.history[0]["loss"] <= a.history[-1]["loss"] * (1 + 1e-9)


def test_quiet_prints_nothing_but_advice(here, tmp_path, capsys):
    assert call(f"fit x.npy -k 2 --out {tmp_path / 'a'} --quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert call(f"fit hard.npy -k 2 --out {tmp_path / 'b'} --quiet --max-iter 2") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Not converged")
    assert "Go on with" in err


def test_a_rank_above_both_sides_is_fitted_with_a_word_of_warning(here, tmp_path, capsys):
    assert call(f"fit x.npy -k 20 --out {tmp_path / 'run'} --quiet") == 0
    assert capsys.readouterr().err == "warning: Rank 20 is above both sides of X (14 x 9): components beyond 9 add nothing.\n"


def test_control_c_saves_what_there_is_and_the_fit_can_go_on(here, tmp_path, capsys):
    run = tmp_path / "run"
    command = f"fit hard.npy -k 6 --W nonneg --H nonneg --tol 1e-12 --max-iter 1000000 --out {run}"
    process = subprocess.Popen(
        [sys.executable, "-m", "proxfactor", *shlex.split(command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr.readline().startswith("iteration")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert out.startswith("Interrupted after")
    assert f"Go on with: proxfactor fit hard.npy --init {run}" in out
    assert (run / "report.html").exists()
    before = load(run)
    assert call(f"fit hard.npy --init {run} --out {run} --max-iter 2 --quiet") == 1
    after = load(run)
    assert repr(after.prox_W) == "NonNegative()"
    assert after.history[-1]["loss"] <= before.history[-1]["loss"] * (1 + 1e-9)


def test_control_c_before_the_fit_writes_nothing(here, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(proxfactor.io, "read", interrupt)
    assert call(f"fit x.npy -k 2 --out {tmp_path / 'out'}") == 130
    assert capsys.readouterr().err == "Interrupted; nothing more was written.\n"
    assert not (tmp_path / "out").exists()


def test_a_terminal_shows_a_live_bar_with_the_time_left(here, tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 110))
    command = f"fit hard.npy -k 2 --max-iter 5 --tol 1e-9 --out {tmp_path / 'run'}"
    with subprocess.Popen(
        [sys.executable, "-m", "proxfactor", *shlex.split(command)],
        stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm-256color"},
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says so when the other side has gone
            while piece := os.read(ours, 4096):
                shown += piece
        out = process.communicate()[0].decode()
    os.close(ours)
    for word in ("iteration 5", "loss ", "certificate ", "━", "about 0 s left"):
        assert word in shown.decode()
    assert "relative error" in out
    assert "\x1b" not in out


def test_the_time_left_follows_the_fall_of_the_certificate():
    assert expected_end([(1, 0.5)], 1e-5, 100) == 100
    assert expected_end([(1, 1e-1), (11, 1e-2)], 1e-3, 100) == 21
    assert expected_end([(1, 1e-1), (11, 1e-1)], 1e-3, 100) == expected_end([(1, 0.1), (2, float("nan"))], 1e-3, 100) == 100
    assert [clock(s) for s in (0.2, 59.4, 61)] == ["0 s", "59 s", "1:01 min"]


# ── what is wrong, in one sentence ────────────────────────────────────────────────────────────────────────────────────

REFUSED = {
    "fit missing.npy -k 2": "missing.npy does not exist; did you mean",
    "fit fake.parquet -k 2": "fake.parquet: is named .parquet and does not begin like one",
    "fit foreign -k 2": "foreign is a folder; name one file in it",
    "fit empty.csv -k 2": "empty.csv: is empty; a matrix in parquet",
    "fit head.csv -k 2": "head.csv: has 0 rows and 4 columns; there is nothing to factor",
    "fit none.npy -k 2": "none.npy: has 0 rows and 4 columns",
    "fit text.csv -k 2": "column 'b' holds text, such as 'hello', not numbers; drop it",
    "fit text.npy -k 2": "text.npy: holds text; a matrix of real numbers is needed",
    "fit objects.npy -k 2": "pickle",
    "fit infinite.npy -k 2": "holds an infinite value in row",
    "fit huge.npy -k 2": "of 1000000 x 1000000 needs 7450.6 GiB",
    "fit nan.npy -k 2 --missing none": "missing='nan'",
    "fit x.npy -k 2 --layout long": "layout='long' is for tables",
    "fit wide.csv -k 2 --layout user,item,stars": "has no column 'user'; layout must name three of",
    "fit negative.npy -k 2 --loss kl": "KL needs data that is not negative",
    "fit x.npy -k 2 --weight minus.npy": "weight holds -1; weights are finite and not negative",
    "fit x.npy -k 2 --weight nan.npy": "--weight nan.npy holds NaN; a weight is a number of at least 0",
    "fit x.npy -k 2 --weight infinite.npy": "infinite.npy: holds an infinite value",
    "fit x.npy -k 2 --weight small.npy": "weight has shape (3, 3), X has (14, 9)",
    "fit x.npy -k 2 --weight nowhere.npy": "nowhere.npy does not exist",
    "fit x.parquet -k 2 --weight text.csv": "column 'b' holds text",
    "fit long.csv -k 2 --weight x.parquet": "--weight x.parquet has other row names than the data, or another order",
    "fit x.npy": "the number of components is missing; give --rank, e.g. --rank 10",
    "fit x.npy -k 0": "rank is 0; it is the number of components, a whole number of at least 1",
    "fit x.npy --rank -3": "rank is -3",
    "fit x.npy --rank many": "Invalid value for --rank: many is no whole number. See proxfactor fit --help.",
    "fit x.npy --rank 2.5": "Invalid value for --rank: 2.5 is no whole number",
    "fit x.npy --rank 10000000000": "smaller rank",
    "fit x.npy -k 2 --W nonnegativ": "unknown prox 'nonnegativ'; did you mean NonNegative",
    "fit x.npy -k 2 --H simplex": "missing a required argument: 'dim'; it takes (dim, total)",
    "fit x.npy -k 2 --W 'simplex(dim=3)'": "dim is 3, it must be 0",
    "fit x.npy -k 2 --W 'nonneg + unity(dim=0)'": "no exact rule is known",
    "fit x.npy -k 2 --W \"__import__('os')\"": "unknown prox '__import__'",
    "fit x.npy -k 2 --loss klb": "unknown loss 'klb'; did you mean KL?",
    "fit x.npy -k 2 --solver hal": "unknown solver 'hal'; did you mean HALS",
    "fit x.npy -k 2 --solver hals --W 'simplex(dim=1)'": "Simplex(dim=1) on W couples them; use solver='apg'",
    "fit x.npy -k 2 --init rnadom": "--init 'rnadom' is no start and no run folder; did you mean random?",
    "fit x.npy -k 2 --init no/run": "spa, vca, kmeans++ or the folder that a fit wrote",
    "fit x.npy --init foreign": "foreign: there is no run.json",
    "fit narrow.npy --init bare": "init: H has shape (3, 9); for this data and rank 3 it must be (3, 4)",
    "fit x.npy --init bare --W 'box(50, 60)'": "outside Box(50, 60); start inside",
    "fit x.npy -k 2 --tol 0": "tol is 0.0",
    "fit x.npy -k 2 --tol small": "Invalid value for --tol",
    "fit x.npy -k 2 --max-iter 0": "max_iter is 0; it must be a whole number of at least 1",
    "fit x.npy -k 2 --seed -1": "seed is -1",
    "fit x.npy -k 2 --mising nan": "Unknown option: --mising. Did you mean --missing?",
    "fit x.npy -k 2 --missing null": 'Invalid value "null" for --missing. Choose from: "nan", "zeros", "none"',
    "fit x.npy y.npy -k 2": "Unused Tokens: ['y.npy']",
    "fit": "requires an argument",
    "fit x.npy -k 2 --image 2x2": "an image of 2 x 2 has 4 pixels, and the data has 9 columns and 14 rows; give --image",
    "fit x.npy -k 2 --image square": "--image 'square' must be HEIGHTxWIDTH, e.g. 28x28",
    "fit x.npy -k 2 --out file": "file is a file, and a folder will be written; choose another name",
    "fit x.npy -k 2 --out file/run": "file is a file; choose another folder",
    "fit x.npy -k 2 --out foreign": "foreign holds other things than a run, and would be replaced",
    "fit x.npy -k 2 --tensor a": "--tensor 'a' must be NAME=FILE.npy, for a constraint that says $NAME",
    "fit x.npy -k 2 --tensor a=nowhere.npy": "nowhere.npy does not exist; check the spelling",
    "fit x.npy -k 2 --tensor a=file": "file is no npy file of numbers; write the array with numpy.save",
    "fit x.npy -k 2 --tensor a=text.npy": "text.npy is no npy file of numbers",
    "fit x.npy -k 2 --tensor a=objects.npy": "objects.npy is no npy file of numbers",
    "fit x.npy -k 2 --W 'l1($a)'": "asks for the tensor $a; given: none were given",
    "fit x.npy -k 2 --W 'l1($a)' --tensor a=small.npy": "has shape (3, 3), which does not fit W of shape (14, 2)",
    "transform bare nowhere.npy": "nowhere.npy does not exist",
    "transform nowhere x.npy": "nowhere does not exist; give the folder",
    "transform bare narrow.npy": "X has 4 columns, the fit had 9; give the same columns",
    "transform bare x.npy --out w.txt": "w.txt: a table is written as .parquet, .csv or .tsv",
    "predict named --rows 'row 99'": "there is no row 'row 99'; ",
    "predict named --cols 'col 0' 5": "there is no column '5'; ",
    "predict bare --rows 14": "there is no row '14'; they are numbered 0 to 13",
    "predict bare --cols -1": "there is no column '-1'; they are numbered 0 to 8",
    "predict bare --cols": "--rows and --cols need at least one name; leave them out for all",
    "predict bare --rows null": "there is no row 'null'",
    "predict file": "file is a file; give the folder",
    "predict foreign": "there is no run.json, so it is no whole run folder",
    "report foreign": "there is no run.json, so it is no whole run folder",
    "report bare --image 2x2": "an image of 2 x 2 pixels for 14 rows and 9 columns",
    "report bare --out foreign": "foreign is a folder; name a file in it",
    "factor x.npy": 'Unknown command "factor". Available commands: fit, transform',
    "operators nonneg": "Unused Tokens: ['nonneg']",
}


@pytest.mark.parametrize("command", REFUSED)
def test_bad_input_ends_in_one_sentence_and_nothing_is_written(command, here, tmp_path, capsys):
    before = {file: file.stat().st_mtime_ns for file in here.rglob("*")}
    assert call(f"{command} --out {tmp_path / 'out'}" if command.startswith("fit ") and "--out" not in command else command) == 2
    out, err = capsys.readouterr()
    *warned, said = err.splitlines()
    assert said.startswith("error: ")
    assert REFUSED[command] in said
    assert out == ""
    assert all(line.startswith("warning: ") for line in warned)
    assert not (tmp_path / "out").exists()
    assert {file: file.stat().st_mtime_ns for file in here.rglob("*")} == before


@pytest.mark.parametrize("broken", ["run.json", "model.safetensors", "history.csv", "W.parquet", "H.parquet"])
@pytest.mark.parametrize("how", ["cut short", "gone"])
def test_a_damaged_run_is_refused_by_the_name_of_the_file(broken, how, here, tmp_path, capsys):
    run = shutil.copytree("named", tmp_path / "run")
    if how == "gone":
        (run / broken).unlink()
    else:
        os.truncate(run / broken, (run / broken).stat().st_size // 2)
    for command in ("report RUN --out RUN/r.html", "transform RUN x.parquet", "predict RUN", "fit x.parquet --init RUN"):
        assert call(command.replace("RUN", str(run))) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {run}: ")
        assert broken in err
        assert "save the run again" in err
        assert err.count("\n") == 1
    assert not (run / "r.html").exists()


def test_a_real_process_ends_with_the_sentence_alone(here, tmp_path):
    done = shell(f"fit text.csv -k 2 --out {tmp_path / 'out'}")
    assert done.returncode == 2
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()
    assert done.stderr.startswith("error: text.csv: column 'b' holds text, such as 'hello', not numbers; drop it")
    assert done.stderr.count("\n") == 1


# ── the rest ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_help_imports_neither_torch_nor_numpy():
    code = """import sys; from proxfactor.cli import main
try: main(sys.argv[1:])
except SystemExit as stop: assert not stop.code and not {'torch', 'numpy'} & sys.modules.keys(), 'heavy'"""
    for command in ("--help", "fit --help", "--version", ""):
        done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == proxfactor.__version__ if command == "--version" else "Usage: proxfactor" in done.stdout


def test_help_names_every_option_and_the_exit_codes(capsys):
    call("fit --help")
    out = capsys.readouterr().out
    for option in ("--rank", "--W", "--H", "--loss", "--weight", "--missing", "--tensor", "--init", "--out", "--quiet"):
        assert option in out
    assert "Exit codes: 0 done, 1 the fit did not converge but was saved, 2 bad input" in out


def test_the_report_can_be_written_elsewhere(here, tmp_path, capsys):
    assert call(f"report bare --out {tmp_path / 'r.html'} --image 3x3") == 0
    assert "<svg" in (tmp_path / "r.html").read_text("utf-8")
    assert "r.html" in capsys.readouterr().out


def test_the_table_of_operators_is_right_for_every_one(capsys):
    assert call("operators") == 0
    head, *lines = capsys.readouterr().out.rpartition("\n\n")[0].splitlines()
    starts = [head.index(name) for name in HEAD]
    lines = [line for line in lines if line and ": " not in line[: starts[2]]]
    rows = [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines]
    assert sorted(row[0] for row in rows) == sorted(kind.__name__ for kind in Prox.catalogue())
    told = {row[0]: row[1:] for row in rows}
    for p in (e.op for e in EXAMPLES):
        if not type(p).listed:
            continue
        _, formula, couples, metric, convex, exact, cost, words = told[type(p).__name__]
        assert couples in ({(): "none", None: "all", (-2, -1): "matrix"}.get(p.dims, "dim"), "as g", "varies")
        for said, true in ((metric, p.metric), (convex, "yes" if p.convex else "no"), (exact, "yes" if p.exact else "no")):
            assert said in (true, "as g", "varies")
        assert formula
        assert cost
        assert words
    assert told["Transposed"][2:6] == ["as g"] * 4


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_of_operators_fits_the_terminal(width, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    assert call("operators") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width


def test_a_reader_that_has_had_enough_is_no_error(here):
    command = f"{sys.executable} -m proxfactor predict bare | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("row,0,1")


def test_the_demo_tells_how_well_both_tables_were_fitted(tmp_path):
    done = shell("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    digits, ratings = done.stdout.split("\nratings: ")
    for text, size in ((digits, "1797 x 64, rank 16"), (ratings, "300 x 200, rank 4")):
        for word in ("Converged after", size, "loss, constraints", "iterations", " s\n", "relative error", "certificate"):
            assert word in text
    assert 0 < float(ratings.split("hidden cells        relative error ")[1].split()[0]) < 0.2
    for name in ("digits", "ratings"):
        assert load(tmp_path / "demo" / name).converged
        assert (tmp_path / "demo" / name / "report.html").exists()


# ── choosing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_scan_prints_the_sentence_and_saves_fits_table_and_plot(here, tmp_path, capsys):
    command = f"scan wide.csv --W nonneg --H nonneg --restarts 2 --max-iter 20 --method all --out {tmp_path / 'scan'}"
    assert call(f"{command} --ranks 2:3") == 0
    out, err = capsys.readouterr()
    assert "Rank " in out
    assert "silhouette" in out
    assert "fit   4 of 4" in err
    saved = pd.read_csv(tmp_path / "scan" / "scan.csv")
    assert list(saved["rank"]) == [2, 3]
    assert (tmp_path / "scan" / "scan.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "scan").glob("fit-rank-*.safetensors"))) == 4

    assert call(f"{command} --ranks 2,3 --quiet") == 0  # goes on: nothing is left to do
    assert capsys.readouterr() == ("", "")
    assert call(f"{command} --ranks 2 --seed 1") == 2
    assert "seed was 0, is 1" in capsys.readouterr().err


def test_control_c_ends_a_scan_with_what_there_is_and_it_can_go_on(here, tmp_path, capsys, monkeypatch):
    from proxfactor.selection import work

    def fit(plan, job, real=work.Plan.fit):
        if job.rank == 3:
            raise KeyboardInterrupt
        return real(plan, job)

    command = f"scan x.npy --ranks 1:3 --restarts 1 --max-iter 5 --out {tmp_path / 'scan'}"
    with monkeypatch.context() as patch:
        patch.setattr(work.Plan, "fit", fit)
        assert call(command) == 130
    assert "Interrupted: 2 of 3 fits were finished." in capsys.readouterr().out
    assert call(command) == 0
    assert capsys.readouterr().err.startswith("fit   3 of 3")


def test_advice_prints_the_sentence_and_saves_table_and_plot(here, tmp_path, capsys):
    assert call(f"advise x.npy --max-rank 2 --max-fits 8 --restarts 2 --losses frobenius --out {tmp_path / 'advice'}") == 0
    out, err = capsys.readouterr()
    assert "of hidden cells" in out
    assert "fit   1 of 8" in err
    assert {"model", "rank", "error", "se"} <= set(pd.read_csv(tmp_path / "advice" / "advice.csv").columns)
    assert (tmp_path / "advice" / "advice.png").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("scan x.npy --ranks 2:x", "--ranks '2:x' must be FIRST:LAST"),
        ("scan x.npy --ranks 1:2:3:4", "must be FIRST:LAST"),
        ("scan x.npy --ranks 5:2", "ranks is empty"),
        ("scan x.npy --ranks 1:99", "9 components are all there can be"),
        ("scan nothing.npy", "nothing.npy"),
        ("scan x.npy --out foreign", "other things"),
        ("scan x.npy --fraction 0.9", "at most 0.5"),
        ("advise x.npy --losses nonsense", "unknown loss"),
        ("advise negative.npy --yardstick kl", "not negative"),
    ],
)  # fmt: skip
def test_bad_input_to_a_choice_ends_in_one_sentence(command, said, here, capsys):
    assert call(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert (here / "foreign" / "thesis.txt").exists()
