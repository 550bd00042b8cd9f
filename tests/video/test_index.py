"""FrameIndex against ffprobe: golden tables of real clips, live tables of generated ones where ffprobe is installed."""

import importlib.util
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dynimg_vl.video import FrameIndex
from shapes import SHAPES
from synthetic import write_video

ROOT = Path(__file__).parents[2]
CLIPS = Path(os.environ.get("DYNIMG_VL_VIDEOS", ROOT.parent / "shared" / "videos"))
GOLDEN = json.loads((ROOT / "tests" / "golden" / "videos.json").read_text())
needs_ffprobe = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")


def assert_equal(index, table):
    ratio = Fraction(table["sample_aspect_ratio"].replace(":", "/"))
    width, height = round(table["width"] * ratio), table["height"]
    if table["rotation"] % 180:
        width, height = height, width
    assert (index.codec, index.width, index.height) == (table["codec"], width, height)
    assert index.rotation == table["rotation"]
    assert index.sample_aspect_ratio == ratio
    assert index.num_frames == len(table["pts"])
    expected = np.array(table["pts"]) * float(Fraction(table["time_base"]))
    np.testing.assert_allclose(index.pts_seconds, expected, atol=1e-9)
    assert index.iframe_indices.tolist() == table["iframes"]
    assert index.duration_seconds == pytest.approx(table["duration"], abs=0.05)  # FFmpeg 8.0 and 8.1 differ by a frame
    assert index.complete


def probe(path):
    spec = importlib.util.spec_from_file_location("make_videos", ROOT / "tests" / "golden" / "make_videos.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.probe(path)


@pytest.mark.parametrize("name", GOLDEN)
def test_real_clip_equals_ffprobe(name):
    if not (CLIPS / name).exists():
        pytest.skip(f"{name} is not in {CLIPS}; set DYNIMG_VL_VIDEOS to the folder of the shared clips")
    assert_equal(FrameIndex.from_file(CLIPS / name), GOLDEN[name])


@needs_ffprobe
@pytest.mark.parametrize("name", SHAPES)
def test_generated_clip_equals_ffprobe(name, tmp_path):
    path = write_video(tmp_path / name, **SHAPES[name])
    assert_equal(FrameIndex.from_file(path), probe(path))
