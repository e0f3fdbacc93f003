"""docs/deploy.md and the first half of docs/scaling.md: their files are taken, and their commands run as written.

A ```yaml block whose first line is a comment with a file name is saved under that name; of a ```console block every
line that starts with `$ ` is run. Servers are left running for the lines that follow, on free ports instead of theirs.
"""

from __future__ import annotations

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

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("stamina", reason="needs the gateway extra")

import yaml

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SERVING = ("fastserve serve", "fastserve gateway")
LAST = "## More than one GPU for one model"
"""From here on the page is of vLLM: tests/test_docs_scaling.py."""


class Shell:
    """A reader's folder, with the servers that are running. ports: as written -> those used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports: dict[str, str] = {}
        self.servers: list[subprocess.Popen[bytes]] = []
        (folder / "traces").symlink_to(ROOT / "traces")

    def port(self, written: str) -> str:
        if written not in self.ports:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.ports[written] = str(free.getsockname()[1])
        return self.ports[written]

    def run(self, command: str) -> str:
        words = shlex.split(
            re.sub(r"(127\.0\.0\.1:)(\d+)", lambda it: it[1] + self.port(it[2]), command), comments=True
        )
        if words[:2] == ["fastserve", "gateway"] and "--port" not in words:
            words += ["--port", "8000"]
        if "--port" in words:
            at = words.index("--port") + 1
            words[at] = self.port(words[at])
        if words[0] == "fastserve":
            words[:1] = [sys.executable, "-m", "fastserve"]
        elif words[0] == "python":
            words[0] = sys.executable
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(self.folder / "state")}
        if not command.startswith(SERVING):
            done = subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=180,
                                  check=False)  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            return done.stdout
        log = (self.folder / "log").open("ab")
        server = subprocess.Popen(words, cwd=self.folder, env=environment, stdout=log, stderr=log)
        log.close()
        self.servers.append(server)
        url = f"http://127.0.0.1:{words[words.index('--port') + 1]}/health/ready"
        for _ in range(600):
            assert server.poll() is None, (self.folder / "log").read_text()
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return ""
            except OSError:
                time.sleep(0.2)
        raise AssertionError(f"{command} is not ready\n{(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        for server in reversed(self.servers):
            server.terminate()
        for server in reversed(self.servers):
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
        self.servers.clear()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    it = Shell(tmp_path)
    yield it
    it.stop()


def sections(page: str) -> dict[str, list[tuple[str, str]]]:
    """Heading -> (kind, text) of its blocks."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(LAST)[0]
    found = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE):
        blocks = [(block[1], block[2]) for block in BLOCK.finditer(part)]
        if blocks:
            found[part.partition("\n")[0]] = blocks
    return found


def follow(shell: Shell, blocks: list[tuple[str, str]], leave_out: tuple[str, ...] = ()) -> list[str]:
    """What was printed, command by command."""
    said = []
    for kind, text in blocks:
        if kind == "yaml":
            name = re.match(r"# ([\w.]+)\n", text)
            assert name is not None and yaml.safe_load(text)
            (shell.folder / name[1]).write_text(text, encoding="utf-8")
        elif kind == "console":
            commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
            said += [shell.run(command) for command in commands if not command.startswith(leave_out or ("#",))]
    return said


def test_one_laptop(shell: Shell) -> None:
    pytest.importorskip("torch")
    said = follow(shell, sections("scaling.md")["One laptop: models that come and go"])
    assert '"first"' in said[1] and '"second"' in said[1]
    assert '"completion_tokens":8' in said[2].replace(" ", "")


def test_several_gpus(shell: Shell) -> None:
    pytest.importorskip("torch")
    said = follow(shell, sections("scaling.md")["One machine with several GPUs"])
    assert "box/processes.json" in said[0] and "box/compose.yaml" in said[1]
    assert '"completion_tokens":8' in said[5].replace(" ", "")
    assert "least-tokens + sj-mlfq" in said[6]


def test_a_cluster(shell: Shell) -> None:
    (said,) = follow(shell, sections("scaling.md")["A cluster"])
    assert "kubernetes/server-large.yaml" in said and "kubernetes/redis.yaml" in said


def test_a_deployment(shell: Shell) -> None:
    """What starts processes is left out: the page's application wants GPUs (tests/deploy/test_service.py has it)."""
    found = sections("deploy.md")
    said = follow(shell, next(iter(found.values())))
    assert "nothing is wrong" in said[0] and len(said) == 5
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    for key in re.findall(r"^\| `\.?(\w+)`", text.partition("## What comes out")[0], flags=re.MULTILINE):
        assert key in KEYS, key
    for target in re.findall(r"^\| `make ([\w-]+)`", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), target


def test_the_makefiles_application_and_models_are_taken(shell: Shell) -> None:
    from fastserve.gateway.models.models_file import read

    assert "nothing is wrong" in shell.run(f"fastserve deploy {shlex.quote(str(ROOT / 'config/app.yaml'))} --check")
    entries, _ = read(ROOT / "config" / "model_config.json")
    assert "smollm2" in entries and entries["vicuna_q4"].backend == "llamacpp"


def _keys() -> set[str]:
    from fastserve.deploy.schema import Application, Server

    return {*Application.model_fields, *Server.model_fields}


KEYS = _keys()
