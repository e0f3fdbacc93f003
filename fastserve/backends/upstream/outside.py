"""Pace: an upstream's times from outside: the first token by length of the prompt, gaps by streams at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import perf_counter
from typing import Final

from fastserve.backends.upstream.pieces import FIRST
from fastserve.backends.upstream.prompt import Prompt
from fastserve.backends.upstream.stream import Answer, Hub
from fastserve.engine.backend import Timed
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams
from fastserve.hardware import DecodePiece, Hardware, LinearLatency, Link, Memory, PrefillFit

PREFILLS: Final = (16, 64, 256, 128, 512, 32, 1024, 2048)
"""Tokens of prompts, in the order in which they are tried."""

CONTEXTS: Final = (32, 512)
OUTPUT: Final = 16
"""Tokens of an answer whose gaps are measured."""

ENOUGH_S: Final = 120.0
"""Seconds for one answer of the measurement."""

WORDS: Final = ("time", "year", "people", "way", "day", "man", "thing", "life", "child", "world", "school", "state")

Report = Callable[[float, str], object]


class Pace:
    """Opens streams of its own, so no engine may run on the body meanwhile."""

    def __init__(self, hub: Hub, slots: int, info: ModelInfo) -> None:
        self.hub = hub
        self.slots = slots
        self.info = info

    def measure(self, budget_s: float, longest: int | None = None, report: Report | None = None) -> list[Timed]:
        """Rounds until the budget is spent, at least a prefill and a decode. Raises ValueError for what fails."""
        rng = random.Random(0)
        room = max(1, min(self.info.max_model_len, longest or PREFILLS[-1]) - OUTPUT - 1)
        lengths = [n for n in PREFILLS if n <= room] or [room]
        sizes = sorted({2**i for i in range(self.slots.bit_length()) if 2**i < self.slots} | {self.slots})
        contexts = [min(context, room) for context in CONTEXTS]
        self._answers([16], 2, rng)  # the first one loads what is not loaded yet
        began, seen = perf_counter(), list[Timed]()
        while True:
            turns = [(1, length, 1) for length in lengths]
            turns += [(size, context, OUTPUT) for context in dict.fromkeys(contexts) for size in sizes]
            rng.shuffle(turns)
            for size, length, output in [*((1, n, 1) for n in lengths[:3]), (1, contexts[0], OUTPUT), *turns]:
                share = (perf_counter() - began) / budget_s
                if share >= 1 and any(one.tokens for one in seen) and any(one.batch for one in seen):
                    return seen
                if report is not None:
                    report(min(1.0, share), f"{size} of {length} tokens")
                seen += self._seen([length] * size, output, rng)

    def _seen(self, lengths: list[int], output: int, rng: random.Random) -> list[Timed]:
        began = perf_counter()
        times = self._answers(lengths, output, rng)
        if output == 1:
            first = times[0].at[0] - began
            return [Timed(0, 0, times[0].prompt_size, times[0].prompt_size ** 2, first * 1e3)]
        start = max(one.at[0] for one in times)  # from then on all decode
        ends = [one.at[-1] for one in times]
        steps = sum(sum(at > start for at in one.at) for one in times) / len(times)
        if steps < 1 or max(ends) <= start:
            return []
        batch = len(times)
        context = sum(one.prompt_size + output // 2 for one in times)
        return [Timed(batch, context, 0, 0, (min(max(ends), sum(ends) / batch) - start) / steps * 1e3)]

    def _answers(self, lengths: list[int], output: int, rng: random.Random) -> list[_Times]:
        """Streams at once, each with the times at which its tokens came."""
        goes_on = "ignore_eos" not in self.hub.api.lacks
        times = [_Times(self._prompt(length, rng), length, output, goes_on) for length in lengths]
        try:
            for one in times:
                self.hub.open(one)
            until = perf_counter() + ENOUGH_S
            with self.hub.changed:
                while not all(one.ended for one in times):
                    for one in times:
                        one.note(perf_counter())
                    if not self.hub.changed.wait(max(0.0, until - perf_counter())):
                        raise ValueError(f"the upstream took more than {ENOUGH_S:.0f} s for an answer of the profile")
                for one in times:
                    one.note(perf_counter())
        finally:
            for one in times:
                self.hub.close(one)
        failed = next((one.ended.error for one in times if one.ended and one.ended.reason == "error"), "")
        if failed or not all(one.at for one in times):
            raise ValueError(f"a request of the profile failed: {failed or 'it was answered with nothing'}")
        return times

    def _prompt(self, tokens: int, rng: random.Random) -> Prompt:
        """Unlike any other, so that no cache has its prefix."""
        tokenizer = self.hub.tokenizer
        if tokenizer.vocabulary and self.hub.api.name in ("llama.cpp", "vllm", "fastserve"):
            ids = range(min(1000, tokenizer.vocabulary // 2), min(tokenizer.vocabulary, FIRST))
            return Prompt([rng.choices(ids, k=tokens)])
        return Prompt(["".join(f" {rng.choice(WORDS)}" for _ in range(tokens)).strip()])


class _Times(Answer):
    """at: s at which each token came."""

    __slots__ = ("at", "length")

    def __init__(self, prompt: Prompt, length: int, output: int, ignore_eos: bool) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=ignore_eos).resolved({})
        super().__init__(prompt, params, 0, output)
        self.length = length
        self.at: list[float] = []

    @property
    def prompt_size(self) -> int:
        return self.prompt_tokens or self.length

    def note(self, now: float) -> None:
        self.at += [now] * (self.tokens - len(self.at))


def guessed(memory: Memory) -> Hardware:
    """Until somebody measures: 25 ms a token of one stream, 1 ms more for each other one, 0.1 s for a first token and
    1 s more for 2,000 tokens of a prompt. So that policies do not take a return for a trifle, rather too much of that.
    """
    latency = LinearLatency(PrefillFit(100.0, 0.5, 0.0), [DecodePiece(1, 24.0, 1.0, 0.0)], "upstream (a guess)")
    return Hardware(latency, memory, Link())
