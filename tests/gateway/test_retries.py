"""What is sent again, where, and what is not."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.gateway.conftest import Request, live, odd, reply

pytestmark = pytest.mark.anyio
FIRST = "./first.py:First"
OK = b'{"choices": [], "usage": {"completion_tokens": 3}}'


async def well(request: Request, writer: asyncio.StreamWriter) -> None:
    reply(writer, 200, OK)


def refusing(status: int, *headers: bytes):  # type: ignore[no-untyped-def]
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, status, b'{"error": {"message": "not now"}}', *headers)

    return script


async def closing(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resetting(request: Request, writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.close()


async def half_a_head(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-ty")
    await writer.drain()
    writer.close()


async def garbage(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff SSH-2.0 no\r\n\r\n")


NOT_RUN = {
    "502": refusing(502),
    "503": refusing(503),
    "503, Retry-After": refusing(503, b"retry-after: 5"),
    "429": refusing(429),
    "401": refusing(401),
    "307": refusing(307, b"location: http://elsewhere/"),
    "closed": closing,
    "reset": resetting,
    "half a head": half_a_head,
    "garbage": garbage,
}


@pytest.mark.parametrize("how", NOT_RUN)
async def test_what_was_not_run_goes_to_another_upstream(how: str) -> None:
    async with odd(NOT_RUN[how]) as bad, odd(well) as good, live(bad.url, good.url, router=FIRST) as gateway:
        answer = await gateway.post("/v1/completions")
        assert answer.status_code == 200 and answer.content == OK
        kept = how in ("closed", "reset")  # on a connection that was kept it is tried on a new one
        assert len(good.seen) == 1 <= len(bad.seen) <= 1 + kept
        first, second = gateway.gateway.upstreams
        assert first.counts.errors == 1 and first.counts.retries == 1 and second.counts.retries == 0
        assert first.outstanding == second.outstanding == 0
        assert second.counts.tokens == 3


@pytest.fixture(autouse=True)
def _first_router(tmp_path, monkeypatch):  # type: ignore[no-untyped-def]
    """A router that always takes the first one that it may."""
    (tmp_path / "first.py").write_text(
        "from fastserve.routers import Router\n"
        "class First(Router):\n    def route(self, job, views):\n        return 0\n"
    )


async def test_the_one_that_failed_rests_and_then_gets_requests_again() -> None:
    statuses = iter([503, 200, 200])

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, next(statuses), OK)

    async with (
        odd(script) as bad,
        odd(well) as good,
        live(bad.url, good.url, router=FIRST, cooldown=0.3, cooldown_most=0.4) as gateway,
    ):
        assert (await gateway.post("/v1/completions")).status_code == 200
        assert (await gateway.post("/v1/completions")).status_code == 200
        assert len(bad.seen) == 1 and len(good.seen) == 2  # it rests
        first = gateway.gateway.upstreams.find(bad.url.removeprefix("http://"))
        assert first.state == "healthy" and first.counts.cooldowns == 1
        await gateway.until(lambda: first.rests_until <= time.monotonic_ns())
        assert (await gateway.post("/v1/completions")).status_code == 200
        assert len(bad.seen) == 2


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500, 504])
async def test_what_was_run_or_is_wrong_is_not_sent_again(status: int) -> None:
    async with odd(refusing(status)) as bad, odd(well) as good, live(bad.url, good.url, router=FIRST) as gateway:
        assert (await gateway.post("/v1/completions")).status_code == status
        assert len(bad.seen) == 1 and not good.seen


async def test_after_the_first_byte_nothing_is_sent_again() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()

    async with odd(script) as bad, odd(well) as good, live(bad.url, good.url, router=FIRST) as gateway:
        answer = await gateway.post("/v1/completions")
        assert answer.status_code == 502 and "broke off" in answer.json()["error"]["message"]
        assert not good.seen


async def test_a_single_upstream_is_asked_again_after_a_pause() -> None:
    calls = 0

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        reply(writer, 200 if calls == 3 else 502, OK)

    async with odd(script) as upstream, live(upstream.url) as gateway:
        assert (await gateway.post("/v1/completions")).status_code == 200
        assert calls == 3


@pytest.mark.parametrize(("status", "header"), [(429, b"retry-after: 1"), (503, b"retry-after: 1"), (429, b"x: y")])
async def test_one_that_says_when_to_come_back_is_not_pressed(status: int, header: bytes) -> None:
    async with odd(refusing(status, header)) as upstream, live(upstream.url) as gateway:
        answer = await gateway.post("/v1/completions")
        assert answer.status_code == status and answer.json()["error"]["message"] == "not now"
        assert answer.headers.get("retry-after") == ("1" if b"retry" in header else None)
        assert len(upstream.seen) == 1


async def test_tries_are_bounded_and_the_last_answer_is_the_clients() -> None:
    async with odd(refusing(502)) as upstream, live(upstream.url, max_retries=2) as gateway:
        answer = await gateway.post("/v1/completions")
        assert answer.status_code == 502 and answer.json()["error"]["message"] == "not now"
        assert len(upstream.seen) == 3
    async with (
        odd(refusing(502)) as upstream,
        odd(well) as other,
        live(upstream.url, other.url, max_retries=0, router=FIRST) as gateway,
    ):
        assert (await gateway.post("/v1/completions")).status_code == 502


async def test_a_kept_connection_that_its_server_has_closed_costs_nothing() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 200, OK)
        await writer.drain()
        writer.close()  # without having said so

    async with odd(script) as upstream, live(upstream.url) as gateway:
        for _ in range(5):
            assert (await gateway.post("/v1/completions")).status_code == 200
        assert len(upstream.seen) == 5


async def test_one_that_is_closed_just_then_is_no_fault_of_its_server() -> None:
    """Of two requests on a connection the second is not answered: the server has closed it, idle, at that moment."""
    lives: dict[asyncio.StreamWriter, int] = {}

    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        lives[writer] = lives.get(writer, 0) + 1
        if lives[writer] == 2:
            writer.close()
        else:
            reply(writer, 200, OK)

    async with odd(script) as upstream, live(upstream.url, max_retries=0) as gateway:
        for _ in range(4):
            assert (await gateway.post("/v1/completions")).status_code == 200
        (only,) = gateway.gateway.upstreams
        assert only.counts.errors == only.counts.cooldowns == 0


async def test_a_request_that_is_sent_again_is_still_on_its_way() -> None:
    """So a drain waits for it, and its memory counts."""
    hangs = asyncio.Event()

    async def second(request: Request, writer: asyncio.StreamWriter) -> None:
        await hangs.wait()
        reply(writer, 200, OK)

    async with odd(closing) as bad, odd(second) as good, live(bad.url, good.url, router=FIRST) as gateway:
        asking = asyncio.ensure_future(gateway.post("/v1/completions"))
        await gateway.until(lambda: len(good.seen) == 1)
        assert gateway.gateway.load == 1 and gateway.gateway.held > 0
        hangs.set()
        assert (await asking).status_code == 200
        assert gateway.gateway.load == 0 and gateway.gateway.held == 0


async def test_keys_that_are_refused_are_not_the_clients_business(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        odd(refusing(401, b"www-authenticate: Bearer")) as upstream,
        live(upstream.url, upstream_key="sk-hush-hush", max_retries=0) as gateway,
    ):
        answer = await gateway.post("/v1/completions")
        assert answer.status_code == 502 and "refuses this gateway" in answer.json()["error"]["message"]
        assert "www-authenticate" not in answer.headers
        assert "refuses the gateway's key" in caplog.text and "hush" not in caplog.text
        assert upstream.seen[0].headers["authorization"] == "Bearer sk-hush-hush"


async def test_nobody_is_up() -> None:
    async with odd(well) as upstream:
        url = upstream.url
    async with live(f"{url},model=stub") as gateway:
        answer = await gateway.post("/v1/completions")
        assert answer.status_code == 503 and "failing" in answer.json()["error"]["message"]
        assert "retry-after" in answer.headers
        assert (await gateway.client.get("/health")).status_code == 503
        assert (await gateway.client.get("/health/ready")).status_code == 503
        assert (await gateway.client.get("/ping")).status_code == 200


async def test_without_any_upstream_it_says_how_to_get_one() -> None:
    async with live() as gateway:
        answer = await gateway.post("/v1/completions", {"prompt": "Hi"})
        assert answer.status_code == 503 and "--upstream URL" in answer.text
        assert (await gateway.post("/v1/completions")).status_code == 404


async def test_a_router_that_breaks_is_told_once_and_requests_go_on(tmp_path, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "broken.py").write_text(
        "from fastserve.routers import Router\n"
        "class Broken(Router):\n"
        "    def route(self, job, views):\n        raise KeyError('oh')\n"
        "    def sent(self, job, replica, now):\n        1 / 0\n"
    )
    async with odd(well) as one, odd(well) as two, live(one.url, two.url, router="./broken.py:Broken") as gateway:
        for _ in range(4):
            assert (await gateway.post("/v1/completions")).status_code == 200
        assert len(one.seen) + len(two.seen) == 4
    told = [record for record in caplog.records if "Broken" in record.getMessage()]
    assert len(told) == 2  # route() and sent()
