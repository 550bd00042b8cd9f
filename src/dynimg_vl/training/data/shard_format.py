"""What a shard is on disk: a WebDataset tar of frames and conversations, and beside it where each record lies.

One record is one clip (or several, where a chat shows several) with all conversations about it: `00000007.json`, then
`00000007.0.000.jpg`, .. for the frames of its first clip. The same input gives the same bytes.
"""

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ...errors import InputError, VideoError

MANIFEST = "manifest.json"
FORMAT = 1
PICTURES = {"jpeg": "jpg", "webp": "webp"}


@dataclass(frozen=True)
class PictureFormat:
    """Say how frames are stored: "jpeg" or "webp", and the quality from 1 to 100."""

    name: str = "jpeg"
    quality: int = 90

    def __post_init__(self) -> None:
        if self.name not in PICTURES or not 1 <= self.quality <= 100:
            raise InputError(f"frames are stored as jpeg or webp of quality 1 to 100, not {self.name} {self.quality}")

    def encode(self, pixels: np.ndarray) -> bytes:
        """Encode one frame (H, W, 3) uint8."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, self.name.upper(), quality=self.quality)
        return buffer.getvalue()


@dataclass(frozen=True)
class Place:
    """Hold where a record lies in the tar of its shard."""

    offset: int
    num_bytes: int


class ShardWriter:
    """Write records one after the other into a tar with fixed owners, modes and times."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  (closed by `close`)

    def write(self, key: str, description: Mapping[str, Any], clips: Sequence[Sequence[bytes]], suffix: str) -> Place:
        """Append one record; `clips` are the encoded frames of each clip."""
        start = self._file.tell()
        self._add(f"{key}.json", dump_json(description))
        for clip, frames in enumerate(clips):
            for rank, picture in enumerate(frames):
                self._add(f"{key}.{clip}.{rank:03d}.{suffix}", picture)
        return Place(start, self._file.tell() - start)

    def close(self) -> None:
        """Write the end of the tar; the file stays open."""
        self._tar.close()

    def _add(self, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)  # owner 0, time 0, mode 0o644
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))


def read_record(path: Path, place: Place) -> tuple[dict[str, Any], list[list[bytes]]]:
    """Read one record: its description and the encoded frames of each clip.

    Raises:
        VideoError: where the shard is damaged.
    """
    try:
        with path.open("rb") as file:
            file.seek(place.offset)
            content = file.read(place.num_bytes)
        description: dict[str, Any] = {}
        clips: list[list[bytes]] = []
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                stored = tar.extractfile(member)
                data = stored.read() if stored is not None else b""
                if member.name.endswith(".json"):
                    description = json.loads(data)
                    clips = [[] for _ in description["clips"]]
                else:
                    clips[int(member.name.split(".")[1])].append(data)
    except (OSError, tarfile.TarError, ValueError, KeyError, IndexError) as error:
        raise VideoError(f"shard {path} is damaged at byte {place.offset}: {error}; build it again") from error
    return description, clips


def decode_picture(data: bytes, where: str) -> np.ndarray:
    """Decode one stored frame to (H, W, 3) uint8.

    Raises:
        VideoError: where it is damaged.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except OSError as error:
        raise VideoError(f"{where}: a stored frame is damaged: {error}") from error


def dump_json(value: Any) -> bytes:
    """Write a value as JSON, the same bytes for the same value."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return text.encode("utf-8", "surrogatepass")


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name when it is complete and on disk, and not at all otherwise.

    Raises:
        InputError: where it cannot be written: no such folder, no permission, a full disk.
    """
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        temporary = Path(name)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; what was complete before is kept") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what attempts at writing a file left behind when they were killed."""
    for leftover in path.parent.glob(f".{path.name}-*"):
        leftover.unlink(missing_ok=True)


@dataclass(frozen=True)
class ShardInfo:
    """Hold what stands beside a shard: the size of its tar, its records in order, and what was left out, and why."""

    tar_bytes: int
    records: list[dict[str, Any]]
    skipped: list[dict[str, Any]]

    def dump(self) -> bytes:
        """Write as JSON."""
        return dump_json(asdict(self))


def load_info(path: Path) -> ShardInfo | None:
    """Read what stands beside a shard; None where the shard is not complete."""
    tar = path.with_suffix(".tar")
    try:
        info = ShardInfo(**json.loads(path.read_bytes().decode("utf-8", "surrogatepass")))
        return info if tar.stat().st_size == info.tar_bytes else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {path}: {error}; remove it and build again") from error


def shard_name(number: int) -> str:
    """Name a shard: its files are NAME.tar and NAME.json."""
    return f"shard-{number:06d}"
