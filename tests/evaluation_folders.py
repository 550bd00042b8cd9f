"""Folders OUT/TASK as an evaluation leaves them, made from a few lines."""

import json
from pathlib import Path

from dynimg_vl.evaluation.items import Item, write_items
from dynimg_vl.inference.records import encode_record
from dynimg_vl.inference.requests import Prediction, Request


def write_predictions(folder: Path, predictions) -> None:
    lines = [encode_record(Request(one.id, None, "?"), one) for one in predictions]
    (folder / "predictions.jsonl").write_bytes(b"".join(lines))


def open_folder(out: Path, rows, task: str = "msvd") -> Path:
    """Write an open-ended task from rows (video name, question, answer, prediction).

    A prediction of None: the video is missing; an exception: its message is the error; ...: not asked yet.
    """
    items, predictions = [], []
    for number, (video_name, question, answer, prediction) in enumerate(rows):
        video = None if prediction is None else f"videos/{video_name}.avi"
        item = Item(f"{task}/test/{number}", task, "test", video, video_name, question, answer)
        items.append(item)
        if isinstance(prediction, Exception):
            predictions.append(Prediction(item.id, "", error=str(prediction)))
        elif isinstance(prediction, str):
            predictions.append(Prediction(item.id, prediction, usage={"visual": 576}))
    return _write(out / task, items, predictions)


def dialogue_folder(out: Path, num_videos: int = 3, texts=lambda request: f"answer to {request}") -> Path:
    """Write the Video-ChatGPT benchmark in miniature: per video four generic questions, one temporal, one pair."""
    items, predictions = [], []
    for subtask, count in (("generic", 4 * num_videos), ("temporal", num_videos), ("consistency", num_videos)):
        for number in range(count):
            name = f"v_{number % num_videos}"
            extra = {"question_2": f"And {subtask} {number}?"} if subtask == "consistency" else {}
            item_id = f"videochatgpt/{subtask}/{number}"
            question = f"What of {subtask} {number}?"
            items.append(
                Item(item_id, "videochatgpt", subtask, f"{name}.mp4", name, question, f"fact {number}", extra=extra)
            )
            requests = [f"{item_id}/q1", f"{item_id}/q2"] if extra else [item_id]
            predictions += [Prediction(request, texts(request)) for request in requests]
    return _write(out / "videochatgpt", items, predictions)


def choice_folder(out: Path, rows, task: str = "mvbench", prefix: str = "", visual: int = 576) -> Path:
    """Write a task with options from rows (subtask, video name, index of the right option, prediction)."""
    items, predictions, numbers = [], [], {}
    for subtask, video_name, right, prediction in rows:
        number = numbers[subtask] = numbers.get(subtask, -1) + 1
        item_id, choices = f"{task}/{subtask}/{number}", ("left", "right", "up")
        video = None if prediction is None else f"video/{video_name}.mp4"
        item = Item(item_id, task, subtask, video, video_name, "Where to?", choices[right], choices, right)
        items.append(item)
        if prediction is not None:
            predictions.append(Prediction(item_id, prediction, usage={"visual": visual}))
    folder = _write(out / task, items, predictions)
    (folder / "run.json").write_text(json.dumps({"prompt": {"prefix": prefix}}))
    return folder


def _write(folder: Path, items, predictions) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder, items)
    write_predictions(folder, predictions)
    return folder
