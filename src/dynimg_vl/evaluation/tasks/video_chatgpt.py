"""The benchmark of Video-ChatGPT (Table 1): 499 videos of ActivityNet, judged in five dimensions.

`generic_qa.json` {Q, A, video_name} is answered once and judged three times (CI, DO, CU), `temporal_qa.json` once (TU);
the two answers to Q1 and Q2 of an entry of `consistency_qa.json` are judged together (CO). Each keeps its own question:
a known evaluation pairs them crosswise.
"""

from pathlib import Path

from ..items import Item
from ..prompts import Prompt
from ..reading import Annotations, Entry, find_root
from ..videos import VideoFinder
from .base import Loaded, Task, item_id

NAME = "videochatgpt"
COUNTS = {"generic": 1_996, "temporal": 499, "consistency": 499}
_FOLDERS = ("videochatgpt", "video-chatgpt", "vcgbench", "videochatgpt_bench")
_PLACES = ("", "Benchmarking_QA/", "Zero_Shot_QA/Benchmarking_QA/")
_VIDEOS = ("Videos/Benchmarking", "Test_Videos", "Benchmarking", "videos", "Videos", ".")


def _read(data: Path) -> Loaded:
    root, first = find_root(data, NAME, _FOLDERS, [f"{place}generic_qa.json" for place in _PLACES])
    place = first.removesuffix("generic_qa.json")
    annotations, finder = Annotations(NAME), VideoFinder(root)
    items = [
        _item(entry, subtask, finder)
        for subtask in COUNTS
        for entry in annotations.read(root, f"{place}{subtask}_qa.json")
    ]
    return Loaded(tuple(items), root, annotations.hashes)


def _item(entry: Entry, subtask: str, finder: VideoFinder) -> Item:
    is_pair = subtask == "consistency"
    first = "Q1" if is_pair else "Q"
    entry.require("video_name", first, *(["Q2"] if is_pair else []), "A")
    name = entry.text("video_name")
    return Item(
        id=item_id(NAME, subtask, entry),
        task=NAME,
        subtask=subtask,
        video=finder.find(_VIDEOS, [name], entry.place),
        video_name=name,
        question=entry.text(first),
        answer=entry.text("A"),
        extra={"question_2": entry.text("Q2")} if is_pair else {},
    )


VIDEO_CHATGPT = Task(
    name=NAME,
    title="Video-ChatGPT benchmark",
    kind="dialogue",
    counts=COUNTS,
    read=_read,
    prompt=Prompt(
        system="You are shown a video. Follow what the user asks closely, and explain your answer in detail by what "
        "the video shows.",
        max_new_tokens=100,
    ),
    metric="mean score, 0 to 5, of CI, DO, CU, TU and CO, by a judge",
    num_videos=499,
    downloads=(
        "annotations and videos: github.com/mbzuai-oryx/Video-ChatGPT (quantitative_evaluation: Benchmarking_QA, "
        "Test_Videos)",
    ),
)
