"""SchedulerConfig: each setting once, checked once, and what it makes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest

from fastserve.hardware.machine_times import MachineTimes
from fastserve.policies.fcfs import Fcfs
from fastserve.sched.batching import Static
from fastserve.sched.config import Blocks, SchedulerConfig, choices, describe
from fastserve.sched.eviction import LeastRecent
from fastserve.sched.job import NEVER
from tests.sched.worlds import COARSE


def built(blocks: Blocks = Blocks(), **settings: Any) -> Any:  # noqa: B008
    config = SchedulerConfig(**settings)
    return config.build(Fcfs(), MachineTimes(COARSE, config.max_batch, 100), blocks)


def test_every_setting_has_its_line_of_help_and_every_choice_works() -> None:
    assert list(describe()) == [field.name for field in fields(SchedulerConfig)]
    assert all(describe().values())
    for field in fields(SchedulerConfig):
        for value in choices(field.name):
            assert value in describe()[field.name], f"the help of {field.name} does not name {value}"
            built(**{field.name: value})
    assert choices("visit") == ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wider(SchedulerConfig):
    more: int = 1
    """one more setting"""


def test_a_wider_list_of_settings_inherits_the_help() -> None:
    assert describe(Wider) == describe() | {"more": "one more setting"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch": 0}, "max_batch=0 must be at least 1"),
        ({"visit": -1}, "visit=-1 must be at least 0"),
        ({"kv_reserve": 1.5}, r"kv_reserve=1\.5 must be a whole number"),
        ({"batching": "huge"}, "batching='huge' is none of mixed, prefill-first, chunked, static"),
        ({"evict": "best"}, "evict='best' is none of policy, reverse, lru"),
        ({"prefill_guard": 1.0}, r"prefill_guard=1\.0 must be at least 0 and below 1"),
        ({"static_timeout": float("inf")}, "static_timeout=inf must be a finite number of seconds"),
        ({"prefill_guard": "much"}, "prefill_guard='much' must be at least 0 and below 1"),
        ({"static_timeout": "1"}, "static_timeout='1' must be a finite number of seconds"),
        ({"static_timeout": None}, "static_timeout=None: leave it out for its default, 1.0"),
        ({"max_batch": None}, "max_batch=None: leave it out for its default, 64"),
        ({"lookahead": True}, "lookahead=True must be a whole number"),
        ({"whole_context": "no"}, "whole_context='no' must be True or False"),
        ({"skip_misfits": None}, "skip_misfits=None: leave it out for its default, False"),
        ({"token_budget": 8, "max_batch": 8}, "a token budget of 8 and a batch cap of 8 may starve"),
    ],
)
def test_what_cannot_work_is_refused_with_its_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SchedulerConfig(**settings)


def test_an_unknown_setting_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"a scheduler has no setting 'max_bath'; it has max_batch, batching, tok"):
        SchedulerConfig.of({"max_bath": 3})
    assert SchedulerConfig.of({"max_batch": 3}).max_batch == 3


def test_defaults_follow_the_slots_and_seconds_become_nanoseconds() -> None:
    config = SchedulerConfig(max_batch=400)
    assert (config.budget, config.reserve, config.quota) == (800, 400, 400)
    scheduler = built(batching="static", static_timeout=0.25, evict="lru", kv_reserve=3)
    assert isinstance(scheduler.batching, Static) and scheduler.batching.opens_at(7) == 250_000_007
    assert isinstance(scheduler.residency.order, LeastRecent) and scheduler.residency.reserve == 3


def test_pools() -> None:
    ledger = built().ledger
    assert (ledger.blocks, ledger.host) == (NEVER, 0)
    ledger = built(Blocks(10, 20), residency="recompute", whole_context=True, block_tokens=4).ledger
    assert (ledger.blocks, ledger.host, ledger.block, ledger.whole) == (10, 0, 4, True)
    assert built(Blocks(10, 20)).ledger.host == 20
    assert built(Blocks(10, None)).ledger.host == NEVER
