"""Small GGUF files, written by the package gguf as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.constants import MODEL_ARCH_NAMES
from gguf.quants import quantize
from transformers import AutoConfig, AutoModelForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 260, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "initializer_range": 0.3, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258,
    "tie_word_embeddings": False, "rope_theta": 10000.0,
}  # fmt: skip
SPECIAL = ("<s>", "</s>", "<pad>")
CHAT = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
F32, F16, BF16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16
Q8, Q4 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_1


def letters() -> list[str]:
    """How byte-level BPE writes each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    spelled = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return [spelled[byte] for byte in range(256)]


def model(kind: str = "llama", seed: int = 0, **settings: Any) -> Any:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **settings})).eval()


def write(
    path: Path, module: Any, arch: str = "llama", kind: Any = F32, *, tokenizer: bool = True,
    more: Callable[[GGUFWriter], object] = lambda _: None, without: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """The model in a file. kind: of matrices whose rows are whole blocks, others are F32. without: tensors left out."""
    config = module.config
    writer = GGUFWriter(path, arch)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([*letters(), *SPECIAL, "he"])
        writer.add_token_types([1] * 256 + [3] * len(SPECIAL) + [1])
        writer.add_token_merges(["h e"])
        writer.add_bos_token_id(256)
        writer.add_eos_token_id(257)
        writer.add_pad_token_id(258)
        writer.add_unk_token_id(258)
        writer.add_add_bos_token(False)
        writer.add_chat_template(CHAT)
    key = next(key for key, name in MODEL_ARCH_NAMES.items() if name == arch)
    names = get_tensor_name_map(key, config.num_hidden_layers)
    for name, values in _tensors(module, arch, names):
        if name not in without:
            _add(writer, name, values, kind)
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(module: Any, arch: str, names: Any) -> Any:
    config = module.config
    for place, weight in module.state_dict().items():
        values = weight.float().numpy()
        if place.endswith("experts.gate_up_proj"):
            block = place.split(".")[2]
            for part, half in zip(("gate", "up"), np.split(values, 2, axis=1), strict=True):
                yield f"blk.{block}.ffn_{part}_exps.weight", half
            continue
        if place.endswith("experts.down_proj"):
            yield f"blk.{place.split('.')[2]}.ffn_down_exps.weight", values
            continue
        stem, _, end = place.rpartition(".")
        if arch == "llama" and stem.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if stem.endswith("q_proj") else config.num_key_value_heads
            halves = values.reshape(heads, 2, -1, values.shape[-1])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        yield f"{names.get_name(stem)}.{end}", values


def _add(writer: GGUFWriter, name: str, values: Any, kind: Any) -> None:
    values = np.ascontiguousarray(values, np.float32)
    if values.ndim < 2 or kind is F32 or (kind in (Q8, Q4) and values.shape[-1] % 32):
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
