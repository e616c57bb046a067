"""Ties: smooth terms that no prox can say, because they see a Gram matrix, the neighbours in a graph, or both factors.

A weight has units: ``lam`` those of the loss, per square of the factor where the term is quadratic; so with ties X is taken
as it is. A term on one factor alone falls when that factor shrinks and the other one grows: bound the other, by a simplex or
a box.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .matrix import Matrix, as_matrix
from .problem import Problem, Quadratic, Tie


def as_ties(spec: Any) -> tuple[Tie, ...]:
    """The ties that ``spec`` means: None, a Tie, its text form, or several of them.

    >>> as_ties("minvolume(0.1)")
    (MinVolume(0.1),)
    """
    if spec is None:
        return ()
    if isinstance(spec, str):
        return (Tie.parse(spec),)
    if isinstance(spec, Tie):
        return (spec,)
    if isinstance(spec, type) or not isinstance(spec, Iterable):
        hint = f"write {spec.__name__}(…)" if isinstance(spec, type) else "a Tie such as MinVolume(0.1), its text, or several"
        raise TypeError(f"given {spec!r}, a tie is needed: {hint}")
    return tuple(tie for one in spec for tie in as_ties(one))


class Sided(Tie):
    """A term on one factor: F (rows, k) is W for ``of`` "W", Hᵀ for "H"."""

    of: str

    def __post_init__(self) -> None:
        if self.of not in ("W", "H"):
            raise ValueError(f"of is {self.of!r} in {type(self).__name__}; it is the factor that is meant, 'W' or 'H'")

    @property
    def on(self) -> str:  # type: ignore[override]
        return self.of

    @property
    def T(self) -> Tie:
        return dataclasses.replace(self, of="H" if self.of == "W" else "W")  # type: ignore[type-var]

    def value(self, W: Tensor, H: Tensor) -> Tensor:
        return self._term((W if self.of == "W" else H.mT).double())

    def model(self, A: Tensor, B: Tensor) -> Quadratic:
        return self._bound(A) if self.of == "W" else Quadratic(A.new_zeros(A.shape[1], A.shape[1]), torch.zeros_like(A))

    @abstractmethod
    def _term(self, F: Tensor) -> Tensor: ...

    @abstractmethod
    def _bound(self, F: Tensor) -> Quadratic: ...


@dataclass(frozen=True, eq=False, repr=False)
class MinVolume(Sided):
    """Few data outside, little volume inside: λ/2 log det(I + FᵀF / δ), F the factor ``of``, its components as corners.

    log det is concave in FᵀF and lies below its tangent: G = λ (FᵀF + δ I)⁻¹ (Fu, Huang, Yang, Ma and Sidiropoulos 2016;
    Leplat, Ang and Gillis 2019). δ has the units of F²: far below it a component counts by its size alone. Give the other factor
    a simplex across components. Raises ValueError unless λ ≥ 0 and δ > 0.

    >>> MinVolume(2.0).value(torch.ones(4, 2), torch.eye(2))
    tensor(1.3863, dtype=torch.float64)
    """

    lam: float
    delta: float = 1.0
    of: str = field(default="H", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "lam", 0.0)
        _positive(self, "delta")

    def _gram(self, F: Tensor) -> Tensor:
        return F.mT @ F + self.delta * torch.eye(F.shape[1], dtype=F.dtype, device=F.device)

    def _term(self, F: Tensor) -> Tensor:
        return self.lam / 2 * (torch.linalg.slogdet(self._gram(F))[1] - F.shape[1] * math.log(self.delta))

    def _bound(self, F: Tensor) -> Quadratic:
        G = self.lam * torch.linalg.inv(self._gram(F.double()))
        return Quadratic(((G + G.mT) / 2).to(F), torch.zeros_like(F))


@dataclass(frozen=True, eq=False, repr=False)
class Orthogonal(Sided):
    """Components that do not overlap: λ Σ_{q<r} f_q·f_r, for a factor that is not negative.

    It is 0 exactly where the components are orthogonal, which for these means disjoint. With 1 the vector of ones it is
    λ/2 (f 1)² - λ/2 |f|² summed over the rows f; the second part lies below its tangent: G = λ 11ᵀ, C = λ F. (Ding, Li, Peng
    and Park 2006; the penalty: Li, Zhou and Cichocki 2015.) Raises ValueError for a factor that may be negative.

    >>> Orthogonal(3.0, of="W").value(torch.tensor([[1.0, 2.0]]), torch.zeros(2, 1))
    tensor(6., dtype=torch.float64)
    """

    lam: float
    of: str = field(default="H", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "lam", 0.0)

    def check(self, problem: Problem, rank: int) -> None:
        (m, n), side = problem.X.shape, problem.prox_W if self.of == "W" else problem.prox_H
        low = side(-torch.ones((m, rank) if self.of == "W" else (rank, n), dtype=problem.X.dtype, device=problem.X.device), 0.0)
        if bool((low < 0).any()):
            raise ValueError(f"{self!r} is for a factor that is not negative, and {side!r} on {self.of} lets it be; add nonneg")

    def _term(self, F: Tensor) -> Tensor:
        return self.lam / 2 * (F.sum(1).square().sum() - F.square().sum())

    def _bound(self, F: Tensor) -> Quadratic:
        return Quadratic(torch.full((F.shape[1], F.shape[1]), self.lam, dtype=F.dtype, device=F.device), self.lam * F)

    def curvature(self, A: Tensor, B: Tensor) -> Tensor:
        return A.new_zeros(1, A.shape[1])  # one entry by itself: the term is linear


@dataclass(frozen=True, eq=False, repr=False)
class GraphLaplacian(Sided):
    """Rows of W (or columns of H) that neighbours in a graph share: λ/4 Σ_ij s_ij |f_i - f_j|² = λ/2 tr(Fᵀ(D - S)F).

    ``affinity`` S is symmetric and not negative, a dense or sparse matrix with a row for each row of F; D is its row sums. As
    D + S ⪰ 0, D - S ⪯ 2 D: a bound that takes the rows apart; where degrees are alike, within a factor of 4 of their mean,
    one number for all of them, so that they still share one Gram matrix. (Cai, He, Han and Huang 2011.)

    >>> GraphLaplacian([[0.0, 1.0], [1.0, 0.0]], 2.0).value(torch.tensor([[1.0], [3.0]]), torch.zeros(1, 1))
    tensor(4., dtype=torch.float64)
    """

    affinity: Any
    lam: float = 1.0
    of: str = field(default="W", kw_only=True)
    listed = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "lam", 0.0)
        S = self.affinity if isinstance(self.affinity, Matrix) else as_matrix(self.affinity)
        object.__setattr__(self, "affinity", S)
        if S.shape[0] != S.shape[1] or S.weight is not None:
            raise ValueError(f"the affinity is {S!r}; a square matrix without holes is needed, a number for each pair of rows")
        probe = torch.rand(S.shape[0], 2, generator=torch.Generator().manual_seed(0), dtype=S.dtype).to(S.device)
        off = ((S @ probe) - (S.T @ probe)).abs().amax() > 1e-4 * (S @ probe).abs().amax()
        if bool((S.entries() < 0).any()) or bool(off):
            raise ValueError(f"the affinity, {S!r}, must be symmetric and not negative; (|S| + |S|.T) / 2 is")

    def check(self, problem: Problem, rank: int) -> None:
        rows = problem.X.shape[0 if self.of == "W" else 1]
        if rows != self.affinity.shape[0]:
            way = "one row for each row of W" if self.of == "W" else "one row for each column of H"
            raise ValueError(f"the affinity is {self.affinity!r}, and {self.of} has {rows}; it needs {way}")

    @cached_property
    def _copies(self) -> dict[tuple[Any, ...], tuple[Matrix, Tensor, bool]]:
        return {}

    def _graph(self, like: Tensor) -> tuple[Matrix, Tensor, bool]:
        """S and the degrees (m, 1) in a factor's dtype and device, and whether the degrees are alike."""
        place = (like.dtype, like.device)
        if place not in self._copies:
            S = self.affinity.to(like.device, like.dtype)
            degree = S @ like.new_ones(S.shape[1], 1)
            self._copies[place] = S, degree, bool(degree.amax() <= 4 * degree.mean())
        return self._copies[place]

    def _term(self, F: Tensor) -> Tensor:
        S, degree, _ = self._graph(F)
        return self.lam / 2 * (F * (degree * F - S @ F)).sum()

    def _bound(self, F: Tensor) -> Quadratic:
        S, degree, alike = self._graph(F)
        bound = 2 * self.lam * (degree.amax() if alike else degree)
        eye = torch.eye(F.shape[1], dtype=F.dtype, device=F.device)
        return Quadratic(bound * eye if alike else bound[..., None] * eye, bound * F - self.lam * (degree * F - S @ F))

    def curvature(self, A: Tensor, B: Tensor) -> Tensor:
        return self.lam * self._graph(A)[1].expand(A.shape) if self.of == "W" else A.new_zeros(1, A.shape[1])


@dataclass(frozen=True, eq=False, repr=False)
class Symmetric(Tie):
    """W that is Hᵀ: λ/2 |W - Hᵀ|², for a square X.

    With λ = |X| a fit of a symmetric X by non-negative factors ends at W = Hᵀ exactly, if its start is no worse than 0 (Zhu, Li,
    Liu and Li 2018); the larger λ is, the slower. Raises ValueError for an X that is not square.

    >>> Symmetric(2.0).value(torch.ones(3, 2), torch.zeros(2, 3))
    tensor(6., dtype=torch.float64)
    """

    lam: float

    def __post_init__(self) -> None:
        _positive(self, "lam", 0.0)

    def check(self, problem: Problem, rank: int) -> None:
        m, n = problem.X.shape
        if m != n:
            raise ValueError(f"X is {m} x {n}, and {self!r} compares W with Hᵀ; it needs a square X")

    @property
    def T(self) -> Tie:
        return self

    def value(self, W: Tensor, H: Tensor) -> Tensor:
        return self.lam / 2 * (W.double() - H.mT.double()).square().sum()

    def model(self, A: Tensor, B: Tensor) -> Quadratic:
        return Quadratic(self.lam * torch.eye(A.shape[1], dtype=A.dtype, device=A.device), self.lam * B)


@dataclass(frozen=True, eq=False, repr=False)
class ARD(Tie):
    """Components that the data does not need fall to zero: c Σ_q log(1 + (|w_q|² + |h_q|²) / 2b), c = noise² (m + n) / 2.

    It is automatic relevance determination with the relevances solved for (Tan and Févotte 2013), ``noise`` the standard
    deviation of a cell (1 for KL, whose loss is a log-likelihood). Each log lies below its tangent: G is diagonal. A component
    fades away where c / b is above what it could still explain, the largest singular value of the residual; the b of None,
    noise (√m + √n) / 8, makes that at least twice what noise alone reaches. Begin with a rank that is surely enough.

    >>> ARD(0.1).left(torch.tensor([[1.0, 1e-9]]), torch.tensor([[1.0], [1e-9]]))
    tensor([ True, False])
    """

    noise: float
    b: float | None = None

    def __post_init__(self) -> None:
        _positive(self, "noise")
        if self.b is not None:
            _positive(self, "b")

    @property
    def T(self) -> Tie:
        return self

    def _numbers(self, m: int, n: int) -> tuple[float, float]:
        return self.noise**2 * (m + n) / 2, self.noise * (m**0.5 + n**0.5) / 8 if self.b is None else self.b

    def value(self, W: Tensor, H: Tensor) -> Tensor:
        c, b = self._numbers(len(W), H.shape[1])
        return c * torch.log1p((W.double().square().sum(0) + H.double().square().sum(1)) / (2 * b)).sum()

    def model(self, A: Tensor, B: Tensor) -> Quadratic:
        c, b = self._numbers(len(A), len(B))
        return Quadratic(torch.diag(c / (b + (A.square().sum(0) + B.square().sum(0)) / 2)), torch.zeros_like(A))

    def left(self, W: Tensor, H: Tensor) -> Tensor:
        """Which components are left, (k,): those above a millionth of the largest."""
        size = W.norm(dim=0) * H.norm(dim=1)
        return size > 1e-6 * size.amax()

    def note(self, W: Tensor, H: Tensor) -> str:
        return f"{self!r} has left {int(self.left(W, H).sum())} of {W.shape[1]} components."


def _positive(tie: Tie, name: str, least: float | None = None) -> None:
    """Keep a field as a finite float above 0, or from ``least`` on."""
    value = getattr(tie, name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not (value > 0 or value == least):
        rest = "a finite number above 0" if least is None else "a finite number, at least 0"
        raise ValueError(f"{name} of {type(tie).__name__} is {value!r}; it must be {rest}")
    object.__setattr__(tie, name, float(value))
