"""KV blocks: vllm.v1.core.block_pool, kv_cache_manager, kv_cache_utils and vllm.v1.kv_cache_interface; one group of
full attention.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tests.vllm.standin.request import Request, RequestStatus


@dataclass
class FullAttentionSpec:
    block_size: int


@dataclass
class KVCacheGroupSpec:
    layer_names: list[str]
    kv_cache_spec: FullAttentionSpec


@dataclass
class KVCacheConfig:
    num_blocks: int
    kv_cache_tensors: list[Any]
    kv_cache_groups: list[KVCacheGroupSpec]


class KVCacheBlock:
    __slots__ = ("block_hash", "block_id", "is_null", "ref_cnt")

    def __init__(self, block_id: int) -> None:
        self.block_id = block_id
        self.ref_cnt = 0
        self.block_hash: bytes | None = None
        self.is_null = False


def get_request_block_hasher(size: int, hash_function: Any = None) -> Callable[[Request], list[bytes]]:
    """Names each full block by its tokens and all before it."""

    def hasher(request: Request) -> list[bytes]:
        found: list[bytes] = []
        before = request.block_hashes[-1] if request.block_hashes else b""
        for start in range(len(request.block_hashes) * size, request.num_tokens - size + 1, size):
            tokens = repr(request.all_token_ids[start : start + size]).encode()
            before = hashlib.sha256(before + tokens).digest()
            found.append(before)
        return found

    return hasher


class BlockPool:
    """Free blocks are in `free`, in the order in which they are taken: an ordered set of their ids."""

    def __init__(self, num_gpu_blocks: int, enable_caching: bool) -> None:
        self.num_gpu_blocks = num_gpu_blocks
        self.enable_caching = enable_caching
        self.blocks = [KVCacheBlock(number) for number in range(num_gpu_blocks)]
        self.null_block = self.blocks[0]
        self.null_block.is_null = True
        self.free = dict.fromkeys(range(1, num_gpu_blocks))
        self.cached: dict[bytes, dict[int, KVCacheBlock]] = {}

    def get_num_free_blocks(self) -> int:
        return len(self.free)

    def get_usage(self) -> float:
        return 1.0 - len(self.free) / max(1, self.num_gpu_blocks - 1)

    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]:
        if num_blocks > len(self.free):
            raise ValueError(f"Cannot get {num_blocks} free blocks from the pool")
        taken = [self.blocks[number] for number in list(islice(self.free, num_blocks))]
        for block in taken:
            del self.free[block.block_id]
            self._forget(block)
            assert block.ref_cnt == 0
            block.ref_cnt = 1
        return taken

    def touch(self, blocks: Iterable[KVCacheBlock]) -> None:
        for block in blocks:
            if block.ref_cnt == 0:
                del self.free[block.block_id]
            block.ref_cnt += 1

    def free_blocks(self, ordered_blocks: Iterable[KVCacheBlock]) -> None:
        """Those that can be found again are taken last, the others next."""
        first: list[int] = []
        for block in ordered_blocks:
            block.ref_cnt -= 1
            assert block.ref_cnt >= 0
            if block.ref_cnt == 0 and (block.block_hash is None or not self.enable_caching):
                first.append(block.block_id)
            elif block.ref_cnt == 0:
                self.free[block.block_id] = None
        if first:
            self.free = dict.fromkeys(first) | self.free

    def cache(self, block: KVCacheBlock, name: bytes) -> None:
        if block.block_hash is None:
            block.block_hash = name
            self.cached.setdefault(name, {})[block.block_id] = block

    def find(self, name: bytes) -> KVCacheBlock | None:
        return next(iter(self.cached.get(name, {}).values()), None)

    def reset_prefix_cache(self) -> bool:
        if len(self.free) != self.num_gpu_blocks - 1:
            return False
        self.cached.clear()
        for block in self.blocks:
            block.block_hash = None
        return True

    def _forget(self, block: KVCacheBlock) -> None:
        if block.block_hash is not None:
            there = self.cached[block.block_hash]
            del there[block.block_id]
            if not there:
                del self.cached[block.block_hash]
            block.block_hash = None


class KVCacheBlocks:
    def __init__(self, blocks: tuple[Sequence[KVCacheBlock], ...]) -> None:
        self.blocks = blocks

    def get_block_ids(self, allow_none: bool = False) -> tuple[list[int], ...] | None:
        if allow_none and not any(self.blocks):
            return None
        return tuple([block.block_id for block in group] for group in self.blocks)


class KVCacheManager:
    def __init__(
        self, kv_cache_config: KVCacheConfig, max_model_len: int, enable_caching: bool, watermark: float
    ) -> None:
        self.max_model_len = max_model_len
        self.enable_caching = enable_caching
        self.num_kv_cache_groups = len(kv_cache_config.kv_cache_groups)
        self.block_size = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        self.block_pool = BlockPool(kv_cache_config.num_blocks, enable_caching)
        self.watermark_blocks = int(watermark * kv_cache_config.num_blocks)
        self.empty_kv_cache_blocks = KVCacheBlocks(((),))
        self.held: dict[str, list[KVCacheBlock]] = {}
        self.num_cached: dict[str, int] = {}

    @property
    def usage(self) -> float:
        return self.block_pool.get_usage()

    def get_computed_blocks(self, request: Request) -> tuple[KVCacheBlocks, int, int]:
        """The blocks of the longest cached prefix, its tokens (all but one at most), and 0."""
        if not self.enable_caching or request.skip_reading_prefix_cache:
            return self.empty_kv_cache_blocks, 0, 0
        found: list[KVCacheBlock] = []
        for name in request.block_hashes[: (request.num_tokens - 1) // self.block_size]:
            block = self.block_pool.find(name)
            if block is None:
                break
            found.append(block)
        return KVCacheBlocks((found,)), len(found) * self.block_size, 0

    def allocate_slots(
        self,
        request: Request,
        num_new_tokens: int,
        num_new_computed_tokens: int = 0,
        new_computed_blocks: KVCacheBlocks | None = None,
        num_lookahead_tokens: int = 0,
        full_sequence_must_fit: bool = False,
        has_scheduled_reqs: bool = True,
    ) -> KVCacheBlocks | None:
        """Blocks for so many tokens more; None where there are not enough."""
        hit = new_computed_blocks.blocks[0] if new_computed_blocks is not None else ()
        computed = request.num_computed_tokens + num_new_computed_tokens
        held = self.held.get(request.request_id, [])
        waiting = request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)
        headroom = self.watermark_blocks if has_scheduled_reqs and waiting else 0
        free = self.block_pool.get_num_free_blocks()
        revived = sum(block.ref_cnt == 0 for block in hit)

        def lacks(tokens: int) -> bool:
            missing = max(0, -(-tokens // self.block_size) - len(hit) - len(held))
            return missing + revived + headroom > free

        if full_sequence_must_fit and lacks(min(request.num_tokens, self.max_model_len)):
            return None
        end = computed + num_new_tokens
        slots = min(end + num_lookahead_tokens, self.max_model_len)
        if lacks(slots):
            return None
        if hit:
            self.block_pool.touch(hit)
            self.held.setdefault(request.request_id, []).extend(hit)
            self.num_cached[request.request_id] = len(hit)
        mine = self.held.setdefault(request.request_id, [])
        new = self.block_pool.get_new_blocks(max(0, -(-slots // self.block_size) - len(mine)))
        mine.extend(new)
        self.cache_blocks(request, min(end, request.num_tokens))
        return KVCacheBlocks((new,))

    def cache_blocks(self, request: Request, num_computed_tokens: int) -> None:
        """Full blocks up to there can be found from now on."""
        if not self.enable_caching:
            return
        id = request.request_id
        full = num_computed_tokens // self.block_size
        for at in range(self.num_cached.get(id, 0), full):
            self.block_pool.cache(self.held[id][at], request.block_hashes[at])
        self.num_cached[id] = max(full, self.num_cached.get(id, 0))

    def free(self, request: Request) -> None:
        self.num_cached.pop(request.request_id, None)
        self.block_pool.free_blocks(reversed(self.held.pop(request.request_id, [])))

    def get_blocks(self, request_id: str) -> KVCacheBlocks:
        return KVCacheBlocks((self.held.get(request_id, []),))

    def get_block_ids(self, request_id: str) -> tuple[list[int], ...]:
        return tuple([block.block_id for block in group] for group in self.get_blocks(request_id).blocks)

    def reset_prefix_cache(self) -> bool:
        return self.block_pool.reset_prefix_cache()
