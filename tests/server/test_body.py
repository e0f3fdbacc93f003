"""Bodies that are refused: nothing of them is parsed, validated or tokenized that need not be, and in which order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.engine import Engine
from fastserve.engine.byte_tokenizer import ByteTokenizer
from fastserve.server.api import body, tokenization
from fastserve.server.api.errors import MAX_MESSAGE
from fastserve.server.http.input_pool import THREADS, WAITING, InputPool
from tests.server.conftest import Serve, slow_engine

pytestmark = pytest.mark.anyio
JSON = {"content-type": "application/json"}
MIB = 1 << 20


class Words(ByteTokenizer):
    """A token is a word of up to 200 characters, so that a context holds more text than a body does."""

    longest_token = 2000

    def __init__(self) -> None:
        self.encoded = 0
        self.longest = 0

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        self.encoded += len(text)
        self.longest = max(self.longest, len(text))
        return [1] * (len(text.split()) + 1)


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the texts that were parsed as JSON for a body."""
    found: list[int] = []

    def loads(text: str) -> Any:
        found.append(len(text))
        return json.loads(text)

    monkeypatch.setattr(body, "loads", loads)
    return found


def many(head: str, unit: str, tail: str, size: int = MIB) -> bytes:
    return (head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail).encode()


HOSTILE = {
    "/v1/chat/completions": [
        many('{"messages":[', "{},", "{}]}"),
        many('{"messages":[{"role":"user","content":"', "word ", '"}]}'),
        many('{"messages":[{"role":"user","content":[', '{"type":"text"},', "{}]}]}"),
        many('{"messages":"', "x", '"}'),
        many('{"messages":[],"tools":[', "{},", "{}]}"),
    ],
    "/chat": [many('{"messages":[', "{},", "{}]}"), many('{"messages":[{"role":"user","', "x", '":1}]}')],
    "/v1/completions": [
        many('{"prompt":"', "word ", '"}'),
        many('{"prompt":"', "\\u00e9", '"}'),
        many('{"prompt":"', "\U0001f600", '"}'),
        many('{"prompt":[', "1,", "1]}"),
        many('{"prompt":[', "[1],", "[1]]}"),
        many('{"prompt":[', '"ab",', '"ab"]}'),
        many('{"prompt":"a","seed":', "9", "}"),
        many('{"prompt":"a","x":', "[", ""),
        many('{"prompt":"a","model":"', "x", '"}'),
    ],
    "/generate": [
        many('{"prompt":"', "word ", '"}'),
        many('{"prompt":"a","stop":[', '"ab",', '"ab"]}'),
        many("{", '"prompt":"a",', '"prompt":"a"}'),
        many('{"prompt":"a","metadata":', '{"a":', ""),
        many("", "nonsense", ""),
    ],
    "/jobs": [many('{"prompt":"a","metadata":{"k":[', "[],", "[]]}}")],
    "/send_text": [many('{"text":"', "x", '"}')],
    "/stream": [many('{"prompt":"', "word ", '"}'), many("prompt=", "x", "")],
    "/v1/generate": [many('{"prompt":"', "word ", '"}')],
    "/v1/generate_nobatch": [many('{"prompt":"', "word ", '"}')],
    "/tokenize": [many('{"prompt":"', "word ", '"}')],
    "/detokenize": [many('{"tokens":[', "1,", "1]}"), many('{"tokens":[', "[],", "1]}")],
}


@pytest.mark.parametrize("path", HOSTILE)
async def test_hostile_bodies_are_never_parsed(serve: Serve, parses: list[int], path: str) -> None:
    async with serve() as client:
        for content in HOSTILE[path]:
            response = await client.post(path, content=content, headers=JSON)
            assert response.status_code == 400, (content[:40], response.text)
            assert len(response.content) < 500
        assert parses == []
        assert client.service.input_pool.held == 0


async def test_no_more_arrives_than_it_takes_to_refuse(serve: Serve) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'{"messages":['
        while True:
            sent += 1
            yield b"{}," * 1000

    async with serve() as client:
        response = await client.post("/v1/chat/completions", content=endless(), headers=JSON)
        assert response.status_code == 400 and "--max-body-items" in response.text
        assert sent <= 20


async def test_texts_that_are_too_long_are_tokenized_in_slices_and_not_to_the_end(
    serve: Serve, parses: list[int]
) -> None:
    """Where the longest token times the context is more than a body may be, only counting tokens can tell."""
    engine = Engine.scripted(max_batch=4)
    words = Words()
    object.__setattr__(engine.info, "tokenizer", words)
    async with serve(engine) as client:
        context = client.service.engine.max_model_len
        assert client.service.tokenization.most_characters > MIB
        for path, content in (
            ("/v1/completions", many('{"prompt":"', "word ", '"}')),
            ("/v1/completions", many('{"prompt":["a","', "word ", '"]}')),
            ("/v1/chat/completions", many('{"messages":[{"role":"user","content":"', "word ", '"}]}')),
            ("/v1/chat/completions", many('{"messages":[', '{"role":"a","content":"' + "word " * 99 + '"},', "{}]}")),
            ("/generate", many('{"temperature":-1,"prompt":"\U0001f600', "word ", '"}')),
            ("/tokenize", many('{"prompt":"', "word ", '"}')),
        ):
            words.encoded = words.longest = 0
            response = await client.post(path, content=content, headers=JSON)
            assert response.status_code == 400 and "prompt is too long" in response.text, response.text
            assert words.encoded < 8 * context and words.longest < 8000
        assert parses == []
        fits = many('{"max_tokens":1,"prompt":"', "x" * 1000 + " ", '"}')  # 1048 tokens
        assert (await client.post("/v1/completions", content=fits, headers=JSON)).status_code == 200


async def test_a_prompt_is_refused_before_the_next_one_is_tokenized(serve: Serve) -> None:
    async with serve() as client:
        context = client.service.engine.max_model_len
        calls = 0
        encode = client.service.engine.tokenizer.encode

        class Counted(ByteTokenizer):
            def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
                nonlocal calls
                calls += 1
                found: list[int] = encode(text)
                return found

        object.__setattr__(client.service.engine.info, "tokenizer", Counted())
        response = await client.post("/v1/completions", json={"prompt": ["a" * context] * 20})
        assert response.status_code == 400 and "prompt is too long" in response.text
        assert calls == 1


async def test_long_bodies_leave_the_event_loop_alone(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are parsed and tokenized on threads of their own, which nothing else uses; short ones on the spot."""
    used: list[str] = []
    run = InputPool.run

    async def noted(self: InputPool, work: Any) -> Any:
        used.append(getattr(work, "func", work).__name__)
        return await run(self, work)

    monkeypatch.setattr(InputPool, "run", noted)
    monkeypatch.setattr(tokenization, "SHORT_TEXT", 100)
    async with serve() as client:
        assert (await client.post("/generate", json={"prompt": "a" * 50, "max_new_tokens": 1})).status_code == 200
        assert used == []
        assert (await client.post("/generate", json={"prompt": "a" * 200, "max_new_tokens": 1})).status_code == 200
        assert used == ["_prompt"]
        spaced = json.dumps({"prompt": "a", "max_new_tokens": 1}).encode() + b" " * 100_000
        assert (await client.post("/generate", content=spaced, headers=JSON)).status_code == 200
        assert used == ["_prompt", "check_texts", "parsed"]


async def test_the_pool_and_what_is_held_are_bounded(serve: Serve) -> None:
    async with serve() as client:
        pool = client.service.input_pool
        content = many('{"prompt":"a","max_tokens":1', " ", "}", 100_000)
        pool.waiting = THREADS + WAITING
        refused = await client.post("/v1/completions", content=content, headers=JSON)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        pool.waiting = 0
        pool.held = pool.most - 1000
        refused = await client.post("/v1/completions", content=content, headers=JSON)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert pool.held == pool.most - 1000
        pool.held = 0
        assert (await client.post("/v1/completions", content=content, headers=JSON)).status_code == 200
        assert pool.held == 0


async def test_limits_and_the_drain_are_asked_before_the_body(serve: Serve) -> None:
    """A client that is known by its token; any other one is asked for its name in the body, but before its prompt."""
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        for piece in (b'{"prompt":', b'"a"}'):
            read += 1
            yield piece

    headers = JSON | {"authorization": "Bearer s3cret"}
    async with serve(api_key=["s3cret alice"], requests_per_minute=1) as client:
        first = await client.post("/generate", json={"prompt": "a", "max_new_tokens": 1}, headers=headers)
        assert first.status_code == 200
        assert (await client.post("/generate", content=pieces(), headers=headers)).status_code == 429
        assert (await client.post("/generate", content=pieces(), headers=JSON)).status_code == 401
        assert read == 0
        assert (await client.post("/tokenize", json={"prompt": "a"}, headers=headers)).status_code == 200
        client.service.draining = True
        assert (await client.post("/generate", content=pieces(), headers=headers)).status_code == 503
        assert read == 0
    async with serve(requests_per_minute=1) as client:
        for user, status in (("bob", 200), ("bob", 429), ("eve", 200)):
            fields = {"prompt": "a", "max_new_tokens": 1, "user": user}
            assert (await client.post("/generate", json=fields)).status_code == status
        too_long = {"prompt": "a" * 5000, "user": "eve"}
        assert (await client.post("/generate", json=too_long)).status_code == 429


async def test_validation_stops_at_the_first_wrong_element(serve: Serve) -> None:
    async with serve() as client:
        for path, fields in (
            ("/v1/chat/completions", {"messages": [{}] * 5000}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{}] * 5000}]}),
            ("/chat", {"messages": [{}] * 5000}),
            ("/chat", {"messages": [{"role": "user", "content": "a", **{f"x{i}": 1 for i in range(5000)}}]}),
            ("/v1/completions", {"prompt": [{}] * 5000}),
            ("/v1/completions", {"prompt": "a", "stop": [1] * 5000}),
            ("/v1/completions", {"prompt": "a", "stop_token_ids": ["a"] * 1000}),
            ("/v1/completions", {"prompt": "a", "logit_bias": {f"x{i}": "y" for i in range(5000)}}),
            ("/generate", {"prompt": ["a"] * 5000}),
            ("/detokenize", {"tokens": ["a"] * 5000}),
        ):
            response = await client.post(path, json=fields)
            assert response.status_code in (400, 422) and len(response.content) < 1500, (path, response.text)


async def test_what_comes_back_of_a_body_is_short(serve: Serve) -> None:
    long = "x" * 20_000
    async with serve() as client:
        for path, fields in (
            ("/v1/completions", {"prompt": "a", "model": long}),
            ("/generate", {"prompt": "a", long: 1}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": long}]}]}),
            ("/v1/completions", {"prompt": "a", "n": long}),
        ):
            response = await client.post(path, json=fields)
            assert response.status_code in (400, 422) and len(response.content) < 2 * MAX_MESSAGE, path
        assert len((await client.get("/jobs/" + long)).content) < 2 * MAX_MESSAGE


async def test_large_requests_that_are_right_are_served(serve: Serve) -> None:
    engine = Engine.scripted(max_batch=4, max_model_len=20_000, kv_tokens=200_000)
    async with serve(engine) as client:
        for path, fields in (
            ("/v1/completions", {"prompt": [1] * 19_000, "max_tokens": 1}),
            ("/v1/completions", {"prompt": [[1] * 2000] * 100, "max_tokens": 1}),
            ("/v1/completions", {"prompt": ['a, [b] {c} "d" \\ \n' * 100] * 100, "max_tokens": 1}),
            ("/v1/completions", {"prompt": "é" * 9000, "max_tokens": 1}),
            ("/v1/completions", {"prompt": [1] * 10_000, "n": 8, "max_tokens": 1}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 1000, "max_tokens": 1}),
            ("/generate", {"prompt": "a" * 19_000, "max_new_tokens": 1, "metadata": {"k": [1] * 4000}}),
        ):
            response = await client.post(path, json=fields)
            assert response.status_code == 200, (path, response.text)
        tokens = (await client.post("/tokenize", json={"prompt": "a" * 60_000})).json()
        assert tokens["count"] == 60_000  # more than the context, so that a client sees how much
        back = await client.post("/detokenize", json={"tokens": tokens["tokens"][:15_000]})
        assert back.json()["prompt"] == "a" * 15_000


async def test_nobatch_counts_in_the_bound_of_the_queue(serve: Serve) -> None:
    async with serve(slow_engine(max_batch=1, queue_capacity=2)) as client:
        fields = {"prompt": "a", "max_new_tokens": 1500}
        sent = [asyncio.create_task(client.post("/v1/generate_nobatch", json=fields)) for _ in range(3)]
        processor = client.service.engine.input_processor
        while processor.outstanding < 3:
            await asyncio.sleep(0.005)
        for path in ("/v1/generate_nobatch", "/generate"):
            refused = await client.post(path, json=fields)
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1", path
        for task in sent:
            task.cancel()
        await asyncio.wait(sent)
        while processor.outstanding:
            await asyncio.sleep(0.005)
        fields["max_new_tokens"] = 1
        assert (await client.post("/v1/generate_nobatch", json=fields)).status_code == 200
