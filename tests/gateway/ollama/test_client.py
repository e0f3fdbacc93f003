"""Ollama's own Python client at a gateway, before our own server with a scripted engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("cachetools", reason="needs the gateway extra")
pytest.importorskip("ollama", reason="needs the dev extra")

import httpx
import ollama

from fastserve.gateway import Gateway
from tests.gateway.live import on_socket, scripted

MESSAGES = [{"role": "user", "content": "why is the sky blue?"}]
FEW = {"num_predict": 5, "temperature": 0, "seed": 3}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with scripted() as upstream, on_socket(Gateway(upstream=[upstream]).app) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(url) as client:
        yield client


def test_a_chat(client: ollama.Client) -> None:
    answer = client.chat("scripted", MESSAGES, options=FEW)
    assert answer.done and answer.done_reason == "length" and answer.model == "scripted"
    assert answer.message.role == "assistant" and len(answer.message.content) == 5
    assert answer.eval_count == 5 and answer.prompt_eval_count > 0
    assert answer.total_duration >= answer.eval_duration > 0 and answer.load_duration == 0
    assert answer.created_at.endswith("Z")


def test_a_chat_that_streams_says_the_same(client: ollama.Client) -> None:
    whole = client.chat("scripted", MESSAGES, options=FEW).message.content
    *pieces, last = client.chat("scripted", MESSAGES, options=FEW, stream=True)
    assert "".join(piece.message.content for piece in pieces) == whole and len(pieces) == 5
    assert not any(piece.done for piece in pieces) and last.done and last.done_reason == "length"
    assert last.eval_count == 5 and last.total_duration == last.prompt_eval_duration + last.eval_duration


@pytest.mark.parametrize("raw", [False, True])
def test_generate(client: ollama.Client, raw: bool) -> None:
    answer = client.generate("scripted", "why?", system=None if raw else "be brief", raw=raw, options=FEW)
    assert answer.done and len(answer.response) == 5 and answer.eval_count == 5
    pieces = list(client.generate("scripted", "why?", raw=raw, options=FEW, stream=True))
    assert len("".join(piece.response for piece in pieces)) == 5 and pieces[-1].done
    assert (answer.prompt_eval_count == 4) == raw, "a raw prompt passes no template"


def test_stop_strings(client: ollama.Client) -> None:
    text = client.generate("scripted", "why?", raw=True, options=FEW | {"num_predict": 20}).response
    cut = client.generate("scripted", "why?", raw=True, options=FEW | {"num_predict": 20, "stop": [text[7:10]]})
    assert cut.response == text[:7] and cut.done_reason == "stop"


def test_models(client: ollama.Client) -> None:
    (listed,) = client.list().models
    assert listed.model == "scripted" and listed.details is not None and listed.digest
    (loaded,) = client.ps().models
    assert loaded.model == "scripted" and loaded.expires_at > listed.modified_at
    shown = client.show("scripted")
    assert shown.capabilities == ["completion"]
    assert next(value for name, value in shown.modelinfo.items() if name.endswith("context_length")) == 2048


def test_a_tag_more_or_less(client: ollama.Client) -> None:
    assert client.chat("scripted:latest", MESSAGES, options=FEW).model == "scripted:latest"
    assert client.show("scripted:latest").details is not None


def test_without_a_prompt_a_model_is_loaded_or_not(client: ollama.Client) -> None:
    assert client.generate("scripted").done_reason == "load"
    assert client.generate("scripted", keep_alive=0).done_reason == "unload"
    assert client.chat("scripted", [], keep_alive="5m").done_reason == "load"


def test_what_is_not_there(client: ollama.Client) -> None:
    for ask in (
        lambda: client.chat("other", MESSAGES),
        lambda: list(client.chat("other", MESSAGES, stream=True)),
        lambda: client.generate("other"),
        lambda: client.show("other"),
    ):
        with pytest.raises(ollama.ResponseError, match="other") as refused:
            ask()
        assert refused.value.status_code == 404


def test_what_is_refused_says_why(client: ollama.Client) -> None:
    for ask, status, words in (
        (lambda: client.chat("scripted", MESSAGES, format="json"), 400, "response_format"),
        (lambda: client.generate("scripted", "x", context=[1]), 400, "context"),
        (lambda: client.chat("scripted", MESSAGES, keep_alive="soon"), 400, "is no time"),
        (lambda: client.chat("scripted", MESSAGES, tools=[{"type": "function"}]), 400, "tools"),
        (lambda: client.embed("scripted", "x"), 501, "embedding"),
        (lambda: client.pull("owner/name"), 501, "--models-dir"),
        (lambda: list(client.pull("owner/name", stream=True)), 501, "--models-dir"),
        (lambda: client.delete("scripted"), 501, "--models-dir"),
        (lambda: client.copy("scripted", "b"), 501, "--models file"),
        (lambda: client.push("scripted"), 501, "published"),
    ):
        with pytest.raises(ollama.ResponseError, match=words) as refused:
            ask()
        assert refused.value.status_code == status, words


def test_its_asynchronous_client(url: str) -> None:
    async def ask() -> str:
        async with ollama.AsyncClient(url) as client:
            parts = await client.chat("scripted", MESSAGES, options=FEW, stream=True)
            return "".join([part.message.content async for part in parts])

    assert len(asyncio.run(ask())) == 5


def test_curl_as_its_documentation_has_it(url: str) -> None:
    """A form's Content-Type, and streams by default; a browser's page of elsewhere is refused."""
    body = json.dumps({"model": "scripted", "prompt": "why?", "options": {"num_predict": 3}})
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = httpx.post(f"{url}/api/generate", content=body, headers=form)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"].startswith("application/x-ndjson") and len(lines) == 4 and lines[-1]["done"]
    page = form | {"Origin": url, "User-Agent": "Mozilla/5.0"}
    assert httpx.post(f"{url}/api/generate", content=body, headers=page).status_code == 403
    assert httpx.get(f"{url}/api/version").json()["version"]
    wrong = httpx.post(f"{url}/api/chat", content="{", headers=form)
    assert wrong.status_code == 400 and "not JSON" in wrong.json()["error"]
    assert "tags" in httpx.get(f"{url}/api/nothing").json()["error"]


def test_tokens(url: str) -> None:
    with on_socket(Gateway(upstream=[url], api_key=["s3cret alice"]).app) as guarded:
        with (
            ollama.Client(guarded) as stranger,
            pytest.raises(ollama.ResponseError, match="a token is needed") as refused,
        ):
            stranger.list()
        assert refused.value.status_code == 401
        with ollama.Client(guarded, headers={"Authorization": "Bearer s3cret"}) as known:
            assert known.chat("scripted", MESSAGES, options=FEW).eval_count == 5
