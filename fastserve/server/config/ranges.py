"""Ranges of the numbers in settings and requests."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from fastserve.sched.checks import LONGEST_S, MOST, SHORTEST_S


def _not_tiny(value: float) -> float:
    """Seconds that are more than 0 and less than the shortest time there is would count as 0."""
    if 0 < value < SHORTEST_S:
        raise ValueError(f"it must be 0 or at least a nanosecond ({SHORTEST_S:g})")
    return value


Count = Annotated[int, Field(ge=1, le=MOST)]
Tokens = Annotated[int, Field(ge=1, lt=1 << 31)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False), AfterValidator(_not_tiny)]
Positive = Annotated[float, Field(ge=SHORTEST_S, le=LONGEST_S, allow_inf_nan=False)]
"""Seconds, hours, KiB, MiB or GiB, and not 0."""
Share = Annotated[float, Field(gt=0, le=1)]
