"""Spectral proximal gradient steps that may rise for a while: for nonconvex penalties; and how points are tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..prox import Prox, Step
from .base import NOT_YET, Part, ProxOptimizer, Spec, inner

_DECREASE = 1e-4  # of what a step of that length promises, to be kept
_LONGER = 2.0**10  # times: more than that no step grows over the last one
_TRIALS = 60  # a step that has been halved as often is lost in rounding


class Trials(ProxOptimizer):
    """An optimizer that looks at the loss of a point before it goes there; each parameter has its own step, a number.

    Every look is one evaluation of the closure, which must be deterministic: all of the data, no dropout. The look at the
    point where a step ends is the first of the next step if that is given the same closure and nothing was changed in
    between. Raises TypeError for a closure that does not return the loss, RuntimeError for a loss that is not finite, in
    both cases and whenever the closure raises with the parameters as they were.
    """

    looks = True
    # not in a checkpoint, and not in a copy: there a step looks again
    _stuck: tuple[float, Mapping[Tensor, int], list[Prox]] = (math.nan, MappingProxyType({}), [])

    @property
    def stalled(self) -> bool:
        """Whether the last step found no point to go to, and parameters and operators have not been changed since.

        They stand at a fixed point, or rounding hides every descent: ``residual`` tells. Until something changes, steps
        end at once.
        """
        _, versions, proxs = self._stuck
        return bool(versions) and all(p._version == v for p, v in versions.items()) and proxs == self._proxs()

    def _proxs(self) -> list[Prox]:
        return [group["prox"] for group in self.param_groups]

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        self._check_one_way(group, where)

    def _advance(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        if not parts:
            return
        assert closure is not None
        f = self._signed(parts, loss)
        if not math.isfinite(f):
            raise RuntimeError(f"the loss is {f}, so nothing was moved; start where it is finite")
        if self.stalled and self._stuck[0] == f:
            return
        before = [p.values.clone() for p in parts]
        moved = self._search(parts, closure, f, before, [p.grad.clone() for p in parts])
        self._stuck = (math.nan, {}, []) if moved else (f, {p.param: p.param._version for p in parts}, self._proxs())

    def _search(self, parts: list[Part], closure: Callable, f: float, x: list[Tensor], g: list[Tensor]) -> bool:
        """Move the parameters from x, where the loss is f and its gradients are g; whether there was a point to go to."""
        raise TypeError(f"{type(self).__name__} defines no _search(parts, closure, f, x, g)")

    def _signed(self, parts: list[Part], loss: Any) -> float:
        return -self._number(loss) if parts[0].group["maximize"] else self._number(loss)

    def _look(self, parts: list[Part], closure: Callable, z: list[Tensor]) -> tuple[float, list[Tensor]]:
        """The loss and its gradients at z, where the parameters then stand. A loss without finite gradients counts inf."""
        _write(parts, z)
        loss = self._evaluate(closure)
        self._keep(closure, loss, parts)
        f, grads = self._signed(parts, loss), [p.param.grad for p in parts]
        g = [
            torch.zeros_like(t) if d is None else -d if p.group["maximize"] else d for d, t, p in zip(grads, z, parts, strict=True)
        ]
        sound = math.isfinite(f) and all(bool(d.isfinite().all()) for d in g)
        return (f if sound else math.inf), g

    def _gammas(self, parts: list[Part], f: float, x: list[Tensor], g: list[Tensor]) -> list[float]:
        """The step of each parameter: the last one's, or for the first as long as the parameter, or as lowers f to 0."""
        size, slope = _squares(x, x), _squares(g, g)
        fall = abs(f) / sum(slope) if sum(slope) > 0 else 0.0
        first = [math.sqrt(a / b) if a > 0 and b > 0 else fall for a, b in zip(size, slope, strict=True)]
        known = [self.state[p.param].get("gamma") for p in parts]
        return [k or (t if 0 < t < math.inf else 1.0) for k, t in zip(known, first, strict=True)]

    def _take(self, parts: list[Part], gamma: list[float]) -> None:
        for p, c in zip(parts, gamma, strict=True):
            self.state[p.param]["gamma"] = c

    def _metric(self, part: Part) -> tuple[Step | None, str]:
        gamma = self.state.get(part.param, {}).get("gamma")
        return (gamma, "step") if gamma else (None, NOT_YET)


class NPG(Trials):
    """Non-monotone proximal gradient steps of spectral length, for nonconvex penalties and sets: TopK, L0, MCP, RankAtMost.

    p ← prox(p - γ ∇, γ) with a γ per parameter from the last change s of it and y of its gradient, in turn the long
    ⟨s,s⟩/⟨s,y⟩ and the short ⟨s,y⟩/⟨y,y⟩ of Barzilai and Borwein (‖s‖/‖y‖ where ⟨s,y⟩ ≤ 0). A point is taken if its
    F = loss + penalties is at most the largest F of the last ``memory`` points, less σ Σ ‖s‖²/2γ; else every γ falls to what
    the trial has shown, at most half. So F may rise for a while, but never above where it began, and steps get over what a
    descent in every step is caught in. ``step`` needs the closure, calls it once as a rule, and returns the loss of the
    point before the step; see ``Trials`` for what a closure must do, and ``stalled``.

    Operators need their value: a plain function counts 0. With one γ for all parameters, the limit points are proved to
    be stationary; a γ per parameter is a heuristic that was measured. (Wright, Nowak and Figueiredo 2009; Kanzow and
    Mehlitz 2022.) Raises ValueError for a memory below 1.

    >>> w = torch.nn.Parameter(torch.tensor([3.0, 1.0, 2.0]))
    >>> optimizer = NPG([w], "topk(dim=0, k=2)")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (w - torch.tensor([1.0, 2.0, 3.0])).square().sum()
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(9):
    ...     _ = optimizer.step(closure)
    >>> w.data
    tensor([0., 2., 3.])
    """

    needs_closure = True

    def __init__(
        self, params: Any, proxs: Spec | list[Spec] | tuple[Spec, ...] = None, memory: int = 10, *, maximize: bool = False
    ):
        super().__init__(params, proxs, {"memory": memory, "maximize": maximize})

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        super()._check_group(group, where)
        memory = group["memory"]
        if isinstance(memory, bool) or not isinstance(memory, int) or memory < 1:
            raise ValueError(f"memory is {memory!r} in {where}; it must be a whole number of at least 1")

    def _search(self, parts: list[Part], closure: Callable, f: float, x: list[Tensor], g: list[Tensor]) -> bool:
        F, inside = f + _penalty(parts, x), True
        if math.isinf(F):
            x = [p.prox(t, 0.0) for p, t in zip(parts, x, strict=True)]
            f, d = self._look(parts, closure, x)
            F, inside, g = f + _penalty(parts, x), False, [t.clone() for t in d]
        if not math.isfinite(F):
            raise RuntimeError(f"loss + penalties is {F} at the nearest point of the constraints' sets; start where it is finite")
        shared = self.state[parts[0].param]
        past, begun = shared.get("values", []), shared.get("begun", F)
        noise = rounding(parts) * abs(F)
        allowed = min(max(past, default=F) + noise, begun)
        if allowed < F:  # moved by somebody else, or another loss: begun anew
            past, begun = [], F
        past = past or [F]
        ceiling = min(max(past) + noise, begun)
        gamma = self._gammas(parts, f, x, g)
        for _ in range(_TRIALS):
            z = [p.prox(t - c * d, c) for p, t, d, c in zip(parts, x, g, gamma, strict=True)]
            s = [b - a for a, b in zip(x, z, strict=True)]
            moves = _squares(s, s)
            if not any(moves):
                break
            f_new, g_new = self._look(parts, closure, z)
            y = [b - a for a, b in zip(g, g_new, strict=True)]
            F_new = f_new + _penalty(parts, z)
            if F_new <= ceiling - _DECREASE / 2 * sum(a / c for a, c in zip(moves, gamma, strict=True)):
                turn = shared.get("turn", 0)
                self._take(parts, spectral(gamma, s, y, long=turn == 0))
                length = parts[0].group["memory"]
                shared |= {"values": [*past, F_new][-length:], "begun": begun, "turn": 1 - turn}
                return True
            gamma = shorter(gamma, s, y, known=f_new < math.inf)
        _write(parts, x)
        return not inside


def spectral(gamma: list[float], s: list[Tensor], y: list[Tensor], long: bool) -> list[float]:
    """The steps of Barzilai and Borwein after the changes s of the parameters and y of their gradients."""
    steps = []
    for c, ss, sy, yy in zip(gamma, _squares(s, s), _squares(s, y), _squares(y, y), strict=True):
        if ss > 0 and yy > 0:
            wish = math.sqrt(ss / yy) if sy <= 0 else ss / sy if long else sy / yy
        else:
            wish = c if yy > 0 or ss == 0 else math.inf  # it stood still, or has no curvature
        steps.append(min(wish, _LONGER * c))
    return steps


def shorter(gamma: list[float], s: list[Tensor], y: list[Tensor], known: bool) -> list[float]:
    """The steps after a trial that was not taken: what it has shown of the curvature, between a hundredth and a half."""
    if not known:
        return [c / 2 for c in gamma]
    shown = [math.sqrt(a / b) if b > 0 else math.inf for a, b in zip(_squares(s, s), _squares(y, y), strict=True)]
    return [min(c / 2, max(c / 128, t)) for c, t in zip(gamma, shown, strict=True)]


def rounding(parts: list[Part]) -> float:
    """The share of a loss that may be rounding alone."""
    return 10 * max(torch.finfo(p.values.dtype).eps for p in parts)


def _squares(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[float]:
    """<a, b> for each pair, in one trip to the host."""
    return torch.stack(
        [inner(s, t).cpu() if len({s.device for s in a}) > 1 else inner(s, t) for s, t in zip(a, b, strict=True)]
    ).tolist()


def _penalty(parts: list[Part], x: list[Tensor]) -> float:
    return math.fsum(float(p.prox.value(t)) for p, t in zip(parts, x, strict=True))


def _write(parts: list[Part], x: list[Tensor]) -> None:
    for p, t in zip(parts, x, strict=True):
        p.values.copy_(t)
