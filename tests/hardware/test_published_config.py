"""A model's config.json: the shapes of the catalogue come out of the published keys, and what is unlike is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastserve.hardware.catalogue import read_catalogue
from fastserve.hardware.published_config import read_config

LLAMA = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
OPT = {
    "model_type": "opt", "num_hidden_layers": 40, "hidden_size": 5120, "num_attention_heads": 40, "ffn_dim": 20480,
    "vocab_size": 50272, "max_position_embeddings": 2048, "torch_dtype": "float16",
}  # fmt: skip
QWEN3_MOE = {
    "model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "vocab_size": 151936, "max_position_embeddings": 262144, "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip
GPT_OSS = {
    "model_type": "gpt_oss", "num_hidden_layers": 24, "hidden_size": 2880, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "num_local_experts": 32,
    "num_experts_per_tok": 4, "vocab_size": 201088, "max_position_embeddings": 131072, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12, "quantization_config": {"quant_method": "mxfp4"},
}  # fmt: skip
DEEPSEEK = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128,
    "num_key_value_heads": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "moe_layer_freq": 1,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    "vocab_size": 129280, "max_position_embeddings": 163840, "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip
QWEN35 = {
    "model_type": "qwen3_5_moe", "tie_word_embeddings": False, "vision_config": {"hidden_size": 1152},
    "text_config": {
        "attn_output_gate": True, "full_attention_interval": 4, "head_dim": 256, "hidden_size": 2048,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 10, "linear_key_head_dim": 128,
        "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_value_head_dim": 128,
        "max_position_embeddings": 262144, "mlp_only_layers": [], "moe_intermediate_size": 512,
        "num_attention_heads": 16, "num_experts": 256, "num_experts_per_tok": 8, "num_hidden_layers": 40,
        "num_key_value_heads": 2, "shared_expert_intermediate_size": 512, "vocab_size": 248320,
        "mamba_ssm_dtype": "float32",
    },
}  # fmt: skip
MINIMAX = {
    "model_type": "minimax_m2", "num_hidden_layers": 62, "hidden_size": 3072, "num_attention_heads": 48,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 1536, "num_local_experts": 256,
    "num_experts_per_tok": 8, "vocab_size": 200064, "max_position_embeddings": 196608,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LLAMA, "llama-3.1-8b"),
        (OPT, "opt-13b"),
        (QWEN3_MOE, "qwen3-30b-a3b"),
        (GPT_OSS, "gpt-oss-20b"),
        (DEEPSEEK, "deepseek-v3"),
        (MINIMAX, "minimax-m2"),
        (QWEN35, "qwen3.5-35b-a3b"),
    ],
)
def test_published_keys_give_the_catalogue_s_shapes(config: dict[str, Any], name: str) -> None:
    known, read = read_catalogue().models[name], read_config(config, "config.json")
    assert (read.shape.parameters, read.shape.active_parameters) == (
        known.shape.parameters,
        known.shape.active_parameters,
    )
    assert read.shape.weight_bytes == known.shape.weight_bytes
    assert (read.shape.state_bytes, read.shape.state_flops) == (known.shape.state_bytes, known.shape.state_flops)
    assert read.shape.kv_bytes_per_token == known.shape.kv_bytes_per_token
    assert read.shape.pair_flops(decode=True) == known.shape.pair_flops(decode=True)
    assert (read.shape.window, read.shape.window_layers) == (known.shape.window, known.shape.window_layers)
    assert read.context == known.context


def test_the_language_model_of_a_larger_one_is_found() -> None:
    whole = {"model_type": "some_vl", "text_config": LLAMA, "vision_config": {"hidden_size": 1}}
    assert read_config(whole, "x").shape == read_config(LLAMA, "x").shape


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        ({"decoder_sparse_step": 2}, 24),
        ({"mlp_only_layers": [0, 3]}, 2),
        ({"first_k_dense_replace": 5}, 5),
        ({"moe_layer_freq": [0] + [1] * 47}, 1),
        ({"mlp_layer_types": ["dense"] * 3 + ["sparse"] * 45}, 3),
        ({}, 0),
    ],
)
def test_layers_without_experts_are_counted(config: dict[str, Any], layers: int) -> None:
    experts = read_config({**QWEN3_MOE, **config}, "x").shape.experts
    assert experts is not None and experts.dense_layers == layers


def test_windows_of_all_layers_are_left_out_and_that_is_told() -> None:
    read = read_config({**LLAMA, "sliding_window": 4096}, "x")
    assert read.shape.window == 0 and "left out" in read.told[0]
    gemma = read_config({**LLAMA, "sliding_window": 1024, "sliding_window_pattern": 6}, "x")
    assert gemma.shape.window_layers == 32 - 32 // 6 and "no room in the pool" in gemma.told[0]


def test_other_bits_are_told_or_read() -> None:
    awq = {**LLAMA, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    assert read_config(awq, "x").shape.weight_bits == 4 + 20 / 128
    odd = {**QWEN3_MOE, "quantization_config": {"quant_method": "compressed-tensors"}}
    with pytest.raises(ValueError, match=r"'compressed-tensors' are not known here; .*--expert-bits"):
        read_config(odd, "x")
    read = read_config(odd, "x", expert_bits=4.5)
    assert read.shape.experts is not None and read.shape.experts.bits == 4.5
    with pytest.raises(ValueError, match="the model has no experts"):
        read_config(LLAMA, "x", expert_bits=4)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([], "expected a model's config.json"),
        ({}, "'num_hidden_layers' or 'n_layer' .*is missing"),
        ({**LLAMA, "index_topk": 2048}, "sparse attention, which a roofline does not describe; measure"),
        ({**LLAMA, "layer_types": ["linear_attention"] * 32}, "layers of 'linear_attention' are none"),
        ({**LLAMA, "mamba_d_state": 128}, "state-space layers"),
        ({**LLAMA, "hidden_size": "4096"}, "'hidden' must be a number"),
        ({**LLAMA, "num_hidden_layers": 0}, "'layers' must be a whole number >= 1"),
        ({**LLAMA, "num_hidden_layers": "x"}, "'layers' must be a number"),
        ({**QWEN3_MOE, "num_experts_per_tok": 500}, "'per_token' 500 of at most 128 experts"),
        ({**QWEN3_MOE, "num_experts": 10**9}, "'count' 1000000000 of at most 4096"),
        ({**QWEN3_MOE, "num_experts": "many"}, "'count' must be a number"),
        ({**LLAMA, "n_shared_experts": "x", "num_experts": 4, "num_experts_per_tok": 1}, "shared"),
        ({**LLAMA, "max_position_embeddings": "long"}, "max_position_embeddings"),
        ({**QWEN3_MOE, "decoder_sparse_step": "two"}, "something else belongs"),
        ({**LLAMA, "sliding_window": "wide", "sliding_window_pattern": 4}, "'window' must be a number"),
        ({**DEEPSEEK, "qk_nope_head_dim": None}, "'nope' must be a whole number >= 1"),
    ],
)
def test_what_is_missing_or_unlike_is_named(config: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_config(config, "config.json")


@pytest.mark.parametrize(
    "family",
    ["llama", "qwen3", "qwen3_moe", "gpt_oss", "deepseek_v3", "glm4_moe", "minimax_m2", "mixtral", "gemma3_text", "opt",
     "gpt2", "gpt_bigcode", "falcon", "starcoder2", "phi3", "qwen3_next", "qwen3_5_moe_text"],
)  # fmt: skip
def test_the_parameters_are_those_that_transformers_makes(family: str) -> None:
    """Of five layers of each family's default sizes, without memory; norms and places of tokens are left out."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(family, num_hidden_layers=5)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    tables = [module for name, module in model.named_modules() if name.split(".")[-1] in ("embed_positions", "wpe")]
    places = sum(parameter.numel() for table in tables for parameter in table.parameters())
    shape = read_config(json.loads(config.to_json_string(use_diff=False)), family).shape
    assert shape.parameters == pytest.approx(sum(p.numel() for p in model.parameters()) - places, rel=0.002)
