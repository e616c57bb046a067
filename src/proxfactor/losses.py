"""Losses: what a cell pays for being predicted as pred when the data says x, entry by entry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .text import Spelled

if TYPE_CHECKING:
    from .matrix import Matrix


class Loss(Spelled, ABC):
    """l(pred, x) for each cell. A new loss is a frozen dataclass with ``__call__`` and ``curvature``, better also ``grad``.

    quadratic    the curvature is one and the same everywhere, so that the model of a factor is exact
    degree       d with l(c pred, c x) = c^d l(pred, x) for every c > 0; None where there is none
    beta         which β-divergence the loss is; None where it is none
    """

    formula: ClassVar[str] = ""
    quadratic: ClassVar[bool] = False
    degree: ClassVar[float | None] = None
    beta: ClassVar[float | None] = None

    @abstractmethod
    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        """The loss of each cell, unsummed."""

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        """d loss / d pred of each cell, by autograd."""
        with torch.enable_grad():
            p = pred.detach().requires_grad_()
            return torch.autograd.grad(self(p, x).sum(), p)[0]

    @abstractmethod
    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        """c with l(q) ≤ l(p) + l'(p)(q - p) + c/2 (q - p)²; local, and then line-searched, where no bound exists."""

    def yardstick(self, pred: Tensor, x: Tensor) -> Tensor:
        """The curvature that the certificate measures in: where a slope has no curvature of its own, one that fits it."""
        return self.curvature(pred, x)

    def yardstick_at_zero(self, pred: Tensor) -> Tensor:
        """``yardstick`` where the data is 0; it may overwrite pred."""
        return self.yardstick(pred, torch.zeros_like(pred))

    def at_zero(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """For A (m, k) and B (n, k): Σ_j l(a_i·b_j, 0) of each row (m,), and its gradient in A (m, k), in closed form.

        It is what keeps sparse data sparse. Raises ValueError for a loss that has none.
        """
        raise ValueError(
            f"{self!r} has no closed form for the cells that are not stored; give the data as a dense array, "
            "or as Observed if the cells that are not stored are no data"
        )

    def at(self, X: Matrix) -> Loss:
        """The loss laid over the cells of X; itself, unless it differs from column to column."""
        return self

    @property
    def T(self) -> Loss:
        return self

    def mean(self, pred: Tensor) -> Tensor:
        """The expected data for a prediction: the inverse link, here the identity."""
        return pred

    def check(self, x: Tensor) -> None:
        """Raises ValueError if a value of the data is outside the domain of the loss."""


def as_loss(spec: Loss | str | Callable) -> Loss:
    """The loss that ``spec`` means: a Loss or its text form.

    >>> as_loss("kl")
    KL()
    """
    if isinstance(spec, Loss):
        return spec
    if isinstance(spec, str):
        return Loss.parse(spec)
    hint = f"write {spec.__name__}()" if isinstance(spec, type) else "a Loss such as KL(), or its name, e.g. 'frobenius'"
    raise TypeError(f"given {spec!r}, a loss is needed: {hint}")


@dataclass(frozen=True, eq=False, repr=False)
class Frobenius(Loss):
    """Squared error, for noise of one size everywhere: ½ (pred - x)².

    >>> Frobenius()(torch.tensor([3.0]), torch.tensor([1.0]))
    tensor([2.])
    """

    alias = "squared"
    formula = "½ (pred - x)²"
    quadratic = True
    degree = 2.0
    beta = 2.0

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        return 0.5 * (pred - x).square()

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return pred - x

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        return torch.ones_like(pred)

    def at_zero(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        AG = A @ (B.mT @ B)
        return 0.5 * (A * AG).sum(-1), AG


@dataclass(frozen=True, eq=False, repr=False)
class KL(Loss):
    """Generalised Kullback-Leibler divergence, for counts (the Poisson likelihood): x ln(x / pred) - x + pred.

    The data must not be negative, a prediction is positive wherever the data is. (Lee and Seung 1999.)

    >>> KL()(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 0.0]))
    tensor([0., 3.])
    """

    formula = "x ln(x/pred) - x + pred"
    degree = 1.0
    beta = 1.0

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        counted = (x > 0) & (pred > 0)
        p, y = pred.where(counted, 1.0), x.where(counted, 1.0)  # so that no branch, nor its gradient, is NaN
        gap = p - y
        near = gap.abs() < 0.1 * y
        r = gap.where(near, 0.0) / (p + y)  # ln(pred/x) = 2 artanh(r): a series in r where the difference would cancel
        q = r.square()
        tail = q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q / 13)))))
        close = r * (gap.where(near, 0.0) - 2 * y * tail)
        inside = torch.where(near, close, y * (y.log() - p.log()) + gap)
        return torch.where(counted, inside, torch.where((pred < 0) | (x > 0), torch.inf, pred))

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return torch.where(x > 0, 1 - x / pred, 1.0)

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        return torch.where(x > 0, x / pred / pred, 0.0)

    def yardstick(self, pred: Tensor, x: Tensor) -> Tensor:
        p = pred.clamp(min=torch.finfo(pred.dtype).tiny ** 0.4)  # whose square is still a number
        return torch.where(pred > 0, torch.maximum(x / p, torch.ones_like(p)) / p, 0.0)

    def yardstick_at_zero(self, pred: Tensor) -> Tensor:
        return pred.masked_fill_(pred <= 0, torch.inf).clamp_(min=torch.finfo(pred.dtype).tiny ** 0.4).reciprocal_()

    def at_zero(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        s = B.sum(0)
        return A @ s, s.expand_as(A)

    def check(self, x: Tensor) -> None:
        if x.numel() and bool((x < 0).any()):
            raise ValueError(
                f"KL needs data that is not negative, given a smallest value of {x.min().item():g}; "
                "use loss='frobenius', or subtract the baseline first"
            )
