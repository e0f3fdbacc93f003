"""--page-port: the same gateway at a second port, as a user starts it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

import httpx

from tests.gateway.live import PATIENCE

COMMAND = [sys.executable, "-m", "fastserve", "gateway", "--port", "0", "--page-port"]


def test_the_page_is_at_both_ports(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with subprocess.Popen(
        [*COMMAND, "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "serving at" not in said:
                line = process.stdout.readline()
                assert line, said
                said += line
            other = re.search(r"page at port (\d+) too", said)
            main = re.search(r"serving at (http://\S+)", said)
            assert other and main, said
            for url in (main[1], f"http://127.0.0.1:{other[1]}"):
                assert "<title>FastServe gateway</title>" in httpx.get(f"{url}/", timeout=PATIENCE).text
                page = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
                status = httpx.get(f"{url}/gateway/status", headers=page, timeout=PATIENCE)
                assert status.status_code == 200 and status.json()["upstreams"] == []
            foreign = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
            refused = httpx.post(f"http://127.0.0.1:{other[1]}/conversations", headers=foreign, timeout=PATIENCE)
            assert refused.status_code == 403, "the rules of origins hold at both"
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            rest = process.stdout.read()
            assert "/gateway/status" not in rest, "what is asked for all the time is not logged each time"
            assert "POST /conversations 403" in rest
        finally:
            process.kill()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [*COMMAND, str(taken.getsockname()[1])]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=PATIENCE, check=False
        )
    assert done.returncode == 1 and "another --page-port" in done.stderr
