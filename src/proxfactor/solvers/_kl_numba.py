"""The half-step of ``kl`` on the CPU, row by row: the torch form there is its twin and its oracle.

A row's slice of B is laid out component by component, once, and stays in the cache for all passes over the row: every
inner loop then runs along the row's cells. What the loops index is a whole array, never a slice of one: a slice made
inside a loop costs more than 64 cells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..matrix import Dense, Matrix, Sparse, Stored
from ..prox._numba import in_threads, kernel

_FAST = {"reassoc", "contract", "nsz"}  # not NaN or inf: a cell without data is predicted to be infinite
_CHUNK = 4096  # cells that are summed in the dtype of the data, before float64 takes over
_ROWS = 16  # rows of a dense matrix that are read side by side


@kernel(fastmath=_FAST)
def _gather(B, col, G):
    """G (k, cells) = B[col]ᵀ, eight cells at a time."""
    k, n = B.shape[1], col.size
    whole = n // 8 * 8
    for j in range(0, whole, 8):
        c0, c1, c2, c3 = col[j], col[j + 1], col[j + 2], col[j + 3]
        c4, c5, c6, c7 = col[j + 4], col[j + 5], col[j + 6], col[j + 7]
        for q in range(k):
            G[q, j] = B[c0, q]
            G[q, j + 1] = B[c1, q]
            G[q, j + 2] = B[c2, q]
            G[q, j + 3] = B[c3, q]
            G[q, j + 4] = B[c4, q]
            G[q, j + 5] = B[c5, q]
            G[q, j + 6] = B[c6, q]
            G[q, j + 7] = B[c7, q]
    for j in range(whole, n):
        c = col[j]
        for q in range(k):
            G[q, j] = B[c, q]


@kernel(fastmath=_FAST)
def _predict(a, G, p):
    k, n = G.shape
    for j in range(n):
        p[j] = 0
    whole = k // 4 * 4
    for q in range(0, whole, 4):
        a0, a1, a2, a3 = a[q], a[q + 1], a[q + 2], a[q + 3]
        for j in range(n):
            p[j] += (a0 * G[q, j] + a1 * G[q + 1, j]) + (a2 * G[q + 2, j] + a3 * G[q + 3, j])
    for q in range(whole, k):
        a0 = a[q]
        for j in range(n):
            p[j] += a0 * G[q, j]


@kernel(fastmath=_FAST)
def _dot(r, G, q):
    """Σ_j r_j G_qj."""
    total = r[0] - r[0]
    for j in range(G.shape[1]):
        total += r[j] * G[q, j]
    return total


@kernel(fastmath=_FAST)
def _dot_part(r, g):
    total = r[0] - r[0]
    for j in range(r.size):
        total += r[j] * g[j]
    return total


@kernel()
def _long_dot(r, G, q):
    wide, g = 0.0, G[q]
    for c in range(0, g.size, _CHUNK):
        e = min(c + _CHUNK, g.size)
        wide += _dot_part(r[c:e], g[c:e])
    return wide


@kernel(fastmath=_FAST)
def _slopes(y, p, G, was, d, eps, now):
    """Move the prediction by d along one component, then Σ y b/p and Σ y b²/p² of another one, in one reading."""
    up, bend = d - d, d - d
    for j in range(G.shape[1]):
        moved, low = p[j] + d * G[was, j], eps * p[j]
        moved = moved if moved > low else low
        p[j] = moved
        u = G[now, j] / moved
        v = y[j] * u
        up += v
        bend += v * u
    return up, bend


@kernel(fastmath=_FAST)
def _slopes_part(y, p, before, d, eps, g):
    up, bend = d - d, d - d
    for j in range(y.size):
        moved, low = p[j] + d * before[j], eps * p[j]
        moved = moved if moved > low else low
        p[j] = moved
        u = g[j] / moved
        v = y[j] * u
        up += v
        bend += v * u
    return up, bend


@kernel()
def _long_slopes(y, p, G, was, d, eps, now):
    wide, wider, before, g = 0.0, 0.0, G[was], G[now]
    for c in range(0, g.size, _CHUNK):
        e = min(c + _CHUNK, g.size)
        up, bend = _slopes_part(y[c:e], p[c:e], before[c:e], d, eps, g[c:e])
        wide += up
        wider += bend
    return wide, wider


@kernel(fastmath=_FAST)
def _pair_slopes(y, p, G, r, was, d, eps, now):
    """The same where what one component gains component r loses."""
    up, bend = d - d, d - d
    for j in range(G.shape[1]):
        moved, low = p[j] + d * (G[was, j] - G[r, j]), eps * p[j]
        moved = moved if moved > low else low
        p[j] = moved
        u = (G[now, j] - G[r, j]) / moved
        v = y[j] * u
        up += v
        bend += v * u
    return up, bend


@kernel()
def _exchanged(w, other, g, bend):
    """As ``kl.exchanged``."""
    if g > 0:
        return -w * g / (g + bend * w)
    return -other * g / (bend * other - g) if g < 0 else 0.0


@kernel()
def _root(c, mu, a):
    """The v ≥ 0 with mu v² + c v = a, as ``kl.root``."""
    below = c + np.sqrt(c * c + 4 * mu * a)
    return 2 * a / below if below > 0 and a > 0 else 0.0


@kernel()
def _newton(w, s, mu, up, bend):
    """As ``kl.newton``; without a ridge it takes no root."""
    g = s + mu * w - up
    if mu == 0 and bend > 0:
        return bend * w * w / (g + bend * w) if g > 0 else w - g * up / (bend * s) if g < 0 else w
    if g > 0:
        return _root(s - up + bend * w, mu, bend * w * w)
    if g < 0 and bend > 0:
        rho = bend / up
        return w + _root(mu + rho * (s + mu * w), mu * rho, -g)
    return w


@kernel()
def _onto_simplex(shares, s, total, solid, a):
    """a_q = shares_q / (s_q + θ), θ such that the sum is total (where solid: or no more than that)."""
    k, most, some, first = s.size, 0.0, 0.0, 0
    for q in range(k):
        some += shares[q]
        most = max(most, s[q])
        higher = shares[q] / total - s[q] > shares[first] / total - s[first]
        first = q if shares[q] > 0 and (higher or shares[first] == 0) else first
    if some <= 0:  # no data in the row: the cheapest component, or all alike where none costs anything
        least, at = np.inf, 0
        for q in range(k):
            if s[q] < least:
                least, at = s[q], q
        for q in range(k):
            a[q] = (total / k if most == 0 else total if q == at else 0.0) if not solid else 0.0
        return
    base, up = s[first], shares[first] / total  # θ is counted from there, where it costs no digits
    up = max(up, base) if solid else up
    for _ in range(60):
        f, slope = 0.0, 0.0
        for q in range(k):
            if shares[q] > 0:
                below = max((s[q] - base) + up, shares[q] / total)
                f += shares[q] / below
                slope += shares[q] / below / below
        step = f * (f / total - 1) / slope
        if not step > 1e-15 * up:
            break
        up += step
    for q in range(k):
        a[q] = shares[q] / max((s[q] - base) + up, shares[q] / total) if shares[q] > 0 else 0.0


@kernel(fastmath=_FAST)
def _row(a, y, e, G, i, S, background, own, lo, hi, tilt, ridge, total, solid, early, inner, p, s, shares):
    """Better a for one row: its data y (weight · x), the excess e of its weights over the background, its part G of B."""
    k, n, kind = a.size, G.shape[1], a.dtype.type
    small, eps = kind(np.finfo(a.dtype).tiny), kind(np.finfo(a.dtype).eps)
    mass, weighty, long = 0.0, background > 0, n > _CHUNK
    for j in range(n):
        mass += y[j]
    least, floor = kind(max(small * mass, small)), kind(max(small**0.4 * mass, small))
    for j in range(n):
        y[j] = y[j] if y[j] >= least else kind(0)
    for q in range(k):
        s[q] = background * S[q]
    if own == 1:
        for q in range(k):
            s[q] += (_long_dot(e, G, q) if long else np.float64(_dot(e, G, q))) if n else 0.0
            s[q] = max(s[q], 0.0)
            weighty = weighty or s[q] > 0
    elif own == 2:  # every cell of the row, each of weight one
        weighty = True
        for q in range(k):
            s[q] = S[q]
    ri, ti, li, hi_ = min(i, ridge.shape[0] - 1), min(i, tilt.shape[0] - 1), min(i, lo.shape[0] - 1), min(i, hi.shape[0] - 1)
    if not weighty and total == 0:
        for q in range(k):
            a[q] = lo[li, q]
        return
    for _ in range(early):
        if n:
            _predict(a, G, p)
        for j in range(n):
            p[j] = y[j] / (p[j] if p[j] > floor else floor)
        for q in range(k):
            shares[q] = a[q] * (_long_dot(p, G, q) if long else np.float64(_dot(p, G, q))) if n else 0.0
        if total > 0:
            _onto_simplex(shares, s, total, solid, a)
            continue
        for q in range(k):
            v = _root(s[q] + tilt[ti, q], ridge[ri, q], shares[q])
            v = v if s[q] > 0 or v > 0 else np.float64(a[q])
            a[q] = min(max(v, lo[li, q]), hi[hi_, q])
    if n:
        _predict(a, G, p)
    for j in range(n):
        p[j] = (p[j] if p[j] > floor else floor) if y[j] > 0 else kind(np.inf)
    was, d, held = 0, kind(0), 0.0
    for q in range(k):
        held += a[q]
    for _ in range(inner if total == 0 or solid else 0):
        for q in range(k):
            up, bend = 0.0, 0.0
            if long:
                up, bend = _long_slopes(y, p, G, was, d, eps, q)
            elif n:
                up_, bend_ = _slopes(y, p, G, was, d, eps, q)
                up, bend = np.float64(up_), np.float64(bend_)
            slope = s[q] + tilt[ti, q]
            mu = ridge[ri, q]
            v = _newton(np.float64(a[q]), slope, mu, up, bend)
            v = 0.0 if v * s[q] <= small * mass and up <= slope and slope + mu > 0 else v
            most = hi[hi_, q] if total == 0 else a[q] + max(total - held, 0.0)
            new = kind(min(max(v, lo[li, q]), most))
            was, d = q, new - a[q]
            held += d
            a[q] = new
    if total == 0 or n == 0:
        return
    for j in range(n):
        moved, low = p[j] + d * G[was, j], eps * p[j]
        p[j] = moved if moved > low else low
    for _ in range(inner):
        r, was, d = 0, 0, kind(0)
        for q in range(k):
            r = q if a[q] > a[r] else r
        for q in range(k):
            if q == r:
                continue
            up_, bend_ = _pair_slopes(y, p, G, r, was, d, eps, q)
            move = _exchanged(np.float64(a[q]), np.float64(a[r]), s[q] - s[r] - np.float64(up_), np.float64(bend_))
            new = kind(max(a[q] + move, 0.0))
            was, d = q, new - a[q]
            a[q] = new
            a[r] = max(a[r] - d, kind(0))
        for j in range(n):
            moved, low = p[j] + d * (G[was, j] - G[r, j]), eps * p[j]
            p[j] = moved if moved > low else low


@kernel(fastmath=_FAST)
def _stored(crow, col, x, w, B, S, background, own, lo, hi, tilt, ridge, total, solid, early, inner, A, first, last):
    """The rows first to last of A, in place, for compressed rows x with weights w (none: all one)."""
    k, most = A.shape[1], 1
    for i in range(first, last):
        most = max(most, crow[i + 1] - crow[i])
    slab = np.empty(k * most, A.dtype)
    y, e, p = np.empty(most, A.dtype), np.empty(most, A.dtype), np.empty(most, A.dtype)
    s, shares = np.empty(k), np.empty(k)
    for i in range(first, last):
        lo_, n = crow[i], crow[i + 1] - crow[i]
        G = slab[: k * n].reshape(k, n)
        _gather(B, col[lo_ : lo_ + n], G)
        data = x[lo_ : lo_ + n]
        if w.size:
            weight = w[lo_ : lo_ + n]
            for j in range(n):
                y[j] = weight[j] * data[j]
                e[j] = weight[j] - background
        else:
            for j in range(n):
                y[j] = data[j]
            for j in range(n if own else 0):
                e[j] = 1 - background
        _row(A[i], y, e, G, i, S, background, own, lo, hi, tilt, ridge, total, solid, early, inner, p, s, shares)


@kernel(fastmath=_FAST)
def _dense(x, w, flip, Bt, S, background, own, lo, hi, tilt, ridge, total, solid, early, inner, A, first, last):
    """The same for a dense x; with ``flip`` it is given as its transpose, of which a few columns are read side by side."""
    k, n = Bt.shape
    ys, es, p = np.empty((_ROWS, n), A.dtype), np.empty((_ROWS, n), A.dtype), np.empty(n, A.dtype)
    s, shares = np.empty(k), np.empty(k)
    for start in range(first, last, _ROWS):
        count = min(_ROWS, last - start)
        if flip:
            for j in range(n):
                for r in range(count):
                    ys[r, j] = x[j, start + r]
            if w.size:
                for j in range(n):
                    for r in range(count):
                        es[r, j] = w[j, start + r]
        else:
            for r in range(count):
                for j in range(n):
                    ys[r, j] = x[start + r, j]
                if w.size:
                    for j in range(n):
                        es[r, j] = w[start + r, j]
        for r in range(count):
            y, e, i = ys[r], es[r], start + r
            if w.size:
                for j in range(n):
                    y[j] *= e[j]
            _row(A[i], y, e, Bt, i, S, background, own, lo, hi, tilt, ridge, total, solid, early, inner, p, s, shares)


def rows(X: Matrix, A: Tensor, B: Tensor, terms: Any, early: int, inner: int) -> Tensor:
    """What ``kl.rows`` gives, by as many threads as torch uses; rows are shared out, so that no sum depends on their number."""
    A = A.contiguous().clone()
    limits = [t.expand(-1, A.shape[1]).double().numpy() for t in (terms.lo, terms.hi, terms.tilt, terms.ridge)]
    options = (*map(np.ascontiguousarray, limits), terms.total, terms.solid, early, inner, A.numpy())
    S = B.double().sum(0).numpy()
    if isinstance(X, Stored):
        own = 1 if X.weight is not None or X.background != 1 else 0
        w = X.values[:0] if X.weight is None else X.weight
        data = (X.crow.numpy(), X.col.numpy(), X.values.contiguous().numpy(), w.contiguous().numpy(), B.contiguous().numpy())
        run = partial(_stored, *data, S, X.background, own, *options)
    else:
        assert isinstance(X, Dense)
        flip = not X.values.is_contiguous() and X.values.mT.is_contiguous()
        x, w = (t.mT.contiguous() if flip else t.contiguous() for t in (X.values, X.values[:0] if X.weight is None else X.weight))
        own = 2 if X.weight is None else 1
        run = partial(_dense, x.numpy(), w.numpy(), flip, B.mT.contiguous().numpy(), S, 0.0, own, *options)
    in_threads(run, A.shape[0], X.stored)
    return A


def load(dtype: torch.dtype) -> Callable:
    """``rows``, compiled for a dtype, as it is for stored and for dense cells."""
    from .kl import Terms

    none, X = torch.zeros(1, 1, dtype=torch.float64), torch.eye(2, dtype=dtype)
    for M in (Dense(X), Sparse(X.to_sparse())):
        rows(M, X, X, Terms(none, none + torch.inf, none, none), 1, 1)
    return rows
