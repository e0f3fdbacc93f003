"""Model: a GGUF file that llama.cpp has opened. Contexts of several engines may stand on it."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastserve.backends.llamacpp.library import last_error, library
from fastserve.backends.llamacpp.source import file_of
from fastserve.backends.llamacpp.tokenizer import LlamaTokenizer
from fastserve.engine.host_memory import cores
from fastserve.engine.model_info import clamp_length
from fastserve.models.folder import ModelNotFoundError
from fastserve.named_models import EMBEDDED, PACKAGED

CACHE_TYPES: Final = {"auto": 1, "float16": 1, "float32": 0, "bfloat16": 30}
"""dtype -> ggml's type of K and V in the cache. The weights' types are the file's."""

SAMPLING: Final = {
    "general.sampling.temp": "temperature", "general.sampling.top_k": "top_k", "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p", "general.sampling.penalty_repeat": "repetition_penalty",
}  # fmt: skip
"""Of a file's metadata -> of SamplingParams."""


REFUSED: Final = {
    "llama_model_has_encoder": "it has an encoder, and does not only go on with a text",
    "llama_model_is_diffusion": "it does not write token by token",
    "llama_model_is_recurrent": "it keeps one state a sequence instead of KV of each token",
    "llama_model_is_hybrid": "some of its layers keep one state a sequence instead of KV of each token",
}
"""What llama.cpp says of a model that this body does not do -> why, for people."""


class Adapter(NamedTuple):
    """A LoRA adapter. pointer: llama.cpp's; freed with the model."""

    file: Path
    scale: float
    pointer: Any


class Opened:
    """A file that is open as long as anyone refers to this. pointer: llama.cpp's."""

    def __init__(self, name: str, file: Path, gpu_layers: int) -> None:
        api = library()
        settings = api.llama_model_default_params()
        settings.n_gpu_layers = gpu_layers
        self.pointer = api.llama_model_load_from_file(str(file).encode(), settings)
        if not self.pointer:
            raise ModelNotFoundError(f"llama.cpp cannot read {name}: {last_error()}")
        weakref.finalize(self, api.llama_model_free, self.pointer)


class Model:
    """name: as asked for. See load_model()."""

    def __init__(self, name: str, file: Path, gpu_layers: int, threads: int | None, cache_type: str) -> None:
        api = library()
        self.opened = Opened(name, file, gpu_layers)
        self.pointer = pointer = self.opened.pointer
        self.name = name
        self.file = file
        self.gpu_layers = gpu_layers
        self.threads = threads or cores()
        self.cache_type = cache_type
        self.adapters: list[Adapter] = []
        for what, why in REFUSED.items():
            if getattr(api, what)(pointer):
                raise ModelNotFoundError(
                    f"{name} cannot be run here: {why}; --backend torch may have its transformers form"
                )
        self.vocab = api.llama_model_get_vocab(pointer)
        self.vocab_size: int = api.llama_vocab_n_tokens(self.vocab)
        template = api.llama_model_chat_template(pointer, None)
        self.tokenizer = LlamaTokenizer(self.opened, self.vocab, None if template is None else template.decode())
        self.own_length: int = api.llama_model_n_ctx_train(pointer)
        self.max_model_len = self.own_length
        self.eos_ids = frozenset([id for id in range(self.vocab_size) if api.llama_vocab_is_eog(self.vocab, id)])
        self.suppress = _suppressed(self.vocab)
        self.defaults = self._sampling()
        self.parameters: int = api.llama_model_n_params(pointer)
        self.bytes: int = api.llama_model_size(pointer)
        self.weights = self._described()

    def facts(self) -> dict[str, str]:
        """The metadata of the file, but for its lists."""
        api, found = library(), {}
        for at in range(api.llama_model_meta_count(self.pointer)):
            key = _text(lambda room, size, at=at: api.llama_model_meta_key_by_index(self.pointer, at, room, size))
            value = _text(lambda room, size, at=at: api.llama_model_meta_val_str_by_index(self.pointer, at, room, size))
            found[key] = value
        return found

    def add_adapter(self, given: str) -> None:
        """given: FILE or FILE:SCALE. ValueError for one that is not there or does not fit."""
        path, _, scale = given.rpartition(":")
        try:
            file, weight = (Path(path), float(scale)) if path else (Path(given), 1.0)
        except ValueError:
            file, weight = Path(given), 1.0
        file = file.expanduser()
        if not file.is_file():
            raise ValueError(f"lora={given!r}: there is no file {file}; give FILE.gguf or FILE.gguf:SCALE")
        pointer = library().llama_adapter_lora_init(self.pointer, str(file).encode())
        if not pointer:
            raise ValueError(f"lora={given!r} is no adapter of {self.name}: {last_error()}")
        self.adapters.append(Adapter(file, weight, pointer))

    def _sampling(self) -> dict[str, Any]:
        facts = self.facts()
        own = {name: float(facts[key]) for key, name in SAMPLING.items() if key in facts}
        if "top_k" in own:
            own["top_k"] = int(own["top_k"])
        return own | (PACKAGED[self.name].sampling if self.name in PACKAGED else {})

    def _described(self) -> str:
        """Types of the weights, as llama.cpp calls them: Q4_1, all F32."""
        api = library()
        text = _text(lambda room, size: api.llama_model_desc(self.pointer, room, size))
        return text.split(" ", 2)[-1].removeprefix("all ")


def load_model(
    model: str | Path = EMBEDDED,
    *,
    dtype: str = "auto",
    threads: int | None = None,
    gpu_layers: int = 0,
    max_model_len: int | None = None,
    lora: Sequence[str] = (),
) -> Model:
    """A model that is ready to run.

    model: a name in fastserve.named_models, a GGUF file, REPO:FILE of one on the Hugging Face hub. dtype: of the KV
    cache (auto: float16). gpu_layers: so many are put on a GPU, where llama-cpp-python was built for one. lora:
    adapters as FILE or FILE:SCALE, for all requests.

    ModelNotFoundError where there is nothing to load, ValueError for a setting out of range.
    """
    if dtype not in CACHE_TYPES:
        raise ValueError(f"dtype={dtype!r} of the KV cache is unknown: give {', '.join(CACHE_TYPES)}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads} must be at least 1")
    if gpu_layers < 0:
        raise ValueError(f"gpu_layers={gpu_layers} must be a number of layers; more than there are means all")
    library()  # what is not installed is told before anything is made or fetched
    name = str(model)
    found = Model(name, file_of(name), gpu_layers, threads, dtype)
    found.max_model_len = clamp_length(max_model_len, found.own_length)
    for given in [lora] if isinstance(lora, str) else lora:
        found.add_adapter(given)
    return found


def _suppressed(vocab: Any) -> tuple[int, ...]:
    count = ctypes.c_int32()
    found = library().llama_vocab_get_suppress_tokens(vocab, ctypes.byref(count))
    return tuple(found[: count.value]) if count.value else ()


def _text(call: Any) -> str:
    """What a function writes that takes a buffer and its size, and returns the length of the whole."""
    room = 256
    while True:
        buffer = ctypes.create_string_buffer(room)
        length: int = call(buffer, room)
        if length < room:
            return buffer.raw[: max(0, length)].decode(errors="replace")
        room = length + 1
