"""Upstreams that are addresses of a name: they come, get requests, and go with the name's addresses."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from fastserve.gateway import GatewayConfig
from fastserve.gateway.discovery import part
from tests.gateway.conftest import live, stub

pytestmark = pytest.mark.anyio


class Names:
    """What getaddrinfo answers: addresses, or an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        self.error: OSError | None = None
        whole = asyncio.BaseEventLoop.getaddrinfo

        async def getaddrinfo(loop: Any, host: Any, port: Any, **options: Any) -> Any:
            if host != "servers.test":
                return await whole(loop, host, port, **options)
            if self.error is not None:
                raise self.error
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in self.addresses]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


async def test_upstreams_come_and_go_with_the_addresses(names: Names) -> None:
    async with stub() as (url, _):
        port = url.rpartition(":")[2]
        async with live(discover=[f"http://servers.test:{port}"], discover_interval=0.05) as it:
            assert not list(it.gateway.upstreams)
            names.addresses = ["127.0.0.1"]
            await it.until(lambda: [each.name for each in it.gateway.upstreams] == [f"127.0.0.1:{port}"])
            await it.until(lambda: it.gateway.upstreams.find(f"127.0.0.1:{port}").state == "healthy")
            assert (await it.post("/v1/completions")).status_code == 200
            names.addresses = ["127.0.0.1", "127.0.0.9"]
            await it.until(lambda: len(it.gateway.upstreams) == 2)
            status = (await it.client.get("/gateway/status")).json()
            assert f"127.0.0.9:{port}" in str(status)
            names.error = socket.gaierror(socket.EAI_AGAIN, "try again")
            await asyncio.sleep(0.2)
            assert len(it.gateway.upstreams) == 2, "a name server that fails takes no upstream away"
            names.error = None
            names.addresses = ["127.0.0.9"]
            await it.until(lambda: [each.name for each in it.gateway.upstreams] == [f"127.0.0.9:{port}"])
            names.error = socket.gaierror(socket.EAI_NONAME, "no such name")
            await it.until(lambda: not list(it.gateway.upstreams))


async def test_one_that_was_given_by_hand_stays(names: Names) -> None:
    names.addresses = ["127.0.0.1"]
    async with stub() as (url, _):
        port = url.rpartition(":")[2]
        async with live(url, discover=[f"http://servers.test:{port}"], discover_interval=0.05) as it:
            names.addresses = []
            await asyncio.sleep(0.2)
            assert [each.name for each in it.gateway.upstreams] == [f"127.0.0.1:{port}"]


async def test_addresses_of_both_kinds(monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    names.addresses = ["10.0.0.2", "fd00::1", "10.0.0.2"]
    assert await part.addresses_of("servers.test", 80) == {
        "10.0.0.2:80": "http://10.0.0.2:80",
        "fd00::1:80": "http://[fd00::1]:80",
    }


@pytest.mark.parametrize("url", ["https://servers:1", "http://servers:1/v2", "ftp://x", "http://"])
def test_what_cannot_be_discovered(url: str) -> None:
    with pytest.raises(ValueError, match=r"discover|URL|http"):
        GatewayConfig(discover=[url])
