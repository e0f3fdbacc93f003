"""An adapter as PEFT writes it: a folder with adapter_config.json and adapter_model.safetensors.

What is said of fields is of PEFT's LoraConfig. Whatever would change the numbers and is not implemented is refused by
its name; nothing is left out in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST_CONFIG = 1 << 20
"""Bytes of a config: PEFT's are a kilobyte."""

MOST_NUMBER = 1e9
"""of a rank or alpha"""

MOST_PATTERNS = 2000
"""Of ranks or alphas: each is tried on each layer."""

PREFIX = "base_model.model."
TENSOR = re.compile(r"(.+)\.lora_(A|B)(?:\.default)?\.weight")

HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
})  # fmt: skip
"""Fields that bear on training or on how the weights began, and not on what they mean."""

KNOWN = frozenset({
    "alpha_pattern", "bias", "exclude_modules", "layers_pattern", "layers_to_transform", "lora_alpha", "peft_type", "r",
    "rank_pattern", "target_modules", "use_rslora",
})  # fmt: skip

WITHOUT = {
    "use_dora": "DoRA scales the columns of the base's weights; merge the adapter into its base",
    "modules_to_save": "whole layers of its own would be another copy of them; merge the adapter into its base",
    "trainable_token_indices": "embeddings of its own are not kept; merge the adapter into its base",
    "lora_bias": "biases of its own are not added; train it with lora_bias=False, or merge it into its base",
    "target_parameters": "parameters that are no linear layers (experts) are not adapted; merge it into its base",
}
"""Field -> why an adapter that has it cannot be served, and what to do."""

TRAINED_BIAS = "biases of its own are not added; train it with bias='none', or merge it into its base"


class AdapterError(ValueError):
    """Why an adapter cannot be loaded, and what to do."""


@dataclass(frozen=True)
class PeftAdapter:
    """factors: by the name of the layer in the model, down (rank, inner) and up (outer, rank), float32, scaled."""

    path: Path
    base: str
    """of which model it says that it is; may be empty"""
    rank: int
    """the largest of any layer"""
    factors: Mapping[str, tuple[Tensor, Tensor]]


def look(folder: Path) -> dict[str, Any]:
    """The config of an adapter that can be served as far as it says. Raises AdapterError."""
    config = _config(folder)
    _check(config, folder)
    return config


def read(folder: Path, layers: Mapping[str, tuple[int, int]], max_rank: int) -> PeftAdapter:
    """layers: what may be adapted, name -> (inner, outer). Raises AdapterError; the file's size is bounded by it."""
    config = look(folder)
    file = folder / WEIGHTS
    most = sum([max_rank * (inner + outer) * 4 for inner, outer in layers.values()]) + (1 << 20)
    if not file.is_file():
        other = " (adapter_model.bin may run code when it is read: save it again with safe_serialization=True)"
        raise AdapterError(f"{folder} has no {WEIGHTS}{other if (folder / 'adapter_model.bin').exists() else ''}")
    if (size := file.stat().st_size) > most:
        raise AdapterError(f"{file} has {size:,} bytes, more than adapters of rank {max_rank} of this model may have: "
                           f"is it one of this model? max_lora_rank={max_rank} bounds the rank")  # fmt: skip
    pairs = _pairs(file, layers)
    _complete(config, pairs, layers, file)
    factors, largest = {}, 0
    for name, (down, up) in pairs.items():
        rank = int(_of(config.get("rank_pattern"), name, config["r"]))
        inner, outer = layers[name]
        if tuple(down.shape) != (rank, inner) or tuple(up.shape) != (outer, rank):
            raise AdapterError(f"{file}: {name} has factors of {tuple(down.shape)} and {tuple(up.shape)}, and rank "
                               f"{rank} of a layer of {inner} to {outer} takes {(rank, inner)} and {(outer, rank)}: "
                               "it is of another model, or its config of another file")  # fmt: skip
        if rank > max_rank:
            raise AdapterError(f"{file}: {name} has rank {rank}, and max_lora_rank={max_rank} is the largest here")
        if not (down.isfinite().all() and up.isfinite().all()):
            raise AdapterError(f"{file}: {name} has weights that are not finite")
        alpha = float(_of(config.get("alpha_pattern"), name, config["lora_alpha"]))
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        factors[name] = down.float().contiguous(), (up.float() * scale).contiguous()
        largest = max(largest, rank)
    return PeftAdapter(folder, str(config.get("base_model_name_or_path") or ""), largest, factors)


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise AdapterError(f"there is no folder {folder}: give one with {CONFIG} and {WEIGHTS}, as PEFT writes it")
    file = folder / CONFIG
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_CONFIG + 1)
        config = json.loads(data) if len(data) <= MOST_CONFIG else None
    except FileNotFoundError:
        raise AdapterError(f"{folder} is no adapter: it has no {CONFIG}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{file} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{file} is no adapter's config: it is not a JSON object of moderate size")
    return config


def _check(config: dict[str, Any], folder: Path) -> None:
    """Fields and their types. Raises AdapterError for what would change the numbers and is not implemented."""
    file = folder / CONFIG
    if (kind := config.get("peft_type")) != "LORA":
        raise AdapterError(f"{file}: peft_type is {kind!r}, and only LORA is served")
    for name, why in WITHOUT.items():
        if config.get(name):
            raise AdapterError(f"{file}: {name} is set: {why}")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{file}: bias is {config['bias']!r}: {TRAINED_BIAS}")
    for name, value in config.items():
        if value and name not in HARMLESS and name not in KNOWN:
            raise AdapterError(f"{file}: {name} is set, and is not implemented here; merge the adapter into its base")
    numbers: dict[str, Any] = {"r": config.get("r"), "lora_alpha": config.get("lora_alpha")}
    for field in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(field) or {}
        if not isinstance(patterns, dict):
            raise AdapterError(f"{file}: {field} is no object of patterns and numbers")
        if len(patterns) > MOST_PATTERNS:
            raise AdapterError(f"{file}: {field} has {len(patterns):,} patterns: at most {MOST_PATTERNS:,} are read")
        numbers |= {f"{field}[{pattern!r}]": value for pattern, value in patterns.items()}
    for name, value in numbers.items():
        right = isinstance(value, int | float) and not isinstance(value, bool) and -MOST_NUMBER <= value <= MOST_NUMBER
        whole = name == "lora_alpha" or name.startswith("alpha") or (right and value == int(value) and value >= 1)
        if not (right and whole):
            raise AdapterError(f"{file}: {name} is {value!r}, and must be a number (a rank: a whole one from 1 on)")


def _pairs(file: Path, layers: Mapping[str, tuple[int, int]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Both factors of each layer that the file has."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (it is no mapping)
                match = TENSOR.fullmatch(key)
                name = match[1].removeprefix(PREFIX) if match else ""
                if match is None or name not in layers:
                    raise AdapterError(f"{file}: {key[:200]} {_strange(name, match, layers)}")
                found.setdefault(name, {})[match[2]] = opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{file} cannot be read: {error}") from None
    for name, parts in found.items():
        if len(parts) != 2:
            raise AdapterError(f"{file}: {name} has lora_{next(iter(parts))} alone, and both lora_A and lora_B belong "
                               "to it")  # fmt: skip
        if not all(it.is_floating_point() for it in parts.values()):
            raise AdapterError(f"{file}: {name} has weights that are no floating-point numbers")
    if not found:
        raise AdapterError(f"{file} has no weights")
    return {name: (parts["A"], parts["B"]) for name, parts in found.items()}


def _strange(name: str, match: re.Match[str] | None, layers: Mapping[str, tuple[int, int]]) -> str:
    """What to say of a tensor that belongs to no layer here."""
    if match is None:
        return "is no lora_A or lora_B of a linear layer; embeddings and whole layers of an adapter are not served"
    kinds = sorted({layer.rpartition(".")[2] for layer in layers})
    number = "of this number" if name.rpartition(".")[2] in kinds else "of that name"
    return ("is for a layer that this model does not have, or that cannot be adapted here: there is none "
            f"{number}; those that can are called {', '.join(kinds[:20])}")  # fmt: skip


def _complete(
    config: dict[str, Any], pairs: Mapping[str, Any], layers: Mapping[str, Any], file: Path
) -> None:  # fmt: skip
    """Raises AdapterError where target_modules names layers whose weights the file lacks."""
    for name in layers:
        if name not in pairs and _targeted(config, name, file):
            raise AdapterError(f"{file} has no weights for {name}, which target_modules names: it is not complete")


def _targeted(config: dict[str, Any], name: str, file: Path) -> bool:
    """Whether PEFT would adapt this layer. A config without target_modules leaves it to the weights."""
    try:
        if _matches(config.get("exclude_modules"), name):
            return False
        chosen, pattern = config.get("layers_to_transform"), config.get("layers_pattern")
        if not _matches(config.get("target_modules"), name):
            return False
        if chosen is None:
            return True
        patterns = [pattern] if isinstance(pattern, str) else pattern or [r"[^.]*"]
        if not all(map(simple, patterns)):
            return False
        numbers = [chosen] if isinstance(chosen, int) else chosen
        at = next((match[1] for one in patterns if (match := re.match(rf".*\.{one}\.(\d+)\.", name))), None)
        return at is not None and int(at) in numbers
    except (re.error, TypeError, RecursionError) as error:
        raise AdapterError(f"{file.parent / CONFIG}: target_modules or what narrows it is not understood: {error}") \
            from None  # fmt: skip


def _matches(wanted: Any, name: str) -> bool:
    """A text is a pattern of whole names, or all-linear; a list has names, or their ends. What is no simple pattern
    names nothing: then the weights alone say what is adapted.
    """
    if not wanted:
        return False
    if isinstance(wanted, str):
        return wanted == "all-linear" or (simple(wanted) and re.fullmatch(wanted, name) is not None)
    return any(name == one or name.endswith(f".{one}") for one in wanted)


def _of(patterns: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """The value of the first pattern that is the end of the name."""
    for pattern, value in (patterns or {}).items():
        if _end(pattern).match(name):
            return value
    return default


@lru_cache(2 * MOST_PATTERNS)
def _end(pattern: str) -> re.Pattern[str]:
    """Matches names that end so. Raises AdapterError."""
    if not simple(pattern):
        raise AdapterError(f"rank_pattern or alpha_pattern: {pattern[:200]!r} is too intricate to be tried safely: "
                           "name the layers, or their ends")  # fmt: skip
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        raise AdapterError(f"rank_pattern or alpha_pattern: {pattern[:200]!r} is no pattern: {error}") from None


def simple(pattern: str) -> bool:
    """Whether trying it takes moderate time whatever the name: it comes with a file. No group is repeated, and little
    else.
    """
    return len(pattern) <= 1000 and not re.search(r"\)[*+{]", pattern) and len(re.findall(r"[*+{]", pattern)) <= 4


def bytes_of(factors: Mapping[str, tuple[Tensor, Tensor]], dtype: torch.dtype = torch.float32) -> int:
    """Bytes of the factors in this type."""
    return sum([(down.numel() + up.numel()) * dtype.itemsize for down, up in factors.values()])
