"""Calls of a graph that onnxruntime-genai's builder made: one for all decodes, one a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastserve.backends.onnx.arrays import Arrays, Floats
from fastserve.backends.onnx.graph import BINDINGS, Chunk
from fastserve.backends.onnx.session import run_bound
from fastserve.models.folder import ModelNotFoundError

KNOWN: Final = ("input_ids", "attention_mask", "position_ids")
KV: Final = ("past_key_values.%d.key", "past_key_values.%d.value")
PRESENT: Final = ("present.%d.key", "present.%d.value")
TYPES: Final = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class GenaiGraph:
    """See PackedGraph. Raises ModelNotFoundError for a graph with other inputs, or caches that are not float32."""

    def __init__(self, session: Any, arrays: Arrays, vocab_size: int) -> None:
        self.session = session
        self.arrays = arrays
        self.vocab_size = vocab_size
        layers = range(arrays.each // 2)
        self.past = [name % layer for layer in layers for name in KV]
        self.present = [name % layer for layer in layers for name in PRESENT]
        given = {it.name: it.type for it in session.get_inputs()}
        strange = sorted(set(given) - {*KNOWN, *self.past})
        lacking = sorted({"input_ids", "attention_mask", *self.past} - set(given))
        if strange or lacking:
            what = f"it asks for {strange[0]}" if strange else f"it has no input {lacking[0]}"
            raise ModelNotFoundError(f"This graph is not one of the layout that is served: {what}.")
        if any(given[name] != "tensor(float)" for name in self.past):
            raise ModelNotFoundError("The caches of this graph are not float32: build it with precision fp32 or int4.")
        self.types = {name: TYPES[given[name]] for name in KNOWN if name in given}
        self.logits: Floats = np.empty((0, vocab_size), np.float32)
        self._bindings: dict[tuple[int, int], Any] = {}
        self._made = 0  # of the arrays whose addresses the bindings have

    def run(self, tokens: Sequence[int], lengths: Sequence[int], chunks: Sequence[Chunk]) -> Floats:
        """See PackedGraph.run()."""
        rows = []
        if tokens:
            longest = max(lengths) + 1
            mask = np.arange(longest) <= np.array(lengths)[:, None]
            rows.append(self._call(0, np.array(tokens)[:, None], mask, np.array(lengths)[:, None]))
        for chunk in chunks:
            end = chunk.first + len(chunk.tokens)
            got = self._call(chunk.slot, np.array([chunk.tokens]), np.ones((1, end)), np.arange(chunk.first, end)[None])
            if chunk.yields:
                rows.append(got)
        return np.concatenate(rows) if rows else self.logits

    def _call(self, first: int, ids: NDArray[Any], mask: NDArray[Any], positions: NDArray[Any]) -> Floats:
        """The last logits of each sequence."""
        binding = self._bound(first, len(ids))
        values = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        kept = {name: np.ascontiguousarray(values[name], kind) for name, kind in self.types.items()}
        for name, value in kept.items():
            binding.bind_input(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        run_bound(self.session, binding)
        logits: Floats = binding.get_outputs()[0].numpy()[:, -1].astype(np.float32)
        return logits

    def _bound(self, first: int, count: int) -> Any:
        if self.arrays.made != self._made or len(self._bindings) >= BINDINGS:
            self._bindings.clear()
            self._made = self.arrays.made
        binding = self._bindings.get((first, count))
        if binding is None:
            binding = self._bindings[first, count] = self.session.io_binding()
            binding.bind_output("logits", "cpu")
            for past, present, array in zip(self.past, self.present, self.arrays.all, strict=True):
                where = ("cpu", 0, np.float32, (count, *array.shape[1:]), array[first:].ctypes.data)
                binding.bind_input(past, *where)
                binding.bind_output(present, *where)
        else:  # the shape of the logits is another one at each length
            binding.bind_output("logits", "cpu")
        return binding
