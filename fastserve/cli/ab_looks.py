"""What `fastserve ab --offline` looks at: the first run of each row, one group of the timeline each, and the lives that
--explain asks for. A live run cannot be made again, so where it is looked at, it is at every job.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastserve.cli.explaining import Which, picked, stories, which, worth
from fastserve.compare.contender import Contender
from fastserve.metrics.notable import notable
from fastserve.observers.lives import Lives
from fastserve.observers.named import check_apart, chosen, find
from fastserve.observers.timeline import Timeline
from fastserve.observers.trace_file import TraceFile
from fastserve.sched.observer import Observer

if TYPE_CHECKING:
    from fastserve.compare.compare import Comparison
    from fastserve.metrics.columns import Columns


class Looks:
    """Raises ValueError, OutputError for what cannot be, before anything is started. jobs: requests of a run."""

    def __init__(self, args: argparse.Namespace, contenders: Sequence[Contender], jobs: int) -> None:
        for name in args.observer:
            find(name)
        check_apart(args.timeline, args.iterations)
        self.asked: list[Which] = which(args.explain, jobs, len(contenders))
        self.names = args.observer
        self.iterations = args.iterations
        self.contenders = list(contenders)
        self.left = list(contenders)  # whose first run is still to come
        self.lives: dict[str, Lives] = {}
        self.file = None if args.timeline is None else TraceFile(args.timeline)

    def of(self, one: Contender) -> list[Observer]:
        """For one run. --load measures fcfs before the first, which is nobody's."""
        if not any(one is other for other in self.left):
            return chosen(names=self.names)
        self.left = [other for other in self.left if other is not one]
        found = chosen(None, self.iterations if one is self.contenders[0] else None, self.names)
        if self.file is not None:
            found.append(Timeline(self.file, name=one.title))
        if self.asked:
            self.lives[one.title] = Lives()
            found.append(self.lives[one.title])
        return found

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def document(self, found: Comparison) -> dict[str, Any]:
        """For --json, as `python -m sim` has it: what is notable, and what was asked for."""
        records = _first(found)
        told: dict[str, Any] = {"notable": [job.document() for job in notable(records)]}
        if self.asked:
            chosen = picked(self.asked, records)
            told["explain"] = [{"asked": one.asked, "job": one.job, "lives": self._lines(one.job)} for one in chosen]
        return told

    def text(self, found: Comparison) -> str:
        """What is printed under the comparison."""
        records = _first(found)
        lives = stories(picked(self.asked, records), self._life)
        return "\n".join(worth(records, 100)) + (f"\n\n{lives}" if lives else "")

    def _lines(self, job: int | None) -> dict[str, Any]:
        told = {label: lives.told[job] for label, lives in self.lives.items() if job is not None and job in lives.told}
        return {label: [line.document() for line in story.told()] for label, story in told.items()}

    def _life(self, job: int) -> str:
        return "\n".join([lives.told[job].text(label) for label, lives in self.lives.items() if job in lives.told])


def _first(found: Comparison) -> dict[str, Columns]:
    """Of the first round, whose runs are looked at."""
    return {run.label: dict(run.records) for run in found.rounds if run.number == 0}
