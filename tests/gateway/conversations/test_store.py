"""Stores of conversations: in memory and in Redis the same; a time to live, bounds, many of them."""

from __future__ import annotations

import socket
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

from fastserve.gateway.conversations.store import OVERHEAD, Head, Key, MemoryStore, Store
from fastserve.gateway.conversations.turns import Turns
from fastserve.server.api.errors import ApiError
from tests.jobqueue.processes import REDIS, redis_server

pytestmark = pytest.mark.anyio
PATIENCE = 30.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if REDIS is None:
        pytest.skip("needs redis-server: apt-get install redis-server")
    pytest.importorskip("redis", reason="needs the queue extra")
    with redis_server(tmp_path_factory.mktemp("redis")) as found:
        yield found.url


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


Make = Callable[..., Store]


@pytest.fixture(params=["memory", "redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """make(ttl=, most=, clock=): an empty store."""
    made: list[Store] = []
    if request.param == "memory":

        def make(ttl: float = 60.0, most: int = 1 << 20, clock: Callable[[], float] = time.time) -> Store:
            made.append(MemoryStore(ttl, most, clock))
            return made[-1]

    else:
        from redis.asyncio import Redis

        from fastserve.gateway.conversations.redis_store import RedisStore

        url = request.getfixturevalue("redis_url")
        async with Redis.from_url(url) as client:
            await client.flushall()

        def make(ttl: float = 60.0, most: int = 1 << 20, clock: Callable[[], float] = time.time) -> Store:
            made.append(RedisStore(url, ttl, most, clock))
            return made[-1]

    yield make
    for store in made:
        await store.close()


A, B = Key("alice", "s"), Key("bob", "s")


async def test_what_is_put_is_there_for_its_client_alone(make: Make) -> None:
    store = make()
    assert await store.get(A) is None and await store.of("alice", 9) == []
    await store.put(A, b"1")
    await store.put(B, b"2")
    await store.put(A, b"3")
    assert (await store.get(A), await store.get(B)) == (b"3", b"2")
    assert await lines(store, "alice") == [b"3"] and await lines(store, "bob") == [b"2"]
    assert await store.delete(A) and not await store.delete(A)
    assert await store.get(A) is None and await store.of("alice", 9) == [] and await store.get(B) == b"2"


async def lines(store: Store, client: str, most: int = 9) -> list[bytes]:
    return [head.line for head in await store.of(client, most)]


async def test_a_list_has_the_first_line_of_each_and_its_size(make: Make) -> None:
    store = make()
    await store.put(A, b"head\n" + b"x" * 100_000)
    assert await store.of("alice", 9) == [Head(b"head", 100_005)]


async def test_names_that_run_together_are_different_keys(make: Make) -> None:
    store = make()
    await store.put(Key("ab", "c"), b"1")
    assert await store.get(Key("a", "bc")) is None
    await store.put(Key("", "é☃ "), b"2")
    assert await lines(store, "") == [b"2"]


async def test_the_newest_are_listed_first(make: Make) -> None:
    clock = Clock()
    store = make(clock=clock)
    for number in (0, 1, 2, 0):
        clock.now += 1
        await store.put(Key("alice", str(number)), b"%d" % number)
    assert await lines(store, "alice", 2) == [b"0", b"2"]


async def test_the_longest_unused_goes_where_room_is_short(make: Make) -> None:
    clock = Clock()
    store = make(most=3 * (1000 + OVERHEAD), clock=clock)
    keys = [Key("alice", str(number)) for number in range(5)]
    size = 1000 if isinstance(store, MemoryStore) else 1000 + OVERHEAD
    for key in keys[:3]:
        clock.now += 1
        await store.put(key, b"x" * size)
    clock.now += 1
    await store.put(keys[0], b"y" * size)
    await store.put(keys[3], b"x" * size)
    assert [await store.get(key) is not None for key in keys] == [True, False, True, True, False]
    await store.put(keys[4], b"x" * 5 * size)
    assert await store.get(keys[4]) is None, "more than there is room for at all"
    assert await store.get(keys[0]) is not None


async def test_time_to_live_in_memory() -> None:
    clock = Clock()
    store = MemoryStore(10, 1 << 20, clock)
    await store.put(A, b"1")
    clock.now += 9
    await store.put(A, b"2")
    clock.now += 9
    assert await store.get(A) == b"2", "each turn renews it"
    clock.now += 1.1
    assert await store.get(A) is None and await store.of("alice", 9) == []
    assert store.counted() == {"conversations": 0, "bytes": 0}


async def test_time_to_live_in_redis(redis_url: str) -> None:
    from redis.asyncio import Redis

    from fastserve.gateway.conversations.redis_store import BYTES, RedisStore

    clock = Clock()
    store = RedisStore(redis_url, 0.3, 1 << 20, clock)
    async with Redis.from_url(redis_url) as client:
        await client.flushall()
        await store.put(A, b"1")
        until = time.monotonic() + PATIENCE
        while await store.get(A) is not None:
            assert time.monotonic() < until
        clock.now += 1
        await store.put(B, b"22")
        assert int(await client.get(BYTES)) == 2, "what has ended takes no room"
        while await client.keys("*client*"):
            assert time.monotonic() < until, "indexes end with what they list"
    await store.close()


async def test_a_gateway_holds_a_conversation_among_all(redis_url: str) -> None:
    from fastserve.gateway.conversations.redis_store import RedisStore

    stores = [RedisStore(redis_url, 60, 1 << 20) for _ in range(2)]
    turns = [Turns(store, 0.2) for store in stores]
    turn = await turns[0].begin(A)
    with pytest.raises(ApiError, match="has not ended within"):
        await turns[1].begin(A)
    (await turns[1].begin(B)).end()
    turn.end()
    (await turns[1].begin(A)).end()
    for store in stores:
        await store.close()
    assert all(not each.places for each in turns)


async def test_redis_that_is_away() -> None:
    pytest.importorskip("redis", reason="needs the queue extra")
    from fastserve.gateway.conversations.redis_store import RedisStore
    from tests.gateway.live import before_stub

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    store = RedisStore(f"redis://someone:secret@127.0.0.1:{port}/0", 60, 1 << 20)
    with pytest.raises(ConnectionError, match=f"redis://127.0.0.1:{port}/0 does not answer") as away:
        await store.get(A)
    assert "secret" not in str(away.value)
    async with before_stub(conversations=f"redis://:secret@127.0.0.1:{port}/0") as (client, stub):
        body = {"model": "stub", "messages": [{"role": "user", "content": "x"}], "session_id": "s", "stream": True}
        for _ in range(2):
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 503 and "Retry-After" in answer.headers and "secret" not in answer.text
        assert stub.seen == [], "without its history an answer would be wrong"
        assert (await client.get("/conversations")).status_code == 503
        del body["session_id"]
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200


async def test_turns_leave_nothing_behind() -> None:
    turns = Turns(MemoryStore(60, 1 << 20), 5)
    first = await turns.begin(A)
    first.end()
    first.end()
    second = await turns.begin(A)
    del second, first
    (await turns.begin(A)).end()
    assert turns.places == {}


async def test_very_many_of_them() -> None:
    """The bound holds what the process really takes, and a list is not a walk over all."""
    store = MemoryStore(3600, 64 << 20)
    tracemalloc.start()
    try:
        for number in range(100_000):
            await store.put(Key(f"client {number % 1000}", f"session {number}"), b"%0100d" % number)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(store.kept) <= 100_000 and taken < 1.25 * (64 << 20), taken
    assert store.listed <= 2 * len(store.kept) + 64
    work = _calls(lambda: _run(store.of("nobody", 100)))
    assert work < 50, "a client without conversations costs nothing"
    assert len(await store.of("client 999", 100)) > 50


def _run(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


def _calls(what: Callable[[], Any]) -> int:
    """Calls of functions, of Python's and of C's."""
    count = 0

    def note(*_: Any) -> None:
        nonlocal count
        count += 1

    sys.setprofile(note)
    try:
        what()
    finally:
        sys.setprofile(None)
    return count


async def test_a_conversation_goes_on_at_another_gateway(redis_url: str) -> None:
    from tests.gateway.live import before_stub

    body = {"model": "stub", "session_id": "shared", "stream": True, "max_tokens": 2}
    seen = []
    for text in ("one", "two"):
        async with before_stub(conversations=redis_url) as (client, stub):
            said = body | {"messages": [{"role": "user", "content": text}]}
            assert (await client.post("/v1/chat/completions", json=said)).status_code == 200
            seen.append([message["content"] for message in stub.seen[0].body["messages"]])
            assert (await client.get("/gateway/status")).json()["conversations"]["kept_in"] == "redis"
    assert seen == [["one"], ["one", "xx", "two"]]


async def test_a_turn_is_held_as_long_as_it_takes_and_not_longer_than_its_gateway_lives(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastserve.gateway.conversations import redis_store

    monkeypatch.setattr(redis_store, "LEASE_S", 0.6)
    long, other = [redis_store.RedisStore(redis_url, 60, 1 << 20) for _ in range(2)]
    key = Key("alice", "held")
    release = await long.hold(key, 1)
    with pytest.raises(TimeoutError):
        await other.hold(key, 2.0)
    monkeypatch.setattr(redis_store.RedisStore, "_release", _nothing)  # its gateway is killed
    release()
    (await other.hold(key, PATIENCE))()
    for store in (long, other):
        await store.close()


async def _nothing(*_: Any) -> None:
    pass
