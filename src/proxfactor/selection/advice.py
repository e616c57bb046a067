"""advise(): which loss, which constraint and how many components, or that there is nothing to find, in one sentence."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..losses import KL, Frobenius, Loss, as_loss
from ..matrix import Matrix, Table, as_table
from ..problem import Problem
from ..prox import as_prox
from .holdout import HoldOut, margins
from .scan import Row, _problem, _whole, one_se
from .work import Job, Plan, Progress, Work, check_workers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SURE = 2.0
"""Standard errors by which a factorization must beat the means before there is said to be structure."""

FIRST = 2
"""Hidden sets on which every candidate is tried."""

SHARES = ("simplex(dim=1)", "nonneg"), ("nonneg", "nonneg"), (None, None)
SIGNED = ("simplex(dim=1)", None), ("nonneg", None), (None, None)


@dataclass(eq=False)
class Advice:
    """What ``advise`` found: one ``sentence``, the ``options`` for factorize (None: no structure), and the table behind it.

    A row of the table is a candidate: model, loss, W, H, rank (0: means only), error, the unexplained share of the variation
    of hidden cells under the yardstick; excess over the lowest, se its standard error, fits, how many hidden sets it was
    tried on: only candidates with all of them compete. ``best`` is the advised row, ``left_out`` says why a loss or constraint
    was not tried.
    """

    table: list[Row]
    best: Row
    sentence: str
    options: dict[str, Any] | None
    yardstick: Loss
    complete: bool
    left_out: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Advice: {self.sentence}"

    def frame(self, backend: Any = "pandas") -> Any:
        """The table as a data frame of that library."""
        import narwhals as nw

        columns = {key: [row[key] for row in self.table] for key in self.table[0]}
        return nw.from_dict(columns, backend=backend).to_native()

    def plot(self, ax: Axes | None = None) -> Axes:
        """The error of hidden cells over the ranks, a line for each loss and constraint; without ``ax`` in a new figure."""
        from . import pictures

        return pictures.plot_advice(self, ax)


def advise(
    X: Any,
    *,
    weight: Any = None,
    losses: Sequence[Loss | str] | None = None,
    constraints: Sequence[tuple[Any, Any]] | None = None,
    max_rank: int | None = None,
    yardstick: Loss | str | None = None,
    restarts: int = 4,
    fraction: float = 0.1,
    max_fits: int = 60,
    seed: int = 0,
    tol: float = 1e-3,
    max_iter: int = 100,
    workers: int = 1,
    out: str | os.PathLike[str] | None = None,
    callback: Callable[[Progress], Any] | None = None,
) -> Advice:
    """Which loss, constraint and rank predict hidden cells of X, and whether any does better than row and column means.

    Each candidate is judged by the same yardstick on the same hidden cells: the Poisson deviance for counts, else the squared
    error of what it expects there. Both are least on average at the true mean, whatever the noise (Savage 1971; Gneiting
    2011), so that neither favours the loss it belongs to. Ranks 1, 2, 4, … of every loss and constraint are tried on two sets, the
    two best refined by golden section, and the best candidates tried on ``restarts`` sets of hidden cells. Advised is the
    simplest within one standard error of the best: the fewest components, then the narrower constraint, then the loss with the
    lower error. Structure is spoken of only where the means are beaten by two standard errors.

    Args:
        X, weight: as in ``factorize``.
        losses: squared error always; KL where nothing is negative, Itakura-Saito where all is positive, logistic for 0 and 1.
        constraints: pairs (W, H). Left out: shares (simplex rows of W), non-negative, and none; where negative values
            are more than a tenth of the data, H is free.
        max_rank: half of the smaller side, and at most 64.
        yardstick: a loss that compares expected with hidden data, e.g. "itakurasaito" where relative errors matter.
        restarts, fraction, seed, tol, max_iter, workers, out, callback: as in ``rank_scan``.
        max_fits: how many fits may be made.

    Raises ValueError or TypeError for bad input.

    >>> import proxfactor as pf
    >>> X, _, _ = pf.datasets.planted(30, 20, 2, noise=0.1)
    >>> pf.advise(X, constraints=[("nonneg", "nonneg")], losses=["frobenius"], max_rank=3, max_fits=9).options["rank"]
    2
    """
    table = as_table(X, weight)
    data = _problem(table, None, None, None, None).X
    m, n = data.shape
    for name, value in (("restarts", restarts), ("max_fits", max_fits)):
        _whole(name, value)
    if restarts < 2:
        raise ValueError("restarts is 1; a standard error needs at least 2, better 4")
    top = max(1, min(min(m, n) // 2, 64)) if max_rank is None else max_rank
    _whole("max_rank", top)
    if top > min(m, n):
        raise ValueError(f"max_rank is {top}, and X is {m} x {n}: {min(m, n)} components are all there can be")
    models, left_out = _models(table, losses, constraints)
    judge = _yardstick(data) if yardstick is None else as_loss(yardstick)
    judge.check(data.entries())
    work = Work(Plan(models, fraction, seed, tol, max_iter, judge), check_workers(workers), out, callback)
    _search(work, list(models), top, restarts, max_fits)
    left_out |= {name: f"max_fits, {max_fits}, was reached before" for name in models if not _first(work, name)}
    return _read(work, models, judge, restarts, left_out)


# ── the candidates ────────────────────────────────────────────────────────────────────────────────────────────────────


def _values(X: Matrix) -> Tensor:
    """The data, without the cells of weight 0."""
    return X.entries() if X.weight is None else X.entries()[X.weight > 0]


def _counts(X: Matrix) -> bool:
    x = _values(X)
    return bool(((x >= 0) & (x == x.round())).all()) and bool((x > 1).any())


def _yardstick(X: Matrix) -> Loss:
    return KL() if _counts(X) else Frobenius()


def _losses(X: Matrix) -> list[str]:
    x = _values(X)
    if bool((x < 0).any()):
        return ["frobenius"]
    if bool(((x == 0) | (x == 1)).all()):
        return ["frobenius", "logistic"]
    return ["frobenius", "kl"] + (["itakurasaito"] if bool((x > 0).all()) and not X.background and not _counts(X) else [])


def _models(
    table: Table, losses: Sequence[Loss | str] | None, constraints: Sequence[tuple[Any, Any]] | None
) -> tuple[dict[str, Problem], dict[str, str]]:
    """The problems by name, the narrower constraints first, and what was left out with the reason."""
    x = _values(table.matrix)
    signed = bool(-x.clamp(max=0).sum() > 0.1 * x.abs().sum())
    pairs = list((SIGNED if signed else SHARES) if constraints is None else constraints)
    models: dict[str, Problem] = {}
    left_out: dict[str, str] = {}
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"constraints holds {pair!r}; each is a pair (W, H), e.g. ('nonneg', None)")
    known = _available(_losses(table.matrix), left_out) if losses is None else [as_loss(loss) for loss in losses]
    for pair in pairs:
        W, H = map(as_prox, pair)
        for loss in known:
            name = f"{type(loss).__name__}, {_short(W, H)}" if losses is None else f"{loss!r}, {_short(W, H)}"
            if losses is None and not isinstance(loss, Frobenius) and not _fit(loss, pair):
                continue
            try:
                models[name] = Problem(table, loss, W, H)  # type: ignore[arg-type]
            except ValueError as error:
                left_out[name] = str(error)
    if not models:
        raise ValueError(f"no candidate is left: {'; '.join(f'{name}: {why}' for name, why in left_out.items())}")
    return models, left_out


def _available(names: Iterable[str], left_out: dict[str, str]) -> list[Loss]:
    known = []
    for name in names:
        try:
            known.append(as_loss(name))
        except ValueError as error:
            left_out[name] = str(error)
    return known


def _fit(loss: Loss, pair: tuple[Any, Any]) -> bool:
    """Whether a loss whose predictions must be positive meets a constraint that keeps them so, or one with a link none."""
    link = type(loss).mean is not Loss.mean
    return pair == (None, None) if link else None not in pair


def _short(W: Any, H: Any) -> str:
    return "unconstrained" if as_prox(None).spell() == W.spell() == H.spell() else f"W {W!r}, H {H!r}"


# ── the search ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _search(work: Work, models: list[str], top: int, restarts: int, max_fits: int) -> None:
    """Coarse, then fine, on the first hidden sets; then the best candidates on all of them."""
    ladder = sorted({2**i for i in range(top.bit_length())} | {top})
    coarse, fine = max(FIRST, max_fits // 2), max(FIRST, 2 * max_fits // 3)
    climbing = list(models)
    for rank in ladder:
        climbing = [name for name in climbing if _still_falls(_first(work, name))][: (coarse - len(work.fits)) // FIRST]
        if not _made(work, [Job(t, name, rank) for name in climbing for t in range(FIRST)], max_fits):
            break
    best = sorted((n for n in models if _first(work, n)), key=lambda n: min(_first(work, n).values()))[:2]
    while len(work.fits) + FIRST <= fine:
        probes = [(name, rank) for name in best if (rank := _between(_first(work, name)))][: (fine - len(work.fits)) // FIRST]
        if not _made(work, [Job(t, name, rank) for name, rank in probes for t in range(FIRST)], max_fits):
            break
    ranks = {min(errors, key=errors.__getitem__): None for name in best if (errors := _first(work, name))}
    others = [(name, rank) for rank in ranks for name in models if rank not in _first(work, name)]
    spare = max(0, 5 * max_fits // 6 - len(work.fits)) // FIRST  # the others at the ranks that the best two ended with
    _made(work, [Job(t, name, rank) for name, rank in others[:spare] for t in range(FIRST)], max_fits)
    tried = sorted((error, name, rank) for name in models for rank, error in _first(work, name).items())
    count = (max_fits - len(work.fits)) // max(1, restarts - FIRST)
    _made(work, [Job(t, name, rank) for _, name, rank in tried[:count] for t in range(FIRST, restarts)], max_fits)


def _made(work: Work, jobs: list[Job], total: int) -> bool:
    """Whether the jobs were made, and there is more to do."""
    if jobs and not work.interrupted:
        work.run(jobs, total)
    return bool(jobs) and not work.interrupted


def _first(work: Work, model: str) -> dict[int, float]:
    """The lower error of each rank on the first two hidden sets: a single fit may be an unlucky one."""
    errors: dict[int, float] = {}
    for job, fit in work.fits.items():
        if job.model == model and job.turn < FIRST:
            errors[job.rank] = min(fit.error, errors.get(job.rank, math.inf))
    return errors


def _still_falls(errors: dict[int, float]) -> bool:
    """Whether one of the last two ranks is the best so far."""
    return not errors or min(errors, key=errors.__getitem__) in sorted(errors)[-2:]


def _between(errors: dict[int, float]) -> int | None:
    """The next rank of a golden section between the neighbours of the best one, below it first; None where none is left."""
    ranks = sorted(errors)
    best = min(ranks, key=errors.__getitem__)
    below, above = max((r for r in ranks if r < best), default=best), min((r for r in ranks if r > best), default=best)
    if best - below > 1:
        return best - max(1, round(0.382 * (best - below)))
    return best + max(1, round(0.382 * (above - best))) if above - best > 1 else None


# ── the advice ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(work: Work, models: dict[str, Problem], judge: Loss, restarts: int, left_out: dict[str, str]) -> Advice:
    errors: dict[tuple[str, int], dict[int, float]] = {}
    for fit in work.fits.values():
        errors.setdefault((fit.job.model, fit.job.rank), {})[fit.job.turn] = fit.error
    means = _means(work.plan, judge, range(restarts))
    most = max(len(turns) for turns in errors.values())
    bounds = {name: (str(p.prox_W), str(p.prox_H)) for name, p in models.items()}
    narrow = list(dict.fromkeys(bounds.values()))
    order = sorted(errors, key=lambda key: (key[1], narrow.index(bounds[key[0]]), sum(errors[key].values())))
    full = {key: errors[key] for key in order if len(errors[key]) == most}
    turns = next(iter(full.values())).keys()
    full = {key: {t: found[t] for t in turns} for key, found in means.items()} | full
    best, excess = one_se(full)
    beaten = None
    if best[1]:  # structure is spoken of where the means are clearly beaten
        for key in means:
            gap, se = one_se({key: full[key], best: full[best]})[1][key]
            if gap <= (SURE * se if se == se else 0.0):
                beaten = beaten or key
    best = beaten or best
    rows = [_row(key, found, excess.get(key), models) for key, found in (means | errors).items()]
    rows.sort(key=lambda row: (-row["fits"], row["error"]))
    chosen = next(row for row in rows if (row["model"], row["rank"]) == best)
    options = None
    if best[1]:
        p = models[best[0]]
        options = {"rank": best[1], "loss": p.loss, "W": p.prox_W, "H": p.prox_H}
    sentence = _sentence(chosen, rows, options, len(errors), judge, work.interrupted)
    return Advice(rows, chosen, sentence, options, judge, not work.interrupted, left_out)


def _row(key: tuple[str, int], turns: dict[int, float], excess: tuple[float, float] | None, models: dict[str, Problem]) -> Row:
    p = models.get(key[0])
    told = {"loss": p.loss, "W": p.prox_W, "H": p.prox_H} if p else dict.fromkeys(("loss", "W", "H"), "")
    gap, se = excess or (math.nan, math.nan)
    error = sum(turns.values()) / len(turns)
    numbers: Row = {"rank": key[1], "error": error, "excess": gap, "se": se, "fits": len(turns)}
    return {"model": key[0], **{part: str(v) for part, v in told.items()}, **numbers}


def _means(plan: Plan, judge: Loss, turns: Iterable[int]) -> dict[tuple[str, int], dict[int, float]]:
    """The error of one mean for all, and of row and column means, on each hidden set."""
    found: dict[tuple[str, int], dict[int, float]] = {("one mean", 0): {}, ("means", 0): {}}
    for turn in turns:
        parts = plan.hold_out(turn)
        found["one mean", 0][turn] = 1.0
        found["means", 0][turn] = parts.loss(Frobenius(), *_row_and_column_means(parts, isinstance(judge, Frobenius)), judge)
    return found


def _row_and_column_means(parts: HoldOut, added: bool) -> tuple[Tensor, Tensor]:
    """Factors of a_i + b_j by least squares, or of a_i b_j with the row and column sums of the data, from the seen cells."""
    X = parts.seen
    x, w = (t.double() for t in (X.entries(), torch.ones_like(X.entries()) if X.weight is None else X.weight))
    weights, values = X.like(w - X.background), X.like(w * x)

    row, col, mean = margins(X)
    row, col = (row - mean, col) if added else (row, col / mean if mean else col)
    for _ in range(30):
        row = _side(values, weights, X.background, col, added, mean)
        col = _side(values.T, weights.T, X.background, row, added, mean)
    ones = torch.ones_like(row), torch.ones_like(col)
    A, B = (torch.stack([row, ones[0]], 1), torch.stack([ones[1], col], 1)) if added else (row[:, None], col[:, None])
    return A, B.mT


def _side(S: Matrix, N: Matrix, background: float, other: Tensor, added: bool, mean: float) -> Tensor:
    """The best number for each row beside those of the columns; S holds weight · x, N weight - background.

    Where they multiply, a cell of the mean is added to each row, so that none becomes 0 or inf.
    """
    one = torch.ones_like(other)
    total = (S @ one[:, None])[:, 0]
    over = N @ torch.stack([one, other], 1) + background * torch.stack([one.sum(), other.sum()])
    if added:
        return (total - over[:, 1]) / over[:, 0].clamp(min=1e-300)
    return (total + mean) / (over[:, 1] + other.mean()).clamp(min=1e-300)


def _sentence(best: Row, rows: list[Row], options: dict[str, Any] | None, tried: int, judge: Loss, interrupted: bool) -> str:
    means = next(row for row in rows if row["model"] == "means")
    late = " It was interrupted: the rest was not tried." if interrupted else ""
    lowest = min((row for row in rows if row["rank"]), key=lambda row: (-row["fits"], row["error"]))
    if options is None:
        what = "row and column means" if best["model"] == "means" else "one mean for all"
        return (
            f"There is no structure beyond {what}: of {tried} factorizations none predicts hidden cells clearly better "
            f"(the best leaves {lowest['error']:.3g} of their variation unexplained, the means {best['error']:.3g}).{late}"
        )
    unit = "Poisson deviance" if isinstance(judge, KL) else "squared error" if isinstance(judge, Frobenius) else repr(judge)
    short = ", ".join(f"{k}={str(options[k])!r}" for k in ("loss", "W", "H") if str(options[k]) != "Unconstrained()")
    parts = f"{best['rank']} component" + ("s" if best["rank"] > 1 else "")
    why = "the lowest" if best is lowest else f"within one standard error of the lowest, {lowest['error']:.3g}"
    return (
        f"Use {parts}: factorize(X, {best['rank']}, {short}) leaves {best['error']:.3g} of the {unit} of hidden cells "
        f"unexplained, {why} of {tried} candidates; row and column means leave {means['error']:.3g}.{late}"
    )
