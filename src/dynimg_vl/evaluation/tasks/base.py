"""What every benchmark says about itself; one small file of this folder each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..items import Item
from ..prompts import Prompt
from ..reading import Entry

Kind = Literal["open", "choice", "dialogue"]

ALL = "all"
"""Key of an official count that is known for all subtasks together only."""


@dataclass(frozen=True)
class Loaded:
    """Hold a benchmark as it lies on the disk: items in the order of the files, and what was read for them.

    `root` is the folder that videos of items are relative to; `hashes` are those of the annotation files.
    """

    items: tuple[Item, ...]
    root: Path
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Task:
    """Describe a benchmark.

    Args:
        name: on the command line and in files.
        title: in tables.
        kind: "open": a judge says yes or no, and 0 to 5; "dialogue": a judge gives 0 to 5 per dimension; "choice":
            letters or likelihoods, no judge.
        counts: official number of items of each subtask.
        read: reads the official files below a folder of data.
        prompt: how a question is put.
        metric: what its result is, in one line.
        headline: of a choice: whether the mean of the subtasks or the share over all questions is the accuracy.
        num_videos: official number of videos; None where it is not known.
        known_counts: sizes of files that are mistaken for this one, with what they are.
        downloads: what to download where, a line each.
    """

    name: str
    title: str
    kind: Kind
    counts: Mapping[str, int]
    read: Callable[[Path], Loaded]
    prompt: Prompt
    metric: str
    headline: Literal["mean_of_subtasks", "overall"] = "mean_of_subtasks"
    num_videos: int | None = None
    known_counts: Mapping[int, str] = field(default_factory=dict)
    downloads: tuple[str, ...] = ()

    def load(self, data: Path) -> list[Item]:
        """Read all items below a folder of data, those with missing videos included.

        Raises:
            InputError: naming file, entry and what is wrong.
        """
        return list(self.read(data).items)

    @property
    def official_count(self) -> int:
        """Give the official number of items."""
        return sum(self.counts.values())


def item_id(task: str, subtask: str, entry: Entry, rank: int | None = None) -> str:
    """Name an item by its place in the official file; question ids of those files repeat."""
    place = str(entry.number) if rank is None else f"{entry.number}.{rank}"
    return f"{task}/{subtask}/{place}"


def choice_prompt() -> Prompt:
    """Give the letter prompt of the reference evaluation of MVBench, its system turn in words of our own."""
    return Prompt(
        system=(
            "Watch the video closely: what happens and in which order, how things move and change, what people do. "
            "Then choose the option that answers the question."
        ),
        question="Question: {question}\nOptions:\n{options}\nOnly give the best option.",
        prefix="Best option: (",
        max_new_tokens=32,
    )
