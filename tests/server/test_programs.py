"""Which program a request belongs to, in the words of the clients that there are; whose it is; and its end."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import Any

import pytest

from fastserve.engine import Engine
from fastserve.sched.job import Job
from fastserve.sched.policy import Policy
from fastserve.server.api.errors import ApiError
from fastserve.server.api.program_names import BODY, HEADERS, TABLE, Named, named
from fastserve.server.api.scheduled import Scheduled
from fastserve.server.programs import MOST_CHILDREN, Programs, of_client, shown
from tests.server.conftest import Serve
from tests.server.test_scheduling import bodies

pytestmark = pytest.mark.anyio


def nested(path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    return {first: nested(rest, value) if rest else value}


def headers(given: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in given.items()]


def say(body: dict[str, Any] | None = None, **given: str) -> Named:
    names = {name.replace("_", "-"): value for name, value in given.items()}
    return named(Scheduled.model_validate(body or {}), headers(names))


class Told(Policy):
    def __init__(self) -> None:
        self.programs: list[str] = []

    def arrive(self, job: Job) -> None:
        self.programs.append(job.program)

    def rank(self, job: Job) -> int:
        return job.arrival


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.program)
async def test_every_name_of_the_table_is_read(row: Any) -> None:
    if row in HEADERS:
        said = named(Scheduled(), headers({row.program: "p", **({row.parent: "root"} if row.parent else {})}))
    else:
        said = say(nested(row.program, "p"))
    assert said.program == "p"
    assert said.parent == ("root" if row in HEADERS and row.parent else "")


@pytest.mark.parametrize("row", [row for row in BODY if row.tool or row.calls], ids=lambda row: row.system)
async def test_tools(row: Any) -> None:
    for slot in ("tool", "calls"):
        if path := getattr(row, slot):
            assert getattr(say(nested(path, "grep")), slot) == "grep"


async def test_the_first_row_that_names_a_program_is_right() -> None:
    body: dict[str, Any] = {}
    for row in reversed([*BODY, TABLE[-1]]):
        body = merged(body, nested(row.program, row.program))
    wanted = [row.program for row in TABLE]
    given = headers({row.program: row.program for row in HEADERS})
    for row in TABLE:
        assert named(Scheduled.model_validate(body), given).program == wanted.pop(0)
        if row in HEADERS:
            given = [(name, value) for name, value in given if value.decode() != row.program]
        else:
            body = without(body, row.program)
    assert named(Scheduled.model_validate(body), given) == Named()


def merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {**a, **{name: merged(a.get(name, {}), value) if isinstance(value, dict) else value
                    for name, value in b.items()}}  # fmt: skip


def without(body: dict[str, Any], path: str) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    found = {name: value for name, value in body.items() if name != first}
    return {**found, first: without(body[first], rest)} if rest else found


async def test_an_end_is_told_in_any_words() -> None:
    for body in (
        {"final": True}, {"is_last_step": True}, {"is_last_step": "true"},
        {"nvext": {"agent_context": {"session_final": True}}}, {"nvext": {"session_control": {"action": "close"}}},
    ):  # fmt: skip
        assert say(body).final, body
    assert say({"program_id": "p"}, x_dynamo_session_final="TRUE") == Named("p", final=True)
    assert say(x_session_id="s", x_session_final="1") == Named("s", final=True)
    for value in ("false", "0", "", "perhaps"):
        assert not say(x_dynamo_session_final=value).final
    assert not say({"final": False}, x_dynamo_session_final="true").final, "the first that says it is right"
    assert not say({"nvext": {"session_control": {"session_id": "s", "action": "open"}}}).final


async def test_names_in_headers_and_bodies_are_the_same() -> None:
    for name in ("chat-7", "сессия", "日本", "a b", "e\u0301", "\U0001f600"):
        assert say({"program": name}).program == say(x_session_id=name).program == name
    latin = named(Scheduled(), [(b"x-session-id", "é".encode("latin-1"))])
    assert latin.program == "é"
    assert say({"program_id": 17}).program == "17", "as ThunderAgent takes it"
    assert say({"program_id": "  "}, x_session_id="s").program == "s", "an empty name names nothing"


WRONG = [
    {"program": True}, {"program": ["p"]}, {"program": "p" * 257}, {"program": "\ud800"}, {"program": 1.5},
    {"program_id": {}}, {"job_id": [1]}, {"is_last_step": "maybe"}, {"last_func_call": 5.5}, {"final": 2},
    {"nvext": 5}, {"nvext": {"agent_context": {"session_id": []}}}, {"nvext": {"agent_hints": {"priority": "high"}}},
    {"nvext": {"agent_hints": {"osl": 0}}}, {"session_params": {"id": {"a": 1}}}, {"prompt_cache_key": ["k"]},
    {"program": 1 << 64},
]  # fmt: skip
IGNORED = [
    {"extra_body": 5}, {"extra_body": {"program_id": []}}, {"cachewise_policy": "x"},
    {"cachewise_policy": {"scope": 5, "hints": [1]}}, {"cachewise_policy": {"scope": {"session_id": {}}}},
    {"cachewise_policy": {"hints": {"next_tool": "grep"}}}, {"nvext": {"agent_context": "x", "unknown": 5}},
    {"prompt_cache_retention": "24h"}, {"nvext": {}},
]  # fmt: skip


@pytest.mark.parametrize("route", ["/generate", "/v1/chat/completions"])
async def test_wrong_types_are_told_or_ignored_as_their_systems_do(serve: Serve, route: str) -> None:
    policy = Told()
    async with serve(Engine.scripted(policy=lambda: policy, max_batch=4)) as client:
        for fields in WRONG:
            sent = json.dumps(bodies()[route] | fields)
            answer = await client.post(route, content=sent, headers={"Content-Type": "application/json"})
            assert answer.status_code in (400, 422), fields
            assert next(iter(fields)) in answer.text and len(answer.text) < 1000, answer.text
        for fields in IGNORED:
            answer = await client.post(route, json=bodies()[route] | fields)
            assert answer.status_code == 200, (fields, answer.text)
        assert set(policy.programs) == {""}


async def test_dynamos_hints_are_ours() -> None:
    said = Scheduled.model_validate({"nvext": {"agent_hints": {"priority": 7, "osl": 40}}})
    assert (said.priority, said.guess) == (-7, 40), "there more is more urgent"
    said = Scheduled.model_validate({"priority": 2, "guess": 9, "nvext": {"agent_hints": {"priority": 7, "osl": 40}}})
    assert (said.priority, said.guess) == (2, 9)


@pytest.mark.parametrize("route", [*bodies(), "/jobs", "/generate/stream", "/stream", "/v1/generate"])
async def test_every_route_takes_them(serve: Serve, route: str) -> None:
    body, policy = bodies().get(route, bodies()["/generate"]), Told()
    async with serve(Engine.scripted(policy=lambda: policy, max_batch=4)) as client:

        async def ask(given: dict[str, str] | None = None, **fields: Any) -> str:
            before = len(policy.programs)
            answer = await client.post(route, json=body | fields, headers=given)
            assert answer.status_code in (200, 202), answer.text
            while len(policy.programs) == before:  # a job is answered before it has come to the engine
                await asyncio.sleep(0.001)
            return policy.programs[-1]

        assert await ask(program_id="thunder") == "thunder"
        assert await ask({"X-Dynamo-Session-ID": "d", "X-Dynamo-Parent-Session-ID": "root"}) == "root"
        assert await ask({"session_id": "codex"}) == "codex"
        assert await ask(job_id="c", last_func_call="bash", is_last_step=False) == "c"
        assert await ask(prompt_cache_key="k") == "k"
        refused = await client.post(route, json=body, headers={"X-SMG-Routing-Key": "s" * 257})
        assert refused.status_code == 400 and "X-SMG-Routing-Key: it has 257 characters" in refused.text


async def test_a_task_of_a_task_queue_has_headers_only(serve: Serve) -> None:
    policy = Told()
    async with serve(Engine.scripted(policy=lambda: policy, max_batch=4)) as client:
        assert (await client.post("/send_text", json={"text": "a"}, headers={"X-Session-ID": "s"})).is_success
        while not policy.programs:
            await asyncio.sleep(0.001)
        assert policy.programs == ["s"]


# -- whose it is -------------------------------------------------------------------------------------------------------


async def test_a_subagents_requests_belong_to_its_parents_program() -> None:
    programs = Programs(apart=True)
    assert programs.of(None, Named("root", final=True)) == ("root", True)
    assert programs.of(None, Named("child", "root", final=True)) == ("root", False), "only the child has ended"
    assert programs.of(None, Named("grandchild", "child")) == ("root", False)
    assert programs.of(None, Named("child")) == ("root", False), "it is remembered"
    assert programs.of(None, Named("self", "self", final=True)) == ("self", True)
    assert programs.of(None, Named("", "root", final=True)) == ("root", False)
    assert programs.ended(None, "child") == "" and programs.ended(None, "child") == "child"
    assert programs.of(None, Named("a", "b")) == ("b", False) and programs.of(None, Named("b", "a")) == ("b", False)


async def test_no_clients_program_is_anothers() -> None:
    programs = Programs(apart=True)
    names = {programs.of(client, Named(name))[0] for client in ("a", "a/b", "a%2Fb", "") for name in ("b/c", "c", "p")}
    names |= {programs.of(None, Named(name))[0] for name in ("c", "p")}
    assert len(names) == 14
    assert programs.of("a", Named("child", "root"))[0] == of_client("a", "root")
    assert programs.of("b", Named("child"))[0] == of_client("b", "child"), "another's subagents are not known"
    assert shown("a/b", of_client("a/b", "p/q")) == "p/q"
    assert programs.ended("b", "child") == of_client("b", "child")


async def test_salts_keep_clients_apart() -> None:
    apart, together = Programs(apart=True), Programs(apart=False)
    assert apart.salt(None, None) == "" and apart.salt(None, "s") == "s"
    salts = [apart.salt(client, given) for client in ("a", "b", "a%2F") for given in (None, "s", "b")]
    assert len(set(salts)) == 9 and "" not in salts
    assert together.salt("a", None) == together.salt("b", None) == "" and together.salt("a", "s") == "s"


@pytest.mark.parametrize("salt", ["", 5, True, "s" * 129, "a@b", "a/b", "a\\b", "a\0b", ["s"]])
async def test_a_salt_is_right_where_vllm_takes_it(serve: Serve, salt: Any) -> None:
    async with serve() as client:
        for route, body in bodies().items():
            answer = await client.post(route, json=body | {"cache_salt": salt})
            assert answer.status_code in (400, 422) and "1 to 128 characters" in answer.text, answer.text
            assert (await client.post(route, json=body | {"cache_salt": "s" * 128})).is_success


# -- hostile -----------------------------------------------------------------------------------------------------------


async def test_names_cost_no_memory_that_lasts() -> None:
    programs = Programs(apart=True)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(3 * MOST_CHILDREN):
        programs.of("client", Named("日" * 240 + str(number), "root" * 60 + str(number)))
        programs.ended("client", f"unknown {number}")
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(programs.roots) == MOST_CHILDREN
    assert after - before < 16 << 20


async def test_a_long_header_is_refused_and_others_are_not_looked_at() -> None:
    with pytest.raises(ApiError, match="X-Session-ID: it has 257 characters"):
        say(x_session_id="s" * 257)
    assert say({"program": "p"}, x_session_id="s" * 257).program == "p", "it names nothing here"
    many = headers({f"x-{number}": "v" * 500 for number in range(1000)})
    assert named(Scheduled(), many) == Named()
    twice = [(b"x-session-id", b"a"), (b"x-session-id", b"b")]
    assert named(Scheduled(), twice).program == "a"
