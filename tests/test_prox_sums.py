"""``+``: every rule against the definition, in both metrics; the splitting against cvxpy; what is refused."""

import itertools
import warnings

import cvxpy as cp
import pytest
import torch
from operators import HIGH, INF, LOW, MASK, VALUES, WEIGHTS, drawn, tensor

from proxfactor.prox import (
    L1,
    Box,
    Entropy,
    Fixed,
    Function,
    L2Squared,
    NonNegative,
    NonPositive,
    Normalize,
    Prox,
    Simplex,
    SumToOne,
    Unconstrained,
)
from proxfactor.prox.balls import L1Ball, L2Ball, LInfBall, NofM, NonNegativeSphere, SecondOrderCone, Sphere, TopK
from proxfactor.prox.base import group_metric
from proxfactor.prox.built import in_turn
from proxfactor.prox.entries import Linear
from proxfactor.prox.groups import GroupL0, GroupLasso, GroupMCP
from proxfactor.prox.norms import L2, KSupport, L1MinusL2, LInf, Max, Range, Slope, SumLargest
from proxfactor.prox.order import Concave, Isotonic, Unimodal
from proxfactor.prox.penalties import (
    L0,
    MCP,
    SCAD,
    CappedL1,
    Exponential,
    Hinge,
    Huber,
    Inverse,
    LHalf,
    LogBarrier,
    Logistic,
    LogSum,
)
from proxfactor.prox.simplices import CappedSimplex, Slab, SolidSimplex
from proxfactor.prox.sums import Split, Sum
from proxfactor.prox.variation import Smooth, TotalVariation

M, N = 3, 4
STEPS = 10 ** drawn(1, M, N)
BOUNDS = [NonNegative(), Box(-1, 0.8), Fixed(VALUES, MASK), Box(LOW, HIGH)]
PENALTIES = [L1(0.4), L1(WEIGHTS), L2Squared(0.7), Entropy(WEIGHTS), L1(0.4) + L2Squared(WEIGHTS), Huber(0.5), Hinge(0.3)]
ZEROS = Fixed(torch.zeros(M, N), MASK)


# ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

ANY_METRIC = [
    [NonNegative(), GroupLasso(1, 0.4)],
    [ZEROS, L1(0.2), GroupLasso(0, 0.4)],
    [Box(-INF, 0), L1(WEIGHTS), LInf(1, 0.5)],
    [NonNegative(), L1Ball(1, 0.8)],
    [L1(WEIGHTS), L2Ball(0, 0.9), NonNegative()],
    [NonNegative(), KSupport(1, 2, 0.5)],
    [NonNegative(), L2(0.5), L2Squared(WEIGHTS)],
    [NonNegative(), TopK(1, 2), L1(0.3)],
    [NonNegative(), NofM(1, 1, 2)],
    [NonNegative(), GroupL0(1, 0.5)],
    *([NonNegative(), p, L1(0.1)] for p in (L0(0.2), MCP(0.5), SCAD(0.4), LHalf(0.3), LogSum(0.3), CappedL1(0.4))),
    [L2Squared(0.4), MCP(0.5)],
    [L2Squared(0.4), TopK(0, 1)],
    [Linear(WEIGHTS), Simplex(1)],
    [Linear(0.3), L2Squared(0.5), NonNegative(), L1(0.2)],
    [Isotonic(0), NonNegative()],
    [Isotonic(1, decreasing=True), Box(-0.3, 0.4), NonNegative()],
    [TotalVariation(1, 0.4), LInfBall(0.5)],
    [Hinge(0.4), NonNegative(), Box(-3, 0.7)],
]
ONE_STEP = [
    [Isotonic(0), L1(0.3)],
    [Isotonic(0), L1(0.3), NonNegative()],
    [Isotonic(1), Simplex(1)],
    [Isotonic(1), L2Ball(1, 0.8), L1(0.2)],
    [Isotonic(0), Huber(0.5)],
    [TotalVariation(1, 0.4), L1(0.3), Box(0.1, 0.6)],
    [TotalVariation(1, 0.4), Entropy(0.3)],
    [TotalVariation(0, 0.4), Simplex(0)],
    [TotalVariation(0, 0.4), SumToOne(-2), L2Squared(0.3)],
    [TotalVariation(1, 0.4), GroupLasso(1, 0.5), NonNegative()],
    [TotalVariation(1, 0.4), SumLargest(1, 2, 0.3)],
    [Max(1, 0.4), L1(0.2), L2Squared(0.5)],
    [Range(0, 0.4), L2(0.5)],
    [Concave(0), L2Ball(0, 0.7)],
    [Unimodal(1), L2Ball(1, 0.8)],
    [TopK(1, 2), L2Ball(1, 0.8)],
    [Slope(1, (1.0, 0.5, 0.2, 0.0)), GroupMCP(1, 0.4)],
    [LInf(0, 0.4), GroupLasso(0, 0.4)],
]


def worst(parts, x, step, y):
    """How much better than y, in Σ g(z) + Σ (z - x)² / (2 step), any of many points of the domain is."""

    def objective(z):
        return sum(p.value(z).item() for p in parts) + ((z - x) ** 2 / (2 * step)).sum().item()

    best = objective(y)
    assert best < INF
    rivals = [y + 10.0 ** -(i % 6) * drawn(i, *x.shape) for i in range(24)] + [y + t / 6 * (x - y) for t in range(1, 7)]
    rivals += [y * (1 + (-1) ** i * 10.0 ** -(i / 2)) for i in range(6)]
    for z in rivals:
        for p in [*parts, *parts[::-1]]:  # towards the domain; value says whether it got there
            z = p(z, 0.0)
        best = min(best, objective(z))
    return (objective(y) - best) / max(1, abs(best))


@pytest.mark.parametrize("parts", [*ANY_METRIC, *ONE_STEP], ids=str)
def test_a_rule_gives_the_minimum_in_every_metric_that_it_claims_and_in_any_order(parts):
    sums = [p for order in itertools.permutations(parts) for p in [order[0] + sum_of(order[1:])]]
    assert {type(p) for p in sums} == {Sum}
    p = sums[0]
    assert (p.metric == "group") == (parts in ONE_STEP), p.metric
    assert all(q.exact for q in sums)
    for seed, step in enumerate((0.7, group_metric(p, STEPS, (M, N), "mean"))):
        x = (1 + seed) * drawn(seed, M, N) + 0.3
        y = p(x, step)
        assert all(torch.allclose(q(x, step), y, atol=1e-12) for q in sums)
        assert worst(parts, x, step, y) < 1e-9


def sum_of(parts):
    return parts[0] if len(parts) == 1 else parts[0] + sum_of(parts[1:])


@pytest.mark.parametrize("parts", [p for p in ONE_STEP if all(q.convex for q in p)], ids=str)
def test_where_a_rule_needs_one_step_in_each_slice_the_metric_says_so(parts):
    with pytest.raises(ValueError, match="exact only for steps constant over"):
        sum_of(parts)(drawn(0, M, N), STEPS)


def test_soft_after_total_variation_is_wrong_in_a_metric():
    x, step, parts = tensor([1.0, 0.9]), tensor([1.0, 0.1]), [TotalVariation(1, 5.0), L1(0.3)]
    y = parts[1](parts[0](x, step), step)
    assert y.diff().abs() > 0.1  # it parts what total variation had joined
    joined = in_turn(Sum(tuple(parts)), parts, x, step, 1e-12, 3000)
    assert torch.allclose(joined, joined.mean(), atol=1e-9)
    assert worst(parts, x, step, joined) < 1e-9


@pytest.mark.parametrize("a", BOUNDS, ids=repr)
@pytest.mark.parametrize("b", [NonNegative(), *PENALTIES], ids=repr)
def test_a_bound_and_a_penalty_add_in_any_order(a, b):
    x = 2 * drawn(23, M, N)
    assert torch.equal((a + b)(x, STEPS), (b + a)(x, STEPS))
    assert torch.equal((a.T + b.T)(x.mT, 0.3), (a + b)(x, 0.3).mT)


def test_a_ridge_shortens_the_step_to_its_limit():
    x = drawn(4, M, N)
    p = L2Squared(0.5) + LogBarrier(0.3)
    assert p.attained
    assert torch.allclose(p(x, INF), torch.full_like(x, 0.6**0.5))
    assert torch.allclose(p(x, torch.full((M, N), INF)), p(x, 1e12))
    assert torch.equal((L2Squared(0.0) + L1(0.3))(x, INF), torch.zeros_like(x))
    assert torch.equal((L2Squared(2.0) + Simplex(0))(x, 0.0), Simplex(0)(x))
    with pytest.raises(ValueError, match="no minimiser"):
        (L2Squared(0.0) + LogBarrier(0.3))(x, INF)
    assert isinstance(L2Squared(WEIGHTS) + TotalVariation(1) + L1(1), Split)  # no one step in each slice


# ── merged ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_added_changes_nothing():
    for p in (Simplex(0), Normalize(dim=1), L1(0.4)):
        assert p + Unconstrained() is p
        assert Unconstrained() + p is p
    assert isinstance(Unconstrained() + Unconstrained(), Unconstrained)


@pytest.mark.parametrize(
    ("a", "b", "one"),
    [
        (NonNegative(), NonNegative(), NonNegative()),
        (NonNegative(), SumToOne(1), Simplex(1)),
        (NonNegative(), SumToOne(0).T, Simplex(0).T),
        (NonNegative(), Simplex(1, 2.0), Simplex(1, 2.0)),
        (NonNegative(), SolidSimplex(1), SolidSimplex(1)),
        (NonNegative(), Unimodal(0), Unimodal(0, nonneg=True)),
        (NonNegative(), Sphere(0, 2.0), NonNegativeSphere(0, 2.0)),
        (Box(0, 0.6), Simplex(0), CappedSimplex(0, cap=0.6)),
        (L1(0.25), L1(0.5), L1(0.75)),
    ],
    ids=str,
)
def test_two_terms_that_are_one_operator_become_it(a, b, one):
    assert repr(a + b) == repr(b + a) == repr(one)
    assert repr(a + Unconstrained() + b) == repr(one)
    x = drawn(5, M, N)
    assert torch.equal((a + b)(x), one(x))


def test_merged_terms_are_the_minimum():
    for parts in ([NonNegative(), SumToOne(1)], [Box(0, 0.6), Simplex(0)], [NonNegative(), Unimodal(0)], [L1(WEIGHTS), L1(0.3)]):
        x = drawn(6, M, N)
        assert worst(parts, x, STEPS, sum_of(parts)(x, STEPS)) < 1e-9
    assert "WEIGHTS" not in repr(L1(WEIGHTS) + L1(0.3))
    assert (L1(WEIGHTS) + L1(0.3)).lam.allclose(WEIGHTS + 0.3)


# ── splitting ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SPLITS = [
    (Simplex(0) + SumToOne(1), lambda y: (0, [y >= 0, cp.sum(y, axis=0) == 1, cp.sum(y, axis=1) == 1]), (3, 3)),
    (
        Simplex(0) + TotalVariation(1, 0.3),
        lambda y: (0.3 * cp.sum(cp.abs(cp.diff(y, 1, 1))), [y >= 0, cp.sum(y, axis=0) == 1]),
        (3, 4),
    ),
    (NonNegative() + Smooth(0, 2.0), lambda y: (cp.sum_squares(cp.diff(y, 1, 0)), [y >= 0]), (6, 2)),
    (
        L1(WEIGHTS) + TotalVariation(1, 0.3),
        lambda y: (cp.sum(cp.multiply(WEIGHTS, cp.abs(y))) + 0.3 * cp.sum(cp.abs(cp.diff(y, 1, 1))), []),
        (3, 4),
    ),
    (
        GroupLasso(0, 0.2) + GroupLasso(1, 0.3) + NonNegative(),
        lambda y: (0.2 * cp.sum(cp.norm(y, 2, axis=0)) + 0.3 * cp.sum(cp.norm(y, 2, axis=1)), [y >= 0]),
        (3, 4),
    ),
]


@pytest.mark.parametrize(("p", "cvx", "shape"), SPLITS, ids=lambda v: repr(v) if isinstance(v, Prox) else "")
def test_a_convex_sum_without_a_rule_is_split_and_finds_what_cvxpy_finds(p, cvx, shape):
    assert isinstance(p, Split)
    assert (p.exact, p.convex, p.metric) == (False, True, "group")
    assert len(p.terms) > 1
    for step in (0.7, group_metric(p, 10 ** drawn(1, *shape), shape, "mean")):
        x, y = drawn(7, *shape), cp.Variable(shape)
        cost, rules = cvx(y)
        weight = torch.as_tensor(1 / (2 * torch.as_tensor(step))).expand(shape).numpy()
        cp.Problem(cp.Minimize(cost + cp.sum(cp.multiply(weight, cp.square(y - x.numpy())))), rules).solve(solver=cp.CLARABEL)
        assert torch.allclose(p(x, step), torch.from_numpy(y.value), atol=1e-4)
        assert torch.allclose(p.T(x.mT, step if isinstance(step, float) else step.mT), p(x, step).mT, atol=1e-7)
    assert p(x.float()).dtype == torch.float32
    assert p.value(p(x)).isfinite()


def test_a_split_keeps_exact_sums_together_and_its_text_reads_back():
    p = Prox.parse("nonneg + simplex(dim=1) + l1(0.1) + tv(dim=0, lam=0.2)")
    assert repr(p) == "Split(Simplex(dim=1) + L1(0.1) + TotalVariation(dim=0, lam=0.2))"
    assert repr(Prox.parse(repr(p))) == repr(p)
    assert [repr(t) for t in p.terms] == ["Simplex(dim=1)", "L1(0.1) + TotalVariation(dim=0, lam=0.2)"]
    q = Split(Simplex(0) + L1(WEIGHTS), tol=1e-6, most=50)
    text, tensors = q.spell()
    assert text == "Split(Simplex(dim=0) + L1($lam), tol=1e-06, most=50)"
    assert repr(Prox.parse(text, tensors)) == text
    assert (q + NonNegative()).tol == 1e-6
    assert [repr(t) for t in (Simplex(0) + L1(0.1)).T.terms] == ["Transposed(Simplex(dim=0))", "L1(0.1)"]
    assert [repr(t) for t in (Simplex(0) + L1(WEIGHTS)).take(slice(0, 1), 1).terms] == ["Simplex(dim=0)", "L1($lam)"]


def test_an_infinite_or_a_zero_step_reaches_its_limit():
    p, x = Simplex(0) + TotalVariation(1, 0.3), drawn(8, 3, 4)
    assert torch.allclose(p(x, 0.0), Simplex(0)(x), atol=1e-9)
    far = p(x, INF)
    assert torch.allclose(far, Simplex(0)(x.mean(1, keepdim=True)).expand(3, 4), atol=1e-6)
    assert torch.allclose(far, p(x, torch.full((1, 1), INF)))


def test_sets_that_do_not_meet_are_named_when_the_rounds_end():
    p = Split(Simplex(0) + SumToOne(1), most=200)
    with pytest.raises(ValueError, match=r"Split\(Simplex.* do not meet; after 200 rounds they are still"):
        p(drawn(0, 3, 4))


def test_sets_that_meet_are_not_said_to_be_apart_while_the_rounds_still_bring_them_together():
    cones = Split(Unimodal(1, peak=1) + SecondOrderCone(1), most=100)
    with pytest.warns(UserWarning, match="has not settled"):
        cones(1.3 * drawn(0, 3, 4), 0.7)
    slow = Split(L2Ball(0, 1.0) + Slab(0, 2**0.5, 5.0), most=100)  # they touch in one point
    with pytest.warns(UserWarning, match="has not settled"):
        slow(tensor([3.0], [-1.0]))
    for radius in (0.9, 0.5, 0.1):
        with pytest.raises(ValueError, match="do not meet"):
            Split(L2Ball(0, radius) + Slab(0, 2**0.5, 5.0))(tensor([3.0], [-1.0]))


ENDS = [
    (Linear(0.1) + NonNegative(), 0.0),
    (LogBarrier(0.1) + Box(0, 5), 5.0),
    (Inverse(0.1) + Box(0, 5) + Box(-1, 4), 4.0),
    (Exponential(0.1) + NonNegative(), 0.0),
    (Exponential(0.1) + Box(-2000, 0), -2000.0),
    (Logistic(0.1) + LInfBall(2.0), 2.0),
    (Max(dim=1, lam=0.1) + NonNegative(), 0.0),
    (SumLargest(1, 2) + Box(-1, 1), -1.0),
    (Linear(tensor(1.0, -1.0, 2.0, -0.1)) + Box(-1, 3), tensor(-1.0, 3.0, -1.0, 3.0)),
    (Linear(-1e-9) + Logistic(0.1) + Box(-1e9, 1e9), 1e9),
    (Linear(tensor(2.0, 1.0, 3.0, 4.0)) + Simplex(1), tensor(0.0, 1.0, 0.0, 0.0)),
    (Linear(0.3) + TotalVariation(1, 0.3) + NonNegative(), 0.0),
    (Linear(0.1) + Logistic(1.0) + Box(-5, 5), 2.1972245773362196),
]


@pytest.mark.parametrize(("p", "end"), ENDS, ids=lambda p: repr(p)[:60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_bounds_hold_has_a_minimiser_which_an_infinite_step_finds(p, end, dtype):
    x = 2 * drawn(3, M, N).to(dtype)
    assert p.attained
    want = torch.as_tensor(end, dtype=dtype).expand(M, N)
    assert torch.allclose(p(x, INF), want, rtol=1e-6, atol=1e-6)
    assert torch.allclose(p(x, torch.full((M, 1), INF, dtype=dtype)), want, rtol=1e-6, atol=1e-6)
    if p.dims == ():
        some = torch.where(MASK, INF, 0.75).to(dtype)
        assert torch.equal(p(x, some), torch.where(MASK, p(x, INF), p(x, torch.full_like(x, 0.75))))


def test_where_no_bound_stops_the_fall_an_infinite_step_is_refused():
    free = (Linear(-0.1) + NonNegative(), Linear(0.1) + NonPositive(), LogBarrier(0.1) + NonNegative(), Max(1) + NonPositive())
    for p in (*free, Exponential(0.1) + Box(-INF, 3), Linear(0.1) + Fixed(VALUES, MASK), Linear(0.1) + L1(1.0)):
        assert not p.attained
        with pytest.raises(ValueError, match="no minimiser"):
            p(drawn(0, M, N), INF)
    level = Linear(tensor(0.0, 1.0, 0.0, 2.0)) + Box(tensor(-INF, 0.0, -INF, -1.0), INF)
    assert torch.equal(level(drawn(0, M, N), INF)[:, [0, 2]], drawn(0, M, N)[:, [0, 2]])


def test_rounds_that_do_not_settle_warn():
    with pytest.warns(UserWarning, match="has not settled to 0 in 9 rounds"):
        Split(L1(WEIGHTS) + TotalVariation(1, 0.3), tol=0, most=9)(drawn(0, M, N))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Split(L1(WEIGHTS) + TotalVariation(1, 0.3))(drawn(0, M, N))


def test_split_takes_convex_operators_and_rounds():
    with pytest.raises(ValueError, match="convex operators are needed"):
        Split((TopK(0, 1),))
    with pytest.raises(ValueError, match="from 1 on"):
        Split(L1(1) + Simplex(0), most=0)


@pytest.mark.parametrize("nonneg", [False, True])
def test_the_sparse_points_of_a_sphere_are_the_best_of_all_supports(nonneg):
    sphere, n, k = (NonNegativeSphere if nonneg else Sphere)(1, 2.0), 6, 3
    p = TopK(1, k) + NonNegative() + Sphere(1, 2.0) if nonneg else Sphere(1, 2.0) + TopK(1, k)
    assert isinstance(p, Sum)
    assert (p.metric, p.is_set, p.convex) == ("group", True, False)
    x = torch.cat([drawn(5, 40, n), -drawn(6, 20, n).abs(), torch.zeros(1, n), drawn(7, 20, n).round(), 1e200 * drawn(8, 5, n)])
    y = p(x)
    assert ((y != 0).sum(1) <= k).all()
    assert p.value(y) == 0
    size = x.abs().amax(1).clamp(min=1)
    for support in itertools.combinations(range(n), k):
        z = torch.zeros_like(x)
        z[:, support] = sphere(x[:, support])
        assert ((x / size[:, None] * (y - z)).sum(1) >= -1e-12).all()  # of one length, the nearest has the largest product
    assert torch.equal(p.T(x.mT), y.mT)
    with pytest.raises(ValueError, match="not convex"):
        TopK(0, 2) + Sphere(1)


# ── refused ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (L1(1), Normalize(dim=0), "no proximal operator"),
        (L2Squared(1), Normalize(dim=0), "no proximal operator"),
        (Function(torch.relu), NonNegative(), "no proximal operator"),
        (TopK(0, 1), Simplex(0), "not convex"),
        (L1MinusL2(1), Box(0.1, 1), "not convex"),
        (L0(0.1), Box(0.5, 1), "not convex"),
        (Sphere(0), L1(1), "not convex"),
        (Unimodal(0), Unimodal(1), "not convex"),
    ],
    ids=str,
)
def test_a_sum_that_nothing_minimises_is_refused_by_name_with_the_way_out(a, b, why):
    for p, q in ((a, b), (b, a)):
        with pytest.raises(ValueError, match=r"no exact rule is known for .*" + why + ".*put one on one factor"):
            p + q


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Box(2, 3), Box(0, 1)),
        (Box(-2, -1), NonNegative()),
        (Fixed(tensor([-1.0]), torch.tensor([[True]])), NonNegative()),
        (Fixed(tensor([1.0]), torch.tensor([[True]])), Fixed(tensor([2.0]), torch.tensor([[True]]))),
        (Box(-2, -1), Entropy(1.0)),
        (Fixed(tensor([0.0, -1.0]), torch.tensor([[True, True]])).T, NonNegative()),
    ],
    ids=str,
)
def test_sets_that_do_not_meet_are_named(a, b):
    for p, q in ((a, b), (b, a)):
        with pytest.raises(ValueError, match="do not meet"):
            p + q


def test_summands_whose_tensors_do_not_fit_are_refused_and_rounding_is_not_held_against_them():
    with pytest.raises(ValueError, match="do not fit together"):
        Box(tensor([0.0], [0.0]), 1) + Fixed(VALUES, MASK)
    assert isinstance(Box(0, 0.1) + Fixed(torch.tensor([0.1]), torch.tensor([True])), Sum)


def test_an_operator_adds_to_operators_only():
    with pytest.raises(TypeError):
        NonNegative() + 3
