"""Chat messages to a prompt: the template from the settings, else the tokenizer's, else `role: content` lines.

A template gets the whole of each message. What it has no place for is refused, not lost.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from fastserve.importing import extra
from fastserve.server.api.errors import ApiError
from fastserve.server.config import files

log = logging.getLogger("fastserve.server")

Message = dict[str, Any]
Messages = Sequence[Message]

NEEDED = ("tool_calls", "function_call", "audio")
"""Fields that change what a message says: refused where the template does not mention them. Others are optional."""

USUAL = frozenset(("system", "developer", "user", "assistant", "tool"))
"""Roles that a template is taken to know."""

RESERVED = frozenset(
    ("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt",
     "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
     "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens", "self")
)  # fmt: skip
"""Names that chat_template_kwargs may not have: fields of the request, or transformers' own."""


class Rendering(NamedTuple):
    """How the messages become a prompt. more: variables of the template, as chat_template_kwargs."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    more: Mapping[str, Any] = {}


ANSWER = Rendering()
"""An answer to the messages, which have no tools."""


class ChatTemplate:
    """override: a Jinja template, or the path of one. Raises ValueError for one that cannot be read or parsed.

    Templates are rendered by transformers in any case: in its sandbox, with what it gives them (strftime_now,
    raise_exception, {% generation %}, a tojson that escapes nothing).
    """

    def __init__(self, tokenizer: Any, override: str | None) -> None:
        self.tokenizer = tokenizer
        self.override = None if override is None else files.template(override)
        self.warned = False
        if self.override is not None and tokenizer is not None:
            _check(tokenizer, self.override)

    def prompt(self, messages: Messages, how: Rendering = ANSWER) -> tuple[str, bool]:
        """(text, whether the tokenizer may add its special tokens to it). Raises ApiError 400.

        messages: role and content (text, or text parts), and any other fields.
        """
        if self.tokenizer is None:
            raise ApiError(400, "this model has no tokenizer: send token ids as the prompt of /v1/completions")
        taken = sorted(RESERVED.intersection(how.more))
        if taken:
            what = f"chat_template_kwargs: {', '.join(taken)} cannot be given here; leave it out"
            raise ApiError(400, what, param="chat_template_kwargs")
        try:
            source = self._source(how)
        except ValueError as error:  # several templates and no default
            raise ApiError(400, str(error), param="messages") from error
        if source is None:
            if not self.warned:
                self.warned = True
                log.warning("the tokenizer has no chat template; messages are joined as `role: content` lines")
            _refuse_lost(messages, how, frozenset())
            return plain(messages, how), True
        facts = _facts(source)
        _refuse_lost(messages, how, facts.words)
        fitted = _fitted(messages, facts)
        try:
            text = self._render(source, fitted, how)
        except Exception as error:  # a template may raise anything for messages that it does not support
            raise ApiError(400, f"the chat template rejects these messages: {error}", param="messages") from error
        for place, message in enumerate(messages):
            _refuse_left_out(place, message, facts, text)
        return text, False

    def _source(self, how: Rendering) -> str | None:
        """The text of the template for these messages."""
        if self.override is not None:
            return self.override
        if not getattr(self.tokenizer, "chat_template", None):
            return None
        return str(self.tokenizer.get_chat_template(tools=how.tools))

    def _render(self, source: str, messages: list[Message], how: Rendering) -> str:
        fields = how._asdict() | {"tools": how.tools or None}
        more = fields.pop("more")
        text = self.tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **fields, **more)
        return str(text)


# -- what a template can say -------------------------------------------------------------------------------------------


class _Facts(NamedTuple):
    """words: all names and literals in it. roles: literals, among them the roles that it tells apart.

    parts: it goes through the parts of a content. texts: it asks whether a content is text.
    """

    words: frozenset[str]
    roles: frozenset[str]
    parts: bool
    texts: bool


@lru_cache(64)
def _facts(source: str) -> _Facts:
    iterated = re.findall(r"{%-?\+?\s*for\s+\w+\s+in\s+([\w.\[\]'\"]+)", source)
    return _Facts(
        words=frozenset(re.findall(r"\w+", source)),
        roles=frozenset(re.findall(r"['\"](\w+)['\"]", source)),
        parts=any(re.search(r"\bcontent(['\"]\])?$", name) for name in iterated),
        texts=re.search(r"\bcontent(['\"]\])?\s+is\s+(not\s+)?string\b", source) is not None,
    )


def _refuse_lost(messages: Messages, how: Rendering, words: frozenset[str]) -> None:
    """words: of the template. Raises ApiError 400 for what it has no place for."""
    for place, message in enumerate(messages):
        for name in NEEDED:
            if message.get(name) and name not in words:
                what = f"messages.{place}.{name}: the chat template of this model has no place for it; leave it out"
                raise ApiError(400, what, param=f"messages.{place}.{name}")
    if how.documents and "documents" not in words:
        what = "documents: the chat template of this model has no place for them; put them into a message"
        raise ApiError(400, what, param="documents")


def _refuse_left_out(place: int, message: Message, facts: _Facts, text: str) -> None:
    """Raises ApiError 400 for a message of a role that the template passes over."""
    role = message["role"]
    said = flat(message.get("content")).strip()
    if role not in USUAL and role not in facts.roles and said and said not in text:
        what = f"messages.{place}.role: the chat template of this model leaves out messages of role {role!r}"
        raise ApiError(400, f"{what}; use system, user or assistant", param=f"messages.{place}.role")


def _fitted(messages: Messages, facts: _Facts) -> list[Message]:
    """The messages as this template takes them."""
    if "developer" not in facts.roles:
        messages = developers_first(messages)
    fitted = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and (not facts.parts or message["role"] == "tool"):
            content = flat(content)
        elif isinstance(content, str) and facts.parts and not facts.texts and message["role"] != "tool":
            content = [{"type": "text", "text": content}]
        fitted.append({**message, "content": "" if content is None else content})
    return fitted


def developers_first(messages: Messages) -> list[Message]:
    """OpenAI's newer name of the system's instructions: they join the system message at the front, in order."""
    if all(message["role"] != "developer" for message in messages):
        return list(messages)
    front = 0
    while front < len(messages) and messages[front]["role"] in ("system", "developer"):
        front += 1
    instructions = [*messages[:front], *[message for message in messages[front:] if message["role"] == "developer"]]
    content = "\n".join([flat(message.get("content")) for message in instructions])
    rest = [message for message in messages[front:] if message["role"] != "developer"]
    return [{**instructions[0], "role": "system", "content": content}, *rest]


def flat(content: str | list[dict[str, Any]] | None) -> str:
    """The text of a content; several parts are joined by a newline, as in vLLM."""
    if isinstance(content, list):
        return "\n".join([part["text"] for part in content])
    return content or ""


def plain(messages: Messages, how: Rendering = ANSWER) -> str:
    """One `role: content` line a message, then `assistant:`; a message to be continued has no end."""
    text = "".join([f"{message['role']}: {flat(message.get('content'))}\n" for message in messages])
    if how.continue_final_message:
        return text[:-1]
    return text + "assistant:" if how.add_generation_prompt else text


def _check(tokenizer: Any, template: str) -> None:
    """Raises ValueError for what is no Jinja template; what it says to messages is seen when there are some."""
    from jinja2 import TemplateSyntaxError

    try:
        tokenizer.apply_chat_template([{"role": "user", "content": ""}], chat_template=template, tokenize=False)
    except TemplateSyntaxError as error:
        raise ValueError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error
    except ImportError as error:
        raise ValueError(f"a chat template is rendered by transformers: {error}; {extra('engine')}") from error
    except Exception as error:
        log.debug("the chat template does not take an empty message: %r", error)
