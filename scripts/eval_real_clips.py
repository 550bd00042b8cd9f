"""Ask a model simple things about real videos: `python scripts/eval_real_clips.py VIDEOS -o real_clips.json`.

What is true was written down (`benchmarks/real_clips.json`) from looking at the five frames that the model sees, before
any answer was; what these frames do not decide is left out. VIDEOS is a folder that holds the files named there; a name
may end in a stretch of seconds, as addresses of media have it: `walk.mp4#t=6.2,7.4`.
"""

import argparse
import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from dynimg_vl import InputError, embedded_model
from dynimg_vl.model import load_pretrained
from dynimg_vl.training.motion.evaluation import Respondent
from dynimg_vl.training.motion.report import describe_machine
from dynimg_vl.training.motion.scores import is_right

TRUTH = Path(__file__).parents[1] / "benchmarks" / "real_clips.json"
QUESTIONS = {
    "anything": "Does anything move?",
    "camera": "How does the camera move?",
    "direction": "Which way does the object move?",
}


def split_name(name: str) -> tuple[str, tuple[float, float] | None]:
    """Split a name into that of its file and its stretch in seconds, if it has one."""
    file, _, stretch = name.partition("#t=")
    if not stretch:
        return file, None
    start, end = (float(part) for part in stretch.split(","))
    return file, (start, end)


def answers_of(respondent: Respondent, folder: Path, truth: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Answer what is asked about each clip, by clip and question."""
    found = {}
    for name, known in truth.items():
        file, stretch = split_name(name)
        video = respondent.processor.video_processor.load(str(folder / file), num_dynimgs=1, clip=stretch)
        given = respondent.answer_all([(video, QUESTIONS[question]) for question in known])
        found[name] = dict(zip(known, given, strict=True))
    return found


def count(truth: dict[str, dict[str, str]], answers: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Count right answers by question and truth, as "right of asked"."""
    table: dict[str, dict[str, str]] = {}
    for question in QUESTIONS:
        asked, right = Counter[str](), Counter[str]()
        for name, known in truth.items():
            if wanted := known.get(question, ""):
                hit = is_right(wanted, answers[name][question], False)
                asked.update([wanted, "all"])
                right.update([wanted, "all"] if hit else [])
        table[question] = {wanted: f"{right[wanted]} of {number}" for wanted, number in asked.items()}
    return table


def main() -> None:
    """Ask, print what was right, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--model", type=Path, help="a model folder (default: the embedded model)")
    parser.add_argument("-o", "--out", type=Path, help="a JSON file for all answers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    truth = json.loads(TRUTH.read_text())
    answers = answers_of(Respondent(*load_pretrained(options.model or embedded_model())), options.videos, truth)
    table = count(truth, answers)
    print(json.dumps(table, indent=1))
    if options.out:
        command = shlex.join(["python", "scripts/eval_real_clips.py", *sys.argv[1:]])
        result: dict[str, Any] = {"command": command, **describe_machine(), "right": table, "answers": answers}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        sys.exit(f"error: {error}")
