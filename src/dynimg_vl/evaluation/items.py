"""What a benchmark is made of, and the files that lie between predicting and judging.

A folder OUT/TASK holds:

- `items.jsonl`: one `Item` a line, in the order of the official files; written anew by every `eval`, so that a video
  that was missing at first is asked about the next time.
- `predictions.jsonl`: what `inference.run` writes, a line for every request. `request_ids` tells which requests belong
  to an item; an item whose video is missing has none.
- `run.json`: what produced them.
- `result.json`, `verdicts.jsonl` of tasks with options: the scores, and what became of each item.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..inference.journal import replace_file
from ..inference.records import read_predictions as read_records
from ..inference.requests import Prediction
from ..text_formats import check_types, json_bytes, load_json

ITEMS_FILE, PREDICTIONS_FILE, RUN_FILE = "items.jsonl", "predictions.jsonl", "run.json"
RESULT_FILE, VERDICTS_FILE = "result.json", "verdicts.jsonl"


@dataclass(frozen=True)
class Item:
    """Hold one question of a benchmark with its reference answer.

    Args:
        id: TASK/SUBTASK/NUMBER, the number counted from 0 in the official file; unique within a task.
        task: name of the task.
        subtask: one of the task's own; open-ended sets with one file have one, named as the split.
        video: path below the data folder, with slashes; None where the video is missing.
        video_name: as the official file names it.
        question: as the official file has it, without any prompt around it.
        answer: the reference answer; of a choice, the text of the right option.
        choices: the options in the order of the file; letters follow from the order.
        answer_index: which of the choices is right.
        clip: first and last second to look at; None for the whole video.
        fps: of a folder of frames.
        extra: what else the file says: `question_id`, `type` and the like; `question_2` is the second question of a
            consistency pair.
    """

    id: str
    task: str
    subtask: str
    video: str | None
    video_name: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    answer_index: int | None = None
    clip: tuple[float, float] | None = None
    fps: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def questions(self) -> tuple[str, ...]:
        """Give what is asked about the video: one question, or the two of a consistency pair."""
        second = self.extra.get("question_2")
        return (self.question,) if second is None else (self.question, str(second))


def request_ids(item: Item) -> tuple[str, ...]:
    """Name the requests of an item: its own id, or ID/q1 and ID/q2 for a consistency pair."""
    if len(item.questions) == 1:
        return (item.id,)
    return tuple(f"{item.id}/q{rank}" for rank in range(1, len(item.questions) + 1))


@dataclass(frozen=True)
class Answered:
    """Hold an item and what came back for its requests, in the order of its questions; None where nothing did."""

    item: Item
    predictions: tuple[Prediction | None, ...]

    @property
    def state(self) -> str:
        """Say "missing" (no video), "pending" (not asked yet), "failed" (an error) or "answered"."""
        if self.item.video is None:
            return "missing"
        if any(prediction is None for prediction in self.predictions):
            return "pending"
        return "failed" if any(prediction and prediction.error for prediction in self.predictions) else "answered"

    @property
    def texts(self) -> tuple[str, ...]:
        """Give the raw answers, "" where there is none."""
        return tuple(prediction.text if prediction else "" for prediction in self.predictions)


def pair_up(items: Iterable[Item], predictions: Iterable[Prediction]) -> list[Answered]:
    """Put predictions to their items, in the order of the items; what belongs to no item is left out.

    Of several for one request the last counts, but an error never takes the place of an answer.
    """
    found: dict[str, Prediction] = {}
    for prediction in predictions:
        before = found.get(prediction.id)
        if before is None or before.error or not prediction.error:
            found[prediction.id] = prediction
    return [Answered(item, tuple(found.get(name) for name in request_ids(item))) for item in items]


def read_answered(folder: Path) -> list[Answered]:
    """Read items and predictions of a folder OUT/TASK.

    Raises:
        InputError: where a file is missing or damaged; a last line of predictions that was cut off is left out.
    """
    return pair_up(read_items(folder), read_predictions(folder))


def read_items(folder: Path) -> list[Item]:
    """Read `items.jsonl` of a folder OUT/TASK.

    Raises:
        InputError: where it is missing or damaged.
    """
    path = folder / ITEMS_FILE
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; run dynimg-vl eval first") from error
    items = []
    for number, line in enumerate(lines, start=1):
        try:
            value = load_json(line)
            clip = value["clip"]
            shaped = {**value, "choices": tuple(value["choices"]), "clip": None if clip is None else tuple(clip)}
            item = Item(**shaped)
            check_types(item)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: line {number} is no item; run dynimg-vl eval again") from error
        items.append(item)
    return items


def write_items(folder: Path, items: Iterable[Item]) -> None:
    """Write `items.jsonl` of a folder OUT/TASK, whole or not at all."""
    replace_file(folder / ITEMS_FILE, b"".join(json_bytes(vars(item)) + b"\n" for item in items))


def read_predictions(folder: Path) -> list[Prediction]:
    """Read `predictions.jsonl` of a folder OUT/TASK, in the order of the file; none where there is no such file yet.

    Raises:
        InputError: where a line is damaged; one that was cut off at the end is left out.
    """
    path = folder / PREDICTIONS_FILE
    return [prediction for _, prediction in read_records(path)] if path.exists() else []
