"""Durable jobs on bad days: the disk is full, the engine dies, another model is served, what is stored is garbage."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastserve.backends.scripted import FailStep
from fastserve.engine import Engine
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.sched.policy import Policy
from fastserve.server.jobs.durable import ATTEMPTS
from tests.server.conftest import Client, Serve, slow_engine

pytestmark = pytest.mark.anyio
FIELDS = {"prompt": "hello", "max_new_tokens": 30, "ignore_eos": True}


async def submit(client: Client, **fields: Any) -> str:
    response = await client.post("/jobs", json=FIELDS | fields)
    assert response.status_code == 202, response.text
    return str(response.json()["job_id"])


async def end_of(client: Client, job: str) -> dict[str, Any]:
    while True:
        found: dict[str, Any] = (await client.get(f"/jobs/{job}")).json()
        if found["ended"] is not None:
            return found
        await asyncio.sleep(0.01)


def limit_pages(store: Any, pages: int) -> None:
    """The database may grow to so many pages: what it says beyond them is what it says on a full disk."""
    store._now(lambda: store.db.execute(f"pragma max_page_count = {pages}"))


async def test_a_full_disk_refuses_jobs_and_nothing_else(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(slow_engine(), state_dir=tmp_path / "state") as client:
        first = await submit(client)
        limit_pages(client.service.store, 1)
        refused = await client.post("/jobs", json=FIELDS | {"metadata": {"large": "x" * 15_000}})
        assert refused.status_code == 503 and "cannot be stored" in refused.json()["detail"]
        assert "full" in refused.json()["detail"] and int(refused.headers["retry-after"]) >= 1
        assert (await client.get("/jobs")).json()["total"] == 1, "a refused job is none"
        assert (await client.post("/generate", json=FIELDS)).status_code == 200
        with caplog.at_level(logging.ERROR):
            answer = "x" * 50_000
            client.service.store.end(first, "finished", {"answer": answer, "error": None}, 1.0)
            await client.service.store.written()
        assert any("a restart will run it again" in record.message for record in caplog.records)
        limit_pages(client.service.store, 100_000)
        assert (await end_of(client, await submit(client)))["state"] == "finished", "when there is room again"


class Fragile(Policy):
    """Breaks when it has seen three requests."""

    settled = True
    seen = 0

    def rank(self, job: Job) -> int:
        return job.arrival

    def arrive(self, job: Job) -> None:
        self.seen += 1
        if self.seen == 3:
            raise KeyError("three")


async def test_jobs_outlive_an_engine_that_breaks(serve: Serve, tmp_path: Path) -> None:
    async with serve(slow_engine(policy=Fragile), state_dir=tmp_path / "state") as client:
        jobs = [await submit(client, max_new_tokens=1000 + number, seed=number) for number in range(3)]
        while client.service.engine.alive:
            await asyncio.sleep(0.01)
        for job in jobs:
            found = (await client.get(f"/jobs/{job}")).json()
            assert found["state"] == "queued" and found["ended"] is None and "is resumed when" in found["error"]
        gone = (await client.delete(f"/jobs/{jobs[2]}")).json()
        assert gone["state"] == "cancelled" and gone["ended"] is not None
        assert (await client.get(f"/get_task_status/{jobs[0]}")).json()["status"] == "PENDING"
    async with serve(state_dir=tmp_path / "state") as client:
        for number, job in enumerate(jobs[:2]):
            found = await end_of(client, job)
            assert found["state"] == "finished" and found["result"]["tokens_generated"] == 1000 + number
        assert (await client.get(f"/jobs/{jobs[2]}")).json()["state"] == "cancelled"


def breaking(breaks: Callable[[Job], bool]) -> FailStep:
    """Every step with such a job in it fails as a whole."""

    def broken(plan: Plan) -> None:
        if any(breaks(job) for job, _ in plan.work):
            raise OSError("the device is gone")

    return broken


def poisonous(job: Job) -> bool:
    return job.prompt == len("poison")


async def test_jobs_outlive_a_device_that_fails_every_step(serve: Serve, tmp_path: Path) -> None:
    """Their first steps fail before the engine knows that it is not they."""
    dead = Engine.scripted(max_batch=4, fail_step=breaking(lambda job: True))
    async with serve(dead, state_dir=tmp_path / "state") as client:
        jobs = [await submit(client, seed=number) for number in range(3)]
        while client.service.engine.alive:
            assert (await client.post("/generate", json=FIELDS)).status_code in (500, 503)
        for job in jobs:
            found = (await client.get(f"/jobs/{job}")).json()
            assert found["state"] == "queued" and found["ended"] is None, found
            assert "the device is gone" in found["error"] and "is retried when" in found["error"]
        assert (await client.delete(f"/jobs/{jobs[2]}")).json()["state"] == "cancelled"
    async with serve(state_dir=tmp_path / "state") as client:
        for job in jobs[:2]:
            found = await end_of(client, job)
            assert found["state"] == "finished" and found["error"] is None
            assert found["result"]["tokens_generated"] == 30
        assert (await client.get(f"/jobs/{jobs[2]}")).json()["state"] == "cancelled"
    async with serve(state_dir=tmp_path / "state") as client:
        assert (await client.get(f"/jobs/{jobs[0]}")).json()["state"] == "finished", "and it stays so"


async def test_a_cancelled_job_is_not_tried_once_more(serve: Serve) -> None:
    """Its step fails when the cancel has been asked for and the engine has not seen it."""
    inside, go = threading.Event(), threading.Event()

    def broken(plan: Plan) -> None:
        if not go.is_set():
            inside.set()
            go.wait(10)
            raise OSError("the device is gone")

    engine = slow_engine(fail_step=broken)
    async with serve(engine) as client:
        job = await submit(client, max_new_tokens=1000)
        assert await asyncio.to_thread(inside.wait, 10)
        asked = asyncio.create_task(client.delete(f"/jobs/{job}"))
        while engine.inbox.empty:
            await asyncio.sleep(0.01)
        go.set()
        assert (await asked).json()["state"] == "cancelled"
        assert client.service.registry.jobs[job].attempts == 1
        assert (await client.get(f"/jobs/{job}")).json()["state"] == "cancelled"
        assert not client.service.durable.failed


async def test_a_poisonous_job_fails_alone(serve: Serve) -> None:
    async with serve(Engine.scripted(max_batch=4, fail_step=breaking(poisonous))) as client:
        with client.service.engine.inbox.condition:  # so that they share a step
            asked = [submit(client, prompt=prompt) for prompt in ("poison", "a", "b", "c")]
            jobs = [await one for one in asked]
        states = [(await end_of(client, job))["state"] for job in jobs]
        assert states == ["failed", "finished", "finished", "finished"]
        assert client.service.engine.counters["failed_steps"] == ATTEMPTS and client.service.engine.alive
        durable = client.service.durable
        assert not durable.failed and not durable.requests


async def test_a_poisonous_job_has_its_last_attempt_after_a_restart(serve: Serve, tmp_path: Path) -> None:
    async with serve(Engine.scripted(fail_step=breaking(poisonous)), state_dir=tmp_path / "state") as client:
        job = await submit(client, prompt="poison")
        while client.service.registry.jobs[job].attempts < ATTEMPTS - 1:
            await asyncio.sleep(0.01)
        found = (await client.get(f"/jobs/{job}")).json()
        assert found["state"] == "queued" and "when the server is restarted" in found["error"]
    async with serve(Engine.scripted(fail_step=breaking(poisonous)), state_dir=tmp_path / "state") as client:
        found = await end_of(client, job)
        assert found["state"] == "failed" and found["error"] == "OSError: the device is gone"


async def test_jobs_wait_for_their_model(serve: Serve, tmp_path: Path) -> None:
    """Token ids of one model mean nothing to another."""
    state = tmp_path / "state"
    async with serve(slow_engine(), state_dir=state, drain_seconds=0) as client:
        jobs = [await submit(client, max_new_tokens=1000, seed=5) for _ in range(2)]
    database = sqlite3.connect(state / "jobs.sqlite")
    for (request,) in database.execute("select request from jobs").fetchall():
        other = json.dumps(json.loads(request) | {"model": "other"})
        database.execute("update jobs set request = ? where request = ?", (other, request))
    database.commit()
    database.close()
    for last in (False, True):
        async with serve(state_dir=state) as client:
            found = (await client.get(f"/jobs/{jobs[0]}")).json()
            assert found["state"] == "queued" and found["model"] == "other"
            assert "until model other is served again" in found["error"]
            if last:
                assert (await client.delete(f"/jobs/{jobs[0]}")).json()["state"] == "cancelled"
    other = Engine.scripted()
    other.info = type(other.info)(**{
        name: getattr(other.info, name) for name in other.info.__slots__
    } | {"name": "other"})  # fmt: skip
    async with serve(other, state_dir=state) as client:
        found = await end_of(client, jobs[1])
        assert found["state"] == "finished" and found["result"]["tokens_generated"] == 1000
        assert (await client.get(f"/jobs/{jobs[0]}")).json()["state"] == "cancelled"


async def test_what_can_never_run_has_failed_and_keeps_nobody_from_starting(serve: Serve, tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with serve(state_dir=state) as client:
        fine = await submit(client)
        await end_of(client, fine)
        for name, request in (
            ("short", {"prompt": [1] * 5000, "params": {}}),
            ("odd", {"prompt": [1], "params": {"no_such": 1}}),
            ("empty", {}),
        ):
            whole = {"model": "scripted", "metadata": {}, "priority": 0} | request
            await client.service.store.add(name, "default", 1.0, whole)
    async with serve(state_dir=state) as client:
        for name, words in (("short", "5000"), ("odd", "no_such"), ("empty", "cannot be read")):
            found = (await client.get(f"/jobs/{name}")).json()
            assert found["state"] == "failed" and words in found["error"], found
        assert (await client.get(f"/jobs/{fine}")).json()["state"] == "finished"


def test_a_state_folder_that_cannot_be_used(tmp_path: Path) -> None:
    from fastserve.server.jobs.store import Store

    file = tmp_path / "file"
    file.write_text("nothing")
    inside = tmp_path / "inside"
    (inside / "jobs.sqlite").mkdir(parents=True)
    for folder in (file, file / "below", inside, Path("/proc/none")):
        with pytest.raises(ValueError, match=rf"state folder {folder} cannot be used: \w"):
            Store(folder)
