"""Exports of tiny models: kinds of attention, rotation, position and normalisation; what cannot be exported says so.

Loading compares the logits with those that torch gave at the export, in float32 to a thousandth of their spread.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from fastserve.backends.onnx.model import Model, load_model
from fastserve.backends.onnx.verify import PROBE
from fastserve.backends.torch.to_onnx.export import export
from fastserve.backends.torch.verify import RefusedModelError
from tests.backends.torch.families import EXPERTS, GPT, WINDOWED, write

KINDS: dict[str, dict[str, Any]] = {
    "gemma2": {**WINDOWED, "head_dim": 16},  # soft caps, windows, norms around each part, rotation in the attention
    "qwen3": {},  # norms of Q and K, heads whose size ONNX Runtime does not rotate
    "gpt2": GPT,  # learned positions, one product for Q, K and V
    "gpt_neox": {},  # rotation of a part of each head, parallel residual, biases
}


def exported(folder: Path, kind: str, **settings: Any) -> Path:
    out = folder / "onnx"
    export(str(write(folder / kind, kind, **settings)), out, {"made_of": {}, "versions": {}}, False)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_its_logits_are_those_of_torch(kind: str, tmp_path: Path) -> None:
    model = load_model(exported(tmp_path, kind, **KINDS[kind]), threads=1)
    assert isinstance(model, Model) and model.tokenizer is None
    with np.load(model.exported.path / PROBE) as kept:
        changed = {"tokens": kept["tokens"], "logits": kept["logits"] + 0.01 * kept["logits"].std()}
    np.savez(model.exported.path / PROBE, **changed)
    retell(model.exported.path)
    with pytest.raises(ValueError, match="of their spread from PyTorch's"):
        load_model(model.exported.path, threads=1)


def retell(folder: Path) -> None:
    """The manifest again, after a file has changed."""
    manifest = folder / "fastserve.json"
    told = json.loads(manifest.read_bytes())
    told["files"] = {name: (folder / name).stat().st_size for name in told["files"]}
    manifest.write_text(json.dumps(told), encoding="utf-8")


def test_rotation_goes_into_the_attention_where_heads_allow_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(exported(tmp_path, "llama", head_dim=16) / "model.onnx", load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    attention = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert len(attention) == 4 and all(it.i for node in attention for it in node.attribute if it.name == "do_rotary")
    assert kinds.count("MatMul") == 2 * 4 + 1, "Q, K and V are one product, gate and up another"
    assert "Pow" not in kinds and kinds.count("SkipSimplifiedLayerNormalization") == 4


def test_what_cannot_be_exported_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RefusedModelError, match=r"it cannot be exported to ONNX: .*grouped_mm"):
        exported(tmp_path, "mixtral", **EXPERTS)
