"""Ablations as runs: what was stopped or carried elsewhere goes on to the same table, leaks are caught."""

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from dynimg_vl import InputError
from dynimg_vl.cli import ablate as verb
from dynimg_vl.cli.app import dynimg_vl
from dynimg_vl.training.ablation import run as ablation_run
from dynimg_vl.training.ablation.measure import CONTROLS
from dynimg_vl.training.ablation.protocol import SCALES, Experiment
from dynimg_vl.training.ablation.run import RESULT_FILE, run_experiment
from dynimg_vl.training.ablation.tables import KEYFRAMES, TABLES
from dynimg_vl.training.ablation.worlds import WORLDS
from runs import environment, stop_after

TINY = (
    ("stages.stills.steps", 1),
    ("stages.collages.steps", 1),
    ("stages.text.steps", 2),
    ("data.world.num_pictures", 2),
    ("data.world.validation_batches", 0),
    ("training.eval_strategy", "no"),
    ("training.save_steps", 1),
    ("ablation.test_batches", 1),
    ("ablation.test_pictures", 2),
)


def tiny(worlds=("single",), arms=(KEYFRAMES, "before_4d"), seeds=1, changes=()):
    return Experiment("table3", "smoke", seeds, worlds, arms, (*TINY, *changes))


def ignore(done, total):
    pass


def numbers_of(out):
    """Give the report and all results without what depends on the clock."""
    results = {}
    for path in sorted(out.glob(f"runs/**/{RESULT_FILE}")):
        values = json.loads(path.read_text())
        results[str(path.relative_to(out))] = {k: v for k, v in values.items() if k not in ("step_seconds", "curve")}
    return (out / "report.md").read_text(), results


# --- experiments -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run a whole experiment of seconds: its folder, with what was told."""
    out = tmp_path_factory.mktemp("ablation") / "out"
    told = []
    outcome = run_experiment(tiny(), out, "a command", lambda done, total: told.append((done, total)))
    return out, outcome, told


def test_an_experiment_ends_in_a_report(finished):
    out, outcome, told = finished
    assert (outcome.done, outcome.total, outcome.stopped_by) == (2, 2, 0)
    assert told[0] == (0, 2)
    assert told[-1] == (2, 2)
    report = (out / "report.md").read_text()
    assert "`a command`" in report
    assert "(one seed)" in report
    assert (out / "table3_single.svg").is_file()
    result = json.loads((out / "runs/single/before_4d/seed0" / RESULT_FILE).read_text())
    assert result["flops_per_clip"] > 1e6
    assert set(result["controls"]) == set(CONTROLS)
    assert sum(total for _, total in result["counts"]["direction_of"].values()) == 8
    assert (out / result["recipe"]).is_file()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["worlds"]["single"]["claims"] == {}  # no claim is about these two arms
    # The weights are those of the last collages, and nothing but theta is new.
    recipe = yaml.safe_load((out / result["recipe"]).read_text())
    start = (out / result["recipe"]).parent / recipe["model"]["weights"]
    assert start.resolve() == (out / "base/seed0/01_before_4_1/model").resolve()
    assert recipe["model"]["weights_except"] == ["*.axis_theta"]


def test_where_an_arm_looks_is_measured_from_its_common_start(finished):
    out, _, _ = finished
    path = Path(__file__).parents[2] / "scripts" / "measure_attention.py"
    spec = importlib.util.spec_from_file_location("measure_attention", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    model, _ = script.load(str(out / "runs/single/before_4d/seed0/recipe.yaml"), 0)
    common = load_file(out / "base/seed0/01_before_4_1/model/model.safetensors")
    own = model.state_dict()
    assert all(torch.equal(value.float(), own[name]) for name, value in common.items())


def test_what_is_done_is_not_done_again(finished, monkeypatch):
    out, _, _ = finished
    before = numbers_of(out)

    def forbidden(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(ablation_run, "train", forbidden)
    monkeypatch.setattr(ablation_run, "flops_per_clip", forbidden)
    (out / "report.md").unlink()
    assert run_experiment(tiny(), out, "a command", ignore).done == 2
    assert numbers_of(out) == before
    with pytest.raises(InputError, match="an experiment with other values; take another folder"):
        run_experiment(tiny(changes=[("stages.text.steps", 3)]), out, "a command", ignore)


def test_a_result_that_is_missing_is_measured_from_the_checkpoint(finished, monkeypatch):
    out, _, _ = finished
    path = out / "runs/single/keyframes/seed0" / RESULT_FILE
    before = json.loads(path.read_text())
    path.unlink()
    monkeypatch.setattr(ablation_run, "train", None)
    run_experiment(tiny(), out, "a command", ignore)
    assert json.loads(path.read_text()) == before


def test_a_run_whose_last_checkpoint_is_damaged_is_not_measured_before_its_end(finished, tmp_path, monkeypatch):
    out, _, _ = finished
    mine = "runs/single/keyframes/seed0"
    patterns = (f"runs/single/before_4d/seed0/{RESULT_FILE}", f"{mine}/*", f"{mine}/*/*")
    folder = carried(out, tmp_path / "elsewhere", *patterns)
    (folder / mine / RESULT_FILE).unlink()
    damaged = folder / mine / "checkpoint-2" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(
        InputError, match=r"checkpoint-1 is the last that is whole; bring checkpoint-2, or delete"
    ) as error:
        run_experiment(tiny(), folder, "a command", ignore)
    assert "\n" not in str(error.value)
    shutil.rmtree(folder / mine / "model")
    seen = trained_by(monkeypatch)
    run_experiment(tiny(), folder, "a command", ignore)
    assert seen == [mine]
    assert numbers_of(folder) == numbers_of(out)


def carried(out, folder, *patterns):
    """Copy what matches the patterns, as one who moves to another machine might."""
    for path in (path for pattern in patterns for path in out.glob(pattern) if path.is_file()):
        (folder / path.relative_to(out)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.relative_to(out))
    return folder


def trained_by(monkeypatch):
    """Note the folders of the runs that are trained from here on, below that of the experiment."""
    seen, train = [], ablation_run.train

    def noted(recipe):
        folder = Path(recipe.training["output_dir"])
        seen.append("/".join(folder.parts[folder.parts.index("elsewhere") + 1 :]))
        return train(recipe)

    monkeypatch.setattr(ablation_run, "train", noted)
    return seen


def test_results_alone_are_carried_to_another_machine(finished, tmp_path, monkeypatch):
    out, _, _ = finished
    folder = carried(out, tmp_path / "elsewhere", f"runs/**/{RESULT_FILE}")
    monkeypatch.setattr(ablation_run, "train", None)
    monkeypatch.setattr(ablation_run, "flops_per_clip", None)  # what was counted once decides the plan
    run_experiment(tiny(), folder, "a command", ignore)
    assert numbers_of(folder) == numbers_of(out)


def test_what_is_not_done_elsewhere_finds_its_start(finished, tmp_path, monkeypatch):
    out, _, _ = finished
    # The weights that arms start from are here, what they were made of is not, and one arm is done.
    patterns = (f"runs/single/keyframes/seed0/{RESULT_FILE}", "base/seed0/01_*/model/*")
    folder = carried(out, tmp_path / "elsewhere", *patterns)
    seen, reports = trained_by(monkeypatch), []

    def look(done, total):
        reports.append((done, "**Under way: 1 of 2 runs." in (folder / "report.md").read_text()))

    run_experiment(tiny(), folder, "a command", look)
    assert seen == ["runs/single/before_4d/seed0"]
    assert reports[0] == (1, True)
    assert reports[-1] == (2, False)
    assert numbers_of(folder) == numbers_of(out)


def test_stages_go_on_from_whatever_is_left_of_the_one_before(finished, tmp_path):
    out, _, _ = finished
    folder = carried(out, tmp_path / "elsewhere", "base/seed0/00_stills/model/*")
    (collages,) = tiny().base_runs(0)[1:]
    runner = ablation_run._Runner(tiny(), folder)
    assert runner.start(collages) == folder / "base/seed0/00_stills/model"
    carried(out, folder, "base/seed0/00_stills/checkpoint-1/*")
    assert runner.start(collages) == folder / "base/seed0/00_stills/checkpoint-1"


def test_a_run_under_way_needs_its_checkpoint_and_nothing_else(finished, tmp_path, monkeypatch):
    out, _, _ = finished
    mine = "runs/single/before_4d/seed0"
    files = ("checkpoint-1/*", "start.json", "recipe.json", "recipe.yaml")
    patterns = (f"runs/single/keyframes/seed0/{RESULT_FILE}", *(f"{mine}/{name}" for name in files))
    folder = carried(out, tmp_path / "elsewhere", *patterns)
    seen = trained_by(monkeypatch)
    run_experiment(tiny(), folder, "a command", ignore)
    assert seen == [mine]
    assert numbers_of(folder) == numbers_of(out)


def test_arms_with_collages_of_their_own_keep_what_they_learnt_about_positions(finished, tmp_path, monkeypatch):
    out, _, _ = finished
    mine = replace(tiny(), own_collages=True)
    folder = carried(out, tmp_path / "elsewhere", "base/seed0/01_*/model/*")
    seen = trained_by(monkeypatch)
    run_experiment(mine, folder, "a command", ignore)
    assert seen == ["runs/single/keyframes/seed0", "base/seed0/own/before_4d", "runs/single/before_4d/seed0"]
    assert "each arm had 1 steps of collages of its own" in (folder / "report.md").read_text()
    # Common weights are what two arms of a seed must share, and they do; positions are what the collages left.
    starts = {
        arm: json.loads((folder / f"runs/single/{arm}/seed0/{RESULT_FILE}").read_text())["start"] for arm in mine.arms
    }
    assert len(set(starts.values())) == 1
    assert starts["before_4d"] is not None
    arm, start = (
        yaml.safe_load((folder / place / "recipe.yaml").read_text())["model"]
        for place in ("runs/single/before_4d/seed0", "base/seed0/own/before_4d")
    )
    assert "weights_except" not in arm
    assert start["weights_except"] == ["*.axis_theta"]
    # Neither experiment takes the folder of the other.
    for other, taken in ((tiny(), folder), (mine, out)):
        with pytest.raises(InputError, match=r"other own_collages|other settings"):
            run_experiment(other, taken, "a command", ignore)


def test_another_table_starts_from_the_weights_of_all_layouts_of_its_base(tmp_path, monkeypatch):
    experiment = replace(tiny(), table_name="table6", arm_names=("s",), base="table3")
    folder = tmp_path / "elsewhere"
    seen = trained_by(monkeypatch)
    run_experiment(experiment, folder, "a command", ignore)
    table3 = [each.place for each in replace(tiny(), arm_names=None).base_runs(0)]
    assert {place.split("_")[1] for place in table3[1:]} == {"after", "tiles", "before"}
    assert seen == [*table3, "runs/single/s/seed0"]
    assert "The common weights are those of table3" in (folder / "report.md").read_text()


def test_a_signal_that_comes_too_late_for_a_run_ends_the_experiment(tmp_path, monkeypatch):
    # During the validation at the end of the first run: it becomes whole, and no other is begun.
    begun = []

    def late(recipe):
        begun.append(recipe)
        return replace(train(recipe), received=signal.SIGTERM)

    train = ablation_run.train
    monkeypatch.setattr(ablation_run, "train", late)
    assert run_experiment(tiny(), tmp_path / "out", "a command", ignore).stopped_by == signal.SIGTERM
    assert len(begun) == 1
    assert len(list(tmp_path.glob("out/base/*/*/model"))) == 1


def test_arms_from_other_weights_are_said_to_be(finished, tmp_path, monkeypatch):
    out, _, _ = finished
    folder = carried(out, tmp_path / "elsewhere", f"runs/**/{RESULT_FILE}")
    path = folder / "runs/single/keyframes/seed0" / RESULT_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "start": "of stages that ran elsewhere"}))
    monkeypatch.setattr(ablation_run, "train", None)
    summary = run_experiment(tiny(), folder, "a command", ignore).summary
    assert summary["worlds"]["single"]["mixed_starts"] == [0]
    assert "Not all arms share their initial weights (seeds: 0)" in (folder / "report.md").read_text()


def test_worlds_may_join_and_what_is_known_stays(finished, tmp_path, monkeypatch):
    out, _, _ = finished
    folder = tmp_path / "elsewhere"
    shutil.copytree(out, folder)
    before = numbers_of(folder)
    seen = trained_by(monkeypatch)
    assert run_experiment(tiny(("several",)), folder, "a command", ignore).done == 2
    assert seen == ["runs/several/keyframes/seed0", "runs/several/before_4d/seed0"]
    assert run_experiment(tiny(), folder, "a command", ignore).done == 2
    report, results = numbers_of(folder)
    assert report == before[0]
    assert {name: results[name] for name in before[1]} == before[1]
    assert list(json.loads((folder / "ablation.json").read_text())["worlds"]) == ["single", "several"]
    with pytest.raises(InputError, match="an experiment with other values; take another folder"):
        run_experiment(tiny(("long",), changes=[("stages.text.steps", 3)]), folder, "a command", ignore)


def test_arms_may_join_whose_layout_is_among_the_collages(finished, tmp_path, monkeypatch):
    out, _, _ = finished
    folder = carried(out, tmp_path / "elsewhere", f"runs/**/{RESULT_FILE}", "ablation.json", "base/seed0/01_*/model/*")
    seen = trained_by(monkeypatch)
    joined = tiny(arms=("before_1d", "before_4d"))
    run_experiment(joined, folder, "a command", ignore)
    assert seen == ["runs/single/before_1d/seed0"]
    assert list(json.loads((folder / "ablation.json").read_text())["arms"]) == [KEYFRAMES, "before_4d", "before_1d"]
    with pytest.raises(InputError, match="an experiment with other layouts; take another folder"):
        run_experiment(tiny(arms=("after", "before_4d")), folder, "a command", ignore)


def test_where_patches_look_is_measured_before_and_after_for_arms_that_see_a_strip(finished):
    out, _, _ = finished
    looks, result = (
        json.loads((out / f"runs/single/{arm}/seed0" / RESULT_FILE).read_text()) for arm in (KEYFRAMES, "before_4d")
    )
    assert looks["looks"] is looks["looks_before"] is None
    layers = [row["layer"] for row in result["looks"]]
    assert layers == [row["layer"] for row in result["looks_before"]] == list(range(1, 1 + len(layers)))
    assert result["looks"] != result["looks_before"]
    assert all(0 < row["still"]["strip"]["mean"] < 1 for row in result["looks"])
    assert (
        "| before the encoder, 4-D | " in (out / "report.md").read_text().split("Where the keyframe's patches look")[1]
    )


def test_results_of_another_experiment_are_no_results_of_this_one(finished, tmp_path):
    out, _, _ = finished
    folder = carried(out, tmp_path / "elsewhere", f"runs/**/{RESULT_FILE}")
    with pytest.raises(InputError, match=r"result\.json is of an experiment with other settings"):
        run_experiment(tiny(changes=[("stages.text.steps", 3)]), folder, "a command", ignore)
    path = folder / "runs/single/keyframes/seed0" / RESULT_FILE
    for text, message in (
        ('{"arm": "keyframes"}', "has no world; delete it"),
        ('{"arm": ["keyframes"], "settings": "x"}', "of an experiment with other settings"),
        ("[1]", "holds something else; delete it"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            run_experiment(tiny(), folder, "a command", ignore)


_SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from test_ablation import tiny, ignore
from dynimg_vl.training import trainer
from dynimg_vl.training.ablation.run import run_experiment
publish = trainer.publish
def deadly(partial, final):
    is_last = str(final).endswith(sys.argv[2])
    if is_last and sys.argv[3] == "before":  # all is written, and nothing has its name
        os.kill(os.getpid(), signal.SIGKILL)
    publish(partial, final)
    if is_last:
        os.kill(os.getpid(), signal.SIGKILL)
trainer.publish = deadly
run_experiment(tiny(changes=[("stages.text.steps", 6)]), Path(sys.argv[1]), "a command", ignore)
"""


@pytest.mark.slow
def test_killed_and_started_again_the_table_is_the_same(tmp_path, monkeypatch):
    experiment = tiny(changes=[("stages.text.steps", 6)])
    run_experiment(experiment, tmp_path / "whole", "a command", ignore)
    out = tmp_path / "killed"
    deaths = (
        ("base/seed0/00_stills/checkpoint-1", "after"),
        ("runs/single/keyframes/seed0/checkpoint-3", "before"),
        ("runs/single/keyframes/seed0/model", "after"),
    )
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    for place, when in deaths:
        command = [sys.executable, "-c", _SCRIPT, str(out), place, when, *places]
        died = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    assert not (out / "report.md").exists()
    with monkeypatch.context() as patch:  # and by a signal, which leaves a checkpoint
        stop_after(patch, 5)
        outcome = run_experiment(experiment, out, "a command", ignore)
        assert (outcome.stopped_by, outcome.summary) == (15, None)
    assert "**Under way: 1 of 2 runs." in (out / "report.md").read_text()
    assert run_experiment(experiment, out, "a command", ignore).stopped_by == 0
    assert numbers_of(out) == numbers_of(tmp_path / "whole")


LEARNS = (
    ("model.token_grid", 4),
    ("model.patch_grid", 4),
    ("model.vision.patch_size", 12),
    ("stages.text.steps", 300),
    ("stages.text.batch.batch_size", 32),
    ("training.muon_learning_rate", 0.02),
    ("training.learning_rate", 0.002),
    ("training.save_steps", 300),
    ("ablation.test_batches", 8),
)


@pytest.mark.slow
def test_a_planted_leak_is_caught_by_the_keyframes_only_control(tmp_path):
    outcome = run_experiment(tiny(("leak",), (KEYFRAMES,), changes=LEARNS), tmp_path, "a command", ignore)
    (leak,) = outcome.summary["worlds"]["leak"]["leaks"]
    assert leak.startswith("keyframes only: ")
    assert "its table is void" in (tmp_path / "report.md").read_text()


# --- the verb --------------------------------------------------------------------------------------------------------


def test_the_verb_names_what_there_is():
    assert tuple(TABLES) == verb.TABLES
    assert SCALES == verb.SCALES
    assert all(
        name in str(verb.ablate.params) + str([p.help for p in verb.ablate.params if hasattr(p, "help")])
        for name in WORLDS
    )


def test_the_verb_runs_an_experiment_and_tells_labels(tmp_path, monkeypatch):
    seen = []

    def pretend(experiment, out, command, progress):
        seen.append((experiment, out, command))
        label = {"label": "held"}
        worlds = {"single": {"leaks": ["keyframes only: 41"], "claims": {"a > b": {"clips": label, "compute": label}}}}
        return ablation_run.Outcome(1, 1, 0, {"worlds": worlds})

    monkeypatch.setattr(ablation_run, "run_experiment", pretend)
    arguments = ["table3", "--scale", "smoke", "--seeds", "1", "-o", str(tmp_path), "--worlds", "single, leak"]
    done = CliRunner().invoke(dynimg_vl, ["ablate", *arguments], standalone_mode=False)
    assert "single: leak: keyframes only: 41" in done.output
    assert "single: a > b: held, at equal compute held" in done.output
    assert seen[0][0].worlds == ("single", "leak")
    assert seen[0][2] == "dynimg-vl ablate table3 --scale smoke --seeds 1 --worlds single,leak -o OUT"
    as_json = CliRunner().invoke(dynimg_vl, ["ablate", *arguments, "--json", "--arms", "after"], standalone_mode=False)
    assert json.loads(as_json.output)["worlds"]["single"]["leaks"] == ["keyframes only: 41"]
    stopped = ablation_run.Outcome(0, 4, 15)
    monkeypatch.setattr(ablation_run, "run_experiment", lambda *_: stopped)
    assert CliRunner().invoke(dynimg_vl, ["ablate", *arguments], standalone_mode=False).return_value == 130


def test_the_smoke_scale_runs_from_the_command_line(tmp_path):
    # As it is, but for the number of arms: what CI sees of `make test`.
    options = ["--scale", "smoke", "--seeds", "1", "--worlds", "single", "--arms", "keyframes,before_4d"]
    arguments = ["table3", *options, "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(dynimg_vl, ["ablate", *arguments], standalone_mode=False)
    assert done.exception is None
    assert done.stdout == f"{tmp_path / 'out' / 'report.md'}\n"  # the log of the trainer is on stderr
    report = (tmp_path / "out/report.md").read_text()
    assert "Smoke scale" in report
    assert f"`dynimg-vl ablate {' '.join(['table3', *options])} -o OUT`" in report
    curves = json.loads((tmp_path / "out/summary.json").read_text())["worlds"]["single"]["curves"]
    assert [clips for clips, _ in curves["before_4d"]] == [20, 40]
    assert (tmp_path / "out/table3_single_curves.svg").is_file()


def test_the_verb_refuses_what_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for output, worlds in ((tmp_path / "file", "single"), (tmp_path, " , ")):
        arguments = ["table3", "--scale", "smoke", "-o", str(output), "--worlds", worlds]
        error = CliRunner().invoke(dynimg_vl, ["ablate", *arguments], standalone_mode=False).exception
        assert isinstance(error, InputError)
