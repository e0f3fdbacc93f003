"""Of a GGUF file, once, a folder as transformers reads it: dequantised weights as safetensors, config, tokenizer.

The folder is in the cache and named by the file's name, size and time and by the type of the weights, so that a file
that has changed is read anew. Config, tokenizer and what becomes of each tensor are transformers' own; only that it
would hold all tensors at once, and leaves out those that it has no place for, is done otherwise here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from fastserve.backends.torch.gguf_config import complete_config
from fastserve.backends.torch.quiet import quiet
from fastserve.backends.torch.verify import RefusedModelError, one_line, refuse_by_config
from fastserve.cache_folder import cache_folder
from fastserve.engine.host_memory import GIB
from fastserve.importing import extra
from fastserve.models.folder import (
    CONFIG,
    SAFETENSORS,
    ModelNotFoundError,
    check_config,
    check_tokenizer,
    check_weights,
)
from fastserve.models.made_folder import make_folder

LOG = logging.getLogger("fastserve")

VERSION: Final = 1
"""To be raised with any change of what is written."""

SOURCE: Final = "source.json"
"""What a folder was made of; written last."""

SHARD: Final = GIB
"""Bytes of weights that are held before they are written; a larger tensor is a file of its own."""

AT_ONCE: Final = 1 << 24
"""Values that are dequantised at once."""

STALE_S: Final = 24 * 3600
"""Age after which a draft is what a process left that was killed."""


def folder_of(
    file: Path, name: str, dtype: torch.dtype, sampling: dict[str, float], check: Callable[[Any], None]
) -> Path:
    """The folder with the model of a GGUF file, its weights in `dtype`, made now unless it is there and whole.

    name: of the model, for messages. sampling: for generation_config.json. check: raises for a config whose model
    cannot be held. Raises ModelNotFoundError for a file that cannot be used, RefusedModelError for a model that would
    not be computed exactly, OSError where there is no room for it on the disk.
    """
    state = file.stat()
    type_name = str(dtype).removeprefix("torch.")
    made_of = {
        "file": file.name, "bytes": state.st_size, "time_ns": state.st_mtime_ns, "dtype": type_name,
        "sampling": sampling, "version": VERSION,
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
    home = cache_folder() / "gguf" / f"{file.stem}-{type_name}-{key}"
    if _whole(home):
        return home
    source = {**made_of, "path": str(file.absolute())}
    make_folder(home, lambda folder: _write(folder, file, name, dtype, source, check), _whole)
    _tidy(home, source)
    return home


def _whole(folder: Path) -> bool:
    """All is there, and no file was cut short."""
    try:
        check_config(folder, folder.name)
        check_weights(folder, folder.name)
        check_tokenizer(folder, folder.name)
    except ModelNotFoundError:
        return False
    return (folder / SOURCE).is_file()


def _tidy(home: Path, source: dict[str, Any]) -> None:
    """Removes what was made of the same file before it changed, and what killed processes have left."""
    for other in home.parent.iterdir():
        with suppress(OSError, ValueError):
            if other.name.startswith("."):
                stale = time.time() - other.stat().st_mtime > STALE_S
            else:
                told = json.loads((other / SOURCE).read_bytes())
                stale = other != home and all(told.get(key) == source[key] for key in ("path", "dtype"))
            if stale:
                shutil.rmtree(other, ignore_errors=True)


def _write(
    folder: Path, file: Path, name: str, dtype: torch.dtype, source: dict[str, Any], check: Callable[[Any], None]
) -> None:
    reader = _reader(file, name)
    folder.mkdir()
    home, alone = _alone(folder.parent, file)
    config = _config(home, alone, name)
    complete_config(name, config, reader)
    architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    refuse_by_config(name, config, architecture)
    if architecture is None:
        raise RefusedModelError(name, f"transformers has no causal language model of the type {config.model_type}")
    check(config)
    values = sum([int(tensor.n_elements) for tensor in reader.tensors])
    _check_room(folder, name, values * dtype.itemsize)
    size = values * dtype.itemsize / GIB
    LOG.warning("dequantising %s, once: %.1f GiB into %s", file.name, size, folder.parent.parent)
    shards = Shards(folder)
    for tensor, weights in _weights(name, config, reader):
        shards.add(tensor, weights.to(dtype))
    shards.close()
    if "tokenizer.ggml.tokens" in reader.fields:
        _tokenizer(home, alone, name).save_pretrained(folder)
    stated = {key: value for key, value in config.to_diff_dict().items() if not key.startswith("_")}
    stated |= {"architectures": [architecture.__name__], "dtype": source["dtype"]}
    _dump(folder / CONFIG, stated)
    if source["sampling"]:
        _dump(folder / "generation_config.json", source["sampling"])
    _dump(folder / SOURCE, source)


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _reader(file: Path, name: str) -> Any:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise ModelNotFoundError(f"{name} is GGUF, and {error.name} is not installed: {extra('engine')}.") from error
    try:
        return GGUFReader(file)
    except Exception as error:
        raise _unreadable(name, file, error) from error


def _unreadable(name: str, file: Path, error: Exception) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"The file {file.name} of {name} is cut short or damaged ({one_line(error)}); fetch it again."
    )


def _alone(folder: Path, file: Path) -> tuple[Path, str]:
    """The file in a folder where nothing else is for transformers to find; where it lies if links cannot be made."""
    link = folder / "alone" / "model.gguf"
    try:
        link.parent.mkdir()
        link.symlink_to(file.absolute())
    except OSError:
        return file.parent, file.name
    return link.parent, link.name


def _config(folder: Path, file: str, name: str) -> Any:
    try:
        with quiet(True):
            return AutoConfig.from_pretrained(folder, gguf_file=file)
    except Exception as error:
        raise ModelNotFoundError(f"The GGUF file of {name} cannot be used: {one_line(error)}") from error


def _tokenizer(folder: Path, file: str, name: str) -> Any:
    try:
        with quiet(True):
            return AutoTokenizer.from_pretrained(folder, gguf_file=file)
    except Exception as error:
        raise ModelNotFoundError(f"The tokenizer of {name} cannot be read from GGUF: {one_line(error)}") from error


def _check_room(folder: Path, name: str, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise OSError(
            f"The weights of {name} take {wanted / GIB:,.1f} GiB as safetensors, and {free / GIB:,.1f} GiB are free at "
            f"{folder.parent.parent}: make room there, or name another folder in FASTSERVE_CACHE."
        )


def _weights(name: str, config: Any, reader: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """transformers' name of each tensor, and its values in float32; one tensor at a time.

    Raises ModelNotFoundError where tensors are missing, RefusedModelError where some have no place in the model.
    """
    from transformers import modeling_gguf_pytorch_utils

    theirs: Any = modeling_gguf_pytorch_utils
    architecture = str(reader.fields["general.architecture"].contents())
    processor = theirs.TENSOR_PROCESSORS.get(architecture, theirs.TensorProcessor)(config=config.to_dict())
    try:
        with quiet(True), torch.device("meta"):
            module: Any = AutoModelForCausalLM.from_config(config)
            places: dict[str, str] = theirs.get_gguf_hf_weights_map(Flat(module), processor)
            if any(tensor.name not in places and _stem(tensor.name) not in places for tensor in reader.tensors):
                places = theirs.get_gguf_hf_weights_map(module, processor)
    except Exception as error:
        raise ModelNotFoundError(f"The GGUF file of {name} cannot be used: {one_line(error)}") from error
    tied = set(module.all_tied_weights_keys or ()) if config.tie_word_embeddings else set()
    there = {tensor.name for tensor in reader.tensors} | {_stem(tensor.name) for tensor in reader.tensors}
    parts = Counter(place for tensor, place in places.items() if tensor in there)
    missing = sorted({place for place in places.values() if place not in parts} - tied)
    if missing:
        raise ModelNotFoundError(f"The weights of {name} lack {len(missing)} tensors, {missing[0]} among them.")
    joined: dict[str, torch.Tensor] = {}  # what is made of several tensors, until all of them were seen
    for tensor in reader.tensors:
        try:
            values = dequantised(tensor)
        except Exception as error:
            kind = getattr(tensor.tensor_type, "name", tensor.tensor_type)
            why = f"{tensor.name}, of type {kind}, cannot be dequantised: {one_line(error)}"
            raise ModelNotFoundError(f"The weights of {name} cannot be read: {why}") from error
        done = processor.process(
            weights=values, name=tensor.name, tensor_key_mapping=places, parsed_parameters={"tensors": joined}
        )
        place = places.get(tensor.name) or places.get(_stem(tensor.name), "")
        if done.name in places:
            yield places[done.name], torch.from_numpy(np.ascontiguousarray(done.weights))
        elif done.name is not None and tensor.name not in LEFT_OUT:
            raise RefusedModelError(name, f"its tensor {tensor.name} has no place in transformers' {config.model_type}")
        elif done.name is None and place in joined and not (parts.subtract([place]) or parts[place]):
            yield place, joined.pop(place)
    yield from joined.items()


def _stem(tensor: str) -> str:
    """As transformers calls experts, which are no layers of their own."""
    return tensor.removesuffix(".weight")


class Flat:
    """A model as get_gguf_hf_weights_map() looks at it, without the layers in it.

    For each of those it would make all its tables again, and few families have names that are found only so.
    """

    def __init__(self, module: Any) -> None:
        self.config = module.config
        self.state_dict = module.state_dict

    def named_children(self) -> list[tuple[str, Any]]:
        return []


LEFT_OUT: Final = ("rope_freqs.weight",)
"""Tensors that stand in the config; see gguf_config."""


def dequantised(tensor: Any) -> NDArray[np.float32]:
    """The values of a tensor of gguf's reader, some rows at a time: what that takes is twenty times a quantised row."""
    from gguf import dequantize

    data = tensor.data
    shape = tuple(int(size) for size in reversed(tensor.shape))
    if data.ndim < 2:
        return np.array(dequantize(data, tensor.tensor_type), np.float32).reshape(shape)  # writable
    rows = data.reshape(-1, data.shape[-1])
    made = np.empty((len(rows), shape[-1]), np.float32)
    step = max(1, AT_ONCE // shape[-1])
    for at in range(0, len(rows), step):
        made[at : at + step] = dequantize(rows[at : at + step], tensor.tensor_type)
    return made.reshape(shape)


class Shards:
    """Weights into files of SHARD bytes, with the index that transformers reads; a single file where one will do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, torch.Tensor] = {}
        self.places: dict[str, str] = {}
        self.bytes = 0  # of those held
        self.files = 0

    def add(self, name: str, weights: torch.Tensor) -> None:
        if self.held and self.bytes + weights.nbytes > SHARD:
            self._flush()
        self.held[name] = weights.contiguous()
        self.bytes += weights.nbytes

    def _flush(self) -> None:
        self.files += 1
        file = f"model-{self.files:05}.safetensors"
        save_file(self.held, self.folder / file, {"format": "pt"})
        self.places |= dict.fromkeys(self.held, file)
        self.held.clear()
        self.bytes = 0

    def close(self) -> None:
        self._flush()
        if self.files == 1:
            (self.folder / "model-00001.safetensors").rename(self.folder / SAFETENSORS)
        else:
            _dump(self.folder / f"{SAFETENSORS}.index.json", {"metadata": {}, "weight_map": self.places})
