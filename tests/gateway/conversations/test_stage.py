"""Conversations through a gateway: what its upstream is asked, what is kept, whose it is, one turn at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

import httpx

from fastserve.bench.stub import Behaviour, Stub, address
from fastserve.gateway import Gateway
from fastserve.gateway.config.settings import GatewayConfig
from tests.gateway.live import before_stub, client_of, scripted

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


ANSWER = {"role": "assistant", "content": "xxx"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def turn(client: httpx.AsyncClient, text: str, id: Any = "s", **more: Any) -> httpx.Response:
    """Streamed, as the stub answers."""
    headers = more.pop("headers", {})
    body = {"model": "stub", "messages": [user(text)], "max_tokens": 3, "stream": True, **more}
    if id is not None:
        body["session_id"] = id
    return await client.post("/v1/chat/completions", json=body, headers=headers)


async def test_the_upstream_hears_what_was_said_before() -> None:
    async with before_stub() as (client, stub):
        first = await turn(client, "one")
        assert first.status_code == 200 and first.headers["X-Session-Id"] == "s"
        assert first.headers["X-Conversation-Turns"] == "0"
        second = await turn(client, "two")
        assert second.headers["X-Conversation-Turns"] == "1" and "X-Conversation-Cut" not in second.headers
        assert [seen.body["messages"] for seen in stub.seen] == [[user("one")], [user("one"), ANSWER, user("two")]]
        assert all("session_id" not in seen.body for seen in stub.seen), "it is the gateway's own field"
        names = {seen.headers["x-session-id"] for seen in stub.seen}
        assert len(names) == 1 and names != {"s"}, "a name for the router and the upstream, which is not the id"
        kept = (await client.get("/conversations/s")).json()
        assert kept["messages"] == [user("one"), ANSWER, user("two"), ANSWER] and kept["turns"] == 2
        assert (await client.get("/gateway/status")).json()["conversations"]["conversations"] == 1


async def test_others_are_left_alone() -> None:
    async with before_stub() as (client, stub):
        for headers in ({}, {"X-Session-Id": "s"}):
            await turn(client, "one", None, headers=headers)
        assert [len(seen.body["messages"]) for seen in stub.seen] == [1, 1]
        assert stub.seen[1].headers["x-session-id"] == "s", "agents send it with all their messages: not ours unasked"
        assert (await client.get("/conversations")).json() == {"conversations": []}


async def test_the_header_counts_where_it_is_asked_for() -> None:
    async with before_stub(conversations="memory") as (client, stub):
        for text in ("one", "two"):
            await turn(client, text, None, headers={"X-Session-Id": "h"})
        assert len(stub.seen[1].body["messages"]) == 3
        whole = [user("a"), {"role": "assistant", "content": "b"}, user("c")]
        await client.post(
            "/v1/chat/completions", json={"model": "stub", "messages": whole, "stream": True, "max_tokens": 3},
            headers={"X-Session-Id": "h"},
        )  # fmt: skip
        assert stub.seen[2].body["messages"] == whole, "a client that sends everything is not told it twice"


async def test_off() -> None:
    async with before_stub(conversations="off") as (client, stub):
        await turn(client, "one")
        assert stub.seen[0].body["session_id"] == "s"
        assert (await client.get("/conversations")).status_code == 404


@pytest.mark.parametrize(
    "how", [Behaviour(breaks_after=2), Behaviour(error_after=2), Behaviour(status=400)], ids=("breaks", "error", "400")
)
async def test_an_answer_that_is_not_complete_is_not_kept(how: Behaviour) -> None:
    async with before_stub(lambda number, body: how if number == 1 else Behaviour()) as (client, stub):
        await turn(client, "one")
        with contextlib.suppress(httpx.HTTPError):
            await turn(client, "two")
        await turn(client, "three")
        assert [message["content"] for message in stub.seen[2].body["messages"]] == ["one", "xxx", "three"]


async def test_turns_come_one_after_another() -> None:
    async with before_stub(lambda number, body: Behaviour(ttft=0.05)) as (client, stub):
        await asyncio.gather(*[turn(client, str(number)) for number in range(4)], turn(client, "else", "other"))
        own = [seen for seen in stub.seen if seen.body["messages"][0]["content"] != "else"]
        assert [len(seen.body["messages"]) for seen in own] == [1, 3, 5, 7]
        assert [seen.body["messages"][-1]["content"] for seen in own] == ["0", "1", "2", "3"]


async def test_too_many_turns_at_once_are_refused() -> None:
    async with before_stub(lambda number, body: Behaviour(ttft=0.2)) as (client, _):
        answers = await asyncio.gather(*[turn(client, "x") for _ in range(12)])
        refused = [answer for answer in answers if answer.status_code == 409]
        assert len(refused) == 3 and "one after another" in refused[0].json()["error"]["message"]


async def test_whose_it_is() -> None:
    def bearer(token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    async with before_stub(api_key=["one alice", "two bob", "three alice"]) as (client, stub):
        await turn(client, "secret", headers=bearer("one"))
        await turn(client, "mine?", headers=bearer("two"))
        assert stub.seen[1].body["messages"] == [user("mine?")]
        await turn(client, "again", headers=bearer("three"))
        assert len(stub.seen[2].body["messages"]) == 3, "two tokens of one client"
        for token, turns in (("one", 2), ("two", 1)):
            listed = (await client.get("/conversations", headers=bearer(token))).json()["conversations"]
            assert [(each["session_id"], each["turns"]) for each in listed] == [("s", turns)]
        await client.delete("/conversations/s", headers=bearer("two"))
        assert (await client.get("/conversations/s", headers=bearer("two"))).status_code == 404
        assert (await client.get("/conversations/s", headers=bearer("one"))).json()["turns"] == 2
        assert (await client.get("/conversations/s")).status_code == 401


async def test_without_tokens_a_list_does_not_give_ids_away() -> None:
    async with before_stub() as (client, _):
        id = (await client.post("/conversations")).json()["session_id"]
        assert len(id) >= 22
        await turn(client, "one", id)
        listed = (await client.get("/conversations")).json()["conversations"]
        assert len(listed) == 1 and id not in json.dumps(listed)
        assert (await client.get(f"/conversations/{id}")).json()["session_id"] == id
        assert (await client.delete(f"/conversations/{id}")).json() == {"session_id": id, "deleted": True}
        assert (await client.delete(f"/conversations/{id}")).status_code == 404


async def test_a_conversation_that_is_deleted_in_mid_turn_stays_deleted() -> None:
    async with before_stub(lambda number, body: Behaviour(tpot=0.05)) as (client, _):
        await turn(client, "one")
        second = asyncio.create_task(turn(client, "two"))
        await asyncio.sleep(0.05)
        assert (await client.delete("/conversations/s")).status_code == 200
        assert (await second).status_code == 200
        assert (await client.get("/conversations/s")).status_code == 404


async def test_what_is_too_long_is_cut_and_this_is_said() -> None:
    async with before_stub(conversation_max_turns=2) as (client, stub):
        answers = [await turn(client, str(number)) for number in range(4)]
        assert [answer.headers.get("X-Conversation-Cut") for answer in answers] == [None, None, None, "2"]
        assert [message["content"] for message in stub.seen[3].body["messages"]] == ["1", "xxx", "2", "xxx", "3"]
        assert (await client.get("/conversations/s")).json()["cut"] == 4


async def test_an_answer_that_is_longer_than_is_kept() -> None:
    async with before_stub(conversation_max_kib=0.3) as (client, _):
        long = await turn(client, "one", max_tokens=400)
        assert long.text.count('"x"') == 400, "it is passed on whole"
        assert (await client.get("/conversations/s")).status_code == 404


async def test_a_turn_that_is_longer_than_is_kept_is_refused_at_once() -> None:
    async with before_stub(conversation_max_kib=1, conversations="memory") as (client, stub):
        long = await turn(client, "x" * 1024)
        assert long.status_code == 413 and "--conversation-max-kib" in long.text and stub.seen == []
        assert (await turn(client, "x" * 1024, None)).status_code == 200
        header = {"X-Session-Id": "s"}
        assert (await turn(client, "x" * 1024, None, headers=header)).status_code == 200, "an agent's is not held up"


async def test_the_native_route_and_ollamas_too() -> None:
    """With a server of ours, whose answers these are."""
    with scripted() as upstream:
        async with client_of(Gateway(upstream=[upstream])) as client:
            native = {"messages": [user("one")], "session_id": "s", "max_new_tokens": 5}
            answers = [(await client.post("/chat", json=native)).json()["text"]]
            lines = (await client.post("/chat", json={**native, "messages": [user("two")], "stream": True})).text
            events = [json.loads(line[5:]) for line in lines.splitlines() if line.startswith("data:")]
            answers.append("".join(event["text"] for event in events))
            said = {"model": "scripted", "messages": [user("three")], "session_id": "s", "options": {"num_predict": 5}}
            lines = (await client.post("/api/chat", json=said)).text
            answers.append("".join(json.loads(line)["message"]["content"] for line in lines.splitlines()))
            kept = (await client.get("/conversations/s")).json()["messages"]
            assert [each["content"] for each in kept[::2]] == ["one", "two", "three"]
            assert [each["content"] for each in kept[1::2]] == answers and all(len(each) == 5 for each in answers)


async def test_the_session_router_keeps_a_conversation_where_it_was() -> None:
    stubs = [Stub() for _ in range(4)]
    async with contextlib.AsyncExitStack() as held:
        places = [address(await held.enter_async_context(await stub.start())) for stub in stubs]
        client = await held.enter_async_context(client_of(Gateway(upstream=places, router="session")))
        for id in "abcdef":
            for text in ("one", "two", "three"):
                await turn(client, text, id)
        seen = {(seen.headers["x-session-id"], at) for at, stub in enumerate(stubs) for seen in stub.seen}
        assert len(seen) == 6, "one server a conversation"
        assert len({at for _, at in seen}) > 1


async def test_the_client_leaves() -> None:
    async with before_stub(lambda number, body: Behaviour(tpot=0.05)) as (client, stub):
        body = {"model": "stub", "messages": [user("one")], "max_tokens": 100, "stream": True, "session_id": "s"}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.post("/v1/chat/completions", json=body)
        assert (await turn(client, "two")).headers["X-Conversation-Turns"] == "0"
        assert [message["content"] for message in stub.seen[1].body["messages"]] == ["two"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"session_id": "i" * (1 << 20)}, "256"),
        ({"session_id": ""}, "session_id"),
        ({"session_id": "a\nb"}, "printable"),
        ({"session_id": ["s"]}, "session_id"),
        ({"session_id": "\ud800"}, "surrogate"),
        ({"n": 2}, "one answer"),
    ],
)
async def test_what_is_refused(changed: dict[str, Any], says: str) -> None:
    async with before_stub() as (client, stub):
        body = json.dumps({"model": "stub", "messages": [user("x")], "session_id": "s", **changed})
        refused = await client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
        assert refused.status_code == 400 and says in refused.text and len(refused.text) < 4000
        assert stub.seen == []


async def test_other_routes_keep_no_conversations_and_say_so() -> None:
    async with before_stub() as (client, stub):
        for path in ("/v1/completions", "/generate"):
            answer = await client.post(path, json={"model": "stub", "prompt": "x", "session_id": "s"})
            assert answer.status_code == 400 and "/v1/chat/completions" in answer.text
        assert stub.seen == []


async def test_messages_that_are_none_are_the_upstreams_to_refuse() -> None:
    async with before_stub(lambda number, body: Behaviour(status=400)) as (client, stub):
        for messages in ("hi", [], [1], [{"content": "x"}]):
            assert (await turn(client, "one", messages=messages, stream=False)).status_code == 400
            assert stub.seen[-1].body["messages"] == messages
        assert (await client.get("/conversations/s")).status_code == 404


def test_settings() -> None:
    assert GatewayConfig(conversations="redis://127.0.0.1:6379/0").conversations
    with pytest.raises(ValueError, match="neither memory, off nor redis://HOST:PORT") as refused:
        GatewayConfig(conversations="postgres://:s3cret@x")
    assert "s3cret" not in str(refused.value.errors(include_input=False))
