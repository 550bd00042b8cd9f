"""Where the keyframe patches of each arm look, before and after it is trained: Section 3.1's claim as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .statistics import estimate

_TIMES = "times_its_area"
_CELLS = (
    ("moving", "strip"),
    ("moving", "match"),
    ("moving", _TIMES),
    ("moving", "place"),
    ("still", "match"),
    ("still", _TIMES),
)
_TITLES = (
    "moving: in the strip",
    "on its content",
    "times its area",
    "on the same place",
    "still: on its content",
    "times its area",
)


def summarise_looks(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Summarise where the patches of one arm look, in the layer that finds the content of moving patches best.

    Args:
        found: the results of the arm, one for each seed.

    Returns:
        `layer`, and under `before` and `after` estimates over seeds by group and share (percent of attention, or how
        often it is the share of the area). None where the tower never sees a keyframe with a strip.
    """
    both = [(each.get("looks_before"), each.get("looks")) for each in found]
    after = [looks for _, looks in both if looks]
    if not after or len(after) < len(found):
        return None
    layers = range(len(after[0]))
    best = max(layers, key=lambda layer: sum(_value(looks[layer], "moving", _TIMES) for looks in after))
    befores = [looks for looks, _ in both if looks]
    return {
        "layer": after[0][best]["layer"],
        "before": _estimates([looks[best] for looks in befores]) if len(befores) == len(found) else None,
        "after": _estimates([looks[best] for looks in after]),
    }


def looks_section(titles: Mapping[str, str], looks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Print as a Markdown table what `summarise_looks` gives for each arm; nothing where no arm has it.

    Args:
        titles: of the arms.
        looks: by arm.
    """
    if not looks:
        return []
    lines = [
        "Where the keyframe's patches look, from the common weights to the trained arm (mean over heads, of the layer "
        "that finds moving content best; percent of a patch's attention, with the 95 % interval over initial weights): "
        "on objects that move, in prompt frames that show their content elsewhere, and on still ground.",
        "",
        f"| arm | layer | {' | '.join(_TITLES)} |",
        "|---" * (2 + len(_TITLES)) + "|",
    ]
    for arm, found in looks.items():
        cells = [_cell(found["before"], found["after"], group, share) for group, share in _CELLS]
        lines.append(f"| {titles[arm]} | {found['layer']} | {' | '.join(cells)} |")
    return [*lines, ""]


def _value(row: Mapping[str, Any], group: str, share: str) -> float:
    shares = {name: each["mean"] for name, each in row[group].items()}
    return shares["match"] / shares["chance"] if share == _TIMES else 100 * shares[share]


def _estimates(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for group, share in _CELLS:
        found = estimate([_value(row, group, share) for row in rows])
        assert found is not None
        made.setdefault(group, {})[share] = asdict(found)
    return made


def _cell(before: Mapping[str, Any] | None, after: Mapping[str, Any], group: str, share: str) -> str:
    found = after[group][share]
    first = "" if before is None else f"{before[group][share]['mean']:.1f} → "
    reach = "" if found["low"] is None else f" ({found['low']:.1f} to {found['high']:.1f})"
    return f"{first}{found['mean']:.1f}{reach}"
