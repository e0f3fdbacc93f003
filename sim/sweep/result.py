"""Sweep: what a sweep found, as tables, curves and files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from fastserve.formats import stamp
from fastserve.json_values import plain
from fastserve.metrics.intervals import Ratio, paired_ratio
from sim.sweep import crossings as crossing
from sim.sweep import points as of_points
from sim.sweep.folder import KIND, Folder, read
from sim.sweep.points import Failed, Point, Row

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from sim.report.columns import Show

JCT = "mean_jct_s"
MEASURES = ("mean_jct_s", "p99_jct_s", "mean_ttft_s", "p99_ttft_s", "goodput_rps")
"""What is drawn. goodput has values where requests have objectives."""


@dataclass
class Sweep:
    """Policies over a grid, over seeds. Printing it shows the table."""

    axes: dict[str, list[Any]]
    """name -> values, of settings and of policies' own knobs"""
    settings: dict[str, Any]
    """those that do not vary"""
    policies: dict[str, str]
    """label -> policy"""
    runs_planned: int = 0
    reading: list[str] = field(default_factory=list)
    """what was read of the trace's file as what"""
    rows: list[Row] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)
    """runs that could not be made, and why"""
    interrupted: bool = False
    computed: int = 0
    """runs that were made for this; the others were in the folder"""
    folder: Path | None = None

    @property
    def labels(self) -> list[str]:
        return list(self.policies)

    @property
    def axis(self) -> str | None:
        """What curves are drawn over; None where no axis has two numbers."""
        return found_axis(self, None)

    def summaries(self) -> pd.DataFrame:
        """One row per point and seed: policy, label, router where there is one, the axes (none where a knob is another
        policy's), seed, and every measure of the summary.
        """
        import pandas as pd

        routed = any(row.router for row in self.rows)
        found = []
        for row in self.rows:
            names: dict[str, Any] = {"policy": row.policy, "label": row.label}
            names |= {"router": row.router} if routed else {}
            names |= {name: row.at.get(name) for name in self.axes} | {"seed": row.seed}
            found.append(names | {name: value for name, value in row.numbers.items() if name not in names})
        return pd.DataFrame(found)

    def records(self) -> pd.DataFrame:
        """One row per job and run, with policy, label, the axes and seed in front; all times in seconds. Raises
        ValueError where they were not kept.
        """
        import pandas as pd

        kept = [row for row in self.rows if row.records is not None]
        if not kept:
            raise ValueError("no records were kept: give keep_records=True")
        frames = []
        for row in kept:
            assert row.records is not None
            names = {"policy": row.policy, "label": row.label} | {name: row.at.get(name) for name in self.axes}
            frames.append(pd.DataFrame(names | {"seed": row.seed} | dict(row.records)))
        return pd.concat(frames, ignore_index=True)

    def points(self, measure: str = JCT) -> pd.DataFrame:
        """One row per label and point: the mean over seeds, its 95 % interval (none below four seeds), how many seeds
        have a value, and status: ok, saturated, collapsed, or failed.
        """
        import pandas as pd

        found = []
        for point in self.curve(measure):
            mean, low, high = point.spread or (None, None, None)
            at = {name: point.at.get(name) for name in self.axes}
            about = {"mean": mean, "low": low, "high": high, "seeds": len(point.values), "status": point.status}
            found.append({"label": point.label} | at | about)
        return pd.DataFrame(found)

    def curve(self, measure: str) -> list[Point]:
        """The points, in the order of labels and axes. Raises ValueError for an unknown measure."""
        known = {name for row in self.rows for name in row.numbers}
        if self.rows and measure not in known:
            raise ValueError(f"no measure {measure!r}; there are {', '.join(sorted(known))}")
        order = {label: place for place, label in enumerate(self.policies)}
        found = of_points.points(self.rows, self.failed, measure, self.settings.get("samples"))
        return sorted(found, key=lambda point: (order[point.label], self._place(point.at)))

    def ratios(self, measure: str = JCT, base: str | None = None) -> pd.DataFrame:
        """One row per other label and point: the mean of `base` (the first label) over the label's, paired by seed,
        with its 95 % interval; none where one of the two collapsed, or truncated what the other completed.
        """
        import pandas as pd

        places = {of_points.key(at): at for at in self.places}
        found = []
        for (label, place), ratio in self.ratio_of(measure, self._base(base)).items():
            at = {name: places[place].get(name) for name in self.axes}
            mean, low, high = ratio or (None, None, None)
            found.append({"label": label} | at | {"ratio": mean, "low": low, "high": high})
        return pd.DataFrame(found)

    def ratio_of(self, measure: str, base: str) -> dict[tuple[str, Any], Ratio | None]:
        """The same by label and place."""
        found: dict[tuple[str, Any], Ratio | None] = {}
        samples = self.settings.get("samples")
        curve = self.curve(measure)
        mine = {of_points.key(point.at): point for point in curve if point.label == base}
        for point in curve:
            place = of_points.key(point.at)
            first = next((mine[wide] for wide in of_points.wider(place) if wide in mine), None)
            if point.label == base or first is None:
                continue
            both = [(one, two) for one, two in of_points.paired(first, point) if one > 0 and two > 0]
            ones, twos = [one for one, _ in both], [two for _, two in both]
            found[point.label, place] = paired_ratio(ones, twos, samples=samples) if both else None
        return found

    def crossings(self, measure: str = JCT, axis: str | None = None, base: str | None = None) -> pd.DataFrame:
        """Where one policy stops winning: a row for each place of the axis at which `base` (the first label) and
        another are level, with who is ahead below and above it, and a 95 % interval over seeds where every seed
        crosses there.
        """
        import pandas as pd

        found = self.crossed(measure, axis, base)
        names = ["base", "label", *(name for name in self.axes if name != found_axis(self, axis)), "axis", "place"]
        frame = pd.DataFrame([{**one.at, **{k: v for k, v in one._asdict().items() if k != "at"}} for one in found])
        rest = ["low", "high", "below", "above", "seeds", "of"]
        return frame.reindex(columns=[*names, *rest])

    def crossed(self, measure: str, axis: str | None = None, base: str | None = None) -> list[crossing.Crossing]:
        """The same as a list."""
        first, along = self._base(base), found_axis(self, axis)
        if along is None:
            return []
        return crossing.crossings(self.curve(measure), measure, along, first, self.settings.get("samples"))

    def _base(self, base: str | None) -> str:
        if base is not None and base not in self.policies:
            raise ValueError(f"no row has the label {base!r}; there are {', '.join(self.policies)}")
        return base or self.labels[0]

    @property
    def places(self) -> list[dict[str, Any]]:
        """All that any run or failure has, in the order of the axes."""
        every: list[Row | Failed] = [*self.rows, *self.failed]
        found = {of_points.key(row.at): row.at for row in every}
        return sorted(found.values(), key=self._place)

    def table(self, show: Show = None) -> str:
        """A block per measure with a line per place and a column per policy, the ratios of the mean JCT to the first
        policy's, and where one stops winning. show: names of columns and groups, as --show takes them.
        """
        from sim.sweep.table import table

        return table(self, show)

    def _repr_html_(self) -> str:
        from sim.sweep.table import html

        return html(self)

    @overload
    def plot(self, folder: None = None, measures: Sequence[str] = MEASURES, band: str = "seeds") -> Figure: ...

    @overload
    def plot(self, folder: str | Path, measures: Sequence[str] = MEASURES, band: str = "seeds") -> list[Path]: ...

    def plot(
        self, folder: str | Path | None = None, measures: Sequence[str] = MEASURES, band: str = "seeds"
    ) -> Figure | list[Path]:
        """Curves over the axis (load or rate if it is there): means over seeds, and bands from the smallest to the
        largest seed, or band="interval" for 95 % intervals. Other axes make panels.

        folder: writes `curves` with all measures and `curves-MEASURE` of each there, as PDF and PNG, and returns the
        paths; without one, returns a figure that a notebook shows. Measures without a value are left out: goodput is
        there where requests have objectives (slo="ttft=1s,tpot=0.1s"). Raises ValueError where nothing can be drawn.
        """
        from sim.sweep import curves

        if folder is None:
            return curves.picture(self, measures, band)
        return curves.plot(self, Path(folder), measures, band)

    def report(self, path: str | Path, show: Show = None) -> Path:
        """Writes one HTML page: tables, curves with bands, and where one policy stops winning.

        show: as table() takes it. Raises ValueError where no run was finished, OutputError.
        """
        from sim.report.page.sweep import write_sweep

        return write_sweep(Path(path), self, MEASURES, show)

    def about(self) -> dict[str, Any]:
        """What was asked."""
        return {
            "axes": plain(self.axes), "settings": plain(self.settings), "policies": self.policies,
            "runs_planned": self.runs_planned, "reading": list(self.reading),
        }  # fmt: skip

    def document(self) -> dict[str, Any]:
        """The --json document."""
        rows = [{name: value for name, value in row._asdict().items() if name != "records"} for row in self.rows]
        return {
            **stamp(KIND), **self.about(), "interrupted": self.interrupted, "rows": plain(rows),
            "failed": plain([one._asdict() for one in self.failed]),
            "crossings": plain([one._asdict() for one in self.crossed(JCT)] if self.rows else []),
        }  # fmt: skip

    def save(self, folder: str | Path) -> list[Path]:
        """summaries.csv and summary.json, with run.json beside them, for Sweep.read(). Raises OutputError."""
        there = Folder(Path(folder))
        return [there.about(self), *there.end(self)]

    @classmethod
    def read(cls, folder: str | Path) -> Sweep:
        """What is in a folder; of a sweep that was not finished, what is there. Raises ValueError."""
        about, rows, failed = read(Path(folder))
        return cls(
            about["axes"], about["settings"], about["policies"], about["runs_planned"], about["reading"], rows, failed,
            interrupted=len(rows) + len(failed) < about["runs_planned"], folder=Path(folder),
        )  # fmt: skip

    def __str__(self) -> str:
        """What was read as what, and the table."""
        return "".join([f"{line}\n" for line in self.reading]) + self.table()

    def __repr__(self) -> str:
        axes = "; ".join(list(in_words(self.axes)))
        done = len(self.rows)
        runs = f"{done:,} runs" if done == self.runs_planned else f"{done:,} of {self.runs_planned:,} runs"
        failed = f", {len(self.failed):,} failed" if self.failed else ""
        return f"Sweep({', '.join(self.labels)}; {axes or 'one point'}; {runs}{failed})"

    def _place(self, at: dict[str, Any]) -> tuple[int, ...]:
        """None of a policy without one of the axes comes before those with it."""
        return tuple(1 + self.axes[name].index(at[name]) if name in at else 0 for name in self.axes)


def in_words(axes: dict[str, list[Any]]) -> Iterator[str]:
    """ "load 0.5 to 1.1 (7)" of each axis."""
    for name, values in axes.items():
        few = len(values) < 5 or not all(isinstance(value, int | float) for value in values)
        span = ", ".join(map(str, values)) if few else f"{min(values)} to {max(values)} ({len(values)})"
        yield f"{name} {span}"


def found_axis(sweep: Sweep, axis: str | None) -> str | None:
    """The axis to look along: the one that is asked for, else load or rate, else the first that has two numbers; None
    where there is none. Raises ValueError for one that is not there.
    """
    if axis is not None:
        if axis not in sweep.axes:
            raise ValueError(f"no axis {axis!r}; there is {', '.join(sweep.axes) or 'none'}")
        return axis
    long = [
        name
        for name, values in sweep.axes.items()
        if sum(isinstance(value, int | float) and not isinstance(value, bool) for value in values) > 1
    ]
    return next((name for name in ("load", "rate") if name in long), long[0] if long else None)
