"""One call for all decoder layers of a Llama-shaped model, in place of one module after the other.

Specification: the modules themselves, after surgery. The results are equal bit by bit; it saves Python overhead and
passes over memory between the kernels.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from fastserve.backends.torch.attention_interface import PASS, Call
from fastserve.backends.torch.native.library import CLayer, CWeight, Native
from fastserve.backends.torch.native.low_rank import CLowRank, LowRanks
from fastserve.backends.torch.native.surgery import GatedMlp, PackedLinear, RmsNorm, SharedLinear

WINDOW: dict[str, Callable[[Any], int | None]] = {
    "LlamaDecoderLayer": lambda attention: None,
    "MistralDecoderLayer": lambda attention: attention.config.sliding_window,
    "Qwen2DecoderLayer": lambda attention: attention.sliding_window,
    "Qwen3DecoderLayer": lambda attention: attention.sliding_window,
}
"""Classes whose forward() is the one that kernels.cpp computes, and the window that each attends to."""

HOMES = ("transformers.models.", "fastserve.backends.torch.plain_llama")
"""Modules that have classes of these names."""


class Stack(nn.Module):
    """Stands in the model's list of layers as its only element. `layers`, the originals, keep the weights."""

    def __init__(self, native: Native, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers
        self._native = native
        first: Any = layers[0].self_attn
        self._scale = float(first.scaling)
        self._dim = int(first.head_dim)
        self._heads, self._kv_heads = (size // self._dim for size in first.q_proj.shared.sizes[:2])
        self._windows: list[int | None] = [_window(it) for it in layers]
        self._table = (CLayer * len(layers))(*map(_layer, layers))
        self._low: ctypes.Array[CLowRank] | None = None

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **further: Any) -> Tensor:
        """hidden_states (1, T, hidden); position_embeddings: cosine and sine, (1, T, head_dim) each."""
        current = PASS.get()
        if current.watch is not None:
            query, key = (self._heads, self._dim), (self._kv_heads, self._dim)
            masked = further.get("attention_mask") is not None
            for index, window in enumerate(self._windows):
                current.watch(Call(index, query, key, key, True, masked, window, []))
        cosine, sine = position_embeddings
        result = self._native.stack(
            self._table, hidden_states[0], cosine[0], sine[0], current.pool, current.step, self._heads, self._scale,
            self._low,
        )  # fmt: skip
        return result[None]

    def adapt(self, slot: int, slots: int) -> None:
        """What the adapter of this slot adds has changed in the modules. slots: how many there are."""
        if self._low is None:
            self._low = (CLowRank * (4 * len(self.layers) * slots))()
        for at, low in enumerate([low for layer in self.layers for low in _lows(layer)]):
            self._low[at * slots + slot] = CLowRank() if low is None else low.table[slot]


def fuse(model: Any, native: Native) -> nn.ModuleList | None:
    """Puts a Stack over the layers of a causal language model after surgery. Gives the layers that it covers, for
    `unfuse`; None, and nothing changes, where the model is of another shape.
    """
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not layers or not all(_known(layer) for layer in layers):
        return None
    first: Any = layers[0]
    if any(_sizes(layer) != _sizes(first) for layer in layers):
        return None
    model.model.layers = nn.ModuleList([Stack(native, layers)])
    return layers


def unfuse(model: Any, layers: nn.ModuleList) -> None:
    """Takes back a `fuse`."""
    model.model.layers = layers


def _known(layer: Any) -> bool:
    """Whether a layer consists of replaced modules only, and is of a class whose forward() is known."""
    if type(layer).__name__ not in WINDOW or not type(layer).__module__.startswith(HOMES):
        return False
    attention, mlp = layer.self_attn, layer.mlp
    parts = [getattr(attention, name, None) for name in ("q_proj", "k_proj", "v_proj")]
    shared = [part.shared for part in parts if isinstance(part, SharedLinear)]
    norms = [layer.input_layernorm, layer.post_attention_layernorm, *_head_norms(attention)]
    own = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
    return (
        {name for name, _ in layer.named_children()} == own
        and len(list(attention.children())) == 4 + len(_head_norms(attention))
        and len(_head_norms(attention)) in (0, 2)
        and len(shared) == 3
        and all(it is shared[0] for it in shared)
        and isinstance(attention.o_proj, PackedLinear)
        and isinstance(mlp, GatedMlp)
        and all(isinstance(norm, RmsNorm) and norm.weight.dtype is mlp.packed.dtype for norm in norms)
        and {it.packed.dtype for it in (shared[0], attention.o_proj, mlp.down_proj)} == {mlp.packed.dtype}
        and sum(shared[0].sizes) == shared[0].packed.outer
        and attention.head_dim % 2 == 0
    )


def _head_norms(attention: Any) -> list[Any]:
    return [getattr(attention, name) for name in ("q_norm", "k_norm") if hasattr(attention, name)]


def _window(layer: Any) -> int | None:
    return WINDOW[type(layer).__name__](layer.self_attn)


def _sizes(layer: Any) -> tuple[Any, ...]:
    """What all layers of a Stack share."""
    attention, mlp = layer.self_attn, layer.mlp
    packed = attention.q_proj.shared.packed
    return (
        packed.dtype, packed.inner, *attention.q_proj.shared.sizes, attention.o_proj.packed.outer,
        mlp.packed.outer, mlp.down_proj.packed.outer, attention.head_dim, attention.scaling,
    )  # fmt: skip


def _lows(layer: Any) -> list[LowRanks | None]:
    """Of its four products, in the order in which kernels.cpp computes them."""
    attention, mlp = layer.self_attn, layer.mlp
    return [attention.q_proj.shared.low, attention.o_proj.low, mlp.low, mlp.down_proj.low]


def _layer(layer: Any) -> CLayer:
    """Addresses only: the modules must outlive it."""
    attention, mlp = layer.self_attn, layer.mlp
    norms = [layer.input_layernorm, layer.post_attention_layernorm, *(_head_norms(attention) or (None, None))]
    return CLayer(
        *(None if norm is None else norm.weight.data_ptr() for norm in norms),
        *(0.0 if norm is None else norm.epsilon for norm in norms),
        CWeight.of(attention.q_proj.shared.packed),
        CWeight.of(attention.o_proj.packed),
        CWeight.of(mlp.packed),
        CWeight.of(mlp.down_proj.packed),
        _window(layer) or 0,
        0,
    )
