"""The k largest of each row of a large CPU tensor: ``_leading`` of ``balls`` is its twin and its oracle."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ._numba import in_threads, kernel


@kernel()
def _nth(keys, k, spare):
    """The k-th largest of keys, and how many of those equal to it are among the k: quickselect. keys is used up."""
    n, draw = keys.size, 1
    while True:
        draw = (1103515245 * draw + 12345) % 2**31  # no order of the entries is then a bad one
        pivot = keys[(draw >> 8) % n]
        above, equal = 0, 0
        for j in range(n):
            spare[above] = keys[j]
            above += keys[j] > pivot
            equal += keys[j] == pivot
        if above >= k:
            keys, spare, n = spare, keys, above
        elif above + equal >= k:
            return pivot, k - above
        else:
            k, was, n = k - above - equal, n, 0
            for j in range(was):
                key = keys[j]
                keys[n] = key
                n += key < pivot


@kernel()
def _rows(x, mask, k, y, first, last):
    """The rows first to last of x with the k largest magnitudes, into y. Both are the bits of floating-point numbers."""
    keys, spare = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1] + 1, x.dtype)
    for r in range(first, last):
        v, out = x[r], y[r]
        for j in range(v.size):
            keys[j] = v[j] & mask  # without the sign the bits are in the order of the numbers, and a NaN is above inf
        least, left = _nth(keys, k, spare)
        for j in range(v.size):
            key = v[j] & mask
            out[j] = v[j] if key > least or (key == least and left > 0) else 0
            left -= key == least


def keep_largest(x: Tensor, k: int) -> Tensor:
    """The k entries largest in magnitude along the last dim, of equal ones the first, for a float32 or float64 CPU tensor."""
    rows = x.detach().reshape(-1, x.shape[-1]).contiguous()
    y, bits = torch.empty_like(rows), torch.int32 if x.dtype == torch.float32 else torch.int64
    mask = np.array(torch.iinfo(bits).max, dtype=rows.view(bits).numpy().dtype)[()]
    in_threads(partial(_rows, rows.view(bits).numpy(), mask, min(k, rows.shape[1]), y.view(bits).numpy()), rows.shape[0], x.numel())
    return y.reshape(x.shape)
