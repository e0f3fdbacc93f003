"""What is on disk was damaged, or the clock was set: the server starts, says what it found, and serves the rest."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from fastserve.server.jobs.store import Store
from tests.server.conftest import Client, Serve
from tests.server.test_durable import end_of, submit

pytestmark = pytest.mark.anyio


async def a_folder(serve: Serve, tmp_path: Path, jobs: int = 3) -> tuple[Path, list[str]]:
    """A state folder with so many finished jobs, and their ids."""
    state = tmp_path / "state"
    async with serve(state_dir=state) as client:
        ids = [await submit(client, metadata={"number": number}) for number in range(jobs)]
        for job in ids:
            await end_of(client, job)
    return state, ids


def change(state: Path, statement: str, *values: Any) -> None:
    with sqlite3.connect(state / "jobs.sqlite") as database:
        database.execute(statement, values)
    database.close()


def rows(state: Path, statement: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(state / "jobs.sqlite")
    database.text_factory = bytes
    found = database.execute(statement).fetchall()
    database.close()
    return found


async def states(client: Client, ids: list[str]) -> list[str]:
    return [(await client.get(f"/jobs/{job}")).json().get("state", "none") for job in ids]


RESULT = '{"answer": {"job_id": "x", "text": "a", "tokens_generated": "many"}, "error": null}'


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("request", '{"model": "scripted", "prom', "its request is not JSON"),
        ("request", "[1, 2]", "not an object"),
        ("request", "[" * 100_000, "its request is not JSON"),
        ("request", '{"metadata": {"x": NaN}}', "NaN"),
        ("request", '{"metadata": {"x": 1e999}}', "1e999 is too large"),
        ("request", b"\xff\xfe{}", "not UTF-8"),
        ("state", "exploded", "its state is 'exploded'"),
        ("state", None, "no state"),
        ("ended", None, "no time"),
        ("ended", 1e999, "is no time"),
        ("created", -1e999, "is no time"),
        ("answer", "{", "its answer is not JSON"),
        ("answer", '{"answer": [1], "error": null}', "not an object"),
        ("answer", '{"answer": {}, "error": null}', "has no job_id"),
        ("answer", '{"answer": null, "error": 5}', "not text"),
        ("answer", RESULT, "tokens_generated"),
    ],
)
async def test_a_damaged_row_is_set_aside(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str, value: Any, words: str
) -> None:
    state, ids = await a_folder(serve, tmp_path)
    set_to = "cast(? as text)" if isinstance(value, bytes) else "?"
    change(state, f"update jobs set {column} = {set_to} where id = '{ids[1]}'", value)
    async with serve(state_dir=state) as client:
        assert await states(client, ids) == ["finished", "failed", "finished"]
        found = (await client.get(f"/jobs/{ids[1]}")).json()
        assert words in found["error"] and "set aside" in found["error"]
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(told) == 1 and ids[1] in told[0] and words in told[0] and str(state) in told[0]
        assert (await client.get("/jobs")).json()["total"] == 3
        assert (await end_of(client, await submit(client)))["state"] == "finished"
    kept = rows(state, f"select id, {column}, reason from damaged")
    assert [row[0].decode() for row in kept] == [ids[1]] and words in kept[0][2].decode()
    caplog.clear()
    async with serve(state_dir=state) as client:
        assert await states(client, ids) == ["finished", "failed", "finished"], "and it stays so"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "it is told once"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", "text"), ("prompt", [1, "2"]), ("prompt", [True]), ("prompt", []), ("prompt", 7),
        ("metadata", [1]), ("metadata", "x"), ("priority", "high"), ("program", 5), ("attempts", "2"),
        ("deadline_s", "soon"), ("deadline_s", -1), ("params", []), ("params", {"max_tokens": "many"}), ("model", 5),
        ("unknown", 1),
    ],
)  # fmt: skip
async def test_a_request_of_wrong_types_fails_alone(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, value: Any
) -> None:
    state, ids = await a_folder(serve, tmp_path, 2)
    (request,) = rows(state, f"select request from jobs where id = '{ids[0]}'")[0]
    written = json.dumps(json.loads(request) | {name: value})
    for job in ids:
        change(state, "update jobs set ended = null, state = null, answer = null where id = ?", job)
    change(state, "update jobs set request = ? where id = ?", written, ids[0])
    async with serve(state_dir=state) as client:
        assert (await end_of(client, ids[1]))["state"] == "finished"
        found = (await client.get(f"/jobs/{ids[0]}")).json()
        assert found["state"] == "failed" and found["error"]
        assert client.service.engine.alive


async def test_a_row_that_nobody_can_find(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state, ids = await a_folder(serve, tmp_path)
    change(state, "update jobs set id = '' where id = ?", ids[0])
    change(state, "update jobs set id = cast(? as text) where id = ?", b"\xff", ids[1])
    async with serve(state_dir=state) as client:
        assert (await client.get("/jobs")).json()["total"] == 1
        assert await states(client, ids[2:]) == ["finished"]
    assert len(rows(state, "select reason from damaged")) == 2
    assert "''" in told(caplog) and "ff" in told(caplog)


def told(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR)


@pytest.mark.parametrize("content", [b"this is no database" * 500, b"x" * 200, b"SQLite format 3\x00" + bytes(4080)])
async def test_a_file_that_is_no_database(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "jobs.sqlite").write_bytes(content)
    (state / "jobs.sqlite-wal").write_bytes(b"old")
    for _ in range(2):
        async with serve(state_dir=state) as client:
            job = await submit(client)
            assert (await end_of(client, job))["state"] == "finished"
    (aside,) = [path for path in state.iterdir() if "damaged" in path.name and not path.name.endswith("-wal")]
    assert aside.read_bytes() == content and aside.name in told(caplog), "kept as it was found"
    async with serve(state_dir=state) as client:
        assert (await client.get(f"/jobs/{job}")).json()["state"] == "finished"


async def test_what_can_be_read_of_a_damaged_file_is_taken_over(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, ids = await a_folder(serve, tmp_path, 60)
    path = state / "jobs.sqlite"
    whole = bytearray(path.read_bytes())
    middle = len(whole) // 2 // 4096 * 4096
    whole[middle : middle + 4096] = b"\xaa" * 4096
    path.write_bytes(whole)
    async with serve(state_dir=state) as client:
        found = await states(client, ids)
        assert 20 <= found.count("finished") < 60
        assert f"{len(found) - found.count('none')} jobs" in told(caplog)
        assert (await end_of(client, await submit(client)))["state"] == "finished"
    assert not [path.name for path in state.iterdir() if path.name.startswith("tmp")]


async def test_a_later_version_and_other_tables(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state, ids = await a_folder(serve, tmp_path)
    change(state, "pragma user_version = 7")
    async with serve(state_dir=state) as client:
        assert (await client.get("/jobs")).json()["total"] == 0
    assert "its version is 7" in told(caplog)
    caplog.clear()
    other = tmp_path / "other"
    other.mkdir()
    change(other, "create table jobs (id text, what text)")
    async with serve(state_dir=other) as client:
        assert (await end_of(client, await submit(client)))["state"] == "finished"
    assert "no column client" in told(caplog)
    (aside,) = [path for path in state.iterdir() if "damaged" in path.name]
    shutil.copyfile(aside, state / "jobs.sqlite")
    change(state, "pragma user_version = 1")
    async with serve(state_dir=state) as client:
        assert await states(client, ids) == ["finished"] * 3, "nothing of what was set aside is lost"


async def test_a_folder_of_an_earlier_version(serve: Serve, tmp_path: Path) -> None:
    state, ids = await a_folder(serve, tmp_path)
    change(state, "alter table jobs drop column aged")
    change(state, "drop table meta")
    change(state, "drop table damaged")
    change(state, "pragma user_version = 0")
    change(state, "update jobs set ended = ended - 1e8")
    async with serve(state_dir=state) as client:
        assert await states(client, ids) == ["finished"] * 3


@pytest.mark.parametrize("kept", [0, 10, 32, 100, 4000, -1, -500])
async def test_a_log_that_was_cut_off(serve: Serve, tmp_path: Path, kept: int) -> None:
    """Whatever was not whole is as if it had not been written: its job runs again, or was never accepted."""
    state = tmp_path / "state"
    copy = tmp_path / "copy"
    async with serve(state_dir=state) as client:
        ids = [await submit(client) for _ in range(3)]
        for job in ids:
            await end_of(client, job)
        await client.service.store.written()
        shutil.copytree(state, copy)  # as kill -9 leaves it: the log is not yet in the database
    log = copy / "jobs.sqlite-wal"
    log.write_bytes(log.read_bytes()[:kept])
    async with serve(state_dir=copy) as client:
        listed = (await client.get("/jobs")).json()["jobs"]
        for job in listed:
            assert (await end_of(client, job["job_id"]))["state"] == "finished"
        assert {job["job_id"] for job in listed} <= set(ids)
        assert (await end_of(client, await submit(client)))["state"] == "finished"


# -- whose files they are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277, 0o777])
async def test_files_are_the_users_alone(serve: Serve, tmp_path: Path, umask: int) -> None:
    ours, others = tmp_path / "ours", tmp_path / "others"
    others.mkdir()
    others.chmod(0o777)
    before = os.umask(umask)
    try:
        for state in (ours / "state", others):
            async with serve(state_dir=state) as client:
                await end_of(client, await submit(client))
                modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
                assert modes["jobs.sqlite"] == 0o600 and set(modes.values()) == {0o600}, modes
    finally:
        os.umask(before)
    assert stat.S_IMODE((ours / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE(others.stat().st_mode) == 0o777, "not ours to change"


async def test_files_that_were_open_to_others_are_closed(serve: Serve, tmp_path: Path) -> None:
    state, ids = await a_folder(serve, tmp_path)
    (state / "jobs.sqlite").chmod(0o644)
    async with serve(state_dir=state) as client:
        assert await states(client, ids) == ["finished"] * 3
        assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}


# -- the clock ---------------------------------------------------------------------------------------------------------

YEAR = 365 * 86400.0


class Clock:
    """The wall clock, off by so many seconds. time.monotonic() stays what it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.off)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("step", [YEAR, -YEAR, 20 * YEAR, -50 * YEAR])
async def test_a_clock_that_steps_deletes_nothing(serve: Serve, tmp_path: Path, clock: Clock, step: float) -> None:
    state = tmp_path / "state"
    async with serve(state_dir=state) as client:
        first = await submit(client)
        await end_of(client, first)
        other = (await client.post("/generate", json={"prompt": "a"})).json()["job_id"]
        clock.off = step
        second = await submit(client)
        found = await end_of(client, second)
        assert found["ended"] >= found["created"] and found["result"]["completion_time"] < 60
        assert await states(client, [first, second, other]) == ["finished"] * 3
    for off in (step, 0.0, -step):
        clock.off = off
        async with serve(state_dir=state) as client:
            assert await states(client, [first, second]) == ["finished"] * 2
            last = await submit(client)
            assert (await end_of(client, last))["state"] == "finished"
            assert await states(client, [first, second]) == ["finished"] * 2


async def test_a_step_while_a_job_runs(serve: Serve, tmp_path: Path, clock: Clock) -> None:
    from tests.server.conftest import slow_engine

    async with serve(slow_engine(), state_dir=tmp_path / "state") as client:
        job = await submit(client, max_new_tokens=5)
        clock.off = -YEAR
        found = await end_of(client, job)
        assert 0 <= found["ended"] - found["created"] < 60


async def test_old_jobs_do_go(serve: Serve, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time that servers have run, and not before the clock agrees."""
    state, ids = await a_folder(serve, tmp_path)
    change(state, "update jobs set aged = 0.0")
    change(state, "update meta set value = 1e5 where name = 'age'")
    async with serve(state_dir=state) as client:
        assert await states(client, ids) == ["finished"] * 3, "the clock says that they are new"
    change(state, "update jobs set aged = 0.0")
    clock.off = 1e5
    async with serve(state_dir=state) as client:
        assert (await client.get("/jobs")).json()["total"] == 0
    async with serve(keep_hours=1e-9) as client:
        await client.post("/generate", json={"prompt": "a"})
        await client.post("/generate", json={"prompt": "a"})
        monkeypatch.setattr("fastserve.server.service.UPKEEP_S", 0.0)
        assert len(client.service.registry.jobs) <= 1


@pytest.mark.parametrize("value", [1e300, -5.0, "text", None, b"\xff"])
async def test_an_age_that_is_damaged(serve: Serve, tmp_path: Path, value: Any) -> None:
    state, ids = await a_folder(serve, tmp_path)
    change(state, "update meta set value = ?", value)
    async with serve(state_dir=state) as client:
        assert await states(client, ids) == ["finished"] * 3


@pytest.mark.parametrize("step", [YEAR, -YEAR])
async def test_a_clock_that_steps_asks_nobody_to_wait(serve: Serve, clock: Clock, step: float) -> None:
    body = {"prompt": "a", "max_new_tokens": 1}
    async with serve(requests_per_minute=2, tokens_per_minute=1000) as client:
        for _ in range(2):
            assert (await client.post("/generate", json=body)).status_code == 200
        clock.off = step
        refused = await client.post("/generate", json=body)
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
    async with serve(drain_seconds=1e6) as client:
        client.service.draining = True
        refused = await client.post("/generate", json=body)
        assert refused.status_code == 503 and 1 <= int(refused.headers["retry-after"]) <= 60


# -- what jobs weigh ---------------------------------------------------------------------------------------------------

HEAVY = [[] for _ in range(4000)]
"""12 KB of JSON that are 290 KB once they are parsed."""


@pytest.mark.parametrize("path", ["/generate", "/jobs"])
async def test_what_is_kept_costs_what_it_weighs(serve: Serve, path: str) -> None:
    import gc
    import tracemalloc

    async with serve() as client:

        async def one() -> None:
            body = {"prompt": "a", "max_new_tokens": 1, "metadata": {"x": HEAVY}}
            job = (await client.post(path, json=body)).json()["job_id"]
            await end_of(client, job)

        await one()
        tracemalloc.start()
        try:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(40):
                await one()
            gc.collect()  # the last requests' parsed bodies, which are in cycles here and there
            each = (tracemalloc.get_traced_memory()[0] - before) / 40
        finally:
            tracemalloc.stop()
        assert each < 3 * 15_000, f"{each:,.0f} bytes a job"
        registry = client.service.registry
        assert registry.bytes == sum(job.weight for job in registry.jobs.values())
        assert 41 * 12_000 < registry.bytes < 41 * 20_000 and registry.live_bytes == 0


async def test_the_oldest_go_when_memory_is_full(serve: Serve, tmp_path: Path) -> None:
    state = tmp_path / "state"
    body = {"prompt": "a", "max_new_tokens": 1, "metadata": {"x": "x" * 10_000}}
    async with serve(state_dir=state, keep_mib=0.1) as client:
        first = await submit(client, metadata=body["metadata"])
        await end_of(client, first)
        for _ in range(20):
            await client.post("/generate", json=body)
        total = (await client.get("/jobs")).json()["total"]
        assert 5 <= total <= 9 and client.service.registry.bytes <= 0.1 * (1 << 20)
        assert (await client.get(f"/jobs/{first}")).json()["state"] == "finished", "others go before durable ones"
        ids = [await submit(client, metadata=body["metadata"]) for _ in range(20)]
        await end_of(client, ids[-1])
        assert (await client.get(f"/jobs/{first}")).status_code == 404
        await client.service.store.written()
        store = client.service.store
        (stored,) = store._now(lambda: store.db.execute("select count(*) from jobs").fetchone())
        assert stored == (await client.get("/jobs")).json()["total"] <= 9, "of the database too"
    async with serve(state_dir=state, keep_mib=0.03) as client:
        assert 1 <= (await client.get("/jobs")).json()["total"] <= 3


async def test_no_more_comes_than_memory_holds(serve: Serve) -> None:
    from tests.server.conftest import slow_engine

    async with serve(slow_engine(), keep_mib=0.05) as client:
        large = await client.post("/generate", json={"prompt": "a" * 1500})
        assert large.status_code == 400 and "keep_mib" in large.text
        body = {"prompt": "a" * 200, "max_new_tokens": 1000}
        statuses = [(await client.post("/jobs", json=body)).status_code for _ in range(10)]
        assert statuses[0] == 202 and statuses[-1] == 503
        refused = await client.post("/jobs", json=body)
        assert "try again" in refused.text and int(refused.headers["retry-after"]) == 1


def test_a_store_that_is_closed_twice(tmp_path: Path) -> None:
    store = Store(tmp_path / "state")
    store.close()
    store.close()
    Store(tmp_path / "state").close()
