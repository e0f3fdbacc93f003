"""Answers that are no streams, or end and split otherwise than most: told in words, at once, without the key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fastserve.backends.upstream.connection import Address
from fastserve.engine import Engine, Output, SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.launch import PLACEHOLDER, Body
from tests.backends.upstream.stub import Handler, Stub

KEY = "sesame-5a6b"
TOKENS = 20


@pytest.fixture
def stub() -> Iterator[Stub]:
    found = Stub("openai")
    yield found
    found.stop()


def answered(stub: Stub, raw: bytes) -> Output:
    """What comes of a request that is answered with these bytes, whatever they are."""

    def hook(handler: Handler, body: dict[str, Any], number: int) -> bool:
        handler.wfile.write(raw)
        handler.drop()
        return True

    stub.hook = hook
    body = Body("tiny", "upstream", upstream=stub.url, upstream_key=KEY, upstream_slots=2)
    with body.engine(EngineConfig.of({"policy": "fcfs"}), PLACEHOLDER) as engine:
        return engine.submit("once", SamplingParams(max_tokens=TOKENS)).result(60)


def head(kind: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()


def event(text: str, **more: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "text": text, **more}]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("kind", "said", "words"),
    [
        ("text/html", b"<html>please log in</html>", "please log in"),
        ("application/json", b'{"error": {"message": "it exploded"}}', "it exploded"),
        ("application/json", b'{"choices": [{"text": "all at once"}]}', "all at once"),
    ],
)
def test_what_is_no_stream_is_told_and_not_asked_for_again(kind: str, said: bytes, words: str, stub: Stub) -> None:
    output = answered(stub, head(kind) + said)
    assert output.finish_reason == "error" and len(stub.asked) == 1
    assert "what is no stream" in str(output.error) and words in str(output.error)


def test_done_is_an_end_where_no_other_is_told(stub: Stub) -> None:
    output = answered(stub, head("text/event-stream") + event("ab") + b"data: [DONE]\n\n")
    assert (output.text, output.finish_reason, len(stub.asked)) == ("ab", "stop", 1)


def test_a_character_that_two_events_share(stub: Stub) -> None:
    """In JSON one outside of the basic plane is two escapes; half of one says nothing."""
    halves = event("a\ud83d") + event("\ude00b") + event("\ude00c", finish_reason="stop")
    output = answered(stub, head("text/event-stream") + halves + b"data: [DONE]\n\n")
    assert (output.text, output.finish_reason) == ("a\U0001f600b\ufffdc", "stop")


def test_the_key_is_in_no_error_of_http_either(stub: Stub) -> None:
    output = answered(stub, f"Authorization: Bearer {KEY}\r\n\r\n".encode())
    assert output.finish_reason == "error"
    assert "***" in str(output.error) and KEY not in str(output.error)


def test_an_absurd_number_of_tokens_takes_no_memory() -> None:
    """Of one event a million million are told, of which no more are taken than were asked for."""
    with Stub("llama") as stub:

        def hook(handler: Handler, body: dict[str, Any], number: int) -> bool:
            line = {"content": "x", "stop": False, "tokens_predicted": 10**12}
            handler.wfile.write(head("text/event-stream") + b"data: " + json.dumps(line).encode() + b"\n\n")
            handler.drop()
            return True

        stub.hook = hook
        with Engine.from_pretrained("tiny", backend="upstream", upstream=stub.url, policy="fcfs") as engine:
            output = engine.submit("once", SamplingParams(max_tokens=TOKENS)).result(60)
        assert (output.finish_reason, len(output.token_ids), output.text) == ("length", TOKENS, "x")
        stub.stop()


@pytest.mark.parametrize("url", ["http://a b", "http://host:0", "http://ho\tst"])
def test_an_address_that_cannot_be(url: str) -> None:
    with pytest.raises(ValueError, match="no address of a server"):
        Address(url)
