"""The worlds of the experiments, written down before any arm was run, and those of the stages before them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...motion.plan import WorldPlan


@dataclass(frozen=True)
class World:
    """Hold one world: its clips, what it is for, and fields of the model's configuration that go with it.

    `shows_motion` tells that keyframes alone see some of the motion, since there are several: they have no bound then.
    """

    plan: WorldPlan
    purpose: str
    model: Mapping[str, Any] = field(default_factory=dict)
    shows_motion: bool = False


WORLDS = {
    "single": World(
        WorldPlan(families=("direction_of", "place"), speeds=(0.35, 0.9)),
        "one object, clear pictures: where the mechanism has least to offer",
    ),
    "several": World(
        WorldPlan(
            min_objects=3,
            max_objects=3,
            families=("direction_of", "colour", "place"),
            speeds=(0.35, 0.9),
            contrast=0.35,
            exposure=0.15,
        ),
        "three objects, low contrast, motion blur; which one moves, and what the red one does: where it should matter",
    ),
    "long": World(
        # Four DynImgs reach as far as one: what is faster has left the picture in most of them.
        WorldPlan(min_objects=2, max_objects=2, families=("direction_of", "colour", "place"), speeds=(0.2, 0.5)),
        "two objects, four DynImgs",
        model={"num_dynimgs": 4},
        shows_motion=True,
    ),
    "leak": World(
        WorldPlan(kinds=("move",), plain_share=1.0, leak=True),
        "a planted mistake: the place of the object betrays where it goes, and the control has to say so",
    ),
}
CLAIM_WORLDS = ("single", "several", "long")
"""Those that the paper's claims are tried on."""

STILLS = WorldPlan(min_objects=1, max_objects=3, kinds=("still",), families=("place", "shape_of", "count"))
"""Stage A: pictures in which nothing moves."""
COLLAGES = WorldPlan(max_objects=2, kinds=("still",), families=("place", "place_in"), scattered=True)
"""Stage B: frames that have nothing to do with each other, so that a model learns to read a strip, but no motion."""
