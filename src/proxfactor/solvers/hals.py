"""HALS: the exact minimiser of one component at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..compiled import kernels
from ..matrix import Stored
from ..problem import Problem, Quadratic
from ..prox import Prox, group_metric
from .base import Memory, Passes, divide, forget_empty, step_of


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HALS(Passes):
    """Hierarchical alternating least squares: a_q ← prox_q(a_q - (A G_q - c_q) / G_qq, 1 / G_qq), component by component.

    On a shared Gram matrix the curvature of a component is a number, so that the update is exact for every operator that
    does not couple components; with holes or weights it is a number per row, and exact for those that honour it. (Cichocki
    and Phan 2009.) ``inner`` passes are made for each product with X; None is the rule of Gillis and Glineur (2012), as many
    as are cheap beside the product, 1 + ρ / 2 with ρ = 1 + (m n + n k) / (m k + m), but 3 to 5: more hardly help.
    """

    inner: int | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.inner is not None:
            super().__post_init__()

    def check(self, problem: Problem) -> None:
        for name, prox, dim in (("W", problem.prox_W, 1), ("H", problem.prox_H, 0)):
            if prox.couples(dim):
                raise ValueError(f"HALS updates one component at a time, and {prox!r} on {name} couples them; use solver='apg'")

    def half(self, p: Problem, A: Tensor, B: Tensor, memory: Memory) -> Tensor:
        if self.inner is not None:
            near = self._near(p, A)
            new = near and near(p, A, B, self.inner)
            return super().half(p, A, B, memory) if new is None else new
        return self.sized(*p.extent, A.shape[1]).half(p, A, B, memory)

    def _near(self, p: Problem, A: Tensor) -> Callable | None:
        """The compiled passes over the stored cells of each row, which make no Gram matrix, where they fit the problem."""
        stored = isinstance(p.X, Stored) and p.X.col.dtype == torch.int32 and p.X.device.type == "cpu"
        if p.shared or not stored or not p.loss.quadratic or p.ties or p.cols.size > 1 or p.prox_W.couples(1):
            return None
        compiled = kernels("solvers._hals_numba", A.dtype, p.X.entries().numel() * A.shape[1] ** 2)
        return compiled and compiled.near

    def brief(self) -> HALS:
        return self if self.inner else HALS(inner=3)

    def sized(self, m: int, n: int, k: int) -> HALS:
        if self.inner is not None:
            return self
        rho = 1 + (m * n + n * k) / (m * k + m)
        return HALS(inner=min(max(3, int(1 + rho / 2)), 5))

    def rows(self, prox: Prox, q: Quadratic, A: Tensor, memory: Memory) -> Tensor:
        inner = self.inner or 3
        if prox.elastic is not None:
            work = A.numel() * A.shape[1] * inner
            compiled = kernels("solvers._hals_numba", A.dtype, work) if A.device.type == "cpu" else None
            if compiled or q.G.ndim == 2:
                return (compiled.passes if compiled else elastic_passes)(A, q.C, q.G, prox.elastic, inner)
        parts = [prox.take(slice(j, j + 1), 1) for j in range(A.shape[1])]
        D = group_metric(prox, q.diag, tuple(A.shape), "amax")
        steps = step_of(D, prox).split(1, dim=1)
        C = divide(q.C, D).mT.contiguous()
        G = divide(q.G, D[..., :, None] if q.G.ndim == 3 else D.mT)
        G = G if q.G.ndim == 2 else G.permute(1, 2, 0).contiguous()
        At = forget_empty(q, A, prox).mT.contiguous()  # component first: each one is then contiguous
        for _ in range(inner):
            for a, g, c, p, step in zip(At, G, C, parts, steps, strict=True):
                slope = g @ At if g.ndim == 1 else (g * At).sum(0)
                a.copy_(p((a - slope + c)[:, None], step)[:, 0])
        return At.mT


def elastic_passes(A: Tensor, C: Tensor, G: Tensor, elastic: tuple[float, float, float, float], inner: int) -> Tensor:
    """A (m, k) after ``inner`` passes of HALS on ½ a_i G a_iᵀ - a_i·c_i + the terms of ``Prox.elastic``, G (k, k) shared.

    Each component is one product and one clamp: its own entry of G is left out, so that the product gives its new value.
    """
    lo, hi, l1, l2 = elastic
    d = G.diagonal()
    bend = d + l2
    rest = divide(G, bend[:, None]).masked_fill(torch.eye(len(G), dtype=torch.bool, device=G.device), 0.0)
    if l1 + l2 == 0:  # no curvature, no penalty: the component stays where it is
        rest = rest - torch.diag_embed((d <= 0).to(G))
    centre, reach = torch.where(d > 0, divide(C, bend), 0.0).mT.contiguous(), divide(torch.full_like(d, l1), bend)
    At = torch.where((d > 0).any(), A, 0.0).mT.clone(memory_format=torch.contiguous_format)
    for _ in range(inner):
        for a, g, c, t in zip(At, rest, centre, reach, strict=True):
            v = torch.addmv(c, At.mT, g, alpha=-1)
            torch.clamp(v - v.clamp(-t, t) if l1 else v, lo, hi, out=a)
    return torch.where(At.abs() < torch.finfo(A.dtype).tiny, At.new_zeros(()).clamp(lo, hi), At).mT
