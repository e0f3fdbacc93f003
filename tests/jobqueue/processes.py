"""What these tests start: Debian's redis-server, `fastserve worker`, and a server that answers as it is told."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REDIS = shutil.which("redis-server")
PATIENCE = 40.0

needs_redis = pytest.mark.skipif(REDIS is None, reason="needs redis-server (apt-get install redis-server)")


def until(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What it returns as soon as that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Redis:
    """A redis-server that has every write on disk before it answers."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.folder = folder
        self.flags = flags
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert REDIS is not None
        command = [REDIS, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
                   "--appendonly", "yes", "--appendfsync", "always", *self.flags]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as found:
            found.sendall(b"PING\r\n")
            return found.recv(16).startswith(b"+PONG")
        return False

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As kill -9 does; nothing is said goodbye to."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def redis_server(folder: Path, *flags: str) -> Iterator[Redis]:
    folder.mkdir(parents=True, exist_ok=True)
    found = Redis(folder, *flags)
    try:
        yield found
    finally:
        found.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """One for each test, which skips where there is none."""
    pytest.importorskip("redis", reason="needs the queue extra")
    if REDIS is None:
        pytest.skip("needs redis-server (apt-get install redis-server)")
    with redis_server(tmp_path / "redis") as found:
        yield found


class Worker:
    """`fastserve worker`, a process of its own."""

    def __init__(self, queue: str, server: str, *flags: str, folder: Path) -> None:
        command = [sys.executable, "-m", "fastserve", "worker", "--server", server, "--visibility-timeout", "2", *flags]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "FASTSERVE_QUEUE": queue, "PYTHONWARNINGS": "default"}
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def worker(queue: str, server: str, *flags: str, folder: Path) -> Iterator[Worker]:
    found = Worker(queue, server, *flags, folder=folder)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
            found.process.wait()


class Server:
    """Answers /generate. `answers`: prompt -> what it does instead of answering at once: (status, body), or a threading
    Event after which it answers. asked: prompts in the order in which they came; left: those whose client went away.
    """

    def __init__(self, port: int = 0) -> None:
        self.answers: dict[str, tuple[int, dict[str, Any]] | threading.Event] = {}
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[str | None] = []
        self.left: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.asked.append(body)
                owner.tokens.append(self.headers.get("Authorization"))
                what = owner.answers.get(body["prompt"])
                if isinstance(what, threading.Event):
                    while not what.wait(0.02):
                        if select.select([self.connection], [], [], 0)[0]:
                            owner.left.append(body["prompt"])
                            self.close_connection = True
                            return
                    what = None
                status, answer = what or (200, answered(body))
                content = json.dumps(answer).encode()
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def prompts(self) -> list[str]:
        return [body["prompt"] for body in self.asked]

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def answered(body: dict[str, Any]) -> dict[str, Any]:
    """In the form of /generate: the same for the same prompt and seed."""
    text = f"{body['prompt']} {body['seed']}"
    return {"job_id": "theirs", "request_id": "theirs", "text": text, "generated_text": text, "tokens_generated": 3,
            "total_tokens": 5, "execution_time": 0.01, "preemption_count": 1, "finish_reason": "stop",
            "metadata": {**body.get("metadata", {}), "model_name": "m"}}  # fmt: skip


@contextlib.contextmanager
def server() -> Iterator[Server]:
    found = Server()
    try:
        yield found
    finally:
        found.close()
