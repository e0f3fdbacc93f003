"""Parses KEY=VALUE arguments, in every command, file and environment variable."""

from __future__ import annotations

import ast
from typing import Any


def argument(text: str) -> tuple[str, Any]:
    """The key, its dashes made underscores, and the value. Raises ValueError for what is not KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"write it as KEY=VALUE, not {text!r}")
    return key.strip().replace("-", "_"), literal(value.strip())


def literal(text: str) -> Any:
    """yes, no, true and false (in any case) are booleans, a Python literal is its value, anything else stays text."""
    if text.lower() in ("true", "false", "yes", "no"):
        return text.lower() in ("true", "yes")
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
