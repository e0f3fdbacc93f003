"""EarlyStop: ends a run that can no longer meet its objective: most of the cost of looking for the largest load.

Exact: a run that is stopped would have failed. So what it knows of a job is a bound that only time can move, and to the
worse: a live job's time so far, the time to its first token once that is over, and of those to come nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fastserve.metrics.finish import outcome_of
from fastserve.metrics.records import Recorder
from fastserve.metrics.slo import Slo
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer
from fastserve.sched.plan import Outcome, Plan
from fastserve.workload import Trace
from fastserve.workload.requests import outputs_of, targets_of
from sim.cluster.cluster import Cluster
from sim.world import World

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Statistic = Callable[[Floats], float]

EVERY = 500
"""Commits between two looks."""

LIVE, COMPLETED, MISSED, LEFT_OUT = range(4)
"""What is known of a job: not ended, completed; truncated or rejected, so that it misses whatever it asks for;
cancelled, and in no figure. Those that have not come are LIVE, with an age below 0.
"""


class Seen:
    """What a run has shown so far, by row of its trace. Times in ns from its start. warmup: s whose arrivals are not
    measured.
    """

    def __init__(self, trace: Trace, warmup: float = 0.0) -> None:
        self.arrival: Ints = trace.arrival
        self.output: Ints = np.asarray(outputs_of(trace), np.int64)
        arrival = trace.arrival / 1e9
        self.measured: NDArray[np.bool_] = arrival >= arrival.min() + warmup
        self.first: Ints = np.full(len(trace), -1, np.int64)
        """first token; -1: none yet"""
        self.end: Ints = np.full(len(trace), -1, np.int64)
        """-1: not ended"""
        self.state: NDArray[np.int8] = np.full(len(trace), LIVE, np.int8)


class Objective(Protocol):
    """What a run has to meet."""

    def lost(self, seen: Seen, now: int) -> bool:
        """Whether it is certain by now (ns) to be missed at the end."""
        ...


def limits_of(trace: Trace, slo: Slo) -> Floats:
    """(3, n): of TTFT, TPOT and the end, s, of each request, its own or that of `slo`; NaN for none."""
    targets = targets_of(trace)
    own = np.full((len(trace), 3), np.nan) if targets is None else np.array([one.seconds() for one in targets])
    given = [np.nan if limit is None else limit for limit in (slo.ttft_s, slo.tpot_s, slo.e2e_s)]
    limits: Floats = np.where(np.isnan(own), given, own).T
    return limits


class Attainment:
    """A share of the jobs that must meet all objectives they have, of their own or of `slo`, as metrics.slo counts it.

    leave: clients may give up. One that leaves is in no figure, so that who is late and still there is not counted.
    """

    def __init__(self, trace: Trace, slo: Slo, attain: float, leave: bool = False) -> None:
        limits = limits_of(trace, slo)
        self.ttft, self.tpot, self.e2e = limits
        self.asks: NDArray[np.bool_] = np.asarray(~np.isnan(limits).all(axis=0), np.bool_)
        self.attain = attain
        self.leave = leave

    def lost(self, seen: Seen, now: int) -> bool:
        counted = self.asks & seen.measured & (seen.state != LEFT_OUT)
        total = np.count_nonzero(counted)
        late = (seen.state == MISSED) | self._late(seen, now)
        if self.leave:
            late &= seen.state != LIVE
        return bool(total and np.count_nonzero(counted & ~late) / total < self.attain)

    def _late(self, seen: Seen, now: int) -> NDArray[np.bool_]:
        """Who has missed an objective, as the records of ended jobs have it, or is certain to."""
        begun = seen.first >= 0
        until = np.where(seen.end < 0, now, seen.end)
        late: NDArray[np.bool_] = (until - seen.arrival) / 1e9 > self.e2e
        late |= (np.where(begun, seen.first, until) - seen.arrival) / 1e9 > self.ttft
        several = begun & (seen.output > 1)
        late |= several & ((until - seen.first) / 1e9 / np.maximum(seen.output - 1, 1) > self.tpot)
        return late


class Normalised:
    """Statistics of s per output token (JCT / output tokens), of which one at least must not be above `limit`.

    Means and percentiles are monotone, so over lower bounds they are lower bounds. Of runs that truncate nobody.
    """

    def __init__(self, statistics: Sequence[Statistic], limit: float) -> None:
        self.statistics = statistics
        self.limit = limit * (1 + 1e-9)

    def lost(self, seen: Seen, now: int) -> bool:
        until = np.where(seen.end < 0, np.maximum(now, seen.arrival), seen.end)
        least = (until - seen.arrival) / 1e9 / seen.output
        counted = least[seen.measured & (seen.state <= COMPLETED)]
        return bool(len(counted)) and all(statistic(counted) > self.limit for statistic in self.statistics)


class EarlyStop(Observer):
    """Of one machine or of a cluster, which it is attached to. `stopped`: whether it has."""

    def __init__(self, run: World | Cluster, trace: Trace, objective: Objective, warmup: float = 0.0) -> None:
        self.run = run
        self.objective = objective
        self.seen = Seen(trace, warmup)
        self.commits = 0
        self.stopped = False
        if isinstance(run, World):
            run.attach(_Look(self, run.recorder))
        elif not run.faults:  # a job that is sent again begins anew, and what was known of it no longer holds
            run.attach_each(lambda replica, life: replica.attach(_Look(self, replica.recorder)))

    def look(self, now: int) -> None:
        self.commits += 1
        if self.commits % EVERY == 0 and not self.stopped and self.objective.lost(self.seen, now):
            self.stopped = self.run.stopped = True


class _Look(Observer):
    """At one machine, or replica. recorder: which is told before observers are."""

    def __init__(self, stop: EarlyStop, recorder: Recorder) -> None:
        self.stop = stop
        self.recorder = recorder

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        seen = self.stop.seen
        for job, _ in plan.prefill:
            if seen.first[job.id] < 0:
                seen.first[job.id] = self.recorder.first_token(job)
        for job in finished:
            if seen.first[job.id] < 0:  # the recorder has forgotten it: its first token is of this commit
                seen.first[job.id] = now
            self._ended(job, now)
        self.stop.look(now)

    def rejected(self, job: Job, now: int, why: str) -> None:
        self._ended(job, now, MISSED)

    def cancelled(self, job: Job, now: int) -> None:
        self._ended(job, now)

    def _ended(self, job: Job, now: int, state: int | None = None) -> None:
        seen = self.stop.seen
        seen.end[job.id] = now
        known = {"completed": COMPLETED, "cancelled": LEFT_OUT}
        seen.state[job.id] = known.get(outcome_of(job.finish), MISSED) if state is None else state
