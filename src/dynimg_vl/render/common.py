"""What all pictures share: colours, fonts, text that wraps, and a scale from dark to bright."""

import numpy as np
from PIL import ImageDraw, ImageFont

BACKGROUND, INK, FAINT = (255, 255, 255), (32, 33, 36), (154, 160, 166)
KEYFRAME, PROMPT = (26, 115, 232), (232, 113, 10)
MARGIN = 24

# From dark to bright with the hue going along, so that it can be read in grey and by colour-blind eyes.
_SCALE = np.array([(12, 8, 38), (92, 18, 110), (186, 54, 85), (249, 142, 9), (252, 255, 164)], float)


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Give the font of all pictures."""
    return ImageFont.load_default(size)


def heat(values: np.ndarray) -> np.ndarray:
    """Turn values (...) from 0 to 1 into colours (..., 3) uint8; what lies outside gets the colour of the end."""
    places = np.clip(values, 0, 1)
    stops = np.linspace(0, 1, len(_SCALE))
    return np.stack([np.interp(places, stops, channel) for channel in _SCALE.T], -1).round().astype(np.uint8)


def wrapped(draw: ImageDraw.ImageDraw, text: str, width: float, size: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font(size)) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
