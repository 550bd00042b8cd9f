"""The verbs of `dynimg-vl`, and how their errors and warnings reach the user."""

import gc
import io
import os
import sys
import warnings

import click

from .. import __version__
from ..errors import InputError
from .ablate import ablate
from .ask import ask, chat
from .attend import attend
from .convert import convert
from .create import init
from .data import data
from .doctor import doctor
from .evaluate import evaluate
from .inspect import index, show
from .judge import judge
from .report import report
from .train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(version)s")
def dynimg_vl() -> None:
    """Ask questions about videos: key frames with visual prompts (DynImg)."""


for verb in (index, show, attend, ask, chat, init, convert, doctor, data, train, ablate, evaluate, judge, report):
    dynimg_vl.add_command(verb)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 a mistake in the input (one line on stderr), 130 interrupted."""
    warnings.showwarning = _print_warning
    if sys.stderr is None:  # closed, as under a daemon
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (for as long as the process lives)
    _take_any_bytes()
    code = _run(arguments)
    # At its end Python collects everything once more: 0.9 s of a 4.7 s run, after torch and transformers.
    gc.freeze()
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    stdout = sys.stdout
    try:
        code = dynimg_vl.main(arguments, prog_name="dynimg-vl", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except InputError as error:
        return _fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "dynimg-vl"
        return _fail(f"{error.format_message().rstrip('.')} (see {command} --help)")
    except click.ClickException as error:
        return _fail(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone away (a closed pager): no error of ours, and nobody to tell.
        sys.stderr.close()
        return 0
    except SystemExit:
        # click makes an exit with 1 of it, and puts a stream that swallows all in the place of stdout.
        if sys.stdout is not stdout:
            return 0
        raise
    except MemoryError:
        return _fail("out of memory; use a smaller video, model or --num-dynimgs")
    except OSError as error:
        return _fail(f"{error.strerror or error}: {error.filename or 'no file named'}")


def _take_any_bytes() -> None:
    # A file name or a typed line may not be UTF-8; what is no character is shown as \udce9, which JSON can read.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _fail(message: str) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return 2


def _print_warning(message, category, filename, lineno, file=None, line=None) -> None:
    click.echo(f"warning: {' '.join(str(message).split())}", err=True)
