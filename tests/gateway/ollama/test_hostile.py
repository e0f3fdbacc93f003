"""Bodies that nobody means well with, at Ollama's routes: refused by counts, before they cost anything."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")

import httpx

from fastserve.gateway import Gateway
from tests.gateway.live import on_socket, scripted

MIB = 1 << 20


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with scripted() as upstream, on_socket(Gateway(upstream=[upstream]).app) as url:
        yield url


def chat(content: Any, **more: Any) -> bytes:
    body = {"model": "scripted", "messages": [{"role": "user", "content": content}], "stream": False, **more}
    return json.dumps(body).encode()


HOSTILE: dict[str, tuple[bytes, int]] = {
    "deep": (b'{"model": "scripted", "messages": ' + b"[" * (8 * MIB - 64), 400),
    "deep options": (b'{"model": "scripted", "options": ' + b'{"a":' * MIB + b"1" + b"}" * MIB + b"}", 400),
    "many objects": (b'{"model": "scripted", "messages": [' + b"{}," * 2 * MIB + b"{}]}", 400),
    "many numbers": (b'{"model": "scripted", "context": [' + b"1," * 3 * MIB + b"1]}", 400),
    "a long number": (b'{"model": "scripted", "keep_alive": ' + b"9" * 7 * MIB + b"}", 400),
    "a long time": (chat("x", keep_alive="9" * 6 * MIB + "h"), 400),
    "a long name": (chat("x", model="m" * 7 * MIB), 400),
    "a long format": (chat("x", format="f" * 7 * MIB), 400),
    "a long session": (chat("x", session_id="s" * MIB), 400),
    "more than a body may have": (b'{"model": "' + b"x" * 9 * MIB + b'"}', 413),
    "no JSON": (b"\xff" * 4 * MIB, 400),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_in_few_words_and_little_time(url: str, name: str) -> None:
    body, status = HOSTILE[name]
    before = resource.getrusage(resource.RUSAGE_SELF)
    answer = httpx.post(f"{url}/api/chat", content=body, timeout=60)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert answer.status_code == status, answer.text[:300]
    assert len(answer.text) < 4000 and answer.json()["error"]
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 2.0, "CPU seconds, of the client too"
    assert after.ru_maxrss - before.ru_maxrss < 200 << 10, "KiB"


def test_the_gateway_answers_others_meanwhile(url: str) -> None:
    """A large body that is fine is parsed off the event loop."""
    began = time.monotonic()
    body = chat("x" * 7 * MIB)
    assert httpx.post(f"{url}/api/chat", content=body, timeout=60).status_code == 400
    assert httpx.get(f"{url}/api/version").status_code == 200
    assert time.monotonic() - began < 60
