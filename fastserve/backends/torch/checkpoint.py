"""Checkpoint: config, weights and tokenizer of a model, from a folder or the Hugging Face hub."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as bars

from fastserve.backends.torch.folder import ModelNotFoundError, folder_of
from fastserve.backends.torch.verify import RefusedModelError, first_line, refuse_by_config

LOG = logging.getLogger("fastserve")

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)


def find(name: str) -> str:
    """What transformers takes, a folder or an id. Raises ModelNotFoundError for a folder that holds no model."""
    if name == "embedded":
        from fastserve.backends.torch.embedded import make_embedded

        return str(make_embedded())
    folder = folder_of(name)
    return name if folder is None else str(folder)


def read_config(name: str, source: str, trust_remote_code: bool) -> Any:
    """Raises ModelNotFoundError, and RefusedModelError for what the config alone rules out."""
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise ModelNotFoundError(
            f"{name} is neither a folder here nor a model that can be fetched: {first_line(error)}"
        ) from error
    except (ValueError, KeyError) as error:
        raise ModelNotFoundError(f"The config.json of {name} cannot be used: {first_line(error)}") from error
    architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    refuse_by_config(name, config, architecture)
    if architecture is None and not (trust_remote_code and "AutoModelForCausalLM" in getattr(config, "auto_map", {})):
        raise RefusedModelError(name, f"transformers has no causal language model of the type {config.model_type}")
    return config


def read_weights(name: str, source: str, config: Any, dtype: torch.dtype, place: torch.device, trusted: bool) -> Any:
    """The model with its own weights. Raises ModelNotFoundError where some are missing."""
    try:
        with _progress_bars(Path(source).is_dir()):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, config=config, dtype=dtype, trust_remote_code=trusted, output_loading_info=True
            )
    except OSError as error:
        raise ModelNotFoundError(
            f"The weights of {name} cannot be read: {first_line(error)} load_format=dummy does without them."
        ) from error
    module, told = loaded
    missing = sorted(told["missing_keys"])
    if missing:
        raise ModelNotFoundError(f"The weights of {name} lack {len(missing)} tensors, {missing[0]} among them.")
    return module.to(place)


def draw_weights(source: str, config: Any, dtype: torch.dtype, place: torch.device, seed: int, trusted: bool) -> Any:
    """The model with weights drawn from `seed`, as its family initialises them."""
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.device(place):
        torch.manual_seed(seed)
        module: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trusted)
    try:
        module.generation_config = GenerationConfig.from_pretrained(source)
    except OSError:
        LOG.debug("%s has no generation_config.json", source)
    return module


def read_tokenizer(source: str, trusted: bool) -> Any:
    """None where the model comes without one: without these files transformers would make up an empty one."""
    folder = Path(source)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        LOG.info("%s has no tokenizer: prompts are token ids, and there is no text", source)
        return None
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trusted)
    except (OSError, ValueError, KeyError, ImportError) as error:
        LOG.warning(
            "the tokenizer of %s cannot be used, so prompts are token ids and there is no text: %s",
            source,
            first_line(error),
        )
        return None


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


@contextmanager
def _progress_bars(local: bool) -> Iterator[None]:
    """transformers' bars are shown where there is something to wait for, a download, and somebody to see it."""
    if not bars.is_progress_bar_enabled() or (not local and sys.stderr.isatty()):
        yield
        return
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()
