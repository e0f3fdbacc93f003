"""A model of a half type, run in float32 without a second copy of its weights: each layer is widened while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


@contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """Inside, forward passes of `module` compute in float32 with the weights that it has; afterwards it is as before.

    Takes the memory of its largest layer, or of its head, in float32. Embeddings are looked up as they are stored. A
    model that is in float32 already is left alone. One pass at a time.
    """
    kept: dict[Tensor, Tensor] = {}

    def widen(unit: nn.Module, deep: bool) -> None:
        with torch.inference_mode(False):
            for one in chain(unit.parameters(deep), unit.buffers(deep)):
                if one.dtype in HALF and one not in kept:
                    kept[one] = one.data
                    one.data = one.data.float()

    def narrow(unit: nn.Module, deep: bool) -> None:
        for one in chain(unit.parameters(deep), unit.buffers(deep)):
            if one in kept:
                one.data = kept.pop(one)

    handles = []
    for unit, deep in _units(module):
        if isinstance(unit, nn.Embedding) and not deep:
            handles.append(unit.register_forward_hook(lambda _, args, found: _float(found)))
            continue
        handles.append(unit.register_forward_pre_hook(lambda unit, args, deep=deep: widen(unit, deep)))
        handles.append(unit.register_forward_hook(lambda unit, args, found, deep=deep: narrow(unit, deep)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for one, data in kept.items():  # of a pass that failed
            one.data = data


def _units(module: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    """What is widened at once: an entry of a list of layers with all that it holds, and what lies outside of any."""
    if isinstance(module, nn.ModuleList):
        for layer in module:
            yield layer, True
        return
    if next(chain(module.parameters(False), module.buffers(False)), None) is not None:
        yield module, False
    for child in module.children():
        yield from _units(child)


def _float(found: Any) -> Any:
    return found.float() if isinstance(found, Tensor) and found.dtype in HALF else found
