"""Solvers: how a Problem is minimised. One file per method; ``auto`` chooses."""

from typing import Any

from ..losses import KL
from ..problem import Problem
from ..streamed import Streamed
from .admm import ADMM
from .als import ALS
from .apg import APG
from .base import Alternating, Memory, Passes, Solver, State
from .extrapolated import Extrapolated
from .hals import HALS
from .kl import KLNewton
from .mu import MU
from .palm import PALM
from .residual import LossADMM

# fmt: off
__all__ = [
    "ADMM", "ALS", "APG", "HALS", "MU", "PALM", "Alternating", "Extrapolated", "KLNewton", "LossADMM", "Memory", "Passes", "Solver",
    "State", "as_solver", "auto",
]
# fmt: on


def auto(problem: Problem) -> Alternating:
    """The solver for a problem.

    LossADMM for a loss with kinks, KLNewton for KL where it knows the constraints, ADMM for a sum without an exact rule, APG
    where an operator couples components, PALM if it does so and is not convex, HALS elsewhere; APG and HALS are extrapolated
    where the loss is quadratic.
    """
    if not problem.loss.smooth:
        return LossADMM()
    if isinstance(problem.loss, KL) and not isinstance(problem, Streamed) and KLNewton.fits(problem):
        return KLNewton()
    sides = problem.prox_W, problem.prox_H
    convex = all(prox.convex and prox.exact for prox in sides)
    if any(len(prox.terms) > 1 for prox in sides):
        return ADMM()
    coupled = problem.prox_W.couples(1) or problem.prox_H.couples(0)
    if coupled and not convex:
        return PALM()
    solver = APG() if coupled else HALS()
    ahead = convex and problem.loss.quadratic and not problem.ties and not isinstance(problem, Streamed)
    return Extrapolated(solver) if ahead else solver


def as_solver(spec: Any, problem: Problem) -> Alternating:
    """The solver that ``spec`` means: a Solver, its text form, or "auto". Raises ValueError if it cannot take the problem."""
    named = isinstance(spec, str)
    solver = auto(problem) if named and spec.strip().lower() == "auto" else Solver.parse(spec) if named else spec
    if not isinstance(solver, Alternating):
        hint = f"write {spec.__name__}()" if isinstance(spec, type) else "a Solver such as HALS(), its name, or 'auto'"
        raise TypeError(f"given {spec!r}, an alternating solver is needed: {hint}")
    if not problem.loss.smooth and not solver.kinks:
        way = "use solver='auto', or a smooth loss: huber(0.1)"
        raise ValueError(f"{problem.loss!r} has kinks, which {solver!r} does not take; {way}")
    solver.check(problem)
    return solver
