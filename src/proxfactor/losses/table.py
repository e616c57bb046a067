"""The losses as a table: what the class of each says of itself, for the command line and the docs."""

from __future__ import annotations

from .base import Loss

HEAD = ["name", "short", "for", "l(pred, x)", "pred", "convex", "bound", "degree", "zeros in closed form"]


def row(kind: type[Loss]) -> list[str]:
    """One loss, in the columns of HEAD; "varies" where its parameters decide.

    >>> from proxfactor import KL
    >>> row(KL)[:3]
    ['KL', '', 'counts and amounts, x ≥ 0']
    """

    def told(name: str) -> str:
        value = getattr(kind, name)
        if isinstance(value, property):
            return "varies"
        return "none" if value is None else ("no", "yes")[value] if isinstance(value, bool) else f"{value:g}"

    pred = {"yes": "any number", "no": "above 0"}.get(told("real"), "varies")
    bound = "kinks" if told("smooth") == "no" else told("bound")
    zeros = "no" if kind.at_zero is Loss.at_zero else "varies" if told("quadratic") == "varies" else "yes"
    return [kind.__name__, kind.alias, kind.data, kind.formula, pred, told("convex"), bound, told("degree"), zeros]


def table() -> list[str]:
    """The lines of a Markdown table of all losses."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    ours = [kind for kind in Loss.catalogue() if kind.__module__.partition(".")[0] == __name__.partition(".")[0]]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row(kind)) + " |" for kind in ours]
