"""sweep(): policies over a grid of settings and knobs, on a pool, into a folder that a second run goes on from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve.policies.spec import PolicyLike, facts_told
from fastserve.routers.spec import RouterLike
from fastserve.workload import Synthesis, Trace
from fastserve.workload.seeds import RESAMPLES, SeedSource
from sim.asked import Ready, check_load, policies, ready, routed, seed_numbers, workload
from sim.replay import POOL_PAYS, RunError, travels
from sim.settings import Settings
from sim.sustained import ASIDE
from sim.sweep.folder import Folder
from sim.sweep.grid import KINDS, Cell, Grid, given, grid
from sim.sweep.names import Names
from sim.sweep.points import Failed, Row
from sim.sweep.pool import POOLS, check_pool, computed
from sim.sweep.progress import progress as bar
from sim.sweep.progress import wanted
from sim.sweep.result import Sweep
from sim.sweep.work import Done, Sustaining, Task, Work


def sweep(
    trace: Trace | SeedSource | str | Path | None = None,
    policy: PolicyLike | Sequence[PolicyLike] = ("fcfs", "sj-mlfq"),
    *,
    synth: str | Synthesis | None = None,
    router: RouterLike | Sequence[RouterLike] | None = None,
    seeds: int | Sequence[int] = 5,
    settings: Settings | None = None,
    out: str | Path | None = None,
    pool: str = POOLS[0],
    jobs: int | None = None,
    address: str | None = None,
    progress: bool | None = None,
    reading: Mapping[str, Any] | None = None,
    num_requests: int | None = None,
    resample: str = RESAMPLES[0],
    keep_records: bool = False,
    **axes: Any,
) -> Sweep:
    """Replay a trace under one policy or several at each point of a grid, over seeds.

    trace, policy, synth, router, seeds, settings, reading, num_requests, resample: as replay() takes them. axes:
    settings by name; one that is given several values is an axis, and several axes make a grid: load="0.5:1.1:0.1"
    (both ends included), load=[0.5, 0.7], max_batch="8,16,32"; of several routers each is a row. A knob of a policy
    varies likewise, for its rows alone: PolicySpec("mlfq", {"ratio": [2, 4]}). A seed has the same requests at every
    point; only their gaps are stretched.

    out: a folder. Each run is a file there as soon as it is done; a second sweep with the same inputs and source
    computes nothing again, and a wider one what is new. pool: local processes, ray or dask (address: of a running
    cluster). jobs: processes at once. progress: a line on stderr (None: when that is a terminal). keep_records: for
    Sweep.records().

    What cannot run at one point is left out there, and Sweep.failed says why. After Ctrl-C returns what has finished.
    Raises ValueError (TraceError for the trace) with what was wrong, OutputError for the folder, and RunError when no
    run could be made.
    """
    base, found = given(settings, axes)
    numbers = seed_numbers(seeds)
    made = grid(policies(policy), routed(base, router), found, len(numbers))
    source = workload(
        trace, synth, base, reading=reading, num_requests=num_requests, resample=resample, seeds=max(numbers) + 1
    )
    return swept(
        source, made, numbers,
        out=out, pool=pool, jobs=jobs, address=address, progress=progress, keep_records=keep_records,
    )  # fmt: skip


def swept(
    source: SeedSource,
    made: Grid,
    seeds: Sequence[int],
    *,
    out: str | Path | None = None,
    pool: str = POOLS[0],
    jobs: int | None = None,
    address: str | None = None,
    progress: bool | None = None,
    keep_records: bool = False,
) -> Sweep:
    """The runs of a grid, see sweep()."""
    check_pool(pool, jobs)
    typical = source.typical()
    for cell in made.cells:
        check_load(typical, cell.settings)
    most = Sustained(source)
    first = _first(source, made, seeds[0], most)
    result = _asked(source, made, seeds, first)
    names = Names(source, seeds)
    todo = [(names.name(cell, seed), cell, seed) for seed in seeds for cell in made.cells]  # two may be one run
    folder = None if out is None else Folder(Path(out))
    done: dict[str, Done] = {}
    if folder is not None:
        folder.begin(result.about(), names.workload, [(name, _row(cell, seed)) for name, cell, seed in todo])
        result.folder = folder.path
        found = {name: folder.found(name, keep_records) for name, _, _ in todo}
        done = {name: kept for name, kept in found.items() if kept is not None}
    missing = {name: (cell, seed) for name, cell, seed in todo if name not in done}
    pays = jobs is not None or len(missing) * source.jobs >= POOL_PAYS
    if pool == POOLS[0] and not (pays and travels([source, *made.cells])):
        jobs = 1
    work = Work(source, seeds[0], keep_records)
    try:
        rates = most.of([cell.settings for cell, _ in missing.values()], jobs, pool, address)
        tasks = {
            name: Task(cell.spec, cell.settings, seed, rate)
            for (name, (cell, seed)), rate in zip(missing.items(), rates, strict=True)
        }
        results: Iterable[tuple[str, Done]] = computed(work, tasks, jobs=jobs, pool=pool, address=address)
        if wanted(progress):
            results = bar(results, "sweep", len(missing) + len(done), len(done), "run")
        for name, outcome in results:
            done[name] = outcome
            result.computed += 1
            if folder is not None and not outcome.failed:
                folder.keep(name, _row(*missing[name], outcome))
    except KeyboardInterrupt:
        result.interrupted = True
    for name, cell, seed in todo:
        if name in done and done[name].failed:
            result.failed.append(Failed(cell.label, cell.at, seed, done[name].failed))
        elif name in done:
            result.rows.append(_row(cell, seed, done[name]))
    if result.failed and not result.rows and not result.interrupted:
        raise RunError(f"no run could be made. {result.failed[0]}")
    if folder is not None and not result.interrupted:
        folder.end(result.summaries(), result.document())
    return result


def _first(source: SeedSource, made: Grid, seed: int, most: Sustained) -> Ready:
    """At the first point that there can be. Raises ValueError where there is none."""
    why = ""
    for cell in made.cells:
        [rate] = most.of([cell.settings])
        if not isinstance(rate, str):
            return ready(source, cell.settings, seed, rate)
        why = why or rate
    raise ValueError(why)


def _asked(source: SeedSource, made: Grid, seeds: Sequence[int], first: Ready) -> Sweep:
    """A Sweep without runs. Its settings are those that are alike at every point."""
    shown = first.shown(seeds, any(cell.settings.in_cluster for cell in made.cells))
    paced = {"rate", "load"} & made.axes.keys()
    for name in [*made.axes, *(("rate", "load") if paced else ()), *_followers(made)]:
        shown.pop(name, None)
    if source.recipe is not None:
        shown["synth"] = str(source.recipe)
    one = {cell.label: cell.spec for cell in made.cells}
    shown |= facts_told(list(one.values()), list(one), first.first.facts)
    read = [] if first.first.reading is None else first.first.reading.lines()
    return Sweep(made.axes, shown, made.labels, len(made.cells) * len(seeds), read)


def _followers(made: Grid) -> set[str]:
    """Settings that vary with another, such as a reserve of a block a slot, or the pools of a machine."""
    plain: list[dict[str, Any]] = []
    for name, values in made.axes.items():
        if name in KINDS and name not in ("rate", "load"):
            at = {repr(value): cell for value in values for cell in made.cells if cell.at[name] == value}
            plain += [cell.settings.shown(cell.settings.hardware()) for cell in at.values()]
    return {name for one in plain for name in one if one[name] != plain[0].get(name)}


def _row(cell: Cell, seed: int, done: Done | None = None) -> Row:
    router = cell.settings.router_title if cell.settings.in_cluster else ""
    found = done or Done({}, {}, None)
    return Row(cell.spec.name, cell.label, router, cell.at, seed, found.numbers, found.told, found.records)


class Sustained:
    """What fcfs sustains under each settings, asked once for those that are alike in it."""

    def __init__(self, source: SeedSource) -> None:
        self._measure = Sustaining(source)
        self._known: dict[Settings, float | str | None] = {}

    def of(
        self, settings: Sequence[Settings], jobs: int | None = 1, pool: str = POOLS[0], address: str | None = None
    ) -> list[float | str | None]:
        """For each, requests/s, None where requests wait for one another, or why it cannot be said."""
        alike = [_alike(one) for one in settings]
        new = {str(i): one for i, one in enumerate(dict.fromkeys(alike)) if one not in self._known}
        for name, rate in computed(self._measure, new, jobs=jobs, pool=pool, address=address):
            self._known[new[name]] = rate
        return [self._known[one] for one in alike]


def _alike(settings: Settings) -> Settings:
    return settings.with_(**ASIDE, router=None)
