"""A model's shape from its published config.json, as Hugging Face's transformers writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastserve.hardware.json_fields import Fields
from fastserve.hardware.shape import ModelConfig, read_model

KEYS: Mapping[str, Sequence[str]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_size": ("head_dim",),
    "intermediate": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "vocab": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    "experts": ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts"),
    "per_token": ("num_experts_per_tok", "num_experts_per_token", "moe_k", "top_k_experts"),
    "expert_intermediate": ("moe_intermediate_size", "expert_ffn_hidden_size"),
}
"""What the families call one thing; the first key that is there and not null counts."""

UNLIKE = {
    "index_topk": "sparse attention",
    "compress_ratios": "compressed attention",
    "linear_attn_config": "linear attention of another kind",
    "indexer_n_heads": "sparse attention",
    "ple_embed_dim": "embeddings in some layers",
    "mamba_d_state": "state-space layers",
    "ssm_state_size": "state-space layers",
    "state_size": "state-space layers",
    "hybrid_override_pattern": "state-space layers",
    "conv_L_cache": "convolutions",
    "hidden_size_per_layer_input": "embeddings in each layer",
    "interleave_moe_layer_step": "experts in some layers only, of another size than the rest",
}
"""Keys of models that the shape does not describe, and what they have."""

UNLIKE_FAMILIES = {"jetmoe": "experts of attention", "longcat_flash": "two attentions and experts that do nothing"}
"""Of model_type, where no key says it."""

PLAIN_MLP = ("opt", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "bloom", "falcon", "mpt", "phi", "starcoder2")
"""Families whose MLP has two matrices."""
TIED = ("opt", "gpt2", "gpt_bigcode", "gpt_neo", "bloom", "falcon", "mpt", "gemma", "gemma2", "gemma3_text")
"""Families whose embedding is the output projection where the file does not say."""

LINEAR = "linear_attention"
"""As layer_types has it."""

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
MXFP4_BITS = 4.25
"""4 and, for each 32 weights, 8 of their scale."""
MEASURE = "measure the machine instead: fastserve profile, or make --points"


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """shape and context (None: not in the file) of a config.json; told: what was read otherwise than it stands."""

    shape: ModelConfig
    context: int | None
    told: list[str] = field(default_factory=list)


def read_config(
    data: object, where: str, weight_bits: float | None = None, expert_bits: float | None = None
) -> PublishedModel:
    """weight_bits, expert_bits: instead of what the file's quantization_config says.

    ValueError names what is missing, or what the model has that a shape does not describe.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected a model's config.json, an object with keys such as num_hidden_layers")
    try:
        return _read(data, where, weight_bits, expert_bits)
    except TypeError as error:
        raise ValueError(f"{where}: a number or a list stands where something else belongs ({error})") from None


def _read(data: Mapping[str, Any], where: str, weight_bits: float | None, expert_bits: float | None) -> PublishedModel:
    config = dict(data)
    for part in ("text_config", "llm_config", "language_config"):
        if isinstance(inner := config.get(part), Mapping):
            config = {"quantization_config": config.get("quantization_config"), **inner}
    for key, what in UNLIKE.items():
        if config.get(key):
            raise ValueError(f"{where}: '{key}' means {what}, which a roofline does not describe; {MEASURE}")
    told: list[str] = []
    family = str(config.get("model_type", ""))
    if family in UNLIKE_FAMILIES:
        what = UNLIKE_FAMILIES[family]
        raise ValueError(f"{where}: {family} has {what}, which a roofline does not describe; {MEASURE}")
    shape: dict[str, Any] = {key: _first(config, key, where) for key in ("layers", "hidden", "heads", "vocab")}
    sizes = Fields(shape, where)
    layers, hidden = sizes.integer("layers", least=1), sizes.integer("hidden", least=1)
    shape |= {key: found for key in ("kv_heads", "head_size") if (found := _first(config, key)) is not None}
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        shape["kv_heads"] = 1  # whatever else stands there
    shape["intermediate"] = _first(config, "intermediate") or 4 * hidden
    shape["mlp_matrices"] = 2 if family in PLAIN_MLP else 3
    shape["tied_embeddings"] = bool(config.get("tie_word_embeddings", family in TIED))
    shape["dtype_bytes"] = BYTES.get(str(config.get("dtype") or config.get("torch_dtype") or "bfloat16"), 2)
    _latents(config, shape)
    _linear(config, shape, layers, told)
    _window(config, shape, layers, where, told)
    _experts(config, shape, layers, where)
    _bits(config, shape, where, weight_bits, expert_bits)
    known = next((name for name in KEYS["context"] if config.get(name) is not None), None)
    context = None if known is None else Fields(config, where).integer(known, least=1)
    return PublishedModel(read_model(Fields(shape, where)), context, told)


def _first(config: Mapping[str, Any], key: str, where: str = "") -> Any:
    """None where it is absent, a ValueError where it is wanted."""
    for name in KEYS[key]:
        if config.get(name) is not None:
            return config[name]
    if where:
        raise ValueError(
            f"{where}: {' or '.join(map(repr, KEYS[key]))} is missing; is it a language model's config.json?"
        )
    return None


def _latents(config: Mapping[str, Any], shape: dict[str, Any]) -> None:
    if not config.get("kv_lora_rank"):
        return
    shape["latents"] = {
        "query_rank": config.get("q_lora_rank") or 0,
        "kv_rank": config["kv_lora_rank"],
        "rope": config.get("qk_rope_head_dim") or 0,
        "nope": config.get("qk_nope_head_dim") or 0,
        "value": config.get("v_head_dim") or 0,
    }
    shape.pop("head_size", None)


def _linear(config: Mapping[str, Any], shape: dict[str, Any], layers: int, told: list[str]) -> None:
    """Qwen3-Next's and Qwen3.5's: every layer but each `full_attention_interval`-th, whose attention has a gate."""
    if not config.get("linear_num_key_heads"):
        return
    types = config.get("layer_types")
    linear = (
        types.count(LINEAR)
        if isinstance(types, list)
        else layers - layers // (config.get("full_attention_interval") or 4)
    )
    shape["output_gate"] = bool(config.get("attn_output_gate", True))
    shape["linear"] = {
        "layers": linear,
        "key_heads": config["linear_num_key_heads"],
        "key_size": config.get("linear_key_head_dim"),
        "value_heads": config.get("linear_num_value_heads"),
        "value_size": config.get("linear_value_head_dim"),
        "state_bytes": BYTES.get(str(config.get("mamba_ssm_dtype")), 4),
    }
    told.append(f"the states of {linear} of {layers} layers, linear attention, are read but have no room in the pool")


def _window(config: Mapping[str, Any], shape: dict[str, Any], layers: int, where: str, told: list[str]) -> None:
    window = config.get("sliding_window")
    types = config.get("layer_types")
    if isinstance(types, list):
        for kind in types:
            if kind not in ("full_attention", "sliding_attention", *([LINEAR] if "linear" in shape else [])):
                raise ValueError(f"{where}: layers of {kind!r} are none that a roofline describes; {MEASURE}")
        narrow = types.count("sliding_attention")
    elif window and config.get("use_sliding_window", True):
        every = config.get("sliding_window_pattern")
        narrow = layers - layers // every if isinstance(every, int) and every > 1 else layers
    else:
        return
    if not window or not narrow:
        return
    if narrow >= layers:
        told.append(f"every layer has a window of {window} tokens, which is left out: contexts count whole")
        return
    shape |= {"window": window, "window_layers": narrow}
    told.append(
        f"the KV of {narrow} of {layers} layers, which keep {window} tokens a job, is read but has no room in the pool"
    )


def _experts(config: Mapping[str, Any], shape: dict[str, Any], layers: int, where: str) -> None:
    count = _first(config, "experts")
    if not count or count == 1:
        return
    sizes = {"size": _first(config, "expert_intermediate") or shape["intermediate"]}
    sizes |= {"n_shared_experts": config.get("n_shared_experts") or 0}
    fields = Fields(sizes, where)
    size = fields.integer("size", least=1)
    shared = config.get("shared_expert_intermediate_size") or fields.integer("n_shared_experts") * size
    shape["experts"] = {
        "count": count,
        "per_token": _first(config, "per_token", where),
        "intermediate": size,
        "shared_intermediate": shared,
        "dense_layers": _dense_layers(config, layers),
    }


def _dense_layers(config: Mapping[str, Any], layers: int) -> int:
    kinds = config.get("mlp_layer_types")
    if isinstance(kinds, list):
        return kinds.count("dense")
    frequency = config.get("moe_layer_freq")
    if isinstance(frequency, list):
        return frequency.count(0)
    step = config.get("decoder_sparse_step") or 1
    return config.get("first_k_dense_replace") or len(config.get("mlp_only_layers") or ()) or layers - layers // step


def _bits(
    config: Mapping[str, Any], shape: dict[str, Any], where: str, weight_bits: float | None, expert_bits: float | None
) -> None:
    quantised = config.get("quantization_config")
    if weight_bits is None and expert_bits is None and isinstance(quantised, Mapping):
        method = quantised.get("quant_method")
        if method == "fp8":
            weight_bits = 8
        elif method == "mxfp4" and "experts" in shape:
            expert_bits = MXFP4_BITS
        elif method in ("gptq", "awq") and quantised.get("bits") and (quantised.get("group_size") or 0) > 0:
            bits = quantised["bits"]
            weight_bits = bits + (16 + bits) / quantised["group_size"]  # a scale and a zero point for each group
        else:
            raise ValueError(
                f"{where}: weights quantised by {method!r} are not known here; say what a weight takes with "
                "--weight-bits, or --expert-bits for those of the experts alone"
            )
    if weight_bits is not None:
        shape["weight_bits"] = weight_bits
    if expert_bits is not None:
        if "experts" not in shape:
            raise ValueError(f"{where}: --expert-bits, and the model has no experts; give --weight-bits")
        shape["experts"]["bits"] = expert_bits
