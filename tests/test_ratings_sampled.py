"""SampledMF against its losses written out pair by pair, and against what was planted."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from proxfactor.ratings import ImplicitMF, Popularity, Recommender, split
from proxfactor.ratings.sampled import Clicks, RowSteps, SampledMF, Tastes, drawn, everything, losses
from proxfactor.ratings.tables import read_ratings

KINDS = ["softmax", "bpr"]
FIXED = SampledMF(rank=4, reg=0.1, max_iter=4)


def planted(seed=0, m=240, n=90, groups=6):
    """Users of a few groups who click mostly what their group likes."""
    rng = np.random.default_rng(seed)
    mine, theirs = rng.integers(groups, size=m), rng.integers(groups, size=n)
    chance = np.where(mine[:, None] == theirs, 0.35, 0.02) * rng.uniform(0.4, 1.0, n)
    u, i = np.nonzero(rng.random((m, n)) < chance)
    return pd.DataFrame({"user": [f"u{v:03d}" for v in u], "item": i})


def table(seed=0, b=3, n=7, k=2):
    """Tastes in float64, rows of users, and their clicks."""
    g = torch.Generator().manual_seed(seed)
    X, Y, c = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((b, k), (n, k), (n, 1)))
    row, item = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([1, 4, 0, 2, 3, 6])
    return Tastes(X, Y, c), Clicks(torch.arange(b), row, item, torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0, 1.0], dtype=torch.float64))


def by_hand(kind, X, Y, c, clicks):
    """The loss of each user, click by click and negative by negative."""
    scores, out = X @ Y.T + c.T, [X.new_zeros(()) for _ in X]
    for u, i, w in zip(clicks.row.tolist(), clicks.item.tolist(), clicks.weight.tolist(), strict=True):
        mine = set(clicks.item[clicks.row == u].tolist())
        others = [j for j in range(len(Y)) if j not in mine]
        if kind == "softmax":
            total = scores[u, i].exp() + sum(scores[u, j].exp() for j in others)
            out[u] = out[u] - w * (scores[u, i].exp() / total).log()
        else:
            out[u] = out[u] + w * sum((1 + (scores[u, j] - scores[u, i]).exp()).log() for j in others) / len(others)
    return torch.stack(out)


def of_all(kind, tastes, x, clicks, negatives):
    return losses(kind, tastes, x, clicks, negatives, negatives.clicked(clicks))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_and_its_gradients_are_those_of_the_formula(kind):
    tastes, clicks = table()
    leaves = [v.detach().clone().requires_grad_() for v in (tastes.users, tastes.items, tastes.bias)]
    wanted = by_hand(kind, *leaves, clicks)
    x = tastes.users.clone().requires_grad_()
    found = of_all(kind, tastes, x, clicks, everything(7))
    torch.testing.assert_close(found, wanted)
    slopes = torch.autograd.grad(found.sum(), [x, tastes.items, tastes.bias])
    for slope, oracle in zip(slopes, torch.autograd.grad(wanted.sum(), leaves), strict=True):
        torch.testing.assert_close(slope, oracle)


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_every_item_once_is_drawing_none(kind):
    tastes, clicks = table()
    some = everything(7)._replace(items=torch.arange(7))
    torch.testing.assert_close(
        of_all(kind, tastes, tastes.users, clicks, some), of_all(kind, tastes, tastes.users, clicks, everything(7))
    )


def test_drawn_negatives_have_the_sum_over_all_items_as_their_mean():
    g, share = torch.Generator().manual_seed(0), torch.tensor([0.5, 0.3, 0.1, 0.05, 0.0, 0.0])
    f = torch.tensor([1.0, -2.0, 3.0, 5.0, -1.0, 4.0])
    sums = []
    for _ in range(1500):
        some = drawn(share, 4, g)
        sums.append((some.log_weight.exp() * f[some.items]).sum())
        alive = some.items[some.log_weight > -1e29]
        assert len(alive.unique()) == len(alive)
    sums = torch.stack(sums)
    assert float((sums.mean() - f.sum()).abs()) < 4 * float(sums.std()) / 1500**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_user_has_clicked_is_never_a_negative(kind):
    """No drawn set gives the score of another clicked item a say in the loss of a click."""
    tastes, clicks = table()
    one = clicks._replace(weight=torch.tensor([1.0, 0, 0, 0, 0, 0], dtype=torch.float64))  # user 0 has also clicked item 4
    g = torch.Generator().manual_seed(1)
    hit = 0
    for _ in range(20):
        negatives = drawn(torch.full((7,), 0.3), 5, g)
        hit += bool((negatives.items == 4).any())
        (slope,) = torch.autograd.grad(of_all(kind, tastes, tastes.users, one, negatives).sum(), tastes.items)
        assert (slope[4] == 0).all()
        assert (slope[1] != 0).any()
    assert hit


def test_a_user_who_has_clicked_all_that_was_drawn_loses_nothing():
    tastes, _ = table(b=1)
    clicks = Clicks(torch.arange(1), torch.zeros(7, dtype=torch.int64), torch.arange(7), torch.ones(7, dtype=torch.float64))
    for kind in KINDS:
        x = tastes.users.clone().requires_grad_()
        loss = of_all(kind, tastes, x, clicks, everything(7)).sum()
        assert loss.item() == 0
        assert (torch.autograd.grad(loss, x)[0] == 0).all()


def test_row_steps_find_a_lasso_and_do_not_know_the_scale_of_the_loss():
    target = torch.tensor([[3.0, 0.2], [-2.0, 0.0], [0.1, 1.0]])
    found = []
    for scale in (1.0, 1e4):
        p = torch.nn.Parameter(torch.full((3, 2), 0.1))
        optimizer = RowSteps([p], f"l1({0.5 * scale})")
        for _ in range(400):
            p.grad = scale * (p.detach() - target)
            optimizer.step()
        found.append(optimizer.answer()[0])
    torch.testing.assert_close(found[0], torch.nn.functional.softshrink(target, 0.5), atol=1e-2, rtol=0)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("kind", "reg"), [("softmax", 0.4), ("bpr", 0.1)])
@pytest.mark.parametrize("negatives", [None, 30])
def test_planted_tastes_are_ranked_far_better_than_by_popularity(kind, reg, negatives):
    train, test = split(planted(), "per-user", 0.2)
    model = SampledMF(loss=kind, rank=8, reg=reg, negatives=negatives, max_iter=8).fit(train)
    assert model.score(test) > 2.5 * Popularity().fit(train).score(test)


def test_the_softmax_ranks_planted_tastes_about_as_well_as_least_squares():
    train, test = split(planted(), "per-user", 0.2)
    least = ImplicitMF(rank=8, reg=0.02, unobserved=0.3).fit(train).score(test)
    assert SampledMF(rank=8, reg=0.4, max_iter=4).fit(train).score(test) > 0.8 * least


def test_the_rows_of_users_are_stationary_for_the_items():
    data = read_ratings(planted())
    model = dataclasses.replace(FIXED).fit(data).model_
    X, Y, c = (torch.tensor(v, dtype=torch.float64) for v in (model.X, model.Y, model.c[:, None]))
    X.requires_grad_()
    u, i = (torch.tensor(v, dtype=torch.int64) for v in (data.user, data.item))
    clicks = Clicks(torch.arange(len(X)), u, i, torch.ones(len(u), dtype=torch.float64))
    n_u = torch.bincount(u)
    loss = of_all("softmax", Tastes(X.detach(), Y, c), X, clicks, everything(len(Y))).sum()
    (slope,) = torch.autograd.grad(loss + 0.05 * (n_u[:, None] * X**2).sum(), X)
    assert float((slope.norm(dim=1) / n_u).max()) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_users_of_the_fit_who_come_again_get_their_rows(kind):
    train = planted(m=80)
    model = dataclasses.replace(FIXED, loss=kind).fit(train)
    again = model.fold_in(train[train.user >= "u040"])
    at = np.isin(model.model_.users, again.model_.users)
    np.testing.assert_allclose(again.model_.X, model.model_.X[at], atol=2e-3)


@pytest.mark.parametrize("H", ["nonneg", "nonneg + l1(0.5)"])
def test_constraints_hold_for_users_items_and_those_who_come_later(H):
    data = planted(m=80)
    model = dataclasses.replace(FIXED, W="simplex(dim=1)", H=H).fit(data)
    later = model.fold_in(data.head(60))
    assert (model.model_.Y >= 0).all()
    assert (model.model_.Y > 0).any()
    for X in (model.model_.X, later.model_.X):
        np.testing.assert_allclose(X.sum(1), 1, atol=1e-5)
        assert (X >= 0).all()


def test_the_same_seed_gives_the_same_model_and_another_seed_another():
    one, two, three = (dataclasses.replace(FIXED, seed=seed, negatives=20).fit(planted(m=80)) for seed in (0, 0, 1))
    assert (one.model_.X == two.model_.X).all()
    assert (one.model_.Y == two.model_.Y).all()
    assert (one.model_.Y != three.model_.Y).any()


def test_weights_count_by_their_ratios_and_values_not_above_zero_are_no_clicks():
    data = planted(m=60).assign(rating=1.0, w=1.0)
    data.loc[::3, "w"] = 2.0
    fits = [
        dataclasses.replace(FIXED).fit(data.assign(w=data.w * times), "user", "item", "rating", weight="w") for times in (1.0, 1e4)
    ]
    np.testing.assert_allclose(fits[0].model_.Y, fits[1].model_.Y, atol=1e-3)
    plain = dataclasses.replace(FIXED).fit(data, "user", "item", "rating")
    assert (plain.model_.Y != fits[0].model_.Y).any()
    off = data.assign(rating=np.where(np.arange(len(data)) % 3 == 0, -1.0, 1.0))
    kept = off[off.rating > 0]
    assert dataclasses.replace(FIXED).fit(off, "user", "item", "rating").model_.fallback.sum() * 60 == pytest.approx(len(kept))
    with pytest.raises(ValueError, match="no clicks to learn from"):
        FIXED.fit(data.assign(rating=-1.0), "user", "item", "rating")


def test_ids_seen_items_and_files_keep_the_contract(tmp_path):
    data = planted(m=60)
    model = dataclasses.replace(FIXED).fit(data)
    best = model.recommend(["u003", "u007"], n=5)
    assert list(best.columns) == ["user", "item", "score", "rank", "fallback"]
    assert len(best) == 10
    assert not set(zip(best.user, best.item, strict=True)) & set(zip(data.user, data.item, strict=True))
    model.save(tmp_path / "run")
    loaded = Recommender.load(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.recommend(["u003", "u007"], n=5), best)
    np.testing.assert_allclose(loaded.fold_in(data).model_.X, model.model_.X, atol=1e-6)


def test_more_clicks_go_on_from_the_fit():
    data = planted(m=90)
    first, more = data[data.user < "u070"], data[data.user >= "u070"]
    model = SampledMF(rank=4, reg=0.1, max_iter=6).fit(first)
    before = model.history_[0]["loss"]
    model = model.partial_fit(more)
    assert len(model.model_.users) == data.user.nunique()
    assert model.history_[0]["loss"] < before


def test_reg_and_the_number_of_epochs_are_chosen_on_hidden_clicks():
    model = SampledMF(rank=4, max_iter=4).fit(planted(m=60, n=40))
    assert set(model.found_) >= {"reg"}
    assert model.trials_
    assert len(model.history_) <= 4
    assert [row["sweep"] for row in model.history_] == list(range(1, len(model.history_) + 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "one of softmax, bpr"),
        ({"rank": 0}, "rank is 0"),
        ({"negatives": 2.5}, "negatives is 2.5"),
        ({"reg": -1}, "reg is -1"),
        ({"reg": "best"}, "reg is 'best'"),
        ({"W": "simplex(dim=0)"}, "couples the users"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(FIXED, **options).fit(planted(m=30))
