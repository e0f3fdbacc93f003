"""The messages of a chat in requests of OpenAI's routes, and how they are to become a prompt."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fastserve.server.api.chat_template import Rendering
from fastserve.server.api.fields import MAX_NAME, FirstFault, Text, expecting, lone_surrogate

TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
"""Type of a part of a content that is text -> the field that has it."""


class Part(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: str

    @model_validator(mode="after")
    def _text_only(self) -> Part:
        if self.type not in TEXTS:
            raise ValueError(f"content of type {self.type[:64]} is not supported by this server; send text")
        text = self.text
        if not isinstance(text, str):
            raise ValueError(f"a part of type {self.type} has its text in {TEXTS[self.type]}")
        if (fault := lone_surrogate(text)) is not None:
            raise ValueError(fault)
        return self

    @property
    def text(self) -> Any:
        return (self.model_extra or {}).get(TEXTS[self.type])


Parts = Annotated[list[Text | Part], FirstFault()]


class ChatMessage(BaseModel):
    """Other fields, as name and tool_call_id, reach the chat template as they are."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    role: Text
    content: Annotated[Text | Parts | None, expecting("text, or a list of parts with a type")] = None
    tool_calls: Annotated[list[dict[str, Any]], FirstFault()] | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None

    def to_template(self) -> dict[str, Any]:
        """As templates take it: without what is null, arguments of tool calls as objects, thoughts under both names."""
        content: Any = self.content
        if isinstance(content, list):
            texts = [part if isinstance(part, str) else part.text for part in content]
            content = [{"type": "text", "text": text} for text in texts]
        message = {name: value for name, value in (self.model_extra or {}).items() if value not in (None, [], {})}
        if content is None:  # a model that refused has said it there
            content = message.pop("refusal", None)
        message |= {"role": self.role, "content": content}
        if self.tool_calls:
            message["tool_calls"] = [_call(call) for call in self.tool_calls]
        thoughts = self.reasoning_content or self.reasoning
        if thoughts:
            message |= {"reasoning_content": thoughts, "reasoning": thoughts}
        return message


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's clients send the arguments as JSON text, templates take the object; what is no JSON stays text."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


Messages = Annotated[list[ChatMessage], Field(min_length=1), FirstFault()]


def result_of(messages: list[ChatMessage]) -> str:
    """The tool whose result is the last of these messages; empty where it is none, or where none is named."""
    last = messages[-1]
    more = last.model_extra or {}
    if last.role not in ("tool", "function"):
        return ""
    name, asked = more.get("name"), more.get("tool_call_id")
    if name is None and asked is not None:
        calls = [call for message in messages for call in message.tool_calls or () if call.get("id") == asked]
        function = calls[-1].get("function") if calls else None
        name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and len(name) <= MAX_NAME else ""


class Conversation(BaseModel):
    """Fields beside the messages of a chat. Null means not given."""

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Text | None = None
    enable_thinking: bool | None = None
    tools: Annotated[list[dict[str, Any]], FirstFault()] | None = None
    documents: Annotated[list[dict[str, Any]], FirstFault()] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Conversation:
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError("continue_final_message and add_generation_prompt contradict each other: set one to false")
        return self

    @property
    def rendering(self) -> Rendering:
        """How the messages become a prompt."""
        more = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort is not None:
            more.setdefault("reasoning_effort", self.reasoning_effort)
            if self.reasoning_effort == "none":
                more.setdefault("enable_thinking", False)
        if self.enable_thinking is not None:
            more.setdefault("enable_thinking", self.enable_thinking)
        continues = bool(self.continue_final_message)
        begins = not continues if self.add_generation_prompt is None else self.add_generation_prompt
        return Rendering(begins, continues, self.tools, self.documents, more)
