"""Waiting and running jobs kept sorted by rank."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, Final

from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy

Entry = tuple[Any, int, int, Job]  # (rank, arrival, id, job): the id is unique, so jobs are never compared

NAME_JOBS: Final = "give the Job objects themselves, as self.jobs has them"
"""Said of a policy that names anything else."""

NAME_ALL: Final = "name every waiting job once; to hold one back, call self.hold(job) and then leave it out"
"""Said of a waiting() that leaves jobs out."""

insert: Final = insort  # (compiled, a Final name costs no look-up)
place: Final = bisect_left


class Ranking:
    """Two lists, best first: who waits, and who runs and may be displaced.

    For a settled policy a stored rank is current unless the job is in `dirty`; the rank of a running job may be better
    than stored, so improve() is asked before the stored one costs it its place. Otherwise every rank is read again.

    lazy: while nobody waits and nobody must leave, there is nothing to choose, and ranks need not be read. True for
    settled policies; whoever wants each change of rank to be seen at once (`check_policy`) switches it off.
    """

    __slots__ = ("dirty", "lazy", "live", "own_queue", "policy", "run", "settled", "stale", "wait")

    def __init__(self, policy: Policy, live: dict[Job, None]) -> None:
        self.policy = policy
        self.settled = policy.settled
        self.own_queue = type(policy).waiting is not Policy.waiting
        self.lazy = self.settled and not self.own_queue
        self.live = live
        self.wait: list[Entry] = []
        self.run: list[Entry] = []
        self.dirty: dict[Job, None] = {}  # whose rank or place has changed since the last refresh()
        self.stale: dict[Job, None] = {}  # of these, who runs: `run` is not right until refresh_run()

    def entry_of(self, job: Job) -> Entry:
        try:
            return (self.policy.rank(job), job.arrival, job.id, job)
        except (Exception, SystemExit) as error:
            raise PolicyError(self.policy, "rank", job, error) from error

    def best_first(self, jobs: list[Job]) -> list[Job]:
        """Any live jobs, by rank as of now; ties: who runs first, then (arrival, id)."""
        keys: list[tuple[Any, bool, int, int, Job]] = []
        policy = self.policy
        for job in jobs:
            try:
                rank = policy.rank(job)
            except (Exception, SystemExit) as error:
                raise PolicyError(policy, "rank", job, error) from error
            keys.append((rank, not job.running, job.arrival, job.id, job))
        try:
            keys.sort()
        except Exception as error:
            entries = [(rank, arrival, id, job) for rank, _, arrival, id, job in keys]
            raise self._incomparable(entries[0], entries, error) from error
        return [key[4] for key in keys]

    def refresh(self) -> None:
        """Brings `wait` up to date, and for an unsettled policy both lists."""
        if not self.settled:
            self._read_all()
            return
        for job in self.dirty:
            if job.running:
                if job.queue is self.wait:
                    self._take(self.wait, job)
                    job.queue = None
                self.stale[job] = None
            else:
                if job.queue is not None:
                    self._take(job.queue, job)
                    job.queue = None
                if not (self.own_queue or (job.hold is not None and job.hold.on)):
                    self._put(self.wait, job)
        self.dirty.clear()

    def refresh_run(self) -> None:
        """After refresh(): brings `run` up to date. Who takes nobody's place need not ask for it."""
        if len(self.stale) * 4 > len(self.run):
            self._sort_run()
            return
        for job in self.stale:
            if job.running:
                if job.queue is not None:
                    self._take(job.queue, job)
                    job.queue = None
                if job.rolling and not job.fresh:
                    self._put(self.run, job)
        self.stale.clear()

    def _sort_run(self) -> None:
        """The same for many at once."""
        stale = self.stale
        run = [entry for entry in self.run if entry[3] not in stale]
        for job in stale:
            if job.running:
                job.queue = None
                if job.rolling and not job.fresh:
                    job.queue = self.run
                    job.entry = entry = self.entry_of(job)
                    run.append(entry)
        try:
            run.sort()
        except Exception as error:
            raise self._incomparable(run[0], run, error) from error
        self.run[:] = run
        stale.clear()

    def _put(self, queue: list[Entry], job: Job) -> None:
        job.queue = queue
        job.entry = entry = self.entry_of(job)
        try:
            insert(queue, entry)
        except Exception as error:
            raise self._incomparable(entry, queue, error) from error

    def _read_all(self) -> None:
        wait: list[Entry] = []
        run: list[Entry] = []
        for job in self.live:
            if job.running:
                queue = run if job.rolling and not job.fresh else None
            else:
                queue = None if self.own_queue or (job.hold is not None and job.hold.on) else wait
            job.queue = queue
            if queue is not None:
                job.entry = entry = self.entry_of(job)
                queue.append(entry)
        for queue in (wait, run):
            try:
                queue.sort()
            except Exception as error:
                raise self._incomparable(queue[0], queue, error) from error
        self.wait = wait
        self.run = run
        self.dirty.clear()
        self.stale.clear()

    def _incomparable(self, entry: Entry, queue: list[Entry], error: Exception) -> PolicyError:
        other = next((rank for rank, _, _, _ in queue if type(rank) is not type(entry[0])), queue[0][0])
        message = (
            f"ranks that cannot be compared, such as {entry[0]!r} and {other!r} ({error}); return one kind of value"
        )
        return PolicyError(self.policy, "rank", entry[3], message)

    def _take(self, queue: list[Entry], job: Job) -> None:
        entry = job.entry
        assert entry is not None
        at = place(queue, entry)
        if at == len(queue) or queue[at][3] is not job:
            message = (
                f"returned {entry[0]!r}, which has lost its place in the order: a rank must not change after it was "
                f"returned, and must be neither NaN nor only partly ordered; return a new number or tuple each time"
            )
            raise PolicyError(self.policy, "rank", job, message)
        del queue[at]

    def queue(self, waiting: int = 0) -> Iterator[Entry]:
        """The waiting jobs, best first. waiting: how many a policy with a queue of its own must name."""
        if not self.own_queue:
            return iter(self.wait)
        return self._policy_queue(waiting)

    def _policy_queue(self, waiting: int) -> Iterator[Entry]:
        """As the policy names them. Whoever has asked to the end has heard of each, or a PolicyError says who is lost:
        a job that is never named would wait for ever, here as on a live engine, where nobody can know what will come.
        """
        seen: set[Job] = set()
        try:
            jobs = iter(self.policy.waiting())
        except (Exception, SystemExit) as error:
            raise PolicyError(self.policy, "waiting", None, error) from error
        while True:
            try:
                named: object = next(jobs)
            except StopIteration:
                if len(seen) < waiting:
                    raise self._left_out(seen) from None
                return
            except (Exception, SystemExit) as error:
                raise PolicyError(self.policy, "waiting", None, error) from error
            if not isinstance(named, Job):
                raise PolicyError(self.policy, "waiting", None, f"named {named!r}, which is no Job; {NAME_JOBS}")
            job = named
            if job in seen or job.running or job.held_back or job not in self.live:
                why = "twice" if job in seen else "that runs" if job.running else "that is not live"
                if job.held_back and job not in seen:
                    why = "that is held back"
                raise PolicyError(self.policy, "waiting", job, f"named a job {why}; name each waiting job once")
            seen.add(job)
            yield self.entry_of(job)

    def _left_out(self, seen: set[Job]) -> PolicyError:
        lost = [job for job in self.live if not (job.running or job.held_back or job in seen)]
        message = f"left out {len(lost)} waiting jobs, such as job {lost[0].id}; {NAME_ALL}"
        return PolicyError(self.policy, "waiting", None, message)

    def improve(self, top: int) -> bool:
        """Has run[top - 1] got better since it was read? Then it moves up, and the weakest is somebody else."""
        entry = self.run[top - 1]
        job = entry[3]
        fresh = self.entry_of(job)
        try:
            if not fresh[0] < entry[0]:
                return False
            del self.run[top - 1]
            job.entry = fresh
            insert(self.run, fresh, 0, top - 1)
        except Exception as error:
            raise self._incomparable(fresh, self.run or [entry], error) from error
        return True

    def remove(self, job: Job) -> None:
        queue = job.queue
        if queue is not None:
            self._take(queue, job)
            job.queue = None
        job.entry = None  # it points back at the job: a departed job must be free of cycles
        self.dirty.pop(job, None)
        self.stale.pop(job, None)
