"""Proximal gradient steps for any nn.Module: a torch.optim optimizer whose param groups carry a prox."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from .prox import Prox, Step, as_prox

Spec = Prox | str | Callable | None


class PGM(SGD):
    """The proximal gradient method: torch's SGD, each step followed by the prox of the group, p ← prox(p - lr d, lr w).

    d is SGD's direction and w the weight that a constant gradient has in it, so that the prox always weighs its penalty
    as d weighs the loss, and a stationary point is one of the true problem: without momentum w = 1; with it w = s_t,
    with nesterov w = 1 + momentum s_t, where s_1 = 1 and s_t = momentum s_{t-1} + 1 - dampening.

    proxs is one operator for all groups or a list with one per group, each whatever ``as_prox`` takes; a group may also
    bring its own under "prox", and its own lr. Raises ValueError if the list does not fit the groups or a group is left
    without a lr, TypeError for a complex parameter, and in ``step`` RuntimeError for a sparse gradient. A parameter
    without a gradient is left alone. The operators stay out of ``state_dict``: ``load_state_dict`` keeps the optimizer's
    own. (Lions and Mercier 1979; Parikh and Boyd 2014, section 4.2; for the momentum, Polyak 1964.)

    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0, 0.2]))
    >>> optimizer = PGM([w], "nonneg + l1(1.0)", lr=0.5)
    >>> optimizer.step(lambda: w.square().sum().backward()), w.data
    (None, tensor([0., 0., 0.]))
    """

    def __init__(
        self,
        params: Any,
        proxs: Spec | list[Spec] | tuple[Spec, ...],
        lr: float | Tensor | None = None,
        momentum: float = 0,
        dampening: float = 0,
        nesterov: bool = False,
    ):
        if isinstance(params, Tensor):
            raise TypeError("params is a single tensor; PGM takes several: [tensor], model.parameters(), a list of groups")
        groups = list(params)
        if groups and not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        each = list(proxs) if isinstance(proxs, list | tuple) else [proxs] * len(groups)
        if len(each) != len(groups):
            raise ValueError(
                f"proxs has {len(each)} entries for {len(groups)} param group(s); "
                "give one operator for all groups, or a list with one per group"
            )
        laid = [{"lr": lr, "prox": prox, **group} for group, prox in zip(groups, each, strict=True)]
        super().__init__(laid, 0.0 if lr is None else lr, momentum, dampening, nesterov=nesterov)
        self.defaults["lr"] = lr
        if not isinstance(proxs, list | tuple):
            self.defaults["prox"] = as_prox(proxs)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """torch's own; "prox" and "lr" default to what was given for all groups."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group).__name__}; write {{'params': …, 'prox': …}}")
        group = {k: self.defaults[k] for k in ("lr", "prox") if k in self.defaults} | param_group
        where = f"param group {len(self.param_groups)}"
        if group["lr"] is None:
            raise ValueError(f"{where} has no lr; give lr=… for all groups, or {{'params': …, 'lr': …}} for this one")
        if not group["lr"] >= 0:
            raise ValueError(f"Invalid learning rate: {group['lr']} in {where}; it must be at least 0")
        if "prox" not in group:
            raise ValueError(f"{where} has no prox, and none was given for all; add 'prox': … to it (None for no constraint)")
        group["prox"] = as_prox(group["prox"])
        super().add_param_group(group)
        if any(p.is_complex() for p in group["params"]):
            self.param_groups.pop()
            raise TypeError(f"{where} holds a complex parameter, the operators are real; give its torch.view_as_real")

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """One gradient step and one prox; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(p.grad.layout != torch.strided for _, p in moved):
            raise RuntimeError("PGM does not support sparse gradients: a prox moves every entry; make the layer with sparse=False")
        inspect.unwrap(SGD.step)(self)  # torch hangs the step hooks around SGD.step too: super().step() would call them twice
        for group, p in moved:
            p.copy_(group["prox"](p, self._prox_step(group, p)))
        return loss

    def _prox_step(self, group: dict[str, Any], p: Tensor) -> Step:
        if not (momentum := group["momentum"]):
            return group["lr"]
        state = self.state[p]
        s = momentum * state["momentum_weight"] + 1 - group["dampening"] if "momentum_weight" in state else 1.0
        state["momentum_weight"] = s
        return group["lr"] * (1 + momentum * s if group["nesterov"] else s)

    def state_dict(self) -> dict[str, Any]:
        """torch's own without the operators, so that a default ``torch.load`` takes it back."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            group.pop("prox", None)
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's own; each group keeps the operator that it has."""
        proxs = [group["prox"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, prox in zip(self.param_groups, proxs, strict=True):
            group["prox"] = prox
