"""Keep what an endpoint has said, by content: a reply that was paid for is never paid for twice."""

import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError


class JudgeCache:
    """Keep replies in one SQLite file: every reply is on the disk before the next, whatever ends the process.

    May be shared by threads and by processes.

    Raises:
        InputError: where the file cannot be opened, is something else, or the disk is full.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        try:
            self._base = sqlite3.connect(path, timeout=60, check_same_thread=False)
            with self._base:
                self._base.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except sqlite3.Error as error:
            raise self._told(error) from error

    def get(self, key: str) -> dict[str, Any] | None:
        """Give what was kept under a key; None where there is nothing."""
        try:
            with self._lock:
                row = self._base.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._told(error) from error
        try:
            value = json.loads(row[0]) if row else None
        except (ValueError, TypeError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def put(self, key: str, reply: Mapping[str, Any]) -> None:
        """Keep a reply."""
        try:
            with self._lock, self._base:
                self._base.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, json.dumps(dict(reply))))
        except sqlite3.Error as error:
            raise self._told(error) from error

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _told(self, error: sqlite3.Error) -> InputError:
        return InputError(f"cannot use the cache {self.path}: {error}; make room, or name another file with --cache")
