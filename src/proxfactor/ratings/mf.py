"""Recommenders by matrix factorization: ratings with biases, and clicks whose absence counts a little. One objective for both.

½ Σ_stored w (t - x_u·y_i)² + ½ a0 Σ_not stored (x_u·y_i)² + ½ Σ_u λ_u |x_u|² + ½ Σ_i λ_i |y_i|²,  λ_u = reg (n_u + a0 n)^ν,

n_u the stored cells of user u, n the number of items, and the same for items. The half-step of users is that of items.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from ..losses import Frobenius
from ..matrix import Observed, Sparse
from ..problem import Problem
from ..prox import Columns, L2Squared, as_prox
from ..serve import Model
from ..solvers import ALS, APG, HALS, Alternating
from .base import Callback, Recommender
from .pattern import Pattern
from .tables import Ratings
from .tuning import SEARCH, chosen

PATTERN = 32
"""Singular vectors of who rated what, unless it is said how many."""

ENOUGH = 40
"""Conjugate gradients after which a row is solved to rounding, wherever it began."""


@dataclass(eq=False)
class Side:
    """Users or items: their problem, its solver, and where their ridge pulls them, Γᵀφ of what is ``known`` by who rated what.

    Γ is learned: it minimises Σ_u λ_u |x_u - Γᵀφ_u|² + ½ Σ_u λ_u |Γ|². Without it the centre is 0, one row for all.
    """

    p: Problem
    solver: Alternating
    known: Tensor | None  # (rows, d)
    center: Tensor  # (rows or 1, k)
    gamma: Tensor | None = None  # (d, k)

    def follow(self, A: Tensor) -> float | Tensor:
        """The centres move to where A is; given back is by how much that lowers the penalty."""
        if self.known is None:
            return 0.0
        before, pulled = self.penalty(A), self.known * self._lam
        G = (pulled.mT @ self.known).double()
        G.diagonal().add_(self._lam.double().sum() / 2)
        self.gamma = torch.linalg.solve(G, (pulled.mT @ A).double()).to(A)
        self.center = self.known @ self.gamma
        return before - self.penalty(A)

    def penalty(self, A: Tensor) -> Tensor:
        if not isinstance(self.solver, ALS):
            return self.p.prox_W.value(A)
        value = (self._lam * (A - self.center).square().sum(1, keepdim=True)).double().sum() / 2
        return value if self.gamma is None else value + self._lam.double().sum() / 4 * self.gamma.double().square().sum()

    @property
    def _lam(self) -> Tensor:
        return torch.as_tensor(self.p.prox_W.ridge)


@dataclass(kw_only=True)
class Factors(Recommender):
    """What ExplicitMF and ImplicitMF share. Each says what its targets, weights and biases are."""

    rank: int = 64
    reg: float | Literal["auto"] = "auto"
    nu: float = 1.0
    W: Any = None
    H: Any = None
    max_iter: int = 20
    tol: float = 1e-4
    steps: int | None = 3
    seed: int = 0
    device: str = "cpu"

    numbers: ClassVar[tuple[str, ...]] = ("reg", "nu", "tol")

    @property
    def biased(self) -> bool:
        """Whether users and items have levels of their own."""
        return False

    @abstractmethod
    def _scale(self, ratings: Ratings) -> tuple[float, float]:
        """What is subtracted from the ratings, and what they are divided by."""

    @abstractmethod
    def _cells(self, ratings: Ratings, mean: float, scale: float) -> tuple[np.ndarray, np.ndarray | None, float]:
        """The target and the weight of each stored cell, and the weight of the others."""

    def _fit(self, ratings: Ratings, start: Model | None, callback: Callback | None) -> Model:
        self._check()
        if start is None:
            best, self.trials_ = chosen(self._to_search(), ratings, callback)
            self.found_ = {f.name: new for f in fields(self) if f.init and (new := getattr(best, f.name)) != getattr(self, f.name)}
        else:
            self.found_ = start.info["found"]
        mean, scale = self._scale(ratings)
        problem = self._problem(ratings, mean, scale)
        A, B = self._start(ratings, start, scale)
        pattern = self._pattern(ratings)
        users, items = (None, None) if pattern is None else (pattern.users, pattern.items)
        sides = self._side(problem, users, A), self._side(problem.T, items, B)
        served = partial(self._model, ratings, mean, scale, pattern, sides)
        A, B = self._sweeps(*sides, A, B, served, callback)
        A = self._closed(sides[0], B)
        self.history_[-1] |= {"loss": self._loss(*sides, A, B), "certificate": self._certificate(*sides, A, B)}
        return served(A, B)

    def _rows(self, ratings: Ratings) -> tuple[np.ndarray, np.ndarray | None]:
        mean, scale = self.model_.mean, self.model_.info["scale"]
        B, e = self._inside(self.model_.Y, self.model_.c, scale), self.model_.extra
        side = self._side(self._problem(ratings, mean, scale), None, B)
        if "gamma" in e:
            known = Pattern(e["basis"], e["center"], e["width"]).known(ratings)
            side.center = self._tensor(known @ e["gamma"])
        return self._outside(self._closed(side, B), 1.0 if self.implicit else scale, scale)

    def _check(self) -> None:
        for name, low in (("rank", 1), ("max_iter", 1), ("steps", 1), ("seed", 0), ("pattern", 0)):
            value = getattr(self, name, low)
            if (name in ("steps", "pattern") and value is None) or (name == "pattern" and value == "auto"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
                raise ValueError(f"{name} is {value!r}; it is a whole number of at least {low}")
        for name in self.numbers:
            value = getattr(self, name)
            if name in SEARCH and isinstance(value, str) and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < np.inf:
                raise ValueError(f'{name} is {value!r}; it is a finite number, not negative{", or auto" * (name in SEARCH)}')

    def _to_search(self) -> Self:
        """Itself with "auto" where a search should look."""
        return self

    def _number(self, name: str) -> Any:
        """An option as it was given, or as the search found it."""
        found = self.found_ if "found_" in vars(self) else self.model_.info["found"]
        return found.get(name, getattr(self, name))

    # ── the problem ──

    def _problem(self, ratings: Ratings, mean: float, scale: float) -> Problem:
        """The objective, in float32 on the device; where there are biases, they are the first column of each factor."""
        t, w, a0 = self._cells(ratings, mean, scale)
        ends = ratings.item, ratings.indptr
        X, weight = (None if v is None else csr_matrix((v.astype(np.float32), *ends), ratings.shape) for v in (t, w))
        cells = Sparse(X, weight, background=a0) if a0 else Observed(X, weight)
        m, n = ratings.shape
        there = np.ones(len(t), bool) if w is None else w > 0
        sides = (self.W, ratings.user, m, n), (self.H, ratings.item, n, m)
        W, H = (self._prox(given, np.bincount(codes[there], minlength=own) + a0 * other) for given, codes, own, other in sides)
        return Problem(cells.to(self.device), Frobenius(), W, H.T)

    def _prox(self, given: Any, data: np.ndarray) -> Any:
        lam = self._number("reg") * np.maximum(data, 1.0) ** self.nu
        ridge = L2Squared(torch.tensor(lam[:, None], dtype=torch.float32, device=self.device))
        if given is None:
            return ridge
        tastes = as_prox(given) + ridge
        return Columns({0: ridge}, rest=tastes) if self.biased else tastes

    def _pattern(self, ratings: Ratings) -> Pattern | None:
        """Who rated what, where that is information of its own."""
        return None

    def _side(self, p: Problem, known: np.ndarray | None, F: Tensor) -> Side:
        free = p.prox_W.ridge is not None
        known = known if free and self._number("reg") else None
        solver = ALS(steps=self.steps) if free else APG(inner=10) if p.prox_W.couples(1) else HALS(inner=5)
        return Side(p, solver, None if known is None else self._tensor(known), torch.zeros_like(F[:1]))

    def _tensor(self, F: np.ndarray) -> Tensor:
        return torch.tensor(F, dtype=torch.float32, device=self.device)

    # ── the sweeps ──

    def _start(self, ratings: Ratings, start: Model | None, scale: float) -> tuple[Tensor, Tensor]:
        """Small random tastes; those of another fit where it has them."""
        draw = np.random.Generator(np.random.Philox(self.seed))
        A, B = (self._drawn(draw, size, given) for size, given in zip(ratings.shape, (self.W, self.H), strict=True))
        if start is not None:
            unit = 1.0 if self.implicit else scale
            for F, old in ((A, self._inside(start.X, start.b, scale, unit)), (B, self._inside(start.Y, start.c, scale))):
                F[:] = torch.where((old == 0).all(1, keepdim=True), F, old)
        return A, B

    def _drawn(self, draw: np.random.Generator, size: int, given: Any) -> Tensor:
        F = torch.from_numpy(draw.standard_normal((size, self.rank), dtype=np.float32)) * (0.1 / self.rank**0.5)
        if given is not None:
            F = as_prox(given)(F.abs(), 0.0)
        return torch.cat([torch.zeros(size, self.biased), F], 1).to(self.device)

    def _sweeps(
        self, users: Side, items: Side, A: Tensor, B: Tensor, served: Callable[[Tensor, Tensor], Model], callback: Callback | None
    ) -> tuple[Tensor, Tensor]:
        """Half-steps for users and items until the objective falls by less than tol of itself, or the callback has had enough."""
        most, loss = self._number("max_iter"), self._loss(users, items, A, B)
        for sweep in range(1, most + 1):
            before = loss
            A, gain = self._step(users, A, B)
            B, more = self._step(items, B, A)
            loss = self._loss(users, items, A, B) if gain is None or more is None else before - float(gain + more)
            if self._seen({"sweep": sweep, "sweeps": most, "loss": loss}, callback, partial(served, A, B)):
                break
            if before - loss < self.tol * loss:
                break
        return A, B

    def _step(self, side: Side, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Better rows A, their centres moved, and by how much that lowers the objective, where the solver can tell."""
        memory: dict[str, Tensor] = {}
        A = self._half(side, A, B, side.solver, memory)
        lower = side.follow(A)
        return A, memory["gain"].double().sum() + lower if "gain" in memory else None

    def _half(self, side: Side, A: Tensor, B: Tensor, solver: Alternating, memory: Any = None) -> Tensor:
        """Better rows A for the fixed B."""
        return solver.half(*self._plain(side, A, B), {} if memory is None else memory) + side.center

    def _plain(self, side: Side, A: Tensor, B: Tensor) -> tuple[Problem, Tensor, Tensor]:
        """A half-step's problem, in what rows differ from their centres.

        A bias is a taste for a feature of all items. The other side's biases, and what the centres predict, leave the targets.
        """
        p = side.p
        if not self.biased and len(side.center) == 1:
            return p, A, B
        features, left = B, p.X.entries()
        if self.biased:
            features = torch.cat([torch.full_like(B[:, :1], self._feature), B[:, 1:]], 1)
            left = left - self._feature * p.X.along(B[:, 0], 1)
        if len(side.center) > 1:
            left = left - p.X.predict(side.center, features)
        X = p.X.like(left)
        X.weight = p.X.weight
        return p.changed(X=X), A - side.center, features

    @property
    def _feature(self) -> float:
        """What the feature is for which a bias is the taste: under one ridge for all tastes it decides the biases' own."""
        return 1.0

    def _closed(self, side: Side, B: Tensor) -> Tensor:
        """The minimising rows for the fixed B, from the centre: for a user of the fit and for one who comes later alike."""
        A = side.center.expand(side.p.X.shape[0], -1)
        return self._half(side, A, B, ALS(steps=ENOUGH) if isinstance(side.solver, ALS) else side.solver.patient())

    def _loss(self, users: Side, items: Side, A: Tensor, B: Tensor) -> float:
        """The objective; products in float32, sums in float64."""
        side, own, features = self._plain(users, A, B)
        X, a0 = side.X, side.X.background
        pred = X.predict(own, features)
        left = (X.entries() - pred).square()
        cells = (left if X.weight is None else X.weight * left) - a0 * pred.square()
        zeros = a0 * ((own.mT @ own) * (features.mT @ features)).double().sum()
        return float((cells.double().sum() + zeros) / 2 + users.penalty(A) + items.penalty(B))

    def _certificate(self, users: Side, items: Side, A: Tensor, B: Tensor) -> float:
        """How far from stationary the tastes are; see ``Problem.certificate``."""
        sides = self._plain(users, A, B), self._plain(items, B, A)
        return max(float(side.stationarity(own, other)) for side, own, other in sides)

    # ── the model ──

    def _model(
        self, ratings: Ratings, mean: float, scale: float, pattern: Pattern | None, sides: tuple[Side, Side], A: Tensor, B: Tensor
    ) -> Model:
        gamma = sides[0].gamma
        learned = {} if pattern is None or gamma is None else {
            "gamma": gamma.cpu().numpy(), "basis": pattern.basis, "center": pattern.center, "width": pattern.width
        }  # fmt: skip
        unit = 1.0 if self.implicit else scale
        (X, b), (Y, c) = self._outside(A, unit, scale), self._outside(B, 1.0, scale)
        fallback = self._fallback(ratings)
        if gamma is not None:  # the tastes of a user of whom nothing is known
            x, level = self._outside(gamma[:1], unit, scale)
            fallback = mean + (0.0 if c is None else c + level) + Y @ x[0]
        low, high = (None, None) if self.implicit else (float(ratings.value.min()), float(ratings.value.max()))
        return Model(
            ratings.users, ratings.items, X, Y, mean, b, c, *ratings.csr(), fallback=fallback, low=low, high=high,
            info={"scale": scale, "found": self.found_}, extra=learned,
        )  # fmt: skip

    def _fallback(self, ratings: Ratings) -> np.ndarray | None:
        """The scores for those of whom nothing is known: how popular an item is, or how it is rated on the average."""
        if self.biased:
            return None
        count = np.bincount(ratings.item, minlength=ratings.shape[1])
        if self.implicit:
            return count / max(1, ratings.shape[0])
        total = np.bincount(ratings.item, ratings.value, ratings.shape[1])
        return (total + ratings.value.mean()) / (count + 1)

    def _outside(self, F: Tensor, times: float, bias: float) -> tuple[np.ndarray, np.ndarray | None]:
        """The tastes and the biases in the ratings' units."""
        found = F.double().cpu().numpy()
        tastes = (found[:, self.biased :] * times).astype(np.float32)
        return tastes, found[:, 0] * bias * self._feature if self.biased else None

    def _inside(self, F: np.ndarray, bias: np.ndarray | None, scale: float, times: float = 1.0) -> Tensor:
        """The way back: one factor, its biases first."""
        F = np.asarray(F, dtype=np.float64) / times
        if self.biased:
            F = np.column_stack([np.zeros(len(F)) if bias is None else bias / (scale * self._feature), F])
        return self._tensor(F)

    def _shares(self, user: int, item: int) -> np.ndarray:
        """What each cell of the user adds to x_u·y_i, (cells,): w_j (t_j - γ_u·y_j) y_jᵀ (G_u + λ_u)⁻¹ y_i, with γ_u the centre.

        The centre's own part, γ_u·y_i, comes of who rated what; what of it is no single item's is shared evenly.
        """
        if self.W is not None:
            raise NotImplementedError(f"with the constraint {self.W!r} on W no rating has a share of its own; fit with W=None")
        r, scale = self.ratings_, self.model_.info["scale"]
        mine = r.take(np.arange(*r.indptr[user : user + 2]))
        t, w, a0 = self._cells(mine, self.model_.mean, scale)
        w = np.ones_like(t) if w is None else w
        B = self._inside(self.model_.Y, self.model_.c, scale).double().numpy()
        f = self._feature
        t, Y = (t - f * B[mine.item, 0], np.column_stack([np.full(len(B), f), B[:, 1:]])) if self.biased else (t, B)
        lam = self._number("reg") * max((w > 0).sum() + a0 * len(B), 1.0) ** self.nu
        G = a0 * Y.T @ Y + (Y[mine.item].T * (w - a0)) @ Y[mine.item] + lam * np.eye(Y.shape[1])
        y = Y[item].copy()
        y[: self.biased] = 0.0
        seen, center = np.zeros(len(t)), np.zeros(len(y))
        if "gamma" in self.model_.extra:
            e, there = self.model_.extra, w > 0
            center = (Pattern(e["basis"], e["center"], e["width"]).known(mine) @ e["gamma"])[user]
            n = max(1, there.sum())
            seen = np.where(there, (e["basis"] / e["width"][1:])[mine.item] @ e["gamma"][2:] @ y / n**0.5, 0.0)
            seen += np.where(there, (center @ y - seen.sum()) / n, 0.0)
        shares = w * (t - Y[mine.item] @ center) * (Y[mine.item] @ np.linalg.solve(G, y)) + seen
        return shares * (1.0 if self.implicit else scale)


@dataclass(kw_only=True)
class ExplicitMF(Factors):
    """Ratings, r ≈ mean + b_u + c_i + x_u·y_i, by alternating least squares over the cells that there are.

    ½ Σ w (t - b_u - c_i - x_u·y_i)² + ½ Σ_u λ_u |(b, x)_u - Γφ_u|² + ½ Σ_i λ_i |(c, y)_i - Δψ_i|², λ_u = reg n_u^ν, of
    t = (r - mean) / s with s the standard deviation of the ratings: their unit is no matter. φ_u says what u rated, not how: a
    one, log(1 + n_u), and ``pattern`` leading singular vectors of the matrix of who rated what; ψ_i likewise. Γ and Δ are
    learned, under ridges of half of Σ λ; with ``pattern=0``, and on a side with a constraint, they are 0. None stands for 32,
    or for 0 where a search for reg finds that better: where it was chance who rated what.

    ``rank`` tastes; ``reg="auto"`` is chosen on hidden ratings; ``reg_biases`` is the biases' own, reg if left out. ``W`` and
    ``H`` constrain the tastes, a row for each user and each item ("nonneg", "l1(0.1)", "simplex(dim=1)"); where both keep them
    from being negative there is no mean, nor biases, unless ``biases`` is True. ``steps`` conjugate gradients are made for a row
    in half a sweep (None: rows are solved by Cholesky), and ``max_iter`` sweeps, fewer if the objective falls by less than
    ``tol`` of itself. (Koren, Bell and Volinsky 2009; Zhou et al. 2008, of ν = 1; Koren 2008, of what was rated at all.)

    >>> model = ExplicitMF(rank=1, reg=0.1).fit((["a", "a", "b", "b"], [1, 2, 1, 2], [5.0, 1.0, 4.0, 2.0]))
    >>> bool(model.predict("a", 1) > model.predict("a", 2))
    True
    """

    nu: float = 0.5
    biases: bool | None = None
    reg_biases: float | None = None
    pattern: int | Literal["auto"] | None = None

    @property
    def biased(self) -> bool:
        return not (_positive(self.W) and _positive(self.H)) if self.biases is None else self.biases

    @property
    def _feature(self) -> float:
        return 1.0 if self.reg_biases is None else (self._number("reg") / self.reg_biases) ** 0.5

    def _check(self) -> None:
        super()._check()
        if self.reg_biases is not None and not (0 < self.reg_biases < np.inf and (self.reg == "auto" or self.reg > 0)):
            raise ValueError(f"reg_biases is {self.reg_biases!r} and reg {self.reg!r}; both are positive, or leave reg_biases out")

    def _pattern(self, ratings: Ratings) -> Pattern | None:
        size = self._number("pattern")
        size = PATTERN if size is None else size
        return Pattern.of(ratings, size) if size else None

    def _to_search(self) -> Self:
        return replace(self, pattern="auto") if self.reg == "auto" and self.pattern is None else self

    def _scale(self, ratings: Ratings) -> tuple[float, float]:
        mean, scale = ratings.standard()
        return mean if self.biased else 0.0, scale or float(np.abs(ratings.value).max()) or 1.0

    def _cells(self, ratings: Ratings, mean: float, scale: float) -> tuple[np.ndarray, np.ndarray | None, float]:
        return (ratings.value - mean) / scale, ratings.weight, 0.0


@dataclass(kw_only=True)
class ImplicitMF(Factors):
    """Clicks, plays and purchases: 1 where there is one, and everything that is not there a 0 of little weight.

    ½ Σ_stored w (t - x_u·y_i)² + ½ a0 Σ_not stored (x_u·y_i)² + ½ Σ_u λ_u |x_u|² + ½ Σ_i λ_i |y_i|², λ_u = reg (n_u + a0 n)^ν,
    with a0 = ``unobserved``, t = 1 where the value is positive, else 0, and w the weights given to fit, or 1 + alpha |r| / the
    mean of |r|. (Hu, Koren and Volinsky 2008; Rendle et al. 2021, of a0 and ν.)

    >>> model = ImplicitMF(rank=1, reg=0.01, unobserved=0.1).fit((["a", "a", "b"], [1, 2, 1]))
    >>> model.recommend("b", n=1)["item"].to_pylist()
    [2]
    """

    implicit: ClassVar[bool] = True

    unobserved: float | Literal["auto"] = "auto"
    alpha: float = 0.0
    nu: float = 1.0
    max_iter: int = 16
    steps: int | None = 2
    numbers: ClassVar[tuple[str, ...]] = ("reg", "nu", "tol", "unobserved", "alpha")

    def _scale(self, ratings: Ratings) -> tuple[float, float]:
        return 0.0, float(np.abs(ratings.value).mean()) or 1.0

    def _cells(self, ratings: Ratings, mean: float, scale: float) -> tuple[np.ndarray, np.ndarray | None, float]:
        w = ratings.weight if ratings.weight is not None else 1 + self.alpha * np.abs(ratings.value) / scale
        return (ratings.value > 0).astype(np.float64), w, float(self._number("unobserved"))


def _positive(given: Any) -> bool:
    """Whether a constraint keeps numbers from being negative."""
    return given is not None and bool((as_prox(given)(-torch.ones(2, 2), 0.0) >= 0).all())
