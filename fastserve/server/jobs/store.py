"""Job store: durable jobs and their results in SQLite, on disk before the client gets its response."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from fastserve.server.jobs import database
from fastserve.server.jobs.rows import DamagedRowError, Raw, Row, row_of, text

log = logging.getLogger("fastserve.server")

Result = TypeVar("Result")

MOST_TOLD = 20
"""Damaged rows that are told one by one; of more, the number."""


class StoreError(RuntimeError):
    """A write failed; the message is SQLite's: disk full, read-only, gone."""


class Store:
    """SQLite in `folder`, or in memory without one. One thread runs all statements, in order.

    Its age counts the seconds that servers have run on this folder, so that no step of the clock makes a result old.
    Raises ValueError when another server uses the folder, or it cannot be written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.closed = False
        self.thread = ThreadPoolExecutor(1, "fastserve-store")
        self._opened = time.monotonic()
        self._age = 0.0  # when it was opened
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
        db = database.in_memory() if self.folder is None else database.connect(self.folder)
        db.text_factory = bytes  # of a damaged file not all text is UTF-8
        ages = [value for (value,) in db.execute("select value from meta where name = 'age' union all "
                                                 "select max(aged) from jobs")]  # fmt: skip
        self._age = max((age for age in ages if isinstance(age, float) and 0 <= age < math.inf), default=0.0)
        return db

    @property
    def age(self) -> float:
        """Seconds that servers have run on this folder, this one included."""
        return self._age + time.monotonic() - self._opened

    def age_of(self, row: Row) -> float:
        """Seconds since its end, the smaller of what our age and the clock say: either may be wrong by years."""
        if row.ended is None or row.aged is None:
            return 0.0
        return max(0.0, min(self.age - row.aged, time.time() - row.ended))

    async def add(self, job: str, client: str, created: float, request: dict[str, Any] | str) -> None:
        """On disk when this returns. request: also as JSON. Raises StoreError, and then it is not."""
        row = job, client, created, request if isinstance(request, str) else json.dumps(request)
        statement = "insert into jobs (id, client, created, request) values (?, ?, ?, ?)"
        try:
            await asyncio.wrap_future(self._later(lambda: self.db.execute(statement, row)))
        except sqlite3.Error as error:
            log.error("a job cannot be stored in %s: %s", self.folder, error)
            raise StoreError(str(error)) from error

    def end(self, job: str, state: str, answer: dict[str, Any], ended: float) -> None:
        """Written in the background. If the process dies before, or the write fails, the job runs again from its stored
        request, with the same seed."""
        row = ended, state, json.dumps(answer), self.age, job
        statement = "update jobs set ended = ?, state = ?, answer = ?, aged = ? where id = ?"
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

    def keep_age(self) -> None:
        """Stores the age, in the background."""
        self._later(self._write_age).add_done_callback(lambda done: done.exception())

    def rows(self, keep_jobs: int, keep_hours: float) -> Iterator[Row]:
        """All jobs in the order of their arrival, one at a time.

        Those that ended beyond keep_jobs are deleted, and those of which the age and the clock agree that they ended
        keep_hours ago: neither a clock that was set nor a damaged age deletes anything. Damaged rows are moved to the
        table `damaged` and told.
        """
        try:
            self._now(lambda: self._prune(keep_jobs, keep_hours * 3600))
        except sqlite3.Error as error:  # full or read-only: what is there can be served all the same
            log.error("old jobs cannot be deleted in %s: %s", self.folder, error)
        last, told = -(1 << 63), 0
        while True:
            batch = self._now(lambda last=last: self._after(last))  # type: ignore[misc]
            if not batch:
                break
            for raw in batch:
                last = raw.rowid
                try:
                    yield row_of(raw)
                except DamagedRowError as error:
                    told += 1
                    if told <= MOST_TOLD:
                        log.error("job %s: the stored row is damaged (%s); it was moved to the table `damaged` of %s",
                                  _shown(raw.id), error, self.folder)  # fmt: skip
                    replaced = self._now(lambda raw=raw, error=error: self._set_aside(raw, str(error)))  # type: ignore[misc]
                    if replaced is not None:
                        yield replaced
        if told > MOST_TOLD:
            log.error("and %d more damaged rows", told - MOST_TOLD)

    def close(self) -> None:
        """After all earlier writes. A second call does nothing."""
        if self.closed:
            return
        self.closed = True
        self.keep_age()
        self._now(self.db.close)
        self.thread.shutdown()

    # -- on its thread ---------------------------------------------------------------------------------------------

    def _prune(self, keep_jobs: int, seconds: float) -> None:
        now = self.age
        odd = "aged is null or aged not between 0 and ?"
        self.db.execute(f"update jobs set aged = ? where ended is not null and ({odd})", (now, now))
        self.db.execute("delete from jobs where aged < ? and ended < ?", (now - seconds, time.time() - seconds))
        self.db.execute(
            "delete from jobs where ended is not null and rowid not in "
            "(select rowid from jobs where ended is not null order by aged desc, rowid desc limit ?)",
            (keep_jobs,),
        )

    def _after(self, rowid: int) -> list[Raw]:
        """The next rows: few enough that large ones do not take much memory at once."""
        found = self.db.execute(
            f"select rowid, {database.COLUMNS}, aged from jobs where rowid > ? order by rowid limit 16",
            (rowid,),
        )
        return [Raw(*values) for values in found]

    def _set_aside(self, raw: Raw, reason: str) -> Row | None:
        """Moves a row to `damaged`. Its client finds the job failed, and why; None where nobody could find it."""
        values = [_plain(value) for value in raw[1:-1]]
        columns = f"{database.COLUMNS}, reason, set_aside"
        what = f"the stored job was damaged and is set aside: {reason}"
        replaced = _failed(raw, what, self.age)
        try:
            with self.db:
                self.db.execute("begin")
                self.db.execute(f"insert into damaged ({columns}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                                (*values, reason, time.time()))  # fmt: skip
                self.db.execute("delete from jobs where rowid = ?", (raw.rowid,))
                if replaced is not None:
                    self.db.execute(
                        f"insert into jobs (rowid, {database.COLUMNS}, aged) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (raw.rowid, *replaced[:3], "{}", *replaced[4:6], json.dumps(replaced.answer), replaced.aged),
                    )
        except sqlite3.Error as error:
            log.error(
                "job %s: its row cannot be moved, so it is told again at the next start: %s", _shown(raw.id), error
            )
        return replaced

    def _write_age(self) -> None:
        self.db.execute("insert or replace into meta (name, value) values ('age', ?)", (self.age,))

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


def _failed(raw: Raw, what: str, age: float) -> Row | None:
    """What stands for a damaged row; None where it has no id or client to be found by."""
    try:
        id_, client = text("id", raw.id), text("client", raw.client)
    except DamagedRowError:
        return None
    now = time.time()
    created = raw.created if isinstance(raw.created, float) and 0 <= raw.created < now else now
    return Row(id_, client, created, {}, now, "failed", {"answer": None, "error": what}, age)


def _plain(value: Any) -> Any:
    """Text where it can be read as such, else its bytes."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return value


def _shown(id_: Any) -> str:
    return repr(_plain(id_))[:80]
