"""Measure a model on the motion world through real files: rendered, encoded, then read by the shipped chain.

Controls show where an answer comes from: with the prompt frames grey, all alike, or in another order, a model that
reads motion off them must fall to chance, or answer for the order that it sees.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...layout import DynImgLayout
from ...model import DynImgForConditionalGeneration, DynImgProcessor
from ...motion.files import CODECS, clip_frames, write_clip
from ...motion.questions import Exchange, ask_rates, clip_facts
from ...motion.textures import PictureBank
from ...motion.world import sample_scenes

CONTROLS = ("none", "grey", "frozen", "shuffled", "reversed")
"""What is done to the prompt frames; "none" leaves them."""


@dataclass(frozen=True)
class TestClip:
    """Hold one clip of the test set: its file in the folder, its codec, its motion and what is asked about it."""

    file: str
    codec: str
    exchanges: tuple[Exchange, ...]


def make_clips(
    folder: Path, bank: PictureBank, num_per_codec: int, seed: int, num_questions: int = 4, num_frames: int = 45
) -> list[TestClip]:
    """Render and encode a test set; a folder that is complete is read instead."""
    index = folder / "clips.jsonl"
    if index.exists():
        return read_clips(folder)
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    rates = ask_rates()
    clips: list[TestClip] = []
    for codec, kind in CODECS.items():
        done = 0
        while done < num_per_codec:
            scene = sample_scenes(1, len(bank), generator)
            exchanges = rates.ask(clip_facts(scene)[0], num_questions, rng)
            if not exchanges:
                continue
            name = f"{codec}_{done:04d}{kind.suffix}"
            frames = clip_frames(scene, bank, num_frames, seed=seed + done)
            write_clip(folder / name, frames, fps=15.0, codec=codec)
            clips.append(TestClip(name, codec, tuple(exchanges)))
            done += 1
    index.write_text("".join(json.dumps(asdict(clip)) + "\n" for clip in clips))
    return clips


def read_clips(folder: Path) -> list[TestClip]:
    """Read the list of a test set that `make_clips` wrote."""
    rows = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    return [TestClip(row["file"], row["codec"], tuple(Exchange(**part) for part in row["exchanges"])) for row in rows]


def disturb(pixels: Tensor, layout: DynImgLayout, control: str, generator: torch.Generator) -> Tensor:
    """Change the prompt frames of composed DynImgs (G, 3, S, S) uint8 as a control asks; the keyframe stays."""
    if control == "none":
        return pixels
    pixels = pixels.clone()
    places = [tile.slices for tile in layout.pixel_tiles[1:]]
    prompts = torch.stack([pixels[:, :, rows, columns] for rows, columns in places])
    count = len(places)
    if control == "grey":
        prompts = torch.full_like(prompts, 127)
    elif control == "frozen":
        prompts = prompts[count // 2].expand_as(prompts)
    elif control == "reversed":
        prompts = prompts.flip(0)
    else:
        prompts = prompts[torch.randperm(count, generator=generator)]
    for rank, (rows, columns) in enumerate(places):
        pixels[:, :, rows, columns] = prompts[rank]
    return pixels


def answer_all(
    model: DynImgForConditionalGeneration,
    processor: DynImgProcessor,
    items: list[tuple[Any, str]],
    batch_size: int = 32,
) -> Iterator[str]:
    """Answer pairs of a loaded video (`DynImgs`) and a question, by greedy decoding in batches."""
    runner: Any = model  # transformers types `generate` for its own classes only
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        chats: Any = [
            [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
            for _, question in part
        ]
        texts: Any = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        inputs: Any = processor(text=texts, videos=[video for video, _ in part], padding=True, return_tensors="pt")
        inputs = inputs.to(model.device, model.dtype)
        with torch.inference_mode():
            tokens = runner.generate(**inputs, max_new_tokens=24, do_sample=False)
        for row in tokens[:, inputs["input_ids"].shape[1] :]:
            yield processor.tokenizer.decode(row, skip_special_tokens=True).strip()


def evaluate_clips(
    model: DynImgForConditionalGeneration,
    processor: DynImgProcessor,
    folder: Path,
    clips: list[TestClip],
    control: str = "none",
    seed: int = 0,
) -> list[dict[str, str]]:
    """Answer all questions of a test set: one row each with file, codec, family, question, wanted and given answer."""
    generator = torch.Generator().manual_seed(seed)
    items, rows = [], []
    for clip in clips:
        video = processor.video_processor.load(str(folder / clip.file))
        pixels = torch.as_tensor(video.pixels)
        layout = processor.video_processor.layout
        changed = disturb(pixels, layout, control, generator)
        video = replace(video, pixels=changed.numpy() if isinstance(video.pixels, np.ndarray) else changed)
        for exchange in clip.exchanges:
            items.append((video, exchange.question))
            rows.append({"file": clip.file, "codec": clip.codec, **asdict(exchange)})
    for row, given in zip(rows, answer_all(model, processor, items), strict=True):
        row["given"] = given
    return rows


def summarise(rows: list[dict[str, str]], key: str = "family") -> dict[str, dict[str, float]]:
    """Give, for each value of `key`, the share of exact answers, that of the most frequent answer, and the number."""
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return {
        name: {
            "exact": round(sum(row["given"] == row["answer"] for row in group) / len(group), 4),
            "majority": round(Counter(row["answer"] for row in group).most_common(1)[0][1] / len(group), 4),
            "questions": len(group),
        }
        for name, group in sorted(groups.items())
    }
