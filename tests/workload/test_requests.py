"""A trace's rows as requests: the rule of each field, written once for every driver."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import pytest

from fastserve import predictors
from fastserve.sched.job import NEVER, Job
from fastserve.sched.slo import NO_TARGETS, SloTargets
from fastserve.workload import Trace
from fastserve.workload.requests import TraceRequest, jobs_of, outputs_of, requests_of, within


def trace(**columns: Any) -> Trace:
    given: dict[str, Any] = {"arrival": [0, 5, 9], "prompt": [10, 20, 30], "output": [3, 7, 5]} | columns
    lists = ("client", "program")
    return Trace("t", "t", **{name: value if name in lists else np.array(value) for name, value in given.items()})


def column(name: str, of: Trace) -> list[Any]:
    return [getattr(request, name) for request in requests_of(of)]


def test_a_request_has_what_its_row_says() -> None:
    whole = trace(client=["a", "", "b"], program=["p", "q", ""], priority=[1, 0, -2], guess=[4, 0, 2])
    assert list(requests_of(whole))[:2] == [
        TraceRequest(0, 0, 10, 3, 7, "a", "p", 1, NO_TARGETS, 4, ""),
        TraceRequest(1, 5, 20, 7, 7, "", "q", 0, NO_TARGETS, None),
    ]
    assert list(requests_of(trace()))[2] == TraceRequest(2, 9, 30, 5, 7)
    assert all(type(value) in (int, str, SloTargets, type(None)) for request in requests_of(whole) for value in request)


def test_without_limits_of_its_own_the_limit_is_one_constant_and_tells_no_output() -> None:
    assert column("limit", trace()) == [7, 7, 7]


def test_the_limit_is_the_rows_own_and_bounds_its_output() -> None:
    limited = trace(max_tokens=[100, 4, 0])
    assert column("limit", limited) == [100, 4, 5]  # the largest output that is left, not the 7 that no one gets
    assert column("output", limited) == outputs_of(limited) == [3, 4, 5]


def test_a_context_cuts_limits_and_never_outputs() -> None:
    def limits(context: int) -> list[int]:
        return [request.limit for request in within(requests_of(trace()), context)]

    assert limits(37) == [7, 7, 7]
    assert limits(36) == [7, 7, 6]
    assert limits(26) == [7, 7, 5]  # the last does not fit, and whoever is asked says so
    assert [request.output for request in within(requests_of(trace()), 1)] == [3, 7, 5]


@pytest.mark.parametrize(
    ("columns", "deadlines"),
    [
        ({}, [NEVER] * 3),
        ({"e2e_slo": [100, 0, 50]}, [100, NEVER, 59]),
        ({"ttft_slo": [100, 0, 50]}, [100, NEVER, 59]),
        ({"ttft_slo": [1, 2, 3], "e2e_slo": [100, 0, 50]}, [100, 7, 59]),
        ({"tpot_slo": [1, 2, 3]}, [NEVER] * 3),
    ],
)
def test_a_deadline_is_the_end_that_was_promised_else_the_first_token(
    columns: dict[str, list[int]], deadlines: list[int]
) -> None:
    promised = trace(**columns)
    assert column("deadline", promised) == deadlines
    assert [job.deadline for job in jobs_of(promised)] == deadlines


def test_targets_of_records_are_in_seconds_and_nan_where_there_is_none() -> None:
    slo = next(requests_of(trace(ttft_slo=[1_500_000_000, 1, 1], tpot_slo=[0, 1, 1]))).slo
    assert slo == SloTargets(1_500_000_000, None, None)
    assert slo.seconds()[0] == 1.5 and np.isnan(slo.seconds()[1:]).all()


class Noted:
    """A predictor that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int, int]] = []

    def predict(self, job: Job, truth: int) -> int:
        assert job.guess is None
        self.asked.append((job.id, job.prompt, job.limit, truth))
        return 10 * truth


def test_a_predictor_is_asked_once_for_each_and_wins_over_the_traces_own_guess() -> None:
    guessed, noted = trace(guess=[4, 0, 2]), Noted()
    assert [request.guess for request in requests_of(guessed, noted)] == [30, 70, 50]
    assert noted.asked == [(0, 10, 7, 3), (1, 20, 7, 7), (2, 30, 7, 5)]
    assert column("guess", guessed) == [4, None, 2]


def test_every_driver_sees_the_same_guesses() -> None:
    noisy = [predictors.make("lognormal:1", seed=4) for _ in range(2)]
    sent = [request.guess for request in requests_of(trace(), noisy[0])]
    assert sent == [job.guess for job in jobs_of(trace(), noisy[1])] and len({*sent}) == 3


def test_a_job_is_its_request_without_the_truth_and_has_a_guess_only_from_a_predictor() -> None:
    whole = trace(
        client=["a", "", "b"], program=["p", "q", ""], priority=[1, 0, -2], guess=[4, 1, 2], e2e_slo=[8, 0, 8]
    )
    names = ("id", "arrival", "prompt", "limit", "client", "program", "priority", "deadline")
    for request, job in zip(requests_of(whole), jobs_of(whole), strict=True):
        assert [getattr(job, name) for name in names] == [getattr(request, name) for name in names]
        assert job.guess is None and not hasattr(job, "output")


def test_requests_are_made_one_at_a_time() -> None:
    made = count()

    class Counts:
        def predict(self, job: Job, truth: int) -> int:
            return next(made)

    jobs = jobs_of(trace(), Counts())
    next(jobs)
    assert next(made) == 1


def test_what_an_engine_and_our_server_are_told() -> None:
    promised = trace(
        program=["p", "", ""], priority=[3, 0, 0], ttft_slo=[500_000_000, 0, 0], e2e_slo=[0, 2_000_000_001, 0]
    )
    assert column("scheduling", promised) == [
        {"program": "p", "priority": 3, "ttft_slo_s": 0.5}, {"deadline_s": 2.000000001}, {}
    ]  # fmt: skip
