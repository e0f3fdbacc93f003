"""Verification of a model at load: an architecture that would be computed wrongly is refused, with the reason.

Model code can ignore transformers' attention interface and still run, with wrong results and no error. So the config
is checked first, and then the loaded model: its original forward pass and ours must give the same logits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastserve.backends.torch.attention_interface import NAME, Call, Kernels, Pass, forward
from fastserve.backends.torch.input_batch import InputBatch
from fastserve.backends.torch.kv_cache import Cache

LONG = 20
"""Tokens of both prompts: more than a block of 16, so that tables count."""

TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.15}
"""Largest distance of a row of our logits from the stock ones, relative to their spread. A wrong family is off by the
order of 1. In float32 every row counts; in the half types the median row, since rounding may send single tokens of a
mixture of experts elsewhere.
"""


class RefusedModelError(ValueError):
    """This model cannot be served exactly here; the message says why."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"The model {name} is refused: {why}.")


def refuse_by_config(name: str, config: Any, architecture: Any) -> None:
    """Raises RefusedModelError for what the config alone tells. architecture: the model class, None if not known."""
    text = config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False):
        raise RefusedModelError(name, "it is an encoder-decoder, and only decoders are served")
    if getattr(architecture, "_is_stateful", False):
        raise RefusedModelError(name, "its layers keep a recurrent state, which KV blocks cannot hold")
    if getattr(text, "kv_lora_rank", None):
        raise RefusedModelError(name, "its multi-head latent attention has K and V heads of different sizes")
    strange = sorted(set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"})
    if strange:
        raise RefusedModelError(name, f"it has layers of the kind {', '.join(strange)}, which are not implemented")
    if architecture is not None and not architecture._can_set_attn_implementation():
        raise RefusedModelError(
            name, f"transformers' {architecture.__name__} computes its attention itself and never calls ours"
        )


class Shape(NamedTuple):
    """What the cache needs to know, as the model's own calls show it."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int


class Probe:
    """Two random prompts, and what the model's own forward pass says to them, taken before anything is changed.

    longest: tokens of the longest context, for a sliding window that is no shorter hides nothing. Raises
    RefusedModelError where that pass fails or gives no finite numbers.
    """

    def __init__(self, name: str, module: Any, longest: int) -> None:
        self.name = name
        self.module = module
        self.longest = longest
        text = module.config.get_text_config(decoder=True)
        special: set[int] = set()
        for key, value in text.to_dict().items():
            if key.endswith("_token_id") and value is not None:
                special.update(value if isinstance(value, list) else [value])
        plain = [token for token in range(min(text.vocab_size, 10_000)) if token not in special]
        dice = random.Random(0)
        self.ids = [[dice.choice(plain) for _ in range(LONG)] for _ in range(2)]
        module.set_attn_implementation("eager")  # the reference of every family: the others leave out soft caps, sinks
        try:
            with torch.inference_mode():
                self.stock: Tensor = module(
                    input_ids=torch.tensor(self.ids, device=module.device), use_cache=False
                ).logits.float()
        except Exception as error:
            raise RefusedModelError(name, f"its forward pass fails on a plain prompt: {error}") from error
        if not self.stock.isfinite().all():
            raise RefusedModelError(
                name, f"it gives logits that are not finite in {_name(module.dtype)}; try dtype=bfloat16 or float32"
            )

    def check(self, kernels: Kernels, block_tokens: int = 16) -> Shape:
        """Runs the prompts through our attention: a chunk of each, then a decode beside a chunk.

        Leaves the model with our attention. Raises RefusedModelError for what differs.
        """
        module = self.module
        text = module.config.get_text_config(decoder=True)
        module.set_attn_implementation(NAME)
        caches: list[Cache] = []
        logits = torch.empty_like(self.stock)
        shapes: list[Shape] = []
        for step, rows in self._steps(block_tokens):
            calls: list[Call] = []
            current = Pass(step.to(module.device), torch.empty(0), kernels)

            def watch(call: Call, current: Pass = current, calls: list[Call] = calls) -> None:
                self._inspect(call, len(calls), text)
                calls.append(call)
                if not caches:
                    shapes.append(Shape(text.num_hidden_layers, call.query[0], *call.key))
                    blocks = 2 * -(-LONG // block_tokens)
                    size = (text.num_hidden_layers, *call.key, blocks, 0, block_tokens)
                    caches.append(Cache(*size, module.dtype, module.device))
                if Shape(text.num_hidden_layers, call.query[0], *call.key) != shapes[0]:
                    raise RefusedModelError(self.name, "its layers differ in the number or the size of their heads")
                current.pool = caches[0].pool

            current.watch = watch
            try:
                got = forward(module, current)
            except RefusedModelError:
                raise
            except Exception as error:
                raise RefusedModelError(self.name, f"its forward pass fails on a packed row: {error}") from error
            if len(calls) != text.num_hidden_layers:
                raise RefusedModelError(
                    self.name, f"{len(calls)} of its {text.num_hidden_layers} layers call our attention; all must"
                )
            for (prompt, position), row in zip(rows, got, strict=True):
                logits[prompt, position] = row
        self._compare(logits)
        return shapes[0]

    def _inspect(self, call: Call, index: int, text: Any) -> None:
        """Raises for a call that our attention would answer wrongly."""
        why = None
        if call.layer != index:
            why = f"call {index} of its attention says that it is layer {call.layer}, so layers cannot be told apart"
        elif call.key != call.value or call.query[1] != call.key[1]:
            why = f"its Q, K and V heads are of different sizes: {call.query}, {call.key}, {call.value}"
        elif call.query[0] % call.key[0]:
            why = f"its {call.query[0]} query heads are not a multiple of its {call.key[0]} K and V heads"
        elif call.masked:
            why = "it gives its attention a mask of its own"
        elif not call.causal:
            why = "its attention is not causal"
        elif call.unknown:
            why = f"it gives its attention {', '.join(call.unknown)}, which is not implemented"
        elif self._short(call.window) != self._short(window := _window(text, index)):
            why = f"layer {index} attends to a window of {call.window} tokens, but its config says {window}"
        if why:
            raise RefusedModelError(self.name, why)

    def _short(self, window: int | None) -> int | None:
        return window if window is not None and window < self.longest else None

    def _compare(self, logits: Tensor) -> None:
        spread = self.stock.std(-1).clamp_min(1e-12)
        errors = ((logits - self.stock).abs().amax(-1) / spread).flatten()
        error = float(errors.max() if self.module.dtype == torch.float32 else errors.median())
        if not error <= TOLERANCE[self.module.dtype]:  # a NaN is refused too
            raise RefusedModelError(
                self.name,
                f"our logits differ from its own by {error:.2g} of their spread on two short prompts "
                f"({TOLERANCE[self.module.dtype]} is allowed in {_name(self.module.dtype)})",
            )

    def _steps(self, size: int) -> Iterator[tuple[InputBatch, list[tuple[int, int]]]]:
        """Each step, and the (prompt, position) of its rows. The blocks of the prompts alternate."""
        width = -(-LONG // size)
        tables = [list(range(2 * width - 1, -1, -2)), list(range(0, 2 * width, 2))]
        for work in (((0, 0, LONG - 1), (1, 0, 9)), ((0, LONG - 1, LONG), (1, 9, LONG))):
            rows = [(prompt, position) for prompt, first, end in work for position in range(first, end)]
            counts = [end - first for _, first, end in work]
            step = InputBatch(
                tokens=torch.tensor([self.ids[prompt][position] for prompt, position in rows]),
                positions=torch.tensor([position for _, position in rows]),
                slots=torch.tensor([tables[prompt][at // size] * size + at % size for prompt, at in rows]),
                starts=torch.tensor([0, counts[0], sum(counts)], dtype=torch.int32),
                lengths=torch.tensor([end for *_, end in work], dtype=torch.int32),
                tables=torch.tensor(tables, dtype=torch.int32),
                decodes=counts.count(1),
                wanted=torch.arange(len(rows)),
            )
            yield step, rows


def _window(text: Any, layer: int) -> int | None:
    """The sliding window of a layer as the config has it."""
    window: int | None = getattr(text, "sliding_window", None)
    types = getattr(text, "layer_types", None)
    if types is not None:
        return window if types[layer] == "sliding_attention" else None
    return window if getattr(text, "use_sliding_window", True) else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
