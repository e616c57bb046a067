"""The catalogue as a table: what the class of each operator says of itself, for the command line and the docs."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from .base import Prox

SECTIONS = {
    "entries": "each number by itself: sets and plain penalties",
    "penalties": "each number by itself: losses, robust and nonconvex penalties",
    "simplices": "shares and linear constraints along a dim",
    "balls": "bounded norms, cones, counted sparsity",
    "norms": "norms as penalties",
    "groups": "groups of entries that live or die together",
    "order": "ordered and shaped slices",
    "variation": "jumps and roughness",
    "matrices": "singular values and structure of matrices",
    "images": "slices that are images",
    "built": "made from other operators",
    "sums": "sums without an exact rule",
}
HEAD = ["name", "short", "formula", "couples", "metric", "convex", "exact", "cost", "what it does"]


def sections() -> dict[str, list[type[Prox]]]:
    """The classes by module, in the order of SECTIONS; what users have added comes last."""
    found: dict[str, list[type[Prox]]] = {name: [] for name in SECTIONS}
    for kind in Prox.catalogue():
        home = kind.__module__.removeprefix(f"{__package__}.")
        found.setdefault(home, []).append(kind)
    return {name: sorted(kinds, key=_place) for name, kinds in found.items() if kinds}


def _place(kind: type[Prox]) -> int:
    """The place of its definition in its module."""
    names = list(vars(sys.modules[kind.__module__]))
    return names.index(kind.__name__) if kind.__name__ in names else len(names)


def row(kind: type[Prox]) -> list[str]:
    """One operator, in the columns of HEAD; "as g" where only the operator inside can say, "varies" where the fields decide.

    >>> from proxfactor import L1
    >>> row(L1)[:5]
    ['L1', '', 'λ Σ|x|', 'none', 'element']
    """
    dims: Any = kind.dims
    fields = inspect.signature(kind).parameters
    built = any("Prox" in str(f.annotation) for f in fields.values())
    open_ = "as g" if built else "varies"
    if not isinstance(dims, property):
        couples = {(): "none", None: "all", (-2, -1): "matrix"}.get(dims, str(dims))
    else:
        couples = "none" if dims is Prox.dims else "dim" if "dim" in fields else open_
    said = [getattr(kind, name) for name in ("metric", "convex", "exact")]
    told = [open_ if isinstance(value, property) else {True: "yes", False: "no"}.get(value, value) for value in said]
    words = (kind.__doc__ or "").splitlines()[0].split(": ")[0].rstrip(".")
    cost = kind.cost if isinstance(kind.cost, str) else open_
    return [kind.__name__, kind.alias, kind.formula, couples, *told, cost, words]
