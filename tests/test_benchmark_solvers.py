"""The benchmark of solvers measures what it says: its yardstick, its starts, its clock, its counts and its verdicts."""

import importlib
import sys
from dataclasses import asdict
from io import StringIO
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from rich.console import Console
from scipy.special import kl_div

FOLDER = Path(__file__).parents[1] / "benchmarks" / "solvers"
MODULES = ("cases", "systems", "measure", "jobs", "rows", "report")


@pytest.fixture(scope="module")
def bench():
    """The modules of the benchmark, by name; nothing of it stays on the path."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)


def factors(data, seed=5):
    r = np.random.default_rng(seed)
    return r.random((data.X.shape[0], data.rank)), r.random((data.rank, data.X.shape[1]))


def watched(bench, name, case, loss="frobenius", most=5, own=False):
    """What a system shows in its first iterations on a small case."""
    data = bench["cases"].CASES[case].data(loss)
    watch = bench["measure"].Watch(limit=1e9, most=most)
    job = bench["measure"].Job("trace", case, loss, name)
    bench["measure"].watched(job, watch, data, data.X, None if own else data.start(0))
    return data, watch.seen


# ── cases ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", ["tiny", "tiny-sparse", "tiny-simplex"])
def test_the_yardstick_is_the_relative_error(bench, case):
    data = bench["cases"].CASES[case].data("frobenius")
    (W, H), X = factors(data), data.X.toarray() if sp.issparse(data.X) else data.X
    assert data.yardstick()(W, H) == pytest.approx(np.linalg.norm(X - W @ H) / np.linalg.norm(X), rel=1e-12)


def test_the_yardstick_leaves_out_what_is_missing(bench):
    data = bench["cases"].Data(bench["cases"].holes(30, 20, 3), 3, "frobenius")
    W, H = factors(data)
    seen = ~np.isnan(data.X)
    left, size = np.linalg.norm((data.X - W @ H)[seen]), np.linalg.norm(data.X[seen])
    assert 0.4 < seen.mean() < 0.6
    assert data.yardstick()(W, H) == pytest.approx(left / size, rel=1e-12)


@pytest.mark.parametrize(("case", "loss"), [("tiny", "frobenius"), ("tiny", "kl"), ("tiny-sparse", "frobenius"),
                                            ("tiny-sparse", "kl"), ("holes", "frobenius")])  # fmt: skip
def test_factors_that_are_no_numbers_are_infinitely_far(bench, case, loss):
    cases = bench["cases"]
    data = cases.Data(cases.holes(30, 20, 3), 3, loss) if case == "holes" else cases.CASES[case].data(loss)
    W, H = factors(data)
    assert data.yardstick()(W * np.nan, H) == np.inf
    W[0, 0] = np.nan
    assert data.yardstick()(W, H) == np.inf


def test_the_yardstick_does_not_cancel_where_little_is_left(bench):
    W, H = np.random.default_rng(0).random((30, 3)), np.random.default_rng(1).random((3, 20))
    data = bench["cases"].Data(W @ H, 3, "frobenius")
    assert data.yardstick()(W * (1 + 1e-9), H) == pytest.approx(1e-9, rel=1e-4)


@pytest.mark.parametrize("case", ["tiny", "tiny-sparse"])
def test_the_yardstick_of_kl_is_the_divergence(bench, case):
    data = bench["cases"].CASES[case].data("kl")
    (W, H), X = factors(data), data.X.toarray() if sp.issparse(data.X) else data.X
    assert (X == 0).any()
    assert data.yardstick()(W, H) == pytest.approx(kl_div(X, W @ H).sum(), rel=1e-12)
    assert data.yardstick()(0 * W, H) == np.inf


@pytest.mark.parametrize(("case", "loss"), [("tiny", "frobenius"), ("tiny", "kl"), ("tiny-sparse", "frobenius"),
                                            ("tiny-sparse", "kl"), ("tiny-simplex", "frobenius")])  # fmt: skip
def test_a_start_has_the_best_scale_and_its_seed_decides_it(bench, case, loss):
    data = bench["cases"].CASES[case].data(loss)
    (W, H), value = data.start(1), data.yardstick()
    assert all(np.array_equal(a, b) for a, b in zip(data.start(1), (W, H), strict=True))
    assert not np.array_equal(data.start(2)[0], W)
    assert value(W, H) < min(value(0.99 * W, H), value(1.01 * W, H))
    if case == "tiny":
        r = np.random.default_rng(101)
        drawn = np.abs(r.standard_normal(W.shape)), np.abs(r.standard_normal(H.shape))
        assert np.allclose(W / drawn[0], (H / drawn[1]).flat[0])
    if case == "tiny-simplex":
        assert np.allclose(H.sum(0), 1)


def test_a_start_with_holes_fits_what_is_seen(bench):
    data = bench["cases"].Data(bench["cases"].holes(30, 20, 3), 3, "frobenius")
    (W, H), value = data.start(0), data.yardstick()
    assert value(W, H) < min(value(0.99 * W, H), value(1.01 * W, H))


def test_counts_are_documents_of_about_71_words(bench):
    X = bench["cases"].counts(500, 200)
    assert X.has_canonical_format
    assert X.nnz < X.sum()  # a word may come twice
    assert X.sum(1).min() >= 1
    assert X.sum() / 500 == pytest.approx(71, rel=0.05)


def test_data_is_cast_to_one_dtype_with_short_indices(bench):
    X = bench["cases"].CASES["tiny-sparse"].data("kl").cast("f32")
    assert (X.dtype, X.indices.dtype, X.indptr.dtype) == (np.float32, np.int32, np.int32)


# ── the clock ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def hours(bench, monkeypatch):
    """A clock that moves by hand."""
    at = SimpleNamespace(now=0.0)
    clock = SimpleNamespace(process_time=lambda: at.now, perf_counter=lambda: 2 * at.now)
    monkeypatch.setattr(bench["measure"], "time", clock)
    return at


def test_the_clock_stands_still_while_factors_are_copied(bench, hours):
    watch = bench["measure"].Watch(limit=100.0)
    watch.copy = lambda *args: setattr(hours, "now", hours.now + 50)
    watch.go()
    for _ in range(3):
        hours.now += 1.0
        watch(None, None)
    assert (watch.cpu, watch.wall, watch.count) == (3.0, 6.0, 3)


def test_a_run_with_threads_ends_by_the_wall(bench, hours):
    for threads, iterations in ((1, 10), (2, 5)):
        watch = bench["measure"].Watch(limit=10.0, threads=threads)
        watch.go()
        for _ in range(iterations - 1):
            hours.now += 1.0
            watch(np.zeros(1), np.zeros(1))
        hours.now += 1.0
        with pytest.raises(bench["measure"].Done):
            watch(np.zeros(1), np.zeros(1))


def test_what_was_seen_is_a_copy_and_gets_sparser(bench, hours):
    watch, W = bench["measure"].Watch(limit=1e9), np.zeros((2, 2))
    watch.go()
    for _ in range(400):
        watch(W, W)
        W += 1
    counts = [row[0] for row in watch.seen]
    assert counts[:50] == list(range(1, 51))
    assert len(counts) < 130
    assert all(b <= 1.03 * a + 1 for a, b in pairwise(counts))
    assert [row[4][0, 0] for row in watch.seen] == [c - 1 for c in counts]


def test_the_floor_is_two_products_whatever_the_data(bench):
    for case in ("tiny", "tiny-sparse"):
        X = bench["cases"].CASES[case].data("frobenius").cast("f32")
        for product in bench["measure"].floor(X, 4)():
            assert sorted(product.shape)[0] == 4


# ── systems ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("solver", "case", "loss"), [("cd", "tiny", "frobenius"), ("cd", "tiny-sparse", "frobenius"),
                                                      ("mu", "tiny", "kl"), ("mu", "tiny-sparse", "kl")])  # fmt: skip
def test_scikit_learn_is_watched_where_its_iterations_end(bench, solver, case, loss):
    from sklearn.decomposition import NMF, _nmf

    before = dict(vars(_nmf))
    data, seen = watched(bench, f"scikit-learn-{solver}", case, loss, most=4)
    assert dict(vars(_nmf)) == before
    beta = {"frobenius": "frobenius", "kl": "kullback-leibler"}[loss]
    model = NMF(data.rank, init="custom", solver=solver, beta_loss=beta, tol=0, max_iter=4)
    W = model.fit_transform(data.X, W=data.start(0)[0], H=data.start(0)[1])
    assert [row[0] for row in seen] == [1, 2, 3, 4]
    assert np.allclose(seen[-1][4], W, rtol=1e-12)
    assert np.allclose(seen[-1][5], model.components_, rtol=1e-12)


@pytest.mark.parametrize(("case", "loss"), [("tiny", "frobenius"), ("tiny-sparse", "kl"), ("tiny-simplex", "frobenius")])
def test_ours_is_watched_through_the_callback(bench, case, loss):
    data, seen = watched(bench, "proxfactor", case, loss, most=8)
    value = data.yardstick()
    values = [value(*data.start(0)), *(value(*row[4:]) for row in seen)]
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(values))
    assert values[-1] < 0.9 * values[0]
    assert all(row[3] >= 2 for row in seen)


@pytest.mark.parametrize("name", ["proxfactor", "scikit-learn-cd", "scikit-learn-mu"])
def test_a_start_of_its_own_is_the_first_thing_seen(bench, name):
    data, seen = watched(bench, name, "tiny", most=2, own=True)
    assert seen[0][0] == 0
    assert data.yardstick()(*seen[1][4:]) < data.yardstick()(*seen[0][4:])


def test_a_system_may_be_ours_with_a_solver(bench):
    _, seen = watched(bench, "proxfactor:hals(inner=1)", "tiny", most=2)
    _, other = watched(bench, "proxfactor:hals(inner=5)", "tiny", most=2)
    assert not np.allclose(seen[-1][4], other[-1][4])


# ── jobs and verdicts ─────────────────────────────────────────────────────────────────────────────────────────────────


def result(bench, values, system="proxfactor", start=0, dtype="f64", limit=9.0):
    """A made-up trace: an iteration a second."""
    job = bench["measure"].Job("trace", "dense", "frobenius", system, dtype, 1, start, limit)
    rows = [[i, float(i), 2.0 * i, 2 * i, v] for i, v in enumerate(values)]
    return job, {"job": asdict(job), "rows": rows, "iterations": len(rows) - 1, "cpu": 1.0, "wall": 2.0,
                 "machine": "here", "versions": {}, "when": "now"}  # fmt: skip


def test_a_value_is_reached_at_the_first_look_within_a_share_of_the_best_of_all(bench):
    job, ours = result(bench, [1.0, 0.5, 0.1005, 0.1])
    other, theirs = result(bench, [1.0, 0.9, 0.3, 0.2], system="scikit-learn-cd", dtype="f32")
    view = bench["rows"].View({job.key: ours, other.key: theirs})
    assert view.best(other) == 0.1
    reached = view.reach(job, 1e-2)
    assert (reached.iterations, reached.passes, reached.seconds) == (2, 4, 2.0)
    never = view.reach(other, 1e-2)
    assert never.never
    assert never.seconds == 9.0
    assert view.faster([job], [other], 1e-2) == ("9 s, never : 2 s", 4.5)


def test_every_claim_says_what_is_not_measured_and_is_judged_by_known_jobs(bench):
    view = bench["rows"].View({})
    names = [row.name for row in bench["rows"].rows()]
    assert len(set(names)) == len(names) == 15
    for row in bench["rows"].rows():
        assert {judged[1] for judged in row.judge(view)} <= {"not measured"}
        for job in row.jobs:
            assert not job.case or job.case in bench["cases"].CASES
            assert not job.system or bench["systems"].system(job.system)


def test_passes_are_judged_against_the_bar(bench):
    row = next(row for row in bench["rows"].rows() if row.name == "passes")
    for values, verdict in (([1.0, 0.5, 0.1], True), ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.1], False)):
        job, found = result(bench, values)
        judged = {what: (words, good) for what, words, good in row.judge(bench["rows"].View({job.key: found}))}
        assert judged["f64 proxfactor"] == (str(2 * (len(values) - 1)), verdict)


def test_what_was_measured_is_not_measured_again(bench, tmp_path, monkeypatch):
    jobs, Job = bench["jobs"], bench["measure"].Job
    asked = []

    def one(job):
        asked.append(job)
        return {"job": asdict(job), "error": "it broke"}

    monkeypatch.setattr(jobs, "one", one)
    first, second = (Job("trace", "tiny", "frobenius", "proxfactor", start=s, limit=1.0) for s in (0, 1))
    said = []
    jobs.run(tmp_path, [first], said.append)
    jobs.run(tmp_path, [first, second], said.append)
    assert asked == [first, second]
    assert "it broke" in said[0]
    longer = Job(**asdict(first) | {"limit": 2.0})
    jobs.run(tmp_path, [longer, second], said.append)
    jobs.run(tmp_path, [first, second], said.append)
    assert asked == [first, second, longer]
    jobs.run(tmp_path, [second], said.append, fresh=True)
    assert asked[-1] == second
    assert len(jobs.load(tmp_path)) == 2


def test_a_peer_that_is_not_there_is_named(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench["systems"].System, "there", False)
    said = []
    bench["jobs"].run(tmp_path, [bench["measure"].Job("trace", "tiny", "frobenius", "torchnmf")], said.append)
    assert said == ["torchnmf is not installed here: left out"]


def test_a_measurement_in_a_process_of_its_own_and_its_report(bench, tmp_path):
    Job, jobs = bench["measure"].Job, bench["jobs"]
    good = Job("trace", "tiny", "frobenius", "scikit-learn-cd", limit=0.0)  # one iteration
    bad = Job("nothing", "dense", "kl", "torchnmf")
    found = jobs.one(good)
    assert [row[0] for row in found["rows"]] == [0, 1]
    assert found["limit_certificate"] <= 1e-8
    assert found["limit_value"] < found["rows"][1][4] < found["rows"][0][4]
    broken = jobs.one(bad)
    assert broken["error"] == "KeyError: 'nothing'"
    job, made = result(bench, [1.0, 0.5, 0.1])
    failed = Job("trace", "dense", "kl", "torchnmf")
    results = {good.key: found, job.key: made, failed.key: broken | {"job": asdict(failed)}}
    bench["report"].write(tmp_path, results, bench["rows"].rows(), Console(file=StringIO(), width=170))
    text = (tmp_path / "report.txt").read_text()
    assert "KeyError" in text
    assert "2 / 4 / 2" in text
    assert (tmp_path / "dense-frobenius.png").exists()
