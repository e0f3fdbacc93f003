"""What is held of requests and answers is bounded, whoever sends them; and an answer cannot pass for the gateway's."""

from __future__ import annotations

import asyncio
import json

import pytest

from fastserve.gateway import call
from fastserve.gateway.cache import entry, stage
from fastserve.gateway.cache.canonical import asked
from fastserve.gateway.wire.endings import Events
from fastserve.routers.round_robin import RoundRobin
from fastserve.routers.view import ReplicaView
from fastserve.sched.job import Job
from tests.gateway.conftest import PROMPT, Request, live, odd, reply

pytestmark = pytest.mark.anyio
PIECES, PIECE = 64, 1 << 20
ANSWER = {"choices": [{"text": "x", "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}


class Endless:
    """An answer that goes on and on; sent: the pieces of it that somebody took."""

    def __init__(self, kind: bytes, piece: bytes) -> None:
        self.kind, self.piece = kind, piece
        self.sent = 0

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % self.kind)
        for _ in range(PIECES):
            writer.write(b"%x\r\n%b\r\n" % (len(self.piece), self.piece))
            await writer.drain()
            self.sent += 1
        writer.write(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/generate", PROMPT), ("/api/generate", {"model": "stub", "prompt": "x", "raw": True, "stream": False})],
)
async def test_an_answer_that_is_needed_whole_is_bounded(path: str, fields: object) -> None:
    endless = Endless(b"application/json", b"a" * PIECE)
    async with odd(endless) as upstream, live(upstream.url) as gateway:
        answer = await gateway.post(path, fields)
        assert answer.status_code == 502 and f"longer than {call.MOST_WHOLE:,}" in answer.text
        assert endless.sent < PIECES  # nobody read the rest
        await gateway.until(lambda: not gateway.gateway.running)


async def test_a_native_stream_that_never_ends_ends() -> None:
    event = json.dumps({"choices": [{"index": 0, "text": "a" * PIECE}]}).encode()
    endless = Endless(b"text/event-stream", b"data: %b\n\n" % event)
    async with odd(endless) as upstream, live(upstream.url) as gateway:
        answer = await gateway.post("/generate/stream")
        last = json.loads(answer.text.rstrip().rpartition("data: ")[2])
        assert last["finish_reason"] == "error" and "longer than" in last["error"]
        assert endless.sent < PIECES


async def test_a_cache_passes_on_what_it_does_not_keep() -> None:
    endless = Endless(b"application/json", b" " * PIECE)
    async with odd(endless) as upstream, live(upstream.url, cache="memory") as gateway:
        fields = {**PROMPT, "temperature": 0}
        async with gateway.client.stream("POST", "/v1/completions", json=fields) as answer:
            assert answer.headers["x-cache"] == "miss"
            taken = 0
            async for part in answer.aiter_raw():
                if not taken:  # it had not all been read before any of it came
                    assert endless.sent * PIECE <= stage.MOST_BYTES + 16 * PIECE
                taken += len(part)
        assert taken == PIECES * PIECE
        await gateway.until(lambda: not gateway.gateway.running)


async def test_a_name_of_a_client_takes_no_room() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 200, json.dumps(ANSWER).encode())

    async with odd(script) as upstream, live(upstream.url, requests_per_minute=100) as gateway:
        for user in ("a" * 100_000 + "1", "a" * 100_000 + "2", "short"):
            assert (await gateway.post("/v1/completions", {**PROMPT, "user": user})).status_code == 200
        clients = [each["client"] for each in gateway.gateway.choosing.shown(None)]
        assert clients[0] == "short" and len(set(clients)) == 3 and max(map(len, clients)) <= 256
        assert len((await gateway.client.get("/gateway/status")).content) < 50_000
        (window,) = gateway.gateway.limits.requests
        assert set(window.times) == set(clients)


async def test_an_answer_says_nothing_of_the_gateways_site() -> None:
    """A page of an upstream must not run as one of the gateway's, where a token may stand in the tab."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        lines = (
            b"clear-site-data: *", b"refresh: 0;url=http://elsewhere", b"x-upstream: another", b"x-cache: hit",
            b"content-security-policy: default-src *", b"x-frame-options: ALLOWALL",
        )  # fmt: skip
        head = b"HTTP/1.1 200 OK\r\ncontent-type: Text/HTML\r\n" + b"".join([each + b"\r\n" for each in lines])
        writer.write(head + b"content-length: 8\r\n\r\n<script>")

    async with odd(script) as upstream, live(upstream.url) as gateway:
        found = (await gateway.post("/v1/completions")).headers
        (only,) = gateway.gateway.upstreams
        assert found.get_list("x-upstream") == [only.name]
        assert found.get_list("content-security-policy") == ["default-src 'none'; sandbox"]
        assert found.get_list("x-frame-options") == ["DENY"]
        assert "clear-site-data" not in found and "refresh" not in found


async def test_a_status_that_is_none_is_an_error() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 999)

    async with odd(script) as upstream, live(upstream.url, max_retries=1) as gateway:
        answer = await gateway.post("/v1/completions")
        assert answer.status_code == 502 and "its status is 999" in answer.text


@pytest.mark.parametrize("stream", [1, 0, "true", "no"])
async def test_a_stream_that_is_neither_true_nor_false_is_not_kept(stream: object) -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 200, json.dumps(ANSWER).encode())

    async with odd(script) as upstream, live(upstream.url, cache="memory") as gateway:
        fields = {**PROMPT, "temperature": 0}
        assert (await gateway.post("/v1/completions", fields)).headers["x-cache"] == "miss"
        assert (await gateway.post("/v1/completions", {**fields, "stream": stream})).headers["x-cache"] == "bypass"
        assert (await gateway.post("/v1/completions", {**fields, "stream": False})).headers["x-cache"] == "hit"


@pytest.mark.parametrize("both", [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")])
def test_a_field_that_is_said_twice_is_not_kept(both: tuple[str, str]) -> None:
    fields = {"prompt": "a", "temperature": 0}
    assert asked("/v1/completions", {**fields, both[0]: 5, both[1]: 6}) is None
    assert asked("/v1/completions", {**fields, both[0]: 5, both[1]: 5}) == asked(
        "/v1/completions", {**fields, both[0]: 5}
    )
    assert asked("/v1/completions", {**fields, both[0]: 5, both[1]: None}) is not None


@pytest.mark.parametrize("how", ["mutate", "clear"])
async def test_a_router_that_changes_its_views_loses_no_request(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def route(self: RoundRobin, job: Job, views: list[ReplicaView]) -> int:
        if how == "clear":
            views.clear()
        views[0].replica = 99
        return 0

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 200, json.dumps(ANSWER).encode())

    monkeypatch.setattr(RoundRobin, "route", route)
    async with odd(script) as upstream, live(upstream.url, router="round-robin") as gateway:
        assert (await gateway.post("/v1/completions")).status_code == 200
        await gateway.until(lambda: not gateway.gateway.running)
        (only,) = gateway.gateway.upstreams
        assert only.outstanding == 0


def test_a_stream_with_an_error_in_it_is_not_kept() -> None:
    text = b'data: {"choices": [{"text": "\\"error\\"", "finish_reason": null}]}\n\n'
    end = b'data: {"choices": [{"text": "", "finish_reason": "stop"}], "error": null}\n\ndata: [DONE]\n\n'
    assert entry.streamed("text/event-stream", text + end) is not None
    assert entry.streamed("text/event-stream", text + b'data: {"error": {"message": "x"}}\n\n' + end) is None


def test_a_text_that_says_done_is_no_end() -> None:
    openai, raw = Events("openai", "1"), Events("raw", "1")
    openai.feed(b'data: {"choices": [{"text": "data: [DONE]"}]}\n\n')
    raw.feed(b"data: event: done\n\n")
    assert not openai.complete and not raw.complete
    openai.feed(b"data: [DONE]\n\n")
    raw.feed(b"event: done\ndata: \n\n")
    assert openai.complete and raw.complete
