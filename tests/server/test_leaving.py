"""A client that leaves, streaming or not: its jobs are cancelled, and its blocks are free again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from fastserve.server import create_app
from tests.server.conftest import Serve, slow_engine

pytestmark = pytest.mark.anyio


class Caller:
    """One request over bare ASGI, which can be hung up at any moment."""

    def __init__(self, app: Any, path: str, body: dict[str, Any]) -> None:
        self.body = json.dumps(body).encode()
        self.hung_up = asyncio.Event()
        self.sent: list[MutableMapping[str, Any]] = []
        self.asked = False
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
            "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http", "root_path": "",
            "headers": [(b"host", b"test"), (b"content-type", b"application/json")], "server": ("test", 80),
            "client": ("test", 1),
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> MutableMapping[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"prompt": "hello", "max_new_tokens": 1500}),
        ("/generate/stream", {"prompt": "hello", "max_new_tokens": 1500}),
        ("/chat", {"messages": [{"role": "user", "content": "hello"}], "max_new_tokens": 1500}),
        ("/stream", {"prompt": "hello", "max_new_tokens": 1500}),
        ("/v1/generate_nobatch", {"prompt": "hello", "max_new_tokens": 1500}),
        ("/v1/completions", {"prompt": ["hello", "there"], "max_tokens": 1500, "n": 2}),
        ("/v1/completions", {"prompt": ["hello", "there"], "max_tokens": 1500, "n": 2, "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], "stream": True}),
    ],
)
async def test_who_leaves_is_cancelled(path: str, body: dict[str, Any]) -> None:
    with slow_engine() as engine:
        app = create_app(engine)
        caller = Caller(app, path, body)
        while engine.snapshot().counters["output_tokens"] < 4:
            await asyncio.sleep(0.005)
        before = engine.snapshot()
        assert before.running and before.device.used
        caller.hung_up.set()
        await asyncio.wait_for(caller.task, 5)
        while (after := engine.snapshot()).running:
            await asyncio.sleep(0.005)
        assert after.steps <= before.steps + 10, "within an iteration, give or take this test's own naps"
        assert after.waiting == 0 and after.device.used == after.device.parked == 0
        assert after.counters["finished_cancelled"] == before.running + before.waiting
        while any(job.handle is not None for job in app.state.service.registry.jobs.values()):
            await asyncio.sleep(0.005)
        assert {job.state for job in app.state.service.registry.jobs.values()} == {"cancelled"}


async def test_jobs_do_not_mind(serve: Serve) -> None:
    async with serve(slow_engine()) as client:
        taken = (await client.post("/jobs", json={"prompt": "hello", "max_new_tokens": 5})).json()
        while (job := (await client.get(f"/jobs/{taken['job_id']}")).json())["ended"] is None:
            await asyncio.sleep(0.01)
        assert job["state"] == "finished"


async def test_a_silent_stream_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastserve.server.api.streaming.KEEPALIVE_S", 0.005)
    with slow_engine() as engine:
        caller = Caller(create_app(engine), "/generate/stream", {"prompt": "hello", "max_new_tokens": 3})
        await asyncio.wait_for(caller.task, 5)
        text = b"".join(message.get("body", b"") for message in caller.sent).decode()
        assert ": wait\n\n" in text and text.count("data: ") == 4
