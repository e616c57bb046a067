"""The proximal gradient method, with a learning rate and without one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..prox import Step
from . import ray, sharded
from .base import NOT_YET, Part, ProxOptimizer, Spec, by_blocks, inner, real, told

_GROW, _SHARE = 5 / 3, 5 / 6  # adaPG's q and r: between 1, 1/2 (cautious) and larger ones (bold), all of them proved
_STILL = 16.0  # times the rounding of the parameter: a shorter move says nothing about curvature
_ALIKE = 0.1  # of the gradient: it has not fallen


class PGM(ProxOptimizer):
    """The proximal gradient method: a gradient step followed by the prox of the group, p ← prox(p - lr d, lr w).

    lr="auto", the default, takes the step of each parameter from its own last move and the change of its gradient: adaPG,
    γ ← γ min(√(1/q + γ/γ'), √((1 - r/q) / [γ²L² + 2γℓ(r - 1) + 1 - 2r]₊)), ℓ = <Δg, Δp>/‖Δp‖², L = ‖Δg‖/‖Δp‖, γ' the step
    before and q = 5/3, r = 5/6; a step moves a parameter by no more than its largest norm so far. Proved (Latafat,
    Themelis and Patrinos 2024) for convex losses and one joint step; a step per parameter, and losses that are not
    convex, are a heuristic that was measured. The gradients must be those of one function: on mini-batches the rule dies,
    which is noticed. The first steps try the start ten times smaller, or larger, where its gradients point that way, and
    keep that as long as they say that it is right (``ray``): random factors of data of any scale. If ``step`` is given a
    closure, a later step must also lower the loss as its length promises, or is halved: one call of the closure as a rule.

    With a number, d is SGD's direction and w the weight that a constant gradient has in it, so that the prox always weighs
    its penalty as d weighs the loss, and a stationary point is one of the true problem: without momentum w = 1; with it
    w = s_t, with nesterov w = 1 + momentum s_t, where s_1 = 1 and s_t = momentum s_{t-1} + 1 - dampening. Momentum needs a number.

    proxs, groups and checkpoints as in ``ProxOptimizer``. Raises ValueError for an lr that is neither "auto" nor above 0 (a
    schedule may take it to 0) and options that torch's SGD refuses too; in ``step`` RuntimeError where the automatic step has died.
    (Lions and Mercier 1979; Parikh and Boyd 2014, section 4.2; for the momentum, Polyak 1964.)

    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.2]))
    >>> optimizer = PGM([w], "nonneg + l1(1.0)", lr=0.5)
    >>> optimizer.step(lambda: w.square().sum().backward()), w.data
    (None, tensor([0., 0., 0.]))
    """

    takes_shards = True

    def __init__(
        self,
        params: Any,
        proxs: Spec | list[Spec] | tuple[Spec, ...] = None,
        lr: float | Tensor | str = "auto",
        momentum: float = 0,
        dampening: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ):
        options = {"maximize": maximize, "capturable": capturable, "differentiable": differentiable}
        super().__init__(params, proxs, {"lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov} | options)

    @property
    def looks(self) -> bool:  # type: ignore[override]
        return any(group["lr"] == "auto" for group in self.param_groups)

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        lr, momentum = group["lr"], group["momentum"]
        if isinstance(lr, str):
            if lr != "auto":
                raise ValueError(f'lr is {lr!r} in {where}; a number above 0 or "auto" is needed')
            if momentum or group["capturable"]:
                what = "momentum" if momentum else "capturable=True"
                raise ValueError(f'{what} goes with a number for lr ({where} has "auto"): the automatic step looks at plain steps')
        elif lr is None or not lr > 0:
            raise ValueError(f'Invalid learning rate: {lr} in {where}; it must be above 0, or "auto"')
        if not momentum >= 0:
            raise ValueError(f"Invalid momentum value: {momentum} in {where}; it must be at least 0")
        if group["nesterov"] and (momentum <= 0 or group["dampening"] != 0):
            raise ValueError(f"Nesterov momentum requires a momentum and zero dampening ({where})")

    def _advance(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        for part in parts:
            if part.group["lr"] != "auto":
                _move(part, self._direction(part), told(part.group, part.group["lr"]), told(part.group, self._prox_step(part)))
        if auto := [part for part in parts if part.group["lr"] == "auto"]:
            self._automatic(auto, closure, loss)

    def _direction(self, part: Part) -> Tensor:
        """SGD's: the gradient, or with momentum its running sum."""
        group, g = part.group, part.grad
        if not (momentum := group["momentum"]):
            return g
        state = self.state[part.param]
        if "momentum_buffer" in state:
            state["momentum_buffer"].mul_(momentum).add_(g, alpha=1 - group["dampening"])
        else:
            state["momentum_buffer"] = g.clone()
        return g.add(state["momentum_buffer"], alpha=momentum) if group["nesterov"] else state["momentum_buffer"]

    def _prox_step(self, part: Part) -> Step:
        group = part.group
        if not (momentum := group["momentum"]):
            return group["lr"]
        state = self.state[part.param]
        known, s = "momentum_weight" in state, told(group, state.get("momentum_weight", 1.0))
        if group["capturable"]:
            s = torch.as_tensor(s, dtype=torch.float64, device=part.values.device)
        if known:  # a tensor in place, as a graph needs it
            s *= momentum
            s += 1 - group["dampening"]
        state["momentum_weight"] = s
        return group["lr"] * (1 + momentum * s if group["nesterov"] else s)

    def _automatic(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        states = [self.state[part.param] for part in parts]
        if self._aim(parts, states):
            return
        if closure is not None and states[0].pop("back", False):
            loss = self._evaluate(closure)
        befores = [part.values.clone() for part in parts] if closure is not None else []
        steps = self._steps(parts, states)
        for part, step in zip(parts, steps, strict=True):
            _move(part, part.grad, step, step)
        if closure is not None:
            steps = self._guarded(parts, befores, steps, closure, loss)
        for state, step in zip(states, steps, strict=True):
            state["before"], state["step"] = state.get("step", step), step

    def _aim(self, parts: list[Part], states: list[dict[str, Any]]) -> bool:
        """Whether this step only moved the start along the ray through it, ten times in or out, as long as that is right."""
        if any("step" in state or state.get("aimed") for state in states):
            return False
        state, way = states[0], states[0].get("way", 0)
        known = [(part, s) for part, s in zip(parts, states, strict=True) if "grad" in s]  # without what came since
        good = not way or (len(known) == len(parts) and ray.right(((part, s["grad"]) for part, s in known), way))
        if way and not good:  # one too far: back to where the gradient is known
            state["back"] = True
            for part, s in known:
                part.values.copy_(s["param"])
                part.grad.copy_(s["grad"])
        way = way or ray.way(parts)
        if good and way and state.get("times", 0) < ray.DECADES:
            for part, s in zip(parts, states, strict=True):
                store(s, "param", part.values)
                store(s, "grad", part.grad)
                part.values.copy_(ray.scaled(part, 10.0**way))
            state.update(way=way, times=state.get("times", 0) + 1)
            return True
        for s in states:
            s["aimed"] = True
        return False

    def _steps(self, parts: list[Part], states: list[dict[str, Any]]) -> list[float]:
        """The step of each parameter, with one look at the device for all of them."""
        products = [_products(part, state) for part, state in zip(parts, states, strict=True)]
        sums = torch.stack(sharded.sums(parts, products)).tolist()
        steps = [self._step(part, state, *s) for part, state, s in zip(parts, states, sums, strict=True)]
        if all(state.get("dead") for state in states):
            raise RuntimeError(
                f"the automatic step has died: it fell to {max(steps):.1e} though the gradient has not fallen, so that successive "
                "gradients are not those of one function. On mini-batches, or with dropout, use ProxDoWG, or ProxAdam, or a "
                "number for lr; on all of the data, look for randomness in the loss"
            )
        return steps

    def _step(self, part: Part, state: dict[str, Any], xx: float, gg: float, dxdx: float, dxdg: float, dgdg: float) -> float:
        size, slope, moved, changed = (math.sqrt(v) for v in (xx, gg, dxdx, dgdg))
        state["largest"] = largest = max(size, state.get("largest", 0.0))
        last, rounding = state.get("step"), torch.finfo(part.values.dtype).eps
        if last is None:  # a move so short that it is only asked for the curvature
            return rounding**0.5 * (size or 1.0) / slope if slope else 1.0
        if moved > _STILL * rounding * largest:
            step = self._curved(state, dxdg / dxdx, dgdg / dxdx, moved / changed if changed else math.inf)
        else:
            step = last
        step = min(step, largest / slope) if largest and slope else step
        _watch(state, step, slope, size, rounding)
        return step

    def _curved(self, state: dict[str, Any], low: float, square: float, inverse: float) -> float:
        """adaPG's next step; the first that follows the short move has no step before it to compare with."""
        step, before = state["step"], state["before"]
        if not state.get("curved"):
            first = 0.5 * inverse if inverse < math.inf else 1e8 * step
            state.update(curved=True, step=first, before=first)
            return first
        bend = step * step * square + 2 * step * low * (_SHARE - 1) + 1 - 2 * _SHARE
        most = math.sqrt((1 - _SHARE / _GROW) / bend) if bend > 0 else math.inf
        return step * min(math.sqrt(1 / _GROW + step / before), most)

    def _guarded(self, parts: list[Part], befores: list[Tensor], steps: list[float], closure: Callable, loss: Any) -> list[float]:
        """The steps, halved until the loss where they lead is what a curvature of 1 / step allows."""
        sign = -1.0 if parts[0].group["maximize"] else 1.0
        f = sign * sharded.mean_loss(parts, self._number(loss))
        slack = 10 * torch.finfo(parts[0].values.dtype).eps * abs(f)
        grads = [self.state[part.param]["grad"] for part in parts]
        while True:
            moves = [part.values - before for part, before in zip(parts, befores, strict=True)]
            sums = [torch.stack([inner(g, d), inner(d, d), d.any().double()]) for g, d in zip(grads, moves, strict=True)]
            slopes, squares, moved = torch.stack(sharded.sums(parts, sums)).T.tolist()
            bound = sum(slope + square / (2 * s) for slope, square, s in zip(slopes, squares, steps, strict=True))
            value = self._evaluate(closure)
            if sign * sharded.mean_loss(parts, self._number(value)) - f <= bound + slack or not any(moved):
                self._keep(closure, value, parts)
                return steps
            steps = [step / 2 for step in steps]
            for part, before, g, step in zip(parts, befores, grads, steps, strict=True):
                part.values.copy_(part.prox(before - step * g, step))

    def _metric(self, part: Part) -> tuple[Step | None, str]:
        if part.group["lr"] != "auto":
            return super()._metric(part)
        state = self.state.get(part.param, {})
        return (state["step"], "step") if state.get("curved") else (None, NOT_YET)


def _move(part: Part, direction: Tensor, lr: Step, step: Step) -> None:
    """p ← prox(p - lr d, step), by blocks that stay in the cache where the operator treats every number alike."""
    prox = part.prox

    def run(x: Tensor, d: Tensor) -> None:
        x.sub_(d * lr) if isinstance(lr, Tensor) else x.add_(d, alpha=-lr)
        made = prox._prox_(x, step) if prox.alike and x.dtype.itemsize > 2 else prox(x, step)
        if made is not x:
            x.copy_(made)

    if prox.alike:
        by_blocks(run, [part.values, direction])
    else:
        run(part.values, direction)


def _products(part: Part, state: dict[str, Any]) -> Tensor:
    """<x, x>, <g, g>, <Δx, Δx>, <Δx, Δg>, <Δg, Δg> since the last step; the point and its gradient are kept for the next."""
    known = "step" in state
    for name, t in () if known else (("param", part.values), ("grad", part.grad)):
        store(state, name, t)
    sums = []

    def run(x: Tensor, g: Tensor, p: Tensor, q: Tensor) -> None:
        dx, dg = (p.sub_(x), q.sub_(g)) if known else (x, g)
        products = [inner(a, b) for a, b in ((x, x), (g, g), (dx, dx), (dx, dg), (dg, dg))]
        sums.append((x.data_ptr(), torch.stack(products)))
        if known:
            p.copy_(x)
            q.copy_(g)

    by_blocks(run, [real(t) for t in (part.values, part.grad, state["param"], state["grad"])])
    return torch.stack([s for _, s in sorted(sums, key=lambda s: s[0])]).sum(0)  # in one order, whichever thread came first


def _watch(state: dict[str, Any], step: float, slope: float, size: float, rounding: float) -> None:
    """Note whether the step has died: it fell far over moves that are nothing, the gradient nearly as large as ever."""
    state["steepest"] = max(slope, state.get("steepest", 0.0))
    if not step * slope < rounding**0.5 * size:
        state.pop("watched", None)
        state["dead"] = False
        return
    first, then = state.setdefault("watched", [step, slope])
    little = rounding**0.2
    state["dead"] = step < little * first and slope > max(_ALIKE * then, little * state["steepest"])


def store(state: dict[str, Any], name: str, value: Tensor) -> None:
    """Keep a copy of a tensor, in the memory of the last one where there is one."""
    if name in state:
        state[name].copy_(value)
    else:
        state[name] = value.clone()
