"""ALS: all components of a row at once, by conjugate gradients where the other factor's Gram matrix is diagonal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..compiled import kernels
from ..matrix import Stored
from ..problem import Problem, Quadratic
from ..prox import Prox, Step
from .base import Alternating, Memory

SETTLED = 1e-14
"""Of what the first residual was, in the square: a row that has come so far takes no more steps."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ALS(Alternating):
    """Alternating least squares under a ridge λ_i |a_i|²: row i solves (G_i + λ_i) a_i = c_i, G_i = b0 BᵀB + Σ_j e_ij b_j b_jᵀ.

    b0 is the weight of the cells that are not stored, e what a stored cell weighs more. ``steps`` conjugate gradients from where
    the row is, preconditioned by the diagonal of G_i + λ_i in the eigenbasis of BᵀB, where b0 BᵀB is a diagonal itself, or of
    Σ_j n_j b_j b_jᵀ, n_j the weight of column j, where b0 = 0. A step costs two products with the stored cells, whatever the
    rank; two keep up with exact rows where b0 > 0, three where only stored cells count. The memory's "gain" (m,) is by how much
    they lower each row. ``steps=None`` solves exactly, by Cholesky. (Hu, Koren and Volinsky 2008; Takács, Pilászy and Tikk 2011,
    of conjugate gradients.)
    """

    steps: int | None = 3

    def __post_init__(self) -> None:
        if self.steps is not None and (isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1):
            raise ValueError(f"steps of ALS is {self.steps!r}; it is a whole number, at least one, or None for exact rows")

    @staticmethod
    def fits(problem: Problem) -> bool:
        """Whether each row is a least squares problem of its own."""
        spread = problem.rows.size > 1 or problem.cols.size > 1
        plain = _of_rows(problem.prox_W.ridge) and _of_rows(problem.prox_H.T.ridge)
        return problem.loss.quadratic and isinstance(problem.X, Stored) and plain and not problem.ties and not spread

    def check(self, problem: Problem) -> None:
        if not self.fits(problem):
            raise ValueError(
                "ALS is for the squared error on sparse or observed cells in one process, with nothing on W and H but a ridge "
                f"that is the same along a row of W and a column of H; here are {problem.loss!r} on {problem.X!r}, "
                f"{problem.prox_W!r} and {problem.prox_H!r}; use solver='auto'"
            )

    def patient(self) -> ALS:
        return ALS(steps=None if self.steps is None else 8 * self.steps)

    def rows(self, prox: Prox, q: Quadratic, A: Tensor, memory: Memory) -> Tensor:
        ridge = _ridge(prox, A)
        G = (q.G if q.G.ndim == 3 else q.G[None]) + torch.diag_embed(ridge.expand(-1, A.shape[1]))
        bend = G.diagonal(dim1=-2, dim2=-1)
        floor = 4 * torch.finfo(G.dtype).eps * bend.amax(-1, keepdim=True)  # so that fewer cells than components are no failure
        G = G + torch.diag_embed(torch.where(bend > 0, floor, 1.0))
        L, _ = torch.linalg.cholesky_ex(G)
        return torch.cholesky_solve(q.C[..., None], L)[..., 0]

    def half(self, p: Problem, A: Tensor, B: Tensor, memory: Memory) -> Tensor:
        if self.steps is None:
            return super().half(p, A, B, memory)
        X: Any = p.X
        p.read()
        each = X.background or torch.bincount(X.col, X.weight, len(B)).to(B)[:, None]  # counted: a transpose costs more than a step
        M = (each * B).mT @ B
        s, V = torch.linalg.eigh(M.double())
        V = V.to(B.dtype)
        s = s.clamp(min=0).to(B.dtype) if X.background else torch.zeros_like(s, dtype=B.dtype)
        x, excess = p._data.entries(), p._excess
        e = torch.zeros_like(x) if excess is None else excess
        work = 2 * len(x) * A.shape[1] * (self.steps + 2)
        here = X.device.type == "cpu" and X.col.dtype == torch.int32
        compiled = kernels("solvers._als_numba", A.dtype, work) if here else None
        lam = _ridge(p.prox_W, A)
        A, memory["gain"] = (compiled or conjugated)(X, x, e, (A @ V).contiguous(), (B @ V).contiguous(), s, lam, self.steps)
        return A @ V.mT


def conjugated(X: Stored, x: Tensor, e: Tensor, A: Tensor, B: Tensor, s: Tensor, lam: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """A (m, k), and by how much each row (m,) is lower, after preconditioned conjugate gradients on

    ½ Σ_q (s_q + λ_i) a_iq² + ½ Σ_j e_ij (a_i·b_j)² - Σ_j x_ij a_i·b_j.

    The rows go side by side: each product is one with the stored cells of X, whose own values do not matter. ``lam`` is (m, 1)
    or (1, 1).
    """
    bend = s + lam

    def times(P: Tensor) -> Tensor:
        return bend * P + X.like(e * X.predict(P, B)) @ B

    D = bend + X.like(e) @ B.square()
    D = torch.where(D > 0, 1 / D, 0.0)
    r = X.like(x) @ B - times(A)
    P = z = D * r
    rz = (r * z).sum(1, keepdim=True)
    settled, gain = SETTLED * rz, torch.zeros_like(rz)
    for _ in range(steps):
        Q = times(P)
        pq = (P * Q).sum(1, keepdim=True)
        a = torch.where((pq > 0) & (rz > settled), rz / pq, 0.0)
        A = A + a * P
        gain = gain + a * rz / 2
        r = r - a * Q
        z = D * r
        before, rz = rz, (r * z).sum(1, keepdim=True)
        P = z + torch.where(before > 0, rz / before, 0.0) * P
    return A, gain[:, 0]


def _of_rows(ridge: Step | None) -> bool:
    """Whether there is nothing but a ridge, of one weight along each row."""
    return ridge is not None and (not isinstance(ridge, Tensor) or ridge.ndim == 0 or ridge.shape[-1] == 1)


def _ridge(prox: Prox, A: Tensor) -> Tensor:
    """λ (m, 1), or (1, 1) where all rows have the same."""
    return torch.as_tensor(prox.ridge).to(A).reshape(-1, 1)
