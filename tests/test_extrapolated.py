"""Extrapolated: the value never rises, what it keeps of products is what they are, and it needs far fewer sweeps."""

import numpy as np
import pytest
import torch
from test_solvers import begin, data, sweeps

from proxfactor import HALS, PALM, Extrapolated, Problem, datasets, factorize
from proxfactor.solvers import extrapolated
from proxfactor.solvers.extrapolated import Momentum


def slow_problem(kind="dense"):
    """Smooth spectra that overlap: a narrow valley."""
    r = np.random.default_rng(0)
    t = np.linspace(0, 1, 60)
    H = np.stack([np.exp(-((t - c) ** 2) / 0.05) for c in (0.3, 0.4, 0.5, 0.6)])
    X = torch.tensor(r.uniform(0, 1, (50, 4)) @ H + 0.01 * r.random((50, 60)))
    seen = torch.tensor(r.random(X.shape)) < (0.7 if kind == "holes" else 1.0)
    return Problem(X.where(seen, torch.nan), "frobenius", "nonneg", "nonneg")


@pytest.mark.parametrize("kind", ["dense", "holes"])
def test_it_is_ahead_where_the_valley_is_narrow(kind):
    problem = slow_problem(kind)
    start = begin(problem, rank=4)
    plain, ahead = (sweeps(s, problem, 150, start) for s in (HALS(inner=3), Extrapolated(HALS(inner=3))))
    assert problem.value(ahead.W, ahead.H) < 0.95 * problem.value(plain.W, plain.H)


@pytest.mark.parametrize("seed", range(3))
def test_on_digits_it_is_a_hundred_times_nearer_to_stationary_after_as_many_sweeps(seed):
    problem = Problem(datasets.digits().matrix.take(slice(0, 600)), "frobenius", "nonneg", "nonneg")
    start = begin(problem, seed=seed, rank=8)
    plain, ahead = (sweeps(s, problem, 200, start) for s in (HALS(inner=3), Extrapolated(HALS(inner=3))))
    left = [max(c.item() for c in problem.certificate(state.W, state.H)) for state in (plain, ahead)]
    assert left[1] < 0.01 * left[0]


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_products_that_it_keeps_are_the_products(kind):
    problem = Problem(data(kind), "frobenius", "nonneg", "nonneg + l1(0.1)")
    solver = Extrapolated(HALS())
    state = solver.init(problem, *begin(problem))
    for _ in range(40):
        state = solver.step(problem, state)
        assert isinstance(state, Momentum)
        H, W, _ = state.products
        fresh = Problem(problem.X, "frobenius", "nonneg", "nonneg + l1(0.1)")
        torch.testing.assert_close(H.C, fresh.normal(state.H.mT).C, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(W.G, fresh.T.normal(state.W).G, rtol=1e-9, atol=1e-9)


def test_a_sweep_certificate_and_value_cost_two_passes_over_the_data():
    problem = Problem(data("dense"), "frobenius", "nonneg", "nonneg")
    for solver in (HALS(), Extrapolated(HALS())):
        state = solver.init(problem, *begin(problem))
        state = solver.step(problem, state)
        problem.certificate(state.W, state.H)
        before = problem.passes
        for _ in range(5):
            state = solver.step(problem, state)
            problem.certificate(state.W, state.H), problem.value(state.W, state.H)
        assert problem.passes - before == 10


def test_what_is_kept_of_a_factor_is_forgotten_when_it_is_written_to():
    problem = Problem(data("dense"), "frobenius", "nonneg", "nonneg")
    _, H = begin(problem)
    before = problem.normal(H.mT).C.clone()
    H.mul_(2)
    torch.testing.assert_close(problem.normal(H.mT).C, 2 * before)


def test_it_refuses_other_losses_and_ties_and_says_what_to_use():
    with pytest.raises(ValueError, match=r"squared error.*HALS"):
        factorize(data("dense"), 3, W="nonneg", H="nonneg", loss="kl", solver="extrapolated")


def test_it_takes_every_solver_and_goes_where_that_goes():
    X = datasets.planted(40, 30, 3, seed=1)[0]
    for solver, H in ((HALS(), "nonneg"), (PALM(), "simplex(dim=0)")):
        ahead, plain = (factorize(X, 3, W="nonneg", H=H, solver=how, max_iter=3000) for how in (Extrapolated(solver), solver))
        assert ahead.error <= plain.error * 1.01 + 1e-6


def test_plain_numbers_are_judged_as_tensors_on_a_device_are():
    plain = dict(extrapolated.BEGIN)
    held = {name: torch.tensor(v, dtype=torch.float64) for name, v in plain.items()}
    for value in (10.0, 6.0, 5.9, 5.95, 5.8, 5.7999, 5.79989, 7.0, 5.79988):
        good, plain = extrapolated._judged(plain, value, 1e-9)
        also, held = extrapolated._judged(held, torch.tensor(value, dtype=torch.float64), 1e-9)
        assert bool(also) == good
        assert {name: v.item() for name, v in held.items()} == plain
