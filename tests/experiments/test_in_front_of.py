"""experiments.in_front_of at a scale of a few seconds, in front of our own server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server in front of which it stands")

from experiments import in_front_of
from experiments._lib import sweep as sweeping
from experiments._lib import upstream_server


def test_it_runs_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(in_front_of.SCALES["smoke"], slots=(1,), policies=(in_front_of.OWN, "srpt"), requests=8)
    monkeypatch.setitem(in_front_of.SCALES, "smoke", tiny)
    monkeypatch.setattr(sweeping, "RESULTS", tmp_path)
    try:
        outcome = sweeping.sweep("in_front_of", "smoke")
    finally:
        upstream_server.stop()
    assert [row.numbers["completed"] for row in outcome.rows] == [8, 8]
    assert [claim.ours is not None for claim in outcome.claims] == [True] * 3
    assert (outcome.folder / "in_front_of.pdf").exists()


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_server, "interpreter", lambda: None)
    with pytest.raises(RuntimeError, match=r"needs llama\.cpp.s server"):
        upstream_server.Server("llama.cpp", 2)
