"""The folder of a Capacity.

run.json       what was asked, and provenance
cases/*.json   one file a search, and one a run of the curve, whole as soon as it is done
searches.csv   one row per search
runs.csv       one row per run
summary.json   the document, written last: a folder that has one is complete
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve.atomic_files import atomically, check_writable
from fastserve.formats import FORMAT, check, stamp
from sim.capacity.found import Findings, Found, Point
from sim.report.provenance import provenance
from sim.sweep.store import Cases, write

KIND = "capacity"


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases = Cases(path)

    def begin(self) -> None:
        """Raises ValueError for a folder that holds something else, OutputError for one that cannot be written."""
        check_writable(self.path / "summary.json")
        there = self.path / "run.json"
        if there.exists():
            try:
                found = json.loads(there.read_text(encoding="utf-8"))
                check(KIND, {FORMAT: str(found.get(FORMAT))}, there)
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{self.path} holds the files of something else ({error}): name another") from None
        (self.path / "summary.json").unlink(missing_ok=True)

    def search(self, name: str) -> Found | None:
        """What an earlier run found."""
        entry = self.cases.found(name)
        if entry is None or "tried" not in entry:
            return None
        return Found(**entry | {"tried": [Point(**point) for point in entry["tried"]]})

    def run(self, name: str) -> Point | None:
        entry = self.cases.found(name)
        return None if entry is None or "load" not in entry else Point(**entry)

    def keep(self, name: str, what: Found | Point) -> None:
        """Raises OutputError."""
        entry = what._asdict()
        if isinstance(what, Found):
            entry["tried"] = [point._asdict() for point in what.tried]
        self.cases.write(name, entry)

    def end(self, capacity: Findings) -> list[Path]:
        """Raises OutputError."""
        document = capacity.document()
        about = {"settings": document["settings"], "policies": document["policy_settings"], "provenance": provenance()}
        written = [self.path / name for name in ("run.json", "searches.csv", "runs.csv", "summary.json")]
        write(written[0], stamp(KIND) | about)
        _csv(written[1], document["searches"])
        _csv(written[2], document["runs"])
        write(written[3], document)
        return written


def _csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomically(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
