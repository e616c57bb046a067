"""One example or more of each operator: what the generic tests of test_prox.py, the text form and the command line run through.

``g`` writes the term a second time, independently: a number for a float64 tensor, inf outside a set (within 1e-8). ``cvx``
says the same to cvxpy: a function of a variable of the example's shape that gives (cost, constraints).
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import torch

from proxfactor.prox import (
    ETP,
    L0,
    L1,
    L2,
    MCP,
    PSD,
    SCAD,
    Affine,
    BerHu,
    Binary,
    Birkhoff,
    Box,
    CappedL1,
    CappedSimplex,
    Cauchy,
    CenterOn,
    Codebook,
    Columns,
    Composed,
    Concave,
    Conjugate,
    Convex,
    Distance,
    Dykstra,
    Eigen,
    ElasticNetBall,
    Entropy,
    Envelope,
    EpsInsensitive,
    ExclusiveLasso,
    Exponential,
    ExponentialCone,
    Fair,
    FermiDirac,
    Fixed,
    Geman,
    GroupL0,
    GroupL1Ball,
    GroupLasso,
    GroupLHalf,
    GroupMCP,
    GroupSCAD,
    GroupTopK,
    HalfSpace,
    Hankel,
    Hinge,
    Hoyer,
    Huber,
    Hyperplane,
    Integers,
    Inverse,
    Isotonic,
    KSupport,
    KyFan,
    L1Ball,
    L1L2Ball,
    L1MinusL2,
    L1Sphere,
    L2Ball,
    L2Cubed,
    L2Squared,
    LHalf,
    Linear,
    LinearSubspace,
    LInf,
    LInfBall,
    LogBarrier,
    LogDet,
    Logistic,
    LogSum,
    LTwoThirds,
    Max,
    Minimum,
    MirrorSymmetric,
    NofM,
    NonNegative,
    NonNegativeSphere,
    NonPositive,
    Normalize,
    Nuclear,
    NuclearBall,
    OutsideBall,
    OverlappingGroups,
    Pinball,
    Poisson,
    Power,
    Prox,
    PseudoHuber,
    QuadraticForm,
    RadialMonotone,
    Range,
    RankAtMost,
    RankPenalty,
    RotatedCone,
    Rows,
    Scaled,
    Schatten,
    SecondOrderCone,
    Simplex,
    Singular,
    Slab,
    Slope,
    Smooth,
    SolidSimplex,
    SparseSimplex,
    Spectral,
    SpectralBall,
    Sphere,
    Split,
    SquaredHinge,
    Stiefel,
    SumLargest,
    SumLargestAbs,
    SumToOne,
    SymmetricMatrix,
    Toeplitz,
    TopK,
    TotalVariation,
    TotalVariationImage,
    Translated,
    TransportPolytope,
    TreeGroups,
    TrendFilter,
    TruncatedSquare,
    Unconstrained,
    Unimodal,
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


CENTERS = tensor([0.5], [-1.0], [2.0])
COUNTS = tensor([3.0, 0.0, 1.0, 0.5])


def one_of(*levels):
    return lambda y: inside(torch.stack([(y - v).abs() <= 1e-8 for v in levels]).any(0))


def summed(phi, lam=1.0):
    """λ Σ φ(y) from φ entry by entry."""
    return lambda y: (lam * phi(y)).sum().item()


def pieces(lam, *lines):
    """λ Σ of the largest of some affine functions a y + b."""
    g = summed(lambda y: torch.stack([a * y + b for a, b in lines]).amax(0), lam)
    return g, lambda y: (cp.sum(cp.multiply(full(lam, y), cp.maximum(*(a * y + b for a, b in lines)))), [])


def tube(lam, eps, c):
    g = summed(lambda y: ((y - c).abs() - eps).clamp(min=0), lam)
    return g, lambda y: (lam * cp.sum(cp.pos(cp.abs(y - full(c, y)) - eps)), [])


def huber(lam, delta):
    g = summed(lambda y: torch.where(y.abs() < delta, y.abs() ** 2 / 2, delta * y.abs() - delta**2 / 2), lam)
    return g, lambda y: (cp.sum(cp.multiply(full(lam, y), cp.huber(y, delta))) / 2, [])


def berhu(lam, delta):
    return summed(lambda y: torch.where(y.abs() < delta, y.abs(), (y.abs() ** 2 / delta + delta) / 2), lam)


def power(lam, p):
    return summed(lambda y: y.abs() ** p, lam), lambda y: (lam * cp.sum(cp.power(cp.abs(y), p)), [])


def on(domain, phi, lam=1.0):
    """λ Σ φ on a domain, inf outside; φ sees a point of the domain."""

    def g(y):
        ok = domain(y)
        return INF if not bool(ok.all()) else (lam * phi(y)).sum().item()

    return g


def poisson(counts, lam):
    g = on(lambda y: y >= -1e-12, lambda y: y - torch.special.xlogy(torch.as_tensor(counts), y.clamp(min=0)), lam)

    def cvx(y):
        k, w = full(counts, y), full(lam, y)
        cells = [(tuple(i), k[tuple(i)] * w[tuple(i)]) for i in np.argwhere(k * w > 0)]
        return cp.sum(cp.multiply(w, y)) - sum(c * cp.log(y[i]) for i, c in cells), [y >= 0]

    return g, cvx


def fermi(lam):
    def phi(y):
        y = y.clamp(0, 1)
        return torch.special.xlogy(y, y) + torch.special.xlogy(1 - y, 1 - y)

    return on(lambda y: (y >= -1e-12) & (y <= 1 + 1e-12), phi, lam), lambda y: (-lam * cp.sum(cp.entr(y) + cp.entr(1 - y)), [])


def mcp(lam, gamma):
    def g(y):
        a = y.abs()
        return torch.where(a <= gamma * lam, lam * a - a * a / (2 * gamma), torch.as_tensor(gamma * lam * lam / 2)).sum().item()

    return g


def scad(lam, a):
    def g(y):
        u = y.abs()
        falling = (2 * a * lam * u - u * u - lam * lam) / (2 * (a - 1))
        far = torch.as_tensor(lam * lam * (a + 1) / 2)
        return torch.where(u <= lam, lam * u, torch.where(u <= a * lam, falling, far)).sum().item()

    return g


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
    Example(NonPositive(), *box(-INF, 0)),
    Example(Binary(), one_of(0, 1), smooth=False),
    Example(Binary(CENTERS - 2, 2), lambda y: inside(((y - CENTERS + 2).abs() <= 1e-8) | ((y - 2).abs() <= 1e-8)), smooth=False),
    Example(Integers(), lambda y: inside((y - y.round()).abs() <= 1e-8), smooth=False),
    Example(Integers(-1.5, 2), one_of(-1, 0, 1, 2), smooth=False),
    Example(Codebook((-0.5, 0, 2)), one_of(-0.5, 0, 2), smooth=False),
    Example(Codebook(tensor(-0.5, 0.0, 2.0)), one_of(-0.5, 0, 2), smooth=False),
    Example(
        L2Squared(WEIGHTS, CENTERS),
        lambda y: (WEIGHTS * (y - CENTERS).abs() ** 2).sum().item() / 2,
        lambda y: (cp.sum(cp.multiply(full(WEIGHTS, y) / 2, cp.square(y - full(CENTERS, y)))), []),
    ),
    Example(Linear(-0.7), summed(lambda y: -0.7 * y), lambda y: (-0.7 * cp.sum(y), [])),
    Example(Linear(COUNTS), summed(lambda y: COUNTS * y), lambda y: (cp.sum(cp.multiply(full(COUNTS, y), y)), [])),
    Example(Huber(0.8, 0.5), *huber(0.8, 0.5)),
    Example(Huber(WEIGHTS, 0.5), *huber(WEIGHTS, 0.5)),
    Example(PseudoHuber(0.8, 0.5), summed(lambda y: 0.25 * torch.expm1(torch.log1p((2 * y.abs()) ** 2) / 2), 0.8)),
    Example(BerHu(0.8, 0.5), berhu(0.8, 0.5)),
    Example(BerHu(WEIGHTS, 0.5), berhu(WEIGHTS, 0.5)),
    Example(Power(0.6, 4 / 3), *power(0.6, 4 / 3)),
    Example(Power(0.6, 2), *power(0.6, 2)),
    Example(Power(WEIGHTS), summed(lambda y: y.abs() ** 1.5, WEIGHTS)),
    Example(Power(0.5, 1), *l1(0.5)),
    Example(Power(0.5, 0.3), summed(lambda y: y.abs() ** 0.3, 0.5)),
    Example(Power(WEIGHTS, 0.8), summed(lambda y: y.abs() ** 0.8, WEIGHTS)),
    Example(Fair(0.8, 3.0), summed(lambda y: 3 * y.abs() - (3 * y.abs()).log1p(), 0.8)),
    Example(Fair(WEIGHTS), summed(lambda y: y.abs() - y.abs().log1p(), WEIGHTS)),
    Example(EpsInsensitive(0.9, 0.3), *tube(0.9, 0.3, 0.0)),
    Example(EpsInsensitive(0.9, 0.3, CENTERS), *tube(0.9, 0.3, CENTERS)),
    Example(Pinball(0.9, 0.2), *pieces(0.9, (0.2, 0), (-0.8, 0))),
    Example(Pinball(WEIGHTS, 1), *pieces(WEIGHTS, (1, 0), (0, 0))),
    Example(Hinge(0.9), *pieces(0.9, (-1, 1), (0, 0))),
    Example(Hinge(WEIGHTS), *pieces(WEIGHTS, (-1, 1), (0, 0))),
    Example(
        SquaredHinge(0.9),
        summed(lambda y: (1 - y).clamp(min=0) ** 2, 0.45),
        lambda y: (0.45 * cp.sum(cp.square(cp.pos(1 - y))), []),
    ),
    Example(Logistic(1.3), summed(lambda y: torch.logaddexp(-y, 0 * y), 1.3), lambda y: (1.3 * cp.sum(cp.logistic(-y)), [])),
    Example(Exponential(0.6), summed(torch.exp, 0.6), lambda y: (0.6 * cp.sum(cp.exp(y)), [])),
    Example(LogBarrier(0.7), on(lambda y: y > 0, lambda y: -y.log(), 0.7), lambda y: (-0.7 * cp.sum(cp.log(y)), [])),
    Example(Poisson(2.0, 0.7), *poisson(2.0, 0.7)),
    Example(Poisson(COUNTS, WEIGHTS[:, 1:2]), *poisson(COUNTS, WEIGHTS[:, 1:2])),
    Example(Inverse(0.7), on(lambda y: y > 0, lambda y: 1 / y, 0.7), lambda y: (0.7 * cp.sum(cp.inv_pos(y)), [])),
    Example(Inverse(0.7, 0.5), on(lambda y: y > 0, lambda y: y**-0.5, 0.7)),
    Example(FermiDirac(0.6), *fermi(0.6)),
    Example(L0(0.5), summed(lambda y: (y != 0).double(), 0.5)),
    Example(L0(WEIGHTS), summed(lambda y: (y != 0).double(), WEIGHTS)),
    Example(LHalf(0.5), summed(lambda y: y.abs().sqrt(), 0.5)),
    Example(LTwoThirds(0.5), summed(lambda y: y.abs() ** (2 / 3), 0.5)),
    Example(LTwoThirds(WEIGHTS), summed(lambda y: y.abs() ** (2 / 3), WEIGHTS)),
    Example(CappedL1(0.5, 1.2), summed(lambda y: y.abs().clamp(max=1.2), 0.5)),
    Example(TruncatedSquare(1.5, 0.8), summed(lambda y: y.abs().clamp(max=0.8) ** 2 / 2, 1.5)),
    Example(TruncatedSquare(WEIGHTS, 1.5), summed(lambda y: y.abs().clamp(max=1.5) ** 2 / 2, WEIGHTS)),
    Example(Geman(1.5, 0.3), summed(lambda y: 1 - 0.3 / (y.abs() + 0.3), 1.5)),
    Example(Geman(WEIGHTS, 2.0), summed(lambda y: y.abs() / (y.abs() + 2), WEIGHTS)),
    Example(LogSum(0.5, 0.3), summed(lambda y: (y.abs() / 0.3).log1p(), 0.5)),
    Example(LogSum(WEIGHTS, 3.0), summed(lambda y: (y.abs() / 3).log1p(), WEIGHTS)),
    Example(ETP(0.5, 2.0), summed(lambda y: torch.expm1(-2 * y.abs()) / math.expm1(-2), 0.5)),
    Example(Cauchy(0.5, 0.3), summed(lambda y: ((y.abs() / 0.3) ** 2).log1p(), 0.5)),
    Example(MCP(0.5), mcp(0.5, 3.0)),
    Example(MCP(WEIGHTS, 0.6), mcp(WEIGHTS, 0.6)),
    Example(SCAD(0.5), scad(0.5, 3.7)),
    Example(SCAD(WEIGHTS, 1.4), scad(WEIGHTS, 1.4)),
]

# ── simplices ─────────────────────────────────────────────────────────────────────────────────────────────────────────


FORM, PER_ROW = tensor(1.0, 0.0, -2.0, 0.5), tensor([0.3], [-0.4], [2.0])
EQUATIONS = tensor([1.0, 1.0, 1.0, 1.0], [1.0, 0.0, -1.0, 2.0])


def solid_simplex(dim, total=1.0):
    def g(y):
        return inside((y >= -1e-9).all() & (y.sum(dim) <= total + 1e-8).all())

    return g, lambda y: (0, [y >= 0, cp.sum(y, axis=dim % 2) <= total])


def capped_simplex(dim, total, cap):
    def g(y):
        return inside((y >= -1e-9).all() & (y <= cap + 1e-9).all() & ((y.sum(dim) - total).abs() <= 1e-8).all())

    return g, lambda y: (0, [y >= 0, y <= cap, cp.sum(y, axis=dim % 2) == total])


def sparse_simplex(dim, k, total=1.0):
    whole, _ = simplex(dim, total)
    return lambda y: whole(y) + inside((y.abs() > 1e-9).sum(dim) <= k)


def linear(dim, a, lo, hi):
    """lo ≤ ⟨a, y⟩ ≤ hi, with one bound per slice."""
    a, flat = torch.as_tensor(a), [torch.as_tensor(b).double().flatten() for b in (lo, hi)]

    def g(y):
        form = (y.movedim(dim, -1) * a).sum(-1)
        return inside((form >= flat[0] - 1e-8) & (form <= flat[1] + 1e-8))

    def cvx(y):
        form = cp.sum(cp.multiply(full(a if dim % 2 else a.reshape(-1, 1), y), y), axis=dim % 2)
        bounds = [np.broadcast_to(b.numpy(), form.shape) for b in flat]
        low = [form[i] >= b for i, b in enumerate(bounds[0]) if b > -INF]
        return 0, low + [form[i] <= b for i, b in enumerate(bounds[1])]

    return g, cvx


def affine(dim, A, b):
    def g(y):
        return inside(((y.movedim(dim, -1) @ A.mT) - b).abs() <= 1e-8)

    return g, lambda y: (0, [A.numpy() @ (y.T if dim % 2 else y) == np.outer(b.numpy(), np.ones(y.shape[1 - dim % 2]))])


SIMPLICES = [
    Example(Simplex(0), *simplex(0)),
    Example(Simplex(1), *simplex(1)),
    Example(Simplex(-1, total=2.5), *simplex(-1, 2.5)),
    Example(SolidSimplex(0), *solid_simplex(0)),
    Example(SolidSimplex(1, total=2.5), *solid_simplex(1, 2.5)),
    Example(CappedSimplex(0, cap=0.6), *capped_simplex(0, 1.0, 0.6)),
    Example(CappedSimplex(-1, total=2), *capped_simplex(-1, 2.0, 1.0)),
    Example(CappedSimplex(1, total=2, cap=0.5), *capped_simplex(1, 2.0, 0.5), smooth=False),  # one point
    Example(SparseSimplex(1, k=2), sparse_simplex(1, 2)),
    Example(SparseSimplex(0, k=1, total=2.5), sparse_simplex(0, 1, 2.5)),
    Example(SparseSimplex(0, k=7), sparse_simplex(0, 7), lambda y: (0, [y >= 0, cp.sum(y, axis=0) == 1])),
    Example(Hyperplane(0, tensor(1.0, -2.0, 0.0), 0.5), *linear(0, tensor(1.0, -2.0, 0.0), 0.5, 0.5), extreme=False),
    Example(Hyperplane(1, -3.0, PER_ROW), *linear(1, -3.0, PER_ROW, PER_ROW), extreme=False),
    Example(HalfSpace(0, 2.0, -1.0), *linear(0, 2.0, -INF, -1.0), extreme=False),
    Example(HalfSpace(-1, FORM), *linear(-1, FORM, -INF, 0.0), extreme=False),
    Example(Slab(1, -0.5, PER_ROW, FORM), *linear(1, FORM, -0.5, PER_ROW), extreme=False),
    Example(Slab(0, -0.1, 0.1), *linear(0, 1.0, -0.1, 0.1), extreme=False),
    Example(SumToOne(0), *sums_to_one(0), extreme=False),
    Example(SumToOne(-1), *sums_to_one(-1), extreme=False),
    Example(Affine(1, EQUATIONS, tensor(1.0, -0.5)), *affine(1, EQUATIONS, tensor(1.0, -0.5)), extreme=False),
    Example(Affine(0, EQUATIONS[:, :3]), *affine(0, EQUATIONS[:, :3], tensor(0.0, 0.0)), extreme=False),
    Example(Normalize(dim=1)),
]

# ── balls ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def length(y, dim):
    return y.abs().square().sum(dim).sqrt()


def l1_ball(dim, radius):
    return lambda y: inside(y.abs().sum(dim) <= radius + 1e-8), lambda y: (0, [cp.sum(cp.abs(y), axis=dim % 2) <= radius])


def l2_ball(dim, radius):
    return lambda y: inside(length(y, dim) <= radius + 1e-8), lambda y: (0, [cp.norm(y, 2, axis=dim % 2) <= radius])


def max_ball(radius):
    return lambda y: inside(y.abs() <= radius + 1e-8), lambda y: (0, [cp.abs(y) <= radius])


def net_ball(dim, gamma, radius):
    def cvx(y):
        return 0, [cp.sum(cp.abs(y), axis=dim % 2) + gamma / 2 * cp.sum(cp.square(y), axis=dim % 2) <= radius]

    return lambda y: inside((y.abs() + gamma / 2 * y.abs() ** 2).sum(dim) <= radius + 1e-8), cvx


def group_ball(dim, radius):
    return lambda y: inside(length(y, dim).sum() <= radius + 1e-8), lambda y: (0, [cp.sum(cp.norm(y, 2, axis=dim % 2)) <= radius])


def l1_sphere(dim, radius):
    return lambda y: inside((y.abs().sum(dim) - radius).abs() <= 1e-8)


def sphere(dim, radius):
    return lambda y: inside((length(y, dim) - radius).abs() <= 1e-8)


def counted(dim, k):
    return lambda y: inside((y.abs() > 1e-12).sum(dim) <= k)


def blocks(dim, n, m):
    return lambda y: inside((y.movedim(dim, -1).unflatten(-1, (-1, m)).abs() > 1e-12).sum(-1) <= n)


def groups(dim, k):
    return lambda y: inside((length(y, dim) > 1e-12).sum() <= k)


def hoyer(dim, sparseness, radius=None):
    def g(y):
        c = y.shape[dim] ** 0.5 - sparseness * (y.shape[dim] ** 0.5 - 1)
        long = length(y, dim)
        ok = (y >= -1e-9).all() & ((y.sum(dim) - c * long).abs() <= 1e-8 * (1 + long)).all()
        return inside(ok & (radius is None or ((long - radius).abs() <= 1e-8).all()))

    return g


def ice_cream(dim, slope=1.0):
    def g(y):
        t, *rest = y.unbind(dim)
        return inside(slope * t - sum(w**2 for w in rest) ** 0.5 >= -1e-8 * (1 + t.abs()))

    def cvx(y):
        rows = [y[i, :] if dim % 2 else y[:, i] for i in range(y.shape[1 - dim % 2])]
        return 0, [cp.SOC(slope * r[0], r[1:]) for r in rows]

    return g, cvx


def rotated(dim):
    def g(y):
        u, v, *rest = y.unbind(dim)
        size = 1 + y.abs().max() ** 2
        return inside((u >= -1e-8 * size) & (v >= -1e-8 * size) & (2 * u * v - sum(w**2 for w in rest) >= -1e-8 * size))

    def cvx(y):
        rows = [y[i, :] if dim % 2 else y[:, i] for i in range(y.shape[1 - dim % 2])]
        return 0, [cp.quad_over_lin(r[2:], r[0]) <= 2 * r[1] for r in rows] + [r[1] >= 0 for r in rows]

    return g, cvx


def exponential(dim):
    def g(y):
        r, s, t = y.unbind(dim)
        edge = (s.abs() <= 1e-12) & (r <= 1e-12) & (t >= -1e-12)
        return inside(edge | (s > 0) & (s * torch.exp(r / s) <= t + 1e-8 * (1 + t.abs())))

    def cvx(y):
        rows = [y[i, :] if dim % 2 else y[:, i] for i in range(y.shape[1 - dim % 2])]
        return 0, [cp.ExpCone(*r) for r in rows]

    return g, cvx


BALLS = [
    Example(L1Ball(0), *l1_ball(0, 1.0)),
    Example(L1Ball(-1, radius=2.5), *l1_ball(-1, 2.5)),
    Example(L1Sphere(1, radius=8.0), l1_sphere(1, 8.0)),
    Example(L1Sphere(0), l1_sphere(0, 1.0)),
    Example(L2Ball(0, radius=0.5), *l2_ball(0, 0.5)),
    Example(L2Ball(1, radius=2.5), *l2_ball(1, 2.5)),
    Example(LInfBall(0.6), *max_ball(0.6)),
    Example(L1L2Ball(1, l1=1.5), *added(l1_ball(1, 1.5), l2_ball(1, 1.0))),
    Example(L1L2Ball(0, l1=1.2, l2=0.9), *added(l1_ball(0, 1.2), l2_ball(0, 0.9))),
    Example(ElasticNetBall(1, gamma=0.5, radius=2.0), *net_ball(1, 0.5, 2.0)),
    Example(ElasticNetBall(0, gamma=0.0, radius=2.0), *net_ball(0, 0.0, 2.0)),
    Example(GroupL1Ball(1, radius=2.0), *group_ball(1, 2.0)),
    Example(GroupL1Ball(0), *group_ball(0, 1.0)),
    Example(Sphere(0), sphere(0, 1.0)),
    Example(Sphere(1, radius=3.0), sphere(1, 3.0)),
    Example(OutsideBall(1, radius=20.0), lambda y: inside(length(y, 1) >= 20 - 1e-8)),
    Example(NonNegativeSphere(0, radius=2.0), lambda y: sphere(0, 2.0)(y) + nonneg(y)),
    Example(NonNegativeSphere(1), lambda y: sphere(1, 1.0)(y) + nonneg(y)),
    Example(TopK(1, k=2), counted(1, 2)),
    Example(TopK(0, k=1), counted(0, 1)),
    Example(GroupTopK(1, k=2), groups(1, 2)),
    Example(GroupTopK(0, k=1), groups(0, 1)),
    Example(NofM(1), blocks(1, 2, 4), shape=(3, 8)),
    Example(NofM(0, n=1, m=2), blocks(0, 1, 2), shape=(4, 3)),
    Example(Hoyer(1, sparseness=0.3), hoyer(1, 0.3)),
    Example(Hoyer(0, sparseness=0.6, radius=2.0), hoyer(0, 0.6, 2.0)),
    Example(SecondOrderCone(1), *ice_cream(1)),
    Example(SecondOrderCone(0), *ice_cream(0)),
    Example(SecondOrderCone(1, slope=0.3), *ice_cream(1, 0.3)),
    Example(RotatedCone(1), *rotated(1)),
    Example(RotatedCone(0), *rotated(0), shape=(4, 3)),
    Example(ExponentialCone(0), *exponential(0)),
    Example(ExponentialCone(-1), *exponential(-1), shape=(4, 3)),
]

# ── norms ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def along(dim, of, lam=1.0, cvx=None):
    """g and cvx of λ Σ of(slice), with of and cvx for one slice of a matrix, a 1-D tensor or a cvxpy vector."""

    def said(y):
        return lam * sum(cvx(y[i, :] if dim % 2 else y[:, i]) for i in range(y.shape[1 - dim % 2])), []

    return lambda y: lam * sum(float(of(v)) for v in y.movedim(dim, -1).reshape(-1, y.shape[dim])), said if cvx else None


def norm_of(v):
    return (v.abs() ** 2).sum() ** 0.5


def grouped(dim, groups, lam, power=None):
    """λ_g times the L2 norm of each group of each slice, or half its squared L1 norm; groups are lists of indices."""
    lams = lam if isinstance(lam, tuple) else (lam,) * len(groups)
    sets = [torch.tensor(g) for g in groups]

    def of(v):
        return sum(w * (v[g].abs().sum() ** 2 / 2 if power else norm_of(v[g])) for w, g in zip(lams, sets, strict=True))

    def cvx(v):
        parts = [(w, v[g.numpy()]) for w, g in zip(lams, sets, strict=True)]
        return sum(w * (cp.square(cp.norm(p, 1)) / 2 if power else cp.norm(p, 2)) for w, p in parts)

    return along(dim, of, 1.0, cvx)


def folded(r, lam, slope):
    """λ ∫ slope from 0 to r, where the slope is piecewise linear with corners at multiples of 0.1."""
    corners = [c / 10 for c in range(math.floor(10 * r) + 1)] + [float(r)]
    return sum(lam * (b - a) * (slope(a) + slope(b)) / 2 for a, b in itertools.pairwise(corners))


def largest_of(k):
    return lambda v: v.sort().values[-k:].sum()


def in_order(lams):
    weights = torch.tensor(lams, dtype=torch.float64)
    gaps = [*(-weights.diff()).tolist(), lams[-1]]

    def cvx(v):
        return sum(w * cp.sum_largest(cp.abs(v), k) for k, w in enumerate(gaps, 1))

    return lambda v: (v.abs().sort(descending=True).values * weights).sum(), cvx


def k_support(k):
    """½ ‖v‖² by Argyriou et al.: the r with |v|_(k-r-1) > (Σ from k-r on) / (r + 1) ≥ |v|_(k-r)."""

    def of(v):
        a = [math.inf, *v.abs().sort(descending=True).values.tolist(), *[0.0] * k]
        for r in range(k):
            tail = sum(a[k - r :])
            if a[k - r - 1] > tail / (r + 1) >= a[k - r]:
                break
        return (sum(b * b for b in a[1 : k - r]) + tail**2 / (r + 1)) / 2

    def cvx(v):
        share = cp.Variable(v.shape[0])
        terms = sum(cp.quad_over_lin(v[i], share[i]) for i in range(v.shape[0])) / 2
        return terms, [share <= 1, cp.sum(share) <= k]

    return of, cvx


def supported(dim, k, lam):
    of, one = k_support(k)

    def cvx(y):
        parts = [one(y[i, :] if dim % 2 else y[:, i]) for i in range(y.shape[1 - dim % 2])]
        return lam * sum(c for c, _ in parts), [r for _, rules in parts for r in rules]

    return along(dim, of, lam)[0], cvx


NORMS = [
    Example(L2(0.7), lambda y: 0.7 * norm_of(y).item(), lambda y: (0.7 * cp.norm(cp.vec(y, order="C"), 2), [])),
    Example(
        L2Cubed(0.6),
        lambda y: 0.2 * norm_of(y).item() ** 3,
        lambda y: (0.2 * cp.power(cp.norm(cp.vec(y, order="C"), 2), 3), []),
    ),
    Example(GroupLasso(0), *along(0, norm_of, 1.0, lambda v: cp.norm(v, 2))),
    Example(GroupLasso(-1, 0.4), *along(1, norm_of, 0.4, lambda v: cp.norm(v, 2))),
    Example(GroupLasso(1, 0.6, groups=(0, 1, 0, 2)), *grouped(1, [[0, 2], [1], [3]], 0.6)),
    Example(GroupLasso(0, (0.5, 0.0), groups=(1, 0, 0)), *grouped(0, [[1, 2], [0]], (0.5, 0.0))),
    Example(GroupL0(1, 0.8), along(1, lambda v: (v != 0).any(), 0.8)[0]),
    Example(GroupL0(0, (0.3, 0.9), groups=(1, 0, 1)), along(0, lambda v: 0.3 * (v[1] != 0) + 0.9 * (v[[0, 2]] != 0).any())[0]),
    Example(ExclusiveLasso(1, 0.5), *along(1, lambda v: v.abs().sum() ** 2 / 2, 0.5, lambda v: cp.square(cp.norm(v, 1)) / 2)),
    Example(ExclusiveLasso(0, (0.3, 0.9), groups=(1, 0, 1)), *grouped(0, [[1], [0, 2]], (0.3, 0.9), 2)),
    Example(TreeGroups(1, ((1,), (0, 1, 2, 3), (1, 2)), 0.3), *grouped(1, [[1], [0, 1, 2, 3], [1, 2]], 0.3)),
    Example(TreeGroups(0, ((0, 2), (2,)), (0.5, 0.2)), *grouped(0, [[0, 2], [2]], (0.5, 0.2))),
    Example(OverlappingGroups(1, ((0, 1, 2), (1, 2, 3)), 0.5), *grouped(1, [[0, 1, 2], [1, 2, 3]], 0.5)),
    Example(
        OverlappingGroups(0, ((0, 1), (1, 2), (0, 2), (2,)), (0.3, 0.5, 0.2, 0.1)),
        *grouped(0, [[0, 1], [1, 2], [0, 2], [2]], (0.3, 0.5, 0.2, 0.1)),
    ),
    Example(GroupMCP(1, 0.8, gamma=2.0), along(1, lambda v: folded(norm_of(v), 0.8, lambda r: max(1 - r / 1.6, 0)))[0]),
    Example(GroupSCAD(0, 0.5, a=3.0), along(0, lambda v: folded(norm_of(v), 0.5, lambda r: min(max((1.5 - r) / 1, 0), 1)))[0]),
    Example(GroupLHalf(1, 0.6), along(1, lambda v: norm_of(v) ** 0.5, 0.6)[0]),
    Example(
        GroupLHalf(0, (0.6, 0.2), groups=(0, 1, 0)),
        along(0, lambda v: 0.6 * norm_of(v[[0, 2]]) ** 0.5 + 0.2 * v[1].abs() ** 0.5)[0],
    ),
    Example(LInf(0), *along(0, lambda v: v.abs().max(), 1.0, cp.norm_inf)),
    Example(LInf(1, 0.4), *along(1, lambda v: v.abs().max(), 0.4, cp.norm_inf)),
    Example(Max(1, 0.7), *along(1, torch.max, 0.7, cp.max)),
    Example(Range(0, 0.5), *along(0, lambda v: v.max() - v.min(), 0.5, lambda v: cp.max(v) - cp.min(v))),
    Example(SumLargest(1, 2, 0.5), *along(1, largest_of(2), 0.5, lambda v: cp.sum_largest(v, 2))),
    Example(SumLargest(0, 5, 0.5), *along(0, largest_of(5), 0.5, cp.sum)),
    Example(SumLargestAbs(1, 2, 0.5), *along(1, lambda v: largest_of(2)(v.abs()), 0.5, lambda v: cp.sum_largest(cp.abs(v), 2))),
    Example(SumLargestAbs(0, 3), *along(0, lambda v: largest_of(3)(v.abs()), 1.0, lambda v: cp.norm(v, 1))),
    Example(KSupport(1, 2, 0.7), *supported(1, 2, 0.7)),
    Example(KSupport(0, 1), *along(0, lambda v: v.abs().sum() ** 2 / 2, 1.0, lambda v: cp.square(cp.norm(v, 1)) / 2)),
    Example(Slope(1, (1.0, 0.6, 0.6, 0.1)), *along(1, in_order((1.0, 0.6, 0.6, 0.1))[0], 1.0, in_order((1.0, 0.6, 0.6, 0.1))[1])),
    Example(Slope(0, tensor(0.8, 0.3, 0.0)), *along(0, in_order((0.8, 0.3, 0.0))[0], 1.0, in_order((0.8, 0.3, 0.0))[1])),
    Example(L1MinusL2(1, 0.5), along(1, lambda v: v.abs().sum() - norm_of(v), 0.5)[0]),
    Example(L1MinusL2(0), along(0, lambda v: v.abs().sum() - norm_of(v))[0]),
]

# ── order and variation ───────────────────────────────────────────────────────────────────────────────────────────────

SHAPES = []


def monotone(dim, sign=1):
    return lambda y: inside(sign * y.diff(dim=dim) >= -1e-9), lambda y: (0, [sign * cp.diff(y, axis=dim % 2) >= 0])


def one_peak(dim, nonneg=False, peak=None):
    def rises(y):
        d, n = y.movedim(dim, -1).diff(), y.shape[dim]
        peaks = range(n) if peak is None else [peak % n]
        ok = [(d[..., :k] >= -1e-9).all(-1) & (d[..., k:] <= 1e-9).all(-1) for k in peaks]
        return inside(torch.stack(ok).any(0)) + (positive[0](y) if nonneg else 0)

    def cvx(y):
        d, k = cp.diff(y, axis=dim % 2), peak % y.shape[dim]
        up, down = (d[:k], d[k:]) if dim % 2 == 0 else (d[:, :k], d[:, k:])
        return 0, ([up >= 0] if 0 not in up.shape else []) + ([down <= 0] if 0 not in down.shape else []) + [y >= 0] * nonneg

    return (rises, cvx) if peak is not None else (rises,)


def bent(dim, sign=1):
    return lambda y: inside(sign * y.diff(n=2, dim=dim) >= -1e-9), lambda y: (0, [sign * cp.diff(y, 2, axis=dim % 2) >= 0])


ORDER = [
    Example(Isotonic(0), *monotone(0)),
    Example(Isotonic(-1), *monotone(-1)),
    Example(Isotonic(1, decreasing=True), *monotone(1, -1)),
    Example(Unimodal(0), *one_peak(0)),
    Example(Unimodal(1), *one_peak(1)),
    Example(Unimodal(-1, nonneg=True), *one_peak(-1, nonneg=True)),
    Example(Unimodal(1, peak=2), *one_peak(1, peak=2)),
    Example(Unimodal(0, nonneg=True, peak=-3), *one_peak(0, nonneg=True, peak=-3)),
    Example(Convex(0), *bent(0)),
    Example(Convex(1), *bent(1)),
    Example(Convex(1), *bent(1), shape=(3, 7)),
    Example(Concave(-1), *bent(-1, -1)),
]
SHAPES += ORDER

# variation


def change(dim, lam, order=1, power=1, ring=0):
    """λ/p Σ |Dᵏ y|ᵖ, on a circle if ring."""

    def g(y):
        y = y.movedim(dim, 0)
        for _ in range(order):
            y = y[(torch.arange(len(y)) + 1) % len(y)] - y if ring else y[1:] - y[:-1]
        return (lam * y.abs() ** power).sum().item() / power

    def cvx(y):
        rows = y if dim % 2 == 0 else y.T
        if ring:
            rows = cp.vstack([rows, rows[:ring]])
        if rows.shape[0] <= order:
            return 0, []
        return lam / power * cp.sum(cp.power(cp.abs(cp.diff(rows, order, 0)), power)), []

    return g, cvx


def edges(dim, shape, lam, isotropic=True):
    def g(y):
        total = 0.0
        for picture in y.movedim(dim, -1).reshape(-1, *shape):
            steps = torch.zeros(len(shape), *shape, dtype=torch.float64)
            for d, n in enumerate(shape):
                steps[d].narrow(d, 0, n - 1)[...] = picture.diff(dim=d)
            total += (steps.norm(dim=0) if isotropic else steps.abs()).sum().item()
        return lam * total

    def cvx(y):
        rows, (a, b), total = (y.T if dim % 2 == 0 else y), shape, 0
        for r in range(rows.shape[0]):
            z = cp.reshape(rows[r], shape, order="C")
            down = cp.vstack([cp.diff(z, axis=0), np.zeros((1, b))])
            along = cp.hstack([cp.diff(z, axis=1), np.zeros((a, 1))])
            both = cp.vstack([cp.vec(down, order="C"), cp.vec(along, order="C")])
            total += cp.sum(cp.norm(both, 2 if isotropic else 1, axis=0))
        return lam * total, []

    return (g, cvx) if len(shape) == 2 else (g,)


def quadratic(dim, m, c=None, lam=1.0):
    def g(y):
        rows = y.movedim(dim, -1)
        total = lam / 2 * torch.einsum("...i,ij,...j", rows, m, rows).sum()
        return (total if c is None else total - (rows * c).sum()).item()

    def cvx(y):
        rows = y.T if dim % 2 == 0 else y
        total = sum(lam / 2 * cp.quad_form(rows[r], cp.psd_wrap(m.numpy())) for r in range(rows.shape[0]))
        return (total if c is None else total - cp.sum(rows @ c.numpy())), []

    return g, cvx


PATH = tensor([1.0, -1.0, 0.0, 0.0], [-1.0, 2.0, -1.0, 0.0], [0.0, -1.0, 2.0, -1.0], [0.0, 0.0, -1.0, 1.0])
PULL = tensor([1.0, 0.2, -0.4], [0.2, 2.0, 0.1], [-0.4, 0.1, 0.5])
SHAPES += [
    Example(TotalVariation(1, 0.4), *change(1, 0.4)),
    Example(TotalVariation(-2), *change(-2, 1.0)),
    Example(TotalVariationImage(1, (3, 4), 0.3), *edges(1, (3, 4), 0.3), shape=(3, 12), tol=2e-9, smooth=False),
    Example(
        TotalVariationImage(0, (2, 3), 0.3, isotropic=False), *edges(0, (2, 3), 0.3, False), shape=(6, 3), tol=2e-9, smooth=False
    ),
    Example(TotalVariationImage(-1, (2, 2, 3), 0.3), *edges(-1, (2, 2, 3), 0.3), shape=(3, 12), tol=2e-9, smooth=False),
    Example(TrendFilter(1, lam=0.3), *change(1, 0.3, 2), shape=(3, 6)),
    Example(TrendFilter(-2, order=2, lam=0.3), *change(-2, 0.3, 3), shape=(7, 3)),
    Example(TrendFilter(0, order=0, lam=0.3), *change(0, 0.3)),
    Example(Smooth(1, 0.5), *change(1, 0.5, power=2)),
    Example(Smooth(-2, 0.5, order=2), *change(-2, 0.5, 2, 2)),
    Example(Smooth(1, 0.5, periodic=True), *change(1, 0.5, power=2, ring=1)),
    Example(Smooth(0, 2.0, order=2, periodic=True), *change(0, 2.0, 2, 2, ring=2), shape=(5, 3)),
    Example(QuadraticForm(1, PATH, lam=0.7), *quadratic(1, PATH, lam=0.7)),
    Example(QuadraticForm(-2, PULL, tensor(1.0, -2.0, 0.5)), *quadratic(-2, PULL, tensor(1.0, -2.0, 0.5))),
    Example(QuadraticForm(1, PATH, tensor(1.0, 0.0, 0.0, 0.0)), *quadratic(1, PATH, tensor(1.0, 0.0, 0.0, 0.0))),
]

# ── matrices ──────────────────────────────────────────────────────────────────────────────────────────────────────────


BASIS = tensor([1.0, 2.0, 0.0, -1.0], [0.0, 1.0, 1.0, 1.0], [2.0, 5.0, 1.0, -1.0])  # the third is a sum of the others


def sigma(y):
    return torch.linalg.svdvals(y)


def schatten(lam, p):
    return lambda y: lam * (sigma(y).where(sigma(y) > 1e-13, 0.0) ** p).sum().item()


def logdet(lam):
    def g(y):
        w = torch.linalg.eigvalsh(y)
        return inside(((y - y.mH).abs() <= 1e-9).all() & (w > 0).all(), -lam * w.clamp(min=0).log().sum())

    return g, lambda y: (-lam * cp.log_det(y), [y == y.T])


def psd(y):
    return inside((y - y.mH).abs() <= 1e-9) + inside(torch.linalg.eigvalsh(y) >= -1e-9)


def orthonormal(y):
    y = y if y.shape[-2] >= y.shape[-1] else y.mH
    return inside((y.mH @ y - torch.eye(y.shape[-1])).abs() <= 1e-8)


def constant(down):
    """Along the diagonals (down = 1) or the anti-diagonals (-1)."""

    def pairs(y):
        m, n = y.shape
        return [(y[i, j], y[i + 1, j + down]) for i in range(m - 1) for j in range(n) if 0 <= j + down < n]

    return lambda y: inside(torch.stack([(a - b).abs() for a, b in pairs(y)]) <= 1e-9), lambda y: (0, [a == b for a, b in pairs(y)])


def transport(rows, columns):
    def g(y):
        sums = ((y.sum(1) - tensor(*rows)).abs().max() <= 1e-8) & ((y.sum(0) - tensor(*columns)).abs().max() <= 1e-8)
        return inside(sums & (y >= -1e-9).all())

    return g, lambda y: (0, [y >= 0, cp.sum(y, axis=1) == rows, cp.sum(y, axis=0) == columns])


def spanned(dim):
    off = torch.linalg.svd(BASIS)[2][2:]  # independent of BASIS, which has rank 2

    def cvx(y):
        return 0, [(y @ off.T.numpy() if dim % 2 else off.numpy() @ y) == 0]

    return lambda y: inside((off @ y.movedim(dim, 0)).abs() <= 1e-8), cvx


def eigen(g):
    """A term of the eigenvalues."""
    return (lambda y: inside((y - y.mH).abs() <= 1e-9) + g(torch.linalg.eigvalsh((y + y.mH) / 2)),)


MATRICES = [
    Example(Nuclear(0.7), schatten(0.7, 1), lambda y: (0.7 * cp.normNuc(y), [])),
    Example(Schatten(0.7), schatten(0.7, 0.5)),
    Example(Schatten(0.7, p=2 / 3), schatten(0.7, 2 / 3), shape=(4, 3)),
    Example(Schatten(0.7, p=1.5), schatten(0.7, 1.5)),
    Example(Schatten(0.7, p=2), schatten(0.7, 2), lambda y: (0.7 * cp.sum_squares(y), [])),
    Example(KyFan(2, 0.7), lambda y: 0.7 * sigma(y)[:2].sum().item()),
    Example(Spectral(0.7), lambda y: 0.7 * sigma(y)[0].item(), lambda y: (0.7 * cp.sigma_max(y), [])),
    Example(SpectralBall(1.5), lambda y: inside(sigma(y) <= 1.5 + 1e-8), lambda y: (0, [cp.sigma_max(y) <= 1.5])),
    Example(NuclearBall(2.5), lambda y: inside(sigma(y).sum() <= 2.5 + 1e-8), lambda y: (0, [cp.normNuc(y) <= 2.5])),
    Example(RankAtMost(2), lambda y: inside(sigma(y)[2:] <= 1e-9)),
    Example(RankPenalty(0.7), lambda y: 0.7 * (sigma(y) > 1e-9).sum().item()),
    Example(LogDet(0.7), *logdet(0.7), shape=(3, 3)),
    Example(Singular(MCP(0.7)), lambda y: mcp(0.7, 3.0)(sigma(y))),
    Example(Singular(L1(0.7) + Box(-1, 1)), lambda y: 0.7 * sigma(y).sum().item() + inside(sigma(y) <= 1 + 1e-9), shape=(4, 3)),
    Example(Singular(Simplex(-1, total=2.0)), lambda y: inside((sigma(y).sum() - 2).abs() <= 1e-8)),
    Example(Singular(L1Ball(-1, 1.5)), lambda y: inside(sigma(y).sum() <= 1.5 + 1e-8), lambda y: (0, [cp.normNuc(y) <= 1.5])),
    Example(Eigen(Entropy(0.6)), *eigen(entropy(0.6)[0]), shape=(3, 3)),
    Example(
        Eigen(Simplex(-1)),
        eigen(simplex(-1)[0])[0],
        lambda y: (0, [y == y.T, y >> 0, cp.trace(y) == 1]),
        shape=(3, 3),
    ),
    Example(Eigen(L0(0.6)), eigen(lambda w: 0.6 * (w.abs() > 1e-9).sum().item())[0], shape=(3, 3)),
    Example(PSD(), psd, lambda y: (0, [y == y.T, y >> 0]), shape=(3, 3)),
    Example(SymmetricMatrix(), lambda y: inside((y - y.mH).abs() <= 1e-9), lambda y: (0, [y == y.T]), shape=(3, 3)),
    Example(Stiefel(), orthonormal),
    Example(Stiefel(), orthonormal, shape=(3, 3)),
    Example(Hankel(), *constant(-1)),
    Example(Toeplitz(), *constant(1), shape=(4, 3)),
    Example(LinearSubspace(1, BASIS), *spanned(1)),
    Example(LinearSubspace(-2, BASIS), *spanned(-2), shape=(4, 3)),
    Example(TransportPolytope([1.0, 0.0, 3.0], [0.5, 2.0, 0.5, 1.0]), *transport([1, 0, 3], [0.5, 2, 0.5, 1]), extreme=False),
    Example(Birkhoff(), *transport([1, 1, 1], [1, 1, 1]), shape=(3, 3), extreme=False),
]

# ── images ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def mirrored(dim, shape, *axes):
    def g(y):
        images = y.movedim(dim, -1).unflatten(-1, shape)
        return inside(torch.stack([(images - images.flip(a)).abs() for a in axes]) <= 1e-9)

    def cvx(y):
        place = torch.arange(shape[0] * shape[1]).reshape(shape)
        turned = [place.flip(a).flatten().tolist() for a in axes]
        return 0, [(y[:, t] if dim % 2 else y[t, :]) == y for t in turned]

    return g, cvx


IMAGES = [
    Example(MirrorSymmetric(1, (2, 3)), *mirrored(1, (2, 3), -1, -2), shape=(3, 6)),
    Example(MirrorSymmetric(0, (3, 2), "horizontal"), *mirrored(0, (3, 2), -1), shape=(6, 3)),
    Example(MirrorSymmetric(-1, (3, 2), "vertical"), *mirrored(-1, (3, 2), -2), shape=(3, 6)),
    Example(MirrorSymmetric(-2, (2, 3), "point"), *mirrored(-2, (2, 3), (-2, -1)), shape=(6, 3)),
    Example(RadialMonotone(1, (3, 4)), shape=(3, 12)),
    Example(RadialMonotone(0, (4, 3), center=(0, 2)), shape=(12, 3)),
    Example(CenterOn(1, (3, 3)), shape=(3, 9)),
    Example(CenterOn(0, (2, 3), by="centroid"), shape=(6, 3)),
]

# ── built ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


TURN = torch.linalg.qr(drawn(70, 3, 3))[0]
SHARES = tensor([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0])
OTHER = drawn(71, 3, 4)


def scaled(factor, term):
    g, cvx = term
    return lambda y: factor * g(y) if factor else 0.0 * g(y), lambda y: (factor * cvx(y)[0], cvx(y)[1])


def moved(term, by):
    g, cvx = term
    return lambda y: g(y - by), lambda y: cvx(y - full(by, y))


def of_product(dim, Q, term):
    g, cvx = term

    def there(y):
        return g((y.movedim(dim, -1) @ Q.mT.to(y)).movedim(-1, dim))

    return there, lambda y: cvx(Q.numpy() @ y if dim % 2 == 0 else y @ Q.mT.numpy())


def lines(dim, *parts):
    """One term for each list of rows or columns."""

    def cvx(y):
        said = [term[1](y[at, :] if dim == 0 else y[:, at]) for at, term in parts]
        return sum(c for c, _ in said), [r for _, rules in said for r in rules]

    return lambda y: sum(term[0](y.index_select(dim, torch.tensor(at))) for at, term in parts), cvx


def huber(lam, delta=1.0):
    """Huber of Huber's original: λ |y| beyond λ mu is the envelope of λ |x|."""

    def g(y):
        a = y.abs()
        return (lam * torch.where(a <= delta, a * a / 2, delta * (a - delta / 2))).sum().item()

    return g, lambda y: (lam / 2 * cp.sum(cp.huber(y, delta)), [])


def concave(lam, gamma):
    """MCP: λ |y| - y² / 2γ up to |y| = γλ, then constant."""
    return lambda y: torch.where(y.abs() < gamma * lam, lam * y.abs() - y * y / (2 * gamma), gamma * lam**2 / 2).sum().item()


BUILT = [
    Example(Simplex(0).T, *turned(simplex(0))),
    Example(L1(WEIGHTS.mT.contiguous()).T, *l1(WEIGHTS)),
    Example(Scaled(L1(WEIGHTS), 2.0), *l1(2 * WEIGHTS)),
    Example(Scaled(Simplex(1), 3.0), *simplex(1)),
    Example(Scaled(Entropy(0.5), 0.0), *positive),
    Example(Scaled(L0(0.3), 2.0), lambda y: 0.6 * (y.abs() > 1e-12).sum().item()),
    Example(Translated(L1(0.4), by=1.5), *moved(l1(0.4), 1.5)),
    Example(Translated(Simplex(0), by=OTHER), *moved(simplex(0), OTHER), extreme=False),
    Example(Translated(GroupLasso(1, 0.7), by=OTHER[0]), *moved(along(1, norm_of, 0.7, lambda v: cp.norm(v, 2)), OTHER[0])),
    Example(Translated(NonNegative(), by=OTHER[:, :1]), *box(OTHER[:, :1], INF)),
    Example(Conjugate(L1(WEIGHTS)), lambda y: inside(y.abs() <= WEIGHTS + 1e-9), box(-WEIGHTS, WEIGHTS)[1]),
    Example(Conjugate(L2Ball(1, radius=0.7)), *along(1, norm_of, 0.7, lambda v: cp.norm(v, 2))),
    Example(Conjugate(L2Squared(2.0)), *ridge(0.5)),
    Example(Conjugate(NonNegative()), *box(-INF, 0.0)),
    Example(Conjugate(Isotonic(0)), lambda y: inside((y.cumsum(0)[:-1] >= -1e-8).all() & (y.sum(0).abs() <= 1e-8).all())),
    Example(Conjugate(GroupLasso(0, 0.6)), *l2_ball(0, 0.6)),
    Example(Envelope(L1(0.8), mu=0.5), *huber(2.0, 0.4)),
    Example(
        Envelope(NonNegative(), mu=0.5),
        lambda y: y.clamp(max=0).square().sum().item(),
        lambda y: (cp.sum_squares(cp.neg(y)), []),
    ),
    Example(Envelope(L0(0.5), mu=0.5), lambda y: y.abs().square().clamp(max=0.5).sum().item()),
    Example(Distance(NonNegative(), 0.7), summed(lambda y: y.clamp(max=0).abs(), 0.7), lambda y: (0.7 * cp.sum(cp.neg(y)), [])),
    Example(Distance(Box(LOW, HIGH), 0.7), summed(lambda y: (y - torch.minimum(torch.maximum(y, LOW), HIGH)).abs(), 0.7)),
    Example(
        Distance(L2Ball(0, radius=0.9), 0.7),
        lambda y: 0.7 * ((y.abs() ** 2).sum(0) ** 0.5 - 0.9).clamp(min=0).sum().item(),
        lambda y: (0.7 * sum(cp.pos(cp.norm(y[:, j], 2) - 0.9) for j in range(y.shape[1])), []),
    ),
    Example(Distance(SumToOne(1), 0.7), lambda y: 0.35 * (y.sum(1) - 1).abs().sum().item(), extreme=False),
    Example(Minimum((Box(-1, 0.3), Box(0.5, 2))), lambda y: min(box(-1, 0.3)[0](y), box(0.5, 2)[0](y)), smooth=False),
    Example(
        Minimum((Translated(L1(0.4), by=1.5), "l2squared(0.5)", Translated(Simplex(0), by=OTHER))),
        lambda y: min(0.4 * (y - 1.5).abs().sum().item(), ridge(0.5)[0](y), moved(simplex(0), OTHER)[0](y)),
        smooth=False,
        extreme=False,
    ),
    Example(Composed(0, L1(0.4), TURN), *of_product(0, TURN, l1(0.4)), extreme=False),
    Example(Composed(1, NonNegative(), SHARES), *of_product(1, SHARES, positive), extreme=False),
    Example(Composed(0, Simplex(0), 2 * TURN), *of_product(0, 2 * TURN, simplex(0)), extreme=False),
    Example(Composed(-1, L1(0.4), SHARES), *of_product(-1, SHARES, l1(0.4)), extreme=False),
    Example(
        Rows({"0:2": Simplex(1), 2: L1(tensor(0.1, 0.2, 0.3, 0.4))}),
        *lines(0, ([0, 1], simplex(1)), ([2], l1(tensor(0.1, 0.2, 0.3, 0.4)))),
    ),
    Example(Rows({1: "l2(0.5)"}, rest=NonNegative()), lambda y: 0.5 * norm_of(y[1]).item() + nonneg(y[[0, 2]])),
    Example(
        Columns({"1, 3:": TotalVariation(0, 0.5), 0: Isotonic(0)}, rest=L1(0.3)),
        *lines(1, ([1, 3], change(0, 0.5)), ([0], monotone(0)), ([2], l1(0.3))),
    ),
    Example(
        Columns({0: Simplex(0)}, rest=GroupLasso(0, 0.3)),
        *lines(1, ([0], simplex(0)), ([1, 2, 3], along(0, norm_of, 0.3, lambda v: cp.norm(v, 2)))),
    ),
    Example(Dykstra((Simplex(0), Box(0.1, 0.5))), *added(simplex(0), box(0.1, 0.5)), tol=1e-8, smooth=False, extreme=False),
    Example(Dykstra((L2Ball(1, 1.2), SumToOne(1))), *added(l2_ball(1, 1.2), sums_to_one(1)), tol=1e-8, smooth=False, extreme=False),
    Example(Dykstra((Isotonic(0), SumToOne(0))), *added(monotone(0), sums_to_one(0)), tol=1e-8, smooth=False, extreme=False),
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
    Example(L2Squared(WEIGHTS) + Simplex(0), *added(ridge(WEIGHTS), simplex(0))),
    Example(Huber(0.5) + Fixed(VALUES, MASK), *added(huber(0.5), known)),
    Example(L1(WEIGHTS) + Huber(0.5), *added(l1(WEIGHTS), huber(0.5))),
    Example(NonNegative() + MCP(0.5) + L2Squared(0.2), lambda y: concave(0.5, 3.0)(y) + nonneg(y) + ridge(0.2)[0](y)),
    Example(NonNegative() + L1Ball(0), *added(positive, l1_ball(0, 1.0))),
    Example(NonNegative() + L2Ball(1, 0.8), *added(positive, l2_ball(1, 0.8))),
    Example(
        L1(WEIGHTS) + GroupLasso(1, 0.5) + NonNegative(),
        *added(l1(WEIGHTS), along(1, norm_of, 0.5, lambda v: cp.norm(v, 2)), positive),
    ),
    Example(TopK(0, 2) + NonNegative() + L1(WEIGHTS), lambda y: counted(0, 2)(y) + nonneg(y) + l1(WEIGHTS)[0](y)),
    Example(TopK(1, 2) + Sphere(1, 1.5), lambda y: counted(1, 2)(y) + inside(((y.abs() ** 2).sum(1) - 2.25).abs() <= 1e-8)),
    Example(
        TopK(0, 2) + NonNegative() + Sphere(0),
        lambda y: counted(0, 2)(y) + nonneg(y) + inside(((y.abs() ** 2).sum(0) - 1).abs() <= 1e-8),
    ),
    Example(Isotonic(0) + Box(-0.2, 0.8), *added(monotone(0), box(-0.2, 0.8))),
    Example(Isotonic(1) + Simplex(1), *added(monotone(1), simplex(1))),
    Example(TotalVariation(1, 0.4) + L1(0.3), *added(change(1, 0.4), l1(0.3))),
    Example(TotalVariation(0, 0.4) + NonNegative(), *added(change(0, 0.4), positive)),
    Example(TotalVariation(1, 0.4) + LInf(1, 0.3), *added(change(1, 0.4), along(1, lambda v: v.abs().max(), 0.3, cp.norm_inf))),
    Example(Convex(1) + L2Ball(1, 0.9), *added(bent(1), l2_ball(1, 0.9))),
    Example(LogBarrier(0.3) + L2Squared(0.5), lambda y: inside(y > 0, -0.3 * y.clamp(min=1e-300).log().sum()) + ridge(0.5)[0](y)),
    Example(Split(Simplex(0) + SumToOne(1)), shape=(3, 3), tol=1e-8, smooth=False, extreme=False),
    Example(Simplex(0) + TotalVariation(1, 0.3), tol=1e-8, smooth=False, extreme=False),
]


EXAMPLES = [*ENTRIES, *SIMPLICES, *BALLS, *NORMS, *SHAPES, *MATRICES, *IMAGES, *BUILT, *SUMS]
