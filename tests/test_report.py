"""The report, opened in a real browser: everything is there, nothing is fetched, nothing that a name says is done."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
import torch

import proxfactor as pf
from proxfactor import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
EVIL = [
    "</script><script>window.PWN=1</script>",
    "<img src=x onerror=window.PWN=1>",
    "$x_$",
    "&amp;",
    "\"'`' onload=window.PWN=1 x=\"",
    "two\nlines",
    "long" * 2500,
    "שלום עולם",
    "\u202eevil",
    "🙂👩‍🔬",
    "\\frac{$",
    "",
    "{{ 7 * 7 }}",
    "a\x00b",
    "]]>--><!--",
]
rng = np.random.default_rng(0)


def fitted(shape=(40, 64), rank=3, rows=None, cols=None, image=None, **options):
    X = rng.random((shape[0], rank)) @ rng.random((rank, shape[1]))
    run = pf.factorize(X, rank, W="nonneg", H="nonneg", max_iter=30, **options)
    return dataclasses.replace(run, rows=rows, cols=cols, image=image)


def named(word, count):
    return np.array([f"{word} {i}" for i in range(count)])


@pytest.fixture(scope="module")
def runs():
    evil = np.array(EVIL, dtype=object)
    return {
        "images": fitted(image=(8, 8)),
        "curves": fitted(cols=np.array([f"{400 + 2.5 * j:.1f}" for j in range(64)])),
        "names": fitted((12, 16), rows=named("person", 12), cols=named("food", 16)),
        "many names": fitted(cols=named("word", 64)),
        "maps": fitted((48, 40), image=(6, 8)),
        "evil": fitted((len(EVIL), len(EVIL)), rows=evil, cols=evil),
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


@pytest.fixture(scope="module")
def files(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    return {kind: report.write(run, folder / f"{kind}.html") for kind, run in runs.items()}


@pytest.fixture
def opened(browser, files):
    """Opens a report; at the end of the test nothing may have complained or been fetched."""
    heard, pages = [], []

    def see(kind, width=1280, scheme="light"):
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


@pytest.mark.parametrize("kind", ["images", "curves", "names", "many names", "maps", "evil"])
def test_every_kind_of_result_makes_a_whole_page(runs, opened, kind):
    page = opened(kind)
    sizes = page.evaluate("[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect()).map(r => [r.width, r.height])")
    expected = 6 + {"images": 1, "curves": 1, "maps": 2}.get(kind, 0)
    assert len(sizes) == expected
    assert min(min(s) for s in sizes) > 50
    text = page.inner_text("body")
    for heading in ("Components", "Use and sparsity", "Convergence", "What is left over", "What was asked", "How to go on"):
        assert heading in text
    assert "NonNegative()" in text
    assert "pf.load" in text
    assert runs[kind].status in text
    assert page.locator("svg:not([aria-label])").count() == 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_images_are_drawn(opened):
    page = opened("images")
    assert page.locator("svg[aria-label='The components as images'] image").count() == 3
    assert page.evaluate("[...document.querySelectorAll('svg image')].every(i => i.getBoundingClientRect().width > 20)")


def test_evil_names_are_text_and_nothing_else(opened):
    page = opened("evil")
    shown = page.locator("bdi").all_text_contents()
    for name in [*EVIL[1:4], "two lines", "שלום עולם", "(no name)", "{{ 7 * 7 }}", "]]>--><!--"]:
        assert name in shown
    assert page.locator("script").count() == 0
    assert page.locator("img").count() == 0
    assert page.locator("bdi[title]").evaluate_all("(all, long) => all.some(e => e.title === long)", EVIL[6])
    assert max(map(len, shown)) <= 40


@pytest.mark.parametrize("kind", ["images", "names", "evil"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_scrolls_down_only_in_light_and_dark(opened, kind, scheme):
    page = opened(kind, width=380, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", color)[0]) < 60) == (scheme == "dark")
    ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    assert (int(re.findall(r"\d+", ink)[0]) > 120) == (scheme == "dark"), "figures follow the page"


@pytest.mark.parametrize(
    ("stopped", "badge"),
    [("converged", "good"), ("max_iter", "warn"), ("stalled", "warn"), ("interrupted", "bad"), ("callback", "warn")],
)
def test_the_badge_says_how_the_fit_ended(runs, stopped, badge):
    html = report.render(dataclasses.replace(runs["names"], stopped=stopped))
    assert f'class="badge {badge}">{"converged" if stopped == "converged" else "not converged"}' in html


def test_without_data_and_certificate_the_report_says_so(runs):
    run = runs["names"]
    history = [row | {"certificate_W": float("nan"), "certificate_H": float("nan")} for row in run.history]
    html = report.render(dataclasses.replace(run, residual=None, problem=None, history=history, settings={}, error=float("nan")))
    assert "the data was not at hand" in html
    assert html.count("not available") >= 3


def test_one_look_and_an_empty_component_are_no_obstacle(runs):
    run = runs["curves"]
    W = run.factors[0].clone()
    W[:, 1] = 0
    html = report.render(dataclasses.replace(run, factors=(W, run.factors[1]), history=run.history[-1:]))
    assert "All zero" in html


def test_hostile_settings_are_text(runs):
    settings = {"command": ["fit", "<script>"], "versions": {"<b>": "1"}, "tol": 1e-5, "created": "</title><script>"}
    html = report.render(dataclasses.replace(runs["names"], settings=settings, status="<script>"), folder="</code><script>")
    assert "<script" not in html
    assert "fit &#39;&lt;script&gt;&#39;" in html


def test_a_million_rows_and_columns_stay_small():
    m = 1_000_000
    run = dataclasses.replace(
        fitted((40, 64), rank=2), factors=(torch.rand(m, 2), torch.rand(2, m)), residual=None, problem=None, rows=np.arange(m)
    )
    assert len(report.render(run)) < 400_000


def test_more_components_than_can_be_drawn_are_counted():
    many = (torch.rand(40, 70), torch.rand(70, 64))
    run = dataclasses.replace(fitted(rank=2), factors=many, residual=None, image=(8, 8))
    html = report.render(run)
    assert "The 64 largest of 70 components; 6 more are not shown" in html
    assert html.count("<image") == 64


def test_a_run_folder_gets_its_report(runs, tmp_path):
    folder = pf.save(runs["images"], tmp_path / "run")
    path = report.write(folder)
    assert path == folder / "report.html"
    assert f"pf.load({str(folder)!r})" in path.read_text("utf-8").replace("&#39;", "'")
    assert "Histogram of data minus fit" in path.read_text("utf-8")


def test_a_result_without_a_folder_needs_a_path(runs):
    with pytest.raises(ValueError, match="give path="):
        report.write(runs["images"])


def test_an_image_shape_that_does_not_fit_is_refused(runs):
    with pytest.raises(ValueError, match=r"7 x 7 pixels for 40 rows and 64 columns"):
        report.render(runs["images"], image=(7, 7))


def test_two_reports_of_one_run_are_the_same_bytes(runs):
    assert report.render(runs["images"]) == report.render(runs["images"])


def test_names_on_axes_are_not_mathematics(runs):
    from matplotlib.figure import Figure

    ax = report.plot_loadings(runs["evil"], 1, Figure().subplots(), of="columns")
    ax.figure.canvas.draw()
    texts = [label.get_text() for label in ax.get_yticklabels()]
    assert "$x_$" in texts
    assert not any(label.get_parse_math() for label in ax.get_yticklabels())
    assert max(map(len, texts)) <= 28


@pytest.mark.parametrize("of", ["histogram", "rows", "cols", "picture"])
def test_plots_draw_on_the_axes_they_are_given(runs, of):
    from matplotlib.figure import Figure

    run, ax = runs["images"], Figure().subplots()
    with pytest.raises(ValueError, match="residual_summary"):
        report.plot_residual(dataclasses.replace(run, residual=None, problem=None), ax, of)
    run = dataclasses.replace(run, residual=pf.metrics.residual_summary(run.problem.X, *run.factors))
    assert report.plot_residual(run, ax, of) is ax
    assert report.plot_history(run, Figure().subplots(), "certificate").get_yscale() == "log"


def test_components_are_drawn_on_given_axes_largest_first_where_they_do_not_suffice(runs):
    from matplotlib.figure import Figure

    figure = Figure()
    assert report.plot_components(runs["names"], figure.subplots(1, 2)) is figure
    assert len(figure.axes) == 2
    with pytest.raises(ValueError, match="a number from 1 to 3"):
        report.plot_loadings(runs["names"], 0)


def test_long_curves_keep_their_peaks():
    y = np.zeros(100_000)
    y[77_777] = 1
    kept = report.page.thin(y)
    assert len(kept) <= 600
    assert 77_777 in kept
