"""Requests of Ollama's API as requests of OpenAI's: what goes to whichever upstream has the model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastserve.ollama_api import OPTIONS, seconds_of
from fastserve.server.api.errors import ApiError, clipped

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

PASSED: Final = ("session_id", "user", "program", "tool", "final", "priority", "guess", "stop_after")
"""Fields that are not Ollama's, and go on as they are: conversations and what the scheduler may be told."""

SAMPLERS: Final = {"mirostat": 0, "tfs_z": 1, "typical_p": 1}
"""Options that go on by their own names, unless they do nothing: the upstream refuses those that it has not."""

PICTURES: Final = {"iVBOR": "png", "/9j/": "jpeg", "R0lGO": "gif", "UklGR": "webp"}
"""Beginnings of files in base64 -> the kind of picture."""


class Message(BaseModel):
    model_config = ConfigDict(extra="ignore")

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_name: str | None = None
    name: str | None = None


class Body(BaseModel):
    """Fields of both routes; null means not given."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str = Field(min_length=1, max_length=1024)
    stream: bool | None = None
    options: dict[str, Any] | None = None
    format: str | dict[str, Any] | None = None
    keep_alive: float | str | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class GenerateBody(Body):
    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[str] | None = None


class ChatBody(Body):
    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


Model = TypeVar("Model", bound=Body)


class Asked(NamedTuple):
    """One request. path, fields: of OpenAI's API; keep: s to keep the model, None: not said. empty: it asks for no text
    but that the model be loaded, or unloaded where keep is 0.
    """

    model: str
    path: str
    fields: dict[str, Any]
    stream: bool
    chat: bool
    keep: float | None
    empty: bool

    @property
    def unloads(self) -> bool:
        return self.empty and self.keep == 0


def generate(given: Any) -> Asked:
    """Of POST /api/generate. Raises ApiError 400."""
    body = _checked(given, GenerateBody)
    if body.template:
        raise ApiError(400, "template: the upstream has its model's own; send a whole prompt with raw instead")
    if body.context:
        raise ApiError(400, "context: token ids of earlier answers are not kept here; use /api/chat with its messages")
    prompt = body.prompt or ""
    if body.raw or body.suffix:
        if body.system or body.images:
            name = "system" if body.system else "images"
            raise ApiError(400, f"{name}: a raw prompt takes none; write it into the prompt, or leave raw out")
        fields: dict[str, Any] = {"prompt": prompt} | ({"suffix": body.suffix} if body.suffix else {})
        fields |= {"logprobs": body.top_logprobs or 0} if body.logprobs else {}
        return _asked(body, COMPLETIONS, fields, chat=False, empty=not prompt)
    messages = [{"role": "system", "content": body.system}] if body.system else []
    fields = {"messages": [*messages, {"role": "user", "content": _content(prompt, body.images)}]}
    return _asked(body, CHAT, fields | _logprobs(body), chat=False, empty=not prompt and not body.images)


def chat(given: Any) -> Asked:
    """Of POST /api/chat. Raises ApiError 400."""
    body = _checked(given, ChatBody)
    fields: dict[str, Any] = {"messages": list(_messages(body.messages or ()))}
    if body.tools:
        fields["tools"] = body.tools
    return _asked(body, CHAT, fields | _logprobs(body), chat=True, empty=not body.messages)


def _asked(body: Body, path: str, fields: dict[str, Any], *, chat: bool, empty: bool) -> Asked:
    extra = body.model_extra or {}
    fields = {"model": body.model} | fields | _options(body.options or {}) | _form(body.format) | _thinking(body.think)
    fields |= {name: extra[name] for name in PASSED if extra.get(name) is not None}
    stream = body.stream is not False
    if stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return Asked(body.model, path, fields, stream, chat, keep_of(body.keep_alive), empty)


def keep_of(value: float | str | None) -> float | None:
    """Raises ApiError 400."""
    if value is None or value == "":
        return None
    try:
        return seconds_of(value)
    except ValueError as error:
        raise ApiError(400, f"keep_alive: {error}") from None


def _checked(given: Any, model: type[Model]) -> Model:
    if not isinstance(given, dict):
        raise ApiError(400, "the body has to be a JSON object")
    try:
        return model.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise ApiError(400, clipped(f"{where}: {fault['msg']}")) from None


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that say how a model is loaded (num_ctx, num_gpu, num_thread) are the upstream's own matter, and ignored
    as Ollama ignores those that it does not know.
    """
    found = {ours: options[its] for ours, its in OPTIONS.items() if options.get(its) is not None}
    most = found.get("max_tokens")
    if isinstance(most, int) and most < 0:  # -1: without a limit, -2: what the context leaves
        del found["max_tokens"]
    if found.get("stop") == []:
        del found["stop"]
    for name, neutral in SAMPLERS.items():
        if options.get(name) not in (None, neutral):
            found[name] = options[name]
    return found


def _form(form: str | dict[str, Any] | None) -> dict[str, Any]:
    if not form:
        return {}
    if form == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(form, str):
        raise ApiError(400, f"format: {form[:40]!r} is neither json nor a JSON schema")
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}}


def _thinking(think: bool | str | None) -> dict[str, Any]:
    if think is None:
        return {}
    if isinstance(think, str):
        return {"reasoning_effort": think}
    return {"chat_template_kwargs": {"enable_thinking": think}}


def _logprobs(body: Body) -> dict[str, Any]:
    if not body.logprobs:
        return {}
    return {"logprobs": True} | ({"top_logprobs": body.top_logprobs} if body.top_logprobs else {})


def _content(text: str, images: Iterable[str] | None) -> str | list[dict[str, Any]]:
    if not images:
        return text
    pictures = [
        {"type": "image_url", "image_url": {"url": f"data:image/{_kind(data)};base64,{data}"}} for data in images
    ]
    return [{"type": "text", "text": text}, *pictures]


def _kind(data: str) -> str:
    return next((kind for begins, kind in PICTURES.items() if data.startswith(begins)), "png")


def _messages(messages: Iterable[Message]) -> Iterable[dict[str, Any]]:
    """OpenAI's API binds the result of a tool to its call by an id, Ollama's by the tool's name or the order."""
    numbers = count()
    open_calls: list[tuple[str, str]] = []  # id and tool of calls whose result has not come
    for message in messages:
        made: dict[str, Any] = {"role": message.role, "content": _content(message.content or "", message.images)}
        if message.thinking:
            made["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = [_call(call, f"call_{next(numbers)}") for call in message.tool_calls]
            open_calls = [(call["id"], call["function"].get("name", "")) for call in calls]
            made["tool_calls"] = calls
        if message.role == "tool":
            tool = message.tool_name or message.name
            at = next((at for at, (_, name) in enumerate(open_calls) if tool in (None, name)), None)
            made["tool_call_id"] = f"call_{next(numbers)}" if at is None else open_calls.pop(at)[0]
            made |= {"name": tool} if tool else {}
        yield made


def _call(call: Mapping[str, Any], id: str) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict):
        raise ApiError(400, "messages: each of tool_calls has a function with a name and arguments")
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, separators=(",", ":"))
    return {"id": id, "type": "function", "function": {**function, "arguments": text}}


def is_always(keep: float | None) -> bool:
    """Whether the model is to stay until somebody unloads it."""
    return keep is not None and math.isinf(keep)
