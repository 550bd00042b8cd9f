"""Decode videos ahead of the model, in worker processes; nothing here imports torch, so that they start fast.

Processes and not threads: a file that crashes the decoder takes one worker with it and not the run, and decoding never
holds the lock that the model's own Python needs to keep a GPU busy.
"""

import multiprocessing
import signal
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import InputError, VideoWarning
from ..loading import load_dynimgs
from ..processes import end_with_parent
from .requests import Request

_LONGEST_REASON = 300  # characters


@dataclass(frozen=True, eq=False)
class Look:
    """Hold what was seen of one video, or why nothing was.

    `pixels` is that of `DynImgs`, None where there is an `error`; `frames` is what `DynImgs.describe` tells, with the
    `warnings` of a damaged file where there were any.
    """

    pixels: np.ndarray | None
    frames: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None


def look_at(video: Any, options: Mapping[str, Any]) -> Look:
    """Load one video with the keyword arguments of `load_dynimgs`; whatever goes wrong becomes the look's `error`."""
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VideoWarning)
        try:
            dynimgs = load_dynimgs(video, **options)
        except Exception as error:  # a hostile file may break the decoder in any way it likes
            return Look(None, seconds=time.perf_counter() - started, error=reason_of(error))
    frames = dynimgs.describe()
    if told := told_of(caught):
        frames["warnings"] = told
    return Look(dynimgs.pixels, frames, time.perf_counter() - started)


def told_of(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    """List what was said of the video, each thing once; others (an open socket, collected now) are not of it."""
    said = {" ".join(str(each.message).split()) for each in caught if issubclass(each.category, VideoWarning)}
    return sorted(said)


def reason_of(error: BaseException) -> str:
    """Say on one line of bounded length what went wrong; of what is no mistake of the user's, the kind comes first."""
    said = " ".join(str(error).split())[:_LONGEST_REASON]
    if isinstance(error, InputError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


class LookAhead:
    """Look at the videos of requests, some of them before their turn has come.

    Use as a context. The same video asked several times in a row is decoded once.

    Args:
        options: keyword arguments of `load_dynimgs` for all; a request's own `clip` and `fps` go before.
        num_workers: processes; 0 decodes when the turn has come, in this process.
        ahead: how many requests may wait, decoded or being so, behind the one whose turn it is.
        looking: what loads a video; a function of a module, so that worker processes find it.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        num_workers: int = 0,
        ahead: int = 16,
        looking: Callable[[Any, Mapping[str, Any]], Look] = look_at,
    ) -> None:
        self._looking = looking
        self._options = dict(options)
        self._num_workers = num_workers
        self._ahead = max(ahead, 1) if num_workers else 0
        self._kept: OrderedDict[tuple[Any, ...], Future[Look]] = OrderedDict()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "LookAhead":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._kept.clear()
        self._close_pool()

    def look(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Look | None]]:
        """Yield each request with what its video shows, in their order; None for a request without a video."""
        waiting: deque[tuple[Request, Future[Look] | None]] = deque()
        for request in requests:
            waiting.append((request, None if request.video is None else self._submit(request)))
            if len(waiting) > self._ahead:
                yield self._settle(*waiting.popleft())
        while waiting:
            yield self._settle(*waiting.popleft())

    def _submit(self, request: Request) -> Future[Look]:
        key = _key(request)
        if key not in self._kept:
            self._kept[key] = self._start(request)
        self._kept.move_to_end(key)
        while len(self._kept) > self._ahead + 2:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _start(self, request: Request) -> Future[Look]:
        arguments = request.video, self._options_of(request)
        if not self._num_workers:
            return _settled(self._looking(*arguments))
        try:
            return self._running_pool().submit(self._looking, *arguments)
        except BrokenExecutor:
            self._close_pool()
            return self._running_pool().submit(self._looking, *arguments)

    def _settle(self, request: Request, future: Future[Look] | None) -> tuple[Request, Look | None]:
        if future is None:
            return request, None
        try:
            return request, future.result()
        except BrokenExecutor:
            key = _key(request)
            if self._kept.get(key) in (None, future):
                self._kept[key] = _settled(self._look_alone(request))
            return self._settle(request, self._kept[key])

    def _look_alone(self, request: Request) -> Look:
        # A worker died, and all that was under way went with it. Alone, the culprit shows: it dies again.
        with _pool(1) as pool:
            try:
                return pool.submit(self._looking, request.video, self._options_of(request)).result()
            except BrokenExecutor:
                return Look(None, error=f"{request.video}: the process that decodes it dies; the file may be damaged")

    def _options_of(self, request: Request) -> dict[str, Any]:
        own = {"clip": request.clip, "fps": request.fps}
        return {**self._options, **{name: value for name, value in own.items() if value is not None}}

    def _running_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = _pool(self._num_workers)
        return self._pool

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def _key(request: Request) -> tuple[Any, ...]:
    return request.video, request.clip, request.fps


def _settled(look: Look) -> Future[Look]:
    future: Future[Look] = Future()
    future.set_result(look)
    return future


def _pool(num_workers: int) -> ProcessPoolExecutor:
    # Not forked: a fork of a process with CUDA or with threads of torch may hang.
    return ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=_settle_worker)


def _settle_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    end_with_parent()
