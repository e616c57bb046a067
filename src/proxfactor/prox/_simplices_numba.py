"""The simplex on large CPU tensors: the torch form of ``simplices`` is its twin and its oracle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise

import numba
import numpy as np
import torch
from torch import Tensor

_LANES = 64  # slices side by side, where they are short
_SHORT, _LONG = 64, 4000  # up to these, rows and columns go so


def _kernel(fastmath: bool | set[str] = False) -> Callable:
    def made(f: Callable) -> Callable:
        try:
            return numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=fastmath)(f)
        except RuntimeError:  # nowhere to keep the compiled form
            return numba.njit(nogil=True, error_model="numpy", fastmath=fastmath)(f)

    return made


@_kernel()
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


@_kernel(fastmath={"reassoc"})
def _sum(v, most):
    total = 0.0
    for j in range(v.size):
        total += np.float64(v[j] - most)
    return total


@_kernel(fastmath={"reassoc"})
def _sum_above(v, most, low):
    total, count = 0.0, 0.0
    for j in range(v.size):
        d = v[j] - most
        total += np.float64(d) if d >= low else 0.0
        count += 1.0 if d >= low else 0.0
    return total, count


@_kernel()
def _compress(v, most, low, kept):
    """What of v - most is not below low, in kept, which may be v itself."""
    n = 0
    for j in range(v.size):
        d = v[j] - most
        kept[n] = d
        n += d >= low
    return n


@_kernel()
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


@_kernel()
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


@_kernel()
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


@_kernel()
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


@_kernel()
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
    x, n = x.detach(), x.shape[-1]
    totals = torch.as_tensor(total, dtype=torch.float64).detach()
    totals = totals.expand(*x.shape[:-1], 1).reshape(-1) if totals.numel() > 1 else totals.reshape(1)
    place = next((d for d in range(x.ndim) if x.movedim(-1, d).is_contiguous()), -1)
    b = x.shape[place:-1].numel() if place >= 0 else 1
    if place not in (-1, x.ndim - 1) and b >= _LANES // 2 and n <= _LONG:
        laid = x.movedim(-1, place)
        laid = laid.reshape(-1, n, b)
        y = torch.empty_like(laid)
        _share(_columns, laid, totals, y, laid.shape[0] * -(-b // _LANES))
        return y.reshape(x.movedim(-1, place).shape).movedim(place, -1)
    rows = x.reshape(-1, n).contiguous()
    y = torch.empty_like(rows)
    _share(_short_rows if n <= _SHORT else _rows, rows, totals, y, rows.shape[0])
    return y.reshape(x.shape)


def _share(kernel: Callable, x: Tensor, totals: Tensor, y: Tensor, size: int) -> None:
    """The kernel on equal parts, a thread each: as many as torch uses. (Numba's own threads abort when two callers meet.)"""
    parts = max(1, min(torch.get_num_threads(), size))
    arrays = x.numpy(), totals.numpy(), y.numpy()
    ends = [size * p // parts for p in range(parts + 1)]
    threads = [threading.Thread(target=kernel, args=(*arrays, a, b)) for a, b in pairwise(ends[1:])]
    for t in threads:
        t.start()
    kernel(*arrays, 0, ends[1])
    for t in threads:
        t.join()
