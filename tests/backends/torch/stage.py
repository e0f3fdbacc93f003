"""The torch body on a tiny model, driven by the engine's own loop, without a thread and on a clock of its own.

Each decode takes 1 ms and each 64 prefilled tokens one more, so that quanta of a few ms end all the time and a run does
not depend on how fast the machine is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fastserve.backends.torch.backend import TorchBackend
from fastserve.backends.torch.input_batch import InputBatch, Rows, pack
from fastserve.backends.torch.kv_cache import Cache
from fastserve.backends.torch.model import Model, load_model
from fastserve.engine.backend import Step, Wanted
from fastserve.engine.clock import VirtualClock
from fastserve.engine.inbox import Inbox
from fastserve.engine.loop import Loop
from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Request
from fastserve.engine.unit_names import UnitNames
from fastserve.hardware.machine_times import MachineTimes
from fastserve.metrics.records import Recorder
from fastserve.policies import make
from fastserve.sched.job import Job
from fastserve.sched.plan import Plan
from fastserve.sched.policy import Policy
from tests.backends.torch.block_audit import audit_blocks
from tests.backends.torch.families import write
from tests.sched.worlds import COARSE, MS, scheduler_of, tuned

BLOCK = 4
GREEDY = SamplingParams(max_tokens=12, temperature=0).resolved({})


def tiny(folder: Path, dtype: str = "float32", native: Any = "off", device: str = "cpu") -> Model:
    """A Llama of two layers, with weights that are the same in every run."""
    if not (folder / "config.json").is_file():
        write(folder, "llama")
    return load_model(folder, dtype=dtype, device=device, native=native)


def sharp(name: str) -> Policy:
    """The policy, with quanta of a few tokens."""
    return make("las", {"quantum": 0.003}) if name == "las" else tuned(name, True)


class Witness:
    """A model whose steps and logits are kept."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.steps: list[InputBatch] = []
        self.logits: list[torch.Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def forward(self, step: InputBatch, cache: Cache) -> torch.Tensor:
        logits = self.model.forward(step, cache)
        self.steps.append(step)
        self.logits.append(logits.clone())
        return logits


class Timed(TorchBackend):
    """Its iterations take the time that the script says. owners: whose each sequence of each step was, by job id."""

    def __init__(self, model: Any, wanted: Wanted) -> None:
        super().__init__(model, wanted)
        self.owners: list[list[int]] = []
        self._whose: list[int] = []

    def run(self, plan: Plan) -> Step:
        decodes = [job.id for job, _ in plan.work[len(plan.prefill) :]]
        self._whose = decodes + [job.id for job, _ in plan.prefill]
        step = super().run(plan)
        chunks = sum([tokens for _, tokens in plan.prefill])
        return replace(step, stall=0, service=MS * (1 + -(-chunks // 64)))

    def _forward(self, step: InputBatch) -> torch.Tensor:
        self.owners.append(self._whose)
        return super()._forward(step)


class QuickLoads(MachineTimes):
    """What the host has is always loaded."""

    def load_ns(self, tokens: int) -> int:
        return -1


class Stage:
    """options: of the Scheduler. facts: of the model, changed. Requests are given before play(); the tokens of each
    stand in tokens[id] after it.
    """

    def __init__(
        self, model: Model, policy: str, blocks: int, host: int, *, facts: dict[str, Any] | None = None, **options: Any
    ) -> None:
        options = {"max_batch": 4, "token_budget": 16 if options.get("batching", "chunked") == "chunked" else None,
                   "visit": 0, **options}  # fmt: skip
        self.clock = VirtualClock()
        self.witness = Witness(model)
        for name, value in (facts or {}).items():
            setattr(self.witness, name, value)
        unit = options.get("prefix_tokens")
        tier = options.get("host_prefix_tokens", 0)
        wanted = Wanted(BLOCK, blocks * BLOCK, host * BLOCK, unit_tokens=unit, host_prefix_tokens=tier)
        self.backend = Timed(self.witness, wanted)
        self.cache = self.backend.cache
        times = (QuickLoads if tier else MachineTimes)(COARSE, options["max_batch"], model.max_model_len)
        self.scheduler = scheduler_of(
            sharp(policy), times, device_blocks=blocks, host_blocks=host, block_tokens=BLOCK, macro=False,
            **options,
        )  # fmt: skip
        self.inbox = Inbox()
        self.names = UnitNames(unit or BLOCK) if options.get("prefix_cache") == "on" else None
        self.loop = Loop(self.scheduler, self.backend, Recorder(), self.clock, self.inbox, names=self.names)
        self.requests: list[Request] = []

    def add(
        self, prompt: list[int], params: SamplingParams = GREEDY, seed: int = 0, at: int = 0, salt: str = ""
    ) -> Request:
        assert params.max_tokens is not None
        id = len(self.requests)
        root = b"" if self.names is None else self.names.root(salt)
        ids = () if self.names is None else self.names.of(prompt, root=root)
        job = Job(id, at, len(prompt), params.max_tokens, priority=id * 7 % 5, program=f"p{id // 4}",
                  guess=params.max_tokens, ids=ids)  # fmt: skip
        request = Request(job, prompt, params, params.seed if params.seed is not None else seed, None, root=root)
        self.requests.append(request)
        self.inbox.put(request)
        return request

    def cancel(self, id: int, at: int) -> None:
        self.inbox.cancel(self.requests[id], "cancelled", at)

    def go(self) -> None:
        """Until all have ended; blocks are audited at each boundary."""
        while not self.inbox.empty or self.scheduler.live:
            if not self.loop.turn():
                self.loop.now = max(self.loop.now, min(self.inbox.next(), self.scheduler.opens_at()))
                self.clock.sleep_until(self.loop.now)
                self.loop.tick(self.loop.now)
            audit_blocks(self.backend.blocks, self.scheduler)

    def play(self, failed_steps: int = 0) -> list[list[int]]:
        """go(), with so many failed steps on the way. Returns the tokens of all requests."""
        self.go()
        assert self.loop.counters["failed_steps"] == failed_steps
        assert not any(self.backend.held().values())
        blocks = self.backend.blocks
        blocks.reset()
        assert len(blocks.device.free) == self.cache.blocks
        assert len(blocks.host.free) == self.cache.host_blocks
        self.backend.close()
        return [request.tokens for request in self.requests]

    @property
    def preemptions(self) -> list[int]:
        return [request.job.preemptions for request in self.requests]


def alone(model: Model, prompt: list[int], params: SamplingParams = GREEDY, seed: int = 0) -> list[int]:
    """The tokens of one uninterrupted request."""
    stage = Stage(model, "fcfs", 64, 0)
    stage.add(prompt, params, seed)
    return stage.play()[0]


def by_request(stage: Stage) -> list[torch.Tensor]:
    """(tokens, vocabulary) of each request: the logits that its tokens were taken from."""
    found: list[list[torch.Tensor]] = [[] for _ in stage.requests]
    for step, logits, owners in zip(stage.witness.steps, stage.witness.logits, stage.backend.owners, strict=True):
        ends = (step.starts[1:] - 1).tolist()
        for row, at in zip(logits, step.wanted.tolist(), strict=True):
            found[owners[ends.index(at)]].append(row)
    return [torch.stack(rows) for rows in found]


def forced(model: Model, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """The logits that a request alone would have seen on its way to these tokens."""
    width = -(-(len(prompt) + len(tokens)) // BLOCK)
    cache = Cache(model.layers, model.kv_heads, model.head_dim, width, 0, BLOCK, model.dtype, model.device)
    with torch.inference_mode():
        rows = [model.forward(pack([], [Rows(prompt, 0, range(width), True)], BLOCK), cache)]
        for i, token in enumerate(tokens[:-1]):
            step = pack([Rows([token], len(prompt) + i, range(width), True)], [], BLOCK)
            rows.append(model.forward(step, cache))
    return torch.cat(rows)


def distances(stage: Stage, rounded: Model, exact: Model) -> tuple[float, float]:
    """(how far the logits of a run on `rounded` were from those of each request alone, how far these are from exact).

    The largest over all requests and tokens; exact: the same weights in float32.
    """
    apart = rounding = 0.0
    for request, seen in zip(stage.requests, by_request(stage), strict=True):
        undisturbed = forced(rounded, request.prompt, request.tokens)
        apart = max(apart, (seen - undisturbed).abs().max().item())
        rounding = max(rounding, (undisturbed - forced(exact, request.prompt, request.tokens)).abs().max().item())
    return apart, rounding
