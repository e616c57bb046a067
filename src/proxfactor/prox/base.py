"""Proximal operators: constraints and penalties as objects, prox(x, step) = argmin_y g(y) + |y - x|² / (2 step).

A step is a number or a tensor that broadcasts to x: a tensor is the diagonal metric of an adaptive optimizer, or the
curvature of rows with different holes, and the distance is then Σ (y - x)² / (2 step) entry by entry.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property, wraps
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..text import Spelled

Step = float | Tensor
Index = slice | Tensor
_BLOCK = 2**17  # numbers: a few of such blocks fit a core's cache


class Prox(Spelled, ABC):
    """A term g of the objective, known by its proximal operator: a set (g is 0 on it, infinite outside) or a penalty.

    A new operator is a frozen dataclass with ``_prox`` (and ``value``, if it is a penalty). The class says of itself:

    formula  g, in a few signs
    cost     the work for a slice of n entries
    convex   g is convex
    exact    False for a heuristic that minimises nothing; no certificate can then be given
    metric   the tensor steps it honours: "element" any; "weighted" any, by its weighted form; "group" those that are
             constant over ``dims``
    dims     the dims it couples: () entry by entry, None all of them
    is_set   g is 0 wherever it is finite
    cone     where g is finite is a cone: what is in it stays in it when scaled
    attained g has a minimiser: False refuses an infinite step
    complex  complex tensors are taken
    streams  one pass over the memory is all it takes
    foreign  not this package's own: what it makes is looked at, shape, dtype and NaN
    elastic  (lo, hi, l1, l2), numbers, where g = l1 |x| + l2/2 x² for lo ≤ x ≤ hi, so that prox(x) is soft(x, step l1) /
             (1 + step l2) between lo and hi: what compiled kernels know; None for any other
    """

    formula: ClassVar[str] = ""
    cost: ClassVar[str] = "n"
    convex: bool = True
    exact: bool = True
    metric: Literal["element", "weighted", "group"] = "element"
    is_set: bool = True
    cone: bool = False
    attained: bool = True
    complex: bool = False
    streams: bool = False
    foreign: bool = False
    elastic: tuple[float, float, float, float] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
            return
        cls.foreign = True
        if {"_prox", "_prox_"} & set(vars(cls)) and "elastic" not in vars(cls):
            cls.elastic = None
        for name in {"_prox", "_prox_"} & set(vars(cls)):
            setattr(cls, name, _looked_at(vars(cls)[name]))

    @property
    def net(self) -> tuple[float, float, float, Step] | None:
        """``elastic``, but that l2 may be a tensor that broadcasts to x."""
        return self.elastic

    @property
    def ridge(self) -> Step | None:
        """λ where g = λ/2 x² and nothing else, a number or a tensor that broadcasts to x; None for any other term."""
        return self.net[3] if self.net and self.net[:3] == (-math.inf, math.inf, 0.0) else None

    @property
    def dims(self) -> tuple[int, ...] | None:
        return ()

    @property
    def terms(self) -> tuple[Prox, ...]:
        """(self,), or the summands of a ``+`` that has no exact rule, so that a solver can give each its own dual."""
        return (self,)

    def __call__(self, x: Tensor, step: Step = 1.0) -> Tensor:
        """argmin_y g(y) + Σ (y - x)² / (2 step), for x of any shape: a new tensor of the same shape, dtype and device.

        step in [0, inf]: inf gives the minimiser of g nearest x, 0 the nearest point of the closure of g's domain.
        Raises TypeError for a tensor that is not real floating point, ValueError for a step that it cannot honour.
        """
        if not isinstance(x, Tensor) or not (x.is_floating_point() or (self.complex and x.is_complex())):
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            kind = "floating-point or complex" if self.complex else "real floating-point"
            raise TypeError(f"{self!r} takes a {kind} tensor, given {given}; convert it, e.g. x.float()")
        self.check_fits(x.shape)
        wide = widened(x)
        if isinstance(step, Tensor) and step.numel() == 1 and step.device.type == "cpu":
            step = step.item()
        if isinstance(step, Tensor):
            self._check_step(x, step)
            step = (step.reshape(()) if step.numel() == 1 else step).to(wide.device, wide.dtype.to_real())
        elif not step >= 0:
            raise ValueError(f"{self!r} was given step={step}; a step lies in [0, inf]")
        elif step == math.inf and not self.attained:
            raise ValueError(f"{self!r} has no minimiser, so that an infinite step leads nowhere; give a finite one")
        if self.alike and not self.streams and not isinstance(step, Tensor) and _worth_blocks(wide):
            return self._in_blocks(wide, step).to(x.dtype)
        return self._prox(wide, step).to(x.dtype)

    def check_fits(self, shape: torch.Size) -> None:
        """Raises ValueError if a tensor of that shape has not the dims that this couples, or the sizes of what it holds."""
        for name, t in self._held:
            if not fits(t.shape, shape):
                shapes = f"has shape {tuple(t.shape)}, which does not broadcast to x of shape {tuple(shape)}"
                raise ValueError(f"{name} of {self!r} {shapes}")
        for d in self.dims or ():
            if not -len(shape) <= d < len(shape):
                raise ValueError(f"{self!r} on x of shape {tuple(shape)}: there is no dim {d}")

    @property
    def alike(self) -> bool:
        """Whether every number is treated alike, wherever it stands."""
        return self.dims == () and not self._held

    def _in_blocks(self, x: Tensor, step: Step) -> Tensor:
        """The same by blocks that stay in the cache: what a formula needs in between costs no trip to the memory."""
        out = torch.empty_like(x)
        for given, made in zip(x.view(-1).split(_BLOCK), out.view(-1).split(_BLOCK), strict=True):
            made.copy_(self._prox(given, step))
        return out

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no _prox(x, step)")

    def _prox_(self, x: Tensor, step: Step) -> Tensor:
        """The same for an x that nobody else holds: in place where that saves a trip to the memory."""
        return self._prox(x, step)

    def _check_step(self, x: Tensor, step: Tensor) -> None:
        if step.numel() == 1:
            shape: tuple[int, ...] = (1,) * x.ndim
        elif fits(step.shape, x.shape):
            shape = (1,) * (x.ndim - step.ndim) + tuple(step.shape)
        else:
            raise ValueError(f"a step of shape {tuple(step.shape)} does not broadcast to x of shape {tuple(x.shape)}")
        if self.metric == "group" and any(shape[d] > 1 for d in dims_of(self.dims, x.ndim)):
            over = "all dims" if self.dims is None else f"dim {', '.join(map(str, self.dims))}"
            raise ValueError(
                f"{self!r} is exact only for steps constant over {over}, given a step of shape {tuple(step.shape)}; "
                "reduce the step over these dims first, as group_metric does"
            )
        if step.device.type != "cpu":  # on an accelerator a look would cost a sync
            return
        if not bool((step >= 0).all()):
            raise ValueError(f"{self!r} was given a step tensor with entries below 0 or NaN; a step lies in [0, inf]")
        if not self.attained and bool((step == math.inf).any()):
            raise ValueError(f"{self!r} has no minimiser, so that an infinite step leads nowhere; give finite ones")

    def value(self, x: Tensor) -> Tensor:
        """g(x), one float64 number. A set counts 0 where no slice is further outside than √eps times the largest entry."""
        size = torch.maximum(largest(x), largest(self._prox(widened(x), 0.0)))
        away = largest(self.violation(x))
        ok = (away <= torch.finfo(x.dtype).eps ** 0.5 * size) & away.isfinite()
        return torch.where(ok, 0.0, math.inf).double()

    def violation(self, x: Tensor) -> Tensor:
        """How far outside g's domain each slice is: the distance over ``dims``, which stay with size 1."""
        x = widened(x)
        away = x - self._prox(x, 0.0)
        return away.abs() if self.dims == () else torch.linalg.vector_norm(away, dim=dims_of(self.dims, x.ndim), keepdim=True)

    def rest(self, zero: Tensor) -> Tensor:
        """Where g alone would leave a factor: its minimiser nearest 0, or prox(0) with step 1 if it has none."""
        return self(zero, math.inf if self.attained else 1.0)

    @property
    def T(self) -> Prox:
        """The same operator on x.mT."""
        from .built import Transposed

        return self if self.dims == () and not any(True for _ in self._tensors()) else Transposed(self)

    def take(self, index: Index, dim: int) -> Prox:
        """The operator on part of a matrix: ``self.take(index, dim)(x[index])`` is the part of the whole.

        index is a slice or a 1-D tensor, so that the dim stays. Raises ValueError if the operator couples ``dim``.
        """
        if not isinstance(index, slice) and not (isinstance(index, Tensor) and index.ndim == 1):
            raise TypeError(f"take needs a slice or a 1-D tensor, given {index!r}; one component is slice(q, q + 1)")
        if self.couples(dim):
            raise ValueError(f"{self!r} couples dim {dim}, so it cannot be taken apart along it")
        parts = {name: cut(t, index, dim) for name, t in self._tensors()}
        return dataclasses.replace(self, **parts) if parts else self  # type: ignore[type-var]

    def couples(self, dim: int) -> bool:
        """Whether the entries of a matrix along ``dim`` depend on each other."""
        return self.dims is None or dim % 2 in {d % 2 for d in self.dims}

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        """Raises ValueError if this cannot act on a matrix of that shape: a tensor or a dim that does not fit."""
        for field, t in self._tensors():
            if not fits(t.shape, shape):
                raise ValueError(
                    f"{field} of {self!r} has shape {tuple(t.shape)}, which does not fit {name} of shape {tuple(shape)}; "
                    "give a number, or a tensor that broadcasts to it"
                )
        for d in self.dims or ():
            if not -2 <= d < 2:
                raise ValueError(f"{self!r} on {name}, a matrix: dim is {d}, it must be 0 (down the rows) or 1 (along them)")

    @cached_property
    def _held(self) -> tuple[tuple[str, Tensor], ...]:
        return tuple(self._tensors())

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name in getattr(self, "__dataclass_fields__", ()):
            if isinstance(value := getattr(self, name), Tensor):
                yield name, value

    def __add__(self, other: Prox) -> Prox:
        from .sums import add

        return add(self, other) if isinstance(other, Prox) else NotImplemented


def sound(op: Prox, y: Any, x: Tensor) -> Tensor:
    """What a foreign operator has made of x. Raises ValueError unless it is a tensor like x, without a NaN that x has not."""
    if not isinstance(y, Tensor) or y.shape != x.shape:
        became = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"{op!r} turned a tensor of shape {tuple(x.shape)} into {became}; an operator keeps the shape")
    if y.dtype != x.dtype:
        raise ValueError(f"{op!r} turned {x.dtype} into {y.dtype}; an operator keeps the dtype: return y.to(x.dtype)")
    hidden = torch.compiler.is_compiling() or (y.is_cuda and torch.cuda.is_current_stream_capturing())
    if not hidden and bool(y.isnan().any()) and not bool(x.isnan().any()):
        raise ValueError(f"{op!r} made NaN of numbers, of a tensor of shape {tuple(x.shape)}; look for a division by 0 in it")
    return y


def _looked_at(prox: Callable) -> Callable:
    @wraps(prox)
    def looked_at(self: Prox, x: Tensor, step: Step) -> Tensor:
        given = x.clone() if prox.__name__ == "_prox_" else x
        return sound(self, prox(self, x, step), given)

    return looked_at


def as_prox(spec: Prox | str | Callable | None, tensors: dict[str, Any] | None = None) -> Prox:
    """The operator that ``spec`` means: an operator, its text form, a plain function or nn.Module, or None for no constraint.

    >>> as_prox("simplex(dim=1)"), as_prox(None)
    (Simplex(dim=1), Unconstrained())
    """
    from .built import Function
    from .entries import Unconstrained

    if spec is None:
        return Unconstrained()
    if isinstance(spec, Prox):
        return spec
    if isinstance(spec, str):
        return Prox.parse(spec, tensors)
    if isinstance(spec, type) and issubclass(spec, Prox):
        raise TypeError(f"given the class {spec.__name__}, an operator is needed: write {spec.__name__}()")
    if callable(spec):
        return Function(spec)
    raise TypeError(f"given {spec!r}, an operator is needed: a Prox, a text such as 'nonneg + l1(0.1)', or a function of x")


def group_metric(prox: Prox, curvature: Tensor, shape: tuple[int, ...], how: Literal["mean", "amax"]) -> Tensor:
    """The diagonal metric that ``prox`` can honour nearest to ``curvature``, which broadcasts to ``shape``.

    Itself, unless prox.metric is "group": then its mean (in a certificate or an optimizer) or its maximum (in a solver
    whose value must not rise) over the dims that the operator couples, which stay with size 1.
    """
    if prox.metric != "group":
        return curvature
    dims = dims_of(prox.dims, len(shape))
    whole = curvature.expand(shape)
    return whole.mean(dims, keepdim=True) if how == "mean" else whole.amax(dims, keepdim=True)


def _worth_blocks(x: Tensor) -> bool:
    tracked = x.requires_grad and torch.is_grad_enabled()
    return x.device.type == "cpu" and x.numel() > 8 * _BLOCK and x.is_contiguous() and not tracked


def dims_of(dims: tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim)) if dims is None else tuple(d % ndim for d in dims)


def fits(shape: tuple[int, ...], into: tuple[int, ...]) -> bool:
    """Whether a tensor of one shape broadcasts to the other."""
    return len(shape) <= len(into) and all(s in (1, n) for s, n in zip(reversed(shape), reversed(into), strict=False))


def widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def largest(x: Tensor) -> Tensor:
    return x.abs().amax() if x.numel() else x.new_zeros((), dtype=x.dtype.to_real())


def cut(t: Tensor, index: Index, dim: int) -> Tensor:
    d = dim if dim < 0 else dim - max(2, t.ndim)
    if -d > t.ndim or t.shape[d] == 1:
        return t
    return t[(..., index, *(slice(None),) * (-d - 1))]


def times(step: Step, lam: Step) -> Step:
    """step·lam where 0·inf is 0: no penalty stays no penalty, no step stays no step."""
    if not isinstance(step, Tensor) and not isinstance(lam, Tensor):
        return 0.0 if step == 0 or lam == 0 else step * lam
    if not isinstance(lam, Tensor) and 0 < lam < math.inf:
        return step * lam
    product = torch.as_tensor(step * lam)
    return torch.where(product.isnan(), 0.0, product)


def like(x: Tensor, value: Step) -> Step:
    return value.to(x) if isinstance(value, Tensor) else value


def array(value: Any, what: str) -> Tensor:
    """A real tensor; Python's numbers keep their float64, as ``torch.as_tensor`` would not."""
    try:
        t = torch.as_tensor(value, dtype=None if hasattr(value, "dtype") else torch.float64)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise TypeError(f"{what} is {reprlib.repr(value)}; a number or an array of numbers is needed") from None
    if t.is_complex():
        raise TypeError(f"{what} holds complex numbers; real ones are needed")
    return t if t.is_floating_point() else t.double()


def store(op: Prox, name: str, low: float = -math.inf) -> None:
    """Keep a field as a float or a tensor, checked once: no NaN; a weight (``low`` is 0) is finite and not negative."""
    what = f"{name} of {type(op).__name__}"
    given = array(getattr(op, name), what)
    value: Step = given.item() if given.ndim == 0 else given
    least, most = (given.min().item(), given.max().item()) if given.numel() else (0.0, 0.0)
    if not least >= low or (low == 0 and most == math.inf):
        odd = most if least >= low else least
        raise ValueError(f"{what} is {odd:g}; it must be " + ("a number" if low == -math.inf else f"finite and at least {low:g}"))
    object.__setattr__(op, name, value)


def whole(op: Prox, name: str) -> None:
    """Keep a field as a whole number of at least 1."""
    value, what = getattr(op, name), f"{name} of {type(op).__name__}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} is {value!r}; a whole number is needed")
    if int(value) < 1:
        raise ValueError(f"{what} is {value}; it must be at least 1")
    object.__setattr__(op, name, int(value))


class Along(Prox):
    """An operator along ``dim``, its first field, batched over the other dims."""

    dim: int

    def __post_init__(self) -> None:
        if isinstance(self.dim, bool) or not hasattr(self.dim, "__index__"):
            raise TypeError(f"dim of {type(self).__name__} is {self.dim!r}; a whole number is needed, e.g. 0 or 1")
        object.__setattr__(self, "dim", int(self.dim))

    @property
    def dims(self) -> tuple[int, ...]:
        return (self.dim,)

    @abstractmethod
    def _prox(self, x: Tensor, step: Step) -> Tensor: ...

    def _length(self, x: Tensor) -> int:
        """How long the slices are. Raises ValueError for 0: to be asked by the sets that hold no empty slice."""
        if x.shape[self.dim] == 0:
            raise ValueError(f"{self!r} on x of shape {tuple(x.shape)}: the set is empty along a dim of length 0")
        return x.shape[self.dim]


def relative(x: Tensor, step: Step, dim: int) -> Tensor:
    """A step's share of the largest one along dim, dim last: on a set only the ratios count, and they stay finite.

    Beside an infinite step a finite one is as good as none, but among themselves the finite ones keep their ratios; so do
    these beside a step of zero: three levels, each far below the one above.
    """
    if not isinstance(step, Tensor) or step.numel() == 1 or step.ndim < -(dim % x.ndim - x.ndim):
        return x.new_ones((1,) * x.ndim, dtype=x.dtype.to_real())
    s = step.expand((1,) * (x.ndim - step.ndim) + tuple(step.shape)).movedim(dim, -1)
    eps, free = torch.finfo(x.dtype).eps, s == math.inf
    s = s.where(~free, 0.0)
    most = s.amax(-1, keepdim=True)
    share = torch.where(s > 0, (s / most).clamp(min=eps**2), eps**3)
    share = torch.where(free.any(-1, keepdim=True), torch.where(free, 1.0, eps * share), share)
    return torch.where((most == 0) & ~free.any(-1, keepdim=True), 1.0, share)
