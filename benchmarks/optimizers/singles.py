"""Optimizers that run one start at a time: the package's own, scipy's, and the peers that can be imported.

Each evaluation of the loss counts as one gradient, whether its gradient is used or not.

auto         proxfactor.optim.PGM(params, proxs), no closure: backward, then step
auto-closure proxfactor.optim.ProxLBFGS(params, proxs) with a closure
lbfgs-softplus, lbfgs-square
             scipy's L-BFGS on the mapped parameters of ``grids``, restarted from its point until the gradients are spent
lbfgsb       scipy's L-BFGS-B where the sets are bounds (an L1 term as the difference of two non-negative parameters)
proxmin-pgm  proxmin.pgm without acceleration, with steps 1/L per block as in its own nmf: L is found by power iteration
             at every tenth point, and not counted
chop-pgd     chop.optim.minimize_pgd with its backtracking, all parameters as one vector

Where one of them stops before its gradients are spent, its point stays. L-BFGS records the best point so far, since what its
line search tries is no iterate; all others record the point where they are.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from grids import Map, Smooth, curved, smooth
from measure import Trace, curvature, gradient
from problems import ENTRYWISE, Problem, cost
from scipy.optimize import minimize
from torch import Tensor

from proxfactor.prox import L1, Box, NonNegative, Prox, Unconstrained
from proxfactor.prox import Smooth as SmoothPenalty

WITHOUT = ("torchvision", "torchvision.transforms", "torchvision.utils", "easydict", "tqdm", "tqdm.auto", "advertorch")


class Spent(Exception):
    """All gradients are used."""


@dataclass(frozen=True)
class Outcome:
    F: np.ndarray
    end: list[Tensor]
    said: str  # what it raised or warned, "" if nothing


@dataclass(frozen=True)
class Single:
    name: str
    one: Callable[[Problem, Sequence[Tensor], int], Outcome]
    applies: Callable[[Problem], bool]
    rates: tuple[float, ...] = ()
    most: int = 1000

    def run(self, problem: Problem, start: Sequence[Tensor], gradients: int) -> tuple[np.ndarray, list[Tensor], list[str]]:
        """F of (starts, 1, checkpoints), the last points, and what the runs said."""
        each = [self.one(problem, [x[i] for x in start], gradients) for i in range(len(start[0]))]
        F = np.stack([o.F for o in each])[:, None]
        return F, [torch.stack(x) for x in zip(*(o.end for o in each), strict=True)], [o.said for o in each]


# ── the package's own ─────────────────────────────────────────────────────────────────────────────────────────────────


def own(make: Callable, closure: bool, every: int = 100, still: float = 1e-13) -> Callable:
    """A run that ends where the optimizer stands still, or ``every`` gradients twice in a row change F by less than ``still``."""

    def one(problem: Problem, start: Sequence[Tensor], gradients: int) -> Outcome:
        params = [torch.nn.Parameter(x.clone()) for x in start]
        optimizer = make([{"params": [p], "prox": prox} for p, prox in zip(params, problem.proxs, strict=True)])
        trace, said, count = Trace(problem, gradients, params), "", 0
        before, check, quiet = np.inf, every, 0

        def evaluate() -> Tensor:
            nonlocal count
            optimizer.zero_grad()
            loss = problem.loss(params)
            loss.backward()
            count += 1
            return loss

        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            while count < gradients and not said:
                asked = count
                try:
                    if closure:
                        optimizer.step(evaluate)
                    else:
                        evaluate()
                        optimizer.step()
                except (RuntimeError, ValueError) as error:
                    said = str(error)
                trace.see(count, params)
                if count == asked:  # it knows the loss there and does not move any more
                    break
                if count >= check:
                    now, check = trace.value(), count + every
                    quiet = quiet + 1 if abs(before - now) <= still * abs(now) else 0
                    if quiet == 2:
                        break
                    before = now
        said = said or "; ".join(str(w.message) for w in heard)
        return Outcome(trace.close(), [p.detach() for p in params], said)

    return one


def ours() -> list[Single]:
    """The defaults under test, those of them that the package has."""
    from proxfactor import optim

    found = []
    for name, cls, closure in (("auto", "PGM", False), ("auto-closure", "ProxLBFGS", True)):
        try:
            getattr(optim, cls)([torch.nn.Parameter(torch.ones(1))], None)
        except (AttributeError, ValueError) as error:
            print(f"{name}: skipped, {error}")
        else:
            found.append(Single(name, own(partial(getattr(optim, cls), proxs=None), closure), lambda p: True))
    return found


# ── scipy ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def packed(params: Sequence[Tensor]) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in params]).numpy()


def unpacked(z: np.ndarray | Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    flat = torch.as_tensor(np.array(z)) if isinstance(z, np.ndarray) else z
    sizes = [s.numel() for s in shapes]
    return [v.reshape(s) for v, s in zip(flat.split(sizes), shapes, strict=True)]


def lbfgs_under(through: Smooth, problem: Problem, start: Sequence[Tensor], gradients: int, bounds: Any = None) -> Outcome:
    z0 = [v.squeeze(0) for v in through.back([x[None] for x in start])]
    shapes = [v.shape for v in z0]
    trace, best, count = Trace(problem, gradients, through.to(z0)), np.inf, 0
    point = packed(z0)

    def fun(z: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, point, count
        if count >= gradients:
            raise Spent
        params = unpacked(z, shapes)
        value, g = gradient(through, params)  # type: ignore[arg-type]
        count += 1
        if value.item() < best:
            best, point = value.item(), z.copy()
            trace.see(count, through.to(params))
        return value.item(), packed(g)

    said = ""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            while count < gradients:
                was = best
                minimize(fun, point, jac=True, method="L-BFGS-B", bounds=bounds,
                         options={"maxiter": 10**6, "maxfun": 10**6, "ftol": 0.0, "gtol": 0.0})  # fmt: skip
                if not best < was:
                    break
        except Spent:
            pass
    return Outcome(trace.close(), list(trace.params), said)


def lbfgs(kind: str) -> Single:
    def one(problem: Problem, start: Sequence[Tensor], gradients: int) -> Outcome:
        return lbfgs_under(smooth(problem, kind), problem, start, gradients)  # type: ignore[arg-type]

    def applies(problem: Problem) -> bool:
        return smooth(problem, kind) is not None and (kind == "softplus" or any(curved(p) for p in problem.proxs))

    return Single(f"lbfgs-{kind}", one, applies)


def bounded(prox: Prox, ndim: int) -> tuple[Map, tuple[float | None, float | None]] | None:
    """The map and bounds under which L-BFGS-B takes an operator, or None."""
    parts = getattr(prox, "parts", (prox,))
    sets = [p for p in parts if p.is_set and not isinstance(p, Unconstrained)]
    penalties = [p for p in parts if not p.is_set]
    signed = any(isinstance(p, NonNegative) for p in sets)
    if any(not isinstance(p, NonNegative | Box) for p in sets):
        return None
    if any(not isinstance(p, (*ENTRYWISE, SmoothPenalty)) for p in penalties):
        return None

    def whole(z: Tensor) -> Tensor:
        return sum(cost(p, z, ndim) for p in penalties)  # type: ignore[return-value]

    corner = any(isinstance(p, L1) for p in penalties) and not signed
    if corner and len(parts) == 1:
        lam = parts[0].lam

        def back(x: Tensor) -> Tensor:
            return torch.cat([x.clamp(min=0), (-x).clamp(min=0)], -1)

        def to(z: Tensor) -> Tensor:
            u, v = z.chunk(2, -1)
            return u - v

        return Map(to, back, lambda z: lam * z.sum(tuple(range(-ndim, 0)))), (0.0, None)
    if corner:
        return None
    limits = (0.0, None) if signed else next(((p.lo, p.hi) for p in sets if isinstance(p, Box)), (None, None))
    return Map(lambda z: z, lambda x: x, whole if penalties else None), limits


def lbfgsb() -> Single:
    def maps(problem: Problem) -> list:
        return [bounded(p, len(s)) for p, s in zip(problem.proxs, problem.shapes, strict=True)]

    def one(problem: Problem, start: Sequence[Tensor], gradients: int) -> Outcome:
        each = maps(problem)
        through = Smooth(problem, tuple(m for m, _ in each))
        z = through.back([x[None] for x in start])
        bounds = [limit for (_, limit), v in zip(each, z, strict=True) for _ in range(v.numel())]
        return lbfgs_under(through, problem, start, gradients, bounds)

    return Single("lbfgsb", one, lambda p: all(m is not None for m in maps(p)))


# ── peers ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def peer(name: str, without: Sequence[str] = ()) -> ModuleType | None:
    """A peer, or None with a printed line. ``without``: what it imports for data and plots only may be missing."""
    stood_in = [m for m in without if m not in sys.modules and importlib.util.find_spec(m.split(".")[0]) is None]
    sys.modules.update({m: MagicMock() for m in stood_in})
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: skipped, {error}; pip install --no-deps --target FOLDER proxmin chop-pytorch, and --peers FOLDER")
        return None
    finally:
        for m in stood_in:
            sys.modules.pop(m, None)


def proxmin_pgm(proxmin: ModuleType) -> Single:
    def one(problem: Problem, start: Sequence[Tensor], gradients: int) -> Outcome:
        X = [x.numpy().copy() for x in start]
        trace, count, lengths = Trace(problem, gradients, start), 0, None

        def tensors(X: Sequence[np.ndarray]) -> list[Tensor]:
            return [torch.as_tensor(x) for x in X]

        def grad(*X: np.ndarray) -> tuple[np.ndarray, ...]:
            nonlocal count
            count += 1
            return tuple(g.numpy() for g in gradient(problem, tensors(X))[1])

        def step(*X: np.ndarray, it: int) -> tuple[float, ...]:
            nonlocal lengths
            if it % 10 == 0:
                here = [x[None] for x in tensors(X)]
                lengths = tuple(1 / curvature(problem, here, j).item() for j in range(len(here)))
            return lengths  # type: ignore[return-value]

        def callback(*X: np.ndarray, it: int) -> None:
            if it:
                trace.see(count, tensors(X))
            if count >= gradients:
                raise StopIteration

        proxs = [lambda x, s, p=p: p(torch.as_tensor(x), float(s)).numpy() for p in problem.proxs]
        said = ""
        logging.getLogger("proxmin").setLevel(logging.ERROR)
        with np.errstate(all="ignore"):
            try:
                proxmin.pgm(X, grad, step, prox=proxs, e_rel=1e-15, max_iter=gradients + 1, callback=callback)
            except (ValueError, RuntimeError, FloatingPointError) as error:
                said = str(error)
        return Outcome(trace.close(), trace.params, said)

    return Single("proxmin-pgm", one, lambda p: True)


def chop_pgd(optim: ModuleType) -> Single:
    def one(problem: Problem, start: Sequence[Tensor], gradients: int) -> Outcome:
        shapes, count = [x.shape for x in start], 0
        trace = Trace(problem, gradients, start)

        def closure(x: Tensor, return_jac: bool = True) -> Any:
            nonlocal count
            if count >= gradients:
                raise Spent
            count += 1
            value, g = gradient(problem, unpacked(x.detach()[0], shapes))
            return (value[None], torch.cat([d.flatten() for d in g])[None]) if return_jac else value[None]

        def prox(x: Tensor, step: Tensor) -> Tensor:
            each = unpacked(x.detach()[0], shapes)
            return torch.cat([p(v, step.item()).flatten() for p, v in zip(problem.proxs, each, strict=True)])[None]

        said = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                optim.minimize_pgd(
                    closure, torch.cat([x.flatten() for x in start])[None], prox, step="backtracking", max_iter=gradients,
                    tol=0.0, callback=lambda now: trace.see(count, unpacked(now["x"].detach()[0], shapes)),
                )  # fmt: skip
            except Spent:
                pass
            except (ValueError, RuntimeError) as error:
                said = str(error)
        return Outcome(trace.close(), trace.params, said)

    return Single("chop-pgd", one, lambda p: True)


def peers() -> list[Single]:
    found = []
    if (proxmin := peer("proxmin")) is not None:
        found.append(proxmin_pgm(proxmin))
    if (chop := peer("chop.optim", WITHOUT)) is not None:
        found.append(chop_pgd(chop))
    return found


def singles() -> list[Single]:
    return [*ours(), lbfgs("softplus"), lbfgs("square"), lbfgsb(), *peers()]
