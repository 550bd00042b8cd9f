"""Clips as files, and the evaluation on them."""

import numpy as np
import pytest
import torch

from dynimg_vl import InputError, load_dynimgs
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.motion.files import CODECS, clip_frames, read_pictures, write_clip
from dynimg_vl.motion.textures import PictureBank
from dynimg_vl.motion.world import sample_scenes
from dynimg_vl.training.motion.evaluation import CONTROLS, disturb, make_clips, read_clips, summarise

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


def test_a_test_set_is_made_once(tmp_path, bank):
    clips = make_clips(tmp_path, bank, 1, seed=3, num_frames=6)
    assert [clip.codec for clip in clips] == list(CODECS)
    assert all((tmp_path / clip.file).stat().st_size > 500 for clip in clips)
    assert read_clips(tmp_path) == clips == make_clips(tmp_path, bank, 5, seed=4)


@pytest.mark.parametrize("control", CONTROLS)
def test_controls_touch_the_prompt_frames_only(control):
    pixels = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    changed = disturb(pixels, LAYOUT, control, torch.Generator().manual_seed(1))
    assert torch.equal(changed[:, :, :96], pixels[:, :, :96])
    strip, other = pixels[:, :, 96:].unflatten(-1, (4, 32)), changed[:, :, 96:].unflatten(-1, (4, 32))
    if control == "none":
        assert torch.equal(strip, other)
    elif control == "grey":
        assert (other == 127).all()
    elif control == "frozen":
        assert (other == other[..., :1, :]).all()
    elif control == "reversed":
        assert torch.equal(other.flip(3), strip)
    else:
        assert sorted(strip.float().mean((0, 1, 2, 4)).tolist()) == sorted(other.float().mean((0, 1, 2, 4)).tolist())


def test_a_summary_names_the_majority_baseline():
    rows = [{"family": "a", "answer": answer, "given": "x"} for answer in ("x", "x", "y", "z")]
    assert summarise(rows) == {"a": {"exact": 0.5, "majority": 0.5, "questions": 4}}
