"""The context of a machine's model, as the machine's file says it or as its name tells the model."""

from __future__ import annotations

from fastserve.hardware.catalogue import PREFIX
from fastserve.hardware.hardware import load_hardware

CONTEXTS = {
    "opt-": 2_048,
    "llama-2-": 4_096,
    "llama-3-": 8_192,
    "llama-3.2-": 131_072,
    "mistral-7b": 32_768,
    "qwen2.5-": 32_768,
    "smollm2-": 8_192,
}
"""How a model's name begins -> tokens: `max_position_embeddings` of the models' own config.json."""


def context_of(machine: str) -> int | None:
    """Tokens of prompt and output together, of a preset, a file or roofline:MODEL/DEVICE; None where it is not known.

    Raises FileNotFoundError or ValueError as load_hardware() does.
    """
    measured = load_hardware(machine).context
    if measured is not None:
        return measured
    model = machine.removeprefix(PREFIX)
    return next((tokens for begin, tokens in CONTEXTS.items() if model.startswith(begin)), None)
