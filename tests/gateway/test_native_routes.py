"""Native routes by model name: to our servers as they come, to others as OpenAI's completions; jobs and tasks."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastserve.bench.stub import Behaviour
from fastserve.engine import Engine
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.http.http_protocol import bounded
from tests.gateway.conftest import Request, live, odd, reply, stub
from tests.gateway.test_hostile_upstreams import dying, events_of

pytestmark = pytest.mark.anyio
NATIVE = {"model": "stub", "prompt": "Hi", "max_new_tokens": 3, "metadata": {"mine": 1}}
CHAT = {"model": "stub", "messages": [{"role": "user", "content": "Hi"}], "max_new_tokens": 3}


@contextlib.asynccontextmanager
async def ours(**settings: Any) -> AsyncIterator[str]:
    """URL of a real server of ours on a scripted engine, in this process."""
    import uvicorn

    config = FastServeConfig(port=0, **settings)
    with Engine.scripted(max_batch=4) as engine:
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(engine, config), port=0, http=bounded(config), ws="none", log_config=None,
                timeout_graceful_shutdown=1,
            )
        )  # fmt: skip
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


async def test_all_routes_in_front_of_our_server() -> None:
    async with ours() as url, live(url) as gateway:
        fields = {"prompt": "Hi", "max_new_tokens": 3}
        whole = (await gateway.post("/generate", fields)).json()
        assert whole["tokens_generated"] == 3 and whole["metadata"]["backend"] == "scripted"
        for path in ("/generate/stream", "/chat", "/v1/generate", "/v1/generate_nobatch"):
            body = {**CHAT, "model": "scripted"} if path == "/chat" else fields
            assert (await gateway.post(path, body)).status_code == 200, path
        form = await gateway.client.post("/stream", content=json.dumps(fields))  # as curl -d sends it
        assert "event: done" in form.text
        got = await gateway.client.get("/stream", params={"prompt": "Hi", "max_new_tokens": 3})
        assert got.status_code == 200 and "event: ttft" in got.text
        counted = (await gateway.post("/tokenize", {"model": "scripted", "prompt": "abc"})).json()
        assert counted["count"] == 3
        back = await gateway.post("/detokenize", {"model": "scripted", "tokens": counted["tokens"]})
        assert back.json() == {"prompt": "abc"}
        for path in ("/v1/completions", "/completions"):
            made = await gateway.post(path, {"model": "scripted", "prompt": "Hi", "max_tokens": 2})
            assert made.json()["usage"]["completion_tokens"] == 2
        refused = await gateway.post("/generate", {"prompt": "Hi", "promt": "x"})
        assert refused.status_code == 422 and "promt" in refused.text


async def test_jobs_stay_where_they_are_and_are_their_clients() -> None:
    tokens = ("t-a a", "t-b b")
    async with ours() as url, ours() as other, live(url, other, api_key=tokens, router="round-robin") as gateway:
        client = gateway.client
        a, b = ({"authorization": f"Bearer t-{name}"} for name in "ab")
        jobs = []
        for _ in range(2):
            sent = await gateway.post("/jobs", {"prompt": "Hi", "max_new_tokens": 3}, headers=a)
            assert sent.status_code == 202, sent.text
            jobs.append(sent.json()["job_id"])
        for job in jobs:
            async with asyncio.timeout(10):
                while (await client.get(f"/jobs/{job}", headers=a)).json()["state"] != "finished":
                    await asyncio.sleep(0.02)
            assert (await client.get(f"/jobs/{job}", headers=b)).status_code == 404
            assert (await client.delete(f"/jobs/{job}", headers=b)).status_code == 404
            assert (await client.delete(f"/jobs/{job}", headers=a)).status_code == 200
        listed = (await client.get("/jobs", headers=a)).json()["jobs"]
        assert {job["job_id"] for job in listed} == set(jobs)
        assert (await client.get("/jobs", headers=b)).json()["jobs"] == []
        assert (await client.get("/jobs/..%2fhealth", headers=a)).status_code == 404
        task = (await gateway.post("/send_text", {"text": "Hi"}, headers=a)).json()["task_id"]
        status = await client.get("/poll_task_status", params={"task_id": task}, headers=a)
        assert status.status_code == 200 and status.json()["task_id"] == task
        ended = await client.delete("/programs/p1", headers=a)
        assert ended.status_code == 200


async def test_other_servers_are_asked_for_completions() -> None:
    async def script(request: Request, writer: asyncio.StreamWriter) -> None:
        fields = json.loads(request.body)
        assert request.path == ("/v1/chat/completions" if "messages" in fields else "/v1/completions")
        choice = {"message": {"content": "abc"}} if "messages" in fields else {"text": "abc"}
        answer = {
            "choices": [{"finish_reason": "length", **choice}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 3},
        }
        reply(writer, 200, json.dumps(answer).encode())

    async with odd(script) as upstream, live(upstream.url) as gateway:
        found = (await gateway.post("/generate", {**NATIVE, "do_sample": False, "stop_sequences": ["x"]})).json()
        assert found["text"] == found["generated_text"] == "abc"
        assert (found["tokens_generated"], found["total_tokens"], found["finish_reason"]) == (3, 4, "length")
        assert found["metadata"] == {"mine": 1, "model_name": "stub", "backend": "gateway"}
        assert json.loads(upstream.seen[0].body) == {
            "model": "stub", "prompt": "Hi", "max_tokens": 3, "temperature": 0, "top_p": 0.9, "stop": ["x"],
            "stream": False,
        }  # fmt: skip
        chat = (await gateway.post("/chat", CHAT)).json()
        assert chat["message"] == {"role": "assistant", "content": "abc"}
        assert (await gateway.post("/v1/generate_nobatch", NATIVE)).json()["text"] == "abc"
        assert (await gateway.post("/generate", {**NATIVE, "max_length": 9})).status_code == 400
        assert (await gateway.post("/generate", {"model": "stub"})).status_code == 400
        assert gateway.gateway.load == 0


async def test_their_streams_become_ours() -> None:
    async with stub(Behaviour(tpot=0.001)) as (url, _), live(url) as gateway:
        for path, body in (
            ("/generate/stream", NATIVE),
            ("/generate", {**NATIVE, "stream": True}),
            ("/chat", {**CHAT, "stream": True}),
        ):
            *pieces, last = events_of((await gateway.post(path, body)).text)
            assert [piece["text"] for piece in pieces] == ["x"] * 3
            assert "time_to_first_token" in pieces[0] and pieces[2]["tokens_generated"] == 3
            assert last["is_final"] and last["tokens_generated"] == 3 and last["finish_reason"] == "length"
        raw = (await gateway.post("/v1/generate", NATIVE)).text
        assert raw.startswith("event: ttft\ndata: 0.") and raw.count("data: x\n") == 3
        assert raw.endswith("event: done\ndata: \n\n")
        await gateway.until(lambda: gateway.gateway.load == 0)
    async with odd(dying(b'data: {"choices":[{"text":"a"}]}\n\n')) as upstream, live(upstream.url) as gateway:
        first, last = events_of((await gateway.post("/generate/stream", NATIVE)).text)
        assert first["text"] == "a" and last["finish_reason"] == "error" and "broke off" in last["error"]
        assert "event: error" in (await gateway.post("/v1/generate", NATIVE)).text


async def test_what_cannot_be_translated_says_who_has_it() -> None:
    async def nothing(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 200)

    async with (
        odd(nothing) as one,
        odd(nothing, model="two", owned_by="fastserve") as two,
        live(f"{one.url},name=one", f"{two.url},name=two") as gateway,
    ):
        answer = await gateway.post("/tokenize", {"model": "stub", "prompt": "x"})
        assert answer.status_code == 501
        assert "one (openai)" in answer.text and "two (two)" in answer.text
        assert (await gateway.post("/tokenize", {"model": "two", "prompt": "x"})).status_code == 200
        assert (await gateway.post("/jobs", {"model": "stub", "prompt": "x"})).status_code == 501
