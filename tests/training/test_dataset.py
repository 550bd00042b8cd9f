"""The dataset: what a sample holds, what is random in it, and what happens to samples that cannot be used."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dynimg_vl import InputError, compose_dynimgs, load_dynimgs, read_frames
from dynimg_vl.training.data.annotations import Clip, Sample
from dynimg_vl.training.data.collator import Collator
from dynimg_vl.training.data.dataset import DatasetOptions, GroupPixels, VideoTextDataset, _Slots
from dynimg_vl.training.data.frame_groups import FrameRequest, load_frame_groups
from dynimg_vl.training.data.sample_source import Part, open_samples
from dynimg_vl.training.data.sample_status import DataError
from dynimg_vl.video import index_video, select_frame_groups
from entries import chat, entry
from synthetic import frame_number, loop_video, remux, write_video
from tiny import tiny_config, tiny_model, tiny_processor


def dataset(recipe, processor, **options):
    return VideoTextDataset(open_samples(recipe), processor, DatasetOptions(**options))


def good(number, question="What happens?"):
    return entry(f"clip{number % 4}.mp4", ("", question, f"answer {number}"))


# --- frame groups ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [(None, None), (0.5, 2.0)])
def test_frame_groups_are_those_that_selection_gives(clips, bounds):
    path = str(clips / "clip0.mp4")
    frames = load_frame_groups(Clip(path, *bounds), FrameRequest(), np.random.default_rng(3))
    index = index_video(path)
    groups = select_frame_groups(index, clip=Clip(path, *bounds).bounds, rng=np.random.default_rng(3))
    assert frames.shape == (4, 5, 48, 64, 3)
    assert [[frame_number(frame) for frame in group] for group in frames] == [list(group.indices) for group in groups]


@pytest.mark.parametrize("policy", ["auto", "gop12"])
def test_frame_groups_of_a_long_file_are_those_of_load_dynimgs(tmp_path, policy):
    """Of a long file only the I-frames that are used are looked up, by times that are drawn too."""
    path = loop_video(write_video(tmp_path / "x.mp4", 60), tmp_path / "long.mp4", 200)
    frames = load_frame_groups(Clip(str(path)), FrameRequest(policy=policy), np.random.default_rng(5))
    loaded = load_dynimgs(path, policy=policy, rng=np.random.default_rng(5))
    numbers = [number for group in loaded.groups for number in group.indices]
    assert loaded.index.complete == (policy == "gop12")
    assert np.array_equal(frames.reshape(-1, 64, 96, 3), read_frames(loaded.index, numbers))


def test_long_files_whose_iframes_are_none_are_read_through(tmp_path):
    """As load_dynimgs does: what training left out, inference would read."""

    def flag(_, packet):
        packet.is_keyframe = True

    source = write_video(tmp_path / "source.mkv", 96, fps=2, codec="mpeg4", gop_size=48)
    path = remux(loop_video(source, tmp_path / "long.mkv", 200), tmp_path / "flagged.mp4", change=flag)
    for seed in range(4):
        frames = load_frame_groups(Clip(str(path)), FrameRequest(), np.random.default_rng(seed))
        loaded = load_dynimgs(path, rng=np.random.default_rng(seed))
        shown = [[frame_number(frame) for frame in group] for group in frames]
        assert shown == [[number % 96 for number in group.indices] for group in loaded.groups]


def test_frames_are_capped_by_their_shorter_side(tmp_path):
    path = write_video(tmp_path / "tall.mp4", 24, size=(128, 64))
    assert load_frame_groups(Clip(str(path)), FrameRequest(short_side=32)).shape == (4, 5, 64, 32, 3)
    assert load_frame_groups(Clip(str(path)), FrameRequest(short_side=80)).shape == (4, 5, 128, 64, 3)


# --- samples --------------------------------------------------------------------------------------------------------


def test_what_a_sample_holds(write_mixture, processor):
    data = dataset(write_mixture(a=[good(0)], b=[chat("Hi", "Hello")]), processor)
    with_video, text = data[0], data[1]
    assert with_video["pixel_values_videos"].shape == (2, 3, 64, 64)
    assert with_video["pixel_values_videos"].dtype == torch.float32
    assert with_video["pixel_values_videos"].abs().max() <= 1.2  # bicubic overshoots a little at the edge of a tile
    assert with_video["dynimgs_per_video"].tolist() == [2]
    assert with_video["input_ids"].shape == with_video["labels"].shape
    assert (with_video["input_ids"] == processor.video_token_id).sum() == 32
    assert text.keys() == {"input_ids", "labels"}
    assert data.status.counts() == {"used": 2}


def test_without_augmentation_a_sample_is_the_composed_clip(write_mixture, processor, clips):
    data = dataset(write_mixture(a=[good(1)]), processor, augment=False)
    rng = np.random.default_rng([42, 0, 0, 0])
    request = FrameRequest(2, 2)
    frames = torch.from_numpy(load_frame_groups(Clip(str(clips / "clip1.mp4")), request, rng)).movedim(-1, -3)
    square = torch.nn.functional.interpolate(
        frames.flatten(0, 1).float() / 255, size=(64, 64), mode="bicubic", antialias=True
    ).clamp(0, 1)
    expected = compose_dynimgs((square.unflatten(0, (2, 3)) - 0.5) / 0.5, processor.video_processor.layout)
    torch.testing.assert_close(data[0]["pixel_values_videos"], expected, atol=1e-6, rtol=0)


def test_a_batch_with_and_without_videos_goes_through_the_model(write_mixture, processor):
    two = chat(["clip0.mp4", "clip1.mp4", "Same?"], "No", ["clip2.mp4", "And this?"], "Yes")
    data = dataset(write_mixture(a=[good(0)], b=[two, chat("Hi", "Hello")]), processor)
    assert data[1]["dynimgs_per_video"].tolist() == [2, 2, 2]
    for pack_length in (None, 1000):
        batch = Collator(0, pack_length)([data[0], data[1], data[2]])
        assert torch.isfinite(tiny_model()(**batch).loss)


def test_frames_stay_apart_for_a_model_that_wants_them_so(write_mixture):
    config = tiny_config(prompt_stage="after")
    data = dataset(write_mixture(a=[good(0)]), tiny_processor(config))
    assert data[0]["pixel_values_videos"].shape == (2, 3, 3, 64, 64)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_random_by_seed_epoch_and_place_alone(write_mixture, processor):
    recipe = write_mixture(a=[good(n) for n in range(4)])
    data, again = dataset(recipe, processor), dataset(recipe, processor)
    first = [data[n] for n in range(4)]
    assert all(equal(again[n], first[n]) for n in (3, 1, 0, 2))
    data.set_epoch(1)
    assert not any(equal(data[n], first[n]) for n in range(4))
    data.set_epoch(0)
    assert equal(data[2], first[2])
    assert not equal(dataset(recipe, processor, seed=1)[2], first[2])


def test_workers_see_the_epoch_and_share_the_counts(write_mixture, processor):
    recipe = write_mixture(a=[good(0), good(1), entry("none.mp4", ("", "q", "a")), good(3)], allowed_share=0.5)
    data, alone = dataset(recipe, processor), dataset(recipe, processor)
    loader = DataLoader(data, batch_size=1, num_workers=2, persistent_workers=True, collate_fn=lambda items: items[0])
    for epoch in range(2):
        data.set_epoch(epoch)
        alone.set_epoch(epoch)
        assert all(equal(item, alone[n]) for n, item in enumerate(loader))
    assert data.status.counts() == alone.status.counts() == {"used": 3, "missing": 1}


# --- augmentation ---------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), flip=st.sampled_from(["paper", "safe", "off"]))
def test_one_draw_for_all_frames_of_a_group(seed, flip):
    """Frames of a group that are alike stay alike through crop and flip, those of different groups part."""
    pixels = GroupPixels(tiny_processor(tiny_config(prompt_stage="after")), DatasetOptions(flip=flip))
    scene = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    frames = np.broadcast_to(scene, (4, 3, *scene.shape))
    sample = Sample(({"role": "user", "content": [{"type": "text", "text": "What?"}]},), (), "s", 1)
    groups = pixels(sample, [frames.copy()], np.random.default_rng(seed))["pixel_values_videos"]
    for group in groups:
        assert all(torch.equal(frame, group[0]) for frame in group[1:])
    assert not all(torch.equal(group[0], groups[0][0]) for group in groups[1:])


def test_pixels_are_augmented_and_composed_as_written_out(processor):
    """Whole videos at once, crop and flip after the conversion to float: slower, and the same to the bit."""
    pixels = GroupPixels(processor, DatasetOptions())
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 48, 64, 3), dtype=np.uint8)
    sample = Sample(({"role": "user", "content": [{"type": "text", "text": "What?"}]},), (), "s", 1)
    generator = torch.Generator().manual_seed(int(np.random.default_rng(5).integers(2**63)))
    augmented, flips = [], set()
    for group in torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float().div(255):
        crop = pixels.augment.draw(48, 64, generator)
        flips.add(crop.flip)
        part = group[..., crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        part = part.flip(-1) if crop.flip else part
        part = torch.nn.functional.interpolate(part, pixels.augment.size, mode="bicubic", antialias=True).clamp(0, 1)
        augmented.append((part - 0.5) / 0.5)
    made = pixels(sample, [frames], np.random.default_rng(5))
    assert flips == {False, True}
    assert torch.equal(made["pixel_values_videos"], compose_dynimgs(torch.stack(augmented), pixels.layout))
    assert made["dynimgs_per_video"].tolist() == [4]


@pytest.mark.parametrize(
    ("said", "is_safe"),
    [
        ("What happens?", True),
        ("Does it go to the LEFT?", False),
        ("The rightmost one", False),
        ("It turns counter-clockwise", False),
        ("anticlockwise", False),
        ("It was bright and upright", True),
        ("Das Auto biegt nach links ab", False),
        ("Es dreht sich im Uhrzeigersinn", False),
        ("La voiture tourne à gauche", False),
        ("dans le sens des aiguilles d'une montre", False),
        ("Gira a la izquierda", False),
        ("en sentido antihorario", False),
        ("Va verso destra", False),
        ("O carro vira à esquerda", False),
        ("Gira no sentido horário", False),
        ("no sentido anti-horário", False),
        ("Машина едет налево", False),
        ("汽车向左转吗", False),
        ("逆时针旋转", False),
        ("右に動く", False),
        ("왼쪽으로 움직인다", False),
        ("Was passiert? Que se passe-t-il ? ¿Qué pasa? 发生了什么 무슨 일이야?", True),
    ],
)
def test_safe_flips_nothing_that_speaks_of_sides(processor, said, is_safe):
    for role in ("user", "assistant"):
        sample = Sample(({"role": role, "content": [{"type": "text", "text": said}]},), (), "s", 1)
        chosen = {
            flip: GroupPixels(processor, DatasetOptions(flip=flip)).augment_for(sample).flip_probability
            for flip in ("paper", "off", "safe")
        }
        assert chosen == {"paper": 0.5, "off": 0.0, "safe": 0.5 if is_safe else 0.0}


def test_unknown_flip(write_mixture, processor):
    with pytest.raises(InputError, match="flip must be one of paper, off, safe, got 'no'"):
        dataset(write_mixture(a=[good(0)]), processor, flip="no")


def test_pixels_are_normalised_as_the_processor_says():
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    processor = tiny_processor(tiny_config(), image_mean=mean, image_std=std)
    wanted = ((0.2 - torch.tensor(mean)) / torch.tensor(std))[:, None, None].expand(2, 3, 64, 64)
    sample = Sample(({"role": "user", "content": [{"type": "text", "text": "What?"}]},), (), "s", 1)
    pixels = GroupPixels(processor, DatasetOptions(augment=False))
    made = pixels(sample, [np.full((2, 3, 32, 32, 3), 51, np.uint8)], np.random.default_rng(0))
    torch.testing.assert_close(made["pixel_values_videos"], wanted, rtol=0, atol=1e-5)
    flat = torch.full((2, 3, 64, 64), 51, dtype=torch.uint8)
    torch.testing.assert_close(processor.video_processor.normalise(flat), wanted, rtol=0, atol=1e-5)


# --- weights --------------------------------------------------------------------------------------------------------


def test_weights_say_how_often_a_sample_is_seen():
    slots = _Slots((Part("a", 0, 10, 1), Part("b", 10, 14, 2.0), Part("c", 14, 20, 0.5), Part("d", 20, 20, 1)), seed=0)
    assert len(slots) == 10 + 8 + 3
    epochs = [[slots.sample_of(n, epoch) for n in range(21)] for epoch in range(2)]
    assert sorted(epochs[0][:10]) == list(range(10))
    assert sorted(epochs[0][10:18]) == sorted([10, 11, 12, 13] * 2)
    assert sorted(epochs[0][18:] + epochs[1][18:]) == list(range(14, 20))  # the other half in the next epoch
    with pytest.raises(IndexError):
        slots.sample_of(21, 0)


# --- samples that cannot be used ------------------------------------------------------------------------------------


@pytest.fixture
def broken_mixture(write_mixture, clips):
    (clips / "broken.mp4").write_bytes(b"no video" * 99)

    def write(allowed_share):
        bad = [
            entry("none.mp4", ("", "q", "a")),
            entry("broken.mp4", ("", "q", "a")),
            entry("clip0.mp4", ("", "q", "a"), start=99, end=100),
            entry("clip0.mp4", ("", "q", "")),
        ]
        long = entry("clip1.mp4", ("", "q", "a"), ("", "x" * 150, "b"))
        return write_mixture(allowed_share, a=[*[good(n) for n in range(5)], *bad, long])

    return write


def test_broken_samples_are_replaced_counted_and_reported(broken_mixture, processor):
    recipe = broken_mixture(0.5)
    data, again = (dataset(recipe, processor, max_length=150) for _ in range(2))
    items = [data[n] for n in range(len(data))]
    assert all("pixel_values_videos" in item for item in items)
    assert all(equal(item, again[n]) for n, item in enumerate(items))
    expected = {"used": 5, "cut": 1, "missing": 1, "unreadable": 2, "empty_answer": 1}
    assert data.status.counts() == expected
    rows = list(data.broken())
    assert [(row["entry"], row["reason"]) for row in rows] == [
        (6, "missing"), (7, "unreadable"), (8, "unreadable"), (9, "empty_answer"),
    ]  # fmt: skip
    assert json.loads(json.dumps(rows))[0]["videos"][0].endswith("none.mp4")
    data.set_epoch(1)
    for n in range(len(data)):
        data[n]
    assert data.status.counts() == expected  # each counts once, however often it is met


def test_too_many_broken_samples_stop_the_run(broken_mixture, processor):
    data = dataset(broken_mixture(0.25), processor)
    message = r"3 of 10 samples cannot be used, over the allowed share of 0\.25: a entry"
    with pytest.raises(DataError, match=message) as error:
        list(map(data.__getitem__, range(len(data))))
    assert "\n" not in str(error.value)


def test_workers_stop_the_run_in_one_line(broken_mixture, processor):
    data = dataset(broken_mixture(0.0), processor)
    with pytest.raises(DataError, match=r"^1 of 10 samples cannot be used") as error:
        list(DataLoader(data, batch_size=None, num_workers=1, sampler=[5]))
    assert "\n" not in str(error.value)


def test_nothing_usable_stops_the_run(write_mixture, processor):
    data = dataset(write_mixture(a=[entry("none.mp4", ("", "q", "a"))]), processor, allowed_share=1.0)
    with pytest.raises(DataError, match="32 samples in a row cannot be used; the last: a entry 1: no such video: "):
        data[0]


def test_empty_and_missing_data(write_mixture, tmp_path, processor):
    with pytest.raises(InputError, match="is empty: its annotation files hold no sample"):
        open_samples(write_mixture(a=[]))
    with pytest.raises(InputError, match="no such training data"):
        open_samples(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="no sample is left in an epoch"):
        dataset(write_mixture(a=([good(0)], {"weight": 0.1})), processor)


def test_a_single_file_is_data_too(tmp_path, processor, clips):
    (clips / "mine.jsonl").write_text(json.dumps(chat(["clip0.mp4", "What?"], "A square.")))
    source = open_samples(clips / "mine.jsonl")
    assert VideoTextDataset(source, processor)[0]["dynimgs_per_video"].tolist() == [2]


def test_lengths_are_estimated_without_opening_a_video(write_mixture, processor):
    long, short = (entry("none.mp4", ("", "q" * length, "a")) for length in (400, 1))
    data = dataset(write_mixture(a=[long, short]), processor)
    assert data.lengths() == [32 + 402 // 4 + 12, 32 + 3 // 4 + 12]
