"""One evaluation of a motion model: which conditions are run, and the tables that come out of them."""

import os
import platform
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .evaluation import CONTROLS, AnswerParts, Condition, collect_answers, read_answers
from .heldout import FILES, PLAIN, STATIC, HeldOutClip
from .scores import Answer, Numbers, as_table, by_binding, by_camera, by_family, by_kind, paired_loss

Progress = Callable[[str, int, int], None]
"""What is told of progress: a word, how many are done, of how many."""

Tables = dict[str, dict[str, Numbers]]
"""Scores of rows, by the title of each table."""


def run_files(
    answer: AnswerParts,
    folder: Path,
    clips: Sequence[HeldOutClip],
    path: Path,
    progress: Progress,
    files: Sequence[str] = FILES,
) -> dict[str, list[Answer]]:
    """Answer all questions about the clips as every kind of file."""
    return {name: _run(answer, folder, clips, Condition(name), path, progress) for name in files}


def run_controls(
    answer: AnswerParts, folder: Path, clips: Sequence[HeldOutClip], path: Path, progress: Progress
) -> dict[str, list[Answer]]:
    """Answer the open questions about the clips with their prompt frames changed, and about static clips."""
    still = [clip for clip in clips if (folder / STATIC / f"{clip.number:05d}.mp4").exists()]
    found = {}
    for control in CONTROLS:
        found[control] = _run(answer, folder, clips, Condition("h264", control), path, progress)
    found[STATIC] = _run(answer, folder, still, Condition(STATIC), path, progress)
    return found


def run_cameras(
    answer: AnswerParts, folder: Path, clips: Sequence[HeldOutClip], path: Path, progress: Progress
) -> list[Answer]:
    """Answer the questions about clips over real frames, as x264 files."""
    return _run(answer, folder, clips, Condition("h264"), path, progress)


def tables_of_files(answers: dict[str, list[Answer]]) -> Tables:
    """Count what came of `run_files`: by family, by kind of motion, open and multiple choice, and the loss by files.

    Families are counted on clips in which all is as often as in training, kinds of motion on all clips with one object.
    """
    tables: Tables = {}
    everything = [each for name, given in answers.items() if name != PLAIN for each in given]
    usual = [each for each in everything if not each.is_single]
    tables["open questions, all codecs"] = by_family([each for each in usual if not each.is_choice])
    tables["multiple choice, all codecs"] = by_family([each for each in usual if each.is_choice])
    tables["which way a single object goes, all codecs"] = by_kind(everything)
    tables["what goes with what, of two objects, all codecs"] = by_binding(usual)
    for name, given in answers.items():
        tables[f"open questions, {name}"] = by_family(
            [each for each in given if not (each.is_single or each.is_choice)]
        )
        tables[f"which way a single object goes, {name}"] = by_kind(given)
    if PLAIN in answers:
        tables["lost against the frames as drawn"] = {
            name: paired_loss(answers[PLAIN], given) for name, given in answers.items() if name != PLAIN
        }
    return tables


def tables_of_controls(answers: dict[str, list[Answer]], plain: Sequence[Answer]) -> Tables:
    """Count what came of `run_controls`, beside the same questions about the untouched clips (`plain`)."""
    asked = {(each.clip, each.question) for each in answers[CONTROLS[0]]}
    same = [each for each in plain if (each.clip, each.question) in asked]
    shown = {"as they are": same, **answers}
    return {f"prompt frames {name}": by_family([a for a in given if not a.is_single]) for name, given in shown.items()}


def table_of_cameras(answers: Sequence[Answer]) -> Tables:
    """Count what came of `run_cameras`."""
    return {"how the camera moves, over real frames": by_camera(answers)}


def table_of_twin(
    answer: AnswerParts, folder: Path, clips: Sequence[HeldOutClip], path: Path, progress: Progress
) -> Tables:
    """Ask a model that sees keyframes only, and count: what it knows beyond `group_majority` is a leak."""
    given = _run(answer, folder, clips, Condition("h264"), path, progress)
    return {"keyframes only, open questions, h264": by_family([a for a in given if not (a.is_single or a.is_choice)])}


def as_markdown(tables: Tables) -> str:
    """Write tables in Markdown, one after the other."""
    return "\n\n".join(as_table(numbers, title) for title, numbers in tables.items()) + "\n"


def describe_machine() -> dict[str, Any]:
    """Tell what a measurement was made with: machine, date and versions."""
    packages = ("torch", "transformers", "av", "numpy")
    return {
        "machine": {"kind": platform.machine(), "cores": os.cpu_count(), "system": platform.system()},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def _run(
    answer: AnswerParts,
    folder: Path,
    clips: Sequence[HeldOutClip],
    condition: Condition,
    path: Path,
    progress: Progress,
) -> list[Answer]:
    for done in collect_answers(answer, folder, clips, condition, path):
        progress(condition.name, done, len(clips))
    return read_answers(path, clips, condition)
