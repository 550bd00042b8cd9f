"""Answer many requests with a model in this process: in batches, while the next videos are decoded."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..answering import check_words
from ..errors import InputError
from ..model.foreign import reading
from ..model.generation import GREEDY
from ..model.video_processing_dynimg import LOADING
from .ahead import Look, LookAhead
from .identity import digest_of_settings, digest_of_weights, versions
from .likelihood import score_choices
from .requests import Prediction, Request

if TYPE_CHECKING:
    from ..model import DynImgForConditionalGeneration, DynImgProcessor


@dataclass(frozen=True, eq=False)
class Prompt:
    """Hold a request as the model takes it: token ids up to where its answer begins, and the pixels of its video.

    `answer_ids` are what the answer has to begin with; where choices are compared, there is one list for each choice.
    """

    request: Request
    look: Look | None
    ids: list[int]
    answer_ids: tuple[list[int], ...]
    num_visual: int

    @property
    def longest(self) -> int:
        """Count the tokens of the prompt with its longest beginning of an answer."""
        return len(self.ids) + max(map(len, self.answer_ids))


class LocalEngine:
    """Answer requests with a model of this process, greedily.

    In float32 an answer does not depend on the other requests of its batch. With 16 bits, padding moves logits by
    rounding, and a near-tie between two words may end the other way.

    Args:
        model: ready to answer, see `load_pretrained`.
        processor: that of the model.
        name: what `describe` calls the model.
        batch_size: requests at a time; halved for the rest of the engine's life where memory runs out.
        num_workers: processes that decode videos ahead; 0 decodes in between, in this process.
        **selection: `num_dynimgs`, `policy`, `max_pixels`, `max_frames`, and `clip` and `fps` for requests without.

    Raises:
        InputError: where an option is unknown or out of range.
    """

    def __init__(
        self,
        model: "DynImgForConditionalGeneration",
        processor: "DynImgProcessor",
        *,
        name: str = "",
        batch_size: int = 8,
        num_workers: int = 0,
        **selection: Any,
    ) -> None:
        if batch_size < 1 or num_workers < 0:
            raise InputError(f"batch_size must be at least 1 and num_workers 0, got {batch_size} and {num_workers}")
        self.model: Any = model  # transformers types `generate` for its own classes only
        self.processor: Any = processor
        self.name = name
        self.batch_size = batch_size
        self.num_workers = num_workers
        self._loading = processor.video_processor.loading_options(**selection)

    def describe(self) -> dict[str, Any]:
        """Tell what answers and how frames are chosen; batch size and workers change nothing and are left out."""
        selection = {name: self._loading[name] for name in (*LOADING, "clip", "fps") if name in self._loading}
        return {
            "kind": "local",
            "model": self.name,
            **self._digests,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "layout": {
                "num_prompt_frames": self._loading["layout"].num_prompt_frames,
                "image_size": self._loading["layout"].image_size,
                "tokens_per_dynimg": self._loading["layout"].tokens_per_dynimg,
                "prompt_stage": self.model.config.prompt_stage,
            },
            "selection": selection,
            "versions": versions(),
        }

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {
            "weights_sha256": digest_of_weights(self.model),
            "settings_sha256": digest_of_settings(self.model, self.processor),
        }

    def predict(self, requests: Iterable[Request]) -> Iterator[Prediction]:
        """Answer each request; what goes wrong with one becomes its prediction's `error`.

        Batches are formed in the order of the requests.
        """
        with LookAhead(self._loading, num_workers=self.num_workers, ahead=2 * self.batch_size) as ahead:
            batch: list[Prompt] = []
            for request, look in ahead.look(requests):
                try:
                    batch.append(self._prepare(request, look))
                except InputError as error:
                    yield Prediction(request.id, "", error=str(error), seconds=_video_seconds(look))
                if len(batch) >= self.batch_size:
                    yield from self._answer(batch)
                    batch = []
            if batch:
                yield from self._answer(batch)

    def _prepare(self, request: Request, look: Look | None) -> Prompt:
        if look is not None and look.error:
            raise InputError(look.error)
        self._check(request)
        content = [{"type": "text", "text": request.question}]
        if look is not None:
            content.insert(0, {"type": "video"})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": request.system}]})
        tokenizer = self.processor.tokenizer
        with reading("the chat cannot be turned into tokens"):
            text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            if text.count(self.processor.video_token) != (look is not None):
                raise InputError(
                    f"the question holds {self.processor.video_token}, which stands for a video; leave it out"
                )
            num_visual = 0
            if look is not None and look.pixels is not None:
                num_visual = self.processor.video_processor.tokens_of_video(len(look.pixels))
                text = text.replace(self.processor.video_token, self.processor.video_token * num_visual)
            # A template that writes the token of the beginning itself must not get a second one.
            begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
            ids = tokenizer(text, add_special_tokens=not begun)["input_ids"]
            answers = [request.prefix + choice for choice in request.choices] or [request.prefix]
            answer_ids = tuple(tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers)
        prompt = Prompt(request, look, ids, answer_ids, num_visual)
        reads = self.model.config.text_config.max_position_embeddings
        if prompt.longest > reads:
            raise InputError(f"video and question are {prompt.longest} tokens long, the model reads {reads}; ask less")
        return prompt

    def _check(self, request: Request) -> None:
        tokenizer = self.processor.tokenizer
        check_words(tokenizer, request.question)
        for what, words in (("system turn", request.system), ("beginning of the answer", request.prefix or None)):
            if words is not None:
                check_words(tokenizer, words, what)
        for choice in request.choices:
            check_words(tokenizer, choice, "choice")
        if request.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, got {request.max_new_tokens}")

    def _answer(self, prompts: list[Prompt]) -> Iterator[Prediction]:
        """Answer a batch in their order; where memory runs out, in halves."""
        started = perf_counter()
        try:
            predictions = self._answer_at_once(prompts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            predictions = None  # and not here: the exception holds on to the memory of the batch
        if predictions is not None:
            share = (perf_counter() - started) / len(prompts)
            for prompt, prediction in zip(prompts, predictions, strict=True):
                yield _timed(prediction, prompt.look, share)
            return
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(prompts) == 1:
            error_text = "out of memory; use a smaller model, dtype or num_dynimgs"
            yield Prediction(prompts[0].request.id, "", error=error_text, seconds=_video_seconds(prompts[0].look))
            return
        half = len(prompts) // 2
        self.batch_size = min(self.batch_size, len(prompts) - half)
        yield from self._answer(prompts[:half])
        yield from self._answer(prompts[half:])

    def _answer_at_once(self, prompts: list[Prompt]) -> list[Prediction]:
        results: dict[int, Prediction] = {}
        for answer, chooses in ((self._generate, False), (self._choose, True)):
            places = [place for place, prompt in enumerate(prompts) if bool(prompt.request.choices) == chooses]
            if places:
                results.update(zip(places, answer([prompts[place] for place in places]), strict=True))
        return [results[place] for place in range(len(prompts))]

    def _generate(self, prompts: list[Prompt]) -> list[Prediction]:
        inputs = self._inputs([prompt.ids + prompt.answer_ids[0] for prompt in prompts], prompts)
        longest = max(prompt.request.max_new_tokens for prompt in prompts)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=longest, **GREEDY)
        ends = self.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list | tuple) else {ends}
        rows = tokens[:, inputs["input_ids"].shape[1] :].tolist()
        predictions = []
        for prompt, row in zip(prompts, rows, strict=True):
            # Greedily, a shorter answer is the beginning of a longer one.
            row = row[: prompt.request.max_new_tokens]
            row = row[: next((rank + 1 for rank, token in enumerate(row) if token in ends), len(row))]
            text = self.processor.tokenizer.decode(row, skip_special_tokens=True).strip()
            predictions.append(self._prediction(prompt, text, len(row)))
        return predictions

    def _choose(self, prompts: list[Prompt]) -> list[Prediction]:
        inputs = self._inputs([prompt.ids for prompt in prompts], prompts)
        with torch.inference_mode():
            scores = score_choices(self.model, inputs, [prompt.answer_ids for prompt in prompts])
        predictions = []
        for prompt, row in zip(prompts, scores, strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            chosen = {"choice": best, "scores": tuple(row)}
            predictions.append(self._prediction(prompt, prompt.request.choices[best], 0, **chosen))
        return predictions

    def _inputs(self, rows: list[list[int]], prompts: list[Prompt]) -> dict[str, Tensor]:
        """Join prompts into the inputs of the model, padded on the left."""
        device, length = self.model.device, max(map(len, rows))
        padding = self.processor.tokenizer.pad_token_id or 0
        inputs = {
            "input_ids": torch.tensor([[padding] * (length - len(row)) + row for row in rows], device=device),
            "attention_mask": torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=device),
        }
        videos = [
            prompt.look.pixels for prompt in prompts if prompt.look is not None and prompt.look.pixels is not None
        ]
        if videos:
            # Normalised where the model is: a quarter of the bytes to move, and no work for the CPU beside a GPU.
            pixels = torch.as_tensor(np.concatenate(videos)).to(device)
            inputs["pixel_values_videos"] = self.processor.video_processor.normalise(pixels).to(self.model.dtype)
            inputs["dynimgs_per_video"] = torch.tensor([len(video) for video in videos], device=device)
        return inputs

    def _prediction(self, prompt: Prompt, text: str, num_new: int, **chosen: Any) -> Prediction:
        num_prompt = len(prompt.ids) + (0 if prompt.request.choices else len(prompt.answer_ids[0]))
        usage = {"visual": prompt.num_visual, "prompt": num_prompt, "new": num_new}
        frames: Mapping[str, Any] = prompt.look.frames if prompt.look is not None else {}
        return Prediction(prompt.request.id, text, usage=usage, frames=frames, **chosen)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception says that memory has run out, on a GPU or here."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error)
    return any(
        words in said for words in ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    )


def _video_seconds(look: Look | None) -> dict[str, float]:
    return {} if look is None else {"video": round(look.seconds, 4)}


def _timed(prediction: Prediction, look: Look | None, seconds: float) -> Prediction:
    return replace(prediction, seconds={**_video_seconds(look), "answer": round(seconds, 4)})
