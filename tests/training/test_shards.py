"""Shards: the same training as from files, the same bytes however often a build is killed."""

import json
import random
import signal
import subprocess
import sys
import tarfile
import time
import types
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch

from dynimg_vl import InputError
from dynimg_vl.cli.app import main
from dynimg_vl.training.data import shard_building
from dynimg_vl.training.data.annotations import Clip
from dynimg_vl.training.data.dataset import DatasetOptions, VideoTextDataset
from dynimg_vl.training.data.frame_groups import (
    FrameRequest,
    candidate_frames,
    load_candidates,
    load_frame_groups,
    select_candidates,
)
from dynimg_vl.training.data.mixture import read_mixture
from dynimg_vl.training.data.sample_source import open_samples
from dynimg_vl.training.data.shard_building import BuildOptions, ShardJob, ShardPlan, build_on_ray, build_shards
from dynimg_vl.training.data.shard_format import PictureFormat
from dynimg_vl.video import FrameIndex, index_video, select_frame_groups
from dynimg_vl.video.selection import plan_selection
from entries import chat, entry
from runs import die
from synthetic import frame_number, write_video

OPTIONS = BuildOptions(FrameRequest(2, 2), per_gap=3, records_per_shard=2)
QA = ("", "What?", "a square")


@pytest.fixture
def recipe(write_mixture):
    """Give a mixture of two sources: clips that several samples ask about, two clips in a chat, text alone."""
    return write_mixture(
        0.3,
        a=[entry("clip0.mp4", QA), entry("clip1.mp4", QA), entry("clip0.mp4", ("", "And?", "moves"))],
        b=[
            chat(["clip2.mp4", "clip3.mp4", "Same?"], "No"),
            chat("Hi", "Hello"),
            chat(["clip3.mp4", "What?"], "a square", "Sure?", "yes"),
        ],
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def build(recipe, folder, options=OPTIONS, **keys):
    return build_shards(ShardPlan(read_mixture(recipe), options), folder, **keys)


# --- candidates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_gap", [2, 4, 100])
@pytest.mark.parametrize("gop_size", [1, 6, 250])
@pytest.mark.parametrize("num_frames", [1, 3, 20, 150])
def test_selection_from_candidates_is_selection_from_the_file(tmp_path, num_frames, gop_size, per_gap):
    """Keyframes are the same; prompt frames lie in the same gaps, and with all candidates kept, are the same too."""
    path = write_video(tmp_path / "x.mp4", num_frames, gop_size=gop_size, size=(32, 32))
    found = load_candidates(Clip(str(path)), FrameRequest(), per_gap)
    numbers = [frame_number(frame) for frame in found.pixels]
    assert len(numbers) <= 4 + 5 * per_gap
    index = index_video(path)
    np.testing.assert_allclose(found.pts_seconds, index.pts_seconds[numbers])
    for seed in (None, 0, 1):
        rng, again = (None if seed is None else np.random.default_rng(seed) for _ in range(2))
        from_file = select_frame_groups(index, rng=rng)
        stored = select_candidates(found.pts_seconds, found.span_seconds, FrameRequest(), again)
        chosen = [[numbers[rank] for rank in group.indices] for group in stored]
        assert [group[0] for group in chosen] == [group.keyframe for group in from_file]
        if per_gap == 100:
            assert chosen == [list(group.indices) for group in from_file]


def test_candidates_that_are_thinned_are_spread_over_their_gap():
    plan = plan_selection(FrameIndex.regular(150, fps=24, gop_size=1))
    numbers = candidate_frames(plan, FrameRequest(), 3)
    for left, right in pairwise(plan.bounds):
        pool = [number for number in plan.candidates.tolist() if left < number < right]
        assert [pool.index(number) * 3 // len(pool) for number in numbers if left < number < right] == [0, 1, 2]


# --- building and reading -------------------------------------------------------------------------------------------


def test_a_shard_is_a_tar_that_others_can_read(recipe, tmp_path):
    report = build(recipe, tmp_path / "shards")
    assert (report.num_shards, report.num_records, report.skipped) == (3, 5, ())
    with tarfile.open(tmp_path / "shards" / "shard-000000.tar") as tar:
        members = tar.getmembers()
        names = [member.name for member in members]
        description = json.load(tar.extractfile("000000000.json"))
    assert names[0] == "000000000.json"
    assert names[1:3] == ["000000000.0.000.jpg", "000000000.0.001.jpg"]
    assert [said["entry"] for said in description["conversations"]] == [1, 3]  # one clip, its frames stored once
    assert description["clips"][0]["path"] == "clip0.mp4"  # no path of the machine that built it
    assert len(description["clips"][0]["pts_seconds"]) == sum(name.startswith("000000000.0.") for name in names)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_training_from_shards_is_training_from_files(recipe, tmp_path, processor):
    build(recipe, tmp_path / "shards", BuildOptions(FrameRequest(2, 2), per_gap=60, picture=PictureFormat(quality=100)))
    files, shards = (open_samples(path) for path in (recipe, tmp_path / "shards"))
    assert [(p.name, p.stop - p.first, p.weight) for p in files.parts] == [
        (p.name, p.stop - p.first, p.weight) for p in shards.parts
    ]
    by_place = {
        (sample.source, sample.entry): number for number, sample in enumerate(map(shards.__getitem__, range(6)))
    }
    request = FrameRequest(2, 2)
    for number in range(len(files)):
        sample = files[number]
        other = by_place[sample.source, sample.entry]
        assert shards[other].messages == sample.messages
        pairs = zip(
            files.groups(number, len(sample.clips), request, np.random.default_rng(number)),
            shards.groups(other, len(sample.clips), request, np.random.default_rng(number)),
            strict=True,
        )
        for from_file, from_shard in pairs:
            assert from_file.shape == from_shard.shape
            assert np.abs(from_file.astype(int) - from_shard).mean() < 2  # JPEG of quality 100
    data = VideoTextDataset(shards, processor)
    items = [data[n] for n in range(len(data))]
    assert sum("pixel_values_videos" not in item for item in items) == 1
    assert data.status.counts() == {"used": 6}
    data.set_epoch(1)
    assert not torch.equal(data[0]["pixel_values_videos"], items[0]["pixel_values_videos"])


def test_webp_is_smaller(recipe, tmp_path, processor):
    build(recipe, tmp_path / "jpeg")
    build(recipe, tmp_path / "webp", BuildOptions(FrameRequest(2, 2), 3, PictureFormat("webp", 90), 2))
    data = VideoTextDataset(open_samples(tmp_path / "webp"), processor)
    assert data[0]["dynimgs_per_video"].tolist() == [2]
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).glob("*.tar")) for name in ("webp", "jpeg")]
    assert sizes[0] < sizes[1]


def test_jobs_and_processes_give_the_same_bytes(recipe, tmp_path):
    seen = []
    build(recipe, tmp_path / "one", progress=lambda *state: seen.append(state))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    for index in (1, 0):
        build(recipe, tmp_path / "jobs", shard_index=index, num_shards=2)
    build(recipe, tmp_path / "processes", workers=2)
    assert contents(tmp_path / "jobs") == contents(tmp_path / "one") == contents(tmp_path / "processes")


def test_whatever_a_killed_build_leaves_behind_is_mended(recipe, tmp_path):
    build(recipe, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    folder = tmp_path / "left"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(whole["manifest.json"])
    (folder / ".manifest.json-q0").write_bytes(b"")
    (folder / ".shard-000000.tar-x1y2").write_bytes(whole["shard-000000.tar"][:700])  # while writing the tar
    (folder / "shard-000001.tar").write_bytes(whole["shard-000001.tar"])  # between tar and json
    (folder / ".shard-000001.json-aaaa").write_bytes(b"{")
    (folder / "shard-000002.tar").write_bytes(whole["shard-000002.tar"][:-512])  # cut off by a copy
    (folder / "shard-000002.json").write_bytes(whole["shard-000002.json"])
    with pytest.raises(InputError, match=r"3 of 3 shards are missing .* \(the first: shard-000000\); run `data build`"):
        open_samples(folder)
    build(recipe, folder)
    assert contents(folder) == whole


def test_complete_shards_are_left_alone(recipe, tmp_path, monkeypatch):
    build(recipe, tmp_path / "shards")

    def refuse(*arguments):
        raise AssertionError("a complete shard was built again")

    monkeypatch.setattr(shard_building, "load_candidates", refuse)
    assert build(recipe, tmp_path / "shards").num_records == 5


def test_jobs_that_begin_at_once_agree_on_the_manifest(recipe, tmp_path):
    plan = ShardPlan(read_mixture(recipe), OPTIONS)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: shard_building.claim_folder(plan, tmp_path / "shards"), range(32)))
    assert contents(tmp_path / "shards") == {"manifest.json": plan.manifest()}


@pytest.mark.slow
def test_killed_at_any_moment_a_build_ends_with_the_same_bytes(write_mixture, clips, tmp_path):
    """kill -9, ten times in a row, then finish; with two processes, so that orphans are left behind too."""
    for number in range(4, 14):
        write_video(clips / f"clip{number}.mp4", 250, gop_size=6, size=(240, 320))
    entries = [entry(f"clip{n}.mp4", QA, start=start, end=10.0) for n in range(4, 14) for start in (0.0, 0.5, 1.0, 1.5)]
    recipe = write_mixture(a=entries)
    command = [sys.executable, "-m", "dynimg_vl", "data", "build", str(recipe), "--records-per-shard", "1", "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    folder = tmp_path / "killed"
    moments = random.Random(7)
    num_killed = 0
    while num_killed < 10:
        done = sorted(folder.glob("shard-*.json"))
        if len(entries) - len(done) < 10:  # a fast machine must not get to the end before it is killed
            for path in done[:20]:
                path.unlink()
        num_before = len(list(folder.glob("shard-*.json")))
        process = subprocess.Popen(
            [*command, str(folder), "--workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(folder.glob("shard-*.json"))) == num_before:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        num_killed += process.wait() == -signal.SIGKILL
    subprocess.run([*command, str(folder)], check=True, capture_output=True)
    assert contents(folder) == contents(tmp_path / "whole")


# --- trouble --------------------------------------------------------------------------------------------------------


def test_broken_clips_are_left_out_and_told(write_mixture, clips, tmp_path):
    (clips / "text.mp4").write_text("no video")
    entries = [entry(name, QA) for name in ("clip0.mp4", "none.mp4", "text.mp4", "clip1.mp4")]
    report = build(write_mixture(0.5, a=entries), tmp_path / "shards")
    assert [(row["videos"], row["reason"]) for row in report.skipped] == [
        (["none.mp4"], "missing"),
        (["text.mp4"], "unreadable"),
    ]
    assert [open_samples(tmp_path / "shards")[n].entry for n in range(2)] == [1, 4]
    with pytest.raises(InputError, match=r"2 of 4 clips cannot be used, .*: none.mp4 \(missing\); text.mp4 \(unread"):
        build(write_mixture(0.1, a=entries), tmp_path / "strict")


def test_a_folder_of_another_build_is_refused(recipe, tmp_path):
    build(recipe, tmp_path / "shards")
    with pytest.raises(InputError, match="holds shards of another recipe or other options"):
        build(recipe, tmp_path / "shards", BuildOptions(FrameRequest(2, 2), per_gap=4, records_per_shard=2))


def test_shards_for_another_model_are_refused(recipe, tmp_path, processor):
    build(recipe, tmp_path / "shards", BuildOptions(FrameRequest(4, 2)))
    with pytest.raises(InputError, match="are for 4 DynImgs of 2 prompt frames, the model wants 2 of 2"):
        VideoTextDataset(open_samples(tmp_path / "shards"), processor)


@pytest.mark.parametrize(
    ("built", "message"),
    [
        ({"policy": "gop12"}, "hold frames by the policy gop12, the model wants auto; build others with --policy auto"),
        ({"short_side": 100}, "short side of 100 pixels, 384 are asked for; .* or set data.short_side to 100"),
    ],
)
def test_shards_of_other_frames_are_refused(recipe, tmp_path, processor, built, message):
    build(recipe, tmp_path / "shards", BuildOptions(FrameRequest(2, 2, **built)))
    with pytest.raises(InputError, match=message):
        VideoTextDataset(open_samples(tmp_path / "shards"), processor)


@pytest.mark.parametrize("request_", [None, [], {"more": 1}, {"short_side": "384"}, {"policy": None}])
def test_a_manifest_with_an_odd_request_is_told(recipe, tmp_path, request_):
    build(recipe, tmp_path / "shards")
    path = tmp_path / "shards" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["options"]["request"] = request_
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest.json does not say what the shards are for; build them again"):
        open_samples(tmp_path / "shards")


def test_shards_of_larger_frames_will_do(recipe, tmp_path, processor):
    build(recipe, tmp_path / "shards", BuildOptions(FrameRequest(2, 2, short_side=400)))
    assert len(VideoTextDataset(open_samples(tmp_path / "shards"), processor)) > 0


def test_a_damaged_shard_costs_its_samples(recipe, tmp_path, processor):
    build(recipe, tmp_path / "shards")
    path = tmp_path / "shards" / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[512:4096] = bytes(4096 - 512)
    path.write_bytes(content)
    data = VideoTextDataset(open_samples(tmp_path / "shards"), processor, DatasetOptions(allowed_share=0.9))
    for n in range(len(data)):
        data[n]
    assert data.status.counts()["unreadable"] >= 1


def test_a_folder_that_holds_no_shards(tmp_path):
    with pytest.raises(InputError, match="holds no shards"):
        open_samples(tmp_path)


def test_a_full_disk_is_told_and_loses_nothing(recipe, tmp_path):
    """A limit on the size of files stands in for a full disk: writing the first large shard fails."""
    build(recipe, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    sizes = {number: len(whole[f"shard-{number:06d}.tar"]) for number in range(3)}
    smallest = min(sizes, key=sizes.get)
    code = (
        "import resource, sys; from dynimg_vl.cli.app import main;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({sizes[smallest]},) * 2);"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "data", "build", str(recipe), "-o", str(tmp_path / "full")]
    options = ["--records-per-shard", "2", "--num-dynimgs", "2", "--num-prompts", "2", "--per-gap", "3"]
    part = ["--num-shards", "3", "--shard-index"]
    assert subprocess.run([*command, *options, *part, str(smallest)], capture_output=True).returncode == 0
    before = contents(tmp_path / "full")
    refused = subprocess.run([*command, *options], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: cannot write ")
    assert "what was complete before is kept" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    after = contents(tmp_path / "full")
    assert before.items() <= after.items()
    assert not any(name.startswith(".") for name in after)
    build(recipe, tmp_path / "full")
    assert contents(tmp_path / "full") == whole


def test_the_verb(recipe, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", "build", str(recipe), "-o", str(tmp_path / "shards"), "--records-per-shard", "2", "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"num_shards": 3, "num_clips": 5, "skipped": []}


def test_ray_builds_every_shard_once(recipe, write_mixture, tmp_path, monkeypatch):
    """With a stand-in for Ray: what is handed to it is enough to build all shards."""

    class Rows(list):
        def map(self, function):
            return Rows(function(row) for row in self)

        def iter_rows(self):
            return reversed(self)  # in whatever order they are ready

    ray = types.ModuleType("ray")
    ray.put, ray.get = (lambda value: value), (lambda value: value)
    ray.data = types.ModuleType("ray.data")
    ray.data.from_items = lambda items, override_num_blocks: Rows({"item": item} for item in items)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ray.data)
    seen = []
    plan = ShardPlan(read_mixture(recipe), OPTIONS)
    report = build_on_ray(plan, tmp_path / "ray", lambda done, total: seen.append((done, total)))
    assert report == build(recipe, tmp_path / "here")
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
    broken = write_mixture(0.1, a=[entry("none.mp4", QA), entry("clip0.mp4", QA)])
    with pytest.raises(InputError, match=r"1 of 2 clips cannot be used, .*: none.mp4 \(missing\)"):
        build_on_ray(ShardPlan(read_mixture(broken), OPTIONS), tmp_path / "broken")
    monkeypatch.setattr(ShardJob, "run", full)
    with pytest.raises(InputError, match=r"^the disk is full$"):
        build_on_ray(plan, tmp_path / "full")


@pytest.mark.slow
def test_ray_itself_builds_the_same_bytes(recipe, tmp_path):
    pytest.importorskip("ray.data")
    words = [
        "--records-per-shard",
        "2",
        "--num-dynimgs",
        "2",
        "--num-prompts",
        "2",
        "--per-gap",
        "3",
        "--json",
        "--ray",
    ]
    command = [sys.executable, "-m", "dynimg_vl", "data", "build", str(recipe), *words, "-o", "ray"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout)["num_clips"] == 5
    build(recipe, tmp_path / "here")
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_ray_divides_the_work_by_itself(recipe, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", "build", str(recipe), "-o", str(tmp_path / "shards"), "--ray", "--workers", "2"])
    assert stop.value.code == 2
    assert "error: --ray divides the work by itself" in capsys.readouterr().err


def full(job):
    raise InputError("the disk is full")


def test_a_worker_that_is_killed_is_told_in_one_line(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(ShardJob, "run", die)
    with pytest.raises(InputError, match=r"a process that builds shards was killed .* fewer --workers"):
        build(recipe, tmp_path / "shards", workers=2)
    monkeypatch.undo()
    assert build(recipe, tmp_path / "shards").num_records == 5


def test_frames_from_a_file_are_as_large_as_those_from_a_shard(clips):
    clip, request = Clip(str(clips / "clip0.mp4")), FrameRequest(short_side=24)
    assert load_candidates(clip, request, 4).pixels.shape[1:] == load_frame_groups(clip, request).shape[2:]
