"""EngineConfig: all settings of an engine that do not depend on its model; builds the Scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import Any, Self

from fastserve import predictors
from fastserve.engine.unit_names import UnitNames
from fastserve.hardware import Hardware
from fastserve.hardware.machine_times import MachineTimes
from fastserve.policies.spec import PolicySpec
from fastserve.sched.checks import at_least, check_names, renamed
from fastserve.sched.config import OTHER_NAMES, Blocks, SchedulerConfig
from fastserve.sched.job import NEVER
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler

BLOCK = Blocks().tokens
"""default tokens of a KV block"""
GUESSES = "constant:TOKENS, your own as module:Class, or client where each request brings its guess"
POLICY = PolicySpec("sj-mlfq")
"""Default policy of a live engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig(SchedulerConfig):
    """The Scheduler's settings and those of a live engine. Raises ValueError for invalid ones."""

    policy: PolicySpec = POLICY
    """scheduling policy: a name, module:Class, ./file.py:Class, a class, or a function that makes one"""
    kv_tokens: int | None = None
    """device KV pool in tokens (by default what the memory allows)"""
    host_tokens: int | None = None
    """host KV pool in tokens (by default twice the device's, where the memory allows it)"""
    predictor: str | None = None
    """output lengths for policies that need a guess: constant:TOKENS, module:Class, or client (each request's own
    `guess`)"""
    queue_capacity: int | None = None
    """maximum waiting requests beside a full batch; more are refused (by default no bound)"""
    keep_records: int | None = 10_000
    """minimum number of records of finished requests that are kept (None: all)"""
    flight_log: str | PathLike[str] | None = None
    """write every submit, plan and commit here, as JSON lines"""
    seed: int = 0
    """seed for requests without their own"""

    def __post_init__(self) -> None:
        SchedulerConfig.__post_init__(self)
        at_least("kv_tokens", self.kv_tokens, 0)
        if self.kv_tokens is not None and self.kv_tokens < self.block:
            raise ValueError(f"kv_tokens={self.kv_tokens} must hold one KV block of {self.block} tokens")
        at_least("host_tokens", self.host_tokens, 0)
        at_least("queue_capacity", self.queue_capacity, 0)
        at_least("keep_records", self.keep_records, 1)
        if self.predictor not in (None, "client") and not self._guesses_live(self.predictor):
            raise ValueError(f"predictor={self.predictor!r}: a live engine knows no true lengths; give {GUESSES}")
        self.guesser()
        self.policy.check(guesses="" if self.predictor else GUESSES)

    @classmethod
    def of(cls, settings: Mapping[str, Any], owner: str = "an engine") -> Self:
        """From keywords; policy: whatever PolicySpec.of() takes, and knobs: its arguments. ValueError that lists the
        valid ones for an unknown one.
        """
        given = renamed(settings, OTHER_NAMES)
        knobs = given.pop("knobs", None)
        check_names(owner, given, [*(field.name for field in fields(cls)), "knobs"])
        return cls(**given | {"policy": PolicySpec.of(given.get("policy", POLICY), knobs)})

    @property
    def block(self) -> int:
        """block_tokens, the default filled in."""
        return self.block_tokens or BLOCK

    @property
    def name(self) -> str:
        """Name of the policy, importable by find() if possible."""
        return self.policy.path

    def sharing(self, body: str, shares: bool) -> Self:
        """The same with prefix_cache on or off: auto is on where the body shares. ValueError where it or room for
        it on the host is asked for in vain.
        """
        if self.prefix_cache == "on" and not shares:
            raise ValueError(
                f"prefix_cache='on': backend {body} shares no KV between requests; leave it out, or say off"
            )
        if self.host_prefix_tokens and not shares:
            raise ValueError(
                f"host_prefix_tokens={self.host_prefix_tokens}: backend {body} shares no KV between requests, so the "
                "host has no prefixes to keep; leave it out"
            )
        return self if self.prefix_cache != "auto" else replace(self, prefix_cache="on" if shares else "off")

    def within(self, slots: int | None) -> Self:
        """The same with a batch cap of at most so many jobs; None: any number."""
        return self if slots is None or slots >= self.max_batch else replace(self, max_batch=slots)

    def names(self, hardware: Hardware) -> UnitNames | None:
        """What names the units that requests share; None where prefixes are not cached. After sharing()."""
        if self.prefix_cache != "on":
            return None
        return UnitNames(self.prefix_tokens or hardware.memory.block_tokens)

    def guesser(self) -> predictors.Predictor | None:
        """What guesses for a request without a guess of its own."""
        return None if self.predictor in (None, "client") else predictors.make(self.predictor, self.seed)

    @staticmethod
    def _guesses_live(predictor: str) -> bool:
        """Whether it can do without the true length."""
        return predictor.startswith("constant") or predictors.is_own(predictor)

    def scheduler(self, policy: Policy, hardware: Hardware, context: int) -> Scheduler:
        """context: tokens of the model's context."""
        memory = hardware.memory
        blocks = Blocks(memory.device_blocks, memory.host_blocks, memory.block_tokens)
        times = MachineTimes(hardware, self.max_batch, context, memory.accepted(context))
        return self.build(policy, times, blocks, macro=False)

    def header(self, hardware: Hardware, context: int) -> dict[str, Any]:
        """Header of a flight log: everything that the Scheduler is built from."""
        memory = hardware.memory
        return {
            "policy": self.policy.path,
            "knobs": dict(self.policy.knobs),
            "hardware": hardware.to_json(),
            "longest": context,
            "context": memory.accepted(context),
            "settings": {field.name: getattr(self, field.name) for field in fields(SchedulerConfig)}
            | {
                "block_tokens": memory.block_tokens,
                "device_blocks": memory.device_blocks,
                "host_blocks": memory.host_blocks,
                "macro": False,
            },
        }

    def shown(self, hardware: Hardware) -> dict[str, Any]:
        """All settings, with the effective values of defaults."""
        shown = {field.name: getattr(self, field.name) for field in fields(self)}
        memory = hardware.memory
        shown |= {"policy": self.policy.path, "knobs": self.policy.in_effect}
        shown["token_budget"] = None if self.budget >= NEVER else self.budget
        shown["kv_reserve"], shown["prefetch_quota"] = self.reserve, self.quota
        shown["block_tokens"] = memory.block_tokens
        shown["kv_tokens"] = memory.device_tokens
        shown["host_tokens"] = None if memory.host_blocks is None else memory.host_blocks * memory.block_tokens
        shown["flight_log"] = None if self.flight_log is None else str(self.flight_log)
        return shown
