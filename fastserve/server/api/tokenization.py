"""Tokenization: text to token ids and back. Raises ApiError."""

from __future__ import annotations

import asyncio
from functools import partial

from fastserve.engine import Engine
from fastserve.engine.model_info import too_long
from fastserve.engine.token_text import TokenText
from fastserve.server.api.chat_template import ChatTemplate, Messages
from fastserve.server.api.errors import ApiError

LONG_TEXT = 50_000
"""Characters above which a prompt is tokenized in a thread, not on the event loop."""


class Tokenization:
    """Raises ApiError 400 for an invalid prompt."""

    def __init__(self, engine: Engine, chat: ChatTemplate) -> None:
        self.engine = engine
        self.chat = chat
        self.pieces = None if engine.tokenizer is None else TokenText(engine.tokenizer)
        """what single tokens are in a text"""

    async def prompt(self, prompt: str | list[int]) -> list[int]:
        """Token ids of a prompt: text, or token ids already."""
        most = self.engine.max_model_len
        if not isinstance(prompt, str) and len(prompt) >= most:  # refused before each id is checked
            raise ApiError(400, too_long(most, len(prompt)), param="prompt")
        try:
            if isinstance(prompt, str) and len(prompt) > LONG_TEXT:
                return await asyncio.to_thread(self.engine.info.encode, prompt)
            return self.engine.info.encode(prompt)
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt") from error

    async def conversation(self, messages: Messages) -> list[int]:
        """Token ids of a chat, with the generation prompt."""
        text, special = self.chat.prompt(messages)
        return await self.tokens(text, special)

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
