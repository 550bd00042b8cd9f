"""Tables 3 to 6 of the paper: the arms as values of the configuration, and what the paper says about their order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InputError


@dataclass(frozen=True)
class Arm:
    """Hold one row of a table: fields of `DynImgConfig`, and the accuracy that the paper prints (None: not in it)."""

    title: str
    model: Mapping[str, Any]
    paper: float | None = None


@dataclass(frozen=True)
class Claim:
    """Say that one arm is better than another; `is_ours`: not one of the paper's orderings."""

    better: str
    worse: str
    is_ours: bool = False

    @property
    def name(self) -> str:
        """Name it in reports."""
        return f"{self.better} > {self.worse}"


@dataclass(frozen=True)
class Table:
    """Hold one table: its arms by name, its claims, and the arm whose compute the others get beside equal clips."""

    title: str
    arms: Mapping[str, Arm]
    claims: tuple[Claim, ...]
    reference: str

    def chosen(self, names: tuple[str, ...] | None) -> dict[str, Arm]:
        """Pick arms by name, all of them for None.

        Raises:
            InputError: where there is none of a name.
        """
        unknown = [name for name in names or () if name not in self.arms]
        if unknown:
            raise InputError(f"there is no arm {unknown[0]!r}; the arms are {', '.join(self.arms)}")
        return {name: arm for name, arm in self.arms.items() if names is None or name in names}


KEYFRAMES = "keyframes"
"""The control that detects leaks: keyframes only; in every table."""

_FLAT = {"rope_axes": "s"}
_FULL = {"rope_axes": "hwts"}
_BY_TOKEN = {"sequence_step": "token"}
"""Keeps what a language model with 1-D positions reads while theta is 0."""
_KEYFRAMES_ARM = Arm("keyframes only (control)", {"prompt_stage": "none", **_FLAT})


def _position(title: str, paper: float | None, axes: str, **fields: Any) -> Arm:
    return Arm(title, {"rope_axes": axes, **fields}, paper)


def _prompt_arms() -> dict[str, Arm]:
    papers = {1: 71.9, 2: 72.3, 4: 78.6, 6: 78.1, 12: 77.5}
    return {f"n{count}": Arm(f"N = {count}", {"num_prompt_frames": count, **_FULL}, papers[count]) for count in papers}


def _dynimg_arms() -> dict[str, Arm]:
    papers = {1: 77.0, 2: 77.8, 4: 78.6, 6: 78.5, 8: 78.5, 16: 77.7}
    return {f"g{count}": Arm(f"{count} DynImgs", {"num_dynimgs": count, **_FULL}, papers[count]) for count in papers}


_FIXED, _SPLIT = {"rope_trainable": False}, {"rope_combine": "split"}

TABLES = {
    "table3": Table(
        "Table 3: temporal prompts, their stage, 4-D positions",
        {
            KEYFRAMES: Arm("keyframes only", _KEYFRAMES_ARM.model, 74.9),
            "after": Arm("after the encoder, 1-D", {"prompt_stage": "after", **_FLAT}, 75.2),
            "after_strip": Arm("after it, at strip resolution, 1-D (ours)", {"prompt_stage": "tiles", **_FLAT}),
            "before_1d": Arm("before the encoder, 1-D", {"prompt_stage": "before", **_FLAT}, 77.3),
            "before_4d": Arm("before the encoder, 4-D", {"prompt_stage": "before", **_FULL}, 78.6),
            "before_4d_token": Arm(
                "before it, 4-D, s counts tokens (ours)", {"prompt_stage": "before", **_FULL, **_BY_TOKEN}
            ),
        },
        (
            Claim("after", KEYFRAMES),
            Claim("before_1d", "after"),
            Claim("before_4d", "before_1d"),
            Claim("before_1d", KEYFRAMES),
            Claim("before_1d", "after_strip", is_ours=True),
            Claim("before_4d_token", "before_1d", is_ours=True),
        ),
        "before_4d",
    ),
    "table4": Table(
        "Table 4: number of prompt frames",
        {KEYFRAMES: _KEYFRAMES_ARM, **_prompt_arms()},
        (Claim("n4", "n1"), Claim("n4", "n2"), Claim("n4", "n6"), Claim("n4", "n12")),
        "n4",
    ),
    "table5": Table(
        "Table 5: number of DynImgs",
        {KEYFRAMES: _KEYFRAMES_ARM, **_dynimg_arms()},
        (Claim("g4", "g1"), Claim("g4", "g2"), Claim("g2", "g1"), Claim("g4", "g16")),
        "g4",
    ),
    "table6": Table(
        "Table 6: axes of the positions, and what is done with them",
        {
            KEYFRAMES: _KEYFRAMES_ARM,
            "s": _position("1-D (S)", 77.3, "s"),
            "hws_split_fixed": _position("3-D, split, fixed", 76.8, "hws", **_SPLIT, **_FIXED),
            "hws_split": _position("3-D, split, trainable", 77.8, "hws", **_SPLIT),
            "hws_merge": _position("3-D, merge, trainable", 78.0, "hws"),
            "hwts_split_fixed": _position("4-D, split, fixed", 77.0, "hwts", **_SPLIT, **_FIXED),
            "hwts_split": _position("4-D, split, trainable", 78.4, "hwts", **_SPLIT),
            "hwts_merge": _position("4-D, merge, trainable", 78.6, "hwts"),
            "hwts_token": _position("4-D, merge, s counts tokens (ours)", None, "hwts", **_BY_TOKEN),
        },
        (
            Claim("hws_split", "hws_split_fixed"),
            Claim("hwts_split", "hwts_split_fixed"),
            Claim("hws_merge", "hws_split"),
            Claim("hwts_merge", "hwts_split"),
            Claim("hwts_merge", "hws_merge"),
            Claim("hwts_merge", "s"),
            Claim("s", "hwts_split_fixed"),
            Claim("hwts_token", "hwts_merge", is_ours=True),
        ),
        "hwts_merge",
    ),
}
