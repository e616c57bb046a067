"""The documents cannot rot: their Python runs, their commands exist, their links lead somewhere."""

import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_python_of_a_page_runs(page):
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_commands_of_a_page_exist_with_their_options(page):
    from proxfactor.cli import app

    for code in blocks(page, "sh"):
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["proxfactor"]:
                app.parse_args(words[1:], exit_on_error=False)
            elif words[:1] == ["make"]:
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_solver_has_a_row_in_how_to_choose():
    from proxfactor.solvers import Solver

    rows = (ROOT / "README.md").read_text(encoding="utf-8")
    for solver in Solver.catalogue():
        if solver.__module__.startswith("proxfactor."):
            assert f"`{solver.__name__}(" in rows


def test_the_tables_of_operators_and_losses_are_what_the_classes_say():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import make
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "losses.md").read_text(encoding="utf-8") == make.losses(), "run make docs"
    pictures = {p.stem for p in (ROOT / "docs" / "operators").glob("*.svg")}
    assert (ROOT / "docs" / "operators.md").read_text(encoding="utf-8") == make.page(pictures), "run make docs"


def test_what_the_page_of_peers_calls_ours_can_be_read():
    from proxfactor import Prox

    rows = re.findall(r"^\| `[^|]*\| ([^|]*)\|", (ROOT / "docs" / "peers.md").read_text(encoding="utf-8"), re.MULTILINE)
    texts = [text for cell in rows for text in re.findall(r"`([^`]+)`", cell) if "$" not in text]
    assert len(texts) > 200
    for text in texts:
        assert isinstance(Prox.parse(text), Prox)
