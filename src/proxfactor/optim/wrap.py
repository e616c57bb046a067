"""Any torch optimizer with a diagonal metric that can be read, made proximal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from ..prox import Step, group_metric
from ..prox.base import widened
from ..prox.entries import Unconstrained
from .adam import DECOUPLED, Scale, scale_of, steps_of, told, weigh, with_decay
from .base import AT_REST, NOT_YET, Part, ProxOptimizer, Spec

_READ = (SGD, Adam, AdamW, Adamax, NAdam, RAdam, Adagrad, RMSprop)
_REFUSED = {
    "LBFGS": "its metric is not diagonal, so that no operator can honour it",
    "Muon": "it makes the gradient orthogonal, which is a step in no diagonal metric",
    "Adafactor": "its steps are clipped and scaled by what they moved, and keep no metric that could be read",
    "Rprop": "it looks at the signs of the gradient alone, which is a step in no metric",
    "ASGD": "it averages points from before the prox",
    "Adadelta": "its steps are measured by its own moves, which the prox changes",
    "SparseAdam": "a prox moves every entry, it only those of a batch",
}


class Proximal(ProxOptimizer):
    """A torch optimizer made proximal: it takes its own step, and then comes the prox with the step s that it has taken.

    p ← prox(p - s d, s), where p - s d is the base's point and s its effective step, entry by entry: read from its state so
    that a constant gradient g moves p by s g, momentum and bias corrections included. So a fixed point is one of the true
    problem, and the prox sees what schedules do. Where an operator needs steps that are constant over the dims it couples,
    the squared gradients are averaged over these, and the base's move is rescaled to this metric before the prox.

    base is one of torch's SGD, Adam, AdamW, Adamax, NAdam, RAdam, Adagrad and RMSprop, with or without a past; from here on
    its param groups and its state are shared: step, save and load this one. proxs is as in ``ProxOptimizer``, for its
    groups. Raises TypeError for another base (and says why) and for complex parameters under any but SGD, ValueError for an
    eps of 0, a momentum of 1 or more, and a centered RMSprop.

    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> w.grad = torch.tensor([4.0, 0.5])
    >>> Proximal(torch.optim.Adam([w], lr=0.25), "l1(1.0)").step(), w.data
    (None, tensor([0.6875, 0.2500]))
    """

    def __init__(self, base: Optimizer, proxs: Spec | list[Spec] | tuple[Spec, ...] = None):
        self.base = _read(base)
        super().__init__([dict(group) for group in base.param_groups], proxs, dict(base.defaults))
        self.state = base.state
        base.param_groups = self.param_groups

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        if not group["lr"] >= 0:
            raise ValueError(f"Invalid learning rate: {group['lr']} in {where}; it must be at least 0")
        if not group.get("eps", 1.0) > 0:
            raise ValueError(f"Invalid eps: {group['eps']} in {where}; it must be above 0: a gradient of 0 would divide 0 by 0")
        if not group.get("momentum", 0.0) < 1:
            raise ValueError(f"Invalid momentum value: {group['momentum']} in {where}; it must be below 1")

        if group.get("centered"):
            raise ValueError(f"centered=True in {where}: gradients that hardly change give NaN there; centered=False does not")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """torch's own; "prox" and the options default to what was given for all groups."""
        super().add_param_group(param_group)
        if not isinstance(self.base, SGD) and any(p.is_complex() for p in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise TypeError(
                f"param group {len(self.param_groups)} holds a complex parameter, of which {type(self.base).__name__} scales re "
                "and im apart; ProxAdam keeps them together, or give its torch.view_as_real"
            )

    @property
    def no_residual(self) -> str:  # type: ignore[override]
        return DECOUPLED if any(self._decoupled(group) for group in self.param_groups) else ""

    def _advance(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        for part in parts:
            self._adopt(part)
        before = {part.param: part.values.clone() for part in parts if self._rescales(part)}
        self.base.step()
        for part in parts:
            self._count(part)
            if isinstance(part.prox, Unconstrained):
                continue
            if part.param in before:
                self._rescaled(part, widened(before[part.param]))
            else:
                part.values.copy_(part.prox(widened(part.values), self._unit(part) * part.group["lr"]))

    def _rescales(self, part: Part) -> bool:
        return part.prox.metric == "group" and not isinstance(self.base, SGD)

    def _rescaled(self, part: Part, old: Tensor) -> None:
        """The base's move from old, in the metric that the operator can honour, and the prox in the same."""
        if decay := self._decoupled(part.group):
            old = old * (1 - part.group["lr"] * decay)
        own, shared = self._steps(part), self._steps(part, shared=True)
        ratio = torch.where(own > 0, shared / own, 0.0)
        part.values.copy_(part.prox(old + ratio * (part.values - old), shared * part.group["lr"]))

    def _decoupled(self, group: dict[str, Any]) -> float:
        return group["weight_decay"] if group.get("decoupled_weight_decay", isinstance(self.base, AdamW)) else 0

    def _adopt(self, part: Part) -> None:
        """The momentum of a base with a past counts as one that has run for long."""
        state, group = self.state.get(part.param, {}), part.group
        if state.get("momentum_buffer") is not None and "momentum_weight" not in state and group["momentum"]:
            limit = (1 - group.get("dampening", 0)) / (1 - group["momentum"])
            state["momentum_weight"] = limit if isinstance(self.base, SGD) else limit * _step(*self._metric_of(part))

    def _count(self, part: Part) -> None:
        """The weight of a constant gradient in the direction, after the base's step."""
        group, state = part.group, self.state[part.param]
        if isinstance(self.base, Adam | Adamax | NAdam | RAdam):
            weigh(self._numbers(group, state), state)
        elif not (momentum := group.get("momentum", 0)):
            return
        elif isinstance(self.base, SGD):
            state["momentum_weight"] = (
                momentum * state["momentum_weight"] + 1 - group["dampening"] if "momentum_weight" in state else 1.0
            )
        else:
            now = _step(*self._metric_of(part))
            state["momentum_weight"] = state.setdefault("momentum_weight", torch.zeros_like(now)).mul_(momentum).add_(now)

    def _unit(self, part: Part) -> Step:
        """The step for lr = 1."""
        if not isinstance(self.base, SGD):
            return self._steps(part)
        group = part.group
        weight = self.state[part.param]["momentum_weight"] if group["momentum"] else 1.0
        return 1 + group["momentum"] * weight if group["nesterov"] else weight

    def _steps(self, part: Part, shared: bool = False) -> Tensor:
        """The same, of a base with a metric; shared: constant over the dims that the operator couples."""
        if part.group.get("momentum", 0):
            v, scale = widened(self.state[part.param]["momentum_weight"]).pow(-2), Scale(1.0, 0.0)
        else:
            v, scale = self._metric_of(part)
        return _step(group_metric(part.prox, v, part.values.shape, "mean") if shared else v, scale)

    def _metric_of(self, part: Part) -> tuple[Tensor, Scale]:
        """v and what makes it the step for lr = 1, without RMSprop's momentum."""
        state = self.state[part.param]
        group = self._numbers(part.group, state)
        if isinstance(self.base, Adagrad):
            return widened(state["sum"]), Scale(1 / (1 + (told(group, state["step"]) - 1) * group["lr_decay"]), group["eps"])
        if isinstance(self.base, RMSprop):
            return widened(state["square_avg"]), Scale(1.0, group["eps"])
        if isinstance(self.base, Adamax):
            unbiased = state["momentum_weight"] / (1 - group["betas"][0] ** told(group, state["step"]))
            return widened(state["exp_inf"]).square(), Scale(unbiased, 0.0)
        return widened(state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]), scale_of(group, state)

    def _numbers(self, group: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
        """The base's options in ProxAdam's words."""
        form = "nadam" if isinstance(self.base, NAdam) else "radam" if isinstance(self.base, RAdam) else "adam"
        return {**group, "lr": 1.0, "form": form, "capturable": state["step"].device.type != "cpu"}

    def _metric(self, part: Part) -> tuple[Step | None, str]:
        if isinstance(self.base, SGD):
            return super()._metric(part)
        if not self.state.get(part.param) or not part.group["lr"] > 0:
            return None, NOT_YET if part.group["lr"] > 0 else AT_REST
        return self._steps(part, shared=True) * part.group["lr"], "step"

    def _measure(self, parts: list[Part]) -> Any:
        return super()._measure([with_decay(part) for part in parts])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's own, of this optimizer or of its base; each group keeps the operator that it has."""
        super().load_state_dict(state_dict)
        self.base.__setstate__({"state": self.state, "param_groups": self.param_groups})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "base": self.base}


def _step(v: Tensor, scale: Scale) -> Tensor:
    return steps_of([v.sqrt()], [scale])[0]


def _read(base: Optimizer) -> Optimizer:
    """Raises TypeError unless the effective step of the base can be read."""
    name = type(base).__name__
    if isinstance(base, ProxOptimizer):
        raise TypeError(f"{name} is proximal by itself; give it the proxs")
    if not isinstance(base, Optimizer):
        raise TypeError(
            f"base is {name}; a torch optimizer is needed, e.g. Proximal(torch.optim.Adam(model.parameters()), 'nonneg')"
        )
    if type(base) not in _READ:
        why = _REFUSED.get(name, "its effective step is not known here")
        known = ", ".join(kind.__name__ for kind in _READ)
        raise TypeError(f"Proximal cannot take {name}: {why}; take one of {known}, or ProxAdam or PGM")
    return base
