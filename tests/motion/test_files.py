"""Clips as files."""

import numpy as np
import pytest
import torch

from dynimg_vl import InputError, load_dynimgs
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.motion.files import CODECS, clip_frames, read_pictures, write_clip
from dynimg_vl.motion.textures import PictureBank
from dynimg_vl.motion.world import sample_scenes

LAYOUT = DynImgLayout(4, 8, 16, 8)


@pytest.fixture(scope="module")
def bank():
    return PictureBank.procedural(6, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("codec", CODECS)
def test_a_clip_survives_its_file(tmp_path, bank, codec):
    scene = sample_scenes(1, 6, torch.Generator().manual_seed(1))
    frames = list(clip_frames(scene, bank, num_frames=12, size=(96, 128)))
    path = tmp_path / f"clip{CODECS[codec].suffix}"
    write_clip(path, frames, fps=12, codec=codec)
    loaded = load_dynimgs(str(path), layout=LAYOUT, num_dynimgs=1)
    assert loaded.pixels.shape == (1, 3, 128, 128)
    keyframe = loaded.pixels[0, :, :96].astype(float)
    wanted = frames[loaded.groups[0].keyframe].transpose(2, 0, 1).astype(float)
    assert np.abs(keyframe - wanted).mean() < 12


def test_an_unknown_codec_is_named(tmp_path):
    with pytest.raises(InputError, match="h263"):
        write_clip(tmp_path / "clip.mp4", [], codec="h263")


def test_pictures_come_from_a_folder_of_videos(tmp_path, bank):
    scene = sample_scenes(1, 6, torch.Generator().manual_seed(1))
    write_clip(tmp_path / "a.mp4", clip_frames(scene, bank, num_frames=12, size=(96, 128)))
    (tmp_path / "notes.txt").write_text("no video")
    pictures = read_pictures(tmp_path, per_video=2)
    assert [picture.shape for picture in pictures] == [(96, 128, 3)] * 2
    assert PictureBank.from_frames(pictures).large.shape == (2, 3, 288, 384)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no video"):
        read_pictures(empty)
