"""The loop and what it stands on: the order of events, idleness, steps that fail, the inbox, clocks."""

from __future__ import annotations

import logging
import random
import re
import threading
from typing import Any

import pytest

from fastserve.backends.scripted import ScriptedBackend, draw
from fastserve.engine import Engine
from fastserve.engine.clock import VirtualClock, WallClock
from fastserve.engine.inbox import Inbox
from fastserve.engine.loop import Loop
from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Request
from fastserve.hardware.machine_times import MachineTimes
from fastserve.metrics.records import Recorder
from fastserve.sched.job import NEVER, NOWHERE, Job
from fastserve.sched.plan import Outcome, Plan
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler
from tests.sched.audit import audit
from tests.sched.worlds import COARSE, MS, NAMES, scheduler_of, tuned, workload

PARAMS = SamplingParams(max_tokens=5).resolved({})


class Book(Scheduler):
    """Writes down what it is told."""

    said: list[tuple[Any, ...]]

    def submit(self, job: Job, now: int) -> None:
        self.said.append(("submit", job.id, now))
        super().submit(job, now)

    def cancel(self, job: Job, now: int) -> None:
        self.said.append(("cancel", job.id, now))
        super().cancel(job, now)

    def plan(self, now: int) -> Plan | None:
        self.said.append(("plan", now))
        return super().plan(now)

    def commit(self, plan: Plan, outcome: Outcome, now: int) -> list[Job]:
        self.said.append(("commit", now))
        return super().commit(plan, outcome, now)


def book(policy: str, **options: Any) -> Book:
    scheduler = scheduler_of(tuned(policy, True), MachineTimes(COARSE, options["max_batch"], 600), **options)
    scheduler.__class__ = Book
    assert isinstance(scheduler, Book)
    scheduler.said = []
    return scheduler


class Setting:
    """A loop without a thread."""

    def __init__(
        self, policy: str = "fcfs", backend: ScriptedBackend | None = None, clock: VirtualClock | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        options = {"max_batch": 4, **options}
        self.clock = clock or VirtualClock()
        self.scheduler = book(policy, **options)
        self.inbox = Inbox()
        self.backend = backend or ScriptedBackend(hardware=COARSE)
        self.loop = Loop(self.scheduler, self.backend, Recorder(), self.clock, self.inbox)

    def put(self, id: int, at: int = 0, prompt: int = 10, params: SamplingParams = PARAMS) -> Request:
        assert params.max_tokens is not None
        request = Request(Job(id, at, prompt, params.max_tokens), [65] * prompt, params, id, None)
        self.inbox.put(request)
        return request

    def play(self) -> None:
        while not self.inbox.empty or self.scheduler.live:
            if not self.loop.turn() and (not self.inbox.empty or self.scheduler.live):
                self.loop.rest()


def test_the_order_of_events() -> None:
    """Commit; arrivals by (arrival, id), then cancels by (arrival, id); plan. Nothing between."""
    setting = Setting()
    first = setting.put(0)
    assert setting.loop.turn()  # from 0 to 2 ms
    for id, at in ((5, 1), (4, 1), (3, 2), (6, 3)):
        setting.put(id, at * MS)
    setting.inbox.cancel(setting.put(7, 2 * MS), "cancelled")
    setting.inbox.cancel(first, "cancelled")
    setting.scheduler.said.clear()
    assert setting.loop.turn()
    told = setting.scheduler.said
    assert told[0][2] == 2 * MS
    assert [event[:2] for event in told[:-2]] == [
        ("submit", 4), ("submit", 5), ("submit", 3), ("submit", 7), ("cancel", 0), ("cancel", 7),
    ]  # fmt: skip
    assert [event[0] for event in told[-2:]] == ["plan", "commit"]
    assert told[-2][1] == 2 * MS


def test_a_cancel_takes_effect_within_one_iteration() -> None:
    setting = Setting()
    request = setting.put(0, params=SamplingParams(max_tokens=500).resolved({}))
    for _ in range(3):
        setting.loop.turn()
    setting.inbox.cancel(request, "gone")
    assert not setting.loop.turn()
    assert (request.finish_reason, len(request.tokens), request.job.finish) == ("gone", 3, "gone")
    assert request.record["finish"] == "gone"
    assert setting.scheduler.ledger.used == 0
    assert not setting.loop.requests
    assert not any(setting.backend.held().values())


def test_service_is_all_of_a_turn_but_the_stall() -> None:
    """Time that passes between the end of the run and the commit is charged too."""

    class Late(VirtualClock):
        def sleep_until(self, at: int) -> None:
            super().sleep_until(at + 7 * MS)

    setting = Setting(clock=Late())
    request = setting.put(0)
    setting.play()
    assert request.job.served == setting.clock.now() == (2 + 4 + 5 * 7) * MS


def test_a_request_whose_admission_fails_fails_alone() -> None:

    class Strict(ScriptedBackend):
        def admit(self, job: Job, prompt: list[int], params: SamplingParams, seed: int) -> None:
            if job.id == 1:
                raise LookupError("no such adapter")
            super().admit(job, prompt, params, seed)

    setting = Setting(backend=Strict(hardware=COARSE))
    requests = [setting.put(id) for id in range(3)]
    setting.play()
    assert [request.finish_reason for request in requests] == ["length", "error", "length"]
    assert requests[1].error == "LookupError: no such adapter"


def test_a_step_that_fails_takes_its_own_requests_with_it(caplog: pytest.LogCaptureFixture) -> None:
    """Who waited goes on, and so does who had its KV anywhere: it computes it again."""
    flaky = ScriptedBackend(hardware=COARSE, fail_step={2: RuntimeError("device side assert")})
    setting = Setting(backend=flaky, max_batch=2)
    requests = [setting.put(id) for id in range(4)]
    with caplog.at_level(logging.CRITICAL, logger="fastserve"):
        setting.play()
    assert [request.finish_reason for request in requests] == ["error", "error", "length", "length"]
    assert requests[0].error == "RuntimeError: device side assert"
    assert [len(request.tokens) for request in requests] == [2, 2, 5, 5]
    assert setting.loop.alive


def test_idle_it_rests_and_a_put_rouses_it() -> None:
    """On a real clock, in a thread; it is asked for nothing while it rests."""
    clock, inbox = WallClock(), Inbox()
    scheduler = book("fcfs", max_batch=4)
    loop = Loop(scheduler, ScriptedBackend(hardware=COARSE), Recorder(), clock, inbox)
    thread = threading.Thread(target=loop.run)
    thread.start()
    inbox.ask(lambda: None).result(10)
    inbox.ask(lambda: None).result(10)
    plans = len(scheduler.said)
    assert plans <= 3
    threading.Event().wait(0.05)
    assert len(scheduler.said) <= plans + 1
    request = Request(Job(0, clock.now(), 3, 5), [65] * 3, PARAMS, 0, None)
    inbox.put(request)
    assert request.ended.wait(10)
    inbox.close()
    thread.join(10)
    assert not loop.alive
    assert loop.error is None


def test_static_batching_opens_by_itself() -> None:
    setting = Setting(batching="static", static_timeout=30 * MS)
    request = setting.put(0, at=5 * MS)
    setting.play()
    assert request.record["queued"] == pytest.approx(0.030)


class Hides(Policy):
    """Names the even jobs only."""

    def rank(self, job: Job) -> int:
        return job.arrival

    def waiting(self) -> list[Job]:
        return [job for job in self.jobs if not job.running and job.id % 2 == 0]


@pytest.mark.parametrize("batching", ["mixed", "chunked", "prefill-first", "static"])
@pytest.mark.parametrize("others", [0, 2])
def test_a_job_that_waiting_leaves_out_is_told_as_in_the_simulator(batching: str, others: int) -> None:
    """It ends the engine, whose requests all hear why, and never turns for nothing: nobody can know who will come."""
    scheduler = scheduler_of(
        Hides(), MachineTimes(COARSE, 4, 600), batching=batching, static_timeout=30 * MS, max_batch=4
    )
    inbox = Inbox()
    loop = Loop(scheduler, ScriptedBackend(hardware=COARSE), Recorder(), VirtualClock(), inbox)
    requests = [Request(Job(id, 0, 10, 5), [65] * 10, PARAMS, id, None) for id in [1, *range(2, 2 + 2 * others, 2)]]
    for request in requests:
        inbox.put(request)
    rests: list[int] = []
    loop.rest = lambda: (rests.append(loop.now), Loop.rest(loop))  # type: ignore[method-assign, assignment, return-value]
    loop.run()
    assert len(rests) <= 2
    left_out = r"policy Hides, waiting\(\) at .* left out 1 waiting jobs, such as job 1; name every waiting job once"
    assert loop.error is not None and re.search(left_out, loop.error)
    assert [(request.finish_reason, request.error) for request in requests] == [("error", loop.error)] * len(requests)


# -- the doors that a failing step needs in the brain ------------------------------------------------------------------


@pytest.mark.parametrize("residency", ["recompute", "reactive", "proactive"])
@pytest.mark.parametrize("name", NAMES)
def test_forgetting_all_in_the_middle(name: str, residency: str) -> None:
    """The books balance after it, whoever prefilled, was parked, away or under way; and all end."""
    rng = random.Random(f"{name} {residency}")
    options: dict[str, Any] = {
        "max_batch": 5,
        "device_blocks": 50,
        "host_blocks": 80,
        "residency": residency,
        "visit": 0,
    }
    setting = Setting(name, **options)
    work = workload(rng, 40, True, 5, False)
    requests = []
    for job in work.jobs():
        params = SamplingParams(max_tokens=job.limit, stop_after=work.output[job.id]).resolved({})
        job.arrival //= 4
        requests.append(Request(job, [65] * job.prompt, params, job.id, None))
        setting.inbox.put(requests[-1])
    forgotten = 0
    while not setting.inbox.empty or setting.scheduler.live:
        if not setting.loop.turn() and (not setting.inbox.empty or setting.scheduler.live):
            setting.loop.rest()
        if setting.loop.steps % 17 == 5:
            running = list(setting.scheduler.running)
            before = [job.preemptions for job in running]
            setting.loop.start_over([], "")
            forgotten += len(running)
            audit(setting.scheduler)
            assert not setting.scheduler.running
            assert all(job.place is NOWHERE and not job.prefilled for job in setting.scheduler.live)
            assert [job.preemptions - 1 for job in running] == before
            assert setting.loop.turn() or not setting.scheduler.live or setting.scheduler.held
        audit(setting.scheduler)
    assert forgotten > 5
    assert [len(request.tokens) for request in requests] == work.output
    assert setting.loop.recorder.columns()["recomputed_tokens"].sum() > 0


def test_resizing() -> None:
    setting = Setting(max_batch=4)
    for id in range(6):
        setting.put(id)
    setting.loop.turn()
    with pytest.raises(ValueError, match="a batch cap of 2 with 4 jobs in the batch"):
        setting.scheduler.resize(2)
    setting.loop.start_over([], "")
    setting.scheduler.resize(2)
    setting.loop.turn()
    assert len(setting.scheduler.running) == 2
    with pytest.raises(ValueError, match="a batch cap of 0"):
        setting.scheduler.resize(0)
    setting.play()


# -- inbox, clocks, the scripted text ----------------------------------------------------------------------------------


def request_at(id: int, at: int) -> Request:
    return Request(Job(id, at, 1, 5), [1], PARAMS, 0, None)


def test_the_inbox() -> None:
    inbox = Inbox()
    late, early = request_at(0, 50), request_at(1, 10)
    inbox.put(late)
    inbox.put(early)
    assert inbox.next() == 10
    assert inbox.arrived(20) == [early]
    assert inbox.next() == 50
    inbox.cancel(late, "first", 30)
    inbox.cancel(late, "second", 35)
    inbox.cancel(early, "now")
    assert inbox.cancelled(20) == [(early, "now")]
    assert inbox.next() == 30
    assert inbox.cancelled(40) == [(late, "first")]
    early.finish_reason = "length"
    inbox.cancel(early, "too late", 45)
    assert inbox.next() == 50
    assert inbox.cancelled(60) == []
    assert inbox.waiting() == [late]
    assert inbox.empty
    asked = inbox.ask(lambda: 3)
    inbox.close()
    assert asked.cancelled()
    assert inbox.ask(lambda: 3).cancelled()
    with pytest.raises(RuntimeError, match="closed"):
        inbox.put(late)


def test_clocks() -> None:
    virtual = VirtualClock()
    virtual.sleep_until(7)
    virtual.sleep_until(3)
    assert virtual.now() == 7
    condition = threading.Condition()
    with condition:
        virtual.wait(condition, 20)
        assert virtual.now() == 20
        wall = WallClock(1000.0)
        wall.wait(condition, wall.now() + 1000)
    wall.sleep_until(wall.now() + 10**6)
    then = wall.now()
    assert then > 0
    assert wall.now() >= then
    with pytest.raises(ValueError, match="clock speed"):
        WallClock(0)
    assert virtual.now() < NEVER


def test_what_is_drawn_depends_on_both_numbers() -> None:
    assert draw(1, 2) == draw(1, 2)
    assert len({draw(seed, index) for seed in range(40) for index in range(40)}) == 1600
    assert all(0 <= draw(seed, 0) < 1 << 64 for seed in (-5, 0, 1 << 70))


class Gate(Policy):
    """Holds everybody back for 50 ms."""

    def rank(self, job: Job) -> int:
        return job.id

    def arrive(self, job: Job) -> None:
        self.hold(job)
        self.wake(job, waited=50 * MS)

    def alarm(self, job: Job, why: str) -> None:
        assert why == "waited"
        self.release(job)
        self.wake(job, waited=0)


@pytest.mark.parametrize("realtime", [False, 1.0])
def test_the_loop_wakes_for_who_is_held_back(realtime: bool | float) -> None:
    with Engine.scripted(policy=Gate, realtime=realtime) as engine:
        outputs = engine.generate(["a", "b"], SamplingParams(max_tokens=3))
    for output in outputs:
        assert output.error is None
        assert 0 < output.held_s <= output.record["queued"]
        assert 0.05 <= output.record["queued"] < (0.06 if not realtime else 60)


def test_who_holds_everybody_for_ever_is_overruled() -> None:
    class Never(Gate):
        def arrive(self, job: Job) -> None:
            self.hold(job)

    with Engine.scripted(policy=Never) as engine:
        assert [len(output.token_ids) for output in engine.generate(["a", "b"], SamplingParams(max_tokens=3))] == [3, 3]
