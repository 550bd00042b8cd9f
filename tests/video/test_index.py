"""FrameIndex against ffprobe: golden tables of real clips, live tables of generated ones where ffprobe is installed."""

import importlib.util
import io
import json
import os
import shutil
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dynimg_vl.errors import InputError, VideoError, VideoWarning
from dynimg_vl.video import FrameIndex, index_video, read_frames
from dynimg_vl.video.extent import claimed_bytes
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
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # these clips are intact
        index = FrameIndex.from_file(CLIPS / name)
    assert index.num_lost == 0
    assert_equal(index, GOLDEN[name])


@needs_ffprobe
@pytest.mark.parametrize("name", SHAPES)
def test_generated_clip_equals_ffprobe(name, tmp_path):
    path = write_video(tmp_path / name, **SHAPES[name])
    assert_equal(FrameIndex.from_file(path), probe(path))


@pytest.mark.parametrize(
    ("name", "num_bytes", "lost"),
    [
        ("dvr-scan__issue53_brightness_change.avi", 900_000, (22, 59)),
        ("moviepy__big_buck_bunny_0_30.webm", 600_000, (397, 720)),
    ],
)
def test_what_a_cut_off_clip_lost_is_told(name, num_bytes, lost):
    if not (CLIPS / name).exists():
        pytest.skip(f"{name} is not in {CLIPS}; set DYNIMG_VL_VIDEOS to the folder of the shared clips")
    with pytest.warns(VideoWarning, match=f"{lost[0]} of {lost[1]} frames are missing"):
        index = FrameIndex.from_file((CLIPS / name).read_bytes()[:num_bytes])
    assert (index.num_lost, index.num_lost + index.num_frames) == lost
    assert index.duration_seconds >= index.pts_seconds[-1]


def test_gaps_in_the_times_of_an_avi_are_no_loss(tmp_path):
    """Gaps take empty packets, which its header counts like frames."""
    path = write_video(tmp_path / "clip.avi", codec="mpeg4", times=[n * (3 if n > 20 else 1) * 42 for n in range(48)])
    for data in (path.read_bytes(), path.read_bytes()[:-200]):  # the second lacks a part of its index, and no frame
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert FrameIndex.from_file(data).num_frames == 48


@pytest.mark.parametrize("suffix", ["avi", "mkv", "webm", "mp4"])
def test_claimed_bytes_of_a_complete_file(suffix, tmp_path):
    data = write_video(tmp_path / f"clip.{suffix}", codec="libvpx" if suffix == "webm" else "libx264").read_bytes()
    assert claimed_bytes(io.BytesIO(data)) == (0 if suffix == "mp4" else len(data))
    for length in (*range(60), len(data) // 2):
        assert claimed_bytes(io.BytesIO(data[:length])) in (0, len(data))


def test_headers_that_claim_no_length_are_not_cut_off():
    for size in (b"\0\0\0\0", b"\xff\xff\xff\xff"):  # an AVI that is still being written
        assert claimed_bytes(io.BytesIO(b"RIFF" + size + b"AVI " + bytes(50))) == 0
    live = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7
    assert claimed_bytes(io.BytesIO(live + bytes(50))) == 0


@pytest.mark.parametrize("name", ["max_pixels", "max_frames"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_limits_are_at_least_one(name, value, tmp_path):
    with pytest.raises(InputError, match=f"{name} must be an integer of at least 1, got {value}"):
        index_video(write_video(tmp_path / "clip.mp4", 2), **{name: value})


@pytest.mark.parametrize("fps", [0, -1, 1e-4, 1e6, float("nan"), float("inf"), "24", True])
def test_frame_rates_out_of_bounds_are_refused(fps, tmp_path):
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    path = write_video(tmp_path / "clip.mp4", 2)
    for index in (
        lambda: FrameIndex.from_array(frames, fps=fps),
        lambda: FrameIndex.from_folder(tmp_path, fps=fps),
        lambda: FrameIndex.regular(2, fps=fps, gop_size=1),
        lambda: index_video(path, fps=fps),
    ):
        with pytest.raises(InputError, match=r"fps must be a number from 0\.001 to 100000, got"):
            index()
    assert FrameIndex.from_array(frames, fps=Fraction(1, 2)).pts_seconds.tolist() == [0, 2]


def test_mistaken_sources_are_named(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 2)
    for folder in (tmp_path / "nothing", path, "a\n\0"):
        with pytest.raises(VideoError, match=r"cannot be listed: .*give a folder of jpg or png") as caught:
            FrameIndex.from_folder(folder, fps=1)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="must be a NumPy array, got list"):
        FrameIndex.from_array([[1]], fps=1)
    with pytest.raises(VideoError, match=r"is a folder; use FrameIndex\.from_folder"):
        FrameIndex.from_file(tmp_path)


@pytest.mark.parametrize("indices", [[0.0], ["0"], [True], [None], 0, "0", np.zeros((1, 2), int)])
def test_frame_numbers_are_integers(indices, tmp_path):
    path = write_video(tmp_path / "clip.mp4", 2)
    with pytest.raises(InputError, match=r"indices must be frame numbers \(integers\), got"):
        read_frames(path, indices)
    assert len(read_frames(path, np.array([1, 0]))) == 2


def test_addresses_are_not_opened():
    for address in ("http://example.org/a//b.mp4?x=1&y=2", "rtsp://camera/1", "https://example.org/" + "x" * 5000):
        with pytest.raises(VideoError, match="is an address, and addresses are not opened") as caught:
            index_video(address)
        assert str(caught.value).startswith(address)
    with pytest.raises(VideoError, match="are not opened"):
        FrameIndex.from_file(Path("http://example.org/a.mp4"))
