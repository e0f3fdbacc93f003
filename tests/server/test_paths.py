"""Where clients go wrong: base URLs without /v1, doubled slashes, HEAD, compressed bodies, routes of other APIs."""

from __future__ import annotations

import gzip

import pytest

from fastserve.server.api.paths import clean_path, not_served, uses_openai_errors
from tests.server.conftest import Serve

pytestmark = pytest.mark.anyio
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


async def test_a_base_url_without_v1_works(serve: Serve) -> None:
    async with serve() as client:
        listed = (await client.get("/v1/models")).json()
        bare = (await client.get("/models")).json()
        assert {name: bare[name] for name in ("object", "data")} == listed, "OpenAI's clients find the model here too"
        assert bare["models"][0]["name"] == bare["default_model"] == "scripted"
        assert (await client.get("/models/scripted")).json() == listed["data"][0]
        assert (await client.post("/chat/completions", json=CHAT)).json()["object"] == "chat.completion"
        answer = await client.post("/completions", json={"prompt": "a", "max_tokens": 1})
        assert answer.json()["object"] == "text_completion"
        refused = await client.post("/chat/completions", json={})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "messages"


@pytest.mark.parametrize("path", ["/v1/models/", "/v1//models", "//v1/models", "/v1/models//", "/models/"])
async def test_slashes_too_many(serve: Serve, path: str) -> None:
    async with serve() as client:
        assert (await client.get(f"http://127.0.0.1{path}")).json()["data"][0]["id"] == "scripted"
        assert (await client.post("/v1/chat/completions/", json=CHAT)).status_code == 200
        assert (await client.get("/tasks/")).status_code == 200, "a route that ends with one keeps it"


async def test_every_get_route_answers_head_with_its_headers_alone(serve: Serve) -> None:
    async with serve() as client:
        for path in ("/", "/health", "/health/ready", "/ping", "/v1/models", "/models", "/stats", "/metrics", "/docs"):
            got, head = await client.get(path), await client.head(path)
            assert head.status_code == got.status_code == 200, path
            assert head.content == b"" and head.headers.get("content-type") == got.headers.get("content-type"), path
        for path in ("/stream?prompt=x", "/live", "/generate"):
            assert (await client.head(path)).status_code == 405, "HEAD starts no work and no endless stream"


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/v1/embeddings", "no embeddings"),
        ("POST", "/embeddings", "no embeddings"),
        ("POST", "/v1/responses", "Responses API is not served: use POST /v1/chat/completions"),
        ("GET", "/v1/responses/abc", "Responses API"),
        ("POST", "/v1/messages", "Anthropic's Messages API"),
        ("POST", "/v1/messages/count_tokens", "Anthropic's Messages API"),
        ("POST", "/v1/audio/transcriptions", "generates text only"),
        ("POST", "/v1/images/generations", "generates text only"),
        ("POST", "/v1/v1/chat/completions", "/v1 twice"),
        ("POST", "/api/chat", "Ollama's API is not served"),
        ("POST", "/openai/deployments/x/chat/completions", "Azure's paths are not served"),
        ("POST", "/v1/chat/completions/chat/completions", "has to end with /v1"),
        ("POST", "/v1/completions/chat/completions", "has to end with /v1"),
        ("POST", "/v1/chat/completion", "there is /v1/chat/completions"),
        ("GET", "/v1", "/docs"),
        ("POST", "/nowhere", "/docs"),
    ],
)
async def test_a_route_that_is_not_served_says_what_to_do(serve: Serve, method: str, path: str, words: str) -> None:
    async with serve() as client:
        response = await client.request(method, path, json={})
        assert response.status_code == 404
        told = response.json()
        if path.startswith("/api/"):  # Ollama's clients look there
            message = told["error"]
        else:
            message = told["error"]["message"] if uses_openai_errors(path) else told["detail"]
        assert words in message and f"{method} {path}" in message


async def test_a_wrong_method_names_the_right_one(serve: Serve) -> None:
    async with serve() as client:
        response = await client.get("/v1/chat/completions")
        assert response.status_code == 405 and response.headers["allow"] == "POST"
        assert "/v1/chat/completions does not take GET: use POST" in response.json()["error"]["message"]
        assert "does not take DELETE: use GET" in (await client.delete("/health")).json()["detail"]


async def test_a_compressed_body_is_said_to_be_one(serve: Serve) -> None:
    async with serve() as client:
        body = gzip.compress(b'{"prompt": "a"}')
        said = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        for path in ("/v1/completions", "/generate"):
            response = await client.post(path, content=body, headers=said)
            assert response.status_code == 415 and "(gzip); send it uncompressed" in response.text.replace("'", "")
            unsaid = await client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert unsaid.status_code in (400, 422) and "compressed with gzip; send it uncompressed" in unsaid.text
        said["Content-Encoding"] = "identity"
        assert (await client.post("/v1/completions", content=b'{"prompt": "a"}', headers=said)).status_code == 200


async def test_a_lone_surrogate_is_said_to_be_one(serve: Serve) -> None:
    async with serve() as client:
        text = '"a\\ud83d"'
        for path, body, field in (
            ("/v1/chat/completions", '{"messages":[{"role":"user","content":%s}]}', "messages.0.content"),
            (
                "/v1/chat/completions",
                '{"messages":[{"role":"user","content":[{"type":"text","text":%s}]}]}',
                "messages",
            ),
            ("/v1/completions", '{"prompt":%s}', "prompt"),
            ("/v1/completions", '{"prompt":["ok",%s]}', "prompt"),
            ("/v1/completions", '{"prompt":"a","stop":[%s]}', "stop"),
            ("/v1/completions", '{"prompt":"a","model":%s}', "model"),
            ("/generate", '{"prompt":%s}', "prompt"),
            ("/tokenize", '{"prompt":%s}', "prompt"),
        ):
            headers = {"Content-Type": "application/json"}
            response = await client.post(path, content=body % text, headers=headers)
            assert response.status_code in (400, 422), response.text
            assert "lone surrogate" in response.text and "ud83d at character 1" in response.text, response.text
            assert field in response.text


async def test_an_id_outside_the_vocabulary_is_named_with_the_range(serve: Serve) -> None:
    async with serve() as client:
        for id in (-1, 257, 1 << 80):
            for path in ("/v1/completions", "/generate"):
                response = await client.post(path, json={"prompt": [5, id]})
                assert response.status_code == 400
                assert f"{id} is not a token of model scripted: ids go from 0 to 256" in response.text
            response = await client.post("/detokenize", json={"tokens": [5, id]})
            assert response.status_code == 400 and f"{id} is not a token: ids go from 0 to 256" in response.text


async def test_an_empty_model_is_the_one_that_is_served(serve: Serve) -> None:
    async with serve() as client:
        assert (await client.post("/v1/chat/completions", json={**CHAT, "model": ""})).status_code == 200
        assert (await client.post("/generate", json={"prompt": "a", "model": ""})).status_code == 200


def test_only_slashes_are_cleaned() -> None:
    for path in ("/", "/tasks/", "/page/index.html", "/v1/models", "/jobs/a"):
        assert clean_path(path) == path
    assert clean_path("/v1/") == "/v1"


def test_a_long_path_is_cut() -> None:
    assert len(not_served("GET", "/" + "x" * 10_000, ["/health"])) < 400
