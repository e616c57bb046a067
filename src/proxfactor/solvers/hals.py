"""HALS: the exact minimiser of one component at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..problem import Problem, Quadratic
from ..prox import Prox, group_metric
from .base import Alternating, Memory, divide, forget_empty, step_of


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HALS(Alternating):
    """Hierarchical alternating least squares: a_q ← prox_q(a_q - (A G_q - c_q) / G_qq, 1 / G_qq), component by component.

    On a shared Gram matrix the curvature of a component is a number, so that the update is exact for every operator that
    does not couple components; with holes or weights it is a number per row, and exact for those that honour it. (Cichocki
    and Phan 2009; several ``inner`` passes for each product with X: Gillis and Glineur 2012.)
    """

    inner: int = 3

    def __post_init__(self) -> None:
        if self.inner < 1:
            raise ValueError(f"inner of HALS is {self.inner}; at least one pass is needed")

    def check(self, problem: Problem) -> None:
        for name, prox, dim in (("W", problem.prox_W, 1), ("H", problem.prox_H, 0)):
            if prox.couples(dim):
                raise ValueError(f"HALS updates one component at a time, and {prox!r} on {name} couples them; use solver='palm'")

    def rows(self, prox: Prox, q: Quadratic, A: Tensor, memory: Memory) -> Tensor:
        m, k = A.shape
        parts = [prox.take(slice(j, j + 1), 1) for j in range(k)]
        D = [group_metric(p, q.diag[:, j : j + 1], (m, 1), "amax") for j, p in enumerate(parts)]
        steps = [step_of(d) for d in D]
        At = forget_empty(q, A).mT.contiguous()
        G, C = _over(q, D)
        for _ in range(self.inner):
            for j, p in enumerate(parts):
                slope = G[j] @ At if q.G.ndim == 2 else (G[j] * At).sum(0)
                At[j] = p((At[j] - slope + C[j])[:, None], steps[j])[:, 0]
        return At.mT


def _over(q: Quadratic, D: list[Tensor]) -> tuple[Tensor, Tensor]:
    """G and C divided by each component's curvature, component first: (k, k) or (k, k, m), and (k, m)."""
    C = torch.stack([divide(q.C[:, j], d[:, 0]) for j, d in enumerate(D)])
    if q.G.ndim == 2:
        return torch.stack([divide(q.G[j], d[0]) for j, d in enumerate(D)]), C
    return torch.stack([divide(q.G[:, j], d).mT for j, d in enumerate(D)]), C
