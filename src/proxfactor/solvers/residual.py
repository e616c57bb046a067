"""LossADMM: for losses with kinks, whose prediction Z is split from W H."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..matrix import Matrix
from ..problem import Problem, Quadratic
from ..prox import Prox, group_metric
from .base import Alternating, Memory, State
from .hals import HALS
from .palm import PALM

LOW, HIGH = 0.02, 0.1
"""Of the primal over the dual residual: below and above them ρ falls and grows."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LossADMM(Alternating):
    """The alternating direction method of multipliers for a loss with a prox for each cell: minimise loss(X, Z), Z = W H.

        W, H ← a sweep towards W H = Z - Y/ρ,  Z ← prox_{loss/ρ}(W H + Y/ρ),  Y ← Y + ρ (W H - Z)

    One multiplier Y serves both factors, so that a kink cannot hold one of them where only both together could move. W H is not
    convex: ρ changes by the part ``growth`` in each sweep until W H and Z agree better than the multipliers do. For one factor
    alone, as in transform, the two are balanced. ``residual`` stands for the certificate. The value
    may rise from sweep to sweep. (Boyd et al. 2011; Sun and Févotte 2014, for factors.)
    """

    growth: float = 0.03
    syncs = True
    kinks = True

    def __post_init__(self) -> None:
        if isinstance(self.growth, bool) or not isinstance(self.growth, int | float) or not 0 <= self.growth < float("inf"):
            raise ValueError(f"growth of LossADMM is {self.growth!r}; it is a number, not negative, e.g. 0.03")

    def check(self, problem: Problem) -> None:
        x = problem.X.entries().reshape(-1)[:0]
        for loss in getattr(problem.loss, "_members", (problem.loss,)):
            try:
                loss.prox(x, 1.0, x)
            except ValueError:
                way = "use solver='auto'" if problem.loss.smooth else "huber in place of l1 has no kinks"
                raise ValueError(f"LossADMM needs the prox of each cell, and {loss!r} has none; {way}") from None

    def rows(self, prox: Prox, q: Quadratic, A: Tensor, memory: Memory) -> Tensor:
        return (PALM() if prox.couples(1) else HALS()).rows(prox, q, A, memory)

    def init(self, problem: Problem, W: Tensor, H: Tensor) -> State:
        state = super().init(problem, W, H)
        self._begin(problem, state.W, state.H.mT, state.w)
        return state

    def step(self, problem: Problem, state: State) -> State:
        W, H, memory = state.W, state.H, state.w
        rho, before = memory["rho"], memory["Z"]
        V = memory["Z"] - memory["Y"] / rho
        W = self._towards(problem, V, W, H.mT, rho)
        H = self._towards(problem.T, problem.X.like(V).T.entries(), H.mT, W, rho).mT
        pred = problem.X.predict(W, H.mT)
        self._split(problem, pred, memory, rho)
        primal, dual = _gaps(problem, pred, before, memory, rho)
        up, down = primal > HIGH**2 * dual, primal < LOW**2 * dual
        memory["rho"] = rho * torch.where(up, 1 + self.growth, torch.where(down, 1 / (1 + self.growth), 1.0)).to(rho)
        return State(W, H, memory, state.h, state.sweep + 1)

    def half(self, p: Problem, A: Tensor, B: Tensor, memory: Memory) -> Tensor:
        """The minimiser for a fixed B, to a residual of 1e-8 or as far as 200 rounds lead."""
        if "Y" not in memory:
            self._begin(p, A, B, memory)
        rho = memory["rho"]
        for at in range(200):
            Z = memory["Z"]
            A = self._towards(p, Z - memory["Y"] / rho, A, B, rho)
            pred = p.X.predict(A, B)
            self._split(p, pred, memory, rho)
            if at % 10:
                continue
            primal, dual = _gaps(p, pred, Z, memory, rho)
            if bool((primal <= 1e-16) & (dual <= 1e-16)):
                break
            if at < 100:
                rho = rho * torch.where(primal > 25 * dual, 2.0, torch.where(dual > 25 * primal, 0.5, 1.0)).to(rho)
        memory["rho"] = rho
        return A

    def residual(self, problem: Problem, state: State) -> tuple[Tensor, Tensor]:
        """How far from stationary W and H are, each the larger of two numbers that no rescaling changes.

        With z = prox_{loss/ρ}(W H + Y/ρ) the slope y = Y + ρ (W H - z) is one of the loss at z. The first number is
        ‖z - W H‖ / ‖W H‖, the second the certificate for that slope, its curvature replaced by what the slopes would add up to
        without cancelling: D_q = ‖Σ |y_ij| |b_jq|‖ / ‖F_q‖, where |y| counts at least as much as the steepest slope of the loss.
        """
        pred, memory = problem.X.predict(state.W, state.H.mT), dict(state.w)
        if "Y" not in memory:
            self._begin(problem, state.W, state.H.mT, memory)
        self._split(problem, pred, memory, memory["rho"])
        gap, size = ((t.double().square()).sum() for t in (pred - memory["Z"], pred))
        gap, size = problem.cols.sum(*problem.rows.sum(gap, size))
        primal = torch.where(gap > 0, gap / size, 0.0).sqrt()
        Y = problem.X.like(memory["Y"])
        sides = (problem, Y, state.W, state.H.mT), (problem.T, Y.T, state.H.mT, state.W)
        w, h = (torch.maximum(primal, _dual(*side)) for side in sides)
        return w, h

    def _begin(self, p: Problem, A: Tensor, B: Tensor, memory: Memory) -> None:
        x = p.targets
        some = _there(p.X).to(x)
        (size, count) = p.cols.sum(*p.rows.sum((x.abs() * some).sum(), some.sum()))
        memory["rho"] = torch.where(size > 0, max(p.loss.steepest, 0.1) * count / size, 1.0)
        memory["Z"], memory["Y"] = p.X.predict(A, B), torch.zeros_like(x)

    def _towards(self, p: Problem, V: Tensor, A: Tensor, B: Tensor, rho: Tensor) -> Tensor:
        """A better A for ρ/2 ‖A Bᵀ - V‖² over the cells that are data."""
        there = _there(p.X)
        if "_mask" not in p.__dict__:  # kept: which rows' Gram matrices differ by how much is worked out once
            p.__dict__["_mask"] = p.X.like(torch.ones_like(V))
            p.__dict__["_mask"].weight = None if bool(there.all()) else there.to(V)
        p.read()
        G, C = p.cols.sum(p.__dict__["_mask"].gram(B), p.X.like(torch.where(there, V, 0.0)) @ B)
        return self.rows(p.prox_W, Quadratic(rho * G, rho * C), A, {})

    def _split(self, p: Problem, pred: Tensor, memory: Memory, rho: Tensor) -> None:
        v, w = pred + memory["Y"] / rho, p.X.weight
        Z = p.loss.prox(v, (1.0 if w is None else w.to(v)) / rho, p.X.entries().to(v))
        memory["Z"] = Z if w is None else torch.where(w > 0, Z, pred)
        memory["Y"] = memory["Y"] + rho * (pred - memory["Z"])


def _gaps(p: Problem, pred: Tensor, before: Tensor, memory: Memory, rho: Tensor) -> tuple[Tensor, Tensor]:
    """‖W H - Z‖² / ‖Z‖² and ρ² ‖Z - Z before‖² / ‖Y‖²."""
    Z = memory["Z"]
    sizes = (pred - Z, Z, Z - before, memory["Y"] / rho)
    gap, size, moved, pull = p.cols.sum(*p.rows.sum(*(t.double().square().sum() for t in sizes)))
    return gap / torch.where(size > 0, size, 1.0), moved / torch.where(pull > 0, pull, 1.0)


def _there(X: Matrix) -> Tensor:
    """Which stored cells are data."""
    return torch.ones_like(X.entries(), dtype=torch.bool) if X.weight is None else X.weight > 0


def _dual(p: Problem, Y: Matrix, A: Tensor, B: Tensor) -> Tensor:
    """The certificate of A for the slopes Y, NaN for an operator that is inexact."""
    if not p.prox_W.exact:
        return torch.full((), torch.nan, dtype=torch.float64, device=A.device)
    w = 1.0 if p.X.weight is None else p.X.weight
    least = torch.full_like(Y.entries(), p.loss.steepest) * w
    slope, most = p.cols.sum(Y @ B, Y.like(torch.maximum(Y.entries().abs(), least)) @ B.abs())
    top, size = p.rows.sum(most.double().square().sum(0), A.double().square().sum(0))
    D = torch.where(size > 0, (top / size).sqrt(), 0.0).to(A).expand(A.shape)
    D = group_metric(p.prox_W, torch.where(D > 0, D, D.mean()), tuple(A.shape), "mean")
    safe = torch.where(D > 0, D, 1.0)
    R = torch.where(D > 0, A - p.prox_W(A - slope / safe, 1 / safe), 0.0).double()
    (moved,) = p.rows.sum(R.square().sum(0))
    return torch.where(moved == 0, 0.0, moved / torch.maximum(size, 1e-10 * size.sum())).amax().sqrt()
