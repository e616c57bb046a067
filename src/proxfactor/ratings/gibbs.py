"""Bayesian matrix factorization of cells with holes, in half-sweeps that draw, or in half-sweeps that take the mean.

    t_ui = x_u · y_i + b_u + c_i + ε,   ε ~ N(0, 1 / (w_ui α_u β_i))

A row is z_u = (x_u, b_u) ~ N(Bᵀ φ_u, P⁻¹), where φ_u (a one first) tells what is known of it beforehand: here, from who
rated what. (B, P) have a normal-Wishart prior, α_u and β_i gamma priors, and all of it is learned. Given the other side,
the cells of a row are a linear regression: z_u is normal with precision P + α_u Σ p f fᵀ, p = w β_i, f = (y_i, 1). What is
written for users holds for items. (Salakhutdinov and Mnih 2008; the regression on φ: Simm et al. 2015.)

``Draws`` makes it a Gibbs sampler. ``Means`` makes it mean-field variational: each draw becomes its mean, each square its
expectation, and the entries of z_u have the variances 1 / precision_qq. (Raiko, Ilin and Karhunen 2007.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compiled import WORTH, wait_for_kernels

CELLS = 2**18
"""Cells of rows that the torch form solves side by side: their factors are all that it holds beside the model's."""

SHAPES = torch.logspace(np.log10(2.0), np.log10(200.0), 60, dtype=torch.float64)
"""The shapes that the gamma prior of the noise may have, each as likely beforehand; 2 upwards, that variances have a mean."""

VAGUE = 0.01
"""Shape and rate of the gamma prior that the rate of the noise's prior has."""

CLEAR = 1e8
"""The largest precision: noise below a ten-thousandth of the data's deviation is not told from none."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one side's rows: col, t and w (None: all one) of row r from indptr[r] to indptr[r + 1]."""

    indptr: Tensor
    col: Tensor
    t: Tensor
    w: Tensor | None = None

    @classmethod
    def of(cls, row: Any, col: Any, t: Any, w: Any, rows: int, device: Any = "cpu") -> Cells:
        """From coordinates in any order."""
        order = np.argsort(row, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows))])

        def moved(a: Any, dtype: type) -> Tensor:
            return torch.from_numpy(np.asarray(a, dtype)).to(device)

        col, t, w = (None if a is None else np.asarray(a)[order] for a in (col, t, w))
        return cls(moved(indptr, np.int64), moved(col, np.int32), moved(t, np.float64), None if w is None else moved(w, np.float64))

    @cached_property
    def count(self) -> Tensor:
        return self.indptr.diff()

    @cached_property
    def blocks(self) -> list[tuple[Tensor, int]]:
        """Rows of like length, and that length: what is solved side by side."""
        count, order = self.count.sort(descending=True, stable=True)
        fewer, first, found = (-count).cpu().numpy(), 0, []
        while first < len(fewer):
            longest = max(1, -int(fewer[first]))
            last = min(int(np.searchsorted(fewer, -0.75 * longest, "right")), first + max(1, CELLS // longest))
            last = max(last, first + 1) if longest > 1 else min(len(fewer), first + CELLS)
            found.append((order[first:last], longest))
            first = last
        return found


class Draws:
    """What chance gives: the same numbers on every device, however many threads there are."""

    def __init__(self, seed: int, device: Any = "cpu"):
        self.rng, self.device = np.random.Generator(np.random.Philox(seed)), device

    def normal(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.rng.standard_normal(shape)).to(self.device)

    def gamma(self, shape: Tensor) -> tuple[Tensor, Tensor]:
        """Of the scale 1, and its logarithm."""
        x = torch.from_numpy(np.asarray(self.rng.standard_gamma(shape.cpu().numpy()))).to(self.device)
        x = x.clamp(min=1e-300)
        return x, x.log()

    def wishart(self, freedom: float, scatter: Tensor) -> Tensor:
        """Of the mean freedom · scatter⁻¹. (Bartlett 1933.)"""
        k = len(scatter)
        A = np.tril(self.rng.standard_normal((k, k)), -1)
        A[np.diag_indices(k)] = np.sqrt(self.rng.chisquare(freedom - np.arange(k)))
        half = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter).mT, torch.from_numpy(A).to(self.device), upper=True)
        return half @ half.mT

    def one_of(self, values: Tensor, log_odds: Tensor) -> Tensor:
        at = (log_odds - log_odds.logsumexp(0)).exp().cumsum(0) < self.rng.random()
        return values[at.sum().clamp(max=len(values) - 1)]


class Means:
    """What chance gives on average."""

    def normal(self, *shape: int) -> None:
        return None

    def gamma(self, shape: Tensor) -> tuple[Tensor, Tensor]:
        return shape, shape.digamma()

    def wishart(self, freedom: float, scatter: Tensor) -> Tensor:
        P = freedom * torch.linalg.inv(scatter)
        return (P + P.mT) / 2

    def one_of(self, values: Tensor, log_odds: Tensor) -> Tensor:
        return values[log_odds.argmax()]


@dataclass(eq=False)
class Side:
    """Users, or items: their rows, and what governs them. A half-step overwrites all but cells, known and group."""

    cells: Cells
    known: Tensor
    """(rows, d): φ, a one first."""
    group: Tensor
    """(d,): which columns of φ share a prior precision; 0 is the one, whose precision is 1."""
    Z: Tensor
    """(rows, k + 1): x and b."""
    V: Tensor | None
    """(rows, k + 1): their variances, of Means only."""
    noise: Tensor
    """(rows,): α, or β."""
    tied: bool
    """Whether the rate of the noise's prior is its shape, so that its mean is one: it must be on one side of the two."""
    shape: Tensor
    rate: Tensor
    tau: Tensor
    """(groups,): prior precisions of the rows of B, as multiples of P."""
    B: Tensor = None  # type: ignore[assignment]
    P: Tensor = None  # type: ignore[assignment]
    squares: Tensor = None  # type: ignore[assignment]
    """(rows,): Σ p (t - prediction)², or its expectation."""
    variance: Tensor = None  # type: ignore[assignment]
    """(rows,): the mean of 1 / noise given the rest."""

    @cached_property
    def known_gram(self) -> Tensor:
        return self.known.mT @ self.known


def side(cells: Cells, known: Tensor, group: Tensor, Z: Tensor, *, tied: bool, means: bool = False) -> Side:
    """A side that knows nothing yet but where its rows start."""
    one = Z.new_tensor(1.0)
    V = torch.full_like(Z, 0.1) if means else None
    tau = Z.new_full((int(group.max()) + 1,), 10.0)
    tau[0] = 1
    return Side(cells, known, group, Z, V, torch.ones_like(Z[:, 0]), tied, 3 * one, 3 * one, tau)


def half(mine: Side, other: Side, chance: Any, rows: Callable) -> None:
    """Draws, in this order: what governs the rows; the rows; their noise, and what governs it."""
    govern(mine, chance)
    draw_rows(mine, other.noise, other.Z, other.V, chance, rows)
    govern_noise(mine, chance, draw_noise(mine, chance))


def draw_rows(s: Side, noise: Tensor, Z: Tensor, V: Tensor | None, chance: Any, rows: Callable) -> None:
    """The rows given the other side's, and given what governs them."""
    prior = s.known @ (s.B @ s.P)
    s.Z, s.V, s.squares = rows(s.cells, noise, s.noise, Z, V, s.P, prior, chance.normal(*s.Z.shape))


def govern(s: Side, chance: Any) -> None:
    """B, P and tau given the rows: P ~ Wishart(k + 2, I) beforehand, B | P ~ N(0, 1/tau ⊗ P⁻¹), tau ~ Gamma(½, ½)."""
    tau = s.tau[s.group]
    C = torch.linalg.cholesky(s.known_gram + tau.diag())
    s.B = torch.cholesky_solve(s.known.mT @ s.Z, C)
    rest = s.Z - s.known @ s.B
    scatter = rest.mT @ rest + s.B.mT @ (tau[:, None] * s.B) + torch.eye(s.Z.shape[1]).to(s.Z)
    if s.V is not None:
        scatter += s.V.sum(0).diag()
    s.P = chance.wishart(len(s.Z) + s.Z.shape[1] + 1, scatter)
    normal = chance.normal(*s.B.shape)
    if normal is not None:
        s.B = s.B + torch.linalg.solve_triangular(C.mT, _times_root(normal, s.P), upper=True)
    squares = ((s.B @ s.P) * s.B).sum(1)
    if s.V is not None:
        squares += s.Z.shape[1] * torch.cholesky_inverse(C).diagonal()
    size = s.group.bincount().to(s.Z) * s.Z.shape[1]
    sums = torch.zeros_like(s.tau).index_add_(0, s.group, squares)
    s.tau = chance.gamma((1 + size) / 2)[0] / ((1 + sums) / 2)
    s.tau[0] = 1


def _times_root(normal: Tensor, P: Tensor) -> Tensor:
    """Rows of unit variance become rows of covariance P⁻¹."""
    return torch.linalg.solve_triangular(torch.linalg.cholesky(P), normal, upper=False, left=False)


def draw_noise(s: Side, chance: Any) -> Tensor:
    """The noise given the squares; the sum of its logarithms."""
    shape, rate = s.shape + s.cells.count / 2, s.rate + s.squares / 2
    x, log = chance.gamma(shape)
    s.noise, s.variance = (x / rate).clamp(max=CLEAR), rate / (shape - 1)
    return (log - rate.log()).sum()


def govern_noise(s: Side, chance: Any, logs: Tensor) -> None:
    """The prior of the noise given the noise: its rate ~ Gamma(VAGUE, VAGUE), or tied to the shape; then the shape, of SHAPES."""
    m, total, shapes = len(s.noise), s.noise.sum(), SHAPES.to(s.noise)
    if not s.tied:
        s.rate = chance.gamma(VAGUE + m * s.shape)[0] / (VAGUE + total)
    rates = shapes if s.tied else s.rate
    s.shape = chance.one_of(shapes, m * (shapes * rates.log() - shapes.lgamma()) + (shapes - 1) * logs - rates * total)
    if s.tied:
        s.rate = s.shape


def rows_for(cells: int, columns: int, sweeps: int, device: Any) -> Callable:
    """The compiled rows where they are worth the wait for the compiler, which data and options alone decide."""
    if torch.device(device).type != "cpu" or 2.0 * cells * columns**2 * sweeps < WORTH:
        return rows_torch
    return wait_for_kernels("ratings._gibbs_numba", torch.float64)


def rows_torch(
    cells: Cells, noise: Tensor, own: Tensor, Z: Tensor, V: Tensor | None, P: Tensor, H: Tensor, normal: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """(rows, variances, squares): the rows of one side given the other's, their squares Σ p (t - c - z·f)², p = w noise.

    z = A⁻¹ h + U⁻¹ normal with A = UᵀU = P + own Σ p f fᵀ and h = H + own Σ p (t - c) f, f = (y, 1), over the cells of the
    row. Z (columns, k + 1) holds y and c, V their variances: then Σ p diag(v) is added to A, and the variances are 1/A_qq.
    """
    out, squares = Z.new_empty(len(own), Z.shape[1]), torch.empty_like(own)
    spread = None if V is None else torch.empty_like(out)
    for rows, longest in cells.blocks:
        at = cells.indptr[rows, None] + torch.arange(longest, device=rows.device)
        there = at < cells.indptr[rows + 1, None]
        at = at.clamp(max=max(0, len(cells.t) - 1)) if len(cells.t) else at[:, :0]
        there = there[:, : at.shape[1]]
        col = cells.col[at].long()
        p = there * noise[col] * (1 if cells.w is None else cells.w[at])
        F, t = Z[col], cells.t[at] - Z[col, -1]
        F[..., -1] = 1
        Fp = F * p[..., None]
        gram, mine = F.mT @ Fp, own[rows]
        A = P + mine[:, None, None] * gram
        h = H[rows] + mine[:, None] * (Fp.mT @ t[..., None])[..., 0]
        more = torch.zeros_like(mine)
        if V is not None and spread is not None:
            D = (V[col] * p[..., None]).sum(1)
            more = D[:, -1].clone()
            D[:, -1] = 0  # the bias stands beside a one, which has no variance; its own is the target's
            diagonal = A.diagonal(dim1=1, dim2=2)
            diagonal += mine[:, None] * D
            spread[rows] = 1 / diagonal
            more += ((gram.diagonal(dim1=1, dim2=2) + D) / diagonal).sum(1)
        L = torch.linalg.cholesky(A)
        z = torch.linalg.solve_triangular(L, h[..., None], upper=False)
        if normal is not None:
            z = z + normal[rows, :, None]
        z = torch.linalg.solve_triangular(L.mT, z, upper=True)
        if V is not None:
            more += (z[..., 0] ** 2 * D).sum(1)
        out[rows] = z[..., 0]
        squares[rows] = (p * (t - (F @ z)[..., 0]) ** 2).sum(1) + more
    return out, spread, squares
