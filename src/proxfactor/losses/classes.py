"""Losses for data that are classes: yes and no, ordered levels, one of several."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .base import Loss, refuse
from .robust import _Kinked

if TYPE_CHECKING:
    from ..matrix import Matrix

SIGNS = "for -1 and 1 give (x + 1) / 2"


@dataclass(frozen=True, eq=False, repr=False)
class LogisticLoss(Loss):
    """Yes or no as 1 or 0, by their log-odds: x softplus(-pred) + (1 - x) softplus(pred); the mean is the probability.

    x may be a share between 0 and 1 (with its number of trials as the weight); what the share itself must cost is left out.

    >>> LogisticLoss()(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]))
    tensor([0.6931, 0.1269])
    """

    alias = "logistic"
    formula = "ln(1 + exp(pred)) - x pred"
    data = "0 and 1, or shares between"
    bound = 0.25

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        least = torch.special.entr(x) + torch.special.entr(1 - x)
        return x * softplus(-pred) + (1 - x) * softplus(pred) - least

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return (1 - x) * pred.sigmoid() - x * (-pred).sigmoid()

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        return pred.sigmoid() * (-pred).sigmoid()

    def mean(self, pred: Tensor) -> Tensor:
        return pred.sigmoid()

    def guess(self, x: Tensor) -> Tensor:
        return 2 * x - 1

    def check(self, x: Tensor) -> None:
        refuse(self, x, (x >= 0) & (x <= 1), "0 and 1, or shares between them", SIGNS)


@dataclass(frozen=True, eq=False, repr=False)
class HingeLoss(_Kinked):
    """Yes or no as 1 or 0, by a margin: max(0, 1 - s pred) with s = 1 for yes, -1 for no; the mean is 1 where pred > 0.

    >>> HingeLoss()(torch.tensor([0.5, 0.5, 2.0]), torch.tensor([1.0, 0.0, 1.0]))
    tensor([0.5000, 1.5000, 0.0000])
    """

    alias = "hinge"
    formula = "max(0, 1 - s pred), s = 2x - 1"
    data = "0 and 1"

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        return (1 - (2 * x - 1) * pred).clamp(min=0)

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        s = 2 * x - 1
        return torch.where(s * pred < 1, -s, 0.0)

    def prox(self, v: Tensor, step: Tensor | float, x: Tensor) -> Tensor:
        s = 2 * x - 1
        return s * torch.maximum(s * v, (s * v + step).clamp(max=1))

    def mean(self, pred: Tensor) -> Tensor:
        return (pred > 0).to(pred)

    def guess(self, x: Tensor) -> Tensor:
        return 2 * x - 1

    def check(self, x: Tensor) -> None:
        refuse(self, x, (x == 0) | (x == 1), "0 and 1", SIGNS)


@dataclass(frozen=True, eq=False, repr=False)
class Ordinal(Loss):
    """Ordered levels, by proportional odds: P(x > level t) = sigmoid(pred - θ_t), and the loss is -ln P(x).

    ``levels`` are the values in their order, or their number L for 1, …, L; the thresholds θ, one fewer, lie in the middle
    between them unless they are given. The mean is the expected level. (McCullagh 1980; Udell et al. 2016.)

    >>> Ordinal(3)(torch.tensor([2.0]), torch.tensor([2.0]))
    tensor([1.4068])
    """

    levels: int | tuple[float, ...] = 5
    thresholds: tuple[float, ...] | None = None
    formula = "-ln P(x), P(x > level t) = sigmoid(pred - θ_t)"
    data = "ordered levels, e.g. 1 to 5"
    bound = 0.5

    def __post_init__(self) -> None:
        given = self.levels
        whole = isinstance(given, int) and not isinstance(given, bool)
        levels = tuple(range(1, given + 1)) if whole else tuple(given) if isinstance(given, tuple | list) else ()  # type: ignore
        if len(levels) < 2 or not _rising(levels):
            raise ValueError(f"levels of Ordinal are {given!r}; give two or more numbers in their order, or how many there are")
        if not whole:
            object.__setattr__(self, "levels", levels)
        if self.thresholds is not None:
            cuts = tuple(self.thresholds)
            if len(cuts) != len(levels) - 1 or not _rising(cuts):
                need = f"{len(levels) - 1} numbers in their order, one between each two levels"
                raise ValueError(f"thresholds of Ordinal are {self.thresholds!r}; give {need}")
            object.__setattr__(self, "thresholds", cuts)

    @cached_property
    def _levels(self) -> Tensor:
        levels = range(1, self.levels + 1) if isinstance(self.levels, int) else self.levels
        return torch.tensor(levels, dtype=torch.float64)

    @cached_property
    def _cuts(self) -> Tensor:
        middle = (self._levels[1:] + self._levels[:-1]) / 2
        return middle if self.thresholds is None else torch.tensor(self.thresholds, dtype=torch.float64)

    def _ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The thresholds below and above each value."""
        ends = torch.cat([self._cuts.new_tensor([-math.inf]), self._cuts, self._cuts.new_tensor([math.inf])]).to(x)
        at = torch.searchsorted(self._cuts_between.to(x), x.contiguous())
        return ends[at], ends[at + 1]

    @cached_property
    def _cuts_between(self) -> Tensor:
        """Where one level ends and the next begins, in the data."""
        return (self._levels[1:] + self._levels[:-1]) / 2

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        low, high = self._ends(x)
        width = torch.log1p(-torch.exp(low - high))  # P is a product of two sigmoids and of this
        return softplus(low - pred) + softplus(pred - high) - width

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        low, high = self._ends(x)
        return (pred - high).sigmoid() - (low - pred).sigmoid()

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        low, high = (end - pred for end in self._ends(x))
        return low.sigmoid() * (-low).sigmoid() + high.sigmoid() * (-high).sigmoid()

    def mean(self, pred: Tensor) -> Tensor:
        levels = self._levels.to(pred)
        over = (pred[..., None] - self._cuts.to(pred)).sigmoid()
        return levels[0] + (over * levels.diff()).sum(-1)

    def guess(self, x: Tensor) -> Tensor:
        low, high = self._ends(x)
        return torch.where(low.isinf(), high - 1, torch.where(high.isinf(), low + 1, (low + high) / 2))

    def check(self, x: Tensor) -> None:
        known = torch.isin(x, self._levels.to(x))
        levels = ", ".join(f"{level:g}" for level in self._levels[:6].tolist()) + (", …" if len(self._levels) > 6 else "")
        refuse(self, x, known, f"its levels {levels}", "give all levels in their order, e.g. ordinal((0, 1, 2))")


@dataclass(frozen=True, eq=False, repr=False)
class Multinomial(Loss):
    """One class of several, its columns together: -Σ x_j ln softmax(pred)_j; the mean is the probability of each class.

    A block of columns holds 1 for the class and 0 elsewhere, or shares that sum to one, and each row has all of its cells or
    none. As a loss by itself all columns are one block; in ``ByColumn`` a key names one. (Udell et al. 2016.)

    >>> Multinomial()(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
    tensor([[0.6931, 0.0000]])
    """

    alias = "softmax"
    formula = "-Σ x_j ln softmax(pred)_j"
    data = "one class of several: columns that sum to one"
    block = True
    bound = 0.5

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        return torch.special.xlogy(x, x) - x * pred.log_softmax(-1)

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return x.sum(-1, keepdim=True) * pred.softmax(-1) - x

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        share = pred.softmax(-1)
        return 2 * x.sum(-1, keepdim=True) * share * (1 - share)  # the sum of the moduli of a row of the Hessian

    def mean(self, pred: Tensor) -> Tensor:
        return pred.softmax(-1)

    def guess(self, x: Tensor) -> Tensor:
        return 2 * x - 1

    def at(self, X: Matrix, cols: Any = None) -> Loss:
        from .mixed import ByColumn

        return ByColumn({":": self}).at(X)

    def check(self, x: Tensor) -> None:
        refuse(self, x, x >= 0, "1 for the class and 0 elsewhere", "make one column for each class")
        total = x.sum(-1)
        refuse(self, total, (total - 1).abs() < 1e-4, "columns of a block that sum to one", "name the columns of one variable only")


def _rising(numbers: tuple) -> bool:
    real = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in numbers)
    return real and all(a < b for a, b in itertools.pairwise(numbers))
