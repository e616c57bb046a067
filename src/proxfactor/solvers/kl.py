"""Newton's method for one entry at a time, for the Kullback-Leibler divergence: no step is refused, none is searched for."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..compiled import kernels
from ..losses import KL
from ..matrix import Dense, Matrix
from ..problem import Problem
from ..prox import L1, L2Squared, Linear, Prox, Simplex, SolidSimplex, Transposed
from ..prox.sums import Sum
from .base import Alternating, Memory
from .hals import HALS

EM = 5
"""Passes of EM with which a half-step under a simplex begins."""


def compiled(X: Matrix, rank: int, passes: int) -> Any:
    """The compiled form of ``rows``, None where there is none yet or the torch form has to serve: the one place that decides."""
    known = X.dtype in (torch.float32, torch.float64) and X.device.type == "cpu"
    return kernels("solvers._kl_numba", X.dtype, 8.0 * X.stored * rank * passes) if known else None


class Terms(NamedTuple):
    """tilt · a + ridge/2 a² on lo ≤ a ≤ hi for each entry, tensors that broadcast to (m, k); or a simplex along the rows.

    ``total`` is what a row of the simplex sums to, 0 where there is none, and ``solid`` if it may be less.
    """

    lo: Tensor
    hi: Tensor
    tilt: Tensor
    ridge: Tensor
    total: float = 0.0
    solid: bool = False

    def take(self, rows: slice) -> Terms:
        lo, hi, tilt, ridge = (t if t.shape[0] == 1 else t[rows] for t in self[:4])
        return self._replace(lo=lo, hi=hi, tilt=tilt, ridge=ridge)

    def column(self, q: int) -> Terms:
        """The terms of one component, (1 or m,)."""
        lo, hi, tilt, ridge = (t[:, min(q, t.shape[1] - 1)] for t in self[:4])
        return self._replace(lo=lo, hi=hi, tilt=tilt, ridge=ridge)

    def clip(self, a: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(a, self.lo), self.hi)


def terms_of(prox: Prox, device: torch.device) -> Terms | None:
    """What an operator says of each entry, None if it is not of that form or allows an entry below 0."""
    core = prox.inner if isinstance(prox, Transposed) else prox
    zero, inf = (torch.full((1, 1), v, dtype=torch.float64, device=device) for v in (0.0, math.inf))
    if isinstance(core, Simplex | SolidSimplex) and not prox.couples(0):
        return Terms(zero, inf, zero, zero, core.total, isinstance(core, SolidSimplex))
    lo, hi, tilt, ridge = -inf, inf, zero, zero
    for p in prox.parts if isinstance(prox, Sum) else (prox,):
        own = p.inner if isinstance(p, Transposed) else p
        held = {name: t.to(zero) for name, t in p._tensors()}
        got = {name: torch.as_tensor(held.get(name, getattr(own, name, 0.0))).to(zero) for name in ("lam", "c", "center")}
        if isinstance(own, L1):
            tilt = tilt + got["lam"]
        elif isinstance(own, Linear) and bool((got["c"] >= 0).all()):
            tilt = tilt + got["c"]
        elif isinstance(own, L2Squared) and not bool(got["center"].any()):
            ridge = ridge + got["lam"]
        elif p.dims == () and p.convex and p.exact and p.is_set:  # such a set is an interval: its ends are asked of it
            far = zero.new_full(torch.broadcast_shapes((1, 1), *(t.shape for t in held.values())), 1e300)
            low, high = p(-far, 0.0), p(far, 0.0)
            lo = torch.maximum(lo, low.where(low > -1e299, -inf))
            hi = torch.minimum(hi, high.where(high < 1e299, inf))
        else:
            return None
    return Terms(lo, hi, tilt, ridge) if bool((lo >= 0).all()) else None


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class KLNewton(HALS):
    """Row by row, the KL divergence one entry a = a_iq at a time, ``inner`` passes over a row for each half-step.

    With b = b_jq, p the prediction of a cell, x its data and w its weight, s = Σ w b, up = Σ w x b/p and bend = Σ w x b²/p²,
    the new entry is

        a · bend a / (s - up + bend a)      where the slope s - up is positive, so that a falls,
        a + (up - s) / s · up / bend        where it is negative, so that a grows:

    Newton's step to second order, and none of them goes beyond the minimum along the entry, so that the value never rises
    and nothing is damped: the slope that is left, s - Σ w x b / (p + d b), is s - up · mean of 1 / (1 + d u) over u = b/p
    with weights w x u. That function is convex in u, which lies in [0, 1/a]: the chord (Edmundson 1957) bounds it for a
    step down, its value at the mean of u (Jensen 1906) for a step up. A ridge makes each a quadratic equation, l1 and a
    linear term join s, bounds clip. (Newton's step for single entries of KL: Hsieh and Dhillon 2011; safeguarded by
    self-concordance: Hien and Gillis 2021.)

    A row's part of B is read once for all passes, and only cells with data are visited: O(stored · k). Under a simplex along
    the rows of A a half-step begins with EM, a_q = a_q up_q / (s_q + θ) with the one θ for which the sum is right (Lee and
    Seung 1999), and Newton's steps exchange shares with the largest entry of the row; the first start is moved a thousandth
    towards equal shares, as EM leaves a 0 alone. (Elsewhere EM before Newton was measured to end in worse minima as often as
    in better ones.) An operator of another form has HALS's half-step on its side. Raises ValueError for another loss, and for
    operators that couple components otherwise.

    >>> from proxfactor import factorize
    >>> factorize([[1.0, 2.0], [2.0, 4.0]], 1, W="nonneg", H="nonneg", loss="kl", solver=KLNewton()).converged
    True
    """

    inner: int = 3

    def check(self, problem: Problem) -> None:
        if not isinstance(problem.loss, KL):
            raise ValueError(f"KLNewton minimises the KL divergence, the loss is {problem.loss!r}; use solver='hals'")
        for name, given, prox, dim in (("W", problem.prox_W, problem.prox_W, 1), ("H", problem.prox_H, problem.prox_H.T, 0)):
            if prox.couples(1) and terms_of(prox, problem.X.device) is None:
                raise ValueError(
                    f"KLNewton takes entries one by one, or a simplex across components, and {given!r} on {name} couples them "
                    f"otherwise (dim={dim}); use solver='palm'"
                )

    @staticmethod
    def fits(problem: Problem) -> bool:
        """Whether both factors have constraints that its own steps know."""
        sides = problem.prox_W, problem.prox_H.T
        return all(terms_of(prox, problem.X.device) is not None for prox in sides) and not problem.ties

    def patient(self) -> Alternating:
        return dataclasses.replace(self, inner=5)

    def half(self, p: Problem, A: Tensor, B: Tensor, memory: Memory) -> Tensor:
        terms = terms_of(p.prox_W, A.device)
        if terms is None or p.ties or p.cols.size > 1:  # columns of one row on several processes: one message, not k of them
            return super().half(p, A, B, memory)
        early = EM if terms.total else 0
        if terms.total and "begun" not in memory:
            A = A + 1e-3 * (terms.total / A.shape[1] - A)  # towards equal shares, which are inside
            memory["begun"] = A.new_zeros(len(A), 0)
        if quick := compiled(p.X, A.shape[1], early + self.inner):
            return quick(p.X, A, B, terms, early, self.inner)
        new, blocks = torch.empty_like(A), p.X.blocks(p._row_bytes)
        for r, X in blocks:
            new[r] = rows(X, A[r], B, terms.take(r), early, self.inner)
        return new


def rows(X: Matrix, A: Tensor, B: Tensor, terms: Terms, early: int, inner: int) -> Tensor:
    """A after ``early`` passes of EM and ``inner`` passes of Newton's steps, all rows side by side."""
    A, x, limits = A.clone(), X.entries(), torch.finfo(A.dtype)
    y = x if X.weight is None else X.weight * x
    mass = X.sums(y)
    y = torch.where(y >= X.along((limits.tiny * mass).clamp(min=limits.tiny), 0), y, 0.0)
    floor = X.along((limits.tiny**0.4 * mass).clamp(min=limits.tiny), 0)
    s, weighty = _slope_of_nothing(X, B)
    tilted = s + terms.tilt
    for _ in range(early):
        shares = A.double() * (X.like(y / torch.maximum(X.predict(A, B), floor)) @ B).double()
        if terms.total:
            A = _onto_simplex(shares, s, terms.total, terms.solid).to(A)
        else:
            new = root(tilted, terms.ridge, shares)
            A = terms.clip(torch.where((s > 0) | (new > 0), new, A.double())).to(A)
    p = torch.where(y > 0, torch.maximum(X.predict(A, B), floor), torch.inf) if inner else y
    for _ in range(inner if terms.total == 0 or terms.solid else 0):
        for q in range(A.shape[1]):
            b, a = X.along(B[:, q], 1), A[:, q].double()
            u = b / p
            up, bend = X.sums(y * u).double(), X.sums(y * u * u).double()
            one = terms.column(q)
            slope = s[:, q] + one.tilt
            v = newton(a, slope, one.ridge, up, bend)
            nothing = (v * s[:, q] <= limits.tiny * mass.double()) & (up <= slope) & (slope + one.ridge > 0)
            v = one.clip(torch.where(nothing, 0.0, v))
            new = (torch.minimum(v, a + (terms.total - A.double().sum(1)).clamp(min=0)) if terms.total else v).to(A)
            p = torch.maximum(p + X.along(new - A[:, q], 0) * b, limits.eps * p)
            A[:, q] = new
    for _ in range(inner if terms.total else 0):
        most = A.argmax(1, keepdim=True)
        rest = X.predict(torch.zeros_like(A).scatter(1, most, 1.0), B)  # b of each row's largest entry, which gives and takes
        for q in range(A.shape[1]):
            b, a, other = X.along(B[:, q], 1) - rest, A[:, q].double(), A.gather(1, most)[:, 0].double()
            u = b / p
            up, bend = X.sums(y * u).double(), X.sums(y * u * u).double()
            move = exchanged(a, other, s[:, q] - s.gather(1, most)[:, 0] - up, bend)
            move = torch.where((most[:, 0] == q) | (mass == 0), 0.0, move)
            d = (a + move).clamp(min=0).to(A) - A[:, q]
            p = torch.maximum(p + X.along(d, 0) * b, limits.eps * p)
            A[:, q] += d
            A.scatter_add_(1, most, -d[:, None]).clamp_(min=0)
    return A if terms.total else torch.where(weighty[:, None], A, terms.lo.to(A))


def root(c: Tensor, mu: Tensor, a: Tensor) -> Tensor:
    """The v ≥ 0 with mu v² + c v = a, for c, mu, a ≥ 0: 0 where a is 0.

    >>> root(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]), torch.tensor([3.0, 4.0]))
    tensor([1., 2.])
    """
    below = c + (c * c + 4 * mu * a).sqrt()
    return torch.where((below > 0) & (a > 0), 2 * a / below, 0.0)


def newton(a: Tensor, s: Tensor, mu: Tensor, up: Tensor, bend: Tensor) -> Tensor:
    """The entry after a step that lowers s a + mu/2 a² - Σ y log p and stops before the minimum along a.

    >>> f = lambda a: 3 * a - 2 * torch.log(1 + a)  # one cell: y = 2, b = 1, p = 1 + a; it is least at a = -1/3, so at 0
    >>> a = torch.tensor([0.5, 0.1], dtype=torch.float64)
    >>> b = newton(a, torch.tensor(3.0), torch.tensor(0.0), 2 / (1 + a), 2 / (1 + a) ** 2)
    >>> bool((f(b) < f(a)).all() and (b > 0).all())
    True
    """
    slope = s + mu * a - up
    fall = root(s - up + bend * a, mu, bend * a * a)
    rho = torch.where(up > 0, bend / up, 0.0)
    rise = a + root(mu + rho * (s + mu * a), mu * rho, -slope)
    return torch.where(slope > 0, fall, torch.where((slope < 0) & (bend > 0), rise, a))


def exchanged(a: Tensor, other: Tensor, slope: Tensor, bend: Tensor) -> Tensor:
    """What an entry gains of another one of its row: Newton's step, shortened by the same bound so that neither falls below 0.

    >>> a, other = torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5])
    >>> exchanged(a, other, torch.tensor([1.0, -1.0]), torch.tensor([2.0, 2.0]))
    tensor([-0.2500,  0.2500])
    """
    gives = torch.where(slope > 0, a, other)
    below = slope.abs() + bend * gives
    return torch.where(below > 0, -gives * slope / below, 0.0)


def _slope_of_nothing(X: Matrix, B: Tensor) -> tuple[Tensor, Tensor]:
    """What the gradient would be without data, Σ w b over all cells of each row (m or 1, k), and which rows weigh anything."""
    S = B.double().sum(0)[None]
    every = torch.ones(X.shape[0], dtype=torch.bool, device=B.device)
    if X.weight is None and (X.background == 1 or isinstance(X, Dense)):
        return S.expand(X.shape[0], -1), every
    w = torch.ones_like(X.entries()) if X.weight is None else X.weight
    s = (X.background * S + (X.like(w - X.background) @ B).double()).clamp(min=0)
    return s, every if X.background else (s > 0).any(1)


def _onto_simplex(shares: Tensor, s: Tensor, total: float, solid: bool) -> Tensor:
    """shares / (s + θ), θ such that each row sums to total (where solid: or to less): Newton from below on 1 / Σ.

    1 / Σ_q shares_q / (s_q + θ) is concave in θ and nearly straight, so that the steps never pass the root. A row without
    data goes to its cheapest component.
    """
    some, most = shares.sum(1, keepdim=True) > 0, s.amax(1, keepdim=True)
    first = torch.where(shares > 0, shares / total - s, -torch.inf).argmax(1, keepdim=True)
    base = s.gather(1, first)
    s, up = s - base, shares.gather(1, first) / total  # θ is counted from there, where it costs no digits
    up = torch.maximum(up, base) if solid else up
    for _ in range(30):
        below = torch.maximum(s + up, shares / total)
        v = torch.where(shares > 0, shares / below, 0.0)
        f, slope = v.sum(1, keepdim=True), torch.where(shares > 0, v / below, 0.0).sum(1, keepdim=True)
        step = torch.where(some, f * (f / total - 1) / slope, 0.0)
        up = up + step.clamp(min=0)
    held = torch.where(shares > 0, shares / torch.maximum(s + up, shares / total), 0.0)
    cheapest = torch.nn.functional.one_hot(s.argmin(1), s.shape[1]).to(s) * total
    alone = torch.zeros_like(held) if solid else torch.where(most > 0, cheapest, total / s.shape[1])
    return torch.where(some, held, alone)
