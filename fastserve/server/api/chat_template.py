"""Chat messages to a prompt: the template from the settings, else the tokenizer's, else `role: content` lines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastserve.importing import extra
from fastserve.server.api.errors import ApiError
from fastserve.server.config import files

log = logging.getLogger("fastserve.server")

Messages = Sequence[dict[str, str]]


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

    def prompt(self, messages: Messages) -> tuple[str, bool]:
        """(text, whether the tokenizer may add its special tokens to it). Raises ApiError 400."""
        if self.tokenizer is None:
            raise ApiError(400, "this model has no tokenizer: send token ids as the prompt of /v1/completions")
        if self.override is None and not getattr(self.tokenizer, "chat_template", None):
            if not self.warned:
                self.warned = True
                log.warning("the tokenizer has no chat template; messages are joined as `role: content` lines")
            return plain(messages), True
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.override, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template may raise anything for messages that it does not support
            raise ApiError(400, f"the chat template rejects these messages: {error}", param="messages") from error
        return str(text), False


def plain(messages: Messages) -> str:
    """One `role: content` line a message, then `assistant:`."""
    return "".join([f"{message['role']}: {message['content']}\n" for message in messages]) + "assistant:"


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
