"""The accelerated proximal gradient method, with a step that is found and a restart that is felt."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .base import Spec
from .curvature import MEASURED, Curvature
from .flat import Evaluate, Flat, dot
from .whole import WholeOptimizer

_GROW, _SHRINK = 1.1, 2.0


class APGM(WholeOptimizer):
    """Nesterov's accelerated proximal gradient method: p ← prox(y - γ D⁻¹∇f(y), γ D⁻¹), y ← p + (t - 1) / t' (p - p').

    D is a diagonal metric that a few differences of gradients measure (``Curvature``), again after 5, 10, 20, 40, … steps,
    and made one that each operator honours: what is badly unbalanced between parameters, rows or columns is balanced.
    γ grows by a tenth a step and is halved while f(p) > f(y) + <∇f(y), p - y> + |p - y|²_D / (2γ). t starts anew (t = 1) where the
    last move points against the gradient map, where the metric changes and where the objective has risen. Between steps the
    parameters hold p, not y.

    ``step`` needs a closure and calls it about twice. A start whose scale is wrong by ten and more is put right first, as in
    ``PGM``. With an operator that is not convex there is no acceleration. Proved is the rate 1/k² for convex problems without the
    growth of γ; what grows and restarts is what works better. (Beck and Teboulle 2009; O'Donoghue and Candès 2015.)

    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.2]))
    >>> optimizer = APGM([w], "nonneg + l1(1.0)")
    >>> for _ in range(20):
    ...     loss = optimizer.step(lambda: (cost := (w - 2).square().sum(), optimizer.zero_grad(), cost.backward())[0])
    >>> w.data.round(decimals=3)
    tensor([1.5000, 1.5000, 1.5000])
    """

    def __init__(self, params: Any, proxs: Spec | list[Spec] | tuple[Spec, ...] = None, *, maximize: bool = False):
        super().__init__(params, proxs, {"maximize": maximize})

    def _next(self, flat: Flat, x: Tensor, f: float, grad: Tensor, at: Evaluate, memory: dict[str, Any]) -> Tensor:
        slack, start = 10 * torch.finfo(flat.dtype).eps * abs(f), f + flat.penalty(x)
        if memory["count"] in MEASURED or "blocks" not in memory:
            memory["blocks"] = Curvature.probe(flat, x, f, grad, at, seed=memory["count"]).blocks
            memory |= {"t": 1.0, "step": 1.0}
        D = flat.metric(Curvature(flat, memory["blocks"]).diagonal())
        step, t = _GROW * memory["step"], memory["t"]
        y, f_y, grad_y = (memory["y"], *at(memory["y"])) if t > 1 else (x, f, grad)
        while True:
            z = flat.prox(y - step * grad_y / D, step / D)
            d = z - y
            f_z, _ = at(z)
            if not f_z <= f_y + dot(grad_y, d) + dot(d * D, d) / (2 * step) + slack:
                step /= _SHRINK
                if step < torch.finfo(flat.dtype).tiny:
                    return self._stuck(x, f, at, slack)
            elif t > 1 and not f_z + flat.penalty(z) <= start + slack:
                y, f_y, grad_y, t = x, f, grad, 1.0
            else:
                break
        if dot((y - z) * D, z - x) > 0 or not all(p.prox.convex for p in flat.parts):
            t = 1.0
        else:
            t, last = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
            memory["y"] = z + (last - 1) / t * (z - x)
        memory.update(count=memory["count"] + 1, step=step, t=t)
        return z
