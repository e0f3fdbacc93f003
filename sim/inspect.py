"""Which runs of a replay are looked at, by which observers, and what is said of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from fastserve.atomic_files import atomically
from fastserve.observers.explain import Explanation
from fastserve.observers.inter_token import gaps
from fastserve.observers.iterations import IterationLog
from fastserve.observers.named import make
from fastserve.observers.timeline import MANY, Timeline
from fastserve.observers.trace_file import TraceFile
from fastserve.policies.spec import PolicySpec
from fastserve.routers.spec import RouterLike, RouterSpec
from sim.cluster.cluster import Cluster
from sim.cluster.replica import Replica
from sim.cluster.settings import ROUTER
from sim.cluster.story import Story
from sim.driver import Driver
from sim.world import World

MOST = 500_000  # events of a timeline, each run having its share: it is kept in memory, and no viewer likes more


@dataclass
class Inspection:
    """timeline: of the first seed's runs, a group each. iterations: of the first run. jobs: whose lives to tell, under
    each policy. observers: names of the user's own, made fresh for each run. rows: runs of a seed.

    Files appear whole or not at all, after all runs; the route log is written as its run goes on. Of a cluster each
    replica has a group of the timeline, and an iteration log: FILE-r0, FILE-r1, and FILE-r1-2 for one that has come
    back.
    """

    timeline: Path | None = None
    iterations: Path | None = None
    jobs: Sequence[int] = ()
    observers: Sequence[str] = ()
    route_log: Path | None = None  # of the first run, which has this router
    router: RouterLike = ROUTER
    seed: int = 0  # whose runs are looked at; the user's own observers look at all
    rows: int = 1

    _drawn: StringIO = field(default_factory=StringIO)
    _trace: TraceFile | None = None
    _texts: dict[Path, StringIO] = field(default_factory=dict)
    _timelines: list[Timeline] = field(default_factory=list)
    _logs: list[tuple[IterationLog, Driver]] = field(default_factory=list)
    _stories: dict[int, dict[str, Explanation]] = field(default_factory=dict)
    _asked: bool = False

    def observe(self, spec: PolicySpec, label: str, seed: int) -> Callable[[World], None] | None:
        """What to attach to this run; None where nobody looks. The first that is asked for is the first policy's."""
        chosen = seed == self.seed
        first = chosen and not self._asked
        self._asked = self._asked or chosen
        log = first and self.iterations is not None
        route_log = self.route_log if first else None
        drawn = chosen and self.timeline is not None
        jobs = self.jobs if chosen else ()
        if not (log or route_log or drawn or jobs or self.observers):
            return None

        def attach(world: World | Cluster) -> None:
            if isinstance(world, Cluster):

                def look(replica: Replica, life: int) -> None:
                    if drawn:
                        name = f"{label}, {world.names[replica.number].name}" + (f" ({life})" if life > 1 else "")
                        self._draw(replica, name, len(world.names))
                    if log:
                        self._log(replica, _part(replica, life))

                world.attach_each(look)
                if route_log is not None:
                    world.log_routes(route_log, RouterSpec.of(self.router))
                for job in jobs:
                    self._stories.setdefault(job, {})[label] = Story(job, world)
                world.attach_each(lambda replica, life: self._own(replica))
                return
            if drawn:
                self._draw(world, label)
            if log:
                self._log(world)
            for job in jobs:
                story = self._stories.setdefault(job, {})[label] = Explanation(job)
                world.attach(story)
            self._own(world)

        return attach

    def _own(self, world: Driver) -> None:
        for name in self.observers:
            world.attach(make(name))

    def _draw(self, world: Driver, name: str, parts: int = 1) -> None:
        """A group of the timeline. parts: of its run, which share its events."""
        if self._trace is None:
            self._trace = TraceFile(self._drawn)
        self._timelines.append(Timeline(self._trace, MOST // (self.rows * parts), name))
        world.attach(self._timelines[-1])

    def _log(self, world: Driver, part: str = "") -> None:
        """part: of a cluster, what the name of its file ends with."""
        assert self.iterations is not None
        text = self._texts[_named(self.iterations, part)] = StringIO()
        self._logs.append((IterationLog(text, keep=not part), world))
        world.attach(self._logs[-1][0])

    def lives(self, job: int) -> str:
        """Its stories as text, one after the other."""
        return "\n".join([story.text(label, self.seed) for label, story in self._stories.get(job, {}).items()])

    def lives_document(self, job: int) -> dict[str, list[dict[str, Any]]]:
        """Label -> lines of the job's life."""
        told = self._stories.get(job, {})
        return {label: [line.document() for line in story.told()] for label, story in told.items()}

    def write(self) -> tuple[list[Path], list[str]]:
        """The files. Returns their paths and what there is to say about them. Raises OutputError."""
        written: list[Path] = []
        if self.timeline is not None and self._trace is not None:
            self._trace.close()
            self._texts[self.timeline] = self._drawn
        for path, text in self._texts.items():
            with atomically(path) as draft:
                draft.write_text(text.getvalue(), encoding="utf-8", newline="\n")
            written.append(path)
        remarks = _remarks(self._timelines)
        remarks += [str(gaps(log.rows, world.machine.latency)) for log, world in self._logs if log.rows]
        if self.route_log is not None:
            written.append(self.route_log)
        return written, remarks


def _part(replica: Replica, life: int) -> str:
    return f"-r{replica.number}" + (f"-{life}" if life > 1 else "")


def _named(path: Path, part: str) -> Path:
    return path.with_name(f"{path.stem}{part}{path.suffix}")


def _remarks(timelines: Sequence[Timeline]) -> list[str]:
    cut = [f"{timeline.name} at {timeline.ended_at / 1e9:.3f} s" for timeline in timelines if timeline.cut]
    events = sum([timeline.count for timeline in timelines])
    if cut:
        return [
            f"the timeline ends before its runs do, with {events:,} events: {', '.join(cut)}; "
            "take a part of the trace with --num-requests, or --from and --for"
        ]
    if events > MANY:
        return [f"the timeline has {events:,} events, more than viewers like; take fewer with --num-requests"]
    return []
