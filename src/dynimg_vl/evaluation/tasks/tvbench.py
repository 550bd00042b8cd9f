"""TVBench (arXiv 2410.07752): MVBench's files, with questions that no single frame and no text alone answers.

Files, folders, bounds and counts are those that public evaluation code and listings of the set agree on; the archive
itself was not at hand. It comes as one zip per task, which may or may not hold a folder of its own name, so that both
places are tried.
"""

from .base import Task, choice_prompt
from .mvbench import ChoiceFiles, Subtask

_COUNTS = {
    "action_antonym": 320,
    "action_count": 536,
    "action_localization": 160,
    "action_sequence": 437,
    "egocentric_sequence": 200,
    "moving_direction": 232,
    "object_count": 148,
    "object_shuffle": 225,
    "scene_transition": 185,
    "unexpected_action": 82,
}
_BOUNDED = ("action_localization", "action_sequence")

FILES = ChoiceFiles(
    "tvbench",
    ("tvbench",),
    tuple(
        Subtask(name, count, (f"video/{name}", f"video/{name}/{name}"), is_bounded=name in _BOUNDED)
        for name, count in _COUNTS.items()
    ),
)

TVBENCH = Task(
    name=FILES.task,
    title="TVBench",
    kind="choice",
    counts=FILES.counts,
    read=FILES.read,
    prompt=choice_prompt(),
    metric="accuracy: mean of the 10 tasks, and over all questions",
    downloads=(
        "json/ and video/: huggingface.co/datasets/FunAILab/TVBench, each zip of video/ unpacked in place",
        "video/action_antonym: rose1.ntu.edu.sg/dataset/actionRecognition (NTU RGB+D)",
    ),
)
