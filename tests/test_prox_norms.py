"""Norms as penalties and groups: optimality conditions at length, brute force where g is not convex, partners, refusals."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operators import INF, drawn, tensor

from proxfactor.prox import L1, L2Squared, Prox, Simplex
from proxfactor.prox.groups import (
    ExclusiveLasso,
    GroupL0,
    GroupLasso,
    GroupLHalf,
    GroupMCP,
    GroupSCAD,
    OverlappingGroups,
    TreeGroups,
)
from proxfactor.prox.norms import L2, KSupport, L1MinusL2, L2Cubed, LInf, Max, Range, Slope, SumLargest, SumLargestAbs
from proxfactor.prox.penalties import MCP, SCAD, LHalf

DTYPES = [torch.float32, torch.float64]


def uniform(seed, *shape):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def case(seed, dtype, n=1000, ratio=4, offset=0.0):
    """Five slices of n entries, and steps whose ratio is 10 ** ratio at most."""
    x = 10.0 ** (seed % 3 - 1) * (drawn(seed, 5, n) + offset)
    return x.to(dtype), (10 ** (ratio * uniform(seed + 50, 5, n) - ratio / 2)).to(dtype)


def dual(x, y, s):
    """What must be a subgradient at y, in float64."""
    return (x.double() - y.double()) / s.double()


def slack(dtype, x, s):
    """The rounding of (x - y) / s, for each entry."""
    return 50 * torch.finfo(dtype).eps * (1 + x.double().abs().amax(1, keepdim=True) / s.double())


# ── one step for each slice takes the simplex, and agrees with the general way, which sorts ───────────────────────────────


@pytest.mark.parametrize("shape", [(1, 1), (6, 7), (2, 1000), (440, 300)])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("kind", [LInf, Max])
def test_equal_steps_lead_where_a_tensor_of_them_leads(kind, dim, shape):
    signs, ties = drawn(1, *shape), drawn(2, *shape).round()
    cases = [signs, ties, signs + 1e4, 1e-200 * signs, 1e200 * signs, 0 * signs, 1 + 0 * signs]
    for x in cases[: 2 if signs.numel() > 1e5 else None]:
        size = max(x.abs().max().item(), 1e-300)
        per_slice = size * uniform(4, *(1 if d == dim else n for d, n in enumerate(shape)))
        for step in (0.0, 1e-3 * size, 0.3 * size, shape[dim] * size, per_slice, *([INF] if kind is LInf else [])):
            for lam in (0.0, 1.0, 2.5):
                op, laid = kind(dim, lam), torch.as_tensor(step, dtype=x.dtype).expand(shape).clone()
                torch.testing.assert_close(op(x, step), op(x, laid), rtol=1e-12, atol=1e-12 * size)


@pytest.mark.parametrize("shape", [(5, 40), (700, 300)])
def test_a_low_peak_keeps_phases_offsets_and_gradients(shape):
    x, w = drawn(1, *shape).requires_grad_(), drawn(2, *shape)
    for op, step in ((LInf(1), 3.0), (LInf(1), 1 + 5 * uniform(3, shape[0], 1)), (LInf(0), 1e5), (Max(1), 3.0), (Max(0), 0.2)):
        y, laid = op(x, step), op(x, torch.as_tensor(step, dtype=x.dtype).expand(shape).clone())
        ours, theirs = (torch.autograd.grad((z * w).sum(), x)[0] for z in (y, laid))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    zero = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    assert torch.equal(torch.autograd.grad((LInf(1)(zero, 1.0) * w).sum(), zero)[0], torch.zeros_like(zero))
    phase = torch.polar(torch.ones_like(w), 3 * w)
    torch.testing.assert_close(LInf(1)(x.detach().abs() * phase, 3.0), LInf(1)(x.detach().abs(), 3.0) * phase)
    high = (1e4 + x.detach()).float()
    torch.testing.assert_close(Max(1)(high, 2.0).double(), Max(1)(high.double(), 2.0), rtol=0, atol=1e-3)
    assert LInf(1)(1e34 * high, 3e38).isfinite().all()
    assert LInf(1)(x.detach().float(), 3e38).eq(0).all()


# ── optimality at a thousand entries ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(6))
def test_group_lasso_is_along_its_gradient_or_inside_the_ball(seed, dtype):
    x, s = case(seed, dtype, ratio=8 if dtype == torch.float64 else 4)
    for lam in (0.1, 10.0, 1e5):
        y = GroupLasso(1, lam)(x, s)
        v, size = dual(x, y, s), y.double().norm(dim=1, keepdim=True)
        if lam < 1e5:
            assert (size > 0).any()
        off = (v - lam * y.double() / size.clamp(min=1e-300)).abs()
        assert torch.where(size > 0, off - lam * slack(dtype, x, s), 0.0).max() <= 0
        assert torch.where(size == 0, v.norm(dim=1, keepdim=True), 0.0).max() <= lam * (1 + 1e-5)
    assert (GroupLasso(1, 1e12)(x, s) == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_largest_entries_carry_the_whole_weight(offset, dtype):
    for seed in range(6):
        x, s = case(seed, dtype, offset=offset)
        close = 100 * torch.finfo(dtype).eps
        for k, lam in ((1, 0.3), (3, 0.3), (400, 2.0), (1000, 0.1)):
            for p, sign in ((SumLargest(1, k, lam), 1), (SumLargestAbs(1, k, lam), x.sign())):
                y = p(x, s)
                a, b = (sign * x).double(), (sign * y).double()
                v = (a - b) / s.double() / lam
                room = close * (1 + a.abs().amax(1, keepdim=True) / (lam * s.double()))
                top = b.topk(k, 1).values[:, -1:]
                ulp = close * (1 + a.abs().amax(1, keepdim=True))
                assert (v >= -room).all()
                assert (v <= 1 + room).all()
                assert torch.where(b > top + ulp, v - 1, 0.0).abs().sub(room).max() <= 0  # above the k-th all of it
                assert torch.where(b < top - ulp, v, 0.0).abs().sub(room).max() <= 0  # below it nothing
                spent, error = v.sum(1, keepdim=True), room.sum(1, keepdim=True)
                assert (spent <= k + error).all()
                if isinstance(p, SumLargest):
                    assert (spent >= k - error).all()
                else:
                    assert ((spent >= k - error) | (top <= ulp)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_exclusive_lasso_and_slope_fulfil_their_conditions(dtype):
    for seed in range(6):
        x, s = case(seed, dtype)
        y = ExclusiveLasso(1, 0.3)(x, s)
        v, total = dual(x, y, s), 0.3 * y.double().abs().sum(1, keepdim=True)
        room = slack(dtype, x, s) + 1e3 * torch.finfo(dtype).eps * total
        assert torch.where(y != 0, (v - total * y.sign()).abs() - room, v.abs() - total - room).max() <= 0
        lams = torch.linspace(2.0, 0.0, 1000, dtype=torch.float64)
        y = Slope(1, lams)(x, 0.5)
        v = dual(x, y, tensor(0.5))
        # v is a subgradient of a norm at y: in the dual ball, and <v, y> is the norm
        sums = v.abs().sort(1, descending=True).values.cumsum(1) - lams.cumsum(0)
        size = torch.finfo(dtype).eps * 1000 * (1 + x.double().abs().sum(1).amax())
        assert sums.max() <= size
        norm = Slope(1, lams).value(y).item()
        assert abs((v * y.double()).sum().item() - norm) <= 5 * size * (1 + y.double().abs().max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_range_and_k_support_fulfil_their_conditions(dtype):
    for seed in range(6):
        x, s = case(seed, dtype)
        for lam in (0.01, 1.0, 1e6):
            y = Range(1, lam)(x, s)
            v, b = dual(x, y, s), y.double()
            room = slack(dtype, x, s)
            high, low = b.amax(1, keepdim=True), b.amin(1, keepdim=True)
            error = room.sum(1)
            assert torch.where((b < high) & (b > low), v.abs() - room, 0.0).max() <= 0
            assert (v.sum(1).abs() <= error).all()  # as much up as down
            pull = v.clamp(min=0).sum(1)
            assert ((pull - lam).abs() <= error).logical_or((high == low)[:, 0] & (pull <= lam + error)).all()
        for k in (1, 7, 300):
            p = KSupport(1, k, 0.5)
            y = p(x, s)
            v, b = dual(x, y, s), y.double()
            # ½ λ ‖y‖² has v as a gradient where ‖v‖* = λ ‖y‖ and <v, y> = λ ‖y‖²; the dual norm is that of the k largest
            dual_norm = v.abs().topk(k, 1).values.norm(dim=1)
            norm = torch.stack([(2 * KSupport(1, k).value(r[None])).sqrt() for r in b])
            big = 1e5 if dtype == torch.float32 else 1e3
            close = big * torch.finfo(dtype).eps * (1 + (x.double() / s.double()).abs().amax(1))
            assert ((dual_norm - 0.5 * norm).abs() <= close).all()
            assert (((v * b).sum(1) - 0.5 * norm**2).abs() <= close * (1 + norm)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_whole_tensor_norms_fulfil_their_conditions(dtype):
    for seed in range(6):
        x, s = case(seed, dtype)
        y = L2Cubed(0.7)(x, s)
        size = y.double().norm()
        off = (dual(x, y, s) - 0.7 * size * y.double()).abs()
        assert (off - slack(dtype, x, s) * (1 + 0.7 * size)).max() <= 0
        assert torch.allclose(
            L2Cubed(0.7)(x, 0.3), L2Cubed(0.7)(x, torch.full_like(x, 0.3)), rtol=1e-5 if dtype == DTYPES[0] else 1e-12
        )
        assert torch.allclose(L2(0.7)(x, s).reshape(-1), GroupLasso(0, 0.7)(x.reshape(-1), s.reshape(-1)))


def test_a_float32_offset_keeps_the_level():
    x = (1e4 + drawn(1, 3, 1000)).float()
    for p in (LInf(1, 3.0), Max(1, 3.0), Range(1, 3.0), SumLargest(1, 9, 3.0)):
        assert (p(x, 0.5).double() - p(x.double(), 0.5)).abs().max() < 3e-3
        assert p(x, 0.5).unique().numel() < x.numel()


# ── partners and special cases ────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), lam=st.floats(0.01, 100), spread=st.floats(0, 3))
def test_max_is_the_partner_of_the_simplex_in_any_metric(seed, lam, spread):
    x, s = drawn(seed, 4, 6), 10 ** (spread * drawn(seed + 1, 4, 6))
    assert torch.allclose(Max(1, lam)(x, s), x - s * Simplex(1, lam)(x / s, 1 / s), atol=1e-9 * s.max().item())
    assert torch.allclose(SumLargest(1, 1, lam)(x, s), Max(1, lam)(x, s))
    assert torch.allclose(SumLargestAbs(1, 1, lam)(x, s), LInf(1, lam)(x, s))
    assert torch.allclose(SumLargestAbs(1, 6, lam)(x, s), L1(lam)(x, s))
    assert torch.allclose(KSupport(1, 6, lam)(x, s), L2Squared(lam)(x, s))
    assert torch.allclose(KSupport(1, 1, lam)(x, s), ExclusiveLasso(1, lam)(x, s), atol=1e-9)
    assert torch.allclose(Slope(1, (lam,) * 6)(x, 0.5), L1(lam)(x, 0.5))
    assert torch.allclose(Slope(1, (lam, *(0.0,) * 5))(x, 0.5), LInf(1, lam)(x, 0.5))
    assert torch.allclose(Slope(1, (lam, lam, *(0.0,) * 4))(x, 0.5), SumLargestAbs(1, 2, lam)(x, 0.5))
    assert torch.allclose(GroupLasso(1, lam, groups=tuple(range(6)))(x, s), L1(lam)(x, s), atol=1e-12)


def test_radial_operators_scale_each_slice_as_the_scalar_one_scales_its_length():
    x, s = 3 * drawn(5, 6, 4), 10 ** drawn(6, 6, 1)
    r = x.norm(dim=1, keepdim=True)
    for group, scalar in (
        (GroupMCP(1, 0.8, 2.0), MCP(0.8, 2.0)),
        (GroupSCAD(1, 0.8, 3.0), SCAD(0.8, 3.0)),
        (GroupLHalf(1, 0.8), LHalf(0.8)),
    ):
        assert torch.allclose(group(x, s), x * scalar(r, s) / r)
        assert group.value(x) == pytest.approx(scalar.value(r).item())
        apart = type(group)(1, (0.8, 0.8), **({} if group._scalar(1.0).__class__ is LHalf else _second(group)), groups=(0, 1, 0, 1))
        halves = type(group)(1, 0.8, **({} if group._scalar(1.0).__class__ is LHalf else _second(group)))
        y = apart(x, 0.7)
        assert torch.allclose(y[:, ::2], halves(x[:, ::2], 0.7))
        assert torch.allclose(y[:, 1::2], halves(x[:, 1::2], 0.7))
        assert torch.equal(apart(torch.zeros(2, 4), 0.5), torch.zeros(2, 4))


def _second(group):
    return {"gamma": group.gamma} if isinstance(group, GroupMCP) else {"a": group.a}


def test_trees_and_overlapping_groups_agree_where_both_apply():
    x = 2 * drawn(7, 20, 6)
    groups = ((0, 1, 2, 3), (0, 1), (2,), (3,), (4, 5), (5,))
    lams = (0.3, 0.2, 0.5, 0.0, 0.4, 0.1)
    assert torch.allclose(TreeGroups(1, groups, lams)(x, 0.7), OverlappingGroups(1, groups, lams)(x, 0.7), atol=1e-9)
    order = [3, 0, 5, 4, 1, 2]
    shuffled = TreeGroups(1, tuple(groups[i] for i in order), tuple(lams[i] for i in order))
    assert torch.allclose(shuffled(x, 0.7), TreeGroups(1, groups, lams)(x, 0.7), atol=1e-15)
    plain = GroupLasso(1, 0.4, groups=(0, 0, 1, 1, 2, 2))
    assert torch.allclose(plain(x, 0.7), TreeGroups(1, ((0, 1), (2, 3), (4, 5)), 0.4)(x, 0.7))


@pytest.mark.parametrize("lam", [0.1, 0.5, 1.0, 3.0])
def test_overlapping_groups_reach_their_stated_tolerance(lam):
    groups = tuple(tuple(range(i, i + 5)) for i in range(0, 36, 2))
    x = 2 * drawn(8, 10, 40)
    p = OverlappingGroups(1, groups, lam)
    y = p(x, 1.0)
    best = p.value(y) + ((y - x) ** 2).sum() / 2
    for seed in range(40):
        z = y + 10.0 ** -(seed % 7) * drawn(seed, 10, 40) * (y != 0)
        assert p.value(z) + ((z - x) ** 2).sum() / 2 >= best * (1 - 1e-9)


def test_a_subgradient_of_overlapping_groups_is_found():
    import cvxpy as cp

    groups, x = tuple(tuple(range(i, i + 4)) for i in range(0, 9, 2)), 2 * drawn(9, 12)
    y = cp.Variable(12)
    cost = sum(0.8 * cp.norm(y[list(g)], 2) for g in groups) + cp.sum_squares(y - x.numpy()) / 2
    cp.Problem(cp.Minimize(cost)).solve(solver=cp.CLARABEL)
    assert torch.allclose(OverlappingGroups(0, groups, 0.8)(x, 1.0), torch.from_numpy(y.value), atol=1e-4)


# ── brute force ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_group_l0_keeps_what_is_worth_its_price_in_any_metric():
    for seed in range(30):
        x, s = drawn(seed, 2, 3), 10 ** drawn(seed + 1, 2, 3)
        y = GroupL0(1, 0.7)(x, s)
        for r, t, out in zip(x, s, y, strict=True):
            costs = {0.7: r, (r * r / (2 * t)).sum().item(): torch.zeros(3).double()}
            assert torch.equal(out, costs[min(costs)])


def test_l1_minus_l2_beats_every_support_and_sign():
    for seed, lam in itertools.product(range(12), (0.3, 1.0, 3.0)):
        x = 2 * drawn(seed, 3)
        p = L1MinusL2(0, lam)
        y = p(x, 1.0)

        def cost(z, x=x, p=p):
            return (p.value(z) + ((z - x) ** 2).sum() / 2).item()

        best = cost(y)
        grid = torch.linspace(-5, 5, 21, dtype=torch.float64)
        fine = [y + 0.02 * drawn(1000 + i, 3) for i in range(20)]
        alone = [torch.diag(x)[i] for i in range(3)]
        shrunk = []
        for kept in itertools.product([0.0, 1.0], repeat=3):
            z = (x.abs() - lam).clamp(min=0) * x.sign() * tensor(*kept)
            shrunk.append(z * (1 + lam / z.norm()) if z.norm() > 0 else z)
        around = [tensor(a, b, c) for a, b, c in itertools.product(grid[::4].tolist(), repeat=3)]
        assert all(cost(z) >= best - 1e-9 for z in fine + alone + shrunk + around)


@pytest.mark.exhaustive
def test_l1_minus_l2_beats_a_fine_grid():
    axis = torch.linspace(-3, 3, 241, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    for seed, lam in itertools.product(range(60), (0.2, 0.7, 1.5)):
        x = drawn(seed, 2)
        y = L1MinusL2(0, lam)(x, 1.0)
        costs = [lam * (z.abs().sum(-1) - z.norm(dim=-1)) + ((z - x) ** 2).sum(-1) / 2 for z in (points, y)]
        assert costs[1] <= costs[0].min() + 1e-9


def test_ties_and_the_edge_of_l1_minus_l2():
    assert L1MinusL2(0)(tensor(0.5, 0.5), 1.0).tolist() == [0.5, 0.0]
    assert L1MinusL2(0)(tensor(1.0, 1.0), 1.0).tolist() == [1.0, 0.0]
    assert torch.allclose(L1MinusL2(0)(tensor(2.0, 2.0), 1.0), tensor(1 + 0.5**0.5, 1 + 0.5**0.5))
    assert L1MinusL2(1)(tensor([-3.0], [0.2]), INF).tolist() == [[-3.0], [0.2]]
    assert L1MinusL2(0)(tensor(-3.0, 1.0), INF).tolist() == [-3.0, 0.0]


# ── steps of zero and infinity, complex numbers, gradients ────────────────────────────────────────────────────────────

WEIGHTED = [
    L2(0.7),
    L2Cubed(0.7),
    GroupLasso(1, 0.7),
    GroupLasso(1, 0.7, groups=(0, 1, 0, 1)),
    ExclusiveLasso(1, 0.7),
    LInf(1, 0.7),
    Range(1, 0.7),
    SumLargestAbs(1, 2, 0.7),
    KSupport(1, 2, 0.7),
    GroupL0(1, 0.7),
]


@pytest.mark.parametrize("p", WEIGHTED, ids=repr)
def test_every_mixture_of_zero_finite_and_infinite_steps_is_a_limit(p):
    for seed, steps in enumerate(itertools.product([0.0, 0.5, INF], repeat=4)):
        x, step = 2 * drawn(seed, 3, 4), tensor(steps)
        near = torch.where(step == 0, 1e-9, torch.where(step == INF, 1e9, step))
        y = p(x, step)
        assert torch.allclose(y, p(x, near), atol=1e-4 if isinstance(p, L2Cubed) else 2e-6)
        assert torch.where(step == 0, y - x, 0.0).abs().max() == 0
        assert p(torch.zeros_like(x), step).abs().max() == 0


@pytest.mark.parametrize(
    "p", [p for p in WEIGHTED if p.complex] + [Slope(1, (1, 0.5, 0.5, 0)), L1MinusL2(1), GroupMCP(1)], ids=repr
)
def test_a_phase_of_each_entry_passes_through(p):
    x = 2 * drawn(3, 3, 4)
    turn = torch.polar(torch.ones(3, 4).double(), 3 * drawn(4, 3, 4))
    y = p(x * turn, 0.5)
    assert torch.allclose(y, p(x, 0.5) * turn)
    assert p.value(x * turn) == pytest.approx(p.value(x).item())
    z = torch.zeros(3, 4, dtype=torch.complex128, requires_grad=True)
    (slope,) = torch.autograd.grad(p(z, 0.5).abs().square().sum(), z)
    assert slope.isfinite().all()


@pytest.mark.parametrize("p", [p for p in WEIGHTED if p.convex] + [SumLargest(1, 2), Max(1)], ids=repr)
def test_gradients_are_right_for_tensor_steps_and_finite_where_entries_vanish(p):
    for seed in range(4):
        step = 10 ** drawn(seed + 9, 3, 4)
        x = (2 * drawn(seed, 3, 4)).requires_grad_()
        assert torch.autograd.gradcheck(lambda v, step=step: p(v, step), x, atol=1e-5, rtol=1e-4)
    x = (drawn(1, 3, 4) * (drawn(2, 3, 4) > 0)).requires_grad_()
    for step in (0.0, 0.5, tensor([0.0, 1.0, 2.0, 0.0])):
        (slope,) = torch.autograd.grad(p(x, step).sum(), x)
        assert slope.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiny_and_huge_entries_keep_their_proportion(dtype):
    big = 1e-30 if dtype == torch.float32 else 1e-200
    for size in (big, 1 / big):
        x = (size * drawn(1, 3, 4)).to(dtype)
        for p in (GroupLasso(1, 1.0), LInf(1), SumLargestAbs(1, 2), Range(1), GroupLasso(1, 1.0, (0, 0, 1, 1))):
            y = p(x, size * 0.5) / size
            assert torch.allclose(y.double(), p((x.double() / size), 0.5), atol=1e-5)


# ── fields ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupLasso(0, -1), "at least 0"),
        (lambda: GroupLasso(0, math.nan), "at least 0"),
        (lambda: GroupLasso(0, (1.0, 2.0)), "one number is needed, or 1"),
        (lambda: GroupLasso(0, (1.0, 2.0), groups=(0, 1, 2)), "or 3: one per group"),
        (lambda: GroupLasso(0, groups="ab"), "one whole number per entry"),
        (lambda: GroupLasso(0, groups=(0, 1.5)), "one whole number per entry"),
        (lambda: GroupLasso(0, groups=()), "one whole number per entry"),
        (lambda: TreeGroups(0, ((0, 1), (1, 2))), "not nested; OverlappingGroups"),
        (lambda: TreeGroups(0, (0, 1)), "tuple of tuples"),
        (lambda: OverlappingGroups(0, ((0, 0),)), "no index twice"),
        (lambda: OverlappingGroups(0, ((-1, 0),)), "tuple of tuples"),
        (lambda: OverlappingGroups(0, ((0, 1), ())), "none of them empty"),
        (lambda: SumLargest(0, 0), "at least 1"),
        (lambda: SumLargestAbs(0, 1.5), "whole number"),
        (lambda: KSupport(0, True), "whole number"),
        (lambda: LInf(0, torch.ones(3)), "must be one number"),
        (lambda: L2(torch.ones(3)), "must be one number"),
        (lambda: Slope(0, (1.0, 2.0)), "non-increasing"),
        (lambda: Slope(0, (1.0, -2.0)), "non-increasing"),
        (lambda: Slope(0, ()), "non-increasing"),
        (lambda: GroupMCP(0, gamma=0.0), "gamma"),
        (lambda: GroupSCAD(0, a=1.0), "above 1"),
        (lambda: Slope(0, (1.0, 0.0))(torch.ones(3)), "2 entries, given x of shape"),
        (lambda: GroupLasso(0, groups=(0, 1))(torch.ones(3)), "2 entries, given x of shape"),
        (lambda: GroupLasso(1, groups=(0, 1)).check((2, 3), "W"), "2 entries, given W of shape"),
        (lambda: OverlappingGroups(0, ((0, 5),))(torch.ones(3)), "no index 5"),
        (lambda: TreeGroups(-1, ((0, 5),)).check((9, 3), "W"), "no index 5 along dim -1"),
        (lambda: Max(0)(torch.ones(3), INF), "no minimiser"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_lists_and_tensors_are_taken_for_tuples_and_the_text_form_comes_back():
    for p in (
        GroupLasso(0, [1, 2.5], groups=torch.tensor([3, 3, 7])),
        OverlappingGroups(1, [[0, 1], [1, 2]], 0.5),
        TreeGroups(1, [[0, 1], [1]], [0.5, 0.25]),
        GroupMCP(0, 0.5, groups=[0, 0, 1]),
        SumLargest(1, 3),
        Slope(0, [2, 1.0]),
    ):
        assert repr(Prox.parse(repr(p))) == repr(p)
    lams = torch.tensor([2.0, 1.0, 0.0])
    twin = Prox.parse(*Slope(0, lams).spell())
    assert torch.equal(twin.lams, lams)
    assert isinstance(Prox.parse("l21(dim=1, lam=0.1)"), GroupLasso)


def test_slope_with_a_tensor_is_taken_apart_and_transposed():
    p, x = Slope(0, tensor(1.0, 0.5, 0.2)), drawn(1, 3, 5)
    assert torch.allclose(p.take(slice(1, 3), 1)(x[:, 1:3]), p(x)[:, 1:3])
    assert torch.allclose(p.T(x.mT), p(x).mT)
    p.check((3, 5))
    with pytest.raises(ValueError, match="3 entries, given the transpose of W"):
        p.T.check((3, 5), "W")


def test_entries_of_no_group_are_left_alone_and_empty_tensors_are_empty():
    x = drawn(2, 2, 4)
    for p in (OverlappingGroups(1, ((0, 1), (1, 2)), 9.0), TreeGroups(1, ((0, 1, 2),), 9.0)):
        assert torch.equal(p(x)[:, 3], x[:, 3])
        assert (p(x)[:, :3] == 0).all()
    assert L2()(torch.zeros(0, 3)).shape == (0, 3)
    assert L2().value(torch.zeros(0, 3)) == 0
    assert GroupLasso(1).value(torch.zeros(3, 0)) == 0


@pytest.mark.parametrize("p", [Max(1, 0.0), SumLargest(1, 2, 0.0)], ids=repr)
def test_without_weight_every_point_is_a_minimiser(p):
    x = drawn(0, 3, 4)
    assert p.attained
    for step in (0.0, 1.0, INF, torch.full((3, 1), INF)):
        assert torch.equal(p(x, step), x)
    assert not Max(1, 0.1).attained
