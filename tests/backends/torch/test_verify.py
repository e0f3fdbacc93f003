"""Models that would not be exact are refused at load, and the message says why."""

import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fastserve.backends.torch import attention, model  # noqa: E402
from fastserve.backends.torch.model import load_model  # noqa: E402
from fastserve.backends.torch.verify import Probe, RefusedModelError, refuse_by_config  # noqa: E402
from tests.backends.torch import families  # noqa: E402
from tests.backends.torch.families import EXPERTS, WINDOWED  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "deepseek_v2": ({}, "K and V heads of different sizes"),
    "deepseek_v3": ({}, "K and V heads of different sizes"),
    "mamba": ({}, "recurrent state"),
    "jamba": ({}, "recurrent state"),
    "qwen3_next": ({}, "recurrent state"),
    "recurrent_gemma": ({}, "recurrent state"),
    "minimax": ({}, "layers of the kind linear_attention"),
    "llama4_text": ({}, "layers of the kind chunked_attention"),
    "t5": ({}, "encoder-decoder"),
    "bart": ({}, "encoder-decoder"),
    "bert": ({}, "its attention is not causal"),
    "diffllama": ({}, "layers cannot be told apart"),
    "doge": ({}, "a mask of its own"),
    "gemma4_text": ({"vocab_size_per_layer_input": 96}, "its layers differ in the number or the size of their heads"),
    "phimoe": ({**EXPERTS, "sliding_window": 5}, "a window of None tokens, but its config says 5"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_exact_is_refused(kind: str, tmp_path: Path) -> None:
    settings, why = REFUSED[kind]
    families.write_config(tmp_path, kind, **settings)
    with pytest.raises(RefusedModelError, match=why):
        load_model(tmp_path, load_format="dummy", device="cpu", dtype="float32")


@pytest.mark.parametrize("kind", [*families.ALONE, "falcon"])
def test_a_family_that_never_calls_our_attention_is_refused(kind: str, tmp_path: Path) -> None:
    if not families.alone(kind):
        pytest.skip(f"in transformers {transformers.__version__} {kind} calls our attention: see test_families.py")
    if kind == "falcon":  # has no head_dim to set
        sizes = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        transformers.AutoConfig.for_model(kind, **sizes).save_pretrained(tmp_path)
    else:
        families.write_config(tmp_path, kind, **families.ALONE[kind])
    with pytest.raises(RefusedModelError, match=r"ForCausalLM computes its attention itself and never calls ours\.$"):
        load_model(tmp_path, load_format="dummy", device="cpu", dtype="float32")


def test_an_architecture_that_never_calls_our_attention_is_refused() -> None:
    class Alone:
        @classmethod
        def _can_set_attn_implementation(cls) -> bool:
            return False

    with pytest.raises(RefusedModelError, match="mine is refused: transformers' Alone computes its attention itself"):
        refuse_by_config("mine", transformers.AutoConfig.for_model("llama"), Alone)


def test_a_model_that_fails_on_a_prompt_is_refused() -> None:
    config = transformers.AutoConfig.for_model("llama", **families.SIZES)
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    module.model.layers[1].mlp.up_proj = torch.nn.Linear(7, 48)
    with pytest.raises(RefusedModelError, match="mine is refused: its forward pass fails on a plain prompt: "):
        Probe("mine", module, 256)


def test_a_window_as_long_as_the_context_hides_nothing(tmp_path: Path) -> None:
    families.write_config(tmp_path, "phimoe", **EXPERTS, sliding_window=256)
    load_model(tmp_path, load_format="dummy", device="cpu", dtype="float32", native="off")


class Wrong:
    """Kernels with one thing wrong."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def write(self, key: Any, value: Any, pool: Any, layer: int, slots: Any) -> None:
        if self.fault == "forgets":
            key = torch.zeros_like(key)
        attention.write(key, value, pool, layer, slots)

    def attend(
        self, query: Any, pool: Any, layer: int, step: Any, scale: float, window: Any, softcap: Any, sinks: Any
    ) -> Any:
        if self.fault == "scale":
            scale *= 1.2
        if self.fault == "window":
            window = None
        if self.fault == "softcap":
            softcap = None
        if self.fault == "sinks":
            sinks = None
        return attention.attend(query, pool, layer, step, scale, window, softcap, sinks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", ["scale", "forgets", "window", "softcap", "sinks"])
def test_wrong_numbers_are_refused(fault: str, dtype: Any) -> None:
    settings: dict[str, Any] = {}
    kind = {"softcap": "gemma2", "sinks": "gpt_oss", "window": "mistral"}.get(fault, "llama")
    if kind == "gemma2":
        settings = {**WINDOWED, "attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 8}
    if kind == "gpt_oss":
        settings = {**WINDOWED, **EXPERTS}
    if kind == "mistral":
        settings = {"sliding_window": 5}
    config = transformers.AutoConfig.for_model(kind, **{**families.SIZES, **settings})
    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    probe = Probe("mine", module, 256)
    assert probe.check(attention).layers == 2
    with pytest.raises(RefusedModelError, match=r"The model mine is refused: our logits differ"):
        probe.check(Wrong(fault))


def test_a_model_without_finite_numbers_is_refused() -> None:
    config = transformers.AutoConfig.for_model("llama", **families.SIZES)
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float16).eval()
    module.model.layers[0].mlp.down_proj.weight.data.fill_(60000)
    with pytest.raises(RefusedModelError, match="not finite in float16; try dtype=bfloat16 or float32"):
        Probe("mine", module, 256)


def test_native_kernels_that_disagree_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Disagreeing(Wrong):
        def supports(self, dtype: Any, device: Any) -> bool:
            return True

    monkeypatch.setattr(model, "load", lambda: Disagreeing("scale"))
    families.write_config(tmp_path, "llama")
    with caplog.at_level(logging.WARNING, "fastserve"):
        loaded = load_model(tmp_path, load_format="dummy", device="cpu", dtype="float32")
    assert loaded.native is None
    assert "attention in PyTorch: with the native kernels" in caplog.text


def test_native_layers_that_change_the_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Agreeing(Wrong):
        def supports(self, dtype: Any, device: Any) -> bool:
            return True

    def spoil(module: Any, native: Any) -> None:
        module.model.layers[1].mlp.up_proj.weight.data.mul_(1.5)

    monkeypatch.setattr(model, "load", lambda: Agreeing("none"))
    monkeypatch.setattr(model, "apply_native", spoil)
    families.write_config(tmp_path, "llama")
    with pytest.raises(RefusedModelError, match="native=off does without them"):
        load_model(tmp_path, load_format="dummy", device="cpu", dtype="float32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "mixtral"])
def test_half_types_pass(kind: str, dtype: str, tmp_path: Path) -> None:
    extra = {"mixtral": EXPERTS, "gemma2": WINDOWED}.get(kind, {})
    families.write_config(tmp_path, kind, **extra)
    loaded = load_model(tmp_path, load_format="dummy", device="cpu", dtype=dtype)
    assert str(loaded.dtype) == f"torch.{dtype}"
