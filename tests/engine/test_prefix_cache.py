"""The prefix cache of a live engine: on where the body shares, named by tokens and salt, told, reset, replayed."""

from pathlib import Path
from typing import Any

import pytest

from fastserve import Job, Policy
from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine import Engine, SamplingParams
from fastserve.engine.backend import Traits
from fastserve.engine.programs import Programs
from fastserve.engine.request import Output, Replayed, Request
from fastserve.engine.unit_names import UnitNames
from fastserve.flightlog.replay import replay_log

TURN = SamplingParams(max_tokens=20, seed=1)
TEXT = [65 + i % 26 for i in range(100)]


def said(engine: Engine, prompt: list[int], **facts: Any) -> Output:
    output = engine.submit(prompt, TURN, **facts).result()
    assert output.error is None
    return output


def test_who_repeats_a_prompt_and_its_answer_finds_both() -> None:
    with Engine.scripted() as engine:
        assert engine.settings["prefix_cache"] == "on"
        first = said(engine, TEXT)
        assert first.cached_tokens == 0
        again = said(engine, TEXT)
        assert again.cached_tokens == 96
        assert again.token_ids == first.token_ids
        more = [*TEXT, *first.token_ids, *TEXT]
        assert said(engine, more).cached_tokens == 112  # 119 tokens have their KV: the answer's last one has none
        assert engine.records()["cached_tokens"].tolist() == [0, 96, 112]


def test_off_nothing_is_named() -> None:
    with Engine.scripted(prefix_cache="off") as engine:
        assert engine.settings["prefix_cache"] == "off"
        said(engine, TEXT)
        assert said(engine, TEXT).cached_tokens == 0
        assert engine.reset_prefix_cache()


def test_units_are_as_large_as_is_asked() -> None:
    with Engine.scripted(prefix_tokens=64) as engine:
        said(engine, TEXT)
        assert said(engine, TEXT).cached_tokens == 64
    with pytest.raises(ValueError, match="prefix_tokens=24 is not a whole number of KV blocks of 16"):
        Engine.scripted(prefix_tokens=24)


class Alone(ScriptedBackend):
    traits = Traits(exact="always")


class Reading(ScriptedBackend):
    traits = Traits(exact="always", shares=True)


def test_a_body_that_does_not_share() -> None:
    with Engine.on(Alone()) as engine:
        assert engine.settings["prefix_cache"] == "off"
        said(engine, TEXT)
        assert said(engine, TEXT).cached_tokens == 0
    with pytest.raises(ValueError, match="prefix_cache='on': backend scripted shares no KV between requests; leave it"):
        Engine.on(Alone(), prefix_cache="on")


def test_what_is_shared_is_said_for_a_body_that_reads_no_prompt() -> None:
    with Engine.scripted() as engine:
        said(engine, TEXT, replayed=Replayed(0, ((1, 2, 3, 4, 5, 6), (7,))))
        fork = Replayed(1, ((1, 2, 3, 14, 15, 16), ()))
        assert said(engine, TEXT[::-1], replayed=fork).cached_tokens == 48
        more = Replayed(2, ((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), ()))
        assert said(engine, TEXT * 2, replayed=more).cached_tokens == 112
    with Engine.on(Reading()) as engine, pytest.raises(ValueError, match="units: backend scripted reads its prompts"):
        engine.submit(TEXT, replayed=Replayed(0, ((1, 2, 3, 4, 5, 6), ())))


def test_salts_keep_tenants_apart() -> None:
    with Engine.scripted() as engine:
        said(engine, TEXT, cache_salt="red")
        assert said(engine, TEXT).cached_tokens == 0
        assert said(engine, TEXT, cache_salt="blue").cached_tokens == 0
        assert said(engine, TEXT, cache_salt="red").cached_tokens == 96


def test_ids_are_a_secret_of_the_process_and_of_all_that_comes_before() -> None:
    names, others = UnitNames(4, b"a key"), UnitNames(4, b"another")
    ids = names.of(TEXT[:10])
    assert len(ids) == 2
    assert set(ids).isdisjoint(others.of(TEXT[:10]))
    assert set(ids).isdisjoint(names.of(TEXT[:10], root=names.root("red")))
    assert ids == names.of(TEXT[:8])
    assert names.of(TEXT[4:12], ids[:1]) == names.of(TEXT[:12])[1:]
    assert names.of(TEXT[4:8])[0] not in ids  # the same words behind other ones
    assert UnitNames(4).of(TEXT) != UnitNames(4).of(TEXT)
    prompt = TEXT[:8]
    assert names.of_prompt(prompt) is names.of_prompt(list(prompt)) == ids
    assert names.of_prompt(prompt, names.root("red")) == names.of(prompt, root=names.root("red"))
    prompt[0] += 1
    assert names.of_prompt(prompt) == names.of(prompt)
    assert len({names.root(), names.root("a", "b"), names.root("ab"), names.root("a"), names.root("", "a")}) == 5
    assert names.root("", "") == names.root() == b""


def test_reset_forgets_what_nobody_holds() -> None:
    with Engine.scripted(realtime=50.0) as engine:
        said(engine, TEXT)
        assert engine.reset_prefix_cache()
        assert said(engine, TEXT).cached_tokens == 0
        long = engine.submit(TEXT, SamplingParams(max_tokens=1500))
        next(iter(long))
        assert not engine.reset_prefix_cache()
        assert said(engine, TEXT).cached_tokens == 96
        long.cancel()
        long.result()
        assert engine.reset_prefix_cache()
        assert said(engine, TEXT).cached_tokens == 0
    with pytest.raises(RuntimeError, match="the engine has stopped: it was closed"):
        engine.reset_prefix_cache()


@pytest.mark.parametrize("residency", ["recompute", "proactive"])
def test_a_flight_log_is_replayed_with_the_same_hits(residency: str, tmp_path: Path) -> None:
    """Conversations in a small pool, with cancels and resets: equal plans are equal hits and evictions."""
    log = tmp_path / "flight.jsonl"
    found = 0
    with Engine.scripted(
        policy="mlfq", knobs={"q1": 0.05}, max_batch=3, kv_tokens=640, residency=residency, flight_log=log,
    ) as engine:  # fmt: skip
        talks = [TEXT[: 40 + 8 * i] for i in range(6)]
        for turn in range(4):
            handles = [engine.submit(talk, SamplingParams(max_tokens=24, seed=i)) for i, talk in enumerate(talks)]
            handles[turn].cancel()
            outputs = [handle.result() for handle in handles]
            found += sum([output.cached_tokens for output in outputs])
            talks = [[*talk, *output.token_ids, *TEXT[:8]] for talk, output in zip(talks, outputs, strict=True)]
            if turn == 1:
                engine.reset_prefix_cache()
    assert found > 500
    text = log.read_text()
    assert '"evict":[' in text
    assert '"reset_prefix_cache"' in text
    report = replay_log(log)
    assert report.difference is None
    assert report.plans > 50


class Heard(Policy):
    """What a policy is told of programs and tools."""

    def __init__(self) -> None:
        self.came: list[tuple[int, str, str, bool]] = []
        self.went: list[tuple[int, str]] = []
        self.over: list[str] = []

    def rank(self, job: Job) -> int:
        return 0

    def arrive(self, job: Job) -> None:
        self.came.append((job.id, job.program, job.tool, job.final))

    def depart(self, job: Job) -> None:
        self.went.append((job.id, job.calls))

    def ended(self, program: str) -> None:
        self.over.append(program)


def test_who_goes_on_with_an_earlier_request_belongs_to_its_program() -> None:
    heard = Heard()
    with Engine.scripted(policy=lambda: heard) as engine:
        talk = TEXT[:40]
        for _ in range(3):  # a conversation whose client names nothing
            talk = [*talk, *said(engine, talk).token_ids, 65, 66]
        fork = [*TEXT[:40], *said(engine, TEXT[:40]).token_ids]
        said(engine, TEXT[:40])  # begins like another, and is not its next turn
        said(engine, talk, client="somebody else")
        said(engine, talk, cache_salt="red")
        said(engine, [*fork, 70])
        mine = [*TEXT[:7], *said(engine, TEXT[:7], program="mine").token_ids]
        said(engine, [*mine, 90])
        assert [program for _, program, _, _ in heard.came] == [
            "", "continues-0", "continues-0", "", "", "", "", "continues-4", "mine", "mine",
        ]  # fmt: skip
        assert engine.records()["program"].tolist()[1] == "continues-0"


def test_a_program_is_over_when_its_client_says_so() -> None:
    heard = Heard()
    with Engine.scripted(policy=lambda: heard, realtime=50.0) as engine:
        said(engine, TEXT, program="a", tool="grep", calls="edit")
        slow = engine.submit(TEXT, SamplingParams(max_tokens=1500), program="a")
        said(engine, TEXT, program="a", final=True)
        said(engine, TEXT, program="b", final=True)
        engine.snapshot()
        assert heard.over == ["b"]
        slow.cancel()
        slow.result()
        engine.snapshot()
        assert heard.over == ["b", "a"]
        engine.end_program("c")
        engine.snapshot()
        assert heard.over == ["b", "a", "c"]
        assert heard.came[0] == (0, "a", "grep", False)
        assert heard.came[2] == (2, "a", "", True)
        assert heard.went[0] == (0, "edit")
        more = [*TEXT, *said(engine, TEXT, program="b").token_ids, 65]
        engine.end_program("b")
        said(engine, more)
        assert heard.came[-1][1] == ""  # nobody goes on with what is over


def test_programs_at_rest_are_over_some_time() -> None:
    """So a server remembers no more than so many; a live one stays."""
    programs = Programs(4, most=3)
    ids = UnitNames(4)
    over = []
    programs.came("lives", False)
    for i in range(6):
        prompt = [i, *TEXT[:9]]
        name = programs.of("", prompt, ids.of(prompt)) or ("" if i == 2 else f"p{i}")
        request = Request(
            Job(i, 0, 10, program=name, ids=ids.of(prompt)), prompt, SamplingParams().resolved({}), 0, None
        )
        request.tokens, request.finish_reason = [1, 2, 3], "stop"
        programs.came(name, False)
        over += programs.left(request)
    assert over == ["p0", "p1"]
    goes_on = [[i, *TEXT[:9], 1, 2, 9] for i in range(6)]
    assert [programs.of("", prompt, ids.of(prompt)) for prompt in goes_on] == ["", "", "", "p3", "p4", "p5"]
