"""InputProcessor: request admission: validation, tokenization, ids, seeds, guesses, deadlines, queue capacity."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

from fastserve.engine.adapters import Adapter
from fastserve.engine.clock import Clock
from fastserve.engine.config import EngineConfig
from fastserve.engine.constraints import ConstraintError, Speller
from fastserve.engine.detokenizer import TokenDecoder
from fastserve.engine.inbox import Inbox
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams
from fastserve.engine.programs import Programs
from fastserve.engine.request import Listener, Replayed, Request
from fastserve.engine.unit_names import UnitNames
from fastserve.metrics.finish import GAVE_UP
from fastserve.metrics.records import NO_SLO, Slo
from fastserve.sched.checks import LONGEST_S, seconds
from fastserve.sched.job import Job
from fastserve.sched.scheduler import Scheduler
from fastserve.sched.slo import NO_TARGETS, SloTargets
from fastserve.sched.units import Ids


class QueueFull(RuntimeError):
    """The queue is at capacity; retry when a request has ended."""


class InputProcessor:
    """Thread-safe. constrains, lacks: what the body's traits say. names: of units, where prefixes are cached."""

    def __init__(
        self, info: ModelInfo, serving: EngineConfig, clock: Clock, inbox: Inbox, constrains: bool = False,
        names: UnitNames | None = None, lacks: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.info = info
        self.lacks = lacks
        self.constrains = constrains
        self.names = names
        self.programs = Programs(None if names is None else names.unit)
        self.serving = serving
        self.clock = clock
        self.inbox = inbox
        self.slos: dict[int, Slo] = {}  # by id of a live job that has any
        self.outstanding = 0  # requests that count towards the bound of the queue
        self._guesser = serving.guesser()
        self._decoder = None if info.tokenizer is None else TokenDecoder(info.tokenizer)
        self._speller = Speller(info, self._decoder)
        self._rng = random.Random(serving.seed)
        self._lock = threading.Lock()
        self._next_id = 0

    def admit(
        self,
        scheduler: Scheduler,
        prompt: str | Sequence[int],
        params: SamplingParams | None,
        *,
        client: str,
        program: str,
        cache_salt: str,
        tool: str,
        calls: str,
        final: bool,
        priority: int,
        deadline_s: float | None,
        ttft_slo_s: float | None,
        tpot_slo_s: float | None,
        timeout_s: float | None,
        arrival: float | None,
        listener: Listener | None,
        beyond_capacity: bool,
        prepared: bool,
        replayed: Replayed | None = None,
        adapter: Adapter | None = None,
    ) -> Request:
        """Puts the request into the inbox. See Engine.submit()."""
        spans = {"deadline_s": deadline_s, "ttft_slo_s": ttft_slo_s, "tpot_slo_s": tpot_slo_s, "timeout_s": timeout_s}
        for name, span in spans.items():
            seconds(name, span)
        if arrival is not None and not abs(arrival) <= LONGEST_S:
            raise ValueError(f"arrival={arrival}: give seconds of the engine's now(), or None for now")
        slo = SloTargets(_ns(ttft_slo_s), _ns(tpot_slo_s), _ns(deadline_s))
        ids = self.info.encode(prompt)
        if params is None or not prepared:
            params = self.prepare(ids, params or SamplingParams())
        limit = self.info.limit(len(ids), params)
        detokenizer = None if self._decoder is None else self._decoder.detokenizer(params, ids)
        if params.stop and detokenizer is None:
            raise ValueError(f"stop strings need text, and model {self.info.name} has no tokenizer")
        root = b""
        named: Ids = ()
        answer: Ids | None = None
        if self.names is not None and replayed is not None and replayed.units is not None:
            named, answer = replayed.units
        elif self.names is not None:
            root = self.names.root(cache_salt, "" if adapter is None else adapter.scope)
            named = self.names.of_prompt(ids, root)
            program = program or self.programs.of(client, ids, named)
        guess = None
        if "guess" in scheduler.policy.needs:
            guess = params.guess
        with self._lock:
            at = self.clock.now() if arrival is None else round(arrival * 1e9)
            id = self._next_id if replayed is None else replayed.id
            job = Job(id, at, len(ids), limit, client, program, priority, slo.deadline(at), guess,
                      named, tool, final)  # fmt: skip
            if guess is None and self._guesser is not None and "guess" in scheduler.policy.needs:
                job.guess = self._guesser.predict(job, 0)
            if replayed is None or not replayed.late:
                scheduler.check(job)
            if not beyond_capacity:
                self._make_sure_of_room(scheduler.slots)
            seed = self._rng.getrandbits(63) if params.seed is None else params.seed
            request = Request(
                job, ids, params, seed, detokenizer, listener, self._uncounted if beyond_capacity else self._left, root,
                calls, answer, adapter,
            )  # fmt: skip
            self.programs.came(program, final)
            self.inbox.put(request)
            self._next_id = max(self._next_id, id + 1)
            self.outstanding += not beyond_capacity
            if slo != NO_TARGETS:
                self.slos[job.id] = slo.seconds()
        if timeout_s is not None:
            self.inbox.cancel(request, "timeout", at + round(timeout_s * 1e9))
        if replayed is not None and replayed.gives_up is not None:
            self.inbox.cancel(request, GAVE_UP, replayed.gives_up)
        return request

    def prepare(self, prompt: Sequence[int], params: SamplingParams) -> SamplingParams:
        """See Engine.prepare()."""
        params = params.resolved(self.info.defaults)
        for name in params.given & self.lacks if self.lacks else ():
            raise ConstraintError(name, f"backend {self.info.backend} cannot keep to {name} here; leave it out")
        if not params.constrained:
            return params
        if not self.constrains:
            raise ConstraintError(
                params.constrained[0], f"backend {self.info.backend} cannot constrain an output; leave it out"
            )
        return self._speller.spelled(params, prompt)

    def slo_of(self, id: int) -> Slo:
        """SLOs of a job, for the Recorder."""
        return self.slos.get(id, NO_SLO)

    def take_place(self, slots: int) -> None:
        """Counts a request that waits elsewhere in the bound of the queue, until give_place(). Raises QueueFull."""
        with self._lock:
            self._make_sure_of_room(slots)
            self.outstanding += 1

    def give_place(self) -> None:
        with self._lock:
            self.outstanding -= 1

    def _make_sure_of_room(self, slots: int) -> None:
        capacity = self.serving.queue_capacity
        if capacity is not None and self.outstanding >= capacity + slots:
            raise QueueFull(f"{self.outstanding} requests are in the engine, and no more than {capacity} may wait "
                            f"beside a batch of {slots}: try again later")  # fmt: skip

    def _left(self, request: Request) -> None:
        with self._lock:
            self.outstanding -= 1
        self._uncounted(request)

    def _uncounted(self, request: Request) -> None:
        self.slos.pop(request.job.id, None)
        for program in self.programs.left(request):
            self.inbox.end_program(program)


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)
