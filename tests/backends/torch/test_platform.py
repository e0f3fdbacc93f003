"""Devices, types and lengths."""

import logging

import pytest

torch = pytest.importorskip("torch")

from fastserve.backends.torch import platform  # noqa: E402
from fastserve.backends.torch.memory import size_pools  # noqa: E402
from fastserve.backends.torch.platform import cpu_has_bfloat16  # noqa: E402
from fastserve.engine.model_info import clamp_length  # noqa: E402

CPU = torch.device("cpu")


def test_lengths_are_clamped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fastserve"):
        assert clamp_length(None, 300) == 300
        assert clamp_length(100, 300) == 100
        assert caplog.messages == []
        assert clamp_length(301, 300) == 300
        assert "max_model_len=301 is above the model's own 300 tokens" in caplog.text
    assert clamp_length(5000, None) == 5000
    assert clamp_length(None, None) == 2048
    with pytest.raises(ValueError, match="at least 1 token"):
        clamp_length(0, 300)


def test_bfloat16_where_the_cpu_has_the_instructions() -> None:
    assert cpu_has_bfloat16({"avx2": True, "avx512_bf16": True})
    assert cpu_has_bfloat16({"amx_bf16": True})
    assert not cpu_has_bfloat16({"avx2": True, "avx512_f": True, "avx512_bf16": False})
    expected = torch.bfloat16 if cpu_has_bfloat16(torch.cpu.get_capabilities()) else torch.float32
    choice = platform.pick_dtype("auto", CPU)
    assert choice.dtype == expected
    assert "bfloat16" in choice.why
    assert platform.pick_dtype("float16", CPU).dtype == torch.float16


@pytest.mark.parametrize("name", ["bf16", "int8", ""])
def test_an_unknown_dtype_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="give auto, float32, bfloat16, float16"):
        platform.pick_dtype(name, CPU)


def test_devices() -> None:
    assert platform.pick_device("cpu") == CPU
    assert platform.pick_device("auto").type in {"cuda", "mps", "cpu"}
    for name in ("gpu", "meta"):
        with pytest.raises(ValueError, match="give auto, cuda, cuda:1, mps or cpu"):
            platform.pick_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device here"):
            platform.pick_device("cuda")
    if not torch.backends.mps.is_available():
        with pytest.raises(ValueError, match="no Apple GPU here"):
            platform.pick_device("mps")


@pytest.mark.cuda
def test_a_cuda_device_equals_that_of_its_tensors() -> None:
    device = platform.pick_device("cuda")
    assert torch.empty(1, device=device).device == device
    with pytest.raises(ValueError, match="counted from 0"):
        platform.pick_device(f"cuda:{torch.cuda.device_count()}")
    assert size_pools(1 << 20, device).blocks > 0


def test_a_gpu_takes_no_attention_that_is_planned_anew_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", told.append)
    platform.settle(torch.device("cpu"))
    assert not told
    platform.settle(torch.device("cuda", 0))
    assert told == [False]
