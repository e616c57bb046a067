"""The benchmark of optimizers measures what it says: its problems, its scaling, its rivals and its gap."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks" / "optimizers"
MODULES = ("problems", "measure", "grids", "singles", "store", "report")


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


def each(bench):
    return bench["problems"].PROBLEMS.values()


def feasible(problem, seed=0):
    """A point of the sets with a scale of the data: the projected fitted start."""
    return [p(x, 0.0) for p, x in zip(problem.proxs, problem.start(seed, raw=False), strict=True)]


def test_there_are_thirty_problems_with_names_of_their_own(bench):
    assert len(bench["problems"].PROBLEMS) == len(bench["problems"].MAKERS) >= 30
    assert {p.convex for p in each(bench)} == {True, False}


def test_every_gradient_is_finite_at_every_start_and_scale(bench):
    for problem in each(bench):
        for scale in (1e-6, 1.0, 1e6):
            for raw in (True, False):
                there = problem.scaled(scale)
                value, g = bench["measure"].gradient(there, there.start(0, raw))
                assert all(d.isfinite().all() for d in (value, *g)), (problem.name, scale, raw)


def test_raw_starts_know_nothing_of_the_scale_and_fitted_ones_carry_it(bench):
    for problem in each(bench):
        there = problem.scaled(1e6)
        for a, b in zip(problem.start(3, True), there.start(3, True), strict=True):
            assert torch.equal(a, b)
        for a, b, u in zip(problem.start(3, False), there.start(3, False), there.unit, strict=True):
            assert torch.allclose(a * u, b, rtol=1e-12, atol=0)


def test_the_scaled_problem_has_the_scaled_values_and_the_scaled_gradient(bench):
    for problem in each(bench):
        x, there = feasible(problem), problem.scaled(1e3)
        y = [v * u for v, u in zip(x, there.unit, strict=True)]
        assert there.F(y).item() == pytest.approx(there.height * problem.F(x).item(), rel=1e-8), problem.name
        _, g = bench["measure"].gradient(problem, x)
        _, h = bench["measure"].gradient(there, y)
        for a, b, u in zip(g, h, there.unit, strict=True):
            assert torch.allclose(b * u / there.height, a, rtol=1e-6, atol=1e-9 * a.abs().max().item()), problem.name


def test_the_scaled_prox_is_the_prox_scaled(bench):
    for problem in each(bench):
        there = problem.scaled(1e3)
        for p, q, x, u in zip(problem.proxs, there.proxs, problem.start(1, False), there.unit, strict=True):
            assert torch.allclose(q(x * u, u**2 / there.height * 0.1), u * p(x, 0.1), rtol=1e-7, atol=1e-9 * u), problem.name


def test_batched_values_and_operators_are_those_of_single_runs(bench):
    for problem in each(bench):
        singles = [feasible(problem, seed) for seed in (0, 1)]
        both = [torch.stack(x) for x in zip(*singles, strict=True)]
        values = problem.F(both)
        steps = torch.tensor([0.3, 0.05], dtype=torch.float64)
        moved = [p(x - 1, bench["measure"].shaped(steps, x)) for p, x in zip(problem.proxs, both, strict=True)]
        for i, one in enumerate(singles):
            plain = problem.loss(one) + sum(p.value(x) for p, x in zip(problem.proxs, one, strict=True))
            assert values[i].item() == pytest.approx(plain.item(), rel=1e-10), problem.name
            for p, x, m in zip(problem.proxs, one, moved, strict=True):
                assert torch.allclose(p(x - 1, steps[i].item()), m[i], rtol=1e-9, atol=1e-12), problem.name


def test_a_point_outside_a_set_costs_infinitely_much(bench):
    mixture = bench["problems"].PROBLEMS["mixture"]
    A, S = feasible(mixture)
    assert mixture.F([A, S]).isfinite()
    assert mixture.F([1.01 * A, S]).isinf()
    assert mixture.F([A, S - 1]).isinf()


def test_the_gap_counts_from_the_best_rescaled_start(bench):
    gap = bench["measure"].gap
    F, best, at_first = np.array([5.0, 1.0, np.nan, 1.0, 2.0]), np.ones(5), np.array([3.0, 3.0, 3.0, 1.0, 1.0])
    assert gap(F, best, at_first).tolist() == [2.0, 0.0, np.inf, 0.0, np.inf]
    nmf = bench["problems"].PROBLEMS["nmf"].scaled(1e6)
    start = bench["measure"].starts(nmf, [0], raw=True)
    at = bench["measure"].first(nmf, start).item()
    X, flat = nmf.start(0, True), nmf.F([torch.zeros_like(x) for x in nmf.start(0, True)]).item()
    factor = (flat - nmf.F(X).item()) / (X[0] @ X[1]).square().sum().item() + 0.5  # <X, Y>/|Y|², the best factor of Y = A S
    assert at == pytest.approx(nmf.F([x * factor**0.5 for x in X]).item(), rel=1e-6)
    assert at < flat


def test_a_run_in_a_minimum_of_its_own_is_measured_from_there_only_if_that_is_near_the_best(bench):
    own = bench["measure"].own_optimum
    limit = np.array([1.0, 1.04, 1.06])
    assert own(np.ones(3), limit, convex=False).tolist() == [1.0, 1.04, 1.0]
    assert own(np.ones(3), limit, convex=True).tolist() == [1.0, 1.0, 1.0]


def test_a_stall_is_a_gap_that_the_last_gradients_did_not_lower(bench):
    F, late = np.array([1.5, 1.5, 1.001, np.inf]), np.array([1.501, 1.6, 1.001, np.inf])
    assert bench["measure"].stalled(F, late, np.ones(4), np.full(4, 2.0)).tolist() == [True, False, False, False]


def test_a_trace_keeps_the_point_that_stood_at_each_checkpoint(bench):
    lasso = bench["problems"].PROBLEMS["lasso"]
    points = [[torch.full((120,), float(v), dtype=torch.float64)] for v in (0, 1, 2)]
    trace = bench["measure"].Trace(lasso, 8, points[0])
    trace.see(3, points[1])  # a step of three gradients
    trace.see(4, points[2])
    F = [lasso.F(p).item() for p in points]
    expected = [F[0] if n < 3 else F[1] if n == 3 else F[2] for n in trace.at]
    assert trace.close().tolist() == expected


def test_batched_adam_with_a_prox_is_torchs_adam_with_a_prox(bench):
    problem = bench["problems"].PROBLEMS["elastic-net"]
    adam = next(g for g in bench["grids"].GRIDS if g.name == "adam+prox")
    start = bench["measure"].starts(problem, [0, 1], raw=True)
    F, _ = adam.run(problem, start, 20)
    for i, rate in ((0, 3), (1, 2)):
        w = torch.nn.Parameter(start[0][i].clone())
        optimizer = torch.optim.Adam([w], lr=adam.rates[rate])
        for _ in range(20):
            optimizer.zero_grad()
            problem.loss([w]).backward()
            optimizer.step()
            w.data = problem.proxs[0](w.data, adam.rates[rate])
        assert F[i, rate, -1] == pytest.approx(problem.F([w.detach()]).item(), rel=1e-9)


def test_the_inner_iterations_of_adaprox_solve_the_prox_in_adams_metric(bench):
    from proxfactor.prox import Simplex

    g = torch.Generator().manual_seed(0)
    x, psi = (torch.rand(2, 5, 4, generator=g, dtype=torch.float64) + 0.2 for _ in range(2))
    rate = torch.tensor([0.5, 2.0], dtype=torch.float64).reshape(2, 1, 1)
    exact = Simplex(dim=-1)(x, rate / psi)
    assert torch.allclose(bench["grids"].metric_prox(Simplex(dim=-1), x, rate, psi, inner=500), exact, atol=1e-5)


@pytest.mark.parametrize("kind", ["softplus", "square"])
def test_maps_end_in_the_sets_and_lead_back(bench, kind):
    for problem in each(bench):
        through = bench["grids"].smooth(problem, kind)
        if through is None:
            continue
        x = [v[None] for v in feasible(problem)]
        z = through.back(x)
        there = through.to(z)
        assert problem.F(there).isfinite().all(), problem.name
        for prox, a, b in zip(problem.proxs, there, x, strict=True):
            near = 0.05 if type(prox).__name__ == "Isotonic" else 0.005  # lifted steps add up
            assert (a - b).abs().max() <= near * b.abs().max(), (problem.name, prox)


def test_descent_to_the_limit_finds_the_optimum_of_a_lasso(bench):
    lasso = bench["problems"].PROBLEMS["lasso"]
    pytest.importorskip("cvxpy")
    start = bench["measure"].starts(lasso, [0, 1], raw=False)
    assert bench["measure"].limits(lasso, start, 3000).tolist() == pytest.approx([lasso.reference()] * 2, rel=1e-7)


def test_a_run_goes_on_where_it_was_stopped_and_reports(bench, tmp_path, monkeypatch):
    from rich.console import Console

    store, report, grids = bench["store"], bench["report"], bench["grids"]
    plan = store.Plan((1.0, 1e3), 1, 30)
    adam = next(g for g in grids.GRIDS if g.name == "adam+prox")
    problems = [bench["problems"].PROBLEMS[n] for n in ("logistic-intercept", "lines")]
    for problem in problems:
        store.run(tmp_path, plan, adam, problem)
    monkeypatch.setattr(grids.Grid, "run", None)
    store.run(tmp_path, plan, adam, problems[0])
    monkeypatch.setattr(store, "limits", lambda problem, ends: problem.F(ends))
    with (tmp_path / "shown").open("w") as shown:
        made = report.gather(tmp_path, plan, problems, ["adam+prox"])
        report.write(tmp_path, plan, made, Console(file=shown, width=200))
    assert [r.gaps.shape[0] for r in made["adam+prox"]] == [4, 4]
    assert (tmp_path / "profiles.png").exists()
    assert "adam+prox" in (tmp_path / "report.txt").read_text()
