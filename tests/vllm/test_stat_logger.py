"""The stat logger on vLLM's own classes: our counts cross as its statistics do, and a mistake of ours ends nothing."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from fastserve.vllm import metrics

pytestmark = pytest.mark.vllm
if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed here", allow_module_level=True)


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> Any:
    from fastserve.vllm.stat_logger import StatLogger

    monkeypatch.syspath_prepend(metrics.PLUGIN)
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    metrics.received.cache_clear()
    config = SimpleNamespace(
        additional_config={"fastserve": {"policy": "las"}}, model_config=SimpleNamespace(served_model_name="m")
    )
    yield StatLogger(config, [0])
    metrics.received.cache_clear()


def sent(counts: dict[str, Any]) -> Any:
    """vLLM's statistics as they arrive in its API process."""
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.metrics.stats import SchedulerStats
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    stats = metrics.attach(SchedulerStats(num_running_reqs=1, waiting_lora_adapters={"theirs": 1}), counts)
    frames = MsgpackEncoder().encode(EngineCoreOutputs(scheduler_stats=stats))
    return MsgpackDecoder(EngineCoreOutputs).decode(frames).scheduler_stats


def shown(name: str, **labels: str) -> float | None:
    from prometheus_client import REGISTRY

    return REGISTRY.get_sample_value(f"fastserve_{name}", {"model_name": "m", "engine": "0", **labels})


def test_what_was_attached_arrives_and_is_taken_out(logger: Any) -> None:
    stats = sent({"steps": 3, "left": 2, "running": 1, "levels": {4: 1}})
    assert len(stats.waiting_lora_adapters) > 1
    logger.record(stats, None, engine_idx=0)
    assert stats.waiting_lora_adapters == {"theirs": 1} and stats.num_running_reqs == 1
    assert shown("iterations_total") == 3 and shown("num_preemptions_total", policy="las") == 2
    assert shown("queue_level_requests", level="Q4") == 1
    logger.record(None, None)
    logger.log()
    logger.log_engine_initialized()
    logger.record_sleep_state(1, 1)
    logger.record_admission_rejection("max_num_queued_reqs")


def test_vllm_takes_it_for_a_plug_in(logger: Any) -> None:
    from vllm.v1.metrics.loggers import load_stat_logger_plugin_factories

    assert type(logger) in load_stat_logger_plugin_factories()


def test_a_mistake_of_ours_is_logged_and_ends_our_metrics_alone(logger: Any) -> None:
    logger.record(SimpleNamespace(waiting_lora_adapters=None), None)
    assert logger.exposed is None
    later = sent({"steps": 1})
    logger.record(later, None)
    assert later.waiting_lora_adapters == {"theirs": 1}  # which other loggers of vLLM show
