"""From the messages of a sample to token ids and labels: loss on the words of the assistant and their end token.

One pass over the text: the template of the processor marks what the assistant says. Each <|video_pad|> becomes a run of
K per DynImg after tokenising, where it is a single token whatever stands around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.utils.chat_template_utils import render_jinja_template

from ...model.chat_template import VIDEO_TOKEN
from ...model.processing_dynimg import DynImgProcessor
from .annotations import Message, Sample

NO_LOSS = -100

_render: Any = render_jinja_template  # gives texts and spans; annotated there as a text


class SampleError(Exception):
    """Report a sample that cannot be trained on; `reason` is one of `sample_status.REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class ChatTokens:
    """Hold `input_ids` and `labels` (L,), how many videos they show, and how many turns were cut off."""

    input_ids: Tensor
    labels: Tensor
    num_videos: int
    num_turns_cut: int


class ChatTokenizer:
    """Tokenise samples as the processor does, with labels; placeholders for `num_dynimgs` DynImgs per video.

    Args:
        processor: of the model.
        num_dynimgs: DynImgs per video; None is the processor's own number.
        max_length: tokens of the longest sample, visual ones included; longer ones are cut behind a turn.
    """

    def __init__(self, processor: DynImgProcessor, num_dynimgs: int | None = None, max_length: int = 2048) -> None:
        self._processor = processor
        self.max_length = max_length
        num_dynimgs = num_dynimgs or processor.video_processor.num_dynimgs
        self.tokens_per_video = int(processor.video_processor.tokens_of_video(num_dynimgs))
        # What the tokenizer would read as structure if it stood in somebody's answer.
        added = processor.tokenizer.added_tokens_decoder.values()
        self._special = [VIDEO_TOKEN, *(token.content for token in added if token.special)]

    def __call__(self, sample: Sample) -> ChatTokens:
        """Tokenise one sample.

        Raises:
            SampleError: where an answer is empty, a text holds a special token, or not even the first turn fits.
        """
        self._check(sample)
        messages = list(sample.messages)
        ends = [number + 1 for number, message in enumerate(messages) if message["role"] == "assistant"]
        for num_cut, end in enumerate(reversed(ends)):
            kept = messages[:end]
            ids, labels = self._encode(kept)
            if len(ids) <= self.max_length:
                return ChatTokens(torch.tensor(ids), torch.tensor(labels), _num_videos(kept), num_cut)
        raise SampleError(
            "too_long", f"{sample.place}: the first turn has {len(ids)} tokens, over the {self.max_length} of a sample"
        )

    def approximate_length(self, sample: Sample) -> int:
        """Estimate the number of tokens without tokenising, 4 characters each; for batches of like length."""
        length = len(sample.clips) * self.tokens_per_video + len(sample.text_of()) // 4 + 6 * len(sample.messages)
        return min(length, self.max_length)

    def _check(self, sample: Sample) -> None:
        for message in sample.messages:
            said = "".join(part["text"] for part in message["content"] if part["type"] == "text")
            if message["role"] == "assistant" and not said.strip():
                raise SampleError("empty_answer", f"{sample.place}: an answer has no words")
            found = [token for token in self._special if token in said]
            if found:
                raise SampleError("special_token", f"{sample.place}: a text holds the special token {found[0]}")

    def _encode(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        template: Any = self._processor.chat_template
        rendered, spans = _render([list(messages)], chat_template=template, return_assistant_tokens_mask=True)
        tokenizer: Any = self._processor.tokenizer
        encoded = tokenizer(rendered[0], add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = []
        labels: list[int] = []
        remaining = list(spans[0])
        for token_id, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if token_id == self._processor.video_token_id:
                ids += [token_id] * self.tokens_per_video
                labels += [NO_LOSS] * self.tokens_per_video
                continue
            while remaining and remaining[0][1] <= start:
                remaining.pop(0)
            is_said = bool(remaining) and start < remaining[0][1] and end > remaining[0][0]
            ids.append(token_id)
            labels.append(token_id if is_said else NO_LOSS)
        labels[:1] = [NO_LOSS]  # nothing comes before the first token; in a packed row, another sample would
        return ids, labels


def _num_videos(messages: Sequence[Message]) -> int:
    return sum(part["type"] == "video" for message in messages for part in message["content"])
