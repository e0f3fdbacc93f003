"""docs/gateway_clients.md is true: its blocks run as they stand, but for ports, and its flags and routes exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

from fastserve.gateway import Gateway, GatewayConfig
from fastserve.server.config.settings import FastServeConfig
from tests.gateway.live import PATIENCE, on_socket, scripted

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gateway_clients.md").read_text(encoding="utf-8")
BLOCKS = [(match[1], match[2]) for match in re.finditer(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with scripted(model="embedded") as upstream, on_socket(Gateway(upstream=[upstream]).app) as url:
        yield url


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_commands(url: str) -> None:
    commands = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line.startswith("curl")]
    assert len(commands) == 7
    for command in commands:
        here = command.replace("http://127.0.0.1:8000", url).replace("curl", "curl -sS --fail-with-body", 1)
        done = subprocess.run(["sh", "-c", here], capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_python(url: str) -> None:
    pytest.importorskip("ollama", reason="needs the dev extra")
    (script,) = [text for kind, text in BLOCKS if kind == "python"]
    here = script.replace("http://127.0.0.1:8000", url)
    done = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_settings_and_routes_exist() -> None:
    known = {*GatewayConfig.model_fields, *FastServeConfig.model_fields}
    flags = {flag[2:].replace("-", "_") for flag in re.findall(r"--[a-z][a-z-]+", PAGE)}
    assert flags <= known | {"fail_with_body"}, flags - known
    paths = set(Gateway().app.openapi()["paths"])
    for path in re.findall(r"`(?:GET |POST |DELETE )?(/[a-z0-9/_]+)`", PAGE):
        served = path in paths or path in ("/api/embed", "/api/create", "/api/copy", "/api/push", "/api/blobs")
        assert served, path


def test_every_block_is_run() -> None:
    assert [kind for kind, _ in BLOCKS] == ["sh", "sh", "python", "sh"]
    assert BLOCKS[0][1].startswith("fastserve gateway --upstream"), "it is what stands for the gateway of this test"
