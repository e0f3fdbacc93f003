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
from sim.world import World

MOST = 500_000  # events, at which a timeline ends: it is kept in memory, and no viewer likes more


@dataclass
class Inspection:
    """timeline, iterations: files about the first run. job: whose life to tell, under each policy. observers: names of
    the user's own, made fresh for each run.

    Files appear whole or not at all, after all runs.
    """

    timeline: Path | None = None
    iterations: Path | None = None
    job: int | None = None
    observers: Sequence[str] = ()
    seed: int = 0  # whose runs are looked at; the user's own observers look at all

    _first: World | None = None
    _texts: dict[str, StringIO] = field(default_factory=dict)
    _timeline: Timeline | None = None
    _log: IterationLog | None = None
    _stories: dict[str, Explanation] = field(default_factory=dict)
    _asked: bool = False

    def observe(self, spec: PolicySpec, label: str, seed: int) -> Callable[[World], None] | None:
        """What to attach to this run; None where nobody looks. The first that is asked for is the first policy's."""
        chosen = seed == self.seed
        files = chosen and not self._asked and (self.timeline is not None or self.iterations is not None)
        story = chosen and self.job is not None
        self._asked = self._asked or chosen
        if not (files or story or self.observers):
            return None

        def attach(world: World) -> None:
            if files:
                self._look(world)
            if story and self.job is not None:
                self._stories[label] = Explanation(self.job)
                world.attach(self._stories[label])
            for name in self.observers:
                world.attach(make(name))

        return attach

    def _look(self, world: World) -> None:
        self._first = world
        if self.timeline is not None:
            self._texts["timeline"] = StringIO()
            self._timeline = Timeline(self._texts["timeline"], MOST)
            world.attach(self._timeline)
        if self.iterations is not None:
            self._texts["iterations"] = StringIO()
            self._log = IterationLog(self._texts["iterations"], keep=True)
            world.attach(self._log)

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
        for name, text in self._texts.items():
            path: Path = getattr(self, name)
            with atomically(path) as draft:
                draft.write_text(text.getvalue(), encoding="utf-8", newline="\n")
            written.append(path)
        remarks = [] if self._timeline is None else _remarks(self._timeline)
        if self._log is not None and self._first is not None:
            remarks.append(str(gaps(self._log.rows, self._first.machine.latency)))
        return written, remarks


def _remarks(timeline: Timeline) -> list[str]:
    if timeline.cut:
        return [
            f"the timeline ends at {timeline.ended_at / 1e9:.3f} s of the run, with its {timeline.count:,} events: "
            "take a part of the trace with --num-requests, or --from and --for"
        ]
    if timeline.count > MANY:
        return [f"the timeline has {timeline.count:,} events, more than viewers like; take fewer with --num-requests"]
    return []
