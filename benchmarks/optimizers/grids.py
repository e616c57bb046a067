"""Rivals with a learning rate: every start with every rate of a grid of nine, as one batched tensor program.

SGD and Adam move each entry by itself, so a row of the batch is a single run with its own rate. A row that is no longer finite
(or above 1e150) has diverged: F is infinite from there on.

seed        the seed's PGM: SGD, then the prox without the step: a penalty has the step 1 built in, as its author's
            ``partial`` does. On sets it is projected gradient descent
pgm         the same with the prox's step equal to the rate: differs from ``seed`` for penalties only, and runs there only
adam+prox   Adam, then the prox with the rate as its step: projection on sets
adaprox     Adam's step and then the prox in Adam's metric by inner iterations (Melchior, Joseph and Moolekamp 2019,
            algorithm 1; at most 100 of them, relative change 1e-6, as in its author's examples)
adam-softplus, adam-square
            Adam on parameters that are mapped into the set: softplus or square for x ≥ 0 (an L1 term without a sign: the
            difference of two of them), softmax for the simplex, sigmoid for a box, cumulated steps for isotonic slices, scaled
            into balls. What remains of a penalty is differentiated as it stands

seed-units, adam+prox-units
            the two with rates in the units of the data, one per parameter: a user who knows the scale, so that the grid
            is as good at every scale. The others' rates are the same raw numbers everywhere: PGM's 1e-6 … 1e2, Adam's
            1e-4 … 1e4

The public gist "Proximal Adam for pytorch" by the seed's author could not be read where this was written. It is either Adam
with the prox at the rate (``adam+prox``) or its author's algorithm of the same name (``adaprox``): both are here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from measure import checkpoints, gradient, projected, rows
from problems import Params, Problem, cost
from torch import Tensor
from torch.nn.functional import softplus

from proxfactor.prox import L1, Box, Isotonic, L2Ball, NonNegative, Prox, Simplex, TopK, Unconstrained

PGM_RATES = tuple(10.0**k for k in range(-6, 3))
ADAM_RATES = tuple(10.0**k for k in range(-4, 5))
INNER = 100
HUGE = 1e150


# ── maps into sets ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Map:
    """x = to(z) lies in the set, z = back(x) for an x in it; ``penalty(z)`` is what the operator costs there."""

    to: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    penalty: Callable[[Tensor], Tensor] | None = None


def lifted(x: Tensor, ndim: int) -> Tensor:
    """Non-negative numbers moved off zero by a thousandth of the largest: at zero these maps have no slope."""
    floor = 1e-3 * x.abs().amax(tuple(range(-ndim, 0)), keepdim=True)
    return torch.maximum(x, floor.clamp(min=1e-30))


def positive(kind: str, ndim: int) -> Map:
    if kind == "square":
        return Map(torch.square, lambda x: lifted(x, ndim).sqrt())
    return Map(softplus, lambda x: inverse_softplus(lifted(x, ndim)))


def inverse_softplus(x: Tensor) -> Tensor:
    return torch.where(x > 30, x, x.clamp(max=30).expm1().log())


def map_of(prox: Prox, ndim: int, kind: str) -> Map | None:
    """The map for an operator, or None where there is none."""
    parts = getattr(prox, "parts", (prox,))
    if any(isinstance(p, TopK) for p in parts):
        return None
    plus = positive(kind, ndim)

    def costs(x: Tensor) -> Tensor:
        return sum(cost(p, x, ndim) for p in parts if not p.is_set)  # type: ignore[return-value]

    some = None if all(p.is_set for p in parts) else costs
    for p in parts:
        if isinstance(p, NonNegative):
            return Map(plus.to, plus.back, (lambda z: costs(plus.to(z))) if some else None)
        if isinstance(p, Simplex):
            return Map(lambda z, d=p.dim: z.softmax(d), lambda x: lifted(x, ndim).log())  # type: ignore[misc]
        if isinstance(p, Box):
            return between(p.lo, p.hi - p.lo)
        if isinstance(p, Isotonic):
            return Map(lambda z: cumulated(z, plus), lambda x: increments(x, plus))
        if isinstance(p, L2Ball):
            return Map(lambda z, d=p.dim: z / torch.linalg.vector_norm(z, dim=d, keepdim=True).clamp(min=1), lambda x: x)  # type: ignore[misc]
        if isinstance(p, L1) and len(parts) == 1:
            return split(plus, p.lam, ndim)
    return Map(lambda z: z, lambda x: x, some and costs)


def between(lo: float, width: float) -> Map:
    return Map(lambda z: lo + width * z.sigmoid(), lambda x: ((x - lo) / width).clamp(0.001, 0.999).logit())


def curved(prox: Prox) -> bool:
    """Whether its map uses softplus or square."""
    parts = getattr(prox, "parts", (prox,))
    return any(isinstance(p, NonNegative | Isotonic) for p in parts) or (len(parts) == 1 and isinstance(prox, L1))


def split(plus: Map, lam: float, ndim: int) -> Map:
    """x = u - v, u and v ≥ 0, λ Σ(u + v): an L1 term without its corner. z holds both, one after the other."""

    def halves(z: Tensor) -> tuple[Tensor, Tensor]:
        u, v = z.chunk(2, dim=-1)
        return plus.to(u), plus.to(v)

    def back(x: Tensor) -> Tensor:
        return torch.cat([plus.back(x.clamp(min=0)), plus.back((-x).clamp(min=0))], -1)

    return Map(lambda z: torch.sub(*halves(z)), back, lambda z: lam * sum(halves(z)).sum(tuple(range(-ndim, 0))))  # type: ignore[attr-defined]


def cumulated(z: Tensor, plus: Map) -> Tensor:
    return torch.cat([z[..., :1], plus.to(z[..., 1:])], -1).cumsum(-1)


def increments(x: Tensor, plus: Map) -> Tensor:
    return torch.cat([x[..., :1], plus.back(x.diff(dim=-1).clamp(min=0))], -1)


@dataclass(frozen=True)
class Smooth:
    """A problem through maps: unconstrained, loss and penalties in one."""

    problem: Problem
    maps: tuple[Map, ...]

    def loss(self, z: Params) -> Tensor:
        value = self.problem.loss(self.to(z))
        return value + sum(m.penalty(v) for m, v in zip(self.maps, z, strict=True) if m.penalty)  # type: ignore[misc]

    def to(self, z: Params) -> tuple[Tensor, ...]:
        return tuple(m.to(v) for m, v in zip(self.maps, z, strict=True))

    def back(self, x: Params) -> tuple[Tensor, ...]:
        return tuple(m.back(v) for m, v in zip(self.maps, projected(self.problem, x), strict=True))


def smooth(problem: Problem, kind: str) -> Smooth | None:
    maps = tuple(map_of(p, len(shape), kind) for p, shape in zip(problem.proxs, problem.shapes, strict=True))
    if any(m is None for m in maps) or all(isinstance(p, Unconstrained) for p in problem.proxs):
        return None
    return Smooth(problem, maps)  # type: ignore[arg-type]


# ── rules: one step of a batch ────────────────────────────────────────────────────────────────────────────────────────

Rates = list[Tensor]
Rule = Callable[[Problem, list[Tensor], list[Tensor], Rates, int, dict], list[Tensor]]


def sgd(problem: Problem, x: list[Tensor], g: list[Tensor], rate: Rates, t: int, state: dict) -> list[Tensor]:
    return [v - r * d for v, d, r in zip(x, g, rate, strict=True)]


def adam(problem: Problem, x: list[Tensor], g: list[Tensor], rate: Rates, t: int, state: dict) -> list[Tensor]:
    """torch's default Adam; ``state["psi"]`` keeps the denominator."""
    if not state:
        state.update(m=[torch.zeros_like(v) for v in x], v=[torch.zeros_like(v) for v in x])
    state["m"] = [0.9 * m + 0.1 * d for m, d in zip(state["m"], g, strict=True)]
    state["v"] = [0.999 * v + 0.001 * d.square() for v, d in zip(state["v"], g, strict=True)]
    state["psi"] = [(v / (1 - 0.999**t)).sqrt() + 1e-8 for v in state["v"]]
    return [v - r * m / (1 - 0.9**t) / psi for v, r, m, psi in zip(x, rate, state["m"], state["psi"], strict=True)]


def fixed_prox(problem: Problem, x: list[Tensor], rate: Rates, state: dict) -> list[Tensor]:
    return [p(v, 1.0) for p, v in zip(problem.proxs, x, strict=True)]


def rate_prox(problem: Problem, x: list[Tensor], rate: Rates, state: dict) -> list[Tensor]:
    return [p(v, r) for p, v, r in zip(problem.proxs, x, rate, strict=True)]


def inner_prox(problem: Problem, x: list[Tensor], rate: Rates, state: dict) -> list[Tensor]:
    return [metric_prox(p, v, r, psi) for p, v, r, psi in zip(problem.proxs, x, rate, state["psi"], strict=True)]


def metric_prox(prox: Prox, x: Tensor, rate: Tensor, psi: Tensor, inner: int = INNER) -> Tensor:
    """argmin_z g(z) + Σ ψ(z - x)²/(2 rate) by proximal gradient steps; a row that has converged stays."""
    if isinstance(prox, Unconstrained):
        return x
    largest = psi.flatten(1).amax(1).reshape(rate.shape)
    z, moving = x, torch.ones(len(x), dtype=torch.bool)
    for _ in range(inner):
        at = moving.nonzero().squeeze(1)
        old = z[at]
        new = prox(old - psi[at] / largest[at] * (old - x[at]), (rate / largest)[at])
        away, size = ((u.square().flatten(1).sum(1)) for u in (new - old, old))
        z = z.index_copy(0, at, new)
        moving[at] = away > 1e-12 * size
        if not moving.any():
            break
    return z


@dataclass(frozen=True)
class Grid:
    """An optimizer that needs a rate. ``kind``: the map under which it runs unconstrained, or "" with a prox."""

    name: str
    move: Rule
    rates: tuple[float, ...]
    prox: Callable | None = None
    kind: str = ""
    penalties_only: bool = False
    units: Callable[[Problem], tuple[float, ...]] | None = None  # of the rate, per parameter
    most: int = 1000  # starts of a kind: inner iterations take hours

    def applies(self, problem: Problem) -> bool:
        if self.penalties_only and all(p.is_set for p in problem.proxs):
            return False
        if self.kind == "square" and not any(curved(p) for p in problem.proxs):
            return False  # the same as with softplus
        return not self.kind or smooth(problem, self.kind) is not None

    def run(self, problem: Problem, start: Sequence[Tensor], gradients: int) -> tuple[np.ndarray, list[Tensor]]:
        """F of (starts, rates, checkpoints), and of every start the last point of the rate that ends lowest."""
        count, each = len(start[0]), len(self.rates)
        through = smooth(problem, self.kind) if self.kind else None
        rate = torch.tensor(self.rates, dtype=torch.float64).repeat(count)
        x = [v.repeat_interleave(each, 0) for v in (through.back(start) if through else start)]
        F, last = self._descend(problem, through, x, rate, gradients)
        F = F.reshape(count, each, -1)
        chosen = torch.arange(count) * each + F[:, :, -1].argmin(1)
        return F.numpy(), [v[chosen] for v in last]

    def _descend(
        self, problem: Problem, through: Smooth | None, x: list[Tensor], rate: Tensor, gradients: int
    ) -> tuple[Tensor, list[Tensor]]:
        at = checkpoints(gradients)
        F = torch.full((len(rate), len(at)), math.inf, dtype=torch.float64)
        alive, state, column = torch.arange(len(rate)), {}, 0
        units = self.units(problem) if self.units else (1.0,) * len(x)
        last = [v.clone() for v in (through.to(x) if through else x)]
        for t in range(1, gradients + 1):
            shaped = [rate[alive].reshape(rows(v, v.ndim - 1)) * u for v, u in zip(x, units, strict=True)]
            _, g = gradient(through or problem, x)  # type: ignore[arg-type]
            new = self.move(problem, x, g, shaped, t, state)
            keep = torch.stack([(v.abs().flatten(1).amax(1) < HUGE) for v in new]).all(0)
            if not keep.all():
                alive, shaped = alive[keep], [r[keep] for r in shaped]
                new = [v[keep] for v in new]
                state = {k: [v[keep] for v in s] for k, s in state.items()}
                if not len(alive):
                    break
            x = self.prox(problem, new, shaped, state) if self.prox else new
            if t == at[column]:
                here = through.to(x) if through else x
                F[alive, column] = problem.F(here).nan_to_num(nan=math.inf)
                column += 1
        for v, end in zip(last, (through.to(x) if through else x) if len(alive) else (), strict=False):
            v[alive] = end
        return F, last


GRIDS = (
    Grid("seed", sgd, PGM_RATES, fixed_prox),
    Grid("pgm", sgd, PGM_RATES, rate_prox, penalties_only=True),
    Grid("adam+prox", adam, ADAM_RATES, rate_prox),
    Grid("adaprox", adam, ADAM_RATES, inner_prox, most=1),
    Grid("adam-softplus", adam, ADAM_RATES, kind="softplus"),
    Grid("adam-square", adam, ADAM_RATES, kind="square"),
    Grid("seed-units", sgd, PGM_RATES, fixed_prox, units=lambda p: tuple(u**2 / p.height for u in p.unit)),
    Grid("adam+prox-units", adam, ADAM_RATES, rate_prox, units=lambda p: p.unit),
)
