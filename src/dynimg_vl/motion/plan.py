"""Planned worlds: clips whose number of objects, motions and looks are fixed beforehand, for experiments.

`world.sample_scenes` draws what a model for use has to know; an experiment needs one thing at a time, answers that are
equally frequent by construction, and a score that is known for whoever does not see the motion. Nothing here changes
what `sample_scenes` draws.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .facts import clip_facts, possible_answers
from .paths import KINDS, Draw, Paths, draw_paths
from .questions import Exchange
from .wordings import PLACE_ANSWERS, PLACE_QUESTIONS, QUESTIONS
from .world import MAX_OBJECTS, Scenes, appearance, camera_motion, object_centres, spread_positions

PLAN_KINDS = ("still", "move", "swing", "circle")
"""What an object of a planned world may do."""
MOTION_FAMILIES = ("direction", "direction_of", "colour")
"""Questions whose answers the keyframe does not show; they make the score."""
KEYFRAME_FAMILIES = ("place", "shape_of", "count")
"""Questions that the keyframe answers."""
_FAMILIES = (*MOTION_FAMILIES, *KEYFRAME_FAMILIES, "place_in")
_LEAKS = {1: (0.2, 0.5), 2: (0.8, 0.5), 3: (0.5, 0.2), 4: (0.5, 0.8)}  # where the leak puts what goes so


@dataclass(frozen=True)
class WorldPlan:
    """Fix what the clips of a world hold.

    Args:
        min_objects: at least so many objects, and
        max_objects: at most, all numbers equally often.
        kinds: of `PLAN_KINDS`; the four directions count as four.
        families: what is asked about.
        single_share: of clips with several objects, how many have exactly one that does not keep still, so that it can
            be asked which; in the others each does what it does whatever the others do.
        contrast: what is left of all differences to grey; grain stays as it is.
        exposure: gaps over which prompt frames are averaged. Keyframes stay sharp: a blurred one shows the line along
            which an object moves, and then keyframes alone would not be at their bound.
        speeds: lowest and highest of what goes one way, in screens per gap.
        plain_share: how many of the clips have a plain background.
        scattered: whether objects lie anywhere in each frame, whatever they did before: collages without motion.
        leak: plant the mistake that controls are for: where an object lies in the keyframe betrays where it goes.
    """

    min_objects: int = 1
    max_objects: int = 1
    kinds: tuple[str, ...] = PLAN_KINDS
    families: tuple[str, ...] = ("direction",)
    single_share: float = 0.5
    contrast: float = 1.0
    exposure: float = 0.0
    speeds: tuple[float, ...] = (0.12, 0.9)
    plain_share: float = 0.25
    scattered: bool = False
    leak: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects <= MAX_OBJECTS:
            raise InputError(f"a world has 1 to {MAX_OBJECTS} objects, got {self.min_objects} to {self.max_objects}")
        for name, allowed in (("kinds", PLAN_KINDS), ("families", _FAMILIES)):
            values = getattr(self, name)
            unknown = [value for value in values if value not in allowed]
            if unknown or not values:
                what = f"got {unknown[0]!r}" if unknown else "got none"
                raise InputError(f"{name} of a world are of {', '.join(allowed)}; {what}")
        for name in ("single_share", "plain_share", "exposure"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} of a world must be from 0 to 1, got {getattr(self, name)!r}")
        if (
            len(self.speeds) != 2
            or not all(isinstance(value, (int, float)) for value in self.speeds)
            or not 0 < self.speeds[0] <= self.speeds[1] <= 2
        ):
            raise InputError(f"speeds of a world are two from 0 to 2, the lower one first, got {list(self.speeds)}")
        if not 0 < self.contrast <= 1:
            raise InputError(f"contrast of a world must be above 0 and at most 1, got {self.contrast!r}")
        if set(self.families) == {"colour"}:
            raise InputError("the family colour alone leaves clips about which nothing is asked; add direction_of")
        if "direction" in self.families and self.max_objects > 1:
            raise InputError("the family direction is for worlds of one object; ask direction_of about several")

    @classmethod
    def from_values(cls, values: Any, where: str) -> "WorldPlan":
        """Read a plan from keys, as YAML has them.

        Raises:
            InputError: where a key is unknown or a value is not possible.
        """
        known = [each.name for each in fields(cls)]
        if not isinstance(values, Mapping) or (unknown := [name for name in values if name not in known]):
            what = f"got {values!r}" if not isinstance(values, Mapping) else f"there is no {unknown[0]}"
            raise InputError(f"{where} has the keys {', '.join(known)}; {what}")
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        for name, value in given.items():
            kind = type(getattr(cls, name))
            if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (
                kind is bool
            ):
                raise InputError(f"{where}: {name} must be like {getattr(cls, name)!r}, got {value!r}")
        return cls(**given)

    @property
    def num_labels(self) -> int:
        """Count what an object may do, each direction for itself."""
        return sum(4 if kind == "move" else 1 for kind in self.kinds)

    def bound(self, family: str) -> float:
        """Give the mean share of right answers over all answers that whoever does not see the motion can get.

        A guess that is independent of the truth gets one over the number of answers, whatever it prefers. Which object
        moves is guessed among those that are there.
        """
        if family == "colour":
            counts = range(self.min_objects, self.max_objects + 1)
            return sum(1 / count for count in counts) / len(counts)
        if family in ("direction", "direction_of"):
            return 1 / self.num_labels
        raise ValueError(f"keyframes may tell about {family}")


def sample_planned(num: int, num_pictures: int, generator: torch.Generator, plan: WorldPlan) -> Scenes:
    """Draw `num` clips of a plan; what is seen in the keyframe is drawn without looking at the motion."""
    draw = Draw(generator)
    is_camera = torch.zeros(num, dtype=torch.bool)
    seen = appearance(draw, num, num_pictures, is_camera)
    count = plan.min_objects + draw.integers(plan.max_objects - plan.min_objects + 1, num)
    seen["present"] = torch.arange(MAX_OBJECTS) < count[:, None]
    # Every object has a name, and none is too large to be told from where it was.
    seen["textured"] = seen["outlined"] = torch.zeros_like(seen["present"])
    seen["radius"] = draw.uniform(num, MAX_OBJECTS, low=0.08, high=0.16)
    seen["position"] = spread_positions(seen["present"], seen["radius"], draw)
    seen["flat"] = draw.uniform(num) < plan.plain_share
    paths = draw_paths(draw, _draw_kinds(draw, plan, count), seen["position"], seen["radius"])
    paths = _at_speeds(draw, paths, plan.speeds)
    if plan.leak:
        for direction, place in _LEAKS.items():
            goes_there = (paths.direction_id == direction)[..., None]
            seen["position"] = torch.where(goes_there, torch.tensor(place), seen["position"])
    seen["exposure"] = torch.full((num,), float(plan.exposure))
    seen["scattered"] = torch.full((num,), plan.scattered)
    scenes = Scenes(**seen, **camera_motion(draw, num, is_camera), **vars(paths))
    return scenes if plan.contrast == 1 else _faded(scenes, plan.contrast)


def _draw_kinds(draw: Draw, plan: WorldPlan, count: Tensor) -> Tensor:
    # What each object does (B, S), such that all `num_labels` things are equally frequent; directions come with paths.
    own = torch.tensor([KINDS.index(kind) for kind in plan.kinds for _ in range(4 if kind == "move" else 1)])
    moving = own[own != 0] if bool((own != 0).any()) else own
    num = len(count)
    drawn = own[draw.integers(len(own), num, MAX_OBJECTS)]
    only = moving[draw.integers(len(moving), num, MAX_OBJECTS)]
    places = torch.arange(MAX_OBJECTS)
    is_single = ((draw.uniform(num) < plan.single_share) & (count > 1))[:, None]
    is_chosen = places == (draw.uniform(num) * count).long()[:, None]
    kinds = torch.where(is_single, torch.where(is_chosen, only, 0), drawn)
    return torch.where(places < count[:, None], kinds, 0)


def _at_speeds(draw: Draw, paths: Paths, speeds: tuple[float, ...]) -> Paths:
    # What goes one way has no speed that could be asked about: 0 in `speed_id` has none.
    now = paths.legs[:, :, 1].abs().amax(-1)
    wanted = draw.uniform(*now.shape, low=speeds[0], high=speeds[1])
    factor = torch.where(now > 0, wanted / now.clamp_min(1e-6), 1.0)
    return replace(paths, legs=paths.legs * factor[..., None, None], speed_id=torch.zeros_like(paths.speed_id))


def _faded(scenes: Scenes, contrast: float) -> Scenes:
    def to_grey(values: Tensor) -> Tensor:
        return 0.5 + contrast * (values - 0.5)

    return replace(
        scenes,
        gain=scenes.gain * contrast,
        offset=to_grey(scenes.offset),
        shade=to_grey(scenes.shade),
        tint=to_grey(scenes.tint),
    )


def sharp(scenes: Scenes) -> Scenes:
    """Take the blur away, as keyframes have it."""
    return replace(scenes, exposure=torch.zeros_like(scenes.exposure))


def ask_planned(
    plan: WorldPlan, scenes: Scenes, times: Tensor, num_questions: int, rng: np.random.Generator, vary: bool = False
) -> list[list[Exchange]]:
    """Ask at most `num_questions` about each clip, in random order; about every clip something can be asked.

    Args:
        plan: what is asked.
        scenes: the clips.
        times: (B, G, 1 + N) of their frames; pictures are counted through all DynImgs, prompt frames only.
        num_questions: at most so many of each clip.
        rng: what to draw with.
        vary: draw the wording too; False takes the first.
    """
    centres = object_centres(scenes, times.flatten(1)).unflatten(1, times.shape[1:])
    exchanges = []
    for number, facts in enumerate(clip_facts(scenes)):
        answers = {name: found for name, found in possible_answers(facts).items() if name in plan.families}
        # What the others do must not be known from being asked; with one that moves, it mostly keeps still.
        if len(facts.objects) > 1 and len(facts.moving) == 1:
            answers.pop("direction_of", None)
        found = [
            Exchange(family, _wording(family, rng, vary).format(colour=word), answer)
            for family, (word, answer) in answers.items()
        ]
        found += _places(plan, facts.objects, centres[number], rng, vary)
        order = rng.permutation(len(found))[:num_questions]
        exchanges.append([found[rank] for rank in order])
    return exchanges


def _wording(family: str, rng: np.random.Generator, vary: bool) -> str:
    texts = {**QUESTIONS, **PLACE_QUESTIONS}[family]
    return texts[rng.integers(len(texts))] if vary else texts[0]


def _places(
    plan: WorldPlan, objects: tuple[Any, ...], centres: Tensor, rng: np.random.Generator, vary: bool
) -> list[Exchange]:
    # centres (G, 1 + N, S, 2) of one clip. Present objects come first among the places.
    found = []
    num_dynimgs, num_frames = centres.shape[:2]
    chosen = int(rng.integers(len(objects)))
    colour = objects[chosen].colour
    if "place" in plan.families:
        found.append(
            Exchange("place", _wording("place", rng, vary).format(colour=colour), _ninth(centres[0, 0, chosen]))
        )
    if "place_in" in plan.families and num_frames > 1:
        # One question of each picture: of all that is asked about collages, this is what is slow to be learnt.
        for picture in range(num_dynimgs * (num_frames - 1)):
            group, frame = divmod(picture, num_frames - 1)
            chosen = int(rng.integers(len(objects)))
            text = _wording("place_in", rng, vary).format(colour=objects[chosen].colour, picture=picture + 1)
            found.append(Exchange("place_in", text, _ninth(centres[group, frame + 1, chosen])))
    return found


def _ninth(place: Tensor) -> str:
    column, row = (place * 3).floor().clamp(0, 2).long().tolist()
    return PLACE_ANSWERS[3 * row + column]
