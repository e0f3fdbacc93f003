"""A Llama in plain PyTorch, for the embedded model: it starts without the seconds that transformers' models import for.

Specification: transformers' Llama, with the same names of modules and weights and the same bits
(tests/backends/torch/test_plain_llama.py). Only what the embedded model's config.json has: no biases, no scaled rotary.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from fastserve.backends.torch.attention_interface import NAME, paged_attention
from fastserve.backends.torch.end_tokens import end_tokens
from fastserve.backends.torch.loaded import Loaded
from fastserve.models.embedded import make_embedded


class Config(SimpleNamespace):
    """config.json as it is, with what transformers' configs have and is used here."""

    def get_text_config(self, decoder: bool = True) -> Config:
        return self

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    to_diff_dict = to_dict


class LlamaRMSNorm(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.variance_epsilon: float = config.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)


class LlamaMLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
        return result


class LlamaAttention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer
        self.head_dim: int = config.head_dim
        self.scaling = self.head_dim**-0.5
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """x (B, T, hidden); over the pages of the pass, or, with `eager`, over x alone."""
        query, key, value = (
            layer(x).view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = (it * cosine[:, None] + _half_turned(it) * sine[:, None] for it in (query, key))
        if self.config._attn_implementation == NAME:
            seen, _ = paged_attention(self, query, key, value, None, scaling=self.scaling)
        else:
            groups = query.shape[1] // key.shape[1]
            key, value = (it.repeat_interleave(groups, 1) for it in (key, value))
            seen = scaled_dot_product_attention(query, key, value, is_causal=True, scale=self.scaling).transpose(1, 2)
        result: Tensor = self.o_proj(seen.reshape(*x.shape[:-1], -1))
        return result


class LlamaDecoderLayer(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config, layer)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config)
        self.post_attention_layernorm = LlamaRMSNorm(config)

    def forward(self, x: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *position_embeddings)
        result: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class LlamaModel(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LlamaDecoderLayer(config, at) for at in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config)


class PlainLlama(nn.Module):
    """Called as transformers' LlamaForCausalLM is called by attention_interface.forward and verify."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.generation_config: Any = None
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, logits_to_keep: Any = slice(None), **_: Any
    ) -> SimpleNamespace:  # fmt: skip
        """input_ids, position_ids (B, T); logits_to_keep: positions of T. Gives .logits (B, kept, vocabulary)."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x = self.model.embed_tokens(input_ids)
        turns = self._turns(position_ids, x.dtype)
        for layer in self.model.layers:
            x = layer(x, position_embeddings=turns)
        return SimpleNamespace(logits=self.lm_head(self.model.norm(x)[:, logits_to_keep]))

    def _turns(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the rotary embedding, (B, T, head_dim) each."""
        pairs = torch.arange(0, self.config.head_dim, 2, device=positions.device).float()
        speeds = 1.0 / (self.config.rope_parameters["rope_theta"] ** (pairs / self.config.head_dim))
        angles = speeds * positions[..., None].float()
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def set_attn_implementation(self, name: str) -> None:
        self.config._attn_implementation = name

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device


def load(dtype: torch.dtype, place: torch.device) -> Loaded:
    """The embedded model. Raises what make_embedded() does."""
    from transformers import PreTrainedTokenizerFast

    folder = make_embedded()
    config = Config(**json.loads((folder / "config.json").read_bytes()), _attn_implementation="eager")
    generation = SimpleNamespace(**json.loads((folder / "generation_config.json").read_bytes()))
    module = PlainLlama(config)  # its own random weights take less time than what torch imports for the meta device
    weights = load_file(folder / "model.safetensors", device=str(place))
    module.load_state_dict({name: it.to(dtype) for name, it in weights.items()}, assign=True)
    module.generation_config = generation
    ends = end_tokens(config.to_dict(), config, generation, None, config.vocab_size)  # the tokenizer has no others
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return Loaded(module, tokenizer, config.max_position_embeddings, ends, known=True)


def _half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)
