"""The embedded model as a GGUF file, made once into the cache folder; its weights are the same numbers in float32."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastserve.cache_folder import cache_folder
from fastserve.engine.token_text import LETTERS
from fastserve.importing import needs
from fastserve.models import embedded, embedded_weights
from fastserve.models.folder import ModelNotFoundError
from fastserve.models.gguf_file import check_gguf
from fastserve.named_models import EMBEDDED

VERSION: Final = 1
"""To be raised with any change of what is written."""

NORMAL, CONTROL = 1, 3
"""Types of tokens in GGUF."""


def make_embedded_file(file: Path | None = None) -> Path:
    """The file, made now unless it is there; it appears whole, by one rename. OSError where it cannot be written."""
    if file is None:
        file = cache_folder() / "gguf" / f"embedded-{embedded.VERSION}-{VERSION}.gguf"
    try:
        if file.is_file():
            check_gguf(file, EMBEDDED)
            return file
    except ModelNotFoundError:  # cut short: it is made anew
        pass
    file.parent.mkdir(parents=True, exist_ok=True)
    made = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        _write(made)
        made.replace(file)
    finally:
        made.unlink(missing_ok=True)
    return file


def _write(file: Path) -> None:
    needs("llamacpp", "gguf", "engine")
    import gguf

    shape = embedded_weights
    it: Any = gguf.GGUFWriter(file, "llama")
    it.add_name(EMBEDDED)
    it.add_context_length(embedded.CONTEXT)
    it.add_embedding_length(shape.HIDDEN)
    it.add_block_count(shape.LAYERS)
    it.add_feed_forward_length(shape.INTERMEDIATE)
    it.add_head_count(shape.HEADS)
    it.add_head_count_kv(shape.KV_HEADS)
    it.add_layer_norm_rms_eps(1e-6)
    it.add_rope_freq_base(10_000.0)
    it.add_rope_dimension_count(shape.HEAD_DIM)
    it.add_vocab_size(shape.VOCAB)
    it.add_file_type(gguf.LlamaFileType.ALL_F32)
    names = [*sorted(LETTERS, key=LETTERS.__getitem__), *embedded.SPECIAL]
    it.add_tokenizer_model("gpt2")
    it.add_tokenizer_pre("default")
    it.add_token_list(names)
    it.add_token_types([NORMAL if id < embedded.BYTES else CONTROL for id in range(shape.VOCAB)])
    pad = embedded.special_id("<|pad|>")
    it.add_token_merges([f"{names[pad]} {names[pad]}"])  # the list may not be empty; this one never comes about
    it.add_bos_token_id(embedded.special_id("<|begin|>"))
    it.add_eos_token_id(shape.EOS)
    it.add_eot_token_id(embedded.special_id("<|end|>"))
    it.add_pad_token_id(pad)
    it.add_add_bos_token(False)
    it.add_chat_template(embedded.CHAT)
    it.add_array("tokenizer.ggml.suppress_tokens", list(embedded.suppressed()))
    places: Any = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, shape.LAYERS)
    heads = {"q_proj": shape.HEADS, "k_proj": shape.KV_HEADS}
    for name, weights in shape.weights().items():
        values = weights.astype(np.float32)
        if count := heads.get(name.split(".")[-2]):
            values = _interleaved(values, count)
        it.add_tensor(places.get_name(name, try_suffixes=(".weight",)), values)
    it.write_header_to_file()
    it.write_kv_data_to_file()
    it.write_tensors_to_file()
    it.close()


def _interleaved(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a projection as llama.cpp turns them: what transformers pairs across the halves of a head stands side by
    side.
    """
    rows, columns = weights.shape
    halves = weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2)
    return np.ascontiguousarray(halves.reshape(rows, columns))
