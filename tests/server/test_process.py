"""Real server processes: their start, SIGTERM, kill -9, and two of them on one state folder."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest

from fastserve.engine import Engine
from fastserve.server import run
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.http import http_server, logs
from tests.server.sse import chunks, every_data_line

SCRIPT = Path(__file__).with_name("scripted_server.py")
ROOT = SCRIPT.parents[2]
PATIENCE = 20.0


class Server:
    """base: its URL. said: what it has printed and logged so far."""

    def __init__(self, *flags: str, speed: float = 1.0) -> None:
        command = [sys.executable, str(SCRIPT), str(speed), "--port", "0", *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
        )
        self.said: list[str] = []
        assert self.process.stdout is not None
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self.reader.start()
        self.base = self.wait_for(r"serving at (http://\S+)")

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.said.append(line)

    def wait_for(self, pattern: str) -> str:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for line in list(self.said):
                if found := re.search(pattern, line):
                    return found[1] if found.groups() else found[0]
            if self.process.poll() is not None and not self.reader.is_alive():
                break
            time.sleep(0.01)
        raise AssertionError(f"{pattern!r} was never said: {''.join(self.said)}")

    def end(self, sig: signal.Signals) -> int:
        self.process.send_signal(sig)
        code = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        return code


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules[__name__],
        "ENVIRONMENT",
        {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)},
    )


ENVIRONMENT: dict[str, str] = {}


@contextlib.contextmanager
def server(*flags: str, speed: float = 1.0) -> Iterator[Server]:
    found = Server(*flags, speed=speed)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
            found.process.wait(PATIENCE)
        found.reader.join(PATIENCE)
        assert found.process.stdout is not None
        found.process.stdout.close()


def test_what_it_says_and_how_it_ends(tmp_path: Path) -> None:
    with server("--policy", "fcfs") as found:
        assert re.search(r"policy fcfs", found.wait_for(r".*policy.*"))
        assert "untrained" in found.wait_for(".*untrained.*") and found.wait_for("fastserve serve --model")
        answer = httpx.post(f"{found.base}/generate", json={"prompt": "a", "max_new_tokens": 2})
        assert answer.status_code == 200
        line = found.wait_for(".*POST /generate 200.*")
        assert f"request_id={answer.headers['x-request-id']}" in line
        assert list((tmp_path / "fastserve").glob("port-*/jobs.sqlite"))
        assert found.end(signal.SIGTERM) == 0


def test_sigterm_drains() -> None:
    """Running requests end, new ones are refused, durable ones stay."""
    with server("--drain-seconds", "20", speed=5) as found:
        with httpx.stream(
            "POST", f"{found.base}/v1/completions", json={"prompt": "a", "max_tokens": 250, "stream": True}, timeout=30
        ) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data:")
            found.process.send_signal(signal.SIGTERM)
            found.wait_for("draining")
            assert httpx.get(f"{found.base}/health/ready").status_code == 503
            assert httpx.get(f"{found.base}/health").status_code == 200
            refused = httpx.post(f"{found.base}/generate", json={"prompt": "a"})
            assert refused.status_code == 503 and "retry-after" in refused.headers
            rest = [line for line in lines if line.startswith("data:")]
        assert rest[-1] == "data: [DONE]" and len(rest) == 250
        assert found.process.wait(PATIENCE) == 0


def test_the_deadline_of_draining() -> None:
    """Streams end with an error, and so do plain answers."""
    with server("--drain-seconds", "0.3") as found:
        texts: dict[str, str] = {}

        def ask(path: str, **fields: object) -> None:
            answer = httpx.post(f"{found.base}{path}", json={"prompt": "a", "max_tokens": 1500, **fields}, timeout=30)
            texts[path] = f"{answer.status_code}\n{answer.text}" if path == "/generate" else answer.text

        threads = [
            threading.Thread(target=ask, args=("/v1/completions",), kwargs={"stream": True}),
            threading.Thread(target=ask, args=("/generate/stream",)),
            threading.Thread(target=ask, args=("/generate",)),
        ]
        for thread in threads:
            thread.start()
        while httpx.get(f"{found.base}/load").json()["server_load"] < 3:
            time.sleep(0.01)
        assert found.end(signal.SIGTERM) == 0
        for thread in threads:
            thread.join(PATIENCE)
        assert "shut down" in chunks(texts["/v1/completions"])[-1]["error"]["message"]
        last = every_data_line(texts["/generate/stream"])[-1]
        assert last["is_final"] and "shut down" in last["error"]
        assert texts["/generate"].startswith("503")


def test_a_hundred_jobs_survive_kill_9(tmp_path: Path) -> None:
    flags = ("--state-dir", str(tmp_path / "state"), "--max-batch", "8")
    with server(*flags, speed=4) as first, httpx.Client(base_url=first.base) as client:
        accepted = {}
        for number in range(100):
            last = number == 99  # to be cancelled, so it must not end by itself before
            tokens = 1500 if last else 20 + number % 30
            body = {"prompt": f"job {number}", "max_new_tokens": tokens, "ignore_eos": last,
                    "metadata": {"number": number}}  # fmt: skip
            response = client.post("/jobs", json=body)
            assert response.status_code == 202
            accepted[response.json()["job_id"]] = body
        early = {}
        while len(early) < 10:
            jobs = client.get("/jobs", params={"state": "finished"}).json()["jobs"]
            early = {job["job_id"]: client.get(f"/jobs/{job['job_id']}").json()["result"] for job in jobs}
            time.sleep(0.02)
        cancelled = list(accepted)[99]
        assert client.delete(f"/jobs/{cancelled}").json()["state"] == "cancelled"
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
    with server(*flags, "--queue-capacity", "1", speed=50) as second, httpx.Client(base_url=second.base) as client:
        second.wait_for("durable jobs of an earlier run were resumed")
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            jobs = client.get("/jobs", params={"limit": 1000}).json()["jobs"]
            if all(job["ended"] for job in jobs):
                break
            time.sleep(0.05)
        found = {job["job_id"]: client.get(f"/jobs/{job['job_id']}").json() for job in jobs}
        assert found.keys() == accepted.keys()
        for job_id, body in accepted.items():
            job = found[job_id]
            assert job["metadata"] == body["metadata"]
            if job_id == cancelled:
                continue
            assert job["state"] == "finished", job
            assert job["result"]["finish_reason"] in ("length", "stop")
            if job_id in early:
                assert job["result"]["text"] == early[job_id]["text"]
        assert found[cancelled]["state"] == "cancelled"


def test_durable_jobs_stay_queued_over_sigterm(tmp_path: Path) -> None:
    flags = ("--state-dir", str(tmp_path / "state"), "--drain-seconds", "0")
    with server(*flags) as first:
        fields = {"prompt": "a", "max_new_tokens": 1000, "ignore_eos": True, "seed": 3}
        job = httpx.post(f"{first.base}/jobs", json=fields).json()["job_id"]
        assert first.end(signal.SIGTERM) == 0
    with server(*flags, speed=1000) as second:
        until = time.monotonic() + PATIENCE
        while (found := httpx.get(f"{second.base}/jobs/{job}").json())["ended"] is None and time.monotonic() < until:
            time.sleep(0.02)
        assert found["state"] == "finished" and found["result"]["tokens_generated"] == 1000


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Who streams is told, what is durable stays queued."""
    flags = ("--state-dir", str(tmp_path / "state"), "--drain-seconds", "600")
    with server(*flags) as first:
        fields = {"prompt": "a", "max_new_tokens": 1500, "ignore_eos": True, "seed": 3}
        job = httpx.post(f"{first.base}/jobs", json=fields).json()["job_id"]
        with httpx.stream("POST", f"{first.base}/generate/stream", json=fields, timeout=30) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data:")
            first.process.send_signal(signal.SIGTERM)
            first.wait_for("draining")
            first.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(httpx.RemoteProtocolError):
                list(lines)
        assert first.process.wait(PATIENCE) == 0
        first.reader.join(PATIENCE)
        assert "Traceback" not in "".join(first.said)
    with server(*flags, speed=1000) as second:
        while (found := httpx.get(f"{second.base}/jobs/{job}").json())["ended"] is None:
            time.sleep(0.02)
        assert found["state"] == "finished" and found["result"]["tokens_generated"] == 1500


def test_clients_that_do_not_read_keep_nobody_from_ending() -> None:
    flags = ("--drain-seconds", "0.5", "--request-timeout", "0")
    with server(*flags, speed=1000) as found, socket.socket() as deaf:
        host, _, port = found.base.removeprefix("http://").partition(":")
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect((host, int(port)))
        asked = {"prompt": ["a"] * 60, "max_tokens": 2000, "stream": True, "ignore_eos": True, "logprobs": 5}
        body = json.dumps(asked).encode()
        json_type = "Content-Type: application/json"
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\n{json_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        deaf.sendall(head.encode() + body)
        until = time.monotonic() + PATIENCE
        while httpx.get(f"{found.base}/health").status_code == 200 and time.monotonic() < until:
            if httpx.get(f"{found.base}/jobs", params={"limit": 1}).json()["total"] == 60:
                break
        assert httpx.post(f"{found.base}/generate", json={"prompt": "a", "max_new_tokens": 2}).status_code == 200
        assert found.end(signal.SIGTERM) == 0


def test_a_body_that_never_comes_is_no_failure() -> None:
    with server() as found:
        host, _, port = found.base.removeprefix("http://").partition(":")
        for path in ("/stream", "/generate", "/v1/completions"):
            with socket.create_connection((host, int(port))) as half:
                kind = "Content-Type: application/json"
                head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{kind}\r\nContent-Length: 100\r\n\r\n"
                half.sendall(f'{head}{{"prom'.encode())
            found.wait_for(rf"POST {path} (499|400)")
        assert "Traceback" not in "".join(found.said)


def test_two_that_start_on_one_port_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may bind it; who listens first, while the other loads its model, has it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))

        def load(_: FastServeConfig) -> Engine:
            other.listen()
            return Engine.scripted()

        monkeypatch.setattr(run, "make_engine", load)
        monkeypatch.setattr(logs, "set_up", lambda *_: None)
        config = FastServeConfig(port=other.getsockname()[1], state_dir=tmp_path / "state")
        with pytest.raises(run.StartError, match=r"cannot listen at 127\.0\.0\.1 port"):
            run.FastServeServer(config).run()


def test_the_garbage_collector_does_not_walk_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full collection over torch's objects held all threads for 0.2 s, at the first long answer."""
    frozen = []

    async def serve(_: http_server.HttpServer, sockets: list[socket.socket]) -> None:
        frozen.append(gc.get_freeze_count())

    gc.unfreeze()
    monkeypatch.setattr(http_server.HttpServer, "serve", serve)
    monkeypatch.setattr(run, "make_engine", lambda _: Engine.scripted())
    monkeypatch.setattr(logs, "set_up", lambda *_: None)
    try:
        run.FastServeServer(FastServeConfig(port=0, state_dir=tmp_path / "state")).run()
    finally:
        gc.unfreeze()
    assert frozen[0] > 10_000


def test_a_second_server_beside_it(tmp_path: Path) -> None:
    """Neither the port nor the state folder can be shared; the first one logs as JSON meanwhile."""
    state = ("--state-dir", str(tmp_path / "state"))
    with server("--log-format", "json", *state) as found:
        httpx.get(f"{found.base}/health", headers={"X-Request-Id": "mine"})
        entry = json.loads(found.wait_for(r'.*"path": "/health".*'))
        assert entry["request_id"] == "mine" and entry["status"] == 200 and entry["level"] == "info"
        port = found.base.rsplit(":", 1)[1]
        for flags, words in (
            (("--port", "0", *state), "is in use by another server"),
            (("--port", port), f"cannot listen at 127.0.0.1 port {port}"),
        ):
            command = [sys.executable, str(SCRIPT), "1", *flags]
            second = subprocess.run(
                command, capture_output=True, text=True, env=ENVIRONMENT, timeout=PATIENCE, check=False
            )
            assert second.returncode == 1 and words in second.stderr.strip().splitlines()[-1]
