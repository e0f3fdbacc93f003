"""A body that verifies guesses: what it says of them is checked, counted and logged, and the log gives it back."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.backend import Ended, Failed, Result, Step
from fastserve.flightlog.replay import replay_log
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from tests.engine.test_backend import Parrot

LOOKAHEAD = 3


class Guesser(Parrot):
    """Guesses LOOKAHEAD tokens of whoever decodes; of every third iteration all are right, else one is."""

    turn = 0

    def run(self, plan: Plan) -> Step:
        self.turn += 1
        right = LOOKAHEAD if self.turn % 3 == 0 else 1
        decoding = [job for job in plan.members if job.decoding]
        step = super().run(plan)
        results: list[tuple[Job, Result]] = []
        drafts = []
        for job, result in step.results:
            if job not in decoding:
                results.append((job, result))
                continue
            drafted = min(LOOKAHEAD, job.limit - job.generated - 1)
            accepted = min(right, drafted)
            results.append((job, [self.tokens(job, job.generated + i)[0] for i in range(1 + accepted)]))  # type: ignore[misc]
            if drafted:
                drafts.append((job, drafted, accepted))
        step.results, step.drafts = results, drafts
        return step


def run(body: Parrot, **serving: Any) -> tuple[list[Any], dict[str, int]]:
    with Engine.on(body, policy="sj-mlfq", lookahead=LOOKAHEAD, **serving) as engine:
        outputs = engine.generate(["abcdef", "gh", "ijk"], [SamplingParams(max_tokens=n) for n in (11, 6, 20)])
        return outputs, dict(engine.snapshot().counters)


def test_what_was_guessed_is_counted_and_logged_and_replayed(tmp_path: Path) -> None:
    log = tmp_path / "flight.jsonl"
    outputs, counters = run(Guesser(uneven=True), flight_log=str(log))
    assert [output.text for output in outputs] == ["abcdefabcde", "ghghgh", "ijkijkijkijkijkijkij"]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    told = [entry for line in lines if line.get("event") == "commit" for entry in line.get("drafts", ())]
    assert counters["draft_tokens"] == sum([drafted for _, drafted, _ in told])
    assert counters["accepted_tokens"] == sum([accepted for _, _, accepted in told])
    assert 0 < counters["accepted_tokens"] < counters["draft_tokens"]
    assert all("drafts" not in line or line["drafts"] for line in lines), "a line without guesses has no such field"
    assert replay_log(log).difference is None


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ((3, 4), "verified 3 drafts and 4 of them were right"),
        ((0, 0), "verified 0 drafts and 0 of them were right"),
        ((3, -1), "verified 3 drafts and -1 of them were right"),
        ((3, 0), "got 2 tokens of 0 drafts that were right, and one behind them"),
        (None, "verified drafts twice, or got no tokens"),
    ],
)
def test_what_cannot_be_is_told(told: tuple[int, int] | None, words: str, caplog: pytest.LogCaptureFixture) -> None:
    class Liar(Guesser):
        def run(self, plan: Plan) -> Step:
            step = super().run(plan)
            drafts = step.drafts
            step.drafts = [*drafts, *drafts] if told is None else [(job, *told) for job, _, _ in drafts]
            return step

    with caplog.at_level(logging.CRITICAL, "fastserve"):
        outputs, _ = run(Liar(uneven=True))
    assert any(words in str(output.error) for output in outputs), outputs


def test_a_body_of_even_iterations_verifies_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Quiet(Parrot):
        def run(self, plan: Plan) -> Step:
            step = super().run(plan)
            step.drafts = [(job, 1, 0) for job, _ in step.results]
            return step

    with caplog.at_level(logging.CRITICAL, "fastserve"):
        outputs, _ = run(Quiet())
    assert "verified drafts; a backend of uneven iterations sets Traits(uneven=True)" in str(outputs[0].error)


def test_who_fails_may_have_verified_some(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Guesser):
        def run(self, plan: Plan) -> Step:
            step = super().run(plan)
            step.results = [(job, Failed("no") if job.prompt == 2 else result) for job, result in step.results]
            return step

    outputs, _ = run(Fails(uneven=True))
    assert [output.finish_reason for output in outputs] == ["length", "error", "length"]


def test_who_is_ended_by_the_body_may_have_verified_some() -> None:
    class Ending(Guesser):
        def run(self, plan: Plan) -> Step:
            step = super().run(plan)
            told = {job for job, *_ in step.drafts}
            step.results = [(job, Ended(result) if job in told else result) for job, result in step.results]  # type: ignore[arg-type]
            return step

    outputs, _ = run(Ending(uneven=True))
    assert [output.finish_reason for output in outputs] == ["stop"] * 3


def test_the_token_behind_the_drafts_may_be_missing_where_the_body_cut() -> None:
    class Cut(Guesser):
        def run(self, plan: Plan) -> Step:
            step = super().run(plan)
            step.results = [(job, list(result)[:1]) for job, result in step.results if isinstance(result, list)]
            return step

    outputs, counters = run(Cut(uneven=True))
    assert [output.text for output in outputs] == ["abcdefabcde", "ghghgh", "ijkijkijkijkijkijkij"]
    assert counters["accepted_tokens"] > 0
