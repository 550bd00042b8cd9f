"""Run an experiment: whatever is missing, in any order of interruptions, by as many processes as are started on it."""

import hashlib
import json
import logging
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from filelock import FileLock, Timeout
from transformers import PreTrainedTokenizerFast

from ...errors import InputError
from ...model.foreign import reading
from ...motion.wordings import PLACE_ANSWERS, PLACE_QUESTIONS
from ..arguments import build_arguments
from ..building import build_model
from ..checkpoints import explained, is_complete, last_checkpoint
from ..initial_weights import digest_of
from ..motion.tokenizer import build_tokenizer
from ..recipe import TrainRecipe
from ..run import train
from .compute import flops_per_clip
from .measure import measure, measure_looks
from .protocol import ArmRun, Experiment, Run
from .report import write_report
from .worlds import WORLDS

logger = logging.getLogger(__name__)

SETTINGS_FILE = "ablation.json"
"""What decides the numbers of a folder."""
RESULT_FILE = "result.json"
"""The result of a run of an arm, beside its checkpoints."""
_FLOPS_FILE = "flops.json"
_RECIPE_FILE = "recipe.yaml"
_START_FILE = "start.json"
"""Which common weights an arm has and where it looks when it starts, noted then: they may be elsewhere when it ends."""
_NEEDED = (
    "arm",
    "world",
    "seed",
    "budget",
    "score",
    "sampling_error",
    "keyframe_score",
    "controls",
    "clips",
    "flops_per_clip",
    "date",
    "machine",
)
"""What a report needs of a result."""

_VOCABULARY = 832
_TIMES_EACH = 50
"""How often each sentence about places counts, so that its words become tokens."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """Tell how far an experiment is: runs of arms done, of how many, and the signal that stopped it (0: none)."""

    done: int
    total: int
    stopped_by: int = 0
    summary: dict[str, Any] | None = None


class _Stopped(Exception):
    """Carry the signal that stopped a run."""


def run_experiment(experiment: Experiment, out: Path, command: str, progress: Progress) -> Outcome:
    """Run whatever is missing of an experiment; its report is written anew with each result.

    Several processes may run the same experiment in the same folder; each takes runs that nobody works on. The folder
    may move to another machine. Runs with a result need nothing else; others need their own checkpoint or the weights
    that they start from, and where neither is there, these are trained anew.

    Args:
        experiment: what to run.
        out: its folder; one that was begun is gone on with.
        command: for the report.
        progress: called with the runs of arms that are done, and of how many.

    Raises:
        InputError: where the folder holds another experiment, or a run cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    runner = _Runner(experiment, out)
    with FileLock(out / ".settings.lock"):
        runner.note_settings()
        runs = experiment.arm_runs(runner.flops())
    progress(_report(runner, runs, command)[1], len(runs))
    try:
        # The second round waits for what another process had in hand in the first.
        for patience in (0.0, -1.0):
            for each in runs:
                if not runner.is_done(each):
                    runner.finish(each, patience)
                    progress(_report(runner, runs, command)[1], len(runs))
    except _Stopped as stopped:
        return Outcome(sum(runner.is_done(each) for each in runs), len(runs), int(stopped.args[0]))
    summary, num_done = _report(runner, runs, command)
    progress(num_done, len(runs))
    return Outcome(num_done, len(runs), summary=summary)


def _report(runner: "_Runner", runs: list[ArmRun], command: str) -> tuple[dict[str, Any] | None, int]:
    # Of what is there, whoever made it; nothing is written where nothing is.
    results = [_read_result(runner.out / each.run.place / RESULT_FILE) for each in runs if runner.is_done(each)]
    summary = write_report(runner.experiment, results, runner.out, command, len(runs)) if results else None
    return summary, len(results)


class _Runner:
    """Know the folder of an experiment."""

    def __init__(self, experiment: Experiment, out: Path) -> None:
        self.experiment, self.out = experiment, out

    def settings(self, world: str, arm: str) -> str:
        """Give a digest of all that decides the results of one arm in one world, whatever others there are."""
        described = json.dumps(self.experiment.describe([world], [arm]), sort_keys=True)
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    def note_settings(self) -> None:
        """Write down what decides the numbers, or compare it with what the folder was begun with."""
        path = self.out / SETTINGS_FILE
        described = json.loads(json.dumps(self.experiment.describe()))
        if path.exists():
            known = _read(path)
            for what in ("worlds", "arms"):
                parts: Any = known.get(what)
                if isinstance(parts, dict):  # others may join, as seeds may
                    described[what] = {**parts, **described[what]}
                    known[what] = {**described[what], **parts}
            if changed := [name for name in {**described, **known} if known.get(name) != described.get(name)]:
                raise InputError(f"{self.out} holds an experiment with other {', '.join(changed)}; take another folder")
        # Results may have come from elsewhere, without this file.
        for world in self.experiment.worlds:
            for result in sorted(self.out.glob(f"runs/{world}/*/*/{RESULT_FILE}")):
                found = _read(result)
                arm = found.get("arm")
                is_known = isinstance(arm, str) and arm in self.experiment.table.arms
                settings = self.settings(world, arm) if is_known else None
                if found.get("settings", settings) != settings:
                    raise InputError(f"{result} is of an experiment with other settings; take another folder")
        _write(path, described)
        if not (self.out / "tokenizer").is_dir():
            partial = self.out / ".tokenizer"
            build_ablation_tokenizer().save_pretrained(partial)
            partial.rename(self.out / "tokenizer")

    def flops(self) -> dict[tuple[str, str], float]:
        """Count what each arm costs in each world, once."""
        path = self.out / _FLOPS_FILE
        # Those of results that are there go first: the same plan again, whatever this machine would count.
        results = [_read_result(each) for each in sorted(self.out.glob(f"runs/*/*/*/{RESULT_FILE}"))]
        known: dict[str, float] = {f"{each['world']} {each['arm']}": each["flops_per_clip"] for each in results}
        known |= _read(path) if path.exists() else {}
        found = {}
        for world in self.experiment.worlds:
            for arm in self.experiment.arms:
                if f"{world} {arm}" not in known:
                    recipe = self.recipe(self.experiment.arm_run(world, arm, 0).run, self.out / ".flops", False)
                    known[f"{world} {arm}"] = flops_per_clip(recipe, build_arguments(recipe.training))
                    _write(path, known)
                found[world, arm] = known[f"{world} {arm}"]
        return found

    def recipe(self, run: Run, folder: Path, with_start: bool = True) -> TrainRecipe:
        """Write the recipe of a run into its folder and read it, as `dynimg-vl train` does."""
        values = json.loads(json.dumps(run.recipe))
        values["model"]["tokenizer"] = os.path.relpath(self.out / "tokenizer", folder)
        values["training"]["output_dir"] = str(folder)
        if with_start and (start := self.start(run)) is not None:
            values["model"]["weights"] = os.path.relpath(start, folder)
            if not run.keeps_theta:  # positions beyond one axis begin as the paper says
                values["model"]["weights_except"] = ["*.axis_theta"]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _RECIPE_FILE
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return TrainRecipe.from_file(path)

    def start(self, run: Run) -> Path | None:
        """Find the weights that a run starts from; None where it has none, or they are not here.

        Arms start from what was exported, in half precision: one file of 2 MB is all that has to be carried elsewhere.
        """
        return None if run.start is None else self._weights(run.start, run.is_arm)

    def _weights(self, place: str, as_exported: bool) -> Path | None:
        checkpoint, model = last_checkpoint(self.out / place), self.out / place / "model"
        exported = model if is_complete(model) else None
        return exported or checkpoint if as_exported else checkpoint or exported

    def is_done(self, each: ArmRun) -> bool:
        """Tell whether the result of an arm is there."""
        return (self.out / each.run.place / RESULT_FILE).is_file()

    def finish(self, each: ArmRun, patience: float) -> None:
        """Train and measure an arm, after the stages before it; leave it where another process works on it."""
        folder = self.out / each.run.place
        try:
            if not self._is_begun(each.run):
                self._train_bases(each, patience)
            with _lock(folder, patience):
                if not self.is_done(each):
                    self._note_start(each, folder)
                    self._train(each.run)
                    self._measure(each, folder)
        except Timeout:
            logger.info("%s is in other hands", folder)

    def _is_trained(self, run: Run) -> bool:
        return is_complete(self.out / run.place / "model")

    def _is_begun(self, run: Run) -> bool:
        return self._is_trained(run) or last_checkpoint(self.out / run.place) is not None

    def _train_bases(self, each: ArmRun, patience: float) -> None:
        own = self.experiment.own_run(each.arm, each.seed)
        runs = [*self.experiment.base_runs(each.seed), *([] if own is None else [own])]
        # Whatever comes before the last that is trained, or under way, is needed no more.
        begun = [number for number, run in enumerate(runs) if self._is_begun(run)]
        for base in runs[max(begun, default=0) :]:
            with _lock(self.out / base.place, patience):
                self._train(base)

    def _train(self, run: Run) -> None:
        folder = self.out / run.place
        if self._is_trained(run):
            return
        result = train(self.recipe(run, folder))
        if result.received:  # perhaps too late for this run, which is whole then; the next one is not begun
            raise _Stopped(result.received)

    def _note_start(self, each: ArmRun, folder: Path) -> None:
        # Before the first step: the weights may be elsewhere when the run ends.
        if self._is_begun(each.run) or self.start(each.run) is None:
            return
        common = self._weights(self.experiment.base_runs(each.seed)[-1].place, True)
        recipe = self.recipe(each.run, folder)
        model, processor = build_model(recipe.model, None, build_arguments(recipe.training))
        looks = measure_looks(model.float(), processor, WORLDS[each.world].plan, self.experiment.test)
        _write(folder / _START_FILE, {"weights": None if common is None else digest_of(common), "looks": looks})

    def _measure(self, each: ArmRun, folder: Path) -> None:
        checkpoint = _end_of(folder, each.steps)
        use_cpu = bool(self.experiment.values["training"].get("use_cpu"))
        plan = WORLDS[each.world].plan
        found = measure(checkpoint, plan, self.experiment.test, use_cpu)
        log = _read_log(folder)
        seconds = [row["step_seconds"] for row in log if "step_seconds" in row]
        batch = each.run.recipe["stages"][0]["batch"]["batch_size"]
        start = _read(folder / _START_FILE) if (folder / _START_FILE).exists() else {}
        own = {name: getattr(each, name) for name in ("arm", "world", "seed", "budget", "steps")}
        _write(
            folder / RESULT_FILE,
            {
                **own,
                "clips": each.steps * batch,
                "flops_per_clip": self.flops()[each.world, each.arm],
                **found,
                "curve": [row for row in log if any(name.startswith("eval_") for name in row)],
                "step_seconds": statistics.median(seconds) if seconds else None,
                "recipe": f"{each.run.place}/{_RECIPE_FILE}",
                "start": start.get("weights"),
                "looks_before": start.get("looks"),
                "settings": self.settings(each.world, each.arm),
                "date": datetime.now(timezone.utc).date().isoformat(),
                "machine": machine(use_cpu),
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            },
        )


def build_ablation_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer of all arms, which has words for places too, unlike that of the embedded model."""
    texts = [*PLACE_ANSWERS, *(text for wordings in PLACE_QUESTIONS.values() for text in wordings)]
    return build_tokenizer(_VOCABULARY, [text for text in texts for _ in range(_TIMES_EACH)])


def machine(use_cpu: bool) -> str:
    """Name what a run computes on."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def _end_of(folder: Path, steps: int) -> Path:
    # What was saved before the end is another model than the one that the result would be about.
    checkpoint, wanted = last_checkpoint(folder), f"checkpoint-{steps}"
    if checkpoint is None:
        raise InputError(
            f"{folder} has a model, no result, and no checkpoint that is whole; bring that, or delete the folder "
            "and it is trained again"
        )
    if checkpoint.name != wanted:
        raise InputError(
            f"{folder} has a model and no result, and of its checkpoints {checkpoint.name} is the last that is whole; "
            f"bring {wanted}, or delete {folder / 'model'} and the run goes on from {checkpoint.name}"
        )
    return checkpoint


def _lock(folder: Path, patience: float) -> FileLock:
    # It goes with the process, however that ends.
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".lock", timeout=patience)


def _read_log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "log.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # cut off when the run was killed
    return rows


def _read(path: Path) -> Any:
    with reading(f"{path} cannot be read; delete it, and it is made again"):
        found = json.loads(path.read_text())
    if not isinstance(found, dict):
        raise InputError(f"{path} holds something else; delete it, and it is made again")
    return found


def _read_result(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = _read(path)
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise InputError(f"{path} has no {missing[0]}; delete it, and it is made again")
    return found


def _write(path: Path, value: Any) -> None:
    with explained(path.name, path.parent):
        temporary = path.with_suffix(f".{os.getpid()}.part")
        temporary.write_text(json.dumps(value, indent=1) + "\n")
        temporary.replace(path)
