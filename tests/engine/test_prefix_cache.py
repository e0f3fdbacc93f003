"""The prefix cache of a live engine: on where the body shares, named by tokens and salt, told, reset, replayed."""

from pathlib import Path
from typing import Any

import pytest

from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine import Engine, SamplingParams
from fastserve.engine.backend import Traits
from fastserve.engine.request import Output
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


def test_a_body_that_does_not_share() -> None:
    with Engine.on(Alone()) as engine:
        assert engine.settings["prefix_cache"] == "off"
        said(engine, TEXT)
        assert said(engine, TEXT).cached_tokens == 0
    with pytest.raises(ValueError, match="prefix_cache='on': backend scripted shares no KV between requests; leave it"):
        Engine.on(Alone(), prefix_cache="on")


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
