"""All layers in one call: the bits of the modules one by one, for every shape that it takes, and only for those."""

import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from fastserve.backends.torch import attention  # noqa: E402
from fastserve.backends.torch.attention_interface import Call, Pass, forward  # noqa: E402
from fastserve.backends.torch.model import load_model  # noqa: E402
from fastserve.backends.torch.native import Native, load  # noqa: E402
from fastserve.backends.torch.native.stack import Stack, fuse, unfuse  # noqa: E402
from fastserve.backends.torch.native.surgery import operate  # noqa: E402
from tests.backends.torch import families  # noqa: E402
from tests.backends.torch.families import EXPERTS, WINDOWED  # noqa: E402
from tests.backends.torch.packed import logits_of, model_of, texts  # noqa: E402
from tests.backends.torch.rows import Sequence, Table  # noqa: E402

NATIVE = load()
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(NATIVE is None, reason="no compiler here builds the native kernels"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, biases, tied": ("llama", {"attention_bias": True, "tie_word_embeddings": True}),
    "llama, heads wider than a vector": ("llama", {"head_dim": 40, "num_key_value_heads": 1}),
    "llama, rope scaled": (
        "llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0},
                  "max_position_embeddings": 64},
    ),
    "mistral, its window": ("mistral", {"sliding_window": 5}),
    "qwen2, a window on one layer": ("qwen2", {**WINDOWED, "use_sliding_window": True}),
    "qwen3, norms of heads": ("qwen3", {}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_one_call_gives_the_bits_of_the_modules(name: str, dtype: Any) -> None:
    kind, settings = SHAPES[name]
    module = model_of(kind, dtype, **settings)
    operate(module, NATIVE)
    want = logits_of(module, NATIVE, texts(), None)
    assert fuse(module, NATIVE) is not None
    for seed in (None, 1, 2, 3):  # all at once, then decodes and chunks beside each other
        for got, expected in zip(logits_of(module, NATIVE, texts(), seed), want, strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("name", SHAPES)
def test_one_call_agrees_with_plain_pytorch(name: str) -> None:
    kind, settings = SHAPES[name]
    module = model_of(kind, **settings)
    want = logits_of(module, attention, texts(), None)
    operate(module, NATIVE)
    fuse(module, NATIVE)
    for got, expected in zip(logits_of(module, NATIVE, texts(), 4), want, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4 * float(expected.std()), rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_number_of_threads(dtype: Any) -> None:
    """300 tokens of 32 numbers: enough that norms, rotations and sums are split too."""
    module = model_of("qwen3", dtype, hidden_size=512, intermediate_size=256)
    operate(module, NATIVE)
    fuse(module, NATIVE)
    long = [[i % families.VOCABULARY for i in range(200)]]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(logits_of(module, NATIVE, long, None)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma2": ("gemma2", WINDOWED),
    "phi3": ("phi3", {}),
    "olmo2, whose norms come later": ("olmo2", {}),
    "mixtral": ("mixtral", EXPERTS),
    "gpt2": ("gpt2", {}),
    "llama with another gate": ("llama", {"hidden_act": "gelu"}),
    "llama whose MLP has biases": ("llama", {"mlp_bias": True}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_shapes_keep_their_modules(name: str) -> None:
    kind, settings = OTHERS[name]
    module = model_of(kind, **settings)
    operate(module, NATIVE)
    assert fuse(module, NATIVE) is None
    assert not any(isinstance(it, Stack) for it in module.modules())


def test_modules_that_were_not_replaced_and_classes_of_others_are_left_alone() -> None:
    plain = model_of("llama")
    assert fuse(plain, NATIVE) is None
    operate(plain, NATIVE)

    class LlamaDecoderLayer(type(plain.model.layers[1])):  # type: ignore[misc]
        """The name is right, the forward() may be anything."""

    plain.model.layers[1].__class__ = LlamaDecoderLayer
    assert fuse(plain, NATIVE) is None


def test_it_can_be_taken_back_and_shows_a_watcher_each_layer() -> None:
    module = model_of("mistral", sliding_window=5)
    operate(module, NATIVE)
    before = module.model.layers
    step = Table(4, 4).step([(Sequence([1, 2, 3]), 3)])
    pool = torch.zeros(4, 2, 2, 2, 4, 8)
    calls: list[Call] = []
    one_by_one: list[Call] = []
    forward(module, Pass(step, pool, NATIVE, one_by_one.append))
    layers = fuse(module, NATIVE)
    assert layers is before
    forward(module, Pass(step, pool, NATIVE, calls.append))
    assert calls == one_by_one and len(calls) == 2
    unfuse(module, layers)
    assert module.model.layers is before


def test_tensors_that_do_not_fit_are_refused_before_their_bytes_are_misread() -> None:
    module = model_of("llama")
    operate(module, NATIVE)
    fuse(module, NATIVE)
    step = Table(4, 4).step([(Sequence([1, 2, 3]), 3)])
    for pool in (torch.zeros(4, 2, 2, 2, 4, 8, dtype=torch.bfloat16), torch.zeros(4, 2, 2, 2, 4, 16)):
        with pytest.raises(TypeError, match="does not fit"):
            forward(module, Pass(step, pool, NATIVE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write(tmp_path_factory.mktemp("llama"), "llama")


def test_a_loaded_model_runs_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "fastserve"):
        model = load_model(folder, device="cpu", dtype="float32")
    assert [type(layer) for layer in model.module.model.layers] == [Stack]
    assert "native stack: 2 layers in one call" in caplog.text


def test_a_stack_that_says_something_else_is_taken_back_at_load(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Native.stack
    monkeypatch.setattr(Native, "stack", lambda self, *args: right(self, *args).roll(1, -1))
    model = load_model(folder, device="cpu", dtype="float32")
    assert not any(isinstance(layer, Stack) for layer in model.module.model.layers)
    assert "native stack: none" in caplog.text and "differ" in caplog.text
