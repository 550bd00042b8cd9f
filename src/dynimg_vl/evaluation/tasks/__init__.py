"""The benchmarks: to add one, write a file of its own and name its task here."""

from ...errors import InputError
from .base import ALL, Loaded, Task
from .motion_world import MOTION_WORLD
from .motionbench import MOTIONBENCH
from .mvbench import MVBENCH
from .open_ended import ACTIVITYNET, MSRVTT, MSVD, TGIF
from .tvbench import TVBENCH
from .video_chatgpt import VIDEO_CHATGPT

_PUBLISHED = (MSVD, MSRVTT, TGIF, ACTIVITYNET, VIDEO_CHATGPT, MVBENCH, TVBENCH, MOTIONBENCH)
TASKS = {task.name: task for task in (*_PUBLISHED, MOTION_WORLD)}


def find_task(name: str) -> Task:
    """Give a benchmark by its name.

    Raises:
        InputError: where there is none of that name.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["ALL", "TASKS", "Loaded", "Task", "find_task"]
