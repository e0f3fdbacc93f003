"""In front of a real process, our own server on the scripted body: killed and started again in mid-load."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.hardware import DecodePiece, Hardware, LinearLatency, Link, Memory, PrefillFit
from fastserve.launch import Body
from tests.backends.upstream.stub import free_port, wait_until

MACHINE = Hardware(LinearLatency(PrefillFit(1.0, 0.0, 0.0), [DecodePiece(1, 10.0, 0.0, 0.0)], "ten"), Memory(), Link())
SLOTS = 2
SOON_S = 120.0


class Own:
    """`fastserve serve --backend scripted`: 10 ms a token."""

    def __init__(self, folder: Path) -> None:
        MACHINE.save(folder / "ten.json")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.flags = ["--backend", "scripted", "--latency", str(folder / "ten.json"), "--policy", "fcfs",
                      "--max-batch", str(SLOTS), "--port", str(self.port), "--state-dir", str(folder)]  # fmt: skip
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "fastserve", "serve", *self.flags],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def again(self) -> None:
        self.kill()
        self.process = self._start()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    found = Own(tmp_path_factory.mktemp("own"))
    yield found
    found.kill()


def front(own: Own, **serving: Any) -> Engine:
    return Body(None, "upstream", upstream=own.url, upstream_wait=100).engine(EngineConfig.of(serving))


def test_killed_and_started_again_in_mid_load(own: Own) -> None:
    """Nothing hangs, what had not begun is not lost, and what had begun is gone on with."""
    params = SamplingParams(max_tokens=60, temperature=0.0)
    with front(own, policy="fcfs") as engine:
        backend: Any = engine.loop.backend
        assert engine.serving.max_batch == SLOTS and engine.settings["upstream_api"] == "fastserve"
        handles = [engine.submit(f"tale {i}", params) for i in range(6)]
        wait_until(lambda: all(len(handle._request.tokens) > 5 for handle in handles[:SLOTS]), SOON_S)
        assert backend.busy() == SLOTS
        begun = [len(handle._request.tokens) for handle in handles]
        own.again()
        outputs = [handle.result(SOON_S) for handle in handles]
        assert [output.error for output in outputs] == [None] * 6
        assert [len(output.token_ids) for output in outputs] == [60] * 6
        assert sum(map(bool, begun)) < 6 and backend.hub.counters["reconnects"] >= SLOTS
        assert outputs[5].counted == (6, 60), "bytes are tokens there"


def test_a_leave_frees_its_place_there(own: Own) -> None:
    with front(own, policy="fcfs") as engine:
        backend: Any = engine.loop.backend
        handle = engine.submit("a long tale", SamplingParams(max_tokens=1500, temperature=0.0))
        wait_until(lambda: handle._request.tokens, SOON_S)
        assert backend.busy() == 1
        handle.cancel()
        wait_until(lambda: backend.busy() == 0, SOON_S)
