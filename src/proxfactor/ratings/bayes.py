"""Ratings with their uncertainty: Bayesian matrix factorization by sampling, or by its fast approximation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor

from ..io.formats import one_of
from ..serve import Model, Unknown, codes_of
from .base import Callback, Recommender
from .gibbs import Cells, Draws, Means, Side, draw_noise, draw_rows, half, rows_for, side
from .pattern import Pattern
from .tables import Ratings

BYTES = 2**29
"""What the draws that are kept may take; where all would take more, evenly spaced ones are kept."""

POINTS = 16
"""Points that stand for what the variational form knows of a row; a power of two."""

SETTLE = 10
"""Draws in which users who come later forget where they began."""


@dataclass(kw_only=True)
class BayesianMF(Recommender):
    """Bayesian matrix factorization: ratings, how sure they are, and nothing to tune.

    r_ui = mean + b_u + c_i + x_u · y_i + ε,  ε ~ N(0, σ² / (w_ui α_u β_i)): each user and each item has a precision of its
    own. (x_u, b_u) ~ N(Bᵀ φ_u, P⁻¹), and φ_u says what u rated, not how: a one, log(1 + n_u), and up to ``rank`` leading
    singular vectors of the matrix of who rated what, scaled by the roots of its margins; items likewise. B, P and all
    precisions are learned. A weight w multiplies the precision of a rating; one of zero leaves it out.

    rank     components; too many cost time, but do little harm
    method   "gibbs": ``sweeps`` (200) draws of everything, each given the rest. The score is the mean of what they predict,
             the first ``burn_in`` (a fifth) left out. "vb": mean-field variational, ``sweeps`` (50) of the same cost; it
             predicts less well, and its standard deviations are a little large
    draws    how many draws are kept, evenly spaced; None: all that fit into 512 MB. Answers take as many times longer than a
             plain factorization's. On MovieLens 100K the error with 40 of 160 is .2 % larger than with all, with 20 .4 %.
             ("vb" keeps 16 points in their place)
    device   where torch computes; on the CPU a compiled kernel does

    ``predict(return_std=True)`` gives the standard deviation of a rating, ``predict_interval`` intervals. The same seed gives
    the same model on any number of threads. ``partial_fit`` goes on with the chain, from its last draw. Raises ValueError for
    options out of range. (Salakhutdinov and Mnih 2008; the regression on φ: Simm et al. 2015.)

    >>> table = (["al", "al", "bo", "bo", "cy"], ["x", "y", "x", "y", "x"], [5.0, 1.0, 4.0, 2.0, 5.0])
    >>> model = BayesianMF(rank=2).fit(table)
    >>> bool(model.predict("cy", "x") > model.predict("cy", "y"))
    True
    """

    rank: int = 32
    method: str = "gibbs"
    sweeps: int | None = None
    burn_in: int | None = None
    draws: int | None = None
    seed: int = 0
    device: str = "cpu"

    def predict_interval(
        self, users: Any, items: Any, level: float = 0.9, *, unknown: Unknown = "error"
    ) -> tuple[np.ndarray, np.ndarray]:
        """(low, high): a rating lies between them with probability ``level``: score ± z · std, not clipped to the scale.

        Raises ValueError for a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; it is a probability between 0 and 1, such as 0.9")
        score, std = replace(self.model_, low=None, high=None).predict(users, items, return_std=True, unknown=unknown)
        wide = NormalDist().inv_cdf((1 + level) / 2) * std
        return score - wide, score + wide

    # fitting

    def _fit(self, ratings: Ratings, start: Model | None, callback: Callback | None) -> Model:
        sweeps, burn_in = self._lengths()
        cells, (mean, scale) = ratings.weighed(), ratings.standard()
        scale = scale or 1.0
        pattern = Pattern.of(ratings, self.rank)
        sides = self._sides(cells, pattern, mean, scale)
        if start is not None:
            self._go_on(sides, ratings, scale)
        chance, rows = self._chance(self.seed), rows_for(len(cells), self.rank + 1, sweeps, self.device)
        kept, last = [_Kept(s) for s in sides], sweeps - burn_in
        room = self._room(last, sum(ratings.shape))
        for sweep in range(1, sweeps + 1):
            half(sides[0], sides[1], chance, rows)
            half(sides[1], sides[0], chance, rows)
            draw = sweep - burn_in if self.method == "gibbs" else 0
            if draw > 0:
                for k in kept:
                    k.see(draw * room // last > (draw - 1) * room // last)
            error = scale * float(sides[0].squares.sum() / max(1, len(cells))) ** 0.5
            if self._seen({"sweep": sweep, "sweeps": sweeps, "error": error}, callback):
                break
        for k in kept:
            if not k.Z:
                k.see(True)
        return self._model(ratings, pattern, kept[0], kept[1], mean, scale)

    def _lengths(self) -> tuple[int, int]:
        one_of("method", self.method, "gibbs", "vb")
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; at least one component is needed")
        sweeps = (50 if self.method == "vb" else 200) if self.sweeps is None else self.sweeps
        burn_in = sweeps // 5 if self.burn_in is None else self.burn_in
        if not 0 <= burn_in < sweeps:
            raise ValueError(f"sweeps={sweeps} and burn_in={burn_in} leave no draw; sweeps must be more, and burn_in 0 or more")
        if self.draws is not None and self.draws < 1:
            raise ValueError(f"draws is {self.draws}; keep at least one, or None: as many as fit into memory")
        return sweeps, burn_in

    def _chance(self, seed: int) -> Any:
        return Means() if self.method == "vb" else Draws(seed, self.device)

    def _room(self, there: int, rows: int) -> int:
        """How many draws are kept."""
        if self.method == "vb":
            return 1
        return max(1, min(there if self.draws is None else self.draws, there, BYTES // (4 * max(1, rows) * (self.rank + 1))))

    def _sides(self, r: Ratings, pattern: Pattern, mean: float, scale: float) -> tuple[Side, Side]:
        t, chance = (r.value - mean) / scale, Draws(self.seed + 2**32)
        users = self._side(Cells.of(r.user, r.item, t, r.weight, r.shape[0], self.device), pattern.users, chance, tied=False)
        items = self._side(Cells.of(r.item, r.user, t, r.weight, r.shape[1], self.device), pattern.items, chance, tied=True)
        return users, items

    def _side(self, cells: Cells, known: np.ndarray, chance: Draws, *, tied: bool) -> Side:
        Z = chance.normal(len(known), self.rank + 1) * 0.3 / self.rank**0.25
        Z[:, -1] = 0
        group = torch.tensor([0, 1] + [2] * known.shape[1])[: known.shape[1]]
        moved = (x.to(self.device) for x in (torch.from_numpy(known), group, Z))
        return side(cells, *moved, tied=tied, means=self.method == "vb")

    def _go_on(self, sides: tuple[Side, Side], ratings: Ratings, scale: float) -> None:
        """Rows that the fit before knows begin where it ended."""
        m = self.model_
        if m.Y.shape[1] != m.draws * self.rank:
            return
        for s, Z, old, new in zip(sides, _draws_of(m, scale), (m.users, m.items), (ratings.users, ratings.items), strict=True):
            Z = Z.mean(1) if self.method == "vb" else Z[:, -1]
            s.Z[torch.from_numpy(codes_of(old, new, "id")).to(self.device)] = torch.from_numpy(Z).to(s.Z)

    def _model(self, r: Ratings, pattern: Pattern, users: _Kept, items: _Kept, mean: float, scale: float) -> Model:
        (X, b, b_draws), (Y, c, c_draws) = users.factor(), items.factor()
        governed = users.governed()
        typical = np.repeat(governed["B"][:, 0], users.points, 0)  # the row of a user of whom nothing is known
        fallback = np.einsum("nsk,sk->n", Y, typical[:, :-1]) / len(typical) + typical[:, -1].mean() + c
        extra = governed | {"item_noise": np.stack(items.noise), "scale": np.array([scale])}
        indptr, indices, values = r.csr()
        return Model(
            r.users, r.items, _flat(X) * (scale / len(typical)), _flat(Y), mean, scale * b, scale * c, indptr, indices, values,
            mean + scale * fallback, float(r.value.min()), float(r.value.max()), len(typical), scale**2 * users.variance(),
            items.variance(), scale * b_draws, scale * c_draws,
            extra=extra | {"basis": pattern.basis, "center": pattern.center, "width": pattern.width},
        )  # fmt: skip

    # users who come later

    def _rows(self, ratings: Ratings) -> tuple[np.ndarray, np.ndarray]:
        model = self._folded(ratings)
        return model.X, model.b

    def _folded(self, ratings: Ratings) -> Model:
        """New users join the chain: their rows are drawn again for each draw of the items and of what governs users."""
        m, e, r = self.model_, self.model_.extra, ratings.weighed()
        scale, states = float(e["scale"][0]), len(e["P"])
        cells = Cells.of(r.user, r.item, (r.value - m.mean) / scale, r.weight, len(r.users), self.device)
        users = self._side(cells, Pattern(e["basis"], e["center"], e["width"]).known(r), Draws(self.seed), tied=False)
        items = _draws_of(m, scale)[1].reshape(len(m.items), states, -1, self.rank + 1)
        rows, chance = rows_for(len(r), self.rank + 1, states + SETTLE, self.device), self._chance(self.seed + 2**33)
        kept = _Kept(users)
        for step, s in enumerate([0] * SETTLE + list(range(states))):
            given = e["P"][s], e["B"][s], e["item_noise"][s], items[:, s].mean(1), items[:, s].var(1)
            users.P, users.B, noise, Z, V = (torch.from_numpy(x).to(users.Z) for x in given)
            users.shape, users.rate = users.Z.new_tensor(e["prior"][s])
            draw_rows(users, noise, Z, None if users.V is None else V, chance, rows)
            draw_noise(users, chance)
            if step >= SETTLE:
                kept.see(True)
        X, b, b_draws = kept.factor()
        indptr, indices, values = ratings.csr()
        return replace(
            m, users=ratings.users, X=_flat(X) * (scale / m.draws), b=scale * b, b_draws=scale * b_draws, indptr=indptr,
            indices=indices, values=values, noise=scale**2 * kept.variance(),
        )  # fmt: skip


class _Kept:
    """What is kept of one side: rows (rows, draws, k + 1), what governs them, their noise; the mean variance of all draws."""

    def __init__(self, s: Side):
        self.side, self.points, self.seen, self.sum = s, 1 if s.V is None else POINTS, 0, np.zeros(len(s.Z))
        self.Z: list[np.ndarray] = []
        self.noise: list[np.ndarray] = []
        self.P: list[np.ndarray] = []
        self.B: list[np.ndarray] = []
        self.prior: list[list[float]] = []

    def see(self, keep: bool) -> None:
        s = self.side
        self.seen, self.sum = self.seen + 1, self.sum + s.variance.cpu().numpy()
        if keep:
            self.Z.append((s.Z[:, None] if s.V is None else _points(s.Z, s.V, int(s.tied))).float().cpu().numpy())
            for held, x in ((self.noise, s.noise), (self.P, s.P), (self.B, s.B)):
                held.append(x.cpu().numpy())
            self.prior.append([float(s.shape), float(s.rate)])

    def factor(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows, draws, k), the mean bias (rows,), and how the biases of the draws differ from it (rows, draws)."""
        Z = np.concatenate(self.Z, 1)
        bias = Z[..., -1].mean(1, dtype=np.float64)
        return Z[..., :-1], bias, Z[..., -1] - bias[:, None]

    def governed(self) -> dict[str, np.ndarray]:
        return {"P": np.stack(self.P), "B": np.stack(self.B), "prior": np.array(self.prior)}

    def variance(self) -> np.ndarray:
        return self.sum / self.seen


def _points(Z: Tensor, V: Tensor, side: int) -> Tensor:
    """(rows, POINTS, k + 1): points about Z of the variances V whose products with the other side's average to Z·Z exactly.

    z_q ± √v_q with the signs of a column of Hadamard's matrix; component q has one column for users, another for items.
    """
    q, n = np.arange(Z.shape[1]), POINTS - 1
    columns = (q + side * (1 + q // n % (n - 1))) % n
    signs = torch.from_numpy(hadamard(POINTS)[:, 1 + columns]).to(Z)
    return Z[:, None] + V.sqrt()[:, None] * signs


def _draws_of(m: Model, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The draws of both sides (rows, draws, k + 1), in the units of the fit."""
    sides = (m.X * (m.draws / scale), m.b, m.b_draws), (m.Y, m.c, m.c_draws)
    X, Y = (np.concatenate([F.reshape(len(F), m.draws, -1), (b[:, None] + d)[..., None] / scale], 2) for F, b, d in sides)
    return X, Y


def _flat(X: np.ndarray) -> np.ndarray:
    return X.reshape(len(X), -1)
