"""What an object still refers to: for the memory of a router, and for views and jobs that it keeps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping


def parts(thing: object) -> Iterator[object]:
    """Everything that it refers to, through containers and the attributes of plain objects, each once."""
    seen: set[int] = set()
    stack = [thing]
    while stack:
        found = stack.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        stack.extend(_inside(found))


def entries(thing: object) -> int:
    """How many entries all its containers have together: what grows where nothing is ever forgotten."""
    return sum(len(found) for found in parts(thing) if isinstance(found, Collection) and not _plain(found))


def _plain(found: object) -> bool:
    return isinstance(found, str | bytes | range)


def _inside(found: object) -> Iterable[object]:
    if isinstance(found, Mapping):
        return [*found, *found.values()]
    if isinstance(found, type) or callable(found) or _plain(found):
        return ()
    if isinstance(found, Collection):
        return list(found)
    return list(attributes(found).values())


def attributes(found: object) -> dict[str, object]:
    """What it holds, by name: also in slots, and of a compiled class."""
    names = [
        name
        for kind in type(found).__mro__
        for listed in ("__slots__", "__mypyc_attrs__")
        for name in getattr(kind, listed, ())
        if name != "__dict__" and hasattr(found, name)
    ]
    return {name: getattr(found, name) for name in names} | getattr(found, "__dict__", {})
