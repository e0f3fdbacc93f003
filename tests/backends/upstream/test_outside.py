"""An upstream's times from outside, as `fastserve profile` fits them."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve.engine.config import EngineConfig
from fastserve.hardware import load_hardware
from fastserve.launch import Body, profiled
from fastserve.profiler.calibrate import calibrate
from tests.backends.upstream.stub import Handler, Stub, wait_until


@pytest.mark.parametrize("api", ["llama", "vllm", "openai", "ollama"])
def test_what_is_measured(api: str, tmp_path: Any) -> None:
    stub = Stub(api, slots=4, step_s=0.002)
    config = EngineConfig.of({"policy": "fcfs", "max_batch": 4})
    try:
        body = Body("tiny", "upstream", upstream=stub.url, upstream_slots=4, max_model_len=96)
        found = calibrate(profiled(body, config), config, 0.6)
        wait_until(lambda: stub.busy == 0)
    finally:
        stub.stop()
    kinds = {cell.kind for cell in found.cells}
    assert kinds == {"prefill", "decode"}
    sizes = {cell.batch for cell in found.cells if cell.batch}
    assert 1 in sizes and sizes <= {1, 2, 4}
    slowest = max(cell.ms for cell in found.cells if cell.batch)  # on a busy machine some tokens come in heaps
    assert slowest >= 2.0, "the stub sleeps for so long between two tokens"
    assert found.copies == [] and found.hardware.memory.device_blocks == 4
    prompts = [Handler.prompt_of(None, asked)[:24] for _, asked in stub.asked]  # type: ignore[arg-type]
    assert len(set(prompts)) == len(prompts), "no cache has any of them"
    found.hardware.save(tmp_path / "profile.json")
    again = Body("tiny", "upstream", latency=tmp_path / "profile.json", upstream="http://nowhere")
    assert again.given is not None and again.given.name == load_hardware(tmp_path / "profile.json").name


def test_an_upstream_that_refuses_is_told() -> None:
    stub = Stub()
    stub.hook = lambda handler, body, number: handler.answer(400, {"error": "not now"})
    config = EngineConfig.of({"policy": "fcfs", "max_batch": 4})
    try:
        with pytest.raises(ValueError, match="a request of the profile failed: upstream: HTTP 400: not now"):
            calibrate(profiled(Body("tiny", "upstream", upstream=stub.url), config), config, 0.2)
    finally:
        stub.stop()
