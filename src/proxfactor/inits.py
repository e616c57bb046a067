"""Starts for W and H: drawn by global row number, so that a start does not depend on how many processes hold the data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .comm import Comm
from .matrix import Dense, Matrix, floating
from .problem import Problem
from .prox import Prox
from .prox.base import largest

NAMES = ("random", "svd")


def start(problem: Problem, rank: int, init: Any = "auto", seed: int = 0) -> tuple[Tensor, Tensor]:
    """A start W (m, k), H (k, n) inside both constraints: ``init`` is "random" ("auto" means it), "svd", or a pair (W, H).

    Raises ValueError for an unknown name, a pair of the wrong shape, or one outside the domain of its constraint.
    """
    if isinstance(init, str):
        return _named(problem, rank, init.strip().lower(), seed)
    if not isinstance(init, tuple | list) or len(init) != 2:
        raise ValueError(f"init is {init!r}; it must be one of {', '.join(NAMES)}, a pair (W, H), or a Result")
    W, H = (floating(F, f"init: {name}") for F, name in zip(init, "WH", strict=True))
    m, n = problem.X.shape
    for name, F, shape, prox in (("W", W, (m, rank), problem.prox_W), ("H", H, (rank, n), problem.prox_H)):
        if tuple(F.shape) != shape:
            raise ValueError(f"init: {name} has shape {tuple(F.shape)}; for this data and rank {rank} it must be {shape}")
        if not bool(F.isfinite().all()):
            raise ValueError(f"init: {name} holds NaN or inf; every entry of a start is finite")
        F = F.to(problem.X.device, problem.X.dtype)
        away, size = prox.violation(F).amax(), F.abs().amax()
        if bool(away > torch.finfo(F.dtype).eps ** 0.5 * torch.maximum(size, prox(F, 0.0).abs().amax())):
            raise ValueError(f"init: {name} is up to {away.item():.3g} outside {prox!r}; start inside, e.g. from prox({name}, 0.0)")
    W, H = W.to(problem.X.device, problem.X.dtype), H.to(problem.X.device, problem.X.dtype)
    return lifted(problem, W, H)


def _named(problem: Problem, rank: int, name: str, seed: int) -> tuple[Tensor, Tensor]:
    if name in ("auto", "random"):
        W, Ht = _random(problem, rank, seed, 0), _random(problem.T, rank, seed, 1)
    elif name == "svd":
        W, Ht = _svd(problem, rank, seed)
    else:
        near = difflib.get_close_matches(name, NAMES, n=1)
        raise ValueError(f"unknown init {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NAMES)}"))
    W, Ht = _scaled(problem, problem.prox_W(W, 0.0), problem.T.prox_W(Ht, 0.0))
    return lifted(problem, W, Ht.mT)


def uniforms(count: int, rank: int, seed: int, offset: int = 0, stream: int = 0) -> Tensor:
    """(count, rank) float64 numbers in [0, 1): rows ``offset`` and on of one endless table that seed and stream decide.

    >>> bool((uniforms(5, 3, seed=1)[2:] == uniforms(3, 3, seed=1, offset=2)).all())
    True
    """
    steps = -(-rank // 4)  # one step of the counter gives four numbers
    bits = np.random.Philox(key=seed, counter=[offset * steps, 0, 0, stream])
    return torch.from_numpy(np.random.Generator(bits).random((count, 4 * steps))[:, :rank].copy())


def _random(problem: Problem, rank: int, seed: int, stream: int) -> Tensor:
    """Numbers in the scale of the constraint: of both signs where it allows them, else positive."""
    m = problem.X.shape[0]
    u = uniforms(m, rank, seed, problem.rows.offset(m), stream).to(problem.X.device, problem.X.dtype)
    centre = problem.prox_W.rest(torch.zeros_like(u)).abs().mean()
    u = u * torch.where(centre > 0, 2 * centre, 1.0)
    return 2 * u - 1 if _signed(problem.prox_W, u) and _signed_data(problem) else u


def _signed(prox: Prox, like: Tensor) -> bool:
    return bool((prox(-torch.ones_like(like), 0.0) < 0).any())


def _signed_data(problem: Problem) -> bool:
    (low,) = problem.rows.sum((problem.X.entries() < 0).any().double())
    return bool(problem.cols.sum(low)[0] > 0)


def _svd(problem: Problem, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """The leading singular pairs of the data (holes count as zeros), each pair cut to one sign where a side needs it.

    Randomized range with four power steps (Halko, Martinsson and Tropp 2011); the sign rule is that of Boutsidis and
    Gallopoulos (2008), zeros become a hundredth of the mean.
    """
    if problem.rows.size > 1 or problem.cols.size > 1:
        raise ValueError("init='svd' needs the whole matrix in one process; use init='random'")
    X: Matrix = problem._data
    m, n = X.shape
    width = min(rank + 10, m, n)
    Q = X @ (uniforms(n, width, seed, stream=2).to(X.device, X.dtype) - 0.5)
    for _ in range(4):
        Q = X @ torch.linalg.qr(X.T @ torch.linalg.qr(Q)[0])[0]
    Q = torch.linalg.qr(Q)[0]
    U, s, Vt = torch.linalg.svd((X.T @ Q).mT, full_matrices=False)
    W, H = (Q @ U)[:, :rank] * s[:rank].sqrt(), Vt[:rank].mT * s[:rank].sqrt()
    if W.shape[1] < rank:  # more components than the data has singular pairs: the rest is random and small
        extra, scale = rank - W.shape[1], 0.01 * W.abs().mean()
        more = [uniforms(c, extra, seed, stream=3 + i).to(X.device, X.dtype) * scale for i, c in enumerate((m, n))]
        W, H = torch.cat([W, more[0]], 1), torch.cat([H, more[1]], 1)
    if _signed(problem.prox_W, W) and _signed(problem.T.prox_W, H):
        return W, H
    plus, minus = (W.clamp(min=0), H.clamp(min=0)), ((-W).clamp(min=0), (-H).clamp(min=0))
    flip = (plus[0].norm(dim=0) * plus[1].norm(dim=0)) < (minus[0].norm(dim=0) * minus[1].norm(dim=0))
    W, H = torch.where(flip, -W, W), torch.where(flip, -H, H)
    W = W if _signed(problem.prox_W, W) else W.clamp(min=0.01 * W.abs().mean().item())
    H = H if _signed(problem.T.prox_W, H) else H.clamp(min=0.01 * H.abs().mean().item())
    return W, H


def range_of(problem: Problem, width: int, seed: int = 0, power: int = 1) -> tuple[Tensor, Tensor]:
    """Q (m, width) and B = QᵀX (width, n): nearly the X ≈ Q B of that width that is closest, from 2 + 2 power products with X.

    The columns of Q are orthonormal; those beyond the rank of X are 0. Cells without data hold a product of rank one, fitted
    to the others. (Randomized range: Halko, Martinsson and Tropp 2011.)

    >>> Q, B = range_of(Problem([[1.0, 2.0], [2.0, 4.0]]), 1)
    >>> (Q @ B).round(decimals=6)
    tensor([[1., 2.],
            [2., 4.]], dtype=torch.float64)
    """
    X, rows, cols = _filled(problem), problem.rows, problem.cols
    n = X.shape[1]
    drawn = uniforms(n, width, seed, cols.offset(n), stream=2).to(problem.X.device, problem.X.dtype) - 0.5
    Q = _orthonormal(cols.sum(X @ drawn)[0], rows)
    for _ in range(power):
        P = _orthonormal(rows.sum(X.T @ Q)[0], cols)
        Q = _orthonormal(cols.sum(X @ P)[0], rows)
    return Q, rows.sum(X.T @ Q)[0].mT


def _orthonormal(Y: Tensor, comm: Comm) -> Tensor:
    """An orthonormal basis of Y's columns, whose rows are spread; 0 where they have fewer dimensions than columns.

    The Gram matrix is all that crosses processes; it squares the condition number, and a second round repairs what that costs.
    """
    size = comm.max(largest(Y))
    Y = Y / torch.where(size > 0, size, 1.0)
    for _ in range(2):
        wide = Y.double()
        s, V = torch.linalg.eigh(comm.sum(wide.mT @ wide)[0])
        Y = (wide @ (V * torch.where(s > 1e-13 * s[-1], s.rsqrt(), 0.0))).to(Y)
    return Y


@dataclass(frozen=True)
class _Plus:
    """Stored + A Bᵀ, of which nothing but the two is ever formed."""

    stored: Matrix
    A: Tensor
    B: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.stored.shape

    @property
    def T(self) -> _Plus:
        return _Plus(self.stored.T, self.B, self.A)

    def __matmul__(self, C: Tensor) -> Tensor:
        return self.stored @ C + self.A @ (self.B.mT @ C)


def _filled(problem: Problem) -> Matrix | _Plus:
    """The data, its holes filled with a product of rank one: w x + (1 - w) r c, the weights w at most 1.

    It is a step of EM for weighted approximation from that product (Srebro and Jaakkola 2003).
    """
    X, rows, cols = problem.X, problem.rows, problem.cols
    holes = not X.background and (X.weight is not None or not isinstance(X, Dense))
    if not cols.max(rows.max(torch.tensor(float(holes), device=X.device))):  # asked of all: one process may hold no hole
        return problem._data
    w = torch.ones_like(X.entries()) if X.weight is None else X.weight
    most = cols.max(rows.max(largest(w)))
    weights = X.like(w / torch.where(most > 0, most, 1.0))
    data = X.like(weights.entries() * X.entries())
    r, c = w.new_ones(X.shape[0], 1), w.new_ones(X.shape[1], 1)
    for _ in range(3):
        r = _ratio(*cols.sum(data @ c, weights @ c.square()))
        c = _ratio(*rows.sum(data.T @ r, weights.T @ r.square()))
    return _Plus(X.like(weights.entries() * (X.entries() - X.predict(r, c))), r, c)


def _ratio(top: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, top / below, 0.0)


def _scaled(problem: Problem, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """A and B times the number that fits the data best, as far as the constraints let a factor be scaled."""
    top, below = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for r, part in problem._pieces:
        X, a, b = part.X, A[r].double(), B.double()
        pred = X.predict(a, b)
        w = torch.ones((), dtype=torch.float64, device=pred.device) if X.weight is None else X.weight.double()
        top = top.to(pred) + (w * X.entries().double() * pred).sum()
        below = below.to(pred) + ((w - X.background) * pred.square()).sum()
        below = below + X.background * ((a.mT @ a) * (b.mT @ b)).sum() if X.background else below
    top, below = problem.cols.sum(*problem.rows.sum(top, below))
    free = [problem.prox_W.cone, problem.prox_H.cone]
    if not any(free):
        return A, B
    best = torch.where((top > 0) & (below > 0), top / below, 1.0).to(A)
    if all(free):
        return A * best.sqrt(), B * best.sqrt()
    return (A * best, B) if free[0] else (A, B * best)


def lifted(problem: Problem, W: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """The start, raised from zero as little as makes its loss finite: under KL a 0 predicted for data is infinitely wrong."""
    for lift in (0.0, 1e-3, 1e-2, 0.1, 1.0, 10.0):
        w = problem.prox_W(W + lift * _size(W), 0.0) if lift else W
        h = problem.prox_H(H + lift * _size(H), 0.0) if lift else H
        (loss,) = problem.rows.sum(problem.row_losses(w, h.mT).sum())
        if bool(loss.isfinite()):
            return w, h
    raise ValueError(
        f"the loss of the start is {loss.item()}: {problem.loss!r} cannot be evaluated inside {problem.prox_W!r} on W and "
        f"{problem.prox_H!r} on H; loosen a constraint, scale the data (values near 1 are best), or give another init=(W, H)"
    )


def _size(F: Tensor) -> Tensor:
    size = F.abs().mean()
    return torch.where(size > 0, size, 1.0)
