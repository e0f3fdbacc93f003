"""The forward pass as it is exported: any number of decodes and one chunk in one row, over caches that change in place.

transformers' attention interface finds attend() by NAME. It emits GroupQueryAttention twice a layer: once for the
decodes, whose caches are neighbouring slots of one array, and once for the chunk, which has a slot of its own. Neither
may be empty in ONNX Runtime, so where there are no decodes, or no chunk, a row that is there stands in, over a slot
that nobody reads; `order` leaves its result out.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from fastserve.backends.torch.attention_interface import HARMLESS
from fastserve.backends.torch.to_onnx.survey import ROTATE, Survey, Watch, survey

NAME = "fastserve_onnx"

Cache = tuple[Tensor, Tensor]
"""K and V of a layer, (slots, kv_heads, room, head_dim)."""

WITHOUT_WINDOW = -1


@dataclass(slots=True)
class Part:
    """The decodes or the chunk. rows: of the row that is processed. last: of each sequence, the position of its newest
    token. longest: tokens in the longest context, with the new ones.
    """

    rows: Tensor
    last: Tensor
    longest: Tensor
    past: Sequence[Cache]
    present: list[Cache] = field(default_factory=list)


@dataclass(slots=True)
class Pass:
    """One traced pass; parts is empty while a plain pass is watched."""

    parts: Sequence[Part]
    order: Tensor | None
    found: Survey
    longest: int
    watch: Watch | None = None


PASS: ContextVar[Pass] = ContextVar("fastserve_onnx_pass")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **further: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, T, head_dim), key and value (1, kv_heads, T, head_dim). Gives (1, T, heads, head_dim)."""
    now = PASS.get()
    layer: Any = getattr(module, "layer_idx", None)
    _, heads, rows, dim = query.shape
    if now.watch is not None:
        strange = sorted(name for name, it in further.items() if it is not None and name not in HARMLESS)
        if strange:
            raise ValueError(f"it gives its attention {', '.join(strange)}, which the export does not know")
        now.watch.attended(layer)
        return query.transpose(1, 2) * 0, None
    table = now.found.rotary.get(layer)
    cos, sin = now.found.tables[table] if table is not None else (None, None)
    window = sliding_window if sliding_window is not None and sliding_window < now.longest else WITHOUT_WINDOW
    attributes: dict[str, Any] = {
        "num_heads": heads,
        "kv_num_heads": key.shape[1],
        "scale": float(dim**-0.5 if scaling is None else scaling),
        "do_rotary": int(table is not None),
        "local_window_size": int(window),
        "softcap": float(softcap or 0.0),
    }
    packed = torch.cat([it[0].transpose(0, 1).reshape(rows, -1) for it in (query, key, value)], -1)
    results = []
    for part, decodes in zip(now.parts, (True, False), strict=True):
        mine = packed.index_select(0, part.rows).unsqueeze(1 if decodes else 0)
        k, v = part.past[layer]
        shape = [mine.shape[0], mine.shape[1], heads * dim]
        said, new_k, new_v = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention", [mine, None, None, k, v, part.last, part.longest, cos, sin],
            attributes, dtypes=[query.dtype] * 3, shapes=[shape, k.shape, v.shape], version=1,
        )  # fmt: skip
        part.present.append((new_k, new_v))
        results.append(said.squeeze(1 if decodes else 0))
    assert now.order is not None
    return torch.cat(results).index_select(0, now.order).reshape(1, rows, heads, dim), None


class Twins:
    """Linear layers that read one input, as one: the first computes all, the others take their part of it."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.first = layers[0]
        self.sizes = [layer.out_features for layer in layers]
        biased = any(layer.bias is not None for layer in layers)
        bias: list[Tensor] = [torch.zeros(it.out_features) if it.bias is None else it.bias.detach() for it in layers]
        weights: list[Tensor] = [layer.weight.detach() for layer in layers]
        weight = torch.cat(weights)
        self.parts: list[Tensor] = []
        for layer in layers:
            layer.register_parameter("weight", None)
            layer.register_parameter("bias", None)
        self.first.weight = nn.Parameter(weight, requires_grad=False)
        if biased:
            self.first.bias = nn.Parameter(torch.cat(bias), requires_grad=False)
        for number, layer in enumerate(layers):
            setattr(layer, "forward", partial(self, number))  # noqa: B010 (a method of one object)

    def __call__(self, number: int, given: Tensor) -> Tensor:
        if number == 0:
            self.parts = list(functional.linear(given, self.first.weight, self.first.bias).split(self.sizes, -1))
        return self.parts[number]


class Traced(nn.Module):
    """A causal language model of transformers, changed for good: joined layers, rotation in the attention.

    longest: tokens of its longest context. ValueError for attention that the export does not know.
    """

    def __init__(self, module: Any, longest: int) -> None:
        super().__init__()
        self.module = module
        self.longest = longest
        module.set_attn_implementation(NAME)

        def run(watch: Watch) -> None:
            token = PASS.set(Pass((), None, Survey(), longest, watch))
            try:
                ids = torch.arange(1, 6)[None]
                module(input_ids=ids, position_ids=torch.arange(5)[None], use_cache=False)
            finally:
                PASS.reset(token)

        self.found = survey(module, run, longest)
        self.groups = [Twins(layers) for layers in self.found.twins]
        self.picks = "logits_to_keep" in inspect.signature(module.forward).parameters
        for number, (cos, sin) in enumerate(self.found.tables):
            self.register_buffer(f"cos_{number}", cos, persistent=False)
            self.register_buffer(f"sin_{number}", sin, persistent=False)

    def forward(
        self, tokens: Tensor, positions: Tensor, decode_rows: Tensor, chunk_rows: Tensor, order: Tensor, wanted: Tensor,
        decode_last: Tensor, decode_longest: Tensor, chunk_last: Tensor, chunk_longest: Tensor,
        decode_past: Sequence[Cache], chunk_past: Sequence[Cache],
    ) -> tuple[Tensor, list[Cache], list[Cache]]:  # fmt: skip
        """Logits of the wanted rows, (wanted, vocabulary), and the caches as they are then."""
        parts = [
            Part(decode_rows, decode_last, decode_longest, decode_past),
            Part(chunk_rows, chunk_last, chunk_longest, chunk_past),
        ]
        tables = [(getattr(self, f"cos_{i}"), getattr(self, f"sin_{i}")) for i in range(len(self.found.tables))]
        now = Survey(tables=tables, rotary=self.found.rotary)
        token = PASS.set(Pass(parts, order, now, self.longest))
        home = sys.modules[type(self.module).__module__]
        rotate = getattr(home, ROTATE, None)
        if self.found.rotary:
            setattr(home, ROTATE, lambda q, k, *_, **__: (q, k))
        try:
            keep = {"logits_to_keep": wanted} if self.picks else {}
            result = self.module(input_ids=tokens[None], position_ids=positions[None], use_cache=False, **keep)
            logits = result.logits[0] if self.picks else result.logits[0].index_select(0, wanted)
        finally:
            PASS.reset(token)
            if rotate is not None:
                setattr(home, ROTATE, rotate)
        return logits, parts[0].present, parts[1].present


AttentionInterface.register(NAME, attend)
