"""ALS against the normal equations of each row, and its kernel against its torch form."""

import numpy as np
import pytest
import torch
from scipy.sparse import random_array

from proxfactor import ALS, KL, L2Squared, Observed, Problem, Sparse, factorize
from proxfactor.compiled import wait_for_kernels
from proxfactor.solvers.als import conjugated

M, N, K = 40, 30, 5


def cells(seed=0, density=0.3, empty_row=True):
    X = random_array((M, N), density=density, rng=np.random.default_rng(seed), format="lil")
    if empty_row:
        X[3] = 0
    return X.tocsr().astype(np.float64)


def weights(X, seed=1):
    W = X.copy()
    W.data = np.random.default_rng(seed).uniform(0.5, 3, len(W.data))
    return W


def factors(seed=2, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(M, K, generator=draw, dtype=dtype), torch.randn(N, K, generator=draw, dtype=dtype)


def problems(dtype=torch.float64):
    X = cells()
    lam = torch.linspace(0.1, 2, M, dtype=dtype)[:, None]
    return {
        "ratings": Problem(Observed(X).to(dtype=dtype), "frobenius", L2Squared(lam), L2Squared(0.5)),
        "weighted ratings": Problem(Observed(X, weights(X)).to(dtype=dtype), "frobenius", L2Squared(lam), L2Squared(0.5)),
        "clicks": Problem(Sparse(X, weights(X), background=0.1).to(dtype=dtype), "frobenius", L2Squared(lam), L2Squared(0.5)),
        "hidden cells": Problem(Sparse(X, weights(X) * 0.0, background=0.7).to(dtype=dtype), "frobenius", L2Squared(lam), None),
    }


def by_hand(problem, B):
    """The rows as the formula says: every cell of the matrix with its weight."""
    X, lam = problem.X, problem.prox_W.ridge.reshape(-1).expand(M)
    stored = X.like(torch.ones_like(X.entries())).plain().to_dense() > 0
    x, w = torch.zeros(M, N, dtype=B.dtype), torch.full((M, N), X.background, dtype=B.dtype)
    x[stored] = X.entries()
    w[stored] = 1.0 if X.weight is None else X.weight
    eye = torch.eye(K, dtype=B.dtype)
    return torch.stack([torch.linalg.solve((B.mT * w[i]) @ B + lam[i] * eye, B.mT @ (w[i] * x[i])) for i in range(M)])


@pytest.mark.parametrize("name", problems())
@pytest.mark.parametrize("solver", [ALS(steps=None), ALS(steps=40)], ids=repr)
def test_a_half_step_solves_the_normal_equations_of_each_row(name, solver):
    problem, (A, B) = problems()[name], factors()
    torch.testing.assert_close(solver.half(problem, A, B, {}), by_hand(problem, B), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", problems())
def test_the_columns_are_solved_as_the_rows_of_the_transpose(name):
    problem, (A, B) = problems()[name], factors()
    flipped = Problem(problem.X.T, "frobenius", problem.prox_H.T, problem.prox_W.T)
    torch.testing.assert_close(ALS().half(problem.T, B, A, {}), ALS().half(flipped, B, A, {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", problems())
def test_the_kernel_does_what_its_torch_form_does(name, dtype):
    problem, (A, B) = problems(dtype)[name], factors(dtype=dtype)
    e = torch.ones_like(problem.X.entries()) if problem._excess is None else problem._excess
    s = torch.linspace(0.0, 1.0, K, dtype=dtype)
    given = problem.X, problem._data.entries(), e, A, B, s, problem.prox_W.ridge.to(dtype), 3
    kernel = wait_for_kernels("solvers._als_numba", dtype)
    tight = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(kernel(*given), conjugated(*given), **tight)


@pytest.mark.parametrize("name", problems())
def test_the_gain_is_by_how_much_a_half_step_lowers_the_objective(name):
    problem, (A, B) = problems()[name], factors()
    memory = {}
    new = ALS().half(problem, A, B, memory)
    fallen = problem.value(A, B.mT) - problem.value(new, B.mT)
    torch.testing.assert_close(memory["gain"].sum(), fallen, rtol=1e-6, atol=1e-8)


def test_one_weight_for_all_rows_is_the_same_as_a_weight_for_each():
    X, (A, B) = cells(), factors()
    one, each = (Problem(Observed(X), "frobenius", L2Squared(lam), None) for lam in (0.3, torch.full((M, 1), 0.3)))
    torch.testing.assert_close(ALS().half(one, A, B, {}), ALS().half(each, A, B, {}), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps", [3, None])
def test_a_row_without_data_becomes_zero(steps):
    problem, (A, B) = problems()["ratings"], factors()
    assert ALS(steps=steps).half(problem, A, B, {})[3].abs().max() < 1e-12


@pytest.mark.parametrize("steps", [3, None])
def test_fewer_cells_than_components_and_no_ridge_stay_finite(steps):
    X = cells(density=0.05)
    A = ALS(steps=steps).half(Problem(Observed(X)), *factors(), {})
    assert bool(A.isfinite().all())


def clicks(rank=8, m=400, n=300, seed=0):
    """What users of a few tastes click: about a twentieth of all pairs, popular items more often."""
    rng = np.random.default_rng(seed)
    likes = rng.dirichlet(np.full(rank, 0.3), m) @ rng.dirichlet(np.full(n, 0.1), rank)
    return Sparse((rng.random((m, n)) < 0.05 * n * likes).astype(np.float64), background=0.1)


def test_two_steps_keep_up_with_exact_rows_where_absence_counts():
    X = clicks()
    lam = 0.01 * (X.sums(X.entries()) + 30)[:, None]
    problem = Problem(X, "frobenius", L2Squared(lam), L2Squared(3.0))
    draw = torch.Generator().manual_seed(0)
    W, H = 0.03 * torch.randn(400, 16, generator=draw).double(), 0.03 * torch.randn(16, 300, generator=draw).double()
    exact, quick = (solver.init(problem, W, H) for solver in (ALS(steps=None), ALS(steps=2)))
    for sweep in range(1, 7):
        exact, quick = ALS(steps=None).step(problem, exact), ALS(steps=2).step(problem, quick)
        if sweep >= 3:
            best = problem.value(exact.W, exact.H)
            assert abs(problem.value(quick.W, quick.H) / best - 1) < (0.0025 if sweep == 3 else 0.002)


def test_a_fit_by_als_ends_with_a_certificate():
    X = cells(empty_row=False)
    result = factorize(Problem(Observed(X), "frobenius", "ridge(0.5)", "ridge(0.5)"), 3, solver="als(steps=3)", tol=1e-4)
    assert result.converged
    best = factorize(Problem(Observed(X), "frobenius", "ridge(0.5)", "ridge(0.5)"), 3, init=result, solver="hals", tol=1e-6)
    assert result.history[-1]["loss"] <= best.history[-1]["loss"] * (1 + 1e-4)


@pytest.mark.parametrize(
    "problem",
    [
        Problem(np.ones((M, N))),
        Problem(Observed(cells()), "frobenius", "nonneg"),
        Problem(Observed(cells()), "frobenius", None, L2Squared(torch.ones(K, 1))),
        Problem(Sparse(cells()), KL(), "ridge(1)", "ridge(1)"),
    ],
    ids=["dense", "constrained", "a ridge that differs by component", "KL"],
)
def test_what_is_no_least_squares_problem_in_each_row_is_refused(problem):
    with pytest.raises(ValueError, match="solver='auto'"):
        ALS().check(problem)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_steps_are_a_whole_number(steps):
    with pytest.raises(ValueError, match="whole number"):
        ALS(steps=steps)
