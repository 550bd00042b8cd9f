"""What a recipe says about a run on the motion world: the world and the stages."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...motion.plan import WorldPlan
from ...motion.wordings import FAMILIES
from ...motion.world import CAMERA_SHARE
from ..arguments import check_keys


@dataclass(frozen=True)
class WorldSettings:
    """Say where the pictures of the world come from and how it is asked about.

    Args:
        num_pictures: procedural pictures at hand.
        refresh_every: batches after which a new picture takes the place of the oldest.
        pictures: a folder of videos whose frames are the pictures instead.
        pictures_per_video: how many frames of each.
        chat_share: how many of the clips have their questions as turns of one chat.
        validation_pictures: procedural pictures that training never sees.
        validation_batches: how many batches over those a validation takes.
        seed: of everything drawn.
    """

    num_pictures: int = 800
    refresh_every: int = 4
    pictures: Path | None = None
    pictures_per_video: int = 12
    chat_share: float = 0.15
    validation_pictures: int = 120
    validation_batches: int = 10
    seed: int = 0

    @classmethod
    def from_values(cls, values: Any, seed: int) -> "WorldSettings":
        """Read the settings from `data.world` of a recipe.

        Raises:
            InputError: where a key is unknown or a value is not possible.
        """
        given = read_fields(cls, values if values is not None else {}, "data.world")
        if given.get("pictures") is not None:
            given["pictures"] = Path(str(given["pictures"]))
        settings = cls(**{"seed": seed, **given})
        for name in ("num_pictures", "refresh_every", "pictures_per_video", "validation_pictures"):
            _check_least(name, getattr(settings, name), 1, "data.world")
        _check_least("seed", settings.seed, 0, "data.world")
        _check_least("validation_batches", settings.validation_batches, 0, "data.world")
        _check_share("chat_share", settings.chat_share, "data.world")
        return settings


@dataclass(frozen=True)
class BatchPlan:
    """Say what the batches of a lesson hold; see `recipes/motion_cpu.yaml`.

    With `families`, nothing else is asked about, and clips about which none of that is asked are left out: of what is
    learnt late there is more, its answers being as frequent as always. With `world`, clips and questions are those of a
    planned world, and neither the families nor the two shares have a meaning. With `one_object`, clips hold one object,
    all of a batch near one place at the keyframe, and the keyframe tokens about it are taken instead of any: a small
    part of the picture has all that is asked about. Several `num_keyframe_tokens` take turns from step to step. Without
    `has_strip`, no prompt frame is shown.
    """

    batch_size: int
    num_keyframe_tokens: int | tuple[int, ...]
    num_questions: int
    camera_share: float = CAMERA_SHARE
    choice_share: float = 0.0
    one_object: bool = False
    has_strip: bool = True
    families: tuple[str, ...] | None = None
    world: WorldPlan | None = None

    @classmethod
    def from_values(cls, values: Any, where: str) -> "BatchPlan":
        """Read a plan.

        Raises:
            InputError: where a key is unknown or missing, or a value is not possible.
        """
        given = read_fields(cls, values, where)
        for name in ("one_object", "has_strip"):
            if not isinstance(given.get(name, False), bool):
                raise InputError(f"{where}: {name} must be true or false, got {given[name]!r}")
        if "families" in given:
            given["families"] = _families(given, where)
        if "world" in given:
            given["world"] = WorldPlan.from_values(given["world"], f"{where}.world")
        given["num_keyframe_tokens"] = _turns(given["num_keyframe_tokens"], f"{where}: num_keyframe_tokens")
        plan = cls(**given)
        _check_least("batch_size", plan.batch_size, 1, where)
        _check_least("num_keyframe_tokens", min(plan.turns), 0, where)
        _check_least("num_questions", plan.num_questions, 0, where)
        for name in ("camera_share", "choice_share"):
            _check_share(name, getattr(plan, name), where)
        if not plan.has_strip and min(plan.turns) == 0:
            raise InputError(f"{where}: without strip, num_keyframe_tokens must be at least 1")
        if plan.one_object and plan.families is not None:
            raise InputError(f"{where}: one_object and families do not go together")
        if plan.one_object and plan.world is not None and plan.world.min_objects > 1:
            raise InputError(f"{where}: one_object needs a world of one object, this one has {plan.world.min_objects}")
        return plan

    @property
    def turns(self) -> tuple[int, ...]:
        """Give the numbers of keyframe tokens that take turns, or the only one."""
        number = self.num_keyframe_tokens
        return number if isinstance(number, tuple) else (number,)


@dataclass(frozen=True)
class LossWeights:
    """Weigh the losses against each other: text and attention, and those of the linear heads.

    `shape` is about all patches, most of which have none; `cover_shape` about those that an object covers.
    """

    text: float = 1.0
    attention: float = 1.0
    flow: float = 1.0
    covered: float = 0.3
    camera: float = 0.5
    direction: float = 0.5
    kind: float = 0.0
    shape: float = 0.0
    centre: float = 0.0
    where: float = 0.0
    path: float = 0.0
    ways: float = 0.0
    track: float = 0.0
    cover_shape: float = 0.0

    @property
    def is_text_only(self) -> bool:
        """Tell whether no loss but that on text counts, so that nobody needs targets."""
        return not any(value for name, value in vars(self).items() if name != "text")

    def scaled(self, attention: float, heads: float) -> "LossWeights":
        """Multiply the weight of the attention loss and those of the heads; text is left."""
        factors = {"text": 1.0, "attention": attention}
        return LossWeights(**{name: value * factors.get(name, heads) for name, value in vars(self).items()})


OF_MOTION = ("attention", "flow", "camera", "direction", "path", "ways", "track")
"""Losses of which the answer lies in more than one frame."""
DENSE = (*OF_MOTION, "covered", "kind", "shape", "centre", "where", "cover_shape")
"""All losses but that on text; a model without prompt frames has none."""


@dataclass(frozen=True)
class Lesson:
    """Hold what is learnt from in a step: a kind of batch, and how its losses count."""

    batch: BatchPlan
    losses: LossWeights = field(default_factory=LossWeights)

    @classmethod
    def parts_from_values(cls, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Read `batch` and `losses` of what is given.

        Raises:
            InputError: where a key is unknown or missing, a value is not possible, or text has no questions.
        """
        batch = BatchPlan.from_values(given["batch"], f"{where}.batch")
        losses = LossWeights(**read_fields(LossWeights, given.get("losses", {}), f"{where}.losses"))
        if batch.num_questions == 0 and losses.text:
            raise InputError(f"{where}: without questions there is no loss on text; set losses: {{text: 0.0}}")
        return {"batch": batch, "losses": losses}


@dataclass(frozen=True)
class Stage:
    """Hold one stage: how many steps of what batches, the losses, and how far the learning rate falls.

    `beside` is a second lesson: each step learns from one batch of each.
    """

    name: str
    steps: int
    batch: BatchPlan
    losses: LossWeights = field(default_factory=LossWeights)
    beside: Lesson | None = None
    warmup_steps: int = 60
    rate: float = 1.0
    constant_share: float = 1.0
    final_rate: float = 0.02

    @property
    def lessons(self) -> dict[str, Lesson]:
        """Give all that a step learns from, by its place in a recipe."""
        lessons = {f"stages.{self.name}": Lesson(self.batch, self.losses)}
        return lessons if self.beside is None else {**lessons, f"stages.{self.name}.beside": self.beside}

    def scaled(self, attention: float, heads: float) -> "Stage":
        """Multiply the weights of the training-only losses."""
        beside = self.beside
        if beside is not None:
            beside = replace(beside, losses=beside.losses.scaled(attention, heads))
        return replace(self, losses=self.losses.scaled(attention, heads), beside=beside)

    def rate_at(self, step: int) -> float:
        """Give the factor on all learning rates: warm-up, constant, then linear to `final_rate`."""
        done = step / self.steps
        falling = 1.0
        if done > self.constant_share:
            falling = 1 - (1 - self.final_rate) * (done - self.constant_share) / (1 - self.constant_share)
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.rate * warm * falling

    @classmethod
    def from_values(cls, values: Any, where: str) -> "Stage":
        """Read one stage.

        Raises:
            InputError: where a key is unknown or missing, or a value is not possible.
        """
        given = read_fields(cls, values, where)
        given |= Lesson.parts_from_values(given, where)
        if "beside" in given:
            beside = read_fields(Lesson, given["beside"], f"{where}.beside")
            given["beside"] = Lesson(**Lesson.parts_from_values(beside, f"{where}.beside"))
        stage = cls(**given)
        _check_least("steps", stage.steps, 1, where)
        _check_least("warmup_steps", stage.warmup_steps, 0, where)
        _check_share("constant_share", stage.constant_share, where)
        return stage


@dataclass(frozen=True)
class Schedule:
    """Hold the stages of a run, one after the other."""

    stages: tuple[Stage, ...]

    @classmethod
    def from_values(cls, values: Any) -> "Schedule":
        """Read `stages` of a recipe, a list.

        Raises:
            InputError: where it is no list, is empty, or something in a stage is not as it has to be.
        """
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise InputError(f"stages must be a list of at least one stage, got {values!r}")
        names = [_name(value, index) for index, value in enumerate(values)]
        if len(set(names)) < len(names):
            raise InputError(f"stages: two have the same name; they are {', '.join(names)}")
        pairs = zip(names, values, strict=True)
        return cls(tuple(Stage.from_values({"name": name, **value}, f"stages.{name}") for name, value in pairs))

    def scaled(self, attention: float, heads: float) -> "Schedule":
        """Multiply the weights of the training-only losses in all stages."""
        return Schedule(tuple(each.scaled(attention, heads) for each in self.stages))

    def check_stage(self, prompt_stage: str) -> None:
        """Make sure that every stage has something to learn, given where prompt frames meet the keyframe.

        Raises:
            InputError: where a loss asks for what patches cannot see, or a stage has no loss or shows nothing.
        """
        blind = {"before": (), "none": DENSE}.get(prompt_stage, OF_MOTION)
        for where, lesson in (pair for stage in self.stages for pair in stage.lessons.items()):
            if not any(vars(lesson.losses).values()):
                raise InputError(f"{where}: all losses are 0, so that nothing would learn; leave it out")
            has_strip = lesson.batch.has_strip
            if not has_strip and prompt_stage == "after":
                raise InputError(f"{where}: has_strip: false needs composed pictures, prompt_stage: after has none")
            asked = [name for name in (blind if has_strip else blind or OF_MOTION) if getattr(lesson.losses, name)]
            if asked:
                why = f"with prompt_stage: {prompt_stage}" if has_strip else "without strip"
                raise InputError(
                    f"{where}: no patch sees another frame {why}, so {', '.join(asked)} cannot be learnt; give "
                    "losses of 0, or --motion_attention_loss 0 --motion_heads_loss 0"
                )
            if prompt_stage == "none" and min(lesson.batch.turns) == 0:
                raise InputError(f"{where}: without prompt frames, num_keyframe_tokens must be at least 1")

    @property
    def ends(self) -> list[int]:
        """List after how many steps of the run each stage is over."""
        return list(accumulate(stage.steps for stage in self.stages))

    @property
    def num_steps(self) -> int:
        """Count the steps of the whole run."""
        return self.ends[-1]

    def locate(self, step: int) -> tuple[int, int]:
        """Find a step of the run, from 0: the index of its stage and its number within that; past the end, the last."""
        step = min(step, self.num_steps - 1)
        index = sum(step >= end for end in self.ends)
        return index, step - ([0, *self.ends][index])

    def rate_at(self, step: int) -> float:
        """Give the factor on all learning rates at a step of the run."""
        index, within = self.locate(step)
        return self.stages[index].rate_at(within)


def read_fields(kind: Any, values: Any, where: str) -> dict[str, Any]:
    """Check values for a dataclass of numbers: known names, all that are needed, and numbers where it has numbers.

    Raises:
        InputError: where they are not so.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must have keys, got {values!r}")
    fields = {each.name: each for each in dataclasses.fields(kind)}
    check_keys(values, fields, where)
    needed = [
        name
        for name, each in fields.items()
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    ]
    for name in needed:
        if values.get(name) is None:
            raise InputError(f"{where}: {name} is missing")
    return {
        name: _number(value, fields[name].type, f"{where}: {name}")
        for name, value in values.items()
        if value is not None
    }


def _number(value: Any, kind: Any, where: str) -> Any:
    if kind not in (int, float):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    # A rate may be written as YAML takes for text: 1e-3.
    if isinstance(value, bool) or not math.isfinite(number) or (kind is int and number != int(number)):
        raise InputError(f"{where} must be a {'whole ' if kind is int else ''}number, got {value!r}")
    return kind(number)


def _name(values: Any, index: int) -> str:
    if not isinstance(values, Mapping):
        raise InputError(f"stages.{index} must have keys, got {values!r}")
    return str(values.get("name") or index)


def _turns(value: Any, where: str) -> int | tuple[int, ...]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise InputError(f"{where} names none")
        return tuple(_number(each, int, where) for each in value)
    number: int = _number(value, int, where)
    return number


def _families(batch: Mapping[str, Any], where: str) -> tuple[str, ...]:
    values = batch["families"]
    names = tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else ()
    unknown = [name for name in names if name not in FAMILIES]
    if unknown or not names:
        what = repr(unknown[0]) if unknown else repr(values)
        raise InputError(f"{where}: families must be a list of {', '.join(FAMILIES)}; got {what}")
    if "world" in batch:
        raise InputError(f"{where}: families of a planned world are given with it, not beside it")
    return names


def _check_least(name: str, value: int, least: int, where: str) -> None:
    if value < least:
        raise InputError(f"{where}: {name} must be at least {least}, got {value}")


def _check_share(name: str, value: float, where: str) -> None:
    if not 0 <= value <= 1:
        raise InputError(f"{where}: {name} must be a share from 0 to 1, got {value:g}")
