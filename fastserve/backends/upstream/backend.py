"""UpstreamBackend: a Plan becomes streams of another server. A join opens one, a leave closes it, and a return asks for
the prompt with all that has come so far. An iteration lasts until something came from any stream.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from time import monotonic, perf_counter_ns
from typing import Any, Final

from fastserve.backends.options import OLLAMA
from fastserve.backends.upstream.api import Facts
from fastserve.backends.upstream.connection import Address, Connection
from fastserve.backends.upstream.detect import APIS, find
from fastserve.backends.upstream.outside import Pace, Report, guessed
from fastserve.backends.upstream.prompt import read_prompt
from fastserve.backends.upstream.stream import COUNT_S, Answer, Hub
from fastserve.backends.upstream.tokenizer import UpstreamTokenizer, load_tokenizer
from fastserve.engine.backend import CopyTime, Ended, Failed, Result, Step, Timed, Token, Traits, Wanted
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams
from fastserve.hardware import Hardware, Memory
from fastserve.named_models import NAMES
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan

log = logging.getLogger("fastserve")

KEY: Final = "FASTSERVE_UPSTREAM_KEY"
"""Environment variable of the key, for commands whose lines others may see."""

PATIENCE_S: Final = 0.02
"""Seconds that an iteration waits for something to come."""

GATHER_S: Final = 0.001
"""Seconds that it goes on waiting for the others: a server's tokens of one step come within this."""

LOOKAHEAD: Final = 7
"""Tokens beyond the next one that are handed out in one iteration, where several came."""

USUAL_CONTEXT: Final = 4096
"""Tokens of the context, where nobody says."""

STOP_S: Final = 2.0
"""Seconds that a close waits for threads that have been cut off."""


class UpstreamBackend:
    """model: as the upstream calls it; None, or one that only this package knows: its only one. hardware: its times.

    upstream: its address. upstream_api: auto, openai or ollama. upstream_key: of `Authorization: Bearer` (None: that of
    the environment). upstream_slots: requests at once (None: it is asked). tokenizer: the model's own (None: tokens are
    estimated). max_model_len: tokens of the context (None: it is asked). upstream_wait: seconds for it to come up, at
    the start and when it is gone later. upstream_silence: seconds for which a stream may say nothing. lookahead: see
    LOOKAHEAD.

    Raises ValueError, and ConnectionError where nobody answers.
    """

    def __init__(
        self,
        model: str | None = None,
        wanted: Wanted | None = None,
        hardware: Hardware | None = None,
        *,
        upstream: str | None = None,
        upstream_api: str = "auto",
        upstream_key: str | None = None,
        upstream_slots: int | None = None,
        upstream_wait: int = 60,
        upstream_silence: int = 600,
        tokenizer: Any = None,
        max_model_len: int | None = None,
        lookahead: int = LOOKAHEAD,
    ) -> None:
        if upstream_api not in APIS:
            raise ValueError(f"upstream_api={upstream_api!r}: give {', '.join(APIS)}")
        for name, value in (("upstream_slots", upstream_slots), ("max_model_len", max_model_len)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not upstream_silence > 0 or not upstream_wait >= 0:
            raise ValueError("upstream_silence must be above 0 seconds, and upstream_wait at least 0")
        if upstream is None:
            if upstream_api != "ollama":
                raise ValueError("backend upstream needs to know where: give upstream, as http://127.0.0.1:11434")
            upstream = OLLAMA
        key = upstream_key if upstream_key is not None else os.environ.get(KEY)
        self.address = Address(upstream, key)
        real = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
        named = None if model is None or model in NAMES else str(model)
        self.api, facts = find(Connection(self.address), upstream_api, named, max_model_len, upstream_wait)
        wanted = wanted or Wanted()
        self.tokenizer = UpstreamTokenizer(real, facts.vocabulary)
        if hasattr(self.api, "tokenizer"):
            self.api.tokenizer = self.tokenizer
        slots, why = self._slots(facts, upstream_slots)
        context = self._context(facts, max_model_len)
        self.max_batch = wanted.max_batch if slots is None else min(slots, wanted.max_batch)
        self.memory = places(wanted, self.max_batch, context + lookahead)
        self.traits = Traits(
            swaps=False, exact="no", uneven=True, lookahead=lookahead, slots=slots, lacks=self.api.lacks,
            estimates=self.tokenizer.estimates,
        )  # fmt: skip
        self.info = ModelInfo(
            facts.model, self.tokenizer, context, self.tokenizer.vocab_size, frozenset(), facts.defaults,
            device=facts.about, backend="upstream",
        )  # fmt: skip
        self.settings: dict[str, Any] = {
            "upstream": self.address.url, "upstream_api": self.api.name, "upstream_about": facts.about,
            "upstream_slots": slots, "upstream_slots_why": why,
            "tokens": "estimated" if self.tokenizer.estimates else "counted by the model's tokenizer",
        }  # fmt: skip
        self.hub = Hub(self.address, self.api, self.tokenizer, upstream_silence, upstream_wait)
        self.answers: dict[Job, Answer] = {}
        self._hardware: Hardware | None = None
        if hardware is not None:
            self.use(hardware, "as given")
        if slots is None or "does not say" in why:
            log.warning("upstream %s: %s", self.address.url, why)

    def _slots(self, facts: Facts, asked: int | None) -> tuple[int | None, str]:
        if asked is not None:
            return asked, "as given"
        if facts.slots is None:
            return None, "it does not say how many it serves at once: max_batch counts, or give upstream_slots"
        return facts.slots, facts.slots_why

    def _context(self, facts: Facts, asked: int | None) -> int:
        if facts.context is not None and asked is not None and asked > facts.context:
            log.warning("max_model_len=%d: the upstream takes %d tokens, and so does this", asked, facts.context)
            return facts.context
        if asked is None and facts.context is None:
            log.warning("the upstream does not say how long a context may be: %d is assumed, or give max_model_len",
                        USUAL_CONTEXT)  # fmt: skip
        return asked or facts.context or USUAL_CONTEXT

    # -- its times -------------------------------------------------------------------------------------------------

    def hardware(self) -> Hardware:
        if self._hardware is None:
            self.use(guessed(self.memory), "a guess: `fastserve profile --backend upstream` measures them")
        assert self._hardware is not None
        return self._hardware

    def use(self, hardware: Hardware, origin: str) -> None:
        self._hardware = replace(hardware, memory=self.memory)
        self.settings["times"] = origin

    @property
    def facts(self) -> dict[str, Any]:
        return {"upstream": self.address.url, "api": self.api.name, "model": self.info.name, "slots": self.traits.slots}

    def copy_times(self) -> list[CopyTime]:
        """It copies nothing."""
        return []

    def timed(self, budget_s: float, longest: int | None = None, report: Report | None = None) -> list[Timed]:
        """From outside. Before any request."""
        return Pace(self.hub, self.max_batch, self.info).measure(budget_s, longest, report)

    # -- its jobs --------------------------------------------------------------------------------------------------

    def admit(self, job: Job, prompt: list[int], params: SamplingParams, seed: int) -> None:
        most = job.limit if params.stop_after is None else min(job.limit, params.stop_after)
        self.answers[job] = Answer(read_prompt(prompt, self.tokenizer), params, seed, most)

    def run(self, plan: Plan) -> Step:
        began = perf_counter_ns()
        for job in plan.left:
            self._close(job)
        members = plan.members
        for job in members:
            answer = self.answers[job]
            if answer.stream is None and answer.ended is None:
                self.hub.open(answer)
        due = plan.due
        answers = [self.answers[job] for job in due]
        if members:
            # Chunks of a prefill are in the brain's books alone: the upstream has the whole prompt. They go by at once.
            self._wait(answers, PATIENCE_S if len(due) == len(members) else GATHER_S)
        results = [(job, result) for job in due if (result := self._next(self.answers[job])) is not None]
        return Step(results, model_ns=perf_counter_ns() - began)

    def _wait(self, answers: Sequence[Answer], most_s: float) -> None:
        """Until one of them has something, or for so long; then a moment for those who come along."""
        changed = self.hub.changed
        with changed:
            if not changed.wait_for(lambda: any(map(_ready, answers)), most_s):
                return
            if len(answers) > 1:
                changed.wait_for(lambda: all(map(_ready, answers)), GATHER_S)

    def _next(self, answer: Answer) -> Result | None:
        """What is handed out now; None: nothing came."""
        with self.hub.changed:
            if answer.kept is not None and monotonic() - answer.kept[1] > COUNT_S:
                answer.let_go()
            waiting = answer.waiting
            tokens = [Token(id) for id in islice(waiting, 1 + self.traits.lookahead)]
            for _ in tokens:
                waiting.popleft()
            ended = answer.ended
            if waiting or ended is None:
                return tokens or None
            if ended.reason != "error":
                prompt, output = ended.prompt, ended.output
                return Ended(tokens, ended.reason, None if prompt is None or output is None else (prompt, output))
            return tokens or Failed(ended.error)

    def _close(self, job: Job) -> None:
        answer = self.answers.get(job)
        if answer is not None:
            self.hub.close(answer)

    def forget(self, job: Job) -> None:
        self._close(job)
        self.answers.pop(job, None)

    def reset(self) -> None:
        for answer in self.answers.values():
            self.hub.close(answer)

    def close(self) -> None:
        self.reset()
        self.answers.clear()
        join(self.hub, STOP_S)

    def held(self) -> dict[str, int]:
        """What it holds of its jobs: nothing, when all have departed and their threads have ended."""
        with self.hub.changed:
            return {
                "jobs": len(self.answers),
                "streams": sum(not stream.closes.is_set() for stream in self.hub.streams),
            }

    def busy(self) -> int | None:
        """Requests that the upstream works on now, as it says; None: it does not say. Any thread."""
        return self.api.busy(Connection(self.address))


def places(wanted: Wanted, slots: int, longest: int) -> Memory:
    """The pool: a block a place, as large as a job can become, unless kv_tokens says otherwise. Who leaves so gives up
    what it has, as there, and coming back costs a prefill in the brain's books too: so the visit guard counts it.
    """
    usual = Wanted().block_tokens
    if wanted.kv_tokens is not None:
        block = wanted.block_tokens
        return Memory(block, max(block, wanted.kv_tokens // block * block), 0)
    if wanted.block_tokens != usual:
        raise ValueError(f"block_tokens={wanted.block_tokens}: in front of an upstream it goes with kv_tokens")
    return Memory(longest, slots * longest, 0)


def _ready(answer: Answer) -> bool:
    return bool(answer.waiting) or answer.ended is not None


def join(hub: Hub, most_s: float) -> None:
    """Waits for the threads of streams that are closed."""
    with hub.changed:
        hub.changed.wait_for(lambda: not hub.streams, most_s)
        left: Iterable[object] = list(hub.streams)
    if left:
        log.debug("%d threads of closed streams still end", len(list(left)))
