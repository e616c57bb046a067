"""HALS: the exact minimiser of one component at a time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..problem import Problem, Quadratic
from ..prox import Prox, group_metric
from .base import Memory, Passes, divide, forget_empty, step_of


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HALS(Passes):
    """Hierarchical alternating least squares: a_q ← prox_q(a_q - (A G_q - c_q) / G_qq, 1 / G_qq), component by component.

    On a shared Gram matrix the curvature of a component is a number, so that the update is exact for every operator that
    does not couple components; with holes or weights it is a number per row, and exact for those that honour it. (Cichocki
    and Phan 2009; several ``inner`` passes for each product with X: Gillis and Glineur 2012.)
    """

    def check(self, problem: Problem) -> None:
        for name, prox, dim in (("W", problem.prox_W, 1), ("H", problem.prox_H, 0)):
            if prox.couples(dim):
                raise ValueError(f"HALS updates one component at a time, and {prox!r} on {name} couples them; use solver='palm'")

    def rows(self, prox: Prox, q: Quadratic, A: Tensor, memory: Memory) -> Tensor:
        parts = [prox.take(slice(j, j + 1), 1) for j in range(A.shape[1])]
        D = group_metric(prox, q.diag, tuple(A.shape), "amax")
        steps = step_of(D, prox).split(1, dim=1)
        C = divide(q.C, D).mT.contiguous()
        G = divide(q.G, D[..., :, None] if q.G.ndim == 3 else D.mT)
        G = G if q.G.ndim == 2 else G.permute(1, 2, 0).contiguous()
        At = forget_empty(q, A, prox).mT.contiguous()  # component first: each one is then contiguous
        for _ in range(self.inner):
            for a, g, c, p, step in zip(At, G, C, parts, steps, strict=True):
                slope = g @ At if g.ndim == 1 else (g * At).sum(0)
                a.copy_(p((a - slope + c)[:, None], step)[:, 0])
        return At.mT
