"""History: the messages of one conversation, how a new turn joins them, and what is cut where they are too many."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastserve.server.api.errors import encoded

Messages = Sequence[Mapping[str, Any]]
INSTRUCTIONS = ("system", "developer")
"""Roles of messages that stand before all turns."""


class Bounds(NamedTuple):
    """Of one conversation. turns: each a message of the user and all until the next one. size: bytes as JSON."""

    turns: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """id: as the client calls it. cut: messages that were left out so far. Times: s since the epoch."""

    id: str
    messages: Messages = field(default=())
    cut: int = 0
    created: float
    updated: float

    @property
    def turns(self) -> int:
        return sum(message["role"] == "user" for message in self.messages)

    def to_json(self) -> bytes:
        """A line that sums it up, for lists, and its messages."""
        return encoded(self.summary()) + b"\n" + encoded(self.messages)

    @classmethod
    def from_json(cls, data: bytes) -> History:
        line, _, rest = data.partition(b"\n")
        head = json.loads(line)
        times = {name: head[name] for name in ("cut", "created", "updated")}
        return cls(id=head["session_id"], messages=json.loads(rest), **times)

    def summary(self) -> dict[str, Any]:
        about = {"session_id": self.id, "turns": self.turns, "messages": len(self.messages)}
        return about | {"cut": self.cut, "created": self.created, "updated": self.updated}


def joined(history: History | None, new: Messages) -> list[Mapping[str, Any]]:
    """What the model is asked: all so far and the new turn. Instructions of the turn replace those before.

    A turn with a message of the assistant is taken for the whole conversation, as clients send it that keep their own.
    """
    if history is None or any(message["role"] == "assistant" for message in new):
        return list(new)
    orders, turn = divided(new)
    earlier, turns = divided(history.messages)
    return [*(orders or earlier), *turns, *turn]


def divided(messages: Messages) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Instructions at the beginning, and the rest."""
    at = next((at for at, message in enumerate(messages) if message["role"] not in INSTRUCTIONS), len(messages))
    return list(messages[:at]), list(messages[at:])


def fitting(messages: Messages, bounds: Bounds) -> tuple[list[Mapping[str, Any]], int]:
    """(messages within the bounds, how many were left out): whole turns, the oldest first."""
    orders, rest = divided(messages)
    sizes = [len(encoded(message)) + 1 for message in rest]
    room = bounds.size - sum(len(encoded(message)) + 1 for message in orders)
    starts = [at for at, message in enumerate(rest) if message["role"] == "user"]
    size, turns, at = sum(sizes), len(starts), 0
    for begins in [*starts, len(rest)]:  # cut before the turn that begins there
        if begins == 0:
            continue
        if size <= room and turns <= bounds.turns:
            break
        turns -= rest[at]["role"] == "user"
        size -= sum(sizes[at:begins])
        at = begins
    if room < 0:  # the instructions alone are too much
        return [], len(messages)
    return [*orders, *rest[at:]], at
