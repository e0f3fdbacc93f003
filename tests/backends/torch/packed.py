"""Tiny random models on our attention, and their logits over a pool of NaN: at once, or in chunks beside others."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from fastserve.backends.torch.attention_interface import NAME, Kernels, Pass, forward, register
from fastserve.backends.torch.kv_cache import Cache
from tests.backends.torch import families
from tests.backends.torch.rows import Sequence, Table

BLOCK = 4

register()


def model_of(kind: str, dtype: Any = torch.float32, **settings: Any) -> Any:
    config = AutoConfig.for_model(kind, **{**families.SIZES, **settings})
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config).to(dtype).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in module.parameters():  # norms of ones would hide a norm that ignores its weight
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    module.set_attn_implementation(NAME)
    return module


def logits_of(module: Any, kernels: Kernels, texts: list[list[int]], seed: int | None) -> list[Tensor]:
    """Logits of every position: each text at once and alone, or in random chunks beside the others."""
    text = module.config.get_text_config()
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kv_heads = 4 if text.model_type in ("gpt2", "opt") else text.num_key_value_heads
    cache = Cache(2, kv_heads, dim, 60, 0, BLOCK, module.dtype, torch.device("cpu"))
    cache.pool.fill_(float("nan"))
    table, dice = Table(60, BLOCK, seed or 0), random.Random(seed)
    sequences = [Sequence(list(text)) for text in texts]
    got: list[list[Tensor]] = [[] for _ in texts]
    while waiting := [s for s in sequences if s.done < len(s.tokens)]:
        if seed is None:
            work = [(waiting[0], len(waiting[0].tokens))]
        else:
            some = dice.sample(waiting, dice.randint(1, len(waiting)))
            work = [(s, min(len(s.tokens) - s.done, dice.choice([1, 1, 2, 7, 20]))) for s in some]
        rows = sorted(work, key=lambda pair: pair[1] != 1)
        step = table.step(work, list(range(sum(n for _, n in work))))
        logits = forward(module, Pass(step, cache.pool, kernels))
        for (sequence, _), part in zip(rows, logits.split([n for _, n in rows]), strict=True):
            got[sequences.index(sequence)].append(part)
    return [torch.cat(parts) for parts in got]


def texts(seed: int = 1) -> list[list[int]]:
    dice = random.Random(seed)
    return [[dice.randrange(families.VOCABULARY) for _ in range(n)] for n in (1, 23, 40, 9)]
