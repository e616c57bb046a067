"""Solvers: how a Problem is minimised. One file per method; ``auto`` chooses."""

from typing import Any

from ..problem import Problem
from ..streamed import Streamed
from .base import Alternating, Memory, Passes, Solver, State
from .extrapolated import Extrapolated
from .hals import HALS
from .palm import PALM

__all__ = ["HALS", "PALM", "Alternating", "Extrapolated", "Memory", "Passes", "Solver", "State", "as_solver", "auto"]


def auto(problem: Problem) -> Alternating:
    """The solver for a problem: HALS, extrapolated where the loss is quadratic; PALM where an operator couples components."""
    if problem.prox_W.couples(1) or problem.prox_H.couples(0):
        return PALM()
    ahead = problem.loss.quadratic and not problem.ties and _convex(problem) and not isinstance(problem, Streamed)
    return Extrapolated(HALS()) if ahead else HALS()


def _convex(problem: Problem) -> bool:
    return all(prox.convex and prox.exact for prox in (problem.prox_W, problem.prox_H))


def as_solver(spec: Any, problem: Problem) -> Alternating:
    """The solver that ``spec`` means: a Solver, its text form, or "auto". Raises ValueError if it cannot take the problem."""
    named = isinstance(spec, str)
    solver = auto(problem) if named and spec.strip().lower() == "auto" else Solver.parse(spec) if named else spec
    if not isinstance(solver, Alternating):
        hint = f"write {spec.__name__}()" if isinstance(spec, type) else "a Solver such as HALS(), its name, or 'auto'"
        raise TypeError(f"given {spec!r}, an alternating solver is needed: {hint}")
    solver.check(problem)
    return solver
