"""Comm: the one seam between one process and many. Every sum over a spread axis goes through ``sum``."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor


class Comm:
    """One process: every sum is already complete.

    >>> Comm().sum(torch.tensor(2.0)), Comm().my_rows(10)
    ((tensor(2.),), slice(0, 10, None))
    """

    size: int = 1
    rank: int = 0

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Each tensor summed over the processes, all of them in one message."""
        return tensors

    def max(self, tensor: Tensor) -> Tensor:
        """The entrywise maximum over the processes."""
        return tensor

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The tensor of the first process."""
        return tensor

    def my_rows(self, count: int) -> slice:
        """This process's part of ``count`` rows: contiguous, in the order of the ranks, sizes that differ by one at most."""
        start = self.rank * count // self.size
        return slice(start, (self.rank + 1) * count // self.size)

    def offset(self, count: int) -> int:
        """The global number of this process's first row, when it holds ``count`` rows."""
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = count
        return int(self.sum(counts)[0][: self.rank].sum())


class Group(Comm):
    """The processes of a torch.distributed group (the default one if None), which must be initialised.

    Every process must make the same calls in the same order. Raises RuntimeError where no group is initialised.
    """

    def __init__(self, group: Any = None):
        import torch.distributed as dist

        if not dist.is_initialized():
            raise RuntimeError("Group() needs processes: call torch.distributed.init_process_group, or use Comm() for one")
        self.group = group
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        import torch.distributed as dist

        if not tensors:
            return ()
        wide = reduce(torch.promote_types, (t.dtype for t in tensors))
        if any(t.dtype != wide and not t.is_floating_point() for t in tensors):
            wide = torch.promote_types(wide, torch.float64)  # float32 would round the counts that travel with it
        message = torch.cat([t.to(wide).reshape(-1) for t in tensors])
        dist.all_reduce(message, group=self.group)
        parts = message.split([t.numel() for t in tensors])
        return tuple(p.reshape(t.shape).to(t.dtype) for p, t in zip(parts, tensors, strict=True))

    def max(self, tensor: Tensor) -> Tensor:
        import torch.distributed as dist

        message = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(message, op=dist.ReduceOp.MAX, group=self.group)
        return message

    def broadcast(self, tensor: Tensor) -> Tensor:
        import torch.distributed as dist

        message = tensor.clone(memory_format=torch.contiguous_format)
        dist.broadcast(message, group=self.group, group_src=0)
        return message
