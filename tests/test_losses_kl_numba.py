"""The compiled cells of the Kullback-Leibler divergence beside their torch twin."""

import pytest
import torch

from proxfactor.compiled import wait_for_kernels
from proxfactor.losses import KL
from proxfactor.matrix import Dense, Observed, Sparse
from proxfactor.problem import Problem


def cells(kind, dtype, weighted):
    g = torch.Generator().manual_seed(0)
    X = torch.poisson(2 * torch.rand(40, 30, generator=g), generator=g).to(dtype)
    w = torch.randint(0, 3, X.shape, generator=g).to(dtype) if weighted else None
    if kind is Dense:
        return Dense(X, w)
    M = kind(X.to_sparse_csr() if kind is Sparse else X.masked_fill(X == 1, torch.nan))
    M.weight = None if w is None else w.flatten()[: M.stored].clone()
    return M


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [Dense, Sparse, Observed])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("what", ["__call__", "grad", "yardstick"])
def test_the_cells_are_those_of_the_torch_form(kind, dtype, weighted, what, monkeypatch):
    X = cells(kind, dtype, weighted)
    g = torch.Generator().manual_seed(1)
    A, B = torch.rand(40, 3, generator=g).to(dtype), torch.rand(30, 3, generator=g).to(dtype)
    A[0], A[1] = 0, 1e-30  # predictions of nothing, and of what has no square
    eps = torch.finfo(dtype).eps
    wait_for_kernels("losses._kl_numba", dtype)
    for p, a, b in ((Problem(X, "kl"), A, B), (Problem(X, "kl").T, B, A)):
        pred = p.X.predict(a, b)
        pred.reshape(-1)[5] = p.X.entries().reshape(-1)[5] * (1 + 1e-3)  # where the difference of logarithms cancels
        assert p.loss.compiled(what, pred) is not None
        ours = p._cells(what, pred)
        monkeypatch.setattr(KL, "compiled", lambda *_: None)
        torch.testing.assert_close(ours, p._cells(what, pred), rtol=100 * eps, atol=100 * eps)
        monkeypatch.undo()
        assert ours.stride() == p.X.entries().stride()


def test_the_curvature_where_the_data_is_zero_is_worked_out_for_both_factors_at_once():
    g = torch.Generator().manual_seed(0)
    X, W, H = (
        torch.poisson(torch.rand(20, 15, generator=g), generator=g),
        torch.rand(20, 3, generator=g),
        torch.rand(3, 15, generator=g),
    )
    problem, dense = Problem(Sparse(X.to_sparse_csr()), "kl", "nonneg", "nonneg"), Problem(X, "kl", "nonneg", "nonneg")
    for factor in (1.0, 2.0):  # what is kept for one pair is not taken for another
        given = W * factor, H
        torch.testing.assert_close(problem.certificate(*given), dense.certificate(*given), rtol=1e-4, atol=0)
    problem.stationarity(W, H.mT)
    torch.testing.assert_close(problem.T.stationarity(2 * H.mT, W), dense.T.stationarity(2 * H.mT, W), rtol=1e-4, atol=0)
