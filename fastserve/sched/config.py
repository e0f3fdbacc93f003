"""SchedulerConfig: every setting of a Scheduler once, with its default, its check and its help.

Command lines, `replay()`, Engine and server derive theirs from it: names and defaults from the fields, help from
`describe()`, valid values from `choices()`. Times here are seconds; `build()` makes nanoseconds and objects of them.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

from fastserve.sched import checks
from fastserve.sched.batching import BATCHINGS, usual_budget
from fastserve.sched.charging import CHARGINGS
from fastserve.sched.checks import at_least, check_names, one_of, renamed, seconds
from fastserve.sched.choose import CopyingMachine
from fastserve.sched.eviction import ORDERS
from fastserve.sched.job import NEVER
from fastserve.sched.kv import Ledger
from fastserve.sched.policy import Policy
from fastserve.sched.prefix import PrefixScheduler
from fastserve.sched.residency import RESIDENCIES, Residency, Rows
from fastserve.sched.scheduler import Scheduler
from fastserve.sched.sharing import SharedLedger


class Blocks(NamedTuple):
    """The KV pools in blocks, and the tokens of one; None is unlimited."""

    device: int | None = None
    host: int | None = 0
    tokens: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Raises ValueError, naming the setting and what it may be, for what cannot work."""

    max_batch: int = 64  # in every body: where KV memory is short, that binds long before; see docs/design.md
    """batch cap: how many jobs hold a place at once"""
    batching: str = "chunked"
    """shape of an iteration: mixed, prefill-first, chunked or static"""
    token_budget: int | None = None
    """tokens an iteration (by default chunked 512, mixed and prefill-first 2048, static no limit)"""
    residency: str = "proactive"
    """where preempted KV goes: recompute, reactive, proactive, or defer (nobody is displaced for memory)"""
    visit: int = 64
    """visit guard: while memory is short a visit lasts this many times the cost of coming back; 0 is off"""
    kv_reserve: int | None = None
    """proactive: device blocks kept idle for arrivals (by default one per slot)"""
    prefetch_quota: int | None = None
    """proactive: how many of the best waiting jobs may be fetched ahead (by default one per slot)"""
    max_resident: int | None = None
    """recompute: jobs whose KV may be on the device at once, running ones included (by default any number)"""
    evict: str = "policy"
    """which parked KV leaves first: policy (its coldest()), reverse (worst rank) or lru"""
    whole_context: bool = False
    """reserve prompt + limit when a job joins, as Orca does"""
    skip_misfits: bool = False
    """a waiting job that does not fit in memory is passed over instead of closing admission"""
    prefill_guard: float = 0.0
    """share of the host pool that must be free before a job that needs a prefill joins (artifact: 0.1)"""
    charging: str = "iteration"
    """what a job is charged: iteration (each one's whole time) or tokens (its share of them)"""
    static_timeout: float = 1.0
    """static batching: seconds after which a batch starts though it is not full"""
    block_tokens: int | None = None
    """tokens of a KV block (by default the machine's own, which is 16 in every preset)"""
    prefix_cache: str = "auto"
    """whether prompts that begin alike share KV: on, off, auto (on live, and for traces with block ids and programs)"""
    prefix_tokens: int | None = None
    """prefix cache: tokens of the unit that is shared, a whole number of KV blocks (by default one block)"""
    host_prefix_tokens: int = 0
    """prefix cache: tokens of units that jobs left behind and that the host keeps too, beside host_tokens; 0 is none"""
    lookahead: int = 0
    """tokens beyond the next one that an iteration may write, and for which blocks are reserved (speculation)"""

    def __post_init__(self) -> None:
        for field in fields(SchedulerConfig):
            check(field.name, getattr(self, field.name))
        BATCHINGS[self.batching](self.budget).check(self.max_batch)
        if self.max_resident is not None:
            if self.residency != "recompute":
                raise ValueError(
                    f"max_resident={self.max_resident} needs residency='recompute', where KV beyond it is forgotten; "
                    f"{self.residency!r} moves KV as memory asks for"
                )
            self._residency().check(self.max_batch)

    @classmethod
    def of(cls, settings: Mapping[str, Any], owner: str = "a scheduler") -> Self:
        """From keywords, under OTHER_NAMES too. Raises ValueError that lists the valid ones for an unknown one."""
        given = renamed(settings, OTHER_NAMES)
        check_names(owner, given, [field.name for field in fields(cls)])
        return cls(**given)

    @property
    def budget(self) -> int:
        """Tokens an iteration, the default filled in; NEVER is no limit."""
        return usual_budget(self.batching, self.max_batch) if self.token_budget is None else self.token_budget

    @property
    def reserve(self) -> int:
        """kv_reserve, the default filled in."""
        return self.max_batch if self.kv_reserve is None else self.kv_reserve

    @property
    def quota(self) -> int:
        """prefetch_quota, the default filled in."""
        return self.max_batch if self.prefetch_quota is None else self.prefetch_quota

    def _residency(self) -> Residency:
        order = ORDERS[self.evict]()
        if self.max_resident is not None:
            return Rows(order, self.max_resident)
        return RESIDENCIES[self.residency](order, self.reserve, self.quota)

    def build(self, policy: Policy, machine: CopyingMachine, blocks: Blocks, *, macro: bool = True) -> Scheduler:
        """A Scheduler around this policy, for one run. macro: False plans one iteration at a time.

        machine: what the policy and the visit guard are told of the body's times; its slots are max_batch. blocks: of
        block_tokens where that is given. What prefix_cache="auto" comes to is for the driver to say; here it is off.
        """
        batching = BATCHINGS[self.batching](self.budget, round(self.static_timeout * 1e9))
        residency = self._residency()
        device = NEVER if blocks.device is None else blocks.device
        host = NEVER if blocks.host is None else blocks.host
        block = self.block_tokens or blocks.tokens
        pools = device, host if residency.swaps else 0, block, self.whole_context, self.lookahead
        shares = self.prefix_cache == "on"
        tier = None if device == NEVER else (self.host_prefix_tokens, machine)
        return (PrefixScheduler if shares else Scheduler)(
            policy,
            machine,
            slots=self.max_batch,
            batching=batching,
            ledger=SharedLedger(*pools, self.prefix_tokens or block, tier) if shares else Ledger(*pools),
            residency=residency,
            charging=CHARGINGS[self.charging](),
            visit=self.visit,
            prefill_guard=self.prefill_guard,
            skip_misfits=self.skip_misfits,
            macro=macro,
        )


OTHER_NAMES: dict[str, str] = {"max_batch_size": "max_batch", "batch_size": "max_batch", "max_num_seqs": "max_batch"}
"""What other tools call a setting -> the setting; taken wherever settings are given by name."""

LEAST: dict[str, int] = {
    "max_batch": 1, "max_resident": 1, "token_budget": 1, "visit": 0, "kv_reserve": 0, "prefetch_quota": 0,
    "block_tokens": 1, "lookahead": 0, "prefix_tokens": 1, "host_prefix_tokens": 0,
}  # fmt: skip
"""Whole-number setting -> its smallest value."""

MOST: dict[str, int] = {"max_batch": 1_000_000, "block_tokens": 1 << 20, "lookahead": 1 << 20}
"""Whole-number setting -> its largest value, where what is made of it would not fit into memory long before."""

CHOICES: dict[str, Iterable[str]] = {
    "batching": BATCHINGS, "residency": RESIDENCIES, "evict": ORDERS, "charging": CHARGINGS,
    "prefix_cache": ("auto", "off", "on"),
}  # fmt: skip


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(SchedulerConfig)}


def check(name: str, value: Any) -> None:
    """Raises ValueError, naming the setting and what it may be, for a value that it cannot have."""
    usual = DEFAULTS[name]
    if value is None and usual is not None:
        raise ValueError(f"{name}=None: leave it out for its default, {usual}")
    if isinstance(usual, bool) and not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")
    if name in LEAST:
        at_least(name, value, LEAST[name], MOST.get(name, checks.MOST))
    elif name in CHOICES:
        one_of(name, value, choices(name))
    elif name == "prefill_guard" and not (isinstance(value, int | float) and 0 <= value < 1):
        raise ValueError(f"prefill_guard={value!r} must be at least 0 and below 1")
    elif name == "static_timeout":
        seconds(name, value)


def choices(name: str) -> tuple[str, ...]:
    """The valid values of a setting that names one of several; empty for any other."""
    return tuple(CHOICES.get(name, ()))


def describe(kind: type = SchedulerConfig) -> dict[str, str]:
    """Setting -> its line of documentation, for --help and the docs: the text under each field, those of bases too."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if "__annotations__" not in vars(base):
            continue
        body = ast.parse(inspect.cleandoc(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                assert isinstance(text.value, ast.Constant)
                found[field.target.id] = str(text.value.value)
    return found
