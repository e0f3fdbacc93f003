"""Alerts: thresholds from the settings that are crossed now. Crossing one is told once, until it is over."""

from __future__ import annotations

from collections.abc import Mapping

Crossed = dict[str, tuple[float, float]]
"""Name -> (value, threshold)."""


class Alerts:
    def __init__(self, limits: Mapping[str, float]) -> None:
        self.limits = dict(limits)
        self.now: Crossed = {}

    def crossed(self, values: Mapping[str, float]) -> Crossed:
        """Looks at these values; returns the alerts that are new. A value that is not given keeps its state."""
        fresh: Crossed = {}
        for name in self.limits.keys() & values.keys():
            value, limit = values[name], self.limits[name]
            if value <= limit:
                self.now.pop(name, None)
                continue
            if name not in self.now:
                fresh[name] = value, limit
            self.now[name] = value, limit
        return fresh
