"""What a value written as text means (`--set KEY=VALUE`), in every command."""

from __future__ import annotations

import ast
from typing import Any


def literal(text: str) -> Any:
    """yes, no, true and false (in any case) are booleans, a Python literal is its value, anything else stays text."""
    if text.lower() in ("true", "false", "yes", "no"):
        return text.lower() in ("true", "yes")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
