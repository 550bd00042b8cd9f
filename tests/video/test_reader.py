"""read_frames gives exactly the frames asked for: generated clips whose frames carry their number, and real ones."""

import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dynimg_vl.errors import InputError, VideoError, VideoWarning
from dynimg_vl.video import FrameIndex, read_frames, read_sizes
from shapes import SHAPES
from synthetic import encode_picture, frame_number, frame_pixels, remux, write_video

ROOT = Path(__file__).parents[2]
CLIPS = Path(os.environ.get("DYNIMG_VL_VIDEOS", ROOT.parent / "shared" / "videos"))
GOLDEN = sorted(json.loads((ROOT / "tests" / "golden" / "videos.json").read_text()))


def numbers_of(frames):
    return [frame_number(frame) for frame in frames]


@pytest.mark.parametrize("name", SHAPES)
def test_every_frame_is_the_one_asked_for(name, tmp_path):
    path = write_video(tmp_path / name, **SHAPES[name])
    index = FrameIndex.from_file(path)
    everything = read_frames(path, range(index.num_frames))
    assert everything.shape == (index.num_frames, index.height, index.width, 3)
    turned = {"rotated.mp4": 1}.get(name, 0)  # the numbers lie along the upper edge before the picture is turned
    upright = [np.rot90(f, turned) for f in everything]
    assert numbers_of(np.rot90(f, 2) if name == "upside_down.mov" else f for f in upright) == list(range(len(upright)))
    # Alone, without its neighbours, a frame is the same to the last bit.
    for number in {0, index.num_frames // 3, index.num_frames * 2 // 3, index.num_frames - 1}:
        np.testing.assert_array_equal(read_frames(index, [number])[0], everything[number])


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="schedulers are Linux's")
def test_writing_av1_leaves_the_process_an_ordinary_one(tmp_path):
    before = os.sched_getscheduler(0)
    write_video(tmp_path / "av1.mp4", **SHAPES["av1.mp4"])
    assert os.sched_getscheduler(0) == before


def full_decode(path, number_of_stream=0):
    with av.open(str(path)) as container:
        stream = container.streams.video[number_of_stream]
        yield from container.decode(stream)


@pytest.mark.parametrize("name", GOLDEN)
def test_real_clip_equals_a_full_decode(name):
    if not (CLIPS / name).exists():
        pytest.skip(f"{name} is not in {CLIPS}; set DYNIMG_VL_VIDEOS to the folder of the shared clips")
    index = FrameIndex.from_file(CLIPS / name)
    rng = np.random.default_rng(0)
    wanted = sorted({0, index.num_frames - 1, *rng.choice(index.num_frames, 6).tolist()})
    ours = read_frames(index, wanted, size=(64, 64))
    got = 0
    for number, frame in enumerate(full_decode(CLIPS / name)):
        if number in wanted:
            picture = frame.to_image()
            if name.endswith(".gif"):
                rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
                picture = Image.fromarray((rgba[..., :3] * rgba[..., 3:] // 255).astype(np.uint8))
            picture = picture.rotate(index.rotation, expand=True).resize((64, 64), Image.Resampling.BICUBIC)
            error = np.abs(ours[wanted.index(number)].astype(int) - np.asarray(picture)).mean()
            assert error < 2.5, f"frame {number} differs by {error} on average"
            got += 1
    assert got == len(wanted)
    assert number + 1 == index.num_frames


def test_order_and_repetition_are_kept(tmp_path):
    path = write_video(tmp_path / "clip.mp4", b_frames=3)
    assert numbers_of(read_frames(path, [40, 3, 40, 17])) == [40, 3, 40, 17]
    assert read_frames(path, []).shape == (0, 64, 96, 3)


def test_sizes_come_straight_from_the_scaler(tmp_path):
    path = write_video(tmp_path / "clip.mp4", size=(120, 160))
    assert read_frames(path, [5], size=(33, 77)).shape == (1, 33, 77, 3)
    reading = read_sizes(FrameIndex.from_file(path), {5: {(30, 40), (60, 80)}, 7: {(30, 40)}})
    assert set(reading.pixels) == {(5, (30, 40)), (5, (60, 80)), (7, (30, 40))}
    assert frame_number(reading.pixels[5, (60, 80)]) == 5


def test_pixels_are_close_to_what_was_encoded(tmp_path):
    path = write_video(tmp_path / "clip.mp4", pixel_format="yuv444p")
    for number, frame in zip([0, 30], read_frames(path, [0, 30]), strict=True):
        assert np.abs(frame.astype(int) - frame_pixels(number).astype(int)).mean() < 4


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_all_eight_turns(rotation, flips, tmp_path):
    """Pictures come out as FFmpeg's own autorotation shows them: mirrored first, then turned counterclockwise."""
    path = write_video(tmp_path / "clip.mp4", num_frames=1, rotation=rotation, flips=flips, options={"qp": "5"})
    picture = frame_pixels(0)
    (got,) = read_frames(path, [0])
    index = FrameIndex.from_file(path)
    assert got.shape == (index.height, index.width, 3)
    with av.open(str(path)) as container:
        matrix = np.frombuffer(bytes(next(container.decode(video=0)).side_data.get("DISPLAYMATRIX") or b""), np.int32)
    expected = place_by_matrix(picture, matrix.reshape(3, 3)[:2, :2] / 65536) if len(matrix) else picture
    assert np.abs(got.astype(int) - expected.astype(int)).mean() < 6


def place_by_matrix(picture, matrix):
    """Move every pixel by hand: (x, y) to (a x + c y, b x + d y)."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    moved = np.stack([x, y], -1).reshape(-1, 2) @ np.rint(matrix).astype(int)
    moved -= moved.min(axis=0)
    placed = np.zeros((moved[:, 1].max() + 1, moved[:, 0].max() + 1, 3), np.uint8)
    placed[moved[:, 1], moved[:, 0]] = picture.reshape(-1, 3)
    return placed


def test_non_square_pixels_become_square(tmp_path):
    path = write_video(tmp_path / "clip.mp4", sample_aspect_ratio=Fraction(2, 1))
    assert read_frames(path, [0]).shape == (1, 64, 192, 3)


@pytest.mark.parametrize(("codec", "name"), [("png", "alpha.mov"), ("qtrle", "alpha.mov")])
def test_alpha_lies_over_black(codec, name, tmp_path):
    pixels = np.zeros((4, 32, 48, 4), np.uint8)
    pixels[..., :3] = 200
    pixels[:, :, :16, 3], pixels[:, :, 16:32, 3], pixels[:, :, 32:, 3] = 255, 128, 0
    pixel_format = "rgba" if codec == "png" else "argb"
    path = write_video(
        tmp_path / name, 4, size=(32, 48), codec=codec, pixel_format=pixel_format, frames=list(pixels), gop_size=1
    )
    (frame,) = read_frames(path, [2])
    assert np.abs(frame[16, [8, 24, 40]].astype(int) - [[200] * 3, [100] * 3, [0] * 3]).max() <= 2


def test_no_presentation_times_at_all(tmp_path):
    path = write_video(tmp_path / "raw.h264", b_frames=3)
    index = FrameIndex.from_file(path)
    assert index.num_frames == 48
    assert (np.diff(index.pts_seconds) > 0).all()
    assert numbers_of(read_frames(index, range(48))) == list(range(48))
    assert numbers_of(read_frames(index, [13, 24, 37])) == [13, 24, 37]


def test_avi_does_not_say_how_h264_is_ordered(tmp_path):
    path = write_video(tmp_path / "clip.avi", b_frames=3)
    assert numbers_of(read_frames(path, [0, 7, 12, 30, 47])) == [0, 7, 12, 30, 47]


def test_packets_that_are_all_flagged_as_iframes(tmp_path):
    """As in an mp4 without its table of I-frames: decoders that believe it give the same frame again and again."""

    def flag(_, packet):
        packet.is_keyframe = True

    for codec, suffix in (("libx264", "nut"), ("mpeg4", "mp4"), ("mpeg4", "mov")):
        source = write_video(tmp_path / f"{codec}.mkv", codec=codec, b_frames=2)
        path = remux(source, tmp_path / f"lies.{suffix}", change=flag)
        assert FrameIndex.from_file(path).is_iframe.all()
        assert numbers_of(read_frames(path, [5, 14, 27, 46])) == [5, 14, 27, 46]


def test_hidden_frames_of_vp8_do_not_count(tmp_path):
    """Alternate references have packets of their own, which are decoded and never shown."""
    source = write_video(tmp_path / "whole.webm", codec="libvpx")

    def hide(number, packet):
        if number != 10:
            return None
        data = bytearray(bytes(packet))
        data[0] &= ~0x10
        hidden = av.Packet(bytes(data))
        hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
        return hidden

    index = FrameIndex.from_file(remux(source, tmp_path / "hidden.webm", change=hide))
    assert index.num_frames == 47
    assert numbers_of(read_frames(index, range(47))) == [n for n in range(48) if n != 10]


def test_edit_list_that_starts_within_a_gop(tmp_path):
    """The frames before the cut are in the file and must be decoded, but they are not shown."""
    source = write_video(tmp_path / "whole.mp4", gop_size=24)

    def shift(_, packet):
        packet.pts -= packet.duration * 10
        packet.dts -= packet.duration * 10

    path = remux(source, tmp_path / "cut.mp4", change=shift)
    index = FrameIndex.from_file(path)
    assert index.num_frames == 38
    assert index.pts_seconds[0] == pytest.approx(0, abs=1e-6)
    assert numbers_of(read_frames(index, [0, 5, 13, 14, 37])) == [10, 15, 23, 24, 47]


def test_negative_times(tmp_path):
    source = write_video(tmp_path / "whole.mp4")

    def shift(_, packet):
        packet.pts -= int(0.5 / packet.time_base)
        packet.dts -= int(0.5 / packet.time_base)

    path = remux(source, tmp_path / "early.ts", change=shift, container_options={"avoid_negative_ts": "disabled"})
    index = FrameIndex.from_file(path)
    assert index.pts_seconds[0] == pytest.approx(-0.5, abs=0.01)
    assert numbers_of(read_frames(index, [0, 20])) == [0, 20]


def test_stream_that_starts_without_an_iframe(tmp_path):
    source = write_video(tmp_path / "whole.ts")
    path = remux(source, tmp_path / "headless.ts", change=lambda number, _: None if number >= 5 else False)
    index = FrameIndex.from_file(path)
    first = int(index.iframe_indices[0])
    assert numbers_of(read_frames(index, [first, first + 13])) == [12, 25]


def test_frames_that_change_size(tmp_path):
    small = write_video(tmp_path / "small.ts", 24, size=(64, 96))
    large = write_video(tmp_path / "large.ts", 24, size=(96, 160), times=[1000 + n * 42 for n in range(24)])
    path = tmp_path / "both.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    index = FrameIndex.from_file(path)
    frames = read_frames(index, range(index.num_frames))
    assert frames.shape[1:] == (64, 96, 3)
    assert set(numbers_of(frames)) == set(range(24))


def test_folder_of_frames(tmp_path):
    for number in (1, 2, 10):
        (tmp_path / f"frame{number}.png").write_bytes(encode_picture(frame_pixels(number)))
    (tmp_path / "notes.txt").write_text("no frame")
    index = FrameIndex.from_folder(tmp_path, fps=2)
    assert (index.num_frames, index.height, index.width) == (3, 64, 96)
    assert index.pts_seconds.tolist() == [0, 0.5, 1]
    np.testing.assert_array_equal(read_frames(index, [2, 0]), [frame_pixels(10), frame_pixels(1)])
    (tmp_path / "frame2.png").write_bytes(b"no picture")
    with pytest.warns(VideoWarning, match="1 of the 2 frames"):
        np.testing.assert_array_equal(read_frames(index, [0, 1])[1], frame_pixels(1))


def test_jpeg_folder_whose_names_look_like_a_pattern(tmp_path):
    (tmp_path / "frame%03d.jpg").write_bytes(encode_picture(frame_pixels(7), "mjpeg"))
    assert frame_number(read_frames(tmp_path, [0], fps=1)[0]) == 7


def test_array_of_frames():
    frames = np.stack([frame_pixels(number) for number in range(5)])
    index = FrameIndex.from_array(frames, fps=10)
    np.testing.assert_array_equal(read_frames(index, [4, 2]), frames[[4, 2]])
    assert numbers_of(read_frames(index, [3], size=(48, 48))) == [3]


@pytest.mark.parametrize("index", [-1, 48])
def test_frames_outside_of_the_video_are_refused(index, tmp_path):
    path = write_video(tmp_path / "clip.mp4")
    with pytest.raises(InputError, match=f"frame {index} is not in the video; its 48 frames count from 0"):
        read_frames(path, [index])
    with pytest.raises(InputError, match="no pixels"):
        read_frames(FrameIndex.regular(5, fps=1, gop_size=1), [0])
    with pytest.raises(InputError, match="size must be"):
        read_frames(path, [0], size=(0, 5))


def test_a_video_that_changed_is_not_mistaken(tmp_path):
    index = FrameIndex.from_file(write_video(tmp_path / "clip.mp4"))
    write_video(tmp_path / "clip.mp4", num_frames=30, gop_size=7)
    with pytest.raises(VideoError, match="changed since it was indexed"):
        read_frames(index, [3])


def test_bytes_are_a_video(tmp_path):
    data = write_video(tmp_path / "clip.mkv", b_frames=2).read_bytes()
    assert numbers_of(read_frames(data, [5, 31])) == [5, 31]
