"""Fixtures that several files share."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def ball_video():
    """Give the project's own sample clip."""
    return ROOT / "examples" / "ball.mp4"
