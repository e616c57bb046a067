"""Factorizations: files in, a run folder and a report out, and which loss, constraint and rank to ask for."""

from __future__ import annotations

import difflib
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from .base import (
    DONE,
    INTERRUPTED,
    NO_RATINGS,
    NOT_CONVERGED,
    Duplicates,
    Flat,
    Missing,
    Names,
    OfRatings,
    Whole,
    app,
    is_run,
    put_table,
    say,
)
from .progress import fit_shown, fits_shown, tiny

if TYPE_CHECKING:
    from ..fit import Result
    from ..matrix import Table
    from ..selection import Advice, Scan


@app.command
def fit(
    data: str,
    /,
    *,
    rank: Annotated[int | None, Whole, Parameter(name=["--rank", "-k"])] = None,
    W: Annotated[str | None, Parameter(name="--W")] = None,
    H: Annotated[str | None, Parameter(name="--H")] = None,
    loss: str | None = None,
    weight: str | None = None,
    missing: Missing = None,  # type: ignore[assignment]
    layout: str | None = None,
    duplicates: Duplicates = None,  # type: ignore[assignment]
    tensor: list[str] | None = None,
    init: str = "auto",
    solver: str = "auto",
    max_iter: Annotated[int | None, Whole] = None,
    tol: float | None = None,
    seed: Annotated[int, Whole] = 0,
    image: str | None = None,
    chunked: bool = False,
    about: Flat = NO_RATINGS,
    options: Annotated[str | None, OfRatings] = None,
    titles: Annotated[str | None, OfRatings] = None,
    test_size: Annotated[float | None, OfRatings] = None,
    out: str = "run",
    quiet: bool = False,
) -> int:
    """Factor a table, X ≈ W H, or learn a recommender from ratings, and save the run with its report.

    With --users and --items, or another of the options below "Ratings", a recommender learns. It is judged first on ratings
    that are held out, beside the baselines, and then learns from all of them.

    Parameters
    ----------
    data
        A file: parquet, csv, npy, npz, mtx or zarr; of ratings, parquet or csv.
    rank
        The number of components.
    W
        The constraint on W, e.g. "nonneg" or "simplex(dim=1)"; `proxfactor operators` lists them. None, if left out.
    H
        The constraint on H, e.g. "nonneg + l1(0.1)".
    loss
        "frobenius" (squared error; the default) or "kl" (counts).
    weight
        A file like the data with a weight for each cell, 0 where there is no data.
    missing
        Which cells are no data. nan (the default): NaN, and in a long table the pairs that do not occur. zeros: also the
        zeros of a dense table and the cells that npz and mtx do not store. none: nothing is missing. Ratings: only for a
        wide table.
    layout
        "wide" (rows x columns), "long" (row id, column id, value) or three column names, as user,item,rating; told by the
        columns, if left out.
    duplicates
        What a pair that occurs twice in a long table means; an error, if left out.
    tensor
        NAME=FILE.npy, what $NAME in a constraint stands for; may be repeated.
    init
        "auto", "nnsvd", "random", "svd", "spa", "vca", "kmeans++", or the folder of a run to go on from, with its constraints,
        loss, weights and way of reading the data unless others are given.
    solver
        "auto", "hals" or "palm".
    max_iter
        The most sweeps over both factors: 10,000, if left out; of a recommender its own number.
    tol
        The certificate at which the fit has converged: 1e-5, if left out.
    seed
        Of the random start.
    image
        The shape of an image whose pixels are the columns (or the rows), e.g. 28x28, for the report.
    chunked
        Leave the data in the file and read it once a sweep; for what takes a third of the free memory this is so anyway.
    options
        The json file that `tune` wrote.
    titles
        A parquet or csv file with the ids of the items and what they are called.
    test_size
        The share that is held out to say how good the recommender is; 0 for none.
    out
        The run folder to write.
    quiet
        Print nothing but errors, and advice where the fit did not converge.
    """
    if about != NO_RATINGS or options is not None:
        other = {"loss": loss, "weight": weight, "layout": layout, "tensor": tensor, "image": image, "chunked": chunked or None}
        other |= {"init": None if init == "auto" else init, "solver": None if solver == "auto" else solver}
        if wrong := [name for name, value in other.items() if value is not None]:
            raise ValueError(f"--{wrong[0]} is for factorizations, and other options are for ratings; leave one or the others out")
        from .recommenders import fit_ratings

        own = {"rank": rank, "W": W, "H": H, "max_iter": max_iter, "tol": tol, "seed": seed, "duplicates": duplicates}
        return fit_ratings(data, about, own, options, missing, titles, test_size, out, quiet)
    if titles is not None or test_size is not None:
        raise ValueError("--titles and --test-size are for ratings; say which columns those are with --users and --items")
    from .. import io
    from ..fit import factorize
    from ..losses import Loss
    from ..prox import Prox

    io.check_target(out)
    max_iter, tol = 10_000 if max_iter is None else max_iter, 1e-5 if tol is None else tol
    tensors = dict(map(_tensor, tensor or []))
    prox = [None if text is None else Prox.parse(text, tensors) for text in (W, H)]
    known = None if loss is None else Loss.parse(loss)
    shape = _shape(image)
    first = _start(init)
    if rank is None and isinstance(first, str):
        raise ValueError("the number of components is missing; give --rank, e.g. --rank 10")
    given = (("missing", missing), ("layout", layout), ("duplicates", duplicates), ("chunked", chunked))
    reading: dict[str, Any] = {k: v for k, v in given if v}
    if not isinstance(first, str):
        prox = [prox[0] or first.prox_W, prox[1] or first.prox_H]
        known, shape, weight = known or first.loss, shape or first.image, weight or first.settings.get("weight")
        reading = first.settings.get("read", {}) | reading
    table = io.read(data, **reading)
    _check_image(shape, table.matrix.shape)
    weights = None if weight is None else _weights(weight, reading, table)
    with fit_shown(quiet, max_iter) as callback:
        result = factorize(
            table, rank, W=prox[0], H=prox[1], loss=known or "frobenius", weight=weights, init=first, solver=solver,
            max_iter=max_iter, tol=tol, seed=seed, callback=callback,
        )  # fmt: skip
    result.settings |= {"data": data, "read": reading, "weight": weight}
    _saved(result, out, shape)
    _tell(result, data, out, quiet)
    return DONE if result.converged else NOT_CONVERGED


@app.command
def transform(
    run: str,
    new: str,
    /,
    *,
    out: str | None = None,
    layout: str | None = None,
    missing: Missing = None,  # type: ignore[assignment]
) -> int:
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
    from .. import io

    if is_run(run):
        raise ValueError(f"{run} holds a recommender; for other users take: proxfactor recommend {shlex.quote(run)} --new FILE")
    result = io.load(run)
    reading = result.settings.get("read", {}) | {k: v for k, v in (("layout", layout), ("missing", missing)) if v}
    table = io.read(new, **reading)
    W = result.transform(table)
    rows = range(len(W)) if table.rows is None else table.rows
    put_table(["row", *result.components], [rows, *W.T], out)
    return DONE


@app.command
def predict(
    run: str,
    /,
    *,
    rows: Names = None,  # type: ignore[assignment]
    cols: Names = None,  # type: ignore[assignment]
    out: str | None = None,
) -> int:
    """The completed matrix W H, or a part of it; the scores of a recommender, users in rows and items in columns.

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
    if [] in (rows, cols):
        raise ValueError("--rows and --cols need at least one name; leave them out for all")
    if is_run(run):
        from .recommenders import predict_ratings

        return predict_ratings(run, rows, cols, out)
    from .. import io
    from ..matrix import memory_for

    result = io.load(run)
    m, n = result.settings["shape"]
    memory_for(len(rows or range(m)), len(cols or range(n)), 8, "the completed matrix")
    pred = result.predict(rows, cols)
    names = [asked if asked else range(count) if known is None else known
             for asked, known, count in ((rows, result.rows, pred.shape[0]), (cols, result.cols, pred.shape[1]))]  # fmt: skip
    put_table(["row", *map(str, names[1])], [names[0], *pred.T], out)
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
        The shape of an image whose pixels are the columns (or the rows), e.g. 28x28; what the fit was given, if left out.
    """
    if is_run(run):
        from .recommenders import report_ratings

        return report_ratings(run, out)
    from ..report import write

    print(f"The report is {write(run, out, _shape(image))}")
    return DONE


@app.command
def scan(
    data: str,
    /,
    *,
    ranks: str | None = None,
    W: Annotated[str | None, Parameter(name="--W")] = None,
    H: Annotated[str | None, Parameter(name="--H")] = None,
    loss: str = "frobenius",
    method: Literal["holdout", "stability", "ard", "all"] = "holdout",
    restarts: Annotated[int, Whole] = 5,
    fraction: float = 0.1,
    weight: str | None = None,
    missing: Missing = None,  # type: ignore[assignment]
    layout: str | None = None,
    duplicates: Duplicates = None,  # type: ignore[assignment]
    tensor: list[str] | None = None,
    max_iter: Annotated[int, Whole] = 300,
    tol: float = 1e-4,
    seed: Annotated[int, Whole] = 0,
    workers: Annotated[int, Whole] = 1,
    out: str = "scan",
    quiet: bool = False,
) -> int:
    """How many components a table supports: by cells hidden from the fits, by what stays the same from fit to fit, or both.

    The same command goes on where an interrupted one ended, also with more ranks or restarts.

    Parameters
    ----------
    data
        A file: parquet, csv, npy, npz or mtx.
    ranks
        The numbers of components to try: 2:12 (both ends), 2:20:3 (every third) or 2,3,5,8; 1 to 10, if left out.
    W
        The constraint on W, as in fit.
    H
        The constraint on H, as in fit.
    loss
        As in fit.
    method
        "holdout" (the error on hidden cells), "stability" (components found again in every fit), "ard" (what a fit of the
        largest rank leaves), or "all".
    restarts
        Fits of each rank, each from another start and with other cells hidden.
    fraction
        The share of the cells to hide.
    weight
        As in fit.
    missing
        As in fit.
    layout
        As in fit.
    duplicates
        As in fit.
    tensor
        As in fit.
    max_iter
        The most sweeps of a fit.
    tol
        The certificate at which a fit has converged.
    seed
        Of the starts and the hidden cells.
    workers
        Processes that share the work; -1: one on each core.
    out
        The folder for the fits, the table (scan.csv) and the plot (scan.png).
    quiet
        Print nothing but errors.
    """
    from ..selection import rank_scan

    tensors = dict(map(_tensor, tensor or []))
    table, weights = _read_with_weights(data, weight, {"missing": missing, "layout": layout, "duplicates": duplicates})
    tried = range(1, min(10, *table.matrix.shape) + 1) if ranks is None else _rank_list(ranks)
    with fits_shown(quiet) as callback:
        found = rank_scan(
            table, tried, W=_prox(W, tensors), H=_prox(H, tensors), loss=loss, weight=weights, method=method,
            restarts=restarts, fraction=fraction, seed=seed, tol=tol, max_iter=max_iter, workers=workers, out=out,
            callback=callback,
        )  # fmt: skip
    return _chosen(found, out, "scan", quiet)


@app.command
def advise(
    data: str,
    /,
    *,
    losses: Names = None,  # type: ignore[assignment]
    max_rank: Annotated[int | None, Whole] = None,
    yardstick: str | None = None,
    restarts: Annotated[int, Whole] = 4,
    fraction: float = 0.1,
    max_fits: Annotated[int, Whole] = 60,
    weight: str | None = None,
    missing: Missing = None,  # type: ignore[assignment]
    layout: str | None = None,
    duplicates: Duplicates = None,  # type: ignore[assignment]
    seed: Annotated[int, Whole] = 0,
    workers: Annotated[int, Whole] = 1,
    out: str = "advice",
    quiet: bool = False,
) -> int:
    """Which loss, constraint and number of components suit a table, or that it holds no structure, in one sentence.

    Parameters
    ----------
    data
        A file: parquet, csv, npy, npz or mtx.
    losses
        The losses to try; those that suit the values, if left out.
    max_rank
        The most components to try; half of the smaller side and at most 64, if left out.
    yardstick
        The loss by which expected and hidden data are compared; for counts "kl", else "frobenius", if left out.
    restarts
        How many sets of hidden cells the best candidates are tried on.
    fraction
        The share of the cells to hide.
    max_fits
        How many fits may be made.
    weight
        As in fit.
    missing
        As in fit.
    layout
        As in fit.
    duplicates
        As in fit.
    seed
        Of the starts and the hidden cells.
    workers
        Processes that share the work; -1: one on each core.
    out
        The folder for the fits, the table (advice.csv) and the plot (advice.png).
    quiet
        Print nothing but errors.
    """
    from ..selection import advise as ask

    table, weights = _read_with_weights(data, weight, {"missing": missing, "layout": layout, "duplicates": duplicates})
    with fits_shown(quiet) as callback:
        found = ask(
            table, weight=weights, losses=losses, max_rank=max_rank, yardstick=yardstick, restarts=restarts, fraction=fraction,
            max_fits=max_fits, seed=seed, workers=workers, out=out, callback=callback,
        )  # fmt: skip
    return _chosen(found, out, "advice", quiet)


@app.command
def demo(*, out: str = "demo", quiet: bool = False) -> int:
    """Factor two tables that ship with proxfactor: handwritten digits into parts, and ratings with holes.

    Parameters
    ----------
    out
        The folder for the two runs.
    quiet
        Print nothing but errors.
    """
    from .. import datasets, io
    from ..fit import factorize

    table, truth = datasets.ratings()
    jobs: list[tuple[str, Any, dict[str, Any]]] = [
        ("digits", datasets.digits(), {"rank": 16, "W": "box(0, 1)", "H": "nonneg + l1(1)"}),
        ("ratings", table, {"rank": 4, "W": "nonneg", "H": "box(0, 5)"}),
    ]
    code = DONE
    for name, data, options in jobs:
        folder = str(Path(out) / name)
        io.check_target(folder)
        with fit_shown(quiet, 10_000) as callback:
            result = factorize(data, callback=callback, **options)
        shape = datasets.DIGITS_IMAGE if name == "digits" else None
        _saved(result, folder, shape)
        if not quiet:
            print(f"\n{name}: {_summary(result)}")
            if name == "ratings":
                print(f"  {'hidden cells':<19} relative error {_hidden_error(result, table, truth):.4f} to the truth without noise")
            print(f"  {'report':<19} {Path(folder) / 'report.html'}")
        code = code if result.converged else NOT_CONVERGED
    return code


@app.command
def operators() -> int:
    """The constraints and penalties that --W and --H take."""
    from ..prox.table import HEAD, SECTIONS, row, sections

    table = {name: [row(kind) for kind in kinds] for name, kinds in sections().items()}
    widths = [max(map(len, column)) for column in zip(HEAD, *(r for rows in table.values() for r in rows), strict=True)]
    room = shutil.get_terminal_size().columns
    wide = not sys.stdout.isatty() or room >= sum(widths) + 2 * len(widths)

    def show(cells: list[str]) -> None:
        if wide:
            print("  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
            return
        name, short, formula, *told, words = cells
        print(textwrap.fill(f"{name}{f' ({short})' if short else ''}: {formula}", room, subsequent_indent="    "))
        print(textwrap.fill(f"{words} [{', '.join(told)}]", room, initial_indent="    ", subsequent_indent="    "))

    show(HEAD)
    for name, rows in table.items():
        print(f"\n{name}: {SECTIONS.get(name, 'added here')}")
        for cells in rows:
            show(cells)
    print(LEGEND)
    return DONE


@app.command
def losses() -> int:
    """The losses that --loss takes, and the data that each is for."""
    from ..losses import Loss
    from ..losses.table import row

    for kind in Loss.catalogue():
        name, short, data, formula, *_ = row(kind)
        print(f"{name}{f' ({short})' if short else ''}: {formula}\n    {data}")
    print(EXAMPLE)
    return DONE


EXAMPLE = """
Parameters go into brackets, columns by name, number or range into bycolumn:
--loss "huber(0.5)", --loss "bycolumn({'age': huber(5), '3:7': logistic}, rest=kl)"
"""

LEGEND = """
couples  the entries that depend on each other: none, those along dim, of a
         matrix, all; as g: those that the operator inside couples
metric   the steps it honours: one for each element, the same by a weighted
         form, or one for each group that it couples
exact    no: it minimises nothing, so that a fit with it has no certificate
cost     the work for a slice of n entries, or an m x n matrix"""


# ── what goes in ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _tensor(pair: str) -> tuple[str, Any]:
    import numpy as np

    name, equals, file = pair.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"--tensor {pair!r} must be NAME=FILE.npy, for a constraint that says $NAME")
    try:
        array = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"--tensor {pair!r}: {file} does not exist; check the spelling and the folder") from None
    except (OSError, ValueError):
        array = None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        raise ValueError(f"--tensor {pair!r}: {file} is no npy file of numbers; write the array with numpy.save")
    return name, array


def _prox(text: str | None, tensors: dict[str, Any]) -> Any:
    from ..prox import Prox

    return None if text is None else Prox.parse(text, tensors)


def _rank_list(text: str) -> list[int]:
    """The ranks of 2:12 (both ends), 2:20:3, or 2,3,5,8."""
    try:
        if ":" not in text:
            return [int(part) for part in text.split(",")]
        first, last, *step = map(int, text.split(":"))
        return list(range(first, last + 1, *step))
    except (TypeError, ValueError):
        raise ValueError(f"--ranks {text!r} must be FIRST:LAST, FIRST:LAST:STEP or numbers with commas, e.g. 2:12") from None


def _read_with_weights(data: str, weight: str | None, given: dict[str, Any]) -> tuple[Table, Any]:
    from .. import io

    reading = {key: value for key, value in given.items() if value}
    table = io.read(data, **reading)
    return table, None if weight is None else _weights(weight, reading, table)


def _start(init: str) -> Any:
    """The name of a start, or the run to go on from."""
    from .. import inits
    from ..io import load

    names = ("auto", *inits.NAMES)
    if Path(init).is_dir():
        return load(init)
    if init.strip().lower() in names:
        return init
    near = difflib.get_close_matches(init, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give {', '.join(inits.NAMES)} or the folder that a fit wrote"
    raise ValueError(f"--init {init!r} is no start and no run folder; {hint}")


def _weights(file: str, reading: dict[str, Any], data: Table) -> Any:
    from ..io import read
    from ..matrix import Dense

    table = read(file, **reading | {"missing": "nan"})
    X = table.matrix
    if X.weight is not None:
        raise ValueError(f"--weight {file} holds NaN; a weight is a number of at least 0, and 0 where there is no data")
    for what, mine, theirs in (("row", table.rows, data.rows), ("column", table.cols, data.cols)):
        if mine is not None and theirs is not None and list(map(str, mine)) != list(map(str, theirs)):
            raise ValueError(f"--weight {file} has other {what} names than the data, or another order; give it the same, or none")
    return X.entries() if isinstance(X, Dense) else X


def _shape(image: str | None) -> tuple[int, int] | None:
    if image is None:
        return None
    sides = image.lower().split("x")
    if len(sides) != 2 or not all(s.strip().isdecimal() and int(s) > 0 for s in sides):
        raise ValueError(f"--image {image!r} must be HEIGHTxWIDTH, e.g. 28x28")
    return int(sides[0]), int(sides[1])


def _check_image(image: tuple[int, int] | None, shape: tuple[int, int]) -> None:
    if image is not None and image[0] * image[1] not in shape:
        raise ValueError(
            f"an image of {image[0]} x {image[1]} has {image[0] * image[1]} pixels, and the data has {shape[1]} columns and "
            f"{shape[0]} rows; give --image HEIGHTxWIDTH with as many pixels as there are columns, or rows"
        )


# ── what comes out ────────────────────────────────────────────────────────────────────────────────────────────────────


def _saved(result: Result, out: str, image: tuple[int, int] | None) -> None:
    from .. import io, report

    io.save(result, out, command=["proxfactor", *sys.argv[1:]], image=image)
    report.write(out)


def _summary(result: Result) -> str:
    (m, n), settings = result.settings["shape"], result.settings
    lines = [
        ("size and rank", f"{m} x {n}, rank {settings['rank']}"),
        ("loss, constraints", f"{result.loss!r}, W {result.prox_W!r}, H {result.prox_H!r}"),
        ("iterations", f"{result.iterations} of {result.solver!r} in {result.seconds:.1f} s"),
        ("relative error", f"{result.error:.4f}"),
        ("certificate", ", ".join(f"{F} {tiny(result.history[-1][f'certificate_{F}'])}" for F in "WH")),
    ]
    return "\n".join([result.status, *(f"  {name:<19} {value}" for name, value in lines)])


def _hidden_error(result: Result, table: Table, truth: Any) -> float:
    import numpy as np
    import torch

    X = table.matrix
    hidden = (X.like(torch.ones_like(X.entries())) @ torch.eye(X.shape[1], dtype=X.dtype) == 0).numpy()
    return float(np.linalg.norm((result.predict() - truth)[hidden]) / np.linalg.norm(truth[hidden]))


def _tell(result: Result, data: str, out: str, quiet: bool) -> None:
    advice = []
    if result.stopped in ("max_iter", "interrupted"):
        advice = [f"Go on with: proxfactor fit {shlex.quote(data)} --init {shlex.quote(out)}"]
    if not quiet:
        print("\n".join([_summary(result), f"Saved in {out}; the report is {Path(out) / 'report.html'}", *advice]))
    elif not result.converged:
        say("\n".join([result.status, f"Saved in {out}.", *advice]))


def _chosen(found: Scan | Advice, out: str, name: str, quiet: bool) -> int:
    """The table and the plot of a choice beside its fits, and on the terminal."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from .. import io

    names = list(found.table[0])
    io.write_table(Path(out) / f"{name}.csv", names, [[row[key] for row in found.table] for key in names])
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    found.plot(figure.subplots())
    figure.savefig(Path(out) / f"{name}.png", dpi=150)
    if not quiet:
        _rich_table(found.table)
        print("\n".join([found.sentence, f"Saved in {out}: {name}.csv, {name}.png and the fits."]))
    return DONE if found.complete else INTERRUPTED


def _rich_table(rows: list[dict[str, Any]], most: int = 15) -> None:
    from rich.console import Console
    from rich.table import Table as Grid

    shown = [key for key in rows[0] if key not in ("loss", "W", "H")]
    grid = Grid(box=None, pad_edge=False)
    for key in shown:
        grid.add_column(key, justify="left" if key == "model" else "right", no_wrap=key != "model")
    for row in rows[:most]:
        grid.add_row(*(f"{row[key]:.4g}" if isinstance(row[key], float) else str(row[key]) for key in shown))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(grid)
    if len(rows) > most:
        print(f"… and {len(rows) - most} more rows")
