"""Values as JSON has them, for every document that is written or sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def plain(value: object) -> Any:
    """`value` as JSON types: NaN and infinities become None, sets sorted lists, what JSON does not know its text."""
    convert = getattr(value, "tolist", None)  # of numpy's scalars and arrays, without importing numpy
    if callable(convert):
        value = convert()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    return str(value)
