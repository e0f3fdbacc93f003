"""python scripts/draw_ab.py AB.json FOLDER: completion times of what fastserve ab --out wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fastserve.atomic_files import OutputError
from fastserve.formats import check
from sim.report.plot import draw
from sim.report.run import Run


def runs_of(document: dict[str, Any]) -> list[Run]:
    """The rounds as runs of the simulator's report, whose figures these are."""
    check("comparison", document, "the document")
    found = []
    for one in document["rounds"]:
        columns = {
            name: np.array(values, dtype=object if name == "finish" else float)
            for name, values in one["records"].items()
        }
        found.append(Run(one["policy"], one["label"], one["round"], {}, columns, one["summary"]))
    return found


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        for path in draw(runs_of(document), Path(sys.argv[2])):
            print(path)
    except (OSError, ValueError, KeyError, OutputError) as error:
        print(f"{sys.argv[1]} cannot be drawn: {error}; write it with fastserve ab --out", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
