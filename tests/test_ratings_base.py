"""What every recommender can do, on those in closed form."""

import dataclasses
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse

from proxfactor.ratings import EASE, GFCF, Bias, Popularity, PureSVD, evaluate, read_ratings
from proxfactor.ratings.base import Recommender

ALL = [Bias(), Bias(reg=3.0), Popularity(), EASE(reg=5.0), EASE(reg=5.0, values=True), GFCF(rank=4), PureSVD(rank=3)]
each = pytest.mark.parametrize("model", ALL, ids=repr)


@pytest.fixture(autouse=True)
def _fresh():
    for model in ALL:
        for name in ("model_", "ratings_", "history_"):
            model.__dict__.pop(name, None)


def table(seed=0, m=25, n=15, share=0.4, form=pd.DataFrame):
    r = np.random.default_rng(seed)
    user, item = np.nonzero(r.random((m, n)) < share)
    keep = r.permutation(len(user))
    taste = r.standard_normal((m, 2)) @ r.standard_normal((2, n))
    rating = np.clip(np.rint(3 + taste[user, item]), 1, 5)
    return form({"reader": [f"r{u:02}" for u in user[keep]], "book": item[keep] + 100, "stars": rating[keep]})


def arrays(model):
    M = model.model_
    return {name: getattr(M, name) for name in ("X", "Y", "b", "c", "fallback") if getattr(M, name) is not None}


def answers(model):
    """Every prediction: what a model is, whatever the signs and the order of its factors."""
    M = model.model_
    return M.predict(np.repeat(M.users, len(M.items)), np.tile(M.items, len(M.users))).reshape(len(M.users), -1)


# answers in the caller's frames


@each
@pytest.mark.parametrize("form", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_a_frame_comes_back_in_the_callers_library_with_its_names(model, form):
    data = table(form=form)
    found = model.fit(data).recommend(["r01", "r02"], n=3)
    assert type(found) is type(data)
    assert list(found.columns if form is not pa.table else found.column_names) == ["reader", "book", "score", "rank", "fallback"]
    assert len(found) == 6
    if model.model_.Y.shape[1]:
        similar = model.similar_items([100], n=2)
        assert type(similar) is type(data)
        assert len(similar) == 2


def test_ids_keep_the_types_they_came_in():
    data = table().astype({"reader": "category", "book": "int16"})
    model = EASE(reg=5.0).fit(data)
    assert model.recommend("r01").dtypes["book"] == "int16"
    assert model.recommend("r01").dtypes["reader"] == "category"
    assert model.similar_items(100).dtypes[["book", "similar"]].tolist() == ["int16", "int16"]


@each
def test_predict_takes_pairs_and_single_ids(model):
    data = table()
    model.fit(data)
    p = model.predict(data.reader, data.book)
    assert p.shape == (len(data),)
    assert isinstance(model.predict("r01", 100), float)
    assert model.predict("r01", 100) == pytest.approx(model.predict(["r01"], [100])[0])


@each
def test_arrays_and_sparse_matrices_fit_too(model):
    data = table()
    by_frame = answers(model.fit(data))
    user = data.reader.str[1:].astype(int)
    by_arrays = answers(model.fit((user.to_numpy(), data.book.to_numpy(), data.stars.to_numpy())))
    S = sparse.coo_array((data.stars, (user, data.book - 100)), shape=(25, 15))
    for other in (by_arrays, answers(model.fit(S))):
        np.testing.assert_allclose(other, by_frame, atol=1e-4)


# before and after a fit


@each
@pytest.mark.parametrize("ask", ["predict", "recommend", "similar_items", "similar_users", "explain", "save", "fold_in", "score"])
def test_before_a_fit_every_question_says_to_fit(model, ask, tmp_path):
    given = {
        "predict": ("a", 1), "recommend": (), "similar_items": (1,), "similar_users": ("a",), "explain": ("a", 1),
        "save": (tmp_path / "run",), "fold_in": (table(),), "score": (table(),),
    }[ask]  # fmt: skip
    with pytest.raises(ValueError, match=f"this {type(model).__name__} is not fitted; call fit"):
        getattr(model, ask)(*given)
    assert not hasattr(model, "model_")


@each
def test_another_fit_is_another_model_and_the_same_seed_the_same_answers(model):
    first = arrays(model.fit(table()))
    model.fit(table(seed=1))
    again = arrays(model.fit(table()))
    for name in first:
        assert (first[name] == again[name]).all()


@each
def test_options_are_fields_and_a_replaced_model_is_not_fitted(model):
    model.fit(table())
    other = dataclasses.replace(model, duplicates="last")
    assert other.duplicates == "last"
    assert not hasattr(other, "model_")
    assert "model_" not in repr(model)


@each
def test_the_callback_gets_a_row_and_the_history_keeps_it(model):
    rows = []
    model.fit(table(), callback=rows.append)
    assert rows == model.history_
    assert rows[-1]["sweep"] == rows[-1]["sweeps"] == 1
    assert rows[-1]["seconds"] >= 0


@each
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_ratings_in_other_units_rank_alike(model, factor):
    data = table()
    model.fit(data)
    one = model.recommend(n=4), answers(model)
    model.fit(data.assign(stars=data.stars * factor))
    other = model.recommend(n=4), answers(model)
    grows = isinstance(model, Bias) or getattr(model, "values", False)
    np.testing.assert_allclose(other[1], one[1] * (factor if grows else 1), rtol=1e-4, atol=1e-5 * (factor if grows else 1))
    assert (other[0].book == one[0].book).mean() > 0.95  # rounding may part ties


# more data, new users


@each
def test_partial_fit_equals_a_fit_of_all_the_ratings(model):
    data = table()
    data["book"] = np.where(data.reader < "r05", data.book, np.minimum(data.book, 112))  # the first part brings new books
    data = data.drop_duplicates(["reader", "book"])
    old, new = data[data.reader >= "r05"], data[data.reader < "r05"]
    new = pd.concat([new, pd.DataFrame({"reader": ["r10"], "book": [200], "stars": [4.0]})])
    together = answers(dataclasses.replace(model).fit(pd.concat([old, new])))
    model.fit(old)
    assert model.partial_fit(new) is model
    np.testing.assert_allclose(answers(model), together, rtol=1e-5, atol=1e-5)
    assert len(model.ratings_) == len(data) + 1


def test_partial_fit_before_a_fit_is_one():
    assert len(Bias().partial_fit(table()).ratings_) == len(table())


def test_a_pair_rated_again_follows_duplicates():
    data = table()
    again = data.iloc[:1].assign(stars=1.0)
    with pytest.raises(ValueError, match="duplicates='sum', 'mean' or 'last'"):
        Bias().fit(data).partial_fit(again)
    model = Bias(duplicates="last").fit(data).partial_fit(again)
    changed = data.assign(stars=data.stars.where(data.index != data.index[0], 1.0))
    np.testing.assert_allclose(answers(model), answers(Bias().fit(changed)), atol=1e-6)


@each
def test_folded_in_users_of_the_fit_get_what_the_fit_gave_them(model):
    data = table()
    before = answers(model.fit(data))
    some = data[data.reader.isin(["r03", "r07"])].assign(reader=lambda d: d.reader.str.replace("r", "new "))
    new = model.fold_in(some)
    assert new.model_.users.tolist() == ["new 03", "new 07"]
    p = new.predict(np.repeat(["new 03", "new 07"], 15), np.tile(model.model_.items, 2))
    np.testing.assert_allclose(p.reshape(2, 15), before[[3, 7]], rtol=1e-4, atol=1e-4)
    assert not set(zip(some.reader, some.book, strict=True)) & set(
        new.recommend(n=15)[["reader", "book"]].itertuples(index=False, name=None)
    )
    np.testing.assert_array_equal(answers(model), before)  # the old one is as it was


def test_folded_in_ratings_stand_for_themselves_even_under_an_old_id():
    data = table()
    model = Bias().fit(data)
    new = model.fold_in(pd.DataFrame({"reader": ["r01"], "book": [100], "stars": [5.0]}))
    assert new.predict("r01", 101) != model.predict("r01", 101)
    assert len(new.recommend(n=50)) == 14


def test_items_that_the_fit_does_not_know_are_refused_or_dropped():
    model = EASE(reg=5.0).fit(table())
    new = pd.DataFrame({"reader": ["x", "x", "y"], "book": [100, 999, 999], "stars": [5.0, 5.0, 5.0]})
    with pytest.raises(ValueError, match="999"):
        model.fold_in(new)
    found = model.fold_in(new, unknown="drop").recommend(n=2)
    assert found.groupby("reader").fallback.first().to_dict() == {"x": False, "y": True}


def test_new_columns_are_named_like_the_old_ones_or_anew():
    model = EASE(reg=5.0).fit(table())
    mixed = table(seed=1).assign(noise=1)[["noise", "stars", "book", "reader"]]
    renamed = mixed.rename(columns={"reader": "who", "book": "what", "stars": "mark"})
    np.testing.assert_array_equal(
        answers(model.fold_in(mixed)), answers(model.fold_in(renamed, user="who", item="what", rating="mark"))
    )


# why


@each
def test_the_contributions_add_up_to_the_score(model):
    model.fit(table())
    M = model.model_
    for user in ("r01", "r09"):
        for item in (100, 107):
            u, i = int(user[1:]), item - 100
            x = np.zeros(15)
            x[M.seen(u)[0]] = M.seen(u)[1]
            score = M.mean + M.b[u] + M.c[i] + float(x @ M.Y[:, i] if M.X is None else M.X[u] @ M.Y[i])
            for n in (2, None):
                why = model.explain(user, item, n)
                assert list(why.columns) == ["book", "contribution"]
                assert why.contribution.sum() == pytest.approx(score, abs=1e-5)
            seen = why[~why.book.str.startswith("(")]
            assert sorted(seen.book) == sorted(str(100 + j) for j in M.seen(u)[0])
            assert (np.diff(seen.contribution) <= 0).all()


def test_who_has_no_ratings_gets_no_explanation():
    model = EASE(reg=5.0).fit(sparse.coo_array(([1.0], ([1], [0])), shape=(3, 2)))
    with pytest.raises(ValueError, match="user 0 has no ratings: the score is the fallback"):
        model.explain(0, 1)


def test_a_model_that_cannot_tell_why_says_so():
    class Riddle(PureSVD):
        _shares = Recommender._shares

    with pytest.raises(NotImplementedError, match="Riddle cannot tell"):
        Riddle(rank=2).fit(table()).explain("r01", 100)


# files


@each
def test_a_saved_recommender_answers_and_goes_on_alike(model, tmp_path):
    data = table().assign(when=np.arange(len(table())), sure=np.linspace(0.5, 1, len(table())), stars=lambda d: d.stars + 0.1)
    model.fit(data, "reader", "book", "stars", time="when", weight="sure")
    model.save(tmp_path / "run")
    again = Recommender.load(tmp_path / "run")
    assert again == model
    assert type(again) is type(model).load(tmp_path / "run").__class__ is type(model)
    assert again.history_ == model.history_
    pd.testing.assert_frame_equal(again.recommend(n=3), model.recommend(n=3))
    more = pd.DataFrame({"reader": ["x"], "book": [100], "stars": [4.0], "when": [9], "sure": [1.0]})
    np.testing.assert_allclose(answers(again.partial_fit(more)), answers(model.partial_fit(more)), atol=1e-6)


def test_another_kind_of_recommender_is_refused(tmp_path):
    folder = Popularity().fit(table()).save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds Popularity, not EASE; Recommender.load reads any"):
        EASE.load(folder)


def test_constraints_among_the_options_are_kept(tmp_path):
    import torch

    from proxfactor import Box, NonNegative

    @dataclasses.dataclass(kw_only=True)
    class Constrained(PureSVD):
        W: object = None
        H: object = None

    folder = Constrained(W=NonNegative(), H=Box(0, torch.ones(3)), rank=2).fit(table()).save(tmp_path / "run")
    again = Recommender.load(folder)
    assert again.W == "NonNegative()"
    assert again.H(torch.full((3,), 5.0)).tolist() == [1, 1, 1]


def test_a_saved_recommender_serves_without_torch(tmp_path):
    folder = EASE(reg=5.0).fit(table()).save(tmp_path / "run")
    code = f"""
import sys
from proxfactor.serve import load
print(load({str(folder)!r}).recommend("r01", n=1).column_names)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert "'reader', 'book'" in done.stdout


# how good


def test_the_score_is_what_evaluation_says_and_greater_is_better():
    data, test = table(share=0.5), table(seed=3, share=0.2)
    ratings = Bias().fit(data)
    error = ratings.predict(test.reader, test.book) - test.stars
    assert ratings.score(test) == pytest.approx(-np.sqrt(np.mean(error**2)), rel=1e-6)
    assert ratings.score(test.rename(columns={"stars": "mark"}), rating="mark") == ratings.score(test)
    clicks = EASE(reg=5.0).fit(data)
    assert clicks.score(test) == evaluate(clicks, test)["ndcg@10"] > 0


# data at the edge


@each
def test_degenerate_ratings_give_finite_answers(model):
    one = pd.DataFrame({"u": ["a"], "i": ["x"], "r": [3.0]})
    same = table().assign(stars=3.0)
    zero = table().assign(stars=0.0)
    holes = sparse.coo_array((np.ones(3), ([0, 0, 2], [0, 2, 2])), shape=(4, 4))
    unweighted = table().assign(w=lambda d: (d.book != 103).astype(float))
    for data, options in ((one, {}), (same, {}), (zero, {}), (holes, {}), (unweighted, {"weight": "w"})):
        model.fit(data, **options)
        assert np.isfinite(answers(model)).all()
        model.recommend(n=2)
        model.fold_in(data, **(options | ({"user": "reader", "item": "book", "rating": "stars"} if options else {})))


def test_all_ratings_equal_are_predicted_as_they_are():
    np.testing.assert_allclose(answers(Bias().fit(table().assign(stars=3.0))), 3.0)


def test_a_user_without_ratings_and_one_never_seen_get_the_flagged_fallback():
    R = sparse.coo_array((np.ones(4), ([0, 0, 2, 2], [0, 2, 2, 3])), shape=(3, 4))
    model = EASE(reg=1.0).fit(R)
    found = model.recommend([1, 7], n=4, unknown="fallback").to_pandas()
    assert found.fallback.all()
    assert found.item.tolist() == [2, 0, 3, 1] * 2
    with pytest.raises(ValueError, match="unknown user 7"):
        model.recommend([1, 7])


def test_ratings_that_are_read_already_are_taken_as_they_are():
    r = read_ratings(table())
    np.testing.assert_array_equal(answers(Bias().fit(r)), answers(Bias().fit(table())))
