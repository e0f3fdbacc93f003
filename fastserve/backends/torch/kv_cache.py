"""Cache: device and host pools of KV blocks, and asynchronous copies between them.

A block holds `block_tokens` tokens of all layers and is one contiguous run, so that a copy is one move a block. Copies
start at once and run in order, each direction on its own: on a stream of its own on CUDA, on a thread of its own
elsewhere. The caller synchronises: a block that a copy reads or writes must not be used before that copy's ticket has
been waited for.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import NamedTuple

import torch
from torch import Tensor


class Ticket:
    """A copy under way. nbytes: its size. ended_ns: time.perf_counter_ns() when it ended, None before.

    On CUDA ended_ns is when done() or wait() first saw the end.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.ended_ns: int | None = None

    def done(self) -> bool:
        """Whether the copy has ended. Raises what the copy raised."""
        raise NotImplementedError

    def wait(self) -> None:
        """Blocks the calling thread until the copy has ended. Raises what the copy raised."""
        raise NotImplementedError


class _ThreadTicket(Ticket):
    def __init__(self, nbytes: int) -> None:
        super().__init__(nbytes)
        self.landed = threading.Event()
        self.error: BaseException | None = None

    def done(self) -> bool:
        return self.landed.is_set() and self._checked()

    def wait(self) -> None:
        self.landed.wait()
        self._checked()

    def _checked(self) -> bool:
        if self.error is not None:
            raise self.error
        return True


class _StreamTicket(Ticket):
    def __init__(self, nbytes: int, event: torch.cuda.Event) -> None:
        super().__init__(nbytes)
        self.event = event

    def done(self) -> bool:
        if self.ended_ns is None and self.event.query():
            self.ended_ns = time.perf_counter_ns()
        return self.ended_ns is not None

    def wait(self) -> None:
        if self.ended_ns is None:
            self.event.synchronize()
            self.ended_ns = time.perf_counter_ns()


class Run(NamedTuple):
    """`blocks` neighbouring blocks from `source` on that go to neighbouring ones from `target` on."""

    source: int
    target: int
    blocks: int


def runs(sources: Sequence[int], targets: Sequence[int]) -> Iterator[Run]:
    """The pairs of blocks in order, neighbours on both sides joined."""
    begin = 0
    for i in range(1, len(sources) + 1):
        whole = i < len(sources) and sources[i] == sources[i - 1] + 1 and targets[i] == targets[i - 1] + 1
        if not whole:
            yield Run(sources[begin], targets[begin], i - begin)
            begin = i


class _Move(NamedTuple):
    source: Tensor
    target: Tensor
    runs: list[Run]
    ticket: _ThreadTicket


class _Lane:
    """One direction on a thread of its own, which starts with the first copy."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: SimpleQueue[_Move | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def send(self, move: _Move) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=_work, args=(self._queue,), name=self._name, daemon=True)
            self._thread.start()
        self._queue.put(move)

    def close(self) -> None:
        """Returns when all copies have ended."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None


def _work(queue: SimpleQueue[_Move | None]) -> None:
    while (move := queue.get()) is not None:
        try:
            _move(move.source, move.target, move.runs)
        except BaseException as error:
            move.ticket.error = error
        move.ticket.ended_ns = time.perf_counter_ns()
        move.ticket.landed.set()


def _move(source: Tensor, target: Tensor, runs: list[Run]) -> None:
    if source.device.type == target.device.type == "cpu":
        # memmove gives up the interpreter's lock and starts no second pool of OpenMP threads, as copy_ would here.
        size = source[0].nbytes
        for run in runs:
            at = source.data_ptr() + run.source * size
            ctypes.memmove(target.data_ptr() + run.target * size, at, run.blocks * size)
        return
    with torch.inference_mode():
        for run in runs:
            target[run.target : run.target + run.blocks].copy_(source[run.source : run.source + run.blocks])


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, int]:
    """Host memory that the driver copies from and to by itself, and its address for unpin(). MemoryError.

    It is page-locked here and not by PyTorch's allocator, which takes the next power of two of bytes, up to twice what
    is asked, and keeps it until the process ends.
    """
    size = math.prod(shape) * dtype.itemsize
    said = f"{size / (1 << 30):,.1f} GiB of host memory cannot be pinned"
    try:
        pages = mmap.mmap(-1, size)
    except OSError as error:
        raise MemoryError(f"{said}: {error.strerror}") from error
    host = torch.frombuffer(pages, dtype=dtype).view(shape)
    failed = int(torch.cuda.cudart().cudaHostRegister(host.data_ptr(), size, 0))
    if failed:
        with suppress(Exception):
            torch.empty(1, device="cuda").zero_()  # else the driver would tell the next kernel of it
        raise MemoryError(f"{said}: CUDA error {failed}")
    return host, host.data_ptr()


def unpin(address: int) -> None:
    """After the last copy from or to it."""
    torch.cuda.cudart().cudaHostUnregister(address)


class Cache:
    """pool: (blocks, layers, 2, kv_heads, block_tokens, head_dim), on the device; host: the same on the host.

    block_bytes: bytes of a block, all layers, K and V. On CUDA the host pool is pinned; on a CPU neither pool takes
    memory before its blocks are used. free() gives the memory of both back.

    Raises ValueError for a pool without a block, MemoryError or torch.OutOfMemoryError where the memory is not there.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        blocks: int,
        host_blocks: int,
        block_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        if blocks < 1 or host_blocks < 0:
            raise ValueError(
                f"A cache of {blocks} device blocks and {host_blocks} host blocks cannot be made: "
                "give it at least one device block and no negative number."
            )
        shape = (layers, 2, kv_heads, block_tokens, head_dim)
        self.block_tokens = block_tokens
        self.device = device
        self.pool: Tensor = torch.empty((blocks, *shape), dtype=dtype, device=device)
        self._unpin: weakref.finalize[..., Cache] | None = None
        if device.type == "cuda" and host_blocks:
            self.host, address = pinned((host_blocks, *shape), dtype)
            self._unpin = weakref.finalize(self, unpin, address)
            self._unpin.atexit = False  # the driver is gone by then
        else:
            self.host = torch.empty((host_blocks, *shape), dtype=dtype)
        self.block_bytes: int = self.pool[0].nbytes
        self._out: torch.cuda.Stream | _Lane
        self._in: torch.cuda.Stream | _Lane
        if device.type == "cuda":
            self._out, self._in = torch.cuda.Stream(device), torch.cuda.Stream(device)
        else:
            self._out, self._in = _Lane("fastserve-copy-out"), _Lane("fastserve-copy-in")

    @property
    def blocks(self) -> int:
        return self.pool.shape[0]

    @property
    def host_blocks(self) -> int:
        return self.host.shape[0]

    def copy_out(self, device_blocks: list[int], host_blocks: list[int]) -> Ticket:
        """Starts the copy of these blocks to the host. Raises ValueError for a block that does not exist."""
        return self._start(self._out, self.pool, device_blocks, self.host, host_blocks)

    def copy_in(self, host_blocks: list[int], device_blocks: list[int]) -> Ticket:
        """Starts the copy of these blocks to the device. Raises ValueError for a block that does not exist."""
        return self._start(self._in, self.host, host_blocks, self.pool, device_blocks)

    def close(self) -> None:
        """Returns when all copies have ended and the threads are gone. A copy started later makes new ones."""
        for way in (self._out, self._in):
            if isinstance(way, _Lane):
                way.close()
            else:
                way.synchronize()

    def free(self) -> None:
        """close(), and the memory of both pools goes back, whoever still holds this object. No copy may follow."""
        self.close()
        if self._unpin is not None:
            self._unpin()
        self.pool, self.host = self.pool[:0].clone(), self.host[:0].clone()

    def _start(
        self,
        way: torch.cuda.Stream | _Lane,
        source: Tensor,
        sources: list[int],
        target: Tensor,
        targets: list[int],
    ) -> Ticket:
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} blocks cannot be copied to {len(targets)}: give one target for each.")
        for pool, numbers in ((source, sources), (target, targets)):
            if numbers and not 0 <= min(numbers) <= max(numbers) < pool.shape[0]:
                raise ValueError(f"Blocks {numbers} are not all in a pool of {pool.shape[0]} blocks.")
        nbytes = len(sources) * self.block_bytes
        joined = list(runs(sources, targets)) if sources else []
        if isinstance(way, _Lane):
            ticket = _ThreadTicket(nbytes)
            way.send(_Move(source, target, joined, ticket))
            return ticket
        # What the compute stream has been given so far may still read or write these blocks.
        way.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(way), torch.inference_mode():
            for run in joined:
                piece = source[run.source : run.source + run.blocks]
                target[run.target : run.target + run.blocks].copy_(piece, non_blocking=True)
            event = torch.cuda.Event()
            event.record(way)  # after the copy: recorded before it, nothing would ever wait
        return _StreamTicket(nbytes, event)
