"""Compiled kernels arrive beside the work: until one is there, the torch form that it is a twin of serves."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib import import_module
from typing import Any

import torch

WORTH = 2e8
"""Multiplications that a process must have spent in torch forms before a kernel is fetched, which takes a second, or ten."""

_spent = 0.0


def kernels(module: str, dtype: torch.dtype, work: float) -> Any:
    """The kernels of ``proxfactor.{module}`` for a dtype, or None as long as they are not there or not worth the wait.

    The module has a function ``load(dtype)`` that returns them, compiled. ``work`` is what the torch form is about to spend,
    in multiplications. The first fit in a process thus never waits: what is small is over before numba would be imported.
    """
    global _spent
    _spent += work
    if (module, dtype) not in _asked and _spent < WORTH:
        return None
    future = _fetch(module, dtype)
    return future.result() if future.done() else None


def wait_for_kernels(module: str, dtype: torch.dtype) -> Any:
    """The same kernels, however long it takes: for tests and benchmarks, where every sweep should take the same road."""
    return _fetch(module, dtype).result()


_asked: set[tuple[str, torch.dtype]] = set()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="proxfactor-compiles")


@cache
def _fetch(module: str, dtype: torch.dtype) -> Future:
    def load() -> Callable:
        return import_module(f"proxfactor.{module}").load(dtype)

    _asked.add((module, dtype))
    return _pool().submit(load)
