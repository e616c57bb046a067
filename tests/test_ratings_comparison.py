"""A recommender beside the baselines: the same hold-out for all, told in a sentence."""

import numpy as np
import pandas as pd
import pytest

from proxfactor.ratings import EASE, Bias, ExplicitMF, ImplicitMF, Popularity, compare, evaluate, split

rng = np.random.default_rng(0)
TASTES = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 40))
U, I = np.nonzero(rng.random(TASTES.shape) < 0.5)
TABLE = pd.DataFrame({"who": U, "what": I, "stars": 3 + TASTES[U, I] + 0.2 * rng.normal(size=len(U)), "when": np.arange(len(U))})
NAMED = {"user": "who", "item": "what", "rating": "stars"}


def test_the_numbers_are_those_of_a_fit_and_an_evaluation_by_hand():
    found = compare(ExplicitMF(rank=2, reg=0.5), TABLE, **NAMED, seed=3)
    train, test = split(TABLE, "random", 0.1, **NAMED, seed=3)
    by_hand = evaluate(ExplicitMF(rank=2, reg=0.5).fit(train, **NAMED), test)
    assert found.found["ExplicitMF"]["rmse"] == pytest.approx(by_hand["rmse"], rel=1e-6)
    assert list(found.found) == ["ExplicitMF", "the mean", "Bias"]
    y = test["stars"].to_numpy()
    assert found.found["the mean"]["rmse"] == pytest.approx(np.sqrt(np.mean((y - train["stars"].mean()) ** 2)), rel=1e-6)
    assert found.held_out == f"Held out: {len(test):,} of {len(TABLE):,} ratings, by chance."
    assert "ExplicitMF" in repr(found)


def test_clicks_are_held_out_user_by_user_beside_popularity_and_ease():
    found = compare(ImplicitMF(rank=2, reg=0.1, unobserved=0.1), TABLE, **NAMED)
    assert list(found.found) == ["ImplicitMF", "Popularity", "EASE"]
    assert "20 % of each user, by chance" in found.held_out
    assert [set(row) for row in found.rows()] == [{"model", "ndcg@10", "recall@10", "mrr@10", "coverage@10"}] * 3


def test_the_latest_ratings_are_held_out_where_there_is_a_time():
    found = compare(Bias(), TABLE, **NAMED, time="when")
    assert found.held_out.endswith("the latest ones.")
    assert found.model.ratings_.time.max() < len(TABLE) * 0.9


def test_users_who_are_new_are_folded_in():
    found = compare(ImplicitMF(rank=2, reg=0.1, unobserved=0.1), TABLE, {"all": Popularity()}, **NAMED, how="users", size=0.2)
    assert len(np.unique(found.model.ratings_.user)) == 48
    assert len(found.found["all"].users) == 12
    assert not found.found["ImplicitMF"].notes


def test_a_baseline_is_not_compared_with_itself_and_a_model_is_left_as_it_was():
    model = EASE()
    assert list(compare(model, TABLE, **NAMED).found) == ["EASE", "Popularity"]
    assert not hasattr(model, "model_")
