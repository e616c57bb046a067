"""ExplicitMF and ImplicitMF against their objective, written out cell by cell."""

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from proxfactor import L2Squared
from proxfactor.ratings.mf import ExplicitMF, ImplicitMF
from proxfactor.ratings.pattern import Pattern
from proxfactor.ratings.tables import read_ratings

M, N = 30, 20
RATINGS, CLICKS = ExplicitMF(rank=3, reg=0.5), ImplicitMF(rank=3, reg=0.02, unobserved=0.2)
PLAIN = ExplicitMF(rank=3, reg=0.5, pattern=0)


def ratings(seed=0, m=M, n=N, share=0.4, weight=False):
    """Users of two tastes who rate what they saw from 1 to 5."""
    rng = np.random.default_rng(seed)
    truth = 3 + rng.normal(size=(m, 1)) / 2 + rng.normal(size=(1, n)) / 2 + rng.normal(size=(m, 2)) @ rng.normal(size=(2, n)) / 2
    seen = rng.random((m, n)) < share
    seen[:, 0] = seen[0] = True
    u, i = np.nonzero(seen)
    r = np.clip(np.rint(truth[u, i] + rng.normal(size=len(u)) / 3), 1, 5)
    frame = pd.DataFrame({"user": u, "item": i, "rating": r})
    if not weight:
        return read_ratings(frame)
    return read_ratings(frame.assign(w=rng.uniform(0.2, 2.0, len(u))), "user", "item", "rating", weight="w")


def dense(data, w=None, background=0.0):
    """(values, weights) of every cell."""
    m, n = data.shape
    R, Wt = np.zeros((m, n)), np.full((m, n), background)
    R[data.user, data.item] = data.value
    Wt[data.user, data.item] = (np.ones(len(data)) if data.weight is None else data.weight) if w is None else w
    return R, Wt


def counts(data, background=0.0):
    m, n = data.shape
    return (
        np.maximum(np.bincount(data.user, minlength=m) + background * n, 1),
        np.maximum(np.bincount(data.item, minlength=n) + background * m, 1),
    )


def explicit_objective(model, data):
    """½ Σ w (t - b - c - x·y)² + the ridges, from the served arrays, in the divided units."""
    R, Wt = dense(data)
    s, mean, served = model.model_.info["scale"], model.model_.mean, model.model_
    b, c, X, Y = served.b / s, served.c / s, served.X.astype(float) / s, served.Y.astype(float)
    left = (R - mean) / s - b[:, None] - c[None] - X @ Y.T
    biases = 1.0 if model.reg_biases is None else (model.reg_biases / model.reg) ** 0.5
    rows = np.column_stack([biases * b, X]), np.column_stack([biases * c, Y])
    sides = zip(rows, counts(data), patterns(model, data), strict=True)
    ridge = sum(pulled(F, model.reg * n**model.nu, known) for F, n, known in sides)
    return ((Wt * left**2).sum() + ridge) / 2


def patterns(model, data):
    if model.pattern == 0:
        return None, None
    found = Pattern.of(data if data.weight is None else data.take(data.weight > 0), model.pattern)
    return found.users, found.items


def pulled(F, lam, known):
    """The least of Σ λ |f - Γᵀφ|² + ½ Σ λ |Γ|² over Γ."""
    if known is None:
        return (lam * (F**2).sum(1)).sum()
    G = np.linalg.solve((known.T * lam) @ known + lam.sum() / 2 * np.eye(known.shape[1]), (known.T * lam) @ F)
    return (lam * ((F - known @ G) ** 2).sum(1)).sum() + lam.sum() / 2 * (G**2).sum()


def implicit_objective(model, data, w):
    X, Y, a0 = model.model_.X.astype(float), model.model_.Y.astype(float), model.unobserved
    R, Wt = dense(data, w, a0)
    lu, li = (model.reg * n**model.nu for n in counts(data, a0))
    return ((Wt * ((R > 0) - X @ Y.T) ** 2).sum() + (lu * (X**2).sum(1)).sum() + (li * (Y**2).sum(1)).sum()) / 2


@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("reg_biases", [None, 0.1])
@pytest.mark.parametrize("pattern", [0, 4])
def test_the_loss_of_a_fit_of_ratings_is_the_objective_cell_by_cell(weight, reg_biases, pattern):
    data = ratings(weight=weight)
    model = ExplicitMF(rank=3, reg=0.5, reg_biases=reg_biases, pattern=pattern, max_iter=200, tol=1e-9).fit(data)
    assert model.history_[-1]["loss"] == pytest.approx(explicit_objective(model, data), rel=1e-4)


def test_what_was_rated_at_all_says_what_is_liked():
    """Everybody sees most of what he likes, and rates it by chance: the ratings say nothing, and who rated what all."""
    rng = np.random.default_rng(0)
    kind, genre = rng.integers(0, 2, 200), rng.integers(0, 2, 60)
    likes = kind[:, None] == genre
    seen = rng.random((200, 60)) < np.where(likes, 0.3, 0.05)
    seen[:, 0] = True
    r = np.where(likes, 4, 2) + rng.normal(size=seen.shape) * 2
    data = read_ratings(pd.DataFrame({"user": (c := np.nonzero(seen))[0], "item": c[1], "rating": r[c]}))
    u, i = np.nonzero(~seen)
    blind, knowing = (ExplicitMF(rank=4, reg=2.0, pattern=k).fit(data).predict(u, i) for k in (0, 4))
    truth = np.where(likes, 4, 2)[u, i]
    assert np.mean((knowing - truth) ** 2) < 0.7 * np.mean((blind - truth) ** 2)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_the_loss_of_a_fit_of_clicks_is_the_objective_cell_by_cell(alpha):
    data = ratings()
    model = ImplicitMF(rank=3, reg=0.02, unobserved=0.2, alpha=alpha).fit(data)
    w = 1 + alpha * data.value / data.value.mean()
    assert model.history_[-1]["loss"] == pytest.approx(implicit_objective(model, data, w), rel=1e-5)


@pytest.mark.parametrize(
    "model",
    [RATINGS, ExplicitMF(rank=3, reg=0.5, W="nonneg", H="nonneg"), CLICKS],
    ids=["ratings", "ratings, both sides non-negative", "clicks"],
)
def test_sweeps_lower_the_objective_and_end_where_it_is_stationary(model):
    model = dataclasses.replace(model, max_iter=150, tol=1e-9).fit(ratings())
    losses = np.array([row["loss"] for row in model.history_])
    assert (np.diff(losses) <= 1e-5 * losses[:-1]).all()
    assert model.history_[-1]["certificate"] < 0.02


@pytest.mark.parametrize("model", [dataclasses.replace(PLAIN, pattern=4), PLAIN, CLICKS], ids=["pattern", "ratings", "clicks"])
def test_the_loss_of_each_sweep_is_that_of_its_factors(model):
    seen = []
    dataclasses.replace(model, max_iter=6, tol=0.0).fit(data := ratings(), callback=lambda row: seen.append(row))
    for row in seen:
        fitted = dataclasses.replace(model)
        fitted.model_ = row["model"]()
        value = implicit_objective(fitted, data, np.ones(len(data))) if model.implicit else explicit_objective(fitted, data)
        assert row["loss"] == pytest.approx(value, rel=1e-4)


def test_exact_rows_and_conjugate_gradients_reach_the_same_ratings():
    data = ratings()
    quick, slow = (ExplicitMF(rank=2, reg=2.0, steps=steps, max_iter=300, tol=1e-9).fit(data) for steps in (3, 20))
    first = data.items[:1].repeat(M)
    np.testing.assert_allclose(quick.predict(data.users, first), slow.predict(data.users, first), atol=5e-3)


# ── what others call it ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_bridge_to_implicit_gives_its_normal_equations():
    """implicit: (YᵀY + Yᵀ(C - I)Y + λ) x = Yᵀ C p with c = α r: weight=α r, unobserved=1, nu=0."""
    alpha, lam, data = 3.0, 0.7, ratings()
    weighed = dataclasses.replace(data, weight=alpha * data.value)
    model = ImplicitMF(rank=4, reg=lam, nu=0, unobserved=1.0).fit(weighed)
    Y = model.model_.Y.astype(float)
    for u in range(0, M, 7):
        mine = data.user == u
        c, Yu = alpha * data.value[mine], Y[data.item[mine]]
        A = Y.T @ Y + (Yu.T * (c - 1)) @ Yu + lam * np.eye(4)
        np.testing.assert_allclose(model.model_.X[u], np.linalg.solve(A, Yu.T @ c), rtol=2e-3, atol=2e-4)


def test_the_bridge_to_spark_gives_its_normal_equations():
    """Spark: (YᵀY + Σ α|r| y yᵀ + λ n_u) x = Σ_{r > 0} (1 + α|r|) y, n_u the positive ones: a ridge of one's own on each row."""
    alpha, lam, data = 2.0, 0.1, ratings()
    data = dataclasses.replace(data, value=data.value - 3)  # some are negative: seen, and not liked
    positive = np.bincount(data.user[data.value > 0], minlength=M)
    own = L2Squared(torch.tensor(lam * positive)[:, None])
    weighed = dataclasses.replace(data, weight=1 + alpha * np.abs(data.value))
    model = ImplicitMF(rank=3, reg=0.0, unobserved=1.0, W=own, H="ridge(1)").fit(weighed)
    Y = model.model_.Y.astype(float)
    for u in range(0, M, 7):
        mine = data.user == u
        r, Yu = data.value[mine], Y[data.item[mine]]
        A = Y.T @ Y + (Yu.T * (alpha * np.abs(r))) @ Yu + lam * positive[u] * np.eye(3)
        right = Yu.T @ ((1 + alpha * np.abs(r)) * (r > 0))
        np.testing.assert_allclose(model.model_.X[u], np.linalg.solve(A, right), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("nu", [0, 1])
def test_a_ridge_in_the_units_of_the_ratings_is_divided_by_their_deviation(nu):
    """Peers minimise Σ (r - mean - b - c - p·q)² + λ n^ν (b² + c² + |p|² + |q|²): reg = λ / s for tastes, λ for biases."""
    lam, data = 0.8, ratings()
    s = data.value.std()
    model = ExplicitMF(rank=2, reg=lam / s, reg_biases=lam, nu=nu, pattern=0, max_iter=500, tol=1e-10).fit(data)
    served = model.model_
    p, q = served.X.astype(float) / s**0.5, served.Y.astype(float) * s**0.5
    params = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (served.b, served.c, p, q)]
    b, c, P, Q = params
    lu, li = (torch.tensor(lam * n.astype(float) ** nu) for n in counts(data))
    left = torch.tensor(data.value - served.mean) - b[data.user] - c[data.item] - (P[data.user] * Q[data.item]).sum(1)
    users, items = lu * (b.square() + P.square().sum(1)), li * (c.square() + Q.square().sum(1))
    ((left.square().sum() + users.sum() + items.sum()) / 2).backward()
    for x in params:
        assert x.grad.norm() < 0.02 * max(1.0, float(x.detach().norm()))


# ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_the_unit_of_the_ratings_is_no_matter(factor):
    data = ratings()
    scaled = dataclasses.replace(data, value=data.value * factor)
    a, b = ExplicitMF(rank=3, reg=0.5).fit(data), ExplicitMF(rank=3, reg=0.5).fit(scaled)
    u, i = data.users.repeat(N), np.tile(data.items, M)
    np.testing.assert_allclose(b.predict(u, i), factor * a.predict(u, i), rtol=1e-4)
    a, b = (ImplicitMF(rank=3, reg=0.02, unobserved=0.2, alpha=2.0).fit(d) for d in (data, scaled))
    np.testing.assert_allclose(b.predict(u, i), a.predict(u, i), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        ExplicitMF(rank=3, reg=0.5),
        ExplicitMF(rank=3, reg=0.5, reg_biases=0.2),
        ExplicitMF(rank=3, reg=0.5, W="nonneg"),
        ImplicitMF(rank=3, reg=0.02, unobserved=0.2),
    ],
    ids=["ratings", "biases", "constrained", "clicks"],
)
def test_a_user_of_the_fit_who_comes_again_gets_the_same_tastes(model):
    data = ratings()
    model.fit(data)
    again = model.fold_in(data)
    np.testing.assert_allclose(again.model_.X, model.model_.X, atol=1e-5)
    np.testing.assert_allclose(again.model_.b, model.model_.b, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [ExplicitMF(rank=2, reg=2.0), ImplicitMF(rank=2, reg=0.05, unobserved=0.2)], ids=["ratings", "clicks"]
)
def test_more_ratings_later_give_what_a_fit_of_all_gives(kind):
    data = ratings(m=60, n=40)
    late = (data.user >= 50) | (data.item >= 35) | (np.arange(len(data)) % 7 == 0)
    kind = dataclasses.replace(kind, max_iter=300, tol=1e-8)
    grown = dataclasses.replace(kind).fit(data.take(~late)).partial_fit(data.take(late))
    whole = dataclasses.replace(kind).fit(data)
    u, i = data.users.repeat(40), np.tile(data.items, 60)
    assert grown.history_[-1]["loss"] == pytest.approx(whole.history_[-1]["loss"], rel=1e-3)
    a, b = grown.predict(u, i), whole.predict(u, i)
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.02 * b.std()


def test_tastes_keep_to_their_constraints():
    data = ratings()
    model = ExplicitMF(rank=3, reg=0.1, W="simplex(dim=1)", H="nonneg").fit(data)
    tastes = model.model_.X / model.model_.info["scale"]
    assert model.model_.mean == 0
    assert not model.model_.b.any()
    np.testing.assert_allclose(tastes.sum(1), 1, atol=1e-4)
    assert (tastes >= 0).all()
    assert (model.model_.Y >= 0).all()
    assert (ExplicitMF(rank=3, reg=0.1, W="nonneg").fit(data).model_.X >= 0).all()


@pytest.mark.parametrize("model", [RATINGS, PLAIN, CLICKS], ids=["ratings", "ratings, no pattern", "clicks"])
def test_the_shares_of_the_seen_items_add_up_to_the_score_and_are_what_a_changed_target_changes(model):
    data = ratings()
    model = dataclasses.replace(model).fit(data)
    user, item = 4, 3
    found = model.explain(user, item, n=None)
    wide = dataclasses.replace(model.model_, low=None, high=None)
    assert sum(found["contribution"]) == pytest.approx(wide.predict(user, item), abs=2e-4)
    if model.implicit or model.pattern != 0:
        return
    mine = np.flatnonzero(data.user == user)[2]
    more = data.value.copy()
    more[mine] += 0.1
    moved = model.fold_in(dataclasses.replace(data, value=more).take(data.user == user))
    share = model._shares(user, item)[2]
    target = data.value[mine] - model.model_.mean - model.model_.c[data.item[mine]]
    change = moved.model_.X[user] @ moved.model_.Y[item] - model.model_.X[user] @ model.model_.Y[item]
    assert change == pytest.approx(share / target * 0.1, rel=0.02, abs=1e-5)


def test_who_has_no_rating_and_what_nobody_rated_get_an_answer():
    data = ratings().coded(np.arange(M + 1), np.arange(N + 1))
    for model in (RATINGS, dataclasses.replace(RATINGS, W="nonneg", H="nonneg"), CLICKS):
        model = dataclasses.replace(model).fit(data)
        scores = model.predict(np.arange(M + 1), np.full(M + 1, N))
        assert np.isfinite(scores).all()
        assert np.isfinite(model.predict(np.full(N + 1, M), np.arange(N + 1))).all()
        assert len(np.unique(model.predict(np.full(N, M), np.arange(N)))) > 1  # who has no data gets what is popular


def test_ratings_that_are_all_equal_are_predicted():
    data = dataclasses.replace(ratings(), value=np.full(len(ratings()), 4.0))
    for model in (ExplicitMF(rank=2, reg=0.1), ExplicitMF(rank=2, reg=0.001, W="nonneg", H="nonneg")):
        np.testing.assert_allclose(model.fit(data).predict(data.users, data.items[:1].repeat(M)), 4.0, atol=0.05)


def test_no_ridge_at_all_stays_finite():
    model = ExplicitMF(rank=2, reg=0.0).fit(ratings())
    assert np.isfinite(model.predict(np.arange(M), np.zeros(M, int))).all()


def test_the_same_seed_gives_the_same_tastes_and_another_seed_others():
    a, b, c = (ExplicitMF(rank=3, reg=0.5, seed=seed, max_iter=2).fit(ratings()).model_.X for seed in (0, 0, 1))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_callback_sees_each_sweep_and_its_model_and_ends_the_fit():
    seen = []

    def watch(row):
        seen.append((row["sweep"], row["loss"], row["model"]().predict(0, 0)))
        return row["sweep"] == 3

    model = ExplicitMF(rank=3, reg=0.5).fit(ratings(), callback=watch)
    assert [sweep for sweep, _, _ in seen] == [1, 2, 3]
    assert len(model.history_) == 3
    assert all(np.isfinite(score) for _, _, score in seen)


def test_a_search_leaves_the_pattern_out_where_it_was_chance_who_rated_what():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 100))
    u, i = np.nonzero(rng.random(truth.shape) < 0.2)
    r = truth[u, i] + rng.normal(size=len(u)) / 2
    model = ExplicitMF(rank=4).fit(read_ratings(pd.DataFrame({"user": u, "item": i, "rating": r})))
    assert model.found_["pattern"] == 0
    assert "gamma" not in model.model_.extra


def test_options_that_are_left_to_auto_are_found_and_kept():
    data = ratings(m=80, n=40)
    model = ExplicitMF(rank=4).fit(data)
    assert model.found_["reg"] > 0
    assert model.reg == "auto"
    by_hand = dataclasses.replace(model, **model.found_).fit(data)
    np.testing.assert_allclose(by_hand.model_.X, model.model_.X)


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0}, {"rank": 2.5}, {"reg": -1}, {"reg": "much"}, {"nu": np.nan}, {"tol": "auto"}, {"max_iter": 0}, {"steps": True},
        {"seed": -1},
    ],
    ids=str,
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ExplicitMF(**({"reg": 0.5} | options)).fit(ratings())


def test_a_ridge_of_the_biases_alone_needs_one_of_the_tastes():
    with pytest.raises(ValueError, match="both are positive"):
        ExplicitMF(reg=0.0, reg_biases=1.0).fit(ratings())


def test_no_warning_is_given_for_ordinary_data():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExplicitMF(rank=3, reg=0.5).fit(ratings())
        ImplicitMF(rank=3, reg=0.02, unobserved=0.2).fit(ratings())
