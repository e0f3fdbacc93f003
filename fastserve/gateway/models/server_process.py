"""ServerProcess: `fastserve serve` of one model, as a child of the gateway.

It listens at 127.0.0.1 on a free port and asks for a random key, which stands in its environment: other users of the
machine can neither use it nor read the key. With it the gateway says whose a request is (server.http.auth). Options
stand in a file of this user's, so `ps` shows none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil
import yaml
from pydantic import SecretStr

from fastserve.gateway.models.entry import Entry
from fastserve.processes.child import COMMAND, GRACE_S, OURS, READY, environment, last_lines
from fastserve.server.http.auth import ANYBODY

KEPT_LINES: Final = 200
LONGEST_LINE: Final = 2000
CHUNK: Final = 1 << 16


class StartFailedError(RuntimeError):
    """The process did not come to serve; the message has its last lines. killed: by a signal, not by its own doing."""

    def __init__(self, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


class ServerProcess:
    """One life of a server. heard: is called with each line that it prints. state: folder of its durable jobs."""

    def __init__(self, entry: Entry, heard: Callable[[str], None] = lambda _: None, state: Path | None = None) -> None:
        self.entry, self.heard, self.state = entry, heard, state
        self.key = SecretStr(secrets.token_urlsafe(32))
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.url = ""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._said = asyncio.Event()  # ready, or its output has ended
        self._folder: Path | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def memory(self) -> int | None:
        """Bytes of memory that it and its own children hold (resident; pages that processes share count in each)."""
        if self._process is None or not self.alive:
            return None
        try:
            own = psutil.Process(self._process.pid)
            return sum(each.memory_info().rss for each in (own, *own.children(recursive=True)))
        except psutil.Error:
            return None

    async def start(self, seconds: float) -> str:
        """Its URL, once it serves. Raises StartFailedError; then nothing is left of it."""
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="fastserve-model-"))  # mode 0700
            _write(self._folder / "options.yaml", arguments(self.entry))
            self._process = await asyncio.create_subprocess_exec(
                *COMMAND, *self._flags(self._folder), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, env=environment() | self._settings(), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            await self.stop()
            raise StartFailedError(f"model {self.entry.name}: its server cannot be started: {error}") from error
        self._reading = asyncio.create_task(self._read(self._process))
        try:
            await asyncio.wait_for(self._said.wait(), seconds)
        except TimeoutError:
            await self.stop()
            raise self._failed(f"its server was not ready within {seconds:g} s") from None
        except asyncio.CancelledError:
            await self.stop()
            raise
        if not self.url:
            code = await self._process.wait()
            await self.stop()
            hint = " (SIGKILL: memory may have run out)" if code == -signal.SIGKILL else ""
            raise self._failed(f"its server ended with status {code} before it was ready{hint}", killed=code < 0)
        return self.url

    async def ended(self) -> int:
        """Its exit status, once it has one."""
        assert self._process is not None, "it was started"
        code = await self._process.wait()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=1)  # a grandchild may hold the pipe open
        return code

    def kill(self) -> None:
        """Ends it and its group at once: it does not hear."""
        if self._process is not None and self.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Terminates it, and kills it and its group after GRACE_S. It may be called at any time, and again."""
        process = self._process
        if process is not None:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), GRACE_S)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if process.stdin is not None:
                process.stdin.close()
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=1)
            self._reading.cancel()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def told(self, what: str) -> str:
        """A message about it, with its last lines."""
        return f"model {self.entry.name}: {what}. Its last lines:{last_lines(list(self.lines))}"

    def _failed(self, what: str, killed: bool = False) -> StartFailedError:
        return StartFailedError(self.told(what), killed)

    def _settings(self) -> dict[str, str]:
        """Of its environment, where no other user of the machine reads them."""
        return {OURS + "API_KEY": f"{self.key.get_secret_value()} {ANYBODY}"}

    def _flags(self, folder: Path) -> list[str]:
        return [
            "--config", str(folder / "options.yaml"), "--host", "127.0.0.1", "--port", "0",
            "--state-dir", str(self.state or folder / "state"),
        ]  # fmt: skip

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        rest = b""
        try:
            while chunk := await process.stdout.read(CHUNK):
                *whole, rest = (rest + chunk).split(b"\n")
                rest = rest[-LONGEST_LINE:]
                for line in whole:
                    self._hear(line)
            if rest:
                self._hear(rest)
        finally:
            self._said.set()

    def _hear(self, line: bytes) -> None:
        text = line[:LONGEST_LINE].decode("utf-8", "replace").rstrip("\r")
        text = text.replace(self.key.get_secret_value(), "********")
        self.lines.append(text)
        if not self.url and (found := READY.search(text)):
            self.url = found[1]
            self._said.set()
        self.heard(text)


def arguments(entry: Entry) -> dict[str, Any]:
    """The settings of its server, as --config has them."""
    found = dict(entry.options) | {"model": entry.path, "served_model_name": entry.name}
    if entry.backend:
        found["backend"] = entry.backend
    if entry.adapters:
        given = found.get("lora") or []
        own = [given] if isinstance(given, str) else list(given)
        found["lora"] = [*own, *(f"{name}={path}" for name, path in entry.adapters.items())]
    return found


def _write(path: Path, settings: dict[str, Any]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        yaml.safe_dump(settings, file)
