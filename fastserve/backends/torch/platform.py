"""Selection of device, dtype and context length."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

LOG = logging.getLogger("fastserve")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Choice(NamedTuple):
    """A dtype and why it was chosen, for the log."""

    dtype: torch.dtype
    why: str


def pick_device(name: str = "auto") -> torch.device:
    """auto: CUDA, else MPS, else the CPU. ValueError for a device that is unknown or not there."""
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name!r} is unknown: give auto, cuda, cuda:1, mps or cpu") from None
    if device.type not in ("cuda", "mps", "cpu"):
        raise ValueError(f"device={name!r} is not supported: give auto, cuda, cuda:1, mps or cpu")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device={name!r}: PyTorch finds no CUDA device here; give cpu or auto")
        if ":" not in name:  # so that it equals the device of its tensors
            device = torch.device("cuda", torch.cuda.current_device())
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"device={name!r}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={name!r}: PyTorch finds no Apple GPU here; give cpu or auto")
    return device


def settle(device: torch.device) -> None:
    """What holds for the whole process once it serves from this device."""
    if device.type == "cuda":
        # cuDNN plans its attention anew for each shape, 40 ms and more on an H100, and contexts grow all the time.
        torch.backends.cuda.enable_cudnn_sdp(False)


def device_name(device: torch.device) -> str:
    """For people and provenance: with the name of the card, where it has one."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def pick_dtype(name: str, device: torch.device) -> Choice:
    """auto: bfloat16 where the device computes in it, else float16 on a GPU and float32 on a CPU.

    ValueError for any other name but float32, bfloat16 and float16.
    """
    if name != "auto":
        if name not in DTYPES:
            raise ValueError(f"dtype={name!r} is unknown: give auto, {', '.join(DTYPES)}")
        return Choice(DTYPES[name], "as asked")
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return Choice(torch.bfloat16, "this GPU computes in bfloat16")
        return Choice(torch.float16, "this GPU has no bfloat16 units")
    if device.type == "mps":
        try:
            one = torch.ones(2, 2, dtype=torch.bfloat16, device=device)
            torch.matmul(one, one)
        except (TypeError, RuntimeError):
            return Choice(torch.float16, "this Apple GPU has no bfloat16 in PyTorch")
        return Choice(torch.bfloat16, "this Apple GPU computes in bfloat16")
    if cpu_has_bfloat16(torch.cpu.get_capabilities()):
        return Choice(torch.bfloat16, "this CPU has bfloat16 instructions")
    return Choice(torch.float32, "this CPU has no bfloat16 instructions")


def cpu_has_bfloat16(flags: Mapping[str, Any]) -> bool:
    """flags: torch.cpu.get_capabilities()."""
    return any(bool(flags.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))
