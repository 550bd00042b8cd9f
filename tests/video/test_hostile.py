"""What must not be trusted: files that are no video, that are damaged, that lie or that name other files."""

import errno
import io
import os
import struct
import threading
import warnings
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from dynimg_vl.errors import InputError, VideoError, VideoWarning
from dynimg_vl.video import FrameIndex, index_video, packets, read_frames, stills
from dynimg_vl.video.boxes import read_tracks
from dynimg_vl.video.container import PYAV, OpenVideo
from dynimg_vl.video.index import _num_missing
from dynimg_vl.video.matroska import read_rotations
from dynimg_vl.video.sps import sample_aspect_ratio
from synthetic import frame_number, frame_pixels, write_sound, write_video


def refused(video, **options):
    with pytest.raises(VideoError) as caught:
        read_frames(video, [0], **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def readable_or_refused(video):
    try:
        read_frames(video, [0])
    except VideoError as error:
        message = str(error)
        if "\n" in message:
            pytest.fail(message)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", size=(128, 192), b_frames=2)


def test_missing_file(tmp_path):
    assert "nothing.mp4: no such file or directory" in refused(tmp_path / "nothing.mp4")
    assert "\n" not in refused("a\nb\0c")


def test_empty_file(tmp_path):
    (tmp_path / "empty.mp4").touch()
    assert "empty.mp4 is empty" in refused(tmp_path / "empty.mp4")
    assert "is empty" in refused(b"")


def test_folder_without_pictures(tmp_path):
    assert "folder without pictures" in refused(tmp_path, fps=1)
    with pytest.raises(InputError, match="give fps"):
        index_video(tmp_path)


@pytest.mark.parametrize("text", ["Dear diary,\ntoday no video.\n", "1\n00:00:01,000 --> 00:00:02,000\nhello\n"])
def test_text_file(text, tmp_path):
    (tmp_path / "diary.mp4").write_text(text * 50)
    assert "diary.mp4" in refused(tmp_path / "diary.mp4")


def test_noise(tmp_path):
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(100_000))
    assert "noise.mp4" in refused(tmp_path / "noise.mp4")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "not a regular file" in refused(tmp_path / "pipe.mp4")


def test_sound_only(tmp_path):
    assert "only audio" in refused(write_sound(tmp_path / "song.m4a"))
    assert "only a cover picture" in refused(write_sound(tmp_path / "song.mp4", cover=frame_pixels(0)))


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\n{clip}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile {clip}\n",
    "x.mp4": "ffconcat version 1.0\nfile {clip}\n",
    "bom.mp4": "\ufeff#EXTM3U\n#EXTINF:2,\n{clip}\n",
    "manifest.mpd": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period></Period></MPD>\n',
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_are_not_followed(name, clip):
    path = clip.with_name(name)
    path.write_text(PLAYLISTS[name].format(clip=clip.name))
    assert "playlist that names other files" in refused(path)
    assert "playlist that names other files" in refused(path.read_bytes())


def test_the_format_list_holds_without_the_look_at_the_first_bytes(clip, monkeypatch):
    monkeypatch.setattr("dynimg_vl.video.container._refuse_playlist", lambda head, name: None)
    for name in ("list.m3u8", "list.ffconcat", "x.mp4"):
        path = clip.with_name(name)
        path.write_text(PLAYLISTS[name].format(clip=clip.name))
        assert "not a self-contained video" in refused(path)


@pytest.mark.parametrize("name", ["concat:a.mp4|b.mp4", "http:x.mp4", "frame%03d.mp4", "-i.mp4", "ü ñ.mp4"])
def test_names_are_names(name, clip, monkeypatch):
    (clip.parent / name).write_bytes(clip.read_bytes())
    monkeypatch.chdir(clip.parent)
    assert frame_number(read_frames(name, [9])[0]) == 9


def test_the_limit_on_pixels_comes_before_decoding(clip):
    message = refused(clip, max_pixels=10_000)
    assert "192 x 128 pixels are over the limit of 10000" in message
    assert read_frames(clip, [0], max_pixels=192 * 128).shape == (1, 128, 192, 3)


def test_a_picture_of_absurd_size_is_refused():
    header = b"GIF89a" + struct.pack("<HHBBB", 15000, 15000, 0, 0, 0)
    assert "15000 x 15000" in refused(header + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;")


def test_absurd_pixel_shapes_count_as_pixels(tmp_path):
    path = write_video(tmp_path / "wide.mkv", 2, size=(512, 512), sample_aspect_ratio=Fraction(200, 1))
    assert "over the limit" in refused(path)


def test_a_stream_that_grows_in_the_middle_is_held_to_the_limit(tmp_path):
    small = write_video(tmp_path / "small.ts", 24)
    large = write_video(tmp_path / "large.ts", 24, size=(512, 768), times=[1000 + n * 42 for n in range(24)])
    small.write_bytes(small.read_bytes() + large.read_bytes())
    index = FrameIndex.from_file(small, max_pixels=64 * 96)
    with pytest.warns(VideoWarning, match="nearest readable"):
        frames = read_frames(index, [3, 40])
    assert frame_number(frames[0]) == 3
    assert frame_number(frames[1]) < 24


def test_the_limit_on_frames(clip):
    assert "48 frames are over the limit of 20" in refused(clip, max_frames=20)
    ts = write_video(clip.with_suffix(".ts"), 48)
    assert "more than 20 frames" in refused(ts, max_frames=20)


def test_a_table_that_claims_a_billion_samples(clip, tmp_path):
    """FFmpeg would take 24 bytes and more for each of them before the first can be read."""
    data = bytearray(clip.read_bytes())
    at = data.index(b"stsz")
    data[at + 8 : at + 16] = struct.pack(">II", 1, 1_000_000_000)
    (tmp_path / "bomb.mp4").write_bytes(data)
    assert "1000000000 frames are over the limit" in refused(tmp_path / "bomb.mp4")


def claim(data, kind, offset, number):
    """Let the first box of this kind claim so many samples."""
    data = bytearray(data)
    struct.pack_into(">I", data, data.index(kind) + 4 + offset, number)
    return bytes(data)


@pytest.fixture(scope="module")
def fragments(tmp_path_factory):
    options = {"movflags": "frag_keyframe+empty_moov"}
    path = write_video(tmp_path_factory.mktemp("fragments") / "clip.mp4", 24, container_options=options)
    return path.read_bytes()


def test_fragments_that_claim_more_than_they_hold_are_refused_before_ffmpeg_counts(fragments, monkeypatch):
    """20 million samples in 32 kB: 25 s and 760 MB in FFmpeg, which makes an entry for each."""
    assert FrameIndex.from_file(fragments).num_frames == 24
    # Flags 1: no sample has a field of its own, so that nothing else bounds their number.
    bomb = claim(claim(fragments, b"trun", 0, 1), b"trun", 4, 20_000_000)
    monkeypatch.setattr("dynimg_vl.video.container._open_container", lambda *_: pytest.fail("FFmpeg has seen it"))
    assert "20000012 frames are over the limit of 5000000" in refused(bomb)
    # The table of a track that no header has.
    assert "20000000 frames are over the limit" in refused(claim(bomb, b"tfhd", 4, 77))


def test_samples_are_counted_over_all_fragments_and_in_short_tables(fragments, clip):
    def count(data):
        return [track.num_samples for track in read_tracks(io.BytesIO(data), "clip")]

    assert fragments.count(b"trun") == 2
    assert count(fragments) == [24]
    assert count(claim(fragments, b"trun", 4, 100)) == [112]
    data = clip.read_bytes()
    assert count(claim(data.replace(b"stsz", b"stz2"), b"stz2", 8, 123)) == [123]


def test_the_limit_counts_frames_and_not_sound(tmp_path):
    """Raw sound of 105 s at 48 kHz, as recordings have it: 5 million samples, of which FFmpeg makes 5,000 entries."""
    path = tmp_path / "raw.mov"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", 1), container.add_stream("pcm_s16le", 48000)
        video.width = video.height = 32
        for number in range(110):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8))))
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 96000), np.int16), "s16", "stereo")
            frame.sample_rate, frame.pts = 48000, 48000 * number
            container.mux(sound.encode(frame))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    with open(path, "rb") as file:
        assert sorted((track.is_sound, track.num_samples) for track in read_tracks(file, "raw")) == [
            (0, 110),
            (1, 5157),
        ]
    assert index_video(path, max_frames=200).num_frames == 110
    # What says that it is both is held to be what is dearer.
    claimed = path.read_bytes().replace(b"mhlrsoun", b"mhlrvide")
    assert "5280000 frames are over the limit" in refused(claimed)


def test_few_packets_are_kept_where_they_are_tiny(clip, monkeypatch):
    before = [frame_number(frame) for frame in read_frames(clip, [3, 40])]
    monkeypatch.setattr(packets, "_KEPT_PACKETS", 10)
    assert [frame_number(frame) for frame in read_frames(clip, [3, 40])] == before


def test_boxes_without_end_are_refused(clip, monkeypatch):
    monkeypatch.setattr("dynimg_vl.video.boxes._MAX_BOXES", 1000)
    assert "has more than 1000 boxes" in refused(clip.read_bytes() + b"\0\0\0\x08free" * 1000)


@pytest.mark.parametrize("box", [b"mvhd", b"tkhd", b"hdlr", b"stts", b"stsz", b"tfhd", b"trun"])
@pytest.mark.parametrize("more", range(8))
def test_boxes_that_end_in_their_own_header_hold_nothing(box, more):
    """Of the size 1 that stands for a 64-bit size behind it, where the parent has no room for all of that."""
    track = b"\0\0\0\x5ctkhd" + bytes(84)
    inner = (b"\0\0\0\x01" + box + bytes(more - 1) + b"\x10") if more else b"\0\0\0\x08" + box
    parent = (8 + len(track) + len(inner)).to_bytes(4, "big") + b"trak" + track + inner
    found = read_tracks(io.BytesIO(parent + b"\0\0\0\x10free" + bytes(8)), "clip")
    assert [(each.rotation, each.num_samples) for each in found] == [(0, 0)]


@pytest.mark.parametrize("box", [b"stsz", b"stts", b"stsc", b"ctts", b"stco", b"tkhd", b"mdhd"])
def test_tables_that_lie(box, clip, tmp_path):
    data = bytearray(clip.read_bytes())
    at = data.index(box)
    data[at + 8 : at + 20] = b"\x7f\xff\xff\xff" * 3
    (tmp_path / "lies.mp4").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        readable_or_refused(tmp_path / "lies.mp4")


@pytest.mark.parametrize("length", [4, 20, 36, 200, 1000])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_cut_off_in_the_header(suffix, length, tmp_path):
    path = write_video(tmp_path / f"clip{suffix}", audio_first=True)
    path.write_bytes(path.read_bytes()[:length])
    assert path.name in refused(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_cut_off_in_the_middle(suffix, tmp_path):
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    path = write_video(tmp_path / f"clip{suffix}", size=(128, 192), container_options=options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        index = FrameIndex.from_file(path)
    assert 10 < index.num_frames < 40
    if suffix == ".mp4" and PYAV >= 17:  # has a table of all frames, which PyAV shows from 17 on
        assert index.num_lost == 48 - index.num_frames
        assert f"{index.num_lost} of 48 frames are missing" in str(caught[0].message)
    if suffix == ".mkv":  # says how long the track is
        assert index.num_lost == pytest.approx(48 - index.num_frames, abs=1)
    wanted = [0, index.num_frames // 2, index.num_frames - 2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        assert [frame_number(frame) for frame in read_frames(index, wanted)] == wanted


def test_without_its_end_an_mp4_cannot_be_read(clip, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-1500])
    assert "cut.mp4" in refused(tmp_path / "cut.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_overwritten_in_the_middle(suffix, tmp_path):
    """A hole of a quarter of the file: what lies outside comes out exact, in the hole the nearest frames stand in."""
    path = write_video(tmp_path / f"clip{suffix}", 72, size=(128, 192))
    data = bytearray(path.read_bytes())
    start, stop = int(len(data) * 0.4), int(len(data) * 0.65)
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        index = FrameIndex.from_file(path)
        frames = read_frames(index, range(index.num_frames))
    numbers = np.rint(index.pts_seconds * 24 - index.pts_seconds[0] * 24).astype(int)
    good = [frame_number(frame) == number for frame, number in zip(frames, numbers, strict=True)]
    assert sum(good) >= 30
    assert all(good[:20])


def test_stand_ins_are_the_nearest_readable_frames(tmp_path):
    path = write_video(tmp_path / "clip.mkv", size=(128, 192), codec="mjpeg", gop_size=1)
    index = FrameIndex.from_file(path)
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 48
    for number in (10, 11, 12):
        data[starts[number] : starts[number + 1] - 60] = bytes(starts[number + 1] - 60 - starts[number])
    path.write_bytes(data)
    with pytest.warns(VideoWarning, match=r"3 of the 5 frames asked for cannot be decoded \(the first at 0.42 s\)"):
        frames = read_frames(index, [9, 10, 11, 12, 13])
    numbers = [frame_number(frame) for frame in frames]
    assert numbers in ([9, 9, 9, 13, 13], [9, 9, 13, 13, 13])


def test_nothing_can_be_decoded(tmp_path):
    path = write_video(tmp_path / "clip.mp4", size=(128, 192))
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    size = int.from_bytes(data[at - 8 : at - 4], "big") - 8
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    assert "cannot be decoded" in refused(path)


def test_zero_frames(tmp_path):
    path = write_video(tmp_path / "clip.mp4", container_options={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moof") - 4])
    assert "without frames" in refused(path)


def test_a_damaged_file_ends(tmp_path):
    """200 random damages; none may hang, crash or raise anything but a VideoError."""
    rng = np.random.default_rng(0)
    sources = [
        write_video(tmp_path / name, 16, size=(32, 48), b_frames=2).read_bytes() for name in ("a.mp4", "b.mkv", "c.ts")
    ]

    def damage():
        for round_ in range(200):
            data = bytearray(sources[round_ % 3])
            for at in rng.integers(0, len(data), 1 + round_ % 9):
                data[at] = rng.integers(256)
            readable_or_refused(bytes(data))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VideoWarning)
        thread = threading.Thread(target=damage, daemon=True)
        thread.start()
        thread.join(60)
    assert not thread.is_alive(), "hangs"


@pytest.mark.parametrize(
    ("tag", "seconds"),
    [
        ("00:01:02.5", 62.5),
        ("9" * 304 + ":00:00.0", None),  # too many frames to count
        ("9" * 400 + ":00:00.0", None),
        ("9" * 5000 + ":00:00.0", None),  # more digits than Python turns into a number
        ("00:00:inf", None),
        ("00:00:nan", None),
        ("00:00:1e400", None),
        ("for ever", None),
        ("", None),
    ],
)
def test_a_duration_that_is_written_as_text_may_be_any_text(tag, seconds):
    opened = SimpleNamespace(stream=SimpleNamespace(metadata={"DURATION": tag}))
    assert OpenVideo.track_seconds.fget(opened) == seconds


class Disk(io.BytesIO):
    """A file on a file system like ext4, which refuses to seek behind 16 TiB."""

    def seek(self, offset, whence=0):
        if offset >= 2**44:
            raise OSError(errno.EINVAL, "Invalid argument")
        return super().seek(offset, whence)


def test_matroska_elements_that_claim_more_than_any_disk_holds_are_damage():
    far = b"\x01" + (2**50).to_bytes(7, "big")
    segment = b"\x18\x53\x80\x67" + b"\x01" + b"\xff" * 7
    for data in (far + bytes(20), b"\x80" + segment + b"\xec" + far + bytes(20), b"\x80\x18\x53\x80\x67" + far):
        assert read_rotations(Disk(b"\x1a\x45\xdf\xa3" + data)) == []


@pytest.mark.parametrize("is_cut_off", [True, False])
def test_frames_that_are_all_at_one_time_tell_of_no_missing_ones(is_cut_off):
    opened = SimpleNamespace(track_seconds=10.0, is_cut_off=is_cut_off, format="matroska,webm")
    assert _num_missing(opened, np.zeros(5)) == 0


def parameters_with_a_cycle_of(num_offsets):
    """Write a parameter set of Annex B whose pixels are 4:3, after a cycle of `num_offsets` offsets of 0."""

    def golomb(value):
        return f"{value + 1:b}".zfill(2 * (value + 1).bit_length() - 1)

    bits = "01000010" + "0" * 16 + golomb(0) + golomb(0) + golomb(1) + "0" + golomb(0) * 2 + golomb(num_offsets)
    bits += golomb(0) * num_offsets + golomb(0) + "0" + golomb(3) * 2 + "1" + "1" + "0"
    bits += "1" + "1" + f"{14:08b}" + "1"
    bits += "0" * (-len(bits) % 8)
    return b"\0\0\1\x67" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_a_cycle_of_offsets_is_at_most_as_long_as_the_standard_has_it():
    assert sample_aspect_ratio(parameters_with_a_cycle_of(255)) == Fraction(4, 3)
    assert sample_aspect_ratio(parameters_with_a_cycle_of(256)) == 1


def test_a_header_of_zeros_alone_is_not_read_to_its_end():
    # Baseline profile, then a number of 32 million zeros: read bit by bit, that would take hours.
    assert sample_aspect_ratio(b"\x00\x00\x01\x67\x42\x00\x00" + bytes(4_000_000)) == 1


def test_of_a_video_under_the_name_of_a_picture_only_the_first_frame_is_decoded(tmp_path, monkeypatch):
    for number in range(2):
        write_video(tmp_path / "source.mp4", 50).rename(tmp_path / f"frame{number}.png")
    decoded = []
    iterate = stills.iterate_packets
    monkeypatch.setattr(stills, "iterate_packets", lambda opened: (decoded.append(p) or p for p in iterate(opened)))
    frames = read_frames(index_video(tmp_path, fps=1), [0, 1])
    assert [frame_number(frame) for frame in frames] == [0, 0]
    assert len(decoded) < 20
