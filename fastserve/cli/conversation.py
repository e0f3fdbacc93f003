"""A conversation and who answers it: an engine in this process, or a server with OpenAI's chat route."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from fastserve.bench.api_formats import error_message
from fastserve.bench.sse import EventParser
from fastserve.bench.target import TargetClient, TargetError

if TYPE_CHECKING:
    from fastserve.engine import Engine, SamplingParams

Message = dict[str, str]
"""role: system, user or assistant; content."""

Answer = Generator[str, None, str]
"""The pieces of a text as they come; its value is why it ended: stop, length, ... Closed early, it stops the work."""

WAIT_S = 600.0
"""s without a byte after which a server is given up."""

CHUNK = 1 << 16


class AnswerError(Exception):
    """There is no answer, or no more of it; the message says why. The conversation may go on."""


class Talker(Protocol):
    name: str
    """Of the model."""

    def answer(self, messages: Sequence[Message]) -> Answer:
        """Raises AnswerError, also while it is iterated."""
        ...


def chat_ids(engine: Engine, messages: Sequence[Message]) -> list[int]:
    """The prompt that the model's chat template makes of the messages. ValueError where it has none or refuses them."""
    tokenizer: Any = engine.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"model {engine.model_name} has no chat template")
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise anything for messages that it does not support
        raise ValueError(f"the chat template rejects these messages: {error}") from error
    return list(tokenizer.encode(text, add_special_tokens=False))


class EngineTalker:
    """An engine in this process. adapter: that answers; empty: the model without any."""

    def __init__(self, engine: Engine, params: SamplingParams, adapter: str = "") -> None:
        self.engine = engine
        self.params = params
        self.adapter = adapter
        self.name = f"{engine.model_name} with {adapter}" if adapter else engine.model_name

    def answer(self, messages: Sequence[Message]) -> Answer:
        try:
            ids = chat_ids(self.engine, messages)
            handle = self.engine.submit(ids, self.params, program="chat", adapter=self.adapter)
        except (ValueError, RuntimeError) as error:
            raise AnswerError(str(error)) from error
        try:
            for piece in handle:
                yield piece.text
        finally:  # Ctrl-C comes between two pieces, or while the next one is waited for
            handle.cancel()
        output = handle.result()
        if output.error is not None:
            raise AnswerError(output.error)
        return output.finish_reason


class ServerTalker:
    """A running server. url: with or without /v1. fields: of its request bodies, beside model and messages.

    Raises TargetError where none answers, or it lists no model and none is named.
    """

    def __init__(self, url: str, model: str | None, key: str | None, fields: Mapping[str, Any]) -> None:
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        client = TargetClient(url.rstrip("/").removesuffix("/v1"), self.headers)
        parts = urlsplit(client.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.connect: Callable[[], HTTPConnection] = lambda: kind(parts.netloc, timeout=WAIT_S)
        self.path = f"{parts.path}/v1/chat/completions"
        self.url = client.url
        self.fields = dict(fields)
        listed = client.probe().models
        if model is None and not listed:
            raise TargetError(f"{self.url} lists no model; name one with --model")
        self.name = model or listed[0]

    def answer(self, messages: Sequence[Message]) -> Answer:
        body = {"model": self.name, "messages": list(messages), "stream": True, **self.fields}
        connection = self.connect()
        try:
            headers = {"Content-Type": "application/json", **self.headers}
            connection.request("POST", self.path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            if response.status != 200:
                raise AnswerError(f"HTTP {response.status}, {_refused(response)}")
            return (yield from _pieces(response))
        except (OSError, HTTPException) as error:
            raise AnswerError(f"no connection to {self.url} ({error or type(error).__name__})") from error
        finally:
            connection.close()  # the server cancels what nobody reads


def _refused(response: HTTPResponse) -> str:
    text = response.read()
    try:
        return error_message(json.loads(text))
    except ValueError:
        return text[:200].decode(errors="replace") or response.reason


def _pieces(response: HTTPResponse) -> Answer:
    parser = EventParser()
    reason = ""
    while chunk := response.read1(CHUNK):
        for event in parser.feed(chunk):
            if event.data == "[DONE]":
                return reason
            try:
                said = json.loads(event.data)
            except ValueError:
                raise AnswerError(f"an event that is not JSON: {event.data[:200]}") from None
            if said.get("error"):
                raise AnswerError(error_message(said))
            for choice in said.get("choices") or ():
                reason = choice.get("finish_reason") or reason
                text = (choice.get("delta") or {}).get("content")
                if text:
                    yield text
    if not reason:
        raise AnswerError("the server ended the stream before the answer's end")
    return reason
