"""Passes of HALS over rows in the cache, by Gram matrices or by stored cells: the torch form in ``hals`` is the oracle of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..problem import Problem
from ..prox._numba import in_threads, kernel

_LANES = 64  # rows side by side: the innermost loop is over them, and needs no sum across


class Kernels(NamedTuple):
    passes: Callable
    """HALS on Gram matrices, one for all rows or one for each."""
    near: Callable
    """HALS on the stored cells of each row."""


def load(dtype: torch.dtype) -> Kernels:
    """The kernels for a dtype, compiled."""
    x = {torch.float32: "float32", torch.float64: "float64"}[dtype]
    fast, rest = {"reassoc", "contract", "arcp", "nsz"}, f"{x}[::1], int64, int64, int64)"
    shared = kernel(f"void({x}[:,::1], {x}[:,::1], {x}[:,::1], {x}[:,::1], {rest}", fastmath=fast)(_passes)
    own = kernel(f"void({x}[:,::1], {x}[:,::1], {x}[:,::1], {x}[:,:,::1], {rest}", fastmath=fast)(_row_passes)
    ends = f"int32[::1], int32[::1], {x}[::1], {x}[::1], {x}[:,::1]"
    cells = kernel(f"void({x}[:,::1], {x}[:,::1], {x}[:,::1], {ends}, {x}[:,::1], {x}[:,::1], {rest}", fastmath=fast)(_cell_passes)
    tiny, most = torch.finfo(dtype).tiny, torch.finfo(dtype).max

    def passes(A: Tensor, C: Tensor, G: Tensor, elastic: tuple[float, float, float, float], inner: int) -> Tensor:
        """A (m, k) after ``inner`` passes on ½ a_i G_i a_iᵀ - a_i·c_i + the terms of ``Prox.elastic``; it comes component first."""
        new = torch.empty(A.shape[1], A.shape[0], dtype=dtype)
        numbers = np.array([*(min(max(e, -most), most) for e in elastic), tiny], dtype=new.numpy().dtype)
        given = A.mT.contiguous().numpy(), C.mT.contiguous().numpy(), G.contiguous().numpy(), numbers, inner
        compiled, lanes = (shared, _LANES) if G.ndim == 2 else (own, 1)
        work = A.numel() * A.shape[1] * inner // 16
        in_threads(lambda first, last: compiled(new.numpy(), *given, first, last), -(-A.shape[0] // lanes), work)
        return new.mT

    def near(p: Problem, A: Tensor, B: Tensor, inner: int) -> Tensor | None:
        """The same passes with the Gram matrix of each row left unmade: the row's own predictions follow each entry's step.

        None where a component's term is none that the kernel knows (``Prox.net``).
        """
        X: Any = p.X
        k = A.shape[1]
        nets: list[Any] = [p.prox_W.take(slice(j, j + 1), 1).net for j in range(k)]
        if None in nets:
            return None
        p.read()
        bounds = torch.tensor([net[:3] for net in nets], dtype=torch.float64).clamp(-most, most).to(dtype).mT.contiguous()
        l2 = torch.cat(torch.broadcast_tensors(*(torch.as_tensor(net[3]).to(A).reshape(-1, 1) for net in nets)), 1)
        x, e = p._data.entries(), p._excess
        e = torch.zeros_like(x) if e is None else e
        G, new = X.background * (B.mT @ B), torch.empty(A.shape, dtype=dtype)
        tensors = new, A, B, X.crow, X.col, x, e, G, bounds, l2, torch.tensor([tiny], dtype=dtype)
        given = [t.contiguous().numpy() for t in tensors]
        load = X.crow.long() + k * torch.arange(len(A) + 1) // 8  # a row without cells is some work too
        in_threads(lambda first, last: cells(*given, inner, first, last), len(A), len(x) * k * inner, load)
        return new.mT.contiguous().mT

    return Kernels(passes, near)


def _passes(new, A, C, G, numbers, inner, first, last):
    k, m = A.shape
    lo, hi, l1, l2, tiny = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    zero = lo - lo
    a = np.empty((k, _LANES), new.dtype)
    c = np.empty((k, _LANES), new.dtype)
    left = np.empty(_LANES, new.dtype)
    empty = True
    for q in range(k):
        empty = empty and G[q, q] == 0
    for block in range(first, last):
        start = np.uint64(block * _LANES)  # numba asks a signed index whether it counts from the end, and makes no vectors then
        rows = np.uint64(min(_LANES, m - block * _LANES))
        for q in range(k):
            for r in range(rows):
                a[q, r] = A[q, start + r]
                c[q, r] = C[q, start + r]
            for r in range(rows, _LANES):
                a[q, r] = zero
                c[q, r] = zero
            if empty:  # nothing is known of these rows: the penalty alone decides, and the start is forgotten
                for r in range(_LANES):
                    a[q, r] = zero
        for _ in range(inner):
            for q in range(k):
                d = G[q, q]
                for r in range(_LANES):
                    left[r] = c[q, r] + d * a[q, r]
                whole = k // 4 * 4
                for p in range(0, whole, 4):
                    g0, g1, g2, g3 = G[q, p], G[q, p + 1], G[q, p + 2], G[q, p + 3]
                    for r in range(_LANES):
                        left[r] -= g0 * a[p, r] + g1 * a[p + 1, r] + g2 * a[p + 2, r] + g3 * a[p + 3, r]
                for p in range(whole, k):
                    g0 = G[q, p]
                    for r in range(_LANES):
                        left[r] -= g0 * a[p, r]
                bend = d + l2
                if d > zero:
                    share = 1 / bend
                    for r in range(_LANES):
                        v = left[r]
                        v = (max(v - l1, zero) + min(v + l1, zero)) * share
                        v = min(max(v, lo), hi)
                        a[q, r] = v if abs(v) >= tiny else min(max(zero, lo), hi)
                else:  # no curvature from the data: the minimiser of the penalty nearest to where it is
                    for r in range(_LANES):
                        v = a[q, r] if l1 + l2 == zero else zero
                        a[q, r] = min(max(v, lo), hi)
        for q in range(k):
            for r in range(rows):
                new[q, start + r] = a[q, r]


def _row_passes(new, A, C, G, numbers, inner, first, last):
    k = A.shape[0]
    lo, hi, l1, l2, tiny = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    zero = lo - lo
    a = np.empty(k, new.dtype)
    for i in range(first, last):
        empty = True
        for q in range(k):
            a[q] = A[q, i]
            empty = empty and G[i, q, q] == 0 and C[q, i] == 0
        if empty:
            for q in range(k):
                a[q] = zero
        for _ in range(inner):
            for q in range(k):
                d = G[i, q, q]
                if d > zero:
                    slope = zero
                    for p in range(k):
                        slope += G[i, q, p] * a[p]
                    v = C[q, i] + d * a[q] - slope
                    v = (max(v - l1, zero) + min(v + l1, zero)) / (d + l2)
                    v = min(max(v, lo), hi)
                    a[q] = v if abs(v) >= tiny else min(max(zero, lo), hi)
                else:
                    a[q] = min(max(a[q] if l1 + l2 == zero else zero, lo), hi)
        for q in range(k):
            new[q, i] = a[q]


def _cell_passes(new, A, B, crow, col, t, e, G, bounds, l2, numbers, inner, first, last):
    k = A.shape[1]
    tiny = numbers[0]
    zero = tiny - tiny
    longest = 1
    for i in range(first, last):
        longest = max(longest, crow[i + 1] - crow[i])
    y = np.empty((k, longest), A.dtype)  # the features of the row's cells, one after the other
    left, share = np.empty(longest, A.dtype), np.empty(longest, A.dtype)
    a, bend = np.empty(k, A.dtype), np.empty(k, A.dtype)
    for i in range(first, last):
        begin = crow[i]
        n = crow[i + 1] - begin
        own = i if len(l2) > 1 else 0
        empty = True
        for c in range(n):
            j = col[begin + c]
            share[c] = e[begin + c]
            left[c] = t[begin + c]
            for q in range(k):
                y[q, c] = B[j, q]
        for q in range(k):
            d, s = G[q, q], zero
            for c in range(n):
                d += share[c] * y[q, c] * y[q, c]
                s += left[c] * y[q, c]
            bend[q] = d
            empty = empty and d <= zero and s == zero
        for q in range(k):
            v = zero if empty else A[i, q]
            a[q] = v
            for c in range(n):
                left[c] -= share[c] * v * y[q, c]
        for _ in range(inner):
            for q in range(k):
                lo, hi, l1, d = bounds[0, q], bounds[1, q], bounds[2, q], bend[q]
                if d > zero:
                    v = d * a[q]
                    for c in range(n):
                        v += left[c] * y[q, c]
                    for p in range(k):
                        v -= G[q, p] * a[p]
                    v = (max(v - l1, zero) + min(v + l1, zero)) / (d + l2[own, q])
                    v = min(max(v, lo), hi)
                    v = v if abs(v) >= tiny else min(max(zero, lo), hi)
                else:
                    v = min(max(a[q] if l1 + l2[own, q] == zero else zero, lo), hi)
                step = v - a[q]
                a[q] = v
                if step != zero:
                    for c in range(n):
                        left[c] -= step * share[c] * y[q, c]
        for q in range(k):
            new[i, q] = a[q]
