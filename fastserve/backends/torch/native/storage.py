"""In which type a weight of float32 is stored: in half the bytes, where that takes nothing away.

A step of few rows lasts as long as its weights take to read; products compute in float32 whatever the type is.
"""

import torch
from torch import Tensor, nn

CONV1D = ("transformers.pytorch_utils", "Conv1D")
"""A linear layer with its weight turned, of GPT-2; by name, so that transformers is not imported for it."""

HALF = (torch.bfloat16, torch.float16)


def storage(weight: Tensor, float16: bool) -> torch.dtype:
    """The type in which every number of the weight stays what it is: a half type where there is one, else float32.

    float16: whether the processor widens that by itself; without it, it is stored in float32.
    """
    for half in HALF[: 1 + float16]:
        if weight.dtype is half or (weight.dtype is torch.float32 and torch.equal(weight.to(half).float(), weight)):
            return half
    return torch.float32


def is_conv1d(layer: nn.Module) -> bool:
    return (type(layer).__module__, type(layer).__name__) == CONV1D


@torch.no_grad()
def round_weights(model: nn.Module, float16: bool) -> int:
    """Rounds the float32 weights of linear layers, in place, to the half type that is nearer: it can then store them.

    What is too large for float16 goes to bfloat16. Nothing else of the model changes, tied embeddings excepted. Returns
    how many layers changed. float16: as for storage().
    """
    changed = 0
    for layer in model.modules():
        if not (type(layer) is nn.Linear or is_conv1d(layer)):
            continue
        weight = layer.weight
        assert isinstance(weight, Tensor)
        if storage(weight, float16) is not torch.float32:
            continue
        rounded = [weight.to(half).float() for half in HALF[: 1 + float16]]
        errors = [(it - weight).square().sum().nan_to_num(torch.inf, torch.inf) for it in rounded]
        weight.copy_(rounded[int(torch.stack(errors).argmin())])
        changed += 1
    return changed
