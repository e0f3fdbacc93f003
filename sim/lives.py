"""--explain of the simulator: jobs by number are watched as the runs go on; those that a word chooses are known only
afterwards, and their runs are made once more, which gives the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastserve.cli.explaining import Picked, Which, picked, stories
from sim.inspect import Inspection
from sim.notable import first_seed
from sim.replay import Observe, Result


@dataclass
class Lives:
    """asked: in which order they are told. closeup: who watches those that are known by number."""

    asked: Sequence[Which]
    closeup: Inspection

    _chosen: list[Picked] = field(default_factory=list)
    _again: Inspection = field(default_factory=Inspection)

    @property
    def numbers(self) -> list[int]:
        return [one for one in self.asked if isinstance(one, int)]

    def choose(self, result: Result, once_more: Callable[[Observe], object]) -> None:
        """Those that words ask for. once_more: makes the runs of the first seed again; not after an interrupt."""
        self._chosen = picked(self.asked, first_seed(result.runs, result.settings))
        jobs = dict.fromkeys([one.job for one in self._chosen if one.job is not None])
        self._again.jobs = [job for job in jobs if job not in self.numbers]
        if self._again.jobs and not result.interrupted:
            once_more(self._again.observe)

    def text(self) -> str:
        """Each job once, under what was asked."""
        return stories(self._chosen, lambda job: self._of(job).lives(job))

    def document(self) -> dict[str, Any]:
        """Of one job by its number label -> lines; else a list of {"asked", "job", "lives": label -> lines}."""
        if len(self.asked) == 1 and self.numbers:
            return {"explain": self.closeup.lives_document(self.numbers[0])}
        told = [
            {
                "asked": one.asked,
                "job": one.job,
                "lives": {} if one.job is None else self._of(one.job).lives_document(one.job),
            }
            for one in self._chosen
        ]
        return {"explain": told} if told else {}

    def _of(self, job: int) -> Inspection:
        return self.closeup if job in self.numbers else self._again
