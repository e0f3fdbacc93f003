"""Verification of a model at load: an architecture that would be computed wrongly is refused, with the reason.

Model code can ignore transformers' attention interface and still run, with wrong results and no error. So the config
is checked first, and then the loaded model: in float32 its original forward pass and ours must give the same logits. In
a half type two right computations may differ by a great deal. What is asked there is that ours be hardly farther from
the logits in float32 than the model's own pass is.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastserve.backends.torch.attention_interface import NAME, Call, Kernels, Pass, forward
from fastserve.backends.torch.in_float32 import in_float32
from fastserve.backends.torch.input_batch import InputBatch
from fastserve.backends.torch.kv_cache import Cache
from fastserve.backends.torch.memory import ran_out

LOG = logging.getLogger("fastserve")

LONGEST = 400
"""Characters of somebody else's error that are repeated."""

LONG = 20
"""Tokens of each prompt: more than a block of 16, so that tables count."""

PROMPTS = 4
"""Enough that the ratio of two rounding errors is known to a tenth."""

STRUCTURE = 1e-3
"""In float32: largest distance of any row of our logits from the model's own, relative to their spread. A wrong family
is off by the order of 1.
"""

ROUNDING = 1.5
"""In a half type: our distance from the logits in float32 over that of the model's own pass in that type.

A trained model's own may be half of the spread, and differs by as much between transformers' kinds of attention. The
distance of a row is a root mean square, the one of all rows the geometric mean, since rounding may send single tokens
of a mixture of experts elsewhere.
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
    """Random prompts, and what the model's own forward pass says to them, taken before anything is changed.

    exact: the logits with its weights in float32. rounding: in a half type, how far from them its own pass is. longest:
    tokens of the longest context, for a sliding window that is no shorter hides nothing. Raises RefusedModelError where
    the model's pass fails or gives no finite numbers, MemoryError where there is no room to compute in float32.
    """

    def __init__(self, name: str, module: Any, longest: int) -> None:
        self.name = name
        self.module = module
        self.dtype: torch.dtype = module.dtype
        self.longest = longest
        text = module.config.get_text_config(decoder=True)
        special: set[int] = set()
        for key, value in text.to_dict().items():
            if key.endswith("_token_id") and value is not None:
                special.update(value if isinstance(value, list) else [value])
        plain = [token for token in range(min(text.vocab_size, 10_000)) if token not in special]
        dice = random.Random(0)
        self.ids = [[dice.choice(plain) for _ in range(LONG)] for _ in range(PROMPTS)]
        module.set_attn_implementation("eager")  # the reference of every family: the others leave out soft caps, sinks
        stock = self._stock()
        if not stock.isfinite().all():
            half = self.dtype != torch.float32
            hint = "try dtype=bfloat16 or float32" if half else "its weights are damaged"
            raise RefusedModelError(name, f"it gives logits that are not finite in {_name(self.dtype)}; {hint}")
        self.exact = stock
        self.rounding = 0.0
        if self.dtype != torch.float32:
            with in_float32(module):
                self.exact = self._stock()
            if not self.exact.isfinite().all():
                raise RefusedModelError(name, "it gives logits that are not finite in float32")
            self.rounding = self._distance(stock)

    def _stock(self) -> Tensor:
        """Logits of the model's own pass, (prompts, LONG, vocabulary) float32."""
        module = self.module
        try:
            with torch.inference_mode():
                logits: Tensor = module(input_ids=torch.tensor(self.ids, device=module.device), use_cache=False).logits
                return logits.float()
        except Exception as error:
            raise _failed(self.name, "a plain prompt", error) from error

    def check(self, kernels: Kernels, block_tokens: int = 16, *, packed: bool = False) -> Shape:
        """Runs the prompts through our attention: chunks, then decodes beside chunks; in float32, and in a half type
        once more as it will be served. packed: the native layers are in, so only as it will be served.

        Leaves the model with our attention. Raises RefusedModelError for what differs.
        """
        self.module.set_attn_implementation(NAME)
        if self.dtype == torch.float32:
            logits, shape = self._ours(kernels, block_tokens)
            self._compare(logits)
            return shape
        if not packed:
            with in_float32(self.module):
                self._compare(self._ours(kernels, block_tokens)[0])
        logits, shape = self._ours(kernels, block_tokens, self.dtype)
        self._compare_rounding(logits)
        return shape

    def _ours(
        self, kernels: Kernels, block_tokens: int, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Shape]:  # fmt: skip
        """Our logits, like `exact`, with KV of this type, and what the calls showed."""
        module = self.module
        text = module.config.get_text_config(decoder=True)
        caches: list[Cache] = []
        logits = torch.empty_like(self.exact)
        shapes: list[Shape] = []
        for step, rows in self._steps(block_tokens):
            calls: list[Call] = []
            current = Pass(step.to(module.device), torch.empty(0), kernels)

            def watch(call: Call, current: Pass = current, calls: list[Call] = calls) -> None:
                self._inspect(call, len(calls), text)
                calls.append(call)
                if not caches:
                    shapes.append(Shape(text.num_hidden_layers, call.query[0], *call.key))
                    blocks = PROMPTS * -(-LONG // block_tokens)
                    size = (text.num_hidden_layers, *call.key, blocks, 0, block_tokens)
                    caches.append(Cache(*size, dtype, module.device))
                if Shape(text.num_hidden_layers, call.query[0], *call.key) != shapes[0]:
                    raise RefusedModelError(self.name, "its layers differ in the number or the size of their heads")
                current.pool = caches[0].pool

            current.watch = watch
            try:
                got = forward(module, current)
            except RefusedModelError:
                raise
            except Exception as error:
                raise _failed(self.name, "a packed row", error) from error
            if len(calls) != text.num_hidden_layers:
                raise RefusedModelError(
                    self.name, f"{len(calls)} of its {text.num_hidden_layers} layers call our attention; all must"
                )
            for (prompt, position), row in zip(rows, got, strict=True):
                logits[prompt, position] = row
        return logits, shapes[0]

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
        """Both in float32."""
        spread = self.exact.std(-1).clamp_min(1e-12)
        error = float(((logits - self.exact).abs().amax(-1) / spread).max())
        if not error <= STRUCTURE:  # a NaN is refused too
            raise RefusedModelError(
                self.name,
                f"our logits differ from its own by {error:.2g} of their spread on short prompts in float32 "
                f"({STRUCTURE:g} is allowed)",
            )

    def _compare_rounding(self, logits: Tensor) -> None:
        ours = self._distance(logits)
        LOG.debug("%s: %.2g of the spread from float32, its own pass %.2g", self.name, ours, self.rounding)
        if not ours <= ROUNDING * self.rounding:
            raise RefusedModelError(
                self.name,
                f"in {_name(self.dtype)} our logits are {ours:.2g} of their spread from those in float32, and its own "
                f"pass {self.rounding:.2g} ({ROUNDING:g} times that is allowed); try dtype=float32",
            )

    def _distance(self, logits: Tensor) -> float:
        """From the exact ones, relative to their spread; no smaller than the rounding of one number may make it."""
        spread = self.exact.std(-1).clamp_min(1e-12)
        rows = (logits - self.exact).square().mean(-1).sqrt() / spread
        return float(rows.clamp_min(torch.finfo(self.dtype).eps / 4).log().mean().exp())

    def _steps(self, size: int) -> Iterator[tuple[InputBatch, list[tuple[int, int]]]]:
        """Each step, and the (prompt, position) of its rows. The blocks of the prompts alternate."""
        width = -(-LONG // size)
        tables = [list(range(at, PROMPTS * width, PROMPTS)) for at in range(PROMPTS)]
        tables[0].reverse()
        first = [LONG - 1 if prompt % 2 == 0 else 9 for prompt in range(PROMPTS)]
        for work in (
            [(prompt, 0, end) for prompt, end in enumerate(first)],
            sorted([(prompt, start, LONG) for prompt, start in enumerate(first)], key=lambda it: LONG - it[1]),
        ):
            rows = [(prompt, position) for prompt, first, end in work for position in range(first, end)]
            counts = [end - first for _, first, end in work]
            step = InputBatch(
                tokens=torch.tensor([self.ids[prompt][position] for prompt, position in rows]),
                positions=torch.tensor([position for _, position in rows]),
                slots=torch.tensor([tables[prompt][at // size] * size + at % size for prompt, at in rows]),
                starts=torch.tensor([0, *accumulate(counts)], dtype=torch.int32),
                lengths=torch.tensor([end for *_, end in work], dtype=torch.int32),
                tables=torch.tensor([tables[prompt] for prompt, *_ in work], dtype=torch.int32),
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


def _failed(name: str, on: str, error: Exception) -> Exception:
    """A shortage of memory is not the model's fault."""
    if ran_out(error):
        return MemoryError(
            f"there is no memory to verify it, which takes one layer in float32 beside its weights: {one_line(error)}"
        )
    return RefusedModelError(name, f"its forward pass fails on {on}: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """The first paragraph of its text, or what it is."""
    said = f"{error} is not known" if isinstance(error, KeyError) else str(error)
    text = " ".join(said.strip().split("\n\n", 1)[0].split())
    return (text if len(text) <= LONGEST else text[:LONGEST] + "...") or type(error).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
