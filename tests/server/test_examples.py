"""The examples, run as their users run them against one server process."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.test_process import PATIENCE, ROOT, Server, _environment, server

EXAMPLES = ROOT / "examples"
__all__ = ["_environment"]


@pytest.fixture
def running(_environment: None) -> Iterator[Server]:
    with server(speed=20) as found:
        yield found


def said(*command: str | Path, code: int = 0) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_all_of_them(running: Server) -> None:
    out = said(sys.executable, EXAMPLES / "client_example.py", "--url", running.base, "--prompt", "Hello")
    assert "-- 32 tokens in" in out and "-- streamed; first token" in out and re.search(r"-- job \w+ finished", out)

    def tester(*words: str, code: int = 0) -> str:
        return said(sys.executable, EXAMPLES / "simple_tester.py", "--url", running.base, *words, code=code)

    assert json.loads(tester("health-check")) == {"status": "ok"}
    task = json.loads(tester("send-text", "Hello"))["task_id"]
    assert json.loads(tester("get-task-status", task))["task_id"] == task
    assert task in [found["task_id"] for found in json.loads(tester("tasks"))]
    assert json.loads(tester("generate", "Hello", "--max-new-tokens", "3"))["tokens_generated"] == 3
    assert '"is_final": true' in tester("generate", "Hello", "--max-new-tokens", "3", "--stream")
    assert tester("get-task-status", "none", code=1).startswith("404")

    if shutil.which("node"):
        text = said("node", EXAMPLES / "client.mjs", running.base, "Hello")
        assert len(text) == 33  # 32 characters, one a token, and the line's end


def test_nobody_answers() -> None:
    for example in ("client_example.py", "simple_tester.py"):
        words = ["health-check"] if example == "simple_tester.py" else []
        error = said(sys.executable, EXAMPLES / example, "--url", "http://127.0.0.1:9", *words, code=1)
        assert error.startswith("no answer from http://127.0.0.1:9")
