"""Adam and its relatives, with the prox in the metric of their own steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..prox import Prox, Step, group_metric
from ..prox.base import dims_of, widened
from ..prox.entries import Unconstrained
from .base import AT_REST, NOT_YET, Part, ProxOptimizer, Spec, by_blocks, told

Form = Literal["adam", "amsgrad", "adamw", "nadam", "radam"]


class Scale(NamedTuple):
    """The numbers of a step: x ← x - s (a m + b g) with s = k / (√v + e), so that a constant gradient g moves x by s g.

    Where ``steady`` is False, s = flat. Each is a number, or a tensor without dims that no host has looked at.
    """

    k: Any
    e: Any
    a: Any = 1.0
    b: Any = 0.0
    steady: bool | Tensor = True
    flat: Any = 0.0


class ProxAdam(ProxOptimizer):
    """Adam with the prox in its own metric: p ← prox(p - s m̂, s), entry by entry s = lr / ψ with ψ = √v̂ + eps.

    The plain prox with the step lr solves another problem: it weighs each entry's penalty with ψ, and a projection may stand
    still anywhere. Here a fixed point is one of the true problem. s is always the weight that a constant gradient has in the
    move, whatever the form and while a schedule turns lr or betas. An operator whose metric is "element" or "weighted" gets s
    as it is; for one of "group" v averages the squared gradients over the dims that it couples, in the move as in the prox.

    form is "adam", "amsgrad", "adamw" (decoupled decay first, then the prox), "nadam" (with momentum_decay) or "radam"
    (whose first steps are those of momentum: s is a number there); without a prox each moves as torch's own. "amsgrad" or a
    falling lr is what the theory asks for. Of a complex parameter v averages |g|², so that re and im share a step, and a
    modulus shrinks straight; half precision keeps its moments in float32, and is rounded once a step.

    proxs, groups and checkpoints as in ``ProxOptimizer``. Raises ValueError for an lr or eps not above 0 (a schedule may
    take lr to 0), betas outside [0, 1) and an unknown form. (Kingma and Ba 2015; Reddi, Kale and Kumar 2018; Loshchilov and
    Hutter 2019; Dozat 2016; Liu et al. 2020; the prox in the metric: Yun, Lozano and Yang 2021.)

    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> w.grad = torch.tensor([4.0, 0.5])
    >>> ProxAdam([w], "l1(1.0)", lr=0.25).step(), w.data
    (None, tensor([0.6875, 0.2500]))
    """

    takes_shards = True

    def __init__(
        self,
        params: Any,
        proxs: Spec | list[Spec] | tuple[Spec, ...] = None,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        form: Form = "adam",
        momentum_decay: float = 4e-3,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ):
        numbers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "form": form}
        options = {"maximize": maximize, "foreach": foreach, "capturable": capturable, "differentiable": differentiable}
        super().__init__(params, proxs, numbers | {"momentum_decay": momentum_decay} | options)

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        check_moments(group, where)
        if group["form"] not in get_args(Form):
            raise ValueError(f"form is {group['form']!r} in {where}; one of {', '.join(get_args(Form))} is needed")
        if not group["weight_decay"] >= 0:
            raise ValueError(f"Invalid weight_decay value: {group['weight_decay']} in {where}; it must be at least 0")
        if not group["momentum_decay"] >= 0:
            raise ValueError(f"Invalid momentum_decay value: {group['momentum_decay']} in {where}; it must be at least 0")

    @property
    def no_residual(self) -> str:  # type: ignore[override]
        return DECOUPLED if any(g["form"] == "adamw" and g["weight_decay"] for g in self.param_groups) else ""

    def _advance(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        for group in self.param_groups:
            mine = [part for part in parts if part.group is group and part.param.numel()]
            many = group["foreach"] if group["foreach"] is not None else all(p.values.device.type == "cuda" for p in mine)
            for some in [mine] if many and mine else [[part] for part in mine]:
                self._move(some)

    def _move(self, parts: list[Part]) -> None:
        """One step of parameters of one group."""
        group, prox = parts[0].group, parts[0].prox
        states = [self._counted(part) for part in parts]
        scales = [scale_of(group, state) for state in states]
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["form"] == "amsgrad" else [])]
        tensors = [[part.values for part in parts], [part.grad for part in parts], *([s[n] for s in states] for n in names)]
        if len(parts) == 1 and prox.alike:

            def run(x: Tensor, *others: Tensor) -> None:
                moved, steps = _moved(group, prox, scales, [x], *([t] for t in others))
                x.copy_(moved[0] if isinstance(prox, Unconstrained) else prox._prox_(moved[0], steps[0]))

            return by_blocks(run, [t for (t,) in tensors])
        moved, steps = _moved(group, prox, scales, *tensors)
        for part, x, step in zip(parts, moved, steps, strict=True):
            part.values.copy_(x if isinstance(prox, Unconstrained) else part.prox(x, step))

    def _counted(self, part: Part) -> dict[str, Any]:
        """The state of a parameter, its counters one step on."""
        state, group = self._begun(part), part.group
        state["step"] = state["step"].to(part.values.device if group["capturable"] else "cpu").add_(1)
        weigh(group, state)
        if group["form"] == "nadam":
            mu = _mu(group, told(group, state["step"]))
            state["mu_product"] = _onward(group, state.get("mu_product", 1.0), state["step"], mu, 0.0)
        return state

    def _begun(self, part: Part) -> dict[str, Any]:
        """The state of a parameter; an operator put into its group since the last step may ask for another metric."""
        state, x = self.state[part.param], widened(part.values)
        shape = _metric_shape(part.prox, x.shape)
        if "exp_avg" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(x)
            real = torch.zeros_like(x, dtype=x.dtype.to_real())
            state["exp_avg_sq"] = real if shape == x.shape else real.new_zeros(shape)
        if part.group["form"] == "amsgrad" and "max_exp_avg_sq" not in state:
            state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()
        for name in ("exp_avg_sq", "max_exp_avg_sq"):
            if name in state and (state[name].shape != shape or state[name].is_complex()):
                v = state[name]
                v = v.real + v.imag if v.is_complex() else v  # torch's Adam keeps the squares of re and im apart
                state[name] = group_metric(part.prox, v, x.shape, "mean").expand(shape).clone()
        return state

    def _metric(self, part: Part) -> tuple[Step | None, str]:
        state = self.state.get(part.param, {})
        if "exp_avg" not in state or not part.group["lr"] > 0:
            return None, NOT_YET if part.group["lr"] > 0 else AT_REST
        roots = [state["max_exp_avg_sq" if part.group["form"] == "amsgrad" else "exp_avg_sq"].sqrt()]
        return steps_of(roots, [scale_of(part.group, state)])[0], "step"

    def _measure(self, parts: list[Part]) -> Any:
        return super()._measure([with_decay(part) for part in parts])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's own; each group keeps its operator, and half precision the float32 of its moments."""
        super().load_state_dict(state_dict)
        theirs = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        ours = chain.from_iterable(group["params"] for group in self.param_groups)
        for p, i in zip(ours, theirs, strict=True):
            for name, value in state_dict["state"].get(i, {}).items() if p.dtype in (torch.bfloat16, torch.float16) else ():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.to(self.state[p][name].device, torch.float32, copy=True)


DECOUPLED = "with decoupled weight decay the fixed points are those of no loss + penalty; weight_decay=0, or l2, has one"


def check_moments(group: dict[str, Any], where: str) -> None:
    """Raises ValueError for an lr, betas or eps that cannot be."""
    if not 0 < group["lr"] < math.inf:
        raise ValueError(f"Invalid learning rate: {group['lr']} in {where}; it must be above 0 and finite")
    if not isinstance(group["betas"], tuple | list) or len(group["betas"]) != 2 or not all(0 <= b < 1 for b in group["betas"]):
        raise ValueError(f"Invalid betas: {group['betas']} in {where}; two numbers in [0, 1) are needed")
    if not 0 < group["eps"] < math.inf:
        raise ValueError(f"Invalid eps: {group['eps']} in {where}; it must be above 0: a gradient of 0 would divide 0 by 0")


def weigh(group: dict[str, Any], state: dict[str, Any]) -> None:
    """Once step has been counted: the weight that a constant gradient has in exp_avg; 1 - βᵗ, unless a schedule turns β."""
    first, t = group["betas"][0], state["step"]
    if "momentum_weight" not in state:
        state["momentum_weight"] = 1 - first ** (told(group, t) - 1)
    state["momentum_weight"] = _onward(group, state["momentum_weight"], t, first, 1 - first)


def scale_of(group: dict[str, Any], state: dict[str, Any]) -> Scale:
    """The numbers of the step that has been counted last."""
    (first, second), t = group["betas"], told(group, state["step"])
    lr, weight, correction = told(group, group["lr"]), state["momentum_weight"], 1 - second**t
    a: Step = 1 / (1 - first**t)
    b: Step = 0.0
    if group["form"] == "nadam":
        product, now, following = told(group, state["mu_product"]), _mu(group, t), _mu(group, t + 1)
        a, b = following / (1 - product * following), (1 - now) / (1 - product)
    whole = a * weight + b
    k, e = lr * whole * correction**0.5, group["eps"] * correction**0.5
    if group["form"] != "radam":
        return Scale(k, e, a / whole, b / whole)
    most = 2 / (1 - second) - 1
    length = most - 2 * t * second**t / correction
    steady = length > 5
    if steady is False:
        return Scale(0.0, 1.0, a / whole, steady=False, flat=lr * whole)
    rectifier = ((length - 4) * (length - 2) / length * most / (((most - 4) * (most - 2)) or math.nan)) ** 0.5
    return Scale(k * rectifier, group["eps"], a / whole, steady=steady, flat=lr * whole)


def _mu(group: dict[str, Any], t: Step) -> Step:
    return group["betas"][0] * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"]))


def _moved(group: dict[str, Any], prox: Prox, scales: list[Scale], *tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Where parameters stand before the prox, in new tensors of at least float32, and its steps; the moments move in place.

    tensors are the parameters, their gradients, the moments, and AMSGrad's maxima.
    """
    xs, gs = ([widened(t) for t in ts] for ts in tensors[:2])
    ms, vs, *tops = tensors[2:]
    if decay := group["weight_decay"]:
        if group["form"] == "adamw":
            xs = list(torch._foreach_mul(xs, 1 - told(group, group["lr"]) * decay))
        else:
            gs = list(torch._foreach_add(gs, xs, alpha=decay))
    first, second = group["betas"]
    torch._foreach_lerp_(ms, gs, 1 - first)
    torch._foreach_mul_(vs, second)
    if prox.metric == "group" or any(g.is_complex() for g in gs):
        squares = [group_metric(prox, g.abs().square(), g.shape, "mean") for g in gs]
        torch._foreach_add_(vs, squares, alpha=1 - second)
    else:
        torch._foreach_addcmul_(vs, gs, gs, 1 - second)
    for top in tops:
        torch._foreach_maximum_(top, vs)
    steps = steps_of(list(torch._foreach_sqrt([*tops, vs][0])), scales)
    moved = _less(xs, steps, ms, [scale.a for scale in scales])
    if group["form"] == "nadam":
        moved = _less(moved, steps, gs, [scale.b for scale in scales])
    return moved, steps


def steps_of(roots: list[Tensor], scales: list[Scale]) -> list[Tensor]:
    """The steps k / (√v + e), written over √v."""
    torch._foreach_add_(roots, [scale.e for scale in scales])
    torch._foreach_reciprocal_(roots)
    torch._foreach_mul_(roots, [scale.k for scale in scales])
    return [
        s if scale.steady is True else torch.where(torch.as_tensor(scale.steady, device=s.device), s, scale.flat)
        for s, scale in zip(roots, scales, strict=True)
    ]


def _less(xs: list[Tensor], steps: list[Tensor], ds: list[Tensor], weights: list[Any]) -> list[Tensor]:
    """x - weight · step · d."""
    if any(isinstance(w, Tensor) for w in weights):
        return list(torch._foreach_addcmul(xs, steps, torch._foreach_mul(ds, weights), -1))
    return list(torch._foreach_addcmul(xs, steps, ds, [-w for w in weights]))


def with_decay(part: Part) -> Part:
    """The part with the gradient of ½ weight_decay |x|² in its own."""
    decay = part.group.get("weight_decay", 0)
    return part._replace(grad=part.grad.add(part.values, alpha=decay)) if decay else part


def _metric_shape(prox: Prox, shape: torch.Size) -> torch.Size:
    if prox.metric != "group":
        return shape
    coupled = dims_of(prox.dims, len(shape))
    return torch.Size(1 if d in coupled else n for d, n in enumerate(shape))


def _onward(group: dict[str, Any], number: Step, step: Tensor, factor: Step, term: float) -> Step:
    """factor · number + term: a float, or where the host must not look a tensor beside the step, in place as a graph needs it."""
    if group["capturable"]:
        return torch.as_tensor(number, dtype=torch.float32, device=step.device).mul_(factor).add_(term)
    return told(group, number) * told(group, factor) + term
