"""A made-up model runner that knows what every KV slot must hold.

The model: a hash runs over the tokens of a sequence, and the next token is a function of it. A slot holds the hash of
all tokens up to its own; each new token reads every slot before it. So a lost, stale or foreign block, a token that was
given twice, out of order or to somebody else changes what comes out, or fails here at once.
"""

from __future__ import annotations

import random
from typing import Any

TOKENS = 50  # of the vocabulary that is generated; few, so that stop tokens happen
FIRST = 3  # the first of them
DECODE, SEQUENCE, TOKEN = 10_000_000, 50_000, 100_000  # ns: of a step, for each request in it, for each prefilled token


def mix(hashed: int, token: int) -> int:
    return (hashed * 6364136223846793005 + token * 1442695040888963407 + 1013904223) & ((1 << 62) - 1)


def after(hashed: int) -> int:
    """The token that follows."""
    return (hashed >> 20) % TOKENS + FIRST


def generate(prompt: list[int], most: int, stops: tuple[int, ...]) -> list[int]:
    """What the model answers: what any scheduler must deliver."""
    hashed = 0
    for token in prompt:
        hashed = mix(hashed, token)
    made: list[int] = []
    while len(made) < most and not (made and made[-1] in stops):
        made.append(after(hashed))
        hashed = mix(hashed, made[-1])
    return made


def cost(asked: Any) -> int:
    """ns of a step."""
    counts = asked.num_scheduled_tokens.values()
    prefilled = sum(count for count in counts if count > 1)
    return DECODE + SEQUENCE * len(counts) + TOKEN * prefilled if counts else 0


class WrongSlot(AssertionError):
    """A KV slot that is read holds something else than the prefix of who reads it."""


class Sequence:
    """What the runner keeps of one request, as a worker does. chain: the hash at each token."""

    __slots__ = ("blocks", "chain", "computed", "drafts", "tokens")

    def __init__(self, tokens: list[int], blocks: list[int], computed: int) -> None:
        self.tokens: list[int] = []
        self.chain: list[int] = []
        self.extend(tokens)
        self.blocks = blocks
        self.computed = computed
        self.drafts: list[int] = []  # proposed after the last step

    def extend(self, tokens: list[int]) -> None:
        hashed = self.chain[-1] if self.chain else 0
        for token in tokens:
            hashed = mix(hashed, token)
            self.tokens.append(token)
            self.chain.append(hashed)


class Runner:
    """Runs what a SchedulerOutput asks, at once. v2: told what vLLM's second model runner is told. ahead: steps are
    scheduled while another is in flight. drafts: how many are proposed after a step.
    """

    def __init__(self, block: int, *, v2: bool, ahead: bool, drafts: int, seed: int) -> None:
        self.block = block
        self.v2 = v2
        self.ahead = ahead
        self.drafts = drafts
        self.random = random.Random(seed)
        self.slots: dict[int, list[int]] = {}  # block -> the hash in each of its slots; -1: rubbish
        self.sequences: dict[str, Sequence] = {}
        self.most_rows = 0

    def run(self, asked: Any) -> list[list[int]]:
        """The tokens of each request, in the order of asked.num_scheduled_tokens."""
        self._follow(asked)
        self.most_rows = max(self.most_rows, len(self.sequences))
        return [self._step(asked, id, tokens) for id, tokens in asked.num_scheduled_tokens.items()]

    def proposed(self, ids: list[str]) -> list[list[int]]:
        """Drafts for the next step of these, in vLLM's sense: what the worker hands back when it is asked."""
        return [list(self.sequences[id].drafts) for id in ids]

    def _follow(self, asked: Any) -> None:
        for id in asked.finished_req_ids:
            self.sequences.pop(id, None)
        if self.v2:
            for id in asked.preempted_req_ids or ():
                self.sequences.pop(id, None)
        for new in asked.scheduled_new_reqs:
            tokens = new.prefill_token_ids if self.v2 else new.prompt_token_ids
            self.sequences[new.req_id] = Sequence(list(tokens), list(new.block_ids[0]), new.num_computed_tokens)
        cached = asked.scheduled_cached_reqs
        for id, blocks, computed in zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True):
            one = self.sequences[id]
            told = cached.all_token_ids.get(id)
            if id in cached.resumed_req_ids:
                assert not self.v2, f"{id} is resumed, which the second runner takes for new"
                known = list(told)
                assert known == one.tokens[: len(known)], f"{id} is resumed with tokens that were not made"
                self.sequences[id] = Sequence(known, list(blocks[0]), computed)  # what was in flight is dropped
                continue
            if blocks is not None:
                one.blocks += blocks[0]
            if told is not None:  # it had no tokens in the step before
                assert list(told) == one.tokens[: len(told)], f"{id} comes back with tokens that were not made"
            if not (self.ahead and self.drafts):  # else the scheduler takes drafts in flight for accepted
                assert computed == one.computed, f"{id} has {one.computed} tokens computed, not {computed}"

    def _step(self, asked: Any, id: str, count: int) -> list[int]:
        one = self.sequences[id]
        start = one.computed
        drafts = list(asked.scheduled_spec_decode_tokens.get(id, ()))
        if drafts and -1 in drafts:  # scheduled before they were known
            drafts = (one.drafts if self.ahead else [])[: len(drafts)] + [-1] * len(drafts)
            drafts = drafts[: len(asked.scheduled_spec_decode_tokens[id])]
        assert start + count == len(one.tokens) + len(drafts) or (not drafts and start + count < len(one.tokens)), (
            f"{id} is asked for tokens {start} to {start + count} of {len(one.tokens)} and {len(drafts)} drafts"
        )
        self._read(one, id, start)
        made: list[int] = []
        at = start
        while at < len(one.tokens) and at < start + count:
            self._write(one, at, one.chain[at])
            at += 1
            if at == len(one.tokens):
                token = after(one.chain[-1])
                made.append(token)
                one.extend([token])
                if len(made) > len(drafts) or drafts[len(made) - 1] != token:
                    break
        for rejected in range(at, start + count):
            self._write(one, rejected, -1)
        one.computed = at
        one.drafts = self._propose(one) if made else []
        return made

    def _read(self, one: Sequence, id: str, end: int) -> None:
        size = self.block
        for number in range(-(-end // size)):
            low, high = number * size, min(end, (number + 1) * size)
            block = one.blocks[number]
            there = self.slots.get(block)
            if there is None or there[: high - low] != one.chain[low:high]:
                raise WrongSlot(f"{id}: block {block}, tokens {low} to {high} of {end}, holds something else")

    def _write(self, one: Sequence, at: int, hashed: int) -> None:
        block = one.blocks[at // self.block]
        if block not in self.slots:
            self.slots[block] = [-1] * self.block
        self.slots[block][at % self.block] = hashed

    def _propose(self, one: Sequence) -> list[int]:
        """Some right ones, then one that may be wrong."""
        right = self.random.randint(0, self.drafts)
        hashed = one.chain[-1]
        found = []
        for number in range(self.drafts):
            token = after(hashed) if number < right else 1
            found.append(token)
            hashed = mix(hashed, token)
        return found
