"""Chat messages to a prompt: the template from the settings, else the tokenizer's, else `role: content` lines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastserve.server.api.errors import ApiError
from fastserve.server.config import files

log = logging.getLogger("fastserve.server")

Messages = Sequence[dict[str, str]]


class ChatTemplate:
    """override: a Jinja template, or the path of one. Raises ValueError for one that cannot be read or parsed."""

    def __init__(self, tokenizer: Any, override: str | None) -> None:
        self.tokenizer = tokenizer
        self.template = None
        self.warned = False
        if override is not None:
            self.template = _compiled(files.template(override))

    def prompt(self, messages: Messages) -> tuple[str, bool]:
        """(text, whether the tokenizer may add its special tokens to it). Raises ApiError 400."""
        if self.tokenizer is None:
            raise ApiError(400, "this model has no tokenizer: send token ids as the prompt of /v1/completions")
        try:
            if self.template is not None:
                special = {
                    name: getattr(self.tokenizer, name, None) or ""
                    for name in ("bos_token", "eos_token", "pad_token", "unk_token")
                }
                return self.template.render(messages=messages, add_generation_prompt=True, **special), False
            if getattr(self.tokenizer, "chat_template", None):
                text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
                return str(text), False
        except Exception as error:  # a template may raise anything for messages that it does not support
            raise ApiError(400, f"the chat template rejects these messages: {error}", param="messages") from error
        if not self.warned:
            self.warned = True
            log.warning("the tokenizer has no chat template; messages are joined as `role: content` lines")
        return plain(messages), True


def plain(messages: Messages) -> str:
    """One `role: content` line a message, then `assistant:`."""
    return "".join([f"{message['role']}: {message['content']}\n" for message in messages]) + "assistant:"


def _compiled(text: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(text)
    except TemplateError as error:
        raise ValueError(f"the chat template is not valid Jinja: {error}") from error
