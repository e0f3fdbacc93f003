"""Where the cases of a sweep are computed: here, in local processes, or on a Ray or Dask cluster."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from fastserve.sched.checks import one_of

C = TypeVar("C")
R = TypeVar("R")

NEEDS: Final = {"local": (), "ray": ("joblib", "ray"), "dask": ("joblib", "distributed")}
"""Pool -> the packages that it needs."""
GET: Final = {"ray": "-e '.[cluster]'", "dask": "joblib distributed"}
"""Pool -> how pip is told to get them."""
POOLS: Final = tuple(NEEDS)
ROUND: Final = 8
"""cases for each core of a cluster that return together"""
ROOT: Final = Path(__file__).resolve().parents[2]


def add_pool(parser: argparse.ArgumentParser | argparse._ArgumentGroup, what: str, usual: str = "all cores") -> None:
    """--jobs, --pool and --address. what: is made there, in the plural. usual: the processes where nothing is said."""
    parser.add_argument("--jobs", "--processes", type=int, metavar="N", help=f"processes at once (default: {usual})")
    parser.add_argument("--pool", choices=POOLS, default=POOLS[0], help=f"where the {what} are made (%(default)s)")
    parser.add_argument("--address", help="of a running Ray or Dask cluster (default: a local one)")


def check_pool(pool: str, jobs: int | None) -> None:
    """Raises ValueError for an unknown pool, for one whose package is not installed, and for no process at all."""
    one_of("pool", pool, POOLS)
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs={jobs}: give at least 1")
    for package in NEEDS[pool]:
        if package not in sys.modules and find_spec(package) is None:
            raise ValueError(f"--pool {pool} needs {package}, which is not installed: pip install {GET[pool]}")


def computed(
    work: Callable[[C], R],
    cases: Mapping[str, C],
    *,
    jobs: int | None = None,
    pool: str = POOLS[0],
    address: str | None = None,
) -> Iterator[tuple[str, R]]:
    """(name, work(case)) of each, as they are done. work: travels once to each process, with what it carries.

    jobs: processes at once (None: as many as cores); 1 keeps everything in this one. address: of a running cluster.
    Raises what work raises; ValueError for an unknown pool, and for one whose package is not installed.
    """
    check_pool(pool, jobs)
    if pool != "local":
        yield from _on_cluster(work, cases, jobs, pool, address)
        return
    workers = min(jobs or os.cpu_count() or 1, len(cases))
    if workers < 2:
        for name, case in cases.items():
            yield name, work(case)
        return
    workshop = ProcessPoolExecutor(workers, initializer=_begin, initargs=(work,))
    try:
        futures = {workshop.submit(_work, case): name for name, case in cases.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:  # a consumer that has enough included
        for process in list(getattr(workshop, "_processes", None) or {}):
            workshop._processes[process].terminate()
        workshop.shutdown(wait=False, cancel_futures=True)
        raise
    workshop.shutdown()


_own: Callable[[Any], Any] | None = None
"""Of a worker process, from its beginning on."""


def _begin(work: Callable[[Any], Any]) -> None:
    """A worker ignores Ctrl-C: it reaches the whole process group, and the parent handles it."""
    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _own = work


def _work(case: Any) -> Any:
    assert _own is not None
    return _own(case)


def _on_cluster(
    work: Callable[[C], R], cases: Mapping[str, C], jobs: int | None, pool: str, address: str | None
) -> Iterator[tuple[str, R]]:
    """The same cases through one of joblib's pools, on all its cores unless `jobs` says how many.

    Results are stored as they arrive; from a pool that cannot return them one by one (Ray), in rounds.
    """
    import joblib

    def named(name: str, case: C) -> tuple[str, R]:
        return name, work(case)

    tasks = [joblib.delayed(named)(name, case) for name, case in cases.items()]
    with _cluster(pool, jobs, address), joblib.parallel_config(backend=pool, n_jobs=jobs or -1):
        if joblib.parallel.get_active_backend()[0].supports_return_generator:
            yield from joblib.Parallel(return_as="generator_unordered", batch_size=1)(tasks)
            return
        size = ROUND * joblib.effective_n_jobs(jobs or -1)
        for first in range(0, len(tasks), size):
            yield from joblib.Parallel(batch_size=1)(tasks[first : first + size])


@contextmanager
def _cluster(pool: str, jobs: int | None, address: str | None) -> Iterator[None]:
    """The cluster at this address; without one, of this machine alone: of Dask for these runs, of Ray for good."""
    if pool == "ray":
        import ray
        from ray.util.joblib import register_ray

        if not ray.is_initialized():
            ray.init(address=address, runtime_env={"env_vars": {"PYTHONPATH": _path()}}, log_to_driver=False)
        register_ray()
        yield
        return
    from dask.distributed import Client

    local = {} if address else {"n_workers": jobs, "threads_per_worker": 1, "silence_logs": logging.ERROR}
    with Client(address, **local):
        yield


def _path() -> str:
    """Where a worker on a cluster finds this package and a policy of one's own: as this process does."""
    return os.pathsep.join([str(ROOT), str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
