"""Several operators on one parameter, each by its own prox: two in turn, or many through linear maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..prox import Prox, as_prox
from .base import NOT_YET, Part, Residual, Spec, _groups, inner
from .npg import _LONGER, _TRIALS, Trials, _squares, _write, rounding, shorter

Map = Tensor | Callable[[Tensor], Tensor] | None
_SHORT = 4  # times shorter than the change of the gradient would allow: until a first trial fails it may catch up
_ROUNDS = 30  # of power iteration
_ABOVE = 1.1  # what these rounds may leave out of a norm


class _Splitting(Trials):
    """Steps that the loss itself measures, or that a number gives; γ is at most one over the curvature of the loss."""

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        super()._check_group(group, where)
        lr = group["lr"]
        if not (lr == "auto" if isinstance(lr, str) else lr > 0):
            raise ValueError(f"Invalid learning rate: {lr!r} in {where}; give a number above 0, or 'auto' and a closure to step")
        if self.param_groups and (lr == "auto") != self._auto:
            raise ValueError(
                f"{where} has lr={lr!r}, other groups not; one loss measures all: give 'auto' to all groups or to none"
            )

    @property
    def _auto(self) -> bool:
        return self.param_groups[0]["lr"] == "auto"

    def _advance(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        if not self._auto:
            for part in parts:
                if not part.group["lr"] > 0:  # the end of a schedule
                    continue
                self.state[part.param]["gamma"] = float(part.group["lr"])
                part.values.copy_(self._forward(part, part.values.clone(), part.grad))
                self._finish(part, part.values)
        elif closure is None:
            raise TypeError(
                f"without a lr {type(self).__name__} measures its step by the loss: call step(closure), where closure clears the "
                "gradients, computes the loss, calls backward and returns the loss; or give lr=…, a number"
            )
        else:
            super()._advance(parts, closure, loss)

    def _search(self, parts: list[Part], closure: Callable, f: float, x: list[Tensor], g: list[Tensor]) -> bool:
        first, shared = self._gammas(parts, f, x, g), self.state[parts[0].param]
        gamma = first
        shared["count"] = shared.get("count", 0) + 1
        for trial in range(_TRIALS):
            self._take(parts, gamma)
            z = [self._forward(p, t, d) for p, t, d in zip(parts, x, g, strict=True)]
            s = [b - a for a, b in zip(x, z, strict=True)]
            f_new, g_new = self._look(parts, closure, z)
            change = [b - a for a, b in zip(g, g_new, strict=True)]
            if f_new < math.inf and _bends(f, f_new, g, s, change, rounding(parts)) <= _quadratic(s, gamma):
                for p, t in zip(parts, z, strict=True):
                    self._finish(p, t)
                if trial == 0:
                    self._take(parts, _longer(gamma, s, change, shared))
                return True
            shared["failed"] = True
            gamma = shorter(gamma, s, change, known=f_new < math.inf)
        self._take(parts, first)
        _write(parts, x)
        return False

    def _forward(self, part: Part, x: Tensor, g: Tensor) -> Tensor:
        """Where the step from x with the gradient g leads."""
        raise TypeError(f"{type(self).__name__} defines no _forward(part, x, g)")

    def _finish(self, part: Part, p: Tensor) -> None:
        """What follows at p, where the step has led and the parameter stands."""
        raise TypeError(f"{type(self).__name__} defines no _finish(part, p)")


def _longer(gamma: list[float], s: list[Tensor], change: list[Tensor], shared: dict[str, Any]) -> list[float]:
    """The steps after one that was taken at once: longer by ever less, so that they settle; without curvature they stay."""
    grown, most = 1 + 1 / shared["count"], 1.0 if shared.get("failed") else _LONGER
    return [
        max(grown * c, min(math.sqrt(a / b) / _SHORT, most * c)) if b > 0 else c
        for c, a, b in zip(gamma, _squares(s, s), _squares(change, change), strict=True)
    ]


def _quadratic(s: list[Tensor], gamma: list[float]) -> float:
    return sum(a / (2 * c) for a, c in zip(_squares(s, s), gamma, strict=True))


def _bends(f: float, f_new: float, g: list[Tensor], s: list[Tensor], change: list[Tensor], noise: float) -> float:
    """f(x + s) - f(x) - <∇f(x), s>; by the gradients, ½<change, s>, where rounding hides it in the difference."""
    bends = f_new - f - sum(_squares(g, s))
    return bends if abs(bends) > 1e3 * noise * max(abs(f), abs(f_new)) else sum(_squares(change, s)) / 2


class DavisYin(_Splitting):
    """Three-operator splitting: minimise loss + g + h, where g and h have each a prox but their sum has none.

    The two are the ``terms`` of the group's operator, which a ``+`` without an exact rule has, such as "smooth(dim=0) +
    simplex(dim=0)". With p the parameter, u its dual (0 at first) and γ its step:

    > y = prox_h(p - γ (∇ + u), γ),  p = prox_g(y + γ u, γ),  u ← u + (y - p) / γ

    g is the set among the two (of two sets the first that is written), so that after every step the parameter is in it,
    exactly; the other set is met in the limit. An operator that is no such sum takes plain proximal gradient steps.

    lr "auto": γ falls where loss(p⁺) ≤ loss(p) + <∇, p⁺ - p> + ‖p⁺ - p‖²/2γ does not hold, y and p⁺ are then taken again, and
    grows by ever less where it does; a step calls the closure once as a rule: see ``Trials``. A number is γ itself, below 2/L
    for a gradient that is L-Lipschitz; then no closure is needed, and for a convex loss and convex operators it is proved to
    converge (Davis and Yin 2017). The measured step is that of Pedregosa and Gidel (2018), but for the point of the test:
    theirs is y, which costs a second evaluation in each step and saved none where it was tried. Raises ValueError for a sum
    of more than two terms.

    >>> w = torch.nn.Parameter(torch.zeros(3))
    >>> optimizer = DavisYin([w], "smooth(dim=0) + simplex(dim=0)")
    """

    _y: Mapping[Tensor, Tensor] = MappingProxyType({})  # between the trial and what follows at it

    def __init__(
        self,
        params: Any,
        proxs: Spec | list[Spec] | tuple[Spec, ...] = None,
        lr: float | str = "auto",
        *,
        maximize: bool = False,
    ):
        super().__init__(params, proxs, {"lr": lr, "maximize": maximize})

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        super()._check_group(group, where)
        terms = as_prox(group.get("prox")).terms
        if len(terms) > 2:
            listed = ", ".join(map(repr, terms))
            raise ValueError(f"{where} has {len(terms)} terms ({listed}); DavisYin takes two: use BSDMM, which takes any number")

    def _forward(self, part: Part, x: Tensor, g: Tensor) -> Tensor:
        first, last, gamma = *_two(part.prox), self.state[part.param]["gamma"]
        if last is None:
            return first(x - gamma * g, gamma)
        u = self._dual(part)
        y = first(x - gamma * (g + u), gamma)
        self._y = {**self._y, part.param: y}
        return last(y + gamma * u, gamma)

    def _finish(self, part: Part, p: Tensor) -> None:
        if part.param in self._y:
            self._dual(part).add_((self._y[part.param] - p) / self.state[part.param]["gamma"])

    def _dual(self, part: Part) -> Tensor:
        return self.state[part.param].setdefault("dual", torch.zeros_like(part.values))


def _two(prox: Prox) -> tuple[Prox, Prox | None]:
    """What is applied first, and what last, None if there is but one."""
    terms = prox.terms
    if len(terms) < 2:
        return terms[0], None
    last = next((p for p in terms if p.is_set), terms[0])
    return next(p for p in terms if p is not last), last


class BSDMM(_Splitting):
    """Any number of constraints on one parameter p, each through a linear map of it: minimise loss(p) + g(p) + Σ gᵢ(Lᵢ p).

    constraints is a list of operators and of pairs (L, operator), for all groups, or a list of such lists, one per group; a
    group may bring its own under "constraints". L is None for p itself, a matrix that is multiplied on p's first dim, or any
    linear function of p that autograd can go through. A ``+`` without an exact rule counts as its terms. With a dual y of
    each constraint, ȳ = 2y - y_before, and r = 1 / (γ N ‖L‖²) for N of them:

    > p ← prox_g(p - λ (∇ + Σ Lᵢᵀ ȳᵢ), λ) with 1/λ = 2/γ,  yᵢ ← rᵢ (v - prox_gᵢ(v, 1/rᵢ)) with v = Lᵢ p + yᵢ/rᵢ

    g is the first set on p itself that is given (or else the first operator on p itself): the parameter is in it after
    every step, exactly, and meets the others in the limit. ``residual`` is the largest of the primal and dual residuals of
    Boyd et al. (2011, section 3.3.1), which ``primal_dual`` lists. The norms ‖L‖ are taken by power iteration.

    lr "auto": γ falls where loss(p⁺) ≤ loss(p) + <∇, p⁺ - p> + ‖p⁺ - p‖²/2γ does not hold and grows by ever less where it
    does; a step calls the closure once as a rule: see ``Trials``. A number is γ, at most one over the curvature of the loss;
    then no closure is needed. Proved for a convex loss, convex operators and a fixed γ: it is bSDMM (Moolekamp and
    Melchior 2018, algorithm 3) with a gradient step for the loss, in the order in which Condat (2013) and Vũ (2013) proved it.
    Raises ValueError for a map that is not linear, and where constraints are neither one list nor one per group.

    >>> w = torch.nn.Parameter(torch.zeros(4))
    >>> jumps = lambda p: p.diff(dim=0)
    >>> optimizer = BSDMM([w], ["nonneg", "l1(0.1)", (jumps, "l1(0.5)")])
    """

    def __init__(self, params: Any, constraints: list[Any], lr: float | str = "auto", *, maximize: bool = False):
        if not isinstance(constraints, list):
            raise TypeError(f"constraints is {constraints!r}; a list is needed, of operators and of pairs (linear map, operator)")
        groups = _groups(params, type(self).__name__)
        each = constraints if constraints and all(isinstance(c, list) for c in constraints) else [constraints] * len(groups)
        if len(each) != len(groups):
            raise ValueError(f"constraints has {len(each)} lists for {len(groups)} param group(s); give one list, or one per group")
        common = {} if each is constraints else {"constraints": constraints}
        filled = [{"constraints": c, **group} for group, c in zip(groups, each, strict=True)]
        super().__init__(filled, None, {"lr": lr, "maximize": maximize} | common)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """torch's own; "constraints" and the options default to what was given for all groups."""
        where, group = f"param group {len(self.param_groups)}", param_group
        if isinstance(group, dict):
            constraints = group.get("constraints", self.defaults.get("constraints"))
            if group.get("prox") is not None or constraints is None:
                raise ValueError(
                    f"{where}: BSDMM takes its operators as constraints; give {{'params': …, 'constraints': [operator, …]}}"
                )
            prox, others = _direct(_pairs(constraints, where))
            group = {**group, "prox": prox, "constraints": others}
        super().add_param_group(group)
        group = self.param_groups[-1]
        try:
            norms = [[_norm(L, op, p.detach(), where) for L, op in group["constraints"]] for p in group["params"]]
        except BaseException:
            self.param_groups.pop()
            raise
        for p, each in zip(group["params"], norms, strict=True):
            self.state[p]["norms"] = each

    def _forward(self, part: Part, x: Tensor, g: Tensor) -> Tensor:
        step = self._step(part)
        for (L, _), ahead in zip(part.group["constraints"], self._duals(part)["ahead"], strict=True):
            g = g + _adjoint(L, x, ahead)
        return part.prox(x - step * g, step)

    def _finish(self, part: Part, p: Tensor) -> None:
        state = self._duals(part)
        for i, (old, (Lp, z, r)) in enumerate(zip(state["dual"], self._images(part), strict=True)):
            state["dual"][i] = old + r * (Lp - z)
            state["ahead"][i] = 2 * state["dual"][i] - old

    def _step(self, part: Part) -> float:
        return self.state[part.param]["gamma"] / (2 if part.group["constraints"] else 1)

    def _duals(self, part: Part) -> dict[str, Any]:
        state = self.state[part.param]
        if "dual" not in state:
            for name in ("dual", "ahead"):
                state[name] = [torch.zeros_like(_map(L, part.values)) for L, _ in part.group["constraints"]]
        return state

    def _images(self, part: Part) -> list[tuple[Tensor, Tensor, float]]:
        """L p, what the operator makes of it beside its dual, and r, for each constraint."""
        state, found = self._duals(part), []
        for (L, op), y, norm in zip(part.group["constraints"], state["dual"], state["norms"], strict=True):
            r = 1 / (state["gamma"] * len(state["norms"]) * norm**2)
            Lp = _map(L, part.values)
            found.append((Lp, op(Lp + y / r, 1 / r), r))
        return found

    def primal_dual(self, closure: Callable | None = None) -> list[PrimalDual]:
        """The residuals of each group, the largest of its parameters; where ``residual`` needs the closure, so does this."""
        self.residual(closure)
        with torch.no_grad():
            parts = self._parts()
            return [self._primal_dual([p for p in parts if p.group is group]) for group in self.param_groups]

    def _primal_dual(self, parts: list[Part]) -> PrimalDual:
        primal, dual = [], [0.0]
        for part in parts:
            images, step, g = self._images(part), self._step(part), part.grad
            primal.append([_share(Lp - z, Lp, z) for Lp, z, _ in images])
            for (L, _), y in zip(part.group["constraints"], self._duals(part)["dual"], strict=True):
                g = g + _adjoint(L, part.values, y)
            dual.append(_share(part.values - part.prox(part.values - step * g, step), part.values))
        return PrimalDual([max(each) for each in zip(*primal, strict=True)], max(dual))

    def _group_residual(self, parts: list[Part]) -> Residual:
        if any("gamma" not in self.state[p.param] for p in parts):
            return Residual(None, NOT_YET)
        primal, dual = self._primal_dual(parts)
        return Residual(max([dual, *primal]), "primal and dual")

    def state_dict(self) -> dict[str, Any]:
        """torch's own without operators and maps, so that a default ``torch.load`` takes it back."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            group.pop("constraints", None)
        return saved


class PrimalDual(NamedTuple):
    """How far a group is from a solution: primal ‖L p - z‖ / max(‖L p‖, ‖z‖) for each of its constraints beside g, where z is what
    the operator makes of L p; dual ‖p - prox_g(p - λ (∇ + Σ Lᵀ y), λ)‖ / ‖p‖.
    """

    primal: list[float]
    dual: float


def _pairs(constraints: Any, where: str) -> list[tuple[Map, Prox]]:
    if not isinstance(constraints, list):
        raise TypeError(
            f"{where}: constraints is {constraints!r}; a list is needed, of operators and of pairs (linear map, operator)"
        )
    pairs: list[tuple[Map, Prox]] = []
    for given in constraints:
        L, spec = given if isinstance(given, tuple) and len(given) == 2 else (None, given)
        if L is not None and not isinstance(L, Tensor) and not callable(L):
            raise TypeError(f"{where}: {L!r} is no linear map; give None, a matrix or a function of the parameter")
        pairs += [(L, term) for term in as_prox(spec).terms]
    return pairs


def _direct(pairs: list[tuple[Map, Prox]]) -> tuple[Prox | None, list[tuple[Map, Prox]]]:
    """The operator that acts on the parameter itself, and the other pairs."""
    plain = [pair for pair in pairs if pair[0] is None]
    chosen = next((pair for pair in plain if pair[1].is_set), plain[0] if plain else None)
    return (chosen[1] if chosen else None), [pair for pair in pairs if pair is not chosen]


def _map(L: Map, x: Tensor) -> Tensor:
    return x if L is None else L.to(x) @ x if isinstance(L, Tensor) else L(x)


def _adjoint(L: Map, x: Tensor, y: Tensor) -> Tensor:
    """Lᵀ y."""
    if L is None:
        return y
    with torch.enable_grad():
        at = torch.zeros_like(x).requires_grad_()
        return torch.autograd.grad(_map(L, at), at, y)[0]


def _norm(L: Map, op: Prox, p: Tensor, where: str) -> float:
    """An upper estimate of ‖L‖. Raises ValueError for a map that is not linear, or is zero."""
    if L is None:
        op(p, 0.0)  # what does not fit says so here
        return 1.0
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for _ in range(2))
    try:
        La, Lb, both = _map(L, a), _map(L, b), _map(L, a - 2 * b)
    except RuntimeError as error:
        raise ValueError(
            f"{where}: the linear map of {op!r} does not take a parameter of shape {tuple(p.shape)}: {error}"
        ) from None
    op(La, 0.0)
    size = La.abs().max() + Lb.abs().max()
    if not (both - La + 2 * Lb).abs().max() <= torch.finfo(p.dtype).eps ** 0.5 * size:
        raise ValueError(f"{where}: the map of {op!r} is not linear: L(a - 2b) is not L(a) - 2 L(b)")
    norm = 0.0
    for _ in range(_ROUNDS):
        a = _adjoint(L, a, _map(L, a / torch.linalg.vector_norm(a)))
        norm = math.sqrt(float(torch.linalg.vector_norm(a, dtype=torch.float64)))
        if norm == 0:
            raise ValueError(f"{where}: the linear map of {op!r} is zero")
    return _ABOVE * norm


def _share(part: Tensor, *wholes: Tensor) -> float:
    """‖part‖ over the largest of the others' norms; 0/0 = 0."""
    above = math.sqrt(float(inner(part, part)))
    return above / whole if (whole := math.sqrt(max(float(inner(w, w)) for w in wholes))) else (math.inf if above else 0.0)
