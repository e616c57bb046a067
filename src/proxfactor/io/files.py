"""Files as such: their names in messages, and files and folders that appear whole or not at all, even if the process is killed.

What is written stands beside its place under a hidden name, ".<name>.<process id>.tmp", until it is on the disk, and then
takes the place in one rename. A folder that is replaced is called ".old" between two renames; the next write repairs what a
killed process left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Writes a file that appears whole or not at all, in a folder that is made if need be; what was there is replaced.

    >>> import tempfile
    >>> write_atomically(Path(tempfile.mkdtemp(), "new", "note.txt"), "done").read_text()
    'done'
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    place = Path(os.path.realpath(path))
    if place.is_dir():
        raise IsADirectoryError(f"{shown(path)} is a folder; name a file in it")
    if Path(path).exists() and not place.is_file():  # a pipe or a device, such as /dev/stdout, is written to, not replaced
        Path(path).write_bytes(data)
        return Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = _beside(place, "tmp")
    try:
        fresh.write_bytes(data)
        _sync(fresh)
        fresh.replace(place)
        _sync(place.parent)
    finally:
        fresh.unlink(missing_ok=True)
    return Path(path)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of ``path`` at the end of the block; what was there is deleted."""
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    _settle(place)
    fresh = _beside(place, "tmp")
    fresh.mkdir()
    try:
        yield fresh
        for file in fresh.iterdir():
            _sync(file)
        _sync(fresh)
        if place.exists():
            place.rename(_beside(place, "old"))
        fresh.rename(place)
        _sync(place.parent)
    finally:
        _settle(place)


def existing_folder(path: str | os.PathLike[str]) -> Path:
    """The real place of a folder: beside ``path`` if a write was killed, or is just now, between its two renames."""
    place = Path(os.path.realpath(path))
    if not place.exists() and place.parent.is_dir():
        return next((file for file, _ in _leftovers(place, "old")), place)
    return place


def _beside(place: Path, what: str) -> Path:
    return place.with_name(f".{place.name}.{os.getpid()}.{what}")


def _leftovers(place: Path, what: str) -> list[tuple[Path, int]]:
    """What processes keep beside a place, with their ids."""
    named = re.compile(rf"\.{re.escape(place.name)}\.(\d+)\.{what}")
    return [(file, int(found[1])) for file in place.parent.iterdir() if (found := named.fullmatch(file.name))]


def _settle(place: Path) -> None:
    """Ends what this process or a killed one began: a folder that was only moved aside comes back, the rest is deleted."""
    for what in ("tmp", "old"):
        for file, pid in _leftovers(place, what):
            if pid != os.getpid() and _alive(pid):
                continue
            if what == "old":
                if not place.exists():
                    file.rename(place)
                    continue
                file = file.rename(file.with_suffix(".tmp"))  # what is half deleted must never come back
            if file.is_dir():
                shutil.rmtree(file, ignore_errors=True)
            else:
                file.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _sync(path: Path) -> None:
    """Waits until a file or a folder's list of files is on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# in messages


def shown(path: str | os.PathLike[str]) -> str:
    text = os.fsdecode(path)
    return text if text.isprintable() else repr(text)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


@contextlib.contextmanager
def reading(kind: str) -> Iterator[None]:
    """Whatever a reader of others' raises over malformed bytes becomes one sentence."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        why = first_line(error)
        raise ValueError(f"is no readable {kind} ({why}); it may be damaged or cut short: write it or fetch it again") from None
