"""OpenAI's and vLLM's fields that say what an output may be: done, or refused by name."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("torch")

import httpx

from fastserve.engine import Engine, SamplingParams
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig
from tests.server.sse import chunks

pytestmark = pytest.mark.anyio
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.from_pretrained("embedded", kv_tokens=8192, host_tokens=512) as engine:
        yield engine


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(engine, FastServeConfig())
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def ask(client: httpx.AsyncClient, route: str = "chat", **fields: Any) -> Any:
    """The choice, or the error."""
    prompt = {"messages": [{"role": "user", "content": "Hi"}]} if route == "chat" else {"prompt": "Hi"}
    path = "/v1/chat/completions" if route == "chat" else "/v1/completions"
    answer = await client.post(path, json={**prompt, "max_tokens": 12, "ignore_eos": True, "seed": 3, **fields})
    told = answer.json()
    return told["error"] if answer.status_code == 400 else told["choices"][0]


async def test_what_can_be_done_is_done(client: httpx.AsyncClient) -> None:
    for fields in ({"structured_outputs": {"choice": ["yes", "no"]}}, {"guided_choice": ["yes", "no"]}):
        for route in ("chat", "completions"):
            choice = await ask(client, route, **fields)
            text = choice["message"]["content"] if route == "chat" else choice["text"]
            assert text in ("yes", "no") and choice["finish_reason"] == "stop"
        body = {"prompt": "Hi", "stream": True, **fields}
        told = chunks((await client.post("/v1/completions", json=body)).text)
        assert "".join(chunk["choices"][0]["text"] for chunk in told) in ("yes", "no")

    async def text(**fields: Any) -> str:
        found: str = (await ask(client, "completions", **fields))["text"]
        return found

    free = await text()
    assert set(await text(allowed_token_ids=[97, 98])) <= {"a", "b"}
    assert free[2:4] not in await text(bad_words=[free[2:4]])
    assert await text(logit_bias={"120": 100}) == "x" * 12
    assert await text(bad_words=[], logit_bias={}, structured_outputs={}, guided_choice=None) == free
    assert await text(stop=free[3:5]) == free[:3]
    assert await text(stop=free[3:5], include_stop_str_in_output=True) == free[:5]


async def test_prompts_are_cut(engine: Engine, client: httpx.AsyncClient) -> None:
    async def tokens(**fields: Any) -> int:
        answer = await client.post("/v1/completions", json={"prompt": "abcdef", "max_tokens": 4, **fields})
        return int(answer.json()["usage"]["prompt_tokens"])

    async def text(**fields: Any) -> str:
        return str((await ask(client, "completions", **fields))["text"])

    assert await tokens(truncate_prompt_tokens=3) == 3 and await tokens(truncate_prompt_tokens=99) == 6
    most = engine.max_model_len
    assert await tokens(prompt="x" * (most + 9), truncate_prompt_tokens=-1) == most - 4
    assert await tokens(prompt=[97] * (most + 9), truncate_prompt_tokens=-1, truncation_side="right") == most - 4
    assert await text(prompt="abcdef", truncate_prompt_tokens=3) == await text(prompt="def")
    cut = {"truncate_prompt_tokens": 3, "truncation_side": "right"}
    assert await text(prompt="abcdef", **cut) == await text(prompt="abc") == await text(prompt=list(b"abcdef"), **cut)
    long = "".join([chr(97 + i % 26) for i in range(60_000)])
    for cut in ({}, {"truncation_side": "right"}):
        part = long[-50:] if not cut else long[:50]
        assert await text(prompt=long, truncate_prompt_tokens=50, **cut) == await text(prompt=part)
    assert await tokens(prompt=long, truncate_prompt_tokens=-1) == most - 4
    for body in ({"prompt": long}, {"prompt": long, "truncate_prompt_tokens": None}):
        refused = await client.post("/v1/completions", json=body)
        assert refused.status_code == 400 and "prompt is too long" in refused.text
    assert (await ask(client, truncate_prompt_tokens=0))["param"].startswith("truncate_prompt_tokens")


async def test_what_many_outputs_share_is_prepared_once(
    client: httpx.AsyncClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body of 128 KB with 128 outputs held the event loop for 5 to 13 s: words and lists were read for each."""
    encoded, made = [], []
    encode, init = engine.tokenizer.encode, SamplingParams.__post_init__

    def counted(text: str, **more: Any) -> Any:
        encoded.append(threading.current_thread().name)
        return encode(text, **more)

    def checked(params: SamplingParams) -> None:
        made.append(threading.current_thread().name)
        init(params)

    monkeypatch.setattr(engine.tokenizer, "encode", counted, raising=False)
    monkeypatch.setattr(SamplingParams, "__post_init__", checked)
    words = [f"{number:03}" for number in range(256)]
    for fields in ({"guided_choice": words}, {"bad_words": words}, {"allowed_token_ids": [97, 98] * 20_000}):
        encoded.clear()
        made.clear()
        answer = await client.post("/v1/completions", json={"prompt": "Hi", "n": 32, "max_tokens": 3, **fields})
        assert answer.status_code == 200 and len(answer.json()["choices"]) == 32
        assert len(encoded) <= 4 * 256 + 1 and len(made) <= 3
        assert encoded.count("MainThread") <= 1 and "MainThread" not in made  # the prompt, which is short


async def test_outputs_that_share_parameters_have_seeds_of_their_own(client: httpx.AsyncClient) -> None:
    fields = {"prompt": ["Hi", "Ho"], "n": 2, "seed": 7, "temperature": 2, "max_tokens": 12}
    told = (await client.post("/v1/completions", json=fields)).json()["choices"]
    alone = [await ask(client, "completions", prompt=text, seed=7 + place, temperature=2, ignore_eos=False)
             for place, text in enumerate(("Hi", "Hi", "Ho", "Ho"))]  # fmt: skip
    assert [choice["text"] for choice in told] == [choice["text"] for choice in alone]


async def test_words_are_bounded(client: httpx.AsyncClient) -> None:
    for name in ("bad_words", "guided_choice"):
        told = await ask(client, **{name: ["a" * 8192, "b" * 8193]})
        assert told["param"] == name
        assert told["message"] == f"{name}: they have 16,385 characters in all; send at most 16,384"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {"choices": ["yes", "no"]}}, "structured_outputs"),
        ({"structured_outputs": {"json": {"type": "object"}}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "root ::= a"}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": True}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["ä"]}}, "structured_outputs"),
        ({"guided_choice": ["ä"]}, "guided_choice"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"guided_grammar": "root ::= a"}, "guided_grammar"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"response_format": {"type": "regex"}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"grammar": "root ::= a"}, "grammar"),
        ({"json_schema": {"type": "object"}}, "json_schema"),
        ({"regex": "a+"}, "regex"),
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"echo": True}, "echo"),
        ({"max_new_tokens": 5}, "max_new_tokens"),
        ({"stop_sequences": ["a"]}, "stop_sequences"),
        ({"lora_path": "x"}, "lora_path"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"allowed_token_ids": [-1]}, "allowed_token_ids.0"),
        ({"allowed_token_ids": [9999]}, "allowed_token_ids"),
        ({"allowed_token_ids": [200]}, "allowed_token_ids"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"bad_words": [""]}, "bad_words.0"),
        ({"stop_token_ids": [-1]}, "stop_token_ids.0"),
    ],
)
async def test_what_cannot_is_refused_by_name(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        error = await ask(client, **fields, stream=stream)
        assert error.get("code") == 400 and error["param"].startswith(param), error
        assert param.partition(".")[0] in error["message"] or "choices" in error["message"]


async def test_what_asks_for_nothing_is_taken(client: httpx.AsyncClient) -> None:
    for fields in (
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": [], "tool_choice": "auto"},
        {"tool_choice": None, "functions": None, "function_call": "none"},
        {"response_format": {"type": "text"}, "modalities": ["text"], "parallel_tool_calls": True},
        {"typical_p": 1.0, "mirostat": 0, "prompt_logprobs": None, "thinking_token_budget": -1, "echo": False},
        {"guided_json": None, "structured_outputs": None, "use_beam_search": False, "suffix": ""},
        {"store": False, "metadata": {}, "service_tier": "auto", "verbosity": "low", "unheard_of": [1]},
    ):
        assert "message" in await ask(client, **fields) and "finish_reason" in await ask(client, **fields), fields


async def test_logprobs_as_ids(engine: Engine, client: httpx.AsyncClient) -> None:
    fields = {"prompt": [97, 98], "logprobs": 1, "max_tokens": 2, "return_tokens_as_token_ids": True}
    found = (await client.post("/v1/completions", json=fields)).json()["choices"][0]["logprobs"]
    assert all(token.startswith("token_id:") for token in found["tokens"])
    assert int(found["tokens"][0].partition(":")[2]) < engine.vocab_size
    told = chunks((await client.post("/v1/completions", json={**fields, "stream": True})).text)
    assert told[0]["choices"][0]["logprobs"]["tokens"][0].startswith("token_id:")
