"""Output that outlives its reader: long work goes on when whoever reads along has gone away."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class _Lasting:
    """Hand everything on to a stream; where its reader is gone, to nobody."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._until_gone():
            return int(self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        with self._until_gone():
            self._stream.flush()

    @contextlib.contextmanager
    def _until_gone(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            # What is left in the buffer would fail again when Python ends.
            nobody = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nobody, self._stream.fileno())
            os.close(nobody)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Let what is written to stdout and stderr inside be lost where nobody reads it, instead of ending the work."""
    out, err = (None if stream is None else _Lasting(stream) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # None: closed, as under a daemon
        yield
