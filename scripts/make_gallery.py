"""Make the gallery of the embedded model: `python scripts/make_gallery.py docs/motion_gallery.md`.

Twelve clips of the motion world, their DynImgs and what the model answers; the pictures go into a folder beside it.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dynimg_vl import embedded_model
from dynimg_vl.model import load_pretrained
from dynimg_vl.motion.facts import ClipFacts, clip_facts, possible_answers
from dynimg_vl.motion.files import clip_frames, write_clip
from dynimg_vl.motion.questions import CHOICES, Exchange, as_choice
from dynimg_vl.motion.textures import PictureBank
from dynimg_vl.motion.wordings import QUESTIONS
from dynimg_vl.motion.world import Scenes, new_bank, sample_scenes
from dynimg_vl.render import render_dynimgs
from dynimg_vl.training.motion.evaluation import Respondent
from dynimg_vl.training.motion.scores import is_right

SEED, NUM_PICTURES = 20261123, 40
HEAD = """# What the embedded model answers

Twelve clips of the project's own motion world (3 s, 320 x 240, x264 at web quality) over pictures that training never
saw, the DynImg that is made of each, and the model's answers, right and wrong, as they came. Neither clips nor
questions were chosen by the answers: of each kind the first clip from a seed is taken, the questions are drawn.

Made by `make motion-gallery`. Of {asked} questions, {right} are answered right.
"""


@dataclass(frozen=True)
class Wish:
    """Hold one clip of the gallery: its title, what must be true of it, and the families to ask first."""

    title: str
    fits: Callable[[ClipFacts], bool]
    families: tuple[str, ...]


def _one(kind: str, speed: str = "") -> Callable[[ClipFacts], bool]:
    def fits(facts: ClipFacts) -> bool:
        alone = facts.camera == "still" and len(facts.objects) == 1
        return alone and (facts.objects[0].kind, facts.objects[0].speed) == (kind, speed)

    return fits


def _kinds(*kinds: str) -> Callable[[ClipFacts], bool]:
    return lambda facts: (
        facts.camera == "still"
        and sorted(each.kind for each in facts.objects) == sorted(kinds)
        and all(each.colour for each in facts.objects)
    )


def _camera(*motions: str) -> Callable[[ClipFacts], bool]:
    return lambda facts: facts.camera in motions


WISHES = (
    Wish("A fast object", _one("move", "fast"), ("direction", "speed")),
    Wish("A slow object", _one("move", "slow"), ("direction", "speed")),
    Wish("Back and forth", _one("swing"), ("direction", "anything")),
    Wish("Round", _one("circle"), ("direction", "appear")),
    Wish("One way, then another", _one("turn"), ("direction", "describe")),
    Wish("Something appears", _one("appear"), ("appear", "describe")),
    Wish("It starts", _one("start"), ("start_stop", "direction")),
    Wish("One after the other", _kinds("start", "stop"), ("first", "moving_count")),
    Wish("Two that meet", _kinds("meet", "meet"), ("meet", "describe")),
    Wish("One of three moves", _kinds("move", "still", "still"), ("colour", "direction_of", "moving_count", "moves")),
    Wish("The camera pans", _camera("left", "right", "up", "down"), ("camera", "anything")),
    Wish("The camera zooms", _camera("in", "out"), ("camera", "describe")),
)


def find(wish: Wish, number: int) -> tuple[Scenes, ClipFacts]:
    """Draw scenes until one fits."""
    generator = torch.Generator().manual_seed(SEED + number)
    while True:
        scenes = sample_scenes(64, NUM_PICTURES, generator)
        for row, facts in enumerate(clip_facts(scenes)):
            if wish.fits(facts) and facts.is_clear:
                return scenes.rows(slice(row, row + 1)), facts


def questions(wish: Wish, facts: ClipFacts, rng: np.random.Generator, number: int = 5) -> Iterator[Exchange]:
    """Draw the questions about a clip: those of its families, one as multiple choice, and others that make sense."""
    possible = possible_answers(facts)
    others = [family for family in possible if family not in (*wish.families, "foreign")]
    families = [*wish.families, *(others[rank] for rank in rng.permutation(len(others)))]
    for rank, family in enumerate([each for each in families if each in possible][:number]):
        word, answer = possible[family]
        wording = QUESTIONS[family][rng.integers(len(QUESTIONS[family]))].format(colour=word)
        exchange = Exchange(family, wording, answer)
        yield as_choice(exchange, facts, rng) if rank == 1 and family in CHOICES else exchange


def section(wish: Wish, number: int, page: Path, respondent: Respondent, bank: PictureBank) -> tuple[str, list[bool]]:
    """Make one clip, draw its DynImg, ask about it; returns the text and which answers were right."""
    scene, facts = find(wish, number)
    exchanges = list(questions(wish, facts, np.random.default_rng([SEED, number])))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(path, clip_frames(scene, bank, seed=number))
        dynimgs = respondent.processor.video_processor.load(str(path), num_dynimgs=1)
        picture = page.with_suffix("") / f"{number:02d}.webp"
        render_dynimgs(dynimgs).save(picture, quality=70, method=6)
    given = respondent.answer_all([(dynimgs, each.question) for each in exchanges])
    right = [is_right(each.answer, text, bool(each.choices)) for each, text in zip(exchanges, given, strict=True)]
    lines = [f"\n## {number}. {wish.title}\n", f"![DynImg of clip {number}]({page.stem}/{picture.name})\n"]
    lines += ["| question | answer | | truth |", "|---|---|---|---|"]
    for exchange, text, is_good in zip(exchanges, given, right, strict=True):
        cells = [part.replace("|", "\\|").replace("\n", "<br>") for part in (exchange.question, text, exchange.answer)]
        lines.append(f"| {cells[0]} | {cells[1]} | {'right' if is_good else '**wrong**'} | {cells[2]} |")
    return "\n".join(lines) + "\n", right


def main() -> None:
    """Make all sections and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?", default=Path("docs/motion_gallery.md"))
    parser.add_argument("--model", type=Path, help="a model folder (default: the embedded model)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    respondent = Respondent(*load_pretrained(options.model or embedded_model()))
    bank = new_bank(NUM_PICTURES, SEED)
    options.page.with_suffix("").mkdir(parents=True, exist_ok=True)
    sections = [section(wish, number, options.page, respondent, bank) for number, wish in enumerate(WISHES, start=1)]
    right = [each for _, marks in sections for each in marks]
    head = HEAD.format(asked=len(right), right=sum(right))
    options.page.write_text(head + "".join(text for text, _ in sections))


if __name__ == "__main__":
    main()
