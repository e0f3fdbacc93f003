"""What clients are told: a body that is not said to be JSON, what is too long, what not to send again."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastapi.testclient import TestClient

from fastserve.engine import Engine
from fastserve.server import create_app
from fastserve.server.api.errors import ApiError, error_response
from fastserve.server.config.settings import FastServeConfig


def client_of(engine: Engine, **settings: Any) -> TestClient:
    return TestClient(create_app(engine, FastServeConfig(**settings)), base_url="http://127.0.0.1")


@pytest.mark.parametrize("said", ["application/x-www-form-urlencoded", "text/plain"])
def test_a_body_that_is_not_said_to_be_json(said: str) -> None:
    """curl -d without -H sends the first."""
    with Engine.scripted() as engine, client_of(engine) as client:
        for path, status in (("/v1/completions", 400), ("/generate", 422)):
            answer = client.post(path, content=b'{"prompt": "x"}', headers={"Content-Type": said})
            assert answer.status_code == status
            assert "send Content-Type: application/json" in answer.text
            wrong = client.post(path, json={"prompt": 1}).text
            assert "prompt" in wrong and "Content-Type" not in wrong


CONTEXT = ("this model's maximum context length is", "prompt is too long")
"""What litellm and langchain-openai look for in the message of a 400, in lower case."""


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_too_long_is_said_in_the_words_that_clients_recognise(stream: bool) -> None:
    with Engine.scripted(max_model_len=128) as engine, client_of(engine) as client:
        chat = {"messages": [{"role": "user", "content": "x" * 200}]}
        for path, body in (
            ("/v1/chat/completions", chat),
            ("/v1/completions", {"prompt": "x" * 200}),
            ("/v1/completions", {"prompt": [5] * 200}),
            ("/v1/completions", {"prompt": "x" * 100, "max_tokens": 29}),
        ):
            answer = client.post(path, json={**body, "stream": stream})
            assert answer.status_code == 400
            message = answer.json()["error"]["message"].lower()
            assert all(words in message for words in CONTEXT) and "128" in message, message
    with Engine.scripted() as engine, client_of(engine, max_prompt_length=120) as client:
        few = client.post("/v1/completions", json={"prompt": "x" * 121, "max_tokens": 1})
        assert few.status_code == 400 and CONTEXT[1] in few.json()["error"]["message"]
    with Engine.scripted(max_model_len=512, kv_tokens=64) as engine, client_of(engine) as client:
        small = client.post("/v1/completions", json={"prompt": "x" * 200})
        assert small.status_code == 400 and CONTEXT[1] in small.json()["error"]["message"]


def test_clients_are_told_not_to_repeat_what_has_been_run() -> None:
    """OpenAI's clients repeat 409 and every 5xx, each time as a new job, unless X-Should-Retry says false."""
    assert error_response("/v1/completions", ApiError(409, "cancelled")).headers["x-should-retry"] == "false"
    assert error_response("/generate", ApiError(504, "took longer")).headers["x-should-retry"] == "false"
    assert error_response("/v1/completions", ApiError(500, "failed")).headers["x-should-retry"] == "false"
    for status in (400, 429, 503):
        assert "x-should-retry" not in error_response("/v1/completions", ApiError(status, "later")).headers
