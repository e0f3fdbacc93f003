"""SamplingParams: sampling parameters and stop conditions of one request. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, replace
from typing import Any, Final

DEFAULTED: Final = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Defaults where the model's generation_config has none."""

_CONSTRAINTS: Final = (
    "allowed_token_ids", "logit_bias", "bad_words", "bad_token_ids", "choices", "choice_token_ids",
)  # fmt: skip

_SEEDS: Final = (-(1 << 63), (1 << 64) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Raises ValueError for a value outside its range."""

    max_tokens: int | None = 16
    """Maximum output tokens; None: the rest of the context."""
    min_tokens: int = 0
    """EOS, `stop_token_ids` and `stop` have no effect before this many output tokens."""
    temperature: float | None = None
    """0 is greedy. This and the next four: None takes the default of the model's generation_config."""
    top_k: int | None = None
    """Sample from the k likeliest tokens, ties with the last included; 0 (or -1): from all."""
    top_p: float | None = None
    """Nucleus: sample from the fewest likeliest tokens whose probabilities reach this sum; 1: from all."""
    min_p: float | None = None
    """Exclude tokens less likely than this fraction of the likeliest; 0: off."""
    repetition_penalty: float | None = None
    """Logits of tokens in prompt and output are divided by it where positive, else multiplied; 1: off."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each token in the output; -2 to 2."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of each token in the output, once per occurrence; -2 to 2."""
    seed: int | None = None
    """The same seed gives the same tokens, whatever else is in the batch; None: one is drawn at submission."""
    stop: str | Sequence[str] = ()
    """Stop strings; kept as a tuple."""
    stop_token_ids: Sequence[int] = ()
    """Tokens that end the output as EOS does; kept as a tuple."""
    include_stop: bool = False
    """Keep the stop string at the end of the output."""
    ignore_eos: bool = False
    """Continue after EOS."""
    logprobs: int | None = None
    """Return the logprob of each token and of this many top tokens; None: no logprobs."""
    stop_after: int | None = None
    """End after exactly this many tokens, EOS ignored: the true length in a replay, hidden from the scheduler."""
    guess: int | None = None
    """Predicted output length, for policies that need one."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    allowed_token_ids: Sequence[int] | None = None
    """Only these are drawn; None: all. Kept as a tuple, as the next five."""
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] = ()
    """Token -> what is added to its logit before the penalties, -100 to 100; kept as a tuple of pairs."""
    bad_words: Sequence[str] = ()
    """Words that are not completed: neither alone nor behind a space, as this tokenizer writes them."""
    bad_token_ids: Sequence[Sequence[int]] = ()
    """Sequences of tokens whose last one is not drawn behind the others; those of `bad_words` join them."""
    choices: Sequence[str] = ()
    """The output is one of these texts, and ends with it."""
    choice_token_ids: Sequence[Sequence[int]] = ()
    """The same as token ids; those of `choices` join them."""

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else _tuple("stop", self.stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise ValueError(f"stop={self.stop!r}: each stop must be a string of at least one character")
        ids = _tuple("stop_token_ids", self.stop_token_ids)
        if not all(_is_integer(token) and token >= 0 for token in ids):
            raise ValueError(f"stop_token_ids={self.stop_token_ids!r}: each must be a token id, an integer from 0 on")
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", ids)
        self._keep_constraints()

        _integer("max_tokens", self.max_tokens, 1)
        _integer("min_tokens", self.min_tokens, 0, needed=True)
        _integer("top_k", self.top_k, -1)
        _integer("logprobs", self.logprobs, 0)
        _integer("stop_after", self.stop_after, 1)
        _integer("guess", self.guess, 1)
        _number("temperature", self.temperature, 0, math.inf)
        _number("top_p", self.top_p, 0, 1, open_below=True)
        _number("min_p", self.min_p, 0, 1)
        _number("repetition_penalty", self.repetition_penalty, 0, math.inf, open_below=True)
        _number("presence_penalty", self.presence_penalty, -2, 2, needed=True)
        _number("frequency_penalty", self.frequency_penalty, -2, 2, needed=True)
        for name in ("include_stop", "ignore_eos", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be true or false")
        if self.seed is not None and not (_is_integer(self.seed) and _SEEDS[0] <= self.seed <= _SEEDS[1]):
            raise ValueError(f"seed={self.seed!r} must be an integer of 64 bits")
        for name in ("max_tokens", "stop_after"):
            most = getattr(self, name)
            if most is not None and self.min_tokens > most:
                raise ValueError(
                    f"min_tokens={self.min_tokens} is above {name}={most}; lower the one or raise the other"
                )

    def _keep_constraints(self) -> None:
        if self.allowed_token_ids is not None:
            object.__setattr__(self, "allowed_token_ids", _ids("allowed_token_ids", self.allowed_token_ids))
        bias = self.logit_bias
        pairs = tuple(bias.items()) if isinstance(bias, Mapping) else tuple(map(tuple, _tuple("logit_bias", bias)))
        for pair in pairs:
            if len(pair) != 2 or not (_is_integer(pair[0]) and pair[0] >= 0):
                raise ValueError(
                    f"logit_bias={pair[:1]!r}: each must be a token id, an integer from 0 on, and a number"
                )
            _number("logit_bias", pair[1], -100, 100, needed=True)
        object.__setattr__(self, "logit_bias", pairs)
        for name in ("bad_words", "choices"):
            words = _tuple(name, getattr(self, name))
            if not all(isinstance(word, str) and word for word in words):
                raise ValueError(f"{name}={words!r}: each must be a text of at least one character")
            object.__setattr__(self, name, words)
        for name in ("bad_token_ids", "choice_token_ids"):
            object.__setattr__(self, name, tuple(_ids(name, ids) for ids in _tuple(name, getattr(self, name))))
        if self.choices or self.choice_token_ids:
            for name, none in (("min_tokens", 0), ("stop_after", None), ("allowed_token_ids", None)):
                if getattr(self, name) != none:
                    raise ValueError(f"{name}={getattr(self, name)!r} and choices contradict each other: leave one out")

    def resolved(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """A copy in which each None among the five sampling fields is filled in.

        `defaults` is the model's generation_config; other keys and None values in it are ignored. ValueError where one
        of its values is outside our ranges.
        """
        missing = {name: value for name, value in DEFAULTED.items() if getattr(self, name) is None}
        theirs = {name: defaults[name] for name in missing if defaults.get(name) is not None}
        if not missing:
            return self
        try:
            return replace(self, **(missing | theirs))
        except ValueError as error:
            raise ValueError(f"the model's generation_config: {error}; give the field in the request") from None

    def seeded(self, seed: int | None) -> SamplingParams:
        """A copy with this seed, an integer of 64 bits; nothing is checked again."""
        found = copy(self)
        object.__setattr__(found, "seed", seed)
        return found

    @property
    def biases(self) -> tuple[tuple[int, float], ...]:
        """`logit_bias` as it is kept."""
        assert not isinstance(self.logit_bias, Mapping)
        return tuple(self.logit_bias)

    @property
    def constrained(self) -> list[str]:
        """The fields that say what the output may be, and are given."""
        return [name for name in _CONSTRAINTS if getattr(self, name)]

    @property
    def given(self) -> frozenset[str]:
        """Fields that differ from what they are where nobody says anything, no model's generation_config either."""
        usual = SamplingParams().resolved({})
        odd = {"top_k": self.top_k == -1}  # which is 0, too
        return frozenset(
            name for name in self.names() if getattr(self, name) != getattr(usual, name) and not odd.get(name)
        )

    @classmethod
    def names(cls) -> frozenset[str]:
        """The names of all fields."""
        return frozenset(field.name for field in fields(cls))


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tuple(name: str, value: object) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError(f"{name}={value!r} must be a list")
    return tuple(value)


def _ids(name: str, value: object) -> tuple[int, ...]:
    ids = _tuple(name, value)
    if not ids or not all(_is_integer(id) and id >= 0 for id in ids):
        raise ValueError(f"{name}={value!r} must be a list of token ids, integers from 0 on, at least one")
    return ids


def _integer(name: str, value: int | None, least: int, *, needed: bool = False) -> None:
    if value is None and not needed:
        return
    if not _is_integer(value) or value < least:  # type: ignore[operator]
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}")


def _number(
    name: str, value: float | None, least: float, most: float, *, needed: bool = False, open_below: bool = False
) -> None:
    if value is None and not needed:
        return
    what = f"above {least}" if open_below else f"at least {least}"
    what += f" and at most {most}" if most < math.inf else ""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} must be a number, {what}")
    if value < least or value > most or (open_below and value == least):
        raise ValueError(f"{name}={value!r} must be {what}")
