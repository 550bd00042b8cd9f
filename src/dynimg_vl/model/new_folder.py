"""A folder that is there as a whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import InputError
from .foreign import one_line


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` that takes its name when everything in it is on the disk, and vanishes otherwise.

    Raises:
        InputError: where there is something at `path` already, it is an empty folder that cannot be replaced, or it
            cannot be written, for lack of room, say.
    """
    if path.is_file() or (path.exists() and any(path.iterdir())):
        raise InputError(f"{path} exists already; choose another folder, or remove it")
    real = Path(os.path.realpath(path))  # a link to an empty folder stays one
    if os.path.ismount(real) or real == Path.cwd():
        what = "the folder that you are in" if real == Path.cwd() else "a mount point"
        raise InputError(f"{path} is {what}, which cannot be replaced; name a new folder in it")
    path = real
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-unfinished-"))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place") from error
    try:
        yield partial
        for file in partial.iterdir():
            _settle(file)
        partial.chmod(0o755)  # mkdtemp makes it readable by its owner only
        if path.exists():
            path.rmdir()
        partial.rename(path)
    except (OSError, SafetensorError) as error:  # the second for a full disk, where weights are written
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"cannot write {path}: {reason}; nothing is left of it") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _settle(file: Path) -> None:
    # A power cut after the renaming must not leave a model with empty files.
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
