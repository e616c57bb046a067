"""All parameters of a step as one vector: what methods that look at the whole problem compute with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..prox.base import group_metric
from .base import Part, real

Evaluate = Callable[[Tensor], tuple[float, Tensor]]


class Flat:
    """The values, gradients and operators of some parts, laid end to end in one real vector x.

    A complex entry is two numbers. The vector has the widest dtype of the parts, float32 at least; what is summed over it
    is summed in float64.
    """

    def __init__(self, parts: Sequence[Part]):
        self.parts = parts
        self.shapes = [real(p.values).shape for p in parts]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.dtype = torch.float32
        for p in parts:
            self.dtype = torch.promote_types(self.dtype, p.values.dtype.to_real())
        self.device = parts[0].values.device

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """One vector of one tensor per part; a tensor that broadcasts to the part is spread over it."""
        spread = (t.to(self.device, self.dtype).expand(s).reshape(-1) for t, s in zip(map(real, tensors), self.shapes, strict=True))
        return torch.cat(list(spread))

    def split(self, x: Tensor) -> list[Tensor]:
        return [t.view(shape) for t, shape in zip(x.split(self.sizes), self.shapes, strict=True)]

    def tensors(self, x: Tensor) -> list[Tensor]:
        """The parts of x as the operators take them: complex where the parameters are."""
        held = zip(self.parts, self.split(x), strict=True)
        return [torch.view_as_complex(t) if p.values.is_complex() else t for p, t in held]

    def values(self) -> Tensor:
        return self.join([p.values for p in self.parts])

    def gradient(self) -> Tensor:
        given = [(p, p.param.grad) for p in self.parts]
        return self.join([torch.zeros_like(p.values) if g is None else -g if p.group.get("maximize") else g for p, g in given])

    def write(self, x: Tensor) -> None:
        """Make x the values of the parameters."""
        for part, t in zip(self.parts, self.split(x), strict=True):
            real(part.values).copy_(t)

    def metric(self, curvature: Tensor) -> Tensor:
        """The diagonal metric nearest to a curvature that every part's operator can honour."""
        held = zip(self.parts, self.metrics(curvature), strict=True)
        return self.join([m.unsqueeze(-1) if p.values.is_complex() else m for p, m in held])

    def metrics(self, curvature: Tensor) -> list[Tensor]:
        """The same for each part, as its operator takes it: of size 1 where it must be constant, one number per complex entry."""
        made = []
        for part, t in zip(self.parts, self.split(curvature), strict=True):
            each = t.mean(-1) if part.values.is_complex() else t
            made.append(group_metric(part.prox, each, tuple(each.shape), "mean"))
        return made

    def prox(self, x: Tensor, step: Tensor) -> Tensor:
        """The operators at x in the metric 1/step, which ``metric`` has made one that they honour."""
        made = [self._prox(p, t, s) for p, t, s in zip(self.parts, self.split(x), self.split(step), strict=True)]
        return self.join(made)

    def _prox(self, part: Part, t: Tensor, s: Tensor) -> Tensor:
        if part.values.is_complex():
            t, s = torch.view_as_complex(t), s[..., 0]
        if part.prox.metric == "group":  # constant over the dims by construction: one of each tells it all
            for d in range(t.ndim) if part.prox.dims is None else part.prox.dims:
                s = s.narrow(d, 0, min(1, s.shape[d]))
        return part.prox._prox(t, s)  # past the door: t and s are ours

    def penalty(self, x: Tensor) -> float:
        """Σ g over the parts at x."""
        return math.fsum(float(p.prox.value(t)) for p, t in zip(self.parts, self.tensors(x), strict=True))

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest point of the closure of the operators' domains: a start that may stand outside is moved in."""
        return self.join([p.prox(t, 0.0) for p, t in zip(self.parts, self.tensors(x), strict=True)])


def dot(x: Tensor, y: Tensor) -> float:
    """<x, y>, accumulated in float64."""
    return float((x * y).sum(dtype=torch.float64))
