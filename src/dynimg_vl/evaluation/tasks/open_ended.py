"""MSVD-QA, MSRVTT-QA, TGIF-QA (FrameQA) and ActivityNet-QA (Table 1), in the files that Video-ChatGPT introduced.

`test_q.json` [{video_name, question, question_id}] and `test_a.json` [{answer, question_id, type?}] belong together by
their order. Question ids repeat (TGIF: 7 132 distinct of 13 691), so that nothing is ever keyed on them; where both
files have one at the same place and they differ, the files do not belong together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ..items import Item
from ..prompts import Prompt
from ..reading import Annotations, Entry, find_root
from ..videos import VideoFinder
from .base import Loaded, Task, item_id

_SPLIT = "test"
_QUESTIONS, _ANSWERS = "test_q.json", "test_a.json"

# The protocol of the reference (a short answer first, then what is seen; the answer's opening words given), in our own
# words. `--prompt` takes others.
_PROMPT = Prompt(
    question=(
        "You see key frames of a video, in order. Answer the question in a few words first, then say what in the "
        "video shows it. Question: {question}"
    ),
    prefix="Answer: In the video,",
    max_new_tokens=100,
)
_METRIC = "accuracy (share of answers that the judge accepts) and score (mean of 0 to 5), by a judge"
_HOST = "github.com/PKU-YuanGroup/Video-LLaVA (TRAIN_AND_VALIDATE.md: GPT_Zero_Shot_QA)"


@dataclass(frozen=True)
class Layout:
    """Say where a set keeps its files: names of its folder in lower case, folders of videos, prefixes of names."""

    task: str
    folders: tuple[str, ...]
    videos: tuple[str, ...]
    prefixes: tuple[str, ...] = ("",)

    def read(self, data: Path) -> Loaded:
        """Read questions and answers, and find the videos.

        Raises:
            InputError: where a file is not what it should be, or the two do not belong together.
        """
        root, name = find_root(data, self.task, self.folders, [_QUESTIONS])
        annotations = Annotations(self.task)
        questions, answers = annotations.read(root, name), annotations.read(root, _ANSWERS)
        _check_alignment(questions, answers)
        finder = VideoFinder(root)
        items = [self._item(*pair, finder) for pair in zip(questions, answers, strict=True)]
        return Loaded(tuple(items), root, annotations.hashes)

    def _item(self, question: Entry, answer: Entry, finder: VideoFinder) -> Item:
        question.require("video_name", "question")
        name = question.text("video_name")
        names = [name if name.startswith(prefix) else prefix + name for prefix in self.prefixes]
        return Item(
            id=item_id(self.task, _SPLIT, question),
            task=self.task,
            subtask=_SPLIT,
            video=finder.find(self.videos, names, question.place),
            video_name=name,
            question=question.text("question"),
            answer=answer.text("answer"),
            extra=question.extra("question_id") | answer.extra("type"),
        )


def _check_alignment(questions: Sequence[Entry], answers: Sequence[Entry]) -> None:
    where = f"{questions[0].path} and {answers[0].path.name}"
    if len(questions) != len(answers):
        raise InputError(f"{where} do not belong together: {len(questions)} questions, {len(answers)} answers")
    for question, answer in zip(questions, answers, strict=True):
        ids = [entry.values.get("question_id") for entry in (question, answer)]
        if None not in ids and str(ids[0]) != str(ids[1]):
            place = f"entry {question.number + 1} has question_id {str(ids[0])[:40]} and {str(ids[1])[:40]}"
            raise InputError(f"{where} do not belong together: {place}; download both again")


def _task(layout: Layout, title: str, count: int, num_videos: int | None, others: dict[int, str], videos: str) -> Task:
    return Task(
        name=layout.task,
        title=title,
        kind="open",
        counts={_SPLIT: count},
        read=layout.read,
        prompt=_PROMPT,
        metric=_METRIC,
        num_videos=num_videos,
        known_counts=others,
        downloads=(f"{_QUESTIONS}, {_ANSWERS}: {_HOST}", videos),
    )


MSVD = _task(
    Layout("msvd", ("msvd", "msvd_zero_shot_qa", "msvd-qa", "msvd_qa"), ("videos", "YouTubeClips", ".")),
    "MSVD-QA",
    13_157,
    None,
    {6_415: "the validation split"},
    "videos: www.cs.utexas.edu/users/ml/clamp/videoDescription (YouTubeClips, avi)",
)
MSRVTT = _task(
    Layout("msrvtt", ("msrvtt", "msrvtt_zero_shot_qa", "msrvtt-qa", "msrvtt_qa"), ("videos/all", "videos", ".")),
    "MSRVTT-QA",
    72_821,
    None,
    {12_278: "the validation split"},
    "videos: MSR-VTT test videos, through the page of the annotations (mp4)",
)
TGIF = _task(
    Layout(
        "tgif",
        ("tgif", "tgif_zero_shot_qa", "tgif-qa", "tgif_qa", "tgif_frameqa"),
        ("videos", "gifs", "gif", "videos_mp4", "mp4", "."),
    ),
    "TGIF-QA (FrameQA)",
    13_691,
    None,
    {25_751: "all tests of TGIF-QA, not FrameQA alone"},
    "videos: github.com/raingo/TGIF-Release (gif), or re-encoded to mp4 under the same names",
)
ACTIVITYNET = _task(
    Layout(
        "activitynet",
        ("activitynet", "activitynet_zero_shot_qa", "activitynet-qa", "activitynet_qa"),
        ("all_test", "videos", "."),
        prefixes=("v_", ""),
    ),
    "ActivityNet-QA",
    8_000,
    800,
    {18_000: "the validation split", 32_000: "the training split"},
    "videos: activity-net.org, named v_ID (mp4, mkv, webm)",
)
