"""Measures of a factorization: how well W H fits X, where it does not, and whether it found the known components."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .chunked import Chunked
from .matrix import Matrix, as_matrix
from .streamed import problem_of

POINTS = 400
"""Points of a profile: more rows or columns become means of equal groups of neighbours."""

BINS = 61
SIDE = 60
SAMPLE = 2**20


def relative_error(X: Any, W: Any, H: Any, weight: Any = None) -> float:
    """The size of what is left over relative to the size of the data: √Σ w (x - ŷ)² / √Σ w x² over the cells that are data.

    X (m, n) is anything that ``as_matrix`` takes, W (m, k), H (k, n), ŷ = W H. The zeros of a Sparse X count as data, by
    Σ_all ŷ² = tr((WᵀW)(HHᵀ)), so that it never becomes dense. Where X is zero: 0 if the prediction is too, else inf.

    >>> relative_error([[1.0, 2.0], [2.0, 4.0]], [[1.0], [2.0]], [[1.0, 1.0]])
    0.4472135954999579
    """
    problem = problem_of(as_matrix(X, weight))
    A, B = _factors(problem.X, W, H)
    return problem.relative_error(A, B.mT)


def residual_summary(X: Any, W: Any, H: Any, rows: Any = None, cols: Any = None) -> dict[str, Any]:
    """What is left over, x - ŷ with ŷ = W H, in a few kilobytes that JSON can hold: enough to draw it without the data.

    X (m, n), W (m, k), H (k, n); rows, cols are names or None. Keys:

    shape      [m, n]
    histogram  ``edges`` and ``counts`` of x - ŷ over the cells that are data; the range is symmetric and holds 99 % of
               them, the outer bins hold the rest too; ``cells`` is how many they are. Where the zeros of a large Sparse
               are data, the counts of its empty cells come from evenly spaced rows, scaled up: ``sampled`` is then True.
               Of Chunked data everything comes from the evenly spaced rows that stay in memory, and nothing is scaled up
    rows       ``error``: relative error of each row (None where its data is all zero or missing), at most 400 numbers:
               means over groups of ``group`` neighbours; ``worst``: the worst five as index, name (or None) and error
    cols       the same for columns
    picture    means of x - ŷ over at most 60 x 60 rectangles of cells, None where there is no data

    >>> residual_summary([[1.0, 2.0], [2.0, 4.0]], [[1.0], [2.0]], [[1.0, 1.0]], cols=["a", "b"])["cols"]["worst"][0]
    {'index': 1, 'name': 'b', 'error': 0.5}
    """
    X = as_matrix(X)
    A, B = _factors(X, W, H)
    if isinstance(X, Chunked):
        return _summary_of_sample(X, A, B, rows, cols)
    edges, counts, sampled = _histogram(X, A, B)
    error, size = _margins(X, A, B)
    return {
        "shape": list(X.shape),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist(), "cells": int(counts.sum()), "sampled": sampled},
        "rows": _profile(error[0], size[0], rows),
        "cols": _profile(error[1], size[1], cols),
        "picture": _picture(X, A, B),
    }


def _summary_of_sample(X: Chunked, A: Tensor, B: Tensor, rows: Any, cols: Any) -> dict[str, Any]:
    at = X.sampled.numpy()
    summary = residual_summary(X.sample, A[X.sampled.to(A.device)], B.mT, None if rows is None else rows[at], cols)
    for worst in summary["rows"]["worst"]:
        worst["index"] = int(at[worst["index"]])
    summary["histogram"]["sampled"] |= len(at) < X.shape[0]
    summary["rows"]["group"] *= math.ceil(X.shape[0] / len(at))
    return summary | {"shape": list(X.shape)}


def match(H: Any, H_true: Any) -> tuple[Tensor, Tensor]:
    """Each true component with the found one that it is paired to, by the assignment with the largest sum of |cosine|.

    H (k, n), H_true (t, n) with t ≤ k. Returns order (t,), so that ``H[order]`` stands in the order of the truth, and the
    |cosines| (t,) of the pairs. Scale and sign do not count.

    >>> order, cosines = match([[0.0, 2.0], [3.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    >>> order.tolist(), cosines.tolist()
    ([1, 0], [1.0, 1.0])
    """
    from scipy.optimize import linear_sum_assignment

    found, true = (torch.as_tensor(F).detach().double().cpu() for F in (H, H_true))
    if found.ndim != 2 or true.ndim != 2 or found.shape[1] != true.shape[1] or len(true) > len(found):
        raise ValueError(
            f"match was given components of shape {tuple(found.shape)} and true ones of shape {tuple(true.shape)}; "
            "it needs (k, n) and (t, n) with t ≤ k. To match the columns of W give W.T"
        )
    cosine = (_unit(true) @ _unit(found).mT).abs()
    order = torch.as_tensor(linear_sum_assignment(cosine.numpy(), maximize=True)[1])
    return order, cosine[torch.arange(len(true)), order]


def _unit(F: Tensor) -> Tensor:
    F = F / F.abs().amax(1, keepdim=True).clamp(min=torch.finfo(F.dtype).tiny)
    return F / torch.linalg.vector_norm(F, dim=1, keepdim=True).clamp(min=torch.finfo(F.dtype).tiny)


def _factors(X: Matrix, W: Any, H: Any) -> tuple[Tensor, Tensor]:
    """W (m, k) and Hᵀ (n, k) in double precision where X is."""
    A, H = (torch.as_tensor(F).detach().to(X.device, torch.float64) for F in (W, H))
    m, n = X.shape
    if A.ndim != 2 or H.ndim != 2 or A.shape != (m, H.shape[0]) or H.shape[1] != n:
        raise ValueError(
            f"X is {m} x {n}, W has shape {tuple(A.shape)} and H {tuple(H.shape)}; they must be ({m}, k) and (k, {n})"
            + ("; give W and H the other way round" if A.ndim == H.ndim == 2 and H.shape == (m, A.shape[0]) else "")
        )
    return A, H.mT


def _cells(X: Matrix, A: Tensor, B: Tensor) -> Iterator[tuple[tuple[slice, Matrix], Tensor, Tensor, Tensor]]:
    """((rows, block), w, x, ŷ) at the stored cells, so many rows at a time that the temporaries fit."""
    stored = max(1, X.stored // X.shape[0])
    for rows, block in X.blocks(64 * stored):
        x, y = block.entries().double(), block.predict(A[rows], B)
        yield (rows, block), torch.ones_like(x) if block.weight is None else block.weight.double(), x, y


def _total(block: Matrix, v: Tensor, dim: int, values: Tensor, length: int) -> Tensor:
    """The values at the stored cells, summed into the group v that their row (dim 0) or column (dim 1) belongs to."""
    return torch.bincount(block.along(v, dim).reshape(-1), values.reshape(-1), length)


def _margins(X: Matrix, A: Tensor, B: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Σ w (x - ŷ)² and Σ w x², each of them for every row (m,) and every column (n,)."""
    shape, columns = X.shape, torch.arange(X.shape[1], device=X.device)
    error, size = ([torch.zeros(s, dtype=torch.float64, device=X.device) for s in shape] for _ in range(2))
    for (rows, block), w, x, y in _cells(X, A, B):
        for sums, values in ((error, w * (x - y) ** 2 - X.background * y**2), (size, w * x**2)):
            sums[0][rows] += block.sums(values)
            sums[1] += _total(block, columns, 1, values, shape[1])
    if X.background:
        error[0] += X.background * ((A @ (B.mT @ B)) * A).sum(1)
        error[1] += X.background * ((B @ (A.mT @ A)) * B).sum(1)
    return error, size


def _profile(error: Tensor, size: Tensor, names: Any) -> dict[str, Any]:
    ratio = torch.where(size > 0, (error.clamp(min=0) / size).sqrt(), math.nan).cpu()
    worst = ratio.nan_to_num(-1.0).topk(min(5, len(ratio))).indices.tolist()
    group = math.ceil(len(ratio) / POINTS)
    means = torch.stack([part.nanmean() for part in ratio.split(group)])
    return {
        "error": [None if math.isnan(v) else v for v in means.tolist()],
        "group": group,
        "worst": [
            {"index": i, "name": None if names is None else str(names[i]), "error": ratio[i].item()}
            for i in worst
            if not math.isnan(ratio[i].item())
        ],
    }


def _histogram(X: Matrix, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, bool]:
    stored, empty, sampled = _sample(X, A, B)
    some = torch.cat([stored, empty]).cpu().numpy()
    end = float(np.abs(np.quantile(some, [0.005, 0.995])).max()) if some.size else 0.0
    end = end or (float(np.abs(some).max()) if some.size else 0.0) or 1.0
    counts = torch.zeros(BINS, dtype=torch.float64)
    for _, w, x, y in _cells(X, A, B):
        counts += _count((x - y)[w > 0], end)
    if len(empty):
        cells = X.shape[0] * X.shape[1] - X.stored
        counts += (_count(empty, end) * (cells / len(empty))).round()
    return torch.linspace(-end, end, BINS + 1, dtype=torch.float64), counts.long(), sampled


def _count(values: Tensor, end: float) -> Tensor:
    at = ((values / end + 1) * (BINS / 2)).clamp(0, BINS - 1).long()  # the outer bins take the tails
    return torch.bincount(at, minlength=BINS).cpu().double()


def _sample(X: Matrix, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, bool]:
    """x - ŷ at the stored and, where they are data, at the empty cells of evenly spaced rows; and whether rows were left out."""
    m, n = X.shape
    each = n if X.background else max(1, X.stored // m)
    rows = torch.arange(0, m, math.ceil(m * each / SAMPLE), device=X.device)
    block, A = X.take(rows), A[rows]
    left = block.entries().double() - block.predict(A, B)
    stored = left.reshape(-1) if block.weight is None else left[block.weight > 0]
    if not X.background:
        return stored, stored[:0], False
    is_empty = torch.ones(len(rows), n, dtype=torch.bool, device=X.device)
    is_empty[block.along(torch.arange(len(rows), device=X.device), 0), block.along(torch.arange(n, device=X.device), 1)] = False
    return stored, -(A @ B.mT)[is_empty], len(rows) < m


def _picture(X: Matrix, A: Tensor, B: Tensor) -> list[list[float | None]]:
    """The mean of x - ŷ over each rectangle of cells that has data."""
    high, wide = (min(SIDE, s) for s in X.shape)
    row, col = (torch.arange(s, device=X.device) * side // s for s, side in zip(X.shape, (high, wide), strict=True))
    left, count = (torch.zeros(high * wide, dtype=torch.float64, device=X.device) for _ in range(2))
    for (rows, block), w, x, y in _cells(X, A, B):
        at = block.along(row[rows], 0) * wide + block.along(col, 1)
        data = (w > 0).double()
        full = float(X.background > 0)
        left += torch.bincount(at.reshape(-1), (data * (x - y) + full * y).reshape(-1), high * wide)
        count += torch.bincount(at.reshape(-1), (data - full).reshape(-1), high * wide)
    if X.background:
        sums = [A.new_zeros(side, A.shape[1]).index_add_(0, to, F) for side, to, F in ((high, row, A), (wide, col, B))]
        left -= (sums[0] @ sums[1].mT).reshape(-1)
        count += (row.bincount()[:, None] * col.bincount()[None, :]).reshape(-1)
    means = torch.where(count > 0.5, left / count, math.nan).reshape(high, wide)
    return [[None if math.isnan(v) else v for v in line] for line in means.tolist()]


# how alike fits are


def stability(fits: Sequence[tuple[Any, Any]]) -> np.ndarray:
    """The mean silhouette of each component over several fits of one rank, (k,): 1 where all of them found the same.

    fits: pairs W (m, k), H (k, n), two or more. A component is its rank-one part w hᵀ, two of them are as far apart as
    1 - cos(w, w') cos(h, h'), so that scale does not count; each cluster has one of every fit, by repeated assignment to the
    clusters' means. (Alexandrov et al. 2013; the silhouette: Rousseeuw 1987.) For k = 1 it is the mean cosine.

    >>> W, H = np.eye(3, 2), np.eye(2, 4)
    >>> stability([(W, H), (W[:, ::-1], 5 * H[::-1])]).tolist()
    [1.0, 1.0]
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import silhouette_samples

    sides = [[_unit(torch.as_tensor(np.ascontiguousarray(F)).detach().double().cpu()) for F in (W.T, H)] for W, H in fits]
    w, h = (torch.stack([side[i] for side in sides]) for i in (0, 1))  # (fits, k, m), (fits, k, n)
    count, k = w.shape[:2]
    cosine = ((w.flatten(0, 1) @ w.flatten(0, 1).mT) * (h.flatten(0, 1) @ h.flatten(0, 1).mT)).reshape(count, k, count, k).numpy()
    started, order = False, np.tile(np.arange(k), (count, 1))  # order[f, c]: which component of fit f is in cluster c
    for _ in range(50):
        before = order.copy()
        for f in range(count):
            settled = range(f) if not started else [g for g in range(count) if g != f]
            near = np.sum([cosine[f][:, g][:, order[g]] for g in settled], axis=0) if settled else np.eye(k)
            order[f] = linear_sum_assignment(near, maximize=True)[1].argsort()
        started = True
        if np.array_equal(order, before):
            break
    cluster = np.empty((count, k), dtype=int)
    for f in range(count):
        cluster[f, order[f]] = np.arange(k)
    if k == 1:
        return np.array([cosine[:, 0, :, 0][~np.eye(count, dtype=bool)].mean()])
    away = 1 - cosine.reshape(count * k, count * k)
    np.fill_diagonal(away, 0.0)
    silhouettes = silhouette_samples(away.clip(min=0.0), cluster.ravel(), metric="precomputed")
    return np.array([silhouettes[cluster.ravel() == c].mean() for c in range(k)])


def consensus(fits: Sequence[tuple[Any, Any]]) -> np.ndarray:
    """How often two rows of X belong to the same component, (m, m), over fits W (m, k), H (k, n). (Brunet et al. 2004.)

    A row belongs to the component with the largest |w_iq| ‖h_q‖.

    >>> consensus([(np.eye(2), np.eye(2)), (np.ones((2, 1)), np.ones((1, 2)))]).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    pairs = [[torch.as_tensor(F).detach().double().cpu() for F in pair] for pair in fits]
    labels = [(W.abs() * torch.linalg.vector_norm(H, dim=1)).argmax(1).numpy() for W, H in pairs]
    return np.mean([label[:, None] == label for label in labels], axis=0)


def cophenetic(C: Any) -> float:
    """The correlation of 1 - C with the heights at which average linkage joins its rows; 1 for a consensus of zeros and ones.

    C (m, m) is a ``consensus``. Where all distances are alike it is 1. (Sokal and Rohlf 1962; Brunet et al. 2004.)

    >>> round(cophenetic([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), 6)
    1.0
    """
    from scipy.cluster.hierarchy import average, cophenet
    from scipy.spatial.distance import squareform

    distance = squareform(1 - np.asarray(C, dtype=float), checks=False)
    if len(distance) < 2 or np.ptp(distance) == 0:
        return 1.0
    heights = cophenet(average(distance))
    return 1.0 if np.ptp(heights) == 0 else min(1.0, float(np.corrcoef(distance, heights)[0, 1]))


def dispersion(C: Any) -> float:
    """The mean of 4 (c - ½)² over a ``consensus`` C: 1 where all fits agree, 0 where they agree half the time. (Kim and Park 2007.)

    >>> dispersion([[1.0, 0.5], [0.5, 1.0]])
    0.5
    """
    return float(np.mean(4 * (np.asarray(C, dtype=float) - 0.5) ** 2))
