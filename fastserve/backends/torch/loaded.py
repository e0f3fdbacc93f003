"""Loaded: a model's parts as they come from a checkpoint, before anything is tried or replaced."""

from __future__ import annotations

from typing import Any, NamedTuple


class Loaded(NamedTuple):
    """module: a causal language model with its generation_config. tokenizer: None where it comes without one. length:
    tokens of the longest context, None where it does not say. known: the module is one of ours, tried in the tests, so
    that its family need not be tried at load.
    """

    module: Any
    tokenizer: Any
    length: int | None
    eos_ids: frozenset[int]
    known: bool = False
