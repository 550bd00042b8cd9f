"""Looking at many videos in processes of their own."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

from ..errors import InputError
from ..processes import end_at_once

Job = TypeVar("Job")
Found = TypeVar("Found")


def look_at_all(look: Callable[[Job], Found], jobs: Iterable[Job], workers: int) -> Iterator[Found]:
    """Give what `look` finds for each job, in their order; it has to be picklable where `workers` is above 1.

    Raises:
        InputError: where one of the processes was killed.
    """
    if workers == 1:
        yield from map(look, jobs)
        return
    remaining = iter(jobs)
    with ProcessPoolExecutor(workers, get_context("spawn"), end_at_once) as pool:
        try:
            while batch := list(islice(remaining, 64 * workers)):
                yield from pool.map(look, batch, chunksize=16)
        except BrokenProcessPool as error:
            raise InputError(
                "a process that looks at videos was killed (out of memory?); start again with fewer --workers"
            ) from error
