"""check_policy: policies that hold jobs back, good ones and broken ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastserve.sched.conformance import ConformanceError, check_policy
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from tests.sched.gates import GATES, MS


class Fair(Policy):
    settled = True

    def rank(self, job: Job) -> int:
        return 0


class OneProgram(Fair):
    """The oldest program first; the others wait, and are let in when it is over."""

    def __init__(self) -> None:
        self.queue: list[str] = []

    def arrive(self, job: Job) -> None:
        if job.program not in self.queue:
            self.queue.append(job.program)
        if job.program != self.queue[0]:
            self.hold(job)
            self.wake(job, waited=round(2e9))

    def alarm(self, job: Job, why: str) -> None:
        self.release(job)

    def ended(self, program: str) -> None:
        self.queue.remove(program)
        for job in self.jobs:
            if job.program in self.queue[:1]:
                self.release(job)

    def explain(self, job: Job) -> str:
        return f"{self.queue.index(job.program)} programs before it"


class Keeper(OneProgram):
    """What a program leaves is kept, the largest first, as long as the pool is half empty."""

    def depart(self, job: Job) -> None:
        found, asked = self.hits(round(1e9))
        if 2 * self.pool_used < self.machine.pool_tokens and found <= asked:
            self.keep(job.program, self.now + round(1e9), key=-self.context(job.program))


@pytest.mark.parametrize("kind", [OneProgram, Keeper])
def test_policies_that_release_whom_they_hold(kind: type[Policy]) -> None:
    assert "keeps the contract" in str(check_policy(kind))


def breach(policy: Callable[[], Policy], check: str, *words: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_policy(policy)
    text = str(caught.value)
    assert caught.value.check == check, text
    for word in words:
        assert word in text, text


def test_one_that_holds_everybody_and_is_never_woken() -> None:
    class Shut(Fair):
        def arrive(self, job: Job) -> None:
            self.hold(job)

    breach(
        Shut, "held", "Shut holds back every live job", "such as job 0", "while nothing runs", "waited=...", "[script"
    )


def test_one_that_forgets_a_job_that_it_holds() -> None:
    class Forgets(Fair):
        def arrive(self, job: Job) -> None:
            if job.id == 7:
                self.hold(job)

    breach(Forgets, "held", "such as job 7", "release one in depart() or ended()")


def test_one_that_is_woken_and_never_releases() -> None:
    class Stern(Fair):
        def arrive(self, job: Job) -> None:
            if job.id % 4 == 1:
                self.hold(job)
                self.wake(job, waited=50 * MS)

        def alarm(self, job: Job, why: str) -> None:
            pass

    breach(Stern, "held", "was woken 500 times in a row and has released none", "nobody may starve")


def test_one_that_holds_back_who_runs() -> None:
    class Grabs(Fair):
        def arrive(self, job: Job) -> None:
            for other in self.jobs:
                self.hold(other)
                self.release(other)

    breach(Grabs, "exception", "Grabs.arrive()", "runs and cannot be held back", "hold a job when it arrives")


@pytest.mark.parametrize("method", ["rank", "explain"])
def test_one_that_holds_back_where_nothing_may_change(method: str) -> None:
    def asks(self: Policy, job: Job) -> str:
        if not job.running and job.id == 5:
            self.hold(job)
        return ""

    kind = type("Sly", (Fair,), {method: asks})
    breach(kind, "pure", f"Sly.{method}() of job 5", "has called self.hold()", "arrive()")


def test_waiting_that_names_whom_it_holds_back() -> None:
    class Own(Fair):
        def arrive(self, job: Job) -> None:
            if job.id % 3 == 1:
                self.hold(job)

        def waiting(self) -> list[Job]:
            return [job for job in self.jobs if not job.running]

    breach(Own, "waiting", "this job, which it holds back")


def test_waiting_that_leaves_out_instead_of_holding() -> None:
    class Out(Fair):
        def waiting(self) -> list[Job]:
            return [job for job in self.jobs if not job.running and job.id != 3]

    breach(Out, "waiting", "of job 3", "left out this job", "call self.hold(job)")


@pytest.mark.parametrize("name", ["gate", "own-gate"])
def test_what_the_comparisons_play_is_deterministic(name: str) -> None:
    """They release at random, so they may be overruled; nothing else is wrong with them."""
    for seed in range(3):
        try:
            check_policy(lambda seed=seed: GATES[name](seed))  # type: ignore[misc]
        except ConformanceError as error:
            if error.check != "held":
                raise
