"""EM for KL: a factor from the counts that its components explain, which are sums over rows that need not be at hand any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..losses import KL
from ..matrix import Dense
from ..problem import Problem
from ..prox import Prox

if TYPE_CHECKING:
    from .base import Alternating


def from_counts(solver: Alternating, prox: Prox, s: Tensor, N: Tensor, B: Tensor) -> Tensor:
    """A B (n, k) that lowers Σ s b - N log b + prox's term, the bound of ``streamed.counts``, which is a small problem of KL.

    Its data are N / s with weights s (n, k), its components the unit vectors. Where prox is a set that does not bind, N / s
    itself is the minimiser: the multiplicative update. (Lee and Seung 1999.)
    """
    problem = Problem(Dense(torch.where(s > 0, N / s, 0.0), s.clamp(min=0)), KL(), prox)
    one, memory = torch.eye(B.shape[1], dtype=B.dtype, device=B.device), {}  # type: tuple[Tensor, dict[str, Tensor]]
    free = prox(problem.X.entries(), 0.0)
    B = torch.where(problem.value(free, one) <= problem.value(B, one), free, B)
    for _ in range(3):
        B = solver.half(problem, B, one, memory)
    return B
