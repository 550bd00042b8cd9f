"""What the entry point `lmms_eval.models` names: with it, `lmms-eval --model dynimg_vl` finds this project's model."""

from typing import Any

MODEL_CLASS = "dynimg_vl.evaluation.lmms_model.DynImgVL"


def manifest() -> Any:
    """Give the harness its manifest of the model: the chat interface alone, loaded when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="dynimg_vl", chat_class_path=MODEL_CLASS, aliases=("dynimg",))
