"""Sites: which linear layers of a loaded model may be adapted, whatever has taken their place since it was loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from fastserve.backends.torch.native.stack import Stack
from fastserve.backends.torch.native.storage import is_conv1d
from fastserve.backends.torch.native.surgery import GatedMlp, PackedLinear, SharedLinear


class Site(NamedTuple):
    """owner: what computes its product: a linear layer, or what computes several as one. part: which of them it is."""

    owner: Any
    part: int
    inner: int
    outer: int


def sites(model: Any) -> dict[str, Site]:
    """By the name that the layer has in the model as its checkpoint has it.

    Left out: the output embeddings, and experts, which see some rows of a step only.
    """
    head = model.get_output_embeddings()
    found: dict[str, Site] = {}
    for name, layer in _named(model, ""):
        if layer is head or "experts" in name.split("."):
            continue
        if isinstance(layer, GatedMlp):
            for part, own in enumerate(("gate_proj", "up_proj")):
                found[f"{name}.{own}"] = Site(layer, part, layer.packed.inner, layer.packed.outer)
        elif isinstance(layer, SharedLinear):
            shared = layer.shared
            found[name] = Site(shared, layer.index, shared.packed.inner, shared.sizes[layer.index])
        elif isinstance(layer, PackedLinear):
            found[name] = Site(layer, 0, layer.packed.inner, layer.packed.outer)
        elif type(layer) is nn.Linear:
            found[name] = Site(layer, 0, layer.in_features, layer.out_features)
        elif is_conv1d(layer):
            weight: Any = layer.weight
            found[name] = Site(layer, 0, *weight.shape)
    return found


def stack_of(model: Any) -> Stack | None:
    """What calls all layers at once, where that is in the model."""
    return next((layer for layer in model.modules() if isinstance(layer, Stack)), None)


def _named(layer: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """All layers below this one with their names; a Stack stands for the layers that it has taken over."""
    yield name, layer
    for own, child in layer.named_children():
        if isinstance(child, Stack):
            for at, covered in enumerate(child.layers):
                yield from _named(covered, f"{name}.{at}")
        else:
            yield from _named(child, f"{name}.{own}" if name else own)
