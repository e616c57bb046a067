"""Accelerated steps for shares and bounds on the CPU, row by row in the cache: ``apg.accelerated`` is the twin and the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ..prox._numba import in_threads, kernel

_REASSOC = {"reassoc", "contract", "nsz"}


@kernel(fastmath=_REASSOC)
def _slope(G, c, a, out):
    """out = a G - c."""
    k = a.size
    for j in range(k):
        s = -c[j]
        for q in range(k):
            s += a[q] * G[j, q]
        out[j] = s


@kernel(fastmath=_REASSOC)
def _level(x, s, total):
    """θ with Σ max(x - θ s, 0) = total: Newton from below on what is still above it (Michelot 1986)."""
    theta = -np.inf
    while True:
        over, room = -total, 0.0
        for j in range(x.size):
            above = x[j] > theta * s[j]
            over += x[j] if above else 0.0
            room += s[j] if above else 0.0
        if room == 0 or not over / room > theta:
            return theta
        theta = over / room


@kernel(fastmath=_REASSOC)
def _moves(y, new, old, d):
    """(Y - A) D (A - A before), which is positive where the momentum points uphill, and the largest move."""
    uphill, far = 0.0, 0.0
    for j in range(y.size):
        move = new[j] - old[j]
        uphill += (y[j] - new[j]) * d[j] * move
        far = max(far, abs(move))
    return uphill, far


def load(dtype: torch.dtype) -> Callable:
    """``steps`` for a dtype, compiled."""
    x: Any = {torch.float32: numba.float32, torch.float64: numba.float64}[dtype]
    b, f, i = numba.boolean, numba.float64, numba.int64
    signature: Any = numba.void(x[:, :, ::1], x[:, ::1], x[:, ::1], x[:, ::1], f, b, f, f, f[::1], f, x[:, ::1], i, i)
    compiled = kernel(signature)(_rows)

    def steps(G: Tensor, C: Tensor, D: Tensor, A: Tensor, slices: tuple, momentum: list[float]) -> Tensor:
        """A step for each ``momentum``: G (k, k) or (m, k, k), C and A (m, k), D (1, k) or (m, k), slices as ``apg.Slices``."""
        new = torch.empty(A.shape, dtype=dtype)
        given = [t.to(dtype).contiguous().numpy() for t in (G if G.ndim == 3 else G[None], C, D, A)]
        still = slices[0] * torch.finfo(dtype).eps / 8  # a row that moves no further has arrived
        numbers = *slices, np.array(momentum), still
        in_threads(lambda first, last: compiled(*given, *numbers, new.numpy(), first, last), len(A), A.numel() * len(momentum))
        return new

    return steps


def _rows(G, C, D, A, total, solid, lo, hi, momentum, still, out, first, last):
    """The rows first to last of the lower of the first and the last of ``momentum.size`` accelerated steps, into out."""
    k = A.shape[1]
    old, new, y, best = np.empty(k), np.empty(k), np.empty(k), np.empty(k)
    slope, end, c, d, s, g = np.empty(k), np.empty(k), np.empty(k), np.empty(k), np.empty(k), np.empty((k, k))
    for r in range(first, last):
        if r == first or G.shape[0] > 1:
            g[:] = G[min(r, G.shape[0] - 1)]
        if r == first or D.shape[0] > 1:
            for j in range(k):
                d[j] = D[min(r, D.shape[0] - 1), j]
                s[j] = 1 / d[j]
        for j in range(k):
            old[j] = y[j] = A[r, j]
            c[j] = C[r, j]
        age = 0
        for step in range(momentum.size):
            _slope(g, c, y, slope)
            whole = 0.0
            for j in range(k):
                new[j] = y[j] - slope[j] * s[j]
                whole += max(new[j], 0.0)
            theta = 0.0 if total == 0 or (solid and whole <= total) else _level(new, s, total)
            for j in range(k):
                new[j] = min(max(new[j] - theta * s[j], lo), hi)
            uphill, far = _moves(y, new, old, d)
            age = 0 if uphill > 0 else age
            for j in range(k):
                y[j] = new[j] + momentum[age] * (new[j] - old[j])
                old[j] = new[j]
            age += 1
            if step == 0:
                best[:] = new
            if far <= still:
                break
        _slope(g, c, best, slope)
        _slope(g, c, new, end)
        gain = 0.0
        for j in range(k):
            gain += (slope[j] + end[j]) * (new[j] - best[j])
        for j in range(k):
            out[r, j] = new[j] if gain <= 0 else best[j]
