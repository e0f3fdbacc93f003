"""Which requests may be answered from a cache, and which of them are the same one.

Deterministic are those that are greedy (temperature 0, do_sample false) or name a seed, with one choice: whoever sends
a seed asks for the same answer again, whether or not its server would keep to that. A server's own default temperature
is not known here, so a request that names neither is not one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

VERSION = 1
"""Of the form of keys and entries: another one finds nothing that was kept before."""

FAMILIES: dict[str, str] = {
    "/v1/chat/completions": "chat",
    "/chat/completions": "chat",
    "/v1/completions": "completions",
    "/completions": "completions",
    "/generate": "native",
    "/generate/stream": "native",
    "/chat": "native chat",
}
"""Path -> what is asked for; others are never kept."""

SAME: dict[str, str] = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop_sequences": "stop",
    "model_name": "model",
}
"""Other name of a field -> the name under which it is compared."""

ASIDE = frozenset(
    ("model", "user", "stream", "priority", "guess", "deadline_s", "ttft_slo_s", "tpot_slo_s", "program", "program_id",
     "tool", "final", "prompt_cache_key", "safety_identifier", "store", "service_tier")
)  # fmt: skip
"""Fields that change no answer: who asks, how urgent it is, how it is delivered. What is not known is compared."""

DEFAULTS: dict[str, Any] = {
    "n": 1, "best_of": 1, "presence_penalty": 0, "frequency_penalty": 0, "logprobs": False, "top_logprobs": 0,
    "echo": False, "ignore_eos": False, "min_tokens": 0, "stop": [], "do_sample": True, "return_token_ids": False,
    "logit_bias": {}, "tools": [], "parallel_tool_calls": True,
}  # fmt: skip
"""What these fields mean where they are left out."""

SAMPLING = ("seed", "top_p", "top_k", "min_p", "temperature", "do_sample")
"""Fields that change nothing where the likeliest token is taken."""


class Asked(NamedTuple):
    """A request in a form in which equal ones are equal. fields: see canonical()."""

    family: str
    stream: bool
    fields: dict[str, Any]


def asked(path: str, fields: Mapping[str, Any] | None) -> Asked | None:
    """None for a request whose answer is not kept."""
    family = FAMILIES.get(path)
    if family is None or fields is None:
        return None
    given: dict[str, Any] = {}
    for name, value in fields.items():
        same = SAME.get(name, name)
        if value is not None and given.setdefault(same, value) != value and same != "model":
            return None  # said twice, and otherwise: which of them its server takes is not known here
    greedy = is_zero(given.get("temperature")) or (family.startswith("native") and given.get("do_sample") is False)
    if not greedy and type(given.get("seed")) is not int:
        return None
    prompt = given.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        given["prompt"] = prompt[0]
    elif isinstance(prompt, list) and not all(isinstance(each, int) for each in prompt[:1]):
        return None  # several prompts
    if given.get("n", 1) != 1 or given.get("best_of", 1) != 1:
        return None
    if not isinstance(given.get("stream", False), bool):
        return None  # 1 or "true": which of the two forms its server takes it for is not known here
    stream = path == "/generate/stream" or given.get("stream") is True
    return Asked(family, stream, canonical(given, family, stream, greedy))


def canonical(given: Mapping[str, Any], family: str, stream: bool, greedy: bool) -> dict[str, Any]:
    """given: without nulls, by the names of SAME. Native answers return metadata: there it belongs to the question."""
    aside = ASIDE | (frozenset(SAMPLING) if greedy else frozenset())
    if not family.startswith("native"):
        aside |= {"metadata"}
    if not stream:
        aside |= {"stream_options"}
    found = {name: _number(value) for name, value in given.items() if name not in aside}
    if isinstance(found.get("stop"), str):
        found["stop"] = [found["stop"]]
    found = {name: value for name, value in found.items() if not _is_default(name, value)}
    return {"greedy": True, **found} if greedy else found


def key(asked: Asked, model: str, identity: str, scope: str) -> bytes:
    """32 bytes. identity: of what serves the model; scope: of who may see the answer. Raises RecursionError."""
    what = [VERSION, asked.family, asked.stream, model, identity, scope, asked.fields]
    text = json.dumps(what, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()


def is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0


def _is_default(name: str, value: Any) -> bool:
    """0 is not false: `logprobs: 0` asks for the chosen token's."""
    return name in DEFAULTS and type(value) is type(DEFAULTS[name]) and value == DEFAULTS[name]


def _number(value: Any) -> Any:
    """1.0 and 1 are the same, true and 1 are not."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    return value
