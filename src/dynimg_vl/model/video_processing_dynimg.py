"""From a video to the pixels that the model reads: load, compose, normalise.

Derives from the mixin that does without torchvision: transformers' own base class needs it, and frames are not sampled
here but chosen among I-frames, by `load_dynimgs`.

Shapes: G DynImgs of all videos, N prompt frames, S pixels along a side, V videos.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import VideoProcessorMixin

from ..errors import InputError
from ..layout import DynImgLayout
from ..loading import DynImgs, load_dynimgs
from ..video import MAX_FRAMES, MAX_PIXELS
from .configuration_dynimg import DynImgConfig
from .video_source import resolve_source


class DynImgVideosKwargs(VideosKwargs, total=False):
    """Name what a call may set beyond transformers' own options."""

    num_dynimgs: int | None
    num_prompt_frames: int | None
    token_grid: int | None
    patch_grid: int | None
    patch_size: int | None
    prompt_stage: str | None
    max_dynimgs: int | None
    policy: str | None
    max_pixels: int | None
    max_frames: int | None
    clip: Any
    allow_urls: bool | None


GEOMETRY: dict[str, Any] = {
    "num_prompt_frames": 4,
    "token_grid": 12,
    "patch_grid": 24,
    "patch_size": 14,
    "prompt_stage": "before",
    "max_dynimgs": 16,
}
"""What has to be the same in the model, with the paper's values."""

LOADING = ("num_dynimgs", "policy", "max_pixels", "max_frames")
"""Options of `load_dynimgs` that are kept with the processor."""

PER_CALL = ("clip", "fps", "rng")
"""Options of `load_dynimgs` that belong to one call."""


class DynImgVideoProcessor(VideoProcessorMixin):
    """Turn videos into `pixel_values_videos` (G, 3, S, S) float32, and `dynimgs_per_video` (V,).

    With `prompt_stage="after"` the frames stay apart: (G, 1 + N, 3, S, S), keyframe first.

    Args:
        num_dynimgs: DynImgs per video.
        num_prompt_frames, token_grid, patch_grid, patch_size, prompt_stage, max_dynimgs: as in `DynImgConfig`.
        policy: which frames are candidates, see `select_frame_groups`.
        image_mean, image_std: of the normalisation, per channel, for pixels between 0 and 1; SigLIP's are 0.5.
        max_pixels: the largest frame to accept.
        max_frames: the largest number of frames to accept.
    """

    model_input_names = ["pixel_values_videos", "dynimgs_per_video"]  # noqa: RUF012  (their idiom)
    valid_kwargs = DynImgVideosKwargs

    def __init__(self, **kwargs: Any) -> None:
        defaults: dict[str, Any] = {
            **GEOMETRY,
            "num_dynimgs": 4,
            "policy": "auto",
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "max_pixels": MAX_PIXELS,
            "max_frames": MAX_FRAMES,
        }
        super().__init__(**{**defaults, **kwargs})
        for name in ("image_mean", "image_std"):
            if len(self.__dict__[name]) != 3:
                raise InputError(f"{name} must have three values, one per channel, got {self.__dict__[name]}")
        if min(self.__dict__["image_std"]) <= 0:
            raise InputError(f"image_std must be positive, got {self.__dict__['image_std']}")
        _ = self.layout  # refuses a geometry that does not work out

    @classmethod
    def from_config(cls, config: DynImgConfig, **kwargs: Any) -> "DynImgVideoProcessor":
        """Make the video processor that fits a model."""
        # The stage as it is: a model with "after" and no prompt frames still takes frames of their own.
        own = {"prompt_stage": config.prompt_stage, "num_dynimgs": config.num_dynimgs}
        return cls(**{**geometry_of(config), **own, **kwargs})

    @property
    def layout(self) -> DynImgLayout:
        """Give the geometry of the DynImgs."""
        options = self.__dict__
        return DynImgLayout(
            num_prompt_frames=0 if options["prompt_stage"] == "none" else options["num_prompt_frames"],
            token_grid=options["token_grid"],
            patch_grid=options["patch_grid"],
            patch_size=options["patch_size"],
        )

    def load(self, video: Any, *, allow_urls: bool = False, **options: Any) -> DynImgs:
        """Load one video as this processor sees it, not yet normalised: the result of `load_dynimgs`.

        With `prompt_stage="after"` its pixels are (G, 1 + N, 3, S, S): every frame at full size.

        Args:
            video: a path of a file or of a folder of frames, bytes, a data URL, a `FrameIndex`, frames (F, H, W, 3)
                uint8, or the result of an earlier call.
            allow_urls: whether `video` may be an http(s) address.
            **options: `num_dynimgs`, `policy`, `clip`, `fps`, `max_pixels`, `max_frames`, `rng` for this call.

        Raises:
            InputError: where an option is unknown or the video cannot be read.
        """
        arguments = self.loading_options(**options)
        if isinstance(video, DynImgs):
            return self._checked(video)
        return load_dynimgs(_as_frames(resolve_source(video, allow_urls=allow_urls)), **arguments)

    def loading_options(self, **options: Any) -> dict[str, Any]:
        """Give the keyword arguments of `load_dynimgs` with which `load` calls it; the options are the same.

        Raises:
            InputError: where an option is unknown.
        """
        if unknown := set(options) - {*LOADING, *PER_CALL}:
            raise InputError(f"unknown options for a video: {', '.join(sorted(unknown))}")
        kept = {name: self.__dict__[name] for name in LOADING}
        merged = {**kept, **{name: value for name, value in options.items() if value is not None}}
        return {"layout": self.layout, "compose": self._composes, **merged}

    @property
    def _composes(self) -> bool:
        return self.__dict__["prompt_stage"] != "after"

    def _checked(self, dynimgs: DynImgs) -> DynImgs:
        if dynimgs.layout != self.layout or (dynimgs.pixels.ndim == 4) != self._composes:
            raise InputError(f"these DynImgs were made with {dynimgs.layout}, this processor has {self.layout}")
        return dynimgs

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Turn one video or a list of videos, flat or nested, into the inputs of the model.

        Args:
            videos: see `load`; several in a list.
            **kwargs: `allow_urls`, the options of `load`, `return_metadata` (adds `video_metadata`, one dict per video)
                and `return_tensors`. Other options that transformers knows are ignored, `num_frames` above all: a
                DynImg model has no number of frames.

        Raises:
            InputError: where a geometry other than this processor's is asked for, or a video cannot be read.
        """
        self._refuse_other_geometry(kwargs)
        names = (*LOADING, *PER_CALL, "allow_urls")
        options = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        loaded = [self.load(video, **options) for video in flatten_videos(videos)]
        if not loaded:
            raise InputError("no video was given")
        data: dict[str, Any] = {
            "pixel_values_videos": torch.cat([self.normalise(torch.as_tensor(dynimgs.pixels)) for dynimgs in loaded]),
            "dynimgs_per_video": torch.tensor([len(dynimgs.pixels) for dynimgs in loaded]),
        }
        if kwargs.get("return_metadata"):
            data["video_metadata"] = [dynimgs.describe() for dynimgs in loaded]
        return BatchFeature(data, tensor_type=kwargs.get("return_tensors"), skip_tensor_conversion=["video_metadata"])

    def normalise(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels (..., 3, S, S) to float32 with the mean and deviation of the vision tower (-1 to 1)."""
        mean, std = (torch.tensor(self.__dict__[name], device=pixels.device) for name in ("image_mean", "image_std"))
        return (pixels.float() / 255 - mean[:, None, None]) / std[:, None, None]

    def tokens_of_video(self, num_dynimgs: int) -> int:
        """Count the visual tokens of a video of so many DynImgs."""
        return min(num_dynimgs, self.__dict__["max_dynimgs"]) * self.layout.tokens_per_dynimg

    def _refuse_other_geometry(self, kwargs: dict[str, Any]) -> None:
        for name in GEOMETRY:
            wanted, own = kwargs.get(name), self.__dict__[name]
            if wanted is not None and wanted != own:
                raise InputError(
                    f"{name} is {own} in this processor and cannot be {wanted} for one call: the model sets it"
                )


def geometry_of(source: Any) -> dict[str, Any]:
    """Read the fields of `GEOMETRY` off a `DynImgConfig` or a `DynImgVideoProcessor`, in one common form."""
    layout = source.layout
    return {
        "num_prompt_frames": layout.num_prompt_frames,
        "token_grid": layout.token_grid,
        "patch_grid": layout.patch_grid,
        "patch_size": layout.patch_size,
        # Without prompt frames there is nothing to place before or after the encoder.
        "prompt_stage": source.prompt_stage if layout.num_prompt_frames else "none",
        "max_dynimgs": source.max_dynimgs,
    }


def flatten_videos(videos: Any) -> Iterator[Any]:
    """Walk through one video or lists of videos, as chats of several conversations bring them."""
    if isinstance(videos, list | tuple):
        for video in videos:
            yield from flatten_videos(video)
    elif videos is not None:
        yield videos


def _as_frames(video: Any) -> Any:
    # Tensors become arrays (F, H, W, 3), the one form that `load_dynimgs` takes frames in.
    if isinstance(video, Tensor):
        if video.dtype != torch.uint8:  # NumPy has no bfloat16
            raise InputError(f"frames must be (F, H, W, 3) uint8, got {tuple(video.shape)} {video.dtype}")
        video = video.cpu().numpy()
    if isinstance(video, np.ndarray):
        if video.ndim == 4 and video.shape[-1] != 3 and video.shape[1] == 3:
            video = video.transpose(0, 2, 3, 1)
        if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
            raise InputError(f"frames must be (F, H, W, 3) uint8, got {tuple(video.shape)} {video.dtype}")
    return video
