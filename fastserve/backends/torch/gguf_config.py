"""What a GGUF file says of its model beyond what transformers makes a config of."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

import numpy as np
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fastserve.backends.torch.verify import RefusedModelError

LLAMA3: Final = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every Llama from 3.1 on. A file holds only what follows from them and from the factor."""


SIZES: Final = {"attention.key_length": "head_dim", "expert_feed_forward_length": "moe_intermediate_size"}
"""Of a GGUF file -> of the config. Where transformers leaves them out, they are those of one size of the family."""


def complete_config(name: str, config: Any, reader: Any) -> None:
    """Adds what transformers has left out. Raises RefusedModelError for what it cannot express here.

    Rotary positions: those of Llama 3.1 and its successors, and no other scaled ones.
    """
    fields = {key.partition(".")[2]: field for key, field in reader.fields.items()}
    for size, attribute in SIZES.items():
        if size in fields and hasattr(config, attribute):
            setattr(config, attribute, int(fields[size].contents()))
    kind = fields["rope.scaling.type"].contents() if "rope.scaling.type" in fields else "none"
    if kind != "none":
        raise RefusedModelError(
            name, f"its rotary positions are scaled ({kind}), which is not read from GGUF: give its safetensors"
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "rope_freqs.weight" not in tensors:
        return
    factors = np.array(tensors["rope_freqs.weight"].data, np.float32).ravel()
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
