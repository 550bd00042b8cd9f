"""Pictures of a report, as SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

from .document import shown
from .statistics import Estimate

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # told apart by colour-blind eyes too
_GREY = "#777777"
_FONT = {"font-family": "system-ui, sans-serif", "font-size": "12"}


@dataclass(frozen=True)
class Point:
    """Hold one method of a scatter plot; `low` and `high` bound a measured value."""

    label: str
    x: float
    y: float
    is_claimed: bool
    low: float | None = None
    high: float | None = None


def bar_chart(
    groups: Sequence[str], series: Mapping[str, Mapping[str, Estimate]], claimed: Mapping[str, float], claimed_name: str
) -> Element:
    """Draw horizontal bars of percentages, one group of bars for each task, with their confidence intervals.

    Args:
        groups: names of the tasks, from top to bottom.
        series: measured: by run, by task.
        claimed: published values by task, drawn as hollow marks rather than bars.
        claimed_name: whose they are.
    """
    left, width, bar, gap, top = 190, 520, 11, 9, 30 + 18 * (len(series) + 1)
    step = bar * max(1, len(series)) + gap
    height = top + step * len(groups) + 30
    svg = _svg(left + width + 40, height)

    def at(value: float) -> float:
        return left + width * value / 100

    _legend(svg, list(series), f"{claimed_name} (claimed)" if claimed else "", left)
    for value in range(0, 101, 20):
        _line(svg, at(value), top - 4, at(value), height - 30, "#dddddd")
        _text(svg, at(value), height - 14, f"{value} %", anchor="middle")
    for rank, group in enumerate(groups):
        y = top + rank * step
        _text(svg, left - 8, y + step / 2 - gap / 2 + 4, group, anchor="end")
        for place, by_group in enumerate(series.values()):
            found = by_group.get(group)
            if found is None:
                continue
            middle = y + bar * place + bar / 2
            size = {"x": _n(left), "y": _n(y + bar * place), "width": _n(at(found.value) - left), "height": _n(bar - 1)}
            SubElement(svg, "rect", {**size, "fill": _COLOURS[place % len(_COLOURS)]})
            if found.low is not None and found.high is not None:
                _line(svg, at(found.low), middle, at(found.high), middle, "#222222")
        if group in claimed:
            _diamond(svg, at(claimed[group]), y + (step - gap) / 2)
    return svg


def scatter_chart(points: Sequence[Point], x_title: str, y_title: str) -> Element:
    """Draw accuracy against a number of tokens (logarithmic): measured points filled, claimed ones hollow."""
    left, top, width, height = 70, 20, 560, 340
    svg = _svg(left + width + 130, top + height + 60)
    xs, ys = [math.log2(point.x) for point in points], [point.y for point in points]
    x_low, x_high = math.floor(min(xs) - 0.2), math.ceil(max(xs) + 0.2)
    y_low = 5 * math.floor(min([point.low or point.y for point in points] + ys) / 5 - 0.2)
    y_high = 5 * math.ceil(max([point.high or point.y for point in points] + ys) / 5 + 0.2)

    def at_x(value: float) -> float:
        return left + width * (math.log2(value) - x_low) / (x_high - x_low)

    def at_y(value: float) -> float:
        return top + height * (y_high - value) / (y_high - y_low)

    for power in range(x_low, x_high + 1):
        _line(svg, at_x(2.0**power), top, at_x(2.0**power), top + height, "#eeeeee")
        _text(svg, at_x(2.0**power), top + height + 18, f"{2.0**power:g}", anchor="middle")
    for level in range(y_low, y_high + 1, max(5, 5 * round((y_high - y_low) / 40))):
        _line(svg, left, at_y(level), left + width, at_y(level), "#eeeeee")
        _text(svg, left - 8, at_y(level) + 4, f"{level}", anchor="end")
    for rank, point in enumerate(points):
        x, y = at_x(point.x), at_y(point.y)
        if point.low is not None and point.high is not None:
            _line(svg, x, at_y(point.low), x, at_y(point.high), "#222222")
        if point.is_claimed:
            _diamond(svg, x, y)
        else:
            colour = _COLOURS[rank % len(_COLOURS)]
            SubElement(svg, "circle", {"cx": _n(x), "cy": _n(y), "r": "5", "fill": colour})
        label = f"{point.label} (claimed)" if point.is_claimed else point.label
        _text(svg, x + 8, y - 6, label, colour=_GREY if point.is_claimed else "#222222")
    _text(svg, left + width / 2, top + height + 42, x_title, anchor="middle")
    _text(svg, left, top - 6, y_title)
    return svg


def _svg(width: float, height: float) -> Element:
    size = {"width": _n(width), "height": _n(height), "viewBox": f"0 0 {_n(width)} {_n(height)}"}
    return Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", **size, **_FONT})


def _legend(svg: Element, names: Sequence[str], claimed: str, left: float) -> None:
    for rank, name in enumerate(names):
        square = {"x": _n(left), "y": _n(8 + 18 * rank), "width": "11", "height": "11"}
        SubElement(svg, "rect", {**square, "fill": _COLOURS[rank % len(_COLOURS)]})
        _text(svg, left + 18, 18 + 18 * rank, name)
    if claimed:
        _diamond(svg, left + 5, 14 + 18 * len(names))
        _text(svg, left + 18, 18 + 18 * len(names), claimed, colour=_GREY)


def _diamond(svg: Element, x: float, y: float) -> None:
    corners = ((x, y - 5), (x + 5, y), (x, y + 5), (x - 5, y))
    path = " ".join(f"{_n(a)},{_n(b)}" for a, b in corners)
    SubElement(svg, "polygon", {"points": path, "fill": "white", "stroke": _GREY, "stroke-width": "1.5"})


def _line(svg: Element, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
    ends = {"x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2)}
    SubElement(svg, "line", {**ends, "stroke": colour})


def _text(svg: Element, x: float, y: float, text: str, anchor: str = "start", colour: str = "#222222") -> None:
    element = SubElement(svg, "text", {"x": _n(x), "y": _n(y), "text-anchor": anchor, "fill": colour})
    element.text = shown(text)[:60]


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
