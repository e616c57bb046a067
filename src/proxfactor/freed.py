"""Components of a given size against a cone on the other side: solved without the size, which is then put back exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .problem import Problem
from .prox import L1Sphere, NonNegative, NonNegativeSphere, Prox, Simplex, Sphere, Unconstrained

Back = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def freed(problem: Problem) -> tuple[Problem, Back]:
    """The problem with the constraint on the size of its components left out, and what leads back from its factors.

    A component w_q h_q stays the same when scale moves from one factor to the other. So where h_q is only asked to have a
    size (a simplex, a sphere) and w_q lies in a cone without a penalty, every W, H without the size has a twin with it, of the
    same loss: h_q · target / size and w_q · size / target. A component of size 0 becomes one of the constraint's own making,
    with 0 on the other side. It is the same for the columns of W, and the identity where neither factor is of this kind.

    >>> free, back = freed(Problem([[1.0, 2.0], [2.0, 4.0]], "frobenius", "nonneg", "simplex(dim=1)"))
    >>> free.prox_H
    NonNegative()
    >>> back(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 3.0]]))
    (tensor([[4.],
            [8.]]), tensor([[0.2500, 0.7500]]))
    """
    if (cone := _cone(problem.prox_H, problem.prox_W, 1)) and not problem.ties:
        return problem.changed(prox_H=cone), lambda W, H: _resized(problem.prox_H, H, W, 1)[::-1]
    if (cone := _cone(problem.prox_W, problem.prox_H, 0)) and not problem.ties:
        return problem.changed(prox_W=cone), lambda W, H: _resized(problem.prox_W, W, H, 0)
    return problem, lambda W, H: (W, H)


def _cone(own: Prox, other: Prox, dim: int) -> Prox | None:
    """What is left of ``own`` without the size of its slices along dim; None if it has none, or ``other`` cannot take it up."""
    if not isinstance(own, Simplex | NonNegativeSphere | Sphere | L1Sphere) or own.dim % 2 != dim:
        return None
    if not (other.is_set and other.cone and other.exact) or other.couples(dim):
        return None
    return NonNegative() if isinstance(own, Simplex | NonNegativeSphere) else Unconstrained()


def _resized(own: Prox, F: Tensor, other: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """F with slices along dim of the size that ``own`` asks for, and the other factor with what they had of it."""
    target = own.total if isinstance(own, Simplex) else own.radius  # type: ignore[attr-defined]
    order = 1 if isinstance(own, Simplex | L1Sphere) else 2
    size = torch.linalg.vector_norm(F.double(), order, dim, keepdim=True) / target
    eps = torch.finfo(F.dtype).eps
    size = torch.where((size - 1).abs() <= 16 * eps, 1.0, size).to(F)  # what has its size keeps its bits
    dead = size <= torch.finfo(F.dtype).tiny
    made = torch.where(dead, own(torch.zeros_like(F), 0.0), F / torch.where(dead, 1.0, size))
    return made, other * torch.where(dead, 0.0, size).mT
