"""Fixtures that several files share."""

from pathlib import Path

import pytest
from hypothesis import settings

# On a busy machine an example takes as long as it takes; hypothesis would fail one after 0.2 s.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def ball_video():
    """Give the project's own sample clip."""
    return ROOT / "examples" / "ball.mp4"
