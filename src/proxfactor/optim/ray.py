"""A start of the wrong scale: which way along the ray through it the right one lies, from the gradient alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..prox import Prox
from .base import Part, inner

DECADES = 12  # at most
_COSINE = 0.5  # of the angle between a parameter and its gradient: random factors of other data have nearly 1, a network has 0


def way(points: Iterable[tuple[Part, Tensor | None]]) -> int:
    """-1 if every parameter is too large by far, 1 if every one is too small, else 0.

    Each comes, if it is ten times what it was, with the gradient there. It is too large if
    its gradient points along it, too small if against it, the penalty does not turn that, and a larger one has not made
    the gradient smaller, as a loss does that levels off. Sets that cannot be scaled are not asked.
    """
    ways = set()
    for part, last in points:
        x, g = part.values, part.grad
        if not scalable(part):
            continue
        sums = [inner(x, g), inner(x, x), inner(g, g), _penalty(part), inner(last, last) if last is not None else inner(g, g)]
        slope, size, steep, drift, before = part.comm.sum(torch.stack(sums))[0].tolist()
        if not size * steep:
            continue
        cosine, whole = slope / math.sqrt(size * steep), slope + drift
        level = steep < 0.25 * before
        ways.add(-1 if cosine >= _COSINE and whole > 0 else 1 if cosine <= -_COSINE and whole < 0 and not level else 0)
    return ways.pop() if len(ways) == 1 else 0


def scaled(part: Part, factor: float) -> Tensor:
    """The part's values times the factor, where its operator lets it be scaled, in the operator's domain."""
    return part.prox(part.values * factor, 0.0) if scalable(part) else part.values


def scalable(part: Part) -> bool:
    prox: Prox = part.group["prox"]  # of a spread parameter the same on every process, as its pieces need not be
    return prox.cone or not prox.is_set


def _penalty(part: Part) -> Tensor:
    """The derivative of g along the ray through a part, to a thousandth."""
    x = part.values
    if part.prox.is_set:
        return torch.zeros((), dtype=torch.float64, device=x.device)
    return 1e3 * (part.prox.value(x * 1.001) - part.prox.value(x))
