"""ModelInfo: properties of the model that the engine needs to admit requests, and tokenization of prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

from fastserve.engine.params import DEFAULTED, SamplingParams
from fastserve.sched.errors import RefusedError

LOG = logging.getLogger("fastserve")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """tokenizer: a Hugging Face one, or with the same encode and decode; None: token ids only.

    parameters: number of weights, shared ones counted once; None without weights or if unknown.
    """

    name: str
    tokenizer: Any
    max_model_len: int
    vocab_size: int
    eos_ids: frozenset[int]
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of generation_config
    parameters: int | None = None
    device: str = ""
    dtype: str = ""
    backend: str = "own"
    """name of the backend: of the table of backends, or module:Class"""
    suppressed: frozenset[int] = frozenset()
    """tokens that it never emits, as its generation_config says"""

    @property
    def sampling(self) -> dict[str, int | float]:
        """What the model itself has for the fields of SamplingParams that a request may leave open."""
        return {name: self.defaults[name] for name in DEFAULTED if self.defaults.get(name) is not None}

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of a prompt. Raises ValueError for an invalid one."""
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise ValueError(f"model {self.name} has no tokenizer: give the prompt as a list of token ids")
            ids = self._tokens(self.tokenizer.encode(prompt))
        elif isinstance(prompt, Iterable) and not isinstance(prompt, bytes | Mapping):
            ids = self._tokens(prompt)
        else:
            raise ValueError(f"{prompt!r} is not a prompt: give text, or a list of token ids")
        if not ids:
            raise ValueError("the prompt is empty: give at least one token")
        return ids

    def _tokens(self, ids: Iterable[Any]) -> list[int]:
        """A long list of ints is checked as a whole: a millisecond for 100,000."""
        plain = isinstance(ids, list) and set(map(type, ids)) == {int}
        if plain and min(ids) >= 0 and max(ids) < self.vocab_size:
            return list(ids)
        return [self._token(id) for id in ids]

    def _token(self, id: Any) -> int:
        """numpy and torch integers are accepted."""
        try:
            token = -1 if isinstance(id, bool) else index(id)
        except (TypeError, ValueError):
            token = -1
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"{id!r} is not a token of model {self.name}: ids go from 0 to {self.vocab_size - 1}")
        return token

    def limit(self, prompt_tokens: int, params: SamplingParams) -> int:
        """Output tokens that the request may have. Raises RefusedError for one that exceeds the context."""
        left = self.max_model_len - prompt_tokens
        wanted = 1 if params.max_tokens is None else params.max_tokens
        if wanted > left:
            raise RefusedError(too_long(self.max_model_len, prompt_tokens, wanted))
        return left if params.max_tokens is None else params.max_tokens


def too_long(context: int, prompt: int | str, wanted: int = 1) -> str:
    """The message for what exceeds the context. prompt: its tokens, or what is known of one that was not counted.

    Clients look for "maximum context length is" and "prompt is too long"
    (litellm, langchain-openai), and then shorten the conversation or take another model.
    """
    what = prompt if isinstance(prompt, str) else f"a prompt of {prompt} tokens"
    advice = "the prompt is too long, shorten it or lower max_tokens"
    if not isinstance(prompt, str) and prompt < context:
        most = context - prompt
        advice = f"lower max_tokens to {most} or less, or shorten it: for so much output the prompt is too long"
    return (
        f"This model's maximum context length is {context} tokens: {what} with {wanted} "
        f"more to generate exceeds the context of {context}; {advice}"
    )


def clamp_length(asked: int | None, own: int | None) -> int:
    """Tokens of the longest context. own: what the model can hold, None where it says nothing.

    A longer one than its own is clamped with a warning. ValueError for a length below 1.
    """
    if asked is not None and asked < 1:
        raise ValueError(f"max_model_len={asked} must be at least 1 token")
    if own is None:
        if asked is None:
            LOG.warning("the model's config states no longest context: 2048 tokens are taken; max_model_len says more")
        return asked or 2048
    if asked is not None and asked > own:
        LOG.warning("max_model_len=%d is above the model's own %d tokens: it is now %d", asked, own, own)
    return own if asked is None else min(asked, own)
