"""VllmProcess: a vLLM server as a child process, under a policy of ours (`fastserve vllm`) or as it is."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from fastserve.bench.target import TargetClient, TargetError
from fastserve.compare.subprocess_server import Child, environment, own_folder

LEASH = [sys.executable, "-m", "fastserve.compare.leash"]
LOOK_S = 2.0
"""s within which a server that serves answers."""
CHECKOUT = Path(__file__).resolve().parents[2]
"""Where this package stands."""


class VllmProcess(Child):
    """python: that has vLLM. command: a module and its arguments, but for host and port; flags: vLLM's own.

    It has this process's environment without the settings of `fastserve serve`, and in a checkout also this package.
    """

    def __init__(
        self, python: Path, command: Sequence[str], flags: Sequence[str] = (), *, start_s: float = 600.0
    ) -> None:
        port = free_port()
        self._serves = f"http://127.0.0.1:{port}"
        address = ["--host", "127.0.0.1", "--port", str(port)]
        whole = [*LEASH, str(python), "-m", *command, *address, *flags]
        super().__init__(whole, own_folder(), _environment(), start_s)

    def ready(self) -> str | None:
        try:
            return self._serves if TargetClient(self._serves, timeout_s=LOOK_S).ask("/v1/models") else None
        except TargetError:
            return None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    found = environment()
    if (CHECKOUT / "pyproject.toml").exists():  # the other Python need not have this package installed
        found["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *filter(None, [found.get("PYTHONPATH")])])
    return found
