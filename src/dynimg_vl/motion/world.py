"""The motion world: clips of moving objects and cameras whose truth is known exactly, drawn in batches.

Lengths are in screens, from the top left corner; time is in keyframe gaps, 0 at the keyframe. One affine map holds for
everything that is seen: what is at p at the keyframe appears at ``0.5 + (p - 0.5 + d(t) - c t) / s(t)``, with d the
object's own displacement (`paths`), c the camera's velocity and ``s(t) = exp(zoom t)``.

No leak: where things are *at the keyframe*, their number, colour, shape and size are drawn before, and independently
of, how they move. A first world without this let a model that saw keyframes only answer 67 % of the motion questions.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .paths import DIRECTIONS, UNIT, Draw, Paths, displacement, draw_kinds, draw_paths, is_shown, moves
from .textures import PICTURE_SCREENS, PictureBank

__all__ = ["CAMERA_KINDS", "COLOURS", "DIRECTIONS", "SHAPES", "Scenes", "sample_scenes"]

CAMERA_KINDS = ("still", "left", "right", "up", "down", "in", "out", "change")
"""Camera motions; the words are the camera's (it pans left: what is seen moves right). The last: unrelated pictures."""
COLOURS = {
    "red": (0.86, 0.12, 0.12),
    "green": (0.13, 0.68, 0.2),
    "blue": (0.14, 0.27, 0.9),
    "yellow": (0.95, 0.86, 0.1),
    "purple": (0.62, 0.16, 0.75),
    "white": (0.97, 0.97, 0.97),
}
SHAPES = ("circle", "square", "triangle", "bar")
MAX_OBJECTS = 3
CAMERA_SHARE = 0.35
"""The share of clips with a moving camera (one in eight of them keeps still)."""
_NUM_OBJECTS = (0.1, 0.45, 0.8)  # cumulated shares of none, one and two objects under a still camera

_OBJECT_FIELDS = (
    "present",
    "textured",
    "outlined",
    "position",
    "radius",
    "aspect",
    "angle",
    "shape_id",
    "colour_id",
    "tint",
    "surface_id",
    *(field.name for field in fields(Paths)),
)


@dataclass
class Scenes:
    """Describe B clips with S = 3 places for objects; `rows` picks some of them.

    camera_id (B,), camera (B, 2) screens per gap, zoom (B,) log scale per gap, centre (B, 2) screens of the picture,
    crop (B,) screens that one view covers, flip (B, 2) +-1, picture_id (B, 3) one per segment, cuts (B, 2) gaps (inf:
    none), flat (B,) bool, shade (B, 3) its colour, gain and offset (B, 3), grain (B,) noise level in 0..1, exposure
    (B,) gaps over which a frame is averaged, scattered (B,) bool, whether objects lie anywhere in each frame;
    present, textured, outlined (B, S) bool, position (B, S, 2), radius (B, S) screens, aspect (B, S), angle (B, S),
    shape_id (B, S), colour_id (B, S), tint (B, S, 3), surface_id (B, S) picture of a textured object; the rest are
    those of `paths.Paths`.
    """

    camera_id: Tensor
    camera: Tensor
    zoom: Tensor
    centre: Tensor
    crop: Tensor
    flip: Tensor
    picture_id: Tensor
    cuts: Tensor
    flat: Tensor
    shade: Tensor
    gain: Tensor
    offset: Tensor
    grain: Tensor
    exposure: Tensor
    scattered: Tensor
    present: Tensor
    textured: Tensor
    outlined: Tensor
    position: Tensor
    radius: Tensor
    aspect: Tensor
    angle: Tensor
    shape_id: Tensor
    colour_id: Tensor
    tint: Tensor
    surface_id: Tensor
    kind_id: Tensor
    direction_id: Tensor
    turn_id: Tensor
    speed_id: Tensor
    knots: Tensor
    legs: Tensor
    swing: Tensor
    pace: Tensor
    phase: Tensor
    shown: Tensor

    def __len__(self) -> int:
        return len(self.camera_id)

    def rows(self, index: Tensor | slice) -> "Scenes":
        """Pick some of the clips."""
        return Scenes(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def places(self, place: int) -> "Scenes":
        """Keep one of the places for objects, so that S = 1."""
        one = slice(place, place + 1)
        return replace(self, **{name: getattr(self, name)[:, one] for name in _OBJECT_FIELDS})

    def to(self, device: torch.device | str) -> "Scenes":
        """Put everything on a device, so that it is drawn there."""
        return Scenes(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    @property
    def paths(self) -> Paths:
        """Give the paths of the objects."""
        return Paths(**{field.name: getattr(self, field.name) for field in fields(Paths)})

    @property
    def num_objects(self) -> Tensor:
        """Count the objects of each clip: (B,)."""
        return self.present.sum(1)

    @property
    def moves(self) -> Tensor:
        """Tell which objects move by themselves: (B, S) bool."""
        return self.present & moves(self.kind_id)


def sample_scenes(
    num: int, num_pictures: int, generator: torch.Generator, camera_share: float = CAMERA_SHARE
) -> Scenes:
    """Draw `num` clips: a share with a moving camera (objects mostly fixed in the world), the rest with a still one."""
    draw = Draw(generator)
    is_camera = draw.uniform(num) < camera_share
    # Everything visible in the keyframe comes first; how it moves is drawn without looking at it.
    seen = appearance(draw, num, num_pictures, is_camera)
    kinds = draw_kinds(draw, seen["present"], is_camera)
    paths = draw_paths(draw, kinds, seen["position"], seen["radius"])
    return Scenes(**seen, **camera_motion(draw, num, is_camera), **vars(paths))


def appearance(draw: Draw, num: int, num_pictures: int, is_camera: Tensor) -> dict[str, Tensor]:
    """Draw all that a keyframe shows: fields of `Scenes`."""
    few = torch.where(draw.uniform(num) < 0.5, 0, 1 + draw.integers(2, num))
    many = torch.bucketize(draw.uniform(num), torch.tensor(_NUM_OBJECTS))
    present = torch.arange(MAX_OBJECTS) < torch.where(is_camera, few, many)[:, None]
    textured = draw.uniform(num, MAX_OBJECTS) < 0.35
    # Some of those with a picture on them are large, as things in real footage are.
    large = textured & (draw.uniform(num, MAX_OBJECTS) < 0.25)
    radius = draw.uniform(num, MAX_OBJECTS, low=0.07, high=0.17) * torch.where(large, 2.0, 1.0)
    colour_id = draw.uniform(num, len(COLOURS)).argsort(1)[:, :MAX_OBJECTS]
    palette = torch.tensor(list(COLOURS.values()))
    return {
        # Even the fastest camera stays over the picture for a gap on either side.
        "centre": draw.uniform(num, 2, low=1.35, high=1.65),
        "crop": draw.uniform(num, low=0.5, high=1.0),
        "flip": 1.0 - 2.0 * draw.integers(2, num, 2).float(),
        "picture_id": draw.integers(num_pictures, num, 3),
        # A plain background shows no camera motion, so such clips are never about the camera.
        "flat": ~is_camera & (draw.uniform(num) < 0.25),
        "shade": draw.uniform(num, 3, low=0.05, high=0.95) * 0.5 + draw.uniform(num, 1) * 0.5,
        "gain": draw.uniform(num, 1, low=0.7, high=1.2) * draw.uniform(num, 3, low=0.92, high=1.08),
        "offset": draw.uniform(num, 1, low=-0.12, high=0.12) + draw.uniform(num, 3, low=-0.04, high=0.04),
        "grain": draw.uniform(num, high=0.03),
        "exposure": torch.zeros(num),
        "scattered": torch.zeros(num, dtype=torch.bool),
        "present": present,
        "textured": textured,
        "outlined": textured & (draw.uniform(num, MAX_OBJECTS) < 0.6),
        "position": spread_positions(present, radius, draw),
        "radius": radius,
        "aspect": draw.uniform(num, MAX_OBJECTS, low=-0.2, high=0.2).exp(),
        "angle": draw.uniform(num, MAX_OBJECTS, high=6.2832),
        "shape_id": draw.integers(len(SHAPES), num, MAX_OBJECTS),
        "colour_id": colour_id,
        "tint": (palette[colour_id] + draw.uniform(num, MAX_OBJECTS, 3, low=-0.06, high=0.06)).clamp(0, 1),
        "surface_id": draw.integers(num_pictures, num, MAX_OBJECTS),
    }


def camera_motion(draw: Draw, num: int, is_camera: Tensor) -> dict[str, Tensor]:
    """Draw how the cameras move: fields of `Scenes`."""
    camera_id = torch.where(is_camera, draw.integers(len(CAMERA_KINDS), num), 0)
    pan = UNIT[torch.where(camera_id <= 4, camera_id, 0)]
    slant = draw.uniform(num, 1, low=-0.2, high=0.2) * pan.flip(1)
    zoom_sign = (camera_id == CAMERA_KINDS.index("out")).float() - (camera_id == CAMERA_KINDS.index("in")).float()
    cuts = draw.uniform(num, 2, low=-0.6, high=0.6).sort(1).values
    cuts[:, 1] = torch.where(draw.uniform(num) < 0.5, cuts[:, 1], torch.inf)
    return {
        "camera_id": camera_id,
        "camera": (pan + slant) * draw.uniform(num, 1, low=0.1, high=0.8),
        "zoom": zoom_sign * draw.uniform(num, low=0.2, high=0.6),
        "cuts": torch.where((camera_id == CAMERA_KINDS.index("change"))[:, None], cuts, torch.inf),
    }


def spread_positions(present: Tensor, radius: Tensor, draw: Draw, tries: int = 24) -> Tensor:
    """Draw places (B, S, 2), uniform over the screen given that no two objects of a clip overlap at the keyframe."""
    num, places = present.shape
    trial = draw.uniform(num, tries, places, 2, low=0.1, high=0.9)
    gap = (trial[:, :, :, None] - trial[:, :, None]).square().sum(-1).sqrt()
    need = 1.25 * (radius[:, None, :, None] + radius[:, None, None])
    pair = present[:, None, :, None] & present[:, None, None] & ~torch.eye(places, dtype=torch.bool)
    fits = ~((gap < need) & pair).any((2, 3))
    first = fits.float().argmax(1)  # of some draws; 0 where none fits: rare, and still independent of the motion
    return trial[torch.arange(num), first]


def travel(scenes: Scenes, times: Tensor) -> Tensor:
    """Give each object's own displacement at times (B, T): (B, T, S, 2) screens of the keyframe."""
    moved = displacement(scenes.paths, times)
    if not bool(scenes.scattered.any()):
        return moved
    places = _scattered_places(scenes, times) - scenes.position[:, None]
    return torch.where(scenes.scattered[:, None, None, None], places, moved)


def _scattered_places(scenes: Scenes, times: Tensor) -> Tensor:
    # A hash of the time, so that pixels, targets and answers find the same place (B, T, S, 2) without storing it. Times
    # of frames are drawn, so that no two frames share one.
    angle = times.double()[:, :, None, None] * 54_321.0 + scenes.phase.double()[:, None, :, None] * 1_234.5
    turned = angle * torch.tensor([1.0, 1.7], dtype=torch.float64, device=angle.device)
    return (0.1 + 0.8 * (turned.sin() * 43_758.545_3).frac().abs()).to(times.dtype)


def object_centres(scenes: Scenes, times: Tensor) -> Tensor:
    """Give where the objects are seen at times (B, T): (B, T, S, 2) screens."""
    scale = (scenes.zoom[:, None] * times).exp()[:, :, None, None]
    moved = scenes.position[:, None] - 0.5 + travel(scenes, times)
    return 0.5 + (moved - scenes.camera[:, None, None] * times[:, :, None, None]) / scale


def segments(scenes: Scenes, times: Tensor) -> Tensor:
    """Tell which picture is behind the frames at times (B, T): 0, 1 or 2; changes only where the scene changes."""
    return (times[:, :, None] > scenes.cuts[:, None]).sum(2)


def object_distance(scenes: Scenes, times: Tensor, points: Tensor) -> Tensor:
    """Measure from points (B, T, P, 2) to each object's edge: (B, T, P, S), negative inside, in screens; absent: +1."""
    scale = (scenes.zoom[:, None] * times).exp()[:, :, None, None]
    local = (points[:, :, :, None] - object_centres(scenes, times)[:, :, None]) * scale[..., None]
    x, y = local[..., 0], local[..., 1] * 0.75  # as round as on a 4:3 picture
    cos, sin = scenes.angle.cos()[:, None, None], scenes.angle.sin()[:, None, None]
    stretch = scenes.aspect.sqrt()[:, None, None]
    x, y = (cos * x - sin * y) * stretch, (sin * x + cos * y) / stretch
    radius = scenes.radius[:, None, None]
    box = torch.maximum(x.abs(), y.abs()) - 0.85 * radius
    triangle = torch.maximum(x.abs() * 0.866 + y * 0.5, -y) - 0.6 * radius
    bar = torch.maximum(x.abs() - radius, y.abs() - 0.45 * radius)
    shapes = torch.stack(((x.square() + y.square()).sqrt() - radius, box, triangle, bar), -1)
    chosen = scenes.shape_id[:, None, None, :, None].expand(*shapes.shape[:-1], 1)
    distance = shapes.gather(-1, chosen).squeeze(-1) / scale
    there = scenes.present[:, None] & is_shown(scenes.paths, times)
    return torch.where(there[:, :, None], distance, 1.0)


def picture_points(scenes: Scenes, times: Tensor, points: Tensor) -> Tensor:
    """Map points (B, T, P, 2) of the screen to sampling coordinates in -1..1 of the background picture."""
    scale = (scenes.zoom[:, None] * times).exp()[:, :, None, None]
    world = scenes.camera[:, None, None] * times[:, :, None, None] + (points - 0.5) * scale
    world = scenes.centre[:, None, None] + scenes.crop[:, None, None, None] * world
    return (world * (2 / PICTURE_SCREENS) - 1) * scenes.flip[:, None, None]


def new_bank(num_pictures: int, seed: int) -> PictureBank:
    """Make a bank of procedural pictures from a seed."""
    return PictureBank.procedural(num_pictures, torch.Generator().manual_seed(seed))
