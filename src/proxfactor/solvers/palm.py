"""PALM: one proximal gradient step for each factor in turn, its length from the curvature."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..problem import Quadratic
from ..prox import Prox, group_metric
from .base import Memory, Passes, divide, forget_empty, step_of


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PALM(Passes):
    """Proximal alternating linearised minimisation: A ← prox(A - ∇/D, 1/D) with a diagonal D ⪰ the curvature G.

    It takes every operator; where one couples components and honours only a common step, D is its maximum. The value
    never rises, and the iterates converge to a stationary point (Bolte, Sabach and Teboulle 2014). ``inner`` steps are
    made for each product with X.
    """

    def rows(self, prox: Prox, q: Quadratic, A: Tensor, memory: Memory) -> Tensor:
        D = group_metric(prox, q.bound(), tuple(A.shape), "amax")
        A = forget_empty(q, A, prox)
        for _ in range(self.inner):
            A = prox(A - divide(q.grad(A), D), step_of(D, prox))
        return A
