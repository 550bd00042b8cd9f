"""`ask` and `chat`: questions about a video."""

import gc
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .batch import ask_batch, batch_options, split_batch
from .endpoint import OF_OWN_MODELS, ask_endpoint, endpoint_options, split_endpoint
from .options import (
    answers,
    json_option,
    model_options,
    reading_options,
    require_local,
    selection_of,
    selection_options,
    source_options,
)

if TYPE_CHECKING:
    from ..answering import Answerer
    from ..loading import DynImgs


@click.command()
@click.argument("video", required=False)
@click.argument("questions", metavar="QUESTION...", nargs=-1)
@batch_options
@reading_options
@model_options
@selection_options
@endpoint_options
@click.option("--stream", is_flag=True, help="Print an endpoint's answer word by word, as it comes.")
@json_option
@click.pass_context
def ask(
    context: click.Context,
    video: str | None,
    questions: tuple[str, ...],
    as_json: bool,
    max_new_tokens: int,
    stream: bool,
    **options: Any,
) -> None:
    """Answer one or more QUESTIONs about VIDEO (a file, or a folder of frames); each stands alone.

    With --batch, answer a file of them into predictions.jsonl. Stopped and started again, it goes on where it was;
    under `accelerate launch` or `torchrun` the processes share the work. Exits with 1 where some have no answer.
    """
    batch = split_batch(options, video, questions)
    if not all(question.strip() for question in questions):
        raise InputError("the question is empty; ask something, for example: Which way does the object move?")
    endpoint = split_endpoint(options)
    if batch is not None:
        if stream:
            raise InputError("--stream is for one video; leave it or --batch out")
        context.exit(ask_batch(batch, endpoint, max_new_tokens=max_new_tokens, as_json=as_json, **options))
    assert video is not None  # split_batch has seen to it
    if endpoint is not None:
        own = {name: value for name, value in options.items() if name not in OF_OWN_MODELS}
        ask_endpoint(video, questions, endpoint, max_new_tokens=max_new_tokens, stream=stream, as_json=as_json, **own)
        return
    if stream:
        raise InputError("--stream is for a model behind an endpoint; name one with --endpoint URL")
    answerer, dynimgs, seconds = _look(video, **options)
    with answers(video, questions, as_json) as results:
        for question in questions:
            reply = answerer.start(dynimgs).ask(question, max_new_tokens=max_new_tokens)
            if not as_json:
                click.echo(reply.text)
            results.append(
                {
                    "video": video,
                    "question": question,
                    "answer": reply.text,
                    "model": _name_of(options["model"]),
                    "num_visual_tokens": reply.num_visual_tokens,
                    "num_new_tokens": reply.num_new_tokens,
                    **dynimgs.describe(),
                    "seconds": {**seconds, "answer": round(reply.seconds, 4)},
                }
            )


@click.command()
@source_options
@model_options
@selection_options
@json_option
def chat(video: str, as_json: bool, max_new_tokens: int, **options: Any) -> None:
    """Talk about VIDEO: one question a line, each sees the turns before it; an empty line ends.

    A question that is refused is named on stderr, and the talk goes on.

    With --json, each answer is one JSON object on a line of its own.
    """
    answerer, dynimgs, _ = _look(video, **options)
    conversation = answerer.start(dynimgs)
    for question in _questions():
        try:
            reply = conversation.ask(question, max_new_tokens=max_new_tokens)
        except InputError as error:
            click.echo(f"error: {error}", err=True)
            continue
        if as_json:
            turn = {"question": question, "answer": reply.text, "num_new_tokens": reply.num_new_tokens}
            click.echo(json.dumps({**turn, "seconds": round(reply.seconds, 4)}, ensure_ascii=False))
        else:
            click.echo(reply.text)


def _questions():
    """Yield the lines of standard input up to an empty one, with a prompt where a person types."""
    while True:
        if sys.stdin is None:  # closed, as under a daemon
            return
        if sys.stdin.isatty():
            click.echo("> ", nl=False, err=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


def _look(
    video: str,
    model: str | None,
    device: str | None,
    dtype: str | None,
    quantize: str | None,
    num_prompts: int | None,
    **options: Any,
) -> "tuple[Answerer, DynImgs, dict[str, float]]":
    """Load the model and the video; returns both and the seconds that each took."""
    started = time.perf_counter()
    require_local(video)
    with _collector_paused():
        from .local import load_answerer

        answerer = load_answerer(model, device=device, dtype=dtype, quantize=quantize, num_prompt_frames=num_prompts)
    loaded = time.perf_counter()
    dynimgs = answerer.look(video, **selection_of(**options))
    seen = time.perf_counter()
    return answerer, dynimgs, {"model": round(loaded - started, 4), "video": round(seen - loaded, 4)}


@contextmanager
def _collector_paused() -> Iterator[None]:
    # Imports make hundreds of thousands of objects that stay; looking for garbage among them takes a tenth of the time.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _name_of(model: str | None) -> str:
    return "embedded" if model is None else model
