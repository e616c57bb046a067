"""HALS beside scikit-learn's coordinate descent on the digits, rank 16, float64, from the same starts.

Run it:  python benchmarks/digits.py            (about two minutes; figures hold for one machine, so compare the ratios)
"""

import time
import warnings

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning

from proxfactor import Problem, datasets, factorize

RANK, STARTS = 16, 3


def begin(X, seed):
    """|standard normal| factors times the best scalar, shared between them."""
    r = np.random.default_rng(100 + seed)
    W, H = np.abs(r.standard_normal((X.shape[0], RANK))), np.abs(r.standard_normal((RANK, X.shape[1])))
    scale = np.sqrt((X * (W @ H)).sum() / ((W @ H) ** 2).sum())
    return W * scale, H * scale


def scikit_learn(X, start, **options):
    W0, H0 = (F.copy() for F in start)
    model = NMF(RANK, init="custom", **options)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        W = model.fit_transform(X, W=W0, H=H0)
    return W, model.components_, model.n_iter_, time.perf_counter() - began


def ours(X, start, **options):
    began = time.perf_counter()
    result = factorize(X, RANK, W="nonneg", H="nonneg", init=start, **options)
    return result.W, result.H, result.iterations, time.perf_counter() - began


def main():
    X = datasets.digits().matrix.entries().numpy()
    problem = Problem(X, "frobenius", "nonneg", "nonneg")
    grid = Table("start", "solver", "relative error", "iterations", "seconds", "certificate", box=None)
    ours(X, begin(X, 0), max_iter=3), scikit_learn(X, begin(X, 0), max_iter=3)
    for seed in range(STARTS):
        start = begin(X, seed)
        default = ours(X, start)
        runs = {
            "scikit-learn, its defaults": scikit_learn(X, start),
            "scikit-learn, tol 1e-6": scikit_learn(X, start, tol=1e-6, max_iter=20_000),
            "proxfactor, tol 1e-3": ours(X, start, tol=1e-3),
            "proxfactor, its defaults": default,
        }
        for name, (W, H, iterations, seconds) in runs.items():
            error = np.linalg.norm(X - W @ H) / np.linalg.norm(X)
            certificate = max(c.item() for c in problem.certificate(torch.tensor(W), torch.tensor(H)))
            grid.add_row(str(seed), name, f"{error:.6f}", str(iterations), f"{seconds:.2f}", f"{certificate:.1e}")
    Console(width=120).print(grid)
    print(f"digits {X.shape[0]} x {X.shape[1]}, rank {RANK}, float64, {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
