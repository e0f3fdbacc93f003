"""The routes of a gateway with --queue, and the whole way: gateway, queue, worker, gateway, server."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.jobqueue.processes import Redis, until, worker

pytest.importorskip("fastapi", reason="needs the gateway extra")

from fastserve.gateway import Gateway
from tests.gateway.live import client_of, on_socket, scripted

pytestmark = pytest.mark.anyio


def test_the_whole_way(redis: Redis, tmp_path: Path) -> None:
    with scripted() as server:
        gateway = Gateway(upstream=[server], queue=redis.url, cache="memory", port=0)
        with (
            on_socket(gateway.app) as url,
            httpx.Client(base_url=url, timeout=30) as client,
            worker(redis.url, url, folder=tmp_path) as mine,
        ):
            body = {"prompt": "a", "max_new_tokens": 3, "seed": 5, "metadata": {"x": 1}, "temperature": 0}
            accepted = client.post("/jobs", json=body)
            assert accepted.status_code == 202 and accepted.headers["location"].endswith(accepted.json()["job_id"])
            job = accepted.json()["job_id"]
            wrong = client.post("/jobs", json={"prompt": "a", "bogus": 1}).json()["job_id"]
            task = client.post("/send_text", json={"text": "b", "model_name": "scripted"}).json()["task_id"]
            view = until(lambda: (found := client.get(f"/jobs/{job}").json())["ended"] and found)
            same = client.post("/generate", json={**body, "metadata": {}}).json()
            assert (
                view["state"] == "finished" and view["result"]["text"] == same["text"] and view["metadata"] == {"x": 1}
            )
            assert view["result"]["job_id"] == job and view["model"] == "scripted"
            until(lambda: client.get(f"/get_task_status/{task}").json()["status"] == "SUCCESS")
            failed = until(lambda: (found := client.get(f"/jobs/{wrong}").json())["ended"] and found)
            assert failed["state"] == "failed" and "no field 'bogus'" in failed["error"]
            assert [each["task_id"] for each in client.get("/tasks/").json()] == [task, wrong, job]
            page = client.get("/jobs", params={"limit": 1}).json()
            assert page["total"] == 3 and page["next"] == task
            assert client.get("/jobs", params={"state": "failed"}).json()["total"] == 1
            assert client.get("/jobs", params={"after": "unknown"}).status_code == 404
            status = client.get("/gateway/status").json()
            assert status["queue"] == {"at": redis.url, "accepted": 3}
            again = client.post("/jobs", json={**body, "metadata": {"x": 1}}).json()["job_id"]
            until(lambda: client.get(f"/jobs/{again}").json()["ended"])
            assert client.get("/gateway/cache").json()["hits"] == 1  # asked before, and the seed is the client's
            assert client.get("/gateway/cache").json()["bypassed"] >= 1  # a seed that was drawn is not asked for again
            assert "Traceback" not in mine.said


async def test_what_is_refused(redis: Redis) -> None:
    with scripted() as server:
        gateway = Gateway(upstream=[server], queue=redis.url, queue_jobs=1, api_key=["ta a", "tb b"])
        async with client_of(gateway) as client:
            mine = {"Authorization": "Bearer ta"}
            for body, status in (
                ({}, 422), ({"prompt": ""}, 422), ({"prompt": [1.5]}, 422), ({"prompt": "a", "stream": True}, 400),
                ([], 422), ({"prompt": "a", "metadata": {"x": "y" * 20_000}}, 422),
                ({"prompt": "a", "model": "m" * 1000}, 404),
            ):  # fmt: skip
                assert (await client.post("/jobs", json=body, headers=mine)).status_code == status
            assert (await client.post("/jobs", json={"prompt": "a"})).status_code == 401
            job = (await client.post("/jobs", json={"prompt": "a", "user": "b"}, headers=mine)).json()["job_id"]
            assert (await client.post("/jobs", json={"prompt": "a"}, headers=mine)).status_code == 503
            other = {"Authorization": "Bearer tb"}
            for method, path in (
                ("GET", f"/jobs/{job}"), ("DELETE", f"/jobs/{job}"), ("GET", f"/get_task_status/{job}"),
                ("GET", f"/poll_task_status?task_id={job}"),
            ):  # fmt: skip
                assert (await client.request(method, path, headers=other)).status_code == 404
            assert (await client.get("/jobs", headers=other)).json()["jobs"] == []
            assert (await client.get("/tasks/", headers=other)).json() == []
            assert (await client.get(f"/jobs/{job}", headers=mine)).json()["client"] == "a"
            redis.kill()
            began = time.monotonic()
            down = await client.post("/jobs", json={"prompt": "a"}, headers=mine)
            assert down.status_code == 503 and "does not answer" in down.json()["detail"]
            assert time.monotonic() - began < 20
