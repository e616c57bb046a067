"""Multiplicative updates: the field's baseline, kept by name for comparison. ``auto`` never takes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..problem import Problem, Quadratic
from ..prox import NonNegative, Prox, Transposed
from .base import Alternating, Memory


@dataclass(frozen=True, eq=False, repr=False)
class MU(Alternating):
    """Multiplicative updates: A ← A · (falling / rising)^γ, the two parts of the gradient of a β-divergence.

    With p the prediction: falling = Σ w x p^(β-2) b, rising = Σ w p^(β-1) b, and γ = 1/(2-β) below β = 1, 1/(β-1) above
    β = 2, else 1, for which the value never rises (Févotte and Idier 2011; Lee and Seung 1999 for β = 1 and 2). A zero stays
    zero, and an entry that ends at zero takes for ever: HALS and KLNewton are many times faster. Raises ValueError for
    a loss without a β and for other constraints than nonneg on both factors.
    """

    def check(self, problem: Problem) -> None:
        if problem.loss.beta is None:
            raise ValueError(f"MU minimises β-divergences, and {problem.loss!r} is none; use loss='kl' or solver='hals'")
        for name, prox in (("W", problem.prox_W), ("H", problem.prox_H)):
            if not isinstance(prox.inner if isinstance(prox, Transposed) else prox, NonNegative):
                raise ValueError(f"MU keeps both factors non-negative and knows no {prox!r} on {name}; use solver='hals' or 'palm'")
        low = problem.X.entries().amin() if problem.X.entries().numel() else 0.0
        if low < 0:
            raise ValueError(f"MU needs data that is not negative, given a smallest value of {float(low):g}; use solver='hals'")
        if problem.ties:
            raise ValueError("MU knows no ties; use solver='hals'")

    def rows(self, prox: Prox, q: Quadratic, A: Tensor, memory: Memory) -> Tensor:
        """For a quadratic loss, whose model holds both parts: A · C / (A G)."""
        return _times(A, q.C, q.apply(A), 1.0)

    def half(self, p: Problem, A: Tensor, B: Tensor, memory: Memory) -> Tensor:
        if p.loss.quadratic:
            return super().half(p, A, B, memory)
        beta = p.loss.beta
        assert beta is not None
        power = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0
        x, pred = p.X.entries(), p.X.predict(A, B)
        tiny = torch.finfo(A.dtype).tiny ** 0.4 * pred.mean().clamp(min=torch.finfo(A.dtype).tiny)
        pred = pred.clamp(min=tiny)
        y = x if p.X.weight is None else p.X.weight * x
        # a stored cell of weight w stands in place of one of the background: its share of rising joins what all cells give
        falling = p.X.like(y * pred ** (beta - 2)) @ B
        rising = p._slope(pred, A, B) + falling
        falling, rising = p.cols.sum(falling, rising)
        return _times(A, falling, rising, power)


def _times(A: Tensor, falling: Tensor, rising: Tensor, power: float) -> Tensor:
    return torch.where((rising > 0) & (A > 0), A * (falling.clamp(min=0) / rising) ** power, A)
