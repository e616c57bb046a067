"""Bounded norms, spheres, cones and counted sparsity: the optimality conditions at length, and brute force where not convex."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import drawn, tensor

from proxfactor import NonNegative, Prox
from proxfactor.prox.balls import (
    ElasticNetBall,
    ExponentialCone,
    GroupL1Ball,
    GroupTopK,
    Hoyer,
    L1Ball,
    L1L2Ball,
    L1Sphere,
    L2Ball,
    LInfBall,
    NofM,
    NonNegativeSphere,
    OutsideBall,
    RotatedCone,
    SecondOrderCone,
    Sphere,
    TopK,
)

INF = math.inf
DTYPES = [(torch.float64, 1e-9), (torch.float32, 2e-3)]


def spread(seed, *shape, decades=8):
    return 10 ** (decades * (torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.5))


def norm(x, dim=-1):
    return x.abs().square().sum(dim).sqrt()


def near(a, b, close):
    return torch.allclose(a.double(), torch.as_tensor(b, dtype=torch.float64).expand(a.shape), rtol=close, atol=close)


def supports(n, most=None):
    return [list(c) for k in range(1, (most or n) + 1) for c in itertools.combinations(range(n), k)]


# ── balls: the optimality conditions ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize("kind", [L1Ball, L1Sphere])
@pytest.mark.parametrize("n", [1, 2, 1000])
def test_the_l1_ball_and_sphere_shrink_each_size_by_one_multiple_of_its_step(kind, n, dtype, close):
    x, s = drawn(1, 5, n, dtype=dtype), spread(2, 5, n, decades=4).to(dtype)
    x = 3 * x + x.sign()
    for step in (0.7, s, s[:, :1], s[:1]):
        y = kind(1, radius=0.5)(x, step)
        assert near(y.abs().sum(1), 0.5, close)
        assert bool((y * x >= 0).all())
        rate = (x.abs() - y.abs()).double() / step
        theta = torch.where(y != 0, rate, -INF).amax(1, keepdim=True)
        assert near(torch.where(y != 0, rate, theta) / theta, 1.0, 10 * close)
        assert bool((rate <= theta + close * theta.abs()).all())


@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize("decades", [0, 2, 8, 12])
@pytest.mark.parametrize("n", [1, 3, 1000])
def test_the_weighted_l2_ball_solves_its_secular_equation(n, decades, dtype, close):
    for seed, lean in itertools.product(range(6), (-0.5, 0, 0.5)):
        s = spread(seed, 20, n, decades=decades)
        x = drawn(seed, 20, n) * s**lean
        x = x / norm(x)[:, None] * (1 + spread(seed + 9, 20, 1))
        y = L2Ball(1)(x.to(dtype), s.to(dtype))
        assert near(norm(y.double()), 1.0, 4 * torch.finfo(dtype).eps)
        if dtype == torch.float64:
            i = (x.abs() / (x - y).abs().clamp(min=1e-300) < 1e4) & (y.abs() > 1e-200)
            mu = torch.where(i, (x / y - 1) / s, math.nan)
            assert near((mu / mu.nanmean(1, keepdim=True))[i], 1.0, 1e-6)


def test_the_l2_ball_honours_three_levels_of_step_and_enormous_entries():
    for dtype, size in ((torch.float32, 1e37), (torch.float64, 1e300)):
        some = torch.tensor([5.0, 3.0, -2.0, 1.0, 7.0], dtype=dtype)
        levels = torch.tensor([0.0, 1.0, INF, 2.0, 0.0], dtype=dtype)
        for step in (levels, levels.clamp(1e-4, 1e4), torch.ones(5, dtype=dtype)):
            for x, radius in ((some, 1e-3), (some, 8.0), (some, 8.7), (size * some, 1.0), (some / size, 1.0)):
                y = L2Ball(0, radius)(x, step)
                assert y.isfinite().all()
                assert norm(y.double()) <= radius * (1 + 1e-6)
        assert near(L2Ball(0, 8.7)(some, levels)[[0, 4]], some[[0, 4]].double(), 1e-6)  # a step of 0 does not move
        assert abs(L2Ball(0, 8.7)(some, levels)[2]) < 1e-6  # an infinite one yields first


@pytest.mark.parametrize(
    "op", [L1Ball(1, 2.0), L2Ball(1, 2.0), L1L2Ball(1, 2.0, 1.5), ElasticNetBall(1, 1.0, 2.0), GroupL1Ball(1, 9.0)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_a_slice_inside_comes_back_bit_by_bit(op, dtype):
    x = drawn(3, 4, 5).to(dtype)
    x = x / norm(x)[:, None] / 5
    step = 1.0 if op.metric == "group" else spread(4, 4, 5)
    assert torch.equal(op(x, step), x)
    assert op(x[:, :0]).shape == (4, 0)
    assert dtype.is_complex or op.value(x[:, :0]) == 0


@pytest.mark.parametrize("l1", [0.5, 1.0, 1.7, 3.0, 31.0, 40.0])
def test_the_l1_l2_ball_shrinks_then_scales(l1):
    x = 4 * drawn(5, 30, 1000) * spread(6, 30, 1, decades=4)
    y = L1L2Ball(1, l1, 1.0)(x)
    one, two, held = y.abs().sum(1), norm(y), y != 0
    assert bool(((one <= l1 * (1 + 1e-12)) & (two <= 1 + 1e-12)).all())
    most, least = y.abs().amax(1), torch.where(held, y.abs(), INF).amin(1)
    big, small = x.abs().amax(1), torch.where(held, x.abs(), INF).amin(1)
    scale = (big - small) / (most - least)  # 1 + μ
    lam = big - most * scale
    scale, lam = (torch.where(held.sum(1) > 1, v, w) for v, w in ((scale, 1.0), (lam, big - most)))
    assert near(y, x.sign() * (x.abs() - lam[:, None]).clamp(min=0) / scale[:, None], 1e-9)
    assert bool(((scale >= 1 - 1e-9) & (lam >= -1e-9)).all())
    assert bool(((lam < 1e-9) | (one >= l1 * (1 - 1e-9))).all())
    assert bool(((scale < 1 + 1e-9) | (two >= 1 - 1e-9)).all())


def test_the_l1_l2_ball_is_one_of_its_balls_where_the_other_says_nothing():
    x = 3 * drawn(7, 5, 9)
    assert torch.equal(L1L2Ball(1, 3.0, 1.0)(x), L2Ball(1)(x))
    assert torch.equal(L1L2Ball(1, 1.0, 1.0)(x), L1Ball(1)(x))
    z = torch.complex(x, drawn(8, 5, 9))
    y = L1L2Ball(1, 1.5)(z)
    assert near(y.abs(), L1L2Ball(1, 1.5)(z.abs()), 1e-12)
    assert near((y * z.conj()).imag, 0.0, 1e-12)


@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize("gamma", [0.0, 1e-3, 1.0, 1e6])
def test_the_elastic_net_ball_shrinks_by_one_threshold(gamma, dtype, close):
    x = (4 * drawn(9, 20, 1000) * spread(10, 20, 1, decades=4)).to(dtype)
    y = ElasticNetBall(1, gamma, 0.01)(x)
    used = (y.abs() + gamma / 2 * y.square()).sum(1)
    active = (x.abs() + gamma / 2 * x.square()).sum(1) > 0.01
    assert near(used[active], 0.01, 0.01 * close)
    i = y.abs().argmax(1, keepdim=True)
    lam = ((x.abs() - y.abs()) / (1 + gamma * y.abs())).gather(1, i)
    again = x.sign() * (x.abs() - lam).clamp(min=0) / (1 + gamma * lam)
    assert near(y, again, close * 1e-2 + 10 * torch.finfo(dtype).eps * x.abs().max().item())


def test_the_elastic_net_ball_without_a_square_is_the_l1_ball_and_takes_enormous_entries():
    x = 3 * drawn(11, 6, 8)
    assert near(ElasticNetBall(1, 0.0, 2.0)(x), L1Ball(1, 2.0)(x), 1e-12)
    for gamma in (0.0, 1e-200, 1.0, 1e6):
        y = ElasticNetBall(1, gamma, 2.0)(1e300 * x.sign())
        assert near((y.abs() + gamma / 2 * y.square()).sum(1), 2.0, 1e-9)


@pytest.mark.parametrize("dims", [{"dim": 0}, {"dim": -1}, {"dim": 1, "over": 0}, {"dim": -2, "over": 1}])
def test_the_group_ball_is_the_l1_ball_of_the_norms(dims):
    op = GroupL1Ball(radius=1.5, **dims)
    x = drawn(12, 4, 6)
    y = op(x)
    assert near(norm(y, op.dim).sum(), 1.5, 1e-12)
    assert near(norm(y, op.dim), L1Ball(0, 1.5)(norm(x, op.dim)), 1e-12)
    assert (
        near(y / norm(y, op.dim).unsqueeze(op.dim).clamp(min=1e-9), x / norm(x, op.dim).unsqueeze(op.dim), 1e-12) or (y == 0).any()
    )
    assert near(
        op(x[:1] if op.dim % 2 == 0 else x[:, :1]), L1Ball(1 - op.dim % 2, 1.5)(x[:1] if op.dim % 2 == 0 else x[:, :1]), 1e-12
    )


def test_groups_take_a_batch_and_any_pair_of_dims():
    x = drawn(13, 3, 4, 5)
    for op in (GroupL1Ball, GroupTopK):
        one, many = (op(-1, 2, over=o)(x) for o in (-2, None))
        assert torch.equal(one, many)
        assert torch.equal(one, torch.stack([op(1, 2)(m) for m in x]))
        assert torch.equal(op(0, 2, over=2)(x), op(0, 2, over=1)(x.mT).mT)
        step = spread(14, 4, 5)
        assert torch.equal(op(1, 2, over=-1)(x), op(-2, 2, over=2)(x))
        if op is GroupTopK:
            assert torch.equal(op(-1, 2)(x, step), torch.stack([op(1, 2)(m, step) for m in x]))


# ── spheres: brute force ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_l1_sphere_is_the_best_face_in_any_metric():
    x, s, r = 0.4 * drawn(15, 12, 4), spread(16, 12, 4, decades=3), 1.0
    x[0] = 0
    y = L1Sphere(1, r)(x, s)
    best = ((y - x) ** 2 / s).sum(1)
    assert near(y.abs().sum(1), r, 1e-12)
    for face in supports(4):  # on a face with given signs: x - θ s sign, θ from the sum
        for signs in itertools.product([-1.0, 1.0], repeat=len(face)):
            sign, z = tensor(*signs), torch.zeros_like(x)
            theta = ((x[:, face] * sign).sum(1, keepdim=True) - r) / s[:, face].sum(1, keepdim=True)
            z[:, face] = x[:, face] - theta * s[:, face] * sign
            ok = (z[:, face] * sign >= 0).all(1)
            assert bool((((z - x) ** 2 / s).sum(1) >= best - 1e-9 * (1 + best))[ok].all())


def test_the_l1_sphere_counts_a_zero_as_positive():
    assert torch.equal(L1Sphere(0, 3.0)(torch.zeros(3)), torch.ones(3))
    assert torch.equal(L1Sphere(0, 3.0)(torch.zeros(3, dtype=torch.complex64)), torch.ones(3, dtype=torch.complex64))


def test_spheres_have_a_point_for_zero_and_for_every_size():
    for dtype in (torch.float32, torch.float64, torch.complex64):
        for op in (Sphere(1, 2.0), OutsideBall(1, 2.0)):
            assert near(op(torch.zeros(3, 4, dtype=dtype)).abs(), 1.0, 1e-6)
            for size in (1e-38, 1e-20, 1e20, 1e38):
                y = op(size * torch.ones(3, 4, dtype=dtype))
                assert y.isfinite().all()
                assert near(Sphere(1, 2.0)(y).abs(), 1.0, 1e-6)
    x = drawn(17, 50, 1000)
    assert near(norm(Sphere(1, 0.3)(x)), 0.3, 1e-13)
    assert near(Sphere(1, 0.3)(x) * norm(x)[:, None], 0.3 * x, 1e-12)
    assert torch.equal(OutsideBall(1, 20.0)(x), x)


@pytest.mark.parametrize(
    "op",
    [L1Ball(1), L1Sphere(1, 9.0), L2Ball(1), TopK(1, 2), GroupTopK(1, 2), ElasticNetBall(1, 2.0), L1L2Ball(1, 1.3), Hoyer(1, 0.5)],
)
def test_gradients_are_right_also_with_steps_that_differ(op):
    x = (2 * drawn(44, 3, 5)).requires_grad_()
    step = spread(45, 3, 5, decades=3) if op.metric == "weighted" else 1.0
    assert torch.autograd.gradcheck(lambda v: op(v, step), x)
    for dtype in (torch.float32, torch.float64):  # inside, and at zero
        z = torch.zeros(3, 5, dtype=dtype, requires_grad=True)
        (slope,) = torch.autograd.grad(op(z, step).sum(), z)
        assert slope.isfinite().all()


def test_a_sphere_has_finite_gradients_at_zero():
    for op in (
        Sphere(0),
        OutsideBall(0),
        L2Ball(0),
        GroupL1Ball(0),
        SecondOrderCone(0),
        RotatedCone(0),
        NonNegativeSphere(0),
        Hoyer(0, 0.5),
    ):
        x = torch.zeros(3, 2, requires_grad=True)
        (slope,) = torch.autograd.grad(op(x).sum(), x)
        assert slope.isfinite().all()


def test_the_nonnegative_sphere_is_the_best_over_all_supports():
    x = torch.cat([drawn(18, 40, 5), -drawn(19, 40, 5).abs(), -torch.ones(1, 5), torch.zeros(1, 5)]).double()
    y = NonNegativeSphere(1, 2.0)(x)
    assert near(norm(y), 2.0, 1e-12)
    assert bool((y >= 0).all())
    best = ((y - x) ** 2).sum(1)
    for face in supports(5):
        z = torch.zeros_like(x)
        z[:, face] = 2 * x[:, face] / norm(x[:, face])[:, None]
        ok = (z >= 0).all(1)
        assert bool((((z - x) ** 2).sum(1) >= best - 1e-9)[ok].all())
    one = torch.eye(5, dtype=torch.float64) * 2
    assert bool((((one[None] - x[:, None]) ** 2).sum(2) >= best[:, None] - 1e-9).all())
    assert torch.equal(y[-2], one[0])  # of equal entries the first


@pytest.mark.parametrize("radius", [None, 2.0])
@pytest.mark.parametrize("sparseness", [0.0, 0.2, 0.5, 0.55, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_hoyer_is_the_best_over_all_supports(n, sparseness, radius):
    c = math.sqrt(n) - sparseness * (math.sqrt(n) - 1)
    x = torch.cat(
        [drawn(20, 40, n), drawn(21, 40, n).round(), 1 + drawn(22, 20, n), -drawn(23, 20, n).abs(), torch.ones(2, n).double()]
    )
    y = Hoyer(1, sparseness, radius)(x)
    assert bool((y >= 0).all())
    assert near(y.sum(1), c * norm(y), 1e-12)
    assert radius is None or near(norm(y), radius, 1e-12)
    best = ((y - x) ** 2).sum(1)
    for face in supports(n):  # on a support of k entries u has the mean c/k, and away from it the direction of x or its opposite
        k, v = len(face), x[:, face]
        if k * (1 + 1e-12) < c**2:
            continue
        away = v - v.mean(1, keepdim=True)
        for sign in (1.0, -1.0):
            part = c / k + sign * math.sqrt(max(0.0, 1 - c**2 / k)) * away / norm(away)[:, None]
            ok = part.isfinite().all(1) & (part >= 0).all(1)
            length = (part * v).sum(1).clamp(min=0) if radius is None else torch.full_like(best, radius)
            z = torch.zeros_like(x)
            z[:, face] = part * length[:, None]
            assert bool((((z - x) ** 2).sum(1) >= best - 1e-9 * (1 + best))[ok].all())


@pytest.mark.parametrize("sparseness", [0.0, 0.3, 0.9, 1.0])
def test_hoyer_is_exact_at_length_a_thousand_and_where_all_entries_are_equal(sparseness):
    n = 1000
    c = math.sqrt(n) - sparseness * (math.sqrt(n) - 1)
    for dtype, close in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        for x in (drawn(24, 3, n), 1e4 + drawn(24, 3, n), drawn(25, 3, n).exp() ** 3, torch.ones(3, n), drawn(26, 3, n).round()):
            y = Hoyer(1, sparseness, 1.0)(x.to(dtype)).double()
            assert near(norm(y), 1.0, close)
            assert near(y.sum(1) / c, 1.0, close)
            assert bool((y >= 0).all())
    x = drawn(24, 3, n)  # u = (x - τ)₊ a: one slope and one τ explain every entry
    u = Hoyer(1, sparseness, 1.0)(x)
    if 0 < sparseness < 1:
        top, low = u.amax(1), torch.where(u > 0, u, INF).amin(1)
        a = (top - low) / (x.amax(1) - torch.where(u > 0, x, INF).amin(1))
        tau = x.amax(1) - top / a
        assert near(u, a[:, None] * (x - tau[:, None]).clamp(min=0), 1e-9)


# ── counted sparsity: brute force ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_top_k_is_the_best_support_in_any_metric(k):
    x, s = drawn(27, 60, 5) * spread(28, 60, 5, decades=3), spread(29, 60, 5)
    for z in (x, x.round(), torch.complex(x, drawn(30, 60, 5))):
        for step in (0.3, s, s[:1], s[:, :1]):
            lost = lambda y: ((y - z).abs() ** 2 / step).sum(1)  # noqa: B023, E731
            y = TopK(1, k)(z, step)
            assert bool(((y != 0).sum(1) <= k).all())
            assert bool(((y == 0) | (y == z)).all())
            for face in supports(5, min(k, 5)):
                other = torch.zeros_like(z)
                other[:, face] = z[:, face]
                assert bool((lost(y) <= lost(other) * (1 + 1e-12)).all())


def test_top_k_keeps_the_first_of_equal_entries_also_in_long_slices():
    for op in (TopK(0, 2), NofM(0, 2, 10_000)):
        y = op(torch.ones(10_000))
        assert torch.equal(y.nonzero().flatten(), torch.arange(2))
    assert torch.equal(NofM(0)(torch.ones(8)), torch.tensor([1.0, 1, 0, 0, 1, 1, 0, 0]))
    assert torch.equal(GroupTopK(1, 1)(torch.ones(3, 2)), torch.tensor([[1.0, 1], [0, 0], [0, 0]]))


def test_top_k_with_zero_and_infinite_steps_keeps_what_is_dear():
    x = torch.tensor([0.1, 5.0, 3.0, 4.0])
    step = torch.tensor([0.0, INF, 1.0, 1.0])
    assert torch.equal(TopK(0, 1)(x, step), torch.tensor([0.1, 0.0, 0.0, 0.0]))
    assert torch.equal(TopK(0, 2)(x, step), torch.tensor([0.1, 0.0, 0.0, 4.0]))
    assert torch.equal(TopK(0, 3)(x, step), torch.tensor([0.1, 0.0, 3.0, 4.0]))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_group_top_k_is_the_best_choice_of_slices_in_any_metric(k, dim):
    for seed in range(40):
        x = drawn(seed, 3, 4)
        for step in (0.3, spread(seed, 3, 4, decades=3), spread(seed, 3, 1), spread(seed, 4)):
            y = GroupTopK(dim, k)(x, step)
            assert (y.abs().sum(dim) > 0).sum() <= k
            for face in supports(x.shape[1 - dim], k):
                z = torch.zeros_like(x)
                index = (slice(None), face) if dim == 0 else (face,)
                z[index] = x[index]
                assert ((y - x) ** 2 / step).sum() <= ((z - x) ** 2 / step).sum() * (1 + 1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 2), (2, 4), (3, 4), (4, 4), (2, 8)])
def test_n_of_m_is_top_k_in_each_block(n, m):
    x, s = drawn(31, 5, 24), spread(32, 5, 24)
    y = NofM(1, n, m)(x, s)
    assert torch.equal(y, torch.cat([TopK(1, n)(b, t) for b, t in zip(x.split(m, 1), s.split(m, 1), strict=True)], 1))
    assert torch.equal(NofM(0, n, m)(x.mT, s.mT), y.mT)
    assert n < m or torch.equal(y, x)


# ── cones ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("op", [SecondOrderCone(1), RotatedCone(1)])
@pytest.mark.parametrize("n", [2, 3, 1000])
def test_a_self_dual_cone_splits_each_point_in_two_orthogonal_parts(op, n):
    x = drawn(33, 200, n) * spread(34, 200, 1)
    x[:, 0] *= math.sqrt(n) * spread(35, 200, decades=1)
    up, down = op(x), op(-x)
    size = norm(x)[:, None]
    assert near((up - down) / size, x / size, 1e-12)
    assert near((up * down).sum(1) / size[:, 0] ** 2, 0.0, 1e-12)
    for y in (up, down):
        assert op.value(y / size) == 0
        if isinstance(op, RotatedCone):
            y = y / size
            assert bool((y[:, :2] >= -1e-15).all())
            assert bool((2 * y[:, 0] * y[:, 1] - (y[:, 2:] ** 2).sum(1) >= -1e-12).all())
        else:
            assert bool((y[:, 0] - norm(y[:, 1:]) >= -1e-12 * size[:, 0]).all())


@pytest.mark.parametrize("slope", [1e-8, 0.3, 1.0, 7.0, 1e8])
def test_the_polar_of_a_cone_is_that_of_the_inverse_slope(slope):
    x = drawn(33, 200, 5) * spread(34, 200, 1)
    x[:, 0] *= spread(35, 200, decades=8)
    up, down = SecondOrderCone(1, slope)(x), SecondOrderCone(1, 1 / slope)(-x)
    size = norm(x)[:, None]
    assert near((up - down) / size, x / size, 1e-12)
    assert near((up * down).sum(1) / size[:, 0] ** 2, 0.0, 1e-12)
    assert bool((slope * up[:, 0] - norm(up[:, 1:]) >= -1e-12 * slope * size[:, 0]).all())
    with pytest.raises(ValueError, match="slope of SecondOrderCone"):
        SecondOrderCone(1, slope=-slope)


def test_what_lies_in_a_cone_stays_and_what_lies_in_its_polar_goes_to_the_apex():
    for op, inside in ((SecondOrderCone(0), [5.0, 3, 4]), (RotatedCone(0), [2.0, 1, 2]), (ExponentialCone(0), [1.0, 1, 3])):
        x = torch.tensor(inside)
        assert torch.equal(op(x), x)
    for op, polar in ((SecondOrderCone(0), [-5.0, 3, 4]), (RotatedCone(0), [-2.0, -1, 2]), (ExponentialCone(0), [1.0, 1, -3])):
        assert torch.equal(op(torch.tensor(polar)), torch.zeros(3))
        assert torch.equal(op(torch.zeros(3)), torch.zeros(3))


@pytest.mark.parametrize("decades", [0, 2, 6, 12])
def test_the_exponential_cone_splits_each_point_between_itself_and_its_polar(decades):
    x = drawn(36, 4000, 3) * spread(37, 4000, 3, decades=decades)
    x[:27] = tensor(*itertools.product([-1.0, 0.0, 1.0], repeat=3))
    size = x.abs().amax(1, keepdim=True).clamp(min=1e-300)
    x = x / size
    y = ExponentialCone(1)(x)
    z = x - y
    assert y.isfinite().all()
    assert near((y * z).sum(1), 0.0, 1e-9)
    r, s, t = y.unbind(1)
    edge = (s <= 1e-9) & (r <= 1e-9) & (t >= -1e-12)
    assert bool((edge | (s > 0) & (s * torch.exp(r / s) <= t * (1 + 1e-9) + 1e-9)).all())
    u, v, w = z.unbind(1)  # the polar: u exp(v/u - 1) <= -w with u > 0, or u = 0 with v, w <= 0
    edge = (u.abs() <= 1e-8) & (v <= 1e-7) & (w <= 1e-9)
    assert bool((edge | (u > 0) & (u * torch.exp(v / u - 1) <= -w * (1 + 1e-5) + 1e-9)).all())


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
def test_cones_scale(size):
    x = drawn(38, 50, 3)
    for op in (SecondOrderCone(1), RotatedCone(1), ExponentialCone(1), Hoyer(1, 0.4), TopK(1, 2)):
        assert near(op(size * x) / size, op(x), 1e-9)


# ── entries, phases, text ─────────────────────────────────────────────────────────────────────────────────────────────


def test_complex_entries_keep_their_phase():
    x = torch.complex(drawn(39, 4, 8), drawn(40, 4, 8))
    ops = [
        L1Ball(1),
        L1Sphere(1),
        L2Ball(1),
        LInfBall(0.4),
        ElasticNetBall(1),
        GroupL1Ball(1),
        Sphere(1),
        OutsideBall(1, 9.0),
        TopK(1, 3),
        NofM(1),
    ]
    for op in ops:
        y = op(x, 0.5)
        assert near((y * x.conj()).imag, 0.0, 1e-12)
        assert bool(((y * x.conj()).real >= 0).all())
        assert near(y.abs(), op(x.abs(), 0.5), 1e-12)
    s = spread(41, 4, 8)
    for op in (L1Ball(1), L1Sphere(1), L2Ball(1), TopK(1, 3), NofM(1)):
        assert near(op(x, s).abs(), op(x.abs(), s), 1e-12)


def test_clip_then_ball_is_the_ball_of_what_is_not_negative():
    for op in (L2Ball(1), L1Ball(1), TopK(1, 2)):  # what a rule of + may use
        x, s = drawn(42, 4, 6), spread(43, 4, 6, decades=2)
        y = op(x.clamp(min=0), s)
        best = ((y - x) ** 2 / s).sum()
        assert bool((y >= 0).all())
        for seed in range(200):
            z = op((y + 0.3 * drawn(seed, 4, 6)).clamp(min=0), 1.0)
            assert ((z - x) ** 2 / s).sum() >= best - 1e-9


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), radius=st.floats(1e-6, 1e6), decades=st.floats(0, 10), size=st.floats(-8, 8))
def test_balls_hold_what_they_return(seed, radius, decades, size):
    x, s = 10**size * drawn(seed, 3, 7), spread(seed + 1, 3, 7, decades=decades)
    for op, measure in ((L1Ball(1, radius), lambda y: y.abs().sum(1)), (L2Ball(1, radius), norm)):
        y = op(x, s)
        assert bool((measure(y) <= radius * (1 + 1e-9)).all())
        assert bool(((measure(y) >= radius * (1 - 1e-9)) | (y == x).all(1)).all())
        z = op(y + radius * drawn(seed + 2, 3, 7), 1.0)
        best, other = ((y - x) ** 2 / s).sum(1), ((z - x) ** 2 / s).sum(1)
        assert bool((other >= best * (1 - 1e-9)).all())


@pytest.mark.parametrize(
    "text", ["l2ball(dim=0)", "L1BALL(1, 2)", "unitnorm(0)", "l0ball(dim=1, k=3)", "NofM(dim=0)", "soc(1)", "expcone(0)"]
)
def test_balls_are_read_from_text(text):
    assert repr(Prox.parse(repr(Prox.parse(text)))) == repr(Prox.parse(text))
    assert repr(GroupTopK(1, 2, over=0)) == "GroupTopK(dim=1, k=2, over=0)"
    assert repr(Hoyer(0, 0.5)) == "Hoyer(dim=0, sparseness=0.5)"


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [L1Ball, L1Sphere, L2Ball, Sphere, OutsideBall, NonNegativeSphere, GroupL1Ball])
@pytest.mark.parametrize("radius", [0, -1.0, INF, math.nan, [1.0, 2.0]])
def test_a_radius_is_one_positive_number(kind, radius):
    with pytest.raises(ValueError, match=f"radius of {kind.__name__} is .*positive and finite"):
        kind(0, radius)


def test_other_fields_are_checked():
    for make, words in (
        (lambda: LInfBall(-1), "radius of LInfBall"),
        (lambda: L1L2Ball(0, -1.0), "l1 of L1L2Ball"),
        (lambda: L1L2Ball(0, 1.0, INF), "l2 of L1L2Ball"),
        (lambda: ElasticNetBall(0, -1.0), "at least 0"),
        (lambda: TopK(0, 0), "k of TopK is 0; it must be at least 1"),
        (lambda: GroupTopK(0, -2), "at least 1"),
        (lambda: NofM(0, 3, 2), "n must be at most m"),
        (lambda: Hoyer(0, 1.1), r"from 0 \(all equal\) to 1"),
        (lambda: Hoyer(0, 0.5, -1.0), "radius of Hoyer"),
        (lambda: GroupL1Ball(1, over=1), "the same"),
        (lambda: GroupTopK(1, 2, over=-1).check((3, 4)), "the same"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    for make in (
        lambda: TopK(0, 1.5),
        lambda: TopK(0, True),
        lambda: NofM(0, "2"),
        lambda: GroupL1Ball(0, over=0.5),
        lambda: Sphere("0"),
    ):
        with pytest.raises(TypeError, match="whole number"):
            make()


def test_lengths_that_do_not_fit_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"m=4 does not divide the length 6 of dim; choose an m that divides it, or pad"):
        NofM(1)(torch.ones(3, 6))
    with pytest.raises(ValueError, match=r"on W of shape \(3, 6\): m=4 does not divide"):
        NofM(1).check((3, 6), "W")
    with pytest.raises(ValueError, match="slices of 2 entries or more are needed, they have 1"):
        RotatedCone(1)(torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"slices \(r, s, t\) of 3 are needed"):
        ExponentialCone(0).check((4, 3), "H")
    with pytest.raises(ValueError, match="2 entries or more"):
        RotatedCone(0).check((1, 3), "H")
    for op in (L1Sphere(0), Sphere(0), OutsideBall(0), NonNegativeSphere(0), Hoyer(0, 0.5), SecondOrderCone(0)):
        with pytest.raises(ValueError, match="the set is empty along a dim of length 0"):
            op(torch.ones(0, 3))
    with pytest.raises(ValueError, match="the same"):
        GroupL1Ball(0, over=-3)(torch.ones(2, 2, 2))
    with pytest.raises(ValueError, match="couples dim 0"):
        GroupTopK(1, 2).take(slice(0, 1), 0)
    with pytest.raises(ValueError, match="exact only for steps constant over dim 0"):
        Sphere(0)(torch.ones(2, 3), torch.rand(2, 3))
    assert isinstance(NonNegative(), Prox)
