"""Evaluate a motion model through real video files: `python scripts/eval_motion.py -o runs/motion_eval.json`.

Clips are made once and kept in a folder, as are the answers of each model; what was broken off is gone on with.
"""

import argparse
import hashlib
import json
import shlex
import sys
from pathlib import Path

import torch

from dynimg_vl import InputError, embedded_model
from dynimg_vl.inference.identity import digest_of_settings, digest_of_weights, versions
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.model import load_pretrained
from dynimg_vl.model.pretrained import located
from dynimg_vl.training.motion import report
from dynimg_vl.training.motion.evaluation import AnswerParts, Crew
from dynimg_vl.training.motion.heldout import (
    FILES,
    PLAIN,
    HeldOutClip,
    HeldOutSettings,
    layout_of,
    make_clips,
    read_clips,
)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/motion_clips"), help="for the clips and the answers")
    parser.add_argument("--model", type=Path, help="a model folder (default: the embedded model)")
    parser.add_argument(
        "--twin", type=Path, help="a model trained on keyframes only, to be held against what they can tell"
    )
    parser.add_argument("--num-clips", type=int, default=2000)
    parser.add_argument("--num-control-clips", type=int, default=400, help="of them, for the controls")
    parser.add_argument("--seed", type=int, default=HeldOutSettings.seed)
    parser.add_argument("--backgrounds", type=Path, help="a folder of videos: also measure cameras over their frames")
    parser.add_argument("--num-camera-clips", type=int, default=400, help="over those frames")
    parser.add_argument("--workers", type=int, default=2, help="processes that make clips; threads that answer")
    parser.add_argument("-o", "--out", type=Path, help="a JSON file for all numbers; the tables go beside it as .md")
    return parser.parse_args(arguments)


def prepare(
    folder: Path,
    settings: HeldOutSettings,
    number: int,
    options: argparse.Namespace,
    layout: DynImgLayout,
    kinds: tuple[str, ...],
) -> list[HeldOutClip]:
    """Make the clips that are missing, and read all."""
    for done, _ in enumerate(make_clips(folder, settings, number, layout, kinds, options.workers), start=1):
        show("clips made", done, number)
    return read_clips(folder, number)


def show(word: str, done: int, total: int) -> None:
    """Tell on a terminal how far it has come."""
    if sys.stderr.isatty():
        print(f"\r{word} {done}/{total}".ljust(60), end="\n" if done == total else "", file=sys.stderr, flush=True)


def fingerprint(folder: Path) -> str:
    """Name a model by its weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def answers_file(folder: Path, model: Path) -> Path:
    """Name the file of a model's answers by all that decides on them: weights, settings, and versions of the code."""
    loaded = load_pretrained(model)
    facts = json.dumps([digest_of_weights(loaded[0]), digest_of_settings(*loaded), versions()], sort_keys=True)
    return folder / f"answers-{hashlib.sha256(facts.encode()).hexdigest()[:12]}.jsonl"


def measure_cameras(options: argparse.Namespace, layout: DynImgLayout, answer: AnswerParts, name: str) -> report.Tables:
    """Measure how well camera motion over real frames is told."""
    folder = options.folder.with_name(f"{options.folder.name}_cameras")
    settings = HeldOutSettings(
        seed=options.seed,
        backgrounds=str(options.backgrounds),
        camera_share=1.0,
        families=("camera",),
        choice_share=0.0,
        single_share=0.0,
        num_static=0,
    )
    clips = prepare(folder, settings, options.num_camera_clips, options, layout, ("h264",))
    return report.table_of_cameras(report.run_cameras(answer, folder, clips, folder / name, show))


def measure(options: argparse.Namespace, model: Path) -> report.Tables:
    """Make the clips where they are missing, ask the models, and count."""
    layout = load_pretrained(model)[1].video_processor.layout
    if options.twin:
        load_pretrained(options.twin)  # its turn comes last, after half an hour: what is no model should be told now
    clips = prepare(options.folder, HeldOutSettings(seed=options.seed), options.num_clips, options, layout, FILES)
    # The frames as drawn were laid out for one geometry; a model of another one does not see them.
    files = [name for name in FILES if name != PLAIN or layout_of(options.folder) == layout]
    path = answers_file(options.folder, model)
    with Crew(model, options.workers) as answer:
        answers = report.run_files(answer, options.folder, clips, path, show, files)
        some = clips[: options.num_control_clips]
        controls = report.run_controls(answer, options.folder, some, path, show)
        tables = {**report.tables_of_files(answers), **report.tables_of_controls(controls, answers["h264"])}
        if options.backgrounds:
            tables.update(measure_cameras(options, layout, answer, path.name))
    if options.twin:
        path = answers_file(options.folder, options.twin)
        with Crew(options.twin, options.workers) as answer:
            tables.update(report.table_of_twin(answer, options.folder, clips, path, show))
    return tables


def main() -> None:
    """Measure, print the tables, and keep them."""
    options = options_of()
    torch.set_num_threads(1)
    model = Path(located(str(options.model or embedded_model())))
    if not model.is_dir():
        raise InputError(f"no such folder: {model}; give the folder of a model")
    tables = measure(options, model)
    print(report.as_markdown(tables))
    if not options.out:
        return
    result = {
        "command": shlex.join(["python", "scripts/eval_motion.py", *sys.argv[1:]]),
        "model": {"name": model.name, "weights_sha256": fingerprint(model)},
        **{name: getattr(options, name) for name in ("seed", "num_clips", "num_control_clips", "num_camera_clips")},
        **report.describe_machine(),
        "tables": tables,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(report.as_markdown(tables))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
