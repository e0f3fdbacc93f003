"""Which answers are complete, and how they are replayed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from fastserve.gateway.cache.entry import PIECE, Entry, pieces, plain, replayed, streamed, unpacked
from fastserve.gateway.call import whole

pytestmark = pytest.mark.anyio
CHAT = {
    "id": "chatcmpl-0123456789", "object": "chat.completion", "created": 1700000000, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": 'he said "created": 1700000000'},
                 "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}  # fmt: skip


def data(found: Any) -> bytes:
    return found if isinstance(found, bytes) else json.dumps(found).encode()


def events(*each: Any) -> bytes:
    return b"".join(b"data: " + data(one) + b"\n\n" for one in each)


def chunk(text: str = "", reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "cmpl-0123456789", "object": "text_completion", "created": 1700000000, "model": "m",
            "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}], **more}  # fmt: skip


USAGE = {"id": "cmpl-0123456789", "created": 1700000000, "choices": [], "usage": {"total_tokens": 5}}
NATIVE = {"text": "", "is_final": True, "final": True, "finish_reason": "length", "job_id": "abcdefabcdef",
          "request_id": "abcdefabcdef"}  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"[]", b"no json", {"error": {"message": "no", "code": 500}}, {**CHAT, "choices": []},
        {**CHAT, "choices": [{"finish_reason": None}]}, {**CHAT, "choices": CHAT["choices"] * 2},  # type: ignore[operator]
        {**CHAT, "choices": [{"finish_reason": "cancelled"}]}, {"text": "a", "finish_reason": "timeout"},
        {"text": "a", "finish_reason": "truncated"}, {"text": "a"}, b"[" * 100_000,
    ],
)  # fmt: skip
def test_incomplete_answers(answer: Any) -> None:
    assert plain("application/json", data(answer)) is None


@pytest.mark.parametrize(
    "stream",
    [
        b"", events(chunk("a")), events(chunk("a"), b"[DONE]"), events(chunk("a", "length"))[:-1],
        events(chunk("a", "length")), events(chunk("a"), {"error": {"message": "gone"}}, b"[DONE]"),
        events(chunk("a", "stop"), {"error": {"message": "gone"}}, b"[DONE]"), events(b"[DONE]"),
        events({"error": {"message": "gone"}}, USAGE, b"[DONE]"), events(USAGE, b"[DONE]"),
        events({**NATIVE, "finish_reason": "error"}), events({**NATIVE, "error": "it was shut down"}),
        events({"text": "a", "is_final": False}),
    ],
)  # fmt: skip
def test_streams_that_have_not_ended_well(stream: bytes) -> None:
    assert streamed("text/event-stream", stream) is None


@pytest.mark.parametrize(
    "stream",
    [
        events(chunk("a"), chunk("b", "stop"), b"[DONE]"), events(chunk("a", "length"), USAGE, b"[DONE]"),
        events(chunk("a", "tool_calls"), b"[DONE]").replace(b"\n", b"\r\n"), events({"text": "a"}, NATIVE),
    ],
)  # fmt: skip
def test_streams_that_have(stream: bytes) -> None:
    found = streamed("text/event-stream", stream)
    assert found is not None and found.body == stream.replace(b"\r\n", b"\n")
    assert unpacked(found.packed()) == found


def test_comments_are_not_kept() -> None:
    stream = b": wait\n\n" + events(chunk("a")) + b": wait\n\n" + events(chunk("b", "stop"), b"[DONE]")
    found = streamed("text/event-stream", stream)
    assert found is not None and found.body == events(chunk("a"), chunk("b", "stop"), b"[DONE]")


async def test_a_replay_has_an_id_and_a_time_of_its_own() -> None:
    found = plain("application/json", data(CHAT))
    assert found is not None
    response = replayed(found, 12.7)
    assert response.headers["x-cache"] == "hit" and response.headers["age"] == "12"
    answer = json.loads(await whole(response))
    assert answer["id"].startswith("chatcmpl-") and answer["id"] != CHAT["id"] and answer["created"] > 1700000000
    assert {**answer, "id": CHAT["id"], "created": CHAT["created"]} == CHAT
    assert json.loads(await whole(replayed(found, 0)))["id"] != answer["id"]


async def test_a_stream_is_replayed_as_one() -> None:
    found = streamed("text/event-stream", events(chunk("a"), chunk("b", "stop"), USAGE, b"[DONE]"))
    assert found is not None
    response = replayed(found, 1)
    assert isinstance(response, StreamingResponse) and response.media_type == "text/event-stream"
    body = await whole(response)
    lines = [json.loads(event[6:]) for event in body.split(b"\n\n")[:-2]]
    assert len({line["id"] for line in lines}) == 1 and lines[0]["id"] != chunk()["id"]
    assert [line["choices"][0]["text"] for line in lines[:2]] == ["a", "b"] and lines[2]["usage"] == USAGE["usage"]
    assert body.endswith(b"data: [DONE]\n\n")


async def test_native_ids() -> None:
    found = streamed("text/event-stream", events({"text": "a", "job_id": "abcdefabcdef"}, NATIVE))
    assert found is not None
    body = await whole(replayed(found, 1))
    first, last = [json.loads(event[6:]) for event in body.split(b"\n\n")[:-1]]
    assert first["job_id"] == last["job_id"] == last["request_id"] != "abcdefabcdef"


def test_pieces_end_with_events() -> None:
    body = events(*[chunk("x" * 100)] * 1000)
    parts = list(pieces(body))
    assert b"".join(parts) == body and len(parts) < len(body) / PIECE + 1
    assert all(part.endswith(b"\n\n") for part in parts)


def test_damaged_entries_are_none() -> None:
    value = bytearray(Entry("application/json", "", 0, b"{}").packed())
    assert unpacked(bytes(value)) is not None
    for at in range(len(value)):
        value[at] ^= 1
        assert unpacked(bytes(value)) is None
        value[at] ^= 1
    assert unpacked(b"") is None
