"""The simplex on large CPU tensors: the torch form of ``simplices`` is its twin and its oracle."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ._numba import in_threads, kernel

_LANES = 64  # slices side by side, where they are short
_SHORT, _LONG = 64, 4000  # up to these, rows and columns go so


@kernel()
def _largest(v):
    """Of eight parts side by side, as one comparison after the other would wait for the one before. A NaN may be passed over."""
    a = b = c = d = e = f = g = h = v[0]
    whole = v.size // 8 * 8
    for j in range(0, whole, 8):
        a = v[j] if v[j] > a else a
        b = v[j + 1] if v[j + 1] > b else b
        c = v[j + 2] if v[j + 2] > c else c
        d = v[j + 3] if v[j + 3] > d else d
        e = v[j + 4] if v[j + 4] > e else e
        f = v[j + 5] if v[j + 5] > f else f
        g = v[j + 6] if v[j + 6] > g else g
        h = v[j + 7] if v[j + 7] > h else h
    for j in range(whole, v.size):
        a = v[j] if v[j] > a else a
    return max(max(max(a, b), max(c, d)), max(max(e, f), max(g, h)))


@kernel(fastmath={"reassoc"})
def _sum(v, most):
    total = 0.0
    for j in range(v.size):
        total += np.float64(v[j] - most)
    return total


@kernel(fastmath={"reassoc"})
def _sum_above(v, most, low):
    total, count = 0.0, 0.0
    for j in range(v.size):
        d = v[j] - most
        total += np.float64(d) if d >= low else 0.0
        count += 1.0 if d >= low else 0.0
    return total, count


@kernel()
def _compress(v, most, low, kept):
    """What of v - most is not below low, in kept, which may be v itself."""
    n = 0
    for j in range(v.size):
        d = v[j] - most
        kept[n] = d
        n += d >= low
    return n


@kernel()
def _level(v, most, total, kept, bar):
    """θ - most, with Σ max(v - θ, 0) = total: Newton from below (Michelot 1986) on what can still be above θ.

    Few rounds, whatever v: one that drops r of k entries makes the gap from the level to the least entry r / (k - r) of what
    it was, and a gap is not below the rounding of the level.
    """
    whole = _sum(v, most)
    if whole != whole:
        return whole
    zero = most - most
    low, level = -total, (whole - total) / v.size
    if level > low:  # most entries are near θ: two steps before any are put aside
        for _ in range(2):
            low = max(low, level)
            bar[0] = low
            part, count = _sum_above(v, most, bar[0])
            level = (part - total) / count
        low = max(low, level)
    bar[0] = low  # in v's precision, in which the comparison is quick
    was, n = -1, _compress(v, most, bar[0], kept)
    while n != was:
        level = (_sum(kept[:n], zero) - total) / n
        low = max(low, level)
        bar[0] = low
        was, n = n, _compress(kept[:n], zero, bar[0], kept)
    return level


@kernel()
def _rows(x, totals, y, first, last):
    """The rows first to last of x, into y."""
    kept, bar = np.empty(x.shape[1] + 1, x.dtype), np.empty(1, x.dtype)
    for r in range(first, last):
        v, out, total = x[r], y[r], totals[min(r, totals.size - 1)]
        most = _largest(v)
        low = _level(v, most, total, kept, bar)
        for j in range(v.size):
            d = (v[j] - most) - low
            out[j] = 0.0 if d < 0 else d


@kernel(fastmath={"reassoc"})
def _over(z, w):
    """What z is beyond 0 in all, and the sum of the steps."""
    total, room = 0.0, 0.0
    for j in range(z.size):
        total += z[j]
        room += w[j]
    return total, room


@kernel(fastmath={"reassoc"})
def _ratios(v, steps, total, least, z, w):
    """w = steps over the largest of them, no less than ``least``, and z = (v - total) / w. True if v holds a NaN."""
    most, odd = np.float64(_largest(steps)), 0
    for j in range(v.size):
        s = steps[j] / most
        w[j] = s if s > least else least
        z[j] = (v[j] - total) / w[j]
        odd += v[j] != v[j]
    return odd > 0


@kernel()
def _weighted_rows(x, s, totals, least, y, first, last):
    """The rows first to last of max(x - θ s, 0), into y, θ such that the sum is total: Newton from below.

    Each part gives a lower bound of θ: at first the best single entry, then all that is still above θ s. Each round halves
    what the sum is over the total, or the steps that are held (Dinkelbach 1967): few rounds as a rule, hundreds at most.
    """
    n = x.shape[1]
    z, w, at = np.empty(n + 1), np.empty(n + 1), np.empty(n + 1, np.int32)
    for r in range(first, last):
        v, out, total = x[r], y[r], totals[min(r, totals.size - 1)]
        odd = _ratios(v, s[min(r, s.shape[0] - 1)], total, least, z, w)
        low = _largest(z[:n])
        j = 0
        while j < n - 1 and z[j] != low:
            j += 1
        if odd or not np.isfinite(v[j]):
            out[:] = np.nan
            continue
        low, top, held = z[j], j, 0
        for j in range(n):  # a shift by the first bound costs no digits, at any offset
            d = min(v[j] - low * w[j], total) if j != top else total
            z[held], w[held], at[held] = d, w[j], j
            held += d >= 0
        again = 0
        while again < 2:  # the second time for what rounding left of the sum
            over, room = _over(z[:held], w[:held])
            level = (over - total) / room
            was, held = held, 0
            for j in range(was):
                z[held], w[held], at[held] = z[j] - level * w[j], w[j], at[j]
                held += z[held] >= 0
            again = again + 1 if held == was else 0
        out[:] = 0
        for j in range(held):
            out[at[j]] = z[j]


@kernel()
def _side_by_side(block, total, work, wide):
    """The same for the columns of block (n, _LANES), in place."""
    n = block.shape[0]
    zero, one = block.dtype.type(0), block.dtype.type(1)  # a plain 0 would turn the sums to float64
    most, level, part, count, was = work[0], work[1], work[2], work[3], work[4]
    low, whole, sums, held = wide[0], wide[1], wide[2], wide[3]
    for l in range(_LANES):
        most[l], part[l] = block[0, l], zero
    for j in range(1, n):
        for l in range(_LANES):
            v = block[j, l]
            most[l] = v if v > most[l] else most[l]
    for j in range(n):
        for l in range(_LANES):
            d = block[j, l] - most[l]
            block[j, l] = d
            part[l] += d
    for l in range(_LANES):
        mean = (part[l] - total[l]) / n
        level[l] = mean if mean > -total[l] else -total[l]
        was[l] = zero
        whole[l] = part[l]
    changed = True
    while changed:
        for l in range(_LANES):
            part[l], count[l] = zero, zero
        for j in range(n):
            for l in range(_LANES):
                d = block[j, l]
                part[l] += d if d >= level[l] else zero
                count[l] += one if d >= level[l] else zero
        changed = False
        for l in range(_LANES):
            changed |= count[l] != was[l]
            was[l] = count[l]
            mean = (part[l] - total[l]) / count[l]
            level[l] = mean if mean > level[l] else level[l]  # never down, whatever the rounding: so it ends
    for l in range(_LANES):
        low[l] = level[l]
    for _ in range(1 if n <= _SHORT else 2):  # the sums in float64, as the result must be right to rounding
        for l in range(_LANES):
            sums[l], held[l] = 0.0, 0.0
        for j in range(n):
            for l in range(_LANES):
                d = np.float64(block[j, l])
                sums[l] += d if d >= low[l] else 0.0
                held[l] += 1.0 if d >= low[l] else 0.0
        for l in range(_LANES):
            low[l] = (sums[l] - total[l]) / held[l] if whole[l] == whole[l] else np.nan
    for j in range(n):
        for l in range(_LANES):
            d = block[j, l] - low[l]
            block[j, l] = 0.0 if d < 0 else d


@kernel()
def _short_rows(x, totals, y, first, last):
    """The rows first to last of x, into y: for short rows, ``_LANES`` of them at a time."""
    n = x.shape[1]
    block, work = np.empty((n, _LANES), x.dtype), np.empty((5, _LANES), x.dtype)
    total, wide = np.empty(_LANES), np.empty((4, _LANES))
    for start in range(first, last, _LANES):
        for l in range(_LANES):
            r = min(start + l, last - 1)
            total[l] = totals[min(r, totals.size - 1)]
            for j in range(n):
                block[j, l] = x[r, j]
        _side_by_side(block, total, work, wide)
        for l in range(min(_LANES, last - start)):
            for j in range(n):
                y[start + l, j] = block[j, l]


@kernel()
def _columns(x, totals, y, first, last):
    """Along the middle dim of x (a, n, b): the blocks first to last of columns, ``_LANES`` of them at a time."""
    n, b = x.shape[1:]
    blocks = (b + _LANES - 1) // _LANES
    block, work = np.empty((n, _LANES), x.dtype), np.empty((5, _LANES), x.dtype)
    total, wide = np.empty(_LANES), np.empty((4, _LANES))
    for q in range(first, last):
        a, start = q // blocks, q % blocks * _LANES
        w = min(_LANES, b - start)
        for l in range(_LANES):
            total[l] = totals[min(a * b + start + min(l, w - 1), totals.size - 1)]
        for j in range(n):
            for l in range(w):
                block[j, l] = x[a, j, start + l]
            for l in range(w, _LANES):
                block[j, l] = block[j, 0]
        _side_by_side(block, total, work, wide)
        for j in range(n):
            for l in range(w):
                y[a, j, start + l] = block[j, l]


def project(x: Tensor, total: float | Tensor) -> Tensor:
    """``project_simplex`` with equal steps, for a float32 or float64 tensor on the CPU; gradients are the caller's."""
    x, totals, n = x.detach(), _totals(x, total), x.shape[-1]
    place = next((d for d in range(x.ndim) if x.movedim(-1, d).is_contiguous()), -1)
    b = x.shape[place:-1].numel() if place >= 0 else 1
    if place not in (-1, x.ndim - 1) and b >= _LANES // 2 and n <= _LONG:
        laid = x.movedim(-1, place)
        laid = laid.reshape(-1, n, b)
        y = torch.empty_like(laid)
        in_threads(partial(_columns, laid.numpy(), totals, y.numpy()), laid.shape[0] * -(-b // _LANES), x.numel())
        return y.reshape(x.movedim(-1, place).shape).movedim(place, -1)
    rows = x.reshape(-1, n).contiguous()
    y = torch.empty_like(rows)
    in_threads(partial(_short_rows if n <= _SHORT else _rows, rows.numpy(), totals, y.numpy()), rows.shape[0], x.numel())
    return y.reshape(x.shape)


def project_weighted(x: Tensor, s: Tensor, total: float | Tensor) -> Tensor:
    """The same with steps s, which broadcast to x: as ``relative`` gives them, or positive and finite ones as they are."""
    x, s, n = x.detach(), s.detach(), x.shape[-1]
    rows = x.reshape(-1, n).contiguous()
    steps = (s if s.numel() == n else s.expand_as(x)).reshape(-1, n).contiguous()
    y = torch.empty_like(rows)
    least = torch.finfo(x.dtype).eps ** 4  # below what ``relative`` makes of three levels
    in_threads(partial(_weighted_rows, rows.numpy(), steps.numpy(), _totals(x, total), least, y.numpy()), rows.shape[0], x.numel())
    return y.reshape(x.shape)


def _totals(x: Tensor, total: float | Tensor) -> np.ndarray:
    totals = torch.as_tensor(total, dtype=torch.float64).detach()
    return (totals.expand(*x.shape[:-1], 1) if totals.numel() > 1 else totals).reshape(-1).numpy()
