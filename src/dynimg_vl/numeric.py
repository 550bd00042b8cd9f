"""Numbers out of files that anybody may have written."""

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Tell whether a value out of JSON or YAML is a finite number that a float can hold, and no truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False
