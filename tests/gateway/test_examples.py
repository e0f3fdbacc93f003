"""The examples of the gateway, run as their users run them against one gateway before two servers."""

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

from fastserve.gateway import Gateway
from tests.gateway.live import PATIENCE, on_socket, scripted

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TOKEN = "s3cret"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with scripted() as one, scripted() as two:
        gateway = Gateway(upstream=[one, two], api_key=[f"{TOKEN} alice"])
        with on_socket(gateway.app) as url:
            yield url


def said(*command: str | Path, code: int = 0, token: str = TOKEN) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={"PATH": "/usr/bin:/bin", "FASTSERVE_API_KEY": token},
    )  # fmt: skip
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout if code == 0 else done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(url: str) -> None:
    for model in (["scripted"], []):
        out = said("sh", EXAMPLES / "gateway_curl.sh", url, *model)
        assert out.count("chat.completion.chunk") >= 4 and "data: [DONE]" in out
        assert '"turns":2' in out and '"deleted":true' in out and '"done_reason":"length"' in out
    assert "not known here" in said("sh", "-c", f"sh {EXAMPLES}/gateway_curl.sh {url} x >&2", code=22, token="")


def test_openai(url: str) -> None:
    pytest.importorskip("openai", reason="needs the dev extra")
    out = said(sys.executable, EXAMPLES / "gateway_openai.py", "--url", url)
    assert "-- models: scripted" in out and "-- 16 tokens by" in out and "-- streamed" in out
    assert "-- after 1 turns that the gateway kept" in out
    refused = said(sys.executable, EXAMPLES / "gateway_openai.py", "--url", url, "--model", "other", code=1)
    assert refused.startswith("404: ") and "other" in refused


def test_ollama(url: str) -> None:
    pytest.importorskip("ollama", reason="needs the dev extra")
    out = said(sys.executable, EXAMPLES / "gateway_ollama.py", "--url", url)
    assert re.search(r"-- 32 tokens, [\d.]+ a second", out) and "-- length after" in out
    assert "-- in memory: scripted" in out
    refused = said(sys.executable, EXAMPLES / "gateway_ollama.py", "--url", url, "--pull", "owner/name", code=1)
    assert refused.startswith("501: ") and "--models-dir" in refused


@pytest.mark.parametrize("name", ["gateway_openai.py", "gateway_ollama.py"])
def test_nobody_answers(name: str) -> None:
    pytest.importorskip(name.removeprefix("gateway_").removesuffix(".py"), reason="needs the dev extra")
    error = said(sys.executable, EXAMPLES / name, "--url", "http://127.0.0.1:9", code=1)
    assert error.startswith("no answer from http://127.0.0.1:9")
