"""Our server in front of a stub: chats, usage that was counted or is estimated, refusals, settings of a YAML file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.engine import Engine
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from fastserve.server.config.settings import FastServeConfig
from fastserve.server.run import make_engine
from tests.backends.upstream.stub import Stub, answer_to, rendered
from tests.server.conftest import Serve, _clean_settings, anyio_backend, serve  # noqa: F401 (fixtures)

pytestmark = pytest.mark.anyio

CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture(params=["llama", "vllm", "openai", "ollama"])
def stub(request: pytest.FixtureRequest) -> Iterator[Stub]:
    found = Stub(request.param)
    yield found
    found.stop()


def front(stub: Stub) -> Engine:
    return Body("tiny", "upstream", upstream=stub.url, upstream_slots=4).engine(EngineConfig.of({"policy": "fcfs"}))


async def test_a_chat_and_its_counts(stub: Stub, serve: Serve) -> None:  # noqa: F811
    asked = {"messages": CHAT, "max_tokens": 12, "temperature": 0}
    size = len(rendered(CHAT))
    want = {"prompt_tokens": size, "completion_tokens": 12, "total_tokens": size + 12}
    async with serve(front(stub)) as client:
        answer = (await client.post("/v1/chat/completions", json=asked)).json()
        assert answer["choices"][0]["message"]["content"] == answer_to(rendered(CHAT).encode(), 12)
        assert answer["usage"] == want
        streamed = await client.post(
            "/v1/chat/completions", json=asked | {"stream": True, "stream_options": {"include_usage": True}}
        )
        lines = [line for line in streamed.text.splitlines() if line.startswith("data: {")]
        assert json.loads(lines[-1][6:])["usage"] == want
        native = (await client.post("/chat", json={"messages": CHAT, "max_new_tokens": 12})).json()
        assert native["usage"] == want and native["metadata"]["backend"] == "upstream"
        health = (await client.get("/health")).json()
        assert health["backend_type"] == "upstream"
        settings = (await client.get("/stats/detailed")).json()["settings"]
        assert settings["tokens"] == "estimated" and settings["upstream"] == stub.url


async def test_what_nobody_counted_is_marked(stub: Stub, serve: Serve) -> None:  # noqa: F811
    """A stop string ends it here, before the upstream has said how much it was."""
    stop = answer_to(b"hi", 40)[6:9]
    async with serve(front(stub)) as client:
        answer = await client.post(
            "/v1/completions", json={"prompt": "hi", "max_tokens": 40, "temperature": 0, "stop": stop}
        )
        usage = answer.json()["usage"]
        assert answer.json()["choices"][0]["finish_reason"] == "stop"
        assert usage.pop("estimated") is True and usage["completion_tokens"] == 9


async def test_refusals_name_the_field(stub: Stub, serve: Serve) -> None:  # noqa: F811
    async with serve(front(stub)) as client:
        answer = await client.post("/v1/completions", json={"prompt": "hi", "logprobs": 1})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "logprobs"
        plain = await client.post("/generate", json={"prompt": "hi", "max_new_tokens": 3})
        assert plain.status_code == 200, "the server's own default top_k is not asked of who does not know it"


async def test_an_error_of_the_upstream_is_told(stub: Stub, serve: Serve) -> None:  # noqa: F811
    stub.hook = lambda handler, body, number: handler.answer(400, {"error": {"message": "no such adapter"}})
    async with serve(front(stub)) as client:
        answer = await client.post("/v1/completions", json={"prompt": "hi"})
        assert answer.status_code == 500 and "no such adapter" in answer.json()["error"]["message"]
        stub.hook = None
        assert (await client.post("/v1/completions", json={"prompt": "hi"})).status_code == 200


async def test_a_template_of_ones_own(serve: Serve, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("transformers")
    path = tmp_path / "mine.jinja"
    path.write_text("{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}:")
    stub = Stub("ollama")
    try:
        async with serve(front(stub), chat_template=str(path)) as client:
            answer = (await client.post("/v1/chat/completions", json={"messages": CHAT, "max_tokens": 4})).json()
        assert answer["choices"][0]["message"]["content"] == answer_to(b"<user>hello:", 4)
        assert stub.asked[0][0] == "/api/generate" and stub.asked[0][1]["raw"] is True
    finally:
        stub.stop()


@pytest.mark.parametrize("by", ["use_ollama", "upstream"])
def test_by_the_settings_of_a_server(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub("ollama")
    given: dict[str, Any] = {"use_ollama": True, "ollama_model": "tiny"}
    if by == "upstream":
        given = {"backend": "upstream", "upstream_api": "ollama", "model": "tiny"}
    try:
        with make_engine(FastServeConfig(**given, upstream=stub.url, policy="fcfs")) as engine:
            assert engine.info.backend == "upstream" and engine.settings["upstream_api"] == "ollama"
            assert engine.generate("hi")[0].text == answer_to(b"hi", 16)
        monkeypatch.setenv("FASTSERVE_UPSTREAM_KEY", "sesame-77")
        stub.key = "sesame-77"
        with make_engine(FastServeConfig(**given, upstream=stub.url, policy="fcfs")) as engine:
            assert engine.generate("hi")[0].error is None
            assert "sesame" not in str(engine.settings)
    finally:
        stub.stop()
