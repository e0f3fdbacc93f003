"""Tokenization: text to token ids and back. Raises ApiError."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import NamedTuple

from fastserve.engine import Engine
from fastserve.engine.model_info import too_long
from fastserve.server.api.chat_template import ANSWER, ChatTemplate, Messages, Rendering
from fastserve.server.api.errors import ApiError
from fastserve.server.api.fields import lone_surrogate

LONG_TEXT = 50_000
"""Characters above which a prompt is tokenized in a thread, not on the event loop."""


class Cut(NamedTuple):
    """A prompt is cut to so many tokens, -1: to what leaves room for `output` ones. end: its end is kept."""

    tokens: int
    end: bool
    output: int

    def of(self, ids: list[int], context: int) -> list[int]:
        most = self.tokens if self.tokens > 0 else max(1, context - self.output)
        return ids[-most:] if self.end else ids[:most]


class Tokenization:
    """Raises ApiError 400 for an invalid prompt."""

    def __init__(self, engine: Engine, chat: ChatTemplate) -> None:
        self.engine = engine
        self.chat = chat

    async def prompt(self, prompt: str | list[int], cut: Cut | None = None, special: bool | None = None) -> list[int]:
        """Token ids of a prompt: text, or token ids already.

        special: whether the tokenizer adds its special tokens to a text (None: yes).
        """
        most = self.engine.max_model_len
        if not isinstance(prompt, str) and cut is not None:
            prompt, cut = cut.of(prompt, most), None
        if not isinstance(prompt, str) and len(prompt) >= most:  # refused before each id is checked
            raise ApiError(400, too_long(most, len(prompt)), param="prompt")
        if isinstance(prompt, str) and special is False:
            prompt = await self.tokens(prompt, special)
        try:
            if isinstance(prompt, str) and len(prompt) > LONG_TEXT:
                ids = await asyncio.to_thread(self.engine.info.encode, prompt)
            else:
                ids = self.engine.info.encode(prompt)
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt") from error
        return ids if cut is None else cut.of(ids, most)

    async def conversation(
        self, messages: Messages, how: Rendering = ANSWER, cut: Cut | None = None, special: bool | None = None
    ) -> list[int]:
        """Token ids of a chat. special: as in prompt(); None: only where no template has written them."""
        text, usual = self.chat.prompt(messages, how)
        if (fault := lone_surrogate(text)) is not None:
            raise ApiError(400, f"messages: {fault}", param="messages")
        ids = await self.tokens(text, usual if special is None else special)
        return ids if cut is None else cut.of(ids, self.engine.max_model_len)

    async def tokens(self, text: str, special: bool) -> list[int]:
        """special: add the tokenizer's special tokens."""
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise ApiError(400, "this model has no tokenizer", param="prompt")
        encode = partial(tokenizer.encode, text, add_special_tokens=special)
        return list(await asyncio.to_thread(encode) if len(text) > LONG_TEXT else encode())

    def text(self, tokens: list[int]) -> str:
        """Detokenizes. Raises ApiError 400 for an id outside the vocabulary."""
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise ApiError(400, "this model has no tokenizer", param="tokens")
        wrong = next((id for id in tokens if not 0 <= id < self.engine.vocab_size), None)
        if wrong is not None:
            raise ApiError(
                400, f"{wrong} is not a token: ids go from 0 to {self.engine.vocab_size - 1}", param="tokens"
            )
        return str(tokenizer.decode(tokens))
