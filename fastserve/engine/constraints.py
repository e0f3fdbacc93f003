"""What a request allows its output to be: words and choices spelled as tokens at admission, a mask for each next token.

Pure Python: a body turns `Constraint.allowed` and `Constraint.barred` into masks of its logits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice, takewhile
from typing import Any

from fastserve.engine.detokenizer import TokenDecoder
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams

Ids = tuple[int, ...]
Choices = Sequence[Sequence[int]]  # tuples, as SamplingParams keeps them

BEFORE = 6
"""Tokens of the prompt that decide how the output's first token is written."""


class ConstraintError(ValueError):
    """What this model or its body cannot do. param: the field of SamplingParams that asks for it."""

    def __init__(self, param: str, what: str) -> None:
        super().__init__(f"{param}: {what}")
        self.param = param


class Speller:
    """Words as the tokens of one model. decoder: None without a tokenizer. Thread-safe."""

    def __init__(self, info: ModelInfo, decoder: TokenDecoder | None) -> None:
        self.info = info
        self.decoder = decoder
        self._spelled = lru_cache(64)(self._spell)  # a request may ask for many outputs

    def spelled(self, params: SamplingParams, prompt: Sequence[int]) -> SamplingParams:
        """The same with `bad_words` and `choices` as token ids, in `bad_token_ids` and `choice_token_ids`.

        Raises ConstraintError for what this model cannot do: ids that it does not have or never emits, words without a
        tokenizer, choices that it cannot write.
        """
        info, allowed = self.info, params.allowed_token_ids
        bad, choices = self._spelled(params.bad_words, params.choices, tuple(prompt[-BEFORE:]))
        params = replace(
            params, bad_words=(), bad_token_ids=(*params.bad_token_ids, *bad), choices=(),
            choice_token_ids=tuple(dict.fromkeys((*params.choice_token_ids, *choices))),
            allowed_token_ids=allowed and tuple(dict.fromkeys(allowed)),
        )  # fmt: skip
        for name, ids in (
            ("allowed_token_ids", params.allowed_token_ids or ()),
            ("logit_bias", [id for id, _ in params.biases]),
            ("bad_token_ids", [id for word in params.bad_token_ids for id in word]),
            ("choice_token_ids", [id for choice in params.choice_token_ids for id in choice]),
        ):
            wrong = next((id for id in ids if id >= info.vocab_size), None)
            if wrong is not None:
                what = f"{wrong} is not a token of model {info.name}: ids go from 0 to {info.vocab_size - 1}"
                raise ConstraintError(name, what)
        barred = info.suppressed.union([word[0] for word in params.bad_token_ids if len(word) == 1])
        if params.allowed_token_ids is not None and barred.issuperset(params.allowed_token_ids):
            what = f"model {info.name} never emits any of them (suppress_tokens), or bad_words bar them"
            raise ConstraintError("allowed_token_ids", what)
        if params.choice_token_ids and params.bad_token_ids:
            words = frozenset(params.bad_token_ids)
            left = [choice for choice in params.choice_token_ids if not _within(choice, words)]
            if not left:
                raise ConstraintError("choices", "each of them has one of the bad_words")
            params = replace(params, choice_token_ids=left, bad_token_ids=())
        ordered = sorted(map(tuple, params.choice_token_ids))  # those that begin with one follow it
        for place, choice in enumerate(ordered):
            if never := info.suppressed.intersection(choice):
                what = f"model {info.name} never emits token {min(never)} (suppress_tokens), which one of them needs"
                raise ConstraintError("choices", what)
            more = _next(choice, takewhile(partial(_begins, choice), islice(ordered, place + 1, None)))
            if more and not info.eos_ids - more:
                what = "one begins with another, and the model has no end token to tell them apart"
                raise ConstraintError("choices", what)
        return params

    def _spell(self, bad_words: tuple[str, ...], choices: tuple[str, ...], before: Ids) -> tuple[list[Ids], list[Ids]]:
        if not (bad_words or choices):
            return [], []
        if self.decoder is None:
            given, instead = ("bad_words", "bad_token_ids") if bad_words else ("choices", "choice_token_ids")
            what = f"they need text, and model {self.info.name} has no tokenizer: give {instead}"
            raise ConstraintError(given, what)
        bad = dict.fromkeys(ids for word in bad_words for ids in self._ways(word.strip() or word))
        return list(bad), list(dict.fromkeys(self._exactly(choice, before) for choice in choices))

    def _ways(self, text: str) -> list[Ids]:
        """As a text of its own, behind a space, and in the middle of a line."""
        return [ids for ids in (self._ids(text), self._ids(" " + text), self._inside(text)) if ids]

    def _exactly(self, text: str, before: Ids) -> Ids:
        """Tokens that write it behind the prompt, and no space more. Raises ConstraintError where there are none."""
        for ids in (self._ids(text), self._inside(text)):
            if ids and self._written(ids, before) == text:
                return ids
        letters = [next((ids for ids in (self._ids(c), self._inside(c)) if self._written(ids) == c), ()) for c in text]
        together = tuple(id for ids in letters for id in ids)
        if self._written(together, before) == text:
            return together
        raise ConstraintError("choices", f"{text!r} cannot be written with the tokens of model {self.info.name}")

    def _ids(self, text: str) -> Ids:
        return tuple(self.info.tokenizer.encode(text, add_special_tokens=False))

    def _inside(self, text: str) -> Ids:
        """As it is written behind a line break, where tokenizers add no space of their own."""
        start, whole = self._ids("\n"), self._ids("\n" + text)
        return whole[len(start) :] if whole[: len(start)] == start else ()

    def _written(self, ids: Ids, before: Ids = ()) -> str:
        assert self.decoder is not None
        decode = self.decoder.decode
        return decode([*before, *ids])[len(decode(list(before))) :]


def complete(tokens: Sequence[int], choices: Choices) -> bool:
    """Whether the output is one of the choices and could be no longer one."""
    said = tuple(tokens)
    return said in choices and not _next(said, choices)


def ended(tokens: Sequence[int], choices: Choices, eos: Collection[int]) -> bool:
    """Whether the last token is an end token behind one of the choices."""
    said = tuple(tokens[:-1])
    return tokens[-1] in eos and said in choices and tokens[-1] not in _next(said, choices)


def _within(ids: Sequence[int], words: Collection[Sequence[int]]) -> bool:
    """Whether one of the words (a set) is among these tokens."""
    sizes = {len(word) for word in words}
    return any(tuple(ids[at : at + size]) in words for size in sizes for at in range(len(ids) + 1 - size))


def _begins(said: Sequence[int], choice: Sequence[int]) -> bool:
    return choice[: len(said)] == said


def _next(said: Sequence[int], choices: Iterable[Sequence[int]]) -> set[int]:
    """What the choices that begin so go on with."""
    size = len(said)
    return {choice[size] for choice in choices if len(choice) > size and choice[:size] == said}


class Constraint:
    """Of one request, current after each `accept`. params: spelled. eos_ids: the model's.

    bias: (ids, what is added to their logits). allowed: sorted ids of which the next token must be one, None: any.
    barred: ids that it may not be, whatever `allowed` says. mask: what the body makes of `allowed`, until that changes.
    """

    __slots__ = ("_bad", "_choices", "_eos", "_said", "_single", "_tail", "allowed", "barred", "bias", "mask")

    def __init__(self, params: SamplingParams, eos_ids: Collection[int]) -> None:
        pairs = params.biases
        self.bias: tuple[list[int], list[float]] = ([id for id, _ in pairs], [value for _, value in pairs])
        self.allowed = None if params.allowed_token_ids is None else sorted(set(params.allowed_token_ids))
        self._single = [ids[0] for ids in params.bad_token_ids if len(ids) == 1]
        self._bad = [ids for ids in params.bad_token_ids if len(ids) > 1]
        self._tail = max(map(len, self._bad), default=1) - 1
        self._choices = params.choice_token_ids
        self._eos = eos_ids
        self.mask: Any = None
        self._said: Ids = ()  # all of the output with choices, else as much as a bad word needs
        self._look()

    @staticmethod
    def of(params: SamplingParams, eos_ids: Collection[int]) -> Constraint | None:
        """None for a request that allows anything."""
        given = (params.allowed_token_ids, params.logit_bias, params.bad_token_ids, params.choice_token_ids)
        return Constraint(params, eos_ids) if any(given) else None

    def accept(self, token: int) -> None:
        """The request's next token is this one."""
        if self._choices:
            self._said = (*self._said, token)
            self._choices = tuple(choice for choice in self._choices if choice[: len(self._said)] == self._said)
        elif self._tail:
            self._said = (*self._said, token)[-self._tail :]
        else:
            return
        self._look()

    def _look(self) -> None:
        said = self._said
        if self._choices:
            more = _next(said, self._choices)
            self.allowed = sorted(more.union(self._eos) if said in self._choices else more)
            self.mask = None
        self.barred = self._single + [
            ids[-1] for ids in self._bad if said[max(0, len(said) + 1 - len(ids)) :] == ids[:-1]
        ]
