"""Compare a converted model with its source on one machine: time to the first token, tokens a second, memory, cache.

    python benchmarks/against_source.py --size 0.5b --threads 1 --output benchmarks/results/against_source_0_5b_cpu.json
    python benchmarks/against_source.py --size 7b --device cuda --output benchmarks/results/against_source_7b_gpu.json

Settings take turns, so that the machine's other work hits all alike; a small prompt for each model warms up. Medians.

- dynimg: the model that `convert` makes, 4 DynImgs of 336 px, 4 x 144 tokens.
- source16, source32: the LLaVA-OneVision of transformers with its own video input, so many frames of 384 px, 196 tokens
  each and one that ends the video.

Both have random weights of the real dimensions, which say nothing of answers and everything of speed. Time is that of
the model, from normalised pixels in memory to a token, the vision tower included; `benchmarks/inference.py` has
decoding. `cpu_seconds_to_first_token` is what the process used; beside other work it is steadier than the wall clock.
Memory is what one answer takes at its peak beyond the weights of both models.
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from dynimg_vl import DynImgConfig, DynImgForConditionalGeneration
from dynimg_vl.model.configuration_dynimg import QWEN2_5_7B, SIGLIP_SO400M_384
from dynimg_vl.model.footprint import QWEN2_0_5B

SIZES = {
    "tiny": {
        **QWEN2_0_5B, "vocab_size": 1024, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 6,
    },
    "0.5b": QWEN2_0_5B,
    "7b": QWEN2_5_7B,
}  # fmt: skip
TOWER = {**SIGLIP_SO400M_384, "num_hidden_layers": 26}  # the one layer that nobody reads is not in these sources
TINY_TOWER = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
NUM_FRAMES = {"dynimg": 4, "source16": 16, "source32": 32}  # pictures that the tower reads
IMAGE_TOKEN, VIDEO_TOKEN, TEXT_TOKENS = 3, 4, 40


def configurations(size: str, layers: int | None = None) -> tuple[DynImgConfig, LlavaOnevisionConfig]:
    """Give the configuration of a converted model and that of its source; `layers` cuts both of their towers."""
    cut = {} if layers is None else {"num_hidden_layers": layers}
    vision = {**TOWER, **(TINY_TOWER if size == "tiny" else {}), **cut}
    text = {**SIZES[size], **cut}
    ours = DynImgConfig(
        vision_config=vision, text_config=text, vision_feature_layer=-1, rope_axes="s", sequence_step="token",
        tie_word_embeddings=bool(text.get("tie_word_embeddings", False)), video_token_id=VIDEO_TOKEN,
    )  # fmt: skip
    theirs = LlavaOnevisionConfig(
        vision_config={**vision, "model_type": "siglip_vision_model", "vision_use_head": False},
        text_config={**text, "model_type": "qwen2"}, image_token_index=IMAGE_TOKEN, video_token_index=VIDEO_TOKEN,
        tie_word_embeddings=bool(text.get("tie_word_embeddings", False)),
    )  # fmt: skip
    return ours, theirs


def build(size: str, device: str, dtype: torch.dtype, layers: int | None = None) -> dict[str, Any]:
    """Build both models with random weights."""
    ours, theirs = configurations(size, layers)
    torch.manual_seed(0)
    with torch.device(device):
        models = {
            "dynimg": DynImgForConditionalGeneration._from_config(ours, dtype=dtype).eval(),
            "source": LlavaOnevisionForConditionalGeneration._from_config(theirs, dtype=dtype).eval(),
        }
    for model in models.values():  # answers are as long as they may be
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
    return models


def inputs_for(models: dict[str, Any], name: str, num_pictures: int) -> tuple[Any, dict[str, torch.Tensor]]:
    """Give the model of a setting and its inputs: a video of so many pictures in a prompt of 40 text tokens."""
    model = models["dynimg" if name == "dynimg" else "source"]
    config, device = model.config, model.device
    vision = config.vision_config
    if name == "dynimg":
        side, num_visual = config.layout.image_size, num_pictures * config.layout.tokens_per_dynimg
    else:
        side = vision.image_size
        pooled = -(-(side // vision.patch_size) // 2)
        num_visual = num_pictures * pooled**2 + 1
    text = torch.randint(5, 500, (1, TEXT_TOKENS), generator=torch.Generator().manual_seed(0))
    video = torch.full((1, num_visual), VIDEO_TOKEN)
    input_ids = torch.cat([text[:, :8], video, text[:, 8:]], dim=1).to(device)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    pixels = torch.randn(num_pictures, 3, side, side, generator=torch.Generator().manual_seed(1))
    pixels = pixels.to(device, model.dtype)
    if name == "dynimg":
        return model, {**inputs, "pixel_values_videos": pixels, "dynimgs_per_video": torch.tensor([num_pictures])}
    return model, {**inputs, "pixel_values_videos": pixels[None]}


class Stamps:
    """Note when each token comes; `generate` gives it the prompt first."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def put(self, tokens: torch.Tensor) -> None:
        """Note the time of tokens, once they have been computed."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def end(self) -> None:
        """Do nothing more."""


def answer(model: Any, inputs: dict[str, torch.Tensor], num_new: int) -> dict[str, float]:
    """Answer once and measure it."""
    stamps = Stamps(model.device)
    before = reset_peak(model.device)
    started, used = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=num_new, do_sample=False, streamer=stamps)
    assert output.shape[1] == inputs["input_ids"].shape[1] + num_new
    return {
        "seconds_to_first_token": stamps.wall[1] - started,
        "cpu_seconds_to_first_token": stamps.cpu[1] - used,
        "tokens_per_second": (num_new - 1) / (stamps.wall[-1] - stamps.wall[1]) if num_new > 1 else float("nan"),
        "peak_mib_beyond_weights": (peak(model.device) - before) / 2**20,
    }


def reset_peak(device: torch.device) -> int:
    """Forget the peak of memory so far and give the bytes in use; on a CPU this takes Linux and glibc."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)  # what earlier answers gave back would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    return peak(device)


def peak(device: torch.device) -> int:
    """Give the largest number of bytes in use since the last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def cache_mib(model: Any, num_tokens: int) -> float:
    """Compute the size of the keys and values of so many tokens."""
    text = model.config.text_config
    width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * width * num_tokens * model.dtype.itemsize / 2**20


def measure(models: dict[str, Any], names: list[str], rounds: int, num_new: int) -> dict[str, Any]:
    """Measure the settings in turns and put them side by side."""
    for name in names:
        model, inputs = inputs_for(models, name, 1)
        answer(model, inputs, 2)
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name in names:
            model, inputs = inputs_for(models, name, NUM_FRAMES[name])
            seen[name].append(answer(model, inputs, num_new))
            print(name, seen[name][-1], file=sys.stderr, flush=True)
            visual = int((inputs["input_ids"] == VIDEO_TOKEN).sum())
            results[name] = {"num_visual_tokens": visual, "cache_mib_of_video": cache_mib(model, visual)}
    for name in names:
        results[name] |= {key: statistics.median(each[key] for each in seen[name]) for key in seen[name][0]}
        results[name] = {key: round(value, 4) for key, value in results[name].items()}
    quotients = {
        f"dynimg / {name}": {
            key: round(results["dynimg"][key] / value, 3) for key, value in results[name].items() if value
        }
        for name in names
        if name != "dynimg"
    }
    return {"settings": results, **quotients}


def main() -> None:
    """Run the comparison and write it down."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--layers", type=int, help="of both towers, in place of all; what is measured shrinks alike")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--frames", type=int, nargs="+", choices=[16, 32], default=[16, 32], help="of the source")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    arguments = parser.parse_args()
    uses_gpu = arguments.device.startswith("cuda")
    dtype = arguments.dtype or ("bfloat16" if uses_gpu else "float32")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    models = build(arguments.size, arguments.device, getattr(torch, dtype), arguments.layers)
    names = ["dynimg", *(f"source{count}" for count in arguments.frames)]
    report = measure(models, names, arguments.rounds, arguments.new_tokens)
    facts = {
        "command": " ".join(["python", *sys.argv]), "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
                    "gpu": torch.cuda.get_device_name(arguments.device) if uses_gpu else None},
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "transformers": transformers.__version__},
        "dtype": dtype, "rounds": arguments.rounds,
        "parameters": {name: model.num_parameters() for name, model in models.items()},
        **report,
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(facts, indent=1) + "\n")


def processor() -> str:
    """Name the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
