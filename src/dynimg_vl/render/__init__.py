"""Draw what the model sees, where it looks, and how its tokens are numbered; without torch."""

from .attention_map import attention
from .common import FAINT, KEYFRAME, PROMPT
from .coordinates import render_coordinates
from .dynimgs import render_dynimgs
from .theta import read_theta, render_theta

__all__ = [
    "FAINT",
    "KEYFRAME",
    "PROMPT",
    "attention",
    "read_theta",
    "render_coordinates",
    "render_dynimgs",
    "render_theta",
]
