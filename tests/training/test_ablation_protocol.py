"""Ablations as plans: arms are values, every run is a recipe, controls change the strip and nothing else."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from dynimg_vl import InputError
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.model.configuration_dynimg import DynImgConfig
from dynimg_vl.motion.wordings import PLACE_ANSWERS
from dynimg_vl.training.ablation import run as ablation_run
from dynimg_vl.training.ablation.measure import CONTROLS, can_disturb, disturb
from dynimg_vl.training.ablation.protocol import SCALES, Experiment
from dynimg_vl.training.ablation.tables import TABLES
from dynimg_vl.training.ablation.worlds import CLAIM_WORLDS
from dynimg_vl.training.motion.data import View
from dynimg_vl.training.recipe import TrainRecipe

TAKEN_FROM = {"keyframes": "keyframes", "before_1d": "s", "before_4d": "hwts_merge"}
"""Arms of Table 3 that are arms of Table 6, too, and were run there."""


def recipe_of(run):
    """Give a recipe with the stage of prompt frames said, as Table 3 does where Table 6 leaves it to the default."""
    return {**run.recipe, "model": {"prompt_stage": DynImgConfig().prompt_stage, **run.recipe["model"]}}


# --- arms and runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("scale", SCALES)
def test_every_arm_is_a_configuration_and_every_run_a_recipe(table, scale, tmp_path):
    experiment = Experiment(table, scale, 2, CLAIM_WORLDS)
    runs = [each.run for each in experiment.arm_runs({(w, a): 1.0 for w in CLAIM_WORLDS for a in experiment.arms})]
    assert len(runs) == 2 * len(CLAIM_WORLDS) * len(TABLES[table].arms)
    # All arms in one world, some in the others; the recipes of the scales differ in sizes only.
    chosen = runs[: len(experiment.arms)] if scale == "smoke" else []
    for run in [*experiment.base_runs(0)[:2], *chosen, *runs[len(experiment.arms) : 3 * len(experiment.arms) : 4]]:
        values = json.loads(json.dumps({**run.recipe, "training": {**run.recipe["training"], "output_dir": "x"}}))
        values["model"]["tokenizer"] = "motion"
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values))
        recipe = TrainRecipe.from_file(path)
        parts = {"vision_config": recipe.model.vision, "text_config": {**recipe.model.text, "vocab_size": 200_000}}
        config = DynImgConfig(**recipe.model.config, **parts)
        recipe.schedule.check_stage(config.prompt_stage)
        assert config.layout.is_exact
        assert recipe.schedule.stages[0].losses.attention == recipe.schedule.stages[0].losses.flow == 0


def test_arms_share_weights_clips_and_all_but_their_own_values():
    experiment = Experiment("table6", "cpu", 1, ("several",))
    runs = {arm: experiment.arm_run("several", arm, 0).run for arm in experiment.arms}
    assert {run.start for run in runs.values()} == {experiment.base_runs(0)[-1].place}
    for run in runs.values():
        others = {key: value for key, value in run.recipe.items() if key != "model"}
        assert others == {key: value for key, value in runs["s"].recipe.items() if key != "model"}
    losses = runs["s"].recipe["stages"][0]["losses"]
    assert {name for name, weight in losses.items() if weight} == {"text"}


def test_own_collages_come_between_the_common_weights_and_an_arm():
    common, own = (Experiment("table3", "cpu", 1, ("single",), own_collages=mine) for mine in (False, True))
    last = common.base_runs(0)[-1].place
    assert own.base_runs(0) == common.base_runs(0)
    for arm in own.arms:
        run, between = own.arm_run("single", arm, 0).run, own.own_run(arm, 0)
        assert common.own_run(arm, 0) is None
        assert run.recipe == common.arm_run("single", arm, 0).run.recipe
        if arm == "keyframes":  # has no strip to read
            assert between is None
            assert (run.start, run.keeps_theta) == (last, False)
            continue
        assert (between.start, run.start, run.keeps_theta) == (last, between.place, True)
        # As many steps as each layout has had in common; nothing in them tells of motion.
        (stage,) = between.recipe["stages"]
        assert stage["steps"] == own.own_collage_steps == 750
        assert stage["batch"]["world"]["kinds"] == ["still"]
        assert {**between.recipe["model"], **own.arms[arm].model} == between.recipe["model"]
    assert len({own.arm_run("single", arm, 0).run.start for arm in own.arms}) == len(own.arms)


def test_a_table_may_start_from_the_weights_of_another():
    third, own, sixth = (
        Experiment(table, "cpu", 1, ("single",), own_collages=True, base=base)
        for table, base in (("table3", None), ("table6", None), ("table6", "table3"))
    )
    assert sixth.base_runs(0) == third.base_runs(0) != own.base_runs(0)
    assert sixth.own_collage_steps == third.own_collage_steps == 750
    digests = [each.describe(["single"], ["s"]) for each in (own, sixth)]
    assert digests[0] != digests[1]
    # Rows of both tables are one model then, trained alike.
    for before, now in (TAKEN_FROM | {"before_4d_token": "hwts_token"}).items():
        runs = [(third.own_run(before, 0), third.arm_run("single", before, 0).run)]
        runs += [(sixth.own_run(now, 0), sixth.arm_run("single", now, 0).run)]
        assert [each and recipe_of(each) for each in runs[0]] == [each and recipe_of(each) for each in runs[1]]


def test_a_table_does_not_start_from_other_sizes_or_layouts():
    with pytest.raises(InputError, match="table4 cannot start from table3: its models have other sizes"):
        Experiment("table4", "cpu", 1, ("single",), base="table3")
    with pytest.raises(InputError, match="table5 cannot start from table3, which lacks the layout of g2"):
        Experiment("table5", "cpu", 1, ("single",), base="table3")
    with pytest.raises(InputError, match="no table 'table9'"):
        Experiment("table6", "cpu", 1, ("single",), base="table9")
    assert Experiment("table5", "cpu", 1, ("single",), ("g1",), base="table6").arms


def test_results_that_two_tables_share_are_the_same():
    experiments = Path(__file__).parents[2] / "experiments"
    shared = sorted((experiments / "table6_cpu_own").glob("runs/*/*/*/result.json"))
    shared = [each for each in shared if "taken_from" in json.loads(each.read_text())]
    assert len(shared) == 3 * len(TAKEN_FROM)
    sources = {now: before for before, now in TAKEN_FROM.items()}
    for path in shared:
        taken, arm = json.loads(path.read_text()), path.parts[-3]
        assert taken.pop("taken_from") == f"table3 {sources[arm]}"
        # Keyframes only has no collages of its own: one result in both experiments.
        folder = experiments / ("table3_cpu" if arm == "keyframes" else "table3_cpu_own")
        source = json.loads(
            (folder.joinpath(*path.parts[-5:-3]) / sources[arm] / path.parent.name / path.name).read_text()
        )
        named = ("arm", "recipe", "settings")
        assert {name: value for name, value in taken.items() if name not in named} == {
            name: value for name, value in source.items() if name not in named
        }


def test_every_layout_has_collages_and_another_one_is_last_for_other_seeds():
    experiment = Experiment("table4", "cpu", 3, ("single",))
    chains = [experiment.base_runs(seed) for seed in range(8)]
    for chain in chains:
        assert [each.start for each in chain] == [None, *(each.place for each in chain[:-1])]
        counts = [each.recipe["model"]["num_prompt_frames"] for each in chain[1:]]
        assert sorted(counts[:5]) == [1, 2, 4, 6, 12]
        assert counts == counts[:5] * 3
        assert {each.recipe["stages"][0]["steps"] for each in chain[1:]} == {150}
    assert len({chain[-1].place.split("/")[-1][3:] for chain in chains}) > 2
    stages = {
        each.recipe["model"]["prompt_stage"] for each in Experiment("table3", "cpu", 1, ("single",)).base_runs(0)[1:]
    }
    assert stages == {"after", "tiles", "before"}


def test_places_are_words_to_the_tokenizer():
    tokenizer = ablation_run.build_ablation_tokenizer()
    assert len(tokenizer) <= 832
    for answer in PLACE_ANSWERS:  # spelt in letters, they took longer to learn than to see
        assert len(tokenizer(answer)["input_ids"]) == 3
    assert len({tokenizer(answer)["input_ids"][0] for answer in PLACE_ANSWERS}) == 3


def test_equal_compute_is_another_number_of_steps():
    experiment = Experiment("table3", "cpu", 1, ("single",), ("after", "before_1d", "before_4d"))
    runs = experiment.arm_runs({("single", "after"): 2.5, ("single", "before_1d"): 1.04, ("single", "before_4d"): 1.0})
    steps = {(each.arm, each.budget): each.steps for each in runs}
    assert steps == {
        ("after", "clips"): 1200,
        ("after", "compute"): 480,
        ("before_1d", "clips"): 1200,
        ("before_4d", "clips"): 1200,
    }
    assert runs[1].run.place != runs[0].run.place
    assert runs[1].run.recipe["stages"][0]["steps"] == 480


def test_a_table_may_have_values_of_its_own():
    sizes = {
        table: Experiment(table, "cpu", 1, ("single",)).values["model"]["token_grid"] for table in ("table3", "table4")
    }
    assert sizes == {"table3": 8, "table4": 12}
    assert "tables" not in Experiment("table4", "cpu", 1, ("single",)).describe()["values"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("table9", "smoke", 1, ("single",)), "no table 'table9'; choose from table3"),
        (("table3", "huge", 1, ("single",)), "no scale 'huge'"),
        (("table3", "smoke", 0, ("single",)), "seeds must be at least 1"),
        (("table3", "smoke", 1, ("moon",)), "no world 'moon'; choose from single, several, long, leak"),
        (("table3", "smoke", 1, ("single",), ("n4",)), "no arm 'n4'; the arms are keyframes, after"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_line(given, message):
    with pytest.raises(InputError, match=message) as error:
        Experiment(*given)
    assert "\n" not in str(error.value)


# --- controls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("control", CONTROLS)
def test_controls_change_the_strip_and_leave_the_keyframe(stage, control):
    layout = DynImgLayout(4, 4, 4, 2)
    view = View(layout, 1, stage)
    shape = (3, 5, 3, 8, 8) if stage == "after" else (3, 3, 8, 8)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = disturb(pixels, view, control, torch.Generator().manual_seed(1))

    def frames(values):
        if stage == "after":
            return list(values.transpose(0, 1))
        return [values[(..., *tile.slices)] for tile in layout.pixel_tiles]

    before, after = frames(pixels), frames(found)
    assert torch.equal(before[0], after[0])
    for clip in range(3):
        old, new = ([frame[clip] for frame in part[1:]] for part in (before, after))
        if control == "grey":
            assert all(bool((frame == 127).all()) for frame in new)
        elif control == "repeated":
            assert all(torch.equal(frame, old[2]) for frame in new)
        else:
            order = [next(rank for rank, other in enumerate(old) if torch.equal(frame, other)) for frame in new]
            assert sorted(order) == [0, 1, 2, 3] != order
    assert torch.equal(disturb(pixels, view, "", torch.Generator()), pixels)


def test_one_prompt_frame_has_no_order_and_none_has_no_strip():
    assert [can_disturb(DynImgLayout(1, 4, 4, 2), name) for name in CONTROLS] == [False, False, True]
    assert not any(can_disturb(DynImgLayout(0, 4, 4, 2), name) for name in CONTROLS)
