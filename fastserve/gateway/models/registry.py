"""Registry: the models there are, by name, from a file and a folder that are watched while the gateway runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fastserve.gateway.models import models_file, models_folder
from fastserve.gateway.models.entry import Entry
from fastserve.gateway.models.models_file import ModelsFileError
from fastserve.sched.checks import nearest

log = logging.getLogger("fastserve.gateway")

TAKES_ADAPTERS = ("", "torch", "pytorch")
"""Backends, the usual one among them, that load adapters while they run."""

WATCH_S = 1.0
"""s between two looks at the file and the folder."""


class UnknownModelError(ValueError):
    """There is no model of this name; the message says which there are."""


class Found(NamedTuple):
    """entry: whose process answers. adapter: of that process, "" for the model itself."""

    entry: Entry
    adapter: str


class Registry:
    """changed: is called with the names whose entry came, went or is another one. Raises ModelsFileError or OSError."""

    def __init__(
        self, file: Path | None, folder: Path | None, defaults: dict[str, Any], changed: Callable[[set[str]], None]
    ) -> None:
        self.file, self.folder, self.defaults, self.changed = file, folder, defaults, changed
        self.entries: dict[str, Entry] = {}
        self.adapters: dict[str, str] = {}  # name -> its base's name
        self.fault = ""  # what is wrong with the file now; the entries are those of before
        self._pulled: dict[str, Entry] = {}  # into the hub's cache, since the start
        self._added: dict[str, dict[str, str]] = {}  # base -> adapters that were loaded by request
        self._told: set[str] = set()
        self._stamp: tuple[int, ...] | None = None
        self._of_file: tuple[dict[str, Entry], dict[str, Any]] = ({}, {})
        if folder is not None and not folder.is_dir():
            raise ModelsFileError(f"--models-dir {folder} is no folder: make it, or name another")
        if file is not None:
            self._of_file = models_file.read(file)
            self._stamp = _stamp(file)
        self._take(self._scanned())

    @property
    def names(self) -> list[str]:
        """All that a client may name."""
        return [*self.entries, *self.adapters]

    def find(self, name: str) -> Found:
        """Raises UnknownModelError."""
        if name in self.entries:
            return Found(self.entries[name], "")
        if name in self.adapters:
            return Found(self.entries[self.adapters[name]], name)
        there = ", ".join(self.names[:20]) or "none yet"
        raise UnknownModelError(f"there is no model {name[:80]!r}; there are {there}{nearest(name, self.names)}")

    def add_pulled(self, entry: Entry) -> None:
        """A model of the hub's cache, known until the gateway ends."""
        self._pulled[entry.name] = entry
        self._take(self._scanned())

    def drop_pulled(self, name: str) -> None:
        self._pulled.pop(name, None)
        self._take(self._scanned())

    def add_adapter(self, base: str, name: str, path: str) -> None:
        """Raises ValueError where the name is taken."""
        if name in self.names:
            raise ValueError(f"the name {name!r} is taken; unload it first, or choose another")
        self._added.setdefault(base, {})[name] = path
        self.adapters[name] = base  # the process has it already: no change of the entry

    def drop_adapter(self, name: str) -> bool:
        """Whether it was one that add_adapter() brought."""
        base = self.adapters.get(name)
        if base is None or name not in self._added.get(base, {}):
            return False
        del self._added[base][name], self.adapters[name]
        return True

    def added_adapters(self, base: str) -> dict[str, str]:
        """Of a model: those that requests have brought."""
        return dict(self._added.get(base, {}))

    def look(self) -> None:
        """Reads what has changed. A file that is broken is told once, and the old one stays."""
        self._take(self._scanned(self._read_file()))

    async def watch(self) -> None:
        """Looks every WATCH_S, for ever; the reading is done in a thread, since a file system may be slow."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                read = await asyncio.to_thread(self._read_file)
                scanned = await asyncio.to_thread(self._scanned, read)
            except OSError as error:
                log.warning("models: %s", error)
                continue
            self._take(scanned)

    def _read_file(self) -> tuple[dict[str, Entry], dict[str, Any]]:
        if self.file is None or (stamp := _stamp(self.file)) == self._stamp:
            return self._of_file
        self._stamp = stamp
        try:
            self._of_file = models_file.read(self.file)
        except ModelsFileError as error:
            self.fault = str(error)
            log.error("%s; the models of before stay", error)
        else:
            self.fault = ""
        return self._of_file

    def _scanned(self, read: tuple[dict[str, Entry], dict[str, Any]] | None = None) -> dict[str, Entry]:
        entries, defaults = self._of_file if read is None else read
        found = {} if self.folder is None else models_folder.scan(self.folder, self._told)
        found = {**self._pulled, **found, **entries}
        whole = [self._with_folder(entry.with_defaults(self.defaults | defaults)) for entry in found.values()]
        return {each.name: each for entry in whole for each in entry.processes()}

    def _with_folder(self, entry: Entry) -> Entry:
        """Lets a server that can take adapters have those of --models-dir: adapters.load() asks it to."""
        if self.folder is None or entry.backend not in TAKES_ADAPTERS:
            return entry
        return replace(entry, options={"lora_dir": str(self.folder.resolve())} | entry.options)

    def _take(self, found: dict[str, Entry]) -> None:
        gone = self.entries.keys() - found.keys()
        other = {name for name, entry in found.items() if self.entries.get(name) != entry}
        self.entries = found
        for base in gone:
            self._added.pop(base, None)
        self.adapters = {name: entry.name for entry in found.values() for name in entry.adapters}
        self.adapters |= {name: base for base, added in self._added.items() for name in added}
        for name in found.keys() & self.adapters.keys():  # a folder beside a file may bring the same name
            del self.adapters[name]
        if gone or other:
            self.changed(set(gone) | other)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return (0,)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
