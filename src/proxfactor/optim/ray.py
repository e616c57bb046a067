"""A start of the wrong scale: which way along the ray through it the right one lies, from the gradient alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..prox import Prox
from .base import Part, inner

DECADES = 12  # at most
_COSINE = 0.5  # of the angle between a parameter and its gradient: random factors of other data have nearly 1, a network has 0
_PARALLEL = 0.99  # of that between the gradients of two lengths: what the data say is lost in one of them


def way(parts: Iterable[Part]) -> int:
    """-1 if loss + penalty falls as each parameter is made smaller, 1 if as each is made larger, else 0."""
    looks = list(_looks((part, None) for part in parts))
    return next((way for way in (-1, 1) if looks and all(look.falls(way) for look in looks)), 0)


def right(points: Iterable[tuple[Part, Tensor]], way: int, fall: float = 0.0) -> bool:
    """Whether it was right to go that way by ten: each parameter comes with its gradient there and the one before.

    The objective must fall on. Then it was, where the loss has come down to a fifth of what it was (``fall`` is the share
    by which it fell, if that is known), or if every gradient lies along its parameter, or has kept its direction: the
    data are nothing beside the parameters, or these nothing beside the data. A gradient that becomes smaller as the parameter
    grows is that of a loss that levels off. One that shrinks with n parameters by less than 10ⁿ may be that of a product
    which is small already.
    """
    looks = list(_looks(points))
    return all(look.falls(way) for look in looks) and (
        (way < 0 and fall >= 0.8) or all(look.right(way, len(looks)) for look in looks)
    )


class _Look(NamedTuple):
    slope: float  # of the loss along the ray
    whole: float  # with the penalty
    cosine: float  # between the parameter and its gradient
    parallel: float  # between the gradient and the one before
    growth: float  # of its norm

    def falls(self, way: int) -> bool:
        return way * self.slope < 0 and way * self.whole < 0

    def right(self, way: int, count: int) -> bool:
        if way > 0 and self.growth < 0.5:
            return False
        same = self.parallel >= _PARALLEL and (way > 0 or self.growth < 10.0 ** (0.5 - count))
        return same or -way * self.cosine >= _COSINE


def _looks(points: Iterable[tuple[Part, Tensor | None]]) -> Iterator[_Look]:
    """What there is to see at every parameter that can be scaled and has a gradient."""
    for part, last in points:
        if not scalable(part):
            continue
        x, g, before = part.values, part.grad, part.grad if last is None else last
        sums = [inner(x, g), inner(x, x), inner(g, g), inner(g, before), inner(before, before), _penalty(part)]
        slope, size, steep, along, last_steep, drift = part.comm.sum(torch.stack(sums))[0].tolist()
        if size * steep:
            norm = math.sqrt(last_steep * steep)
            yield _Look(slope, slope + drift, slope / math.sqrt(size * steep), along / norm, math.sqrt(steep / last_steep))


def scaled(part: Part, factor: float) -> Tensor:
    """The part's values, times the factor where its operator lets it be scaled, in the operator's domain."""
    return part.prox(part.values * factor if scalable(part) else part.values, 0.0)


def scalable(part: Part) -> bool:
    prox: Prox = part.group["prox"]  # of a spread parameter the same on every process, as its pieces need not be
    return prox.cone or not prox.is_set


def _penalty(part: Part) -> Tensor:
    """The derivative of g along the ray through a part, to a thousandth."""
    x = part.values
    if part.prox.is_set:
        return torch.zeros((), dtype=torch.float64, device=x.device)
    return 1e3 * (part.prox.value(x * 1.001) - part.prox.value(x))
