"""replay(): simulates a trace under one policy or several, over seeds, in a process pool if worthwhile."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from fastserve.metrics.groups import By
from fastserve.policies.spec import PolicyLike, PolicySpec, facts_told, told_apart
from fastserve.routers import RouterError
from fastserve.routers.spec import RouterLike
from fastserve.sched.errors import ObserverError, PolicyError
from fastserve.workload import Synthesis, Trace
from fastserve.workload.seeds import RESAMPLES, SeedSource
from sim.asked import check, policies, ready, routed, seed_numbers, sustained, workload
from sim.parts import row
from sim.prepared import Prepared
from sim.report.columns import Show
from sim.report.document import document, table, write_out
from sim.report.groups import Bys, document_by, lines_by, rows_by
from sim.report.html import in_a_line, result_html
from sim.report.run import Run
from sim.run import run_one
from sim.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from sim.report.page import Schedules

POOL_PAYS = 20_000  # requests in all, below which starting processes costs more than it saves

Observe = Callable[[PolicySpec, str, int], Callable[[Any], None] | None]
"""(policy, label, seed) -> function that attaches observers to that run's World or Cluster, or None."""

Task: TypeAlias = tuple[PolicySpec, Settings, int]
"""One run: policy, settings with its router, seed."""


class RunError(RuntimeError):
    """A policy failed in another process; the message says which, where and how."""


@dataclass
class Result:
    """Results of a replay. Printing it shows the table; so does a notebook, as HTML."""

    settings: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    planned: int = 0  # runs that were asked for; fewer are here after an interrupt
    reading: list[str] = field(default_factory=list)
    """What was read of the trace's file as what."""
    schedules: Schedules | None = None
    """What was seen of the first seed's runs, for report(); None: it runs them once more."""
    again: Callable[[Observe], object] | None = field(default=None, repr=False, compare=False)
    """Runs the first seed of every row once more, looked at."""

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: results, and not what would run them again, for a policy may not travel."""
        return self.__dict__ | {"again": None, "schedules": None}

    @property
    def interrupted(self) -> bool:
        return len(self.runs) < self.planned or any(run.settings.get("interrupted") for run in self.runs)

    def __repr__(self) -> str:
        return in_a_line(self.runs, self.settings, self.planned)

    def _repr_html_(self) -> str:
        """IPython's protocol."""
        return result_html(self.runs, self.settings, self.reading)

    def __str__(self) -> str:
        """What was read as what, and the table."""
        return "".join([f"{line}\n" for line in self.reading]) + self.table()

    def table(self, show: Show = None, by: Bys = None) -> str:
        """show: columns and groups of them, as "default,p99_ttft_s", "wide" or "all"; ValueError lists them. by: kinds
        of groups of jobs, as "client,length:8", each with a table of its own below.
        """
        below = lines_by(self.runs, self.settings, by, show) if self.runs and by else []
        return table(self.runs, self.settings, show) + "".join([f"{line}\n" for line in below])

    def document(self, by: Bys = None) -> dict[str, Any]:
        """The --json document: {"settings", "runs", "reading"}, and with by (as table() takes it) "by"."""
        found = document(self.settings, self.runs) | {"reading": list(self.reading)}
        return found | ({"by": document_by(self.runs, self.settings, by)} if self.runs and by else {})

    def by(self, kind: str | By) -> pd.DataFrame:
        """One row per group of jobs and run, with policy, label, seed and group in front, then the group's measures.

        kind: priority, client, program, class, length or prompt; client:20 are the twenty with the most jobs and the
        rest, length:8 eight parts of equally many jobs, length:log2 powers of two.
        """
        import pandas as pd

        return pd.DataFrame(list(rows_by(self.runs, self.settings, kind)))

    def records(self) -> pd.DataFrame:
        """One row per job and run, with policy, label and seed in front; all times in seconds."""
        import pandas as pd

        frames = [pd.DataFrame(_names(run) | dict(run.records)) for run in self.runs]
        return pd.concat(frames, ignore_index=True)

    def summaries(self) -> pd.DataFrame:
        """One row per run."""
        import pandas as pd

        return pd.DataFrame([_names(run) | dict(run.summary) for run in self.runs])

    def programs(self) -> pd.DataFrame:
        """One row per program and run of sessions, with policy, label and seed in front; all times in seconds."""
        import pandas as pd

        tables = [pd.DataFrame(_names(run) | dict(run.programs)) for run in self.runs if run.programs is not None]
        if not tables:
            raise ValueError("no run had sessions: give a trace with programs, or --sessions")
        return pd.concat(tables, ignore_index=True)

    def save(self, folder: str | Path, csv: bool = False) -> list[Path]:
        return write_out(Path(folder), self.settings, self.runs, csv)

    def report(self, path: str | Path, show: Show = None) -> Path:
        """Writes one HTML page: table, curves, and the schedules of the first seed, to be stepped through.

        show: as table() takes it. Raises ValueError where no run was finished, OutputError.
        """
        from sim.report.page import Schedules, write_report

        if self.schedules is None:
            self.schedules = Schedules(min([run.seed for run in self.runs], default=0))
            if self.again is not None:
                self.again(self.schedules.observe)
        return write_report(Path(path), self.runs, self.settings, self.schedules, show=show)

    def replicas(self) -> pd.DataFrame:
        """One row per replica and run of a cluster, with policy, label and seed in front; all times in seconds."""
        import pandas as pd

        tables = [pd.DataFrame(_names(run) | dict(run.replicas)) for run in self.runs if run.replicas is not None]
        if not tables:
            raise ValueError("no run had replicas: give replicas, or a router")
        return pd.concat(tables, ignore_index=True)

    @overload
    def plot(self, folder: None = None, by: Bys = None) -> Figure: ...
    @overload
    def plot(self, folder: str | Path, by: Bys = None) -> list[Path]: ...
    def plot(self, folder: str | Path | None = None, by: Bys = None) -> Figure | list[Path]:
        """JCT CDF and mean and p99 bars: one figure, which a notebook shows, or PDF and PNG into a folder.

        by: kinds of groups, as table() takes them: a figure of each into the folder too; without a folder, of one kind,
        instead.
        """
        from sim.report.group_plot import draw_by, picture_by
        from sim.report.plot import draw, picture

        if folder is not None:
            return draw(self.runs, Path(folder)) + draw_by(self.runs, self.settings, by, Path(folder))
        return picture_by(self.runs, self.settings, by) if by else picture(self.runs)


def replay(
    trace: Trace | SeedSource | str | Path | None = None,
    policy: PolicyLike | Sequence[PolicyLike] = "fcfs",
    *,
    router: RouterLike | Sequence[RouterLike] | None = None,
    seeds: int | Sequence[int] = 1,
    settings: Settings | None = None,
    processes: int | None = None,
    progress: bool | None = None,
    observe: Observe | None = None,
    reading: Mapping[str, Any] | None = None,
    num_requests: int | None = None,
    synth: str | Synthesis | None = None,
    resample: str = RESAMPLES[0],
    **changes: Any,
) -> Result:
    """Replay a trace under one policy or several, with a fresh policy object for each run.

    trace: a Trace, the path of one, or a SeedSource; or instead of it synth, as Synthesis.parse() reads it:
    "n=1000,rate=2,arrivals=gamma:cv=4,lengths=profile:azure-conv-2023". policy: a name, "module:Class",
    "./file.py:Class", a class, a PolicySpec with knobs and a label, or a list of these; rows of one policy without
    labels are named by the knobs in which they differ. router: which replica gets a request, given likewise; of several
    each goes with each policy. seeds: how many, or which; each gives all policies the same
    requests (common random numbers), and seeds the predictor. Of a synthetic workload each seed is a draw; of a trace
    seed 0 is the trace as it stands, and the others are taken from it as `resample` says: blocks, windows or pairs
    (workload.seeds). changes: settings by name, such as load=0.8 (sim.settings.Settings lists them). processes: 1 keeps
    everything in this one. progress: a bar on stderr (None: when that is a terminal). observe: asked once for each run,
    in order; what is looked at runs in this process. num_requests: the first so many rows, of windows as many in each.
    reading: how to read the file at a path, as read_trace() takes it: columns, lenient, arrivals, lengths, start_s,
    duration_s.

    Raises ValueError (TraceError for the trace) with what was wrong; PolicyError, or RunError from another process,
    when a policy breaks; ObserverError when an observer does. After Ctrl-C returns what has finished.
    """
    chosen = (settings or Settings()).with_(**changes)
    specs = told_apart(policies(policy))
    variants = routed(chosen, router)
    rows = check(specs, variants)
    numbers = seed_numbers(seeds)
    source = workload(
        trace, synth, chosen,
        reading=reading, num_requests=num_requests, resample=resample, seeds=max(numbers) + 1,
    )  # fmt: skip
    made = ready(source, chosen, numbers[0], sustained(source, chosen))
    source, chosen, first = made.source, made.settings, made.first
    shown = made.shown(numbers, variants[0].in_cluster)
    shown |= facts_told(specs * len(variants), rows, first.facts)
    tasks = [
        (spec, chosen.with_(router=variant.router), seed) for variant in variants for spec in specs for seed in numbers
    ]
    read = [] if first.reading is None else first.reading.lines()
    firsts = [task for task in tasks if task[2] == numbers[0]]
    result = Result(
        shown, reading=read, planned=len(tasks), again=lambda look: _run_all(source, firsts, 1, [], None, look)
    )
    bar = _bar(len(tasks) * len(first), progress)
    pays = processes is not None or len(tasks) * len(first) >= POOL_PAYS
    try:
        update = None if bar is None else bar.update
        _run_all(source, tasks, processes if pays else 1, result.runs, update, observe)
    except KeyboardInterrupt:
        pass
    finally:
        if bar is not None:
            bar.close()
    order = {label: place for place, label in enumerate(rows)}
    result.runs.sort(key=lambda run: (order[run.label], run.seed))
    return result


def _names(run: Run) -> dict[str, object]:
    """Policy, label and seed of a run, for the first columns."""
    return {"policy": run.policy, "label": run.label, "seed": run.seed}


def _run_all(
    source: SeedSource,
    tasks: list[Task],
    processes: int | None,
    runs: list[Run],
    watch: Callable[[int], object] | None,
    observe: Observe | None,
) -> None:
    """Appends to `runs` as they finish, so that an interrupt keeps finished ones."""
    attach = [None if observe is None else observe(spec, row(spec, settings), seed) for spec, settings, seed in tasks]
    workers = min(len(tasks), processes or os.cpu_count() or 1)
    pooled = workers > 1 and travels(tasks)
    order = list(range(len(tasks)))
    if tasks[0][1].prefix_cache == "on":  # runs of one trace follow each other: see Prepared
        order.sort(key=lambda i: tasks[i][2])
    here = [i for i in order if not pooled or attach[i] is not None]
    away = [tasks[i] for i in order if i not in here]
    pool = ProcessPoolExecutor(min(workers, len(away)), initializer=_begin, initargs=(source,)) if away else None
    futures: dict[Future[Run], bool] = {}  # and whether its run is in `runs`
    kept = _Kept(source)
    try:
        if pool is not None:
            futures = {pool.submit(_task, *task): False for task in away}
        for i in here:
            spec, settings, seed = tasks[i]
            trace = kept.trace(seed)
            run = run_one(trace, spec, settings, seed, watch=watch, observe=attach[i], prepared=kept.prepared)
            runs.append(run)
            if runs[-1].settings.get("interrupted"):
                raise KeyboardInterrupt
        for future in as_completed(futures):
            runs.append(future.result())
            futures[future] = True
            if watch is not None:
                watch(len(runs[-1].records["id"]))
    except BaseException:
        for future, told in futures.items():
            if not told and future.done() and not future.cancelled() and future.exception() is None:
                runs.append(future.result())
        for process in list(getattr(pool, "_processes", None) or {}):
            pool._processes[process].terminate()  # type: ignore[union-attr]
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        raise
    if pool is not None:
        pool.shutdown()


class _Kept:
    """What the runs of one process have in common: the trace of the seed asked for last, and what is made of it."""

    def __init__(self, source: SeedSource) -> None:
        self.source = source
        self.prepared = Prepared()
        self._last: tuple[int, Trace] | None = None

    def trace(self, seed: int) -> Trace:
        if self._last is None or self._last[0] != seed:
            self._last = seed, self.source.trace(seed)
        return self._last[1]


_kept: _Kept | None = None
"""Of a worker process, from its beginning on."""


def _begin(source: SeedSource) -> None:
    """A worker ignores Ctrl-C: it reaches the whole process group, and the parent handles it."""
    global _kept
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _kept = _Kept(source)


def _task(spec: PolicySpec, settings: Settings, seed: int) -> Run:
    assert _kept is not None
    try:
        return run_one(_kept.trace(seed), spec, settings, seed, prepared=_kept.prepared)
    except (PolicyError, RouterError) as error:
        raise RunError(told(error)) from None  # neither the policy nor its traceback can be pickled


def told(error: PolicyError | RouterError | ObserverError) -> str:
    """The message, with the file and line that raised its cause."""
    cause = error.__cause__
    last = cause.__traceback__ if cause is not None else None
    if last is None:
        return str(error)
    while last.tb_next is not None:
        last = last.tb_next
    return f"{error} ({last.tb_frame.f_code.co_filename}, line {last.tb_lineno})"


def travels(tasks: object) -> bool:
    """Whether a policy can be pickled; a class defined in a function cannot, and runs in this process."""
    try:
        pickle.dumps(tasks)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


def _bar(total: int, progress: bool | None) -> Any:
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return None
    from tqdm import tqdm

    return tqdm(total=total, unit="req", unit_scale=True, leave=False, file=sys.stderr, delay=1.0)
