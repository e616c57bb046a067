"""The Kullback-Leibler divergence cell by cell in one pass, its slope and yardstick: ``KL`` and ``Problem._cells`` are the twin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..prox._numba import in_threads, kernel

_FAST = {"reassoc", "contract", "nsz"}


@kernel(fastmath=_FAST)
def _loss(p, x):
    if x > 0 and p > 0:
        gap = p - x
        if abs(gap) >= 0.1 * x:
            return x * np.log(x / p) + gap
        r = gap / (p + x)  # ln(p/x) = 2 artanh(r): a series in r where the difference would cancel
        q = r * r
        tail = q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q / 13)))))
        return r * (gap - 2 * x * tail)
    return np.inf if p < 0 or x > 0 else p


def _losses(p, x, w, background, tiny, out, first, last):
    for i in range(np.uint64(first), np.uint64(last)):
        weight = w[i] if w.size else np.float64(1)
        y = weight * _loss(np.float64(p[i]), np.float64(x[i])) if weight > 0 else 0.0
        if background > 0:
            y -= background * (p[i] if p[i] >= 0 else np.inf)
        out[i] = y


def _slopes(p, x, w, background, tiny, out, first, last):
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for i in range(np.uint64(first), np.uint64(last)):
        y = one - x[i] / p[i] if x[i] > 0 else one
        if w.size:
            y = y * w[i] if w[i] > 0 else zero
        out[i] = y - background


def _yardsticks(p, x, w, background, tiny, out, first, last):
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for i in range(np.uint64(first), np.uint64(last)):
        share = one / p[i] if p[i] > tiny else zero  # of what is smaller the square is no number
        y = max(x[i] * share, one)
        if w.size:
            y = y * w[i] if w[i] > 0 else zero
        out[i] = (y - background) * share


def load(dtype: torch.dtype) -> dict[str, Callable]:
    """The methods that ``KL.compiled`` has kernels for, compiled for a dtype."""
    x = {torch.float32: "float32", torch.float64: "float64"}[dtype]
    tiny = np.dtype(x).type(torch.finfo(dtype).tiny ** 0.4)

    def made(f: Callable) -> Callable:
        compiled = kernel(f"void({x}[::1], {x}[::1], {x}[::1], {x}, {x}, {x}[::1], int64, int64)", fastmath=_FAST)(f)

        def cells(pred: Tensor, x: Tensor, weight: Tensor | None, background: float) -> Tensor:
            turned = pred.ndim == 2 and not pred.is_contiguous()
            given = pred, x, pred[:0] if weight is None else weight.to(pred)
            flat = [(t.mT if turned else t).contiguous() for t in given]
            out = torch.empty_like(flat[0])
            p, y, w, new = (t.reshape(-1).numpy() for t in (*flat, out))
            few = p.dtype.type(background)
            in_threads(lambda first, last: compiled(p, y, w, few, tiny, new, first, last), p.size, p.size)
            return out.mT if turned else out

        return cells

    return {"__call__": made(_losses), "grad": made(_slopes), "yardstick": made(_yardsticks)}
