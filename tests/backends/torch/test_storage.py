"""Weights in half the bytes: the same bits where nothing is rounded, else the nearer half type; and who rounds."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from fastserve.backends.torch.model import load_model  # noqa: E402
from fastserve.backends.torch.native import library, load  # noqa: E402
from fastserve.backends.torch.native.library import CWeight, Packed  # noqa: E402
from fastserve.backends.torch.native.stack import fuse  # noqa: E402
from fastserve.backends.torch.native.storage import round_weights, storage  # noqa: E402
from fastserve.backends.torch.native.surgery import operate  # noqa: E402
from tests.backends.torch.packed import logits_of, model_of, texts  # noqa: E402

NATIVE = load()
needs_native = pytest.mark.skipif(NATIVE is None, reason="no compiler here builds the native kernels")
pytestmark = pytest.mark.usefixtures("one_thread")
HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("half", HALVES)
def test_a_type_is_chosen_in_which_every_number_stays_what_it_is(half: Any) -> None:
    weight = torch.randn(40, 30).to(half)
    for one in (weight, weight.float()):
        assert storage(one, True) is half
    changed = weight.float()
    changed[3, 4] += 2**-20
    assert storage(changed, True) is torch.float32
    assert storage(torch.full((2, 2), 1 + 2**-10), True) is torch.float16, "too fine for bfloat16"
    assert storage(torch.full((2, 2), 1 + 2**-10), False) is torch.float32, "nothing widens float16 quickly"
    assert storage(torch.full((2, 2), 2.0**20), True) is torch.bfloat16, "too large for float16"
    assert storage(weight.double(), True) is torch.float32


def test_rounding_takes_the_nearer_half_type_and_leaves_what_fits() -> None:
    torch.manual_seed(0)
    fine, large, exact = (nn.Linear(8, 8, bias=False) for _ in range(3))
    with torch.no_grad():
        large.weight *= 1e6
        exact.weight.copy_(exact.weight.bfloat16().float())
    before = [layer.weight.clone() for layer in (fine, large, exact)]
    norm = nn.LayerNorm(8)
    assert round_weights(nn.Sequential(fine, large, exact, norm), True) == 2
    assert torch.equal(fine.weight, before[0].half().float())
    assert torch.equal(large.weight, before[1].bfloat16().float())
    assert torch.equal(exact.weight, before[2])
    assert round_weights(nn.Sequential(fine, large, exact), True) == 0, "rounded once, they stay"
    with torch.no_grad():
        fine.weight.copy_(before[0])
    round_weights(fine, False)
    assert torch.equal(fine.weight, before[0].bfloat16().float())


def in_float32(packed: Packed, weight: Any) -> Packed:
    """The same weight, stored wide: the specification of every other storage."""
    whole = nn.functional.pad(weight, (0, 0, 0, -weight.shape[0] % (2 * NATIVE.lanes)))
    data = whole.view(-1, 2 * NATIVE.lanes, packed.inner).transpose(1, 2).contiguous()
    return Packed(data, packed.inner, packed.outer, packed.bias, packed.gated, packed.dtype)


@needs_native
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize(("inner", "outer"), [(1, 1), (33, 65), (200, 300), (1100, 100)])
def test_a_product_has_the_bits_of_weights_in_float32_in_every_batch(half: Any, inner: int, outer: int) -> None:
    torch.manual_seed(1)
    x, weight, bias = torch.randn(130, inner), torch.randn(outer, inner).to(half).float(), torch.randn(outer)
    packed = NATIVE.pack(weight, bias)
    if half is torch.float16 and not NATIVE.halves:
        assert packed.data.dtype is torch.float32
    else:
        assert packed.data.dtype is half
    want = NATIVE.linear(x, in_float32(packed, weight))
    for rows in (1, 2, 3, 4, 5, 6, 7, 12, 13, 31, 130):
        assert torch.equal(NATIVE.linear(x[:rows], packed), want[:rows])


@needs_native
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("half", HALVES)
def test_a_model_says_the_same_bit_by_bit_whatever_its_weights_are_stored_in(
    kind: str, half: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Modules, and the layers in one call; alone, and in chunks beside others."""

    def logits() -> list[Any]:
        module = model_of(kind)
        for layer in module.modules():
            if type(layer) is nn.Linear:
                layer.weight.copy_(layer.weight.to(half).float())
        operate(module, NATIVE)
        types.append({it.packed.data.dtype for it in module.modules() if hasattr(it, "packed")})
        modules = logits_of(module, NATIVE, texts(), 3)
        assert fuse(module, NATIVE) is not None
        for got, want in zip(logits_of(module, NATIVE, texts(), None), modules, strict=True):
            assert torch.equal(got, want)
        return modules

    types: list[Any] = []
    got = logits()
    monkeypatch.setattr(library, "storage", lambda *_: torch.float32)
    for one, want in zip(got, logits(), strict=True):
        assert torch.equal(one, want)
    assert types == [{half}, {torch.float32}] or not NATIVE.halves


@needs_native
def test_layers_of_different_storage_run_in_one_call() -> None:
    module = model_of("llama")
    round_weights(module.model.layers[0], NATIVE.halves)
    operate(module, NATIVE)
    first, second = (CWeight.of(layer.mlp.packed).stored for layer in module.model.layers)
    assert first != 0 and second == 0
    before = logits_of(module, NATIVE, texts(), None)
    assert fuse(module, NATIVE) is not None
    for got, want in zip(logits_of(module, NATIVE, texts(), 2), before, strict=True):
        assert torch.equal(got, want)


@needs_native
def test_who_rounds(tmp_path: Any) -> None:
    folder = tmp_path / "model"
    model_of("llama", vocab_size=300).save_pretrained(folder)
    wide = load_model(folder, device="cpu", dtype="float32")
    asked = load_model(folder, device="cpu", dtype="float32", weights="half")
    assert asked.step_bytes < 0.6 * wide.step_bytes
    exact = load_model(folder, device="cpu", dtype="auto", weights="exact")
    auto = load_model(folder, device="cpu", dtype="auto")
    assert auto.step_bytes < 0.6 * wide.step_bytes, "half in either of its ways: rounded weights, or all of it"
    assert exact.step_bytes == (wide.step_bytes if exact.dtype is torch.float32 else auto.step_bytes)
    pure = load_model(folder, device="cpu", dtype="float32", weights="half", native="off")
    assert pure.step_bytes > 0.9 * wide.step_bytes, "PyTorch has no products over half weights"
    with pytest.raises(ValueError, match="auto, exact, half"):
        load_model(folder, weights="int8")  # type: ignore[arg-type]
