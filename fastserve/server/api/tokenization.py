"""Tokenization: text to token ids and back. Raises ApiError."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.model_info import too_long
from fastserve.engine.token_text import TokenText
from fastserve.server.api.chat_template import ANSWER, ChatTemplate, Messages, Rendering
from fastserve.server.api.content_filter import ContentFilter
from fastserve.server.api.errors import ApiError
from fastserve.server.api.fields import lone_surrogate
from fastserve.server.http.body_scan import Fragment, fragments
from fastserve.server.http.input_pool import InputPool
from fastserve.server.token_bound import TokenBound

Result = TypeVar("Result")

LONG_TEXT = 1 << 18
"""Characters above which a text is not tokenized before it is known how much of it is needed."""

AT_CUT = 64
"""Tokens beside a cut that may be others when the text beyond is missing."""

SHORT_TEXT = 8_000
"""Characters up to which a text is tokenized on the event loop."""

SHORT_CHAT, SHORT_LIST = 64, 4096
"""Messages and token ids up to which it is done there as well."""


class Cut(NamedTuple):
    """A prompt is cut to so many tokens, -1: to what leaves room for `output` ones. end: its end is kept."""

    tokens: int
    end: bool
    output: int

    def most(self, context: int) -> int:
        return self.tokens if self.tokens > 0 else max(1, context - self.output)

    def of(self, ids: list[int], context: int) -> list[int]:
        most = self.most(context)
        return ids[-most:] if self.end else ids[:most]


class Tokenization:
    """Raises ApiError 400 for an invalid prompt, and for one that the filter refuses."""

    def __init__(
        self, engine: Engine, chat: ChatTemplate, pool: InputPool, filter: ContentFilter | None = None
    ) -> None:
        self.engine = engine
        self.filter = filter
        self.chat = chat
        self.pool = pool
        self.pieces = None if engine.tokenizer is None else TokenText(engine.tokenizer)
        """what single tokens are in a text"""

    async def prompt(self, prompt: str | list[int]) -> list[int]:
        """Token ids of a prompt: text, or token ids already."""
        return (await self.prompts([prompt]))[0]

    async def prompts(
        self, prompts: Sequence[str | list[int]], cut: Cut | None = None, special: bool | None = None
    ) -> list[list[int]]:
        """Of several prompts; the first one that cannot fit is refused before the next one is looked at.

        special: whether the tokenizer adds its special tokens to a text (None: yes).
        """
        short = sum(map(len, prompts)) <= SHORT_TEXT and self.filter is None
        return [await self._run(partial(self._prompt, prompt, cut, special), short) for prompt in prompts]

    def _prompt(self, prompt: str | list[int], cut: Cut | None, special: bool | None) -> list[int]:
        most = self.engine.max_model_len
        if cut is not None and not isinstance(prompt, str):
            prompt = cut.of(prompt, most)
        ids = prompt
        try:
            if isinstance(prompt, str):
                prompt = self._bounded(prompt, cut)
                self._filtered(prompt)
                ids = self.engine.info.encode(prompt if special is not False else self._encode(prompt, False))
                ids = ids if cut is None else cut.of(ids, most)
            if len(ids) >= most:  # refused before each id is checked
                raise ApiError(400, too_long(most, len(ids)), param="prompt")
            if ids is prompt and self.filter is not None and self.engine.tokenizer is not None:
                self._filtered(self.text(list(ids)))  # type: ignore[arg-type]
            return self.engine.info.encode(ids) if ids is prompt else list(ids)  # type: ignore[arg-type]
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt") from error

    async def conversation(
        self, messages: Messages, how: Rendering = ANSWER, cut: Cut | None = None, special: bool | None = None
    ) -> list[int]:
        """Token ids of a chat. special: as in prompts(); None: only where no template has written them."""

        def encode() -> list[int]:
            text, usual = self.chat.prompt(messages, how)
            if (fault := lone_surrogate(text)) is not None:
                raise ApiError(400, f"messages: {fault}", param="messages")
            text = self._bounded(text, cut)
            self._filtered(text)
            ids = self._encode(text, usual if special is None else special)
            return ids if cut is None else cut.of(ids, self.engine.max_model_len)

        short = len(messages) <= SHORT_CHAT and _is_short([messages, how]) and self.filter is None
        return await self._run(encode, short)

    def _filtered(self, text: str) -> None:
        """Raises ApiError. Off the event loop where there is a filter: it may take its time."""
        if self.filter is not None:
            self.filter.check(text)

    async def prepared(self, prompt: list[int], make: Callable[[], SamplingParams], *, short: bool) -> SamplingParams:
        """make(), ready for submit(). short: it has no lists of tokens or words."""

        def prepare() -> SamplingParams:
            try:
                return self.engine.prepare(prompt, make())
            except ValueError as error:
                raise ApiError(400, str(error), param=getattr(error, "param", None)) from error

        return await self._run(prepare, short)

    async def tokens(self, text: str, special: bool) -> list[int]:
        """For /tokenize. special: add the tokenizer's special tokens."""
        found: list[int] = await self._run(partial(self._encode, text, special), len(text) <= SHORT_TEXT)
        return found

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

    def check_texts(self, body: bytearray, batch: bool) -> None:
        """Raises ApiError 400 if the strings of a body are clearly longer than a prompt. batch: each may be one."""
        if self.engine.tokenizer is not None and b'"truncate_prompt_tokens"' not in body:  # else: see _bounded()
            bound = TokenBound(partial(self._encode, special=False), together=not batch)
            if bound.exceeds(fragments(body), self.engine.max_model_len):
                raise self.uncounted(f"a prompt of more than {bound.tokens} tokens")

    def _bounded(self, text: str, cut: Cut | None) -> str:
        """As much of a long text as can be needed: tokenizing costs a hundred times its size.

        Raises ApiError 400 for one that is not to be cut and is clearly longer than a prompt.
        """
        if cut is None:
            if len(text) <= LONG_TEXT:  # check_texts() has seen most
                return text
            bound = TokenBound(partial(self._encode, special=False), together=True)
            if bound.exceeds([Fragment(text, True)], self.engine.max_model_len):
                raise self.uncounted(f"a prompt of more than {bound.tokens} tokens")
            return text
        enough = cut.most(self.engine.max_model_len) + AT_CUT
        size = max(SHORT_TEXT, 4 * enough)
        while size < len(text):
            part = text[-size:] if cut.end else text[:size]
            if len(self._encode(part, False)) >= enough:
                return part
            size *= 4
        return text

    def uncounted(self, what: str) -> ApiError:
        """The refusal of a prompt whose tokens were not counted."""
        return ApiError(400, too_long(self.engine.max_model_len, what))

    def _encode(self, text: str, special: bool) -> list[int]:
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise ApiError(400, "this model has no tokenizer", param="prompt")
        return list(tokenizer.encode(text, add_special_tokens=special))

    async def _run(self, work: Callable[[], Result], short: bool) -> Result:
        return work() if short else await self.pool.run(work)


def _is_short(value: Any) -> bool:
    """Whether there are at most SHORT_TEXT characters and values in this nest of lists and objects."""
    size = 0
    nests = [value]
    while nests:
        nest = nests.pop()
        items = [*nest.keys(), *nest.values()] if isinstance(nest, Mapping) else nest
        size += len(items) + sum([len(item) for item in items if isinstance(item, str)])
        if size > SHORT_TEXT:
            return False
        nests += [item for item in items if isinstance(item, list | tuple | Mapping)]
    return True


def _longest_token(tokenizer: Any) -> int:
    """Characters of the longest token; an estimate from above where the tokenizer does not tell."""
    known: int | None = getattr(tokenizer, "longest_token", None)
    if known is not None:
        return known
    vocabulary: dict[str, int] = getattr(tokenizer, "get_vocab", dict)()
    return max(map(len, vocabulary), default=256)
