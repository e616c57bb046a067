"""What the optimizers that look at the whole problem through a closure have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..prox import Step
from . import ray
from .base import NOT_YET, Part, ProxOptimizer, Residual
from .curvature import Curvature
from .flat import Evaluate, Flat


class WholeOptimizer(ProxOptimizer):
    """An optimizer that moves all parameters at once and asks the closure for the loss where it likes; ``_next`` says where to.

    Each evaluation is at the parameters' values: whatever happens, they end at the point that ``_next`` returns, or stay.
    """

    needs_closure = True
    looks = True
    own_precision = True
    _steps: Mapping[Tensor, Tensor] = MappingProxyType({})

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        self._check_one_way(group, where)

    def _advance(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        if not parts or closure is None:
            return
        flat, sign = Flat(parts), -1.0 if parts[0].group["maximize"] else 1.0
        start, grad = flat.values(), flat.gradient()
        last: list[Any] = [start, loss]

        def at(x: Tensor) -> tuple[float, Tensor]:
            flat.write(x)
            last[:] = x, self._evaluate(closure)
            return sign * self._number(last[1]), flat.gradient()

        if not math.isfinite(f := sign * self._number(loss)):
            raise RuntimeError(f"the closure's loss is {f} where the parameters stand; start where it is finite")
        memory = self._memory(flat)
        if "count" not in memory:
            start, f, grad = self._begin(flat, start, f, grad, at)
            memory["count"] = 0
        x = self._next(flat, start, f, grad, at, memory)
        if last[0] is not x:
            flat.write(x)
        else:
            self._keep(closure, last[1], parts)

    def _next(self, flat: Flat, x: Tensor, f: float, grad: Tensor, at: Evaluate, memory: dict[str, Any]) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no _next(flat, x, f, grad, at, memory)")

    def _memory(self, flat: Flat) -> dict[str, Any]:
        """What is kept between steps, beside the first parameter; begun anew when others have gradients, or another dtype."""
        state, form = self.state[flat.parts[0].param], [flat.dtype.itemsize, *flat.sizes]
        if state.get("form") != form:
            state.clear()
            state.update(form=form, memory={})
        return state["memory"]

    def _measure(self, parts: list[Part]) -> list[Residual]:
        blocks = self._memory(flat := Flat(parts)).get("blocks") if parts else None
        if blocks:
            each = flat.metrics(Curvature(flat, blocks).diagonal())
            self._steps = {part.param: 1 / m for part, m in zip(parts, each, strict=True)}
        return super()._measure(parts)

    def _metric(self, part: Part) -> tuple[Step | None, str]:
        return (self._steps[part.param], "curvature") if part.param in self._steps else (None, NOT_YET)

    def _begin(self, flat: Flat, x: Tensor, f: float, grad: Tensor, at: Evaluate) -> tuple[Tensor, float, Tensor]:
        """The start, inside the operators' domains, and moved by tens along the ray through it as long as that is right."""
        inside = flat.nearest(x)
        if not torch.equal(inside, x):
            f, grad = at(inside)
            x = inside
        held = self._seen(flat, x, grad)
        way = ray.way(held)
        for _ in range(ray.DECADES if way else 0):
            z = flat.join([ray.scaled(part, 10.0**way) for part in held])
            f_new, grad_new = at(z)
            before, held = held, self._seen(flat, z, grad_new)
            sound = math.isfinite(f_new) and bool(grad_new.isfinite().all())
            fall = 1 - f_new / f if f > 0 else 0.0
            if not sound or not ray.right(((part, last.grad) for part, last in zip(held, before, strict=True)), way, fall):
                break
            x, f, grad = z, f_new, grad_new
        return x, f, grad

    def _seen(self, flat: Flat, x: Tensor, grad: Tensor) -> list[Part]:
        """The parts with these values and gradients."""
        held = zip(flat.parts, flat.tensors(x), flat.tensors(grad), strict=True)
        return [part._replace(values=t, grad=g) for part, t, g in held]

    def _stuck(self, x: Tensor, f: float, at: Evaluate, slack: float) -> Tensor:
        """x, from where no step led down. Raises RuntimeError if that is because the closure is not one function."""
        again, _ = at(x)
        if abs(again - f) > slack:
            raise RuntimeError(
                f"the closure's loss is {again:.10g} where it was {f:.10g}: {type(self).__name__} compares losses, which must be "
                "those of one function. Use all of the data and no dropout in it; for mini-batches there are ProxDoWG and ProxAdam"
            )
        return x
