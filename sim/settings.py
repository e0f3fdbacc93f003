"""Settings of a replay: of the Scheduler, the modelled machine and the run, for the command line, `sim.replay()` and
experiments.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fastserve.hardware import DEFAULT, Hardware, Link, Memory, load_hardware
from fastserve.hardware.machine_times import MachineTimes
from fastserve.metrics.slo import Slo
from fastserve.sched import config
from fastserve.sched.checks import at_least, check_names, renamed, seconds
from fastserve.sched.config import Blocks, SchedulerConfig
from fastserve.sched.job import NEVER
from fastserve.sched.policy import Policy
from fastserve.sched.scheduler import Scheduler
from fastserve.workload.session import SessionSettings
from sim.cluster.settings import ALONE, ClusterSettings
from sim.guesses import Guesses, parse

UNLIMITED = "unlimited"
PRESET = "preset"
OTHER_NAMES = config.OTHER_NAMES | {"request_rate": "rate"}
"""Name in other tools -> setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(ClusterSettings, SessionSettings, SchedulerConfig):
    """All inputs of a run except trace, policy and seed. Times in seconds."""

    latency: str = DEFAULT
    """the machine, its pools and link: a preset, roofline:MODEL/DEVICE, or a JSON file (python -m sim.machines list)"""
    kv_tokens: int | str = PRESET
    """device KV pool in tokens, "unlimited", or the preset's"""
    host_tokens: int | str = PRESET
    """host KV pool in tokens, "unlimited", or the preset's"""
    link_gb_s: float | None = None
    """GB/s each way between device and host (by default the preset's)"""
    link_latency: float | None = None
    """seconds per copy (by default the preset's)"""
    duplex: bool | None = None
    """whether both directions copy at full rate at once (by default the preset's)"""
    predictor: str = "oracle"
    """output lengths for policies that need a guess: oracle, lognormal:SIGMA, constant:TOKENS, trace (its own column
    guess), your own as module:Class, or none"""
    speculate: str | None = None
    """guess next tokens: K:ACCEPTANCE, as 4:0.7, or K:FILE, at most K of a job in one iteration, each right with this
    probability (a file of `fastserve profile --from-log LOG --acceptance FILE`), fewer where the machine's times say
    so; fixed:K:ACCEPTANCE for always K"""
    rate: float | None = None
    """requests per second; the gaps of the trace are scaled"""
    load: float | None = None
    """rate over the saturated fcfs throughput with the same settings; excludes rate"""
    warmup: float = 0.0
    """seconds of arrivals at the start that are excluded from measures"""
    slo: str | None = None
    """objectives of requests that bring none of their own, as ttft=1s,tpot=0.1s,e2e=30s: goodput and attainment go by
    them; no policy is told them. attain=0.95: the share of requests that must meet theirs"""
    max_backlog: int | None = None
    """a run with more live jobs than this is stopped, censored and marked as collapsed"""

    def __post_init__(self) -> None:
        SchedulerConfig.__post_init__(self)
        SessionSettings.__post_init__(self)
        ClusterSettings.__post_init__(self)
        if self.rate is not None and self.load is not None:
            raise ValueError("give a rate or a load, not both: a load is a rate relative to what fcfs sustains")
        self.check_rate(rate=self.rate, load=self.load)
        for name in ("rate", "load", "link_gb_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}={value} must be above 0")
        for name in ("warmup", "link_latency"):
            seconds(name, getattr(self, name))
        at_least("max_backlog", self.max_backlog, 1)
        parse(self.speculate)
        if self.slo is not None:
            object.__setattr__(self, "slo", str(Slo.parse(self.slo)))
        for name in ("kv_tokens", "host_tokens"):
            value = getattr(self, name)
            if value not in (PRESET, UNLIMITED) and not (isinstance(value, int) and value >= 0):
                raise ValueError(f'{name}={value!r} is neither a number of tokens nor "unlimited"')

    def hardware(self) -> Hardware:
        """The machine with these settings' pools and link. Raises FileNotFoundError or ValueError."""
        found = load_hardware(self.latency)
        memory, link = found.memory, found.link
        block = self.block_tokens or memory.block_tokens
        host_bytes = memory.host_bytes
        if self.host_tokens != PRESET:
            host_bytes = None if self.host_tokens == UNLIMITED else int(self.host_tokens) * memory.bytes_per_token
        memory = Memory(
            block_tokens=block,
            device_tokens=memory.device_tokens if self.kv_tokens == PRESET else _tokens(self.kv_tokens),
            host_bytes=host_bytes,
            bytes_per_token=memory.bytes_per_token,
        )
        each_way = None if self.link_gb_s is None else round(self.link_gb_s * 1e9)
        link = Link(
            out_bytes_per_s=each_way or link.out_bytes_per_s,
            in_bytes_per_s=each_way or link.in_bytes_per_s,
            latency_ns=link.latency_ns if self.link_latency is None else round(self.link_latency * 1e9),
            duplex=link.duplex if self.duplex is None else self.duplex,
        )
        return Hardware(found.latency, memory, link, found.about, found.context)

    @property
    def guesses(self) -> Guesses | None:
        """What is guessed; None where nothing is. Raises OSError or ValueError for a file."""
        return parse(self.speculate)

    @property
    def objectives(self) -> Slo:
        """Of requests that bring none of their own."""
        return Slo() if self.slo is None else Slo.parse(self.slo)

    @property
    def coming(self) -> SessionSettings:
        """How programs come."""
        return SessionSettings(**{field.name: getattr(self, field.name) for field in fields(SessionSettings)})

    def scheduler(self, policy: Policy, hardware: Hardware, longest: int, context: int = 0) -> Scheduler:
        """A Scheduler around this policy. longest: tokens of the longest prompt. context: of the longest request
        that is accepted, prompt and output; 0 is not known.
        """
        host_blocks = hardware.memory.host_blocks
        if self.host_tokens not in (PRESET, UNLIMITED):
            host_blocks = int(self.host_tokens) // hardware.memory.block_tokens
        blocks = Blocks(hardware.memory.device_blocks, host_blocks, hardware.memory.block_tokens)
        times = MachineTimes(hardware, self.max_batch, longest, context)
        guesses = self.guesses
        if guesses is None or guesses.most <= self.lookahead:
            return self.build(policy, times, blocks)
        return replace(self, lookahead=guesses.most).build(policy, times, blocks)

    def with_(self, **changes: Any) -> Settings:
        """These settings with some changed. Raises ValueError that lists the valid names for an unknown one."""
        given = renamed(changes, OTHER_NAMES)
        check_names("a simulation", given, [field.name for field in fields(self)])
        return replace(self, **given)

    def of_replica(self, number: int) -> Settings:
        """Those of one replica: its machine's and its Scheduler's. Raises ValueError."""
        own = {name: value for name, value in self.own(number).items() if name not in ("name", "weight")}
        return self.with_(**ALONE, **own)

    def shown(self, hardware: Hardware) -> dict[str, Any]:
        """All settings for the result, with the numbers of the preset."""
        shown = asdict(self)
        memory, link = hardware.memory, hardware.link
        shown["token_budget"] = self.budget if self.budget < NEVER else UNLIMITED
        shown["kv_tokens"] = UNLIMITED if memory.device_tokens is None else memory.device_tokens
        host = memory.host_blocks
        shown["host_tokens"] = UNLIMITED if host is None else host * memory.block_tokens
        if self.host_tokens not in (PRESET, UNLIMITED):
            shown["host_tokens"] = self.host_tokens
        shown["link_gb_s"] = link.out_bytes_per_s / 1e9
        shown["link_latency"] = link.latency_ns / 1e9
        shown["duplex"] = link.duplex
        shown["block_tokens"] = memory.block_tokens
        guesses = self.guesses
        if guesses is not None:
            shown["lookahead"] = max(self.lookahead, guesses.most)
            shown["guesses"] = guesses.about
        shown["kv_reserve"], shown["prefetch_quota"] = self.reserve, self.quota
        return shown


def _tokens(value: int | str) -> int | None:
    return None if value == UNLIMITED else int(value)
