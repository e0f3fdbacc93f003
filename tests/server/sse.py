"""Reading server-sent events as clients do."""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Event(NamedTuple):
    name: str
    data: str


def events(text: str) -> list[Event]:
    """By the rules of the standard: `data:` lines of one event are joined by line breaks, comments are left out."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        name, data = "", []
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
        if data:
            found.append(Event(name, "\n".join(data)))
    return found


def every_data_line(text: str) -> list[Any]:
    """As the clients of the native routes read: each `data:` line is JSON."""
    return [json.loads(line.removeprefix("data:")) for line in text.splitlines() if line.startswith("data:")]


def chunks(text: str) -> list[Any]:
    """As OpenAI's clients read: JSON until [DONE], which must be there."""
    found = [event.data for event in events(text)]
    assert found[-1] == "[DONE]"
    return [json.loads(data) for data in found[:-1]]
