"""Parts of a recipe for a whole workload: KEY=VALUE, where a value may be a recipe with commas of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

from fastserve.sched.checks import check_names


def pairs(
    text: str, names: list[str], inner: AbstractSet[str], others: Mapping[str, str] | None = None
) -> Iterable[tuple[str, str]]:
    """(key, value) of each part, the parts of a recipe put together again. Raises ValueError.

    names: the keys. inner: those within a recipe, such as cv in gamma:cv=4. others: other name -> key.
    """
    found: dict[str, str] = {}
    last = ""
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        key = (others or {}).get(key, key)
        if equals and key in names:
            if key in found:
                raise ValueError(f"{key} is given twice")
            found[key], last = value, key
        elif ":" in found.get(last, "") and (not equals or key in inner):
            found[last] += f",{part.strip()}"
        elif equals:
            check_names("a synthetic workload", [key], names)
        elif part.strip():
            raise ValueError(f"{part.strip()!r} is out of place; write KEY=VALUE with keys {', '.join(names)}")
    return found.items()


def number(text: str, kind: type[int] | type[float], key: str, what: str = "") -> int | float:
    """Raises ValueError."""
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{key}={text} is not {what or ('a whole number' if kind is int else 'a number')}") from None
