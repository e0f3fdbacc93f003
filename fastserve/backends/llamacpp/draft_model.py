"""DraftModel: guesses by a second, smaller GGUF file of the same vocabulary, for all jobs of an iteration at once.

Its KV is its own and never in the Scheduler's books: a bounded context in which a job that is guessed for displaces
those that have not been for longest. All of it may be forgotten at any time; a job then begins with its text again,
some tokens an iteration, and has no guesses meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from fastserve.backends.llamacpp.context import Context
from fastserve.backends.llamacpp.library import MOST_SEQUENCES
from fastserve.backends.llamacpp.measure import bytes_per_token, measure
from fastserve.backends.llamacpp.model import Model, load_model
from fastserve.engine.backend import Wanted
from fastserve.engine.host_memory import free_host_memory
from fastserve.engine.sampler.jobs import Part
from fastserve.engine.sampler.results import SamplingError
from fastserve.engine.sampler.sampler import Floats, Sampler
from fastserve.engine.sampler.state import SamplingState
from fastserve.hardware import LatencyModel, Memory
from fastserve.sched.job import Job
from fastserve.speculation.draft import CATCH_UP, check_vocabulary, part, pool_tokens
from fastserve.speculation.proposer import Ask

log = logging.getLogger("fastserve")

_LOADED: WeakKeyDictionary[Model, dict[str, Model]] = WeakKeyDictionary()  # by target and name: engines share them


@dataclass(slots=True, eq=False)
class Known:
    """What the draft model has of a job. done: tokens whose KV is right. base: of its text when it was last guessed
    for, and how many tokens were.
    """

    row: int
    done: int = 0
    base: int = 0
    drafted: int = 0


def load_draft(name: str, target: Model) -> Model:
    """As the target; the target itself where the name is its own. Raises as load_model() does, and ValueError for
    another vocabulary.
    """
    if name == target.name:
        return target
    loaded = _LOADED.setdefault(target, {})
    if name not in loaded:
        draft = load_model(
            name, dtype=target.cache_type, threads=target.threads, gpu_layers=target.gpu_layers,
        )  # fmt: skip
        check_vocabulary(draft, target)
        loaded[name] = draft
    return loaded[name]


class DraftModel:
    """A Proposer. Ask.how is the SamplingState of the job: guesses are drawn as its tokens are, with its seed's own
    numbers, but for penalties and constraints. wanted: of the target's memory. vocabulary: of the target.
    """

    def __init__(self, model: Model, wanted: Wanted, vocabulary: int) -> None:
        self.model = model
        self.vocabulary = vocabulary
        most = wanted.max_batch * model.max_model_len
        most = most if wanted.kv_tokens is None else min(most, wanted.kv_tokens)
        tokens = pool_tokens(free_host_memory(), bytes_per_token(model), most)
        rows = min(MOST_SEQUENCES, 2 * wanted.max_batch)
        self.context = Context(model, max(256, tokens), rows, rows)
        self.sampler = Sampler(model.suppress)
        self.known: dict[Job, Known] = {}  # the one that was guessed for last at the end
        self._free = list(range(rows))
        self._closed = False
        log.info("draft model %s: a pool of %d tokens", model.name, self.context.cells)

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
            self._cut(known, known.base + min(accepted, known.drafted - 1))

    def latency(self, max_batch: int) -> LatencyModel:
        return measure(self.context, Memory(), min(max_batch, self.context.sequences)).latency

    def forget(self, job: Job) -> None:
        known = self.known.pop(job, None)
        if known is not None:
            self._cut(known, 0)
            self._free.append(known.row)

    def reset(self) -> None:
        self.known.clear()
        self.context.clear()
        self._free = list(range(self.context.sequences))

    def held(self) -> int:
        return len(self.known)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.reset()
            self.context.free()

    # -- how -------------------------------------------------------------------------------------------------------

    def _guess(self, asks: Sequence[Ask], found: list[list[int]]) -> None:
        """Reads what is new of the texts, and goes on where a text has been read to its end."""
        parts: list[tuple[int, Part]] = []
        who: list[int] = []  # asks whose text has been read to its end, in the order of their logits
        budget = CATCH_UP
        asked = {ask.job for ask in asks}
        for i, ask in enumerate(asks):
            known = self._known(ask.job, asked)
            if known is None:
                continue
            end = len(ask.prompt) + len(ask.tokens)
            new = end - known.done
            most = min(ask.most, self.model.max_model_len - end + 1)
            few = new <= 1 + ask.most
            take = new if few else min(new, budget)
            if most < 1 or not take or not self._room(take + most, asked):
                continue
            budget -= 0 if few else take
            text = part(ask.prompt, ask.tokens, known.done, known.done + take)
            parts.append((known.row, Part(ask.job, text, known.done, int(take == new))))
            known.done += take
            known.base, known.drafted = known.done, 1
            if take == new:
                who.append(i)
        if not parts:
            return
        logits = self.context.decode(parts)
        for depth in range(max([asks[i].most for i in who], default=0)):
            if depth:
                logits = self.context.decode([self._next(asks[i], found[i]) for i in who])
            who = self._draw(logits, asks, found, who, depth)
            if not who:
                return

    def _draw(
        self, logits: Floats, asks: Sequence[Ask], found: list[list[int]], who: list[int], depth: int
    ) -> list[int]:
        """A guess more for each; returns who goes on."""
        states: list[SamplingState] = [asks[i].how.ahead(depth) for i in who]
        going = []
        for i, one in zip(who, self.sampler.sample(logits.copy(), states), strict=True):
            if isinstance(one, SamplingError) or one.token >= self.vocabulary:
                continue
            found[i].append(one.token)
            ask = asks[i]
            self.known[ask.job].drafted = depth + 1
            if depth + 1 < ask.most and len(ask.prompt) + len(ask.tokens) + depth + 1 <= self.model.max_model_len:
                going.append(i)
        return going

    def _next(self, ask: Ask, guessed: Sequence[int]) -> tuple[int, Part]:
        known = self.known[ask.job]
        at = len(ask.prompt) + len(ask.tokens) + len(guessed) - 1
        known.done = at + 1
        return known.row, Part(ask.job, list(guessed[-1:]), at, 1)

    def _known(self, job: Job, asked: set[Job]) -> Known | None:
        """At the end of those that are known. None where there is no sequence for it."""
        known = self.known.pop(job, None)
        if known is None:
            if not self._free and not self._displace(asked):
                return None
            known = Known(self._free.pop())
        self.known[job] = known
        return known

    def _room(self, tokens: int, asked: set[Job]) -> bool:
        """For so many more tokens, for which others that are not asked about may have to go. False: there is none."""
        while sum([one.done for one in self.known.values()]) + tokens > self.context.cells:
            if not self._displace(asked):
                return False
        return True

    def _displace(self, asked: set[Job]) -> bool:
        oldest = next((job for job in self.known if job not in asked), None)
        if oldest is None:
            return False
        self.forget(oldest)
        return True

    def _cut(self, known: Known, done: int) -> None:
        """Only so many tokens of it are right."""
        if done < known.done:
            self.context.remove(known.row, done)
            known.done = done
