"""The protocol: which runs an experiment consists of, each of them a recipe for `dynimg-vl train`.

For every seed: stills (A), collages in the layouts of all arms (B), and then each arm from these common weights with
the loss on text alone (C). Positions are 1-D in A and B, as those of a pretrained language model are. With
`own_collages`, each arm reads collages once more between B and C, in its own layout and with its own positions.
"""

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..arguments import check_keys
from ..yaml_file import read_yaml
from .tables import KEYFRAMES, TABLES, Arm, Table
from .worlds import COLLAGES, STILLS, WORLDS

SCALES = ("smoke", "cpu", "gpu")
FOLDER = Path(__file__).parent
_SECTIONS = ("model", "data", "stages", "training", "ablation", "tables")
_PICTURE_LOSSES = {
    "attention": 0.0,
    "flow": 0.0,
    "camera": 0.0,
    "direction": 0.0,
    "covered": 1.0,
    "kind": 1.0,
    "shape": 1.0,
    "centre": 1.0,
    "where": 10.0,
}
"""Stages A and B: what patches show, and nothing of how it moves."""
_TEXT_ONLY = {**dict.fromkeys(_PICTURE_LOSSES, 0.0), "text": 1.0}
_LAYOUT = ("prompt_stage", "num_prompt_frames", "num_dynimgs")
_SAME_COMPUTE = 0.1
"""Arms whose cost differs by less than this share of the reference's have no run of their own for equal compute."""


@dataclass(frozen=True)
class TestSettings:
    """Say on how much an arm is measured; `attention_clips` 0 leaves out where its keyframe patches look."""

    collage_rounds: int
    test_batches: int
    test_batch_size: int
    test_pictures: int
    attention_clips: int = 0


@dataclass(frozen=True)
class Run:
    """Hold one run: the place of its folder below that of the experiment, and its recipe without the output folder.

    `start` is the place of the run whose weights it starts from, `is_arm` whether it is stage C, and `keeps_theta`
    whether it takes over what that run learnt about positions.
    """

    place: str
    recipe: Mapping[str, Any]
    start: str | None = None
    is_arm: bool = False
    keeps_theta: bool = False


@dataclass(frozen=True)
class ArmRun:
    """Hold the run of one arm in one world with one seed; `budget` is "clips" or "compute"."""

    arm: str
    world: str
    seed: int
    budget: str
    steps: int
    run: Run


@dataclass(frozen=True)
class Experiment:
    """Hold what an experiment is: a table, a scale, seeds, worlds, arms, and whether these have `own_collages`.

    Without names of arms it has all of them, and `changes` go into the recipe of the scale. With the name of another
    table as `base`, stages A and B are those of that table, so that its arms and these share their weights.

    Raises:
        InputError: where one of them does not exist, or `base` has other sizes or lacks the layout of an arm.
    """

    table_name: str
    scale: str
    num_seeds: int
    worlds: tuple[str, ...]
    arm_names: tuple[str, ...] | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    own_collages: bool = False
    base: str | None = None

    def __post_init__(self) -> None:
        for what, given, known in (
            ("table", [self.table_name, self._base_table], TABLES),
            ("scale", [self.scale], SCALES),
            ("world", self.worlds, WORLDS),
        ):
            for name in given:
                if name not in known:
                    raise InputError(f"there is no {what} {name!r}; choose from {', '.join(known)}")
        if self.num_seeds < 1:
            raise InputError(f"seeds must be at least 1, got {self.num_seeds}")
        _ = self.arms, self.values
        if self.base is not None:
            self._check_base()

    @property
    def table(self) -> Table:
        """Give the table."""
        return TABLES[self.table_name]

    @property
    def arms(self) -> dict[str, Arm]:
        """Give the arms by name."""
        return self.table.chosen(self.arm_names)

    @cached_property
    def values(self) -> dict[str, Any]:
        """Read the recipe of the scale, with its changes for the table and ours: the values that all runs share."""
        return self._values_of(self.table_name)

    @property
    def test(self) -> TestSettings:
        """Give how arms are measured.

        Raises:
            InputError: where the recipe of the scale has another key.
        """
        check_keys(self.values["ablation"], TestSettings.__dataclass_fields__, "ablation")
        return TestSettings(**self.values["ablation"])

    def describe(self, worlds: Sequence[str] | None = None, arms: Sequence[str] | None = None) -> dict[str, Any]:
        """Give all that decides the numbers of some arms in some worlds (None: its own), as JSON has it."""
        plans = {name: asdict(WORLDS[name].plan) for name in (self.worlds if worlds is None else worlds)}
        models = {name: dict(self.table.arms[name].model) for name in (self.arms if arms is None else arms)}
        own = {"table": self.table_name, "scale": self.scale, "worlds": plans, "arms": models, "values": self.values}
        between: dict[str, Any] = {"own_collages": self.own_collage_steps} if self.own_collages else {}
        between |= {} if self.base is None else {"base": self.base}
        # Of the other arms, those with a layout of their own have a part in the common weights.
        return {**own, **between, "stills": asdict(STILLS), "collages": asdict(COLLAGES), "layouts": self._layouts()}

    def base_runs(self, seed: int) -> list[Run]:
        """List stages A and B of a seed, each from the weights of the one before; arms start from the last."""
        runs = [
            Run(f"base/seed{seed}/00_stills", self._recipe("stills", seed, {"prompt_stage": "tiles"}, asdict(STILLS)))
        ]
        layouts = self._layouts()
        # Whichever layout comes last has an advantage: another one for each seed.
        order = random.Random(f"{self._base_table} {seed}").sample(layouts, len(layouts)) * self.test.collage_rounds
        share = self._collage_share()
        for number, layout in enumerate(order, start=1):
            recipe = self._recipe("collages", seed + 100 * number, layout, asdict(COLLAGES), share)
            name = "_".join(str(layout[key]) for key in _LAYOUT)
            runs.append(Run(f"base/seed{seed}/{number:02d}_{name}", recipe, runs[-1].place))
        return runs

    def own_run(self, arm: str, seed: int) -> Run | None:
        """Give the collages of one arm alone, as many as each layout had in common; None where it has none.

        Clips are those of the last common collages, and more.
        """
        if not self.own_collages or arm == KEYFRAMES:
            return None
        last = self.base_runs(seed)[-1]
        model = {**self._default_layout, **self.arms[arm].model}
        seed_of_clips = last.recipe["training"]["seed"]
        recipe = self._recipe("collages", seed_of_clips, model, asdict(COLLAGES), self.own_collage_steps)
        return Run(f"base/seed{seed}/own/{arm}", recipe, last.place)

    def arm_run(self, world: str, arm: str, seed: int, budget: str = "clips", steps: int | None = None) -> ArmRun:
        """Give stage C of one arm; all arms of a seed have the same start, the same clips and the same questions."""
        steps = self._stage("text")["steps"] if steps is None else steps
        model = {**WORLDS[world].model, **self.arms[arm].model}
        recipe = self._recipe("text", 10_000 + seed, model, asdict(WORLDS[world].plan), steps)
        place = f"runs/{world}/{arm}{'' if budget == 'clips' else '.compute'}/seed{seed}"
        own = self.own_run(arm, seed)
        start = (own or self.base_runs(seed)[-1]).place
        run = Run(place, recipe, start, is_arm=True, keeps_theta=own is not None)
        return ArmRun(arm, world, seed, budget, steps, run)

    def arm_runs(self, flops: Mapping[tuple[str, str], float]) -> list[ArmRun]:
        """List all runs of arms, seed by seed.

        Args:
            flops: operations for a clip by world and arm; arms that cost more or less than the reference have a second
                run, in which they have as many operations as the reference at equal clips.
        """
        runs = []
        for seed in range(self.num_seeds):
            for world in self.worlds:
                for arm in self.arms:
                    runs.append(self.arm_run(world, arm, seed))
                    own = flops[world, arm]
                    reference = flops.get((world, self.table.reference), own)
                    if has_own_budget(own, reference):
                        steps = max(1, round(runs[-1].steps * reference / own))
                        runs.append(self.arm_run(world, arm, seed, "compute", steps))
        return runs

    @property
    def _base_table(self) -> str:
        return self.table_name if self.base is None else self.base

    def _values_of(self, table: str) -> dict[str, Any]:
        values = read_yaml(FOLDER / f"{self.scale}.yaml", "scale", _SECTIONS)
        own = values.pop("tables", {}).get(table, {})
        for key, value in (*own.items(), *self.changes):
            _put(values, key.split("."), value)
        return values

    def _check_base(self) -> None:
        if self._values_of(self._base_table) != self.values:
            raise InputError(f"{self.table_name} cannot start from {self.base}: its models have other sizes")
        for name, arm in self.arms.items():
            if name != KEYFRAMES and self._layout_of(arm) not in self._layouts():
                raise InputError(f"{self.table_name} cannot start from {self.base}, which lacks the layout of {name}")

    def _layout_of(self, arm: Arm) -> dict[str, Any]:
        model = {**self._default_layout, **arm.model}
        return {key: model[key] for key in _LAYOUT}

    def _layouts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        arms = self.arms if self.base is None else TABLES[self.base].arms
        for name, arm in arms.items():
            layout = self._layout_of(arm)
            if name != KEYFRAMES and layout not in found:
                found.append(layout)
        return found or [self._default_layout]

    @property
    def _default_layout(self) -> dict[str, Any]:
        number = self.values["model"]["num_prompt_frames"]
        return {"prompt_stage": "before", "num_prompt_frames": number, "num_dynimgs": 1}

    @property
    def own_collage_steps(self) -> int:
        """Count the steps of the collages that an arm has of its own."""
        return self._collage_share() * self.test.collage_rounds

    def _collage_share(self) -> int:
        # Steps of one layout in one round.
        return max(1, self._stage("collages")["steps"] // (len(self._layouts()) * self.test.collage_rounds))

    def _stage(self, name: str) -> dict[str, Any]:
        return next(stage for stage in self.values["stages"] if stage["name"] == name)

    def _recipe(
        self, stage: str, seed: int, model: Mapping[str, Any], plan: Mapping[str, Any], steps: int | None = None
    ) -> dict[str, Any]:
        values = copy.deepcopy({name: self.values[name] for name in ("model", "data", "training")})
        own = copy.deepcopy(self._stage(stage))
        own["steps"] = own["steps"] if steps is None else steps
        own["batch"]["world"] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in plan.items()
        }
        own["losses"] = dict(_TEXT_ONLY if stage == "text" else _PICTURE_LOSSES)
        values["model"] = {"num_dynimgs": 1, **values["model"], **model}
        values["training"] |= {"seed": seed, "report_to": "none", "disable_tqdm": True, "motion_attention_loss": 0.0}
        values["training"]["motion_heads_loss"] = 0.0 if stage == "text" else 1.0
        return {**values, "stages": [own]}


def has_own_budget(flops: float, reference: float) -> bool:
    """Tell whether an arm costs so much more or less than the reference that it has a second run for equal compute."""
    return abs(flops / reference - 1) > _SAME_COMPUTE


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner: Any = values  # stages are a list, found by their names
        values = next(each for each in inner if each["name"] == key) if isinstance(inner, list) else inner[key]
    values[keys[-1]] = value
