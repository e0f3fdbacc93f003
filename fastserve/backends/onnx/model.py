"""Model: an exported folder that is loaded, with its session, tried on short prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final

from fastserve.backends.onnx.arrays import ITEM, Arrays
from fastserve.backends.onnx.folder import OWN, Exported
from fastserve.backends.onnx.genai import GenaiGraph
from fastserve.backends.onnx.graph import PackedGraph
from fastserve.backends.onnx.layouts import read_folder
from fastserve.backends.onnx.session import open_session, runtime
from fastserve.backends.onnx.tokenizer import read_tokenizer
from fastserve.backends.onnx.verify import verify
from fastserve.engine.host_memory import cores
from fastserve.engine.model_info import clamp_length

LOG = logging.getLogger("fastserve")

QUANTIZE: Final = ("none", "int8", "int4")
ROOM: Final = 256
"""Tokens that a slot has room for at first."""

SLOTS: Final = 8


@dataclass(slots=True)
class Model:
    """max_model_len: tokens of the longest context. settings: as they turned out."""

    exported: Exported
    session: Any
    tokenizer: Any
    max_model_len: int
    settings: Mapping[str, Any]

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's KV, all layers."""
        it = self.exported
        return 2 * it.layers * it.kv_heads * it.head_dim * ITEM

    @property
    def dtype(self) -> str:
        """Of its weights."""
        return "float32" if self.exported.quantize == "none" else self.exported.quantize

    def graph(self) -> PackedGraph | GenaiGraph:
        """With arrays of its own, empty."""
        it = self.exported
        longest = max(self.max_model_len, it.window)
        room = min(longest, max(ROOM, it.window))
        arrays = Arrays(it.layers, it.kv_heads, it.head_dim, longest, SLOTS, room)
        kind = PackedGraph if it.kind == OWN else GenaiGraph
        return kind(self.session, arrays, it.vocab_size)


def load_model(
    model: str | PathLike[str],
    *,
    quantize: str = "none",
    providers: str = "auto",
    spinning: str = "brief",
    graph_optimization: str = "all",
    threads: int | None = None,
    max_model_len: int | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """A folder with an ONNX model, ready to run. Names, and folders of transformers, are exported before: see
    backends.prepared().

    quantize: of a float32 model's weights; what is made is kept in the cache folder. threads: None takes all processors
    that there are. spinning: see session.SPINNING. ModelNotFoundError where there is nothing to load, ValueError for a
    setting out of range or a model that is not computed correctly.
    """
    runtime()
    if quantize not in QUANTIZE:
        raise ValueError(f"quantize={quantize!r}: the choices are {', '.join(QUANTIZE)}")
    exported = read_folder(Path(model).expanduser())
    if quantize != "none" and quantize != exported.quantize:
        from fastserve.backends.onnx.quantise import quantised

        exported = quantised(exported, quantize)
    tokenizer = read_tokenizer(exported.path, exported.name, trust_remote_code)
    session = open_session(
        exported.file, threads=threads, providers=providers, spinning=spinning, graph_optimization=graph_optimization
    )
    length = clamp_length(max_model_len, exported.max_model_len)
    settings = {
        "quantize": exported.quantize, "providers": session.get_providers(), "threads": threads or cores(),
        "spinning": spinning, "graph_optimization": graph_optimization,
    }  # fmt: skip
    made = Model(exported, session, tokenizer, length, settings)
    verify(exported, replace(made, max_model_len=exported.max_model_len).graph())  # its prompts may be longer than that
    LOG.info("model %s: %s on ONNX Runtime %s", exported.name, made.dtype, runtime().__version__)
    return made
