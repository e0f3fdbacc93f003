"""DiskStore: one SQLite file that several gateways may share and that a kill -9 leaves whole; the oldest goes first.

Times are of the system's clock, as they have to outlive the process. A file that is damaged is begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fastserve.gateway.cache.store import Held, Kept

log = logging.getLogger("fastserve.gateway")

Result = TypeVar("Result")

FILE = "answers.sqlite"
FORMAT = 1
BUSY_MS = 500
OVERHEAD = 128
"""Bytes that a row takes beside its value."""

SPARE = 16 << 20
"""Bytes that the file may have beyond half as much again as what it holds."""

TABLES = """
create table if not exists answers (
  key blob primary key, value blob not null, stored real not null, size integer not null
);
create index if not exists by_age on answers (stored);
create table if not exists held (bytes integer not null, entries integer not null);
insert into held select 0, 0 where not exists (select 1 from held);
create trigger if not exists added after insert on answers begin
  update held set bytes = bytes + new.size, entries = entries + 1; end;
create trigger if not exists removed after delete on answers begin
  update held set bytes = bytes - old.size, entries = entries - 1; end;
"""


class DiskStore:
    """size: bytes. ttl: s. One thread runs all statements. Raises OSError or sqlite3.Error for an unusable folder."""

    name = "disk"

    def __init__(self, folder: Path, size: int, ttl: float) -> None:
        self.path = folder / FILE
        self.size = size
        self.ttl = ttl
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.thread = ThreadPoolExecutor(1, "fastserve-cache")
        self.closed = False
        self.db: sqlite3.Connection | None = None
        try:
            self.thread.submit(self._open).result()
        except BaseException:
            self.thread.shutdown()
            raise

    async def get(self, key: bytes) -> Kept | None:
        return await self._later(lambda: self._get(key))

    async def put(self, key: bytes, value: bytes) -> None:
        if len(value) + OVERHEAD <= self.size:
            await self._later(lambda: self._put(key, value))

    async def clear(self) -> None:
        await self._later(lambda: self._database().execute("delete from answers"))

    async def held(self) -> Held:
        return await self._later(lambda: Held(*self._database().execute("select entries, bytes from held").fetchone()))

    async def close(self) -> None:
        if not self.closed:
            self.closed = True
            await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self.thread.submit(self._close).result()
        self.thread.shutdown()

    # -- on its thread ---------------------------------------------------------------------------------------------

    def _get(self, key: bytes) -> Kept | None:
        found = self._database().execute("select value, stored from answers where key = ?", (key,)).fetchone()
        if found is None:
            return None
        age = time.time() - found[1]
        return Kept(found[0], max(0.0, age)) if -self.ttl < age <= self.ttl else None

    def _put(self, key: bytes, value: bytes) -> None:
        db, now, size = self._database(), time.time(), len(value) + OVERHEAD
        with db:
            db.execute("begin immediate")
            db.execute("delete from answers where key = ?", (key,))
            db.execute("delete from answers where key in (select key from answers where stored < ? limit 100)",
                       (now - self.ttl,))  # fmt: skip
            while db.execute("select bytes + ? > ? from held", (size, self.size)).fetchone()[0]:
                gone = db.execute("delete from answers where key in (select key from answers order by stored limit 16)")
                if gone.rowcount < 1:
                    break
            db.execute("insert into answers (key, value, stored, size) values (?, ?, ?, ?)", (key, value, now, size))

    def _database(self) -> sqlite3.Connection:
        if self.db is None:
            self._open()
        assert self.db is not None
        return self.db

    def _open(self) -> None:
        try:
            self.db = self._connected()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self._begin_anew(error)
            self.db = self._connected()

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_MS / 1e3, isolation_level=None)
        try:
            self.path.chmod(0o600)
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = normal")
            db.execute("pragma journal_size_limit = 16777216")
            page = int(db.execute("pragma page_size").fetchone()[0])
            db.execute(f"pragma max_page_count = {(self.size * 3 // 2 + SPARE) // page}")
            if db.execute("pragma user_version").fetchone()[0] not in (0, FORMAT):
                db.executescript("drop table if exists answers; drop table if exists held;")
            db.executescript(TABLES)
            db.execute(f"pragma user_version = {FORMAT}")
        except BaseException:
            db.close()
            raise
        return db

    def _begin_anew(self, error: Exception) -> None:
        log.error("the cache %s is damaged (%s) and is begun anew", self.path, error)
        self._close()
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").unlink()

    def _close(self) -> None:
        if self.db is not None:
            with contextlib.suppress(sqlite3.Error):
                self.db.close()
            self.db = None

    async def _later(self, work: Callable[[], Result]) -> Result:
        def guarded() -> Result:
            try:
                return work()
            except sqlite3.OperationalError:  # busy, full, read only: the file is as it was
                raise
            except sqlite3.DatabaseError as error:
                self._begin_anew(error)
                raise

        return await asyncio.wrap_future(self.thread.submit(guarded))
