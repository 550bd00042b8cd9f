"""Questions about clips of the motion world and their answers, in plain English, several wordings each.

The informative word comes early in each answer. Within every family the answers are equally frequent *given what the
keyframe shows* (number of objects, plain background), so that a keyframe tells nothing about them: `AskRates` finds how
often to ask.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from .world import CAMERA_KINDS, COLOURS, DIRECTIONS, Scenes, sample_scenes

QUESTIONS: dict[str, tuple[str, ...]] = {
    "direction": (
        "Which way does the object move?",
        "In which direction does the object move?",
        "Which way does the moving object go?",
        "Where does the object go?",
        "Which direction is the object moving?",
        "Which way is it moving?",
        "Does the object move left, right, up or down?",
    ),
    "direction_of": (
        "Which way does the {colour} object move?",
        "In which direction does the {colour} object move?",
        "Where does the {colour} object go?",
        "Which way does the {colour} one go?",
    ),
    "camera": (
        "How does the camera move?",
        "What does the camera do?",
        "What is the camera motion?",
        "Which way does the camera move?",
        "Does the camera pan or zoom?",
    ),
    "anything": (
        "Does anything move?",
        "Is anything moving?",
        "Is there any motion in this video?",
        "Does something move in the video?",
        "Is there movement?",
    ),
    "count": (
        "How many objects are there?",
        "How many objects are in the video?",
        "How many objects do you see?",
        "Count the objects.",
        "How many things are there?",
    ),
    "colour": (
        "What colour is the moving object?",
        "What color is the moving object?",
        "Which object moves?",
        "What is the colour of the object that moves?",
        "What is moving?",
    ),
    "describe": (
        "What happens in this video?",
        "What happens?",
        "Describe the video.",
        "What is happening?",
        "What is going on in this video?",
        "Describe the motion.",
    ),
    "unknown": (
        "Who is in the video?",
        "What is the person saying?",
        "Where was this filmed?",
        "What is the name of the man?",
        "What time is it?",
        "Why is she laughing?",
        "What does the sign say?",
        "What is the weather like?",
        "Is the person happy?",
        "What will happen next?",
        "What music is playing?",
        "Who won the game?",
        "What is the person wearing?",
        "How old is the woman?",
        "What is he cooking?",
        "Which animal is this?",
        "What is the capital of France?",
        "Tell me a joke.",
        "Hello!",
        "Who are you?",
    ),
}
"""All wordings by family."""

NOUNS = ("ball", "thing", "car", "person", "shape", "box", "man", "dog", "square", "circle")
"""Other words for an object; a user's word for it should not matter. The tokenizer is not trained on them."""

UNKNOWN = "I do not know. I only know about motion."
_DIRECTION_ANSWERS = {
    "still": "It stays still.",
    "left": "It moves left.",
    "right": "It moves right.",
    "up": "It moves up.",
    "down": "It moves down.",
}
_CAMERA_ANSWERS = {
    "still": "It stays still.",
    "left": "It pans left.",
    "right": "It pans right.",
    "up": "It tilts up.",
    "down": "It tilts down.",
    "in": "It zooms in.",
    "out": "It zooms out.",
    "change": "The scene changes.",
}
_COUNT_ANSWERS = ("There are no objects.", "One object.", "Two objects.", "Three objects.")
_NUMBER_WORDS = ("No", "One", "Two", "Three")
FAMILIES = tuple(QUESTIONS)


@dataclass(frozen=True)
class Exchange:
    """Hold one question, its answer and its family."""

    family: str
    question: str
    answer: str


@dataclass(frozen=True)
class ClipFacts:
    """Hold what the questions need to know of one clip, as plain values."""

    camera: str
    colours: tuple[str, ...]
    directions: tuple[str, ...]
    is_flat: bool
    is_clear: bool

    @property
    def moving(self) -> tuple[int, ...]:
        """List the objects that move by themselves."""
        return tuple(index for index, direction in enumerate(self.directions) if direction != "still")

    @property
    def keyframe_group(self) -> tuple[int, bool, bool]:
        """Tell what the keyframe shows, as far as it could betray an answer."""
        return len(self.colours), self.is_flat, self.is_clear


def clip_facts(scenes: Scenes) -> list[ClipFacts]:
    """Read the facts of each clip off its scene; the colour of a textured object is "" (it has none to name)."""
    names = tuple(COLOURS)
    present, textured, outlined = (x.tolist() for x in (scenes.present, scenes.textured, scenes.outlined))
    colour_id, direction_id = scenes.colour_id.tolist(), scenes.direction_id.tolist()
    camera_id, flat = scenes.camera_id.tolist(), scenes.flat.tolist()
    facts = []
    for clip in range(len(scenes)):
        places = [place for place, there in enumerate(present[clip]) if there]
        facts.append(
            ClipFacts(
                camera=CAMERA_KINDS[camera_id[clip]],
                colours=tuple("" if textured[clip][p] else names[colour_id[clip][p]] for p in places),
                directions=tuple(DIRECTIONS[direction_id[clip][p]] for p in places),
                is_flat=flat[clip],
                # A textured object without a rim on a textured background cannot be told from it while it is still.
                is_clear=all(flat[clip] or not textured[clip][p] or outlined[clip][p] for p in places),
            )
        )
    return facts


def possible_answers(facts: ClipFacts) -> dict[str, tuple[str, str]]:
    """Give, for each family that makes sense for a clip, the word to fill in and the answer."""
    answers: dict[str, tuple[str, str]] = {"unknown": ("", UNKNOWN)}
    moving, still_camera = facts.moving, facts.camera == "still"
    if facts.camera != "change":
        answers["anything"] = ("", "Yes." if moving or not still_camera else "No.")
    if not facts.is_flat:
        answers["camera"] = ("", _CAMERA_ANSWERS[facts.camera])
    if still_camera and facts.colours and len(moving) <= 1:
        direction = facts.directions[moving[0]] if moving else "still"
        answers["direction"] = ("", _DIRECTION_ANSWERS[direction])
        if moving and facts.colours[moving[0]]:
            answers["colour"] = ("", f"The {facts.colours[moving[0]]} one.")
    if still_camera and facts.is_clear:
        answers["count"] = ("", _COUNT_ANSWERS[len(facts.colours)])
    named = [index for index, colour in enumerate(facts.colours) if colour]
    if still_camera and named:
        # The first by colour name, not by motion: which object is asked about must not depend on what moves.
        chosen = min(named, key=lambda index: facts.colours[index])
        answers["direction_of"] = (facts.colours[chosen], _DIRECTION_ANSWERS[facts.directions[chosen]])
    answers["describe"] = ("", describe(facts))
    return answers


def describe(facts: ClipFacts) -> str:
    """Say in one sentence what moves."""
    if facts.camera == "change":
        return "The scene changes."
    if facts.camera != "still":
        return "The camera " + _CAMERA_ANSWERS[facts.camera].removeprefix("It ")
    if not facts.moving:
        return "Nothing moves."
    if len(facts.moving) > 1:
        return f"{_NUMBER_WORDS[len(facts.moving)]} objects move."
    first = facts.moving[0]
    name = f"The {facts.colours[first]} object" if facts.colours[first] else "An object"
    return f"{name} moves {facts.directions[first]}."


def _verb(family: str, answer: str) -> str:
    # What must be balanced: the motion in the answer. A description names a colour that the keyframe shows anyway.
    if family == "describe":
        for word in ("left", "right", "up", "down"):
            if answer.startswith(("The camera", "Nothing", "The scene")):
                return answer
            if answer.endswith(f" {word}."):
                return f"object {word}"
    return answer


class AskRates:
    """Choose questions so that, given what a keyframe shows, every answer of a family is equally frequent.

    Counted once over `num_samples` scenes that are never drawn; an answer that is the only one of its family in a
    group (a plain background shows no camera) is never asked for, with the exception of the families in which the
    keyframe is the answer: count, colour, unknown.
    """

    def __init__(self, seed: int = 0, num_samples: int = 40_000, camera_share: float = 0.4) -> None:
        generator = torch.Generator().manual_seed(seed)
        counts: dict[tuple, Counter[str]] = defaultdict(Counter)
        for facts in clip_facts(sample_scenes(num_samples, 1, generator, camera_share)):
            for family, (_, answer) in possible_answers(facts).items():
                counts[self._key(family, facts)][_verb(family, answer)] += 1
        self._rates: dict[tuple, float] = {}
        for key, answers in counts.items():
            lonely = len(answers) == 1 and key[0] not in ("count", "colour", "unknown")
            for answer, count in answers.items():
                self._rates[(*key, answer)] = 0.0 if lonely else min(answers.values()) / count

    @staticmethod
    def _key(family: str, facts: ClipFacts) -> tuple:
        return (family,) if family in ("count", "colour", "unknown") else (family, *facts.keyframe_group)

    def ask(
        self,
        facts: ClipFacts,
        num_questions: int,
        rng: np.random.Generator,
        families: tuple[str, ...] = FAMILIES,
        vary: bool = False,
    ) -> list[Exchange]:
        """Draw at most `num_questions` exchanges of different families about one clip; `vary` rewords some of them."""
        exchanges = []
        for family, (word, answer) in possible_answers(facts).items():
            rate = self._rates.get((*self._key(family, facts), _verb(family, answer)), 0.0)
            if family == "unknown":
                rate = 0.08
            if family in families and rng.random() < rate:
                wording = QUESTIONS[family][rng.integers(len(QUESTIONS[family]))].format(colour=word)
                exchanges.append(Exchange(family, reword(wording, family, rng) if vary else wording, answer))
        order = rng.permutation(len(exchanges))[:num_questions]
        return [exchanges[index] for index in order]


def reword(question: str, family: str, rng: np.random.Generator) -> str:
    """Say it as users do: another word for the object now and then, no capital, no question mark."""
    if family in ("direction", "direction_of") and rng.random() < 0.3:
        question = question.replace("object", NOUNS[rng.integers(len(NOUNS))])
    if rng.random() < 0.12:
        question = question.lower()
    return question.rstrip("?.") if rng.random() < 0.1 else question


@lru_cache(maxsize=4)
def ask_rates(camera_share: float = 0.4) -> AskRates:
    """Give the rates for a share of camera clips, counted once per process."""
    return AskRates(camera_share=camera_share)


def corpus() -> list[str]:
    """List every sentence that can occur, to train a tokenizer on."""
    colours = (*COLOURS, "")
    questions = [text.format(colour=c) for texts in QUESTIONS.values() for text in texts for c in COLOURS]
    answers = [UNKNOWN, "Yes.", "No.", *_DIRECTION_ANSWERS.values(), *_CAMERA_ANSWERS.values(), *_COUNT_ANSWERS]
    answers += [f"The {colour} one." for colour in COLOURS]
    for camera in CAMERA_KINDS:
        for direction in DIRECTIONS:
            for colour in colours:
                answers.append(describe(ClipFacts(camera, (colour,), (direction,), False, True)))
                answers.append(describe(ClipFacts(camera, (colour,) * 3, (direction,) * 3, False, True)))
    return questions + answers
