"""The example clip of the project: one red ball that rolls to the right over a procedural background."""

from dataclasses import replace
from pathlib import Path

import torch

from .files import clip_frames, write_clip
from .paths import KINDS
from .textures import PictureBank
from .world import COLOURS, DIRECTIONS, sample_scenes


def write_example(path: Path, seconds: float = 4.0, fps: float = 15.0, codec: str = "h264", seed: int = 3) -> None:
    """Write the example clip, 320 x 240 pixels, to a file.

    The ball crosses seven tenths of the picture, from left to right, with the camera still.
    """
    generator = torch.Generator().manual_seed(seed)
    bank = PictureBank.procedural(1, generator)
    scene = sample_scenes(1, 1, generator, camera_share=0.0)
    one = torch.zeros_like(scene.present)
    one[:, 0] = True
    red = torch.zeros_like(scene.colour_id)
    scene = replace(
        scene,
        present=one,
        textured=one & False,
        outlined=one & False,
        flat=torch.zeros_like(scene.flat),
        gain=torch.ones_like(scene.gain),
        offset=torch.zeros_like(scene.offset),
        grain=torch.full_like(scene.grain, 0.01),
        position=torch.tensor([0.5, 0.55]).expand_as(scene.position),
        kind_id=torch.full_like(red, KINDS.index("move")),
        direction_id=torch.full_like(red, DIRECTIONS.index("right")),
        turn_id=red,
        speed_id=red,
        legs=torch.tensor([0.35, 0.0]).expand_as(scene.legs),
        knots=torch.tensor([-0.35, 0.35]).expand_as(scene.knots),
        swing=torch.zeros_like(scene.swing),
        shown=torch.tensor([-torch.inf, torch.inf]).expand_as(scene.shown),
        shape_id=red,
        radius=torch.full_like(scene.radius, 0.11),
        aspect=torch.ones_like(scene.aspect),
        colour_id=red,
        tint=torch.tensor(COLOURS["red"]).expand_as(scene.tint),
    )
    write_clip(path, clip_frames(scene, bank, num_frames=round(seconds * fps)), fps=fps, codec=codec)
