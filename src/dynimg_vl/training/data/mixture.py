"""The mixture: one YAML file that names sources, roots, annotation files, weights and expected counts (Section 4.1)."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...numeric import is_number
from ..yaml_file import read_yaml
from .annotations import Clip, Sample, read_annotations


@dataclass(frozen=True)
class Source:
    """Describe one source of a mixture.

    Args:
        name: how it is called in reports.
        annotations: its annotation files, in order.
        videos: the folder that the paths in them start from.
        weight: how often a sample is seen per epoch; 0 switches the source off, and its files need not exist.
        expected: how many samples it should have; None is any number.
        within: by how much the number may lie above `expected`, for counts that a paper rounds down.
        fps: frames per second, where its videos are folders of frames.
    """

    name: str
    annotations: tuple[Path, ...]
    videos: Path
    weight: float = 1.0
    expected: int | None = None
    within: int = 0
    fps: float | None = None

    def read(self, *, rooted: bool = True) -> Iterator[Sample]:
        """Read all samples, with the paths of their videos made whole (`rooted`); entries count on from file to file.

        Raises:
            InputError: where a file cannot be read or an entry is not complete.
        """
        last = 0
        for path in self.annotations:
            first = last + 1
            for sample in read_annotations(path, self.name, first):
                last = sample.entry
                yield dataclasses.replace(sample, clips=tuple(map(self.rooted, sample.clips))) if rooted else sample

    def rooted(self, clip: Clip) -> Clip:
        """Make the path of a clip whole."""
        return Clip(str(self.videos / clip.path), clip.start, clip.end)

    def accepts(self, num_samples: int) -> bool:
        """Tell whether a number of samples is the expected one."""
        return self.expected is None or self.expected <= num_samples <= self.expected + self.within


@dataclass(frozen=True)
class Mixture:
    """Hold the sources of a mixture and the share of clips that may be missing or broken before a run stops."""

    sources: tuple[Source, ...]
    allowed_share: float = 0.01
    path: Path | None = field(default=None, compare=False)

    @property
    def active(self) -> tuple[Source, ...]:
        """Give the sources that are not switched off."""
        return tuple(source for source in self.sources if source.weight > 0)

    def require_roots(self) -> None:
        """Make sure that every folder of videos is there, before hours are spent on finding that none of it is.

        Raises:
            InputError: naming the first source whose folder is not.
        """
        for source in self.active:
            if not source.videos.is_dir():
                raise InputError(
                    f"{source.name}: the folder of videos {source.videos} does not exist; "
                    f"give another, or weight: 0 to go without this source"
                )


_MIXTURE_KEYS = {"annotation_root": str, "video_root": str, "allowed_share": float, "sources": dict}
_SOURCE_KEYS = {
    "annotations": (str, list), "videos": str, "weight": float, "expected": int, "within": int, "fps": float,
}  # fmt: skip
_KIND_NAMES = {
    str: "a text", float: "a number", int: "a whole number", dict: "a table", (str, list): "a file or a list of files",
}  # fmt: skip


def read_mixture(path: Path, *, annotation_root: Path | None = None, video_root: Path | None = None) -> Mixture:
    """Read the YAML of a mixture; relative paths start from its own folder, the roots given here replace those in it.

    Raises:
        InputError: where the file cannot be read, a key is unknown or of the wrong kind, or no source is left.
    """
    values = read_yaml(path, "mixture", _MIXTURE_KEYS)
    _check_keys(values, _MIXTURE_KEYS, str(path))
    folder = path.resolve().parent
    annotations = _root(annotation_root, values.get("annotation_root"), folder)
    videos = _root(video_root, values.get("video_root"), folder)
    sources = []
    for name, entry in (values.get("sources") or {}).items():
        where = f"{path}: source {name}"
        if not isinstance(entry, Mapping):
            raise InputError(f"{where} must have keys: {', '.join(_SOURCE_KEYS)}")
        _check_keys(entry, _SOURCE_KEYS, where)
        sources.append(_source(str(name), dict(entry), annotations, videos, where))
    mixture = Mixture(tuple(sources), float(values.get("allowed_share", 0.01)), path)
    if not 0 <= mixture.allowed_share <= 1:
        raise InputError(f"{path}: allowed_share must lie between 0 and 1, got {mixture.allowed_share:g}")
    if not mixture.active:
        raise InputError(f"{path}: the mixture is empty; name sources with a weight above 0")
    return mixture


def _root(given: Path | None, written: str | None, folder: Path) -> Path:
    return given.resolve() if given is not None else folder / Path(written or "").expanduser()


def _check_keys(values: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> None:
    unknown = [str(key) for key in values if key not in kinds]
    if unknown:
        raise InputError(f"{where} has unknown keys: {', '.join(unknown)}; known are {', '.join(kinds)}")
    for key, value in values.items():
        wanted = kinds[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = is_number if wanted is float else isinstance(value, wanted) and not isinstance(value, bool)
        if value is not None and not fits:
            raise InputError(f"{where}: {key} must be {_KIND_NAMES[wanted]}, got {value!r}")


def _source(name: str, entry: dict[str, Any], annotations: Path, videos: Path, where: str) -> Source:
    files = entry.pop("annotations", None) or []
    files = [files] if isinstance(files, str) else files
    if not files or not all(isinstance(file, str) for file in files):
        raise InputError(f"{where} lacks annotations: a file, or a list of files")
    folder = videos / (entry.pop("videos", None) or "")
    paths = tuple(annotations / file for file in files)
    source = Source(name, paths, folder, **{key: value for key, value in entry.items() if value is not None})
    if not (is_number(source.weight) and source.weight >= 0) or source.within < 0 or (source.expected or 0) < 0:
        raise InputError(f"{where}: weight, expected and within must not be negative")
    if source.fps is not None and not source.fps > 0:
        raise InputError(f"{where}: fps must be above 0, got {source.fps:g}")
    return source
