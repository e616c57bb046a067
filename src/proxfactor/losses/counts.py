"""Losses for counts, amounts and powers: Itakura-Saito, any β-divergence, Poisson with a log link, negative binomial."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .base import KL, Frobenius, Loss, refuse
from .robust import positive


class _Divergence(Loss):
    """d_β, by its slope pred^(β-2) (pred - x); near the data by a series in their distance, where the closed form cancels."""

    real = False
    beta: float

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        b = self.beta
        inside = (x > 0) & (pred > 0)
        p, y = pred.where(inside, 1.0), x.where(inside, 1.0)  # so that no branch, nor its gradient, is NaN
        t = (p - y) / y
        near = t.abs() < 0.1
        s, tail = t.where(near, 0.0), torch.zeros_like(t)
        for c in reversed(self._series):
            tail = tail * s + c
        u = p / y
        far = 1 / u + u.log() - 1 if b == 0 else (1 + (b - 1) * u**b - b * u ** (b - 1)) / (b * (b - 1))
        edge = pred.where(pred > 0, 0.0) ** b / b if b > 0 else torch.full_like(pred, math.inf)  # the data is 0
        edge = torch.where(x > 0, x.where(x > 0, 0.0) ** b / (b * (b - 1)) if b > 1 else math.inf, edge)  # the prediction is 0
        return torch.where(inside, y**b * torch.where(near, s.square() * tail, far), torch.where(pred < 0, math.inf, edge))

    @cached_property
    def _series(self) -> list[float]:
        """∫ s (1 + s t)^(β-2) ds from 0 to 1 as a series in t, as long as |t| < 0.1 needs it."""
        c, terms = 1.0, list[float]()
        while len(terms) < 4 or abs(c) * 0.1 ** len(terms) > 1e-17:
            terms.append(c / (len(terms) + 2))
            c *= (self.beta - 2 - len(terms) + 1) / len(terms)
        return terms

    def _floored(self, pred: Tensor, x: Tensor) -> Tensor:
        """The prediction, looked at from a little above 0, where slope and curvature may be infinite."""
        return torch.maximum(pred, 1e-8 * x).clamp(min=torch.finfo(pred.dtype).tiny ** 0.25)

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        p = self._floored(pred, x)
        return torch.where((pred == 0) & (x == 0), 0.0, p ** (self.beta - 2) * (p - x))

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        if not 1 <= self.beta <= 2:
            return self.yardstick(pred, x)
        p = self._floored(pred, x)
        return p ** (self.beta - 2) * ((self.beta - 1) + (2 - self.beta) * x / p)

    def yardstick(self, pred: Tensor, x: Tensor) -> Tensor:
        p = self._floored(pred, x)
        return p ** (self.beta - 2) * ((self.beta - 1) + (2 - self.beta) * x / p).clamp(min=1)

    def check(self, x: Tensor) -> None:
        if self.beta <= 0:
            way = "make what is 0 NaN (no data), add a small number to all of it, or use loss='kl'"
            refuse(self, x, x > 0, "positive data, since a 0 is infinitely far from every prediction", way)
        refuse(self, x, x >= 0, "data that is not negative", "use loss='frobenius', or subtract the baseline first")


@dataclass(frozen=True, eq=False, repr=False)
class ItakuraSaito(_Divergence):
    """Itakura-Saito divergence, for powers and other amounts with errors in per cent: x/pred - ln(x/pred) - 1.

    It is the likelihood of a gamma distribution, and of degree 0: small values count as much as large ones. It is not convex;
    its curvature max(2x - pred, pred) / pred³ leads to the cell's own minimum from above. (Févotte, Bertin and Durrieu 2009.)

    >>> ItakuraSaito()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
    tensor([0.0000, 0.1931])
    """

    alias = "itakura"
    formula = "x/pred - ln(x/pred) - 1"
    data = "powers, positive amounts with errors in per cent, x > 0"
    degree = 0.0
    beta = 0.0
    convex = False


@dataclass(frozen=True, eq=False, repr=False)
class Beta(_Divergence):
    """The β-divergence for any β: (x^β + (β-1) pred^β - β x pred^(β-1)) / (β (β-1)).

    β = 2 is Frobenius, 1 is KL, 0 is Itakura-Saito, each with its own formulas; below 2 large values count less than in
    squares. It is convex for 1 ≤ β ≤ 2. (Févotte and Idier 2011.)

    >>> Beta(0.5)(torch.tensor([4.0]), torch.tensor([1.0]))
    tensor([1.])
    """

    beta: float = 0.5
    formula = "(x^β + (β-1) pred^β - β x pred^(β-1)) / (β(β-1))"
    data = "amounts between the cases above, x ≥ 0 (x > 0 where β ≤ 0)"

    def __post_init__(self) -> None:
        if isinstance(self.beta, bool) or not isinstance(self.beta, int | float) or not -20 <= self.beta <= 20:
            raise ValueError(f"beta of Beta is {self.beta!r}; it is a number, e.g. 0.5; 2 is squared error, 1 is KL")

    @cached_property
    def _known(self) -> Loss | None:
        return {2: Frobenius(), 1: KL()}.get(self.beta)  # type: ignore[call-overload]

    @property
    def quadratic(self) -> bool:  # type: ignore[override]
        return self.beta == 2

    @property
    def real(self) -> bool:  # type: ignore[override]
        return self.beta == 2

    @property
    def degree(self) -> float:  # type: ignore[override]
        return self.beta

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return 1 <= self.beta <= 2

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        return self._known(pred, x) if self._known else super().__call__(pred, x)

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return self._known.grad(pred, x) if self._known else super().grad(pred, x)

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        return self._known.curvature(pred, x) if self._known else super().curvature(pred, x)

    def yardstick(self, pred: Tensor, x: Tensor) -> Tensor:
        return self._known.yardstick(pred, x) if self._known else super().yardstick(pred, x)

    def at_zero(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        return self._known.at_zero(A, B) if self._known else super().at_zero(A, B)

    def check(self, x: Tensor) -> None:
        (self._known.check if self._known else super().check)(x)


@dataclass(frozen=True, eq=False, repr=False)
class PoissonLog(Loss):
    """Poisson counts with a log link, for effects that multiply: exp(pred) - x pred - x + x ln x; the mean is exp(pred).

    KL is the same likelihood with the mean pred itself, for effects that add. An offset is a component that is fixed.

    >>> PoissonLog()(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor([1., 0.])
    """

    formula = "exp(pred) - x pred - x + x ln x"
    data = "counts whose effects multiply, x ≥ 0"

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        t = pred - x.where(x > 0, 1.0).log()
        return torch.where(x > 0, x * (t.expm1() - t), pred.exp())

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return pred.exp() - x

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        t = pred - x.where(x > 0, 1.0).log()
        chord = x * (t.expm1() / t).where(t != 0, 1.0)
        return torch.where(x > 0, torch.maximum(pred.exp(), chord), pred.exp())

    def mean(self, pred: Tensor) -> Tensor:
        return pred.exp()

    def guess(self, x: Tensor) -> Tensor:
        return (x + 0.5).log()

    def check(self, x: Tensor) -> None:
        refuse(self, x, x >= 0, "counts, which are not negative", "use loss='frobenius', or subtract the baseline first")


@dataclass(frozen=True, eq=False, repr=False)
class NegativeBinomial(Loss):
    """Counts that vary more than Poisson's, Var = μ + α μ² with the dispersion α > 0: half the deviance, with r = 1/α

        (x + r) ln((μ + r) / (x + r)) - x ln(μ / x)

    The link is "log", μ = exp(pred), as in regression; or "identity", μ = pred, for factors that are not negative, where the
    loss is not convex. α → 0 is Poisson. (Hilbe 2011.)

    >>> NegativeBinomial(1.0)(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor([0.6931, 0.0000])
    """

    dispersion: float = 1.0
    link: str = "log"
    alias = "nb"
    formula = "(x + r) ln((μ + r)/(x + r)) - x ln(μ/x), r = 1/α"
    data = "counts that vary more than Poisson's, x ≥ 0"

    def __post_init__(self) -> None:
        positive(self, "dispersion")
        if self.link not in ("log", "identity"):
            raise ValueError(f"link of NegativeBinomial is {self.link!r}; it is 'log' (effects multiply) or 'identity' (they add)")

    @property
    def convex(self) -> bool:  # type: ignore[override]
        return self.link == "log"

    @property
    def real(self) -> bool:  # type: ignore[override]
        return self.link == "log"

    @property
    def _r(self) -> float:
        return 1 / self.dispersion

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        r, some = self._r, x > 0
        y = x.where(some, 1.0)
        if self.link == "log":
            more = (x + r) * (softplus(pred - math.log(r)) - (x / r).log1p()) - torch.where(some, x * (pred - y.log()), 0.0)
            return more.clamp(min=0)
        inside = (pred > 0) | ((pred == 0) & ~some)
        p = pred.where(pred > 0, 1.0)
        rest = (x + r) * ((p - x) / (x + r)).log1p() - torch.where(some, x * (p.log() - y.log()), 0.0)
        return torch.where(inside, torch.where(pred > 0, rest.clamp(min=0), 0.0), math.inf)

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        r = self._r
        if self.link == "log":
            s = (pred - math.log(r)).sigmoid()  # μ / (μ + r)
            return r * s - x * (1 - s)
        return torch.where(x > 0, r * (pred - x) / pred, r) / (r + pred)

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        r, some = self._r, x > 0
        if self.link == "log":
            z = pred - math.log(r)
            s = z.sigmoid()
            away = pred - x.where(some, 1.0).log()
            chord = torch.where(some & (away != 0), (r * s - x * (1 - s)) / away, 0.0)
            return torch.maximum((x + r) * s * (1 - s), chord)
        p = pred.clamp(min=torch.finfo(pred.dtype).tiny ** 0.25)
        own = torch.where(some, x / p.square(), 0.0) - (x + r) / (p + r).square()
        return torch.maximum(own, r / (p * (r + p)))

    def mean(self, pred: Tensor) -> Tensor:
        return pred.exp() if self.link == "log" else pred

    def guess(self, x: Tensor) -> Tensor:
        return (x + 0.5).log() if self.link == "log" else x

    def check(self, x: Tensor) -> None:
        refuse(self, x, x >= 0, "counts, which are not negative", "use loss='frobenius', or subtract the baseline first")
