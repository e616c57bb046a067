"""The rows of a Bayesian half-sweep on the CPU, one row's system at a time, in the cache: ``gibbs.rows_torch`` is the twin.

A row's cells are laid out component by component, so that every inner loop of its Gram matrix runs along the cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from ..prox._numba import in_threads, kernel

_FAST = {"reassoc", "contract", "nsz"}
_CELLS = 256  # of a row, at a time: with 34 lines of float64 they are 70 KB


@kernel(fastmath=_FAST)
def _gather(first, n, col, t, w, noise, Z, G):
    """G = √p (z, 1, t - c) of n cells, p = w noise: the last column of Z is the bias c."""
    k, whole = Z.shape[1] - 1, n // 8 * 8
    for j in range(n):
        c = col[first + j]
        s = np.sqrt(noise[c] * (w[first + j] if w.size else 1.0))
        G[k, j] = s
        G[k + 1, j] = s * (t[first + j] - Z[c, k])
    for j in range(0, whole, 8):
        i = first + j
        c0, c1, c2, c3, c4, c5, c6, c7 = col[i], col[i + 1], col[i + 2], col[i + 3], col[i + 4], col[i + 5], col[i + 6], col[i + 7]
        s0, s1, s2, s3 = G[k, j], G[k, j + 1], G[k, j + 2], G[k, j + 3]
        s4, s5, s6, s7 = G[k, j + 4], G[k, j + 5], G[k, j + 6], G[k, j + 7]
        for a in range(k):
            G[a, j] = s0 * Z[c0, a]
            G[a, j + 1] = s1 * Z[c1, a]
            G[a, j + 2] = s2 * Z[c2, a]
            G[a, j + 3] = s3 * Z[c3, a]
            G[a, j + 4] = s4 * Z[c4, a]
            G[a, j + 5] = s5 * Z[c5, a]
            G[a, j + 6] = s6 * Z[c6, a]
            G[a, j + 7] = s7 * Z[c7, a]
    for j in range(whole, n):
        c, s = col[first + j], G[k, j]
        for a in range(k):
            G[a, j] = s * Z[c, a]


@kernel(fastmath=_FAST)
def _add_gram(G, n, A):
    """A += G Gᵀ above the diagonal, by squares of four lines; the lines are a multiple of four."""
    p = A.shape[0]
    for a in range(0, p, 4):
        for b in range(a, p, 4):
            s00, s01, s02, s03, s10, s11, s12, s13 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            s20, s21, s22, s23, s30, s31, s32, s33 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for j in range(n):
                x0, x1, x2, x3 = G[a, j], G[a + 1, j], G[a + 2, j], G[a + 3, j]
                y0, y1, y2, y3 = G[b, j], G[b + 1, j], G[b + 2, j], G[b + 3, j]
                s00 += x0 * y0
                s01 += x0 * y1
                s02 += x0 * y2
                s03 += x0 * y3
                s10 += x1 * y0
                s11 += x1 * y1
                s12 += x1 * y2
                s13 += x1 * y3
                s20 += x2 * y0
                s21 += x2 * y1
                s22 += x2 * y2
                s23 += x2 * y3
                s30 += x3 * y0
                s31 += x3 * y1
                s32 += x3 * y2
                s33 += x3 * y3
            A[a, b] += s00
            A[a, b + 1] += s01
            A[a, b + 2] += s02
            A[a, b + 3] += s03
            A[a + 1, b] += s10
            A[a + 1, b + 1] += s11
            A[a + 1, b + 2] += s12
            A[a + 1, b + 3] += s13
            A[a + 2, b] += s20
            A[a + 2, b + 1] += s21
            A[a + 2, b + 2] += s22
            A[a + 2, b + 3] += s23
            A[a + 3, b] += s30
            A[a + 3, b + 1] += s31
            A[a + 3, b + 2] += s32
            A[a + 3, b + 3] += s33


@kernel(fastmath=_FAST)
def _eliminate(A, n):
    """[P | h] becomes [U | U⁻ᵀ h], P = Uᵀ U with U upper: Cholesky and forward substitution in one."""
    for j in range(n):
        d = 1 / np.sqrt(A[j, j])
        for b in range(j, n + 1):
            A[j, b] *= d
        for i in range(j + 1, n):
            l = A[j, i]
            for b in range(i, n + 1):
                A[i, b] -= l * A[j, b]


@kernel(fastmath=_FAST)
def _add_spread(first, n, col, G, V, D):
    """D += Σ p v, the variances of the other side's entries."""
    k = V.shape[1] - 1
    for j in range(n):
        c, p = col[first + j], G[k, j] * G[k, j]
        for a in range(k + 1):
            D[a] += p * V[c, a]


@kernel(fastmath=_FAST)
def _squares(G, n, z):
    """Σ p (t - c - z·(y, 1))² of n cells; overwrites the line of G that holds the targets."""
    k1 = z.size
    for a in range(k1):
        for j in range(n):
            G[k1, j] -= z[a] * G[a, j]
    s = 0.0
    for j in range(n):
        s += G[k1, j] * G[k1, j]
    return s


def _rows(indptr, col, t, w, noise, own, Z, V, P, H, normal, out, spread, squares, first, last):
    k1 = Z.shape[1]
    lines = (k1 + 4) // 4 * 4
    G, A, z, D, diag = np.zeros((lines, _CELLS)), np.zeros((lines, lines)), np.zeros(k1), np.zeros(k1), np.zeros(k1)
    for r in range(first, last):
        A[:] = 0
        D[:] = 0
        start, end = indptr[r], indptr[r + 1]
        for s in range(start, end, _CELLS):
            n = min(_CELLS, end - s)
            _gather(s, n, col, t, w, noise, Z, G)
            _add_gram(G, n, A)
            if V.size:
                _add_spread(s, n, col, G, V, D)
        for a in range(k1):
            diag[a] = A[a, a]
            for b in range(a, k1):
                A[a, b] = P[a, b] + own[r] * A[a, b]
            A[a, k1] = H[r, a] + own[r] * A[a, k1]
        extra = 0.0
        if V.size:
            for a in range(k1):
                if a < k1 - 1:
                    A[a, a] += own[r] * D[a]
                spread[r, a] = 1 / A[a, a]
                extra += spread[r, a] * (diag[a] + (D[a] if a < k1 - 1 else 0.0))
        _eliminate(A, k1)
        for j in range(k1 - 1, -1, -1):
            v = A[j, k1] + (normal[r, j] if normal.size else 0.0)
            for b in range(j + 1, k1):
                v -= A[j, b] * z[b]
            z[j] = v / A[j, j]
            out[r, j] = z[j]
        if V.size:
            for a in range(k1):
                extra += D[a] * (z[a] * z[a] if a < k1 - 1 else 1.0)
        for s in range(start, end, _CELLS):
            n = min(_CELLS, end - s)
            if end - start > _CELLS:
                _gather(s, n, col, t, w, noise, Z, G)
            extra += _squares(G, n, z)
        squares[r] = extra


def load(dtype: torch.dtype) -> Callable:
    """The compiled twin of ``gibbs.rows_torch``."""
    assert dtype == torch.float64
    f, i = numba.float64, numba.int64
    one, two = f[::1], f[:, ::1]
    signature: Any = numba.void(i[::1], numba.int32[::1], one, one, one, one, two, two, two, two, two, two, two, one, i, i)
    compiled = kernel(signature)(_rows)

    def rows(
        cells: Any, noise: Tensor, own: Tensor, Z: Tensor, V: Tensor | None, P: Tensor, H: Tensor, normal: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        none = Z.new_empty(0, Z.shape[1])
        out = torch.empty(len(own), Z.shape[1], dtype=dtype)
        spread = none if V is None else torch.empty_like(out)
        squares = torch.empty(len(own), dtype=dtype)
        weight = Z.new_empty(0) if cells.w is None else cells.w
        draws = none if normal is None else normal
        given = (cells.indptr, cells.col, cells.t, weight, noise, own, Z, none if V is None else V, P, H, draws)
        arrays = [x.contiguous().numpy() for x in (*given, out, spread, squares)]
        in_threads(lambda first, last: compiled(*arrays, first, last), len(own), len(cells.t) * Z.shape[1])
        return out, None if V is None else spread, squares

    return rows
