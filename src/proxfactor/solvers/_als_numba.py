"""Conjugate gradients row by row, each row's own cells in the cache: ``als.conjugated`` is the twin and the oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..matrix import Stored
from ..prox._numba import in_threads, kernel, prefetch
from .als import SETTLED

_AHEAD = 16
"""Cells ahead of which the features are asked for: about as long as the memory takes to bring them."""


def load(dtype: torch.dtype) -> Callable:
    """``conjugated`` for a dtype, compiled."""
    x = {torch.float32: "float32", torch.float64: "float64"}[dtype]
    fast = {"reassoc", "contract", "arcp", "nsz"}
    two, one = f"{x}[:,::1]", f"{x}[::1]"
    given = f"{two}, {one}, {two}, {two}, int64, int32[::1], int32[::1], {one}, {one}, {one}, {one}, {one}"
    compiled = kernel(f"void({given}, int64, int64, int64)", fastmath=fast)(_rows)

    def conjugated(
        X: Stored, x: Tensor, e: Tensor, A: Tensor, B: Tensor, s: Tensor, lam: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        new, gain = torch.empty_like(A), A.new_empty(len(A))
        cells = X.crow, X.col, x, e, s, lam.reshape(-1), torch.tensor([SETTLED]).to(x)
        given = new.numpy(), gain.numpy(), A.numpy(), B.numpy(), B.data_ptr(), *(t.contiguous().numpy() for t in cells)
        load = X.crow.long() + A.shape[1] * torch.arange(len(A) + 1) // 8  # a row without cells is some work too
        in_threads(lambda first, last: compiled(*given, steps, first, last), len(A), len(x) * A.shape[1], load)
        return new, gain

    return conjugated


def _rows(new, gain, A, B, place, crow, col, t, e, s, lam, least, steps, first, last):
    k, size = A.shape[1], A.shape[1] * A.itemsize
    zero, one = t.dtype.type(0), t.dtype.type(1)
    a, r, d, p, z = np.empty(k, A.dtype), np.empty(k, A.dtype), np.empty(k, A.dtype), np.empty(k, A.dtype), np.empty(k, A.dtype)
    for i in range(first, last):
        begin, end = crow[i], crow[i + 1]
        ridge = lam[i if len(lam) > 1 else 0]
        for q in range(k):
            a[q] = A[i, q]
            d[q] = s[q] + ridge
            r[q] = -d[q] * a[q]
        for c in range(begin, end, 4):  # four cells at a time: what is summed over components waits less, r is written less
            for later in range(c + _AHEAD, min(c + _AHEAD + 4, len(col))):  # of this row or the next
                for line in range(0, size, 64):
                    prefetch(place + col[later] * size + line)
            c1, c2, c3 = min(c + 1, end - 1), min(c + 2, end - 1), min(c + 3, end - 1)
            u1, u2, u3 = one if c + 1 < end else zero, one if c + 2 < end else zero, one if c + 3 < end else zero
            j0, j1, j2, j3 = col[c], col[c1], col[c2], col[c3]
            y0, y1, y2, y3 = zero, zero, zero, zero
            for q in range(k):
                v = a[q]
                y0 += v * B[j0, q]
                y1 += v * B[j1, q]
                y2 += v * B[j2, q]
                y3 += v * B[j3, q]
            e0, e1, e2, e3 = e[c], u1 * e[c1], u2 * e[c2], u3 * e[c3]
            y0, y1, y2, y3 = t[c] - e0 * y0, u1 * t[c1] - e1 * y1, u2 * t[c2] - e2 * y2, u3 * t[c3] - e3 * y3
            for q in range(k):
                b0, b1, b2, b3 = B[j0, q], B[j1, q], B[j2, q], B[j3, q]
                r[q] += y0 * b0 + y1 * b1 + y2 * b2 + y3 * b3
                d[q] += e0 * b0 * b0 + e1 * b1 * b1 + e2 * b2 * b2 + e3 * b3 * b3
        rz = zero
        for q in range(k):
            d[q] = one / d[q] if d[q] > zero else zero
            p[q] = d[q] * r[q]
            rz += r[q] * p[q]
        settled, lower = least[0] * rz, zero
        for _ in range(steps):
            if not rz > settled:
                break
            for q in range(k):
                z[q] = (s[q] + ridge) * p[q]
            for c in range(begin, end, 4):
                c1, c2, c3 = min(c + 1, end - 1), min(c + 2, end - 1), min(c + 3, end - 1)
                u1, u2, u3 = one if c + 1 < end else zero, one if c + 2 < end else zero, one if c + 3 < end else zero
                j0, j1, j2, j3 = col[c], col[c1], col[c2], col[c3]
                y0, y1, y2, y3 = zero, zero, zero, zero
                for q in range(k):
                    v = p[q]
                    y0 += v * B[j0, q]
                    y1 += v * B[j1, q]
                    y2 += v * B[j2, q]
                    y3 += v * B[j3, q]
                y0, y1, y2, y3 = y0 * e[c], y1 * u1 * e[c1], y2 * u2 * e[c2], y3 * u3 * e[c3]
                for q in range(k):
                    z[q] += y0 * B[j0, q] + y1 * B[j1, q] + y2 * B[j2, q] + y3 * B[j3, q]
            pz = zero
            for q in range(k):
                pz += p[q] * z[q]
            if not pz > zero:
                break
            step, before = rz / pz, rz
            lower += step * rz / 2
            rz = zero
            for q in range(k):
                a[q] += step * p[q]
                r[q] -= step * z[q]
                z[q] = d[q] * r[q]
                rz += r[q] * z[q]
            for q in range(k):
                p[q] = z[q] + rz / before * p[q]
        gain[i] = lower
        for q in range(k):
            new[i, q] = a[q]
