"""The packets of a video: a table of their times and flags, and how to get at them again, from memory or by seeking."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import av
import numpy as np

from ..errors import VideoError
from .container import OpenVideo

NO_TIME = -(2**63)
"""Stands for a time that the container does not give, as in FFmpeg."""

_KEPT_BYTES = 64 * 2**20  # packets up to this size stay in memory, so that a short file is read once
_KEPT_PACKETS = 250_000  # the same, as each takes 600 bytes more: 2 hours; 5 million of a byte each took 3.3 GB
_MAX_ERRORS = 100  # damaged spots that a pass steps over before it ends
_SEEK_BACK_SECONDS = (0.0, 2.0, 10.0, 60.0)  # tries to land before a packet; after that, from the start of the file
_MAX_REORDER = 16  # frames that a packet may be ahead of its turn
_LANDING_PACKETS = 3000  # packets read after a seek before the next try


@dataclass(frozen=True, eq=False)
class PacketTable:
    """Hold times and flags of P packets in decoding order and which of them show F frames.

    `pts` and `dts` (P,) are in ticks, `NO_TIME` where missing. `position` (F,) maps a frame number to its packet,
    `number` (P,) a packet to its frame number or -1.
    `by_order` marks streams without presentation times: frame n of a group of pictures is the n-th that its decoder
    gives out. `lost` counts packets that the container promised and did not hold. `isolated` marks the table of a
    partial index, whose packets do not follow one another in the file.
    """

    pts: np.ndarray
    dts: np.ndarray
    is_key: np.ndarray
    position: np.ndarray
    by_order: bool = False
    lost: int = 0
    isolated: bool = False
    keys: np.ndarray = field(init=False)
    number: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        number = np.full(len(self.pts), -1)
        number[self.position] = np.arange(len(self.position))
        object.__setattr__(self, "keys", np.flatnonzero(self.is_key))
        object.__setattr__(self, "number", number)

    def start_of(self, position: int) -> int:
        """Find the packet at which decoding must start to show a packet: the last I-frame that comes before it.

        A leading picture follows an I-frame in the file and precedes it in time; it needs the I-frame before that.
        """
        rank = int(np.searchsorted(self.keys, position, side="right")) - 1
        while rank >= 0 and self.pts[self.keys[rank]] > self.pts[position] and not self.by_order:
            rank -= 1
        return int(self.keys[rank]) if rank >= 0 else 0


def iterate_packets(opened: OpenVideo) -> Iterator[Any]:
    """Yield the packets of the video stream from where the file stands, stepping over damage."""
    for _ in range(_MAX_ERRORS):
        try:
            for packet in opened.container.demux(opened.stream):
                if packet.size:
                    yield packet
            return
        except (av.FFmpegError, OSError, MemoryError):
            continue  # FFmpeg goes on after the damaged spot, and reports the end of the file as an end


def scan(opened: OpenVideo, packets: Iterable[Any] | None = None) -> tuple[PacketTable, list[Any] | None]:
    """Read all packets from where the file stands (or the given ones), decoding nothing.

    Returns the table and the packets themselves, or None in their place where they are too large to keep.

    Raises:
        VideoError: where there are no frames, or more than the limit.
    """
    pts, dts, flags = array("q"), array("q"), bytearray()
    kept: list[Any] | None = []
    kept_bytes = 0
    limit = opened.limits.max_frames
    hides_frames = opened.stream.codec_context.name == "vp8"
    for packet in iterate_packets(opened) if packets is None else packets:
        pts.append(NO_TIME if packet.pts is None else packet.pts)
        dts.append(NO_TIME if packet.dts is None else packet.dts)
        # VP8 keeps alternate references in packets of their own, with the bit show_frame off: they are no frames.
        hidden = packet.is_discard or (hides_frames and not memoryview(packet)[0] & 0x10)
        flags.append(packet.is_keyframe | hidden << 1)
        if len(pts) > limit:
            raise VideoError(f"{opened.name}: more than {limit} frames; raise max_frames if you trust the file")
        if kept is not None:
            kept.append(packet)
            kept_bytes += packet.size
            if kept_bytes > _KEPT_BYTES or len(kept) > _KEPT_PACKETS:
                kept = None
    bits = np.frombuffer(bytes(flags), np.uint8)
    promised = opened.num_promised if packets is None else 0
    by_order = False
    if _makes_times_up(opened):
        pts, by_order = dts, bool(opened.stream.codec_context.has_b_frames)
    shown_at, decoded_at = np.array(pts, np.int64), np.array(dts, np.int64)
    table = build_table(shown_at, decoded_at, bits & 1 > 0, bits & 2 > 0, promised, by_order)
    if not len(table.position):
        raise VideoError(f"{opened.name} holds a video stream without frames; it is damaged or was never finished")
    return table, kept


def _makes_times_up(opened: OpenVideo) -> bool:
    # AVI has no presentation times, and FFmpeg numbers packets as they come: wrong where H.264 reorders frames.
    return opened.format == "avi" and opened.stream.codec_context.name in ("h264", "hevc")


def build_table(
    pts: np.ndarray,
    dts: np.ndarray,
    is_key: np.ndarray,
    is_hidden: np.ndarray,
    promised: int = 0,
    by_order: bool = False,
) -> PacketTable:
    """Order the shown packets by presentation time, and fill in times that the container does not give."""
    shown = np.flatnonzero(~is_hidden)
    missing = pts[shown] == NO_TIME
    if missing.any() and not by_order:
        known = dts[shown] != NO_TIME
        if (missing & ~known).any() or missing.mean() > 0.5:
            by_order = True
        else:
            pts = np.where(pts == NO_TIME, dts, pts)
    order = shown if by_order else shown[np.argsort(pts[shown], kind="stable")]
    return PacketTable(pts, dts, is_key, order, by_order, max(0, promised - len(pts)))


def scan_range(opened: OpenVideo, seconds: Sequence[float]) -> tuple[PacketTable, list[Any] | None]:
    """Seek to a stretch (start, end) of a long file and read all of its packets, from the I-frame before it on.

    Returns an empty table where no I-frame before the stretch can be found.
    """
    start_seconds, end_seconds = seconds
    for back in _SEEK_BACK_SECONDS:
        if not _seek(opened, start_seconds - back):
            continue
        packets = iterate_packets(opened)
        first = next((packet for packet in packets if packet.is_keyframe and packet.pts is not None), None)
        if first is not None and first.pts * opened.seconds_per_tick <= start_seconds:
            return scan(opened, chain([first], _until(packets, int(end_seconds / opened.seconds_per_tick))))
    nothing = np.zeros(0, np.int64)
    return PacketTable(nothing, nothing, nothing > 0, nothing), None


def _until(packets: Iterator[Any], end: int) -> Iterator[Any]:
    # Frames follow one another in decoding order: some shown earlier may still come after one that is shown later.
    num_later = 0
    for packet in packets:
        later = packet.pts is not None and packet.pts > end
        num_later = num_later + 1 if later else 0
        if num_later > _MAX_REORDER:
            return
        yield packet


def iframes_near(opened: OpenVideo, seconds: Sequence[float]) -> tuple[PacketTable, list[Any] | None]:
    """Seek to some times and read the I-frame at or before each, or the next one; the cost is per time, not per length.

    Returns a table of these packets only, in order of presentation time, without repetition, and the packets.
    """
    found: dict[int, Any] = {}
    for second in seconds:
        packet = _iframe_at(opened, second)
        if packet is not None:
            found.setdefault(packet.dts if _makes_times_up(opened) else packet.pts, packet)
    packets = [found[shown] for shown in sorted(found)]
    pts = np.array(sorted(found), np.int64)
    dts = np.array([NO_TIME if packet.dts is None else packet.dts for packet in packets], np.int64)
    flags = np.ones(len(packets), bool)
    return PacketTable(pts, dts, flags, np.arange(len(packets)), isolated=True), packets


def _iframe_at(opened: OpenVideo, second: float) -> Any:
    if not _seek(opened, second):
        return None
    for count, packet in enumerate(iterate_packets(opened)):
        if packet.is_keyframe and packet.pts is not None and not packet.is_discard:
            return packet
        if count > _LANDING_PACKETS:
            return None
    return None


def _seek(opened: OpenVideo, second: float) -> bool:
    try:
        opened.container.seek(int(second / opened.seconds_per_tick), stream=opened.stream, backward=True)
    except (av.FFmpegError, OSError, OverflowError):
        return False
    return True


class PacketReader:
    """Give runs of packets in decoding order, from memory where they were kept, otherwise by seeking in the file."""

    def __init__(self, opened: OpenVideo, table: PacketTable, kept: list[Any] | None) -> None:
        self.opened = opened
        self.table = table
        self.kept = kept
        self._searched_in_vain = False

    def run(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """Yield (position, packet) from `start` up to and without `stop`, as far as the packets can be read."""
        if self.kept is not None:
            yield from zip(range(start, stop), self.kept[start:stop], strict=False)
            return
        packet, following = self._land(start)
        position = start
        while packet is not None:
            yield position, packet
            position += 1
            if position >= stop:
                return
            packet = next(following, None)

    def _land(self, start: int) -> tuple[Any, Iterator[Any]]:
        """Find one packet of the table in the file again, by its times."""
        pts, dts = int(self.table.pts[start]), int(self.table.dts[start])
        tick = self.opened.seconds_per_tick
        stamps = [stamp for stamp in (dts, pts) if stamp != NO_TIME]
        for back in _SEEK_BACK_SECONDS if stamps and not self.table.by_order else ():
            if _seek(self.opened, float(min(stamps) * tick) - back):
                following = iterate_packets(self.opened)
                for _, packet in zip(range(_LANDING_PACKETS), following, strict=False):
                    if _is_same(packet, pts, dts):
                        return packet, following
        return (None, iter(())) if self._searched_in_vain else self._land_from_the_start(start, pts, dts)

    def _land_from_the_start(self, start: int, pts: int, dts: int) -> tuple[Any, Iterator[Any]]:
        self.opened.rewind()
        following = iterate_packets(self.opened)
        for position, packet in enumerate(following):
            if position == start if self.table.by_order else _is_same(packet, pts, dts):
                return packet, following
        self._searched_in_vain = True  # once is enough: a damaged file of hours must not be read again and again
        return None, following


def _is_same(packet: Any, pts: int, dts: int) -> bool:
    # A seek may leave the decode time of the first packets open; presentation times may be missing or made up.
    if packet.dts is not None and dts != NO_TIME:
        return packet.dts == dts
    return packet.pts is not None and packet.pts == pts
