"""What is said of a setting that is wrong: one wording each, for every list of settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any


def check_names(owner: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """Raises ValueError that lists the valid names for one that is none of them. owner: "policy las", "an engine"."""
    names = list(valid)
    for name in given:
        if name not in names:
            raise ValueError(unknown(f"{owner} has no setting", name, names))


def unknown(lacks: str, name: str, valid: Iterable[str], others: Iterable[str] = (), of: Iterable[str] = ()) -> str:
    """What is said of a name that is none. lacks: "policy las has no setting". others: names that are not listed.
    of: who has one of this name, so that it is no slip of the pen.
    """
    names, elsewhere = list(valid), ", ".join(of)
    hint = f"; {name} is of {elsewhere}" if elsewhere else nearest(name, [*names, *others])
    return f"{lacks} {name!r}; it has {', '.join(names) or 'none'}{hint}"


def nearest(name: str, names: Iterable[str]) -> str:
    """'; did you mean x?' or nothing."""
    from difflib import get_close_matches  # not before something is wrong

    near = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def renamed(given: Mapping[str, Any], others: Mapping[str, str]) -> dict[str, Any]:
    """Values by setting, whatever name they were given under. others: other name -> setting.

    Raises ValueError for a setting that is given twice.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        setting = others.get(name, name)
        if setting in found:
            raise ValueError(f"{setting} is given twice, the second time as {name}")
        found[setting] = value
    return found


MOST = 10**12
"""The largest whole number of a setting: more than any machine has of anything, and far from where sums overflow."""

LONGEST_S = 1e9
"""The longest time of a setting, 31 years: in nanoseconds it fits into 64 bits, and so does what is added to it."""

SHORTEST_S = 1e-9
"""The shortest that is not 0: times inside are whole nanoseconds."""


def at_least(name: str, value: int | None, least: int, most: int = MOST) -> None:
    """Raises ValueError unless it is a whole number in these bounds; None stands for a default and passes."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be a whole number")
    if value < least:
        raise ValueError(f"{name}={value} must be at least {least}")
    if value > most:
        raise ValueError(f"{name}={value} must be at most {most:,}")


def number(name: str, value: float, least: float) -> None:
    """Raises ValueError unless it is a finite number, and at least so much."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
        raise ValueError(f"{name}={value!r} must be a finite number, and at least {least:g}")


def one_of(name: str, value: object, valid: Iterable[str]) -> None:
    """Raises ValueError that lists the valid values for one that is none of them."""
    if value not in list(valid):
        raise ValueError(f"{name}={value!r} is none of {', '.join(valid)}")


def seconds(name: str, value: float | None) -> None:
    """Raises ValueError for what is no time; None stands for a default and passes."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise ValueError(f"{name}={value!r} must be a finite number of seconds, and not negative")
    if value > LONGEST_S:
        raise ValueError(f"{name}={value!r} must be at most {LONGEST_S:g} seconds, which is 31 years")
    if 0 < value < SHORTEST_S:
        raise ValueError(f"{name}={value!r} must be 0 or at least a nanosecond ({SHORTEST_S:g})")
