"""Nothing leaks: a short soak in every test run; `make soak-engine` is the long one."""

import sys
from pathlib import Path
from typing import Any

import pytest

from fastserve.engine import Engine

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import soak_engine

    yield soak_engine
    sys.modules.pop("soak_engine", None)


@pytest.mark.parametrize("residency", ["proactive", "reactive", "recompute"])
def test_scripted(residency: str, soak: Any) -> None:
    engine = Engine.scripted(
        policy="sj-mlfq", max_batch=8, visit=0, kv_tokens=800, host_tokens=3200, residency=residency, keep_records=100
    )
    result = soak.soak(engine, 2000 if residency == "proactive" else 500)
    assert result.leaks == []
    assert result.preemptions > result.requests
    assert result.ends["cancelled"] > result.requests // 20


def test_on_the_embedded_model(soak: Any) -> None:
    pytest.importorskip("torch")
    engine = Engine.from_pretrained(
        "embedded", policy="mlfq", max_batch=8, visit=0, kv_tokens=256, host_tokens=1200, keep_records=50,
        latency="opt-13b-a100", dtype="float32",
    )  # fmt: skip
    # A model's allocator keeps what it has once had, so memory is for the long run to look at.
    result = soak.soak(engine, 200, longest=40, most_growth=float("inf"))
    assert result.leaks == []
    assert result.preemptions > 20
    assert result.ends["cancelled"] > 10


def test_a_leak_is_seen(soak: Any) -> None:
    engine = Engine.scripted(max_batch=2, kv_tokens=800)
    engine.loop.scheduler.ledger.cold += 3
    engine.input_processor.outstanding += 1
    assert soak.left_over(engine) == [
        "3 device blocks are left", "1 requests that count for the queue are left",
    ]  # fmt: skip
    engine.close()
