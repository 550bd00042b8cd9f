"""Questions about clips of the motion world and their answers, in plain English, open and multiple choice.

The informative word comes early in each answer. Within every family the answers are equally frequent *given what the
keyframe shows* (number of objects, plain background), so that a keyframe tells nothing about them: `AskRates` finds how
often to ask.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from ..errors import InputError
from .facts import ClipFacts, ObjectFacts, clip_facts, describe, possible_answers
from .wordings import (
    APPEAR_ANSWERS,
    BEST_OPTION,
    CAMERA_ANSWERS,
    COUNT_ANSWERS,
    FAMILIES,
    FOREIGN,
    MEET_ANSWERS,
    MOVING_ANSWERS,
    NOUNS,
    OPTION_CLOSINGS,
    PATH_ANSWERS,
    QUESTIONS,
    SPEED_ANSWERS,
    START_ANSWERS,
    UNKNOWN,
    colour_answer,
    shape_answer,
    short_form,
    turn_answer,
)
from .world import CAMERA_KINDS, CAMERA_SHARE, COLOURS, DIRECTIONS, SHAPES, sample_scenes

__all__ = ["FAMILIES", "AskRates", "ClipFacts", "Exchange", "ask_rates", "clip_facts", "corpus", "possible_answers"]

_SEEN = ("count", "shape", "shape_of")  # the keyframe is the answer
_FIXED = {"unknown": 0.1, "foreign": 0.04}  # how often to ask what is not about the clip
_BINDING = ("colour", "first", "moving_shape")  # the keyframe shows what may be the answer, not which
_TURNS = tuple(turn_answer(a, b) for a in DIRECTIONS[1:] for b in DIRECTIONS[1:] if a != b)
CHOICES: dict[str, tuple[str, ...]] = {
    "direction": (*tuple(PATH_ANSWERS.values())[:-2], *_TURNS),  # what appears does not move
    "direction_of": (*PATH_ANSWERS.values(), *_TURNS),
    "moves": ("Yes.", "No."),
    "speed": SPEED_ANSWERS[1:],
    "start_stop": tuple(START_ANSWERS.values()),
    "appear": tuple(APPEAR_ANSWERS.values()),
    "first": tuple(colour_answer(colour) for colour in COLOURS),
    "meet": tuple(MEET_ANSWERS.values()),
    "camera": tuple(CAMERA_ANSWERS.values()),
    "camera_moves": ("Yes.", "No."),
    "anything": ("Yes.", "No."),
    "count": COUNT_ANSWERS,
    "moving_count": MOVING_ANSWERS,
    "colour": tuple(colour_answer(colour) for colour in COLOURS),
    "shape": tuple(shape_answer(shape) for shape in SHAPES),
    "shape_of": tuple(shape_answer(shape) for shape in SHAPES),
    "moving_shape": tuple(shape_answer(shape) for shape in SHAPES),
}
"""The answers of each family among which the wrong options of a multiple-choice question are drawn."""


@dataclass(frozen=True)
class Exchange:
    """Hold one question, its answer, its family, and the motion of the only object of the clip ("" where several).

    `choices` are the options of a multiple-choice question; empty for an open one.
    """

    family: str
    question: str
    answer: str
    kind: str = ""
    choices: tuple[str, ...] = ()


def _verb(family: str, answer: str) -> str:
    # What must be balanced: the motion in the answer. A description names a colour that the keyframe shows anyway.
    if answer.startswith("First "):
        return "turn"
    if family == "describe" and not answer.startswith(("The camera", "Nothing", "The scene")):
        if ", then the " in answer or ", then an " in answer:
            return "one after the other"
        return "turn" if ", then " in answer else answer.partition("object")[2] or answer
    return answer


class AskRates:
    """Choose questions so that, given what a keyframe shows, every answer of a family is equally frequent.

    Counted once over `num_samples` scenes that are never drawn; an answer that is the only one of its family in a
    group (a plain background shows no camera) is never asked for, with the exception of the families in which the
    keyframe is the answer. Of the questions that may be asked about a clip, those of rare families come first.
    """

    def __init__(self, seed: int = 0, num_samples: int = 40_000, camera_share: float = CAMERA_SHARE) -> None:
        generator = torch.Generator().manual_seed(seed)
        counts: dict[tuple, Counter[str]] = defaultdict(Counter)
        for facts in clip_facts(sample_scenes(num_samples, 1, generator, camera_share)):
            for family, (_, answer) in possible_answers(facts).items():
                counts[self._key(family, facts)][_verb(family, answer)] += 1
        self._rates: dict[tuple, float] = {}
        asked: dict[str, float] = defaultdict(float)
        for key, answers in counts.items():
            free = key[0] in (*_SEEN, *_BINDING)
            if key[0] in _BINDING:
                # Colours and shapes are equally frequent by construction; what was counted differs by chance.
                answers = Counter(dict.fromkeys(answers, max(answers.values())))
            # What hardly ever happens must not make everything else as rare.
            common = [count for count in answers.values() if count > 0.002 * num_samples] or [0]
            lonely = len(common) == 1 and not free
            for answer, count in answers.items():
                rate = 0.0 if lonely or count < min(common) else min(common) / count
                self._rates[(*key, answer)] = _FIXED.get(key[0], rate)
                asked[key[0]] += self._rates[(*key, answer)] * count
        self._weights = {family: 1 / max(asked[family], 0.01 * num_samples) for family in FAMILIES}
        self._shares = {family: asked[family] / num_samples for family in FAMILIES}

    @staticmethod
    def _key(family: str, facts: ClipFacts) -> tuple:
        return (family,) if family in (*_SEEN, *_BINDING, *_FIXED) else (family, *facts.keyframe_group)

    def share(self, families: Iterable[str]) -> float:
        """Give the share of clips that are asked about one of these families, at least."""
        return max(self._shares[family] for family in families)

    def num_to_draw(self, num: int, families: tuple[str, ...] | None = None) -> int:
        """Give how many clips to draw so that `num` are asked about these families (None: about anything at all).

        Raises:
            InputError: where no clip can be asked about any of them.
        """
        if families is None:
            return num + num // 4 + 4  # nearly every clip is
        if not (share := self.share(families)):
            raise InputError(f"no clip can be asked about {', '.join(families)} with this share of cameras")
        # How many are asked about varies by the root of their number; one time in ten thousand they are fewer.
        return math.ceil((num + 4 * num**0.5 + 8) / share)

    def ask(
        self,
        facts: ClipFacts,
        num_questions: int,
        rng: np.random.Generator,
        families: tuple[str, ...] = FAMILIES,
        vary: bool = False,
        choice_share: float = 0.0,
    ) -> list[Exchange]:
        """Draw at most `num_questions` exchanges of different families about one clip.

        Args:
            facts: of the clip.
            num_questions: at most so many.
            rng: what to draw with.
            families: the families to draw from.
            vary: reword some questions as users do.
            choice_share: how many of the questions are asked as multiple choice.
        """
        kind = facts.objects[0].label if len(facts.objects) == 1 and facts.camera == "still" else ""
        found: list[tuple[float, Exchange]] = []
        for family, (word, answer) in possible_answers(facts).items():
            rate = self._rates.get((*self._key(family, facts), _verb(family, answer)), 0.0)
            if family not in families or rng.random() >= rate:
                continue
            wording = QUESTIONS[family][rng.integers(len(QUESTIONS[family]))].format(colour=word)
            if vary:
                wording = reword(wording, family, rng)
            exchange = Exchange(family, wording, answer, kind)
            if family in CHOICES and rng.random() < choice_share:
                exchange = as_choice(exchange, facts, rng)
            found.append((float(rng.random() ** (1e-4 / self._weights[family])), exchange))
        found.sort(key=lambda each: each[0], reverse=True)
        return [exchange for _, exchange in found[:num_questions]]


def draw_options(exchange: Exchange, facts: ClipFacts, rng: np.random.Generator) -> list[str]:
    """Draw two to five answers to an open question, of which its own is one, in random order."""
    wrong = [answer for answer in CHOICES[exchange.family] if answer != exchange.answer]
    if exchange.family == "moving_count":
        wrong = [answer for answer in wrong if answer in MOVING_ANSWERS[: len(facts.objects) + 1]]
    wrong = [wrong[index] for index in rng.permutation(len(wrong))]
    # Turns are many sentences and one of eight motions: no more than one is offered beside the right one.
    turns = [answer for answer in wrong if answer in _TURNS]
    wrong = [answer for answer in wrong if answer not in turns[1:]]
    wrong = [wrong[index] for index in rng.permutation(len(wrong))]
    if exchange.family in _BINDING:
        # What is in the picture comes first, so that looking at the keyframe does not exclude it.
        there = {colour_answer(each.colour) for each in facts.objects}
        there |= {shape_answer(each.shape) for each in facts.objects}
        wrong.sort(key=lambda answer: answer not in there)
    options = [exchange.answer, *wrong[: int(rng.integers(1, min(4, len(wrong)) + 1))]]
    return [options[index] for index in rng.permutation(len(options))]


def as_choice(exchange: Exchange, facts: ClipFacts, rng: np.random.Generator) -> Exchange:
    """Turn an open question into one with two to five lettered options, of which one is right, in random order."""
    options = draw_options(exchange, facts, rng)
    right = options.index(exchange.answer)
    if rng.random() < 0.5:
        options = [short_form(option) for option in options]
        options = [option[:1].upper() + option[1:] for option in options] if rng.random() < 0.5 else options
    closing = OPTION_CLOSINGS[rng.integers(len(OPTION_CLOSINGS))]
    letter = f"{'ABCDE'[right]})"
    opening = "Question: " if closing == OPTION_CLOSINGS[-1] or rng.random() < 0.2 else ""
    lines = [f"({'ABCDE'[number]}) {option}" for number, option in enumerate(options)]
    separator, title = ("\n", "\nOptions:\n") if closing or rng.random() < 0.6 else (" ", " ")
    question = f"{opening}{exchange.question}{title}{separator.join(lines)}{closing}"
    answer = BEST_OPTION[rng.integers(len(BEST_OPTION))] if closing == OPTION_CLOSINGS[-1] else "("
    return Exchange(exchange.family, question, answer + letter, exchange.kind, tuple(options))


def reword(question: str, family: str, rng: np.random.Generator) -> str:
    """Say it as users do: another word for the object now and then, no capital, no question mark."""
    if family in ("direction", "direction_of", "moves", "speed") and rng.random() < 0.3:
        question = question.replace("object", NOUNS[rng.integers(len(NOUNS))])
    if rng.random() < 0.12:
        question = question.lower()
    return question.rstrip("?.") if rng.random() < 0.1 else question


@lru_cache(maxsize=4)
def ask_rates(camera_share: float = CAMERA_SHARE) -> AskRates:
    """Give the rates for a share of camera clips, counted once per process."""
    return AskRates(camera_share=camera_share)


def corpus() -> list[str]:
    """List every sentence that can occur, to train a tokenizer on."""
    questions = [
        text.format(colour=colour)
        for family, texts in QUESTIONS.items()
        if family != "foreign"  # their letters may stay bytes
        for text in texts
        for colour in COLOURS
    ]
    answers = [UNKNOWN, FOREIGN, *(answer for family in CHOICES.values() for answer in family)]
    answers += [short_form(answer) for answer in answers]
    answers += [f"Question: Options:\n(A) (B) (C) (D) (E){closing}" for closing in OPTION_CLOSINGS]
    answers += [f"{opening}A)" for opening in BEST_OPTION]
    for camera in CAMERA_KINDS:
        answers.append(describe(ClipFacts(camera)))
    for colour in (*COLOURS, ""):
        for kind in ("swing", "circle", "appear", "disappear", "meet", "part"):
            answers.append(describe(ClipFacts("still", (ObjectFacts(colour, "bar", kind),))))
            answers.append(describe(ClipFacts("still", (ObjectFacts(colour, "bar", kind),) * 2)))
        for first in DIRECTIONS[1:]:
            one = ObjectFacts(colour, "bar", "move", first)
            turn = ObjectFacts(colour, "bar", "turn", first, "up")
            answers += [describe(ClipFacts("still", (each,) * times)) for each in (one, turn) for times in (1, 2, 3)]
        order = (ObjectFacts(colour, "bar", "stop", "left"), ObjectFacts("red", "bar", "start", "left"))
        answers.append(describe(ClipFacts("still", order)))
    return questions + answers
