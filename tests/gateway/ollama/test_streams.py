"""Streams of Ollama's routes through a gateway: each piece as it comes, an end that is told, a client that leaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

import httpx

from fastserve.bench.stub import Behaviour, Stub, address
from fastserve.gateway import Gateway
from fastserve.gateway.ollama.answers import Answer, Lines
from fastserve.gateway.ollama.part import _lines as translated
from tests.gateway.live import PATIENCE, before_stub, client_of, on_socket, stub_of

pytestmark = pytest.mark.anyio
ASKED = {"model": "stub", "messages": [{"role": "user", "content": "x"}], "options": {"num_predict": 4}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("session", [{}, {"session_id": "s"}], ids=("plain", "conversation"))
async def test_each_piece_comes_at_once(session: dict[str, str]) -> None:
    stub = Stub(lambda number, body: Behaviour(tpot=0.5))
    with stub_of(stub) as upstream, on_socket(Gateway(upstream=[upstream]).app) as url:
        async with (
            httpx.AsyncClient(timeout=PATIENCE) as client,
            client.stream("POST", f"{url}/api/chat", json=ASKED | session) as answer,
        ):
            times = [(time.monotonic(), json.loads(line)["done"]) async for line in answer.aiter_lines()]
    assert [done for _, done in times] == [False, False, False, False, True]
    assert times[3][0] - times[0][0] > 0.3, "a buffer on the way would give all at the end"


@pytest.mark.parametrize(
    ("how", "words"),
    [(Behaviour(breaks_after=2), "broke off"), (Behaviour(error_after=2), "the stub fails here")],
    ids=("breaks", "error"),
)
async def test_a_stream_that_breaks_ends_with_an_error(how: Behaviour, words: str) -> None:
    async with before_stub(lambda number, body: how) as (client, _):
        lines = [json.loads(line) for line in (await client.post("/api/chat", json=ASKED)).text.splitlines()]
        assert words in lines[-1]["error"] and not any(line.get("done") for line in lines)
        assert [line["message"]["content"] for line in lines[:-1]] == ["x", "x"]


async def test_a_client_that_leaves_is_not_answered_on() -> None:
    stub = Stub(lambda number, body: Behaviour(tpot=0.05, tokens=10_000))
    with stub_of(stub) as upstream, on_socket(Gateway(upstream=[upstream]).app) as url:
        async with (
            httpx.AsyncClient(timeout=PATIENCE) as client,
            client.stream("POST", f"{url}/api/chat", json=ASKED) as answer,
        ):
            await anext(answer.aiter_lines())
        until = time.monotonic() + PATIENCE
        while (await _status(url))["in_flight"]:
            assert time.monotonic() < until, "the upstream still works on it"
            await asyncio.sleep(0.02)
        assert stub.seen[0].left


async def _status(url: str) -> Any:
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        return (await client.get(f"{url}/gateway/status")).json()


async def test_an_upstream_that_is_ollama_says_itself_what_it_knows_of_a_model() -> None:
    class Ollama(Stub):
        def _look(self, path: str) -> tuple[int, Any]:
            answers = {
                "/api/version": {"version": "0.9"},
                "/api/tags": {"models": [{"name": "llama3:latest", "model": "llama3:latest"}]},
                "/v1/models": {"object": "list", "data": [{"id": "llama3:latest", "owned_by": "library"}]},
                "/api/show": {"template": "{{ .Prompt }}", "details": {"family": "llama"}, "model_info": {"a": 1}},
            }
            return (200, answers[path]) if path in answers else (404, {"error": "no such route"})

    async with await Ollama().start() as server, client_of(Gateway(upstream=[address(server)])) as client:
        assert (await _kind(client)) == "ollama"
        shown = (await client.post("/api/show", json={"model": "llama3"})).json()
        assert shown["template"] == "{{ .Prompt }}" and shown["details"]["family"] == "llama"
        tags = (await client.get("/api/tags")).json()["models"]
        assert [each["name"] for each in tags] == ["llama3:latest"]


async def _kind(client: httpx.AsyncClient) -> str:
    found: str = (await client.get("/gateway/status")).json()["upstreams"][0]["kind"]
    return found


async def test_calls_of_tools_without_an_end_are_an_error_and_the_upstream_is_left() -> None:
    piece = {"index": 0, "function": {"arguments": "x" * (1 << 20)}}
    event = b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]}).encode() + b"\n\n"
    sent = 0
    left = False

    async def parts() -> AsyncIterator[bytes]:
        nonlocal sent, left
        try:
            while sent < 100:
                sent += 1
                yield event
        finally:
            left = True

    lines = [json.loads(line) async for line in translated(parts(), Lines(Answer("m", True)))]
    assert [list(line) for line in lines] == [["error"]] and "longer than 16,777,216 characters" in lines[0]["error"]
    assert left and sent == 16
