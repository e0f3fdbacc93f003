"""llama.cpp's body on SmolLM2, whose weights are quantised: it answers, streams over HTTP, and survives preemption."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastserve.backends.llamacpp.source import file_of
from fastserve.engine import SamplingParams
from fastserve.engine.config import EngineConfig
from fastserve.launch import PLACEHOLDER, Body
from fastserve.named_models import SMOLLM2, packaged_file
from tests.backends.conformance import Turns, all_of, at_once, lets_go

pytestmark = [
    pytest.mark.llamacpp,
    pytest.mark.skipif(packaged_file(SMOLLM2) is None, reason="smollm2 is not installed: make model"),
]

ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 120.0
TEXTS = ("The capital of France is", "List three fruits:", "def fibonacci(n):", "Once upon a time")


@pytest.fixture(scope="module")
def body() -> Body:
    return Body(SMOLLM2, "llamacpp", threads=1, max_model_len=512)


def test_it_knows_the_capital_of_france(body: Body) -> None:
    serving = {"policy": "fcfs", "kv_tokens": 1024, "max_batch": 4}
    with body.engine(EngineConfig.of(serving), PLACEHOLDER) as engine:
        [output] = engine.generate([TEXTS[0]], SamplingParams(max_tokens=8, temperature=0.0))
    assert "Paris" in str(output.text)
    assert (engine.info.dtype, engine.info.backend, engine.settings["kv_dtype"]) == ("Q4_1", "llamacpp", "auto")


def test_preempted_runs_say_as_much(body: Body) -> None:
    """Quantised weights make another token of the last bit, so texts are not compared: lengths and KV are."""
    asked = [body.model.tokenizer.encode(text) for text in TEXTS] * 2
    each = [SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True) for _ in asked]
    for residency in ("recompute", "reactive"):
        serving = {
            "policy": Turns,
            "kv_tokens": 64,
            "host_tokens": 512,
            "max_batch": 2,
            "residency": residency,
            "visit": 0,
        }
        with body.engine(EngineConfig.of(serving), PLACEHOLDER) as engine:
            outputs = all_of(at_once(engine, asked, each))
            lets_go(engine)
        assert [len(output.token_ids) for output in outputs] == [12] * 8
        assert sum(int(output.record["preemptions"]) for output in outputs) >= 8


def test_the_tokenizer_is_transformers(body: Body) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    from fastserve.backends.torch.source import folder_for_others

    theirs = transformers.AutoTokenizer.from_pretrained(folder_for_others(SMOLLM2))
    mine = body.model.tokenizer
    chat = [{"role": "user", "content": "Grüße, 世界 🙂 <|im_end|>"}]
    for text in ("Hello  world\n\n\tx = 1", "Grüße, 世界 🙂", "a<|im_end|>b", " lead", "It's 12345 o'clock"):
        assert mine.encode(text) == theirs.encode(text)
        assert mine.decode(mine.encode(text)) == text
    assert mine.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == theirs.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    assert body.model.eos_ids >= {theirs.eos_token_id}


def test_a_chat_over_http() -> None:
    httpx = pytest.importorskip("httpx")
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "fastserve", "serve", "--backend", "llamacpp", "--model", str(file_of(SMOLLM2)),
               "--threads", "1", "--port", str(port), "--kv-tokens", "2048", "--latency", "opt-13b-a100"]  # fmt: skip
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and server.poll() is None:
            try:
                found = httpx.get(f"{url}/health", timeout=5).json()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        assert (found["backend_type"], found["status"]) == ("llamacpp", "healthy")
        messages = [{"role": "user", "content": "What is the capital of France?"}]
        body = {"messages": messages, "max_tokens": 8, "stream": True, "stream_options": {"include_usage": True}}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S)
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
        assert len(text) > 8 and events[-1]["usage"]["completion_tokens"] == 8
    finally:
        server.terminate()
        server.wait(60)
    assert server.returncode == 0
