"""Settings of a class are its constructor's keywords: which there are, KEY=VALUE as text, an object made of them.
Policies and routers share it; so do every command, file and environment variable that takes such settings.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from typing import Any, TypeVar

from fastserve.sched.checks import check_names

T = TypeVar("T")


def keywords(kind: type[object] | Callable[..., object]) -> dict[str, Any]:
    """The settings of a class: its constructor's keywords with their defaults, those of its bases included; of a
    function that makes one, the function's.
    """
    found: dict[str, Any] = {}
    if not isinstance(kind, type):
        try:
            shown = inspect.signature(kind).parameters.values()
        except (TypeError, ValueError):  # it shows none
            return found
        named = (one for one in shown if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD))
        return {one.name: _default(one) for one in named}
    for base in kind.__mro__:
        constructor = vars(base).get("__init__")
        if constructor is None or base is object:
            continue
        if inspect.isfunction(constructor):
            parameters = list(inspect.signature(constructor).parameters.values())[1:]
        else:  # compiled: only the class still knows
            parameters = list(inspect.signature(base).parameters.values())
        fields = getattr(base, "__dataclass_fields__", {}).values()
        made = {one.name: one.default_factory() for one in fields if one.default_factory is not MISSING}
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, made.get(parameter.name, _default(parameter)))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _default(parameter: inspect.Parameter) -> Any:
    return None if parameter.default is parameter.empty else parameter.default


def made(owner: str, kind: Callable[..., T], settings: Mapping[str, Any]) -> T:
    """A fresh one. owner: "policy las". Raises ValueError for an unknown setting or a refused value."""
    check_names(owner, settings, keywords(kind))
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{owner}: {error}") from error


def guarded(owner: str, make: Callable[[], T]) -> T:
    """What `make` makes, of a user's own module or constructor: anything that it raises becomes a ValueError."""
    try:
        return make()
    except (ValueError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{owner} cannot be imported and made: {type(error).__name__}: {error}") from error


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
