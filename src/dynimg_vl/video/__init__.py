"""Video files to chosen frames: index, select, read. Needs numpy and PyAV only."""

from .container import MAX_FRAMES, MAX_PIXELS
from .index import FrameIndex, index_video, open_index
from .reader import read_frames, read_sizes
from .selection import POLICIES, FrameGroup, choose_policy, select_frame_groups

__all__ = [
    "MAX_FRAMES",
    "MAX_PIXELS",
    "POLICIES",
    "FrameGroup",
    "FrameIndex",
    "choose_policy",
    "index_video",
    "open_index",
    "read_frames",
    "read_sizes",
    "select_frame_groups",
]
