"""What a solver is: frozen options that turn one State into the next. Alternating ones are a half-step, used twice."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..problem import Problem, Quadratic
from ..prox import Prox
from ..streamed import Streamed
from ..text import Spelled
from .em import from_counts

Memory = dict[str, Tensor]


@dataclass
class State:
    """W (m, k), H (k, n), what each side's half-step remembers (tensors with a row for each of its rows), and the sweeps so far."""

    W: Tensor
    H: Tensor
    w: Memory = field(default_factory=dict)
    h: Memory = field(default_factory=dict)
    sweep: int = 0


class Solver(Spelled, ABC):
    """How a Problem is minimised. Options are frozen; whatever changes lives in the State."""

    syncs: ClassVar[bool] = False
    """Whether a sweep asks the device for numbers."""
    kinks: ClassVar[bool] = False
    """Whether it takes losses with kinks."""

    def check(self, problem: Problem) -> None:
        """Raises ValueError if this solver cannot take the problem, and names one that can."""

    def residual(self, problem: Problem, state: State) -> tuple[Tensor, Tensor]:
        """How far from stationary W and H are where the loss has kinks, and so no certificate: NaN, if nothing is known."""
        unknown = torch.full((), torch.nan, dtype=torch.float64, device=state.W.device)
        return unknown, unknown

    def init(self, problem: Problem, W: Tensor, H: Tensor) -> State:
        """The State that starts at W and H, which stay untouched."""
        self.check(problem)
        return State(W.clone(), H.mT.clone().mT)

    @abstractmethod
    def step(self, problem: Problem, state: State) -> State:
        """One sweep over both factors. It may overwrite the State, never the problem."""

    def at(self, state: State, W: Tensor, H: Tensor) -> State:
        """The State moved to other factors, of no higher value."""
        return dataclasses.replace(state, W=W, H=H)

    def look(self, problem: Problem, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """The objective and the certificates of W and H at the State."""
        return problem.value(state.W, state.H), *problem.certificate(state.W, state.H)


class Alternating(Solver):
    """One half-step for W, and the same one for H on the transposed problem."""

    @abstractmethod
    def rows(self, prox: Prox, q: Quadratic, A: Tensor, memory: Memory) -> Tensor:
        """A factor that lowers q + prox's term, starting from A (m, k). It knows nothing of data or losses."""

    def patient(self) -> Alternating:
        """The same with as many passes over a factor for each product with X as may pay."""
        return self

    def brief(self) -> Alternating:
        """The same for a matrix with which products cost little."""
        return self

    def sized(self, m: int, n: int, k: int) -> Alternating:
        """The same for the half-steps of an m x n matrix, of which it may be given parts."""
        return self

    def step(self, problem: Problem, state: State) -> State:
        if isinstance(problem, Streamed):
            return self._streamed(problem, state)
        W = self.half(problem, state.W, state.H.mT, state.w)
        Ht = self.half(problem.T, state.H.mT, W, state.h)
        return State(W, Ht.mT, state.w, state.h, state.sweep + 1)

    def _streamed(self, problem: Streamed, state: State) -> State:
        """The same sweep chunk by chunk. Under KL the first few half-steps for H are those of EM, which see the data only once."""
        W, w = problem.ahead(self, state)
        B, side = state.H.mT, problem.T
        if problem.counted(state.sweep):
            Ht = from_counts(self, side.prox_W, *problem.counts(W, B), B)
        else:
            Ht = Alternating.half(self.sized(len(B), len(W), W.shape[1]), side, B, W, state.h)  # by ``rows``: the cells are gone
        return State(W, Ht.mT.contiguous(), w, state.h, state.sweep + 1)

    def look(self, problem: Problem, state: State) -> tuple[Tensor, Tensor, Tensor]:
        if isinstance(problem, Streamed) and not problem.seen(state.W, state.H.mT):
            problem.ahead(self, state, look=True)  # in the read that the next half-step needs
        return super().look(problem, state)

    def half(self, p: Problem, A: Tensor, B: Tensor, memory: Memory) -> Tensor:
        """A better A (m, k) for the fixed B (n, k), block of rows by block of rows."""
        if p.shared:
            return self._block(p, A, B, memory)
        new, before = torch.empty_like(A), dict(memory)
        for r, part in p.blocks(A.shape[1]):
            mine = {name: t[r] for name, t in before.items()}
            new[r] = self._block(part, A[r], B, mine)
            for name, t in mine.items():
                memory.setdefault(name, t.new_zeros(len(A), *t.shape[1:]))[r] = t
        return new

    def _block(self, p: Problem, A: Tensor, B: Tensor, memory: Memory) -> Tensor:
        q = p.model(A, B)
        if p.majorised(A.shape[1]):
            return self.rows(p.prox_W, q, A, memory)
        return self._guarded(p, q, A, B, memory)

    def _guarded(self, p: Problem, q: Quadratic, A: Tensor, B: Tensor, memory: Memory) -> Tensor:
        """The half-step on a model that holds only near A.

        A row whose loss ends above what the model promised stays where it was, and its curvature is raised for the next
        time (all rows as one, where the operator couples them): the model plus the penalty falls in every half-step, so
        what is kept lowers the objective. No decision leaves the device.
        """
        damping = memory.get("damping", A.new_ones(len(A), 1))
        before = p.row_losses(A, B)
        rounding = 8 * torch.finfo(A.dtype).eps * (before.abs() + (q.apply(A) * A).sum(1))
        q = q.damped(damping, A)
        new = self.rows(p.prox_W, q, A, memory)
        ties = [(t.value(new) - t.value(A)) for t in (tie.model(A, B) for tie in p.ties)]  # their share of the promise
        over = p.loss.joined(p.row_losses(new, B) - before - rounding - (q.value(new) - q.value(A)) + sum(ties))
        spare = p.loss.joined((q.apply(new - A) * (new - A)).sum(1) / 4)  # what half the curvature would have promised less
        kept, easy = ((o.sum().expand_as(o) if p.prox_W.couples(0) else o)[:, None] <= 0 for o in (over, over + spare))
        memory["damping"] = torch.where(kept, torch.where(easy, damping / 2, damping).clamp(min=1), damping * 2)
        return torch.where(kept, new, A)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Passes(Alternating):
    """An alternating solver that makes ``inner`` passes over a factor for each product with X."""

    inner: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.inner, bool) or not isinstance(self.inner, int) or self.inner < 1:
            raise ValueError(f"inner of {type(self).__name__} is {self.inner!r}; it is a whole number, at least one")

    def patient(self) -> Alternating:
        return dataclasses.replace(self, inner=50)


def divide(a: Tensor, d: Tensor) -> Tensor:
    """a / d, and 0 where d is 0: no curvature, no step from the gradient."""
    return torch.where(d > 0, a / d, 0.0)


def step_of(d: Tensor, prox: Prox) -> Tensor:
    """The prox step 1 / d. Where there is no curvature only prox's own term counts: inf, or 0 if that has no minimiser."""
    return torch.where(d > 0, 1 / d, torch.inf if prox.attained else 0.0)


def forget_empty(q: Quadratic, A: Tensor, prox: Prox) -> Tensor:
    """A with zeros in the rows without any data, so that they become prox(0, inf), whatever the start was."""
    if not prox.attained:
        return A
    empty = (q.diag == 0).all(1, keepdim=True) & (q.C == 0).all(1, keepdim=True)
    return torch.where(empty, 0.0, A)


def lowest(prox: Prox, q: Quadratic, A: Tensor, *others: Tensor) -> Tensor:
    """A, or what of the others has a lower q + prox's term: row by row where that is a set that does not couple rows."""
    apart = prox.is_set and not prox.couples(0)
    slope = q.grad(A)
    for B in others:
        other = q.grad(B)
        gain = ((slope + other).double() * (B - A).double()).sum(1, keepdim=True) / 2  # q(B) - q(A), where they hardly differ
        if not apart:
            gain = gain.sum() if prox.is_set else gain.sum() + prox.value(B) - prox.value(A)
        lower = gain <= 0
        A, slope = torch.where(lower, B, A), torch.where(lower, other, slope)
    return A
