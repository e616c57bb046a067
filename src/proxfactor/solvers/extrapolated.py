"""Extrapolated: any solver of a quadratic loss, from points ahead of the iterates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..problem import Problem, Quadratic
from ..streamed import Streamed
from .base import Alternating, Memory, State
from .hals import HALS

SLOW = 0.01, 0.001
"""The fast phase is over where a sweep lowers the value by less than these shares: of the value, or of the fall since the first."""


@dataclass
class Momentum(State):
    """A State with the iterate before, the products of X with both, and how far ahead of them to look."""

    before: tuple[Tensor, Tensor] = ()  # type: ignore[assignment]  # W, Hᵀ of the sweep before
    products: tuple[Quadratic, ...] = ()  # the models for Hᵀ and W, and for the Hᵀ of the sweep before
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Extrapolated(Alternating):
    """Half-steps from W + β (W - W_before), and with H + β (H - H_before) in its place, once the fast phase is over.

    A sweep that raises the value is taken back, β shrinks by 1.5, and the next one goes from where the last good one ended;
    after each good one β grows by 1.02, up to a bound that grows by 1.005 and falls to the β before the failure. So the value
    never rises. (Ang and Gillis 2019. Here the points ahead are not projected: the half-steps that start there are, and a
    product of X with a point ahead is a combination of known ones, so that the value, the certificate and the extrapolation
    cost no pass over X.) It takes quadratic losses, without ties.

    >>> Extrapolated(HALS(inner=3))
    Extrapolated(HALS(inner=3))
    """

    solver: Alternating = field(default_factory=HALS)

    def check(self, problem: Problem) -> None:
        if not problem.loss.quadratic or problem.ties:
            what = "ties" if problem.ties else repr(problem.loss)
            raise ValueError(f"Extrapolated takes squared error without ties, and this problem has {what}; use {self.solver!r}")
        if isinstance(problem, Streamed):
            raise ValueError(f"Extrapolated keeps products with all of X, which comes in chunks; use {self.solver!r}")
        self.solver.check(problem)

    def rows(self, prox: Any, q: Any, A: Tensor, memory: Memory) -> Tensor:
        return self.solver.rows(prox, q, A, memory)

    def half(self, p: Problem, A: Tensor, B: Tensor, memory: Memory) -> Tensor:
        return self.solver.half(p, A, B, memory)

    def patient(self) -> Alternating:
        return self.solver.patient()

    def brief(self) -> Alternating:
        return self.solver.brief()

    def init(self, problem: Problem, W: Tensor, H: Tensor) -> Momentum:
        begun = self.solver.init(problem, W, H)
        return self.at(Momentum(begun.W, begun.H, begun.w, begun.h), begun.W, begun.H)

    def at(self, state: State, W: Tensor, H: Tensor) -> Momentum:
        numbers: dict[str, Any] = dict(BEGIN)
        if W.device.type != "cpu":
            numbers = {name: torch.tensor(v, dtype=torch.float64, device=W.device) for name, v in BEGIN.items()}
        return Momentum(W, H, state.w, state.h, state.sweep, (W, H.mT), (), numbers)

    def step(self, problem: Problem, state: State) -> State:
        assert isinstance(state, Momentum)
        p, t, s = problem, problem.T, state
        W, Ht, (W0, Ht0), beta = s.W, s.H.mT, s.before, s.numbers["beta"]
        ahead_H = _ahead(Ht, Ht0, beta)
        if p.shared:
            XH, XW, XH0 = s.products or (p.normal(Ht), None, None)
            if XH0:
                p.know(ahead_H, _ahead(XH.C, XH0.C, beta))
        new_W = self.half(p, _ahead(W, W0, beta), ahead_H, s.w)
        ahead_W = _ahead(new_W, W, beta)
        if p.shared:
            new_XW = t.normal(new_W)
            if XW:  # else it is the first sweep, and nothing is ahead
                t.know(ahead_W, _ahead(new_XW.C, XW.C, beta))
        new_Ht = self.half(t, ahead_H, ahead_W, s.h)
        told: tuple[Any, Any] = p.quick_value(new_W, new_Ht.mT), _rounding(p)
        if W.device.type == "cpu":  # elsewhere to ask would stop the device
            told = float(told[0]), float(told[1])
        good, numbers = _judged(s.numbers, *told)
        s.before = W, Ht  # after a failure they stay where they were, and nothing is ahead
        W, Ht = _either(good, (new_W, new_Ht), (W, Ht))
        if p.shared:
            new_XH, XW = p.normal(new_Ht), XW or new_XW
            GH, CH, GW, CW = _either(good, (new_XH.G, new_XH.C, new_XW.G, new_XW.C), (XH.G, XH.C, XW.G, XW.C))
            s.products = (p.know(Ht, CH, GH), t.know(W, CW, GW), XH)
        s.W, s.H, s.numbers, s.sweep = W, Ht.mT, numbers, s.sweep + 1
        return s


BEGIN = {"beta": 0.0, "next": 0.5, "bound": 1.0, "last": 0.5, "value": torch.inf, "first": torch.inf, "slow": 0.0}


def _judged(n: dict[str, Any], value: Any, rounding: Any) -> tuple[Any, dict[str, Any]]:
    """Whether the sweep is good, and the numbers for the next one: plain ones on a CPU, else tensors that stay on their device."""
    which = torch.where if isinstance(value, Tensor) else lambda condition, a, b: a if condition else b
    fall = n["value"] - value
    good = fall >= -rounding
    used = good & (n["beta"] > 0)
    first = which(n["first"] < torch.inf, n["first"], n["value"])
    slow = (fall < SLOW[0] * value) | (fall < SLOW[1] * (first - value)) & (first < torch.inf) | (n["slow"] > 0)
    wider, longer = 1.005 * n["bound"], 1.02 * n["next"]
    bound = which(good, which(used, which(wider < 1, wider, 1.0), n["bound"]), n["last"])
    coming = which(good, which(used, which(bound < longer, bound, longer), n["next"]), n["next"] / 1.5)
    beta = coming * (good & slow)
    last, value = which(used, n["next"], n["last"]), which(good, value, n["value"])
    return good, {"beta": beta, "next": coming, "bound": bound, "last": last, "value": value, "first": first, "slow": slow}


def _ahead(F: Tensor, before: Tensor, beta: Any) -> Tensor:
    if isinstance(beta, Tensor):
        return torch.lerp(before, F, (1 + beta).to(F))
    return torch.lerp(before, F, 1 + beta) if beta else F


def _either(good: Any, ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if isinstance(good, bool):
        return ours if good else theirs
    return tuple(torch.where(good, a, b) for a, b in zip(ours, theirs, strict=True))


def _rounding(p: Problem) -> Tensor | float:
    return p.size * torch.finfo(p.X.dtype).eps / 2 if p.shared else 0.0
