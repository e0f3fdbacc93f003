"""The table of scripts/bench_clients.py, on measurements made up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_table_ratios_floor_and_aims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from bench_clients_report import report

    def found(**rates: float) -> dict[str, object]:
        names = {"f": "ours, float32", "q": "llama.cpp Q8_0", "i": "ours, ONNX int8", "h": "ours, half weights"}
        measured = {names[name]: {"tok_s": rate, "cpu_ms": 1000 / rate} for name, rate in rates.items()}
        return {"bandwidth": 20e9, **measured}

    series = {
        "1 clients, 1": found(f=20, q=50, i=60, h=30),
        "1 clients, 2": found(f=22, q=50, i=70, h=33),
        "1 clients, 3": found(f=10, q=40, i=52, h=16),
        "32 clients, 1": found(f=100, q=50, i=100),
    }
    sizes = {"ours, float32": 500, "llama.cpp Q8_0": None, "ours, ONNX int8": 100, "ours, half weights": 250}
    facts = {name: {"step_bytes": None if mb is None else mb * 1_000_000} for name, mb in sizes.items()}
    text = report(facts, series)
    rows = {line.strip().partition("  ")[0]: line for line in text.splitlines()}
    assert "20.0 GB/s" in text and "medians of 3 rounds" in text
    assert "ours, float32" in rows and "llama.cpp Q8_0" in rows
    floor = next(line for line in text.splitlines() if line.startswith("  ours, float32"))
    assert floor.split()[-3:] == ["500", "40", "50%"]
    theirs = next(line for line in text.splitlines() if line.startswith("  llama.cpp Q8_0"))
    assert "50.0 (0.40)" in theirs and "50.0 (2.00)" in theirs, "float32 over it, within the rounds"
    assert "8 bits at 1 clients, ours over llama.cpp: 1.30 [1.20, 1.40] (at least 1.2: met)" in text
    assert "8 bits at 4 clients, ours over llama.cpp: not measured" in text
    assert "8 bits at 32 clients, ours over llama.cpp: 2.00 [2.00, 2.00] (at least 2.5: MISSED)" in text
    assert "half weights over float32 at 1 clients: 1.50 [1.50, 1.60]" in text


def test_nothing_measured_is_a_table_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from bench_clients_report import report

    assert report({}, {}).count("not measured") == 3
    assert "bench_clients_report" in sys.modules
