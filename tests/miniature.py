"""Benchmarks of a few items in the official layouts, out of generated clips, and an engine that is quick."""

import json
from collections.abc import Callable
from pathlib import Path

from dynimg_vl.inference.requests import Prediction, Request
from synthetic import encode_picture, frame_pixels, write_video

CODECS = {".mp4": "libx264", ".mkv": "libx264", ".avi": "mpeg4", ".webm": "libvpx", ".gif": "gif"}
_bytes: dict[str, bytes] = {}


def clip(path: Path) -> Path:
    """Put a clip of 24 frames, one second, at a path, in the format of its suffix."""
    suffix = path.suffix.lower()
    if suffix not in _bytes:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(suffix)
        write_video(whole, 24, codec=CODECS[suffix], size=(32, 48))
        _bytes[suffix] = whole.read_bytes()
        whole.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_bytes[suffix])
    return path


def frames(folder: Path, count: int = 12) -> Path:
    """Write a folder of frames as TVQA has them: 00001.jpg and on."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        (folder / f"{number:05d}.jpg").write_bytes(encode_picture(frame_pixels(number, 32, 48), "mjpeg"))
    return folder


def dump(path: Path, value: object) -> Path:
    """Write JSON, or JSONL by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = value if path.suffix == ".jsonl" else [value]
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n")
    return path


def open_ended(root: Path, folder: str, videos: str, rows: list[tuple[str, str, str, str]]) -> Path:
    """Write question and answer files of rows (video name, question, answer, question id)."""
    for name, keys in (("q", ("video_name", "question")), ("a", ("answer",))):
        entries = []
        for video, question, answer, number in rows:
            whole = {"video_name": video, "question": question, "answer": answer}
            entries.append({**{key: whole[key] for key in keys}, "question_id": number})
        dump(root / folder / f"test_{name}.json", entries)
    (root / folder / videos).mkdir(parents=True, exist_ok=True)
    return root / folder / videos


def msvd(root: Path) -> Path:
    """Write MSVD-QA: avi, one re-encoded, one in capitals, one missing; ids repeat."""
    rows = [
        ("vid1", "what moves?", "ball", "7"),
        ("vid1", "what colour is it?", "red", "7"),
        ("vid2", "who runs?", "man", "7"),
        ("vid3", "where?", "left", "8"),
        ("gone", "why?", "2", "8"),
    ]
    videos = open_ended(root, "MSVD_Zero_Shot_QA", "videos", rows)
    for name in ("vid1.avi", "vid2.AVI", "vid3.mp4"):
        clip(videos / name)
    return root


def video_chatgpt(root: Path) -> Path:
    """Write the benchmark of Video-ChatGPT: two videos, one of them missing."""
    places = root / "Benchmarking_QA"
    generic = [{"Q": f"q{n}", "A": f"a{n}", "video_name": name} for n, name in enumerate(["v_one", "v_one", "v_two"])]
    dump(places / "generic_qa.json", generic)
    dump(places / "temporal_qa.json", generic[:1])
    pairs = [{"Q1": f"first {n}", "Q2": f"second {n}", "A": "same", "video_name": "v_one"} for n in range(2)]
    dump(places / "consistency_qa.json", pairs)
    clip(root / "Test_Videos" / "v_one.mkv")
    return root


def choices_of(root: Path, subtasks, num: int = 3, seed: int = 0) -> Path:
    """Write all files of a benchmark like MVBench, `num` questions each, the last video of each subtask missing."""
    for rank, subtask in enumerate(subtasks):
        entries = []
        for number in range(num):
            candidates = ["left", "right", "up", "down"][: 2 + (rank + number) % 3]
            name = f"{subtask.name}{number}" + ("" if subtask.fps else ".mp4")
            entry = {
                "video": name,
                "question": f"{subtask.name} {number}?",
                "candidates": candidates,
                "answer": candidates[(seed + number) % len(candidates)],
            }
            if subtask.is_bounded:
                entry |= {"start": 0.1, "end": 0.8} if subtask.fps is None else {"start": 1.0, "end": 3.0}
            entries.append(entry)
            place = root / subtask.videos[0] / name
            if number < num - 1:
                (frames if subtask.fps else clip)(place)
        dump(root / "json" / f"{subtask.name}.json", entries)
    return root


class FakeEngine:
    """Answer by a rule, in reversed order; requests whose video cannot be read fail. Remembers what it was asked."""

    def __init__(
        self, rule: Callable[[Request], str | Prediction] = lambda request: request.question, name: str = "fake"
    ):
        self.rule = rule
        self.name = name
        self.asked: list[Request] = []

    def describe(self):
        return {"kind": "fake", "name": self.name}

    def predict(self, requests):
        for request in reversed(list(requests)):
            self.asked.append(request)
            if not Path(request.video).exists():
                yield Prediction(request.id, "", error="no such file")
                continue
            answer = self.rule(request)
            yield answer if isinstance(answer, Prediction) else Prediction(request.id, answer, usage={"new": 1})
