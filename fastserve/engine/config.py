"""EngineConfig: every setting of an engine that does not depend on its model, and the Scheduler that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from typing import Any

from fastserve import predictors
from fastserve.hardware import Hardware
from fastserve.hardware.machine_times import MachineTimes
from fastserve.policies import find, knobs, make
from fastserve.sched.batching import usual_budget
from fastserve.sched.config import Blocks, SchedulerConfig
from fastserve.sched.job import NEVER
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler

PolicyLike = str | type[Policy] | Callable[[], Policy]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """ValueError for what cannot work."""

    policy: PolicyLike = "sj-mlfq"
    """who goes first: a name, module:Class, a class, or a function that makes one"""
    knobs: Mapping[str, Any] = field(default_factory=dict)
    """keywords of the policy's constructor"""
    max_batch: int = 16
    """batch cap: how many requests share an iteration"""
    batching: str = "chunked"
    """shape of an iteration: mixed, prefill-first, chunked or static"""
    token_budget: int | None = None
    """tokens an iteration (None: the batching's own)"""
    residency: str = "proactive"
    """where preempted KV goes: recompute, reactive or proactive (swap to the host), or defer"""
    visit: int = 64
    """visit guard: while memory is short a visit lasts this many times the cost of coming back; 0 is off"""
    kv_tokens: int | None = None
    """device KV pool in tokens (None: what the memory allows)"""
    host_tokens: int | None = None
    """host KV pool in tokens (None: what the memory allows)"""
    block_tokens: int = 16
    """tokens of a KV block"""
    predictor: str | None = None
    """guesses for policies that need one: constant:TOKENS, client (each request brings its own), or None"""
    queue_capacity: int | None = None
    """requests that may wait beside a full batch before more are refused (None: no bound)"""
    keep_records: int | None = 10_000
    """records of finished requests that are kept at least (None: all)"""
    flight_log: str | PathLike[str] | None = None
    """file for everything that the Scheduler is told and answers, JSON lines (None: none is written)"""
    seed: int = 0
    """what the seeds of requests without their own are drawn from"""

    def __post_init__(self) -> None:
        for name, least in (("kv_tokens", self.block_tokens), ("host_tokens", 0), ("queue_capacity", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}: give at least {least}")
        if self.predictor not in (None, "client") and not str(self.predictor).startswith("constant"):
            raise ValueError(f"predictor={self.predictor!r}: a live engine knows no true lengths; give constant:TOKENS "
                             f"or client, by which each request brings its guess")  # fmt: skip
        kind = self.kind
        if "guess" in getattr(kind, "needs", ()) and self.predictor is None:
            raise ValueError(f"policy {self.name} needs a guess of each output's length: set predictor to "
                             f"constant:TOKENS (on the command line: --predictor constant:TOKENS), or to client where "
                             f"requests bring their own")  # fmt: skip
        ranks = (getattr(kind, "rank", None), getattr(kind, "waiting", None))
        if ranks == (Policy.rank, Policy.waiting):
            raise ValueError(f"policy {self.name} must define rank(self, job): any comparable value, the smaller goes "
                             f"first")  # fmt: skip

    @staticmethod
    def of(settings: Mapping[str, Any]) -> EngineConfig:
        """From keywords. ValueError that lists the valid ones for an unknown one."""
        valid = [entry.name for entry in fields(EngineConfig)]
        for name in settings:
            if name not in valid:
                raise ValueError(f"an engine has no setting {name!r}; it has {', '.join(valid)}")
        return EngineConfig(**{name: value for name, value in settings.items() if name != "knobs" or value is not None})

    @property
    def kind(self) -> type[Policy] | Callable[[], Policy]:
        return find(self.policy) if isinstance(self.policy, str) else self.policy

    @property
    def name(self) -> str:
        """Of the policy: as find() takes it, where that is possible."""
        if isinstance(self.policy, str):
            return self.policy
        module, name = getattr(self.policy, "__module__", ""), getattr(self.policy, "__qualname__", repr(self.policy))
        return f"{module}:{name}"

    def fresh_policy(self) -> Policy:
        if isinstance(self.policy, str):
            return make(self.policy, dict(self.knobs))
        if isinstance(self.policy, Policy):
            raise ValueError(f"give the class {type(self.policy).__name__} and not an object of it")
        if isinstance(self.policy, type):
            valid = knobs(self.policy)
            for key in self.knobs:
                if key not in valid:
                    raise ValueError(f"policy {self.name} has no setting {key!r}; it has {', '.join(valid) or 'none'}")
        made: Policy = self.policy(**self.knobs) if isinstance(self.policy, type) else self.policy()
        return made

    def predict(self) -> int | None:
        """The guess for a request that brings none."""
        predictor = predictors.make(self.predictor) if self.predictor not in (None, "client") else None
        return predictor.tokens if isinstance(predictor, predictors.Constant) else None

    def scheduler_config(self, hardware: Hardware) -> SchedulerConfig:
        """What these settings make of the Scheduler's; the blocks are the hardware's."""
        return SchedulerConfig(
            max_batch=self.max_batch,
            batching=self.batching,
            token_budget=self.token_budget,
            block_tokens=hardware.memory.block_tokens,
            residency=self.residency,
            visit=self.visit,
        )

    def scheduler(self, policy: Policy, hardware: Hardware, longest: int) -> Scheduler:
        """longest: tokens of the longest prompt that will be accepted."""
        times = MachineTimes(hardware, self.max_batch, longest)
        blocks = Blocks(hardware.memory.device_blocks, hardware.memory.host_blocks)
        return self.scheduler_config(hardware).build(policy, times, blocks, macro=False)

    def header(self, hardware: Hardware, longest: int) -> dict[str, Any]:
        """Of a flight log: all that the Scheduler is made of."""
        return {
            "policy": self.name,
            "knobs": dict(self.knobs),
            "hardware": hardware.to_json(),
            "longest": longest,
            "settings": asdict(self.scheduler_config(hardware))
            | {
                "device_blocks": hardware.memory.device_blocks,
                "host_blocks": hardware.memory.host_blocks,
                "macro": False,
            },
        }

    def shown(self, hardware: Hardware) -> dict[str, Any]:
        """Every setting, defaults filled in where a number stands behind them."""
        shown = asdict(self) | {"policy": self.name, "knobs": dict(self.knobs)}
        memory = hardware.memory
        budget = usual_budget(self.batching, self.max_batch) if self.token_budget is None else self.token_budget
        shown["token_budget"] = None if budget >= NEVER else budget
        shown["kv_tokens"] = memory.device_tokens
        shown["host_tokens"] = None if memory.host_blocks is None else memory.host_blocks * memory.block_tokens
        shown["flight_log"] = None if self.flight_log is None else str(self.flight_log)
        return shown
