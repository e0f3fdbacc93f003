"""Stored profiles: measured Hardware by model, dtype, device and threads, found again at the next load."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

import torch

from fastserve.backends.torch.model import Model
from fastserve.backends.torch.native.build import cache_folder
from fastserve.hardware import Hardware, load_hardware


def profile_path(model: Model) -> Path:
    """Where the profile of this model is kept; the name holds a hash of all that its times depend on."""
    device = platform.processor() or platform.machine()
    if model.device.type == "cuda":
        device = torch.cuda.get_device_name(model.device)
    facts = {
        "config": model.config.to_diff_dict(),
        "dtype": str(model.dtype),
        "device": [model.device.type, device],
        "threads": torch.get_num_threads(),
        "native": model.native is not None,
    }
    for volatile in ("transformers_version", "_name_or_path"):
        facts["config"].pop(volatile, None)
    text = json.dumps(facts, sort_keys=True, default=str)
    return cache_folder() / "profiles" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def stored(model: Model) -> Hardware | None:
    """The profile that was stored for this model here; None if there is none. ValueError for a file that is broken."""
    path = profile_path(model)
    return load_hardware(path) if path.is_file() else None


def store(model: Model, hardware: Hardware) -> Path:
    """Keeps it for later loads. OSError where the cache folder cannot be written."""
    path = profile_path(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    hardware.save(draft)
    draft.replace(path)
    return path
