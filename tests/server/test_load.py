"""GET /load: what a gateway goes by when it chooses a server."""

from __future__ import annotations

import asyncio

import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.glance import glance
from tests.server.conftest import Serve, slow_engine

pytestmark = pytest.mark.anyio


async def test_an_idle_server_has_nothing_to_do(serve: Serve) -> None:
    async with serve(Engine.scripted(max_batch=4)) as client:
        found = (await client.get("/load")).json()
    for name in ("server_load", "waiting", "running", "queued_tokens", "expected_tokens"):
        assert found[name] == 0, name
    assert found["slots"] == 4 and found["draining"] is False
    assert found["free_tokens"] + found["cached_tokens"] == found["pool_tokens"]


async def test_who_waits_runs_and_what_is_still_to_come(serve: Serve) -> None:
    async with serve(slow_engine(max_batch=2, policy="fcfs")) as client:
        bodies = [{"prompt": str(i) * 40, "max_new_tokens": 50, "ignore_eos": True} for i in range(5)]
        asking = [asyncio.ensure_future(client.post("/generate", json=body)) for body in bodies]
        async with asyncio.timeout(20):
            while (found := (await client.get("/load")).json())["running"] < 2 or found["waiting"] < 3:
                await asyncio.sleep(0.02)
        assert found["server_load"] == 5 and found["slots"] == 2
        assert found["queued_tokens"] >= 3 * 40  # those who wait have not begun
        assert 0 < found["expected_tokens"] <= 5 * 50
        assert found["free_tokens"] < found["pool_tokens"]
        for task in asking:
            task.cancel()


async def test_guesses_are_believed_and_limits_bound_them() -> None:
    with slow_engine(max_batch=1) as engine:
        handles = [engine.submit([1, 2, 3], SamplingParams(max_tokens=10, ignore_eos=True)) for _ in range(3)]
        found = glance(engine.loop.scheduler, 100.0)
        assert found.waiting + found.running <= 3
        assert found.expected_tokens <= 30
        for handle in handles:
            handle.cancel()
