"""The native routes: /generate, /chat, /jobs, and what happens when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from fastserve.engine import Engine
from fastserve.sched.job import Job
from fastserve.server.api.fields import MAX_BYTES
from tests.server.conftest import Serve, slow_engine
from tests.server.sse import chunks, every_data_line

pytestmark = pytest.mark.anyio


async def test_generate(serve: Serve) -> None:
    async with serve() as client:
        response = await client.post("/generate", json={"prompt": "hello", "max_new_tokens": 7, "metadata": {"a": [1]}})
        answer = response.json()
        assert response.status_code == 200
        assert answer["job_id"] == answer["request_id"] and isinstance(answer["job_id"], str)
        assert answer["generated_text"] == answer["text"] and len(answer["text"]) == 7
        assert answer["tokens_generated"] == 7 and answer["total_tokens"] == 12
        assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        assert answer["completion_time"] == answer["generation_time"]
        assert answer["generation_time"] == pytest.approx(answer["queue_time"] + answer["execution_time"])
        assert answer["tokens_per_second"] == pytest.approx(7 / answer["generation_time"])
        assert 0 < answer["time_to_first_token"] < answer["generation_time"]
        assert answer["preemption_count"] == 0 and answer["finish_reason"] == "length"
        assert answer["metadata"] == {"a": [1], "model_name": "scripted", "backend": "scripted"}


async def test_other_names_of_fields(serve: Serve) -> None:
    async with serve() as client:
        for fields in (
            {"max_new_tokens": 3},
            {"max_tokens": 3},
            {"max_completion_tokens": 3},
            {"max_length": 5},
            {"max_tokens": 3, "model_name": "scripted", "stop": ["\x00"], "do_sample": False},
        ):
            answer = (await client.post("/generate", json={"prompt": "ab", **fields})).json()
            assert answer["tokens_generated"] == 3, fields


async def test_defaults_are_the_servers_and_are_cut_to_the_context(serve: Serve) -> None:
    async with serve(Engine.scripted(max_model_len=64), max_new_tokens=40) as client:
        assert (await client.post("/generate", json={"prompt": "ab"})).json()["tokens_generated"] == 40
        assert (await client.post("/generate", json={"prompt": "a" * 60})).json()["tokens_generated"] == 4
        too_many = await client.post("/generate", json={"prompt": "a" * 60, "max_new_tokens": 40})
        assert too_many.status_code == 400
        assert "60" in too_many.json()["detail"] and "64" in too_many.json()["detail"]
        assert (await client.post("/generate", json={"prompt": "abcd", "max_length": 4})).status_code == 400


async def test_unknown_fields_are_named(serve: Serve) -> None:
    async with serve() as client:
        response = await client.post("/generate", json={"prompt": "a", "max_new_tokenz": 3})
        assert response.status_code == 422
        assert response.json()["detail"][0]["loc"] == ["body", "max_new_tokenz"]
        assert (await client.post("/generate", json={"prompt": "a", "model": "gpt-9"})).status_code == 404


@pytest.mark.parametrize("body", [b'{"prompt": "\\ud800"}', b'{"prompt": NaN}', b"[" * 10_000, b"\xff", b"", b"nope"])
async def test_bodies_that_are_none(serve: Serve, body: bytes) -> None:
    async with serve() as client:
        response = await client.post("/generate", content=body, headers={"content-type": "application/json"})
        assert response.status_code in (400, 422)
        assert response.json()["detail"]


@pytest.mark.parametrize("path", ["/generate", "/generate/stream"])
async def test_the_stream(serve: Serve, path: str) -> None:
    async with serve() as client:
        fields = {"prompt": "hello", "max_new_tokens": 5, "seed": 3}
        whole = (await client.post("/generate", json=fields)).json()
        response = await client.post(path, json={**fields, "stream": True})
        assert "event:" not in response.text and "[DONE]" not in response.text
        *tokens, last = every_data_line(response.text)
        assert len(tokens) == 5 and "time_to_first_token" in tokens[0] and "time_to_first_token" not in tokens[1]
        assert "".join(token["text"] for token in tokens) == whole["text"]
        assert [token["tokens_generated"] for token in tokens] == [1, 2, 3, 4, 5]
        assert all(token["token"] == token["text"] and token["is_final"] is False for token in tokens)
        assert {token["job_id"] for token in tokens} == {last["request_id"]}
        assert last["is_final"] and last["final"] and last["text"] == last["token"] == ""
        assert set(whole) <= set(last) and last["finish_reason"] == "length" and last["tokens_generated"] == 5


async def test_chat(serve: Serve) -> None:
    async with serve() as client:
        fields = {"messages": [{"role": "user", "content": "hi"}], "max_new_tokens": 4, "seed": 2}
        answer = (await client.post("/chat", json=fields)).json()
        assert answer["message"] == {"role": "assistant", "content": answer["text"]}
        assert answer["tokens_generated"] == 4 and answer["request_id"] and answer["finish_reason"] == "length"
        *_, last = every_data_line((await client.post("/chat", json={**fields, "stream": True})).text)
        assert last["message"] == answer["message"]


async def test_every_request_is_a_job(serve: Serve) -> None:
    async with serve() as client:
        answer = (await client.post("/generate", json={"prompt": "hello", "max_new_tokens": 4})).json()
        await client.post("/v1/completions", json={"prompt": "a"})
        listed = (await client.get("/jobs")).json()
        assert listed["total"] == 2 and [job["kind"] for job in listed["jobs"]] == ["completion", "generate"]
        job = (await client.get(f"/jobs/{answer['job_id']}")).json()
        assert job["state"] == "finished" and job["reason"] == "length" and job["result"] == answer
        assert (await client.get("/jobs", params={"state": "running"})).json()["jobs"] == []
        assert (await client.get("/jobs/none")).status_code == 404


async def test_a_job_is_taken_done_and_answered(serve: Serve) -> None:
    async with serve() as client:
        response = await client.post("/jobs", json={"prompt": "hello", "max_new_tokens": 4, "metadata": {"k": "v"}})
        assert response.status_code == 202
        taken = response.json()
        assert response.headers["location"] == f"/jobs/{taken['job_id']}" and taken["state"] == "queued"
        job = await ended(client, taken["job_id"])
        assert job["state"] == "finished" and job["durable"] and job["result"]["tokens_generated"] == 4
        assert job["metadata"] == {"k": "v"}
        assert (await client.post("/jobs", json={"prompt": "a", "stream": True})).status_code == 400


async def test_a_job_while_it_lives(serve: Serve) -> None:
    async with serve(slow_engine(max_batch=1, policy="mlfq", knobs={"q1": 1000.0})) as client:
        first, second = [
            (await client.post("/jobs", json={"prompt": "ab", "max_new_tokens": 1000, "ignore_eos": True})).json()
            for _ in range(2)
        ]
        while (running := (await client.get(f"/jobs/{first['job_id']}")).json())["tokens_generated"] < 2:
            await asyncio.sleep(0.01)
        assert running["state"] in ("running", "preempted") and running["queue_level"].startswith("Q")
        waiting = (await client.get("/jobs", params={"state": "queued"})).json()["jobs"]
        assert [job["job_id"] for job in waiting] == [second["job_id"]] and waiting[0]["position"] == 1
        gone = await client.delete(f"/jobs/{second['job_id']}")
        assert gone.status_code == 200 and gone.json()["state"] == "cancelled"
        stopped = (await client.delete(f"/jobs/{first['job_id']}")).json()
        assert stopped["state"] == "cancelled" and 2 <= stopped["result"]["tokens_generated"] < 1000
        again = (await client.delete(f"/jobs/{first['job_id']}")).json()
        assert again == stopped, "what has ended stays as it is"
        assert (await client.delete("/jobs/none")).status_code == 404


async def test_who_looks_at_a_job_in_its_last_moment_does_not_take_its_end_away(serve: Serve) -> None:
    async with serve() as client:
        asked = asyncio.create_task(client.post("/generate", json={"prompt": "ab", "max_new_tokens": 3}))
        while not client.service.registry.jobs:
            await asyncio.sleep(0)
        (job,) = client.service.registry.jobs.values()
        assert job.handle is not None
        job.handle.result()  # the event loop has not heard of it yet
        client.service.settle(job)
        assert job.ended is not None
        assert (await asyncio.wait_for(asked, 5)).status_code == 200


async def test_cancelled_by_somebody_else(serve: Serve) -> None:
    async with serve(slow_engine()) as client:
        asked = {
            "plain": client.post("/generate", json={"prompt": "ab", "max_new_tokens": 1000}),
            "stream": client.post("/generate/stream", json={"prompt": "ab", "max_new_tokens": 1000}),
            "openai": client.post("/v1/completions", json={"prompt": "ab", "max_tokens": 1000, "stream": True}),
            "raw": client.post("/stream", json={"prompt": "ab", "max_new_tokens": 1000}),
        }
        tasks = {name: asyncio.create_task(request) for name, request in asked.items()}
        jobs = []
        while len(jobs) < 4:
            await asyncio.sleep(0.01)
            jobs = (await client.get("/jobs")).json()["jobs"]
        for job in jobs:
            await client.delete(f"/jobs/{job['job_id']}")
        plain = await tasks["plain"]
        assert plain.status_code == 409 and "cancelled" in plain.json()["detail"]
        last = every_data_line((await tasks["stream"]).text)[-1]
        assert last["is_final"] and last["finish_reason"] == "cancelled" and "cancelled" in last["error"]
        error = chunks((await tasks["openai"]).text)[-1]["error"]
        assert error["code"] == 409 and "cancelled" in error["message"]
        assert (await tasks["raw"]).text.endswith("event: done\ndata: \n\n")


async def test_timeouts(serve: Serve) -> None:
    async with serve(request_timeout=0.1) as client:  # of the engine's clock: some five tokens
        fields = {"prompt": "ab", "max_new_tokens": 1000, "ignore_eos": True}
        plain = await client.post("/generate", json=fields)
        assert plain.status_code == 504 and "detail" in plain.json()
        last = every_data_line((await client.post("/generate/stream", json=fields)).text)[-1]
        assert last["finish_reason"] == "timeout" and 1 < last["tokens_generated"] < 20
        openai = await client.post("/v1/completions", json={"prompt": "ab", "max_tokens": 1000})
        assert openai.status_code == 504 and openai.json()["error"]["type"] == "TimeoutError"
        job = (await client.get(f"/jobs/{last['job_id']}")).json()
        assert job["state"] == "failed" and job["reason"] == "timeout"
        taken = (await client.post("/jobs", json=fields)).json()
        assert (await ended(client, taken["job_id"]))["state"] == "finished", "jobs have no timeout"


async def test_a_full_queue(serve: Serve) -> None:
    async with serve(slow_engine(max_batch=1, queue_capacity=1)) as client:
        fields = {"prompt": "ab", "max_new_tokens": 1000, "ignore_eos": True}
        for _ in range(2):
            assert (await client.post("/jobs", json=fields)).status_code == 202
        for path, body in (("/generate", fields), ("/jobs", fields), ("/v1/completions", {"prompt": "a"})):
            refused = await client.post(path, json=body)
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        listed = (await client.get("/jobs")).json()["jobs"]
        assert len(listed) == 2, "a refused job is none"
        for job in listed:
            await client.delete(f"/jobs/{job['job_id']}")


async def test_a_failure_of_the_engine_fails_its_request_alone(serve: Serve) -> None:
    def fail(job: Job, index: int) -> None:
        if job.id == 1 and index == 2:
            raise ValueError("the sampler choked")

    async with serve(Engine.scripted(fail=fail)) as client:
        fields = {"prompt": "ab", "max_new_tokens": 6}
        good, bad, also = await asyncio.gather(*[client.post("/generate", json=fields) for _ in range(3)])
        assert good.status_code == also.status_code == 200
        jobs = (await client.get("/jobs", params={"state": "failed"})).json()["jobs"]
        assert bad.status_code == 500 and len(jobs) == 1
        assert jobs[0]["job_id"] in bad.json()["detail"] and "choked" in bad.json()["detail"]
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/generate", "/stream", "/v1/completions"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": "\xe9"}', "it is not UTF-8 text"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "the body holds a number of more than 1,024 digits"),
        (b"prompt=hello", "the body is not JSON: "),
    ],
)
async def test_a_body_that_cannot_be_read_is_told_why(serve: Serve, path: str, body: bytes, words: str) -> None:
    async with serve() as client:
        response = await client.post(path, content=body, headers={"content-type": "application/json"})
        assert response.status_code in (400, 422) and words in response.text
        assert "the body is not JSON" in response.text or "digits" in words


async def test_a_body_of_many_faults_names_a_few(serve: Serve) -> None:
    async with serve() as client:
        faults = (await client.post("/generate", json={"prompt": "a", **{f"x{i}": 1 for i in range(5000)}})).json()
        assert len(faults["detail"]) == 9 and faults["detail"][-1]["msg"] == "and 4992 more of this kind"
        response = await client.post("/v1/completions", json={"prompt": [["a"] * 100] * 100})
        assert len(response.content) < 300 and "a list of token ids" in response.json()["error"]["message"]


async def test_what_a_client_sends_along_cannot_spoil_the_list_of_jobs(serve: Serve) -> None:
    """What is no text or nested without end is refused; anything else comes back as it came."""
    nested: object = "end"
    for _ in range(63):
        nested = [nested]
    async with serve() as client:
        for extra in ('"metadata": {"deep": ' + "[" * 500 + "]" * 500 + "}", '"user": "\\ud800"'):
            body = '{"prompt": "a", ' + extra + "}"
            for path in ("/jobs", "/generate"):
                assert (await client.post(path, content=body)).status_code == 422, extra
        odd = {"half": "\ud800", "deep": nested}
        content = json.dumps({"prompt": "a", "metadata": odd}).encode()
        job = (await client.post("/jobs", content=content, headers={"Content-Type": "application/json"})).json()[
            "job_id"
        ]
        await ended(client, job)
        for path in (f"/jobs/{job}", "/jobs", f"/get_task_status/{job}"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.get("/jobs")).json()["jobs"][0]["metadata"] == odd


async def test_what_is_kept_with_a_job_is_small(serve: Serve) -> None:
    async with serve() as client:
        fits = {"k": "x" * (MAX_BYTES - len('{"k": ""}'))}
        fields = {"prompt": "a", "max_new_tokens": 1, "metadata": fits, "user": "u" * 256}
        assert (await client.post("/generate", json=fields)).status_code == 200
        for extra, words in (({"metadata": {"k": fits["k"] + "x"}}, "16385 bytes"), ({"user": "u" * 257}, "256")):
            refused = await client.post("/generate", json=fields | extra)
            assert refused.status_code == 422 and words in refused.text, refused.text


async def test_token_ids_beyond_the_context_are_refused_unread(serve: Serve) -> None:
    """The numbers are said, and not that an id is no token."""
    async with serve() as client:
        most = client.service.engine.max_model_len
        for path in ("/generate", "/jobs", "/v1/completions"):
            response = await client.post(path, json={"prompt": [999_999] * most, "max_tokens": 1})
            assert response.status_code == 400, response.text
            assert f"a prompt of {most} tokens with 1 more to generate exceeds the context of {most}" in response.text


async def test_durable_jobs_are_not_forgotten_for_others(serve: Serve) -> None:
    async with serve(keep_jobs=2) as client:
        job = (await client.post("/jobs", json={"prompt": "a", "max_new_tokens": 1})).json()["job_id"]
        await ended(client, job)
        for _ in range(4):
            await client.post("/generate", json={"prompt": "a", "max_new_tokens": 1})
        assert (await client.get("/jobs")).json()["total"] == 3
        assert (await client.get(f"/jobs/{job}")).json()["state"] == "finished"


async def test_request_ids_are_echoed(serve: Serve) -> None:
    async with serve() as client:
        response = await client.post("/generate", json={"prompt": "a"}, headers={"X-Request-Id": "mine-1"})
        assert response.headers["x-request-id"] == "mine-1" and response.json()["request_id"] != "mine-1"
        for path in ("/nowhere", "/health"):
            assert (await client.get(path)).headers["x-request-id"]
        odd = await client.get("/health", headers={"X-Request-Id": "a b" * 100})
        assert " " not in odd.headers["x-request-id"]


async def test_a_body_that_is_too_large(serve: Serve) -> None:
    async with serve(max_body_mib=0.001) as client:
        assert (await client.post("/generate", json={"prompt": "a" * 5000})).status_code == 413

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b" " * 500

        for path in ("/generate", "/stream"):
            response = await client.post(path, content=pieces(), headers={"content-type": "application/json"})
            assert response.status_code == 413 and "1,049 bytes" in response.json()["detail"]
        wrong = await client.post("/generate", content=b"{}", headers={"content-length": "many"})
        assert wrong.status_code == 400 and "many" in wrong.json()["detail"]
        openai = await client.post("/v1/completions", json={"prompt": "a" * 5000})
        assert openai.status_code == 413 and openai.json()["error"]["type"] == "RequestTooLargeError"


async def ended(client: object, job_id: str) -> dict[str, object]:
    """The job, once it has ended."""
    while True:
        job = (await client.get(f"/jobs/{job_id}")).json()  # type: ignore[attr-defined]
        if job["ended"] is not None:
            return job
        await asyncio.sleep(0.01)
