"""Prompts of a trace as token ids: at random, and alike as far as its block ids say that prompts are.

Equal units are equal tokens, so a server that hashes what it is sent finds what the trace says. What goes on with an
answer can be made of the recorded text, or of what was answered in fact: see Dialogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastserve.sched.path import joined
from fastserve.workload.content import Content, content
from fastserve.workload.trace import IntArray, Trace

_GAMMA, _MIX, _REMIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class TracePrompts:
    """Token ids from low up to high - 1, the same for the same seed; rows without block ids share nothing."""

    def __init__(self, trace: Trace, low: int, high: int, seed: int = 0) -> None:
        if not 0 <= low < high:
            raise ValueError(f"token ids from {low} up to {high - 1}: the range is empty")
        self.low, self.high = low, high
        self.content: Content | None = content(trace, trace.block_size)
        self._tokens: list[int] = trace.prompt.tolist()
        self._key = _mixed(np.array([seed % 2**64], np.uint64))[0]

    def of(self, row: int) -> IntArray:
        """The recorded text of its prompt; also in the part behind its last unit, where a later row repeats it."""
        tokens = self._tokens[row]
        shared = np.empty(0, np.int64)
        if self.content is not None:
            unit = self.content.unit
            path = joined(self.content.prompt(row), self.content.answer(row))
            ids = np.fromiter(path, np.int64, len(path))[: -(-tokens // unit)]
            shared = self._drawn((ids[:, None] * unit + np.arange(unit)).reshape(-1), 1)[:tokens]
        rest = np.arange(len(shared), tokens, dtype=np.int64)
        return np.concatenate((shared, self._drawn(rest + (row << 32), 2)))

    def _drawn(self, places: NDArray[np.int64], stream: int) -> IntArray:
        """A token of each place of a stream, by a counter (splitmix64): there is no order in which to draw them."""
        found = _mixed(_mixed(places.astype(np.uint64) * np.uint64(2) + np.uint64(stream - 1)) ^ self._key)
        drawn: IntArray = (found % np.uint64(self.high - self.low)).astype(np.int64) + self.low
        return drawn


class Part(NamedTuple):
    """Of a prompt: what one side says."""

    text: IntArray | str
    """Token ids; of an answer what was told of it."""
    answered: bool = False
    """Whether the model said it, or the trace says that it did."""


class Dialogue:
    """Prompts of sessions, made when they are due.

    recorded: every prompt is the trace's own text, whatever was answered. Else a prompt that goes on with an earlier
    one of its program has in it what was answered there, where answered() was told of it, as an agent would send it:
    it is as long as the trace says if the answers are. Nothing goes on with anything where the trace has no block ids.
    """

    def __init__(self, trace: Trace, prompts: TracePrompts, recorded: bool = False) -> None:
        self.prompts = prompts
        self.only_recorded = recorded
        self.goes_on = continued(trace, prompts.content)
        """By row the one with whose prompt and answer it begins; -1: none."""
        self.replaced = 0
        """Prompts that were made with what was answered."""
        self.untold = 0
        """Prompts that have the trace's own text where an answer was to stand that nobody told."""
        self._prompts: list[int] = trace.prompt.tolist()
        self._ends: list[int] = (trace.prompt + trace.output).tolist()
        self._waiting = [0] * len(trace)  # rows that go on with this one and have not been made
        for earlier in self.goes_on:
            if earlier >= 0:
                self._waiting[earlier] += 1
        self._said: dict[int, tuple[Part, ...]] = {}  # prompts as they were made, while a row waits that goes on
        self._answers: dict[int, IntArray | str] = {}

    def make(self, row: int) -> tuple[Part, ...]:
        """Its prompt. Once for each row, after answered() of what comes before it."""
        earlier = self.goes_on[row]
        made = self.prompts.of(row)
        parts: tuple[Part, ...] = (Part(made),)
        if earlier >= 0 and self.only_recorded:
            parts = tuple(self._recorded(row, made))
        elif earlier >= 0:
            answer = self._answers.get(earlier)
            if answer is None:
                self.untold += 1
                answer = made[self._prompts[earlier] : self._ends[earlier]]
            else:
                self.replaced += 1
            parts = (*self._said[earlier], Part(answer, True), Part(made[self._ends[earlier] :]))
            self._waiting[earlier] -= 1
            if not self._waiting[earlier]:
                del self._said[earlier]
                self._answers.pop(earlier, None)
        if self._waiting[row] and not self.only_recorded:
            self._said[row] = parts
        return parts

    def answered(self, row: int, answer: Sequence[int] | str | None) -> None:
        """Token ids or text; None where nobody tells."""
        if answer is not None and row in self._said:
            self._answers[row] = answer if isinstance(answer, str) else np.array(answer, np.int64)

    def _recorded(self, row: int, made: IntArray) -> Iterator[Part]:
        cuts = []
        while (earlier := self.goes_on[row]) >= 0:
            cuts += [self._ends[earlier], self._prompts[earlier]]
            row = earlier
        last = 0
        for turn, cut in enumerate([*reversed(cuts), len(made)]):
            yield Part(made[last:cut], turn % 2 == 1)
            last = cut


def tokens_of(parts: Sequence[Part]) -> IntArray:
    """The whole prompt; every part is token ids."""
    return np.concatenate([np.asarray(part.text, np.int64) for part in parts])


def continued(trace: Trace, shared: Content | None) -> list[int]:
    """By row the one that it waits for, directly or not, whose prompt and answer its own begins with; -1: none."""
    found = [-1] * len(trace)
    if shared is None or trace.after is None:
        return found
    prompts: list[int] = trace.prompt.tolist()
    ends: list[int] = (trace.prompt + trace.output).tolist()
    programs: Sequence[Any] = trace.program or [""] * len(trace)
    for row, before in enumerate(trace.after):
        path = shared.prompt(row)
        todo, seen = list(before), set(before)
        best = -1
        while todo and best < 0:
            for earlier in todo:
                if (
                    programs[earlier] == programs[row]
                    and ends[earlier] <= prompts[row]
                    and (best < 0 or prompts[earlier] > prompts[best])
                ):
                    theirs = shared.prompt(earlier)
                    if theirs and len(theirs) <= len(path) and path[len(theirs) - 1] == theirs[-1]:
                        best = earlier
            todo = [other for earlier in todo for other in trace.after[earlier] if other not in seen]
            seen.update(todo)
        found[row] = best
    return found


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 bits that depend on each value alone (splitmix64 of Steele, Lea and Flood, OOPSLA 2014)."""
    z = values + _GAMMA
    z = (z ^ (z >> np.uint64(30))) * _MIX
    z = (z ^ (z >> np.uint64(27))) * _REMIX
    return z ^ (z >> np.uint64(31))
