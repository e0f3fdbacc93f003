"""Folders with an ONNX model: damaged ones, ones of another layout, and weights that cannot be quantised say why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastserve import backends
from fastserve.backends.onnx.blocks import BLOCK, in_blocks
from fastserve.backends.onnx.convert import convert
from fastserve.backends.onnx.layouts import read_folder
from fastserve.backends.onnx.model import load_model
from fastserve.models.folder import ModelNotFoundError

GENAI: dict[str, Any] = {
    "model": {
        "context_length": 64, "eos_token_id": 2, "vocab_size": 96,
        "decoder": {"filename": "model.onnx", "head_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2,
                    "num_key_value_heads": 2},
    },
    "search": {"do_sample": True, "temperature": 0.7, "top_k": 50},
}  # fmt: skip


def test_a_file_that_was_cut_short_is_named(embedded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(embedded, folder)
    with (folder / "model.onnx.data").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(ModelNotFoundError, match=r"model\.onnx\.data .* is cut short"):
        backends.look("onnx", folder)
    (folder / "fastserve.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelNotFoundError, match="export the model again"):
        backends.look("onnx", folder)


def test_a_folder_of_genai_is_read(tmp_path: Path) -> None:
    (tmp_path / "genai_config.json").write_text(json.dumps(GENAI), encoding="utf-8")
    with pytest.raises(ModelNotFoundError, match=r"names model\.onnx, which is not there"):
        read_folder(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"")
    found = read_folder(tmp_path)
    assert (found.kind, found.kv_heads, found.head_dim, found.eos_ids) == ("genai", 2, 16, frozenset({2}))
    assert found.defaults == {"temperature": 0.7, "top_k": 50}
    with pytest.raises(ValueError, match="exported elsewhere"):
        load_model(tmp_path, quantize="int8")


def test_another_layout_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "decoder_model.onnx").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="give the model that it was made of"):
        backends.look("onnx", tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantize": "int3"}, "the choices are none, int8, int4"),
        ({"providers": "Abacus"}, "this ONNX Runtime has"),
        ({"graph_optimization": "most"}, "the choices are all, extended"),
        ({"threads": 0}, "must be at least 1"),
        ({"max_model_len": 0}, "must be at least 1"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], said: str, embedded: Path) -> None:
    with pytest.raises(ValueError, match=said):
        load_model(embedded, **options)


def test_a_converted_folder_is_whole_and_is_not_quantised_twice(embedded: Path, tmp_path: Path) -> None:
    made = convert(str(embedded), tmp_path / "int4", "int4")
    model = load_model(made)
    assert model.dtype == "int4" and model.tokenizer is not None
    with pytest.raises(FileExistsError, match="is there already"):
        convert(str(embedded), made, "int8")
    with pytest.raises(ValueError, match="quantize them from float32"):
        load_model(made, quantize="int8")


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_packed_as_they_are_read(bits: int) -> None:
    weight = np.random.default_rng(0).normal(size=(70, 5)).astype(np.float32)
    packed, scales, noughts = in_blocks(weight, bits)
    assert packed.shape == (5, 3, BLOCK * bits // 8) and scales.shape == (15,)
    whole = packed if bits == 8 else np.stack([packed & 15, packed >> 4], -1).reshape(5, 3, BLOCK)
    each = noughts.reshape(5, 3) if bits == 8 else np.stack([noughts & 15, noughts >> 4], -1).reshape(5, 4)[:, :3]
    back = (whole.astype(np.float32) - each[..., None]) * scales.reshape(5, 3, 1)
    error = np.abs(back.reshape(5, 96)[:, :70].T - weight)
    assert np.sqrt(np.square(error).mean()) < (0.12 if bits == 4 else 0.02)
