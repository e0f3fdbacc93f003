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
    slots = [name for kind in type(found).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*getattr(found, "__dict__", {}).values(), *(getattr(found, name) for name in slots if hasattr(found, name))]
