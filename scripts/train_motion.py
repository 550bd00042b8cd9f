"""Train the embedded motion model: `python scripts/train_motion.py recipes/motion_cpu.yaml -o runs/motion`."""

import argparse
import logging
from pathlib import Path

from dynimg_vl.training.motion.export import export_model
from dynimg_vl.training.motion.tokenizer import build_tokenizer
from dynimg_vl.training.motion.trainer import MotionRecipe, MotionTrainer


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("-o", "--out", dest="folder", type=Path, required=True, help="for checkpoints, log and model")
    parser.add_argument("--start-from", type=Path, help="a checkpoint whose weights to begin with")
    parser.add_argument("--stage", help="with --start-from: the stage to begin with")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    trainer = MotionTrainer(
        MotionRecipe.from_file(options.recipe),
        options.folder,
        build_tokenizer(),
        num_threads=options.threads,
        num_workers=options.workers,
    )
    if options.start_from:
        trainer.start_from(options.start_from, options.stage)
    elif trainer.checkpoint.exists():
        print(f"going on from {trainer.checkpoint}; to start anew, delete it")
        trainer.resume()
    if not trainer.run():
        print(f"interrupted; the same command goes on from {trainer.checkpoint}")
        return
    export_model(trainer.model, trainer.tokenizer, options.folder / "model")
    print(options.folder / "model")


if __name__ == "__main__":
    main()
