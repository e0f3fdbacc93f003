"""What is said of a setting that is wrong: one wording each, for every list of settings."""

from __future__ import annotations

from collections.abc import Iterable


def check_names(owner: str, given: Iterable[str], valid: Iterable[str]) -> None:
    """Raises ValueError that lists the valid names for one that is none of them. owner: "policy las", "an engine"."""
    names = list(valid)
    for name in given:
        if name not in names:
            raise ValueError(f"{owner} has no setting {name!r}; it has {', '.join(names) or 'none'}")


def at_least(name: str, value: int | None, least: int) -> None:
    """Raises ValueError unless it is a whole number that is large enough; None stands for a default and passes."""
    if value is None:
        return
    if not isinstance(value, int):
        raise ValueError(f"{name}={value!r} must be a whole number")
    if value < least:
        raise ValueError(f"{name}={value} must be at least {least}")


def one_of(name: str, value: object, valid: Iterable[str]) -> None:
    """Raises ValueError that lists the valid values for one that is none of them."""
    if value not in list(valid):
        raise ValueError(f"{name}={value!r} is none of {', '.join(valid)}")
