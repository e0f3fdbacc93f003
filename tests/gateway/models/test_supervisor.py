"""Which models are in memory, and what becomes of their processes. The servers are stubs, their processes real."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from fastserve.gateway.models import served_model
from fastserve.gateway.models.entry import Entry
from fastserve.gateway.models.events import Events
from fastserve.gateway.models.served_model import ServedModel, State
from fastserve.gateway.models.server_process import ServerProcess
from fastserve.gateway.models.supervisor import RECOUNTED_S, TICK_S, AllBusyError, LoadFailedError, Supervisor
from fastserve.server.telemetry.load import KEPT_S

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("stubs")]

PATIENCE = 30.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Traffic:
    """Counts: nothing is sent."""

    def __init__(self) -> None:
        self.processes: dict[str, ServerProcess] = {}
        self.ups: list[str] = []
        self.counts: dict[str, int] = {}
        self.later: dict[str, int] = {}  # what a look finds
        self.stale = 0  # looks that find nothing new
        self.ill: dict[str, float] = {}

    def up(self, entry: Entry, process: ServerProcess) -> None:
        self.processes[entry.name] = process
        self.ups.append(entry.name)

    def down(self, entry: Entry) -> None:
        self.processes.pop(entry.name, None)

    def running(self, entry: Entry) -> int:
        return self.counts.get(entry.name, 0)

    def ill_s(self, entry: Entry) -> float:
        return self.ill.get(entry.name, 0.0)

    async def look(self) -> None:
        self.stale -= 1
        if self.stale < 0:
            self.counts |= self.later

    def whole(self, entry: Entry) -> Entry:
        return entry


class World:
    def __init__(self, kinds: dict[str, str], **settings: Any) -> None:
        self.entries = {name: Entry(name, kind) for name, kind in kinds.items()}
        self.traffic = Traffic()
        self.events = Events()
        self.supervisor = Supervisor(
            self.entries.__getitem__, self.traffic, self.events, **{"most": 0, "idle_s": 0, "start_s": 60, **settings}
        )

    def state(self, name: str) -> State:
        return self.supervisor.models[name].state

    async def ready(self, name: str, **more: Any) -> ServedModel:
        return await asyncio.wait_for(self.supervisor.ready(name, **more), PATIENCE)

    async def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, {name: str(each.state) for name, each in self.supervisor.models.items()}
            await asyncio.sleep(0.01)


@asynccontextmanager
async def world(kinds: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[World]:
    made = World(kinds or {"a": "ok", "b": "ok", "c": "ok"}, **settings)
    made.supervisor.start()
    try:
        yield made
    finally:
        await made.supervisor.close()


def alive(pid: int | None) -> bool:
    assert pid is not None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_all_who_ask_wait_for_one_start() -> None:
    async with world({"a": "slow:0.3"}) as it:
        found = await asyncio.gather(*(it.ready("a") for _ in range(50)))
        assert {each.process.pid for each in found if each.process} == {it.traffic.processes["a"].pid}
        assert it.traffic.ups == ["a"] and it.supervisor.loads == 1 and found[0].leases == 0


async def test_a_client_that_leaves_does_not_stop_the_start() -> None:
    async with world({"a": "slow:0.5"}) as it:
        asking = asyncio.create_task(it.supervisor.ready("a"))
        await it.until(lambda: it.supervisor.models and it.state("a") is State.STARTING)
        asking.cancel()
        await it.until(lambda: it.state("a") is State.READY)
        assert it.supervisor.models["a"].leases == 0


async def test_only_who_has_the_key_may_use_it_and_neither_ps_nor_the_log_shows_it() -> None:
    async with world() as it:
        served = await it.ready("a")
        process = served.process
        assert process is not None
        key = process.key.get_secret_value()
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{process.url}/v1/models")).status_code == 401
            right = {"Authorization": f"Bearer {key}"}
            assert (await http.get(f"{process.url}/v1/models", headers=right)).status_code == 200
        with open(f"/proc/{process.pid}/cmdline", "rb") as command:
            assert key.encode() not in command.read()
        assert process.url.startswith("http://127.0.0.1:") and len(key) >= 32
    async with world({"b": "fail"}) as it:
        with pytest.raises(LoadFailedError, match=r"the reason why \*\*\*\*\*\*\*\* does not help"):
            await it.ready("b")


async def test_a_start_that_fails_tells_all_of_them_the_last_lines_and_is_not_repeated_at_once() -> None:
    async with world({"a": "fail"}) as it:
        results = await asyncio.gather(*(it.supervisor.ready("a") for _ in range(5)), return_exceptions=True)
        for error in results:
            assert isinstance(error, LoadFailedError)
            assert "model a: its server ended with status 3 before it was ready. Its last lines:\n" in str(error)
            assert "  loading fail\n  the reason why" in str(error)
        with pytest.raises(LoadFailedError):
            await it.ready("a")
        assert it.supervisor.loads == 1
        it.entries["a"] = Entry("a", "ok")
        await it.ready("a", again=True)
        assert it.supervisor.loads == 2


async def test_a_server_that_is_never_ready_is_ended() -> None:
    async with world({"a": "never"}, start_s=0.5) as it:
        with pytest.raises(LoadFailedError, match=r"was not ready within 0\.5 s"):
            await it.ready("a")
        assert it.supervisor.models["a"].process is None


async def test_the_least_recently_used_goes() -> None:
    async with world(most=2) as it:
        await it.ready("a")
        await it.ready("b")
        async with it.supervisor.held("a"):
            pass
        gone = it.traffic.processes["b"].pid
        await it.ready("c")
        assert (it.state("a"), it.state("b"), it.state("c")) == (State.READY, State.UNLOADED, State.READY)
        assert not alive(gone)


async def test_a_model_with_requests_never_goes() -> None:
    async with world(most=1) as it:
        async with it.supervisor.held("a"):
            with pytest.raises(AllBusyError, match=r"all 1 places are taken by models with requests \(a\): try again"):
                await it.ready("b")
        it.traffic.counts["a"] = 1  # an answer streams on when its stage is left
        with pytest.raises(AllBusyError):
            await it.ready("b")
        it.traffic.counts["a"] = 0
        await it.ready("b")
        assert it.state("a") is State.UNLOADED


async def test_before_a_refusal_it_is_asked_whether_all_are_busy_still() -> None:
    async with world(most=1) as it:
        await it.ready("a")
        it.traffic.counts["a"] = 1
        it.traffic.later["a"] = 0
        await it.ready("b")
        assert it.state("a") is State.UNLOADED
        it.traffic.counts["b"], it.traffic.later["b"], it.traffic.stale = 1, 0, 1  # its server has not counted anew yet
        assert await it.supervisor.requests("b") == 0 == await it.supervisor.requests("none")
        it.traffic.counts["b"], it.traffic.later["b"], it.traffic.stale = 1, 0, 1
        await it.ready("a")
        assert it.state("b") is State.UNLOADED
        it.traffic.counts["a"] = it.traffic.later["a"] = 2
        assert await it.supervisor.requests("a") == 2


async def test_an_old_count_does_not_keep_the_least_recently_used() -> None:
    async with world(most=2) as it:
        await it.ready("a")
        it.traffic.counts["a"], it.traffic.later["a"] = 1, 0  # its answer has ended since it was asked
        await it.ready("b")
        it.supervisor.models["a"].last_used -= 1.0  # whatever a look of its own made of that count
        await it.ready("c")
        assert (it.state("a"), it.state("b"), it.state("c")) == (State.UNLOADED, State.READY, State.READY)


def test_a_second_look_finds_a_new_count() -> None:
    assert RECOUNTED_S > KEPT_S


async def test_a_model_that_starts_keeps_its_place() -> None:
    async with world({"a": "slow:1", "b": "ok"}, most=1) as it:
        first = asyncio.create_task(it.ready("a"))
        await it.until(lambda: it.supervisor.models and it.state("a") is State.STARTING)
        with pytest.raises(AllBusyError):
            await it.ready("b")
        await first
        assert it.traffic.ups == ["a"]


async def test_never_more_processes_than_places() -> None:
    """The one that goes has ended before the one that comes is started: there is memory for so many only."""
    async with world(most=1) as it:
        begin = ServerProcess.start
        seen: list[int] = []

        async def counted(self: ServerProcess, seconds: float) -> str:
            seen.append(sum(each.process is not None and each.process.alive for each in it.supervisor.models.values()))
            return await begin(self, seconds)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ServerProcess, "start", counted)
            for name in "abcabc":
                await it.ready(name)
        assert seen == [0] * 6


async def test_an_idle_model_is_unloaded() -> None:
    async with world(idle_s=0.3) as it:
        async with it.supervisor.held("a"):
            await asyncio.sleep(0.8)
            assert it.state("a") is State.READY, "it has a request"
        await it.until(lambda: it.state("a") is State.UNLOADED)
        served = await it.ready("a")
        served.keep_s = -1
        await asyncio.sleep(0.8)
        assert it.state("a") is State.READY, "it is kept"
        served.keep_s = 0
        await it.until(lambda: it.state("a") is State.UNLOADED)


async def test_a_server_that_dies_is_started_again() -> None:
    async with world() as it:
        first = (await it.ready("a")).process
        assert first is not None
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await it.until(lambda: it.traffic.ups == ["a", "a"])
        served = await it.ready("a")
        assert served.process is not first and served.restarts == 1


async def test_only_a_server_that_is_ill_for_as_long_as_a_start_may_take_is_ended() -> None:
    async with world(start_s=60) as it:
        served = await it.ready("a")
        first = served.process
        it.traffic.ill["a"] = 59.0
        await asyncio.sleep(3 * TICK_S)
        assert served.state is State.READY and served.process is first
        watching = it.events.watch("a", lambda: None)  # type: ignore[arg-type, return-value]
        await anext(watching)
        it.traffic.ill["a"] = 61.0
        async for event in watching:
            if event.data.get("state") == "restarting":
                assert "has failed its health checks for 60 s, and was ended" in event.data["message"]
                break
        del it.traffic.ill["a"]
        await it.until(lambda: it.traffic.ups == ["a", "a"])
        assert served.restarts == 1 and served.process is not first and first is not None and not alive(first.pid)


async def test_a_server_that_is_killed_in_its_start_is_started_again() -> None:
    """Those who wait for it get the next one; but not for ever."""
    async with world({"a": "slow:1", "b": "never"}) as it:

        async def killed(name: str, before: int | None) -> int:
            found: list[int] = []

            def loads() -> bool:
                process = it.supervisor.models[name].process if name in it.supervisor.models else None
                if process is not None and process.lines and process.pid not in (None, before):
                    found.append(process.pid or 0)
                return bool(found)

            await it.until(loads)
            os.kill(found[0], signal.SIGKILL)
            return found[0]

        waiting = [asyncio.create_task(it.ready("a")) for _ in range(3)]
        await asyncio.sleep(0)
        await killed("a", None)
        assert {each.restarts for each in await asyncio.gather(*waiting)} == {1} and it.traffic.ups == ["a"]
        asking = asyncio.create_task(it.ready("b"))
        await asyncio.sleep(0)
        pid = None
        for _ in range(3):
            pid = await killed("b", pid)
        with pytest.raises(
            LoadFailedError, match=r"status -9 before it was ready \(SIGKILL: memory may have run out\)"
        ):
            await asking


async def test_a_server_that_dies_and_dies_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_model, "BACKOFF_S", (0.0, 0.05, 0.1))
    pauses: list[float] = []
    async with world({"a": "die:0.01"}) as it:
        watching = it.events.watch("a", lambda: None)  # type: ignore[arg-type, return-value]
        await anext(watching)
        with_last_lines = asyncio.create_task(it.supervisor.ready("a"))
        await it.until(lambda: "a" in it.supervisor.models and it.state("a") is State.FAILED)
        await asyncio.wait([with_last_lines])
        with_last_lines.exception()
        async for event in watching:
            if event.data.get("state") == "restarting":
                pauses.append(event.data["after_seconds"])
            if event.data.get("state") == "failed":
                break
        assert pauses == [0.0, 0.05, 0.1] and it.traffic.ups == ["a"] * 4
        with pytest.raises(LoadFailedError, match=r"given up after 4 deaths in a row; .* ended with status 7"):
            await it.ready("a")


async def test_unload_while_it_starts() -> None:
    async with world({"a": "never"}) as it:
        asking = asyncio.create_task(it.supervisor.ready("a"))
        await it.until(lambda: it.supervisor.models and it.supervisor.models["a"].process is not None)
        asking.cancel()
        assert await it.supervisor.unload("a") is True
        assert it.state("a") is State.UNLOADED and await it.supervisor.unload("a") is False


async def test_an_entry_that_changes_waits_for_its_requests() -> None:
    async with world() as it:
        async with it.supervisor.held("a"):
            it.traffic.counts["a"] = 1
            it.entries["a"] = Entry("a", "ok", options={"max_batch": 3})
            it.supervisor.changed({"a"})
            later = asyncio.create_task(it.ready("a"))
            await asyncio.sleep(0.4)
            assert not later.done() and it.traffic.ups == ["a"]
        it.traffic.counts["a"] = 0
        served = await later
        assert it.traffic.ups == ["a", "a"] and served.entry.options == {"max_batch": 3}


async def test_an_idle_model_whose_entry_has_changed_goes() -> None:
    async with world() as it:
        await it.ready("a")
        it.entries["a"] = Entry("a", "ok", options={"max_batch": 3})
        it.supervisor.changed({"a"})
        await it.until(lambda: it.state("a") is State.UNLOADED)


async def test_no_process_is_left() -> None:
    async with world({"a": "ok", "b": "never"}) as it:
        await it.ready("a")
        starting = asyncio.create_task(it.supervisor.ready("b"))
        await it.until(lambda: "b" in it.supervisor.models and it.supervisor.models["b"].process is not None)
        await it.until(lambda: (one := it.supervisor.models["b"].process) is None or one.lines)
        pids = [each.process.pid for each in it.supervisor.models.values() if each.process is not None]
    assert len(pids) == 2 and not any(map(alive, pids))
    with pytest.raises(AllBusyError):
        await starting
