"""Splits of ratings: the parts are the input, each by its own rule, in the caller's form."""

from collections import Counter

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from proxfactor import read_ratings, split
from proxfactor.ratings import Ratings

HOW = ["random", "per-user", "last", "time", "users"]
PATH_KINDS = ["parquet", "csv"]


def table(users=30, items=20, seed=0, share=0.4):
    """Pairs in a random order of rows, with times that are often equal, and a column that is not for us."""
    r = np.random.default_rng(seed)
    user, item = np.nonzero(r.random((users, items)) < share)
    order = r.permutation(len(user))
    frame = pd.DataFrame({"u": user[order], "i": item[order] * 3, "r": r.integers(1, 6, len(order)).astype(float)})
    return frame.assign(t=r.integers(0, 40, len(order)), note=[f"row {n}" for n in range(len(order))])


def rows(part):
    """The rows of a part as tuples, in their order."""
    if isinstance(part, Ratings):
        columns = (part.users[part.user], part.items[part.item], part.value)
    elif isinstance(part, tuple):
        columns = part
    elif isinstance(part, scipy.sparse.sparray):
        part = part.tocoo()
        columns = (part.row, part.col, part.data)
    else:
        part = part.to_pandas() if not isinstance(part, pd.DataFrame) else part
        columns = [part[c] for c in part.columns]
    return list(zip(*(np.asarray(c).tolist() for c in columns), strict=True))


pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30, unique=True)
sizes = st.one_of(st.floats(0.01, 0.99), st.integers(1, 8))


@settings(max_examples=250, deadline=None)
@given(pairs, st.data(), st.sampled_from(HOW), sizes, st.one_of(st.floats(0.01, 0.99), st.integers(1, 3)), st.integers(0, 3))
def test_the_parts_are_the_input_whatever_the_split(cells, data, how, size, hidden, seed):
    times = data.draw(st.lists(st.integers(0, 4), min_size=len(cells), max_size=len(cells)))
    frame = pd.DataFrame(cells, columns=["u", "i"]).assign(r=np.arange(len(cells)) + 0.5, t=times)
    r = read_ratings(frame, time="t")
    try:
        parts = split(r, how, size, hidden=hidden, seed=seed)
    except ValueError as error:
        assert "empty" in str(error) or "must stay in train" in str(error)  # noqa: PT017
        return
    assert Counter(row for part in parts for row in rows(part)) == Counter(rows(r))
    assert all(len(part) for part in parts)
    frames = split(frame, how, size, time="t", hidden=hidden, seed=seed)
    for native, part in zip(frames, parts, strict=True):
        assert sorted(row[:3] for row in rows(native)) == sorted(rows(part))
        assert native.index.is_monotonic_increasing
        assert part.users is r.users


# the rules


@pytest.mark.parametrize("n", [10, 99, 100, 201])
@pytest.mark.parametrize("seed", [0, 7])
def test_random_takes_the_first_of_a_permutation_of_the_rows_of_the_table(n, seed):
    frame = table()[:n]
    chosen = np.random.default_rng(seed).permutation(n)[: n // 10]
    _, test = split(frame, "random", size=0.1, seed=seed)
    assert test.note.tolist() == frame.note.iloc[np.sort(chosen)].tolist()
    assert sorted(rows(split(read_ratings(frame), seed=seed)[1])) == sorted(rows(test[["u", "i", "r"]]))
    assert len(split(frame, "random", size=7)[1]) == 7


@pytest.mark.parametrize("size", [0.25, 0.5, 1, 3])
@pytest.mark.parametrize("how", ["per-user", "last"])
def test_each_user_gives_a_share_or_a_number_and_keeps_at_least_one(how, size):
    frame = table()
    train, test = split(frame, how, size, time="t")
    for user, own in frame.groupby("u"):
        n = len(own)
        wanted = int(n * size) if size < 1 else size if n > size else 0
        assert (test.u == user).sum() == wanted
        assert (train.u == user).any()


def test_last_takes_what_each_user_rated_last_and_of_equal_times_the_later_row():
    frame = table()
    _, test = split(frame, "last", 3, time="t")
    for user, own in frame.groupby("u"):
        last = own.sort_values("t", kind="stable").index[-3:] if len(own) > 3 else []
        assert sorted(test.index[test.u == user]) == sorted(last)
    assert (split(frame, "last", time="t")[1].u.value_counts() == 1).all()


def test_time_takes_the_latest_rows_and_of_equal_times_the_later_ones():
    frame = table()
    train, test = split(frame, time="t", size=0.2)
    assert len(test) == int(0.2 * len(frame))
    assert train.t.max() <= test.t.min()
    cut = test.t.min()
    assert (train.t == cut).any()
    assert train.index[train.t == cut].max() < test.index[test.t == cut].min()
    assert rows(test) == rows(split(frame, "time", len(test), time="t")[1])


@pytest.mark.parametrize(("size", "hidden"), [(0.3, 0.2), (5, 2), (0.1, 1), (2, 0.9)])
def test_users_leave_train_wholly_and_show_a_part_of_what_they_rated(size, hidden):
    frame = table()
    assert frame.u.nunique() == 30
    train, known, unseen = split(frame, "users", size, hidden=hidden)
    left = set(known.u)
    assert left == set(unseen.u)
    assert len(left) == (int(0.3 * 30) if size == 0.3 else 3 if size == 0.1 else size)
    assert not left & set(train.u)
    for user in left:
        n = (frame.u == user).sum()
        asked = int(n * hidden) if hidden < 1 else hidden
        assert (unseen.u == user).sum() == min(max(1, asked), n - 1)


def test_a_user_with_one_rating_is_never_taken_out_of_train():
    frame = pd.DataFrame({"u": [1, 2, 2, 3, 3, 4], "i": [1, 1, 2, 1, 2, 1]})
    for seed in range(10):
        train, _, _ = split(frame, "users", 2, seed=seed)
        assert set(train.u) == {1, 4}
    with pytest.raises(ValueError, match=r"size=3 of 4 users is 3, .* 2 of them have the two ratings that it takes"):
        split(frame, "users", 3)


@pytest.mark.parametrize("how", ["random", "per-user", "users"])
def test_every_user_is_as_likely_as_another(how):
    """Over seeds, the share of rows that are held out is the same for users of few and of many rows."""
    frame = pd.DataFrame({"u": np.repeat(np.arange(8), [2, 2, 2, 2, 12, 12, 12, 12])})
    frame["i"] = frame.groupby("u").cumcount()
    r, kept = read_ratings(frame), np.zeros(len(frame))
    for seed in range(300):
        kept[split(r, how, 0.5, seed=seed)[0].order] += 1 / 300
    assert np.abs(kept - 0.5).max() < 0.15  # five standard errors


def test_the_time_is_the_rule_where_there_is_one_else_chance():
    frame = table()
    assert rows(split(frame, time="t")[1]) == rows(split(frame, "time", time="t")[1])
    assert rows(split(read_ratings(frame, time="t"))[1]) == rows(split(read_ratings(frame, time="t"), "time")[1])
    assert rows(split(frame)[1]) == rows(split(frame, "random")[1])


# what decides nothing


@pytest.mark.parametrize("how", HOW)
def test_the_same_seed_gives_the_same_parts_and_another_one_others(how):
    frame = table()
    first, again, other = (rows(split(frame, how, time="t", size=0.3, seed=seed)[-1]) for seed in (1, 1, 2))
    assert first == again
    assert (first == other) == (how in ("last", "time"))


@pytest.mark.parametrize("how", HOW)
def test_what_ids_look_like_decides_nothing(how):
    frame = table()
    names = np.random.default_rng(3).permutation(1000)
    renamed = frame.assign(u=[f"user {names[u]}" for u in frame.u], i=-frame.i)
    as_text = frame.assign(u=frame.u.astype(str), i=frame.i.astype("category"))
    notes = [[p.note.tolist() for p in split(f, how, time="t")] for f in (frame, renamed, as_text)]
    assert notes[0] == notes[1] == notes[2]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("form", ["polars", "pyarrow", *PATH_KINDS])
def test_every_form_gives_the_same_parts_in_that_form_with_all_columns(tmp_path, how, form):
    frame = table()
    if form in PATH_KINDS:
        data = tmp_path / f"r.{form}"
        frame.to_parquet(data, index=False) if form == "parquet" else frame.to_csv(data, index=False)
    else:
        data = pl.from_pandas(frame) if form == "polars" else pa.Table.from_pandas(frame)
    parts = split(data, how, time="t", seed=5)
    for part, expected in zip(parts, split(frame, how, time="t", seed=5), strict=True):
        assert isinstance(part, pl.DataFrame if form == "polars" else pa.Table)
        assert rows(part) == rows(expected)


def test_a_pandas_frame_keeps_its_index():
    frame = table().set_index(pd.Index(range(1000, 1000 + len(table()))))
    train, test = split(frame)
    assert (pd.concat([train, test]).sort_index().index == frame.index).all()


def test_arrays_and_sparse_matrices_give_arrays_and_sparse_matrices():
    frame = table()
    given = (frame.u.to_numpy(), frame.i.tolist(), frame.r.to_numpy())
    for part, expected in zip(split(given, seed=2), split(frame, seed=2), strict=True):
        assert rows(part) == rows(expected[["u", "i", "r"]])
    matrix = scipy.sparse.csr_array((frame.r, (frame.u, frame.i)), shape=(40, 70))
    train, test = split(matrix, "per-user", 2)
    assert train.shape == test.shape == matrix.shape
    assert ((train + test) != matrix).nnz == 0
    assert train.nnz + test.nnz == matrix.nnz


def test_a_wide_table_gives_ratings():
    wide = table().pivot(index="u", columns="i", values="r")
    train, test = split(wide, missing="nan")
    assert isinstance(train, Ratings)
    assert train.shape == test.shape == wide.shape
    assert len(train) + len(test) == wide.notna().sum().sum()


def test_parts_can_be_split_again():
    r = read_ratings(table(), time="t")
    rest, test = split(r, "random")
    train, validation = split(rest, "random")
    assert Counter(rows(r)) == Counter(rows(train) + rows(validation) + rows(test))
    frame = table()
    again = split(split(frame, "random")[0], "random")
    assert rows(again[1][["u", "i", "r"]]) == sorted(rows(validation), key=rows(again[1][["u", "i", "r"]]).index)


# what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "last"}, "how='last' needs to know when: name the column, as in time='timestamp'"),
        ({"how": "time"}, "how='time' needs to know when"),
        ({"how": "folds"}, "how is 'folds'; it must be one of 'random', 'per-user', 'last', 'time', 'users'"),
        ({"size": 0}, "size is 0; it must be a share between 0 and 1"),
        ({"size": 1.0}, "size is 1.0; it must be a share"),
        ({"size": -0.1}, "size is -0.1; it must be a share"),
        ({"size": np.nan}, "size is nan; it must be a share"),
        ({"size": True}, "size is True; it must be a share"),
        ({"size": "a tenth"}, "size is 'a tenth'; it must be a share"),
        ({"how": "users", "hidden": 2.5}, "hidden is 2.5; it must be a share"),
        ({"size": 0.001}, "the test set would be empty: size=0.001 of 19 ratings is none"),
        ({"size": 19}, "train would be empty: size=19 of 19 ratings is all of them"),
        ({"size": 50}, "train would be empty: size=50 of 19 ratings is all of them"),
        ({"how": "per-user", "size": 0.1}, r"test set would be empty: size=0.1 of any user's ratings \(at most 9\)"),
        ({"how": "per-user", "size": 9}, "the test set would be empty: size=9 of any user's ratings"),
        ({"how": "users", "size": 3}, "size=3 of 3 users is 3, and some must stay in train"),
        ({"how": "users", "size": 0.1}, "size=0.1 of 3 users is 0, "),
    ],
)
@pytest.mark.parametrize("read", [False, True])
def test_what_cannot_be_split_so_is_refused_with_the_way_out(options, message, read):
    frame = pd.DataFrame({"u": np.repeat([0, 1, 2], [9, 6, 4]), "i": [*range(9), *range(6), *range(4)]})
    with pytest.raises(ValueError, match=message):
        split(read_ratings(frame) if read else frame, **options)


def test_pairs_that_occur_twice_are_merged_before_they_are_split():
    frame = pd.concat([table(), table()])
    with pytest.raises(ValueError, match=r"come together 2 times.*where the table is read: duplicates="):
        split(frame)
    train, test = split(read_ratings(frame, duplicates="mean"))
    assert Counter(rows(train) + rows(test)) == Counter(rows(read_ratings(table())))


def test_no_ratings_cannot_be_split():
    r = read_ratings(table())
    with pytest.raises(ValueError, match="there are no ratings to split"):
        split(r.take(np.zeros(len(r), dtype=bool)))


def test_names_of_columns_are_for_tables():
    with pytest.raises(ValueError, match="time= names a column of a table, and Ratings, which are read already came"):
        split(read_ratings(table()), time="t")
