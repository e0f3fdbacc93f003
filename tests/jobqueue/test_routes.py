"""The routes of a server with --queue: jobs go to Redis, and nobody sees another's."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.jobqueue.processes import Redis, Server, until, worker

pytest.importorskip("fastapi", reason="needs the web extra")

from tests.server.conftest import Serve, _clean_settings, serve  # noqa: F401

pytestmark = pytest.mark.anyio
HEADERS = {"a": {"Authorization": "Bearer token-a"}, "b": {"Authorization": "Bearer token-b"}}


async def test_jobs_and_tasks_of_a_server(serve: Serve, redis: Redis, target: Server, tmp_path: Path) -> None:  # noqa: F811
    async with serve(queue=redis.url) as client:
        accepted = await client.post("/jobs", json={"prompt": "a", "seed": 5, "metadata": {"x": 1}, "user": "ann"})
        assert accepted.status_code == 202 and accepted.json()["state"] == "queued"
        job = accepted.json()["job_id"]
        assert accepted.headers["location"] == f"/jobs/{job}"
        task = (await client.post("/send_text", json={"text": "b"})).json()["task_id"]
        status = (await client.get(f"/get_task_status/{task}")).json()
        assert status == {"task_id": task, "status": "PENDING", "result": None}
        other = (await client.post("/generate", json={"prompt": "c", "max_new_tokens": 2})).json()["job_id"]
        listed = (await client.get("/jobs")).json()
        assert [each["job_id"] for each in listed["jobs"]] == [other, task, job] and listed["total"] == 3
        view = (await client.get(f"/jobs/{job}")).json()
        assert view["durable"] and view["client"] == "ann" and view["position"] == 1 and view["result"] is None
        with worker(redis.url, target.url, folder=tmp_path):
            until(lambda: len(target.asked) == 2)
            for _ in range(500):
                view = (await client.get(f"/jobs/{job}")).json()
                done = (await client.get("/poll_task_status", params={"task_id": task})).json()
                if view["ended"] and done["status"] == "SUCCESS":
                    break
                time.sleep(0.02)
        assert view["state"] == "finished" and view["result"]["text"] == "a 5" and view["metadata"] == {"x": 1}
        assert view["result"]["metadata"]["x"] == 1
        assert done["result"].startswith("b ")
        tasks = (await client.get("/tasks/")).json()
        assert [each["task_id"] for each in tasks] == [task, job]
        first = next(body for body in target.asked if body["prompt"] == "a")
        assert first.pop("model") == client.service.model
        assert first == {"prompt": "a", "seed": 5, "metadata": {"x": 1}, "user": "ann", "stream": False}
        page = (await client.get("/jobs", params={"limit": 2})).json()
        assert page["next"] == task
        rest = (await client.get("/jobs", params={"limit": 2, "after": task})).json()
        assert [each["job_id"] for each in rest["jobs"]] == [job] and rest["next"] is None and rest["total"] == 3
        assert (await client.get("/jobs", params={"state": "queued"})).json()["total"] == 0
        assert (await client.get("/jobs/unknown")).status_code == 404
        assert (await client.delete("/jobs/unknown")).status_code == 404
        assert (await client.get("/get_task_status/unknown")).status_code == 404


async def test_a_client_sees_its_own_alone(serve: Serve, redis: Redis) -> None:  # noqa: F811
    async with serve(queue=redis.url, api_key=["token-a a", "token-b b"]) as client:
        job = (await client.post("/jobs", json={"prompt": "mine", "user": "b"}, headers=HEADERS["a"])).json()["job_id"]
        for path in (f"/jobs/{job}", f"/get_task_status/{job}", f"/poll_task_status?task_id={job}"):
            assert (await client.get(path, headers=HEADERS["b"])).status_code == 404
            assert (await client.get(path, headers=HEADERS["a"])).status_code == 200
            assert (await client.get(path)).status_code == 401
        assert (await client.delete(f"/jobs/{job}", headers=HEADERS["b"])).status_code == 404
        assert (await client.get("/jobs", headers=HEADERS["b"])).json()["total"] == 0
        assert (await client.get("/tasks/", headers=HEADERS["b"])).json() == []
        assert (await client.get("/jobs", headers=HEADERS["a"])).json()["jobs"][0]["client"] == "a"
        cancelled = await client.delete(f"/jobs/{job}", headers=HEADERS["a"])
        assert cancelled.status_code == 200 and cancelled.json()["state"] == "cancelled"
        status = (await client.get(f"/get_task_status/{job}", headers=HEADERS["a"])).json()
        assert status["status"] == "REVOKED"


async def test_what_is_wrong_is_refused_before_it_is_queued(serve: Serve, redis: Redis) -> None:  # noqa: F811
    async with serve(queue=redis.url, queue_jobs=2) as client:
        assert (await client.post("/jobs", json={"prompt": ""})).status_code == 422
        assert (await client.post("/jobs", json={"prompt": "a", "stream": True})).status_code == 400
        assert (await client.post("/jobs", json={"prompt": "a", "model": "other"})).status_code == 404
        assert (await client.get("/jobs")).json()["total"] == 0
        for _ in range(2):
            assert (await client.post("/jobs", json={"prompt": "a"})).status_code == 202
        full = await client.post("/jobs", json={"prompt": "a"})
        assert full.status_code == 503 and "2 jobs" in full.json()["detail"] and full.headers["retry-after"]


@pytest.mark.parametrize("how", ["killed", "hangs"])
async def test_a_queue_that_is_down_takes_nothing_and_holds_up_nobody(
    serve: Serve,  # noqa: F811
    redis: Redis,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serve(queue=redis.url) as client:
        assert (await client.post("/jobs", json={"prompt": "a"})).status_code == 202
        if how == "killed":
            redis.kill()
        else:
            redis.signal(signal.SIGSTOP)
        began = time.monotonic()
        for path in ("/jobs", "/send_text"):
            refused = await client.post(path, json={"prompt": "a"})
            assert refused.status_code == 503 and "does not answer" in refused.json()["detail"], refused.text
            assert redis.url.removeprefix("redis://") in refused.json()["detail"]
        assert time.monotonic() - began < 40
        answer = await client.post("/generate", json={"prompt": "a", "max_new_tokens": 2})
        assert answer.status_code == 200
        assert (await client.get(f"/jobs/{answer.json()['job_id']}")).status_code == 200
        told = [record for record in caplog.records if "jobs are refused until it does" in record.message]
        assert len(told) == 1
        if how == "killed":
            redis.start()
        else:
            redis.signal(signal.SIGCONT)
        assert (await client.post("/jobs", json={"prompt": "b"})).status_code == 202
        for _ in range(500):  # what Redis had got, but not answered, is taken back
            if (total := (await client.get("/jobs", params={"state": "queued"})).json()["total"]) == 2:
                break
            await asyncio.sleep(0.02)
        assert total == 2


async def test_a_job_is_not_lost_by_a_restart_of_the_server(
    serve: Serve,  # noqa: F811
    redis: Redis,
    target: Server,
    tmp_path: Path,
) -> None:
    async with serve(queue=redis.url) as client:
        job = (await client.post("/jobs", json={"prompt": "a", "seed": 1})).json()["job_id"]
    async with serve(queue=redis.url) as client:
        assert (await client.get(f"/jobs/{job}")).json()["state"] == "queued"
        with worker(redis.url, target.url, folder=tmp_path):
            until(lambda: target.asked)
            for _ in range(500):
                if (view := (await client.get(f"/jobs/{job}")).json())["ended"]:
                    break
                time.sleep(0.02)
        assert view["result"]["text"] == "a 1"
