"""Which requests are kept, and which are the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.gateway.cache.canonical import asked, key

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}


def key_of(
    fields: dict[str, Any], path: str = CHAT, model: str = "m", identity: str = "fastserve", scope: str = "a"
) -> bytes:
    found = asked(path, fields)
    assert found is not None
    return key(found, model, identity, scope)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": []}),  # no temperature: the server's own default
        (CHAT, {"messages": [], "temperature": 0.1}),
        (CHAT, {"messages": [], "temperature": False}),
        (CHAT, {"messages": [], "temperature": "0"}),
        (CHAT, {"messages": [], "temperature": 0, "n": 2}),
        (CHAT, {"messages": [], "do_sample": False}),  # no field of OpenAI's
        (CHAT, {"messages": [], "seed": None}),
        (CHAT, None),
        ("/v1/completions", {"prompt": ["a", "b"], "temperature": 0}),
        ("/v1/completions", {"prompt": [[1], [2]], "temperature": 0}),
        ("/v1/completions", {"prompt": "a", "temperature": 0, "best_of": 3}),
        ("/tokenize", {"prompt": "a", "temperature": 0}),
        ("/v1/generate_nobatch", {"prompt": "a", "temperature": 0}),
        ("/jobs", {"prompt": "a", "temperature": 0}),
    ],
)
def test_what_is_not_kept(path: str, fields: dict[str, Any] | None) -> None:
    assert asked(path, fields) is None


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [], "temperature": 0.0}),
        (CHAT, {"messages": [], "seed": 0}),
        (CHAT, {"messages": [], "temperature": 0, "n": 1}),
        ("/generate", {"prompt": "a", "do_sample": False}),
        ("/chat", {"messages": [], "seed": 3, "temperature": 2}),
        ("/v1/completions", {"prompt": [1, 2], "temperature": 0}),
        ("/v1/completions", {"prompt": ["a"], "temperature": 0}),
    ],
)
def test_what_is_kept(path: str, fields: dict[str, Any]) -> None:
    assert asked(path, fields) is not None


SAME: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"user": "somebody"},
    {"metadata": {"run": 1}},
    {"n": 1, "stop": None, "presence_penalty": 0.0, "logprobs": False},
    {"seed": 7, "top_p": 0.5, "top_k": 3},  # greedy
    {"stream": False, "priority": -1, "program": "p", "stream_options": {"include_usage": True}},
]


@pytest.mark.parametrize("more", SAME)
def test_what_changes_no_answer(more: dict[str, Any]) -> None:
    assert key_of({**HELLO, **more}) == key_of(HELLO)


OTHER: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "hello "}]},
    {"messages": [{"role": "system", "content": "hello"}]},
    {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": ""}]},
    {"max_tokens": 5},
    {"stop": ["a"]},
    {"logprobs": True},
    {"frequency_penalty": 1},
    {"stream": True},
    {"new_field_of_a_server": 1},
    {"response_format": {"type": "json_object"}},
    {"ignore_eos": True},
    {"temperature": 1, "seed": 1},
    {"logit_bias": {"5": 1}},
]


def test_what_changes_the_answer() -> None:
    keys = [key_of({**HELLO, **more}) for more in [{}, *OTHER]]
    keys += [key_of({**HELLO, "seed": seed, "temperature": 1}) for seed in (2, 3)]
    keys += [key_of(HELLO, model="n"), key_of(HELLO, identity="vllm"), key_of(HELLO, scope="b")]
    completion = {"prompt": "hello", "temperature": 0}
    keys += [key_of(completion, path) for path in ("/v1/completions", "/generate", "/generate/stream")]
    keys += [key_of({**completion, "logprobs": 0}, "/v1/completions"), key_of(HELLO, "/chat")]
    assert len(set(keys)) == len(keys)


def test_routes_are_the_same_without_the_v1() -> None:
    assert key_of(HELLO, "/chat/completions") == key_of(HELLO)


def test_native_answers_return_metadata() -> None:
    prompt = {"prompt": "a", "temperature": 0}
    assert key_of({**prompt, "metadata": {"a": 1}}, "/generate") != key_of(prompt, "/generate")


def test_other_names_of_a_field() -> None:
    prompt = {"prompt": "a", "temperature": 0}
    found = {
        key_of({**prompt, name: 7}, "/generate") for name in ("max_tokens", "max_new_tokens", "max_completion_tokens")
    }
    assert len(found) == 1
    assert key_of({**prompt, "stop": "x"}, "/generate") == key_of({**prompt, "stop_sequences": ["x"]}, "/generate")
    assert key_of({**prompt, "prompt": ["a"]}, "/v1/completions") == key_of(prompt, "/v1/completions")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.text(max_size=6), values, max_size=4), st.randoms())
def test_the_order_of_fields_is_no_matter(more: dict[str, Any], order: Any) -> None:
    fields = {**{f"x_{name}": value for name, value in more.items()}, **HELLO}
    names = list(fields)
    order.shuffle(names)
    assert key_of({name: fields[name] for name in names}) == key_of(fields)
