"""Python bindings of kernels.cpp, on tensors."""

import ctypes
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch  # before the library: both then share one OpenMP runtime, and torch.set_num_threads holds for both
from torch import Tensor

from fastserve.backends.torch.native import build
from fastserve.backends.torch.native.low_rank import CLowRank, LowRanks
from fastserve.backends.torch.native.shelf import Shelf
from fastserve.backends.torch.native.storage import storage

if TYPE_CHECKING:
    from fastserve.backends.torch.input_batch import InputBatch

LOG = logging.getLogger("fastserve")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 3}  # by_kind of vectors.h
_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "attend": [_I, _P, _L, _L, _P, _L, _L, _P, _P, _P, _L, _I, _I, _I, _I, _I, _I, _F, _F, _P, _P, _I],
    "write_slots": [_P, _L, _L, _P, _L, _L, _P, _I, _P, _L, _L, _I, _L, _I],
    "linear": [_I, _I, _P, _L, _I, _P, _I, _I, _P, _I, _P, _L, _I, _P, _P],
    "rms_norm": [_I, _P, _L, _I, _P, _I, _F, _P, _I],
    "stack": [
        _I,
        _P,
        _I,
        _P,
        _P,
        _P,
        _P,
        _I,
        _P,
        _L,
        _L,
        _L,
        _P,
        _P,
        _P,
        _L,
        _I,
        _I,
        _I,
        _I,
        _I,
        _F,
        _P,
        _I,
        _P,
        _P,
        _I,
    ],
}


Adapted = tuple[Tensor, LowRanks]
"""(slot of each row's adapter, int32, -1 for none; the adapters' parts of this weight)."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight in the order in which the product reads it. `gated`: two weights, for silu(x @ gate.T) * (x @ up.T)."""

    data: Tensor  # (panels, inner, 2 * lanes) in the order that products.h describes, padded with zeros
    inner: int
    outer: int  # columns of the product
    bias: Tensor | None  # float32, padded to whole panels
    gated: bool
    dtype: torch.dtype  # of the weight as it was, of x and of the product; data may be of another


class CWeight(ctypes.Structure):
    """Weight of kernels.cpp."""

    _fields_ = (
        ("data", _P),
        ("bias", _P),
        *((name, ctypes.c_int32) for name in ("inner", "outer", "stored", "unused")),
    )

    @classmethod
    def of(cls, packed: Packed) -> "CWeight":
        """Addresses only: `packed` must outlive it."""
        bias = None if packed.bias is None else packed.bias.data_ptr()
        return cls(packed.data.data_ptr(), bias, packed.inner, packed.outer, KINDS[packed.data.dtype])


class CLayer(ctypes.Structure):
    """Layer of kernels.cpp."""

    _fields_ = (
        *((name, _P) for name in ("norm_in", "norm_mlp", "norm_q", "norm_k")),
        *((name, _F) for name in ("epsilon_in", "epsilon_mlp", "epsilon_q", "epsilon_k")),
        *((name, CWeight) for name in ("qkv", "out", "gated", "down")),
        ("window", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    )


class Native:
    """The kernels. CPU tensors of one of DTYPES; threads as torch.get_num_threads() says; results are new tensors."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        for name, arguments in _ARGUMENTS.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, None
        self._shelf = Shelf()
        self.lanes = int(self._library.lanes())
        self.tiles = bool(self._library.tiles())  # bfloat16 products by AMX
        self.halves = bool(self._library.halves())  # float16 is widened by instructions

    def supports(self, dtype: torch.dtype, device: torch.device | str) -> bool:
        """Whether the kernels take tensors of this kind; anything else is PyTorch's."""
        return dtype in DTYPES and torch.device(device).type == "cpu"

    def attend(
        self,
        query: Tensor,
        pool: Tensor,
        layer: int,
        step: "InputBatch",
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Causal attention of every row of the step over its sequence's blocks, whose K and V are already written.

        query (T, heads, dim), any strides but 1 inside a head; pool [block][layer][2][kv_head][token][dim];
        sinks (heads,). `window` counts the row's own token. Returns (T, heads, dim). A row's result depends on its
        own query, position and blocks alone: decoded or prefilled in any chunk, the bits are the same.
        """
        if not query.is_cpu or query.dtype is not pool.dtype or query.shape[2] != pool.shape[5]:
            raise _misfit(query, pool)
        rows, heads, dim = query.shape
        kv_heads, tokens = pool.shape[3], pool.shape[4]
        if query.stride(2) != 1:
            query = query.contiguous()
        out = torch.empty(rows, heads, dim, dtype=query.dtype)
        sink = None if sinks is None else sinks.detach().float().contiguous()
        self._library.attend(
            self._kind(query.dtype),
            query.data_ptr(),
            query.stride(0),
            query.stride(1),
            pool.data_ptr() + layer * pool.stride(1) * pool.itemsize,
            pool.stride(0),
            pool.stride(2),
            step.starts.data_ptr(),
            step.lengths.data_ptr(),
            step.tables.data_ptr(),
            step.tables.stride(0),
            step.lengths.shape[0],
            heads,
            kv_heads,
            dim,
            tokens,
            window or 0,
            scale,
            softcap or 0.0,
            None if sink is None else sink.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out

    def write(self, key: Tensor, value: Tensor, pool: Tensor, layer: int, slots: Tensor) -> None:
        """key, value (T, kv_heads, dim) into the slots (T,) int64 of one layer; slot = block * block size + offset."""
        fits = key.is_cpu and key.dtype is value.dtype is pool.dtype and key.shape[1:] == (pool.shape[3], pool.shape[5])
        if not fits:
            raise _misfit(key, pool)
        key = key if key.stride(2) == 1 else key.contiguous()
        value = value if value.stride(2) == 1 else value.contiguous()
        size = pool.itemsize
        self._library.write_slots(
            key.data_ptr(),
            key.stride(0) * size,
            key.stride(1) * size,
            value.data_ptr(),
            value.stride(0) * size,
            value.stride(1) * size,
            slots.data_ptr(),
            key.shape[0],
            pool.data_ptr() + layer * pool.stride(1) * size,
            pool.stride(0) * size,
            pool.stride(2) * size,
            pool.shape[3],
            pool.shape[5] * size,
            pool.shape[4],
        )

    def pack(self, weight: Tensor, bias: Tensor | None = None) -> Packed:
        """weight (outer, inner), bias (outer,) as in torch.nn.functional.linear."""
        outer, inner = weight.shape
        data = self._shelf.put(self._panels(weight))
        if bias is not None:
            bias = torch.nn.functional.pad(bias.detach().float(), (0, -outer % (2 * self.lanes)))
        return Packed(data, inner, outer, bias, False, weight.dtype)

    def pack_gated(self, gate: Tensor, up: Tensor) -> Packed:
        """gate, up (outer, inner), for silu(x @ gate.T) * (x @ up.T) in one product."""
        outer, inner = gate.shape
        pads = (0, 0, 0, -outer % self.lanes)
        parts = [torch.nn.functional.pad(w.detach(), pads).view(-1, self.lanes, inner) for w in (gate, up)]
        data = self._shelf.put(self._panels(torch.stack(parts, 1).flatten(0, 2)))
        return Packed(data, inner, outer, None, True, gate.dtype)

    def linear(self, x: Tensor, packed: Packed, adapted: Adapted | None = None) -> Tensor:
        """x (..., inner) times the weight, plus its bias: (..., outer). A row's bits do not depend on other rows.

        adapted: whose rows have an adapter, and what each adds to the product.
        """
        if not x.is_cpu or x.dtype is not packed.dtype or x.shape[-1] != packed.inner:
            raise _misfit(x, packed.data)
        rows = x.reshape(-1, packed.inner)
        if rows.stride(1) != 1:
            rows = rows.contiguous()
        out = torch.empty(rows.shape[0], packed.outer, dtype=x.dtype)
        if not rows.shape[0]:  # as the logits of a step in which nobody's prefill ends
            return out.view(*x.shape[:-1], packed.outer)
        self._library.linear(
            self._kind(x.dtype),
            KINDS[packed.data.dtype],
            rows.data_ptr(),
            rows.stride(0),
            rows.shape[0],
            packed.data.data_ptr(),
            packed.inner,
            packed.outer,
            None if packed.bias is None else packed.bias.data_ptr(),
            packed.gated,
            out.data_ptr(),
            packed.outer,
            torch.get_num_threads(),
            None if adapted is None else _slots(adapted[0], rows.shape[0]),
            None if adapted is None else adapted[1].table,
        )
        return out.view(*x.shape[:-1], packed.outer)

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension of x; x and weight of one dtype."""
        if not x.is_cpu or x.dtype is not weight.dtype or x.shape[-1] != weight.shape[0]:
            raise _misfit(x, weight)
        rows = x.reshape(-1, x.shape[-1])
        if rows.stride(1) != 1:
            rows = rows.contiguous()
        out = torch.empty(x.shape, dtype=x.dtype)
        self._library.rms_norm(
            self._kind(x.dtype),
            rows.data_ptr(),
            rows.stride(0),
            rows.shape[0],
            weight.data_ptr(),
            rows.shape[1],
            epsilon,
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out

    def stack(
        self, layers: "ctypes.Array[CLayer]", x: Tensor, cosine: Tensor, sine: Tensor, pool: Tensor, step: "InputBatch",
        heads: int, scale: float, low: "ctypes.Array[CLowRank] | None" = None,
    ) -> Tensor:  # fmt: skip
        """All decoder layers of the Llama kind. x (T, hidden); cosine, sine (T, head_dim); the pool is written to.

        low: what adapters add, of each layer to its four products, by slot; used where the step's rows have some.
        """
        adapted = step.adapters is not None and low is not None
        rows, hidden = x.shape
        kv_heads, tokens, dim = pool.shape[3:]
        fits = x.is_cpu and x.dtype is cosine.dtype is sine.dtype is pool.dtype
        if not (fits and cosine.shape == sine.shape == (rows, dim) and hidden == layers[0].qkv.inner):
            raise _misfit(x, pool)
        out = x.clone(memory_format=torch.contiguous_format)
        cosine, sine = cosine.contiguous(), sine.contiguous()
        wide = hidden + (2 * heads + 2 * kv_heads) * dim + layers[0].gated.outer
        work = torch.empty(rows * wide, dtype=x.dtype)
        self._library.stack(
            self._kind(x.dtype),
            layers,
            len(layers),
            out.data_ptr(),
            cosine.data_ptr(),
            sine.data_ptr(),
            step.slots.data_ptr(),
            rows,
            pool.data_ptr(),
            pool.stride(0),
            pool.stride(2),
            pool.stride(1) * pool.itemsize,
            step.starts.data_ptr(),
            step.lengths.data_ptr(),
            step.tables.data_ptr(),
            step.tables.stride(0),
            step.lengths.shape[0],
            heads,
            kv_heads,
            dim,
            tokens,
            scale,
            work.data_ptr(),
            torch.get_num_threads(),
            _slots(step.adapters, rows) if adapted else None,
            low if adapted else None,
            0 if low is None else len(low) // (4 * len(layers)),
        )
        return out

    def _kind(self, dtype: torch.dtype) -> int:
        return 2 if self.tiles and dtype is torch.bfloat16 else KINDS[dtype]

    def _panels(self, weight: Tensor) -> Tensor:
        lanes, inner = self.lanes, weight.shape[1]
        width = 2 * lanes
        stored = storage(weight, self.halves)
        whole = torch.nn.functional.pad(weight.detach().to(stored), (0, 0, 0, -weight.shape[0] % width))
        if stored is not torch.bfloat16:
            return whole.view(-1, width, inner).transpose(1, 2).contiguous()
        if self._kind(weight.dtype) != 2:  # column j and column j + lanes share a 32-bit word
            return whole.view(-1, 2, lanes, inner).permute(0, 3, 2, 1).reshape(-1, inner, width).contiguous()
        whole = torch.nn.functional.pad(whole, (0, -inner % 32))
        order = whole.view(-1, 2, 16, whole.shape[1] // 32, 16, 2).permute(0, 3, 1, 4, 2, 5)
        return order.reshape(-1, whole.shape[1], width).contiguous()


def _slots(adapters: Tensor | None, rows: int) -> int:
    """The address of the slots of so many rows."""
    if adapters is None or adapters.dtype is not torch.int32 or adapters.shape != (rows,):
        raise TypeError(f"{rows} rows need as many slots of adapters (int32), and there are {adapters}")
    return adapters.data_ptr()


def _misfit(x: Tensor, to: Tensor) -> TypeError:
    return TypeError(
        f"{tuple(x.shape)} of {x.dtype} on {x.device} does not fit {tuple(to.shape)} of {to.dtype} on {to.device}: "
        "the kernels take CPU tensors of one dtype whose sizes agree"
    )


def load() -> Native | None:
    """The kernels, built now if need be; None, with one log line that says why, where PyTorch has to do."""
    if os.environ.get("FASTSERVE_NATIVE", "").lower() in {"off", "0", "no", "false"}:
        LOG.info("native kernels: off by FASTSERVE_NATIVE; PyTorch computes attention and products")
        return None
    try:
        path = build.library()
        native = Native(str(path))
    except (build.BuildError, OSError) as error:
        LOG.warning("native kernels: none, PyTorch computes attention and products (slower on a CPU): %s", error)
        return None
    LOG.info("native kernels: %d floats a vector%s, %s", native.lanes, ", AMX" if native.tiles else "", path)
    return native
