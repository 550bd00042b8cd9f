"""Training augmentation of whole frame groups, before composition (Section 4.1).

One crop and one flip are drawn per group and applied to all of its frames: the keyframe and its prompt frames must keep
showing the same part of the scene, and a crop after composition would cut through the strip.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Crop:
    """Hold what was drawn for one group: a rectangle in pixels of the source frame, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


@dataclass(frozen=True)
class GroupAugment:
    """Crop, resize, flip and normalise all frames of a group alike: RandomResizedCrop and RandomHorizontalFlip.

    The defaults are the baseline's (PLLaVA: area 0.5 to 1, aspect 3/4 to 4/3, bicubic), with SigLIP's mean and standard
    deviation. `size` (height, width) is what the crop is resized to; composition then squeezes it into the tiles.
    """

    size: tuple[int, int] = (336, 336)
    scale: tuple[float, float] = (0.5, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def draw(self, height: int, width: int, generator: torch.Generator | None = None) -> Crop:
        """Draw one crop and flip for frames of `height` x `width` pixels, as torchvision's RandomResizedCrop does."""

        def uniform(low: float, high: float) -> float:
            return low + (high - low) * torch.rand((), generator=generator).item()

        flip = uniform(0, 1) < self.flip_probability
        for _ in range(10):
            area = height * width * uniform(*self.scale)
            ratio = math.exp(uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = int(uniform(0, height - crop_height + 1))
                left = int(uniform(0, width - crop_width + 1))
                return Crop(top, left, crop_height, crop_width, flip)
        return self._central_crop(height, width, flip)

    def _central_crop(self, height: int, width: int, flip: bool) -> Crop:
        ratio = min(max(width / height, self.aspect[0]), self.aspect[1])
        crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
        crop_width, crop_height = max(crop_width, 1), max(crop_height, 1)
        return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width, flip)

    def apply(self, frames: Tensor, crop: Crop) -> Tensor:
        """Apply one drawn crop to all frames of a group.

        Args:
            frames: (..., 3, H, W), uint8 in 0..255 or floating in 0..1.
            crop: what `draw` returned for H and W.

        Returns:
            (..., 3, *size) float32, normalised.
        """
        pixels = frames[..., crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        if crop.flip:
            pixels = pixels.flip(-1)
        # Frames come from readers with the channels last; planes of their own are resized in half the time.
        pixels = pixels.contiguous()
        pixels = pixels.float() if frames.dtype.is_floating_point else pixels.float().div_(255)
        leading = pixels.shape[:-3]
        pixels = F.interpolate(
            pixels.reshape(-1, *pixels.shape[-3:]), size=self.size, mode="bicubic", antialias=True, align_corners=False
        ).clamp_(0, 1)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std).reshape(*leading, *pixels.shape[-3:])

    def __call__(self, groups: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augment (G, 1 + N, 3, H, W) frame groups, with one draw per group; returns (G, 1 + N, 3, *size) float32."""
        height, width = groups.shape[-2:]
        return torch.stack([self.apply(group, self.draw(height, width, generator)) for group in groups])
