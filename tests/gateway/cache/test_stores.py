"""The three stores: time to live, bound, damage, kill -9, and two gateways on one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fastserve.gateway.cache import disk
from fastserve.gateway.cache.disk import FILE, DiskStore
from fastserve.gateway.cache.entry import Entry
from fastserve.gateway.cache.guarded import Guarded
from fastserve.gateway.cache.memory import MemoryStore
from fastserve.gateway.cache.redis import RedisStore
from fastserve.gateway.cache.store import Store
from tests.jobqueue.processes import ROOT, Redis

pytestmark = pytest.mark.anyio
ENTRY = Entry("application/json", "", 0, b"{}")


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


Make = Callable[..., Store]


@pytest.fixture(params=["memory", "disk", "redis"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Store] = []
    redis: Redis | None = request.getfixturevalue("redis") if request.param == "redis" else None

    def make(size: int = 1 << 20, ttl: float = 60) -> Store:
        store: Any
        if request.param == "memory":
            store = MemoryStore(size, ttl)
        elif request.param == "disk":
            store = DiskStore(tmp_path / "cache", size, ttl)
        else:
            assert redis is not None
            store = RedisStore(redis.url, size, ttl, 60.0)
        made.append(store)
        return store  # type: ignore[no-any-return]

    yield make
    for store in made:
        await store.close()


async def test_what_was_put_is_found_for_a_time(make: Make) -> None:
    store = make(ttl=1)
    assert await store.get(key(1)) is None
    await store.put(key(1), b"one")
    await store.put(key(1), b"\0other\xff")
    found = await store.get(key(1))
    assert found is not None and found.value == b"\0other\xff" and 0 <= found.age < 1
    assert await store.get(key(2)) is None
    assert (await store.held()).entries == 1
    await asyncio.sleep(1.1)
    assert await store.get(key(1)) is None
    await store.put(key(2), b"two")
    assert (await store.held()).entries == 1


async def test_it_is_bounded(make: Make) -> None:
    store = make(size=200_000)
    for number in range(300):
        await store.put(key(number), bytes(4000))
        assert (await store.held()).bytes <= 200_000
    assert await store.get(key(299)) is not None and await store.get(key(0)) is None
    assert 30 < (await store.held()).entries < 50
    await store.put(key(500), bytes(300_000))
    assert await store.get(key(500)) is None and await store.get(key(299)) is not None
    await store.clear()
    assert await store.get(key(299)) is None and await store.held() == (0, 0)
    await store.put(key(1), b"one")
    assert (await store.held()).entries == 1


async def test_two_gateways_share_what_is_shared(make: Make) -> None:
    one, other = make(), make()
    await one.put(key(1), b"one")
    found = await other.get(key(1))
    assert (found is None) == isinstance(one, MemoryStore)
    await asyncio.gather(*[store.put(key(number), bytes(1000)) for number in range(100) for store in (one, other)])
    assert (await one.held()).entries in (100, 101)
    assert (await other.get(key(50))) is not None


SCRIPT = """
import asyncio, sys
from pathlib import Path
from fastserve.gateway.cache.disk import DiskStore
async def main():
    store = DiskStore(Path(sys.argv[1]), 1 << 28, 60)
    number = int(sys.argv[2])
    while True:
        await store.put(number.to_bytes(32, "big"), bytes([number % 256]) * 3000)
        print(number, flush=True)
        number += 1
asyncio.run(main())
"""


async def test_kill_9_of_two_that_write_one_file(tmp_path: Path) -> None:
    """All that was said to be written is there, and whole, and their sizes add up."""
    folder = tmp_path / "cache"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(first)], stdout=subprocess.PIPE,
                         env=environment)
        for first in (0, 1_000_000)
    ]  # fmt: skip
    last = []
    try:
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(40):
                line = writer.stdout.readline()
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
    for writer in writers:
        assert writer.stdout is not None
        with writer.stdout:
            rest = writer.stdout.read().split(b"\n")
        writer.wait()
        last.append(int(next((each for each in reversed(rest[:-1]) if each), line)))
    store = DiskStore(folder, 1 << 28, 60)
    try:
        for number in last:
            found = await store.get(key(number))
            assert found is not None and found.value == bytes([number % 256]) * 3000
        held = await store.held()
        assert held.bytes <= 1 << 28 and held.entries > 50
        assert held.bytes == held.entries * (3000 + disk.OVERHEAD)
    finally:
        await store.close()


def _sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


async def test_the_file_is_bounded_too(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 1 << 20, 60)
    for number in range(1500):
        await store.put(key(number), os.urandom(8000))
    assert _sizes(tmp_path) < (1 << 20) * 2.5 + disk.SPARE
    await store.close()
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"no database at all, but some text" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_damaged_file_is_begun_anew(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(damage)
    store = DiskStore(tmp_path, 1 << 20, 60)
    assert "is damaged" in caplog.text
    await store.put(key(1), b"one")
    assert await store.get(key(1)) is not None
    await store.close()


async def test_a_file_that_is_damaged_while_it_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = DiskStore(tmp_path, 1 << 20, 60)
    for number in range(200):
        await first.put(key(number), bytes(2000))
    await first.close()
    store = Guarded(DiskStore(tmp_path, 1 << 20, 60))
    content = bytearray((tmp_path / FILE).read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    (tmp_path / FILE).write_bytes(content)
    for number in range(200):
        assert await store.get(key(number)) is None
        store._down_until = 0.0
    store.put(key(1), ENTRY)
    await store.written()
    store._down_until = 0.0
    store.put(key(1), ENTRY)
    await store.written()
    assert (await store.get(key(1)) or [None])[0] == ENTRY
    assert "begun anew" in caplog.text
    await store.close()


async def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SPARE", 0)
    store = DiskStore(tmp_path, 1 << 16, 60)
    guarded = Guarded(store)
    await store._later(lambda: store._database().execute("pragma max_page_count = 20"))
    await store._later(lambda: store._database().execute("update held set bytes = -1000000000"))  # evicts nothing
    for number in range(100):
        guarded._down_until = 0.0
        guarded.put(key(number), Entry("application/json", "", 0, bytes(8000)))
        await guarded.written()
    assert guarded.errors > 50 and await guarded.get(key(99)) is None
    guarded._down_until = 0.0
    assert (await guarded.get(key(1)) or [None])[0] == Entry("application/json", "", 0, bytes(8000))
    await guarded.close()


@pytest.mark.parametrize("how", ["killed", "hangs"])
async def test_a_redis_that_fails_is_a_miss_within_its_time(
    redis: Redis, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Guarded(RedisStore(redis.url, 1 << 20, 60, 0.3), 0.3)
    store.put(key(1), ENTRY)
    await store.written()
    assert (await store.get(key(1)) or [None])[0] == ENTRY
    if how == "killed":
        redis.kill()
    else:
        redis.signal(signal.SIGSTOP)
    caplog.set_level("INFO")
    began = time.monotonic()
    for _ in range(100):
        assert await store.get(key(1)) is None
        store.put(key(2), ENTRY)
    assert time.monotonic() - began < 5  # and not 100 times 0.3 s
    await store.written()
    assert 0 < store.errors < 300 and caplog.text.count("fails, and requests go on without it") == 1
    if how == "killed":
        redis.start()
    else:
        redis.signal(signal.SIGCONT)
    store._down_until = 0.0
    for _ in range(50):
        store._down_until = 0.0
        if await store.get(key(1)) is not None:
            break
        await asyncio.sleep(0.05)
    assert (await store.get(key(1)) or [None])[0] == ENTRY and "works again" in caplog.text
    await store.close()


async def test_what_somebody_else_wrote_is_no_answer(redis: Redis) -> None:
    mine = RedisStore(redis.url, 1 << 20, 60, 60.0)
    store = Guarded(mine)
    for value in (b"", b"junk", ENTRY.packed()[:-1], bytes(16) + b"[1]\n"):
        store._down_until = 0.0
        await mine.put(key(1), value)
        assert await store.get(key(1)) is None
    assert store.errors == 4
    await store.close()


async def test_writes_that_are_behind_are_dropped() -> None:
    gate = asyncio.Event()

    class Slow(MemoryStore):
        async def put(self, key: bytes, value: bytes) -> None:
            await gate.wait()

    store = Guarded(Slow(1 << 30, 60), 5)
    for number in range(1000):
        store.put(key(number), ENTRY)
    assert store.dropped == 1000 - 256
    gate.set()
    await store.written()
    for number in range(100):
        store.put(key(number), Entry("application/json", "", 0, bytes(1 << 20)))
    assert store.dropped > 1000 - 256 + 30
    with contextlib.suppress(Exception):
        await store.close()
