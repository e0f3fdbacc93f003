"""The torch body on a tiny model, driven by the engine's own loop, without a thread and on a clock of its own.

Each decode takes 1 ms and each 64 prefilled tokens one more, so that quanta of a few ms end all the time and a run does
not depend on how fast the machine is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from fastserve.engine.sampler.drafts import Drawn
from fastserve.engine.unit_names import UnitNames
from fastserve.hardware.machine_times import MachineTimes
from fastserve.metrics.records import Recorder
from fastserve.policies import make
from fastserve.sched.job import Job
from fastserve.sched.kv import Ledger
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
    """Its iterations take the time that the script says. owners: whose each sequence of each step was, by job id.

    drafted, accepted: sums of all steps. Each step is held to what the ledger has reserved.
    """

    def __init__(self, model: Any, wanted: Wanted, speculate: str = "off") -> None:
        super().__init__(model, wanted, speculate=speculate)
        self.owners: list[list[int]] = []
        self.ledger: Ledger | None = None
        self.drafted = self.accepted = 0
        self._plan: Plan | None = None

    def run(self, plan: Plan) -> Step:
        self._plan = plan
        step = super().run(plan)
        self.drafted += sum([drafted for _, drafted, _ in step.drafts])
        self.accepted += sum([accepted for *_, accepted in step.drafts])
        chunks = sum([tokens for _, tokens in plan.prefill])
        return replace(step, stall=0, service=MS * (1 + -(-chunks // 64)))

    def _step(self, plan: Plan, drafts: Mapping[Job, Sequence[int]]) -> list[tuple[Job, Drawn]]:
        self._drafts = drafts
        for job in plan.members:
            assert self.ledger is None or len(self.blocks.table(job)) <= self.ledger.need(job)
        return super()._step(plan, drafts)

    def _forward(self, step: InputBatch) -> torch.Tensor:
        plan = self._plan
        assert plan is not None
        decodes = [job for job, _ in plan.work[len(plan.prefill) :]]
        whose = [job for job in decodes for _ in range(1 + len(self._drafts.get(job, ())))]
        whose += [job for job, _ in plan.prefill]
        self.owners.append([job.id for job in whose])
        self._check_writes(step, whose)
        return super()._forward(step)

    def _check_writes(self, step: InputBatch, whose: list[Job]) -> None:
        """Each row goes into a block of its own job's table that is nobody else's, nor a unit's: a job shares what is
        complete, and drafts are not.
        """
        shared = {block for blocks in self.blocks.units.values() for block in blocks}
        blocks = (step.slots // BLOCK).tolist()
        written: dict[int, Job] = {}
        for job, first, end in zip(whose, step.starts.tolist(), step.starts.tolist()[1:], strict=False):
            for row in range(first, end):
                assert blocks[row] == self.blocks.table(job)[int(step.positions[row]) // BLOCK]
                assert blocks[row] not in shared
                assert written.setdefault(blocks[row], job) is job


class QuickLoads(MachineTimes):
    """What the host has is always loaded."""

    def load_ns(self, tokens: int) -> int:
        return -1


class Stage:
    """options: of the Scheduler. facts: of the model, changed. speculate: of the body. Requests are given before
    play(); the tokens of each stand in tokens[id] after it.
    """

    def __init__(
        self, model: Model, policy: str, blocks: int, host: int, *, facts: dict[str, Any] | None = None,
        speculate: str = "off", **options: Any,
    ) -> None:  # fmt: skip
        options = {"max_batch": 4, "token_budget": 16 if options.get("batching", "chunked") == "chunked" else None,
                   "visit": 0, **options}  # fmt: skip
        self.clock = VirtualClock()
        self.witness = Witness(model)
        for name, value in (facts or {}).items():
            setattr(self.witness, name, value)
        unit = options.get("prefix_tokens")
        tier = options.get("host_prefix_tokens", 0)
        wanted = Wanted(BLOCK, blocks * BLOCK, host * BLOCK, unit_tokens=unit, host_prefix_tokens=tier)
        self.backend = Timed(self.witness, wanted, speculate)
        self.cache = self.backend.cache
        times = (QuickLoads if tier else MachineTimes)(COARSE, options["max_batch"], model.max_model_len)
        self.scheduler = scheduler_of(
            sharp(policy), times, device_blocks=blocks, host_blocks=host, block_tokens=BLOCK, macro=False,
            lookahead=self.backend.traits.lookahead, **options,
        )  # fmt: skip
        self.backend.ledger = self.scheduler.ledger
        self.inbox = Inbox()
        self.names = UnitNames(unit or BLOCK) if options.get("prefix_cache") == "on" else None
        self.loop = Loop(self.scheduler, self.backend, Recorder(), self.clock, self.inbox, names=self.names)
        self.requests: list[Request] = []

    def add(
        self, prompt: list[int], params: SamplingParams = GREEDY, seed: int = 0, at: int = 0, salt: str = "",
        adapter: str = "",
    ) -> Request:  # fmt: skip
        assert params.max_tokens is not None
        id = len(self.requests)
        has = self.backend.adapters[adapter] if adapter else None
        root = b"" if self.names is None else self.names.root(salt, "" if has is None else has.scope)
        ids = () if self.names is None else self.names.of(prompt, root=root)
        job = Job(id, at, len(prompt), params.max_tokens, priority=id * 7 % 5, program=f"p{id // 4}",
                  guess=params.max_tokens, ids=ids)  # fmt: skip
        request = Request(job, prompt, params, params.seed if params.seed is not None else seed, None, root=root,
                          adapter=has)  # fmt: skip
        self.requests.append(request)
        self.inbox.put(request)
        return request

    def cancel(self, id: int, at: int) -> None:
        self.inbox.cancel(self.requests[id], "cancelled", at)

    def go(self) -> None:
        """Until all have ended; blocks are audited at each boundary."""
        while not self.inbox.empty or self.scheduler.live:
            if not self.loop.turn():
                if self.inbox.empty and not self.scheduler.live:  # all that came was a cancel too late
                    break
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


def alone(
    model: Model, prompt: list[int], params: SamplingParams = GREEDY, seed: int = 0, adapter: str = ""
) -> list[int]:
    """The tokens of one uninterrupted request."""
    stage = Stage(model, "fcfs", 64, 0)
    stage.add(prompt, params, seed, adapter=adapter)
    return stage.play()[0]


def by_request(stage: Stage) -> list[torch.Tensor]:
    """(tokens, vocabulary) of each request: the logits that its tokens were taken from. Of a token that was drafted
    before in vain the last ones.
    """
    found: list[dict[int, torch.Tensor]] = [{} for _ in stage.requests]  # by position
    for step, logits, owners in zip(stage.witness.steps, stage.witness.logits, stage.backend.owners, strict=True):
        ends = (step.starts[1:] - 1).tolist()
        for row, at in zip(logits, step.wanted.tolist(), strict=True):
            found[owners[ends.index(at)]][int(step.positions[at])] = row
    rows = []
    for request, seen in zip(stage.requests, found, strict=True):
        first = len(request.prompt) - 1
        rows.append(torch.stack([seen[at] for at in range(first, first + len(request.tokens))]))
    return rows


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
