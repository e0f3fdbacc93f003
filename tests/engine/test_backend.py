"""A body of thirty lines drives an engine: text, stop strings, ends, logprobs and errors are the engine's own work."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fastserve.engine import Engine, Output, SamplingParams
from fastserve.engine.backend import Failed, Result, Step, Token, Traits
from fastserve.engine.byte_tokenizer import EOS, ByteTokenizer
from fastserve.engine.model_info import ModelInfo
from fastserve.hardware import Hardware, load_hardware
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan


class Parrot:
    """Says each prompt again and again. say: what a job gets instead, by (job, tokens that it has)."""

    info = ModelInfo("parrot", ByteTokenizer(), 200, 257, frozenset({EOS}), backend="tests:Parrot")

    def __init__(self, say: Callable[[Job, int], Result | None] = lambda job, index: None, **traits: Any) -> None:
        self.traits = Traits(**traits)
        self.say = say
        self.prompts: dict[Job, list[int]] = {}
        self.closed = False

    def hardware(self) -> Hardware:
        return load_hardware("opt-13b-a100")

    def admit(self, job: Job, prompt: list[int], params: SamplingParams, seed: int) -> None:
        self.prompts[job] = prompt

    def run(self, plan: Plan) -> Step:
        due = [job for job, n in plan.work if job.decoding or job.prefilled + n == job.prompt + job.generated]
        copies = [*plan.park, *plan.load, *plan.prefetch]
        return Step([(job, self.tokens(job, job.generated)) for job in due], copied=copies)

    def tokens(self, job: Job, index: int) -> Result:
        said = self.say(job, index)
        return [Token(self.prompts[job][index % job.prompt])] if said is None else said

    def forget(self, job: Job) -> None:
        del self.prompts[job]

    def reset(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def one(body: Parrot, prompt: str = "abcdef", serving: dict[str, Any] | None = None, **params: Any) -> Output:
    with Engine.on(body, **{"policy": "fcfs", **(serving or {})}) as engine:
        output = engine.generate(prompt, SamplingParams(**{"max_tokens": 10, **params}))[0]
    assert body.closed
    assert not body.prompts, "whoever departed is forgotten"
    return output


def test_text_and_limits_come_from_the_engine() -> None:
    output = one(Parrot())
    assert (output.text, output.finish_reason, output.token_ids) == ("abcdefabcd", "length", [*b"abcdefabcd"])
    assert output.record["output_tokens"] == 10


def test_stop_strings_and_eos_end_a_request_though_the_body_would_go_on() -> None:
    stopped = one(Parrot(), stop="fa")
    assert (stopped.text, stopped.finish_reason, len(stopped.token_ids)) == ("abcde", "stop", 7)
    ended = one(Parrot(lambda job, index: [Token(EOS)] if index == 3 else None))
    assert (ended.text, ended.finish_reason, len(ended.token_ids)) == ("abc", "stop", 4)
    ignored = one(Parrot(lambda job, index: [Token(EOS)] if index == 3 else None), ignore_eos=True)
    assert (ignored.text, ignored.finish_reason) == ("abcefabcd", "length")


def test_logprobs_go_to_who_asks_for_them() -> None:
    def say(job: Job, index: int) -> Result:
        return [Token(65, -0.5, {65: -0.5, 66: -1.5})]

    assert one(Parrot(say), max_tokens=2, logprobs=2).logprobs == [{65: -0.5, 66: -1.5}] * 2
    assert one(Parrot(say), max_tokens=2).logprobs is None


def test_a_failed_job_fails_its_own_request_alone() -> None:
    body = Parrot(lambda job, index: Failed("its head hurts") if (job.id, index) == (1, 2) else None)
    with Engine.on(body, policy="fcfs") as engine:
        good, bad = engine.generate(["good", "bad"], SamplingParams(max_tokens=6))
    assert (good.finish_reason, good.text) == ("length", "goodgo")
    assert (bad.finish_reason, bad.error, bad.text) == ("error", "its head hurts", "ba")


@pytest.mark.parametrize(
    ("said", "words"),
    [([Token(65), Token(66)], "job 0 got 2 tokens in one iteration"), ([], "job 0 got 0 tokens in one iteration")],
)
def test_an_even_body_must_give_one_token_each(said: Result, words: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "fastserve"):
        output = one(Parrot(lambda job, index: said if index == 2 else None))
    assert (output.finish_reason, output.text) == ("error", "ab")
    assert (
        f"RuntimeError: backend tests:Parrot: {words}; a backend of uneven iterations sets Traits(uneven=True)"
        == output.error
    )


def test_a_body_that_leaves_somebody_out_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Forgetful(Parrot):
        def run(self, plan: Plan) -> Step:
            return Step(super().run(plan).results[1:])

    with caplog.at_level(logging.CRITICAL, "fastserve"):
        assert "0 jobs got tokens, 1 were due one" in str(one(Forgetful()).error)


@pytest.mark.parametrize("uneven", [False, True])
def test_a_body_that_mixes_up_its_jobs_is_told(uneven: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Equal counts are not enough: one job twice and another not at all would shift the tokens of both."""

    class Mixed(Parrot):
        def run(self, plan: Plan) -> Step:
            results = list(super().run(plan).results)
            return Step([results[0]] * len(results))

    with caplog.at_level(logging.CRITICAL, "fastserve"), Engine.on(Mixed(uneven=uneven), policy="fcfs") as engine:
        outputs = engine.generate(["good", "bad"], SamplingParams(max_tokens=6))
    assert {output.error for output in outputs} == {
        "RuntimeError: backend tests:Parrot: job 0 got tokens twice, or was not due any"
    }


@pytest.mark.parametrize("uneven", [False, True])
def test_plain_ids_in_place_of_tokens_are_told(uneven: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "fastserve"):
        output = one(Parrot(lambda job, index: [65] if index == 2 else None, uneven=uneven))  # type: ignore[list-item]
    assert output.text == "ab"
    assert "job 0 got [65], and not a sequence of fastserve.engine.backend.Token" in str(output.error)


def test_an_uneven_body_gives_none_or_several() -> None:
    """Text, ends and records count what was taken: what is behind a stop string or the limit is dropped."""

    def say(job: Job, index: int) -> Result:
        bursts[0] += 1
        count = (2, 0, 3, 1)[bursts[0] % 4]
        return [Token(body.prompts[job][(index + i) % job.prompt]) for i in range(count)]

    bursts = [0]
    body = Parrot(say, uneven=True)
    output = one(body, serving={"lookahead": 2})
    assert (output.text, output.finish_reason) == ("abcdefabcd", "length")
    assert output.record["output_tokens"] == len(output.token_ids) == 10
    bursts = [0]
    body = Parrot(say, uneven=True)
    output = one(body, serving={"lookahead": 2}, stop="de")
    assert (output.text, output.finish_reason, len(output.token_ids)) == ("abc", "stop", 5)
    assert output.record["output_tokens"] == 5


@pytest.mark.parametrize(("own", "asked", "kept"), [(3, 0, 3), (3, 5, 5), (0, 2, 2)])
def test_a_body_says_how_far_it_looks_ahead(own: int, asked: int, kept: int) -> None:
    """The Scheduler reserves for the body's own lookahead, or for more where the settings say so."""
    body = Parrot(lambda job, index: [Token(65)] * (1 + own), uneven=True, lookahead=own)
    with Engine.on(body, policy="fcfs", lookahead=asked) as engine:
        assert engine.settings["lookahead"] == engine.loop.scheduler.ledger.lookahead == kept
        assert engine.generate("ab", SamplingParams(max_tokens=6))[0].text == "A" * 6


def test_an_uneven_body_may_leave_out_who_got_none() -> None:
    class Slow(Parrot):
        turn = 0

        def run(self, plan: Plan) -> Step:
            self.turn += 1
            return Step(super().run(plan).results if self.turn % 3 == 0 else [])

    output = one(Slow(uneven=True))
    assert (output.text, output.finish_reason) == ("abcdefabcd", "length")


def test_more_tokens_than_blocks_are_reserved_for_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "fastserve"):
        output = one(Parrot(lambda job, index: [Token(65)] * 3, uneven=True))
    assert "got 3 tokens in one iteration, and blocks are reserved for 1: set lookahead to 2 or more" in str(
        output.error
    )


def test_what_stops_an_engine_is_told_with_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(Parrot):
        def forget(self, job: Job) -> None:
            raise KeyError(job.id)

    with caplog.at_level(logging.CRITICAL, "fastserve"), Engine.on(Clumsy(), policy="fcfs") as engine:
        output = engine.generate("ab", SamplingParams(max_tokens=2))[0]
    assert output.error == engine.error == "KeyError: 0"


def test_a_body_that_does_not_swap_computes_again() -> None:
    with Engine.on(Parrot(swaps=False), residency="proactive") as engine:
        assert engine.settings["residency"] == "recompute"
        assert engine.start_line().startswith("parrot on tests:Parrot, policy sj-mlfq")


def test_the_engine_needs_no_body_to_be_imported() -> None:
    code = (
        "import sys, fastserve.engine.engine, fastserve.engine.backend, fastserve.engine.playback\n"
        "never = ('torch', 'fastserve.backends', 'fastserve.launch', 'fastserve.profiler')\n"
        "bad = [name for name in sys.modules if name.startswith(never)]\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
