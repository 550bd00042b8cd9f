"""What one process of a sharded run sees of the rotary embedding; started by tests/training/test_distributed.py."""

import json
import sys
from pathlib import Path

import torch

from dynimg_vl.model import DynImgRotaryEmbedding
from dynimg_vl.training import run
from dynimg_vl.training.recipe import TrainRecipe


def main():
    from torch.distributed.fsdp import FSDPModule

    recipe, output = sys.argv[1:]
    seen = {}

    def watch(trainer, *rest):
        def on_rotary(module, _, rotation):
            seen["unit"] = isinstance(module, FSDPModule)
            seen["theta"] = str(module.axis_theta.dtype)
            seen["rotation"] = str(rotation[0].dtype)

        def on_layer(module, arguments):
            seen["layer"] = str(next(module.self_attn.parameters()).dtype)

        for module in trainer.model.modules():
            if isinstance(module, DynImgRotaryEmbedding):
                module.register_forward_hook(on_rotary)
        trainer.model.model.language_model.layers[0].register_forward_pre_hook(on_layer)
        original(trainer, *rest)

    original, run._run = run._run, watch
    run.train(TrainRecipe.from_file(Path(recipe), {"model.dtype": "bfloat16"}), run.Launch(2, 2))
    rank = torch.distributed.get_rank()
    Path(f"{output}{rank}.json").write_text(json.dumps(seen))


main()
