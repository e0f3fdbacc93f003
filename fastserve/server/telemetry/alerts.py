"""Alerts: thresholds from the settings. Each crossing is reported once, until the value is below again."""

from __future__ import annotations

from collections.abc import Mapping

Crossed = dict[str, tuple[float, float]]
"""Name -> (value, threshold)."""


class Alerts:
    def __init__(self, limits: Mapping[str, float]) -> None:
        self.limits = dict(limits)
        self.now: Crossed = {}

    def crossed(self, values: Mapping[str, float]) -> Crossed:
        """Compares values with their thresholds; returns the new alerts. A missing value keeps its state."""
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
