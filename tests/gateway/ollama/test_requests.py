"""Requests of Ollama's API as OpenAI's: pure functions."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")

from fastserve.gateway.ollama.requests import CHAT, COMPLETIONS, chat, generate
from fastserve.ollama_api import same_model, seconds_of
from fastserve.server.api.errors import ApiError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("5m", 300), ("1h30m", 5400), ("-1", math.inf), (-1, math.inf), ("-5m", math.inf), (0, 0), ("0", 0), ("0s", 0),
     (90, 90), ("1.5h", 5400), ("300ms", 0.3), (2.5, 2.5)],
)  # fmt: skip
def test_times_to_keep_a_model(value: float | str, seconds: float) -> None:
    assert seconds_of(value) == seconds


@pytest.mark.parametrize("value", ["", "five", "5 minutes", "5m3", "m", "nan", "5M", "9" * 5000 + "h"])
def test_what_is_no_time(value: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        seconds_of(value)


def test_a_name_with_and_without_its_tag() -> None:
    assert same_model("llama3") == ("llama3", "llama3:latest")
    assert same_model("llama3:latest") == ("llama3:latest", "llama3")
    assert same_model("llama3:8b")[0] == "llama3:8b"


def test_options_become_fields() -> None:
    options = {"num_predict": 7, "temperature": 0, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "seed": 4, "stop": ["a"],
               "repeat_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3, "num_ctx": 2048,
               "num_gpu": 1, "mirostat": 0, "tfs_z": 1.0}  # fmt: skip
    asked = chat({"model": "m", "messages": [{"role": "user", "content": "hi"}], "options": options})
    assert asked.fields == {
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True,
        "stream_options": {"include_usage": True}, "max_tokens": 7, "temperature": 0, "top_k": 3, "top_p": 0.5,
        "min_p": 0.1, "seed": 4, "stop": ["a"], "repetition_penalty": 1.1, "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
    }  # fmt: skip
    for endless in (-1, -2):
        assert "max_tokens" not in generate({"model": "m", "prompt": "x", "options": {"num_predict": endless}}).fields
    assert chat({"model": "m", "options": {"mirostat": 2}}).fields["mirostat"] == 2


def test_a_prompt_goes_by_the_template_of_its_model_unless_it_is_raw() -> None:
    asked = generate({"model": "m", "prompt": "why?", "system": "be brief", "stream": False})
    said = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    assert (asked.path, asked.fields, asked.stream) == (CHAT, {"model": "m", "messages": said}, False)
    asked = generate({"model": "m", "prompt": "why?", "raw": True, "stream": False})
    assert (asked.path, asked.fields) == (COMPLETIONS, {"model": "m", "prompt": "why?"})
    asked = generate({"model": "m", "prompt": "def f(", "suffix": "return", "stream": False})
    assert (asked.path, asked.fields) == (COMPLETIONS, {"model": "m", "prompt": "def f(", "suffix": "return"})


def test_no_prompt_loads_or_unloads() -> None:
    for asked in (
        generate({"model": "m"}),
        chat({"model": "m", "messages": []}),
        generate({"model": "m", "prompt": ""}),
    ):
        assert asked.empty and not asked.unloads and asked.keep is None
    assert generate({"model": "m", "keep_alive": 0}).unloads
    assert not generate({"model": "m", "prompt": "x", "keep_alive": 0}).unloads
    assert generate({"model": "m", "prompt": "x", "keep_alive": "5m"}).keep == 300


def test_results_of_tools_find_their_calls() -> None:
    calls = [{"function": {"name": "add", "arguments": {"a": 1}}}, {"function": {"name": "mul", "arguments": {}}}]
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "8", "tool_name": "mul"},
        {"role": "tool", "content": "3"},
    ]
    tools = [{"type": "function", "function": {"name": "add"}}]
    fields = chat({"model": "m", "messages": messages, "tools": tools}).fields
    asked, multiplied, added = fields["messages"][1:]
    assert fields["tools"] == tools
    assert [call["function"]["arguments"] for call in asked["tool_calls"]] == ['{"a":1}', "{}"]
    assert multiplied["tool_call_id"] == asked["tool_calls"][1]["id"] and multiplied["name"] == "mul"
    assert added["tool_call_id"] == asked["tool_calls"][0]["id"]


def test_pictures_forms_and_thoughts_are_passed_on() -> None:
    asked = chat({"model": "m", "messages": [{"role": "user", "content": "what?", "images": ["/9j/4AAQ"]}]})
    assert asked.fields["messages"][0]["content"] == [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ"}},
    ]
    assert chat({"model": "m", "format": "json"}).fields["response_format"] == {"type": "json_object"}
    schema = {"type": "object"}
    assert chat({"model": "m", "format": schema}).fields["response_format"]["json_schema"]["schema"] == schema
    assert chat({"model": "m", "think": False}).fields["chat_template_kwargs"] == {"enable_thinking": False}
    assert chat({"model": "m", "think": "low"}).fields["reasoning_effort"] == "low"
    assert chat({"model": "m", "session_id": "s", "other": 1}).fields.get("session_id") == "s"
    assert "other" not in chat({"model": "m", "other": 1}).fields


@pytest.mark.parametrize(
    ("make", "body", "says"),
    [
        (generate, [], "JSON object"),
        (generate, {"prompt": "x"}, "model: Field required"),
        (chat, {"model": ""}, "model"),
        (chat, {"model": "m", "messages": "hi"}, "messages"),
        (chat, {"model": "m", "messages": [{"content": "hi"}]}, r"messages\.0\.role"),
        (chat, {"model": "m", "keep_alive": "soon"}, "keep_alive: 'soon' is no time"),
        (chat, {"model": "m", "format": "xml"}, "format: 'xml'"),
        (generate, {"model": "m", "prompt": "x", "template": "{{ .Prompt }}"}, "template"),
        (generate, {"model": "m", "prompt": "x", "context": [1, 2]}, "context"),
        (generate, {"model": "m", "prompt": "x", "raw": True, "system": "s"}, "system: a raw prompt takes none"),
        (chat, {"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"id": 1}]}]}, "tool_calls"),
    ],
)
def test_what_is_refused(make: Any, body: Any, says: str) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        make(body)
    assert refused.value.status == 400
