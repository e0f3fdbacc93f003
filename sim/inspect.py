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
from fastserve.policies.spec import PolicySpec
from fastserve.routers.spec import RouterLike, RouterSpec
from sim.cluster.cluster import Cluster
from sim.cluster.replica import Replica
from sim.cluster.settings import ROUTER
from sim.cluster.story import Story
from sim.driver import Driver
from sim.world import World

MOST = 500_000  # events, at which a timeline ends: it is kept in memory, and no viewer likes more


@dataclass
class Inspection:
    """timeline, iterations: files about the first run. job: whose life to tell, under each policy. observers: names of
    the user's own, made fresh for each run.

    Files appear whole or not at all, after all runs; the route log is written as its run goes on. Of a cluster each
    replica has a timeline and an iteration log: FILE-r0, FILE-r1, and FILE-r1-2 for one that has come back.
    """

    timeline: Path | None = None
    iterations: Path | None = None
    job: int | None = None
    observers: Sequence[str] = ()
    route_log: Path | None = None  # of the first run, which has this router
    router: RouterLike = ROUTER
    seed: int = 0  # whose runs are looked at; the user's own observers look at all

    _texts: dict[Path, StringIO] = field(default_factory=dict)
    _timelines: list[Timeline] = field(default_factory=list)
    _logs: list[tuple[IterationLog, Driver]] = field(default_factory=list)
    _stories: dict[str, Explanation] = field(default_factory=dict)
    _asked: bool = False

    def observe(self, spec: PolicySpec, label: str, seed: int) -> Callable[[World], None] | None:
        """What to attach to this run; None where nobody looks. The first that is asked for is the first policy's."""
        chosen = seed == self.seed
        wanted = (self.timeline, self.iterations, self.route_log)
        files = chosen and not self._asked and any(path is not None for path in wanted)
        story = chosen and self.job is not None
        self._asked = self._asked or chosen
        if not (files or story or self.observers):
            return None

        def attach(world: World | Cluster) -> None:
            if isinstance(world, Cluster):
                if files:
                    world.attach_each(lambda replica, life: self._look(replica, _part(replica, life)))
                if files and self.route_log is not None:
                    world.log_routes(self.route_log, RouterSpec.of(self.router))
                if story and self.job is not None:
                    self._stories[label] = Story(self.job, world)
                world.attach_each(lambda replica, life: self._own(replica))
                return
            if files:
                self._look(world)
            if story and self.job is not None:
                self._stories[label] = Explanation(self.job)
                world.attach(self._stories[label])
            self._own(world)

        return attach

    def _own(self, world: Driver) -> None:
        for name in self.observers:
            world.attach(make(name))

    def _look(self, world: Driver, part: str = "") -> None:
        """part: of a cluster, what the names of its files end with."""
        if self.timeline is not None:
            text = self._texts[_named(self.timeline, part)] = StringIO()
            self._timelines.append(Timeline(text, MOST))
            world.attach(self._timelines[-1])
        if self.iterations is not None:
            text = self._texts[_named(self.iterations, part)] = StringIO()
            self._logs.append((IterationLog(text, keep=not part), world))
            world.attach(self._logs[-1][0])

    @property
    def lives(self) -> str:
        """The stories as text, one after the other."""
        return "\n".join([story.text(label, self.seed) for label, story in self._stories.items()])

    @property
    def lives_document(self) -> dict[str, list[dict[str, Any]]]:
        """Label -> lines of the job's life."""
        return {label: [line.document() for line in story.told()] for label, story in self._stories.items()}

    def write(self) -> tuple[list[Path], list[str]]:
        """The files. Returns their paths and what there is to say about them. Raises OutputError."""
        written: list[Path] = []
        for path, text in self._texts.items():
            with atomically(path) as draft:
                draft.write_text(text.getvalue(), encoding="utf-8", newline="\n")
            written.append(path)
        remarks = [remark for timeline in self._timelines for remark in _remarks(timeline)]
        remarks += [str(gaps(log.rows, world.machine.latency)) for log, world in self._logs if log.rows]
        if self.route_log is not None:
            written.append(self.route_log)
        return written, remarks


def _part(replica: Replica, life: int) -> str:
    return f"-r{replica.number}" + (f"-{life}" if life > 1 else "")


def _named(path: Path, part: str) -> Path:
    return path.with_name(f"{path.stem}{part}{path.suffix}")


def _remarks(timeline: Timeline) -> list[str]:
    if timeline.cut:
        return [
            f"the timeline ends at {timeline.ended_at / 1e9:.3f} s of the run, with its {timeline.count:,} events: "
            "take a part of the trace with --num-requests, or --from and --for"
        ]
    if timeline.count > MANY:
        return [f"the timeline has {timeline.count:,} events, more than viewers like; take fewer with --num-requests"]
    return []
