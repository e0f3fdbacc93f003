"""Which kinds of servers have a route; what the others are asked instead is in translate.py."""

from __future__ import annotations

from typing import Final

from fastserve.gateway.upstream import Upstream
from fastserve.gateway.upstreams import Upstreams
from fastserve.server.api.errors import ApiError

OURS: Final = frozenset(("fastserve",))
TOKENIZING: Final = frozenset(("fastserve", "vllm"))

ONLY: Final[dict[str, frozenset[str]]] = {
    **dict.fromkeys(
        ("/generate", "/generate/stream", "/chat", "/v1/generate", "/v1/generate_nobatch", "/stream", "/jobs",
         "/send_text", "/model"), OURS,
    ),
    **dict.fromkeys(("/tokenize", "/detokenize"), TOKENIZING),
}  # fmt: skip
"""Path -> the kinds that have it; of any other path all."""


def has(upstream: Upstream, path: str) -> bool:
    kinds = ONLY.get(path)
    return kinds is None or upstream.kind in kinds


def lacking(upstreams: Upstreams, model: str, path: str) -> ApiError:
    """What is said where none of a model's upstreams has a route."""
    here = ", ".join(f"{each.name} ({each.kind or 'unknown'})" for each in upstreams.having(model)[:8])
    there = ", ".join(f"{each.name} ({', '.join(each.models[:4])})" for each in upstreams if has(each, path))
    return ApiError(
        501, f"no upstream with the model {model!r} has {path}: {here}; it is served by {there or 'none that is known'}"
    )
