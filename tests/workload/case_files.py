"""Reading the case files, for the tests of readers."""

from __future__ import annotations

from pathlib import Path

from fastserve.workload import Trace, read_trace

CASES = Path(__file__).parent / "cases"


def read(name: str, **options: object) -> Trace:
    return read_trace(CASES / name, **options)  # type: ignore[arg-type]


def told(trace: Trace) -> str:
    assert trace.reading is not None
    return "\n".join(trace.reading.lines())
