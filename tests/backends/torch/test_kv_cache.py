"""The pools and the copies between them."""

import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from fastserve.backends.torch.kv_cache import Cache, pinned, runs, unpin  # noqa: E402
from tests.devices import DEVICES  # noqa: E402

CPU = torch.device("cpu")


def make(device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> Cache:
    cache = Cache(3, 2, 8, 6, 5, 4, dtype, device)
    cache.pool.copy_(torch.arange(cache.pool.numel()).view(cache.pool.shape) % 4099)
    cache.host.fill_(-1)
    return cache


@pytest.fixture(params=DEVICES)
def cache(request: pytest.FixtureRequest) -> Iterator[Cache]:
    cache = make(torch.device(request.param))
    yield cache
    cache.close()


def test_shapes_and_sizes(cache: Cache) -> None:
    assert cache.pool.shape == (6, 3, 2, 2, 4, 8)
    assert cache.host.shape == (5, 3, 2, 2, 4, 8)
    assert cache.block_bytes == 3 * 2 * 2 * 4 * 8 * 4
    assert (cache.blocks, cache.host_blocks) == (6, 5)
    assert cache.pool[0].is_contiguous()


def test_blocks_go_out_and_come_back_elsewhere(cache: Cache) -> None:
    before = cache.pool.clone()
    out = cache.copy_out([4, 5, 1], [0, 1, 4])
    out.wait()
    assert out.done()
    assert out.nbytes == 3 * cache.block_bytes
    assert torch.equal(cache.host[[0, 1, 4]], before[[4, 5, 1]].cpu())
    assert bool((cache.host[[2, 3]] == -1).all())
    back = cache.copy_in([4, 0], [2, 3])
    back.wait()
    assert torch.equal(cache.pool[[2, 3]], before[[1, 4]])
    assert torch.equal(cache.pool[[0, 1, 4, 5]], before[[0, 1, 4, 5]])


def test_a_ticket_says_when_the_copy_ended(cache: Cache) -> None:
    before = time.perf_counter_ns()
    first, second = cache.copy_out([0], [0]), cache.copy_out([1], [1])
    second.wait()
    assert first.done()  # a direction is served in order
    assert first.ended_ns is not None
    assert second.ended_ns is not None
    ends = [first.ended_ns, second.ended_ns]
    if cache.device.type == "cuda":  # where it is when somebody first looked
        ends.reverse()
    assert before <= ends[0] <= ends[1] <= time.perf_counter_ns()


def test_nothing_to_copy_is_a_copy_too(cache: Cache) -> None:
    ticket = cache.copy_out([], [])
    ticket.wait()
    assert ticket.nbytes == 0


def test_wrong_blocks_are_refused_before_anything_moves(cache: Cache) -> None:
    before = cache.pool.clone()
    for sources, targets in (([0, 5], [0, 1]), ([-1], [0]), ([0], [6])):
        with pytest.raises(ValueError, match="not all in a pool of"):
            cache.copy_in(sources, targets)
    with pytest.raises(ValueError, match="give one target for each"):
        cache.copy_in([0, 1], [0])
    assert torch.equal(cache.pool, before)


def test_a_cache_without_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one device block"):
        Cache(1, 1, 8, 0, 4, 16, torch.float32, CPU)
    Cache(1, 1, 8, 1, 0, 16, torch.float32, CPU).close()


def test_copies_under_inference_mode_and_out_of_it_can_be_mixed(cache: Cache) -> None:
    with torch.inference_mode():
        cache.pool[0].zero_()
        cache.copy_out([0], [0]).wait()
        cache.host[0] += 1
    cache.copy_in([0], [1]).wait()
    cache.pool[2].zero_()
    assert bool((cache.pool[1] == 1).all())


def test_close_ends_the_threads() -> None:
    cache = make()
    before = threading.active_count()
    tickets = [cache.copy_out([i], [i]) for i in range(5)] + [cache.copy_in([0], [5])]
    assert threading.active_count() == before + 2
    cache.close()
    assert all(ticket.done() for ticket in tickets)
    assert threading.active_count() == before
    cache.close()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_runs_are_the_pairs_in_order(pairs: list[tuple[int, int]]) -> None:
    joined = list(runs([a for a, _ in pairs], [b for _, b in pairs]))
    assert [(run.source + i, run.target + i) for run in joined for i in range(run.blocks)] == pairs
    for one, two in pairwise(joined):
        assert (one.source + one.blocks, one.target + one.blocks) != (two.source, two.target)


@pytest.mark.parametrize(
    "device", [pytest.param("cuda", marks=pytest.mark.cuda), pytest.param("mps", marks=pytest.mark.mps)]
)
def test_on_an_accelerator(device: str) -> None:
    cache = make(torch.device(device), torch.float16)
    before = cache.pool.cpu()
    assert cache.host.is_pinned() == (device == "cuda")
    cache.copy_out([4, 5, 1], [0, 1, 4]).wait()
    assert torch.equal(cache.host[[0, 1, 4]], before[[4, 5, 1]])
    back = cache.copy_in([4, 0], [2, 3])
    back.wait()
    assert back.ended_ns is not None
    assert torch.equal(cache.pool[[2, 3]].cpu(), before[[1, 4]])
    cache.close()


class Driver:
    """What is asked of the CUDA driver for pinned memory."""

    def __init__(self, fails: int = 0) -> None:
        self.fails = fails
        self.held: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        self.held[address] = size
        return self.fails

    def cudaHostUnregister(self, address: int) -> None:
        del self.held[address]


def test_pinned_memory_is_of_the_size_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    host, address = pinned((3, 5, 1000), torch.bfloat16)
    assert (host.shape, host.dtype, host.is_contiguous()) == ((3, 5, 1000), torch.bfloat16, True)
    assert driver.held == {host.data_ptr(): 3 * 5 * 1000 * 2} == {address: host.nbytes}
    assert address % 4096 == 0  # two pools never share a page: one is locked once
    unpin(address)
    assert not driver.held
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Driver(fails=2))
    with pytest.raises(MemoryError, match=r"0\.0 GiB of host memory cannot be pinned: CUDA error 2"):
        pinned((3, 5), torch.bfloat16)
    with pytest.raises(MemoryError, match="cannot be pinned: "):
        pinned((1 << 50, 5), torch.bfloat16)


def test_freed_pools_hold_nothing(cache: Cache) -> None:
    cache.copy_out([0], [0])
    cache.free()
    assert cache.pool.untyped_storage().nbytes() == cache.host.untyped_storage().nbytes() == 0
    cache.free()


@pytest.mark.cuda
def test_freed_pools_are_the_devices_again() -> None:
    before = torch.cuda.memory_allocated()
    cache = Cache(4, 8, 128, 1000, 700, 16, torch.bfloat16, torch.device("cuda"))
    host = cache.host
    assert host.is_pinned() and host.nbytes == 700 * cache.block_bytes
    assert torch.cuda.memory_allocated() >= before + cache.pool.nbytes
    cache.free()
    assert torch.cuda.memory_allocated() == before and not host.is_pinned()


@pytest.mark.cuda
def test_memory_that_cannot_be_pinned_leaves_the_device_well() -> None:
    with pytest.raises(MemoryError, match="cannot be pinned"):
        pinned((1 << 50, 5), torch.bfloat16)
    assert torch.ones(2, device="cuda").sum().item() == 2
