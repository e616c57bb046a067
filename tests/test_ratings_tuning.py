"""The search for options, on recommenders whose score is a known function of them."""

import builtins
import math
import sys
import types
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from proxfactor.ratings.evaluation import evaluate
from proxfactor.ratings.linear import EASE, GFCF, Popularity, PureSVD
from proxfactor.ratings.mf import ExplicitMF, ImplicitMF
from proxfactor.ratings.splits import split
from proxfactor.ratings.tables import read_ratings
from proxfactor.ratings.tuning import SEARCH, chosen, held_out, tune


@dataclass(kw_only=True)
class Fake:
    """Scores best at reg 0.05 and unobserved 0.2, whatever the data."""

    reg: Any = "auto"
    unobserved: Any = 0.2
    rank: int = 32
    max_iter: int = 20
    nu: float = 1.0
    note: str = "mine"
    fits: list = field(default_factory=list, repr=False)
    implicit: ClassVar[bool] = False
    sweeps: ClassVar[int] = 0

    def fit(self, ratings, callback=None):
        self.fits.append((self.reg, self.unobserved, self.rank, len(ratings)))
        self.model_ = self.sweeps
        for sweep in range(1, self.sweeps + 1):
            self.model_ = sweep
            row = {"sweep": sweep, "sweeps": self.max_iter, "model": lambda sweep=sweep: sweep}
            if (callback is not None and callback(row)) or sweep == self.max_iter:
                break
        return self

    def score(self, held):
        overfit = 0.01 * max(0, self.model_ - 6)
        away = math.log(self.reg / 0.05) ** 2 + math.log(self.unobserved / 0.2) ** 2 + abs(math.log2(self.rank / 64))
        return -1 - 0.1 * away - overfit + 0.02 * min(0, self.model_ - 6) * bool(self.sweeps)


class Clicks(Fake):
    implicit = True


class Early(Fake):
    sweeps = 20


def ratings(m=30, n=20, share=0.4, seed=0, times=1.0):
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((m, n)) < share)
    return read_ratings((user, item, times * rng.integers(1, 6, len(user))))


def test_a_search_finds_the_known_best_to_a_rung():
    found = tune(Fake(), ratings(), search={"reg": (0.001, 1.0), "unobserved": (0.003, 1.0), "rank": [16, 32, 64, 128]})
    assert 0.05 / 1.2 < found.options["reg"] < 0.05 * 1.2
    assert 0.2 / 1.2 < found.options["unobserved"] < 0.2 * 1.2
    assert found.options["rank"] == 64
    assert len(found.trials) <= 20
    assert found.score == max(row["score"] for row in found.trials)


def test_a_single_option_takes_a_handful_of_fits():
    model, rows = chosen(Fake(), ratings())
    assert 0.05 / 1.2 < model.reg < 0.05 * 1.2
    assert len(rows) <= 9
    assert (model.unobserved, model.rank, model.note) == (0.2, 32, "mine")


def test_two_options_are_near_the_best_after_twelve_fits():
    _, rows = chosen(Fake(unobserved="auto"), ratings())
    assert len(rows) <= 12
    assert max(row["score"] for row in rows) > -1.13  # 0.1 for the rank, and half a rung


def test_nothing_is_fitted_twice():
    fake = Fake()
    tune(fake, ratings(), refit=False)
    assert len(fake.fits) == len(set(fake.fits))


def test_the_best_model_is_fitted_on_everything_in_the_end():
    data, fake = ratings(), Fake()
    found = tune(fake, data, trials=3)
    assert fake.fits[-1] == (found.options["reg"], found.options["unobserved"], found.options["rank"], len(data))
    assert {row[-1] for row in fake.fits[:-1]} == {len(data) - int(0.1 * len(data))}
    assert found.model.reg == found.options["reg"]


def test_a_search_begins_at_the_models_own_options():
    found = tune(Fake(reg=0.3, unobserved=0.07, rank=64), ratings(), trials=1)
    assert found.options["reg"] == pytest.approx(0.3, rel=0.2)
    assert found.options["unobserved"] == pytest.approx(0.07, rel=0.2)
    assert found.options["rank"] == 64


def test_an_option_at_the_end_of_its_range_is_found():
    assert tune(Fake(unobserved=0.2), ratings(), search={"reg": (0.1, 1.0)}).options["reg"] == 0.1
    assert tune(Fake(reg=0.05), ratings(), search={"rank": (2, 16)}).options["rank"] == 16


def test_what_is_auto_is_searched_for_with_everything_else():
    found = tune(Fake(), ratings(), search={"rank": [32, 64]})
    assert set(found.options) == {"rank", "reg"}


def test_the_same_seed_chooses_the_same_and_in_the_same_order():
    one, other = (tune(Fake(), ratings(), seed=3, trials=8) for _ in range(2))
    assert [{**row, "seconds": 0} for row in one.trials] == [{**row, "seconds": 0} for row in other.trials]


def test_a_fit_ends_where_the_held_out_ratings_are_predicted_no_better():
    found = tune(Early(reg=0.05), ratings(), search={"rank": [64]}, refit=False)
    assert found.options == {"rank": 64, "max_iter": 6}
    assert found.trials[0]["sweeps"] == 6
    assert found.score == -1
    assert found.model.max_iter == 6


def test_a_fit_that_gets_better_to_the_end_keeps_its_sweeps():
    found = tune(Early(reg=0.05, max_iter=5), ratings(), search={"rank": [64]}, refit=False)
    assert found.options == {"rank": 64}
    assert found.trials[0]["sweeps"] == 5


def test_the_callback_sees_each_trial_and_ends_the_search():
    seen = []
    found = tune(Fake(), ratings(), callback=lambda row: seen.append(row) or len(seen) == 3)
    assert [row["trial"] for row in seen] == [1, 2, 3]
    assert seen[0]["trials"] == 20
    assert len(found.trials) == 3
    assert chosen(Fake(), ratings(), callback=lambda row: True)[1][0]["trial"] == 1


def test_a_trial_without_a_finite_score_is_never_the_best():
    @dataclass(kw_only=True)
    class Broken(Fake):
        def score(self, held):
            return math.nan if self.reg < 0.1 else super().score(held)

    found = tune(Broken(reg=0.5), ratings(), search={"reg": (0.001, 1.0)})
    assert 0.1 <= found.options["reg"] < 0.1 * 2**0.5
    with pytest.raises(ValueError, match="no options gave a finite score, of 3 that were tried"):
        tune(Broken(reg=0.001), ratings(), search={"reg": [0.001, 0.002, 0.004]})


# ── the hold-out ──────────────────────────────────────────────────────────────────────────────────────────────────────


def cells(r):
    return set(zip(r.user.tolist(), r.item.tolist(), strict=True))


@pytest.mark.parametrize("model", [Fake(), Clicks()])
def test_a_hold_out_and_the_rest_are_the_whole(model):
    data = ratings()
    train, held = held_out(model, data, 0.1, None, 0)
    assert not cells(train) & cells(held)
    assert cells(train) | cells(held) == cells(data)


def test_clicks_are_held_out_by_user_and_one_each_where_a_share_would_be_less():
    data = ratings(n=15)
    assert len(data) / 30 < 8
    _, held = held_out(Clicks(), data, 0.1, None, 0)
    assert np.bincount(held.user, minlength=30).max() == 1
    assert len(held) > 25


def test_only_so_many_users_hold_out_clicks(monkeypatch):
    monkeypatch.setattr("proxfactor.ratings.tuning.HELD_USERS", 12)
    data = ratings()
    train, held = held_out(Clicks(), data, 0.1, None, 0)
    assert len(np.unique(held.user)) == 12
    assert cells(train) | cells(held) == cells(data)


def test_the_latest_ratings_are_held_out_on_request():
    data = replace(ratings(), time=np.arange(float(len(ratings()))))
    train, held = held_out(Fake(), data, 0.1, "time", 0)
    assert train.time.max() < held.time.min()


@pytest.mark.parametrize("model", [Fake(), Clicks()])
def test_where_too_few_ratings_can_be_held_out_a_stated_value_is_taken_with_a_warning(model):
    few = read_ratings((["a", "a", "b"], [1, 2, 1], [5.0, 3.0, 1.0]))
    with pytest.warns(UserWarning, match=r"reg cannot be chosen by a hold-out \(.*\); reg=[0-9.]+ is taken"):
        found, rows = chosen(model, few)
    assert found.reg > 0
    assert rows == []


def test_too_few_ratings_to_tune_on_are_an_error():
    with pytest.raises(ValueError, match="2 of 25 ratings would be held out, and 10 are needed"):
        tune(Fake(), (np.arange(25), np.arange(25), np.ones(25)))


# ── where it looks ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_without_auto_is_left_alone():
    model = Fake(reg=0.1)
    assert chosen(model, ratings()) == (model, [])


def test_reg_is_looked_for_where_it_weighs_as_much_whatever_nu_is():
    data, regs = ratings(200, 100), {}
    for nu in (0.0, 0.5, 1.0):
        model, _ = chosen(Fake(nu=nu), data, trials=1)
        zeros = 0.2
        counts = np.concatenate([np.bincount(data.user) + zeros * 100, np.bincount(data.item) + zeros * 200])
        regs[nu] = model.reg * (counts**nu).sum()
    assert regs[0.0] == pytest.approx(regs[1.0], rel=0.02)
    assert regs[0.5] == pytest.approx(regs[1.0], rel=0.02)


def test_reg_changes_with_the_weight_of_what_is_not_observed_so_that_the_mean_lambda_stays():
    data = ratings(200, 100)
    counts = np.concatenate([np.bincount(data.user), np.bincount(data.item)])
    others = np.concatenate([np.full(200, 100), np.full(100, 200)])
    trials = tune(Clicks(unobserved="auto", rank=64), data, trials=3).trials
    assert len({row["unobserved"] for row in trials}) == 3
    means = [row["reg"] * (counts + row["unobserved"] * others).mean() for row in trials]
    assert means == pytest.approx([means[0]] * 3, rel=0.01)


def test_options_of_ratings_in_any_unit_are_the_same():
    asked = [tune(Fake(unobserved="auto"), ratings(times=unit)).options for unit in (1.0, 1e4, 1e-4)]
    assert asked[0] == asked[1] == asked[2]


def test_of_very_many_ratings_those_of_some_users_are_looked_at(monkeypatch):
    data = ratings(200, 20)
    monkeypatch.setattr("proxfactor.ratings.tuning.MOST", len(data) // 4)
    train, held = held_out(Fake(), data, 0.1, None, 0)
    assert 40 <= len(train.users) <= 60
    assert len(train) + len(held) == pytest.approx(len(data) / 4, rel=0.2)
    whole = {(data.users[u], i) for u, i in cells(data)}
    assert {(r.users[u], i) for r in (train, held) for u, i in cells(r)} < whole


def test_alpha_is_not_looked_for_where_all_values_are_alike():
    @dataclass(kw_only=True)
    class Weighted(Clicks):
        alpha: float = 0.0

    data = ratings()
    assert "alpha" in tune(Weighted(), data, trials=1).options
    assert "alpha" not in tune(Weighted(), replace(data, value=np.ones(len(data))), trials=1).options


def test_a_class_may_say_where_its_options_are_looked_for():
    class Own(Fake):
        search: ClassVar = {"reg": [7.0, 8.0]}

    assert tune(Own(), ratings()).options == {"reg": 7.0}
    assert chosen(Own(), ratings())[0].reg == 7.0
    assert set(SEARCH) == {"unobserved", "alpha", "reg", "pattern", "rank"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"search": {"regg": (0.1, 1.0)}}, "Fake has no option 'regg'; it has reg, unobserved"),
        ({"search": {"reg": (1.0, 0.1)}}, "give a range \\(low, high\\) with 0 < low < high, or a list"),
        ({"search": {"reg": []}}, "or a list of values"),
        ({"search": {"reg": (0.0, 1.0)}}, "with 0 < low"),
        ({"trials": 0}, "trials is 0; it is how many fits"),
        ({"how": "users"}, "leaves users out whom a fit then does not know"),
        ({"how": "nonsense"}, "how"),
        ({"sampler": "grid"}, "give None, \"optuna\", or an Optuna study"),
    ],
)  # fmt: skip
def test_bad_searches_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        tune(Fake(), ratings(), **arguments)


def test_what_is_auto_and_unknown_is_refused_by_name():
    with pytest.raises(ValueError, match='note="auto" is not known; a search finds unobserved, alpha, reg, pattern, rank'):
        chosen(Fake(note="auto"), ratings())


def test_the_trials_print_as_a_table_and_become_a_frame():
    found = tune(Fake(), ratings(), search={"reg": [0.01, 0.05]})
    lines = repr(found).splitlines()
    assert lines[0].split() == ["trial", "reg", "score", "sweeps", "seconds"]
    assert [line.split()[1] for line in lines if line.endswith("best")] == ["0.05"]
    assert found.frame()["reg"].tolist() == [0.05, 0.01]


# ── recommenders ──────────────────────────────────────────────────────────────────────────────────────────────────────


def camps(seed=0):
    rng = np.random.default_rng(seed)
    camp = (np.arange(80)[:, None] % 4) == (np.arange(60) % 4)
    return np.nonzero(rng.random((80, 60)) < np.where(camp, 0.5, 0.05))


def planted(unit=1.0, seed=0):
    """Ratings of 120 users and 80 items with three tastes and noise."""
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((120, 80)) < 0.3)
    X, Y = rng.standard_normal((120, 3)), rng.standard_normal((80, 3))
    return user, item, unit * (5 + (X @ Y.T)[user, item] + 0.7 * rng.standard_normal(len(user)))


def test_reg_auto_predicts_new_ratings_about_as_well_as_the_best_number_could():
    train, test = split(planted(), seed=5)
    found = ExplicitMF(rank=6).fit(train)
    errors = [evaluate(ExplicitMF(rank=6, reg=reg).fit(train), test)["rmse"] for reg in np.geomspace(0.05, 50, 7)]
    assert evaluate(found, test)["rmse"] < 1.05 * min(errors)
    assert min(errors) < 0.8 * max(errors)
    assert all(row["sweeps"] <= 20 for row in found.trials_)


def test_the_unit_of_the_ratings_decides_nothing():
    models = {unit: ExplicitMF(rank=3, max_iter=6).fit(planted(unit)) for unit in (1.0, 1e4, 1e-4)}
    scores = {unit: [row["score"] / unit for row in model.trials_] for unit, model in models.items()}
    for unit in (1e4, 1e-4):
        assert models[unit].found_ == models[1.0].found_
        assert scores[unit] == pytest.approx(scores[1.0], rel=1e-4)


def test_clicks_choose_a_ridge_and_a_weight_for_what_is_not_there():
    train, test = split(camps(), "per-user", 0.2, seed=2)
    model = ImplicitMF(rank=4).fit(train)
    assert {"reg", "unobserved"} <= set(model.found_)
    assert evaluate(model, test)["ndcg@10"] > 1.5 * evaluate(Popularity().fit(train), test)["ndcg@10"]
    assert 5 <= len(model.trials_) <= 12


def test_few_ratings_are_fitted_all_the_same():
    with pytest.warns(UserWarning, match="reg, pattern cannot be chosen by a hold-out"):
        model = ExplicitMF(rank=2).fit((["a", "a", "b"], [1, 2, 1], [5.0, 3.0, 1.0]))
    assert np.isfinite(model.predict("b", 2))


@pytest.mark.parametrize("model", [EASE(), GFCF(rank=4), PureSVD()], ids=lambda m: type(m).__name__)
def test_a_recommender_in_closed_form_is_tuned_where_its_class_says(model):
    found = tune(model, camps(), trials=6)
    assert set(found.options) == set(type(model).search)
    assert found.score >= found.trials[0]["score"]
    assert len(found.model.recommend(0, n=3)) == 3


def test_columns_are_named_and_the_tuned_model_answers_in_the_callers_frame():
    import polars as pl

    user, item = camps()
    frame = pl.DataFrame({"what": item, "who": user})
    found = tune(EASE(), frame, user="who", item="what", trials=2)
    assert isinstance(found.model.recommend(0, n=3), pl.DataFrame)
    assert list(found.frame("polars").columns) == ["trial", "reg", "score", "sweeps", "seconds"]


# ── Optuna ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Study:
    """As much of an Optuna study as is used: proposes the ends and the middle of every range."""

    def __init__(self, direction="MAXIMIZE"):
        self.direction, self.values, self.stopped = types.SimpleNamespace(name=direction), [], False

    def stop(self):
        self.stopped = True

    def optimize(self, objective, n_trials):
        for at in np.linspace(0, 1, n_trials):
            trial = types.SimpleNamespace(
                suggest_float=lambda name, low, high, log, at=at: low * (high / low) ** at,
                suggest_int=lambda name, low, high, log, at=at: round(low * (high / low) ** at),
                suggest_categorical=lambda name, values, at=at: values[round(at * (len(values) - 1))],
            )
            self.values.append(objective(trial))
            if self.stopped:
                break


@pytest.mark.parametrize(("direction", "sign"), [("MAXIMIZE", 1), ("MINIMIZE", -1)])
def test_a_study_proposes_the_trials_and_is_told_the_scores(direction, sign):
    study = Study(direction)
    found = tune(Fake(), ratings(), search={"reg": (0.005, 0.5), "rank": (32, 128)}, trials=5, sampler=study)
    assert found.options["reg"] == pytest.approx(0.05)
    assert found.options["rank"] == 64
    assert study.values == [sign * row["score"] for row in found.trials]


def test_the_callback_ends_a_study_too():
    study = Study()
    assert len(tune(Fake(), ratings(), sampler=study, callback=lambda row: row["trial"] == 2).trials) == 2
    assert study.stopped


def test_without_optuna_its_name_is_an_error_that_says_so(monkeypatch):
    def refuse(name, *rest, real=builtins.__import__):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "optuna", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="needs Optuna, which is not installed: pip install optuna"):
        tune(Fake(), ratings(), sampler="optuna")
