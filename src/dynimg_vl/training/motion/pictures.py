"""The pictures of a run on the motion world, as a function of the number of the batch."""

import numpy as np
import torch

from ...errors import InputError
from ...motion.files import read_pictures
from ...motion.textures import LARGE_SIZE, SMALL_SIZE, PictureBank, procedural_pictures
from ...motion.world import new_bank
from .settings import WorldSettings

VALIDATION_SEED = 987_654


class PictureWindow:
    """Show the latest of an endless row of procedural pictures, each drawn from its own number.

    Whichever worker asks, and wherever a run is taken up, the pictures of a batch are the same.

    Args:
        num: pictures at hand.
        seed: of the row.
        refresh_every: batches after which the window moves on by one picture.
    """

    def __init__(self, num: int, seed: int, refresh_every: int) -> None:
        self.num, self.seed, self.refresh_every = num, seed, refresh_every
        self._held = np.full(num, -1)
        self._bank: PictureBank | None = None

    def at(self, batch: int) -> PictureBank:
        """Give the pictures for a batch; they change with the next call."""
        if self._bank is None:  # not before, or each worker of a run would get a copy
            sizes = ((self.num, 3, *size) for size in (LARGE_SIZE, SMALL_SIZE))
            self._bank = PictureBank(*(torch.empty(size, dtype=torch.uint8) for size in sizes))
        first = batch // self.refresh_every
        wanted = first + (np.arange(self.num) - first) % self.num
        for slot in np.flatnonzero(self._held != wanted):
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + int(wanted[slot])) % 2**63)
            fresh = PictureBank.from_pictures(procedural_pictures(1, generator))
            self._bank.large[slot], self._bank.small[slot] = fresh.large[0], fresh.small[0]
        self._held = wanted
        return self._bank


class FixedPictures:
    """Show the same pictures for each batch."""

    def __init__(self, bank: PictureBank) -> None:
        self.bank = bank

    def at(self, batch: int) -> PictureBank:
        """Give the pictures for a batch."""
        return self.bank


def training_pictures(settings: WorldSettings) -> PictureWindow | FixedPictures:
    """Give the pictures to train on: procedural ones, or frames of a folder of videos.

    Raises:
        InputError: where the folder is not there or no video in it can be read.
    """
    if settings.pictures is None:
        return PictureWindow(settings.num_pictures, settings.seed, settings.refresh_every)
    if not settings.pictures.is_dir():
        raise InputError(f"data.world: pictures: no such folder: {settings.pictures}")
    return FixedPictures(PictureBank.from_frames(read_pictures(settings.pictures, settings.pictures_per_video)))


def validation_pictures(settings: WorldSettings) -> FixedPictures:
    """Give procedural pictures that no run trains on."""
    return FixedPictures(new_bank(settings.validation_pictures, VALIDATION_SEED))
