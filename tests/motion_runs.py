"""Tiny runs on the motion world: a recipe of seconds, and a learner with a batch."""

import copy

import torch
import yaml

from dynimg_vl.training.motion.tokenizer import build_tokenizer

MODEL = {
    "num_dynimgs": 1,
    "num_prompt_frames": 2,
    "token_grid": 4,
    "patch_grid": 8,
    "vision_feature_layer": -1,
    "tie_word_embeddings": True,
    "position_std": 0.5,
    "vision": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 64, "patch_size": 8,
    },
    "text": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 512, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
}  # fmt: skip
STAGES = [
    {
        "name": "strip",
        "steps": 2,
        "warmup_steps": 2,
        "batch": {"batch_size": 3, "num_keyframe_tokens": 0, "num_questions": 0},
        "losses": {"text": 0.0},
    },
    {
        "name": "whole",
        "steps": 3,
        "warmup_steps": 2,
        "batch": {"batch_size": 3, "num_keyframe_tokens": 4, "num_questions": 2},
    },
]
TEXT_ONLY = {"motion_attention_loss": 0, "motion_heads_loss": 0}
TRAINING = {
    "seed": 3,
    "optim": "muon",
    "muon_learning_rate": 0.01,
    "learning_rate": 1e-3,
    "axis_theta_learning_rate": 5e-3,
    "weight_decay": 0.05,
    "use_cpu": True,
    "logging_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "steps",
    "save_steps": 100,
    "report_to": "none",
    "disable_tqdm": True,
}


def save_tokenizer(folder):
    """Write the tokenizer of the motion world, which takes longer to make than a tiny run."""
    build_tokenizer().save_pretrained(folder)
    return folder


def motion_recipe(folder, tokenizer, output="run", model=None, world=None, stages=None, **training):
    """Write a recipe; what is given replaces values of those above."""
    recipe = {
        "model": {**copy.deepcopy(MODEL), "tokenizer": str(tokenizer), **(model or {})},
        "data": {"world": {"num_pictures": 4, "validation_pictures": 3, "validation_batches": 2, **(world or {})}},
        "stages": copy.deepcopy(STAGES if stages is None else stages),
        "training": {**TRAINING, "output_dir": str(folder / output), **training},
    }
    path = folder / f"{output}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def tiny_learner(tokenizer, theta=0.1, **config):
    """Build a learner on a tiny random model, with fields of `DynImgConfig`."""
    from dynimg_vl.training.building import random_model
    from dynimg_vl.training.motion.staged_trainer import build_learner
    from dynimg_vl.training.recipe import ModelSettings

    values = copy.deepcopy({**MODEL, **config})
    own = {name: values.pop(name) for name in ("vision", "text", "position_std")}
    torch.manual_seed(0)
    model = random_model(ModelSettings(**own, config=values), tokenizer).eval()
    axis_theta = model.model.language_model.rotary_emb.axis_theta
    with torch.no_grad():
        if axis_theta is not None:
            axis_theta.add_(theta * torch.randn_like(axis_theta))
        for block in model.model.vision_tower.encoder.layers:  # strong enough for frames to tell what they see
            block.self_attn.out_proj.weight.mul_(5)
    return build_learner(model, tokenizer)
