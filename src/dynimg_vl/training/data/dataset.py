"""The training dataset: from a sample's number to token ids, labels and augmented, composed pixels (Section 4.1).

Everything random is a function of seed, epoch and number, so that a resumed run sees what an uninterrupted one would.

Shapes: G DynImgs of a sample, N prompt frames, L tokens, S pixels along a side, V videos.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...augment import Crop, GroupAugment
from ...compose import compose_dynimgs
from ...errors import InputError, VideoWarning
from ...model.processing_dynimg import DynImgProcessor
from .annotations import Sample
from .chat_tokens import ChatTokenizer, SampleError
from .frame_groups import SHORT_SIDE, FrameRequest
from .sample_source import Part, SampleSource
from .sample_status import DataError, SampleStatus
from .sides import speaks_of_sides

Flip = Literal["paper", "off", "safe"]
FLIPS = ("paper", "off", "safe")

_NUM_REPLACEMENTS = 32
_NUM_LISTED = 5


@dataclass(frozen=True)
class DatasetOptions:
    """Choose how samples are made.

    Args:
        seed: of all that is random.
        flip: "paper" mirrors every other group, whatever is asked about it; "off" none; "safe" none where the chat
            speaks of left, right or a sense of rotation, which a mirrored picture would make a lie (see `sides`).
        augment: whether to crop and flip at all.
        max_length: tokens of the longest sample; longer ones are cut behind a turn.
        short_side: cap on the shorter side of frames before augmentation, in pixels.
        allowed_share: of samples that may be broken; None is what the data says.
    """

    seed: int = 42
    flip: Flip = "safe"
    augment: bool = True
    max_length: int = 2048
    short_side: int = SHORT_SIDE
    allowed_share: float | None = None

    def __post_init__(self) -> None:
        if self.flip not in FLIPS:
            raise InputError(f"flip must be one of {', '.join(FLIPS)}, got {self.flip!r}")
        if not isinstance(self.augment, bool):
            raise InputError(f"augment must be true or false, got {self.augment!r}")
        for name, least in (("seed", 0), ("max_length", 1), ("short_side", 16)):
            value: Any = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
        share: Any = self.allowed_share
        is_number = isinstance(share, int | float) and not isinstance(share, bool)
        if share is not None and not (is_number and 0 <= share <= 1):
            raise InputError(f"allowed_share must lie between 0 and 1, got {share!r}")


class VideoTextDataset(Dataset):
    """Serve samples of the mixture as dicts of tensors, map-style.

    `input_ids` and `labels` (L,) int64; `pixel_values_videos` (G, 3, S, S) float32, normalised, or (G, 1 + N, 3, S, S)
    with `prompt_stage="after"`; `dynimgs_per_video` (V,). Samples of text alone have no pixels. Numbers are places in
    an epoch: a source of weight 2 has each sample twice, one of weight 0.5 another half in every epoch.

    Raises:
        InputError: where an option is unknown, or no sample is left in an epoch. `DataError` while going through it,
            where more than the allowed share of the samples is broken.
    """

    def __init__(self, source: SampleSource, processor: DynImgProcessor, options: DatasetOptions | None = None) -> None:
        self.options = options or DatasetOptions()
        self.source = source
        allowed = self.options.allowed_share
        self.status = SampleStatus(len(source), source.allowed_share if allowed is None else allowed)
        self._chat = ChatTokenizer(processor, max_length=self.options.max_length)
        self._pixels = GroupPixels(processor, self.options)
        source.require(self._pixels.request)
        self._slots = _Slots(source.parts, self.options.seed)
        # Shared, because workers that live on from epoch to epoch hold a copy of this object.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        if not len(self._slots):
            raise InputError("no sample is left in an epoch; raise the weights of the mixture")

    def __len__(self) -> int:
        return len(self._slots)

    def set_epoch(self, epoch: int) -> None:
        """Move on to an epoch: other frames, crops and flips; loaders of accelerate call this."""
        self._epoch.fill_(epoch)

    def lengths(self) -> list[int]:
        """Estimate the number of tokens of every place of this epoch, without opening a video; for length grouping."""
        epoch = int(self._epoch)
        return [self._chat.approximate_length(self.source[self._slots.sample_of(i, epoch)]) for i in range(len(self))]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch = int(self._epoch)
        for attempt in range(_NUM_REPLACEMENTS):
            number = self._slots.sample_of(index, epoch, attempt)
            rng = np.random.default_rng([self.options.seed, epoch, index, attempt])
            try:
                return self._make(number, rng)
            except SampleError as error:
                message = str(error)
                self.status.mark(number, error.reason)
            self.check_share(message)
        raise DataError(f"{_NUM_REPLACEMENTS} samples in a row cannot be used; the last: {message}")

    def _make(self, number: int, rng: np.random.Generator) -> dict[str, Tensor]:
        sample = self.source[number]
        tokens = self._chat(sample)
        item = {"input_ids": tokens.input_ids, "labels": tokens.labels}
        if tokens.num_videos:
            item |= self._pixels(sample, self._groups(number, sample, tokens.num_videos, rng), rng)
        self.status.mark(number, "cut" if tokens.num_turns_cut else "used")
        return item

    def _groups(self, number: int, sample: Sample, num_videos: int, rng: np.random.Generator) -> list[np.ndarray]:
        with warnings.catch_warnings():
            # That others stand in for undecodable frames would be said again in every epoch; `data check` says it.
            warnings.simplefilter("ignore", VideoWarning)
            try:
                return self.source.groups(number, num_videos, self._pixels.request, rng)
            except FileNotFoundError as error:
                raise SampleError("missing", str(error)) from error
            except (
                InputError,
                OSError,
            ) as error:  # the second: a name that is too long, a folder of others, a lost disk
                raise SampleError("unreadable", f"{sample.place}: {error}") from error

    def check_share(self, last: str = "", status: SampleStatus | None = None) -> None:
        """Stop where more than the allowed share of all samples is broken.

        Args:
            last: what the last of them is, for the message.
            status: of several training processes together; None is that of this one.

        Raises:
            DataError: with the first of them.
        """
        status = status or self.status
        if status.is_too_broken:
            number, share = status.num_broken, status.allowed_share
            listed = [f"{self._name(i)} ({reason})" for i, reason in islice(status.broken(), _NUM_LISTED)]
            more = f" and {number - len(listed)} more" if number > len(listed) else ""
            raise DataError(
                f"{number} of {len(self.source)} samples cannot be used, over the allowed share of {share:g}: "
                f"{'; '.join(listed)}{more}{f'; the last: {last}' if last else ''}"
            )

    def broken(self) -> Iterator[dict[str, Any]]:
        """Go through the samples that could not be used, as rows of a report."""
        for index, reason in self.status.broken():
            sample = self.source[index]
            videos = [clip.path for clip in sample.clips]
            yield {"source": sample.source, "entry": sample.entry, "videos": videos, "reason": reason}

    def _name(self, index: int) -> str:
        sample = self.source[index]
        return f"{sample.place}{f', {sample.clips[0].path}' if sample.clips else ''}"


class GroupPixels:
    """Turn frame groups into the pixels that the model reads: augmented once per group, then composed."""

    def __init__(self, processor: DynImgProcessor, options: DatasetOptions) -> None:
        video_processor = processor.video_processor
        self.layout = video_processor.layout
        self.request = FrameRequest(
            int(video_processor.num_dynimgs), self.layout.num_prompt_frames, str(video_processor.policy),
            options.short_side, int(video_processor.max_pixels), int(video_processor.max_frames),
        )  # fmt: skip
        self._flip = options.flip
        self._is_apart = video_processor.prompt_stage == "after"
        side = self.layout.image_size
        mean, std = (tuple(map(float, getattr(video_processor, name))) for name in ("image_mean", "image_std"))
        self._is_augmented = options.augment
        self.augment = GroupAugment(size=(side, side), mean=mean, std=std)  # type: ignore[arg-type]

    def augment_for(self, sample: Sample) -> GroupAugment:
        """Give the augmentation for a sample: without flips, where `flip` or what the sample says forbids them."""
        is_flipped = self._is_augmented and (
            self._flip == "paper" or (self._flip == "safe" and not speaks_of_sides(sample.text_of()))
        )
        return self.augment if is_flipped else replace(self.augment, flip_probability=0.0)

    def __call__(self, sample: Sample, groups: Sequence[np.ndarray], rng: np.random.Generator) -> dict[str, Tensor]:
        """Make `pixel_values_videos` and `dynimgs_per_video` from the (G, 1 + N, H, W, 3) of each video."""
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        augment = self.augment_for(sample)
        # Group by group: all frames of a video at full size are 27 MB, and each copy of them costs.
        videos = [
            torch.stack([self._dynimg(group, augment, generator) for group in torch.from_numpy(frames).movedim(-1, -3)])
            for frames in groups
        ]
        counts = torch.tensor([len(video) for video in videos])
        return {"pixel_values_videos": torch.cat(videos), "dynimgs_per_video": counts}

    def _dynimg(self, frames: Tensor, augment: GroupAugment, generator: torch.Generator) -> Tensor:
        # One group (1 + N, 3, H, W), composed unless the model wants its frames apart.
        height, width = frames.shape[-2:]
        crop = augment.draw(height, width, generator) if self._is_augmented else Crop(0, 0, height, width, flip=False)
        placed = augment.apply(frames, crop)
        return placed if self._is_apart else compose_dynimgs(placed, self.layout)


class _Slots:
    """Map places in an epoch to samples: each source gives round(weight x samples) of them, in turn."""

    def __init__(self, parts: Sequence[Part], seed: int) -> None:
        self._parts = [part for part in parts if part.stop > part.first]
        counts = [round(part.weight * (part.stop - part.first)) for part in self._parts]
        self._ends = np.cumsum([0, *counts])
        self._seed = seed
        self._orders = [self._order(rank) for rank in range(len(self._parts))]

    def _order(self, rank: int) -> np.ndarray:
        part = self._parts[rank]
        numbers = np.arange(part.first, part.stop, dtype=np.int32)
        if float(part.weight).is_integer():
            return numbers
        # A weight shows a part of the source, and annotation files are often sorted by topic.
        return np.random.default_rng([self._seed, rank]).permutation(numbers)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def sample_of(self, index: int, epoch: int, attempt: int = 0) -> int:
        """Give the sample at a place; from attempt 1 on, one that stands in for it: of its source, later of any."""
        if not 0 <= index < len(self):
            raise IndexError(f"place {index} of an epoch of {len(self)}")
        rank = int(np.searchsorted(self._ends, index, side="right")) - 1
        if attempt:
            rng = np.random.default_rng([self._seed, epoch, index, attempt])
            if attempt > _NUM_REPLACEMENTS // 2:
                rank = int(rng.integers(len(self._parts)))
            return int(self._orders[rank][rng.integers(len(self._orders[rank]))])
        per_epoch = int(self._ends[rank + 1] - self._ends[rank])
        turn = index - int(self._ends[rank]) + epoch * per_epoch
        return int(self._orders[rank][turn % len(self._orders[rank])])
