"""The operators that look at each number by itself: grids against every closed form, extremes, texts, refusals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxfactor.prox import L1, Box, Entropy, L2Squared, NonNegative, Prox
from proxfactor.prox.entries import Binary, Codebook, Fixed, Integers, Linear, NonPositive
from proxfactor.prox.penalties import (
    ETP,
    L0,
    MCP,
    SCAD,
    BerHu,
    CappedL1,
    Cauchy,
    EpsInsensitive,
    Exponential,
    Fair,
    FermiDirac,
    Geman,
    Hinge,
    Huber,
    Inverse,
    LHalf,
    LogBarrier,
    Logistic,
    LogSum,
    LTwoThirds,
    Pinball,
    Poisson,
    Power,
    PseudoHuber,
    SquaredHinge,
    TruncatedSquare,
)

INF = math.inf


def tensor(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def where(ok, value):
    return torch.where(ok, value, INF)


def mcp(y, lam, gamma):
    a = y.abs()
    return torch.where(a <= gamma * lam, lam * a - a * a / (2 * gamma), gamma * lam**2 / 2)


def scad(y, lam, a):
    u = y.abs()
    middle = (2 * a * lam * u - u * u - lam**2) / (2 * (a - 1))
    return torch.where(u <= lam, lam * u, torch.where(u <= a * lam, middle, lam**2 * (a + 1) / 2))


# each term once more, as a function of a float64 tensor, entry by entry
TERMS = [
    (NonPositive(), lambda y: where(y <= 0, 0 * y)),
    (Box(-1, 0.3), lambda y: where((y >= -1) & (y <= 0.3), 0 * y)),
    (Binary(), lambda y: where((y == 0) | (y == 1), 0 * y)),
    (Binary(-3, 0.5), lambda y: where((y == -3) | (y == 0.5), 0 * y)),
    (Integers(), lambda y: where(y == y.round(), 0 * y)),
    (Integers(-1.5, 2.9), lambda y: where((y == y.round()) & (y >= -1.5) & (y <= 2.9), 0 * y)),
    (Codebook((3, -1, 0, 0.5)), lambda y: where((y == 3) | (y == -1) | (y == 0) | (y == 0.5), 0 * y)),
    (L1(0.4), lambda y: 0.4 * y.abs()),
    (L2Squared(0.7), lambda y: 0.35 * y**2),
    (L2Squared(0.7, center=-1.5), lambda y: 0.35 * (y + 1.5) ** 2),
    (Entropy(0.5), lambda y: where(y >= 0, 0.5 * torch.special.xlogy(y.clamp(min=0), y.clamp(min=0)))),
    (Huber(0.8, 0.5), lambda y: 0.8 * torch.where(y.abs() < 0.5, y**2 / 2, 0.5 * y.abs() - 0.125)),
    (PseudoHuber(0.8, 0.5), lambda y: 0.8 * 0.25 * ((1 + (y / 0.5) ** 2).sqrt() - 1)),
    (BerHu(0.8, 0.5), lambda y: 0.8 * torch.where(y.abs() < 0.5, y.abs(), y**2 + 0.25)),
    (Power(0.6, 4 / 3), lambda y: 0.6 * y.abs() ** (4 / 3)),
    (Power(0.6, 1.5), lambda y: 0.6 * y.abs() ** 1.5),
    (Power(0.6, 2), lambda y: 0.6 * y**2),
    (Power(0.6, 3), lambda y: 0.6 * y.abs() ** 3),
    (Power(0.6, 4), lambda y: 0.6 * y**4),
    (Power(0.6, 1), lambda y: 0.6 * y.abs()),
    (Power(0.6, 0.9), lambda y: 0.6 * y.abs() ** 0.9),
    (Power(0.6, 0.1), lambda y: 0.6 * y.abs() ** 0.1),
    (Fair(0.6, 2.0), lambda y: 0.6 * (2 * y.abs() - torch.log1p(2 * y.abs()))),
    (EpsInsensitive(0.9, 0.3), lambda y: 0.9 * (y.abs() - 0.3).clamp(min=0)),
    (EpsInsensitive(0.9, 0.3, center=1), lambda y: 0.9 * ((y - 1).abs() - 0.3).clamp(min=0)),
    (Pinball(0.9, 0.2), lambda y: 0.9 * torch.where(y > 0, 0.2 * y, -0.8 * y)),
    (Pinball(0.9, 1), lambda y: 0.9 * y.clamp(min=0)),
    (Hinge(0.9), lambda y: 0.9 * (1 - y).clamp(min=0)),
    (SquaredHinge(0.9), lambda y: 0.45 * (1 - y).clamp(min=0) ** 2),
    (Logistic(1.3), lambda y: 1.3 * torch.logaddexp(-y, 0 * y)),
    (Exponential(0.6), lambda y: 0.6 * torch.exp(y)),
    (Linear(0.5), lambda y: 0.5 * y),
    (LogBarrier(0.7), lambda y: where(y > 0, -0.7 * y.clamp(min=1e-300).log())),
    (Poisson(2.0, 0.7), lambda y: where(y > 0, 0.7 * (y - 2 * y.clamp(min=1e-300).log()))),
    (Poisson(0.0), lambda y: where(y >= 0, y)),
    (Inverse(0.7, 2.5), lambda y: where(y > 0, 0.7 / y.clamp(min=1e-100) ** 2.5)),
    (Inverse(0.7), lambda y: where(y > 0, 0.7 / y.clamp(min=1e-300))),
    (
        FermiDirac(0.6),
        lambda y: where(
            (y >= 0) & (y <= 1),
            0.6 * (torch.special.xlogy(y.clamp(0, 1), y.clamp(0, 1)) + torch.special.xlog1py(1 - y.clamp(0, 1), -y.clamp(0, 1))),
        ),
    ),
    (L0(0.5), lambda y: 0.5 * (y != 0)),
    (LHalf(0.5), lambda y: 0.5 * y.abs().sqrt()),
    (LTwoThirds(0.5), lambda y: 0.5 * y.abs() ** (2 / 3)),
    (CappedL1(0.5, 1.2), lambda y: 0.5 * y.abs().clamp(max=1.2)),
    (TruncatedSquare(1.4, 0.8), lambda y: 0.7 * (y**2).clamp(max=0.64)),
    (TruncatedSquare(0.1, 3.0), lambda y: 0.05 * (y**2).clamp(max=9)),
    (Geman(0.5, 0.3), lambda y: 0.5 * y.abs() / (y.abs() + 0.3)),
    (Geman(20.0, 3.0), lambda y: 20 * y.abs() / (y.abs() + 3)),
    (LogSum(0.5, 0.3), lambda y: 0.5 * torch.log1p(y.abs() / 0.3)),
    (LogSum(2.0, 3.0), lambda y: 2.0 * torch.log1p(y.abs() / 3)),
    (ETP(0.5, 2.0), lambda y: 0.5 * torch.expm1(-2 * y.abs()) / math.expm1(-2)),
    (ETP(3.0, 0.2), lambda y: 3 * torch.expm1(-0.2 * y.abs()) / math.expm1(-0.2)),
    (Cauchy(0.5, 0.3), lambda y: 0.5 * torch.log1p((y / 0.3) ** 2)),
    (Cauchy(3.0, 1.0), lambda y: 3 * torch.log1p(y**2)),
    (MCP(0.5, 3.0), lambda y: mcp(y, 0.5, 3)),
    (MCP(1.5, 0.4), lambda y: mcp(y, 1.5, 0.4)),
    (SCAD(0.5), lambda y: scad(y, 0.5, 3.7)),
    (SCAD(1.5, 1.2), lambda y: scad(y, 1.5, 1.2)),
]
PENALTIES = [(p, g) for p, g in TERMS if not p.is_set]
FREE = [p for p, _ in PENALTIES if p.attained]
STEPS = [1e-4, 1e-2, 0.1, 0.3, 0.7, 1.0, 1.9, 2.7, 3.0, 4.7, 6.0, 20.0, 1e3, 1e5, 1e8]


def points(size):
    """Numbers of both signs, of every size between 1e-9 and 1e9, and evenly spread ones."""
    far = torch.logspace(-9, 9, size, dtype=torch.float64)
    even = torch.linspace(-8, 8, size, dtype=torch.float64)
    return torch.cat([far, -far, even, tensor(0.0, 0.5, -0.5, 1.0, -3.0)])


def excess(g, y, x, step, rivals):
    """How much more y costs than the best of its rivals, relative to the cost; x a column, rivals along the rows."""

    def cost(z):
        return g(z) + (z - x) * (z - x) / (2 * step)

    mine, best = cost(y), cost(rivals).amin(-1, keepdim=True)
    rounding = (1e-15 * x) ** 2 / step  # of y, as large as x and a short step
    return ((mine - best - rounding) / (1e-9 * x.abs() + mine.abs() + 1e-3)).max().item()


def on_a_grid(p, g, steps, size, xs):
    rivals = points(size)
    for step in steps:
        y = p(xs, step)
        shifts = torch.cat([tensor(0.0), torch.logspace(-14, 0, 15).double(), -torch.logspace(-14, 0, 15).double()])
        near = torch.cat([y * (1 + shifts), xs * (1 + shifts), y + shifts, xs + step * shifts], -1)
        assert excess(g, y, xs, step, torch.cat([rivals.expand(len(xs), -1), near], -1)) < 1e-12, step


@pytest.mark.parametrize(("p", "g"), TERMS, ids=[repr(p) for p, _ in TERMS])
def test_nothing_on_a_wide_grid_is_better_whatever_the_step(p, g):
    xs = torch.cat([points(12), 2 * torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))])
    on_a_grid(p, g, STEPS, 800, xs[:, None])


@pytest.mark.exhaustive
@pytest.mark.parametrize(("p", "g"), TERMS, ids=[repr(p) for p, _ in TERMS])
def test_nothing_on_a_finer_grid_is_better(p, g):
    on_a_grid(p, g, torch.logspace(-6, 9, 46).tolist(), 3000, points(60)[:, None])


@pytest.mark.parametrize(("p", "g"), PENALTIES, ids=[repr(p) for p, _ in PENALTIES])
def test_value_is_the_sum(p, g):
    y = p(2 * torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 0.3)
    assert p.value(y).item() == pytest.approx(g(y).sum().item(), rel=1e-12)
    assert p.value(y.float()).dtype == torch.float64


@pytest.mark.parametrize("p", [p for p, _ in TERMS], ids=repr)
def test_single_precision_gives_the_same_up_to_its_rounding(p):
    xs = torch.cat(
        [points(40)[:, None], torch.randn(200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))]
    ).float()
    for step in STEPS:
        y, exact = p(xs, step).double(), p(xs.double(), step)
        jump = (y == 0) != (exact == 0) if not p.convex else torch.zeros_like(exact, dtype=torch.bool)
        error = (y - exact).abs() / torch.maximum(exact.abs(), 1e-3 * xs.double().abs() + 1e-2 * (p(0 * xs[:1], 1.0) != 0))
        assert error[~jump].nan_to_num(INF, INF).where(((y - exact) != 0)[~jump], 0.0).max() < (4e-5 if p.convex else 2e-3), step
        assert jump.sum() <= 2


EXTREME = [0.0, 1e-300, -1e-300, 1e-30, 1.0, -1.0, 1e4, -1e4, 1e30, -1e30, 1e154, -1e160, 1e300, -1e300]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [p for p, _ in TERMS], ids=repr)
def test_extreme_entries_and_steps_stay_finite_and_between_bounds(p, dtype):
    x = tensor(*EXTREME).clamp(-1e38, 1e38).to(dtype) if dtype == torch.float32 else tensor(*EXTREME)
    for step in (0.0, 1e-300, 1e-12, 1.0, 1e12, 1e30, 1e300, *([INF] if p.attained else [])):
        for s in (step, torch.full(x.shape, step, dtype=torch.float64)):
            y = p(x, s)
            assert y.isfinite().all() or (isinstance(p, Linear | Logistic | Exponential) and step > 1e20), (step, y)
        if not p.is_set:
            assert torch.allclose(p(x, step), p(x, torch.full(x.shape, step, dtype=torch.float64)), rtol=1e-5)
    if isinstance(p, L1 | L2Squared | L0 | Huber):
        assert p(x, 1.0)[-1] < 0


@pytest.mark.parametrize("p", FREE, ids=repr)
def test_gradients_flow_and_are_never_nan(p):
    for values in ([0.0, 0.0, 1.0, -1.0, 30.0, -30.0], EXTREME[1:]):
        for step in (0.0, 0.3, 5.0, INF, tensor(0.0, 0.3, 5.0, INF, 1.0, 1e-9, *[1.0] * 7)[: len(values)]):
            x = tensor(*values).requires_grad_()
            y = p(x, step)
            if y.requires_grad:
                y.sum().backward()
                assert x.grad.isfinite().all(), (step, x.grad)


@pytest.mark.parametrize("p", [p for p, _ in PENALTIES], ids=repr)
def test_the_gradient_is_that_of_finite_differences(p):
    x = (2.5 * torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(3))).requires_grad_()
    for step in (0.05, 0.6, 4.0):
        assert torch.autograd.gradcheck(lambda z, s=step: p(z, s), (x,), eps=1e-7, atol=1e-4, rtol=1e-4)
    steps = torch.full((20,), 0.6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: p(x.detach(), s), (steps,), eps=1e-7, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "p", [L1(0.5), L0(0.5), L2Squared(0.5), L2Squared(0.5, 1.0), Huber(0.5), LHalf(0.5), MCP(0.5), Cauchy(0.5)]
)
@pytest.mark.parametrize("step", [0.4, 30.0, INF, tensor(0.0, 0.1, 1.0, INF)], ids=str)
def test_of_a_complex_entry_the_modulus_shrinks_and_the_phase_stays(p, step):
    z = torch.complex(tensor(0.0, 3.0, -0.1, 2.0), tensor(0.0, 4.0, 0.2, -1.0)).requires_grad_()
    w = p(z, step)
    if not isinstance(p, L2Squared):
        assert torch.allclose(w, torch.polar(p(z.abs(), step), z.angle()))
    else:
        assert torch.allclose(w, torch.complex(p(z.real, step), type(p)(p.lam)(z.imag, step)))
    w.abs().sum().backward()
    assert z.grad.isfinite().all()
    assert p.value(z.detach()).isfinite()
    assert p(z.to(torch.complex64), step).dtype == torch.complex64
    if not isinstance(p, L2Squared):
        assert p.value(z.detach()).item() == pytest.approx(p.value(z.detach().abs()).item())


def test_value_of_a_complex_ridge_is_that_of_both_parts():
    z = torch.tensor([3 + 4j, 1j])
    assert L2Squared(2.0).value(z) == 26
    assert L2Squared(2.0, center=1.0).value(z).item() == pytest.approx(4 + 16 + 1 + 1)
    assert L1(2.0).value(z) == 12
    assert L0(2.0).value(z) == 4


# ── identities ────────────────────────────────────────────────────────────────────────────────────────────────────────


numbers = st.floats(-50, 50)
weights = st.floats(1e-3, 50)


@settings(max_examples=60, deadline=None)
@given(numbers, weights, weights)
def test_limits_and_relations_between_penalties(x, step, lam):
    x = tensor(x)

    def same(p, q):
        return torch.allclose(p(x, step), q(x, step), rtol=1e-9, atol=1e-9)

    assert same(Power(lam, 2), L2Squared(2 * lam))
    assert same(Huber(lam, 1e9), L2Squared(lam))
    assert same(Power(lam, 1), L1(lam))
    assert same(Power(lam, 0.5), LHalf(lam)) or abs(x.abs().item() - 1.5 * (step * lam) ** (2 / 3)) < 1e-6
    assert same(Power(lam, 2 / 3), LTwoThirds(lam)) or abs(x.abs().item() - 2 * (2 / 3 * step * lam) ** 0.75) < 1e-6
    assert same(TruncatedSquare(lam, 1e9), L2Squared(lam))
    assert same(Fair(lam * 1e10, 1e-5), L2Squared(lam)) or abs(x.item()) > 0.01  # they part by a share w |x|
    assert same(Huber(lam / 1e-9, 1e-9), L1(lam)) or abs(abs(x.item()) - step * lam) < 1e-6
    assert same(BerHu(lam, 1e9), L1(lam))
    assert same(Pinball(2 * lam, 0.5), L1(lam))
    assert same(EpsInsensitive(lam, 1e-300), L1(lam))
    assert same(CappedL1(lam, 1e9), L1(lam))
    assert same(MCP(lam, 1e13), L1(lam))
    assert same(SCAD(lam, 1e13), L1(lam))
    assert same(Poisson(0.0, lam), NonNegative() + L1(lam))
    assert torch.allclose(Hinge(lam)(x, step), 1 + Pinball(lam, 0.0)(x - 1, step), rtol=1e-9, atol=1e-9)
    assert torch.allclose(FermiDirac(lam)(1 - x, step), 1 - FermiDirac(lam)(x, step), rtol=1e-9, atol=1e-9)
    y = Logistic(lam)(x, step)
    assert abs(y - x - step * lam * torch.sigmoid(-y)) <= 1e-13 * (1 + abs(x) + step * lam)
    y = Inverse(lam)(x, step)
    assert abs(y - x - step * lam / y**2) <= 1e-12 * (1 + abs(x) + step * lam / y**2)


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e8, 1e8), st.floats(1e-4, 1e8))
def test_the_logistic_and_the_exponential_prox_are_right_to_rounding_at_large_arguments(x, t):
    y = Logistic()(tensor(x), t)
    slope = 1 + t * torch.sigmoid(y) * torch.sigmoid(-y)
    assert abs(y - x - t * torch.sigmoid(-y)) / slope <= 1e-15 * (abs(y) + abs(x) / slope + 1) * 8
    y = Exponential()(tensor(x), t)
    assert abs(y + t * y.exp() - x) / (1 + t * y.exp()) <= 1e-15 * (abs(y) + 1) * 8


@pytest.mark.parametrize(("c", "lam"), [(1.0, 0.5), (2.0, 3.0), (0.3, 0.1)])
def test_cel0_is_mcp_in_other_words(c, lam):
    y = torch.linspace(-5, 5, 101).double()
    edge = math.sqrt(2 * lam) / c
    cel0 = lam - c**2 / 2 * (y.abs() - edge).clamp(max=0) ** 2
    assert MCP(c * math.sqrt(2 * lam), 1 / c**2).value(y).item() == pytest.approx(cel0.sum().item())


@pytest.mark.parametrize(
    "p",
    [
        MCP(0.7),
        SCAD(0.7),
        MCP(0.7, 0.5),
        SCAD(0.7, 1.1),
        LogSum(0.7),
        CappedL1(0.7),
        ETP(0.7),
        L0(0.7),
        LHalf(0.7),
        TruncatedSquare(0.7),
        Geman(2.0),
        Power(0.7, 0.2),
    ],
)
def test_a_shrunk_modulus_rises_with_the_modulus(p):
    x = torch.linspace(0, 20, 20001).double()
    for step in STEPS:
        y = p(x, step)
        assert (y.diff() >= -1e-12).all()
        assert ((y >= 0) & (y <= x)).all()
        assert torch.equal(p(-x, step), -y)


# ── sets ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=8), st.lists(st.integers(-50, 50), min_size=1, max_size=8))
def test_a_codebook_gives_the_nearest_level_and_the_smaller_at_a_tie(values, x):
    y = Codebook(values)(tensor(*x) / 2)
    assert y.tolist() == [min(sorted(values), key=lambda v, u=u: abs(u / 2 - v)) for u in x]
    assert torch.equal(Codebook(tensor(*values))(tensor(*x) / 2), y)


def test_ties_and_texts_of_the_discrete_sets():
    assert Binary(0, 1)(tensor(0.5)).item() == 0
    assert Codebook([2, 1, 1])(tensor(1.5, 9.0)).tolist() == [1, 2]
    assert repr(Codebook([2, 1, 1])) == "Codebook((1.0, 2.0))"
    assert repr(Prox.parse(repr(Codebook([2, 1, 1])))) == "Codebook((1.0, 2.0))"
    assert torch.equal(Codebook(tensor(0.0, 1.0)).take(slice(0, 1), 0)(torch.ones(1, 3)), torch.ones(1, 3))
    assert Codebook(tensor(0.0, 1.0, 5.0))(torch.zeros(2, 4)).shape == (2, 4)
    Codebook(tensor(0.0, 1.0, 5.0)).check((2, 4))
    assert Integers(lo=tensor([0.0], [3.0]))(torch.zeros(2, 2)).tolist() == [[0, 0], [3, 3]]
    assert Binary(tensor([0.0], [3.0]), 4)(torch.ones(2, 2)).tolist() == [[0, 0], [3, 3]]
    assert Codebook([0, 1]).value(tensor(0.0, 1.0)) == 0
    assert Codebook([0, 1]).value(tensor(0.0, 0.9)) == INF


def test_bounds_that_a_dtype_cannot_hold():
    x = torch.tensor([-1.0, 3e38])
    assert torch.equal(Box(-1e300, 1e300)(x), x)
    assert torch.equal(Box(-INF, INF)(x), x)
    assert torch.equal(Box(torch.full((2,), -1e300, dtype=torch.float64), 1e300)(x), x)
    assert torch.equal(L1(1e300)(x, 1e300), torch.zeros(2))
    assert torch.equal(L0(1e300)(x, 1e300), torch.zeros(2))
    assert torch.equal(L1(1.0)(x, INF), torch.zeros(2))


# ── text and refusals ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("p", [p for p, _ in TERMS], ids=repr)
def test_the_text_form_reads_back(p):
    twin = Prox.parse(repr(p).lower())
    assert repr(twin) == repr(p)
    assert type(twin) is type(p)


def test_defaults_stay_out_of_the_text():
    assert repr(L2Squared(0.7)) == "L2Squared(0.7)"
    assert repr(L2Squared(0.7, center=2)) == "L2Squared(0.7, 2)"
    assert repr(MCP(0.5)) == "MCP(0.5)"
    assert isinstance(Prox.parse("quantile(1, 0.9)"), Pinball)
    assert isinstance(Prox.parse("vapnik(1, 0.9)"), EpsInsensitive)
    assert isinstance(Prox.parse("nonpos"), NonPositive)


@pytest.mark.parametrize(
    "kind", [Huber, BerHu, EpsInsensitive, Hinge, L0, LHalf, MCP, SCAD, LogSum, CappedL1, Logistic, LogBarrier]
)
@pytest.mark.parametrize("lam", [-1, math.nan, INF], ids=str)
def test_a_weight_is_finite_and_not_negative(kind, lam):
    with pytest.raises(ValueError, match=r"lam of .* finite and at least 0"):
        kind(lam)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: MCP(1, 0), "gamma of MCP is 0; it must be one finite number above 0"),
        (lambda: SCAD(1, 1), "a of SCAD is 1; it must be one finite number above 1"),
        (lambda: Power(1, 0), "p of Power is 0; .* above 0"),
        (lambda: Huber(1, -1), "delta of Huber is -1"),
        (lambda: CappedL1(1, INF), "theta of CappedL1 is inf"),
        (lambda: TruncatedSquare(1, 0), "kappa of TruncatedSquare is 0"),
        (lambda: Fair(1, -1), "w of Fair is -1"),
        (lambda: Geman(1, 0), "gamma of Geman is 0"),
        (lambda: Inverse(1, 0), "p of Inverse is 0"),
        (lambda: LogSum(1, [1, 2]), r"eps of LogSum is an array of shape \(2,\)"),
        (lambda: Pinball(1, 1.5), r"q of Pinball is 1.5; .* \[0, 1\]"),
        (lambda: Poisson(-1), "y of Poisson is -1; .* at least 0"),
        (lambda: L2Squared(1, center=INF), "center of L2Squared is not finite"),
        (lambda: EpsInsensitive(1, 0.1, center=INF), "center of EpsInsensitive is not finite"),
        (lambda: Linear(INF), "c of Linear is not finite"),
        (lambda: Binary(1, 0), "lo is above hi"),
        (lambda: Binary(0, INF), "finite"),
        (lambda: Binary(tensor(1, 2), tensor(1, 2, 3)), "Binary: the shapes of lo and hi"),
        (lambda: Integers(0.1, 0.9), "no whole number"),
        (lambda: Integers(INF, INF), "no whole number"),
        (lambda: Integers(tensor(0, 0.2), tensor(1, 0.7)), "no whole number"),
        (lambda: Codebook([]), "one or more finite numbers"),
        (lambda: Codebook(1.0), "one or more finite numbers"),
        (lambda: Codebook([1, math.nan]), "one or more finite numbers"),
    ],
)
def test_a_field_is_checked_at_the_door_and_the_message_says_the_way_out(make, why):
    with pytest.raises(ValueError, match=why):
        make()


@pytest.mark.parametrize("p", [p for p, _ in TERMS if not p.attained], ids=repr)
def test_what_has_no_minimiser_refuses_an_infinite_step(p):
    with pytest.raises(ValueError, match="no minimiser"):
        p(tensor(1.0), INF)
    with pytest.raises(ValueError, match="no minimiser"):
        p(tensor(1.0, 2.0), tensor(1.0, INF))


def test_a_slope_of_zero_has_a_minimiser():
    assert Linear(0.0)(tensor(2.0), INF).item() == 2
    assert Linear(0.0).attained
    assert not Linear(tensor(0.0, 1.0)).attained


@pytest.mark.parametrize(
    "kind",
    [
        Huber,
        BerHu,
        Power,
        Hinge,
        L0,
        LHalf,
        LTwoThirds,
        MCP,
        SCAD,
        LogSum,
        CappedL1,
        ETP,
        Cauchy,
        PseudoHuber,
        TruncatedSquare,
        Geman,
        Fair,
    ],
)
def test_no_weight_leaves_x_alone_at_every_step(kind):
    x = 3 * torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    lam = torch.zeros(50)
    lam[25:] = 1
    for step in (0.0, 1.0, INF, tensor(INF).expand(50), tensor(0.0, INF).repeat(25)):
        assert torch.equal(kind(0.0)(x, step), x)
        y = kind(lam)(x, step)
        assert torch.equal(y[:25], x[:25])
        assert torch.allclose(y[25:], kind(1.0)(x, step)[25:], rtol=1e-14)
    assert torch.equal(kind(1.0)(x, 0.0), x)


def test_domains():
    x = tensor(-2.0, 0.3, 2.0)
    for p in (LogBarrier(), Poisson(1.0), Inverse(), Poisson(tensor(0.0, 1.0, 2.0))):
        assert p(x, 0.0).tolist() == [0, 0.3, 2]
        assert type(p)(*(() if not isinstance(p, Poisson) else (p.y,)), lam=0.0)(x, 1.0).tolist() == [0, 0.3, 2]
        assert p.value(x) == INF
        assert p.cone
    assert FermiDirac()(x, 0.0).tolist() == [0, 0.3, 1]
    assert FermiDirac()(x, INF).tolist() == [0.5, 0.5, 0.5]
    assert FermiDirac().value(x) == INF
    assert FermiDirac().value(tensor(0.0, 1.0)) == 0
    assert not FermiDirac().cone
    assert LogBarrier().value(tensor(0.0)) == INF
    assert LogBarrier(0.0).value(tensor(0.0)) == 0
    assert LogBarrier(0.0).value(tensor(-1.0)) == INF
    assert Poisson(tensor(0.0, 1.0, 2.0))(x, INF).tolist() == [0, 1, 2]
    assert Poisson(0.0).value(tensor(0.0, 3.0)) == 3


@pytest.mark.parametrize("kind", [Logistic, Exponential, LogBarrier, Inverse])
def test_without_weight_every_point_of_the_closed_domain_is_a_minimiser(kind):
    x = tensor(-1.0, 0.0, 2.0)
    near = x.clamp(min=0) if kind in (LogBarrier, Inverse) else x
    for p in (kind(0), kind(tensor(0.0, 0.0, 0.0))):
        assert p.attained
        for step in (0.0, 1.0, INF, tensor(0.0, 1.0, INF)):
            assert torch.equal(p(x, step), near)
        assert p.value(near) == 0
    assert not kind(tensor(0.0, 0.0, 1.0)).attained


def test_without_a_mask_what_is_not_nan_is_fixed():
    values = tensor(1.0, math.nan, -2.0)
    x = tensor(5.0, 6.0, 7.0)
    for p in (Fixed(values), Fixed([1.0, math.nan, -2.0]), Prox.parse("fixed($v)", {"v": values})):
        assert torch.equal(p(x), tensor(1.0, 6.0, -2.0))
        assert torch.equal(Prox.parse(*p.spell())(x), p(x))
        assert p.value(p(x)) == 0
        assert not p.cone
    part = Fixed(values[None]).take(slice(1, 2), 1)
    assert torch.equal(part(x[None, 1:2]), x[None, 1:2])
    with pytest.raises(ValueError, match="every value is NaN, so that nothing is fixed"):
        Fixed(tensor(math.nan, math.nan))
    with pytest.raises(ValueError, match="not finite"):
        Fixed(tensor(1.0, INF))
