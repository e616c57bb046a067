"""Speckled hold-out: single cells spread over the whole matrix are hidden from the fit, which is then asked for them.

Rows or columns are never hidden whole, for a factorization that has not seen a row knows nothing of it. (Wold 1978; Bro,
Kjeldahl, Smilde and Kiers 2008.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..losses import Loss
from ..matrix import Dense, Matrix, Observed, Sparse, Stored

MIXED = 0.01
"""The share of the margins in a prediction whose loss would be infinite at zero: a zero is then not infinitely wrong."""

MOST_ZEROS = 10_000
"""Zeros that may be hidden from sparse data whatever its size."""

FEWEST_STORED = 2_000
"""Stored cells of sparse data that are hidden where the fraction allows it."""


@dataclass(frozen=True)
class HoldOut:
    """X without the hidden cells, and the hidden cells, each with the weight that it has in the error."""

    seen: Matrix
    hidden: Observed

    def __post_init__(self) -> None:
        if not self.hidden.entries().numel():
            m, n = self.seen.shape
            raise ValueError(f"no cell of X ({m} x {n}) can be hidden; give a larger fraction, or more data")

    def loss(self, loss: Loss, W: Tensor, H: Tensor, yardstick: Loss | None = None) -> float:
        """The mean loss of a hidden cell over that of one mean for all: the share of their variation left unexplained.

        With a ``yardstick`` the expected data, ``loss.mean(W H)``, is judged by that loss instead of its own. Expected data
        is held to the range of the seen data, for a factor that the seen cells leave open may be anything; and where a 0
        would cost inf, 99 % of it are mixed with 1 % of what the margins say. A loss whose prediction is no expectation is
        taken as it is, and not divided.
        """
        own = loss.at(self.hidden)
        pred = self.hidden.predict(W.double(), H.mT.double())
        probe = torch.linspace(0.25, 1.0, H.shape[1], dtype=torch.float64, device=H.device).expand(2, -1)
        if yardstick is None and not torch.equal(loss.mean(probe), probe):
            return self._average(own(pred, self.hidden.entries().double()))
        judge, expected = (own, pred) if yardstick is None else (yardstick, own.mean(pred))
        one_mean = torch.full_like(pred, self._margins[2])
        return self._judged(judge, expected) / (self._judged(judge, one_mean) or 1.0)

    def _judged(self, loss: Loss, expected: Tensor) -> float:
        x, (low, high) = self.hidden.entries().double(), self._range
        expected = expected.clamp(low, high)
        if not bool(loss(torch.zeros_like(x), x).isfinite().all()):
            row, col, mean = self._margins
            by_margins = self.hidden.predict(row[:, None], col[:, None]) / mean if mean > 0 else torch.zeros_like(x)
            expected = (1 - MIXED) * expected + MIXED * by_margins
        return self._average(loss(expected, x))

    def _average(self, losses: Tensor) -> float:
        w = torch.ones_like(losses) if self.hidden.weight is None else self.hidden.weight.to(losses)
        return ((w * losses).sum() / w.sum()).item()

    @cached_property
    def _margins(self) -> tuple[Tensor, Tensor, float]:
        return margins(self.seen)

    @cached_property
    def _range(self) -> tuple[float, float]:
        """The smallest and the largest value that is seen."""
        X = self.seen
        x = X.entries() if X.weight is None else X.entries()[X.weight > 0]
        ends = [x.min().item(), x.max().item()] + ([0.0] if X.background else [])
        return min(ends), max(ends)


def hold_out(X: Matrix, fraction: float = 0.1, turn: int = 0, seed: int = 0) -> HoldOut:
    """Hides a ``fraction`` of the cells of X that are data; ``turn`` 0, 1, … hide one after another other ones, as in K-fold.

    A cell's number in the whole matrix and the seed decide, whatever the layout. Of a row's or column's cells at least half
    stay. Where the cells that are not stored are zeros, the same share of both is hidden: a smaller one, if the zeros would
    be more than a quarter of the stored cells, yet so many that 2,000 stored ones go, as long as the fraction allows it.

    >>> from proxfactor import as_matrix
    >>> parts = hold_out(as_matrix(np.arange(200.0).reshape(20, 10)), 0.1)
    >>> parts.hidden.entries().numel(), int((parts.seen.weight == 0).sum())
    (24, 24)
    """
    if not 0 < fraction <= 0.5:
        raise ValueError(f"fraction is {fraction!r}; it is the share of the cells to hide, above 0 and at most 0.5, e.g. 0.1")
    if isinstance(X, Sparse) and X.background:
        return _among_zeros(X, fraction, turn, seed)
    if isinstance(X, Dense):
        row, col = (v.reshape(-1) for v in _numbers(X))
        data = torch.ones_like(row, dtype=torch.bool) if X.weight is None else X.weight.reshape(-1) > 0
    elif isinstance(X, Stored):
        row, col = X._rows(), X.col.long()
        data = torch.ones_like(row, dtype=torch.bool) if X.weight is None else X.weight > 0
    else:
        raise TypeError(f"{X!r} is not in memory, and single cells of it cannot be hidden; give a part of the rows as an array")
    u = _uniform(row * X.shape[1] + col, turn, fraction, seed)
    away = _leaving_half(data & (u < fraction), data, u, ((row, X.shape[0]), (col, X.shape[1])))
    weight = None if X.weight is None else X.weight.reshape(-1)[away]
    hidden = _observed(row[away], col[away], X.entries().reshape(-1)[away], weight, X.shape)
    if isinstance(X, Dense):
        away = away.reshape(X.shape)
        w = torch.ones_like(X.values) if X.weight is None else X.weight
        return HoldOut(Dense._of(X.values.masked_fill(away, 0.0), w.masked_fill(away, 0.0)), hidden)
    kept = None if X.weight is None else X.weight[~away]
    return HoldOut(type(X)._of(*_rows_of(row[~away], col[~away], X), X.values[~away], X.shape, kept, X.background), hidden)


def _among_zeros(X: Sparse, fraction: float, turn: int, seed: int) -> HoldOut:
    """Stored cells and zeros hidden alike.

    A hidden cell is stored with weight 0, and costs a fit as much as a cell with data. Of N zeros the share p that the stored
    cells lost should go; where only s < pN go, each weighs pN/s in the error, and each of the N - s that stay weighs
    (1 - p)N/(N - s) in the fit: both sums keep their expectation.
    """
    (m, n), row, col = X.shape, X._rows(), X.col.long()
    w = torch.ones_like(X.values) if X.weight is None else X.weight
    flat = row * n + col
    zeros, most = m * n - len(flat), max(len(flat) // 4, MOST_ZEROS)
    fraction = min(fraction, max(most / max(1, zeros), FEWEST_STORED / max(1, len(flat))))
    away = (_uniform(flat, turn, fraction, seed) < fraction) & (w > 0)
    p = away.sum().item() / max(1, len(flat))
    wanted = round(p * zeros)
    count = wanted if wanted <= 1.1 * most else most
    empty = _empty_cells(flat, m * n, count, turn, seed).to(X.device)
    stay, weigh = (X.background, X.background) if count == wanted else (
        X.background * (1 - p) * zeros / (zeros - count), X.background * p * zeros / count,
    )  # fmt: skip
    nothing = torch.zeros(len(empty), dtype=X.dtype, device=X.device)
    rows, cols = torch.cat([row, empty // n]), torch.cat([col, empty % n])
    values, weights = torch.cat([X.values.masked_fill(away, 0.0), nothing]), torch.cat([w.masked_fill(away, 0.0), nothing])
    order = (rows * n + cols).argsort()
    seen = Sparse._of(*_rows_of(rows[order], cols[order], X), values[order], X.shape, weights[order], stay)
    hidden = _observed(
        torch.cat([row[away], empty // n]), torch.cat([col[away], empty % n]), torch.cat([X.values[away], nothing]),
        torch.cat([w[away], torch.full_like(nothing, weigh)]), X.shape,
    )  # fmt: skip
    return HoldOut(seen, hidden)


def margins(X: Matrix) -> tuple[Tensor, Tensor, float]:
    """The mean of each row (m,) and column (n,), drawn by one cell's weight towards the mean of all, and that mean."""
    x = X.entries().double()
    w = torch.ones_like(x) if X.weight is None else X.weight.double()
    sums = X.sums(w * x), X.T.sums(_turned(X, w * x))
    over = X.sums(w - X.background) + X.background * X.shape[1], X.T.sums(_turned(X, w - X.background)) + X.background * X.shape[0]
    mean = (sums[0].sum() / over[0].sum()).item()
    row, col = ((s + mean) / (o + 1) for s, o in zip(sums, over, strict=True))
    return row, col, mean


def _turned(X: Matrix, values: Tensor) -> Tensor:
    """Values at the stored cells in the layout of the transpose."""
    return X.like(values).T.entries()


def _numbers(X: Dense) -> tuple[Tensor, Tensor]:
    row, col = (torch.arange(s, device=X.device) for s in X.shape)
    return row[:, None].expand(X.shape), col[None, :].expand(X.shape)


def _uniform(cell: Tensor, turn: int, fraction: float, seed: int) -> Tensor:
    """A number in [0, 1) for each cell, from its number and the seed alone, moved on by the fraction at each turn.

    Two rounds of the 64-bit mixing function of Steele, Lea and Flood (2014).
    """
    z = cell + _signed(0x9E3779B97F4A7C15 * (seed + 1))
    for _ in range(2):
        z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
        z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
        z = z ^ _shifted(z, 31)
    return (_shifted(z, 11).double() / 2**53 - turn * fraction) % 1.0


def _shifted(z: Tensor, by: int) -> Tensor:
    """z >> by of the bits, without a sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(bits: int) -> int:
    bits %= 2**64
    return bits - 2**64 if bits >= 2**63 else bits


def _leaving_half(away: Tensor, data: Tensor, u: Tensor, lines: tuple[tuple[Tensor, int], ...]) -> Tensor:
    """Fewer of the hidden cells, those of smallest u, where else a row or column would keep less than half of its data."""
    for line, count in lines:
        room = torch.bincount(line[data], minlength=count) // 2
        at = away.nonzero()[:, 0]
        at = at[u[at].argsort()]
        at = at[line[at].argsort(stable=True)]  # by line, and in each line by u
        first = torch.bincount(line[at], minlength=count).cumsum(0).roll(1)
        first[0] = 0
        place = torch.arange(len(at), device=at.device) - first[line[at]]
        away = torch.zeros_like(away)
        away[at[place < room[line[at]]]] = True
    return away


def _empty_cells(stored: Tensor, cells: int, count: int, turn: int, seed: int) -> Tensor:
    """The numbers of ``count`` cells that are not stored, drawn at random."""
    known, found = np.sort(stored.cpu().numpy()), np.zeros(0, dtype=np.int64)
    draw = np.random.Generator(np.random.Philox(key=[seed, turn]))
    while len(found) < count:
        more = draw.integers(0, cells, int(1.2 * (count - len(found))) + 16)
        if len(known):
            more = more[known[np.searchsorted(known, more).clip(max=len(known) - 1)] != more]
        found = np.concatenate([found, more])
        found = found[np.sort(np.unique(found, return_index=True)[1])]
    return torch.from_numpy(np.sort(found[:count]))


def _rows_of(row: Tensor, col: Tensor, X: Stored) -> tuple[Tensor, Tensor]:
    """Row ends and columns of cells that stand in the order of their rows."""
    crow = torch.zeros(X.shape[0] + 1, dtype=torch.int64, device=row.device)
    crow[1:] = torch.bincount(row, minlength=X.shape[0]).cumsum(0)
    return crow.to(X.crow.dtype), col.to(X.col.dtype)


def _observed(row: Tensor, col: Tensor, values: Tensor, weight: Tensor | None, shape: tuple[int, int]) -> Observed:
    order = (row * shape[1] + col).argsort()
    crow = torch.zeros(shape[0] + 1, dtype=torch.int64, device=row.device)
    crow[1:] = torch.bincount(row, minlength=shape[0]).cumsum(0)
    index = torch.int32 if max(len(row), *shape) < 2**31 - 1 else torch.int64
    weight = None if weight is None else weight[order]
    return Observed._of(crow.to(index), col[order].to(index), values[order], shape, weight, 0.0)
