"""Ties: their values against brute force, bounds that touch and lie above, and what a fit with one does."""

import contextlib
import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from test_solvers import data, sweeps

from proxfactor import ADMM, APG, ARD, HALS, PALM, GraphLaplacian, MinVolume, Orthogonal, Problem, Symmetric, factorize
from proxfactor.ties import as_ties

N, K = 8, 3


def affinity(n=N, seed=0, hub=False):
    S = np.random.default_rng(seed).random((n, n)) * (np.random.default_rng(seed + 1).random((n, n)) < 0.4)
    S = np.triu(S, 1)
    S[0, 1:] += 30.0 * hub
    return S + S.T


TIES = [
    MinVolume(0.7, 0.3),
    MinVolume(2.0, of="W"),
    Orthogonal(0.5),
    Orthogonal(0.5, of="W"),
    GraphLaplacian(affinity(), 0.4),
    GraphLaplacian(affinity(hub=True), 0.4),
    GraphLaplacian(sp.csr_matrix(affinity(seed=3)), 0.4, of="H"),
    Symmetric(1.5),
    ARD(0.3),
    ARD(1.0, b=0.2),
]
ids = [f"{type(t).__name__} {t.on} {i}" for i, t in enumerate(TIES)]


def factors(seed):
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(s, generator=g, dtype=torch.float64) for s in ((N, K), (K, N)))


@pytest.mark.parametrize("tie", TIES, ids=ids)
@pytest.mark.parametrize("side", ["W", "H"])
def test_the_model_touches_the_term_with_its_slope_and_is_nowhere_below_it(tie, side):
    W, H = factors(0)
    A, B, mine = (W, H.mT, tie) if side == "W" else (H.mT, W, tie.T)
    q = mine.model(A, B)
    at = A.clone().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(mine.value(at, B.mT) + 0 * at.sum(), at)
    torch.testing.assert_close(q.grad(A), slope, rtol=1e-9, atol=1e-12)
    for seed in range(1, 40):
        other = next(factors(seed)) * 10.0 ** (seed % 5 - 3) + A * (seed % 2)
        rise = mine.value(other, B.mT) - mine.value(A, B.mT)
        assert (q.value(other) - q.value(A)).sum() >= rise - 1e-9 * (1 + rise.abs())


@pytest.mark.parametrize("tie", TIES, ids=ids)
def test_the_transpose_has_the_same_value_and_goes_back(tie):
    W, H = factors(2)
    torch.testing.assert_close(tie.T.value(H.mT, W.mT), tie.value(W, H))
    torch.testing.assert_close(tie.T.T.value(W, H), tie.value(W, H))
    assert tie.T.on == {"W": "H", "H": "W", "both": "both"}[tie.on]


def test_values_are_what_brute_force_says():
    W, H = (F.numpy() for F in factors(5))
    S = affinity()
    near = sum(S[i, j] * ((W[i] - W[j]) ** 2).sum() for i in range(N) for j in range(N)) / 4
    expected = {
        GraphLaplacian(S, 0.4): 0.4 * near,
        Orthogonal(2.0): 2.0 * sum(H[q] @ H[r] for q in range(K) for r in range(q)),
        MinVolume(2.0, 0.5): np.log(np.linalg.det(np.eye(K) + H @ H.T / 0.5)),
        Symmetric(2.0): ((W - H.T) ** 2).sum(),
        ARD(2.0, b=0.5): 4 * N * sum(np.log(1 + (W[:, q] ** 2).sum() + (H[q] ** 2).sum()) for q in range(K)),
    }
    for tie, value in expected.items():
        assert tie.value(torch.tensor(W), torch.tensor(H)).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("tie", TIES, ids=ids)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize("solver", [HALS(), APG(), ADMM(), PALM()], ids=repr)
def test_no_sweep_raises_the_value_of_a_problem_with_a_tie(tie, loss, solver):
    X = np.random.default_rng(4).poisson(3.0, (N, N)) + 0.1
    problem = Problem(X, loss, "nonneg", "nonneg", ties=(tie,))
    state = solver.init(problem, *factors(7))
    values = [problem.value(state.W, state.H).item()]
    for _ in range(10):
        state = solver.step(problem, state)
        values.append(problem.value(state.W, state.H).item())
    assert np.isfinite(values).all()
    assert all(b <= a + 1e-11 * abs(a) for a, b in itertools.pairwise(values))
    assert values[-1] < values[0]


@pytest.mark.parametrize("tie", [MinVolume(0.2), Orthogonal(0.1), GraphLaplacian(affinity(40), 0.3), ARD(0.5)], ids=repr)
def test_a_fit_with_a_tie_ends_with_a_small_certificate(tie):
    result = factorize(data("dense"), 3, W="box(0, 1)", H="nonneg", ties=tie, tol=1e-3, max_iter=3000)
    assert result.converged
    problem = result.problem
    assert problem.ties == (tie,)
    A, B = result.factors[0].clone(), result.factors[1].mT
    slope = problem.gradient(A, B)
    at = A.requires_grad_()
    with torch.enable_grad():
        value = 0.5 * (at @ B.mT - problem.X.entries()).square().sum() + tie.value(at, B.mT)
        (expected,) = torch.autograd.grad(value, at)
    torch.testing.assert_close(slope, expected, rtol=1e-8, atol=1e-8)


def test_minimum_volume_finds_the_corners_where_no_datum_is_pure():
    r = np.random.default_rng(1)
    W = r.dirichlet(np.ones(3), 150)
    W = W[W.max(1) < 0.8]
    H = r.gamma(1, 1, (3, 12))
    H /= np.linalg.norm(H, axis=1, keepdims=True)

    def off(**options):
        found = factorize(W @ H, 3, W="simplex(dim=1)", H="nonneg", tol=1e-4, max_iter=120, **options).H
        return max(min(np.linalg.norm(h - f) / np.linalg.norm(h) for f in found) for h in H)

    assert off(ties="minvolume(0.03, 0.01)") < 0.15
    assert off() > 0.3


def test_orthogonal_components_share_no_entry_once_the_weight_is_large():
    r = np.random.default_rng(0)
    X = r.random((30, 3)) @ np.kron(np.eye(3), r.random((1, 6)) + 0.5) + 0.05 * r.random((30, 18))
    overlaps = []
    for lam in (0.0, 20.0):
        H = factorize(X, 3, W="box(0, 1)", H="nonneg", ties=Orthogonal(lam), max_iter=500).H
        overlaps.append(np.abs(H @ H.T - np.diag(np.diag(H @ H.T))).sum() / np.trace(H @ H.T))
    assert overlaps[0] > 1e-3
    assert overlaps[1] < 1e-8


def test_a_heavy_graph_makes_neighbours_alike_and_leaves_other_groups_apart():
    r = np.random.default_rng(0)
    S = np.kron(np.eye(2), np.ones((10, 10)))
    X = np.repeat(r.random((2, 15)), 10, axis=0) + 0.1 * r.random((20, 15))
    for form in (S, sp.csr_matrix(S), torch.tensor(S)):
        W = factorize(X, 2, W="nonneg", H="simplex(dim=1)", ties=GraphLaplacian(form, 3.0), max_iter=20).W
        assert max(W[:10].std(0).max(), W[10:].std(0).max()) < 1e-2 * W.max()
        assert np.abs(W[0] - W[15]).max() > 0.1 * W.max()


def test_a_symmetric_fit_has_one_factor():
    F = np.random.default_rng(0).random((15, 3))
    X = F @ F.T
    result = factorize(X, 3, W="nonneg", H="nonneg", ties=Symmetric(np.linalg.norm(X)), max_iter=3000)
    np.testing.assert_allclose(result.W, result.H.T, atol=1e-4)
    assert result.error < 0.02


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("seed", [0, 1])
def test_ard_leaves_the_planted_number_of_components_and_says_so(scale, seed):
    r = np.random.default_rng(seed)
    W, H = (r.gamma(1, 1, s) * (r.random(s) < 0.6) for s in ((60, 3), (3, 200)))
    X = (W @ H + 0.3 * r.standard_normal((60, 200))) * scale
    tie = ARD(0.3 * scale)
    result = factorize(X, 8, W="nonneg", H="nonneg", ties=tie, max_iter=500, tol=1e-3)
    left = tie.left(*result.factors)
    assert left.sum() == 3
    assert "has left 3 of 8 components" in result.status
    gone = result.factors[0].norm(dim=0) * result.factors[1].norm(dim=1)
    assert gone[~left].max() < 1e-6 * gone.max()
    assert result.error < 0.35


def test_ties_are_given_as_objects_text_or_a_list_and_a_problem_has_its_own():
    assert as_ties(None) == ()
    assert [repr(t) for t in as_ties(["minvolume(0.1)", ARD(2.0)])] == ["MinVolume(0.1)", "ARD(2)"]
    assert [repr(t) for t in as_ties("orthogonal(1, of='W')")] == ["Orthogonal(1, of='W')"]
    with pytest.raises(TypeError, match=r"write ARD\(…\)"):
        as_ties(ARD)
    with pytest.raises(TypeError, match="a tie is needed"):
        as_ties(3)
    with pytest.raises(ValueError, match="MinVolume"):
        as_ties("minvolum(1)")
    with pytest.raises(ValueError, match="of its own"):
        factorize(Problem(np.ones((3, 3))), 1, ties=ARD(1.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MinVolume(-1.0), "at least 0"),
        (lambda: MinVolume(1.0, 0.0), "above 0"),
        (lambda: MinVolume(1.0, of="X"), "'W' or 'H'"),
        (lambda: ARD(0.0), "above 0"),
        (lambda: GraphLaplacian([[0.0, 1.0], [0.0, 0.0]]), "symmetric"),
        (lambda: GraphLaplacian([[0.0, -1.0], [-1.0, 0.0]]), "not negative"),
        (lambda: GraphLaplacian([[0.0, 1.0]]), "square"),
        (lambda: factorize(np.ones((4, 5)), 2, ties=GraphLaplacian(np.ones((5, 5)))), "one row for each row of W"),
        (lambda: factorize(np.ones((4, 5)), 2, ties=Symmetric(1.0)), "square X"),
        (lambda: factorize(np.ones((4, 5)), 2, ties=Orthogonal(1.0)), "add nonneg"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_scale_can_evade_and_what_transform_leaves_out_is_said():
    def told(tie, W):
        with pytest.warns(UserWarning, match='moving scale') if W == "nonneg" and tie.on != "both" else contextlib.nullcontext():
            return factorize(np.ones((5, 5)), 2, W=W, H="nonneg", ties=tie, max_iter=3).status

    assert "moving scale into W" in told(MinVolume(1.0), "nonneg")
    assert "moving scale" not in told(MinVolume(1.0), "simplex(dim=1)")
    assert "moving scale" not in told(Symmetric(1.0), "nonneg")
    assert "Symmetric(1) is no part of transform" in told(Symmetric(1.0), "nonneg")
    assert "transform" not in told(MinVolume(1.0), "simplex(dim=1)")


def test_a_tie_on_h_leaves_w_what_transform_gives():
    X = data("dense").entries().numpy()
    result = factorize(X, 3, W="simplex(dim=1)", H="nonneg", ties=MinVolume(0.1), tol=1e-3, max_iter=100)
    np.testing.assert_allclose(result.transform(X), result.W, atol=1e-6)


def test_a_graph_serves_every_dtype():
    X = data("dense", torch.float32)
    state = sweeps(HALS(), Problem(X, "frobenius", "nonneg", "nonneg", ties=(GraphLaplacian(affinity(40), 0.1),)), 3)
    assert state.W.dtype == torch.float32
    assert state.W.isfinite().all()
