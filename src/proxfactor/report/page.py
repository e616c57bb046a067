"""What the pages share: inks, figures as SVG that follow the page in light and dark, names and numbers as text."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RUST, GREY = "#2a6db0", "#c0561f", "#8a8f98"
POINTS = 600


def logarithmic(ax: Axes, which: str) -> None:
    ax.set(**{f"{which}scale": "log"})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_formatter(power)
    axis.set_minor_formatter("")


def new_axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.figure(layout="constrained").subplots()


def empty(ax: Axes, text: str) -> Axes:
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color=GREY)
    ax.set(xticks=[], yticks=[])
    return ax


def thin(y: np.ndarray) -> np.ndarray:
    """The positions of at most 600 points that keep the lowest and the highest of each stretch."""
    if len(y) <= POINTS:
        return np.arange(len(y))
    parts = np.array_split(np.arange(len(y)), POINTS // 2)
    return np.unique([i for part in parts for i in (part[np.argmin(y[part])], part[np.argmax(y[part])])])


def power(value: float, _: float = 0) -> str:
    exponent = math.log10(value) if value > 0 else 0.0
    raised = f"{exponent:.0f}".translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    return f"10{raised}" if abs(exponent - round(exponent)) < 1e-9 else f"{value:g}"


def label(name: Any, size: int = 28) -> str:
    """A name that fits beside a bar: printable characters on one line, shortened."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    return text if len(text) <= size else text[: size - 1] + "…"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %" if share >= 0.0005 else "<0.1 %"


def number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not available"
    return f"{value:.3g}".replace("-", "−") if isinstance(value, float) else str(value)


def plain(value: Any) -> str:
    """A setting as text: {"torch": "2.13"} becomes torch 2.13, [12, 16] becomes 12 x 16."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return " x ".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def environment() -> Any:
    """Where the templates are read, whose every value is text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("proxfactor", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"number": number, "percent": percent, "plain": plain, "short": lambda name: label(name, 40)}
    return found


_INKS = {"#010203": "var(--ink)", "#010204": "var(--muted)", "#010205": "var(--line)", BLUE: "var(--blue)", RUST: "var(--rust)"}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "proxfactor",
    "font.size": 9,
    "axes.edgecolor": "#010204",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": "#010204",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#010205",
    "grid.linewidth": 0.6,
    "text.color": "#010203",
    "xtick.color": "#010204",
    "ytick.color": "#010204",
}


def svg(name: str, label: str, draw: Callable[[Figure], Any]) -> Any:
    """A figure as SVG for the page: its inks become the page's colours, its ids its own."""
    import matplotlib as mpl
    from markupsafe import Markup
    from matplotlib.figure import Figure

    out = io.StringIO()
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(4.6, 2.6), layout="constrained")
        draw(figure)
        figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    width, height = (72 * inches for inches in figure.get_size_inches())
    most = 1.25 * width if width < 400 else 1080
    body = re.sub(r"<style.*?</style>", "", out.getvalue().split("<svg", 1)[1].split(">", 1)[1], flags=re.DOTALL)
    body = re.sub(r"<[^<>]*>", lambda tag: _page(tag[0], name), body)
    head = Markup('<svg viewBox="0 0 {:g} {:g}" style="max-width: {:g}px" role="img" aria-label="{}">')
    return head.format(width, height, most, label) + Markup(body)


def _page(tag: str, name: str) -> str:
    for ink, color in _INKS.items():
        tag = tag.replace(ink, color)
    return re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", re.sub(r"font-family: [^;\"]*;? ?", "", tag))
