"""What of the adapters each layer of a model adds to its product: in the kernels, or behind PyTorch's own.

A row gets its own adapter's part and no other; the base's product is computed once for all rows. In the kernels a row's
bits do not depend on the rows beside it, as of the products themselves; PyTorch's products promise no more than they do
without adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fastserve.backends.torch.attention_interface import PASS
from fastserve.backends.torch.lora.sites import Site, sites, stack_of
from fastserve.backends.torch.native.low_rank import Factors, LowRanks
from fastserve.backends.torch.native.surgery import GatedMlp, PackedLinear, Shared

Part = Any
"""An adapter's part of one layer, as its Layer has made it."""


class Layer(Protocol):
    """The adapters' parts of one product, by slot."""

    def made(self, given: Mapping[int, Factors]) -> Part:
        """given: by projection. Any thread."""
        ...

    def put(self, slot: int, part: Part | None) -> None:
        """Between two steps."""
        ...


class TorchLayer:
    """Behind a linear layer of PyTorch's."""

    def __init__(self, layer: nn.Module) -> None:
        weight: Any = layer.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.parts: dict[int, tuple[Tensor, Tensor]] = {}
        layer.register_forward_hook(self._add)

    def made(self, given: Mapping[int, Factors]) -> Part:
        down, up = (it.to(device=self.device, dtype=self.dtype) for it in given[0])
        return down, up

    def put(self, slot: int, part: Part | None) -> None:
        if part is None:
            self.parts.pop(slot, None)
        else:
            self.parts[slot] = part

    def _add(self, layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        current = PASS.get(None)
        if current is None or current.step.adapters is None:
            return out
        x, result = args[0].flatten(0, -2), out.flatten(0, -2)
        if len(x) != len(current.step.adapters):
            raise RuntimeError(f"a layer sees {len(x)} of the {len(current.step.adapters)} rows of a step, and cannot "
                               "tell whose they are")  # fmt: skip
        for slot, rows in current.step.adapted().items():
            if slot in self.parts:
                down, up = self.parts[slot]
                result = result.index_add(0, rows, linear(linear(x.index_select(0, rows), down), up))
        return result.view(out.shape)


class Layers:
    """All of a model, made when the first adapter comes; until then nothing of the model is touched. slots: adapters
    that there may be at once.
    """

    def __init__(self, model: Any, native: Any, slots: int) -> None:
        self.sites = sites(model)
        self.slots = slots
        self._stack = stack_of(model)
        self._native = native
        self._layers: dict[int, Layer] = {}  # by the owner's id
        for site in self.sites.values():
            if id(site.owner) not in self._layers:
                self._layers[id(site.owner)] = self._layer(site.owner)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """name -> (inner, outer)."""
        return {name: (site.inner, site.outer) for name, site in self.sites.items()}

    @torch.inference_mode()
    def made(self, factors: Mapping[str, Factors]) -> dict[int, Part]:
        """An adapter as the layers take it; any thread. factors: by name."""
        given: dict[int, dict[int, Factors]] = {}
        for name, pair in factors.items():
            site: Site = self.sites[name]
            given.setdefault(id(site.owner), {})[site.part] = pair
        return {owner: self._layers[owner].made(parts) for owner, parts in given.items()}

    def put(self, slot: int, parts: Mapping[int, Part]) -> None:
        """Puts an adapter in place, or with no parts takes it away. Between two steps."""
        for owner, layer in self._layers.items():
            layer.put(slot, parts.get(owner))
        if self._stack is not None:
            self._stack.adapt(slot, self.slots)

    def _layer(self, owner: Any) -> Layer:
        if isinstance(owner, Shared):
            sizes = owner.sizes
        elif isinstance(owner, GatedMlp):
            sizes = [owner.packed.outer, owner.packed.outer]
        elif isinstance(owner, PackedLinear):
            sizes = [owner.packed.outer]
        else:
            return TorchLayer(owner)
        made = owner.low = LowRanks(sizes, isinstance(owner, GatedMlp), self._native.lanes, self.slots)
        return made
