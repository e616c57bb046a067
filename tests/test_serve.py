"""Answers of a fitted recommender, against loops over the written-out score."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from proxfactor import serve
from proxfactor.serve import Model, codes_of, load, top


def model(m=12, n=30, k=4, seed=0, linear=False, **options):
    """User "u03" has no data, item 7 nobody has seen."""
    r = np.random.default_rng(seed)
    seen = r.random((m, n)) < 0.3
    seen[3], seen[:, 7] = False, False
    user, item = np.nonzero(seen)
    values = r.integers(1, 6, len(user)).astype(float)
    given = {
        "X": None if linear else r.standard_normal((m, k)),
        "Y": r.standard_normal((n, n if linear else k)),
        "mean": 3.5,
        "b": r.standard_normal(m) / 3,
        "c": r.standard_normal(n) / 3,
        "indptr": np.concatenate([[0], np.cumsum(seen.sum(1))]),
        "indices": item,
        "values": values,
        "fallback": r.standard_normal(n),
    }
    users = np.array([f"u{i:02}" for i in range(m)], dtype=object)
    return Model(users, np.arange(100, 100 + n), **(given | options))


def dense(model):
    """Every score, by the definition."""
    R = np.zeros((len(model.users), len(model.items)))
    for u in range(len(R)):
        items, values = model.seen(u)
        R[u, items] = values
    X = R if model.X is None else model.X
    scores = X @ (model.Y if model.X is None else model.Y.T) + model.mean + model.b[:, None] + model.c
    scores[~R.any(1)] = model.fallback
    return scores, R != 0


def wanted(scores, n):
    """(position, score) of the n best of one row, -inf left out."""
    order = sorted((-s, i) for i, s in enumerate(scores) if s > -np.inf)
    return [i for _, i in order[:n]]


def rows(table, user):
    return [r for r in table.to_pylist() if r["user"] == user]


# the best


@pytest.mark.parametrize("width", [1, 5, 64, 300, 1001])
@pytest.mark.parametrize("n", [1, 3, 10, 400])
@pytest.mark.parametrize("kinds", ["numbers", "many ties", "one value", "few finite", "none finite"])
def test_top_is_the_head_of_a_stable_sort(width, n, kinds):
    r = np.random.default_rng(width + n)
    scores = r.standard_normal((7, width)).astype(np.float32)
    if kinds == "many ties":
        scores = r.integers(0, 4, scores.shape).astype(np.float32)
    elif kinds == "one value":
        scores[:] = 2
    elif kinds == "few finite":
        scores[r.random(scores.shape) < 0.98] = -np.inf
    elif kinds == "none finite":
        scores[:] = -np.inf
    found = top(scores, n)
    assert found.shape == (7, n)
    for row, places in zip(scores, found, strict=True):
        expected = wanted(row, n)
        assert places.tolist() == expected + [-1] * (n - len(expected))


def test_top_of_many_equal_scores_takes_few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(serve, "_MANY", 50)
    assert top(np.ones((9, 40)), 3).tolist() == [[0, 1, 2]] * 9


def test_top_of_nothing_is_nothing():
    assert top(np.empty((0, 5)), 3).shape == (0, 3)
    assert top(np.empty((2, 0)), 3).tolist() == [[-1] * 3] * 2


# predict


@pytest.mark.parametrize("linear", [False, True])
def test_predict_is_the_written_out_score(linear):
    M = model(linear=linear)
    scores, _ = dense(M)
    u, i = (a.ravel() for a in np.indices(scores.shape))
    np.testing.assert_allclose(M.predict(M.users[u], M.items[i]), scores[u, i], rtol=1e-5, atol=1e-5)


def test_predict_in_small_batches_is_the_same(monkeypatch):
    M = model()
    u, i = (a.ravel() for a in np.indices((12, 30)))
    at_once = M.predict(M.users[u], M.items[i])
    monkeypatch.setattr(serve, "BYTES", 500)
    assert (M.predict(M.users[u], M.items[i]) == at_once).all()


def test_a_pair_of_ids_gives_a_number_and_one_user_meets_many_items():
    M = model()
    scores, _ = dense(M)
    one = M.predict("u01", 104)
    assert isinstance(one, float)
    assert one == pytest.approx(scores[1, 4], abs=1e-5)
    np.testing.assert_allclose(M.predict("u01", [104, 100]), scores[1, [4, 0]], rtol=1e-5)


def test_predictions_are_clipped():
    M = model(low=3.4, high=3.6)
    p = M.predict(["u00"] * 30, M.items)
    assert p.min() == np.float32(3.4)
    assert p.max() == np.float32(3.6)


def test_the_standard_deviation_is_that_of_the_draws_and_the_noise():
    r = np.random.default_rng(1)
    draws, rank = 5, 3
    X, Y, noise = r.standard_normal((draws, 12, rank)), r.standard_normal((draws, 30, rank)), r.random(12)
    M = model(X=np.concatenate(X / draws, axis=1), Y=np.concatenate(Y, axis=1), draws=draws, noise=noise)
    mean, std = M.predict("u02", M.items, return_std=True)
    scores = np.stack([x[2] @ y.T for x, y in zip(X, Y, strict=True)])
    np.testing.assert_allclose(mean, scores.mean(0) + M.mean + M.b[2] + M.c, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(std, np.sqrt(scores.var(0) + noise[2]), rtol=1e-5)
    assert isinstance(M.predict("u02", 100, return_std=True)[1], float)


def test_the_standard_deviation_without_data_is_that_of_the_ratings_about_the_fallback():
    M = model(noise=np.ones(12))
    std = M.predict(["u03", "nobody"], [100, 101], return_std=True, unknown="fallback")[1]
    np.testing.assert_allclose(std, np.sqrt(np.mean((M.values - M.fallback[M.indices]) ** 2)), rtol=1e-5)


def test_a_standard_deviation_that_nobody_knows_is_an_error():
    with pytest.raises(ValueError, match="knows no standard deviations"):
        model().predict("u00", 100, return_std=True)


def test_who_is_unknown_gets_the_fallback_where_that_is_asked_for():
    M = model()
    p = M.predict(["u99", "u03", "u01", "u99"], [104, 104, 5, 5], unknown="fallback")
    np.testing.assert_allclose(p, [M.fallback[4], M.fallback[4], M.mean + M.b[1], M.fallback.mean()], rtol=1e-5)


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        (["u01", "u1"], [100, 100], "unknown user 'u1'; did you mean 'u11'"),
        (["u01"], [7], "unknown item 7"),
        (["u01"], ["a"], "unknown item 'a'; there are 100, 101, 102, ..."),
        ([1], [100], "unknown user 1"),
        ([None], [100], "None cannot be the id of a user; ids are text or whole numbers"),
        (["u01"], [100.5], "100.5 cannot be the id of an item"),
        (["u01"], [np.nan], "nan cannot be the id of an item"),
        (["u01"], [True], "True cannot be"),
        (["u01"], [2**63], "cannot be the id"),
        (["u01", "u02"], [100, 101, 102], "2 users and 3 items are no pairs"),
    ],
)
def test_bad_pairs_are_refused_with_help(users, items, message):
    with pytest.raises(ValueError, match=message):
        model().predict(users, items)


def test_an_unknown_way_with_the_unknown_is_refused():
    with pytest.raises(ValueError, match='say "error" or "fallback"'):
        model().predict("u01", 100, unknown="ignore")


def test_whole_floats_and_large_ids_are_ids():
    M = Model(np.array([1, 2**40]), np.array([5]), X=[[1.0], [2.0]], Y=[[1.0]], indptr=[0, 1, 2], indices=[0, 0], values=[1, 1])
    assert M.predict([1.0, float(2**40)], [5, 5]).tolist() == [1, 2]


def test_text_that_writes_a_number_finds_it_and_a_number_its_text():
    numbers, texts = np.array([-3, 7, 42]), np.array(["-3", "42", "x"], dtype=object)
    assert codes_of(["42", "x", "042", "9" * 30, "-3"], numbers, "item", "fallback").tolist() == [2, -1, -1, -1, 0]
    assert codes_of([42, -3, 5], texts, "item", "fallback").tolist() == [1, 0, -1]
    assert codes_of("42", numbers, "item").tolist() == 2


def test_ids_come_in_the_columns_of_any_library():
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    M = model()
    wanted = M.predict(["u01", "u02"], [100, 101]).tolist()
    for column in (pd.Series, pl.Series, pa.array, lambda v: pa.chunked_array([v]), lambda v: np.array(v, dtype=object)):
        assert M.predict(column(["u01", "u02"]), column([100, 101])).tolist() == wanted
    assert M.predict(pd.Series(["u01", "u02"], dtype="category"), pd.Series([100, 101], dtype="Int64")).tolist() == wanted


@pytest.mark.parametrize("many", [1, 1000])
def test_codes_are_found_one_by_one_and_by_thousands(many):
    known = np.array(sorted(f"é{i}" for i in range(500)), dtype=object)
    asked = [f"é{i % 500}" for i in range(many)] + ["ü"]
    codes = codes_of(asked, known, "user", "fallback")
    assert codes[-1] == -1
    assert known[codes[:-1]].tolist() == asked[:-1]


# recommend


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("bytes", [2**26, 2000])
@pytest.mark.parametrize("exclude", [True, False])
def test_recommend_is_the_head_of_all_scores_sorted(linear, bytes, exclude, monkeypatch):
    monkeypatch.setattr(serve, "BYTES", bytes)
    M = model(linear=linear)
    scores, seen = dense(M)
    table = M.recommend(n=4, exclude_seen=exclude)
    assert table.column_names == ["user", "item", "score", "rank", "fallback"]
    for u, name in enumerate(M.users):
        best = wanted(np.where(seen[u] & exclude, -np.inf, scores[u]), 4)
        found = rows(table, name)
        assert [r["item"] for r in found] == M.items[best].tolist()
        assert [r["rank"] for r in found] == [1, 2, 3, 4]
        np.testing.assert_allclose([r["score"] for r in found], scores[u, best], rtol=1e-5, atol=1e-5)
        assert {r["fallback"] for r in found} == {name == "u03"}


def test_scores_of_recommend_are_those_of_predict():
    table = model(low=1.0, high=4.0).recommend(n=5)
    known = [r for r in table.to_pylist() if not r["fallback"]]
    p = model(low=1.0, high=4.0).predict([r["user"] for r in known], [r["item"] for r in known])
    np.testing.assert_allclose([r["score"] for r in known], p, rtol=1e-5)


def test_users_come_in_the_order_asked_and_the_unknown_are_flagged():
    table = model().recommend(["u05", "zz", "u01"], n=2, unknown="fallback")
    assert table["user"].to_pylist() == ["u05", "u05", "zz", "zz", "u01", "u01"]
    assert table["fallback"].to_pylist() == [False, False, True, True, False, False]
    with pytest.raises(ValueError, match="unknown user 'zz'"):
        model().recommend(["u05", "zz"])


def test_fewer_items_are_fewer_rows_and_never_seen_ones():
    M = model()
    seen = dense(M)[1]
    table = M.recommend(n=50)
    assert len(table) == (~seen).sum()
    u, i = codes_of(table["user"], M.users, "user"), codes_of(table["item"], M.items, "item")
    assert not seen[u, i].any()
    assert np.isfinite(table["score"].to_numpy()).all()


@pytest.mark.parametrize("filter", [[103, 104, 999], lambda ids: ~np.isin(ids, [103, 104])])
@pytest.mark.parametrize("linear", [False, True])
def test_candidates_and_filter_say_what_may_be_recommended(filter, linear):
    M = model(linear=linear)
    scores, seen = dense(M)
    table = M.recommend(n=3, candidates=[102, 103, 104, 107, 110, 129], filter=filter)
    for u, name in enumerate(M.users):
        may = np.isin(M.items, [102, 107, 110, 129]) & ~seen[u]
        assert [r["item"] for r in rows(table, name)] == M.items[wanted(np.where(may, scores[u], -np.inf), 3)].tolist()


def test_each_user_may_have_candidates_of_their_own():
    M = model()
    scores = dense(M)[0]
    own = {"u03": [100, 105], "u01": [107, 108, 109, 110]}
    table = M.recommend(n=3, candidates=own, filter=[109], exclude_seen=False)
    assert list(dict.fromkeys(table["user"].to_pylist())) == ["u03", "u01"]
    may = np.isin(M.items, [107, 108, 110])
    assert [r["item"] for r in rows(table, "u01")] == M.items[wanted(np.where(may, scores[1], -np.inf), 3)].tolist()
    assert {r["item"] for r in rows(table, "u03")} == {100, 105}
    with pytest.raises(ValueError, match="names no items for the user 'u02'"):
        M.recommend(["u01", "u02"], candidates=own)


def test_bad_questions_are_refused():
    M = model()
    with pytest.raises(ValueError, match="ask for at least one"):
        M.recommend(n=0)
    with pytest.raises(ValueError, match="unknown item 5"):
        M.recommend(candidates=[5, 100])
    with pytest.raises(ValueError, match="True or False for each of the 30 items"):
        M.recommend(filter=lambda ids: ids[:3])


def test_no_candidate_is_no_row():
    M = model()
    assert len(M.recommend(candidates=[])) == 0
    assert len(M.recommend([], n=3)) == 0
    assert M.recommend([], n=3).schema == M.recommend("u01", n=3).schema


def test_columns_are_called_as_in_the_table_that_was_fitted():
    M = model(info={"columns": {"user": "reader", "item": "book"}})
    assert M.recommend("u01").column_names[:2] == ["reader", "book"]
    assert M.similar_items(100).column_names[:2] == ["book", "similar"]


def test_a_model_without_factors_ranks_by_its_item_terms():
    M = model(k=0)
    scores, seen = dense(M)
    assert M.recommend("u01", n=2)["item"].to_pylist() == M.items[wanted(np.where(seen[1], -np.inf, scores[1]), 2)].tolist()
    with pytest.raises(ValueError, match="no factors"):
        M.similar_items(100)


# neighbours


@pytest.mark.parametrize("bytes", [2**26, 1000])
@pytest.mark.parametrize("linear", [False, True])
def test_neighbours_are_the_largest_cosines_itself_left_out(linear, bytes, monkeypatch):
    monkeypatch.setattr(serve, "BYTES", bytes)
    M = model(linear=linear)
    R = np.zeros((12, 30))
    for u in range(12):
        items, values = M.seen(u)
        R[u, items] = values
    asks = (
        (M.similar_items, "item", M.items, M.Y.astype(float)),
        (M.similar_users, "user", M.users, R if linear else M.X.astype(float)),
    )
    for ask, what, ids, F in asks:
        size = np.linalg.norm(F, axis=1)
        with np.errstate(invalid="ignore"):
            cosines = (F @ F.T) / np.outer(size, size)
        np.fill_diagonal(cosines, -np.inf)
        cosines = np.where(np.isnan(cosines), -np.inf, cosines)
        table = ask(ids[:5], n=4)
        for q in range(5):
            best = wanted(cosines[q], 4)
            found = [r for r in table.to_pylist() if r[what] == ids[q]]
            assert [r["similar"] for r in found] == ids[best].tolist()
            np.testing.assert_allclose([r["score"] for r in found], cosines[q, best], rtol=1e-5, atol=1e-6)


def test_zero_rows_are_like_nothing():
    Y = np.array([[1.0, 0], [0, 0], [1, 1], [-1, 0]])
    M = Model(np.array([1]), np.arange(4), X=np.ones((1, 2)), Y=Y)
    assert M.similar_items([0, 1], n=5).to_pydict()["similar"] == [2, 3]


# an index of others


def test_the_nearest_in_an_index_are_those_that_recommend_returns():
    M = model(n=200)
    items, users = M.for_index()
    assert items.dtype == users.dtype == np.float32
    table = M.recommend(M.users[[0, 1, 5]], n=8, exclude_seen=False)
    for u in (0, 1, 5):
        best = [r["item"] for r in rows(table, M.users[u])]
        product = items @ users[u]
        cosine = product / np.linalg.norm(items, axis=1)
        distance = ((items - users[u]) ** 2).sum(1)
        for measure in (-product, -cosine, distance):
            assert M.items[np.argsort(measure, kind="stable")[:8]].tolist() == best


def test_a_linear_item_model_has_no_vectors_for_an_index():
    with pytest.raises(ValueError, match="no vectors of users"):
        model(linear=True).for_index()


# what a model may be


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"X": np.ones((3, 4))}, r"X is \(3, 4\); with 12 users, 30 items and 4 factors it must be \(12, 4\)"),
        ({"Y": np.full((30, 4), np.nan)}, "Y holds numbers that are not finite"),
        ({"b": np.full(12, 1e39)}, "b holds numbers that are not finite"),
        ({"indptr": [0, 3]}, "no rows of the users' seen cells"),
        ({"indptr": [0] * 12 + [1], "indices": [30], "values": [1]}, "point at items beyond the 30"),
        ({"indptr": [0, 2] + [1] * 11, "indices": [3], "values": [1]}, "rows that end before they begin"),
        ({"draws": 3}, "4 factors cannot hold 3 draws"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_arrays_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        model(**wrong)


# files


@pytest.mark.parametrize("linear", [False, True])
def test_a_saved_model_answers_alike(tmp_path, linear):
    M = model(
        linear=linear, low=1.0, noise=np.ones(12), info={"class": "EASE", "columns": {"user": "who"}}, extra={"w": np.arange(3)}
    )
    again = load(M.save(tmp_path / "new" / "run"))
    assert again.recommend(n=3).equals(M.recommend(n=3))
    assert (again.low, again.high, again.mean, again.info) == (1.0, None, 3.5, M.info)
    assert again.extra["w"].tolist() == [0, 1, 2]
    assert again.users.dtype == object
    assert again.items.dtype == np.int64
    assert {f.name for f in (tmp_path / "new" / "run").iterdir()} == {
        "model.safetensors",
        "model.json",
        "users.parquet",
        "items.parquet",
    }


def test_empty_parts_are_kept(tmp_path):
    M = Model(np.array([], object), np.array([1, 2]), Y=np.zeros((2, 0)), X=np.zeros((0, 0)), c=[1.0, 2.0])
    again = load(M.save(tmp_path / "run"))
    assert again.users.dtype == object
    assert again.recommend("new", unknown="fallback")["item"].to_pylist() == [2, 1]


def test_a_saved_model_is_replaced_as_a_whole_and_other_things_are_not(tmp_path):
    folder = model().save(tmp_path / "run")
    (folder / "note.txt").write_text("mine")
    model(seed=1).save(folder)
    assert (load(folder).Y == model(seed=1).Y).all()
    assert [f.name for f in tmp_path.iterdir()] == ["run"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    for place in (other, other / "thesis.tex"):
        with pytest.raises(FileExistsError, match="no saved recommender"):
            model().save(place)
    assert (other / "thesis.tex").read_text() == "years of work"


def test_a_save_that_fails_leaves_what_was_there(tmp_path):
    folder = model().save(tmp_path / "run")
    with pytest.raises(TypeError):
        model(info={"callback": print}).save(folder)
    assert [f.name for f in tmp_path.iterdir()] == ["run"]
    load(folder)


def test_folders_that_hold_no_model_are_refused_with_help(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no saved recommender"):
        load(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a factorization"):
        load(tmp_path)
    for text in ("", "[]", '{"format_version": null}'):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(ValueError, match=r"model.json cannot be read"):
            load(tmp_path)


def test_damaged_and_newer_folders_are_refused_with_help(tmp_path):
    folder = model().save(tmp_path / "run")
    pq.write_table(pq.read_table(folder / "users.parquet").slice(1), folder / "users.parquet")
    with pytest.raises(ValueError, match="damaged or not whole"):
        load(folder)
    (folder / "items.parquet").unlink()
    with pytest.raises(ValueError, match="damaged or not whole"):
        load(folder)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | {"format_version": 99}))
    with pytest.raises(ValueError, match="has format 99, and this version reads up to 1"):
        load(folder)


def test_serving_takes_neither_torch_nor_anything_else_of_the_library(tmp_path):
    folder = model().save(tmp_path / "run")
    code = f"""
import sys
from proxfactor import serve
model = serve.load({str(folder)!r})
assert len(model.recommend("u01", n=3)) == 3
model.predict("u01", 100), model.similar_users("u01"), model.similar_items(100)
loaded = {{name for name in sys.modules if name.split(".")[0] in ("torch", "scipy", "numba", "sklearn")}}
ours = {{name for name in sys.modules if name.startswith("proxfactor")}} - {{"proxfactor", "proxfactor.serve"}}
assert not loaded | ours, loaded | ours
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr
