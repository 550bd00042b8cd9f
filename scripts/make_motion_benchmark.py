"""Make the miniature benchmark `motionworld`: `python scripts/make_motion_benchmark.py -o DIR`.

Clips of the motion world, in files, with questions under four tasks of MVBench and in its layout; then
`dynimg-vl eval motionworld --data DIR -o OUT`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from dynimg_vl.evaluation.tasks.motion_world import NUM_PER_TASK
from dynimg_vl.motion.files import clip_frames, write_clip
from dynimg_vl.motion.questions import ask_rates, clip_facts, draw_options
from dynimg_vl.motion.world import new_bank, sample_scenes

FAMILIES = {
    "moving_direction": ("direction", "direction_of"),
    "moving_count": ("moving_count",),
    "moving_attribute": ("colour", "moving_shape"),
    "action_sequence": ("first", "start_stop"),
}
"""The families of questions behind each task."""


def make_task(folder: Path, name: str, num: int, seed: int) -> list[dict]:
    """Write the clips of one task and give the entries of its file."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    bank, rates = new_bank(120, seed), ask_rates()
    (folder / "video" / name).mkdir(parents=True, exist_ok=True)
    entries: list[dict] = []
    while len(entries) < num:
        scene = sample_scenes(1, len(bank), generator)
        facts = clip_facts(scene)[0]
        for exchange in rates.ask(facts, 1, rng, families=FAMILIES[name]):
            video = f"{len(entries):04d}.mp4"
            write_clip(folder / "video" / name / video, clip_frames(scene, bank, seed=seed + len(entries)))
            options = draw_options(exchange, facts, rng)
            entries.append(
                {"video": video, "question": exchange.question, "candidates": options, "answer": exchange.answer}
            )
    return entries


def main() -> None:
    """Parse the command line and write the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=NUM_PER_TASK, help="questions per task")
    parser.add_argument("--seed", type=int, default=20261123)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (options.out / "json").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FAMILIES):
        entries = make_task(options.out, name, options.num, options.seed + 1000 * number)
        (options.out / "json" / f"{name}.json").write_text(json.dumps(entries, indent=1) + "\n")
        print(f"{name}: {len(entries)} questions")


if __name__ == "__main__":
    main()
