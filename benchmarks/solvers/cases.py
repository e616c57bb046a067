"""The data that everybody factorizes, the starts that everybody is given, and the value that everybody is judged by."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

Factors = tuple[np.ndarray, np.ndarray]
DTYPES = {"f32": np.float32, "f64": np.float64}
BLOCK = 2_000_000  # cells whose prediction is held at once


@dataclass(frozen=True)
class Data:
    """X (m, n) in float64 with the rank to be found: an array (NaN is no data) or a CSR matrix, whose zeros are data."""

    X: Any
    rank: int
    loss: str
    simplex: bool = False  # each column of H sums to one

    @property
    def missing(self) -> bool:
        return not sp.issparse(self.X) and bool(np.isnan(self.X).any())

    @property
    def factor_numbers(self) -> int:
        return sum(self.X.shape) * self.rank

    def cast(self, dtype: str) -> Any:
        """X as a user of that dtype has it, sparse with 32-bit indices."""
        X = self.X.astype(DTYPES[dtype])
        if sp.issparse(X):
            X.indices, X.indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
        return X

    def start(self, seed: int) -> Factors:
        """|standard normal| factors times the best scalar, shared between them; with a simplex it goes to W alone."""
        (m, n), r = self.X.shape, np.random.default_rng(100 + seed)
        W, H = np.abs(r.standard_normal((m, self.rank))), np.abs(r.standard_normal((self.rank, n)))
        if self.simplex:
            H /= H.sum(0)
        top, below = self._fit(W, H)
        return (W * (top / below), H) if self.simplex else (W * np.sqrt(top / below), H * np.sqrt(top / below))

    def _fit(self, W: np.ndarray, H: np.ndarray) -> tuple[float, float]:
        if self.loss == "kl":
            return self.X.sum(), W.sum(0) @ H.sum(1)
        if self.missing:
            parts = [(np.nansum(x * p), np.square(p)[~np.isnan(x)].sum()) for x, p in blocks(self.X, W, H)]
            return sum(p[0] for p in parts), sum(p[1] for p in parts)
        return ((self.X @ H.T) * W).sum(), ((W.T @ W) * (H @ H.T)).sum()

    def yardstick(self) -> Callable[[Any, Any], float]:
        """value(W, H) in float64: ‖X - WH‖/‖X‖ over the data, or for "kl" the divergence Σ x ln(x/ŷ) - x + ŷ."""
        measure = _divergence(self.X) if self.loss == "kl" else _relative_error(self.X, self.missing)

        def value(W: Any, H: Any) -> float:
            W, H = np.asarray(W, np.float64), np.asarray(H, np.float64)
            with np.errstate(all="ignore"):
                at = measure(W, H)
            return float(at) if np.isfinite(at) else np.inf

        return value


def blocks(X: np.ndarray, W: np.ndarray, H: np.ndarray):
    """(x, ŷ) for some rows at a time."""
    rows = max(1, BLOCK // X.shape[1])
    for first in range(0, len(X), rows):
        yield X[first : first + rows], W[first : first + rows] @ H


def _relative_error(X: Any, missing: bool) -> Callable[[np.ndarray, np.ndarray], float]:
    size = np.square(X.data).sum() if sp.issparse(X) else np.nansum(np.square(X))

    def residual(W, H):
        return sum(np.square(np.where(np.isnan(x), 0, x - p)).sum() for x, p in blocks(X, W, H)) / size

    def gram(W, H):
        return (size - 2 * ((X @ H.T) * W).sum() + ((W.T @ W) * (H @ H.T)).sum()) / size

    def value(W, H):
        if missing:
            return np.sqrt(residual(W, H))
        squared = gram(W, H)  # it cancels where little is left
        return np.sqrt(residual(W, H) if squared < 1e-5 and not sp.issparse(X) else squared)

    return value


def _divergence(X: Any) -> Callable[[np.ndarray, np.ndarray], float]:
    x = X.data if sp.issparse(X) else X[X > 0]
    constant = (x * np.log(x) - x)[x > 0].sum()
    row = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr)) if sp.issparse(X) else None

    def logs(W, H):
        if row is None:
            return sum((x * np.log(np.where(x > 0, p, 1.0))).sum() for x, p in blocks(X, W, H))
        Ht, step = np.ascontiguousarray(H.T), BLOCK // W.shape[1]
        parts = (slice(i, i + step) for i in range(0, len(row), step))
        return sum(X.data[s] @ np.log((W[row[s]] * Ht[X.indices[s]]).sum(1)) for s in parts)

    return lambda W, H: constant - logs(W, H) + W.sum(0) @ H.sum(1)


# ── the cases ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def planted(m: int, n: int, k: int = 20) -> np.ndarray:
    r = np.random.default_rng(0)
    W = r.gamma(1, 1, (m, k)) * (r.random((m, k)) < 0.5)
    H = r.gamma(1, 1, (k, n)) * (r.random((k, n)) < 0.5)
    X = W @ H
    return np.maximum(X + 0.1 * X.mean() * r.standard_normal((m, n)), 0)


def holes(m: int, n: int, k: int = 20) -> np.ndarray:
    X = planted(m, n, k)
    X[np.random.default_rng(2).random(X.shape) < 0.5] = np.nan
    return X


def counts(m: int, n: int, k: int = 20, words: int = 70) -> sp.csr_matrix:
    """Documents: row i draws Poisson(words) + 1 words, each from one of its topics."""
    r = np.random.default_rng(1)
    topics, mixtures = r.dirichlet(np.full(n, 0.05), k), r.dirichlet(np.full(k, 0.1), m)
    each = r.multinomial(r.poisson(words, m) + 1, mixtures)  # (m, k): the words that a row draws from a topic
    rows = [np.repeat(np.arange(m), each[:, q]) for q in range(k)]
    cols = [r.choice(n, len(i), p=topics[q]) for q, i in enumerate(rows)]
    at = np.concatenate(rows), np.concatenate(cols)
    return sp.csr_matrix((np.ones(len(at[0])), at), (m, n))


def digits() -> np.ndarray:
    from sklearn.datasets import load_digits

    return load_digits().data


def cells() -> sp.csr_matrix:
    """The counts of a folder with ``pbmc3k_counts_genes_x_cells.npz`` (scipy's format), a row for each gene."""
    path = os.environ["BENCH_PBMC"]
    with np.load(path, allow_pickle=False) as z:
        known = {name: z[name] for name in z.files}
    kind = {"csc": sp.csc_matrix, "csr": sp.csr_matrix}[known["format"].item().decode()]
    X = kind((known["data"].astype(np.float64), known["indices"], known["indptr"]), known["shape"]).tocsr()
    return X[np.diff(X.indptr) > 0]


def abundances(m: int, n: int, k: int = 3) -> np.ndarray:
    """Mixed spectra: m bands, n pixels, each of them a mixture of k materials."""
    r = np.random.default_rng(3)
    X = r.gamma(1, 1, (m, k)) @ r.dirichlet(np.ones(k), n).T
    return np.maximum(X + 0.02 * X.mean() * r.standard_normal((m, n)), 0)


@dataclass(frozen=True)
class Case:
    about: str
    make: Callable[[], Any]
    rank: int = 20
    losses: tuple[str, ...] = ("frobenius", "kl")
    simplex: bool = False
    small: bool = False  # for tests

    def data(self, loss: str) -> Data:
        return Data(self.make(), self.rank, loss, self.simplex)


CASES = {
    "dense": Case("planted, dense, 2000 x 1000", lambda: planted(2000, 1000)),
    "dense-large": Case("planted, dense, 6000 x 4000", lambda: planted(6000, 4000), losses=("frobenius",)),
    "sparse": Case("planted counts, CSR, 20,000 x 5,000, about 1 %", lambda: counts(20_000, 5_000)),
    "digits": Case("handwritten digits, 1797 x 64", digits, rank=16),
    "pbmc": Case("3k blood cells, counts, CSR", cells),
    "missing": Case("planted, dense, 2000 x 1000, half of it missing", lambda: holes(2000, 1000), losses=("frobenius",)),
    "simplex": Case("mixed spectra, 150 x 10,000, abundances sum to one", lambda: abundances(150, 10_000), 3, ("frobenius",), True),
    "tiny": Case("planted, dense, 60 x 40", lambda: planted(60, 40, 4), 4, small=True),
    "tiny-sparse": Case("planted counts, CSR, 200 x 100", lambda: counts(200, 100, 4, 20), 4, small=True),
    "tiny-simplex": Case("mixed spectra, 20 x 50", lambda: abundances(20, 50), 3, ("frobenius",), True, small=True),
}
