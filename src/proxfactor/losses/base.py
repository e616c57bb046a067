"""What a loss is, and the two that everything here knows: Frobenius and KL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..compiled import kernels
from ..text import Spelled

if TYPE_CHECKING:
    from ..matrix import Matrix
    from ..prox import Index


OPERATIONS = 100
"""Multiplications that take as long as the torch form of a divergence takes for one cell."""


class Loss(Spelled, ABC):
    """l(pred, x) for each cell. A new loss is a frozen dataclass with ``__call__`` and ``curvature``, better also ``grad``.

    formula      l, in a few signs
    data         what it is for, and the values that it takes
    quadratic    the curvature is one and the same everywhere, so that the model of a factor is exact
    degree       d with l(c pred, c x) = c^d l(pred, x) for every c > 0; None where there is none
    beta         which β-divergence the loss is; None where it is none
    convex       l is convex in pred
    real         pred may be any number; else it has to be positive
    bound        a number that l'' never exceeds; None where there is none
    smooth       l has a slope everywhere. One that has kinks has ``prox`` and ``steepest`` instead of a curvature
    block        the columns that it is given are predicted together: it sees them as the last dim
    """

    formula: ClassVar[str] = ""
    data: ClassVar[str] = ""
    quadratic: bool = False
    degree: float | None = None
    beta: float | None = None
    convex: bool = True
    real: bool = True
    bound: float | None = None
    smooth: bool = True
    block: ClassVar[bool] = False

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
        """The curvature that the certificate measures in: where a slope has no curvature of its own, one that fits it.

        It is the larger of l'' and l' / (pred - p*), the curvature with which one step leads to the cell's own minimiser p*.
        """
        return self.curvature(pred, x)

    def yardstick_at_zero(self, pred: Tensor) -> Tensor:
        """``yardstick`` where the data is 0; it may overwrite pred."""
        return self.yardstick(pred, torch.zeros_like(pred))

    def compiled(self, what: str, pred: Tensor) -> Callable | None:
        """A kernel (pred, x, weight, background) for what ``Problem._cells`` makes of ``what``; None if there is none."""
        return None

    def prox(self, v: Tensor, step: Tensor | float, x: Tensor) -> Tensor:
        """argmin_z l(z, x) + (z - v)² / (2 step) of each cell, for a loss with kinks."""
        raise ValueError(f"{self!r} has no prox for its cells; a solver that needs none is 'hals'")

    @property
    def steepest(self) -> float:
        """The largest |l'| of a loss with kinks."""
        return 0.0 if self.smooth else 1.0

    def at_zero(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """For A (m, k) and B (n, k): Σ_j l(a_i·b_j, 0) of each row (m,), and its gradient in A (m, k), in closed form.

        It is what keeps sparse data sparse. Raises ValueError for a loss that has none.
        """
        raise ValueError(
            f"{self!r} has no closed form for the cells that are not stored; give the data as a dense array, "
            "or as Observed if the cells that are not stored are no data"
        )

    def at(self, X: Matrix, cols: Any = None) -> Loss:
        """The loss laid over the cells of X, whose columns have the names ``cols``; itself, unless it differs among them."""
        return self

    @property
    def T(self) -> Loss:
        return self

    def take(self, index: Index, dim: int) -> Loss:
        """The loss for some rows (dim 0) or columns (dim 1): itself, unless it differs among them."""
        return self

    @property
    def dims(self) -> tuple[int, ...]:
        """The dims along which it differs from place to place."""
        return ()

    def couples(self, dim: int) -> bool:
        """Whether the loss of a cell depends on predictions elsewhere along ``dim``."""
        return False

    def joined(self, values: Tensor) -> Tensor:
        """Of a number for each row (m,), the sum over the rows that the loss couples, at each of them."""
        return values

    def mean(self, pred: Tensor) -> Tensor:
        """The expected data for a prediction: the inverse link, here the identity."""
        return pred

    def guess(self, x: Tensor) -> Tensor:
        """A moderate prediction for each value of the data, from which a start takes its scale and its signs."""
        return x

    def check(self, x: Tensor) -> None:
        """Raises ValueError if a value of the data is outside the domain of the loss. NaN is no data."""


def as_loss(spec: Loss | str | Callable) -> Loss:
    """The loss that ``spec`` means: a Loss, its text form, or a function of (pred, x).

    >>> as_loss("kl")
    KL()
    """
    if isinstance(spec, Loss):
        return spec
    if isinstance(spec, str):
        return Loss.parse(spec)
    if callable(spec) and not isinstance(spec, type):
        return FunctionLoss(spec)
    hint = f"write {spec.__name__}()" if isinstance(spec, type) else "a Loss such as KL(), its name, or a function of (pred, x)"
    raise TypeError(f"given {spec!r}, a loss is needed: {hint}")


def refuse(loss: Loss, x: Tensor, good: Tensor, needs: str, way: str) -> None:
    """Raises ValueError where a value of x is not good: what was given, what is needed, the way out."""
    if bool((bad := ~(good | x.isnan())).any()):
        raise ValueError(f"{type(loss).__name__} needs {needs}, given {x[bad][0].item():g}; {way}")


@dataclass(frozen=True, eq=False, repr=False)
class Frobenius(Loss):
    """Squared error, for noise of one size everywhere: ½ (pred - x)².

    >>> Frobenius()(torch.tensor([3.0]), torch.tensor([1.0]))
    tensor([2.])
    """

    alias = "squared"
    formula = "½ (pred - x)²"
    data = "any numbers, errors of one size"
    quadratic = True
    bound = 1.0
    degree = 2.0
    beta = 2.0

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        return 0.5 * (pred - x).square()

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return pred - x

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        return torch.ones_like(pred)

    def prox(self, v: Tensor, step: Tensor | float, x: Tensor) -> Tensor:
        return (v + step * x) / (1 + step)

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
    data = "counts and amounts, x ≥ 0"
    real = False
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
        seen = pred > torch.finfo(pred.dtype).tiny ** 0.4  # whose square is still a number
        p = pred.where(seen, 1.0)
        return torch.where(seen, torch.maximum(x / p, torch.ones_like(p)) / p, 0.0)

    def compiled(self, what: str, pred: Tensor) -> Callable | None:
        known = pred.device.type == "cpu" and pred.dtype in (torch.float32, torch.float64)
        quick = kernels("losses._kl_numba", pred.dtype, OPERATIONS * pred.numel()) if known else None
        return quick.get(what) if quick else None

    def yardstick_at_zero(self, pred: Tensor) -> Tensor:
        return torch.threshold_(pred, torch.finfo(pred.dtype).tiny ** 0.4, torch.inf).reciprocal_()

    def prox(self, v: Tensor, step: Tensor | float, x: Tensor) -> Tensor:
        half = (v - step) / 2
        root = (half.square() + step * x).sqrt()
        return torch.where(half > 0, half + root, step * x / (root - half).clamp(min=torch.finfo(v.dtype).tiny))

    def at_zero(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        s = B.sum(0)
        return A @ s, s.expand_as(A)

    def check(self, x: Tensor) -> None:
        if x.numel() and bool((x < 0).any()):
            raise ValueError(
                f"KL needs data that is not negative, given a smallest value of {x[x < 0].min().item():g}; "
                "use loss='frobenius', or subtract the baseline first"
            )


@dataclass(frozen=True, eq=False, repr=False)
class FunctionLoss(Loss):
    """Any function of (pred, x) that torch can differentiate, cell by cell: fn returns a tensor of pred's shape.

    Slope and curvature come from autograd; the curvature is only where a solver begins to look for a step, so that a
    function without one (piecewise linear, say) or with a negative one is taken too. Raises ValueError if fn returns another
    shape, such as a mean over all cells.

    >>> as_loss(lambda pred, x: (pred - x) ** 4)(torch.tensor([3.0]), torch.tensor([1.0]))
    tensor([16.])
    """

    fn: Callable
    data = "whatever the function takes"
    formula = "fn(pred, x)"
    listed = False
    convex = False
    real = False

    def __call__(self, pred: Tensor, x: Tensor) -> Tensor:
        y = self.fn(pred, x)
        if isinstance(y, Tensor) and y.shape == pred.shape:
            return y
        became = f"a tensor of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        way = "return the loss of each cell, unsummed; in torch.nn.functional, reduction='none'"
        raise ValueError(f"the loss {self!r} made {became} of predictions of shape {tuple(pred.shape)}; {way}")

    def grad(self, pred: Tensor, x: Tensor) -> Tensor:
        return self._derivatives(pred, x)[0]

    def curvature(self, pred: Tensor, x: Tensor) -> Tensor:
        slope, bend = self._derivatives(pred, x)
        size = pred.abs() + pred.abs().mean()
        chord = slope.abs() / torch.where(size > 0, size, 1.0)  # it leads about as far as the prediction is large
        bend = bend.abs()
        return torch.where(bend > 1e-3 * chord, bend, chord)

    def _derivatives(self, pred: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            p = pred.detach().requires_grad_()
            loss = self(p, x).sum()
            if not loss.requires_grad:
                raise ValueError(f"the loss {self!r} cannot be differentiated; compute it with torch operations from pred")
            (slope,) = torch.autograd.grad(loss, p, create_graph=True)
            bend = torch.autograd.grad(slope.sum(), p)[0] if slope.requires_grad else torch.zeros_like(p)
        return slope.detach(), bend

    def _write(self, tensors: dict[str, Tensor]) -> str:
        return f"FunctionLoss({getattr(self.fn, '__qualname__', None) or type(self.fn).__name__})"
