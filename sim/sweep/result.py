"""Sweep: what a sweep found, as tables, curves and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from fastserve.formats import stamp
from fastserve.json_values import plain
from sim.sweep import curves
from sim.sweep import points as of_points
from sim.sweep import table as of_tables
from sim.sweep.folder import KIND, Folder, read
from sim.sweep.found import JCT, Found

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from sim.report.columns import Show

MEASURES = ("mean_jct_s", "p99_jct_s", "mean_ttft_s", "p99_ttft_s", "goodput_rps")
"""What is drawn. goodput has values where requests have objectives."""


class Sweep(Found):
    """Policies over a grid, over seeds. Printing it shows the table."""

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

    def ratios(self, measure: str = JCT, base: str | None = None) -> pd.DataFrame:
        """One row per other label and point: the mean of `base` (the first label) over the label's, paired by seed,
        with its 95 % interval; none where one of the two collapsed, or truncated what the other completed.
        """
        import pandas as pd

        places = {of_points.key(at): at for at in self.places}
        found = []
        for (label, place), ratio in self.ratio_of(measure, self.base(base)).items():
            at = {name: places[place].get(name) for name in self.axes}
            mean, low, high = ratio or (None, None, None)
            found.append({"label": label} | at | {"ratio": mean, "low": low, "high": high})
        return pd.DataFrame(found)

    def crossings(self, measure: str = JCT, axis: str | None = None, base: str | None = None) -> pd.DataFrame:
        """Where one policy stops winning: a row for each place of the axis at which `base` (the first label) and
        another are level, with who is ahead below and above it, and a 95 % interval over seeds where every seed
        crosses there.
        """
        import pandas as pd

        found = self.crossed(measure, axis, base)
        names = ["base", "label", *(name for name in self.axes if name != (axis or self.axis)), "axis", "place"]
        frame = pd.DataFrame([{**one.at, **{k: v for k, v in one._asdict().items() if k != "at"}} for one in found])
        rest = ["low", "high", "below", "above", "seeds", "of"]
        return frame.reindex(columns=[*names, *rest])

    def table(self, show: Show = None) -> str:
        """A block per measure with a line per place and a column per policy, the ratios of the mean JCT to the first
        policy's, and where one stops winning. show: names of columns and groups, as --show takes them.
        """
        return of_tables.table(self, show)

    def _repr_html_(self) -> str:
        return of_tables.html(self)

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
        if folder is None:
            return curves.picture(self, measures, band)
        return curves.plot(self, Path(folder), measures, band)

    def report(self, path: str | Path, show: Show = None) -> Path:
        """Writes one HTML page: tables, curves with bands, and where one policy stops winning.

        show: as table() takes it. Raises ValueError where no run was finished, OutputError.
        """
        from sim.report.page.sweep import write_sweep

        return write_sweep(Path(path), self, drawn(self, show), show)

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
        return [there.about(self.about()), *there.end(self.summaries(), self.document())]

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
        return self.title


def drawn(sweep: Found, show: Show = None) -> Sequence[str]:
    """Measures to draw: those that show names and that any run has, in its order; else, and of all, the usual ones."""
    if show is None or "all" in (show.split(",") if isinstance(show, str) else show):
        return MEASURES
    names = of_tables.measures(sweep, show)
    return [name for name in names if any(row.numbers.get(name) is not None for row in sweep.rows)] or MEASURES
