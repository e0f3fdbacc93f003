"""Request formats: for each API the JSON body of a request and the parser of its events.

Events that carry tokens are timestamped on arrival; the last of them is the end of the output. Events without tokens (a
chat's role, usage, a native stream's summary) have no timestamp.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import quote

from fastserve.bench.call import CANCELLED, TRUNCATED, UNFINISHED, Call, Reply
from fastserve.bench.sse import Event
from fastserve.sched.job import NEVER
from fastserve.workload.requests import TraceRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """Options of all requests of a run."""

    model: str | None = None
    hide_lengths: bool = False
    """End outputs by `stop_after`, so that max_tokens does not reveal the length. Only our own server supports it."""
    ignore_eos: bool = False
    """Outputs have exactly the requested lengths."""
    own: bool = False
    """The server is ours: program, priority, deadline, SLOs and guess are sent too; other servers refuse them."""
    temperature: float | None = 0.0
    keep_text: bool = False
    token_ids: bool = False
    """Ask for the token ids of outputs (return_token_ids of vLLM, and of ours)."""
    xargs: bool = False
    """The server is vLLM under our Scheduler: guess, client, program, priority and deadline go in vllm_xargs."""
    programs: bool = False
    """Name the program of a request to any server, in a header; ours is told by field in any case."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Additional fields of every body; they override."""


PROGRAM_HEADER = "X-Session-ID"
"""Of OpenCode and llm-d: names a program to servers that know it, ours too, and says nothing to others."""
CALLS = "this_func_call"
"""Continuum's field, which ours knows: the tool that the answer will call."""

LIMITS = {"max_tokens", "max_completion_tokens", "max_new_tokens", "max_length", "stop_after"}
"""Fields that bound an output."""


class Format(ABC):
    """The format of one API."""

    path: ClassVar[str]
    streamed: ClassVar[bool] = True
    ids: ClassVar[bool] = True
    """Prompts may be token ids."""
    limit_name: ClassVar[str] = "max_tokens"

    def __init__(self, options: RequestOptions) -> None:
        self.options = options

    @abstractmethod
    def body(self, call: Call) -> dict[str, Any]:
        """The JSON body of a request."""

    @abstractmethod
    def read(self, event: Event, now: int, reply: Reply) -> None:
        """Parses an event of a stream, or a whole response. ValueError, KeyError or TypeError for an invalid one."""

    def common(self, call: Call) -> dict[str, Any]:
        """Fields of all formats."""
        options, request = self.options, call.request
        hidden = options.hide_lengths and options.ignore_eos
        body: dict[str, Any] = {self.limit_name: request.limit if hidden else request.output}
        if hidden:
            body["stop_after"] = request.output
        elif options.ignore_eos:
            body["ignore_eos"] = True
        if options.model is not None:
            body["model"] = options.model
        if options.temperature is not None:
            body["temperature"] = options.temperature
        if request.client:
            body["user"] = request.client
        if options.token_ids:
            body["return_token_ids"] = True
        if options.own:
            body |= request.scheduling
            if request.guess is not None:
                body["guess"] = request.guess
            if call.tool:
                body["tool"] = call.tool
            if call.calls:
                body[CALLS] = call.calls
        if options.xargs and (told := xargs_of(call.request)):
            body["vllm_xargs"] = told
        return body

    def closed(self, reply: Reply) -> None:
        """The response is complete. "length" before the length that was allowed: the server has cut it.

        Known only where the server counts its tokens, and no field of the user's overrides the limit.
        """
        counted = reply.output_tokens
        if (
            reply.finish == "length"
            and counted is not None
            and counted < reply.asked
            and not LIMITS & {*self.options.extra}
        ):
            reply.finish = TRUNCATED

    def headers(self, call: Call) -> dict[str, str]:
        """Beside those of all requests."""
        program = call.request.program
        if not program or self.options.own or not self.options.programs:
            return {}
        return {PROGRAM_HEADER: quote(program, safe="!#$&'()*+,/:;=?@[]-._~ ")}

    def prompt(self, call: Call) -> str | list[int]:
        if isinstance(call.prompt, list):
            raise TypeError(f"{self.path} takes a prompt, and not the messages of a chat")
        return call.prompt if isinstance(call.prompt, str) else call.prompt.tolist()

    def _token(self, text: str | None, now: int, reply: Reply) -> None:
        reply.stamps.append(now)
        if reply.text is not None and text:
            reply.text.append(text)


class Completions(Format):
    """POST /v1/completions, streamed. Every chunk with a choice counts, also one whose text is empty."""

    path = "/v1/completions"

    def body(self, call: Call) -> dict[str, Any]:
        return {"prompt": self.prompt(call), **self.common(call), **STREAM, **self.options.extra}

    def read(self, event: Event, now: int, reply: Reply) -> None:
        if event.data == "[DONE]":
            reply.finish = reply.finish or "stop"
            return
        chunk = json.loads(event.data)
        if chunk.get("error"):
            reply.fail(error_message(chunk))
            return
        if chunk.get("usage"):
            counted(chunk["usage"], reply)
        if chunk.get("choices"):
            choice = chunk["choices"][0]
            self.choice(choice, now, reply)
            ended(choice.get("finish_reason"), reply)

    def choice(self, choice: dict[str, Any], now: int, reply: Reply) -> None:
        self._token(choice.get("text"), now, reply)
        reply.token_ids += choice.get("token_ids") or ()


class Chat(Completions):
    """POST /v1/chat/completions, streamed. A delta counts if it has a content, empty or not, beside its role."""

    path = "/v1/chat/completions"
    ids = False
    limit_name = "max_completion_tokens"

    def body(self, call: Call) -> dict[str, Any]:
        messages = call.prompt if isinstance(call.prompt, list) else [{"role": "user", "content": call.prompt}]
        return {"messages": messages, **self.common(call), **STREAM, **self.options.extra}

    def choice(self, choice: dict[str, Any], now: int, reply: Reply) -> None:
        delta = choice.get("delta") or {}
        texts = [delta[name] for name in ("content", "reasoning_content", "reasoning") if delta.get(name) is not None]
        if any(texts) or (texts and "role" not in delta) or delta.get("tool_calls"):
            self._token("".join(texts), now, reply)


class Native(Format):
    """POST /generate/stream of our own server."""

    path = "/generate/stream"
    limit_name = "max_new_tokens"

    def body(self, call: Call) -> dict[str, Any]:
        return {"prompt": self.prompt(call), **self.common(call), **self.options.extra}

    def read(self, event: Event, now: int, reply: Reply) -> None:
        chunk = json.loads(event.data)
        if chunk.get("error"):
            reply.fail(error_message(chunk))
        elif chunk.get("is_final"):
            summed(chunk, reply)
        else:
            self._token(chunk.get("text"), now, reply)
            reply.token_ids += chunk.get("token_ids") or ()


class NoBatch(Native):
    """POST /v1/generate_nobatch: the unbatched baseline. Not streamed: the first token arrives with the last."""

    path = "/v1/generate_nobatch"
    streamed = False

    def read(self, event: Event, now: int, reply: Reply) -> None:
        answer = json.loads(event.data)
        reply.streamed = False
        self._token(answer["text"], now, reply)
        summed({"finish_reason": "stop"} | answer, reply)


def xargs_of(request: TraceRequest) -> dict[str, str | int | float]:
    """What our Scheduler inside vLLM is told of a request; slo: its deadline, s after it came."""
    span = request.deadline - request.arrival
    told = {"guess": request.guess, "client": request.client or None, "program": request.program or None,
            "priority": request.priority or None,
            "slo": None if request.deadline == NEVER else span / 1e9}  # fmt: skip
    return {name: value for name, value in told.items() if value is not None}


STREAM = {"stream": True, "stream_options": {"include_usage": True}}

FORMATS: dict[str, type[Format]] = {
    "openai": Completions,
    "openai-chat": Chat,
    "native": Native,
    "nobatch": NoBatch,
}
"""--api -> format."""


def error_message(body: Any) -> str:
    """The message of an error body in OpenAI's or FastAPI's format; else the body itself, truncated."""
    inner = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
    if isinstance(inner, dict) and isinstance(inner.get("message"), str):
        return str(inner["message"])
    return inner if isinstance(inner, str) else json.dumps(inner)[:500]


def counted(usage: dict[str, Any], reply: Reply) -> None:
    """Takes token counts from a usage object; the latest one counts."""
    if usage.get("prompt_tokens") is not None:
        reply.prompt_tokens = int(usage["prompt_tokens"])
    if usage.get("completion_tokens") is not None:
        reply.output_tokens = int(usage["completion_tokens"])
    details = usage.get("prompt_tokens_details")
    if isinstance(details, dict) and details.get("cached_tokens") is not None:
        reply.cached_tokens = int(details["cached_tokens"])


def summed(answer: dict[str, Any], reply: Reply) -> None:
    """Takes counts and finish reason from a native response."""
    counted(answer.get("usage") or {}, reply)
    if answer.get("tokens_generated") is not None:
        reply.output_tokens = int(answer["tokens_generated"])
    if answer.get("preemption_count") is not None:
        reply.preemptions = int(answer["preemption_count"])
    if answer.get("cached_tokens") is not None:
        reply.cached_tokens = int(answer["cached_tokens"])
    if answer.get("held_s") is not None:
        reply.held_s = float(answer["held_s"])
    ended(answer["finish_reason"], reply)


def ended(reason: str | None, reply: Reply) -> None:
    """Maps any server's finish reason to those of fastserve.metrics.records."""
    if reason is None or reply.error:
        return
    if reason in ("cancelled", "abort"):
        reply.fail(f"the server ended it: {reason}", CANCELLED)
    elif reason in ("timeout", "error"):
        reply.fail(f"the server ended it: {reason}", UNFINISHED)
    else:
        reply.finish = reason if reason in ("length", TRUNCATED) else "stop"
