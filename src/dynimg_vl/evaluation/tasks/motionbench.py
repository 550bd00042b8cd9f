"""MotionBench (arXiv 2501.02955): fine motion in six kinds of questions with lettered options.

`video_info.meta.jsonl`, one video a line: {key, video_path, question_type, qa: [{uid, question, answer}]}, the options
as lines of the question ("A. ..", "(A) .."). 4 018 of the 8 052 questions have an answer; "NA" marks those that only
the benchmark's own server scores, and they are left out. `start` and `end` of a question are not applied: the official
scorer does not use them. Fields and counts are those that public evaluation code agrees on; the file itself was not at
hand, hence there is no official count per kind: they are counted together.
"""

import re
from pathlib import Path

from ...errors import InputError
from ..items import Item
from ..reading import Annotations, Entry, find_root
from ..videos import VideoFinder
from .base import ALL, Loaded, Task, choice_prompt, item_id

NAME = "motionbench"
_FILE = "video_info.meta.jsonl"
_VIDEOS = ("public-dataset", "self-collected", "videos", ".")
_HIDDEN = "NA"
_OPTION = re.compile(r"\(?([A-Z])[.):]\s*(\S.*)")


def _read(data: Path) -> Loaded:
    root, name = find_root(data, NAME, ("motionbench",), [_FILE, f"MotionBench/{_FILE}"])
    root = (root / name).parent
    annotations, finder = Annotations(NAME), VideoFinder(root)
    items = []
    for entry in annotations.read(root, _FILE):
        entry.require("video_path", "question_type", "qa")
        for rank, question in enumerate(entry.entries("qa")):
            question.require("question", "answer")
            if question.values["answer"] not in (None, _HIDDEN):
                items.append(_item(entry, question, rank, finder))
    if not items:
        raise InputError(f"{root / _FILE} has no question with an answer; is it the file for {NAME}?")
    return Loaded(tuple(items), root, annotations.hashes)


def _item(entry: Entry, question: Entry, rank: int, finder: VideoFinder) -> Item:
    stem, choices = _split(question)
    letter = question.text("answer")
    index = ord(letter) - ord("A") if len(letter) == 1 else -1
    if not 0 <= index < len(choices):
        raise InputError(f"{question.place}: the answer {letter[:20]!r} is none of the {len(choices)} options")
    subtask, name = _slug(entry.text("question_type")), entry.text("video_path")
    return Item(
        id=item_id(NAME, subtask, entry, rank),
        task=NAME,
        subtask=subtask,
        video=finder.find(_VIDEOS, [name], entry.place),
        video_name=name,
        question=stem,
        answer=choices[index],
        choices=choices,
        answer_index=index,
        extra=entry.extra("key") | question.extra("uid"),
    )


def _split(question: Entry) -> tuple[str, tuple[str, ...]]:
    """Part a question from its options: the last lines that start with A, B, C .. in this order."""
    stem: list[str] = []
    choices: list[str] = []
    for line in question.text("question").splitlines():
        found = _OPTION.fullmatch(line.strip())
        if found and ord(found[1]) - ord("A") == len(choices):
            choices.append(found[2].strip())
        elif choices and line.strip():  # the rest of a long option
            choices[-1] = f"{choices[-1]} {line.strip()}"
        elif line.strip():
            stem.append(line.strip())
    if len(choices) < 2 or not stem:
        raise InputError(f"{question.place}: question holds no lettered options, a line each")
    return "\n".join(stem), tuple(choices)


def _slug(kind: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "_", kind.lower()).strip("_")
    return slug[:64] or "other"


MOTIONBENCH = Task(
    name=NAME,
    title="MotionBench (labelled part)",
    kind="choice",
    counts={ALL: 4_018},
    read=_read,
    prompt=choice_prompt(),
    metric="accuracy over all questions, and per kind",
    headline="overall",
    downloads=(
        "video_info.meta.jsonl, self-collected/ and public-dataset/: huggingface.co/datasets/THUDM/MotionBench",
        "the part of public-dataset/ that is not passed on: the sources that github.com/THUDM/MotionBench lists",
    ),
)
