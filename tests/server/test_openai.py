"""OpenAI's routes, read as its clients read them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from fastserve.engine import Engine
from fastserve.engine.byte_tokenizer import ByteTokenizer
from fastserve.server.api.chat_template import ChatTemplate
from tests.server.conftest import Serve
from tests.server.sse import chunks

pytestmark = pytest.mark.anyio

NOTHING_FOUND = {"prompt_tokens_details": {"cached_tokens": 0}}


async def test_models(serve: Serve) -> None:
    async with serve() as client:
        listed = (await client.get("/v1/models")).json()
        assert listed["object"] == "list"
        card = listed["data"][0]
        assert card["id"] == card["root"] == "scripted"
        assert card["object"] == "model" and card["parent"] is None and card["max_model_len"] == 2048
        assert (await client.get("/v1/models/scripted")).json() == card
        missing = await client.get("/v1/models/gpt-9")
        assert missing.status_code == 404 and missing.json()["error"]["type"] == "NotFoundError"


async def test_a_completion(serve: Serve) -> None:
    async with serve() as client:
        answer = (await client.post("/v1/completions", json={"model": "scripted", "prompt": "hello"})).json()
        assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
        choice = answer["choices"][0]
        assert choice["index"] == 0 and choice["finish_reason"] == "length" and choice["logprobs"] is None
        assert len(choice["text"]) == 16  # OpenAI's default; one character a token
        assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 16, "total_tokens": 21, **NOTHING_FOUND}


async def test_prompts_as_token_ids_and_lists_make_choices_in_order(serve: Serve) -> None:
    async with serve() as client:

        async def ask(prompt: object, **more: object) -> dict[str, object]:
            fields = {"prompt": prompt, "max_tokens": 4, "seed": 7, "temperature": 0, **more}
            response = await client.post("/v1/completions", json=fields)
            assert response.status_code == 200, response.text
            return response.json()

        alone = (await ask("ab"))["choices"][0]["text"]
        assert (await ask([97, 98]))["choices"][0]["text"] == alone
        both = await ask(["ab", "abc"], n=2)
        assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
        assert both["choices"][0]["text"] == alone
        assert both["usage"]["prompt_tokens"] == 5 and both["usage"]["completion_tokens"] == 16
        ids = await ask([[97, 98], [99]])
        assert len(ids["choices"]) == 2


async def test_choices_of_one_seed_differ_and_repeat(serve: Serve) -> None:
    async with serve() as client:
        fields = {"prompt": "ab", "n": 3, "seed": 5, "max_tokens": 8}
        first, second = [
            [choice["text"] for choice in (await client.post("/v1/completions", json=fields)).json()["choices"]]
            for _ in range(2)
        ]
        assert first == second and len(set(first)) == 3


async def test_a_completion_streams_one_event_a_token(serve: Serve) -> None:
    async with serve() as client:
        fields = {"prompt": "hello", "max_tokens": 6, "seed": 3}
        whole = (await client.post("/v1/completions", json=fields)).json()["choices"][0]["text"]
        options = {"include_usage": True}
        response = await client.post("/v1/completions", json={**fields, "stream": True, "stream_options": options})
        assert response.headers["content-type"].startswith("text/event-stream")
        *told, usage = chunks(response.text)
        assert len(told) == 6
        assert "".join(chunk["choices"][0]["text"] for chunk in told) == whole
        assert [chunk["choices"][0]["finish_reason"] for chunk in told] == [None] * 5 + ["length"]
        assert usage["choices"] == []
        assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11, **NOTHING_FOUND}
        assert len({chunk["id"] for chunk in [*told, usage]}) == 1


async def test_token_ids_are_told_where_they_are_asked_for(serve: Serve) -> None:
    """vLLM's field: of each choice, in streams of each event. A scripted token is the byte of its letter."""
    async with serve() as client:
        fields = {"prompt": "hello", "max_tokens": 6, "seed": 3, "return_token_ids": True}
        choice = (await client.post("/v1/completions", json=fields)).json()["choices"][0]
        assert choice["token_ids"] == list(choice["text"].encode())
        streamed = chunks((await client.post("/v1/completions", json={**fields, "stream": True})).text)
        assert [chunk["choices"][0]["token_ids"] for chunk in streamed] == [[id] for id in choice["token_ids"]]
        chat = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "return_token_ids": True}
        choice = (await client.post("/v1/chat/completions", json=chat)).json()["choices"][0]
        assert choice["token_ids"] == list(choice["message"]["content"].encode())
        plain = (await client.post("/v1/completions", json=fields | {"return_token_ids": False})).json()
        assert "token_ids" not in plain["choices"][0]
        native = (await client.post("/generate/stream", json=fields)).text
        events = [json.loads(line[6:]) for line in native.splitlines() if line.startswith("data: ")]
        assert [event["token_ids"] for event in events[:-1]] == [list(event["text"].encode()) for event in events[:-1]]


async def test_no_usage_chunk_unless_asked_for(serve: Serve) -> None:
    async with serve() as client:
        told = chunks((await client.post("/v1/completions", json={"prompt": "a", "stream": True})).text)
        assert all(chunk["choices"] for chunk in told) and "usage" not in told[-1]


async def test_continuous_usage(serve: Serve) -> None:
    async with serve() as client:
        options = {"include_usage": True, "continuous_usage_stats": True}
        fields = {"prompt": "abc", "max_tokens": 3, "stream": True, "stream_options": options}
        told = chunks((await client.post("/v1/completions", json=fields)).text)
        assert [chunk["usage"]["completion_tokens"] for chunk in told] == [1, 2, 3, 3]
        assert {chunk["usage"]["prompt_tokens"] for chunk in told} == {3}


async def test_chat_plain_and_streamed(serve: Serve) -> None:
    async with serve() as client:
        messages = [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
        ]
        fields = {"messages": messages, "max_completion_tokens": 5, "seed": 1, "unknown_field": {"is": "tolerated"}}
        whole = (await client.post("/v1/chat/completions", json=fields)).json()
        assert whole["object"] == "chat.completion" and whole["id"].startswith("chatcmpl-")
        message = whole["choices"][0]["message"]
        assert message["role"] == "assistant" and message["refusal"] is None and "tool_calls" not in message
        assert whole["usage"]["completion_tokens"] == 5
        first, *told = chunks((await client.post("/v1/chat/completions", json={**fields, "stream": True})).text)
        assert first["object"] == "chat.completion.chunk"
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in told) == message["content"]
        assert told[-1]["choices"][0]["finish_reason"] == "length" and len(told) == 5


async def test_chat_without_a_limit_takes_what_the_context_leaves(serve: Serve) -> None:
    async with serve(Engine.scripted(max_model_len=64)) as client:
        fields = {"messages": [{"role": "user", "content": "x"}], "ignore_eos": True}
        usage = (await client.post("/v1/chat/completions", json=fields)).json()["usage"]
        assert usage["total_tokens"] == 64


async def test_a_chat_template_is_rendered_as_transformers_does(serve: Serve) -> None:
    """What its own Jinja has: the date, {% generation %}, a tojson for people; in a sandbox."""
    message = {"role": "user", "content": "<é>"}
    asked = {"messages": [message], "max_tokens": 1}
    for template, prompt in {
        "{{ strftime_now('%Y')[:2] }}{% generation %}x{% endgeneration %}{{ messages|tojson }}": len(
            '20x[{"role": "user", "content": "<é>"}]'.encode()
        ),
        "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{% endfor %}four": 4,
    }.items():
        async with serve(chat_template=template) as client:
            answer = (await client.post("/v1/chat/completions", json=asked)).json()
            assert answer["usage"]["prompt_tokens"] == prompt, answer
    for template, why in {
        "{{ raise_exception('roles must alternate') }}": "roles must alternate",
        "{{ messages.__class__.__mro__ }}": "unsafe|access|undefined",
        "{{ messages.append(1) }}": "safe|append|callable",
    }.items():
        async with serve(chat_template=template) as client:
            answer = await client.post("/v1/chat/completions", json=asked)
            assert answer.status_code == 400
            assert re.search(why, answer.json()["error"]["message"]), answer.text


@pytest.mark.parametrize("name", ["embedded", "scripted"])
def test_a_chat_template_that_is_no_jinja_is_told_at_once(name: str) -> None:
    tokenizer: object = ByteTokenizer()
    if name == "embedded":
        pytest.importorskip("torch")
        from fastserve.backends.torch import checkpoint, source

        tokenizer = checkpoint.read_tokenizer("embedded", source.folder_for_others("embedded"), False)
    with pytest.raises(ValueError, match="not valid Jinja: line 2: Expected an expression"):
        ChatTemplate(tokenizer, "{{ 1 }}\n{% if %}")


async def test_a_chat_template_of_the_settings(serve: Serve) -> None:
    template = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    async with serve(chat_template=template) as client:
        fields = {"messages": [{"role": "user", "content": "hey"}], "max_tokens": 1}
        usage = (await client.post("/v1/chat/completions", json=fields)).json()["usage"]
        assert usage["prompt_tokens"] == len("<user>hey")


async def test_logprobs(serve: Serve) -> None:
    async with serve() as client:
        fields = {"prompt": "a", "max_tokens": 3, "logprobs": 2}
        choice = (await client.post("/v1/completions", json=fields)).json()["choices"][0]
        found = choice["logprobs"]
        assert "".join(found["tokens"]) == choice["text"] and found["text_offset"] == [0, 1, 2]
        assert len(found["token_logprobs"]) == len(found["top_logprobs"]) == 3
        streamed = chunks((await client.post("/v1/completions", json={**fields, "stream": True})).text)
        assert [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in streamed] == [[0], [1], [2]]
        chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "logprobs": True, "top_logprobs": 1}
        content = (await client.post("/v1/chat/completions", json=chat)).json()["choices"][0]["logprobs"]["content"]
        assert len(content) == 2
        assert content[0]["bytes"] == list(content[0]["token"].encode()) and len(content[0]["top_logprobs"]) == 1


async def test_stop_strings_are_cut_and_counted(serve: Serve) -> None:
    async with serve() as client:
        fields = {"prompt": "a", "max_tokens": 12, "seed": 4}
        text = (await client.post("/v1/completions", json=fields)).json()["choices"][0]["text"]
        stop = text[5:7]
        answer = (await client.post("/v1/completions", json={**fields, "stop": stop})).json()
        at = text.index(stop)
        assert answer["choices"][0]["text"] == text[:at] and answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == at + 2
        told = chunks((await client.post("/v1/completions", json={**fields, "stop": [stop], "stream": True})).text)
        assert len(told) == at + 2, "each token gives an event, also while its text is held back"
        assert "".join(chunk["choices"][0]["text"] for chunk in told) == text[:at]


async def test_stop_after_ends_there(serve: Serve) -> None:
    async with serve() as client:
        answer = (await client.post("/v1/completions", json={"prompt": "a", "max_tokens": 50, "stop_after": 9})).json()
        assert answer["usage"]["completion_tokens"] == 9


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 1}),
        ("suffix", "x"),
        ("echo", True),
        ("n", 129),
        ("temperature", "hot"),
        ("prompt", ""),
        ("stop_after", 0),
    ],
)
async def test_a_refused_field_is_named_in_openais_shape(serve: Serve, field: str, value: object) -> None:
    async with serve() as client:
        response = await client.post("/v1/completions", json={"prompt": "a", field: value})
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"].startswith(field) and error["type"] == "BadRequestError" and error["code"] == 400


async def test_other_refusals(serve: Serve) -> None:
    async with serve() as client:
        for fields, status, words in (
            ({"prompt": "a", "model": "gpt-9"}, 404, "gpt-9"),
            ({"prompt": "abc", "max_tokens": 5000}, 400, "2048"),
            ({"prompt": "a", "best_of": 3}, 400, "best_of"),
            ({"prompt": ["a"] * 100, "n": 2}, 400, "128"),
            ({"prompt": [999]}, 400, "999"),
            ({}, 400, "prompt"),
        ):
            response = await client.post("/v1/completions", json=fields)
            assert response.status_code == status, response.text
            assert words in response.json()["error"]["message"]
        response = await client.post("/v1/completions", content="{", headers={"content-type": "application/json"})
        assert response.status_code == 400 and "error" in response.json()
        image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
        response = await client.post("/v1/chat/completions", json={"messages": [image]})
        assert response.status_code == 400 and "image_url" in response.json()["error"]["message"]


async def test_null_means_not_given(serve: Serve) -> None:
    async with serve() as client:
        nothing = dict.fromkeys(
            (
                "max_tokens",
                "temperature",
                "n",
                "stop",
                "stream",
                "logit_bias",
                "suffix",
                "echo",
                "user",
                "tools",
                "seed",
            )
        )
        response = await client.post("/v1/completions", json={"prompt": "a", **nothing})
        assert response.status_code == 200, response.text


async def test_tokenize_there_and_back(serve: Serve) -> None:
    async with serve() as client:
        found = (await client.post("/tokenize", json={"model": "scripted", "prompt": "grün"})).json()
        assert found["count"] == len(found["tokens"]) == 5 and found["max_model_len"] == 2048
        assert (await client.post("/detokenize", json={"tokens": found["tokens"]})).json() == {"prompt": "grün"}
        assert (await client.post("/detokenize", json={"tokens": [99999]})).status_code == 400


async def test_small_routes(serve: Serve) -> None:
    async with serve() as client:
        assert (await client.get("/ping")).status_code == 200
        assert (await client.get("/load")).json()["server_load"] == 0
        assert set((await client.get("/version")).json()) == {"version"}


CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settings", "body", "params"),
    [
        ({"temperature": 0.5, "max_new_tokens": 3}, CHAT, (None, None, None)),
        ({"temperature": 0.5, "max_new_tokens": 3, "defaults_for": "all"}, CHAT, (0.5, None, 3)),
        ({"top_p": 0.8, "defaults_for": "all"}, {"prompt": "Hi"}, (None, 0.8, 16)),
        ({"top_p": 0.8, "max_new_tokens": 3, "defaults_for": "all"}, {"prompt": "Hi", "top_p": 1.0}, (None, 1.0, 3)),
        ({"max_new_tokens": 3, "defaults_for": "all"}, {**CHAT, "max_tokens": 2}, (None, None, 2)),
    ],
)
async def test_the_servers_defaults_for_these_routes_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, settings: Any, body: Any, params: Any
) -> None:
    """Only with defaults_for=all, only what was set, and never over what a request says."""
    engine = Engine.scripted(max_batch=4)
    said: list[Any] = []
    prepare = engine.prepare
    monkeypatch.setattr(engine, "prepare", lambda prompt, given: said.append(given) or prepare(prompt, given))
    async with serve(engine, **settings) as client:
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        await client.post(path, json=body)
    assert [(given.temperature, given.top_p, given.max_tokens) for given in said] == [params]
