"""The proximal gradient method, with a learning rate and without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..prox import Step
from .base import Part, ProxOptimizer, Spec


class PGM(ProxOptimizer):
    """The proximal gradient method: a gradient step followed by the prox of the group, p ← prox(p - lr d, lr w).

    d is SGD's direction and w the weight that a constant gradient has in it, so that the prox always weighs its penalty
    as d weighs the loss, and a stationary point is one of the true problem: without momentum w = 1; with it w = s_t,
    with nesterov w = 1 + momentum s_t, where s_1 = 1 and s_t = momentum s_{t-1} + 1 - dampening.

    proxs, groups and checkpoints as in ``ProxOptimizer``. Raises ValueError for a group without a lr or options that
    torch's SGD refuses too. (Lions and Mercier 1979; Parikh and Boyd 2014, section 4.2; for the momentum, Polyak 1964.)

    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.2]))
    >>> optimizer = PGM([w], "nonneg + l1(1.0)", lr=0.5)
    >>> optimizer.step(lambda: w.square().sum().backward()), w.data
    (None, tensor([0., 0., 0.]))
    """

    def __init__(
        self,
        params: Any,
        proxs: Spec | list[Spec] | tuple[Spec, ...] = None,
        lr: float | Tensor | None = None,
        momentum: float = 0,
        dampening: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ):
        options = {"maximize": maximize, "foreach": foreach, "capturable": capturable, "differentiable": differentiable}
        super().__init__(params, proxs, {"lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov} | options)

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        lr, momentum = group["lr"], group["momentum"]
        if lr is None:
            raise ValueError(f"{where} has no lr; give lr=… for all groups, or {{'params': …, 'lr': …}} for this one")
        if not lr >= 0:
            raise ValueError(f"Invalid learning rate: {lr} in {where}; it must be at least 0")
        if not momentum >= 0:
            raise ValueError(f"Invalid momentum value: {momentum} in {where}; it must be at least 0")
        if group["nesterov"] and (momentum <= 0 or group["dampening"] != 0):
            raise ValueError(f"Nesterov momentum requires a momentum and zero dampening ({where})")

    def _advance(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        for part in parts:
            part.values.add_(self._direction(part), alpha=-part.group["lr"])
            part.values.copy_(part.prox(part.values, self._prox_step(part)))

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
        s = momentum * state["momentum_weight"] + 1 - group["dampening"] if "momentum_weight" in state else 1.0
        state["momentum_weight"] = s
        return group["lr"] * (1 + momentum * s if group["nesterov"] else s)
