"""Rooflines of several devices as one, and of models whose KV is no keys and values."""

from __future__ import annotations

import pytest

from fastserve.hardware import Link, load_hardware


def test_several_devices_are_one_with_all_their_memory() -> None:
    one, four = load_hardware("roofline:llama-3-8b/a100-80g"), load_hardware("roofline:llama-3-8b/4xa100-80g")
    assert four.link == Link(128 * 10**9, 128 * 10**9, 0, True)
    assert four.memory.bytes_per_token == one.memory.bytes_per_token
    weights = 16_059_990_016  # 2 bytes a parameter, norms left out
    for count, hardware in ((1, one), (4, four)):
        tokens = (count * 72 * 10**9 - weights) // one.memory.bytes_per_token  # type: ignore[operator]
        assert hardware.memory.device_tokens == tokens // 16 * 16
    overhead = 1_000_000
    quick, slow = four.latency.prefill_ns(4096) - overhead, one.latency.prefill_ns(4096) - overhead
    assert slow == pytest.approx(4 * quick, rel=1e-4)
    assert "on 4xa100-80g" in four.about


def test_a_model_that_fits_no_single_device_fits_several() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        load_hardware("roofline:llama-3-70b/a100-80g")
    assert load_hardware("roofline:llama-3-70b/4xa100-80g").memory.device_tokens == 448_288


@pytest.mark.parametrize("device", ["1xa100-80g", "0xa100-80g", "4xa100", "4x4xa100-80g", "100xa100-80g"])
def test_other_names_are_refused_with_those_that_there_are(device: str) -> None:
    with pytest.raises(ValueError, match=r"devices: .*several as one: 4xa100-80g"):
        load_hardware(f"roofline:llama-3-8b/{device}")


def test_latents_are_smaller_than_keys_and_values() -> None:
    usual, latent = load_hardware("roofline:llama-3-8b/a100-80g"), load_hardware("roofline:llama-3-8b-mla/a100-80g")
    assert usual.memory.bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert latent.memory.bytes_per_token == 32 * 576 * 2
    assert latent.latency.prefill_ns(4096) == usual.latency.prefill_ns(4096)  # the arithmetic is the same
    assert latent.latency.span_ps(1, 64, 64 * 8192) < usual.latency.span_ps(1, 64, 64 * 8192)
