"""How much memory KV may take, on made-up machines."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fastserve.backends.torch.memory import size_pools  # noqa: E402
from fastserve.engine.host_memory import GIB, free_host_memory  # noqa: E402

CPU = torch.device("cpu")


def machine(root: Path, available_kib: int, cgroup: str = "") -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available_kib} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    return root


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_a_machine_without_limits_has_what_is_available(tmp_path: Path) -> None:
    assert free_host_memory(machine(tmp_path, 5 << 20)) == 5 * GIB


def test_the_tightest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, 50 << 20, "0::/pod/box\n")
    group(root / "sys/fs/cgroup/pod/box", memory__max="max", memory__current=0)
    group_stat = f"anon 1\ninactive_file {GIB}\n"
    (root / "sys/fs/cgroup/pod/memory.max").write_text(str(8 * GIB))
    (root / "sys/fs/cgroup/pod/memory.current").write_text(str(3 * GIB))
    (root / "sys/fs/cgroup/pod/memory.stat").write_text(group_stat)
    assert free_host_memory(root) == 6 * GIB  # 8 less 3, of which 1 is page cache


def test_a_container_that_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    root = machine(tmp_path, 50 << 20, "0::/system.slice/far/away\n")
    group(root / "sys/fs/cgroup", memory__max=4 * GIB, memory__current=GIB)
    assert free_host_memory(root) == 3 * GIB


def test_version_1_groups(tmp_path: Path) -> None:
    root = machine(tmp_path, 50 << 20, "5:cpu,cpuacct:/x\n4:memory:/box\n")
    group(
        root / "sys/fs/cgroup/memory/box", memory__limit_in_bytes=4 * GIB, memory__usage_in_bytes=3 * GIB,
        memory__stat=f"inactive_file 7\ntotal_inactive_file {GIB}",
    )  # fmt: skip
    group(root / "sys/fs/cgroup/cpu,cpuacct/x", memory__limit_in_bytes=1, memory__usage_in_bytes=0)
    assert free_host_memory(root) == 2 * GIB


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    root = machine(tmp_path, 50 << 20, "0::/\n")
    group(root / "sys/fs/cgroup", memory__max=GIB, memory__current=2 * GIB)
    assert free_host_memory(root) == 0


def test_this_machine_has_some_memory() -> None:
    assert free_host_memory() > 1 << 20


@pytest.mark.parametrize(("free", "room"), [(4 * GIB, GIB // 2), (100 * GIB, 2 * GIB)])
def test_on_a_cpu_the_pool_is_an_eighth_of_free_memory_and_at_most_2_gib(free: int, room: int) -> None:
    pools = size_pools(1 << 20, CPU, free=free)
    assert pools.blocks == room >> 20
    assert pools.host_blocks == 2 * room >> 20


def test_more_than_is_free_is_refused_before_it_is_taken() -> None:
    with pytest.raises(ValueError, match=r"^KV pools of 48 tokens and 16 on the host take 4\.0 GiB of memory, "):
        size_pools(GIB, CPU, kv_tokens=33, host_tokens=1, block_tokens=16, free=3 * GIB)


def test_tokens_that_are_given_are_taken_in_whole_blocks() -> None:
    pools = size_pools(1 << 20, CPU, kv_tokens=33, host_tokens=0, block_tokens=16, free=3 << 20)
    assert (pools.blocks, pools.host_blocks) == (3, 0)
    assert size_pools(1 << 20, CPU, kv_tokens=160, free=GIB).host_blocks == 20


def test_no_room_and_wrong_sizes_are_clear_errors() -> None:
    with pytest.raises(ValueError, match="No KV block of 1073741824 bytes fits"):
        size_pools(GIB, CPU, free=GIB)
    with pytest.raises(ValueError, match=r"gpu_memory_utilization=1\.5"):
        size_pools(1, CPU, gpu_memory_utilization=1.5, free=GIB)
    with pytest.raises(ValueError, match="kv_tokens=0"):
        size_pools(1, CPU, kv_tokens=0, free=GIB)
    with pytest.raises(ValueError, match="host_tokens=-1"):
        size_pools(1, CPU, host_tokens=-1, free=GIB)


def test_cuda_takes_its_share_less_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 16 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 15 * GIB)
    pools = size_pools(GIB, torch.device("cuda"), gpu_memory_utilization=0.5, free=200 * GIB)
    assert pools.blocks == 76 // 2 - 15
    assert pools.host_blocks == 32  # pinned memory has its own bound
    assert size_pools(GIB, torch.device("cuda"), gpu_memory_utilization=0.5, free=20 * GIB).host_blocks == 5
