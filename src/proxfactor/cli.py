"""The command line: files in, a run folder and a report out. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

if TYPE_CHECKING:
    from .fit import Progress, Result

DONE, NOT_CONVERGED, BAD_INPUT = 0, 1, 2

app = App(
    name="proxfactor",
    help="Constrained matrix factorization: X ≈ W H, any loss, any constraint, no learning rate to set.",
    help_epilogue="Exit codes: 0 done, 1 the fit did not converge but was saved, 2 bad input.",
    version=lambda: __import__("proxfactor").__version__,
)

Missing = Literal["nan", "zeros", "none"]
Duplicates = Literal["error", "sum", "mean", "last"]
Names = Annotated[list[str] | None, Parameter(consume_multiple=True)]
Quiet = Annotated[bool, Parameter(negative="")]


@app.command
def fit(
    data: str,
    /,
    *,
    rank: Annotated[int | None, Parameter(name=["--rank", "-k"])] = None,
    W: Annotated[str | None, Parameter(name="--W")] = None,
    H: Annotated[str | None, Parameter(name="--H")] = None,
    loss: str = "frobenius",
    weight: str | None = None,
    missing: Missing = "nan",
    layout: str = "auto",
    duplicates: Duplicates = "error",
    tensor: list[str] | None = None,
    init: str = "auto",
    solver: str = "auto",
    max_iter: int = 10_000,
    tol: float = 1e-5,
    seed: int = 0,
    image: str | None = None,
    out: str = "run",
    quiet: Quiet = False,
) -> int:
    """Factor a table, X ≈ W H, and save the run with its report.

    Parameters
    ----------
    data
        A file: parquet, csv, npy, npz or mtx.
    rank
        The number of components.
    W
        The constraint on W, e.g. "nonneg" or "simplex(dim=1)"; `proxfactor operators` lists them.
    H
        The constraint on H, e.g. "nonneg + l1(0.1)".
    loss
        "frobenius" (squared error) or "kl" (counts).
    weight
        A file with a weight for each cell, 0 where there is no data.
    missing
        Which cells are no data. nan: NaN, and in a long table the pairs that do not occur. zeros: also the zeros of a dense
        table and the cells that npz and mtx do not store. none: nothing is missing.
    layout
        "wide" (rows x columns), "long" (row id, column id, value) or three column names, as user,item,rating.
    duplicates
        What a pair that occurs twice in a long table means.
    tensor
        NAME=FILE.npy, what $NAME in a constraint stands for; may be repeated.
    init
        "random", "svd", or the folder of a run to go on from.
    solver
        "auto", "hals" or "palm".
    max_iter
        The most sweeps over both factors.
    tol
        The certificate at which the fit has converged.
    seed
        Of the random start.
    image
        The shape of a row of H as an image, e.g. 28x28, for the report.
    out
        The run folder to write.
    quiet
        Print nothing but errors.
    """
    from . import io
    from .fit import factorize
    from .losses import Loss
    from .prox import Prox

    io.check_target(out)
    tensors = _tensors(tensor or [])
    prox = [None if text is None else Prox.parse(text, tensors) for text in (W, H)]
    known = Loss.parse(loss)
    shape = _shape(image)
    reading = {"missing": missing, "layout": layout, "duplicates": duplicates}
    table = io.read(data, **reading)  # type: ignore[arg-type]
    if shape and shape[0] * shape[1] != table.matrix.shape[1]:
        raise ValueError(f"--image {image} has {shape[0] * shape[1]} pixels, {data} has {table.matrix.shape[1]} columns; they must be as many")
    first = io.load(init) if Path(init).is_dir() else init
    if rank is None and isinstance(first, str):
        raise ValueError("the number of components is missing; give --rank, e.g. --rank 10")
    weights = None if weight is None else _weights(weight, reading)
    with _shown(quiet, max_iter) as callback:
        result = factorize(
            table, rank, W=prox[0], H=prox[1], loss=known, weight=weights, init=first, solver=solver,
            max_iter=max_iter, tol=tol, seed=seed, callback=callback,
        )  # fmt: skip
    result.settings |= {"data": data, "read": reading}
    _saved(result, out, shape)
    if not quiet:
        print(_summary(result))
        print(f"Saved in {out}; the report is {Path(out) / 'report.html'}")
    return DONE if result.converged else NOT_CONVERGED


@app.command
def transform(run: str, new: str, /, *, out: str | None = None, layout: str | None = None, missing: Missing | None = None) -> int:
    """W for the rows of another file, with H as it was fitted; columns are matched by name.

    Parameters
    ----------
    run
        The folder of a run.
    new
        A file of the same kind as the data of the run.
    out
        Where to write the table (parquet or csv, by its ending); the terminal, if left out.
    layout
        As in fit; what the fit was given, if left out.
    missing
        As in fit; what the fit was given, if left out.
    """
    from . import io

    result = io.load(run)
    reading = result.settings.get("read", {}) | {k: v for k, v in (("layout", layout), ("missing", missing)) if v}
    table = io.read(new, **reading)
    W = result.transform(table)
    rows = range(len(W)) if table.rows is None else table.rows
    _table(["row", *result.components], [rows, *W.T], out)
    return DONE


@app.command
def predict(run: str, /, *, rows: Names = None, cols: Names = None, out: str | None = None) -> int:
    """The completed matrix W H, or a part of it.

    Parameters
    ----------
    run
        The folder of a run.
    rows
        Names of rows (numbers from 0 where there are no names); all, if left out.
    cols
        Names of columns; all, if left out.
    out
        Where to write the table (parquet or csv, by its ending); the terminal, if left out.
    """
    from . import io

    result = io.load(run)
    pred = result.predict(rows, cols)
    names = [asked if asked else range(count) if known is None else known
             for asked, known, count in ((rows, result.rows, pred.shape[0]), (cols, result.cols, pred.shape[1]))]  # fmt: skip
    _table(["row", *map(str, names[1])], [names[0], *pred.T], out)
    return DONE


@app.command
def report(run: str, /, *, out: str | None = None, image: str | None = None) -> int:
    """Write the report of a run: one HTML file that needs no network.

    Parameters
    ----------
    run
        The folder of a run.
    out
        Where to write it; report.html in the run's folder, if left out.
    image
        The shape of a row of H as an image, e.g. 28x28.
    """
    from .report import write

    print(f"The report is {write(run, out, _shape(image))}")
    return DONE


@app.command
def demo(*, out: str = "demo", quiet: Quiet = False) -> int:
    """Factor two tables that ship with proxfactor: handwritten digits into parts, and ratings with holes.

    Parameters
    ----------
    out
        The folder for the two runs.
    quiet
        Print nothing but errors.
    """
    from . import datasets, io
    from .fit import factorize

    table, truth = datasets.ratings()
    jobs: list[tuple[str, Any, dict[str, Any]]] = [
        ("digits", datasets.digits(), {"rank": 16, "W": "box(0, 1)", "H": "nonneg + l1(1)"}),
        ("ratings", table, {"rank": 4, "W": "nonneg", "H": "box(0, 5)"}),
    ]
    code = DONE
    for name, data, options in jobs:
        folder = str(Path(out) / name)
        io.check_target(folder)
        with _shown(quiet, 10_000) as callback:
            result = factorize(data, callback=callback, **options)
        shape = datasets.DIGITS_IMAGE if name == "digits" else None
        _saved(result, folder, shape)
        if not quiet:
            print(f"\n{name}: {_summary(result)}")
            if name == "ratings":
                print(f"  hidden cells        relative error {_hidden_error(result, table, truth):.4f} against the truth, which nobody saw")
            print(f"  report              {Path(folder) / 'report.html'}")
        code = code if result.converged else NOT_CONVERGED
    return code


@app.command
def operators() -> int:
    """The constraints and penalties that --W and --H take."""
    from rich.console import Console
    from rich.table import Table as Grid

    from .prox import Prox

    grid = Grid("name", "short", "formula", "couples", "convex", "steps", "what it does", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for kind in Prox.catalogue():
        dims = kind.dims
        couples = "along dim" if "dim" in kind.__annotations__ else "nothing" if kind.__annotations__.get("inner") is None else "as inside"
        told = [str(getattr(kind, name)) if not isinstance(getattr(kind, name), property) else "as inside" for name in ("convex", "metric")]
        line = (kind.__doc__ or "").split("\n")[0].split(": g = ")[0].rstrip(".")
        grid.add_row(kind.__name__, kind.alias, kind.formula, couples if dims is not None else "all", *told, line)  # type: ignore[attr-defined]
    Console().print(grid)
    return DONE


def main(tokens: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code; bad input ends in one sentence on stderr and code 2."""
    try:
        code = app(tokens, exit_on_error=False, print_error=True)
    except CycloptsError:
        code = BAD_INPUT
    except (ValueError, TypeError, OSError, MemoryError, ArithmeticError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("Interrupted before there was anything to save.", file=sys.stderr)
        code = NOT_CONVERGED
    sys.exit(code if isinstance(code, int) else DONE)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


# ── what goes in ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _tensors(pairs: list[str]) -> dict[str, Any]:
    import numpy as np

    tensors = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"--tensor {pair!r} must be NAME=FILE.npy, for a constraint that says $NAME")
        tensors[name] = np.load(file, allow_pickle=False)
    return tensors


def _weights(file: str, reading: dict[str, Any]) -> Any:
    from . import io

    X = io.read(file, **reading | {"missing": "none"}).matrix
    return X.entries() if X.background == 0 else X


def _shape(image: str | None) -> tuple[int, int] | None:
    if image is None:
        return None
    sides = image.lower().split("x")
    if len(sides) != 2 or not all(s.strip().isdecimal() and int(s) > 0 for s in sides):
        raise ValueError(f"--image {image!r} must be HEIGHTxWIDTH, e.g. 28x28")
    return int(sides[0]), int(sides[1])


# ── what comes out ────────────────────────────────────────────────────────────────────────────────────────────────────


def _saved(result: Result, out: str, image: tuple[int, int] | None) -> None:
    from . import io, report

    io.save(result, out, command=["proxfactor", *sys.argv[1:]], image=image)
    report.write(out)


def _summary(result: Result) -> str:
    (m, n), settings = result.settings["shape"], result.settings
    lines = [
        ("size and rank", f"{m} x {n}, rank {settings['rank']}"),
        ("loss, constraints", f"{result.loss!r}, W {result.prox_W!r}, H {result.prox_H!r}"),
        ("iterations", f"{result.iterations} of {result.solver!r} in {result.seconds:.1f} s"),
        ("relative error", f"{result.error:.4f}"),
        ("certificate", f"W {result.history[-1]['certificate_W']:.1e}, H {result.history[-1]['certificate_H']:.1e}"),
    ]
    return "\n".join([result.status, *(f"  {name:<19} {value}" for name, value in lines)])


def _hidden_error(result: Result, table: Any, truth: Any) -> float:
    import numpy as np

    hidden = np.ones(truth.shape, dtype=bool)
    hidden[table.matrix._rows().numpy(), table.matrix.col.numpy()] = False
    return float(np.linalg.norm((result.predict() - truth)[hidden]) / np.linalg.norm(truth[hidden]))


def _table(names: list[str], columns: list[Any], out: str | None) -> None:
    from . import io

    if out is not None:
        io.write_table(out, names, columns)
        print(f"Saved in {out}")
        return
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))


# ── progress ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _shown(quiet: bool, max_iter: int) -> Iterator[Callable[[Progress], None] | None]:
    """A callback for the fit: a live bar on a terminal, a line now and then elsewhere, nothing when quiet."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(max_iter) as callback:
            yield callback
    else:
        yield _Lines()


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
        print(f"iteration {int(row['iteration']):>6}  loss {row['loss']:.6g}  certificate {progress.certificate:.1e}", file=sys.stderr, flush=True)


@contextmanager
def _bar(max_iter: int) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = [TextColumn("iteration {task.fields[iteration]}"), BarColumn(None), TextColumn("loss {task.fields[loss]}")]
    columns += [TextColumn("certificate {task.fields[certificate]}"), TextColumn("{task.fields[left]}")]
    looks: list[tuple[int, float, float]] = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, iteration=0, loss="…", certificate="…", left="")

        def show(progress: Any) -> None:
            row = progress.row
            looks.append((int(row["iteration"]), row["seconds"], progress.certificate))
            end = expected_end(looks, progress.tol, max_iter)
            left = (end - looks[-1][0]) * looks[-1][1] / looks[-1][0]
            words = {"iteration": looks[-1][0], "loss": f"{row['loss']:.6g}", "certificate": f"{progress.certificate:.1e}"}
            bar.update(task, completed=looks[-1][0] / max(end, 1), left=f"about {_clock(left)} left", **words)

        yield show


def expected_end(looks: list[tuple[int, float, float]], tol: float, max_iter: int) -> int:
    """The iteration at which the certificate is expected to reach tol, if it goes on falling as in the second half of the looks.

    >>> expected_end([(1, 0.1, 1e-1), (10, 0.2, 1e-2), (20, 0.3, 1e-3)], 1e-5, 1000)
    40
    """
    import math

    now, _, last = looks[-1]
    then, _, before = looks[(len(looks) - 1) // 2]
    if not (0 < last < before and now > then):
        return max_iter
    rate = math.log(before / last) / (now - then)
    return min(max_iter, now + math.ceil(round(math.log(max(last / tol, 1.0)) / rate, 6)))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{seconds:02d} min" if minutes else f"{seconds} s"
