"""The lines of a log: JSON objects, of which the last may be incomplete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple


class LogError(ValueError):
    """The file is no such log, or damaged; the message says where."""


class Line(NamedTuple):
    number: int  # from 1
    data: dict[str, Any]


CUT: Final[dict[str, Any]] = {"event": "cut"}
"""The data of a last line that is incomplete: the writer was killed."""


def read(path: Path) -> Iterator[Line]:
    """The lines; an incomplete last one becomes CUT."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, 1):
            try:
                data = json.loads(text)
            except (ValueError, RecursionError):
                if text.endswith("\n"):
                    raise LogError(f"{path}, line {number} is not JSON") from None
                data = CUT
            if not isinstance(data, dict):
                raise LogError(f"{path}, line {number} is not a JSON object")
            yield Line(number, data)
