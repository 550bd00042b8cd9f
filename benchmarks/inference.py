"""Compare DynImgs with plain frames on one backbone: time to the first token, tokens a second, memory, videos a second.

    python benchmarks/inference.py --scale 0.5b --device cuda --output benchmarks/results/inference_0.5b.json

Two settings take turns on the same random weights, so that the machine's other work hits both alike; the first round
warms up and is not counted. Medians.

- dynimg: 4 DynImgs of a keyframe and 4 prompt frames, 4 x 144 tokens.
- frames: 16 frames, each whole, 16 x 144 tokens.

Time to the first token is that of the model: pixels in memory to one token, the vision tower included. Videos a second
are measured end to end through `LocalEngine`, against both of its stages alone: decoding without a model, and the model
on a video that is decoded once. `overlap` is the end-to-end rate over that of the slower stage. What a run takes to
start is left out of all three.

The comparison with the source of a converted model, a LLaVA-OneVision with its own video input, is `against_source.py`.

Random weights say nothing of answers and everything of speed. On a CPU, peak memory is that of a process of its own.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import av
import numpy as np

if __name__ == "__main__":  # the processes that decode import this file too; as in real use, they do not wait for torch
    import torch
    import transformers
    from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
    from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

    from dynimg_vl import DynImgConfig, DynImgForConditionalGeneration, DynImgProcessor, embedded_model
    from dynimg_vl.inference.ahead import LookAhead
    from dynimg_vl.inference.local import LocalEngine
    from dynimg_vl.inference.requests import Request
    from dynimg_vl.model.configuration_dynimg import QWEN2_5_7B, SIGLIP_SO400M_384

QUESTION = "Which way does the object move, and what happens to it in the end?"
SETTINGS = {"dynimg": {"num_dynimgs": 4, "num_prompt_frames": 4}, "frames": {"num_dynimgs": 16, "num_prompt_frames": 0}}
SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".ts", ".ogv"}
SCALES = ("tiny", "0.5b", "7b")


def dimensions(scale: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the dimensions of the vision tower and of the language model; those of the paper are "7b"."""
    if scale == "7b":
        return SIGLIP_SO400M_384, QWEN2_5_7B
    if scale == "0.5b":
        return SIGLIP_SO400M_384, {
            **QWEN2_5_7B, "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
            "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
        }  # fmt: skip
    vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    text = {
        "vocab_size": 1024, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 6, "num_key_value_heads": 2,
    }  # fmt: skip
    return {**SIGLIP_SO400M_384, **vision}, {**QWEN2_5_7B, **text}


class Bench:
    """Hold one model with random weights, and an engine for each setting on it."""

    def __init__(self, scale: str, device: str, dtype: str, batch_size: int, num_workers: int) -> None:
        vision, text = dimensions(scale)
        tokenizer = DynImgProcessor.from_pretrained(embedded_model()).tokenizer
        tokenizer.model_max_length = text["max_position_embeddings"]
        config = DynImgConfig(
            vision_config=SiglipVisionConfig(**vision), text_config=Qwen2Config(**text),
            video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        )  # fmt: skip
        torch.manual_seed(0)
        with torch.device(device):
            self.model = DynImgForConditionalGeneration._from_config(config, dtype=getattr(torch, dtype)).eval()
        # Answers are as long as they may be.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0
        self.engines = {}
        for name in SETTINGS:
            config.num_prompt_frames = SETTINGS[name]["num_prompt_frames"]
            processor = DynImgProcessor.from_config(config, tokenizer, num_dynimgs=SETTINGS[name]["num_dynimgs"])
            self.engines[name] = LocalEngine(self.model, processor, batch_size=batch_size, num_workers=num_workers)

    def use(self, name: str) -> "LocalEngine":
        """Turn the model to a setting; only the layout differs, no weight does."""
        self.model.config.num_prompt_frames = SETTINGS[name]["num_prompt_frames"]
        return self.engines[name]

    def answer(self, name: str, requests: "Iterable[Request]") -> list[Any]:
        """Answer requests in a setting."""
        predictions = list(self.use(name).predict(requests))
        for prediction in predictions:
            assert prediction.error is None, prediction.error
        return predictions


def latency(bench: Bench, clip: str, rounds: int, num_tokens: int) -> dict[str, dict[str, float]]:
    """Measure single requests: seconds to the first token, tokens a second after it."""
    first: dict[str, list[float]] = {name: [] for name in SETTINGS}
    rate: dict[str, list[float]] = {name: [] for name in SETTINGS}
    usage = {}
    for _ in range(rounds + 1):
        for name in SETTINGS:
            seconds = {}
            for count in (1, 1 + num_tokens):
                (prediction,) = bench.answer(name, [Request("one", clip, QUESTION, max_new_tokens=count)])
                assert prediction.usage["new"] == count
                seconds[count] = prediction.seconds["answer"]
            first[name].append(seconds[1])
            rate[name].append(num_tokens / (seconds[1 + num_tokens] - seconds[1]))
            usage[name] = dict(prediction.usage)
    return {
        name: {
            "seconds_to_first_token": round(statistics.median(first[name][1:]), 4),
            "tokens_per_second": round(statistics.median(rate[name][1:]), 1),
            "num_visual_tokens": usage[name]["visual"],
        }
        for name in SETTINGS
    }


def throughput(bench: Bench, clips: list[str], rounds: int, num_tokens: int) -> dict[str, dict[str, float]]:
    """Measure videos a second: end to end, decoding alone, the model alone."""
    kinds = ("end_to_end", "decoding", "model")
    rates: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in kinds} for name in SETTINGS}
    requests = [Request(str(n), clip, QUESTION, max_new_tokens=num_tokens) for n, clip in enumerate(clips)]
    same = [Request(str(n), clips[0], QUESTION, max_new_tokens=num_tokens) for n in range(len(clips))]
    for _ in range(rounds):
        for name in SETTINGS:
            engine = bench.use(name)
            size = engine.batch_size
            skip = min(3 * size, len(clips) // 2) // size * size or 1
            options = engine.processor.video_processor.loading_options()
            rates[name]["end_to_end"].append(steady_rate(engine.predict(requests), skip))
            with LookAhead(options, num_workers=engine.num_workers, ahead=2 * size) as ahead:
                looks = (look for _, look in ahead.look(requests))
                rates[name]["decoding"].append(steady_rate(looks, skip))
            rates[name]["model"].append(steady_rate(engine.predict(same), skip))
    results = {}
    for name in SETTINGS:
        medians = {kind: statistics.median(rates[name][kind]) for kind in kinds}
        overlap = [
            whole / min(decoding, model)
            for whole, decoding, model in zip(*(rates[name][kind] for kind in kinds), strict=True)
        ]
        results[name] = {
            **{f"videos_per_second_{kind}": round(value, 3) for kind, value in medians.items()},
            "overlap": round(statistics.median(overlap), 3),
        }
    return results


def steady_rate(results: Iterable[Any], skip: int) -> float:
    """Give results a second after the first `skip`: the start of worker processes and their lead are left out."""
    stamps = []
    for result in results:
        assert result.error is None, result.error
        stamps.append(time.perf_counter())
    return (len(stamps) - skip) / (stamps[-1] - stamps[skip - 1])


def peak_memory(name: str, clip: str, num_tokens: int, *how: Any) -> float:
    """Measure the peak memory of one answer in MiB: of the GPU, or of this process beyond what the weights take."""
    bench = Bench(*how, batch_size=1, num_workers=0)
    device = next(bench.model.parameters()).device
    on_gpu = device.type == "cuda"
    bench.use(name)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    bench.answer(name, [Request("one", clip, QUESTION, max_new_tokens=num_tokens)])
    if on_gpu:
        after = torch.cuda.max_memory_allocated(device)
    else:
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return round((after - before) / 2**20, 1)


def cache_bytes(config: Any, num_tokens: int, dtype: str) -> int:
    """Compute the size of the cache of so many tokens: keys and values of all layers."""
    text = config.text_config
    width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * width * num_tokens * torch.finfo(getattr(torch, dtype)).bits // 8


def write_clips(folder: Path, count: int) -> list[str]:
    """Write clips of ten seconds, 640 x 360, something moving over noise that does not: four kinds, then copies."""
    rng = np.random.default_rng(0)
    paths = [folder / f"clip{number:03d}.mp4" for number in range(count)]
    for number, path in enumerate(paths):
        if number >= 4:
            shutil.copyfile(paths[number % 4], path)
            continue
        ground = np.kron(rng.integers(60, 200, (45, 80, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "24"})
            stream.height, stream.width, stream.pix_fmt = 360, 640, "yuv420p"
            for frame in range(250):
                pixels = ground.copy()
                left = (frame * (3 + number)) % 560
                pixels[140:220, left : left + 80] = (220, 60, 30)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(stream.encode(None))
    return [str(path) for path in paths]


def measure(arguments: argparse.Namespace, clips: list[str]) -> dict[str, Any]:
    """Measure everything and put it side by side."""
    how = (arguments.scale, arguments.device, arguments.dtype)
    memory = {}
    for name in SETTINGS:  # each in a process of its own: what a process once had never leaves its peak
        words = ["--memory-of", name, "--memory-clip", clips[0], "--new-tokens", str(arguments.new_tokens)]
        for option in ("scale", "device", "dtype"):
            words += [f"--{option}", getattr(arguments, option)]
        command = [sys.executable, __file__, *words]
        memory[name] = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    bench = Bench(*how, batch_size=arguments.batch_size, num_workers=arguments.workers)
    results: dict[str, Any] = latency(bench, clips[0], arguments.rounds, arguments.new_tokens)
    for name, rates in throughput(bench, clips, max(1, arguments.rounds // 2), arguments.answer_tokens).items():
        visual = results[name]["num_visual_tokens"]
        cache = cache_bytes(bench.model.config, visual, arguments.dtype) / 2**20
        results[name] |= {**rates, "peak_mib_beyond_weights": memory[name], "cache_mib_of_video": round(cache, 2)}
    quotients = {
        key: round(results["dynimg"][key] / results["frames"][key], 3)
        for key in results["dynimg"]
        if key != "overlap" and results["frames"][key]
    }
    return {"settings": results, "dynimg / frames": quotients, "parameters": bench.model.num_parameters()}


def main() -> None:
    """Run the comparison and write it down."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", choices=SCALES, default="tiny")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--clips", type=Path, help="folder of videos; without it, clips are made")
    parser.add_argument("--num-clips", type=int, default=96, help="videos of the end-to-end run; few are repeated")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=min(8, max(1, (os.cpu_count() or 2) - 1)))
    parser.add_argument("--new-tokens", type=int, default=32, help="of a single answer, for tokens a second")
    parser.add_argument("--answer-tokens", type=int, default=8, help="of an answer in the end-to-end run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    parser.add_argument("--memory-of", choices=SETTINGS, help=argparse.SUPPRESS)
    parser.add_argument("--memory-clip", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    uses_gpu = arguments.device.startswith("cuda")
    arguments.dtype = arguments.dtype or ("bfloat16" if uses_gpu else "float32")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        how = (arguments.scale, arguments.device, arguments.dtype)
        print(peak_memory(arguments.memory_of, arguments.memory_clip, arguments.new_tokens, *how))
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.clips is None:
            clips = write_clips(Path(folder), arguments.num_clips)
        else:
            found = sorted(str(p) for p in arguments.clips.iterdir() if p.suffix.lower() in SUFFIXES)
            clips = [found[number % len(found)] for number in range(arguments.num_clips)]
        report = measure(arguments, clips)
    for name, numbers in {**report["settings"], "dynimg / frames": report["dynimg / frames"]}.items():
        print(f"{name}:")
        for key, value in numbers.items():
            print(f"  {key:32} {value}")
    if arguments.output:
        facts = {
            "command": " ".join(["python", *sys.argv]), "date": date.today().isoformat(),
            "machine": {"processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
                        "gpu": torch.cuda.get_device_name(arguments.device) if uses_gpu else None},
            "versions": {"python": platform.python_version(), "torch": torch.__version__,
                         "transformers": transformers.__version__, "av": av.__version__},
            "options": {key: value for key, value in vars(arguments).items() if isinstance(value, str | int)},
            **report,
        }  # fmt: skip
        arguments.output.write_text(json.dumps(facts, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
