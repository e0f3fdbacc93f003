"""DraftModel: guesses by a second, smaller model of the same vocabulary, for all jobs of an iteration at once.

Its KV is its own and never in the Scheduler's books: a bounded pool in which a job that is guessed for displaces those
that have not been for longest. All of it may be forgotten at any time; a job then begins with its text again, some
tokens an iteration, and has no guesses meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch

from fastserve.backends.torch.input_batch import Rows, pack
from fastserve.backends.torch.kv_cache import Cache
from fastserve.backends.torch.memory import free_device_memory
from fastserve.backends.torch.model import Model, load_model
from fastserve.backends.torch.sampler import Sampler
from fastserve.backends.torch.warmup import measure
from fastserve.engine.backend import Wanted
from fastserve.engine.host_memory import free_host_memory
from fastserve.engine.sampler.results import SamplingError
from fastserve.engine.sampler.state import SamplingState
from fastserve.hardware import LatencyModel, Memory
from fastserve.sched.job import Job
from fastserve.speculation.draft import CATCH_UP, check_vocabulary, part, pool_tokens
from fastserve.speculation.drafting import Drafting
from fastserve.speculation.ngram import Ngrams
from fastserve.speculation.proposer import Ask, Proposer
from fastserve.speculation.spec import Speculate

log = logging.getLogger("fastserve")

_LOADED: WeakKeyDictionary[Model, dict[str, Model]] = WeakKeyDictionary()  # by target and name: engines share them


@dataclass(slots=True, eq=False)
class Known:
    """What the draft model has of a job. done: tokens whose K and V are right. base: of its text when it was last
    guessed for, and how many tokens were.
    """

    table: list[int] = field(default_factory=list)
    done: int = 0
    base: int = 0
    drafted: int = 0


def load_draft(name: str, target: Model) -> Model:
    """By the same loader, of the target's device and dtype; the target itself where the name is its own. Raises as
    load_model() does, and ValueError for another vocabulary.
    """
    if name == target.name:
        return target
    loaded = _LOADED.setdefault(target, {})
    if name not in loaded:
        draft = load_model(
            name, device=str(target.device), dtype=str(target.dtype).removeprefix("torch."),
            native="off" if target.native is None else "auto",
        )  # fmt: skip
        check_vocabulary(draft, target)
        loaded[name] = draft
    return loaded[name]


def drafting_for(asked: Speculate, model: Model, wanted: Wanted) -> Drafting:
    """Who guesses for this model as is asked, loaded. wanted: of the target's memory. Raises as load_draft() does."""
    proposer: Proposer = Ngrams()
    if asked.method == "draft":
        draft = load_draft(asked.model, model)
        most = wanted.max_batch * min(draft.max_model_len, model.max_model_len)
        free = free_device_memory(draft.device) if draft.device.type == "cuda" else free_host_memory()
        tokens = pool_tokens(
            free, draft.block_bytes(1), most if wanted.kv_tokens is None else min(most, wanted.kv_tokens)
        )
        proposer = DraftModel(draft, tokens, wanted.block_tokens, model.vocab_size)
        log.info("draft model %s: a pool of %d tokens", draft.name, tokens)
    return Drafting(asked, proposer)


class DraftModel:
    """A Proposer. Ask.how is the SamplingState of the job: guesses are drawn as its tokens are, with its seed's own
    numbers, but for penalties and constraints. tokens: of its pool. vocabulary: of the target.
    """

    def __init__(self, model: Model, tokens: int, block: int, vocabulary: int) -> None:
        self.model = model
        self.block = block
        self.vocabulary = vocabulary
        self.cache = Cache(
            model.layers, model.kv_heads, model.head_dim, max(1, tokens // block), 0, block, model.dtype, model.device
        )
        self.sampler = Sampler(model.suppress)
        self.known: dict[Job, Known] = {}  # the one that was guessed for last at the end
        self.free = list(range(self.cache.blocks))

    # -- a Proposer ------------------------------------------------------------------------------------------------

    def propose(self, asks: Sequence[Ask]) -> list[Sequence[int]]:
        found: list[list[int]] = [[] for _ in asks]
        try:
            self._guess(asks, found)
        except Exception as error:  # its memory, or anything else: guesses are never needed
            log.warning("the draft model failed, and begins with its texts again: %r", error)
            self.reset()
            return [[] for _ in asks]
        return list(found)

    def verified(self, job: Job, accepted: int) -> None:
        known = self.known.get(job)
        if known is not None:  # the last guess has not been read
            known.done = known.base + min(accepted, known.drafted - 1)

    def forget(self, job: Job) -> None:
        known = self.known.pop(job, None)
        if known is not None:
            self.free += known.table

    def reset(self) -> None:
        self.known.clear()
        self.free = list(range(self.cache.blocks))

    def latency(self, max_batch: int) -> LatencyModel:
        """Measured, in about a second."""
        memory = Memory(self.block, self.cache.blocks * self.block, 0, self.model.block_bytes(1))
        return measure(self.model, self.cache, memory, max_batch).latency

    def held(self) -> int:
        return len(self.known)

    def close(self) -> None:
        self.reset()
        self.cache.free()

    # -- how -------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _guess(self, asks: Sequence[Ask], found: list[list[int]]) -> None:
        """Reads what is new of the texts, and goes on where a text has been read to its end."""
        short: list[tuple[int, Rows]] = []  # (ask, the rest of its text)
        long: list[tuple[int, Rows]] = []
        budget = CATCH_UP
        asked = {ask.job for ask in asks}
        for i, ask in enumerate(asks):
            known = self.known.pop(ask.job, None) or Known()
            self.known[ask.job] = known
            end = len(ask.prompt) + len(ask.tokens)
            new = end - known.done
            most = min(ask.most, self.model.max_model_len - end + 1)
            few = new <= 1 + ask.most
            take = new if few else min(new, budget)
            whole = take == new
            if most < 1 or not take or not self._reach(known, known.done + take + (most - 1) * whole, asked):
                continue
            text = part(ask.prompt, ask.tokens, known.done, known.done + take)
            if max(text) >= self.model.vocab_size:  # of a target that is padded further: not even a GPU may see it
                continue
            budget -= 0 if few else take
            (short if few else long).append((i, Rows(text, known.done, known.table, whole)))
            known.done += take
            known.base, known.drafted = known.done, 1
        if not short and not long:
            return
        logits = self.model.forward(
            pack([rows for _, rows in short], [rows for _, rows in long], self.block), self.cache
        )
        who, ends, row = [], [], 0
        for i, rows in short:
            row += len(rows.tokens)
            who.append(i)
            ends.append(row - 1)
        for i, rows in long:
            if rows.wanted:
                who.append(i)
                ends.append(row)
                row += 1
        if len(ends) < len(logits):
            logits = logits[torch.tensor(ends, device=logits.device)]
        for depth in range(max([asks[i].most for i in who], default=0)):
            if depth:
                step = pack([self._next(asks[i], found[i]) for i in who], [], self.block)
                logits = self.model.forward(step, self.cache)
            who = self._draw(logits, asks, found, who, depth)
            if not who:
                return

    def _draw(
        self, logits: torch.Tensor, asks: Sequence[Ask], found: list[list[int]], who: list[int], depth: int
    ) -> list[int]:
        """A guess more for each; returns who goes on."""
        states: list[SamplingState] = [asks[i].how.ahead(depth) for i in who]
        going = []
        for i, one in zip(who, self.sampler.sample(logits, states), strict=True):
            if isinstance(one, SamplingError) or one.token >= self.vocabulary:
                continue
            found[i].append(one.token)
            ask = asks[i]
            self.known[ask.job].drafted = depth + 1
            if depth + 1 < ask.most and len(ask.prompt) + len(ask.tokens) + depth + 1 <= self.model.max_model_len:
                going.append(i)
        return going

    def _next(self, ask: Ask, guessed: Sequence[int]) -> Rows:
        at = len(ask.prompt) + len(ask.tokens) + len(guessed) - 1
        return Rows(guessed[-1:], at, self.known[ask.job].table, True)

    def _reach(self, known: Known, tokens: int, asked: set[Job]) -> bool:
        """Room for so many tokens, for which others that are not asked about may have to go. False: there is none."""
        lacking = -(-tokens // self.block) - len(known.table)
        while lacking > len(self.free):
            oldest = next((job for job in self.known if job not in asked), None)
            if oldest is None:
                return False
            self.forget(oldest)
        for _ in range(lacking):
            known.table.append(self.free.pop())
        return True
