"""load_dynimgs: from a file to composed pixels, on short and on long files, without torch."""

import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from dynimg_vl.errors import InputError, VideoError, VideoWarning
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.loading import load_dynimgs
from dynimg_vl.video import FrameIndex, choose_policy, read_frames, select_frame_groups
from dynimg_vl.video.packets import PacketReader
from shapes import SHAPES
from synthetic import frame_number, frame_pixels, loop_video, remux, write_video


def numbers_of(loaded, layout=None):
    """Read the frame numbers back from the tiles of every DynImg."""
    tiles = (layout or DynImgLayout()).pixel_tiles
    images = loaded.pixels.transpose(0, 2, 3, 1)
    return [tuple(frame_number(image[tile.slices]) for tile in tiles) for image in images]


@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"rotated.mp4", "upside_down.mov"}))
def test_tiles_hold_the_frames_of_their_groups(name, tmp_path):
    path = write_video(tmp_path / name, **SHAPES[name])
    loaded = load_dynimgs(path)
    assert loaded.pixels.shape == (4, 3, 336, 336)
    assert loaded.pixels.dtype == np.uint8
    assert numbers_of(loaded) == [group.indices for group in loaded.groups]
    index = FrameIndex.from_file(path)
    assert loaded.policy == choose_policy(index)
    assert list(loaded.groups) == select_frame_groups(index)
    assert loaded.num_lost == 0
    for group, second in zip(loaded.groups, loaded.keyframe_seconds, strict=True):
        assert second == pytest.approx(float(index.pts_seconds[group.keyframe]))
        np.testing.assert_allclose(loaded.seconds(group), index.pts_seconds[list(group.indices)])


@pytest.mark.parametrize("num_prompts", [0, 1, 2, 6, 12])
def test_layouts(num_prompts, tmp_path):
    path = write_video(tmp_path / "clip.mp4", 200, b_frames=2)
    layout = DynImgLayout(num_prompt_frames=num_prompts)
    loaded = load_dynimgs(path, layout=layout, num_dynimgs=3)
    tiles = [(tile.height, tile.width) for tile in layout.pixel_tiles]
    for image, group in zip(loaded.pixels, loaded.groups, strict=True):
        for number, tile, size in zip(group.indices, layout.pixel_tiles, tiles, strict=True):
            rows, columns = tile.slices
            expected = read_frames(path, [number], size=size)[0].transpose(2, 0, 1)
            np.testing.assert_array_equal(image[:, rows, columns], expected)


def test_a_clip_of_a_video(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 200, fps=20)
    loaded = load_dynimgs(path, clip=(2.0, 5.0))
    assert all(40 <= number <= 100 for numbers in numbers_of(loaded) for number in numbers)
    with pytest.raises(InputError, match=r"the video runs from 0.00 s to 9.95 s"):
        load_dynimgs(path, clip=(20.0, 30.0))


def test_training_draws_are_seeded(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 200)
    draws = [load_dynimgs(path, rng=np.random.default_rng(seed)).groups for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len({draws[0], draws[2], draws[3]}) > 1


def test_arrays_and_indices_are_videos(tmp_path):
    frames = np.stack([frame_pixels(number) for number in range(100)])
    loaded = load_dynimgs(frames, fps=10)
    assert numbers_of(loaded) == [group.indices for group in loaded.groups]
    index = FrameIndex.from_file(write_video(tmp_path / "clip.mp4"))
    np.testing.assert_array_equal(load_dynimgs(index).pixels, load_dynimgs(tmp_path / "clip.mp4").pixels)


def test_lost_frames_are_counted(tmp_path):
    path = write_video(tmp_path / "clip.mkv", size=(128, 192), codec="mjpeg", gop_size=1)
    data = path.read_bytes()
    wanted = load_dynimgs(path).groups[0].keyframe
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    hole = slice(starts[wanted], starts[wanted + 1] - 60)
    path.write_bytes(data[: hole.start] + bytes(hole.stop - hole.start) + data[hole.stop :])
    with pytest.warns(VideoWarning, match="1 of the 14 frames asked for cannot be decoded"):
        assert load_dynimgs(path).num_lost == 1


def test_missing_frames_are_described(tmp_path):
    path = write_video(tmp_path / "clip.avi", size=(128, 192))
    assert load_dynimgs(path).describe()["num_missing"] == 0
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with pytest.warns(VideoWarning, match="of 48 frames are missing"):
        loaded = load_dynimgs(path)
    described = loaded.describe()
    assert described["num_missing"] == 48 - loaded.index.num_frames > 5
    assert "num_lost" in described


def test_a_long_file_that_was_cut_off_says_so(tmp_path):
    """A partial index would find I-frames enough and never notice."""
    path = tmp_path / "long.webm"
    loop_video(write_video(tmp_path / "clip.webm", codec="libvpx"), path, 300)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    with pytest.warns(VideoWarning, match="frames are missing"):
        loaded = load_dynimgs(path)
    assert loaded.index.complete
    assert loaded.index.num_lost == pytest.approx(7200 - loaded.index.num_frames, abs=2)


@pytest.mark.parametrize(
    "options", [{"num_dynimgs": 0}, {"num_dynimgs": 10**9}, {"num_dynimgs": 2.0}, {"policy": "best"}, {"clip": (3, 2)}]
)
def test_impossible_requests_come_before_the_video(options):
    with pytest.raises(InputError) as caught:
        load_dynimgs("there is no such file.mp4", **options)
    assert not isinstance(caught.value, VideoError)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Four seconds with B-frames and an open GOP, whose presentation times differ from the decoding times."""
    folder = tmp_path_factory.mktemp("long")
    return write_video(folder / "source.mp4", 96, b_frames=2, options={"x264-params": "open-gop=1"})


LONG = [".mp4", ".mkv", ".ts", ".avi"]


@pytest.mark.parametrize("suffix", LONG)
def test_long_files_are_not_read_through(suffix, source, tmp_path, monkeypatch):
    """Ten minutes: a partial index of 14 true I-frames, the same frames as with a complete one up to the GOP."""
    if suffix == ".avi":
        source = write_video(tmp_path / "source.mp4", 96, codec="mpeg4")
    path = loop_video(source, tmp_path / f"long{suffix}", 600)
    num_packets = 0
    demux = PacketReader.__init__

    def count(self, opened, table, kept):
        nonlocal num_packets
        num_packets = len(table.pts)
        demux(self, opened, table, kept)

    monkeypatch.setattr(PacketReader, "__init__", count)
    loaded = load_dynimgs(path)
    assert num_packets == 14
    assert not loaded.index.complete
    assert loaded.policy == "iframe"
    whole = FrameIndex.from_file(path)
    assert whole.complete
    assert whole.num_frames == pytest.approx(14_400, rel=0.01)
    assert np.isin(np.rint(loaded.index.pts_seconds * 1e4), np.rint(whole.iframe_seconds * 1e4)).all()
    times = [second for group in loaded.groups for second in loaded.seconds(group)]
    expected = [whole.pts_seconds[number] for group in select_frame_groups(whole) for number in group.indices]
    np.testing.assert_allclose(times, expected, atol=1.01)
    # The tiles show what is in the file at these times.
    at = [int(np.abs(whole.pts_seconds - second).argmin()) for second in times]
    shown = [frame_number(frame) for frame in read_frames(whole, at)]
    assert [number for numbers in numbers_of(loaded) for number in numbers] == shown
    # A partial index keeps working once its file is closed.
    again = read_frames(loaded.index, loaded.groups[2].indices)
    assert [frame_number(frame) for frame in again] == list(numbers_of(loaded)[2])


@pytest.mark.parametrize("suffix", LONG[:3])
def test_a_short_clip_of_a_long_file_gives_all_of_its_frames(suffix, source, tmp_path):
    path = loop_video(source, tmp_path / f"long{suffix}", 400)
    loaded = load_dynimgs(path, clip=(200.0, 206.0))
    assert not loaded.index.complete
    assert loaded.index.num_frames < 250
    times = [second for group in loaded.groups for second in loaded.seconds(group)]
    assert min(times) >= 200
    assert max(times) <= 206
    assert len(set(times)) == 14
    whole = FrameIndex.from_file(path)
    at = [
        int(np.abs(whole.pts_seconds - second).argmin()) for group in loaded.groups for second in loaded.seconds(group)
    ]
    shown = [frame_number(frame) for frame in read_frames(whole, at)]
    assert [number for numbers in numbers_of(loaded) for number in numbers] == shown


def test_long_files_with_few_iframes_are_read_through(tmp_path):
    source = write_video(tmp_path / "source.mp4", 240, gop_size=240, fps=2)
    path = loop_video(source, tmp_path / "long.mp4", 240)
    loaded = load_dynimgs(path)
    assert loaded.index.complete
    assert loaded.index.is_iframe.sum() == 2
    assert loaded.policy == "gop_head"


@pytest.mark.parametrize("name", ["flagged.mp4", "flagged.nut"])
def test_long_files_whose_iframes_are_none(name, tmp_path):
    """A partial index of them would show broken pictures: the file is read through instead."""

    def flag(_, packet):
        packet.is_keyframe = True

    codec = "mpeg4" if name.endswith("mp4") else "libx264"
    source = write_video(tmp_path / "source.mkv", 96, fps=2, codec=codec, gop_size=48)
    path = remux(loop_video(source, tmp_path / "long.mkv", 200), tmp_path / name, change=flag)
    loaded = load_dynimgs(path)
    assert loaded.index.complete
    # Frame n of a loop of 96 frames carries the number n mod 96.
    expected = [tuple(number % 96 for number in group.indices) for group in loaded.groups]
    assert numbers_of(loaded) == expected


def test_long_avi_of_h264(tmp_path):
    """AVI has no presentation times; frames are found again by their decoding times."""
    source = write_video(tmp_path / "source.avi", 96)
    path = loop_video(source, tmp_path / "long.avi", 300)
    loaded = load_dynimgs(path)
    assert not loaded.index.complete
    whole = FrameIndex.from_file(path)
    at = [
        int(np.abs(whole.pts_seconds - second).argmin()) for group in loaded.groups for second in loaded.seconds(group)
    ]
    shown = [frame_number(frame) for frame in read_frames(whole, at)]
    assert [number for numbers in numbers_of(loaded) for number in numbers] == shown
    assert shown == [number % 96 for number in at]


def test_training_on_long_files_reaches_every_iframe(tmp_path):
    source = write_video(tmp_path / "source.mp4", 40, gop_size=10, fps=5)
    path = loop_video(source, tmp_path / "long.mp4", 160)
    whole = FrameIndex.from_file(path)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(150):
        loaded = load_dynimgs(path, rng=rng)
        seen |= {round(second, 3) for group in loaded.groups for second in loaded.seconds(group)}
    assert seen >= {round(float(second), 3) for second in whole.iframe_seconds}


def test_a_partial_index_in_its_own_right(source, tmp_path):
    path = loop_video(source, tmp_path / "long.mkv", 600)
    index = FrameIndex.from_file(path, complete=False)
    assert (index.complete, index.num_frames) == (False, 64)
    assert index.is_iframe.all()
    assert index.end_seconds == pytest.approx(600, abs=1)
    assert FrameIndex.from_file(source, complete=False).complete


def test_a_long_file_that_is_cut_off(source, tmp_path):
    path = loop_video(source, tmp_path / "long.mkv", 600)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        loaded = load_dynimgs(path)
    assert max(loaded.keyframe_seconds) < 310
    assert len(set(loaded.keyframe_seconds)) == 4


@pytest.mark.slow
def test_the_cost_of_an_hour_is_that_of_ten_minutes(source, tmp_path):
    for suffix in LONG[:3]:
        seconds = {}
        for length in (600, 3600):
            path = loop_video(source, tmp_path / f"{length}{suffix}", length)
            costs = []
            for _ in range(5):
                start = time.process_time()
                load_dynimgs(path)
                costs.append(time.process_time() - start)
            seconds[length] = min(costs)
        assert seconds[3600] < 2 * seconds[600] + 0.01, (suffix, seconds)


def test_torch_is_not_needed():
    code = "import sys, dynimg_vl.loading; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_clip_between_the_i_frames_of_a_long_file_is_read_nevertheless(tmp_path):
    """A slide show at one frame a second: with an I-frame every 250 s, none lies from 300 s to 450 s."""
    path = write_video(tmp_path / "slides.mp4", 1000, fps=1, gop_size=250)
    assert 250 in np.rint(FrameIndex.from_file(path).iframe_seconds)
    loaded = load_dynimgs(path, clip=(300.0, 450.0))
    assert loaded.index.complete
    assert all(300 <= second <= 450 for group in loaded.groups for second in loaded.seconds(group))
    with pytest.raises(InputError, match=r"from 300.2 s to 300.4 s; the video runs from 0.00 s to (999|1000).00 s"):
        load_dynimgs(path, clip=(300.2, 300.4))
