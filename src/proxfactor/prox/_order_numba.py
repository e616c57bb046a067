"""Kernels of order.py for large tensors on the CPU: one pass of a stack over each row, the rows shared among threads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from ._numba import kernel


@kernel()
def _pool(y, w, mean, mass, end):
    """The levels of the non-decreasing fit of one slice, their masses and their ends; returns the place of the last one."""
    top = -1
    for i in range(len(y)):
        m, u = np.float64(y[i]), w[i]
        while top >= 0 and mean[top] > m:
            u += mass[top]
            m += (mean[top] - m) * (mass[top] / u)
            top -= 1
        top += 1
        mean[top], mass[top], end[top] = m, u, i + 1
    return top


@kernel()
def _largest(y):
    """The largest modulus; infinite where an entry is not finite."""
    most = 0.0
    for i in range(len(y)):
        size = abs(np.float64(y[i]))
        if not size <= most:
            most = size if size < np.inf else np.inf
    return most


@kernel()
def _write(fit, mean, end, top):
    i = 0
    for b in range(top + 1):
        while i < end[b]:
            fit[i] = mean[b]
            i += 1


@kernel()
def _errors(y, w, scale, nonneg, mean, mass, error, total, out):
    """out[i]: the squared error of the non-decreasing fit of the first i entries, clipped at 0 with nonneg. (Stout 2008.)"""
    top = -1
    out[0] = 0.0
    for i in range(len(y)):
        m, u, e = y[i] / scale, w[i], 0.0
        while top >= 0 and mean[top] > m:
            v = mass[top]
            e += error[top] + (mean[top] - m) ** 2 * (u * (v / (u + v)))
            m += (mean[top] - m) * (v / (u + v))
            u += v
            top -= 1
        top += 1
        mean[top], mass[top], error[top] = m, u, e
        below = min(m, 0.0) if nonneg else 0.0
        total[top] = (total[top - 1] if top > 0 else 0.0) + e + u * below**2
        out[i + 1] = total[top]


@cache
def isotonic_rows(real: str) -> Callable[..., None]:
    """A kernel for float32 or float64, compiled when first asked for; a row that is not finite gives NaN.

    fit: the non-decreasing weighted least-squares fit of each row.
    """
    return kernel(f"void({real}[:, :], float64[:, :], {real}[:, :])")(_isotonic_rows)


def _isotonic_rows(y, w, fit):
    rows, n = y.shape
    mean, mass, end = np.empty(n), np.empty(n), np.empty(n, np.int64)
    for r in range(rows):
        if _largest(y[r]) < np.inf:
            _write(fit[r], mean, end, _pool(y[r], w[r], mean, mass, end))
        else:
            fit[r] = np.nan


@cache
def unimodal_rows(real: str) -> Callable[..., None]:
    """fit: the best rise followed by a fall in each row, before it is clipped at 0."""
    return kernel(f"void({real}[:, :], float64[:, :], {real}[:, :], boolean)")(_unimodal_rows)


def _unimodal_rows(y, w, fit, nonneg):
    rows, n = y.shape
    mean, mass, end = np.empty(n), np.empty(n), np.empty(n, np.int64)
    error, total, rise, fall = np.empty(n), np.empty(n), np.empty(n + 1), np.empty(n + 1)
    for r in range(rows):
        scale = _largest(y[r])
        if not scale < np.inf:
            fit[r] = np.nan
            continue
        scale = max(scale, 1e-300)
        _errors(y[r], w[r], scale, nonneg, mean, mass, error, total, rise)
        _errors(y[r, ::-1], w[r, ::-1], scale, nonneg, mean, mass, error, total, fall)
        p = 0
        for i in range(n + 1):
            if rise[i] + fall[n - i] < rise[p] + fall[n - p]:
                p = i
        _write(fit[r, :p], mean, end, _pool(y[r, :p], w[r, :p], mean, mass, end))
        top = _pool(y[r, p:][::-1], w[r, p:][::-1], mean, mass, end)
        _write(fit[r, p:][::-1], mean, end, top)
