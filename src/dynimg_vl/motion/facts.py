"""What is true of a clip of the motion world, in plain values, and what can be answered about it."""

from dataclasses import dataclass

from .paths import KINDS, SPEEDS
from .wordings import (
    APPEAR_ANSWERS,
    CAMERA_ANSWERS,
    COUNT_ANSWERS,
    FOREIGN,
    MEET_ANSWERS,
    MOVING_ANSWERS,
    PATH_ANSWERS,
    SPEED_ANSWERS,
    START_ANSWERS,
    UNKNOWN,
    colour_answer,
    shape_answer,
    turn_answer,
)
from .world import CAMERA_KINDS, COLOURS, DIRECTIONS, SHAPES, Scenes

_STILL_KINDS = ("still", "appear", "disappear")
_NUMBER_WORDS = ("No", "One", "Two", "Three")


@dataclass(frozen=True)
class ObjectFacts:
    """Hold what is true of one object.

    Args:
        colour: "" for one with a picture on it.
        shape: of `SHAPES`.
        kind: of `KINDS`.
        direction: of the first leg.
        turn: second direction of a turn; "still" for none.
        speed: "" where it has no name.
    """

    colour: str
    shape: str
    kind: str = "still"
    direction: str = "still"
    turn: str = "still"
    speed: str = ""

    @property
    def moves(self) -> bool:
        """Tell whether it changes place."""
        return self.kind not in _STILL_KINDS

    @property
    def path(self) -> str:
        """Say in one sentence what it does; "" where no sentence fits (two objects that meet)."""
        if self.kind == "turn":
            return turn_answer(self.direction, self.turn)
        if self.kind in ("move", "start", "stop"):
            return PATH_ANSWERS[self.direction]
        return PATH_ANSWERS.get(self.kind, "")

    @property
    def label(self) -> str:
        """Name its motion for tables: "fast left", "circle"."""
        if self.kind == "move":
            return f"{self.speed} {self.direction}".strip()
        return self.kind


@dataclass(frozen=True)
class ClipFacts:
    """Hold what the questions need to know of one clip."""

    camera: str
    objects: tuple[ObjectFacts, ...] = ()
    is_flat: bool = False
    is_clear: bool = True

    @property
    def moving(self) -> tuple[ObjectFacts, ...]:
        """List the objects that move by themselves."""
        return tuple(each for each in self.objects if each.moves)

    @property
    def active(self) -> tuple[ObjectFacts, ...]:
        """List the objects with which anything happens."""
        return tuple(each for each in self.objects if each.kind != "still")

    @property
    def keyframe_group(self) -> tuple[int, bool, bool]:
        """Tell what the keyframe shows, as far as it could betray an answer."""
        return len(self.objects), self.is_flat, self.is_clear


def clip_facts(scenes: Scenes) -> list[ClipFacts]:
    """Read the facts of each clip off its scene."""
    names = tuple(COLOURS)
    present, textured, outlined = (each.tolist() for each in (scenes.present, scenes.textured, scenes.outlined))
    colour, shape, kind = (each.tolist() for each in (scenes.colour_id, scenes.shape_id, scenes.kind_id))
    direction, turn, speed = (each.tolist() for each in (scenes.direction_id, scenes.turn_id, scenes.speed_id))
    camera_id, flat = scenes.camera_id.tolist(), scenes.flat.tolist()
    facts = []
    for clip in range(len(scenes)):
        places = [place for place, there in enumerate(present[clip]) if there]
        objects = tuple(
            ObjectFacts(
                colour="" if textured[clip][place] else names[colour[clip][place]],
                shape=SHAPES[shape[clip][place]],
                kind=KINDS[kind[clip][place]],
                direction=DIRECTIONS[direction[clip][place]],
                turn=DIRECTIONS[turn[clip][place]],
                speed=SPEEDS[speed[clip][place]],
            )
            for place in places
        )
        # A textured object without a rim on a textured background cannot be told from it while it is still.
        is_clear = all(flat[clip] or not textured[clip][place] or outlined[clip][place] for place in places)
        facts.append(ClipFacts(CAMERA_KINDS[camera_id[clip]], objects, flat[clip], is_clear))
    return facts


def possible_answers(facts: ClipFacts) -> dict[str, tuple[str, str]]:
    """Give, for each family that makes sense for a clip, the word to fill in and the answer."""
    answers = {"unknown": ("", UNKNOWN), "foreign": ("", FOREIGN), "describe": ("", describe(facts))}
    still_camera = facts.camera == "still"
    if facts.camera != "change" and (facts.moving or not facts.active or not still_camera):
        answers["anything"] = ("", "Yes." if facts.moving or not still_camera else "No.")
    if not facts.is_flat:
        answers["camera"] = ("", CAMERA_ANSWERS[facts.camera])
        if facts.camera != "change":
            answers["camera_moves"] = ("", "No." if still_camera else "Yes.")
    if still_camera:
        answers.update(_of_the_clip(facts))
        answers.update(_of_the_only_one(facts))
        answers.update(_of_named(facts))
    return answers


def _of_the_clip(facts: ClipFacts) -> dict[str, tuple[str, str]]:
    answers: dict[str, str] = {}
    kinds = [each.kind for each in facts.objects]
    changes = [kind for kind in kinds if kind in ("appear", "disappear")]
    if len(changes) <= 1 and facts.objects:
        answers["appear"] = APPEAR_ANSWERS[changes[0] if changes else ""]
    if facts.is_clear and not changes:
        answers["count"] = COUNT_ANSWERS[len(facts.objects)]
        if len(facts.objects) > 1:
            answers["moving_count"] = MOVING_ANSWERS[len(facts.moving)]
    if kinds in (["meet"] * 2, ["part"] * 2):
        answers["meet"] = MEET_ANSWERS[kinds[0]]
    if sorted(each.kind for each in facts.moving) == ["start", "stop"]:
        earlier = next(each for each in facts.moving if each.kind == "stop")
        if all(each.colour for each in facts.moving):
            answers["first"] = colour_answer(earlier.colour)
    return {family: ("", answer) for family, answer in answers.items()}


def _of_the_only_one(facts: ClipFacts) -> dict[str, tuple[str, str]]:
    answers: dict[str, str] = {}
    active = facts.active
    if facts.objects and len(active) <= 1 and (not active or active[0].moves):
        answers["direction"] = active[0].path if active else PATH_ANSWERS["still"]
    if len(active) == 1 and active[0].moves:
        only = active[0]
        if only.speed:
            answers["speed"] = SPEED_ANSWERS[SPEEDS.index(only.speed)]
        if only.kind in START_ANSWERS:
            answers["start_stop"] = START_ANSWERS[only.kind]
        if only.colour:
            answers["colour"] = colour_answer(only.colour)
        if only.colour or facts.is_clear:
            answers["moving_shape"] = shape_answer(only.shape)
    if len(facts.objects) == 1 and (facts.objects[0].colour or facts.is_clear):
        answers["shape"] = shape_answer(facts.objects[0].shape)
    return {family: ("", answer) for family, answer in answers.items()}


def _of_named(facts: ClipFacts) -> dict[str, tuple[str, str]]:
    named = [each for each in facts.objects if each.colour]
    if not named:
        return {}
    # The first by colour name, not by motion: which object is asked about must not depend on what moves.
    chosen = min(named, key=lambda each: each.colour)
    answers = {"shape_of": (chosen.colour, shape_answer(chosen.shape))}
    if chosen.path:
        answers["direction_of"] = (chosen.colour, chosen.path)
    if chosen.kind not in ("appear", "disappear"):
        answers["moves"] = (chosen.colour, "Yes." if chosen.moves else "No.")
    return answers


def describe(facts: ClipFacts) -> str:
    """Say in one sentence what happens."""
    if facts.camera == "change":
        return "The scene changes."
    if facts.camera != "still":
        return "The camera " + CAMERA_ANSWERS[facts.camera].removeprefix("It ")
    if not facts.active:
        return "Nothing moves."
    kinds = [each.kind for each in facts.active]
    if kinds in (["meet"] * 2, ["part"] * 2):
        return f"Two objects {'meet' if kinds[0] == 'meet' else 'move apart'}."
    if sorted(kinds) == ["start", "stop"]:
        first, then = sorted(facts.active, key=lambda each: each.kind, reverse=True)
        return f"{_name(first)} moves, then {_name(then).lower()}."
    if len(facts.moving) > 1:
        return f"{_NUMBER_WORDS[len(facts.moving)]} objects move."
    if len(facts.active) > 1:
        return "Several things happen."
    only = facts.active[0]
    if only.kind == "turn":
        return f"{_name(only)} moves {only.direction}, then {only.turn}."
    return f"{_name(only)} {only.path.removeprefix('It ')}"


def _name(each: ObjectFacts) -> str:
    return f"The {each.colour} object" if each.colour else "An object"
