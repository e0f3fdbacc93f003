"""The values of an axis: a list, a range, or text as "0.5:1.1:0.1" and "0.5,0.7,0.9"."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation, Overflow, localcontext
from typing import Any, Final

from fastserve.sched.keywords import literal

MOST_VALUES: Final = 1_000
"""Of one axis: more is a slip of a digit."""
MOST_RUNS: Final = 100_000
"""Of one sweep."""
LARGEST: Final = 10**18
HOW: Final = "several values are written START:STOP:STEP (both ends included) or 0.5,0.7,0.9"


def listed(name: str, text: str, read: Callable[[str], Any] = literal) -> list[Any] | None:
    """The values that a text gives, ranges in it spread out; None where it is one value. Text with "=" in it is one.

    read: makes a value of a part that is no range. Raises ValueError, which names what was asked.
    """
    if "=" in text or not ("," in text or is_range(text)):
        return None
    found: list[Any] = []
    for part in text.split(","):
        part = part.strip()
        if not part:
            raise ValueError(f"{name}={text}: there is an empty value in it; {HOW}")
        found += spread(name, part) if is_range(part) else [read(part)]
    return found


def is_range(text: str) -> bool:
    """Whether it is three numbers with colons between them."""
    parts = text.split(":")
    return len(parts) == 3 and all(_number(part) is not None for part in parts)


def spread(name: str, text: str) -> list[int | float]:
    """START:STOP:STEP in exact decimal steps, STOP included where a step meets it; whole numbers stay whole."""
    start, stop, step = [value for part in text.split(":") if (value := _number(part)) is not None]
    if step == 0:
        raise ValueError(f"{name}={text}: a step of 0 never comes to {stop}; {HOW}")
    with localcontext() as context:
        context.traps[Overflow] = context.traps[InvalidOperation] = False  # more than any bound, and so refused
        steps = (stop - start) / step
    if steps < 0:
        other = f"{stop}:{start}:{step}"
        raise ValueError(f"{name}={text}: no value, for steps of {step} never lead from {start} to {stop}; try {other}")
    if not steps < MOST_VALUES:
        asked = f"{int(steps) + 1:,}" if steps < 10**15 else "far more"
        raise ValueError(f"{name}={text}: that is {asked} values, and an axis has at most {MOST_VALUES:,}")
    many = int(steps) + 1
    whole = all(value == value.to_integral_value() for value in (start, step)) and "." not in text
    return [int(start + i * step) if whole else float(start + i * step) for i in range(many)]


def several(values: Any) -> list[Any]:
    """A list, of a tuple, range or array; of numpy's, Python's numbers."""
    convert = getattr(values, "tolist", None)
    return list(convert() if callable(convert) else values[: MOST_VALUES + 1])


def checked(name: str, values: list[Any]) -> list[Any]:
    """The values, distinct and few enough. Raises ValueError."""
    if not values:
        raise ValueError(f"{name}: no value is given; {HOW}")
    if len(values) > MOST_VALUES:
        raise ValueError(f"{name}: more than {MOST_VALUES:,} values are given, and an axis has no more")
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice is not None:
        raise ValueError(f"{name}: {twice!r} is given twice")
    return values


def is_several(value: object) -> bool:
    """Whether it is a list, tuple, range or array."""
    return isinstance(value, list | tuple | range) or callable(getattr(value, "tolist", None))


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value) < LARGEST else None
