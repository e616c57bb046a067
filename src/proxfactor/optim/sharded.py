"""Parameters spread over processes as DTensors, as FSDP2 makes them: each process's piece, its operator, the sums across."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..comm import Comm, Group
from ..prox import Prox
from ..prox.base import dims_of

if TYPE_CHECKING:
    from .base import Part

ONE = Comm()


@dataclass(frozen=True)
class Mesh(Comm):
    """The processes along some dims of a device mesh."""

    mesh: Any
    dims: tuple[int, ...]

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        for dim in self.dims:
            tensors = Group(self.mesh.get_group(dim)).sum(*tensors)
        return tensors


def spread(t: Any) -> bool:
    """Whether it is a DTensor; none can be where torch's module has not been imported."""
    known = sys.modules.get("torch.distributed.tensor")
    return known is not None and isinstance(t, known.DTensor)


@torch.no_grad()
def local(t: Any) -> Any:
    """This process's piece of a DTensor, on the same memory; anything else as it is."""
    return t.to_local() if spread(t) else t


def local_gradient(p: Any, g: Any) -> Tensor:
    """This process's piece of the gradient of p, laid out as p is."""
    return local(g.redistribute(placements=p.placements) if spread(g) and g.placements != p.placements else g)


def version(t: Tensor) -> int:
    """A count of the writes to t; FSDP2 writes to the piece alone."""
    return t._version + local(t)._version if spread(t) else t._version


def holders(p: Any) -> Comm:
    """The processes whose pieces together are p."""
    if not spread(p):
        return ONE
    return Mesh(p.device_mesh, tuple(i for i, placed in enumerate(p.placements) if not placed.is_replicate()))


def sums(parts: Sequence[Part], tensors: Sequence[Tensor]) -> list[Tensor]:
    """One tensor of each part, summed over the processes that hold it: one message for all parts that are spread alike."""
    found = list(tensors)
    for comm in dict.fromkeys(part.comm for part in parts):
        mine = [i for i, part in enumerate(parts) if part.comm == comm]
        for i, total in zip(mine, comm.sum(*(tensors[i] for i in mine)), strict=True):
            found[i] = total
    return found


def mean_loss(parts: Sequence[Part], loss: float) -> float:
    """The mean of the processes' losses, as their gradients are averaged; without spread parameters the loss as it is."""
    for part in parts:
        if spread(part.param):
            mesh: Any = part.param.device_mesh  # type: ignore[attr-defined]
            everyone = Mesh(mesh, tuple(range(mesh.ndim)))
            total = everyone.sum(torch.tensor(loss, dtype=torch.float64, device=part.values.device))[0]
            return total.item() / mesh.size()
    return loss


def piece(prox: Prox, p: Any, name: str) -> Prox:
    """The operator for this process's piece of p. Raises ValueError, on every process alike, where there is none."""
    if not spread(p):
        return prox
    if any(placed.is_partial() for placed in p.placements):
        raise ValueError(f"{name} is a sum that its processes have not taken yet (Partial); redistribute it first")
    for dim in sorted({placed.dim for placed in p.placements if not placed.is_replicate()}):
        if dim in dims_of(prox.dims, p.ndim):
            raise ValueError(
                f"{prox!r} couples dim {dim} of {name}, along which it is sharded over processes; shard it along another dim "
                "(fully_shard's shard_placement_fn), or keep it whole (fully_shard's ignored_params, or Replicate)"
            )
        prox = _taken(prox, p, dim, name)
    return prox


def _taken(prox: Prox, p: Any, dim: int, name: str) -> Prox:
    if prox.alike or (p.ndim != 2 and prox.dims and not any(_reaches(t, dim - p.ndim) for _, t in prox._held)):
        return prox
    own = _range(p, dim)
    if own is None or (p.ndim != 2 and prox.dims):
        raise ValueError(
            f"{prox!r} cannot be cut along dim {dim} of {name}, along which it is sharded over processes; shard it along another "
            "dim, or keep it whole (fully_shard's ignored_params, or Replicate)"
        )
    return prox.take(own, dim - p.ndim)


def _reaches(t: Tensor, dim: int) -> bool:
    return -dim <= t.ndim and t.shape[dim] > 1


def _range(p: Any, dim: int) -> slice | None:
    """Which entries along dim this process has; None if they do not follow each other."""
    start, count = 0, p.shape[dim]
    for i, placed in enumerate(p.placements):
        if placed.is_replicate() or placed.dim != dim:
            continue
        if not placed.is_shard():
            return None
        each = -(-count // p.device_mesh.size(i))
        skipped = min(count, p.device_mesh.get_local_rank(i) * each)
        start, count = start + skipped, min(each, count - skipped)
    return slice(start, start + count) if count == local(p).shape[dim] else None


def as_state(value: Any, p: Any) -> Any:
    """A tensor kept for this process's piece of p as a DTensor, so that a checkpoint knows it; anything else as it is."""
    if not spread(p) or not isinstance(value, Tensor) or spread(value) or not value.ndim or value.ndim != p.ndim:
        return value
    over = {placed.dim for placed in p.placements if not placed.is_replicate()}
    shape = torch.Size(whole if d in over else n for d, (whole, n) in enumerate(zip(p.shape, value.shape, strict=True)))
    kind: Any = type(p.data)
    stride = torch.empty(shape, device="meta").stride()
    return kind.from_local(value, p.device_mesh, p.placements, run_check=False, shape=shape, stride=stride)
