"""The file of the job store: private, checked when it is opened, and set aside under another name when it is damaged.

SQLite takes care of a process that dies and of a log that is cut off. This is for what it cannot: a file that another
program wrote over, a page that the disk lost, tables of another version.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("fastserve.server")

FILE = "jobs.sqlite"
SIDES = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database, by suffix."""

VERSION = 1
"""user_version of the tables below; 0 is the same without `aged` and without the two later tables."""

DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
"""SQLite's codes for a file that is no sound database."""

COLUMNS = "id, client, created, request, ended, state, answer"
"""Of a job in every version."""

TABLES = """
create table if not exists jobs (
    id text primary key,
    client text not null,
    created real not null,
    request text not null,
    ended real,
    state text,
    answer text,
    aged real
) strict;
create table if not exists meta (name text primary key, value);
create table if not exists damaged (id, client, created, request, ended, state, answer, reason, set_aside);
"""
"""aged: seconds that servers had run on this folder when the job ended; meta `age`: that they have run so far."""


class DamageError(Exception):
    """The file is no database of ours that can be used."""


class LayoutError(DamageError):
    """It is a sound database of another layout, or of a later version."""


def connect(folder: Path) -> sqlite3.Connection:
    """Opens jobs.sqlite for this process alone. Raises sqlite3.Error or OSError where that cannot be.

    A damaged file is set aside and told in the log; what can be read of it is taken over.
    """
    path = folder / FILE
    _make_private(folder, path)
    try:
        return _open(path)
    except DamageError as error:
        damage = error
    aside = _set_aside(path)
    _make_private(folder, path)
    db = _open(path)
    taken = 0 if isinstance(damage, LayoutError) else _salvage(aside, db)
    log.error(
        "the job database %s cannot be used (%s): it was set aside as %s, and %s", path, damage, aside.name,
        f"{taken} jobs that could be read were taken over" if taken else "none of its jobs is served",
    )  # fmt: skip
    return db


def in_memory() -> sqlite3.Connection:
    """A database that ends with this process."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(TABLES)
    return db


def _open(path: Path) -> sqlite3.Connection:
    """Raises DamageError where the file is no sound database of ours."""
    db = sqlite3.connect(path, timeout=1.0, isolation_level=None)
    try:
        # The exclusive lock is taken at the first write and held until this process ends, however it ends.
        db.execute("pragma locking_mode = exclusive")
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = full")
        db.execute("begin exclusive")
        db.execute("commit")
        found = [str(line) for (line,) in db.execute("pragma integrity_check(3)")]
        if found != ["ok"]:
            raise DamageError("; ".join(found).replace("\n", " "))
        _migrate(db)
    except (sqlite3.DatabaseError, DamageError) as error:
        with contextlib.suppress(sqlite3.Error):
            db.close()
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code not in DAMAGED:
                raise
            raise DamageError(str(error)) from error
        raise
    return db


def _migrate(db: sqlite3.Connection) -> None:
    """Makes or completes the tables. Raises LayoutError."""
    (version,) = db.execute("pragma user_version").fetchone()
    if not 0 <= version <= VERSION:
        raise LayoutError(f"its version is {version}, and this program knows 0 to {VERSION}")
    has = {name for _, name, *_ in db.execute("pragma table_info(jobs)")}
    lacks = [name for name in COLUMNS.split(", ") if name not in has] if has else []
    if lacks:
        raise LayoutError(f"its table jobs has no column {', '.join(lacks)}")
    try:
        if has and "aged" not in has:
            db.execute("alter table jobs add column aged real")
        db.executescript(TABLES)
        for table, names in (("meta", "name, value"), ("damaged", f"{COLUMNS}, reason, set_aside")):
            db.execute(f"select {names} from {table} limit 0")
        db.execute(f"pragma user_version = {VERSION}")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # not of the disk: a view or a table of another shape
            raise LayoutError(f"its tables are of another shape: {error}") from error
        raise


def _make_private(folder: Path, path: Path) -> None:
    """Folder 0700 where we make it, files 0600 in any folder, whatever the umask; raises OSError."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
    if not path.exists():
        # SQLite gives its side files the mode of the database. Its own file may not be opened here once SQLite has it:
        # closing it would give up the process's locks.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    if not path.is_file():
        raise OSError(0, f"{path.name} in it is not a regular file")
    for name in _with_sides(path):
        if os.name == "posix" and name.is_file() and stat.S_IMODE(name.stat().st_mode) != 0o600:
            try:
                name.chmod(0o600)
            except PermissionError:
                log.warning("%s belongs to another user, who can read the jobs in it", name)


def _with_sides(path: Path) -> Iterator[Path]:
    yield path
    for side in SIDES:
        yield path.with_name(path.name + side)


def _set_aside(path: Path) -> Path:
    """Renames the database and what is beside it to a free name."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    number = 0
    while True:
        aside = path.with_name(f"{path.name}.damaged-{stamp}" + (f"-{number}" if number else ""))
        if not any(os.path.lexists(name) for name in _with_sides(aside)):
            break
        number += 1
    for name, other in zip(_with_sides(path), _with_sides(aside), strict=True):
        if os.path.lexists(name):
            name.rename(other)
    return aside


def _salvage(aside: Path, db: sqlite3.Connection) -> int:
    """Copies what rows can be read of a damaged database, from both its ends; returns how many.

    It works on a copy: what was set aside stays as it was found.
    """
    taken = 0
    with contextlib.suppress(OSError, sqlite3.Error), tempfile.TemporaryDirectory(dir=aside.parent) as folder:
        copy = Path(folder) / FILE
        for name, other in zip(_with_sides(aside), _with_sides(copy), strict=True):
            if name.is_file() and not name.name.endswith("-shm"):
                shutil.copyfile(name, other)
        old = sqlite3.connect(copy, isolation_level=None)
        old.text_factory = bytes
        try:
            for order in ("asc", "desc"):
                taken += _copy(old, db, order)
        finally:
            old.close()
    return taken


def _copy(old: sqlite3.Connection, db: sqlite3.Connection, order: str) -> int:
    """Rows in this order of arrival, until one cannot be read."""
    taken = 0
    with contextlib.suppress(sqlite3.Error):
        for row in old.execute(f"select {COLUMNS} from jobs order by rowid {order}"):
            values = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in row]
            with contextlib.suppress(sqlite3.IntegrityError):
                done = db.execute(f"insert or ignore into jobs ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?)", values)
                taken += done.rowcount
    return taken
