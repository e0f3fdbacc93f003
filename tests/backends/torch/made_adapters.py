"""Small adapters in PEFT's format: written by PEFT itself, or by hand where PEFT would not write such."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

SIZE = 0.1
"""Standard deviation of both factors: enough that every answer differs."""


def write_adapter(folder: Path, base: Path, seed: int = 0, size: float = SIZE, **settings: Any) -> Path:
    """Of the model in `base`, with random factors. settings: of LoraConfig."""
    save(adapted(base, seed, size, **settings), folder)
    return folder


def save(model: Any, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what PEFT itself calls
        model.save_pretrained(folder)


def adapted(base: Path, seed: int = 0, size: float = SIZE, **settings: Any) -> Any:
    """PEFT's own model."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    dice = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = size * torch.randn(weight.shape, generator=dice)
    return model.eval()


def changed(folder: Path, to: Path, config: dict[str, Any] | None = None, tensors: Any = None) -> Path:
    """A copy of an adapter with other fields in its config, and its tensors as `tensors` makes them."""
    to.mkdir()
    fields = json.loads((folder / "adapter_config.json").read_text()) | (config or {})
    (to / "adapter_config.json").write_text(json.dumps(fields))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(weights if tensors is None else tensors(weights), to / "adapter_model.safetensors")
    return to
