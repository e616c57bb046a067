"""Losses against autograd, finite differences, the textbook's formulas and the dense sum."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import kl_div

from proxfactor import Dense, Observed, Problem, Sparse
from proxfactor.losses import (
    KL,
    AbsoluteError,
    Beta,
    ByColumn,
    ByRow,
    Frobenius,
    FunctionLoss,
    HingeLoss,
    HuberLoss,
    ItakuraSaito,
    LogisticLoss,
    Loss,
    Multinomial,
    NegativeBinomial,
    Ordinal,
    PinballLoss,
    PoissonLog,
    as_loss,
)

EXAMPLES = [Frobenius(), KL()]
AMOUNTS = [ItakuraSaito(), Beta(-1), Beta(0), Beta(0.5), Beta(1), Beta(1.5), Beta(2), Beta(3), NegativeBinomial(0.5, "identity")]
COUNTS = [PoissonLog(), NegativeBinomial(0.5), NegativeBinomial(3.0)]
REAL = [HuberLoss(), HuberLoss(0.3)]
CLASSES = [LogisticLoss(), Ordinal(5), Ordinal((0, 1, 4), (0.2, 3.0)), Multinomial()]
KINKED = [AbsoluteError(), PinballLoss(0.5), PinballLoss(0.9), HingeLoss()]
MIXED = [ByColumn({0: "huber(0.5)", "1:4": LogisticLoss(), 5: Ordinal(3)}, rest="kl"), ByRow({"0:7": "itakura"}, PoissonLog())]
SMOOTH = [*EXAMPLES, *AMOUNTS, *COUNTS, *REAL, *CLASSES]
ALL = [*SMOOTH, *KINKED]


def draw(loss, count=300, seed=0):
    """Predictions and data for a loss, float64; those of a block in rows of three."""
    r = np.random.default_rng(seed)
    p = r.normal(0, 2, count) if loss.real else r.gamma(1, 2, count) + 1e-3
    if isinstance(loss, Multinomial):
        x = np.eye(3)[r.integers(0, 3, count // 3)]
        x[: count // 9] = r.dirichlet(np.ones(3), count // 9)
        p = p.reshape(-1, 3)
    elif isinstance(loss, Ordinal):
        x = r.choice(loss._levels.numpy(), count)
    elif isinstance(loss, LogisticLoss | HingeLoss):
        x = r.integers(0, 2, count).astype(float)
        x[: count // 3] = r.random(count // 3) if isinstance(loss, LogisticLoss) else 1
    elif loss.real and not isinstance(loss, PoissonLog | NegativeBinomial):
        x = r.normal(0, 2, count)
    else:
        x = r.gamma(1, 2, count) + 1e-3
        if loss not in AMOUNTS or loss.beta is None or loss.beta > 0:
            x[: count // 5] = 0
    return torch.tensor(p), torch.tensor(x)


def of_each(loss, pred, x):
    """The slope of a cell, by central differences of the sum over what it is coupled with."""
    h, slope = 1e-5, torch.zeros_like(pred)
    for j in range(pred.shape[-1]) if loss.block else [slice(None)]:
        e = torch.zeros_like(pred)
        e[..., j] = h
        difference = loss(pred + e, x) - loss(pred - e, x)
        slope[..., j] = (difference.sum(-1) if loss.block else difference) / (2 * h)
    return slope


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_the_gradient_of_every_loss_is_that_of_autograd_and_of_finite_differences(loss):
    p, x = draw(loss)
    if isinstance(loss, HingeLoss):
        p = p[((2 * x - 1) * p - 1).abs() > 1e-3]
        x = x[: len(p)]
    good = torch.ones_like(p, dtype=torch.bool) if loss.smooth else (loss.grad(p - 1e-4, x) == loss.grad(p + 1e-4, x))
    grad = loss.grad(p, x)
    scale = 1 + grad.abs()
    assert grad.shape == p.shape
    assert grad.isfinite().all()
    assert ((grad - Loss.grad(loss, p, x)).abs() / scale)[good].max() < 1e-9
    assert ((grad - of_each(loss, p, x)).abs() / scale)[good].max() < 1e-4


@pytest.mark.parametrize("loss", SMOOTH, ids=repr)
def test_the_yardstick_of_every_loss_is_at_least_its_second_derivative(loss):
    p, x = draw(loss)
    h = 1e-5 * p.abs().clamp(min=1e-2)
    away = (p - x).abs()
    keep = (away - loss.delta).abs() > 1e-3 if isinstance(loss, HuberLoss) else torch.ones_like(p, dtype=torch.bool)
    second = of_each_second(loss, p, x, h)
    assert (loss.yardstick(p, x) - second >= -1e-4 * (1 + second.abs()))[keep].all()
    assert (loss.curvature(p, x) >= 0).all()
    assert (loss.yardstick(p, x) > 0).logical_or(loss.grad(p, x) == 0).all()
    if loss.bound is not None:
        assert (second <= loss.bound + 1e-6).all()


def of_each_second(loss, p, x, h):
    if not loss.block:
        return (loss.grad(p + h, x) - loss.grad(p - h, x)) / (2 * h)
    columns = [torch.eye(p.shape[-1], dtype=p.dtype)[j] * 1e-5 for j in range(p.shape[-1])]
    return torch.stack([((loss.grad(p + e, x) - loss.grad(p - e, x)) / 2e-5)[..., j] for j, e in enumerate(columns)], -1)


@pytest.mark.parametrize("loss", [*AMOUNTS, KL(), PoissonLog(), *REAL], ids=repr)
def test_a_step_along_the_yardstick_lowers_the_loss_of_a_cell_as_far_as_its_parabola_promises(loss):
    p, x = draw(loss)
    slope, bend = loss.grad(p, x), loss.yardstick(p, x)
    q = p - slope / bend
    inside = q > 0 if not loss.real else q == q
    promised = loss(p, x) - slope.square() / (2 * bend)
    assert (loss(q, x) <= promised + 1e-9 * (1 + loss(p, x).abs()))[inside].all()


@pytest.mark.parametrize("bound", [l for l in SMOOTH if l.bound is not None], ids=repr)
def test_a_parabola_under_the_bound_lies_above_the_loss_everywhere(bound):
    p, x = draw(bound)
    q = draw(bound, seed=1)[0]
    parts = bound(p, x) + bound.grad(p, x) * (q - p) + bound.bound / 2 * (q - p) ** 2 - bound(q, x)
    assert ((parts.sum(-1) if bound.block else parts) >= -1e-9).all()


def test_the_weight_of_huber_lies_above_the_loss_everywhere():
    loss = HuberLoss(0.7)
    p, x = draw(loss)
    for q in (x, 2 * x - p, draw(loss, seed=2)[0]):
        assert (loss(p, x) + loss.grad(p, x) * (q - p) + loss.curvature(p, x) / 2 * (q - p) ** 2 >= loss(q, x) - 1e-12).all()


@pytest.mark.parametrize("loss", [*EXAMPLES, *AMOUNTS, *COUNTS, *REAL, LogisticLoss()], ids=repr)
def test_the_least_that_a_loss_can_be_is_zero_and_is_where_its_mean_is_the_data(loss):
    _p, x = draw(loss)
    x = x[x > 0] if not isinstance(loss, LogisticLoss) else x[(x > 0) & (x < 1)]
    best = torch.logit(x) if isinstance(loss, LogisticLoss) else x.log() if loss.mean(torch.zeros(1)) == 1 else x
    torch.testing.assert_close(loss.mean(best), x)
    assert loss(best, x).abs().max() < 1e-12 * (1 + x.max())
    assert (loss(draw(loss, seed=3)[0][: len(x)], x) > 0).all()


@pytest.mark.parametrize("loss", [*AMOUNTS[:-1], AbsoluteError(), PinballLoss(0.3)], ids=repr)
def test_the_degree_of_other_losses_is_that_of_the_scale(loss):
    p, x = draw(loss)
    for c in (2.0**-20, 3.0):
        torch.testing.assert_close(loss(c * p, c * x), c**loss.degree * loss(p, x), rtol=1e-9, atol=1e-12)


def test_the_divergences_are_the_textbook_formulas_and_precise_near_the_data():
    x = torch.tensor([1.0, 2.0, 0.3], dtype=torch.float64)
    for b in (-1.0, 0.5, 1.5, 3.0, 5.0):
        for ratio in (0.2, 0.85, 1.12, 7.0):
            p = x * ratio
            far = (x**b + (b - 1) * p**b - b * x * p ** (b - 1)) / (b * (b - 1))
            torch.testing.assert_close(Beta(b)(p, x), far, rtol=1e-12, atol=0)
        for t in (1e-9, -1e-6, 1e-3, 0.05, 0.0999, -0.0999):
            p = x * (1 + t)
            t = (p - x) / x
            s, w = np.polynomial.legendre.leggauss(40)
            s, w = torch.tensor((s + 1) / 2), torch.tensor(w / 2)
            exact = x**b * t**2 * (w * s * (1 + s * t[:, None]) ** (b - 2)).sum(1)
            torch.testing.assert_close(Beta(b)(p, x), exact, rtol=1e-13, atol=0)
    p = torch.tensor([0.5, 3.0, 0.31], dtype=torch.float64)
    torch.testing.assert_close(ItakuraSaito()(p, x), x / p - (x / p).log() - 1, rtol=1e-12, atol=0)


def test_beta_is_frobenius_kl_and_itakura_saito_at_two_one_and_zero():
    for b, same in ((2, Frobenius()), (1, KL()), (0, ItakuraSaito())):
        p, x = draw(Beta(b))
        for f in ("__call__", "grad", "curvature", "yardstick", "mean", "guess"):
            args = (p,) if f in ("mean", "guess") else (p, x)
            assert torch.equal(getattr(Beta(b), f)(*args), getattr(same, f)(*args))
        assert (Beta(b).quadratic, Beta(b).degree, Beta(b).convex) == (same.quadratic, same.degree, same.convex)
        assert (Beta(b).real, Beta(b).bound) == (same.real, same.bound if b != 2 else None)
    A, B = positive(0, 3, 2), positive(1, 4, 2)
    for b in (1, 2):
        assert torch.equal(Beta(b).at_zero(A, B)[0], (KL() if b == 1 else Frobenius()).at_zero(A, B)[0])
    with pytest.raises(ValueError, match="no closed form"):
        Beta(1.5).at_zero(A, B)


def test_likelihoods_are_those_of_scipy_up_to_what_the_data_decides():
    r = np.random.default_rng(0)
    p, q = torch.tensor(r.normal(0, 1.5, 200)), torch.tensor(r.normal(0, 1.5, 200))
    k = torch.tensor(r.poisson(3, 200)).double()
    alpha = 0.7

    def nb(p):
        mean = p.exp().numpy()
        return -torch.tensor(stats.nbinom.logpmf(k.numpy(), 1 / alpha, 1 / (1 + alpha * mean)))

    pairs = [
        (PoissonLog(), k, lambda p: -torch.tensor(stats.poisson.logpmf(k.numpy(), p.exp().numpy()))),
        (NegativeBinomial(alpha), k, nb),
        (LogisticLoss(), (k > 2).double(), lambda p: -torch.tensor(stats.bernoulli.logpmf((k > 2).numpy(), p.sigmoid().numpy()))),
    ]
    for loss, x, minus_log in pairs:
        torch.testing.assert_close(loss(p, x) - loss(q, x), minus_log(p) - minus_log(q), rtol=1e-9, atol=1e-9)
    e, f = p.exp(), q.exp()
    identity = NegativeBinomial(alpha, "identity")
    torch.testing.assert_close(identity(e, k) - identity(f, k), nb(p) - nb(q), rtol=1e-9, atol=1e-9)
    y = k + 0.5
    gamma = [-torch.tensor(stats.gamma.logpdf(y.numpy(), 2.5, scale=m.numpy() / 2.5)) for m in (e, f)]
    torch.testing.assert_close(2.5 * (ItakuraSaito()(e, y) - ItakuraSaito()(f, y)), gamma[0] - gamma[1], rtol=1e-9, atol=1e-9)


def test_the_levels_of_an_ordinal_loss_are_likelihoods_that_add_up_to_one():
    p = torch.linspace(-8, 12, 41, dtype=torch.float64)
    for loss in (Ordinal(5), Ordinal((0, 1, 4), (0.2, 3.0))):
        levels = loss._levels
        chance = torch.stack([(-loss(p, level.expand_as(p))).exp() for level in levels])
        torch.testing.assert_close(chance.sum(0), torch.ones_like(p))
        torch.testing.assert_close((chance * levels[:, None]).sum(0), loss.mean(p))
        assert (loss.mean(p).diff() > 0).all()


@pytest.mark.parametrize("loss", [*KINKED, Frobenius(), KL(), HuberLoss(0.4)], ids=repr)
def test_the_prox_of_a_cell_is_the_best_of_a_fine_grid(loss):
    v, x = draw(loss, 60)
    if not loss.real:
        x = x.abs()
    grid = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    for step in (0.1, 1.0, 5.0):
        z = loss.prox(v, step, x)
        value = loss(z, x) + (z - v) ** 2 / (2 * step)
        for i in range(0, 60, 6):
            best = (loss(grid, x[i].expand_as(grid)) + (grid - v[i]) ** 2 / (2 * step)).min()
            assert value[i] <= best + 1e-9
    assert loss.steepest >= loss.grad(v, x).abs().max() - 1e-12 or loss.smooth


@pytest.mark.parametrize("loss", [*ALL, *MIXED], ids=repr)
def test_every_loss_is_read_back_from_its_text(loss):
    again = Loss.parse(repr(loss))
    assert type(again) is type(loss)
    assert repr(again) == repr(loss)
    assert again.formula
    assert again.data


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("itakura", ItakuraSaito),
        ("beta(0.5)", Beta),
        ("huber(1)", HuberLoss),
        ("l1", AbsoluteError),
        ("quantile(0.9)", PinballLoss),
        ("logistic", LogisticLoss),
        ("hinge", HingeLoss),
        ("ordinal(7)", Ordinal),
        ("softmax", Multinomial),
        ("nb(2, link='identity')", NegativeBinomial),
        ("poissonlog", PoissonLog),
        ("bycolumn({'0:3': huber(1), 4: logistic}, rest=kl)", ByColumn),
    ],
)
def test_short_texts_name_losses(text, kind):
    assert type(as_loss(text)) is kind


@pytest.mark.parametrize(
    ("loss", "bad", "said"),
    [
        ("itakura", 0.0, "positive data.*NaN.*kl"),
        ("beta(-1)", 0.0, "positive data"),
        ("beta(0.5)", -1.0, "not negative.*frobenius"),
        ("beta(1)", -1.0, "not negative"),
        ("poissonlog", -2.0, "counts.*-2"),
        ("nb", -1.0, "counts"),
        ("logistic", -1.0, r"0 and 1.*\(x \+ 1\) / 2"),
        ("hinge", 0.5, r"0 and 1.*\(x \+ 1\) / 2"),
        ("ordinal(3)", 0.0, r"levels 1, 2, 3.*ordinal\(\(0, 1, 2\)\)"),
        ("softmax", 0.3, "sum to one"),
    ],
)
def test_data_outside_the_domain_is_refused_with_a_way_out_and_holes_are_not(loss, bad, said):
    good = torch.tensor([[1.0, 0.0], [0.0, 1.0]]) if loss == "softmax" else torch.ones(2, 2)
    X = good.clone()
    X[0, 1] = bad
    with pytest.raises(ValueError, match=said):
        Problem(X, loss)
    X[0] = torch.nan
    problem = Problem(X, loss)
    W, H = torch.full((2, 1), 0.5), torch.full((1, 2), 0.5)
    W[0] = 0  # a prediction of 0 where there is no data
    assert problem.value(W, H).isfinite()
    assert not problem.loss.smooth or problem.gradient(W, H.mT).isfinite().all()


@pytest.mark.parametrize(
    "text",
    [
        *("huber(0)", "huber('a')", "quantile(1)", "nb(-1)", "nb(1, 'probit')", "beta('x')"),
        *("ordinal(1)", "ordinal((2, 1))", "ordinal(3, (1, 2, 3))", "bycolumn(3)", "bycolumn({0: bycolumn({0: kl})})"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(text):
    with pytest.raises(ValueError, match=r"it |they |give|needed|one loss"):
        as_loss(text)


# ── functions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_function_is_a_loss_if_it_keeps_the_shape():
    loss = as_loss(lambda pred, x: (pred - x).pow(4))
    p, x = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    assert loss(p, x).tolist() == [16, 0]
    assert loss.grad(p, x).tolist() == [32, 0]
    assert loss.curvature(p, x)[0] == 48
    assert isinstance(loss, FunctionLoss)
    assert as_loss(torch.nn.functional.smooth_l1_loss).__class__ is FunctionLoss
    for f in (torch.nn.functional.mse_loss, lambda p, x: 3.0, lambda p, x: p[:1]):
        with pytest.raises(ValueError, match="reduction='none'"):
            Problem(torch.ones(2, 2), f).value(torch.ones(2, 1), torch.ones(1, 2))
    with pytest.raises(ValueError, match="cannot be differentiated"):
        as_loss(lambda pred, x: pred.detach()).grad(p, x)
    with pytest.raises(TypeError, match=r"write KL\(\)"):
        as_loss(KL)


def test_a_function_without_a_curvature_still_has_one_to_begin_with():
    loss = as_loss(lambda pred, x: (pred - x).abs())
    assert (loss.curvature(torch.tensor([3.0, -1.0]), torch.zeros(2)) > 0).all()


# ── by column ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(seed=0):
    """8 x 7: two real columns, a count, a class of three, a level; and the losses that fit."""
    r = np.random.default_rng(seed)
    x = np.column_stack([r.normal(size=(8, 2)), r.poisson(2, 8), np.eye(3)[r.integers(0, 3, 8)], r.integers(1, 4, 8)])
    return torch.tensor(x), ByColumn({"0:2": HuberLoss(0.5), 2: PoissonLog(), "3:6": Multinomial(), 6: Ordinal(3)})


def test_a_loss_by_column_is_each_loss_on_its_columns_in_every_kind_of_matrix():
    x, loss = table()
    p = torch.tensor(np.random.default_rng(1).normal(size=x.shape))
    parts = [(HuberLoss(0.5), slice(0, 2)), (PoissonLog(), slice(2, 3)), (Multinomial(), slice(3, 6)), (Ordinal(3), slice(6, 7))]
    hidden = torch.zeros_like(x, dtype=torch.bool)
    hidden[2, 0] = hidden[5, 2] = hidden[1, 3:6] = hidden[7, 6] = True
    holes = x.masked_fill(hidden, torch.nan)
    for f in ("__call__", "grad", "curvature", "yardstick"):
        dense = torch.cat([getattr(l, f)(p[:, c], x[:, c]) for l, c in parts], 1)
        torch.testing.assert_close(getattr(loss.at(Dense(x)), f)(p, x), dense)
        torch.testing.assert_close(getattr(loss.at(Dense(x)).T.at(Dense(x).T), f)(p.mT, x.mT), dense.mT)
        X = Observed(holes)
        torch.testing.assert_close(getattr(loss.at(X), f)(p[~hidden], X.entries()), dense[~hidden])
        T = X.T
        back = T.like(getattr(loss.at(X).T.at(T), f)(p.mT[~hidden.mT], T.entries())).T.entries()
        torch.testing.assert_close(back, dense[~hidden])
    means = torch.cat([l.mean(p[:, c]) for l, c in parts], 1)
    torch.testing.assert_close(loss.mean(p), means)
    torch.testing.assert_close(loss.at(Dense(x)).mean(p[:3]), means[:3])
    assert (loss.smooth, loss.convex, loss.real, loss.degree, loss.bound) == (True, True, True, None, None)


def test_columns_are_named_by_name_number_and_range_and_mistakes_are_named():
    x = torch.rand(4, 4)
    named = ByColumn({"age": "huber(1)", "b, 3": "kl"}).at(Dense(x), ["age", "a", "b", "c"])
    assert repr(named) == "ByColumn({0: HuberLoss(1), '2, 3': KL()}, Frobenius())"
    assert repr(ByColumn({":": "kl"}).at(Dense(x))) == "ByColumn({'0:': KL()}, Frobenius())"
    for parts, said in [
        ({"agee": "kl"}, "agee.*columns are age, a, b"),
        ({0: "kl", "age": "kl"}, "0 twice"),
        ({"0:2": "kl", 1: "huber"}, "1 twice"),
        ({7: "kl"}, "names column 7, and there are 4"),
    ]:
        with pytest.raises(ValueError, match=said):
            ByColumn(parts).at(Dense(x), ["age", "a", "b", "c"])
    with pytest.raises(ValueError, match="no names"):
        ByColumn({"age": "kl"}).at(Dense(x))


def test_a_part_of_a_loss_by_column_is_the_loss_of_that_part():
    x, loss = table()
    p = torch.tensor(np.random.default_rng(1).normal(size=x.shape))
    for index in (torch.tensor([6, 0]), torch.tensor([3, 4, 5, 2]), slice(1, 6)):
        torch.testing.assert_close(loss.take(index, 1)(p[:, index], x[:, index]), loss(p, x)[:, index])
    rows = loss.T.take(slice(2, 7), 0)
    torch.testing.assert_close(rows(p.mT[2:7], x.mT[2:7]), loss(p, x).mT[2:7])
    assert loss.take(slice(0, 3), 0) is loss
    with pytest.raises(ValueError, match="3 columns together"):
        loss.take(torch.tensor([3, 4]), 1)


def test_a_block_needs_whole_rows():
    x, loss = table()
    x[2, 4] = torch.nan
    for X in (Dense(x), Observed(x)):
        with pytest.raises(ValueError, match="all of their cells or none"):
            loss.at(X)
    x[2, 3:6] = torch.nan
    for X in (Dense(x), Observed(x), Dense(x).T):
        Problem(X, loss if X.shape == x.shape else loss.T)
    with pytest.raises(ValueError, match="one weight"):
        loss.at(Dense(x, torch.rand(x.shape)))


def test_a_loss_by_column_sums_its_zeros_in_closed_form_where_all_losses_do():
    loss, A, B = ByColumn({"0:3": "kl"}, rest="frobenius"), positive(0, 5, 2), positive(1, 7, 2)
    dense = loss(A @ B.mT, torch.zeros(5, 7).double())
    torch.testing.assert_close(loss.at_zero(A, B)[0], dense.sum(1))
    torch.testing.assert_close(loss.T.at_zero(B, A)[0], dense.sum(0))
    Problem(Sparse(torch.eye(4, 7).to_sparse()), loss)
    with pytest.raises(ValueError, match="dense array"):
        Problem(Sparse(torch.eye(4, 7).to_sparse()), ByColumn({0: "logistic"}))


def positive(seed, *shape):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3 + 0.05


@pytest.mark.parametrize("loss", EXAMPLES, ids=repr)
def test_the_gradient_is_that_of_autograd_and_of_finite_differences(loss):
    p, x = positive(0, 40), positive(1, 40)
    x[:5] = 0
    grad = loss.grad(p, x)
    assert torch.allclose(grad, Loss.grad(loss, p, x), atol=1e-12)
    h = 1e-6
    assert torch.allclose(grad, (loss(p + h, x) - loss(p - h, x)) / (2 * h), atol=1e-6)
    assert not p.requires_grad


@pytest.mark.parametrize("loss", EXAMPLES, ids=repr)
def test_a_loss_is_zero_at_the_data_and_positive_elsewhere(loss):
    x = positive(2, 30)
    assert torch.equal(loss(x, x), torch.zeros(30).double())
    assert (loss(positive(3, 30), x) > 0).all()


def test_the_squared_loss_lies_under_its_parabola_exactly():
    loss, p, q, x = Frobenius(), positive(4, 30), positive(5, 30), positive(6, 30)
    bound = loss(p, x) + loss.grad(p, x) * (q - p) + loss.curvature(p, x) / 2 * (q - p) ** 2
    assert torch.allclose(loss(q, x), bound)


def test_the_curvature_of_kl_is_its_second_derivative():
    p, x, h = positive(7, 30) + 0.2, positive(8, 30), 1e-5
    second = (KL().grad(p + h, x) - KL().grad(p - h, x)) / (2 * h)
    assert torch.allclose(KL().curvature(p, x), second, rtol=1e-6)
    assert KL().curvature(p, 0 * x).abs().max() == 0


def test_the_yardstick_of_kl_does_not_vanish_where_the_data_is_zero():
    p, x = torch.tensor([2.0, 2.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 8.0, 0.0])
    assert KL().yardstick(p, x).tolist() == [0.5, 0.5, 2.0, 0.0]
    assert torch.equal(Frobenius().yardstick(p, x), torch.ones(4))


@pytest.mark.parametrize("loss", EXAMPLES, ids=repr)
def test_at_zero_is_the_sum_over_a_matrix_of_zeros_and_its_gradient(loss):
    A, B = positive(9, 5, 3).requires_grad_(), positive(10, 7, 3)
    dense = loss(A @ B.mT, torch.zeros(5, 7).double()).sum(1)
    value, grad = loss.at_zero(A.detach(), B)
    assert torch.allclose(value, dense)
    assert torch.allclose(grad, torch.autograd.grad(dense.sum(), A)[0])
    assert grad.shape == A.shape


@pytest.mark.parametrize("loss", EXAMPLES, ids=repr)
def test_the_degree_is_that_of_the_scale(loss):
    p, x = positive(11, 20), positive(12, 20)
    for c in (1e-3, 5.0):
        assert torch.allclose(loss(c * p, c * x), c**loss.degree * loss(p, x), rtol=1e-9)


@pytest.mark.parametrize("ratio", [1e-15, 1e-12, 1e-8, 1e-4, 1e-2, 0.0999, 0.1001, 0.5, 3.0, 1e10, 1e100])
def test_kl_is_precise_near_and_far_from_the_data(ratio):
    for x in (1.0, 3.7, 1e-8, 1e12):
        for p in (x * (1 + ratio), x * (1 - ratio), x / (1 + ratio)):
            if p <= 0:
                continue
            u = (p - x) / x  # the relative difference as the two numbers have it
            expected = x * sum((-u) ** k / k for k in range(2, 9)) if abs(u) < 1e-3 else kl_div(x, p)
            got = KL()(torch.tensor(p, dtype=torch.float64), torch.tensor(x, dtype=torch.float64)).item()
            assert got == pytest.approx(expected, rel=1e-11, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_is_never_nan_on_what_is_not_negative_nor_is_its_gradient(dtype):
    info = torch.finfo(dtype)
    ends = torch.tensor([0.0, info.smallest_normal / 8, info.smallest_normal, 1e-20, 1e-3, 1.0, 1e20, info.max / 1e4], dtype=dtype)
    p, x = (t.reshape(-1).clone() for t in torch.meshgrid(ends, ends, indexing="ij"))
    assert torch.equal(KL()(p, x) == math.inf, (p == 0) & (x > 0))
    for values in (KL()(p, x), KL().grad(p, x), KL().curvature(p, x), KL().yardstick(p, x), Loss.grad(KL(), p, x)):
        assert not values.isnan().any()
        assert values.dtype == dtype
    assert (KL()(p, x) >= 0).all()


def test_kl_at_its_edges():
    p, x = torch.tensor([0.0, 0.0, 2.0, -1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert KL()(p, x).tolist() == [0.0, math.inf, 2.0, math.inf]
    assert KL().grad(p, x).tolist() == [1.0, -math.inf, 1.0, 2.0]
    far = KL()(torch.tensor(1e-20, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)).item()
    assert far == pytest.approx(20 * math.log(10) - 1)


def test_kl_refuses_negative_data_and_takes_the_rest():
    KL().check(torch.tensor([0.0, 1.0]))
    KL().check(torch.zeros(0))
    Frobenius().check(torch.tensor([-1.0]))
    with pytest.raises(ValueError, match=r"not negative.*-2.*frobenius"):
        KL().check(torch.tensor([0.0, -2.0]))


def test_a_loss_without_a_closed_form_at_zero_says_what_to_do():
    class Cubic(Loss):
        def __call__(self, pred, x):
            return (pred - x).abs() ** 3

        def curvature(self, pred, x):
            return 6 * (pred - x).abs()

        def _write(self, tensors):
            return "Cubic()"

    with pytest.raises(ValueError, match=r"Cubic.*dense array.*Observed"):
        Cubic().at_zero(torch.ones(1, 1), torch.ones(1, 1))
    assert Cubic().grad(torch.tensor([3.0]), torch.tensor([1.0])).tolist() == [12.0]
    assert Cubic().at(None).T.mean(torch.tensor(2.0)) == 2


def test_as_loss_reads_losses_and_names():
    kl = KL()
    assert as_loss(kl) is kl
    assert isinstance(as_loss("squared"), Frobenius)
    with pytest.raises(ValueError, match="did you mean Frobenius"):
        as_loss("frobenios")
    with pytest.raises(TypeError, match="a loss is needed"):
        as_loss(3)
