"""program-fcfs, plas, atlas and deepest-first: who goes first by what its program has done."""

from __future__ import annotations

import pytest

from fastserve.policies import make, programs
from fastserve.policies.programs import Program, Programs
from fastserve.sched.job import Job
from tests.policies.desk import Desk


def turn(desk: Desk, program: str, ms: float) -> None:
    """One call of this program comes, is served alone for so long, and ends."""
    job = desk.come(program=program)
    assert desk.run(ms, job) == [job]


def test_program_fcfs_goes_by_the_programs_first_job() -> None:
    desk = Desk("program-fcfs")
    turn(desk, "old", 10)
    young = desk.come(program="young")
    assert desk.run(10) == [young]
    second = desk.come(program="old")
    assert desk.run(10) == [second] and young.preemptions == 1
    assert desk.policy.explain(second) == "its program began at 0.000 s"
    assert desk.policy.explain(young) == "its program began at 0.010 s"


def test_without_programs_program_fcfs_is_fcfs() -> None:
    desk = Desk("program-fcfs")
    first, second = desk.come(), desk.come()
    assert [desk.run(10) for _ in range(3)] == [[first]] * 3
    assert desk.run(10, first) == [first] and desk.run(10) == [second]


def test_deepest_first_adds_half_a_turn_a_second_of_waiting() -> None:
    """A first turn that has waited for 3.99 s more is worth 2.995 turns; the fourth turn is worth 4."""
    desk = Desk("deepest-first")
    for _ in range(3):
        turn(desk, "deep", 10)
    runs = desk.come()
    desk.run(0.1)
    new = desk.come(program="new")
    desk.run(3990)
    deep = desk.come(program="deep")  # turn 4: 4 against 1 + 0.5 * 3.99
    assert desk.policy.rank(deep) < desk.policy.rank(new)
    assert desk.run(10, runs) == [runs], "who runs is not displaced, however deep another is"
    assert desk.run(10, deep) == [deep]
    desk.run(10)
    assert desk.policy.explain(desk.come(program="deep")) == "turn 5 of its program"


def test_deepest_first_lets_who_waits_longer_pass() -> None:
    desk = Desk("deepest-first")
    for _ in range(3):
        turn(desk, "deep", 10)
    runs, new = desk.come(), desk.come(program="new")
    desk.run(6010)
    deep = desk.come(program="deep")  # 4 against 1 + 0.5 * 6.01
    desk.run(10, runs)
    assert desk.run(10, new) == [new] and desk.run(10) == [deep]


def test_deepest_first_without_ageing_knows_turns_only() -> None:
    desk = Desk("deepest-first", ageing=0.0)
    turn(desk, "deep", 1)
    runs, new = desk.come(), desk.come(program="new")
    desk.run(60_000)
    deep = desk.come(program="deep")
    desk.run(1, runs)
    assert desk.run(1, deep) == [deep] and desk.run(1) == [new]


def test_plas_a_call_enters_the_queue_of_its_program() -> None:
    """Quanta are 10, 20, 40, 80 ms. Served for 50 ms by its finished calls: the fourth queue, first in, first out."""
    desk = Desk("plas")
    turn(desk, "a", 30)
    turn(desk, "a", 20)
    turn(desk, "b", 15)
    call, other = desk.come(program="a"), desk.come(program="b")
    assert desk.policy.explain(call) == "Q4, its program's finished calls were served 0.050 s"
    assert desk.policy.explain(other) == "Q2, its program's finished calls were served 0.015 s"
    assert desk.run(1) == [other], "less attained goes first, though it came later"


def test_plas_a_call_goes_down_when_it_has_used_the_queues_quantum() -> None:
    desk = Desk("plas")
    a, b = desk.come(program="a"), desk.come(program="b")
    assert [desk.run(10)[0] for _ in range(3)] == [a, b, a]
    assert [desk.policy.explain(job)[:2] for job in (a, b)] == ["Q2", "Q2"]
    assert desk.run(10) == [a], "a quantum of 20 ms in the second queue"
    assert [desk.run(10)[0] for _ in range(2)] == [b, b]


def test_plas_counts_finished_calls_only() -> None:
    """Its sister's 100 ms so far are not known to a call that comes meanwhile."""
    desk = Desk("plas", slots=2)
    desk.come(program="a")
    desk.run(100)
    sister = desk.come(program="a")
    assert desk.policy.explain(sister) == "Q1, its program's finished calls were served 0.000 s"


@pytest.mark.parametrize(("beta", "ms"), [(2.0, 60), (4.0, 120)])
def test_plas_starving_calls_go_to_the_first_queue(beta: float, ms: int) -> None:
    """Its program was served 30 ms: after waiting beta times as long it is let in once, and counts anew."""
    desk = Desk("plas", beta=beta)
    turn(desk, "a", 30)
    call = desk.come(program="a")
    desk.others(ms)
    assert desk.policy.explain(call).startswith("Q1")
    assert desk.run(10) == [call]


def test_plas_without_beta_lets_it_starve() -> None:
    desk = Desk("plas", beta=0.0)
    turn(desk, "a", 30)
    call = desk.come(program="a")
    desk.others(1000)
    assert desk.policy.explain(call).startswith("Q3")


def fan_out(desk: Desk) -> Job:
    """Two calls of one program run side by side for 30 ms, then one more comes."""
    pair = [desk.come(program="a"), desk.come(program="a")]
    assert desk.run(30, *pair) == pair
    return desk.come(program="a")


def test_plas_adds_calls_side_by_side_and_atlas_takes_the_longest_chain() -> None:
    """30 ms twice are 60 ms of service: Q4 ends at 80 ms. The longest chain is 30 ms: Q3 ends at 40 ms."""
    plas, atlas = Desk("plas", slots=2), Desk("atlas", slots=2)
    assert plas.policy.explain(fan_out(plas)).startswith("Q4")
    call = fan_out(atlas)
    assert atlas.policy.explain(call).startswith("Q3")
    atlas.run(25, call)
    assert atlas.policy.explain(atlas.come(program="a")) == "Q4, its program's finished calls were served 0.055 s"


def test_atlas_a_short_branch_beside_a_long_one_adds_nothing() -> None:
    desk = Desk("atlas", slots=2)
    long, short = desk.come(program="a"), desk.come(program="a")
    desk.run(10, short)
    again = desk.come(program="a")  # 10 ms before it
    desk.run(10, again)
    desk.run(40, long)
    assert desk.policy.explain(desk.come(program="a")).endswith("0.060 s"), "max(10, 10 + 10, 60)"


def test_settings_that_are_wrong() -> None:
    with pytest.raises(ValueError, match=r"policy plas: ratio=0\.5 must be a finite number, and at least 1"):
        make("plas", {"ratio": 0.5})
    with pytest.raises(ValueError, match="policy atlas: beta=-1 must be a finite number, and at least 0"):
        make("atlas", {"beta": -1})
    with pytest.raises(ValueError, match="policy deepest-first: ageing=-1"):
        make("deepest-first", {"ageing": -1})


def test_programs_are_remembered_while_they_may_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "KEPT", 2)
    book: Programs[Program] = Programs(Program)
    for i, name in enumerate(["a", "b", "c", ""]):
        job = Job(i, i, 1, program=name)
        assert book.arrive(job).turns == 1 and book.of[job].live == {job: None}
        assert book.depart(job, 10 + i).idle == 10 + i
    assert list(book.known) == ["b", "c"] and not book.of, "the longest idle is forgotten, and who has no name"
    again = Job(9, 9, 1, program="b")
    assert book.arrive(again).turns == 2 and book.forget("b") is None, "it has a live job"
    assert book.forget("c") is not None and list(book.known) == ["b"]
