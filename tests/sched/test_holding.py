"""Holding back: who is offered, who is woken while nothing runs, when the Scheduler overrules; contexts, hits, pins."""

from __future__ import annotations

import pytest

from fastserve.policies.spec import PolicySpec
from fastserve.sched.errors import PolicyError
from fastserve.sched.holding import PATIENCE
from fastserve.sched.job import NEVER, Job
from fastserve.sched.policy import Policy
from sim import replay
from tests.policies.desk import MS, Desk


class Held(Policy):
    """Holds back whom the test names, by id; alarms: id -> ns."""

    settled = True

    def __init__(self, *ids: int, **alarms: int) -> None:
        self.ids = ids
        self.alarms = {int(name[1:]): ms * MS for name, ms in alarms.items()}
        self.rung: list[tuple[int, int]] = []
        self.over: list[str] = []

    def rank(self, job: Job) -> int:
        return job.priority

    def arrive(self, job: Job) -> None:
        if job.id in self.ids:
            self.hold(job)
        if job.id in self.alarms:
            self.wake(job, waited=self.alarms[job.id])

    def alarm(self, job: Job, why: str) -> None:
        self.rung.append((job.id, self.now))

    def ended(self, program: str) -> None:
        self.over.append(program)


def test_a_held_job_is_not_offered_until_it_is_released() -> None:
    policy = Held(0)
    desk = Desk(policy, slots=4)
    first, second = desk.come(), desk.come()
    assert first.held_back and not second.held_back
    assert desk.run(10) == [second]
    assert first.held == 10 * MS
    policy.release(first)
    assert not first.held_back and first.held == 10 * MS
    assert desk.run(10) == [first, second]
    assert first.held == 10 * MS and not first.overruled


def test_held_twice_is_held_once_and_time_adds_up() -> None:
    policy = Held()
    desk = Desk(policy)
    runs, waits = desk.come(), desk.come()
    desk.run(5)
    policy.hold(waits)
    policy.hold(waits)
    desk.run(7)
    policy.release(waits)
    policy.release(waits)
    desk.run(11)
    policy.hold(waits)
    desk.run(13)
    assert waits.held == 20 * MS
    desk.scheduler.cancel(waits, desk.now)
    desk.run(17)
    assert waits.held == 20 * MS and not waits.held_back
    with pytest.raises(ValueError, match="job 0 runs and cannot be held back"):
        policy.hold(runs)


def test_nobody_to_wake_and_nothing_runs_the_oldest_joins() -> None:
    policy = Held(0, 1, 2)
    desk = Desk(policy, slots=4)
    first, second, third = desk.come(), desk.come(), desk.come()
    assert first is not None and desk.scheduler.opens_at() == NEVER
    assert desk.run(10) == [first]
    assert first.overruled and not first.held_back and not second.overruled
    assert desk.run(10, first) == [first]
    assert desk.run(10) == [second]
    assert desk.scheduler.holding.overruled == 2
    assert third.held == 30 * MS


def test_an_alarm_rings_while_nothing_runs() -> None:
    policy = Held(0, 1, j1=40)
    desk = Desk(policy)
    desk.come(), desk.come()
    scheduler = desk.scheduler
    assert scheduler.plan(0) is None
    assert scheduler.opens_at() == 40 * MS
    assert not scheduler.tick(39 * MS)
    assert scheduler.tick(40 * MS)
    assert policy.rung == [(1, 40 * MS)]
    assert scheduler.plan(40 * MS) is None and scheduler.opens_at() == 80 * MS


def test_who_is_woken_in_vain_for_ever_is_overruled() -> None:
    policy = Held(0, j0=1)
    desk = Desk(policy)
    job = desk.come()
    scheduler = desk.scheduler
    now = 0
    while scheduler.plan(now) is None:
        now = scheduler.opens_at()
        assert scheduler.tick(now)
    assert len(policy.rung) == PATIENCE
    desk.now = now
    assert desk.run(1) == [job] and job.overruled


def test_static_batches_count_only_those_who_are_offered() -> None:
    policy = Held(0, 1)
    desk = Desk(policy, slots=2, options={"batching": "static", "token_budget": None, "static_timeout": 50 * MS})
    desk.come(), desk.come()
    third = desk.come()
    assert desk.scheduler.plan(0) is None
    assert desk.scheduler.opens_at() == 50 * MS
    desk.now = 50 * MS
    assert desk.run(10, third) == [third]


def test_the_policy_hears_that_a_program_is_over() -> None:
    policy = Held()
    desk = Desk(policy)
    job = desk.come(5, program="a")
    desk.run(1, job)
    assert policy.context("a") == 6
    desk.scheduler.end_program("a", desk.now)
    assert policy.over == ["a"] and policy.context("a") == 0


def test_what_goes_wrong_in_ended_names_the_policy() -> None:
    class Wrong(Held):
        def ended(self, program: str) -> None:
            raise KeyError(program)

    with pytest.raises(PolicyError, match=r"policy Wrong, ended\(\) at 0.000000 s: KeyError: 'a'"):
        Desk(Wrong()).scheduler.end_program("a", 0)


SHARING = {"prefix_cache": "on", "prefix_tokens": 16, "residency": "recompute"}


def test_pools_in_tokens() -> None:
    desk = Desk(Held(), options={"device_blocks": 10, "host_blocks": 4})
    assert (desk.policy.machine.pool_tokens, desk.policy.machine.host_tokens) == (160, 64)
    desk = Desk(Held())
    assert (desk.policy.machine.pool_tokens, desk.policy.machine.host_tokens) == (NEVER, 0)
    desk = Desk(Held(), options={"host_blocks": None})
    assert desk.policy.machine.host_tokens == NEVER


def test_contexts_share_what_they_share_once() -> None:
    policy = Held()
    desk = Desk(policy, slots=4, options=SHARING | {"device_blocks": 100})
    system = [1, 2]
    desk.come(50, program="a", ids=[*system, 3])
    desk.come(70, program="a", ids=[*system, 4, 5])
    desk.come(40, program="b", ids=system)
    alone = desk.come(35, ids=system)
    assert policy.context("a") == 50 + 70 - 32
    assert policy.contexts(["b", "a", "b", "nobody", alone]) == [40, 88 - 32, 0, 0, 3]
    assert policy.contexts([alone, "b"]) == [35, 8]
    desk.run(1)
    assert policy.context("b") == 41


def test_without_content_a_context_is_the_largest() -> None:
    policy = Held()
    desk = Desk(policy, slots=4)
    first = desk.come(50, program="a")
    second = desk.come(70, program="a")
    assert policy.context("a") == 70
    desk.run(1, second)
    assert policy.context("a") == 51
    desk.run(1, first)
    assert policy.context("a") == 52, "of the one that ended last"


def test_pool_and_hits() -> None:
    policy = Held()
    desk = Desk(policy, options=SHARING | {"device_blocks": 20})
    first = desk.come(64, program="a", ids=[1, 2, 3, 4])
    desk.run(10)
    assert (policy.pool_used, policy.pool_idle) == (80, 0)
    desk.run(10, first)
    assert (policy.pool_used, policy.pool_idle) == (0, 64)
    desk.come(70, program="a", ids=[1, 2, 3, 5])
    desk.run(10)
    assert policy.hits(NEVER) == (48, 134)
    assert policy.hits(20 * MS) == (48, 70)
    assert policy.hits(10 * MS) == (0, 0)


def left(desk: Desk) -> list[int]:
    """Ids of the idle units."""
    assert desk.scheduler.sharing is not None
    return desk.scheduler.sharing.tree.idle_ids()


def full() -> tuple[Held, Desk]:
    """Three programs of two units each, idle, in a pool of seven blocks; and one that needs four blocks."""
    policy = Held()
    desk = Desk(policy, options=SHARING | {"device_blocks": 7})
    for name, ids in (("a", [1, 2]), ("b", [3, 4]), ("c", [5, 6])):
        desk.run(1, desk.come(32, program=name, ids=ids))
    assert left(desk) == [2, 1, 4, 3, 6, 5]
    return policy, desk


def test_what_is_kept_goes_last() -> None:
    policy, desk = full()
    policy.keep("a", desk.now + 100 * MS)
    desk.come(60)
    desk.run(1)
    assert left(desk) == [2, 1, 5]


def test_what_running_jobs_need_goes_all_the_same_by_its_key() -> None:
    policy, desk = full()
    for name, key in (("a", 2.5), ("b", 1), ("c", 3)):
        policy.keep(name, desk.now + 100 * MS, key)
    desk.come(60)
    desk.run(1)
    assert left(desk) == [1, 6, 5]


def test_a_pin_ends_by_itself_or_with_its_program() -> None:
    policy, desk = full()
    policy.keep("a", desk.now + 5 * MS)
    policy.keep("b", desk.now + 100 * MS)
    desk.scheduler.end_program("b", desk.now)
    policy.keep("c", desk.now + 100 * MS)
    policy.keep("c", 0)
    desk.now += 5 * MS
    desk.come(60)
    desk.run(1)
    assert left(desk) == [3, 6, 5]


def test_keys_and_times_are_numbers() -> None:
    policy, desk = full()
    with pytest.raises(TypeError, match="keep\\(\\) takes whole nanoseconds"):
        policy.keep("a", 0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="and a number as key"):
        policy.keep("a", desk.now + MS, float("nan"))
    with pytest.raises(TypeError, match=r"and a number as key, not \d+ and 'x'"):
        policy.keep("a", desk.now + MS, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes the name of a program"):
        policy.keep(desk.come(), desk.now + MS)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["hold", "release", "keep"])
@pytest.mark.parametrize("method", ["rank", "waiting"])
def test_nothing_is_decided_while_the_next_batch_is_chosen(method: str, what: str) -> None:
    class Meddles(Policy):
        def rank(self, job: Job) -> int:
            if method == "rank":
                self.meddle(job)
            return job.id

        def meddle(self, job: Job) -> None:
            if what == "keep":
                self.keep("a", NEVER)
            else:
                getattr(self, what)(job)

    class Names(Meddles):
        def waiting(self) -> list[Job]:
            waiting = [job for job in self.jobs if not job.running]
            self.meddle(waiting[-1])
            return waiting[:-1]

    policy = Names() if method == "waiting" else Meddles()
    desk = Desk(policy)
    job = desk.come()
    desk.come()
    with pytest.raises(PolicyError, match=f"{method}\\(\\).*{what}\\(\\) from rank\\(\\) or waiting"):
        desk.run(10)
    policy.hold(job)  # afterwards it may decide again


def test_what_is_above_something_kept_stays_with_it() -> None:
    policy = Held()
    desk = Desk(policy, options=SHARING | {"device_blocks": 7})
    desk.run(1, desk.come(48, program="a", ids=[1, 2, 3]))
    desk.run(1, desk.come(32, program="b", ids=[1, 2]))  # it lets go of them last
    desk.run(1, desk.come(16, program="c", ids=[4]))
    assert left(desk) == [3, 2, 1, 4]
    policy.keep("a", desk.now + 100 * MS)
    desk.come(60)
    desk.run(1)
    assert left(desk) == [3, 2, 1]


class Shut(Held):
    def arrive(self, job: Job) -> None:
        self.hold(job)


def test_a_result_says_that_the_policy_was_overruled() -> None:
    text = str(replay(synth="n=2,rate=1", policy=[PolicySpec(f"{__name__}:Shut"), "fcfs"], processes=1))
    assert "Shut was overruled for 2 jobs: it held every job back while nothing ran" in " ".join(text.split())
    assert "fcfs was overruled" not in text
