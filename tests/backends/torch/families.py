"""Tiny random models of many families, by the name of their config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 96
WINDOW = 5

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,  # a tied random model says the same token again and again
}
WINDOWED = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_inner": 48}

ALONE: dict[str, dict[str, Any]] = {"bloom": {}, "mpt": {}, "gptj": {"rotary_dim": 4}, "codegen": {"rotary_dim": 4}}
"""Families that computed their attention themselves in some release of transformers, and may call ours in the next."""


def alone(kind: str) -> bool:
    """Whether the installed transformers has a class for this kind that never calls our attention."""
    architecture = AutoModelForCausalLM._model_mapping[type(AutoConfig.for_model(kind))]
    return not architecture._can_set_attn_implementation()


def write(folder: Path, kind: str, seed: int = 0, **settings: Any) -> Path:
    """A model of this kind with weights from `seed`, in safetensors."""
    config = AutoConfig.for_model(kind, **{**SIZES, **settings})
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def write_config(folder: Path, kind: str, **settings: Any) -> Path:
    """The config alone."""
    AutoConfig.for_model(kind, **{**SIZES, **settings}).save_pretrained(folder)
    return folder
