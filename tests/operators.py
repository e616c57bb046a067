"""One example or more of each operator: what the generic tests of test_prox.py, the text form and the command line run through.

``g`` writes the term a second time, independently: a number for a float64 tensor, inf outside a set (within 1e-8). ``cvx``
says the same to cvxpy: a function of a variable of the example's shape that gives (cost, constraints).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import torch

from proxfactor.prox import (
    L1,
    Box,
    Entropy,
    Fixed,
    L2Squared,
    NonNegative,
    Normalize,
    Prox,
    Simplex,
    SumToOne,
    Unconstrained,
)

INF = math.inf


@dataclass
class Example:
    op: Prox
    g: Callable | None = None  # needed where op.exact
    cvx: Callable | None = None  # wherever cvxpy can say it
    shape: tuple[int, ...] = (3, 4)
    tol: float = 1e-9  # of the objective, relative: larger only for an operator that iterates to a stated tolerance
    smooth: bool = True  # False: gradients through it are not promised
    extreme: bool = True  # False: entries of ±1e300 are not promised to stay finite

    def __repr__(self):
        return repr(self.op)


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def drawn(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def inside(ok, value=0.0):
    """value where ok, else inf."""
    return float(value) if bool(torch.as_tensor(ok).all()) else INF


def full(t, y):
    """A weight as an array of a cvxpy variable's shape."""
    return np.broadcast_to(np.asarray(t, dtype=float), y.shape)


WEIGHTS = tensor([0.0, 0.1, 2.0, 0.3], [1.0, 0.5, 0.0, 5.0], [0.2, 0.2, 0.7, 0.0])
VALUES = tensor([0.5, 0.0, math.nan, 0.2], [0.0, 0.0, 0.0, 0.0], [0.25, 0.0, 0.0, 0.75])
MASK = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()
LOW, HIGH = tensor([-1.0], [0.0], [-INF]), tensor([0.0, 0.5, 2.0, INF])


# ── the terms that several examples share ─────────────────────────────────────────────────────────────────────────────


def nonneg(y):
    return inside(y >= -1e-9)


def box(lo, hi):
    def g(y):
        low, high = (torch.as_tensor(v, dtype=y.dtype) for v in (lo, hi))
        return inside((y >= low - 1e-9) & (y <= high + 1e-9))

    def cvx(y):
        low, high = full(lo, y), full(hi, y)
        bounds = [y[tuple(i)] >= low[tuple(i)] for i in np.argwhere(np.isfinite(low))]
        return 0, bounds + [y[tuple(i)] <= high[tuple(i)] for i in np.argwhere(np.isfinite(high))]

    return g, cvx


def fixed(y):
    return inside((y - VALUES)[MASK].abs() <= 1e-9)


def cvx_fixed(y):
    return 0, [y[i, j] == float(VALUES[i, j]) for i, j in MASK.nonzero().tolist()]


def l1(lam):
    return lambda y: (lam * y.abs()).sum().item(), lambda y: (cp.sum(cp.multiply(full(lam, y), cp.abs(y))), [])


def ridge(lam):
    return lambda y: (lam * y.abs() ** 2).sum().item() / 2, lambda y: (cp.sum(cp.multiply(full(lam, y) / 2, cp.square(y))), [])


def entropy(lam):
    def g(y):
        return inside(y >= -1e-9, (lam * torch.special.xlogy(y.clamp(min=0), y.clamp(min=0))).sum())

    return g, lambda y: (-cp.sum(cp.multiply(full(lam, y), cp.entr(y))), [])


def simplex(dim, total=1.0):
    def g(y):
        return inside((y >= -1e-9).all() & ((y.sum(dim) - total).abs() <= 1e-8).all())

    return g, lambda y: (0, [y >= 0, cp.sum(y, axis=dim % 2) == total])


def sums_to_one(dim):
    return lambda y: inside((y.sum(dim) - 1).abs() <= 1e-8), lambda y: (0, [cp.sum(y, axis=dim % 2) == 1])


def added(*terms):
    """g and cvx of a sum, from those of its parts."""

    def cvx(y):
        costs, rules = zip(*(said(y) for _, said in terms), strict=True)
        return sum(costs), [r for rule in rules for r in rule]

    return lambda y: sum(g(y) for g, _ in terms), cvx


def turned(term):
    """g and cvx on the transpose."""
    g, cvx = term
    return lambda y: g(y.mT), lambda y: cvx(y.T)


free, positive, known = (lambda y: 0.0, lambda y: (0, [])), (nonneg, lambda y: (0, [y >= 0])), (fixed, cvx_fixed)


# ── entries ───────────────────────────────────────────────────────────────────────────────────────────────────────────

ENTRIES = [
    Example(Unconstrained(), *free),
    Example(NonNegative(), *positive),
    Example(Box(-1, 0.3), *box(-1, 0.3)),
    Example(Box(0, INF), *box(0, INF)),
    Example(Box(LOW, HIGH), *box(LOW, HIGH)),
    Example(Fixed(VALUES, MASK), *known),
    Example(L1(0.4), *l1(0.4)),
    Example(L1(WEIGHTS), *l1(WEIGHTS)),
    Example(L1(WEIGHTS[0]), *l1(WEIGHTS[0])),
    Example(L2Squared(0.7), *ridge(0.7)),
    Example(L2Squared(WEIGHTS[:, :1]), *ridge(WEIGHTS[:, :1])),
    Example(Entropy(0.5), *entropy(0.5)),
    Example(Entropy(WEIGHTS), *entropy(WEIGHTS)),
]

# ── simplices ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SIMPLICES = [
    Example(Simplex(0), *simplex(0)),
    Example(Simplex(1), *simplex(1)),
    Example(Simplex(-1, total=2.5), *simplex(-1, 2.5)),
    Example(SumToOne(0), *sums_to_one(0), extreme=False),
    Example(SumToOne(-1), *sums_to_one(-1), extreme=False),
    Example(Normalize(dim=1)),
]

# ── balls ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

BALLS = []

# ── norms ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

NORMS = []

# ── shapes ────────────────────────────────────────────────────────────────────────────────────────────────────────────

SHAPES = []

# ── matrices ──────────────────────────────────────────────────────────────────────────────────────────────────────────

MATRICES = []

# ── images ────────────────────────────────────────────────────────────────────────────────────────────────────────────

IMAGES = []

# ── built ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

BUILT = [
    Example(Simplex(0).T, *turned(simplex(0))),
    Example(L1(WEIGHTS.mT.contiguous()).T, *l1(WEIGHTS)),
]

# ── sums ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

SUMS = [
    Example(NonNegative() + L1(0.4), *added(positive, l1(0.4))),
    Example(L1(WEIGHTS) + NonNegative(), *added(l1(WEIGHTS), positive)),
    Example(L1(0.4) + L2Squared(0.7), *added(l1(0.4), ridge(0.7))),
    Example(L2Squared(WEIGHTS) + L1(WEIGHTS[1]), *added(ridge(WEIGHTS), l1(WEIGHTS[1]))),
    Example(L2Squared(0.7) + Box(0.2, 0.9) + L1(0.4), *added(ridge(0.7), box(0.2, 0.9), l1(0.4))),
    Example(Box(-0.5, 0.6) + Entropy(0.5), *added(box(-0.5, 0.6), entropy(0.5))),
    Example(Fixed(VALUES, MASK) + L2Squared(0.7), *added(known, ridge(0.7))),
    Example(L1(0.2) + Fixed(VALUES, MASK) + NonNegative(), *added(l1(0.2), known, positive)),
    Example(NonNegative() + Box(-1, 0.8) + Entropy(WEIGHTS), *added(positive, box(-1, 0.8), entropy(WEIGHTS))),
]

EXAMPLES = [*ENTRIES, *SIMPLICES, *BALLS, *NORMS, *SHAPES, *MATRICES, *IMAGES, *BUILT, *SUMS]
