"""Findings: what was found for each policy and seed, and what comes of it over the seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from fastserve.formats import stamp
from fastserve.json_values import plain
from fastserve.metrics.intervals import paired_ratio

if TYPE_CHECKING:
    import pandas as pd


class Point(NamedTuple):
    """A run at one load. None where the run was cut short, or collapsed: it missed, and by how much is not known."""

    label: str
    seed: int
    load: float
    rate_rps: float
    slo_attainment: float | None
    goodput_rps: float | None
    saturated: bool
    cut_short: bool


class Found(NamedTuple):
    """The search of one policy on one seed. bound: "" for a load that was found; "at least" where the highest load that
    was tried meets the objective; "below" where the lowest one does not, and load is None.
    """

    label: str
    policy: str
    seed: int
    load: float | None
    bound: str
    tried: list[Point]
    settings: dict[str, Any]
    about: dict[str, Any]

    @property
    def at(self) -> Point | None:
        """The run at the load."""
        return next((point for point in self.tried if point.load == self.load), None)


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % interval. side: "at least" or "at most" where some seeds met the ends of the
    search; there is no interval then. mean: None where nothing can be said.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    side: str = ""


@dataclass(repr=False)
class Findings:
    """slo: the objectives, with the share that must meet them. sustained_rps: requests/s of load 1. labels: rows, in
    order. requests: of a seed. resampled, samples: what seeds are, see paired_ratio(). planned: searches that were
    asked for; fewer are in `found` after an interrupt.
    """

    slo: str
    attain: float
    sustained_rps: float
    labels: list[str]
    seeds: list[int]
    lowest: float
    highest: float
    tolerance: float
    requests: int
    resampled: str = ""
    samples: int | None = None
    reading: list[str] = field(default_factory=list)
    met_alone: float | None = None
    """share of the requests that meet their objectives on an empty machine; None where that was not asked"""
    planned: int = 0
    found: list[Found] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    """runs at loads that all policies and seeds have in common, for a curve"""

    @property
    def interrupted(self) -> bool:
        return len(self.found) < self.planned

    def of(self, label: str) -> list[Found]:
        """The searches of one row, by seed."""
        return sorted([one for one in self.found if one.label == label], key=lambda one: one.seed)

    def load(self, label: str) -> Estimate:
        """The largest load of one row. A seed whose lowest load fails counts with that load, as a bound."""
        mine = self.of(label)
        values = [self.lowest if one.load is None else one.load for one in mine]
        sides = {one.bound for one in mine} - {""}
        if not values or len(sides) > 1:
            return Estimate(None)
        ratio = paired_ratio(values, [1.0] * len(values), samples=self.samples)
        if sides:
            return Estimate(ratio.mean, side="at least" if "at least" in sides else "at most")
        return Estimate(*ratio)

    def rate(self, label: str) -> Estimate:
        """The same in requests/s."""
        of = self.load(label)
        values = [None if load is None else load * self.sustained_rps for load in (of.mean, of.low, of.high)]
        return Estimate(values[0], values[1], values[2], of.side)

    def ratio(self, label: str, base: str | None = None) -> Estimate:
        """Its largest load over that of another row (None: the first), paired by seed."""
        theirs = {one.seed: one for one in self.of(base or self.labels[0])}
        pairs = [(one, theirs[one.seed]) for one in self.of(label) if one.seed in theirs]
        up = {"at least": "at least", "below": "at most"}
        down = {"at least": "at most", "below": "at least"}
        sides = {up[one.bound] for one, _ in pairs if one.bound} | {down[two.bound] for _, two in pairs if two.bound}
        if not pairs or len(sides) > 1:
            return Estimate(None)
        loads = [[self.lowest if one.load is None else one.load for one in side] for side in zip(*pairs, strict=True)]
        ratio = paired_ratio(*loads, samples=self.samples)
        return Estimate(ratio.mean, side=sides.pop()) if sides else Estimate(*ratio)

    def rows(self) -> list[dict[str, Any]]:
        """One for each policy: its largest load, rate, and ratio to the first, with intervals; and its searches."""
        return [self._row(label) for label in self.labels if self.of(label)]

    def _row(self, label: str) -> dict[str, Any]:
        mine = self.of(label)
        row: dict[str, Any] = {"policy": mine[0].policy, "label": label, "seeds": len(mine)}
        for name, of in (("load", self.load(label)), ("rate_rps", self.rate(label)), ("ratio", self.ratio(label))):
            row |= {name: of.mean, f"{name}_low": of.low, f"{name}_high": of.high, f"{name}_side": of.side}
        there = [point for one in mine if (point := one.at) is not None]
        for name in ("slo_attainment", "goodput_rps"):
            values = [value for point in there if (value := getattr(point, name)) is not None]
            row[name] = sum(values) / len(values) if values else None
        row["saturated"] = sum(point.saturated for point in there)
        row["runs"] = sum(len(one.tried) for one in mine)
        row["cut_short"] = sum(point.cut_short for one in mine for point in one.tried)
        return row

    def by_policy(self) -> pd.DataFrame:
        """One row per policy, see rows()."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def summaries(self) -> pd.DataFrame:
        """One row per policy and seed: its largest load, and what its run there came to."""
        import pandas as pd

        return pd.DataFrame(self._searches())

    def _searches(self) -> list[dict[str, Any]]:
        found = []
        for one in (one for label in self.labels for one in self.of(label)):
            at = one.at
            load = self.lowest if one.load is None else one.load
            found.append(
                {
                    "policy": one.policy, "label": one.label, "seed": one.seed, "load": one.load,
                    "rate_rps": None if one.load is None else load * self.sustained_rps, "bound": one.bound,
                    "slo_attainment": at and at.slo_attainment, "goodput_rps": at and at.goodput_rps,
                    "saturated": None if at is None else at.saturated, "runs": len(one.tried),
                    "cut_short": sum(point.cut_short for point in one.tried),
                }
            )  # fmt: skip
        return found

    def runs(self) -> pd.DataFrame:
        """One row per run of the searches and of the curve, by policy, seed and load."""
        import pandas as pd

        return pd.DataFrame([point._asdict() for point in self._points()], columns=list(Point._fields))

    def runs_of(self, label: str, seed: int) -> list[Point]:
        """Of the search and of the curve, by load."""
        return [point for point in self._points() if (point.label, point.seed) == (label, seed)]

    def _points(self) -> list[Point]:
        tried = [point for one in self.found for point in one.tried]
        place = {label: number for number, label in enumerate(self.labels)}
        return sorted([*tried, *self.points], key=lambda point: (place[point.label], point.seed, point.load))

    def rises_again(self) -> dict[str, tuple[float, int]]:
        """Rows of which a run met the objective at a load above one that failed, beyond the tolerance: the highest such
        load, and its seed. The largest load is up to the first that fails.
        """
        found: dict[str, tuple[float, int]] = {}
        for one in self.found:
            runs = self.runs_of(one.label, one.seed)
            met = [point.load for point in runs if (point.slo_attainment or 0.0) >= self.attain]
            limit = (self.lowest if one.load is None else one.load) * (1 + 2 * self.tolerance)
            if one.bound != "at least" and met and max(met) > limit:
                found[one.label] = max(found.get(one.label, (0.0, 0)), (max(met), one.seed))
        return found

    def document(self) -> dict[str, Any]:
        """The --json document: {"settings", "policies", "searches", "runs"}, null for what is not known."""
        own: dict[str, Any] = dict(self.found[0].about) if self.found else {}
        for name in ("rate", "load", "seeds", "slo"):
            own.pop(name, None)
        names = ("slo", "attain", "sustained_rps", "lowest", "highest", "tolerance", "seeds", "requests", "met_alone")
        asked = {name: getattr(self, name) for name in names}
        policies = {label: mine[0].settings for label in self.labels if (mine := self.of(label))}
        return {
            **stamp("capacity"),
            "settings": plain(asked | own),
            "policy_settings": plain(policies),
            "policies": plain(self.rows()),
            "searches": plain(self._searches()),
            "runs": plain([point._asdict() for point in self._points()]),
            "reading": list(self.reading),
        }
