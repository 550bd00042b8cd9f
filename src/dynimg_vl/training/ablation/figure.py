"""The figures of a table in one world, as SVG: each arm's mean, interval and seeds, and how it came there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from .statistics import Estimate

_BLUE, _GREY, _DARK = "#0072b2", "#777777", "#222222"
_CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#222222")
_DASHES = ("none", "6 3")
_LEFT, _WIDTH, _STEP, _TOP = 270, 480, 34, 46


@dataclass(frozen=True)
class Row:
    """Hold one line of the figure: the mean over seeds, each seed, and what is left with the strip shuffled."""

    title: str
    found: Estimate
    seeds: tuple[float, ...]
    shuffled: float | None = None


def draw_figure(title: str, rows: Sequence[Row], bound: float | None) -> str:
    """Draw bars from 0 to 100 points, the best readable in black and white too, and return the text of the SVG."""
    height = _TOP + _STEP * len(rows) + 44
    svg = _canvas(title, height)
    for level in range(0, 101, 20):
        _line(svg, _at(level), _TOP - 6, _at(level), height - 40, "#dddddd")
        _text(svg, _at(level), height - 24, str(level), anchor="middle")
    for rank, row in enumerate(rows):
        y = _TOP + _STEP * rank
        _text(svg, _LEFT - 8, y + 15, row.title, anchor="end")
        bar = {"x": f"{_LEFT}", "y": f"{y + 3}", "width": f"{_at(row.found.mean) - _LEFT:.1f}", "height": "16"}
        SubElement(svg, "rect", {**bar, "fill": _BLUE, "fill-opacity": "0.55"})
        for value in row.seeds:
            SubElement(svg, "circle", {"cx": f"{_at(value):.1f}", "cy": f"{y + 11}", "r": "3", "fill": _DARK})
        if row.found.low is not None and row.found.high is not None:
            _line(svg, _at(row.found.low), y + 22, _at(row.found.high), y + 22, _DARK)
        if row.shuffled is not None:
            _line(svg, _at(row.shuffled), y, _at(row.shuffled), y + 22, "#d55e00", dash="3 2")
    if bound is not None:
        _line(svg, _at(bound), _TOP - 6, _at(bound), height - 40, _GREY, dash="5 4")
    legend = "bar: mean; dots: seeds; line below: 95 % interval; orange: strip shuffled; grey dashes: a guess"
    _text(svg, 12, height - 6, f"Macro accuracy in points. {legend}.", colour=_GREY)
    indent(svg)
    return tostring(svg, encoding="unicode") + "\n"


def draw_curves(title: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw how arms learn, points of (clips, accuracy) by name, and return the text of the SVG."""
    bottom = _TOP + 260
    svg = _canvas(title, bottom + 46)
    most = max((clips for points in curves.values() for clips, _ in points), default=1.0)

    def place(clips: float, accuracy: float) -> tuple[float, float]:
        return _at(100 * clips / most), bottom - 260 * min(max(accuracy, 0.0), 100.0) / 100

    for level in range(0, 101, 20):
        y = place(0, level)[1]
        _line(svg, _LEFT, y, _at(100), y, "#dddddd")
        _text(svg, _LEFT - 8, y + 4, str(level), anchor="end")
        _text(svg, _at(level), bottom + 18, f"{most * level / 100:.0f}", anchor="middle")
    for rank, (name, points) in enumerate(curves.items()):
        style = {
            "stroke": _CURVES[rank % len(_CURVES)],
            "stroke-dasharray": _DASHES[rank // len(_CURVES) % len(_DASHES)],
        }
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        SubElement(svg, "polyline", {"points": path, "fill": "none", "stroke-width": "2", **style})
        SubElement(svg, "line", {"x1": "6", "x2": "18", **dict.fromkeys(("y1", "y2"), f"{_TOP + 20 * rank}"), **style})
        _text(svg, 22, _TOP + 20 * rank + 4, name, size=10)
    text = "Clips seen, and right answers about motion on validation clips (in %, no macro average; mean of the seeds)."
    _text(svg, 12, bottom + 40, text, colour=_GREY)
    indent(svg)
    return tostring(svg, encoding="unicode") + "\n"


def _canvas(title: str, height: int) -> Element:
    size = {"width": str(_LEFT + _WIDTH + 60), "height": str(height)}
    svg = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", **size, "font-size": "12"})
    svg.set("viewBox", f"0 0 {size['width']} {height}")
    svg.set("font-family", "system-ui, sans-serif")
    SubElement(svg, "rect", {"width": "100%", "height": "100%", "fill": "white"})
    _text(svg, 12, 20, title, weight="bold")
    return svg


def _at(value: float) -> float:
    # An interval over few seeds may leave the scale.
    return _LEFT + _WIDTH * min(max(value, 0.0), 100.0) / 100


def _line(svg: Element, x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> None:
    ends = {name: f"{value:.1f}" for name, value in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))}
    SubElement(svg, "line", {**ends, "stroke": colour, **({"stroke-dasharray": dash} if dash else {})})


def _text(
    svg: Element,
    x: float,
    y: float,
    text: str,
    anchor: str = "start",
    colour: str = _DARK,
    weight: str = "normal",
    size: int = 12,
) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "fill": colour}
    place |= {"font-weight": weight, "font-size": str(size)}
    SubElement(svg, "text", place).text = text
