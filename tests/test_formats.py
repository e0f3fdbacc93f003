"""Versions of what is written: an old one is read or refused by name, a newer one refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastserve import formats
from fastserve.workload.synthesis import synthesise
from sim.replay import replay


def test_what_is_stamped_is_read() -> None:
    for kind in formats.VERSIONS:
        formats.check(kind, formats.stamp(kind), "it")
        formats.check_version(kind, formats.VERSIONS[kind], "it")
    formats.check("run", {"settings": {}}, "a file from before there were versions")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"format": "run/99"}, "x.json is a run of version 99, written by a newer fastserve; this one reads version 1"),
        ({"format": "run/0"}, "x.json is a run of version 0, and version 1 is read here: write it again"),
        ({"format": "bench/1"}, "x.json is 'bench/1', and what is read here is run/1"),
        ({"format": 1}, "x.json is 1, and what is read here is run/1"),
    ],
)
def test_what_is_not_read_is_named(document: dict[str, Any], words: str) -> None:
    with pytest.raises(formats.FormatError) as error:
        formats.check("run", document, "x.json")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("version", "words"),
    [(0, "record the run again with --flight-log"), (None, "does not say its version"), (2, "upgrade it")],
)
def test_flight_logs(version: object, words: str) -> None:
    with pytest.raises(formats.FormatError, match=words):
        formats.check_version("flight_log", version, "log.jsonl")


def test_documents_and_tables_say_what_they_are(tmp_path: Any) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    trace = synthesise(20, rate=1.0, lengths="", prompt="fixed:50", output="fixed:20", seed=0)
    replay(trace, "fcfs", processes=1).save(tmp_path)
    for name in ("run.json", "summary.json"):
        assert json.loads((tmp_path / name).read_text())["format"] == "run/1"
    assert pq.read_schema(tmp_path / "records.parquet").metadata[b"format"] == b"records/1"
