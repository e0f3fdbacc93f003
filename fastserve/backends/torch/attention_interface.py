"""The attention function that transformers' model code calls in place of its own, over the paged KV cache.

transformers looks the function up by NAME in its AttentionInterface. Its mask interface does not know that name and so
builds no mask. The context of a forward pass is passed in a context variable: each thread has its own, so
engines in one process do not interfere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastserve.backends.torch.input_batch import InputBatch

NAME = "fastserve"

HARMLESS = frozenset({
    "cache_position", "is_causal", "kv_last_page_len", "output_attentions", "output_hidden_states",
    "output_router_logits", "position_embeddings", "position_ids", "return_dict", "training", "use_cache",
})  # fmt: skip
"""Further arguments of transformers that do not bear on causal attention over a paged cache."""


class Kernels(Protocol):
    """What reads and writes the pool: the module attention beside this one, or native.Native."""

    def write(self, key: Tensor, value: Tensor, pool: Tensor, layer: int, slots: Tensor) -> None: ...

    def attend(
        self,
        query: Tensor,
        pool: Tensor,
        layer: int,
        step: InputBatch,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor: ...


class Call(NamedTuple):
    """One call as a probe sees it, before anything is computed. The shapes are (heads, head_dim)."""

    layer: int | None
    query: tuple[int, int]
    key: tuple[int, int]
    value: tuple[int, int]
    causal: bool
    masked: bool
    window: int | None
    unknown: list[str]  # further arguments that are not None and that nobody here implements


@dataclass(slots=True)
class Pass:
    """One forward pass of one step over a pool of a Cache."""

    step: InputBatch
    pool: Tensor
    kernels: Kernels
    watch: Callable[[Call], None] | None = None


PASS: ContextVar[Pass] = ContextVar("fastserve_pass")


def paged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **further: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, T, head_dim), key and value (1, kv_heads, T, head_dim), rotary applied. Gives (1, T, heads,
    head_dim). Causal always; dropout is for training and ignored.
    """
    current = PASS.get()
    layer: Any = getattr(module, "layer_idx", None)
    if current.watch is not None:
        current.watch(
            Call(
                layer=layer,
                query=(query.shape[1], query.shape[3]),
                key=(key.shape[1], key.shape[3]),
                value=(value.shape[1], value.shape[3]),
                causal=bool(further.get("is_causal", getattr(module, "is_causal", True)) is not False),
                masked=attention_mask is not None,
                window=sliding_window,
                unknown=sorted(name for name, it in further.items() if it is not None and name not in HARMLESS),
            )
        )
    pool, kernels = current.pool, current.kernels
    rows, keys, values = (it[0].transpose(0, 1).to(pool.dtype) for it in (query, key, value))
    kernels.write(keys, values, pool, layer, current.step.slots)
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    out = kernels.attend(rows, pool, layer, current.step, scale, sliding_window, softcap, s_aux)
    return out[None].to(query.dtype), None


def forward(module: torch.nn.Module, current: Pass) -> Tensor:
    """Logits of the wanted rows, (m, vocab) float32. The step's tensors are on the model's device.

    `module` is a causal language model of transformers whose attention implementation is NAME.
    """
    step = current.step
    token = PASS.set(current)
    try:
        with torch.inference_mode():
            result = module(
                input_ids=step.tokens[None],
                position_ids=step.positions[None],
                use_cache=False,
                logits_to_keep=step.wanted,
            )
            logits: Tensor = result.logits[0]
            if logits.shape[0] != step.wanted.shape[0]:  # a model that does not know logits_to_keep gave all rows
                logits = logits[step.wanted]
            return logits.float()
    finally:
        PASS.reset(token)


def register() -> None:
    """Lets transformers' models find paged_attention by NAME. Imports transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, paged_attention)
