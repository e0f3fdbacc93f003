"""What is sent to each kind of route, and what is read from its answers."""

import json
from typing import Any

import pytest

from fastserve.bench import FORMATS, Chat, Completions, Format, Native, NoBatch, Reply, RequestOptions
from fastserve.bench.api import ResponseReader
from fastserve.sched.slo import SloTargets
from tests.bench.calls import call

HIDDEN = RequestOptions(model="m", hide_lengths=True, ignore_eos=True, own=True)
TOLD = RequestOptions(model="m", ignore_eos=True)


def test_hidden_lengths_do_not_show_in_max_tokens() -> None:
    body = Completions(HIDDEN).body(call(output=4, limit=100))
    assert (body["max_tokens"], body["stop_after"]) == (100, 4)
    assert "ignore_eos" not in body


def test_foreign_servers_get_max_tokens_and_ignore_eos() -> None:
    slo = SloTargets(ttft=1, tpot=2, e2e=3)
    body = Completions(TOLD).body(call(output=4, limit=100, priority=2, guess=9, program="p", client="ann", slo=slo))
    assert (body["max_tokens"], body["ignore_eos"], body["user"]) == (4, True, "ann")
    assert set(body) == {
        "prompt",
        "max_tokens",
        "ignore_eos",
        "model",
        "temperature",
        "user",
        "stream",
        "stream_options",
    }


def test_an_answer_that_may_end_before_has_neither() -> None:
    body = Completions(RequestOptions(hide_lengths=True, own=True)).body(call(output=4))
    assert body["max_tokens"] == 4
    assert not {"stop_after", "ignore_eos", "model"} & set(body)


def test_our_server_is_told_all_that_its_policy_may_know() -> None:
    slo = SloTargets(ttft=1_500_000_000, e2e=9_000_000_001)
    body = Native(HIDDEN).body(call(client="ann", program="p", priority=2, guess=9, slo=slo))
    assert (body["user"], body["program"], body["priority"], body["guess"]) == ("ann", "p", 2, 9)
    assert (body["ttft_slo_s"], body["deadline_s"]) == (1.5, 9.000000001) and "tpot_slo_s" not in body
    assert (body["max_new_tokens"], body["stop_after"]) == (100, 4)


def test_prompts() -> None:
    assert Completions(TOLD).body(call())["prompt"] == [7, 8, 9]
    assert Chat(TOLD).body(call(prompt="hi"))["messages"] == [{"role": "user", "content": "hi"}]
    assert Chat(TOLD).body(call(prompt="hi"))["max_completion_tokens"] == 4


@pytest.mark.parametrize("name", FORMATS)
def test_extra_fields_win(name: str) -> None:
    options = RequestOptions(extra={"temperature": 1.5, "x": [1]})
    body = FORMATS[name](options).body(call(prompt="hi"))
    assert (body["temperature"], body["x"]) == (1.5, [1])
    json.dumps(body)


def read(form: type[Format], *chunks: Any, status: int = 200, kind: str = "text/event-stream") -> Reply:
    """The reply after these events, the i-th one at time i + 1; strings as they are."""
    reply = Reply(text=[])
    answer = ResponseReader(form(TOLD), reply)
    answer.head(status, kind)
    for now, chunk in enumerate(chunks, 1):
        text = chunk if isinstance(chunk, str) else json.dumps(chunk)
        answer.data(now, (f"data: {text}\n\n" if kind == "text/event-stream" else text).encode())
    answer.end()
    return reply


def text(said: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": said, "finish_reason": finish}]}


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}}


def test_completions() -> None:
    reply = read(Completions, text("a"), text(""), text("b", "length"), USAGE, "[DONE]")
    assert reply.stamps.tolist() == [1, 2, 3]  # an empty text is a token whose text is held back
    assert (reply.finish, reply.error, reply.tokens, reply.prompt_tokens) == ("length", "", 5, 3)
    assert reply.text == ["a", "b"]
    assert reply.completed


def test_without_usage_an_event_is_a_token() -> None:
    reply = read(Completions, text("a"), text("b", "stop"), "[DONE]")
    assert (reply.tokens, reply.output_tokens) == (2, None)


def test_usage_in_every_chunk_counts_the_last() -> None:
    chunks = [text("a") | {"usage": {"completion_tokens": n}} for n in (1, 2)]
    assert read(Completions, *chunks, text("c", "length") | {"usage": {"completion_tokens": 3}}).tokens == 3


def test_chat_does_not_take_the_role_for_a_token() -> None:
    chunks = [delta(role="assistant", content=""), delta(content="a"), delta(content=""), delta("stop"), "[DONE]"]
    reply = read(Chat, *chunks)
    assert reply.stamps.tolist() == [2, 3]
    assert reply.finish == "stop"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_chat_counts_thoughts(field: str) -> None:
    assert read(Chat, delta(role="assistant", **{field: "hm"}), delta("stop", content="a")).stamps.tolist() == [1, 2]


def test_native() -> None:
    token = {"text": "a", "token": "a", "is_final": False}
    final = {"text": "", "is_final": True, "finish_reason": "length", "tokens_generated": 2, "preemption_count": 3}
    reply = read(Native, token, token, final | {"usage": {"prompt_tokens": 7}})
    assert reply.stamps.tolist() == [1, 2]
    assert (reply.tokens, reply.prompt_tokens, reply.preemptions, reply.finish) == (2, 7, 3, "length")


def test_no_batch_has_its_first_token_with_its_last() -> None:
    reply = read(NoBatch, {"text": "abc", "tokens_generated": 3}, kind="application/json")
    assert reply.stamps.tolist() == [1]
    assert (reply.tokens, reply.finish, reply.streamed) == (3, "stop", False)


@pytest.mark.parametrize(
    ("reply", "finish", "error"),
    [
        (lambda: read(Completions, text("a")), "unfinished", "without a finish reason"),
        (lambda: read(Completions), "unfinished", "without a finish reason"),
        (lambda: read(Completions, text("a"), {"error": {"message": "broke"}}, "[DONE]"), "unfinished", "broke"),
        (lambda: read(Completions, text("a"), "{nonsense"), "unfinished", "cannot be parsed"),
        (lambda: read(Completions, {"choices": 3}), "unfinished", "cannot be parsed"),
        (lambda: read(Completions, "[1]"), "unfinished", "cannot be parsed"),
        (lambda: read(Completions, {}, kind="application/json"), "unfinished", "did not stream"),
        (lambda: read(NoBatch, {}), "unfinished", "streamed its response"),
        (lambda: read(NoBatch, {"x": 1}, kind="application/json"), "unfinished", "cannot be parsed"),
        (lambda: read(Native, {"is_final": True, "finish_reason": "cancelled"}), "cancelled", "cancelled"),
        (lambda: read(Native, {"is_final": True, "finish_reason": "timeout"}), "unfinished", "timeout"),
        (lambda: read(Chat, {"error": {"message": "no"}}, status=503, kind="text/plain"), "rejected", "HTTP 503: no"),
        (lambda: read(Chat, "gone", status=500, kind="text/plain"), "rejected", "HTTP 500: gone"),
        (lambda: read(Native, {"detail": [{"loc": 1}]}, status=422, kind="application/json"), "rejected", "HTTP 422"),
        (lambda: read(Native, {}, status=504, kind="application/json"), "unfinished", "HTTP 504"),
        (lambda: read(Native, {}, status=409, kind="application/json"), "cancelled", "HTTP 409"),
    ],
)  # fmt: skip
def test_failures(reply: Any, finish: str, error: str) -> None:
    found = reply()
    assert found.finish == finish
    assert error in found.error
    assert not found.completed


def test_the_first_failure_stays() -> None:
    reply = read(Completions, {"error": {"message": "first"}}, {"error": {"message": "second"}}, text("a", "length"))
    assert (reply.error, reply.finish) == ("first", "unfinished")


def test_an_output_that_the_server_cut_is_truncated_where_that_can_be_known() -> None:
    final = {"text": "", "is_final": True, "finish_reason": "truncated", "tokens_generated": 2}
    cut = read(Native, {"text": "a", "is_final": False}, final)
    assert (cut.finish, cut.error) == ("truncated", "") and cut.truncated and not cut.completed

    def completions(asked: int, *chunks: Any, **extra: Any) -> str:
        reply = Reply(asked=asked)
        reader = ResponseReader(Completions(RequestOptions(extra=extra)), reply)
        reader.head(200, "text/event-stream")
        for chunk in chunks:
            reader.data(1, f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n".encode())
        reader.end()
        return reply.finish

    chunks = text("a"), text("b", "length"), USAGE, "[DONE]"  # 5 tokens by the server's count
    assert [completions(asked, *chunks) for asked in (5, 6, 0)] == ["length", "truncated", "length"]
    assert completions(6, *chunks, max_tokens=5) == "length"  # the user's own limit
    assert completions(6, text("a"), text("b", "length"), "[DONE]") == "length"  # nobody counted
