"""AlarmBook: which alarms a policy has set, which of them rang, and how to scale scripts for the others to ring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from fastserve.sched.job import NEVER, Job

KINDS: Final = ("served", "tokens", "waited")
ENOUGH: Final = 256
"""Amounts remembered of each kind and tick; a policy that sets alarms to all sorts of amounts has absolute ones too."""
TICKS_UNTIL: Final = 8
"""A rescaled script lets the longest alarm of an absolute length ring after so many of its ticks."""
LONGEST: Final = NEVER >> 12
"""ns: an alarm for longer (some three days) is beyond any script."""
LONGER: Final = (4, 16, 64)
"""By how much outputs are made longer for alarms that a longer tick does not reach."""


class AlarmBook:
    """asked: kind -> amounts set, in ns or tokens. rung: those of them that went off."""

    def __init__(self) -> None:
        self.asked: dict[str, set[int]] = {kind: set() for kind in KINDS}
        self.rung: dict[str, set[int]] = {kind: set() for kind in KINDS}
        self.goals: dict[Job, tuple[int, int, int]] = {}
        self.amounts: dict[Job, list[int]] = {}  # last set, by kind

    def look(self, jobs: Iterable[Job]) -> None:
        """After a callback: notes what it has set, for whichever job."""
        for job in jobs:
            goals = (job.served_goal, job.tokens_goal, job.waited)
            before = self.goals.get(job, (NEVER, NEVER, 0))
            if goals == before:
                continue
            self.goals[job] = goals
            amounts = (job.served_goal - job.served, job.tokens_goal - job.generated, job.waited or NEVER)
            mine = self.amounts.setdefault(job, [NEVER, NEVER, NEVER])
            for i, kind in enumerate(KINDS):
                if goals[i] != before[i] and len(self.asked[kind]) < ENOUGH:
                    mine[i] = amounts[i]
                    self.asked[kind].add(amounts[i])

    def rang(self, job: Job, why: str) -> None:
        """Before the policy is told."""
        i = KINDS.index(why)
        self.rung[why].add(self.amounts.get(job, [NEVER] * 3)[i])
        if why != "waited":  # that one rings again; the others must be set anew
            goals = list(self.goals.get(job, (NEVER, NEVER, 0)))
            goals[i] = NEVER
            self.goals[job] = (goals[0], goals[1], goals[2])

    def forget(self, job: Job) -> None:
        self.goals.pop(job, None)
        self.amounts.pop(job, None)


class AlarmsHeard:
    """The books of all scripts, and the scales that are still to be tried."""

    def __init__(self) -> None:
        self.asked: dict[str, dict[int, set[int]]] = {kind: {} for kind in KINDS}  # by kind and tick
        self.rung: dict[str, set[int]] = {kind: set() for kind in KINDS}

    def add(self, tick: int, book: AlarmBook) -> None:
        for kind in KINDS:
            self.asked[kind].setdefault(tick, set()).update(amount for amount in book.asked[kind] if amount < NEVER)
            self.rung[kind] |= book.rung[kind]

    def scales(self, longest: int) -> Iterator[tuple[int, int]]:
        """(tick in ns, or 0 for the usual one; how many times as long outputs are), while an alarm that some script
        can reach has never rung. longest: tokens of a usual script's longest output.
        """
        times = [amount for kind in ("served", "waited") for amount in self.missing(kind) if amount <= LONGEST]
        if times:
            yield max(1, max(times) // TICKS_UNTIL), 1
        for longer in LONGER:
            tokens = any(amount <= longer * longest for amount in self.missing("tokens"))
            if tokens or any(amount <= LONGEST for kind in ("served", "waited") for amount in self.missing(kind)):
                yield 0, longer

    def missing(self, kind: str) -> set[int]:
        """Amounts of this kind that never rang: all if none did, else those that do not go with the machine's speed.

        An amount that was set under two ticks is absolute, such as five seconds; twice a decode is not.
        """
        by_tick = list(self.asked[kind].values())
        if not self.rung[kind]:
            return set().union(*by_tick)
        seen: set[int] = set()
        absolute: set[int] = set()
        for amounts in by_tick:
            absolute |= amounts & seen
            seen |= amounts
        return absolute - self.rung[kind]

    def warnings(self, name: str) -> list[str]:
        """Of alarms that no scale has made ring. Only for a policy that overrides alarm()."""
        asked = {kind: set().union(*self.asked[kind].values()) for kind in KINDS}
        if not any(asked.values()):
            return [f"{name}.alarm() is defined, but no alarm was ever set: call self.wake(job, ...), or delete it"]
        unit = {"tokens": lambda amount: f"{amount:,} tokens"}
        return [
            f"{name}.alarm() never rang as {kind!r}, which was set for "
            f"{unit.get(kind, lambda amount: f'{amount / 1e9:g} s')(min(asked[kind]))} or more: what it does then is "
            f"not checked; no script goes on for so long"
            for kind in KINDS
            if asked[kind] and not self.rung[kind]
        ]  # fmt: skip
