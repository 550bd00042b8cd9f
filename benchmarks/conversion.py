"""Measure a conversion: its memory, and how far features move from the source's patch grid to that of a DynImg.

    python benchmarks/conversion.py memory --size 0.5b --output benchmarks/results/conversion_memory_0_5b.json
    python benchmarks/conversion.py grid --output benchmarks/results/conversion_grid.json

- memory: a LLaVA-OneVision of the real dimensions in bfloat16, its weights zeros in sparse files (they take no room;
  what is written does), converted by a process of its own. `peak_gb` is all of its resident memory, pages of mapped
  files among it, which the kernel takes back when it needs them; `peak_anonymous_gb` is what it cannot take back.
- grid: the SigLIP so400m of 26 layers and the projector of a 0.5B, random weights of transformers' own initialisation
  in float32. Procedural pictures are read at 384 px (27 x 27 patches) and at 336 px (24 x 24, the position embedding
  interpolated), both pooled to 12 x 12 tokens. `moved` is |difference| / |features| over all tokens, both less the mean
  token of all pictures at 384 px, which a random network gives to everything; `another_picture` is the same between
  two pictures at 384 px. The table of positions is once noise, which no interpolation can keep, and once smooth.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from dynimg_vl import DynImgConfig
from dynimg_vl.model.configuration_dynimg import QWEN2_5_7B, SIGLIP_SO400M_384
from dynimg_vl.model.footprint import QWEN2_0_5B
from dynimg_vl.model.modeling_dynimg import DynImgModel

SIZES = {"0.5b": QWEN2_0_5B, "7b": QWEN2_5_7B}
TOWER = {**SIGLIP_SO400M_384, "num_hidden_layers": 26}
SOURCE_FILE_BYTES = 5_000_000_000
CHILD = "import sys; from dynimg_vl.conversion import convert; convert(sys.argv[1], sys.argv[2])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "grid"])
    parser.add_argument("--size", choices=SIZES, default="0.5b")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to write the models (memory); the default is temporary")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    results = memory(args.size, args.folder) if args.what == "memory" else grid(args.pictures, args.seed)
    content = {
        "command": " ".join(["python", *sys.argv]),
        "date": date.today().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "results": results,
    }
    args.output.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(results, indent=2))


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def memory(size: str, folder: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source, output = Path(name) / "source", Path(name) / "model"
        source.mkdir()
        num_bytes = write_source(source, size)
        started = time.perf_counter()
        with subprocess.Popen([sys.executable, "-c", CHILD, str(source), str(output)]) as process:
            peaks = {"VmHWM": 0, "RssAnon": 0}
            watch = threading.Thread(target=follow, args=(process, peaks))
            watch.start()
            if process.wait():
                raise SystemExit("the conversion failed")
            watch.join()
        written = sum(path.stat().st_size for path in output.glob("*.safetensors"))
        return {
            "size": size,
            "source_gb": round(num_bytes / 1e9, 2),
            "written_gb": round(written / 1e9, 2),
            "files": len(list(output.glob("*.safetensors"))),
            "peak_gb": round(peaks["VmHWM"] / 1e6, 2),
            "peak_anonymous_gb": round(peaks["RssAnon"] / 1e6, 2),
            "seconds": round(time.perf_counter() - started, 1),
        }


def follow(process: subprocess.Popen, peaks: dict[str, int]) -> None:
    while process.poll() is None:
        try:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            key, _, value = line.partition(":")
            if key in peaks:
                peaks[key] = max(peaks[key], int(value.split()[0]))  # kB
        time.sleep(0.02)


def write_source(folder: Path, size: str) -> int:
    """Write the configuration, the tokenizer and sparse weights of a LLaVA-OneVision; give the bytes of the weights."""
    config = LlavaOnevisionConfig(vision_config=TOWER | {"model_type": "siglip_vision_model"}, text_config=SIZES[size])
    with torch.device("meta"):
        state = LlavaOnevisionForConditionalGeneration(config).state_dict()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight")
    files: list[dict[str, tuple[int, ...]]] = [{}]
    room = SOURCE_FILE_BYTES
    for key, value in state.items():
        if value.numel() * 2 > room:
            files.append({})
            room = SOURCE_FILE_BYTES
        files[-1][key] = tuple(value.shape)
        room -= value.numel() * 2
    weight_map = {}
    for rank, shapes in enumerate(files, 1):
        name = f"model-{rank:05d}-of-{len(files):05d}.safetensors"
        write_sparse(folder / name, shapes)
        weight_map |= dict.fromkeys(shapes, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config.save_pretrained(folder)
    write_tokenizer(folder)
    return sum(value.numel() * 2 for value in state.values())


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        end = offset + torch.Size(shape).numel() * 2
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(special)}, merges=[]))
    tokenizer.add_special_tokens(special)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(folder)


def grid(num_pictures: int, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    text = {**QWEN2_0_5B, "num_hidden_layers": 1, "vocab_size": 8}  # the projector's width is all that is used
    config = DynImgConfig(vision_config=TOWER, text_config=text, vision_feature_layer=-1, video_token_id=1)
    model = DynImgModel(config).eval()
    pictures = procedural_pictures(num_pictures)
    table = model.vision_tower.embeddings.position_embedding.weight
    noise = table.detach().clone()
    coarse = torch.randn(1, noise.shape[1], 7, 7)
    smooth = functional.interpolate(coarse, size=(27, 27), mode="bicubic").flatten(2)[0].T
    results = {}
    for name, values in (("noise", noise), ("smooth", smooth * noise.std() / smooth.std())):
        with torch.no_grad():
            table.copy_(values)
            large = tokens_at(model, pictures, 27)
            small = tokens_at(model, pictures, 24)
        centred, moved = large - large.mean((0, 1)), small - large
        other = large - large.roll(1, 0)
        results[f"table_{name}"] = {
            "moved": round((moved.norm() / centred.norm()).item(), 3),
            "moved_of_whole_features": round((moved.norm() / large.norm()).item(), 4),
            "another_picture": round((other.norm() / centred.norm()).item(), 3),
        }
    return {"pictures": num_pictures, "seed": seed, **results}


def procedural_pictures(count: int) -> torch.Tensor:
    """Sum noise of five scales, as natural pictures have it: amplitude falls with frequency."""
    total = torch.zeros(count, 3, 768, 768)
    for cells in (3, 6, 12, 24, 48):
        total += (
            functional.interpolate(torch.randn(count, 3, cells, cells), size=(768, 768), mode="bicubic") / cells**0.5
        )
    return (total / total.std() / 2).clamp(-1, 1)


def tokens_at(model: DynImgModel, pictures: torch.Tensor, patch_grid: int) -> torch.Tensor:
    side = patch_grid * model.config.vision_config.patch_size + (6 if patch_grid == 27 else 0)  # 384 px has 27 patches
    pixels = functional.interpolate(pictures, size=(side, side), mode="bicubic", antialias=True)
    tokens = []
    for picture in pixels.split(1):
        outputs = model.vision_tower(picture, interpolate_pos_encoding=patch_grid != 27, output_hidden_states=True)
        projector = model.multi_modal_projector
        hidden = projector.linear_2(projector.act(projector.linear_1(outputs.hidden_states[-1])))
        square = hidden.unflatten(1, (patch_grid, patch_grid)).permute(0, 3, 1, 2)
        tokens.append(functional.adaptive_avg_pool2d(square, 12).flatten(2).transpose(1, 2))
    return torch.cat(tokens)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
