"""Ratings R ≈ P Qᵀ with holes: a table from a parquet file, L2, early stopping, the completed matrix, on any device; and then what
it was for, recommendations.

½ Σ over the ratings (r - p·q)² + λ/2 (Σ p² + Σ q²): only ratings count, a hole is no zero.

Run it:  python examples/ratings_pq.py [cpu | cuda]
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

import proxfactor as pf
from proxfactor import serve
from proxfactor.ratings import compare

TABLE = pd.DataFrame(
    [[4.5, 2.3, 0, 1.2], [4.6, 0, 0, 1.25], [1.0, 1.2, 0, 5.6], [1.8, 0, 0, 4.3], [0, 1.4, 5.32, 4.3]],
    index=["Ann", "Bob", "Cem", "Dee", "Eva"],
    columns=["Alien", "Brazil", "Casablanca", "Dune"],
)  # 0 stands for "not rated"


def complete(path: Path, latent_factors: int, penalty: float, device: str) -> pd.DataFrame:
    """The completed table of a wide parquet file whose zeros are holes, with its names."""
    table = pf.read(path, missing="zeros")
    table = replace(table, matrix=table.matrix.to(device))
    result = pf.factorize(table, latent_factors, W=pf.L2Squared(penalty), H=pf.L2Squared(penalty))
    print(result.status)
    return pd.DataFrame(result.predict(), index=result.rows, columns=result.cols)


class EarlyStopping:
    """Stop when the error on held-out ratings has not fallen by ``min_delta`` for ``patience`` looks; keep the best P and Q."""

    def __init__(self, held_out: pf.Matrix, patience: int = 5, min_delta: float = 1e-3):
        self.held_out, self.patience, self.min_delta = held_out, patience, min_delta
        self.best, self.waited = np.inf, 0

    def __call__(self, progress) -> bool:
        P, Q = progress.W, progress.H.mT
        error = (self.held_out.predict(P, Q) - self.held_out.entries()).square().mean().sqrt().item()
        print(f"  iteration {progress.row['iteration']:>4}  loss {progress.row['loss']:>10.3f}  held-out RMSE {error:.4f}")
        if error < self.best - self.min_delta:
            self.best, self.waited, self.P, self.Q = error, 0, P.clone(), Q.clone()
        else:
            self.waited += 1
        return self.waited >= self.patience


def split(R: torch.Tensor, share: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The ratings in two tables with holes: each rating is held out with probability ``share``."""
    held_out = torch.rand(R.shape, generator=torch.Generator().manual_seed(seed)).to(R.device) < share
    return R.masked_fill(held_out, torch.nan), R.masked_fill(~held_out, torch.nan)


def recommendations(folder: Path, user: int = 7) -> dict[str, float]:
    """From a parquet file with a rating in each row to films for a user, and why; how good they are beside the baselines."""
    ratings, titles = pf.datasets.films()
    pq.write_table(ratings, folder / "ratings.parquet")
    called = dict(zip(titles["film"].to_pylist(), titles["title"].to_pylist(), strict=True))
    table = pd.read_parquet(folder / "ratings.parquet")

    model = pf.ExplicitMF(rank=8)  # λ is chosen on ratings held out
    compared = compare(model, table, user="user", item="film", rating="rating")
    print(f"\n{compared}")
    model.fit(table, user="user", item="film", rating="rating")
    best = model.recommend(user, n=5)
    print(f"\nFor user {user}:")
    for film, score in zip(best["film"], best["score"], strict=True):
        why = [called[int(seen)] for seen in model.explain(user, film, n=2)["film"] if seen.isdigit()]
        print(f"  {score:.2f}  {called[film]:<30} as you rated {' and '.join(why)}")
    model.save(folder / "run")
    print(serve.load(folder / "run").recommend(user, n=1))  # the same answer from a process without torch
    return {name: measured["rmse"] for name, measured in compared.found.items()}


def main(device: str = "cpu") -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.parquet.gzip"
        TABLE.to_parquet(path, compression="gzip")
        completed = complete(path, latent_factors=2, penalty=0.02, device=device)
        print(completed.round(2), "\n")
        recommended = recommendations(Path(folder))

    _, truth = pf.datasets.ratings()
    R = torch.from_numpy(truth + 0.5 * np.random.default_rng(1).standard_normal(truth.shape)).to(device)
    rated, _ = split(R, 0.85)
    train, held_out = split(rated, 0.1, seed=1)
    stop = EarlyStopping(pf.Observed(held_out))
    result = pf.factorize(pf.Observed(train), 8, W="ridge(1)", H="ridge(1)", callback=stop)
    missing = {
        "the mean of the ratings": torch.from_numpy(truth).to(device) - train.nanmean(),
        "P Qᵀ where the held-out error was least": torch.from_numpy(truth).to(device) - stop.P @ stop.Q.mT,
    }
    scores = {name: off[rated.isnan()].square().mean().sqrt().item() for name, off in missing.items()}
    print(result.status)
    for name, error in scores.items():
        print(f"RMSE on cells that nobody rated, {name}: {error:.3f}")
    known = TABLE.to_numpy() != 0
    small = {"RMSE on the small table": float(np.sqrt(((completed - TABLE).to_numpy()[known] ** 2).mean()))}
    return scores | small | recommended


if __name__ == "__main__":
    main(*sys.argv[1:])
