"""What a recipe for the motion world may say, and the rates and pictures that follow from it."""

import math

import pytest
import torch
import yaml

from dynimg_vl import InputError
from dynimg_vl.motion.textures import PictureBank, procedural_pictures
from dynimg_vl.training.motion.pictures import PictureWindow, training_pictures, validation_pictures
from dynimg_vl.training.motion.settings import DENSE, OF_MOTION, LossWeights, Schedule, Stage, WorldSettings
from dynimg_vl.training.recipe import TrainRecipe
from motion_runs import STAGES, motion_recipe

NOTHING = dict.fromkeys(vars(LossWeights()), 0.0)
PAIRS = {"min_objects": 2, "max_objects": 2, "families": ["direction_of"]}
BESIDE = {"batch": {"batch_size": 3, "num_keyframe_tokens": 4, "num_questions": 0, "has_strip": False}}


@pytest.fixture
def read(tmp_path):
    """Read a tiny recipe with some of its values changed: read({"model.vision": {...}}, **overrides)."""

    def read(changes=None, **overrides):
        path = motion_recipe(tmp_path, "motion")
        values = yaml.safe_load(path.read_text())
        for key, value in (changes or {}).items():
            *parents, last = key.split(".")
            place = values
            for name in parents:
                place = place[int(name)] if isinstance(place, list) else place[name]
            if value is None:
                del place[last]
            else:
                place[last] = value
        path.write_text(yaml.safe_dump(values))
        return TrainRecipe.from_file(path, overrides)

    return read


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("stagez", "unknown key 'stagez'; did you mean stages?"),
        ("model.prompt_stagee", "model: unknown key .*prompt_stage?"),
        ("data.worlds", "data: unknown key 'worlds'; did you mean world?"),
        ("data.world.num_picture", "data.world: unknown key .*num_pictures?"),
        ("stages.0.stepz", "stages.strip: unknown key 'stepz'; did you mean steps?"),
        ("stages.1.batch.batchsize", "stages.whole.batch: unknown key .*batch_size?"),
        ("stages.0.losses.txt", "stages.strip.losses: unknown key 'txt'; did you mean text?"),
    ],
)
def test_an_unknown_key_is_named_with_what_was_meant(read, key, hint):
    with pytest.raises(InputError, match=hint) as error:
        read({key: 1})
    assert "\n" not in str(error.value)


def test_an_unknown_key_of_the_section_training_or_of_a_part_is_named_before_anything_is_built(read):
    from dynimg_vl.training.arguments import build_arguments
    from dynimg_vl.training.building import random_model
    from dynimg_vl.training.motion.tokenizer import build_tokenizer

    with pytest.raises(InputError, match="training: unknown key 'muon_learning_rat'; did you mean muon_learning_rate"):
        build_arguments(read({"training.muon_learning_rat": 1}).training)
    with pytest.raises(InputError, match=r"model.vision: unknown key 'hiden_size'; did you mean hidden_size"):
        random_model(read({"model.vision.hiden_size": 1}).model, build_tokenizer())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages.0.steps": None}, "stages.strip: steps is missing"),
        ({"stages.0.steps": 1.5}, "stages.strip: steps must be a whole number, got 1.5"),
        ({"stages.0.steps": True}, "steps must be a whole number, got True"),
        ({"stages.0.steps": float("inf")}, "steps must be a whole number, got inf"),
        ({"stages.1.rate": 10**400}, "stages.whole: rate must be a number, got 1000"),
        ({"data.world.seed": -1}, "data.world: seed must be at least 0, got -1"),
        (
            {"stages.1.batch.families": ["meet"], "stages.1.batch.one_object": True},
            "one_object and families do not go together",
        ),
        ({"stages.0.steps": 0}, "steps must be at least 1, got 0"),
        ({"stages.1.rate": "fast"}, "stages.whole: rate must be a number, got 'fast'"),
        ({"stages.1.name": "strip"}, "two have the same name"),
        ({"stages.1.batch.camera_share": 1.2}, "camera_share must be a share from 0 to 1"),
        ({"stages.1.batch.num_questions": 0}, "without questions there is no loss on text"),
        ({"stages.1.batch.families": ["direction", "way"]}, "families must be a list of direction, .*; got 'way'"),
        ({"stages.1.batch.families": "direction"}, "families must be a list of .*; got 'direction'"),
        ({"stages.1.batch.families": []}, r"families must be a list of .*; got \[\]"),
        (
            {"stages.1.batch.families": ["direction"], "stages.1.batch.world": PAIRS},
            "families of a planned world are given with it",
        ),
        ({"stages.1.batch.num_keyframe_tokens": []}, "stages.whole.batch: num_keyframe_tokens names none"),
        ({"stages.1.batch.num_keyframe_tokens": [4, -1]}, "num_keyframe_tokens must be at least 0, got -1"),
        ({"stages.1.batch.num_keyframe_tokens": [4, "all"]}, "num_keyframe_tokens must be a whole number, got 'all'"),
        ({"stages.1.batch.one_object": 1}, "one_object must be true or false, got 1"),
        ({"stages.1.batch.one_object": True, "stages.1.batch.world": PAIRS}, "one_object needs a world of one object"),
        (
            {"stages.0.batch.has_strip": False},
            "stages.strip.batch: without strip, num_keyframe_tokens must be at least 1",
        ),
        ({"stages.1.beside": {"losses": {}}}, "stages.whole.beside: batch is missing"),
        ({"stages.1.beside": BESIDE | {"losses": {"text": 1.0}}}, "stages.whole.beside: .*no loss on text"),
        ({"stages": []}, "stages must be a list of at least one stage"),
        ({"stages": ["strip"]}, "stages.0 must have keys"),
        ({"data.world.refresh_every": 0}, "data.world: refresh_every must be at least 1"),
        ({"data.world.chat_share": -0.1}, "chat_share must be a share"),
        ({"data.path": "x.json"}, "path has no meaning beside world"),
        ({"stages": None}, "data.world and stages go together"),
        ({"training.num_train_epochs": 3}, "num_train_epochs is decided by stages"),
        ({"training.max_steps": 6}, "max_steps is 6, and the stages have 5 in all"),
        ({"model.weights_except": ["*"]}, "weights_except goes with weights"),
        ({"model.weights": "embedded", "model.weights_except": "*"}, "weights_except must be a list"),
    ],
)
def test_a_value_that_cannot_be_is_one_line(read, changes, message):
    with pytest.raises(InputError, match=message) as error:
        read(changes)
    assert "\n" not in str(error.value)


def test_numbers_may_be_written_as_yaml_takes_for_text_and_stages_are_changed_from_the_command_line(read):
    recipe = read(
        {"stages.1.rate": "5e-1"}, **{"stages.strip.steps": 7, "stages.1.losses.flow": 0, "data.world.seed": 9}
    )
    strip, whole = recipe.schedule.stages
    assert (strip.steps, whole.rate, whole.losses.flow, whole.losses.attention) == (7, 0.5, 0.0, 1.0)
    assert recipe.data.world.seed == 9
    with pytest.raises(InputError, match="no such stage"):
        read(**{"stages.half.steps": 1})


def test_a_limit_of_minus_one_is_none_as_transformers_has_it(read):
    assert read({"training.max_steps": -1}).training["max_steps"] == 5


def test_part_of_the_model_may_have_no_part_in_a_step_of_several_processes(read):
    recipe = read()
    assert recipe.schedule.stages[0].losses.text == 0  # the language model
    assert recipe.training["ddp_find_unused_parameters"] is True
    with_text = read({"stages.0.losses.text": 1.0, "stages.0.batch.num_questions": 1})  # heads whose losses are off
    assert with_text.training["ddp_find_unused_parameters"] is True
    assert read({"training.ddp_find_unused_parameters": False}).training["ddp_find_unused_parameters"] is False


def test_weights_go_with_parts_and_not_with_a_model(read):
    assert read({"model.weights": "embedded"}).model.weights == "embedded"
    with pytest.raises(InputError, match="weights are for a model that is built of parts"):
        read(**{"model.path": "embedded", "model.weights": "embedded"})


def test_the_world_is_seeded_like_the_run_where_nothing_else_is_said(read):
    assert read({"training.seed": 5}).data.world.seed == 5
    assert read({"training.seed": 5, "training.data_seed": 0}).data.world.seed == 0
    assert read({"training.seed": 5, "data.world.seed": 2}).data.world.seed == 2


# --- stages ----------------------------------------------------------------------------------------------------------


def test_the_rate_is_warm_up_constant_and_a_line_down():
    values = {"name": "a", "steps": 40, "warmup_steps": 5, "rate": 0.8, "constant_share": 0.25, "final_rate": 0.1}
    stage = Stage.from_values({**values, "batch": STAGES[1]["batch"]}, "stages.a")
    for step in range(40):
        warm = (step + 1) / 5 if step < 5 else 1
        # From step 10 (a quarter) to step 40 (not reached): from 1 to 0.1.
        line = 1 if step <= 10 else 1 - 0.9 * (step - 10) / 30
        assert math.isclose(stage.rate_at(step), 0.8 * warm * line)


def test_a_run_is_its_stages_one_after_the_other():
    schedule = Schedule.from_values(
        [{**STAGES[1], "name": name, "steps": steps} for name, steps in zip("abc", (2, 1, 4), strict=True)]
    )
    assert schedule.num_steps == 7
    assert schedule.ends == [2, 3, 7]
    assert [schedule.locate(step) for step in range(8)] == [
        (0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (2, 3)
    ]  # fmt: skip
    assert [schedule.rate_at(step) for step in range(7)] == [0.5, 1, 0.5, 0.5, 1, 1, 1]


def test_factors_on_the_losses_leave_text_alone():
    schedule = Schedule.from_values([{**STAGES[1], "losses": {"attention": 2.0, "flow": 0.5}}]).scaled(0.5, 0.0)
    losses = vars(schedule.stages[0].losses)
    assert (losses["text"], losses["attention"]) == (1.0, 1.0)
    assert {value for name, value in losses.items() if name not in ("text", "attention")} == {0.0}
    beside = {**BESIDE, "losses": NOTHING | {"shape": 3.0, "covered": 1.0}}
    (stage,) = Schedule.from_values([{**STAGES[1], "beside": beside}]).scaled(0.5, 0.5).stages
    assert vars(stage.beside.losses) == NOTHING | {"shape": 1.5, "covered": 0.5}
    moving = {**STAGES[1], "beside": {**beside, "losses": NOTHING | {"flow": 1.0, "shape": 1.0}}}
    with pytest.raises(
        InputError, match=r"stages.whole.beside: no patch sees another frame without strip, so flow cannot"
    ):
        Schedule.from_values([moving]).check_stage("before")
    with pytest.raises(InputError, match=r"stages.whole.beside: has_strip: false needs composed pictures"):
        Schedule.from_values([{**moving, "losses": dict.fromkeys(OF_MOTION, 0.0)}]).check_stage("after")
    with pytest.raises(InputError, match=r"stages.whole.beside: all losses are 0"):
        Schedule.from_values([{**STAGES[1], "beside": beside}]).scaled(0.5, 0.0).check_stage("before")


def test_losses_that_cannot_be_learnt_are_refused_by_name():
    schedule = Schedule.from_values(STAGES)
    asked = [name for name in OF_MOTION if getattr(LossWeights(), name)]
    schedule.check_stage("before")
    for stage in ("after", "tiles"):
        with pytest.raises(InputError, match=f"stages.strip: .* prompt_stage: {stage}, so {', '.join(asked)} cannot"):
            schedule.check_stage(stage)
    with pytest.raises(InputError, match="covered"):
        schedule.check_stage("none")
    text_only = Schedule.from_values(STAGES[1:]).scaled(0.0, 0.0)
    for stage in ("before", "after", "tiles", "none"):
        text_only.check_stage(stage)
    with pytest.raises(InputError, match=r"stages.strip: all losses are 0"):
        schedule.scaled(0.0, 0.0).check_stage("before")
    blind = [{**STAGES[1], "batch": {**STAGES[1]["batch"], "num_keyframe_tokens": 0}}]
    with pytest.raises(InputError, match=r"num_keyframe_tokens must be at least 1"):
        Schedule.from_values(blind).scaled(0.0, 0.0).check_stage("none")
    still = [{**STAGES[1], "losses": dict.fromkeys(OF_MOTION, 0.0)}]
    Schedule.from_values(still).check_stage("after")
    assert set(OF_MOTION) < set(DENSE)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_a_window_shows_the_latest_pictures_whatever_was_asked_before():
    def naive(batch, num=3, seed=4, refresh_every=2):
        # The row of pictures is numbered; each lies where its number says, modulo the places.
        first = batch // refresh_every
        found = {}
        for number in range(first, first + num):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
            found[number % num] = procedural_pictures(1, generator)[0]
        return torch.stack([found[slot] for slot in range(num)])

    window = PictureWindow(3, 4, 2)
    for batch in (1, 2, 3, 9, 0):
        bank = window.at(batch)
        expected = naive(batch)
        assert torch.equal(bank.large, expected)
        assert torch.equal(bank.small, PictureBank.from_pictures(expected).small)


def test_pictures_come_from_a_folder_of_videos(clips, tmp_path):
    settings = WorldSettings(pictures=clips, pictures_per_video=2)
    bank = training_pictures(settings).at(0)
    assert len(bank) == 8  # four clips
    assert torch.equal(bank.large, training_pictures(settings).at(99).large)
    with pytest.raises(InputError, match="pictures: no such folder"):
        training_pictures(WorldSettings(pictures=tmp_path / "absent"))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match="no video in it can be read"):
        training_pictures(WorldSettings(pictures=tmp_path))


def test_validation_has_pictures_of_its_own():
    settings = WorldSettings(num_pictures=3, validation_pictures=3)
    ours, theirs = validation_pictures(settings).at(0).large, training_pictures(settings).at(0).large
    assert torch.equal(ours, validation_pictures(settings).at(7).large)
    assert not any(torch.equal(one, other) for one in ours for other in theirs)
