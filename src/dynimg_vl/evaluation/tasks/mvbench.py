"""MVBench (Table 2): 20 tasks of 200 questions with lettered options.

`json/NAME.json` [{video, question, candidates, answer, start?, end?}]; five tasks look at a stretch of the video only;
Episodic Reasoning has folders of frames at 3 per second, whose picture n is that of n / 3 s, as in the reference.
Options stay in the order of the file, which was shuffled once for all. Some videos are in an archive of their own,
data0613.zip (of 2024-06-13), whose folders repeat the names of those they belong to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ..items import Item
from ..reading import Annotations, Entry, find_root
from ..videos import VideoFinder
from .base import Loaded, Task, choice_prompt, item_id


@dataclass(frozen=True)
class Subtask:
    """Say where a task of a benchmark of this shape keeps its files.

    Args:
        name: of the JSON file, without suffix.
        count: official number of questions.
        videos: folders of its videos, in the order in which they are tried.
        is_bounded: whether `start` and `end` bound what is looked at.
        fps: of folders of frames.
    """

    name: str
    count: int
    videos: tuple[str, ...]
    is_bounded: bool = False
    fps: float | None = None


@dataclass(frozen=True)
class ChoiceFiles:
    """Read a benchmark of one JSON file per task, as MVBench and those that follow it are."""

    task: str
    folders: tuple[str, ...]
    subtasks: Sequence[Subtask]

    @property
    def counts(self) -> dict[str, int]:
        """Give the official number of questions of each task."""
        return {subtask.name: subtask.count for subtask in self.subtasks}

    def read(self, data: Path) -> Loaded:
        """Read the files of all tasks; one that is missing is an error, not a smaller benchmark.

        Raises:
            InputError: naming file, entry and what is wrong.
        """
        root, first = find_root(
            data, self.task, self.folders, [f"{place}{self.subtasks[0].name}.json" for place in ("json/", "")]
        )
        place = first.rpartition("/")[0]
        annotations, finder = Annotations(self.task), VideoFinder(root)
        items = [
            self._item(entry, subtask, finder)
            for subtask in self.subtasks
            for entry in annotations.read(root, f"{place}/{subtask.name}.json".lstrip("/"))
        ]
        return Loaded(tuple(items), root, annotations.hashes)

    def _item(self, entry: Entry, subtask: Subtask, finder: VideoFinder) -> Item:
        entry.require("video", "question", "candidates", "answer")
        choices, answer = entry.texts("candidates"), entry.text("answer")
        if answer not in choices:
            raise InputError(f"{entry.place}: the answer {answer[:40]!r} is none of the candidates")
        name = entry.text("video")
        return Item(
            id=item_id(self.task, subtask.name, entry),
            task=self.task,
            subtask=subtask.name,
            video=finder.find(subtask.videos, [name], entry.place),
            video_name=name,
            question=entry.text("question"),
            answer=answer,
            choices=choices,
            answer_index=choices.index(answer),
            clip=_clip(entry, subtask),
            fps=subtask.fps,
            extra=entry.extra("question_id", "start", "end"),
        )


_LONGEST = 1e9
"""Seconds: thirty years."""


def _clip(entry: Entry, subtask: Subtask) -> tuple[float, float] | None:
    if not subtask.is_bounded:
        return None
    start, end = entry.seconds("start"), entry.seconds("end")
    if not max(abs(start), abs(end)) < _LONGEST:
        raise InputError(f"{entry.place}: start and end must be seconds of a video, got {start} and {end}")
    if subtask.fps is None:
        return start, end
    # The pictures that the reference chooses from, by number; on our clock picture 1 is at 0 s. A quarter of a step on
    # either side keeps rounding out of it.
    first, last = max(1, round(start * subtask.fps)), round(end * subtask.fps)
    return max(0.0, (first - 1.25) / subtask.fps), max(0.0, (last - 0.75) / subtask.fps)


_STAR = ("video/star/Charades_v1_480", "video/data0613/star/Charades_v1_480")
_CLEVRER = ("video/clevrer/video_validation", "video/data0613/clevrer/video_validation")
_PERCEPTION = ("video/perception/videos",)
_N = 200

FILES = ChoiceFiles(
    "mvbench",
    ("mvbench",),
    (
        Subtask("action_sequence", _N, _STAR, is_bounded=True),
        Subtask("action_prediction", _N, _STAR, is_bounded=True),
        Subtask("action_antonym", _N, ("video/ssv2_video",)),
        Subtask("fine_grained_action", _N, ("video/Moments_in_Time_Raw/videos",)),
        Subtask("unexpected_action", _N, ("video/FunQA_test/test",)),
        Subtask("object_existence", _N, _CLEVRER),
        Subtask("object_interaction", _N, _STAR, is_bounded=True),
        Subtask("object_shuffle", _N, _PERCEPTION),
        Subtask("moving_direction", _N, _CLEVRER),
        Subtask("action_localization", _N, ("video/sta/sta_video",), is_bounded=True),
        Subtask("scene_transition", _N, ("video/scene_qa/video",)),
        Subtask("action_count", _N, _PERCEPTION),
        Subtask("moving_count", _N, _CLEVRER),
        Subtask("moving_attribute", _N, _CLEVRER),
        Subtask("state_change", _N, _PERCEPTION),
        Subtask("fine_grained_pose", _N, ("video/nturgbd",)),
        Subtask("character_order", _N, _PERCEPTION),
        Subtask("egocentric_navigation", _N, ("video/vlnqa",)),
        Subtask("episodic_reasoning", _N, ("video/tvqa/frames_fps3_hq",), is_bounded=True, fps=3.0),
        Subtask("counterfactual_inference", _N, _CLEVRER),
    ),
)

MVBENCH = Task(
    name=FILES.task,
    title="MVBench",
    kind="choice",
    counts=FILES.counts,
    read=FILES.read,
    prompt=choice_prompt(),
    metric="accuracy: mean of the 20 tasks",
    downloads=(
        "json/ and video/: huggingface.co/datasets/OpenGVLab/MVBench, every zip unpacked in place, data0613.zip too",
        "video/nturgbd (fine_grained_pose): rose1.ntu.edu.sg/dataset/actionRecognition; the page of MVBench lists its "
        "320 videos in MVBench_videos_ntu.txt",
    ),
)
