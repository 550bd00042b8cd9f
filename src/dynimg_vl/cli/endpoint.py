"""A model behind an OpenAI-compatible endpoint in place of one of our own: its options, and the engine they make.

`endpoint_options` goes on a verb, `split_endpoint` takes what they gave out of the verb's options, and `make_engine`
turns that into an engine. The key is read from OPENAI_API_KEY, here and nowhere else.
"""

import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .options import answers, given, require_local, stacked

if TYPE_CHECKING:
    from ..inference.endpoint import EndpointEngine
    from ..inference.requests import Prediction

# Copies of what `inference.pictures` knows, which takes numpy to import; a test compares them.
REPRESENTATIONS = ("dynimg", "frames", "grid")
EQUALS = ("pictures", "pixels")
FORMATS = ("png", "jpeg")

KEY = "OPENAI_API_KEY"

endpoint_options = stacked(
    click.option("--endpoint", metavar="URL", help="Ask a model behind an OpenAI-compatible endpoint instead."),
    click.option("--endpoint-model", metavar="NAME", help="Its name there.  [default: the only one served]"),
    click.option("--representation", type=click.Choice(REPRESENTATIONS), help="What it is shown.  [default: dynimg]"),
    click.option("--equal", type=click.Choice(EQUALS), help="What frames or a grid share with DynImgs."),
    click.option("--grid", metavar="RxC", help="Rows and columns of a grid.  [default: 3x2]"),
    click.option("--pictures", "picture_format", type=click.Choice(FORMATS), help="How they are sent.  [default: png]"),
    click.option("--quality", type=click.IntRange(1, 100), help="Of jpeg.  [default: 90]"),
    click.option("--temperature", type=click.FloatRange(0, 2), help="Of its sampling.  [default: 0]"),
    click.option("--concurrency", type=click.IntRange(1, 256), help="Requests at a time.  [default: 4]"),
    click.option("--timeout", type=click.FloatRange(0.1), help="Seconds for one request.  [default: 120]"),
    click.option("--retries", type=click.IntRange(0), help="How often a request is repeated."),
    click.option("--price", metavar="IN/OUT", help="US dollars for a million prompt and new tokens, as in 0.5/1.5."),
)

_NAMES = (
    "endpoint", "endpoint_model", "representation", "equal", "grid", "picture_format", "quality", "temperature",
    "concurrency", "timeout", "retries", "price",
)  # fmt: skip
OF_OWN_MODELS = ("model", "device", "dtype", "quantize")


def split_endpoint(options: dict[str, Any]) -> dict[str, Any] | None:
    """Take the options of an endpoint out of a verb's `options`; None where no endpoint is asked for.

    Raises:
        InputError: where some are given without an endpoint, or with one's own model beside it.
    """
    taken = {name: options.pop(name) for name in _NAMES if name in options}
    if taken.get("endpoint") is None:
        for name, value in taken.items():
            if value is not None:
                option = "pictures" if name == "picture_format" else name.replace("_", "-")
                raise InputError(f"--{option} is for a model behind an endpoint; name one with --endpoint URL")
        return None
    for name in OF_OWN_MODELS:
        if options.get(name) is not None:
            raise InputError(f"--{name} is for models of this machine; leave it or --endpoint out")
    return taken


def make_engine(
    endpoint: str,
    endpoint_model: str | None = None,
    *,
    representation: str | None = None,
    equal: str | None = None,
    grid: str | None = None,
    timeout: float | None = None,
    retries: int | None = None,
    price: str | None = None,
    num_dynimgs: int | None = None,
    num_prompts: int | None = None,
    **options: Any,
) -> "EndpointEngine":
    """Make the engine that answers behind an endpoint, from the options of a verb; None stands for a default.

    Args:
        endpoint: address; without a path, /v1 is added.
        endpoint_model: None takes the only model that it serves.
        representation: of `inference.pictures.Representation`, as `equal` and `grid` ("3x2") are.
        equal: see `representation`.
        grid: see `representation`.
        timeout: seconds for one request.
        retries: how often a request is repeated.
        price: as `Price.parse` reads it.
        num_dynimgs: the budget, in DynImgs.
        num_prompts: prompt frames of each.
        **options: other keyword arguments of `EndpointEngine`.

    Raises:
        InputError: where one does not fit, or the endpoint must be asked for its model and does not answer.
    """
    from ..inference.chat_client import NO_KEY, ChatClient, Patience
    from ..inference.endpoint import EndpointEngine, Price
    from ..inference.pictures import Representation
    from ..layout import DynImgLayout

    rows, columns = (None, None) if grid is None else _grid_of(grid)
    if (rows is not None and representation != "grid") or (equal is not None and representation in (None, "dynimg")):
        option, fitting = ("--grid", "grid") if rows is not None else ("--equal", "frames or grid")
        raise InputError(f"{option} needs --representation {fitting}")
    shown = Representation(
        **given(kind=representation, equal=equal, rows=rows, columns=columns, num_dynimgs=num_dynimgs),
        layout=DynImgLayout(**given(num_prompt_frames=num_prompts)),
    )
    paid = None if price is None else Price.parse(price)
    patience = Patience(**given(attempts=None if retries is None else retries + 1), timeout_seconds=timeout or 120.0)
    key = os.environ.get(KEY, "").strip() or NO_KEY
    client = ChatClient(endpoint_model or "", key, _address(endpoint), patience)
    engine = EndpointEngine(client, shown, price=paid, **given(**options))
    client.model = client.model or _only_model(client)
    return engine


def ask_endpoint(
    video: str, questions: Sequence[str], endpoint: dict[str, Any], *, max_new_tokens: int, stream: bool, as_json: bool,
    start: float | None, end: float | None, **selection: Any,
) -> None:  # fmt: skip
    """Answer questions about a video by a model behind an endpoint, and print the answers.

    Raises:
        InputError: where a question got no answer; those before it are printed, also as JSON.
    """
    from ..inference.requests import Request

    require_local(video)
    if stream and as_json:
        raise InputError("--stream prints words as they come; leave it or --json out")
    clip = None if start is None and end is None else (start, end)
    # Somebody is waiting: give up after some seconds, where a run of hours would go on trying.
    engine = make_engine(**{**endpoint, "retries": endpoint["retries"] if endpoint["retries"] is not None else 2},
                         **selection, clip=clip)  # fmt: skip
    requests = [
        Request(str(number), video, question, max_new_tokens=max_new_tokens)
        for number, question in enumerate(questions)
    ]
    predictions = engine.stream(requests, _print_piece) if stream else _in_order(engine.predict(requests))
    with answers(video, questions, as_json) as results:
        for question, prediction in zip(questions, predictions, strict=True):
            if prediction.error is not None:
                raise InputError(prediction.error)
            if not as_json:
                click.echo("" if stream else prediction.text)  # what was streamed has no line end yet
            results.append(_result(video, question, prediction, engine))


def _in_order(predictions: "Iterator[Prediction]") -> "Iterator[Prediction]":
    """Give predictions in the order of their numbered requests, each as soon as those before it are there."""
    waiting: dict[str, Prediction] = {}
    number = 0
    for prediction in predictions:
        waiting[prediction.id] = prediction
        while str(number) in waiting:
            yield waiting.pop(str(number))
            number += 1


def _print_piece(piece: str) -> None:
    click.echo(piece, nl=False)


def _result(video: str, question: str, prediction: "Prediction", engine: "EndpointEngine") -> dict[str, Any]:
    return {
        "video": video,
        "question": question,
        "answer": prediction.text,
        "model": engine.client.model,
        "endpoint": engine.client.endpoint,
        "usage": dict(prediction.usage),
        "cost_usd": prediction.cost,
        **prediction.frames,
        "seconds": dict(prediction.seconds),
    }


def _address(endpoint: str) -> str:
    """Complete an address, or refuse it."""
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", endpoint):
        raise InputError(f"{endpoint!r} is no address of an endpoint; give one such as http://localhost:8000/v1")
    bare = endpoint.rstrip("/")
    return f"{bare}/v1" if bare.count("/") == 2 else bare


def _grid_of(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if found is None:
        raise InputError(f"--grid {text}: give rows and columns, as in 3x2")
    return int(found[1]), int(found[2])


def _only_model(client: Any) -> str:
    from ..inference.chat_client import ChatError

    try:
        names = client.models()
    except ChatError as error:
        raise InputError(f"{error}; check the address, or name a model with --endpoint-model") from error
    if len(names) != 1:
        listed = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
        raise InputError(f"{client.endpoint} serves {listed or 'no model'}; name one with --endpoint-model")
    return names[0]
