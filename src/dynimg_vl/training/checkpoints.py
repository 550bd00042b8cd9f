"""Checkpoints that are there whole or not at all: written beside their place, moved there when complete."""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import InputError

PARTIAL = ".partial"
"""The folder inside of the output folder in which a checkpoint is written."""
COMPLETE = "complete.json"
"""The last file of a checkpoint, with the sizes of all others: against folders that were copied in part."""
_NAME = re.compile(r"checkpoint-(\d+)")

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""What a full disk raises: an OSError from Python, a RuntimeError from torch, an error of its own from safetensors."""
_WRITING = re.compile(r"writ|No space|inline_container|unexpected pos", re.IGNORECASE)


def checkpoints(folder: Path) -> list[Path]:
    """List the complete checkpoints of a run, in the order of their steps."""
    found = [
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.is_dir() and (match := _NAME.fullmatch(path.name)) and is_complete(path)
    ]
    return [path for _, path in sorted(found)]


def step_of(checkpoint: Path) -> int:
    """Give the step of a checkpoint by its name; -1 for a folder that is called otherwise."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def last_checkpoint(folder: Path) -> Path | None:
    """Give the complete checkpoint of the highest step; None where there is none."""
    found = checkpoints(folder)
    return found[-1] if found else None


def is_complete(checkpoint: Path) -> bool:
    """Tell whether a checkpoint has all of its files, in full length, and whether its weights can be opened."""
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_text())["sizes"]
        whole = all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
        return whole and all(_opens(checkpoint / name) for name in sizes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _opens(path: Path) -> bool:
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return len(list(file.keys())) >= 0
        except (SafetensorError, RuntimeError):  # the second where it is gone by now: a living run deletes old ones
            return False
    return path.suffix not in (".pt", ".pth", ".bin") or zipfile.is_zipfile(path)


def publish(partial: Path, final: Path) -> None:
    """Move a folder that was written to the end to its place; an older one there goes away only now.

    Everything is on the disk before the folder has its name: a machine that loses power does not leave an empty file
    under a good name.
    """
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    sizes = {str(path.relative_to(partial)): path.stat().st_size for path in files}
    marker = partial / COMPLETE
    marker.write_text(json.dumps({"sizes": sizes}, indent=1))
    for path in (*files, marker, partial):
        _sync(path)
    if final.exists():
        old = partial.with_name(f"{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        partial.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def discard_partial(folder: Path) -> None:
    """Delete what an interrupted run left unfinished in its output folder."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def rotate(folder: Path, keep: int | None) -> None:
    """Delete the oldest complete checkpoints until `keep` are left; None or 0 keeps all."""
    if keep:
        for path in checkpoints(folder)[:-keep]:
            # Under another name first: half of a checkpoint must not look like one.
            gone = folder / PARTIAL / f"{path.name}.gone"
            gone.parent.mkdir(exist_ok=True)
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def explained(what: str, folder: Path) -> Iterator[None]:
    """Turn a failed write into one line that says what is still there, and clear away what was half written.

    Raises:
        InputError: where writing failed.
    """
    try:
        yield
    except WRITE_ERRORS as error:
        if isinstance(error, InputError) or not _is_about_writing(error):
            raise
        discard_partial(folder)
        last = last_checkpoint(folder)
        kept = f"the run can go on from {last.name}" if last else "there is no earlier checkpoint"
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().splitlines()[0]
        free = shutil.disk_usage(folder).free if folder.exists() else 0
        raise InputError(f"cannot write {what} in {folder}: {reason} ({free / 2**30:.1f} GiB free); {kept}") from error


def _is_about_writing(error: Exception) -> bool:
    # A RuntimeError is also what a GPU without memory raises.
    return not isinstance(error, RuntimeError) or _WRITING.search(str(error)) is not None
