"""Job store: durable jobs and their results in SQLite, on disk before the client gets its response."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

log = logging.getLogger("fastserve.server")

Result = TypeVar("Result")

TABLE = """
create table if not exists jobs (
    id text primary key,
    client text not null,
    created real not null,
    request text not null,
    ended real,
    state text,
    answer text
) strict;
create index if not exists jobs_by_end on jobs (ended);
"""


class Row(NamedTuple):
    """One durable job. ended, state and answer are None while it has not ended. Times: s since the epoch."""

    id: str
    client: str
    created: float
    request: dict[str, Any]
    ended: float | None
    state: str | None
    answer: dict[str, Any] | None


class StoreError(RuntimeError):
    """A write failed; the message is SQLite's: disk full, read-only, gone."""


class Store:
    """SQLite in `folder`, or in memory without one. One thread runs all statements, in order.

    Raises ValueError when another server uses the folder, or it cannot be written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.closed = False
        self.thread = ThreadPoolExecutor(1, "fastserve-store")
        try:
            self.db: sqlite3.Connection = self._now(self._open)
        except (sqlite3.Error, OSError) as error:
            self.thread.shutdown()
            if "locked" in str(error):
                raise ValueError(
                    f"state folder {folder} is in use by another server; stop it, or give another --state-dir"
                ) from error
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"state folder {folder} cannot be used: {reason}; give another --state-dir") from error

    def _open(self) -> sqlite3.Connection:
        if self.folder is None:
            db = sqlite3.connect(":memory:", isolation_level=None)
        else:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            db = sqlite3.connect(self.folder / "jobs.sqlite", timeout=1.0, isolation_level=None)
            # The exclusive lock is taken at the first write and held until this process ends, however it ends.
            db.execute("pragma locking_mode = exclusive")
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = full")
        db.executescript(TABLE)
        db.execute("begin exclusive")
        db.execute("commit")
        return db

    async def add(self, job: str, client: str, created: float, request: dict[str, Any]) -> None:
        """On disk when this returns. Raises StoreError, and then it is not."""
        row = job, client, created, json.dumps(request)
        statement = "insert into jobs (id, client, created, request) values (?, ?, ?, ?)"
        try:
            await asyncio.wrap_future(self._later(lambda: self.db.execute(statement, row)))
        except sqlite3.Error as error:
            log.error("a job cannot be stored in %s: %s", self.folder, error)
            raise StoreError(str(error)) from error

    def end(self, job: str, state: str, answer: dict[str, Any], ended: float) -> None:
        """Written in the background. If the process dies before, or the write fails, the job runs again from its stored
        request, with the same seed."""
        row = ended, state, json.dumps(answer), job
        statement = "update jobs set ended = ?, state = ?, answer = ? where id = ?"
        self._log_failure(self._later(lambda: self.db.execute(statement, row)), job)

    def attempted(self, job: str, attempts: int) -> None:
        """Stores how many steps have failed with it, in the background."""
        row = attempts, job
        statement = "update jobs set request = json_set(request, '$.attempts', ?) where id = ?"
        self._log_failure(self._later(lambda: self.db.execute(statement, row)), job)

    async def written(self) -> None:
        """All earlier writes are on disk when this returns."""
        await asyncio.wrap_future(self._later(lambda: None))

    def remove(self, job: str) -> None:
        """Deletes a job, in the background."""
        self._log_failure(self._later(lambda: self.db.execute("delete from jobs where id = ?", (job,))), job)

    def rows(self, keep_jobs: int, keep_hours: float) -> list[Row]:
        """All jobs, oldest first; those that ended too long ago, or beyond keep_jobs, are deleted."""

        def read() -> list[Row]:
            self.db.execute("delete from jobs where ended < ?", (time.time() - keep_hours * 3600,))
            self.db.execute(
                "delete from jobs where ended is not null and id not in "
                "(select id from jobs where ended is not null order by ended desc limit ?)",
                (keep_jobs,),
            )
            found: Iterator[tuple[Any, ...]] = self.db.execute(
                "select id, client, created, request, ended, state, answer from jobs order by created, rowid"
            )
            return [
                Row(id_, client, created, json.loads(request), ended, state, answer and json.loads(answer))
                for id_, client, created, request, ended, state, answer in found
            ]

        return self._now(read)

    def close(self) -> None:
        """After all earlier writes. A second call does nothing."""
        if self.closed:
            return
        self.closed = True
        self._now(self.db.close)
        self.thread.shutdown()

    def _log_failure(self, written: Future[Any], job: str) -> None:
        """Logs a failed write that nobody awaits."""

        def look(done: Future[Any]) -> None:
            if error := done.exception():
                log.error("the result of job %s cannot be stored, so a restart will run it again: %s", job, error)

        written.add_done_callback(look)

    def _later(self, work: Callable[[], Result]) -> Future[Result]:
        return self.thread.submit(work)

    def _now(self, work: Callable[[], Result]) -> Result:
        return self.thread.submit(work).result()
