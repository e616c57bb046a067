"""Recommenders on the command line: ratings in, answers out, without torch where nothing is learned."""

import contextlib
import io
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios

import numpy as np
import pandas as pd
import pytest

from proxfactor import serve
from proxfactor.cli import main
from proxfactor.ratings import Recommender

M, N = 40, 25
NAMED = "--users user --items item --values rating"
r = np.random.default_rng(0)
TRUTH = 3 + r.normal(size=(M, 2)) @ r.normal(size=(2, N)) / 2
SEEN = r.random((M, N)) < 0.5
U, I = np.nonzero(SEEN)
TABLE = pd.DataFrame({"user": U + 1, "item": [f"film {i}" for i in I], "rating": np.clip(np.rint(TRUTH[U, I]), 1, 5)})


def call(command):
    """The exit code of a command that runs in this process."""
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(command))
    return stop.value.code


def shell(command, **options):
    return subprocess.run([sys.executable, "-m", "proxfactor", *shlex.split(command)], capture_output=True, text=True, **options)


def table(text, **options):
    return pd.read_csv(io.StringIO(text), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files, good and bad, and three runs: of ratings, of clicks, and a factorization."""
    place = tmp_path_factory.mktemp("ratings")
    TABLE.to_parquet(place / "ratings.parquet")
    TABLE.to_csv(place / "ratings.csv", index=False)
    titles = pd.DataFrame({"item": [f"film {i}" for i in range(N)], "title": [f"The {i}th, <b>" for i in range(N)]})
    titles.to_csv(place / "titles.csv", index=False)
    titles[["title"]].to_csv(place / "one.csv", index=False)
    titles.assign(item="x").to_csv(place / "others.csv", index=False)
    new = pd.DataFrame({"user": ["ann", "ann", "bob"], "item": ["film 1", "film 3", "film 2"], "rating": [5, 4, 1]})
    new.to_csv(place / "new.csv", index=False)
    other = np.argwhere(~SEEN)
    unseen = pd.DataFrame({"user": other[:, 0] + 1, "item": [f"film {i}" for i in other[:, 1]], "rating": 4.0})
    odd = {
        "test.csv": unseen,
        "null.csv": TABLE.assign(user=np.where(TABLE.index == 3, np.nan, TABLE.user)),
        "text.csv": TABLE.assign(rating=np.where(TABLE.index == 3, "good", TABLE.rating.astype(str))),
        "infinite.csv": TABLE.assign(rating=np.where(TABLE.index == 3, np.inf, TABLE.rating)),
        "minus.csv": TABLE.assign(w=-1.0),
        "twice.csv": pd.concat([TABLE, TABLE.iloc[:1]]),
        "equal.csv": TABLE.assign(rating=3),
        "clicks.csv": TABLE[["user", "item"]],
        "empty.csv": TABLE.iloc[:0],
        "few.csv": TABLE.iloc[:4],
    }
    for name, frame in odd.items():
        frame.to_csv(place / name, index=False)
    (place / "odd.json").write_text("[]")
    (place / "foreign").mkdir()
    (place / "foreign" / "thesis.txt").write_text("years of work")
    with contextlib.chdir(place):
        assert call(f"fit ratings.parquet {NAMED} -k 2 --reg 0.5 --titles titles.csv --out run --quiet") == 0
        assert call("fit ratings.parquet --implicit -k 2 --reg 0.05 --unobserved 0.1 --out clicks --quiet") == 0
        assert call("fit ratings.parquet --layout user,item,rating -k 2 --max-iter 5 --out factors --quiet") == 1
    return place


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


# ── from ratings to recommendations ───────────────────────────────────────────────────────────────────────────────────


def test_a_fit_searches_judges_and_saves_with_the_report(here, tmp_path, capsys):
    assert call(f"fit ratings.csv {NAMED} --rank 2 --out {tmp_path / 'run'}") == 0
    out, err = capsys.readouterr()
    assert err.startswith("trial   1 of 12  reg ")
    assert "RMSE " in err
    assert "sweep   1 of" in err
    for word in ("by 40 users of 25 items, rank 2, reg ", "the mean", "Bias", "Held out: ", "by chance", "proxfactor recommend"):
        assert word in out
    model = Recommender.load(tmp_path / "run")
    assert type(model).__name__ == "ExplicitMF"
    assert isinstance(model.reg, float), "what the search found is in the model"
    assert len(model.ratings_) == len(TABLE), "the last fit is of everything"
    told = model.model_.info["evaluation"]
    assert [row["model"] for row in told["rows"]] == ["ExplicitMF", "the mean", "Bias"]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert f"{told['rows'][0]['rmse']:.4f}" in page
    assert "Trials of the search" in page


def test_recommendations_are_those_of_the_model_with_titles(here, tmp_path, capsys):
    assert call("recommend run --user 7 --user 3 -n 4") == 0
    found = table(capsys.readouterr().out)
    expected = Recommender.load("run").recommend([7, 3], 4)
    assert list(found.columns) == ["user", "item", "title", "score", "rank", "fallback"]
    assert list(found["item"]) == expected["item"].to_pylist()
    assert list(found["title"]) == [f"The {i.removeprefix('film ')}th, <b>" for i in found["item"]]
    np.testing.assert_allclose(found["score"], expected["score"].to_numpy(), rtol=1e-6)
    assert call(f"recommend run --out {tmp_path / 'all.parquet'} -n 2") == 0
    assert len(pd.read_parquet(tmp_path / "all.parquet")) == 2 * M


def test_what_may_be_recommended_is_chosen_by_ids(here, capsys):
    seen = set(TABLE[TABLE.user == 7]["item"])
    assert call("recommend run --user 7 -n 100") == 0
    assert not seen & set(table(capsys.readouterr().out)["item"])
    assert call("recommend run --user 7 -n 100 --with-seen --without 'film 0'") == 0
    assert set(table(capsys.readouterr().out)["item"]) == set(TABLE["item"]) - {"film 0"}
    assert call("recommend run --user 7 -n 100 --with-seen --candidates 'film 1' 'film 2'") == 0
    assert set(table(capsys.readouterr().out)["item"]) == {"film 1", "film 2"}
    assert call("recommend run --user nobody --unknown fallback -n 1") == 0
    assert table(capsys.readouterr().out)["fallback"].all()


def test_users_of_another_file_get_recommendations(here, capsys):
    assert call("recommend run --new new.csv -n 3") == 0
    found = table(capsys.readouterr().out)
    expected = Recommender.load("run").fold_in("new.csv").recommend(n=3)
    assert list(found["user"]) == ["ann"] * 3 + ["bob"] * 3
    assert list(found["item"]) == expected["item"].to_pylist()


def test_similar_items_and_users(here, capsys):
    assert call("similar run --item 'film 3' -n 2") == 0
    items = table(capsys.readouterr().out)
    assert list(items.columns) == ["item", "title", "similar", "title of similar", "score", "rank"]
    assert list(items["similar"]) == serve.load("run").similar_items("film 3", 2).column("similar").to_pylist()
    assert call("similar clicks --user 3 -n 2") == 0
    assert list(table(capsys.readouterr().out)["user"]) == [3, 3]


def test_scores_of_some_pairs(here, capsys):
    assert call("predict run --rows 7 3 --cols 'film 2' 'film 0'") == 0
    found = table(capsys.readouterr().out, index_col="row")
    model = serve.load("run")
    for user in (7, 3):
        np.testing.assert_allclose(found.loc[user], model.predict(user, ["film 2", "film 0"]), rtol=1e-6)


def test_answers_import_no_torch(here, tmp_path):
    code = """import sys; from proxfactor.cli import main
for command in sys.argv[1:]:
    try: main(command.split())
    except SystemExit as stop: assert not stop.code and 'torch' not in sys.modules, command"""
    commands = ["recommend run --user 7", "similar run --user 7", "predict run --rows 7", "--help", "fit --help"]
    commands += [f"recommend run -n 2 --out {tmp_path / name}" for name in ("x.csv", "x.parquet")]
    done = subprocess.run([sys.executable, "-c", code, *commands], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(tmp_path / "x.parquet")) == len(pd.read_csv(tmp_path / "x.csv")) == 2 * M


def test_a_saved_model_is_judged_by_a_test_file(here, tmp_path, capsys):
    assert call(f"evaluate run test.csv --measures rmse ndcg@5 --relevant 4 --out {tmp_path / 'e.csv'}") == 0
    out = capsys.readouterr().out
    model = serve.load("run")
    test = pd.read_csv("test.csv")
    error = model.predict(test["user"], test["item"]) - test["rating"]
    saved = pd.read_csv(tmp_path / "e.csv")
    assert saved["rmse"][0] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
    assert "ndcg@5" in saved
    assert "± " in out


def test_a_file_alone_is_held_out_from_and_compared_with_the_baselines(here, capsys):
    assert call("evaluate clicks.csv --implicit -k 5 --rank 2 --reg 0.05 --unobserved 0.1 --how last --quiet") == 2
    assert "needs to know when" in capsys.readouterr().err
    assert call("evaluate clicks.csv --implicit -k 5 --rank 2 --reg 0.05 --unobserved 0.1") == 0
    out = capsys.readouterr().out
    for word in ("ImplicitMF", "Popularity", "EASE", "ndcg@5", "20 % of each user"):
        assert word in out


def test_tuned_options_are_written_and_taken(here, tmp_path, capsys):
    file = tmp_path / "options.json"
    assert call(f"tune ratings.csv {NAMED} --search rank=1,2 --search reg=0.1:10 --trials 5 --out {file}") == 0
    out, err = capsys.readouterr()
    assert "trial   1 of 5" in err
    assert "best" in out
    assert f"--options {file}" in out
    found = json.loads(file.read_text())
    assert found["model"] == "ExplicitMF"
    assert found["options"]["rank"] in (1, 2)
    assert len(found["trials"]) == 5
    assert call(f"fit ratings.csv {NAMED} --options {file} --test-size 0 --out {tmp_path / 'run'} --quiet") == 0
    model = Recommender.load(tmp_path / "run")
    assert {name: getattr(model, name) for name in found["options"]} == found["options"]
    assert "nothing was held out" in (tmp_path / "run" / "report.html").read_text("utf-8")


def test_other_recommenders_by_name_and_constraints(here, tmp_path):
    assert call(f"fit clicks.csv --model ease --reg 3 --out {tmp_path / 'a'} --quiet") == 0
    assert type(Recommender.load(tmp_path / "a")).__name__ == "EASE"
    assert call(f"fit ratings.csv {NAMED} --W nonneg --H nonneg -k 2 --reg 0.1 --seed 3 --out {tmp_path / 'b'} --quiet") == 0
    assert serve.load(tmp_path / "b").X.min() >= 0


def test_control_c_in_the_sweeps_saves_what_there_is(here, tmp_path):
    command = f"fit ratings.csv {NAMED} -k 2 --reg 0.5 --max-iter 10000000 --tol 0 --test-size 0 --out {tmp_path / 'run'}"
    with subprocess.Popen(
        [sys.executable, "-m", "proxfactor", *shlex.split(command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr.readline().startswith("sweep   1 of")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Interrupted: the sweeps so far are saved." in out
    assert len(serve.load(tmp_path / "run").users) == M


def test_control_c_in_a_search_writes_the_best_so_far(here, tmp_path, capsys, monkeypatch):
    from proxfactor.ratings import tuning

    def fit(self, options, real=tuning._Trials._fit):
        if len(self.rows) == 2:
            raise KeyboardInterrupt
        return real(self, options)

    monkeypatch.setattr(tuning._Trials, "_fit", fit)
    assert call(f"tune ratings.csv {NAMED} -k 2 --out {tmp_path / 'o.json'}") == 130
    assert "Interrupted" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "o.json").read_text())["trials"]) == 2
    assert call(f"fit ratings.csv {NAMED} -k 2 --out {tmp_path / 'run'}") == 130
    assert not (tmp_path / "run").exists()


def test_a_terminal_shows_a_live_bar(here, tmp_path):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 120))
    command = f"tune ratings.csv {NAMED} -k 2 --trials 2 --out {tmp_path / 'o.json'}"
    with subprocess.Popen(
        [sys.executable, "-m", "proxfactor", *shlex.split(command)],
        stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm-256color"},
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says so when the other side has gone
            while piece := os.read(ours, 4096):
                shown += piece
        out = process.communicate()[0].decode()
    os.close(ours)
    for word in ("trial 2 of 2", "━", "RMSE 0."):
        assert word in shown.decode()
    assert "best" in out
    assert "\x1b" not in out


def test_too_few_ratings_are_fitted_with_a_word_of_warning(here, tmp_path, capsys):
    assert call(f"fit few.csv {NAMED} -k 1 --reg 1 --out {tmp_path / 'run'} --quiet") == 0
    assert "warning: the test set would be empty" in capsys.readouterr().err
    assert call(f"fit equal.csv {NAMED} -k 1 --reg 1 --out {tmp_path / 'run'} --quiet") == 0
    assert "warning: all ratings are 3, so there is nothing to tell apart" in capsys.readouterr().err


def test_wide_tables_empty_users_and_items_and_large_ids(here, tmp_path, capsys):
    wide = TABLE.pivot(index="user", columns="item", values="rating").sort_index()
    wide.index = [f"u{i}" for i in wide.index]
    wide.loc["nobody"] = np.nan
    wide["unseen"] = np.nan
    wide.to_csv(tmp_path / "wide.csv", index_label="who")
    run = tmp_path / "run"
    assert call(f"fit {tmp_path / 'wide.csv'} --model ExplicitMF --missing nan -k 2 --reg 0.5 --out {run} --quiet") == 0
    assert call(f"recommend {run} --user u7 nobody -n 2") == 0
    found = table(capsys.readouterr().out)
    assert list(found["fallback"]) == [False] * 2 + [True] * 2
    assert len(serve.load(run).users) == M + 1
    TABLE.assign(user=TABLE.user + 2**40).to_csv(tmp_path / "large.csv", index=False)
    assert call(f"fit {tmp_path / 'large.csv'} {NAMED} -k 2 --reg 0.5 --out {run} --quiet") == 0
    assert call(f"recommend {run} --user {2**40 + 7} -n 1") == 0
    assert table(capsys.readouterr().out)["user"][0] == 2**40 + 7


# ── what is wrong, in one sentence ────────────────────────────────────────────────────────────────────────────────────

REFUSED = {
    "fit nowhere.csv --users user --items item": "nowhere.csv does not exist",
    "fit ratings.csv --users usr --items item": "ratings.csv: there is no column 'usr' for user; did you mean 'user'",
    "fit null.csv --users user --items item": "has no id in row 3",
    "fit text.csv --users user --items item --values rating": "text.csv: column 'rating' holds",
    "fit infinite.csv --users user --items item": "infinite.csv: ",
    "fit minus.csv --users user --items item --weights w": "minus.csv: ",
    "fit twice.csv --users user --items item": "twice.csv: ",
    "fit empty.csv --users user --items item": "empty.csv: ",
    "fit clicks.csv --users user --items item": "which column holds the ratings? Name it with --values; or, where a row is a click",
    "fit ratings.csv --users user --items item --rank 0": "rank is 0",
    "fit ratings.csv --users user --items item --reg little": "--reg 'little' is no number; give one, or auto",
    "fit ratings.csv --users user --items item --reg -1": "reg is -1",
    "fit ratings.csv --users user --items item --model eas": "--model 'eas' is no recommender; did you mean EASE?",
    "fit ratings.csv --users user --items item --model Bias --implicit": "--implicit and --model Bias: that one is for ratings",
    "fit ratings.csv --implicit --model ease --rank 3": "EASE has no option --rank; it has --duplicates, --values, --reg",
    "fit ratings.csv --users user --items item --alpha 2": "ExplicitMF has no option --alpha",
    "fit ratings.csv --users user --items item --loss kl": "--loss is for factorizations, and other options are for ratings",
    "fit ratings.csv --users user --items item --missing none": "--missing none: a user has not rated everything",
    "fit ratings.csv --users user --items item --test-size 2": "--test-size 2 must be a share from 0",
    "fit ratings.csv --users user --items item --W nonnegativ": "unknown prox 'nonnegativ'; did you mean NonNegative",
    "fit ratings.csv --users user --items item --titles one.csv": "--titles one.csv has one column; it needs two",
    "fit ratings.csv --users user --items item --titles others.csv": "its column 'item' names none of the items, such as film 0",
    "fit ratings.csv --users user --items item --options nowhere.json": "--options nowhere.json does not exist",
    "fit ratings.csv --users user --items item --options odd.json": "--options odd.json is not what `proxfactor tune` writes",
    "fit ratings.csv --users user --items item --out foreign": "foreign is there and is no saved recommender",
    "fit ratings.csv --users user --items item --out factors": "factors is there and is no saved recommender",
    "fit ratings.csv -k 2 --titles titles.csv": "--titles and --test-size are for ratings; say which columns",
    "recommend run --user 99": "unknown user '99'; did you mean 9?",
    "recommend run --user": "--user needs at least one id",
    "recommend run -n 0": "n is 0; ask for at least one item",
    "recommend run -n 2.5": "2.5 is no whole number",
    "recommend run --candidates 'film 99'": "unknown item 'film 99'; did you mean",
    "recommend run --out r.txt": "r.txt: a table is written as .parquet, .csv or .tsv",
    "recommend factors": "factors holds a factorization",
    "recommend nowhere": "nowhere is no folder; give the one that",
    "recommend foreign": "foreign holds no saved recommender",
    "recommend run --new empty.csv": "empty.csv: ",
    "similar run": "give --item ID, or --user ID, one of the two",
    "similar run --item 'film 1' --user 3": "give --item ID, or --user ID, one of the two",
    "similar run --item 'film 77'": "unknown item 'film 77'",
    "evaluate run": "run is a run; name the file with the ratings to judge it by",
    "evaluate run empty.csv": "empty.csv: ",
    "evaluate run ratings.csv --users user": "the columns of the test file are called as in the fit",
    "evaluate run ratings.csv --measures rsme": "rsme",
    "evaluate ratings.csv --how users --users user --items item --test-size 0.001": "of 40 users is 0",
    "tune ratings.csv --users user --items item --search rank": "--search 'rank' must be NAME=LOW:HIGH or NAME=A,B,C",
    "tune ratings.csv --users user --items item --search size=1,2": "ExplicitMF has no option 'size'",
    "tune ratings.csv --users user --items item --trials 0": "trials is 0",
    "tune few.csv --users user --items item": "the test set would be empty: size=0.1 of 4 ratings is none",
    "transform run new.csv": "run holds a recommender; for other users take: proxfactor recommend run --new FILE",
    "predict run --rows 99": "unknown user '99'",
}


@pytest.mark.parametrize("command", REFUSED)
def test_bad_input_ends_in_one_sentence_and_nothing_is_written(command, here, tmp_path, capsys):
    before = {file: file.stat().st_mtime_ns for file in here.rglob("*")}
    writes = command.startswith(("fit ", "tune ")) and "--out" not in command
    quick = " --reg 1" if command.startswith("fit ") and "user" in command and "--reg" not in command else ""
    assert call(f"{command}{quick} --out {tmp_path / 'out'}" if writes else command) == 2
    out, err = capsys.readouterr()
    *warned, said = err.splitlines()
    assert said.startswith("error: ")
    assert REFUSED[command] in said
    assert out == ""
    assert all(line.startswith("warning: ") for line in warned)
    assert not (tmp_path / "out").exists()
    assert {file: file.stat().st_mtime_ns for file in here.rglob("*")} == before
