"""Parser for specs of arrivals, lengths and clients: `name`, `name:4`, `name:cv=4` or `name:3.0,1.6,1,1024`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from fastserve.workload.errors import TraceError

Known: TypeAlias = Mapping[str, Mapping[str, float | None]]
"""Name -> parameter -> default (None: must be given)."""

Listed: TypeAlias = Mapping[str, Mapping[str, float | tuple[float, ...] | None]]
"""The same where the default of a parameter may be several numbers, as those that are given for it then: rates=1/5."""


def parse(spec: str, known: Known) -> tuple[str, dict[str, float]]:
    """Name and parameters of `spec`.

    Parameters come by position or as key=value. TraceError says which names and parameters there are.
    """
    name, values = parse_lists(spec, known)
    return name, {key: value for key, (value,) in values.items()}


def parse_lists(spec: str, known: Listed) -> tuple[str, dict[str, tuple[float, ...]]]:
    """The same, each parameter as its numbers: of most it is one."""
    name, _, rest = spec.strip().partition(":")
    if name not in known:
        raise TraceError(f"unknown recipe {spec!r}; use one of {', '.join(_usage(n, known[n]) for n in known)}")
    keys = list(known[name])
    values: dict[str, tuple[float, ...]] = {}
    parts = [part.strip() for part in rest.split(",") if part.strip()]
    for position, part in enumerate(parts):
        key, equals, number = part.partition("=")
        if not equals:
            key, number = (keys[position] if position < len(keys) else ""), part
        if key not in keys or key in values:
            raise TraceError(f"cannot place {part!r} in {spec!r}; write {_usage(name, known[name])}")
        several = isinstance(known[name][key], tuple)
        try:
            values[key] = tuple([float(part) for part in (number.split("/") if several else [number])])
        except ValueError:
            what = "no numbers with / between them" if several else "not a number"
            raise TraceError(f"{number!r} in {spec!r} is {what}; write {_usage(name, known[name])}") from None
        if not all(abs(value) < float("inf") for value in values[key]):
            raise TraceError(f"{number!r} in {spec!r} is not {'a finite number' if not several else 'finite'}")
    for key, default in known[name].items():
        if key not in values:
            if default is None:
                raise TraceError(f"{spec!r} lacks {key}; write {_usage(name, known[name])}")
            values[key] = default if isinstance(default, tuple) else (default,)
    return name, values


def _usage(name: str, parameters: Mapping[str, float | tuple[float, ...] | None]) -> str:
    shown = []
    for key, default in parameters.items():
        numbers = default if isinstance(default, tuple) else (default,)
        told = "/".join([f"{value:g}" for value in numbers if value is not None])
        shown.append(f"{key}={told}" if told else key.upper())
    return f"{name}:{','.join(shown)}" if shown else name
