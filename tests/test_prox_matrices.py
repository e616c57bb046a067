"""What is particular to the operators on matrices: optimality conditions at size, brute force, batches, refusals."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import INF, drawn, tensor
from scipy.linalg import polar
from scipy.optimize import linear_sum_assignment

from proxfactor.prox import (
    L0,
    L1,
    L2,
    Box,
    Entropy,
    HalfSpace,
    Huber,
    Isotonic,
    L1Ball,
    Linear,
    LInf,
    LogBarrier,
    NonNegative,
    Prox,
    Simplex,
    Slope,
    SumLargestAbs,
    TopK,
    TotalVariation,
    Unconstrained,
)
from proxfactor.prox.matrices import (
    PSD,
    Birkhoff,
    Eigen,
    Hankel,
    KyFan,
    LinearSubspace,
    LogDet,
    Nuclear,
    NuclearBall,
    RankAtMost,
    RankPenalty,
    Schatten,
    Singular,
    Spectral,
    SpectralBall,
    Stiefel,
    SymmetricMatrix,
    Toeplitz,
    TransportPolytope,
)
from proxfactor.prox.penalties import LHalf, LTwoThirds, Power

TIGHT = {torch.float32: 2e-4, torch.float64: 1e-10}
SINGULAR = [Nuclear(0.7), Schatten(0.7), KyFan(2, 0.7), Spectral(0.7), SpectralBall(1.5), NuclearBall(2.5)]
SINGULAR += [RankAtMost(2), RankPenalty(0.7), Stiefel()]
EIGEN = [LogDet(0.7), PSD()]


def both(dtypes=(torch.float32, torch.float64)):
    return pytest.mark.parametrize("dtype", dtypes, ids=str)


def orthogonal(seed, n, complex_=False):
    z = drawn(seed, n, n)
    return torch.linalg.qr(torch.complex(z, drawn(seed + 1, n, n)) if complex_ else z)[0]


def made(s, seed=0, shape=None, complex_=False):
    """A matrix with the singular values s."""
    m, n = shape or (len(s), len(s))
    return orthogonal(seed, m, complex_)[:, : len(s)] * s @ orthogonal(seed + 5, n, complex_)[:, : len(s)].mH


# ── singular values ───────────────────────────────────────────────────────────────────────────────────────────────────


@both()
@pytest.mark.parametrize("shape", [(1000, 30), (40, 600)], ids=str)
def test_the_residual_of_each_norm_is_a_subgradient(shape, dtype):
    x, t = drawn(0, *shape, dtype=dtype), 3.0
    size, close = torch.linalg.matrix_norm(x.double(), 2).item(), TIGHT[dtype]

    def nuclear(v):
        return torch.linalg.matrix_norm(v, "nuc").item()

    def top(v):
        return torch.linalg.matrix_norm(v, 2).item()

    for op, value, dual in [
        (Nuclear(5.0), lambda v: 5 * nuclear(v), lambda u: top(u) / 5),
        (Spectral(5.0), lambda v: 5 * top(v), lambda u: nuclear(u) / 5),
        (KyFan(4, 5.0), lambda v: 5 * torch.linalg.svdvals(v)[:4].sum().item(), lambda u: max(top(u), nuclear(u) / 4) / 5),
    ]:
        y = op(x, t).double()
        u = (x.double() - y) / t
        assert dual(u) <= 1 + close  # u is in the ball of the dual norm, and (u, y) attain the norm: u is a subgradient at y
        assert (u * y).sum().item() == pytest.approx(value(y), abs=close * size * min(shape) * 5)
        assert op.value(y).item() == pytest.approx(value(y))


@both()
def test_a_ball_is_moreaus_complement_of_the_dual_norm(dtype):
    x, close = 3 * drawn(1, 50, 40, dtype=dtype), 1e3 * torch.finfo(dtype).eps
    for t in (0.0, 0.1, 3.0, 1e3):
        assert torch.allclose(Nuclear(1.0)(x, t) + SpectralBall(t)(x), x, atol=close * 40)
        assert torch.allclose(Spectral(1.0)(x, t) + NuclearBall(t)(x), x, atol=close * 40)
        assert torch.allclose(KyFan(1, 1.0)(x, t), Spectral(1.0)(x, t), atol=close * 40)
        assert torch.allclose(KyFan(40, 1.0)(x, t), Nuclear(1.0)(x, t), atol=close * 40)


def test_the_largest_k_are_shrunk_as_a_fine_search_would():
    def g(y, s, t, k):
        return t * np.sort(y)[::-1][:k].sum() + 0.5 * ((y - s) ** 2).sum()

    for seed in range(30):
        s = drawn(seed, 4).abs().sort(descending=True)[0]
        s = s.round(decimals=1) if seed % 3 == 0 else s  # ties
        for k, t in itertools.product((1, 2, 3, 4, 9), (0.05, 0.5, 3.0)):
            y = KyFan(k)(torch.diag(s), t).diagonal().numpy()
            best = g(y, s.numpy(), t, k)
            rng = np.random.default_rng(seed)
            assert all(best <= g(np.abs(y + d), s.numpy(), t, k) + 1e-12 for d in rng.normal(0, 0.05, (200, 4)))
            assert all(best <= g(np.clip(s.numpy() - c, 0, None), s.numpy(), t, k) + 1e-12 for c in np.linspace(0, 3, 61))


@pytest.mark.parametrize("p", [0.5, 2 / 3, 1, 4 / 3, 1.5, 2, 3])
def test_a_power_acts_on_the_singular_values(p):
    s = tensor(5.0, 2.0, 1.0, 0.4, 0.0)
    scalar = {0.5: LHalf(0.8), 2 / 3: LTwoThirds(0.8), 1: L1(0.8)}.get(p) or Power(0.8, p)
    for complex_ in (False, True):
        x = made(s, shape=(7, 6), complex_=complex_)
        y = Schatten(0.8, p)(x, 0.9)
        assert torch.allclose(torch.linalg.svdvals(y)[:5], scalar(s, 0.9), atol=1e-9)
        assert Schatten(0.8, p).value(x).item() == pytest.approx(0.8 * (s**p).sum().item())
    assert Schatten(0.8, p).convex == (p >= 1)


@pytest.mark.parametrize(
    ("op", "inner"),
    [
        (Nuclear(0.7), L1(0.7)),
        (Schatten(0.7), LHalf(0.7)),
        (Schatten(0.7, 0.3), Power(0.7, 0.3)),
        (KyFan(2, 0.7), SumLargestAbs(-1, 2, 0.7)),
        (Spectral(0.7), LInf(-1, 0.7)),
        (SpectralBall(1.5), Box(-1.5, 1.5)),
        (NuclearBall(2.5), L1Ball(-1, 2.5)),
        (RankAtMost(2), TopK(-1, 2)),
        (RankPenalty(0.7), L0(0.7)),
    ],
    ids=str,
)
def test_a_term_of_the_singular_values_is_the_operator_that_has_a_name(op, inner):
    p = Singular(inner)
    assert (p.convex, p.is_set, p.cone) == (op.convex, op.is_set, op.cone)
    assert repr(Prox.parse(repr(p))) == repr(p)
    for complex_ in (False, True):
        x = made(tensor(5.0, 2.0, 1.0, 0.4, 0.0), shape=(7, 6), complex_=complex_)
        for step in (0.0, 0.8, INF, 0.8 * torch.ones(1, 1)):
            assert torch.allclose(p(x, step), op(x, step), atol=1e-9)
        assert p.value(op(x)).item() == pytest.approx(op.value(op(x)).item())
        assert p.value(x).item() == pytest.approx(op.value(x).item())


def test_a_term_of_the_eigenvalues_is_the_operator_that_has_a_name():
    x = drawn(3, 2, 5, 5)
    for inner, op in ((LogBarrier(0.7), LogDet(0.7)), (NonNegative(), PSD()), (Unconstrained(), SymmetricMatrix())):
        p = Eigen(inner)
        assert (p.convex, p.is_set, p.cone, p.attained) == (op.convex, op.is_set, op.cone, op.attained)
        assert torch.allclose(p(x, 0.8), op(x, 0.8), atol=1e-9)
        assert p.value(op(x)).item() == pytest.approx(op.value(op(x)).item())
        assert p.value(x) == op.value(x) == INF


@both()
def test_the_spectrahedron_meets_its_optimality_conditions(dtype):
    x, p = drawn(4, 30, 30, dtype=dtype), Eigen(Simplex(-1))
    y = p(x)
    residual = (x + x.mT) / 2 - y
    assert p.value(y) == 0
    assert y.trace().item() == pytest.approx(1, abs=TIGHT[dtype])
    top = torch.linalg.eigvalsh(residual)[-1]  # the best of all density matrices in the direction of what is left
    assert top - (residual * y).sum() <= 30 * TIGHT[dtype]
    w = torch.linalg.eigvalsh(Eigen(Entropy(0.5))(x, 0.3))
    assert torch.allclose(w, Entropy(0.5)(torch.linalg.eigvalsh((x + x.mT) / 2), 0.3), atol=TIGHT[dtype])


def test_a_term_of_singular_values_that_is_not_even_is_not_called_convex():
    assert not Singular(Simplex(-1)).convex
    assert Singular(Huber(0.5) + Box(-1, 1)).convex
    assert Eigen(Simplex(-1)).convex
    x = drawn(6, 4, 3)
    assert torch.linalg.svdvals(Singular(Simplex(-1))(x)).sum().item() == pytest.approx(1)


@pytest.mark.parametrize("kind", [Singular, Eigen])
def test_what_is_not_the_same_for_every_order_of_the_values_is_refused(kind):
    for inner in (
        L1(tensor(1.0, 2.0, 3.0)),
        Isotonic(-1),
        TotalVariation(-1),
        Slope(-1, (3.0, 2.0, 1.0)),
        HalfSpace(-1, tensor(1.0, 2.0)),
    ):
        with pytest.raises(ValueError, match="every order of the values"):
            kind(inner)
    for inner in (Simplex(0), Simplex(1), L2(0.5)):
        with pytest.raises(ValueError, match="along dim=-1 is needed"):
            kind(inner)
    with pytest.raises(TypeError, match="an operator is needed"):
        kind(3)


def test_singular_values_stay_above_zero():
    with pytest.raises(ValueError, match=r"makes values negative; add NonNegative\(\)"):
        Singular(Linear(1.0))
    assert torch.allclose(Singular(Linear(1.0) + NonNegative())(torch.eye(2), 0.3), 0.7 * torch.eye(2))
    with pytest.raises(ValueError, match="square"):
        Eigen(L1())(torch.zeros(2, 3))


@pytest.mark.parametrize("op", [Schatten(0.9), Schatten(0.9, 2 / 3), RankPenalty(0.9)], ids=repr)
def test_a_nonconvex_penalty_is_the_best_over_a_grid_of_singular_values(op):
    def cost(v, s):
        return (0.9 * (v != 0).sum() if isinstance(op, RankPenalty) else 0.9 * (v**op.p).sum()) + ((v - s) ** 2).sum() / 1.4

    grid = np.linspace(0, 4, 401)
    for seed in range(20):
        s = 2 * drawn(seed, 3).abs().sort(descending=True)[0]
        y = op(made(s, seed), 0.7)
        ours = torch.linalg.svdvals(y).numpy()
        ours[ours < 1e-12] = 0
        best = sum(min(cost(np.array([v]), s.numpy()[i]) for v in grid) for i in range(3))
        assert cost(ours, s.numpy()) <= best + 1e-9
        assert ((y - made(s, seed)) ** 2).sum().item() == pytest.approx(((ours - s.numpy()) ** 2).sum())


def test_the_hard_threshold_is_the_square_root_of_two_lambda_step():
    x = torch.diag(tensor(1.0, 1.4, 1.42, 3.0))
    assert RankPenalty(1.0)(x, 1.0).diagonal().tolist() == pytest.approx([0, 0, 1.42, 3])
    assert RankPenalty(1.0).value(x) == 4
    assert RankPenalty(2.0).value(made(tensor(3.0, 1.0), shape=(9, 7)).float()) == 4


def test_a_truncation_is_no_further_than_any_other_matrix_of_the_rank():
    x = drawn(3, 6, 5)
    for rank in range(1, 6):
        best = (RankAtMost(rank)(x) - x).norm()
        assert best == pytest.approx(torch.linalg.svdvals(x)[rank:].norm().item())
        for seed in range(20):
            left = drawn(seed, 6, rank)
            assert best <= (left @ torch.linalg.lstsq(left, x)[0] - x).norm() + 1e-12
    assert torch.equal(RankAtMost(5)(x), x)
    assert RankAtMost(2).value(x) == INF
    assert torch.linalg.matrix_rank(RankAtMost(2)(torch.eye(5))) == 2  # ties: as many, whatever they are
    assert torch.equal(RankAtMost(2)(torch.eye(5)), RankAtMost(2)(torch.eye(5)))


def test_the_polar_factor_is_scipys_and_exists_where_the_rank_is_deficient():
    for shape in [(6, 4), (4, 6), (5, 5)]:
        x = drawn(4, *shape)
        assert torch.allclose(Stiefel()(x), torch.from_numpy(polar(x.numpy())[0]), atol=1e-12)
    for x in (torch.zeros(4, 3), torch.ones(4, 3), made(tensor(2.0, 1.0), shape=(5, 4)), 1e300 * torch.ones(3, 3).double()):
        y = Stiefel()(x).double()
        assert torch.allclose(y.mH @ y, torch.eye(y.shape[1]).double(), atol=1e-6)
        assert torch.equal(y, Stiefel()(x).double())
    z = torch.complex(drawn(5, 4, 4), drawn(6, 4, 4))
    assert torch.allclose(Stiefel()(z) @ Stiefel()(z).mH, torch.eye(4).to(z), atol=1e-12)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), m=st.integers(1, 6), n=st.integers(1, 6), power=st.integers(-200, 200))
@pytest.mark.parametrize("op", [*SINGULAR, *EIGEN], ids=repr)
def test_turning_the_bases_turns_the_answer_and_a_power_of_two_scales_a_set(op, seed, m, n, power):
    n = m if op in EIGEN else n
    x, u, v = drawn(seed, m, n), orthogonal(seed, m), orthogonal(seed + 9, n)
    v = u if op in EIGEN else v
    y = op(x, 0.7)
    if isinstance(op, RankAtMost | Stiefel) and torch.linalg.cond(x) > 1e4:
        return
    assert torch.allclose(op(u @ x @ v.mH, 0.7), u @ y @ v.mH, atol=1e-9)
    if op.is_set and op.cone:
        assert torch.allclose(op(x * 2.0**power), op(x) * 2.0**power, rtol=1e-12, atol=1e-12 * 2.0**power)


@both()
@pytest.mark.parametrize("op", [*SINGULAR, *EIGEN, Birkhoff()], ids=repr)
def test_a_batch_takes_one_step_per_matrix(op, dtype):
    x, step = drawn(7, 3, 2, 4, 4, dtype=dtype), 10 ** drawn(8, 3, 2, 1, 1, dtype=dtype)
    y = op(x, step)
    one = torch.stack([op(a, s.item()) for a, s in zip(x.flatten(0, 1), step.flatten(), strict=True)]).reshape(x.shape)
    assert torch.allclose(y, one, atol=100 * torch.finfo(dtype).eps)
    with pytest.raises(ValueError, match="constant over dim -2, -1"):
        op(x, torch.ones(4))


@pytest.mark.parametrize("op", [*SINGULAR, *EIGEN, SymmetricMatrix(), Hankel(), Toeplitz(), Birkhoff()], ids=repr)
def test_an_empty_matrix_stays_empty_and_a_vector_is_refused(op):
    for shape in [(0, 0), (3, 0, 0), (0, 4, 4)]:
        assert op(torch.zeros(shape), 0.5).shape == shape
        assert op.value(torch.zeros(shape)) == 0
    with pytest.raises(ValueError, match="no dim -2"):
        op(torch.zeros(3))
    nan = torch.eye(3).double()
    nan[0, 1] = math.nan
    assert not op(torch.stack([nan, torch.eye(3).double()]), 0.5)[0].isfinite().all()
    if not isinstance(op, Birkhoff):
        assert op(torch.stack([nan, torch.eye(3).double()]), 0.5)[1].isfinite().all()
    assert not op.value(nan) < INF


@pytest.mark.parametrize("op", [*SINGULAR, *EIGEN], ids=repr)
def test_the_slope_is_right_where_singular_values_coincide_or_are_zero(op):
    turn = orthogonal(1, 3)
    for values in ([2.0, 2.0, 2.0], [2.0, 2.0, -0.9], [1.2, 1.2, 1.2 + 1e-9], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]):
        if isinstance(op, RankAtMost | Stiefel) and (0.0 in values or 2.0 in values[2:] or isinstance(op, RankAtMost)):
            continue  # no slope there
        if isinstance(op, KyFan | Spectral | NuclearBall | PSD) and 0.0 in values[:1]:
            continue  # a kink
        x = (turn * tensor(*values) @ turn.mH).requires_grad_()
        if isinstance(op, PSD) and 0.0 in values:
            (slope,) = torch.autograd.grad(op(x, 0.7).sum(), x)
            assert slope.isfinite().all()
            continue
        assert torch.autograd.gradcheck(lambda v: op(v, 0.7), x, atol=1e-5)
    x = drawn(2, 3, 3).requires_grad_()
    (slope,) = torch.autograd.grad(op(x, 0.7).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


# ── eigenvalues ───────────────────────────────────────────────────────────────────────────────────────────────────────


@both()
@pytest.mark.parametrize("complex_", [False, True])
def test_the_barrier_solves_its_equation_and_the_cone_its_conditions(dtype, complex_):
    x = drawn(9, 60, 60, dtype=dtype)
    x = torch.complex(x, drawn(10, 60, 60, dtype=dtype)) if complex_ else x
    hermitian, close = (x + x.mH) / 2, TIGHT[dtype] * 20
    for t in (1e-3, 1.0, 100.0):
        y = LogDet(0.7)(x, t)
        assert torch.allclose(y @ y - hermitian @ y, 0.7 * t * torch.eye(60).to(y), atol=close * max(1, t))
        assert torch.equal(y, y.mH)
    y = PSD()(x)
    assert torch.equal(y, y.mH)
    assert torch.linalg.eigvalsh(y).min() > -close
    assert torch.linalg.eigvalsh(hermitian - y).max() < close
    assert (y * (hermitian - y).conj()).sum().abs() < close * 60
    assert torch.allclose(LogDet(0.7)(x, 0.0), y, atol=close)


def test_a_tiny_barrier_keeps_positive_what_rounding_would_lose():
    for dtype in (torch.float32, torch.float64):
        y = LogDet(1.0)(torch.diag(torch.tensor([-1e4, 1e4, 0.0], dtype=dtype)), 1.0).diagonal()
        assert y.tolist() == pytest.approx([1e-4, 1e4, 1.0], rel=1e-6)
    assert LogDet(1.0).value(torch.eye(3)) == 0
    assert LogDet(2.0).value(torch.diag(tensor(1.0, math.e))).item() == pytest.approx(-2)
    assert LogDet(1.0).value(torch.diag(tensor(1.0, -1.0))) == INF
    assert LogDet(1.0).value(tensor([1.0, 0.5], [0.0, 1.0])) == INF
    with pytest.raises(ValueError, match="no minimiser"):
        LogDet(1.0)(torch.eye(2), INF)


# ── structure ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def averaged(x, s, group):
    """By a loop: where steps are 0 only these count, infinite ones only where all are."""
    y = torch.empty_like(x)
    for key in {group(i, j) for i in range(x.shape[0]) for j in range(x.shape[1])}:
        cells = [(i, j) for i in range(x.shape[0]) for j in range(x.shape[1]) if group(i, j) == key]
        steps = torch.stack([s[c] for c in cells])
        w = (steps == 0).double() if (steps == 0).any() else 1 / steps if steps.isfinite().any() else torch.ones(len(cells))
        mean = sum(w[k] * x[c] for k, c in enumerate(cells)) / w.sum()
        for c in cells:
            y[c] = mean
    return y


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (4, 4), (3, 7), (7, 3)], ids=str)
def test_diagonals_and_pairs_are_averaged_as_a_loop_would(shape):
    x, spread = drawn(11, *shape), 10 ** (4 * drawn(12, *shape))
    for step in (
        torch.ones(shape),
        spread,
        spread[:1],
        spread[:, :1],
        torch.where(drawn(13, *shape) > 0.5, INF, spread),
        torch.where(drawn(14, *shape) > 0.5, 0.0, spread),
        torch.zeros(shape),
        torch.full(shape, INF),
    ):
        s = step.double().expand(shape)
        assert torch.allclose(Hankel()(x, step), averaged(x, s, lambda i, j: i + j), atol=1e-12)
        assert torch.allclose(Toeplitz()(x, step), averaged(x, s, lambda i, j: i - j), atol=1e-12)
        if shape[0] == shape[1]:
            assert torch.allclose(SymmetricMatrix()(x, step), averaged(x, s, lambda i, j: (min(i, j), max(i, j))), atol=1e-12)


@both()
def test_structured_matrices_are_exact_and_cheap_at_size(dtype):
    x, s = 1e4 + drawn(15, 2, 300, 200, dtype=dtype), 10 ** (8 * torch.rand(2, 300, 200, dtype=dtype) - 4)
    for op in (Hankel(), Toeplitz()):
        for step in (1.0, s):
            y = op(x, step)
            z = y if isinstance(op, Hankel) else y.flip(-1)
            assert torch.equal(z[..., 1:, :-1], z[..., :-1, 1:])
            off = op((x - y) / s if step is s else x - y, 1.0)  # Σ (x - y) / step is 0 along each diagonal
            assert (off.abs() <= 1e3 * torch.finfo(dtype).eps * 1e4 * ((1 / s).max() if step is s else 1)).all()
    q, r = drawn(16, 200, 200, dtype=dtype), s[0, :200]
    assert torch.equal(SymmetricMatrix()(q, r), SymmetricMatrix()(q, r).mT)
    assert torch.equal(SymmetricMatrix()(q), SymmetricMatrix()(q).mT)


def test_a_pair_keeps_its_digits_beside_a_far_larger_entry():
    x, step = tensor([0.0, 1e8], [1.0, 0.0]), tensor([1.0, 1e12], [1e-12, 1.0])
    assert SymmetricMatrix()(x, step)[0, 1].item() == pytest.approx(1.0, rel=1e-12)


def test_a_complex_matrix_becomes_hermitian():
    z = torch.complex(drawn(17, 4, 4), drawn(18, 4, 4))
    y = SymmetricMatrix()(z, 10 ** drawn(19, 4, 4))
    assert torch.equal(y, y.mH)
    assert torch.equal(y.diagonal().imag, torch.zeros(4).double())


# ── spans ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ratio", [0, 4, 8])
def test_a_span_is_weighted_least_squares(ratio):
    basis, x = drawn(20, 3, 50), drawn(21, 6, 50)
    s = 10 ** (ratio * torch.rand(6, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - ratio / 2)
    y = LinearSubspace(1, basis)(x, s)
    for row in range(6):
        w = (1 / s[row]).sqrt()
        c = np.linalg.lstsq((basis * w).T.numpy(), (x[row] * w).numpy())[0]
        assert torch.allclose(y[row], torch.from_numpy(c) @ basis, atol=1e-9)
    assert torch.allclose(LinearSubspace(0, basis)(x.mT, s.mT), y.mT, atol=1e-12)
    assert torch.allclose(LinearSubspace(1, basis).T(x.mT, s.mT), y.mT, atol=1e-12)
    assert torch.allclose(LinearSubspace(-1, basis)(x[None], s[None])[0], y, atol=1e-12)


def test_a_span_keeps_what_a_step_of_zero_fixes():
    basis = tensor([1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0])
    x = tensor(5.0, 1.0, 1.0, 2.0)
    line = LinearSubspace(0, basis)
    assert line(x, tensor(0.0, 1.0, 0.0, 1.0)).tolist() == pytest.approx([5, 3, 1, -1])  # two points fix it
    assert line(x, tensor(0.0, INF, 1.0, INF)).tolist() == pytest.approx([5, 3, 1, -1])
    assert line(x, tensor(INF, 0.0, INF, INF))[1].item() == pytest.approx(1)
    assert line(x, INF).tolist() == pytest.approx(line(x).tolist())
    assert line(x.float()).dtype == torch.float32


def test_a_basis_may_be_dependent_tiny_or_one_vector_and_must_fit():
    x = drawn(22, 4, 3)
    wide = tensor([1.0, 0.0, 0.0], [1e-200, 0.0, 0.0], [0.0, 1e-250, 0.0])
    assert torch.allclose(LinearSubspace(1, wide)(x), x * tensor(1.0, 1.0, 0.0))
    assert torch.equal(LinearSubspace(1, torch.zeros(2, 3))(x), torch.zeros(4, 3).double())
    assert repr(LinearSubspace(1, [1.0, 0, 2])) == "LinearSubspace(dim=1, basis=$basis)"
    with pytest.raises(ValueError, match="vectors of 3 numbers; W of shape"):
        LinearSubspace(0, wide).check((4, 3), "W")
    with pytest.raises(ValueError, match="has 4 along dim 0"):
        LinearSubspace(0, wide)(x)
    with pytest.raises(ValueError, match=r"one vector per row.*shape \(1, 2, 2\)"):
        LinearSubspace(0, torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match="with NaN or inf"):
        LinearSubspace(0, [1.0, INF])


# ── transport ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@both()
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(30, 30), (3, 80), (80, 3)], ids=str)
def test_a_transport_plan_meets_its_sums_and_its_optimality_conditions(shape, size, dtype):
    rows, columns = (torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in shape)
    columns = columns * rows.sum() / columns.sum()
    x = size * drawn(23, 2, *shape, dtype=dtype)
    y = TransportPolytope(rows, columns)(x).double()
    close = 1e3 * torch.finfo(dtype).eps * max(1, size)
    assert (y >= 0).all()
    assert (y.sum(-1) - rows).abs().max() < close
    assert (y.sum(-2) - columns).abs().max() < close
    for plan, wish in zip(y, x.double(), strict=True):  # the residual costs least among all plans: a linear programme
        gain = wish - plan
        for seed in range(20):
            order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
            other = corner(rows[order], columns)[order.argsort()]
            assert (gain * (other - plan)).sum() <= close * 30 * rows.sum()


def corner(rows, columns):
    """A vertex of the polytope, by the north-west rule."""
    y, a, b = torch.zeros(len(rows), len(columns)).double(), rows.tolist(), columns.tolist()
    i = j = 0
    while i < len(a) and j < len(b):
        m = min(a[i], b[j])
        y[i, j] = m
        a[i], b[j] = a[i] - m, b[j] - m
        i, j = (i + 1, j) if a[i] <= b[j] else (i, j + 1)
    return y


@both()
def test_a_large_matrix_goes_to_its_best_assignment(dtype):
    for seed in range(5):
        x = 1e5 * drawn(seed, 20, 20, dtype=dtype)
        y = Birkhoff()(x)
        i, j = linear_sum_assignment(x.numpy(), maximize=True)
        assert torch.allclose(y[i, j], torch.ones(20, dtype=dtype), atol=1e-3)


def test_the_plans_of_two_by_two_are_a_segment():
    x = drawn(24, 50, 2, 2)
    a = ((x[:, 0, 0] + x[:, 1, 1] - x[:, 0, 1] - x[:, 1, 0] + 2) / 4).clamp(0, 1)
    assert torch.allclose(Birkhoff()(x), torch.stack([a, 1 - a, 1 - a, a], -1).reshape(-1, 2, 2), atol=1e-12)
    assert torch.equal(Birkhoff()(torch.ones(1, 1)), torch.ones(1, 1))
    assert torch.allclose(Birkhoff()(1e4 + x.float()).double(), Birkhoff()((1e4 + x.float()).double()), atol=1e-6)
    y = TransportPolytope([0.0, 0.0], [0.0, 0.0, 0.0])(drawn(25, 2, 3))
    assert torch.equal(y, torch.zeros(2, 3).double())


def test_the_slope_of_a_plan_is_that_of_its_support():
    x = (3 * drawn(26, 5, 5)).requires_grad_()
    assert torch.autograd.gradcheck(Birkhoff(), x, atol=1e-5)


# ── refusals, names ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Nuclear(-1.0), ValueError, "lam of Nuclear is -1"),
        (lambda: Nuclear(torch.ones(3)), ValueError, "lam of Nuclear is an array; one number"),
        (lambda: SpectralBall(INF), ValueError, "radius of SpectralBall is inf"),
        (lambda: NuclearBall("a"), TypeError, "radius of NuclearBall is 'a'"),
        (lambda: RankAtMost(0), ValueError, "rank of RankAtMost is 0; it must be at least 1"),
        (lambda: RankAtMost(1.5), TypeError, "rank of RankAtMost is 1.5; a whole number"),
        (lambda: KyFan(True), TypeError, "k of KyFan is True"),
        (lambda: Schatten(1.0, 0), ValueError, "p of Schatten is 0; it must be above 0"),
        (lambda: PSD().check((3, 4), "W"), ValueError, r"PSD\(\) acts on square matrices, W has shape \(3, 4\)"),
        (lambda: Birkhoff()(torch.ones(2, 3)), ValueError, r"square matrices, x has shape \(2, 3\)"),
        (lambda: LogDet().value(torch.ones(2, 3)), ValueError, "square"),
        (lambda: TransportPolytope([1.0], [2.0]), ValueError, "rows sum to 1 and the columns to 2; scale"),
        (lambda: TransportPolytope([-1.0, 2.0], [1.0]), ValueError, "not negative.* -1 … 2"),
        (lambda: TransportPolytope([[1.0]], [1.0]), ValueError, r"1-D.*shape \(1, 1\)"),
        (lambda: TransportPolytope([1.0, 1.0], [2.0])(torch.ones(2, 2)), ValueError, r"shape \(2, 1\), x has shape \(2, 2\)"),
        (lambda: PSD().take(slice(0, 1), 0), ValueError, "couples dim 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_the_text_form_knows_the_short_names():
    for short, full in {
        "tracenorm(0.1)": "Nuclear(0.1)",
        "schatten(0.1, p=0.5)": "Schatten(0.1)",
        "rank(2)": "RankAtMost(2)",
        "orthogonal": "Stiefel()",
        "symmetric": "SymmetricMatrix()",
        "opnorm": "Spectral(1)",
        "kyfan(3)": "KyFan(3)",
    }.items():
        assert repr(Prox.parse(short)) == full
    p = TransportPolytope([1.0, 2.0], [3.0])
    assert repr(Prox.parse(*p.spell())) == repr(p)
    assert torch.equal(p.T.rows, p.columns)


# ── in float32, and at the boundary ───────────────────────────────────────────────────────────────────────────────────────


@both()
def test_far_outside_a_spectral_ball_its_own_point_is_in_it_and_inside_nothing_changes(dtype):
    x = (1e4 * drawn(0, 5, 4, 20)).to(dtype)
    for radius in (1.5, 0.0):
        op = SpectralBall(radius)
        y = op(x)
        assert op.value(y) == 0
        assert torch.linalg.svdvals(y.double()).amax() <= radius * (1 + 1e-5)
        assert all(op.value(one) == 0 for one in y)
    mixed = torch.stack([1e-5 * x[0], x[1]])
    y = SpectralBall(1.5)(mixed)
    assert torch.equal(y[0], mixed[0])
    assert y.data_ptr() != mixed.data_ptr()
    assert torch.allclose(y[1], SpectralBall(1.5)(x[1]))
    assert SpectralBall(1.5)(torch.zeros(0, 3, dtype=dtype)).shape == (0, 3)


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_long_rows_of_a_transport_polytope_have_their_sums_in_float32_too(size):
    op = TransportPolytope(torch.full((4,), 1000.0), torch.full((200,), 20.0))
    x = (size * drawn(1, 4, 200)).float()
    y = op(x)
    assert y.dtype == torch.float32
    assert op.value(y) == 0
    assert torch.allclose(y.double(), op(x.double()), rtol=1e-6, atol=1e-5)
    assert torch.allclose(y.double().sum(0), torch.tensor(20.0).double(), rtol=1e-6)
    assert torch.allclose(y.double().sum(1), torch.tensor(1000.0).double(), rtol=1e-6)


def test_without_weight_the_barrier_is_the_cone():
    op, x = LogDet(0), torch.diag(tensor(2.0, 0.0, -1.0))
    assert op.attained
    assert not LogDet(0.1).attained
    for step in (0.0, 1.0, INF):
        assert torch.allclose(op(x, step), PSD()(x))
    assert op.value(PSD()(x)) == 0
    assert op.value(x) == INF
    assert LogDet(0.1).value(PSD()(x)) == INF
