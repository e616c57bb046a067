"""Recommenders in closed form: what every evaluation compares with, and what is often hard to beat. No sweeps, little to set."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from scipy import linalg, sparse
from scipy.sparse.linalg import LinearOperator, cg, svds

from ..matrix import memory_for
from ..serve import Model
from .base import Callback, Recommender
from .tables import Ratings

_FEWER = "leave out items that hardly anybody rated, or take PureSVD or ImplicitMF"


@dataclass(kw_only=True)
class Popularity(Recommender):
    """The same for everybody: how many users have an item, as a share of all users; with weights, their sum.

    With ``half_life``, in the units of the time column (seconds where it holds dates), a rating counts 2^(-age / half_life),
    its age taken at the latest rating. Raises ValueError for a half-life without times.

    >>> Popularity().fit((["a", "b", "b"], [1, 1, 2])).recommend("a")["score"].to_pylist()
    [0.5]
    """

    half_life: float | None = None

    implicit: ClassVar[bool] = True

    def _fit(self, ratings: Ratings, start: Model | None, callback: Callback | None) -> Model:
        counts = _ones(ratings)
        if self.half_life is not None:
            _check_above(0, half_life=self.half_life)
            if ratings.time is None:
                raise ValueError("half_life needs to know when: name the column, as in fit(table, time='timestamp')")
            counts = counts * np.exp2((ratings.time - ratings.time.max()) / self.half_life)
        c = np.bincount(ratings.item, counts, ratings.shape[1]) / max(1, ratings.shape[0])
        return Model(
            ratings.users, ratings.items, _nothing(ratings.shape[0]), _nothing(ratings.shape[1]), 0.0, None, c, *ratings.csr()
        )

    def _rows(self, ratings: Ratings) -> tuple[np.ndarray | None, np.ndarray | None]:
        return _nothing(ratings.shape[0]), None


@dataclass(kw_only=True)
class Bias(Recommender):
    """Ratings as r ≈ mean + b_u + c_i: who rates high, and what is rated high.

    ½ Σ w (r - mean - b_u - c_i)² + ½ reg_u Σ_u b_u² + ½ reg_i Σ_i c_i², with mean the mean rating by weight, solved exactly.
    ``reg`` is one number or a pair (users, items), in ratings: a user with n ratings keeps n / (n + reg) of the mean of what
    is left over. "auto" is the variance of what is left over, divided by that of the b_u (of the c_i): the most likely one
    if all are drawn from normal distributions, by fixed-point steps on the evidence (MacKay 1992).

    >>> Bias(reg=0).fit((["a", "a", "b", "b"], [1, 2, 1, 2], [5, 3, 4, 2])).predict("b", 2)
    2.0
    """

    reg: float | tuple[float, float] | Literal["auto"] = "auto"

    search: ClassVar[dict[str, Any]] = {"reg": (0.5, 100.0)}

    def _fit(self, ratings: Ratings, start: Model | None, callback: Callback | None) -> Model:
        w, r = _ones(ratings), ratings.value
        if not w.any():
            raise ValueError("all weights are zero; there is nothing to learn from")
        mean = float(np.average(r, weights=w))
        scale = float(np.sqrt(np.average((r - mean) ** 2, weights=w))) or 1.0
        two = _TwoWay(ratings, w, (r - mean) / scale)
        reg: Any = two.likely() if isinstance(self.reg, str) and self.reg == "auto" else self.reg
        reg = reg if np.ndim(reg) else (reg, reg)
        if len(reg) != 2:
            raise ValueError(f"reg is {self.reg!r}; give one number, a pair for users and items, or 'auto'")
        _check_above(0, strictly=False, **{"reg of users": reg[0], "reg of items": reg[1]})
        b, c = two.solve(reg)
        return Model(
            ratings.users, ratings.items, _nothing(len(b)), _nothing(len(c)), mean, scale * b, scale * c, *ratings.csr(),
            low=float(r.min()), high=float(r.max()), info={"reg": [float(v) for v in reg]},
        )  # fmt: skip

    def _rows(self, ratings: Ratings) -> tuple[np.ndarray | None, np.ndarray | None]:
        w, m = _ones(ratings), ratings.shape[0]
        left = ratings.value - self.model_.mean - self.model_.c[ratings.item]
        size = np.bincount(ratings.user, w, m) + self.model_.info["reg"][0]
        return _nothing(m), np.bincount(ratings.user, w * left, m) / np.where(size > 0, size, 1)


class _TwoWay:
    """t ≈ b_u + c_i over weighted cells."""

    def __init__(self, ratings: Ratings, w: np.ndarray, t: np.ndarray):
        self.m, self.n = ratings.shape
        self.W = sparse.csr_array((w, ratings.item, ratings.indptr), shape=ratings.shape)
        self.WT = self.W.T.tocsr()
        self.user, self.item, self.w, self.t = ratings.user, ratings.item, w, t
        self.size = np.concatenate([np.bincount(codes, w, k) for codes, k in ((self.user, self.m), (self.item, self.n))])
        self.sums = np.concatenate([np.bincount(codes, w * t, k) for codes, k in ((self.user, self.m), (self.item, self.n))])
        self.kinds = np.repeat([0, 1], [self.m, self.n])

    def solve(self, reg: Any, start: np.ndarray | None = None, tol: float = 1e-12) -> tuple[np.ndarray, np.ndarray]:
        """The b and c of these ridges: (D + diag(reg)) (b, c) + (W c, Wᵀ b) = the sums, by conjugate gradients."""
        D = self.size + np.asarray(reg)[self.kinds]
        D = np.where(D > 0, D, 1.0)
        A = LinearOperator((self.m + self.n,) * 2, lambda v: D * v + np.concatenate([self.W @ v[self.m :], self.WT @ v[: self.m]]))
        x, _ = cg(A, self.sums, start, rtol=tol, maxiter=1000, M=LinearOperator(A.shape, lambda v: v / D))
        return x[: self.m], x[self.m :]

    def likely(self) -> np.ndarray:
        """The variance of what is left over, over that of the b_u and that of the c_i, to 1 %."""
        reg, x, cells = np.array([10.0, 10.0]), None, np.count_nonzero(self.w)
        there = np.maximum(1, np.bincount(self.kinds, self.size > 0, 2))
        for _ in range(50):
            b, c = self.solve(reg, x, 1e-6)
            x = np.concatenate([b, c])
            fixed = np.bincount(self.kinds, self.size / (self.size + reg[self.kinds]), 2)  # as many terms are settled by the data
            left = np.sum(self.w * (self.t - b[self.user] - c[self.item]) ** 2) / max(1.0, cells - fixed.sum())
            spread = np.bincount(self.kinds, x**2 + left / (self.size + reg[self.kinds]) * (self.size > 0), 2) / there
            old, reg = reg, np.clip(left / np.maximum(spread, 1e-12), 1e-3, 1e6)
            if (np.abs(np.log(reg / old)) < 0.01).all():
                break
        return reg


@dataclass(kw_only=True)
class Linear(Recommender):
    """What EASE, GFCF and PureSVD share: a user is the row of what they have, one number for each item.

    It is 1 for each item that a user has, or the rating with ``values=True``; a weight multiplies it.
    """

    values: bool = False

    implicit: ClassVar[bool] = True

    @abstractmethod
    def _arrays(self, R: sparse.csr_array) -> tuple[np.ndarray | None, np.ndarray]:
        """X (m, k) or None, and Y."""

    def _fit(self, ratings: Ratings, start: Model | None, callback: Callback | None) -> Model:
        R = self._matrix(ratings)
        X, Y = self._arrays(R)
        share = np.bincount(ratings.item, minlength=len(ratings.items)) / max(1, len(ratings.users))
        return Model(ratings.users, ratings.items, X, Y, 0.0, None, None, R.indptr, R.indices, R.data, fallback=share)

    def _rows(self, ratings: Ratings) -> tuple[np.ndarray | None, np.ndarray | None]:
        return (None if self.model_.X is None else self._matrix(ratings) @ self.model_.Y), None

    def _folded(self, ratings: Ratings) -> Model:
        return super()._folded(replace(ratings, value=self._matrix(ratings).data))

    def _matrix(self, ratings: Ratings) -> sparse.csr_array:
        numbers = ratings.value if self.values else np.ones(len(ratings.value))
        numbers = numbers if ratings.weight is None else numbers * ratings.weight
        return sparse.csr_array((numbers, ratings.item, ratings.indptr), shape=ratings.shape)


@dataclass(kw_only=True)
class EASE(Linear):
    """Each item from all the others: the B with zero diagonal that minimises ½ |R - R B|² + ½ λ |B|², in closed form.

    P = (RᵀR + λ)⁻¹, B = I - P / diag(P) by columns, λ = reg · (the mean square of the numbers in R, 1 for ones). R has a one
    for each item that a user has, or the rating with ``values=True``; a weight multiplies it. n items take n³ multiplications
    and 12 n² bytes. (Steck 2019.) Raises MemoryError, before it begins, for too many items.

    >>> model = EASE(reg=1.0).fit((["a", "a", "b", "b", "c"], [1, 2, 1, 2, 1]))
    >>> model.recommend("c")["item"].to_pylist()
    [2]
    """

    reg: float = 300.0

    search: ClassVar[dict[str, Any]] = {"reg": (10.0, 3000.0)}

    def _arrays(self, R: sparse.csr_array) -> tuple[None, np.ndarray]:
        _check_above(0, reg=self.reg)
        n = R.shape[1]
        memory_for(n, n, 12, "the matrix of items by items", _FEWER)
        P = _products(R, np.float64).T  # LAPACK's order, and symmetric
        P[np.diag_indices(n)] += self.reg * (float(np.mean(R.data**2)) or 1.0)
        factor, inverse = linalg.get_lapack_funcs(("potrf", "potri"), (P,))
        P, failed = factor(P, lower=1, overwrite_a=1, clean=1)
        if failed:
            raise ValueError(f"reg={self.reg:g} is too small for these ratings: RᵀR + λ is singular in float64; take a larger one")
        P, _ = inverse(P, lower=1, overwrite_c=1)
        diagonal = np.diag(P).copy()
        B = np.empty((n, n), dtype=np.float32)
        for j in range(n):  # the lower triangle is what there is
            B[j:, j] = P[j:, j] / -diagonal[j]
            B[j, j:] = P[j:, j] / -diagonal[j:]
        B[np.diag_indices(n)] = 0
        return None, B


@dataclass(kw_only=True)
class GFCF(Linear):
    """Two low-pass filters on the graph of who has what, and no training.

    R̃ = D_u^-½ R D_i^-½ with D the sums of R by user and by item; x_u (R̃ᵀR̃ + alpha D_i^-½ V Vᵀ D_i^½), V (n, rank) the right
    singular vectors of R̃ with the largest values (as many as there are, if fewer). R has a one for each item that a user
    has (the rating with ``values=True``); a weight multiplies it. n items take 4 n² bytes. (Shen et al. 2021.) Raises
    ValueError for negative numbers, MemoryError for too many items.

    >>> GFCF(rank=1).fit((["a", "a", "b", "b", "c"], [1, 2, 1, 2, 1])).recommend("c")["item"].to_pylist()
    [2]
    """

    rank: int = 256
    alpha: float = 0.3
    seed: int = 0

    search: ClassVar[dict[str, Any]] = {"alpha": (0.03, 3.0), "rank": [32, 64, 128, 256, 512]}

    def _arrays(self, R: sparse.csr_array) -> tuple[None, np.ndarray]:
        _check_above(0, rank=self.rank)
        _check_above(0, strictly=False, alpha=self.alpha)
        n = R.shape[1]
        if (R.data < 0).any():
            raise ValueError("GFCF needs ratings and weights that are not negative; leave values=False, or take EASE")
        memory_for(n, n, 4, "the matrix of items by items", _FEWER)
        by_user, by_item = (np.asarray(R.sum(axis)) for axis in (1, 0))
        by_user, by_item = (1 / np.sqrt(np.where(d > 0, d, np.inf)) for d in (by_user, by_item))
        R = sparse.csr_array(R.multiply(by_user[:, None]).multiply(by_item))
        V = right_vectors(R.astype(np.float32), self.rank, self.seed).astype(np.float32)
        back = np.divide(1, by_item, out=np.zeros(n), where=by_item > 0)
        left, right = ((d * V.T).astype(np.float32) for d in (self.alpha * by_item, back))
        B = _products(R, np.float32)
        for rows in _blocks(n):
            B[rows] += left[:, rows].T @ right
        return None, B


@dataclass(kw_only=True)
class PureSVD(Linear):
    """Missing ratings as zeros, and the best approximation of rank k: R ≈ (R V) Vᵀ, V (n, rank) the first right singular vectors.

    R has the ratings, or with ``values=False`` a one for each item that a user has; a weight multiplies it. The scores rank;
    they are no ratings. (Cremonesi, Koren and Turrin 2010.)

    >>> PureSVD(rank=1).fit((["a", "a", "b", "b", "c"], [1, 2, 1, 2, 1])).recommend("c")["item"].to_pylist()
    [2]
    """

    rank: int = 50
    values: bool = True
    seed: int = 0

    search: ClassVar[dict[str, Any]] = {"rank": [8, 16, 32, 64, 128, 256]}

    def _arrays(self, R: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
        _check_above(0, rank=self.rank)
        V = right_vectors(R, self.rank, self.seed)
        return R @ V, V

    def _shares(self, user: int, item: int) -> np.ndarray:
        seen, values = self.model_.seen(user)
        return values * (self.model_.Y[seen] @ self.model_.Y[item])


def right_vectors(R: sparse.csr_array, rank: int, seed: int = 0) -> np.ndarray:
    """(n, k): the right singular vectors of the k = ``rank`` largest singular values, largest first; fewer if R has no more.

    By Lanczos iteration in the type of R, or, where that would need most of the space, from the smaller one of RRᵀ and RᵀR.
    """
    small = min(R.shape)
    rank = min(rank, small)
    if 3 * rank < small and R.data.any():
        start = np.random.default_rng(seed).standard_normal(small).astype(R.dtype)
        _, values, Vt = svds(R, rank, v0=start, return_singular_vectors="vh")
        return np.ascontiguousarray(Vt[np.argsort(-values)].T)
    R, wide = R.astype(np.float64), R.shape[0] < R.shape[1]
    memory_for(small, small, 16, "the matrix of products", "take a smaller rank")
    squares, Q = linalg.eigh((R @ R.T if wide else R.T @ R).toarray(), subset_by_index=[small - rank, small - 1])
    kept = squares > 1e-12 * max(squares.max(), 1e-300)
    Q, values = Q[:, kept][:, ::-1], np.sqrt(squares[kept][::-1])
    return (R.T @ Q) / values if wide else Q


def _products(R: sparse.csr_array, dtype: type) -> np.ndarray:
    """RᵀR, dense, some rows at a time: as a sparse matrix it would be the larger."""
    RT, P = R.T.tocsr(), np.empty((R.shape[1],) * 2, dtype)
    for rows in _blocks(len(P)):
        P[rows] = (RT[rows] @ R).toarray()
    return P


def _blocks(n: int) -> list[slice]:
    step = max(1, 2**22 // max(1, n))
    return [slice(first, first + step) for first in range(0, n, step)]


def _ones(ratings: Ratings) -> np.ndarray:
    return np.ones(len(ratings.value)) if ratings.weight is None else ratings.weight


def _nothing(rows: int) -> np.ndarray:
    return np.zeros((rows, 0), dtype=np.float32)


def _check_above(low: float, *, strictly: bool = True, **options: Any) -> None:
    for name, value in options.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool) and np.isfinite(value)
        if not number or value < low or (strictly and value == low):
            raise ValueError(f"{name} is {value!r}; it must be a number {'above' if strictly else 'of at least'} {low:g}")
