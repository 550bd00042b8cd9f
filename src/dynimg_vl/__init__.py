"""DynImg-VL: answer questions about videos from key frames with visual prompts (arXiv 2507.15569)."""

import importlib
from typing import Any

from . import _registration

__version__ = "0.1.0"

_HOMES = {
    "DynImgConfig": "model",
    "DynImgForConditionalGeneration": "model",
    "DynImgLayout": "layout",
    "DynImgModel": "model",
    "DynImgProcessor": "model",
    "DynImgVideoProcessor": "model",
    "DynImgs": "loading",
    "FrameGroup": "video",
    "FrameIndex": "video",
    "GroupAugment": "augment",
    "InputError": "errors",
    "VideoError": "errors",
    "VideoWarning": "errors",
    "answer": "answering",
    "compose_dynimgs": "compose",
    "dynimg_position_ids": "positions",
    "embedded_model": "answering",
    "layout_coordinates": "positions",
    "load_dynimgs": "loading",
    "read_frames": "video",
    "render_dynimgs": "render",
    "select_frame_groups": "video",
}
"""The public names and the modules that hold them; a module is imported when one of its names is first used."""

__all__ = sorted(_HOMES)

_registration.install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
