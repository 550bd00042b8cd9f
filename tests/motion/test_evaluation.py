"""The held-out clips and the answers about them: made once, the same each time, gone on with where broken off."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from dynimg_vl import InputError, load_dynimgs
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.model import load_pretrained
from dynimg_vl.motion.files import CODECS
from dynimg_vl.motion.questions import AskRates, ask_rates
from dynimg_vl.training.motion import heldout, report
from dynimg_vl.training.motion.evaluation import (
    CONTROLS,
    Condition,
    Respondent,
    collect_answers,
    disturb,
    here,
    read_answers,
    wanted_answers,
)
from dynimg_vl.training.motion.heldout import (
    PLAIN,
    STATIC,
    HeldOutSettings,
    draw_clip,
    file_of,
    layout_of,
    make_clips,
    read_clips,
)

LAYOUT = DynImgLayout(4, 8, 16, 8)
SMALL = HeldOutSettings(seed=5, num_frames=9, height=48, width=64, num_pictures=3, num_static=2)


class SamePlace:
    """Work like a pool of processes, in this one."""

    def __init__(self, _workers, _context, start, arguments):
        start(*arguments)
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def one_process(monkeypatch):
    monkeypatch.setattr(heldout, "ProcessPoolExecutor", SamePlace)
    monkeypatch.setattr(heldout.os, "nice", lambda _: 0)


@pytest.fixture
def folder(tmp_path, one_process):
    assert len(list(make_clips(tmp_path / "clips", SMALL, 4, LAYOUT))) == 4
    return tmp_path / "clips"


@pytest.fixture(scope="module")
def respondent(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny.save_tiny(path)
    return Respondent(*load_pretrained(path))


def test_every_clip_is_there_as_every_kind_of_file(folder):
    clips = read_clips(folder)
    assert [clip.number for clip in clips] == [0, 1, 2, 3]
    for clip in clips:
        drawn = np.load(file_of(folder, PLAIN, clip.number))
        assert drawn.shape == (1, 3, 128, 128)
        for codec in CODECS:
            read = load_dynimgs(str(file_of(folder, codec, clip.number)), layout=LAYOUT, num_dynimgs=1, policy="gop12")
            assert np.abs(read.pixels.astype(float) - drawn).mean() < 14
        assert file_of(folder, STATIC, clip.number).exists() == (clip.number < SMALL.num_static)


def test_in_a_static_clip_nothing_moves(folder):
    read = load_dynimgs(str(file_of(folder, STATIC, 1)), layout=LAYOUT, num_dynimgs=1)
    strip = read.pixels[0, :, 96:].reshape(3, 32, 4, 32).astype(float)
    assert np.abs(strip - strip[:, :, :1]).mean() < 8


def test_clips_are_gone_on_with_and_always_the_same(folder, tmp_path):
    first = read_clips(folder)
    whole = (folder / "clips.jsonl").read_text().rstrip().splitlines(keepends=True)[-4:]
    (folder / "clips.jsonl").write_text("".join(whole[:2]) + whole[2][:40])  # cut off within the third
    assert len(read_clips(folder)) == 2
    assert [clip.number for clip in make_clips(folder, SMALL, 5, LAYOUT)] == [2, 3, 4]
    assert read_clips(folder, 4) == first
    assert list(make_clips(folder, SMALL, 5, LAYOUT)) == []
    list(make_clips(tmp_path / "again", SMALL, 2, LAYOUT))
    assert read_clips(tmp_path / "again") == first[:2]
    for kind in (PLAIN, "h264", "mpeg4"):  # a webm file has an identity of its own
        assert file_of(folder, kind, 1).read_bytes() == file_of(tmp_path / "again", kind, 1).read_bytes()


def test_a_folder_of_other_clips_is_refused(folder, monkeypatch):
    with pytest.raises(InputError, match="was made with seed 5, not 6"):
        list(make_clips(folder, replace(SMALL, seed=6), 4, LAYOUT))
    monkeypatch.setattr(heldout, "world_mark", lambda: "another")
    with pytest.raises(InputError, match="was made with world"):
        list(make_clips(folder, SMALL, 4, LAYOUT))


def test_a_folder_keeps_to_its_layout(folder):
    list(make_clips(folder, SMALL, 4, DynImgLayout(0, 8, 16, 8)))
    assert layout_of(folder) == LAYOUT


def test_single_clips_ask_which_way_and_the_others_all_else():
    settings = replace(SMALL, single_share=0.5)
    clips = [draw_clip(settings, number, 3, ask_rates())[1] for number in range(16)]
    single = [clip for clip in clips if clip.is_single]
    assert 2 < len(single) < 14
    assert all([each.family for each in clip.exchanges] == ["direction"] and clip.group[0] == 1 for clip in single)
    assert len({each.family for clip in clips for each in clip.exchanges}) > 10
    assert any(each.choices for clip in clips for each in clip.exchanges)
    cameras = replace(SMALL, camera_share=1.0, families=("camera",), single_share=0.0, choice_share=0.0)
    rates = AskRates(num_samples=4000, camera_share=1.0)
    for number in range(12):
        scene, clip = draw_clip(cameras, number, 3, rates)
        assert [each.family for each in clip.exchanges] == ["camera"]
        fast = scene.camera.abs().max() if clip.camera in ("left", "right", "up", "down") else scene.zoom.abs().max()
        assert clip.speed == pytest.approx(float(fast))


@pytest.mark.parametrize("control", ["", *CONTROLS])
def test_controls_touch_the_prompt_frames_only(control):
    pixels = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    changed = disturb(pixels, LAYOUT, control, torch.Generator().manual_seed(1))
    assert torch.equal(changed[:, :, :96], pixels[:, :, :96])
    strip, other = pixels[:, :, 96:].unflatten(-1, (4, 32)), changed[:, :, 96:].unflatten(-1, (4, 32))
    if control == "":
        assert torch.equal(strip, other)
    elif control == "grey":
        assert (other == 127).all()
    elif control == "frozen":
        assert (other == other[..., :1, :]).all()
    elif control == "reversed":
        assert torch.equal(other.flip(3), strip)
    else:
        assert sorted(strip.float().mean((0, 1, 2, 4)).tolist()) == sorted(other.float().mean((0, 1, 2, 4)).tolist())
        # Never in the order that it had: of four frames, one draw in 24 would.
        shuffled = (disturb(pixels, LAYOUT, control, torch.Generator().manual_seed(seed)) for seed in range(100))
        assert not any(torch.equal(each, pixels) for each in shuffled)


def test_what_is_wanted_is_what_is_shown():
    clip = next(
        clip
        for clip in (draw_clip(SMALL, number, 3, ask_rates())[1] for number in range(400))
        if clip.camera == "left"
        and {"camera", "anything"} <= {each.family for each in clip.exchanges if not each.choices}
    )
    families = [each.family for each in clip.exchanges]
    camera, anything = families.index("camera"), families.index("anything")

    def wanted(*condition):
        answers = wanted_answers(clip, Condition(*condition))
        return answers[camera], answers[anything]

    assert wanted("h264") == wanted("h264", "grey") == ("It pans left.", "Yes.")
    assert wanted("h264", "reversed") == ("It pans right.", "Yes.")
    assert wanted(STATIC) == ("It stays still.", "No.")
    for each, answer in zip(clip.exchanges, wanted_answers(clip, Condition("h264", "grey")), strict=True):
        assert not (each.choices and answer)


def test_answers_are_kept_and_those_that_are_missing_are_asked(folder, tmp_path, respondent):
    clips = read_clips(folder)
    path = tmp_path / "answers.jsonl"
    condition = Condition("h264")
    asked = []

    def answer(parts):
        for part in parts:
            asked.append(part)
            yield from here(respondent)([part])

    assert list(collect_answers(answer, folder, clips, condition, path)) == [4]
    first = read_answers(path, clips, condition)
    assert len(first) == sum(len(clip.exchanges) for clip in clips)
    assert {(each.clip, each.question): each.wanted for each in first} == {
        (clip.number, rank): each.answer for clip in clips for rank, each in enumerate(clip.exchanges)
    }
    assert list(collect_answers(answer, folder, clips, condition, path)) == []
    assert len(asked) == 1
    assert read_answers(path, clips, Condition("vp9")) == []


def test_batches_answer_as_one_by_one_do(folder, respondent):
    clip = read_clips(folder)[0]
    videos = [respondent.look(folder, Condition(kind), clip.number) for kind in CODECS]
    items = [(video, question) for video in videos for question in ("Does it move?", "which", "How many are there now")]
    alone = replace(respondent, batch_size=1)
    assert respondent.answer_all(items) == alone.answer_all(items)


def test_rows_survive_what_a_model_may_say_and_a_cut_within_a_character(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"given": text} for text in ("a\u2028b", "c\u0085d", "\ud800", "é")]
    heldout.append_rows(path, rows)
    assert heldout.read_rows(path) == rows
    path.write_bytes(path.read_bytes()[: -len('"}') - 1])
    assert heldout.read_rows(path) == rows[:-1]
    heldout.append_rows(path, rows[-1:])
    assert heldout.read_rows(path) == rows


def test_a_report_has_its_tables(folder, tmp_path, respondent):
    clips = read_clips(folder)
    told = []
    files = report.run_files(
        here(respondent), folder, clips, tmp_path / "a.jsonl", lambda *done: told.append(done), tuple(CODECS)
    )
    controls = report.run_controls(here(respondent), folder, clips, tmp_path / "a.jsonl", lambda *_: None)
    tables = {**report.tables_of_files(files), **report.tables_of_controls(controls, files["h264"])}
    assert ("h264", 4, 4) in told
    assert "prompt frames reversed" in tables
    assert "what goes with what, of two objects, all codecs" in tables
    text = report.as_markdown(tables)
    assert text.count("| questions |") + text.count("questions |\n") > 5
    assert set(report.describe_machine()) == {"machine", "date", "versions"}
