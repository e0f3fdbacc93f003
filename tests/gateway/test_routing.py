"""What a router sees of a request, where requests go, and that a log of it makes the same choices again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers

from fastserve.bench.stub import Behaviour
from fastserve.flightlog.routes import replay_routes
from fastserve.gateway.call import Call
from fastserve.gateway.jobs_of_calls import MOST_UNITS, UNIT_TOKENS, JobsOfCalls, prompt_of, units
from fastserve.routers import ROUTERS
from fastserve.sched.job import NEVER
from tests.gateway.conftest import CHAT, PROMPT, Request, live, odd, reply, stub

pytestmark = pytest.mark.anyio
TEXT = "Once upon a time there was a llama. " * 40


def call(fields: dict[str, Any], headers: dict[str, str] | None = None, **others: Any) -> Call:
    return Call(
        "/v1/completions", json.dumps(fields).encode(), fields, Headers(headers or {}), fields.get("model", ""),
        others.pop("client", "default"), others.pop("authenticated", False), False, "r", 0,
    )  # fmt: skip


def test_tokens_are_a_quarter_of_the_bytes_and_ids_are_counted() -> None:
    jobs = JobsOfCalls(prefixes=False)
    assert jobs.of(call({"prompt": "a" * 400}), 5).prompt == 100
    assert jobs.of(call({"prompt": [1, 2, 3]}), 5).prompt == 3
    assert jobs.of(call({"prompt": ["a" * 40, "b" * 40]}), 5).prompt == 20
    chat = jobs.of(call({"messages": [{"role": "user", "content": "a" * 394}]}), 7)
    assert (chat.prompt, chat.arrival, chat.limit, chat.ids) == (101, 7, NEVER, ())
    parts = jobs.of(call({"messages": [{"role": "user", "content": [{"type": "text", "text": "a" * 394}]}]}), 7)
    assert parts.prompt == 101
    for odd_one in ({}, {"prompt": None}, {"messages": "x"}, {"messages": [5, {"content": 5}]}, {"prompt": {"a": 1}}):
        assert jobs.of(call(odd_one), 0).prompt >= 1


def test_a_guess_is_the_requests_own_else_the_mean_of_answers_within_its_limit() -> None:
    jobs = JobsOfCalls(prefixes=False)
    assert jobs.of(call({"model": "m", "max_tokens": 9, "guess": 7}), 0).guess == 7
    assert jobs.of(call({"model": "m", "max_tokens": 9}), 0).guess == 9
    jobs.ended("m", 40)
    assert jobs.of(call({"model": "m", "max_tokens": 900}), 0).guess == 40
    assert jobs.of(call({"model": "m", "max_completion_tokens": 10}), 0).guess == 10
    assert jobs.of(call({"model": "another"}), 0).guess == 128


def test_programs_by_the_names_that_clients_use() -> None:
    jobs = JobsOfCalls(prefixes=False)
    assert jobs.of(call({"program": "p1"}), 0).program == "p1"
    assert jobs.of(call({}, {"x-session-id": "s1"}), 0).program == "s1"
    assert (
        jobs.of(call({}, {"x-dynamo-session-id": "child", "x-dynamo-parent-session-id": "root"}), 0).program == "root"
    )
    mine = jobs.of(call({"program": "p1"}, client="me", authenticated=True), 0)
    assert (mine.program, mine.client) == ("me/p1", "me")  # nobody else's p1
    assert jobs.of(call({"program": {"no": "name"}}), 0).program == ""


def test_prompts_that_begin_alike_have_the_same_first_ids() -> None:
    jobs = JobsOfCalls(prefixes=True)
    first = jobs.of(call({"prompt": TEXT + "and then"}), 0).ids
    second = jobs.of(call({"prompt": TEXT + "but no" * 200}), 0).ids
    same = len(TEXT) // (4 * UNIT_TOKENS)
    assert len(first) == same and first == second[:same] and second[same] not in first
    assert jobs.of(call({"prompt": "x" + TEXT}), 0).ids[0] != first[0]
    moved = list(units([b"a" * 256 + b"b" * 256])), list(units([b"c" * 256 + b"b" * 256]))
    assert moved[0][1] != moved[1][1]  # chained: an id names all before it
    assert len(list(units([b"a" * (1 << 24)]))) == MOST_UNITS
    assert len(list(prompt_of({"prompt": [1] * 200}))) == 1
    assert len(list(units(prompt_of({"prompt": list(range(200))})))) == 200 // UNIT_TOKENS


async def test_the_prefix_router_sends_a_conversation_where_it_was() -> None:
    async with stub() as (one, first), stub() as (two, second), live(one, two, router="prefix") as gateway:
        for number in range(2):  # two conversations
            history = [{"role": "user", "content": f"{number}" + TEXT}]
            for _ in range(4):
                await gateway.post("/v1/chat/completions", {**CHAT, "messages": history, "stream": True})
                history.append({"role": "user", "content": TEXT})
        places = [{request.body["messages"][0]["content"][0] for request in each.seen} for each in (first, second)]
        assert sorted(map(len, places)) in ([1, 1], [0, 2])  # none of them was split
        assert len(first.seen) + len(second.seen) == 8


@pytest.mark.parametrize("router", sorted(ROUTERS))
async def test_a_log_of_routes_makes_the_same_choices_again(router: str, tmp_path: Path) -> None:
    path = tmp_path / "routes.jsonl"

    async def sometimes(request: Request, writer: asyncio.StreamWriter) -> None:
        reply(writer, 503 if len(bad.seen) % 3 == 0 else 200, b'{"usage": {"completion_tokens": 2}}')

    async with (
        odd(sometimes) as bad,
        stub(Behaviour(ttft=0.01)) as (one, _),
        live(bad.url, f"{one},weight=2", router=router, route_log=path, seed=3, cooldown=0.01) as gateway,
    ):
        bodies = [
            {**PROMPT, "stream": True, "prompt": TEXT[: 300 * (n % 5)] + str(n % 3), "user": f"u{n % 4}"}
            for n in range(24)
        ]
        for start in range(0, 24, 6):
            await asyncio.gather(*[gateway.post("/v1/completions", body) for body in bodies[start : start + 6]])
        async with stub() as (late, _):
            await gateway.client.post("/gateway/upstreams", json={"url": late, "name": "late"})
            for body in bodies[:6]:
                await gateway.post("/v1/completions", body)
            await gateway.client.delete("/gateway/upstreams/late")
        await gateway.post("/v1/completions")
    replayed = replay_routes(path)
    assert replayed.choices >= 31 and replayed.differing == 0, replayed
    if router == "prefix":
        command = [sys.executable, "-m", "sim.replay_log", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
        assert done.returncode == 0 and "reproduced" in done.stdout


async def test_a_log_that_cannot_be_written_is_said_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="Cannot write"):
        async with live(route_log=tmp_path):
            pass
