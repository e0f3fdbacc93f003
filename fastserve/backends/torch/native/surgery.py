"""Replaces modules of a loaded model by kernels: linear layers by packed weights, and fused calls where possible.

Only modules whose computation is known are replaced, and a replaced MLP or norm has first given the same numbers as the
original on random rows. The originals are freed layer by layer, so that memory peaks at one layer above the weights.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastserve.backends.torch.attention_interface import PASS
from fastserve.backends.torch.native.library import DTYPES, Adapted, Native, Packed
from fastserve.backends.torch.native.low_rank import LowRanks
from fastserve.backends.torch.native.storage import is_conv1d

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 4e-3}
"""Largest distance between a replacement and the original, relative to the largest value."""


class Replaced(NamedTuple):
    """How many modules of each kind were replaced."""

    linears: int
    shared: int  # groups of query, key and value projections, one call each
    gated: int  # MLPs whose gate and up projections are one call
    norms: int


def _adapted(low: LowRanks | None) -> Adapted | None:
    """What the adapters of this step's rows add to a product. low: None before the first adapter is loaded."""
    if low is None:
        return None
    current = PASS.get(None)
    return None if current is None or current.step.adapters is None else (current.step.adapters, low)


class PackedLinear(nn.Module):
    """nn.Linear over a packed weight. `weight` has its shape and dtype, but every element is NaN."""

    low: LowRanks | None = None

    def __init__(self, native: Native, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.native = native
        self.packed = native.pack(weight, bias)
        self.weight = _hollow(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.native.linear(x, self.packed, _adapted(self.low))


def _hollow(weight: Tensor) -> Tensor:
    """Looks like `weight` and takes no memory; whoever computes with it gets NaN, which no probe lets pass."""
    return torch.full((), torch.nan, dtype=weight.dtype).expand(weight.shape)


class Shared:
    """Projections of one input: the first call computes all of them, the others take theirs."""

    low: LowRanks | None = None

    def __init__(self, native: Native, packed: Packed, sizes: list[int]) -> None:
        self.native, self.packed, self.sizes = native, packed, sizes
        self.x: Tensor | None = None
        self.left: dict[int, Tensor] = {}  # results not yet taken, by projection

    def take(self, index: int, x: Tensor) -> Tensor:
        if x is not self.x or index not in self.left:
            self.x = x
            self.left = dict(enumerate(self.native.linear(x, self.packed, _adapted(self.low)).split(self.sizes, -1)))
        result = self.left.pop(index)
        if not self.left:
            self.x = None
        return result


class SharedLinear(nn.Module):
    """One of the projections of a Shared."""

    def __init__(self, shared: Shared, index: int, weight: Tensor) -> None:
        super().__init__()
        self.shared, self.index = shared, index
        self.weight = _hollow(weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared.take(self.index, x)


class GatedMlp(nn.Module):
    """down(silu(gate(x)) * up(x)) in two calls."""

    low: LowRanks | None = None

    def __init__(self, native: Native, gate: Tensor, up: Tensor, down: nn.Linear) -> None:
        super().__init__()
        self.native = native
        self.packed = native.pack_gated(gate, up)
        self.down_proj = PackedLinear(native, down.weight, down.bias)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down_proj(self.native.linear(x, self.packed, _adapted(self.low)))
        return result


class RmsNorm(nn.Module):
    def __init__(self, native: Native, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        self.native, self.weight, self.epsilon = native, nn.Parameter(weight, requires_grad=False), epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.native.rms_norm(x, self.weight, self.epsilon)


@torch.inference_mode()
def operate(model: nn.Module, native: Native) -> Replaced:
    """Replaces what it can in place. The model's parameters are on the CPU; those of other dtypes than DTYPES stay."""
    gated = norms = shared = linears = 0
    for parent, name, module in _children(model):
        if (mlp := _gated(module, native)) is not None:
            setattr(parent, name, mlp)
            gated += 1
        elif (norm := _norm(module, native)) is not None:
            setattr(parent, name, norm)
            norms += 1
    for _, _, module in _children(model):
        shared += _share(module, native)
    for parent, name, module in _children(model):
        if type(module) is nn.Linear and module.weight.dtype in DTYPES:
            setattr(parent, name, PackedLinear(native, module.weight, module.bias))
            linears += 1
        elif is_conv1d(module) and module.weight.dtype in DTYPES:
            setattr(parent, name, PackedLinear(native, module.weight.t(), module.bias))
            linears += 1
    return Replaced(linears, shared, gated, norms)


def _children(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Parent, name and module of everything below, listed before the first is replaced."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            yield parent, name, module


def _linear(module: Any, name: str) -> nn.Linear | None:
    found = getattr(module, name, None)
    return found if type(found) is nn.Linear and found.weight.dtype in DTYPES else None


def _gated(module: Any, native: Native) -> GatedMlp | None:
    gate, up, down = (_linear(module, name) for name in ("gate_proj", "up_proj", "down_proj"))
    if gate is None or up is None or down is None or len(list(module.children())) > 4:
        return None
    biases: list[Tensor | None] = [gate.bias, up.bias]
    if biases != [None, None] or gate.weight.shape != up.weight.shape:
        return None
    made = GatedMlp(native, gate.weight, up.weight, down)
    return made if _same(module, made, gate.weight) else None


def _norm(module: Any, native: Native) -> RmsNorm | None:
    weight = getattr(module, "weight", None)
    if not type(module).__name__.endswith("RMSNorm") or weight is None or weight.dtype not in DTYPES:
        return None
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(epsilon, float) or weight.dim() != 1:
        return None
    made = RmsNorm(native, weight, epsilon)
    return made if _same(module, made, weight) else None


def _same(original: Any, made: nn.Module, like: Tensor) -> bool:
    """Whether both give the same on rows of `like`'s dtype and last dimension."""
    x = 2 * torch.randn(1, 3, like.shape[-1], generator=torch.Generator().manual_seed(0)).to(like.dtype)
    try:
        want, got = original(x), made(x)
    except (TypeError, ValueError, RuntimeError):
        return False
    if not isinstance(want, Tensor) or want.shape != got.shape or want.dtype != got.dtype:
        return False
    return bool((want - got).abs().max() <= CLOSE[like.dtype] * want.abs().max().clamp_min(1e-6))


def _share(module: nn.Module, native: Native) -> bool:
    found = [_linear(module, name) for name in ("q_proj", "k_proj", "v_proj")]
    linears = [linear for linear in found if linear is not None]
    if len(linears) < 3 or len({(x.in_features, x.bias is None, x.weight.dtype) for x in linears}) > 1:
        return False
    weights: list[Tensor] = [linear.weight for linear in linears]
    biases: list[Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    packed = native.pack(torch.cat(weights), torch.cat(biases) if biases else None)
    shared = Shared(native, packed, [linear.out_features for linear in linears])
    for index, (name, linear) in enumerate(zip(("q_proj", "k_proj", "v_proj"), linears, strict=True)):
        setattr(module, name, SharedLinear(shared, index, linear.weight))
    return True
