"""A miniature of MVBench about the motion world: the tasks of MVBench that a model of motion alone can know.

Not a published benchmark: `scripts/make_motion_benchmark.py` makes its clips and files, in MVBench's layout.
"""

from dataclasses import replace

from .base import Task, choice_prompt
from .mvbench import ChoiceFiles, Subtask

NUM_PER_TASK = 100
SUBTASKS = ("moving_direction", "moving_count", "moving_attribute", "action_sequence")

FILES = ChoiceFiles(
    "motionworld",
    ("motionworld",),
    tuple(Subtask(name, NUM_PER_TASK, (f"video/{name}",)) for name in SUBTASKS),
)

MOTION_WORLD = Task(
    name=FILES.task,
    title="Motion world",
    kind="choice",
    counts=FILES.counts,
    read=FILES.read,
    # The embedded model has never seen a system turn.
    prompt=replace(choice_prompt(), system=None),
    metric="accuracy: mean of the 4 tasks",
    downloads=("none: python scripts/make_motion_benchmark.py -o DIR",),
)
