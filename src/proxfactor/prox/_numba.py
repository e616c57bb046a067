"""What the compiled kernels have in common: how they are compiled, and how the work is shared among threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from threading import current_thread
from typing import Any

import numba
import torch
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

_NAME = "proxfactor-shares"


def kernel(*signature: str, fastmath: bool | set[str] = False) -> Callable:
    """numba.njit that lets go of Python's lock and keeps what it compiled, where there is a place to keep it."""

    def made(f: Callable) -> Callable:
        compiled: Callable = partial(numba.njit, *signature, nogil=True, error_model="numpy", fastmath=fastmath)
        try:
            return compiled(cache=True)(f)
        except RuntimeError:
            return compiled()(f)

    return made


def _prefetch(_: Any, address: Any) -> Any:
    """Bring the 64 bytes at an address to the cache while other work goes on: what is gathered here and there comes late else."""

    def asked(context: Any, builder: Any, __: Any, args: Any) -> Any:
        byte, whole = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, whole, whole, whole])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [builder.inttoptr(args[0], byte), whole(0), whole(3), whole(1)])  # to read, to keep, data
        return context.get_dummy_value()

    return types.void(types.int64), asked


prefetch: Any = intrinsic(_prefetch)


def in_threads(run: Callable[[int, int], None], size: int, entries: int, load: torch.Tensor | None = None) -> None:
    """run(first, last) on the parts of range(size), by as many threads as torch uses, or as so many entries are worth.

    ``load`` (size + 1,) rises by the work of each row; without it they are alike. Numba's own threads are not used: they abort
    where two callers meet, and forbid forks.
    """
    threads = min(torch.get_num_threads(), size, 1 + entries // 2**15)
    if threads < 2 or current_thread().name.startswith(_NAME):  # one of them, which must not wait for its like
        run(0, size)
        return
    parts = min(size, 4 * threads)  # more than threads: rows are not equally hard
    ends = [size * p // parts for p in range(parts + 1)]
    if load is not None:
        ends = torch.searchsorted(load, load[-1] * torch.arange(parts + 1) // parts).tolist()
    list(_pool(threads, os.getpid()).map(lambda part: run(*part), pairwise(ends)))


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that wait for work: to begin them takes longer than a small sweep. A fork has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix=_NAME)
