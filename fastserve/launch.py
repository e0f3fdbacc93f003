"""How an engine is put together: a scripted one, or one on a model."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import Any, Literal

from fastserve.backends.scripted import Fail, ScriptedExecutor
from fastserve.engine.byte_tokenizer import EOS, ByteTokenizer
from fastserve.engine.clock import Clock, VirtualClock, WallClock
from fastserve.engine.config import EngineConfig
from fastserve.engine.detokenizer import Alphabet
from fastserve.engine.engine import Engine
from fastserve.engine.model_info import ModelInfo
from fastserve.hardware import Hardware, Memory, load_hardware


def scripted(
    latency: str | PathLike[str], realtime: bool | float, max_model_len: int, fail: Fail | None, serving: EngineConfig
) -> Engine:
    """See Engine.scripted()."""
    hardware = with_pools(load_hardware(latency), serving)
    clock: Clock = WallClock(float(realtime)) if realtime else VirtualClock()
    tokenizer = ByteTokenizer()
    info = ModelInfo(
        "scripted", tokenizer, Alphabet(tokenizer).voice, max_model_len, len(tokenizer), frozenset({EOS})
    )  # fmt: skip
    executor = ScriptedExecutor(hardware, clock, eos=info.eos_ids, fail=fail)
    own: dict[str, Any] = {"model": info.name, "latency": hardware.name, "realtime": realtime,
                           "max_model_len": max_model_len}  # fmt: skip
    return Engine(executor, info, hardware, serving, clock, own | serving.shown(hardware), f"preset {hardware.name}")


def with_pools(hardware: Hardware, serving: EngineConfig) -> Hardware:
    """The same machine with the pools that were asked for, rounded up to whole blocks."""
    block = serving.block

    def whole(tokens: int) -> int:
        return -(-tokens // block) * block

    memory = hardware.memory
    bytes_per_token = memory.bytes_per_token or 1
    host_bytes = memory.host_bytes
    if serving.host_tokens is not None:
        host_bytes = whole(serving.host_tokens) * bytes_per_token
    device_tokens = memory.device_tokens if serving.kv_tokens is None else serving.kv_tokens
    if device_tokens is not None:
        device_tokens = whole(device_tokens)
    return replace(hardware, memory=Memory(block, device_tokens, host_bytes, bytes_per_token))


def pretrained(
    name: str,
    *,
    dtype: str,
    device: str,
    threads: int | None,
    load_format: Literal["auto", "dummy"],
    latency: str | PathLike[str] | None,
    max_model_len: int | None,
    gpu_memory_utilization: float,
    trust_remote_code: bool,
    native: Literal["auto", "off"],
    serving: EngineConfig,
) -> Engine:
    """See Engine.from_pretrained()."""
    from fastserve.backends.torch.model import load_model

    given = None if latency is None else load_hardware(latency)  # a wrong name is known before the model is loaded
    model = load_model(
        name, device=device, dtype=dtype, load_format=load_format, max_model_len=max_model_len,
        trust_remote_code=trust_remote_code, native=native, threads=threads,
    )  # fmt: skip
    return on_model(model, serving, hardware=given, gpu_memory_utilization=gpu_memory_utilization)


def on_model(
    model: Any,
    serving: EngineConfig,
    *,
    hardware: Hardware | None = None,
    gpu_memory_utilization: float = 0.9,
    clock: Clock | None = None,
) -> Engine:
    """An engine on a loaded model.Model. hardware: its times, in place of a stored profile or a warm-up."""
    import torch

    from fastserve.backends.torch.executor import TorchExecutor
    from fastserve.backends.torch.kv_cache import Cache
    from fastserve.backends.torch.platform import size_pools
    from fastserve.backends.torch.warmup import measure
    from fastserve.profiler.store import stored

    block = serving.block
    block_bytes = model.block_bytes(block)
    swaps = serving.residency in ("reactive", "proactive")
    pools = size_pools(
        block_bytes, model.device, block_tokens=block, kv_tokens=serving.kv_tokens,
        host_tokens=serving.host_tokens if swaps else 0, gpu_memory_utilization=gpu_memory_utilization,
    )  # fmt: skip
    cache = Cache(
        model.layers, model.kv_heads, model.head_dim, pools.blocks, pools.host_blocks, block, model.dtype, model.device
    )
    memory = Memory(block, pools.blocks * block, pools.host_blocks * block_bytes, block_bytes // block)
    machine = "as given"
    if hardware is None:
        hardware, machine = stored(model), "a stored profile"
    if hardware is None:
        hardware, machine = measure(model, cache, memory, serving.max_batch), "measured at load"
    hardware = replace(hardware, memory=memory)
    voice = None if model.tokenizer is None else Alphabet(model.tokenizer).voice
    info = ModelInfo(
        model.name, model.tokenizer, voice, model.max_model_len, model.vocab_size, model.eos_ids, model.defaults
    )
    own: dict[str, Any] = {
        "model": model.name, "dtype": str(model.dtype).removeprefix("torch."), "device": str(model.device),
        "threads": torch.get_num_threads(), "native": model.native is not None, "latency": hardware.name,
        "max_model_len": model.max_model_len, "gpu_memory_utilization": gpu_memory_utilization, "pools": pools.why,
    }  # fmt: skip
    executor = TorchExecutor(model, cache)
    settings = own | serving.shown(hardware)
    return Engine(executor, info, hardware, serving, clock or WallClock(), settings, f"{hardware.name} ({machine})")
