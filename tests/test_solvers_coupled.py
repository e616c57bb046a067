"""Solvers for what couples components: the one answer of a convex half-problem, feasible copies, compiled rows, the choice."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from test_solvers import data, sweeps

from proxfactor import ADMM, APG, ARD, PALM, Problem, Quadratic, as_prox, factorize
from proxfactor.compiled import wait_for_kernels
from proxfactor.solvers import apg, auto

M, K = 7, 4


def half_problem(batched, seed=0):
    """A Quadratic in A (7, 4), its Gram matrices as an array (7, 4, 4)."""
    r = np.random.default_rng(seed)
    F = r.random((M if batched else 1, 12, K))
    G = torch.tensor(np.einsum("ipq,ipr->iqr", F, F))
    q = Quadratic(G if batched else G[0], torch.tensor(3 * r.random((M, K)) + 2))
    return q, G.expand(M, K, K).numpy()


def tv(a):
    return cp.sum(cp.abs(a[1:] - a[:-1]))


HALVES = [
    ("simplex(dim=1)", lambda a: 0, lambda a: [a >= 0, cp.sum(a, 1) == 1]),
    ("solidsimplex(dim=1)", lambda a: 0, lambda a: [a >= 0, cp.sum(a, 1) <= 1]),
    ("l2ball(dim=1)", lambda a: 0, lambda a: [cp.norm(a[i]) <= 1 for i in range(M)]),
    ("simplex(dim=0)", lambda a: 0, lambda a: [a >= 0, cp.sum(a, 0) == 1]),
    ("nonneg + l1(0.7)", lambda a: 0.7 * cp.sum(cp.abs(a)), lambda a: [a >= 0]),
    ("grouplasso(dim=1, lam=0.8)", lambda a: 0.8 * sum(cp.norm(a[i]) for i in range(M)), lambda a: []),
    ("nuclear(0.5)", lambda a: 0.5 * cp.normNuc(a), lambda a: []),
]
SUMS = [
    ("simplex(dim=1) + tv(dim=0, lam=0.3)", lambda a: 0.3 * tv(a), lambda a: [a >= 0, cp.sum(a, 1) == 1]),
    ("nonneg + smooth(dim=0, lam=2)", lambda a: cp.sum_squares(a[1:] - a[:-1]), lambda a: [a >= 0]),
    ("box(0.1, 0.6) + simplex(dim=1)", lambda a: 0, lambda a: [a >= 0.1, a <= 0.6, cp.sum(a, 1) == 1]),
    (
        "tv(dim=0, lam=0.2) + grouplasso(dim=1, lam=0.5)",
        lambda a: 0.2 * tv(a) + 0.5 * sum(cp.norm(a[i]) for i in range(M)),
        lambda a: [],
    ),
    (
        "simplex(dim=1) + box(0, 0.5) + tv(dim=0, lam=0.1)",
        lambda a: 0.1 * tv(a),
        lambda a: [a >= 0, a <= 0.5, cp.sum(a, 1) == 1],
    ),
]


def answer(G, C, term, constraints):
    a = cp.Variable((M, K))
    smooth = sum(cp.quad_form(a[i], cp.psd_wrap(G[i])) for i in range(M)) / 2 - cp.sum(cp.multiply(C.numpy(), a))
    cp.Problem(cp.Minimize(smooth + term(a)), constraints(a)).solve(solver=cp.CLARABEL)
    return torch.tensor(a.value)


SOLVED = [
    *((*h, s) for h in HALVES[:2] + HALVES[3:5] for s in (PALM(inner=400), APG(inner=150), ADMM(inner=200))),
    *((*h, s) for h in HALVES[2:3] + HALVES[5:] for s in (APG(inner=100), ADMM(inner=120))),
    *((*h, ADMM(inner=250)) for h in SUMS),
]


@pytest.mark.parametrize("batched", [False, True], ids=["one Gram", "a Gram a row"])
@pytest.mark.parametrize(("text", "term", "constraints", "solver"), SOLVED, ids=[f"{h[0]}, {h[3]!r}" for h in SOLVED])
def test_a_convex_half_problem_has_the_answer_that_cvxpy_finds(text, term, constraints, solver, batched):
    q, G = half_problem(batched)
    A = solver.rows(as_prox(text), q, as_prox(text)(torch.full((M, K), 0.25, dtype=torch.float64), 0.0), {})
    torch.testing.assert_close(A, answer(G, q.C, term, constraints), rtol=0, atol=1e-4)


@pytest.mark.parametrize("text", [h[0] for h in SUMS])
def test_admm_stays_inside_all_constraints_and_never_rises_from_sweep_to_sweep(text):
    q, _ = half_problem(False)
    prox, memory = as_prox(text), {}
    A = prox(torch.full((M, K), 0.25, dtype=torch.float64), 0.0)
    values = [float(q.value(A).sum() + prox.value(A))]
    for _ in range(30):
        A = ADMM(inner=2).rows(prox, q, A, memory)
        assert all(t.violation(A).max() <= 1e-8 for t in prox.terms if t.is_set)
        values.append(float(q.value(A).sum() + prox.value(A)))
    assert np.isfinite(values).all()
    assert (np.diff(values) <= 1e-9 * abs(values[0])).all()
    assert values[-1] < values[0]


@pytest.mark.parametrize("text", ["nonneg", "box(0.1, 0.6) + simplex(dim=1)", "nonneg + smooth(dim=0)"])
def test_admm_goes_on_from_its_duals_where_another_call_left_them(text):
    q, _ = half_problem(False)
    prox, memory = as_prox(text), {}
    A = start = prox(torch.full((M, K), 0.25, dtype=torch.float64), 0.0)
    for _ in range(6):
        A = ADMM(inner=20).rows(prox, q, A, memory)
    torch.testing.assert_close(A, ADMM(inner=120).rows(prox, q, start, {}), rtol=0, atol=1e-6)
    cold = ADMM(inner=20).rows(prox, q, start, {})
    assert (A - cold).abs().max() > 1e-9


@pytest.mark.parametrize("solver", [PALM(), APG(), ADMM()], ids=repr)
@pytest.mark.parametrize("batched", [False, True])
def test_the_units_of_the_components_do_not_matter(solver, batched):
    q, _ = half_problem(batched)
    A = torch.full((M, K), 0.25, dtype=torch.float64)
    units = torch.tensor([2.0**-20, 1.0, 2.0**30, 2.0**5], dtype=torch.float64)
    scaled = Quadratic(q.G * units[:, None] * units, q.C * units)
    plain, other = (solver.rows(as_prox("nonneg"), p, a, {}) for p, a in ((q, A), (scaled, A / units)))
    torch.testing.assert_close(other * units, plain, rtol=1e-9, atol=1e-12)


def lattice(rows, rank, dtype, batched, seed=0):
    g = torch.Generator().manual_seed(seed)
    F = torch.rand(*((rows,) if batched else ()), 2 * rank, rank, generator=g, dtype=dtype)
    C = torch.rand(rows, rank, generator=g, dtype=dtype) * rank
    return Quadratic(F.mT @ F, C), torch.rand(rows, rank, generator=g, dtype=dtype)


def none_yet(module, dtype, work):
    return None


def compiled(module, dtype, work):
    return wait_for_kernels(module, dtype)


@pytest.mark.parametrize("text", ["simplex(dim=1)", "solidsimplex(dim=1, total=2.5)", "nonneg", "box(-0.1, 0.4)", "free"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "rank", "batched"), [(300, 3, False), (200, 17, False), (60, 5, True)])
def test_compiled_rows_are_the_torch_form(text, dtype, rows, rank, batched, monkeypatch):
    prox = as_prox(text)
    q, A = lattice(rows, rank, dtype, batched)
    A = prox(A)
    for inner, close in ((1, 1e-5), (4, 1e-5), (300, 1e-4)):
        found = []
        for kernels in (none_yet, compiled):
            monkeypatch.setattr(apg, "kernels", kernels)
            found.append(APG(inner=inner).rows(prox, q, A, {}))
        sharp = close if dtype == torch.float32 else 1e-9
        size = found[0].abs().amax().clamp(min=1).item()
        torch.testing.assert_close(found[0], found[1], rtol=0, atol=10 * sharp * size)
        assert found[1].dtype == dtype
        assert prox.violation(found[1]).amax() <= 20 * torch.finfo(dtype).eps


def test_compiled_rows_take_the_transposed_side_and_leave_other_operators_alone(monkeypatch):
    assert apg._shares(as_prox("simplex(dim=0)").T).total == 1
    assert apg._shares(as_prox("simplex(dim=0)")) is None
    assert apg._shares(as_prox("simplex(dim=1)").T) is None
    assert apg._shares(as_prox("nonneg")) is None
    monkeypatch.setattr(apg, "kernels", compiled)
    problem = Problem(data("dense"), "frobenius", "nonneg", "simplex(dim=0)")
    fast = sweeps(APG(), problem, 5)
    monkeypatch.setattr(apg, "kernels", none_yet)
    plain = sweeps(APG(), problem, 5)
    torch.testing.assert_close(fast.W @ fast.H, plain.W @ plain.H, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rank", [1, 3])
def test_components_without_curvature_and_empty_rows_stay_finite(rank, monkeypatch):
    monkeypatch.setattr(apg, "kernels", compiled)
    G = torch.zeros(rank, rank, dtype=torch.float64)
    G[0, 0] = 2.0
    C = torch.ones(5, rank, dtype=torch.float64)
    for solver in (APG(), ADMM(), PALM()):
        for q in (Quadratic(G, C), Quadratic(0 * G, 0 * C), Quadratic(G.expand(5, rank, rank).clone(), C)):
            A = solver.rows(as_prox("simplex(dim=1)"), q, torch.full((5, rank), 1 / rank, dtype=torch.float64), {})
            assert A.isfinite().all()
            assert as_prox("simplex(dim=1)").violation(A).max() < 1e-12


@pytest.mark.parametrize("solver", [PALM(inner=10), APG(), ADMM()], ids=repr)
def test_planted_shares_are_found_to_the_certificate(solver):
    r = np.random.default_rng(0)
    W, H = r.dirichlet(np.full(3, 0.3), 60), r.gamma(1, 1, (3, 20))
    W[:3] = np.eye(3)
    result = factorize(W @ H, 3, W="simplex(dim=1)", H="nonneg", solver=solver, tol=1e-4, max_iter=3000)
    assert result.converged
    assert result.error < 2e-3
    np.testing.assert_allclose(result.W.sum(1), 1, atol=1e-12)


def test_the_choice_follows_what_the_operators_couple():
    chosen = {
        ("nonneg", "nonneg"): "Extrapolated(HALS())",
        ("simplex(dim=1)", "nonneg"): "Extrapolated(APG())",
        ("nonneg", "simplex(dim=0)"): "Extrapolated(APG())",
        ("nonneg", "nonneg + smooth(dim=1)"): "ADMM()",
        ("simplex(dim=1) + tv(dim=0, lam=0.1)", "nonneg"): "ADMM()",
        ("topk(dim=1, k=2)", "nonneg"): "PALM()",
    }
    for constraints, name in chosen.items():
        assert repr(auto(Problem(data("dense"), "frobenius", *constraints))) == name
    assert repr(auto(Problem(data("dense"), "kl", "simplex(dim=1)", "nonneg"))) == "KLNewton()"
    assert repr(auto(Problem(data("dense").entries() + 1, "itakura", "simplex(dim=1)", "nonneg"))) == "APG()"
    assert repr(auto(Problem(data("dense"), "frobenius", "simplex(dim=1)", "nonneg", ties=(ARD(1.0),)))) == "APG()"


@pytest.mark.parametrize("text", ["simplex(dim=1)", "box(0.1, 0.6) + simplex(dim=1)", "simplex(dim=1) + tv(dim=0, lam=0.3)"])
@pytest.mark.parametrize("solver", [PALM(), APG(), ADMM()], ids=repr)
def test_a_point_ahead_of_the_constraints_comes_back_inside(solver, text):
    q, _ = half_problem(False)
    prox = as_prox(text)
    ahead = torch.linalg.solve(q.G, q.C.mT).mT  # the free minimum: no point inside has a lower value
    A = solver.rows(prox, q, ahead, {})
    assert all(t.violation(A).max() <= 1e-8 for t in prox.terms if t.is_set)
