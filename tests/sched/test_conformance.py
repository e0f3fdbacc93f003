"""check_policy lets every right policy pass, and tells the author of a broken one what to change."""

from __future__ import annotations

import datetime
import gc
import itertools
import logging
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial, total_ordering
from time import perf_counter
from typing import Any, ClassVar

import pytest

from fastserve import Job, Policy, check_policy
from fastserve.policies import POLICIES, make
from fastserve.sched.conformance.errors import ConformanceError
from fastserve.sched.conformance.scripts import SHAPES, Run, Script, write
from fastserve.sched.errors import PolicyError
from tests.sched.audit import audit
from tests.sched.worlds import Chaos, Rounds, Stranger, tuned

MS = 1_000_000


class Fair(Policy):
    """Right, and settled: arrival order. The broken ones below differ from it in one thing each."""

    settled = True

    def rank(self, job: Job) -> Any:
        return job.arrival


class Keyed(Policy):
    """Right: a rank of its own for each job, in its own dict."""

    settled = True

    def __init__(self) -> None:
        self.key: dict[Job, int] = {}

    def rank(self, job: Job) -> Any:
        return self.key[job]

    def arrive(self, job: Job) -> None:
        self.key[job] = job.prompt

    def depart(self, job: Job) -> None:
        del self.key[job]


# -- right policies pass ---------------------------------------------------------------------------------------------


RIGHT: dict[str, Callable[[], Policy]] = {
    **{name: partial(make, name) for name in POLICIES},
    "artifact": partial(make, "sj-mlfq", {"preset": "artifact"}),
    "artifact, short alpha": partial(tuned, "sj-mlfq:artifact", True),
    "mlfq, every knob": partial(tuned, "sj-mlfq:knobs", True),
    "chaos": Chaos,
    "rounds": Rounds,
    "stranger": Stranger,
    "fair": Fair,
    "keyed": Keyed,
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_policy_passes(name: str) -> None:
    report = check_policy(RIGHT[name], quick=True)
    assert len(report.scripts) >= len(SHAPES)
    assert report.decisions > 100
    if name == "continuum":  # who waits for a pin of two seconds is let in before that ends, in all of them
        assert ["never rang as 'waited'" in warning for warning in report.warnings] == [True]
    elif name not in ("mlfq, every knob", "chaos"):  # these do set tiny alarms
        assert report.warnings == []


def test_another_seed_is_other_work() -> None:
    both = check_policy(Fair, seeds=(0, 1))
    assert len(both.scripts) == 2 * len(SHAPES)
    assert write("queue", 0).outputs != write("queue", 1).outputs
    with pytest.raises(ValueError, match="at least one seed"):
        check_policy(Fair, seeds=())


def test_the_scripts_make_everything_happen() -> None:
    """Preemption, recompute, copies both ways, ahead of need and not, cancels, and several ends at once."""
    seen: set[str] = set()
    alarms = 0
    finishes: set[str] = set()
    for shape in SHAPES:
        run = Run(Chaos(), write(shape, 0))
        seen |= {event.what for event in run.play()}
        finishes |= {job.finish for job in run.jobs}
        alarms += max(job.preemptions for job in run.jobs)
        arrivals = [job.arrival for job in run.jobs]
        assert len(set(arrivals)) < len(arrivals)
        assert len({job.client for job in run.jobs}) > 2 and len({job.priority for job in run.jobs}) > 2
    assert seen == {"leaves", "forgets", "parks", "joins", "loads", "fetches", "ends"}
    assert finishes == {"stop", "cancelled"}
    assert alarms > 10


@pytest.mark.parametrize("shape", SHAPES)
def test_the_scripted_machine_takes_macro_steps(shape: str) -> None:
    """Otherwise the comparison of macro-steps with single ones would compare nothing."""
    script = write(shape, 1)
    runs = [Run(Fair(), script, macro=macro) for macro in (False, True)]
    single, macro = [run.play() for run in runs]
    assert single == macro
    assert runs[1].scheduler.plans < runs[0].scheduler.plans or shape == "uneven"
    for run in runs:
        audit(run.scheduler)


def test_every_job_makes_its_tokens() -> None:
    script = write("ahead", 0)
    run = Run(Chaos(), script)
    run.play()
    stopped = [job for job in run.jobs if job.finish == "stop"]
    assert stopped
    assert all(job.generated == script.outputs[job.id] for job in stopped)


# -- broken ones ------------------------------------------------------------------------------------------------------


def breach(policy: Callable[[], Policy], check: str, *words: str, seeds: Iterable[int] = (0, 1)) -> None:
    """It must fail this very check, and each of these words must stand in the message."""
    with pytest.raises(ConformanceError) as caught:
        check_policy(policy, seeds=seeds)
    text = str(caught.value)
    assert caught.value.check == check, text
    for word in words:
        assert word in text, text


def test_an_own_unseeded_generator_in_rank() -> None:
    class Dice(Fair):
        def __init__(self) -> None:
            self.random = random.Random()

        def rank(self, job: Job) -> float:
            return self.random.random()

    breach(Dice, "random", "Dice.rank() of job 0", "at the same instant", "draw random numbers in arrive()")


@pytest.mark.parametrize("draw", [random.random, lambda: random.randint(1, 6), lambda: random.choice("ab")])
def test_the_shared_generator(draw: Callable[[], Any]) -> None:
    class Shared(Keyed):
        def arrive(self, job: Job) -> None:
            super().arrive(job)
            draw()

    breach(
        Shared, "forbidden", "Shared.arrive() of job 0", "shared generator", "test_conformance.py, line", "Random(seed)"
    )


def test_the_shared_generator_in_the_constructor() -> None:
    class Early(Fair):
        def __init__(self) -> None:
            self.salt = random.getrandbits(8)

    breach(Early, "forbidden", "Early.__init__()", "shared generator")


def test_an_unseeded_generator_of_its_own() -> None:
    class Unseeded(Keyed):
        def __init__(self) -> None:
            super().__init__()
            self.random = random.Random()

        def arrive(self, job: Job) -> None:
            self.key[job] = self.random.randrange(1000)

    breach(
        Unseeded, "repeat", "Unseeded decides differently in the same run twice", "job", "seed randomness in __init__"
    )


def test_a_seeded_generator_is_right() -> None:
    class Lottery(Keyed):
        def __init__(self) -> None:
            super().__init__()
            self.random = random.Random(7)

        def arrive(self, job: Job) -> None:
            self.key[job] = self.random.randrange(1000)

    check_policy(Lottery, quick=True)


def test_state_shared_between_objects() -> None:
    class Shared(Keyed):
        turn: ClassVar[Iterator[int]] = itertools.count()

        def arrive(self, job: Job) -> None:
            self.key[job] = next(Shared.turn) * 7919 % 101

    breach(Shared, "repeat", "the same run twice", "class attributes or globals")


def test_a_second_run_alone_that_differs() -> None:
    """Of the objects that are made, only the one of the second plain run is another."""

    class Fifth(Keyed):
        made: ClassVar[Iterator[int]] = itertools.count(1)

        def __init__(self) -> None:
            super().__init__()
            self.sign = -1 if next(Fifth.made) == 5 else 1

        def rank(self, job: Job) -> int:
            return self.sign * self.key[job]

    breach(Fifth, "repeat", "the same run twice", "seed randomness in __init__")


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda: time.time(), "time.time"),
        (lambda: perf_counter(), "time.perf_counter"),
        (time.monotonic, "time.monotonic"),
        (time.perf_counter_ns, "time.perf_counter_ns"),
        (lambda: datetime.datetime.now(), "datetime.now"),
        (lambda: datetime.datetime.now(datetime.UTC), "datetime.now"),
        (datetime.date.today, "date.today"),
    ],
)
def test_a_clock(read: Callable[[], Any], name: str) -> None:
    class Clock(Keyed):
        def alarm(self, job: Job, why: str) -> None:
            read()

        def arrive(self, job: Job) -> None:
            super().arrive(job)
            self.wake(job, tokens=1)

    breach(
        Clock, "forbidden", "Clock.alarm() of job", f"reads the clock {name} (", "test_conformance.py", "use self.now"
    )


@pytest.mark.parametrize("method", ["rank", "arrive", "depart", "explain", "coldest", "waiting"])
def test_a_clock_in_any_method(method: str) -> None:
    class Clock(Rounds):
        def coldest(self, parked: list[Job]) -> Iterable[Job]:
            return super().coldest(parked)

    def late(self: Policy, *args: Any) -> Any:
        time.time()
        return getattr(super(Clock, self), method)(*args)

    setattr(Clock, method, late)
    breach(Clock, "forbidden", f"Clock.{method}()", "time.time")


def test_a_clock_in_a_lazy_queue() -> None:
    class Lazy(Rounds):
        def waiting(self) -> Iterator[Job]:  # type: ignore[override]
            for job in super().waiting():
                time.time()
                yield job

    breach(Lazy, "forbidden", "Lazy.waiting()", "time.time")


def test_logging_is_no_clock(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    class Talks(Keyed):
        def arrive(self, job: Job) -> None:
            super().arrive(job)
            logging.getLogger("talks").info("job %d", job.id)

    check_policy(Talks, quick=True)
    assert caplog.records


def test_a_collector_that_reads_the_clock_is_not_the_policy() -> None:
    class Litters(Keyed):
        def rank(self, job: Job) -> int:
            return [[self.key[job]] for _ in range(50)][-1][0]

    def collected(*_: Any) -> None:
        time.perf_counter()

    thresholds = gc.get_threshold()
    gc.callbacks.append(collected)
    gc.set_threshold(20)
    try:
        check_policy(Litters, quick=True)
        assert gc.isenabled()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collected)


def test_a_profiler_is_left_as_it_was() -> None:
    def profiler(*_: Any) -> None: ...

    sys.setprofile(profiler)
    try:
        check_policy(Fair, quick=True)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)


def test_time_that_moves_a_waiting_rank() -> None:
    class Ageing(Fair):
        def rank(self, job: Job) -> float:
            return -(self.now - job.arrival) / job.prompt

    breach(Ageing, "settled", "Ageing.rank() of job", "changed while the job was waiting", "settled = False")


def test_a_running_rank_that_gets_worse() -> None:
    class Served(Fair):
        def rank(self, job: Job) -> int:
            return job.generated

    breach(Served, "settled", "got worse while the job was running, from 0 to 1", "self.rerank(job)")


def test_joining_that_makes_it_worse() -> None:
    class Shy(Fair):
        def rank(self, job: Job) -> Any:
            return job.running, job.arrival

    breach(Shy, "settled", "got worse when the job joined the batch", "self.rerank(job)")


def test_leaving_that_makes_it_better() -> None:
    class Comeback(Keyed):
        def rank(self, job: Job) -> Any:
            return (0 if job.preemptions else 1), job.prompt

    breach(Comeback, "settled", "got better when the job left the batch", "self.rerank(job)")


def test_a_callback_that_forgets_to_rerank() -> None:
    class Forgetful(Keyed):
        def arrive(self, job: Job) -> None:
            super().arrive(job)
            self.wake(job, waited=5 * MS)

        def alarm(self, job: Job, why: str) -> None:
            self.key[job] -= 1

    breach(Forgetful, "settled", "Forgetful.alarm() of job", "changed the rank of job", "without self.rerank(job)")


def test_a_callback_that_reranks_the_wrong_job() -> None:
    class Siblings(Keyed):
        def depart(self, job: Job) -> None:
            super().depart(job)
            for other in self.key:
                self.key[other] += 1
                if other.running:
                    self.rerank(other)

    breach(Siblings, "settled", "Siblings.depart() of job", "changed the rank of job", "without self.rerank(job)")


@pytest.mark.parametrize("broken", [lambda job: -job.generated - job.id, lambda job: (not job.running, job.id)])
def test_a_running_rank_may_get_better(broken: Callable[[Job], Any]) -> None:
    class Better(Fair):
        def rank(self, job: Job) -> Any:
            return broken(job)

    check_policy(Better, quick=True)


def test_an_answer_that_depends_on_how_often_it_was_asked() -> None:
    """Each rank is kept, but what arrive() decides depends on how often rank() has been asked."""

    class Counts(Keyed):
        def __init__(self) -> None:
            super().__init__()
            self.reads = 0

        def rank(self, job: Job) -> int:
            self.reads += 1
            return self.key[job]

        def arrive(self, job: Job) -> None:
            self.key[job] = self.reads // 5 % 13

    breach(Counts, "pure", "Counts decides differently", "asked more often", "must not change anything")


class Nothing(Fair):
    def rank(self, job: Job) -> Any:
        return None


class Nan(Fair):
    def rank(self, job: Job) -> Any:
        return (float("nan") if job.id == 9 else 1.0), job.arrival


class Complex(Fair):
    def rank(self, job: Job) -> Any:
        return complex(job.id)


class Mixed(Fair):
    def rank(self, job: Job) -> Any:
        return job.id if job.id % 2 else str(job.id)


class Tuples(Fair):
    def rank(self, job: Job) -> Any:
        return (job.priority, job.deadline) if job.id % 2 else (job.priority, None)


class Sets(Fair):
    def rank(self, job: Job) -> Any:
        return frozenset({job.id})


class Loose:
    def __lt__(self, other: object) -> bool:
        return True


class NotStrict(Fair):
    def rank(self, job: Job) -> Any:
        return Loose()


class Unequal:
    def __init__(self, key: int) -> None:
        self.key = key

    def __lt__(self, other: Unequal) -> bool:
        return self.key < other.key


class NoEq(Fair):
    def rank(self, job: Job) -> Any:
        return Unequal(job.id)


@pytest.mark.parametrize(
    ("policy", "check", "words"),
    [
        (Nothing, "rank", ["Nothing.rank() of job 0", "returned None", "return a value that can be compared"]),
        (Nan, "rank", ["Nan.rank() of job 9", "NaN has no place in an order"]),
        (Complex, "rank", ["Complex.rank() of job 0", "cannot be compared with <", "return a number"]),
        (Mixed, "rank", ["Mixed.rank() of job 1", "where job 0 has '0'", "one kind of value"]),
        (Tuples, "rank", ["Tuples.rank() of job", "cannot be compared", "one kind of value"]),
        (Sets, "rank", ["Sets.rank() of job 1", "neither equal nor one smaller", "total order"]),
        (NotStrict, "rank", ["NotStrict.rank() of job 0", "smaller than itself", "strict"]),
        (NoEq, "random", ["NoEq.rank() of job 0", "at the same instant", "__eq__"]),
    ],
)
def test_ranks_without_an_order(policy: type[Policy], check: str, words: list[str]) -> None:
    breach(policy, check, *words)


def test_a_rank_class_of_ones_own() -> None:
    @total_ordering
    class Key:
        __hash__ = None  # type: ignore[assignment]

        def __init__(self, key: int) -> None:
            self.key = key

        def __lt__(self, other: Key) -> bool:
            return self.key < other.key

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Key) and self.key == other.key

    class Own(Fair):
        def rank(self, job: Job) -> Any:
            return Key(job.prompt)

    check_policy(Own, quick=True)


def test_no_rank() -> None:
    class Empty(Policy):
        pass

    breach(Empty, "rank", "Empty must define rank(self, job)")


@pytest.mark.parametrize(
    "name", ["prompt", "priority", "guess", "preemptions", "prefilled", "running", "finish", "tokens_base"]
)
@pytest.mark.parametrize("method", ["rank", "arrive", "depart", "alarm"])
def test_a_job_written(method: str, name: str) -> None:
    class Writes(Keyed):
        def alarm(self, job: Job, why: str) -> None: ...
        def arrive(self, job: Job) -> None:
            super().arrive(job)
            self.wake(job, tokens=1)

    def write_it(self: Policy, job: Job, *args: Any) -> Any:
        setattr(job, name, 77)
        return getattr(super(Writes, self), method)(job, *args) if method != "alarm" else None

    setattr(Writes, method, write_it)
    breach(Writes, "mutation", f"Writes.{method}() of job", f"has written {name} of job", "keyed by job")


def test_another_job_written() -> None:
    class Meddles(Keyed):
        def depart(self, job: Job) -> None:
            super().depart(job)
            for other in self.jobs:
                other.priority += 1

    breach(Meddles, "mutation", "Meddles.depart() of job", "has written priority of job", "the Scheduler alone")


def test_jobs_written_by_an_order() -> None:
    class Marks(Fair):
        def coldest(self, parked: list[Job]) -> Iterable[Job]:
            for job in parked:
                job.deadline = 0
            return parked

    breach(Marks, "mutation", "Marks.coldest()", "has written deadline of job")


@pytest.mark.parametrize("name", ["level", "generated", "served"])
def test_a_new_or_derived_field_of_a_job(name: str) -> None:
    class Notes(Fair):
        def arrive(self, job: Job) -> None:
            setattr(job, name, 1)

    breach(Notes, "exception", "Notes.arrive() of job 0", "AttributeError", "a Job is read-only", "keyed by job")


def test_waiting_that_leaves_somebody_out() -> None:
    class Omits(Rounds):
        def waiting(self) -> list[Job]:
            return [job for job in super().waiting() if job.id % 5]

    breach(Omits, "waiting", "Omits.waiting() of job", "left out this job, which waits", "name every waiting job once")


def test_waiting_that_stops_early() -> None:
    """A lazy queue that is only wrong at its end, which the Scheduler seldom reaches."""

    class Short(Rounds):
        def waiting(self) -> list[Job]:
            return super().waiting()[:6]

    breach(Short, "waiting", "left out this job")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (lambda self, jobs: jobs[:1], "this job twice"),
        (lambda self, jobs: [job for job in self.jobs if job.running], "this job, which runs"),
        (lambda self, jobs: [Job(999, 0, 10)], "this job, which has gone"),
    ],
)
def test_waiting_that_names_too_many(extra: Callable[[Policy, list[Job]], list[Job]], words: str) -> None:
    class Invents(Rounds):
        def waiting(self) -> list[Job]:
            jobs = super().waiting()
            return jobs + extra(self, jobs)

    breach(Invents, "waiting", "Invents.waiting() of job", words, "name each waiting job once")


def test_waiting_without_an_end() -> None:
    class Endless(Rounds):
        def waiting(self) -> Iterator[Job]:  # type: ignore[override]
            return itertools.cycle(super().waiting())

    breach(Endless, "waiting", "this job twice")


@pytest.mark.parametrize("method", ["waiting", "coldest"])
@pytest.mark.parametrize("what", [lambda job: job.id, lambda job: [job], lambda job: None])
def test_a_queue_of_anything_but_jobs(method: str, what: Callable[[Job], object]) -> None:
    class Names(Rounds):
        pass

    def named(self: Policy, *args: Any) -> list[Any]:
        return [what(job) for job in getattr(Rounds if method == "waiting" else Policy, method)(self, *args)]

    setattr(Names, method, named)
    breach(Names, method, f"Names.{method}()", "which is no Job", "as self.jobs has them")
    if method == "waiting":  # and where nobody watches
        with pytest.raises(PolicyError, match="which is no Job"):
            Run(Names(), write("queue", 0)).play()


@pytest.mark.parametrize("own_queue", [False, True])
def test_ranks_of_which_only_some_can_be_compared(own_queue: bool) -> None:
    class Kinds(Policy):
        def rank(self, job: Job) -> Any:
            return (1, "a") if job.id % 3 == 0 else (job.id % 3, 2)

    if own_queue:
        Kinds.waiting = lambda self: [job for job in self.jobs if not job.running]  # type: ignore[method-assign]
    breach(Kinds, "rank", "Kinds.rank() of job", "these cannot be compared", "one kind of value")


def test_waiting_that_disagrees_with_rank() -> None:
    class Disagrees(Rounds):
        def rank(self, job: Job) -> int:
            return job.prompt

    breach(Disagrees, "waiting", "Disagrees.waiting()", "before job", "must agree with rank()", "ties only")


def test_waiting_that_changes_something() -> None:
    class Rotates(Rounds):
        turn = 0

        def waiting(self) -> list[Job]:
            self.turn += 1
            jobs = super().waiting()
            start = self.turn % len(jobs) if jobs else 0
            return jobs[start:] + jobs[:start]

    breach(Rotates, "pure", "at the same instant", "waiting()", "must not change anything")


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (lambda parked: parked[1:], "left out this job of `parked`"),
        (lambda parked: [*parked, Job(999, 0, 10)], "that is not in `parked`"),
        (lambda parked: [*parked[:-1], parked[0]], "named it twice"),
        (lambda parked: itertools.cycle(parked), "named it twice"),
    ],
)
def test_coldest_that_is_no_permutation(order: Callable[[list[Job]], Iterable[Job]], words: str) -> None:
    class Cold(Keyed):
        def coldest(self, parked: list[Job]) -> Iterable[Job]:
            return order(parked)

    breach(Cold, "coldest", "Cold.coldest() of job", words, "once")


def test_coldest_that_changes_something() -> None:
    class Turns(Chaos):
        calls = 0

        def coldest(self, parked: list[Job]) -> list[Job]:
            self.calls += 1
            return sorted(parked, key=lambda job: (job.id * self.calls * 7919 % 11, job.id))

    breach(Turns, "pure", "at the same instant", "coldest()", "must not change anything")


@pytest.mark.parametrize("method", ["rank", "arrive", "depart", "alarm", "coldest", "waiting", "explain"])
def test_an_exception_anywhere(method: str) -> None:
    class Fails(Rounds):
        def arrive(self, job: Job) -> None:
            super().arrive(job)
            self.wake(job, tokens=1)

        def coldest(self, parked: list[Job]) -> Iterable[Job]:
            return parked

    def fail(self: Policy, *args: Any) -> Any:
        raise ZeroDivisionError("by nothing")

    setattr(Fails, method, fail)
    breach(
        Fails, "exception", f"Fails.{method}()", "ZeroDivisionError: by nothing", "test_conformance.py, line", "[script"
    )


def test_a_dict_that_forgot_a_job() -> None:
    class Forgets(Keyed):
        def alarm(self, job: Job, why: str) -> None:
            del self.key[job]

        def arrive(self, job: Job) -> None:
            super().arrive(job)
            self.wake(job, tokens=3)

    breach(Forgets, "exception", "rank() of job", "KeyError", "note every job in arrive()")


def test_a_guess_that_was_not_asked_for() -> None:
    class Guesses(Fair):
        def rank(self, job: Job) -> Any:
            return job.guess - job.generated  # type: ignore[operator]

    breach(Guesses, "exception", "TypeError", 'needs = frozenset({"guess"})')


def test_a_fraction_of_a_nanosecond() -> None:
    class Seconds(Fair):
        def arrive(self, job: Job) -> None:
            self.wake(job, served=0.5)  # type: ignore[arg-type]

    breach(Seconds, "exception", "Seconds.arrive() of job 0", "whole nanoseconds", "round(seconds * 1e9)")


def test_a_text_that_is_none() -> None:
    class Mute(Fair):
        def explain(self, job: Job) -> str:
            return job.id  # type: ignore[return-value]

    breach(Mute, "explain", "Mute.explain() of job 0", "return one short line of text")


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (frozenset({"output"}), "names 'output'"),
        (frozenset({"guess", "length"}), "names 'length'"),
        ("guess", 'write needs = frozenset({"guess"})'),
        ({"guess"}, 'write needs = frozenset({"guess"})'),
    ],
)
def test_needs_that_nobody_can_fill(needs: Any, words: str) -> None:
    class Needs(Fair):
        pass

    Needs.needs = needs
    breach(Needs, "needs", "Needs.needs", words)


def test_settled_is_a_flag() -> None:
    class Says(Fair):
        settled = "yes"  # type: ignore[assignment]

    breach(Says, "settled", "Says.settled is 'yes'", "settled = True")


@pytest.mark.parametrize("where", ["class", "constructor", "arrive"])
@pytest.mark.parametrize("name", ["jobs", "now", "machine"])
def test_a_name_that_the_scheduler_fills(name: str, where: str) -> None:
    class Clash(Keyed):
        def __init__(self) -> None:
            super().__init__()
            if where == "constructor":
                setattr(self, name, [])

        def arrive(self, job: Job) -> None:
            super().arrive(job)
            if where == "arrive":
                setattr(self, name, 5)

    if where == "class":
        setattr(Clash, name, [])
    breach(Clash, "bound", "Clash", name, "which the Scheduler fills")


def test_a_constructor_that_needs_arguments() -> None:
    class Asks(Fair):
        def __init__(self, quantum: float) -> None:
            self.quantum = quantum

    breach(
        Asks,
        "make",
        "Asks() cannot be called without arguments",
        "quantum",
        "give every setting a default",
        "lambda: Asks(",
    )  # type: ignore[arg-type]
    check_policy(lambda: Asks(1.0), quick=True)


def test_a_constructor_that_fails() -> None:
    class Bad(Fair):
        def __init__(self) -> None:
            raise OSError("no such table")

    breach(Bad, "make", "Bad() raised OSError: no such table", "test_conformance.py, line")


def test_no_super_init_is_needed() -> None:
    class Own(Fair):
        def __init__(self) -> None:
            self.mine = 1

    check_policy(Own, quick=True)


def test_one_object_for_all_runs() -> None:
    one = Fair()
    breach(lambda: one, "make", "the same Fair twice", "make a fresh one")


def test_two_objects_for_all_runs() -> None:
    pair = itertools.cycle([Fair(), Fair()])
    breach(lambda: next(pair), "make", "has served a run", "make a fresh one")


def test_something_else() -> None:
    breach(lambda: 7, "make", "no fastserve.Policy")  # type: ignore[arg-type, return-value]


def test_alarms_that_storm() -> None:
    class Storm(Keyed):
        def arrive(self, job: Job) -> None:
            super().arrive(job)
            self.wake(job, served=1)

        def alarm(self, job: Job, why: str) -> None:
            self.wake(job, served=1)

    (warning,) = check_policy(Storm).warnings
    assert "Storm.alarm()" in warning and "'served'" in warning and "self.machine.decode_ns" in warning


def test_a_waited_alarm_that_storms() -> None:
    class Impatient(Keyed):
        def arrive(self, job: Job) -> None:
            super().arrive(job)
            self.wake(job, waited=1)

    (warning,) = check_policy(Impatient).warnings
    assert "Impatient.alarm()" in warning and "'waited'" in warning


@pytest.mark.parametrize("keep", ["dict", "list of dicts", "object", "ids"])
def test_departed_jobs_that_are_kept(keep: str) -> None:
    class Box:
        def __init__(self) -> None:
            self.inside: set[Job] = set()

    class Leaks(Keyed):
        def __init__(self) -> None:
            super().__init__()
            self.kept: Any = {"dict": {}, "list of dicts": [{}, {}], "object": Box(), "ids": set()}[keep]

        def arrive(self, job: Job) -> None:
            super().arrive(job)
            if keep == "dict":
                self.kept[job] = 1
            elif keep == "list of dicts":
                self.kept[job.id % 2][job.id] = [job]
            elif keep == "object":
                self.kept.inside.add(job)
            else:
                self.kept.add(job.id)

    (warning,) = check_policy(Leaks).warnings
    assert "Leaks.kept still refers to departed jobs" in warning and "depart()" in warning


def test_a_queue_that_hides_jobs_is_told_by_the_scheduler() -> None:
    """Also where nobody watches: as soon as it has named all that it will, and not when nothing more can happen."""

    class Hides(Rounds):
        def waiting(self) -> list[Job]:
            return [job for job in super().waiting() if job.id != 3]

    with pytest.raises(PolicyError, match="left out 1 waiting jobs, such as job 3; name every waiting job once"):
        Run(Hides(), write("queue", 0)).play()


def test_a_run_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Script, "enough", 3)
    breach(Fair, "end", "does not come to an end", "still live after 4 iterations")


def test_a_policy_that_behaves_while_it_is_watched() -> None:
    """It hides a job only from a Scheduler that asks it directly: the plain runs notice."""
    watched: list[Policy] = []

    class Sly(Rounds):
        def waiting(self) -> list[Job]:
            if type(self._scheduler.policy).__module__ != type(self).__module__:  # type: ignore[union-attr]
                watched.append(self)
                return super().waiting()
            return [job for job in super().waiting() if job.id != 3]

    breach(Sly, "exception", "waiting() failed in a second run", "name every waiting job once")
    assert watched


def test_a_policy_that_breaks_only_when_it_is_not_watched() -> None:
    class Sly(Keyed):
        def depart(self, job: Job) -> None:
            super().depart(job)
            if type(self._scheduler.policy) is type(self):  # type: ignore[union-attr]
                raise ZeroDivisionError("unseen")

    breach(Sly, "exception", "Sly.depart() of job", "ZeroDivisionError: unseen")


def test_a_settled_policy_that_a_re_read_upsets() -> None:
    """Asked as often as it likes it is repeatable, and its ranks keep the promise: only the re-read run differs."""

    class Fickle(Keyed):
        def rank(self, job: Job) -> int:
            if not self._scheduler.ranking.settled:  # type: ignore[union-attr]
                return -self.key[job]
            return self.key[job]

    breach(Fickle, "settled", "every rank is re-read", "settled = True promises")


def test_a_settled_policy_that_macro_steps_upset() -> None:
    class Upset(Keyed):
        def arrive(self, job: Job) -> None:
            self.key[job] = -job.prompt if self._scheduler.macro else job.prompt  # type: ignore[union-attr]

    breach(Upset, "macro", "many iterations taken at once", "settled = True promises")


# -- alarms that the usual scripts are too short for -----------------------------------------------------------------


class Late(Policy):
    """Right: whoever has waited, been served or spoken for long enough goes first. setting: what it asks of wake()."""

    settled = True
    setting: ClassVar[dict[str, int]] = {"waited": 5_000 * MS}
    tells: ClassVar[bool] = True

    def __init__(self) -> None:
        self.late: set[Job] = set()

    def rank(self, job: Job) -> tuple[bool, int]:
        return job not in self.late, job.arrival

    def arrive(self, job: Job) -> None:
        self.wake(job, **self.setting)

    def alarm(self, job: Job, why: str) -> None:
        self.late.add(job)
        if self.tells:
            self.rerank(job)

    def depart(self, job: Job) -> None:
        self.late.discard(job)


LONG_ALARMS: list[dict[str, int]] = [
    {"waited": 5_000 * MS},
    {"served": 5_000 * MS},
    {"waited": 3_600_000 * MS},
    {"tokens": 300},
    {"tokens": 1024},
]


@pytest.mark.parametrize("alarms", LONG_ALARMS)
def test_scripts_are_rescaled_until_an_alarm_rings(alarms: dict[str, int]) -> None:
    class Right(Late):
        setting = alarms

    class Forgets(Right):
        tells = False

    report = check_policy(Right)
    assert report.alarms > 0 and report.warnings == []
    assert any("a tick of" in script or "times as long" in script for script in report.scripts)
    breach(Forgets, "settled", "Forgets.alarm() of job", "without self.rerank(job)")


def test_an_alarm_of_five_seconds_beside_one_of_an_iteration() -> None:
    """One kind rings all the time; the other is of an absolute length, whatever the machine's speed, and never did."""

    class Two(Late):
        def arrive(self, job: Job) -> None:
            self.wake(job, served=self.machine.decode_ns, waited=5_000 * MS)

        def alarm(self, job: Job, why: str) -> None:
            if why == "waited":
                self.late.add(job)
            else:
                self.wake(job, served=self.machine.decode_ns)

    breach(Two, "settled", "Two.alarm() of job", "without self.rerank(job)", "a tick of")


def test_one_long_alarm_among_many_short_ones_of_its_kind() -> None:
    class Some(Late):
        def arrive(self, job: Job) -> None:
            self.wake(job, waited=self.machine.decode_ns if job.id % 2 else 5_000 * MS)

        def alarm(self, job: Job, why: str) -> None:
            if job.id % 2 == 0:
                self.late.add(job)

    breach(Some, "settled", "Some.alarm() of job", "without self.rerank(job)", "a tick of")


@pytest.mark.parametrize(
    ("alarms", "words"),
    [
        ({"waited": 1 << 59}, "never rang as 'waited', which was set for 5.76461e+08 s or more"),
        ({"tokens": 20_000}, "never rang as 'tokens', which was set for 20,000 tokens or more"),
        ({}, "no alarm was ever set"),
    ],
)
def test_an_alarm_that_never_rings_is_a_warning(alarms: dict[str, int], words: str) -> None:
    class Mute(Late):
        setting = alarms

    (warning,) = check_policy(Mute).warnings
    assert warning.startswith("Mute.alarm() ") and words in warning


def test_policies_that_are_heard_at_once_are_not_rescaled() -> None:
    for name in ("las", "mlfq", "sj-mlfq"):
        assert len(check_policy(partial(make, name)).scripts) == 2 * len(SHAPES)


# -- iterations that yield several tokens ----------------------------------------------------------------------------


class Counts(Keyed):
    """Takes it that a tokens alarm rings at just that many."""

    def arrive(self, job: Job) -> None:
        super().arrive(job)
        self.due = {**getattr(self, "due", {}), job: 3}
        self.wake(job, tokens=3)

    def alarm(self, job: Job, why: str) -> None:
        assert job.generated == self.due[job], f"{job.generated} tokens"
        self.due[job] += 3
        self.wake(job, tokens=3)


def test_who_counts_on_one_token_an_iteration_is_told() -> None:
    with pytest.raises(ConformanceError, match="script uneven"):
        check_policy(Counts)


def test_the_uneven_script_gives_none_one_and_several() -> None:
    for seed in range(3):
        run = Run(Fair(), write("uneven", seed))
        counts: set[int] = set()
        before: dict[Job, int] = {}
        for _ in run.boundaries():
            audit(run.scheduler)
            for job in run.jobs:
                if job in before and job.running:
                    counts.add(job.generated - before[job])
                before[job] = job.generated
        assert {0, 1, 2, 3} <= counts, seed
        assert not run.scheduler.live
