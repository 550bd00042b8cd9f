"""Options that several verbs share, and small helpers around stdout and files."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import InputError
from ..text_formats import finite

Verb = TypeVar("Verb", bound=Callable[..., Any])

# A copy of `video.selection.POLICIES`, which takes numpy to import; a test compares the two.
POLICIES = ("auto", "iframe", "gop_head", "gop12")

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
num_dynimgs_option = click.option("--num-dynimgs", type=int, help="DynImgs per video.")
num_prompts_option = click.option("--num-prompts", type=int, help="Prompt frames per DynImg: 0, 1, 2, 4, 6 or 12.")
policy_option = click.option("--policy", type=click.Choice(POLICIES), help="Which frames may be chosen.")
dtype_option = click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Type of the weights."
)


def stacked(*options: Callable[[Verb], Verb]) -> Callable[[Verb], Verb]:
    """Join several option decorators into one, listed in the help in the order given."""

    def decorate(verb: Verb) -> Verb:
        for option in reversed(options):
            verb = option(verb)
        return verb

    return decorate


reading_options = stacked(
    click.option("--fps", type=float, help="Frames per second, where VIDEO is a folder of frames."),
    click.option("--max-pixels", type=int, help="Refuse a video whose frames have more pixels than this."),
    click.option("--max-frames", type=int, help="Refuse a video with more frames than this."),
)
source_options = stacked(click.argument("video"), reading_options)

selection_options = stacked(
    num_dynimgs_option,
    num_prompts_option,
    policy_option,
    click.option("--start", type=float, metavar="SECONDS", help="Use the video from here on."),
    click.option("--end", type=float, metavar="SECONDS", help="Use the video up to here."),
)

model_options = stacked(
    click.option("-m", "--model", help="Folder or hub id of a model; without it, the embedded one."),
    click.option("--device", help="cpu, cuda, cuda:1, mps, auto; without it, the best one there is."),
    dtype_option,
    click.option(
        "--quantize", type=click.Choice(["8bit", "4bit"]), help="Bits of the language model's weights (bitsandbytes)."
    ),
    click.option("--max-new-tokens", type=click.IntRange(1), default=64, show_default=True, help="Longest answer."),
)


def require_local(video: str) -> None:
    """Make sure that a video exists here, before anything heavy is imported: the commonest mistake is a wrong name.

    Raises:
        InputError: where it does not, or where it is an address, which the command line never opens.
    """
    if "://" in video:
        raise InputError(f"{video} is an address, and those are not opened; download the video and give its path")
    if not video or not Path(video).exists():
        raise InputError(f"no such file: {video or '(an empty name)'}; check the path")


def counted(number: int, thing: str) -> str:
    """Put a number before a noun: 1 frame, 2 frames."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def given(**options: Any) -> dict[str, Any]:
    """Keep the options that the user gave, so that the library's own defaults hold for the rest."""
    return {name: value for name, value in options.items() if value is not None}


def selection_of(start: float | None, end: float | None, **options: Any) -> dict[str, Any]:
    """Turn the options of a verb into keyword arguments of the library: --start and --end are one `clip`."""
    clip = None if start is None and end is None else (start, end)
    return given(clip=clip, **options)


def emit_json(result: Any) -> None:
    """Print a result as JSON on stdout; numbers that JSON has not are null."""
    click.echo(json.dumps(finite(result), indent=2, ensure_ascii=False))


@contextmanager
def answers(video: str, questions: Sequence[str], as_json: bool) -> Iterator[list[dict[str, Any]]]:
    """Give a list for the results of questions, and print it as JSON in the end, as far as it has come.

    Where a question is refused, what came before is not lost: it is printed with the error behind it.
    """
    results: list[dict[str, Any]] = []
    try:
        yield results
    except (InputError, KeyboardInterrupt) as error:
        if as_json and results:
            failed = {"video": video, "question": questions[len(results)], "error": str(error) or "interrupted"}
            emit_json([*results, failed])
        raise
    if as_json:
        emit_json(results[0] if len(results) == 1 else results)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place on success and vanishes on failure.

    Raises:
        InputError: where the folder does not exist or cannot be written, or the disk is full.
    """
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder that exists") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes it readable by its owner only
        temporary.replace(path)
    except OSError as error:
        # The error of a write names no file; any other is about something that was read meanwhile.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise InputError(f"cannot write {path}: {error.strerror}; make room, or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)
