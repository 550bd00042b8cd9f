"""Evaluate a motion model through real video files: `python scripts/eval_motion.py -o runs/motion_eval.json`."""

import argparse
import json
from pathlib import Path

import torch

from dynimg_vl import embedded_model
from dynimg_vl.model import load_pretrained
from dynimg_vl.motion.files import read_pictures
from dynimg_vl.motion.textures import PictureBank
from dynimg_vl.motion.world import new_bank
from dynimg_vl.training.motion.evaluation import CONTROLS, evaluate_clips, make_clips, summarise


def main() -> None:
    """Parse the command line, make the test set where it is missing, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/motion_test"), help="the test set; made where missing"
    )
    parser.add_argument("--model", default=None, help="a model folder (default: the embedded model)")
    parser.add_argument("--clips", type=int, default=200, help="clips per codec")
    parser.add_argument("--seed", type=int, default=20261120)
    parser.add_argument("--backgrounds", type=Path, help="a folder of videos whose frames are the backgrounds")
    parser.add_argument("--controls", nargs="*", default=["none"], choices=CONTROLS)
    parser.add_argument("-o", "--out", type=Path, help="a JSON file for the numbers and all answers")
    options = parser.parse_args()
    torch.set_num_threads(2)
    bank = new_bank(300, options.seed)
    if options.backgrounds:
        bank = PictureBank.from_frames(read_pictures(options.backgrounds))
    clips = make_clips(options.folder, bank, options.clips, options.seed)
    model, processor = load_pretrained(options.model or embedded_model())
    results = {}
    for control in options.controls:
        rows = evaluate_clips(model, processor, options.folder, clips, control)
        results[control] = {
            "family": summarise(rows),
            "codec": summarise(rows, "codec"),
            "answer": summarise(rows, "answer"),
            "rows": rows,
        }
        print(f"prompt frames: {control}; {len(clips)} clips, {len(rows)} questions")
        for key in ("family", "codec"):
            for name, values in results[control][key].items():
                print(
                    f"  {name:14s} exact {values['exact']:.3f}  majority {values['majority']:.3f}"
                    f"  questions {values['questions']}"
                )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
