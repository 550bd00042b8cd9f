"""What a batch of questions is made of, whoever answers it: requests in, predictions out, one to one."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """Hold one question about one video.

    Args:
        id: unique within a run; predictions carry it.
        video: path of a file or of a folder of frames; None for a question without a video.
        question: the user's whole turn, as it is put to the model.
        system: the words of a system turn; None for none.
        prefix: what the answer has to begin with (MVBench's "Best option: ("); not part of the prediction's text.
        clip: first and last second to look at, None for an end that is that of the video; None for the whole video.
        fps: frames per second of a folder of frames; None for the default.
        choices: complete answers whose likelihoods are compared, instead of generating; empty to generate.
        max_new_tokens: at most so many are generated.
    """

    id: str
    video: str | None
    question: str
    system: str | None = None
    prefix: str = ""
    clip: tuple[float | None, float | None] | None = None
    fps: float | None = None
    choices: tuple[str, ...] = ()
    max_new_tokens: int = 64


@dataclass(frozen=True)
class Prediction:
    """Hold what came back for one request: a text, or the reason why there is none.

    Args:
        id: of the request.
        text: the raw answer; "" where there is an error.
        error: one line; None where all went well.
        choice: the index of the likeliest of the request's choices; None where it had none.
        scores: one log-likelihood (sum over tokens) for each choice.
        usage: token counts: `visual`, `prompt`, `new`.
        seconds: what it took: `video`, `answer` (its share of a batch).
        frames: what was looked at, as `DynImgs.describe` tells it, or the like.
        cost: in US dollars, where a price is known.
    """

    id: str
    text: str
    error: str | None = None
    choice: int | None = None
    scores: tuple[float, ...] = ()
    usage: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    frames: Mapping[str, Any] = field(default_factory=dict)
    cost: float | None = None


class Engine(Protocol):
    """Answer requests: the model of this process, or one behind an endpoint."""

    def describe(self) -> dict[str, Any]:
        """Tell what answers, as plain JSON values: kind, model and its hash, how frames are chosen, versions."""
        ...

    def predict(self, requests: Iterable[Request]) -> Iterator[Prediction]:
        """Answer each request, in any order; what goes wrong with one becomes its prediction's `error`."""
        ...
