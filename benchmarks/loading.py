"""Compare the time to load a video: ours against decord, plain PyAV and the bound of decoding our frames alone.

    python benchmarks/loading.py --clips FOLDER_OF_VIDEOS --output benchmarks/results/loading_cpu.json

The videos that were measured are named in benchmarks/real_videos.tsv.

Every clip gets a process of its own in which the loaders take turns, so that caches and the machine's other work hit
all alike; the first round warms up and is not counted. Medians of CPU time and wall time in milliseconds, one decoder
thread.

- decord: 16 uniform frames, resized to 336 x 336 with PIL: the loader of the PLLaVA baseline. `pip install decord`.
- pyav: the same frames by decoding from the start to the last of them.
- ours: `load_dynimgs`, 4 DynImgs = 20 frames composed at 336 x 336.
- bound: the frames of ours, chosen beforehand, decoded and scaled from packets in memory; plus opening the file.

Long clips are loops of short ones, their packets copied (`--loop`), as mp4, mkv and ts.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import av
import numpy as np
from PIL import Image

from dynimg_vl.loading import DynImgs, load_dynimgs
from dynimg_vl.video.container import Limits, open_video
from dynimg_vl.video.index import Sampling, open_index
from dynimg_vl.video.reader import read_sizes

NUM_FRAMES, SIZE = 16, 336
LOOP_SECONDS = (10, 60, 600, 3600)
PYAV_SECONDS = 300  # decoding an hour from the start takes minutes and tells nothing new
LOOP_SUFFIXES = (".mp4", ".mkv", ".ts")
DENSE = 20  # I-frames that make a clip dense
SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".ts", ".ogv", ".gif", ".flv"}


def uniform_indices(num_frames: int) -> list[int]:
    """Spread 16 frames as PLLaVA does: the middles of equal segments."""
    step = (num_frames - 1) / NUM_FRAMES
    return [min(num_frames - 1, int(step / 2) + round(step * rank)) for rank in range(NUM_FRAMES)]


def load_with_decord(path: str) -> np.ndarray:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    frames = reader.get_batch(uniform_indices(len(reader))).asnumpy()
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for frame in frames]
    )


def load_with_pyav(path: str) -> np.ndarray:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        count = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        if not stream.frames:
            container.seek(0)
        wanted, frames = set(uniform_indices(count)), []
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                frames.append(frame.reformat(SIZE, SIZE, "rgb24").to_ndarray())
            if number >= max(wanted):
                break
    return np.stack(frames)


def bound_of(path: str, loaded: DynImgs) -> Callable[[], float]:
    """Prepare the frames of ours; the function decodes and scales them and returns its CPU time in seconds."""
    sizes = [(tile.height, tile.width) for tile in loaded.layout.pixel_tiles]
    wanted: dict[int, set[tuple[int, int]]] = {}
    for group in loaded.groups:
        for number, size in zip(group.indices, sizes, strict=True):
            wanted.setdefault(number, set()).add(size)

    def decode() -> float:
        # A fresh decoder each time. The packets are in memory: reading and indexing them is not counted, opening is.
        start = time.process_time()
        open_video(Path(path), Limits()).container.close()
        opening = time.process_time() - start
        with open_index(path, complete=loaded.index.complete, sampling=sampling_of(loaded)) as (index, packets):
            assert index.num_frames == loaded.index.num_frames
            start = time.process_time()
            read_sizes(index, wanted, packets)
            return opening + time.process_time() - start

    return decode


def sampling_of(loaded: DynImgs) -> Sampling:
    """Lead `open_index` to the same partial index again."""
    times = loaded.index.pts_seconds.tolist()
    return Sampling(lambda start, end: times, lambda index: True)


def measure(path: str, rounds: int) -> dict:
    """Measure all loaders on one clip, taking turns."""
    loaders: dict[str, Callable[[str], object]] = {
        "decord": load_with_decord, "pyav": load_with_pyav, "ours": load_dynimgs,
    }  # fmt: skip
    cpu: dict[str, list[float]] = {name: [] for name in (*loaders, "bound")}
    wall: dict[str, list[float]] = {name: [] for name in loaders}
    failures: dict[str, str] = {}
    loaded = load_dynimgs(path)
    bound = bound_of(path, loaded)
    for _ in range(rounds + 1):
        for name, load in loaders.items():
            if name in failures or (name == "pyav" and loaded.index.duration_seconds > PYAV_SECONDS):
                continue
            start, start_cpu = time.perf_counter(), time.process_time()
            try:
                load(path)
            except Exception as error:
                failures[name] = f"{type(error).__name__}: {error}"[:200]
                continue
            cpu[name].append(time.process_time() - start_cpu)
            wall[name].append(time.perf_counter() - start)
        cpu["bound"].append(bound())
    with open_index(path) as (index, _):
        facts = {
            "codec": index.codec, "width": index.width, "height": index.height, "num_frames": index.num_frames,
            "num_iframes": int(index.is_iframe.sum()), "seconds": round(index.duration_seconds, 2),
        }  # fmt: skip
    return {
        "clip": Path(path).name,
        **facts,
        "policy": loaded.policy,
        "partial": not loaded.index.complete,
        "cpu_ms": {name: round(1000 * statistics.median(times[1:]), 2) for name, times in cpu.items() if times[1:]},
        "wall_ms": {name: round(1000 * statistics.median(times[1:]), 2) for name, times in wall.items() if times[1:]},
        "failures": failures,
    }


def loop_clip(source: Path, seconds: float, target: Path) -> None:
    """Copy the packets of a clip again and again until it lasts some seconds; nothing is encoded."""
    with av.open(str(source)) as inner:
        stream = inner.streams.video[0]
        packets = [packet for packet in inner.demux(stream) if packet.size]
        ticks = [packet.dts for packet in packets]
        shift = ticks[-1] - ticks[0] + (packets[-1].duration or ticks[-1] - ticks[-2])
        with av.open(str(target), "w") as outer:
            copy = outer.add_stream_from_template(stream)
            for turn in range(max(1, round(seconds / float(shift * stream.time_base)))):
                for packet in packets:
                    again = av.Packet(bytes(packet))
                    again.is_keyframe, again.time_base, again.stream = packet.is_keyframe, packet.time_base, copy
                    again.pts, again.dts = packet.pts + turn * shift, packet.dts + turn * shift
                    again.duration = packet.duration
                    outer.mux(again)


def summarise(results: list[dict]) -> dict:
    """Give medians and extremes of the quotients that the project is held to."""

    def quotients(rows: list[dict], over: str) -> list[float]:
        return [r["cpu_ms"]["ours"] / r["cpu_ms"][over] for r in rows if over in r["cpu_ms"]]

    short = [row for row in results if not row["looped"]]
    sets = {
        "real clips": short,
        "real, dense": [row for row in short if row["num_iframes"] >= DENSE],
        "real, sparse": [row for row in short if row["num_iframes"] < DENSE],
        "looped, below 10 min": [row for row in results if row["looped"] and row["seconds"] < 590],
        "looped, 10 min and more": [row for row in results if row["looped"] and row["seconds"] >= 590],
    }
    summary = {}
    for name, rows in sets.items():
        for over in ("decord", "pyav", "bound"):
            values = quotients(rows, over)
            if values:
                summary[f"{name}: ours / {over}"] = {
                    "clips": len(values), "median": round(statistics.median(values), 3),
                    "min": round(min(values), 3), "max": round(max(values), 3),
                }  # fmt: skip
    return summary


def show(row: dict) -> None:
    """Print one line of the table."""
    cpu = row["cpu_ms"]
    share = {over: f"{cpu['ours'] / cpu[over]:5.2f}" if over in cpu else "    -" for over in ("decord", "bound")}
    times = "  ".join(f"{cpu.get(name, float('nan')):8.1f}" for name in ("decord", "pyav", "ours", "bound"))
    facts = f"{row['clip'][:40]:40}  {row['num_iframes']:6}  {row['policy']:8}"
    print(f"{facts}  {times}   {share['decord']}  {share['bound']}", flush=True)


def videos_of(folder: Path | None, looped: list[str]) -> list[Path]:
    """List the videos of the folder; where there are none, or one to loop is missing, one line and exit code 2."""
    if folder is None and "DYNIMG_VL_VIDEOS" in os.environ:
        folder = Path(os.environ["DYNIMG_VL_VIDEOS"])
    if folder is None:
        problem = "give the folder of videos with --clips; benchmarks/real_videos.tsv names those that were measured"
    elif not folder.is_dir():
        problem = f"there is no folder {folder}; give another with --clips"
    else:
        videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        missing = [name for name in looped if name not in {path.name for path in videos}]
        if videos and not missing:
            return videos
        problem = f"no {missing[0] if videos else 'videos'} in {folder}; give another folder with --clips"
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Run the comparison and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, help="a folder of videos (without it, that of DYNIMG_VL_VIDEOS)")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--match", default="", help="only clips whose name contains this")
    parser.add_argument("--loop", nargs="*", default=[], help="clips of the folder to loop to 10 s .. 1 h")
    arguments = parser.parse_args()
    videos = videos_of(arguments.clips, arguments.loop)
    clips = [path for path in videos if arguments.match in path.name]
    results = []
    print(
        f"{'clip':40}  {'I':>6}  {'policy':8}  {'decord':>8}  {'pyav':>8}  {'ours':>8}  {'bound':>8}   /decord  /bound"
    )
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(clip, False) for clip in clips]
        for name in arguments.loop:
            for seconds in LOOP_SECONDS:
                for suffix in LOOP_SUFFIXES:
                    jobs.append((Path(folder) / f"{Path(name).stem[:24]}_{seconds}s{suffix}", True))
        for path, looped in jobs:
            if looped:
                source = next(p for p in videos if p.stem.startswith(path.stem.rpartition("_")[0]))
                loop_clip(source, float(path.stem.rpartition("_")[2][:-1]), path)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(measure, (str(path), arguments.rounds))
            row["looped"] = looped
            results.append(row)
            show(row)
            if looped:
                path.unlink()
    summary = summarise(results)
    for name, numbers in summary.items():
        print(f"{name:45} {numbers}")
    if arguments.output:
        versions = {"python": platform.python_version(), "av": av.__version__, "ffmpeg": av.ffmpeg_version_info,
                    "numpy": np.__version__}  # fmt: skip
        if "decord" in {name for row in results for name in row["cpu_ms"]}:
            import decord

            versions["decord"] = decord.__version__
        report = {
            "command": " ".join(["python", *sys.argv]), "date": date.today().isoformat(),
            "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()},
            "versions": versions, "rounds": arguments.rounds, "seed": "none: nothing is drawn at random",
            "summary": summary, "clips": results,
        }  # fmt: skip
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
