"""Routes under other servers' names, asked and read as their clients do."""

from __future__ import annotations

import asyncio

import pytest

from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig
from tests.server.conftest import Serve, slow_engine
from tests.server.sse import events
from tests.server.test_leaving import Caller

pytestmark = pytest.mark.anyio
FORM = {"content-type": "application/x-www-form-urlencoded"}  # what curl -d sends


async def test_v1_generate_streams_raw_text(serve: Serve) -> None:
    async with serve() as client:
        fields = {"prompt": "hello", "max_new_tokens": 6, "temperature": 0.5, "top_k": 5, "top_p": 0.9, "seed": 3}
        whole = (await client.post("/generate", json=fields)).json()["text"]
        response = await client.post("/v1/generate", json=fields)
        assert response.headers["content-type"].startswith("text/event-stream")
        first, *texts, last = events(response.text)
        assert first.name == "ttft" and float(first.data) >= 0
        assert [event.name for event in texts] == [""] * 6 and "".join(event.data for event in texts) == whole
        assert last == ("done", "")


async def test_a_line_break_in_a_token_stays_one_event(serve: Serve) -> None:
    from fastserve.engine.request import Piece
    from fastserve.server.api.compat import RawFormat
    from fastserve.server.jobs.jobs import Group, ServedJob

    group = Group()
    group.jobs.append(ServedJob("id", "client", "generate", "model", 1, {}))
    form = RawFormat(group)
    told = (form.piece(0, Piece(5, "a\nb", 0)) + form.piece(0, Piece(5, "", 1))).decode()
    assert [event.data for event in events(told)][1:] == ["a\nb", ""]


@pytest.mark.parametrize("headers", [FORM, {"content-type": "application/json"}, {}])
async def test_stream_takes_json_whatever_its_content_type(serve: Serve, headers: dict[str, str]) -> None:
    async with serve() as client:
        response = await client.post("/stream", content='{"prompt": "hello", "max_length": 8}', headers=headers)
        assert response.status_code == 200
        assert [event.name for event in events(response.text)] == ["ttft", "", "", "", "done"]


async def test_stream_by_get(serve: Serve) -> None:
    async with serve() as client:
        response = await client.get("/stream", params={"prompt": "hello", "max_new_tokens": 2, "top_k": 3})
        assert len(events(response.text)) == 4
        assert (await client.get("/stream")).status_code == 422
        assert (await client.get("/stream", params={"prompt": "a", "top_p": 7})).status_code == 422


async def test_refusals_of_stream(serve: Serve) -> None:
    async with serve() as client:
        assert (await client.post("/stream", content="not json", headers=FORM)).status_code == 400
        wrong = await client.post("/stream", content='{"prompt": "a", "bogus": 1}', headers=FORM)
        assert wrong.status_code == 422 and wrong.json()["detail"][0]["loc"] == ["body", "bogus"]
        assert (await client.post("/v1/generate", json={})).status_code == 422, "not in OpenAI's shape"


async def test_generate_nobatch_runs_one_at_a_time(serve: Serve) -> None:
    async with serve(slow_engine()) as client:
        fields = {"prompt": "hello", "max_new_tokens": 5, "ignore_eos": True}
        asked = asyncio.gather(*[client.post("/v1/generate_nobatch", json=fields) for _ in range(3)])
        most = 0
        while not asked.done():
            most = max(most, client.service.engine.snapshot().running)
            await asyncio.sleep(0.005)
        answers = [response.json() for response in await asked]
        assert most == 1
        assert all(len(answer["text"]) == 5 and answer["job_id"] for answer in answers)


async def test_who_leaves_or_waits_too_long_gives_up_its_turn() -> None:
    with slow_engine() as engine:
        app = create_app(engine, FastServeConfig(request_timeout=0.2))
        service = app.state.service
        await service.nobatch_lock.acquire()
        fields = {"prompt": "hello", "max_new_tokens": 2}
        left, late = [Caller(app, "/v1/generate_nobatch", fields) for _ in range(2)]
        await asyncio.sleep(0.02)
        left.hung_up.set()
        await asyncio.wait_for(left.task, 5)
        await asyncio.wait_for(late.task, 5)
        assert late.sent[0]["status"] == 504 and b"turn" in late.sent[1]["body"]
        assert not service.registry.jobs, "neither has become a job"
        service.nobatch_lock.release()
        patient = create_app(engine, FastServeConfig())  # who is served may take as long as it needs
        patient.state.service.nobatch_lock = service.nobatch_lock
        served = Caller(patient, "/v1/generate_nobatch", fields)
        await asyncio.wait_for(served.task, 30)
        assert served.sent[0]["status"] == 200 and not service.nobatch_lock.locked()


async def test_model(serve: Serve) -> None:
    async with serve() as client:
        facts = (await client.get("/model")).json()
        assert facts["vocab_size"] == 257 and facts["eos"] == [256] and facts["max_batch_size"] == 4
        assert isinstance(facts["device"], str) and facts["sampling"] == {}


@pytest.mark.parametrize("field", ["prompt", "text"])
async def test_tasks(serve: Serve, field: str) -> None:
    async with serve() as client:
        sent = await client.post("/send_text", json={field: "hello", "model_name": "scripted"})
        assert sent.status_code == 200
        task_id = sent.json()["task_id"]
        task: dict[str, object] = {}
        while task.get("status") != "SUCCESS":
            await asyncio.sleep(0.01)
            task = (await client.get(f"/get_task_status/{task_id}")).json()
        assert task["task_id"] == task_id and len(str(task["result"])) == 100
        assert (await client.get("/poll_task_status", params={"task_id": task_id})).json() == task
        assert (await client.get("/tasks/")).json() == [task]
        assert (await client.get("/get_task_status/none")).status_code == 404


async def test_states_of_tasks(serve: Serve) -> None:
    async with serve(slow_engine(max_batch=1, policy="fcfs")) as client:
        first, second = [(await client.post("/send_text", json={"text": "hello"})).json()["task_id"] for _ in range(2)]
        while (await client.get(f"/get_task_status/{first}")).json()["status"] != "STARTED":
            await asyncio.sleep(0.01)
        waiting = (await client.get(f"/get_task_status/{second}")).json()
        assert waiting == {"task_id": second, "status": "PENDING", "result": None}
        for task in (first, second):
            await client.delete(f"/jobs/{task}")
            assert (await client.get(f"/get_task_status/{task}")).json()["status"] == "REVOKED"


async def test_health_check(serve: Serve) -> None:
    async with serve() as client:
        assert (await client.get("/health_check")).json() == {"status": "ok"}
