"""What a client is told whose body is not said to be JSON."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastapi.testclient import TestClient

from fastserve.engine import Engine
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig


@pytest.mark.parametrize("said", ["application/x-www-form-urlencoded", "text/plain"])
def test_a_body_that_is_not_said_to_be_json(said: str) -> None:
    """curl -d without -H sends the first."""
    with (
        Engine.scripted() as engine,
        TestClient(create_app(engine, FastServeConfig()), base_url="http://127.0.0.1") as client,
    ):
        for path, status in (("/v1/completions", 400), ("/generate", 422)):
            answer = client.post(path, content=b'{"prompt": "x"}', headers={"Content-Type": said})
            assert answer.status_code == status
            assert "send Content-Type: application/json" in answer.text
            wrong = client.post(path, json={"prompt": 1}).text
            assert "prompt" in wrong and "Content-Type" not in wrong
