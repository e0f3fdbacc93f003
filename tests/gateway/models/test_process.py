"""`fastserve gateway --models FILE` as a process, whose children are `fastserve serve --backend scripted`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

PATIENCE = 60.0


class Running:
    """A gateway and its log."""

    def __init__(self, folder: Path, models: dict[str, Any], *flags: str) -> None:
        file = folder / "models.json"
        file.write_text(json.dumps(models))
        self.log = folder / "gateway.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastserve", "gateway", "--port", "0", "--models", str(file), *flags],
                stdout=out, stderr=subprocess.STDOUT, cwd=folder, env=os.environ | {"PYTHONPATH": ROOT},
            )  # fmt: skip
        self.url = until(self._ready)[1]
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE, limits=httpx.Limits(max_connections=None))

    def _ready(self) -> Any:
        assert self.process.poll() is None, self.log.read_text()
        return re.search(r"serving at (http://\S+)", self.log.read_text())

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def complete(self, model: str, **more: Any) -> httpx.Response:
        return self.http.post("/v1/completions", json={"model": model, "prompt": "hi", "max_tokens": 4, **more})

    def state(self, model: str) -> str:
        return str(self.http.get(f"/models/{model}/status").json()["state"])

    def end(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise


FLAGS = ("--models-max", "2", "--manager-port", "0")
ROOT = str(Path(__file__).resolve().parents[3])
SCRIPTED = {"path": "embedded", "backend": "scripted", "options": {"max_batch": 16}}


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("gateway"), dict.fromkeys("abc", SCRIPTED), *FLAGS)
    try:
        yield made
    finally:
        made.end()


def test_three_models_in_two_places(gateway: Running) -> None:
    for model in "abc":
        answer = gateway.complete(model)
        assert answer.status_code == 200 and answer.json()["model"] == model
    assert [gateway.state(model) for model in "abc"] == ["unloaded", "ready", "ready"]
    assert len(gateway.children) == 2
    streamed = gateway.complete("b", stream=True).text
    assert streamed.endswith("data: [DONE]\n\n") and streamed.count("data: ") == 5
    gateway.complete("a")
    assert [gateway.state(model) for model in "abc"] == ["ready", "ready", "unloaded"], "b was used after c"


def test_the_manager_port(gateway: Running) -> None:
    """Under the paths that clients of a model manager on a port of its own know."""
    found = re.search(r"model manager at port (\d+) too", gateway.log.read_text())
    assert found is not None
    with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=PATIENCE) as http:
        assert http.get("/health").status_code == 200
        assert http.post("/models/load?wait=1", json={"model_id": "a"}).json()["state"] == "finished"
        assert "a" in http.get("/status").json()["models"]["loaded"]
        assert http.get("/status", headers={"Origin": "http://evil.example"}).status_code == 403


def test_nobody_else_uses_a_child(gateway: Running) -> None:
    gateway.complete("a")
    shown = {each["name"]: each for each in gateway.http.get("/gateway/status").json()["upstreams"]}
    assert shown["a"]["owner"] == "models" and shown["a"]["url"].startswith("http://127.0.0.1:")
    assert httpx.get(f"{shown['a']['url']}/v1/models").status_code == 401


def test_events_of_a_load(gateway: Running) -> None:
    gateway.http.post("/models/unload", json={"model": "a"})
    seen: list[tuple[str, dict[str, Any]]] = []
    begun = threading.Event()

    def read() -> None:
        kind = ""
        with httpx.stream("GET", f"{gateway.url}/models/a/events", timeout=PATIENCE) as stream:
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                if line.startswith("data: "):
                    seen.append((kind, json.loads(line.removeprefix("data: "))))
                    begun.set()
                if (states := [data["state"] for kind, data in seen if kind == "state"]) and states[-1] == "ready":
                    return

    reading = threading.Thread(target=read)
    reading.start()
    assert begun.wait(PATIENCE)
    gateway.complete("a")
    reading.join(PATIENCE)
    states = [data["state"] for kind, data in seen if kind == "state"]
    assert states == ["unloaded", "starting", "ready"]
    assert any(kind == "log" and data["line"].startswith("serving at") for kind, data in seen)


def test_kill_of_a_child_under_load_loses_nothing(gateway: Running) -> None:
    """Requests of which no byte had come are answered by the next process; the model is there again."""
    gateway.complete("a")
    first = gateway.http.get("/models/a/status").json()["pid"]

    def one(number: int) -> tuple[int, str]:
        time.sleep(number * 0.01)
        answer = gateway.complete("a", max_tokens=24)
        return (answer.status_code, answer.text if answer.status_code != 200 else "")

    with ThreadPoolExecutor(40) as threads:
        answers = [threads.submit(one, number) for number in range(40)]
        until(lambda: gateway.http.get("/models/a/status").json()["requests"] > 3)
        os.kill(first, signal.SIGKILL)
        statuses = [each.result(PATIENCE) for each in answers]
    assert statuses == [(200, "")] * 40
    about = gateway.http.get("/models/a/status").json()
    assert about["pid"] != first and about["restarts"] >= 1


def test_a_durable_job_keeps_its_model_and_outlives_its_process(tmp_path: Path) -> None:
    made = Running(tmp_path, {"a": SCRIPTED}, "--idle-seconds", "2")
    try:
        job = made.http.post("/jobs", json={"model": "a", "prompt": "hi", "max_new_tokens": 300}).json()["job_id"]
        pid = made.http.get("/models/a/status").json()["pid"]
        for _ in range(30):
            time.sleep(0.1)
            assert made.http.get("/models/a/status").json()["pid"] == pid, "it has something to do"
        os.kill(pid, signal.SIGKILL)
        until(lambda: (found := made.http.get("/models/a/status").json()["pid"]) and found != pid)
        until(lambda: made.state("a") == "unloaded")
        made.complete("a")
        listed = {each["job_id"]: each["state"] for each in made.http.get("/jobs").json()["jobs"]}
        assert listed[job] == "finished"
    finally:
        made.end()


def test_children_end_with_a_gateway_that_is_killed(tmp_path: Path) -> None:
    made = Running(tmp_path, {"a": SCRIPTED, "slow": {"path": "embedded", "backend": "torch"}})
    try:
        made.complete("a")
        made.http.post("/models/load", json={"model": "slow"})  # in the middle of its start
        children = until(lambda: len(found := made.children) == 2 and found)
        made.process.send_signal(signal.SIGKILL)
        made.process.wait(PATIENCE)
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert alive == []
    finally:
        made.end()


def test_a_gateway_that_is_terminated_ends_its_children(tmp_path: Path) -> None:
    made = Running(tmp_path, {"a": SCRIPTED})
    made.complete("a")
    children = made.children
    made.end()
    assert made.process.returncode == 0 and not psutil.wait_procs(children, timeout=5)[1]
