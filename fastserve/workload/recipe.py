"""Parser for specs of arrivals and lengths: `name`, `name:4`, `name:cv=4` or `name:3.0,1.6,1,1024`."""

from __future__ import annotations

from collections.abc import Mapping

from fastserve.workload.errors import TraceError


def parse(spec: str, known: Mapping[str, Mapping[str, float | None]]) -> tuple[str, dict[str, float]]:
    """Name and parameters of `spec`. `known` gives name -> parameter -> default (None: must be given).

    Parameters come by position or as key=value. TraceError says which names and parameters there are.
    """
    name, _, rest = spec.strip().partition(":")
    if name not in known:
        raise TraceError(f"unknown recipe {spec!r}; use one of {', '.join(_usage(n, known[n]) for n in known)}")
    keys = list(known[name])
    values: dict[str, float] = {}
    parts = [part.strip() for part in rest.split(",") if part.strip()]
    for position, part in enumerate(parts):
        key, equals, number = part.partition("=")
        if not equals:
            key, number = (keys[position] if position < len(keys) else ""), part
        if key not in keys or key in values:
            raise TraceError(f"cannot place {part!r} in {spec!r}; write {_usage(name, known[name])}")
        try:
            values[key] = float(number)
        except ValueError:
            raise TraceError(f"{number!r} in {spec!r} is not a number; write {_usage(name, known[name])}") from None
        if not abs(values[key]) < float("inf"):
            raise TraceError(f"{number!r} in {spec!r} is not a finite number")
    for key, default in known[name].items():
        if key not in values:
            if default is None:
                raise TraceError(f"{spec!r} lacks {key}; write {_usage(name, known[name])}")
            values[key] = default
    return name, values


def _usage(name: str, parameters: Mapping[str, float | None]) -> str:
    shown = [key.upper() if default is None else f"{key}={default:g}" for key, default in parameters.items()]
    return f"{name}:{','.join(shown)}" if shown else name
