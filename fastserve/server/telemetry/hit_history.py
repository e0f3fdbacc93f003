"""HitHistory: what share of the prompts was found in the prefix cache, over the last minutes."""

from __future__ import annotations

import time
from collections import deque

SPAN = 5.0
"""Seconds of a point."""

POINTS = 60


class HitHistory:
    """Of requests that have begun, by when they ended. asked, found: prompt tokens since the start."""

    def __init__(self) -> None:
        self.asked = 0
        self.found = 0
        self.points: deque[list[int]] = deque(maxlen=POINTS)  # [number of the span, asked, found]

    def add(self, asked: int, found: int) -> None:
        self.asked += asked
        self.found += found
        now = int(time.monotonic() / SPAN)
        if not self.points or self.points[-1][0] != now:
            self.points.append([now, 0, 0])
        self.points[-1][1] += asked
        self.points[-1][2] += found

    @property
    def rate(self) -> float | None:
        """0 to 1; None before the first prompt."""
        return self.found / self.asked if self.asked else None

    def shown(self) -> list[tuple[float, int, int]]:
        """(seconds since the end of the span, asked, found), the oldest first."""
        now = time.monotonic()
        return [(round(now - (number + 1) * SPAN, 1), asked, found) for number, asked, found in self.points]
