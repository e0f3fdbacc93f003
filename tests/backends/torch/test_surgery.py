"""A model on packed weights: the same logits, every known family, and bits that depend on the sequence alone."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from fastserve.backends.torch.native import load  # noqa: E402
from fastserve.backends.torch.native.surgery import PackedLinear, Replaced, Shared, operate  # noqa: E402
from tests.backends.torch.families import EXPERTS, WINDOWED  # noqa: E402
from tests.backends.torch.packed import logits_of, model_of, texts  # noqa: E402

NATIVE = load()
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(NATIVE is None, reason="no compiler here builds the native kernels"),
]

# What is replaced in two layers: linears (the head among them), shared projections, gated MLPs, norms.
KINDS: dict[str, tuple[str, dict[str, Any], Replaced]] = {
    "llama": ("llama", {}, Replaced(linears=3, shared=2, gated=2, norms=5)),
    "llama, tied": ("llama", {"tie_word_embeddings": True}, Replaced(linears=3, shared=2, gated=2, norms=5)),
    "qwen2: biases": ("qwen2", {}, Replaced(linears=3, shared=2, gated=2, norms=5)),
    "qwen3: norms of heads": ("qwen3", {}, Replaced(linears=3, shared=2, gated=2, norms=9)),
    "gemma2: another norm, gelu": ("gemma2", WINDOWED, Replaced(linears=9, shared=2, gated=0, norms=0)),
    "phi3: fused by itself": ("phi3", {}, Replaced(linears=9, shared=0, gated=0, norms=5)),
    "gpt2: transposed weights": ("gpt2", {}, Replaced(linears=9, shared=0, gated=0, norms=0)),
    "opt": ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}, Replaced(linears=7, shared=2, gated=0, norms=0)),
    "mixtral: experts stay": ("mixtral", EXPERTS, Replaced(linears=3, shared=2, gated=0, norms=5)),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_family_says_the_same_on_packed_weights(name: str) -> None:
    kind, settings, expected = KINDS[name]
    module = model_of(kind, **settings)
    before = logits_of(module, NATIVE, texts(), None)
    assert operate(module, NATIVE) == expected
    assert not [m for m in module.modules() if type(m) is nn.Linear]
    for got, want in zip(logits_of(module, NATIVE, texts(), None), before, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4 * float(want.std()), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_bits_of_the_logits_depend_on_the_sequence_alone(kind: str, dtype: Any) -> None:
    """Decoded or recomputed in any chunk, beside anything: so preemption changes no token, in bfloat16 either."""
    module = model_of(kind, dtype)
    operate(module, NATIVE)
    alone = logits_of(module, NATIVE, texts(), None)
    for seed in range(6):
        for got, want in zip(logits_of(module, NATIVE, texts(), seed), alone, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_type_is_no_farther_from_float32_than_pytorch_is(dtype: Any) -> None:
    exact, stock = model_of("llama"), model_of("llama", dtype)
    for to, source in zip(exact.parameters(), stock.parameters(), strict=True):
        to.copy_(source.float())
    want, theirs = (logits_of(module, NATIVE, texts(), None) for module in (exact, stock))
    operate(stock, NATIVE)
    ours = logits_of(stock, NATIVE, texts(), None)

    def error(got: list[Any]) -> float:
        return float((torch.cat(got) - torch.cat(want)).square().mean().sqrt())

    assert error(ours) < 1.1 * error(theirs)


def test_what_is_not_known_stays() -> None:
    module = model_of("llama", torch.float64)
    assert operate(module, NATIVE) == Replaced(0, 0, 0, 0)

    class Other(nn.Linear):
        """A quantised layer, say."""

    assert operate(nn.Sequential(Other(4, 4)), NATIVE) == Replaced(0, 0, 0, 0)


def test_a_packed_layer_tells_shape_and_dtype_of_its_weight_but_no_numbers() -> None:
    layer = PackedLinear(NATIVE, torch.randn(6, 4), None)
    assert layer.weight.shape == (6, 4) and layer.weight.dtype is torch.float32
    assert (torch.ones(2, 4) @ layer.weight.t()).isnan().all()


def test_shared_projections_are_right_in_any_order_and_for_any_input() -> None:
    weight = torch.randn(10, 4)
    shared = Shared(NATIVE, NATIVE.pack(weight), [6, 4])
    first, second = torch.randn(3, 4), torch.randn(2, 4)

    def check(index: int, x: Any) -> None:
        part = weight[:6] if index == 0 else weight[6:]
        torch.testing.assert_close(shared.take(index, x), x @ part.t(), atol=1e-5, rtol=1e-5)

    for index, x in ((1, first), (0, first), (0, first), (0, second), (1, first), (1, first), (0, first)):
        check(index, x)
    check(0, first)
    check(1, first)
    first += 1  # both were taken, so this is new input
    check(1, first)
    check(0, first)
