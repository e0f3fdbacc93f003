"""Checkpoint: config, weights and tokenizer of a model, from a folder or the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from fastserve.backends.torch.attention_interface import register
from fastserve.backends.torch.end_tokens import end_tokens, sampling_defaults
from fastserve.backends.torch.loaded import Loaded
from fastserve.backends.torch.memory import free_device_memory, ran_out
from fastserve.backends.torch.quiet import quiet
from fastserve.backends.torch.verify import RefusedModelError, one_line, refuse_by_config
from fastserve.engine.host_memory import GIB, free_host_memory
from fastserve.engine.params import SamplingParams
from fastserve.importing import extra
from fastserve.models.folder import (
    WITHOUT,
    ModelNotFoundError,
    check_tokenizer,
    check_weights,
    find_folder,
    tokenizer_fault,
)
from fastserve.models.gguf_file import HubFile, fetch, find_gguf
from fastserve.named_models import EMBEDDED, PACKAGED

__all__ = ["ModelNotFoundError"]

LOG = logging.getLogger("fastserve")

DEQUANTISED = frozenset({"mxfp4"})
"""Ways to quantise that transformers undoes while it loads."""

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
"""In the name of a tensor: which layer it belongs to."""

SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size", "max_position_embeddings")


def load(name: str, dtype: torch.dtype, place: torch.device, seed: int | None, trusted: bool) -> Loaded:
    """The model. seed: its weights are drawn from it; None: they are read. Raises what load_model() does."""
    source = find(name, dtype, place)
    config = read_config(name, source, trusted)
    check_size(name, config, dtype, place)
    generation = read_generation(name, source)
    tokenizer = read_tokenizer(name, source, trusted)  # before the weights, which take long
    if seed is None:
        module = read_weights(name, source, config, dtype, place, trusted)
    else:
        module = draw_weights(name, config, dtype, place, seed, trusted)
    if generation is not None:
        module.generation_config = generation
    ends = read_ends(source, config, generation, tokenizer, module.get_output_embeddings().weight.shape[0])
    return Loaded(module, tokenizer, own_length(config), ends)


def find(name: str, dtype: torch.dtype, place: torch.device) -> str:
    """What transformers takes, a folder or an id; of a GGUF file the folder of its weights in `dtype`.

    Raises ModelNotFoundError for a folder or file that holds no model, and what a GGUF file is refused with.
    """
    if name == EMBEDDED:
        from fastserve.models.embedded import make_embedded

        return str(make_embedded())
    file = find_gguf(name)
    if file is not None:
        from fastserve.backends.torch.gguf_folder import folder_of

        path = fetch(file, name) if isinstance(file, HubFile) else file
        sampling = PACKAGED[name].sampling if name in PACKAGED else {}
        return str(folder_of(path, name, dtype, sampling, lambda config: check_size(name, config, dtype, place)))
    folder = find_folder(name)
    return name if folder is None else str(folder)


def read_config(name: str, source: str, trust_remote_code: bool) -> Any:
    """Raises ModelNotFoundError, and RefusedModelError for what the config alone rules out."""
    try:
        with quiet(Path(source).is_dir()):
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ModelNotFoundError(
            f"{name} is neither a folder here nor a model that can be fetched: {one_line(error)}"
        ) from error
    except Exception as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            why = "it has code of its own, which trust_remote_code runs; read it first"
            raise ModelNotFoundError(f"The model {name} cannot be loaded: {why}.") from error
        raise ModelNotFoundError(f"The config.json of {name} cannot be used: {one_line(error)}") from error
    text = config.get_text_config(decoder=True)
    for size in SIZES:
        value = getattr(text, size, None)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ModelNotFoundError(f"The config.json of {name} cannot be used: {size} is {value!r}.")
    architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    refuse_by_config(name, config, architecture)
    if architecture is None and not (trust_remote_code and "AutoModelForCausalLM" in getattr(config, "auto_map", {})):
        raise RefusedModelError(name, f"transformers has no causal language model of the type {config.model_type}")
    return config


def check_size(name: str, config: Any, dtype: torch.dtype, place: torch.device) -> None:
    """Before anything is read. Raises ModelNotFoundError for a config of which no model can be made, MemoryError for a
    model that is larger than the memory there is.
    """
    architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if architecture is None:  # code of its own
        return
    try:
        with quiet(True), torch.device("meta"):  # takes no memory
            size = sum([weight.numel() for weight in architecture(config).parameters()]) * dtype.itemsize
    except Exception as error:
        raise ModelNotFoundError(f"The config.json of {name} cannot be used: {one_line(error)}") from error
    free = free_device_memory(place) if place.type == "cuda" else free_host_memory()
    if size > free:
        raise MemoryError(
            f"The weights of {name} take {size / GIB:,.1f} GiB in {str(dtype).removeprefix('torch.')}, and "
            f"{free / GIB:,.1f} GiB are free."
        )


def read_weights(name: str, source: str, config: Any, dtype: torch.dtype, place: torch.device, trusted: bool) -> Any:
    """The model with its own weights. Raises ModelNotFoundError where some are missing or do not fit, MemoryError."""
    _refuse_quantised(name, config)
    folder = Path(source)
    file = check_weights(folder, name) if folder.is_dir() else "the hub's file"
    if (folder / "adapter_config.json").is_file():
        LOG.warning("%s holds an adapter beside the model: the model is served without it", name)
    try:
        with quiet(folder.is_dir()):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=dtype, trust_remote_code=trusted, output_loading_info=True,
                ignore_mismatched_sizes=True,
            )  # fmt: skip
        module, told = loaded
        _check_told(f"{name} ({file})", told, config.get_text_config(decoder=True).num_hidden_layers)
        return module.to(place)
    except ModelNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        raise ModelNotFoundError(
            f"The weights of {name} cannot be read: {file} is a pickle with more in it than weights, which could run "
            "code. Convert it to safetensors where you trust it."
        ) from error
    except Exception as error:
        if ran_out(error):
            raise MemoryError(f"the weights do not fit into memory as {dtype}: {one_line(error)}") from error
        raise ModelNotFoundError(
            f"The weights of {name} ({file}) cannot be read: {one_line(error).rstrip('.')}. {WITHOUT}"
        ) from error


def _refuse_quantised(name: str, config: Any) -> None:
    given = getattr(config, "quantization_config", None)
    if given is None:
        return
    table = given if isinstance(given, dict) else given.to_dict()
    method = str(getattr(table.get("quant_method"), "value", table.get("quant_method", "quantization_config")))
    if method not in DEQUANTISED:
        raise RefusedModelError(
            name,
            f"its weights are quantised ({method}), which is not implemented: give the model that they were made of, "
            "in float32, bfloat16 or float16",
        )


def _check_told(name: str, told: Any, layers: int) -> None:
    """What transformers says of the weights that it has read. name: with their file. layers: of the config."""
    wrong = sorted(told["mismatched_keys"])
    if wrong:
        tensor, there, wanted = wrong[0]
        raise ModelNotFoundError(
            f"The weights of {name} are of another model than its config.json: {tensor} is {_shape(there)}, and the "
            f"config makes it {_shape(wanted)} ({len(wrong)} tensors differ)."
        )
    missing = sorted(told["missing_keys"])
    if missing:
        raise ModelNotFoundError(f"The weights of {name} lack {len(missing)} tensors, {missing[0]} among them.")
    left = sorted(told["unexpected_keys"])
    deepest = max((int(it[1]) for key in left if (it := LAYER.search(key))), default=-1)
    if deepest >= layers:
        raise ModelNotFoundError(
            f"The weights of {name} are of another model than its config.json: they have a layer {deepest}, counted "
            f"from 0, and the config has {layers} layers."
        )
    if left:
        LOG.warning(
            "%s: %d tensors of its weights are in no layer of its config, %s among them", name, len(left), left[0]
        )


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape))


def draw_weights(
    name: str, config: Any, dtype: torch.dtype, place: torch.device, seed: int, trusted: bool
) -> Any:  # fmt: skip
    """The model with weights drawn from `seed`, as its family initialises them."""
    devices = [place] if place.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.device(place):
            torch.manual_seed(seed)
            module: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trusted)
    except Exception as error:
        if ran_out(error):
            raise MemoryError(f"the weights do not fit into memory as {dtype}: {one_line(error)}") from error
        raise ModelNotFoundError(f"The config.json of {name} cannot be used: {one_line(error)}") from error
    return module


def read_generation(name: str, source: str) -> Any:
    """Of generation_config.json; None without one. Raises ModelNotFoundError."""
    try:
        with quiet(Path(source).is_dir()):
            found = GenerationConfig.from_pretrained(source)
        SamplingParams(**sampling_defaults(found))
        return found
    except OSError:
        LOG.debug("%s has no generation_config.json", source)
        return None
    except Exception as error:
        raise ModelNotFoundError(f"The generation_config.json of {name} cannot be used: {one_line(error)}") from error


def read_ends(source: str, config: Any, generation: Any, tokenizer: Any, vocabulary: int) -> frozenset[int]:
    """The tokens that end an answer."""
    stated, _ = PreTrainedConfig.get_config_dict(source)
    text = config.get_text_config(decoder=True)
    if tokenizer is not None and len(tokenizer) > vocabulary:
        what = "the tokenizer of %s has %d tokens, the model %d: texts with the others are refused"
        LOG.warning(what, source, len(tokenizer), vocabulary)
    try:
        return end_tokens(stated, text, generation, tokenizer, vocabulary)
    except ValueError as error:
        raise ModelNotFoundError(f"The model {source} does not say how an answer ends: {error}.") from error


def read_tokenizer(name: str, source: str, trusted: bool) -> Any:
    """None where the model comes without one: without its files transformers would make up an empty one.

    Raises ModelNotFoundError for one that is there and cannot be read.
    """
    folder = Path(source)
    if folder.is_dir() and not check_tokenizer(folder, name):
        LOG.info("%s has no tokenizer: prompts are token ids, and there is no text", source)
        return None
    lacking = [it for it in ("sentencepiece", "google.protobuf") if not _installed(it)]
    if lacking and folder.is_dir() and not (folder / "tokenizer.json").is_file() and any(folder.glob("*.model")):
        raise ModelNotFoundError(
            f"The tokenizer of {name} is a SentencePiece model, and {' and '.join(lacking)} cannot be imported: "
            f"{extra('engine')}."
        )
    try:
        with quiet(folder.is_dir()):
            return AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)
    except Exception as error:
        if isinstance(error, OSError) and not folder.is_dir():
            LOG.warning("%s has no tokenizer, so prompts are token ids and there is no text: %s", name, one_line(error))
            return None
        tokenizer_fault(folder, name)
        raise ModelNotFoundError(
            f"The tokenizer of {name} cannot be read: {one_line(error).rstrip('.')}. Without its files the model is "
            "served by token ids."
        ) from error


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def own_length(config: Any) -> int | None:
    """Tokens of the longest context that the model can hold exactly; None where its config does not say."""
    text = config.get_text_config(decoder=True)
    own: int | None = getattr(text, "max_position_embeddings", None)
    ropes = getattr(text, "rope_parameters", None) or {}
    for rope in (ropes, *(it for it in ropes.values() if isinstance(it, dict))):
        if rope.get("rope_type") != "longrope":
            continue
        # Beyond this length transformers turns all positions of a row by the factors of the row's longest sequence.
        until: int = rope["original_max_position_embeddings"]
        if own is None or until < own:
            LOG.info("contexts end at %d tokens, not %s: then rotary factors would depend on the batch", until, own)
            own = until
    return own


register()
