"""The prefix cache from outside: what was found is told, tenants do not meet, programs end, and it can be emptied."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastserve.engine import Engine
from fastserve.policies import POLICIES
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from fastserve.server.config.settings import FastServeConfig
from tests.server.conftest import Client, Serve
from tests.server.sse import chunks, every_data_line

pytestmark = pytest.mark.anyio

TEXT = "Once upon a time there was a ferry, and it had many travellers."  # 63 tokens of bytes: three units of 16
FOUND = 48


def generate(**fields: Any) -> dict[str, Any]:
    return {"prompt": TEXT, "max_new_tokens": 4, "ignore_eos": True, **fields}


def as_client(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}-token"}


class Told(Policy):
    """Keeps what it is told of jobs and of programs that are over."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, bool]] = []
        self.calls: list[str] = []
        self.over: list[str] = []

    def arrive(self, job: Job) -> None:
        self.heard.append((job.program, job.tool, job.final))

    def depart(self, job: Job) -> None:
        self.calls.append(job.calls)

    def ended(self, program: str) -> None:
        self.over.append(program)

    def rank(self, job: Job) -> int:
        return job.arrival


class OneProgram(Policy):
    """Holds back whoever is not of the program that came first."""

    def __init__(self) -> None:
        self.first = ""
        self.others: list[Job] = []

    def arrive(self, job: Job) -> None:
        self.first = self.first or job.program
        if job.program != self.first:
            self.hold(job)
            self.wake(job, waited=10**9)
            self.others.append(job)

    def alarm(self, job: Job, why: str) -> None:
        self.wake(job, waited=10**9)

    def ended(self, program: str) -> None:
        self.first = ""
        for job in self.others:
            self.release(job)
        self.others = []

    def rank(self, job: Job) -> int:
        return job.arrival

    def explain(self, job: Job) -> str:
        return f"its {self.context(job):,} tokens come after {self.first}"


@pytest.fixture
def told() -> Told:
    return Told()


# -- what was found ----------------------------------------------------------------------------------------------------


async def test_native_answers_tell_what_was_found(serve: Serve) -> None:
    async with serve() as client:
        answers = [(await client.post("/generate", json=generate())).json() for _ in range(2)]
        assert [answer["cached_tokens"] for answer in answers] == [0, FOUND]
        assert answers[0]["held_s"] == 0.0
        stream = await client.post("/generate", json=generate(stream=True))
        assert every_data_line(stream.text)[-1]["cached_tokens"] == FOUND
        job = (await client.get(f"/jobs/{answers[1]['job_id']}")).json()
        assert job["cached_tokens"] == job["result"]["cached_tokens"] == FOUND and job["held_s"] == 0.0


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions"])
async def test_openai_usage_tells_what_was_found(serve: Serve, route: str) -> None:
    body: dict[str, Any] = {"max_tokens": 4, "ignore_eos": True}
    body |= {"messages": [{"role": "user", "content": TEXT}]} if "chat" in route else {"prompt": TEXT}

    async def ask(client: Client, **fields: Any) -> Any:
        return (await client.post(route, json=body | fields)).json()["usage"]

    async with serve() as client:
        first, second = await ask(client), await ask(client)
        assert first["prompt_tokens_details"] == {"cached_tokens": 0}
        assert second["prompt_tokens_details"]["cached_tokens"] >= FOUND
        assert {**second, "prompt_tokens_details": 0} == {**first, "prompt_tokens_details": 0}
        several = await ask(client, n=3)
        assert several["prompt_tokens_details"] == second["prompt_tokens_details"], "a prompt is counted once"
        options = {"include_usage": True, "continuous_usage_stats": True}
        stream = chunks((await client.post(route, json=body | {"stream": True, "stream_options": options})).text)
        assert stream[-1]["usage"] == second
        assert all("prompt_tokens_details" not in chunk["usage"] for chunk in stream[:-1] if chunk.get("usage"))
    async with serve(Engine.scripted(max_batch=4, prefix_cache="off")) as client:
        assert "prompt_tokens_details" not in await ask(client), "only where there is a cache"
        assert "prompt_tokens_details" not in await ask(client)


async def test_prompts_of_one_request_are_summed(serve: Serve) -> None:
    async with serve() as client:
        body = {"prompt": [TEXT, "Another " * 8], "n": 2, "max_tokens": 2, "ignore_eos": True}
        found = []
        for _ in range(2):
            usage = (await client.post("/v1/completions", json=body)).json()["usage"]
            found.append(usage["prompt_tokens_details"]["cached_tokens"])
        assert found == [0, FOUND + 48]


async def test_what_the_host_kept_is_found_too(serve: Serve) -> None:
    """The device has room for one request; in between another one takes it."""
    async with serve(Engine.scripted(kv_tokens=80, host_prefix_tokens=960)) as client:
        found = []
        for prompt in (TEXT, TEXT[::-1], TEXT):
            answer = (await client.post("/generate", json=generate(prompt=prompt, seed=1))).json()
            found.append(answer["cached_tokens"])
        assert found == [0, 0, FOUND]
        text = (await client.get("/metrics")).text
        for name, value in (
            ("prefix_cache_queries", 3 * len(TEXT)),
            ("prefix_cache_hits", 0),
            ("external_prefix_cache_queries", 3 * len(TEXT)),
            ("external_prefix_cache_hits", FOUND),
        ):
            assert f"\nfastserve_{name}_total {float(value)}\n" in text, name
            assert f'\nvllm:{name}_total{{engine="0",model_name="scripted"}} {float(value)}\n' in text, name


async def test_metrics_and_statistics(serve: Serve) -> None:
    async with serve() as client:
        for _ in range(3):
            await client.post("/generate", json=generate(seed=1))
        text = (await client.get("/metrics")).text
        for line in (
            f"fastserve_prefix_cache_queries_total {3.0 * len(TEXT)}",
            f"fastserve_prefix_cache_hits_total {2.0 * FOUND}",
            f'vllm:prefix_cache_queries_total{{engine="0",model_name="scripted"}} {3.0 * len(TEXT)}',
            f'vllm:prefix_cache_hits_total{{engine="0",model_name="scripted"}} {2.0 * FOUND}',
            "fastserve_num_requests_held 0.0",
            "fastserve_held_seconds_total 0.0",
            'fastserve_kv_tokens{kind="idle",pool="device"} 64.0',
        ):
            assert f"\n{line}\n" in text, line
        found = (await client.get("/stats/detailed")).json()
        assert found["prefix_cache"] == {
            "on": True, "queries": 3 * len(TEXT), "hits": 2 * FOUND, "hit_rate": 2 * FOUND / (3 * len(TEXT)),
        }  # fmt: skip
        assert found["held"] == 0 and found["device_kv"]["idle"] == 64


# -- tenants -----------------------------------------------------------------------------------------------------------


async def found_by(client: Client, who: str, **fields: Any) -> int:
    answer = await client.post("/generate", json=generate(**fields), headers=as_client(who))
    assert answer.status_code == 200, answer.text
    return int(answer.json()["cached_tokens"])


KEYS = ["a-token alice", "b-token bob", "a/b-token a/b", "alice-token alice", "bob-token bob"]


async def test_clients_do_not_find_what_others_have_asked(serve: Serve) -> None:
    async with serve(api_key=KEYS) as client:
        assert await found_by(client, "alice") == 0
        assert await found_by(client, "bob") == 0, "nothing of alice's is there for bob"
        assert await found_by(client, "alice") == await found_by(client, "bob") == FOUND
        assert await found_by(client, "a") == FOUND, "another key of alice's"
        assert await found_by(client, "alice", cache_salt="s") == 0
        assert await found_by(client, "alice", cache_salt="s") == FOUND
        assert await found_by(client, "bob", cache_salt="s") == 0, "a salt is its client's own"


async def test_an_operator_may_let_them_share(serve: Serve) -> None:
    async with serve(api_key=KEYS, share_prefixes="all") as client:
        assert await found_by(client, "alice") == 0
        assert await found_by(client, "bob") == FOUND
        assert await found_by(client, "bob", cache_salt="s") == 0
        assert await found_by(client, "alice", cache_salt="s") == FOUND, "whoever knows the salt shares"


async def test_without_tokens_salts_alone_keep_apart(serve: Serve) -> None:
    async with serve() as client:

        async def ask(**fields: Any) -> int:
            return int((await client.post("/generate", json=generate(**fields))).json()["cached_tokens"])

        assert [await ask(user="a"), await ask(user="b"), await ask(cache_salt="s"), await ask(cache_salt="s")] == [
            0, FOUND, 0, FOUND,
        ]  # fmt: skip


async def test_a_durable_job_keeps_its_salt(serve: Serve, tmp_path: Any) -> None:
    async def end(client: Client, job: str) -> Any:
        while (found := (await client.get(f"/jobs/{job}", headers=as_client("alice"))).json())["ended"] is None:
            await asyncio.sleep(0.005)
        return found

    slow = Engine.scripted(max_batch=1, realtime=1.0)
    settings: dict[str, Any] = {"api_key": KEYS, "state_dir": tmp_path, "drain_seconds": 0}
    async with serve(slow, **settings) as client:
        asked = generate(cache_salt="s", max_new_tokens=400, tool="grep", program="p", final=True)
        job = (await client.post("/jobs", json=asked, headers=as_client("alice"))).json()["job_id"]
    policy = Told()
    async with serve(Engine.scripted(policy=lambda: policy, max_batch=4), **settings) as client:
        assert (await end(client, job))["state"] == "finished"
        assert policy.heard == [("alice/p", "grep", True)]
        assert await found_by(client, "alice") == 0 and await found_by(client, "alice", cache_salt="s") == FOUND


# -- programs ----------------------------------------------------------------------------------------------------------


async def test_tools_and_ends_reach_the_policy(serve: Serve, told: Told) -> None:
    async with serve(Engine.scripted(policy=lambda: told, max_batch=4)) as client:
        await client.post("/generate", json=generate(job_id="j", last_func_call="bash", this_func_call="edit"))
        await client.post("/generate", json=generate(job_id="j", is_last_step=True))
        assert told.heard == [("j", "bash", False), ("j", "", True)] and told.calls == ["edit", ""]
        call = {"id": "c1", "type": "function", "function": {"name": "grep", "arguments": "{}"}}
        talk = [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
        ]
        body: dict[str, Any] = {"messages": talk, "max_tokens": 2, "n": 2}
        ends = {"X-Dynamo-Session-ID": "d", "X-Dynamo-Session-Final": "true"}
        assert (await client.post("/v1/chat/completions", json=body, headers=ends)).status_code in (200, 400)
        body["messages"] = [{"role": "user", "content": "Look."}, {"role": "tool", "name": "sed", "content": "x"}]
        assert (await client.post("/v1/chat/completions", json=body, headers=ends)).is_success
        assert told.heard[-2:] == [("d", "sed", False), ("d", "sed", True)], "the last choice of a request ends it"
        await until(lambda: told.over == ["j", "d"] or told.over == ["j", "d", "d"])


async def until(holds: Any) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to be")


async def test_a_client_says_that_a_program_has_ended(serve: Serve, told: Told) -> None:
    async with serve(Engine.scripted(policy=lambda: told, max_batch=4)) as client:
        answer = await client.post("/programs/release", json={"program_id": "p"})
        assert answer.json() == {"program_id": "p", "released": True}
        assert (await client.delete("/programs/a%2Fb%20%E6%97%A5")).json() == {"program": "a/b 日", "released": True}
        await until(lambda: told.over == ["p", "a/b 日"])
        for wrong in ({}, {"program_id": ""}, {"program_id": ["p"]}, {"program_id": "p" * 257}, {"other": "p"}):
            assert (await client.post("/programs/release", json=wrong)).status_code in (400, 422), wrong
        both = await client.post("/programs/release", json={"program_id": "p", "program": "q"})
        assert both.status_code == 422 and "send one of them" in both.text
        for empty in ("", "%20", "x" * 257):
            assert (await client.delete(f"/programs/{empty}")).status_code == 400, empty
        assert (await client.delete(f"/programs/{'p' * 257}")).status_code == 400
        assert told.over == ["p", "a/b 日"]
        assert (await client.delete("/programs/%20p%20")).json() == {"program": "p", "released": True}


async def test_nobody_ends_anothers_program(serve: Serve, told: Told) -> None:
    async with serve(Engine.scripted(policy=lambda: told, max_batch=4), api_key=KEYS) as client:
        await client.post("/generate", json=generate(program="p"), headers=as_client("alice"))
        for who in ("bob", "alice"):
            await client.post("/programs/release", json={"program_id": "p"}, headers=as_client(who))
        await until(lambda: len(told.over) == 2)
        assert told.heard[0][0] == told.over[1] == "alice/p" and told.over[0] == "bob/p"
        assert (await client.post("/programs/release", json={"program_id": "p"})).status_code == 401


async def test_a_subagents_end_ends_nothing(serve: Serve, told: Told) -> None:
    async with serve(Engine.scripted(policy=lambda: told, max_batch=4)) as client:
        child = {"X-Dynamo-Session-ID": "child", "X-Dynamo-Parent-Session-ID": "root", "X-Dynamo-Session-Final": "true"}
        await client.post("/generate", json=generate(), headers=child)
        await client.post("/programs/release", json={"program_id": "child"})
        await client.post("/programs/release", json={"program_id": "root"})
        await until(lambda: told.over)
        assert told.heard == [("root", "", False)] and told.over == ["root"]


# -- emptied -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "answer"), [
    ("POST", "/reset_prefix_cache", "success"),
    ("POST", "/reset_prefix_cache?reset_running_requests=false&reset_external=true", "success"),
    ("DELETE", "/prefix_cache", "emptied"),
])  # fmt: skip
async def test_it_can_be_emptied(serve: Serve, method: str, path: str, answer: str) -> None:
    async with serve() as client:
        await client.post("/generate", json=generate())
        assert (await client.request(method, path)).json() == {answer: True}
        assert (await client.post("/generate", json=generate())).json()["cached_tokens"] == 0
        assert (await client.post("/generate", json=generate())).json()["cached_tokens"] == FOUND


async def test_what_a_reset_cannot_do_is_told(serve: Serve) -> None:
    async with serve(Engine.scripted(max_batch=4, realtime=1.0)) as client:
        job = (await client.post("/jobs", json=generate(max_new_tokens=500))).json()["job_id"]
        while (await client.get(f"/jobs/{job}")).json()["tokens_generated"] < 2:
            await asyncio.sleep(0.01)
        assert (await client.post("/reset_prefix_cache")).json() == {"success": False}, "a request holds some"
        refused = await client.post("/reset_prefix_cache?reset_running_requests=true")
        assert refused.status_code == 400 and "keep their KV" in refused.text
        assert (await client.post("/reset_prefix_cache?reset_all=true")).status_code == 422
        assert (await client.post("/reset_prefix_cache?reset_external=perhaps")).status_code == 422
        await client.delete(f"/jobs/{job}")
        assert (await client.post("/reset_prefix_cache")).json() == {"success": True}


async def test_with_tokens_an_admin_alone_may(serve: Serve) -> None:
    async with serve(api_key=KEYS, admin_clients="bob") as client:
        assert (await client.delete("/prefix_cache", headers=as_client("alice"))).status_code == 403
        assert (await client.post("/reset_prefix_cache", headers=as_client("alice"))).status_code == 403
        assert (await client.delete("/prefix_cache", headers=as_client("bob"))).json() == {"emptied": True}
        assert (await client.delete("/prefix_cache")).status_code == 401


async def test_a_closed_engine_is_told(serve: Serve) -> None:
    async with serve() as client:
        client.service.engine.close()
        for method, path in (("DELETE", "/prefix_cache"), ("DELETE", "/programs/p")):
            assert (await client.request(method, path)).status_code == 503


# -- held back ---------------------------------------------------------------------------------------------------------


async def test_who_is_held_back_is_told(serve: Serve) -> None:
    async with serve(Engine.scripted(policy=OneProgram, max_batch=4, realtime=20.0), request_timeout=0) as client:
        viewer = await watch(client)
        await client.post("/generate", json=generate(program="first"))
        waits = asyncio.create_task(client.post("/generate", json=generate(program="second", user="bob")))
        await until(lambda: client.service.engine.snapshot().held == 1)
        text = (await client.get("/metrics")).text
        assert "\nfastserve_num_requests_held 1.0\n" in text and '{level="held back"} 1.0' in text
        row = (await client.get("/jobs?state=queued")).json()["jobs"][0]
        assert row["queue_level"].startswith("held back: its 63 tokens come after first") and row["held_s"] >= 0
        held = await said(viewer, lambda message: any(row["state"] == "held" for row in message["contexts"]))
        shown = next(row for row in held["contexts"] if row["state"] == "held")
        assert shown["why"].startswith("held back: its 63 tokens") and shown["client"] == "bob" and not shown["name"]
        assert shown["segments"] == [[0, FOUND, "idle"]], "of its prompt, what first has left behind"
        assert held["stats"]["held"] == 1
        await client.delete("/programs/first")
        answer = (await waits).json()
        assert answer["held_s"] > 0 and answer["cached_tokens"] == FOUND
        found = await said(viewer, lambda message: "end" in kinds(message))
        assert {"hold", "release"} <= set(viewer.kinds), viewer.kinds
        assert found["stats"]["hits"][-1][1:] == [2 * len(TEXT), FOUND]
        text = (await client.get("/metrics")).text
        seconds = next(line for line in text.splitlines() if line.startswith("fastserve_held_seconds_total"))
        assert float(seconds.split()[1]) == pytest.approx(answer["held_s"])


async def test_who_is_held_back_may_leave_or_be_late(serve: Serve) -> None:
    async with serve(Engine.scripted(policy=OneProgram, max_batch=4, realtime=20.0), request_timeout=0.3) as client:
        await client.post("/generate", json=generate(program="first"))
        late = await client.post("/generate", json=generate(program="second"))
        assert late.status_code == 504 and "took longer" in late.text
        leaves = asyncio.create_task(client.post("/jobs", json=generate(program="second")))
        job = (await leaves).json()["job_id"]
        await until(lambda: client.service.engine.snapshot().held == 1)
        assert (await client.delete(f"/jobs/{job}")).json()["state"] == "cancelled"
        assert client.service.engine.snapshot().held == 0


@pytest.mark.parametrize("policy", [name for name, kind in POLICIES.items() if "guess" not in kind.needs])
async def test_no_policy_minds_ends_of_programs_that_it_does_not_know(serve: Serve, policy: str) -> None:
    async with serve(Engine.scripted(policy=policy, max_batch=2, realtime=50.0), request_timeout=0) as client:

        async def ask(number: int) -> int:
            fields = generate(program=f"p{number % 3}", final=number % 4 == 0, tool="grep", this_func_call="sed")
            return (await client.post("/generate", json=fields)).status_code

        asked = [asyncio.create_task(ask(number)) for number in range(12)]
        for name in ("never", "p1", "p2", "continues-0", "p1"):
            assert (await client.post("/programs/release", json={"program_id": name})).is_success
            await asyncio.sleep(0.002)
        assert await asyncio.gather(*asked) == [200] * 12
        assert client.service.engine.alive


class Watched:
    """Reads the feed as a viewer does."""

    def __init__(self, viewer: Any) -> None:
        self.stream = viewer.chunks()
        self.kinds: list[str] = []


async def watch(client: Client, who: str | None = None) -> Watched:
    from fastserve.server.telemetry.live import Viewer

    watched = Watched(Viewer(client.service.broadcaster, who))
    await said(watched, lambda message: message["type"] == "snapshot")
    return watched


def kinds(message: Any) -> list[str]:
    return [event["type"] for event in message.get("events", ())]


async def said(watched: Watched, holds: Any) -> Any:
    async with asyncio.timeout(20):
        async for chunk in watched.stream:
            for message in every_data_line(chunk.decode()):
                watched.kinds += kinds(message)
                if holds(message):
                    return message


async def test_a_viewer_sees_its_own_programs_by_name(serve: Serve) -> None:
    async with serve(api_key=KEYS, share_prefixes="all") as client:
        own, others = await watch(client, "alice"), await watch(client, "bob")
        await client.post("/generate", json=generate(program="p"), headers=as_client("alice"))
        for watched, names in ((own, {"p"}), (others, {""})):
            message = await said(watched, lambda message: message["contexts"])
            assert {row["name"] for row in message["contexts"]} == names
            assert [row["tokens"] for row in message["contexts"]] == [67]


async def test_settings_of_sharing_are_checked() -> None:
    assert FastServeConfig().share_prefixes == "client" and FastServeConfig().admin_clients == ()
    with pytest.raises(ValueError, match="share_prefixes"):
        FastServeConfig(share_prefixes="some")  # type: ignore[arg-type]
