"""Measure a training step: DynImgs against 16 pictures, 4-D positions against 1-D, and what the data path gives.

    python benchmarks/training.py --output benchmarks/results/training_cpu.json
    python benchmarks/training.py --scale 7b --device cuda --lora --batch 8 --checkpointing --output ...

Weights and the inputs of the steps are random; forward, backward, clipping, AdamW. One model serves both settings:

- dynimg: 4 DynImgs, 4 pictures through the vision tower, 576 visual tokens.
- pllava: 16 frames, each a picture of its own, 16 x 144 = 2304 visual tokens. No prompt frames.

Settings take turns within each round; the first round warms up and is not counted. Medians, and medians of the
quotients of neighbours, which hold where the machine's speed drifts. On a CPU with `--threads 1` the clock is the CPU
time of the process, which other work on the machine disturbs least. Utilisation is operations by formula (see flops.py)
per second over the peak: a data sheet's where the GPU is known, else that of the fastest matrix product measured in the
same run. Data: drawn clips written with x264, read by the dataset, collator and loader of the trainer, from the videos
and from shards of them; the files are in the machine's cache. "waiting" is the share of a step in which the loader
has no batch ready.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import transformers
from torch.utils.data import DataLoader, Dataset
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

from dynimg_vl import DynImgConfig, DynImgForConditionalGeneration, DynImgProcessor, embedded_model
from dynimg_vl.model.configuration_dynimg import QWEN2_5_7B, SIGLIP_SO400M_384
from dynimg_vl.model.rotary import DynImgRotaryEmbedding
from dynimg_vl.motion.files import write_clip
from dynimg_vl.training.answer_logits import at_answers
from dynimg_vl.training.data.collator import Collator
from dynimg_vl.training.data.dataset import VideoTextDataset
from dynimg_vl.training.data.mixture import Mixture, Source
from dynimg_vl.training.data.sample_source import open_samples
from dynimg_vl.training.data.shard_building import BuildOptions, ShardPlan, build_shards
from dynimg_vl.training.lora import LoraSettings, add_lora
from dynimg_vl.training.parameter_groups import master_weights
from flops import forward_work, known_peak, measured_peak, synchronise

SETTINGS = {"dynimg": 4, "pllava": 16}
PARTS = ("step", "positions", "loader", "waiting")
QWEN2_5_05B = {
    **QWEN2_5_7B, "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2,
}  # fmt: skip
TINY_VISION = {
    **SIGLIP_SO400M_384, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4
}  # fmt: skip
TINY_TEXT = {
    **QWEN2_5_7B, "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
SCALES = {
    "tiny": (TINY_VISION, TINY_TEXT),
    "0.5b": (SIGLIP_SO400M_384, QWEN2_5_05B),
    "7b": (SIGLIP_SO400M_384, QWEN2_5_7B),
}
VIDEO_TOKEN_ID = 5  # of the embedded tokenizer
GIB = 2**30


# --- the step --------------------------------------------------------------------------------------------------------


class Bench:
    """Hold a model on a device, and run steps of it.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        is_alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        self.clock = time.process_time if is_alone else time.perf_counter
        is_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if is_gpu else torch.float32
        vision, text = SCALES[options.scale]
        self.config = DynImgConfig(
            vision_config=SiglipVisionConfig(**vision), text_config=Qwen2Config(**text), video_token_id=VIDEO_TOKEN_ID
        )
        torch.manual_seed(options.seed)
        with self.device:
            model: Any = DynImgForConditionalGeneration(self.config).to(self.dtype)
        if options.attention:
            model.set_attn_implementation(options.attention)
        if options.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.inner = model
        self.model = (add_lora(model, LoraSettings(dropout=0.0)) if options.lora else model).train()
        if is_gpu and not options.bf16_weights:
            master_weights(self.model)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-6)

    def inputs(self, num_pictures: int) -> dict[str, torch.Tensor]:
        """Make a random batch: so many pictures a sample, their tokens, and text behind them."""
        batch, num_text = self.options.batch, self.options.text_tokens
        size, per_picture = self.config.layout.image_size, self.config.layout.tokens_per_dynimg
        generator = torch.Generator().manual_seed(self.options.seed)
        words = torch.randint(VIDEO_TOKEN_ID + 1, 500, (batch, num_text), generator=generator)
        ids = torch.cat([torch.full((batch, num_pictures * per_picture), VIDEO_TOKEN_ID), words], dim=1)
        labels = ids.clone()
        labels[:, : -(num_text - num_text // 2)] = -100  # a question, then an answer
        made = {
            "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels,
            "pixel_values_videos": torch.randn(batch * num_pictures, 3, size, size, generator=generator),
            "dynimgs_per_video": torch.full((batch,), num_pictures),
        }  # fmt: skip
        return {name: value.to(self.device) for name, value in made.items()}

    def step(self, inputs: dict[str, torch.Tensor]) -> float:
        """Run one step; returns its seconds."""
        synchronise(self.device)
        start = self.clock()
        is_mixed = self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if is_mixed else nullcontext():
            loss = self.model(**at_answers(inputs), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        synchronise(self.device)
        return self.clock() - start

    @contextmanager
    def positions(self, axes: str) -> Iterator[None]:
        """Rotate by other axes for a while: "s" is the stock embedding."""
        text, config = self.inner.model.language_model, self.inner.config
        before = text.rotary_emb, config.rope_axes
        if axes != before[1]:
            text.rotary_emb = DynImgRotaryEmbedding(config.text_config, axes).to(self.device)  # type: ignore[arg-type]
            config.rope_axes = axes
        try:
            yield
        finally:
            text.rotary_emb, config.rope_axes = before


def measure_steps(bench: Bench) -> dict[str, Any]:
    """Time steps of both settings in turn."""
    inputs = {name: bench.inputs(number) for name, number in SETTINGS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    memory: dict[str, float] = {}
    for turn in range(bench.options.rounds + 1):
        for name, batch in inputs.items():
            if bench.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(bench.device)
            spent = bench.step(batch)
            if turn:
                seconds[name].append(spent)
            if bench.device.type == "cuda":
                memory[name] = max(memory.get(name, 0.0), torch.cuda.max_memory_allocated(bench.device) / GIB)
    peak, source = known_peak(bench.device, bench.dtype), "data sheet"
    measured = measured_peak(bench.device, bench.dtype, bench.clock)
    if peak is None:
        peak, source = measured, "fastest matrix product in this run"
    result: dict[str, Any] = {"peak_tflops": _round(peak / 1e12), "peak_is": source}
    result["measured_matmul_tflops"] = _round(measured / 1e12)
    for name, number in SETTINGS.items():
        tokens = inputs[name]["input_ids"].shape[1]
        logits = bench.options.text_tokens - bench.options.text_tokens // 2
        work = forward_work(bench.config, number, tokens, logits).step(is_lora=bench.options.lora)
        median = statistics.median(seconds[name])
        result[name] = {
            "pictures": number, "tokens": tokens, "step_seconds": _round(median),
            "samples_per_second": _round(bench.options.batch / median), "tflop_per_sample": _round(work / 1e12),
            "utilisation": _round(work * bench.options.batch / median / peak),
            "peak_memory_gib": _round(memory[name]) if name in memory else None,
        }  # fmt: skip
    result["samples_per_second_dynimg_over_pllava"] = _quotients(seconds["pllava"], seconds["dynimg"])
    return result


def measure_positions(bench: Bench) -> dict[str, Any]:
    """Time steps of DynImgs with 4-D and with 1-D positions in turn."""
    inputs = bench.inputs(SETTINGS["dynimg"])
    seconds: dict[str, list[float]] = {"hwts": [], "s": []}
    for turn in range(2 * bench.options.rounds + 1):
        for axes in sorted(seconds, reverse=bool(turn % 2)):  # neither is always the second
            with bench.positions(axes):
                spent = bench.step(inputs)
            if turn:
                seconds[axes].append(spent)
    medians = {f"{axes}_step_seconds": _round(statistics.median(each)) for axes, each in seconds.items()}
    return {**medians, "hwts_over_s": _quotients(seconds["hwts"], seconds["s"])}


# --- the data --------------------------------------------------------------------------------------------------------


def clip_frames(seed: int, num_frames: int, height: int = 360, width: int = 640) -> Iterator[np.ndarray]:
    """Draw a patchwork that pans, with noise."""
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 255, (24, 64, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    noise = rng.integers(0, 12, (height, width, 3), dtype=np.uint8)
    for number in range(num_frames):
        yield np.maximum(picture[:height, 2 * number % 600 :][:, :width], np.roll(noise, 37 * number, axis=1))


def write_data(folder: Path, num_clips: int, num_samples: int, num_frames: int) -> dict[str, Path]:
    """Write clips, lines about them and shards of both; returns what the dataset opens."""
    for number in range(num_clips):
        write_clip(folder / f"{number}.mp4", clip_frames(number, num_frames), fps=24)
    rows = []
    for number in range(num_samples):
        asked = [{"type": "video", "video": f"{number % num_clips}.mp4"}, {"type": "text", "text": "What happens?"}]
        said = {"role": "assistant", "content": f"Something moves, for the time number {number}."}
        rows.append(json.dumps({"messages": [{"role": "user", "content": asked}, said]}))
    annotations = folder / "data.jsonl"
    annotations.write_text("\n".join(rows))
    mixture = Mixture((Source("data", (annotations,), folder),), path=annotations)
    build_shards(ShardPlan(mixture, BuildOptions()), folder / "shards")
    return {"videos": annotations, "shards": folder / "shards"}


def open_dataset(path: Path, config: DynImgConfig) -> tuple[Dataset, Collator]:
    """Open data as the trainer does, for a model of this shape and the embedded tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_model())
    processor = DynImgProcessor.from_config(config, tokenizer)
    return VideoTextDataset(open_samples(path), processor), Collator(int(tokenizer.pad_token_id))


def measure_loader(data: dict[str, Path], bench: Bench, workers: list[int]) -> dict[str, Any]:
    """Measure samples per second of the loader alone, and milliseconds of CPU per sample in one process."""
    result: dict[str, Any] = {}
    for name, path in data.items():
        dataset, collator = open_dataset(path, bench.config)
        spent = []
        for index in range(min(len(dataset), 12)):  # type: ignore[arg-type]
            start = time.process_time()
            dataset[index]
            spent.append(1000 * (time.process_time() - start))
        result[name] = {"cpu_ms_per_sample": _round(statistics.median(spent[2:])), "samples_per_second": {}}
        for number in workers:
            loader = DataLoader(dataset, bench.options.batch, collate_fn=collator, num_workers=number)
            batches = iter(loader)
            next(batches)  # workers have started
            start, count = time.perf_counter(), 0
            for batch in batches:
                count += len(batch["input_ids"])
            result[name]["samples_per_second"][str(number)] = _round(count / (time.perf_counter() - start))
    return result


def measure_waiting(data: dict[str, Path], bench: Bench, workers: int) -> dict[str, Any]:
    """Train on real batches, and add up the time until the next one is there."""
    result: dict[str, Any] = {"workers": workers}
    for name, path in data.items():
        dataset, collator = open_dataset(path, bench.config)
        loader = DataLoader(
            dataset,
            bench.options.batch,
            collate_fn=collator,
            num_workers=workers,
            pin_memory=bench.device.type == "cuda",
        )
        batches: Iterator[Any] = iter(loader)
        waiting: list[float] = []
        working: list[float] = []
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            waiting.append(time.perf_counter() - start)
            start = time.perf_counter()
            bench.step({key: value.to(bench.device, non_blocking=True) for key, value in batch.items()})
            working.append(time.perf_counter() - start)
        skipped = min(2, len(waiting) - 1)  # until the workers have started
        total = sum(waiting[skipped:]) + sum(working[skipped:])
        result[name] = {
            "share": _round(sum(waiting[skipped:]) / total),
            "steps": len(waiting) - skipped,
            "wait_seconds": _round(statistics.median(waiting[skipped:])),
            "step_seconds": _round(statistics.median(working[skipped:])),
        }
    return result


# --- the report ------------------------------------------------------------------------------------------------------


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _quotients(numerators: list[float], denominators: list[float]) -> dict[str, float]:
    values = [one / other for one, other in zip(numerators, denominators, strict=True)]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    found = {"median": statistics.median(values), "mean": statistics.fmean(values), "error_of_mean": error}
    return {name: _round(value) for name, value in {**found, "min": min(values), "max": max(values)}.items()}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--lora", action=argparse.BooleanOptionalAction, default=False, help="adapters of rank 128")
    parser.add_argument("--full", dest="lora", action="store_false", help="all weights; the default")
    parser.add_argument("--attention", help="sdpa (default), flash_attention_2 or eager")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--bf16-weights", action="store_true", help="no float32 copies of what learns (7b --full)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure; all by default")
    parser.add_argument("--batch", type=int, default=1, help="samples a step")
    parser.add_argument("--text-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2, 4, 8], help="numbers to try; none: no data")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--clip-frames", type=int, default=240, help="24 a second")
    parser.add_argument("--samples", type=int, default=96, help="of the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    return parser.parse_args()


def main() -> None:
    """Run what was asked for and write it down."""
    options = parse()
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options)
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]), "date": date.today().isoformat(), "machine": _machine(bench.device),
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
            "av": av.__version__,
        },
        "options": {name: value for name, value in vars(options).items() if name != "output"},
        "parameters": sum(p.numel() for p in bench.model.parameters()),
        "clock": "CPU time" if bench.clock is time.process_time else "wall time",
        "weights": str(bench.dtype), "threads": torch.get_num_threads(),
    }  # fmt: skip
    parts: dict[str, Callable[[], Any]] = {
        "step": lambda: measure_steps(bench), "positions": lambda: measure_positions(bench)
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        if options.workers:
            data = write_data(Path(name), options.clips, options.samples, options.clip_frames)
            parts["loader"] = lambda: measure_loader(data, bench, options.workers)
            parts["waiting"] = lambda: measure_waiting(data, bench, max(options.workers))
        for part, measure in parts.items():
            if part not in options.parts:
                continue
            report[part] = measure()
            print(part, json.dumps(report[part], indent=1), flush=True)
    report["process_peak_memory_gib"] = _round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")


def _machine(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {"cores": os.cpu_count(), "system": platform.system(), "processor": platform.machine()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = (line for line in info.read_text().splitlines() if line.startswith("model name"))
        found["processor"] = next((line.split(":", 1)[1].strip() for line in names), found["processor"])
    return found


if __name__ == "__main__":
    main()
