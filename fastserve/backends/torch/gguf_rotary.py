"""Rotary positions that a GGUF file changes, which transformers does not read from one."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

import numpy as np
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fastserve.backends.torch.verify import RefusedModelError

LLAMA3: Final = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every Llama from 3.1 on. A file holds only what follows from them and from the factor."""


def set_rotary(name: str, config: Any, reader: Any) -> None:
    """Puts the scaling of Llama 3.1 and its successors into the config. Raises RefusedModelError for any other."""
    fields = {key.partition(".")[2]: field for key, field in reader.fields.items()}
    kind = fields["rope.scaling.type"].contents() if "rope.scaling.type" in fields else "none"
    if kind != "none":
        raise RefusedModelError(
            name, f"its rotary positions are scaled ({kind}), which is not read from GGUF: give its safetensors"
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "rope_freqs.weight" not in tensors:
        return
    factors = np.asarray(tensors["rope_freqs.weight"].data, np.float32).ravel()
    scaled = deepcopy(config)
    scaled.rope_parameters = {
        "rope_theta": config.rope_parameters["rope_theta"], "rope_type": "llama3", "factor": float(factors.max()),
        **LLAMA3,
    }  # fmt: skip
    theta = scaled.rope_parameters["rope_theta"]
    plain = 1 / theta ** (torch.arange(len(factors), dtype=torch.float32) / len(factors))
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled, "cpu")
    if wanted.shape != plain.shape or not torch.allclose(plain / wanted, torch.from_numpy(factors), rtol=1e-3):
        raise RefusedModelError(
            name,
            "its rotary factors are not those of Llama 3.1, and no others are read from GGUF: give its safetensors",
        )
    config.rope_parameters = scaled.rope_parameters
