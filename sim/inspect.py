"""Close-ups: the timeline and the iteration log of the first run, and one job's life under each policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastserve.observers.explain import Explanation
from fastserve.observers.inter_token import gaps
from fastserve.observers.iterations import IterationLog
from fastserve.observers.timeline import MANY, Timeline
from fastserve.policies.spec import PolicySpec
from fastserve.sched.observer import Observer, Observers
from sim.world import World


@dataclass
class Inspection:
    """What is to be looked at closely. timeline, iterations: files to write; job: whose life to tell."""

    timeline: Path | None = None
    iterations: Path | None = None
    job: int | None = None
    seed: int = 0  # the one seed that is looked at

    _asked: bool = False
    _timeline: Timeline | None = None
    _log: IterationLog | None = None
    _world: World | None = None  # of the first run
    _stories: dict[str, Explanation] = field(default_factory=dict)

    def observe(self, spec: PolicySpec, label: str, seed: int) -> Callable[[World], None] | None:
        """What to attach to this run; None where nobody looks. The first that is asked for is the first policy's."""
        files = not self._asked and (self.timeline is not None or self.iterations is not None)
        if seed != self.seed or not (files or self.job is not None):
            return None
        self._asked = True

        def attach(world: World) -> None:
            observers: list[Observer] = []
            if files:
                self._world = world
                if self.timeline is not None:
                    self._timeline = Timeline(world.scheduler)
                    observers.append(self._timeline)
                if self.iterations is not None:
                    self._log = IterationLog(world.scheduler)
                    observers.append(self._log)
            if self.job is not None:
                self._stories[label] = Explanation(world.scheduler, self.job)
                observers.append(self._stories[label])
            world.attach(observers[0] if len(observers) == 1 else Observers(observers))

        return attach

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
        remarks: list[str] = []
        if self._timeline is not None and self.timeline is not None:
            self._timeline.write(self.timeline)
            written.append(self.timeline)
            remarks += _remarks(self._timeline)
        if self._log is not None and self.iterations is not None and self._world is not None:
            self._log.write(self.iterations)
            written.append(self.iterations)
            remarks.append(str(gaps(self._log.rows, self._world.machine.latency)))
        return written, remarks


def _remarks(timeline: Timeline) -> list[str]:
    count = len(timeline.events)
    if timeline.ended_at is not None:
        return [
            f"the timeline ends at {timeline.ended_at / 1e9:.3f} s of the run, with its {count:,} events: "
            "take a part of the trace with --num-requests, or --from and --for"
        ]
    if count > MANY:
        return [f"the timeline has {count:,} events, more than viewers like; take fewer requests with --num-requests"]
    return []
