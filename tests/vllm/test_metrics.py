"""Our counts inside vLLM's SchedulerStats and out again, and what /metrics shows of them, without vLLM."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry

from fastserve.vllm import metrics
from fastserve.vllm.exposed import Exposed
from fastserve.vllm.metrics import attach, detach, due


@dataclass
class Stats:
    """The field of vLLM's SchedulerStats that carries ours."""

    waiting_lora_adapters: dict[str, int] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Its first item is the time; the plug-in is on the path."""
    now = [100.0]
    monkeypatch.syspath_prepend(metrics.PLUGIN)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    monkeypatch.setattr(metrics, "_carrier", None)
    metrics.received.cache_clear()
    yield now
    metrics.received.cache_clear()


def counts(**given: Any) -> dict[str, Any]:
    return dict.fromkeys([*metrics.COUNTERS, *metrics.GAUGES], 0) | given


def sent(of: dict[str, Any]) -> dict[str, int]:
    return detach(attach(Stats(), of))


def test_the_plugin_is_an_entry_point_where_its_folder_is_on_the_path() -> None:
    (point,) = importlib.metadata.entry_points(group=metrics.GROUP, name=metrics.NAME)
    assert point.value == "fastserve.vllm.stat_logger:StatLogger"


def test_it_is_no_entry_point_anywhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM that is served without our scheduler is left as it is: a stat logger turns its statistics on."""
    monkeypatch.undo()
    assert not importlib.metadata.entry_points(group=metrics.GROUP, name=metrics.NAME)


def test_counters_travel_as_differences_and_gauges_as_they_are(clock: list[float]) -> None:
    own = counts(steps=3, left=2, running=4, levels={0: 3, 2: 1})
    assert sent(own) == {
        "steps": 3, "left": 2, "running": 4, "waiting": 0, "parked_now": 0, "level:0": 3, "level:2": 1,
    }  # fmt: skip
    clock[0] += metrics.EVERY_S
    own |= {"steps": 5, "running": 1, "levels": {}}
    assert sent(own) == {"steps": 2, "running": 1, "waiting": 0, "parked_now": 0}


def test_a_report_comes_so_often_and_at_once_when_nothing_is_left(clock: list[float]) -> None:
    own = counts(steps=1)
    assert due(own, idle=False)
    attach(Stats(), own)
    assert not due(own, idle=False)
    assert due(own, idle=True)
    clock[0] += metrics.EVERY_S
    assert due(own, idle=False)


def test_vllm_s_own_entries_stay_and_ours_do_not() -> None:
    stats = Stats({"an-adapter": 2})
    attach(stats, counts(steps=1))
    assert len(stats.waiting_lora_adapters) > 1
    assert detach(stats)["steps"] == 1
    assert stats.waiting_lora_adapters == {"an-adapter": 2}


def test_where_vllm_keeps_no_statistics_none_are_made() -> None:
    assert attach(None, counts()) is None


@pytest.mark.parametrize(
    ("variable", "value", "received"),
    [
        ("VLLM_PLUGINS", "lora_filesystem_resolver", False),
        ("VLLM_PLUGINS", "a,fastserve", True),
        ("VLLM_USE_RUST_FRONTEND", "1", False),
        ("VLLM_USE_RUST_FRONTEND", "0", True),
    ],
)
def test_nothing_is_attached_where_nobody_would_take_it_out(
    variable: str, value: str, received: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    metrics.received.cache_clear()
    assert due(counts(), idle=True) is received
    assert bool(sent(counts(steps=1))) is received


def test_another_scheduler_of_the_process_starts_from_nothing(clock: list[float]) -> None:
    assert sent(counts(steps=7, running=1))["steps"] == 7
    assert sent(counts(steps=2, running=1))["steps"] == 2


def shown(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"fastserve_{name}", {"model_name": "m", "engine": "0", **labels})


def test_what_the_page_shows() -> None:
    registry = CollectorRegistry()
    exposed = Exposed("m", "sj-mlfq", registry=registry)
    assert shown(registry, "num_preemptions_total", policy="sj-mlfq") == 0
    assert shown(registry, "num_requests_running") == 0, "before the first report"
    exposed.update({"left": 2, "ours_ns": 1_500_000_000, "running": 3, "waiting": 1, "parked_now": 1, "level:0": 2})
    exposed.update({"left": 1, "running": 1, "waiting": 0, "parked_now": 0, "level:1": 1})
    assert shown(registry, "num_preemptions_total", policy="sj-mlfq") == 3
    assert shown(registry, "adapter_seconds_total") == 1.5
    assert shown(registry, "num_requests_parked") == 0
    assert shown(registry, "queue_level_requests", level="Q0") == 0, "a level that is empty now"
    assert shown(registry, "queue_level_requests", level="Q1") == 1


def test_after_the_policy_has_failed_preemptions_are_those_of_who_took_over() -> None:
    registry = CollectorRegistry()
    exposed = Exposed("m", "mine:Mine", registry=registry)
    exposed.update({"left": 4})
    exposed.update({"policy_failed": 1, "left": 1})
    exposed.update({"policy_failed": 1, "left": 1})
    assert [shown(registry, "num_preemptions_total", policy=each) for each in ("mine:Mine", "fcfs", "vllm")] == [
        4,
        1,
        1,
    ]
    assert shown(registry, "policy_failed_total") == 2


def test_two_engines_are_told_apart() -> None:
    registry = CollectorRegistry()
    exposed = Exposed("m", "las", [0, 1], registry)
    exposed.update({"steps": 2}, engine=1)
    assert shown(registry, "iterations_total") == 0
    assert shown(registry, "iterations_total", engine="1") == 2


def test_a_second_server_of_the_process_takes_the_names_over() -> None:
    registry = CollectorRegistry()
    Exposed("m", "las", registry=registry).update({"steps": 2})
    Exposed("m", "las", registry=registry).update({"steps": 1})
    assert shown(registry, "iterations_total") == 1
