"""What a forward pass of a model is made of: linear layers that read the same input, and its rotary embeddings.

One plain pass over a few tokens is watched. What it finds lets the export say the same in fewer and larger steps: one
product for Q, K and V, one for the two halves of a gated MLP, and the rotation inside the attention.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ROTATE = "apply_rotary_pos_emb"
"""What the modules of transformers call their rotation of Q and K by halves."""

WHOLE = 16
"""ONNX Runtime rotates heads whose size is a multiple of this."""


@dataclass(slots=True)
class Survey:
    """twins: groups of linear layers that read one input, in the order of their calls. tables: cos and sin of each
    position, (length, head_dim / 2). rotary: which of them a layer turns its Q and K by; absent for a layer that
    rotates none, or in another way.
    """

    twins: list[list[nn.Linear]] = field(default_factory=list)
    tables: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    rotary: dict[int, int] = field(default_factory=dict)


class Watch:
    """Rotations as the pass calls them. The attention tells the layer: the rotation before it is its own."""

    def __init__(self, module: Any) -> None:
        self.home = sys.modules[type(module).__module__]
        self.made: list[tuple[Any, tuple[Any, ...], dict[str, Any], Tensor]] = []  # of rotary modules: cos as returned
        self.original: Callable[..., Any] | None = None  # the rotation that transformers has
        self.pending: Tensor | None = None  # cos of the last rotation
        self.layers: dict[int, Tensor] = {}
        self.plain = True  # every rotation so far was the one by halves, of whole heads

    def rotate(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
        assert self.original is not None
        turned = self.original(q, k, cos, sin, *more, **named)
        half = q.shape[-1] // 2
        alike = cos.shape[-1] == q.shape[-1] == k.shape[-1] and q.shape[-1] % WHOLE == 0
        if alike and torch.equal(cos[..., :half], cos[..., half:]):
            c, s = (it.reshape(1, 1, -1, q.shape[-1]) for it in (cos, sin))
            by_halves = q * c + torch.cat([-q[..., half:], q[..., :half]], -1) * s
            self.plain &= by_halves.shape == turned[0].shape and torch.allclose(by_halves, turned[0], atol=1e-5)
        else:
            self.plain = False
        self.pending = cos
        return turned

    def attended(self, layer: int) -> None:
        if self.pending is not None:
            self.layers[layer], self.pending = self.pending, None

    @contextmanager
    def watching(self, module: Any) -> Iterator[None]:
        self.original = getattr(self.home, ROTATE, None)
        hooks = [
            each.register_forward_hook(self._saw, with_kwargs=True)
            for each in module.modules()
            if type(each).__name__.endswith("RotaryEmbedding")
        ]
        if self.original is not None:
            setattr(self.home, ROTATE, self.rotate)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            if self.original is not None:
                setattr(self.home, ROTATE, self.original)

    def _saw(self, module: Any, args: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        if isinstance(result, tuple) and len(result) == 2:
            self.made.append((module, args, named, result[0]))

    def tables(self, length: int) -> tuple[list[tuple[Tensor, Tensor]], dict[int, int]]:
        """See Survey: nothing where one rotation is of another kind, or depends on how long a context has become."""
        numbers: dict[int, int] = {}
        tables: list[tuple[Tensor, Tensor]] = []
        rotary: dict[int, int] = {}
        if not self.plain:
            return [], {}
        for layer, cos in self.layers.items():
            maker = next((i for i, it in enumerate(self.made) if it[3] is cos), None)
            if maker is None:
                return [], {}
            if maker not in numbers:
                module, args, named, _ = self.made[maker]
                kinds = getattr(module, "rope_type", "default")
                if any(
                    kind in ("dynamic", "longrope") for kind in (kinds.values() if isinstance(kinds, dict) else [kinds])
                ):
                    return [], {}
                places = torch.arange(length)[None]

                def every(it: Any, places: Tensor = places) -> Any:
                    return places if isinstance(it, Tensor) and not it.is_floating_point() else it

                made = module(*map(every, args), **{name: every(it) for name, it in named.items()})
                half = made[0].shape[-1] // 2
                numbers[maker] = len(tables)
                tables.append((made[0][0, :, :half].contiguous(), made[1][0, :, :half].contiguous()))
            rotary[layer] = numbers[maker]
        return tables, rotary


def survey(module: Any, run: Callable[[Watch], object], length: int) -> Survey:
    """run: does one plain pass of the module, and tells the Watch of each layer that attends. length: of the longest
    context.
    """
    calls: list[tuple[nn.Linear, Tensor]] = []
    hooks = [
        each.register_forward_pre_hook(lambda layer, args: calls.append((layer, args[0])))
        for each in module.modules()
        if type(each) is nn.Linear
    ]
    watch = Watch(module)
    try:
        with torch.no_grad(), watch.watching(module):
            run(watch)
            tables, rotary = watch.tables(length)
    finally:
        for hook in hooks:
            hook.remove()
    return Survey(_twins(calls), tables, rotary)


def _twins(calls: list[tuple[nn.Linear, Tensor]]) -> list[list[nn.Linear]]:
    """Neighbours in the order of calls with one input; a layer that is called twice has none."""
    times: dict[nn.Linear, int] = {}
    for layer, _ in calls:
        times[layer] = times.get(layer, 0) + 1
    groups: list[list[nn.Linear]] = []
    last: Tensor | None = None
    for layer, given in calls:
        if times[layer] > 1:
            last = None
            continue
        if given is last:
            groups[-1].append(layer)
        else:
            groups.append([layer])
        last = given
    return [group for group in groups if len(group) > 1]
