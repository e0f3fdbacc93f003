"""What a model says of its answers: how they are drawn by default, and the tokens that end one.

Those are all that tokenizer, generation_config.json, config.json and chat template name.

A fine-tune often changes one of them and leaves the others as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

_ANSWER = "the-answer-itself"


def end_tokens(
    stated: Mapping[str, Any], config: Any, generation: Any, tokenizer: Any, vocabulary: int
) -> frozenset[int]:  # fmt: skip
    """Ids below `vocabulary`. stated: config.json as it is written; what a family of models has by default in `config`
    counts only where nobody says anything. generation: of generation_config.json, None without one.
    """
    found = set(ids(getattr(generation, "eos_token_id", None)))
    for table in (stated, *(it for it in stated.values() if isinstance(it, Mapping))):  # text_config and the like
        found.update(ids(table.get("eos_token_id")))
    found.update(ids(getattr(tokenizer, "eos_token_id", None)))
    found.update(ids(_end_of_turn(tokenizer)))
    if not found:
        found.update(ids(getattr(config, "eos_token_id", None)))
    return frozenset(id for id in found if 0 <= id < vocabulary)


def _end_of_turn(tokenizer: Any) -> int | None:
    """The special token with which the chat template closes an answer, such as <|eot_id|> or <|im_end|>."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # a template may refuse any conversation
        return None
    rest = text.rpartition(_ANSWER)[2].lstrip()
    special = {it.content: id for id, it in tokenizer.added_tokens_decoder.items() if it.special}
    ends = [token for token in special if token and rest.startswith(token)]
    return special[max(ends, key=len)] if ends else None


def ids(given: Any) -> tuple[int, ...]:
    """One id or several, as configs have them. ValueError for anything else."""
    found = () if given is None else (given,) if isinstance(given, int) else given
    if not isinstance(found, list | tuple) or not all(isinstance(id, int) for id in found):
        raise ValueError(f"a config of the model has {given!r} where ids of tokens belong")
    return tuple(found)


def sampling_defaults(generation: Any) -> dict[str, Any]:
    """What requests have that do not say otherwise, of a generation_config."""
    return {name: value for name in SAMPLING if (value := getattr(generation, name, None)) is not None}
