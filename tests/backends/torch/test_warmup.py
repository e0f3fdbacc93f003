"""What the policy is told of the machine: measured at load, stored, or given."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402 (after importorskip)
from hypothesis import strategies as st  # noqa: E402

from fastserve.backends.torch.backend import TorchBackend  # noqa: E402
from fastserve.backends.torch.kv_cache import Cache  # noqa: E402
from fastserve.backends.torch.warmup import measure  # noqa: E402
from fastserve.engine import Engine  # noqa: E402
from fastserve.engine.backend import Wanted  # noqa: E402
from fastserve.hardware import Memory, load_hardware  # noqa: E402
from fastserve.hardware.least_squares import fit  # noqa: E402
from fastserve.profiler.store import profile_path, store, stored  # noqa: E402
from tests.backends.torch.stage import BLOCK, tiny  # noqa: E402
from tests.devices import DEVICES  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FASTSERVE_NATIVE", "off")
    tiny(tmp_path / "model")
    return tmp_path / "model"


def cache_of(model: Any, blocks: int, host: int) -> Cache:
    return Cache(model.layers, model.kv_heads, model.head_dim, blocks, host, BLOCK, model.dtype, model.device)


def facts_of(model: Any) -> dict[str, Any]:
    return TorchBackend(model, Wanted(BLOCK, 64, 64)).facts


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("blocks", "host"), [(400, 400), (3, 0), (8, 1)])
def test_it_measures_whatever_the_pools(blocks: int, host: int, device: str, folder: Path) -> None:
    model = tiny(folder, device=device)
    cache = cache_of(model, blocks, host)
    memory = Memory(BLOCK, blocks * BLOCK, 0, model.block_bytes(BLOCK) // BLOCK)
    hardware = measure(model, cache, memory, max_batch=4)
    cache.close()
    latency = hardware.latency
    assert hardware.memory == memory
    assert latency.decode_ns > 0
    assert latency.prefill_ns(200) >= latency.prefill_ns(20) > 0
    assert latency.iteration_ps(4, 400, ()) >= latency.iteration_ps(1, 100, ())
    assert "float32" in latency.provenance


def test_lines_are_found_again() -> None:
    rows = [(1.0, n, n * n) for n in (16, 64, 256, 512)]
    found = fit(rows, [3 + 0.5 * n + 0.001 * n * n for _, n, _ in rows])
    assert found == pytest.approx([3, 0.5, 0.001])


@given(st.lists(st.tuples(st.integers(1, 2000), st.floats(0.01, 1e4)), min_size=1, max_size=7))
@settings(max_examples=100)
def test_no_coefficient_is_negative_and_something_takes_time(points: list[tuple[int, float]]) -> None:
    """Whatever noise was measured: a negative one would make a longer prompt cheaper."""
    found = fit([(1.0, n, n * n) for n, _ in points], [ms for _, ms in points])
    assert min(found) >= 0
    assert max(found) > 0


def test_a_stored_profile_replaces_the_measuring(folder: Path) -> None:
    settings: dict[str, Any] = {"dtype": "float32", "device": "cpu", "kv_tokens": 400, "host_tokens": 400}
    with Engine.from_pretrained(str(folder), **settings) as engine:
        assert "warm-up (measured at load)" in engine.start_line()
    facts = facts_of(tiny(folder))
    assert stored(facts) is None
    hardware = load_hardware("opt-13b-a100")
    path = store(facts, hardware)
    assert path == profile_path(facts)
    found = stored(facts)
    assert found is not None
    assert found.to_json() == hardware.to_json()
    with Engine.from_pretrained(str(folder), native="off", **settings) as engine:
        assert "opt-13b-a100 (a stored profile)" in engine.start_line()
        assert engine.hardware.memory.device_tokens == 400  # the pools are this engine's own
    with Engine.from_pretrained(str(folder), latency="opt-66b-a100", **settings) as engine:
        assert "opt-66b-a100 (as given)" in engine.start_line()
    other = facts_of(tiny(folder, "bfloat16"))
    assert profile_path(other) != path
    assert stored(other) is None
