"""Operators made from others: identities, refusals, and plain functions."""

import functools
import itertools
import math

import pytest
import torch
from operators import INF, MASK, VALUES, WEIGHTS, drawn, tensor

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
    Transposed,
    Unconstrained,
    as_prox,
)
from proxfactor.prox.balls import L1Ball, L2Ball, TopK
from proxfactor.prox.built import Columns, Composed, Conjugate, Distance, Dykstra, Envelope, Minimum, Rows, Scaled, Translated
from proxfactor.prox.groups import GroupLasso
from proxfactor.prox.norms import LInf, Max
from proxfactor.prox.order import Convex, Isotonic
from proxfactor.prox.penalties import Huber, LogBarrier
from proxfactor.prox.variation import Smooth, TotalVariation

M, N = 3, 4
STEPS = 10 ** drawn(1, M, N)
TURN = torch.linalg.qr(drawn(70, 3, 3))[0]


# ── other numbers, other functions ────────────────────────────────────────────────────────────────────────────────────


def test_flags_and_texts_come_from_inside():
    for p in (Scaled(LogBarrier(0.3), 2.0), Translated(LogBarrier(0.3), 1.0), Envelope(LogBarrier(0.3)), LogBarrier(WEIGHTS).T):
        assert not p.attained
    assert Scaled(LogBarrier(0.3), 0.0).attained
    assert L1(0.4).T.complex
    assert Scaled(L1(WEIGHTS).T, 2.0).complex
    assert not Translated(NonNegative(), 1.0).cone
    assert Translated(L1(1.0), 1.0).cone
    assert Translated(NonNegative(), 0.0).cone
    for text in ("Scaled(L1(0.1), 2)", "Translated(L1(0.1), -2)", "Conjugate(Simplex(dim=0))", "Envelope(L1(0.1), 0.5)"):
        assert repr(Prox.parse(text)) == text


def test_transposes_and_parts_carry_their_tensors():
    x, by = drawn(2, M, N), drawn(3, M, N)
    p = Translated(Simplex(0), by)
    assert torch.equal(p.T(x.mT), p(x).mT)
    assert torch.equal(p.take(slice(1, 3), 1)(x[:, 1:3]), p(x)[:, 1:3])
    flat = Translated(L1(1.0), by[0])
    assert torch.equal(flat.T(x.mT), flat(x).mT)
    text, tensors = p.spell()
    assert torch.equal(Prox.parse(text, tensors)(x), p(x))


@pytest.mark.parametrize(
    "p", [L1(WEIGHTS), Simplex(0), L2Ball(1, 0.7), Isotonic(0), TotalVariation(1, 0.4), Huber(0.4), Entropy(0.3)], ids=repr
)
def test_moreau_the_prox_of_a_function_and_that_of_its_conjugate_add_up_to_x(p):
    x = 2 * drawn(4, M, N)
    twice = Conjugate(Conjugate(p))
    for step in (0.7, STEPS):
        assert torch.allclose(p(x, step) + step * Conjugate(p)(x / step, 1 / torch.as_tensor(step)), x, atol=1e-9)
        assert torch.allclose(twice(x, step), p(x, step), atol=1e-9)


@pytest.mark.parametrize(
    ("p", "partner"),
    [
        (L2Ball(1, 0.7), GroupLasso(1, 0.7)),
        (GroupLasso(0, 0.6), L2Ball(0, 0.6)),
        (LInf(0, 1.0), L1Ball(0)),
        (Simplex(1), Max(1)),
        (L2Squared(0.5), L2Squared(2.0)),
        (NonNegative(), Box(-INF, 0)),
    ],
    ids=str,
)
def test_known_partners(p, partner):
    x = 2 * drawn(5, M, N)
    c = Conjugate(p)
    assert torch.allclose(c(x, 0.7), partner(x, 0.7), atol=1e-12)
    assert torch.allclose(c(x, 0.0), partner(x, 0.0), atol=1e-9)
    y = partner(x, 0.7)
    assert c.value(y).item() == pytest.approx(partner.value(y).item(), rel=1e-8, abs=1e-8)
    if partner.value(2 * x) == INF:
        assert c.value(2 * x) == INF


def test_a_conjugate_without_a_minimiser_says_so_and_one_of_what_is_not_convex_is_refused():
    for p in (Simplex(1), Entropy(0.3)):
        with pytest.raises(ValueError, match="no minimiser"):
            Conjugate(p)(drawn(0, M, N), INF)
    assert torch.allclose(Conjugate(L2Squared(2.0))(drawn(0, M, N), INF), torch.zeros(M, N).double(), atol=1e-9)
    for p, why in (
        (TopK(0, 1), "not convex"),
        (Normalize(dim=0), "not exact"),
        (L1(1) + TotalVariation(1) + Simplex(0), "not exact"),
    ):
        with pytest.raises(ValueError, match=why):
            Conjugate(p)


@pytest.mark.parametrize("p", [NonNegative(), L1(0.5), Simplex(1), Huber(0.5), TotalVariation(0, 0.4)], ids=repr)
def test_the_gradient_of_an_envelope_is_that_of_its_value(p):
    e, x = Envelope(p, 0.6), drawn(6, M, N).requires_grad_()
    slope = torch.autograd.functional.jacobian(lambda v: e.value(v), x)
    assert torch.allclose(e.gradient(x), slope, atol=1e-6)
    y = e(x.detach(), 0.5)
    assert torch.allclose(y - x + 0.5 * e.gradient(y), torch.zeros_like(x), atol=1e-10)  # its prox by its gradient
    assert torch.allclose(e(x.detach(), INF), p(x.detach(), INF))


def test_numbers_are_checked():
    with pytest.raises(ValueError, match="at least 0"):
        Scaled(L1(), -1)
    with pytest.raises(ValueError, match="positive"):
        Envelope(L1(), 0)
    with pytest.raises(TypeError, match="one number"):
        Scaled(L1(), [1.0, 2.0])
    with pytest.raises(ValueError, match="not finite"):
        Translated(L1(), INF)
    for kind in (Scaled, Conjugate, Envelope):
        with pytest.raises(TypeError, match="operator is needed"):
            kind(3)
    with pytest.raises(ValueError, match=r"by of .* does not fit W"):
        Translated(L1(), drawn(0, 2, 2)).check((3, 4), "W")


# ── other coordinates ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_other_coordinates():
    x = drawn(7, M, N)
    p = Composed(0, L1(0.4), TURN)
    assert torch.allclose(p(x, 0.5), TURN.mT @ L1(0.4)(TURN @ x, 0.5))
    assert torch.allclose(p.take(slice(1, 2), 1)(x[:, 1:2]), p(x)[:, 1:2])
    assert p.metric == "group"
    assert p.dims == (0,)
    assert torch.allclose(Composed(1, NonNegative(), torch.ones(1, 4))(x).sum(1), x.sum(1).clamp(min=0))
    with pytest.raises(ValueError, match="couples dim 0"):
        p.take(slice(0, 1), 0)
    with pytest.raises(ValueError, match="no multiple of the identity"):
        Composed(0, L1(), drawn(0, 3, 3))
    with pytest.raises(ValueError, match="matrix is needed"):
        Composed(0, L1(), drawn(0, 3))
    with pytest.raises(ValueError, match="different ends"):
        Composed(0, Simplex(-1), TURN)
    with pytest.raises(ValueError, match="3 columns"):
        p(x.mT)
    with pytest.raises(ValueError, match="3 columns"):
        p.check((4, 3))


# ── other rows ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_and_columns_see_their_own_part():
    x = drawn(8, 6, N)
    p = Rows({"0:2, 4": Simplex(0), 3: "l1(0.5)"}, rest=NonNegative())
    y = p(x, 0.7)
    assert torch.equal(y[[0, 1, 4]], Simplex(0)(x[[0, 1, 4]]))
    assert torch.equal(y[3], L1(0.5)(x[3], 0.7))
    assert torch.equal(y[[2, 5]], x[[2, 5]].clamp(min=0))
    assert torch.equal(p.T(x.mT, 0.7), y.mT)
    assert isinstance(p.T, Columns)
    step = 10 ** drawn(9, 6, N)
    assert torch.equal(p(x, step)[[0, 1, 4]], Simplex(0)(x[[0, 1, 4]], step[[0, 1, 4]]))
    assert torch.equal(p(x, step[0])[3], L1(0.5)(x[3], step[0]))
    assert repr(p) == "Rows({'0:2, 4': Simplex(dim=0), 3: L1(0.5)}, rest=NonNegative())"
    assert repr(Prox.parse(repr(p))) == repr(p)


def test_one_component_is_the_plain_operator():
    p = Columns({"0:2": Smooth(0), 3: L1(tensor([1.0], [2.0], [3.0]))}, rest=NonNegative())
    assert not p.couples(1)
    parts = [p.take(slice(q, q + 1), 1) for q in range(6)]
    assert [type(q) for q in parts] == [Smooth, Smooth, NonNegative, L1, NonNegative, NonNegative]
    assert parts[3].lam.shape == (3, 1)
    assert repr(p.take(slice(1, 5), 1)) == "Columns({0: Smooth(dim=0), 2: L1($lam)}, rest=NonNegative())"
    assert repr(p.take(slice(1, None), 1)) == "Columns({0: Smooth(dim=0), 2: L1($lam)}, rest=NonNegative())"
    assert repr(Rows({"2:": L1()}).take(slice(1, None), 0)) == "Rows({'1:': L1(1)})"
    assert isinstance(Rows({"2:": L1()}).take(slice(2, None), 0), L1)
    assert repr(p.take(torch.tensor([4, 1, 0, 3]), 1)) == "Columns({'1, 2': Smooth(dim=0), 3: L1($lam)}, rest=NonNegative())"
    with pytest.raises(ValueError, match="couples dim 0"):
        p.take(slice(0, 1), 0)
    for index in (slice(-1, None), slice(0, 4, 2), torch.tensor([-1])):
        with pytest.raises(ValueError, match="count from 0"):
            p.take(index, 1)


@pytest.mark.parametrize(
    "index", [slice(0, 3), slice(2, 7), slice(3, 3), torch.tensor([6, 0, 3, 4, 1]), torch.arange(7) % 2 == 0], ids=str
)
def test_part_of_the_rows_is_the_part_of_the_whole(index):
    x = drawn(10, 7, N)
    p = Rows({"1:3, 5": L1(drawn(11, 3, N).abs()), 3: Simplex(1)}, rest=Box(drawn(12, 3, N) - 1, 2.0))
    assert torch.equal(p.take(index, 0)(x[index], 0.5), p(x, 0.5)[index])
    assert torch.equal(p.T.take(index, 1)(x[index].mT, 0.5), p(x, 0.5)[index].mT)


@pytest.mark.parametrize("key", ["", "a", "1:0", "2:2", "-1", -1, 1.5, True, "0:4:2", ":,"], ids=repr)
def test_a_key_names_rows(key):
    with pytest.raises(ValueError, match=r"key .* are known"):
        Rows({key: L1()})


def test_rows_that_overlap_or_are_not_there_are_refused():
    for parts in ({"0:3": L1(), 2: L1()}, {"1, 1": L1()}, {"0:": L1(), 7: L1()}, {1: L1(), "1": L1()}):
        with pytest.raises(ValueError, match="twice"):
            Rows(parts)
    for key in (3, "2:4", "3:"):
        with pytest.raises(ValueError, match="has 3 rows"):
            Rows({key: L1()})(torch.ones(3, 2))
        with pytest.raises(ValueError, match=r"W of shape .* has 3 columns"):
            Columns({key: L1()}).check((2, 3), "W")
    with pytest.raises(ValueError, match="the rows 0 of W"):
        Rows({0: L1(WEIGHTS)}).check((3, 4), "W")
    with pytest.raises(TypeError, match="dict is needed"):
        Rows(L1())
    with pytest.raises(ValueError, match="takes a matrix"):
        Rows({0: L1()})(torch.ones(3))


# ── other sets ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_dykstra_finds_the_nearest_common_point():
    x = 2 * drawn(13, 5, N)
    p = Dykstra((Isotonic(0), Convex(0)))
    y = p(x)
    for q in (Isotonic(0), Convex(0)):
        assert q.violation(y).max() < 1e-8
    assert torch.allclose(p(y), y, atol=1e-7)
    for i in range(60):  # the obtuse angle of a projection
        z = p(y + drawn(i, 5, N))
        assert ((x - y) * (z - y)).sum() < 1e-6
    assert p.value(y) == 0
    assert p.cone
    assert p.exact
    assert repr(Prox.parse(repr(p))) == repr(p) == "Dykstra((Isotonic(dim=0), Convex(dim=0)))"
    assert repr(Dykstra("nonneg", tol=1e-6)) == "Dykstra((NonNegative(),), tol=1e-06)"
    assert torch.allclose(p.T(x.mT), y.mT, atol=1e-7)
    assert torch.equal(p.take(slice(1, 2), 1)(x[:, 1:2]).round(decimals=6), y[:, 1:2].round(decimals=6))
    assert p(x * math.nan).isnan().all()


def test_sets_that_do_not_meet_are_named_and_what_is_no_convex_set_is_refused():
    with pytest.raises(ValueError, match=r"Dykstra\(\(Simplex.* do not meet"):
        Dykstra((Simplex(0), SumToOne(1)), most=100)(drawn(0, 3, 4))
    for parts in ((TopK(0, 1),), (L1(),), ()):
        with pytest.raises(ValueError, match="convex sets are needed"):
            Dykstra(parts)
    with pytest.raises(ValueError, match="from 1 on"):
        Dykstra((Simplex(0),), most=0)


# ── the transpose ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_transpose_takes_matrices_and_operators_only():
    with pytest.raises(ValueError, match="takes a matrix"):
        Transposed(Simplex(0))(torch.ones(3))
    with pytest.raises(TypeError, match="operator is needed"):
        Transposed(3)
    assert Fixed(VALUES, MASK).T.T.values is not None


# ── functions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Halver(torch.nn.Module):
    def forward(self, x, step):
        return x / 2 * step


class Caller:
    def __call__(self, x, other, *, step=None):
        return x * other * step


def with_step_named(x, lam=3.0, step=1.0):
    return x * step


def with_required_second(x, t):
    return x * t


def with_optional_second(x, dim=0):
    return x + dim


def in_place(x):
    return x.mul_(3)


@pytest.mark.parametrize(
    ("fn", "factor"),
    [
        (with_step_named, 0.5),
        (with_required_second, 0.5),
        (with_optional_second, 1),
        (in_place, 3),
        (Halver(), 0.25),
        (functools.partial(with_step_named, lam=2.0), 0.5),
        (functools.partial(with_step_named, step=7.0), 7),
        (functools.partial(Caller(), other=2.0), 1),
        (torch.nn.functional.relu, 1),
        (torch.relu, 1),
        (torch.nn.Threshold(0, 0), 1),
        (torch.nn.Threshold(0, 0, inplace=True), 1),
        (torch.nn.Identity(), 1),
        (lambda x, *rest, **options: x * (1 + len(rest) + len(options)), 1),
    ],
    ids=lambda v: getattr(v, "__name__", type(v).__name__),
)
def test_a_plain_function_gets_the_step_by_its_name_or_as_a_required_second(fn, factor):
    x = tensor(1.0, 2.0, 3.0)
    before = x.clone()
    y = as_prox(fn)(x, 0.5)
    assert torch.equal(y, factor * x)
    assert torch.equal(x, before)
    assert y.data_ptr() != x.data_ptr()


def test_a_function_states_that_nothing_is_known_of_it():
    p = as_prox(torch.relu)
    assert (p.exact, p.convex, p.metric, p.dims) == (False, False, "group", None)
    assert p.value(tensor(-1.0)) == 0
    assert p.violation(tensor([-1.0])).tolist() == [[0.0]]
    assert p.couples(0)
    assert p.couples(1)
    assert p(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="couples dim 0"):
        p.take(slice(0, 1), 0)
    with pytest.raises(ValueError, match="constant over all dims"):
        p(torch.ones(2), torch.ones(2))
    with_step_named.value = lambda x: x.sum()
    assert as_prox(with_step_named).value(tensor(1.0, 2.0)) == 3
    del with_step_named.value


def test_a_function_that_changes_the_shape_or_returns_no_tensor_is_refused():
    with pytest.raises(ValueError, match=r"\(3,\) into \(1, 3\)"):
        as_prox(lambda x: x[None])(torch.ones(3))
    with pytest.raises(ValueError, match="into ndarray"):
        as_prox(lambda x: x.numpy())(torch.ones(3))


def test_as_prox_reads_operators_texts_functions_and_none():
    p = Simplex(1)
    assert as_prox(p) is p
    assert repr(as_prox("simplex(dim=1)")) == repr(p)
    assert isinstance(as_prox(None), Unconstrained)
    with pytest.raises(TypeError, match=r"write NonNegative\(\)"):
        as_prox(NonNegative)
    with pytest.raises(TypeError, match="operator is needed"):
        as_prox(3)


def test_the_value_of_a_complex_conjugate_sees_the_phase():
    x = torch.complex(drawn(1, M, N), drawn(2, M, N))
    assert Conjugate(L2Ball(1, 0.7)).value(x).item() == pytest.approx(0.7 * x.abs().square().sum(1).sqrt().sum().item())


# ── Distance and Minimum ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("p", [Simplex(1), L2Ball(0, 2.0), NonNegative(), Dykstra((Simplex(1), Box(0, 0.7)))], ids=repr)
def test_a_slice_goes_to_the_set_or_towards_it_by_the_step(p, step):
    x = 3 * drawn(0, M, N)
    y, near = Distance(p, 0.8)(x, step), p(x)
    before, after = p.violation(x), p.violation(y)
    assert torch.allclose(after, (before - 0.8 * step).clamp(min=0), atol=1e-8)
    assert torch.allclose(p(y), near, atol=1e-8)
    assert Distance(p, 0.8).value(x).item() == pytest.approx(0.8 * before.sum().item())
    assert torch.allclose(Distance(p, 0.8)(x, INF), near)
    assert torch.equal(Distance(p, 0.0)(x, INF), x)
    assert repr(Prox.parse(repr(Distance(p, 0.8)))) == repr(Distance(p, 0.8))


def test_distance_of_the_point_zero_is_the_norm_and_other_terms_are_refused():
    x = drawn(1, M, N)
    zero = Conjugate(Unconstrained())
    assert torch.allclose(Distance(Box(0, 0), 0.4)(x, 0.9), L1(0.4)(x, 0.9))
    assert torch.allclose(Distance(zero, 0.4)(x, 0.9), L1(0.4)(x, 0.9))
    for p in (L1(), TopK(0, 1), Normalize(dim=0)):
        with pytest.raises(ValueError, match="convex set is needed"):
            Distance(p)
    with pytest.raises(ValueError, match="lam of Distance is -1"):
        Distance(NonNegative(), -1)


def test_minimum_takes_the_best_of_its_parts():
    parts = (L1(0.4), Simplex(0), Translated(L2Squared(2.0), by=1.0), NonNegative())
    p = Minimum(parts)
    for seed, step in itertools.product(range(20), (0.0, 1e-3, 0.5, 3.0, 1e6, INF)):
        x = 2 * drawn(seed, M, N)
        y = p(x, step)
        found = [q(x, step) for q in parts]

        def cost(z, q, x=x, step=step):
            away = ((z - x) ** 2).sum().item()
            g = q.value(z).item()
            return (g, away) if step == INF else (away if step == 0 else g + away / (2 * step),)

        best = min(cost(z, q) for z, q in zip(found, parts, strict=True))
        assert any(torch.equal(y, z) and cost(z, q) <= tuple(b + 1e-12 for b in best) for z, q in zip(found, parts, strict=True))
        assert p.value(x).item() == min(q.value(x).item() for q in parts)
    assert repr(Prox.parse(repr(p))) == repr(p)
    assert repr(Minimum("nonneg")) == "Minimum((NonNegative(),))"
    with pytest.raises(ValueError, match="exact operators are needed"):
        Minimum((L1(), Normalize(dim=0)))
