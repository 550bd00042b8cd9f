"""Videos of a benchmark: names of annotation files become files below the data folder, and never anything else."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp")
"""Tried in this order, in any case, where a name has no file of its own."""


@dataclass
class VideoFinder:
    """Find videos below a root by the names of annotation files; each folder is listed once.

    Links may lead out of the folder: they were made by its owner. Names may not.
    """

    root: Path
    _listings: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, folders: Iterable[str], names: Sequence[str], where: str) -> str | None:
        """Give the path below the root of the first folder and name that exist, None where none does.

        A name is tried as it stands, then with every known suffix, then with every known suffix instead of its own:
        benchmarks are passed on re-encoded.

        Raises:
            InputError: where a name would lead out of its folder; `where` says who gave it.
        """
        for name in names:
            check_name(name, where)
        for folder in folders:
            for name in names:
                found = self._in_folder(folder, name)
                if found is not None:
                    return found
        return None

    def _in_folder(self, folder: str, name: str) -> str | None:
        inner, _, last = name.rpartition("/")
        folder = "/".join(part for part in (*folder.split("/"), *inner.split("/")) if part not in ("", "."))
        listing = self._list(folder)
        found = self._by_name(listing, last)
        return None if found is None else f"{folder}/{found}" if folder else found

    def _by_name(self, listing: dict[str, list[str]], name: str) -> str | None:
        if name in listing.get(name, ()):
            return name
        stem, suffix = os.path.splitext(name)
        for wanted in (name, stem) if suffix.lower() in SUFFIXES else (name,):
            files = [file for file in listing.get(wanted, ()) if file != wanted]
            if files:
                return min(files, key=lambda file: SUFFIXES.index(os.path.splitext(file)[1].lower()))
        return None

    def _list(self, folder: str) -> dict[str, list[str]]:
        """List a folder once: by whole name, and by name without a known suffix."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            try:
                files = sorted(os.listdir(self.root / folder))
            except (OSError, ValueError):  # no such folder: nothing is found in it
                files = []
            for file in files:
                stem, suffix = os.path.splitext(file)
                listing.setdefault(file, []).append(file)
                if suffix.lower() in SUFFIXES:
                    listing.setdefault(stem, []).append(file)
            self._listings[folder] = listing
        return self._listings[folder]


def check_name(name: str, where: str) -> None:
    """Refuse a video name that is no path below a folder.

    Raises:
        InputError: where it is absolute, goes upwards, or is an address.
    """
    parts = name.replace("\\", "/").split("/")
    if "\0" in name or name.startswith(("/", "\\", "~")) or ".." in parts or ":" in parts[0] or len(name) > 1024:
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise InputError(
            f"{where}: the video name {shown!r} leads out of the folder of videos; the file is not official"
        )
