"""Who is next: two sorted lists, brought up to date only as far as somebody looks."""

from __future__ import annotations

import pytest

from fastserve.sched.errors import PolicyError
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from fastserve.sched.ranking import Ranking
from tests.sched.audit import broken_promises


class Given(Policy):
    """Ranks as the test sets them."""

    settled = True

    def __init__(self) -> None:
        self.ranks: dict[int, object] = {}
        self.asked: list[int] = []

    def rank(self, job: Job) -> object:
        self.asked.append(job.id)
        return self.ranks[job.id]


def crowd(*ranks: object, settled: bool = True) -> tuple[Given, Ranking, list[Job]]:
    policy = Given()
    policy.settled = settled  # type: ignore[misc]
    jobs = [Job(i, 10 - i, 1) for i in range(len(ranks))]
    policy.ranks = dict(enumerate(ranks))
    ranking = Ranking(policy, dict.fromkeys(jobs))
    ranking.dirty.update(dict.fromkeys(jobs))
    return policy, ranking, jobs


def run(job: Job) -> None:
    job.running = job.rolling = True


def ids(entries: list[tuple[object, int, int, Job]]) -> list[int]:
    return [entry[3].id for entry in entries]


def test_who_waits_is_sorted_by_rank_then_arrival() -> None:
    _, ranking, _ = crowd(2, 1, 1)
    ranking.refresh()
    assert ids(ranking.wait) == [2, 1, 0]


def test_ranks_of_those_who_run_are_read_when_they_matter() -> None:
    policy, ranking, jobs = crowd(3, 1, 2)
    run(jobs[0])
    run(jobs[1])
    ranking.refresh()
    assert ids(ranking.wait) == [2] and ranking.run == [] and policy.asked == [2]
    ranking.refresh_run()
    assert ids(ranking.run) == [1, 0] and not ranking.stale


def test_a_settled_rank_is_read_again_only_after_a_change() -> None:
    policy, ranking, jobs = crowd(1, 2)
    ranking.refresh()
    policy.asked.clear()
    policy.ranks = {0: 3, 1: 2}
    ranking.refresh()
    assert ids(ranking.wait) == [0, 1] and policy.asked == []
    ranking.dirty[jobs[0]] = None
    ranking.refresh()
    assert ids(ranking.wait) == [1, 0] and policy.asked == [0]


def test_an_unsettled_policy_is_asked_for_every_rank() -> None:
    policy, ranking, jobs = crowd(1, 2, 3, settled=False)
    run(jobs[2])
    ranking.refresh()
    policy.ranks = {0: 3, 1: 2, 2: 1}
    ranking.refresh()
    assert ids(ranking.wait) == [1, 0] and ids(ranking.run) == [2] and not ranking.lazy


def test_a_running_job_whose_rank_has_improved_moves_up_before_it_would_lose_its_place() -> None:
    policy, ranking, jobs = crowd(1, 5)
    for job in jobs:
        run(job)
    ranking.refresh()
    ranking.refresh_run()
    policy.ranks[1] = 0
    assert ranking.improve(2) and ids(ranking.run) == [1, 0]
    assert not ranking.improve(2)


def test_a_job_is_gone_from_wherever_it_was() -> None:
    _, ranking, jobs = crowd(1, 2, 3)
    run(jobs[0])
    ranking.refresh()
    ranking.refresh_run()
    ranking.dirty[jobs[1]] = None
    run(jobs[2])
    ranking.stale[jobs[2]] = None
    for job in jobs:
        ranking.remove(job)
        assert job.entry is None
    assert not (ranking.wait or ranking.run or ranking.dirty or ranking.stale)


def test_broken_promises_are_found_without_a_word_from_the_policy() -> None:
    policy, ranking, jobs = crowd(1, 2)
    run(jobs[1])
    assert broken_promises(ranking) == []
    policy.ranks = {0: 0, 1: 3}
    assert broken_promises(ranking) == [(jobs[0], 1, 0), (jobs[1], 2, 3)]


def test_best_first_prefers_those_who_run_among_equals() -> None:
    _, ranking, jobs = crowd(1, 1, 0)
    run(jobs[0])
    assert [job.id for job in ranking.best_first(jobs)] == [2, 0, 1]


def test_ranks_that_cannot_be_compared_are_the_policys_fault() -> None:
    _, ranking, _ = crowd(1, "one")
    with pytest.raises(PolicyError, match="return one kind of value"):
        ranking.refresh()
