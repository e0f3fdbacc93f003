"""Tokenization: text to token ids and back. Raises ApiError."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from fastserve.engine import Engine
from fastserve.engine.model_info import too_long
from fastserve.server.api.chat_template import ChatTemplate, Messages
from fastserve.server.api.errors import ApiError
from fastserve.server.input_pool import InputPool

SHORT_TEXT = 8_000
"""Characters up to which a text is tokenized on the event loop."""

SHORT_CHAT, SHORT_LIST = 64, 4096
"""Messages and token ids up to which it is done there as well."""

SLICE = 1 << 15
"""Characters of a long text that are tokenized at once when it is to be known whether it can fit."""

FORGIVEN = 16
"""Tokens of a slice, beside 1 in 64, that the text as a whole may not have."""

ANSWERED_TOKENS = 1 << 16
"""Tokens that /tokenize answers with at least, however short the context; twice the context if that is more."""


class Tokenization:
    """Raises ApiError 400 for an invalid prompt."""

    def __init__(self, engine: Engine, chat: ChatTemplate, pool: InputPool) -> None:
        self.engine = engine
        self.chat = chat
        self.pool = pool

    async def prompt(self, prompt: str | list[int]) -> list[int]:
        """Token ids of a prompt: text, or token ids already."""
        return (await self.prompts([prompt]))[0]

    async def prompts(self, prompts: Sequence[str | list[int]]) -> list[list[int]]:
        """Of several prompts; the first one that cannot fit is refused before the next one is looked at."""
        short = sum(map(len, prompts)) <= SHORT_TEXT
        return [await self._run(partial(self._prompt, prompt), short) for prompt in prompts]

    def _prompt(self, prompt: str | list[int]) -> list[int]:
        most = self.engine.max_model_len
        ids = prompt
        try:
            if isinstance(prompt, str):
                self._check_length([prompt], most)
                ids = self.engine.info.encode(prompt)
            if len(ids) >= most:  # refused before each id is checked
                raise ApiError(400, too_long(most, len(ids)), param="prompt")
            return self.engine.info.encode(prompt) if ids is prompt else list(ids)  # type: ignore[arg-type]
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt") from error

    async def conversation(self, messages: Messages) -> list[int]:
        """Token ids of a chat, with the generation prompt."""

        def encode() -> list[int]:
            self._check_length(map(_content, messages), self.engine.max_model_len)
            text, special = self.chat.prompt(messages)
            return self._encode(text, special)

        size = sum(len(_content(message)) for message in messages[:SHORT_CHAT])
        return await self._run(encode, len(messages) <= SHORT_CHAT and size <= SHORT_TEXT)

    async def tokens(self, text: str, special: bool) -> list[int]:
        """For /tokenize. special: add the tokenizer's special tokens. Raises ApiError 400 for very many tokens."""

        def encode() -> list[int]:
            self._check_length([text], max(2 * self.engine.max_model_len, ANSWERED_TOKENS))
            return self._encode(text, special)

        return await self._run(encode, len(text) <= SHORT_TEXT)

    async def text_of(self, tokens: list[int]) -> str:
        """For /detokenize: text(), off the event loop when they are many."""
        return await self._run(partial(self.text, tokens), len(tokens) <= SHORT_LIST)

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

    @cached_property
    def most_characters(self) -> int:
        """Characters of the longest text that can fit into the context: each token is the longest one."""
        return self.engine.max_model_len * _longest_token(self.engine.tokenizer)

    def uncounted(self, what: str) -> ApiError:
        """The refusal of a prompt whose tokens were not counted."""
        return ApiError(400, too_long(self.engine.max_model_len, what))

    def _encode(self, text: str, special: bool) -> list[int]:
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise ApiError(400, "this model has no tokenizer", param="prompt")
        return list(tokenizer.encode(text, add_special_tokens=special))

    def _check_length(self, texts: Iterable[str], most: int) -> None:
        """Refuses texts that are clearly more than `most` tokens, by tokenizing slices of them until they are too many.

        A whole text costs a hundred times its size. A slice may have a few tokens more than its share of the whole, so
        some are forgiven: what is refused is too long, and the exact count decides about the rest.
        """
        texts = [text for text in texts if len(text) > FORGIVEN]
        characters = sum(map(len, texts))
        if characters <= max(2 * SLICE, 3 * most) or self.engine.tokenizer is None:
            return
        found = 0
        for text in texts:
            for start in range(0, len(text), SLICE):
                count = len(self._encode(text[start : start + SLICE], False))
                found += max(0, count - count // 64 - FORGIVEN)
                if found > most:
                    raise self.uncounted(f"a text of {characters:,} characters, more than {found:,} tokens")

    async def _run(self, work: Any, short: bool) -> Any:
        return work() if short else await self.pool.run(work)


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _longest_token(tokenizer: Any) -> int:
    """Characters of the longest token; an estimate from above where the tokenizer does not tell."""
    known: int | None = getattr(tokenizer, "longest_token", None)
    if known is not None:
        return known
    vocabulary = getattr(tokenizer, "get_vocab", dict)()
    return max(map(len, vocabulary), default=256)
