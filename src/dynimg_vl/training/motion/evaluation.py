"""Measure a model on the motion world through real files: rendered, encoded, then read by the shipped chain.

Controls show where an answer comes from: with the prompt frames grey, all alike, or in another order, a model that
reads motion off them must fall to chance, or answer for the order that it sees.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...layout import DynImgLayout
from ...loading import DynImgs
from ...model import DynImgForConditionalGeneration, DynImgProcessor, load_pretrained
from ...processes import end_with_parent
from .heldout import PLAIN, STATIC, HeldOutClip, append_rows, file_of, read_rows
from .scores import Answer, is_right

CONTROLS = ("grey", "frozen", "shuffled", "reversed")
"""What may be done to the prompt frames; the keyframe stays."""

_CLIPS_AT_ONCE = 50  # what is answered together, and is lost where a run breaks off
_MAX_NEW_TOKENS = 24


@dataclass(frozen=True)
class Condition:
    """Name one way to show the clips: a kind of file, and what is done to its prompt frames ("": nothing)."""

    file: str
    control: str = ""

    @property
    def name(self) -> str:
        """Name it in tables and files."""
        return f"{self.file} {self.control}".strip()


@dataclass
class Respondent:
    """Hold a model and its processor, and answer questions in batches by greedy decoding."""

    model: DynImgForConditionalGeneration
    processor: DynImgProcessor
    batch_size: int = 32

    def look(self, folder: Path, condition: Condition, number: int) -> DynImgs:
        """Load one clip as one condition shows it; the order of shuffled prompt frames depends on its number alone."""
        video_processor = self.processor.video_processor
        path = file_of(folder, condition.file, number)
        if condition.file == PLAIN:
            nothing: Any = None  # drawn, not read: there is no index of frames
            video = DynImgs(np.load(path), (), nothing, video_processor.layout, "gop12")
        else:
            video = video_processor.load(str(path), num_dynimgs=1)
        pixels = torch.as_tensor(video.pixels)
        changed = disturb(pixels, video_processor.layout, condition.control, torch.Generator().manual_seed(number))
        return replace(video, pixels=changed.numpy())

    def answer_all(self, items: Sequence[tuple[DynImgs, str]]) -> list[str]:
        """Answer pairs of a loaded video and a question; those of like length go together."""
        order = sorted(range(len(items)), key=lambda number: len(items[number][1]))
        answers = [""] * len(items)
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            for number, text in zip(part, self._answer([items[number] for number in part]), strict=True):
                answers[number] = text
        return answers

    def _answer(self, items: Sequence[tuple[DynImgs, str]]) -> Iterator[str]:
        runner: Any = self.model  # transformers types `generate` for its own classes only
        chats: Any = [
            [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
            for _, question in items
        ]
        texts: Any = self.processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        videos = [video for video, _ in items]
        inputs: Any = self.processor(text=texts, videos=videos, padding=True, return_tensors="pt")
        inputs = inputs.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            tokens = runner.generate(**inputs, max_new_tokens=_MAX_NEW_TOKENS, do_sample=False)
        for row in tokens[:, inputs["input_ids"].shape[1] :]:
            yield self.processor.tokenizer.decode(row, skip_special_tokens=True).strip()


def other_order(count: int, generator: torch.Generator) -> Tensor:
    """Draw an order of so many frames other than that of time; of one there is none."""
    order = torch.arange(count)
    while count > 1 and torch.equal(order, torch.arange(count)):
        order = torch.randperm(count, generator=generator)
    return order


def disturb(pixels: Tensor, layout: DynImgLayout, control: str, generator: torch.Generator) -> Tensor:
    """Change the prompt frames of composed DynImgs (G, 3, S, S) uint8 as a control asks ("": leave them)."""
    if not control:
        return pixels
    pixels = pixels.clone()
    places = [tile.slices for tile in layout.pixel_tiles[1:]]
    prompts = torch.stack([pixels[:, :, rows, columns] for rows, columns in places])
    count = len(places)
    if control == "grey":
        prompts = torch.full_like(prompts, 127)
    elif control == "frozen":
        prompts = prompts[count // 2].expand_as(prompts)
    elif control == "reversed":
        prompts = prompts.flip(0)
    else:
        prompts = prompts[other_order(count, generator)]
    for rank, (rows, columns) in enumerate(places):
        pixels[:, :, rows, columns] = prompts[rank]
    return pixels


def wanted_answers(clip: HeldOutClip, condition: Condition) -> tuple[str, ...]:
    """Give what is true of a clip as a condition shows it, question by question; "" where nothing is asked.

    Where the truth is another than that of the clip, only open questions count: the letter of a choice may not exist.
    """
    plain = tuple(exchange.answer for exchange in clip.exchanges)
    if condition.file != STATIC and not condition.control:
        return plain
    other = plain
    if condition.file == STATIC:
        other = clip.halted
    elif condition.control == "reversed":
        other = clip.backward
    return tuple("" if each.choices else answer for each, answer in zip(clip.exchanges, other, strict=True))


@dataclass(frozen=True)
class Part:
    """Hold what is answered at once: some clips of a folder under one condition."""

    folder: Path
    clips: tuple[HeldOutClip, ...]
    condition: Condition


AnswerParts = Callable[[Iterable[Part]], Iterable[list[dict[str, Any]]]]
"""What answers parts: `here`, or `Crew.answer` in processes of its own."""


def here(respondent: Respondent) -> AnswerParts:
    """Answer parts in this process."""
    return lambda parts: (answer_part(respondent, part) for part in parts)


class Crew:
    """Answer parts in several processes, each with the model in one thread; use it in a `with`."""

    def __init__(self, model: Path, num_workers: int) -> None:
        self._pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker, (model,))

    def __enter__(self) -> AnswerParts:
        return lambda parts: self._pool.map(_answer_part_in_worker, parts)

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


_respondent: Respondent | None = None  # of a worker process


def _start_worker(model: Path) -> None:
    global _respondent
    end_with_parent()
    os.nice(5)
    torch.set_num_threads(1)
    _respondent = Respondent(*load_pretrained(model))


def _answer_part_in_worker(part: Part) -> list[dict[str, Any]]:
    assert _respondent is not None
    return answer_part(_respondent, part)


def collect_answers(
    answer: AnswerParts, folder: Path, clips: Sequence[HeldOutClip], condition: Condition, path: Path
) -> Iterator[int]:
    """Answer the questions about clips under one condition, and append what is given to a file of JSON lines.

    What the file already holds is not asked again. Yields the number of clips done after each part.
    """
    done = {(row["clip"], row["condition"]) for row in read_rows(path)}
    parts = [
        Part(folder, tuple(clips[start : start + _CLIPS_AT_ONCE]), condition)
        for start in range(0, len(clips), _CLIPS_AT_ONCE)
    ]
    # All or nothing: batches, and so the last bits of the numbers, must not depend on where a run broke off.
    missing = [part for part in parts if not all((clip.number, condition.name) in done for clip in part.clips)]
    count = len(clips) - sum(len(part.clips) for part in missing)
    for part, rows in zip(missing, answer(missing), strict=True):
        append_rows(path, rows)
        count += len(part.clips)
        yield count


def answer_part(respondent: Respondent, part: Part) -> list[dict[str, Any]]:
    """Answer all questions of a part: one row for each clip, what is given by the number of the question."""
    items: list[tuple[DynImgs, str]] = []
    places: list[tuple[int, int]] = []
    for clip in part.clips:
        video = respondent.look(part.folder, part.condition, clip.number)
        wanted = wanted_answers(clip, part.condition)
        for rank, exchange in enumerate(clip.exchanges):
            if wanted[rank]:
                items.append((video, exchange.question))
                places.append((clip.number, rank))
    given: dict[int, dict[str, str]] = defaultdict(dict)
    for (number, rank), text in zip(places, respondent.answer_all(items), strict=True):
        given[number][str(rank)] = text
    return [{"condition": part.condition.name, "clip": clip.number, "given": given[clip.number]} for clip in part.clips]


def read_answers(path: Path, clips: Sequence[HeldOutClip], condition: Condition) -> list[Answer]:
    """Read what was given under one condition, beside what is true."""
    rows = {row["clip"]: row["given"] for row in read_rows(path) if row["condition"] == condition.name}
    answers = []
    for clip in clips:
        wanted = wanted_answers(clip, condition)
        for rank, text in rows.get(clip.number, {}).items():
            exchange = clip.exchanges[int(rank)]
            truth = wanted[int(rank)]
            answers.append(
                Answer(
                    clip=clip.number,
                    question=int(rank),
                    family=exchange.family,
                    is_choice=bool(exchange.choices),
                    is_single=clip.is_single,
                    num_objects=clip.group[0],
                    kind=exchange.kind,
                    group=str(clip.group),
                    camera=clip.camera,
                    speed=clip.speed,
                    wanted=truth,
                    given=text,
                    is_right=is_right(truth, text, bool(exchange.choices)),
                )
            )
    return answers
