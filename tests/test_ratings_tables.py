"""Ratings: every table in, what duplicates and holes mean, frames out, and what is refused."""

import copy
import datetime
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from proxfactor import read_ratings
from proxfactor.ratings import Ratings, codes_of

WHEN = pd.to_datetime(["2020-01-01 00:00", "2020-01-02 12:00", "2021-01-01 00:00", "2019-06-01 06:30"])
TABLE = pd.DataFrame(
    {"who": ["bo", "al", "bo", "cy"], "film": np.array([7, 7, 5, 9], np.int32), "stars": [4.0, 2, 3.5, 0], "when": WHEN}
)
LIBRARIES = {"pandas": lambda t: t, "polars": pl.from_pandas, "pyarrow": pa.Table.from_pandas}
library = pytest.mark.parametrize("make", LIBRARIES.values(), ids=LIBRARIES)
SECONDS = [w.timestamp() for w in WHEN]


def cells(r):
    """{(user, item): value}"""
    return dict(zip(zip(r.users[r.user].tolist(), r.items[r.item].tolist(), strict=True), r.value.tolist(), strict=True))


def written(folder, kind, table=TABLE):
    path = folder / f"ratings.{kind}"
    if kind == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if "tsv" in kind else ";" if kind == "semicolon.csv" else ",")
    return path


def random_table(seed=0, rows=300, users=20, items=15):
    r = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user": r.integers(0, users, rows),
            "item": r.integers(0, items, rows),
            "rating": r.integers(1, 6, rows).astype(float),
            "t": r.integers(0, 50, rows),
            "w": r.integers(0, 4, rows).astype(float),
        }
    )


# in


@library
def test_a_frame_of_any_library_gives_cells_sorted_by_user_then_item(make):
    r = read_ratings(make(TABLE), time="when")
    assert r.users.tolist() == ["al", "bo", "cy"]
    assert r.items.tolist() == [5, 7, 9]
    assert r.user.tolist() == [0, 1, 1, 2]
    assert r.item.tolist() == [1, 0, 1, 2]
    assert r.value.tolist() == [2, 3.5, 4, 0]  # a 0 in a table with a rating in each row is a rating
    assert r.order.tolist() == [1, 2, 0, 3]
    assert r.time.tolist() == [SECONDS[i] for i in r.order]
    assert r.columns == {"user": "who", "item": "film", "rating": "stars", "time": "when"}
    assert (r.user.dtype, r.item.dtype, r.value.dtype, r.items.dtype) == (np.int32, np.int32, np.float64, np.int64)
    assert r.shape == (3, 3)
    assert len(r) == 4


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz", "tsv", "tsv.gz", "semicolon.csv"])
def test_a_file_gives_what_the_frame_in_it_gives(tmp_path, kind):
    r = read_ratings(str(written(tmp_path, kind)), time="when")
    assert cells(r) == cells(read_ratings(TABLE))
    assert r.items.dtype == np.int64
    assert r.time.tolist() == [SECONDS[i] for i in r.order]
    assert isinstance(r.to_frame(), pa.Table)


def test_a_csv_file_without_a_header_has_users_items_and_ratings_first(tmp_path):
    path = tmp_path / "u.data"
    path.write_text("196\t242\t3\t881250949\n186\t302\t2.5\t891717742\n")
    r = read_ratings(path, time=3)
    assert cells(r) == {(196, 242): 3, (186, 302): 2.5}
    assert r.time.tolist() == [891717742, 881250949]
    assert {k: r.columns[k] for k in ("user", "item", "rating")} == {"user": "user", "item": "item", "rating": "rating"}


def test_ids_in_csv_are_whole_numbers_only_if_all_of_them_are_written_so(tmp_path):
    path = tmp_path / "ids.csv"
    path.write_text("user,item,rating\n1,007,3\n20,12,4\n")
    r = read_ratings(path)
    assert r.users.tolist() == [1, 20]
    assert r.items.tolist() == ["007", "12"]


@pytest.mark.parametrize("how", ["tuple", "csr", "coo", "spmatrix", "dict"])
def test_arrays_and_sparse_matrices_are_ratings_too(how):
    i, j, v = [2, 0, 2], [1, 1, 0], [5.0, 0.0, 1.0]
    coo = scipy.sparse.coo_array((v, (i, j)), shape=(4, 3))
    matrix = scipy.sparse.csr_matrix(coo)
    data = {"tuple": (i, np.array(j), v), "coo": coo, "csr": coo.tocsr(), "spmatrix": matrix, "dict": {"a": i, "b": j, "c": v}}
    r = read_ratings(data[how])
    assert cells(r) == {(2, 1): 5, (0, 1): 0, (2, 0): 1}  # a stored zero is a rating
    if how not in ("tuple", "dict"):
        assert r.shape == (4, 3)  # users 1 and 3 and item 2 have none, and are known
        assert np.diff(r.indptr).tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize("missing", ["nan", "zeros"])
@pytest.mark.parametrize("form", ["array", "pandas", "polars", "parquet", "csv"])
def test_a_wide_table_says_whether_zeros_are_ratings(tmp_path, form, missing):
    values = np.array([[4.5, 0, np.nan], [0, 1.5, 2]])
    frame = pd.DataFrame(values, index=["b", "a"], columns=["X", "Z", "Y"])
    named = pl.DataFrame({"name": ["b", "a"], "X": values[:, 0], "Z": values[:, 1], "Y": [None, 2.0]})
    data = {"array": values, "pandas": frame, "polars": named}
    if form == "parquet":
        frame.to_parquet(data.setdefault(form, tmp_path / "wide.parquet"))
    elif form == "csv":
        named.write_csv(data.setdefault(form, tmp_path / "wide.csv"))
    r = read_ratings(data[form], missing=missing)
    users, items = ([0, 1], [0, 1, 2]) if form == "array" else (["b", "a"], ["X", "Z", "Y"])
    assert cells(r) == {
        (users[i], items[j]): values[i, j]
        for i in range(2)
        for j in range(3)
        if not np.isnan(values[i, j]) and (missing == "nan" or values[i, j])
    }
    assert (np.sort(r.users) == r.users).all()
    assert (np.sort(r.items) == r.items).all()
    assert (np.diff(r.user.astype(np.int64) * 3 + r.item) > 0).all()


def test_a_wide_table_keeps_who_rated_nothing():
    r = read_ratings(np.array([[np.nan, np.nan], [1, np.nan]]), missing="nan")
    assert r.shape == (2, 2)
    assert len(r) == 1


def test_ratings_are_given_back_as_they_are():
    r = read_ratings(TABLE)
    assert read_ratings(r) is r


# which column is what


@pytest.mark.parametrize(
    ("names", "given", "roles"),
    [
        (["a", "b", "c", "d"], {}, {"user": "a", "item": "b", "rating": "c"}),
        (["a", "b"], {}, {"user": "a", "item": "b"}),
        (["rating", "item", "user", "x"], {}, {"user": "user", "item": "item", "rating": "rating"}),
        (["item", "user", "stars"], {}, {"user": "user", "item": "item", "rating": "stars"}),
        (["n", "user", "item", "stars"], {}, {"user": "user", "item": "item"}),
        (["item", "a", "b"], {}, {"user": "a", "item": "item", "rating": "b"}),
        (["a", "b", "c"], {"user": "b"}, {"user": "b", "item": "a", "rating": "c"}),
        (["a", "b", "c"], {"user": "c", "item": "a"}, {"user": "c", "item": "a"}),
        (["a", "b", "timestamp"], {"time": "timestamp"}, {"user": "a", "item": "b", "time": "timestamp"}),
        (["a", "b", "timestamp", "d"], {"rating": "d", "weight": "timestamp"}, None),
        (["a", "b", "c", "d"], {"rating": 3, "time": "c"}, {"user": "a", "item": "b", "rating": "d", "time": "c"}),
    ],
)
def test_columns_are_taken_by_name_else_by_place(names, given, roles):
    frame = pd.DataFrame({n: [j + 1, j + 20] for j, n in enumerate(names)})
    expected = roles or {"user": "a", "item": "b", "rating": "d", "weight": "timestamp"}
    r = read_ratings(frame, **given)
    assert r.columns == expected
    assert (r.value == 1).all() == ("rating" not in expected)


def test_a_third_column_of_text_is_no_rating_and_columns_may_be_called_by_numbers():
    assert read_ratings(TABLE.assign(stars=["a", None, "b", "c"])).value.tolist() == [1, 1, 1, 1]
    bare = pd.DataFrame([[1, 2, 5.0], [2, 2, 3.0]])
    assert cells(read_ratings(bare)) == {(1, 2): 5, (2, 2): 3}
    assert cells(read_ratings(bare, user=1, item=0)) == {(2, 1): 5, (2, 2): 3}


def test_objects_that_are_numbers_are_ratings():
    frame = pd.DataFrame([["al", "x", 4.5], ["bo", "x", 2]], dtype=object)
    assert cells(read_ratings(frame)) == {("al", "x"): 4.5, ("bo", "x"): 2}


# ids


@pytest.mark.parametrize(
    ("ids", "known"),
    [
        ([2**40, 5, -(2**62)], [-(2**62), 5, 2**40]),
        (np.array([3, 1, 2], np.uint64), [1, 2, 3]),
        ([3.0, 1.0, -0.0], [0, 1, 3]),
        (["ä", "b", "Z"], ["Z", "b", "ä"]),
        (["10", "9", "1"], ["1", "10", "9"]),
        (pd.Categorical(["z", "a", "q"], categories=["z", "unused", "q", "a"]), ["a", "q", "z"]),
        (pd.Series([3, 1, 2], dtype="Int64"), [1, 2, 3]),
        ([datetime.date(2020, 1, day) for day in (2, 1, 3)], ["2020-01-01", "2020-01-02", "2020-01-03"]),
    ],
    ids=["beyond 2**31", "unsigned", "whole floats", "text", "digits", "categories", "nullable", "dates"],
)
@library
def test_ids_are_kept_and_sorted(make, ids, known):
    r = read_ratings(make(pd.DataFrame({"u": ids, "i": [1, 1, 1]})))
    assert r.users.tolist() == known
    assert r.users.dtype == (object if isinstance(known[0], str) else np.int64)
    assert sorted(r.order.tolist()) == [0, 1, 2]


@library
@pytest.mark.parametrize("kind", [np.int16, np.uint64, "category", object])
def test_answers_come_in_the_callers_library_with_the_types_that_the_ids_came_in(make, kind):
    film = TABLE.film.astype(str) if kind in ("category", object) else TABLE.film
    frame = make(TABLE.assign(film=film.astype(kind)))
    r = read_ratings(frame)
    out = r.to_frame()
    assert type(out) is type(frame)
    there, back = (pa.table(pa.Table.from_pandas(f) if isinstance(f, pd.DataFrame) else f) for f in (frame, out))
    assert back.column_names == ["who", "film", "stars"]
    if kind in ("category", object):
        assert pa.types.is_dictionary(there.schema.field("film").type) == pa.types.is_dictionary(back.schema.field("film").type)
    else:
        assert there.schema.field("film").type == back.schema.field("film").type
    assert cells(read_ratings(out)) == cells(r)
    if isinstance(out, pl.DataFrame):
        assert out.schema["film"] == frame.schema["film"]
        assert len(out.join(frame, on=["who", "film"])) == 4
    answer = r.frame({"film": r.items[:2], "score": pa.array([0.5, 0.25])})
    assert type(answer) is type(frame)
    assert len(answer) == 2


def test_ratings_can_be_copied_and_pickled():
    r = read_ratings(pl.from_pandas(TABLE))
    for twin in (copy.deepcopy(r), pickle.loads(pickle.dumps(r))):
        assert cells(twin) == cells(r)
        assert isinstance(twin.to_frame(), pl.DataFrame)


# times


@pytest.mark.parametrize("kind", ["datetime64[s]", "datetime64[ns]", "datetime64[ns, Europe/Berlin]", "date", "text", "number"])
@library
def test_times_become_seconds(make, kind):
    days = pd.to_datetime(["2020-01-01", "2020-06-02", "1969-12-31"])
    local = days.tz_localize("Europe/Berlin")
    seconds = [d.timestamp() for d in (local if "Berlin" in kind else days)]
    column = {
        "date": [d.date() for d in days],
        "text": [f"{d:%Y-%m-%d %H:%M:%S}" for d in days],
        "number": [int(s) for s in seconds],
        "datetime64[ns, Europe/Berlin]": local,
    }
    frame = pd.DataFrame({"u": [1, 2, 3], "i": 1, "t": column[kind] if kind in column else days.astype(kind)})
    assert read_ratings(make(frame), time="t").time.tolist() == seconds


# order and duplicates


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 5), st.sampled_from("abcd")), min_size=1, max_size=40, unique=True), st.booleans())
def test_cells_are_sorted_as_a_sort_by_pairs_would(pairs, as_text):
    users, items = zip(*pairs, strict=True)
    value = np.arange(len(pairs)) + 0.5
    r = read_ratings(([str(u) for u in users] if as_text else users, items, value))
    key = (lambda c: (str(pairs[c][0]), pairs[c][1])) if as_text else (lambda c: pairs[c])
    assert r.order.tolist() == sorted(range(len(pairs)), key=key)
    assert (r.value == value[r.order]).all()
    indptr, indices, values = r.csr()
    dense = scipy.sparse.csr_array((values, indices, indptr), shape=r.shape).toarray()
    for (u, i), v in zip(pairs, value, strict=True):
        assert dense[r.users.tolist().index(str(u) if as_text else u), r.items.tolist().index(i)] == v


@pytest.mark.parametrize("how", ["sum", "mean", "last"])
def test_duplicates_are_what_a_group_by_makes_of_them(how):
    frame = random_table()
    r = read_ratings(frame, duplicates=how)
    expected = getattr(frame.groupby(["user", "item"]).rating, how)()
    assert cells(r) == pytest.approx(expected.to_dict())
    firsts = frame.reset_index().groupby(["user", "item"])["index"].first()
    assert r.order.tolist() == firsts.tolist()


def test_the_last_of_duplicates_is_the_last_by_time_and_of_equal_times_by_row():
    frame = random_table(rows=400)
    r = read_ratings(frame, time="t", weight="w", duplicates="last")
    expected = frame.sort_values("t", kind="stable").groupby(["user", "item"]).last()
    for name, found in (("rating", r.value), ("t", r.time), ("w", r.weight)):
        assert found.tolist() == expected[name].tolist()


def test_the_mean_of_duplicates_with_weights_leaves_the_squared_error_as_it_was():
    frame = random_table(rows=400)
    r = read_ratings(frame, time="t", weight="w", duplicates="mean")
    groups = frame.assign(ww=frame.w * frame.rating).groupby(["user", "item"])
    assert np.allclose(r.weight, groups.w.sum())
    assert r.time.tolist() == groups.t.max().tolist()
    guess = np.random.default_rng(1).standard_normal(r.shape)

    def slope(user, item, value, weight):
        out = np.zeros(r.shape)
        np.add.at(out, (user, item), weight * (guess[user, item] - value))
        return out

    user, item = np.searchsorted(r.users, frame.user), np.searchsorted(r.items, frame.item)
    assert np.allclose(slope(r.user, r.item, r.value, r.weight), slope(user, item, frame.rating.to_numpy(), frame.w.to_numpy()))
    none = groups.w.sum() == 0
    assert np.allclose(r.value[none], groups.rating.mean()[none])


def test_the_sum_of_duplicates_averages_their_weights():
    r = read_ratings(pd.DataFrame({"u": [1, 1], "i": [2, 2], "r": [3.0, 4.0], "w": [1.0, 2.0]}), weight="w", duplicates="sum")
    assert (r.value.tolist(), r.weight.tolist()) == ([7], [1.5])


def test_duplicates_are_an_error_that_names_the_first_pair_and_how_often():
    frame = pd.DataFrame({"u": ["z", "a", "z", "a", "a"], "i": [1, 2, 1, 2, 2], "r": 1.0})
    with pytest.raises(ValueError, match=r"user 'z' and item 1 come together 2 times, first in row 0 .*1 more pairs do.*'last'"):
        read_ratings(frame)
    with pytest.raises(ValueError, match="duplicates is 'max'; it must be one of 'error', 'sum', 'mean', 'last'"):
        read_ratings(frame, duplicates="max")


# parts and others' ids


def test_some_cells_by_mask_and_by_position_keep_ids_and_order():
    r = read_ratings(TABLE, time="when")
    for part in (r.take(np.array([False, True, False, True])), r.take(np.array([3, 1])), r.take([1, 3])):
        assert cells(part) == {("bo", 5): 3.5, ("cy", 9): 0}
        assert part.users is r.users
        assert part.order.tolist() == [2, 3]
        assert part.time.tolist() == [SECONDS[2], SECONDS[3]]
        assert part.indptr.tolist() == [0, 0, 1, 2]


def test_cells_can_be_told_in_the_ids_of_another_table():
    r = read_ratings(TABLE)
    more = np.array(["aa", "al", "b", "bo", "cy"], dtype=object)
    wider = r.coded(more, np.array([5, 6, 7, 9]))
    assert cells(wider) == cells(r)
    assert wider.shape == (5, 4)
    with pytest.raises(ValueError, match="'cy'"):
        r.coded(more[:4], r.items)
    assert cells(r.coded(more[:4], np.array([7]), unknown="drop")) == {("bo", 7): 4, ("al", 7): 2}
    kept = r.take(r.user < 2)
    assert cells(kept.coded(more[:4], r.items)) == cells(kept)  # an id without a cell need not be known


def test_joined_ratings_are_those_of_one_table():
    frame = random_table()
    for how in ("sum", "mean", "last"):
        a, b = (read_ratings(t, time="t", duplicates="last") for t in (frame[:200], frame[200:]))
        both = pd.concat([x.to_frame() for x in (a, b)])
        whole = read_ratings(both, time="t", duplicates=how)
        joined = a.joined(b, how)
        assert cells(joined) == cells(whole)
        assert joined.time.tolist() == whole.time.tolist()
    with pytest.raises(ValueError, match="come together 2 times"):
        a.joined(b)
    with pytest.raises(ValueError, match=r"ids are text .* in one table and numbers"):
        a.joined(read_ratings(TABLE, time="when"))
    with pytest.raises(ValueError, match="no time"):
        a.joined(read_ratings(frame[200:], duplicates="last"))


def test_a_table_without_weights_joins_one_with_them_at_weight_one():
    one = read_ratings(([1], [1], [3.0]))
    two = read_ratings(pd.DataFrame({"u": [2], "i": [1], "r": [4.0], "w": [0.5]}), weight="w")
    assert one.joined(two).weight.tolist() == [1, 0.5]


@pytest.mark.parametrize("form", [list, np.array, pd.Series, pl.Series, pa.array])
@pytest.mark.parametrize(
    ("known", "ids", "places"), [([1, 5, 2**40], [5, 2**40, 1, 5], [1, 2, 0, 1]), (["a", "b", "ä"], ["b", "ä"], [1, 2])]
)
def test_ids_of_any_kind_are_found_among_those_known(form, known, ids, places):
    known = np.array(known, dtype=object if isinstance(known[0], str) else np.int64)
    found = codes_of(form(ids), known, "user")
    assert found.tolist() == places
    assert found.dtype == np.int64
    assert codes_of(ids[0], known, "user") == places[0]


def test_many_ids_of_text_are_found_as_few_are():
    known = np.sort(np.array([f"user {n}" for n in range(500)], dtype=object))
    asked = [f"user {n}" for n in range(0, 1000, 7)]
    many = codes_of(asked, known, "user", "fallback")
    assert many.tolist() == [codes_of(a, known, "user", "fallback") for a in asked]
    assert [known[c] for c in many if c >= 0] == [a for a in asked if int(a[5:]) < 500]


def test_ids_that_are_not_known_are_an_error_that_names_close_ones_or_minus_one():
    known = np.array(["anna", "bob"], dtype=object)
    with pytest.raises(ValueError, match=r"user 'ana'.*'anna'"):
        codes_of(["bob", "ana"], known, "user")
    with pytest.raises(ValueError, match="item 12"):
        codes_of([5, 12], np.array([5, 6, 7]), "item")
    assert codes_of(["bob", "ana"], known, "user", "fallback").tolist() == [1, -1]


# what is refused


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        ({}, {"user": "whom"}, "no column 'whom' for user; did you mean 'who'"),
        ({}, {"item": "xyzzy"}, "no column 'xyzzy' for item; there are 'who', 'film', 'stars', 'when'"),
        ({}, {"user": 9}, "no column 9 for user"),
        ({}, {"user": "who", "item": "who"}, "column 'who' is named twice, as user and as item"),
        ({}, {"rating": "stars", "time": "stars"}, "column 'stars' is named twice, as rating and as time"),
        ({"who": ["a", None, "b", "c"]}, {}, "column 'who' has no id in row 1"),
        ({"who": ["a", "b", "", "c"]}, {}, "column 'who' has no id in row 2"),
        ({"film": [1.0, np.nan, 2.0, 3.0]}, {}, "column 'film' has no id in row 1"),
        ({"film": [1.0, 2.5, 2.0, 3.0]}, {}, "column 'film' holds the id 2.5 in row 1"),
        ({"film": np.array([1, 2, 2**63, 3], np.uint64)}, {}, "holds the id 9223372036854775808 in row 2.*make such ids text"),
        ({"stars": ["4", "3.5", "five", "1"]}, {}, "column 'stars' holds text, such as 'five', not numbers"),
        ({"stars": [None, "3.5", "five", "1"]}, {}, "column 'stars' holds text, such as 'five', not numbers"),
        ({"stars": ["4", "3.5", "2", "1"]}, {"rating": "stars"}, "column 'stars' holds text, such as '4', not numbers"),
        ({}, {"rating": "when"}, "column 'when' holds timestamp.*, not numbers"),
        ({"stars": [1, np.nan, np.nan, 2]}, {}, "column 'stars' has no rating in row 1 .* and in 1 more; drop such rows"),
        ({"stars": [1, 2, -np.inf, 3]}, {}, "column 'stars' holds -inf in row 2"),
        ({"w": [1, 1, -0.5, 1]}, {"weight": "w"}, "column 'w' holds -0.5 in row 2 .*weights are finite and not negative"),
        ({"w": [1, np.inf, 1, 1]}, {"weight": "w"}, "column 'w' holds inf in row 1 .*weights are finite and not negative"),
        ({"t": [1, np.inf, 1, 1]}, {"time": "t"}, "column 't' holds inf in row 1"),
        ({"t": ["soon", "late", "", "x"]}, {"time": "t"}, "column 't' holds text, such as 'soon', no time"),
        ({"when": [pd.NaT, *WHEN[1:]]}, {"time": "when"}, "column 'when' has no time in row 0"),
    ],
)
@library
def test_bad_columns_are_refused_with_what_is_wrong_and_where(make, change, given, message):
    with pytest.raises(ValueError, match=message):
        read_ratings(make(TABLE.assign(**change)), **given)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_file_that_is_refused_is_named(tmp_path, kind):
    path = written(tmp_path, kind, TABLE.assign(stars=["4", "3.5", "five", "1"]))
    with pytest.raises(ValueError, match=rf"ratings\.{kind}: column 'stars' holds text, such as 'five'"):
        read_ratings(path)
    with pytest.raises(FileNotFoundError, match=rf"did you mean ratings\.{kind}"):
        read_ratings(path.with_name(f"rating.{kind}"))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (TABLE[:0], ValueError, "no rows"),
        (([], []), ValueError, "no rows"),
        (scipy.sparse.csr_array((3, 3)), ValueError, "no rating in it"),
        (TABLE[["who"]], ValueError, "a user and an item column are needed"),
        (pd.concat([TABLE, TABLE], axis=1), ValueError, "two columns of one name"),
        (TABLE.assign(who=["a", 3, "b", "c"]), ValueError, "column 'who' mixes"),
        (TABLE.rename(columns={"stars": "Timestamp"}), ValueError, "is the third column, 'Timestamp', a rating or a time"),
        (pl.from_pandas(TABLE).lazy(), TypeError, r"\.collect\(\)"),
        (np.eye(3), ValueError, "missing='nan', or missing='zeros'"),
        (pd.DataFrame(np.eye(3) + 0.5, index=list("abc")), ValueError, "rows have names.*missing='zeros'"),
        (pl.DataFrame(np.eye(5) + 0.5), ValueError, "holds the id 1.5 .*missing='nan', or missing='zeros'"),
        (([1, 2], [3, 4], [1.0]), ValueError, "equally long"),
        (([1, 2],), ValueError, "tuple of 1"),
        (scipy.sparse.coo_array(([1.0, 2], ([0, 0], [1, 1])), shape=(2, 2)), ValueError, "user 0 and item 1 come together 2 times"),
        (scipy.sparse.coo_array(([np.nan], ([0], [1])), shape=(2, 2)), ValueError, "holds nan in row 0"),
        (7, TypeError, "ratings in 'int'; give a data frame"),
    ],
)
def test_what_is_no_table_of_ratings_is_refused_with_the_way_out(data, error, message):
    with pytest.raises(error, match=message):
        read_ratings(data)


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (np.full((2, 2), np.nan), {"missing": "nan"}, "no rating in it"),
        (np.zeros((2, 2)), {"missing": "zeros"}, "no rating in it"),
        (np.eye(2), {"missing": "holes"}, "missing is 'holes'; it must be one of 'nan', 'zeros'"),
        (np.array([[np.inf, 1]]), {"missing": "nan"}, "holds inf"),
        (pd.DataFrame({"a": [1.0], "b": ["x"]}), {"missing": "nan"}, "column 'b' of the wide table holds no numbers"),
        (pd.DataFrame([[1.0], [2]], index=["a", "a"]), {"missing": "nan"}, "two rows or columns of one name"),
        (scipy.sparse.eye_array(2), {"missing": "zeros"}, "missing= is for wide tables"),
        (([1], [2]), {"user": "a"}, "user= names a column of a table, and arrays came"),
        (Ratings(np.zeros(1, int), np.zeros(1, int), np.ones(1), np.array([1]), np.array([1])), {"time": "t"}, "read already"),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused(data, given, message):
    with pytest.raises(ValueError, match=message):
        read_ratings(data, **given)
