"""Draw how the learnt frequencies of h, w and t grow over training, out of a run's log."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ..errors import InputError
from .common import BACKGROUND, FAINT, INK, MARGIN, font

_COLOURS = {"h": (0, 114, 178), "w": (230, 159, 0), "t": (0, 158, 115)}  # told apart by colour-blind eyes too
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 720, 380, 72, 56, 52
_MAX_BYTES = 1 << 28
_GRID = (228, 228, 228)


def read_theta(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Read the sizes of theta from the log of a run.

    Args:
        run: the output folder of a run, or its `log.jsonl` or `trainer_state.json`.

    Returns:
        Steps and values by name: `theta_h_mean`, `theta_h_max` and so on; in radians per unit of the coordinate.

    Raises:
        InputError: where there is no such file, or it tells nothing about theta.
    """
    names = ("log.jsonl", "trainer_state.json")
    path = next((run / name for name in names if (run / name).is_file()), run)
    if not path.is_file():
        raise InputError(f"no log of a run at {run}; name its output folder, or a {' or '.join(names)}")
    found: dict[str, list[tuple[int, float]]] = {}
    for row in _rows(path):
        step = row.get("step")
        for name, value in row.items():
            if name.startswith("theta_") and isinstance(step, int) and isinstance(value, int | float):
                found.setdefault(name, []).append((step, float(value)))
    if not found:
        raise InputError(f"{path} tells nothing about theta: the model has none that learns, or no step was logged")
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path} is too large for a log")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        rows = json.loads(text).get("log_history", []) if path.suffix == ".json" else []
    except (json.JSONDecodeError, AttributeError) as error:
        raise InputError(f"{path} is no trainer_state.json: {error}") from error
    for line in () if path.suffix == ".json" else text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a run that is still going
            continue
    return [row for row in rows if isinstance(row, dict)]


def render_theta(series: dict[str, list[tuple[int, float]]]) -> Image.Image:
    """Draw mean (solid) and maximum (thin) of |theta| per axis against the step.

    Args:
        series: what `read_theta` gave.

    Returns:
        An RGB picture.
    """
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    last = max([step for points in series.values() for step, _ in points] + [1])
    top = max([value for points in series.values() for _, value in points] + [1e-6])
    width, height = _WIDTH - _LEFT - MARGIN, _HEIGHT - _TOP - _BOTTOM

    def at(step: float, value: float) -> tuple[float, float]:
        return _LEFT + width * step / last, _TOP + height * (1 - value / top)

    draw.text((MARGIN, 10), "|theta| of h, w, t over training: mean (thick) and maximum (thin)", INK, font(15))
    for value in _ticks(top):
        draw.line([at(0, value), at(last, value)], _GRID)
        draw.text((_LEFT - 8, at(0, value)[1]), f"{value:.4g}", INK, font(12), anchor="rm")
    for step in _ticks(last):
        draw.line([at(step, 0), at(step, top)], _GRID)
        draw.text((at(step, 0)[0], _HEIGHT - _BOTTOM + 8), f"{step:.6g}", INK, font(12), anchor="ma")
    draw.text((_LEFT + width / 2, _HEIGHT - 8), "step", INK, font(12), anchor="ms")
    draw.text((MARGIN, _TOP - 8), "radians per unit", FAINT, font(12), anchor="ls")
    for rank, (axis, colour) in enumerate(_COLOURS.items()):
        draw.rectangle((_WIDTH - 150 + 46 * rank, 40, _WIDTH - 138 + 46 * rank, 50), colour)
        draw.text((_WIDTH - 134 + 46 * rank, 51), axis, INK, font(13), anchor="ls")
        _draw_curve(draw, [at(*point) for point in series.get(f"theta_{axis}_mean", [])], colour, 3)
        _draw_curve(draw, [at(*point) for point in series.get(f"theta_{axis}_max", [])], colour, 1)
    return picture


def _ticks(end: float) -> list[float]:
    # From 0, four to ten of them, in steps of 1, 2 or 5 times a power of ten.
    unit = 10.0 ** math.floor(math.log10(end))
    step = next(size * unit for size in (0.1, 0.2, 0.5, 1.0, 2.0) if end / (size * unit) <= 10)
    return [number * step for number in range(math.floor(end / step + 1e-9) + 1)]


def _draw_curve(
    draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], width: int
) -> None:
    if len(points) == 1:
        x, y = points[0]
        draw.ellipse((x - width, y - width, x + width, y + width), colour)
    elif points:
        draw.line([*points], colour, width, joint="curve")
