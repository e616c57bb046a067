"""Mini-batches without a learning rate: distance over weighted gradients, in stages."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..prox import Prox, group_metric
from ..prox.base import widened
from ..prox.entries import Unconstrained
from .base import Part, ProxOptimizer, Spec, _size, inner

_START = 1e-6  # the first guess of the distance, in sizes of the parameter
_FIRST, _LEAST = 32, 8  # steps: the first stage's length; what a stage must have seen to end before its time
_FALL = 0.25  # of the stage's mean squared gradient: below it the stage has done its work
_KEEP = 0.5  # of the distance, for a stage after one that made no headway
_CARRY = 0.1  # of a stage's squared gradients: the next begins with them, or with _LEAST steps' worth
_FLOOR = 0.1  # a shape's entries are at least what a tenth of the tensor's typical travel and gradient give
_POWER = 8  # step t of the average weighs about t**_POWER


class ProxDoWG(ProxOptimizer):
    """A stochastic proximal gradient method that finds its steps itself: p ← prox(p - s g, s), s = lr η P entry by entry.

    A stage starts at an anchor a and keeps a fixed shape P. Over each tensor, with r² = max ‖p - a‖²_{1/P} so far,

        η = r² / √(Σ r² ‖g‖²_P),

    the distance over the weighted gradients. A stage makes headway as long as Σ <(p - p⁺) / s, p - a> is below 0. It lasts
    twice as long as the one before it, or ends early, without lengthening the next, once the squared gradients of all tensors
    together have fallen, with headway, to a quarter of the stage's mean. The next stage's P is, entry by entry, the distance
    travelled over the root of the summed squared gradients, each mixed with a tenth of its root mean square over the tensor;
    an operator whose metric is "group" gets the means over what it couples. A tensor's r stays after a full stage in which it
    made headway itself, and is halved after any other; a tenth of the squared gradients is carried over. The first r is 1e-6
    of the parameter's size, so that a scaled problem from a scaled start takes the scaled trajectory; from a start at zero it
    is that of the other parameters, or 1e-6 per entry if all of them are zero.

    The answer is not the last iterate but an average: ``eval()`` writes prox(ū, s̄) into the parameters, where ū and s̄
    average what the prox was given, p - s g, and its steps, with weights that grow like t⁸ and begin anew where a stage ends
    early. As the operator's own output it lies in its set, convex or not, and has its exact zeros. ``train()`` brings the
    iterate back. Call ``eval()`` before validation and before saving the model; the optimizer's ``state_dict`` goes on in
    either mode, with the module's taken in the same one.

    lr is a factor on the step, for schedules. No closure is needed; with one its loss is returned and not used. There is no
    proof for this combination: within a convex stage of fixed P it is DoWG, and the stages, the shape and nonconvex losses
    are heuristics that were measured. From a start a million times too large it may need more steps than it is given.

    proxs, groups and checkpoints as in ``ProxOptimizer``. Raises ValueError for an lr not above 0, and RuntimeError for a
    step in eval mode. (DoG: Ivgi, Hinder and Carmon 2023, who also weigh the average so; the weights r²: Khaled, Mishchenko
    and Jin 2023; the prox in the metric: Duchi, Hazan and Singer 2011.)

    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    >>> optimizer = ProxDoWG([w], "nonneg")
    >>> for _ in range(200):
    ...     w.grad = w.detach() - torch.tensor([2.0, 0.5, -1.0])
    ...     optimizer.step()
    >>> optimizer.eval()
    >>> w.detach().round(decimals=3)
    tensor([2.0000, 0.5000, 0.0000])
    """

    no_residual = "the gradient of a mini-batch does not vanish at a solution; measure that of the whole data"

    def __init__(
        self,
        params: Any,
        proxs: Spec | list[Spec] | tuple[Spec, ...] = None,
        lr: float | Tensor = 1.0,
        *,
        maximize: bool = False,
        capturable: bool = False,
    ):
        super().__init__(params, proxs, {"lr": lr, "maximize": maximize, "capturable": capturable, "training": True})

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        if not group["lr"] > 0:
            raise ValueError(f"Invalid learning rate: {group['lr']} in {where}; lr is a factor on the automatic step, above 0")
        group["training"] = all(other["training"] for other in self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the others', but half precision is refused with a TypeError: the first moves are lost in its rounding."""
        super().add_param_group(param_group)
        if any(p.dtype in (torch.bfloat16, torch.float16) for p in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise TypeError(
                f"param group {len(self.param_groups)} holds a parameter in half precision, in whose rounding the first moves are "
                "lost; keep the parameters in float32, with torch.autocast for the computation, or take ProxAdam"
            )

    @torch.no_grad()
    def eval(self) -> None:
        """Write the average into the parameters; ``train`` brings the iterate back. Twice is once."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state.get(p)
                if state and group["training"]:
                    state["iterate"] = p.detach().clone()
                    p.copy_(_prox(group["prox"], state["average"], state["average_step"]))
            group["training"] = False

    @torch.no_grad()
    def train(self) -> None:
        """Write the iterate back into the parameters, to go on."""
        for group in self.param_groups:
            for p in group["params"]:
                if "iterate" in self.state.get(p, ()):
                    p.copy_(self.state[p].pop("iterate"))
            group["training"] = True

    def step(self, closure: Callable | None = None) -> Any:
        """One step; returns the closure's loss. Raises RuntimeError in eval mode."""
        if not all(group["training"] for group in self.param_groups):
            raise RuntimeError(
                "the parameters hold the average of the iterates since eval(); call train() before the gradients are taken"
            )
        return super().step(closure)

    def _advance(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        self._begin([part for part in parts if not self.state[part.param]])
        for part, fallen in zip(parts, self._fallen(parts), strict=True):
            state = self.state[part.param]
            _turn(state, widened(part.values), part.prox, fallen)
            self._move(part, state)

    def _begin(self, parts: list[Part]) -> None:
        """The state of parameters that move for the first time. Numbers are float64 without dims, where the parameter is."""
        if not parts:
            return
        each = [_size(p.values) / max(p.values.numel(), 1) ** 0.5 for p in parts]
        typical = torch.stack([size.to(each[0].device) for size in each]).amax()
        typical = torch.where(typical > 0, typical, 1.0)
        for part, size in zip(parts, each, strict=True):
            x = widened(part.values)
            real = x.abs()
            reach = _START * torch.where(size > 0, size, typical.to(size.device)) * x.numel() ** 0.5
            zero = torch.zeros_like(size)
            self.state[part.param].update(
                anchor=x.clone(memory_format=torch.preserve_format),
                shape=group_metric(part.prox, torch.ones_like(real), tuple(x.shape), "mean").clone(),
                travel=torch.zeros_like(real),
                gradients=torch.zeros_like(real),
                average=torch.zeros_like(x),
                average_step=group_metric(part.prox, torch.zeros_like(real), tuple(x.shape), "mean").clone(),
                distance=reach.square(),
                **{name: zero.clone() for name in ("weighted", "mean", "recent", "headway", "taken", "averaged")},
                length=zero + _FIRST,
            )

    def _fallen(self, parts: list[Part]) -> list[Tensor]:
        """Whether each part's stage ends early: over all parts, with headway, at smaller gradients than the stage's mean."""
        if not parts:
            return []
        states, first = [self.state[part.param] for part in parts], parts[0].values.device
        share = [torch.where(s["mean"] > 0, s["recent"] / s["mean"], 1.0).to(first) for s in states]
        headway = torch.stack([s["headway"].to(first) for s in states]).sum()
        fallen = (torch.stack(share).mean() < _FALL) & (headway < 0)
        return [fallen.to(s["taken"].device) & (s["taken"] >= _LEAST) for s in states]

    def _move(self, part: Part, state: dict[str, Any]) -> None:
        x, g, shape = widened(part.values), widened(part.grad), state["shape"]
        root, away = shape.sqrt(), x - state["anchor"]
        torch.maximum(state["travel"], away.abs(), out=state["travel"])
        torch.hypot(state["gradients"], g.abs(), out=state["gradients"])
        energy, away = _square(g * root), away.div_(root)
        state["mean"] += (energy - state["mean"]) / state["taken"]
        state["recent"] += (energy - state["recent"]) * 5 / (state["taken"] + 4)
        state["distance"].copy_(torch.maximum(state["distance"], _square(away)))
        state["weighted"] += state["distance"] * energy
        eta = torch.where(state["weighted"] > 0, state["distance"] / state["weighted"].sqrt(), 0.0) * part.group["lr"]
        step = eta.to(shape.dtype) * shape
        given = x - step * g
        new = _prox(part.prox, given, step)
        state["headway"] += torch.where(eta > 0, inner((x - new).div_(root), away) / eta, 0.0)
        weight = (_POWER + 1) / (state["averaged"] + _POWER)
        state["average"].lerp_(given, weight.to(given.dtype))
        state["average_step"].lerp_(step, weight.to(step.dtype))
        part.values.copy_(new)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's own; each group keeps its operator, and the state its own precision."""
        super().load_state_dict(state_dict)
        theirs = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        ours = chain.from_iterable(group["params"] for group in self.param_groups)
        for p, i in zip(ours, theirs, strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                self.state[p][name] = value.to(p.device, copy=True)


def _turn(state: dict[str, Any], x: Tensor, prox: Prox, fallen: Tensor) -> None:
    """One more step of the stage, or the first of the next: decided where the parameter is, so that no host has to wait."""
    taken, travel, gradients, shape = state["taken"], state["travel"], state["gradients"], state["shape"]
    over = taken >= state["length"]
    end = fallen | over
    if end.device.type != "cpu" or bool(end):
        moved = (travel.amax() > 0) & (gradients.amax() > 0) & end if travel.numel() else end
        shape.copy_(torch.where(moved, _share(prox, travel) / _share(prox, gradients), shape))
        keep = torch.where(fallen | (state["headway"] >= 0), _KEEP, 1.0)
        distance = keep.square() * _square(travel / shape.sqrt())
        state["distance"].copy_(torch.where(moved, distance, state["distance"]))
        fall = torch.where(state["mean"] > 0, state["recent"] / state["mean"], 1.0).clamp(max=1.0)
        energy = _square(gradients * shape.sqrt()) / taken * fall
        carried = (_CARRY * taken).clamp(min=_LEAST) * energy * state["distance"]
        state["weighted"].copy_(torch.where(end, carried, state["weighted"]))
        state["length"].copy_(torch.where(over & ~fallen, 2 * state["length"], state["length"]))
        state["anchor"].copy_(torch.where(end, x, state["anchor"]))
        for name in ("travel", "gradients", "mean", "recent", "headway", "taken"):
            state[name].masked_fill_(end, 0.0)
        state["averaged"].masked_fill_(fallen, 0.0)
    taken += 1
    state["averaged"] += 1


def _square(x: Tensor) -> Tensor:
    return inner(x, x)


def _share(prox: Prox, t: Tensor) -> Tensor:
    """t over its root mean square, never far below one: the scale of a shape is of no account."""
    typical = _size(t) / max(t.numel(), 1) ** 0.5
    share = t / torch.where(typical > 0, typical, 1.0)
    return (group_metric(prox, share.square(), tuple(t.shape), "mean") + _FLOOR**2).sqrt()


def _prox(prox: Prox, x: Tensor, step: Tensor) -> Tensor:
    return x if isinstance(prox, Unconstrained) else prox(x, step)
