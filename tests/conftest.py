"""Fixtures that several files share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Several test processes share the cores; torch, which reads this when it is imported, would use all of them in each.
if count := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))

# On a busy machine an example takes as long as it takes; hypothesis would fail one after 0.2 s.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def ball_video():
    """Give the project's own sample clip."""
    return ROOT / "examples" / "ball.mp4"
