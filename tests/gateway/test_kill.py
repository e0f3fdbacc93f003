"""kill -9 of one of three upstreams in mid-load, with real processes: `fastserve gateway` in front of three servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.conftest import PROMPT
from tests.gateway.test_hostile_upstreams import events_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that kills at once"),
]
INTERVAL = 1.0
"""Seconds between two health checks."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def server(port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fastserve.bench.stub", "--port", str(port), "--ttft-ms", "60", "--tpot-ms", "10"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def processes(tmp_path: Path) -> Iterator[tuple[str, list[int], list[subprocess.Popen[bytes]]]]:
    """The gateway's URL, its servers' ports and their processes."""
    ports = [free_port() for _ in range(3)]
    servers = [server(port) for port in ports]
    own = free_port()
    flags = [flag for port in ports for flag in ("--upstream", f"127.0.0.1:{port},name=s{port}")]
    flags += ["--health-interval", str(INTERVAL), "--wait-for-upstreams", "20", "--cooldown", "0.2"]
    log = (tmp_path / "gateway.log").open("wb")
    gateway = subprocess.Popen(
        [sys.executable, "-m", "fastserve", "gateway", "--port", str(own), *flags], stdout=log, stderr=log
    )
    try:
        yield f"http://127.0.0.1:{own}", ports, servers
    finally:
        for process in (gateway, *servers):
            process.kill()
            process.wait()
        log.close()


async def there(client: httpx.AsyncClient, healthy: int) -> None:
    """Waits until so many upstreams are."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(httpx.HTTPError):
                states = (await client.get("/health")).json()["upstreams"].values()
                if sum(state == "healthy" for state in states) == healthy:
                    return
            await asyncio.sleep(0.05)


async def test_nothing_is_lost_but_what_had_begun(tmp_path: Path) -> None:
    with processes(tmp_path) as (url, ports, servers):
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
            await there(client, 3)
            ends: Counter[str] = Counter()
            stop = asyncio.Event()

            async def asks() -> None:
                while not stop.is_set():
                    fields = {**PROMPT, "max_tokens": 30, "stream": True}
                    answer = await client.post("/v1/chat/completions", json={**fields, "messages": [HELLO]})
                    ends[how(answer)] += 1

            asking = [asyncio.ensure_future(asks()) for _ in range(24)]
            async with asyncio.timeout(20):
                while await count(client, ports[0], "outstanding") < 2 or ends["whole"] < 24:
                    await asyncio.sleep(0.02)
            servers[0].send_signal(signal.SIGKILL)
            await there(client, 2)
            assert await count(client, ports[0], "errors") > 0
            before = await count(client, ports[0], "requests")
            whole = ends["whole"]
            async with asyncio.timeout(20):
                while ends["whole"] < whole + 24:
                    await asyncio.sleep(0.02)
            assert await count(client, ports[0], "requests") == before  # traffic has moved
            servers[0].wait()
            servers[0] = server(ports[0])
            await there(client, 3)
            async with asyncio.timeout(20):
                while await count(client, ports[0], "requests") == before:
                    await asyncio.sleep(0.05)
            stop.set()
            await asyncio.gather(*asking)
    assert set(ends) <= {"whole", "broken off"}, ends
    assert ends["broken off"] <= 24  # at most who was in mid-stream on one of three


HELLO = {"role": "user", "content": "Hi"}


def how(answer: httpx.Response) -> str:
    """How a request has ended."""
    if answer.status_code != 200:
        return f"status {answer.status_code}"
    *events, done = events_of(answer.text)
    if done != "[DONE]":
        return "cut off"
    if "error" in events[-1]:
        return "broken off" if "broke off" in events[-1]["error"]["message"] else json.dumps(events[-1])
    return "whole" if len(events) == 31 else f"{len(events)} events"


async def count(client: httpx.AsyncClient, port: int, what: str) -> int:
    """Of the server at this port, as the gateway tells it."""
    return int((await client.get(f"/gateway/upstreams/s{port}")).json()[what])


async def test_sigterm_lets_streams_end_or_ends_them_with_an_error(tmp_path: Path) -> None:
    port, own = free_port(), free_port()
    command = [sys.executable, "-m", "fastserve.bench.stub", "--port", str(port), "--ttft-ms", "10", "--tpot-ms", "20"]
    behind = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    log = (tmp_path / "gateway.log").open("wb")
    flags = ["--upstream", f"127.0.0.1:{port}", "--wait-for-upstreams", "20", "--drain-seconds", "1"]
    gateway = subprocess.Popen(
        [sys.executable, "-m", "fastserve", "gateway", "--port", str(own), *flags], stdout=log, stderr=log
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{own}", timeout=30) as client:
            await there(client, 1)
            long, short = (
                asyncio.ensure_future(
                    client.post("/v1/completions", json={**PROMPT, "max_tokens": tokens, "stream": True})
                )
                for tokens in (100_000, 30)
            )
            await asyncio.sleep(0.3)
            gateway.terminate()
            async with asyncio.timeout(20):
                ended = await short
                *_, error, done = events_of((await long).text)
            assert ended.text.count("data:") == 31 and "error" not in ended.text
            assert done == "[DONE]" and "shut down" in error["error"]["message"]
        assert gateway.wait(20) == 0
    finally:
        for process in (gateway, behind):
            process.kill()
            process.wait()
        log.close()
