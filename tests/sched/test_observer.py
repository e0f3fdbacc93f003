"""Observers: both drivers make the same calls in the same order, and one that breaks is told so by name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.sched.errors import ObserverError, PolicyError
from fastserve.sched.job import Job
from fastserve.sched.observer import Observer, Run, level, said
from fastserve.sched.plan import Outcome, Plan, Transfer
from fastserve.sched.policy import Policy
from fastserve.sched.seats import Seats
from tests.observers.both import SWAPPING, lived, script, simulated

Call = tuple[Any, ...]


def ids(jobs: Sequence[Job]) -> list[int]:
    return [job.id for job in jobs]


class Book(Observer):
    """Writes down every call with what it says, and who holds which seat."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def began(self, run: Run, now: int) -> None:
        self.run = run
        self.calls.append(("began", now, run.scheduler.slots))

    def submitted(self, job: Job, now: int) -> None:
        self.calls.append(("submitted", now, job.id, len(self.run.scheduler.live)))

    def rejected(self, job: Job, now: int, why: str) -> None:
        self.calls.append(("rejected", now, job.id, why))

    def cancelled(self, job: Job, now: int) -> None:
        self.calls.append(("cancelled", now, job.id, job.finish, job.generated))

    def planned(self, plan: Plan, now: int) -> None:
        seats = {job.id: seat for job, seat in self.run.seats.of.items()}
        assert set(seats) == set(ids(plan.members))
        self.calls.append(("planned", now, plan.now, ids(plan.gone), ids(plan.left), ids(plan.joined), seats))

    def idle(self, now: int) -> None:
        self.calls.append(("idle", now))

    def copied(self, transfer: Transfer, now: int) -> None:
        copy = transfer.copy
        self.calls.append(("copied", now, copy.job.id, copy.blocks, copy.out, transfer.start, transfer.end))

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        copied = [(copy.job.id, copy.out) for copy in outcome.copied]
        self.calls.append(
            ("committed", now, plan.now, ids(finished), [job.finish for job in finished], copied, outcome.stall)
        )

    def ended(self, now: int) -> None:
        self.calls.append(("ended", now))


@pytest.mark.parametrize("batching", ["chunked", "static"])
@pytest.mark.parametrize("name", ["fcfs", "mlfq", "sj-mlfq", "las", "chaos"])
def test_both_drivers_make_the_same_calls_in_the_same_order(name: str, batching: str) -> None:
    work = script(name)
    options = SWAPPING | {"batching": batching}
    ours, theirs = Book(), Book()
    simulated(name, work, options, ours)
    lived(name, work, options, theirs)
    assert ours.calls[-1][0] == theirs.calls[-1][0] == "ended"
    for mine, live in zip(ours.calls[:-1], theirs.calls[:-1], strict=True):
        assert mine == live
    kinds = Counter(call[0] for call in ours.calls)
    assert kinds["began"] == 1 and kinds["rejected"] == 3 and kinds["cancelled"] > 0
    assert kinds["submitted"] == 57 and kinds["planned"] == kinds["committed"]
    if batching == "static":
        assert kinds["idle"] > 0
    elif name != "fcfs":
        assert kinds["copied"] > 20
    ended = [id for call in ours.calls if call[0] == "committed" for id in call[3]]
    cancelled = [call[2] for call in ours.calls if call[0] == "cancelled"]
    assert sorted(ended + cancelled) == sorted(set(range(60)) - {7, 27, 47})


def test_the_order_of_the_calls_of_one_turn() -> None:
    """Arrivals and cancels of a boundary; its plan; the plan's copies; its commit."""
    book = Book()
    simulated("mlfq", script("mlfq"), SWAPPING, book)
    after = {
        "submitted": {"submitted", "rejected", "cancelled", "planned", "idle"},
        "rejected": {"submitted", "rejected", "cancelled", "planned", "idle"},
        "cancelled": {"cancelled", "planned", "idle", "submitted", "rejected", "ended"},
        "planned": {"copied", "committed"},
        "copied": {"copied", "committed"},
        "committed": {"submitted", "rejected", "cancelled", "planned", "idle", "ended"},
        "idle": {"submitted", "rejected", "cancelled", "planned", "idle"},
        "began": {"submitted", "rejected"},
    }
    for call, following in zip(book.calls, book.calls[1:], strict=False):
        assert following[0] in after[call[0]], (call, following)
        assert call[1] <= following[1], "time goes on"


class Breaks(Observer):
    """At its n-th commit."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.ends = 0

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise ZeroDivisionError("as asked")

    def ended(self, now: int) -> None:
        self.ends += 1


def test_one_that_breaks_ends_a_simulation_and_is_named() -> None:
    book, breaks = Book(), Breaks(3)
    with pytest.raises(ObserverError, match=r"observer Breaks, committed\(\): ZeroDivisionError: as asked"):
        simulated("fcfs", script("x"), SWAPPING, breaks, book)
    assert book.calls[-1][0] == "ended", "the others are told the end"
    assert breaks.ends == 0


def test_one_that_breaks_live_is_logged_once_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    book, breaks = Book(), Breaks(3)
    with Engine.scripted() as engine, caplog.at_level(logging.ERROR, "fastserve"):
        engine.attach(breaks)
        engine.attach(book)
        outputs = engine.generate(["a", "b"], SamplingParams(max_tokens=20))
        engine.snapshot()
        assert [len(output.token_ids) for output in outputs] == [20, 20]
        assert engine.alive
    (record,) = caplog.records
    assert record.getMessage() == ("observer Breaks, committed(): ZeroDivisionError: as asked; it is told nothing more")
    assert breaks.left == -1 and breaks.ends == 0
    assert book.calls[-1][0] == "ended"
    assert Counter(call[0] for call in book.calls)["committed"] >= 20


class Grumpy(Policy):
    """Breaks in the method of this name, at its third call."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.calls = 0

    def rank(self, job: Job) -> int:
        return job.arrival

    def _count(self, method: str) -> None:
        self.calls += method == self.method
        if self.calls == 3:
            raise ValueError("no more")

    def arrive(self, job: Job) -> None:
        self.wake(job, tokens=1)
        self._count("arrive")

    def alarm(self, job: Job, why: str) -> None:
        self._count("alarm")

    def depart(self, job: Job) -> None:
        self._count("depart")


@pytest.mark.parametrize(("method", "last"), [("arrive", "submitted"), ("alarm", "committed"), ("depart", "committed")])
def test_what_broke_the_policy_is_told_before_the_end(method: str, last: str) -> None:
    """In both drivers: a flight log must hold it."""
    work = script("x", 12)
    work.cancels.clear()
    told = []
    for drive in (simulated, lived):
        book = Book()
        with pytest.raises(PolicyError, match="no more"):
            drive(Grumpy(method), work, SWAPPING, book)
        told.append([call for call in book.calls if call[0] not in ("copied", "ended")])
    assert told[0] == told[1]
    assert told[0][-1][0] == last


class Watching(Observer):
    """Who is there when it begins."""

    def began(self, run: Run, now: int) -> None:
        self.seats = {job.id: seat for job, seat in run.seats.of.items()}
        self.live = ids(list(run.scheduler.live))
        self.told: list[str] = []
        self.finished: list[int] = []

    def planned(self, plan: Plan, now: int) -> None:
        self.told.append("planned")

    def committed(self, plan: Plan, outcome: Outcome, finished: Sequence[Job], now: int) -> None:
        self.told.append("committed")
        self.finished += ids(finished)

    def ended(self, now: int) -> None:
        self.told.append("ended")


def test_one_that_comes_late_finds_who_is_there_and_one_that_goes_is_told() -> None:
    watching = Watching()
    with Engine.scripted(max_batch=2, realtime=True) as engine:
        handles = [engine.submit("hello", SamplingParams(max_tokens=400, seed=i)) for i in range(3)]
        next(iter(handles[0]))
        engine.attach(watching)
        engine.attach(watching)  # twice is once
        engine.snapshot()
        assert set(watching.live) == {0, 1, 2} and sorted(watching.seats.values()) == [0, 1]
        while not watching.told:
            engine.snapshot()
        engine.detach(watching)
        engine.detach(watching)
        told = list(watching.told)
        assert told[0] == "planned" and told[-1] == "ended" and told.count("ended") == 1
        assert told[:-1] == ["planned", "committed"] * (len(told) // 2)
        for handle in handles:
            handle.cancel()
            handle.result(30)
        assert watching.told == told
    with pytest.raises(RuntimeError, match="the engine has stopped: it was closed"):
        engine.attach(watching)


def test_seats_after_a_time_in_which_nobody_looked() -> None:
    a, b, c, d = [Job(id, 0, 1) for id in range(4)]
    seats = Seats(3)
    seats.settle([a, b])
    assert seats.of == {a: 0, b: 1}
    seats.settle([b, c, d])
    assert seats.of == {b: 1, c: 0, d: 2}
    seats.leave(c)
    seats.leave(c)
    seats.settle([b, d, a])
    assert seats.of == {b: 1, d: 2, a: 0}


def test_what_a_policy_says_and_its_level() -> None:
    class Mute(Policy):
        def explain(self, job: Job) -> str:
            raise KeyError("x")

    with pytest.raises(PolicyError, match=r"policy Mute, explain\(\) of job 3"):
        said(Mute(), Job(3, 0, 1))
    assert level("Q3, 4 ms left") == 3
    assert level("rank 4") is None
    assert level("Queue 3") is None
