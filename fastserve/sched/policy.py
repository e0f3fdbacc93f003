"""Policy: who goes first? The one page to read before writing one.

A policy gives every live job a rank; the smaller goes first. Everything else (batches, memory, copies, preemption,
time) belongs to the Scheduler: preemption is being in the last plan and not in the next. Five lines are a policy:

    class ShortestPrompt(Policy):
        settled = True

        def rank(self, job):
            return job.prompt
"""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping
from typing import Any, ClassVar, Final, Protocol

from fastserve.sched.job import Job

KEEP: Final = -(1 << 60)
"""wake(): an alarm that is not mentioned stays as it is."""


MUST_RANK: Final = "must define rank(self, job): any comparable value, the smaller goes first"
"""Said of a policy that does not."""


class Machine(Protocol):
    """What a policy may know about the machine: a latency model in the simulator, a measured profile live."""

    @property
    def decode_ns(self) -> int: ...  # ns of one decode iteration of a single job
    @property
    def slots(self) -> int: ...  # the batch cap
    @property
    def longest(self) -> int: ...  # tokens of the longest prompt that the machine takes
    @property
    def output_ns(self) -> int: ...  # ns of service of the longest output that the machine takes, alone; 0: not known

    pool_tokens: int  # of the KV pool on the device; NEVER: unlimited. Filled by the Scheduler
    host_tokens: int  # of the one on the host; NEVER: unlimited, 0: there is none. Filled by the Scheduler
    host_prefix_tokens: int  # of the one there for cached prefixes; 0: there is none. Filled by the Scheduler

    def prefill_ns(self, tokens: int) -> int: ...  # ns of a whole prefill, alone
    def load_ns(self, tokens: int) -> int: ...  # ns of copying the KV of so many tokens in, on an empty link


class PolicyContext:
    """What a policy may ask for, see the methods of Policy that have these names. The Scheduler is one."""

    def rerank(self, job: Job) -> None:
        raise NotImplementedError

    def wake(self, job: Job, served: int | None, tokens: int | None, waited: int | None) -> None:
        raise NotImplementedError

    def hold(self, job: Job) -> None:
        raise NotImplementedError

    def release(self, job: Job) -> None:
        raise NotImplementedError

    def contexts(self, programs: Iterable[str | Job]) -> list[int]:
        raise NotImplementedError

    def keep(self, program: str, until: int, key: float | None) -> None:
        raise NotImplementedError

    def hits(self, window: int) -> tuple[int, int]:
        raise NotImplementedError

    def pool_used(self) -> int:
        raise NotImplementedError

    def pool_idle(self) -> int:
        raise NotImplementedError


class Policy:
    """In which order should the live jobs be served? Override rank(); everything else has a default.

    A policy keeps its own state, keyed by job, and seeds its own randomness. It reads jobs and never writes them. One
    object serves one run. Its constructor's keywords are its settings; there is no super().__init__() to call.

    `settled = True` promises: between calls of rerank(), a waiting job's rank stays, and a running job's rank stays or
    gets better; joining the batch does not make it worse, leaving does not make it better. Then ranks are re-read only
    where they may have changed, and a run is many times faster. The default promises nothing and is always right.
    """

    needs: ClassVar[frozenset[str]] = frozenset()  # of the optional facts, e.g. {"guess"}: checked before a run starts
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # what its keyword `preset` sets: name -> keywords
    settled: ClassVar[bool] = False

    # Filled by the Scheduler before the first event.
    now: int = 0  # ns
    jobs: KeysView[Job]  # the live jobs, in the order of their submission
    machine: Machine
    _scheduler: PolicyContext | None = None

    def rank(self, job: Job) -> Any:
        """Any comparable value; the smaller goes first. Ties: who runs, then (arrival, id). Equal never preempts."""
        raise NotImplementedError(f"{type(self).__name__} {MUST_RANK}")

    def arrive(self, job: Job) -> None:
        """A job came."""

    def depart(self, job: Job) -> None:
        """It finished or was cancelled."""

    def alarm(self, job: Job, why: str) -> None:
        """An alarm that this policy set with wake() went off: why is "served", "tokens" or "waited"."""

    def ended(self, program: str) -> None:
        """The driver says that nothing more of this program will come; told after the last of its jobs departed."""

    def coldest(self, parked: list[Job]) -> Iterable[Job]:
        """In which order parked KV leaves the device; names every job of `parked`. Default: the worst rank first."""
        return sorted(parked, key=lambda job: (self.rank(job), not job.running, job.arrival, job.id), reverse=True)

    def explain(self, job: Job) -> str:
        """One short line for timelines and the live page, such as "Q3, 4 ms left"."""
        return f"rank {self.rank(job)}"

    def derived_settings(self) -> Mapping[str, Any]:
        """What it makes of its settings on this machine, such as levels and quanta, in the settings' units (s).

        Shown beside the settings in every result. Asked once, before the first event, when `machine` is known.
        """
        return {}

    def waiting(self) -> Iterable[Job]:
        """Advanced: the waiting jobs, best first, lazily. It must agree with rank() and may only decide ties.

        For policies with queues per client. It is asked while a plan is made, so it must not change anything.
        """
        raise NotImplementedError("the Scheduler keeps the waiting jobs itself unless waiting() is overridden")

    # -- what a policy may ask of the Scheduler --------------------------------------------------------------------

    def rerank(self, job: Job) -> None:
        """The rank of this job has changed. A job that has departed is ignored."""
        scheduler = self._scheduler or self._bound_to()
        scheduler.rerank(job)

    def wake(
        self, job: Job, *, served: int | None = KEEP, tokens: int | None = KEEP, waited: int | None = KEEP
    ) -> None:
        """Set, replace or (None) clear this job's alarms. A job that has departed is ignored.

        served: ns; once, when it has been served this much longer, over all its visits.
        tokens: once, when it has generated this many more.
        waited: ns; each time it has not run for this long (since its arrival, its last run or the last such alarm).
        Amounts below 1 count as 1. Alarms ring at the end of the iteration in which they fall due; `waited` ones of
        a held job also while nothing runs.
        """
        if type(served) is not int or type(tokens) is not int or type(waited) is not int:
            for amount in (served, tokens, waited):
                if amount is not None and not isinstance(amount, int):
                    raise TypeError(
                        f"wake() takes whole nanoseconds and tokens, not {amount!r}; try round(seconds * 1e9)"
                    )
        scheduler = self._scheduler or self._bound_to()
        scheduler.wake(job, served, tokens, waited)

    def hold(self, job: Job) -> None:
        """Holds a waiting job back: it is not offered for admission until it is released. Ask for it in arrive(),
        depart(), alarm() or ended(). Raises ValueError if it runs; a job that has departed is ignored.

        Set it a `waited` alarm too, which rings though nothing runs: where nothing runs, every job is held and none has
        such an alarm, the Scheduler overrules the policy, and the oldest joins. waiting() must not name it.
        """
        scheduler = self._scheduler or self._bound_to()
        scheduler.hold(job)

    def release(self, job: Job) -> None:
        """It is held back no longer. One that is not held, or has departed, is ignored."""
        scheduler = self._scheduler or self._bound_to()
        scheduler.release(job)

    def keep(self, program: str, until: int, key: float | None = None) -> None:
        """What jobs of this program let go, where prefixes are cached, stays on the device until `until` (ns; 0 ends
        it), unless what running jobs need takes it: first goes what is not kept, then what has the smallest key (by
        default `until`), then what was let go first. What is shared goes with the last program that let it go, and
        never before what is beyond it. Ask for it where hold() may be asked for; "" names no program.
        """
        if not isinstance(program, str):
            raise TypeError(f"keep() takes the name of a program, as job.program is, not {program!r}")
        if not isinstance(until, int) or not (key is None or (isinstance(key, int | float) and key == key)):
            raise TypeError(f"keep() takes whole nanoseconds, and a number as key, not {until!r} and {key!r}")
        scheduler = self._scheduler or self._bound_to()
        scheduler.keep(program, until, key)

    # -- what a policy may know beside its jobs; a settled one must not rank by it as it stands ----------------------

    def context(self, program: str | Job) -> int:
        """Tokens of a program's present context: of its live jobs, prompts and what they have generated, what they
        share by content counted once; if none lives, of the job (or jobs) of it that ended last.

        A job stands for its program, or for itself if it names none. Where contents are not known it is the largest.
        """
        return self.contexts((program,))[0]

    def contexts(self, programs: Iterable[str | Job]) -> list[int]:
        """For each of these, the tokens of its context that none named before it has: their sum is what all take."""
        scheduler = self._scheduler or self._bound_to()
        return scheduler.contexts(programs)

    @property
    def pool_used(self) -> int:
        """Tokens of the device's KV pool that live jobs hold, in whole blocks."""
        scheduler = self._scheduler or self._bound_to()
        return scheduler.pool_used()

    @property
    def pool_idle(self) -> int:
        """Tokens of cached prefixes on the device that no live job holds; they go when the room is taken."""
        scheduler = self._scheduler or self._bound_to()
        return scheduler.pool_idle()

    def hits(self, window: int) -> tuple[int, int]:
        """(found, asked): of the prefills begun in the last `window` ns, the tokens that were cached, and all.

        (0, 0) where prefixes are not cached. A prefill after a recompute counts, with what had been generated.
        """
        scheduler = self._scheduler or self._bound_to()
        return scheduler.hits(window)

    def _bound_to(self) -> PolicyContext:
        if self._scheduler is None:
            raise RuntimeError(f"{type(self).__name__} is not bound to a Scheduler: it can act only from arrive() on")
        return self._scheduler
