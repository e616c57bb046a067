"""Operators built from others, and from plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from .base import Index, Prox, Step


@dataclass(frozen=True, eq=False, repr=False)
class Transposed(Prox):
    """An operator on the transpose: prox(x) = inner(x.mT).mT.

    >>> from proxfactor import Simplex
    >>> Transposed(Simplex(dim=0))(torch.tensor([[2.0, 1.0]]))
    tensor([[1., 0.]])
    """

    inner: Prox
    formula = "g(xᵀ)"

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Prox):
            raise TypeError(f"Transposed was given {self.inner!r}; an operator is needed, e.g. Transposed(Simplex(dim=0))")

    convex = property(lambda self: self.inner.convex)
    exact = property(lambda self: self.inner.exact)
    metric = property(lambda self: self.inner.metric)
    is_set = property(lambda self: self.inner.is_set)
    cone = property(lambda self: self.inner.cone)

    @property
    def dims(self) -> tuple[int, ...] | None:
        return None if self.inner.dims is None else tuple(-3 - (d if d < 0 else d - 2) for d in self.inner.dims)

    @property
    def terms(self) -> tuple[Prox, ...]:
        return tuple(t.T for t in self.inner.terms)

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        if x.ndim != 2:
            raise ValueError(f"{self!r} takes a matrix, given x of shape {tuple(x.shape)}")
        if isinstance(step, Tensor) and step.numel() > 1:
            step = step.expand((1,) * (2 - step.ndim) + tuple(step.shape)).mT
        return self.inner._prox(x.mT, step).mT

    def value(self, x: Tensor) -> Tensor:
        return self.inner.value(x.mT)

    def violation(self, x: Tensor) -> Tensor:
        return self.inner.violation(x.mT).mT

    @property
    def T(self) -> Prox:
        return self.inner

    def take(self, index: Index, dim: int) -> Prox:
        return super().take(index, dim) if self.couples(dim) else self.inner.take(index, 1 - dim % 2).T

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, (t if t.ndim > 1 else t[None]).mT) for name, t in self.inner._tensors())

    def check(self, shape: tuple[int, int], name: str = "x") -> None:
        self.inner.check((shape[1], shape[0]), f"the transpose of {name}")


@dataclass(frozen=True, eq=False, repr=False)
class Function(Prox):
    """A plain function or nn.Module as an operator: whatever it computes is taken as prox(x).

    It gets the step through a parameter called ``step``, or through a required second one; else it is called with x
    alone, as is a functools.partial that has set the step. Since nothing is known of what it minimises, it counts as
    inexact: no certificate, value 0 unless the function has an attribute ``value``, and any entry may depend on any
    other. Raises ValueError if the shape changes.

    >>> from proxfactor import as_prox
    >>> as_prox(torch.nn.Threshold(0, 0))(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    fn: Callable
    listed = False
    convex = False
    exact = False
    metric = "group"
    dims = None

    def _prox(self, x: Tensor, step: Step) -> Tensor:
        how = _takes_step(self.fn)
        given: dict[str, Any] = {"keyword": {"step": step}}.get(how, {})
        y = self.fn(x.clone(), step) if how == "second" else self.fn(x.clone(), **given)
        if not isinstance(y, Tensor) or y.shape != x.shape:
            became = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"{self!r} turned a tensor of shape {tuple(x.shape)} into {became}; an operator keeps the shape")
        return y.detach().to(x)

    def value(self, x: Tensor) -> Tensor:
        value = getattr(self.fn, "value", None)
        return torch.as_tensor(value(x) if callable(value) else 0.0, dtype=torch.float64, device=x.device).sum()

    def violation(self, x: Tensor) -> Tensor:
        return x.new_zeros((1,) * x.ndim)

    def _write(self, tensors: dict[str, Tensor]) -> str:
        return f"Function({getattr(self.fn, '__qualname__', None) or type(self.fn).__name__})"


def _takes_step(fn: Callable) -> Literal["keyword", "second", "no"]:
    if isinstance(fn, partial) and "step" in fn.keywords:
        return "no"  # its maker has set the step
    try:
        target = fn.forward if isinstance(fn, torch.nn.Module) else fn
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return "no"
    if any(p.name == "step" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters):
        return "keyword"
    ordered = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    second = len(ordered) > 1 and (ordered[1].default is inspect.Parameter.empty or ordered[1].name == "step")
    return "second" if second else "no"
