"""Schedules, prompts and datasets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve import predictors
from fastserve.bench import IdPrompts, TextPrompts, calls_of
from fastserve.bench.datasets import Arrivals, custom, random_lengths, sharegpt
from fastserve.bench.prompts import USUAL_IDS, ids_of
from fastserve.workload import Trace, TraceError, synthesise
from fastserve.workload.seed import seed_sequence


def trace(**columns: Any) -> Trace:
    numbers = {name: np.array(values) for name, values in columns.items() if name not in ("client", "program")}
    texts = {name: values for name, values in columns.items() if name in ("client", "program")}
    given: dict[str, Any] = {"arrival": [0, 5, 9], "prompt": [10, 20, 30], "output": [3, 7, 5]}
    columns = {name: np.array(values) for name, values in given.items()} | numbers | texts
    return Trace("t", "t", **columns)


IDS = IdPrompts(100, 1000)


def test_a_call_for_each_request() -> None:
    calls = calls_of(trace(client=["a", "", "b"], ttft_slo=[0, 2_000_000_000, 0]), IDS)
    assert [call.request.id for call in calls] == [0, 1, 2]
    assert [call.due for call in calls] == [0, 5, 9]
    assert [(call.request.prompt, len(call.prompt), call.request.output) for call in calls] == [
        (10, 10, 3), (20, 20, 7), (30, 30, 5)
    ]  # fmt: skip
    assert [call.request.client for call in calls] == ["a", "", "b"]
    assert calls[1].request.slo.seconds()[0] == 2.0
    assert np.isnan(calls[0].request.slo.seconds()).all()


def test_the_limit_is_one_constant() -> None:
    assert [call.request.limit for call in calls_of(trace(), IDS)] == [7, 7, 7]


def test_the_limit_is_the_clients_own_and_bounds_the_output() -> None:
    calls = calls_of(trace(max_tokens=[100, 4, 0]), IDS)
    assert [(call.request.limit, call.request.output) for call in calls] == [(100, 3), (4, 4), (5, 5)]


def test_the_limit_leaves_room_for_the_prompt_but_never_less_than_the_output() -> None:
    assert [call.request.limit for call in calls_of(trace(), IDS, max_model_len=26)] == [7, 7, 5]


def test_guesses() -> None:
    assert [call.request.guess for call in calls_of(trace(guess=[4, 0, 2]), IDS)] == [4, None, 2]
    oracle = calls_of(trace(guess=[4, 0, 2]), IDS, predictor=predictors.make("oracle"))
    assert [call.request.guess for call in oracle] == [3, 7, 5]


def test_id_prompts_are_their_own_for_each_request_and_the_same_again() -> None:
    assert (IDS.make(3, 50) == IDS.make(3, 50)).all()
    assert (IDS.make(3, 50) != IDS.make(4, 50)).any()
    assert (IDS.make(3, 50) != IdPrompts(100, 1000, seed=1).make(3, 50)).any()
    drawn = IdPrompts(5, 8).make(0, 1000)
    assert (drawn.min(), drawn.max()) == (5, 7)


@pytest.mark.parametrize("vocab", [2, 8, 257, 32_000])
def test_ids_of_a_vocabulary_are_inside_it(vocab: int) -> None:
    low, high = ids_of(vocab)
    assert 0 <= low < high <= vocab
    assert ids_of(None) == USUAL_IDS


def test_ids_of_a_server_that_makes_its_own_are_letters() -> None:
    low, high = ids_of(1 << 50)
    assert bytes(range(low, high)) == b"abcdefghijklmnopqrstuvwxyz"


def words(text: str) -> int:
    """A tokenizer that takes three letters or a word at a time, and adds one token in front."""
    return 1 + sum([-(-len(word) // 3) for word in text.split(" ") if word])


@given(st.integers(2, 400), st.integers(0, 5), st.sampled_from([len, words]))
def test_texts_have_exactly_their_tokens(tokens: int, index: int, count: Any) -> None:
    prompts = TextPrompts(count, seed=2)
    text = prompts.make(index, tokens)
    assert count(text) == tokens
    assert prompts.inexact == 0
    assert TextPrompts(count, seed=2).make(index, tokens) == text


def test_a_length_that_no_text_has() -> None:
    prompts = TextPrompts(lambda text: 2 * len(text))
    assert prompts.make(0, 7)
    assert prompts.inexact == 1


def test_without_a_tokenizer_a_word_stands_for_a_token() -> None:
    prompts = TextPrompts(None)
    assert len(prompts.make(0, 12).split()) == 12
    assert prompts.inexact == 1


def test_random_lengths() -> None:
    found = random_lengths(2000, Arrivals(), prompt=100, output=10, spread=0.3, seed=1).trace
    assert (found.prompt.min(), found.prompt.max()) == (70, 130)
    assert (found.output.min(), found.output.max()) == (7, 13)
    assert found.span == 0
    exact = random_lengths(5, Arrivals(), prompt=100, output=1).trace
    assert (set(exact.prompt.tolist()), set(exact.output.tolist())) == ({100}, {1})


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_rate_and_the_shape(burstiness: float) -> None:
    gaps = np.diff(Arrivals(rate=50.0, burstiness=burstiness).times(40_000, seed=3)) / 1e9
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.05)


def test_poisson_gaps_are_those_of_a_synthetic_trace() -> None:
    """A load of a rate is the same here and there, for the same stream."""
    from fastserve.workload.arrivals import arrival_times

    expected = arrival_times("poisson", 20, 5.0, seed_sequence(7, 0))
    assert (Arrivals(rate=5.0).times(20, seed=7) == expected).all()
    assert synthesise(3, rate=1.0).span > 0


def test_sharegpt(tmp_path: Path) -> None:
    def talk(*turns: int) -> dict[str, Any]:
        return {"conversations": [{"value": "x" * turn} for turn in turns]}

    path = tmp_path / "s.json"
    kept = [talk(10, 20), talk(30, 40, 50)]
    left_out = [talk(10), talk(3, 20), talk(20, 3), talk(1025, 20), talk(1000, 1100), {"conversations": []}]
    path.write_text(json.dumps([*kept, *left_out]))
    found = sharegpt(path, 2, Arrivals(), len)
    pairs = zip(found.trace.prompt.tolist(), found.trace.output.tolist(), strict=True)
    assert sorted(pairs) == [(10, 20), (30, 40)]
    assert found.texts is not None
    assert [len(text) for text in found.texts] == found.trace.prompt.tolist()
    assert set(sharegpt(path, 2, Arrivals(), len, output=9).trace.output.tolist()) == {9}
    assert len(sharegpt(path, 7, Arrivals(), len).trace) == 7


def test_custom(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"prompt": "one two", "output_tokens": 3}\n\n{"prompt": "three", "output_tokens": 5}\n')
    found = custom(path, 2, Arrivals(), len, output=None)
    assert found.texts == ["one two", "three"]
    assert (found.trace.prompt.tolist(), found.trace.output.tolist()) == ([7, 5], [3, 5])
    assert custom(path, 1, Arrivals(), len).trace.output.tolist() == [256]


@pytest.mark.parametrize("line", ["[1]", "{", '{"prompt": 3}', '{"prompt": ""}', '{"prompt": "a"}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"prompt": "a", "output_tokens": 1}\n' + line)
    with pytest.raises(TraceError, match=r"c\.jsonl.*2"):
        custom(path, 2, Arrivals(), len, output=None)


def test_no_sharegpt(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    for text in ("{", "[]", "[1]", '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(TraceError):
            sharegpt(path, 1, Arrivals(), len)
    with pytest.raises(TraceError, match="cannot be read"):
        sharegpt(tmp_path / "none", 1, Arrivals(), len)
