"""ADMM: least squares and every term's own prox in turn, held together by one dual per term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from ..problem import Quadratic
from ..prox import Prox, group_metric
from .base import Memory, Passes, forget_empty, lowest


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ADMM(Passes):
    """AO-ADMM: T ← (C + Σ ρ (Z_t + U_t)) (G + Σ ρ)⁻¹, then Z_t ← prox_t(T - U_t, 1/ρ) and U_t ← U_t + Z_t - T for each term.

    The terms are those of a ``+`` without an exact rule, which every other solver can only take in rounds. ρ is G's diagonal, its
    mean over what an operator couples if that honours only a common step (tr G / k, then), so that no unit matters; the
    factorisation of G + Σ ρ serves all ``inner`` passes. The duals stay in the memory from sweep to sweep.

    What is returned lies inside all constraints: with one term it is Z; with one set among several terms that set's copy,
    which is in the domain of the penalties; with several sets the nearest point in all of them, found by rounds once per
    half-step; with penalties alone the copy of the lowest value. If it is not lower than the factor was (each row by itself,
    where there are only sets), the factor stays and the passes go on from their copies the next time: an ADMM's value may
    rise, this one's never does. (Huang, Sidiropoulos and Liavas 2016; several terms: Boyd et al. 2011, section 7.)
    """

    inner: int = 5

    def rows(self, prox: Prox, q: Quadratic, A: Tensor, memory: Memory) -> Tensor:
        A = forget_empty(q, A, prox)
        terms, shape = prox.terms, tuple(A.shape)
        rho = [group_metric(t, _positive(q.diag), shape, "mean") for t in terms]
        steps = [1 / r for r in rho] if len(terms) > 1 else [_step(prox, q, rho[0])]
        factor = torch.linalg.cholesky(q.G + torch.diag_embed(_common(torch.stack(torch.broadcast_tensors(*rho)).sum(0), q)))
        # copies are kept as what they are apart from the factor, duals in their units, so that another ρ or A moves neither
        nothing = A.new_zeros(len(A), len(terms), shape[1])
        Z = [A + z for z in memory.get("apart", nothing).unbind(1)]
        U = [y / r for y, r in zip(memory.get("duals", nothing).unbind(1), rho, strict=True)]
        for _ in range(self.inner):
            T = _solve(factor, q.C + sum(r * (z + u) for r, z, u in zip(rho, Z, U, strict=True)))
            Z = [t(T - u, step) for t, u, step in zip(terms, U, steps, strict=True)]
            U = [u + z - T for z, u in zip(Z, U, strict=True)]
        start = _inside(terms, [t(A, 0.0) for t in terms])[0]  # A may be a point ahead, outside the constraints
        new = lowest(prox, q, start, *_inside(terms, Z))
        memory["apart"] = torch.stack([z - new for z in Z], 1)
        memory["duals"] = torch.stack([r * u for r, u in zip(rho, U, strict=True)], 1)
        return new


def _positive(D: Tensor) -> Tensor:
    """The curvature with the mean of its row where a component has none, and 1 where there is nothing to go by."""
    mean = D.mean(1, keepdim=True)
    D = torch.where(D > 0, D, torch.where(mean > 0, mean, mean.amax()))
    return torch.where(D > 0, D, 1.0)


def _step(prox: Prox, q: Quadratic, rho: Tensor) -> Tensor:
    """The step 1 / ρ of an operator that stands alone; in a row without data only its own term counts."""
    empty = (q.diag == 0).all(1, keepdim=True)
    known = not prox.attained or len(rho) < len(empty)  # a step that rows have in common
    return 1 / rho if known else torch.where(empty, torch.inf, 1 / rho)


def _common(rho: Tensor, q: Quadratic) -> Tensor:
    """The diagonal to add to G: (k,), or (m, k) where G or an operator's ρ differs from row to row."""
    rho = rho.expand(len(rho), q.G.shape[-1])
    return rho[0] if len(rho) == 1 and q.G.ndim == 2 else rho


def _solve(factor: Tensor, right: Tensor) -> Tensor:
    """right · (L Lᵀ)⁻¹ for each row."""
    if factor.ndim == 2:
        return torch.cholesky_solve(right.mT, factor).mT
    return torch.cholesky_solve(right[..., None], factor)[..., 0]


def _inside(terms: tuple[Prox, ...], Z: list[Tensor]) -> list[Tensor]:
    """The points inside all constraints that the copies offer."""
    sets = [(t, z) for t, z in zip(terms, Z, strict=True) if t.is_set]
    if len(sets) < 2:
        return [z for _, z in sets] or Z
    return [reduce(add, [t for t, _ in sets])(torch.stack([z for _, z in sets]).mean(0), 0.0)]
