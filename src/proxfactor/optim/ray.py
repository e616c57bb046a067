"""A start of the wrong scale: which way along the ray through it the right one lies, from the gradient alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from ..prox import Prox
from .base import inner

DECADES = 12  # at most
_COSINE = 0.5  # of the angle between a parameter and its gradient: random factors of other data have nearly 1, a network has 0


def way(points: Iterable[tuple[Prox, Tensor, Tensor, Tensor | None]]) -> int:
    """-1 if every parameter is too large by far, 1 if every one is too small, else 0.

    Each comes with its operator, its gradient and, if it is ten times what it was, the gradient there. It is too large if
    its gradient points along it, too small if against it, the penalty does not turn that, and a larger one has not made
    the gradient smaller, as a loss does that levels off. Sets that cannot be scaled are not asked.
    """
    ways = set()
    for prox, x, g, last in points:
        if not scalable(prox):
            continue
        slope, size, steep = (float(v) for v in (inner(x, g), inner(x, x), inner(g, g)))
        if not size * steep:
            continue
        cosine, whole = slope / math.sqrt(size * steep), slope + _penalty(prox, x)
        level = last is not None and steep < 0.25 * float(inner(last, last))
        ways.add(-1 if cosine >= _COSINE and whole > 0 else 1 if cosine <= -_COSINE and whole < 0 and not level else 0)
    return ways.pop() if len(ways) == 1 else 0


def scaled(prox: Prox, x: Tensor, factor: float) -> Tensor:
    """x times the factor, where its operator lets it be scaled, in the operator's domain."""
    return prox(x * factor, 0.0) if scalable(prox) else x


def scalable(prox: Prox) -> bool:
    return prox.cone or not prox.is_set


def _penalty(prox: Prox, x: Tensor) -> float:
    """The derivative of g along the ray through x, to a thousandth."""
    return 0.0 if prox.is_set else 1e3 * float(prox.value(x * 1.001) - prox.value(x))
