"""There and back: what is passed on, byte for byte, and what is not."""

from __future__ import annotations

import asyncio
import json

import pytest

from fastserve.bench.stub import Behaviour
from tests.gateway.conftest import CHAT, PROMPT, Request, live, odd, reply, stub

pytestmark = pytest.mark.anyio

ODD_BODY = b'{ "model":"stub",\n "prompt" : "gr\xc3\xbcn", "seed": 1.50, "x": [1,2 ,3]}'


async def test_a_body_and_its_answer_are_passed_byte_for_byte() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 200, b'{"choices" : [ ] }\n', b"x-odd: 1")

    async with odd(script) as upstream, live(upstream.url) as gateway:
        answer = await gateway.client.post(
            "/v1/completions", content=ODD_BODY, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 200 and answer.content == b'{"choices" : [ ] }\n'
        assert answer.headers["x-odd"] == "1"
        assert upstream.seen[0].body == ODD_BODY and upstream.seen[0].path == "/v1/completions"


@pytest.mark.parametrize("cuts", [1, 7, 64])
async def test_a_stream_is_passed_byte_for_byte_however_it_is_cut(cuts: int) -> None:
    events = b"".join(b'data: {"n": %d, "t": "\xc3\xbc"}\n\n' % n for n in range(9)) + b": wait\n\ndata: [DONE]\n\n"

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for start in range(0, len(events), cuts):
            part = events[start : start + cuts]
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    async with odd(script) as upstream, live(upstream.url) as gateway:
        answer = await gateway.post("/v1/chat/completions", {**CHAT, "stream": True})
        assert answer.content == events
        assert answer.headers["content-type"] == "text/event-stream"


async def test_each_event_comes_at_once() -> None:
    """The upstream sends the next event only once the client has the one before."""
    go_on = asyncio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(5):
            writer.write(b"b\r\ndata: {%d}\n\n\r\n" % number)
            await writer.drain()
            await go_on.wait()
            go_on.clear()
        writer.write(b"0\r\n\r\n")

    async with odd(script) as upstream, live(upstream.url) as gateway, asyncio.timeout(10):
        async with gateway.client.stream("POST", "/v1/completions", json={**PROMPT, "stream": True}) as answer:
            got = 0
            async for part in answer.aiter_raw():
                assert part == b"data: {%d}\n\n" % got
                got += 1
                go_on.set()
        assert got == 5


async def test_headers_of_one_connection_and_of_pages_stay_here() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(
            writer, 200, b"{}", b"keep-alive: timeout=5", b"connection: keep-alive, x-hop", b"x-hop: 1", b"x-far: 1",
            b"set-cookie: a=b", b"access-control-allow-origin: *", b"server: odd",
        )  # fmt: skip

    async with odd(script) as upstream, live(upstream.url) as gateway:
        answer = await gateway.post(
            "/v1/completions",
            headers={
                "x-session-id": "s1", "te": "trailers", "connection": "keep-alive, x-gone", "x-gone": "1",
                "cookie": "a=b", "x-forwarded-for": "1.2.3.4", "x-api-key": "mine", "authorization": "Bearer mine",
                "x-request-id": "abc-1",
            },
        )  # fmt: skip
        sent = upstream.seen[0].headers
        assert sent["x-session-id"] == "s1" and sent["x-request-id"] == "abc-1"
        assert sent["accept-encoding"] == "identity"
        gone = {"te", "x-gone", "cookie", "x-forwarded-for", "x-api-key", "authorization", "origin", "keep-alive"}
        assert not gone & set(sent)
        assert b"mine" not in upstream.seen[0].raw
        assert answer.headers["x-far"] == "1" and answer.headers["x-request-id"] == "abc-1"
        assert not {"x-hop", "set-cookie", "keep-alive", "access-control-allow-origin"} & set(answer.headers)
        assert answer.headers.get_list("server") == ["uvicorn"]


async def test_errors_of_an_upstream_are_the_clients() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        body = json.dumps({"error": {"message": "too long", "type": "BadRequestError"}}).encode()
        reply(writer, json.loads(request.body)["seed"], body, b"retry-after: 7")

    async with odd(script) as upstream, live(upstream.url) as gateway:
        for status in (400, 404, 409, 413, 429, 500, 504):
            answer = await gateway.post("/v1/completions", {**PROMPT, "seed": status})
            assert answer.status_code == status and answer.json()["error"]["message"] == "too long"
            assert answer.headers["retry-after"] == "7"
        assert len(upstream.seen) == 7  # none was sent twice


async def test_models_by_name_and_one_that_nobody_has() -> None:
    async with stub() as (url, first), odd(_nothing, model="other") as second, live(url, second.url) as gateway:
        listed = (await gateway.client.get("/v1/models")).json()
        assert [card["id"] for card in listed["data"]] == ["stub", "other"]
        assert (await gateway.client.get("/models")).json()["default_model"] == "stub"
        assert (await gateway.client.get("/v1/models/other")).json()["id"] == "other"
        for _ in range(3):
            assert (await gateway.post("/v1/completions", {**PROMPT, "stream": True})).status_code == 200
        assert len(first.seen) == 3 and not second.seen
        answer = await gateway.post("/v1/completions", {**PROMPT, "model": "nobody's"})
        assert answer.status_code == 404
        error = answer.json()["error"]
        assert error["type"] == "NotFoundError" and "other, stub" in error["message"]
        native = await gateway.post("/generate", {**PROMPT, "model": "x"})
        assert native.status_code == 404 and "other, stub" in native.json()["detail"]


async def test_a_request_without_a_model_goes_to_the_default_one() -> None:
    async with odd(_nothing) as upstream, live(upstream.url) as gateway:
        fields = {name: value for name, value in PROMPT.items() if name != "model"}
        assert (await gateway.post("/v1/completions", fields)).status_code == 200
        assert json.loads(upstream.seen[0].body)["model"] == "stub"


async def test_a_client_that_leaves_ends_its_request_upstream() -> None:
    began = asyncio.Event()

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        began.set()
        if json.loads(request.body).get("stream"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b"b\r\ndata: {1}\n\n\r\n")

    async with odd(script) as upstream, live(upstream.url) as gateway:
        for stream in (False, True):
            began.clear()
            left = upstream.left
            asking = asyncio.ensure_future(gateway.post("/v1/completions", {**PROMPT, "stream": stream}))
            await began.wait()
            if stream:
                await asyncio.sleep(0.05)
            asking.cancel()
            await gateway.until(lambda left=left: upstream.left > left)  # type: ignore[misc]
            await gateway.until(lambda: gateway.gateway.load == 0)
        (only,) = gateway.gateway.upstreams
        assert only.outstanding == only.outstanding_tokens == 0


async def test_bodies_are_refused_as_servers_refuse_them() -> None:
    async with stub() as (url, upstream), live(url, max_body_mib=0.1, max_body_items=64) as gateway:
        json_type = {"content-type": "application/json"}
        post = gateway.client.post
        assert (await post("/v1/completions", content=b"{", headers=json_type)).status_code == 400
        assert (await post("/generate", content=b"{", headers=json_type)).status_code == 422
        assert (await post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"})).status_code == 400
        assert (await post("/v1/completions", content=b" " * 200_000, headers=json_type)).status_code == 413
        many = json.dumps({"model": "stub", "prompt": ["a"] * 100}).encode()
        assert (await post("/v1/completions", content=many, headers=json_type)).status_code == 400
        deep = b'{"model":"stub","prompt":' + b"[" * 600 + b"]" * 600 + b"}"
        assert (await post("/v1/completions", content=deep, headers=json_type)).status_code == 400
        assert (await post("/v1/completions", json={"model": 5})).status_code == 400
        assert not upstream.seen


async def test_pages_of_other_origins_may_not_use_it() -> None:
    async with stub() as (url, upstream), live(url) as gateway:
        for headers in ({"origin": "http://elsewhere"}, {"host": "rebound.example"}):
            assert (await gateway.post("/v1/completions", headers=headers)).status_code == 403
        assert not upstream.seen


async def test_two_hundred_clients_at_once() -> None:
    async with (
        stub(Behaviour(ttft=0.2, tpot=0.001)) as (first, one),
        stub(Behaviour(ttft=0.2, tpot=0.001)) as (second, two),
        live(first, second) as gateway,
    ):
        asking = [gateway.post("/v1/completions", {**PROMPT, "stream": True}) for _ in range(200)]
        answers = await asyncio.gather(*asking)
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.text.endswith("data: [DONE]\n\n") and answer.text.count("data:") == 5 for answer in answers)
        assert len(one.seen) == len(two.seen) == 100  # least-connections, all at once


async def test_requests_on_their_way_take_so_much_memory_and_no_more() -> None:
    async with stub(Behaviour(hangs=True)) as (url, upstream), live(url, keep_mib=0.25) as gateway:
        big = {**PROMPT, "prompt": "x" * 20_000}
        asking = [asyncio.ensure_future(gateway.post("/v1/completions", big)) for _ in range(3)]
        await gateway.until(lambda: len(upstream.seen) == 3)
        refused = await gateway.post("/v1/completions", big)
        assert refused.status_code == 503 and "keep_mib" in refused.text and "retry-after" in refused.headers
        assert (await gateway.client.get("/ping")).status_code == 200
        for task in asking:
            task.cancel()
        await gateway.until(lambda: gateway.gateway.load == 0)
        assert gateway.gateway.held == 0 and not gateway.gateway.weights


async def _nothing(request: Request, writer: asyncio.StreamWriter) -> None:
    reply(writer, 200, b'{"choices": []}')
