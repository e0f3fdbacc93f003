"""ScriptedBackend: without a model or torch; times come from a latency model, tokens from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from fastserve.engine.backend import Failed, Result, Step, Token, Traits, Wanted
from fastserve.engine.byte_tokenizer import EOS, ByteTokenizer
from fastserve.engine.model_info import ModelInfo
from fastserve.engine.params import SamplingParams
from fastserve.hardware import DEFAULT, Hardware, Memory, load_hardware
from fastserve.sched.job import Job
from fastserve.sched.link import ModelledLink
from fastserve.sched.plan import Plan, Transfer
from fastserve.sched.units import Ids

PRINTABLE = tuple(range(32, 127))
"""The bytes of printable ASCII."""

Fail = Callable[[Job, int], object]
"""(job, index of its next token) -> anything; what it raises fails that request alone, a MemoryError the whole step."""

FailStep = Callable[[Plan], object] | Mapping[int, Exception]
"""What fails whole steps: called with each plan, it may raise; or what each of these calls of run() raises, from 0."""

_MASK = (1 << 64) - 1


def draw(seed: int, index: int) -> int:
    """64 bits that depend on the two numbers alone (splitmix64 of Steele, Lea and Flood, OOPSLA 2014)."""
    z = (seed * 0xD1342543DE82EF95 + (index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class _Script(NamedTuple):
    """What a job's tokens depend on. logprobs: how many likeliest tokens are reported; None: none are asked for."""

    seed: int
    logprobs: int | None


class ScriptedBackend:
    """One iteration at a time, in the time that the modelled machine would take.

    wanted: pools, in place of the machine's own. hardware: the machine (None: the default). fail, fail_step: what goes
    wrong. Whose clock is real lives its times in real time.
    """

    traits = Traits(swaps=True, exact="always", modelled=True, shares=True)

    def __init__(
        self,
        model: str = "scripted",
        wanted: Wanted | None = None,
        hardware: Hardware | None = None,
        *,
        max_model_len: int = 2048,
        fail: Fail | None = None,
        fail_step: FailStep | None = None,
    ) -> None:
        if max_model_len < 1:
            raise ValueError(f"max_model_len={max_model_len} must be at least 1 token")
        machine = load_hardware(DEFAULT) if hardware is None else hardware
        self.machine = machine if wanted is None else with_pools(machine, wanted)
        tokenizer = ByteTokenizer()
        self.info = ModelInfo("scripted", tokenizer, max_model_len, len(tokenizer), frozenset({EOS}),
                              backend="scripted")  # fmt: skip
        self.settings: dict[str, Any] = {"times": "modelled"}
        self.tokens = PRINTABLE
        self.fail = fail
        self.fail_step = fail_step
        self.scripts: dict[Job, _Script] = {}
        self._steps = 0
        self._ps = 0  # the modelled machine's own clock
        times, size = self.machine.link, self.machine.memory.block_bytes
        self.link = ModelledLink(lambda blocks, out: times.copy_ns(blocks * size, out), times.duplex)
        self._transfers: list[Transfer] = []  # of this step
        self.link.sent = self._transfers.append

    def hardware(self) -> Hardware:
        return self.machine

    def admit(self, job: Job, prompt: list[int], params: SamplingParams, seed: int) -> None:
        self.scripts[job] = _Script(seed, params.logprobs)

    def answer(self, job: Job, ids: Ids) -> None:
        """It has no KV: what a plan finds shortens the prefill, and that is all."""

    def forget(self, job: Job) -> None:
        self.scripts.pop(job, None)

    def reset(self) -> None:
        self.link.forget()

    def close(self) -> None:
        self.scripts.clear()
        self.link.forget()

    def held(self) -> dict[str, int]:
        """What it holds of its jobs: nothing, when all have departed."""
        return {"jobs": len(self.scripts), "copies": len(self.link.moving)}

    def run(self, plan: Plan) -> Step:
        self._fail_step(plan)
        speakers = plan.due
        failed = self._try(speakers)
        start = max(self._ps, plan.now * 1000)
        self._transfers.clear()
        stall = self.link.follow(plan) if plan.moves else 0
        start += stall * 1000
        chunks = [(plan.first(job), tokens) for job, tokens in plan.prefill]
        self._ps = start + self.machine.latency.iteration_ps(plan.batch, plan.context, chunks)
        after = self._ps // 1000
        results = [(job, failed.get(job) or self._speak(job)) for job in speakers]
        landed = self.link.landed(after)
        return Step(results, stall, landed, after - plan.now - stall, transfers=tuple(self._transfers))

    def _fail_step(self, plan: Plan) -> None:
        step, self._steps = self._steps, self._steps + 1
        if isinstance(self.fail_step, Mapping):
            if step in self.fail_step:
                raise self.fail_step[step]
        elif self.fail_step is not None:
            self.fail_step(plan)

    def _try(self, speakers: list[Job]) -> dict[Job, Failed]:
        failed: dict[Job, Failed] = {}
        if self.fail is not None:
            for job in speakers:
                try:
                    self.fail(job, job.generated)
                except MemoryError:
                    raise
                except Exception as error:
                    failed[job] = Failed(f"{type(error).__name__}: {error}")
        return failed

    def _speak(self, job: Job) -> Result:
        script = self.scripts[job]
        tokens = self.tokens
        token = tokens[draw(script.seed, job.generated) % len(tokens)]
        wanted = script.logprobs
        if wanted is None:
            return (Token(token),)
        top = {tokens[(tokens.index(token) + i) % len(tokens)]: -1.0 - i for i in range(min(wanted, len(tokens)))}
        return (Token(token, -1.0, top),)


def with_pools(hardware: Hardware, wanted: Wanted) -> Hardware:
    """The same machine with the pools that are asked for, rounded up to whole blocks."""
    block = wanted.block_tokens
    memory = hardware.memory
    bytes_per_token = memory.bytes_per_token or 1
    wanted = wanted.in_tokens(bytes_per_token)

    def whole(tokens: int) -> int:
        return -(-tokens // block) * block

    host_bytes = memory.host_bytes
    if wanted.host_tokens is not None:
        host_bytes = whole(wanted.host_tokens) * bytes_per_token
    device_tokens = memory.device_tokens if wanted.kv_tokens is None else wanted.kv_tokens
    if device_tokens is not None:
        device_tokens = whole(device_tokens)
    return replace(hardware, memory=Memory(block, device_tokens, host_bytes, bytes_per_token))
