"""The benchmark of recommenders measures what it says: its tables, its splits, its objective, its settings and its verdicts."""

import importlib
import sys
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

FOLDER = Path(__file__).parents[1] / "benchmarks" / "ratings"
MODULES = ("data", "systems", "measure", "jobs", "rows")


@pytest.fixture(scope="module")
def bench():
    """The modules of the benchmark, by name; nothing of it stays on the path."""
    sys.path.insert(0, str(FOLDER))
    before = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(before)


# ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_has_no_pair_twice_and_a_long_tail(bench):
    X = bench["data"].table("tiny")
    assert (X.shape, X.nnz, X.has_canonical_format) == ((300, 200), 6000, True)
    assert set(X.data) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert X[:30].nnz > 5 * X[-30:].nnz


def test_the_test_set_is_the_first_tenth_of_the_permutation(bench):
    cells = bench["data"].ratings("tiny")
    train, test = cells.split(3)
    first = np.sort(np.random.default_rng(3).permutation(6000)[:600])
    assert np.array_equal(test.user, cells.user[first])
    assert np.array_equal(test.value, cells.value[first])
    assert len(train) + len(test) == 6000


def test_a_fifth_of_every_user_is_held_out(bench):
    liked = bench["data"].ratings("tiny").liked()
    train, test = liked.split_users(0)
    owned, held = (np.bincount(c.user, minlength=liked.shape[0]) for c in (liked, test))
    assert owned.min() >= 5
    assert np.array_equal(held, owned // 5)
    pairs = [set(zip(c.user, c.item, strict=True)) for c in (train, test, liked)]
    assert pairs[0] | pairs[1] == pairs[2]
    assert not pairs[0] & pairs[1]


# ── what judges ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_objective_is_its_definition(bench, monkeypatch):
    X, r = bench["data"].table("tiny"), np.random.default_rng(0)
    U, V = (r.standard_normal((size, 3)) for size in X.shape)
    monkeypatch.setattr(bench["measure"], "CHUNK", 1000)
    alpha, reg, D, P = bench["systems"].ALPHA, bench["systems"].REG, X.toarray(), U @ V.T
    cells = np.where(D > 0, alpha * D * (1 - P) ** 2, P**2).sum()
    assert bench["measure"].objective(X, U, V) == pytest.approx((cells + reg * ((U**2).sum() + (V**2).sum())) / 2, rel=1e-12)


def test_the_single_half_width_is_the_best_there_is(bench):
    r = np.random.default_rng(0)
    cells = bench["data"].Cells(np.arange(200) % 20, np.arange(200) % 7, r.standard_normal(200), (20, 7))
    mean = np.zeros(200)
    found = bench["measure"].intervals(cells, cells, mean, np.ones(200))
    wide, y = np.linspace(0.5, 3, 2001), np.abs(cells.value)
    scores = [(2 * h + 20 * np.maximum(y - h, 0)).mean() for h in wide]
    assert found["single"] <= min(scores) + 1e-9
    assert found["single"] == pytest.approx(min(scores), rel=1e-3)
    assert found["score"] == pytest.approx((2 * 1.6448536 + 20 * np.maximum(y - 1.6448536, 0)).mean(), rel=1e-6)


def test_a_setting_is_chosen_on_a_part_of_the_training_set(bench):
    asked = []

    def run(train, test, setting, seed):
        asked.append((len(train), len(test)))
        return np.clip(test.value + setting["off"], 1, 5)

    system = bench["systems"].System("made up", run, settings=({"off": 0.5}, {"off": 0.1}, {"off": 0.3}))
    found = bench["measure"].rating(bench["measure"].Job("rating", "made up", "tiny"), system)
    assert found["setting"] == {"off": 0.1}
    assert asked == [(4860, 540)] * 3 + [(5400, 600)]


def test_ease_is_the_regression_of_each_item_on_the_others(bench):
    X = bench["data"].ratings("tiny").liked()
    scores, D = bench["systems"].ease(X, {"reg": 30.0}, 0), X.csr().toarray()
    others = np.delete(D, 7, 1)
    weights = np.linalg.solve(others.T @ others + 30 * np.eye(others.shape[1]), others.T @ D[:, 7])
    assert np.allclose(scores[:, 7], others @ weights)


# ── jobs and verdicts ─────────────────────────────────────────────────────────────────────────────────────────────────


def made(bench, job, **numbers):
    return job.key, {"job": asdict(job), "machine": "here", "versions": {}, "when": "now"} | numbers


def test_every_claim_says_what_is_not_measured_and_is_judged_by_known_jobs(bench):
    rows, view = bench["rows"].rows(), bench["rows"].View({})
    known = {s.name for kind in ("RATING", "RANKING", "SWEEPS", "LISTS") for s in getattr(bench["systems"], kind)}
    assert len({row.name for row in rows}) == len(rows) == 10
    for row in rows:
        assert {words for _, words, _ in row.judge(view)} <= {"not measured"}
        assert {job.system for job in row.jobs} <= known
        assert {job.data for job in row.jobs} <= {*bench["data"].TABLES, "ml-100k"}


@pytest.mark.parametrize(("gap", "verdict"), [(-0.01, True), (-0.001, False)])
def test_a_difference_counts_if_it_is_two_standard_errors_below_zero(bench, gap, verdict):
    split, noise = bench["rows"].split, [0.004, -0.004] * 5
    ours = [made(bench, job, rmse=0.9 + gap + e) for job, e in zip(split("BayesianMF"), noise, strict=True)]
    theirs = [made(bench, job, rmse=0.9) for job in split("myFM")]
    row = next(row for row in bench["rows"].rows() if row.name == "paired")
    judged = {what: good for what, _, good in row.judge(bench["rows"].View(dict(ours + theirs)))}
    assert judged.pop("BayesianMF - myFM") == verdict
    assert set(judged.values()) == {None}


def test_the_time_to_an_objective_counts_whole_sweeps(bench):
    row = next(row for row in bench["rows"].rows() if row.name == "time")
    results = {}
    for job in row.jobs:
        each, values = (1.0, [9, 7, 5, 3, 2, 1]) if job.system == "ImplicitMF" else (4.0, [9, 8, 7, 6, 5, 4])
        results |= [made(bench, job, cpu=[each * (i + 2) for i in range(6)], objective=values)]
    (what, words, good), _ = row.judge(bench["rows"].View(results))
    assert (what, good) == ("k = 64", True)
    assert words.startswith("0.150 (3 sweeps : 5, to 5; with what fit does before, 0.167)")


def test_what_was_measured_is_not_measured_again_and_what_is_not_there_is_named(bench, tmp_path, monkeypatch):
    jobs, Job = bench["jobs"], bench["measure"].Job
    monkeypatch.setattr(jobs, "one", lambda job: {"job": asdict(job), **({"error": "it broke"} if job.seed else {"ndcg": 0.5})})
    monkeypatch.setattr(bench["systems"].System, "there", property(lambda system: system.name != "LIBMF"))
    monkeypatch.delenv("BENCH_RATINGS", raising=False)
    asked = [Job("rating", "EASE", "tiny"), Job("rating", "LIBMF", "tiny"), Job("rating", "myFM", "ml-100k")]
    said = []
    jobs.run(tmp_path, asked, said.append)
    assert [line.split(":")[0] for line in said] == [
        "LIBMF is not installed here", "MovieLens 100K is left out", "[1/1] rating EASE tiny 0 0 1 6"
    ]  # fmt: skip
    for _ in range(2):  # what has failed is tried again
        jobs.run(tmp_path, [*asked, Job("rating", "EASE", "tiny", 1)], said.append)
        assert said[-1] == "[1/1] rating EASE tiny 1 0 1 6: it broke"
    jobs.run(tmp_path, asked[:1], said.append, fresh=True)
    assert said[-1].startswith("[1/1] rating EASE tiny 0")
    assert len(jobs.load(tmp_path)) == 2


OURS = ("ExplicitMF", "BayesianMF", "ImplicitMF", "ImplicitMF exact", "Model", "EASE")


def test_the_short_form_measures_all_that_is_ours_and_reports(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench["jobs"], "one", lambda job: made(bench, job)[1] | bench["measure"].measure(job))
    ours = [job for job in bench["rows"].short() if job.seed == 0 and job.system in OURS]
    assert {job.system for job in ours} == set(OURS)
    said = []
    bench["jobs"].run(tmp_path, ours, said.append)
    results = bench["jobs"].load(tmp_path)
    assert len(results) == len(said) == len(ours)
    bench["rows"].write(tmp_path, results, Console(file=StringIO(), width=170))
    assert "not measured" in (tmp_path / "report.txt").read_text()


def test_a_measurement_runs_in_a_process_of_its_own_and_an_error_is_a_result(bench, monkeypatch):
    Job, one = bench["measure"].Job, bench["jobs"].one
    monkeypatch.delenv("BENCH_RATINGS", raising=False)
    found = one(Job("ranking", "EASE", "ml-100k"))
    assert (found["error"], found["job"]["system"]) == ("KeyError: 'BENCH_RATINGS'", "EASE")
