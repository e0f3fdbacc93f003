"""Strict reading of JSON objects: unknown keys and numbers out of range are errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LARGEST = 1e30  # keeps every later product of floats finite
MOST_BYTES = 64 << 20
"""Of a JSON file: of a model's or a machine's sizes, or a table of times."""


def read_json(path: Path) -> Any:
    """Raises OSError, and ValueError for what is no JSON or too large to be any of ours: a file of weights, say."""
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"{path} is not a JSON file of sizes or times: it has more than {MOST_BYTES >> 20} MiB")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None


class Fields:
    """The keys of one JSON object, taken one by one; `close()` refuses keys that were not taken.

    `where` names the object in messages, e.g. "latency of my-gpu.json". All errors are ValueError.
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise ValueError(f"{where}: expected a JSON object with named keys, got {type(data).__name__}")
        self.where = where
        self._data: dict[str, object] = {str(key): value for key, value in data.items()}
        self._taken: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def names(self) -> list[str]:
        """All keys, in the order of the file."""
        return list(self._data)

    def take(self, key: str) -> object:
        """The raw value, None when the key is absent."""
        if key not in self._taken:
            self._taken.append(key)
        return self._data.get(key)

    def number(self, key: str, default: float | None = None) -> float:
        """A number >= 0; without a default the key is required."""
        value = self.take(key)
        if key not in self._data:
            if default is None:
                raise ValueError(f"{self.where}: '{key}' is missing; give it a number >= 0")
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{self.where}: '{key}' must be a number, got {value!r}")
        if not 0 <= value <= _LARGEST:  # also refuses NaN
            raise ValueError(f"{self.where}: '{key}' must be a number from 0 to {_LARGEST:g}, got {value!r}")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        value = self.number(key, default)
        if value <= 0:
            raise ValueError(f"{self.where}: '{key}' must be above 0, got {value!r}")
        return value

    def share(self, key: str) -> float:
        """Of a peak: above 0 and at most 1, which it is where the key is absent."""
        value = self.positive(key, 1.0)
        if value > 1:
            raise ValueError(f"{self.where}: '{key}' is a share of the peak, at most 1, got {value!r}")
        return value

    def integer(self, key: str, default: int | None = None, least: int = 0) -> int:
        """A whole number >= least; 56e9 counts as whole."""
        value = self.number(key, default)
        if value != int(value) or value < least:
            raise ValueError(f"{self.where}: '{key}' must be a whole number >= {least}, got {value!r}")
        return int(value)

    def optional_integer(self, key: str) -> int | None:
        """A whole number, or None for a null or an absent key."""
        return None if self.take(key) is None else self.integer(key)

    def text(self, key: str, default: str = "") -> str:
        value = self.take(key)
        if key not in self._data:
            return default
        if not isinstance(value, str):
            raise ValueError(f"{self.where}: '{key}' must be a string, got {value!r}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.take(key)
        if key not in self._data:
            return default
        if not isinstance(value, bool):
            raise ValueError(f"{self.where}: '{key}' must be true or false, got {value!r}")
        return value

    def part(self, key: str) -> Fields:
        """An object inside this one, an empty one when the key is absent."""
        value = self.take(key)
        return Fields(value if key in self._data else {}, f"{self.where}, {key}")

    def rows(self, key: str) -> list[Fields]:
        """A list of objects, [] when the key is absent."""
        value = self.take(key)
        if key not in self._data:
            return []
        if not isinstance(value, list):
            raise ValueError(f"{self.where}: '{key}' must be a list of objects, got {type(value).__name__}")
        return [Fields(row, f"{self.where}, {key}[{i}]") for i, row in enumerate(value)]

    def close(self) -> None:
        """Refuse keys that were never taken: a typo must not become a silent zero."""
        unknown = sorted(set(self._data) - set(self._taken))
        if unknown:
            raise ValueError(
                f"{self.where}: unknown key {', '.join(map(repr, unknown))}; valid keys: {', '.join(self._taken)}"
            )


def picoseconds(milliseconds: float) -> int:
    """The one place where a coefficient is quantised: milliseconds to whole picoseconds."""
    return round(milliseconds * 1e9)
