"""What passes the cache: hits and misses, streams, failures; and nothing of one client reaches another."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import Response, StreamingResponse

from fastserve.gateway.cache import stage as stages
from fastserve.gateway.cache.memory import MemoryStore
from fastserve.gateway.call import Call, whole
from tests.gateway.cache.fakes import Answers, Upstream, call, said, stage

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("stream", [False, True])
async def test_the_second_time_it_is_a_hit(stream: bool) -> None:
    cache, behind = stage(), Answers()
    outcome, text = await said(await cache.pass_through(call(stream=stream), behind))
    assert outcome == "miss"
    await cache.store.written()
    response = await cache.pass_through(call(stream=stream, user="x"), behind)
    assert response.headers["age"] == "0"
    assert await said(response) == ("hit", text) and len(behind.calls) == 1
    assert await said(await cache.pass_through(call("other", stream=stream), behind)) != ("hit", text)
    assert cache.status()["hits"] == 1 and cache.status()["misses"] == 2 and cache.status()["stored"] == 2
    await cache.stop()


async def test_a_stream_and_a_plain_answer_are_apart() -> None:
    cache, behind = stage(), Answers()
    await said(await cache.pass_through(call(), behind))
    response = await cache.pass_through(call(stream=True), behind)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert (await said(response))[0] == "miss" and len(behind.calls) == 2
    await cache.stop()


@pytest.mark.parametrize(
    ("more", "outcomes"),
    [
        ({"temperature": 1}, ["bypass", "bypass"]),
        ({"temperature": None}, ["bypass", "bypass"]),
        ({"temperature": 1, "seed": 4}, ["miss", "hit"]),
        ({"n": 2}, ["bypass", "bypass"]),
        ({"headers": {"cache-control": "no-store"}}, ["bypass", "bypass"]),
        ({"headers": {"cache-control": "No-Cache"}}, ["miss", "miss"]),
        ({"headers": {"cache-control": "max-age=0"}}, ["miss", "miss"]),
        ({"headers": {"cache-control": "max-age=100"}}, ["miss", "hit"]),
        ({"path": "/tokenize"}, ["", ""]),
    ],
)
async def test_what_passes_by(more: dict[str, Any], outcomes: list[str]) -> None:
    cache, behind = stage(), Answers()
    for outcome in outcomes:
        assert (await cache.pass_through(call(**more), behind)).headers.get("x-cache", "") == outcome
        await cache.store.written()
    await cache.stop()


async def test_no_cache_renews_and_no_store_neither_reads_nor_writes() -> None:
    cache, behind = stage(), Answers()
    first = await said(await cache.pass_through(call(), behind))
    await cache.store.written()
    kept = await said(await cache.pass_through(call(headers={"cache-control": "no-store"}), behind))
    assert kept[0] == "bypass" and kept[1] != first[1]
    assert (await said(await cache.pass_through(call(), behind)))[1] == first[1]
    renewed = await said(await cache.pass_through(call(headers={"cache-control": "no-cache"}), behind))
    await cache.store.written()
    assert await said(await cache.pass_through(call(), behind)) == ("hit", renewed[1])
    await cache.stop()


async def test_an_upstream_may_forbid_it() -> None:
    cache = stage()

    async def behind(_: Any) -> Response:
        return Response(json.dumps({"choices": [{"finish_reason": "stop"}]}), media_type="application/json",
                        headers={"Cache-Control": "no-store"})  # fmt: skip

    for _ in range(2):
        assert (await cache.pass_through(call(), behind)).headers["x-cache"] == "miss"
        await cache.store.written()
    await cache.stop()


@pytest.mark.parametrize("stream", [False, True])
async def test_the_answer_for_which_a_model_was_loaded_is_found_again(stream: bool) -> None:
    cache, behind = stage(), Answers()
    servers: list[Upstream] = cache.gateway.upstreams.each  # type: ignore[attr-defined]
    loaded = servers.pop()

    async def loads(call: Call) -> Response:
        servers[:] = [loaded]
        return await behind(call)

    first = await said(await cache.pass_through(call(stream=stream), loads))
    await cache.store.written()
    assert await said(await cache.pass_through(call(stream=stream), behind)) == ("hit", first[1])
    servers.clear()  # unloaded, it is what it was
    assert await said(await cache.pass_through(call(stream=stream), behind)) == ("hit", first[1])
    await cache.stop()


async def test_other_software_under_the_same_name_is_another_model() -> None:
    cache, behind = stage(), Answers()
    upstreams: Any = cache.gateway.upstreams
    outcomes = []
    for each in ([Upstream()], [Upstream(), Upstream()], [Upstream("vllm")], [], [Upstream(), Upstream("vllm")],
                 [Upstream()]):  # fmt: skip
        upstreams.each = each
        outcomes.append((await said(await cache.pass_through(call(), behind)))[0])
        await cache.store.written()
    assert outcomes == ["miss", "hit", "miss", "hit", "miss", "hit"]  # nobody serves it now: as it was last
    assert (await said(await cache.pass_through(call(model=None), behind)))[0] == "hit"
    upstreams.each = [Upstream(models=("n",)), Upstream()]
    assert (await said(await cache.pass_through(call(model=None), behind)))[0] == "miss"
    await cache.stop()


@pytest.mark.parametrize("wrong", ["raises", "status", "error", "cut", "breaks"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_goes_wrong_is_not_kept(wrong: str, stream: bool) -> None:
    cache, behind = stage(), Answers(fail=lambda number: wrong if number == 0 else "")
    with contextlib.suppress(ConnectionError):
        await said(await cache.pass_through(call(stream=stream), behind))
    await cache.store.written()
    assert cache.stored == 0 and cache.recording == 0
    assert (await said(await cache.pass_through(call(stream=stream), behind)))[0] == "miss"
    await cache.store.written()
    assert (await said(await cache.pass_through(call(stream=stream), behind)))[0] == "hit"
    await cache.stop()


async def test_a_client_that_leaves_in_mid_stream() -> None:
    cache, behind = stage(), Answers()
    response: Any = await cache.pass_through(call(stream=True), behind)
    parts = aiter(response.body_iterator)
    await anext(parts)
    await parts.aclose()
    await cache.store.written()
    assert behind.closed == 1 and cache.stored == 0 and cache.recording == 0
    await cache.stop()


async def test_answers_that_are_too_long_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "MOST_BYTES", 600)
    cache, behind = stage(), Answers()
    for stream in (False, True):
        for _ in range(2):
            outcome, text = await said(await cache.pass_through(call("x" * 700, stream=stream), behind))
            await cache.store.written()
            assert outcome == "miss" and text.count("x") == 700
    assert cache.recording == 0 and cache.stored == 0
    monkeypatch.setattr(stages, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(stages, "MOST_RECORDING", 600)
    assert (await said(await cache.pass_through(call("x" * 700, stream=True), behind)))[1].count("x") == 700
    assert cache.recording == 0 and cache.stored == 0
    await cache.stop()


async def test_of_equal_requests_at_once_one_goes_out() -> None:
    cache, behind = stage(), Answers(pause=0.02)
    found = await asyncio.gather(*[cache.pass_through(call(), behind) for _ in range(10)])
    texts = [await said(each) for each in found]
    assert len(behind.calls) == 1 and len({text for _, text in texts}) == 1
    assert sorted(outcome for outcome, _ in texts) == ["hit"] * 9 + ["miss"]
    assert len({(await whole(each)) for each in found}) == 10  # each has an id of its own
    assert cache.flights == {}
    await cache.stop()


@pytest.mark.parametrize("wrong", ["raises", "status", "error"])
async def test_if_that_one_fails_each_goes_by_itself(wrong: str) -> None:
    cache, behind = stage(), Answers(pause=0.02, fail=lambda number: wrong if number == 0 else "")
    found = await asyncio.gather(*[cache.pass_through(call(), behind) for _ in range(5)], return_exceptions=True)
    assert len(behind.calls) == 5 and cache.flights == {}
    good = [each for each in found[1:] if isinstance(each, Response)]
    assert [(await said(each))[0] for each in good] == ["miss"] * 4
    await cache.stop()


async def test_if_that_one_leaves_the_others_are_answered() -> None:
    cache, behind = stage(), Answers(pause=0.02)
    first = asyncio.create_task(cache.pass_through(call(), behind))
    await asyncio.sleep(0)
    others = [asyncio.create_task(cache.pass_through(call(), behind)) for _ in range(3)]
    await asyncio.sleep(0.005)
    first.cancel()
    found = await asyncio.gather(*others)
    assert [(await said(each))[1] for each in found]
    others[0].cancel()
    assert cache.flights == {}
    await cache.stop()


async def test_a_store_that_fails_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryStore):
        async def get(self, key: bytes) -> Any:
            raise OSError("no disk")

        async def put(self, key: bytes, value: bytes) -> None:
            raise OSError("no disk")

        async def held(self) -> Any:
            raise OSError("no disk")

    cache, behind = stage(Broken(1 << 20, 60)), Answers()
    await cache.start()
    for number in range(5):
        cache.store._down_until = 0.0
        assert (await said(await cache.pass_through(call(str(number)), behind)))[0] == "miss"
        await cache.store.written()
    assert caplog.text.count("requests go on without it: no disk") == 1 and cache.status()["errors"] > 4
    await cache.stop()


ask = st.tuples(
    st.sampled_from("abc"), st.sampled_from(["one", "two"]), st.booleans(),
    st.sampled_from(["", "", "no-store", "no-cache"]),
    st.sampled_from(["", "", "", "raises", "status", "error", "cut"]), st.booleans(),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(ask, min_size=2, max_size=25), st.integers(1, 8))
def test_nothing_of_one_client_reaches_another(asked: list[Any], at_once: int) -> None:
    """Whatever is asked at the same time, fails, breaks off or leaves: each gets what was made for it."""

    async def run() -> None:
        cache, behind = stage(), Answers(pause=0.0005)
        wrongs = [each[4] for each in asked]
        behind.fail = lambda number: wrongs[number % len(wrongs)]

        async def one(client: str, content: str, stream: bool, control: str, leaves: bool) -> None:
            mine = call(content, client, stream=stream, headers={"cache-control": control})
            try:
                response = await cache.pass_through(mine, behind)
                if leaves and isinstance(response, StreamingResponse):
                    parts: Any = aiter(response.body_iterator)
                    await anext(parts, None)
                    await parts.aclose()
                    return
                outcome, text = await said(response)
            except ConnectionError:
                return
            assert outcome in ("hit", "miss", "bypass")
            if text:
                wanted = f"for {client}: [{{'role': 'user', 'content': '{content}'}}] #"
                assert text.startswith(wanted) or wanted.startswith(text)
            if control == "no-store":
                assert outcome == "bypass"

        for at in range(0, len(asked), at_once):
            await asyncio.gather(*[one(*each[:4], each[5]) for each in asked[at : at + at_once]])
        assert cache.flights == {} and cache.recording == 0
        await cache.stop()

    asyncio.run(run())


async def test_shared_on_purpose() -> None:
    cache, behind = stage(scope="shared"), Answers()
    first = await said(await cache.pass_through(call(client="a"), behind))
    await cache.store.written()
    assert await said(await cache.pass_through(call(client="b"), behind)) == ("hit", first[1])
    await cache.stop()


async def test_a_body_that_is_nested_too_deeply_passes_by() -> None:
    cache, behind = stage(), Answers()
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    mine = call()
    mine.fields = {**(mine.fields or {}), "x": deep}
    assert (await cache.pass_through(mine, behind)).headers["x-cache"] == "bypass"
    await cache.stop()
