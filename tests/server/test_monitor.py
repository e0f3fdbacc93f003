"""Health, stats, metrics, alerts, documentation and the live feed."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastserve.backends.scripted import ScriptedBackend
from fastserve.engine import Engine
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig
from tests.server.conftest import Serve, slow_engine
from tests.server.sse import every_data_line
from tests.server.test_leaving import Caller

pytestmark = pytest.mark.anyio


async def test_health(serve: Serve) -> None:
    async with serve() as client:
        health = (await client.get("/health")).json()
        assert health["status"] == "healthy" and health["is_loaded"] and health["is_ready"]
        assert health["gpu_memory"].keys() == {"total", "used", "free"} and health["gpu_count"] >= 0
        assert (await client.get("/health/ready")).json() == {"ready": True, "reason": None}


async def test_the_body_says_its_name_wherever_the_engine_is_described(serve: Serve) -> None:
    body = ScriptedBackend()
    body.info = replace(body.info, backend="mine:Body")
    async with serve(Engine.on(body)) as client:
        for path in ("/health", "/stats"):
            assert (await client.get(path)).json()["backend_type"] == "mine:Body", path
        assert (await client.get("/models")).json()["models"][0]["backend"] == "mine:Body"
        answer = (await client.post("/generate", json={"prompt": "a", "max_new_tokens": 2})).json()
        assert answer["metadata"]["backend"] == "mine:Body"
        assert "scripted on mine:Body" in client.service.engine.start_line()


async def test_a_dead_engine_is_unhealthy(serve: Serve) -> None:
    class Broken(Policy):
        def rank(self, job: Job) -> int:
            raise KeyError("lost")

    async with serve(Engine.scripted(policy=Broken)) as client:
        failed = await client.post("/generate", json={"prompt": "a"})
        assert failed.status_code == 500 and "Broken" in failed.json()["detail"]
        health = await client.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "unhealthy"
        assert "Broken" in (await client.get("/health/ready")).json()["reason"]
        assert (await client.post("/v1/completions", json={"prompt": "a"})).status_code == 503
        for path in ("/stats", "/stats/detailed", "/metrics", "/jobs"):
            assert (await client.get(path)).status_code == 200, path


async def test_models(serve: Serve) -> None:
    async with serve(served_model_name="mine") as client:
        found = (await client.get("/models")).json()
        assert found["default_model"] == "mine" and found["models"][0]["context_length"] == 2048
        assert (await client.post("/generate", json={"prompt": "a", "model": "mine"})).status_code == 200
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "mine"


async def test_how_many_parameters_a_model_has(serve: Serve) -> None:
    body = ScriptedBackend()
    body.info = replace(body.info, parameters=24)
    async with serve() as client:
        assert (await client.get("/models")).json()["models"][0]["parameters"] is None, "a script has none"
    async with serve(Engine.on(body)) as client:
        assert (await client.get("/models")).json()["models"][0]["parameters"] == 24


async def test_stats(serve: Serve) -> None:
    async with serve(Engine.scripted(max_batch=2)) as client:
        before = (await client.get("/stats")).json()
        assert before["request_count"] == 0 and before["avg_time_per_request"] == 0
        fields = {"prompt": "hello", "max_new_tokens": 8, "ignore_eos": True}
        answers = await asyncio.gather(*[client.post("/generate", json=fields) for _ in range(6)])
        took = [answer.json()["completion_time"] for answer in answers]
        after = (await client.get("/stats")).json()
        assert after["request_count"] == 6 and after["total_tokens_generated"] == 48
        assert after["avg_tokens_per_request"] == 8 and after["avg_time_per_request"] == pytest.approx(sum(took) / 6)
        assert after["avg_tokens_per_second"] == pytest.approx(48 / sum(took))
        detailed = (await client.get("/stats/detailed")).json()
        assert {key: detailed[key] for key in ("request_count", "total_tokens_generated")} == {
            "request_count": 6,
            "total_tokens_generated": 48,
        }
        assert detailed["jobs"]["finished"] == 6 and detailed["waiting"] == 0
        assert detailed["jct"]["p99"] == pytest.approx(max(took)) and detailed["jct"]["p50"] <= detailed["jct"]["p95"]
        assert detailed["ttft"]["mean"] > 0 and detailed["tpot"]["mean"] > 0
        assert 0 < detailed["batch"]["mean_occupancy"] <= 1 and detailed["batch"]["slots"] == 2
        assert detailed["device_kv"]["used"] == 0 and detailed["device_kv"]["total"] > 0
        assert detailed["error_rate"] == 0 and detailed["alerts"] == [] and detailed["policy"] == "sj-mlfq"
        assert detailed["process"]["memory_bytes"] > 1 << 20 and detailed["scheduler_us_per_iteration"] > 0
        assert 0 < detailed["scheduler_share"] <= 1
        assert detailed["throughput"]["tokens_per_second"] > 0


async def test_queues_by_level_while_jobs_wait(serve: Serve) -> None:
    async with serve(slow_engine(max_batch=1)) as client:
        for _ in range(3):
            await client.post("/jobs", json={"prompt": "hello", "max_new_tokens": 1000})
        await asyncio.sleep(0.05)
        detailed = (await client.get("/stats/detailed")).json()
        assert sum(detailed["queues"].values()) == 3 and all(level.startswith("Q") for level in detailed["queues"])
        assert detailed["batch"]["running"] == 1 and detailed["waiting"] == 2 and detailed["device_kv"]["used"] > 0


async def test_an_alert_is_told_once_and_shown(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def fail(job: Job, index: int) -> None:
        if job.id < 2:
            raise ValueError("no")

    async with serve(Engine.scripted(fail=fail), alert_error_rate=0.5, alert_latency_p99=1000) as client:
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                await client.post("/generate", json={"prompt": "a", "max_new_tokens": 2})
        told = [record.message for record in caplog.records if record.message.startswith("alert")]
        assert told == ["alert: error_rate is 1, above the threshold of 0.5"]
        alerts = (await client.get("/stats/detailed")).json()["alerts"]
        assert [(alert["name"], alert["threshold"]) for alert in alerts] == [("error_rate", 0.5)]
        for _ in range(2):
            await client.post("/generate", json={"prompt": "a", "max_new_tokens": 2})
        assert (await client.get("/stats/detailed")).json()["alerts"] == [], "it is over"


async def test_metrics_under_both_names(serve: Serve) -> None:
    async with serve() as client:
        for _ in range(3):
            await client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 5, "ignore_eos": True})
        response = await client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        samples = {
            (sample.name, sample.labels.get("finish_reason") or sample.labels.get("finished_reason")): sample
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }
        for prefix in ("fastserve_", "vllm:"):
            for name, value in (
                ("num_requests_running", 0),
                ("num_requests_waiting", 0),
                ("kv_cache_usage_perc", 0),
                ("num_preemptions_total", 0),
                ("prompt_tokens_total", 15),
                ("generation_tokens_total", 15),
                ("time_to_first_token_seconds_count", 3),
                ("inter_token_latency_seconds_count", 12),
                ("request_time_per_output_token_seconds_count", 3),
                ("e2e_request_latency_seconds_count", 3),
                ("request_queue_time_seconds_count", 3),
                ("request_inference_time_seconds_count", 3),
                ("request_prompt_tokens_sum", 15),
                ("request_generation_tokens_sum", 15),
            ):
                assert samples[prefix + name, None].value == value, prefix + name
        assert samples["fastserve_requests_total", "length"].value == 3
        assert samples["vllm:request_success_total", "length"].value == 3
        assert samples["vllm:num_requests_running", None].labels == {"model_name": "scripted", "engine": "0"}
        assert (await client.head("/metrics")).status_code == 200


async def test_metrics_may_be_elsewhere_or_off(serve: Serve) -> None:
    async with serve(metrics_endpoint="/m") as client:
        assert (await client.get("/m")).status_code == 200 and (await client.get("/metrics")).status_code == 404
    async with serve(metrics=False) as client:
        assert (await client.get("/metrics")).status_code == 404
    with Engine.scripted() as engine, pytest.raises(ValueError, match="metrics_endpoint=/ping: another route has"):
        create_app(engine, FastServeConfig(metrics_endpoint="/ping"))


async def test_documentation_works_offline(serve: Serve) -> None:
    import re

    async with serve() as client:
        for path in ("/docs", "/redoc"):
            page = await client.get(path)
            assert page.status_code == 200
            for link in re.findall(r'(?:src|href)="([^"]+)"', page.text):
                assert link.startswith("/"), f"{path} loads {link} from elsewhere"
                assert (await client.get(link)).status_code == 200
        schema = (await client.get("/openapi.json")).json()
        assert "/v1/chat/completions" in schema["paths"] and "/jobs/{job_id}" in schema["paths"]
        assert "422" not in schema["paths"]["/v1/completions"]["post"]["responses"]


# -- the live feed -----------------------------------------------------------------------------------------------------


def messages(caller: Caller) -> list[Any]:
    return every_data_line(b"".join(message.get("body", b"") for message in caller.sent).decode())


async def test_the_live_feed() -> None:
    with slow_engine(max_batch=2) as engine:
        app = create_app(engine)
        service = app.state.service
        assert not engine.feed.looked_at, "nothing is computed while nobody looks"
        viewer = _get(app, "/live")
        while not messages(viewer):
            await asyncio.sleep(0.01)
        first = messages(viewer)[0]
        assert first["type"] == "snapshot" and first["model"] == "scripted" and first["jobs"] == []
        assert first["settings"]["policy"] == "sj-mlfq" and first["stats"]["slots"] == 2
        caller = Caller(app, "/generate", {"prompt": "hello", "max_new_tokens": 30, "ignore_eos": True})
        await caller.task
        answer = json.loads(caller.sent[-1]["body"])
        while not any(event["type"] == "end" for event in happened(viewer)):
            await asyncio.sleep(0.02)
        assert [event["type"] for event in happened(viewer) if event["type"] != "level"][:2] == ["arrive", "join"]
        arrive = next(event for event in happened(viewer) if event["type"] == "arrive")
        assert arrive["job_id"] == answer["job_id"] and arrive["prompt_tokens"] == 5
        told = messages(viewer)[1:]
        assert len(told) <= 12, "at most ten a second"
        assert any(message["jobs"] and message["jobs"][0]["job_id"] == answer["job_id"] for message in told)
        assert told[-1]["stats"]["jct"]["p50"] > 0
        silent = len(messages(viewer))
        await asyncio.sleep(0.25)
        assert len(messages(viewer)) == silent, "nothing happens, nothing is said"
        viewer.hung_up.set()
        await asyncio.wait_for(viewer.task, 5)
        assert not engine.feed.looked_at and not service.broadcaster.viewers


async def test_a_viewer_who_does_not_read_gets_a_snapshot_instead(serve: Serve) -> None:
    from fastserve.server.telemetry.live import BACKLOG, Viewer

    async with serve() as client:
        viewer = Viewer(client.service.broadcaster, None)
        chunks = viewer.chunks()
        assert b'"type":"snapshot"' in await anext(chunks)
        for number in range(BACKLOG + 5):
            viewer.send({"type": "events", "number": number})
        assert b'"type":"snapshot"' in await anext(chunks)
        assert len(viewer.messages) < BACKLOG
        await chunks.aclose()


SECRETS = {"user": "carol-name", "program": "carol-program", "priority": 770077007, "metadata": {"a": "carol-metadata"}}


async def test_a_viewer_does_not_learn_of_other_clients_jobs(serve: Serve) -> None:
    """What the scheduler does with them is seen, whose they are is not: in snapshots, in progress and in events."""
    from fastserve.server.telemetry.live import HIDDEN, SHOWN, Viewer

    async with serve(slow_engine(max_batch=2), api_key=["aaa alice", "ccc carol"]) as client:
        carol = {"Authorization": "Bearer ccc"}
        viewers = {name: Viewer(client.service.broadcaster, name) for name in ("alice", "carol")}
        chunks = {name: viewer.chunks() for name, viewer in viewers.items()}
        body = {"prompt": "hello", "max_new_tokens": 2000, "ignore_eos": True, **SECRETS}
        first = (await client.post("/jobs", json=body, headers=carol)).json()["job_id"]
        told: dict[str, list[Any]] = {name: [] for name in viewers}

        async def hear(kind: str, number: int) -> None:
            for name, stream in chunks.items():
                while sum(event["type"] == kind for each in told[name] for event in each.get("events", [])) < number:
                    told[name] += every_data_line((await anext(stream)).decode())

        for name, stream in chunks.items():
            told[name] += every_data_line((await anext(stream)).decode())
        second = (await client.post("/jobs", json=body, headers=carol)).json()["job_id"]
        waits = (await client.post("/jobs", json=body, headers=carol)).json()["job_id"]
        async with asyncio.timeout(20):
            await hear("arrive", 2)
            for job in (second, first, waits):
                await client.delete(f"/jobs/{job}", headers=carol)
            await hear("end", 3)
        for stream in chunks.values():
            await stream.aclose()
        seen = {name: json.dumps(messages) for name, messages in told.items()}
        for secret in ("carol", *(first, second, waits), "770077007"):
            assert secret in seen["carol"] and secret not in seen["alice"], secret
        assert "carol-metadata" not in seen["carol"]
        for messages in told["alice"]:
            for entry in [*messages["jobs"], *messages.get("events", [])]:
                assert set(entry) <= SHOWN | set(HIDDEN)
                assert all(entry[name] == value for name, value in HIDDEN.items() if name in entry)
        kinds = [event["type"] for each in told["alice"] for event in each.get("events", [])]
        assert {"arrive", "join", "end"} <= set(kinds)


async def test_without_tokens_nobody_learns_of_a_program(serve: Serve) -> None:
    from fastserve.server.telemetry.live import Viewer

    async with serve(slow_engine()) as client:
        body = {"prompt": "hello", "max_new_tokens": 2000, "ignore_eos": True, **SECRETS}
        job = (await client.post("/jobs", json=body)).json()["job_id"]
        chunks = Viewer(client.service.broadcaster, None).chunks()
        (first,) = every_data_line((await anext(chunks)).decode())
        (shown,) = first["jobs"]
        assert shown["client"] == "carol-name" and shown["program"] == "" and shown["job_id"] == job
        await chunks.aclose()
        await client.delete(f"/jobs/{job}")


async def test_what_a_policy_says_of_others_is_their_queue(serve: Serve) -> None:
    from fastserve.server.telemetry.live import Viewer

    async with serve() as client:
        viewer = Viewer(client.service.broadcaster, "alice")
        for said, shown in (("Q2, 31 ms left of bob", "Q2"), ("next is bob", ""), ("Q1: bob", "Q1"), ("Quite bob", "")):
            told = viewer._event({"jobs": [{"id": 1, "client": "bob", "level": said}], "events": []})
            (job,) = every_data_line(told.decode())[0]["jobs"]
            assert job["level"] == shown
            mine = viewer._event({"jobs": [{"id": 1, "client": "alice", "level": said}]})
            assert every_data_line(mine.decode())[0]["jobs"][0]["level"] == said


async def test_the_policy_is_called_what_it_was_given_as(serve: Serve) -> None:
    async with serve(Engine.scripted(policy="sj-mlfq")) as client:
        assert (await client.service.broadcaster.snapshot())["stats"]["policy"] == "sj-mlfq"


def _get(app: Any, path: str) -> Caller:
    async def as_get(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "method": "GET"}, receive, send)

    return Caller(as_get, path, {})


def happened(viewer: Caller) -> list[Any]:
    return [event for message in messages(viewer) for event in message.get("events", [])]
