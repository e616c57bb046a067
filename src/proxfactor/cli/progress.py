"""Live bars on a terminal, a line now and then elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .base import say

if TYPE_CHECKING:
    from ..fit import Progress


@contextmanager
def fit_shown(quiet: bool, max_iter: int) -> Iterator[Callable[[Progress], None] | None]:
    """A callback for the fit: a live bar on a terminal, a line now and then elsewhere, nothing when quiet."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(max_iter) as callback:
            yield callback
    else:
        yield _Lines()


@contextmanager
def fits_shown(quiet: bool) -> Iterator[Callable[[Any], None] | None]:
    """A callback for a choice among fits: a live bar on a terminal, a line for each fit elsewhere, nothing when quiet."""

    def line(progress: Any) -> None:
        job, error = progress.fit.job, progress.fit.error
        say(f"fit {progress.done:>3} of {progress.total}  rank {job.rank:>3}  hidden cells {error:.4g}")

    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield line
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [TextColumn("fit {task.completed} of {task.total}"), BarColumn(None), TextColumn("{task.description}")]
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)

            def show(progress: Any) -> None:
                told = f"rank {progress.fit.job.rank}  hidden cells {progress.fit.error:.4g}"
                bar.update(task, completed=progress.done, total=progress.total, description=told)

            yield show


class _Lines:
    """A line at the first look, and then whenever a second and a tenth of the time so far have passed."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.next = 0.0

    def __call__(self, progress: Progress) -> None:
        row = progress.row
        passed = time.perf_counter() - self.began
        if passed < self.next:
            return
        self.next = 1.1 * passed + 1
        say(f"iteration {int(row['iteration']):>6}  loss {row['loss']:.6g}  certificate {tiny(progress.certificate)}")


@contextmanager
def _bar(max_iter: int) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = [TextColumn("iteration {task.fields[iteration]}"), BarColumn(None), TextColumn("loss {task.fields[loss]}")]
    columns += [TextColumn("certificate {task.fields[certificate]}"), TextColumn("{task.fields[left]}")]
    looks: list[tuple[int, float]] = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, iteration=0, loss="…", certificate="…", left="")

        def show(progress: Any) -> None:
            row, certificate = progress.row, progress.certificate
            at = int(row["iteration"])
            looks.append((at, certificate))
            end = expected_end(looks, progress.tol, max_iter)
            left = f"about {clock((end - at) * row['seconds'] / at)} left"
            bar.update(task, completed=at / end, iteration=at, loss=f"{row['loss']:.6g}", certificate=tiny(certificate), left=left)

        yield show


def expected_end(looks: list[tuple[int, float]], tol: float, max_iter: int) -> int:
    """The iteration at which the certificate reaches tol, if it goes on falling as in the second half of the looks.

    >>> expected_end([(1, 1e-1), (10, 1e-2), (20, 1e-3)], 1e-5, 1000)
    40
    """
    import math

    now, last = looks[-1]
    then, before = looks[(len(looks) - 1) // 2]
    if not (0 < last < before and now > then):
        return max_iter
    rate = math.log(before / last) / (now - then)
    return min(max_iter, now + math.ceil(round(math.log(max(last / tol, 1.0)) / rate, 6)))


def tiny(value: float) -> str:
    return "none" if value != value else f"{value:.1e}"


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{seconds:02d} min" if minutes else f"{seconds} s"


@contextmanager
def learning_shown(quiet: bool, measure: str) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """A callback for recommenders: the trials of a search with what each one scores by ``measure``, then the sweeps of a fit."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        next_ = 0.0

        def line(row: dict[str, Any]) -> None:
            nonlocal next_
            if "trial" in row or row["seconds"] >= next_ or row["sweep"] in (1, row["sweeps"]):
                next_ = 0.0 if "trial" in row else 1.1 * row["seconds"] + 1
                what, at, of, told = _told(row, measure)
                say(f"{what} {at:>3} of {of}  {told}")

        yield line
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = [
            TextColumn("{task.fields[what]} {task.completed} of {task.total}"),
            BarColumn(None),
            TextColumn("{task.description}"),
        ]
        with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None, what="trial")

            def show(row: dict[str, Any]) -> None:
                what, at, of, told = _told(row, measure)
                bar.update(task, what=what, completed=at, total=of, description=told)

            yield show


def _told(row: dict[str, Any], measure: str) -> tuple[str, int, int, str]:
    if "trial" in row:
        options = {k: v for k, v in row.items() if k not in ("trial", "trials", "score", "sweeps", "seconds")}
        told = "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in options.items())
        return "trial", row["trial"], row["trials"], f"{told}  {measure} {abs(row['score']):.4f}"
    told = "  ".join(f"{k} {row[k]:.6g}" for k in ("loss", "error") if k in row)
    return "sweep", row["sweep"], row["sweeps"], told
