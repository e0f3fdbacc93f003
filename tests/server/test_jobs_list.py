"""GET /jobs: summaries of one's own jobs, by state and page; and what is said of a misspelt field anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.conftest import Client, Serve, slow_engine

pytestmark = pytest.mark.anyio


async def listed(client: Client, **query: Any) -> dict[str, Any]:
    response = await client.get("/jobs", params=query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_summaries_have_no_results(serve: Serve) -> None:
    async with serve() as client:
        body = {"prompt": "hello", "max_new_tokens": 3, "metadata": {"mine": 1}}
        job = (await client.post("/generate", json=body)).json()["job_id"]
        (found,) = (await listed(client))["jobs"]
        whole = (await client.get(f"/jobs/{job}")).json()
        assert whole.pop("result")["tokens_generated"] == 3 and "result" not in found
        assert found == whole and found["metadata"] == {"mine": 1} and found["tokens_generated"] == 3
        assert found["reason"] == "length" and found["state"] == "finished"


async def test_pages(serve: Serve) -> None:
    async with serve() as client:
        body = {"prompt": "a", "max_new_tokens": 1}
        ids = [(await client.post("/generate", json=body)).json()["job_id"] for _ in range(7)]
        assert (await client.delete(f"/jobs/{ids[0]}")).json()["state"] == "finished"
        seen: list[str] = []
        page = await listed(client, limit=3)
        while True:
            assert page["total"] == 7
            seen += [job["job_id"] for job in page["jobs"]]
            if page["next"] is None:
                break
            newer = (await client.post("/generate", json=body)).json()["job_id"]
            page = await listed(client, limit=3, after=page["next"])
            page["total"] -= 1 + ids.count(newer) + len(seen) // 3 - 1
        assert seen == ids[::-1], "each once, whatever came meanwhile"
        assert (await listed(client, limit=7, after=ids[0])) == {"jobs": [], "total": 9, "next": None}
        assert (await client.get("/jobs", params={"after": "nobody"})).status_code == 404


async def test_states(serve: Serve) -> None:
    async with serve(slow_engine(policy="fcfs", max_batch=1)) as client:
        long = {"prompt": "a", "max_new_tokens": 2000, "ignore_eos": True}
        ids = [(await client.post("/jobs", json=long)).json()["job_id"] for _ in range(3)]
        await client.delete(f"/jobs/{ids[1]}")
        states = {
            state: (await listed(client, state=state)) for state in ("running", "queued", "preempted", "cancelled")
        }
        assert states["cancelled"]["total"] == 1 and states["cancelled"]["jobs"][0]["job_id"] == ids[1]
        live = [job["job_id"] for state in ("running", "queued", "preempted") for job in states[state]["jobs"]]
        assert sorted(live) == sorted([ids[0], ids[2]])
        assert (await listed(client, state="queued", limit=1, after=ids[1]))["total"] == states["queued"]["total"]
        assert (await client.get("/jobs", params={"state": "done"})).status_code == 422
        for job in ids:
            await client.delete(f"/jobs/{job}")


async def test_a_page_ends_at_ones_own_jobs(serve: Serve) -> None:
    async with serve(api_key=["aaa alice", "bbb bob"]) as client:
        ids = {}
        for token in ("aaa", "bbb"):
            headers = {"Authorization": f"Bearer {token}"}
            ids[token] = (await client.post("/generate", json={"prompt": "a"}, headers=headers)).json()["job_id"]
            mine = (await client.get("/jobs", headers=headers)).json()
            assert [job["job_id"] for job in mine["jobs"]] == [ids[token]] and mine["total"] == 1
        answer = await client.get("/jobs", params={"after": ids["aaa"]}, headers={"Authorization": "Bearer bbb"})
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "fields", "loc", "meant"),
    [
        ("POST", "/generate", {"prompt": "a", "max_new_token": 3}, ["body", "max_new_token"], "max_new_tokens"),
        ("POST", "/generate/stream", {"prompt": "a", "temprature": 1}, ["body", "temprature"], "temperature"),
        ("POST", "/generate", {"promt": "a"}, ["body", "promt"], "prompt"),
        ("POST", "/generate", {"prompt": "a", "max_completion_token": 3}, ["body", "max_completion_token"],
         "max_completion_tokens"),
        ("POST", "/chat", {"messages": [{"role": "user", "content": "a"}], "sead": 3}, ["body", "sead"], "seed"),
        ("POST", "/chat", {"messages": [{"role": "user", "contents": "a"}]}, ["body", "messages", 0, "contents"],
         "content"),
        ("POST", "/jobs", {"prompt": "a", "priorty": 1}, ["body", "priorty"], "priority"),
        ("POST", "/v1/generate", {"prompt": "a", "topk": 1}, ["body", "topk"], "top_k"),
        ("POST", "/v1/generate_nobatch", {"prompt": "a", "gues": 1}, ["body", "gues"], "guess"),
        ("POST", "/stream", {"prompt": "a", "max_lenght": 9}, ["body", "max_lenght"], "max_length"),
        ("POST", "/send_text", {"prompt": "a", "modelname": "x"}, ["body", "modelname"], "model_name"),
        ("GET", "/stream", {"prompt": "a", "max_new_token": 3}, ["query", "max_new_token"], "max_new_tokens"),
        ("GET", "/jobs", {"lmit": 3}, ["query", "lmit"], "limit"),
        ("GET", "/jobs", {"status": "queued"}, ["query", "status"], "state"),
    ],
)  # fmt: skip
async def test_a_misspelt_field(
    serve: Serve, method: str, path: str, fields: dict[str, Any], loc: list[Any], meant: str
) -> None:
    async with serve() as client:
        sent = {"json": fields} if method == "POST" else {"params": fields}
        response = await client.request(method, path, **sent)  # type: ignore[arg-type]
        assert response.status_code == 422, response.text
        (said,) = [fault for fault in response.json()["detail"] if fault["loc"] == loc]
        assert f"has no field {loc[-1]!r}; it has " in said["msg"] and said["msg"].endswith(f"; did you mean {meant}?")
        assert not client.service.registry.jobs


async def test_a_long_name_costs_little(serve: Serve) -> None:
    async with serve() as client:
        fields = {"prompt": "a", **{f"{index}" + "x" * 3000: 1 for index in range(20)}}
        response = await client.post("/generate", json=fields)
        assert response.status_code == 422 and len(response.content) < 60_000
        assert len(response.json()["detail"]) == 9
