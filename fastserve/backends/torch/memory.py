"""Sizes of the device and host KV pools."""

from __future__ import annotations

import torch

from fastserve.engine import host_memory
from fastserve.engine.host_memory import GIB, Pools, check_room, check_tokens, free_host_memory, share_out

MOST_PINNED = 32 * GIB
"""Maximum bytes of the host pool of a CUDA device: they are pinned."""


def size_pools(
    block_bytes: int,
    device: torch.device,
    *,
    block_tokens: int = 16,
    kv_tokens: int | None = None,
    host_tokens: int | None = None,
    host_prefix_tokens: int = 0,
    gpu_memory_utilization: float = 0.9,
    free: int | None = None,
) -> Pools:
    """The pools for a model that is loaded. A number of tokens that is given is taken, rounded up to whole blocks.

    Else, on CUDA: the device pool takes `gpu_memory_utilization` of what was free before this process took memory,
    less what it has taken; the host pool twice that, at most a quarter of the host's free memory and MOST_PINNED.
    Elsewhere see host_memory.size_pools(). free: bytes of free host memory, measured when None. ValueError where not
    one block fits, or more is asked than there is.
    """
    if not 0 < gpu_memory_utilization <= 1:
        raise ValueError(f"gpu_memory_utilization={gpu_memory_utilization} must be above 0 and at most 1")
    free = free_host_memory() if free is None else free
    if device.type != "cuda":
        return host_memory.size_pools(
            block_bytes, block_tokens=block_tokens, kv_tokens=kv_tokens, host_tokens=host_tokens,
            host_prefix_tokens=host_prefix_tokens, free=free,
        )  # fmt: skip
    check_tokens(kv_tokens, host_tokens)
    on_device = free_device_memory(device)
    taken = torch.cuda.memory_allocated(device)
    room = int((on_device + taken) * gpu_memory_utilization) - taken
    why = f"{gpu_memory_utilization:.0%} of {(on_device + taken) / GIB:.1f} GiB of device memory, less the weights"
    pools = share_out(
        room, min(free // 4, MOST_PINNED), why, block_bytes, block_tokens, kv_tokens, host_tokens, host_prefix_tokens
    )
    tokens, on_host = pools.blocks * block_tokens, pools.host_blocks + pools.prefix_blocks
    check_room(f"A KV pool of {tokens:,} tokens takes", pools.blocks * block_bytes, on_device, "device memory")
    asked = f"A host pool of {on_host * block_tokens:,} tokens takes"
    check_room(asked, on_host * block_bytes, free, "the host's memory")
    return pools


def ran_out(error: Exception) -> bool:
    """Whether it says that memory ran out, on the device or the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_device_memory(device: torch.device) -> int:
    """Bytes of a CUDA device that this process may still take; what PyTorch keeps for later counts as free."""
    left, _ = torch.cuda.mem_get_info(device)
    return left + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
