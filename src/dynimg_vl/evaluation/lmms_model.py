"""A DynImg model behind the chat interface of lmms-eval; imported by that harness only.

Scores from there are the harness's own: it puts questions in its own words and counts in its own way (its MVBench
leaves empty answers out), so that they are not to be mixed with those of `dynimg-vl eval`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from loguru import logger

from ..answering import Answerer
from ..errors import InputError
from ..inference.local import LocalEngine
from ..inference.requests import Request

_MAX_NEW_TOKENS = 128  # where a task does not say


class DynImgVL(lmms):
    """Answer the harness's requests in batches, greedily.

    `--model_args pretrained=FOLDER,num_workers=2,policy=auto`; without `pretrained`, the embedded model.

    Args:
        pretrained: folder or hub id of a model.
        batch_size: requests at a time.
        device: see `load_pretrained`; with several processes, each takes the GPU of its number.
        dtype: see `load_pretrained`.
        num_workers: processes that decode videos ahead.
        max_batch_size: of the harness's command line; not used.
        **selection: of `LocalEngine`: `num_dynimgs`, `policy`.

    Raises:
        InputError: where there is no such model, or an option is unknown.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        num_workers: int = 0,
        max_batch_size: int | None = None,
        **selection: Any,
    ) -> None:
        from accelerate import Accelerator

        super().__init__()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if self._world_size > 1 and self.accelerator.device.type == "cuda":
            device = str(self.accelerator.device)
        if not str(batch_size).isdecimal():
            raise InputError(
                f"batch_size must be a number, got {batch_size}; a batch that does not fit is halved anyway"
            )
        answerer = Answerer.from_pretrained(pretrained, device=device, dtype=dtype)
        self.device = answerer.model.device
        self._engine: LocalEngine | None = LocalEngine(
            answerer.model,
            answerer.processor,
            name=pretrained or "embedded",
            batch_size=int(batch_size),
            num_workers=num_workers,
            **selection,
        )

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answer each request, in their order; one whose video cannot be read is logged and answered with nothing.

        Raises:
            InputError: where a task asks for what this model does not do; not an empty answer, which would be a score.
        """
        assert self._engine is not None, "the harness has called clean() before"
        todo = []
        for number, request in enumerate(requests):
            _, doc_to_messages, gen_kwargs, doc_id, task, split = request.args
            messages = doc_to_messages(self.task_dict[task][split][doc_id])
            # The harness pads with copies of a request, so that its own ids repeat.
            todo.append(request_of(str(number), messages, gen_kwargs))
        found = {prediction.id: prediction for prediction in self._engine.predict(todo)}
        results = []
        for number, request in enumerate(requests):
            prediction = found[str(number)]
            if prediction.error:
                logger.error(f"{request.task_name} {request.doc_id}: {prediction.error}")
            text = _cut(prediction.text, _stops(request.args[2]))
            self.cache_hook.add_partial("generate_until", (request.args[0], request.args[2]), text)
            counts = TokenCounts(prediction.usage.get("prompt"), prediction.usage.get("new"))
            results.append(GenerationResult(text=text, token_counts=counts))
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuse: the chat interface asks for texts only."""
        raise NotImplementedError("dynimg_vl answers generate_until; for likelihoods: dynimg-vl eval --mode likelihood")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: an answer is one turn."""
        raise NotImplementedError("dynimg_vl answers one turn; tasks of several rounds are not supported")

    def clean(self) -> None:
        """Let go of the model."""
        self._engine = None
        super().clean()


def request_of(name: str, messages: Iterable[Any], gen_kwargs: dict[str, Any]) -> Request:
    """Turn the messages of one document into a request: a system turn and one of the user, with at most one video.

    Raises:
        InputError: where they hold anything else.
    """
    turns = ChatMessages(messages=list(messages)).messages
    system = [
        content.text for turn in turns if turn.role == "system" for content in turn.content if content.type == "text"
    ]
    contents = [content for turn in turns if turn.role == "user" for content in turn.content]
    if [turn.role for turn in turns if turn.role != "system"] != ["user"]:
        raise InputError("a question of several turns; dynimg_vl answers one")
    videos = [content for content in contents if content.type == "video"]
    if len(videos) > 1 or any(content.type not in ("video", "text") for content in contents):
        raise InputError("a question with pictures, sound or several videos; dynimg_vl takes one video file")
    clip = None
    if videos:
        if not isinstance(videos[0].url, str) or "://" in videos[0].url:
            raise InputError("a video that is no file; dynimg_vl takes the path of one")
        start, end = videos[0].start_time, videos[0].end_time
        if start is not None or end is not None:
            clip = (start, end)
    if gen_kwargs.get("do_sample") or gen_kwargs.get("temperature") or (gen_kwargs.get("num_beams") or 1) != 1:
        raise InputError("sampling or beams; dynimg_vl answers greedily")
    return Request(
        id=name,
        video=videos[0].url if videos else None,
        question="\n".join(content.text for content in contents if content.type == "text").strip(),
        system="\n".join(system) or None,
        clip=clip,
        max_new_tokens=int(gen_kwargs.get("max_new_tokens", _MAX_NEW_TOKENS)),
    )


def _stops(gen_kwargs: dict[str, Any]) -> tuple[str, ...]:
    until = gen_kwargs.get("until") or ()
    return (until,) if isinstance(until, str) else tuple(until)


def _cut(text: str, stops: Sequence[str]) -> str:
    return text[: min((text.find(stop) for stop in stops if stop and stop in text), default=len(text))]
