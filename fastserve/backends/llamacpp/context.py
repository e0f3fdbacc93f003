"""Context: llama.cpp's KV cache of many sequences, and the calls that a step takes."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastserve.backends.llamacpp.library import last_error, library
from fastserve.backends.llamacpp.model import CACHE_TYPES, Model
from fastserve.engine.sampler.jobs import Part
from fastserve.engine.sampler.sampler import Floats

State = NDArray[np.uint8]
"""KV of one sequence as llama.cpp writes it."""

NO_ROOM: Final = (1, -2)
"""What llama_decode returns where its cache is full, or memory could not be had. Anything else but 0 is a failure."""

ABORTED: Final = 2

PADDING: Final = 256
"""llama.cpp rounds a cache up to so many cells, but not the largest step, which is never larger than the cache."""

NO_FLASH: Final = 0
"""Of llama.cpp's kinds of attention: the plain one."""


class Context:
    """cells: tokens that its cache holds, of all sequences together, in one pool. sequences: ids that they may have.
    outputs: rows of logits of one step. MemoryError where it does not fit.
    """

    def __init__(self, model: Model, cells: int, sequences: int, outputs: int) -> None:
        api = library()
        settings = api.llama_context_default_params()
        settings.n_ctx = -(-cells // PADDING) * PADDING
        settings.n_batch = settings.n_ctx  # so that a step is never more than one call, whatever its prompts
        settings.n_seq_max = sequences
        settings.n_outputs_max = max(outputs, sequences)
        settings.n_threads = settings.n_threads_batch = model.threads
        settings.type_k = settings.type_v = CACHE_TYPES[model.cache_type]
        settings.kv_unified = True
        if model.cache_type == "float32":
            settings.flash_attn_type = NO_FLASH  # that computes in half precision whatever the cache holds
        settings.no_perf = True
        pointer = api.llama_init_from_model(model.pointer, settings)
        if not pointer:
            raise MemoryError(f"llama.cpp cannot make a context of {cells} tokens of {model.name}: {last_error()}")
        self.model = model
        self.pointer = pointer
        self.sequences = sequences
        self.cells: int = api.llama_n_ctx(pointer)
        self.decodes = 0  # calls of llama_decode
        self._memory = api.llama_get_memory(pointer)
        self._free = weakref.finalize(self, api.llama_free, pointer)
        if model.adapters:
            count = len(model.adapters)
            pointers = (api.llama_adapter_lora_p_ctypes * count)(
                *[ctypes.cast(one.pointer, api.llama_adapter_lora_p_ctypes) for one in model.adapters]
            )
            scales = (ctypes.c_float * count)(*[one.scale for one in model.adapters])
            if api.llama_set_adapters_lora(pointer, pointers, count, scales) != 0:
                raise ValueError(f"the adapters do not fit {model.name}: {last_error()}")

    def decode(self, parts: Sequence[tuple[int, Part]]) -> Floats:
        """All parts in one call. parts: (sequence, tokens that follow those that it holds).

        Returns a view, good until the next call: (n, vocab), the logits that the parts want, in order. MemoryError
        where there is no room, RuntimeError for what else fails; the sequences hold then anything.
        """
        sizes = [len(part.tokens) for _, part in parts]
        total = sum(sizes)
        tokens = np.concatenate([np.array(part.tokens, np.int32) for _, part in parts])
        positions = np.concatenate([np.arange(part.first, part.first + len(part.tokens), dtype=np.int32)
                                    for _, part in parts])  # fmt: skip
        sequences = np.repeat(np.array([sequence for sequence, _ in parts], np.int32), sizes)
        addresses = sequences.ctypes.data + 4 * np.arange(total, dtype=np.uint64)  # of one sequence id for each token
        counts = np.ones(total, np.int32)
        wanted = np.zeros(total, np.int8)
        for end, (_, part) in zip(np.cumsum(sizes), parts, strict=True):
            wanted[end - part.yields : end] = 1
        batch = library().llama_batch(
            n_tokens=total, token=_at(tokens, ctypes.c_int32), pos=_at(positions, ctypes.c_int32),
            n_seq_id=_at(counts, ctypes.c_int32), seq_id=_at(addresses, ctypes.POINTER(ctypes.c_int32)),
            logits=_at(wanted, ctypes.c_int8),
        )  # fmt: skip
        return self._decode(batch, int(wanted.sum()))

    def _decode(self, batch: Any, rows: int) -> Floats:
        api = library()
        self.decodes += 1
        if batch.n_tokens > self.cells:  # llama.cpp would end the process
            raise MemoryError(f"a step of {batch.n_tokens} tokens does not fit into a cache of {self.cells}")
        code: int = api.llama_decode(self.pointer, batch)
        if code in NO_ROOM:
            raise MemoryError(f"llama_decode of {batch.n_tokens} tokens found no room ({code}): {last_error()}")
        if code != 0:
            why = "was aborted" if code == ABORTED else f"failed ({code}): {last_error()}"
            raise RuntimeError(f"llama_decode of {batch.n_tokens} tokens {why}")
        vocab = self.model.vocab_size
        if not rows:
            return np.empty((0, vocab), np.float32)
        logits: Floats = np.ctypeslib.as_array(api.llama_get_logits(self.pointer), (rows, vocab))
        return logits

    def take_out(self, sequence: int) -> State:
        """A copy of its KV; the sequence is empty then."""
        state = self.copy_of(sequence)
        self.remove(sequence)
        return state

    def copy_of(self, sequence: int) -> State:
        api = library()
        size: int = api.llama_state_seq_get_size(self.pointer, sequence)
        state = np.empty(size, np.uint8)
        if api.llama_state_seq_get_data(self.pointer, _at(state, ctypes.c_uint8), size, sequence) != size:
            raise RuntimeError(f"the KV of a sequence cannot be copied out: {last_error()}")
        return state

    def put_in(self, sequence: int, state: State) -> None:
        """state: what take_out() gave; the sequence is empty. MemoryError where the cache has no room."""
        if not library().llama_state_seq_set_data(self.pointer, _at(state, ctypes.c_uint8), state.nbytes, sequence):
            raise MemoryError(f"the KV of a sequence cannot be copied back: {last_error()}")

    def remove(self, sequence: int, first: int = 0) -> None:
        """Its tokens from position `first` on."""
        if not library().llama_memory_seq_rm(self._memory, sequence, first, -1):
            raise RuntimeError(f"the tokens of a sequence from {first} on cannot be removed: {last_error()}")

    def held(self, sequence: int) -> int:
        """Tokens of the sequence."""
        return int(library().llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def clear(self) -> None:
        library().llama_memory_clear(self._memory, False)

    def free(self) -> None:
        """Once; what is called afterwards is undefined."""
        self._free()


def _at(array: NDArray[Any], kind: Any) -> Any:
    """A C pointer to its numbers, which must outlive it."""
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
