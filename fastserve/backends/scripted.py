"""ScriptedExecutor: the interface of the real one, without torch. Times come from a latency model, text from a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns

from fastserve.engine.clock import Clock
from fastserve.engine.request import Piece, Request
from fastserve.hardware import Hardware
from fastserve.sched.job import Job
from fastserve.sched.plan import Copy, Outcome, Plan

PRINTABLE = tuple(range(32, 127))
"""The bytes of printable ASCII."""

Fail = Callable[[Job, int], object]
"""(job, index of its next token) -> anything; what it raises fails that request alone, a MemoryError the whole step."""

_MASK = (1 << 64) - 1


def draw(seed: int, index: int) -> int:
    """64 bits that depend on the two numbers alone (splitmix64 of Steele, Lea and Flood, OOPSLA 2014)."""
    z = (seed * 0xD1342543DE82EF95 + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class ScriptedExecutor:
    """One iteration at a time, in the time that the modelled machine would take. tokens: what it may say."""

    def __init__(
        self,
        hardware: Hardware,
        clock: Clock,
        *,
        tokens: Sequence[int] = PRINTABLE,
        eos: frozenset[int] = frozenset(),
        fail: Fail | None = None,
    ) -> None:
        self.hardware = hardware
        self.clock = clock
        self.tokens = tokens
        self.eos = eos
        self.fail = fail
        self.produced: list[tuple[Request, Piece]] = []
        self.model_ns = 0
        self.waited_ns = 0  # its copies are waited for with its iterations
        self.requests: dict[Job, Request] = {}
        self._ps = 0  # the modelled machine's own clock
        self._free_at = {True: 0, False: 0}  # by direction: ns, when its channel has nothing left to do
        self._moving: dict[Copy, int] = {}  # copies under way: ns, when they end

    def admit(self, job: Job, request: Request) -> None:
        self.requests[job] = request

    def forget(self, job: Job) -> None:
        self.requests.pop(job, None)

    def reset(self) -> None:
        self._moving.clear()

    def close(self) -> None:
        self.requests.clear()
        self._moving.clear()

    @property
    def copies(self) -> int:
        """How many are under way."""
        return len(self._moving)

    def run(self, plan: Plan) -> Outcome:
        speakers = [job for job, tokens in plan.work if job.decoding or _completes(job, tokens)]
        failed = self._try(speakers)
        start = max(self._ps, plan.now * 1000)
        stall = self._copy(plan) if plan.moves else 0
        start += stall * 1000
        chunks = [(job.prefilled, tokens) for job, tokens in plan.prefill]
        self._ps = start + self.hardware.latency.iteration_ps(plan.batch, plan.context, chunks)
        after = self._ps // 1000
        began = perf_counter_ns()
        self.clock.sleep_until(after)
        self.model_ns += perf_counter_ns() - began
        self.produced = [(self.requests[job], self._speak(job, failed.get(job))) for job in speakers]
        ended = [request.job for request, piece in self.produced if piece.finish_reason]
        return Outcome(1, after - plan.now - stall, stall, ended, self._landed(after), after - plan.now)

    def _try(self, speakers: list[Job]) -> dict[Job, Exception]:
        failed: dict[Job, Exception] = {}
        if self.fail is not None:
            for job in speakers:
                try:
                    self.fail(job, job.generated)
                except MemoryError:
                    raise
                except Exception as error:
                    failed[job] = error
        return failed

    def _speak(self, job: Job, error: Exception | None) -> Piece:
        request = self.requests[job]
        if error is not None:
            return request.end("error", f"{type(error).__name__}: {error}")
        tokens = self.tokens
        index = job.generated
        token = tokens[draw(request.seed, index) % len(tokens)]
        wanted = request.params.logprobs
        try:
            if wanted is None:
                return request.accept(token, self.eos)
            top = {tokens[(tokens.index(token) + i) % len(tokens)]: -1.0 - i for i in range(min(wanted, len(tokens)))}
            return request.accept(token, self.eos, -1.0, top)
        except Exception as problem:
            return request.end("error", f"{type(problem).__name__}: {problem}")

    def _landed(self, now: int) -> list[Copy]:
        landed = sorted([copy for copy, end in self._moving.items() if end <= now], key=self._moving.__getitem__)
        for copy in landed:
            del self._moving[copy]
        return landed

    def _copy(self, plan: Plan) -> int:
        """Starts the plan's copies: those out, then loads into the cleared room, then prefetches. Returns the stall."""
        now = plan.now
        for copy in plan.park:
            self._send(copy, now)
        clear = max([now, *[self._moving[copy] for copy in plan.clear]])
        for copy in plan.load:
            if copy not in self._moving:
                self._send(copy, clear)
        ready = max([clear, *[self._moving[copy] for copy in plan.load]])
        for copy in plan.prefetch:
            self._send(copy, clear)
        return ready - now

    def _send(self, copy: Copy, at: int) -> None:
        """Copies are served first come, first served, per direction."""
        link = self.hardware.link
        end = max(at, self._free_at[copy.out]) + link.copy_ns(copy.blocks * self.hardware.memory.block_bytes, copy.out)
        self._free_at[copy.out] = self._moving[copy] = end
        if not link.duplex:
            self._free_at[not copy.out] = end


def _completes(job: Job, tokens: int) -> bool:
    """Does this chunk end its prefill, so that it yields a token?"""
    return job.prefilled + tokens == job.prompt + job.generated
