"""How numbers stand in tables."""

from .statistics import Estimate

SHOWN_CHARACTERS = 300


def with_bounds(found: Estimate | None, digits: int = 1, sign: str = "") -> str:
    if found is None:
        return "-"
    bounds = "" if found.low is None else f" [{found.low:{sign}.{digits}f}, {found.high:{sign}.{digits}f}]"
    return f"{found.value:{sign}.{digits}f}{bounds}"


def plain(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def p_value(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
