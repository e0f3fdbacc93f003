"""Loads as servers of several kinds tell them; what makes no sense is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.gateway import views

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100",enable_prefix_caching="True"} 1.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1e+09
"""


def test_vllm() -> None:
    load = views.of_vllm(VLLM)
    assert (load.source, load.running, load.waiting, load.pool_tokens, load.free_tokens) == (
        "metrics",
        5,
        4,
        1600,
        1200,
    )
    old = VLLM.replace(b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc")
    assert views.of_vllm(old).free_tokens == 1200
    without = b'vllm:num_requests_running{engine="0"} 1\n'
    assert (views.of_vllm(without).pool_tokens, views.of_vllm(without).free_tokens) == (None, None)


def test_llama_server() -> None:
    page = b"llamacpp:requests_processing 2\nllamacpp:requests_deferred 5\nllamacpp:kv_cache_usage_ratio 0.5\n"
    load = views.of_llama_metrics(page, 4)
    assert (load.running, load.waiting, load.slots) == (2, 5, 4)
    slots = [{"id": 0, "is_processing": True}, {"id": 1, "is_processing": False}]
    assert (views.of_llama_slots(slots).running, views.of_llama_slots(slots).slots) == (1, 2)


def test_our_own_of_before_tells_no_more_than_a_number() -> None:
    assert views.of_fastserve({"server_load": 5}) is None
    assert views.of_fastserve([]) is None


@pytest.mark.parametrize(
    "page", [b"", b"<html>", b"vllm:num_requests_running NaN\n", b"vllm:num_requests_running -1\n"]
)
def test_a_page_that_is_none(page: bytes) -> None:
    with pytest.raises(ValueError, match="num_requests_running"):
        views.of_vllm(page)


@pytest.mark.parametrize(
    "found", [{"waiting": -1, "running": 0}, {"waiting": 1 << 50, "running": 0}, {"waiting": "x", "running": 0}]
)
def test_numbers_that_are_none(found: Any) -> None:
    with pytest.raises(ValueError, match=r"number|invalid literal"):
        views.of_fastserve(found)
