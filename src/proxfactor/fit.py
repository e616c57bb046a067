"""factorize(): the one loop around every solver, and Result: what came out."""

from __future__ import annotations

import dataclasses
import difflib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .chunked import Chunked
from .freed import Back, freed
from .inits import Range, range_of, resized, start
from .losses import Loss
from .matrix import Dense, LowRank, Matrix, Multiplied, Table, as_table, memory_for
from .problem import Problem
from .prox import Prox
from .solvers import APG, Alternating, Memory, Solver, as_solver
from .streamed import Streamed, problem_of
from .ties import as_ties

Row = dict[str, float]

HARDLY = 1e-9
"""Relative fall of the loss from look to look below which a fit without a certificate stands still."""

SMALL = 10_000_000
"""Multiplications of one product with X below which a fit runs on one thread."""


@dataclass(frozen=True)
class Progress:
    """What a callback is shown at each look: the latest row of the history, the limits, and the factors as they are now."""

    row: Row
    tol: float
    max_iter: int
    W: Tensor
    H: Tensor

    @property
    def certificate(self) -> float:
        return _worst(self.row)


def _worst(row: Row) -> float:
    """The larger certificate of the two factors, NaN where one of them has none."""
    w, h = row["certificate_W"], row["certificate_H"]
    return math.nan if math.isnan(w) or math.isnan(h) else max(w, h)


@dataclass(eq=False)
class Result:
    """The factors X ≈ W H with the story of the fit. W (m, k) and H (k, n) come in the form in which X was given.

    ``history`` has a row for each look at the fit: iteration, seconds, passes over X (a product with a thin matrix is one),
    loss, certificate_W, certificate_H (NaN where an operator is inexact). ``violation`` says how far outside its constraint
    each factor is, ``error`` is ‖X - WH‖ / ‖X‖ on the data, ``status`` says in words how the fit ended and what to do.
    """

    factors: tuple[Tensor, Tensor]
    loss: Loss
    prox_W: Prox
    prox_H: Prox
    solver: Solver
    history: list[Row]
    stopped: str
    status: str
    error: float
    violation: dict[str, float]
    settings: dict[str, Any]
    rows: np.ndarray | None = None
    cols: np.ndarray | None = None
    form: Any = "numpy"
    residual: dict[str, Any] | None = None
    image: tuple[int, int] | None = None
    problem: Problem | None = field(default=None, repr=False)

    @property
    def converged(self) -> bool:
        return self.stopped == "converged"

    @property
    def certificate(self) -> float:
        return _worst(self.history[-1])

    @property
    def iterations(self) -> int:
        return int(self.history[-1]["iteration"])

    @property
    def seconds(self) -> float:
        return self.history[-1]["seconds"]

    @cached_property
    def components(self) -> list[str]:
        """The names of the components, "1" to "k"."""
        return [str(q + 1) for q in range(self.factors[0].shape[1])]

    @cached_property
    def W(self) -> Any:
        return give_back(self.factors[0], self.form, self.rows, self.components)

    @cached_property
    def H(self) -> Any:
        return give_back(self.factors[1], self.form, self.components, self.cols)

    def predict(self, rows: Any = None, cols: Any = None) -> Any:
        """W H, the completed matrix, or the part of it with these rows and columns, by name (by number where there are none).

        Raises ValueError for a name that is not there.
        """
        W, H = self.factors
        at_row, at_col = numbers_of(rows, self.rows, len(W), "row"), numbers_of(cols, self.cols, H.shape[1], "column")
        pred = self.loss.take(at_row, 0).take(at_col, 1).mean(W[at_row] @ H[:, at_col])
        names = [None if names is None else names[at] for names, at in ((self.rows, at_row), (self.cols, at_col))]
        return give_back(pred, self.form, *names)

    @torch.no_grad()
    def transform(self, X: Any, weight: Any = None) -> Any:
        """W for other rows of data, (rows, k): the minimiser for the fixed H, computed as at the end of the fit.

        Columns are aligned by name where both have names. Raises ValueError for missing or unknown columns. For the X of
        the fit it gives W to rounding, unless the constraint on W is not convex.
        """
        table = as_table(X, weight).with_columns(self.cols)
        H = self.factors[1]
        if table.matrix.shape[1] != H.shape[1]:
            raise ValueError(f"X has {table.matrix.shape[1]} columns, the fit had {H.shape[1]}; give the same columns")
        problem = problem_of(table.matrix.to(H.device, H.dtype), self.loss, self.prox_W, self.prox_H)
        problem.prox_W.check((table.matrix.shape[0], len(H)), "W")
        power = _power(problem)
        _, H = _cone_times(problem, (H[:, :0], H), 2.0**-power)
        divided, tol = _divided(problem, power), self.settings.get("tol", 1e-5)
        with _threads(problem, len(H)):
            W = best_rows(divided, as_solver(self.solver, problem), H.mT, tol)
            if not bool(divided.value(W, H).isfinite()):
                way = "the fit's own W is in result.W; a constraint that keeps H positive helps"
                raise ValueError(f"no W was found for which {self.loss!r} is finite with this H; {way}")
            if (left := divided.stationarity(W, H.mT).item()) > 10 * tol:
                warnings.warn(f"W is not settled: certificate {left:.2g}, tol is {tol:g}", stacklevel=2)
        return give_back(_cone_times(problem, (W, H), 2.0**power)[0], table.form, table.rows, self.components)

    def parts(self, X: Any = None) -> Iterator[Any]:
        """Component k's share of each cell that is data, X ∘ (w_k h_k) / (W H), for k = 1, 2, …; they add up to X.

        One at a time, so that memory holds one: a matrix in the form in which X was given, with NaN in its holes; where X is
        sparse, or mostly holes, a sparse one (SciPy's, or torch's) of the same cells. X defaults to the data of the fit. Where W H
        is 0 each component has the same share. Raises ValueError where a factor has entries below zero.

        >>> result = factorize([[1.0, 2.0], [2.0, 5.0]], 2, W="nonneg", H="nonneg")
        >>> sum(result.parts()).round(6)
        array([[1., 2.],
               [2., 5.]])
        """
        if X is not None:
            table = as_table(X).with_columns(self.cols)
        elif self.problem is not None:
            table = Table(self.problem.X, self.rows, self.cols, self.form)
        else:
            raise ValueError("this result was loaded without its data; give it, as result.parts(X)")
        W, H = self.factors
        M = table.matrix.to(W.device, W.dtype)
        if M.shape != (len(W), H.shape[1]):
            raise ValueError(f"X is {M.shape[0]} x {M.shape[1]}, W H is {len(W)} x {H.shape[1]}; give the data of the fit")
        for name, F in (("W", W), ("H", H)):
            if bool((F < 0).any()):
                raise ValueError(
                    f"{name} has entries down to {F.min().item():.3g}, and shares of a sum are for numbers that are not negative; "
                    'fit with W="nonneg", H="nonneg"'
                )
        return self._shares(table, M)

    def _shares(self, table: Table, M: Matrix) -> Iterator[Any]:
        (W, H), k = self.factors, len(self.components)
        W, H = (F / torch.where(F.amax() > 0, F.amax(), 1.0) for F in (W, H))  # so that no product is lost to underflow
        x, pred = M.entries(), M.predict(W, H.mT)
        if M.weight is not None:
            x = x.masked_fill(M.weight == 0, torch.nan)
        for q in range(k):
            share = torch.where(pred > 0, M.predict(W[:, q : q + 1], H[q : q + 1].mT) / pred, 1 / k)
            plain = M.like(share * x).plain(table.form)
            yield give_back(plain, table.form, table.rows, table.cols) if isinstance(plain, Tensor) else plain

    def __repr__(self) -> str:
        (m, k), n = self.factors[0].shape, self.factors[1].shape[1]
        return f"Result({m} x {n}, rank {k}, error {self.error:.4g}: {self.status})"


@torch.no_grad()
def factorize(
    X: Any,
    rank: int | None = None,
    *,
    W: Any = None,
    H: Any = None,
    loss: Loss | str | None = None,
    weight: Any = None,
    ties: Any = None,
    init: Any = "auto",
    solver: Solver | str = "auto",
    max_iter: int = 10_000,
    tol: float = 1e-5,
    seed: int = 0,
    callback: Callable[[Progress], Any] | None = None,
) -> Result:
    """minimise over W (m, rank), H (rank, n):  Σ loss(X, W H) + g(W) + h(H), with no learning rate to set.

    Args:
        X: (m, n) data: an array, a torch tensor, a sparse matrix (its zeros are data), a data frame, ``Observed`` (only
            what is stored is data), or a Problem, which has constraints, loss and weights of its own. NaN is no data.
        rank: the number of components.
        W, H: the constraints: operators, their text ("nonneg + l1(0.1)"), plain functions, or None.
        loss: "frobenius" (the default), "kl", or a Loss.
        weight: a number for each cell of X, not negative; 0 means no data.
        ties: terms that no prox says (``MinVolume``, ``Orthogonal``, ``GraphLaplacian``, ``Symmetric``, ``ARD``): a Tie, its
            text, or several.
        init: "auto", "nnsvd", "random", "svd", "spa", "vca" or "kmeans++" (see ``inits.start``), a pair (W, H) with None or NaN for
            what is not known, or a Result to go on from, of this rank or another.
        solver: "auto", "hals", "apg", "admm", "palm", or a Solver.
        max_iter: the most sweeps over both factors.
        tol: the certificate (``Problem.certificate``) at which the fit has converged.
        seed: of what is drawn: the same seed gives the same result. Restarts take init="random" and other seeds.
        callback: called with a ``Progress`` at each look at the fit; returning True stops it.

    Returns a Result. Converged means a certificate at or below tol; a fit that ends otherwise says so in ``status``.
    Ctrl-C ends the fit with what there is. Where one factor has a cone constraint, both have no penalty, and the loss is
    homogeneous, X is divided by a power of two inside, so that its scale cannot matter. Raises ValueError or TypeError for
    input that cannot be fitted.

    >>> result = factorize([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]], 1, W="nonneg", H="nonneg")
    >>> result.converged, round(result.error, 6)
    (True, 0.0)
    """
    began = time.perf_counter()
    table, problem = _door(X, W, H, loss, weight, ties)
    rank = _rank(rank, init)
    notes = _fits(problem, rank)
    _limits(max_iter, tol, seed)
    how = as_solver(solver, problem)
    power = _power(problem)
    scaled = _divided(problem, power)
    free, back = freed(scaled) if not isinstance(scaled, Streamed) else (scaled, lambda W, H: (W, H))
    first = _cone_times(scaled, init.factors if isinstance(init, Result) else init, 2.0**-power)
    first = _with_rank(scaled, first, rank, seed) if isinstance(init, Result) else first
    how_free = as_solver(solver, free)
    pair = None if isinstance(init, Result) or not _large(free, rank) else range_of(_light(free), rank + 10, seed)
    exact = None if pair is None else (pair[0].to(free.X.dtype), pair[1].to(free.X.dtype))
    W0, H0 = start(free if isinstance(init, str) else scaled, rank, first, seed, exact)
    if pair is not None:
        W0, H0 = _begun_small(free, pair, how_free, W0, H0)
    settings = {
        "rank": rank,
        "seed": seed,
        "init": init if isinstance(init, str) else "result" if isinstance(init, Result) else "given",
        "tol": tol,
        "max_iter": max_iter,
        "dtype": str(problem.X.dtype).removeprefix("torch."),
        "shape": list(problem.X.shape),
    }
    loop = _Loop(scaled, power, how, max_iter, tol, callback, (free, back, how_free), began)
    with _threads(problem, rank):
        loop.run(W0, H0)
    W1, H1 = loop.factors()
    return Result(
        factors=(W1, H1.contiguous()),
        loss=problem.loss,
        prox_W=problem.prox_W,
        prox_H=problem.prox_H,
        solver=how,
        history=loop.history,
        stopped=loop.stopped,
        status=" ".join([_status(loop, problem), *notes, *filter(None, (t.note(W1, H1) for t in problem.ties))]),
        error=scaled.relative_error(*loop.iterate()),
        violation={"W": problem.prox_W.violation(W1).amax().item(), "H": problem.prox_H.violation(H1).amax().item()},
        settings=settings,
        rows=table.rows,
        cols=table.cols,
        form=table.form,
        problem=problem,
    )


# ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _large(problem: Problem, rank: int) -> bool:
    """Whether sweeps over a range of X cost a tenth of those over X: then a fit starts there."""
    alone = problem.rows.size == problem.cols.size == 1
    if not (problem.loss.quadratic and problem.shared and alone) or problem.ties or isinstance(problem, Streamed):
        return False
    return 10 * (rank + 10) * sum(problem.X.shape) <= problem.X.stored


def _light(problem: Problem) -> Problem:
    """The problem in float32, if it fits there: to begin takes no more digits, and half of the time."""
    X = problem.X
    fits = 1e-12 < problem.size / (X.shape[0] * X.shape[1]) < 1e12
    return problem.changed(X=X.to(dtype=torch.float32)) if isinstance(X, Dense) and fits else problem


def _begun_small(problem: Problem, pair: Range, solver: Alternating, W: Tensor, H: Tensor) -> tuple[Tensor, Tensor]:
    """Sweeps over Q B, the range of X, until they hardly help; W, H as given where they have fitted X about as well.

    What Q B leaves out of X is in the value all the same, so that the fall is judged as that of the whole. (Compression: Tepper
    and Sapiro 2016.)
    """
    small = dataclasses.replace(problem, X=LowRank(*pair))
    rest = (problem.size - small.size) / 2
    rounding = problem.size * torch.finfo(pair[0].dtype).eps
    solver = solver.brief()
    state = solver.init(small, W.to(pair[0]), H.to(pair[0]))
    first = before = small.quick_value(state.W, state.H) + rest
    for _ in range(50):
        for _ in range(4):
            state = solver.step(small, state)
        now = small.quick_value(state.W, state.H) + rest
        if bool(before - now < 1e-4 * now + rounding):
            break
        before = now
    return (state.W.to(W), state.H.to(H)) if bool(first - now > 0.01 * now) else (W, H)


class _Loop:
    """Sweeps until the certificate, the limit, a standstill, the callback or Ctrl-C ends them; a look every tenth more sweeps."""

    def __init__(
        self,
        problem: Problem,
        power: int,
        solver: Alternating,
        max_iter: int,
        tol: float,
        callback: Callable | None,
        sweeps: tuple[Problem, Back, Alternating],
        began: float,
    ):
        """``problem`` is the one whose X was divided by 2^power; history and factors are told in the caller's units.

        ``sweeps`` are the problem that is swept over (see ``freed``), the way back from it, and its solver.
        """
        self.free, self.back, self.sweeper = sweeps
        self.problem, self.power = problem, power
        self.solver, self.max_iter, self.tol, self.callback = solver, max_iter, tol, callback
        self.history: list[Row] = []
        self.stopped = ""
        self.revived = 0
        self.began = began

    def run(self, W: Tensor, H: Tensor) -> None:
        self.state = self.sweeper.init(self.free, W, H)
        try:
            self._sweeps()
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        if self.stopped != "converged":
            try:
                self._finish()
            except KeyboardInterrupt:  # a second one: the iterate as it is
                self.stopped = "interrupted"
                self.history = [row for row in self.history if row["iteration"] < self.state.sweep]
                self._look()

    def _sweeps(self) -> None:
        still, best = 0, (math.inf, math.inf)
        look = max(1, self.problem.gap // 2)  # where a look costs as much as sweeps, the first sweep is not worth one
        while not self.stopped:
            self.state = self.sweeper.step(self.free, self.state)
            at = self.state.sweep
            if at < look and at < self.max_iter:
                continue
            row = self._look()
            certificate = _worst(row)
            look = at + max(self.problem.gap, at // (50 if certificate <= 3 * self.tol else 10))
            if certificate <= self.tol and not self._revive():
                self._finish()
            elif self.callback and self.callback(self._progress()):
                self.stopped = "callback"
            least = 1e-3 * torch.finfo(self.problem.X.dtype).eps if certificate == certificate else HARDLY
            moved = self.loss < best[0] - least * abs(best[0]) or certificate < best[1]
            best = min(best[0], self.loss), min(best[1], certificate if certificate == certificate else math.inf)
            still = 0 if moved else still + 1
            if not self.stopped:
                patience = 5 if self.problem.loss.smooth else 25  # a residual rises and falls on its way
                self.stopped = "stalled" if still >= patience else "max_iter" if at >= self.max_iter else ""

    def _revive(self) -> bool:
        """Give components that vanished the worst fitted rows of X as their h, with w = 0, which changes no value.

        It is done where both constraints are sets that leave a component alone, a few times in a fit: HALS on W then takes what
        of them helps, and what does not vanishes again. Returns whether there was one.
        """
        W, H, p = self.state.W, self.state.H, self.free
        sets = p.prox_W.is_set and p.prox_W.cone and p.prox_H.is_set and not p.prox_W.couples(1) and not p.prox_H.couples(0)
        spread = p.rows.size > 1 or p.cols.size > 1
        if not sets or spread or p.ties or self.revived >= 3 or isinstance(p, Streamed):
            return False
        dead = ((W == 0).all(0) | (H == 0).all(1)).nonzero()[:, 0]
        if not len(dead):
            return False
        self.revived += 1
        losses = p.row_losses(W, H.mT)
        worst = losses.argsort(descending=True, stable=True)[: len(dead)]
        dead = dead[: len(worst)]
        X = p.X.take(worst)
        left = X.like(X.entries() - X.predict(W[worst], H.mT))
        rows = left.T @ torch.eye(len(worst), dtype=W.dtype, device=W.device)
        seeds = p.prox_H.take(dead, 0)(rows.mT.contiguous(), 0.0)
        if not bool((seeds != 0).any()):
            return False
        W, H = W.clone(), H.clone()
        W[:, dead], H[dead] = 0.0, seeds
        self.state = self.sweeper.at(self.state, W, H)
        return True

    def _finish(self) -> None:
        """Put W as transform gives it in the place of the iterate, if that is no worse, and judge that point.

        Where the constraint on W is convex, a W that is no less settled is no worse: its value differs by as little.
        """
        state, (before_W, H), prox = self.state, self.iterate(), self.problem.prox_W
        W = best_rows(self.problem, self.solver, H.mT, self.tol)
        value, before = self.problem.value(W, H), self.problem.value(before_W, H)
        good = value <= before
        if prox.convex and prox.exact and all(tie.on == "H" for tie in self.problem.ties):
            left, was = (self.problem.stationarity(A, H.mT) for A in (W, before_W))
            good = good | value.isfinite() & (left <= was.clamp(min=10 * self.tol))
        if bool(good):
            self.state = self.sweeper.at(state, W, H)
        if self.history and self.history[-1]["iteration"] == state.sweep:
            self.history.pop()
        row = self._look()
        if _worst(row) <= self.tol:
            self.stopped = "converged"
        if self.callback:
            self.callback(self._progress())

    def _look(self) -> Row:
        W, H = self.iterate()
        if isinstance(self.problem, Streamed):
            self.sweeper.look(self.free, self.state)  # in the read of the next sweep; what it has told is then known
        loss, here = self.problem.value(W, H, inside=True), dataclasses.replace(self.state, W=W, H=H)
        w, h = self.problem.certificate(W, H) if self.problem.loss.smooth else self.solver.residual(self.problem, here)
        self.loss, w, h = torch.stack([loss, w, h]).tolist()
        if not math.isfinite(self.loss):
            raise ArithmeticError(
                f"the objective became {self.loss} at iteration {self.state.sweep}; scale the data (values near 1 are best), "
                "use float64, or start elsewhere with init=(W, H)"
            )
        row = {
            "iteration": self.state.sweep,
            "seconds": time.perf_counter() - self.began,
            "passes": self.problem.passes,
            "loss": self.loss * _unit(self.problem.loss, self.power),
            "certificate_W": w,
            "certificate_H": h,
        }
        self.history.append(row)
        return row

    def _progress(self) -> Progress:
        W, H = self.factors()
        return Progress(self.history[-1], self.tol, self.max_iter, W.clone(), H.clone())  # theirs to write to

    def iterate(self) -> tuple[Tensor, Tensor]:
        return self.back(self.state.W, self.state.H)

    def factors(self) -> tuple[Tensor, Tensor]:
        return _cone_times(self.problem, self.iterate(), 2.0**self.power)


@contextmanager
def _threads(problem: Problem, rank: int) -> Iterator[None]:
    """One thread where a product with X is too small to share: to wait for the others would cost more than they save."""
    before = torch.get_num_threads()
    in_memory = not isinstance(problem.X, Chunked)
    small = in_memory and problem.X.device.type == "cpu" and problem.X.stored * rank < SMALL
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_rows(problem: Problem, solver: Alternating, B: Tensor, tol: float) -> Tensor:
    """The minimising A (m, k) for the fixed B (n, k), from a start that X and B alone decide, to half of tol."""
    B, memory = B.mT.contiguous().mT, Memory()  # component first, as solvers leave it
    if isinstance(problem, Streamed):
        return problem.closed(B, lambda _, part: best_rows(part, solver, B, tol))
    later: Alternating = solver
    if problem.loss.quadratic:  # many passes on one model, which needs one product with X
        settles = problem.prox_W.convex and problem.prox_W.exact
        solver = solver.patient()
        later = APG(inner=50) if settles else solver  # where many A fit about as well single components take for ever
    A = _first_rows(problem, B)
    best, since, look = math.inf, 0, 1
    for at in range(1, 201):
        A = solver.half(problem, A, B, memory)
        if at < look:
            continue
        look = at + max(problem.gap, at // 5)
        left = problem.stationarity(A, B).item()  # NaN where there is no certificate: then patience alone ends it
        best, since = (left, 0) if left < best else (best, since + 1)
        if left <= tol / 2 or since >= 5:
            break
        if since >= 2 or at >= 10:
            solver = later
    return A


def _first_rows(problem: Problem, B: Tensor) -> Tensor:
    """The minimiser of the penalty nearest 0; where predictions must be positive, equal components that predict each row's sum."""
    X, prox = problem.X, problem.prox_W
    zero = torch.zeros(X.shape[0], B.shape[1], dtype=B.dtype, device=B.device)
    if problem.loss.real:
        return prox.rest(zero)
    ones = torch.ones_like(zero)
    sums = []
    for r, part in problem._pieces:
        M = part.X
        w = torch.ones_like(M.entries()) if M.weight is None else M.weight
        pred = M.sums((w - M.background) * M.predict(ones[r], B)) + M.background * B.sum()
        sums.append((M.sums(w * part.targets), pred))
    data, pred = (torch.cat(part) for part in zip(*sums, strict=True))
    data, pred = problem.cols.sum(data, pred)
    A = prox(torch.where(pred > 0, data / pred, 0.0)[:, None].expand_as(ones).clone(), 0.0)
    (loss,) = problem.rows.sum(problem.row_losses(A, B).sum())
    return A if bool(loss.isfinite()) else (A + prox.rest(zero)) / 2  # a constraint may have put a 0 where there is data


# ── the door ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _door(X: Any, W: Any, H: Any, loss: Any, weight: Any, ties: Any) -> tuple[Table, Problem]:
    if isinstance(X, Problem):
        if any(given is not None for given in (W, H, weight, loss, ties)):
            raise ValueError(
                "X is a Problem, which has constraints, loss and weights of its own; give them there, or give the data as X"
            )
        return X.table, X
    table = as_table(X, weight)
    return table, problem_of(table, "frobenius" if loss is None else loss, W, H, as_ties(ties))


def _rank(rank: int | None, init: Any) -> int:
    if rank is None and isinstance(init, Result):
        return init.factors[0].shape[1]
    if rank is None and isinstance(init, tuple | list) and len(init) == 2:
        W, H = init
        return int(np.shape(W)[1] if W is not None else np.shape(H)[0])
    if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or rank < 1:
        raise ValueError(f"rank is {rank!r}; it is the number of components, a whole number of at least 1")
    return int(rank)


def _limits(max_iter: int, tol: float, seed: int) -> None:
    for name, value, low in (("max_iter", max_iter, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value < 2**63:
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {low}, below 2**63")
    if isinstance(tol, bool) or not isinstance(tol, int | float | np.number) or not 0 < tol < 1:
        raise ValueError(f"tol is {tol!r}; it is the certificate to reach, between 0 and 1, e.g. 1e-5")


def _fits(problem: Problem, rank: int) -> list[str]:
    """Raise if an operator does not fit its factor; return what a user should know about the problem."""
    m, n = problem.X.shape
    if problem.X.device.type == "cpu":
        memory_for(m + n, 4 * rank, problem.X.dtype.itemsize, "the work space for the factors", "choose a smaller rank")
    problem.prox_W.check((m, rank), "W")
    problem.prox_H.check((rank, n), "H")
    notes = []
    if rank > m and rank > n and problem.rows.size == problem.cols.size == 1:
        notes.append(f"Rank {rank} is above both sides of X ({m} x {n}): components beyond {min(m, n)} add nothing.")
    for name, prox, other in (("W", problem.prox_W, problem.prox_H), ("H", problem.prox_H, problem.prox_W)):
        free = "H" if name == "W" else "W"
        if not prox.attained:
            notes.append(f"{prox!r} on {name} has no minimiser: bound {name}, e.g. by + box(0, 10), or by + ridge(0.1).")
        elif not prox.is_set and prox.cone and other.is_set and other.cone and _least_at_zero(problem, name, rank):
            notes.append(
                f"{prox!r} on {name} alone can be lowered by moving scale into {free}; bound {free}, e.g. by box(0, 1) or simplex."
            )
    for tie in problem.ties:
        tie.check(problem, rank)
        own, other, grows = (problem.prox_W, problem.prox_H, "H") if tie.on == "W" else (problem.prox_H, problem.prox_W, "W")
        if tie.on != "both" and own.cone and other.cone:
            notes.append(f"{tie!r} can be lowered by moving scale into {grows}; bound {grows}, e.g. by box(0, 1) or simplex.")
    for note in notes:
        warnings.warn(note, stacklevel=4)
    if not problem.loss.smooth:
        notes.append(f"{problem.loss!r} has kinks: the certificate is the solver's primal-dual residual.")
    notes += [f"{tie!r} is no part of transform." for tie in problem.ties if tie.on != "H"]
    for name, prox in (("W", problem.prox_W), ("H", problem.prox_H)):
        if not prox.exact:
            nothing = "minimises nothing known: no certificate, its own term counts 0, and transform may differ"
            why = "is solved by rounds, to a tolerance: no certificate" if len(prox.terms) > 1 else nothing
            notes.append(f"{prox!r} on {name} {why}.")
        elif not prox.convex:
            notes.append(
                f"{prox!r} on {name} is not convex: the certificate holds for a step of 1 / curvature, and transform may differ."
            )
    return notes


def _power(problem: Problem) -> int:
    """e such that X / 2^e has entries near 1, where its scale cannot matter; else 0."""
    sets = problem.prox_W.is_set and problem.prox_H.is_set and (problem.prox_W.cone or problem.prox_H.cone)
    exact = problem.prox_W.exact and problem.prox_H.exact
    if problem.loss.degree is None or not sets or not exact or problem.ties:
        return 0
    X = problem.X
    x = torch.tensor([X.low, X.high], dtype=X.dtype, device=X.device) if isinstance(X, Chunked) else X.entries()
    low, high = torch.aminmax(x if x.numel() else x.new_zeros(1))
    largest = problem.cols.max(problem.rows.max(torch.maximum(-low, high))).item()
    return min(max(math.frexp(largest)[1], -1000), 1000)  # frexp(0) has the power 0


def _unit(loss: Loss, power: int) -> float:
    """What one unit of the loss of X / 2^power is worth in the loss of X."""
    try:
        return 2.0 ** (power * (loss.degree or 0.0))
    except OverflowError:
        return math.inf


def _divided(problem: Problem, power: int) -> Problem:
    if power == 0:
        return problem
    X, factor = problem.X, 2.0**-power
    if isinstance(X, Dense) and X.weight is None and problem.loss.quadratic and abs(power) <= 64:  # only products are asked of it
        return dataclasses.replace(problem, X=Multiplied(X, factor))
    return dataclasses.replace(problem, X=X.scaled(factor))


def _cone_times(problem: Problem, pair: Any, factor: float) -> Any:
    """The pair (W, H) with the factor whose constraint is a cone multiplied; anything else as it is."""
    if factor == 1.0 or isinstance(pair, str) or not isinstance(pair, tuple | list) or len(pair) != 2:
        return pair
    W, H = (F if F is None or hasattr(F, "shape") else np.asarray(F) for F in pair)
    if problem.prox_W.cone:
        return (None if W is None else W * factor), H
    return W, (None if H is None else H * factor)


def _with_rank(problem: Problem, pair: tuple[Tensor, Tensor], rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """The factors of a Result with ``rank`` components, where they are of this data."""
    W, H = (F.to(problem.X.device, problem.X.dtype) for F in pair)
    fits = (len(W), H.shape[1]) == tuple(problem.X.shape)
    return resized(problem, W, H, rank, seed) if fits else (W, H)


# ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _least_at_zero(problem: Problem, name: str, rank: int) -> bool:
    """Whether the penalty on that factor is least where it vanishes."""
    side = problem if name == "W" else problem.T
    return not bool(side.prox_W.rest(torch.zeros(side.X.shape[0], rank, dtype=side.X.dtype, device=side.X.device)).any())


def _status(loop: _Loop, problem: Problem) -> str:
    row, n = loop.history[-1], loop.state.sweep
    worst = _worst(row)
    digits = 2 if worst <= loop.tol or float(f"{worst:.2g}") > loop.tol else 4
    has = f"certificate {worst:.{digits}g}" if worst == worst else "no certificate"
    kind = str(problem.X.dtype).removeprefix("torch.")
    if loop.stopped == "converged":
        return f"Converged after {n} iterations: {has}, at or below tol {loop.tol:g}."
    if loop.stopped == "max_iter":
        way = "go on with init=result, or raise max_iter or tol"
        return f"Not converged: {has}, above tol {loop.tol:g}, after max_iter = {n} iterations; {way}."
    if loop.stopped == "interrupted":
        return f"Interrupted after {n} iterations: {has}, tol is {loop.tol:g}; go on with init=result."
    if loop.stopped == "callback":
        return f"Stopped by the callback after {n} iterations: {has}, tol is {loop.tol:g}."
    if worst != worst:
        return f"Stopped after {n} iterations: the loss falls by less than {HARDLY:g} of itself, and no certificate can be given."
    if not problem.loss.smooth:
        way = "go on with init=result, or raise tol"
        return f"Stopped after {n} iterations: {has}, above tol {loop.tol:g}, falls no further; {way}."
    way = "raise tol, or use float64" if kind != "float64" else "raise tol"
    rest = f"{has}, above tol {loop.tol:g}: rounding is the limit; {way}."
    return f"Stopped after {n} iterations: the loss no longer moves in {kind}; {rest}"


# ── names and forms ───────────────────────────────────────────────────────────────────────────────────────────────────


def give_back(F: Tensor, form: Any, rows: Any, cols: Any) -> Any:
    """A matrix in the caller's form: a torch tensor, a NumPy array, or a data frame with the names that it has."""
    if form == "torch":
        return F
    array = F.detach().cpu().numpy()
    if form == "numpy":
        return array
    cols = [str(j) for j in range(array.shape[1])] if cols is None else cols
    if form.__name__ == "pandas":
        return form.DataFrame(array, index=None if rows is None else list(rows), columns=list(cols))
    import narwhals as nw

    named = {str(name): np.ascontiguousarray(array[:, j]) for j, name in enumerate(cols)}
    return nw.from_dict(named, backend=form).to_native()


def numbers_of(asked: Any, names: np.ndarray | None, count: int, what: str) -> Tensor:
    """The positions of the names asked for (None: all); numbers count from 0 where there are no names."""
    if asked is None:
        return torch.arange(count)
    asked = [asked] if isinstance(asked, str | int | np.integer) else list(asked)
    known = {str(n): i for i, n in enumerate(range(count) if names is None else names)}
    odd = [a for a in asked if str(a) not in known]
    if odd:
        near = difflib.get_close_matches(str(odd[0]), known, n=3, cutoff=0.5) or list(known)[:3]
        way = f"they are numbered 0 to {count - 1}" if names is None else f"there are {', '.join(map(repr, near))}, …"
        raise ValueError(f"there is no {what} {odd[0]!r}; {way}")
    return torch.tensor([known[str(a)] for a in asked], dtype=torch.int64)
