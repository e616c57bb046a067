"""Solvers: how a Problem is minimised. One file per method; ``auto`` chooses."""

from ..problem import Problem
from .base import Alternating, Memory, Solver, State
from .hals import HALS
from .palm import PALM

__all__ = ["HALS", "PALM", "Alternating", "Memory", "Solver", "State", "as_solver", "auto"]


def auto(problem: Problem) -> Solver:
    """The solver for a problem: HALS, unless an operator couples components."""
    return PALM() if problem.prox_W.couples(1) or problem.prox_H.couples(0) else HALS()


def as_solver(spec: Solver | str, problem: Problem) -> Solver:
    """The solver that ``spec`` means: a Solver, its text form, or "auto". Raises ValueError if it cannot take the problem."""
    if isinstance(spec, str):
        solver = auto(problem) if spec.strip().lower() == "auto" else Solver.parse(spec)
    elif isinstance(spec, Solver):
        solver = spec
    else:
        raise TypeError(f"given {spec!r}, a solver is needed: a Solver such as HALS(), its name, or 'auto'")
    solver.check(problem)
    return solver
