"""Held-out clips of the motion world: the same scenes as files of every codec and as they were before any.

Every clip is a function of the seed and its number. A folder that is only partly done is gone on with.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...layout import DynImgLayout
from ...loading import load_dynimgs
from ...motion.facts import ClipFacts, possible_answers
from ...motion.files import CODECS, clip_frames, read_pictures, write_clip
from ...motion.questions import FAMILIES, AskRates, Exchange, ask_rates, clip_facts
from ...motion.textures import PictureBank
from ...motion.world import CAMERA_KINDS, CAMERA_SHARE, Scenes, new_bank, sample_scenes
from ...processes import end_with_parent
from ...text_formats import json_bytes

PLAIN, STATIC = "plain", "static"
"""Names of the files beside those of the codecs: the frames as drawn, and a clip in which nothing moves."""
FILES = (PLAIN, *CODECS)

_FPS = 15.0
_OPPOSITE = {"left": "right", "up": "down", "in": "out", "start": "stop", "appear": "disappear", "meet": "part"}
_OPPOSITE |= {after: before for before, after in _OPPOSITE.items()}


@dataclass(frozen=True)
class HeldOutSettings:
    """Say what a folder of held-out clips holds; clips of one folder all have the same.

    Args:
        seed: of the scenes, the questions and the procedural backgrounds.
        backgrounds: a folder of videos whose frames are the backgrounds instead.
        camera_share: how many of the clips have a moving camera.
        families: what may be asked.
        num_questions: at most so many about one clip.
        choice_share: how many of the questions are multiple choice.
        single_share: how many of the clips hold one object, of which only is asked which way it moves: enough of every
            kind of motion. In the others, all is as often as in training.
        num_static: the first so many clips are also written with nothing moving in them.
        num_frames, height, width: of each file.
        num_pictures: procedural backgrounds.
    """

    seed: int = 20261122
    backgrounds: str | None = None
    camera_share: float = CAMERA_SHARE
    families: tuple[str, ...] = FAMILIES
    num_questions: int = 4
    choice_share: float = 0.25
    single_share: float = 0.3
    num_static: int = 200
    num_frames: int = 45
    height: int = 240
    width: int = 320
    num_pictures: int = 120


@dataclass(frozen=True)
class HeldOutClip:
    """Hold what is true of one clip and what is asked about it.

    `is_single` tells whether it was made for its one object (`HeldOutSettings.single_share`), `group` is what its
    keyframe could betray (`ClipFacts.keyframe_group`), `camera` how the camera moves and `speed` how fast: screens per
    keyframe gap, or, zooming, by how much larger (natural logarithm). `backward` and `halted` are the answers to these
    questions about the clip played backward, and with nothing moving; "" where there is none.
    """

    number: int
    is_single: bool
    group: tuple[int, bool, bool]
    camera: str
    speed: float
    exchanges: tuple[Exchange, ...]
    backward: tuple[str, ...]
    halted: tuple[str, ...]

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "HeldOutClip":
        """Take `asdict` back, as JSON leaves it."""
        exchanges = tuple(Exchange(**{**part, "choices": tuple(part["choices"])}) for part in row["exchanges"])
        lists = {name: tuple(row[name]) for name in ("group", "backward", "halted")}
        return cls(**{**row, **lists, "exchanges": exchanges})


def file_of(folder: Path, kind: str, number: int) -> Path:
    """Give the path of one clip as one kind of file."""
    suffix = {PLAIN: ".npy", STATIC: ".mp4"}.get(kind) or CODECS[kind].suffix
    return folder / kind / f"{number:05d}{suffix}"


def backward(facts: ClipFacts) -> ClipFacts:
    """Turn what is true of a clip into what is true of it played backward."""

    def turned(word: str) -> str:
        return _OPPOSITE.get(word, word)

    objects = tuple(
        replace(
            each,
            kind=turned(each.kind),
            direction=turned(each.turn if each.kind == "turn" else each.direction),
            turn=turned(each.direction) if each.kind == "turn" else each.turn,
        )
        for each in facts.objects
    )
    return replace(facts, camera=turned(facts.camera), objects=objects)


def halted(facts: ClipFacts) -> ClipFacts:
    """Turn what is true of a clip into what is true of its keyframe shown all the time."""
    objects = tuple(replace(each, kind="still", direction="still", turn="still", speed="") for each in facts.objects)
    return replace(facts, camera="still", objects=objects)


def halted_scene(scene: Scenes) -> Scenes:
    """Stop everything in a scene, the camera too."""
    nothing = {
        name: torch.zeros_like(getattr(scene, name))
        for name in ("camera_id", "camera", "zoom", "kind_id", "direction_id", "turn_id", "speed_id", "legs", "swing")
    }
    endless = torch.tensor([-torch.inf, torch.inf]).expand_as(scene.shown)
    return replace(scene, **nothing, cuts=torch.full_like(scene.cuts, torch.inf), shown=endless)


def draw_clip(settings: HeldOutSettings, number: int, num_pictures: int, rates: AskRates) -> tuple[Scenes, HeldOutClip]:
    """Draw the scene and the questions of one clip; scenes about which nothing can be asked are passed over."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
    rng = np.random.default_rng([settings.seed, number])
    is_single = float(rng.random()) < settings.single_share
    families = ("direction",) if is_single else settings.families
    choice_share = 0.0 if is_single else settings.choice_share
    while True:
        scene = sample_scenes(1, num_pictures, generator, settings.camera_share)
        facts = clip_facts(scene)[0]
        exchanges = rates.ask(facts, settings.num_questions, rng, families, choice_share=choice_share)
        if exchanges and not (is_single and len(facts.objects) != 1):
            break
    others = (possible_answers(backward(facts)), possible_answers(halted(facts)))
    answers = [tuple(other.get(each.family, ("", ""))[1] for each in exchanges) for other in others]
    speed = float(max(scene.camera.abs().max(), scene.zoom.abs().max()))
    camera = CAMERA_KINDS[int(scene.camera_id)]
    return scene, HeldOutClip(number, is_single, facts.keyframe_group, camera, speed, tuple(exchanges), *answers)


@dataclass
class _Maker:
    """Hold what a worker needs to make clips."""

    folder: Path
    settings: HeldOutSettings
    layout: DynImgLayout
    kinds: tuple[str, ...]
    bank: PictureBank
    rates: AskRates

    def make(self, number: int) -> HeldOutClip:
        """Draw and write one clip as every kind of file."""
        settings = self.settings
        scene, clip = draw_clip(settings, number, len(self.bank), self.rates)
        shape = (settings.num_frames, (settings.height, settings.width), number)
        frames = list(clip_frames(scene, self.bank, *shape))
        for kind in self.kinds:
            path = file_of(self.folder, kind, number)
            if kind == PLAIN:
                # The policy that most of the compressed files lead to, so that the same frames are compared.
                whole = load_dynimgs(np.stack(frames), layout=self.layout, num_dynimgs=1, policy="gop12", fps=_FPS)
                np.save(path, whole.pixels)
            else:
                write_clip(path, frames, fps=_FPS, codec=kind)
        if number < settings.num_static:
            path = file_of(self.folder, STATIC, number)
            write_clip(path, clip_frames(halted_scene(scene), self.bank, *shape), fps=_FPS)
        return clip


_maker: _Maker | None = None  # of a worker process


def _start_worker(folder: Path, settings: HeldOutSettings, layout: DynImgLayout, kinds: tuple[str, ...]) -> None:
    global _maker
    end_with_parent()
    os.nice(5)
    torch.set_num_threads(1)
    _maker = _Maker(folder, settings, layout, kinds, _pictures(settings), ask_rates(settings.camera_share))


def _pictures(settings: HeldOutSettings) -> PictureBank:
    if settings.backgrounds is None:
        return new_bank(settings.num_pictures, settings.seed)
    return PictureBank.from_frames(read_pictures(Path(settings.backgrounds)))


def _make(number: int) -> HeldOutClip:
    assert _maker is not None
    return _maker.make(number)


def make_clips(
    folder: Path,
    settings: HeldOutSettings,
    num_clips: int,
    layout: DynImgLayout,
    kinds: tuple[str, ...] = FILES,
    num_workers: int = 2,
) -> Iterator[HeldOutClip]:
    """Make the clips of a folder that are not there yet, and yield each as it is done.

    Args:
        folder: for the clips; `read_clips` reads it.
        settings: what they hold.
        num_clips: how many there shall be.
        layout: of the DynImgs that are kept of the frames as drawn; a folder that is gone on with keeps to its own.
        kinds: of `FILES`.
        num_workers: processes.

    Raises:
        InputError: where the folder was made with other settings, or of another world.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder, {**asdict(settings), "kinds": kinds, "world": world_mark()}, layout)
    layout = layout_of(folder)
    for kind in (*kinds, STATIC):
        (folder / kind).mkdir(exist_ok=True)
    done = {clip.number for clip in read_clips(folder)}
    missing = [number for number in range(num_clips) if number not in done]
    if not missing:
        return
    # Not forked: a process that has used torch's threads may hang in a fork of it.
    pool = ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker, (folder, settings, layout, kinds))
    with pool:
        for clip in pool.map(_make, missing):
            append_rows(folder / "clips.jsonl", [asdict(clip)])
            yield clip


def read_clips(folder: Path, num_clips: int | None = None) -> list[HeldOutClip]:
    """Read what is known of the clips of a folder, by number; a line that was cut off is left out."""
    clips = {row["number"]: HeldOutClip.from_row(row) for row in read_rows(folder / "clips.jsonl")}
    return [clips[number] for number in sorted(clips) if num_clips is None or number < num_clips]


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append JSON lines to a file; a last line that was cut off before stays apart from them."""
    with path.open("ab") as file:
        file.write(b"".join(b"\n" + json_bytes(row) for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the JSON lines of a file, none where there is no file; lines that were cut off are left out."""
    rows = []
    # By bytes: an answer may hold U+2028, which ends a line of text, and a cut may lie within a character.
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def world_mark(num_clips: int = 12) -> str:
    """Name the world as it is: what it draws, asks and shows in some small clips, as a short digest."""
    settings = HeldOutSettings(single_share=0.0, num_pictures=1)
    bank = new_bank(1, 0)
    digest = hashlib.sha256()
    for number in range(num_clips):
        scene, clip = draw_clip(settings, number, 1, ask_rates(settings.camera_share))
        digest.update(json.dumps(asdict(clip)).encode())
        for frame in clip_frames(scene, bank, num_frames=3, size=(12, 16)):
            digest.update(frame.tobytes())
    return digest.hexdigest()[:12]


def layout_of(folder: Path) -> DynImgLayout:
    """Give the geometry of the DynImgs that a folder keeps of the frames as drawn."""
    return DynImgLayout(**json.loads((folder / "settings.json").read_text())["layout"])


def _check_settings(folder: Path, settings: dict[str, Any], layout: DynImgLayout) -> None:
    path = folder / "settings.json"
    if not path.exists():
        path.write_text(json.dumps({**settings, "layout": asdict(layout)}, indent=1) + "\n")
        return
    found = json.loads(path.read_text())
    for name, value in json.loads(json.dumps(settings)).items():
        if found.get(name) != value:
            raise InputError(f"{folder} was made with {name} {found.get(name)!r}, not {value!r}; take another folder")
