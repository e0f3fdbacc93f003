"""Upstreams that die, crawl, babble or never end: the client gets a clear end, the gateway stays within its bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import psutil
import pytest

from fastserve.gateway.wire import endings, exchange, watch
from tests.gateway.conftest import CHAT, PROMPT, Request, live, odd, reply

pytestmark = pytest.mark.anyio
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
MIB = 1 << 20


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def dying(*parts: bytes) -> Any:
    """Sends these and closes the connection in the middle of its answer."""

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for part in parts:
            writer.write(chunk(part))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()

    return script


def events_of(text: str) -> list[Any]:
    """The data of events; each must be JSON, or [DONE]."""
    data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in data]


async def test_a_chat_that_breaks_off_ends_with_an_error_and_done() -> None:
    async with odd(dying(b'data: {"n":1}\n\n', b'data: {"n":2}\n\n')) as upstream, live(upstream.url) as gateway:
        answer = await gateway.post("/v1/chat/completions", {**CHAT, "stream": True})
        first, second, error, done = events_of(answer.text)
        assert (first, second, done) == ({"n": 1}, {"n": 2}, "[DONE]")
        assert error["error"]["code"] == 502 and "broke off" in error["error"]["message"]
        assert len(upstream.seen) == 1  # some of its answer had come
        (only,) = gateway.gateway.upstreams
        assert only.counts.errors == 1 and only.outstanding == 0


async def test_one_whose_streams_break_off_rests_once_and_is_checked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both = asyncio.Barrier(3)

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk(b'data: {"n":1}\n\n'))
        await both.wait()
        writer.close()

    async with (
        odd(script) as upstream,
        live(upstream.url, health_interval=600, cooldown=60, cooldown_most=60) as gateway,
    ):
        (only,) = gateway.gateway.upstreams
        checked = asyncio.Event()
        monkeypatch.setattr(upstream, "_look", lambda path, writer: (checked.set(), reply(writer, 200)))
        await asyncio.gather(*[gateway.post("/v1/chat/completions", {**CHAT, "stream": True}) for _ in range(3)])
        last = gateway.gateway.choosing.shown(None)
        assert [(each["broken"], each["failed"]) for each in last] == [(True, False)] * 3
        assert only.counts.cooldowns == 1 and only.failures == 1 and only.rests_until > time.monotonic_ns()
        await asyncio.wait_for(checked.wait(), 5)


async def test_the_error_stands_between_events_where_one_was_cut_in_half() -> None:
    script = dying(b'data: {"n":1}\n\ndata: {"n"', b": 2", b"}\n")
    async with odd(script) as upstream, live(upstream.url) as gateway:
        answer = await gateway.post("/v1/completions", {**PROMPT, "stream": True})
        first, error, done = events_of(answer.text)
        assert first == {"n": 1} and "error" in error and done == "[DONE]"


async def test_native_streams_end_with_a_final_event() -> None:
    script = dying(b'data: {"text":"a","is_final":false}\n\n')
    async with odd(script, owned_by="fastserve") as upstream, live(upstream.url) as gateway:
        answer = await gateway.post("/generate/stream")
        first, last = events_of(answer.text)
        assert first["text"] == "a" and last["is_final"] is True and last["finish_reason"] == "error"
        assert "broke off" in last["error"]
        raw = await gateway.post("/v1/generate")
        assert "event: error\ndata: upstream" in raw.text and raw.text.endswith("event: done\ndata: \n\n")


async def test_a_stream_without_framing_that_ends_early_is_an_error_too() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(b'data: {"n":1}\n\n' + (b"data: [DONE]\n\n" if json.loads(request.body).get("seed") else b""))
        await writer.drain()
        writer.close()

    async with odd(script) as upstream, live(upstream.url) as gateway:
        broken = await gateway.post("/v1/completions", {**PROMPT, "stream": True})
        assert "error" in events_of(broken.text)[1]
        well = await gateway.post("/v1/completions", {**PROMPT, "stream": True, "seed": 1})
        assert events_of(well.text) == [{"n": 1}, "[DONE]"]


async def test_headers_without_end_and_slow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "HEAD_S", 0.3)
    monkeypatch.setattr(watch, "TICK_S", 0.05)

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        kind = json.loads(request.body)["seed"]
        writer.write(b"HTTP/1.1 200 OK\r\n")
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write({0: b"x: y\r\n" * 1000, 1: b"x" * 6000, 2: b"x"}[kind])
                await writer.drain()
                await asyncio.sleep(0.02 if kind == 2 else 0)

    async with odd(script) as upstream, live(upstream.url, max_retries=0) as gateway:
        for kind, said in ((0, "headers of more than"), (1, "headers of more than"), (2, "did not come within")):
            async with asyncio.timeout(10):
                answer = await gateway.post("/v1/completions", {**PROMPT, "seed": kind})
            assert answer.status_code == 502 and said in answer.json()["error"]["message"], kind


async def test_trailers_without_end() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk(b'data: {"n":1}\n\n') + b"0\r\n")
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(b"x" * 6000)
                await writer.drain()

    async with odd(script) as upstream, live(upstream.url) as gateway, asyncio.timeout(10):
        answer = await gateway.post("/v1/completions", {**PROMPT, "stream": True})
        assert "error" in events_of(answer.text)[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_silence_has_an_end(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "TICK_S", 0.05)

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        if stream:
            writer.write(STREAM + chunk(b'data: {"n":1}\n\n'))

    async with odd(script) as upstream, live(upstream.url, silence_timeout=0.3) as gateway, asyncio.timeout(10):
        answer = await gateway.post("/v1/completions", {**PROMPT, "stream": stream})
        if stream:
            assert "said nothing" in events_of(answer.text)[1]["error"]["message"]
        else:
            assert answer.status_code == 504 and "said nothing" in answer.json()["error"]["message"]
        assert len(upstream.seen) == 1
        await gateway.until(lambda: upstream.left == 1)


async def test_what_never_ends_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "TICK_S", 0.05)

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        with contextlib.suppress(OSError):
            while not writer.is_closing():
                writer.write(chunk(b'data: {"n":1}\n\n'))
                await writer.drain()
                await asyncio.sleep(0.01)

    async with odd(script) as upstream, live(upstream.url, request_timeout=0.5) as gateway, asyncio.timeout(10):
        answer = await gateway.post("/v1/completions", {**PROMPT, "stream": True})
        *_, error, done = events_of(answer.text)
        assert "request-timeout" in error["error"]["message"] and done == "[DONE]"


async def test_a_redirect_is_not_followed_and_not_passed_on() -> None:
    async def target(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 200)

    async with odd(target) as elsewhere:

        async def script(request: Request, writer: asyncio.StreamWriter) -> None:
            reply(writer, 307, b"{}", b"location: " + elsewhere.url.encode() + b"/v1/completions")

        async with odd(script) as upstream, live(upstream.url, max_retries=0) as gateway:
            answer = await gateway.post("/v1/completions")
            assert answer.status_code == 502 and "redirects" in answer.json()["error"]["message"]
            assert "location" not in answer.headers and not elsewhere.seen


@pytest.mark.parametrize("kind", [b"text/event-stream", b"application/json"])
async def test_a_client_that_reads_slowly_does_not_fill_the_memory(kind: bytes) -> None:
    """The upstream has a gigabyte to say; what has left it is what the client has read and some buffers."""
    sent = 0

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ntransfer-encoding: chunked\r\n\r\n")
        event = chunk(b"data: " + b"x" * (64 << 10) + b"\n\n")
        with contextlib.suppress(OSError):
            while sent < 1 << 30 and not writer.is_closing():
                writer.write(event)
                sent += len(event)
                await writer.drain()

    process = psutil.Process()
    async with odd(script) as upstream, live(upstream.url) as gateway:
        before = process.memory_info().rss
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 16)
        body = json.dumps({**PROMPT, "stream": True}).encode()
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        read = 0
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            read += len(await reader.read(1 << 16))
            await asyncio.sleep(0.05)
        assert read > 0 and sent < read + 40 * MIB  # the kernel's buffers on two connections, and ours
        stood = sent
        await asyncio.sleep(0.3)
        assert sent == stood  # nobody reads, so nothing more comes
        assert process.memory_info().rss - before < 64 * MIB
        writer.transport.abort()
        await gateway.until(lambda: upstream.left == 1)


async def test_an_event_without_end_is_passed_on_as_it_comes() -> None:
    size = 4 * endings.LONGEST

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for _ in range(16):
            writer.write(chunk(b"x" * (size // 16)))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with odd(script) as upstream, live(upstream.url) as gateway:
        answer = await gateway.post("/v1/completions", {**PROMPT, "stream": True})
        assert len(answer.content) == size


async def test_a_long_answer_is_passed_whole_and_one_that_breaks_off_is_cut() -> None:
    size = 5 * MIB

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % size)
        whole = json.loads(request.body).get("seed") == 1
        for _ in range(5 if whole else 3):
            writer.write(b"x" * MIB)
            await writer.drain()
        if not whole:
            writer.close()

    async with odd(script) as upstream, live(upstream.url) as gateway:
        assert len((await gateway.post("/v1/completions", {**PROMPT, "seed": 1})).content) == size
        with pytest.raises(Exception, match=r"incomplete|closed"):
            await gateway.post("/v1/completions", {**PROMPT, "seed": 2})


async def test_health_and_model_lists_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 200)

    cards: list[Any] = [
        {"id": 5},
        {"id": "x" * 10_000},
        "no card",
        {"id": "m"},
        *({"id": f"m{n}"} for n in range(5000)),
    ]
    listed = {"/v1/models": {"object": "list", "data": cards}}
    async with odd(nothing, gets=listed) as upstream, live(upstream.url) as gateway:
        (only,) = gateway.gateway.upstreams
        assert only.state == "healthy" and only.models[0] == "m" and len(only.models) < 5000
    odd_ones: list[Any] = [{}, {"data": {}}, [1], "x", None, {"data": [{"owned_by": []}]}]
    for body in odd_ones:
        async with odd(nothing, gets={"/v1/models": body}) as upstream, live(upstream.url) as gateway:
            (only,) = gateway.gateway.upstreams
            assert only.state in ("failing", "healthy")
            assert (await gateway.post("/v1/completions")).status_code in (404, 503)


def test_bounds_are_what_the_page_says() -> None:
    assert exchange.HEAD_BYTES == 64 << 10 and exchange.HEAD_S == 10
