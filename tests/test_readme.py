"""The README and docs/agents.md are true: their commands and their Python run, in order, each page in one folder that
holds what a checkout holds.

Of a ```console block every line that starts with `$ ` is run, and must exit 0; the lines between show what a reader
sees and are not compared. A ```python block whose first line is a comment with a file name (`# mine.py`) is saved under
that name, as a reader would, and then run like the others. `make` targets are only checked to exist: they would set up
an environment. A server is left running for the lines that follow, on a free port instead of 8000.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"#\s*([\w./-]+\.py)\s*$")


class Step(NamedTuple):
    kind: str  # "console" or "python"
    text: str  # one command line without its prompt, or a whole block
    line: int  # in the page, from 1


PAGES = ("README.md", "docs/agents.md")


def steps(page: str) -> list[Step]:
    readme = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for block in FENCE.finditer(readme):
        line = readme.count("\n", 0, block.start(2)) + 1
        if block[1] == "python":
            found.append(Step("python", block[2], line))
            continue
        rows = block[2].replace("\\\n", " ").splitlines()
        found += [Step("console", row[2:].strip(), line) for row in rows if row.startswith("$ ")]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader's checkout holds, without the parts that a command could spoil."""
    here = tmp_path / "checkout"
    here.mkdir()
    for name in ("fastserve", "sim", "experiments", "traces", "docs", "README.md"):
        if (ROOT / name).exists():
            (here / name).symlink_to(ROOT / name)
    return here


class Server:
    """The one that the README starts: on `port`, until it is stopped."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: str, folder: Path) -> None:
        """Returns once it answers. Raises RuntimeError if it ends before, or takes two minutes."""
        environment = {**os.environ, "PYTHONPATH": str(folder), "FASTSERVE_MODEL": "embedded"}  # whatever is installed
        flags = ["--port", self.port, "--state-dir", str(folder / "state")]
        self.process = subprocess.Popen([*shlex.split(command), *flags], cwd=folder, env=environment)
        for _ in range(240):
            if self.process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(f"{command} did not become ready")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    it = Server()
    yield it
    it.stop()


def run(command: str | list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_there_is_something_to_run(page: str) -> None:
    kinds = [step.kind for step in steps(page)]
    assert "console" in kinds
    assert "python" in kinds


@pytest.mark.parametrize("page", PAGES)
def test_steps_in_order(page: str, folder: Path, server: Server) -> None:
    """One test a page, for its steps build on one another."""
    for step in steps(page):
        try:
            follow(step, folder, server)
        except AssertionError as error:
            pytest.fail(f"{page}, line {step.line}: {error}")


def follow(step: Step, folder: Path, server: Server) -> None:
    if re.search(r"\bfastserve (serve|generate)\b|--live|fastserve\.engine|127\.0\.0\.1:8000", step.text):
        pytest.importorskip("torch")
    if step.kind == "python":
        named = FILE_NAME.match(step.text.partition("\n")[0])
        path = folder / (named[1] if named else "readme_block.py")
        path.write_text(step.text, encoding="utf-8")
        run([sys.executable, str(path)], folder)
    elif step.text.startswith("make "):
        target = step.text.split("#")[0].split()[1]
        assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    else:
        python = shlex.quote(sys.executable)
        command = re.sub(r"(?<!\S)\.venv/bin/python(?!\S)", lambda _: python, step.text)
        command = re.sub(r"(?<!\S)(\.venv/bin/)?fastserve(?!\S)", lambda _: f"{python} -m fastserve", command)
        if "fastserve serve" in command:
            server.start(command, folder)
        else:
            run(command.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"), folder)
