"""In front of llama.cpp's real server (package xllamacpp) with SmolLM2: `make test-llamacpp`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp")

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.launch import Body
from fastserve.named_models import SMOLLM2, how_to_get, packaged_file
from tests.backends import conformance
from tests.backends.upstream.stub import free_port, wait_until

ROOT = Path(__file__).resolve().parents[3]
SLOTS = 3
LONG = SamplingParams(max_tokens=300, temperature=0.0, ignore_eos=True)
SOON_S = 300.0


class Llama:
    """A process that can be killed and comes again at the same address."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        model = packaged_file(SMOLLM2)
        if model is None:
            pytest.skip(how_to_get(SMOLLM2))
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts/llama_server.py"), str(model), "--port", str(self.port),
             "--slots", str(SLOTS), "--context", "512"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=60) as answer:
            return json.load(answer)

    def busy(self) -> int:
        return sum(slot["is_processing"] for slot in self.ask("/slots"))


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    found = Llama()
    yield found
    found.kill()


def front(llama: Llama, policy: Any = "fcfs", **serving: Any) -> Engine:
    return Body(None, "upstream", upstream=llama.url).engine(EngineConfig.of({"policy": policy, **serving}))


def test_what_it_says_of_itself(llama: Llama) -> None:
    with front(llama) as engine:
        assert engine.serving.max_batch == SLOTS and engine.max_model_len == 512
        assert engine.hardware.memory.device_blocks == SLOTS
        assert engine.info.defaults["top_k"] == 40
        assert "llama.cpp" in engine.start_line()


def test_a_leave_frees_its_slot_there(llama: Llama) -> None:
    with front(llama) as engine:
        handles = [engine.submit(f"Story number {i}:", LONG) for i in range(SLOTS)]
        wait_until(lambda: all(handle._request.tokens for handle in handles), SOON_S)
        assert llama.busy() == SLOTS
        handles[0].cancel()
        wait_until(lambda: llama.busy() == SLOTS - 1, SOON_S)
        handles[1].cancel()
        handles[2].cancel()
        wait_until(lambda: llama.busy() == 0, SOON_S)


def test_preempted_ones_free_theirs_and_come_back(llama: Llama) -> None:
    prompts = ["Once upon a time", "The capital of France is", "List three colours:", "1 2 3 4", "Rain falls"]
    params = [SamplingParams(max_tokens=20 + 4 * i, temperature=0.0, ignore_eos=True) for i in range(5)]
    with front(llama, max_batch=1) as engine:
        calm = engine.generate(prompts, params)
    with front(llama, conformance.Turns, max_batch=1, visit=0) as engine:
        found = engine.generate(prompts, params)
        assert sum(int(output.record["preemptions"]) for output in found) >= 5
    assert [len(output.token_ids) for output in found] == [one.max_tokens for one in params]
    same = sum(one.text == other.text for one, other in zip(calm, found, strict=True))
    assert same >= 3, f"{same} of 5 texts as undisturbed: low bits of 4-bit weights may differ, no more"
    wait_until(lambda: llama.busy() == 0, SOON_S)


def test_its_template_and_its_counts(llama: Llama) -> None:
    messages = [{"role": "user", "content": 'What is "2 + 2"? 😀'}]
    own = llama.ask("/v1/chat/completions", {"messages": messages, "max_tokens": 24, "temperature": 0})
    with front(llama) as engine:
        prompt = engine.tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
        output = engine.generate(prompt, SamplingParams(max_tokens=24, temperature=0.0, top_k=0, min_p=0.0))[0]
    assert output.text == own["choices"][0]["message"]["content"]
    assert output.counted == (own["usage"]["prompt_tokens"], own["usage"]["completion_tokens"])


def test_killed_and_started_again_in_mid_load(llama: Llama) -> None:
    """Nothing hangs, what had not begun is not lost, and what had begun is gone on with."""
    params = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)
    with front(llama) as engine:
        handles = [engine.submit(f"Tale number {i}:", params) for i in range(10)]
        wait_until(lambda: all(len(handle._request.tokens) > 5 for handle in handles[:2]), SOON_S)
        began = [bool(handle._request.tokens) for handle in handles]
        llama.kill()
        time.sleep(0.5)
        llama.start()
        outputs = [handle.result(SOON_S) for handle in handles]
        assert [output.error for output in outputs] == [None] * 10
        assert {len(output.token_ids) for output in outputs} == {40}
        assert any(began) and not all(began)
        assert engine.loop.backend.hub.counters["reconnects"] >= 2  # type: ignore[attr-defined]
    wait_until(lambda: llama.busy() == 0, SOON_S)
