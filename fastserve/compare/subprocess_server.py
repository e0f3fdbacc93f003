"""Child: a server as a child process that ends with its parent. ServerProcess: `fastserve serve` as one.

`python -m fastserve.compare.subprocess_server FLAGS` is `fastserve serve FLAGS` without .env: see processes.served.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from fastserve.processes.child import COMMAND, GRACE_S, OURS, READY, environment, last_lines
from fastserve.processes.served import main

__all__ = ["COMMAND", "OURS", "Child", "ServerError", "ServerProcess", "environment", "main", "own_folder"]

POLL_S = 0.05


class ServerError(RuntimeError):
    """The server did not start, or exited early; the message has the last lines of its log and the path of it."""


class Child(ABC):
    """A server of its own process group, ready on construction; use it as a context manager.

    command: ends when its stdin does, which the system closes when this process dies. start_s: how long it may take to
    start. It is terminated by its pid, and what it leaves of its group is killed. Its log is kept if the block fails.
    Raises ServerError.
    """

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str], start_s: float) -> None:
        self.folder = folder
        self.log = folder / "server.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # Ctrl-C reaches only the parent, which terminates its child
            )
        try:
            self.url = self._wait(start_s)
        except BaseException as error:
            self.close(keep=isinstance(error, ServerError))
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(keep=kind is not None and issubclass(kind, Exception))

    @abstractmethod
    def ready(self) -> str | None:
        """Its URL, once it serves."""

    @property
    def log_lines(self) -> list[str]:
        """Its log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    @property
    def start_line(self) -> str:
        """What it said about its engine when it started; empty where it says nothing."""
        return ""

    @property
    def said_url(self) -> str | None:
        """The URL at which it says that it serves, as our own servers do; None so far."""
        found = READY.search("\n".join(self.log_lines))
        return None if found is None else found[1]

    def check(self) -> None:
        """Raises ServerError if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise self._error(f"the server ended with status {code}")

    def close(self, *, keep: bool = False) -> None:
        """Terminates it. keep: the log is not deleted."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdin is not None:
            self.process.stdin.close()
        shutil.rmtree(self.folder / "state" if keep else self.folder, ignore_errors=True)

    def _wait(self, start_s: float) -> str:
        until = time.monotonic() + start_s
        while True:
            code = self.process.poll()
            if code is None and (found := self.ready()) is not None:
                return found
            if code is not None:
                raise self._error(f"the server ended with status {code} before it was ready")
            if time.monotonic() > until:
                raise self._error(f"the server was not ready within {start_s:g} s")
            time.sleep(POLL_S)

    def _error(self, what: str) -> ServerError:
        return ServerError(f"{what}. Its log is {self.log}; the last lines:{last_lines(self.log_lines)}")


class ServerProcess(Child):
    """`fastserve serve FLAGS` on a free port of 127.0.0.1.

    flags: of the policy, the engine and the server, but for host, port and state.
    """

    def __init__(self, flags: Sequence[str], *, start_s: float = 600.0) -> None:
        folder = own_folder()
        own = ["--host", "127.0.0.1", "--port", "0", "--state-dir", str(folder / "state")]
        super().__init__([*COMMAND, *own, *flags], folder, environment(), start_s)

    def ready(self) -> str | None:
        return self.said_url

    @property
    def start_line(self) -> str:
        """The line about its engine that it prints when ready (Engine.start_line())."""
        lines = self.log_lines
        at = next((i for i, line in enumerate(lines) if READY.search(line)), len(lines))
        return next((line for line in reversed(lines[:at]) if "policy" in line), "")


def own_folder() -> Path:
    """A new folder for a server's log and state."""
    return Path(tempfile.mkdtemp(prefix="fastserve-server-"))


if __name__ == "__main__":
    sys.exit(main())
