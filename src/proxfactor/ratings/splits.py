"""Ratings in two parts: what is learned from, and what is kept to judge by."""

from __future__ import annotations

from typing import Any


def split(data: Any) -> tuple[Any, ...]:
    raise NotImplementedError
