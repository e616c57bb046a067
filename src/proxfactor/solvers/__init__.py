"""Solvers: how a Problem is minimised. One file per method; ``auto`` chooses."""

from typing import Any

from ..losses import KL
from ..problem import Problem
from .base import Alternating, Memory, Passes, Solver, State
from .extrapolated import Extrapolated
from .hals import HALS
from .kl import KLNewton
from .mu import MU
from .palm import PALM

__all__ = ["HALS", "MU", "PALM", "Alternating", "Extrapolated", "KLNewton", "Memory", "Passes", "Solver", "State", "as_solver", "auto"]


def auto(problem: Problem) -> Alternating:
    """The solver for a problem: HALS, extrapolated if the loss is quadratic; KLNewton for KL; PALM for operators that couple components."""
    if isinstance(problem.loss, KL) and KLNewton.fits(problem):
        return KLNewton()
    if problem.prox_W.couples(1) or problem.prox_H.couples(0):
        return PALM()
    return Extrapolated(HALS()) if problem.loss.quadratic and not problem.ties and _convex(problem) else HALS()


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
