"""A small model trained from a seed on sentences of a little grammar: logits with the spread of a trained model's."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

WORDS = (
    ("the", "a", "every", "some"), ("red", "old", "quick", "quiet"), ("cat", "engine", "queue", "policy", "job"),
    ("waits for", "sees", "leaves", "follows"), ("the", "another", "no"), ("block", "token", "batch", "mat"),
)  # fmt: skip
STEPS, ROWS, LENGTH, RATE = 200, 16, 48, 1e-2

SIZES: dict[str, Any] = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
    "initializer_range": 0.1, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    "tie_word_embeddings": True,
}  # fmt: skip


def text(sentences: int = 600) -> bytes:
    dice = random.Random(0)
    return b"".join(f"{' '.join(map(dice.choice, WORDS))}.\n".encode() for _ in range(sentences))


@cache
def _weights(kind: str) -> dict[str, torch.Tensor]:
    """About five seconds."""
    data = torch.tensor(list(text()))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES)).train()
        optimiser = torch.optim.AdamW(module.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
        for _ in range(STEPS):
            starts = torch.randint(len(data) - LENGTH, (ROWS,)).tolist()
            rows = torch.stack([data[start : start + LENGTH] for start in starts])
            loss = module(input_ids=rows, labels=rows).loss
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    assert float(loss.detach()) < 2.5, "it has learned"  # 5.5 untrained, 3.1 letters by their frequency
    return {name: weight.detach().clone() for name, weight in module.state_dict().items()}


def model(kind: str, dtype: torch.dtype = torch.float32, sharper: float = 1.0, copies: int = 1) -> Any:
    """A fresh copy, in evaluation. kind: of a config of transformers. sharper: scores of the attention, times this: the
    larger they are, the more their rounding matters, as it does in a large model. copies: of its layers, in a row.
    """
    layers = copies * SIZES["num_hidden_layers"]
    sizes = {**SIZES, "num_hidden_layers": layers}
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes), dtype=dtype)
    weights = _weights(kind)
    module.load_state_dict(weights, strict=False)
    for index, layer in enumerate(module.model.layers):
        prefix = f"model.layers.{index % SIZES['num_hidden_layers']}."
        layer.load_state_dict({name[len(prefix) :]: it for name, it in weights.items() if name.startswith(prefix)})
        layer.self_attn.q_proj.weight.data.mul_(sharper)
    return module.eval().requires_grad_(False)
