"""Answers of OpenAI's API as Ollama's: pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.gateway.call import MOST_WHOLE
from fastserve.gateway.ollama.answers import BROKEN, PIECE, Answer, Lines, words_of


def ticks(*times: int) -> Iterator[int]:
    yield from times


def answer(chat: bool, *times: int) -> Answer:
    clock = ticks(*times)
    return Answer("m", chat, clock=lambda: next(clock))


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n"
                    for event in events)  # fmt: skip


def chunk(text: str = "", reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text, **delta}, "finish_reason": reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
STREAM = sse(chunk(role="assistant"), chunk("a"), chunk("é", "length"), USAGE, b"[DONE]")


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_stream_of_a_chat(size: int) -> None:
    lines = Lines(answer(True, 100, 140, 200))
    data = b"".join(lines.feed(STREAM[at : at + size]) for at in range(0, len(STREAM), size)) + lines.end()
    first, second, last = map(json.loads, data.splitlines())
    assert first.items() >= {"model": "m", "message": {"role": "assistant", "content": "a"}, "done": False}.items()
    assert second["message"]["content"] == "é"
    assert last.items() >= {
        "done": True, "done_reason": "length", "message": {"role": "assistant", "content": ""}, "total_duration": 100,
        "load_duration": 0, "prompt_eval_count": 5, "prompt_eval_duration": 40, "eval_count": 2, "eval_duration": 60,
    }.items()  # fmt: skip


def test_a_stream_of_a_completion() -> None:
    lines = Lines(answer(False, 0, 1, 2))
    events = sse(
        {"choices": [{"text": "ab", "finish_reason": None}]}, {"choices": [{"text": "", "finish_reason": "stop"}]}
    )
    first, last = map(json.loads, (lines.feed(events) + lines.end()).splitlines())
    assert first["response"] == "ab" and last["response"] == "" and last["done_reason"] == "stop"
    assert last["eval_count"] == 1, "nothing was counted by the upstream: pieces stand for tokens"


def test_a_stream_that_breaks_says_so_and_is_not_done() -> None:
    lines = Lines(answer(True, 0, 1, 2))
    *_, last = map(json.loads, (lines.feed(sse(chunk("a"))) + lines.end()).splitlines())
    assert last == {"error": BROKEN}
    lines = Lines(answer(True, 0, 1, 2))
    data = lines.feed(sse(chunk("a"), {"error": {"message": "it fell over"}}, chunk("b"), b"[DONE]")) + lines.end()
    assert [json.loads(line).get("error") for line in data.splitlines()] == [None, "it fell over"]


def test_one_object() -> None:
    choice = {"message": {"role": "assistant", "content": "hi", "reasoning_content": "hm"}, "finish_reason": "stop"}
    given = {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 1},
             "timings": {"prompt_ms": 2.5, "predicted_ms": 10}}  # fmt: skip
    found = json.loads(answer(True, 0, 50).whole(given))
    assert found["message"] == {"role": "assistant", "content": "hi", "thinking": "hm"} and found["done"]
    assert (found["prompt_eval_duration"], found["eval_duration"]) == (2_500_000, 10_000_000)
    found = json.loads(answer(False, 0, 50).whole({"choices": [{"text": "x", "finish_reason": "length"}]}))
    assert found["response"] == "x" and found["done_reason"] == "length" and found["eval_duration"] == 50
    for wrong in ({}, [], {"choices": []}, None):
        with pytest.raises(ValueError, match="no answer"):
            answer(True, 0, 1).whole(wrong)


def test_calls_of_tools_come_in_pieces() -> None:
    lines = Lines(answer(True, 0, 1, 2))
    events = sse(
        chunk(tool_calls=[{"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a"'}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
        chunk("", "tool_calls"),
    )
    last = json.loads((lines.feed(events) + lines.end()).splitlines()[-1])
    assert last["message"]["tool_calls"] == [{"function": {"name": "add", "arguments": {"a": 1}}}]


def test_errors_of_all_formats() -> None:
    assert words_of({"error": {"message": "a"}}) == words_of({"error": "a"}) == words_of({"detail": "a"}) == "a"
    assert words_of({"detail": [{"msg": "a"}, {"msg": "b"}]}) == "a; b"
    assert words_of(None) == words_of({}) == "the upstream failed"


def call_of_tool(arguments: str, **more: Any) -> dict[str, Any]:
    return chunk(tool_calls=[{"index": 0, "function": {"arguments": arguments, **more}}])


def test_arguments_of_a_tool_in_many_pieces_cost_time_in_their_number() -> None:
    lines = Lines(answer(True, 0, 1))
    pieces = sse(call_of_tool('{"a": "', name="f"), *[call_of_tool("x" * 10)] * 30_000, call_of_tool('"}'))
    found = json.loads(lines.feed(pieces + sse(chunk("", "tool_calls"))) + lines.end())
    (call,) = found["message"]["tool_calls"]
    assert call == {"function": {"name": "f", "arguments": {"a": "x" * 300_000}}} and found["done"]


@pytest.mark.parametrize("piece", ["x" * (1 << 20), ""], ids=("long", "many"))
def test_arguments_of_a_tool_are_bounded(piece: str) -> None:
    lines = Lines(answer(True, 0, 1))
    each = call_of_tool(piece)
    each["choices"][0]["delta"]["tool_calls"] *= 1 if piece else 1 << 12
    events = sse(*[each] * (16 if piece else (MOST_WHOLE // PIECE >> 12) + 1))
    with pytest.raises(ValueError, match="calls of tools are longer than 16,777,216 characters"):
        lines.feed(events)
    assert lines.answer.calls == {}
