"""Does something with each of many tasks, in processes."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from fastserve.routers import RouterError
from fastserve.sched.errors import PolicyError
from sim.replay import RunError, told

T = TypeVar("T")
R = TypeVar("R")


def each(
    work: Callable[[T], R], tasks: Sequence[T], jobs: int | None, progress: bool | None, unit: str
) -> Generator[R, None, None]:
    """Results as they come. jobs: processes; None: as many as there are cores. progress: a bar on stderr (None: where
    that is a terminal). Raises what `work` does, RunError for a policy that broke in another process.
    """
    workers = min(len(tasks), jobs or os.cpu_count() or 1)
    bar = _bar(len(tasks), progress, unit)
    try:
        for found in map(work, tasks) if workers < 2 or not _travel(tasks) else _away(work, tasks, workers):
            if bar is not None:
                bar.update()
            yield found
    finally:
        if bar is not None:
            bar.close()


def _away(work: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    pool = ProcessPoolExecutor(workers, initializer=_begin)
    try:
        for future in as_completed([pool.submit(_guarded, work, task) for task in tasks]):
            yield future.result()
    except BaseException:
        for process in list(getattr(pool, "_processes", None) or {}):
            pool._processes[process].terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _begin() -> None:
    """A worker ignores Ctrl-C: it reaches the whole process group, and the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _guarded(work: Callable[[T], R], task: T) -> R:
    try:
        return work(task)
    except (PolicyError, RouterError) as error:
        raise RunError(told(error)) from None  # neither the policy nor its traceback can be pickled


def _travel(tasks: Sequence[Any]) -> bool:
    """Whether they can be pickled; a policy that is defined in a function cannot, and is run in this process."""
    try:
        pickle.dumps(tasks)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def _bar(total: int, progress: bool | None, unit: str) -> Any:
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return None
    from tqdm import tqdm

    return tqdm(total=total, unit=f" {unit}", leave=False, file=sys.stderr, delay=1.0)
