"""The problem: its value, gradient, model and certificate against brute force, for every kind of Matrix."""

import numpy as np
import pytest
import torch
from test_solvers import KINDS, begin, data, sweeps

from proxfactor import HALS, KL, PALM, Dense, Frobenius, Observed, Problem, Quadratic, Sparse, Tie, as_prox
from proxfactor.prox import Prox


def cells(X):
    """A Matrix as three dense tables: values, weights (0 where there is no data)."""
    m, n = X.shape
    values, weights = torch.zeros(m, n, dtype=torch.float64), torch.full((m, n), X.background, dtype=torch.float64)
    rows, cols = X.along(torch.arange(m), 0).reshape(-1), X.along(torch.arange(n), 1).reshape(-1)
    values[rows, cols] = X.entries().reshape(-1).double()
    weights[rows, cols] = 1.0 if X.weight is None else X.weight.reshape(-1).double()
    return values, weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", [Frobenius(), KL()], ids=repr)
def test_value_and_gradient_are_those_of_the_weighted_sum_over_all_cells(kind, loss):
    problem = Problem(data(kind), loss, "nonneg", "nonneg + l1(0.3)")
    W, H = begin(problem)
    x, w = cells(problem.X)
    A = W.clone().requires_grad_()
    expected = (w * loss(A @ H, x)).sum()
    (slope,) = torch.autograd.grad(expected, A)
    torch.testing.assert_close(problem.value(W, H), expected.detach() + 0.3 * H.abs().sum())
    torch.testing.assert_close(problem.gradient(W, H.mT), slope, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(problem.row_losses(W, H.mT), (w * loss(W @ H, x)).sum(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_the_model_touches_the_loss_at_the_iterate_and_is_exact_for_a_squared_loss(kind, loss):
    problem = Problem(data(kind), loss, "nonneg", "nonneg")
    W, H = begin(problem)
    q = problem.model(W, H.mT)
    torch.testing.assert_close(q.grad(W), problem.gradient(W, H.mT), rtol=1e-9, atol=1e-9)
    if loss == "frobenius":
        other = W + 0.3
        change = problem.row_losses(other, H.mT) - problem.row_losses(W, H.mT)
        torch.testing.assert_close(q.value(other) - q.value(W), change)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("batch", [(), (7,)])
def test_the_diagonal_bound_lies_above_the_curvature(signed, batch):
    g = torch.Generator().manual_seed(0)
    F = torch.rand(*batch, 30, 5, generator=g, dtype=torch.float64) - (0.5 if signed else 0)
    F[..., 2] *= 1e-4
    F[..., 3] = 0
    q = Quadratic(F.mT @ F, torch.zeros(7, 5, dtype=torch.float64))
    gap = torch.diag_embed(q.bound().expand(*batch, 5) if batch else q.bound()[0]) - q.G
    assert torch.linalg.eigvalsh(gap).min() >= -1e-12 * q.G.abs().max()
    assert (q.bound()[..., 3] == 0).all()
    if not signed:
        scale = torch.where(q.diag > 0, q.diag.rsqrt(), 0.0)
        tight = torch.linalg.eigvalsh(q.G * scale[..., :, None] * scale[..., None, :])[..., -1:]
        assert (q.bound() <= 1.05 * tight * q.diag + 1e-30).all()


def test_the_transpose_of_the_transpose_is_the_problem_itself_and_swaps_the_sides():
    problem = Problem(data("sparse"), "kl", "nonneg", "simplex(dim=1)")
    assert problem.T.T is problem
    assert problem.T.X.shape == (30, 40)
    W, H = begin(problem)
    torch.testing.assert_close(problem.T.value(H.mT, W.mT), problem.value(W, H))


@pytest.mark.parametrize("kind", KINDS)
def test_some_rows_of_the_problem_are_the_problem_of_some_rows(kind):
    g = torch.Generator().manual_seed(0)
    problem = Problem(data(kind), "frobenius", as_prox("l1($w)", {"w": torch.rand(40, 1, generator=g)}), "nonneg")
    W, H = begin(problem)
    rows = torch.tensor([3, 30, 7])
    torch.testing.assert_close(problem.take(rows).row_losses(W[rows], H.mT), problem.row_losses(W, H.mT)[rows])
    torch.testing.assert_close(problem.take(slice(5, 9)).gradient(W[5:9], H.mT), problem.gradient(W, H.mT)[5:9])
    torch.testing.assert_close(problem.take(rows).prox_W.value(W[rows]), (problem.prox_W.lam[rows] * W[rows].abs()).sum().double())


# ── the certificate ───────────────────────────────────────────────────────────────────────────────────────────────────


def plain_certificate(problem, W, H):
    """The definition of the certificate, cell by cell, for operators that work entry by entry."""
    x, w = cells(problem.X)
    found = []
    for A, B, prox, values, weights in ((W, H.mT, problem.prox_W, x, w), (H.mT, W, problem.prox_H.T, x.mT, w.mT)):
        pred = A @ B.mT
        bend = torch.ones_like(pred) if problem.loss.quadratic else torch.maximum(values, pred) / pred**2
        slope, D = (weights * problem.loss.grad(pred, values)) @ B, (weights * bend) @ B**2
        R = (A - prox(A - slope / D, 1 / D)) * D.sqrt()
        size = (A**2 * D).sum(0)
        found.append(((R**2).sum(0) / torch.maximum(size, 1e-10 * size.sum())).max().sqrt().item())
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize("constraints", [("nonneg", "nonneg"), ("nonneg + l1(0.2)", "box(0.01, 1)")])
def test_the_certificate_is_its_definition(kind, loss, constraints):
    problem = Problem(data(kind), loss, *constraints)
    state = sweeps(PALM(), problem, 3)
    W, H = state.W.clamp(min=1e-3), state.H.clamp(min=0.01)
    np.testing.assert_allclose([c.item() for c in problem.certificate(W, H)], plain_certificate(problem, W, H), rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_the_certificate_does_not_move_when_a_component_is_rescaled(kind, loss):
    problem = Problem(data(kind), loss, "nonneg", "nonneg")
    state = sweeps(HALS(), problem, 5)
    scale = torch.tensor([1e-6, 1.0, 1e5], dtype=torch.float64)
    before, after = problem.certificate(state.W, state.H), problem.certificate(state.W * scale, state.H / scale[:, None])
    np.testing.assert_allclose([c.item() for c in after], [c.item() for c in before], rtol=1e-6)


@pytest.mark.parametrize("loss", ["frobenius", "kl"])
@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_the_certificate_does_not_move_with_the_scale_of_the_data(loss, factor):
    X = data("dense").entries()
    state = sweeps(HALS(), Problem(X, loss, "nonneg", "nonneg"), 5)
    before = Problem(X, loss, "nonneg", "nonneg").certificate(state.W, state.H)
    after = Problem(X * factor, loss, "nonneg", "nonneg").certificate(state.W * factor, state.H)
    np.testing.assert_allclose([c.item() for c in after], [c.item() for c in before], rtol=1e-6)


@pytest.mark.parametrize("rank", [2, 3, 6])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_certificate_is_large_after_one_multiplicative_step_under_kl(rank, kind):
    for seed in range(5):
        problem = Problem(data(kind, seed=seed), "kl", "nonneg", "nonneg")
        W, H = begin(problem, seed, rank)
        x, _ = cells(problem.X)
        W = W * ((x / (W @ H)) @ H.mT) / H.sum(1)
        H = H * (W.mT @ (x / (W @ H))) / W.sum(0)[:, None]
        assert max(c.item() for c in problem.certificate(W, H)) > 0.01


def test_the_certificate_is_zero_at_a_minimum_and_not_beside_it():
    g = torch.Generator().manual_seed(0)
    W, H = torch.rand(20, 3, generator=g, dtype=torch.float64), torch.rand(3, 15, generator=g, dtype=torch.float64)
    problem = Problem(W @ H, "frobenius", "nonneg", "nonneg")
    assert max(c.item() for c in problem.certificate(W, H)) < 1e-13
    assert max(c.item() for c in problem.certificate(W + 0.01, H)) > 1e-3


def test_a_dying_component_does_not_hold_the_certificate_up():
    g = torch.Generator().manual_seed(0)
    W, H = torch.rand(20, 3, generator=g, dtype=torch.float64), torch.rand(3, 15, generator=g, dtype=torch.float64)
    problem = Problem(W @ H, "frobenius", "nonneg", "nonneg")
    W2, H2 = (
        torch.cat([W, 1e-9 * torch.rand(20, 1, generator=g, dtype=torch.float64)], 1),
        torch.cat([H, torch.ones(1, 15, dtype=torch.float64)]),
    )
    assert problem.certificate(W2, H2)[0].item() < 1e-3


@pytest.mark.parametrize("loss", ["frobenius", "kl"])
def test_rows_without_data_zero_factors_and_dead_components_leave_the_certificate_finite(loss):
    X = data("dense").entries().clone()
    X[3], X[:, 5] = torch.nan, torch.nan
    for M in (Dense(X), Observed(X)):
        for constraints in (("nonneg", "nonneg"), ("nonneg", "simplex(dim=1)"), ("simplex(dim=1)", "nonneg")):
            problem = Problem(M, loss, *constraints)
            state = sweeps(PALM(), problem, 4)
            assert all(c.isfinite() for c in problem.certificate(state.W, state.H))
    problem = Problem(torch.zeros(4, 3, dtype=torch.float64), loss, "nonneg", "nonneg")
    zero = torch.zeros(4, 2, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    assert [c.item() for c in problem.certificate(*zero)] == [0, 0]


def test_an_inexact_operator_has_no_certificate():
    problem = Problem(data("dense"), "frobenius", "unity(dim=0)", "nonneg")
    w, h = problem.certificate(*begin(problem))
    assert w.isnan()
    assert h.isfinite()


class Averaged(Prox):
    """Both entries of a row equal: known to honour only a step that is the same for the whole row."""

    metric, is_set, cone = "group", True, True
    dims = (1,)

    def _prox(self, x, step):
        return x.mean(1, keepdim=True).expand_as(x).clone()


def test_an_operator_that_honours_only_common_steps_is_given_common_steps():
    problem = Problem(data("weighted"), "frobenius", Averaged(), "nonneg")
    state = sweeps(PALM(), problem, 200)
    assert (state.W[:, :1] == state.W).all()
    assert problem.certificate(state.W, state.H)[0] < 1e-6


# ── the parts fit together ────────────────────────────────────────────────────────────────────────────────────────────


class Ridge(Tie):
    """λ/2 (Σ W² + Σ H²), which a prox says as well."""

    def __init__(self, lam):
        self.lam = lam

    def value(self, W, H):
        return self.lam / 2 * (W.square().sum() + H.square().sum())

    def model(self, A, B):
        return Quadratic(self.lam * torch.eye(A.shape[1], dtype=A.dtype), torch.zeros_like(A))

    T = property(lambda self: self)


@pytest.mark.parametrize("kind", ["dense", "observed"])
def test_a_tie_adds_its_value_and_its_model(kind):
    tied = Problem(data(kind), "frobenius", "nonneg", "nonneg", ties=(Ridge(0.7),))
    plain = Problem(data(kind), "frobenius", "nonneg + ridge(0.7)", "nonneg + ridge(0.7)")
    a, b = sweeps(HALS(inner=1), tied, 30), sweeps(HALS(inner=1), plain, 30)
    torch.testing.assert_close(a.W, b.W)
    torch.testing.assert_close(tied.value(a.W, a.H), plain.value(b.W, b.H))
    assert max(c.item() for c in tied.certificate(a.W, a.H)) < 0.05


def test_kl_refuses_negative_data_by_its_smallest_value():
    with pytest.raises(ValueError, match=r"-3.*frobenius"):
        Problem([[1.0, -3.0]], "kl")


def test_a_sparse_matrix_needs_a_loss_that_knows_its_zeros():
    class Odd(KL):
        def at_zero(self, A, B):
            return super(KL, self).at_zero(A, B)

    with pytest.raises(ValueError, match="Observed"):
        Problem(Sparse(torch.eye(3).to_sparse()), Odd())


def test_a_loss_that_is_none_is_refused_with_an_example():
    with pytest.raises(ValueError, match="did you mean Frobenius"):
        Problem([[1.0]], "frobenus")
    with pytest.raises(TypeError, match="KL"):
        Problem([[1.0]], 3)
