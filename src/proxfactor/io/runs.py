"""The run folder, `save` and `load`: the contract between fit, transform, report and recommend.

W.parquet and H.parquet are the factors with their names, for any program; model.safetensors is the factors and the
tensors of constraints, for `load`; history.csv has a row for each look at the fit; run.json tells the rest in words and numbers.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import json
import math
import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..losses import FunctionLoss, Loss
from ..prox import Function, Prox
from .files import existing_folder, first_line, shown, whole_folder
from .tables import arrow_file, to_arrow

if TYPE_CHECKING:
    from ..fit import Result

FORMAT = 1
"""The version of the run folder that is written; older ones are read."""

_ORIGIN = ("command", "versions", "created")  # at the top of run.json; a loaded Result has them in its settings
_NAME_TYPES = {"integer": int, "number": float, "text": str}


def save(
    result: Result,
    path: str | os.PathLike[str],
    *,
    command: Sequence[str] | str | None = None,
    image: tuple[int, int] | None = None,
) -> Path:
    """Writes the run folder: W.parquet, H.parquet, model.safetensors, history.csv and run.json.

    A run that is there is replaced as a whole: every file in its folder is deleted, those that you added too. The new
    folder appears whole or not at all, even if the process is killed. ``command`` and ``image``, the height and width of
    an image whose pixels are the rows or columns, are kept in run.json; a loaded result keeps its own, with the versions
    and the date that it was made with. Raises as ``check_target`` does, before anything is written.

    >>> import tempfile
    >>> from proxfactor import factorize
    >>> folder = save(factorize([[1.0, 2.0], [2.0, 4.0]], 1, W="nonneg"), Path(tempfile.mkdtemp(), "run"))
    >>> sorted(file.name for file in folder.iterdir())
    ['H.parquet', 'W.parquet', 'history.csv', 'model.safetensors', 'run.json']
    >>> load(folder).prox_W
    NonNegative()
    """
    check_target(path)
    with whole_folder(path) as folder:
        _write_run(folder, result, command, image)
    return Path(path)


def check_target(path: str | os.PathLike[str]) -> None:
    """Raises an OSError, with the way out, where a run folder cannot be written: other things are there, or no permission.

    >>> check_target("a-new-run")
    """
    place, name = Path(os.path.realpath(path)), shown(path)
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{name} is a file, and a folder will be written; choose another name")
    if place.is_dir() and any(place.iterdir()) and not _is_run(place):
        raise FileExistsError(f"{name} holds other things than a run, and would be replaced; choose another name, or empty it")
    above = next(p for p in place.parents if p.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{name} cannot be written: {shown(above)} is a file; choose another folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{name} cannot be written: there is no permission to write in {shown(above)}; choose another folder")


def _is_run(place: Path) -> bool:
    try:
        return "format_version" in dict(json.loads((place / "run.json").read_text("utf-8")))
    except (OSError, TypeError, ValueError, RecursionError):
        return False


# out


def _write_run(folder: Path, result: Result, command: Sequence[str] | str | None, image: Sequence[int] | None) -> None:
    import pyarrow.parquet as pq
    from safetensors.torch import save_file

    W, H = (F.detach().cpu().contiguous() for F in result.factors)
    (m, k), n = W.shape, H.shape[1]
    rows = np.arange(m) if result.rows is None else result.rows
    cols = [str(c) for c in (range(n) if result.cols is None else result.cols)]
    label = "component"
    while label in cols:
        label += "_"
    pq.write_table(to_arrow(["row", *map(str, range(1, k + 1))], [rows, *W.unbind(1)]), folder / "W.parquet")
    pq.write_table(to_arrow([label, *cols], [np.arange(1, k + 1), *H.unbind(1)]), folder / "H.parquet")
    texts, tensors = {}, {"W": W, "H": H}
    for part in ("loss", "prox_W", "prox_H", "solver"):
        texts[part], held = getattr(result, part).spell()
        tensors |= {f"{part}.{name}": t.detach().cpu().contiguous().clone() for name, t in held.items()}
    with (folder / "history.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(result.history[0]))
        table.writeheader()
        table.writerows({key: "" if value != value else value for key, value in row.items()} for row in result.history)
    run = _run_json(result, command, image) | texts | {"shape": [m, n], "rank": k}
    (folder / "run.json").write_text(json.dumps(_strict(run), indent=1, allow_nan=False, ensure_ascii=False, default=str), "utf-8")
    save_file(tensors, folder / "model.safetensors", {"format": "pt", "format_version": str(FORMAT)})
    shutil.copymode(folder / "run.json", folder / "model.safetensors")  # safetensors lets only the owner read


def _run_json(result: Result, command: Sequence[str] | str | None, image: Sequence[int] | None) -> dict[str, Any]:
    from ..metrics import residual_summary

    residual, last = result.residual, result.history[-1]
    if residual is None and result.problem is not None:
        residual = residual_summary(result.problem.X, *result.factors, result.rows, result.cols)
    return {
        "format_version": FORMAT,
        **_origin(result, command),
        "seed": result.settings.get("seed"),
        "settings": {key: value for key, value in result.settings.items() if key not in _ORIGIN},
        "status": result.status,
        "stopped": result.stopped,
        "converged": result.converged,
        "certificate": {"W": last["certificate_W"], "H": last["certificate_H"]},
        "loss_value": last["loss"],
        "error": result.error,
        "violation": result.violation,
        "seconds": last["seconds"],
        "iterations": last["iteration"],
        "names": {"rows": _name_kind(result.rows), "cols": _name_kind(result.cols)},
        "image": image or result.image,
        "residual": residual,
    }


def _origin(result: Result, command: Sequence[str] | str | None) -> dict[str, Any]:
    """The command, versions and date of a fit: those a loaded result came with, else those of now."""
    from .. import __version__

    versions = {"proxfactor": __version__, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    now = (command, versions, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    kept = result.settings if command is None else result.settings | {"command": command}
    return {key: kept.get(key, value) for key, value in zip(_ORIGIN, now, strict=True)}


def _strict(value: Any) -> Any:
    """What JSON can hold: numbers that are not finite become null, NumPy's and torch's become plain."""
    if isinstance(value, dict):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return _strict(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _name_kind(names: Any) -> str | None:
    return None if names is None else {"i": "integer", "u": "integer", "f": "number"}.get(np.asarray(names).dtype.kind, "text")


# in


def load(path: str | os.PathLike[str]) -> Result:
    """The Result that ``save`` wrote, without its data. Its settings also tell the command, versions and date it was made with.

    A plain function as a constraint is not stored, and says so when called.
    Raises FileNotFoundError where there is no folder, ValueError naming the file where something in it is missing or malformed.
    """
    from ..fit import Result
    from ..solvers import Solver

    name, folder = shown(path), existing_folder(path)
    if not folder.exists():
        raise FileNotFoundError(f"{name} does not exist; give the folder that save or `proxfactor fit` wrote")
    if not folder.is_dir():
        raise NotADirectoryError(f"{name} is a file; give the folder that save or `proxfactor fit` wrote")
    with _part(name, "run.json"):
        run = json.loads((folder / "run.json").read_text("utf-8"))
        if run["format_version"] > FORMAT:
            raise ValueError(f"it has format {run['format_version']}, this version reads up to {FORMAT}: update proxfactor")
        (m, n), k = run["shape"], run["rank"]
    with _part(name, "model.safetensors"):
        tensors = _tensors(folder / "model.safetensors", (m, k), (k, n))
    with _part(name, "history.csv"):
        history = _history(folder / "history.csv", run["iterations"])
    with _part(name, "W.parquet"):
        rows = _stored_names(folder / "W.parquet", (m, k), run["names"]["rows"])
    with _part(name, "H.parquet"):
        cols = _stored_names(folder / "H.parquet", (k, n), run["names"]["cols"])
    with _part(name, "run.json"):
        return Result(
            factors=(tensors["W"], tensors["H"]),
            loss=_loss(run["loss"], _held(tensors, "loss")),
            prox_W=_operator(run["prox_W"], _held(tensors, "prox_W")),
            prox_H=_operator(run["prox_H"], _held(tensors, "prox_H")),
            solver=Solver.parse(run["solver"], _held(tensors, "solver")),
            history=history,
            stopped=str(run["stopped"]),
            status=str(run["status"]),
            error=_number(run["error"]),
            violation={F: _number(run["violation"][F]) for F in ("W", "H")},
            settings=dict(run["settings"]) | {key: run[key] for key in _ORIGIN if run.get(key) is not None},
            rows=rows,
            cols=cols,
            residual=run["residual"],
            image=None if run["image"] is None else (int(run["image"][0]), int(run["image"][1])),
        )


@contextlib.contextmanager
def _part(name: str, file: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{name}: there is no {file}, so it is no whole run folder; save the run again") from None
    except MemoryError:
        raise
    except Exception as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise ValueError(f"{name}: {file} cannot be used ({why}); save the run again") from None


def _tensors(file: Path, *shapes: tuple[int, int]) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(file)
    found = tuple(tensors["W"].shape), tuple(tensors["H"].shape)
    if found != shapes:
        raise ValueError(f"W is {found[0]} and H is {found[1]}, run.json says {shapes[0]} and {shapes[1]}")
    return tensors


def _history(file: Path, iterations: int) -> list[dict[str, float]]:
    text = file.read_text("utf-8")
    table = csv.DictReader(text.splitlines(), strict=True)
    rows = [{key: math.nan if value == "" else float(value) for key, value in row.items()} for row in table]
    if not text.endswith("\n") or not rows or rows[-1]["iteration"] != iterations:
        raise ValueError("it ends too early")
    for row in rows:
        row["iteration"] = int(row["iteration"])
        _ = row["seconds"], row["loss"], row["certificate_W"], row["certificate_H"]
    return rows


def _stored_names(file: Path, shape: tuple[int, int], kind: str | None) -> np.ndarray | None:
    """The row names in W.parquet, the column names in H.parquet, after a look at the shape."""
    import pyarrow.parquet as pq

    with arrow_file(file) as stream:
        table = pq.ParquetFile(stream)
        names = table.schema_arrow.names
        if (table.metadata.num_rows, len(names) - 1) != shape:
            raise ValueError(f"it is {table.metadata.num_rows} x {len(names) - 1}, run.json says {shape[0]} x {shape[1]}")
        if kind is None:
            return None
        found = table.read(columns=["row"]).column("row").to_pylist() if file.name == "W.parquet" else names[1:]
    return np.array([_NAME_TYPES[kind](v) for v in found], dtype=object if kind == "text" else None)


def _held(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}


def _operator(text: str, tensors: dict[str, Tensor]) -> Prox:
    own = re.fullmatch(r"Function\((.*)\)", text, re.DOTALL)
    return Function(_lost(own[1])) if own else Prox.parse(text, tensors)


def _loss(text: str, tensors: dict[str, Tensor]) -> Loss:
    own = re.fullmatch(r"FunctionLoss\((.*)\)", text, re.DOTALL)
    return FunctionLoss(_lost(own[1])) if own else Loss.parse(text, tensors)


def _lost(name: str) -> Any:
    def lost(*given: Tensor) -> Tensor:
        raise ValueError(f"the run was fitted with the function {name}, which no file holds; fit again with that function")

    lost.__qualname__ = name
    return lost


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
