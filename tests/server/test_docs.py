"""docs/serving.md is true: each of its code blocks is run as it stands, or named here with the reason why it cannot be.

Servers that the page starts take a free port instead of 8000. What the page asks of a server that is already there is
asked of one with a scripted engine, under the name of the embedded model.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.server.test_process import ROOT, server

PAGE = ROOT / "docs" / "serving.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE = 120.0
NOT_RUN = {
    "pip install": "it needs a registry; `make setup-all` installs the same",
    "make model": "it needs a registry",
    "fastserve serve --model Qwen": "it downloads a model",
}
"""How a line begins -> why it is not run."""

SHAPES = 2
"""Blocks without a language: shapes of messages, which are no commands."""


class Block(NamedTuple):
    language: str
    text: str
    line: int  # in the page, from 1

    @property
    def commands(self) -> list[str]:
        """Of a shell block, without comments and without what cannot be run."""
        lines = [re.sub(r"\s{2,}#.*", "", line).strip() for line in self.text.splitlines()]
        return [line for line in lines if line and not line.startswith(tuple(NOT_RUN))]


def blocks(*languages: str) -> list[Block]:
    page = PAGE.read_text(encoding="utf-8")
    found = [Block(match[1], match[2], page.count("\n", 0, match.start()) + 1) for match in FENCE.finditer(page)]
    return [block for block in found if block.language in languages]


def named(block: Block) -> str:
    return f"line {block.line}"


def test_every_block_is_known() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for begin in NOT_RUN:
        assert f"\n{begin}" in page, f"{begin!r} is not on the page any more"
    known = blocks("sh", "python", "yaml", "nginx")  # the last is a proxy's: test_foreign_pages has one like it
    assert len(known) + SHAPES == page.count("\n```") // 2 and len(blocks("")) == SHAPES


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A reader's, in a folder of its own that holds the README's policy."""
    (tmp_path / "mine.py").write_text(
        "from fastserve import Policy\n\n\nclass Mine(Policy):\n    def rank(self, job):\n        return -job.arrival\n"
    )
    home = {"XDG_STATE_HOME": str(tmp_path / "state"), "FASTSERVE_PORT": "0"}  # what was compiled once stays compiled
    home["FASTSERVE_MODEL"] = "embedded"  # whatever is installed
    return {**os.environ, **home, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def running(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a server that is already there."""
    monkeypatch.setattr("tests.server.test_process.ENVIRONMENT", environment)
    with server("--served-model-name", "embedded", speed=20) as found:
        yield found.base


class Started:
    """A server that a block starts: its URL, until stop()."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        self.alarm = threading.Timer(PATIENCE, self.process.kill)
        self.alarm.start()
        said = ""
        for line in self.process.stdout:
            said += line
            if found := re.search(r"serving at (http://\S+)", line):
                self.base = found[1]
                return
        self.stop()
        pytest.fail(f"it did not start: {said}")

    def stop(self) -> int:
        self.alarm.cancel()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(PATIENCE)


def run(command: str | list[str], environment: dict[str, str], folder: Path = ROOT) -> str:
    done = subprocess.run(
        command, shell=isinstance(command, str), cwd=folder, env=environment, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("block", [block for block in blocks("sh") if block.commands], ids=named)
def test_shell(block: Block, environment: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    python = shlex.quote(sys.executable)
    starts = any("fastserve serve" in line for line in block.commands)
    base = "" if starts else request.getfixturevalue("running")
    own = None
    try:
        for line in block.commands:
            command = re.sub(r"(?<!\S)fastserve(?= (serve|chat))", lambda _: f"{python} -m fastserve", line)
            command = re.sub(r"^python(?= examples)", lambda _: python, command)
            if "fastserve serve" in command and "--show-config" not in command:
                pytest.importorskip("torch")
                own = Started(shlex.split(command), tmp_path, environment)
                base = own.base
                continue
            if command.startswith("node") and not shutil.which("node"):
                continue
            if command.startswith("curl") and not shutil.which("curl"):
                pytest.skip("needs curl")
            said = run(command.replace("http://127.0.0.1:8000", base), environment)
            assert said.strip() and '"detail"' not in said and '"error"' not in said, f"{line}\n{said}"
    finally:
        if own is not None:
            assert own.stop() == 0


@pytest.mark.parametrize("block", blocks("python"), ids=named)
def test_python(block: Block, environment: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if "import openai" in block.text and importlib.util.find_spec("openai") is None:
        pytest.skip("the openai package is not here: `make acceptance` installs it and runs this block")
    text = block.text
    if "http://127.0.0.1:8000" in text:
        text = text.replace("http://127.0.0.1:8000", request.getfixturevalue("running"))
    script = tmp_path / "block.py"
    script.write_text(text)
    if "fastserve" in block.text:
        pytest.importorskip("torch")
    if ".run()" in block.text:
        assert Started([sys.executable, str(script)], tmp_path, environment).stop() == 0
    else:
        run([sys.executable, str(script)], environment, tmp_path)


@pytest.mark.parametrize("block", blocks("yaml"), ids=named)
def test_yaml(block: Block, environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text(block.text)
    command = [sys.executable, "-m", "fastserve", "serve", "--config", str(file), "--show-config"]
    del environment["FASTSERVE_PORT"]
    shown = run(command, environment, tmp_path)
    assert len(re.findall(rf"{re.escape(str(file))} [\w.]+$", shown, re.MULTILINE)) > 10, "what it says is used"
