"""Downloads: a process each (fetch), shared by all who want the same model, put where models are when it is whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fastserve.gateway.models.entry import Entry, hub_id
from fastserve.processes.child import environment

COMMAND = [sys.executable, "-m", "fastserve.gateway.models.fetch"]
INCOMING: Final = ".incoming"
"""Folder below --models-dir of what is not whole yet; no name of a model begins with a dot."""
BOOKS: Final = Path(".cache") / "huggingface"
MOST: Final = 2
"""Downloads at a time; more wait."""
LONGEST_LINE: Final = 1 << 16


class PullError(RuntimeError):
    """The download failed; the message says what to do."""


class Pull:
    """One download. total, done: bytes, None before the hub has said the sizes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.repo, self.file = hub_id(name)
        self.total: int | None = None
        self.done: int | None = None
        self.followers = 0
        self.task: asyncio.Task[Entry]


class Pulls:
    """folder: --models-dir; None: the hub's cache. told: is called with (name, data) of progress."""

    def __init__(self, folder: Path | None, told: Callable[[str, dict[str, Any]], None]) -> None:
        self.folder, self.told = folder, told
        self.running: dict[str, Pull] = {}
        self._places = asyncio.Semaphore(MOST)

    def begin(self, name: str) -> Pull:
        """The download of this model that runs, or a new one. Raises ValueError for what is no name of the hub."""
        pull = self.running.get(name)
        if pull is None:
            pull = Pull(name)
            pull.task = asyncio.create_task(self._whole(pull))
            self.running[name] = pull
            pull.task.add_done_callback(lambda task: self._ended(name, task))
        return pull

    async def follow(self, pull: Pull) -> Entry:
        """Its entry, once it is there. A download that nobody follows any more is cancelled. Raises PullError."""
        pull.followers += 1
        try:
            return await asyncio.shield(pull.task)
        except asyncio.CancelledError:
            if pull.task.cancelled():
                raise PullError(f"{pull.name}: the download was cancelled") from None
            raise
        finally:
            pull.followers -= 1
            if not pull.followers:
                _cancel(pull.task)

    async def close(self) -> None:
        tasks = [pull.task for pull in self.running.values()]
        for task in tasks:
            _cancel(task)
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, name: str, task: asyncio.Task[Entry]) -> None:
        self.running.pop(name, None)
        if not task.cancelled():
            task.exception()  # its followers have it

    async def _whole(self, pull: Pull) -> Entry:
        async with self._places:
            if self.folder is None:
                found = await self._fetch(pull, None)
                return Entry(pull.name, str(found) if pull.file else pull.repo, origin="hub")
            final = self.folder / pull.repo
            if final.is_dir() and not pull.file:
                if not came_from_hub(final):
                    raise PullError(
                        f"{final} is there and was not downloaded, so it is not replaced: use it, or rename it"
                    )
                await self._fetch(pull, final)  # nothing, or what has changed
                return _entry(pull, final)
            draft = self.folder / INCOMING / pull.repo.replace("/", "--")
            found = await self._fetch(pull, draft)
            await asyncio.to_thread(_settle, found, final / pull.file if pull.file else final)
            return _entry(pull, final)

    async def _fetch(self, pull: Pull, folder: Path | None) -> Path:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, pull.repo, pull.file, "" if folder is None else str(folder), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment(), start_new_session=True,
            limit=LONGEST_LINE,
        )  # fmt: skip
        errors = asyncio.create_task(_tail(process))
        try:
            found = await self._read(pull, process)
            await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if process.stdin is not None:
                process.stdin.close()
            await asyncio.wait([errors], timeout=1)
            errors.cancel()
        if found is None:
            raise PullError(f"{pull.name}: the download ended with status {process.returncode}: {await errors}")
        return Path(found)

    async def _read(self, pull: Pull, process: asyncio.subprocess.Process) -> str | None:
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if "error" in said:
                raise PullError(str(said["error"]))
            if "path" in said:
                return str(said["path"])
            pull.total, pull.done = said["total"], said["done"]
            self.told(pull.name, {"completed": pull.done, "total": pull.total})
        return None


async def _tail(process: asyncio.subprocess.Process) -> str:
    """The last that it said on stderr."""
    assert process.stderr is not None
    rest = b""
    while chunk := await process.stderr.read(LONGEST_LINE):
        rest = (rest + chunk)[-500:]
    return " ".join(rest.decode("utf-8", "replace").split())


def came_from_hub(place: Path) -> bool:
    """Whether a folder or a file did, by what huggingface_hub leaves beside it."""
    return (place / BOOKS).is_dir() or note_of(place).is_file()


def note_of(file: Path) -> Path:
    """What huggingface_hub writes down of a file that it has downloaded."""
    return file.parent / BOOKS / "download" / f"{file.name}.metadata"


def _cancel(task: asyncio.Task[Entry]) -> None:
    """Once: a second time it would be torn from the end of its process."""
    if not task.cancelling():
        task.cancel()


def _entry(pull: Pull, final: Path) -> Entry:
    """As the scan of the folder finds it, too."""
    place = final / pull.file if pull.file else final
    return Entry(pull.name, str(place), origin="folder", place=place)


def _settle(found: Path, final: Path) -> None:
    """Moves what is whole to where models are."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if found.is_file():
        note_of(final).parent.mkdir(parents=True, exist_ok=True)
        os.replace(note_of(found), note_of(final))
        os.replace(found, final)
        shutil.rmtree(found.parent, ignore_errors=True)
    else:
        os.replace(found, final)
