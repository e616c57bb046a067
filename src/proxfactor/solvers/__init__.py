"""Solvers: how a Problem is minimised. One file per method; ``auto`` chooses."""

from typing import Any

from ..problem import Problem
from .base import Alternating, Memory, Passes, Solver, State
from .hals import HALS
from .palm import PALM

__all__ = ["HALS", "PALM", "Alternating", "Memory", "Passes", "Solver", "State", "as_solver", "auto"]


def auto(problem: Problem) -> Alternating:
    """The solver for a problem: HALS, unless an operator couples components."""
    return PALM() if problem.prox_W.couples(1) or problem.prox_H.couples(0) else HALS()


def as_solver(spec: Any, problem: Problem) -> Alternating:
    """The solver that ``spec`` means: a Solver, its text form, or "auto". Raises ValueError if it cannot take the problem."""
    named = isinstance(spec, str)
    solver = auto(problem) if named and spec.strip().lower() == "auto" else Solver.parse(spec) if named else spec
    if not isinstance(solver, Alternating):
        hint = f"write {spec.__name__}()" if isinstance(spec, type) else "a Solver such as HALS(), its name, or 'auto'"
        raise TypeError(f"given {spec!r}, an alternating solver is needed: {hint}")
    solver.check(problem)
    return solver
