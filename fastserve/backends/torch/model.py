"""Model: a causal language model, run on packed sequences over a paged KV cache. transformers' modules, imported only
where one is loaded: the embedded model does without.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fastserve.backends.torch import attention
from fastserve.backends.torch.attention_interface import Kernels, Pass, forward
from fastserve.backends.torch.end_tokens import ids, sampling_defaults
from fastserve.backends.torch.input_batch import InputBatch
from fastserve.backends.torch.kv_cache import Cache
from fastserve.backends.torch.lora.adapters import Adapters
from fastserve.backends.torch.lora.peft_folder import look
from fastserve.backends.torch.native import Native, load
from fastserve.backends.torch.platform import pick_device, pick_dtype, settle
from fastserve.backends.torch.verify import Probe, RefusedModelError, Shape
from fastserve.engine.adapters import named
from fastserve.engine.model_info import clamp_length
from fastserve.named_models import EMBEDDED, PACKAGED

LOG = logging.getLogger("fastserve")

Weights = Literal["auto", "exact", "half"]


class Model:
    """Made by load_model. Forward passes are the engine thread's; everything else may be read from any thread."""

    def __init__(
        self, name: str, module: Any, shape: Shape, kernels: Kernels, tokenizer: Any, max_model_len: int,
        eos_ids: frozenset[int], max_loras: int = 8, max_lora_rank: int = 64,
    ) -> None:  # fmt: skip
        given = module.generation_config
        self.name = name
        self.module = module
        self.config = module.config
        self.tokenizer = tokenizer  # transformers' own; None where the model comes without one
        self.dtype: torch.dtype = module.dtype
        self.device: torch.device = module.device
        self.layers, self.heads, self.kv_heads, self.head_dim = shape
        self.max_model_len = max_model_len
        self.vocab_size: int = module.get_output_embeddings().weight.shape[0]
        self.eos_ids = eos_ids
        self.suppress: tuple[int, ...] = ids(given.suppress_tokens)
        self.defaults = sampling_defaults(given)
        self._kernels = kernels
        self.adapters = Adapters(self, max_loras, max_lora_rank)

    @property
    def native(self) -> Native | None:
        """The compiled kernels, None where PyTorch does the attention."""
        return self._kernels if isinstance(self._kernels, Native) else None

    @property
    def parameters(self) -> int:
        """Weights, one that several layers share counted once."""
        return sum([weight.numel() for weight in self.module.parameters()])

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that a step reads: all but the embeddings that are only looked up."""
        packed = [it.packed.data.nbytes for it in self.module.modules() if hasattr(it, "packed")]
        shared = {id(it.shared): it.shared.packed.data.nbytes for it in self.module.modules() if hasattr(it, "shared")}
        looked_up = self.module.get_input_embeddings().weight
        tied = looked_up is self.module.get_output_embeddings().weight
        rest = [it.nbytes for it in self.module.parameters() if tied or it is not looked_up]
        return sum([*packed, *shared.values(), *rest])

    def block_bytes(self, block_tokens: int) -> int:
        """Bytes of one KV block, all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * block_tokens * self.dtype.itemsize

    def forward(self, step: InputBatch, cache: Cache) -> Tensor:
        """Logits of the wanted rows, (m, vocab_size) float32 on the model's device; writes K and V of all rows."""
        return forward(self.module, Pass(step.to(self.device), cache.pool, self._kernels))


def load_model(
    model: str | Path = EMBEDDED,
    *,
    device: str = "auto",
    dtype: str = "auto",
    load_format: Literal["auto", "dummy"] = "auto",
    max_model_len: int | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    native: Literal["auto", "off"] = "auto",
    threads: int | None = None,
    weights: Weights = "auto",
    lora: Sequence[str] = (),
    max_loras: int = 8,
    max_lora_rank: int = 64,
) -> Model:
    """A model that is ready to run, tried on two short prompts.

    model: a name in fastserve.named_models, a folder, a GGUF file, an id of the Hugging Face hub, REPO:FILE of a GGUF
    file there (HF_TOKEN, HF_HUB_OFFLINE and the local cache are transformers' own). load_format `dummy` needs a
    config.json only and draws the weights from `seed`, on a GPU others than on a CPU. threads: of PyTorch in this whole
    process; None leaves them. native `off`: PyTorch alone. weights: of linear layers where a CPU computes in float32.
    They are stored in half the bytes where that changes no number; `half` rounds the others for it, `exact` does not,
    and `auto` rounds where dtype is auto too and the kernels that widen them are there. lora: adapters that requests
    may ask for, NAME=FOLDER each, in PEFT's format; at most max_loras at once, of ranks up to max_lora_rank.

    ModelNotFoundError where there is nothing to load, RefusedModelError for a model that would not be exact, ValueError
    for a setting out of range.
    """
    if load_format not in ("auto", "dummy") or native not in ("auto", "off"):
        raise ValueError(f"load_format={load_format!r}, native={native!r}: the choices are auto, dummy and auto, off")
    if weights not in get_args(Weights):
        raise ValueError(f"weights={weights!r}: the choices are {', '.join(get_args(Weights))}")
    if threads is not None:
        if threads < 1:
            raise ValueError(f"threads={threads} must be at least 1")
        torch.set_num_threads(threads)
    asked = [named(one) for one in ([lora] if isinstance(lora, str) else lora)]
    for _, folder in asked:  # before the base is loaded
        look(Path(folder).expanduser())
    place = pick_device(device)
    settle(place)
    name = str(model)
    if dtype == "auto" and name in PACKAGED:
        choice = pick_dtype(PACKAGED[name].dtype, place)._replace(why="as is usual for it")
    else:
        choice = pick_dtype(dtype, place)
    if name == EMBEDDED and load_format == "auto":
        from fastserve.backends.torch import plain_llama

        parts = plain_llama.load(choice.dtype, place)
    else:
        from fastserve.backends.torch import checkpoint

        drawn = seed if load_format == "dummy" else None
        parts = checkpoint.load(name, choice.dtype, place, drawn, trust_remote_code)
    length = clamp_length(max_model_len, parts.length)
    module = parts.module.eval().requires_grad_(False)
    library = _library(native, choice.dtype, place)
    how = _store(module, library, weights, dtype)
    probe = Probe(name, module, length)
    shape = None if parts.known and library is not None else probe.check(attention)
    kernels, shape = _kernels(probe, library, shape)
    LOG.info("model %s: %s on %s, %s%s", name, str(choice.dtype).removeprefix("torch."), place, choice.why, how)
    made = Model(name, module, shape, kernels, parts.tokenizer, length, parts.eos_ids, max_loras, max_lora_rank)
    for adapter, folder in asked:
        made.adapters.load(adapter, folder)
    return made


def _library(native: str, dtype: torch.dtype, place: torch.device) -> Native | None:
    """The compiled kernels where they are to be had for such a model."""
    if native == "off":
        LOG.info("attention in PyTorch: native is off")
        return None
    if place.type != "cpu":
        LOG.info("attention in PyTorch: the native kernels are for a CPU")
        return None
    kernels = load()
    if kernels is not None and not kernels.supports(dtype, place):
        LOG.info("attention in PyTorch: the native kernels do not know %s", dtype)
        return None
    return kernels


def _store(module: Any, native: Native | None, weights: str, dtype: str) -> str:
    """Rounds the weights where that is wanted. Returns what to say of it. dtype: as it was asked for."""
    if module.dtype != torch.float32 or weights == "exact":
        return ""
    if weights == "auto" and (native is None or dtype != "auto"):
        return ""
    from fastserve.backends.torch.native.storage import round_weights

    changed = round_weights(module, native is None or native.halves)
    return f"; weights rounded to half types ({changed} of its layers)" if changed else ""


def _kernels(probe: Probe, kernels: Native | None, shape: Shape | None) -> tuple[Kernels, Shape]:
    """The compiled kernels if they agree with the model's own forward pass, else PyTorch. shape: if known already."""
    if kernels is None:
        return attention, shape or probe.check(attention)
    try:
        shape = probe.check(kernels)
    except RefusedModelError as error:
        LOG.warning("attention in PyTorch: with the native kernels %s", error)
        return attention, probe.check(attention)
    apply_native(probe.module, kernels)
    try:
        probe.check(kernels, packed=True)
    except RefusedModelError as error:  # the weights are packed now, and there is no way back
        why = "the native layers change its numbers, and native=off does without them"
        raise RefusedModelError(probe.name, why) from error
    _fuse(probe, kernels)
    return kernels, shape


def apply_native(module: Any, native: Native) -> None:
    """Puts packed weights under the model's linear layers, in place."""
    from fastserve.backends.torch.native.surgery import operate

    LOG.info("native layers: %s", operate(module, native))


def _fuse(probe: Probe, native: Native) -> None:
    """One call for all layers where the model is of the shape for it; the modules one by one where that differs."""
    from fastserve.backends.torch.native.stack import fuse, unfuse

    layers = fuse(probe.module, native)
    if layers is None:
        LOG.info("native stack: none, the layers run one by one: this family's are not among those that it knows")
        return
    try:
        probe.check(native, packed=True)
    except RefusedModelError as error:
        unfuse(probe.module, layers)
        LOG.warning("native stack: none, the layers run one by one: %s", error)
        return
    LOG.info("native stack: %d layers in one call", len(layers))
