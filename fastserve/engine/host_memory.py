"""The machine: memory that a process may still take, and what of it becomes KV pools; processors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
MOST_ON_HOST = 2 * GIB
"""Maximum bytes of the device pool on a CPU, or a GPU that shares the host's memory."""


@dataclass(frozen=True, slots=True)
class Pools:
    """Blocks of the KV pools, and the origin of the numbers, for the log. prefix_blocks: on the host, for prefixes."""

    blocks: int
    host_blocks: int
    why: str
    prefix_blocks: int = 0


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def size_pools(
    block_bytes: int,
    *,
    block_tokens: int = 16,
    kv_tokens: int | None = None,
    host_tokens: int | None = None,
    host_prefix_tokens: int = 0,
    free: int | None = None,
) -> Pools:
    """Pools for a model that is loaded and runs on the CPU. A number of tokens that is given is taken, rounded up to
    whole blocks.

    Else the device pool takes an eighth of free memory, at most MOST_ON_HOST, and the host pool twice that. free:
    bytes of free host memory, measured when None. ValueError where not one block fits, or more is asked than there is.
    """
    check_tokens(kv_tokens, host_tokens)
    free = free_host_memory() if free is None else free
    room = min(free // 8, MOST_ON_HOST)
    why = f"an eighth of {free / GIB:.1f} GiB of free memory, at most {MOST_ON_HOST // GIB} GiB"
    pools = share_out(room, 2 * room, why, block_bytes, block_tokens, kv_tokens, host_tokens, host_prefix_tokens)
    on_host = pools.host_blocks + pools.prefix_blocks
    asked = f"KV pools of {pools.blocks * block_tokens:,} tokens and {on_host * block_tokens:,} on the host take"
    check_room(asked, (pools.blocks + on_host) * block_bytes, free, "memory")
    return pools


def check_tokens(kv_tokens: int | None, host_tokens: int | None) -> None:
    """ValueError for a pool that cannot be."""
    for name, tokens in (("kv_tokens", kv_tokens), ("host_tokens", host_tokens)):
        if tokens is not None and tokens < (name == "kv_tokens"):
            raise ValueError(f"{name}={tokens} is too small: give a number of tokens")


def share_out(
    room: int, most_on_host: int, why: str, block_bytes: int, block_tokens: int, kv_tokens: int | None,
    host_tokens: int | None, host_prefix_tokens: int,
) -> Pools:  # fmt: skip
    """room, most_on_host: bytes for the two pools where no tokens are given. why: where they come from."""
    if kv_tokens is None:
        blocks = max(room, 0) // block_bytes
        if blocks < 1:
            raise ValueError(
                f"No KV block of {block_bytes} bytes fits into {why}: take a smaller model, or give kv_tokens yourself."
            )
    else:
        blocks, why = -(-kv_tokens // block_tokens), "as asked"
    if host_tokens is None:
        host_blocks = min(2 * blocks, most_on_host // block_bytes)
    else:
        host_blocks = -(-host_tokens // block_tokens)
    return Pools(blocks, host_blocks, why, host_prefix_tokens // block_tokens)


def check_room(asked: str, size: int, free: int, where: str) -> None:
    """Before anything is allocated: a system may promise more memory than it has, and then end the process."""
    if size > free:
        raise ValueError(
            f"{asked} {size / GIB:,.1f} GiB of {where}, and {free / GIB:,.1f} GiB are free: give fewer tokens, or none "
            "for what fits."
        )


def free_host_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may still take: what the machine has left, or its container.

    root: where proc and sys/fs/cgroup are. A machine without /proc counts half of its memory as free.
    """
    meminfo = root / "proc/meminfo"
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        try:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, ValueError, OSError):
            free = 4 * GIB
    return min([free, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> list[int]:
    """What each memory limit of the control groups around this process leaves, versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        if controllers == "":
            base, limit, usage, cached = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, usage = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        # Each group on the way up may have a limit. In a container the path may be the host's: then only base is there.
        parts = Path(inside.lstrip("/")).parts
        for depth in range(len(parts), -1, -1):
            group = base.joinpath(*parts[:depth])
            try:
                most = int((group / limit).read_text(encoding="utf-8"))
                used = int((group / usage).read_text(encoding="utf-8"))
            except (OSError, ValueError):  # not there, or "max"
                continue
            left.append(max(0, most - used + _statistic(group / "memory.stat", cached)))
    return left


def _statistic(path: Path, name: str) -> int:
    """One number of a memory.stat file: here the page cache, which makes room when asked."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
