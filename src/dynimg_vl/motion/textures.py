"""Endless procedural pictures: the backgrounds and the surfaces of the motion world.

No picture in here comes from a file, so what is trained on them is free of anybody's footage. The mixture is what made
correspondence learnable: noise alone has no edges and stripes alone are ambiguous under motion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

PICTURE_SCREENS = 3
"""A background spans this many screens in each direction, so that a camera can move over it."""
LARGE_SIZE = (288, 384)
"""Height and width of a picture for keyframes of 96 x 128: one screen is a third of it."""
SMALL_SIZE = (96, 96)
"""The same for prompt frames of 32 x 32."""


def value_noise(num: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Make coloured noise with a random slope of its spectrum: (num, 3, H, W), each about zero mean and unit spread."""
    total = torch.zeros(num, 3, *size)
    slope = torch.rand(num, 1, 1, 1, generator=generator) * 1.2 + 0.2
    mix = torch.randn(num, 3, 3, generator=generator)
    for octave in range(6):
        cells = 3 * 2**octave
        grid = torch.randn(num, 3, cells + 2, cells + 2, generator=generator)
        layer = F.interpolate(grid, size=size, mode="bicubic", align_corners=False)
        total += layer * torch.exp(-slope * octave)
    total = torch.einsum("nij,njhw->nihw", mix, total)
    return (total - total.mean((2, 3), keepdim=True)) / total.std((1, 2, 3), keepdim=True).clamp_min(1e-4)


def dead_leaves(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Pile up rectangles and ellipses of random size and colour: (3, H, W) in 0..1, with the edges of real scenes."""
    height, width = size
    num = int(torch.randint(60, 220, (), generator=generator))
    draw = torch.rand(num, 8, generator=generator).numpy()
    picture = np.broadcast_to(draw[0, 5:8, None, None], (3, height, width)).copy()
    # Radii follow a power law, as sizes in photographs do: many small leaves, a few that fill a third of a screen.
    radius = 6.0 / (draw[:, 2] * 0.92 + 0.08) ** 0.9 * height / 288 * 1.6
    for (x, y, _, aspect, shape, *colour), reach in zip(draw, radius, strict=True):
        half_w, half_h = reach * (0.5 + aspect), reach * (1.5 - aspect)
        top, bottom = max(0, int(y * height - half_h)), min(height, int(y * height + half_h) + 1)
        left, right = max(0, int(x * width - half_w)), min(width, int(x * width + half_w) + 1)
        if shape < 0.5:
            rows = (np.arange(top, bottom)[:, None] - y * height) / half_h
            columns = (np.arange(left, right)[None] - x * width) / half_w
            inside = rows**2 + columns**2 < 1
        else:
            inside = np.ones((bottom - top, right - left), dtype=bool)
        picture[:, top:bottom, left:right][:, inside] = np.asarray(colour)[:, None]
    return torch.from_numpy(picture).float()


def procedural_pictures(num: int, generator: torch.Generator, size: tuple[int, int] = LARGE_SIZE) -> Tensor:
    """Make pictures of noise, patches with sharp edges, and piled shapes with a grain: (num, 3, H, W) uint8."""
    noise = value_noise(num, size, generator)
    style = torch.rand(num, generator=generator)
    strength = torch.rand(num, 1, 1, 1, generator=generator)
    base = 0.5 + 0.22 * noise
    for index in range(num):
        if style[index] < 0.5:  # shapes, with some of the noise as grain
            leaves = dead_leaves(size, generator)
            base[index] = leaves * 0.85 + 0.05 + noise[index] * 0.08 * strength[index]
        elif style[index] < 0.7:  # patches: noise cut into a few flat levels
            levels = 2 + 3 * float(strength[index])
            base[index] = torch.round(base[index] * levels) / levels
    contrast = torch.rand(num, 1, 1, 1, generator=generator) * 0.6 + 0.5
    centre = base.mean((1, 2, 3), keepdim=True)
    base = (base - centre) * contrast + centre
    # Mostly dull, as photographs are: what is bright and pure in a clip is then an object, which makes counting fair.
    grey = base.mean(1, keepdim=True)
    base = grey + (base - grey) * torch.rand(num, 1, 1, 1, generator=generator) * 0.7
    tint = 0.08 * torch.randn(num, 3, 1, 1, generator=generator)
    return (base + tint).clamp(0, 1).mul(255).round().to(torch.uint8)


@dataclass
class PictureBank:
    """Hold pictures in two sizes: `large` (N, 3, 288, 384) and `small` (N, 3, 96, 96), both uint8."""

    large: Tensor
    small: Tensor

    @classmethod
    def from_pictures(cls, large: Tensor) -> "PictureBank":
        """Keep pictures (N, 3, H, W) uint8 and a small copy of each, averaged over areas."""
        small = [F.interpolate(part.float(), size=SMALL_SIZE, mode="area") for part in large.split(64)]
        return cls(large, torch.cat(small).round().to(torch.uint8))

    @classmethod
    def procedural(cls, num: int, generator: torch.Generator) -> "PictureBank":
        """Fill a bank with `num` procedural pictures."""
        parts = [procedural_pictures(min(32, num - start), generator) for start in range(0, num, 32)]
        return cls.from_pictures(torch.cat(parts))

    @classmethod
    def from_frames(cls, frames: Sequence[np.ndarray]) -> "PictureBank":
        """Fill a bank with video frames, each (H, W, 3) uint8, squeezed to the size of the bank."""
        large = [
            F.interpolate(torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float(), LARGE_SIZE, mode="area")
            for frame in frames
        ]
        return cls.from_pictures(torch.cat(large).round().to(torch.uint8))

    def __len__(self) -> int:
        return len(self.large)
