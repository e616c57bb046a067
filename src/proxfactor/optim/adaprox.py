"""AdaProx as it was published: Adam-like steps whose prox is approached by inner iterations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..prox import Prox
from ..prox.base import widened
from ..prox.entries import Unconstrained
from .adam import check_moments
from .base import Part, ProxOptimizer, Spec

Scheme = Literal["adam", "nadam", "amsgrad", "padam", "adamx", "radam"]


class AdaProx(ProxOptimizer):
    """Adaptive proximal gradients with inner iterations, as published: for comparison; ``ProxAdam`` needs none of them.

    x̃ = p - lr φ / ψ, and p is where z ← prox(z - ψ (z - x̃) / max ψ, lr / max ψ) has come, from z = x̃, once ‖Δz‖ ≤ tol ‖z‖
    or after prox_max_iter rounds. That is proximal gradient on the subproblem in the metric ψ / lr: where ψ spreads over
    magnitudes it takes very many rounds, or stops early and far from the solution. With m and v the means of g and g²:

    scheme   φ                            ψ
    adam     m̂                            √v̂ + eps
    nadam    (β₁ m + (1 - β₁) g) / (1-β₁ᵗ)  √v̂ + eps
    amsgrad  m                            √max v + eps
    padam    m                            (max v)^power + eps
    adamx    m                            √u + eps, u ← max(u (1 - β₁)² / (1 - β₁ before)², v)
    radam    m̂                            (√v̂ + eps) / the rectifier; 1 in the first steps

    ``prox_calls`` counts the calls of operators so far. There is no residual, and no capture: each round looks at its end.
    Raises ValueError for an lr or eps not above 0, betas outside [0, 1), an unknown scheme, a power outside (0, ½], a
    prox_max_iter below 1 and a tol below 0. (Melchior, Joseph and Moolekamp 2019, algorithm 1.)

    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> w.grad = torch.tensor([4.0, 0.5])
    >>> optimizer = AdaProx([w], "l1(1.0)", lr=0.25)
    >>> optimizer.step(), w.data, optimizer.prox_calls > 50
    (None, tensor([0.6875, 0.2500]), True)
    """

    no_residual = "AdaProx stops its inner iterations short of the prox in its metric; ProxAdam has a residual"
    prox_calls: int = 0

    def __init__(
        self,
        params: Any,
        proxs: Spec | list[Spec] | tuple[Spec, ...] = None,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        scheme: Scheme = "adam",
        power: float = 0.25,
        prox_max_iter: int = 1000,
        tol: float = 1e-6,
        *,
        maximize: bool = False,
    ):
        numbers = {"lr": lr, "betas": betas, "eps": eps, "scheme": scheme, "power": power}
        super().__init__(params, proxs, numbers | {"prox_max_iter": prox_max_iter, "tol": tol, "maximize": maximize})

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        check_moments(group, where)
        if group["scheme"] not in get_args(Scheme):
            raise ValueError(f"scheme is {group['scheme']!r} in {where}; one of {', '.join(get_args(Scheme))} is needed")
        if not 0 < group["power"] <= 0.5:
            raise ValueError(f"power is {group['power']} in {where}; it must lie in (0, 1/2]")
        if not group["prox_max_iter"] >= 1:
            raise ValueError(f"prox_max_iter is {group['prox_max_iter']} in {where}; it must be at least 1")
        if not group["tol"] >= 0:
            raise ValueError(f"tol is {group['tol']} in {where}; it must be at least 0")

    def _advance(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        for part in parts:
            if part.values.numel():
                direction, metric = self._direction(part)
                target = widened(part.values) - part.group["lr"] * direction / metric
                part.values.copy_(self._solved(part.group, part.prox, target, metric))

    def _direction(self, part: Part) -> tuple[Tensor, Tensor]:
        """φ and ψ; the moments move."""
        group, state, g = part.group, self.state[part.param], widened(part.grad)
        (first, second), eps = group["betas"], group["eps"]
        if "exp_avg" not in state:
            state["step"], state["exp_avg"] = torch.zeros(()), torch.zeros_like(g)
            state["exp_avg_sq"] = torch.zeros_like(g, dtype=g.dtype.to_real())
        state["step"] += 1
        t, m, v = state["step"].item(), state["exp_avg"], state["exp_avg_sq"]
        m.mul_(first).add_(g, alpha=1 - first)
        v.mul_(second).add_(g.abs().square(), alpha=1 - second)
        unbiased, root = m / (1 - first**t), (v / (1 - second**t)).sqrt() + eps
        match group["scheme"]:
            case "adam":
                return unbiased, root
            case "nadam":
                return (first * m + (1 - first) * g) / (1 - first**t), root
            case "radam":
                rectifier = _rectifier(second, t)
                return unbiased, root / rectifier if rectifier else torch.ones_like(root)
            case scheme:
                before = state.get("beta_before", first) if scheme == "adamx" else first
                state["beta_before"] = first
                top = state.get("max_exp_avg_sq", v) * ((1 - first) / (1 - before)) ** 2
                state["max_exp_avg_sq"] = torch.maximum(top, v)
                return m, state["max_exp_avg_sq"] ** (group["power"] if scheme == "padam" else 0.5) + eps

    def _solved(self, group: dict[str, Any], prox: Prox, target: Tensor, metric: Tensor) -> Tensor:
        """Where proximal gradient on g(z) + |z - target|² / (2 lr), in the metric, comes."""
        if isinstance(prox, Unconstrained):
            return target
        most, z = metric.amax(), target
        for _ in range(group["prox_max_iter"]):
            moved = prox(z - metric / most * (z - target), group["lr"] / most)
            self.prox_calls += 1
            near = torch.linalg.vector_norm(moved - z) <= group["tol"] * torch.linalg.vector_norm(z)
            z = moved
            if near:
                break
        return z


def _rectifier(second: float, t: float) -> float:
    """RAdam's, 0 where the variance is not tractable yet."""
    most = 2 / (1 - second) - 1
    length = most - 2 * t * second**t / (1 - second**t)
    if length <= 4:
        return 0.0
    return ((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)) ** 0.5
