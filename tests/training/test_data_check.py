"""`dynimg-vl data check`: every kind of trouble in a mixture is found, counted and named."""

import json

import pytest
import yaml

from dynimg_vl.cli.app import main
from dynimg_vl.errors import InputError
from dynimg_vl.training.data import check
from dynimg_vl.training.data.check import check_mixture
from dynimg_vl.training.data.frame_groups import FrameRequest
from dynimg_vl.training.data.mixture import read_mixture
from entries import chat, entry
from runs import die
from synthetic import write_video


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


@pytest.fixture
def folder(tmp_path):
    """Give videos of every kind: with many I-frames, with one, cut off, no video at all, with undecodable frames."""
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "good.mp4", 120, gop_size=2)
    write_video(videos / "sparse.mp4", 48, gop_size=250)
    whole = write_video(videos / "cut.mkv", 120, gop_size=4, options={"qp": "1"}).read_bytes()
    (videos / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    (videos / "text.mp4").write_text("this is no video")
    content = bytearray(write_video(videos / "rotten.mp4", 60, options={"qp": "1"}).read_bytes())
    start, stop = content.index(b"mdat"), content.index(b"moov")
    for place in range(start + (stop - start) // 3, start + (stop - start) // 2):
        content[place] ^= 0x55
    (videos / "rotten.mp4").write_bytes(content)
    return videos


def write(tmp_path, allowed_share=1.0, **sources):
    described = {}
    for name, (entries, keys) in sources.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
        described[name] = {"annotations": f"{name}.json", **keys}
    recipe = tmp_path / "mixture.yaml"
    recipe.write_text(
        yaml.safe_dump({"video_root": "videos", "allowed_share": allowed_share, "sources": described}, sort_keys=False)
    )
    return recipe


QA = ("", "q", "a")


def test_every_kind_of_video_is_counted(tmp_path, folder):
    names = ["good.mp4", "good.mp4", "sparse.mp4", "text.mp4", "none.mp4"]
    entries = [
        *[entry(name, QA) for name in names],
        entry("good.mp4", QA, start=1, end=3),
        entry("good.mp4", QA, start=50, end=60),
    ]
    (source,) = check_mixture(read_mixture(write(tmp_path, a=(entries, {"expected": 7})))).sources
    assert (source.num_samples, source.num_videos, source.num_clips) == (7, 4, 6)
    assert (source.num_found, source.num_missing, source.num_unreadable) == (2, 1, 1)
    assert (source.num_few_iframes, source.num_empty_clips) == (1, 1)
    assert source.median_seconds == 2.0  # 5 s, 2 s, 2 s; the clip without frames has none
    assert source.differences == ()
    assert [example.split("videos/")[1].split(":")[0] for example in source.examples] == ["text.mp4", "none.mp4"]


def test_decoding_finds_what_packets_do_not_tell(tmp_path, folder):
    mixture = read_mixture(write(tmp_path, a=([entry("rotten.mp4", QA), entry("good.mp4", QA)], {})))
    by_packets, decoded = (check_mixture(mixture, decode=decode).sources[0] for decode in (False, True))
    assert (by_packets.num_found, by_packets.num_damaged, by_packets.num_unreadable) == (2, 0, 0)
    assert decoded.num_damaged + decoded.num_unreadable == 1
    assert decoded.num_found + decoded.num_unreadable == 2


def test_a_file_that_was_cut_off_is_damaged(tmp_path, folder):
    (source,) = check_mixture(read_mixture(write(tmp_path, a=([entry("cut.mkv", QA)], {}))), decode=True).sources
    assert source.num_found == 1
    assert source.median_seconds < 5


def test_differences_from_what_is_expected(tmp_path, folder):
    recipe = write(
        tmp_path,
        0.0,
        few=([entry("good.mp4", QA)], {"expected": 39, "within": 2}),
        gone=([entry("none.mp4", QA)], {"expected": 1}),
        rootless=([entry("good.mp4", QA)], {"videos": "nowhere"}),
        broken=([{"video": "x.mp4"}], {}),
        fine=([entry("good.mp4", QA)] * 3, {"expected": 2, "within": 1}),
        off=([], {"weight": 0, "expected": 400}),
    )
    report = check_mixture(read_mixture(recipe))
    differences = "\n".join(report.differences)
    assert "few: 1 samples, expected 39 to 41" in differences
    assert "gone: 1 videos missing and 0 unreadable of 1, over the allowed share of 0" in differences
    assert "rootless: the folder of videos" in differences
    assert "broken.json: entry 1 lacks QA" in differences
    assert "fine" not in differences
    assert "off: " not in differences
    assert [source.is_off for source in report.sources] == [False] * 5 + [True]


def test_several_processes_find_the_same(tmp_path, folder):
    names = ["good.mp4", "sparse.mp4", "text.mp4", "none.mp4"]
    mixture = read_mixture(write(tmp_path, a=([entry(name, QA) for name in names], {})))
    seen = []
    alone = check_mixture(mixture)
    assert check_mixture(mixture, workers=2, progress=lambda *state: seen.append(state)) == alone
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_worker_that_is_killed_is_told_in_one_line(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(check, "check_video", die)
    mixture = read_mixture(write(tmp_path, a=([entry("good.mp4", QA)], {})))
    with pytest.raises(InputError, match=r"a process that looks at videos was killed .* fewer --workers"):
        check_mixture(mixture, workers=2)


def test_the_verb(run, tmp_path, folder):
    recipe = write(tmp_path, a=([entry("good.mp4", QA)], {"expected": 1}))
    code, out, _ = run("data", "check", recipe, "-o", tmp_path / "report.json")
    assert code == 0
    assert f"{recipe}: 1 sample, as expected" in out
    assert json.loads((tmp_path / "report.json").read_text())["sources"][0]["num_found"] == 1

    recipe = write(tmp_path, a=([entry("good.mp4", QA)], {"expected": 2}))
    code, out, _ = run("data", "check", recipe, "--json")
    assert code == 1
    assert json.loads(out)["differences"] == ["a: 1 samples, expected 2"]
    code, out, _ = run("data", "check", recipe)
    assert code == 1
    assert "differs: a: 1 samples, expected 2" in out


def test_a_mistake_is_one_line(run, tmp_path):
    code, out, err = run("data", "check", tmp_path / "none.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("error: cannot read the mixture")
    assert len(err.splitlines()) == 1


def test_text_alone_needs_no_videos(tmp_path, clips, write_mixture):
    (source,) = check_mixture(read_mixture(write_mixture(a=[chat("Hi", "Hello")]))).sources
    assert (source.num_samples, source.num_videos, source.median_seconds) == (1, 0, None)
    assert source.differences == ()


def test_a_path_that_cannot_be_looked_at_is_one_of_the_findings():
    found = check.check_video(("a sentence " * 99, []), request=FrameRequest())
    assert found.path == "a sentence " * 99
    assert found.state in ("unreadable", "missing")  # from Python 3.14 on, a name that is too long is that of no file
