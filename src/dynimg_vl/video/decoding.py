"""Decoding chosen frames of a video with as little work as it takes.

A frame needs its I-frame and the frames between the two that others refer to. Runs of packets from an I-frame to the
last wanted frame behind it are fed to the decoder; it skips what nothing refers to (`skip_frame` NONREF), except where
that is wanted itself. Packets carry their position as time stamp, so that a frame always tells which packet it is from.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from ..errors import VideoError
from .container import Limits
from .packets import PacketReader, PacketTable

Deliver = Callable[[int, Any], None]
"""Takes a frame number and the decoded frame."""

_PREDICTED = (2, 3, 4)  # AVPictureType P, B, S
_MAX_REORDER = 16  # packets that H.264 and HEVC may decode before a frame that is shown earlier
_RESCUE_KEYS = 8  # I-frames tried on either side of a frame that cannot be decoded


def decoder_limits(limits: Limits) -> dict[str, str]:
    """Give a decoder's options for streams that grow in the middle: twice the pixels and more, as frames are padded."""
    return {"max_pixels": str(min(2 * limits.max_pixels + 2**16, 2**31 - 1))}


class FalseIFramesError(VideoError):
    """Report a partial index that is worth nothing, since the container's flags are wrong."""


@dataclass(frozen=True)
class _Run:
    """Hold packets `start` to `stop` (exclusive), and which of them show wanted frames."""

    start: int
    stop: int
    targets: frozenset[int]


class FrameDecoder:
    """Decode chosen frames; one per open video, with one decoder thread."""

    def __init__(self, reader: PacketReader) -> None:
        self.reader = reader
        self.table: PacketTable = reader.table
        self.num_errors = 0
        self.context = reader.opened.stream.codec_context
        self.context.thread_count = 1
        self.context.options = decoder_limits(reader.opened.limits)
        if self.context.name == "h264":
            # Otherwise the decoder guesses how many frames it must hold back to sort them, and at first drops some.
            self.context.options = {**self.context.options, "strict": "1"}

    def decode(self, numbers: Collection[int], deliver: Deliver) -> list[int]:
        """Decode frames by number, in file order, and hand each to `deliver`; returns those that gave no frame.

        Raises:
            FalseIFramesError: where the table holds I-frames only and they are none.
        """
        left = set(numbers)
        for run in self._plan(left):
            if not self._decode_run(run, left, deliver):
                # Packets are flagged as I-frames and are none (an mp4 without its table of them): start at the start.
                if self.table.isolated:
                    name = self.reader.opened.name
                    raise FalseIFramesError(f"{name} flags packets as I-frames that are none; index it completely")
                positions = self.table.position[sorted(left)]
                self._decode_run(_Run(0, self._stop(positions.max()), frozenset(positions.tolist())), left, deliver)
                break
        return sorted(left)

    def nearest(self, number: int) -> tuple[int, Any] | None:
        """Find the readable frame nearest to one that cannot be decoded, as (its number, frame)."""
        keys, position = self.table.keys, int(self.table.position[number])
        rank = int(np.searchsorted(keys, position, side="right"))
        around = keys[max(0, rank - _RESCUE_KEYS) : rank + _RESCUE_KEYS].tolist() or [0]
        for start in sorted(around, key=lambda key: abs(key - position)):
            best: tuple[int, Any] | None = None
            for found, frame in self._frames(_Run(start, max(position, start) + 1, frozenset())):
                if best is None or abs(found - number) < abs(best[0] - number):
                    best = found, frame
            if best is not None:
                return best
        return None

    def _plan(self, numbers: Collection[int]) -> list[_Run]:
        """Group frames by the I-frame that they need; runs that overlap become one."""
        runs: list[_Run] = []
        positions = np.sort(self.table.position[sorted(numbers)]).tolist()
        wanted = sorted((self.table.start_of(position), position) for position in positions)
        for start, position in wanted:
            stop = self._stop(position)
            if runs and start < runs[-1].stop:
                last = runs.pop()
                runs.append(_Run(last.start, max(last.stop, stop), last.targets | {position}))
            else:
                runs.append(_Run(start, stop, frozenset({position})))
        return runs

    def _stop(self, position: int) -> int:
        if not self.table.by_order or self.table.is_key[position]:
            return int(position) + 1
        # Which packet shows a frame is only known once all that are decoded before it and shown earlier are in.
        rank = int(np.searchsorted(self.table.keys, position, side="right"))
        following = int(self.table.keys[rank]) if rank < len(self.table.keys) else len(self.table.pts)
        return min(int(position) + 1 + _MAX_REORDER, following)

    def _decode_run(self, run: _Run, left: set[int], deliver: Deliver) -> bool:
        """Decode one run; returns False where its first packet turns out to be no I-frame."""
        errors, start_number, started = self.num_errors, int(self.table.number[run.start]), False
        for number, frame in self._frames(run):
            if number == start_number and (run.start > 0 or self.table.isolated):
                if int(frame.pict_type) in _PREDICTED:
                    return False
                started = True
            if number in left:
                deliver(number, frame)
                left.discard(number)
        missed = any(int(self.table.number[target]) in left for target in run.targets)
        checked = (run.start == 0 and not self.table.isolated) or start_number < 0 or self.table.by_order
        return checked or started or not missed or self.num_errors > errors

    def _frames(self, run: _Run) -> Iterator[tuple[int, Any]]:
        """Yield (frame number, frame) as the decoder gives them out; packets that it cannot decode are counted."""
        first = int(np.searchsorted(self.table.position, run.start)) if self.table.by_order else 0
        skipping = bool(run.targets) and not self.table.by_order
        try:
            for count, frame in enumerate(self._decoded(run, skipping)):
                number = first + count if self.table.by_order else self._number(frame.pts)
                if number >= 0:
                    yield number, frame
        finally:
            self.context.flush_buffers()

    def _decoded(self, run: _Run, skipping: bool) -> Iterator[Any]:
        for position, packet in self.reader.run(run.start, run.stop):
            needed = not skipping or position == run.start or position in run.targets
            self.context.skip_frame = "DEFAULT" if needed else "NONREF"
            packet.pts = position
            yield from self._send(packet)
        yield from self._send(None)

    def _send(self, packet: Any) -> list[Any]:
        try:
            return self.context.decode(packet)
        except (av.FFmpegError, MemoryError):
            self.num_errors += 1
            return []

    def _number(self, position: int | None) -> int:
        return int(self.table.number[position]) if position is not None and 0 <= position < len(self.table.pts) else -1
