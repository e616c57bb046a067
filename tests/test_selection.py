"""Choosing: cells are hidden fairly, planted ranks are found, noise is called noise, and a scan can be stopped and gone on with."""

import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.sparse
import torch

from proxfactor import Observed, Problem, Sparse, advise, as_matrix, datasets, metrics, rank_scan
from proxfactor.losses import KL, Frobenius
from proxfactor.selection import work
from proxfactor.selection.holdout import hold_out, margins
from proxfactor.selection.scan import one_se

r = np.random.default_rng(0)
NONNEG = {"W": "nonneg", "H": "nonneg"}
PLANTED = datasets.planted(30, 25, 3, noise=0.15)[0]
COUNTS = r.poisson(120 * r.dirichlet(np.full(3, 0.3), 30) @ r.dirichlet(np.full(25, 0.3), 3)).astype(float)
HOLES = datasets.planted(40, 25, 3, noise=0.1, missing=0.3, zeros=0.3)[0]
NOISE = r.random((30, 25))


def cells(X):
    """The stored cells of a Matrix as {(row, column): (value, weight)}."""
    rows = X.along(torch.arange(X.shape[0]), 0).reshape(-1).tolist()
    cols = X.along(torch.arange(X.shape[1]), 1).reshape(-1).tolist()
    w = torch.ones_like(X.entries()) if X.weight is None else X.weight
    return {(i, j): (x, v) for i, j, x, v in zip(rows, cols, X.entries().reshape(-1).tolist(), w.reshape(-1).tolist(), strict=True)}


# ── hidden cells ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_cell_is_hidden_or_seen_and_keeps_its_value_and_weight():
    weight = r.uniform(0.5, 2, PLANTED.shape)
    parts = hold_out(as_matrix(PLANTED, weight), 0.2)
    hidden, seen = cells(parts.hidden), {at: cell for at, cell in cells(parts.seen).items() if cell[1] > 0}
    assert not hidden.keys() & seen.keys()
    assert len(hidden | seen) == PLANTED.size
    for (i, j), (x, w) in (hidden | seen).items():
        assert (x, w) == (PLANTED[i, j], weight[i, j])
    assert len(hidden) == pytest.approx(0.2 * PLANTED.size, rel=0.25)


def test_the_turns_hide_each_cell_once():
    X = as_matrix(r.random((40, 40)))
    turns = [cells(hold_out(X, 0.2, turn).hidden).keys() for turn in range(5)]
    assert sum(map(len, turns)) == len(set().union(*turns)) == 1600


def test_the_layout_does_not_decide_which_cells_are_hidden():
    few = np.where(r.random(HOLES.shape) < 0.3, np.nan, HOLES)
    dense, observed = (hold_out(X, 0.2, 1, seed=3).hidden for X in (as_matrix(HOLES), Observed(HOLES)))
    assert cells(dense) == cells(observed)
    assert cells(hold_out(Observed(few), 0.2).hidden).keys() != cells(hold_out(Observed(few), 0.2, seed=1).hidden).keys()


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_each_row_and_column_keeps_half_of_its_data(fraction):
    few = np.where(r.random((60, 8)) < 0.7, np.nan, 1.0)
    parts = hold_out(Observed(few), fraction)
    kept = np.isfinite(few).astype(int)
    for i, j in cells(parts.hidden):
        kept[i, j] = 0
    for dim in (0, 1):
        assert (2 * kept.sum(dim) >= np.isfinite(few).sum(dim)).all()


def test_what_is_hidden_cannot_touch_the_fit():
    other = PLANTED.copy()
    for i, j in cells(hold_out(as_matrix(PLANTED), 0.2).hidden):
        other[i, j] = 1e6
    seen, same = (hold_out(as_matrix(X), 0.2).seen for X in (PLANTED, other))
    assert torch.equal(seen.entries(), same.entries())


@pytest.mark.parametrize("loss", [Frobenius(), KL()])
def test_hidden_zeros_of_sparse_data_leave_the_objective_of_the_others(loss):
    X = Sparse(np.where(r.random((30, 20)) < 0.3, r.integers(1, 5, (30, 20)), 0))
    parts = hold_out(X, 0.3)
    dense, weight = X._csr(X.values).to_dense(), np.ones(X.shape)
    for (i, j), (x, w) in cells(parts.hidden).items():
        assert (x, w) == (dense[i, j].item(), 1)
        weight[i, j] = 0
    assert 0 < sum(x == 0 for x, _ in cells(parts.hidden).values()) < 0.5 * (dense == 0).sum()
    A, B = torch.rand(30, 2, dtype=torch.float64), torch.rand(20, 2, dtype=torch.float64)
    truth = Problem(as_matrix(dense, weight), loss).row_losses(A, B)
    assert torch.allclose(Problem(parts.seen, loss).row_losses(A, B), truth, rtol=1e-10)


def test_where_zeros_are_too_many_fewer_are_hidden_and_weigh_more():
    X = Sparse(scipy.sparse.random_array((3000, 2000), density=0.0005, rng=r))
    parts = hold_out(X, 0.2)
    weights = [w for x, w in cells(parts.hidden).values() if x == 0]
    stored, zeros = X.entries().numel(), 3000 * 2000 - X.entries().numel()
    p = (len(cells(parts.hidden)) - len(weights)) / stored
    assert len(weights) == 10_000
    assert sum(weights) == pytest.approx(p * zeros)
    assert parts.seen.background * (zeros - len(weights)) == pytest.approx((1 - p) * zeros)


def test_one_mean_for_all_leaves_everything_unexplained_and_the_truth_nothing():
    X, W, H = datasets.planted(20, 15, 2)
    parts = hold_out(as_matrix(X), 0.3)
    mean = torch.full((20, 1), margins(parts.seen)[2]), torch.ones(1, 15)
    for loss in (Frobenius(), KL()):
        assert parts.loss(loss, *mean) == pytest.approx(1, rel=0.03)
    assert parts.loss(Frobenius(), torch.tensor(W), torch.tensor(H)) == pytest.approx(0, abs=1e-20)
    assert 1 < parts.loss(KL(), torch.zeros(20, 1), torch.zeros(1, 15)) < math.inf
    assert parts.loss(Frobenius(), 1e9 * mean[0], mean[1]) < 1e3  # no prediction leaves the range of what is seen


def test_margins_are_means_drawn_to_the_mean_of_all_by_one_cell():
    row, col, mean = margins(Sparse(COUNTS))
    assert mean == pytest.approx(COUNTS.mean())
    assert np.allclose(row, (COUNTS.sum(1) + mean) / 26)
    assert np.allclose(col, (COUNTS.sum(0) + mean) / 31)


# ── the rule and the measures ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_rule_compares_the_errors_turn_by_turn():
    noisy = {1: {0: 1.0, 1: 2.0}, 2: {0: 0.5, 1: 1.5}, 3: {0: 0.4, 1: 1.49}}  # excess of 2: 0.1 and 0.01
    best, excess = one_se(noisy)
    assert best == 3  # the turns differ by 1, the ranks in the same way in both of them
    assert excess[2] == (pytest.approx(0.055), pytest.approx(0.045))
    assert one_se({1: {0: 1.0, 1: 1.0}, 2: {0: 0.1, 1: 0.2}, 3: {0: 0.2, 1: 0.09}})[0] == 2
    wild = {1: {0: 1.0, 1: 1.0}, 2: {0: 0.1, 1: 0.9}, 3: {0: 0.1, 1: 0.11}}
    assert one_se(wild)[0] == 3  # rank 2 gains nothing from a fit that went wrong
    assert one_se({1: {0: 1.0}, 2: {0: 1e-6}, 3: {0: 1e-9}})[0] == 2


def test_stability_is_one_for_the_same_components_in_another_order_and_scale():
    W, H = r.random((20, 4)), r.random((4, 15))
    fits = [(W[:, p] * s, (H[p].T / s).T) for p, s in ((r.permutation(4), r.uniform(0.1, 10, 4)) for _ in range(5))]
    assert np.allclose(metrics.stability(fits), 1)


def test_stability_falls_where_components_are_not_found_again():
    W, H = r.random((20, 3)), r.random((3, 15))
    fits = [(np.column_stack([W, r.standard_normal(20)]), np.vstack([H, r.standard_normal(15)])) for _ in range(5)]
    assert np.sort(metrics.stability(fits))[0] < 0.3
    assert metrics.stability([(W[:, :1], H[:1]), (-W[:, :1], -H[:1])])[0] == pytest.approx(1)


def test_consensus_counts_how_often_rows_stay_together():
    labels = r.integers(0, 3, (6, 12))
    C = metrics.consensus([(np.eye(3)[row], np.eye(3)) for row in labels])
    assert np.allclose(C, np.mean([row[:, None] == row for row in labels], axis=0))
    assert metrics.dispersion(C) == pytest.approx(4 * np.mean((C - 0.5) ** 2))
    assert metrics.cophenetic(C) < 0.95
    assert metrics.cophenetic(metrics.consensus([(np.eye(3)[labels[0]], np.eye(3))])) == pytest.approx(1)


# ── rank_scan ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("X", "options"),
    [
        (datasets.planted(30, 25, 3)[0], NONNEG),
        (PLANTED, NONNEG),
        (HOLES, NONNEG),
        (COUNTS, NONNEG | {"loss": "kl", "max_iter": 30}),
        (scipy.sparse.csr_array(COUNTS), NONNEG | {"loss": "kl", "max_iter": 30}),
        (PLANTED, {"method": "holdout"}),
    ],
    ids=["clean", "noisy", "with holes", "counts", "sparse", "unconstrained"],
)  # fmt: skip
def test_the_planted_rank_is_found_by_hidden_cells_and_by_stability(X, options):
    found = rank_scan(X, [2, 3, 4], restarts=3, **{"method": "all", "max_iter": 100} | options)
    assert found.best == 3, found
    assert found.sentence.startswith("Rank 3:")
    if "stability" in found.methods:
        assert [row["rank"] for row in found.table if row["weakest"] >= 0.75] == [2, 3], found
        assert "All components of rank 3 and of no larger one are found again in every fit" in found.sentence


@pytest.mark.parametrize("X", [PLANTED, HOLES], ids=["noisy", "with holes"])
def test_ard_leaves_the_planted_components_of_more(X):
    found = rank_scan(X, [2, 3, 6], restarts=2, method="ard", **NONNEG)
    assert found.best == 3
    assert found.sentence.startswith("ARD leaves 3 of 6 components.")
    both = rank_scan(X, [2, 3, 6], restarts=2, method=["holdout", "ard"], **NONNEG)
    assert both.sentence.startswith("Rank 3")
    assert "ARD leaves 3" in both.sentence


def test_ard_refuses_losses_without_a_noise():
    with pytest.raises(ValueError, match="squared error and KL"):
        rank_scan(np.abs(PLANTED) + 1, [2], loss="itakura", method="ard", **NONNEG)


def test_in_noise_no_rank_beats_the_mean():
    found = rank_scan(NOISE, [1, 2, 4], restarts=3, method="all", max_iter=60, **NONNEG)
    assert found.best == 1
    assert "there is nothing here to factor" in found.sentence
    assert found.table[-1]["error"] > 1.1


def alike(one, other):
    """Tables that differ by rounding alone: a process takes compiled kernels once it has them."""
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=1e-7, nan_ok=True)


def test_a_scan_is_the_same_whatever_the_number_of_workers(tmp_path):
    here, there = (rank_scan(PLANTED, [2, 3], restarts=2, workers=workers, method="all", **NONNEG) for workers in (1, 2))
    alike(here.table, there.table)
    assert here.sentence == there.sentence
    for a, b in zip(here.fits, there.fits, strict=True):
        torch.testing.assert_close(a.W, b.W, rtol=1e-6, atol=1e-6)


SCRIPT = """
    import os, sys
    from proxfactor import datasets, rank_scan

    def stop(progress):
        if progress.done == 3:
            {how}

    X = datasets.planted(30, 25, 3, noise=0.15)[0]
    print(rank_scan(X, [2, 3], W="nonneg", H="nonneg", restarts=3, out=sys.argv[1], callback=stop).sentence)
"""


@pytest.mark.parametrize("how", ["os._exit(9)", "os.kill(os.getpid(), 2)"], ids=["killed", "Ctrl-C"])
def test_what_is_finished_is_kept_and_the_scan_goes_on(how, tmp_path):
    folder = tmp_path / "scan"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT.format(how=how)), folder], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == (9 if "_exit" in how else 0), done.stderr
    assert how == "os._exit(9)" or "Interrupted: 3 of 6 fits were finished." in done.stdout
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("*.safetensors")}
    assert len(kept) == 3
    made = []
    found = rank_scan(PLANTED, [2, 3], restarts=3, out=folder, callback=lambda p: made.append(p.fit.job), **NONNEG)
    assert len(made) == 3
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    whole = rank_scan(PLANTED, [2, 3], restarts=3, **NONNEG)
    alike(found.table, whole.table)
    assert found.sentence == whole.sentence


def test_a_folder_takes_more_ranks_and_refuses_other_arguments(tmp_path):
    rank_scan(PLANTED, [1], restarts=2, out=tmp_path / "scan", **NONNEG)
    more = rank_scan(PLANTED, [1, 2], restarts=2, out=tmp_path / "scan", **NONNEG)
    assert [row["rank"] for row in more.table] == [1, 2]
    other_W = {"W": None}, r"W was NonNegative\(\), is Unconstrained\(\)"
    for options, said in (({"seed": 1}, "seed was 0, is 1"), ({"tol": 0.1}, "tol was 0.0001"), other_W):
        with pytest.raises(ValueError, match=said):
            rank_scan(PLANTED, [1], restarts=2, out=tmp_path / "scan", **NONNEG | options)
    with pytest.raises(ValueError, match="the data is another"):
        rank_scan(PLANTED + 1, [1], restarts=2, out=tmp_path / "scan", **NONNEG)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="other things"):
        rank_scan(PLANTED, [1], out=tmp_path / "other")


def test_every_fit_has_a_file_name_of_its_own_and_of_moderate_length():
    names = {work.Job(0, model, 2).name for model in ("x" * 300, "x" * 301, "KL, W Simplex(dim=1), H NonNegative()")}
    assert len(names) == 3
    assert max(map(len, names)) < 120
    assert "KL_W_Simplex_dim=1_H_NonNegative_-rank-2-turn-0" in names


def test_a_damaged_fit_is_named(tmp_path):
    rank_scan(PLANTED, [1], restarts=1, out=tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"rank-1-turn-0.safetensors is no fit of a scan"):
        rank_scan(PLANTED, [1], restarts=1, out=tmp_path)


def test_a_callback_stops_the_scan_and_keeps_what_there_is():
    found = rank_scan(PLANTED, [1, 2], restarts=2, callback=lambda progress: progress.done == 2, **NONNEG)
    assert not found.complete
    assert "Interrupted: 2 of 4 fits were finished." in found.sentence


def test_a_function_that_cannot_be_sent_to_other_processes_is_refused():
    with pytest.raises(ValueError, match="workers=1"):
        rank_scan(PLANTED, [1], W=lambda x: x.clamp(min=0), workers=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ranks": []}, "ranks is empty"),
        ({"ranks": [2, 26]}, "X is 30 x 25: 25 components are all there can be"),
        ({"ranks": [2.5]}, "ranks holds 2.5; each is a whole number"),
        ({"ranks": [0]}, "at least 1"),
        ({"ranks": [True]}, "whole number"),
        ({"fraction": 0}, "above 0 and at most 0.5"),
        ({"fraction": 0.7}, "above 0 and at most 0.5"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restarts": 1, "method": "stability"}, "give at least 2"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"workers": 0}, "workers is 0"),
        ({"X": np.full((4, 4), np.nan)}, "X holds no data"),
        ({"X": PLANTED, "weight": np.zeros(PLANTED.shape)}, "X holds no data"),
        ({"X": [[1.0, 2.0]], "ranks": [1]}, "no cell of X"),
        ({"X": -PLANTED, "loss": "kl"}, "not negative"),
        ({"tol": 2}, "tol is 2"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        rank_scan(**{"X": PLANTED, "ranks": [1, 2]} | options)


def test_the_table_becomes_a_frame_and_the_plot_has_a_panel_for_each_method():
    from matplotlib.figure import Figure

    found = rank_scan(PLANTED, [2, 3], restarts=2, method="all", max_iter=30, **NONNEG)
    assert list(found.frame("polars")["rank"]) == [2, 3]
    axes = Figure().subplots(1, 2)
    assert found.plot(axes[0]).get_ylabel() == "unexplained share"
    assert found.plot(axes[1], of="stability").get_ylabel() == "silhouette"
    with pytest.raises(ValueError, match="this scan has 'holdout', 'stability'"):
        found.plot(axes[0], of="ard")


# ── advise ────────────────────────────────────────────────────────────────────────────────────────────────────────────

FREE_AND_NONNEG = [("nonneg", "nonneg"), (None, None)]


def test_planted_parts_are_advised_with_their_rank():
    found = advise(PLANTED, constraints=FREE_AND_NONNEG, losses=["frobenius"], max_rank=5, max_fits=20, max_iter=60)
    assert found.options["rank"] == 3
    assert (str(found.options["W"]), str(found.options["H"])) == ("NonNegative()", "NonNegative()")
    assert found.sentence.startswith("Use 3 components: factorize(X, 3, loss='Frobenius()', W='NonNegative()', H='NonNegative()')")
    assert found.best["error"] < 0.3 * next(row for row in found.table if row["model"] == "means")["error"]


def test_planted_counts_are_judged_by_their_deviance_and_kl_is_advised():
    found = advise(COUNTS, constraints=[("nonneg", "nonneg")], max_rank=6, max_fits=26, max_iter=60, restarts=3)
    assert isinstance(found.yardstick, KL)
    assert found.options["rank"] == 3
    assert isinstance(found.options["loss"], KL)


@pytest.mark.parametrize(
    ("X", "beyond"),
    [
        (NOISE, "."),
        (r.standard_normal((25, 20)), "."),
        (r.poisson(3.0, (25, 20)), "."),
        (r.poisson(r.gamma(1, 3, (25, 1)) * r.gamma(1, 1, (1, 20))), "row and column means"),
        (3 * r.standard_normal((25, 1)) + 3 * r.standard_normal((1, 20)) + r.standard_normal((25, 20)), "row and column means"),
        (r.random((5, 4)), "."),
    ],
    ids=["uniform", "normal", "Poisson", "margins of counts", "margins", "tiny"],
)  # fmt: skip
def test_where_there_is_no_structure_none_is_advised(X, beyond):
    found = advise(X, constraints=[("nonneg", None if (X < 0).any() else "nonneg")], losses=["frobenius"], max_fits=14, max_iter=40)
    assert found.options is None, found
    assert found.best["rank"] == 0
    assert f"There is no structure beyond {beyond}".rstrip(".") in found.sentence


def test_data_with_holes_and_the_budget_are_respected():
    options = {"constraints": [("nonneg", "nonneg")], "losses": ["frobenius"], "max_rank": 5, "max_fits": 12, "max_iter": 60}
    made = []
    found = advise(HOLES, callback=lambda progress: made.append(progress), **options)
    assert found.options["rank"] == 3
    assert len(made) <= 12
    assert found.table == advise(HOLES, **options).table


def test_losses_are_tried_only_where_the_values_allow_them():
    def tried(X, **options):
        return {row["loss"] for row in advise(X, max_rank=1, max_fits=24, restarts=2, max_iter=5, **options).table} - {""}

    assert tried(PLANTED - 1) == {"Frobenius()"}
    assert tried(COUNTS) == {"Frobenius()", "KL()"}
    with pytest.raises(ValueError, match="KL needs data that is not negative"):
        advise(PLANTED - 1, losses=["kl"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"restarts": 1}, "at least 2"),
        ({"max_rank": 99}, "max_rank is 99"),
        ({"constraints": ["nonneg"]}, "each is a pair"),
        ({"yardstick": "kl", "X": PLANTED - 9}, "not negative"),
        ({"max_fits": 0}, "max_fits is 0"),
        ({"losses": ["nonsense"]}, "unknown loss"),
    ],
)  # fmt: skip
def test_bad_input_to_advise_is_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        advise(**{"X": PLANTED} | options)


def test_advice_goes_on_from_its_folder(tmp_path):
    options = {"constraints": [("nonneg", "nonneg")], "losses": ["frobenius"], "max_rank": 4, "max_fits": 10, "restarts": 2}
    early = advise(PLANTED, out=tmp_path, callback=lambda p: p.done == 2, **options)
    assert not early.complete
    assert "interrupted" in early.sentence
    assert advise(PLANTED, out=tmp_path, **options).table == advise(PLANTED, **options).table
