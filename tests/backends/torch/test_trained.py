"""Verification of trained weights: rounding passes, a wrong structure does not, however small beside it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from fastserve.backends.torch import attention, model  # noqa: E402
from fastserve.backends.torch.in_float32 import in_float32  # noqa: E402
from fastserve.backends.torch.model import load_model  # noqa: E402
from fastserve.backends.torch.native import load  # noqa: E402
from fastserve.backends.torch.verify import Probe, RefusedModelError  # noqa: E402
from fastserve.engine import Engine, SamplingParams  # noqa: E402
from tests.backends.torch import trained  # noqa: E402

NATIVE = load()
HALF = [torch.bfloat16, torch.float16]
REAL = os.environ.get("FASTSERVE_TRAINED_MODEL")
"""Set by `make test-trained`: what is installed by itself changes no test."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("native", ["auto", "off"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_trained_weights_are_served(kind: str, dtype: str, native: Any, tmp_path: Path) -> None:
    trained.model(kind).save_pretrained(tmp_path)
    loaded = load_model(tmp_path, device="cpu", dtype=dtype, native=native)
    assert str(loaded.dtype) == f"torch.{dtype}"
    assert (loaded.native is None) == (native == "off" or NATIVE is None)


def test_what_a_half_type_costs_the_model_itself_is_no_fault() -> None:
    """Large scores and many layers: its own two kinds of attention differ by more than a fixed bound would allow."""
    module = trained.model("llama", torch.bfloat16, sharper=16.0, copies=12)
    probe = Probe("mine", module, 256)
    logits = {}
    for kind in ("eager", "sdpa"):
        module.set_attn_implementation(kind)
        with torch.inference_mode():
            logits[kind] = module(input_ids=torch.tensor(probe.ids), use_cache=False).logits.float()
    apart = (logits["eager"] - logits["sdpa"]).abs().amax(-1) / logits["eager"].std(-1)
    assert float(apart.max()) > 0.15
    assert probe.check(attention).layers == 24


class Scaled:
    """Attention whose scores are a little too large."""

    write = staticmethod(attention.write)

    def attend(self, query: Any, pool: Any, layer: int, step: Any, scale: float, *further: Any) -> Any:
        return attention.attend(query, pool, layer, step, 1.02 * scale, *further)


def _bias(module: Any) -> None:
    module.model.layers[1].self_attn.v_proj.bias.data.zero_()


def _rope(module: Any) -> None:
    module.model.rotary_emb.inv_freq.data.mul_(0.97)


def _epsilon(module: Any) -> None:
    for layer in module.model.layers:
        layer.input_layernorm.variance_epsilon *= 100


FAULTS: dict[str, Callable[[Any], None]] = {"a bias dropped": _bias, "rope": _rope, "epsilon": _epsilon}


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("fault", [*FAULTS, "scale"])
def test_a_wrong_structure_is_refused_on_trained_weights(fault: str, dtype: Any) -> None:
    """All of these are below the rounding of bfloat16, which would hide them."""
    module = trained.model("qwen2", dtype)
    probe = Probe("mine", module, 256)
    probe.check(attention)
    if fault in FAULTS:
        FAULTS[fault](module)
    with pytest.raises(RefusedModelError, match=r"our logits differ from its own by .* in float32"):
        probe.check(Scaled() if fault == "scale" else attention)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("fault", ["bias", "weight", "norm"])
def test_native_layers_that_are_wrong_are_refused(
    fault: str, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are there in the half type only: what is wrong has to show above its rounding."""

    def spoil(module: Any, native: Any) -> None:
        layer = module.model.layers[1]
        if fault == "bias":
            layer.self_attn.v_proj.bias.data.zero_()
        elif fault == "weight":
            layer.mlp.up_proj.weight.data.mul_(1.05)
        else:
            layer.post_attention_layernorm.weight.data.fill_(1.0)

    if NATIVE is None:
        pytest.skip("no compiler here builds the native kernels")
    monkeypatch.setattr(model, "apply_native", spoil)
    trained.model("qwen2").save_pretrained(tmp_path)
    with pytest.raises(RefusedModelError, match="native=off does without them"):
        load_model(tmp_path, device="cpu", dtype=str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("dtype", HALF)
def test_in_float32_a_model_computes_with_the_weights_it_has_and_is_itself_again(dtype: Any) -> None:
    module = trained.model("qwen2", dtype)
    wide = trained.model("qwen2", dtype).float()
    before = {name: weight.data_ptr() for name, weight in module.named_parameters()}
    row = torch.tensor([[1, 2, 3, 200]])
    most = 0

    def count(*_: Any) -> None:
        nonlocal most
        most = max(most, sum(weight.dtype == torch.float32 for weight in module.parameters()))

    for layer in module.model.layers:
        layer.self_attn.register_forward_hook(count)
    with torch.inference_mode():
        narrow = module(input_ids=row).logits
        with in_float32(module):
            torch.testing.assert_close(module(input_ids=row).logits, wide(input_ids=row).logits)
        assert torch.equal(module(input_ids=row).logits, narrow)
    assert {name: weight.data_ptr() for name, weight in module.named_parameters()} == before
    assert most == len(list(module.model.layers[0].parameters()))  # never two layers at once


def test_a_pass_that_fails_leaves_no_layer_in_float32() -> None:
    module = trained.model("llama", torch.bfloat16)
    module.model.layers[1].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), in_float32(module):
        module(input_ids=torch.tensor([[1, 2]]))
    assert {weight.dtype for weight in module.parameters()} == {torch.bfloat16}


def test_no_memory_to_verify_is_not_the_models_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    module = trained.model("llama", torch.bfloat16)

    def full(*_: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    module.model.layers[0].mlp.register_forward_pre_hook(full)
    with pytest.raises(MemoryError, match="no memory to verify it, which takes one layer in float32"):
        Probe("mine", module, 256)


@pytest.mark.skipif(REAL is None, reason="make test-trained fetches the model and runs this")
@pytest.mark.parametrize("native", ["auto", "off"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_real_model_is_served_and_knows_what_it_has_learned(dtype: str, native: Any) -> None:
    assert REAL is not None
    with Engine.from_pretrained(REAL, device="cpu", dtype=dtype, native=native, kv_tokens=512) as engine:
        params = SamplingParams(max_tokens=4, temperature=0.0)
        output = engine.generate("The capital of France is", params)[0]
    assert output.text is not None and "Paris" in output.text
