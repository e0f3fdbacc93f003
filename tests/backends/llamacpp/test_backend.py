"""llama.cpp's body: one decode a step, tokens as the torch body's, copies, what goes wrong, what a model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve.engine import Engine, SamplingParams
from fastserve.engine.backend import Step
from fastserve.engine.config import EngineConfig
from fastserve.engine.token_text import TokenText
from fastserve.launch import PLACEHOLDER, Body
from fastserve.models.folder import ModelNotFoundError
from fastserve.sched.plan import Plan
from tests.backends.conformance import PLENTY, SCARCE, Turmoil, Turns, all_of, at_once, params, prompts, served

pytestmark = pytest.mark.llamacpp

CONTEXT = 96
MODEL: dict[str, Any] = {"dtype": "float32", "threads": 1, "max_model_len": CONTEXT}


@pytest.fixture(scope="module")
def body() -> Body:
    return Body("embedded", "llamacpp", **MODEL)


def made(body: Body, **serving: Any) -> Engine:
    return body.engine(EngineConfig.of(serving), PLACEHOLDER)


class Counted:
    """A backend that is looked at: calls of llama_decode, chunks and decodes of each step."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.steps: list[tuple[int, int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def run(self, plan: Plan) -> Step:
        before, chunks, batch = self._backend.context.decodes, len(plan.prefill), plan.batch
        found: Step = self._backend.run(plan)
        self.steps.append((self._backend.context.decodes - before, chunks, batch))
        return found


@pytest.mark.parametrize("batching", ["mixed", "chunked", "prefill-first"])
def test_one_decode_a_step_with_all_members_in_it(body: Body, batching: str) -> None:
    """Chunks of prompts beside decodes, preempted jobs that come back, a prompt longer than llama.cpp's own batches."""
    with made(body, **SCARCE, policy=Turns, residency="reactive", batching=batching) as engine:
        counted = engine.loop.backend = Counted(engine.loop.backend)
        served(engine)
    assert {calls for calls, _, _ in counted.steps} == {1}
    assert any(batch > 1 for *_, batch in counted.steps)
    if batching != "prefill-first":
        assert any(chunks and batch for _, chunks, batch in counted.steps)


def test_a_long_prompt_is_one_decode_too() -> None:
    """n_batch is the whole pool; llama.cpp cuts it into pieces of its own."""
    body = Body("embedded", "llamacpp", dtype="float32", threads=1)
    with made(body, max_batch=2, kv_tokens=2048, policy="fcfs", batching="mixed", token_budget=None) as engine:
        counted = engine.loop.backend = Counted(engine.loop.backend)
        [output] = all_of(at_once(engine, [[65 + i % 50 for i in range(1500)]], [params(0, max_tokens=3)]))
        assert len(output.token_ids) == 3
    assert [calls for calls, _, _ in counted.steps] == [1] * len(counted.steps)


ASKED: list[dict[str, Any]] = [
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 1.0, "seed": 7, "top_k": 12, "logprobs": 0},
    {"temperature": 0.8, "seed": 8, "top_p": 0.9, "repetition_penalty": 1.3, "presence_penalty": 0.4},
    {"temperature": 0.9, "seed": 9, "min_p": 0.05, "frequency_penalty": 0.6, "logit_bias": {101: 3.0, 32: -2.0}},
    {"temperature": 0.7, "seed": 10, "allowed_token_ids": range(97, 123)},
    {"temperature": 0.0, "stop": ["a"], "min_tokens": 4},
    {"temperature": 1.0, "seed": 11, "choices": ["yes", "no", "perhaps"], "ignore_eos": False},
    {"temperature": 0.6, "seed": 12, "bad_words": ["e"]},
]


def test_tokens_are_the_torch_bodys(body: Body) -> None:
    """In float32 the same model gives the same tokens, whatever is asked of the draw."""
    pytest.importorskip("torch")
    each = [SamplingParams(**{"max_tokens": 10, "ignore_eos": True} | one) for one in ASKED]
    found = []
    for one in (body, Body("embedded", "torch", dtype="float32", native="off", threads=1, max_model_len=CONTEXT)):
        with made(one, **PLENTY) as engine:
            found.append(all_of(at_once(engine, prompts(), each)))
    for mine, theirs in zip(*found, strict=True):
        assert (mine.error, mine.text, mine.finish_reason) == (None, theirs.text, theirs.finish_reason)
        assert mine.token_ids == theirs.token_ids
        for one, other in zip(mine.logprobs or (), theirs.logprobs or (), strict=True):
            assert one == pytest.approx(other, abs=1e-3) and list(one) == list(other)


def test_the_tokenizer_is_the_torch_bodys(body: Body) -> None:
    pytest.importorskip("transformers")
    from transformers import AutoTokenizer

    from fastserve.models.embedded import make_embedded

    theirs = AutoTokenizer.from_pretrained(make_embedded())
    mine = body.model.tokenizer
    chat = [{"role": "user", "content": "Hi <|end|> ü"}, {"role": "assistant", "content": "ho"}]
    for text in ("", "Hello wörld\n", "<|user|>a<|end|>", "\N{GRINNING FACE}  two"):
        assert mine.encode(text) == theirs.encode(text)
        assert mine.decode(mine.encode(text)) == text
    assert mine.decode([256, 72, 105], skip_special_tokens=True) == "Hi"
    assert mine.all_special_ids == tuple(range(256, 264))
    assert mine.get_vocab() == theirs.get_vocab()
    assert mine.convert_tokens_to_ids("!") == theirs.convert_tokens_to_ids("!")
    ours, others = TokenText(mine), TokenText(theirs)
    assert [ours.data(id) for id in range(264)] == [others.data(id) for id in range(264)]
    assert mine.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == theirs.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )


def test_more_jobs_than_sequences(body: Body) -> None:
    """Jobs that have left lend their sequence ids; none is lost, and tokens are as they were."""
    serving = PLENTY | {"max_batch": 2, "kv_tokens": 4096}
    asked, each = prompts() * 3, [params(i) for i in range(24)]
    with made(body, **serving) as engine:
        calm = [output.token_ids for output in all_of(at_once(engine, asked, each))]
    with made(body, **serving | {"policy": Turmoil}) as engine:
        backend: Any = engine.loop.backend
        assert backend.context.sequences == 8
        outputs = all_of(at_once(engine, asked, each))
        assert backend.residents.set_aside > 8
        assert not any(backend.held().values())
    assert [output.token_ids for output in outputs] == calm
    assert all(output.record["recomputed_tokens"] == 0 for output in outputs)  # the pool has room for all


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error"), [(1, MemoryError), (-2, MemoryError), (2, RuntimeError), (-3, RuntimeError), (-1, RuntimeError)]
)
def test_codes_of_llama_decode(body: Body, code: int, error: type, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastserve.backends.llamacpp.library import library
    from fastserve.backends.llamacpp.measure import _part

    backend: Any = body.backend(EngineConfig.of(PLENTY), PLACEHOLDER)
    monkeypatch.setattr(library(), "llama_decode", lambda *_: code)
    with pytest.raises(error, match=rf"aborted|\({code}\)"):
        backend.context.decode([(0, _part(body.model, 0, 3))])
    monkeypatch.undo()
    backend.reset()
    assert backend.context.decode([(0, _part(body.model, 0, 3))]).shape == (1, 264)
    backend.close()


def test_a_step_without_room_costs_places_and_no_request(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastserve.backends.llamacpp.library import library

    codes = iter([0, 0, 0, -2])
    real = library().llama_decode
    with made(body, **PLENTY) as engine:
        monkeypatch.setattr(library(), "llama_decode", lambda *given: next(codes, 0) or real(*given))
        outputs = served(engine)
        assert engine.counters["oom"] == 1
    assert all(output.finish_reason == "length" for output in outputs)


def test_several_engines_on_one_model(body: Body) -> None:
    with made(body, **PLENTY) as one, made(body, **PLENTY) as two:
        first = at_once(one, prompts(), [params(i) for i in range(8)])
        second = at_once(two, prompts(), [params(i) for i in range(8)])
        assert [it.token_ids for it in all_of(first)] == [it.token_ids for it in all_of(second)]


def test_memory_is_accounted_in_tokens(body: Body) -> None:
    backend = body.backend(EngineConfig.of({"kv_tokens": 1000, "host_tokens": 3000, "residency": "reactive"}))
    memory = backend.hardware().memory
    assert (memory.device_tokens, memory.block_tokens) == (1008, 16)
    assert memory.bytes_per_token == pytest.approx(6 * 2 * 2 * 64 * 4, rel=0.05)  # with what a state says of each token
    assert memory.host_bytes == 3008 * memory.bytes_per_token
    assert [one.out for one in backend.copy_times()][:1] == [True]  # type: ignore[attr-defined]
    assert all(one.seconds > 0 for one in backend.copy_times())  # type: ignore[attr-defined]
    assert backend.held()["sequences"] == 0  # type: ignore[attr-defined]
    backend.close()


# -- what a model is ---------------------------------------------------------------------------------------------------


def test_models_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(64))
    with pytest.raises(ModelNotFoundError, match="cannot read"):
        Body(str(tmp_path / "broken.gguf"), "llamacpp")
    with pytest.raises(ModelNotFoundError, match="There is no file"):
        Body(str(tmp_path / "none.gguf"), "llamacpp")
    with pytest.raises(ModelNotFoundError, match="fastserve convert some/model --to gguf"):
        Body("some/model", "llamacpp")


def test_models_without_kv_of_each_token_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastserve.backends.llamacpp.library import library

    monkeypatch.setattr(library(), "llama_model_is_hybrid", lambda _: True)
    with pytest.raises(ModelNotFoundError, match="one state a sequence instead of KV"):
        Body("embedded", "llamacpp")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"dtype": "int4"}, "KV cache"),
        ({"threads": 0}, "threads"),
        ({"lora": ("none.gguf:0.5",)}, "there is no file none.gguf"),
        ({"gpu_layers": -1}, "gpu_layers"),
    ],
)
def test_options_out_of_range(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Body("embedded", "llamacpp", **option)


def test_more_places_than_llama_cpp_has(body: Body) -> None:
    with pytest.raises(ValueError, match="at most 256 sequences"):
        made(body, **PLENTY | {"max_batch": 257})


@pytest.mark.parametrize("speculate", ["off", "ngram:4"])
def test_a_pool_that_one_request_fills(speculate: str) -> None:
    """Of fewer tokens than llama.cpp rounds a cache up to; its times are measured, too."""
    body = Body("embedded", "llamacpp", dtype="float32", threads=1, speculate=speculate)
    with body.engine(EngineConfig.of({"policy": "fcfs", "kv_tokens": 30, "host_tokens": 0})) as engine:
        output = engine.submit([65, 66] * 5, SamplingParams(max_tokens=22, ignore_eos=True)).result(60)
        assert (output.finish_reason, len(output.token_ids)) == ("length", 22)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A LoRA adapter of rank 2 on the first layer's query."""
    gguf = pytest.importorskip("gguf")
    file = tmp_path / "adapter.gguf"
    it = gguf.GGUFWriter(file, "llama")
    it.add_type("adapter")
    it.add_string("adapter.type", "lora")
    it.add_float32("adapter.lora.alpha", 2.0)
    rng = np.random.default_rng(0)
    for name, shape in (("a", (2, 384)), ("b", (384, 2))):
        it.add_tensor(f"blk.0.attn_q.weight.lora_{name}", rng.standard_normal(shape).astype(np.float32))
    it.write_header_to_file()
    it.write_kv_data_to_file()
    it.write_tensors_to_file()
    it.close()
    return file


def test_lora(adapter: Path, body: Body) -> None:
    def tokens(one: Body) -> list[list[int]]:
        with made(one, **PLENTY) as engine:
            return [output.token_ids for output in served(engine)]

    plain = tokens(body)
    assert tokens(Body("embedded", "llamacpp", **MODEL, lora=(str(adapter),))) != plain
    assert tokens(Body("embedded", "llamacpp", **MODEL, lora=(f"{adapter}:0",))) == plain
