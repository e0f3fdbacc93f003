"""The context of a model by its name, for machines whose file does not say it: presets and rooflines."""

from __future__ import annotations

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


def context_of(model: str) -> int | None:
    """Tokens of prompt and output together; None for a name that is not known. Hardware.context asks it."""
    return next((tokens for begin, tokens in CONTEXTS.items() if model.startswith(begin)), None)
