"""What a validation endpoint may say, and what it costs that it says nothing, too much, or something else."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from fastserve.server.config.settings import FastServeConfig
from fastserve.server.http import introspection
from tests.server.conftest import Client, Serve

pytestmark = pytest.mark.anyio


class Endpoint:
    """says(token) -> (status, headers, body). asked: the tokens, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.says: Callable[[str], tuple[int, dict[str, str], bytes]] = lambda token: claims(active=True)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                token = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["token"][0]
                outer.asked.append(token)
                status, headers, body = outer.says(token)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):  # the server has read enough
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # five by default, and the others may be reset

        self.server = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/introspect"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()
    yield found
    found.server.shutdown()
    found.server.server_close()


def claims(**fields: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(fields).encode()


async def asks(client: Client, token: str = "t") -> httpx.Response:
    return await client.get("/stats", headers={"Authorization": f"Bearer {token}"})


ODD: dict[str, tuple[int, dict[str, str], bytes]] = {
    "no JSON": (200, {}, b"<html>sign in</html>"),
    "nothing": (200, {}, b""),
    "no text": (200, {}, b"\xff\xfe\x00"),
    "a list": (200, {}, b'[{"active": true}]'),
    "a number": (200, {}, b"1"),
    "null": (200, {}, b"null"),
    "too deep": (200, {}, b"[" * 60_000),
    "too large": (200, {}, b'{"active": true, "x": "' + b"x" * (1 << 20) + b'"}'),
    "a bomb": (200, {"Content-Encoding": "gzip"}, gzip.compress(b'{"active": true' + b" " * (64 << 20) + b"}")),
    "digits": (200, {}, b'{"active": true, "exp": ' + b"9" * 5000 + b"}"),
    "500": (500, {}, b'{"active": true}'),
    "401": (401, {}, b'{"active": true}'),
    "404": (404, {}, b""),
    "204": (204, {}, b""),
    "201": (201, {}, b'{"active": true}'),
    "301": (301, {"Location": "http://127.0.0.1:9/"}, b""),
    "307 to itself": (307, {"Location": "/introspect"}, b'{"active": true}'),
    "no active": claims(client_id="eve"),
    "active null": claims(active=None),
    "active text": claims(active="true"),
    "active 1": claims(active=1),
    "scope number": claims(active=True, scope=5),
    "scope mapping": claims(active=True, scope={"generate": True}),
    "scopes true": claims(active=True, scopes=True),
    "client list": claims(active=True, client_id=["a"]),
    "client number": claims(active=True, client_id=7),
    "sub mapping": claims(active=True, sub={"id": 1}),
    "client long": claims(active=True, client_id="x" * 10_000),
    "exp text": claims(active=True, exp="tomorrow"),
    "exp true": claims(active=True, exp=True),
}


@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_answer_is_503(serve: Serve, endpoint: Endpoint, odd: str) -> None:
    async with serve(token_validation_url=endpoint.url) as client:
        endpoint.says = lambda token: ODD[odd]
        answer = await asks(client)
        assert answer.status_code == 503 and "cannot be checked now" in answer.json()["detail"], answer.text
        assert int(answer.headers["retry-after"]) >= 1 and len(endpoint.asked) == 1
        endpoint.says = lambda token: claims(active=True)
        assert (await asks(client)).status_code == 200, "it is not remembered"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"active": False, "scope": 5}, 503),
        ({"active": False}, 401),
        ({"active": True, "exp": 1}, 401),
        ({"active": True, "exp": -(10**400)}, 401),
        ({"active": True, "exp": 10**400}, 200),
        ({"active": True, "exp": 4e9, "scope": None, "client_id": None, "sub": "a\nb"}, 200),
        ({"active": True, "exp": float("nan")}, 401),
    ],
)
async def test_what_it_may_say(serve: Serve, endpoint: Endpoint, said: dict[str, Any], status: int) -> None:
    endpoint.says = lambda token: claims(**said)
    async with serve(token_validation_url=endpoint.url) as client:
        assert (await asks(client)).status_code == (401 if said.get("scope") == 5 else status)


class Trickle:
    """Accepts and says a byte at a time, or nothing at all."""

    def __init__(self, start: bytes, more: bytes) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.start, self.more = start, more
        self.ended = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while not self.ended.is_set():
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.speak, args=(peer,), daemon=True).start()

    def speak(self, peer: socket.socket) -> None:
        with peer:
            try:
                peer.sendall(self.start)
                while not self.ended.wait(0.02):
                    peer.sendall(self.more)
            except OSError:
                pass


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("start", "more"),
    [(b"", b""), (HEAD, b"X-A: b\r\n"), (HEAD + b"Content-Length: 5000\r\n\r\n", b" "), (HEAD + b"\r\n{", b" ")],
)
async def test_the_whole_exchange_is_bounded(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, start: bytes, more: bytes
) -> None:
    """Each byte comes in time, all of them never do."""
    monkeypatch.setattr(introspection, "EXCHANGE_S", 0.3)
    slow = Trickle(start, more)
    try:
        async with serve(token_validation_url=slow.url) as client:
            began = time.monotonic()
            answer = await asks(client)
            assert answer.status_code == 503 and "TimeoutError" in answer.text
            assert time.monotonic() - began < 20
    finally:
        slow.ended.set()
        slow.listener.close()


async def test_many_unknown_tokens_wait_for_few_exchanges(
    serve: Serve, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(introspection, "EXCHANGE_S", 60.0)
    gate, most = threading.Event(), introspection.AT_ONCE

    def says(token: str) -> tuple[int, dict[str, str], bytes]:
        gate.wait(20)
        return claims(active=False)

    endpoint.says = says
    async with serve(token_validation_url=endpoint.url) as client:
        sent = asyncio.gather(*[asks(client, f"t{index}") for index in range(2 * most)])
        while len(endpoint.asked) < most:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(endpoint.asked) == most, "the others wait for their turn"
        assert (await client.get("/ping")).status_code == 200
        gate.set()
        assert {answer.status_code for answer in await sent} == {401} and len(endpoint.asked) == 2 * most


async def test_one_token_is_asked_about_once(serve: Serve, endpoint: Endpoint) -> None:
    async with serve(token_validation_url=endpoint.url) as client:
        for active, status in ((True, 200), (False, 401)):
            endpoint.says = lambda token, active=active: claims(active=active)  # type: ignore[misc]
            answers = await asyncio.gather(*[asks(client, f"token-{active}") for _ in range(20)])
            assert {answer.status_code for answer in answers} == {status}
            assert (await asks(client, f"token-{active}")).status_code == status
        assert endpoint.asked == ["token-True", "token-False"]


async def test_refusals_are_kept_for_a_short_while_and_not_without_bound(
    serve: Serve, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(introspection, "CACHE_SIZE", 5)
    async with serve(token_validation_url=endpoint.url, required_scopes="generate") as client:
        endpoint.says = lambda token: claims(active=True, scope="generate read" if token == "good" else "read")
        assert (await asks(client, "good")).status_code == 200
        for index in range(20):
            assert (await asks(client, f"weak{index}")).status_code == 403
        assert (await asks(client, "weak19")).status_code == 403 and (await asks(client, "good")).status_code == 200
        assert len(endpoint.asked) == 21, "refusals push out no other token"
        kept = client.service.auth.introspection.kept
        assert [len(found) for found in kept.values()] == [1, 5]
        monkeypatch.setattr(introspection.time, "monotonic", lambda clock=time.monotonic: clock() + 10)
        endpoint.says = lambda token: claims(active=True, scope=["generate"])
        assert (await asks(client, "weak19")).status_code == 200, "it may have become good"
        assert len(endpoint.asked) == 22


async def test_an_answer_is_not_kept_beyond_the_end_of_its_token(
    serve: Serve, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.says = lambda token: claims(active=True, exp=time.time() + 30)
    async with serve(token_validation_url=endpoint.url) as client:
        assert (await asks(client)).status_code == 200 == (await asks(client)).status_code
        assert len(endpoint.asked) == 1, "kept meanwhile"
        monkeypatch.setattr(introspection.time, "monotonic", lambda clock=time.monotonic: clock() + 31)
        endpoint.says = lambda token: claims(active=False)
        assert (await asks(client)).status_code == 401


async def test_a_token_that_is_no_token(serve: Serve, endpoint: Endpoint) -> None:
    async with serve(token_validation_url=endpoint.url) as client:
        assert (await asks(client, "x" * 20_000)).status_code == 401
        assert endpoint.asked == []


@pytest.mark.parametrize("url", ["auth.example/introspect", "ftp://x/y", "http://", "http://x:port/", "http://a b/"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="give https://NAME/PATH"):
        FastServeConfig(token_validation_url=url)
