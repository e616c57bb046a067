"""What every proximal optimizer shares: param groups that carry a prox, the door, checkpoints, the residual."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ..comm import Comm
from ..prox import Prox, Step, as_prox
from . import sharded

Spec = Prox | str | Callable | None
NOT_YET = "not yet known: no step was taken"
AT_REST = "not available: lr is 0"
_BLOCK = 2**16  # numbers: what a pass needs of them stays in a core's cache


class Residual(NamedTuple):
    """How far a param group is from a fixed point: ‖(p - prox(p - s∇, s)) / √s‖ / ‖p / √s‖, the largest of its parameters.

    metric says what s is: "curvature" (one over the measured curvature, as in a fit's certificate) or "step" (the
    optimizer's own step). value is None where it is not available, and metric then says why.
    """

    value: float | None
    metric: str


class Part(NamedTuple):
    """One parameter with a gradient: its group, itself (the key of its state), its values, its gradient, its operator.

    Writing into values writes the parameter. The gradient is that of what is minimised: with its sign turned under
    maximize. Of a parameter that is spread over processes (a DTensor) all but itself is this process's piece, and comm holds
    the processes that have the others.
    """

    group: dict[str, Any]
    param: Tensor
    values: Tensor
    grad: Tensor
    prox: Prox
    comm: Comm = sharded.ONE


class ProxOptimizer(Optimizer):
    """A torch optimizer whose param groups carry a prox under "prox"; subclasses define ``_advance``.

    proxs is one operator for all groups or a list with one per group, each whatever ``as_prox`` takes; a group may bring
    its own. The operators stay out of ``state_dict``, so that a default ``torch.load`` takes it back; ``load_state_dict``
    keeps the optimizer's own. Raises ValueError if the list does not fit the groups, TypeError for a complex parameter
    under an operator of real numbers, and in ``step`` RuntimeError for a sparse or a non-finite gradient, the parameters
    untouched. A parameter without a gradient is left alone. One that is spread over processes (a DTensor, as FSDP2 makes them)
    is moved piece by piece where ``takes_shards``, its operator cut to the piece; TypeError where not, ValueError for an operator
    that couples a dim along which it is sharded.
    """

    needs_closure: ClassVar[bool] = False
    no_residual: ClassVar[str] = ""  # why there is none, where there is none
    takes_shards: ClassVar[bool] = False
    looks: bool = False  # a step evaluates the closure elsewhere
    own_precision: ClassVar[bool] = False  # the state has a dtype of its own, which a checkpoint keeps
    # torch's pickle keeps neither of these, so that a copy begins with what stands here
    _closure: Callable | None = None
    _kept: tuple[Callable | None, Any, dict[Tensor, tuple[Tensor, tuple[int, int]]]] = (None, None, {})
    _pieces: Mapping[Tensor, tuple[Prox, Prox]] = MappingProxyType({})
    _measuring: bool = False
    _measured: list[Residual] | None = None
    _used: Mapping[Tensor, tuple[Tensor, int]] = MappingProxyType({})

    def __init__(self, params: Any, proxs: Spec | list[Spec] | tuple[Spec, ...], defaults: dict[str, Any]):
        if defaults.get("differentiable"):
            raise ValueError(
                "differentiable=True: a step ends in a prox that is written over the parameter, so that autograd cannot go "
                "through it; unroll p = prox(p - lr * grad, lr) yourself: the operators are differentiable"
            )
        groups = _groups(params, type(self).__name__)
        each = list(proxs) if isinstance(proxs, list | tuple) else [proxs] * len(groups)
        if len(each) != len(groups):
            raise ValueError(
                f"proxs has {len(each)} entries for {len(groups)} param group(s); "
                "give one operator for all groups, or a list with one per group"
            )
        common = {} if isinstance(proxs, list | tuple) else {"prox": as_prox(proxs)}
        super().__init__([{"prox": prox, **group} for group, prox in zip(groups, each, strict=True)], defaults | common)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """torch's own; "prox" and the options default to what was given for all groups."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group).__name__}; write {{'params': …, 'prox': …}}")
        where, group = f"param group {len(self.param_groups)}", {**self.defaults, **param_group}
        if "prox" not in group:
            raise ValueError(f"{where} has no prox, and none was given for all; add 'prox': … to it (None for no constraint)")
        self._check_group(group, where)
        group["prox"] = as_prox(group["prox"])
        super().add_param_group(group)
        if not group["prox"].complex and any(p.is_complex() for p in group["params"]):
            self.param_groups.pop()
            raise TypeError(
                f"{where} holds a complex parameter, but {group['prox']!r} is for real numbers; give its torch.view_as_real, "
                "or an operator of complex numbers such as L1"
            )
        try:
            for p in group["params"]:
                if not is_lazy(p):  # its shape comes with the first data
                    group["prox"].check_fits(p.shape)
                self._piece(group, p)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _piece(self, group: dict[str, Any], p: Tensor) -> Prox:
        """The operator for the piece of p that this process has: that of the group, or cut from it once."""
        if not sharded.spread(p):
            return group["prox"]
        if not self.takes_shards:
            raise TypeError(
                f"{type(self).__name__} looks at whole parameters, but {self._name(group, p)} is a DTensor, spread over processes; "
                "take PGM or ProxAdam"
            )
        whole, piece = self._pieces.get(p, (None, None))
        if piece is None or whole is not group["prox"]:
            piece = sharded.piece(group["prox"], p, self._name(group, p))
            self._pieces = {**self._pieces, p: (group["prox"], piece)}
        return piece

    def _check_group(self, group: dict[str, Any], where: str) -> None:
        """Raises for options that cannot be, before anything is added."""

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """One step; returns the closure's loss. Where there is no closure, ``backward`` has been called before."""
        if closure is None and self.needs_closure:
            raise TypeError(
                f"{type(self).__name__} looks at the loss more than once in a step: call step(closure), where closure clears "
                "the gradients, computes the loss, calls backward and returns the loss; PGM and ProxAdam do without"
            )
        loss = None if closure is None else self._loss(closure)
        self._closure = closure
        parts = self._parts()
        if self._measuring:
            self._measured = self._measure(parts)
        with self._undone(parts, closure):
            self._advance(parts, closure, loss)
        self._used = {p: (p.grad, sharded.version(p.grad)) for _, p, *_ in parts if p.grad is not None}
        return loss

    @contextmanager
    def _undone(self, parts: list[Part], closure: Callable | None) -> Iterator[None]:
        """What has moved goes back if a closure is interrupted or an operator fails: any may at first, a foreign one always."""
        doubtful = (self.looks and closure is not None) or any(part.prox.foreign or part.param not in self._used for part in parts)
        befores = [part.values.clone() for part in parts] if doubtful else []
        try:
            yield
        except BaseException:
            for part, before in zip(parts, befores, strict=False):
                part.values.copy_(before)
            raise

    def _advance(self, parts: list[Part], closure: Callable | None, loss: Any) -> None:
        raise TypeError(f"{type(self).__name__} defines no _advance(parts, closure, loss)")

    def _check_one_way(self, group: dict[str, Any], where: str) -> None:
        """Raises ValueError for a group that goes up where the others go down: a loss that is compared goes one way."""
        if self.param_groups and bool(group["maximize"]) != bool(self.param_groups[0]["maximize"]):
            raise ValueError(
                f"{where} has maximize={group['maximize']}, other groups not; one loss goes up or down: give it for all"
            )

    def _evaluate(self, closure: Callable) -> Any:
        """The closure's loss; the gradients are then those of the parameters as they stand."""
        with torch.enable_grad():
            return closure()

    def _loss(self, closure: Callable) -> Any:
        """The closure's loss where the parameters stand: not evaluated again if ``_keep`` has it and nothing has changed."""
        known, loss, versions = self._kept
        same = all(p.grad is g and _versions(p, g) == v for p, (g, v) in versions.items())
        return loss if known is closure and versions and same else self._evaluate(closure)

    def _keep(self, closure: Callable, loss: Any, parts: list[Part]) -> None:
        """The parameters stand where the closure was evaluated last: the next step need not do it again."""
        grads = {p: p.grad for _, p, *_ in parts if p.grad is not None}
        self._kept = closure, loss, {p: (g, _versions(p, g)) for p, g in grads.items()}

    def _number(self, loss: Any) -> float:
        """A closure's loss as a number. Raises TypeError if it is none."""
        if not isinstance(loss, Tensor | float | int) or (isinstance(loss, Tensor) and (loss.numel() != 1 or loss.is_complex())):
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TypeError(f"the closure returned {what}; {type(self).__name__} needs the loss, one real number: return loss")
        return float(loss)

    def _parts(self) -> list[Part]:
        """Every parameter that has entries and a gradient. Raises RuntimeError for a gradient that cannot be used."""
        given = [(group, p, p.grad) for group in self.param_groups for p in group["params"] if p.grad is not None and p.numel()]
        if any(g.layout != torch.strided for _, _, g in given):
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients: a prox moves every entry; "
                "make the layer with sparse=False"
            )
        parts = [self._part(group, p, g) for group, p, g in given]
        if not any(group.get("capturable") for group, *_ in given):  # a look would break the capture
            odd = [self._name(part.group, part.param) for part in _not_finite(parts)]
            if odd:
                raise RuntimeError(
                    f"the gradient of {' and '.join(odd)} is not finite, so nothing was moved; look for a loss that overflows, a "
                    "log or a division at 0 (or start elsewhere), and under mixed precision step through a GradScaler"
                )
        return parts

    def _part(self, group: dict[str, Any], p: Tensor, g: Tensor) -> Part:
        g = sharded.local_gradient(p, g)
        values = sharded.local(p).detach()
        return Part(group, p, values, -g if group.get("maximize") else g, self._piece(group, p), sharded.holders(p))

    def _name(self, group: dict[str, Any], p: Tensor) -> str:
        at = next(i for i, q in enumerate(group["params"]) if q is p)
        if "param_names" in group:
            return group["param_names"][at]
        number = next(i for i, g in enumerate(self.param_groups) if g is group)
        return f"parameter {at} of group {number}, of shape {tuple(p.shape)}"

    def residual(self, closure: Callable | None = None) -> list[Residual]:
        """One Residual per group, at the parameters as they stand.

        It needs the gradients there. Call it between ``backward`` and ``step``, or give the closure (that of the last step
        is remembered): one more gradient. After a step without a closure it is that of the point where the last gradient
        was taken, and from the second call on only, since measuring begins with the first.
        """
        if self.no_residual:
            return [Residual(None, f"not available: {self.no_residual}")] * len(self.param_groups)
        if (closure := closure or (self._closure if self._stale() else None)) is not None:
            self._loss(closure)
        elif self._stale():
            self._measuring = True
            return self._measured or [Residual(None, "not yet known: from the next step on")] * len(self.param_groups)
        return self._measure(self._parts())

    def converged(self, tol: float = 1e-5, closure: Callable | None = None) -> bool:
        """Whether the residual of every group is at most tol; False while one is not yet known.

        Raises RuntimeError where this optimizer has no residual.
        """
        if self.no_residual:
            raise RuntimeError(f"{type(self).__name__} cannot say whether it has converged: {self.no_residual}")
        return all(r.value is not None and r.value <= tol for r in self.residual(closure))

    def _stale(self) -> bool:
        """Whether the gradients are those that the last step has used."""
        return any(p.grad is g and sharded.version(g) == version for p, (g, version) in self._used.items())

    @torch.no_grad()
    def _measure(self, parts: list[Part]) -> list[Residual]:
        return [self._group_residual([part for part in parts if part.group is group]) for group in self.param_groups]

    def _group_residual(self, parts: list[Part]) -> Residual:
        norms, metric = [], "step"
        for part in parts:
            step, metric = self._metric(part)
            if step is None:
                return Residual(None, metric)
            root = torch.as_tensor(step, device=part.values.device).sqrt()
            away = part.values - part.prox(part.values - step * part.grad, step)
            sizes = torch.stack([_size(away / root), _size(part.values / root)])
            norms.append(sizes if part.comm is sharded.ONE else part.comm.sum(sizes.square())[0].sqrt())
        if not norms:
            return Residual(0.0, metric)
        away, size = torch.stack(norms).T
        share = away / size.clamp(min=1e-5 * torch.linalg.vector_norm(size))
        return Residual(float(torch.where(away == 0, 0.0, share).max()), metric)

    def _metric(self, part: Part) -> tuple[Step | None, str]:
        """The step in which the residual at a part is measured, and what it is; or None, and why: see Residual."""
        return (lr, "step") if (lr := part.group["lr"]) > 0 else (None, AT_REST)

    def state_dict(self) -> dict[str, Any]:
        """torch's own without the operators, so that a default ``torch.load`` takes it back."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            group.pop("prox", None)
        for i, p in enumerate(self._all(self.param_groups)):
            if sharded.spread(p) and i in saved["state"]:
                saved["state"][i] = {name: sharded.as_state(value, p) for name, value in saved["state"][i].items()}
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's own; each group keeps the operator that it has, and its default for an option that was not saved.

        Beside parameters in half precision the state keeps the precision in which it was saved.
        """
        own = [{k: v for k, v in group.items() if k not in ("params", "param_names")} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, had in zip(self.param_groups, own, strict=True):
            for key, value in had.items():
                group.setdefault(key, value)
            group["prox"] = had["prox"]
        saved, groups = state_dict["state"], state_dict["param_groups"]
        for p, i in zip(self._all(self.param_groups), self._all(groups), strict=True):
            if i in saved and (self.own_precision or p.dtype in (torch.bfloat16, torch.float16)):
                self.state[p] = _as_saved(saved[i], self.state[p])
            if sharded.spread(p) and i in saved:
                self.state[p] = {name: sharded.local(value) for name, value in self.state[p].items()}

    @staticmethod
    def _all(groups: list[dict[str, Any]]) -> Iterator[Any]:
        return chain.from_iterable(group["params"] for group in groups)


def _groups(params: Any, name: str) -> list[dict[str, Any]]:
    if isinstance(params, Tensor):
        raise TypeError(f"params is a single tensor; {name} takes several: [tensor], model.parameters(), a list of groups")
    groups = list(params)
    if not groups:
        raise ValueError("optimizer got an empty parameter list")
    return groups if isinstance(groups[0], dict) else [{"params": groups}]


def _as_saved(saved: Any, loaded: Any) -> Any:
    """Loaded state in the precision in which it was saved."""
    if isinstance(saved, Tensor):
        return saved.to(loaded.device, copy=True)
    if isinstance(saved, dict):
        return {key: _as_saved(value, loaded[key]) for key, value in saved.items()}
    return [_as_saved(*both) for both in zip(saved, loaded, strict=True)] if isinstance(saved, list) else loaded


def _versions(p: Tensor, g: Tensor) -> tuple[int, int]:
    return sharded.version(p), sharded.version(g)


def _not_finite(parts: list[Part]) -> list[Part]:
    """The parts whose gradient is not, be it on another process."""
    odd = [not _finite(part.grad) for part in parts]
    if any(part.comm is not sharded.ONE for part in parts):
        counts = [torch.tensor(float(bad), device=part.grad.device) for bad, part in zip(odd, parts, strict=True)]
        odd = [bool(count) for count in sharded.sums(parts, counts)]
    return [part for part, bad in zip(parts, odd, strict=True) if bad]


def _finite(g: Tensor) -> bool:
    """Whether all of it is; the sum says so in one pass, unless it overflows."""
    return bool(g.sum().isfinite()) or bool(g.isfinite().all())


def _size(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dtype=torch.complex128 if x.is_complex() else torch.float64).to(torch.float64)


def inner(x: Tensor, y: Tensor) -> Tensor:
    """<x, y>, a float64 without dims; of complex ones the real part."""
    x, y = real(x), real(y)
    if x.device.type == "cpu" and x.is_contiguous() and y.is_contiguous() and x.dtype.itemsize > 2:
        x, y = x.view(-1), y.view(-1)
        if x.numel() <= _BLOCK:
            return torch.dot(x, y).double()
        return torch.stack([torch.dot(a, b) for a, b in zip(x.split(_BLOCK), y.split(_BLOCK), strict=True)]).double().sum()
    return (x * y).sum(dtype=torch.float64)


def real(x: Tensor) -> Tensor:
    """A complex tensor as pairs of real numbers, a view."""
    return torch.view_as_real(x) if x.is_complex() else x


def by_blocks(run: Callable[..., None], tensors: list[Tensor]) -> None:
    """run(the same entries of all tensors), by blocks that stay in a core's cache; or of all entries at once.

    Threads share the blocks, not each operation: a barrier after every one would cost more than the work where the cores
    are busy. Below 2¹⁵ entries torch stays in the thread that calls it.
    """
    x, threads = tensors[0], torch.get_num_threads()
    size = _BLOCK if threads == 1 else 2**15 - 64
    flat = x.device.type == "cpu" and type(x) is Tensor and all(t.is_contiguous() for t in tensors)
    if not flat or x.numel() <= 2 * size or torch.compiler.is_compiling():
        return run(*tensors)
    from ..prox._numba import in_threads

    blocks = list(zip(*(t.view(-1).split(size) for t in tensors), strict=True))

    def some(first: int, last: int) -> None:
        with torch.no_grad():  # each thread has a mode of its own
            for block in blocks[first:last]:
                run(*block)

    in_threads(some, len(blocks), x.numel())


def told(group: dict[str, Any], number: Step) -> Step:
    """A number for the host, or the tensor that it is where the host must not look."""
    return number.item() if isinstance(number, Tensor) and not group["capturable"] else number
