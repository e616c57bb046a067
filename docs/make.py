"""Writes operators.md with a picture for each part of it, and the table in losses.md: python docs/make.py (or make docs)."""

from pathlib import Path

import torch

from proxfactor.losses.table import table
from proxfactor.prox import Prox
from proxfactor.prox.sums import FIRST, LAST, _sparse_sphere
from proxfactor.prox.table import HEAD, SECTIONS, row, sections

HERE = Path(__file__).parent
INK, GIVEN = "#1f5fa8", "#b0b0b0"

TEXTS = {  # what each picture shows, where the name alone (or with dim=0) does not say it
    "Box": "Box(-1, 0.5)",
    "Integers": "Integers()",
    "Codebook": "Codebook((-2, -0.5, 0.5, 2))",
    "Linear": "Linear(0.5)",
    "Poisson": "Poisson(1.0)",
    "L0": "L0(0.5)",
    "TopK": "TopK(dim=0, k=4)",
    "SparseSimplex": "SparseSimplex(dim=0, k=3, total=3)",
    "Simplex": "Simplex(dim=0, total=3)",
    "SolidSimplex": "SolidSimplex(dim=0, total=3)",
    "CappedSimplex": "CappedSimplex(dim=0, total=3, cap=0.8)",
    "Slab": "Slab(dim=0, lo=-1, hi=1)",
    "SumLargest": "SumLargest(dim=0, k=3)",
    "SumLargestAbs": "SumLargestAbs(dim=0, k=3)",
    "KSupport": "KSupport(dim=0, k=3)",
    "Hoyer": "Hoyer(dim=0, sparseness=0.7)",
    "L1L2Ball": "L1L2Ball(dim=0, l1=2)",
    "GroupLasso": "GroupLasso(dim=0, lam=1, groups=(0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3))",
    "TotalVariation": "TotalVariation(dim=0, lam=2)",
    "TrendFilter": "TrendFilter(dim=0, order=1, lam=5)",
    "Smooth": "Smooth(dim=0, lam=10)",
}
CURVES, BARS, LINES = ("entries", "penalties"), ("simplices", "balls", "norms", "groups"), ("order", "variation")


def ours():
    """The sections of the catalogue, without what others have added."""
    return {name: kinds for name, kinds in sections().items() if name in SECTIONS}


def operator(kind):
    for text in (TEXTS.get(kind.__name__, ""), f"{kind.__name__}()", f"{kind.__name__}(dim=0)"):
        try:
            return Prox.parse(text)
        except ValueError:
            continue
    return None


def slice_for(section):
    """The entries that a picture starts from."""
    noise = torch.randn(200, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    if section in CURVES:
        return torch.linspace(-3, 3, 601, dtype=torch.float64)
    if section in BARS:
        return 1.2 * noise[:12]
    t = torch.linspace(0, 1, 60, dtype=torch.float64)
    return 2 * torch.exp(-((t - 0.45) ** 2) / 0.02) + t + 0.25 * noise[:60]


def acted(section, p):
    """What p makes of the slice; None where it takes no such slice."""
    try:
        return p(slice_for(section), 1.0)
    except (ValueError, IndexError):
        return None


def draw(axes, section, p):
    x, y = slice_for(section), acted(section, p)
    places = x if section in CURVES else torch.arange(len(x))
    if section in CURVES:
        y = torch.where((y[1:] - y[:-1]).abs() < 0.2, y[1:], torch.nan)  # a jump is no line
        axes.plot(x, x, color=GIVEN, linewidth=0.8)
        axes.plot(x[1:], y, color=INK, linewidth=1.6)
        axes.set_xlim(-3, 3)
        axes.set_ylim(-3, 3)
    elif section in BARS:
        axes.bar(places, x, width=0.8, color=GIVEN)
        axes.bar(places, y, width=0.4, color=INK)
    else:
        axes.plot(places, x, ".", color=GIVEN, markersize=3)
        axes.plot(places, y, color=INK, linewidth=1.6)
    axes.set_title(repr(p) if len(repr(p)) < 30 else type(p).__name__, fontsize=7)
    axes.set_xticks([])
    axes.set_yticks([])


def picture(section, kinds):
    """What each operator does to the same entries: grey before, blue after. None where no picture says more."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "proxfactor", "svg.fonttype": "none"}
    import matplotlib.pyplot as plt

    if section not in (*CURVES, *BARS, *LINES):
        return None
    shown = [p for p in map(operator, kinds) if p is not None and acted(section, p) is not None]
    across = 6
    down = -(-len(shown) // across)
    figure, grid = plt.subplots(down, across, figsize=(1.7 * across, 1.7 * down), squeeze=False, layout="constrained")
    cells = iter(grid.flat)
    for p in shown:
        draw(next(cells), section, p)
    for axes in cells:
        axes.axis("off")
    place = HERE / "operators" / f"{section}.svg"
    place.parent.mkdir(exist_ok=True)
    figure.savefig(place, metadata={"Date": None})
    plt.close(figure)
    return place


def page(pictures):
    """operators.md: ``pictures`` has the sections that have one."""
    found = ours()
    count = sum(map(len, found.values()))
    lines = [
        "# The operators",
        "",
        f"All {count} of them, written by `make docs` from what the classes say of themselves (`proxfactor operators` prints the",
        "same). Each is prox(x, step) = argmin_y g(y) + ‖y - x‖² / (2 step), where step may be a tensor: a diagonal metric.",
        "",
        "- **couples**: the entries that depend on each other: none, those along `dim`, a matrix, all; *as g*: as those inside.",
        "- **metric**: the tensor steps that are honoured exactly: *element* any, entry by entry; *weighted* any, by a weighted",
        "  closed form; *group* those that are constant over what is coupled.",
        "- **exact**: *no* is a heuristic that minimises nothing; a fit with it has no certificate.",
        "- **cost**: the work for a slice of n entries, or an m x n matrix.",
        "",
        "In the pictures grey is what goes in and blue is what comes out, with step 1.",
    ]
    for name, kinds in found.items():
        lines += ["", f"## {name}: {SECTIONS[name]}", ""]
        if name in pictures:
            lines += [f"![what each does to the same entries](operators/{name}.svg)", ""]
        lines += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row(kind)) + " |" for kind in kinds]
    return "\n".join([*lines, *adding()]) + "\n"


def adding():
    """What + knows, from the rules themselves."""
    lines = [
        "",
        "## Adding operators",
        "",
        "`a + b` is exact where one of these rules holds for the terms; it then applies them one after the other, in the order",
        "that the rule asks for, however they were written. Its `metric` says in which tensor steps.",
        "",
        "| first | then | why | tensor steps |",
        "|---|---|---|---|",
    ]
    for rule, anywhere in (*FIRST, (_sparse_sphere, False), (LAST, True)):
        what, _, why = " ".join((rule.__doc__ or "").split()).partition(": ")
        first, _, then = what.partition(", then ")
        lines.append(f"| {first} | {then} | {why} | {'any' if anywhere else 'constant along dim'} |".replace("|x|", "\\|x\\|"))
    return [
        *lines,
        "",
        "Some sums are one operator: `nonneg + sum1(dim=0)` is `simplex(dim=0)`. Other convex terms are split (`Split`): each prox",
        "in turn, to a tolerance, and no certificate; `terms` has the summands. A term that is not convex and has no rule is",
        "refused, and so are sets that do not meet.",
    ]


def losses():
    """losses.md, its table written anew."""
    before, _, after = (HERE / "losses.md").read_text(encoding="utf-8").split("<!-- table -->\n")
    return "<!-- table -->\n".join([before, "\n".join(table()) + "\n", after])


def main():
    drawn = {name for name, kinds in ours().items() if picture(name, kinds)}
    (HERE / "operators.md").write_text(page(drawn), encoding="utf-8")
    (HERE / "losses.md").write_text(losses(), encoding="utf-8")


if __name__ == "__main__":
    main()
