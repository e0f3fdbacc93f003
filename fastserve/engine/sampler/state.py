"""SamplingState: the sampler's state of one request between tokens; preemption does not change it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastserve.engine.constraints import Constraint
from fastserve.engine.params import SamplingParams

Number = TypeVar("Number", int, float)

_HARSHEST: Final = 1e30
"""Repetition penalties beyond it, or below its inverse, are these: float32 has no room for what they make."""


class SamplingState:
    """Made once, at acceptance; `accept` keeps it current at constant cost a token.

    params: resolved and spelled. seed: the request's own, or the one drawn for it. prompt: token ids. eos_ids: of the
    model. ValueError where `params` still leaves a field to the model.
    """

    __slots__ = (
        "_ahead", "_counts", "_ids", "_where", "barred", "constraint", "generated", "logprobs", "min_p", "params",
        "penalised", "repetition", "seed", "temperature", "top_k", "top_p",
    )  # fmt: skip

    def __init__(
        self, params: SamplingParams, *, seed: int, prompt: Sequence[int] = (), eos_ids: Collection[int] = ()
    ) -> None:
        self.params = params
        self.seed = seed
        self.generated = 0  # tokens accepted so far: the index of the next one
        self.temperature = _resolved(params.temperature)
        self.top_k = max(0, _resolved(params.top_k))
        self.top_p = _resolved(params.top_p)
        self.min_p = _resolved(params.min_p)
        self.repetition = min(max(_resolved(params.repetition_penalty), 1 / _HARSHEST), _HARSHEST)
        self.logprobs = params.logprobs
        self.barred = sorted({*params.stop_token_ids, *eos_ids})
        """Tokens that may not be drawn while `must_go_on`."""

        self.constraint = Constraint.of(params, frozenset(eos_ids))
        """None for a request that allows anything."""

        self.penalised = bool(self.repetition != 1.0 or params.presence_penalty or params.frequency_penalty)
        known = dict.fromkeys(prompt) if self.repetition != 1.0 else {}
        self._where = {token: place for place, token in enumerate(known)}  # token -> its place in the two arrays
        self._ids = np.array(list(known), np.int64)
        self._counts = np.zeros(len(known), np.float32)  # occurrences in the output; 0: in the prompt alone
        self._ahead: list[SamplingState] = []  # see ahead()

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def alike(self) -> bool:
        """Its draws depend on logits and indices alone, and not on the tokens before."""
        return not self.penalised and self.constraint is None

    def ahead(self, by: int) -> SamplingState:
        """What it will be after so many tokens, whichever these are, but for penalties and constraints: of one that is
        `alike` there is no more to it. Apart from this one, and good until it is asked for again.
        """
        while len(self._ahead) <= by:
            self._ahead.append(self._alike())
        other = self._ahead[by]
        other.generated = self.generated + by
        return other

    def _alike(self) -> SamplingState:
        other: SamplingState = object.__new__(SamplingState)
        for name in SamplingState.__slots__:
            setattr(other, name, getattr(self, name))
        other._ahead = []
        other.penalised, other.constraint, other.logprobs = False, None, self.logprobs if self.alike else None
        return other

    @property
    def must_go_on(self) -> bool:
        """Fewer than min_tokens are out."""
        return self.generated < self.params.min_tokens

    @property
    def seen(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Distinct tokens that penalties touch, and how often each is in the output. Views, good until `accept`."""
        size = len(self._where)
        return self._ids[:size], self._counts[:size]

    def accept(self, token: int) -> None:
        """The request's next token is this one."""
        self.generated += 1
        if self.constraint is not None:
            self.constraint.accept(token)
        if not self.penalised:
            return
        size = len(self._where)
        place = self._where.setdefault(token, size)
        if place == size:
            if size == len(self._ids):
                room = max(16, size)
                self._ids = np.concatenate([self._ids, np.zeros(room, np.int64)])
                self._counts = np.concatenate([self._counts, np.zeros(room, np.float32)])
            self._ids[place] = token
        self._counts[place] += 1


def _resolved(value: Number | None) -> Number:
    if value is None:
        raise ValueError("sampling parameters are unresolved: call params.resolved(model.defaults) first")
    return value
