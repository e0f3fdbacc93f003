"""The twin of a run: a fresh Scheduler that is told arrivals, cancels, lengths and the times of the steps, and of
nothing that the body did otherwise than planned. Where do its plans part from the log's, and why?

    python -m fastserve.flightlog.twin flight.jsonl

Under vLLM, which hands out tokens and blocks by itself, a plan is amended to what was done, and the pool follows what
vLLM has left. A replay is told of that, and makes every plan again. The twin is not: up to the first such event its
plans are the log's, and where they part it says which came before.

Exits 0 if all plans are alike, or part behind what the body did otherwise; 1 if they part where it did as planned; 2 if
the log cannot be read or its replay differs. A policy that the log does not name as importable: --policy mine:Mine.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final

from fastserve.flightlog.lines import CUT, Line
from fastserve.flightlog.replay import Rerun, arguments, opened
from fastserve.policies.spec import PolicyLike
from fastserve.sched.job import NEVER
from fastserve.sched.policy import Policy

UNTOLD: Final = ("amend", "correct", "resize_pool")
"""Events that say what the body did otherwise."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """The body did otherwise than planned. what: the kind; details: in words. plan: the last one before it, from 1."""

    what: str
    details: str
    plan: int


@dataclass(frozen=True, slots=True)
class TwinReport:
    """alike: plans that the twin made as the log has them, of `plans`; difference: the first other one, None if all
    are. deviations: all of the log; the first `before` of them come before that difference.
    """

    plans: int
    alike: int
    difference: str | None
    deviations: tuple[Deviation, ...]
    before: int

    @property
    def explained(self) -> bool:
        """Nothing differs, or only behind a deviation."""
        return self.difference is None or self.before > 0

    def __str__(self) -> str:
        kinds = Counter(one.what for one in self.deviations)
        told = ", ".join(f"{what} {count}" for what, count in kinds.items()) or "nothing"
        lines = [f"done otherwise than planned: {told}"]
        if self.difference is None:
            lines.append(f"twin: all {self.plans} plans alike")
            return "\n".join(lines)
        lines.append(f"twin: the first {self.alike} of {self.plans} plans alike, then {self.difference}")
        if self.before:
            last = self.deviations[self.before - 1]
            count = f"{self.before} times; last after" if self.before > 1 else "once, after"
            lines.append(f"before that the body did otherwise {count} plan {last.plan}: {last.details}")
        else:
            lines.append("before that the body did all as planned: the Scheduler is not the log's")
        return "\n".join(lines)


def twin_of(path: str | PathLike[str], policy: PolicyLike | None = None) -> TwinReport:
    """policy: overrides the log's own. Raises LogError; ValueError for an unknown policy, or where the replay, which
    tells the lengths, makes another plan.
    """
    lengths = _lengths(path, policy)
    header, lines = opened(path)
    twin = _Twin.of(header, policy, path)
    twin.lengths = lengths
    difference = None
    before = 0
    for line in lines:
        if line.data is CUT:
            break
        twin.look(line)
        if difference is None:
            difference = twin.checked(line, path)
            before = len(twin.deviations)
    return TwinReport(twin.logged, twin.plans, difference, tuple(twin.deviations), before)


def _lengths(path: str | PathLike[str], policy: PolicyLike | None) -> dict[int, int]:
    """Output tokens of the jobs that have ended by themselves, by id, as the replay counts them."""
    header, lines = opened(path)
    run = Rerun.of(header, policy, path)
    for line in lines:
        if line.data is CUT:
            break
        difference = run.checked(line, path)
        if difference is not None:
            raise ValueError(f"{path}: the replay differs, so there is nothing to compare a twin with: {difference}")
    return {job.id: job.generated for job in run.jobs.values() if job.finish in ("stop", "length")}


class _Twin(Rerun):
    """logged: plans of the log so far. lengths: output tokens by job id; who is not in it never ends by itself."""

    def __init__(self, header: dict[str, Any], policy: Policy) -> None:
        super().__init__(header, policy)
        self.lengths: Mapping[int, int] = {}
        self.deviations: list[Deviation] = []
        self.logged = 0
        self.proposed: Mapping[str, Any] = {}  # the plan that the log has last
        self.pool: int = header["settings"]["device_blocks"]

    def look(self, line: Line) -> None:
        """Notes what this event tells of that the twin may not know."""
        data = line.data
        event = data["event"]
        if event == "plan":
            self.logged += 1
            self.proposed = data["plan"] or {}
        elif event == "amend":
            for what, details in _amended(self.proposed, data["plan"]):
                self._note(what, details)
        elif event == "correct":
            self._note("counts corrected", f"job {data['id']} was counted again: {data['tokens']:+d} tokens")
        elif event == "resize_pool":
            if data["blocks"] != self.pool:
                self._note("pool resized", f"the pool went from {self.pool} to {data['blocks']} blocks")
                self.pool = data["blocks"]
        elif event == "commit" and data.get("extra"):
            job, delta = data["extra"][0]
            self._note("uneven steps", f"job {job} got {1 + delta} tokens")

    def apply(self, line: Line) -> str | None:
        return None if line.data["event"] in UNTOLD else super().apply(line)

    def _commit(self, data: dict[str, Any]) -> None:
        assert self.plan is not None, "a commit without a plan"
        rounds = data["iterations"]
        ended = [
            job.id
            for job in self.plan.due
            if job.generated + (rounds if job.decoding else 1) >= self.lengths.get(job.id, NEVER)
        ]
        if set(ended) != set(data["ended"]):
            other = min(set(ended) ^ set(data["ended"]))
            self._note("ends told late", f"job {other} ended in another step than the one with its last token")
        answers = [[id, ids] for id, ids in data.get("answers", ()) if id in ended]
        super()._commit({**data, "ended": ended, "extra": (), "answers": answers})

    def _note(self, what: str, details: str) -> None:
        self.deviations.append(Deviation(what, details, self.logged))


def _amended(planned: Mapping[str, Any], done: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, in words) of each way in which a plan was amended."""
    lost = [id for id in done["drop"] if id not in planned.get("drop", ())]
    for id in lost:
        yield "lost", f"job {id} lost its KV"
    away = {*lost, *[id for id in planned.get("joined", ()) if id not in done["joined"]]}
    for id in sorted(away.difference(lost)):
        yield "absent", f"job {id} did not join"
    found, other = dict(planned.get("found", ())), dict(done.get("found", ()))
    for id in other:
        if other[id] != found.get(id, 0):
            yield "found", f"job {id} found {other[id]} tokens of its prefix where {found.get(id, 0)} were planned"
            away.add(id)
    chunks, got = dict(planned.get("prefill", ())), dict(done["prefill"])
    for id in {**chunks, **got}:
        if id not in away and chunks.get(id, 0) != got.get(id, 0):
            yield "prefill", f"a prefill of job {id} had {got.get(id, 0)} tokens where {chunks.get(id, 0)} were planned"
    if not away and planned.get("batch", 0) != done["batch"] and chunks == got:
        yield "decodes", f"{done['batch']} jobs decoded where {planned.get('batch', 0)} were planned"


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments("fastserve.flightlog.twin", __doc__).parse_args(argv)
    try:
        report = twin_of(args.log, args.policy)
    except (ValueError, OSError) as error:
        print(f"python -m fastserve.flightlog.twin: error: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0 if report.explained else 1


if __name__ == "__main__":
    sys.exit(main())
