"""Matrices as a whole: their singular values and eigenvalues, their structure, and spans of given vectors."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .base import Along, Index, Prox, Step, array, store, times, whole
from .built import Around
from .simplices import project_simplex


class _OfMatrix(Prox):
    """An operator on the last two dims, batched over the leading ones, that treats a matrix and its transpose alike."""

    metric: Literal["element", "weighted", "group"] = "group"
    dims = (-2, -1)

    @property
    def T(self) -> Prox:
        return self

    @abstractmethod
    def _prox(self, x: Tensor, step: Step) -> Tensor: ...

    def _number(self, name: str, low: float = 0) -> None:
        store(self, name, low)
        if isinstance(getattr(self, name), Tensor):
            raise ValueError(f"{name} of {type(self).__name__} is an array; one number is needed")


class _Square(_OfMatrix):
    """An operator on square matrices."""

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        if shape[0] != shape[1]:
            raise ValueError(f"{self!r} acts on square matrices, {name} has shape {tuple(shape)}")

    @abstractmethod
    def _prox(self, x: Tensor, step: Step) -> Tensor: ...


def _scale(x: Tensor) -> Tensor:
    """A power of two near the largest entry of each matrix."""
    most = x.detach().abs().amax((-2, -1), keepdim=True)
    return torch.where(most > 0, torch.ldexp(torch.ones_like(most), torch.frexp(most)[1] - 1), 1.0)


def _by_singular_values(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """U f(σ) Vᴴ for x = U σ Vᴴ, σ with the largest first; NaN for a matrix that is not finite."""
    return _OfSingularValues.apply(x, f) if x.numel() else x.clone()


def _by_eigenvalues(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """V f(w) Vᴴ for the Hermitian part V w Vᴴ of x; NaN for a matrix that is not finite."""
    return _hermitian(_OfEigenvalues.apply(_hermitian(x), f)) if x.numel() else x.clone()


class _OfSingularValues(torch.autograd.Function):
    """Its slope is that of the whole, finite where singular values coincide or are 0, unlike that of the decomposition.

    In the bases U and V the slope multiplies each entry by a divided difference of f (Lewis and Sendov 2001).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        good = x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        c = _scale(x)
        u, s, vh = torch.linalg.svd(torch.where(good, x / c, 0.0), full_matrices=False)
        s, ctx.f = s * c[..., 0], f
        ctx.save_for_backward(u, s, vh)
        return torch.where(good, (u * f(s)[..., None, :]) @ vh, math.nan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        u, s, vh = ctx.saved_tensors
        p = u.mH @ g @ vh.mH
        even, (minus, plus) = _hermitian(p), _quotients(ctx.f, s, torch.arange(s.shape[-1], 0, -1, device=s.device))
        core = _with_diagonal(minus * even, ctx.f, s, p) + plus * (p - even)
        ratio = plus.diagonal(dim1=-2, dim2=-1)[..., None, :]
        outside = ((g @ vh.mH - u @ p) * ratio) @ vh + (u * ratio) @ (u.mH @ g - p @ vh)
        return u @ core @ vh + outside, None


class _OfEigenvalues(torch.autograd.Function):
    """The same for the eigenvalues of a Hermitian matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        good = x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        c = _scale(x)
        w, v = torch.linalg.eigh(torch.where(good, x / c, 0.0))
        w, ctx.f = w * c[..., 0], f
        ctx.save_for_backward(w, v)
        return torch.where(good, (v * f(w)[..., None, :]) @ v.mH, math.nan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        w, v = ctx.saved_tensors
        p = v.mH @ g @ v
        minus, _ = _quotients(ctx.f, w, torch.arange(1, w.shape[-1] + 1, device=w.device))
        return v @ _with_diagonal(minus * p, ctx.f, w, p) @ v.mH, None


def _quotients(f: Callable[[Tensor], Tensor], s: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """(f_i - f_j) / (s_i - s_j) and (f_i + f_j) / (s_i + s_j); where that is 0 / 0, those of values moved a little apart."""
    h = torch.finfo(s.dtype).eps ** 0.5 * s.abs().amax(-1, keepdim=True)
    apart = s + torch.where(h > 0, h, 1e-6) * place
    quotients = []
    for sign in (-1, 1):
        (a, fa), (b, fb) = ((t, f(t)) for t in (s, apart))
        gap, rise = a[..., None] + sign * a[..., None, :], fa[..., None] + sign * fa[..., None, :]
        near = gap.abs() <= h[..., None]
        gap = torch.where(near, b[..., None] + sign * b[..., None, :], gap)
        rise = torch.where(near, fb[..., None] + sign * fb[..., None, :], rise)
        quotients.append(rise / gap.where(gap != 0, 1.0))
    return quotients[0], quotients[1]


def _with_diagonal(core: Tensor, f: Callable[[Tensor], Tensor], s: Tensor, p: Tensor) -> Tensor:
    """core with the slope of f itself on the diagonal, f being any function of all the values."""
    with torch.enable_grad():
        leaf = s.detach().requires_grad_()
        y = f(leaf)
        along = p.diagonal(dim1=-2, dim2=-1).real
        (slope,) = torch.autograd.grad(y, leaf, along) if y.requires_grad else (torch.zeros_like(s),)
    return core - torch.diag_embed(core.diagonal(dim1=-2, dim2=-1)) + torch.diag_embed(slope)


def _hermitian(x: Tensor) -> Tensor:
    return 0.5 * x + 0.5 * x.mH


def _of_values(step: Step) -> Step:
    """A step that is constant over each matrix, as one per row of singular values."""
    return step[..., 0] if isinstance(step, Tensor) and step.ndim else step


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float64))


def _singular_values(x: Tensor) -> Tensor:
    """In float64, largest first; NaN for a matrix that is not finite."""
    if not x.numel():
        return x.abs().double().reshape(-1)
    good = x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(good[..., 0], torch.linalg.svdvals(torch.where(good, _wide(x), 0.0)), math.nan)


def _felt(x: Tensor) -> Tensor:
    """The singular values, 0 where they are below max(rows, columns) eps σ_1, with the eps of x's dtype."""
    s = _singular_values(x)
    return torch.where(s <= max(x.shape[-2:]) * torch.finfo(x.dtype).eps * s[..., :1], 0.0, s)


@dataclass(frozen=True, eq=False, repr=False)
class Nuclear(_OfMatrix):
    """Low rank, the convex way: g = λ Σ σ(x), prox(x) = U max(σ - step λ, 0) Vᴴ (source: Cai, Candès and Shen 2010).

    λ ≥ 0 is a number. The last two dims of x are the matrix.

    >>> Nuclear(1.0)(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    tensor([[2., 0.],
            [0., 0.]])
    """

    lam: Step = 1.0
    alias = "tracenorm"
    formula = "λ Σ σ(x)"
    cost = "n min(rows, columns)"
    is_set = False
    cone = True
    complex = True

    def __post_init__(self) -> None:
        self._number("lam")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        t = times(_of_values(step), self.lam)
        return _by_singular_values(x, lambda s: (s - t).clamp(min=0))

    def value(self, x: Tensor) -> Tensor:
        return self.lam * _singular_values(x).sum()


@dataclass(frozen=True, eq=False, repr=False)
class Schatten(_OfMatrix):
    """Low rank by a power of the singular values: g = λ Σ σ(x)^p, prox(x) = U prox_{|·|^p}(σ) Vᴴ.

    p > 0: below 1 it is not convex and shrinks large singular values less than Nuclear (p = 1) does; p = 2 is
    λ |x|². (Source: Lu, Zhu, Xu, Yan and Lin 2015, for p < 1; the prox of a function of σ acts on σ: Lewis 1995.)

    >>> Schatten(1.0, p=2)(torch.tensor([[3.0, 0.0], [0.0, 1.5]]))
    tensor([[1.0000, 0.0000],
            [0.0000, 0.5000]])
    """

    lam: Step = 1.0
    p: float = 0.5
    formula = "λ Σ σ(x)^p"
    cost = "n min(rows, columns)"
    is_set = False
    cone = True
    complex = True

    def __post_init__(self) -> None:
        self._number("lam")
        self._number("p")
        if self.p == 0:
            raise ValueError("p of Schatten is 0; it must be above 0: RankPenalty counts the singular values")

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return self.p >= 1

    @cached_property
    def _scalar(self) -> Prox:
        from .entries import L1, L2Squared
        from .penalties import LHalf, LTwoThirds, Power

        if self.p in (1.0, 2.0):
            return L1(self.lam) if self.p == 1 else L2Squared(2 * self.lam)
        if self.p in (0.5, 2 / 3):
            return LHalf(self.lam) if self.p == 0.5 else LTwoThirds(self.lam)
        return Power(self.lam, self.p)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return _by_singular_values(x, lambda s: self._scalar._prox(s, _of_values(step)))

    def value(self, x: Tensor) -> Tensor:
        return self.lam * (_felt(x) ** self.p).sum()


@dataclass(frozen=True, eq=False, repr=False)
class KyFan(_OfMatrix):
    """The k largest singular values: g = λ (σ_1 + … + σ_k), prox(x) = U max(min(σ, θ), σ - step λ) Vᴴ.

    θ ≥ 0 is the level above which Σ min(max(σ - θ, 0), step λ) would exceed k step λ: what Moreau's identity leaves of the
    projection on {0 ≤ u ≤ 1, Σ u ≤ k}. k = 1 is Spectral; k ≥ min(rows, columns) is Nuclear. (Source: Fan 1951, for the norm.)

    >>> KyFan(2)(torch.diag(torch.tensor([4.0, 3.0, 1.0])))
    tensor([[3., 0., 0.],
            [0., 2., 0.],
            [0., 0., 1.]])
    """

    k: int
    lam: Step = 1.0
    formula = "λ (σ_1 + … + σ_k)"
    cost = "n min(rows, columns)"
    is_set = False
    cone = True
    complex = True

    def __post_init__(self) -> None:
        whole(self, "k")
        self._number("lam")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return _by_singular_values(x, lambda s: _shrink_largest(s, times(_of_values(step), self.lam), self.k))

    def value(self, x: Tensor) -> Tensor:
        return self.lam * _singular_values(x)[..., : self.k].sum()


@dataclass(frozen=True, eq=False, repr=False)
class Spectral(_OfMatrix):
    """A small largest singular value: g = λ σ_1(x), prox(x) = U min(σ, θ) Vᴴ with Σ max(σ - θ, 0) = step λ, or 0 if there is none.

    >>> Spectral(1.0)(torch.diag(torch.tensor([4.0, 1.0])))
    tensor([[3., 0.],
            [0., 1.]])
    """

    lam: Step = 1.0
    alias = "opnorm"
    formula = "λ σ_1(x)"
    cost = "n min(rows, columns)"
    is_set = False
    cone = True
    complex = True

    def __post_init__(self) -> None:
        self._number("lam")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return _by_singular_values(x, lambda s: _shrink_largest(s, times(_of_values(step), self.lam), 1))

    def value(self, x: Tensor) -> Tensor:
        return self.lam * _singular_values(x)[..., :1].sum()


def _shrink_largest(s: Tensor, t: Step, k: int) -> Tensor:
    """The prox of t times the sum of the k largest, on numbers ≥ 0 along the last dim."""
    n = s.shape[-1]
    t = torch.minimum(torch.as_tensor(t, dtype=s.dtype, device=s.device), n * s.detach().amax(-1, keepdim=True))
    need = min(k, n) * t
    with torch.no_grad():  # the breakpoint just below θ
        breaks = torch.cat([s, s - t], -1)
        have = (s[..., None, :] - breaks[..., None]).clamp(min=0).minimum(t[..., None]).sum(-1)
        low = torch.where(have >= need, breaks, breaks.amin(-1, keepdim=True)).amax(-1, keepdim=True)
    between = (s > low) & (s - t <= low)
    have = (torch.where(between, s - low, 0.0) + torch.where(s - t > low, t, 0.0)).sum(-1, keepdim=True)
    theta = (low + (have - need) / between.sum(-1, keepdim=True).clamp(min=1)).clamp(min=0)
    return torch.where(s - t >= theta, s - t, torch.where(s > theta, theta, s))


@dataclass(frozen=True, eq=False, repr=False)
class SpectralBall(_OfMatrix):
    """No singular value above the radius: g = 0 where σ_1(x) ≤ radius, prox(x) = U min(σ, radius) Vᴴ.

    >>> SpectralBall(2.0)(torch.diag(torch.tensor([4.0, 1.0])))
    tensor([[2., 0.],
            [0., 1.]])
    """

    radius: float = 1.0
    formula = "σ_1(x) ≤ radius"
    cost = "n min(rows, columns)"
    complex = True

    def __post_init__(self) -> None:
        self._number("radius")

    @property
    def cone(self) -> bool:  # type: ignore[override]
        return self.radius == 0

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if not x.numel():
            return x.clone()
        inside = _singular_values(x.detach())[..., :1, None] <= self.radius
        return torch.where(inside, x, _by_singular_values(x, lambda s: s.clamp(max=self.radius)))


@dataclass(frozen=True, eq=False, repr=False)
class NuclearBall(_OfMatrix):
    """A bounded sum of singular values: g = 0 where Σ σ(x) ≤ radius, prox(x) = U max(σ - θ, 0) Vᴴ.

    θ is 0 inside the ball and makes the sum the radius outside it.

    >>> NuclearBall(2.0)(torch.diag(torch.tensor([3.0, 2.0])))
    tensor([[1.5000, 0.0000],
            [0.0000, 0.5000]])
    """

    radius: float = 1.0
    formula = "Σ σ(x) ≤ radius"
    cost = "n min(rows, columns)"
    complex = True

    def __post_init__(self) -> None:
        self._number("radius")

    @property
    def cone(self) -> bool:  # type: ignore[override]
        return self.radius == 0

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        def onto(s: Tensor) -> Tensor:
            on = project_simplex(s, s.new_ones((1,) * s.ndim), self.radius)
            return torch.where(s.sum(-1, keepdim=True) > self.radius, on, s)

        return _by_singular_values(x, onto)


@dataclass(frozen=True, eq=False, repr=False)
class RankAtMost(_OfMatrix):
    """At most so many singular values that are not zero: prox(x) is the truncated singular value decomposition.

    Not convex. Among equal singular values those that the decomposition lists first are kept.
    (Source: Eckart and Young 1936.)

    >>> RankAtMost(1)(torch.diag(torch.tensor([3.0, 2.0])))
    tensor([[3., 0.],
            [0., 0.]])
    """

    rank: int
    alias = "rank"
    formula = "rank(x) ≤ rank"
    cost = "n min(rows, columns)"
    convex = False
    cone = True
    complex = True

    def __post_init__(self) -> None:
        whole(self, "rank")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if self.rank >= min(x.shape[-2:]):
            return x.clone()
        kept = torch.arange(min(x.shape[-2:]), device=x.device) < self.rank
        return _by_singular_values(x, lambda s: s * kept)


@dataclass(frozen=True, eq=False, repr=False)
class RankPenalty(_OfMatrix):
    """A price on each singular value that is not zero: g = λ rank(x), prox(x) keeps the σ > √(2 step λ) as they are.

    Not convex. ``value`` counts the singular values that are no rounding error.

    >>> RankPenalty(1.0)(torch.diag(torch.tensor([3.0, 1.0])))
    tensor([[3., 0.],
            [0., 0.]])
    """

    lam: Step = 1.0
    formula = "λ rank(x)"
    cost = "n min(rows, columns)"
    convex = False
    is_set = False
    cone = True
    complex = True

    def __post_init__(self) -> None:
        self._number("lam")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        t = torch.as_tensor(times(_of_values(step), self.lam), dtype=x.real.dtype, device=x.device)
        return _by_singular_values(x, lambda s: torch.where(s > (2 * t).sqrt(), s, 0.0))

    def value(self, x: Tensor) -> Tensor:
        s = _felt(x)
        return self.lam * torch.where(s.isnan(), s, (s > 0).double()).sum()


@dataclass(frozen=True, eq=False, repr=False)
class LogDet(_Square):
    """A barrier that keeps a matrix positive definite: g = -λ log det x, prox(x) = V ½ (w + √(w² + 4 step λ)) Vᴴ.

    V w Vᴴ is the symmetric (Hermitian) part of x; g is infinite where x is not symmetric positive definite. There is no
    minimiser: an infinite step is refused. A step of 0 gives the nearest positive semidefinite matrix, as any step does
    where λ is 0: that is PSD.

    >>> LogDet(2.0)(torch.diag(torch.tensor([1.0, -1.0])))
    tensor([[2.0000, 0.0000],
            [0.0000, 1.0000]])
    """

    lam: Step = 1.0
    formula = "-λ log det x"
    cost = "n^1.5"
    is_set = False
    cone = True
    attained = property(lambda self: self.lam == 0)
    complex = True

    def __post_init__(self) -> None:
        self._number("lam")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self.check((x.shape[-2], x.shape[-1]))
        a = torch.as_tensor(times(_of_values(step), self.lam), dtype=x.real.dtype, device=x.device).sqrt()

        def f(w: Tensor) -> Tensor:
            root = torch.where(a > 0, torch.hypot(w, 2 * a.where(a > 0, 1.0)), w.abs())
            down = torch.where(w > 0, 1.0, root - w)  # no cancellation where w < 0
            return torch.where(w > 0, 0.5 * (w + root), 2 * a * (a / down.where(down > 0, 1.0)))

        return _by_eigenvalues(x, f)

    def value(self, x: Tensor) -> Tensor:
        self.check((x.shape[-2], x.shape[-1]))
        if not x.numel():
            return x.abs().double().sum()
        if not self.lam:
            return super().value(x)
        y = _wide(x)
        odd = (y - y.mH).abs().amax((-2, -1)) > torch.finfo(x.dtype).eps ** 0.5 * y.abs().amax((-2, -1))
        w = torch.linalg.eigvalsh(_hermitian(y))
        return torch.where(odd.any() | (w <= 0).any(), math.inf, -self.lam * w.clamp(min=0).log().sum())


class _OfValues(Around):
    """An operator on the vector of singular values or eigenvalues, to which their order is nothing."""

    dims = (-2, -1)
    metric = "group"
    complex = True

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        dims = self.inner.dims
        if dims is None or any(d != -1 for d in dims):
            way = "one entry by entry or along dim=-1 is needed, as the values of each matrix are its last dim"
            raise ValueError(f"{name} was given {self.inner!r}; {way}, e.g. {name}(Simplex(dim=-1))")
        if any(True for _ in self.inner._tensors()) or not _symmetric(self.inner):
            raise ValueError(f"{name} was given {self.inner!r}; a term that is the same for every order of the values is needed")

    def _of(self, values: Tensor, x: Tensor) -> Tensor:
        """inner of the values, in its domain within the rounding of x."""
        away = self.inner.value(values.to(x.dtype.to_real()))
        return torch.where(away == math.inf, away, self.inner.value(self.inner._prox(values, 0.0)))

    @property
    def T(self) -> Prox:
        return self

    def take(self, index: Index, dim: int) -> Prox:
        return Prox.take(self, index, dim)

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        Prox.check(self, shape, name)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())

    @abstractmethod
    def _prox(self, x: Tensor, step: Step) -> Tensor: ...


def _probes() -> Iterator[tuple[Tensor, float]]:
    """Vectors of numbers above zero and steps, with which an operator is tried out."""
    for i in range(9):
        draw = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        yield 10.0 ** (i % 3 - 1) * draw, 30.0 ** (i // 3 - 1)


def _symmetric(p: Prox) -> bool:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    try:
        return all(torch.allclose(p._prox(x[:, order], s), p._prox(x, s)[:, order], rtol=1e-7, atol=1e-9) for x, s in _probes())
    except (ValueError, RuntimeError):  # it holds something for each place
        return False


def _odd(p: Prox) -> bool:
    sign = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)
    return all(torch.allclose(p._prox(sign * x, s), sign * p._prox(x, s), rtol=1e-7, atol=1e-9) for x, s in _probes())


@dataclass(frozen=True, eq=False, repr=False)
class Singular(_OfValues):
    """A term of the singular values: g = inner(σ(x)), prox(x) = U inner(σ) Vᴴ for x = U σ Vᴴ (von Neumann 1937; Lewis 1995).

    inner acts on the vector σ, entry by entry or along dim=-1, and is the same for every order of it: Singular(MCP()),
    Singular(TopK(dim=-1, k=2)), Singular(L1() + Box(-1, 1)). It need not be even, but must leave σ ≥ 0 there; only an even one
    that is convex makes a convex term. Raises ValueError for an operator that is tried out and found otherwise.

    >>> from proxfactor import L0
    >>> Singular(L0(1.0))(torch.diag(torch.tensor([3.0, 1.0])))
    tensor([[3., 0.],
            [0., 0.]])
    """

    inner: Prox
    formula = "g(σ(x))"
    cost = "n min(rows, columns)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(bool((self.inner._prox(x, s) < -1e-9).any()) for x, s in _probes()):
            raise ValueError(f"Singular was given {self.inner!r}, which makes values negative; add NonNegative() to it")

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return self.inner.convex and self._even

    @cached_property
    def _even(self) -> bool:
        return _odd(self.inner)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return _by_singular_values(x, lambda s: self.inner._prox(s, _of_values(step)))

    def value(self, x: Tensor) -> Tensor:
        return Prox.value(self, x) if self.is_set else self._of(_felt(x), x)


@dataclass(frozen=True, eq=False, repr=False)
class Eigen(_OfValues):
    """A term of the eigenvalues of a symmetric matrix, Hermitian if complex: g = inner(w), infinite where x is not one.

    prox(x) = V inner(w) Vᴴ for the symmetric part V w Vᴴ of x. inner acts on the vector w, entry by entry or along dim=-1,
    and is the same for every order of it. Eigen(Simplex(dim=-1)) are the density matrices (of trace 1 with no eigenvalue
    below zero), Eigen(Entropy()) is the entropy of such a matrix. Convex where inner is. Raises ValueError for an operator
    that is tried out and found to depend on the order. (Davis 1957; Lewis 1996.)

    >>> from proxfactor import Simplex
    >>> Eigen(Simplex(dim=-1))(torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """

    inner: Prox
    formula = "x = xᴴ, g(w(x))"
    cost = "n^1.5"

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        if shape[0] != shape[1]:
            raise ValueError(f"{self!r} acts on square matrices, {name} has shape {tuple(shape)}")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self.check((x.shape[-2], x.shape[-1]))
        return _by_eigenvalues(x, lambda w: self.inner._prox(w, _of_values(step)))

    def value(self, x: Tensor) -> Tensor:
        self.check((x.shape[-2], x.shape[-1]))
        if self.is_set or not x.numel():
            return Prox.value(self, x)
        y = _wide(x)
        odd = (y - y.mH).abs().amax((-2, -1)) > torch.finfo(x.dtype).eps ** 0.5 * y.abs().amax((-2, -1))
        w = torch.linalg.eigvalsh(_hermitian(y))
        nothing = w.abs() <= x.shape[-1] * torch.finfo(x.dtype).eps * w.abs().amax(-1, keepdim=True)
        return torch.where(odd.any(), math.inf, self._of(torch.where(nothing, 0.0, w), x))


@dataclass(frozen=True, eq=False, repr=False)
class PSD(_Square):
    """Symmetric (complex: Hermitian) with no eigenvalue below zero: prox(x) clips those of the symmetric part.

    (Source: Higham 1988.)

    >>> PSD()(torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
    tensor([[1., 0.],
            [0., 0.]])
    """

    formula = "x = xᴴ, eigenvalues ≥ 0"
    cost = "n^1.5"
    cone = True
    complex = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self.check((x.shape[-2], x.shape[-1]))
        return _by_eigenvalues(x, lambda w: w.clamp(min=0))


@dataclass(frozen=True, eq=False, repr=False)
class SymmetricMatrix(_Square):
    """Equal to its transpose (complex: to its conjugate transpose): the average of each pair, weighted by 1/step.

    >>> SymmetricMatrix()(torch.tensor([[1.0, 2.0], [4.0, 3.0]]))
    tensor([[1., 3.],
            [3., 3.]])
    """

    alias = "symmetric"
    formula = "x = xᴴ"
    cone = True
    metric = "weighted"
    complex = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self.check((x.shape[-2], x.shape[-1]))
        if not isinstance(step, Tensor) or not step.ndim:
            return _hermitian(x)
        s = step.expand(x.shape)
        share = torch.where(s == s.mT, 0.5, 1 / (1 + s / s.mT))  # of the entry itself: its partner's step over both
        return share * x + share.mT * x.mH


@dataclass(frozen=True, eq=False, repr=False)
class Stiefel(_OfMatrix):
    """Orthonormal columns (rows, where there are fewer of these): xᴴ x = 1, prox(x) = U Vᴴ, the polar factor.

    Not convex. A matrix of deficient rank has several nearest points; one of them is given, the same each time. For a
    square matrix: orthogonal (complex: unitary). (Source: Fan and Hoffman 1955.)

    >>> Stiefel()(torch.tensor([[2.0, 0.0], [0.0, -3.0]]))
    tensor([[ 1.,  0.],
            [ 0., -1.]])
    """

    alias = "orthogonal"
    formula = "xᴴ x = 1"
    cost = "n min(rows, columns)"
    convex = False
    complex = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return _by_singular_values(x, torch.ones_like)


@dataclass(frozen=True, eq=False, repr=False)
class Hankel(_OfMatrix):
    """Constant along each anti-diagonal, as the lagged copies of a series are: the averages, weighted by 1/step.

    (Source: Cadzow 1988, for the averaging.)

    >>> Hankel()(torch.tensor([[1.0, 2.0], [4.0, 5.0]]))
    tensor([[1., 3.],
            [3., 5.]])
    """

    formula = "x_ij = h_(i+j)"
    metric = "weighted"
    cone = True
    complex = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        return _hankel(x, step.expand(x.shape) if isinstance(step, Tensor) and step.ndim else x.new_ones((), dtype=x.real.dtype))


@dataclass(frozen=True, eq=False, repr=False)
class Toeplitz(_OfMatrix):
    """Constant along each diagonal, as a convolution is: the averages, weighted by 1/step.

    >>> Toeplitz()(torch.tensor([[1.0, 2.0], [4.0, 5.0]]))
    tensor([[3., 2.],
            [4., 3.]])
    """

    formula = "x_ij = t_(i-j)"
    metric = "weighted"
    cone = True
    complex = True

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if isinstance(step, Tensor) and step.ndim:
            return _hankel(x.flip(-1), step.expand(x.shape).flip(-1)).flip(-1)
        return _hankel(x.flip(-1), x.new_ones((), dtype=x.real.dtype)).flip(-1)


def _hankel(x: Tensor, step: Tensor) -> Tensor:
    m, n = x.shape[-2:]
    if not x.numel():
        return x.clone()
    if m > n:
        return _hankel(x.mT, step.mT if step.ndim else step).mT.contiguous()

    def skewed(t: Tensor, fill: float) -> Tensor:  # row i moved right by i: anti-diagonals become columns
        t = torch.nn.functional.pad(t, (0, m), value=fill)
        return t.flatten(-2)[..., :-m].unflatten(-1, (m, m + n - 1))

    there = skewed(torch.ones_like(x, dtype=x.real.dtype), 0.0) > 0
    steps = skewed(step, math.inf) if step.ndim else step.expand(there.shape)
    return average(skewed(x, 0.0), steps, -2, there).squeeze(-2).unfold(-1, n, 1).clone()


def average(x: Tensor, step: Tensor, dim: int, there: Tensor | None = None) -> Tensor:
    """The average over ``dim``, which stays, of the entries that are there, with the weights 1/step.

    Where steps are 0 only these count, infinite ones only where all are.
    """
    there = torch.ones_like(step, dtype=torch.bool) if there is None else there
    least = step.where(there, math.inf).amin(dim, keepdim=True)
    w = torch.where(step == least, 1.0, least / step).where(there, 0.0)
    w = w / w.sum(dim, keepdim=True)
    mean = (w * x).sum(dim, keepdim=True)
    return mean + (w * (x - mean)).sum(dim, keepdim=True)  # the second time for what rounding left at a large offset


@dataclass(frozen=True, eq=False, repr=False)
class LinearSubspace(Along):
    """Mixtures of given vectors, such as known spectra, with any coefficients: the projection on their span along dim.

    basis is an array of k vectors of n numbers, one per row (or one vector alone), which need not be independent or normed;
    x has n entries along dim. With tensor steps it is the least-squares fit with the weights 1/step.

    >>> LinearSubspace(dim=0, basis=[1.0, 1.0])(torch.tensor([1.0, 3.0]))
    tensor([2., 2.])
    """

    dim: int
    basis: Tensor
    alias = "span"
    formula = "x = Σ c_k basis_k along dim"
    cost = "n k"
    metric = "weighted"
    cone = True

    def __post_init__(self) -> None:
        super().__post_init__()
        given = array(self.basis, "basis of LinearSubspace")
        given = given[None] if given.ndim == 1 else given
        if given.ndim != 2 or not given.numel() or not bool(given.isfinite().all()):
            shape = f"given an array of shape {tuple(given.shape)}" + ("" if bool(given.isfinite().all()) else " with NaN or inf")
            raise ValueError(f"basis of LinearSubspace: one vector per row is needed, of finite numbers; {shape}")
        object.__setattr__(self, "basis", given)

    @cached_property
    def _orthonormal(self) -> Tensor:
        rows = self.basis.double() / self.basis.abs().amax(1, keepdim=True).double().clamp(min=1e-300)
        _, s, vh = torch.linalg.svd(rows, full_matrices=False)
        return vh[s > max(rows.shape) * 1e-15 * s[0].clamp(min=1e-300)].mT

    @property
    def T(self) -> Prox:
        return LinearSubspace(-3 - (self.dim if self.dim < 0 else self.dim - 2), self.basis)

    def take(self, index: Index, dim: int) -> Prox:
        super().take(index, dim)
        return self

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        super().check(shape, name)
        self._fits(shape[self.dim], f"{name} of shape {tuple(shape)}")

    def _fits(self, n: int, what: str) -> None:
        if n != self.basis.shape[1]:
            raise ValueError(f"{self!r} has vectors of {self.basis.shape[1]} numbers; {what} has {n} along dim {self.dim}")

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self._fits(x.shape[self.dim], f"x of shape {tuple(x.shape)}")
        wide, v = x.movedim(self.dim, -1).double(), self._orthonormal.to(x.device)
        if not isinstance(step, Tensor) or not step.ndim or step.expand(x.shape).stride(self.dim) == 0:
            return ((wide @ v) @ v.mT).to(x.dtype).movedim(-1, self.dim)
        s = step.expand(x.shape).movedim(self.dim, -1).double()
        between = (s > 0) & (s < math.inf)
        least = s.where(between, math.inf).amin(-1, keepdim=True)
        c, free = wide.new_zeros(*wide.shape[:-1], v.shape[1], 1), torch.eye(v.shape[1], dtype=v.dtype, device=v.device)
        for weight in (s == 0, (least / s).where(between, 0.0), s == math.inf):  # each settles what the one before left free
            root = weight.double().sqrt()[..., None]
            a = root * v @ free
            inverse = torch.linalg.pinv(a, atol=1e-13, rtol=1e-13)
            c = c + inverse @ (root * (wide[..., None] - v @ c))
            free = free - inverse @ a
        return (v @ c)[..., 0].to(x.dtype).movedim(-1, self.dim)


@dataclass(frozen=True, eq=False, repr=False)
class TransportPolytope(_OfMatrix):
    """Entries ≥ 0 with given sums of the rows and of the columns: prox(x) = max(x - a 1ᵀ - 1 bᵀ, 0).

    rows and columns are arrays of the sums, not negative and finite, of one total. b minimises a convex function whose slope
    is how far the column sums are off, a follows from b row by row as in Simplex: a semismooth Newton method, until the sums
    are right within rounding or after 100 steps. (Source: Li, Sun and Toh 2020, for Newton's method on the dual.)

    >>> TransportPolytope([1.0, 1.0], [0.5, 1.5])(torch.zeros(2, 2))
    tensor([[0.2500, 0.7500],
            [0.2500, 0.7500]])
    """

    rows: Tensor
    columns: Tensor
    alias = "transport"
    formula = "x ≥ 0, row and column sums given"
    cost = "n^1.5"

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            t = array(getattr(self, name), f"{name} of TransportPolytope")
            if t.ndim != 1 or not len(t) or not bool(((t >= 0) & (t < math.inf)).all()):
                given = f"given an array of shape {tuple(t.shape)}" + (f" with {t.min():g} … {t.max():g}" if t.numel() else "")
                raise ValueError(f"{name} of TransportPolytope: sums are needed, 1-D, finite and not negative; {given}")
            object.__setattr__(self, name, t)
        a, b = (t.double().sum().item() for t in (self.rows, self.columns))
        if abs(a - b) > 1e-6 * a:
            raise ValueError(f"TransportPolytope is empty: the rows sum to {a:g} and the columns to {b:g}; scale one of them")
        object.__setattr__(self, "columns", self.columns.double() * (a / b if b else 1.0))

    @property
    def cone(self) -> bool:  # type: ignore[override]
        return not bool(self.rows.any())

    @property
    def T(self) -> Prox:
        return TransportPolytope(self.columns, self.rows)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter((("rows", self.rows[:, None]), ("columns", self.columns[None])))

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        if tuple(shape) != (need := (len(self.rows), len(self.columns))):
            raise ValueError(f"{self!r} holds the sums of a matrix of shape {need}, {name} has shape {tuple(shape)}")

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self.check((x.shape[-2], x.shape[-1]))
        return _transport(x, self.rows, self.columns)


@dataclass(frozen=True, eq=False, repr=False)
class Birkhoff(_Square):
    """Doubly stochastic matrices: entries ≥ 0, every row and every column sums to one (see TransportPolytope).

    >>> Birkhoff()(torch.tensor([[2.0, 0.0], [1.0, 0.0]]))
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]])
    """

    formula = "x ≥ 0, x 1 = 1, xᵀ 1 = 1"
    cost = "n^1.5"

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        self.check((x.shape[-2], x.shape[-1]))
        one = torch.ones(x.shape[-1])
        return _transport(x, one, one)


def _transport(given: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    if not given.numel():
        return given.clone()
    x = given.double()  # in float32 the sums of long rows would be off by more than those of the columns allow
    rows, columns = rows.to(x), columns.to(x)
    good = x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    x = torch.where(good, x, 0.0)
    x = x - x.mean(-1, keepdim=True)  # what all entries of a row or of a column share does not count
    x = x - x.mean(-2, keepdim=True)
    with torch.no_grad():
        most, least = x.abs().amax((-2, -1), keepdim=True)[..., 0], columns.max()
        b, factor = torch.zeros_like(x[..., 0, :]), (least / most.clamp(min=least)).clamp(min=1e-12)
        while not bool((factor == 1).all()):  # far from the polytope, the multipliers of a nearer matrix are the start
            b = _multipliers(factor[..., None] * x, rows, columns, b, 0.1 * least)
            b, factor = b * ((8 * factor).clamp(max=1) / factor), (8 * factor).clamp(max=1)
        b = _multipliers(x, rows, columns, b, 4 * torch.finfo(x.dtype).eps * torch.maximum(most, least))
    if (
        torch.is_grad_enabled() and x.requires_grad
    ):  # by the implicit function theorem: one more step, of which only the slope counts
        d = _newton(*_row_by_row(x, rows, columns, b), x.new_full((1,), torch.finfo(x.dtype).eps ** 0.5))
        b = b + (d - d.detach())
    return torch.where(good, _row_by_row(x, rows, columns, b)[0], math.nan).to(given.dtype)


def _row_by_row(x: Tensor, rows: Tensor, columns: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rows for the multipliers b of the columns, and how far the column sums are then off."""
    y = project_simplex(x - b[..., None, :], x.new_ones((1,) * x.ndim), rows[:, None])
    return y, y.sum(-2) - columns


def _newton(y: Tensor, off: Tensor, ridge: Tensor) -> Tensor:
    on = (y > 0).to(y.dtype)
    slope = torch.diag_embed(on.sum(-2) + ridge) - on.mT @ (on / on.sum(-1, keepdim=True).clamp(min=1))
    return torch.linalg.solve(slope, (off - off.mean(-1, keepdim=True))[..., None])[..., 0]


def _multipliers(x: Tensor, rows: Tensor, columns: Tensor, b: Tensor, tol: Tensor) -> Tensor:
    """Damped Newton steps on b until no column sum is off by more than tol."""
    y, off = _row_by_row(x, rows, columns, b)
    ridge = torch.full_like(off[..., :1], 0.1)
    for _ in range(100):
        going = off.abs().amax(-1, keepdim=True) > tol
        if not bool(going.any()):
            break
        d = _newton(y, off, ridge)
        slope, t = (off * d).sum(-1, keepdim=True), going.to(x.dtype)
        for _ in range(40):
            y, new = _row_by_row(x, rows, columns, b + t * d)
            long = (new * d).sum(-1, keepdim=True) < -0.1 * slope
            if not bool(long.any()):
                break
            t = torch.where(long, t / 2, t)
        b, off = b + t * d, new
        ridge = torch.where(t == 1, ridge / 8, ridge * 2).clamp(torch.finfo(x.dtype).eps ** 0.6, 0.1)
    return b
