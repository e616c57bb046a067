"""The application: what its commands share, how it ends, and one sentence for whatever is wrong. Nothing heavy is imported here."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

DONE, NOT_CONVERGED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="proxfactor",
    help="Constrained matrix factorization: X ≈ W H, any loss, any constraint, no learning rate to set.",
    help_epilogue="Exit codes: 0 done, 1 the fit did not converge but was saved, 2 bad input.",
    version=lambda: __import__("proxfactor").__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)

Missing = Literal["nan", "zeros", "none"]
Duplicates = Literal["error", "sum", "mean", "last"]
Names = Annotated[list[str], Parameter(consume_multiple=True)]  # with "| None", Cyclopts would take the name "null" for None


def _whole(_: Any, tokens: Any) -> int:
    text = tokens[0].value
    try:
        return int(text)  # Cyclopts alone would take 2.5 for 2
    except ValueError:
        raise ValueError(f"{text} is no whole number") from None


Whole = Parameter(converter=_whole)


@dataclass(frozen=True)
class About:
    """What the columns of a table of ratings are called, and which recommender learns from them.

    Parameters
    ----------
    users
        The column that says who.
    items
        The column that says what.
    values
        The column of the ratings; "rating", or the third, if left out.
    time
        The column that says when, numbers or dates; the latest ratings are then held out.
    weights
        The column of the weights, at least 0.
    implicit
        A row is a click, a view, a purchase; what is not there counts a little against. As --model ImplicitMF.
    model
        ExplicitMF (the default), ImplicitMF, BayesianMF, Popularity, Bias, EASE, GFCF or PureSVD.
    reg
        The regularisation; chosen on ratings held out, if left out.
    alpha
        How much more a click of a large value counts.
    unobserved
        The weight of what is not there, with --implicit; chosen like reg, if left out.
    """

    users: str | None = None
    items: str | None = None
    values: str | None = None
    time: str | None = None
    weights: str | None = None
    implicit: bool = False
    model: str | None = None
    reg: str | None = None
    alpha: float | None = None
    unobserved: str | None = None


NO_RATINGS = About()
OfRatings = Parameter(group="Ratings")
Flat = Annotated[About, Parameter(name="*", group="Ratings")]


def is_run(folder: str | Path) -> bool:
    """Whether a folder holds a recommender."""
    return (Path(folder) / "model.json").is_file()


def main(tokens: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code; bad input ends in one sentence on stderr and code 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show ≈ shows a question mark
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say(f"warning: {' '.join(str(message).split())}")
        sys.exit(_code(tokens))


def _code(tokens: Sequence[str] | None) -> int:
    try:
        code = app(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return code or DONE
    except BrokenPipeError:  # the reader, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except CycloptsError as error:
        say(f"error: {_one_line(error).rstrip('.')}. See proxfactor {' '.join([*(error.command_chain or ()), '--help'])}.")
    except (ValueError, TypeError, OSError, MemoryError, ArithmeticError) as error:
        say(f"error: {_one_line(error)}")
    except KeyboardInterrupt:
        say("Interrupted; nothing more was written.")
        return INTERRUPTED
    return BAD_INPUT


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text}; ask for a smaller rank or give less data" if text.startswith("Unable to allocate") else text


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def put_table(names: list[str], columns: list[Any], out: str | None) -> None:
    if out is not None:
        from .. import io

        io.write_table(out, names, columns)
        print(f"Saved in {out}")
        return
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))


def put_arrow(table: Any, out: str | None) -> None:
    """As ``put_table``, for an arrow table and without torch."""
    names, columns = table.column_names, [column.to_numpy() for column in table.columns]
    if out is None:
        put_table(names, columns, None)
        return
    from pyarrow import csv, parquet

    place = Path(out)
    ending = place.suffix.lower()
    if ending not in (".parquet", ".csv", ".tsv"):
        raise ValueError(f"{out}: a table is written as .parquet, .csv or .tsv; give it one of these endings")
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        if ending == ".parquet":
            parquet.write_table(table, fresh)
        else:
            csv.write_csv(table, fresh, csv.WriteOptions(delimiter="\t" if ending == ".tsv" else ","))
        fresh.replace(place)
    finally:
        fresh.unlink(missing_ok=True)
    print(f"Saved in {out}")
