"""The page of a recommender, opened in a real browser: a user is picked, answers come with reasons, nothing is fetched."""

import dataclasses
import json
import re

import numpy as np
import pytest
from test_report import CHROMIUM, EVIL, QUIET

from proxfactor import report
from proxfactor.ratings import EASE, BayesianMF, ExplicitMF, ImplicitMF, Popularity, compare, read_ratings

rng = np.random.default_rng(0)
M, N = 40, 30
TRUTH = 3 + rng.normal(size=(M, 2)) @ rng.normal(size=(2, N)) / 2
U, I = np.nonzero(rng.random((M, N)) < 0.5)
TABLE = (U, I, np.clip(np.rint(TRUTH[U, I]), 1, 5))
TITLES = dict(enumerate(EVIL)) | {i: f"Film {i}" for i in range(len(EVIL), N)}
EVIL_TABLE = (np.array([*EVIL[:11], *EVIL[12:]], dtype=object)[U % 14], np.array([f"<script>{i}" for i in I]))


@pytest.fixture(scope="module")
def models():
    ratings = ExplicitMF(rank=2, reg=0.5).fit(TABLE)
    judged = compare(ExplicitMF(rank=2, reg=0.5), TABLE)
    told = {"rows": judged.rows(), "errors": judged.errors(), "held_out": judged.held_out, "notes": []}
    trials = [{"trial": t, "reg": 0.1 * t, "score": -1.0 / t, "sweeps": 3, "seconds": 0.1} for t in (1, 2, 3)]
    ratings.model_ = dataclasses.replace(ratings.model_, info=ratings.model_.info | {"evaluation": told, "trials": trials})
    clicks = read_ratings(EVIL_TABLE, duplicates="sum")
    return {
        "ratings": ratings,
        "clicks": ImplicitMF(rank=2, reg=0.1, unobserved=0.1).fit(clicks),
        "parts": ExplicitMF(rank=2, reg=0.5, W="nonneg", H="nonneg").fit(TABLE),
        "intervals": BayesianMF(rank=2, sweeps=20).fit(TABLE),
        "linear": EASE(reg=3.0).fit(TABLE),
        "popular": Popularity().fit(TABLE),
    }


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {
        kind: report.write_recommender(model, folder / f"{kind}.html", None if kind == "clicks" else TITLES, folder="my run")
        for kind, model in models.items()
    }


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="the report is checked in a browser through playwright")
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome to open the report in")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, files):
    """Opens a page; at the end of the test nothing may have complained or been fetched."""
    heard, pages = [], []

    def see(kind, width=1100, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or heard.append(request.url))
        page.goto(files[kind].as_uri())
        return page

    yield see
    alive = [page.evaluate("window.PWN") for page in pages]
    for page in pages:
        page.close()
    assert heard == []
    assert alive == [None] * len(pages)


@pytest.mark.parametrize("kind", ["ratings", "clicks", "parts", "intervals", "linear", "popular"])
def test_every_recommender_has_a_whole_page(models, opened, kind):
    page = opened(kind)
    text = page.inner_text("body")
    for heading in ("Recommendations", "How good it is", "What was asked", "How to go on"):
        assert heading in text
    assert type(models[kind]).__name__ in text
    assert ("Tastes" in text) == (kind not in ("linear", "popular"))
    assert page.locator("#answers tbody").first.locator("tr").count() > 0
    assert page.locator("svg:not([aria-label])").count() == 0
    assert page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)").count("user") == 1


def test_the_user_that_is_picked_gets_the_models_recommendations_and_reasons(models, opened):
    page, model = opened("ratings"), models["ratings"]
    for user in (7, 31):
        page.fill("#user", str(user))
        rows = page.locator("#answers .best tbody tr")
        expected = model.recommend(user, 10)
        assert rows.count() == len(expected["item"])
        titles = [TITLES[i] for i in expected["item"].to_pylist()]
        assert page.locator("#answers .best th bdi").evaluate_all("all => all.map(e => e.title)") == titles
        assert float(rows.first.locator("td.value").inner_text()) == pytest.approx(expected["score"][0].as_py(), rel=6e-3)
        reason = model.explain(user, expected["item"][0].as_py(), n=1)
        names = rows.first.locator(".why bdi").evaluate_all("all => all.map(e => e.title)")
        assert names[0] == TITLES[int(reason["item"][0].as_py())]
    page.click("#another")
    assert page.locator("#answers .best tbody tr").count() > 0


def test_somebody_who_is_not_there_is_told_so(opened):
    page = opened("ratings")
    page.fill("#user", "<img src=x onerror=window.PWN=1>")
    assert page.inner_text("#answers") == "There is no such user."


def test_of_many_users_some_are_on_the_page_and_the_command_is_for_the_others(models, browser, tmp_path, monkeypatch):
    monkeypatch.setattr(report.recommender, "USERS", 5)
    path = report.write_recommender(models["ratings"], tmp_path / "some.html", folder="my run")
    held = {user["id"] for user in json.loads(re.search(r'id="data">(.*?)</script>', path.read_text("utf-8"))[1])["users"]}
    assert len(held) == 5
    page = browser.new_page()
    page.goto(path.as_uri())
    page.fill("#user", next(str(u) for u in range(M) if str(u) not in held))
    assert "proxfactor recommend 'my run' --user" in page.inner_text("#answers")
    assert "the answers for 5 of the users" in page.inner_text("footer")
    page.close()


def test_intervals_are_shown_where_the_model_knows_them(models, opened):
    page, model = opened("intervals"), models["intervals"]
    page.fill("#user", "7")
    best = model.recommend(7, 1)["item"][0].as_py()
    ends = page.locator("#answers .range").first.inner_text().split(" – ")
    expected = np.clip(np.ravel(model.predict_interval(7, best)), 1, 5)
    assert [float(end) for end in ends] == pytest.approx(list(expected), abs=0.01)
    assert "nine of ten" in page.inner_text("body")
    assert opened("ratings").locator(".range").count() == 0


def test_evil_titles_and_ids_are_text_and_nothing_else(opened, files):
    for kind in ("ratings", "clicks"):
        page = opened(kind)
        assert page.locator("script").count() == 2, "the data and the page's own"
        assert page.locator("img").count() == 0
        assert files[kind].read_text("utf-8").count("<script") == 2
    for user in page.locator("#ids option").evaluate_all("all => all.map(e => e.value)"):
        page.fill("#user", user.replace("\n", ""))
    assert "<script>" in page.inner_text("#answers")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_scrolls_down_only_in_light_and_dark(opened, scheme):
    page = opened("ratings", width=380, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", color)[0]) < 60) == (scheme == "dark")


def test_what_was_measured_stands_beside_the_baselines(models, opened):
    text = opened("ratings").inner_text("body")
    told = models["ratings"].model_.info["evaluation"]
    for row in told["rows"]:
        assert row["model"] in text
        assert f"{row['rmse']:.4f}" in text
    assert told["held_out"] in text
    assert "better than the baselines" in text
    assert "not judged: nothing was held out" in opened("linear").inner_text("body")


def test_tastes_are_the_principal_axes_of_the_scores(models):
    kept = models["ratings"].model_
    axes = report.recommender._axes(kept, [str(i) for i in range(N)], models["ratings"])
    values = np.linalg.svd(kept.X.astype(float) @ kept.Y.T.astype(float), compute_uv=False)
    assert [axis["size"] for axis in axes] == pytest.approx(values[:2] / (M * N) ** 0.5, rel=1e-3)


def test_titles_of_another_length_are_refused(models):
    with pytest.raises(ValueError, match="2 titles for 30 items; give one for each, or a dict by id"):
        report.render_recommender(models["linear"], ["a", "b"])


def test_two_pages_of_one_model_are_the_same_bytes(models):
    assert report.render_recommender(models["ratings"]) == report.render_recommender(models["ratings"])
