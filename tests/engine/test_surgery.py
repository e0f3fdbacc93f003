"""A model on packed weights: the same logits, every known family, and bits that depend on the sequence alone."""

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from fastserve.engine.cache import Cache  # noqa: E402
from fastserve.engine.interface import NAME, Pass, forward  # noqa: E402
from fastserve.engine.native import load  # noqa: E402
from fastserve.engine.native.surgery import PackedLinear, Replaced, Shared, operate  # noqa: E402
from tests.engine import families  # noqa: E402
from tests.engine.families import EXPERTS, WINDOWED  # noqa: E402
from tests.engine.rows import Sequence, Table  # noqa: E402

NATIVE = load()
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(NATIVE is None, reason="no compiler here builds the native kernels"),
]
BLOCK = 4

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


def model_of(kind: str, dtype: Any = torch.float32, **settings: Any) -> Any:
    config = transformers.AutoConfig.for_model(kind, **{**families.SIZES, **settings})
    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in module.parameters():  # norms of ones would hide a norm that ignores its weight
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    module.set_attn_implementation(NAME)
    return module


def logits_of(module: Any, texts: list[list[int]], seed: int | None) -> list[Any]:
    """Logits of every position: each text at once and alone, or in random chunks beside the others."""
    text = module.config.get_text_config()
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kv_heads = 4 if text.model_type in ("gpt2", "opt") else text.num_key_value_heads
    cache = Cache(2, kv_heads, dim, 60, 0, BLOCK, module.dtype, torch.device("cpu"))
    cache.pool.fill_(float("nan"))
    table, dice = Table(60, BLOCK, seed or 0), random.Random(seed)
    sequences = [Sequence(list(text)) for text in texts]
    got: list[list[Any]] = [[] for _ in texts]
    while waiting := [s for s in sequences if s.done < len(s.tokens)]:
        if seed is None:
            work = [(waiting[0], len(waiting[0].tokens))]
        else:
            some = dice.sample(waiting, dice.randint(1, len(waiting)))
            work = [(s, min(len(s.tokens) - s.done, dice.choice([1, 1, 2, 7, 20]))) for s in some]
        rows = sorted(work, key=lambda pair: pair[1] != 1)
        step = table.step(work, list(range(sum(n for _, n in work))))
        logits = forward(module, Pass(step, cache.pool, NATIVE))
        for (sequence, _), part in zip(rows, logits.split([n for _, n in rows]), strict=True):
            got[sequences.index(sequence)].append(part)
    return [torch.cat(parts) for parts in got]


def texts(seed: int = 1) -> list[list[int]]:
    dice = random.Random(seed)
    return [[dice.randrange(families.VOCABULARY) for _ in range(n)] for n in (1, 23, 40, 9)]


@pytest.mark.parametrize("name", KINDS)
def test_each_family_says_the_same_on_packed_weights(name: str) -> None:
    kind, settings, expected = KINDS[name]
    module = model_of(kind, **settings)
    before = logits_of(module, texts(), None)
    assert operate(module, NATIVE) == expected
    assert not [m for m in module.modules() if type(m) is nn.Linear]
    for got, want in zip(logits_of(module, texts(), None), before, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4 * float(want.std()), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_bits_of_the_logits_depend_on_the_sequence_alone(kind: str, dtype: Any) -> None:
    """Decoded or recomputed in any chunk, beside anything: so preemption changes no token, in bfloat16 either."""
    module = model_of(kind, dtype)
    operate(module, NATIVE)
    alone = logits_of(module, texts(), None)
    for seed in range(6):
        for got, want in zip(logits_of(module, texts(), seed), alone, strict=True):
            assert torch.equal(got, want)


def test_bfloat16_is_no_farther_from_float32_than_pytorch_is() -> None:
    exact, stock = model_of("llama"), model_of("llama", torch.bfloat16)
    for to, source in zip(exact.parameters(), stock.parameters(), strict=True):
        to.copy_(source.float())
    want, theirs = (logits_of(module, texts(), None) for module in (exact, stock))
    operate(stock, NATIVE)
    ours = logits_of(stock, texts(), None)

    def error(got: list[Any]) -> float:
        return float((torch.cat(got) - torch.cat(want)).square().mean().sqrt())

    assert error(ours) < 1.1 * error(theirs)


def test_what_is_not_known_stays() -> None:
    module = model_of("llama", torch.float16)
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
