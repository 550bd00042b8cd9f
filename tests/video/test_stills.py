"""Folders of pictures as cameras make them, and frames of shapes that FFmpeg has trouble with."""

import io

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from dynimg_vl.errors import VideoError
from dynimg_vl.video import index_video, read_frames, stills
from dynimg_vl.video.container import PYAV
from synthetic import frame_pixels, write_video

ORIENTATION, MAKE = 0x112, 0x10F


def photo(path, orientation=None):
    """Save a picture as a camera does: with EXIF, which may say how it was held."""
    exif = Image.Exif()
    exif[MAKE] = "a camera"
    if orientation is not None:
        exif[ORIENTATION] = orientation
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:64, None], (1, 96)), np.zeros((64, 96), np.uint8)], -1)
    Image.fromarray(pixels).save(path, exif=exif, **({"quality": 95} if path.suffix == ".jpg" else {"lossless": True}))
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(float)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_pictures_of_a_camera_are_shown_as_it_was_held(suffix, orientation, tmp_path):
    expected = photo(tmp_path / f"a{suffix}", orientation)
    if suffix != ".jpg" and orientation not in (None, 1) and not _turns(tmp_path / f"a{suffix}"):
        pytest.skip(f"this FFmpeg does not turn {suffix}")
    index = index_video(tmp_path, fps=1)
    assert (index.height, index.width) == expected.shape[:2]
    (pixels,) = read_frames(tmp_path, [0], fps=1)
    assert np.abs(pixels - expected).mean() < 3


def _turns(path):
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).rotation != 0


def test_what_macos_keeps_beside_a_picture_is_none(tmp_path):
    photo(tmp_path / "a.jpg")
    (tmp_path / "._a.jpg").write_bytes(b"\0\5\26\7")
    assert index_video(tmp_path, fps=1).num_frames == 1


def test_a_picture_of_gigabytes_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2**31)
    monkeypatch.setattr(stills, "open_video", None)
    with pytest.raises(VideoError, match=r"a\.png is over 26\d+ bytes.*raise max_pixels"):
        index_video(tmp_path, fps=1)


def test_a_picture_that_grows_when_decoded_is_held_to_the_limit(tmp_path):
    # A VP8 stream whose container says 64 x 64: what comes out is larger.
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        encoder = av.CodecContext.create("libvpx", "w")
        encoder.width = encoder.height = 1024
        encoder.pix_fmt, encoder.time_base = "yuv420p", stream.time_base or 1
        encoder.options = {"deadline": "realtime", "cpu-used": "16"}
        container.start_encoding()
        frame = av.VideoFrame.from_ndarray(frame_pixels(0, 1024, 1024), "rgb24").reformat(format="yuv420p")
        for packet in [*encoder.encode(frame), *encoder.encode(None)]:
            packet.stream = stream
            container.mux(packet)
    (tmp_path / "a.png").write_bytes(target.getvalue())
    assert read_frames(tmp_path, [0], fps=1, size=(8, 8)).shape == (1, 8, 8, 3)
    with pytest.raises(VideoError, match=r"a\.png cannot be decoded"):
        read_frames(tmp_path, [0], fps=1, size=(8, 8), max_pixels=64 * 64)


@pytest.mark.parametrize("size", [(4000, 4), (4, 4000), (1500, 2)])
def test_thin_frames_are_scaled(size, tmp_path):
    path = write_video(tmp_path / "thin.mkv", 1, size=size, codec="ffv1", pixel_format="yuv444p")
    (pixels,) = read_frames(path, [0], size=(84, 84))
    whole = read_frames(path, [0])[0]
    assert pixels.shape == (84, 84, 3)
    assert np.abs(pixels.mean((0, 1)) - whole.mean((0, 1))).max() < 8


def test_what_cannot_be_scaled_names_the_file(tmp_path):
    path = write_video(tmp_path / "thin.mkv", 1, size=(60_000, 2), codec="ffv1", pixel_format="yuv444p")
    with pytest.raises(VideoError, match=r"thin\.mkv: a frame of 2 x 60000 pixels .* cannot be scaled to 1000 x 1"):
        read_frames(path, [0], size=(1, 1000))


@pytest.mark.skipif(PYAV < 18, reason="PyAV before 18 cannot write rotated videos")
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_a_matroska_file_may_be_turned_like_an_mp4(rotation, tmp_path):
    kinds = [index_video(write_video(tmp_path / f"clip{end}", 2, rotation=rotation)) for end in (".mp4", ".mkv")]
    found = [(index.width, index.height, abs(index.rotation)) for index in kinds]
    assert found[0] == found[1] == ((64, 96) if rotation % 180 else (96, 64)) + (abs(rotation),)
    if rotation != 180:
        assert kinds[0].rotation == kinds[1].rotation == rotation
    pixels = [read_frames(tmp_path / f"clip{end}", [1])[0].astype(int) for end in (".mp4", ".mkv")]
    assert np.abs(pixels[0] - pixels[1]).max() < 3


def test_any_limit_on_pixels_fits_the_decoder(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 2)
    assert read_frames(path, [1], max_pixels=2**40).shape == (1, 64, 96, 3)
