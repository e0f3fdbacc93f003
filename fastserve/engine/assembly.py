"""How an engine is put together: a scripted one, or one on a model."""

from __future__ import annotations

from os import PathLike
from typing import Any

from fastserve.engine.bytes import EOS, ByteTokenizer
from fastserve.engine.clock import Clock, VirtualClock, WallClock
from fastserve.engine.engine import Engine
from fastserve.engine.face import Face
from fastserve.engine.params import SamplingParams
from fastserve.engine.request import Voice
from fastserve.engine.scripted import Fail, ScriptedExecutor
from fastserve.engine.serving import Serving
from fastserve.sched.latency import Hardware, Memory, load_hardware


def scripted(
    latency: str | PathLike[str], realtime: bool | float, max_model_len: int, fail: Fail | None, serving: Serving
) -> Engine:
    """See Engine.scripted()."""
    hardware = with_pools(load_hardware(latency), serving)
    clock: Clock = WallClock(float(realtime)) if realtime else VirtualClock()
    tokenizer = ByteTokenizer()
    face = Face("scripted", tokenizer, _Interim, max_model_len, len(tokenizer), frozenset({EOS}))
    executor = ScriptedExecutor(hardware, clock, eos=face.eos_ids, fail=fail)
    own: dict[str, Any] = {"model": face.name, "latency": hardware.name, "realtime": realtime,
                           "max_model_len": max_model_len}  # fmt: skip
    return Engine(executor, face, hardware, serving, clock, own | serving.shown(hardware), f"preset {hardware.name}")


def with_pools(hardware: Hardware, serving: Serving) -> Hardware:
    """The same machine with the pools that were asked for."""
    memory = hardware.memory
    bytes_per_token = memory.bytes_per_token or 1
    host_bytes = memory.host_bytes
    if serving.host_tokens is not None:
        host_bytes = serving.host_tokens // serving.block_tokens * serving.block_tokens * bytes_per_token
    device_tokens = memory.device_tokens if serving.kv_tokens is None else serving.kv_tokens
    if device_tokens is not None:
        device_tokens = device_tokens // serving.block_tokens * serving.block_tokens
    pools = Memory(serving.block_tokens, device_tokens, host_bytes, bytes_per_token)
    return Hardware(hardware.latency, pools, hardware.link, hardware.about)


class _Interim:
    def __init__(self, params: SamplingParams) -> None:
        self.stopped = False

    def add(self, token: int) -> str:
        return chr(token) if token < 256 else ""

    def flush(self) -> str:
        return ""


_voice: type[Voice] = _Interim
