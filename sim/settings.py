"""Settings of a replay: one flat class for the command line, `sim.replay()` and the experiments."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from fastserve.hardware import Hardware, Link, Memory, load_hardware
from fastserve.hardware.machine_times import MachineTimes
from fastserve.sched.batching import BATCHINGS, usual_budget
from fastserve.sched.config import Blocks, SchedulerConfig
from fastserve.sched.eviction import ORDERS
from fastserve.sched.policy import Policy
from fastserve.sched.residency import RESIDENCIES
from fastserve.sched.scheduler import Scheduler

UNLIMITED = "unlimited"
PRESET = "preset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a run depends on beside its trace, its policy and its seed. Times in seconds."""

    latency: str = "opt-13b-a100"
    """the machine: a preset, roofline:MODEL/DEVICE, or a JSON file; brings its KV pools and its link"""
    max_batch: int = 64
    """batch cap: how many jobs hold a place at once"""
    batching: str = "chunked"
    """shape of an iteration: mixed, prefill-first, chunked or static"""
    token_budget: int | None = None
    """tokens an iteration (by default chunked 512, mixed and prefill-first 2048, static no limit)"""
    residency: str = "proactive"
    """where preempted KV goes: recompute, reactive, proactive, or defer (nobody is displaced for memory)"""
    kv_tokens: int | str = PRESET
    """device KV pool in tokens, "unlimited", or the preset's"""
    host_tokens: int | str = PRESET
    """host KV pool in tokens, "unlimited", or the preset's"""
    visit: int = 64
    """visit guard: while memory is short a visit lasts this many times the cost of coming back; 0 is off"""
    predictor: str = "oracle"
    """output lengths for policies that need a guess: oracle, lognormal:SIGMA, constant:TOKENS or none"""
    rate: float | None = None
    """requests per second; the trace's gaps are stretched"""
    load: float | None = None
    """rate over the saturated fcfs throughput with the same settings; excludes rate"""
    warmup: float = 0.0
    """seconds of arrivals at the start that the measures leave out"""
    max_backlog: int | None = None
    """a run with more live jobs than this is stopped, censored and marked as collapsed"""
    kv_reserve: int | None = None
    """proactive: device blocks kept idle for arrivals (by default one per slot)"""
    prefetch_quota: int | None = None
    """proactive: how many of the best waiting jobs may be fetched ahead (by default one per slot)"""
    evict: str = "policy"
    """which parked KV leaves first: policy (its coldest()), reverse (worst rank) or lru"""
    whole_context: bool = False
    """reserve prompt + limit when a job joins, as Orca does"""
    skip_misfits: bool = False
    """a waiting job that does not fit in memory is passed over instead of closing admission"""
    prefill_guard: float = 0.0
    """share of the host pool that must be free before a job that needs a prefill joins (artifact: 0.1)"""
    charging: str = "iteration"
    """what a job is charged: each iteration's whole time, or its share by tokens"""
    static_timeout: float = 1.0
    """static batching: seconds after which a batch starts though it is not full"""
    link_gb_s: float | None = None
    """GB/s each way between device and host (by default the preset's)"""
    link_latency: float | None = None
    """seconds per copy (by default the preset's)"""
    duplex: bool | None = None
    """whether both directions copy at full rate at once (by default the preset's)"""
    block_tokens: int | None = None
    """tokens of a KV block (by default the preset's)"""

    def __post_init__(self) -> None:
        if self.rate is not None and self.load is not None:
            raise ValueError("give a rate or a load, not both: a load is a rate in units of what fcfs can sustain")
        for name in ("rate", "load", "link_gb_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name}={value} must be above 0")
        for name in ("warmup", "static_timeout", "link_latency"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value} must be a finite number of seconds, and not negative")
        for name, least in (("kv_reserve", 0), ("prefetch_quota", 0), ("max_backlog", 1), ("block_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value} must be at least {least}")
        for name, choices in (("batching", BATCHINGS), ("residency", RESIDENCIES), ("evict", ORDERS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(choices)}")
        for name in ("kv_tokens", "host_tokens"):
            value = getattr(self, name)
            if value not in (PRESET, UNLIMITED) and not (isinstance(value, int) and value >= 0):
                raise ValueError(f'{name}={value!r} is neither a number of tokens nor "unlimited"')

    def hardware(self) -> Hardware:
        """The machine with these settings' pools and link. FileNotFoundError or ValueError say what there is."""
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
        return Hardware(found.latency, memory, link, found.about)

    def scheduler(self, policy: Policy, hardware: Hardware, longest: int) -> Scheduler:
        """A Scheduler around this policy. longest: tokens of the longest prompt."""
        host_blocks = hardware.memory.host_blocks
        if self.host_tokens not in (PRESET, UNLIMITED):
            host_blocks = int(self.host_tokens) // hardware.memory.block_tokens
        config = SchedulerConfig(
            max_batch=self.max_batch,
            batching=self.batching,
            token_budget=self.token_budget,
            block_tokens=hardware.memory.block_tokens,
            residency=self.residency,
            kv_reserve=self.kv_reserve,
            prefetch_quota=self.prefetch_quota,
            evict=self.evict,
            whole_context=self.whole_context,
            visit=self.visit,
            skip_misfits=self.skip_misfits,
            prefill_guard=self.prefill_guard,
            charging=self.charging,
            static_timeout=self.static_timeout,
        )
        blocks = Blocks(hardware.memory.device_blocks, host_blocks)
        return config.build(policy, MachineTimes(hardware, self.max_batch, longest), blocks)

    def with_(self, **changes: Any) -> Settings:
        """These settings with some changed. Raises ValueError that lists the valid names for an unknown one."""
        valid = [field.name for field in fields(self)]
        for name in changes:
            if name not in valid:
                raise ValueError(f"there is no setting {name!r}; there are {', '.join(valid)}")
        return replace(self, **changes)

    def shown(self, hardware: Hardware) -> dict[str, Any]:
        """What is printed with a result: every setting, the preset's own numbers filled in."""
        shown = asdict(self)
        memory, link = hardware.memory, hardware.link
        budget = usual_budget(self.batching, self.max_batch) if self.token_budget is None else self.token_budget
        shown["token_budget"] = budget if budget < 1 << 60 else UNLIMITED
        shown["kv_tokens"] = UNLIMITED if memory.device_tokens is None else memory.device_tokens
        host = memory.host_blocks
        shown["host_tokens"] = UNLIMITED if host is None else host * memory.block_tokens
        if self.host_tokens not in (PRESET, UNLIMITED):
            shown["host_tokens"] = self.host_tokens
        shown["link_gb_s"] = link.out_bytes_per_s / 1e9
        shown["link_latency"] = link.latency_ns / 1e9
        shown["duplex"] = link.duplex
        shown["block_tokens"] = memory.block_tokens
        shown["kv_reserve"] = self.max_batch if self.kv_reserve is None else self.kv_reserve
        shown["prefetch_quota"] = self.max_batch if self.prefetch_quota is None else self.prefetch_quota
        return shown


def _tokens(value: int | str) -> int | None:
    return None if value == UNLIMITED else int(value)


def describe() -> dict[str, str]:
    """Setting -> its line of documentation, for --help and the docs."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(Settings)).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            assert isinstance(text.value, ast.Constant)
            found[field.target.id] = str(text.value.value)
    return found
