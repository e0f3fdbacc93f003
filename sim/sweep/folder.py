"""The folder of a sweep.

run.json         what was asked (axes, settings, the name of each run), and provenance
cases/*.json     one file a run, whole as soon as it is done; *.parquet its records, where they are kept
summaries.csv    one row per run
summary.json     all of it, written last: a folder that has one is complete
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastserve.atomic_files import atomically, check_writable
from fastserve.formats import FORMAT, FormatError, check, stamp
from sim.report.provenance import provenance
from sim.sweep.points import Failed, Row
from sim.sweep.store import Cases, write
from sim.sweep.work import Done

if TYPE_CHECKING:
    import pandas as pd

KIND = "sim_sweep"


class Workload(NamedTuple):
    """Whose requests they are. name: equal for equal ones. told: in words."""

    name: str
    told: str


NOBODYS = Workload("", "nobody knows what")
"""Of a result that is saved, and that no sweep goes on from."""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases = Cases(path)

    def begin(self, asked: dict[str, Any], workload: Workload, planned: Sequence[tuple[str, Row]]) -> None:
        """Says in run.json what is asked, before anything runs. asked: Found.about(). planned: name and run. Raises
        ValueError for a folder that holds something else, OutputError for one that cannot be written.
        """
        check_writable(self.path / "summary.json")
        before = self._before()
        if before is not None and before.name != workload.name:
            raise ValueError(
                f"{self.path} holds a sweep of other requests ({before.told}; this one is of {workload.told}): "
                f"name another folder, or delete that one"
            )
        (self.path / "summary.json").unlink(missing_ok=True)
        self.about(asked, workload, planned)

    def about(
        self, asked: dict[str, Any], workload: Workload = NOBODYS, planned: Sequence[tuple[str, Row]] = ()
    ) -> Path:
        """run.json. Raises OutputError."""
        rows = [[name, row.policy, row.label, row.router, row.at, row.seed] for name, row in planned]
        about = stamp(KIND) | {"workload": workload._asdict()} | asked | {"provenance": provenance(), "cases": rows}
        write(self.path / "run.json", about)
        return self.path / "run.json"

    def _before(self) -> Workload | None:
        """That of an earlier sweep. Raises ValueError for a folder of something else."""
        path = self.path / "run.json"
        if not path.exists():
            return None
        try:
            found = _read(path).get("workload")
            if not isinstance(found, dict) or {*found} != {*Workload._fields}:
                raise FormatError(f"{path} does not say of what workload it is")
            return Workload(**found)
        except ValueError as error:
            raise ValueError(f"{self.path} holds the files of something else ({error}): name another folder") from None

    def found(self, name: str, records: bool) -> Done | None:
        """What an earlier sweep computed. records: whether they are wanted with it."""
        entry = self.cases.found(name)
        if entry is None or "numbers" not in entry:
            return None
        kept = None
        if records:
            path = self.cases.path(name, "parquet")
            if not path.exists():
                return None
            import pandas as pd

            kept = {column: values.to_numpy() for column, values in pd.read_parquet(path).items()}
        return Done(entry["numbers"], entry.get("told", {}), kept)

    def keep(self, name: str, row: Row) -> None:
        """Raises OutputError."""
        if row.records is not None:
            import pandas as pd

            with atomically(self.cases.path(name, "parquet")) as draft:
                pd.DataFrame(dict(row.records)).to_parquet(draft)
        about = {"policy": row.policy, "label": row.label, "at": row.at, "seed": row.seed}
        self.cases.write(name, about | {"numbers": row.numbers, "told": row.told})

    def end(self, summaries: pd.DataFrame, document: dict[str, Any]) -> list[Path]:
        """summaries.csv and summary.json. Raises OutputError."""
        table, whole = self.path / "summaries.csv", self.path / "summary.json"
        with atomically(table) as draft:
            summaries.to_csv(draft, index=False)
        write(whole, document, indent=None)
        return [table, whole]


def read(path: Path) -> tuple[dict[str, Any], list[Row], list[Failed]]:
    """What run.json says, and the runs: of summary.json, or of a sweep that was not finished those that are there.

    Raises ValueError for a folder that holds no sweep.
    """
    if not (path / "run.json").exists():
        raise ValueError(f"{path} holds no sweep: there is no run.json in it")
    about = _read(path / "run.json")
    whole = path / "summary.json"
    if whole.exists():
        found = _read(whole)
        rows = [Row(**entry) for entry in found["rows"]]
        return about, rows, [Failed(**entry) for entry in found["failed"]]
    cases, rows = Cases(path), []
    for name, policy, label, router, at, seed in about["cases"]:
        entry = cases.found(name)
        if entry is not None:
            rows.append(Row(policy, label, router, at, seed, entry["numbers"], entry.get("told", {})))
    return about, rows, []


def _read(path: Path) -> dict[str, Any]:
    """Raises ValueError for a file of another kind or version, or none of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise FormatError(f"{path} is no JSON") from None
    if not isinstance(found, dict) or FORMAT not in found:
        raise FormatError(f"{path} does not say what it is")
    check(KIND, found, path)
    return found
