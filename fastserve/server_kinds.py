"""Which kind of server an address has, by asking what only one of them answers; whoever asks does the asking.

asking = which()
path = next(asking)
while True:
    path = asking.send(JSON of GET path, or None where there is no such route)    # StopIteration: its value is it
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, NamedTuple

OWNERS: Final = {"vllm": "vllm", "fastserve": "fastserve"}
"""`owned_by` of a model in /v1/models -> the kind of its server."""


class Found(NamedTuple):
    """kind: fastserve, vllm, llama-server, ollama, tgi, openai; empty for none that is known. cards: of /v1/models,
    where that was asked for. slots: requests that it serves at once, where it has said so.
    """

    kind: str
    cards: list[Any]
    slots: int | None = None


def which(*, ollama: bool = True) -> Generator[str, Any, Found]:
    """The paths to ask, in order. ollama: False where somebody has said that it is none."""
    props = yield "/props"
    if isinstance(props, dict) and "total_slots" in props:
        slots = props["total_slots"]
        return Found("llama-server", [], slots if type(slots) is int and slots > 0 else None)
    if ollama:
        version = yield "/api/version"
        if isinstance(version, dict) and "version" in version and (yield "/api/tags") is not None:
            return Found("ollama", [])
    listed = yield "/v1/models"
    cards = listed.get("data") if isinstance(listed, dict) else None
    owner = str(cards[0].get("owned_by")) if cards and isinstance(cards[0], dict) else ""
    if owner in OWNERS:
        return Found(OWNERS[owner], list(cards or ()))
    info = yield "/info"
    if isinstance(info, dict) and "max_total_tokens" in info:
        return Found("tgi", list(cards or ()))
    return Found("openai" if isinstance(cards, list) else "", list(cards or ()))
