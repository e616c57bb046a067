"""Measures of recommenders, against brute force, scikit-learn and cases worked by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats
from sklearn import metrics as sk

from proxfactor.ratings import evaluation
from proxfactor.ratings.evaluation import RANKING, USUAL, evaluate, ranking_measures, rating_measures
from proxfactor.ratings.linear import EASE, Bias, Popularity
from proxfactor.ratings.splits import split
from proxfactor.ratings.tables import read_ratings
from proxfactor.serve import Model

# ── ranked lists ──────────────────────────────────────────────────────────────────────────────────────────────────────


def of_one_order(order, gains, k):
    """Every measure of one list without ties: order are items, gains (n,) zero where an item is not relevant."""
    hit = [gains[i] > 0 for i in order[:k]]
    size = int((gains > 0).sum())
    ideal = sorted(gains, reverse=True)[:k]
    precision = [sum(hit[: p + 1]) / (p + 1) for p in range(len(hit))]
    pairs = [(order.index(i), order.index(j)) for i in order if gains[i] > 0 for j in order if gains[j] == 0]
    return {
        "recall": sum(hit) / size,
        "capped_recall": sum(hit) / min(k, size),
        "precision": sum(hit) / k,
        "ndcg": sum(gains[i] / math.log2(p + 2) for p, i in enumerate(order[:k]))
        / sum(g / math.log2(p + 2) for p, g in enumerate(ideal)),
        "map": sum(p for p, h in zip(precision, hit, strict=True) if h) / min(k, size),
        "mrr": 1 / (hit.index(True) + 1) if any(hit) else 0,
        "hit_rate": float(any(hit)),
        "auc": np.mean([a < b for a, b in pairs]),
    }


def over_all_orders(scores, gains, k):
    """The mean over all orders of the items that are sorted by score."""
    every = [
        of_one_order(sorted(range(len(scores)), key=lambda i: (-scores[i], tie.index(i))), gains, k)
        for tie in itertools.permutations(range(len(scores)))
    ]
    return {name: np.mean([one[name] for one in every]) for name in every[0]}


TIED = [
    ("one group", [0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 1]),
    ("no ties", [3, 1, 6, 2, 5, 4], [0, 1, 0, 1, 0, 1]),
    ("a group across the cut", [5, 4, 4, 4, 4, 1], [0, 1, 1, 0, 0, 1]),
    ("two groups", [2, 2, 2, 1, 1, 1], [1, 0, 0, 1, 1, 0]),
    ("all relevant at the end", [2, 2, 2, 2, 1, 1], [0, 0, 0, 0, 1, 1]),
    ("graded", [2, 3, 3, 3, 1, 2], [3, 0.5, 0, 2, 4, 0]),
]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize(("scores", "gains"), [case[1:] for case in TIED], ids=[case[0] for case in TIED])
def test_each_measure_is_its_mean_over_all_orders_of_tied_items(scores, gains, k):
    gains = np.array(gains, float)
    item = np.flatnonzero(gains)
    found = ranking_measures(np.array([scores], float), (np.zeros(len(item), int), item, gains[item]), k=k, measures=RANKING[:8])
    for name, value in over_all_orders(scores, gains, k).items():
        assert found[name if name == "auc" else f"{name}@{k}"] == pytest.approx(value, abs=1e-12), name


def many(m=40, n=30, levels=7, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (m, n)).astype(np.float32)
    gains = np.where(rng.random((m, n)) < 0.2, rng.integers(1, 6, (m, n)), 0)
    gains[:, 3] = np.maximum(gains[:, 3], 1)
    return scores, gains


@pytest.mark.parametrize("k", [1, 5, 30])
def test_ndcg_is_the_tie_averaged_one_of_scikit_learn(k):
    scores, gains = many()
    user, item = np.nonzero(gains)
    found = ranking_measures(scores, (user, item, gains[user, item]), k=k, measures=["ndcg"])
    assert found[f"ndcg@{k}"] == pytest.approx(sk.ndcg_score(gains, scores, k=k, ignore_ties=False), abs=1e-12)


def test_auc_is_that_of_scikit_learn():
    scores, gains = many()
    found = ranking_measures(scores, np.nonzero(gains), measures=["auc"])
    assert found["auc"] == pytest.approx(np.mean([sk.roc_auc_score(g > 0, s) for g, s in zip(gains, scores, strict=True)]))


def test_average_precision_without_ties_is_that_of_scikit_learn():
    _, gains = many()
    scores = np.random.default_rng(1).permuted(np.tile(np.arange(30.0), (40, 1)), axis=1)
    found = ranking_measures(scores, np.nonzero(gains), k=30, measures=["map"])
    assert found["map@30"] == pytest.approx(sk.label_ranking_average_precision_score(gains > 0, scores))


def test_no_measure_depends_on_where_an_item_stands():
    scores, gains = many()
    share = np.random.default_rng(2).uniform(0.1, 1, 30)
    order = np.random.default_rng(3).permutation(30)
    one, other = (
        ranking_measures(s, np.nonzero(g), k=(3, 10), measures=RANKING, share=p)
        for s, g, p in [(scores, gains, share), (scores[:, order], gains[:, order], share[order])]
    )
    assert dict(one) == pytest.approx(dict(other), rel=1e-6)


def test_constant_scores_get_the_mean_score_of_random_ones():
    _, gains = many(m=20)
    same = ranking_measures(np.zeros((20, 30)), np.nonzero(gains), k=5, measures=RANKING[:8])
    rng = np.random.default_rng(0)
    random = [ranking_measures(rng.random((20, 30)), np.nonzero(gains), k=5, measures=RANKING[:8]) for _ in range(300)]
    for name in same:
        draws = [r[name] for r in random]
        assert same[name] == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / 300**0.5), name


def test_both_recalls_by_hand():
    scores = np.array([[5.0, 4.0, 3.0, 2.0, 1.0]])
    found = ranking_measures(scores, ([0, 0, 0], [0, 3, 4]), k=2, measures=["recall", "capped_recall"])
    assert dict(found) == pytest.approx({"recall@2": 1 / 3, "capped_recall@2": 1 / 2})


def test_seen_items_take_no_place_and_are_not_relevant():
    scores = np.array([[5.0, 4.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    found = ranking_measures(scores, ([0, 0, 1], [0, 2, 3]), ([0, 0], [1, 0]), k=1, measures=["recall", "mrr", "auc"])
    assert dict(found) == pytest.approx({"recall@1": 1, "mrr@1": 1, "auc": 1})
    alone = ranking_measures(scores[:1], ([0], [2]), ([0, 0], [1, 0]), k=3, measures=["precision", "coverage", "gini"])
    assert alone["precision@3"] == pytest.approx(1 / 3)  # of three places two could be filled
    assert alone["coverage@3"] == pytest.approx(0.5)


def test_seen_cells_come_in_any_order_and_more_than_once():
    scores, gains = many()
    user, item = np.nonzero(np.random.default_rng(4).random((40, 30)) < 0.2)
    mixed = np.random.default_rng(5).permutation(np.tile(np.arange(len(user)), 2))
    one, other = (
        ranking_measures(scores, np.nonzero(gains), seen, measures=RANKING[:8])
        for seen in ((user, item), (user[mixed], item[mixed]))
    )
    assert dict(one) == dict(other)


def test_an_item_that_the_scores_do_not_know_is_a_miss():
    scores = np.array([[3.0, 2.0, 1.0]])
    found = ranking_measures(scores, ([0, 0], [0, -1]), k=3, measures=["recall", "ndcg", "auc", "map"])
    assert found["recall@3"] == 0.5
    assert found["ndcg@3"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert found["auc"] == 0.5
    assert found["map@3"] == 0.5


def test_users_in_batches_get_what_they_get_together(monkeypatch):
    scores, gains = many()
    relevant, share = np.nonzero(gains), np.full(30, 0.5)
    seen = np.nonzero(np.random.default_rng(4).random((40, 30)) < 0.2)
    whole = ranking_measures(scores, relevant, seen, measures=RANKING, share=share, k=(2, 7))
    monkeypatch.setattr(evaluation, "BYTES", 16 * 30 * 3)
    asked = []
    parts = ranking_measures(
        lambda users: asked.append(len(users)) or scores[users], relevant, seen, n=30, measures=RANKING, share=share, k=(2, 7)
    )
    assert max(asked) == 3
    assert dict(parts) == pytest.approx(dict(whole), rel=1e-6)
    assert parts.errors == pytest.approx(whole.errors, rel=1e-5, nan_ok=True)


def test_scores_are_left_as_they_were():
    scores = np.zeros((1, 4), np.float32)
    ranking_measures(scores, ([0], [2]), ([0], [1]))
    assert not scores.any()


def test_what_is_shown_of_a_catalogue_by_hand():
    scores = np.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    found = ranking_measures(scores, ([0, 1], [0, 0]), k=2, measures=["coverage", "novelty", "gini"], share=[1, 0.5, 0.25, 0.125])
    assert found["coverage@2"] == pytest.approx((1 + 1 + 1 / 3 + 1 / 3) / 4)
    assert found["novelty@2"] == pytest.approx(((0 + 1) / 2 + (0 + (1 + 2 + 3) / 3) / 2) / 2)
    shown = np.array([2, 4 / 3, 1 / 3, 1 / 3])
    assert found["gini@2"] == pytest.approx(np.abs(shown[:, None] - shown).mean() / (2 * shown.mean()))


def test_coverage_of_ties_is_its_mean_over_random_orders():
    rng = np.random.default_rng(0)
    shown = [len({i for _ in range(3) for i in rng.permutation(6)[:2]}) / 6 for _ in range(4000)]
    found = ranking_measures(np.zeros((3, 6)), ([0, 1, 2], [0, 0, 0]), k=2, measures=["coverage"])
    assert found["coverage@2"] == pytest.approx(np.mean(shown), abs=4 * np.std(shown) / 4000**0.5)


def test_users_without_relevant_items_are_not_counted():
    scores, gains = many()
    gains[7:] = 0
    found = ranking_measures(scores, np.nonzero(gains))
    assert dict(found) == pytest.approx(dict(ranking_measures(scores[:7], np.nonzero(gains[:7]))))
    assert np.isnan(found.by_user["recall@10"][7:]).all()


def test_the_standard_error_is_that_of_a_mean_over_users():
    scores, gains = many()
    found = ranking_measures(scores, np.nonzero(gains), measures=["ndcg", "coverage"])
    assert found.errors["ndcg@10"] == pytest.approx(stats.sem(found.by_user["ndcg@10"]))
    assert math.isnan(found.errors["coverage@10"])


def test_a_difference_is_paired_over_users():
    scores, gains = many()
    near = ranking_measures(scores, np.nonzero(gains), measures=["recall"])
    same = near.difference(near)
    assert (same["recall@10"], same.errors["recall@10"]) == (0, 0)
    other = ranking_measures(scores + np.random.default_rng(5).random((40, 30)), np.nonzero(gains), measures=["recall", "map"])
    gap = near.difference(other)
    each = near.by_user["recall@10"] - other.by_user["recall@10"]
    assert list(gap) == ["recall@10"]
    assert gap["recall@10"] == pytest.approx(each.mean())
    assert gap.errors["recall@10"] == pytest.approx(stats.sem(each))
    with pytest.raises(ValueError, match="different users"):
        near.difference(ranking_measures(scores[:9], np.nonzero(gains[:9])))


def test_measures_are_asked_for_by_name_and_length():
    scores, gains = many()
    assert list(ranking_measures(scores, np.nonzero(gains), k=[5, 10], measures=["recall", "auc", "ndcg@3"])) == [
        "recall@5", "recall@10", "auc", "ndcg@3"
    ]  # fmt: skip
    assert list(ranking_measures(scores, np.nonzero(gains))) == [f"{name}@10" for name in USUAL if name != "novelty"]


def test_an_evaluation_prints_a_table():
    text = repr(ranking_measures(np.zeros((2, 4)), ([0, 1], [2, 2]), k=1, measures=["recall", "coverage"]))
    assert text.splitlines() == ["recall@1       0.2500 ± 0.0000", "coverage@1     0.4375", "2 users, 2 cells"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"measures": ["recal"]}, "'recal' is no measure of rankings; there are recall"),
        ({"measures": ["recall@x"]}, "what follows @ is a number"),
        ({"k": 0}, "k is 0; it is the length of a list"),
        ({"relevant": ([], [])}, "nothing is relevant"),
        ({"seen": ([0], [2])}, "that was not seen before"),
        ({"relevant": ([0], [2], [0.0])}, "gains must be above 0"),
        ({"scores": [[0, np.nan, 1, 2.0]]}, "scores hold NaN"),
        ({"scores": [[0, -np.inf, np.nan, 2.0]], "k": 1}, "scores hold NaN"),
        ({"scores": [1.0, 2.0]}, "a table of users x items"),
        ({"scores": lambda users: users}, "give n, the number of items"),
        ({"measures": ["novelty"]}, "novelty needs share"),
    ],
)
def test_bad_rankings_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ranking_measures(**{"scores": np.zeros((1, 4)), "relevant": ([0], [2]), **arguments})


# ── ratings ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def cells(size=400, seed=0):
    rng = np.random.default_rng(seed)
    mean, std = rng.uniform(1, 5, size), rng.uniform(0.5, 1.5, size)
    return mean + std * rng.standard_normal(size), mean, std, rng.integers(0, 40, size)


def test_errors_of_ratings_are_those_of_scikit_learn():
    y, mean, _, user = cells()
    w = np.random.default_rng(1).random(400)
    found = rating_measures(y, mean, weight=w, user=user)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, mean, sample_weight=w))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, mean, sample_weight=w))
    assert found.by_user["rmse"][3] == pytest.approx(
        sk.root_mean_squared_error(y[user == 3], mean[user == 3], sample_weight=w[user == 3])
    )


def test_a_whole_weight_is_a_repetition():
    y, mean, std, _ = cells(60)
    w = np.random.default_rng(1).integers(0, 4, 60)
    once, often = rating_measures(y, mean, std, w), rating_measures(*(np.repeat(v, w) for v in (y, mean, std)))
    assert {n: once[n] for n in once if "/" not in n} == pytest.approx({n: often[n] for n in often if "/" not in n})


def test_a_group_without_weight_is_left_out():
    y, mean, std, _ = cells()
    found = rating_measures(y, mean, std, weight=std < np.quantile(std, 0.7))
    assert [n[-1] for n in found if "spread" in n] == ["1", "2", "3", "4"]


def test_the_interval_score_is_the_one_of_its_formula():
    y, mean, std, _ = cells()
    low, high = stats.norm.interval(0.8, mean, std)
    score = high - low + 10 * np.maximum(low - y, 0) + 10 * np.maximum(y - high, 0)
    assert rating_measures(y, mean, std, level=0.8)["interval_score@0.8"] == pytest.approx(score.mean())
    assert rating_measures(y, mean, std)["interval_coverage@0.9"] == pytest.approx(
        np.mean(np.abs(y - mean) <= stats.norm.ppf(0.95) * std)
    )


def test_crps_is_the_integral_of_its_definition():
    y, mean, std, _ = cells(5)
    by_hand = [
        integrate.quad(lambda x, i=i: (stats.norm.cdf(x, mean[i], std[i]) - (x >= y[i])) ** 2, -15, 25, points=[y[i]], limit=200)[0]
        for i in range(5)
    ]
    assert rating_measures(y, mean, std, measures=["crps"])["crps"] == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_groups_are_fifths_of_users_by_activity_and_of_cells_by_spread():
    y, mean, std, user = cells(2000)
    activity = (np.arange(40) * 3)[user]
    found = rating_measures(y, mean, std, user=user, activity=activity)
    inside = np.abs(y - mean) <= stats.norm.ppf(0.95) * std
    assert found["interval_coverage@0.9/activity 1"] == pytest.approx(inside[user < 8].mean())
    assert found["interval_coverage@0.9/activity 5"] == pytest.approx(inside[user >= 32].mean())
    assert found["interval_coverage@0.9/spread 2"] == pytest.approx(inside[np.argsort(std)[400:800]].mean())


def test_users_of_equal_activity_are_in_one_group():
    y, mean, _, user = cells()
    found = rating_measures(y, mean, np.ones(400), user=user, activity=np.full(400, 7))
    assert [n for n in found if "/" in n] == ["interval_coverage@0.9/activity 1", "interval_coverage@0.9/spread 1"]


def test_the_standard_error_of_ratings_is_the_spread_over_samples_of_users():
    rng = np.random.default_rng(0)

    def sample():
        user = np.repeat(np.arange(60), 8)
        y = rng.standard_normal(480) + rng.standard_normal(60)[user]  # the cells of one user err together
        return rating_measures(y, np.zeros(480), user=user)

    runs = [sample() for _ in range(200)]
    for name in ("rmse", "mae"):
        assert np.mean([run.errors[name] for run in runs]) == pytest.approx(np.std([run[name] for run in runs]), rel=0.15)


def test_a_difference_of_errors_is_paired():
    y, mean, _, user = cells(4000)
    near, far = rating_measures(y, mean, user=user), rating_measures(y, mean + 0.01, user=user)
    gap = far.difference(near)
    assert gap["rmse"] == pytest.approx(far["rmse"] - near["rmse"])
    assert gap.errors["rmse"] < 0.1 * far.errors["rmse"]


def test_a_perfect_prediction_has_no_error():
    found = rating_measures([1.0, 2.0], [1.0, 2.0])
    assert dict(found) == {"rmse": 0, "mae": 0}
    assert found.errors == {"rmse": 0, "mae": 0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rating": [], "mean": []}, "the test set is empty"),
        ({"mean": [1.0]}, "one number for each cell"),
        ({"mean": [1.0, np.nan]}, "mean holds 1 numbers that are NaN"),
        ({"std": [1.0, 0.0]}, "not above 0"),
        ({"weight": [-1.0, 2.0]}, "weight must be at least 0"),
        ({"weight": [0.0, 0.0]}, "weight must be at least 0"),
        ({"measures": ["crps"]}, "needs standard deviations"),
        ({"measures": ["ndcg"]}, "no measure of ratings"),
        ({"std": [1.0, 1.0], "level": 1.0}, "level is 1"),
    ],
)
def test_bad_ratings_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        rating_measures(**{"rating": [1.0, 2.0], "mean": [1.5, 2.0], **arguments})


def test_what_was_not_measured_is_a_key_error_with_what_was():
    with pytest.raises(KeyError, match="there are rmse, mae"):
        rating_measures([1.0], [1.0])["ndcg"]


# ── models ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def fitted(implicit=True, seed=0, **more):
    """A model of 12 users u00 … u11 (the last without data) and 9 items 0 … 8, and whatever it answers."""
    rng = np.random.default_rng(seed)
    seen = rng.random((12, 9)) < 0.3
    seen[:, 0], seen[11] = True, False
    users = np.array([f"u{u:02}" for u in range(12)], object)
    cells = np.concatenate([[0], np.cumsum(seen.sum(1))]), np.nonzero(seen)[1], np.ones(seen.sum())
    drawn = [rng.standard_normal((12, 3)), rng.standard_normal((9, 3)), 0.0 if implicit else 3.0, rng.random(12), rng.random(9)]
    own = {"fallback": rng.random(9)} if implicit else {"low": 1.0, "high": 5.0}
    return Model(users, np.arange(9), *drawn, *cells, info={"implicit": implicit}, **own, **more), seen


def hidden(model, seen, seed=1):
    """Test cells, none of them seen."""
    rng = np.random.default_rng(seed)
    user, item = np.nonzero((rng.random(seen.shape) < 0.4) & ~seen)
    return model.users[user], item, rng.integers(1, 6, len(user)).astype(float)


def test_rankings_of_a_model_are_those_of_its_recommendations():
    model, seen = fitted()
    users, items, _ = test = hidden(model, seen)
    found = evaluate(model, test, k=3, measures=["recall", "precision", "hit_rate"])
    table = model.recommend(sorted(set(users)), n=3).to_pandas()
    each = [
        len(set(table.item[table.user == user]) & set(items[users == user])) / (users == user).sum() for user in sorted(set(users))
    ]
    assert found.by_user["recall@3"] == pytest.approx(each)
    assert found["recall@3"] == pytest.approx(np.mean(each))


def test_errors_of_a_model_are_those_of_its_predictions():
    model, seen = fitted(implicit=False)
    users, items, y = test = hidden(model, seen)
    found = evaluate(model, test)
    assert list(found) == ["rmse", "mae"]
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, model.predict(users, items)), rel=1e-6)
    assert list(found.users) == sorted(set(users))


def test_a_model_that_knows_its_errors_is_asked_for_intervals():
    model, seen = fitted(implicit=False, noise=np.ones(12))
    users, items, y = test = hidden(model, seen)
    found = evaluate(model, test, level=0.8)
    mean, std = model.predict(users, items, return_std=True)
    assert found["interval_coverage@0.8"] == pytest.approx(np.mean(np.abs(y - mean) <= stats.norm.ppf(0.9) * std))
    activity = seen.sum(1)[[list(model.users).index(u) for u in users]]
    first = activity <= np.quantile([seen.sum(1)[list(model.users).index(u)] for u in sorted(set(users))], 0.2)
    assert found["interval_coverage@0.8/activity 1"] == pytest.approx(
        np.mean((np.abs(y - mean) <= stats.norm.ppf(0.9) * std)[first])
    )
    assert {"interval_score@0.8", "crps"} < set(found)


def test_a_threshold_says_what_is_relevant_in_ratings():
    model, seen = fitted(implicit=False)
    users, items, y = test = hidden(model, seen)
    both = evaluate(model, test, relevant=4, k=2)
    assert {"rmse", "recall@2", "ndcg@2"} < set(both)
    liked = y >= 4
    alone = evaluate(model, (users[liked], items[liked]), k=2, measures=["recall", "ndcg"])
    assert both["ndcg@2"] == pytest.approx(alone["ndcg@2"])
    who = np.unique(users, return_inverse=True)[1]
    graded = evaluate(model, test, relevant=2, k=9, gains="exponential", measures="ndcg", exclude_seen=False)
    gains, scores = np.zeros((who.max() + 1, 9)), np.zeros((who.max() + 1, 9))
    gains[who, items] = np.where(y >= 2, 2**y - 1, 0)
    scores[:] = model.X[[list(model.users).index(u) for u in np.unique(users)]] @ model.Y.T + model.c
    scores[np.unique(users) == "u11"] = model.fallback
    some = gains.any(1)
    assert graded["ndcg@9"] == pytest.approx(sk.ndcg_score(gains[some], scores[some]))


def test_seen_items_are_candidates_on_request():
    model, seen = fitted()
    test = hidden(model, seen)
    assert evaluate(model, test, exclude_seen=False, measures="auc")["auc"] != evaluate(model, test, measures="auc")["auc"]
    elsewhere = evaluate(model, test, train=(["nobody"], [8]), measures="auc")
    assert elsewhere["auc"] == pytest.approx(evaluate(model, test, exclude_seen=False, measures="auc")["auc"])


def test_relevant_items_that_were_seen_are_left_out_and_noted():
    model, seen = fitted()
    users, items, y = hidden(model, seen)
    more = np.append(users, "u03"), np.append(items, 0), np.append(y, 5.0)
    assert dict(evaluate(model, more)) == pytest.approx(dict(evaluate(model, (users, items, y))))
    assert "relevant cells that were seen, left out: 1" in repr(evaluate(model, more))


def test_a_user_without_data_gets_the_fallback_and_is_noted():
    model, _ = fitted()
    test = ["u11", "new"], [3, 3]
    found = evaluate(model, test, k=9, measures="mrr")
    assert found["mrr@9"] == pytest.approx(1 / (1 + (model.fallback > model.fallback[3]).sum()))
    assert "users without training data, whom the fallback answers: 2" in repr(found)


def test_an_item_that_the_model_does_not_know_is_a_miss_and_is_noted():
    model, _ = fitted()
    found = evaluate(model, (["u00", "u00"], [77, 5]), k=9, measures="recall")
    assert found["recall@9"] == 0.5
    assert "items that the model does not know, misses in rankings: 1" in repr(found)
    model, _ = fitted(implicit=False)
    assert np.isfinite(evaluate(model, (["u00", "new"], [77, 77], [3.0, 2.0]))["rmse"])


def test_columns_may_be_called_as_in_the_fit_and_answers_come_in_the_callers_frame():
    import polars as pl

    model, seen = fitted()
    model.info["columns"] = {"user": "who", "item": "film", "rating": "stars"}
    users, items, y = test = hidden(model, seen)
    frame = pl.DataFrame({"note": ["x"] * len(y), "stars": y, "film": items, "who": users.astype(str)})
    found = evaluate(model, frame)
    assert dict(found) == pytest.approx(dict(evaluate(model, test)))
    table = found.per_user()
    assert isinstance(table, pl.DataFrame)
    assert table.columns[:2] == ["who", "recall@10"]
    assert table["who"].to_list() == sorted(set(users))
    assert evaluate(model, read_ratings(test)).keys() == found.keys()


def test_a_fitted_recommender_is_asked_through_its_model():
    model, seen = fitted()
    test = hidden(model, seen)

    class Holder:
        model_, implicit = model, False

    assert list(evaluate(Holder(), test)) == ["rmse", "mae"]


@pytest.mark.parametrize(
    ("test", "arguments", "words"),
    [
        (([], []), {}, "the test set is empty"),
        ((["u00"], [1], [0.0]), {}, "no rating of the test set is above 0, the highest is 0"),
        ((["u00"], [1], [3.0]), {"relevant": 4}, "at least 4, the highest is 3"),
        ((["u00"], [0]), {}, "nothing is relevant: there is no cell to be found that was not seen"),
        ((["u00"], [1]), {"measures": "accuracy"}, "'accuracy' is no measure"),
        ((["u00"], [1]), {"measures": ["crps"]}, "knows no standard deviations"),
        ((["u00"], [1]), {"gains": "log"}, "gains is 'log'"),
    ],
)
def test_bad_test_sets_are_refused(test, arguments, words):
    with pytest.raises(ValueError, match=words):
        evaluate(fitted()[0], test, **arguments)


def test_an_empty_frame_is_an_empty_test_set():
    import pandas as pd

    with pytest.raises(ValueError, match="the test set is empty"):
        evaluate(fitted()[0], pd.DataFrame({"user": [], "item": []}))


def test_what_is_not_fitted_is_refused():
    with pytest.raises(TypeError, match="call fit first"):
        evaluate(object(), ([1], [2]))


def clicks(seed=0, names=None):
    """40 users in two camps and 30 items, as ids that may be called otherwise."""
    rng = np.random.default_rng(seed)
    camp = (np.arange(40)[:, None] % 2) == (np.arange(30) % 2)
    user, item = np.nonzero(rng.random((40, 30)) < np.where(camp, 0.5, 0.05))
    return user, item if names is None else names[item]


def test_a_recommender_that_learned_the_camps_beats_popularity():
    train, test = split(clicks(), "per-user", 0.3)
    models = [kind().fit(train) for kind in (EASE, Popularity)]
    one, other = (evaluate(model, test, k=5) for model in models)
    gap = one.difference(other)
    assert gap["ndcg@5"] > 3 * gap.errors["ndcg@5"] > 0
    assert models[0].score(test) == pytest.approx(evaluate(models[0], test)["ndcg@10"])


def test_equally_popular_items_score_the_same_whatever_they_are_called():
    train, test = split(clicks(), "per-user", 0.3)
    names = np.random.default_rng(1).permutation(30)
    renamed = [(user, names[item]) for user, item in (train, test)]
    one, other = (evaluate(Popularity().fit(a), b, measures=RANKING) for a, b in ((train, test), renamed))
    assert dict(one) == pytest.approx(dict(other), rel=1e-6)


def test_strong_generalisation_folds_the_new_users_in_first():
    train, known, hidden = split(clicks(), "users", 0.25)
    model = EASE().fit(train)
    found = evaluate(model.fold_in(known, unknown="drop"), hidden)
    assert found.notes == () or all("do not know" not in note for note in found.notes)
    assert found["ndcg@10"] > evaluate(model, hidden)["ndcg@10"]  # which answers with the fallback


def test_errors_scale_with_the_ratings():
    user, item = clicks()
    stars = np.random.default_rng(2).integers(1, 6, len(user)).astype(float)
    found = []
    for unit in (1.0, 1e4):
        train, test = split((user, item, unit * stars))
        found.append({name: value / unit for name, value in evaluate(Bias().fit(train), test).items()})
    assert found[0] == pytest.approx(found[1], rel=1e-5)
