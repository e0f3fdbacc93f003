"""What reaches the chat template: whole messages, its variables, tools; what is refused as it would be lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the web extra")
pytest.importorskip("transformers", reason="renders templates")

from fastserve.engine.byte_tokenizer import ByteTokenizer
from fastserve.server.api.chat_template import ChatTemplate, Rendering, developers_first
from fastserve.server.api.errors import ApiError
from tests.server.conftest import Serve

pytestmark = pytest.mark.anyio

TOLD = (
    "{%- for m in messages %}"
    "{%- if m.role == 'user' %}{{- '<U>' + m.content + '\n' }}"
    "{%- elif m.role == 'assistant' %}{{- '<A>' + (m.content or '') }}"
    "{%- for c in m.tool_calls or [] %}{{- '<call>' + c.function.name + (c.function.arguments|tojson) }}{%- endfor %}"
    "{{- '\n' }}"
    "{%- elif m.role == 'tool' %}{{- '<T ' + m.tool_call_id + '>' + m.content + '\n' }}"
    "{%- elif m.role == 'system' and loop.first %}{{- '<S>' + m.content + '\n' }}"
    "{%- ELSE %}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<A>' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}{%- endif %}"
)
STRICT = TOLD.replace("{%- ELSE %}", "{%- else %}{{- raise_exception('Unexpected message role.') }}")
PERMISSIVE = TOLD.replace("{%- ELSE %}", "")
PARTS = (
    "{%- for m in messages %}<{{ m.role }}>{%- for part in m['content'] %}[{{ part.text }}]{%- endfor %}{%- endfor %}"
)
USER = {"role": "user", "content": "Hi"}


def rendered(template: str, messages: list[dict[str, Any]], **how: Any) -> str:
    return ChatTemplate(ByteTokenizer(), template).prompt(messages, Rendering(**how))[0]


@pytest.fixture
def ask(serve: Serve) -> Any:
    """(status, prompt tokens or error) of a chat with this template; a token is a byte."""

    async def ask(template: str | None, *messages: dict[str, Any], **fields: Any) -> tuple[int, Any]:
        async with serve(chat_template=template) as client:
            body = {"messages": messages, "max_tokens": 1, **fields}
            answer = await client.post("/v1/chat/completions", json=body)
            told = answer.json()
            return answer.status_code, told["usage"]["prompt_tokens"] if answer.status_code == 200 else told["error"]

    return ask


async def test_variables_reach_the_template(ask: Any) -> None:
    plain, thoughtless = len("<U>Hi\n<A>"), len("<U>Hi\n<A><think></think>")
    assert await ask(STRICT, USER) == (200, plain)
    assert await ask(STRICT, USER, chat_template_kwargs={"enable_thinking": False}) == (200, thoughtless)
    assert await ask(STRICT, USER, chat_template_kwargs={"enable_thinking": True, "other": [1]}) == (200, plain)
    assert await ask(STRICT, USER, chat_template_kwargs=None) == (200, plain)
    assert await ask(STRICT, USER, reasoning_effort="none") == (200, thoughtless)
    assert await ask(STRICT, USER, enable_thinking=False) == (200, thoughtless)
    assert await ask("{{ reasoning_effort }}", USER, reasoning_effort="high") == (200, 4)
    for name in ("messages", "tokenize", "chat_template", "add_generation_prompt"):
        status, error = await ask(STRICT, USER, chat_template_kwargs={name: 1})
        assert status == 400 and name in error["message"] and error["param"] == "chat_template_kwargs"


async def test_a_history_of_tools_reaches_the_template(ask: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"city": "Paris"}'}}
    calls = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "12"}]}
    told = '<U>Hi\n<A><call>f{"city": "Paris"}\n<T c1>12\n<A>'
    assert await ask(STRICT, USER, calls, result) == (200, len(told))
    status, error = await ask(None, USER, calls, result)
    assert status == 400 and error["param"] == "messages.1.tool_calls", "the plain template has no place for them"
    status, error = await ask("{% for m in messages %}{{ m.content }}{% endfor %}", USER, calls)
    assert status == 400 and "messages.1.tool_calls" in error["message"] and "leave it out" in error["message"]
    status, error = await ask(None, USER, {"role": "assistant", "audio": {"id": "a"}})
    assert status == 400 and error["param"] == "messages.1.audio"
    assert await ask(None, {"role": "assistant", "refusal": "No"}) == (200, len("assistant: No\nassistant:"))
    nothing = {"role": "assistant", "content": "ok", "tool_calls": [], "refusal": None, "audio": None}
    assert await ask(None, USER, nothing) == (200, len("user: Hi\nassistant: ok\nassistant:"))


def test_all_fields_of_a_message_reach_the_template() -> None:
    message = {"role": "assistant", "content": "x", "name": "Ann", "reasoning_content": "hm", "weight": 3}
    template = "{{ messages[0].name }} {{ messages[0].reasoning_content }} {{ messages[0].weight }}"
    assert rendered(template, [message]) == "Ann hm 3"


def test_tools_and_documents_reach_the_template() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert rendered("{{ tools|tojson }}", [USER], tools=tools) == json.dumps(tools)
    assert rendered("{% if tools %}x{% else %}none{% endif %}", [USER], tools=[]) == "none"
    assert rendered("{{ documents[0].text }}", [USER], documents=[{"text": "d"}]) == "d"
    with pytest.raises(ApiError, match="no place for them") as caught:
        rendered("{{ messages[0].content }}", [USER], documents=[{"text": "d"}])
    assert caught.value.param == "documents"


@pytest.mark.parametrize("template", [STRICT, PERMISSIVE])
async def test_a_developer_is_the_system(ask: Any, template: str) -> None:
    developer = {"role": "developer", "content": "Answer in rhymes"}
    assert await ask(template, developer, USER) == (200, len("<S>Answer in rhymes\n<U>Hi\n<A>"))
    assert await ask(template, USER, developer) == (200, len("<S>Answer in rhymes\n<U>Hi\n<A>"))
    system = {"role": "system", "content": "Be brief"}
    both = len("<S>Be brief\nAnswer in rhymes\n<U>Hi\n<A>")
    assert await ask(template, system, developer, USER) == (200, both)
    assert await ask(template, system, USER, developer) == (200, both)
    knows = "{% for m in messages %}{% if m.role == 'developer' %}D{{ m.content }}{% endif %}{% endfor %}"
    assert await ask(knows, developer, USER) == (200, len("DAnswer in rhymes"))
    assert await ask(None, developer, USER) == (200, len("developer: Answer in rhymes\nuser: Hi\nassistant:"))


def test_developers_join_in_order() -> None:
    told = [{"role": role, "content": role[0] + str(i)} for i, role in enumerate(
        ["developer", "system", "user", "developer", "assistant", "system"])]  # fmt: skip
    found = developers_first(told)
    assert [message["content"] for message in found] == ["d0\ns1\nd3", "u2", "a4", "s5"]
    assert found[0]["role"] == "system" and found[-1]["role"] == "system"
    assert developers_first([USER]) == [USER]


async def test_a_role_that_the_template_passes_over_is_refused(ask: Any) -> None:
    critic = {"role": "critic", "content": "No!"}
    for template in (STRICT, PERMISSIVE):
        status, error = await ask(template, USER, critic)
        assert status == 400, template
    assert error["param"] == "messages.1.role" and "'critic'" in error["message"]
    assert await ask("{% for m in messages %}{{ m.role + m.content }}{% endfor %}", critic) == (200, len("criticNo!"))


async def test_parts_are_joined_by_a_newline(ask: Any) -> None:
    parts = [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}, "you"]
    message = {"role": "user", "content": parts}
    assert await ask(STRICT, message) == (200, len("<U>Hi\nthere\nyou\n<A>"))
    assert await ask(None, message) == (200, len("user: Hi\nthere\nyou\nassistant:"))
    assert await ask(PARTS, message) == (200, len("<user>[Hi][there][you]"))
    assert await ask(PARTS, USER) == (200, len("<user>[Hi]")), "a template that goes through parts gets parts"
    either = "{% if m.content is string %}s{% else %}{% for part in m.content %}p{% endfor %}{% endif %}"
    either = f"{{% set m = messages[0] %}}{either}"
    assert (await ask(either, message))[1] == 3 and (await ask(either, USER))[1] == 1


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url", "tool_use"])
async def test_a_part_that_is_no_text_is_named(ask: Any, kind: str) -> None:
    status, error = await ask(STRICT, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": kind}]})
    assert status == 400 and kind in error["message"] and error["param"].startswith("messages.0.content")


async def test_the_final_message_is_continued(ask: Any) -> None:
    begun = {"role": "assistant", "content": "The"}
    go_on: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}
    assert await ask(STRICT, USER, begun, **go_on) == (200, len("<U>Hi\n<A>The"))
    assert await ask(STRICT, USER, begun, continue_final_message=True) == (200, len("<U>Hi\n<A>The"))
    assert await ask(None, USER, begun, **go_on) == (200, len("user: Hi\nassistant: The"))
    assert await ask(STRICT, USER, begun, add_generation_prompt=False) == (200, len("<U>Hi\n<A>The\n"))
    assert await ask(None, USER, begun, add_generation_prompt=False) == (200, len("user: Hi\nassistant: The\n"))
    status, error = await ask(STRICT, USER, begun, continue_final_message=True, add_generation_prompt=True)
    assert status == 400 and "continue_final_message and add_generation_prompt" in error["message"]


async def test_tokenize_takes_messages_too(serve: Serve) -> None:
    async with serve(chat_template=STRICT) as client:
        body = {"messages": [USER], "chat_template_kwargs": {"enable_thinking": False}}
        found = (await client.post("/tokenize", json=body)).json()
        assert bytes(found["tokens"]).decode() == "<U>Hi\n<A><think></think>"
        begun = {"messages": [USER, {"role": "assistant", "content": "The"}], "continue_final_message": True}
        found = (await client.post("/tokenize", json=begun)).json()
        assert bytes(found["tokens"]).decode() == "<U>Hi\n<A>The"
        for wrong in ({}, {"prompt": "a", "messages": [USER]}):
            assert "prompt or messages" in (await client.post("/tokenize", json=wrong)).text


async def test_surrogates_in_what_reaches_the_template_are_told(serve: Serve) -> None:
    async with serve(chat_template="{{ messages|tojson }}{{ word }}") as client:
        for more in ('"name":"\\udc00","content":"a"}]', '"content":"a"}],"chat_template_kwargs":{"word":"\\ud83d"}'):
            body = '{"messages":[{"role":"user",' + more + ',"max_tokens":1}'
            headers = {"Content-Type": "application/json"}
            answer = await client.post("/v1/chat/completions", content=body, headers=headers)
            assert answer.status_code == 400 and "lone surrogate" in answer.json()["error"]["message"], answer.text
