"""Planned worlds: balanced by construction, true answers, no motion in the keyframe unless a leak is planted."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from dynimg_vl import InputError
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.motion.plan import MOTION_FAMILIES, WorldPlan, ask_planned, sample_planned, sharp
from dynimg_vl.motion.questions import clip_facts
from dynimg_vl.motion.render import render
from dynimg_vl.motion.textures import PictureBank
from dynimg_vl.motion.wordings import PATH_ANSWERS, PLACE_ANSWERS
from dynimg_vl.motion.world import object_centres, sample_scenes
from dynimg_vl.training.motion.data import draw_dynimgs, draw_frames

SINGLE = WorldPlan()
PINNED, PINNED_SUMS = [74, 656, 83, 176, 291], [189.295, 39.6678, 627.5783]
THREE = WorldPlan(min_objects=3, max_objects=3, families=("direction_of", "colour"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def bank():
    return PictureBank.procedural(4, seeded(3))


def exchanges_of(plan, num=600, frames=5, dynimgs=1, seed=0):
    scenes = sample_planned(num, 4, seeded(seed), plan)
    times = torch.rand(num, dynimgs, frames, generator=seeded(seed + 1)) * 2 - 1
    times[:, :, 0] = 0
    return scenes, times, ask_planned(plan, scenes, times, 9, np.random.default_rng(seed))


def test_what_is_drawn_without_a_plan_is_what_it_always_was():
    scenes = sample_scenes(64, 8, seeded(5))
    found = [int(getattr(scenes, name).sum()) for name in ("camera_id", "picture_id", "present", "kind_id", "shape_id")]
    assert found == PINNED
    places = (scenes.position.sum(), scenes.legs.abs().sum(), scenes.phase.sum())
    assert [float(value) for value in places] == pytest.approx(PINNED_SUMS, rel=1e-5)
    assert not scenes.exposure.any()
    assert not scenes.scattered.any()


def test_the_same_seed_gives_the_same_clips():
    first, second = (sample_planned(16, 4, seeded(2), THREE) for _ in range(2))
    assert torch.equal(first.position, second.position)
    assert torch.equal(first.legs, second.legs)


@pytest.mark.parametrize("plan", [SINGLE, THREE], ids=["single", "three"])
def test_all_that_an_object_may_do_is_equally_frequent(plan):
    _, _, asked = exchanges_of(replace(plan, single_share=0.0), 4000)
    family = "direction" if plan is SINGLE else "direction_of"
    answers = Counter(each.answer for clip in asked for each in clip if each.family == family)
    assert set(answers) == {answer for word, answer in PATH_ANSWERS.items() if word not in ("appear", "disappear")}
    total = sum(answers.values())
    # Of several objects, clips with one that moves are asked another question.
    loose = 0.03 if plan is SINGLE else 0.05
    assert all(abs(count / total - 1 / plan.num_labels) < loose for count in answers.values())


def test_which_one_moves_is_asked_where_one_does():
    scenes, _, asked = exchanges_of(THREE, 1500)
    for facts, clip in zip(clip_facts(scenes), asked, strict=True):
        assert len(facts.objects) == 3
        assert len({each.colour for each in facts.objects}) == 3
        families = {each.family for each in clip}
        assert families == ({"colour"} if len(facts.moving) == 1 else {"direction_of"})
    # Whoever always names the first of those that are there is right in one of three.
    first = [
        clip[0].answer == f"The {min(each.colour for each in facts.objects)} one."
        for facts, clip in zip(clip_facts(scenes), asked, strict=True)
        if clip[0].family == "colour"
    ]
    assert np.mean(first) == pytest.approx(THREE.bound("colour"), abs=4 * (0.22 / len(first)) ** 0.5)


def test_where_an_object_lies_says_nothing_unless_a_leak_is_planted():
    for leak in (False, True):
        scenes = sample_planned(6000, 4, seeded(4), replace(SINGLE, leak=leak))
        place, direction = scenes.position[:, 0].double(), scenes.direction_id[:, 0]
        error = place.std(0) / (direction == 1).sum() ** 0.5
        shift = (place[direction == 1].mean(0) - place.mean(0)).abs()
        assert bool((shift < 5 * error).all()) != leak


@pytest.mark.parametrize("dynimgs", [1, 2])
def test_objects_of_collages_are_where_the_answer_says(bank, dynimgs):
    # Nothing but one object on a plain background: its place is found in the pixels.
    plan = WorldPlan(kinds=("still",), families=("place", "place_in"), scattered=True, plain_share=1.0)
    scenes, times, asked = exchanges_of(plan, 40, 5, dynimgs, seed=7)
    pixels = render(scenes, bank, times.flatten(1), (60, 80))
    is_object = (pixels - scenes.shade[:, None, :, None, None]).abs().amax(2) > 0.1
    rows, columns = (torch.arange(60) + 0.5) / 60, (torch.arange(80) + 0.5) / 80
    compared = 0
    for number, clip in enumerate(asked):
        for each in clip:
            picture = 0
            if each.family == "place_in":
                group, frame = divmod(int(each.question.split()[-1].rstrip("?")) - 1, 4)
                picture = group * 5 + 1 + frame
            mask = is_object[number, picture]
            if mask.sum() < 20:  # as good as of one colour with what is behind it
                continue
            y, x = (rows[:, None] * mask).sum() / mask.sum(), (columns * mask).sum() / mask.sum()
            if all(abs(float(v) - edge) > 0.06 for v in (x, y) for edge in (1 / 3, 2 / 3)):
                assert each.answer == PLACE_ANSWERS[3 * int(y * 3) + int(x * 3)]
                compared += 1
    assert compared > 25


def test_frames_of_collages_have_nothing_to_do_with_each_other():
    plan = WorldPlan(kinds=("still",), families=("place",), scattered=True)
    scenes = sample_planned(3000, 4, seeded(8), plan)
    places = object_centres(scenes, torch.tensor([[-0.51, 0.0, 0.3]]).expand(3000, 3))[:, :, 0]
    ninths = Counter((places[..., 1] * 3).floor().mul(3).add((places[..., 0] * 3).floor()).flatten().long().tolist())
    edge, middle = 7 / 24, 5 / 12  # places are from .1 to .9
    for ninth, count in ninths.items():
        share = (middle if ninth // 3 == 1 else edge) * (middle if ninth % 3 == 1 else edge)
        assert count / 9000 == pytest.approx(share, abs=0.02)
    table = np.corrcoef(places.flatten(1).T)
    assert np.abs(table - np.eye(6)).max() < 0.08


def test_what_goes_one_way_has_the_speeds_of_the_plan():
    plan = WorldPlan(kinds=("move", "swing"), speeds=(0.4, 0.5))
    scenes = sample_planned(2000, 3, seeded(10), plan)
    times = torch.tensor([[-0.1, 0.1]]).expand(2000, 2)  # the middle leg
    places = object_centres(scenes, times)[:, :, 0]
    along = (places[:, 1] - places[:, 0]).abs().amax(-1) / 0.2
    goes = scenes.direction_id[:, 0] > 0
    assert along[goes].min() == pytest.approx(0.4, abs=1e-2)
    assert along[goes].max() == pytest.approx(0.5, abs=1e-2)
    # Nothing else depends on them.
    other = sample_planned(2000, 3, seeded(10), replace(plan, speeds=(0.2, 0.3)))
    assert torch.equal(object_centres(other, times)[~goes], object_centres(scenes, times)[~goes])


def test_prompt_frames_are_blurred_and_keyframes_are_not(bank):
    plan = WorldPlan(kinds=("move",), exposure=0.3, plain_share=1.0)
    scenes = sample_planned(12, 3, seeded(9), plan)
    scenes.grain.zero_()
    layout = DynImgLayout(2, 4, 8, 8)
    times = torch.tensor([[0.0, -0.4, 0.4]]).expand(12, 3)
    for pixels in (
        lambda each: draw_dynimgs(each, bank, times, layout, torch.arange(16), seeded()),
        lambda each: draw_frames(each, bank, times, layout, seeded()).transpose(1, 2).flatten(2, 3),
    ):
        blurred, clear = pixels(scenes).int(), pixels(sharp(scenes)).int()
        rows = layout.pixel_tiles[0].slices[0] if blurred.shape[2] == layout.image_size else slice(0, 64)
        assert torch.equal(blurred[:, :, rows], clear[:, :, rows])
        assert ((blurred - clear).abs().flatten(1).amax(1) > 15).all()


def test_contrast_is_what_is_left_of_differences_to_grey(bank):
    plain, faded = (sample_planned(20, 3, seeded(6), WorldPlan(contrast=each)) for each in (1.0, 0.25))
    times = torch.zeros(20, 1)
    clear, dull = render(plain, bank, times, (24, 32)), render(faded, bank, times, (24, 32))
    inside = (clear > 0) & (clear < 1)
    torch.testing.assert_close((dull - 0.5)[inside], 0.25 * (clear - 0.5)[inside], rtol=0, atol=1e-5)


def test_bounds_are_of_motion_alone():
    assert SINGLE.bound("direction") == pytest.approx(1 / 7)
    assert WorldPlan(max_objects=3, families=("direction_of",)).bound("colour") == pytest.approx(
        (1 + 1 / 2 + 1 / 3) / 3
    )
    assert set(MOTION_FAMILIES) == {"direction", "direction_of", "colour"}
    with pytest.raises(ValueError, match="place"):
        SINGLE.bound("place")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_objects": 9}, "1 to 3 objects, got 1 to 9"),
        ({"kinds": ["dance"]}, "kinds of a world are of still, .*; got 'dance'"),
        ({"families": []}, "got none"),
        ({"contrast": 0}, "contrast of a world must be above 0"),
        ({"speeds": [0.5, 0.2]}, "the lower one first, got \\[0.5, 0.2\\]"),
        ({"speeds": ["slow", "fast"]}, "got \\['slow', 'fast'\\]"),
        ({"speeds": [0.5]}, "two from 0 to 2"),
        ({"exposure": 2.0}, "exposure of a world must be from 0 to 1"),
        ({"max_objects": 2}, "ask direction_of"),
        ({"families": ["colour"]}, "nothing is asked"),
        ({"speed": 1}, "there is no speed"),
        ({"leak": 1}, "leak must be like False, got 1"),
        ({"max_objects": True}, "max_objects must be like 1"),
        ("single", "got 'single'"),
    ],
    ids=str,
)
def test_plans_that_cannot_be_are_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=message) as error:
        WorldPlan.from_values(values, "world")
    assert "\n" not in str(error.value)
